"""Table sources behind one interface: a folder of csv.gz or parquet files, read strictly, as Ibis
tables on DuckDB.

A cohort reader declares the tables it uses (`Table`), receives them as Ibis tables
(`Source.tables`) and builds Ibis expressions; which engine runs them is decided here alone. Another
engine (BigQuery, Spark) is one more function that yields a `Source`.

A file is trusted only after one full pass over its bytes (checksum of the gzip stream, encoding,
NUL bytes, header) and one strict parse. Columns are found by header name and cast to the declared
types; a value that does not cast is an error. No message holds a value of a patient.
"""

import codecs
import collections.abc
import contextlib
import csv
import dataclasses
import difflib
import functools
import gzip
import hashlib
import pathlib
import re
import tempfile
import uuid
import zlib

from crl_jax.data.cohort import CohortError

_SQL = {"int64": "BIGINT", "float64": "DOUBLE", "string": "VARCHAR"}
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Table:
  """A declared table: column -> "int64" | "float64" | "string". Other columns of the file are not
  read.

  Attributes:
    columns: columns that the file must have.
    extra: columns that it may have; where absent they are all NULL.
    required: whether the folder must have the table; an absent optional table is served empty.
  """
  columns: dict
  extra: dict = dataclasses.field(default_factory=dict)
  required: bool = False

  @property
  def types(self):
    """All declared columns with their types."""
    return {**self.columns, **self.extra}


@dataclasses.dataclass(frozen=True)
class Source:
  """Open tables.

  Attributes:
    tables: name -> ibis table with exactly the declared columns, for every declared table.
    inputs: per file {table, file, sha256, bytes, rows}, JSON-able.
    absent: names of the declared optional tables that the source lacks (served empty).
    keep: expression -> table with its result, stored while the source is open: for what many
      queries join.
  """
  tables: dict
  inputs: list
  absent: list
  keep: collections.abc.Callable


@contextlib.contextmanager
def open_folder(root, schema, encoding="utf-8", memory_limit="4GB"):
  """Yields the `Source` of the folder `root`; its temporary database is removed on leaving.

  Args:
    root: folder with `<table>.csv.gz` or `<table>.parquet` files; the case of file names is
      ignored.
    schema: table name -> `Table`.
    encoding: "utf-8" | "latin-1", of the csv.gz files.
    memory_limit: what DuckDB may hold, for example "4GB"; it spills to its temporary folder past
      that.

  Raises:
    CohortError: a required table is absent, or a file is damaged, not what its name says, or not as
      declared.
  """
  import ibis

  files = _find(root, schema)
  with tempfile.TemporaryDirectory(prefix="crl_jax_") as folder:
    con = ibis.duckdb.connect(
        str(pathlib.Path(folder) / "tables.duckdb"), memory_limit=memory_limit,
        temp_directory=str(pathlib.Path(folder) / "spill"), preserve_insertion_order=False)
    try:
      sums = _checksums(root)
      inputs = []
      for name, table in schema.items():
        if name in files:
          inputs.append(_load(con, name, table, files[name], encoding, sums))
        else:
          columns = ", ".join(f'{_quote(c)} {_SQL[t]}' for c, t in table.types.items())
          con.raw_sql(f"CREATE TABLE {_quote(name)} ({columns})")
      yield Source(tables={n: con.table(n) for n in schema}, inputs=inputs,
                   absent=[n for n in schema if n not in files], keep=functools.partial(_keep, con))
    finally:
      con.disconnect()


def _keep(con, expr):
  """Stores the result of `expr` in `con`. (The cache() of ibis 12 cannot drop its table on DuckDB
  2.)"""
  name = f"kept_{uuid.uuid4().hex}"
  con.raw_sql(f"CREATE TABLE {_quote(name)} AS {con.compile(expr)}")
  return con.table(name)


def _find(root, schema):
  """Returns table -> path of its file. Raises CohortError where a required table has none, or a
  table has two."""
  folder = pathlib.Path(root)
  if not root or not folder.is_dir():
    raise CohortError(f"There is no folder '{root}'. Set the data root to the folder with the "
                      "database's csv.gz files.")
  found = {}
  for path in sorted(folder.iterdir()):
    stem, dot, suffix = path.name.partition(".")
    if suffix.lower() in ("csv.gz", "parquet"):
      found.setdefault(stem.lower(), []).append(path)
  for name in schema:
    twins = found.get(name.lower(), [])
    if len(twins) > 1:
      raise CohortError(f"Table {name} is there {len(twins)} times: "
                        f"{', '.join(p.name for p in twins)}. Keep one file.")
  absent = [n for n, t in schema.items() if t.required and n.lower() not in found]
  if absent:
    raise CohortError(f"'{root}' lacks the required {'table' if len(absent) == 1 else 'tables'} "
                      f"{', '.join(n + '.csv.gz' for n in absent)}. Download what is missing, or "
                      "point the data root to the folder that has it.")
  return {n: found[n.lower()][0] for n in schema if n.lower() in found}


