"""Real inputs with a simulated treatment and outcome: what a risk ranking does where the sickest
gain most, and where they do not, on patterns and inputs that nobody simulated.

Chosen features of a cohort are the confounders X. With z(.) standardising over rows, M0, r1 and r2
random functions of X of mean 0 and variance 1 (main effects, products of two, hinges),

    logit e = (alpha + .7 z(M0) + sqrt(1 - .49) z(r1)) / overlap, clipped so that .05 <= e <= .95,
    tau = -1 + .8 (-align z(M0) + sqrt(1 - align^2) z(r2)),    Y = M0 + T tau + N(0, 1),

where r2 is made orthogonal to M0: the correlation of M0 and tau is -align exactly. Lower outcomes
are better: at align 1 the sickest gain most, and risk ranks rightly; at 0 and -1 it misleads.
"""

import dataclasses

import numpy as np

from crl_jax.data import simulate
from crl_jax.data.cohort import CohortError
from crl_jax.policy.data import PolicyCohort

KAPPA, MEAN, SPREAD = 0.7, -1.0, 0.8
_EDGE = 0.05   # the least that e and 1 - e are


def make(cohort, features, align, overlap, share, seed):
  """The PolicyCohort of the rows of `cohort`, one each.

  Args:
    cohort: data.cohort.Cohort.
    features: pairs (modality, feature) of kind "vector", the confounders; where one is missing its
      annotation is NaN and the simulation takes its mean: nothing hangs on unrecorded values.
    align: in [-1, 1], minus the correlation of M0 and the effect.
    overlap: > 0; the smaller, the more certain who is treated.
    share: mean of e, in (0, 1).
    seed: int.
  Raises:
    CohortError: settings or features that cannot be, several rows of a patient.
  """
  if not -1 <= align <= 1 or overlap <= 0 or not 0 < share < 1:
    raise CohortError(f"semi-synthetic data need align in [-1, 1] ({align}), overlap above 0 "
                      f"({overlap}) and share in (0, 1) ({share}).")
  if len(np.unique(cohort.patient_id)) < len(cohort):
    raise CohortError("semi-synthetic data need one row a patient: choose rows first.")
  x = _columns(cohort, features)
  recorded = np.where(np.isnan(x), np.nanmean(x, 0), x)
  spread = recorded.std(0)
  if not len(features) or (spread < 1e-9).any():
    raise CohortError(f"features: {int((spread < 1e-9).sum())} of {len(features)} are constant; "
                      "name some that vary.")
  z, rng = (recorded - recorded.mean(0)) / spread, np.random.default_rng([9, seed])
  m0, r1, r2 = (_function(z, rng) for _ in range(3))
  r2 = _standard(r2 - (r2 @ m0) / (m0 @ m0) * m0)
  score = KAPPA * m0 + np.sqrt(1 - KAPPA**2) * r1
  chance = lambda alpha: np.clip(simulate.sigmoid((alpha + score) / overlap), _EDGE, 1 - _EDGE)
  alpha = simulate.bisect(lambda a: np.array([chance(a[0]).mean()]), np.array([share]))[0]
  e = chance(alpha)
  tau = MEAN + SPREAD * (-align * m0 + np.sqrt(1 - align**2) * r2)
  treatment = rng.random(len(m0)) < e
  outcome = m0 + treatment * tau + rng.standard_normal(len(m0))
  info = {**cohort.info, "banner": "SIMULATED TREATMENTS AND OUTCOMES on real inputs: nothing here "
                                   "is about a real treatment."}
  return PolicyCohort(
      dataclasses.replace(cohort, tasks=("outcome",), references={}, info=info,
                          labels=np.full((len(cohort), 1), np.nan, np.float32)),
      treatment.astype(np.float32), outcome.astype(np.float32), x.astype(np.float32),
      ~np.isnan(x).all(1), tuple(f"{m}.{feature}" for m, feature in features),
      tuple(tuple(pair) for pair in features), truth={"mu0": m0, "mu1": m0 + tau, "e": e},
      info={"time_zero": "simulated: the row's time", "treatment": "a simulated treatment",
            "outcome": "a simulated severity afterwards"})


def _columns(cohort, features):
  """(N, Q) float64 values, NaN where missing or where the modality is."""
  found = []
  for modality, feature in features:
    if modality not in cohort.modalities or cohort.kind(modality) != "vector" or (
        feature not in cohort.features[modality]):
      raise CohortError(f"features names ('{modality}', '{feature}'): it must be a feature of a "
                        "modality of kind 'vector'.")
    x = cohort.inputs[modality][:, list(cohort.features[modality]).index(feature)]
    present = cohort.observed[:, cohort.modalities.index(modality)]
    found.append(np.where(present, x, np.nan).astype(np.float64))
    if np.isnan(found[-1]).all():
      raise CohortError(f"features: '{feature}' of '{modality}' is missing in all rows.")
  return np.stack(found, 1) if found else np.zeros((len(cohort), 0))


def _function(z, rng):
  """(N,) a random function of the standardised columns z (N, Q), of mean 0 and variance 1."""
  pairs = np.stack([z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i)]
                   or [0 * z[:, 0]], 1)
  parts = [part @ rng.standard_normal(part.shape[1]) / np.sqrt(part.shape[1])
           for part in (z, pairs, np.maximum(z, 0))]
  return _standard(parts[0] + 0.5 * parts[1] + 0.5 * parts[2])


def _standard(x):
  return (x - x.mean()) / x.std()
