"""Nothing recorded at or after a row's minute enters it: `observed`, features, notes, images.

One hospital is built several times: as it was, with more records of the future and of the past, and
with each of the times of its records moved. Each source is then looked at on its own.
"""

import functools

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import cohort as cohort_lib, mimic
from crl_jax.data.mimic import (features as mimic_features, files as mimic_files, images,
                                items as mimic_items, tfrecord,
                                unstructured as mimic_unstructured)
from crl_jax.data.tables import source as tables
from tests.data.mimic import mimic_hospital as made

PATIENTS = (11, 12, 13)
ROW, LEAVE = 48, 100      # hours of the mortality row and of the discharge row

# source -> the features that it alone feeds; None: a modality of its own
SOURCES = {
    "labevents": "glucose_", "chartevents": "heart_rate_", "inputevents": "saline_",
    "outputevents": "urine_", "procedureevents": "procedure_", "prescriptions": "order",
    "emar": ("given_", "administrations"),
    "microbiologyevents": ("samples_", "organism", "resistant"), "services": "service",
    "transfers": ("transfers", "unit_"), "radiology": None, mimic_files.CXR_METADATA: None}

# source -> its times (those of another table with its name); a record is known from the latest
TIMES = {
    **dict.fromkeys(("labevents", "chartevents", "outputevents", "emar", "radiology"),
                    ("charttime", "storetime")),
    "inputevents": ("starttime", "endtime", "storetime"),
    "procedureevents": ("starttime", "storetime"),
    "prescriptions": ("starttime", "pharmacy.entertime"),
    "microbiologyevents": ("chartdate charttime", "storedate storetime"),
    "services": ("transfertime",), "transfers": ("intime",),
    mimic_files.CXR_METADATA: ("StudyDate StudyTime",)}


def hospital(*more, records=made.records):
  """The tables: records at hours 10 and 60 of each patient, and `more` as (subject, hour, ...)."""
  usual = [(s, hour) for s in PATIENTS for hour in (10, 60)]
  return made.tables(made.stays(PATIENTS), *(made.earlier(s) for s in PATIENTS),
                     *(records(*args) for args in (*usual, *more)))


@pytest.fixture(scope="module")
def build(make_bert, tmp_path_factory):
  """build(tables, overrides) -> cohort, with a tiny BERT and an embedding of every image listed."""
  folder = tmp_path_factory.mktemp("leaks")
  bert = make_bert(folder / "bert")

  def once(content, *overrides):
    root = made.save(tmp_path_factory.mktemp("hospital"), content)
    for x in content[mimic_files.CXR_METADATA]:
      rng = np.random.default_rng([x["subject_id"], x["study_id"]])
      tfrecord.write(images.path(root, x["subject_id"], x["study_id"], x["dicom_id"]),
                     rng.normal(size=images.WIDTH))
    c = made.make_config(root, f"text.model={bert}", f"text.cache={folder / 'cache'}",
                         "text.window=32", "text.overlap=4", *overrides)
    return cohort_lib.validate(mimic.build(c))
  return once


@pytest.fixture(scope="module")
def before(build):
  return build(hospital())


def part(cohort, source):
  """kind of row -> what `source` feeds of those rows: (n, ...), with NaN as a value."""
  kind = cohort.row_id % 10
  if source in ("radiology", mimic_files.CXR_METADATA):
    name = "radiology" if source == "radiology" else "image"
    x = cohort.inputs[name].reshape(len(cohort), -1)
    seen = cohort.observed[:, cohort.modalities.index(name)]
    x = np.concatenate([np.nan_to_num(x, nan=-9), seen[:, None]], 1)
  else:
    mine = [i for i, f in enumerate(cohort.features["structured"])
            if f.startswith(SOURCES[source])]
    assert mine
    x = np.nan_to_num(cohort.inputs["structured"][:, mine], nan=-9)
  return {k: x[kind == k] for k in np.unique(kind)}


def test_the_hospital_is_seen(before):
  assert sorted(before.row_id) == [1100, 1101, 1200, 1201, 1300, 1301]
  assert before.observed.tolist() == [[True, True, False, True], [True, True, True, True]] * 3
  for source in SOURCES:
    early, late = part(before, source).values()
    assert (early != late).any(), f"the record at hour 60 changes nothing: {source}"


@pytest.fixture(scope="module")
def after(build):
  """after(*hours): with records at these hours too."""
  return functools.cache(lambda *hours: build(hospital(
      *((s, hour, 95.0, " late") for s in PATIENTS for hour in hours))))


@pytest.mark.parametrize("source", SOURCES)
def test_records_added_later_change_nothing(source, before, after):
  was, now = part(before, source), part(after(ROW, ROW + 1), source)
  np.testing.assert_array_equal(was[0], now[0])
  assert (was[1] != now[1]).any(), "what was known at discharge must reach the discharge row"
  gone = part(after(LEAVE, LEAVE + 20), source)
  for row in was:
    np.testing.assert_array_equal(was[row], gone[row])


