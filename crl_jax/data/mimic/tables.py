"""The tables of MIMIC-IV that are read, and which version they are of."""

import re

from crl_jax.data.cohort import CohortError
from crl_jax.data.mimic import files
from crl_jax.data.tables import csv_files, names
from crl_jax.data.tables.source import Table


def _columns(times="", **columns):
  return {**columns, **dict.fromkeys(times.split(), "timestamp")}


_ID = dict(subject_id="int64")
_STAY = dict(subject_id="int64", hadm_id="int64")

# Those that every query joins are loaded; the others are streamed once. What tells two records
# apart that are alike otherwise is read where a file has it: their numbers, their place in a list.
SCHEMA = {
    "patients": Table(_columns(**_ID, gender="string", anchor_age="int64", anchor_year="int64",
                               anchor_year_group="string"), _columns("dod"), required=True),
    "admissions": Table(_columns(
        "admittime dischtime deathtime edregtime edouttime", **_STAY, admission_type="string",
        admission_location="string", insurance="string", language="string",
        marital_status="string", race="string", hospital_expire_flag="int64"), required=True),
    "icustays": Table(_columns("intime outtime", **_STAY, stay_id="int64",
                               first_careunit="string"), required=True),
    "services": Table(_columns("transfertime", **_ID, curr_service="string"), large=True),
    "transfers": Table(_columns("intime", **_ID, eventtype="string", careunit="string"),
                       large=True),
    "diagnoses_icd": Table(dict(hadm_id="int64", icd_code="string", icd_version="int64"),
                           dict(seq_num="int64"), large=True),
    "procedures_icd": Table(dict(hadm_id="int64", icd_code="string"), _columns(
        "chartdate", icd_version="int64", seq_num="int64"), large=True),
    "omr": Table(_columns("chartdate", **_ID, result_name="string", result_value="string"),
                 large=True),
    "labevents": Table(_columns("charttime storetime", **_ID, itemid="int64", valuenum="float64"),
                       dict(valueuom="string", labevent_id="int64"), large=True),
    "chartevents": Table(_columns("charttime storetime", **_ID, itemid="int64",
                                  valuenum="float64"), dict(valueuom="string"), large=True),
    "inputevents": Table(_columns("starttime endtime storetime", **_ID, itemid="int64",
                                  amount="float64", amountuom="string"), dict(orderid="int64"),
                         large=True),
    "outputevents": Table(_columns("charttime storetime", **_ID, itemid="int64", value="float64"),
                          dict(valueuom="string"), large=True),
    "procedureevents": Table(_columns("starttime storetime", **_ID, itemid="int64"), large=True),
    "prescriptions": Table(_columns("starttime", **_ID, pharmacy_id="int64", drug="string"),
                           dict(formulary_drug_cd="string"), large=True),
    "pharmacy": Table(_columns("entertime", **_ID, pharmacy_id="int64"), large=True),
    "emar": Table(_columns("charttime storetime", **_ID, medication="string", event_txt="string"),
                  dict(emar_seq="int64"), large=True),
    "microbiologyevents": Table(
        _columns("chartdate charttime storedate storetime", **_ID, spec_type_desc="string",
                 micro_specimen_id="int64", org_itemid="int64", org_name="string",
                 interpretation="string"), large=True),
    # MIMIC-IV-Note and the metadata of MIMIC-CXR
    "discharge": Table(_columns("charttime", **_STAY, note_id="string", text="string"),
                       large=True),
    "radiology": Table(_columns("charttime storetime", **_ID, note_id="string", text="string"),
                       large=True),
    files.CXR_METADATA: Table(
        dict(dicom_id="string", subject_id="int64", study_id="int64", StudyDate="int64",
             StudyTime="float64"),
        large=True),
}

# data set of each table on BigQuery, by version ("3_1"); notes have versions of their own
BIGQUERY = {
    **dict.fromkeys(files.HOSP, "mimiciv_{version}_hosp"),
    **dict.fromkeys(files.ICU, "mimiciv_{version}_icu"),
    **dict.fromkeys(files.NOTE, "mimiciv_note")}


def require_known(columns, named=""):
  """Raises CohortError naming the version, where the tables are older than 2.2.

  2.2, 3.0 and 3.1 have the same columns; `last_year` tells 2.2 from the others by what
  anchor_year_group holds, and only the name of a folder tells 3.0 from 3.1.

  Args:
    columns: of the admissions table.
    named: the version in the name of a folder or data set, "" if none has it.
  """
  columns = {name.strip().lower() for name in columns}
  if "row_id" in columns or "religion" in columns:
    found = "MIMIC-III"
  elif "ethnicity" in columns:
    found = "MIMIC-IV 1.0 or older"
  elif "race" in columns and "admit_provider_id" not in columns:
    found = "MIMIC-IV 2.0 or 2.1"
  elif named and named not in files.PROJECTS["tables"].versions:
    found = f"MIMIC-IV {named}"
  else:
    return
  raise CohortError(f"These tables are of {found}, by the columns of admissions or the folder's "
                    "name; MIMIC-IV 2.2, 3.0 and 3.1 can be read. Download one of them from "
                    "PhysioNet.")


def header(path):
  """The column names of a csv, csv.gz or Parquet file."""
  if names.is_parquet(path):
    import pyarrow.parquet
    try:
      return list(pyarrow.parquet.read_schema(path).names)
    except (OSError, ValueError) as error:
      raise CohortError(f"{path.name} is not a Parquet file. Download or export it "
                        "again.") from error
  file = csv_files.Checked(path)
  file.close()
  return file.header


def last_year(groups):
  """The last year of the data by the `anchor_year_group`s that occur: 2022 in 3.0 and 3.1, 2019 in
  2.2.

  Args:
    groups: texts like "2017 - 2019"; None is passed over.
  """
  years = [int(year) for text in groups if isinstance(text, str)
           for year in re.findall(r"\d{4}", text)]
  return 2022 if any(year > 2019 for year in years) else 2019
