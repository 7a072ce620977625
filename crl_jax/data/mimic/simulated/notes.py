"""Templated notes of the simulated patients, in the form of MIMIC-IV-Note.

Every phrase is chosen by a projection of latent health, so a note says what the other modalities
say, and more. Quirks kept: de-identification blanks "___"; hard line breaks; a discharge summary's
charttime is its date at midnight, before the discharge itself; it is stored up to days later; it
states how the stay ended, which is why the paper's protocol leaks.
"""

import numpy as np

from crl_jax.data.mimic.simulated import csv_gz, people as people_lib, stays as stays_lib

HEADER = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"

# One projection of U each: from well to ill.
_HISTORY = (
    ("no significant past medical history", "hypertension", "coronary artery disease s/p CABG"),
    ("no diabetes", "diet controlled diabetes", "type 2 diabetes with nephropathy on insulin"),
    ("normal ejection fraction", "mild diastolic dysfunction", "systolic heart failure, EF 25%"),
    ("never smoker", "former smoker", "COPD on home oxygen"),
    ("independent in all activities", "walks with a cane", "bed bound, from a nursing facility"),
    ("normal renal function", "chronic kidney disease stage III", "end stage renal disease on HD"))
_COURSE = (
    ("remained hemodynamically stable", "required a fluid bolus",
     "was in septic shock requiring norepinephrine and vasopressin"),
    ("was on room air throughout", "was weaned from nasal cannula",
     "was intubated for hypoxemic respiratory failure"),
    ("had clear mental status", "was intermittently delirious", "was obtunded"),
    ("had stable creatinine", "had mild acute kidney injury which resolved with fluids",
     "developed oliguric renal failure and was started on CRRT"),
    ("had negative cultures", "was treated for a urinary tract infection",
     "had MRSA bacteremia and was treated with vancomycin"),
    ("tolerated a regular diet", "had poor oral intake", "was fed by nasogastric tube"))
_FINDINGS = (
    ("The lungs are clear.", "There is mild bibasilar atelectasis.",
     "There are worsening bilateral opacities concerning for multifocal pneumonia or ARDS."),
    ("No pleural effusion.", "Small left pleural effusion.", "Large bilateral pleural effusions."),
    ("The cardiomediastinal silhouette is normal.", "The heart is mildly enlarged.",
     "Severe cardiomegaly with pulmonary vascular congestion."),
    ("No pneumothorax.", "No pneumothorax is seen.", "Small apical pneumothorax."),
    ("No lines or tubes.", "A right PICC ends in the mid SVC.",
     "The endotracheal tube ends ___ cm above the carina."))
_STUDIES = ("CHEST (PORTABLE AP)", "CHEST (PA AND LAT)", "CT HEAD W/O CONTRAST",
            "CT ABD & PELVIS WITH CONTRAST")


def discharge_block(people, seed, first, admissions):
  """The columns of discharge.csv.gz for `admissions`, of which the first is the table's row
  `first`."""
  rng = np.random.default_rng([6, seed, first])
  owner = people.owner[admissions]
  grades = _grades(people, 2, owner, len(_HISTORY) + len(_COURSE), rng)
  end = people.discharge[admissions]
  day = end // people_lib.DAY * people_lib.DAY
  sequence = 1 + (first + np.arange(len(admissions))) % 90
  texts = [_summary(people, a, g, int(rng.integers(1 << 30))) for a, g in zip(admissions, grades)]
  return _columns(people, admissions, "DS", sequence, day,
                  end + rng.integers(2, 120, len(end)) * people_lib.HOUR, texts, np.ones(len(end)))


def radiology_block(people, seed, first, admissions, times):
  """The columns of radiology.csv.gz: a report in each of `admissions` at each of `times`, of which
  the first is the table's row `first`."""
  rng = np.random.default_rng([7, seed, first])
  grades = _grades(people, 3, people.owner[admissions], len(_FINDINGS), rng)
  sequence = 2 + (first + np.arange(len(admissions))) % 90
  texts = [_report(_STUDIES[int(k)], g) for g, k in zip(
      grades, rng.choice(len(_STUDIES), len(grades), p=[0.6, 0.2, 0.1, 0.1]))]
  linked = rng.random(len(times)) < 0.9   # the others have no hadm_id
  return _columns(people, admissions, "RR", sequence, times,
                  times + rng.integers(1, 600, len(times)) * 60, texts, linked)


