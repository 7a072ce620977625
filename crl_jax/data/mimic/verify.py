"""Checks a download of MIMIC-IV, of eICU-CRD or of their demos and prints the commands that mend
it.

python -m crl_jax.data.mimic.verify --root=DIR

Every byte is read once: the checksum that PhysioNet publishes (SHA256SUMS.txt), the gzip stream,
the encoding, web pages saved as data, the version by header and folder, the number of rows where it
is known. Nothing is downloaded and no password is asked for or kept: wget asks. A command writes
into a folder only what the folder is known to be a version of. Exit status 1 where something has to
be mended. No patient's row is shown.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import shlex

from absl import flags

from crl_jax import commands, files as files_lib
from crl_jax.data import checksums
from crl_jax.data.cohort import CohortError
from crl_jax.data.eicu import files as eicu_files, tables as eicu_tables
from crl_jax.data.mimic import files, versions
from crl_jax.data.tables import csv_files, downloads, names

# What the cohort reads; other tables are checked where they are there and not missed.
NEEDED = {
    "tables": ("patients", "admissions", "transfers", "services", "icustays", "diagnoses_icd",
               "procedures_icd", "omr", "labevents", "d_labitems", "chartevents", "d_items",
               "inputevents", "outputevents", "procedureevents", "prescriptions", "pharmacy",
               "emar", "microbiologyevents"),
    "notes": ("discharge", "radiology"),
    "cxr": (files.CXR_METADATA,),
    "embeddings": (),
}
# a database and its demo
_FAMILIES = ((files.PROJECTS["tables"], files.DEMO), (eicu_files.FULL, eicu_files.DEMO))
_SUMS = checksums.LIST
_FEW = 6   # more files than this of one project are fetched with the whole project


@dataclasses.dataclass(frozen=True)
class Finding:
  """What was found of one file, or of all of a kind.

  Attributes:
    status: "ok" | "missing" | "damaged" | "version" | "unverified".
    name: the file, relative to its project, or the project.
    text: what is wrong, or what was seen.
    command: what mends it, "" where nothing has to be.
  """
  status: str
  name: str
  text: str
  command: str = ""

  @property
  def bad(self):
    return self.status not in ("ok", "unverified")


def verify(root, threads=0):
  """Checks all that lies under `root` against what the cohort needs.

  Args:
    root: see files.
    threads: how many files are read at a time; 0: one a core.
  Returns:
    list of `Finding`.
  Raises:
    AbsentError: root is no folder.
  """
  files.locate(root, (), ())
  threads, root = threads or os.cpu_count(), pathlib.Path(root)
  found = {}
  for source in (*files.PROJECTS, "eicu"):
    try:
      place = (eicu_files.locate(root) if source == "eicu" else
               files.locate(root, (), (source,)).get(source))
    except CohortError as error:   # a version that cannot be read, or a table twice
      text, _, command = str(error).partition(" To fetch it:\n  ")
      project = files.PROJECTS.get(source, eicu_files.FULL)
      found[source] = [Finding("version", project.slug, text, command)]
      continue
    if place:
      found[source] = _check(source, place, threads)
  if found.keys() == {"eicu"}:
    return found["eicu"]
  tables = found.get("tables", [None])[0]
  other = not found and downloads.holds_tables(root)
  for source in files.PROJECTS.keys() - found.keys():
    found[source] = [_absent(source, root, tables, other)]
  return [finding for source in (*files.PROJECTS, "eicu") for finding in found.get(source, [])]


def _check(source, place, threads):
  """Findings of a project that is there; the first tells the version of tables."""
  if source == "embeddings":
    return _check_embeddings(place, threads)
  return _check_project(place, NEEDED.get(source, tuple(eicu_tables.schema())), threads)


def _absent(source, root, tables, other):
  """What to say of a project that is not under `root`.

  Args:
    tables: the first Finding of MIMIC-IV's tables, or None.
    other: whether tables of no known project are there.
  """
  project = files.PROJECTS[source]
  if tables and tables.name == files.DEMO.slug:
    return Finding("ok", project.slug, "the demo's patients have none")
  text, command = f"{files.what(source)} is not there", files.command(source, root)
  if seen := files.told(root, {}, project.mark):
    text, command = f"{text}. {' '.join(seen)}", ""
  elif other:
    text, command = f"{text}; other tables are: to fetch it, name an empty folder", ""
  elif tables and tables.status == "unverified":
    command = ""      # to tables of a version that is not known nothing is added
  return Finding("missing", project.slug, text, command)


def report(findings):
  """The findings as text: one line a file, then the commands that mend what is bad."""
  out = [f"{f.status:11s}{f.name:34s} {f.text}" for f in findings]
  commands = list(dict.fromkeys(f.command for f in findings if f.command))
  bad = sum(f.bad for f in findings)
  out.append("")
  if commands:
    out += ["To mend this (wget asks for the password; nothing here does):",
            *("  " + c for c in commands), ""]
  out.append(f"{bad} of {len(findings)} entries have to be mended." if bad else
             "All that is here is whole.")
  return "\n".join(out)


@dataclasses.dataclass(frozen=True)
class _Read:
  """What one pass over a file showed: its columns, rows and SHA-256 ("" of Parquet), or what is
  wrong with it."""
  header: list = ()
  rows: int = -1
  digest: str = ""
  wrong: str = ""


def _check_project(place, needed, threads):
  """Findings of one project's tables, of which the cohort reads those of `needed`."""
  pairs = [(table, path) for table, paths in place.files.items() for path in paths]
  biggest = sorted((path for _, path in pairs), key=lambda path: -path.stat().st_size)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    read = dict(zip(biggest, pool.map(_read, biggest)))
  rows = {table: sum(read[path].rows for path in paths) for table, paths in place.files.items()
          if not any(read[path].wrong for path in paths)}
  place = _identify(place, rows)
  sums = checksums.published(place.folder)
  # Into a folder of an unknown version nothing is fetched: it would be of another one.
  fetch = lambda file="": place.version and downloads.command(
      place.project, place.folder, file, place)
  slug = place.project.slug
  findings = [Finding("ok" if place.version else "unverified", slug,
                      f"version {place.version}" if place.version else
                      "version unknown: no folder names it, and its rows are no published "
                      "version's; nothing is offered to be fetched into it")]
  findings += _sums(place, sums, fetch)
  called = {table.lower(): table for table in place.project.tables}
  missing = [called[t.lower()] for t in needed if called[t.lower()] not in place.files]
  for table in missing:
    name = _published(place.project, table)
    findings.append(Finding("missing", name, downloads.told(place.project, place.folder, table)
                            or "not there", fetch(name if len(missing) <= _FEW else "")))
  return findings + [_judge(table, path, read[path], rows, place, sums, fetch)
                     for table, path in pairs]


