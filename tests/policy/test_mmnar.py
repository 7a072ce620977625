"""Confounding and missingness at once: the world is as written, and its effects are known."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, simulate
from crl_jax.policy import annotations, data, mmnar, nuisance, pseudo


def config(rows, **changes):
  c = config_lib.default()
  c.data.simulate.rows, c.data.simulate.sizes, c.data.simulate.draws = rows, (16, 20, 12, 8), 64
  c.data.simulate.update(changes)
  return c


@pytest.fixture(scope="module")
def cohort():
  return data.validate(mmnar.make(config(8000)))


def test_the_directions_and_the_effects_are_as_written(cohort):
  causal = mmnar.causes(config(1).data.simulate)
  for v in causal[:3]:
    assert np.linalg.norm(v) == pytest.approx(1)
  assert causal.effect @ causal.outcome == pytest.approx(-0.3)
  assert (np.abs(causal.eta) <= 1.5).all() and not causal.xi.any()
  tau, u = cohort.effect, cohort.annotations
  np.testing.assert_allclose(tau, -0.5 + 0.8 * u @ causal.effect, atol=1e-5)
  np.testing.assert_allclose(cohort.truth["mu0"], u @ causal.outcome
                             + 0.6 * causal.eta[cohort.cohort.pattern], atol=1e-5)
  assert 0.05 <= cohort.truth["e"].min() and cohort.truth["e"].max() <= 0.95
  assert abs(cohort.treatment.mean() - cohort.truth["e"].mean()) < 4 * 0.5 / np.sqrt(8000)
  noise = cohort.outcome - cohort.truth["mu0"] - cohort.treatment * tau
  assert abs(noise.mean()) < 4 / np.sqrt(8000) and abs(noise.std() - 1) < 0.04


def test_its_patients_are_those_of_the_simulated_cohort():
  c = config(300)
  mine, theirs = mmnar.make(c).cohort, simulate.build(c)
  # outcomes are drawn between the blocks of rows, so the first block is the same
  np.testing.assert_array_equal(mine.observed, theirs.observed)
  for name in mine.modalities:
    np.testing.assert_array_equal(mine.inputs[name], theirs.inputs[name])
  again = mmnar.make(c, xi=1.0)
  np.testing.assert_array_equal(again.treatment, mmnar.make(c).treatment)
  assert (again.effect != mmnar.make(c).effect).any()


def test_the_effect_given_phi_is_its_mean_under_the_posterior():
  """By drawing U and weighing with the density of x and the probability of delta, in 3 patterns."""
  c = config(60, latent=2, sizes=(2, 2, 2, 2), visible=(2, 1, 1, 2), noise=(1.5, 1.5, 1.5, 1.5),
             draws=2048)
  p = mmnar.make(c)
  world, causal = simulate.make_world(c.data.simulate), mmnar.causes(c.data.simulate)
  u = np.random.default_rng(0).standard_normal((100000, 2))
  chance = 1 / (1 + np.exp(-(u @ world.policy.T + world.intercept)))
  tau = -0.5 + 0.8 * u @ causal.effect
  patterns, rows = np.unique(p.cohort.pattern, return_index=True)
  assert len(rows) >= 3
  for row in rows[:3]:
    delta = p.cohort.observed[row]
    weight = np.where(delta, chance, 1 - chance).prod(1)
    for m in np.flatnonzero(delta):
      x = p.cohort.inputs[p.cohort.modalities[m]][row]
      off = (x - u @ world.loadings[m].T) / world.noise[m]
      weight *= np.exp(-0.5 * (off**2).sum(1))
    weight /= weight.sum()
    mean = weight @ tau
    se = np.sqrt(np.sum((weight * (tau - mean))**2))
    assert abs(p.truth["tau_phi"][row] - mean) < 4 * se + 1e-3
    assert p.truth["tau_phi_var"][row] == pytest.approx(weight @ (tau - mean)**2, rel=0.1)


def test_the_pattern_is_a_confounder_that_nuisances_must_see(cohort):
  patterns = annotations.fit_patterns(cohort.cohort.pattern)
  x = cohort.annotations.astype(float)
  both = np.concatenate([x, annotations.pattern_columns(patterns, cohort.cohort.pattern)], 1)
  c = config_lib.default().policy.copy_and_resolve_references().unlock()
  c.nuisances = "linear"
  folds = data.folds(cohort, np.arange(len(cohort)), 5, 0)
  found = {}
  for name, inputs in (("x", x), ("x+pattern", both)):
    fitted = nuisance.fit(inputs, cohort.treatment, cohort.outcome, folds, False, c, 0)
    delta = pseudo.scores(cohort.treatment, cohort.outcome, *fitted, 0.01).delta
    found[name] = pseudo.mean(delta, cohort.cohort.patient_id)["value"] - cohort.effect.mean()
  assert abs(found["x+pattern"]) <= 0.08 and found["x"] >= 0.15


def test_patterns_have_ids_as_everywhere(cohort):
  np.testing.assert_array_equal(cohort.cohort.pattern,
                                cohort_lib.pattern_id(cohort.cohort.observed))
