"""A large csv.gz is streamed once through the expression that reads it, with the checks of the
small ones."""

import dataclasses
import gzip
import hashlib

import numpy as np
import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.data.mimic import tables as mimic_tables
from crl_jax.data.tables import csv_files, source as tables
from tests.data.tables.test_tables import GOOD, SCHEMA, write

LARGE = {**SCHEMA, "lab": dataclasses.replace(
    SCHEMA["lab"], large=True, extra={"time": "timestamp"})}


def read(folder, **kwargs):
  with tables.open_folder(folder, LARGE, **kwargs) as source:
    lab = source.tables["lab"]
    return source, source.keep(lab).to_pandas().sort_values("offset").reset_index(drop=True)


def refusal(folder, **kwargs):
  with pytest.raises(CohortError) as error:
    read(folder, **kwargs)
  message = str(error.value)
  for value in ("sodium", "140", "secret", "lactate"):
    assert value not in message, "a message must not show a patient's values"
  assert "lab.csv.gz" in message
  return message


def test_it_is_read_by_name_with_types_and_facts(tmp_path):
  source, lab = read(write(tmp_path, GOOD))
  assert list(lab.columns) == ["stay", "offset", "name", "value", "time"]
  assert lab["stay"].tolist() == [11, 10, 3000000000]
  assert lab["name"].tolist() == ["lactate", "sodium, serum", 'say "ph"']
  assert lab["value"].isna().tolist() == [True, False, False] and lab["time"].isna().all()
  data = (tmp_path / "lab.csv.gz").read_bytes()
  assert source.inputs == [{"table": "lab", "file": "lab.csv.gz",
                            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
                            "rows": 3}]
  swapped = b"value,time,name,OFFSET,stay\n140.5,2150-01-01 07:30:00,a,5,10\n"
  _, lab = read(write(tmp_path, swapped))
  assert lab.iloc[0, :4].tolist() == [10, 5, "a", 140.5]
  assert str(lab["time"][0]) == "2150-01-01 07:30:00"


def test_every_pass_reads_the_file_again_and_other_queries_are_refused(tmp_path):
  with tables.open_folder(write(tmp_path, GOOD), LARGE) as source:
    lab = source.tables["lab"]
    for _ in range(2):
      assert source.keep(lab.filter(lab.offset > 0)).count().to_pandas() == 2
    with pytest.raises(Exception, match=r"Source.keep\(\)"):
      lab.count().to_pandas()


def test_a_query_that_stops_early_still_checks_the_whole_file(tmp_path):
  body = gzip.compress(GOOD + b"4,12,9,sodium,141\n" * 500000, mtime=0)
  for data, word in ((body[:-40], "cut off"), (body[:-8] + bytes(4) + body[-4:], "damaged")):
    write(tmp_path, data, compress=False)
    assert word in refusal(tmp_path)
    with tables.open_folder(tmp_path, LARGE) as source, pytest.raises(CohortError, match=word):
      source.keep(source.tables["lab"].limit(1))


def test_gzip_members_in_a_row_and_padding(tmp_path):
  head, *rows = GOOD.splitlines(keepends=True)
  data = b"".join(gzip.compress(part) for part in (head, *rows, b"")) + bytes(600)
  _, lab = read(write(tmp_path, data, compress=False))
  assert len(lab) == 3
  flipped = bytearray(gzip.compress(GOOD, compresslevel=0))
  flipped[flipped.index(b"140.5")] ^= 4
  assert "damaged" in refusal(write(tmp_path, bytes(flipped), compress=False))


@pytest.mark.parametrize("content, word", [
    (b"<!DOCTYPE html><html><title>Login</title>secret</html>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:secret", "git-lfs"),
    (b"", "empty"), (b"labid,stay,offset,name,value\n1,10,5,secret,1\n", "not a gzip")])
def test_impostors_are_named(tmp_path, content, word):
  assert word in refusal(write(tmp_path, content, compress=False))


@pytest.mark.parametrize("content, word", [
    (b"labid,stay,offset,name,values\n1,1,1,a,1\n", "renamed"),
    (b"labid,stay,offset,value,value\n1,1,1,1,1\n", "duplicated"),
    (b"\xef\xbb\xbf" + GOOD, "byte order mark"), (GOOD + b"4,12,9,a\0b,1\n", "NUL"),
    (GOOD + "4,12,9,gr\u00f6\u00dfe,1\n".encode("latin-1"), "UTF-8"),
    (b"labid,stay,offset,name,value\n", "no row"),
    (GOOD + b"4,12,9,secret,141,999\n5,13,9,x,1\n", "6 fields"),
    (GOOD + b"4,12,9,secret\n5,13,9,x,1\n", "4 fields"),
    (GOOD + b'4,12,9,"secret,141\n5,13,9,x,1\n', "line 5: a quote is not closed"),
    (GOOD + b'4,12,9,"secret" "twice",141\n5,13,9,x,1\n', "line 5: a quote is not closed"),
    (GOOD + b'4,12,9,"secret,141\n5,13,9,secret",142\n', "swallow"),
    (GOOD + b"4,12.5,9,x,1\n", "stay"), (GOOD + b"4,12.0,9,x,1\n", "stay"),
    (GOOD + b"4,12,soon,x,1\n", "offset"), (GOOD + b"4,99999999999999999999,9,x,1\n", "stay"),
    (GOOD + b"4,12,9,x,high\n", "value")])
