"""Scores by hand, and that either nuisance may be wrong."""

import json
import pathlib

import numpy as np
import pytest

from crl_jax.policy import pseudo

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data/policy_golden.json").read_text())["dr"]


def of_golden(clip):
  return pseudo.scores(*(GOLDEN[name] for name in ("T", "Y", "e", "mu0", "mu1")), clip)


def test_scores_by_hand():
  s = of_golden(0.01)
  np.testing.assert_allclose(s.delta, GOLDEN["delta_eps_0.01"], rtol=1e-12)
  np.testing.assert_allclose(s.gamma0, GOLDEN["gamma0_eps_0.01"], rtol=1e-12)
  np.testing.assert_allclose(s.gamma1, GOLDEN["gamma1_eps_0.01"], rtol=1e-12)
  np.testing.assert_allclose(of_golden(0.001).delta, GOLDEN["delta_eps_0.001"], rtol=1e-12)
  assert s.clipped.tolist() == [False, False, False, True, False]
  ate = pseudo.mean(s.delta, np.arange(5))
  assert ate["value"] == pytest.approx(GOLDEN["ate_eps_0.01"], rel=1e-12)
  assert ate["se"] == pytest.approx(GOLDEN["se_eps_0.01"], rel=1e-12)


def test_rows_of_a_patient_are_one_cluster_and_a_weight_is_a_share():
  values = np.array([1.0, 5.0, 2.0, 8.0])
  twice = pseudo.mean(np.repeat(values, 2), np.repeat(np.arange(4), 2))
  once = pseudo.mean(values, np.arange(4))
  assert twice == pytest.approx(once) and once["se"] == pytest.approx(values.std(ddof=1) / 2)
  assert pseudo.mean(np.append(values, 99), np.arange(5), [1, 1, 1, 1, 0])["value"] == 4


def test_the_median_of_splits_is_taken_row_by_row():
  s = of_golden(0.01)
  moved = pseudo.Scores(*(x + 100 for x in s[:3]), s.clipped)
  np.testing.assert_array_equal(pseudo.median([s, moved, s]).delta, s.delta)


@pytest.mark.parametrize("change, words", [
    ({"e": [0.2, 0.5, 1.2, 0.1, np.nan]}, "2 of 5 predicted probabilities"),
    ({"mu1": [0, 0, np.inf, 0, 0]}, "1 of 5 predicted outcomes")])
def test_nuisances_that_cannot_be_are_refused(change, words):
  with pytest.raises(ValueError, match=words):
    pseudo.scores(*((GOLDEN | change)[name] for name in ("T", "Y", "e", "mu0", "mu1")), 0.01)


def test_either_nuisance_may_be_wrong_and_the_product_of_errors_is_the_bias():
  """Linear and Gaussian, true effect -.5: the scores are right where e or mu is."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal(40000)
  e = 1 / (1 + np.exp(-x))
  t = (rng.random(len(x)) < e).astype(float)
  y = x - 0.5 * t + rng.standard_normal(len(x))
  right, flat = (e, x, x - 0.5), (np.full(len(x), t.mean()), 0 * x, 0 * x)
  found = {name: pseudo.mean(pseudo.scores(t, y, *nuisances, 0.01).delta, np.arange(len(x)))
           for name, nuisances in {"both": right, "mu": (flat[0], *right[1:]),
                                   "e": (right[0], *flat[1:]), "none": flat}.items()}
  for name in ("both", "mu", "e"):
    assert abs(found[name]["value"] + 0.5) < 3 * found[name]["se"] < 0.15
  assert found["none"]["value"] > -0.5 + 0.3
