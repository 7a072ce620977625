"""Where the files of MIMIC-IV, its notes and its X-rays lie under `data.root`, and how to fetch
what is not there.

`data.root` may be
  - a folder that holds hosp/ and icu/ (and note/, files/pXX/... and the X-rays' metadata file, if
    one has them);
  - the folder in which PhysioNet's own command was run: wget makes
    physionet.org/files/<project>/<version>/ there;
  - physionet.org/files, or the <version> folder of mimiciv in it;
  - a folder of unpacked zip files (mimic-iv-3.1/, ...).
Of several versions the newest known one is read; the version's own folder as data.root takes
another. Nothing is downloaded here, and no password is asked for or kept: the commands that are
printed let wget ask.
"""

import dataclasses
import itertools
import pathlib
import re
import shlex

from crl_jax.data.cohort import AbsentError, CohortError

ENDINGS = (".csv.gz", ".parquet")
CXR_METADATA = "mimic-cxr-2.0.0-metadata"   # its name in every release of MIMIC-CXR

HOSP = ("admissions", "d_hcpcs", "d_icd_diagnoses", "d_icd_procedures", "d_labitems",
        "diagnoses_icd", "drgcodes", "emar", "emar_detail", "hcpcsevents", "labevents",
        "microbiologyevents", "omr", "patients", "pharmacy", "poe", "poe_detail", "prescriptions",
        "procedures_icd", "provider", "services", "transfers")
ICU = ("caregiver", "chartevents", "d_items", "datetimeevents", "icustays", "ingredientevents",
       "inputevents", "outputevents", "procedureevents")
NOTE = ("discharge", "discharge_detail", "radiology", "radiology_detail")


@dataclasses.dataclass(frozen=True)
class Project:
  """A project of PhysioNet.

  Attributes:
    slug: its name in addresses and in wget's folders.
    title: the name of its unpacked zip file, before "-<version>".
    versions: those that can be read, newest first; the first is the one to fetch.
    tables: table -> folder inside the project, "" for its top.
    mark: tables of which one must be there for a folder to be this project; for the embeddings,
      which are no table, none.
  """
  slug: str
  title: str
  versions: tuple
  tables: dict
  mark: tuple