def test_faults_in_the_text_are_named(tmp_path, content, word):
  assert word in refusal(write(tmp_path, content))


def test_times_with_a_zone_are_refused_by_both_ways_of_reading(tmp_path):
  for large in (True, False):
    schema = {"lab": dataclasses.replace(LARGE["lab"], large=large)}
    for zone in (b"Z", b"+01:00"):
      write(tmp_path, b"stay,offset,name,value,time\n1,1,a,1,2150-01-01 07:30:00" + zone + b"\n")
      with pytest.raises(CohortError, match="time.*without a zone"):
        with tables.open_folder(tmp_path, schema) as source:
          source.keep(source.tables["lab"])


def test_line_breaks_in_text_and_latin_1_survive(tmp_path):
  _, lab = read(write(tmp_path, GOOD + b'4,12,9,"first line\nsecond line",142\n'))
  assert len(lab) == 4
  _, lab = read(write(tmp_path, GOOD + "4,12,9,gr\u00f6\u00dfe,1\n".encode("latin-1")),
                encoding="latin-1")
  assert "gr\u00f6\u00dfe" in lab["name"].tolist()


@pytest.mark.parametrize("large", [True, False])
def test_rows_over_the_edge_of_a_block_are_read(tmp_path, large):
  """The end of each mebibyte of compressed bytes used to give the parser a short block."""
  rng = np.random.default_rng(1)
  noise = lambda n: rng.integers(45, 127, n, np.uint8).tobytes().decode()   # hardly compresses
  texts = [noise(n) + "\n" + noise(9) for n in [12_000] * 200 + [1_500_000, 2_500_000, 12, 60_000]]
  write(tmp_path, "".join(["labid,stay,offset,name,value\n", *(
      f'1,{i},{i},"{text}",1\n' for i, text in enumerate(texts))]).encode())
  with tables.open_folder(tmp_path, {"lab": dataclasses.replace(LARGE["lab"], large=large)}) as s:
    lab = s.keep(s.tables["lab"]).to_pandas().sort_values("stay")
  assert lab["name"].tolist() == texts


def test_a_parser_gets_whole_rows_and_their_line(tmp_path):
  rng = np.random.default_rng(2)
  rows = b"".join(b'%d,"a\n%d"\n' % (n, n) for n in rng.integers(0, 2 ** 60, 250000))
  write(tmp_path, b"stay,text\n" + rows)
  found, lines = [], 0
  for before, text in csv_files.Checked(tmp_path / "lab.csv.gz").whole_rows():
    assert before == lines and bytes(text).endswith(b'"\n')
    found.append(bytes(text))
    lines += found[-1].count(b"\n")
  assert len(found) > 2 and b"".join(found) == rows


def test_the_line_of_a_wrong_value_is_told_wherever_it_is(tmp_path):
  rows = b"4,12,9,sodium,141\n" * 700000
  for at in (0, 1, 699999):
    write(tmp_path, b"labid,stay,offset,name,value\n" + rows[:18 * at] + b"4,12,9,x,high\n"
          + rows[18 * at:])
    assert f"lab.csv.gz, line {at + 2} has values of the wrong type" in refusal(tmp_path)


def test_blank_lines_alone_are_no_rows(tmp_path):
  assert "no row" in refusal(write(tmp_path, b"labid,stay,offset,name,value\n\n\n"))


NOTES = b"note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n"
NOTE = b"10000032-RR-%d,10000032,,RR,%d,2150-03-01 10:00:00,2150-03-01 11:00:00,%b\n"


def read_notes(folder, *rows):
  write(folder, NOTES + b"".join(rows), "radiology.csv.gz")
  schema = {"radiology": mimic_tables.SCHEMA["radiology"]}
  with tables.open_folder(folder, schema) as source:
    return source.keep(source.tables["radiology"]).to_pandas()["text"].tolist()


