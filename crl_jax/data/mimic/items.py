"""The structured features of a MIMIC-IV row, for a clinician; `python -m crl_jax.data.mimic.items`
prints them.

The list is fixed: nothing is learned from the data, so another folder gets the same columns. A
record is known from the latest of its times (measured, stored, ended) and enters the rows that lie
later than that; it reaches back to `LOOKBACK` before the hospital admission (the emergency room).
Item ids are those of d_labitems and d_items, the same in 2.2, 3.0 and 3.1. Ids and units were
checked against both tables of the demo (2.2) and the mappings and concepts of mimic-code.

A value is read in the unit that its record names (data/units.py has the conversions and their
sources), else in that of its item. A unit that is none of such a value leaves it unobserved. So
does a number outside the signal's plausible range, unless it can only be of another unit: `other`
has the bounds between which it is taken for one. A limit is never a value, and where a number is
plausible as it is filed nothing is guessed. The charting systems' sentinels (`SENTINEL` and beyond,
either sign) are no values. Each of these is counted among the odd rows. A record that is there
again, alike in everything that is read, counts once; records that differ in anything are several.

Not used, and why:
  drgcodes, hcpcsevents, diagnoses_icd and procedures_icd of the same admission: billing codes,
    assigned after discharge. Those of earlier admissions are used.
  admissions.discharge_location, deathtime, hospital_expire_flag, patients.dod: outcomes, or known
    only afterwards. dischtime sets the time of discharge rows.
  icustays.outtime, los, last_careunit and every end of an infusion or order that lies after the
    row: they tell the future.
  race: results are reported by it (a group); it is no input.
  poe, poe_detail, emar_detail, ingredientevents, datetimeevents: repeats of what prescriptions,
    emar and inputevents hold, or without bearing on the outcomes. Of pharmacy only the time at
    which an order was entered.
"""

import dataclasses

from crl_jax import commands
from crl_jax.data import units
from crl_jax.data.mimic import codes

LOOKBACK = 24 * 60              # minutes before the hospital admission
SENTINEL = 999_999

FULL = ("count", "first", "last", "min", "max", "mean", "slope")
SHORT = ("count", "last", "min", "max")
RARE = ("count", "last")
DOSE = ("count", "sum")


@dataclasses.dataclass(frozen=True)
class Signal:
  """A measurement over time.

  Attributes:
    table: labevents, chartevents, inputevents or outputevents.
    items: its item ids.
    unit: of the feature; "" where there is none, and no record's unit is looked at.
    low, high: plausible range in the unit.
    stats: of FULL: count of the records (0 where nothing was recorded; the others are NaN), first,
      last, min, max, mean, slope (least squares, units a day); "sum" for doses and volumes.
    filed: item id -> unit of its values where the record names none; of other items it is `unit`.
    factor: item id -> number by which its values are multiplied besides, unless the kind of the
      unit says it.
    kinds: what may be written behind a unit -> number by which such values are multiplied.
    other: unit -> (lowest, highest) number that can only be of it (see units.py).
  """
  table: str
  items: tuple
  unit: str
  low: float
  high: float
  stats: tuple
  filed: dict = dataclasses.field(default_factory=dict)
  factor: dict = dataclasses.field(default_factory=dict)
  kinds: dict = dataclasses.field(default_factory=dict)
  other: dict = dataclasses.field(default_factory=dict)


def _lab(unit, low, high, *items, stats=FULL, **more):
  return Signal("labevents", items, unit, low, high, stats, **more)


def _chart(unit, low, high, *items, stats=FULL, **more):
  return Signal("chartevents", items, unit, low, high, stats, **more)


def _given(unit, low, high, *items):
  return Signal("inputevents", items, unit, low, high, DOSE)


def _counted(*items):
  """Drugs whose amounts come in units that nothing converts (a dose, mL of one mEq): counted."""
  return Signal("inputevents", items, "", 0, SENTINEL, ("count",))