def _checksums(root):
  """Returns file name in lower case -> SHA-256 of the folder's SHA256SUMS.txt; empty where there is
  none."""
  path = pathlib.Path(root) / "SHA256SUMS.txt"
  if not path.is_file():
    return {}
  pairs = [line.split(None, 1) for line in path.read_text().splitlines() if line.strip()]
  return {p[1].strip().lstrip("*").rsplit("/", 1)[-1].lower(): p[0].lower() for p in pairs
          if len(p) == 2}


def _load(con, name, table, path, encoding, sums):
  """Checks the file, loads its declared columns with their types into `con`, returns its facts."""
  import duckdb

  literal = str(path).replace("'", "''")
  if path.suffix == ".parquet":
    facts = {"sha256": _sha256(path)}
    raw = f"read_parquet('{literal}')"
  else:
    facts, header = _check_gzip(path, encoding)
    columns = ", ".join(f"{_literal(c)}: 'VARCHAR'" for c in header)
    raw = (f"read_csv('{literal}', auto_detect=false, columns={{{columns}}}, header=true, "
           f"delim=',', quote='\"', escape='\"', nullstr='', strict_mode=true, null_padding=false, "
           f"ignore_errors=false, compression='gzip', encoding='{encoding}')")
  expected = sums.get(path.name.lower())
  if expected and expected != facts["sha256"]:
    raise CohortError(f"{path.name} differs from its checksum in SHA256SUMS.txt. Download "
                      "it again.")
  try:
    if path.suffix == ".parquet":
      header = [row[0] for row in con.raw_sql(f"DESCRIBE SELECT * FROM {raw}").fetchall()]
    picked = _pick(path, header, table)
    con.raw_sql(f"CREATE TABLE {_quote(name)} AS SELECT {_casts(picked, table)} FROM {raw}")
  except duckdb.Error as error:
    # DuckDB's message quotes the row: keep the line number and the kind only
    raise CohortError(_parse_message(path, str(error))) from None
  rows = con.raw_sql(f"SELECT count(*) FROM {_quote(name)}").fetchall()[0][0]
  _check_casts(con, name, table, path)
  lines = facts.pop("lines", rows)
  if lines != rows:
    _check_line_breaks(con, path, raw, header, lines - rows)
  return {"table": name, "file": path.name, **facts, "bytes": path.stat().st_size, "rows": rows}


class _Hashing:
  """A binary file that hashes what is read from it."""

  def __init__(self, file):
    self._file, self.sha256 = file, hashlib.sha256()

  def read(self, size=-1):
    block = self._file.read(size)
    self.sha256.update(block)
    return block


def _sha256(path):
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _check_gzip(path, encoding):
  """One pass over a csv.gz: gzip checksum, encoding, NUL bytes, header. Returns ({sha256, lines},
  header).

  DuckDB verifies none of these (a flipped byte loads as another number). `lines` excludes the
  header.
  """
  if encoding not in ("utf-8", "latin-1"):
    raise CohortError(f"data.encoding is '{encoding}'; it must be 'utf-8' or 'latin-1'.")
  with open(path, "rb") as file:
    _refuse_impostor(path, file.read(512), compressed=True)
    file.seek(0)
    hashing = _Hashing(file)
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, head, last, nul = 0, b"", b"\n", 0
    try:
      with gzip.GzipFile(fileobj=hashing) as stream:
        while block := stream.read(_CHUNK):
          head = head or block
          decoder.decode(block)
          lines += block.count(b"\n")
          nul += block.count(b"\0")
          last = block[-1:]
        decoder.decode(b"", final=True)
    except EOFError:
      raise CohortError(f"{path.name} is cut off: its gzip stream ends early. Download it "
                        "again.") from None
    except (zlib.error, gzip.BadGzipFile):
      raise CohortError(f"{path.name} is damaged: its gzip checksum does not match. Download it "
                        "again.") from None
    except UnicodeDecodeError:
      raise CohortError(f"{path.name} is not UTF-8, near line {lines + 1}. If it is an old export, "
                        "set data.encoding='latin-1'.") from None
  if nul:
    raise CohortError(f"{path.name} holds {nul} NUL bytes. Export or download it again.")
  _refuse_impostor(path, head[:512], compressed=False)
  if head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise CohortError(f"{path.name} starts with a byte order mark. Save it as plain UTF-8.")
  header = next(csv.reader([head.split(b"\n", 1)[0].decode(encoding).rstrip("\r")]), [])
  return {"sha256": hashing.sha256.hexdigest(), "lines": lines + (last != b"\n") - 1}, header


def _refuse_impostor(path, head, compressed):
  """Raises CohortError where the first bytes are not those of a csv(.gz) file, saying what they
  are."""
  text = head.lstrip().lower()
  if not head.strip():
    raise CohortError(f"{path.name} is empty. Download it again.")
  if text.startswith(b"version https://git-lfs"):
    raise CohortError(f"{path.name} is a git-lfs pointer, not the file. Fetch it with 'git "
                      "lfs pull'.")
  if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
    raise CohortError(f"{path.name} is a web page, not a table: the download was answered by a "
                      "login or error page. Check your credentials and download it again.")
  if compressed and not head.startswith(b"\x1f\x8b"):
    raise CohortError(f"{path.name} is not a gzip file. Download it again, or compress it "
                      "with gzip.")


