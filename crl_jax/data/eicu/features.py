"""Which eICU table and columns feed which modality, for a clinician;
`python -m crl_jax.data.eicu.features` prints it.

The list is fixed: nothing is learned from the data, so the patients of another hospital get the
same columns. A record counts as known at the latest of its `times` (event and entry offset, minutes
from unit admission) and is used in rows whose time is later than that. An empty `times` means known
at unit admission.

A laboratory value is read in the unit that its record names (data/units.py has the conversions and
their sources). The column holds one name for all hospitals, not what a hospital wrote: where
nothing converts it, the range alone judges the number. A number outside the plausible range is NaN,
unless it can only be of another unit: `other` has the bounds between which it is taken for one. A
limit is never a value. Each of these is counted among the odd rows, and what is there again counts
once (data/tables/repeats.py).

Not used, and why:
  patient.hospitaldischarge*, unitdischarge*, dischargeweight: outcomes, or known only afterwards
    (unitdischargeoffset sets the time of discharge rows; statuses are labels). apacheadmissiondx:
    admissionDx holds it with a time.
  patient.ethnicity: results are reported by it (a group); it is no input.
  apachePatientResult: undated, and it holds outcomes and predictions made from the whole first day
    or later.
  apachePredVar.diedinhospital, dischargelocation: outcomes. readmit, visitnumber, var03hspxlos,
    saps3*: undated or ambiguous. Its repeats of apacheApsVar and of admission facts are not taken
    twice.
  *.activeupondischarge, medication.drugstopoffset, medication.drugordercancelled,
    respiratoryCare.ventendoffset: written after the record, they tell the future.
  nurseAssessment, nurseCare, nurseCharting, note, customLab, carePlanGoal, carePlanCareProvider,
    allergy: kept by few hospitals, free text, or without bearing on the outcomes. microLab: results
    carry the time the culture was taken.
"""

import dataclasses

from crl_jax import commands
from crl_jax.data import units
from crl_jax.data.eicu import terms

MODALITIES = ("demographics", "admission", "apache", "diagnosis", "medication", "laboratory",
              "vitals", "respiratory", "fluid", "comorbidities")
DAY = 24 * 60                   # minutes
# a measurement taken earlier than this before unit admission is not used
LOOKBACK = 7 * DAY


@dataclasses.dataclass(frozen=True)
class Values:
  """Columns of a table with one record per unit stay. -1 is "not recorded" and becomes NaN.

  Attributes:
    day_one: the record covers the first 24 h of the stay; it is used in rows at 24 h or later and
      in discharge rows.
    columns: feature -> (column, lowest, highest plausible value).
    other: feature -> (its unit, {unit: (lowest, highest) number that can only be of it}).
  """
  modality: str
  table: str
  columns: dict
  day_one: bool = False
  other: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Flags:
  """Features that are 1 where a record known by then matches the pattern, 0 where only others do,
  NaN without records.

  Attributes:
    text: column that is searched.
    patterns: feature -> regular expression, matched anywhere in the lower-cased text.
    count: name of one more feature, the number of records; "" for none.
    codes: (column, feature -> values) that set the feature too, for records without text.
    window: minutes before the row's time that records are looked for in; 0 for all.
  """
  modality: str
  table: str
  text: str
  times: tuple
  patterns: dict
  count: str = ""
  codes: tuple = ()
  window: int = 0


@dataclasses.dataclass(frozen=True)
class Signal:
  """A measurement over time: the names it is stored under, its plausible range, the statistics
  taken of it, its unit ("": no record's unit is looked at), and per other unit the numbers that can
  only be of it."""
  names: tuple
  low: float
  high: float
  stats: tuple
  unit: str = ""
  other: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Signals:
  """Measurements. Statistics: last, first, change (last - first), and min, max, mean, sd, count
  over the `window`.

  Attributes:
    name: column that says what was measured; "" where each measurement has a column of its own
      (`Signal.names`).
    value: column with the number; text is searched for its first number.
    window: minutes before the row's time that min, max, mean, sd and count look at; 0 for all.
    unit: column with the unit; "" for none.
  """
  modality: str
  table: str
  times: tuple
  signals: dict
  name: str = ""
  value: str = ""
  window: int = 0
  unit: str = ""


