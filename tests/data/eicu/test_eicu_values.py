"""What a record of eICU says: units, numbers of another unit, the same record again, and stays that
begin after the patient's death."""

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import cohort as cohort_lib, eicu
from crl_jax.data.cohort import CohortError
from crl_jax.data.eicu import features as spec, scores as eicu_scores, tables as eicu_tables
from tests.data.eicu.eicu_hospital import (HOUR, feature, hospital, make_config, save, stay)

# table, name, number, unit, feature, what it is
SAID = (
    ("lab", "creatinine", 88.4, "umol/L", "laboratory", "creatinine_last", 1),
    ("lab", "creatinine", 1.0, "mg/dL", "laboratory", "creatinine_last", 1),
    ("lab", "creatinine", 1.0, "furlong", "laboratory", "creatinine_last", 1),
    ("lab", "glucose", 5.5, "mmol/L", "laboratory", "glucose_last", 99.086),
    ("lab", "glucose", 5.5, "", "laboratory", "glucose_last", np.nan),
    ("lab", "CRP", 1.2, "mg/dL", "laboratory", "crp_last", 12),
    ("lab", "platelets x 1000", 250, "K/mcL", "laboratory", "platelets_last", 250),
    ("lab", "PT - INR", 1.2, "ratio", "laboratory", "inr_last", 1.2),
    ("lab", "sodium", 13.8, "mmol/L", "laboratory", "sodium_last", np.nan),
    ("lab", "FiO2", 0.4, "%", "respiratory", "lab_fio2_last", 40),
    ("lab", "FiO2", 4, "%", "respiratory", "lab_fio2_last", np.nan),
    ("respiratoryCharting", "Exhaled TV (patient)", 0.45, "", "respiratory", "tidal_volume_last",
     450),
    ("respiratoryCharting", "PEEP", 99, "", "respiratory", "peep_last", np.nan))
# height, temperature of vitalPeriodic and of APACHE -> what they are
BODIES = ((66, 98.6, 98.6, 167.64, 37, 37), (1.7, 36.6, 60, 170, 36.6, np.nan),
          (91.4, 60, -1, np.nan, np.nan, np.nan))


def test_a_value_is_what_its_unit_says_or_no_value(tmp_path, monkeypatch):
  monkeypatch.setattr(eicu_scores, "add", lambda values, minutes, kind: None)
  ids = range(1, 1 + len(SAID))
  tables = hospital([stay(i) for i in ids])
  tables["patient"].loc[:2, "admissionheight"] = [b[0] for b in BODIES]
  tables["vitalPeriodic"].loc[:2, "temperature"] = [b[1] for b in BODIES]
  tables["apacheApsVar"].loc[:2, "temperature"] = [b[2] for b in BODIES]
  for name, kind, value, unit in (
      ("lab", "labname", "labresult", "labmeasurenamesystem"),
      ("respiratoryCharting", "respchartvaluelabel", "respchartvalue", "x")):
    mine = [(i, *said[1:4]) for i, said in zip(ids, SAID) if said[0] == name]
    frame = pd.DataFrame(mine, columns=["patientunitstayid", kind, value, unit])
    times = {c: 60 for c in eicu_tables.schema()[name].types if c.endswith("offset")}
    tables[name] = frame.assign(**times)
  cohort = eicu.build(make_config(save(tmp_path, tables), modality_missing=1.0))
  for i, (*_, modality, name, expected) in zip(ids, SAID):
    mine = cohort.row_id // 10 == i
    seen = cohort.observed[mine, cohort.modalities.index(modality)]   # else its only value is NaN
    found = np.where(seen, feature(cohort, modality, name)[mine], np.nan)
    np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=f"{i} {name}")
  for i, (*_, height, temperature, apache) in enumerate(BODIES, 1):
    mine = cohort.row_id == 10 * i
    found = [feature(cohort, m, n)[mine][0] for m, n in (
        ("demographics", "height"), ("vitals", "temperature_last"), ("apache", "temperature"))]
    np.testing.assert_allclose(found, [height, temperature, apache], rtol=1e-4)
  odd = {(o["table"], o["rule"].replace(": converted", "")): o["count"]
         for o in cohort.info["odd_rows"] if "unit" in o["rule"] and o["table"] != "patient"
         or "only be" in o["rule"]}
  assert odd == {
      ("lab", "creatinine in a unit that nothing converts: read as if it named none"): 1,
      ("lab", "lab_fio2 outside 21 to 100, can only be of another unit (fraction)"): 1,
      ("respiratoryCharting",
       "tidal_volume outside 50 to 2000, can only be of another unit (L)"): 1,
      ("patient", "admissionheight outside 100 to 240, can only be of another unit (cm, inch, m)"):
      2,
      ("vitalPeriodic", "temperature outside 25 to 45, can only be of another unit (C, F)"): 1,
      ("apacheApsVar", "temperature outside 20 to 45, can only be of another unit (C, F)"): 1}
  rules = {(o["table"], o["rule"]): o["count"] for o in cohort.info["odd_rows"]}
  assert rules["lab", "sodium outside 80 to 200: NaN"] == 1
  assert rules["patient", "admissionheight outside 100 to 240: NaN"] == 1


