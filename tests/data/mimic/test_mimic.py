"""The MIMIC-IV cohort: rows, outcomes, counts; on made-up patients."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data import mimic
from crl_jax.data.cohort import CohortError
from crl_jax.data.mimic import (cohort as mimic_cohort, items as mimic_items, stays as mimic_stays,
                                tables as mimic_tables)
from tests.data.mimic import mimic_hospital as made
from tests.data.mimic.mimic_hospital import build, rows_of

DAY = 24


def test_simulated_cohort_in_mimics_shape_says_so():
  c = config_lib.default()
  c.data.simulate.rows = 50
  cohort = mimic.build(c)
  assert {m: x.shape for m, x in cohort.inputs.items()} == dict(
      structured=(50, 64), image=(50, 1376), discharge=(50, 768), radiology=(50, 768))
  assert "SIMULATED" in cohort.info["banner"] and "not MIMIC" in cohort.info["banner"]
  assert "truth" in cohort.info


# Rows and outcomes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
  """Patients 1 to 13, each with another story after the same index admission of 100 h."""
  t = made.stays(range(1, 14))
  by = {(a["subject_id"], a["hadm_id"]): a for a in t["admissions"]}
  index = {s: by[s, 10 * s] for s in range(1, 14)}
  add = t["admissions"].append
  index[2].update(hospital_expire_flag=1, deathtime=made.at(99))          # died in hospital
  index[3].update(hospital_expire_flag=1, deathtime=made.at(30), dischtime=made.at(60))
  add(made.admission(1, 15, 70, 90))                                      # begins before the end
  t["icustays"].append(made.icu_stay(1, 15, 151, 75, 80))
  index[4].update(edouttime=made.at(60))                                  # in the ER past 48 h
  add(made.admission(4, 45, 100 + 30 * DAY, 900))                         # at the 30th day
  add(made.admission(5, 55, 100.1 + 30 * DAY, 900))                       # minutes later
  add(made.admission(5, 56, 100.1 + 90 * DAY, 3000))                      # and of the 90th
  t["icustays"].append(made.icu_stay(5, 56, 561, 100.1 + 90 * DAY, 2400))
  add(made.admission(6, 65, 100 + 60 * DAY, 3000))                        # with an ICU stay
  t["icustays"].append(made.icu_stay(6, 65, 651, 100 + 90 * DAY, 2400))
  index[7].update(dischtime=made.at(48))                                  # gone at 48 h
  t["icustays"].append(made.icu_stay(8, 80, 801, 70, 80))                 # a second ICU stay
  t["patients"][8]["anchor_age"] = 17                                     # patient 9
  t["icustays"][9]["intime"] = made.at(49)                                # patient 10
  t["patients"][10]["anchor_year_group"] = "2017 - 2019"                  # patient 11, in March
  t["icustays"][10]["intime"] = made.at(-1)                               # 11: no earlier stay
  for s in (12, 13):                                                      # in December
    index[s].update(admittime="2150-11-20 10:00:00", dischtime="2150-12-10 10:00:00")
    t["patients"][s - 1]["anchor_year_group"] = "2017 - 2019"
    t["icustays"][s - 1].update(intime="2150-11-20 12:00:00", outtime="2150-11-25 12:00:00")
  add(made.admission(12, 125, 365 * DAY, 366 * DAY))
  add(made.admission(13, 135, 294 * DAY, 300 * DAY))                      # ten days later
  t["icustays"].append(made.icu_stay(13, 135, 1351, 294 * DAY, 296 * DAY))
  folder = made.save(tmp_path_factory.mktemp("outcomes"), t)
  return folder, t


@pytest.fixture(scope="module")
def honest(outcomes):
  return build(outcomes[0])


def test_rows_and_outcomes_of_the_honest_protocol(honest):
  cohort = honest
  assert rows_of(cohort, "mortality") == {
      100: 0, 200: 1, 400: 0, 500: 0, 600: 0, 1100: 0, 1200: 0, 1300: 0}
  assert rows_of(cohort, "readmission") == {
      101: 0, 401: 1, 501: 0, 601: 0, 701: 0, 1001: 0, 1101: 0}
  assert rows_of(cohort, "icu") == {101: 0, 401: 0, 501: 0, 601: 1, 701: 0, 1001: 0, 1101: 0}
  # 12 and 13 left on the 10th of December of what may be the last year: censored for both tasks,
  # the one who did not come back and the one who did
  assert {1201, 1301} <= set(cohort.row_id.tolist())
  # no row of one kind has the outcome of the other
  kind = cohort.row_id % 10
  assert np.isnan(cohort.labels[kind == 0][:, :2]).all()
  assert np.isnan(cohort.labels[kind == 1][:, 2]).all()
  assert set(cohort.patient_id) == {1, 2, 4, 5, 6, 7, 10, 11, 12, 13}


def test_what_came_before_is_counted(honest):
  x = dict(zip(honest.features["structured"], honest.inputs["structured"].T))
  assert set(x["earlier_admissions"]) == {1} and set(x["earlier_icu_stays"]) == {0}
  np.testing.assert_allclose(x["earlier_days"], 100 / 24, rtol=1e-4)
  here = dict(zip(honest.row_id.tolist(), x["in_emergency_hours"].tolist()))
  assert (here[100], here[400], here[401]) == (2, 51, 63)      # until the row at most


def test_rows_and_outcomes_of_the_paper_protocol(outcomes):
  cohort = build(outcomes[0], "data.protocol=paper")
  assert sorted(cohort.row_id) == [102, 202, 302, 402, 502, 602, 702, 1002, 1102, 1202, 1302]
  assert rows_of(cohort, "mortality") == {
      102: 0, 202: 1, 302: 1, 402: 0, 502: 0, 602: 0, 702: 0, 1002: 0, 1102: 0, 1202: 0,
      1302: 0}
  assert rows_of(cohort, "readmission") == {
      102: 0, 402: 1, 502: 0, 602: 0, 702: 0, 1002: 0, 1102: 0}
  assert rows_of(cohort, "icu")[602] == 1
  assert "discharge summary included" in cohort.info["notes"][0]


def test_settings_of_the_cohort(outcomes):
  assert 800 in build(outcomes[0], "data.mimic.icu_stay=first").row_id
  assert 1000 in build(outcomes[0], "data.mimic.icu_before_row=False").row_id
  young = build(outcomes[0], "data.mimic.min_age=17", "data.mimic.prediction_hour=24.0")
  assert {900, 300, 700} <= set(young.row_id.tolist())


def test_attrition_adds_up_and_names_every_step(honest):
  steps = honest.info["attrition"]
  people = [s for s in steps if not s["step"].startswith(("48 h", "hospital discharge", "rows"))]
  assert people[0]["left"] == 17 and people[-1]["left"] == 11
  for before, after in zip(people, people[1:]):
    assert before["left"] - after["removed"] == after["left"]
  removed = {s["step"]: s["removed"] for s in steps if s["removed"]}
  assert removed == {
      "younger than 18": 1, "not the patient's first admission with an ICU stay": 4,
      "more than one ICU stay in the admission": 1,
      "48 h after admission: left the hospital or died before it": 2,
      "48 h after admission: entered the ICU only after it": 1,
      "hospital discharge: died in hospital": 2}
  assert [s["left"] for s in steps if s["step"].startswith("rows at")] == [8, 9]


def test_groups_and_ids(honest):
  cohort = honest
  assert cohort.row_id.dtype == np.int64 and cohort.patient_id.dtype == np.int64
  assert set(cohort.groups) == {"sex", "age_band", "ethnicity", "insurance", "unit", "time"}
  assert set(cohort.groups["ethnicity"]) == {"White"}
  assert set(cohort.groups["age_band"]) == {"45-64"}


def test_new_patients_may_still_be_in_hospital(outcomes, tmp_path):
  t = {name: [dict(r) for r in found] for name, found in outcomes[1].items()}
  t["admissions"][0].update(dischtime="", hospital_expire_flag="")
  made.save(tmp_path, t)
  assert 100 not in build(tmp_path).row_id
  cohort = build(tmp_path, for_prediction=True)
  assert 100 in cohort.row_id and 100 not in rows_of(cohort, "mortality")
  assert 101 not in cohort.row_id


def test_odd_rows_are_counted_with_their_rule(outcomes, tmp_path):
  t = {name: [dict(r) for r in found] for name, found in outcomes[1].items()}
  a = {x["hadm_id"]: x for x in t["admissions"]}
  a[10].update(dischtime=made.at(-1))                       # before the admission
  a[40].update(edouttime=made.at(-9))                       # out of the ER before entering it
  a[50].update(deathtime=made.at(90))                       # a death, no flag, and 56 after it
  a[20].update(deathtime="")
  a[61].update(dischtime=made.at(1))                        # overlaps the index admission
  made.save(tmp_path, t)
  odd = {o["rule"].split(":")[0]: o["count"] for o in build(tmp_path).info["odd_rows"]}
  assert odd == {
      "discharge before admission": 1, "left the emergency room before entering it": 1,
      "a deathtime without hospital_expire_flag": 1, "died in hospital without a deathtime": 1,
      "overlaps another admission of the patient": 1, "ends after the hospital discharge": 1,
      "begins before the hospital admission": 1, "begins after the patient's death": 1,
      "followed by one that begins after the patient's death": 1}


def test_overlapping_icu_stays_are_counted(tmp_path):
  t = made.stays((1, 2, 3))
  t["icustays"] += [made.icu_stay(1, 10, 101, 20, 30), made.icu_stay(1, 10, 102, 59, 70),
                    made.icu_stay(2, 20, 201, 60, 70), made.icu_stay(3, 31, 301, -750, -740)]
  cohort = build(made.save(tmp_path, t), "data.mimic.icu_stay=first")
  odd = {o["rule"].split(":")[0]: o["count"] for o in cohort.info["odd_rows"]}
  assert odd["begins before an earlier one of the patient has ended"] == 2


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change, word", [
    (lambda t: t["admissions"].append({**t["admissions"][0], "race": "ASIAN"}),
     "hadm_id is there already"),
    (lambda t: t["patients"].append({**t["patients"][0], "gender": "M"}),
     "subject_id is there already"),
    (lambda t: t["icustays"].append({**t["icustays"][0], "outtime": made.at(61)}),
     "stay_id is there already"),
    (lambda t: t["icustays"][0].update(hadm_id=""), "icustays has 1 rows without"),
    (lambda t: t["patients"].pop(0), "2 rows of admissions belong to no subject_id"),
    (lambda t: t["patients"][0].update(subject_id="1.5"), "subject_id"),
    (lambda t: t["admissions"][0].update(admittime="2150-03-01 10:00:00+01:00"), "admittime"),
    (lambda t: [p.update(anchor_age=3) for p in t["patients"]], "No row is left")])
def test_tables_that_cannot_be_right_are_refused(tmp_path, change, word):
  t = made.stays((1, 2))
  change(t)
  made.save(tmp_path, t)
  with pytest.raises(CohortError) as error:
    build(tmp_path)
  assert word in str(error.value) and "2150" not in str(error.value)


def test_required_tables_that_are_absent_are_refused_with_the_command(tmp_path):
  made.save(tmp_path, made.stays((1,)))
  (tmp_path / "icu" / "icustays.csv.gz").unlink()
  with pytest.raises(CohortError, match="icustays.csv.gz(.|\n)*wget"):
    build(tmp_path)
  with pytest.raises(FileNotFoundError, match="wget"):
    build(tmp_path / "hosp" / "nowhere")


@pytest.mark.parametrize("change, version", [
    ({"race": "ethnicity"}, "1.0"), ({"admit_provider_id": "x"}, "2.0 or 2.1"),
    ({"race": "religion"}, "MIMIC-III")])
def test_other_versions_are_refused_by_name(tmp_path, change, version):
  t = made.stays((1,))
  t["admissions"] = [{change.get(k, k): v for k, v in a.items()} for a in t["admissions"]]
  path = made.save(tmp_path, {k: v for k, v in t.items() if k != "admissions"})
  pd.DataFrame(t["admissions"]).to_csv(path / "hosp" / "admissions.csv.gz", index=False)
  with pytest.raises(CohortError, match=version):
    build(tmp_path)


@pytest.mark.parametrize("group, folder, version", [
    ("2017 - 2019", "mimiciv/2.2", "2.2"), ("2020 - 2022", "mimiciv/3.0", "3.0"),
    ("2020 - 2022", "mimiciv/3.1", "3.1"), ("2017 - 2019", "", "2.2"),
    ("2020 - 2022", "", "3.0 or 3.1"),
    ("2017 - 2019", "mimiciv/3.1", "though its years end in 2019")])
def test_known_versions_are_recognised(tmp_path, group, folder, version):
  t = made.stays((1,))
  t["patients"][0]["anchor_year_group"] = group
  made.save(tmp_path / folder, t)
  assert version in build(tmp_path / folder).info["version"]


def test_files_that_were_damaged_are_refused(tmp_path):
  made.save(tmp_path, made.tables(made.stays((1,)), made.records(1, 10)))
  path = tmp_path / "icu" / "chartevents.csv.gz"
  good = path.read_bytes()
  header = gzip.decompress(good).split(b"\n")[0]
  for content, word in (
      (good[:-9], "cut off"), (b"<html>login</html>", "web page"),
      (gzip.compress(header.replace(b"itemid", b"item_id") + b"\n"), "renamed"),
      (gzip.compress(b"\xef\xbb\xbf" + gzip.decompress(good)), "byte order mark")):
    path.write_bytes(content)
    with pytest.raises(CohortError, match=f"chartevents.csv.gz.*{word}"):
      build(tmp_path, "data.mimic.modalities=('structured',)")


def test_notes_without_a_bert_say_which_files_to_get_or_how_to_leave_them_out(tmp_path):
  made.save(tmp_path, made.tables(made.stays((1,)), made.earlier(1)))
  for settings in ((), (f"text.model={tmp_path / 'absent'}",)):
    with pytest.raises(FileNotFoundError, match="config.text.model") as refused:
      build(tmp_path, *settings)
  *_, last = str(refused.value).splitlines()
  said, = re.findall(r'--config\.(data.mimic.modalities=)"(.*)"$', last)
  cohort = build(tmp_path, "".join(said))
  assert cohort.modalities == ("structured", "image")
  assert any("left out" in note for note in cohort.info["notes"])
  with pytest.raises(CohortError, match="data.mimic.modalities"):
    build(tmp_path, "data.mimic.modalities=('image',)")


def test_memory_and_the_folder_to_spill_into_are_those_of_the_config(tmp_path):
  made.save(tmp_path / "files", made.stays((1,)))
  (tmp_path / "spill").mkdir()
  config = made.make_config(tmp_path / "files", "data.memory_limit=200MiB",
                            f"data.spill={tmp_path / 'spill'}")
  with mimic_cohort.open_source(config, ["structured"]) as (source, _):
    con = source.tables["patients"].get_backend()
    found = [con.raw_sql(f"SELECT current_setting('{name}')").fetchall()[0][0]
             for name in ("memory_limit", "temp_directory")]
  assert found[0] == "200.0 MiB" and found[1].startswith(str(tmp_path / "spill"))


# Items --------------------------------------------------------------------------------------------


def test_no_item_is_of_two_features():
  found = [(s.table, item) for s in mimic_items.SIGNALS.values() for item in s.items]
  found += [("procedureevents", item) for group in mimic_items.PROCEDURES.values()
            for item in group]
  twice = {x for x in found if found.count(x) > 1}
  assert not twice
  # the ids of d_labitems are below those of d_items
  assert all((item < 220000) == (table == "labevents") for table, item in found)


def test_doses_in_micrograms_become_those_of_the_unit(tmp_path):
  dose = lambda item, amount, unit: {"inputevents": {
      "subject_id": 1, "itemid": item, "amount": amount, "amountuom": unit,
      **dict.fromkeys(("starttime", "endtime", "storetime"), made.at(10))}}
  made.save(tmp_path, made.tables(
      made.stays((1,)), dose(222168, 20, "mg"), dose(222168, 30_000, "mcg"),     # propofol
      dose(221289, 0.5, ""), dose(223258, 4, "units"), dose(225158, 250, "ml")))
  cohort = build(tmp_path, "data.mimic.modalities=('structured',)")
  x = dict(zip(cohort.features["structured"], cohort.inputs["structured"].T))
  assert x["propofol_count"].tolist() == [2, 2] and x["propofol_sum"].tolist() == [50, 50]
  assert x["epinephrine_sum"].tolist() == [0.5, 0.5]
  assert x["insulin_drip_sum"].tolist() == [4, 4] and x["saline_sum"].tolist() == [250, 250]


@pytest.mark.parametrize("how, orders", [("all", 3), ("no pharmacy", 4), ("no time", 4)])
def test_orders_count_once_each_and_from_their_entry(tmp_path, how, orders):
  order = lambda start, number: {"prescriptions": {
      "subject_id": 1, "starttime": made.at(start), "pharmacy_id": number, "drug": "Insulin"}}
  entry = lambda time, number: {"pharmacy": {
      "subject_id": 1, "entertime": time, "pharmacy_id": number}}
  t = made.tables(made.stays((1,)), order(9, 7), order(10, 7), order(11, 8), order(12, ""),
                  entry(made.at(5), 7), entry(made.at(6), 7), entry(made.at(50), 8),
                  entry(made.at(60), ""))
  if how == "no pharmacy":
    del t["pharmacy"]
  for x in t.get("pharmacy", ()) if how == "no time" else ():
    x["entertime"] = ""
  cohort = build(made.save(tmp_path, t), "data.mimic.modalities=('structured',)")
  x = dict(zip(cohort.features["structured"], cohort.inputs["structured"].T))
  assert x["orders"].tolist() == [orders, 4]
  odd, = (o for o in cohort.info["odd_rows"] if "entertime" in o["rule"])
  assert odd["count"] == (1 if how == "all" else 4)
  assert any("an order counts from its start" in n for n in cohort.info["notes"]) == (
      how == "no pharmacy")
  assert not any("missing in all rows" in n and "pharmacy" in n for n in cohort.info["notes"])


def test_censoring_looks_at_the_latest_year_a_discharge_can_have_had():
  p = pd.DataFrame(dict(
      anchor_year_group=["2017 - 2019", "2017 - 2019", "2014 - 2016", "2014 - 2016", None,
                         "2020 - 2022", "2017 - 2019"],
      anchor_year=2150, discharge_year=[2150, 2150, 2150, 2154, 2150, 2150, 2152],
      discharge_day=[340, 100, 360, 360, 360, 300, 330]))
  month = mimic_stays.FOLLOW_UP["readmission"]
  assert mimic_stays.censored(p, month, 2019).tolist() == [
      True, False, False, True, True, False, False]
  # in 3.0 and 3.1 the data go on to 2022
  assert mimic_stays.censored(p, month, 2022).tolist() == [
      False, False, False, False, True, False, False]
  assert mimic_stays.censored(p, mimic_stays.FOLLOW_UP["icu"], 2022).tolist() == [
      False, False, False, False, True, True, False]


def test_years_tell_the_version():
  assert mimic_tables.last_year(["2008 - 2010", None, "2017 - 2019"]) == 2019
  assert mimic_tables.last_year(["2008 - 2010", "2020 - 2022"]) == 2022
