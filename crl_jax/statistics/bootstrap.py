"""Intervals and tests from resamples of the patients: one draw serves every statistic, so that
differences are paired. Of MANY patients and more, intervals and tests are those of the normal limit
(`Limit`), whose variances are sums of squared influences (influence.py), in one pass over the rows;
`experiments.coverage --patients=12000` asks how often those hold the truth.
"""

import dataclasses
import math

import numpy as np

# The switch. Of so many patients and more the normal limit is used, on rows where so many of either
# outcome are left; a ranking of fewer positives is not normal yet, so it is resampled.
MANY, RARER = 10_000, 100
# in the words of a report
RULE = (f"of {MANY:,} patients or more, on rows with {RARER} or more of either outcome, by the "
        "normal limit of the patients' influences")
_FEWEST = 40   # resamples: of fewer no 95% interval says more than that it holds everything
_CELLS = 2 * 10**8   # of one table of resamples (400 MB): beyond, there are fewer of them
_Z = 1.959963984540054


def resample(patients, resamples, seed):
  """Returns how often each patient is drawn, (resamples, patients) int16: rows sum to
  `patients`."""
  rng = np.random.default_rng([seed, 0xB007])
  counts_RxP = np.empty((resamples, patients), np.int16)
  for count_P in counts_RxP:
    count_P[:] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
  return counts_RxP


def sampling(patients, resamples, seed):
  """What intervals are made from: `resample`'s counts, or the `Limit` of MANY patients."""
  if patients < MANY:
    return resample(patients, resamples, seed)
  return Limit(patients, resamples, seed)


