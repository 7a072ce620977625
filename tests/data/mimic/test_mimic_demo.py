"""The MIMIC-IV cohort of the public demo, against plain pandas."""

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import mimic, splits
from crl_jax.data.mimic import items as mimic_items
from tests.data.mimic.mimic_hospital import build, rows_of


@pytest.fixture(scope="module")
def demo(mimic_demo):
  return build(mimic_demo)


def test_demo_outcomes_equal_those_of_plain_pandas(demo, mimic_demo):
  read = lambda name, *times: pd.read_csv(mimic_demo / f"{name}.csv.gz", parse_dates=list(times))
  a = read("hosp/admissions", "admittime", "dischtime", "deathtime")
  p, icu = read("hosp/patients"), read("icu/icustays", "intime")
  expected = {task: {} for task in demo.tasks}
  for patient in p.itertuples():
    mine = a[a.subject_id == patient.subject_id].sort_values(["admittime", "hadm_id"])
    stays = icu[icu.subject_id == patient.subject_id]
    age = lambda x: patient.anchor_age + x.admittime.year - patient.anchor_year
    index = [x for x in mine.itertuples() if (stays.hadm_id == x.hadm_id).any() and age(x) >= 18]
    if not index or (stays.hadm_id == index[0].hadm_id).sum() != 1:
      continue
    x = index[0]
    # times count by the minute
    admit, leave = x.admittime.floor("min"), x.dischtime.floor("min")
    end = min([leave] + [x.deathtime.floor("min")] * pd.notna(x.deathtime))
    row = admit + pd.Timedelta(hours=48)
    entered = stays[stays.hadm_id == x.hadm_id].intime.iloc[0].floor("min")
    if end > row and entered < row:
      expected["mortality"][x.hadm_id * 10] = x.hospital_expire_flag
    if x.hospital_expire_flag:
      continue
    others = mine[mine.hadm_id != x.hadm_id].admittime.dt.floor("min")
    visits = stays[stays.hadm_id != x.hadm_id].intime.dt.floor("min")
    last = min(int(patient.anchor_year_group[-4:]) + x.dischtime.year - patient.anchor_year, 2019)
    for task, times, days in (("readmission", others, 30), ("icu", visits, 90)):
      crosses = x.dischtime.dayofyear + days > 365
      if not (last == 2019 and crosses):
        after = (times >= leave) & (times <= leave + pd.Timedelta(days=days))
        expected[task][x.hadm_id * 10 + 1] = int(after.any())
  for task in demo.tasks:
    assert rows_of(demo, task) == expected[task]
  counts = {t: (len(e), sum(e.values())) for t, e in expected.items()}
  assert counts == {"readmission": (85, 13), "icu": (84, 8), "mortality": (79, 5)}


def test_demo_goes_through_features_and_splits(demo):
  assert demo.modalities == mimic.MODALITIES
  assert demo.features["structured"] == mimic_items.feature_names()
  x = dict(zip(demo.features["structured"], demo.inputs["structured"].T))
  assert demo.observed[:, 0].all() and not demo.observed[:, 1:].any()
  for name in ("labevents", "chartevents", "emar", "discharge"):
    assert name in demo.info["absent_tables"]
  assert np.isnan(x["creatinine_count"]).all() and np.isnan(x["given_insulin"]).all()
  assert 0.3 < x["ordered_vasopressor"].mean() < 0.7 and x["samples_blood"].max() == 19
  parts = splits.assign(demo.patient_id, demo.labels, 5, 0.15, 0)
  splits.check(parts, demo.patient_id)
  assert demo.info["version"] == "2.2"
  assert sum("unobserved in all rows" in note for note in demo.info["notes"]) == 3


def test_demo_orders_equal_those_of_plain_pandas(demo, mimic_demo):
  a = pd.read_csv(mimic_demo / "hosp/admissions.csv.gz", parse_dates=["admittime", "dischtime"])
  rx = pd.read_csv(mimic_demo / "hosp/prescriptions.csv.gz", parse_dates=["starttime"],
                   usecols=["subject_id", "starttime", "pharmacy_id", "drug"])
  entered = pd.read_csv(mimic_demo / "hosp/pharmacy.csv.gz", parse_dates=["entertime"])
  rx["known"] = np.maximum(rx.starttime, rx.pharmacy_id.map(
      entered.set_index("pharmacy_id").entertime))
  late = 0
  place = {name: i for i, name in enumerate(demo.features["structured"])}
  for i in range(len(demo)):
    x = a[a.hadm_id == demo.row_id[i] // 10].iloc[0]
    admit = x.admittime.floor("min")
    row = admit + pd.Timedelta(hours=48) if demo.row_id[i] % 10 == 0 else x.dischtime.floor("min")
    mine = rx[(rx.subject_id == x.subject_id) & (rx.starttime >= admit - pd.Timedelta(hours=24))
              & (rx.starttime.dt.floor("min") < row)]
    late += (mine.known.dt.floor("min") >= row).sum()
    mine = mine[mine.known.dt.floor("min") < row]
    assert demo.inputs["structured"][i, place["orders"]] == len(mine)
    insulin = mine.drug.str.lower().str.contains("insulin").any()
    assert demo.inputs["structured"][i, place["ordered_insulin"]] == insulin
  assert late >= 11, "orders that start before a row and are entered after it"
