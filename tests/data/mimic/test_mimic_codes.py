"""Which ICD codes and names of drugs belong to which feature of MIMIC-IV, written a second time, on
purpose: who changes one by mistake meets this file, who means it changes both."""

import numpy as np
import pandas as pd

from crl_jax.data.mimic import features as mimic_features, items as mimic_items
from crl_jax.data.tables import source as tables

# Quan et al. 2005, and the groups beyond theirs (from hypertension on); x-y is a range of codes
CODES = {
    "infarct": ("410 412", "I21 I22 I25.2"),
    "heart_failure": ("398.91 402.01 402.11 402.91 404.01 404.03 404.11 404.13 404.91 404.93 "
                      "425.4-425.9 428",
                      "I09.9 I11.0 I13.0 I13.2 I25.5 I42.0 I42.5-I42.9 I43 I50 P29.0"),
    "vascular": ("093.0 437.3 440 441 443.1-443.9 447.1 557.1 557.9 V43.4",
                 "I70 I71 I73.1 I73.8 I73.9 I77.1 I79.0 I79.2 K55.1 K55.8 K55.9 Z95.8 Z95.9"),
    "stroke": ("362.34 430-438", "G45 G46 H34.0 I60-I69"),
    "dementia": ("290 294.1 331.2", "F00-F03 F05.1 G30 G31.1"),
    "lung": ("416.8 416.9 490-505 506.4 508.1 508.8",
             "I27.8 I27.9 J40-J47 J60-J67 J68.4 J70.1 J70.3"),
    "rheumatic": ("446.5 710.0-710.4 714.0-714.2 714.8 725",
                  "M05 M06 M31.5 M32-M34 M35.1 M35.3 M36.0"),
    "ulcer": ("531-534", "K25-K28"),
    "liver_mild": ("070.22 070.23 070.32 070.33 070.44 070.54 070.6 070.9 570 571 573.3 573.4 "
                   "573.8 573.9 V42.7",
                   "B18 K70.0-K70.3 K70.9 K71.3-K71.5 K71.7 K73 K74 K76.0 K76.2-K76.4 K76.8 K76.9 "
                   "Z94.4"),
    "liver_severe": ("456.0-456.2 572.2-572.8",
                     "I85.0 I85.9 I86.4 I98.2 K70.4 K71.1 K72.1 K72.9 K76.5-K76.7"),
    "diabetes": ("250.0-250.3 250.8 250.9",
                 " ".join(f"E{n}.{d}" for n in range(10, 15) for d in (0, 1, 6, 8, 9))),
    "diabetes_complicated": ("250.4-250.7",
                             " ".join(f"E{n}.{d}" for n in range(10, 15) for d in (2, 3, 4, 5, 7))),
    "paralysis": ("334.1 342 343 344.0-344.6 344.9",
                  "G04.1 G11.4 G80.1 G80.2 G81 G82 G83.0-G83.4 G83.9"),
    "kidney": ("403.01 403.11 403.91 404.02 404.03 404.12 404.13 404.92 404.93 582 583.0-583.7 585 "
               "586 588.0 V42.0 V45.1 V56",
               "I12.0 I13.1 N03.2-N03.7 N05.2-N05.7 N18 N19 N25.0 Z49.0-Z49.2 Z94.0 Z99.2"),
    "cancer": ("140-172 174-195 200-208 238.6",
               "C00-C26 C30-C34 C37-C41 C43 C45-C58 C60-C76 C81-C85 C88 C90-C97"),
    "metastasis": ("196-199", "C77-C80"),
    "aids": ("042-044", "B20-B22 B24"),
    "hypertension": ("401-405", "I10-I13 I15"), "arrhythmia": ("427", "I47-I49"),
    "valve": ("394-397 424", "I05-I08 I34-I39"),
    "sepsis": ("038 995.91 995.92 785.52", "A40 A41 R65.2"),
    "respiratory_failure": ("518.8", "J96"), "pneumonia": ("480-486", "J12-J18"),
    "acute_kidney_injury": ("584", "N17"), "obesity": ("278.0", "E66"),
    "anemia": ("280-285", "D50-D64"), "coagulopathy": ("286 287.1-287.5", "D65-D69"),
    "depression": ("296.2 296.3 311", "F32 F33"), "alcohol": ("291 303 305.0", "F10"),
    "drugs": ("292 304 305.2-305.9", "F11-F16 F18 F19")}


