"""Checks a download of MIMIC-IV and prints the commands that mend it.

python -m crl_jax.data.mimic.verify --root=DIR

Every byte is read once: the checksum that PhysioNet publishes (SHA256SUMS.txt), the gzip stream,
the encoding, web pages saved as data, the version by header and folder, the number of rows where it
is known. Nothing is downloaded and no password is asked for or kept: wget asks. Exit status 1 where
something has to be mended. No patient's row is shown.
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
from crl_jax.data.mimic import files, versions
from crl_jax.data.tables import csv_files

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
  files.locate(root, required=(), sources=())
  threads = threads or os.cpu_count()
  findings = []
  for source, project in files.PROJECTS.items():
    try:
      place = files.locate(root, required=(), sources=(source,)).get(source)
    except CohortError as error:   # a version that cannot be read, or a table twice
      text, _, command = str(error).partition(" To fetch it:\n  ")
      findings.append(Finding("version", project.slug, text, command))
      continue
    if place is None:
      findings.append(Finding("missing", project.slug, f"{files.what(source)} is not there",
                              files.command(source, root)))
    else:
      findings += _check_project(source, place, root, threads)
  return findings


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


def _check_project(source, place, root, threads):
  """Findings of one project."""
  sums, findings = checksums.published(place.folder), []
  fetch = lambda file="": files.command(source, root, file, place)
  if sums is None:
    findings.append(Finding("unverified", f"{place.project.slug}/{_SUMS}", "not there: checksums "
                            "are not compared", fetch(_SUMS)))
  elif not sums:
    findings.append(Finding("damaged", f"{place.project.slug}/{_SUMS}",
                            "holds no checksum: it is not PhysioNet's file", _again(
                                place.folder / _SUMS, fetch(_SUMS))))
  if source == "embeddings":
    return findings + _check_embeddings(place, sums, fetch, threads)
  missing = [t for t in NEEDED[source] if t not in place.files]
  for table in missing:
    name = str(pathlib.PurePosixPath(place.project.tables[table], table + ".csv.gz"))
    plain = place.folder / name.removesuffix(".gz")
    text = ("not there, but unzipped: run gzip on it, or fetch it again" if plain.is_file()
            else "not there")
    findings.append(Finding("missing", name, text, fetch(name if len(missing) <= _FEW else "")))
  biggest = sorted(place.files.items(), key=lambda item: -item[1].stat().st_size)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    facts = dict(zip((t for t, _ in biggest), pool.map(
        lambda item: _check_file(item[0], item[1], place, sums, fetch), biggest)))
  findings += [facts[t][0] for t in place.files]
  counted = {t: rows for t, (finding, rows) in facts.items() if not finding.bad and rows >= 0}
  return _check_versions(place, counted, findings, sums, fetch)


def _check_file(table, path, place, sums, fetch):
  """(Finding, rows or -1) of one table's file."""
  name = path.relative_to(place.folder).as_posix()
  mend = _again(path, fetch(name))
  try:
    header, rows, digest = (_read_parquet if path.suffix == ".parquet" else _read_csv)(path)
  except CohortError as error:
    return Finding("damaged", name, str(error), mend), -1
  mark = versions.MARKS.get(table)
  if place.project.slug == "mimiciv" and mark and mark not in header:
    return Finding("version", name, f"has no column {mark}: older than version 2.2, or another "
                   "file", mend), -1
  if sums and name in sums and digest and sums[name] != digest:
    return Finding("damaged", name, f"is readable ({rows:,} rows), but not the published file: its "
                   f"checksum is not that of {_SUMS}", mend), rows
  state = f"as in {_SUMS}" if sums and name in sums else "whole, its checksum not compared"
  return Finding("ok", name, f"{rows:,} rows, {state}"), rows


def _check_versions(place, counted, findings, sums, fetch):
  """The findings, with the rows held against those of the published versions wherever the checksum
  does not already speak."""
  slug, known = place.project.slug, versions.ROWS.get(place.project.slug)
  if not known:
    return findings
  fits = versions.of_rows(slug, counted)
  version = place.version or (fits[0] if fits else "")
  others = [v for v in versions.of_rows(slug, counted) if v != version]
  expected = known.get(version, {})
  out = []
  for finding in findings:
    table = pathlib.PurePosixPath(finding.name).name
    table = table.removesuffix(".csv.gz").removesuffix(".parquet")
    proven = sums and finding.name in sums
    if finding.status == "ok" and table in counted and table in expected and not proven:
      if counted[table] == expected[table]:
        finding = dataclasses.replace(finding, text=f"{finding.text}; rows are {version}'s")
      else:
        why = (f"the rows of version {others[0]}, not {version}" if others else
               f"{version} has {expected[table]:,}")
        finding = Finding("version" if others else "damaged", finding.name,
                          f"{counted[table]:,} rows: {why}",
                          _again(place.folder / finding.name, fetch(finding.name)))
    out.append(finding)
  text = (f"version {version}" if version else "version unknown: no folder names it, and its rows "
          "are no published version's")
  return [Finding("ok" if version else "unverified", slug, text), *out]


def _check_embeddings(place, sums, fetch, threads):
  """Findings of the X-rays' embeddings: one line for all that are whole, one a bad file."""
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
  findings = [Finding("ok", place.project.slug, f"{len(paths) - len(wrong):,} embeddings, "
                      f"{f'as in {_SUMS}' if sums else 'readable'}")]
  findings += [Finding("damaged", name, text, _again(place.folder / name, fetch(name)))
               for name, text in wrong.items()]
  absent = [n for n in sums or {} if n.endswith(".tfrecord") and n not in set(names)]
  if absent:
    findings.append(Finding("missing", place.project.slug, f"{len(absent):,} embeddings of {_SUMS} "
                            "are not there", fetch()))
  return findings


def _read_csv(path):
  """(header, rows, sha256) of a csv.gz, all of it read and checked."""
  file = csv_files.check(path)
  return file.header, file.records, file.facts["sha256"]


def _read_parquet(path):
  """(header, rows, "") of a Parquet file, all of it read."""
  import pyarrow as pa
  from pyarrow import parquet
  try:
    file = parquet.ParquetFile(path)
    for batch in file.iter_batches():
      del batch
  except (pa.ArrowException, OSError) as error:
    raise CohortError(f"{path.name} is no readable Parquet file ({type(error).__name__}). Make it "
                      "again.") from None
  return file.schema_arrow.names, file.metadata.num_rows, ""


def _again(path, command):
  """The command after which wget fetches a file that it would take for finished."""
  return f"rm {shlex.quote(str(path))} && {command}"


def main(given):
  """Prints the report of --root; exit status 1 where something has to be mended."""
  findings = verify(given.root, given.threads)
  print(report(findings))
  return any(f.bad for f in findings)


if __name__ == "__main__":
  commands.path_flag("root", "Folder of the download, as config.data.root.", required=True)
  flags.DEFINE_integer("threads", 0, "Files read at a time; 0: one a core.", lower_bound=0)
  commands.run(main, "crl_jax.data.mimic.verify")
