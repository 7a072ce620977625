"""What is measured in the simulated hospital: real item ids of MIMIC-IV with plausible scales.

Sources: item ids, labels and units as in d_labitems and d_items of the MIMIC-IV demo and in
mimic-code's concepts (github.com/MIT-LCP/mimic-code); means and spreads are round numbers of adult
ICU patients.
"""

import collections

# shape: "n" normal, "l" log-normal (mean is the median, sd that of the logarithm).
# every: hours between two measurements of an average patient, in the ICU for charts, in hospital
# for labs. low, high: reference range.
Item = collections.namedtuple(
    "Item", "id label short category unit shape mean sd digits every low high")

CHARTS = [Item(*row) for row in (
    (220045, "Heart Rate", "HR", "Routine Vital Signs", "bpm", "n", 87, 15, 0, 1.0, None, None),
    (220210, "Respiratory Rate", "RR", "Respiratory", "insp/min", "n", 19, 4.5, 0, 1.0, None, None),
    (220277, "O2 saturation pulseoxymetry", "SpO2", "Respiratory", "%", "n", 95.8, 1.5, 0, 1.0,
     None, None),
    (220179, "Non Invasive Blood Pressure systolic", "NBPs", "Routine Vital Signs", "mmHg", "n",
     120, 19, 0, 1.5, None, None),
    (220180, "Non Invasive Blood Pressure diastolic", "NBPd", "Routine Vital Signs", "mmHg", "n",
     65, 13, 0, 1.5, None, None),
    (220181, "Non Invasive Blood Pressure mean", "NBPm", "Routine Vital Signs", "mmHg", "n", 79, 13,
     0, 1.5, None, None),
    (220050, "Arterial Blood Pressure systolic", "ABPs", "Routine Vital Signs", "mmHg", "n", 118,
     19, 0, 3.0, 90.0, 140.0),
    (220051, "Arterial Blood Pressure diastolic", "ABPd", "Routine Vital Signs", "mmHg", "n", 59,
     11, 0, 3.0, 60.0, 90.0),
    (220052, "Arterial Blood Pressure mean", "ABPm", "Routine Vital Signs", "mmHg", "n", 78, 12, 0,
     3.0, None, None),
    (223761, "Temperature Fahrenheit", "Temperature F", "Routine Vital Signs", "°F", "n", 98.4, 0.9,
     1, 4.0, None, None),
    (223762, "Temperature Celsius", "Temperature C", "Routine Vital Signs", "°C", "n", 36.9, 0.5, 1,
     16.0, None, None),
    (223835, "Inspired O2 Fraction", "FiO2", "Respiratory", None, "n", 48, 12, 0, 6.0, None, None),
    (220339, "PEEP set", "PEEP set", "Respiratory", "cmH2O", "n", 6.5, 2, 0, 8.0, None, None),
    (225664, "Glucose finger stick (range 70-100)", "Glucose FS (range 70 -100)", "Labs", "mg/dL",
     "l", 138, 0.3, 0, 5.0, 70.0, 100.0),
    (226512, "Admission Weight (Kg)", "Admission Weight (Kg)", "General", "kg", "l", 80, 0.25, 1,
     60.0, None, None),
    (226730, "Height (cm)", "Height (cm)", "General", "cm", "n", 169, 10, 0, 90.0, None, None),
)]

# Scores that are charted as words, best last: valuenum is the place in the list, from 1.
SCORES = {
    (220739, "GCS - Eye Opening", "Eye Opening", "Neurological", 4.0): (
        "None", "To Pain", "To Speech", "Spontaneously"),
    (223900, "GCS - Verbal Response", "Verbal Response", "Neurological", 4.0): (
        "No Response-ETT", "Incomprehensible sounds", "Inappropriate Words", "Confused",
        "Oriented"),
    (223901, "GCS - Motor Response", "Motor Response", "Neurological", 4.0): (
        "No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws",
        "Localizes Pain", "Obeys Commands"),
}

