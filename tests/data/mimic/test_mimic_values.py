"""What a record of MIMIC-IV says: units, numbers of another unit, the same record again, and people
who are admitted after their death."""

import numpy as np
import pytest

from crl_jax.data import cohort as cohort_lib
from crl_jax.data.mimic import files as mimic_files, images, tfrecord
from tests.data.mimic import mimic_hospital as made

STRUCTURED = "data.mimic.modalities=('structured',)"
NAN = np.nan

# table, item, number, unit, feature, what it is
SAID = (
    ("chartevents", 223762, 98.6, "°C", "temperature_last", 37),
    ("chartevents", 223761, 37.0, "°F", "temperature_last", 37),
    ("chartevents", 223762, 99.5, "°F", "temperature_last", 37.5),
    ("chartevents", 223761, 98.6, "", "temperature_last", 37),
    ("chartevents", 223762, 60.0, "", "temperature_last", NAN),
    ("chartevents", 226707, 825070, "Inch", "height_last", NAN),
    ("chartevents", 226707, 170, "Inch", "height_last", 170),
    ("chartevents", 226730, 66, "cm", "height_last", 167.64),
    ("chartevents", 226730, 1.7, "cm", "height_last", 170),
    ("chartevents", 226730, 91.4, "cm", "height_last", NAN),      # no one's height in inches
    ("chartevents", 226512, 0, "kg", "weight_last", NAN),
    ("chartevents", 226512, 500, "kg", "weight_last", NAN),       # in pounds, or 50.0: not guessed
    ("chartevents", 226512, 176, "lbs", "weight_last", 79.832),
    ("chartevents", 226531, 176, "", "weight_last", 79.832),
    ("chartevents", 226531, 80, "kg", "weight_last", 80),
    ("chartevents", 223835, 0.4, "", "fio2_last", 40),
    ("chartevents", 223835, 4, "%", "fio2_last", NAN),
    ("chartevents", 224685, 0.45, "mL", "tidal_volume_last", 450),
    ("chartevents", 220045, 999, "bpm", "heart_rate_last", NAN),
    ("chartevents", 220045, 80, "furlongs", "heart_rate_last", NAN),
    ("labevents", 50983, 13.8, "mEq/L", "sodium_last", NAN),
    ("labevents", 50971, 420, "mEq/L", "potassium_last", NAN),
    ("labevents", 50816, 4, "%", "lab_fio2_last", NAN),
    ("labevents", 50931, 5.5, "mg/dL", "glucose_last", NAN),      # 5.5 mmol/L, or 55
    ("labevents", 50931, 5.5, "mmol/L", "glucose_last", 99.086),
    ("labevents", 50912, 88.4, "umol/L", "creatinine_last", 1),
    ("labevents", 50889, 1.2, "mg/dL", "crp_last", 12),
    ("labevents", 50889, 12, "titer", "crp_last", NAN),
    ("labevents", 50889, 12, "", "crp_last", 12),
    ("labevents", 51237, 1.2, "ratio", "inr_last", 1.2),
    ("labevents", 51498, 1015, " ", "urine_gravity_last", 1.015),
    ("labevents", 52551, 500, "ng/mL", "d_dimer_last", 1000),
    ("labevents", 52551, 500, "ng/mL FEU", "d_dimer_last", 500),
    ("labevents", 51196, 500, "ng/mL DDU", "d_dimer_last", 1000),
    ("inputevents", 225158, 1, "L", "saline_sum", 1000),
    ("inputevents", 221662, 0.4, "grams", "dopamine_sum", 400),
    ("inputevents", 221662, 1, "dose", "dopamine_sum", NAN),
    ("inputevents", 225154, 1, "dose", "morphine_count", 1),      # only counted
    ("outputevents", 226559, 0.5, "L", "urine_sum", 500),
    ("outputevents", 227488, 200, "ml", "urine_sum", -200))


def record(table, subject, item, number, unit="", hour=10, **more):
  value, name = {"inputevents": ("amount", "amountuom"), "outputevents": ("value", "valueuom")}.get(
      table, ("valuenum", "valueuom"))
  times = ("starttime", "endtime") if table == "inputevents" else ("charttime",)
  return {table: {"subject_id": subject, "itemid": item, value: number, name: unit,
                  **dict.fromkeys((*times, "storetime"), made.at(hour)), **more}}


def feature(cohort, name):
  return cohort.inputs["structured"][:, cohort.features["structured"].index(name)]


def odd(cohort, *words):
  """{(table, rule): count} of the odd rows with one of the words in their rule."""
  return {(o["table"], o["rule"]): o["count"] for o in cohort.info["odd_rows"]
          if any(word in o["rule"] for word in words)}


