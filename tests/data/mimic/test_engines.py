"""The reader's queries on the other engines: every one compiles for BigQuery and Spark, and Spark,
run for real, yields the same cohort bit for bit."""

import contextlib
import dataclasses
import gzip
import importlib.util
import re
import shutil

import ibis
import numpy as np
import pandas as pd
import pytest

from crl_jax.data import cohort as cohort_lib, mimic
from crl_jax.data.cohort import CohortError
from crl_jax.data.mimic import (engines, files as mimic_files, images, stays as mimic_stays,
                                tables as mimic_tables, tfrecord)
from crl_jax.data.tables import names, source as tables
from crl_jax.data.tables.source import Table
from tests.data.mimic import mimic_hospital as made


@pytest.fixture(scope="module")
def hospital(make_bert, tmp_path_factory):
  """(folder with every table, overrides of the config)."""
  folder = tmp_path_factory.mktemp("engines")
  content = made.tables(made.stays((11, 12)), *(made.earlier(s) for s in (11, 12)),
                        *(made.records(s, hour, value) for s in (11, 12)
                          for hour, value in ((10, 80.), (20, 999999.), (60, 5000.))))
  root = made.save(folder / "files", content)
  for x in content[mimic_files.CXR_METADATA]:
    tfrecord.write(images.path(root, x["subject_id"], x["study_id"], x["dicom_id"]),
                   np.full(images.WIDTH, x["study_id"]))
  bert = make_bert(folder / "bert")
  return root, (f"text.model={bert}", f"text.cache={folder / 'cache'}", "text.window=32",
                "text.overlap=4")


def test_every_query_compiles_for_every_engine(hospital, monkeypatch):
  root, overrides = hospital
  compiled = {"bigquery": set()}
  if importlib.util.find_spec("pyspark"):
    ibis.pyspark                             # its options are there only once it is loaded
    compiled["pyspark"] = set()

  def note(expr):
    for dialect, found in compiled.items():
      found.add(str(ibis.to_sql(expr, dialect=dialect)))

  plain = ibis.expr.types.core.Expr.execute
  monkeypatch.setattr(ibis.expr.types.core.Expr, "execute",
                      lambda self, **kwargs: (note(self), plain(self, **kwargs))[1])
  opened = tables.open_files

  @contextlib.contextmanager
  def recording(*args, **kwargs):
    with opened(*args, **kwargs) as source:
      yield dataclasses.replace(source, keep=lambda e: (note(e), source.keep(e))[1])
  monkeypatch.setattr(tables, "open_files", recording)
  mimic.build(made.make_config(root, *overrides))
  for dialect, found in compiled.items():
    text = "\n".join(found)
    for table in mimic_tables.SCHEMA:
      assert f"`{table}`" in text or f" {table} " in text, (dialect, table)
    assert len(found) > 40


def test_bigquery_tables_lie_where_physionet_has_them(monkeypatch):
  assert engines.bigquery_database("labevents", "3.1") == "physionet-data.mimiciv_3_1_hosp"
  assert engines.bigquery_database("chartevents", "2.2") == "physionet-data.mimiciv_2_2_icu"
  assert engines.bigquery_database("radiology", "3.1") == "physionet-data.mimiciv_note"
  assert engines.bigquery_database(mimic_files.CXR_METADATA, "3.1") == ""
  # the source's own select, as BigQuery sees it: DATETIME without a zone, INT64
  table = mimic_tables.SCHEMA["labevents"]
  raw = ibis.table(dict(subject_id="int64", itemid="int64", charttime="timestamp",
                        storetime="timestamp", valuenum="float64", flag="string"),
                   name="labevents", database="mimiciv_3_1_hosp",
                   catalog="physionet-data")
  sql = str(ibis.to_sql(engines.declared(raw, table, "labevents"), dialect="bigquery"))
  assert "`physionet-data`.`mimiciv_3_1_hosp`.`labevents`" in sql and "flag" not in sql
  # GoogleSQL has UNIX_SECONDS(TIMESTAMP) only
  lab = engines.declared(raw, table, "labevents")
  sql = str(ibis.to_sql(lab.select(m=mimic_stays.minute(lab.charttime)), dialect="bigquery"))
  assert re.search(r"UNIX_SECONDS\(CAST\(`t\d`.`charttime` AS TIMESTAMP\)\)", sql), sql
  with pytest.raises(CohortError, match="labevents lacks the columns valuenum"):
    engines.declared(raw.drop("valuenum"), table, "labevents")


