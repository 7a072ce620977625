"""What is known of the published versions: how many rows each table has, and columns by which a
version older than 2.2 is told.

Sources: mimic-iv/buildmimic/postgres/validate.sql of github.com/MIT-LCP/mimic-code (2.2 and 3.1);
for 3.0, and for the tables which validate.sql leaves out, counts published by users of it; the
demo: validate_demo.sql beside it; notes and X-rays: the pages of the projects at physionet.org. 3.0
and 3.1 differ in a few tables alone.
"""

_31 = dict(
    admissions=546028, caregiver=17984, chartevents=432997491, d_hcpcs=89208,
    d_icd_diagnoses=112107, d_icd_procedures=86423, d_items=4095, d_labitems=1650,
    datetimeevents=9979761, diagnoses_icd=6364488, drgcodes=761856, emar=42808593,
    emar_detail=87371064, hcpcsevents=186074, icustays=94458, ingredientevents=14253480,
    inputevents=10953713, labevents=158374764, microbiologyevents=3988224, omr=7753027,
    outputevents=5359395, patients=364627, pharmacy=17847567, poe=52212109, poe_detail=8504982,
    prescriptions=20292611, procedureevents=808706, procedures_icd=859655, provider=42244,
    services=593071, transfers=2413581)

# project -> version -> table -> rows
ROWS = {
    "mimiciv": {
        "3.1": _31,
        "3.0": _31 | dict(diagnoses_icd=6364520, drgcodes=761860, labevents=158478383,
                          transfers=2413589),
        "2.2": dict(
            admissions=431231, chartevents=313645063, d_hcpcs=89200, d_icd_diagnoses=109775,
            d_icd_procedures=85257, d_items=4014, d_labitems=1622, datetimeevents=7112999,
            diagnoses_icd=4756326, drgcodes=604377, emar=26850359, emar_detail=54744789,
            hcpcsevents=150771, icustays=73181, inputevents=8978893, labevents=118171367,
            microbiologyevents=3228713, omr=6439169, outputevents=4234967, patients=299712,
            pharmacy=13584514, poe=39366291, poe_detail=3879418, prescriptions=15416708,
            procedureevents=696092, procedures_icd=669186, services=468029, transfers=1890972),
    },
    "mimic-iv-demo": {"2.2": dict(
        admissions=275, caregiver=15468, chartevents=668862, d_hcpcs=89200, d_icd_diagnoses=109775,
        d_icd_procedures=85257, d_items=4014, d_labitems=1622, datetimeevents=15280,
        diagnoses_icd=4506, drgcodes=454, emar=35835, emar_detail=72018, hcpcsevents=61,
        icustays=140, ingredientevents=25728, inputevents=20404, labevents=107727,
        microbiologyevents=2899, omr=2964, outputevents=9362, patients=100, pharmacy=15306,
        poe=45154, poe_detail=3795, prescriptions=18087, procedureevents=1468, procedures_icd=722,
        provider=40508, services=319, transfers=1190)},
    # of discharge summaries the project's page and its readers count 331,794 and 331,793
    "mimic-iv-note": {"2.2": dict(radiology=2321355, radiology_detail=6046121)},
    "mimic-cxr-jpg": dict.fromkeys(("2.1.0", "2.0.0"), {"mimic-cxr-2.0.0-metadata": 377110}),
}

# table -> a column that came with 2.2
MARKS = dict(
    admissions="admit_provider_id", labevents="order_provider_id", emar="enter_provider_id",
    prescriptions="order_provider_id", microbiologyevents="order_provider_id",
    chartevents="caregiver_id", inputevents="caregiver_id", outputevents="caregiver_id",
    procedureevents="caregiver_id")


def of_rows(known, rows):
  """The versions of `known` (version -> table -> rows) whose row counts those of `rows` (table ->
  rows) could be; none if not all fit."""
  return [version for version, tables in known.items()
          if any(t in tables for t in rows)
          and all(rows[t] == tables[t] for t in rows if t in tables)]
