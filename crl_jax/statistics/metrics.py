"""Ranking and calibration of predicted probabilities, under many bootstrap weightings of the rows
at once.

Every metric is a function of one small table: the G distinct predictions p_G, ascending, and per
resample the weight of the positives and of the negatives at each of them (pos_RxG, neg_RxG). Rows
are sorted once, and equal predictions share a column, so no metric depends on the order of rows.
NumPy float64, on the host.
"""

import concurrent.futures
import functools
import os
import typing

import numpy as np

METRICS = ("auroc", "auprc", "brier", "ece")
LINE = ("slope", "intercept")   # of calibration; 1 and 0 are ideal
# (resamples x rows) of one block: its arrays stay in the cache, which is twice as fast
_CELLS = 100_000
_EDGE = 1e-6      # predictions are kept this far from 0 and 1 before their logit
_NEAR = 0.01      # logits closer than this are one, where many weightings have to be gone through
_NEWTON = 60      # steps, the longest of them of length 1
_STILL = 1e-8     # of the estimate: a step that ends a resample's iteration; the next is its square


def auroc(y, p, weights=None, index=None, where=None):
  """Area under the ROC curve, ties counting half; NaN where fewer than two classes have weight. See
  `scores`."""
  return scores(y, p, weights, index, only=("auroc",), where=where)["auroc"]


def auprc(y, p, weights=None, index=None, where=None):
  """Average precision, sum_g (recall_g - recall_{g+1}) precision_g; NaN as for `auroc`. See
  `scores`."""
  return scores(y, p, weights, index, only=("auprc",), where=where)["auprc"]


def brier(y, p, weights=None, index=None, where=None):
  """Mean squared error of the probability; NaN without weight. See `scores`."""
  return scores(y, p, weights, index, only=("brier",), where=where)["brier"]


def ece(y, p, weights=None, index=None, bins=10, where=None):
  """Expected calibration error over `bins` bins of equal mass; NaN without weight. See `scores`.

  Equal predictions that straddle the edge of a bin are divided between the bins in proportion,
  outcomes and all.
  """
  return scores(y, p, weights, index, bins, ("ece",), where)["ece"]


def scores(y, p, weights=None, index=None, bins=10, only=METRICS, where=None):
  """Computes the metrics `only` of predictions `p`, once per weighting of the rows, for tasks,
  members or whatever else the leading axes stand for.

  Args:
    y: (..., N) outcomes in {0, 1}.
    p: (..., N) predicted probabilities; the leading axes of y and p are broadcast.
    weights: (R, N) non-negative weights, such as how often a row was resampled; None: R = 1, all
      ones.
    index: (N,) the column of `weights` (R, P) that is a row's weight, where rows of one patient
      share theirs.
    bins: number of bins of the calibration error.
    only: names out of METRICS and LINE, and "gaps", as `gaps` returns them. "slope" is that of the logistic regression of the outcome
      on the logit of p, NaN where one class or one value is left or where the outcomes separate;
      "intercept" is the shift of the logit that makes the mean prediction the outcome rate
      (calibration in the large; Van Calster et al. 2019, doi 10.1186/s12916-019-1466-7).
    where: (..., N) bool, the rows that count, such as those with this outcome; None: all.

  Returns:
    metric -> (..., R) float64, NaN where it is undefined; gaps (..., R, bins).

  Raises:
    ValueError: an outcome that is not 0 or 1, a prediction that is NaN or outside [0, 1], unequal
      lengths, no bin.
  """
  if bins < 1:
    raise ValueError(f"the calibration error needs at least one bin, not {bins}.")
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  if not y.ndim or y.shape[-1:] != p.shape[-1:]:
    raise ValueError(_unequal(y, p))
  y, p = np.broadcast_arrays(y, p)
  where = np.broadcast_to(True if where is None else where, y.shape)
  index = np.arange(y.shape[-1]) if index is None else np.asarray(index)
  values = {name: np.full((*y.shape[:-1], 1 if weights is None else len(weights),
                           *((bins,) if name == "gaps" else ())), np.nan) for name in only}
  for at in np.ndindex(y.shape[:-1]):   # each has its own order
    rows = slice(None) if where[at].all() else where[at]
    found = _scores(y[at][rows], p[at][rows], weights, index[rows], bins, only)
    for name in only:
      values[name][at] = found[name]
  return values