@pytest.fixture(scope="module")
def moved(build):
  """moved(i): of each source's times the i-th alone moved: of hour 60 to the minute of the
  discharge, of hour 10 behind the mortality row."""

  def records(i, subject, hour):
    usual, late = (made.records(subject, h) for h in (hour, {10: 70, 60: LEAVE}[hour]))
    for source, times in TIMES.items():
      for column in times[i].split() if i < len(times) else ():
        table, _, column = column.rpartition(".")
        usual[table or source][column] = late[table or source][column]
    return usual
  return functools.cache(lambda i: build(hospital(records=functools.partial(records, i))))


def left_out(cohort):
  """table -> (records before, after the first row, after the last): counts of those not used."""
  rules = ("more than 24 h before the admission: not used",
           "known only after the patient's first row: not in it",
           "known only after the patient's last row: not used")
  found = {(o["table"], o["rule"]): o["count"] for o in cohort.info["odd_rows"]}
  return {source: tuple(found.get((source, rule), 0) for rule in rules) for source in SOURCES}


def test_records_that_a_row_does_not_use_are_counted(before, after):
  usual = len(PATIENTS)                                       # the records of hour 60
  assert left_out(before) == dict.fromkeys(SOURCES, (0, usual, 0))
  more = after(-60, -25, ROW, LEAVE, LEAVE + 20, 20 * 365 * 24)
  assert left_out(more) == dict.fromkeys(SOURCES, (2 * usual, 2 * usual, 3 * usual))


def test_a_record_without_a_time_is_counted(build):
  content = hospital()
  content["labevents"][0].update(charttime="")
  found = build(content, "data.mimic.modalities=('structured',)").info["odd_rows"]
  assert {"table": "labevents", "rule": "no time: not used", "count": 1} in found


@pytest.mark.parametrize("source, i", [(s, i) for s in SOURCES for i in range(len(TIMES[s]))])
def test_records_known_only_later_leave_the_row(source, i, before, moved):
  was, now = part(before, source), part(moved(i), source)
  assert (was[0] != now[0]).any(1).all(), f"known only after the row by its {TIMES[source][i]}"
  if SOURCES[source] is None:
    assert (now[0][:, -1] == 0).all(), "`observed` too"
    assert (now[1][:, -1] == 1).all()


