"""The operating point and the rates at it; totals under resamples; p-values of differences."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from crl_jax import config as config_lib
from crl_jax.statistics import bootstrap, scoring
from tests.statistics.test_evaluate import make


@pytest.fixture
def config():
  return config_lib.default().evaluate


def test_operating_point_is_the_highest_that_flags_enough():
  table = make()
  points = scoring.operating_points(table, "icu", "p_", 0.8)
  assert sorted(points) == [(fold, 0) for fold in range(5)]
  for (fold, _), threshold in points.items():
    p = table[(table.role == "val") & (table.fold == fold) & (table.y_icu == 1)].p_icu
    assert (p >= threshold).mean() >= 0.8 and (p > threshold).mean() < 0.8
  five = pd.DataFrame(dict(role="val", fold=0, seed=0, y_a=1.0, p_a=[.1, .2, .3, .4, .5]))
  assert scoring.operating_points(five, "a", "p_", 0.8) == {(0, 0): 0.2}
  assert scoring.operating_points(five, "a", "p_", 0.81) == {(0, 0): 0.1}


def test_members_without_positive_validation_rows_have_no_point():
  table = make()
  table.loc[(table.role == "val") & (table.fold == 2), "y_icu"] = 0.0
  assert (2, 0) not in scoring.operating_points(table, "icu", "p_", 0.8)
  assert scoring.operating_points(table, "icu", "p_logistic_", 0.8) == {}


def test_the_point_knows_no_test_outcome():
  table = make()
  flipped = table.assign(y_icu=table.y_icu.where(table.role == "val", 1 - table.y_icu))
  assert (scoring.operating_points(table, "icu", "p_", 0.8) ==
          scoring.operating_points(flipped, "icu", "p_", 0.8))


def test_rates_equal_the_confusion_matrix(config):
  table = make()
  test = table[table.role == "test"]
  points = scoring.operating_points(table, "icu", "p_", 0.8)
  patients, patient = np.unique(test.patient_id, return_inverse=True)
  counts = bootstrap.resample(len(patients), 50, 0)
  found = scoring.score(test, patient, "icu", "p_", counts, config, points)
  flag = test.p_icu >= [points[fold, 0] for fold in test.fold]
  rates = lambda w: (lambda tn, fp, fn, tp: dict(
      sensitivity=tp / (tp + fn), specificity=tn / (tn + fp), ppv=tp / (tp + fp),
      npv=tn / (tn + fn), flagged=(tp + fp) / (tn + fp + fn + tp)))(
          *confusion_matrix(test.y_icu, flag, sample_weight=w).ravel())
  for name, value in rates(None).items():
    assert found.entry[name]["value"] == pytest.approx(value)
    assert found.entry[name]["lo"] < value < found.entry[name]["hi"]
  for name, value in rates(counts[7][patient]).items():
    assert found.draws[name][7] == pytest.approx(value)


def test_totals_are_the_sums_of_the_rows_drawn():
  rng = np.random.default_rng(0)
  counts, patient = rng.integers(0, 3, (7, 20)), rng.integers(20, size=50)
  v = rng.normal(size=(50, 2))
  np.testing.assert_allclose(bootstrap.totals(counts, patient, v), counts[:, patient] @ v)


def test_resamples_hold_as_many_patients_and_depend_on_the_seed():
  a, b = bootstrap.resample(30, 5, 0), bootstrap.resample(30, 5, 1)
  assert (a.sum(1) == 30).all() and not np.array_equal(a, b)
  np.testing.assert_array_equal(a, bootstrap.resample(30, 5, 0))


def test_p_value_of_a_difference():
  assert bootstrap.p_value(np.zeros(99)) == 1
  assert bootstrap.p_value(np.ones(999)) == pytest.approx(2 / 1000)
  assert bootstrap.p_value(np.r_[-np.ones(10), np.ones(89), np.nan]) == pytest.approx(0.22)
  assert bootstrap.p_value(np.full(3, np.nan)) is None


def test_interval_of_resamples():
  draws = np.linspace(0.10, 0.30, 1001)
  found = bootstrap.interval(0.12, draws)
  assert (found["lo"], found["hi"]) == pytest.approx((0.105, 0.295))
  assert bootstrap.interval(0.12, draws - 0.2, floor=0.0)["lo"] == 0
  assert "no resample" in bootstrap.interval(0.1, np.full(4, np.nan))["reason"]


def test_magnitude_of_what_is_not_there_and_of_what_is():
  """Noise alone: the interval begins at 0 and the percentiles' would not. A sum of parts of one
  sign is as sure as a mean."""
  rng = np.random.default_rng(0)
  noise = rng.normal(0, 0.01, (2000, 10))
  nothing = bootstrap.magnitude(rng.normal(0, 0.01, 10), noise)
  assert nothing["lo"] == 0 and nothing["value"] <= nothing["hi"] < 0.15
  parts = np.full(10, 0.1)
  found = bootstrap.magnitude(parts, parts + noise)
  half = 1.96 * 0.01 * np.sqrt(10)
  assert (found["lo"], found["value"], found["hi"]) == pytest.approx((1 - half, 1, 1 + half),
                                                                     abs=8e-3)
  assert bootstrap.magnitude(np.full(3, np.nan), noise[:, :3])["value"] is None


_SD = np.sqrt(0.21 / np.array([1183, 161, 86, 56, 21]))   # of rates in five unequal groups


@pytest.mark.parametrize("truth, sd, most", [
    ([0.7, 0.7], [0.03, 0.03], 0.97),
    ([0.7, 0.73], [0.03, 0.03], 0.99),
    ([0.7, 0.8], [0.03, 0.03], 0.97),
    ([0.7] * 5, _SD, 0.97),
    ([0.7, 0.7, 0.7, 0.7, 0.8], _SD, 1),   # a multiple of what was seen: 86% to 89%
    ([0.7, 0.8, 0.7, 0.7, 0.7], _SD, 1),
    ([0.7, 0.7, 0.85, 0.7, 0.7], _SD, 1),
    ([0.5] * 19 + [0.6], [0.05] * 20, 1)])
def test_gap_holds_the_truth(truth, sd, most):
  rng = np.random.default_rng(0)
  truth, sd, held = np.array(truth), np.array(sd), 0
  for _ in range(600):
    seen = truth + sd * rng.normal(size=len(sd))
    found = bootstrap.gap(*(seen + np.array([0, -1.96, 1.96])[:, None] * sd)[:, None],
                          (seen + sd * rng.normal(size=(300, len(sd))))[:, None])
    held += found["lo"] <= np.ptp(truth) <= found["hi"]
    assert found["lo"] <= found["value"] <= found["hi"] and found["hi"] > 0.02
  allowance = 2 * np.sqrt(0.05 * 0.95 / 600)
  assert 0.95 - allowance <= held / 600 <= most + allowance


def test_gap_of_several_statistics_is_that_of_the_widest():
  rng = np.random.default_rng(0)
  values = np.array([[0.5, 0.5, 0.5], [0.2, 0.5, 0.3]])
  found = bootstrap.gap(values, values - 0.02, values + 0.02,
                        values + rng.normal(0, 0.01, (500, 2, 3)))
  assert found["value"] == pytest.approx(0.3) and 0.25 < found["lo"] < 0.27
  assert found["hi"] == pytest.approx(0.3 + np.hypot(0.02, 0.02))   # that of one pair, not of all
  assert bootstrap.gap(*np.full((3, 1, 2), np.nan), np.zeros((9, 1, 2)))["value"] is None
