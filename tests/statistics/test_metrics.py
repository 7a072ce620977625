"""Metrics against scikit-learn, under ties, weights and the cases where a metric is undefined."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from crl_jax.statistics import metrics


def _rows(n=400, decimals=1, seed=0):
  rng = np.random.default_rng(seed)
  p = rng.random(n)
  return (rng.random(n) < p).astype(int), np.round(p, decimals), rng.integers(0, 4, (9, n))


@pytest.mark.parametrize("decimals", [1, 3, 16])
def test_equals_scikit_learn_under_ties_and_weights(decimals):
  y, p, w = _rows(decimals=decimals)
  found = metrics.scores(y, p, w)
  for name, oracle in dict(auroc=roc_auc_score, auprc=average_precision_score,
                           brier=brier_score_loss).items():
    np.testing.assert_allclose(found[name], [oracle(y, p, sample_weight=v) for v in w], rtol=1e-12)
    np.testing.assert_allclose(getattr(metrics, name)(y, p), [oracle(y, p)], rtol=1e-12)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_weight_is_a_repeated_row(name):
  y, p, w = _rows()
  for v, value in zip(w, metrics.scores(y, p, w)[name]):
    np.testing.assert_allclose(value,
                               metrics.scores(np.repeat(y, v), np.repeat(p, v))[name][0], rtol=1e-9)


def test_order_of_rows_changes_nothing():
  y, p, w = _rows()
  order = np.random.default_rng(1).permutation(len(y))
  a, b = metrics.scores(y, p, w), metrics.scores(y[order], p[order], w[:, order])
  for name in metrics.METRICS:
    np.testing.assert_allclose(a[name], b[name], rtol=1e-11)


def test_index_shares_weights_among_the_rows_of_a_patient():
  y, p, _ = _rows()
  patient = np.arange(len(y)) // 3
  w = np.random.default_rng(2).integers(0, 3, (5, patient.max() + 1))
  a, b = metrics.scores(y, p, w, patient), metrics.scores(y, p, w[:, patient])
  for name in metrics.METRICS:
    np.testing.assert_array_equal(a[name], b[name])


def test_leading_axes_are_tasks_and_members_each_with_its_own_rows():
  rng = np.random.default_rng(3)
  y = rng.integers(0, 2, (3, 200)).astype(float)            # tasks
  y[0, :50], y[2, 180:] = np.nan, np.nan
  p, w = np.round(rng.random((4, 3, 200)), 2), rng.integers(0, 4, (5, 70))   # members, tasks
  patient, names = rng.integers(0, 70, 200), metrics.METRICS + metrics.LINE
  found = metrics.scores(y, p, w, patient, only=names, where=~np.isnan(y))
  for member, task in np.ndindex(4, 3):
    known = ~np.isnan(y[task])
    alone = metrics.scores(y[task, known], p[member, task, known], w, patient[known], only=names)
    for name in names:
      assert found[name].shape == (4, 3, 5)
      np.testing.assert_array_equal(found[name][member, task], alone[name])
  np.testing.assert_allclose(
      metrics.auroc(y[1], p)[..., 0],
      [[roc_auc_score(y[1], p[member, task]) for task in range(3)] for member in range(4)])
  with pytest.raises(ValueError, match="50 of 200 outcomes are not 0 or 1"):
    metrics.scores(y, p)


def test_many_blocks_equal_one(monkeypatch):
  y, p, w = _rows()
  whole = metrics.scores(y, p, w)
  monkeypatch.setattr(metrics, "_CELLS", 2 * len(y))
  parts = metrics.scores(y, p, w)
  for name in metrics.METRICS:
    np.testing.assert_allclose(whole[name], parts[name], rtol=1e-12)


def test_ece_by_hand():
  rng = np.random.default_rng(3)
  p = np.sort(rng.random(100))
  y = (rng.random(100) < p ** 2).astype(int)
  bins = [abs(a.mean() - b.mean()) for a, b in zip(np.split(p, 10), np.split(y, 10))]
  np.testing.assert_allclose(metrics.ece(y, p), [np.mean(bins)])
  # one tie across all bins
  np.testing.assert_allclose(metrics.ece(y, np.full(100, 0.3)), [abs(y.mean() - 0.3)])
  np.testing.assert_allclose(metrics.ece(y, y.astype(float)), [0], atol=1e-15)


@pytest.mark.parametrize("y, undefined", [
    ([0, 0, 0], ("auroc", "auprc")), ([1, 1, 1], ("auroc", "auprc")), ([], metrics.METRICS),
    ([0, 1, 1], ())])
def test_undefined_is_nan(y, undefined):
  found = metrics.scores(y, np.linspace(0.2, 0.8, len(y)))
  assert {name for name, value in found.items() if np.isnan(value[0])} == set(undefined)


def test_a_resample_of_one_class_or_of_nothing_is_nan():
  found = metrics.scores([0, 1, 1], [0.2, 0.4, 0.6], [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
  np.testing.assert_array_equal(np.isnan(found["auroc"]), [True, True, True, False])
  np.testing.assert_array_equal(np.isnan(found["auprc"]), [True, True, True, False])
  np.testing.assert_array_equal(np.isnan(found["brier"]), [False, False, True, False])
  np.testing.assert_array_equal(np.isnan(found["ece"]), [False, False, True, False])


def test_equal_predictions_rank_nothing():
  y, _, _ = _rows()
  p = np.full(len(y), 0.3)
  assert metrics.auroc(y, p)[0] == 0.5
  np.testing.assert_allclose(metrics.auprc(y, p)[0], y.mean())


@pytest.mark.parametrize("y, p, message", [
    ([0, 2], [0.1, 0.2], "1 of 2 outcomes"), ([0, np.nan], [0.1, 0.2], "1 of 2 outcomes"),
    ([0, 1], [0.1, np.nan], "1 of 2 predictions"), ([0, 1], [0.1, 1.5], "1 of 2 predictions"),
    ([0], [0.1, 0.2], "length")])
def test_refuses_what_is_no_outcome_or_probability(y, p, message):
  with pytest.raises(ValueError, match=message):
    metrics.scores(y, p)


def test_curves_enclose_the_areas():
  y, p, _ = _rows()
  false, recall, precision = metrics.curves(y, p)
  np.testing.assert_allclose(np.trapezoid(np.r_[0, recall], np.r_[0, false]),
                             metrics.auroc(y, p)[0])
  np.testing.assert_allclose(np.sum(np.diff(np.r_[0, recall]) * precision), metrics.auprc(y, p)[0])


def test_gaps_come_with_the_other_metrics():
  y, p, w = _rows()
  found = metrics.scores(np.stack([y, 1 - y]), p, w, bins=7, only=("slope", "gaps", "ece"))
  assert found["gaps"].shape == (2, 9, 7)
  np.testing.assert_array_equal(found["gaps"][1], metrics.gaps(1 - y, p, w, bins=7))
  np.testing.assert_allclose(np.abs(found["gaps"]).sum(-1), found["ece"], rtol=1e-12)
  predicted, rate, mass = metrics.calibration(y, p, bins=7)
  np.testing.assert_allclose(metrics.gaps(y, p, bins=7)[0], (predicted - rate) * mass / mass.sum(),
                             atol=1e-15)


def test_calibration_bins_average_to_the_error():
  y, p, _ = _rows()
  predicted, rate, mass = metrics.calibration(y, p, bins=7)
  np.testing.assert_allclose(np.sum(mass), len(y))
  np.testing.assert_allclose(np.average(np.abs(predicted - rate), weights=mass),
                             metrics.ece(y, p, bins=7)[0])


def test_wilson():
  # a textbook's example
  np.testing.assert_allclose(metrics.wilson(10, 100), (0.05523, 0.17437), atol=2e-5)
  assert metrics.wilson(0, 5)[0] == 0 and metrics.wilson(5, 5)[1] == 1


def _logit(p):
  p = np.clip(p, 1e-6, 1 - 1e-6)
  return np.log(p / (1 - p))


def test_calibration_line_equals_statsmodels():
  sm = pytest.importorskip("statsmodels.api")
  y, p, w = _rows(decimals=2)
  p = p ** 1.4
  found = metrics.scores(y, p, w, only=metrics.LINE)
  binomial, x = sm.families.Binomial(), _logit(p)
  for r, v in enumerate(w):
    slope = sm.GLM(y, sm.add_constant(x), binomial, freq_weights=v).fit(tol=1e-12).params[1]
    shift = sm.GLM(y, np.ones((len(y), 1)), binomial, offset=x, freq_weights=v).fit(tol=1e-12)
    np.testing.assert_allclose([found["slope"][r], found["intercept"][r]],
                               [slope, shift.params[0]], rtol=1e-7)


@pytest.mark.parametrize("n, width, wrong, upside_down", [
    (200, 3, 5, False), (200, 1, 5, False), (40, 3, 5, True), (200, 6, 5, True)])
def test_nearly_separated_outcomes_have_statsmodels_line(n, width, wrong, upside_down):
  """All but the `wrong` predictions nearest to 0.5 are on their side of it: the slope is far from
  the 1 at which its search begins, and the likelihood flat between."""
  sm = pytest.importorskip("statsmodels.api")
  x = np.random.default_rng(0).normal(0, width, n)
  y = (x > 0) ^ upside_down
  y[np.argsort(np.abs(x))[:wrong]] ^= True
  p = 1 / (1 + np.exp(-x))
  slope = sm.GLM(y, sm.add_constant(_logit(p)), sm.families.Binomial()).fit(tol=1e-12).params[1]
  for weights in (None, np.ones((3, n))):
    np.testing.assert_allclose(metrics.scores(y, p, weights, only=("slope",))["slope"], slope,
                               rtol=1e-6)


@pytest.mark.parametrize("p, rate", [(1 - 1e-6, 0.02), (1e-6, 0.98)])
def test_the_intercept_of_predictions_that_were_sure_and_wrong(p, rate):
  y, p = np.arange(400) < 400 * rate, np.where(np.arange(400) % 2, p, 0.5 * p + 0.25)
  shift = metrics.scores(y, p, only=("intercept",))["intercept"][0]
  assert np.mean(1 / (1 + np.exp(-_logit(p) - shift))) == pytest.approx(rate, rel=1e-6)


def test_merging_near_predictions_moves_the_line_by_nothing():
  y, p, w = _rows(n=5000, decimals=16)
  many = metrics.scores(y, p, w[:2], only=metrics.LINE)
  for r in range(2):
    one = metrics.scores(y, p, w[r:r + 1], only=metrics.LINE)
    for name in metrics.LINE:
      np.testing.assert_allclose(many[name][r], one[name][0], rtol=1e-4, atol=1e-4)
      assert many[name][r] != one[name][0]   # it was merged


@pytest.mark.parametrize("y, p, slope, intercept", [
    ([0, 0, 0], [.1, .5, .7], False, False), ([0, 1, 1], [.3, .3, .3], False, True),
    ([0, 0, 1, 1], [.1, .2, .3, .4], False, True), ([1, 1, 0, 0], [.1, .2, .3, .4], False, True),
    ([0, 0, 1, 1], [.1, .2, .2, .4], False, True), ([0, 1, 0, 1], [0., .2, .3, 1.], True, True)])
def test_where_the_calibration_line_is_defined(y, p, slope, intercept):
  found = metrics.scores(y, p, only=metrics.LINE)
  assert [not np.isnan(found[name][0]) for name in metrics.LINE] == [slope, intercept]


def test_a_calibrated_and_an_overconfident_prediction():
  rng = np.random.default_rng(0)
  x = rng.normal(size=200_000)
  y = rng.random(len(x)) < 1 / (1 + np.exp(-x))
  found = metrics.scores(y, 1 / (1 + np.exp(-2 * x - 1)), only=metrics.LINE)
  np.testing.assert_allclose(found["slope"], 0.5, atol=0.01)
  assert metrics.scores(y, 1 / (1 + np.exp(-x)), only=("intercept",))["intercept"][0] == (
      pytest.approx(0, abs=0.02))
  assert found["intercept"][0] < -0.5


def test_net_benefit_by_its_definition():
  y, p, w = _rows()
  thresholds = np.array([0, 0.1, 0.25, 0.3, 0.95])
  found, everybody = metrics.net_benefit(y, p, thresholds, w)
  for r, v in enumerate(w):
    for k, t in enumerate(thresholds):
      benefit = lambda who: np.sum(v * who * (y - (1 - y) * t / (1 - t))) / v.sum()
      np.testing.assert_allclose([found[r, k], everybody[r, k]],
                                 [benefit(p >= t), benefit(1)], atol=1e-14)
  assert np.isnan(metrics.net_benefit([0, 1], [0.1, 0.2], [0.1], np.zeros((1, 2)))[0]).all()
  with pytest.raises(ValueError, match="ascending"):
    metrics.net_benefit(y, p, [0.2, 0.1])


def test_fractional_weights_equal_scikit_learn():
  y, p, _ = _rows(decimals=16)
  w = np.random.default_rng(5).random((3, len(y)))
  np.testing.assert_allclose(metrics.auroc(y, p, w),
                             [roc_auc_score(y, p, sample_weight=v) for v in w])
  np.testing.assert_allclose(metrics.auprc(y, p, w),
                             [average_precision_score(y, p, sample_weight=v) for v in w])
