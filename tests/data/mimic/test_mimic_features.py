"""The structured features of MIMIC-IV against plain pandas and hand-made truths.

Items, ranges and conversions are written here a second time, on purpose: who changes one by mistake
meets this file, who means it changes both.
"""

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import cohort as cohort_lib, mimic
from crl_jax.data.mimic import items as mimic_items
from tests.data.mimic import mimic_hospital as made

ROWS = {0: 48 * 60, 1: 100 * 60}      # kind -> minutes after the admission
SUBJECTS = tuple(range(11, 23))
STATS = ("count", "first", "last", "min", "max", "mean", "slope", "sum")

# table -> signals: name, range, item ids
SIGNALS = {
    "labevents": """
        creatinine 0 40 50912; bun 0 300 51006; sodium 80 200 50983 50824;
        potassium 1 12 50971 50822; chloride 50 170 50902 50806; bicarbonate 1 65 50882 50803;
        anion_gap -10 60 50868; glucose 10 2000 50931 50809; calcium 2 20 50893;
        magnesium 0.3 12 50960; phosphate 0.1 20 50970; free_calcium 0.2 3 50808;
        albumin 0.2 8 50862; protein 1 15 50976; bilirubin 0 100 50885;
        bilirubin_direct 0 100 50883; ast 0 50000 50878; alt 0 50000 50861;
        alkaline_phosphatase 0 10000 50863; ldh 0 50000 50954; lipase 0 20000 50956;
        amylase 0 20000 50867; ammonia 0 1500 50866; uric_acid 0 40 51007;
        osmolality 150 500 50964; cholesterol 10 1000 50907; triglycerides 5 10000 51000;
        hba1c 2 25 50852; tsh 0 200 50993; iron 0 1000 50952; ferritin 0 100000 50924;
        crp 0 1000 50889; vancomycin 0 150 51009; troponin_t 0 200 51003; ck 0 500000 50910;
        ck_mb 0 5000 50911; nt_probnp 0 200000 50963; lactate 0 40 50813; ph 6.5 8 50820;
        pco2 5 250 50818; po2 10 800 50821; base_excess -60 60 50802; lab_sao2 10 100 50817;
        lab_fio2 21 100 50816; methemoglobin 0 100 50814; hemoglobin 1 25 51222 50811;
        hematocrit 3 75 51221 50810; wbc 0 500 51301 51300; platelets 0 2500 51265;
        rbc 0.3 10 51279; rdw 5 50 51277; mcv 40 150 51250; mch 5 60 51248; mchc 15 50 51249;
        neutrophils 0 100 51256; lymphocytes 0 100 51244; monocytes 0 100 51254;
        eosinophils 0 100 51200; bands 0 100 51144; inr 0.3 30 51237; pt 5 200 51274;
        ptt 5 400 51275; fibrinogen 10 2000 51214; d_dimer 0 100000 50915 51196 52551;
        urine_gravity 1 1.1 51498; urine_ph 3 11 51491""",
    "chartevents": """
        heart_rate 0 300 220045; systolic 0 320 220050 220179 225309;
        diastolic 0 250 220051 220180 225310; mean_pressure 0 280 220052 220181 225312;
        respiration 0 90 220210 224690; spo2 10 100 220277; temperature 25 45 223762 223761;
        cvp -10 60 220074; icp -10 120 220765 227989; pa_systolic 0 200 220059;
        cardiac_output 0 25 220088 224842 227543; bedside_glucose 10 2000 225664 220621 226537;
        gcs_eyes 1 4 220739; gcs_verbal 1 5 223900; gcs_motor 1 6 223901; rass -5 4 228096;
        pain 0 10 223791; braden_activity 1 4 224056; braden_mobility 1 4 224057;
        weight 20 400 226512 224639 226531; height 100 240 226730 226707; fio2 21 100 223835;
        oxygen_flow 0 100 223834 227582; peep 0 40 220339 224700;
        tidal_volume 50 2000 224684 224685 224686; minute_volume 0 60 224687;
        vent_rate 0 60 224688; peak_pressure 0 100 224695; plateau 0 80 224696;
        airway_pressure 0 60 224697""",
    "inputevents": """
        norepinephrine 0 1000 221906; epinephrine 0 1000 221289 229617;
        phenylephrine 0 5000 221749 229630 229632; vasopressin 0 5000 222315;
        dopamine 0 20000 221662; dobutamine 0 20000 221653; milrinone 0 1000 221986;
        propofol 0 50000 222168; midazolam 0 5000 221668; fentanyl 0 999999 221744 225942;
        dexmedetomidine 0 999999 225150 229420; morphine 0 999999 225154;
        insulin_drip 0 5000 223258; heparin_drip 0 200000 225152;
        amiodarone_drip 0 999999 221347 228339 229654 230034;
        furosemide_drip 0 5000 221794 228340; saline 0 20000 225158; ringers 0 20000 225828;
        albumin_given 0 10000 220862 220864; red_cells 0 20000 225168; plasma 0 20000 220970;
        platelets_given 0 20000 225170; bicarbonate_given 0 999999 220995 225165""",
    "outputevents": """
        urine -5000 10000 226559 226560 226561 226584 226563 226564 226565 226567 226557 226558
        227488 227489; gastric -5000 10000 226573 226575 226576; stool -5000 10000 226579 226580;
        chest_tube -5000 10000 226588 226589 229413 229414 226590 226591 226592 226593 226595;
        drain -5000 10000 226599 226600 226601 226602"""}
