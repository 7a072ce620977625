"""Where the files of PhysioNet's projects lie under a folder, and how to fetch what is not there.

The folder may be
  - the project's own;
  - the folder in which PhysioNet's own command was run: wget makes
    physionet.org/files/<project>/<version>/ there;
  - physionet.org/files, or the <version> folder of any project in it;
  - a folder of unpacked zip files (mimic-iv-3.1/, ...).
Capitals make no difference. Nothing is downloaded here, and no password is asked for or kept: the
commands that are printed let wget ask.
"""

import dataclasses
import itertools
import pathlib
import re
import shlex

from crl_jax.data.tables import names


@dataclasses.dataclass(frozen=True)
class Project:
  """A project of PhysioNet.

  Attributes:
    slug: its name in addresses and in wget's folders.
    title: the name of its unpacked zip file, before "-<version>".
    versions: those that can be read, newest first; the first is the one to fetch.
    tables: table -> folder inside the project, "" for its top.
    mark: tables of which one must be there for a folder to be this project.
    tree: for a project of no tables (patterns of folders, of files in them): of the first folders
      one must have a file.
    open: whether it is fetched without an account.
  """
  slug: str
  title: str
  versions: tuple
  tables: dict
  mark: tuple = ()
  tree: tuple = ()
  open: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one project lies.

  Attributes:
    project: its `Project`.
    folder: the project's top folder (the one that holds files/, where there are no tables).
    version: "3.1", ... as the folder's name says it; "" where no name does.
    files: table -> tuple of the paths of its files, see names.py, of those that are there.
  """
  project: Project
  folder: pathlib.Path
  version: str
  files: dict


def find(project, root, slugs):
  """The `Place` of a project under `root`, or None.

  Args:
    slugs: names of the projects that wget may have put beside it.
  Raises:
    ValueError: only versions that cannot be read are there, by name, or a table lies there twice.
  """
  wget = base(root) / "physionet.org" / "files"
  tops = dict.fromkeys((root, root / "files", wget))
  if root.absolute().parent.name in slugs:   # .../mimiciv/3.1
    tops[root.absolute().parents[1]] = None
  versioned, known, strange = [], [], []
  for top in tops:
    for folder in _folders(top / project.slug):
      versioned.append((folder, folder.name))
    for folder in _folders(top):
      if version := _version_in_name(project, folder):
        versioned.append((folder, version))
  direct = [(root, _version_in_path(project, root)), (root / project.slug, "")]
  for folder, version in direct:
    if place := look(project, folder, version):
      if version and version not in project.versions:
        strange.append((place, version))
      else:
        return place
  for folder, version in versioned:
    if place := look(project, folder, version):
      (known if version in project.versions else strange).append((place, version))
  if known:
    return min(known, key=lambda pair: project.versions.index(pair[1]))[0]
  if strange:
    place, version = strange[0]
    raise ValueError(f"{place.folder} is version {version} of {project.slug}, which cannot be "
                     f"read: version {supported(project)} can. To fetch it:\n  "
                     + command(project, root))
  return None


def look(project, folder, version):
  """The `Place` at `folder` if the project lies there, else None. Raises CohortError for a table
  that is there twice."""
  if not folder.is_dir():
    return None
  if project.tree:
    some = itertools.islice(folder.glob(project.tree[0]), 50)   # not every folder of MIMIC-CXR
    some = any(next(f.glob(project.tree[1]), None) for f in some)
    return Place(project, folder, version, {}) if some else None
  parts = _parts(project, folder)
  found = {part: names.find(folders, project.tables) for part, folders in parts.items()}
  files = {}
  for table, part in project.tables.items():       # in its own folder, at the top, elsewhere
    for place in (part, "", *parts):
      if table in found[place]:
        files.setdefault(table, found[place][table])
  return Place(project, folder, version, files) if files.keys() & set(project.mark) else None


def _parts(project, folder):
  """Name of a folder inside the project, "" for its top -> the folders at `folder` that are it."""
  return {"": [folder], **{part: [f for f in _folders(folder) if f.name.lower() == part]
                           for part in project.tables.values() if part}}


def told(project, folder, table, known=()):
  """names.told() of the project's folders, where it lies or could lie at `folder`; `known` are
  tables of other databases."""
  return names.told(sum(_parts(project, folder).values(), []), table, (*project.tables, *known))


def holds_tables(root):
  """Whether files of any tables lie in the folder, or one folder below."""
  return any(names.split(path.name)[1] for folder in (root, *_folders(root))
             for path in folder.iterdir())


def command(project, root, file="", place=None):
  """The command that fetches a project, or one file of it: into the folder of `place` where there
  is one, else into wget's folders under `root`. It resumes what was begun, and lets wget ask for
  the password."""
  version = (place and place.version) or project.versions[0]
  folder = place.folder.absolute() if place else base(root)
  how = ("-x" if file else "-r -np") + (" -nH --cut-dirs=3" if place else "")
  who = "" if project.open else "--user YOUR_PHYSIONET_NAME --ask-password "
  address = f"https://physionet.org/files/{project.slug}/{version}/{file}"
  return f"wget {how} -N -c {who}-P {shlex.quote(str(folder))} {address}"


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


def _version_in_path(project, folder):
  """The version by the name of a project's folder: .../mimiciv/3.1 or .../mimic-iv-3.1."""
  folder = folder.absolute()
  return folder.name if folder.parent.name == project.slug else _version_in_name(project, folder)


def _version_in_name(project, folder):
  match = re.fullmatch(re.escape(project.title) + r"-(\d[\d.]*)", folder.name, re.IGNORECASE)
  return match.group(1) if match else ""


def _folders(folder):
  return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
