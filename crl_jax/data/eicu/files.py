"""The tables that PhysioNet publishes of eICU-CRD, and its demo.

Rows: build-db/ of github.com/MIT-LCP/eicu-code; of the demo its page at physionet.org.
"""

from crl_jax.data.tables import downloads
from crl_jax.data.tables.downloads import Project

TABLES = ("admissionDx", "admissionDrug", "allergy", "apacheApsVar", "apachePatientResult",
          "apachePredVar", "carePlanCareProvider", "carePlanEOL", "carePlanGeneral", "carePlanGoal",
          "carePlanInfectiousDisease", "customLab", "diagnosis", "hospital", "infusionDrug",
          "intakeOutput", "lab", "medication", "microLab", "note", "nurseAssessment", "nurseCare",
          "nurseCharting", "pastHistory", "patient", "physicalExam", "respiratoryCare",
          "respiratoryCharting", "treatment", "vitalAperiodic", "vitalPeriodic")
_MARK = ("apacheApsVar", "apachePredVar", "admissionDx", "vitalPeriodic", "patient")

FULL = Project("eicu-crd", "eicu-collaborative-research-database", ("2.0",),
               dict.fromkeys(TABLES, ""), _MARK)
_LOWER = {"admissionDrug": "admissiondrug", "infusionDrug": "infusiondrug"}   # its files' names
DEMO = Project("eicu-crd-demo", "eicu-collaborative-research-database-demo", ("2.0.1",),
               dict.fromkeys((_LOWER.get(table, table) for table in TABLES), ""), _MARK, open=True)

# project -> version -> table -> rows
ROWS = {
    "eicu-crd": {"2.0": dict(
        admissionDrug=874920, admissionDx=626858, allergy=251949, apacheApsVar=171177,
        apachePatientResult=297064, apachePredVar=171177, carePlanCareProvider=502765,
        carePlanEOL=1433, carePlanGeneral=3115018, carePlanGoal=504139,
        carePlanInfectiousDisease=8056, customLab=1082, diagnosis=2710672, hospital=208,
        infusionDrug=4803719, intakeOutput=12030289, lab=39132531, medication=7301853,
        microLab=16996, note=2254179, nurseAssessment=15602498, nurseCare=8311132,
        nurseCharting=151604232, patient=200859)},
    "eicu-crd-demo": {"2.0.1": dict(hospital=186, patient=2520)},
}


def locate(root):
  """The `downloads.Place` of eICU-CRD under `root`, or of its demo where a name tells that, or
  None. Raises CohortError as downloads.find()."""
  found = [place for project in (FULL, DEMO)
           if (place := downloads.find(project, root, (project.slug,)))]
  return max(found, key=lambda place: bool(place.version), default=None)
