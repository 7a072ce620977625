"""Words of the eICU tables by clinical meaning: feature -> regular expression, matched in
lower-cased text.

Used by features.py. Fixed lists, written from the database's own vocabularies and drug names.
"""

# Drug classes by name; the codes are First Databank's HICL sequence numbers (39% of the orders have
# no name).
DRUGS = {
    "vasopressor": "norepinephrine|levophed|vasopressin|phenylephrine|neo-?synephrine"
                   "|(^|[^r])epinephrine|adrenalin|dopamine",
    "inotrope": "dobutamine|milrinone",
    "sedative": "propofol|diprivan|dexmedetomidine|precedex|midazolam|versed|ketamine",
    "benzodiazepine": "lorazepam|ativan|diazepam|valium|alprazolam|xanax|clonazepam"
                      "|chlordiazepoxide",
    "opioid": "morphine|fentanyl|hydromorphone|dilaudid|oxycodone|percocet|hydrocodone|norco"
              "|tramadol|meperidine",
    "paralytic": "rocuronium|vecuronium|cisatracurium|succinylcholine|etomidate",
    "antipsychotic": "haloperidol|haldol|quetiapine|seroquel|olanzapine|risperidone",
    "antiarrhythmic": "amiodarone|cordarone|digoxin|lanoxin|lidocaine .*(iv|premix)|sotalol"
                      "|adenosine",
    "beta_blocker": "metoprolol|lopressor|toprol|carvedilol|coreg|labetalol|atenolol|esmolol"
                    "|bisoprolol|propranolol",
    "calcium_blocker": "diltiazem|cardizem|amlodipine|norvasc|nicardipine|verapamil|nifedipine",
    "ace_arb": "lisinopril|enalapril|captopril|ramipril|benazepril|losartan|valsartan|irbesartan",
    "nitrate_vasodilator": "nitroglycerin|isosorbide|hydralazine|nitroprusside|clonidine",
    "statin": "atorvastatin|lipitor|simvastatin|zocor|pravastatin|rosuvastatin|crestor",
    "antiplatelet": "aspirin|ecotrin|clopidogrel|plavix|ticagrelor|prasugrel|eptifibatide",
    "anticoagulant": "heparin|enoxaparin|lovenox|warfarin|coumadin"
                     "|fondaparinux|apixaban|rivaroxaban|argatroban|dalteparin",
    "thrombolytic": "alteplase|tenecteplase|activase",
    "vitamin_k_reversal": "phytonadione|vitamin k|protamine|kcentra",
    "loop_diuretic": "furosemide|lasix|bumetanide|bumex|torsemide",
    "other_diuretic": "spironolactone|hydrochlorothiazide|metolazone|acetazolamide|mannitol",
    "insulin": "insulin|novolog|humalog|lantus|levemir",
    "dextrose_rescue": "dextrose 50|glucagon|glucagen|glucose 40",
    "steroid": "prednisone|methylprednisolone|solu-?medrol|hydrocortisone|solu-?cortef"
               "|dexamethasone|decadron",
    "vancomycin_linezolid": "vancomycin|vancocin|linezolid|daptomycin",
    "broad_antibiotic": "piperacillin|zosyn|meropenem|imipenem|cefepime|ertapenem|aztreonam"
                        "|doripenem|ceftazidime",
    "other_antibiotic": "ceftriaxone|rocephin|cefazolin|levofloxacin|levaquin|ciprofloxacin"
                        "|azithromycin"
                        "|metronidazole|flagyl|clindamycin|ampicillin|unasyn|gentamicin|tobramycin"
                        "|doxycycline",
    "antifungal_antiviral": "fluconazole|micafungin|caspofungin|voriconazole|acyclovir|oseltamivir"
                            "|valacyclovir",
    "bronchodilator": "albuterol|ipratropium|duoneb|atrovent|levalbuterol|xopenex|tiotropium"
                      "|budesonide",
    "acid_suppression": "pantoprazole|protonix|famotidine|pepcid|omeprazole|esomeprazole|ranitidine"
                        "|lansoprazole",
    "antiemetic": "ondansetron|zofran|promethazine|metoclopramide|reglan|prochlorperazine",
    "bicarbonate": "sodium bicarbonate|sodium bicarb", "calcium": "calcium (gluconate|chloride)",
    "potassium": "potassium (chloride|phosphate)|kcl|k-?dur|klor",
    "magnesium": "magnesium (sulfate|oxide)",
    "albumin_product": "albumin|buminate|albuminar",
    "anticonvulsant": "levetiracetam|keppra|phenytoin|valpro|lacosamide",
    "lactulose": "lactulose|rifaximin", "kayexalate": "polystyrene|kayexalate",
    "thiamine_folate": "thiamine|folic acid|multivit",
    "bowel_regimen": "docusate|colace|senn|bisacodyl|polyethylene glycol",
    "secretion_control": "glycopyrrolate|scopolamine|transderm|atropine",
    "thyroid": "levothyroxine|synthroid",
    "antidepressant": "sertraline|citalopram|trazodone|fluoxetine|escitalopram",
    "naloxone": "naloxone|narcan", "acetaminophen": "acetaminophen|tylenol|ofirmev",
    "crystalloid": "sodium chloride 0\\.9|nacl 0\\.9|lactated ringer|normal saline",
}
HICL = {
    "vasopressor": (2051, 36346, 2087, 2059, 2839, 2050), "sedative": (4842, 1619, 34908, 20971),
    "benzodiazepine": (4846, 1615, 1617),
    "opioid": (1694, 25386, 6438, 1695, 34805, 1742, 1741, 1730, 8317, 25277, 33243),
    "paralytic": (1948, 8963, 1554), "antipsychotic": (1661, 14015), "antiarrhythmic": (83, 4),
    "beta_blocker": (2102, 6323, 13795, 2095, 2104), "calcium_blocker": (182, 6494),
    "ace_arb": (132, 9829),
    "nitrate_vasodilator": (159, 5888, 89, 113, 6341), "statin": (12404, 6312, 6227),
    "antiplatelet": (1820, 17539), "anticoagulant": (2810, 7878, 2812, 2808, 33314),
    "thrombolytic": (2803,), "vitamin_k_reversal": (1040,), "loop_diuretic": (3660, 3664),
    "other_diuretic": (2901, 3649), "insulin": (768, 20769, 11528, 22025, 26407),
    "dextrose_rescue": (926, 19078, 807), "steroid": (2879, 2876, 36808, 2888),
    "vancomycin_linezolid": (4042, 10093, 8466), "broad_antibiotic": (8738, 32900, 11254, 10132),
    "other_antibiotic": (3996, 33094, 3976, 12383, 12384, 6334, 8259, 4157),
    "bronchodilator": (2073, 9040, 57, 24024, 19963),
    "acid_suppression": (22008, 4521, 35085, 4673),
    "antiemetic": (33598, 6055, 19058, 2148, 12014, 1628), "bicarbonate": (523,),
    "calcium": (585, 582),
    "potassium": (549, 551, 14772), "magnesium": (610, 6306, 609), "albumin_product": (2728,),
    "anticonvulsant": (20952,), "lactulose": (1396,), "kayexalate": (13209,),
    "thiamine_folate": (1075, 1062, 1099), "bowel_regimen": (1326, 1301, 22819, 21772, 1289),
    "secretion_control": (2028, 12306, 2004), "thyroid": (2849,),
    "antidepressant": (6324, 10321, 1652),
    "naloxone": (1874,), "acetaminophen": (1866,), "crystalloid": (8255, 525),
}

