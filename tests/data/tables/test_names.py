"""A table is read in every form that is plain, and no form of it is ever silently passed over."""

import dataclasses
import gzip
import hashlib
import logging

import pandas as pd
import pytest

from crl_jax.data.cohort import CohortError
from crl_jax.data.tables import names, source as tables

TABLE = tables.Table({"stay": "int64", "name": "string", "time": "timestamp"})
FRAME = pd.DataFrame({"stay": range(1, 7), "name": list("abcdef"), "time": "2150-03-01 07:30:00"})
TEXT = FRAME.to_csv(index=False).encode()


def text(rows):
  return FRAME.iloc[rows].to_csv(index=False).encode()


def zipped(rows):
  return gzip.compress(text(rows), mtime=0)


def parquet(rows, **kinds):
  return FRAME.iloc[rows].assign(**kinds).to_parquet()


EVERY, FIRST, LAST, NONE = slice(0, 6), slice(0, 2), slice(2, 6), slice(0, 0)
READ = {
    "unzipped": {"lab.csv": text(EVERY)},
    "capitals": {"LAB.CSV.GZ": zipped(EVERY)},
    "one capital": {"Lab.csv.GZ": zipped(EVERY)},
    "capitals, unzipped": {"LAB.CSV": text(EVERY)},
    "Parquet in capitals": {"LAB.PARQUET": parquet(EVERY)},
    "a codec in the name": {"lab.snappy.parquet": parquet(EVERY)},
    "parts": {"lab_0.csv.gz": zipped(FIRST), "lab_1.csv.gz": zipped(LAST)},
    "parts from 1": {"lab-1.csv": text(FIRST), "lab-2.csv": text(LAST)},
    "parts with zeros": {"lab.part-000.csv.gz": zipped(FIRST), "LAB.PART-001.csv.gz": zipped(LAST)},
    "parts of so many": {"lab-00000-of-00002.parquet": parquet(FIRST),
                         "lab-00001-of-00002.parquet": parquet(LAST)},
    "a part without rows": {"lab1.csv.gz": zipped(NONE), "lab2.csv.gz": zipped(EVERY)},
    "a folder of Parquet": {"lab.parquet/part-00000-7f.snappy.parquet": parquet(FIRST),
                            "lab.parquet/part-00003-7f.snappy.parquet": parquet(LAST),
                            "lab.parquet/_SUCCESS": b"", "lab.parquet/.part.crc": b"x"},
    "parts of other types": {"LAB/a.parquet": parquet(FIRST, name=1.5), "LAB/b.parquet": parquet(
        LAST, time=pd.Timestamp("2150-03-01 07:30:00"))},
    "a folder of csv.gz": {"lab/x.csv.gz": zipped(FIRST), "lab/y.csv.gz": zipped(LAST)},
    "a folder of one csv": {"lab.csv/lab.csv": text(EVERY), "lab.csv/README.txt": b"x"},
}
REFUSED = {
    "two forms": ({"lab.csv": text(EVERY), "lab.csv.gz": zipped(EVERY)},
                  "both lab.csv and lab.csv.gz.*2 times"),
    "parts and the whole": ({"lab.csv.gz": zipped(EVERY), "lab_1.csv.gz": zipped(FIRST)},
                            "both lab.csv.gz and lab_1.csv.gz"),
    "a file and a folder": ({"lab.parquet": parquet(EVERY), "lab/a.csv": text(EVERY)}, "2 times"),
    "a part that is missing": ({"lab_0.csv": text(FIRST), "lab_2.csv": text(LAST)},
                               "lab_0.csv, lab_2.csv.*part 1 is not.*lab_0.csv.gz"),
    "the first part missing": ({"lab_2.csv": text(FIRST)}, "part 1 is not"),
    "the last part missing": ({"lab-0-of-3.csv": text(FIRST), "lab-1-of-3.csv": text(LAST)},
                              "of 3 is not"),
    "two of one number": ({"lab_1.csv": text(FIRST), "lab_01.csv": text(LAST)}, "one number"),
    "two kinds of parts": ({"lab_0.csv": text(FIRST), "lab_1.csv.gz": zipped(LAST)},
                           "lab_0.csv and lab_1.csv.gz"),
    "one part twice": ({"lab/a.csv.gz": zipped(FIRST), "lab/a (1).csv.gz": zipped(FIRST)},
                       r"lab/a \(1\).csv.gz and lab/a.csv.gz.*same file"),
    "parts without a row": ({"lab_0.csv": text(NONE), "lab_1.csv": text(NONE) + b"\n"}, "row"),
    "partitions": ({"lab.parquet/name=x/a.parquet": parquet(EVERY)}, "name=x.*never data"),
    "a stranger among parts": ({"lab/a.csv.gz": zipped(FIRST), "lab/b.csv.zst": b"x"}, "b.csv.zst"),
    "an empty folder": ({"lab.parquet/_SUCCESS": b""}, "lab.parquet holds no"),
    "an empty file": ({"lab.csv": b""}, "lab.csv is empty"),
    "an empty part": ({"lab_0.csv.gz": zipped(FIRST), "lab_1.csv.gz": b""},
                      "lab_1.csv.gz is empty"),
    "a damaged part": ({"lab_0.csv.gz": zipped(FIRST), "lab_1.csv.gz": zipped(LAST)[:-9]},
                       "lab_1.csv.gz is (cut off|damaged)"),
    "a part of other columns": ({"lab_0.csv": text(FIRST), "lab_1.csv": b"stay,note\n1,x\n"},
                                "lab_1.csv lacks"),
    "gzip that is called csv": ({"lab.csv": zipped(EVERY)}, "lab.csv is a compressed"),
    "a web page": ({"lab.csv": b"<html>Sign in</html>"}, "web page"),
}
SEEN = {"lab.csv.zip": b"x", "lab (1).csv.gz": b"x", "lab.csv.gz.1": b"x", "my_lab.csv.gz": b"x",
        "lab_old.csv": b"x", "below/lab.csv.gz": zipped(EVERY), "lab.xlsx": b"x"}