# Words without a number, most of a real chart: no cohort reads them, every reader has to pass them.
WORDS = {
    (220048, "Heart Rhythm", "Heart Rhythm", "Routine Vital Signs", 1.2): (
        "SR (Sinus Rhythm)", "ST (Sinus Tachycardia)", "AF (Atrial Fibrillation)",
        "SB (Sinus Bradycardia)"),
    (224650, "Ectopy Type 1", "Ectopy Type 1", "Routine Vital Signs", 1.2): (
        "None", "PVC's", "PAC's"),
    (223986, "RUL Lung Sounds", "RUL Lung Sounds", "Pulmonary", 2.0): (
        "Clear", "Rhonchi", "Diminished", "Crackles"),
    (223987, "RLL Lung Sounds", "RLL Lung Sounds", "Pulmonary", 2.0): (
        "Clear", "Diminished", "Crackles", "Exp Wheeze"),
    (224082, "Turn", "Turn", "Treatments", 2.0): (
        "Left Side", "Right Side", "Supine", "Self"),
    (224093, "Position", "Position", "Treatments", 2.0): (
        "HOB 30 degrees", "Supine", "Chair"),
    (228096, "Richmond-RAS Scale", "Richmond-RAS Scale", "Pain/Sedation", 2.5): (
        " 0  Alert and calm", "-1 Awakens to voice (eye opening/contact) > 10 sec",
        "-2 Light sedation, briefly awakens to voice (eye opening/contact) < 10 sec",
        "+1 Anxious, apprehensive, but not aggressive"),
    (227944, "Temperature Site", "Temperature Site", "Routine Vital Signs", 2.5): (
        "Oral", "Axillary", "Blood"),
    (224084, "Activity", "Activity", "Treatments", 3.0): (
        "Bedrest", "Chair", "Ambulate"),
    (226732, "O2 Delivery Device(s)", "O2 Delivery Device(s)", "Respiratory", 3.0): (
        "None", "Nasal cannula", "Face tent", "Endotracheal tube"),
}

LABS = [Item(*row) for row in (
    (50912, "Creatinine", "", "Chemistry", "mg/dL", "l", 1.05, 0.5, 1, 18, 0.5, 1.2),
    (51006, "Urea Nitrogen", "", "Chemistry", "mg/dL", "l", 21, 0.5, 0, 18, 6, 20),
    (50983, "Sodium", "", "Chemistry", "mEq/L", "n", 138.5, 4, 0, 18, 133, 145),
    (50971, "Potassium", "", "Chemistry", "mEq/L", "n", 4.1, 0.5, 1, 18, 3.3, 5.1),
    (50902, "Chloride", "", "Chemistry", "mEq/L", "n", 103, 5, 0, 18, 96, 108),
    (50882, "Bicarbonate", "", "Chemistry", "mEq/L", "n", 24.5, 4, 0, 18, 22, 32),
    (50868, "Anion Gap", "", "Chemistry", "mEq/L", "n", 14, 3, 0, 18, 8, 20),
    (50931, "Glucose", "", "Chemistry", "mg/dL", "l", 125, 0.35, 0, 18, 70, 105),
    (50893, "Calcium, Total", "", "Chemistry", "mg/dL", "n", 8.6, 0.7, 1, 24, 8.4, 10.3),
    (50960, "Magnesium", "", "Chemistry", "mg/dL", "n", 2.0, 0.3, 1, 24, 1.6, 2.6),
    (50970, "Phosphate", "", "Chemistry", "mg/dL", "n", 3.5, 0.9, 1, 24, 2.7, 4.5),
    (51221, "Hematocrit", "", "Hematology", "%", "n", 31.5, 5, 1, 18, 36, 48),
    (51222, "Hemoglobin", "", "Hematology", "g/dL", "n", 10.3, 1.8, 1, 20, 12, 16),
    (51301, "White Blood Cells", "", "Hematology", "K/uL", "l", 9.5, 0.45, 1, 20, 4, 11),
    (51265, "Platelet Count", "", "Hematology", "K/uL", "l", 205, 0.5, 0, 20, 150, 440),
    (51277, "RDW", "", "Hematology", "%", "n", 15, 1.8, 1, 24, 10.5, 15.5),
    (51250, "MCV", "", "Hematology", "fL", "n", 91, 6, 0, 24, 82, 98),
    (51237, "INR(PT)", "", "Hematology", None, "l", 1.25, 0.25, 1, 30, 0.9, 1.1),
    (51274, "PT", "", "Hematology", "sec", "l", 13.8, 0.25, 1, 30, 9.4, 12.5),
    (51275, "PTT", "", "Hematology", "sec", "l", 33, 0.35, 1, 30, 25, 36.5),
    (50813, "Lactate", "", "Blood Gas", "mmol/L", "l", 1.7, 0.5, 1, 40, 0.5, 2),
    (50820, "pH", "", "Blood Gas", "units", "n", 7.38, 0.07, 2, 40, 7.35, 7.45),
    (50818, "pCO2", "", "Blood Gas", "mm Hg", "n", 41, 8, 0, 40, 35, 45),
    (50821, "pO2", "", "Blood Gas", "mm Hg", "l", 110, 0.5, 0, 40, 85, 105),
    (50885, "Bilirubin, Total", "", "Chemistry", "mg/dL", "l", 0.7, 0.8, 1, 60, 0, 1.5),
    (50861, "Alanine Aminotransferase (ALT)", "", "Chemistry", "IU/L", "l", 28, 0.8, 0, 60, 0, 40),
    (50878, "Asparate Aminotransferase (AST)", "", "Chemistry", "IU/L", "l", 38, 0.8, 0, 60, 0, 40),
    (50863, "Alkaline Phosphatase", "", "Chemistry", "IU/L", "l", 88, 0.5, 0, 60, 35, 105),
    (50862, "Albumin", "", "Chemistry", "g/dL", "n", 3.1, 0.6, 1, 80, 3.5, 5.2),
    (51003, "Troponin T", "", "Chemistry", "ng/mL", "l", 0.06, 1.2, 2, 80, 0, 0.01),
    (50963, "NTproBNP", "", "Chemistry", "pg/mL", "l", 1900, 1.1, 0, 150, 0, 229),
    (50889, "C-Reactive Protein", "", "Chemistry", "mg/L", "l", 45, 1.0, 1, 150, 0, 5),
)]