_FULL = ("last", "min", "max", "change")
_RARE = ("last",)
_VITAL = ("last", "mean", "min", "max", "sd", "count")
_VENT = ("last", "max", "mean")


def _lab(unit, low, high, *names, stats=_FULL, **more):
  return Signal(names, low, high, stats, unit, **more)


_LABS = {
    "glucose": _lab("mg/dL", 10, 2000, "glucose", "bedside glucose",
                    stats=_FULL + ("mean", "count")),
    "bun": _lab("mg/dL", 0, 300, "BUN"), "creatinine": _lab("mg/dL", 0, 40, "creatinine"),
    "sodium": _lab("mEq/L", 80, 200, "sodium"),
    "potassium": _lab("mEq/L", 1, 12, "potassium"), "chloride": _lab("mEq/L", 50, 170, "chloride"),
    "bicarbonate": _lab("mEq/L", 1, 65, "bicarbonate", "HCO3", "Total CO2"),
    "calcium": _lab("mg/dL", 2, 20, "calcium"),
    "magnesium": _lab("mg/dL", 0.3, 12, "magnesium"),
    "phosphate": _lab("mg/dL", 0.1, 20, "phosphate"),
    "hemoglobin": _lab("g/dL", 1, 25, "Hgb"), "wbc": _lab("K/uL", 0, 500, "WBC x 1000"),
    "platelets": _lab("K/uL", 0, 2500, "platelets x 1000"),
    "mcv": _lab("fL", 40, 150, "MCV", stats=_RARE),
    "mchc": _lab("g/dL", 15, 50, "MCHC", stats=_RARE), "mch": _lab("pg", 5, 60, "MCH", stats=_RARE),
    "lymphocytes": _lab("%", 0, 100, "-lymphs", stats=("last", "min")),
    "neutrophils": _lab("%", 0, 100, "-polys", stats=("last", "max")),
    "bands": _lab("%", 0, 100, "-bands", stats=_RARE),
    "albumin": _lab("g/dL", 0.2, 8, "albumin", stats=("last", "min")),
    "ast": _lab("IU/L", 0, 50000, "AST (SGOT)", stats=("last", "max")),
    "alt": _lab("IU/L", 0, 50000, "ALT (SGPT)", stats=("last", "max")),
    "alkaline_phosphatase": _lab("IU/L", 0, 10000, "alkaline phos.", stats=_RARE),
    "bilirubin": _lab("mg/dL", 0, 100, "total bilirubin", stats=("last", "max")),
    "bilirubin_direct": _lab("mg/dL", 0, 100, "direct bilirubin", stats=_RARE),
    "inr": _lab("", 0.3, 30, "PT - INR"),
    "ptt": _lab("s", 5, 400, "PTT", stats=("last", "max")),
    "fibrinogen": _lab("mg/dL", 10, 2000, "fibrinogen", stats=_RARE),
    "lactate": _lab("mmol/L", 0, 40, "lactate"),
    "ph": _lab("", 6.5, 8, "pH"), "paco2": _lab("mmHg", 5, 250, "paCO2"),
    "pao2": _lab("mmHg", 10, 800, "paO2"),
    "base_excess": _lab("mEq/L", -60, 60, "Base Excess", stats=("last", "min")),
    "methemoglobin": _lab("%", 0, 100, "Methemoglobin", stats=_RARE),
    "cpk": _lab("IU/L", 0, 500000, "CPK", stats=("last", "max")),
    "cpk_mb": _lab("ng/mL", 0, 5000, "CPK-MB", stats=_RARE),
    "troponin_t": _lab("ng/mL", 0, 200, "troponin - T", stats=_RARE),
    "crp": _lab("mg/L", 0, 1000, "CRP", stats=_RARE),
    "ionized_calcium": _lab("mmol/L", 0.2, 12, "ionized calcium", stats=_RARE),
}