# item -> (to the unit of the feature, back)
CONVERT = {52551: (lambda x: 2 * x, lambda x: x / 2),                       # D-dimer units to FEU
           223761: (lambda f: (f - 32) * 5 / 9, lambda c: c * 9 / 5 + 32),  # Fahrenheit
           226531: (lambda x: x * 0.45359237, lambda x: x / 0.45359237),    # pounds
           226707: (lambda x: x * 2.54, lambda x: x / 2.54),                # inches
           227488: (lambda x: -x, lambda x: -x)}                            # irrigant goes in
FRACTIONS = ("fio2", "lab_fio2")
# name -> bounds of numbers that can only be of another unit, and what they are then
OTHER = {**dict.fromkeys(FRACTIONS, [(0.21, 1, lambda x: 100 * x)]),
         "tidal_volume": [(0.1, 1.5, lambda x: 1000 * x)],
         "temperature": [(86, 110, lambda f: (f - 32) * 5 / 9), (30, 43, lambda c: c)],
         "height": [(48, 84, lambda x: x * 2.54), (1.2, 2.2, lambda x: 100 * x),
                    (120, 220, lambda x: x)],
         "urine_gravity": [(1001, 1060, lambda x: x / 1000)]}
MG = ("norepinephrine", "epinephrine", "phenylephrine", "dopamine", "dobutamine", "milrinone",
      "propofol", "midazolam", "furosemide_drip")
PROCEDURES = {
    "ventilated": (225792,), "noninvasive_ventilation": (225794,), "intubated": (224385,),
    "extubated": (227194, 225468, 225477),
    "dialysis": (225441, 225802, 225803, 225805, 225809, 225955), "arterial_line": (225752,),
    "central_line": (224263, 224264, 224267, 224268, 224273, 225199, 225315, 229516, 229526,
                     229531),
    "dialysis_line": (224270,), "pa_catheter": (224269, 224560),
    "mechanical_circulatory_support": (224272, 228169),
    "icp_monitor": (226124, 226474, 229518, 229533), "bronchoscopy": (225400,),
    "ct_scan": (221214, 229582), "echo": (225432, 221255), "mri": (223253,),
    "xray": (221216, 225457, 225459, 229581), "cultures": (225401, 225437, 225444, 225451, 225454)}