@pytest.mark.parametrize("text", [
    "fractures of the ribs\n4,5,6 and 7 without pneumothorax.", "Heparin at\n1,200,000 units",
    "lesions in segments\n5,6,7, and 8", "HIV viral load\n1,250,000 copies/mL",
    "levels\n1,2,3,4,5,6,7,8,9", "\n,,,,,,,,", 'he said "no"\n\n1,"2",3'])
def test_text_that_looks_like_numbers_of_a_row_is_text(tmp_path, text):
  cell = b'"%b"' % text.replace('"', '""').encode()
  assert read_notes(tmp_path, NOTE % (1, 1, cell), NOTE % (2, 2, b"plain")) == [text, "plain"]


@pytest.mark.parametrize("rows", [
    [NOTE % (1, 1, b'"secret'), NOTE % (2, 2, b'more"'), NOTE % (3, 3, b"plain")],
    [NOTE % (1, 1, b'"secret'), NOTE % (2, 2, b"more"), NOTE % (3, 3, b'secret, more"')],
    [NOTE % (1, 1, b'"secret, more\n'), NOTE % (2, 2, b'"secret, more"')],
    [NOTE % (1, 1, b'"secret "Smith" more"'), NOTE % (2, 2, b'"a\nb"')],
    [NOTE % (1, 1, b'"secret "Smith", more"'), NOTE % (2, 2, b'"a\nb"')]])
def test_notes_that_a_stray_quote_swallows_are_refused(tmp_path, rows):
  with pytest.raises(CohortError, match="radiology.csv.gz line 2: a quote is not closed"
                     ) as error:
    read_notes(tmp_path, *rows)
  for word in ("secret", "Smith", "more", "10000032"):
    assert word not in str(error.value)


@pytest.mark.parametrize("mark", range(8))
def test_events_that_a_stray_quote_swallows_are_refused_in_any_column(tmp_path, mark):
  header = b"x,subject_id,charttime,storetime,itemid,value,valuenum,unit\n"
  time = b"2150-03-01 10:00:00"
  row = [b"7", b"11", time, time, b"50931", b"high", b"1.5", b""]
  opened, closed = list(row), list(row)
  opened[mark], closed[mark] = b'"' + row[mark], row[mark] + b'"'
  rows = b"".join(b",".join(r) + b"\r\n" for r in (row, opened, row, closed, row))
  write(tmp_path, header + rows, "labevents.csv.gz")
  with pytest.raises(CohortError, match="line 3: a quote is not closed; it swallows"):
    with tables.open_folder(tmp_path, {"labevents": mimic_tables.SCHEMA["labevents"]}) as source:
      source.keep(source.tables["labevents"])


def test_a_quote_that_is_never_closed_is_not_followed_through_the_whole_file(tmp_path):
  write(tmp_path, GOOD + b'4,12,9,"x,141\n' + b"4,12,9,sodium,141\n" * 900000)
  assert "line 5: a quote is not closed, or a row is longer" in refusal(tmp_path)
  write(tmp_path, GOOD + b"4,12,9,sodium" * 900000)
  assert "line 5: it is longer than 4 MB" in refusal(tmp_path)


@pytest.mark.parametrize("large", [True, False])
def test_blank_lines_and_a_missing_last_line_break_are_no_rows(tmp_path, large):
  write(tmp_path, GOOD + b'\n\n4,12,9,"a\n\nb",1\n\n5,12,10,"c\nd",2')
  with tables.open_folder(tmp_path, {"lab": dataclasses.replace(LARGE["lab"], large=large)}) as s:
    assert s.keep(s.tables["lab"]).count().to_pandas() == 5


def test_a_parser_that_loses_rows_is_found_out(tmp_path):
  write(tmp_path, GOOD)
  file = csv_files.check(tmp_path / "lab.csv.gz", "utf-8", SCHEMA["lab"])
  csv_files.compare_rows(file, 3)
  with pytest.raises(CohortError, match="has 3 rows, of which 2"):
    csv_files.compare_rows(file, 2)


def test_characters_cut_by_a_block_are_put_together(tmp_path):
  text = "\u00e4\u20ac\U0001f600" * 200000
  write(tmp_path, f"stay,text\n1,{text}\n".encode())
  file = csv_files.Checked(tmp_path / "lab.csv.gz")
  blocks = list(iter(file.read, b""))
  assert len(blocks) > 1 and b"".join(blocks).decode() == f"1,{text}\n" and file.lines == 1


def test_checksums_are_compared_one_folder_up_too(tmp_path):
  hosp = tmp_path / "hosp"
  hosp.mkdir()
  write(hosp, GOOD)
  digest = hashlib.sha256((hosp / "lab.csv.gz").read_bytes()).hexdigest()
  (tmp_path / "SHA256SUMS.txt").write_text(f"{digest} hosp/lab.csv.gz\n")
  read(hosp)
  write(hosp, GOOD.replace(b"140.5", b"150.5"))
  assert "checksum" in refusal(hosp)