def save(folder, files):
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  return folder


def read(folder, large, **kwargs):
  with tables.open_folder(folder, {"lab": dataclasses.replace(TABLE, large=large)},
                          **kwargs) as source:
    return source, source.keep(source.tables["lab"]).to_pandas().sort_values("stay")


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("form", READ)
def test_plain_forms_are_read_and_every_file_is_told(tmp_path, form, large):
  folder = save(tmp_path / "time=2000" / "glob[1]*?{a,b}", READ[form])
  source, lab = read(folder, large)
  assert lab["stay"].tolist() == [1, 2, 3, 4, 5, 6]
  if form != "parts of other types":
    assert lab["name"].tolist() == list("abcdef")
  assert set(lab["time"].astype(str)) == {"2150-03-01 07:30:00"}
  parts = {name: content for name, content in READ[form].items()
           if names.split(name)[1] and "crc" not in name}
  assert {i["sha256"] for i in source.inputs} == {
      hashlib.sha256(content).hexdigest() for content in parts.values()}
  assert {i["file"] for i in source.inputs} == set(parts) and not source.absent
  assert sum(i["rows"] for i in source.inputs) == 6


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("form", REFUSED)
def test_doubtful_forms_are_refused_by_name(tmp_path, form, large):
  files, words = REFUSED[form]
  with pytest.raises(CohortError, match=words):
    read(save(tmp_path, files), large)


@pytest.mark.parametrize("name", SEEN)
def test_what_only_looks_like_a_table_is_told_of(tmp_path, name, caplog):
  save(tmp_path, {name: SEEN[name], "customLab.csv.gz": b"x", "other.csv": b"x"})
  with caplog.at_level(logging.WARNING, "crl_jax"):
    with tables.open_folder(tmp_path, {"lab": TABLE}, known=("customLab",)) as source:
      assert source.absent == ["lab"]
  told, = caplog.messages
  assert f"lab is absent, but {name} is there" in told and "lab.csv.gz, lab.csv" in told
  with pytest.raises(CohortError, match="lacks the required.*is there, which is not read"):
    tables.find(tmp_path, {"lab": dataclasses.replace(TABLE, required=True)}, ("customLab",))


