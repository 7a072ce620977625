"""Table sources behind one interface: declared tables as Ibis tables, on any of three engines.

A cohort reader declares the tables it uses (`Table`), receives them as Ibis tables
(`Source.tables`) and builds Ibis expressions; which engine runs them is decided here and in
engines.py alone: files of csv, csv.gz or Parquet on DuckDB (this file), BigQuery, Spark. What the
files may be called, and that a table may lie in parts, is names.py's.

A file is trusted only after one full pass over its bytes (csv_files.py) and one strict parse.
Columns are found by header name and cast to the declared types; a value that does not cast is an
error. No message holds a value of a patient.
"""

import collections.abc
import contextlib
import dataclasses
import functools
import logging
import pathlib
import re
import tempfile
import uuid

from crl_jax import files as files_lib
from crl_jax.data import checksums
from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import csv_files, csv_rows, names, parquet_files, plain_errors

_LOG = logging.getLogger("crl_jax")
_SQL = {"int64": "BIGINT", "float64": "DOUBLE", "string": "VARCHAR", "timestamp": "TIMESTAMP"}


@dataclasses.dataclass(frozen=True)
class Table:
  """A declared table: column -> "int64" | "float64" | "string" | "timestamp" (without a zone).
  Other columns of the file are not read.

  Attributes:
    columns: columns that the file must have.
    extra: columns that it may have; where absent they are all NULL.
    required: whether the folder must have the table; an absent optional table is served empty.
    large: it is not loaded: `Source.keep` streams its file through the expression that reads it, in
      one pass. No other query may read it.
  """
  columns: dict
  extra: dict = dataclasses.field(default_factory=dict)
  required: bool = False
  large: bool = False

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
    odd: counts of what is not read, with the rule for it: list of {table, rule, count}.
    absent: names of the declared optional tables that the source lacks (served empty).
    keep: expression -> table with its result, stored while the source is open: for what many
      queries join.
    put: data frame -> table with its content.
  """
  tables: dict
  inputs: list
  absent: list
  keep: collections.abc.Callable
  put: collections.abc.Callable = None
  odd: list = dataclasses.field(default_factory=list)


def open_folder(root, schema, *args, known=(), **kwargs):
  """`open_files`, with its other arguments, of the folder `root` with the files of the tables
  (names.py); warns of files that may be meant as a table that is absent. `known` are other tables
  of the database."""
  files = find(root, schema, known)
  for name in schema:
    text = "" if name in files else names.told([pathlib.Path(root)], name, (*schema, *known))
    if text:
      _LOG.warning("%s", text)
  return open_files(files, schema, *args, **kwargs)


@contextlib.contextmanager
def open_files(files, schema, encoding="utf-8", memory_limit="4GB", spill=""):
  """Yields the `Source` of some files on DuckDB; its temporary database is removed on leaving.

  Args:
    files: table -> tuple of the paths of its files.
    schema: table name -> `Table`.
    encoding: "utf-8" | "latin-1", of the csv files.
    memory_limit: what DuckDB may hold, for example "4GB"; it spills to its temporary folder past
      that.
    spill: where that folder is made; "" for the system's.

  Raises:
    CohortError: a required table is absent, or a file is damaged, not what its name says, or not as
      declared.
  """
  import duckdb
  import ibis

  absent = [n for n, t in schema.items() if t.required and n not in files]
  if absent:
    raise CohortError(f"The required {'table is' if len(absent) == 1 else 'tables are'} not there: "
                      f"{', '.join(n + '.csv.gz' for n in absent)}. Download what is missing.")
  if spill and not pathlib.Path(spill).is_dir():
    raise CohortError(f"data.spill='{spill}' is not a folder. Make it, or leave data.spill unset.")
  with (plain_errors.plain(_tell),
        tempfile.TemporaryDirectory(prefix="crl_jax_", dir=spill or None) as folder):
    con = ibis.duckdb.connect(
        str(pathlib.Path(folder) / "tables.duckdb"), memory_limit=memory_limit,
        temp_directory=str(pathlib.Path(folder) / "spill"), preserve_insertion_order=False)
    try:
      # In a notebook or under python -c DuckDB would draw into what the program prints. A notebook
      # without ipywidgets refuses the setting, and draws nothing.
      with contextlib.suppress(duckdb.InvalidInputException):
        con.raw_sql("SET enable_progress_bar = false")
      inputs, odd, streams, views = [], [], {}, {}
      for name, table in schema.items():
        if name not in files:
          columns = ", ".join(f'{_quote(c)} {_SQL[t]}' for c, t in table.types.items())
          con.raw_sql(f"CREATE TABLE {_quote(name)} ({columns})")
          continue
        if table.large and not names.is_parquet(files[name][0]):
          streams[name] = _Stream(con, name, table, files[name], encoding)
          nameless = streams[name].nameless
        else:
          found, nameless = _load(con, name, table, files[name], encoding)
          inputs += found
          if table.large:
            views[name] = files[name]
        if nameless:
          odd.append(odd_columns(name, nameless))
      yield Source(tables={n: con.table(n) for n in schema}, inputs=inputs, odd=odd,
                   absent=[n for n in schema if n not in files],
                   keep=functools.partial(_keep, con, streams, views, inputs),
                   put=functools.partial(_put, con))
    finally:
      con.disconnect()


def _keep(con, streams, views, inputs, expr):
  """Stores the result of `expr` in `con`; large tables in it are read from their files now.

  Where an expression reads one, tables are joined as written: the optimizer knows nothing of a
  stream's size and would load it to look up the smaller table's rows in it.
  """
  import duckdb
  import ibis

  name = f"kept_{uuid.uuid4().hex}"
  named = {t.name for t in expr.op().find(ibis.expr.operations.DatabaseTable)}
  used = named & streams.keys()
  try:
    for table in used:
      streams[table].start()
    con.raw_sql("SET disabled_optimizers = "
                f"'{'join_order,build_side_probe_side' if used else ''}'")
    kept = con.create_table(name, expr)
  except (duckdb.Error, OSError) as error:
    for table in used:
      streams[table].fail()
    kind = type(error).__name__
    lying = sorted(names.label(t, path) for t in named & views.keys() for path in views[t])
    if lying and not _is_full(str(error)):
      raise CohortError(f"{', '.join(lying[:3])} could not be read ({kind}). Download or export it "
                        "again.") from None
    raise CohortError(_tell(error, kind)) from None
  for table in sorted(used):
    inputs += streams[table].finish()
  return kept


def _put(con, frame):
  """Stores a data frame in `con`. (create_table() of ibis 12 cannot do so on DuckDB 2.)"""
  name = f"put_{uuid.uuid4().hex}"
  con.con.register("frame_to_put", frame)
  con.raw_sql(f"CREATE TABLE {name} AS SELECT * FROM frame_to_put")
  con.con.unregister("frame_to_put")
  return con.table(name)


class _Stream:
  """A large csv or csv.gz, or its parts: a name in the database behind which nothing is loaded."""

  def __init__(self, con, name, table, paths, encoding):
    self.con, self.name, self.table, self.paths = con, name, table, paths
    self.encoding, self.nameless = encoding, 0
    for path in paths:
      with contextlib.closing(csv_files.Checked(path, encoding)) as file:
        csv_files.pick(path, file.header, table)   # what its first block shows is refused at once
      self.nameless = max(self.nameless, file.nameless)
    self._register(self._refuse())

  def _register(self, reader):
    self.con.con.register(self.name, reader)

  def _refuse(self):
    return csv_files.unread(self.table,
                            f"{self.paths[0].name} is large: read it through Source.keep().")

  def start(self):
    self.files, self.error = [], None
    self.left = csv_files.batches(self._open(), self.table, len(self.paths) > 1)
    self._register(csv_files.reader(self.left, self.table))

  def _open(self):
    """Yields the parts as `Checked` files, each opened when it is its turn."""
    for path in self.paths:
      try:
        file = csv_files.Checked(path, self.encoding, self.table)
      except CohortError as error:    # DuckDB, which asks for it, would hide it
        self.error = error
        raise
      file.rows = 0
      self.files.append(file)
      yield file

  def fail(self):
    """Raises what a file is to blame for, if anything."""
    self._register(self._refuse())
    for file in self.files:
      if file.error:
        file.close()
        raise file.error from None
    if self.error:
      raise self.error from None

  def finish(self):
    """Drains the files and returns their facts. Raises CohortError where they do not hold."""
    self.fail()
    for _ in self.left:                            # the rest, where the query needed no more rows
      pass
    found = []
    for file in self.files:
      while file.read():
        pass
      found.append(facts_of(self.name, file.path, file.facts["sha256"], file.rows))
      csv_files.compare_rows(file, file.rows)
    return whole(found)


def facts_of(table, path, digest, rows):
  """What data.json tells of a file. Raises CohortError where it is not the published one."""
  checksums.compare(path, digest)
  return {"table": table, "file": names.label(table, path), "sha256": digest,
          "bytes": path.stat().st_size, "rows": rows}


def whole(found):
  """The facts of a table's files. Raises CohortError where a part is there twice, by its content,
  or none has a row."""
  first = {}
  for facts in found:
    other = first.setdefault(facts["sha256"], facts)
    if other is not facts and facts["rows"]:
      raise CohortError(f"The parts {other['file']} and {facts['file']} of table {facts['table']} "
                        "are the same file. Remove one.")
  if len(found) > 1 and not any(facts["rows"] for facts in found):
    raise CohortError(f"No part of table {found[0]['table']} has a row. Download it again.")
  return found


def odd_columns(table, count):
  """The count of a table's columns without a name."""
  return {"table": table, "count": count,
          "rule": "columns without a name, as pandas writes its index: not read"}