@dataclasses.dataclass(frozen=True)
class Limit:
  """In the place of resamples: the statistics of many patients have a normal limit. `resamples` are
  the draws from it that are made where no formula serves."""
  patients: int
  resamples: int
  seed: int

  def holds(self, y_N, patient_N):
    """Whether the rows have RARER patients or more of either outcome."""
    return all(len(np.unique(patient_N[y_N == value])) >= RARER for value in (0, 1))

  def few(self, patient_N):
    """(counts_RxP, index (N,)): resamples of these rows' own patients, for rows on which the limit
    does not hold; the same ones for the same rows."""
    own, index = np.unique(patient_N, return_inverse=True)
    if not len(own):
      return np.zeros((self.resamples, 0), np.int16), index
    most = max(200, _CELLS // len(own))
    return resample(len(own), min(self.resamples, most), self.seed), index

  def draws(self, value_K, covariance_KxK, stream=0):
    """(R, K) from the limit; NaN where the value is. Draws of two streams are independent."""
    known = ~np.isnan(value_K)
    found = np.full((self.resamples, len(value_K)), np.nan)
    rng = np.random.default_rng([self.seed, 0x1F1, stream])
    found[:, known] = value_K[known] + normals(
        rng, self.resamples, covariance_KxK[np.ix_(known, known)])
    return found


def normals(rng, count, covariance_KxK):
  """(count, K) normal draws around 0."""
  values, vectors = np.linalg.eigh(covariance_KxK)
  noise = rng.normal(size=(count, len(values)))
  return noise @ (np.sqrt(np.maximum(values, 0)) * vectors).T


def covariance(blocks, patients, chunk=50_000):
  """(K, K) of statistics whose influences are given by blocks [(patient (n,), influence (n, k))] of
  rows, K the sum of the k: sums over patients, a chunk of them at a time."""
  blocks = [(patient[order := np.argsort(patient, kind="stable")], psi[order])
            for patient, psi in blocks]
  total = 0.0
  for start in range(0, patients, chunk):
    size, parts = min(chunk, patients - start), []
    for patient, psi in blocks:
      rows = slice(*np.searchsorted(patient, (start, start + size)))
      parts.append(by_patient(patient[rows] - start, psi[rows], size))
    psi_PxK = np.concatenate(parts, 1)
    total = total + psi_PxK.T @ psi_PxK
  return total


def normal(value, se, floor=None, share=False):
  """The 95% interval {"value", "lo", "hi"} of a statistic with the standard error `se`; of a
  `share`, which lies between 0 and 1, that of its logit."""
  value, se = float(value), float(se)   # influences are float32
  if share and 0 < value < 1:
    odds, half = math.log(value / (1 - value)), _Z * se / (value * (1 - value))
    lo, hi = (1 / (1 + math.exp(-v)) for v in (odds - half, odds + half))
  else:
    lo, hi = value - _Z * se, value + _Z * se
  return {"value": value, "lo": lo if floor is None else max(lo, floor), "hi": hi}


def normal_difference(value, se):
  """{"value", "lo", "hi", "p"} of a paired difference by its standard error, as `difference`."""
  if se < 1e-12:
    p = 1.0 if abs(value) < 1e-12 else 0.0
  else:
    p = math.erfc(abs(value) / se / math.sqrt(2))
  return {**normal(value, se), "p": float(p)}


def totals(counts_RxP, patient_N, values_NxK):
  """Sums of the columns of `values_NxK` in every resample, (R, K): of statistics that are ratios of
  sums, a thousand resamples are one matrix product, over the patients that have rows."""
  sums_PxK = by_patient(patient_N, values_NxK, counts_RxP.shape[1])
  seen = np.flatnonzero(np.bincount(patient_N, minlength=len(sums_PxK)))
  if few := 2 * len(seen) < len(sums_PxK):
    sums_PxK = sums_PxK[seen]
  parts = np.array_split(counts_RxP, -(-counts_RxP.shape[0] * len(sums_PxK) // 10**7) or 1)
  return np.concatenate([(part[:, seen] if few else part).astype(np.float64) @ sums_PxK
                         for part in parts])


def by_patient(patient_N, values_NxK, patients):
  """(patients, K) sums of the rows of each, or of any other number from 0 on."""
  values_NxK = np.asarray(values_NxK, np.float64)
  return np.stack([np.bincount(patient_N, v, patients) for v in values_NxK.T], 1)


def mean(values, length):
  """Mean over a list of (length,) vectors, leaving NaN out; NaN where all are."""
  values = np.array(values, np.float64).reshape(len(values), length)
  known = ~np.isnan(values)
  total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
  return np.divide(total, count, out=np.full(length, np.nan), where=count > 0)


def interval(value, draws, floor=None):
  """The 95% percentile interval {"value", "lo", "hi"}, null where undefined and then with a
  "reason".

  Args:
    value: the statistic, or NaN.
    draws: (R,) of it under resamples; NaN, where it is undefined, is left out.
    floor: the least value that the statistic can have, or None.
  """
  draws = draws[~np.isnan(draws)]
  if np.isnan(value):
    return {"value": None, "lo": None, "hi": None}
  if not len(draws):
    return {"value": float(value), "lo": None, "hi": None,
            "reason": "no resample in which it is defined"}
  lo, hi = (float(v) for v in np.quantile(draws, (0.025, 0.975)))
  if floor is not None:
    lo = max(lo, floor)
  return {"value": float(value), "lo": lo, "hi": hi}


def difference(value, draws, reflect=False, tail=False):
  """{"value", "lo", "hi", "p"} of a paired difference, whose 95% interval leaves out 0 where
  p < 0.05 and nowhere else.

  Both come from one rule: p is twice the share of the resamples that lie across 0 from the value,
  itself counted as one more (Davison and Hinkley 1997, section 4.4), and the interval holds the
  differences that would so have p >= 0.05, hence always the value. Of fewer than 40 resamples no p
  is below 0.05: the interval is null with a "reason".

  Args:
    value: the difference, or NaN: all is null.
    draws: (R,) of it under resamples; NaN, where it is undefined, is left out.
    reflect: turn the resamples round at the value: of an absolute error they are biased away from
      it.
    tail: where no resample lies across 0, take the normal tail if that is less: a correction of p
      over a table would else never get past the fewness of resamples.
  """
  draws = np.sort(draws[~np.isnan(draws)])
  if np.isnan(value) or not len(draws):
    return {**interval(value, draws), "p": None}
  draws = np.sort(2 * value - draws) if reflect else draws
  across = np.sum(draws <= 0) if value > 0 else np.sum(draws >= 0) if value < 0 else len(draws)
  found = {"value": float(value), "lo": None, "hi": None,
           "p": float(min(1.0, 2 * (1 + across) / (1 + len(draws))))}
  if len(draws) < _FEWEST:
    return {**found, "reason": f"fewer than {_FEWEST} resamples in which it is defined"}
  rank = int(np.ceil(0.025 * (len(draws) + 1) - 1 - 1e-9))   # as many across: p >= 0.05
  found |= {"lo": float(min(draws[rank - 1], value)), "hi": float(max(draws[-rank], value))}
  if tail and not across and (sd := draws.std()) > 0:
    found["p"] = min(found["p"], math.erfc(abs(value) / sd / math.sqrt(2)))
  return found


def magnitude(parts, draws):
  """The 95% interval {"value", "lo", "hi"} of the sum of the absolute values of `parts` (a
  calibration error).

  Noise makes such a sum larger than the truth, and a resample's larger still, so percentiles of
  the resamples miss. Here the truth is taken to be a multiple of `parts` (B,), and the noise that
  of their resamples `draws` (R, B): the interval holds the multiples under which a sum as large as
  the one seen, and one as small, each have a probability above 2.5%. It is widened to hold the
  value.
  """
  draws = draws[~np.isnan(draws).any(axis=1)]
  value = float(np.abs(parts).sum())
  if np.isnan(value) or not len(draws):
    return interval(value, np.full(1, np.nan))
  noise = draws - draws.mean(axis=0)
  if not value:
    return {"value": 0.0, "lo": 0.0, "hi": 0.0}
  return inverted(value, lambda truth: np.abs(truth / value * parts + noise).sum(axis=-1))


def inverted(value, drawn):
  """The 95% interval {"value", "lo", "hi"} of a truth that is not negative: the truths t under
  which the draws `drawn(t)` (R,), which grow with t, are as large as `value`, and as small, each
  with a probability above 2.5%; widened to hold the value."""
  def edge(low, high, inside):
    for _ in range(40):
      middle = (low + high) / 2
      low, high = (middle, high) if inside(drawn(middle)) else (low, middle)
    return low
  small = lambda draws: np.mean(draws >= value) <= 0.025   # too small a truth for what was seen
  lo = 0.0 if not small(drawn(0.0)) else edge(0.0, value, small)
  scale = value if value > 0 else 1.0
  most = 2 * scale
  while most < 1e6 * scale and np.mean(drawn(most) <= value) > 0.025:
    most *= 2
  hi = edge(0.0, most, lambda draws: np.mean(draws <= value) > 0.025)
  return {"value": value, "lo": min(lo, value), "hi": max(hi, value)}


def gap(values_KxG, lo_KxG, hi_KxG, draws_RxKxG):
  """The 95% interval {"value", "lo", "hi"} of the largest difference between two of G groups, over
  K statistics.

  A pair's limits come from the groups' own 95% intervals `lo`, `hi`: how far one reaches down and
  the other up, as the sides of a right angle (Zou and Donner 2008, doi 10.1002/sim.3095). The
  truth must be above every pair's lower limit, so these are widened to hold at once, by the 95%
  quantile of the resamples' largest error in standard errors. It is below the largest upper limit
  wherever it is below that of the truly widest pair, whichever that is, so these need no widening.
  It covers more often than 95% where several pairs are wide, or the gap is small beside its noise.
  """
  draws = draws_RxKxG[~np.isnan(draws_RxKxG).any(axis=(1, 2))]
  value = float(np.ptp(values_KxG, axis=-1).max())
  if np.isnan(value) or not len(draws):
    return interval(value, np.full(1, np.nan))
  i, j = np.nonzero(~np.eye(values_KxG.shape[-1], dtype=bool))
  drawn = (draws[..., i] - draws[..., j]).reshape(len(draws), -1)
  error, se = np.abs(drawn - drawn.mean(axis=0)), drawn.std(axis=0)
  largest = np.divide(error, se, out=np.zeros_like(error), where=se > 0).max(axis=1)
  wider = max(1.0, np.quantile(largest, 0.95) / 1.96)
  seen = values_KxG[:, i] - values_KxG[:, j]
  below, above = values_KxG - lo_KxG, hi_KxG - values_KxG
  return {"value": value,
          "lo": max(0.0, float((seen - wider * np.hypot(below[:, i], above[:, j])).max())),
          "hi": float((seen + np.hypot(above[:, i], below[:, j])).max())}