def test_records_that_are_there_again_count_once(tmp_path):
  tables = hospital([stay(i) for i in (1, 2)])
  tables["diagnosis"] = pd.concat(     # two by their numbers
      [tables["diagnosis"].assign(diagnosisid=i) for i in (1, 2)])
  before = eicu.build(make_config(save(tmp_path / "once", tables), modality_missing=0.99))
  assert set(feature(before, "diagnosis", "diagnoses")) == {2}
  twice = {name: pd.concat([frame, frame]) for name, frame in tables.items()}
  after = eicu.build(make_config(save(tmp_path / "twice", twice), modality_missing=0.99))
  assert cohort_lib.fingerprint(after) == cohort_lib.fingerprint(before)
  found = {o["table"]: o["count"] for o in after.info["odd_rows"] if "again" in o["rule"]}
  assert found == {name: len(tables[name]) for name in (*eicu_tables.OWN, "patient", "hospital")}
  assert not [o for o in before.info["odd_rows"] if "again" in o["rule"]]
  counted = {s.table for s in spec.SOURCES if isinstance(s, spec.Signals)
             or isinstance(s, spec.Flags) and s.count}
  assert counted == set(eicu_tables.OWN), "what repetition changes"


def test_a_stay_of_several_records_is_refused_or_read_the_same_in_any_order(tmp_path, monkeypatch):
  few = [s for s in spec.SOURCES if s.modality in ("demographics", "apache")]
  monkeypatch.setattr(spec, "SOURCES", few)
  monkeypatch.setattr(spec, "MODALITIES", ("demographics", "apache"))
  monkeypatch.setattr(eicu_scores, "add", lambda values, minutes, kind: None)
  tables = hospital([stay(1), stay(2)])
  one = tables["apacheApsVar"]
  other = one.assign(wbc=[9.0, 3.0])          # the same id, another content: the smaller value
  for name, frames in (("a", (one, other)), ("b", (other, one))):
    save(tmp_path / name, {**tables, "apacheApsVar": pd.concat(frames)})
    cohort = eicu.build(make_config(tmp_path / name, modality_missing=0.99))
    assert feature(cohort, "apache", "wbc")[::2].tolist() == [4, 3]
  changed = tables["patient"].head(1).assign(admissionweight=90)
  save(tmp_path / "c", {**tables, "patient": pd.concat([tables["patient"], changed])})
  with pytest.raises(CohortError, match="1 rows whose patientunitstayid is there already"):
    eicu.build(make_config(tmp_path / "c"))


def test_stays_after_death_are_no_rows_and_no_later_stays(tmp_path, monkeypatch):
  monkeypatch.setattr(spec, "SOURCES", [s for s in spec.SOURCES if s.modality == "demographics"])
  monkeypatch.setattr(spec, "MODALITIES", ("demographics",))
  monkeypatch.setattr(eicu_scores, "add", lambda values, minutes, kind: None)
  died = dict(hospitaldischargestatus="Expired")
  visit = lambda i, nth, **more: stay(i, patienthealthsystemstayid=77, uniquepid="p",
                                      unitvisitnumber=nth, **died, **more)
  stays = [
      # left the unit; died in the next stay, too short to count; a donor afterwards
      visit(1, 1), visit(2, 2, unitdischargestatus="Expired", unitdischargeoffset=5 * HOUR),
      visit(3, 3, unitdischargestatus="Expired"),
      # the hospital stay had ended before the unit's began
      stay(4, **died, hospitaldischargeoffset=-10, unitdischargestatus="Expired"),
      # died, by the hospital's clock, before the hour of prediction
      stay(5, **died, hospitaldischargeoffset=20 * HOUR, unitdischargestatus="Expired"),
      # died in the unit, they say, and came back: the hospital's word counts
      stay(6, patienthealthsystemstayid=88, unitdischargestatus="Expired"),
      stay(7, patienthealthsystemstayid=88, unitvisitnumber=2)]
  tables = hospital(stays)
  cohort = eicu.build(make_config(save(tmp_path, tables)))
  assert cohort.row_id.tolist() == [10, 11, 60, 70, 71]
  assert cohort.labels[cohort.row_id == 11, 0] == 0
  steps = {s["step"]: s["removed"] for s in cohort.info["attrition"] if s["removed"]}
  assert steps == {"begins after the patient's death": 2, "unit stay shorter than 12 h": 1}
  odd = {o["rule"]: o["count"] for o in cohort.info["odd_rows"] if o["table"] == "patient"}
  assert odd["begins after the patient's death: excluded"] == 2