def test_a_value_is_what_its_unit_says_or_no_value(tmp_path):
  people = range(11, 11 + len(SAID))
  cohort = made.build(made.save(tmp_path, made.tables(made.stays(people), *(
      record(table, s, *said) for s, (table, *said, _, _) in zip(people, SAID)))), STRUCTURED)
  for s, said in zip(people, SAID):
    *_, name, expected = said
    found = feature(cohort, name)[cohort.patient_id == s]
    np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=str(said))
    count = feature(cohort, name.rpartition("_")[0] + "_count")[cohort.patient_id == s]
    assert count.tolist() == [float(not np.isnan(expected))] * 2, said
  assert odd(cohort, "outside", "unit") == {
      ("chartevents",
       "temperature outside 25 to 45 C, can only be of another unit (C, F): converted"): 2,
      ("chartevents", "temperature outside 25 to 45 C: NaN"): 1,
      ("chartevents",
       "height outside 100 to 240 cm, can only be of another unit (cm, inch, m): converted"): 3,
      ("chartevents", "height outside 100 to 240 cm: NaN"): 2,
      ("chartevents", "weight outside 20 to 400 kg: NaN"): 2,
      ("chartevents",
       "fio2 outside 21 to 100 %, can only be of another unit (fraction): converted"): 1,
      ("chartevents", "fio2 outside 21 to 100 %: NaN"): 1,
      ("chartevents",
       "tidal_volume outside 50 to 2000 mL, can only be of another unit (L): converted"): 1,
      ("chartevents", "heart_rate outside 0 to 300 /min: NaN"): 1,
      ("chartevents", "heart_rate in a unit that nothing converts: NaN"): 1,
      ("labevents", "sodium outside 80 to 200 mEq/L: NaN"): 1,
      ("labevents", "potassium outside 1 to 12 mEq/L: NaN"): 1,
      ("labevents", "lab_fio2 outside 21 to 100 %: NaN"): 1,
      ("labevents", "glucose outside 10 to 2000 mg/dL: NaN"): 1,
      ("labevents", "crp in a unit that nothing converts: NaN"): 1,
      ("labevents",
       "urine_gravity outside 1 to 1.1, can only be of another unit (thousandths): converted"): 1,
      ("inputevents", "dopamine in a unit that nothing converts: NaN"): 1}


@pytest.fixture(scope="module")
def build(make_bert, tmp_path_factory):
  """build(tables) -> cohort of all modalities, with an embedding of every image listed."""
  folder = tmp_path_factory.mktemp("values")
  bert = make_bert(folder / "bert")

  def once(content):
    root = made.save(tmp_path_factory.mktemp("hospital"), content)
    for x in content[mimic_files.CXR_METADATA]:
      tfrecord.write(images.path(root, x["subject_id"], x["study_id"], x["dicom_id"]),
                     np.full(images.WIDTH, x["study_id"]))
    return made.build(root, f"text.model={bert}", f"text.cache={folder / 'cache'}",
                      "text.window=32", "text.overlap=4")
  return once


def test_records_that_are_there_again_count_once(build):
  content = made.tables(
      made.stays((11, 12)), made.earlier(11), made.earlier(12),
      *(made.records(s, hour) for s in (11, 12) for hour in (10, 20)),
      *(record("labevents", 11, 50912, 2.0, labevent_id=i) for i in "12"),       # two samples
      *(record("inputevents", 11, 225828, 100, "mL", orderid=i) for i in "12"),
      *(record("chartevents", 11, item, 80) for item in (220050, 220179)))
  before = build(content)
  assert feature(before, "creatinine_count")[0] == feature(before, "systolic_count")[0] == 2
  assert feature(before, "ringers_sum")[0] == 200 and not odd(before, "again")
  thrice = {name: 3 * found for name, found in content.items()}
  # one note and one image more, and each known earlier by another text and place
  for source, change in (("radiology", dict(storetime=made.at(70), text="Another text.")),
                         (mimic_files.CXR_METADATA, dict(StudyTime="235959", study_id=9))):
    thrice[source].append({**content[source][0], **change})
  after = build(thrice)
  assert cohort_lib.fingerprint(after) == cohort_lib.fingerprint(before)
  found = {}
  for (table, _), count in odd(after, "again").items():
    found[table] = found.get(table, 0) + count
  unchanged = {"omr", "pharmacy", "procedureevents", "microbiologyevents"}   # by repetition
  assert found == {name: 2 * len(rows) + (name in ("radiology", mimic_files.CXR_METADATA))
                   for name, rows in content.items() if name not in unchanged}


def test_who_is_admitted_after_death_is_no_row_and_has_not_returned(tmp_path):
  t = made.stays(range(1, 7))
  by = {p["subject_id"]: p for p in t["patients"]}
  index = {a["hadm_id"]: a for a in t["admissions"]}
  day = lambda hours: made.at(hours)[:10]

  def more(s, hadm, begin, end, **changes):
    t["admissions"].append(made.admission(s, hadm, begin, end, **changes))
    t["icustays"].append(made.icu_stay(s, hadm, 10 * hadm, begin + 1, end - 1))
  # 1: died a minute before the index admission, which is that of a donor
  more(1, 15, -30, -1 / 60, hospital_expire_flag=1, deathtime=made.at(-1 / 60))
  t["icustays"] = [x for x in t["icustays"] if x["hadm_id"] != 15]
  by[1]["dod"] = day(0)
  # 2: went home and died there; donor two days later. 3: the same, but alive
  more(2, 25, 200, 220)
  by[2]["dod"] = day(150)
  more(3, 35, 200, 220)
  # 4: died in hospital on the first day, no hour is told; 5: on an unknown day
  index[40].update(hospital_expire_flag=1)
  by[4]["dod"] = day(0)
  index[50].update(hospital_expire_flag=1)
  by[6]["dod"] = day(0)                     # 6: left alive, they say
  cohort = made.build(made.save(tmp_path, t), STRUCTURED)
  assert sorted(cohort.row_id) == [200, 201, 300, 301, 500, 600, 601]
  for task in ("readmission", "icu"):
    assert made.rows_of(cohort, task) == {201: 0, 301: 1, 601: 0}, task
  steps = {s["step"]: s["removed"] for s in cohort.info["attrition"] if s["removed"]}
  assert steps["begins after the patient's death"] == 2
  assert steps["48 h after admission: left the hospital or died before it"] == 1
  assert odd(cohort, "death:", "dod") == {
      ("admissions", "begins after the patient's death: excluded"): 2,
      ("admissions", "followed by one that begins after the patient's death: not a later one"): 1,
      ("patients", "a dod before the day of discharge without hospital_expire_flag: kept, the flag "
                   "counts"): 1}
