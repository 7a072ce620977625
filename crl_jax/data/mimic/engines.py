"""BigQuery and Spark behind the interface of tables.py: for those whose data lie there, or outgrew
one machine. The same Ibis expressions run on them."""

import contextlib
import functools
import re
import uuid

from crl_jax import files as files_lib
from crl_jax.data.cohort import CohortError
from crl_jax.data.mimic import tables
from crl_jax.data.tables import (csv_files, csv_rows, names, parquet_files, plain_errors,
                                 source)

_BIGQUERY_PROJECT = "physionet-data"      # where PhysioNet hosts MIMIC-IV


def open_source(config, files, schema):
  """Yields the tables.Source of config.data.engine.

  Args:
    config: the whole tree.
    files: table -> tuple of paths, of files under config.data.root.
    schema: table name -> tables.Table.
  Raises:
    CohortError: a package is not installed, a required table is absent, no access.
  """
  return {"bigquery": _bigquery, "spark": _spark}[config.data.engine](config, files, schema)


# BigQuery -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bigquery(config, files, schema):
  import ibis
  try:
    import google.cloud.bigquery   # noqa: F401
  except ImportError as error:
    raise CohortError("data.engine='bigquery' needs more packages: pip install "
                      "'crl_jax[bigquery]'.") from error
  c = config.data.mimic
  if not c.bigquery_project:
    raise CohortError("data.engine='bigquery' needs data.mimic.bigquery_project: the Google Cloud "
                      "project that pays for the queries. Sign in with 'gcloud auth "
                      "application-default login'.")
  con = ibis.bigquery.connect(project_id=c.bigquery_project)
  with _plain_errors("BigQuery", "Check that your Google account is linked to PhysioNet and may "
                                 "use "
                                 f"the data sets of {_BIGQUERY_PROJECT}, and that "
                                 f"{c.bigquery_project} has billing."):
    keep = lambda expr: con.create_table(_name(), expr, temp=True)
    put = lambda frame: con.create_table(_name(), ibis.memtable(frame), temp=True)
    found, absent = {}, []
    listed = functools.cache(lambda database: set(con.list_tables(database=database)))
    for name, table in schema.items():
      database = bigquery_database(name, c.bigquery_version)
      if database and name in listed(database):
        raw = con.table(name, database=database)
        if name == "admissions":
          tables.require_known(raw.columns, c.bigquery_version)
        found[name] = declared(raw, table, f"{database}.{name}")
      elif name in files:                 # the list of X-rays is not on BigQuery
        with source.open_files({name: files[name]}, {name: table}, config.data.encoding,
                               config.data.memory_limit, config.data.spill) as local:
          frame = local.keep(local.tables[name]).to_pandas()
        found[name] = declared(put(frame), table, name)
      else:
        absent.append(name)
        found[name] = declared(put(_empty(table)), table, name)
    _require(schema, absent, f"{_BIGQUERY_PROJECT}.mimiciv_*")
    yield source.Source(tables=found, absent=absent, keep=keep, put=put, inputs=[
        {"table": name, "file": bigquery_database(name, c.bigquery_version)}
        for name in schema if name not in absent])


def bigquery_database(table, version):
  """'physionet-data.mimiciv_3_1_hosp' of a table, "" where BigQuery has none."""
  name = tables.BIGQUERY.get(table, "").format(version=version.replace(".", "_"))
  return f"{_BIGQUERY_PROJECT}.{name}" if name else ""


def declared(raw, table, where):
  """The declared columns of a BigQuery table, with the declared types.

  Times are DATETIME there, which UNIX_SECONDS does not take: they become TIMESTAMP, read as UTC.
  """
  header = list(raw.columns)
  missing = [c for c in table.columns if c not in header]
  if missing:
    raise CohortError(f"{where} lacks the columns {', '.join(missing)}. Use MIMIC-IV 2.2, 3.0 or "
                      "3.1.")
  import ibis
  kinds = {c: "timestamp('UTC')" if kind == "timestamp" else kind
           for c, kind in table.types.items()}
  return raw.select(**{c: (raw[c] if c in header else ibis.null()).cast(kind)
                       for c, kind in kinds.items()})


