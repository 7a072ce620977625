"""The MIMIC-IV cohort: hospital admissions with an ICU stay as rows, four modalities, three tasks.

stays.py says who is included and when rows are, items.py which values are looked at, features.py
and unstructured.py how a row is kept honest: a record enters only where the latest of its times
lies before the row's minute. Everything is Ibis expressions over the tables that
data/tables/source.py (csv.gz or Parquet on DuckDB) or engines.py (BigQuery, Spark) opens.

Rows. Honest protocol: one at `prediction_hour` after the hospital admission for each patient still
there (task mortality), and one at discharge for each who left alive (readmission, ICU admission).
Paper protocol: one per patient, at the end of the admission, with all tasks.

Without a data root: a simulated cohort in MIMIC-IV's shape, so that the whole program runs out of
the box.
"""

import contextlib
import dataclasses
import logging
import pathlib

import numpy as np

from crl_jax.data import prepared, simulate
from crl_jax.data.cohort import AbsentError, Cohort, CohortError
from crl_jax.data.mimic import (features as mimic_features, files as mimic_files, images, stays,
                                structured, tables as mimic_tables, unstructured)
from crl_jax.data.tables import csv_files, names, parquet_files, repeats, source as tables
from crl_jax.data.text import encode

_LOG = logging.getLogger("crl_jax")
MODALITIES = ("structured", "image", "discharge", "radiology")
NOTES = ("discharge", "radiology")
BANNER = ("SIMULATED COHORT in MIMIC-IV's shape (same modalities, widths and availability). "
          "No patient was read: these numbers are not MIMIC-IV's.")


def _files(config):
  """What the cohort is read from: files of tables and notes, the BERT's; None where no files say
  what it will be."""
  if not config.data.root or config.data.engine == "bigquery":
    return None
  wanted = config.data.mimic.modalities
  places = mimic_files.locate(config.data.root)
  out = [path for table, paths in mimic_files.files(places).items() if table in needed(wanted)
         for path in paths]
  model = pathlib.Path(config.text.model)
  if config.text.model and model.is_dir():
    out += [path for path in sorted(model.iterdir()) if path.is_file()]
  return out


def _embeddings(config):
  """Where the embeddings of all listed X-rays lie, or would."""
  places = mimic_files.locate(config.data.root)
  listed = mimic_files.files(places).get(mimic_files.CXR_METADATA, ())
  if "image" not in config.data.mimic.modalities or "embeddings" not in places or not listed:
    return []
  table = tables.Table(dict(subject_id="int64", study_id="int64", dicom_id="string"))
  out = []
  for path in listed:
    if names.is_parquet(path):
      from pyarrow import parquet
      picked, _ = parquet_files.columns(path, table)
      with parquet.ParquetFile(path) as file:
        ids = file.read(list(picked.values()))
    else:
      picked = dict(zip(table.columns, table.columns))
      file = csv_files.Checked(path, config.data.encoding, table)
      ids = csv_files.reader(csv_files.batches([file], table, len(listed) > 1), table).read_all()
    out += zip(*(ids[column].to_pylist() for column in picked.values()))
  folder = places["embeddings"].folder
  return [images.path(folder, *image) for image in out]


RECIPE = prepared.Recipe(
    keys=("data.protocol", "data.encoding", "data.mimic", *(f"text.{key}" for key in (
        "window", "overlap", "max_windows", "pooling", "precision", "finetune",
        "finetune_windows"))),
    files=_files, many=_embeddings, code=("backbones/__init__.py", "backbones/bert.py"),
    other_code=("eicu", "mimic/simulate.py", "mimic/simulated", "mimic/verify.py"))


