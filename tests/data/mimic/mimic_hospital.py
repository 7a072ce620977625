"""A MIMIC-IV of a handful of patients, each record of it at a known minute."""

import numpy as np
import pandas as pd

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, mimic
from crl_jax.data.mimic import files as mimic_files, tables as mimic_tables

# every index admission; not at a whole hour, so that a reader that drops minutes is seen
BEGIN = pd.Timestamp("2150-03-01 10:20:00")
HOUR = pd.Timedelta(hours=1)


def at(hours):
  """The time so many hours after the index admission."""
  return (BEGIN + hours * HOUR).strftime("%Y-%m-%d %H:%M:%S")


def make_config(root, *overrides):
  return config_lib.override(config_lib.default(), [
      f"data.root={root}", "data.memory_limit=500MB", *overrides])


def patient(subject, **changes):
  return {"subject_id": subject, "gender": "F", "anchor_age": 60, "anchor_year": 2150,
          "anchor_year_group": "2011 - 2013", **changes}


def admission(subject, hadm, begin, end, **changes):
  return {"subject_id": subject, "hadm_id": hadm, "admittime": at(begin), "dischtime": at(end),
          "deathtime": "", "admission_type": "URGENT", "admit_provider_id": "P1",
          "admission_location": "EMERGENCY ROOM", "discharge_location": "HOME",
          "insurance": "Medicare", "language": "ENGLISH", "marital_status": "SINGLE",
          "race": "WHITE", "edregtime": at(begin - 3), "edouttime": at(begin - 1),
          "hospital_expire_flag": 0, **changes}


def icu_stay(subject, hadm, stay, begin, end, **changes):
  return {"subject_id": subject, "hadm_id": hadm, "stay_id": stay,
          "first_careunit": "Medical Intensive Care Unit (MICU)", "last_careunit": "x",
          "intime": at(begin), "outtime": at(end), "los": 1, **changes}


def stays(subjects):
  """People, admissions and ICU stays: each in hospital for 100 h, in the ICU from hour 5 to 60; an
  earlier admission a month before."""
  return {
      "patients": [patient(s) for s in subjects],
      "admissions": [a for s in subjects for a in (
          admission(s, 10 * s, 0, 100), admission(s, 10 * s + 1, -800, -700))],
      "icustays": [icu_stay(s, 10 * s, 100 * s, 5, 60) for s in subjects]}


def records(subject, hour, value=80.0, mark=""):
  """One record of every source at an hour of the index admission, stored in the same minute."""
  hadm, stay = 10 * subject, 100 * subject
  who, when = {"subject_id": subject, "hadm_id": hadm}, at(hour)
  icu, order = {**who, "stay_id": stay}, 1000 * subject + 2 * hour + bool(mark)
  # of others the feature is another one: it says only whether there was any
  procedure = (225792 if hour == 10 else
               {"": 225794, " early": 225752, " late": 224270}.get(mark, 225400))
  finding = "effusion" if hour > 30 else "clear"
  return {
      "labevents": {**who, "itemid": 50931, "charttime": when, "storetime": when,
                    "valuenum": value},
      "chartevents": {**icu, "itemid": 220045, "charttime": when, "storetime": when,
                      "valuenum": value},
      "inputevents": {**icu, "itemid": 225158, "starttime": when, "endtime": when,
                      "storetime": when, "amount": value},
      "outputevents": {**icu, "itemid": 226559, "charttime": when, "storetime": when,
                       "value": value},
      "procedureevents": {**icu, "itemid": procedure, "starttime": when, "endtime": when,
                          "storetime": when},
      # times are of the order's start and of its entry
      "prescriptions": {**who, "starttime": when, "drug": "Insulin" + mark,
                        "pharmacy_id": order},
      "pharmacy": {**who, "entertime": when, "pharmacy_id": order},
      "emar": {**who, "charttime": when, "storetime": when, "medication": "Vancomycin" + mark,
               "event_txt": "Administered"},
      "microbiologyevents": {**who, "chartdate": when[:10], "charttime": when,
                             "storedate": when[:10], "storetime": when,
                             "spec_type_desc": "BLOOD CULTURE", "micro_specimen_id": hour * 10,
                             "org_name": "E. COLI", "interpretation": "R"},
      "services": {**who, "transfertime": when, "curr_service": "SURG"},
      "transfers": {**who, "eventtype": "transfer", "intime": when, "outtime": at(hour + 1),
                    "careunit": "Neuro Surgical Intensive Care Unit (Neuro SICU)"},
      "radiology": {**who, "note_id": f"{subject}-RR-{hour}", "charttime": when,
                    "storetime": when, "text": f"Chest film {mark}: {finding}. {value}"},
      mimic_files.CXR_METADATA: {
          "dicom_id": f"d{subject}x{hour}", "subject_id": subject, "study_id": hour + 1000,
          "StudyDate": when[:10].replace("-", ""),
          "StudyTime": when[11:].replace(":", "") + ".5"}}


def earlier(subject):
  """What the earlier admission left."""
  return {"diagnoses_icd": {"hadm_id": 10 * subject + 1, "icd_code": "4280 ", "icd_version": 9},
          "procedures_icd": {"hadm_id": 10 * subject + 1, "icd_code": "9671"},
          "omr": {"subject_id": subject, "chartdate": at(-500)[:10],
                  "result_name": "Weight (Lbs)", "result_value": "150"},
          "discharge": {"note_id": f"{subject}-DS-1", "subject_id": subject,
                        "hadm_id": 10 * subject, "charttime": at(100)[:10],
                        "text": f"Went home, patient {subject}."}}


def tables(*parts):
  """table -> list of records of several {table: record or list}."""
  out = {}
  for part in parts:
    for name, found in part.items():
      out.setdefault(name, []).extend(found if isinstance(found, list) else [found])
  return out


def save(folder, content):
  """Writes table -> records where PhysioNet's tools would put them; returns the folder."""
  for name, found in content.items():
    source = next(p for p in mimic_files.PROJECTS.values() if name in p.tables)
    path = folder / source.tables[name] / f"{name}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(found)
    for column in mimic_tables.SCHEMA[name].columns:
      if column not in frame:
        frame[column] = ""
    frame.to_csv(path, index=False, compression={"method": "gzip", "compresslevel": 1})
  return folder


def build(root, *overrides, **kwargs):
  """The cohort of a folder, with settings changed."""
  return cohort_lib.validate(mimic.build(make_config(root, *overrides), **kwargs))


def rows_of(cohort, task):
  """row_id -> label of the rows with a defined outcome."""
  y = cohort.labels[:, cohort.tasks.index(task)]
  return {int(r): int(v) for r, v in zip(cohort.row_id, y) if np.isfinite(v)}