DIAGNOSES = {
    "respiratory_failure": "respiratory failure", "ards": "\\|ards",
    "pneumonia": "pneumonia|pulmonary infections",
    "airway_disease": "disorders of the airways|copd|asthma",
    "pleural": "pleural", "pulmonary_embolism": "pulmonary embol",
    "lung_parenchyma": "lung parenchyma",
    "sepsis": "sepsis", "septic_shock": "septic shock", "shock": "shock / hypotension",
    "cardiogenic_shock": "cardiogenic", "hypovolemia": "hypovol",
    "cardiac_arrest": "cardiac arrest",
    "heart_failure": "heart failure|cardiomyopathy|pulmonary edema",
    "acute_coronary": "chest pain / ashd|myocardial infarction|acute coronary",
    "arrhythmia": "\\|arrhythmias", "atrial_fibrillation": "atrial fibrillation",
    "hypertension": "\\|hypertension", "valve": "valvular",
    "vascular": "vascular disorders|post vascular|aorta", "cardiac_surgery": "cardiac surgery",
    "acute_kidney": "acute renal failure", "chronic_kidney": "chronic renal|esrd|end stage renal",
    "acidosis": "acidosis|acid base",
    "electrolytes": "electrolyte|hyperkal|hypokal|hyponat|hypernat",
    "fluid_imbalance": "fluid imbalance|fluids and electrolytes",
    "mental_status": "altered mental status",
    "coma": "\\|coma", "anoxic": "anoxic", "encephalopathy": "encephalopathy", "stroke": "stroke",
    "intracranial_bleed": "hemorrhagic stroke|subarachnoid|intracerebral|subdural|intracranial",
    "seizure": "seizure", "neurosurgery": "post-neurosurgery|craniotomy", "gi_bleed": "gi bleeding",
    "hepatic": "hepatic", "cirrhosis": "cirrhosis", "pancreas": "pancrea",
    "bowel": "intestinal disease|obstruction|ischemic bowel|perforation",
    "gi_surgery": "post-gi surgery",
    "malnutrition": "malnutrition", "anemia": "red blood cell|anemia",
    "bleeding": "hemorrhage|bleeding",
    "platelets": "platelet", "coagulopathy": "coagulation|\\|dic",
    "white_cells": "white blood cell",
    "diabetes": "glucose metabolism|diabet", "ketoacidosis": "dka|ketoacid",
    "endocrine_other": "thyroid|adrenal", "overdose": "drug overdose", "withdrawal": "withdrawal",
    "trauma": "trauma", "cancer": "^oncology|tumor|malignan", "metastatic": "metasta",
    "blood_cancer": "leukemia|lymphoma|hematologic malig|myeloma",
    "urinary_infection": "gu infections|urinary tract",
    "other_infection": "systemic/other infections|skin, bone and joint|gi infections",
    "transplant": "transplant",
}