def _identify(place, rows):
  """The place as the database, full or demo, that its rows are of, and with its version: by name, or
  by the rows where no name tells."""
  for project in _family(place.project):
    if fits := versions.of_rows(_known(project), rows):
      named = place.version if project is place.project else ""
      return dataclasses.replace(place, project=project, version=named or fits[0])
  return place


def _judge(table, path, read, rows, place, sums, fetch):
  """The Finding of one file.

  Args:
    read: its `_Read`.
    rows: table -> rows, of those that are whole.
    sums: name -> published checksum, or None.
    fetch: name -> command, "" where none is offered.
  """
  name, project = path.relative_to(place.folder).as_posix(), place.project
  listed = {file.lower(): digest for file, digest in (sums or {}).items()}.get(name.lower())
  published = _published(project, table)
  mend = _again(path, fetch(published)) if name.lower() == published.lower() else ""
  if read.wrong:
    return Finding("damaged", name, read.wrong, mend)
  mark = versions.MARKS.get(table)
  if project.slug in ("mimiciv", files.DEMO.slug) and mark and mark not in read.header:
    return Finding("version", name, f"has no column {mark}: older than version 2.2, or another "
                   "file", mend)
  proven = listed and read.digest
  if proven and listed != read.digest:
    return Finding("damaged", name, f"is readable ({read.rows:,} rows), but not the published "
                   f"file: its checksum is not that of {_SUMS}", mend)
  text = f"{read.rows:,} rows, " + (f"as in {_SUMS}" if proven else
                                    "whole, its checksum not compared")
  expected = _known(project).get(place.version, {}).get(table)
  if proven or expected is None or table not in rows:
    return Finding("ok", name, text)
  if rows[table] == expected:
    return Finding("ok", name, f"{text}; rows are {place.version}'s")
  if others := versions.of_rows(_known(project), rows):
    return Finding("version", name, f"{rows[table]:,} rows: the rows of version {others[0]}, not "
                   f"{place.version}", mend)
  return Finding("damaged", name, f"{rows[table]:,} rows: {place.version} has {expected:,}", mend)