PROJECTS = {
    "tables": Project("mimiciv", "mimic-iv", ("3.1", "3.0", "2.2"),
                      {**dict.fromkeys(HOSP, "hosp"), **dict.fromkeys(ICU, "icu")}, ("patients",)),
    "notes": Project("mimic-iv-note", "mimic-iv-note-deidentified-free-text-clinical-notes",
                     ("2.2",), dict.fromkeys(NOTE, "note"), ("discharge", "radiology")),
    "cxr": Project("mimic-cxr-jpg", "mimic-cxr-jpg-chest-radiographs-with-structured-labels",
                   ("2.1.0", "2.0.0"), {CXR_METADATA: ""}, (CXR_METADATA,)),
    "embeddings": Project(
        "image-embeddings-mimic-cxr",
        "generalized-image-embeddings-for-the-mimic-chest-x-ray-dataset", ("1.0",), {}, ()),
}


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one project lies.

  Attributes:
    project: its `Project`.
    folder: the project's top folder (for the embeddings the one that holds files/).
    version: "3.1", ... as the folder's name says it; "" where no name does.
    files: table -> path, of those that are there.
  """
  project: Project
  folder: pathlib.Path
  version: str
  files: dict


def locate(root, required=("tables",), sources=tuple(PROJECTS)):
  """Finds what lies under `root`.

  Args:
    root: config.data.root.
    required: the sources that must be there: of "tables", "notes", "cxr" (the X-rays' metadata),
      "embeddings".
    sources: those that are looked for.
  Returns:
    source -> `Place`, for those of `sources` that were found.
  Raises:
    AbsentError: `root` is no folder, or a required source is not in it; the message holds the
      command that fetches it.
    CohortError: only versions that cannot be read are there, by name, or a table lies there twice.
  """
  root = pathlib.Path(root)
  if not root.is_dir():
    raise AbsentError(f"data.root='{root}' is not a folder. Give the folder of the "
                      f"downloaded files; to fetch them:\n  {command('tables', root)}")
  found = {source: place for source in sources if (place := _find(source, root))}
  missing = [source for source in required if source not in found]
  if missing:
    raise AbsentError(
        "\n".join(f"data.root='{root}' holds no {what(source)}. To fetch it:\n  "
                  f"{command(source, root)}" for source in missing))
  return found


def files(places):
  """table -> path over all sources that locate() found; table names are unique among them."""
  return {table: path for place in places.values() for table, path in place.files.items()}


def what(source):
  """The source in words: its project and the file by which it is known."""
  project = PROJECTS[source]
  if source == "embeddings":
    return f"{project.slug} (files/pXX/pSUBJECT/sSTUDY/*.tfrecord)"
  names = " or ".join(str(pathlib.PurePosixPath(project.tables[t], t + ".csv.gz"))
                      for t in project.mark)
  return f"{project.slug} ({names})"


def command(source, root, file="", place=None):
  """The command that fetches a source, or one file of it: into the folder of `place` where there is
  one, else into wget's folders under `root`.

  It resumes what was begun, and lets wget ask for the password. Of MIMIC-CXR it fetches the
  metadata alone, not 500 GB of images.
  """
  project = PROJECTS[source]
  if source == "cxr" and not file:
    file = CXR_METADATA + ".csv.gz"
  version = (place and place.version) or project.versions[0]
  folder = place.folder.absolute() if place else base(root)
  how = ("-x" if file else "-r -np") + (" -nH --cut-dirs=3" if place else "")
  address = f"https://physionet.org/files/{project.slug}/{version}/{file}"
  return (f"wget {how} -N -c --user YOUR_PHYSIONET_NAME --ask-password "
          f"-P {shlex.quote(str(folder))} {address}")


def base(root):
  """The folder in which wget has to be run for its folders to be found from `root`."""
  root = pathlib.Path(root).absolute()
  for folder in (root, *root.parents[:3]):
    if folder.name == "physionet.org":
      return folder.parent
  return root


def supported(project):
  """'3.1, 3.0 or 2.2'"""
  *rest, last = project.versions
  return f"{', '.join(rest)} or {last}" if rest else last


def _find(source, root):
  """The `Place` of a source, or None."""
  project = PROJECTS[source]
  wget = base(root) / "physionet.org" / "files"
  tops = dict.fromkeys((root, root / "files", wget))
  if root.absolute().parent.name in {p.slug for p in PROJECTS.values()}:   # .../mimiciv/3.1
    tops[root.absolute().parents[1]] = None
  versioned, known, strange = [], [], []
  for top in tops:
    for folder in _folders(top / project.slug):
      versioned.append((folder, folder.name))
    for folder in _folders(top):
      if match := re.fullmatch(re.escape(project.title) + r"-(\d[\d.]*)", folder.name):
        versioned.append((folder, match.group(1)))
  direct = [(root, _version_in_path(project, root)), (root / project.slug, "")]
  for folder, version in direct:
    if place := _look(source, project, folder, version):
      if version and version not in project.versions:
        strange.append((place, version))
      else:
        return place
  for folder, version in versioned:
    if place := _look(source, project, folder, version):
      (known if version in project.versions else strange).append((place, version))
  if known:
    return min(known, key=lambda pair: project.versions.index(pair[1]))[0]
  if strange:
    place, version = strange[0]
    raise CohortError(f"{place.folder} is version {version} of {project.slug}, which cannot be "
                      f"read: version {supported(project)} can. To fetch it:\n  "
                      + command(source, root))
  return None


def _look(source, project, folder, version):
  """The `Place` at `folder` if the source lies there, else None. Raises CohortError for a table
  that is there both as csv.gz and as Parquet."""
  if not folder.is_dir():
    return None
  if source == "embeddings":
    some = itertools.islice(folder.glob("files/p1?/p*/"), 50)   # not every folder of MIMIC-CXR
    some = itertools.islice((f for p in some for f in p.glob("s*/*.tfrecord")), 1)
    return Place(project, folder, version, {}) if list(some) else None
  found = {}
  for table, part in project.tables.items():
    for place in dict.fromkeys((folder / part, folder)):
      paths = [p for e in ENDINGS if (p := place / (table + e)).is_file()]
      if len(paths) > 1:
        raise CohortError(f"{place} holds both {paths[0].name} and {paths[1].name}: remove one.")
      if paths and table not in found:
        found[table] = paths[0]
  if not any(mark in found for mark in project.mark):
    return None
  return Place(project, folder, version, found)


def _version_in_path(project, folder):
  """The version by the name of a project's folder: .../mimiciv/3.1 or .../mimic-iv-3.1."""
  folder = folder.absolute()
  if folder.parent.name == project.slug:
    return folder.name
  match = re.fullmatch(re.escape(project.title) + r"-(\d[\d.]*)", folder.name)
  return match.group(1) if match else ""


def _folders(folder):
  return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