def test_a_link_to_nothing_is_refused(tmp_path):
  (tmp_path / "lab.csv.gz").symlink_to(tmp_path / "annex")
  with pytest.raises(CohortError, match="lab.csv.gz is a link to nothing"):
    read(tmp_path, True)


def test_names_of_other_tables_are_not_parts(tmp_path):
  save(tmp_path, {"emar.csv.gz": b"x", "emar_detail.csv.gz": b"x", "._emar.csv.gz": b"x"})
  assert {t: [p.name for p in paths] for t, paths in names.find(
      [tmp_path], ("emar", "emar_detail")).items()} == {
          "emar": ["emar.csv.gz"], "emar_detail": ["emar_detail.csv.gz"]}


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("ending", ["csv.gz", "csv", "parquet"])
def test_a_column_without_a_name_is_not_read_and_counted(tmp_path, large, ending):
  frame = FRAME.rename(columns={"name": "name"})
  frame.insert(0, "", range(6))
  path = tmp_path / f"lab.{ending}"
  frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, index=ending == "csv")
  source, lab = read(tmp_path, large)
  assert lab["stay"].tolist() == [1, 2, 3, 4, 5, 6]
  odd, = source.odd
  assert odd["table"] == "lab" and "without a name" in odd["rule"]
  assert odd["count"] == 1 + (ending == "csv")


@pytest.mark.parametrize("large", [True, False])
def test_a_parquet_column_without_a_value_is_of_any_type(tmp_path, large):
  import pyarrow as pa
  for kind in (pa.null(), pa.float64(), pa.int32(), pa.bool_(), pa.binary(), pa.list_(pa.int8()),
               pa.timestamp("us", "UTC"), pa.dictionary(pa.int8(), pa.bool_())):
    for column, declared in TABLE.types.items():
      empty = pa.Table.from_pandas(FRAME).set_column(
          list(FRAME).index(column), column, pa.nulls(6, kind))
      pa.parquet.write_table(empty, tmp_path / "lab.parquet")
      assert read(tmp_path, large)[1][column].isna().all(), (kind, declared)
  FRAME.assign(time=pa.array([float("nan")] * 6).to_numpy()).to_parquet(tmp_path / "lab.parquet")
  assert read(tmp_path, large)[1]["time"].isna().all()


@pytest.mark.parametrize("large", [True, False])
def test_int96_times_are_refused(tmp_path, large):
  import pyarrow as pa
  import pyarrow.parquet
  frame = FRAME.assign(time=pd.Timestamp("2150-03-01 12:30:00"))
  pa.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "lab.parquet",
                         use_deprecated_int96_timestamps=True)
  with pytest.raises(CohortError, match="lab.parquet: time holds INT96 times.*zone"):
    read(tmp_path, large)


def test_a_query_that_stops_early_still_checks_every_part(tmp_path):
  part = lambda i: gzip.compress(b"stay,name,time\n" + b"%d,a,\n" % i * 9000, mtime=0)
  save(tmp_path, {f"lab_{i}.csv.gz": part(i) for i in range(60)})
  schema = {"lab": dataclasses.replace(TABLE, large=True)}
  with tables.open_folder(tmp_path, schema) as source:
    source.keep(source.tables["lab"].limit(1))
  assert [(i["file"], i["rows"]) for i in source.inputs] == [
      (f"lab_{i}.csv.gz", 9000) for i in range(60)]
  save(tmp_path, {"lab_59.csv.gz": part(59)[:-9]})
  with pytest.raises(CohortError, match="lab_59.csv.gz is (cut off|damaged)"):
    with tables.open_folder(tmp_path, schema) as source:
      source.keep(source.tables["lab"].limit(1))
