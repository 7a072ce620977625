"""Ranking and calibration of predicted probabilities, under many bootstrap weightings of the rows
at once.

Every metric is a function of one small table: the G distinct predictions p_G, ascending, and per
resample the weight of the positives and of the negatives at each of them (pos_RxG, neg_RxG). Rows
are sorted once, and equal predictions share a column, so no metric depends on the order of rows.
NumPy float64, on the host.
"""

import functools

import numpy as np

METRICS = ("auroc", "auprc", "brier", "ece")
# (resamples x rows) of one block: its arrays stay in the cache, which is twice as fast
_CELLS = 100_000


def auroc(y, p, weights=None, index=None):
  """Area under the ROC curve, ties counting half; NaN where fewer than two classes have weight. See
  `scores`."""
  return scores(y, p, weights, index, only=("auroc",))["auroc"]


def auprc(y, p, weights=None, index=None):
  """Average precision, sum_g (recall_g - recall_{g+1}) precision_g; NaN as for `auroc`. See
  `scores`."""
  return scores(y, p, weights, index, only=("auprc",))["auprc"]


def brier(y, p, weights=None, index=None):
  """Mean squared error of the probability; NaN without weight. See `scores`."""
  return scores(y, p, weights, index, only=("brier",))["brier"]


def ece(y, p, weights=None, index=None, bins=10):
  """Expected calibration error over `bins` bins of equal mass; NaN without weight. See `scores`.

  Equal predictions that straddle the edge of a bin are divided between the bins in proportion,
  outcomes and all.
  """
  return scores(y, p, weights, index, bins, only=("ece",))["ece"]


def scores(y, p, weights=None, index=None, bins=10, only=METRICS):
  """Computes the metrics `only` of predictions `p`, once per weighting of the rows.

  Args:
    y: (N,) outcomes in {0, 1}.
    p: (N,) predicted probabilities.
    weights: (R, N) non-negative weights, such as how often a row was resampled; None: R = 1, all
      ones.
    index: (N,) the column of `weights` (R, P) that is a row's weight, where rows of one patient
      share theirs.
    bins: number of bins of the calibration error.
    only: names out of METRICS.

  Returns:
    metric -> (R,) float64, NaN where it is undefined.

  Raises:
    ValueError: an outcome that is not 0 or 1, a prediction that is NaN or outside [0, 1], unequal
      lengths, no bin.
  """
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  if y.shape != p.shape or y.ndim != 1:
    raise ValueError(f"outcomes {y.shape} and predictions {p.shape} must be two vectors of "
                     "one length.")
  if bad := int(np.sum((y != 0) & (y != 1))):
    raise ValueError(f"{bad} of {len(y)} outcomes are not 0 or 1; leave undefined outcomes out "
                     "before scoring.")
  if bad := int(np.sum(~((p >= 0) & (p <= 1)))):
    raise ValueError(f"{bad} of {len(p)} predictions are NaN or outside [0, 1].")
  if bins < 1:
    raise ValueError(f"the calibration error needs at least one bin, not {bins}.")
  weights = np.ones((1, len(y))) if weights is None else np.asarray(weights)
  index = np.arange(len(y)) if index is None else np.asarray(index)
  if len(index) != len(y) or (weights.shape[1] < len(y) and index.size and
                              index.max() >= weights.shape[1]):
    raise ValueError(f"weights {weights.shape} do not cover {len(y)} rows.")
  values = {name: np.full(len(weights), np.nan) for name in only}
  functions = dict(auroc=_auroc, auprc=_auprc, brier=_brier, ece=functools.partial(_ece, bins=bins))
  if len(y):
    for block, table in _tables(y, p, weights, index):
      for name in only:
        values[name][block] = functions[name](*table)
  return values


def curves(y, p):
  """Returns false positive rate, recall and precision, each (G,), at the G distinct thresholds from
  high to low."""
  p_G, pos_G, neg_G = _table(y, p)
  true, false = np.cumsum(pos_G[::-1]), np.cumsum(neg_G[::-1])
  return false / false[-1], true / true[-1], true / (true + false)