LAB_COMMENTS = ("___", "IF FASTING, 70-100 NORMAL, >125 PROVISIONAL DIABETES.",
                'MODERATELY HEMOLYZED.  "HEMOLYSIS FALSELY ELEVATES THIS TEST".')

# itemid, label, category, unit, median amount or rate, log sd, share of ICU stays
INPUTS = ((221906, "Norepinephrine", "Medications", "mg", 2.0, 0.8, 0.25),
          (222168, "Propofol", "Medications", "mg", 300.0, 0.7, 0.3),
          (221744, "Fentanyl", "Medications", "mg", 0.4, 0.7, 0.3),
          (222315, "Vasopressin", "Medications", "units", 8.0, 0.6, 0.08),
          (223258, "Insulin - Regular", "Medications", "units", 5.0, 0.6, 0.3),
          (225798, "Vancomycin", "Antibiotics", "dose", 1.0, 0.1, 0.3),
          (225158, "NaCl 0.9%", "Fluids/Intake", "ml", 250.0, 0.8, 0.9),
          (220949, "Dextrose 5%", "Fluids/Intake", "ml", 100.0, 0.7, 0.6))
OUTPUTS = ((226559, "Foley", "Output", "ml", 90.0, 0.7, 0.7),
           (226560, "Void", "Output", "ml", 250.0, 0.5, 0.4),
           (226588, "Chest Tube #1", "Output", "ml", 40.0, 0.7, 0.15))
PROCEDURES = ((225792, "Invasive Ventilation", "2-Ventilation", "min", 1500.0, 0.8, 0.35),
              (225794, "Non-invasive Ventilation", "2-Ventilation", "min", 400.0, 0.7, 0.08),
              (225802, "Dialysis - CRRT", "Dialysis", "min", 1800.0, 0.7, 0.06),
              (225752, "Arterial Line", "Access Lines - Invasive", "min", 2500.0, 0.7, 0.45),
              (224263, "Multi Lumen", "Access Lines - Invasive", "min", 4000.0, 0.7, 0.35),
              (225401, "Blood Cultured", "6-Cultures", None, 1.0, 0.0, 0.25))