def _scores(y, p, weights, index, bins, only):
  """`scores` of one (N,)."""
  y, p, weights, index = _checked(y, p, weights, index)
  values = {name: np.full((len(weights), *((bins,) if name == "gaps" else ())), np.nan)
            for name in only}
  functions = dict(auroc=_auroc, auprc=_auprc, brier=_brier)
  def use(block, table):
    error = functools.cache(lambda: np.subtract(*_binned(table, bins)))   # (R, bins)
    logits = functools.cache(lambda: _logits(table))
    mass_R = table.pos_all + table.neg_all
    shared = dict(gaps=lambda: _divide(error(), mass_R[:, None]),
                  ece=lambda: _divide(np.abs(error()).sum(axis=1), mass_R),
                  slope=lambda: _slope(table, *logits()),
                  intercept=lambda: _intercept(table, *logits()))
    for name in only:
      values[name][block] = shared[name]() if name in shared else functions[name](table)
  if len(y):
    _tables(y, p, weights, index, use)
  return values


def net_benefit(y, p, thresholds, weights=None, index=None):
  """Net benefit of treating who has p >= threshold, per row and threshold: true positives minus
  false positives at the threshold's odds, over all rows (Vickers and Elkin 2006, doi
  10.1177/0272989X06295361). Treating nobody is 0.

  Args:
    y, p: (N,) each.
    weights, index: as of `scores`.
    thresholds: (K,) ascending probabilities in [0, 1).

  Returns:
    (R, K) of the predictions, and (R, K) of treating everybody; NaN without weight.
  """
  y, p, weights, index = _checked(y, p, weights, index)
  thresholds = np.asarray(thresholds, np.float64)
  if not ((thresholds >= 0) & (thresholds < 1)).all() or (np.diff(thresholds) <= 0).any():
    raise ValueError("net benefit needs ascending thresholds within [0, 1).")
  odds = thresholds / (1 - thresholds)
  found = np.full((2, len(weights), len(thresholds)), np.nan)
  def use(block, t):
    cut = np.searchsorted(t.p, thresholds)
    total = np.stack([t.pos_all, t.neg_all])[:, :, None]
    below = np.stack([np.where(cut, to[:, cut - 1], 0) for to in (t.pos_to, t.neg_to)])
    n = total.sum(axis=0)
    for found_RxK, (true, false) in zip(found, (total - below, total)):
      found_RxK[block] = _divide(true - odds * false, n)
  if len(y):
    _tables(y, p, weights, index, use)
  return found[0], found[1]


def gaps(y, p, weights=None, index=None, bins=10):
  """(R, bins): mean prediction minus outcome rate of each equal-mass bin, times its share of the
  mass; the calibration error is the sum of their absolute values. NaN without weight. See `ece`."""
  return scores(y, p, weights, index, bins, ("gaps",))["gaps"]


def curves(y, p):
  """Returns false positive rate, recall and precision, each (G,), at the G distinct thresholds from
  high to low."""
  t = _table(y, p)
  true, false = np.cumsum(t.pos[0, ::-1]), np.cumsum(t.neg[0, ::-1])
  return false / false[-1], true / true[-1], true / (true + false)


def calibration(y, p, bins=10):
  """Returns the mean prediction, the outcome rate and the mass of each equal-mass bin, three
  (bins,). See `ece`."""
  t = _table(y, p)
  (predicted_B,), (positives_B,) = _binned(t, bins)
  mass = float(t.pos_all[0] + t.neg_all[0]) / bins
  return predicted_B / mass, positives_B / mass, np.full(bins, mass)


def _table(y, p):
  found = []
  y, p, weights, index = _checked(y, p, None, None)
  _tables(y, p, weights, index, lambda block, table: found.append(table))
  return found[0]


def logit(p):
  """Of predictions, which are kept away from 0 and 1."""
  p = np.clip(p, _EDGE, 1 - _EDGE)
  return np.log(p / (1 - p))


def wilson(positives, n, z=1.959963984540054):
  """Returns the Wilson 95% interval (lo, hi) of the proportion positives / n, n > 0."""
  rate, centre = positives / n, (positives + z * z / 2) / (n + z * z)
  half = z * np.sqrt(n * rate * (1 - rate) + z * z / 4) / (n + z * z)
  return max(centre - half, 0.0), min(centre + half, 1.0)


def _checked(y, p, weights, index):
  """The arguments of `scores` as arrays, with one weighting of all ones where there is none."""
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  if y.shape != p.shape or y.ndim != 1:
    raise ValueError(_unequal(y, p))
  if bad := int(np.sum((y != 0) & (y != 1))):
    raise ValueError(f"{bad} of {len(y)} outcomes are not 0 or 1; leave undefined outcomes out "
                     "before scoring.")
  if bad := int(np.sum(~((p >= 0) & (p <= 1)))):
    raise ValueError(f"{bad} of {len(p)} predictions are NaN or outside [0, 1].")
  weights = np.ones((1, len(y))) if weights is None else np.asarray(weights)
  index = np.arange(len(y)) if index is None else np.asarray(index)
  if len(index) != len(y) or (weights.shape[1] < len(y) and index.size and
                              index.max() >= weights.shape[1]):
    raise ValueError(f"weights {weights.shape} do not cover {len(y)} rows.")
  return y, p, weights, index


