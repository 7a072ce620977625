"""Doubly robust scores: of the nuisances one pseudo-outcome whose mean given V is the effect.

With e the probability of treatment and mu_t the mean outcome of arm t, both given X,

    Gamma_1 = mu_1 + T (Y - mu_1) / e,   Gamma_0 = mu_0 + (1 - T) (Y - mu_0) / (1 - e),
    Delta = Gamma_1 - Gamma_0,

where e and 1 - e are clipped from below (Robins, Rotnitzky and Zhao 1994). E[Delta | V] is the
effect given V, any function of X, if e or mu is right.
"""

import typing

import numpy as np


class Scores(typing.NamedTuple):
  """(N,) each: Gamma_0, Gamma_1, Delta, and whether e or 1 - e was clipped."""
  gamma0: np.ndarray
  gamma1: np.ndarray
  delta: np.ndarray
  clipped: np.ndarray


def scores(treatment, outcome, e, mu0, mu1, clip):
  """The Scores of rows.

  Args:
    treatment, outcome: (N,) T in {0, 1} and Y.
    e, mu0, mu1: (N,) nuisances, cross-fitted.
    clip: the least that e and 1 - e may be.
  Raises:
    ValueError: probabilities outside [0, 1], or nuisances that are not finite, with their number.
  """
  t, y, e, mu0, mu1 = (np.asarray(v, np.float64) for v in (treatment, outcome, e, mu0, mu1))
  if odd := int((~((e >= 0) & (e <= 1))).sum()):
    raise ValueError(f"{odd} of {len(e)} predicted probabilities of treatment are outside 0..1: "
                     "look for logits passed as probabilities.")
  if odd := int((~np.isfinite(mu0 + mu1)).sum()):
    raise ValueError(f"{odd} of {len(mu0)} predicted outcomes are not finite.")
  gamma1 = mu1 + t * (y - mu1) / np.clip(e, clip, 1 - clip)
  gamma0 = mu0 + (1 - t) * (y - mu0) / np.clip(1 - e, clip, 1 - clip)
  return Scores(gamma0, gamma1, gamma1 - gamma0, (e < clip) | (1 - e < clip))


def median(repeats):
  """The Scores whose rows are medians over `repeats`, those of other splits of the same rows."""
  gamma0, gamma1, delta, clipped = (np.median([getattr(s, name) for s in repeats], 0)
                                    for name in Scores._fields)
  return Scores(gamma0, gamma1, delta, clipped > 0)


def mean(values, patient, weight=None):
  """{"value", "se"} of the weighted mean of `values` (N,), rows of a patient as one cluster.

  The standard error is that of a ratio of sums over patients; with one row each and no weights it
  is sd / sqrt(n).
  """
  values = np.asarray(values, np.float64)
  weight = np.ones(len(values)) if weight is None else np.asarray(weight, np.float64)
  value = np.sum(weight * values) / np.sum(weight)
  _, who = np.unique(patient, return_inverse=True)
  sums = np.bincount(who, weight * (values - value))
  clusters = len(sums)
  se = np.sqrt(np.sum(sums**2) * clusters / max(clusters - 1, 1)) / np.sum(weight)
  return {"value": float(value), "se": float(se)}
