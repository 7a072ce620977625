"""The simulated cohort is the world that the method page writes down, and its reference is the best
prediction."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, simulate


def _config(**overrides):
  c = config_lib.default()
  c.data.simulate.rows = 3000
  c.data.simulate.sizes = (16, 20, 12, 8)
  c.seed = overrides.pop("seed", 0)
  c.data.simulate.update(overrides)
  return c


def _draw(world, rng, n):
  """U, delta and P(y = 1), without x (mmnar or mcar)."""
  u = rng.standard_normal((n, world.policy.shape[1]), np.float32)
  observed = simulate.draw_observed(world, rng, u)
  return u, observed, simulate.probability(world, u, cohort_lib.pattern_id(observed))


def test_cohort_is_well_formed():
  cohort = simulate.build(_config(rows=500))
  assert len(cohort) == 500 and len(set(cohort.row_id)) == 500
  assert cohort.row_id.dtype == cohort.patient_id.dtype == np.int64
  for j, (name, x) in enumerate(cohort.inputs.items()):
    assert x.dtype == np.float32 and np.isfinite(x).all()
    assert not x[~cohort.observed[:, j]].any() and (x[cohort.observed[:, j]] != 0).all()
    assert len(cohort.features[name]) == x.shape[1]
  assert set(np.unique(cohort.labels)) == {0, 1} and cohort.labels.dtype == np.float32
  assert (cohort.references["bayes"].shape == cohort.labels.shape and
          cohort.references["bayes"].dtype == np.float32)
  assert set(cohort.groups) == {"sex", "age_band", "hospital"}
  possible = {str(p) for p in range(16) if p & 1}   # the structured data are always there
  assert ({task: set(cells) for task, cells in cohort.info["truth"]["gamma"].items()} ==
          dict.fromkeys(cohort.tasks, possible))


def test_same_seed_same_bits_other_seed_other_patients_same_world():
  a, b, c = (simulate.build(_config(rows=5000, seed=s)) for s in (0, 0, 1))
  for name in a.modalities:
    np.testing.assert_array_equal(a.inputs[name], b.inputs[name])
    assert (a.inputs[name] != c.inputs[name]).any()
  np.testing.assert_array_equal(a.labels, b.labels)
  np.testing.assert_array_equal(a.references["bayes"], b.references["bayes"])
  assert a.info["truth"] == c.info["truth"]
  assert a.info["truth"] != simulate.build(_config(rows=10, world=1)).info["truth"]


@pytest.mark.parametrize("mechanism", ["mmnar", "mar", "mcar"])
def test_rates_hold_and_mechanism_is_what_it_says(mechanism):
  c = _config(rows=20000, mechanism=mechanism, rho=2.0)
  cohort, world = simulate.build(c), simulate.make_world(c.data.simulate)
  np.testing.assert_allclose(cohort.observed.mean(axis=0), c.data.simulate.availability, atol=0.015)
  np.testing.assert_allclose(cohort.labels.mean(axis=0), c.data.simulate.prevalence, atol=0.025)
  shown = cohort.inputs["structured"] @ world.loadings[0][:, world.loadings[0].any(axis=0)]
  related = np.corrcoef(
      np.hstack([shown, cohort.observed[:, 1:]]).T)[:shown.shape[1], shown.shape[1]:]
  strongest = abs(related).max()
  assert (strongest < 0.03) == (mechanism == "mcar")


def test_mar_policy_has_unit_variance_and_ignores_everything_but_the_source():
  c = _config(rows=20000, mechanism="mar", rho=1.0)
  cohort, world = simulate.build(c), simulate.make_world(c.data.simulate)
  seen = cohort.inputs["structured"] @ world.loadings[0] / world.noise[0]**2 @ world.policy.T
  np.testing.assert_allclose(seen.std(axis=0), 1, atol=0.03)
  expected = 1 / (1 + np.exp(-(seen + world.intercept)))
  for m in (1, 2, 3):   # within deciles of what was seen, delta follows the policy
    for rows in np.array_split(np.argsort(seen[:, m]), 10):
      assert abs(cohort.observed[rows, m].mean() - expected[rows, m].mean()) < 0.04


@pytest.mark.parametrize("mechanism,rho", [("mmnar", 2.0), ("mar", 2.0), ("mcar", 1.0)])
def test_bayes_equals_simulation_of_the_posterior(mechanism, rho):
  """Oracle: many draws of U from the prior, weighted by the density of all that was observed of one
  patient."""
  c = _config(rows=200, sizes=(2, 2, 2, 2), mechanism=mechanism, rho=rho, effect=0.15, draws=4096)
  cohort, world = simulate.build(c), simulate.make_world(c.data.simulate)
  u = np.random.default_rng(5).standard_normal((400_000, 8)).astype(np.float32)
  for i in range(6):
    log = np.zeros(len(u))
    for m, name in enumerate(cohort.modalities):
      if cohort.observed[i, m]:
        log -= (((cohort.inputs[name][i] - u @ world.loadings[m].T)**2).sum(axis=1) /
                (2 * world.noise[m]**2))
      if mechanism == "mmnar":
        p = 1 / (1 + np.exp(-(u @ world.policy[m] + world.intercept[m])))
        log += np.log(p if cohort.observed[i, m] else 1 - p)
    w = np.exp(log - log.max())
    expected = w @ simulate.probability(world, u, np.repeat(cohort.pattern[i], len(u))) / w.sum()
    np.testing.assert_allclose(cohort.references["bayes"][i], expected, atol=0.01)


def test_bayes_is_calibrated_and_beats_logistic_regression():
  from sklearn.linear_model import LogisticRegression
  from sklearn.metrics import roc_auc_score
  cohort = simulate.build(_config(rows=20000))
  bayes, y = cohort.references["bayes"], cohort.labels
  x = np.hstack([*cohort.inputs.values(), cohort.observed])
  for t in range(3):
    for rows in np.array_split(np.argsort(bayes[:, t]), 10):
      assert abs(bayes[rows, t].mean() - y[rows, t].mean()) < 4 * np.sqrt(0.25 / len(rows))
    fitted = LogisticRegression(max_iter=300).fit(
        x[:14000], y[:14000, t]).predict_proba(x[14000:])[:, 1]
    assert (roc_auc_score(y[14000:, t], bayes[14000:, t]) >
            roc_auc_score(y[14000:, t], fitted) + 0.005)


def test_pattern_acts_on_the_outcome_by_gamma():
  world = simulate.make_world(_config(effect=0.1).data.simulate)
  u, observed, p = _draw(world, np.random.default_rng(0), 4000)
  risk = simulate.risk(world, u)
  inside = (p > 0.0101) & (p < 0.9899)
  np.testing.assert_allclose((p - risk)[inside],
                             world.gamma.T[cohort_lib.pattern_id(observed)][inside], atol=1e-6)
  assert (p >= 0.01).all() and (p <= 0.99).all()


def test_always_and_never_available():
  cohort = simulate.build(_config(rows=300, availability=(1.0, 0.0, 1.0, 0.5)))
  assert cohort.observed[:, [0, 2]].all() and not cohort.observed[:, 1].any()
  assert set(cohort.info["truth"]["gamma"]["icu"]) == {"5", "13"}
  assert np.isfinite(cohort.references["bayes"]).all()


@pytest.mark.parametrize("override,message", [
    (dict(noise=(1.0,)), "noise has 1 entries, 4"), (dict(mechanism="nmar"), "mmnar"),
    (dict(draws=500), "power of two"),
    (dict(rows=0), "rows"), (dict(prevalence=(0.2, 1.0, 0.1)), "prevalence"),
    (dict(mechanism="mar", availability=(0.9, 0.2, 0.7, 0.8)), "availability 1"),
    (dict(availability=(1.2, 0.2, 0.7, 0.8)), "availability")])
def test_refuses_what_cannot_work(override, message):
  with pytest.raises(cohort_lib.CohortError, match=message):
    simulate.build(_config(**override))


def test_the_number_of_threads_changes_no_bit():
  from threadpoolctl import threadpool_limits
  prints = []
  for threads in (1, 2):
    with threadpool_limits(threads):
      prints.append(cohort_lib.fingerprint(simulate.build(_config(sizes=(64, 1376, 300, 300)))))
  assert prints[0] == prints[1]
