"""Comparisons of predictors against closed forms, scipy and statsmodels."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from crl_jax import config as config_lib
from crl_jax.statistics import compare
from tests.statistics.test_evaluate import make


def _pair(n=300, seed=0, decimals=2):
  rng = np.random.default_rng(seed)
  risk = rng.beta(2, 3, n)
  y = (rng.random(n) < risk).astype(float)
  noisy = lambda: np.clip(risk + 0.2 * rng.normal(size=n), 0, 1).round(decimals)
  return y, noisy(), noisy()


@pytest.mark.parametrize("decimals", [1, 16])
def test_delong_by_its_definition(decimals):
  """Against the O(m n) matrix of placements."""
  y, p, q = _pair(decimals=decimals)
  kernel = lambda v: (np.greater.outer(v[y == 1], v[y == 0]) +
                      0.5 * np.equal.outer(v[y == 1], v[y == 0]))
  d = kernel(p) - kernel(q)
  variance = d.mean(1).var(ddof=1) / len(d) + d.mean(0).var(ddof=1) / d.shape[1]
  found = compare.delong(y, p, q)
  assert found["value"] == pytest.approx(roc_auc_score(y, p) - roc_auc_score(y, q))
  assert found["se"] == pytest.approx(np.sqrt(variance))
  assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(found["value"]) / np.sqrt(variance)))
  assert found["hi"] - found["lo"] == pytest.approx(2 * 1.959964 * found["se"], rel=1e-6)
  area = compare.area(y, p, np.arange(len(y)))
  a = kernel(p)
  se = np.sqrt(a.mean(1).var(ddof=1) / len(a) + a.mean(0).var(ddof=1) / a.shape[1])
  logit = np.log(a.mean() / (1 - a.mean()))
  assert area["hi"] == pytest.approx(stats.logistic.cdf(
      logit + 1.959964 * se / a.mean() / (1 - a.mean())), rel=1e-6)


def test_delong_counts_patients_and_averages_seeds():
  y, p, q = _pair()
  patient = np.arange(len(y))
  once = compare.delong(y, p, q, patient)
  three = [np.concatenate([v, v, v]) for v in (y, p, q, patient)]
  clustered = compare.delong(*three)
  assert clustered["se"] == pytest.approx(once["se"], rel=0.02)
  assert compare.delong(*three[:3])["se"] < 0.65 * once["se"]
  sets = np.split(np.arange(3 * len(y)), 3)
  averaged = compare.delong(*three, sets)
  for key in ("value", "se", "p"):
    assert averaged[key] == pytest.approx(once[key])


def test_delong_where_it_is_undefined_or_equal():
  y, p, q = _pair()
  assert compare.delong(y, p, p) == dict(value=0, lo=0, hi=0, se=0, p=1)
  found = compare.delong(np.zeros(5), p[:5], q[:5])
  assert found["value"] is None and "5 rows, 0 positive" in found["reason"]
  assert compare.area(np.zeros(5), p[:5], np.arange(5))["value"] is None


def test_resampled_t():
  d = np.random.default_rng(0).normal(0.1, 0.2, 12)
  plain = compare.resampled_t(d, 0.0)   # without overlap it is the t-test
  oracle = stats.ttest_1samp(d, 0)
  assert (plain["t"], plain["p"]) == pytest.approx((oracle.statistic, oracle.pvalue))
  assert (plain["lo"], plain["hi"]) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
  corrected = compare.resampled_t(d, 0.25)
  assert corrected["t"] == pytest.approx(plain["t"] / np.sqrt(1 + 12 * 0.25))
  assert compare.resampled_t([0.1], 0.2)["p"] is None and compare.resampled_t([], 0.2)["n"] == 0
  assert compare.resampled_t([0.0, 0.0], 0.2)["p"] == 1


def test_ratio_of_test_to_training_rows():
  c = config_lib.default()
  assert compare.ratio(c) == pytest.approx(0.2 / (0.8 * 0.85))


def test_holm():
  multitest = pytest.importorskip("statsmodels.stats.multitest")
  p = [0.01, 0.04, 0.03, 0.9, 0.002, 0.04]
  np.testing.assert_allclose(compare.holm(p), multitest.multipletests(p, method="holm")[1])
  assert compare.holm([None, 0.02, None]) == [None, 0.02, None]
  entries = [{"p": 0.03}, {"value": 1}, {"p": None}, {"p": 0.01}]
  compare.adjust(entries)
  assert [e.get("p_holm") for e in entries] == [0.03, None, None, 0.02]


def test_runs():
  c = config_lib.default().unlock()
  c.evaluate.bootstrap = 200
  table = make(seeds=2)
  found = compare.runs(table, table.sample(frac=1, random_state=1), ("icu", "mortality"), c, 0,
                       "p_", "p_boosting_")
  test = table[table.role == "test"]
  each = [roc_auc_score(t.y_icu, t.p_icu) - roc_auc_score(t.y_icu, t.p_boosting_icu)
          for _, t in test.groupby("seed")]
  entry = found["icu"]["auroc"]
  assert entry["value"] == pytest.approx(np.mean(each))
  assert entry["value"] == pytest.approx(entry["first"] - entry["second"])
  assert found["icu"]["delong"]["value"] == pytest.approx(np.mean(each))
  assert found["icu"]["delong"]["se"] == pytest.approx((entry["hi"] - entry["lo"]) / 3.92, rel=0.25)
  assert found["icu"]["resampled_t"]["auroc"]["n"] == 10
  assert (entry["p"] < 0.05) == (entry["lo"] > 0 or entry["hi"] < 0)
  json.dumps(found, allow_nan=False)
  same = compare.runs(table, table, ("icu",), c, 0)["icu"]
  assert same["brier"]["value"] == 0 and same["brier"]["p"] == 1


@pytest.mark.parametrize("resamples", [60, 99, 200, 1000])
def test_p_and_interval_never_contradict_each_other(resamples):
  rng = np.random.default_rng(resamples)
  edges, count = 0, 400
  for i in range(count):
    scale = rng.choice([0.01, 1.0])
    value = scale * rng.normal(2, 1) * (-1) ** i
    draws = value + scale * rng.normal(rng.choice([0, 1.5]), 1, resamples)
    draws[:3] = np.nan if i % 5 == 0 else draws[:3]
    found = compare.bootstrapped(value, draws.round(3), reflect=bool(i % 3))
    assert found["lo"] <= found["value"] <= found["hi"]
    assert (found["p"] < 0.05) == (found["lo"] > 0 or found["hi"] < 0)
    edges += found["p"] < 0.05
  assert 0.1 * count < edges < 0.9 * count
  assert compare.bootstrapped(0.0, np.zeros(100)) == dict(value=0, lo=0, hi=0, p=1)
  assert compare.bootstrapped(0.1, np.full(9, np.nan))["p"] is None


def test_p_and_interval_agree_for_every_metric():
  c = config_lib.default().unlock()
  c.evaluate.bootstrap = 200
  both = []
  for seed in range(12):
    rng = np.random.default_rng(seed)
    table = make(150)
    noise = rng.normal(0, rng.choice([0.03, 0.1, 0.3]), len(table))
    table["p_icu"] = np.clip(table.p_icu + noise, 0.001, 0.999)
    for name, entry in compare.runs(table, table, ("icu",), c, seed, "p_", "p_base_")[
        "icu"].items():
      if name not in ("delong", "resampled_t") and entry["p"] is not None:
        both.append((name, entry["p"] < 0.05, entry["lo"] > 0 or entry["hi"] < 0))
  assert {"auroc", "auprc", "brier", "ece", "slope", "intercept"} <= {name for name, *_ in both}
  assert [(name, p) for name, p, _ in both] == [(name, out) for name, _, out in both]
  assert {p for name, p, _ in both if name == "ece"} == {True, False}


@pytest.mark.parametrize("change", [
    lambda t: t.assign(row_id=t.row_id + 1), lambda t: t.assign(seed=1),
    lambda t: t.assign(y_icu=1 - t.y_icu), lambda t: t.iloc[:-1]])
def test_runs_refuses_other_rows(change):
  table = make()
  table = table[table.role == "test"]
  with pytest.raises(ValueError, match="other test rows"):
    compare.runs(table, change(table), ("icu",), config_lib.default(), 0)
