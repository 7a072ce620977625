"""The rectify command's tables: what comes in as text or numbers, what goes out, what is never
told."""

import re

import pandas as pd
import pytest

from crl_jax.report import rectified as page
from crl_jax.serve import rectify
from tests.posthoc.test_hierarchy import world

COLUMNS = rectify.Columns("died", "score", "person", ("lab", "xray", "note"))
SECRET = 7_000_000


def tables(n=600, seed=0, **change):
  """(calibration, predictions) as DataFrames; ids are SECRET and above, row by row."""
  (y, p, pattern, patient), _ = world(n, seed, **(change or dict(shift=-0.8)))
  table = pd.DataFrame(dict(person=patient + SECRET, died=y, score=p,
                            **dict(zip(COLUMNS.patterns, pattern.astype(int).T))))
  return table, table.drop(columns="died").assign(ward="007")


@pytest.fixture
def files(tmp_path):
  def write(calibration, predictions, suffix=".csv"):
    for name, table in (("known", calibration), ("new", predictions)):
      path = tmp_path / f"{name}{suffix}"
      table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path, index=False)
    return tmp_path / f"known{suffix}", tmp_path / f"new{suffix}", tmp_path / f"out{suffix}"
  return write


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_is_added_and_the_rest_stays_as_it_was(files, suffix):
  known, new = tables()
  paths = files(known, new, suffix)
  facts = rectify.rectify(*paths, COLUMNS)
  out = rectify.read(paths[2])
  assert list(out) == [*new, "score_rectified"] and (out.ward == "007").all()
  after = out.score_rectified.astype(float)
  assert after.mean() == pytest.approx(known.died.mean(), abs=0.02)
  assert after.mean() < known.score.mean() - 0.05
  assert facts["new"] == dict(rows=600, changed=600, unseen=0, after=pytest.approx(after.mean()),
                              before=pytest.approx(new.score.mean()))
  assert paths[2].stat().st_mode & 0o077 == 0


def test_csv_and_parquet_bits_and_ids_give_the_same(files):
  known, new = tables()
  by_csv = rectify.rectify(*files(known, new), COLUMNS)
  assert by_csv == rectify.rectify(*files(known, new, ".parquet"), COLUMNS)
  label = lambda table: table.assign(kind=["-".join(map(str, row)) for row in table[
      list(COLUMNS.patterns)].to_numpy()])
  by_id = rectify.rectify(*files(label(known), label(new)), rectify.Columns(
      "died", "score", "person", ("kind",)))
  assert "modalities" not in by_id["levels"] and by_id["level"] == by_csv["level"]
  assert {row["name"] for row in by_id["groups"]} <= {*label(known).kind, "rarer patterns"}


def test_outcomes_that_are_not_known_and_empty_cells_count_in_nothing(files):
  known, new = tables()
  gaps = known.astype(dict(died=object))
  gaps.loc[::3, "died"] = ["", "NA"] * 100
  half = rectify.rectify(*files(gaps, new), COLUMNS)
  assert half["rows"] == half["patients"] == 400
  alone = rectify.rectify(*files(known[known.index % 3 > 0], new), COLUMNS)
  assert half == alone


def test_the_page_tells_what_for_whom_and_how_sure_and_no_patient(files, tmp_path):
  known, new = tables(effects=1.0)
  rare = known.assign(**{name: 0 for name in COLUMNS.patterns}).head(4)
  some = known[known[list(COLUMNS.patterns)].any(axis=1)]
  facts = rectify.rectify(*files(pd.concat([some, rare]), new), COLUMNS)
  page.write(tmp_path / "page.html", facts)
  text = (tmp_path / "page.html").read_text()
  for words in ("What changed", "For whom", "How sure", "lab + xray", "rarer patterns",
                "Expected gain in Brier score", "beyond doubt", "600 of 600 new rows"):
    assert words in text, words
  assert not re.search(r"\b7000\d{3}\b", text + " ".join(page.said(facts)))
  names = {row["name"]: row for row in facts["groups"]}
  assert "nothing" not in names   # four patients have that pattern
  for row in facts["groups"]:
    assert row["n"] >= 10 and row["told"] == ("rate" in row)


def test_few_patients_are_told_as_few(files, tmp_path):
  known, new = tables(60)
  facts = rectify.rectify(*files(known, new), COLUMNS, min_cell=40)
  said = " ".join(page.said(facts))
  assert facts["gain"] is None and facts["tried"] == [] and "no gain is told" in said
  assert "below 100 nothing but one shift" in said
  assert all("rate" not in row for row in facts["groups"])
  page.write(tmp_path / "page.html", facts)


@pytest.mark.parametrize("change, words", [
    (lambda known, new: (known.drop(columns=["died", "lab"]), new),
     r"lacks the columns \['died', 'lab'\]"),
    (lambda known, new: (known, new.assign(score_rectified=1)), "column 'score_rectified' already"),
    (lambda known, new: (known.assign(score="x7"), new), "600 of 600 cells of 'score' are no"),
    (lambda known, new: (known, new.assign(score="")), "600 of 600 rows have no 'score'"),
    (lambda known, new: (known.assign(person=""), new), "600 of 600 rows have no 'person'"),
    (lambda known, new: (known, new.assign(lab=3)), "600 of 1800 cells of the patterns"),
    (lambda known, new: (known.assign(died=5), new), "600 of 600 outcomes"),
    (lambda known, new: (known, new.assign(score=1.5)), "600 of 600 predictions")])
def test_what_is_wrong_is_told_by_its_count_and_nothing_is_written(files, change, words):
  paths = files(*change(*tables()))
  with pytest.raises(ValueError, match=words) as error:
    rectify.rectify(*paths, COLUMNS)
  told = str(error.value)
  assert not paths[2].exists() and "x7" not in told and str(SECRET)[:4] not in told


def test_a_file_of_another_kind_or_damaged_is_refused(tmp_path):
  for name, content in (("a.xlsx", b""), ("b.parquet", b"7000001"), ("c.csv", b'"7000001\n1,2'),
                        ("d.csv", b"\xff\xfe70")):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
      rectify.read(tmp_path / name)
    assert "7000001" not in str(error.value)