def build(folder):
  return cohort_lib.validate(mimic.build(made.make_config(
      folder, "data.mimic.modalities=('structured',)")))


def features(cohort):
  """(subject, kind of row) -> {feature: value}."""
  return {(int(s), int(r % 10)): dict(zip(cohort.features["structured"], x.tolist())) for s, r, x in
          zip(cohort.patient_id, cohort.row_id, cohort.inputs["structured"])}


def signals():
  """Yields (table, name, low, high, items)."""
  for table, text in SIGNALS.items():
    for signal in text.split(";"):
      name, low, high, *found = signal.split()
      yield table, name, float(low), float(high), [int(i) for i in found]


# Measurements -------------------------------------------------------------------------------------


def draw():
  """Records of every item of every patient: table, name, low, high, item, subject, minutes t and
  known, raw value and unit; ties in time, values out of range, sentinels and blanks among them."""
  rng, out = np.random.default_rng(0), []
  times = rng.integers(-30 * 60, 104 * 60, 40)
  for table, name, low, high, found in signals():
    n = 5 * len(SUBJECTS) * len(found)
    item = np.tile(found, 5 * len(SUBJECTS))
    x = rng.uniform(low - 0.15 * (high - low), high + 0.15 * (high - low), n)
    for i in set(found) & CONVERT.keys():
      x[item == i] = CONVERT[i][1](x[item == i])
    x = np.where(rng.random(n) < 0.5, x, x / 100) if name in FRACTIONS else x
    x = np.where(rng.random(n) < 0.1, 1.0, x) if name in FRACTIONS else x
    mcg = (rng.random(n) < 0.3) & (name in MG)
    x = np.round(np.where(mcg, x * 1000, x), 3)
    odd = rng.random(n)
    x[odd < 0.06] = rng.choice([999999, -999999, 1234567], (odd < 0.06).sum())
    x[odd > 0.97] = np.nan
    t = np.where(rng.random(n) < 0.7, rng.choice(times, n), rng.integers(-1500, 6100, n))
    later = np.where(rng.random(n) < 0.3, 0, rng.exponential(300, n).astype(int))
    out.append(pd.DataFrame(dict(
        table=table, name=name, low=low, high=high, item=item, t=t, known=t + later, raw=x,
        subject=np.repeat(SUBJECTS, 5 * len(found)), unit=np.where(mcg, "mcg", "mg"))))
  return pd.concat(out, ignore_index=True)


def as_tables(events):
  """The records of `draw` as MIMIC-IV's tables."""
  time = lambda t: (made.BEGIN + pd.to_timedelta(t, "min")).dt.strftime("%Y-%m-%d %H:%M:59")
  out = {}
  for table, e in events.groupby("table"):
    value = {"inputevents": "amount", "outputevents": "value"}.get(table, "valuenum")
    first = "starttime" if table == "inputevents" else "charttime"
    frame = pd.DataFrame({"subject_id": e.subject, "itemid": e.item, first: time(e.t),
                          "storetime": time(e.known), value: e.raw})
    if table == "inputevents":      # half of them known by their end, half by their storage
      odd = np.arange(len(e)) % 2 == 1
      frame["endtime"] = np.where(odd, frame["storetime"], frame[first])
      frame["storetime"] = np.where(odd, "", frame["storetime"])
      frame["amountuom"] = e.unit.where(e["name"].isin(MG), "")
    out[table] = frame.to_dict("records")
  return out


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  """(cohort, records of draw with the columns real and v): v is the value that should count."""
  events = draw()
  content = made.tables(made.stays(SUBJECTS), as_tables(events), *(
      {"procedureevents": {"subject_id": SUBJECTS[i], "itemid": item, "starttime": made.at(10),
                           "storetime": made.at(11)}}
      for group in PROCEDURES.values() for i, item in enumerate(group)))
  cohort = build(made.save(tmp_path_factory.mktemp("measured"), content))
  e = events[events.raw.notna() & (events.t >= -24 * 60) & (events.known < ROWS[1])].copy()
  v = e.raw.where(e.unit != "mcg", e.raw / 1000)
  for item, (there, _) in CONVERT.items():
    v = v.where(e.item != item, there(v))
  whole = lambda v: np.floor(v * 1000 + 0.5) / 1000
  v = whole(v)
  # a number that is a sentinel, if it is not one of micrograms
  e["real"] = (e.raw.abs() < 999999) | ((v >= e.low) & (v <= e.high) & (v < 999999))
  out = e.real & ((v < e.low) | (v > e.high))
  e["other"] = False
  for name, readings in OTHER.items():
    for low, high, there in readings:
      of_it = out & (e["name"] == name) & e.raw.between(low, high)
      v, e["other"] = v.where(~of_it, whole(there(e.raw))), e["other"] | of_it
  e["outside"] = out & ~e["other"]
  e["v"] = v
  return cohort, e


