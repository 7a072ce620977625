"""One page for several runs: what is paired is paired, what is not is said."""

import re
import shutil

import pandas as pd
import pytest

from crl_jax.statistics import compare as compare_lib
from crl_jax import files
from experiments import compare


def test_runs_of_the_same_rows_are_compared_in_pairs(tiny_run, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(tiny_run.folder, other)
  table = pd.read_parquet(other / "predictions.parquet")
  for task in ("readmission", "mortality"):
    table[f"p_{task}"] = 1 - table[f"p_{task}"]   # the worst ranking there is of these predictions
  table.to_parquet(other / "predictions.parquet")
  files.seal(other, "predictions.parquet")
  compare.compare([tiny_run.folder, other], tmp_path / "page.html")
  text = (tmp_path / "page.html").read_text()
  value = tiny_run.metrics["test"]["mortality"]["auroc"]["value"]
  assert f"{1 - 2 * value:+.3f} [" in text
  runs = [compare.read(folder, name) for folder, name in ((tiny_run.folder, "a"), (other, "b"))]
  (line,) = compare.differences(runs, "mortality")["lines"]
  assert line[0] == "b" and line[1].startswith(f"{1 - 2 * value:+.3f} [")
  (same,) = compare.differences([runs[0], runs[0]], "mortality")["lines"]
  assert same[1:3] == ["+0.000 [+0.000, +0.000]", "1"] and same[-1] == "1"
  y, p, q = (compare.test_rows(run, "mortality")[column] for run, column in (
      (runs[0], "y"), (runs[1], "p"), (runs[0], "p")))
  three = compare.differences([runs[0], runs[1], runs[0]], "mortality")["lines"]
  assert float(three[0][-1]) == pytest.approx(   # Holm's, of two comparisons
      2 * compare_lib.delong(y, p, q)["p"], rel=0.06)
  assert len(three[0]) == len(compare.differences(runs, "mortality")["heads"])
  assert "The configs are the same." in text and "SIMULATED" in text
  assert not re.search(r"https?:|<script", text)


def test_runs_of_other_rows_are_not_paired(tiny_run, members_run, tmp_path):
  compare.compare([tiny_run.folder, members_run.folder], tmp_path / "page.html")
  text = (tmp_path / "page.html").read_text()
  assert "paired differences" not in text   # one fold here, two folds there
  assert "members.folds" in text and "members.seeds" in text
  assert compare.names([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]


def test_what_is_no_run_or_shares_no_task_is_refused(tiny_run, tmp_path, monkeypatch):
  with pytest.raises(OSError, match="not a finished run"):
    compare.compare([tiny_run.folder, tmp_path], tmp_path / "page.html")
  whole = compare.read(tiny_run.folder, "a")
  found = iter([whole, compare.dataclasses.replace(whole, metrics={"test": {"other": {}}})])
  monkeypatch.setattr(compare, "read", lambda *_: next(found))
  with pytest.raises(ValueError, match="share no task"):
    compare.compare([tiny_run.folder, tiny_run.folder], tmp_path / "page.html")