def calibration(y, p, bins=10):
  """Returns the mean prediction, the outcome rate and the mass of each equal-mass bin, three
  (bins,). See `ece`."""
  p_G, pos_G, neg_G = _table(y, p)
  mass_1xG = (pos_G + neg_G)[None]
  predicted_B, positives_B = (_binned(mass_1xG, v[None], bins)[0]
                              for v in (mass_1xG[0] * p_G, pos_G))
  mass = mass_1xG.sum() / bins
  return predicted_B / mass, positives_B / mass, np.full(bins, mass)


def _table(y, p):
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  (_, (p_G, pos_1xG, neg_1xG)), = _tables(y, p, np.ones((1, len(y))), np.arange(len(y)))
  return p_G, pos_1xG[0], neg_1xG[0]


def wilson(positives, n, z=1.959963984540054):
  """Returns the Wilson 95% interval (lo, hi) of the proportion positives / n, n > 0."""
  rate, centre = positives / n, (positives + z * z / 2) / (n + z * z)
  half = z * np.sqrt(n * rate * (1 - rate) + z * z / 4) / (n + z * z)
  return max(centre - half, 0.0), min(centre + half, 1.0)


def _tables(y, p, weights, index):
  """Yields (slice of R, (p_G, pos_RxG, neg_RxG)) for blocks of resamples small enough to hold."""
  order = np.argsort(p, kind="stable")
  y, p, index = y[order], p[order], index[order]
  first_G = np.flatnonzero(np.r_[True, p[1:] > p[:-1]])
  step = max(1, _CELLS // len(y))
  for start in range(0, len(weights), step):
    block = slice(start, start + step)
    w_RxN = weights[block].take(index, axis=1).astype(np.float64)
    pos_RxN = w_RxN * y
    neg_RxN = np.subtract(w_RxN, pos_RxN, out=w_RxN)
    if len(first_G) < len(y):
      pos_RxN, neg_RxN = (np.add.reduceat(v, first_G, axis=1) for v in (pos_RxN, neg_RxN))
    yield block, (p[first_G], pos_RxN, neg_RxN)


def _auroc(p_G, pos_RxG, neg_RxG):
  below_RxG = np.cumsum(neg_RxG, axis=1)
  total = pos_RxG.sum(axis=1) * below_RxG[:, -1]
  below_RxG -= neg_RxG / 2
  return _divide(np.einsum("rg,rg->r", pos_RxG, below_RxG), total)


def _auprc(p_G, pos_RxG, neg_RxG):
  true_RxG = np.cumsum(pos_RxG[:, ::-1], axis=1)
  false_RxG = np.cumsum(neg_RxG[:, ::-1], axis=1)
  precision_RxG = _divide(true_RxG, true_RxG + false_RxG, 0.0)
  area = np.einsum("rg,rg->r", pos_RxG[:, ::-1], precision_RxG)
  return _divide(area, np.where(false_RxG[:, -1] > 0, true_RxG[:, -1], 0.0))


def _brier(p_G, pos_RxG, neg_RxG):
  error = np.einsum("rg,g->r", pos_RxG, (1 - p_G) ** 2) + np.einsum("rg,g->r", neg_RxG, p_G ** 2)
  return _divide(error, pos_RxG.sum(axis=1) + neg_RxG.sum(axis=1))


def _ece(p_G, pos_RxG, neg_RxG, bins):
  mass_RxG = pos_RxG + neg_RxG
  gap_RxB = _binned(mass_RxG, mass_RxG * p_G - pos_RxG, bins)
  return _divide(np.abs(gap_RxB).sum(axis=1), mass_RxG.sum(axis=1))


def _binned(mass_RxG, value_RxG, bins):
  """Sums of `value_RxG` over bins of equal mass, (R, bins).

  The cumulative sum, as a function of the cumulative mass, is read off at the edges: within a group
  of equal predictions it is a straight line, which is what divides the group.
  """
  pad = lambda v_RxG: np.pad(np.cumsum(v_RxG, axis=1), ((0, 0), (1, 0)))
  at_edges = [np.interp(mass[-1] * np.linspace(0, 1, bins + 1), mass, value)
              for mass, value in zip(pad(mass_RxG), pad(value_RxG))]
  return np.diff(at_edges, axis=1)


def _divide(a, b, otherwise=np.nan):
  """a / b, and `otherwise` where b is not positive."""
  return np.divide(a, b, out=np.full(np.broadcast_shapes(np.shape(a), np.shape(b)), otherwise),
                   where=b > 0)
