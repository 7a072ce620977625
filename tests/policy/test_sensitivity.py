"""Bounds under unmeasured confounding: golden values, every vertex, direction, resamples."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from crl_jax.policy import sensitivity

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data/policy_golden.json").read_text()
                    )["sensitivity"]


@pytest.fixture
def rows():
  """pi, other, treatment, outcome, e of the golden rows."""
  return [np.array(GOLDEN[name]) for name in ("pi_a", "pi_b", "T", "Y", "e")]


def test_golden_bounds_and_breakdown(rows):
  known = GOLDEN["bounds_of_V(a)-V(b) by Gamma"]
  gammas = [g for g in known if g != "breakdown"]
  found = sensitivity.bounds(*rows, [float(g) for g in gammas])
  np.testing.assert_allclose(found, [known[g] for g in gammas], atol=1e-12)
  assert sensitivity.breakdown(lambda g: sensitivity.bounds(*rows, g)) == pytest.approx(
      known["breakdown"], abs=1e-7)


def test_no_vertex_is_beyond():
  """All 2^n weightings of each arm, ties among the outcomes included."""
  rng = np.random.default_rng(0)
  for _ in range(5):
    treatment = np.r_[np.ones(5), np.zeros(6)]
    outcome, e = rng.integers(0, 3, 11).astype(float), rng.uniform(0.1, 0.9, 11)
    pi, other, gamma = rng.random(11), rng.random(11), 1.7
    ends = {}
    for arm, p in ((1, e), (0, 1 - e)):
      rows = treatment == arm
      v, odds = ((pi - other) * outcome)[rows], 1 / p[rows] - 1
      means = [np.average(v, weights=1 + odds * np.array(power))
               for power in itertools.product((gamma, 1 / gamma), repeat=int(rows.sum()))]
      ends[arm] = min(means), max(means)
    np.testing.assert_allclose(
        sensitivity.bounds(pi, other, treatment, outcome, e, [gamma])[0],
        [ends[1][0] - ends[0][1], ends[1][1] - ends[0][0]], atol=1e-12)


def test_direction_and_growth(rows):
  pi, other, treatment, outcome, e = rows
  found = sensitivity.bounds(*rows, [1, 1.5, 3])
  negated = sensitivity.bounds(pi, other, treatment, -outcome, e, [1, 1.5, 3])
  np.testing.assert_allclose(negated, -found[:, ::-1], atol=1e-12)
  assert found[0, 0] == pytest.approx(found[0, 1])
  assert np.all(np.diff(found[:, 0]) < 0) and np.all(np.diff(found[:, 1]) > 0)


def test_the_breakdown_is_where_zero_enters():
  grow = lambda centre: lambda gammas: centre + np.log(gammas)[:, None] * [-1, 1]
  assert sensitivity.breakdown(grow(np.log(2))) == pytest.approx(2, abs=1e-7)
  assert sensitivity.breakdown(grow(-np.log(2))) == pytest.approx(2, abs=1e-7)
  assert sensitivity.breakdown(grow(0.0)) == 1.0
  assert sensitivity.breakdown(grow(10.0)) is None


def test_resamples_widen_and_equal_copies_of_rows(rows):
  """A resample's counts are copies of rows; intervals hold the bounds and shrink with patients."""
  pi, other, treatment, outcome, e = rows
  counts = np.array([[2, 0, 1, 1, 3, 1, 0, 1]])
  lower, upper = sensitivity._extremes(sensitivity._sums(*rows, counts), [1.5])
  copied = sensitivity.bounds(*(np.repeat(v, counts[0]) for v in rows), [1.5])[0]
  np.testing.assert_allclose([lower[0, 0], upper[0, 0]], copied, atol=1e-12)
  rng, widths = np.random.default_rng(0), []
  for n in (200, 3200):
    treatment = (rng.random(n) < 0.5) * 1.0
    outcome = rng.normal(size=n) - treatment
    found = sensitivity.study(np.ones(n), 0.0, treatment, outcome, np.full(n, 0.5), (1, 1.5),
                              np.arange(n), resamples=60)
    first, second = found["bounds"]
    assert first["lo"] < first["lower"] < first["hi"] < 0
    assert first["lower"] == pytest.approx(first["upper"])
    assert second["lo"] < second["lower"] < second["upper"] < second["hi"]
    assert 1 < found["breakdown_interval"] < found["breakdown"]
    widths.append(first["hi"] - first["lo"])
  assert widths[1] < widths[0] / 2.5
  json.dumps(found, allow_nan=False)


def test_what_cannot_be_is_refused(rows):
  pi, other, treatment, outcome, e = rows
  with pytest.raises(ValueError, match="at least 1, not 0.5"):
    sensitivity.bounds(*rows, [0.5])
  with pytest.raises(ValueError, match="8 of 8 propensities"):
    sensitivity.bounds(pi, other, treatment, outcome, e * 0, [1])
  with pytest.raises(ValueError, match="no row has treatment 1"):
    sensitivity.bounds(pi, other, treatment * 0, outcome, e, [1])