def _out(*items, **more):
  return Signal("outputevents", items, "mL", -5000, 10000, ("count", "sum", "last"), **more)


SIGNALS = {
    # Chemistry
    "creatinine": _lab("mg/dL", 0, 40, 50912), "bun": _lab("mg/dL", 0, 300, 51006),
    "sodium": _lab("mEq/L", 80, 200, 50983, 50824),
    "potassium": _lab("mEq/L", 1, 12, 50971, 50822),
    "chloride": _lab("mEq/L", 50, 170, 50902, 50806),
    "bicarbonate": _lab("mEq/L", 1, 65, 50882, 50803),
    "anion_gap": _lab("mEq/L", -10, 60, 50868),
    "glucose": _lab("mg/dL", 10, 2000, 50931, 50809),
    "calcium": _lab("mg/dL", 2, 20, 50893), "magnesium": _lab("mg/dL", 0.3, 12, 50960),
    "phosphate": _lab("mg/dL", 0.1, 20, 50970),
    "free_calcium": _lab("mmol/L", 0.2, 3, 50808, stats=SHORT),
    "albumin": _lab("g/dL", 0.2, 8, 50862, stats=SHORT),
    "protein": _lab("g/dL", 1, 15, 50976, stats=RARE),
    "bilirubin": _lab("mg/dL", 0, 100, 50885),
    "bilirubin_direct": _lab("mg/dL", 0, 100, 50883, stats=RARE),
    "ast": _lab("IU/L", 0, 50000, 50878, stats=SHORT),
    "alt": _lab("IU/L", 0, 50000, 50861, stats=SHORT),
    "alkaline_phosphatase": _lab("IU/L", 0, 10000, 50863, stats=SHORT),
    "ldh": _lab("IU/L", 0, 50000, 50954, stats=SHORT),
    "lipase": _lab("IU/L", 0, 20000, 50956, stats=RARE),
    "amylase": _lab("IU/L", 0, 20000, 50867, stats=RARE),
    "ammonia": _lab("umol/L", 0, 1500, 50866, stats=RARE),
    "uric_acid": _lab("mg/dL", 0, 40, 51007, stats=RARE),
    "osmolality": _lab("mOsm/kg", 150, 500, 50964, stats=RARE),
    "cholesterol": _lab("mg/dL", 10, 1000, 50907, stats=RARE),
    "triglycerides": _lab("mg/dL", 5, 10000, 51000, stats=RARE),
    "hba1c": _lab("%", 2, 25, 50852, stats=RARE), "tsh": _lab("uIU/mL", 0, 200, 50993, stats=RARE),
    "iron": _lab("ug/dL", 0, 1000, 50952, stats=RARE),
    "ferritin": _lab("ng/mL", 0, 100000, 50924, stats=RARE),
    "crp": _lab("mg/L", 0, 1000, 50889, stats=SHORT),
    "vancomycin": _lab("ug/mL", 0, 150, 51009, stats=SHORT),
    # Heart
    "troponin_t": _lab("ng/mL", 0, 200, 51003, stats=SHORT),
    "ck": _lab("IU/L", 0, 500000, 50910, stats=SHORT),
    "ck_mb": _lab("ng/mL", 0, 5000, 50911, stats=SHORT),
    "nt_probnp": _lab("pg/mL", 0, 200000, 50963, stats=SHORT),
    # Blood gases
    "lactate": _lab("mmol/L", 0, 40, 50813), "ph": _lab("", 6.5, 8, 50820),
    # one item id for arterial and venous blood
    "pco2": _lab("mmHg", 5, 250, 50818), "po2": _lab("mmHg", 10, 800, 50821),
    "base_excess": _lab("mEq/L", -60, 60, 50802), "lab_sao2": _lab("%", 10, 100, 50817, stats=RARE),
    "lab_fio2": _lab("%", 21, 100, 50816, stats=SHORT, other=units.FRACTION),
    "methemoglobin": _lab("%", 0, 100, 50814, stats=RARE),
    # Blood count
    "hemoglobin": _lab("g/dL", 1, 25, 51222, 50811), "hematocrit": _lab("%", 3, 75, 51221, 50810),
    "wbc": _lab("K/uL", 0, 500, 51301, 51300), "platelets": _lab("K/uL", 0, 2500, 51265),
    "rbc": _lab("m/uL", 0.3, 10, 51279, stats=SHORT), "rdw": _lab("%", 5, 50, 51277, stats=SHORT),
    "mcv": _lab("fL", 40, 150, 51250, stats=RARE), "mch": _lab("pg", 5, 60, 51248, stats=RARE),
    "mchc": _lab("g/dL", 15, 50, 51249, stats=RARE),
    "neutrophils": _lab("%", 0, 100, 51256, stats=SHORT),
    "lymphocytes": _lab("%", 0, 100, 51244, stats=SHORT),
    "monocytes": _lab("%", 0, 100, 51254, stats=RARE),
    "eosinophils": _lab("%", 0, 100, 51200, stats=RARE),
    "bands": _lab("%", 0, 100, 51144, stats=SHORT),
    # Coagulation
    "inr": _lab("", 0.3, 30, 51237), "pt": _lab("s", 5, 200, 51274, stats=SHORT),
    "ptt": _lab("s", 5, 400, 51275), "fibrinogen": _lab("mg/dL", 10, 2000, 51214, stats=SHORT),
    "d_dimer": _lab("ng/mL", 0, 100000, 50915, 51196, 52551, stats=RARE,
                    # a D-dimer unit is half of the others' FEU
                    factor={52551: 2}, kinds={"feu": 1, "ddu": 2}),
    # Urine
    "urine_gravity": _lab("", 1, 1.1, 51498, stats=RARE, other=units.THOUSANDTHS),
    "urine_ph": _lab("", 3, 11, 51491, stats=RARE),
    # Vital signs
    "heart_rate": _chart("/min", 0, 300, 220045),
    "systolic": _chart("mmHg", 0, 320, 220050, 220179, 225309),
    "diastolic": _chart("mmHg", 0, 250, 220051, 220180, 225310),
    "mean_pressure": _chart("mmHg", 0, 280, 220052, 220181, 225312),
    "respiration": _chart("/min", 0, 90, 220210, 224690), "spo2": _chart("%", 10, 100, 220277),
    "temperature": _chart("C", 25, 45, 223762, 223761, filed={223761: "F"},
                          other=units.TEMPERATURE),
    "cvp": _chart("mmHg", -10, 60, 220074, stats=SHORT),
    "icp": _chart("mmHg", -10, 120, 220765, 227989, stats=SHORT),
    "pa_systolic": _chart("mmHg", 0, 200, 220059, stats=SHORT),
    "cardiac_output": _chart("L/min", 0, 25, 220088, 224842, 227543, stats=SHORT),
    "bedside_glucose": _chart("mg/dL", 10, 2000, 225664, 220621, 226537),
    # Consciousness, pain, skin
    "gcs_eyes": _chart("", 1, 4, 220739), "gcs_verbal": _chart("", 1, 5, 223900),
    "gcs_motor": _chart("", 1, 6, 223901), "rass": _chart("", -5, 4, 228096, stats=SHORT),
    "pain": _chart("", 0, 10, 223791, stats=SHORT),
    "braden_activity": _chart("", 1, 4, 224056, stats=RARE),
    "braden_mobility": _chart("", 1, 4, 224057, stats=RARE),
    # Body
    "weight": _chart("kg", 20, 400, 226512, 224639, 226531, stats=("count", "first", "last"),
                     filed={226531: "lb"}),
    "height": _chart("cm", 100, 240, 226730, 226707, stats=RARE, filed={226707: "inch"},
                     other=units.HEIGHT),
    # Breathing support
    "fio2": _chart("%", 21, 100, 223835, other=units.FRACTION),
    "oxygen_flow": _chart("L/min", 0, 100, 223834, 227582, stats=SHORT),
    "peep": _chart("cmH2O", 0, 40, 220339, 224700),
    "tidal_volume": _chart("mL", 50, 2000, 224684, 224685, 224686, stats=SHORT,
                           other=units.LITRES),
    "minute_volume": _chart("L/min", 0, 60, 224687, stats=SHORT),
    "vent_rate": _chart("/min", 0, 60, 224688, stats=SHORT),
    "peak_pressure": _chart("cmH2O", 0, 100, 224695, stats=SHORT),
    "plateau": _chart("cmH2O", 0, 80, 224696, stats=SHORT),
    "airway_pressure": _chart("cmH2O", 0, 60, 224697, stats=SHORT),
    # Given
    "norepinephrine": _given("mg", 0, 1000, 221906),
    "epinephrine": _given("mg", 0, 1000, 221289, 229617),
    "phenylephrine": _given("mg", 0, 5000, 221749, 229630, 229632),
    "vasopressin": _given("units", 0, 5000, 222315), "dopamine": _given("mg", 0, 20000, 221662),
    "dobutamine": _given("mg", 0, 20000, 221653), "milrinone": _given("mg", 0, 1000, 221986),
    "propofol": _given("mg", 0, 50000, 222168), "midazolam": _given("mg", 0, 5000, 221668),
    "fentanyl": _counted(221744, 225942), "dexmedetomidine": _counted(225150, 229420),
    "morphine": _counted(225154),
    "insulin_drip": _given("units", 0, 5000, 223258),
    "heparin_drip": _given("units", 0, 200000, 225152),
    "amiodarone_drip": _counted(221347, 228339, 229654, 230034),
    "furosemide_drip": _given("mg", 0, 5000, 221794, 228340),
    "saline": _given("mL", 0, 20000, 225158), "ringers": _given("mL", 0, 20000, 225828),
    "albumin_given": _given("mL", 0, 10000, 220862, 220864),
    "red_cells": _given("mL", 0, 20000, 225168), "plasma": _given("mL", 0, 20000, 220970),
    "platelets_given": _given("mL", 0, 20000, 225170),
    "bicarbonate_given": _counted(220995, 225165),
    # Output
    "urine": _out(226559, 226560, 226561, 226584, 226563, 226564, 226565, 226567, 226557, 226558,
                  227488, 227489, factor={227488: -1}),   # irrigant in: negative
    "chest_tube": _out(226588, 226589, 229413, 229414, 226590, 226591, 226592, 226593, 226595),
    "gastric": _out(226573, 226575, 226576), "stool": _out(226579, 226580),
    "drain": _out(226599, 226600, 226601, 226602),
}

