"""Influences against the numerical derivative of the metric by a row's weight, DeLong's variance
from all pairs, and the spread of resamples."""

import json

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.statistics import bootstrap, influence, metrics, roles
from tests.statistics import test_evaluate

DIFFERENTIABLE = ("auroc", "auprc", "brier", "slope", "intercept")


@pytest.fixture(scope="module")
def both():
  """metrics.json of 2,000 patients by 400 resamples and, as if they were many, by the limit."""
  table = test_evaluate.make(4000, seeds=2)
  table["group_unit"] = np.array(list("abc"))[table.patient_id % 3]
  config = config_lib.default().unlock()
  config.evaluate.bootstrap, config.evaluate.permutations = 400, 150
  found = [test_evaluate.run(table, config)]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bootstrap, "MANY", 2000)
    return found[0], test_evaluate.run(table, config)


def make(n=120, decimals=2, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=n)
  p = np.round(1 / (1 + np.exp(-1.5 * x - 0.4)), decimals)
  return (rng.random(n) < 1 / (1 + np.exp(-x))).astype(float), p


@pytest.mark.parametrize("decimals", [1, 2, 16])
def test_influence_is_the_derivative_by_the_weight(decimals):
  y, p = make(decimals=decimals)
  found, step = influence.scores(y, p), 1e-4
  weights = np.stack([np.ones(len(y)) + sign * step * np.eye(len(y))[i]
                      for i in range(len(y)) for sign in (1, -1)])
  value = {name: np.concatenate([metrics.scores(y, p, w[None], only=(name,))[name]
                                 for w in weights]) for name in DIFFERENTIABLE}
  n = np.where(y == 1, y.sum(), (1 - y).sum())
  for name in DIFFERENTIABLE:
    derivative = (value[name][::2] - value[name][1::2]) / (2 * step)
    scale = np.sqrt(n / (n - 1)) if name == "auroc" else 1.0   # DeLong's
    np.testing.assert_allclose(found[name], derivative * scale, rtol=1e-5, atol=1e-7)


def test_squares_sum_to_delongs_variance_from_all_pairs():
  y, p = make(n=90, decimals=1)
  psi = lambda a, b: np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))
  pairs = psi(p[y == 1][:, None], p[y == 0])
  variance = pairs.mean(1).var(ddof=1) / len(pairs) + pairs.mean(0).var(ddof=1) / pairs.shape[1]
  assert np.sum(influence.scores(y, p)["auroc"] ** 2) == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("decimals", [1, 16])
def test_patients_sums_have_the_spread_of_resamples(decimals):
  """Every statistic, with two alike rows a patient; of tied predictions too."""
  y, p = make(n=3000, decimals=decimals)
  y, p, patient = np.tile(y, 2), np.tile(p, 2), np.tile(np.arange(3000), 2)
  counts = bootstrap.resample(3000, 400, 0)
  draws = metrics.scores(y, p, counts, patient, only=DIFFERENTIABLE)
  draws["gaps"] = metrics.gaps(y, p, counts, patient)
  for name, psi in influence.scores(y, p).items():
    psi = bootstrap.by_patient(patient, psi.reshape(6000, -1), 3000)
    np.testing.assert_allclose(np.sqrt(np.sum(psi**2, 0)), draws[name].reshape(400, -1).std(0),
                               rtol=0.15, err_msg=name)
    np.testing.assert_allclose(psi.sum(0), 0, atol=1e-5)


def test_influence_of_a_ratio():
  rng = np.random.default_rng(0)
  above, below = rng.random(20), rng.random(20) + 1
  value = lambda w: w @ above / (w @ below)
  step = 1e-5 * np.eye(20)
  np.testing.assert_allclose(influence.ratio(above, below),
                             [(value(1 + e) - value(1 - e)) / 2e-5 for e in step], rtol=1e-6)

def entries(found):
  """path -> {"value", "lo", "hi"[, "p"]} of what a metrics.json holds."""
  if isinstance(found, list):
    found = dict(enumerate(found))
  if not isinstance(found, dict):
    return {}
  if found.keys() >= {"value", "lo", "hi"} and isinstance(found["value"], float):
    return {(): found}
  return {(key, *path): entry for key, value in found.items()
          for path, entry in entries(value).items()}