def statistics(e):
  """statistic -> value of the records of one row and signal."""
  if not len(e):
    return dict(count=0)
  t, v = e.t.to_numpy(float), e.v.to_numpy()
  spread = t - t.mean()
  slope = (spread * v).sum() / (spread ** 2).sum() * 1440 if spread.any() else np.nan
  return dict(count=len(v), first=v[t == t.min()].min(), last=v[t == t.max()].max(), min=v.min(),
              max=v.max(), mean=v.mean(), slope=slope, sum=v.sum())


def test_every_statistic_equals_that_of_pandas(measured):
  cohort, events = measured
  real = {key: e for key, e in events[events.real & ~events.outside].groupby(["subject", "name"])}
  checked = 0
  for (subject, kind), x in features(cohort).items():
    for _, name, *_ in signals():
      e = real.get((subject, name), events[:0])
      expected = statistics(e[e.known < ROWS[kind]])
      for stat in STATS:
        if f"{name}_{stat}" in x:
          np.testing.assert_allclose(x[f"{name}_{stat}"], expected.get(stat, np.nan), rtol=2e-4,
                                     atol=2e-4, err_msg=f"{name}_{stat} {subject} {kind}")
          checked += 1
  per_row = sum(len(s.stats) for s in mimic_items.SIGNALS.values())
  assert checked == 2 * len(SUBJECTS) * per_row      # no signal that is not written here


def test_values_out_of_range_and_sentinels_are_counted(measured):
  cohort, events = measured
  odd = {o["rule"]: o["count"] for o in cohort.info["odd_rows"]}
  for column, most, mark, end in (
      (events.outside, 100, " outside ", ": NaN"), (events.other, 3, " outside ", ": converted"),
      (~events.real, 100, " at or past ", ": no value, dropped")):
    found = {rule.split(mark)[0]: n for rule, n in odd.items() if mark in rule and
             rule.endswith(end)}
    expected = column.groupby(events["name"]).sum()
    assert found == expected[expected > 0].to_dict() and len(found) >= most


def test_every_procedure_counts_by_every_item(measured):
  for (subject, _), x in features(measured[0]).items():
    assert {name: x[f"procedure_{name}"] for name in PROCEDURES} == {
        name: float(SUBJECTS.index(subject) < len(group)) for name, group in PROCEDURES.items()}
  assert set(PROCEDURES) == set(mimic_items.PROCEDURES)