def find(root, schema, known=()):
  """Returns table -> tuple of its files. `known` are other tables of the database. Raises
  CohortError where a required table has none, or a table is there twice."""
  folder = pathlib.Path(root)
  if not root or not folder.is_dir():
    raise CohortError(f"data.root='{root}' is not a folder. Give the one with the database's "
                      "csv.gz files: --config.data.root=DIR.")
  found = names.find([folder], schema)
  absent = [n for n, t in schema.items() if t.required and n not in found]
  if absent:
    seen = " ".join(filter(None, (names.told([folder], name, (*schema, *known))
                                 for name in absent)))
    raise CohortError(f"'{root}' lacks the required {'table' if len(absent) == 1 else 'tables'} "
                      f"{', '.join(n + '.csv.gz' for n in absent)}. Download what is missing, or "
                      f"point the data root to the folder that has it. {seen}".rstrip())
  return found


def pattern(path):
  """The path as DuckDB takes it: it is a name, not a pattern."""
  return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


def _raw_csv(path, header, encoding):
  """The SQL that reads a csv or csv.gz as text, by its header."""
  columns = ", ".join(f"{_literal(c)}: 'VARCHAR'" for c in header)
  zipped = "gzip" if names.is_zipped(path) else "none"
  return (f"read_csv({_literal(pattern(path))}, auto_detect=false, columns={{{columns}}}, "
          f"header=true, delim=',', quote='\"', escape='\"', nullstr='', strict_mode=true, "
          f"null_padding=false, ignore_errors=false, compression='{zipped}', "
          f"encoding='{encoding}', hive_partitioning=false, "
          f"max_line_size={csv_rows.LONGEST_ROW}, buffer_size={8 * csv_rows.LONGEST_ROW})")


