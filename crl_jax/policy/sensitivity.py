"""How strong an unmeasured confounder would have to be to undo the difference of two policies.

The marginal sensitivity model (Tan 2006, doi 10.1198/016214506000000023): the odds of treatment
given X and what was not measured are within a factor Gamma of those given X. A row of the arm t,
with p = P(T = t | X), then has a weight within

    [1 + (1/p - 1) / Gamma, 1 + (1/p - 1) Gamma]

and the arm's part of V(a) - V(b) is a weighted mean of (pi_a - pi_b) Y. Its smallest value gives
high weights to all rows below a cut and low ones above; its largest the other way round (Zhao,
Small and Bhattacharya 2019, doi 10.1111/rssb.12327). lower = smallest of the treated - largest of
the untreated, upper = largest - smallest.
"""

import numpy as np

from crl_jax.statistics import bootstrap

LARGEST = 1000.0   # Gamma past which nobody asks


def bounds(pi, other, treatment, outcome, e, gammas):
  """(G, 2) lower and upper bounds of V(pi) - V(other), in units of the outcome.

  Args:
    pi, other: (N,) policies; other may be a number. treatment, outcome: (N,). e: (N,) in (0, 1).
    gammas: G numbers of at least 1.
  Raises:
    ValueError: a Gamma below 1, an e that is 0 or 1 (clip it first), an arm without rows.
  """
  arms = _sums(pi, other, treatment, outcome, e, np.ones((1, len(treatment))))
  return np.stack(_extremes(arms, gammas), -1)[0]


def study(pi, other, treatment, outcome, e, gammas, patient, resamples=200, seed=0):
  """{"bounds": [{"gamma", "lower", "upper", "lo", "hi"}], "breakdown": of the bounds,
  "breakdown_interval": of lo and hi}: see `bounds` and `breakdown`. lo and hi, the 2.5% and 97.5%
  quantiles of the bounds over resamples of the patients, hold the difference with 95% probability
  under the model (Zhao et al., theorem 1); null where an arm is empty in every resample."""
  _, who = np.unique(patient, return_inverse=True)
  counts_RxP = bootstrap.resample(who.max() + 1, resamples, seed)
  arms = _sums(pi, other, treatment, outcome, e, counts_RxP[:, who])
  def interval(gammas):
    lower, upper = _extremes(arms, gammas)
    return np.stack([np.nanquantile(lower, 0.025, axis=0),
                     np.nanquantile(upper, 0.975, axis=0)], -1)
  plain = lambda gammas: bounds(pi, other, treatment, outcome, e, gammas)
  ends = [[None if np.isnan(v) else float(v) for v in pair] for pair in interval(gammas)]
  return {"bounds": [{"gamma": float(g), "lower": float(low), "upper": float(high), "lo": lo,
                      "hi": hi} for g, (low, high), (lo, hi) in zip(gammas, plain(gammas), ends)],
          "breakdown": breakdown(plain), "breakdown_interval": breakdown(interval, 1e-3)}


def breakdown(interval, tolerance=1e-9):
  """The smallest Gamma at which the interval holds 0: how much confounding would explain the
  difference away. 1 where it holds 0 without any; null where it holds it at no Gamma up to 1000.

  Args:
    interval: gammas -> (G, 2), wider with Gamma, such as `bounds`.
    tolerance: of the logarithm of Gamma.
  """
  def holds(gamma):
    low, high = interval([gamma])[0]
    return not (low > 0 or high < 0)
  if holds(1.0):
    return 1.0
  if not holds(LARGEST):
    return None
  low, high = 0.0, np.log(LARGEST)
  while high - low > tolerance:
    middle = (low + high) / 2
    low, high = (low, middle) if holds(np.exp(middle)) else (middle, high)
  return float(np.exp(high))


def _extremes(arms, gammas):
  """Lower and upper bounds, (R, G) each, of `_sums`."""
  if min(gammas) < 1:
    raise ValueError(f"Gamma is a ratio of odds of at least 1, not {min(gammas)}.")
  (least1, most1), (least0, most0) = (
      np.transpose([_means(sums, gamma) for gamma in gammas], (1, 2, 0)) for sums in arms)
  return least1 - most0, most1 - least0


def _means(sums_4xRxK, gamma):
  """(2, R) smallest and largest weighted mean of an arm, over all cuts."""
  count, odds, values, odds_values = sums_4xRxK
  high, low = count + gamma * odds, count + odds / gamma   # sums of weights up to a cut
  high_v, low_v = values + gamma * odds_values, values + odds_values / gamma
  def mean(up_to_v, behind_v, up_to, behind):
    mass = up_to + behind[:, -1:] - behind
    return np.divide(up_to_v + behind_v[:, -1:] - behind_v, mass,
                     out=np.full(mass.shape, np.nan), where=mass > 0)
  return mean(high_v, low_v, high, low).min(1), mean(low_v, high_v, low, high).max(1)


def _sums(pi, other, treatment, outcome, e, weight_RxN):
  """Of the treated and of the untreated rows, by ascending v = (pi - other) Y: (4, R, n + 1) sums
  of 1, of the odds 1/p - 1, of v and of their product up to every cut. Rows count `weight_RxN`
  times."""
  e, treatment = np.asarray(e, np.float64), np.asarray(treatment)
  if bad := int((~((e > 0) & (e < 1))).sum()):
    raise ValueError(f"{bad} of {len(e)} propensities are not within (0, 1): clip them first.")
  changed, found = np.broadcast_to((np.asarray(pi) - other) * outcome, e.shape), []
  for arm, p in ((1, e), (0, 1 - e)):
    rows = np.flatnonzero(treatment == arm)
    if not len(rows):
      raise ValueError(f"no row has treatment {arm}.")
    rows = rows[np.argsort(changed[rows], kind="stable")]
    v, odds = changed[rows], 1 / p[rows] - 1
    found.append(np.stack([np.pad(np.cumsum(weight_RxN[:, rows] * w, axis=1), ((0, 0), (1, 0)))
                           for w in (np.ones(len(rows)), odds, v, odds * v)]))
  return found