def test_laboratory_items_are_what_they_are_called(mimic_demo):
  labels = pd.read_csv(mimic_demo / "hosp/d_labitems.csv.gz").set_index("itemid").label.str.lower()
  other = dict(
      bun="urea nitrogen", anion_gap="anion gap", calcium="calcium, total",
      free_calcium="free calcium", protein="protein, total", bilirubin="bilirubin, total",
      bilirubin_direct="bilirubin, direct", ast="asparate aminotransferase", ck="creatine kinase",
      alt="alanine aminotransferase", alkaline_phosphatase="alkaline phosphatase", hba1c="a1c",
      ldh="lactate dehydrogenase", uric_acid="uric acid", osmolality="osmolality, measured",
      cholesterol="cholesterol, total", tsh="thyroid stimulating", crp="c-reactive",
      troponin_t="troponin t", ck_mb="mb isoenzyme", nt_probnp="ntprobnp",
      base_excess="base excess",
      lab_sao2="oxygen saturation", lab_fio2="^oxygen$", rbc="red blood cells",
      wbc="white blood cells|wbc count", platelets="platelet", d_dimer="d-dimer", inr="inr",
      urine_gravity="specific gravity", urine_ph="^ph$", neutrophils="neutrophils")
  unknown = 0
  for table, name, _, _, found in signals():
    for item in found if table == "labevents" else ():
      unknown += item not in labels.index
      if item in labels.index:
        assert pd.Series(labels[item]).str.contains(other.get(name, name)).all(), (
            name, item, labels[item])
  assert unknown <= 3


# Patients, stays, visits and cultures, by hand ----------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory):
  """Five patients, each with another story; see the test below."""
  t = made.tables(made.stays(range(1, 6)), made.earlier(1))
  by = {a["hadm_id"]: a for a in t["admissions"]}
  for person, gender, age, year in zip(t["patients"], ("F", "M", "", "M", "F"),
                                       (60, 91, 40, 18, 70), (2147, 2150, 2149, 2150, 2150)):
    person.update(gender=gender, anchor_age=age, anchor_year=year)
  for s, kind, place, insurance, marital, language in (
      (1, "EW EMER.", "EMERGENCY ROOM", "Medicare", "MARRIED", "English"),
      (2, "SURGICAL SAME DAY ADMISSION", "PHYSICIAN REFERRAL", "Medicaid", "SINGLE", "Spanish"),
      (3, "OBSERVATION ADMIT", "TRANSFER FROM HOSPITAL", "Private", "WIDOWED", "ENGLISH"),
      (4, "URGENT", "TRANSFER FROM SKILLED NURSING FACILITY", "Other", "DIVORCED", "American Sign"),
      (5, "ELECTIVE", "PACU", "", "", "")):
    by[10 * s].update(admission_type=kind, admission_location=place, insurance=insurance,
                      marital_status=marital, language=language)
  by[20].update(edouttime=made.at(60))
  by[30].update(edregtime="")
  by[40].update(edouttime=made.at(-9))      # out before in
  add = t["admissions"].append
  add(made.admission(1, 15, -9500, -9400))                  # more than a year before
  add(made.admission(3, 35, -300, 0, dischtime=""))         # not known to have ended
  t["icustays"].append(made.icu_stay(3, 35, 351, -290, -280))
  t["diagnoses_icd"].append({"hadm_id": 10, "icd_code": "J960", "icd_version": 10})   # of this one
  t["diagnoses_icd"].append({"hadm_id": 15, "icd_code": "J9600", "icd_version": 10})
  t["diagnoses_icd"].append({"hadm_id": 15, "icd_code": "J9601", "icd_version": 9})   # of none
  measured = lambda s, hours, name, value: {"omr": {
      "subject_id": s, "chartdate": made.at(hours)[:10], "result_name": name,
      "result_value": value}}
  where = lambda s, hours, unit, kind="transfer": {"transfers": {
      "subject_id": s, "eventtype": kind, "careunit": unit, "intime": made.at(hours)}}
  served = lambda s, hours, name: {"services": {
      "subject_id": s, "transfertime": made.at(hours), "curr_service": name}}

  def culture(s, number, kind, organism=("", ""), sign="", known=20):
    return {"microbiologyevents": {
        "subject_id": s, "micro_specimen_id": number, "spec_type_desc": kind,
        "chartdate": made.at(10)[:10], "charttime": made.at(10), "storedate": made.at(known)[:10],
        "storetime": made.at(known), "org_itemid": organism[0], "org_name": organism[1],
        "interpretation": sign}}
  coli = 80002, "ESCHERICHIA COLI"
  t["omr"] = []
  content = made.tables(
      t,
      measured(1, -500, "BMI (kg/m2)", "31.2"), measured(1, -100, "BMI (kg/m2)", "33"),
      measured(1, 0, "BMI (kg/m2)", "40"), measured(1, -700, "Weight (Lbs)", "200"),
      measured(1, -700, "Blood Pressure", "135/80"), measured(1, -600, "Height (Inches)", "65"),
      measured(2, -100, "BMI (kg/m2)", "150"), measured(2, -100, "Weight (Lbs)", "9"),
      measured(2, -9000, "Blood Pressure", "120/80"), measured(3, -50, "Blood Pressure", "unable"),
      *(where(s, hours, unit) for s, hours, unit in (
          (1, 5, "Medical Intensive Care Unit (MICU)"), (1, 60, "Neurology"),
          (2, 5, "Surgical Intensive Care Unit (SICU)"), (2, 60, "Trauma SICU (TSICU)"),
          (3, 5, "Medical/Surgical Intensive Care Unit (MICU/SICU)"),
          (3, 60, "Coronary Care Unit (CCU)"), (4, 60, "Neuro Stepdown"),
          (4, 5, "Cardiac Vascular Intensive Care Unit (CVICU)"), (5, 5, "Emergency Department"),
          (5, 60, "Neuro Surgical Intensive Care Unit (Neuro SICU)"))),
      where(1, 70, "", "discharge"),
      *(served(s, hours, name) for s, names in enumerate(
          (("CMED", "NSURG"), ("MED", "CSURG"), ("VSURG", "NMED"), ("OMED", "GYN"),
           ("PSYCH", "TRAUM")), 1) for hours, name in zip((1, 60), names)),
      culture(1, 1, "BLOOD CULTURE", coli, "S"), culture(1, 1, "BLOOD CULTURE", coli, "R"),
      culture(2, 2, "URINE", (90760, "CANCELLED")),
      culture(2, 3, "BLOOD CULTURE", (90856, "NEGATIVE")), culture(3, 4, "SPUTUM", coli, "S", 60),
      culture(3, 5, "SPUTUM"), culture(3, 6, "STOOL"), culture(4, 7, "MRSA SCREEN"),
      culture(4, 8, "PLEURAL FLUID", ("", "YEAST")))
  return build(made.save(tmp_path_factory.mktemp("people"), content))