def build(config, for_prediction=False):
  """Returns the MIMIC-IV `Cohort` of `config.data.root` (or of BigQuery); without either the
  simulated cohort, with `info["banner"]`.

  Args:
    config: the whole tree; `data`, `text` and `platform` are read.
    for_prediction: new patients: outcomes may be unknown (their labels are NaN) and patients may
      still be in hospital.

  Raises:
    CohortError: see tables.open_files; also another version, duplicated or missing ids, or no row
      left.
    FileNotFoundError: no folder, no tables, or notes without a BERT to read them.
  """
  if not config.data.root and config.data.engine != "bigquery":
    cohort = simulate.build(config)
    return dataclasses.replace(cohort, info={**cohort.info, "banner": BANNER})
  c, protocol = config.data.mimic, config.data.protocol
  wanted = [m for m in MODALITIES if m in c.modalities]
  if set(wanted) != set(c.modalities) or "structured" not in wanted:
    raise CohortError(f"data.mimic.modalities is {tuple(c.modalities)}; it may hold "
                      f"{', '.join(MODALITIES)}, 'structured' among them.")
  with open_source(config, wanted) as (source, places):
    if any(note in wanted and note not in source.absent for note in NOTES):
      _require_bert(config, wanted)     # before hours of reading
    served, odd_ids = repeats.served(source, ("patients", "admissions", "icustays"))
    source = dataclasses.replace(source, tables=served)
    check_ids(source.tables)
    about = stays.admission_table(source.tables).to_pandas()
    people, steps = stays.select(about, c, for_prediction)
    last_year = mimic_tables.last_year(
        source.tables["patients"].anchor_year_group.name("g").as_table().distinct()
        .to_pandas()["g"])
    rows, more = stays.rows(people, c, protocol, last_year, for_prediction)
    steps += more
    if not len(rows):
      left = "; ".join(f"{s['step']}: {s['left']:,} left" for s in steps)
      raise CohortError(f"No row is left of the admissions ({left}). Check config.data.mimic and "
                        "the folder.")
    values, odd = structured.collect(source, people, rows)
    inputs, observed, features, facts = _structured(values)
    odd += source.odd
    line = source.put(mimic_features.timeline(people, rows))
    for m in wanted[1:]:
      inputs[m], observed[m], features[m], facts[m] = _other(
          m, source, places, line, rows, config)
      odd += facts[m].pop("odd_rows", [])
  odd = stays.odd(about, people) + [o for o in odd_ids + odd if o["count"]]
  info = dict(
      attrition=steps, odd_rows=odd,
      inputs=sorted(source.inputs, key=lambda i: (i["table"], i["file"])),
      absent_tables=[t for t in source.absent if t in needed(wanted)], protocol=protocol,
      version=_version(config, places, last_year),
      modality_facts=facts, notes=_notes(config, wanted, source.absent, last_year, for_prediction))
  return _assemble(people, rows, wanted, inputs, observed, features, info)


@contextlib.contextmanager
def open_source(config, modalities):
  """Yields (tables.Source, places): the tables that the `modalities` need, on config.data.engine,
  and where the files lie (files.locate; empty for BigQuery without a data root)."""
  c, schema = config.data, needed(modalities)
  with contextlib.ExitStack() as stack:
    places = mimic_files.locate(c.root) if c.root else {}
    files = {t: p for t, p in mimic_files.files(places).items() if t in schema}
    if c.root:
      if "embeddings" not in places:    # without them the list of X-rays is of no use
        files.pop(mimic_files.CXR_METADATA, None)
      absent = [t for t in schema if schema[t].required and t not in files]
      if absent:
        place, seen = places["tables"], mimic_files.told(c.root, places, absent)
        mine = f", if the others are of version {place.project.versions[0]}" * (not place.version)
        fetch = (f"To fetch what is missing{mine}:\n  "
                 + mimic_files.command("tables", c.root, "", place))
        raise CohortError(
            f"data.root='{c.root}' lacks the required {', '.join(t + '.csv.gz' for t in absent)}. "
            + " ".join(seen or [fetch]))
      for text in mimic_files.told(c.root, places, schema):
        _LOG.warning("%s", text)
      mimic_tables.require_known(mimic_tables.header(files["admissions"][0]),
                                 places["tables"].version)
    if c.engine == "duckdb":
      source = tables.open_files(files, schema, c.encoding, c.memory_limit, c.spill)
    else:
      from crl_jax.data.mimic import engines
      source = engines.open_source(config, files, schema)
    yield stack.enter_context(source), places


