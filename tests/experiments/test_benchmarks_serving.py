"""The benchmarks of serving and of the rectifier, at a size that takes seconds."""

import dataclasses

import jax
import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.serve import predictor as predictor_lib
from experiments import benchmarks
from experiments.benchmarks import rectifier, serving

@pytest.fixture(scope="module")
def options():
  return benchmarks.Options(rows=150, repeats=2, settings=("model.width=8", "model.heads=2"))


@pytest.fixture(scope="module")
def predictor(members_run, quickly):
  """Of two folds by two seeds."""
  with quickly():
    return predictor_lib.load(members_run.folder)


def _by(lines):
  assert all(tuple(line) == benchmarks.COLUMNS and line["value"] > 0 for line in lines)
  return {(line["part"].split(",")[1], line["measure"], line["compared with"]): line
          for line in lines}


def test_serving_tells_latency_and_throughput(options, predictor, monkeypatch):
  monkeypatch.setattr(serving, "trained", lambda options, folder: predictor)
  for name, value in (("CALLS", 20), ("MEMBERS", 4), ("BATCHES", (1, 16))):
    monkeypatch.setattr(serving, name, value)
  lines = _by(serving.rows(options))
  for members in (" 1 member", " 4 members"):
    median = lines[members, "one patient, median", "paper's 50 ms"]
    tail = lines[members, "one patient, 99th percentile", "paper's 50 ms"]
    assert median["value"] <= tail["value"] <= median["max"]
    assert median["ratio"] == pytest.approx(50 / median["value"])
    assert lines[members, "1 rows at once", "one at a time"]["ratio"] == 1
    assert lines[members, "16 rows at once", "one at a time"]["ratio"] > 1


def test_serving_trains_one_member_a_fold_of_mimics_shape(options, monkeypatch):
  seen = []
  monkeypatch.setattr(serving.run, "run", lambda config, folder: seen.append((config, folder)))
  monkeypatch.setattr(serving.predictor_lib, "load", lambda folder: seen.append(folder))
  serving.trained(options, "folder")
  config = config_lib.check(seen[0][0])
  assert seen[0][1] == seen[1] == "folder" and config.members.folds == serving.MEMBERS
  assert config.data.simulate.sizes == (64, 1376, 768, 768) and config.model.width == 8
  assert config.data.simulate.rows == 150


def test_first_members_are_a_predictor(predictor):
  data = serving.draw(predictor, 16)
  one, two = (serving.first(predictor, members) for members in (1, 2))
  second = dataclasses.replace(predictor, weights=predictor.weights | {
      "params": jax.tree.map(lambda x: x[1:2], predictor.weights["params"]),
      "fold": predictor.weights["fold"][1:2]})
  found = [p(*data)[0] for p in (one, second)]
  np.testing.assert_allclose(two(*data)[0], np.mean(found, 0), atol=1e-6)
  assert np.abs(found[0] - found[1]).max() > 1e-4 and (one.members, two.members) == (1, 2)


def test_rectifier_is_compared_with_pandas_and_a_read(options):
  lines = _by(rectifier.rows(options))
  key = " 75"   # 75,000 rows, the comma splits
  fit = lines[key, "fit", "pandas by pattern"]
  assert fit["min"] <= fit["value"] <= fit["max"] and fit["unit"] == "s"
  for compared in ("pandas by pattern", "pandas by fold and pattern", "one read of its bytes"):
    assert any(k[2] == compared and line["ratio"] > 0 for k, line in lines.items())


def test_rectifier_benchmark_notices_wrong_sums(options, monkeypatch):
  estimate = rectifier.rectifier.estimate
  monkeypatch.setattr(rectifier.rectifier, "estimate", lambda *args: dataclasses.replace(
      estimate(*args), gamma=estimate(*args).gamma + 1e-6))
  with pytest.raises(AssertionError, match="tolerance"):
    rectifier.rows(options)