def _load(con, name, table, paths, encoding):
  """Loads the declared columns of a table's files into `con`. Returns their facts, and how many
  columns have no name."""
  if len(paths) == 1:
    facts, nameless = _load_file(con, name, name, table, paths[0], encoding)
    return whole([facts]), nameless
  parts = [f"{name}, part {i}" for i in range(len(paths))]
  found = [_load_file(con, name, part, table, path, encoding) for part, path in zip(parts, paths)]
  con.raw_sql(f"CREATE VIEW {_quote(name)} AS " + " UNION ALL ".join(
      f"SELECT * FROM {_quote(part)}" for part in parts))
  return whole([facts for facts, _ in found]), max(nameless for _, nameless in found)


def _load_file(con, name, place, table, path, encoding):
  """Checks a file of the table `name` and loads its declared columns with their types as the table
  `place`; a large Parquet file stays where it is, under a view. Returns its facts, and how many
  columns have no name."""
  import duckdb

  parquet = names.is_parquet(path)
  if parquet:
    picked, found = parquet_files.columns(path, table)
    digest, nameless = files_lib.sha256(path), sum(not c.strip() for c in found)
    raw = f"read_parquet({_literal(pattern(path))}, hive_partitioning=false)"
  else:
    file = csv_files.check(path, encoding, table)
    picked, found = csv_files.pick(path, file.header, table), dict.fromkeys(file.header, "string")
    digest, nameless = file.facts["sha256"], file.nameless
    raw = _raw_csv(path, file.header, encoding)
  checksums.compare(path, digest)
  casts, doubtful = _casts(picked, table, found)
  try:
    if parquet and table.large:
      columns = ", ".join(map(_quote, table.types))
      relation = f"(SELECT {casts} FROM {raw})"
      _check_casts(con, relation, doubtful, table, path)
      con.raw_sql(f"CREATE VIEW {_quote(place)} AS SELECT {columns} FROM {relation}")
    else:
      con.raw_sql(f"CREATE TABLE {_quote(place)} AS SELECT {casts} FROM {raw}")
      _check_casts(con, _quote(place), doubtful, table, path)
      for column in doubtful:
        con.raw_sql(f"ALTER TABLE {_quote(place)} DROP COLUMN {_quote('_bad_' + column)}")
    rows = con.raw_sql(f"SELECT count(*) FROM {_quote(place)}").fetchall()[0][0]
  except duckdb.Error as error:
    # DuckDB's message quotes the row: keep the line number and the kind only
    raise CohortError(_parse_message(path, str(error))) from None
  if not parquet:
    csv_files.compare_rows(file, rows)
  return facts_of(name, path, digest, rows), nameless