def _columns(people, admissions, kind, sequence, charted, stored, texts, linked):
  subject = people.subject[people.owner[admissions]]
  names = [f"{s}-{kind}-{n}" for s, n in zip(subject, sequence)]
  return (csv_gz.text(names), subject, csv_gz.whole(people.hadm[admissions], linked > 0),
          csv_gz.text([kind] * len(names)), sequence, charted.astype("M8[s]"),
          stored.astype("M8[s]"), csv_gz.text(texts))


def _grades(people, modality, owner, count, rng):
  """(n, count) in {0, 1, 2}: well to ill, by `count` projections of latent health."""
  loading = people.world.loadings[modality][:count]
  loading = loading / np.linalg.norm(loading, axis=1, keepdims=True)
  loading *= np.where(loading @ people.world.direction[0, 2] < 0, -1, 1)[:, None]
  score = people.u[owner] @ loading.T + 0.5 * rng.standard_normal((len(owner), count))
  return (score > -0.4).astype(int) + (score > 0.7)


def _summary(people, admission, grades, number):
  patient = people.owner[admission]
  dead = people.death[admission] >= 0
  history = [words[g] for words, g in zip(_HISTORY, grades)]
  course = [words[g] for words, g in zip(_COURSE, grades[len(_HISTORY):])]
  ending = ("The family was called, care was withdrawn and the patient expired." if dead else
            "The patient was discharged in stable condition.")
  where = "Expired" if dead else ("Home", "Home With Service", "Extended Care")[number % 3]
  state = ("Deceased" if dead else
           "Mental Status: Clear and coherent.\nLevel of Consciousness: Alert and interactive.")
  return (
      f" \nName:  ___                     Unit No:   ___\n \nAdmission Date:  ___              "
      f"Discharge Date:   ___\n \nDate of Birth:  ___             Sex:   "
      f"{'M' if people.male[patient] else 'F'}\n \n"
      f"Service: {_SERVICES.get(stays_lib.service_name(people, admission), 'MEDICINE')}\n \n"
      "Allergies: \nNo Known Allergies / Adverse Drug Reactions\n \nAttending: ___.\n \n"
      f"Chief Complaint:\n{('dyspnea', 'fever', 'chest pain', 'fall')[number % 4]}\n \n"
      "Major Surgical or Invasive Procedure:\nNone\n\n \nHistory of Present Illness:\n"
      f"Mr. ___ is a ___ year old with {history[0]}, {history[1]}, \n{history[2]} who presented to "
      f"the ED on ___.\nHe is {history[4]}.\n \nPast Medical History:\n"
      + "".join(f"- {line}\n" for line in history) +
      " \nSocial History:\n___\nFamily History:\nNon-contributory\n \nPhysical Exam:\n"
      "ADMISSION PHYSICAL EXAM:\nVitals: T ___, HR ___, BP ___\nGeneral: Alert, oriented, no acute "
      "distress\n \nPertinent Results:\n___ 05:30AM BLOOD WBC-___ RBC-___\n \n"
      f"Brief Hospital Course:\nThe patient {course[0]}. In the ICU the patient\n{course[1]} and "
      f"{course[2]}. The patient {course[3]},\n{course[4]}, and {course[5]}. {ending}\n \n"
      "Discharge Medications:\n1.  Acetaminophen 650 mg PO Q6H:PRN \"pain\"\n2.  ___\n \n"
      f"Discharge Disposition:\n{where}\n \nDischarge Diagnosis:\n___\n \n"
      f"Discharge Condition:\n{state}\n \nFollowup Instructions:\n___\n")


_SERVICES = {"SURG": "SURGERY", "CSURG": "CARDIOTHORACIC", "NSURG": "NEUROSURGERY"}


def _report(study, grades):
  found = [words[g] for words, g in zip(_FINDINGS, grades)]
  worst = found[int(np.argmax(grades))]
  return (f"EXAMINATION:  {study}\n\nINDICATION:  ___ year old with respiratory distress  // "
          f"please evaluate\n\nTECHNIQUE:  {study}\n\nCOMPARISON:  ___\n\nFINDINGS: \n\n"
          f"{' '.join(found[:3])}\n{' '.join(found[3:])}\n\nIMPRESSION: \n\n{worst}\n")