# Any of these items begun before the row: 1, else 0 (icu.procedureevents).
PROCEDURES = {
    "ventilated": (225792,), "noninvasive_ventilation": (225794,), "intubated": (224385,),
    "extubated": (227194, 225468, 225477),
    "dialysis": (225441, 225802, 225803, 225805, 225809, 225955),
    "arterial_line": (225752,),
    "central_line": (224263, 224264, 224267, 224268, 224273, 225199, 225315, 229516, 229526,
                     229531),
    "dialysis_line": (224270,), "pa_catheter": (224269, 224560),
    "mechanical_circulatory_support": (224272, 228169),     # balloon pump, Impella
    "icp_monitor": (226124, 226474, 229518, 229533), "bronchoscopy": (225400,),
    "ct_scan": (221214, 229582), "echo": (225432, 221255), "mri": (223253,),
    "xray": (221216, 225457, 225459, 229581), "cultures": (225401, 225437, 225444, 225451, 225454),
}

# Searched in the lower-cased names of prescriptions.drug and emar.medication.
DRUGS = {
    "vasopressor": "norepinephrine|phenylephrine|vasopressin|^epinephrine|dopamine",
    "inotrope": "dobutamine|milrinone|digoxin",
    "beta_blocker": "metoprolol|atenolol|carvedilol|labetalol|propranolol|esmolol|bisoprolol",
    "calcium_blocker": "diltiazem|amlodipine|verapamil|nifedipine|nicardipine",
    "ace_inhibitor": r"lisinopril|captopril|enalapril|ramipril|losartan|valsartan",
    # lidocaine is nearly always a local anaesthetic
    "antiarrhythmic": "amiodarone|sotalol|procainamide",
    "diuretic": "furosemide|torsemide|bumetanide|spironolactone|hydrochlorothiazide|metolazone",
    "statin": "vastatin", "antiplatelet": "aspirin|clopidogrel|ticagrelor|prasugrel",
    "anticoagulant": "^heparin( sodium| iv|$)|warfarin|enoxaparin|apixaban|rivaroxaban|argatroban",
    "insulin": "insulin", "oral_antidiabetic": "metformin|glipizide|glyburide|sitagliptin",
    "steroid": "prednisone|methylprednisolone|hydrocortisone|dexamethasone",
    "opioid": "morphine|hydromorphone|oxycodone|fentanyl|tramadol|methadone",
    "sedative": "propofol|midazolam|lorazepam|diazepam|dexmedetomidine",
    "antipsychotic": "haloperidol|quetiapine|olanzapine|risperidone",
    "antidepressant": "sertraline|citalopram|fluoxetine|trazodone|mirtazapine|venlafaxine",
    "antiepileptic": "levetiracetam|phenytoin|valpro|lamotrigine|gabapentin",
    "vancomycin": "vancomycin", "broad_antibiotic": "piperacillin|cefepime|meropenem|ceftazidime",
    "other_antibiotic": "cefazolin|ceftriaxone|ciprofloxacin|levofloxacin|metronidazole|"
                        "ampicillin|azithromycin|clindamycin|linezolid|daptomycin|gentamicin",
    "antifungal": "fluconazole|micafungin|voriconazole|caspofungin",
    "antiviral": "acyclovir|ganciclovir|oseltamivir|remdesivir",
    "acid_suppressant": "pantoprazole|omeprazole|famotidine|ranitidine|lansoprazole",
    "bronchodilator": "albuterol|ipratropium|tiotropium",
    "immunosuppressant": "tacrolimus|cyclosporin|mycophenol|azathioprine",
    "chemotherapy": "cytarabine|cisplatin|cyclophosphamide|rituximab|methotrexate|doxorubicin",
    "lactulose": "lactulose|rifaximin", "potassium_given": "potassium chloride",
    "magnesium_given": "magnesium sulfate", "nutrition": "parenteral nutrition|fat emulsion|^tpn",
    "naloxone": "naloxone", "thyroid": "levothyroxine",
}

