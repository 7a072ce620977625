"""A folder of csv.gz files is read by name, strictly, or refused with the file, the column and the
next step."""

import gzip
import hashlib
import pathlib
import subprocess
import sys
import tempfile

import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import source as tables

SCHEMA = {"lab": tables.Table({"stay": "int64", "offset": "int64", "name": "string",
                               "value": "float64"}, required=True),
          "note": tables.Table({"stay": "int64", "text": "string"}, {"entered": "int64"})}
GOOD = (b'labid,stay,offset,name,value\n1,10,5,"sodium, serum",140.5\n2,11,-3,lactate,\n'
        b'3,3000000000,7,"say ""ph""",7.1\n')


def write(folder, content, name="lab.csv.gz", compress=True):
  (folder / name).write_bytes(gzip.compress(content) if compress else content)
  return folder


def read(folder, **kwargs):
  with tables.open_folder(folder, SCHEMA, **kwargs) as source:
    return source, source.tables["lab"].to_pandas().sort_values("offset").reset_index(drop=True)


def refusal(folder, **kwargs):
  with pytest.raises(CohortError) as error:
    read(folder, **kwargs)
  message = str(error.value)
  for value in ("sodium", "140", "secret", "lactate"):
    assert value not in message, "a message must not show a patient's values"
  return message


def test_good_file_is_read_by_name_with_types_and_facts(tmp_path):
  source, lab = read(write(tmp_path, GOOD))
  assert list(lab.columns) == ["stay", "offset", "name", "value"]
  assert lab["stay"].tolist() == [11, 10, 3000000000] and str(lab["stay"].dtype) == "int64"
  assert lab["name"].tolist() == ["lactate", "sodium, serum", 'say "ph"']
  assert lab["value"].isna().tolist() == [True, False, False]
  data = (tmp_path / "lab.csv.gz").read_bytes()
  assert source.inputs == [{"table": "lab", "file": "lab.csv.gz",
                            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
                            "rows": 3}]


def test_a_notebook_without_ipywidgets_reads_too(tmp_path, monkeypatch):
  import duckdb
  from ibis.backends.duckdb import Backend
  raw_sql = Backend.raw_sql
  def refusing(self, query, **kwargs):
    if "progress_bar" in str(query):
      raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
    return raw_sql(self, query, **kwargs)
  monkeypatch.setattr(Backend, "raw_sql", refusing)
  assert read(write(tmp_path, GOOD))[1]["stay"].tolist() == [11, 10, 3000000000]


def test_order_of_columns_and_case_of_file_names_do_not_matter(tmp_path):
  swapped = b"value,name,OFFSET,stay\n140.5,a,5,10\n"
  _, lab = read(write(tmp_path, swapped, "LAB.CSV.GZ"))
  assert lab.iloc[0].tolist() == [10, 5, "a", 140.5]


def test_absent_optional_table_is_served_empty_and_absent_required_one_refused(tmp_path):
  with tables.open_folder(write(tmp_path, GOOD), SCHEMA) as source:
    assert source.absent == ["note"]
    assert len(source.tables["note"].to_pandas()) == 0
    assert list(source.tables["note"].columns) == ["stay", "text", "entered"]
  (tmp_path / "lab.csv.gz").unlink()
  assert "lab.csv.gz" in refusal(tmp_path)
  assert "folder" in refusal(tmp_path / "nowhere")


def test_absent_extra_column_is_null(tmp_path):
  write(write(tmp_path, GOOD), b"stay,text\n1,x\n", "note.csv.gz")
  with tables.open_folder(tmp_path, SCHEMA) as source:
    assert source.tables["note"].to_pandas()["entered"].isna().all()


def test_parquet_is_read_with_the_same_checks(tmp_path):
  import pandas as pd
  frame = pd.DataFrame({"value": [1.5], "stay": [10], "name": ["x"], "offset": [4]})
  frame.to_parquet(tmp_path / "lab.parquet")
  source, lab = read(tmp_path)
  assert lab.iloc[0].tolist() == [10, 4, "x", 1.5] and source.inputs[0]["rows"] == 1
  frame.drop(columns="value").to_parquet(tmp_path / "lab.parquet")
  assert "value" in refusal(tmp_path)
  (tmp_path / "lab.parquet").write_bytes(b"PAR1 secret")
  assert "lab.parquet" in refusal(tmp_path)


def test_table_that_is_there_twice_is_refused(tmp_path):
  write(write(tmp_path, GOOD), GOOD, "Lab.csv.gz")
  assert "2 times" in refusal(tmp_path)


def test_damaged_files_are_refused(tmp_path):
  body = gzip.compress(GOOD * 1 + b"4,12,9,sodium,141\n" * 5000, mtime=0)
  write(tmp_path, body[:-40], compress=False)
  assert "cut off" in refusal(tmp_path)
  flipped = bytearray(gzip.compress(GOOD, compresslevel=0))
  flipped[flipped.index(b"140.5")] ^= 4          # stored, not deflated: only the checksum can tell
  write(tmp_path, bytes(flipped), compress=False)
  assert "damaged" in refusal(tmp_path)