def test_bigquery_asks_for_what_it_needs(tmp_path, monkeypatch):
  config = made.make_config("", "data.engine=bigquery")
  try:
    import google.cloud.bigquery   # noqa: F401
    wanted = "data.mimic.bigquery_project"
  except ImportError:
    wanted = r"pip install 'crl_jax\[bigquery\]'"
  with pytest.raises(CohortError, match=wanted):
    mimic.build(config)


def test_an_unknown_engine_is_refused():
  from crl_jax import config as config_lib
  with pytest.raises(ValueError, match="data.engine is 'hive'"):
    config_lib.check(config_lib.override(config_lib.default(), ["data.engine=hive"]))


@pytest.fixture(scope="module")
def spark():
  """A small Spark on this machine."""
  pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'crl_jax[spark]'")
  if not shutil.which("java"):
    pytest.skip("no Java on this machine: Spark needs Java 17")
  from pyspark.sql import SparkSession
  builder = SparkSession.builder.master("local[1]").appName("tests")
  for key, value in {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "1",
                     "spark.driver.memory": "1g", "spark.sql.session.timeZone": "America/New_York",
                     "spark.sql.adaptive.enabled": "false"}.items():
    builder = builder.config(key, value)
  session = builder.getOrCreate()
  session.sparkContext.setLogLevel("OFF")
  yield session
  session.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark_yields_the_same_cohort(hospital, spark):
  root, overrides = hospital
  build = lambda *more: cohort_lib.validate(mimic.build(made.make_config(root, *overrides, *more)))
  assert (cohort_lib.fingerprint(build("data.engine=spark"))
          == cohort_lib.fingerprint(build()))
  assert spark.conf.get("spark.sql.session.timeZone") == "America/New_York"
  assert not [t for t in spark.catalog.listTables() if t.name.startswith("crl_jax_")]


