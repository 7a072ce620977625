"""The tables of eICU-CRD that are read, and which of their columns."""

import dataclasses

from crl_jax.data.eicu import features as spec
from crl_jax.data.tables.source import Table


def _columns(ints="", floats="", texts=""):
  return {**dict.fromkeys(ints.split(), "int64"), **dict.fromkeys(floats.split(), "float64"),
          **dict.fromkeys(texts.split(), "string")}


def _of_stay(ints="", floats="", texts=""):
  return _columns(f"patientunitstayid {ints}", floats, texts)


def _apache(table):
  """A record per unit stay, of whose columns the features are taken as they are."""
  return _of_stay(f"{table.lower()}id", " ".join(
      column for s in spec.SOURCES if s.table == table for column, *_ in s.columns.values()))


# table -> the column with a record's own number, of those where repeated records change a number
OWN = {"diagnosis": "diagnosisid", "medication": "medicationid", "lab": "labid",
       "vitalPeriodic": "vitalperiodicid", "vitalAperiodic": "vitalaperiodicid",
       "pastHistory": "pasthistoryid", "physicalExam": "physicalexamid", "carePlanEOL": "cpleolid",
       "respiratoryCharting": "respchartid", "infusiondrug": "infusiondrugid",
       "intakeOutput": "intakeoutputid", "admissiondrug": "admissiondrugid"}


def schema(for_prediction=False):
  """Returns table -> `Table`. New patients may lack outcomes, and any table but `patient`."""
  return {name: dataclasses.replace(table, extra={**table.extra, OWN[name]: "int64"})
          if name in OWN else table for name, table in _schema(for_prediction).items()}


def _schema(for_prediction):
  must = not for_prediction
  patient = _of_stay(
      "patienthealthsystemstayid hospitalid hospitaladmitoffset unitvisitnumber "
      "unitdischargeoffset", "admissionheight admissionweight",
      "uniquepid gender age ethnicity unittype unitadmitsource unitstaytype unitadmittime24")
  outcomes = _columns("hospitaldischargeoffset",
                      texts="hospitaldischargestatus unitdischargestatus")
  return {
      "patient": (Table({**patient, **outcomes}, required=True) if must else
                  Table(patient, outcomes, required=True)),
      "hospital": Table(_columns("hospitalid", texts="numbedscategory teachingstatus region")),
      "admissionDx": Table(_of_stay("admitdxenteredoffset", texts="admitdxpath"), required=must),
      "apacheApsVar": Table(_apache("apacheApsVar"), required=must),
      "apachePredVar": Table(_apache("apachePredVar"), required=must),
      "diagnosis": Table(_of_stay("diagnosisoffset", texts="diagnosisstring"), required=must),
      "medication": Table(_of_stay("drugorderoffset drugstartoffset drughiclseqno",
                                   texts="drugname"), required=must),
      "lab": Table(_of_stay("labresultoffset", "labresult", "labname"),
                   _columns("labresultrevisedoffset", texts="labmeasurenamesystem"), required=must),
      "vitalPeriodic": Table(_of_stay(
          "observationoffset", "temperature sao2 heartrate respiration systemicsystolic "
          "systemicdiastolic systemicmean"), required=must),
      "pastHistory": Table(_of_stay("pasthistoryoffset pasthistoryenteredoffset",
                                    texts="pasthistorypath"), required=must),
      "vitalAperiodic": Table(_of_stay(
          "observationoffset", "noninvasivesystolic noninvasivediastolic noninvasivemean")),
      "treatment": Table(_of_stay("treatmentoffset", texts="treatmentstring")),
      "physicalExam": Table(_of_stay(
          "physicalexamoffset", texts="physicalexampath physicalexamvalue physicalexamtext")),
      "carePlanGeneral": Table(_of_stay("cplitemoffset", texts="cplgroup cplitemvalue")),
      "carePlanEOL": Table(_of_stay("cpleolsaveoffset cpleoldiscussionoffset")),
      "respiratoryCharting": Table(_of_stay("respchartoffset respchartentryoffset",
                                            texts="respchartvaluelabel respchartvalue")),
      "respiratoryCare": Table(_of_stay("respcarestatusoffset", texts="airwaytype")),
      "infusiondrug": Table(_of_stay("infusionoffset", texts="drugname")),
      "intakeOutput": Table(_of_stay("intakeoutputoffset intakeoutputentryoffset",
                                     "intaketotal outputtotal dialysistotal nettotal")),
      "admissiondrug": Table(_of_stay("drugoffset drugenteredoffset", texts="drugname")),
  }