def _unequal(y, p):
  return f"outcomes {y.shape} and predictions {p.shape} must be vectors of one length."


class _Table(typing.NamedTuple):
  """A block of R resamples over the G distinct predictions."""
  p: np.ndarray     # (G,) ascending
  pos: np.ndarray   # (R, G) weight of the positives at p, and of the negatives
  neg: np.ndarray
  pos_to: np.ndarray   # (R, G) the same up to and with p
  neg_to: np.ndarray
  pos_all: np.ndarray  # (R,) of all rows
  neg_all: np.ndarray
  many: bool           # the block is one of several weightings


def _tables(y, p, weights, index, use):
  """Calls use(slice of R, _Table) for blocks of resamples small enough to stay in the cache, on all
  cores."""
  order = np.argsort(p, kind="stable")
  y, p, index = y[order], p[order], index[order]
  first_G = np.flatnonzero(np.r_[True, p[1:] > p[:-1]])
  step = max(1, _CELLS // len(y))
  # sums of counts are exact in integers, and their cumulative sum takes a seventh of the time
  exact = np.int64 if weights.dtype.kind in "iub" else np.float64
  outcome = y.astype(exact)
  def part(start):
    block = slice(start, start + step)
    w_RxN = weights[block].take(index, axis=1).astype(exact)
    pos_RxN = w_RxN * outcome
    neg_RxN = np.subtract(w_RxN, pos_RxN, out=w_RxN)
    if len(first_G) < len(y):
      pos_RxN, neg_RxN = (np.add.reduceat(v, first_G, axis=1) for v in (pos_RxN, neg_RxN))
    pos_to, neg_to = (np.cumsum(v, axis=1) for v in (pos_RxN, neg_RxN))
    use(block, _Table(p[first_G], pos_RxN.astype(np.float64), neg_RxN.astype(np.float64), pos_to,
                      neg_to, pos_to[:, -1].astype(np.float64), neg_to[:, -1].astype(np.float64),
                      len(weights) > 1))
  # Freed at once: glibc then serves arrays up to this size from memory that it keeps. Without this
  # line the kernel clears new pages for every one of them: what experiments.metrics_benchmark
  # times takes 1.7 to 3.5 times the processor seconds.
  np.empty(31 << 20, np.uint8)
  starts = range(0, len(weights), step)
  if len(starts) < 8 or (cores := len(os.sched_getaffinity(0))) == 1:
    for start in starts:
      part(start)
    return
  with concurrent.futures.ThreadPoolExecutor(cores) as threads:
    list(threads.map(part, starts))


def _auroc(t):
  return _divide(np.einsum("rg,rg->r", t.pos, t.neg_to - t.neg / 2), t.pos_all * t.neg_all)


def _auprc(t):
  true_RxG = t.pos_all[:, None] - t.pos_to
  true_RxG += t.pos
  flagged_RxG = t.neg_all[:, None] - t.neg_to
  flagged_RxG += t.neg
  flagged_RxG += true_RxG
  np.maximum(flagged_RxG, 1e-300, out=flagged_RxG)   # nobody: 0 / 1e-300
  area = np.einsum("rg,rg->r", t.pos, np.divide(true_RxG, flagged_RxG, out=true_RxG))
  return _divide(area, np.where(t.neg_all > 0, t.pos_all, 0.0))


def _brier(t):
  return _divide(t.pos @ (1 - t.p) ** 2 + t.neg @ t.p ** 2, t.pos_all + t.neg_all)


def _slope(t, x_G, pos_RxG, neg_RxG):
  last = lambda w_RxG: w_RxG.shape[1] - 1 - np.argmax(w_RxG[:, ::-1] > 0, axis=1)
  first = lambda w_RxG: np.argmax(w_RxG > 0, axis=1)
  overlap = (first(t.pos) < last(t.neg)) & (first(t.neg) < last(t.pos))
  return _line(x_G, pos_RxG, neg_RxG, overlap, (0.0, 1.0), True)[1]


def _intercept(t, x_G, pos_RxG, neg_RxG):
  both = (t.pos_all > 0) & (t.neg_all > 0)
  return _line(x_G, pos_RxG, neg_RxG, both, (0.0, 1.0), False)[0]


def _logits(t):
  """x (G,), the logits, and the weights of positives and negatives. Under several weightings
  predictions less than _NEAR apart share their mean logit, which moves a slope by less than
  1e-4 and saves nearly all of the time that many rows take."""
  x_G = logit(t.p)
  if not t.many or len(x_G) < 1000:
    return x_G, t.pos, t.neg
  first = np.flatnonzero(np.diff(np.floor(x_G / _NEAR), prepend=-np.inf))
  last = np.append(first[1:], len(x_G)) - 1
  part = lambda to_RxG: np.diff(to_RxG[:, last], axis=1, prepend=0)
  return np.add.reduceat(x_G, first) / (last - first + 1), part(t.pos_to), part(t.neg_to)


def _line(x_G, pos_RxG, neg_RxG, defined_R, start, free):
  """(2, R): maximum likelihood a and b of y ~ sigmoid(a + b logit p), b fixed at its start unless
  `free`; NaN where not `defined_R`. Newton from the estimate of all resamples together, which is
  near each one's."""
  found = np.full((2, len(pos_RxG)), np.nan)
  if not defined_R.any():
    return found
  if len(pos_RxG) > 1:
    together = (w_RxG[defined_R].sum(axis=0, keepdims=True) for w_RxG in (pos_RxG, neg_RxG))
    start = _line(x_G, *together, np.array([True]), start, free)[:, 0]
  mass_RxG, moving = pos_RxG + neg_RxG, np.flatnonzero(defined_R)
  found[:, moving] = np.array(start)[:, None]
  y_R, yx_R = pos_RxG.sum(axis=1), pos_RxG @ x_G
  for step in range(_NEWTON):
    a_R, b_R = found[:, moving[:1] if step == 0 else moving]   # all start from one place
    mu_RxG = 1 / (1 + np.exp(-(a_R[:, None] + b_R[:, None] * x_G)))
    m_RxG = mass_RxG if len(moving) == len(mass_RxG) else mass_RxG[moving]
    v_RxG = mu_RxG * (1 - mu_RxG)
    total = lambda v_RxG: np.einsum("rg,rg->r", m_RxG, np.broadcast_to(v_RxG, m_RxG.shape))
    s0, i00 = y_R[moving] - total(mu_RxG), total(v_RxG)
    if free:
      mu_RxG *= x_G
      v_RxG *= x_G
      s1, i01 = yx_R[moving] - total(mu_RxG), total(v_RxG)
      v_RxG *= x_G
      i11 = total(v_RxG)
      det = np.maximum(i00 * i11 - i01**2, 1e-300)
      delta = np.stack([i11 * s0 - i01 * s1, i00 * s1 - i01 * s0]) / det
    else:
      delta = np.stack([s0 / np.maximum(i00, 1e-300), np.zeros_like(s0)])
    # a longer step might overshoot: the likelihood is flat far from its maximum
    delta /= np.maximum(1, np.abs(delta).max(axis=0))
    found[:, moving] += delta
    moving = moving[np.abs(delta).max(axis=0) > _STILL * (1 + np.abs(found[:, moving]).max(axis=0))]
    if not len(moving):
      break
  found[:, moving] = np.nan
  return found


def _binned(t, bins):
  """Sums of predictions and of outcomes over bins of equal mass, two (R, bins).

  The cumulative sum, as a function of the cumulative mass, is read off at the edges: within a group
  of equal predictions it is a straight line, which is what divides the group.
  """
  resamples, groups = t.pos.shape
  mass_RxG, mass_to_RxG = t.pos + t.neg, t.pos_to + t.neg_to
  edges_RxB = (t.pos_all + t.neg_all)[:, None] * np.linspace(0, 1, bins + 1)[1:]
  at_RxB = np.stack([np.searchsorted(*row) for row in zip(mass_to_RxG, edges_RxB)])
  at_RxB = np.minimum(at_RxB, groups - 1)
  pick = lambda v_RxG: np.take_along_axis(v_RxG, at_RxB, axis=1)
  # sums of mass x prediction from behind one edge's group up to the next one's, in one pass; what
  # follows the last edge has no mass
  first_RxB = np.pad(at_RxB[:, :-1] + 1, ((0, 0), (1, 0))) + groups * np.arange(resamples)[:, None]
  first = np.append(first_RxB, resamples * groups)
  part = np.add.reduceat((mass_RxG * t.p).ravel(), np.minimum(first[:-1], first[-1] - 1))
  part[first[:-1] >= first[1:]] = 0
  beyond_RxB = _divide(pick(mass_to_RxG) - edges_RxB, pick(mass_RxG), 0.0)
  predicted_RxB = (np.cumsum(part.reshape(resamples, bins), axis=1) -
                   beyond_RxB * pick(mass_RxG) * t.p[at_RxB])
  positives_RxB = pick(t.pos_to) - beyond_RxB * pick(t.pos)
  return (np.diff(v_RxB, axis=1, prepend=0) for v_RxB in (predicted_RxB, positives_RxB))


def _divide(a, b, otherwise=np.nan):
  """a / b, and `otherwise` where b is not positive."""
  shape = np.broadcast_shapes(np.shape(a), np.shape(b))
  return np.divide(a, b, out=np.full(shape, otherwise), where=np.broadcast_to(b > 0, shape))
