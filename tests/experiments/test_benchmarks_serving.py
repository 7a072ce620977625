"""The benchmarks of serving and of the rectifier, at a size that takes seconds."""

import dataclasses

import numpy as np
import pytest

from experiments import benchmarks
from experiments.benchmarks import rectifier, serving

TINY = ("data.simulate.modalities=('structured','image')", "data.simulate.sizes=(4,6)",
        "data.simulate.visible=(4,5)", "data.simulate.availability=(1.0,0.4)",
        "data.simulate.noise=(1.5,2.0)", "model.width=8", "model.heads=2", "train.batch_size=32",
        "preprocess.components=0")


@pytest.fixture(scope="module")
def options():
  return benchmarks.Options(rows=150, repeats=2, settings=TINY)


def _by(lines):
  assert all(tuple(line) == benchmarks.COLUMNS and line["value"] > 0 for line in lines)
  return {(line["part"].split(",")[1], line["measure"], line["compared with"]): line
          for line in lines}


def test_serving_tells_latency_and_throughput(options, quickly, monkeypatch):
  monkeypatch.setattr(serving, "CALLS", 20)
  monkeypatch.setattr(serving, "MEMBERS", 2)
  with quickly():
    lines = _by(serving.rows(options))
  for members in (" 1 member", " 2 members"):
    median = lines[members, "one patient, median", "paper's 50 ms"]
    tail = lines[members, "one patient, 99th percentile", "paper's 50 ms"]
    assert median["value"] <= tail["value"] <= median["max"]
    assert median["ratio"] == pytest.approx(50 / median["value"])
    assert lines[members, "1 rows at once", "one at a time"]["ratio"] == 1
    assert lines[members, "1024 rows at once", "one at a time"]["ratio"] > 1


def test_first_members_are_a_predictor(options, quickly, monkeypatch, tmp_path):
  monkeypatch.setattr(serving, "MEMBERS", 2)
  with quickly():
    both = serving.trained(options, tmp_path)
  data = serving.draw(both, 5)
  one = serving.first(both, 1)
  other = dataclasses.replace(one, weights=one.weights | {
      key: {"params": lambda: serving.jax.tree.map(lambda x: x[1:], both.weights["params"]),
            "fold": lambda: both.weights["fold"][1:] - 1,
            "stats": lambda: serving.jax.tree.map(lambda x: x[1:], both.weights["stats"])}[key]()
      for key in ("params", "fold", "stats")})
  mean = (one(*data)[0] + other(*data)[0]) / 2
  np.testing.assert_allclose(both(*data)[0], mean, atol=1e-6)
  assert np.abs(one(*data)[0] - other(*data)[0]).max() > 1e-4


def test_rectifier_is_compared_with_pandas_and_a_read(options):
  lines = _by(rectifier.rows(options))
  key = " 75"   # 75,000 rows, the comma splits
  fit = lines[key, "fit", "pandas by pattern"]
  assert fit["min"] <= fit["value"] <= fit["max"] and fit["unit"] == "s"
  for compared in ("pandas by pattern", "pandas by fold and pattern", "one read of its bytes"):
    assert any(k[2] == compared and line["ratio"] > 0 for k, line in lines.items())


def test_rectifier_benchmark_notices_wrong_sums(options, monkeypatch):
  estimate = rectifier.rectifier.fit
  monkeypatch.setattr(rectifier.rectifier, "fit", lambda *args: dataclasses.replace(
      estimate(*args), gamma=estimate(*args).gamma + 1e-6))
  with pytest.raises(AssertionError, match="tolerance"):
    rectifier.rows(options)