def test_the_times_of_x_rays_equal_those_of_pandas(tmp_path):
  days = pd.date_range("2099-12-01", "2208-04-01", freq="D")     # 2100 and 2200 have no leap day
  seconds = np.random.default_rng(0).integers(0, 86400, len(days))
  taken = days + pd.to_timedelta(seconds, "s")
  admit = pd.Timestamp("2150-02-28 23:59:00")
  people = pd.DataFrame({"person": [0], "subject_id": [7], "t1": [0], "t2": [10**9],
                         "admit": [int(admit.timestamp()) // 60]})
  x_rays = pd.DataFrame({
      "subject_id": 7, "study_id": np.arange(len(days)), "dicom_id": "d",
      "StudyDate": taken.strftime("%Y%m%d").astype("int64"),
      "StudyTime": taken.strftime("%H%M%S").astype("float64") + 0.5})
  with tables.open_files({}, {}) as source:
    found = mimic_unstructured.images_query(source.put(x_rays), source.put(people))
    found = mimic_features.used(found).to_pandas()
  known = pd.Series((taken.floor("min") - admit) // pd.Timedelta("1min"))
  known = known[known >= -mimic_items.LOOKBACK]
  found = found.set_index("study_id")["known"].sort_index()
  assert len(known) > 20_000 and found.index.tolist() == known.index.tolist()
  np.testing.assert_array_equal(found, known)


@pytest.fixture(scope="module")
def ends(build):
  """Only what a row may not know was changed: how the ICU stay, the admission and life end,
  codes of the admission itself and of a later one."""
  content = hospital()
  for x in content["admissions"]:
    if x["hadm_id"] % 10 == 0:
      x.update(discharge_location="DIED", dischtime=made.at(300), deathtime=made.at(299),
               hospital_expire_flag=1)
  for x in content["icustays"]:
    x.update(outtime=made.at(200), last_careunit="y", los=9)
  for s in PATIENTS:
    for hadm in (10 * s, 10 * s + 5):
      content["diagnoses_icd"].append({"hadm_id": hadm, "icd_code": "4100", "icd_version": 9})
      content["procedures_icd"].append({"hadm_id": hadm, "icd_code": "9604"})
    content["admissions"].append(made.admission(s, 10 * s + 5, 400, 500))
    content["icustays"].append(made.icu_stay(s, 10 * s + 5, 100 * s + 5, 410, 420))
    content["omr"].append({"subject_id": s, "chartdate": made.at(30)[:10],
                           "result_name": "Weight (Lbs)", "result_value": "300"})
  return build(content)


def test_the_end_of_the_admission_does_not_reach_the_mortality_row(before, ends):
  was, now = before.row_id % 10 == 0, ends.row_id % 10 == 0
  for m in before.modalities:
    np.testing.assert_array_equal(before.inputs[m][was], ends.inputs[m][now])
  np.testing.assert_array_equal(before.observed[was], ends.observed[now])
  assert before.labels[was, 2].tolist() == [0] * 3 and ends.labels[now, 2].tolist() == [1] * 3


def test_the_discharge_summary_enters_discharge_rows_only(build, before):
  d = before.modalities.index("discharge")
  assert before.observed[:, d].tolist() == [False, True] * 3
  assert not before.inputs["discharge"][::2].any() and before.inputs["discharge"][1::2].any(1).all()
  content = hospital()
  for x in content["discharge"]:
    x.update(text="___\n ___ ", charttime=made.at(1)[:10])     # no content: no observation
  for s in PATIENTS:          # other admissions' summaries are not this one's
    content["admissions"].append(made.admission(s, 10 * s + 5, 400, 500))
    content["discharge"] += [{"note_id": f"{s}-DS-{h}", "subject_id": s, "hadm_id": 10 * s + h,
                              "text": "Went home, well."} for h in (1, 5)]
  other = build(content)
  assert not other.observed[:, d].any()
  assert other.info["modality_facts"]["discharge"]["without content"] == 3


def test_token_ids_are_of_the_notes_that_a_row_knows(build, before):
  tokens = ("text.finetune=True", "text.finetune_windows=4")
  was = build(hospital(), *tokens)
  now = build(hospital(*((s, ROW, 95.0, " late") for s in PATIENTS)), *tokens)
  np.testing.assert_array_equal(was.observed, before.observed)
  for name in ("discharge", "radiology"):
    x = was.inputs[name]
    assert x.shape == (6, 4, 32) and x.dtype == np.int32
    np.testing.assert_array_equal(x.any((1, 2)), was.observed[:, was.modalities.index(name)])
  was, now = part(was, "radiology"), part(now, "radiology")
  np.testing.assert_array_equal(was[0], now[0])
  assert (was[1] != now[1]).any(1).all() and (was[0] != was[1]).any(1).all()


def test_the_paper_protocol_knows_all_until_the_end(build):
  paper = build(hospital(), "data.protocol=paper")
  assert paper.observed.all() and sorted(paper.row_id) == [1102, 1202, 1302]
  more = [(s, LEAVE, 95.0, " late") for s in PATIENTS]
  again = build(hospital(*more), "data.protocol=paper")
  for m in paper.modalities:
    np.testing.assert_array_equal(paper.inputs[m], again.inputs[m])


def test_records_of_the_past_count_from_a_day_before_the_admission(build, before):
  early = [(s, hour, 95.0, " early") for s in PATIENTS for hour in (-23,)]
  older = [(s, hour, 95.0, " older") for s in PATIENTS for hour in (-25, -60)]
  new, old = build(hospital(*early)), build(hospital(*older))
  for source in SOURCES:
    assert (part(new, source)[0] != part(before, source)[0]).any(), source
    np.testing.assert_array_equal(part(old, source)[0], part(before, source)[0], err_msg=source)


def test_a_culture_of_a_day_is_taken_and_reported_at_its_end(build, before):
  content, day = hospital(), made.at(ROW)[:10]      # that of the mortality row; no hour is told
  found = content["microbiologyevents"]
  found.append({**made.records(11, ROW)["microbiologyevents"], "charttime": "", "storetime": ""})
  for x in found:
    if (x["subject_id"], x["charttime"]) == (12, made.at(10)):
      x.update(storedate=day, storetime="")
  was, now = (part(c, "microbiologyevents") for c in (before, build(content)))
  changed = {row: (was[row] != now[row]).any(1).tolist() for row in was}
  assert changed == {0: [False, True, False], 1: [True, False, False]}


def test_neither_the_order_of_records_nor_of_files_matters(build, before):
  content = {name: found[::-1] for name, found in reversed(hospital().items())}
  assert cohort_lib.fingerprint(build(content)) == cohort_lib.fingerprint(before)


def test_every_feature_has_a_source_that_is_looked_at_here(before):
  fed = set()
  for prefix in SOURCES.values():
    fed |= {f for f in mimic_items.feature_names() if prefix and f.startswith(prefix)}
  signals = {f"{s}_{stat}" for s, x in mimic_items.SIGNALS.items() for stat in x.stats}
  others = [f for f in mimic_items.feature_names() if f not in fed | signals]
  known = ("age", "male", "hour", "earlier", "days_since", "in_emerg", "had_", "bmi", "outpatient",
           "icu_", "in_icu", *(f for g in mimic_items.ADMISSION.values() for f in g))
  assert [f for f in others if not f.startswith(known)] == []
