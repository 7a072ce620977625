"""MIMIC-IV, its notes and its X-rays under `data.root`, see downloads.py: which projects they are,
where each lies, how to fetch it.

Of several versions the newest known one is read; the version's own folder as data.root takes
another.
"""

import pathlib

from crl_jax.data.tables import downloads
from crl_jax.data.tables.downloads import Project

CXR_METADATA = "mimic-cxr-2.0.0-metadata"   # its name in every release of MIMIC-CXR

HOSP = ("admissions", "d_hcpcs", "d_icd_diagnoses", "d_icd_procedures", "d_labitems",
        "diagnoses_icd", "drgcodes", "emar", "emar_detail", "hcpcsevents", "labevents",
        "microbiologyevents", "omr", "patients", "pharmacy", "poe", "poe_detail", "prescriptions",
        "procedures_icd", "provider", "services", "transfers")
ICU = ("caregiver", "chartevents", "d_items", "datetimeevents", "icustays", "ingredientevents",
       "inputevents", "outputevents", "procedureevents")
NOTE = ("discharge", "discharge_detail", "radiology", "radiology_detail")

_TABLES = {**dict.fromkeys(HOSP, "hosp"), **dict.fromkeys(ICU, "icu")}
PROJECTS = {
    "tables": Project("mimiciv", "mimic-iv", ("3.1", "3.0", "2.2"), _TABLES, ("patients",)),
    "notes": Project("mimic-iv-note", "mimic-iv-note-deidentified-free-text-clinical-notes",
                     ("2.2",), dict.fromkeys(NOTE, "note"), ("discharge", "radiology")),
    "cxr": Project("mimic-cxr-jpg", "mimic-cxr-jpg-chest-radiographs-with-structured-labels",
                   ("2.1.0", "2.0.0"), {CXR_METADATA: ""}, (CXR_METADATA,)),
    "embeddings": Project(
        "image-embeddings-mimic-cxr",
        "generalized-image-embeddings-for-the-mimic-chest-x-ray-dataset", ("1.0",), {},
        tree=("files/p1?/p*/", "s*/*.tfrecord")),
}
# of the tables, of 100 patients: it has no notes and no X-rays
DEMO = Project("mimic-iv-demo", "mimic-iv-clinical-database-demo", ("2.2",), _TABLES, ("patients",),
               open=True)
_OTHERS = ("patient",)   # of eICU-CRD, of a name that is near one of MIMIC-IV's


def locate(root, required=("tables",), sources=tuple(PROJECTS)):
  """Finds what lies under `root`.

  Args:
    root: config.data.root.
    required: the sources that must be there: of "tables", "notes", "cxr" (the X-rays' metadata),
      "embeddings".
    sources: those that are looked for.
  Returns:
    source -> `downloads.Place`, for those of `sources` that were found.
  Raises:
    FileNotFoundError: `root` is no folder, or a required source is not in it; the message holds the
      command that fetches it, where no other database lies there.
    ValueError: only versions that cannot be read are there, by name, or a table lies there twice.
  """
  root = pathlib.Path(root)
  if not root.is_dir():
    raise FileNotFoundError(f"data.root='{root}' is not a folder. Give the folder of the "
                            f"downloaded files; to fetch them:\n  {command('tables', root)}")
  found = {source: place for source in sources if (place := _find(source, root))}
  missing = [source for source in required if source not in found]
  if missing:
    raise FileNotFoundError("\n".join(_missing(source, root, found) for source in missing))
  return found


def _find(source, root):
  """The `downloads.Place` of a source, or None; the demo where the full tables are not, or where
  the root is named so."""
  slugs = {project.slug for project in (*PROJECTS.values(), DEMO)}
  found = downloads.find(PROJECTS[source], root, slugs)
  if source != "tables" or found and (found.version or found.folder != root):
    return found
  demo = downloads.find(DEMO, root, slugs)
  return demo if demo and demo.version else found or demo


def _missing(source, root, found):
  """What to say of a required source that is not under `root`, where `found` are the others."""
  project = PROJECTS[source]
  text = f"data.root='{root}' holds no {what(source)}."
  if seen := [told for t in project.mark if (told := downloads.told(project, root, t, _OTHERS))]:
    return f"{text} {' '.join(seen)}"
  if "tables" not in found and downloads.holds_tables(root):
    return (f"{text} Other tables lie there: give the folder of MIMIC-IV, an empty one to fetch it "
            "into, or data.cohort=eicu for eICU-CRD.")
  return f"{text} To fetch it:\n  {command(source, root)}"


def files(places):
  """table -> tuple of paths over all sources that locate() found; table names are unique among
  them."""
  return {table: paths for place in places.values() for table, paths in place.files.items()}


def told(root, places, tables):
  """Sentences on the files that may be meant as one of `tables` that locate() did not find."""
  here = files(places)
  return [text for source, project in PROJECTS.items() for table in project.tables
          if table in tables and table not in here and (text := downloads.told(
              project, places[source].folder if source in places else pathlib.Path(root), table,
              _OTHERS))]


def embeddings(place, subject_id, study_id):
  """The TFRecord files of one study, by name; empty where the study has none."""
  subject = str(int(subject_id))
  folder = place.folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{int(study_id)}"
  return sorted(folder.glob("*.tfrecord"))


def what(source):
  """The source in words: its project and the file by which it is known."""
  project = PROJECTS[source]
  if source == "embeddings":
    return f"{project.slug} (files/pXX/pSUBJECT/sSTUDY/*.tfrecord)"
  names = " or ".join(str(pathlib.PurePosixPath(project.tables[t], t + ".csv.gz"))
                      for t in project.mark)
  return f"{project.slug} ({names})"


def command(source, root, file="", place=None):
  """downloads.command() of a source. Of MIMIC-CXR it fetches the metadata alone, not 500 GB of
  images."""
  if source == "cxr" and not file:
    file = CXR_METADATA + ".csv.gz"
  return downloads.command(place.project if place else PROJECTS[source], root, file, place)