def needed(modalities):
  """The part of tables.SCHEMA that the modalities are made of."""
  mine = {"discharge": "discharge", "radiology": "radiology", mimic_files.CXR_METADATA: "image"}
  return {t: table for t, table in mimic_tables.SCHEMA.items()
          if mine.get(t, "structured") in modalities}


def check_ids(t):
  """Raises CohortError where patients, admissions or ICU stays lack an id or hold one twice."""
  for name, key, others in (("patients", "subject_id", ()),
                            ("admissions", "hadm_id", ("subject_id",)),
                            ("icustays", "stay_id", ("hadm_id", "subject_id"))):
    table = t[name]
    blank = table[key].isnull()
    for other in others:
      blank = blank | table[other].isnull()
    n, ids, blanks = (int(x) for x in table.aggregate(
        n=table.count(), ids=table[key].nunique(),
        blanks=blank.cast("int64").sum().fill_null(0)).to_pandas().iloc[0])
    if blanks:
      raise CohortError(f"Table {name} has {blanks:,} rows without {' or '.join((key, *others))}. "
                        "Complete or remove them.")
    if ids < n:
      raise CohortError(f"Table {name} holds {n - ids:,} rows whose {key} is there already, with "
                        "other content. Keep one row per id; was a file joined, or are two "
                        "versions in it?")
  a, p = t["admissions"], t["patients"]
  strangers = int(a.anti_join(p, "subject_id").count().to_pandas())
  if strangers:
    raise CohortError(f"{strangers:,} rows of admissions belong to no subject_id of patients: the "
                      "files are of different downloads. Take both from one version.")


def _require_bert(config, wanted):
  """encode.require_model(), whose FileNotFoundError tells of the way without notes too."""
  try:
    encode.require_model(config)
  except FileNotFoundError as error:
    rest = tuple(m for m in wanted if m not in NOTES)
    raise AbsentError(f"{error}\nOr leave the notes out: "
                      f'--config.data.mimic.modalities="{rest}"') from None


def _version(config, places, last_year):
  """Of MIMIC-IV: the folder's or data sets' own word for it, else what the years tell."""
  named = (config.data.mimic.bigquery_version if config.data.engine == "bigquery"
           else places["tables"].version)
  if named and (named == "2.2") != (last_year == 2019):
    return f"{named} by its name, though its years end in {last_year}"
  return named or ("2.2" if last_year == 2019 else "3.0 or 3.1")


def _structured(values):
  x = np.stack(list(values.values()), 1).astype(np.float32)
  present = ~np.isnan(x).all(1)
  x[~present] = 0
  return {"structured": x}, {"structured": present}, {"structured": tuple(values)}, {}


def _other(modality, source, places, line, rows, config):
  """(inputs, observed, names, facts) of a modality that is not structured; one whose source is
  absent is unobserved in all rows."""
  n = len(rows)
  if modality == "image":
    names = tuple(f"embedding_{i}" for i in range(images.WIDTH))
    if mimic_files.CXR_METADATA not in source.absent and "embeddings" in places:
      x, present, facts = unstructured.collect_images(
          source, places["embeddings"], line, rows, config)
      return x, present, names, facts
    several = () if config.data.mimic.image_pooling == "mean" else (config.data.mimic.max_images,)
    x = np.zeros((n, *several, images.WIDTH), np.float32)
    return x, np.zeros(n, bool), names, {"absent": True}
  if modality not in source.absent:
    x, present, facts = unstructured.collect_notes(modality, source, line, rows, config)
    return x, present, encode.names(config), facts
  if not config.text.model:             # no notes and nothing to read them: a place without content
    return np.zeros((n, 1), np.float32), np.zeros(n, bool), ("absent",), {"absent": True}
  names = encode.names(config)
  x = (np.zeros((n, config.text.finetune_windows, len(names)), np.int32) if config.text.finetune
       else np.zeros((n, len(names)), np.float32))
  return x, np.zeros(n, bool), names, {"absent": True}