# Spark --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _spark(config, files, schema):
  import ibis
  try:
    from pyspark.sql import SparkSession
  except ImportError as error:
    raise CohortError("data.engine='spark' needs more packages: pip install 'crl_jax[spark]', and "
                      "Java 17.") from error
  with _plain_errors("Spark", "Its own log, not shown here, has the reason: Java 17 must be on "
                              "this machine, and the files readable by all workers."):
    # the session of spark-submit or of the caller; else one on this machine
    theirs = SparkSession.getActiveSession()
    session = SparkSession.builder.appName("crl_jax").getOrCreate()
    if theirs is None:
      session.sparkContext.setLogLevel("OFF")   # it would print the values that do not parse
    before = session.conf.get("spark.sql.session.timeZone")
    session.conf.set("spark.sql.session.timeZone", "UTC")
    session.conf.set("spark.sql.ansi.enabled", "true")     # what does not cast is an error
    con, views, kept = ibis.pyspark.connect(session), [], []

    def serve(frame):
      views.append(_name())
      frame.createOrReplaceTempView(views[-1])
      return con.table(views[-1])

    def keep(expr):
      frame = session.sql(con.compile(expr)).persist()
      kept.append(frame)
      frame.count()
      return serve(frame)

    try:
      found, inputs, odd, absent = {}, [], [], [n for n in schema if n not in files]
      _require(schema, absent, "data.root")
      for name, table in schema.items():
        if name in files:
          parts = [_spark_file(session, name, path, table, config.data.encoding)
                   for path in files[name]]
          frame = functools.reduce(lambda a, b: a.unionAll(b), (frame for frame, _, _ in parts))
          inputs += source.whole([facts for _, facts, _ in parts])
          if nameless := max(nameless for _, _, nameless in parts):
            odd.append(source.odd_columns(name, nameless))
        else:
          frame = _spark_frame(session, _empty(table))
        found[name] = serve(frame)
      yield source.Source(tables=found, inputs=inputs, absent=absent, keep=keep, odd=odd,
                          put=lambda frame: serve(_spark_frame(session, frame)))
    finally:
      for view in views:
        session.catalog.dropTempView(view)
      for frame in kept:
        frame.unpersist()
      session.conf.set("spark.sql.session.timeZone", before)


def _spark_file(session, table_name, path, table, encoding):
  """(data frame of the declared columns, facts, how many columns have no name) of one csv, csv.gz
  or Parquet file."""
  from pyspark.sql import functions as F

  file = None    # of a csv
  place = re.sub(r"([\\{}\[\]*?])", r"\\\1", str(path.absolute()))   # a name, not a pattern
  sql = {"int64": "bigint", "float64": "double", "string": "string", "timestamp": "timestamp"}
  if names.is_parquet(path):
    picked, found = parquet_files.columns(path, table)
    frame, digest = session.read.parquet(place), files_lib.sha256(path)
    nameless = sum(not column.strip() for column in found)
  else:
    file = csv_files.check(path, encoding, table)
    picked, found = csv_files.pick(path, file.header, table), dict.fromkeys(file.header, "string")
    digest, nameless = file.facts["sha256"], file.nameless
    columns = ", ".join(f"`{name}` string" for name in file.header)
    frame = session.read.csv(
        place, schema=columns, header=True, multiLine=True, quote='"', escape='"',
        mode="FAILFAST", encoding={"utf-8": "UTF-8", "latin-1": "ISO-8859-1"}[encoding],
        ignoreLeadingWhiteSpace=False, ignoreTrailingWhiteSpace=False)
  picked = {name: None if found.get(raw) == "null" else raw for name, raw in picked.items()}
  wrong = {}     # what a cast would not refuse
  for name, raw in picked.items():
    value, kinds = F.col(f"`{raw}`"), (table.types[name], found.get(raw))
    if kinds == ("timestamp", "string"):
      wrong[name] = ~value.rlike(f"^{csv_rows.TIME}$")
    elif kinds == ("int64", "float64"):
      wrong[name] = value != F.floor(value)
  rows, *counts = frame.agg(F.count(F.lit(1)), *(F.count_if(w) for w in wrong.values())).first()
  if bad := [f"{name} ({n:,})" for name, n in zip(wrong, counts) if n]:
    raise CohortError(f"{path.name} has values that are no whole numbers or times without a zone: "
                      f"{', '.join(bad)}. Look at these columns of the file.")
  if file:
    csv_files.compare_rows(file, rows)
  column = lambda name, raw: (F.col(f"`{raw}`") if raw else F.lit(None)).cast(
      sql[table.types[name]]).alias(name)
  frame = frame.select(*(column(*pair) for pair in picked.items()))
  return frame, source.facts_of(table_name, path, digest, rows), nameless


def _spark_frame(session, frame):
  """A pandas data frame on Spark. (createDataFrame() of pandas 3 is not supported by pyspark 4.)"""
  from pyspark.sql import types as T

  kinds = {"i": T.LongType(), "f": T.DoubleType(), "b": T.BooleanType(), "M": T.TimestampType()}
  schema = T.StructType([T.StructField(c, kinds.get(frame[c].dtype.kind, T.StringType()))
                         for c in frame.columns])
  return session.createDataFrame(list(zip(*(frame[c].tolist() for c in frame.columns))), schema)


# Both ---------------------------------------------------------------------------------------------


def _name():
  return f"crl_jax_{uuid.uuid4().hex}"


def _empty(table):
  """A data frame without rows, with the declared columns."""
  import pandas as pd
  kinds = {"timestamp": "datetime64[us]", "string": "object"}
  return pd.DataFrame({c: pd.Series([], dtype=kinds.get(kind, kind))
                       for c, kind in table.types.items()})


def _require(schema, absent, where):
  missing = [name for name in absent if schema[name].required]
  if missing:
    raise CohortError(f"{where} lacks the required {', '.join(missing)}.")


def _plain_errors(engine, advice):
  return plain_errors.plain(lambda error, kind: f"{engine} could not do it ({kind}). {advice}")