_EXAM = "notes/Progress Notes/Physical Exam/Physical Exam/"


def _gcs(part, low, high):
  names = tuple(f"{_EXAM}Neurologic/GCS/{part}{i}" for i in range(low, high + 1))
  return Signal(names, low, high, ("last", "min"))


_GCS = {"gcs_eyes": _gcs("Eyes Score/", 1, 4), "gcs_verbal": _gcs("Verbal Score/", 1, 5),
        "gcs_motor": _gcs("Motor Score/", 1, 6), "gcs_total": _gcs("", 3, 15)}


def _exam(group, name, low, high, stats, **more):
  return Signal((f"{_EXAM}Constitutional/{group}/{name}",), low, high, stats, **more)


_IO, _PHYSIOLOGY = "Weight and I&O/I&&O (ml)", "Vital Sign and Physiological Data"

SOURCES = (
    Values("demographics", "patient", {
        "age": ("age", 0, 120), "male": ("male", 0, 1), "height": ("admissionheight", 100, 240),
        "weight": ("admissionweight", 20, 400)}, other={"height": ("cm", units.HEIGHT)}),
    Values("admission", "patient", {
        "unit_visit": ("unitvisitnumber", 1, 50),
        "hours_in_hospital_before": ("hours_before", 0, 24 * 365),
        "hour_of_day": ("hour", 0, 24)}),
    Flags("admission", "patient", "unitadmitsource", (), {
        "from_emergency": "emergency|chest pain", "from_floor": "floor",
        "from_surgery": "operating|recovery|pacu", "from_stepdown": "step-down|icu to sdu",
        "from_icu": "icu", "from_hospital": "other hospital", "from_direct": "direct"}),
    Flags("admission", "patient", "unittype", (), {
        "unit_mixed": "med-surg", "unit_cardiac": "cardiac|cticu|csicu", "unit_medical": "^micu",
        "unit_surgical": "^sicu", "unit_neuro": "neuro"}),
    Flags("admission", "patient", "unitstaytype", (), {
        "stay_first": "^admit", "stay_readmit": "readmit", "stay_transfer": "transfer",
        "stay_stepdown": "stepdown"}),
    Flags("admission", "hospital", "facts", (), {
        "teaching": "teaching t", "beds_small": "<100|100 - 249", "beds_large": ">= 500",
        "midwest": "midwest", "south": "south", "west": " west", "northeast": "northeast"}),
    Flags("admission", "admissionDx", "admitdxpath", ("admitdxenteredoffset",), terms.ADMISSION_DX),
    Flags("admission", "carePlanGeneral", "item", ("cplitemoffset",), {
        "full_therapy": "care limitation\\|full therapy",
        "do_not_resuscitate": "do not resuscitate|no cpr", "no_intubation": "no intubation",
        "comfort_care": "comfort measures|no augmentation|no vasopressors",
        "prognosis_poor": "(moderate|high) mortality risk",
        "prognosis_bad": "\\|high mortality risk",
        "prognosis_good": "low mortality risk", "acuity_high": "acuity\\|high",
        "acuity_low": "acuity\\|low", "bedrest": "bedrest",
        "ambulating": "ambulat|bathroom|activity\\|chair", "oral_diet": "oral - ", "fasting": "npo",
        "enteral": "enteral", "ready_to_leave": "step-down|awaiting transfer|floor",
        "not_ready": "not ready|physician concern", "fall_risk": "fall"}),
    Flags("admission", "carePlanEOL", "discussion", ("cpleolsaveoffset", "cpleoldiscussionoffset"),
          {}, count="end_of_life_talks"),
    Values("apache", "apacheApsVar", {
        "intubated": ("intubated", 0, 1), "ventilated": ("vent", 0, 1),
        "dialysis": ("dialysis", 0, 1), "gcs_eyes": ("eyes", 1, 4), "gcs_motor": ("motor", 1, 6),
        "gcs_verbal": ("verbal", 1, 5), "gcs_by_meds": ("meds", 0, 1), "wbc": ("wbc", 0, 500),
        "temperature": ("temperature", 20, 45), "respiratory_rate": ("respiratoryrate", 0, 90),
        "sodium": ("sodium", 80, 200), "heart_rate": ("heartrate", 0, 300),
        "mean_pressure": ("meanbp", 0, 250), "ph": ("ph", 6.5, 8),
        "hematocrit": ("hematocrit", 3, 75), "creatinine": ("creatinine", 0, 40),
        "albumin": ("albumin", 0.2, 8), "pao2": ("pao2", 10, 800), "pco2": ("pco2", 5, 250),
        "bun": ("bun", 0, 300), "glucose": ("glucose", 10, 2000),
        "bilirubin": ("bilirubin", 0, 100), "fio2": ("fio2", 21, 100)}, day_one=True,
           other={"temperature": ("C", units.TEMPERATURE), "fio2": ("%", units.FRACTION)}),
    Values("apache", "apachePredVar", {
        "elective_surgery": ("electivesurgery", 0, 1), "active_treatment": ("activetx", 0, 1),
        "thrombolytics": ("thrombolytics", 0, 1), "ventilated_day_1": ("ventday1", 0, 1),
        "intubated_day_1": ("oobintubday1", 0, 1), "grafts": ("graftcount", 0, 12),
        "ejection_fraction": ("ejectfx", 1, 90)}, day_one=True),
    Flags("diagnosis", "diagnosis", "diagnosisstring", ("diagnosisoffset",), terms.DIAGNOSES,
          count="diagnoses"),
    Flags("medication", "medication", "drugname", ("drugorderoffset", "drugstartoffset"),
          terms.DRUGS, count="orders", codes=("drughiclseqno", terms.HICL)),
    Flags("medication", "treatment", "treatmentstring", ("treatmentoffset",), {
        "tx_vasopressor": "vasopressors", "tx_norepinephrine_high": "norepinephrine > 0.1",
        "tx_inotrope": "inotrop|dobutamine|milrinone", "tx_antibiotic": "antibacterial",
        "tx_sedation": "sedative", "tx_narcotic": "narcotic|parenteral analges",
        "tx_insulin_infusion": "insulin\\|continuous", "tx_antiarrhythmic": "antiarrhythmic",
        "tx_anticoagulation": "anticoagula|conventional heparin|molecular weight",
        "tx_steroid": "glucocorticoid", "tx_diuretic": "diuretic",
        "tx_bronchodilator": "bronchodilator", "tx_antiplatelet": "antiplatelet"}),
    Signals("laboratory", "lab", ("labresultoffset", "labresultrevisedoffset"), _LABS,
            name="labname", value="labresult", unit="labmeasurenamesystem"),
    Signals("vitals", "vitalPeriodic", ("observationoffset",), {
        "temperature": Signal(("temperature",), 25, 45, _VITAL, "C", units.TEMPERATURE),
        "saturation": Signal(("sao2",), 10, 100, _VITAL),
        "heart_rate": Signal(("heartrate",), 10, 300, _VITAL),
        "respiration": Signal(("respiration",), 1, 90, _VITAL),
        "invasive_systolic": Signal(("systemicsystolic",), 20, 300, _VITAL),
        "invasive_diastolic": Signal(("systemicdiastolic",), 10, 200, _VITAL),
        "invasive_mean": Signal(("systemicmean",), 15, 250, _VITAL)}, window=DAY),
    Signals("vitals", "vitalAperiodic", ("observationoffset",), {
        "systolic": Signal(("noninvasivesystolic",), 20, 300, _VITAL),
        "diastolic": Signal(("noninvasivediastolic",), 10, 200, _VITAL),
        "mean_pressure": Signal(("noninvasivemean",), 15, 250, _VITAL)}, window=DAY),
    Signals("vitals", "vitalPeriodic", ("observationoffset",), {
        "late_saturation": Signal(("sao2",), 10, 100, ("mean", "min")),
        "late_heart_rate": Signal(("heartrate",), 10, 300, ("mean", "max")),
        "late_respiration": Signal(("respiration",), 1, 90, ("mean", "max"))}, window=6 * 60),
    Signals("vitals", "vitalAperiodic", ("observationoffset",), {
        "late_systolic": Signal(("noninvasivesystolic",), 20, 300, ("mean", "min")),
        "late_mean_pressure": Signal(("noninvasivemean",), 15, 250, ("mean", "min"))},
        window=6 * 60),
    Signals("vitals", "physicalExam", ("physicalexamoffset",), _GCS, name="physicalexampath",
            value="physicalexamvalue"),
    Flags("vitals", "physicalExam", "physicalexampath", ("physicalexamoffset",), {
        "ill_appearing": "ill-appearing",
        "not_oriented": "not oriented|partially oriented|unable to assess orient",
        "reduced_consciousness": "somnolent|obtunded|comatose|stupor|lethargic",
        "sedated": "/sedated|due to meds", "edema": "edema$", "dysrhythmia": "dysrhythmia",
        "labored": "labored|retractions"}),
    Signals("respiratory", "lab", ("labresultoffset", "labresultrevisedoffset"), {
        "lab_fio2": Signal(("FiO2",), 21, 100, ("last", "max", "count"), "%", units.FRACTION)},
        name="labname", value="labresult", window=DAY, unit="labmeasurenamesystem"),
    Signals("respiratory", "respiratoryCharting", ("respchartoffset", "respchartentryoffset"), {
        "fio2": Signal(("FiO2", "FIO2 (%)", "O2 Percentage"), 21, 100,
                       ("last", "max", "mean", "count"), "%", units.FRACTION),
        "oxygen_flow": Signal(("LPM O2",), 0, 100, _VENT),
        "peep": Signal(("PEEP", "PEEP/CPAP"), 0, 40, _VENT),
        "tidal_volume": Signal(("Tidal Volume (set)", "Tidal Volume Observed (VT)",
                                "Exhaled TV (patient)"), 50, 2000, ("last", "mean"), "mL",
                               units.LITRES),
        "tidal_per_kg": Signal(("TV/kg IBW",), 1, 30, ("last",)),
        "vent_rate": Signal(("Vent Rate",), 0, 60, _VENT),
        "total_rate": Signal(("Total RR", "RR (patient)"), 0, 90, _VENT),
        "minute_volume": Signal(("Exhaled MV",), 0, 60, ("last",)),
        "airway_pressure": Signal(("Mean Airway Pressure",), 0, 60, ("last", "max")),
        "peak_pressure": Signal(("Peak Insp. Pressure",), 0, 100, ("last", "max")),
        "plateau": Signal(("Plateau Pressure",), 0, 80, ("last", "max")),
        "support": Signal(("Pressure Support",), 0, 60, ("last",)),
        "charted_saturation": Signal(("SaO2",), 10, 100, ("last", "min"))},
        name="respchartvaluelabel", value="respchartvalue", window=DAY),
    Signals("respiratory", "physicalExam", ("physicalexamoffset",), {
        "exam_fio2": _exam(_PHYSIOLOGY, "FiO2%/FiO2%", 21, 100, ("last",), unit="%",
                           other=units.FRACTION),
        "exam_peep": _exam(_PHYSIOLOGY, "PEEP/PEEP", 0, 40, ("last",))},
        name="physicalexampath", value="physicalexamtext"),
    Flags("respiratory", "respiratoryCare", "airwaytype", ("respcarestatusoffset",), {
        "care_oral_tube": "oral ett|nasal ett", "care_tracheostomy": "trach",
        "care_no_airway": "no artificial"}),
    Flags("respiratory", "carePlanGeneral", "item", ("cplitemoffset",), {
        "plan_ventilated": "ventilated - ", "plan_no_trial": "no daily extub|chronic dep",
        "plan_noninvasive": "non-invasive", "plan_tenuous": "tenuous",
        "plan_adequate": "spontaneous - adequate", "plan_tube": "airway\\|intubated",
        "plan_natural": "not intubated", "plan_sedation": "sedation\\|continuous",
        "plan_weaning": "ventilator wean|rapid wean"}),
    Flags("respiratory", "treatment", "treatmentstring", ("treatmentoffset",), {
        "tx_ventilation": "mechanical ventilation",
        "tx_noninvasive": "non-invasive ventilation|cpap",
        "tx_oxygen": "oxygen therapy", "tx_oxygen_high": "oxygen therapy \\((> 60|40%)",
        "tx_intubation": "endotracheal tube", "tx_extubation": "tube removal",
        "tx_weaning": "ventilator weaning", "tx_suction": "tracheal suction",
        "tx_tracheostomy": "tracheostomy"}),
    Values("fluid", "apacheApsVar", {"urine_day_1": ("urine", 0, 20000)}, day_one=True),
    Signals("fluid", "intakeOutput", ("intakeoutputoffset", "intakeoutputentryoffset"), {
        "intake": Signal(("intaketotal",), 0, 50000, ("last", "max")),
        "output": Signal(("outputtotal",), 0, 50000, ("last", "max")),
        "net": Signal(("nettotal",), -50000, 50000, ("last",)),
        "dialysed": Signal(("dialysistotal",), -50000, 50000, ("min",))}),
    Signals("fluid", "physicalExam", ("physicalexamoffset",), {
        "exam_intake": _exam(_IO, "Intake Total", 0, 50000, ("last",)),
        "exam_output": _exam(_IO, "Output Total", 0, 50000, ("last",)),
        "exam_net": _exam(_IO, "Total Net", -50000, 50000, ("last",)),
        "exam_urine": _exam(_IO, "Urine", 0, 20000, ("last",)),
        "exam_weight_change": _exam("Weight and I&O/Weight (kg)", "Delta", -60, 60, ("last",))},
        name="physicalexampath", value="physicalexamtext"),
    Flags("fluid", "infusiondrug", "drugname", ("infusionoffset",), {
        "inf_norepinephrine": "norepi|levophed", "inf_vasopressin": "vasopressin",
        "inf_epinephrine": "(^|[^r])epinephrine", "inf_phenylephrine": "phenylephrine|neo-?syn",
        "inf_dopamine": "dopamine", "inf_inotrope": "dobutamine|milrinone",
        "inf_propofol": "propofol|diprivan", "inf_midazolam": "midazolam|versed|lorazepam|ativan",
        "inf_dexmedetomidine": "dexmed|precedex", "inf_opioid": "fentanyl|morphine|hydromorph",
        "inf_insulin": "insulin", "inf_heparin": "heparin", "inf_amiodarone": "amiodarone",
        "inf_antihypertensive": "diltiazem|nicardipine|esmolol|labetalol|nitro",
        "inf_diuretic": "furosemide|bumetanide|lasix", "inf_bicarbonate": "bicarb",
        "inf_pantoprazole": "pantoprazole|octreotide",
        "inf_blood": "prbc|ffp|platelet|packed|plasma",
        "inf_nutrition": "tpn"}, count="infusion_records"),
    Flags("fluid", "infusiondrug", "drugname", ("infusionoffset",), {
        "now_vasopressor": "norepi|levophed|vasopressin|epinephrine|phenylephrine|neo-?syn"
                           "|dopamine",
        "now_inotrope": "dobutamine|milrinone",
        "now_sedative": "propofol|diprivan|midazolam|versed|dexmed|precedex",
        "now_opioid": "fentanyl|morphine|hydromorph", "now_insulin": "insulin"},
        count="now_infusions", window=6 * 60),
    Flags("fluid", "treatment", "treatmentstring", ("treatmentoffset",), {
        "tx_saline": "normal saline|ringer", "tx_resuscitation": "fluid bolus|volume resuscitation",
        "tx_transfusion": "blood product", "tx_red_cells": "packed red",
        "tx_plasma_platelets": "fresh frozen|platelet concentrate",
        "tx_dialysis": "hemodialysis|c v v h|cavhd|sled|ultrafiltration",
        "tx_continuous_dialysis": "c v v h|cavhd", "tx_electrolytes": "electrolyte",
        "tx_bicarbonate": "bicarbonate", "tx_enteral": "enteral feeds\\|tube|tube feeding",
        "tx_parenteral": "parenteral nutrition|tpn", "tx_oral_diet": "oral feeds"}),
    Flags("fluid", "carePlanGeneral", "volume", ("cplitemoffset",), {
        "volume_hypovolemic": "hypovolemic", "volume_resuscitate": "actively resuscitate",
        "volume_hypervolemic": "hypervolemic", "volume_dialyse": "dialyze",
        "volume_normal": "normovolemic"}),
    Flags("comorbidities", "pastHistory", "pasthistorypath",
          ("pasthistoryoffset", "pasthistoryenteredoffset"), terms.HISTORY, count="history_items"),
    Values("comorbidities", "apachePredVar", {
        "apache_" + c: (c, 0, 1) for c in (
            "aids", "hepaticfailure", "lymphoma", "metastaticcancer", "leukemia",
            "immunosuppression", "cirrhosis", "diabetes")},
        day_one=True),
    Flags("comorbidities", "admissiondrug", "drugname", ("drugoffset", "drugenteredoffset"), {
        "home_anticoagulant": "coumadin|warfarin|eliquis|xarelto|pradaxa",
        "home_insulin": "insulin|lantus|novolog|humalog",
        "home_diuretic": "lasix|furosemide|bumex|torsemide",
        "home_steroid": "prednis|dexameth|hydrocort",
        "home_inhaler": "albuterol|spiriva|advair|symbicort|duoneb",
        "home_beta_blocker": "lopressor|metoprolol|coreg|carvedilol|atenolol",
        "home_statin": "statin|lipitor|zocor|crestor",
        "home_opioid": "norco|percocet|oxycodone|morphine|hydrocodone",
        "home_antidepressant": "celexa|zoloft|trazodone|prozac|lexapro|cymbalta"},
        count="home_drugs"),
)