# microbiologyevents.spec_type_desc, searched in lower case: samples taken, organisms reported.
SPECIMENS = {"blood": "blood culture", "urine": "^urine", "airway": "sputum|bronch|bal$|trache",
             "stool": "stool", "screen": "mrsa|screen|swab", "fluid": "fluid|abscess|tissue|csf"}

SERVICES = {"medicine": "^med", "cardiology": "^cmed", "cardiac_surgery": "^csurg",
            "surgery": "^surg|^vsurg|^tsurg|^trau|^ortho|^gu$|^ent$|^psurg|^eye|^dent",
            "neurology": "^nmed", "neurosurgery": "^nsurg", "oncology": "^omed",
            "obstetrics": "^gyn|^obs", "psychiatry": "^psych"}

UNITS = {"micu": "^medical intensive", "sicu": "^surgical intensive|trauma sicu",
         "mixed_icu": "medical/surgical intensive", "ccu": "coronary", "cvicu": "cardiac vascular",
         "neuro_icu": "neuro surgical intensive|neuro sicu", "emergency": "emergency",
         "stepdown": "intermediate|stepdown"}

ADMISSION = {
    "admission_type": {"urgent": "urgent", "emergency": "emer", "observation": "observation",
                       "elective": "elective|surgical same day"},
    "admission_location": {"from_emergency": "emergency room", "from_referral": "referral",
                           "from_hospital": "transfer from hospital",
                           "from_nursing": "skilled nursing", "from_procedure": "procedure|pacu"},
    "insurance": {"medicare": "medicare", "medicaid": "medicaid", "private": "private"},
    "marital_status": {"married": "married", "single": "single", "widowed": "widowed",
                       "divorced": "divorced"},
    "language": {"english": "^english$"},
}