def _family(project):
  """The project, and those that its tables may be of instead."""
  return next((family for family in _FAMILIES if project in family), (project,))


def _known(project):
  """version -> table -> rows, of those that are known."""
  return versions.ROWS.get(project.slug) or eicu_files.ROWS.get(project.slug, {})


def _sums(place, sums, fetch):
  """Findings of the list of checksums, where there is none that can be used."""
  name = f"{place.project.slug}/{_SUMS}"
  if sums is None:
    return [Finding("unverified", name, "not there: checksums are not compared", fetch(_SUMS))]
  return [] if sums else [
      Finding("damaged", name, "holds no checksum: it is not PhysioNet's file",
              _again(place.folder / _SUMS, fetch(_SUMS)))]


def _published(project, table):
  """The name under which PhysioNet publishes a table."""
  return str(pathlib.PurePosixPath(project.tables[table], table + ".csv.gz"))


def _check_embeddings(place, threads):
  """Findings of the X-rays' embeddings: one line for all that are whole, one a bad file."""
  sums = checksums.published(place.folder)
  fetch = lambda file="": downloads.command(place.project, place.folder, file, place)
  paths = sorted(place.folder.glob("files/p*/p*/s*/*.tfrecord"))
  names = [p.relative_to(place.folder).as_posix() for p in paths]

  def check(pair):
    name, path = pair
    if sums and name in sums:
      return ("" if files_lib.sha256(path) == sums[name] else
              f"its checksum is not that of {_SUMS}")
    from crl_jax.data.mimic import images
    try:
      images.read([path])
    except CohortError as error:
      return str(error)
    return ""

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    wrong = {n: text for n, text in zip(names, pool.map(check, zip(names, paths))) if text}
  findings = _sums(place, sums, fetch)
  findings += [Finding("ok", place.project.slug, f"{len(paths) - len(wrong):,} embeddings, "
                       f"{f'as in {_SUMS}' if sums else 'readable'}")]
  findings += [Finding("damaged", name, text, _again(place.folder / name, fetch(name)))
               for name, text in wrong.items()]
  absent = [n for n in sums or {} if n.endswith(".tfrecord") and n not in set(names)]
  if absent:
    findings.append(Finding("missing", place.project.slug, f"{len(absent):,} embeddings of {_SUMS} "
                            "are not there", fetch()))
  return findings


def _read(path):
  """The `_Read` of a file, all of it read and checked."""
  import pyarrow as pa
  from pyarrow import parquet
  try:
    if not names.is_parquet(path):
      file = csv_files.check(path)
      return _Read(file.header, file.records, file.facts["sha256"])
    with parquet.ParquetFile(path) as file:
      for batch in file.iter_batches():
        del batch
      return _Read(file.schema_arrow.names, file.metadata.num_rows)
  except CohortError as error:
    return _Read(wrong=str(error))
  except (pa.ArrowException, OSError) as error:
    return _Read(wrong=f"{path.name} is no readable file ({type(error).__name__}). Make it again.")


def _again(path, command):
  """The command after which wget fetches a file that it would take for finished; "" without one."""
  return command and f"rm {shlex.quote(str(path))} && {command}"


def main(given):
  """Prints the report of --root; exit status 1 where something has to be mended."""
  findings = verify(given.root, given.threads)
  print(report(findings))
  return any(f.bad for f in findings)


if __name__ == "__main__":
  commands.path_flag("root", "Folder of the download, as config.data.root.", required=True)
  flags.DEFINE_integer("threads", 0, "Files read at a time; 0: one a core.", lower_bound=0)
  commands.run(main, "crl_jax.data.mimic.verify")