def test_parquet_is_read_where_it_lies(tmp_path):
  import pandas as pd
  pd.DataFrame({"value": [1.5], "stay": [10], "name": ["x"], "offset": [4]}).to_parquet(
      tmp_path / "lab.parquet")
  source, lab = read(tmp_path)
  assert lab.iloc[0, :4].tolist() == [10, 4, "x", 1.5] and source.inputs[0]["rows"] == 1


def open_parquet(folder, large, **columns):
  import pandas as pd
  pd.DataFrame({
      "stay": [10, 11], "offset": [4, 5], "name": ["x", "y"], "value": [1.5, None],
      "time": pd.Timestamp("2150-03-01 07:30:00"), **columns}).to_parquet(folder / "lab.parquet")
  with tables.open_folder(folder, {"lab": dataclasses.replace(LARGE["lab"], large=large)}) as s:
    return s.keep(s.tables["lab"]).to_pandas().sort_values("stay")


@pytest.mark.parametrize("large", [True, False])
def test_parquet_columns_that_can_be_made_what_they_should_be_are(tmp_path, large):
  import pandas as pd
  for columns in ({}, {"stay": [10., 11.]}, {"stay": ["10", "11"]}, {"value": ["1.5", None]},
                  {"time": "2150-03-01 07:30:00"}, {"name": pd.Categorical(["x", "y"])},
                  {"stay": np.array([10, 11], np.uint64)}):
    lab = open_parquet(tmp_path, large, **columns)
    assert lab["stay"].tolist() == [10, 11] and lab["name"].tolist() == ["x", "y"]
    assert lab["value"].isna().tolist() == [False, True] and lab["value"].iloc[0] == 1.5
    assert str(lab["time"].iloc[0]) == "2150-03-01 07:30:00"
  assert open_parquet(tmp_path, large, value=[None, None])["value"].isna().all()


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("column, values, words", [
    ("time", "zone", "time holds times with a zone"),
    ("time", ["2150-03-01 07:30:00Z", ""], "time .2 values are not times"),
    ("time", [1, 2], "time is of type int64, not a time"),
    ("stay", [10.6, 11], "stay .1 values are not whole"),
    ("stay", [np.inf, 11], "stay .1 values are not whole"),
    ("stay", ["10", "secret"], "stay .1 values are not whole"),
    ("value", ["secret", "1.5"], "value .1 values are not numbers"),
    ("value", [True, False], "value is of type bool, not a number"),
    ("name", [b"x", b"y"], "name is of type binary, not text")])
def test_parquet_columns_that_cannot_are_refused_by_name(tmp_path, large, column, values, words):
  import pandas as pd
  if values == "zone":
    values = pd.Timestamp("2150-03-01 07:30:00", tz="America/New_York")
  with pytest.raises(CohortError, match=words) as error:
    open_parquet(tmp_path, large, **{column: values})
  assert "lab.parquet" in str(error.value) and "secret" not in str(error.value)


def test_damage_inside_a_parquet_file_names_it(tmp_path):
  import pandas as pd
  n = 100_000
  pd.DataFrame({"stay": range(n), "offset": range(n), "name": "x", "value": 1.}).to_parquet(
      tmp_path / "lab.parquet", compression="gzip")
  data = bytearray((tmp_path / "lab.parquet").read_bytes())
  data[1000:3000] = bytes(2000)
  (tmp_path / "lab.parquet").write_bytes(data)
  with pytest.raises(CohortError, match="lab.parquet could not be read .*again"):
    read(tmp_path)


def test_a_full_disk_says_what_to_do(tmp_path):
  rows = b"".join(b"%d,%d,9,sodium %d,%d.5\n" % (i, i, i, i) for i in range(60000))
  write(tmp_path, b"labid,stay,offset,name,value\n" + rows)
  with pytest.raises(CohortError, match="data.spill"):
    with tables.open_files({"lab": (tmp_path / "lab.csv.gz",)}, {"lab": LARGE["lab"]},
                           memory_limit="20MB", spill=str(tmp_path)) as source:
      import ibis
      con = source.tables["lab"].get_backend()
      con.raw_sql("SET max_temp_directory_size='1MB'")
      lab = source.keep(source.tables["lab"])
      source.keep(lab.join(lab.rename(other="stay"), lab.offset == ibis._.offset).order_by("name"))
  with pytest.raises(CohortError, match="data.spill"):
    with tables.open_files({}, {}, spill=str(tmp_path / "nowhere")):
      pass