# name, formulary code, dose, unit, route, share of admissions
DRUGS = (("Acetaminophen", "ACET325", "650", "mg", "PO/NG", 0.7),
         ("Furosemide", "FURO40I", "40", "mg", "IV", 0.35),
         ("Metoprolol Tartrate", "METO25", "25", "mg", "PO/NG", 0.4),
         ("Vancomycin", "VANC1F", "1000", "mg", "IV", 0.3),
         ("Piperacillin-Tazobactam", "PIPE4.5I", "4.5", "g", "IV", 0.2),
         ("Heparin", "HEPA5I", "5000", "UNIT", "SC", 0.6),
         ("Insulin", "GLAR100I", "0-10", "UNIT", "SC", 0.4),
         ("Potassium Chloride", "KCL20", "40", "mEq", "PO", 0.4),
         ("Pantoprazole", "PANT40", "40", "mg", "PO", 0.45),
         ("Warfarin", "WARF2", "2.5", "mg", "PO", 0.15),
         ("Sodium Chloride 0.9%  Flush", "NACLFLUSH", "3-10", "mL", "IV", 0.8))

# (code, version, title): what a stay is billed for, with the share of admissions
DIAGNOSES = (("4019", 9, "Unspecified essential hypertension", 0.25),
             ("I10", 10, "Essential (primary) hypertension", 0.25),
             ("4280", 9, "Congestive heart failure, unspecified", 0.15),
             ("I509", 10, "Heart failure, unspecified", 0.15),
             ("25000", 9, "Diabetes mellitus without mention of complication, type II", 0.15),
             ("E119", 10, "Type 2 diabetes mellitus without complications", 0.15),
             ("5849", 9, "Acute kidney failure, unspecified", 0.15),
             ("N179", 10, "Acute kidney failure, unspecified", 0.2),
             ("51881", 9, "Acute respiratory failure", 0.12),
             ("J9601", 10, "Acute respiratory failure with hypoxia", 0.15),
             ("99592", 9, "Severe sepsis", 0.08),
             ("A419", 10, "Sepsis, unspecified organism", 0.12),
             ("42731", 9, "Atrial fibrillation", 0.12),
             ("I4891", 10, "Unspecified atrial fibrillation", 0.12),
             ("5859", 9, "Chronic kidney disease, unspecified", 0.1),
             ("N189", 10, "Chronic kidney disease, unspecified", 0.1),
             ("Z66", 10, "Do not resuscitate", 0.1))
PROCEDURE_CODES = (("9671", 9, "Continuous invasive mechanical ventilation for less than 96 "
                    "consecutive hours", 0.15),
                   ("3893", 9, "Venous catheterization, not elsewhere classified", 0.2),
                   ("0BH17EZ", 10, "Insertion of Endotracheal Airway into Trachea, Via Natural or "
                    "Artificial Opening", 0.15),
                   ("02HV33Z", 10, "Insertion of Infusion Device into Superior Vena Cava, "
                    "Percutaneous Approach", 0.2),
                   ("3961", 9, "Extracorporeal circulation auxiliary to open heart surgery", 0.06))

# spec_itemid, specimen, test_itemid, test, organism (id, name) or none, share of admissions
CULTURES = ((70012, "BLOOD CULTURE", 90201, "Blood Culture, Routine", None, 0.3),
            (70012, "BLOOD CULTURE", 90201, "Blood Culture, Routine",
             (80023, "STAPH AUREUS COAG +"), 0.04),
            (70079, "URINE", 90039, "URINE CULTURE", None, 0.3),
            (70079, "URINE", 90039, "URINE CULTURE", (80002, "ESCHERICHIA COLI"), 0.07),
            (70091, "MRSA SCREEN", 90189, "MRSA SCREEN", None, 0.3),
            (70062, "SPUTUM", 90055, "RESPIRATORY CULTURE", (80004, "KLEBSIELLA PNEUMONIAE"), 0.05))

UNITS = ("Medical Intensive Care Unit (MICU)", "Surgical Intensive Care Unit (SICU)",
         "Medical/Surgical Intensive Care Unit (MICU/SICU)",
         "Cardiac Vascular Intensive Care Unit (CVICU)", "Coronary Care Unit (CCU)",
         "Trauma SICU (TSICU)", "Neuro Surgical Intensive Care Unit (Neuro SICU)")
WARDS = ("Medicine", "Med/Surg", "Medicine/Cardiology", "Neurology", "Hematology/Oncology",
         "Transplant", "Vascular")