def _notes(config, wanted, absent, last_year, for_prediction):
  """What a reader of the results has to know, in sentences."""
  c = config.data.mimic
  rows = {"honest": f"mortality at {c.prediction_hour:g} h after hospital admission, readmission "
                    "and ICU admission at hospital discharge, all from what was recorded before",
          "paper": "one per patient, with all information up to the end of the admission, the "
                   "discharge summary included (the paper's protocol: the summary states how the "
                   "stay ended, which no one knows when a prediction is wanted)"}
  notes = [f"Rows: {rows[config.data.protocol]}.",
           "Readmission: any hospital admission within 30 days of discharge. ICU admission: an ICU "
           "stay of another admission within 90 days. Undefined for in-hospital deaths, and where "
           f"the days after discharge may reach past the end of the data ({last_year})."]
  if c.icu_stay == "single":
    notes.append("Only admissions with a single ICU stay: whether a second follows is known only "
                 "afterwards (data.mimic.icu_stay='first' includes those).")
  lost = {"image": "X-rays or their embeddings", "discharge": "discharge summaries",
          "radiology": "radiology reports"}
  gone = {"image": mimic_files.CXR_METADATA, "discharge": "discharge", "radiology": "radiology"}
  notes += [f"No {lost[m]} in the data: modality '{m}' is unobserved in all rows."
            for m in wanted[1:] if gone[m] in absent]
  notes += [f"Modality '{m}' was left out (data.mimic.modalities)."
            for m in MODALITIES if m not in wanted]
  if "pharmacy" in absent and "prescriptions" not in absent:
    notes.append("No table pharmacy: an order counts from its start, though some were entered only "
                 "later.")
  empty = [t for t in absent if t not in (*gone.values(), "pharmacy") and t in mimic_tables.SCHEMA]
  if empty:
    notes.append(f"Absent tables, whose features are missing in all rows: {', '.join(empty)}.")
  if for_prediction:
    notes.append("New patients: rows with unknown outcomes are kept, their labels are undefined.")
  return notes


def _assemble(people, rows, wanted, inputs, observed, features, info):
  p = people.loc[rows["person"]].reset_index(drop=True)
  bands = np.array(["18-44", "45-64", "65-79", "80 and over"])
  word = lambda column: p[column].fillna("").astype(str).str.strip().replace(
      "", "unknown").to_numpy(str)
  kind = rows["kind"].to_numpy()
  groups = dict(
      sex=p["gender"].map({"F": "Female", "M": "Male"}).fillna("unknown").to_numpy(str),
      age_band=bands[np.digitize(p["age"].to_numpy(np.float64), (45, 65, 80))],
      ethnicity=_ethnicity(p["race"]), insurance=word("insurance"), unit=word("unit"),
      time=np.array([stays.KINDS[k] for k in kind]))
  labels = np.stack([rows[t].to_numpy(np.float32) for t in stays.TASKS], 1)
  sets = {"image": "set"} if "image" in wanted and inputs["image"].ndim == 3 else {}
  return Cohort(
      modalities=tuple(wanted), tasks=stays.TASKS, inputs={m: inputs[m] for m in wanted},
      observed=np.stack([observed[m] for m in wanted], 1), labels=labels,
      row_id=rows["row_id"].to_numpy(np.int64),
      patient_id=p["subject_id"].to_numpy(np.int64), groups=groups,
      features={m: features[m] for m in wanted}, info=info, kinds=sets)


def _ethnicity(race):
  """The groups of admissions.race that results are reported by."""
  text_ = race.fillna("").astype(str).str.upper()
  out = np.full(len(text_), "other or unknown", dtype="<U16")
  for name, pattern in (("White", "^WHITE"), ("Black", "^BLACK"), ("Asian", "^ASIAN"),
                        ("Hispanic", "HISPANIC|SOUTH AMERICAN")):
    out[text_.str.contains(pattern).to_numpy(bool)] = name
  return out