def prefixes(text):
  """The starts of codes, without dots, that a text of CODES names."""
  out = []
  for part in text.replace(".", "").split():
    first, _, last = part.partition("-")
    letter = first[:1] if first[0].isalpha() else ""
    number = first[len(letter):]
    end = last[len(letter):] if last else number
    out += [f"{letter}{i:0{len(number)}}" for i in range(int(number), int(end) + 1)]
  return tuple(out)


def test_every_icd_code_is_of_the_groups_of_the_paper():
  digits = range(10)
  nine = [f"{i:03}" for i in range(1000)] + [f"{x}{i:02}" for x in "VE" for i in range(100)]
  fine = {p[:3] for of_nine, _ in CODES.values() for p in prefixes(of_nine) if len(p) > 4}
  nine += [a + str(d) for a in nine for d in digits] + [
      f"{a}{d}{e}" for a in nine if a in fine for d in digits for e in digits]
  ten = [f"{chr(x)}{i:02}" for x in range(65, 91) for i in range(100)]
  ten += [a + str(d) for a in ten for d in digits]
  frame = pd.DataFrame({"icd_code": nine + ten, "icd_version": [9] * len(nine) + [10] * len(ten)})
  frame["person"] = np.arange(len(frame))
  blanks = frame.assign(icd_code=frame.icd_code + "  ")      # as some files have them
  with tables.open_files({}, {}) as source:
    found = mimic_features.conditions_query(source.put(blanks)).to_pandas()
  found = found.sort_values("person")
  assert set(found.columns) == {"person", "part", "n", *CODES}
  for name, (of_nine, of_ten) in CODES.items():
    expected = np.array([c.startswith(prefixes(of_nine)) for c in nine]
                        + [c.startswith(prefixes(of_ten)) for c in ten])
    wrong = frame.icd_code[found[name].to_numpy() != expected]
    assert wrong.empty, (name, wrong.tolist()[:10])


DRUGS = {
    "Norepinephrine": "vasopressor", "PHENYLEPHrine": "vasopressor", "Vasopressin": "vasopressor",
    "EPINEPHrine": "vasopressor", "DOPamine": "vasopressor", "Racepinephrine": "",
    "DOBUTamine": "inotrope", "Milrinone": "inotrope", "Digoxin": "inotrope",
    "Metoprolol Tartrate": "beta_blocker", "Diltiazem": "calcium_blocker",
    "amLODIPine": "calcium_blocker", "Lisinopril": "ace_inhibitor", "Amiodarone": "antiarrhythmic",
    "Sotalol": "antiarrhythmic", "Lidocaine 5% Patch": "", "Lidocaine Jelly 2% (Urojet)": "",
    "Furosemide": "diuretic", "Atorvastatin": "statin", "Aspirin": "antiplatelet",
    "Heparin Sodium": "anticoagulant", "Heparin": "anticoagulant",
    "Heparin Flush (10 units/ml)": "",
    "Insulin": "insulin", "MetFORMIN": "oral_antidiabetic", "PredniSONE": "steroid",
    "Morphine Sulfate": "opioid", "Fentanyl Citrate": "opioid", "Propofol": "sedative",
    "Haloperidol": "antipsychotic", "Sertraline": "antidepressant",
    "LeVETiracetam": "antiepileptic",
    "Vancomycin": "vancomycin", "Meropenem": "broad_antibiotic", "CeftriaXONE": "other_antibiotic",
    "Micafungin": "antifungal", "Acyclovir": "antiviral", "Pantoprazole": "acid_suppressant",
    "Albuterol 0.083% Neb Soln": "bronchodilator", "Tacrolimus": "immunosuppressant",
    "Cytarabine": "chemotherapy", "Lactulose": "lactulose", "Potassium Chloride": "potassium_given",
    "Magnesium Sulfate": "magnesium_given", "Fat Emulsion 20%": "nutrition", "Naloxone": "naloxone",
    "Levothyroxine Sodium": "thyroid", "Acetaminophen": "", "": ""}


def test_every_drug_is_of_its_group():
  frame = pd.DataFrame({"person": range(len(DRUGS)), "part": 0, "n": 2,
                        "name": [name.lower() for name in DRUGS]})
  with tables.open_files({}, {}) as source:
    found = mimic_features.flags_query(source.put(frame), mimic_items.DRUGS).to_pandas()
  assert set(DRUGS.values()) - {""} == set(mimic_items.DRUGS)
  for person, (drug, group) in enumerate(DRUGS.items()):
    flags = found[found.person == person][list(mimic_items.DRUGS)].iloc[0]
    assert flags[flags > 0].to_dict() == ({group: 2} if group else {}), drug
