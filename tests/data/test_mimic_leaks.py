"""Nothing recorded at or after a row's minute enters it: `observed`, features, notes, images.

One hospital is built three times: as it was, with every source's records of the future moved and
added to, and with more records of the past. Each source is then looked at on its own.
"""

import numpy as np
import pytest

from crl_jax.data import cohort as cohort_lib
from crl_jax.data import images, mimic, mimic_files, mimic_items
from tests.data import mimic_hospital as made

PATIENTS = (11, 12, 13)
ROW, LEAVE = 48, 100      # hours of the mortality row and of the discharge row

# source -> the features that it alone feeds; None: a modality of its own
SOURCES = {
    "labevents": "glucose_", "chartevents": "heart_rate_", "inputevents": "saline_",
    "outputevents": "urine_", "procedureevents": "procedure_", "prescriptions": "order",
    "emar": ("given_", "administrations"),
    "microbiologyevents": ("samples_", "organism", "resistant"), "services": "service",
    "transfers": ("transfers", "unit_"), "radiology": None, mimic_files.CXR_METADATA: None}


def hospital(*more):
  """The tables: records at hours 10 and 60 of each patient, and `more` as (subject, hour, ...)."""
  usual = [(s, hour) for s in PATIENTS for hour in (10, 60)]
  return made.tables(made.stays(PATIENTS), *(made.earlier(s) for s in PATIENTS),
                     *(made.records(*args) for args in (*usual, *more)))


@pytest.fixture(scope="module")
def build(make_bert, tmp_path_factory):
  """build(tables, overrides) -> cohort, with a tiny BERT and an embedding of every image listed."""
  folder = tmp_path_factory.mktemp("leaks")
  bert = make_bert(folder / "bert")

  def once(content, *overrides):
    root = made.save(tmp_path_factory.mktemp("hospital"), content)
    for x in content[mimic_files.CXR_METADATA]:
      rng = np.random.default_rng([x["subject_id"], x["study_id"]])
      images.write(images.path(root, x["subject_id"], x["study_id"], x["dicom_id"]),
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
  """Records at the very minute of the mortality row and later, of which the discharge row knows;
  and at the minute of the discharge and after it, of which no row does."""
  more = [(s, hour, 95.0, " late") for s in PATIENTS for hour in (ROW, ROW + 1, LEAVE, LEAVE + 20)]
  return build(hospital(*more))


@pytest.mark.parametrize("source", SOURCES)
def test_records_added_later_change_nothing(source, before, after):
  was, now = part(before, source), part(after, source)
  np.testing.assert_array_equal(was[0], now[0])
  assert (was[1] != now[1]).any(), "what was known at discharge must reach the discharge row"


@pytest.fixture(scope="module")
def moved(build):
  """The records of hour 60 were stored, or taken, at the minute of the discharge; of hour 10, after
  the mortality row."""
  content = hospital()
  for name, found in content.items():
    for x in found:
      stored = [c for c in ("storetime", "endtime") if c in x]
      for hour, later in ((60, LEAVE), (10, 70)):
        when = made.at(hour)
        times = [c for c in x if x[c] == when]
        if name in SOURCES and times:
          x.update(dict.fromkeys(stored or times, made.at(later)))
          if name == "microbiologyevents":
            x.update(charttime=made.at(later), chartdate=made.at(later)[:10])
    if name == mimic_files.CXR_METADATA:
      for x in found:
        hour = {1060: LEAVE, 1010: 70}[x["study_id"]]
        x.update(StudyDate=made.at(hour)[:10].replace("-", ""),
                 StudyTime=made.at(hour)[11:].replace(":", ""))
  return build(content)


@pytest.mark.parametrize("source", SOURCES)
def test_records_known_only_later_leave_the_row(source, before, moved):
  was, now = part(before, source), part(moved, source)
  assert (was[0] != now[0]).any(1).all(), "what was stored after the row must leave it"
  if SOURCES[source] is None:
    assert (now[0][:, -1] == 0).all(), "`observed` too"
    assert (now[1][:, -1] == 1).all()


@pytest.fixture(scope="module")
def ends(build):
  """Only what a row may not know was changed: how the ICU stay, the admission and life end,
  codes of the admission itself."""
  content = hospital()
  for x in content["admissions"]:
    if x["hadm_id"] % 10 == 0:
      x.update(discharge_location="DIED", dischtime=made.at(300), deathtime=made.at(299),
               hospital_expire_flag=1)
  for x in content["icustays"]:
    x.update(outtime=made.at(200), last_careunit="y", los=9)
  for s in PATIENTS:
    content["diagnoses_icd"].append({"hadm_id": 10 * s, "icd_code": "4100", "icd_version": 9})
    content["procedures_icd"].append({"hadm_id": 10 * s, "icd_code": "9604"})
    content["admissions"].append(made.admission(s, 10 * s + 5, 400, 500))
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
  other = build(content)
  assert not other.observed[:, d].any()
  assert other.info["modality_facts"]["discharge"]["without content"] == 3


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