@pytest.mark.parametrize("content, word", [
    (b"<!DOCTYPE html><html><title>Login</title>secret</html>", "web page"),
    (b"\n <html>secret", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:secret", "git-lfs"),
    (b"", "empty"), (b"labid,stay,offset,name,value\n1,10,5,secret,1\n", "not a gzip")])
def test_impostors_are_named(tmp_path, content, word):
  assert word in refusal(write(tmp_path, content, compress=False))


def test_web_page_that_was_compressed_is_named(tmp_path):
  assert "web page" in refusal(write(tmp_path, b"<html>secret</html>"))
  assert "empty" in refusal(write(tmp_path, b""))


@pytest.mark.parametrize("header, word", [
    (b"labid,stay,offset,name", "value"), (b"labid,stay,offset,name,values", "renamed"),
    (b"labid,stay,offset,value,value", "duplicated"),
    (b"stay,stay,offset,name,value", "duplicated")])
def test_columns_that_drifted_are_refused(tmp_path, header, word):
  message = refusal(write(
      tmp_path, header + b"\n" + b",".join([b"1"] * (header.count(b",") + 1)) + b"\n"))
  assert word in message and "lab.csv.gz" in message


def test_headerless_file_shows_no_row(tmp_path):
  assert "lacks the columns" in refusal(write(tmp_path, b"1,10,5,secret,140\n2,10,5,secret,140\n"))


@pytest.mark.parametrize("row, word", [
    (b"4,12,9,secret,141,999", "6 fields"), (b"4,12,9,secret", "4 fields"),
    (b'4,12,9,"secret,141', "quote")])
def test_rows_of_another_shape_are_refused_with_their_line(tmp_path, row, word):
  message = refusal(write(tmp_path, GOOD + row + b"\n5,13,9,x,1\n"))
  assert word in message and "line 5" in message


def test_stray_quotes_that_swallow_rows_are_refused_and_line_breaks_in_text_survive(tmp_path):
  message = refusal(write(tmp_path, GOOD + b'4,12,9,"secret,141\n5,13,9,secret",142\n'))
  assert "swallow" in message
  _, lab = read(write(tmp_path, GOOD + b'4,12,9,"first line\nsecond line",142\n'))
  assert len(lab) == 4


@pytest.mark.parametrize("cell, column", [
    (b"12.5,9,x,1", "stay"), (b"12.0,9,x,1", "stay"), (b"abc,9,x,1", "stay"),
    (b"12,soon,x,1", "offset"), (b"99999999999999999999,9,x,1", "stay"), (b"12,9,x,high", "value")])
def test_values_that_do_not_cast_are_counted_by_column(tmp_path, cell, column):
  message = refusal(write(tmp_path, GOOD + b"4," + cell + b"\n5," + cell + b"\n"))
  assert f"{column} (2 values" in message


def test_encodings(tmp_path):
  text = GOOD + "4,12,9,größe,1\n".encode("latin-1")
  assert "UTF-8" in refusal(write(tmp_path, text))
  _, lab = read(tmp_path, encoding="latin-1")
  assert "größe" in lab["name"].tolist()
  assert "NUL" in refusal(write(tmp_path, GOOD + b"4,12,9,a\0b,1\n"))
  assert "byte order mark" in refusal(write(tmp_path, b"\xef\xbb\xbf" + GOOD))


def test_checksums_are_compared_where_a_file_lists_them(tmp_path):
  write(tmp_path, GOOD)
  digest = hashlib.sha256((tmp_path / "lab.csv.gz").read_bytes()).hexdigest()
  (tmp_path / "SHA256SUMS.txt").write_text(f"{digest}  ./lab.csv.gz\n")
  read(tmp_path)
  write(tmp_path, GOOD.replace(b"140.5", b"150.5"))
  assert "checksum" in refusal(tmp_path)


def test_no_temporary_database_is_left(tmp_path, monkeypatch):
  scratch = tmp_path / "scratch"
  scratch.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(scratch))
  data = tmp_path / "data"
  data.mkdir()
  read(write(data, GOOD))
  assert not list(scratch.iterdir())
  refusal(write(data, GOOD + b"5,x,9,x,1\n"))
  assert not list(scratch.iterdir())


def test_kept_expressions_are_tables(tmp_path):
  with tables.open_folder(write(tmp_path, GOOD), SCHEMA) as source:
    lab = source.tables["lab"]
    kept = source.keep(lab.filter(lab.offset > 0))
    assert kept.count().to_pandas() == 2


def test_the_database_draws_no_progress_into_what_a_program_prints(tmp_path):
  # DuckDB draws where the program is no file: a prompt, a notebook, python -c
  program = """
import sys, duckdb
from crl_jax.data.tables import source as tables
setting = "SELECT current_setting('enable_progress_bar')"
schema = {"lab": tables.Table({"stay": "int64"})}
with tables.open_folder(sys.argv[1], schema) as source:
  ours = source.tables["lab"].get_backend().raw_sql(setting).fetchall()[0][0]
print(duckdb.connect().execute(setting).fetchall()[0][0], ours)
"""
  done = subprocess.run([sys.executable, "-c", program, str(write(tmp_path, GOOD))], text=True,
                        cwd=pathlib.Path(__file__).parents[3], capture_output=True, check=True)
  default, ours = done.stdout.split()
  assert default == "True", "DuckDB no longer draws here: this test can show nothing"
  assert ours == "False"
