"""Why modalities are missing: the verdict on simulated cohorts, gamma recovered under mar, the
tests' pieces against statsmodels and published numbers."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import simulate
from crl_jax.statistics import informative, orthogonal, sensitivity


def make(mechanism, seed=0, rows=2000, **settings):
  c = config_lib.default().unlock()
  c.seed = seed
  c.data.simulate.update(dict(mechanism=mechanism, rows=rows, world=seed, draws=1,
                              sizes=(16, 32, 24, 24), prevalence=(0.4, 0.5, 0.35), signal=1.0,
                              **settings))
  return simulate.build(c.lock())


@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mmnar"])
def test_verdict(mechanism):
  found = informative.study(make(mechanism))
  assert found["verdict"] == mechanism and mechanism in found["sentence"]
  assert "structured" in found["common"] and set(found["modalities"]) == {"image", "discharge",
                                                                          "radiology"}
  assert "prove" in found["limits"] and found == json.loads(json.dumps(found, allow_nan=False))


def test_gamma_is_recovered_under_mar_where_the_raw_difference_is_biased():
  cohort = make("mar", rows=5000, effect=0.08, rho=2.0)
  found = informative.study(cohort)
  left, raw, inside = [], [], []
  for task, entry in found["tasks"].items():
    gamma = cohort.info["truth"]["gamma"][task]
    for row in entry["patterns"]:
      truth = gamma[str(row["pattern"])] - gamma[str(entry["reference"]["pattern"])]
      left.append(row["left"]["value"] - truth)
      raw.append(row["raw"]["value"] - truth)
      inside.append(row["left"]["lo"] <= truth <= row["left"]["hi"])
    assert entry["predicts"]["p"] < 0.01 and entry["left"]["p"] < 0.02
    assert entry["benchmark"]["pattern"] > 0.01
  assert np.sqrt(np.mean(np.square(left))) < 0.75 * np.sqrt(np.mean(np.square(raw)))
  assert np.mean(inside) > 0.8


def test_no_effect_leaves_nothing():
  """Under mar without a direct effect the pattern predicts, and given what everyone has it does
  not."""
  found = informative.study(make("mar", rows=4000, effect=0.0, rho=1.5))["tasks"]
  assert min(entry["predicts"]["p"] for entry in found.values()) < 1e-3
  assert min(entry["left"]["p"] for entry in found.values()) > 0.01
  assert all(row["robustness_interval"] < 0.02 for entry in found.values()
             for row in entry["patterns"])


def test_robustness_falls_with_the_interval():
  entry = informative.study(make("mmnar", effect=0.15))["tasks"]["icu"]
  for row in entry["patterns"]:
    assert 0 <= row["robustness_interval"] <= row["robustness"] <= 1
    covers = row["left"]["lo"] <= 0 <= row["left"]["hi"]
    assert covers == (row["robustness_interval"] == 0)
  assert max(row["robustness_interval"] for row in entry["patterns"]) > 0


def test_effects_are_told_of_patterns_with_enough_of_both_outcomes():
  """One pattern has 3 positives: neither its effect nor one that it follows from is told."""
  cohort = make("mar", rows=2000)
  labels, ids = cohort.labels.copy(), np.unique(cohort.pattern)
  few = ids[np.argsort([np.sum(cohort.pattern == p) for p in ids])[-3]]   # by far not the smallest
  mine = cohort.pattern == few
  labels[mine, 0] = np.arange(mine.sum()) < 3
  entry = informative.study(dataclasses.replace(cohort, labels=labels), min_cell=10)["tasks"]
  entry = entry["readmission"]
  rows, reference = entry["patterns"], entry["reference"]
  told = [reference["pattern"], *(row["pattern"] for row in rows if row["pattern"] is not None)]
  assert few not in told and len(told) >= 2 and mine.sum() > 100 and rows[-1]["pattern"] is None
  rate = lambda rows: labels[rows, 0].mean()
  assert reference["rate"] == pytest.approx(rate(cohort.pattern == reference["pattern"]))
  for row in rows:   # raw is the difference of the rates, so it would tell them
    group = (~np.isin(cohort.pattern, told) if row["pattern"] is None
             else cohort.pattern == row["pattern"])
    assert row["raw"]["value"] == pytest.approx(rate(group) - reference["rate"])
    assert row["n"] == group.sum() and 10 <= labels[group, 0].sum() <= group.sum() - 10
  everything = informative.study(dataclasses.replace(cohort, labels=labels), min_cell=1)["tasks"]
  assert few in [row["pattern"] for row in everything["readmission"]["patterns"]]


@pytest.mark.parametrize("ratio, shared", [(0.6, 0.5), (1.0, 0.95), (0.05, 0.0)])
def test_share_that_is_left_against_the_delta_method(ratio, shared):
  """Two patterns, an effect of 50 standard errors: ratio +- 1.96 sd(left - ratio x raw) / raw."""
  rng = np.random.default_rng(4)
  noise = rng.normal(size=(1000, 2)) @ np.linalg.cholesky([[1, shared], [shared, 1]]).T
  noise *= 0.02 / np.sqrt((noise**2).sum(0))
  raw, left = (dict(coefficient=np.array([b]), influence=noise[:, [k]],
                    covariance=np.array([[0.02**2]])) for k, b in enumerate((1.0, ratio)))
  found = orthogonal.part(raw, left, np.array([0.3]))
  half = 1.96 * np.linalg.norm(noise[:, 1] - ratio * noise[:, 0])
  assert found["value"] == pytest.approx(ratio, abs=0.005)
  assert found["hi"] == pytest.approx(ratio + half, abs=0.006)
  assert found["lo"] == pytest.approx(ratio - half, abs=0.006)
  nothing = orthogonal.part(raw, {**left, "coefficient": np.array([0.001])}, np.array([0.3]))
  assert nothing["value"] == nothing["lo"] == 0
  assert nothing["hi"] == pytest.approx(0.02 * (1 + 1.96), abs=0.004)   # |truth + noise| <= its sd


def test_share_that_is_left():
  """All of it where recording has to do with nothing, little of it where the direct effect is none,
  null where it is not sure that there is any."""
  found = [informative.study(make(mechanism, rows=4000, effect=effect, rho=1.5))["tasks"]
           for mechanism, effect in (("mcar", 0.12), ("mar", 0.0), ("mcar", 0.0))]
  share = [[entry["left"]["share"] for entry in tasks.values()] for tasks in found]
  assert all(s["lo"] <= 1 <= s["hi"] and s["lo"] > 0.5 for s in share[0])
  assert all(s["lo"] == 0 and s["value"] < 0.7 for s in share[1] if s["value"] is not None)
  assert min(s["value"] is None for s in share[1]) == 0
  assert all(s["value"] is None and "not sure" in s["reason"] for s in share[2])


def test_what_cannot_be_asked_is_null_with_a_reason():
  cohort = make("mcar", rows=300)
  observed = cohort.observed.copy()
  observed[:, 1], observed[:, 2] = False, True
  labels = cohort.labels.copy()
  labels[:, 0] = np.nan
  labels[:, 1] = 0
  found = informative.study(dataclasses.replace(cohort, observed=observed, labels=labels))
  assert "fewer than 30 patients have it" in found["modalities"]["image"]["covariates"]["reason"]
  assert found["common"][:2] == ["structured", "discharge"]
  assert found["tasks"]["icu"]["left"]["reason"] and found["tasks"]["readmission"]["n"] == 0
  alone = dataclasses.replace(cohort, observed=np.ones_like(observed))
  assert informative.study(alone)["verdict"] is None
  json.dumps(found, allow_nan=False)


def test_nothing_that_everyone_has():
  cohort = make("mmnar", rows=1500)
  observed = cohort.observed.copy()
  observed[::3, 0] = False
  found = informative.study(dataclasses.replace(cohort, observed=observed, groups={}))
  assert found["common"] == [] and found["verdict"] == "mmnar"
  entry = found["modalities"]["image"]["covariates"]
  assert entry["p"] is None and entry["auroc"] is None and "everyone" in entry["reason"]


def test_patients_not_rows_are_counted():
  """Every row ten times as the same patient's changes no test; as other patients' it would."""
  cohort = make("mcar", rows=600)
  again = cohort.take(np.repeat(np.arange(600), 10))
  again = dataclasses.replace(again, row_id=np.arange(6000))
  a, b = (informative.study(c)["tasks"]["icu"]["predicts"]["p"] for c in (cohort, again))
  assert a == pytest.approx(b, rel=0.15)


def test_signs_are_of_one_stream_whatever_the_blocks_and_the_patients():
  """Three blocks, the last one not full: T is what it is where all signs are drawn as one array."""
  rng = np.random.default_rng(5)
  c, draws = 9000, 12
  signs = np.random.default_rng([3, 0x516]).choice([-1.0, 1.0], (c, draws + 1))
  signs[:, 0] = 1
  x, fold = rng.normal(size=(c, 2)), np.arange(c) % 3
  found = orthogonal._signed(x, fold, draws, 3)
  for k in range(3):
    np.testing.assert_allclose(found[k], x[fold == k].T @ signs[fold == k], rtol=1e-10, atol=1e-10)
  few = orthogonal._signed(x[:50], np.zeros(50), draws, 3)[0]
  np.testing.assert_allclose(few, x[:50].T @ signs[:50], rtol=1e-12, atol=1e-12)


def test_score_test_of_one_column_is_a_t_test():
  from scipy import stats
  rng = np.random.default_rng(0)
  e, r = rng.normal(size=200), rng.normal(size=200)
  found = orthogonal.score_test(e, r[:, None], np.arange(200))
  v = e * r
  assert found["p"] == pytest.approx(stats.ttest_1samp(v, 0).pvalue, rel=1e-6)
  assert orthogonal.score_test(e, np.stack([r, 2 * r], 1), np.arange(200))["freedom"] == 1
  assert orthogonal.score_test(e, np.zeros((200, 2)), np.arange(200))["p"] is None


def test_contrast_equals_statsmodels():
  sm = pytest.importorskip("statsmodels.api")
  rng = np.random.default_rng(1)
  d, patient = rng.normal(size=(300, 3)), rng.integers(80, size=300)
  y = d @ [0.5, 0, -1] + rng.normal(size=300) + rng.normal(size=80)[patient]
  fit = sm.OLS(y, d).fit(cov_type="cluster", cov_kwds={"groups": patient})
  found = orthogonal.contrast(y, d, patient)
  np.testing.assert_allclose(found["coefficient"], fit.params)
  np.testing.assert_allclose(found["covariance"], fit.cov_params())


@pytest.mark.parametrize("rate", [0.3, 0.1])
def test_contrast_keeps_its_level_where_few_rows_differ(rate):
  """20 rows each of three patterns: Wald's test rejects 12% and 33%, Hotelling's 8% and 33%."""
  rng = np.random.default_rng(4)
  label = np.repeat(range(4), (280, 20, 20, 20))
  d = np.eye(4)[label][:, 1:]
  d -= d.mean(0)
  test = lambda y: orthogonal.contrast(y - y.mean(), d, np.arange(len(y)))["p"]
  none = [test(y) for y in rng.binomial(1, rate, (200, len(label))).astype(float)]
  assert np.mean(np.array(none) < 0.05) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
  some = [test(y) for y in rng.binomial(1, rate + 0.25 * (label == 1), (200, len(label))) * 1.0]
  assert np.mean(np.array(some) < 0.05) > 0.3


def test_cross_fitted_predictions_do_not_know_their_row():
  rng = np.random.default_rng(2)
  x, fold = rng.normal(size=(120, 3)), np.arange(120) % 4
  y = rng.normal(size=(120, 1))
  other = y.copy()
  other[fold == 1] += 100
  a, b = orthogonal.linear(x, y, fold), orthogonal.linear(x, other, fold)
  np.testing.assert_array_equal(a[fold == 1], b[fold == 1])
  assert not np.allclose(a[fold == 0], b[fold == 0])
  label = (y[:, 0] > 0).astype(int)
  flipped = np.where(fold == 1, 1 - label, label)
  np.testing.assert_array_equal(orthogonal.classes(x, label, fold, 2)[fold == 1],
                                orthogonal.classes(x, flipped, fold, 2)[fold == 1])


def test_robustness_value_as_published():
  # Cinelli and Hazlett 2020, section 4: t = 4.18 with 783 degrees of freedom, RV 13.9%
  f = 4.18 / np.sqrt(783)
  assert sensitivity.robustness(f, 1.0) == pytest.approx(0.139, abs=5e-4)
  rv = sensitivity.robustness(-0.3, 2.0)
  assert sensitivity.bias(rv, rv, 2.0) == pytest.approx(0.3)
  assert sensitivity.robustness(0.0, 1.0) == 0 and sensitivity.robustness(1.0, 0.0) == 1
  # VanderWeele and Ding 2017: a risk ratio of 3.9 has the E-value 7.26
  assert sensitivity.e_value(3.9) == pytest.approx(7.26, abs=0.005)
  assert sensitivity.e_value(1 / 3.9) == pytest.approx(sensitivity.e_value(3.9))
  assert sensitivity.e_value(1.0) == 1


def test_bias_bound_is_reached_by_a_hidden_variable():
  """y and d both depend on a hidden u: leaving it out moves the effect by `bias` of its shares."""
  rng = np.random.default_rng(3)
  n = 400_000
  u = rng.normal(size=n)
  d = 0.6 * u + rng.normal(size=n)
  y = 0.2 * d + 0.5 * u + rng.normal(size=n)
  tracemalloc.start()
  try:
    found = orthogonal.contrast(y, d[:, None], np.arange(n))
    assert tracemalloc.get_traced_memory()[1] < 3e8   # 2,000 signs of every patient: 6.4e9
  finally:
    tracemalloc.stop()
  r2 = lambda v, *x: 1 - np.var(v - np.stack(x, 1) @ np.linalg.lstsq(np.stack(x, 1), v,
                                                                     rcond=None)[0]) / np.var(v)
  shares = 1 - (1 - r2(y, d, u)) / (1 - r2(y, d)), r2(d, u)
  moved = abs(found["coefficient"][0] - 0.2)
  assert moved == pytest.approx(sensitivity.bias(*shares, found["scale"][0]), rel=0.02)


@pytest.mark.parametrize(
    "n,width,share,rare", [(300, 30, 0.5, 0), (500, 5, 1.0, 0), (400, 5, 1.0, 1)])
def test_inflation_is_that_of_noise(n, width, share, rare):
  """Residuals of unrelated noise: the variance of the sum of their products against the squares;
  with a column in which one row alone differs too."""
  rng = np.random.default_rng(1)
  x, rows = rng.normal(size=(n, width)), rng.random(n) < share
  x = np.concatenate([x, (np.arange(n) < rare)[:, None] * np.sqrt(n)], 1)
  fold = orthogonal.deal(np.arange(n), 5, 0)
  e, r = rng.normal(size=(2, n, 4000))
  products = ((e - orthogonal.linear(x, e, fold)) * (r - orthogonal.linear(x, r, fold, rows)))[rows]
  measured = np.mean(products.sum(0)**2) / np.mean((products**2).sum(0))
  assert orthogonal.inflation(x, fold, rows) == pytest.approx(measured, rel=0.08)
  assert (width < 30) or measured > 1.15


def test_a_group_level_of_one_patient_changes_no_answer():
  cohort = make("mar", rows=1500)
  rare = cohort.groups["sex"].astype("U8").copy()
  rare[cohort.patient_id == cohort.patient_id[0]] = "unknown"
  other = dataclasses.replace(cohort, groups={**cohort.groups, "sex": rare})
  before, after = informative.study(cohort), informative.study(other)
  assert before["verdict"] == after["verdict"] == "mar"
  for name, entry in before["modalities"].items():
    if entry["content"]["p"] is not None:
      p = after["modalities"][name]["content"]["p"]
      assert p == pytest.approx(entry["content"]["p"], abs=0.1)


def test_prediction_test_is_at_its_level_and_finds_what_few_rows_show():
  """Patients of two rows; many columns; a rare class, whose Hotelling test has no power."""
  rng = np.random.default_rng(2)
  patient = np.repeat(np.arange(400), 2)
  fold = orthogonal.deal(patient, 5, 0)
  p = []
  for _ in range(400):
    x = np.repeat(rng.normal(size=(400, 30)), 2, 0) + rng.normal(size=(800, 30))
    y = np.repeat(rng.random(400) < 0.05, 2).astype(float)
    p.append(orthogonal.prediction_test(x, y, patient, fold, draws=300)["p"])
  assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)
  x[:, :5] += 2 * y[:, None]
  found = orthogonal.prediction_test(x, y, patient, fold)["p"]
  assert found < 0.01 < orthogonal.score_test(y - y.mean(), x - x.mean(0), patient)["p"]
  assert "reason" in orthogonal.prediction_test(np.ones((800, 1)), y, patient, fold)
