"""Confounding and missingness at once, on the project's own simulated world (data/simulate.py).

Latent health U moves what is recorded, who is treated and the outcome; the pattern of what was
recorded moves treatment and outcome too:

    e = clip(sigmoid(1.2 U.d_e + eta[p]), .05, .95),   mu_0 = U.d_0 + .6 eta[p],
    tau = -.5 + .8 U.d_tau + xi[p],                    Y = mu_0 + T tau + N(0, 1),

p the pattern id. Annotators know U; lower outcomes are better. The effect given what inference
sees, tau_phi = E[tau | x_observed, delta], is known too.
"""

import typing

import numpy as np

from crl_jax.data import cohort as cohort_lib, simulate
from crl_jax.policy.data import PolicyCohort

SLOPE, CONFOUNDING, MEAN, SPREAD, REACH = 1.2, 0.6, -0.5, 0.8, 1.5
_EDGE = 0.05   # the least that e and 1 - e are


class Causes(typing.NamedTuple):
  """Directions of U (k,) that move the outcome, the effect and the treatment; eta and xi (2^M,) of
  the patterns."""
  outcome: np.ndarray
  effect: np.ndarray
  treatment: np.ndarray
  eta: np.ndarray
  xi: np.ndarray


def causes(c, xi=0.0):
  """The Causes of the world of `c` (config.data.simulate); xi is the standard deviation of what the
  patterns add to the effect."""
  rng = np.random.default_rng([3, c.world])
  unit = lambda v: v / np.linalg.norm(v)
  draw = lambda: unit(rng.standard_normal(c.latent))
  outcome = draw()
  other = rng.standard_normal(c.latent)
  other = unit(other - (other @ outcome) * outcome)
  effect = -0.3 * outcome + np.sqrt(0.91) * other
  treatment = unit(0.7 * outcome + 0.7 * draw())
  patterns = 2 ** len(c.sizes)
  eta = rng.uniform(-REACH, REACH, patterns)
  return Causes(outcome, effect, treatment, eta, xi * rng.standard_normal(patterns))


def make(config, xi=0.0):
  """The PolicyCohort of `config` (the whole tree; data.simulate and seed are read). Another `xi`
  keeps patients and treatments."""
  c = config.data.simulate
  world, causal = simulate.make_world(c), causes(c, xi)
  if world.others:
    raise cohort_lib.CohortError("policy.cohort 'mmnar' has vectors alone: leave "
                                 "config.data.simulate.kinds empty.")
  n, modalities = int(c.rows), tuple(c.modalities)
  inputs = [np.empty((n, a.shape[0]), np.float32) for a in world.loadings]
  u_Nxk = np.empty((n, c.latent), np.float32)
  statistic_MxNxk = np.empty((len(modalities), n, c.latent), np.float32)
  observed_NxM = np.empty((n, len(modalities)), bool)
  for rows, u, statistic, observed in simulate.draw_rows(
      world, np.random.default_rng([1, config.seed]), inputs):
    u_Nxk[rows], statistic_MxNxk[:, rows], observed_NxM[rows] = u, statistic, observed
  pattern = cohort_lib.pattern_id(observed_NxM)
  e = np.clip(simulate.sigmoid(SLOPE * u_Nxk @ causal.treatment + causal.eta[pattern]), _EDGE,
              1 - _EDGE)
  mu0 = u_Nxk @ causal.outcome + CONFOUNDING * causal.eta[pattern]
  tau = MEAN + SPREAD * u_Nxk @ causal.effect + causal.xi[pattern]
  rng = np.random.default_rng([4, config.seed])
  treatment = rng.random(n) < e
  outcome = mu0 + treatment * tau + rng.standard_normal(n)
  mean, variance = effect_given_phi(world, causal, statistic_MxNxk, observed_NxM, c.draws)
  ids = np.arange(n, dtype=np.int64)
  cohort = cohort_lib.Cohort(
      modalities=modalities, tasks=("outcome",), inputs=dict(zip(modalities, inputs)),
      observed=observed_NxM, labels=np.full((n, 1), np.nan, np.float32), row_id=ids,
      patient_id=ids.copy(), groups={},
      features={m: [f"{m}_{j}" for j in range(x.shape[1])] for m, x in zip(modalities, inputs)},
      info={"banner": "SIMULATED PATIENTS: nothing here is about real ones."})
  return PolicyCohort(
      cohort, treatment.astype(np.float32), outcome.astype(np.float32), u_Nxk, np.ones(n, bool),
      tuple(f"health_{j}" for j in range(c.latent)),
      truth={"mu0": mu0, "mu1": mu0 + tau, "e": e, "tau_phi": mean, "tau_phi_var": variance},
      info={"time_zero": "simulated: all that is recorded comes before the treatment",
            "treatment": "a simulated treatment", "outcome": "a simulated severity afterwards"})


def effect_given_phi(world, causal, statistic_MxNxk, observed_NxM, draws):
  """Mean and variance (N,) of tau given x_observed and delta; arguments: simulate.posterior()."""
  mean, variance = np.empty((2, len(observed_NxM)))
  for rows, p, v_VxNxD, weight_NxD in simulate.posterior(
      world, causal.effect[None], statistic_MxNxk, observed_NxM, draws):
    tau, weight = MEAN + SPREAD * v_VxNxD[0].astype(float) + causal.xi[p], weight_NxD.astype(float)
    weight /= weight.sum(1, keepdims=True)
    mean[rows] = np.sum(weight * tau, 1)
    variance[rows] = np.sum(weight * (tau - mean[rows][:, None])**2, 1)
  return mean, variance