# Columns that cohort.prepare derives, as `describe` prints them.
_DERIVED = {"male": "gender", "hours_before": "hospitaladmitoffset", "hour": "unitadmittime24",
            "facts": "numbedscategory, teachingstatus, region", "item": "cplgroup, cplitemvalue",
            "volume": "cplitemvalue of cplgroup Volume Status", "discussion": "any record"}


def describe():
  """Returns rows (modality, table, columns, known when, features): which table feeds which
  modality."""
  rows = []
  for s in SOURCES:
    if isinstance(s, Values):
      columns, features = [c for c, *_ in s.columns.values()], list(s.columns)
      known = "after the first 24 h, or at discharge" if s.day_one else "at unit admission"
    else:
      known = "at the latest of " + ", ".join(s.times) if s.times else "at unit admission"
      if isinstance(s, Flags):
        columns = [s.text] + ([s.codes[0]] if s.codes else [])
        features = list(s.patterns) + ([s.count] if s.count else [])
      else:
        columns = [s.name, s.value] if s.name else [n for g in s.signals.values() for n in g.names]
        features = [f"{n} ({', '.join(g.stats)})" for n, g in s.signals.items()]
    rows.append((s.modality, s.table, ", ".join(_DERIVED.get(c, c) for c in columns), known,
                 ", ".join(features)))
  return sorted(rows, key=lambda r: MODALITIES.index(r[0]))


def main(_):
  """Prints the table."""
  for row in describe():
    print(" | ".join(row))


if __name__ == "__main__":
  commands.run(main, "crl_jax.data.eicu.features")