# feature -> its values of the five patients, at 48 h and, where another, at the discharge
BY_HAND = {
    "age": (63, 91, 41, 18, 70), "male": (0, 1, np.nan, 1, 0),
    "hour_of_admission": 10, "hours_since_admission": (48, 100),
    "in_emergency_hours": ((2, 51, np.nan, np.nan, 2), (2, 63, np.nan, np.nan, 2)),
    "earlier_admissions": (2, 1, 1, 1, 1), "earlier_admissions_year": 1,
    "earlier_icu_stays": (0, 0, 1, 0, 0), "days_since_discharge": 700 / 24,
    "earlier_days": (200 / 24, *[100 / 24] * 4), "earlier_diagnoses": (3, 0, 0, 0, 0),
    "earlier_procedures": (1, 0, 0, 0, 0), "had_heart_failure": (1, 0, 0, 0, 0),
    "had_respiratory_failure": (1, 0, 0, 0, 0),
    "bmi": (33, *[np.nan] * 4), "outpatient_weight": (90.718474, *[np.nan] * 4),
    "outpatient_systolic": (135, *[np.nan] * 4),
    "emergency": (1, 0, 0, 0, 0), "elective": (0, 1, 0, 0, 1), "observation": (0, 0, 1, 0, 0),
    "urgent": (0, 0, 0, 1, 0), "from_emergency": (1, 0, 0, 0, 0), "from_referral": (0, 1, 0, 0, 0),
    "from_hospital": (0, 0, 1, 0, 0), "from_nursing": (0, 0, 0, 1, 0),
    "from_procedure": (0, 0, 0, 0, 1), "medicare": (1, 0, 0, 0, 0), "medicaid": (0, 1, 0, 0, 0),
    "private": (0, 0, 1, 0, 0), "married": (1, 0, 0, 0, 0), "single": (0, 1, 0, 0, 0),
    "widowed": (0, 0, 1, 0, 0), "divorced": (0, 0, 0, 1, 0), "english": (1, 0, 1, 0, 0),
    "transfers": (1, 2), "icu_stays": (1, 1), "icu_hours": (43, 55), "in_icu": (1, 0),
    "unit_micu": ((1, 0, 0, 0, 0), 0), "unit_sicu": ((0, 1, 0, 0, 0), (0, 1, 0, 0, 0)),
    "unit_mixed_icu": ((0, 0, 1, 0, 0), 0), "unit_ccu": (0, (0, 0, 1, 0, 0)),
    "unit_cvicu": ((0, 0, 0, 1, 0), 0), "unit_neuro_icu": (0, (0, 0, 0, 0, 1)),
    "unit_emergency": ((0, 0, 0, 0, 1), 0), "unit_stepdown": (0, (0, 0, 0, 1, 0)),
    "services": (1, 2), "service_cardiology": ((1, 0, 0, 0, 0), 0),
    "service_neurosurgery": (0, (1, 0, 0, 0, 0)), "service_medicine": ((0, 1, 0, 0, 0), 0),
    "service_cardiac_surgery": (0, (0, 1, 0, 0, 0)),
    "service_surgery": ((0, 0, 1, 0, 0), (0, 0, 0, 0, 1)),
    "service_neurology": (0, (0, 0, 1, 0, 0)), "service_oncology": ((0, 0, 0, 1, 0), 0),
    "service_obstetrics": (0, (0, 0, 0, 1, 0)), "service_psychiatry": ((0, 0, 0, 0, 1), 0),
    "samples_blood": (1, 1, 0, 0, 0), "samples_urine": (0, 1, 0, 0, 0),
    "samples_airway": (0, 0, 2, 0, 0), "samples_stool": (0, 0, 1, 0, 0),
    "samples_screen": (0, 0, 0, 1, 0), "samples_fluid": (0, 0, 0, 1, 0),
    "organisms": ((1, 0, 0, 1, 0), (1, 0, 1, 1, 0)), "resistant": (1, 0, 0, 0, 0),
    "organism_blood": (1, 0, 0, 0, 0), "organism_airway": (0, (0, 0, 1, 0, 0)),
    "organism_fluid": (0, 0, 0, 1, 0)}
ALONE = ("age", "male", "hour", "in_", "earlier", "days_since", "had_", "bmi", "outpatient",
         "trans", "icu_", "unit_", "service", "samples_", "organism", "resistant",
         *(f for group in mimic_items.ADMISSION.values() for f in group))


def test_patients_stays_visits_and_cultures_are_as_told(people):
  measured = {f"{s}_{stat}" for s, x in mimic_items.SIGNALS.items() for stat in x.stats}
  for (s, kind), x in features(people).items():
    for name, value in x.items():
      if name.startswith(ALONE) and name not in measured:
        expected = BY_HAND.get(name, 0)
        if isinstance(expected, tuple):
          expected = expected[kind] if len(expected) == 2 else expected[s - 1]
        if isinstance(expected, tuple):
          expected = expected[s - 1]
        np.testing.assert_allclose(x[name], expected, rtol=1e-6, err_msg=f"{name} {s} {kind}")
  odd = {o["rule"]: o["count"] for o in people.info["odd_rows"] if o["table"] == "omr"}
  assert odd == {"bmi outside 8 to 100: NaN": 1,
                 "outpatient_weight outside 20 to 400: NaN": 1,
                 "not of a day before the admission: not used": 1,
                 "more than a year before the admission: not used": 1}