ADMISSION_DX = {
    "dx_operative": "\\|operative", "dx_elective": "elective\\|yes",
    "dx_transfer": "another hospital.*\\|yes", "dx_cardiovascular": "organ system\\|cardio",
    "dx_respiratory": "organ system\\|resp", "dx_neurologic": "organ system\\|neuro",
    "dx_gastrointestinal": "organ system\\|gastro", "dx_metabolic": "organ system\\|metab",
    "dx_trauma": "organ system\\|trauma", "dx_genitourinary": "organ system\\|genito",
    "dx_hematology": "organ system\\|hemat", "dx_musculoskeletal": "organ system\\|musc",
    "dx_sepsis": "\\|sepsis", "dx_sepsis_pulmonary": "\\|sepsis, pulm",
    "dx_cardiac_arrest": "\\|cardiac arrest", "dx_respiratory_arrest": "\\|arrest, resp",
    "dx_heart_failure": "\\|chf", "dx_infarction": "\\|infarction, acute",
    "dx_angina": "\\|angina|\\|chest pain", "dx_rhythm": "\\|rhythm",
    "dx_cardiogenic_shock": "\\|shock, cardiogenic", "dx_pneumonia": "\\|pneumonia",
    "dx_copd_asthma": "\\|emphysema|\\|asthma", "dx_embolus": "\\|embolus", "dx_stroke": "\\|cva",
    "dx_intracranial": "\\|hemorrhage/hematoma|\\|subarachnoid|\\|subdural",
    "dx_seizure": "\\|seizure",
    "dx_coma": "\\|coma", "dx_overdose": "\\|overdose", "dx_withdrawal": "\\|drug withdrawal",
    "dx_diabetes": "\\|diabetic", "dx_gi_bleed": "\\|bleeding",
    "dx_hepatic": "hepatic failure|hepato-renal|\\|cirrhosis", "dx_gi_obstruction": "obstruction",
    "dx_gi_perforation": "perforation|ischemi", "dx_renal_failure": "\\|renal failure",
    "dx_hypertension": "\\|hypertension", "dx_cabg": "\\|cabg", "dx_valve": "valve",
    "dx_vascular_surgery": "endarterectomy|aneurysm|bypass",
    "dx_cancer": "cancer|neoplasm|leukemia",
    "dx_craniotomy": "craniotomy",
}

HISTORY = {
    "none": "no health problems", "not_obtainable": "not obtainable",
    "hypertension": "hypertension requiring", "heart_failure": "congestive heart failure",
    "heart_failure_severe": "chf - class (iii|iv)", "infarction": "myocardial infarction",
    "angina": "/angina", "coronary_procedure": "coronary (intervention|artery bypass)",
    "valve": "valve disease", "atrial_fibrillation": "atrial fibrillation",
    "other_arrhythmia": "arrhythmias/(?:s|v)", "pacemaker": "pacemaker|aicd",
    "peripheral_vascular": "peripheral vascular", "thrombosis": "thrombosis|pulmonary embolism",
    "copd": "/copd", "copd_severe": "copd  - severe", "asthma": "asthma",
    "home_oxygen": "home oxygen",
    "restrictive_lung": "restrictive|respiratory failure", "stroke": "strokes|tia",
    "dementia": "dementia",
    "seizures": "seizures", "neuromuscular": "neuromuscular",
    "insulin_diabetes": "/insulin dependent",
    "other_diabetes": "non-insulin dependent", "hypothyroid": "hypothyroid", "steroids": "steroid",
    "renal_insufficiency": "renal insufficiency|not currently dialyzed",
    "dialysis": "hemodialysis|peritoneal", "transplant": "transplant", "cirrhosis": "cirrhosis",
    "ulcer": "peptic ulcer", "cancer": "/cancer/|cancer therapy", "metastases": "metastases",
    "blood_cancer": "hematologic malignancy", "chemotherapy": "chemotherapy|radiation therapy",
    "immunosuppression": "immunosuppression", "hiv": "/hiv|aids", "rheumatic": "rheumat|sle",
}
