"""An eICU of a handful of unit stays, each with the same few records."""

import numpy as np
import pandas as pd

from crl_jax import config as config_lib
from crl_jax.data.eicu import tables as eicu_tables

HOUR, DAY = 60, 1440


def make_config(root, **changes):
  c = config_lib.default().unlock()
  c.data.root = str(root)
  for key, value in changes.items():
    c.data.update({key: value}) if key in c.data else c.data.eicu.update({key: value})
  return c.lock()


def save(folder, tables):
  folder.mkdir(exist_ok=True)
  for name, frame in tables.items():
    frame.to_csv(folder / f"{name}.csv.gz", index=False,
                 compression={"method": "gzip", "compresslevel": 1})
  return folder


def stay(i, **changes):
  """One unit stay: 60 years old, two days long, left alive."""
  return {"patientunitstayid": i, "patienthealthsystemstayid": 1000 + i, "uniquepid": f"002-{i}",
          "hospitalid": 7, "gender": "Female", "age": "60", "ethnicity": "Asian",
          "unittype": "MICU", "unitadmitsource": "Floor", "unitstaytype": "admit",
          "unitadmittime24": "13:14:00", "unitvisitnumber": 1, "hospitaladmitoffset": -600,
          "unitdischargeoffset": 2 * DAY, "hospitaldischargeoffset": 5 * DAY,
          "admissionheight": 170.0, "admissionweight": 70.0, "hospitaldischargestatus": "Alive",
          "unitdischargestatus": "Alive", **changes}


def hospital(stays):
  """Tables in which every stay of `stays` has the same few records, all known within the first
  hours."""
  ids = [s["patientunitstayid"] for s in stays]
  tables = {"patient": pd.DataFrame(stays)}
  for name, table in eicu_tables.schema().items():
    if name in ("patient", "hospital"):
      continue
    frame = pd.DataFrame({"patientunitstayid": ids})
    for column, kind in table.types.items():
      if column != "patientunitstayid":
        frame[column] = 60 if kind == "int64" else "x" if kind == "string" else 4.0
    tables[name] = frame
  tables["hospital"] = pd.DataFrame({"hospitalid": [7], "numbedscategory": [">= 500"],
                                     "teachingstatus": ["t"], "region": ["West"]})
  tables["lab"] = pd.concat(
      [tables["lab"].assign(labname=n, labresult=v, labresultoffset=t, labresultrevisedoffset="")
       for n, v, t in (("creatinine", 1.0, 60), ("creatinine", 3.0, 600), ("creatinine", 2.0, 900),
                       ("sodium", 140.0, 60), ("potassium", 99.0, 60))])
  revised = tables["lab"].head(len(ids)).assign(labresult=9.0, labresultoffset=1000,
                                                labresultrevisedoffset=DAY)
  # a value that was corrected only at the 24th hour
  tables["lab"] = pd.concat([tables["lab"], revised])
  tables["diagnosis"] = tables["diagnosis"].assign(
      diagnosisstring="pulmonary|respiratory failure|ARDS")
  tables["medication"] = tables["medication"].assign(drugname="", drughiclseqno=4842)
  tables["apacheApsVar"] = tables["apacheApsVar"].assign(creatinine=2.5, urine=-1)
  return tables


def feature(cohort, modality, name):
  return cohort.inputs[modality][:, cohort.features[modality].index(name)]


def same_rows(a, b, rows):
  np.testing.assert_array_equal(a.row_id[rows], b.row_id[rows])
  np.testing.assert_array_equal(a.observed[rows], b.observed[rows])
  for m in a.modalities:
    np.testing.assert_array_equal(a.inputs[m][rows], b.inputs[m][rows], err_msg=m)