def _pick(path, header, table):
  """Returns declared column -> its name in the file (None for an absent extra one); matches by
  name, never by place."""
  names = {}
  for column in header:
    names.setdefault(column.strip().lower(), []).append(column)
  twins = [c for c in table.types if len(names.get(c.lower(), [])) > 1]
  if twins or any(len(n) > 1 for n in names.values()):
    raise CohortError(f"{path.name} has a duplicated column name"
                      f"{': ' + ', '.join(twins) if twins else ''}. Download it again, or name "
                      "the columns apart.")
  missing = [c for c in table.columns if c.lower() not in names]
  if missing:
    near = [m[0] for c in missing if (m := difflib.get_close_matches(c, _name_like(names), 1, 0.8))]
    hint = f" (it has {', '.join(near)}: renamed?)" if near else ""
    raise CohortError(f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} "
                      f"{', '.join(missing)}{hint}; its header has {len(header)} columns. Use the "
                      "database version named in the README.")
  return {c: names[c.lower()][0] if c.lower() in names else None for c in table.types}


def _name_like(names):
  """Header cells that look like column names; the header of a headerless file is a patient's row,
  never shown."""
  return [n for n in names if re.fullmatch(r"[a-z][a-z_0-9]*", n)]


def _casts(picked, table):
  """SQL select list: each declared column cast to its type, and `_bad_<column>`, true where a value
  does not cast."""
  parts = []
  for column, kind in table.types.items():
    if picked[column] is None:
      parts.append(f"CAST(NULL AS {_SQL[kind]}) AS {_quote(column)}")
      continue
    raw = f"CAST({_quote(picked[column])} AS VARCHAR)"
    if kind == "int64":       # DuckDB would round 2.5 to 3: only digits are an integer
      value = (f"CASE WHEN regexp_full_match({raw}, '[+-]?[0-9]+') THEN TRY_CAST({raw} AS "
               "BIGINT) END")
    else:
      value = f"TRY_CAST({raw} AS {_SQL[kind]})"
    parts.append(f"{value} AS {_quote(column)}")
    if kind != "string":
      parts.append(f"({raw} IS NOT NULL AND {value} IS NULL) AS {_quote('_bad_' + column)}")
  return ", ".join(parts)


def _check_casts(con, name, table, path):
  """Raises CohortError where values did not cast; drops the `_bad_` columns of `_casts`."""
  typed = [row[0] for row in con.raw_sql(f"DESCRIBE {_quote(name)}").fetchall()
           if row[0].startswith("_bad_")]
  if not typed:
    return
  counts = con.raw_sql("SELECT " + ", ".join(f"count_if({_quote(c)})" for c in typed)
                       + f" FROM {_quote(name)}").fetchall()[0]
  kind = lambda c: "whole numbers" if table.types[c.removeprefix("_bad_")] == "int64" else "numbers"
  bad = [f"{c.removeprefix('_bad_')} ({n:,} values are not {kind(c)})"
         for c, n in zip(typed, counts) if n]
  if bad:
    raise CohortError(f"{path.name} has values of the wrong type: {', '.join(bad)}. Look at these "
                      "columns of the file; a shifted or altered column is the usual cause.")
  for column in typed:
    con.raw_sql(f"ALTER TABLE {_quote(name)} DROP COLUMN {_quote(column)}")


def _check_line_breaks(con, path, raw, header, surplus):
  """Raises CohortError where a stray quote swallowed a row: a field with a line break followed by
  two more ids.

  Called when the file has more lines than the parser found rows. Line breaks inside free text are
  legal and pass.
  """
  swallowed = " OR ".join(f"regexp_matches({_quote(c)}, '\\n\"?[0-9]+\"?,\"?[0-9]+\"?,')"
                          for c in header)
  rows = con.raw_sql(f"SELECT count(*) FROM {raw} WHERE {swallowed}").fetchall()[0][0]
  if rows:
    raise CohortError(f"{path.name} has {rows:,} fields that swallow following rows ({surplus:,} "
                      "lines more than rows): a quote is not closed. Download or export it again.")


def _parse_message(path, text):
  """The reason of a DuckDB error without the row it quotes."""
  line = re.search(r"Line:? (\d+)", text)
  where = f", line {line.group(1)}" if line else ""
  if match := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
    why = f"a row has {match.group(2)} fields where the header has {match.group(1)}"
  elif "unterminated quote" in text:
    why = "a quote is not closed"
  elif "unicode" in text:
    why = "a value is not in the declared encoding"
  elif "No space left" in text or "Out of Memory" in text:
    why = ("there is not enough disk or memory; raise data.memory_limit or free space in the "
           "temporary folder")
  else:
    why = "it cannot be parsed"
  return f"{path.name}{where}: {why}. Nothing of this file was used; download or export it again."


def _quote(name):
  return '"' + name.replace('"', '""') + '"'


def _literal(name):
  return "'" + name.replace("'", "''") + "'"