def _casts(picked, table, found):
  """Returns (SQL select list, doubtful columns): each declared column cast to its type, and for the
  doubtful ones `_bad_<column>`, true where a value does not cast.

  Args:
    picked: declared column -> its name in the file.
    table: Table.
    found: name in the file -> kind of its values.
  """
  parts, doubtful = [], []
  for column, kind in table.types.items():
    raw, name = picked[column], _quote(column)
    if raw is None or found[raw] == "null":
      parts.append(f"CAST(NULL AS {_SQL[kind]}) AS {name}")
    elif kind in (found[raw], "string") or (kind, found[raw]) == ("float64", "int64"):
      parts.append(f"CAST({_quote(raw)} AS {_SQL[kind]}) AS {name}")
    else:
      value = _checked_value(_quote(raw), kind, found[raw])
      parts += [f"{value} AS {name}", f"({_quote(raw)} IS NOT NULL AND {value} IS NULL) AS "
                f"{_quote('_bad_' + column)}"]
      doubtful.append(column)
  return ", ".join(parts), doubtful


def _checked_value(raw, kind, found):
  """SQL of the column `raw` of kind `found` as `kind`; NULL where a value is none."""
  if (kind, found) == ("int64", "float64"):
    whole = f"{raw} = trunc({raw})"
  elif kind == "int64":       # DuckDB would round 2.5 to 3: only digits are an integer
    whole = f"regexp_full_match(CAST({raw} AS VARCHAR), '[+-]?[0-9]+')"
  elif kind == "timestamp":
    whole = f"regexp_full_match(CAST({raw} AS VARCHAR), '{csv_rows.TIME}')"
  else:
    whole = "true"
  return f"CASE WHEN {whole} THEN TRY_CAST({raw} AS {_SQL[kind]}) END"


def _check_casts(con, relation, doubtful, table, path):
  """Raises CohortError where values in the doubtful columns of `_casts` did not cast."""
  if not doubtful:
    return
  counts = con.raw_sql("SELECT " + ", ".join(f"count_if({_quote('_bad_' + c)})" for c in doubtful)
                       + f" FROM {relation}").fetchall()[0]
  words = {"int64": "whole numbers", "float64": "numbers", "timestamp": "times without a zone"}
  bad = [f"{c} ({n:,} values are not {words[table.types[c]]})"
         for c, n in zip(doubtful, counts) if n]
  if bad:
    raise CohortError(f"{path.name} has values of the wrong type: {', '.join(bad)}. Look at these "
                      "columns of the file; a shifted or altered column is the usual cause.")


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
  elif _is_full(text):
    return _FULL_DISK
  else:
    why = "it cannot be parsed"
  return f"{path.name}{where}: {why}. Nothing of this file was used; download or export it again."


def _is_full(text):
  return any(sign in text for sign in ("No space left", "Out of Memory", "max_temp_directory_size",
                                       "Could not write"))


_FULL_DISK = ("There is not enough disk or memory for the tables: free space in the temporary "
              "folder, name a folder on a larger disk as data.spill, or raise data.memory_limit. "
              "Nothing was kept.")


def _tell(error, kind):
  """What to do about an error that no file is to blame for."""
  if _is_full(str(error)):
    return _FULL_DISK
  return (f"The tables could not be read ({kind}; the text of the error may hold a patient's "
          "values and is not shown). Nothing was kept; this is a fault of crl_jax: report it with "
          "the version of duckdb.")


def _quote(name):
  return '"' + name.replace('"', '""') + '"'


def _literal(name):
  return "'" + name.replace("'", "''") + "'"