def feature_names():
  """The names of the structured features in their order; the same for every folder."""
  names = ["age", "male", "hour_of_admission", "hours_since_admission", "in_emergency_hours"]
  names += [name for groups in ADMISSION.values() for name in groups]
  names += ["earlier_admissions", "earlier_admissions_year", "earlier_icu_stays",
            "days_since_discharge", "earlier_days", "earlier_diagnoses", "earlier_procedures"]
  names += [f"had_{name}" for name in codes.CONDITIONS]
  names += ["bmi", "outpatient_weight", "outpatient_systolic"]
  names += ["services", *(f"service_{name}" for name in SERVICES)]
  names += ["transfers", "icu_stays", "icu_hours", "in_icu", *(f"unit_{name}" for name in UNITS)]
  for name, signal in SIGNALS.items():
    names += [f"{name}_{stat}" for stat in signal.stats]
  names += [f"procedure_{name}" for name in PROCEDURES]
  names += ["orders", *(f"ordered_{name}" for name in DRUGS)]
  names += ["administrations", *(f"given_{name}" for name in DRUGS)]
  names += [f"samples_{name}" for name in SPECIMENS]
  names += ["organisms", *(f"organism_{name}" for name in SPECIMENS), "resistant"]
  return tuple(names)


def main(_):
  """Prints the table."""
  line = "{:<22} {:<12} {:>8} {:>16}  {:<44} {:<36} {}"
  print(line.format("signal", "table", "unit", "range", "statistics", "item ids",
                    "what is read otherwise"))
  for name, s in SIGNALS.items():
    more = [f"{item}: in {unit}" for item, unit in s.filed.items()]
    more += [f"{item}: times {factor:g}" for item, factor in s.factor.items()]
    more += [f"{kind.upper()}: times {factor:g}" for kind, factor in s.kinds.items()]
    more += [f"{low:g} to {high:g}: {unit}" for unit, (low, high) in s.other.items()]
    print(line.format(name, s.table, s.unit, f"{s.low:g} to {s.high:g}", ", ".join(s.stats),
                      ", ".join(map(str, s.items)), "; ".join(more)).rstrip())
  print("\nUnits that a record may name, and one of each in the signal's unit:")
  for name, s in SIGNALS.items():
    found = units.told(s.unit, name)
    if found:
      print(f"  {name:<24} {found}")
  print("\nProcedures (procedureevents, begun before the row):")
  for name, items in PROCEDURES.items():
    print(f"  {name:<24} {', '.join(map(str, items))}")
  for title, patterns in (("Drugs (prescriptions.drug, emar.medication)", DRUGS),
                          ("Samples (microbiologyevents.spec_type_desc)", SPECIMENS),
                          ("Services (services.curr_service)", SERVICES),
                          ("Units (transfers.careunit)", UNITS),
                          *((f"Admission (admissions.{c})", p) for c, p in ADMISSION.items())):
    print(f"\n{title}:")
    for name, pattern in patterns.items():
      print(f"  {name:<24} {pattern}")
  print("\nEarlier admissions (diagnoses_icd of admissions that had ended): codes.py")
  print(f"\n{len(feature_names())} features in all; a missing value has an indicator of its own.")


if __name__ == "__main__":
  commands.run(main, "crl_jax.data.mimic.items")