@pytest.mark.filterwarnings("ignore")
def test_spark_reads_strictly_and_shows_no_row(tmp_path, spark):
  schema = {"labevents": Table({"subject_id": "int64", "charttime": "timestamp"})}
  config = made.make_config(tmp_path, "data.engine=spark")

  def read(*lines):
    path = tmp_path / "labevents.csv.gz"
    path.write_bytes(gzip.compress("\n".join(("x,charttime,subject_id", *lines, "")).encode()))
    with engines.open_source(config, {"labevents": (path,)}, schema) as source:
      return source.keep(source.tables["labevents"]).to_pandas()
  frame = read('"a\nb",2150-03-01 10:00:00,7', ',,8')
  assert frame["subject_id"].tolist() == [7, 8]
  assert str(frame["charttime"][0]) == "2150-03-01 10:00:00" and frame["charttime"].isna()[1]
  for line in ("a,2150-03-01 10:00:00,secret", "a,2150-03-01 10:00:00Z,7",
               "a,2150-03-01 10:00:00,7,secret"):
    with pytest.raises(CohortError) as error:
      read(line)
    assert "secret" not in str(error.value) and "2150" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_spark_refuses_the_files_that_duckdb_refuses(tmp_path, spark):
  schema = {"prescriptions": Table({"subject_id": "int64", "starttime": "timestamp",
                                    "drug": "string"}, large=True)}
  config = made.make_config(tmp_path, "data.engine=spark")
  path, sums = tmp_path / "prescriptions.csv.gz", tmp_path / "SHA256SUMS.txt"

  def rows(path):
    for opened in (engines.open_source(config, {"prescriptions": (path,)}, schema),
                   tables.open_files({"prescriptions": (path,)}, schema)):
      with opened as source:
        kept = source.keep(source.tables["prescriptions"]).to_pandas()
        yield len(kept), source.inputs[0]["rows"], source.inputs[0]["sha256"]

  def refused(path, words):
    for opened in (engines.open_source(config, {"prescriptions": (path,)}, schema),
                   tables.open_files({"prescriptions": (path,)}, schema)):
      with pytest.raises(CohortError, match=words):
        with opened as source:
          source.keep(source.tables["prescriptions"]).to_pandas()
  lines = ["subject_id,hadm_id,starttime,drug,x", "1,2,2150-01-01 00:00:00,a,1",
           "2,3,2150-01-01 00:00:00,b,1", '3,4,2150-01-01 00:00:00,"c ""d""\n",1']
  save = lambda lines: path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
  save(lines)
  spark_rows, duckdb_rows = rows(path)
  assert spark_rows == duckdb_rows and spark_rows[:2] == (3, 3)
  sums.write_text("0" * 64 + " prescriptions.csv.gz\n")
  refused(path, "checksum")
  sums.unlink()
  save([lines[0], lines[1].replace("a,1", '"a,1'), lines[2].replace("b,1", 'b",1')])
  refused(path, "line 2: a quote is not closed; it swallows")
  parquet = tmp_path / "prescriptions.parquet"
  frame = pd.DataFrame({"subject_id": [1., 2.5], "starttime": pd.Timestamp("2150-01-01"),
                        "drug": "a"})
  frame[:1].to_parquet(parquet)
  spark_rows, duckdb_rows = rows(parquet)
  assert spark_rows == duckdb_rows and spark_rows[:2] == (1, 1)
  frame.to_parquet(parquet)
  refused(parquet, "prescriptions.parquet has values .*subject_id .1")
  frame["starttime"] = frame["starttime"].dt.tz_localize("America/New_York")
  frame.to_parquet(parquet)
  refused(parquet, "starttime holds times with a zone")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [
    ("prescriptions_0.csv", "prescriptions_1.csv"), ("PRESCRIPTIONS.csv.GZ",),
    ("prescriptions.parquet/a.parquet", "prescriptions.parquet/b.parquet")])
def test_spark_reads_the_forms_that_duckdb_reads(tmp_path, spark, form):
  folder = tmp_path / "drug=z" / "glob[1]*?{a,b}"     # a name, neither data nor a pattern
  schema = {"prescriptions": Table({"subject_id": "int64", "starttime": "timestamp",
                                    "drug": "string"}, large=True)}
  for i, name in enumerate(form):
    frame = pd.DataFrame({"": [0, 1], "subject_id": [1 + 2 * i, 2 + 2 * i], "drug": ["a", "b"],
                          "starttime": ["2150-01-01 00:00:00", None] if i else [np.nan] * 2})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("parquet"):
      frame.to_parquet(path)
    else:
      content = frame.to_csv(index=False).encode()
      path.write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
  files, found = names.find([folder], schema), []
  config = made.make_config(tmp_path, "data.engine=spark")
  for opened in (engines.open_source(config, files, schema),
                 tables.open_files(files, schema)):
    with opened as source:
      kept = source.keep(source.tables["prescriptions"]).to_pandas().sort_values("subject_id")
      found.append((kept["subject_id"].tolist(), kept["drug"].tolist(),
                    kept["starttime"].astype(str).tolist(), source.inputs, source.odd))
  assert found[0] == found[1]
  assert found[0][0] == list(range(1, 2 * len(form) + 1)) and found[0][1] == ["a", "b"] * len(form)
  assert found[0][4][0]["count"] == 1


@pytest.mark.filterwarnings("ignore")
def test_rows_that_spark_loses_are_found_out(tmp_path, spark, monkeypatch):
  path = tmp_path / "patients.csv.gz"
  path.write_bytes(gzip.compress(b"subject_id\n1\n2\n"))
  plain = engines.csv_files.compare_rows
  monkeypatch.setattr(engines.csv_files, "compare_rows", lambda file, rows: plain(file, rows - 1))
  with pytest.raises(CohortError, match="patients.csv.gz has 2 rows, of which 1"):
    with engines.open_source(made.make_config(tmp_path, "data.engine=spark"),
                             {"patients": (path,)}, {"patients": Table({"subject_id": "int64"})}):
      pass