def test_the_limit_says_what_resamples_say(both):
  """The same values exactly, and every limit within a quarter of the interval's width: a limit of
  400 resamples errs by 7% of it. Differences and groups too."""
  first, second = (entries(found) for found in both)
  assert first.keys() == second.keys() and len(first) > 200
  moved = []
  for path, a in first.items():
    b = second[path]
    assert a["value"] == pytest.approx(b["value"], rel=1e-12, abs=1e-12)
    width = a["hi"] - a["lo"]
    if path[0] != "differences" or path[1] != roles.GAIN.key:   # of nearly equal predictors
      moved += [abs(a[end] - b[end]) / width for end in ("lo", "hi") if width > 0]
      assert not moved or moved[-1] < 0.25, path
  assert np.mean(moved) < 0.05 and np.max(moved) > 0
  curves = [np.array([found["net_benefit"]["test"]["icu"][end] for end in ("lo", "hi")])
            for found in both]
  assert np.abs(curves[0] - curves[1]).max() < 0.2 * (curves[0][1] - curves[0][0]).max()
  json.dumps(both[1], allow_nan=False)


def test_a_difference_by_the_limit_is_paired_and_has_the_p_of_its_interval(both):
  for task in test_evaluate.TASKS:
    for name, entry in both[1]["differences"]["test-test_logistic"][task].items():
      if entry["value"] is not None and name != "ece":
        half, middle = (entry["hi"] - entry["lo"]) / 2, (entry["hi"] + entry["lo"]) / 2
        assert middle == pytest.approx(entry["value"], abs=1e-12)
        assert (entry["p"] < 0.05) == (abs(entry["value"]) > half)
    delong = both[1]["tests"]["test-test_logistic"][task]["delong"]
    found = both[1]["differences"]["test-test_logistic"][task]["auroc"]
    for key in ("value", "lo", "hi", "p"):
      assert found[key] == pytest.approx(delong[key], rel=1e-4)


def test_the_gap_of_chance_by_the_limit_is_that_of_deals(both):
  parts = [found["fairness"]["tasks"]["icu"]["unit"]["gaps"] for found in both]
  for name, dealt in parts[0].items():
    limit = parts[1][name]
    assert limit["expected"] == pytest.approx(dealt["expected"], rel=0.15), name
    assert limit["p"] == pytest.approx(dealt["p"], abs=0.12), name


def test_the_switch_is_at_MANY_patients_and_few_outcomes_are_resampled(monkeypatch):
  monkeypatch.setattr(bootstrap, "MANY", 150)
  monkeypatch.setattr(bootstrap, "RARER", 60)
  assert isinstance(bootstrap.sampling(149, 10, 0), np.ndarray)
  limit = bootstrap.sampling(150, 10, 0)
  y = (np.arange(300) < 100) * 1.0
  assert not limit.holds(y, np.arange(300) // 2)   # 50 patients with the outcome
  assert limit.holds((np.arange(300) < 120) * 1.0, np.arange(300) // 2)
  counts, index = limit.few(np.array([70, 9, 70]))
  np.testing.assert_array_equal(index, [1, 0, 1])
  np.testing.assert_array_equal(counts, bootstrap.resample(2, 10, 0))
  config = config_lib.default().unlock()
  config.evaluate.bootstrap, config.evaluate.permutations = 100, 20
  table = test_evaluate.make(300)
  table["group_sex"] = np.where(table.patient_id % 3, "f", "m")
  table["y_mortality"] = np.where(table.row_id % 20, 0.0, 1.0)   # 15 rows
  found = test_evaluate.run(table, config)
  monkeypatch.setattr(bootstrap, "MANY", 151)
  same = test_evaluate.run(table, config)
  for key in ("test", "test_base"):   # all patients are in these rows: the same resamples
    assert found[key]["mortality"] == same[key]["mortality"]
    assert found[key]["icu"]["auroc"]["lo"] != same[key]["icu"]["auroc"]["lo"]
  assert (found["differences"]["test-test_base"]["mortality"] ==
          same["differences"]["test-test_base"]["mortality"])
  assert found["net_benefit"]["test"]["mortality"] == same["net_benefit"]["test"]["mortality"]
  json.dumps(found, allow_nan=False)


def test_rows_that_no_one_has_an_outcome_of_are_null_above_the_switch(monkeypatch):
  monkeypatch.setattr(bootstrap, "MANY", 10)
  monkeypatch.setattr(bootstrap, "RARER", 5)
  config = config_lib.default().unlock()
  config.evaluate.bootstrap = 20
  found = test_evaluate.run(test_evaluate.make(100).assign(y_icu=np.nan, y_mortality=0.0), config)
  assert found["test"]["icu"]["brier"]["reason"] == "no row with this outcome"
  assert found["test"]["mortality"]["auroc"]["value"] is None
  assert found["test"]["mortality"]["brier"]["lo"] is not None


def test_covariance_sums_over_patients_of_all_blocks_in_chunks():
  rng = np.random.default_rng(0)
  blocks = [(rng.integers(0, 30, n), rng.normal(size=(n, k))) for n, k in ((80, 2), (50, 3))]
  psi = np.concatenate([bootstrap.by_patient(*block, 30) for block in blocks], 1)
  np.testing.assert_allclose(bootstrap.covariance(blocks, 30, chunk=7), psi.T @ psi)
