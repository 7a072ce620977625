"""What the residuals of calibration rows add up to, in every (task, fold, pattern): the rectifier's
numbers before its decisions.

Everything is a segment sum over the id (task, fold, pattern), each one pass over the rows: NumPy's
where they are few, a compiled program's where they are many. Axes in names as in rectifier.py: N
rows, T tasks, P patterns, C clusters (the rows of one patient in one pattern), K folds, G = K + 1
estimates: for g < K that of all folds but g, and last the pooled one.
"""

import functools
import math
import typing

import numpy as np

from crl_jax.posthoc import segments

_PRIOR_ROWS = 4.0   # nu_0: how many rows the task's variance counts for in the variance of a cell
_FEW = 5            # rows of the rarer class below which a cell's own variance is not believed
# times gamma^2 / 2 on the logit scale: keeps a cell of one class finite, invisible in any other
_RIDGE = 0.05
# probabilities are kept this far from 0 and 1 before their logit; no variance is below its square
EDGE = 1e-6
# steps of at most 1 each: for this convex problem such steps never overshoot by more than they gain
_NEWTON = 40
_STILL = 1e-12   # a step that ends a cell's iteration


class Rows(typing.NamedTuple):
  """Checked calibration rows; patterns and patients are dense."""
  y: np.ndarray         # (N, T)
  f: np.ndarray         # (N, T)
  pattern: np.ndarray   # (N,) index into patterns
  patient: np.ndarray   # (N,)
  fold: np.ndarray      # (N,)
  cell: np.ndarray      # (N,) fold x P + pattern
  patterns: np.ndarray  # (P,) ids
  folds: int
  alone: bool           # every patient has one row: rows are clusters

  @property
  def mix(self):
    """(G, K) 0/1, the folds that an estimate is made of. Products with it leave no trace of a fold
    left out, not even by rounding, as subtracting the fold from the total would."""
    return np.concatenate([1 - np.eye(self.folds), np.ones((1, self.folds))])


def _sums(terms, rows, kinds, *tables):
  """Sums over the rows of every (task, fold, pattern), in float64.

  Args:
    terms: (xp, y, f, cell, *tables) -> ids (n, T) of (cell, kind, task) and values (n, T, Q) of n
      rows, xp NumPy or jax.numpy. Where y is NaN, values must be 0 or of a kind that nobody asks
      for.
    rows: Rows.
    kinds: number of values that the id may have in a cell.
    *tables: arrays common to all rows.
  Returns:
    (Q, kinds, T, K, P).
  """
  shape = rows.folds, len(rows.patterns), kinds, rows.y.shape[1]
  sums = segments.total(terms, (rows.y, rows.f, rows.cell), (np.nan, 0, 0), tables,
                        math.prod(shape))
  return sums.reshape(*shape, sums.shape[-1]).transpose(4, 2, 3, 0, 1)


def _ids(xp, cell, tasks, kind=None, kinds=1):
  """(n, T) ids of (cell, kind, task)."""
  ids = cell[:, None] if kind is None else cell[:, None] * kinds + kind
  return ids * tasks + xp.arange(tasks, dtype=np.int32)[None]


def _clusters(rows):
  """Returns the cluster of each row (N,), and a row of each cluster (C,)."""
  _, first, cluster = np.unique(
      rows.patient.astype(np.int64) * len(rows.patterns) + rows.pattern, return_index=True,
      return_inverse=True)
  return cluster, first


def probability_cells(rows):
  """n, mean residual, its variance and degrees of freedom, (T, G, P) each.

  The variance of a mean of C clusters is S / n^2 * C / (C - 1), S = sum over clusters of (sum of
  residuals)^2, the mean taken out. It is moderated by the task's (Smyth 2004, doi
  10.2202/1544-6115.1027). Residuals of one class vary with f only: in a cell with fewer than _FEW
  rows of a class it is not below what a binomial outcome would give, at the smoothed rate of the
  cell (Agresti and Coull 1998) or at f, whichever is less.
  """
  (n0, n1), (f0, f1), (ff0, ff1) = _sums(_moment_terms, rows, 3)[:, :2]   # by y: (T, K, P) each
  n, r, events, binomial = n0 + n1, n1 - f1 - f0, n1, f0 + f1 - ff0 - ff1
  # of clusters: their number, and squares and products of their sums
  clusters, rr, nr, nn = ((n, n1 - 2 * f1 + ff1 + ff0, r, n) if rows.alone else
                          _cluster_cells(rows))
  n, clusters, r, rr, nr, nn, events, binomial = np.einsum(
      "gk,qtkp->qtgp", rows.mix, np.stack([n, clusters, r, rr, nr, nn, events, binomial]))
  gamma = r / np.maximum(n, 1)
  # (C - 1) x variance
  squares = np.maximum(rr - 2 * gamma * nr + gamma**2 * nn, 0) * clusters / np.maximum(n, 1)
  freedom = np.maximum(clusters - 1, 0)
  task = np.maximum(squares.sum(-1) / np.maximum(freedom.sum(-1), 1),
                    binomial.sum(-1) / np.maximum(n.sum(-1), 1))
  moderated = (squares + _PRIOR_ROWS * task[..., None]) / (freedom + _PRIOR_ROWS)
  rate = (events + 2) / (n + 4)
  few = np.minimum(events, n - events) < _FEW
  floor = few * np.minimum(rate * (1 - rate), binomial / np.maximum(n, 1))
  return (n, gamma, np.maximum(np.maximum(moderated, floor), EDGE**2) / np.maximum(n, 1),
          freedom + _PRIOR_ROWS)


def _moment_terms(xp, y, f, cell):
  """1, f and f^2 where y is 0, 1 and undefined."""
  kind = (y == 1).astype(np.int32) + 2 * xp.isnan(y).astype(np.int32)
  return _ids(xp, cell, y.shape[1], kind, 3), xp.stack([xp.ones_like(f), f, f * f], -1)


def _cluster_cells(rows):
  """Sums over the clusters of (task, fold, pattern): 1, r^2, n r and n^2, where a cluster has n
  labelled rows and residuals that sum to r; (4, T, K, P)."""
  valid = ~np.isnan(rows.y.T)
  cluster, first = _clusters(rows)
  residual = np.where(valid, rows.y.T - rows.f.T, 0)
  n, r = segments.few(cluster, np.stack([valid, residual]), len(first))
  sums = segments.few(rows.cell[first], np.stack([n > 0, r**2, n * r, n**2]),
                  rows.folds * len(rows.patterns))
  return sums.reshape(*sums.shape[:-1], rows.folds, len(rows.patterns))


def logit_cells(rows):
  """As `probability_cells` with gamma the root of sum(y - sigmoid(logit f + gamma)) = ridge gamma,
  by Newton's method.

  The variance is the inverse information, times the clusters' design effect where that is above 1.
  """
  tasks, estimates, patterns = rows.y.shape[1], rows.folds + 1, len(rows.patterns)
  n = np.einsum("gk,tkp->tgp", rows.mix, _sums(_moment_terms, rows, 3)[0, :2].sum(0))
  gamma, moving = np.zeros(n.shape), np.ones(n.shape, bool)
  for _ in range(_NEWTON):
    # an estimate's sums are taken in every fold, and the folds then mixed
    table = np.tile(gamma.transpose(2, 0, 1).reshape(patterns * tasks, estimates), (rows.folds, 1))
    sums = _sums(_logit_terms, rows, 1, table)[:, 0]
    r, information = np.einsum("gk,qgtkp->qtgp", rows.mix,
                               sums.reshape(2, estimates, *sums.shape[1:]))
    information = information + _RIDGE
    step = np.clip((r - _RIDGE * gamma) / information, -1, 1)
    gamma = gamma + moving * step
    # each cell by itself: when it stops is no business of the others'
    moving &= np.abs(step) > _STILL
    if not moving.any():
      break
  clusters, design = (n, 1) if rows.alone else _logit_clusters(rows, gamma)
  return n, gamma, design / information, np.maximum(clusters - 1, 0) + _PRIOR_ROWS


def _logit_terms(xp, y, f, cell, table_xG):
  """Residuals, then variances of the outcome, under each estimate's gamma."""
  ids = _ids(xp, cell, y.shape[1])
  p_NxTxG = _sigmoid(_logit(f, xp)[..., None] + table_xG[ids], xp)
  y_NxTx1 = y[..., None]
  values = xp.concatenate([y_NxTx1 - p_NxTxG, p_NxTxG * (1 - p_NxTxG)], -1)
  return ids, xp.where(xp.isnan(y_NxTx1), 0, values)


def _logit_clusters(rows, gamma):
  """Number of clusters and their design effect, (T, G, P) each."""
  inside = rows.mix[:, rows.fold]   # (G, N)
  weight_TxGxN = ~np.isnan(rows.y.T)[:, None] * inside
  p = _sigmoid(_logit(rows.f).T[:, None] + gamma[..., rows.pattern])
  residual = weight_TxGxN * (np.nan_to_num(rows.y.T)[:, None] - p)
  cluster, first = _clusters(rows)
  n, r = segments.few(cluster, np.stack([weight_TxGxN, residual]), len(first))
  by_cluster = lambda values: segments.few(rows.pattern[first], values, gamma.shape[-1])
  independent = np.maximum(segments.few(rows.pattern, residual**2, gamma.shape[-1]), EDGE**2)
  return by_cluster(n > 0), np.maximum(by_cluster(r**2) / independent, 1)


def alone_gains(rows, n, gamma_TxKxP, candidates, scale):
  """The Brier score's gain by correcting the cells whose |gamma| exceeds a threshold, where a
  patient has one row: a cell's rows are corrected all or none.

  Args:
    rows: Rows.
    n: (T,) labelled rows.
    gamma_TxKxP: correction of the rows of each fold.
    candidates: thresholds.
    scale: "probability" | "logit".
  Yields:
    for each candidate the sum of the gains, (T,), and the sum over patients of (sum of his gains,
    the mean taken out)^2, (T,).
  """
  gain, squares = _sums(_GAIN_TERMS[scale], rows, 1, _cell_table(gamma_TxKxP))[:, 0]
  for candidate in candidates:
    on = np.abs(gamma_TxKxP) > candidate
    total = (on * gain).sum((1, 2))
    yield total, (on * squares).sum((1, 2)) - total**2 / n


def patient_gains(rows, n, gamma_TxKxP, candidates, scale):
  """As alone_gains, where patients have several rows."""
  patients, table = int(rows.patient.max()) + 1, _cell_table(gamma_TxKxP)
  ids, values = _GAIN_TERMS[scale](np, rows.y, rows.f, rows.cell, table)
  count = segments.few(rows.patient, ~np.isnan(rows.y.T), patients)
  for candidate in candidates:
    g = segments.few(rows.patient, np.where(np.abs(table[ids]) > candidate, values[..., 0], 0).T,
                 patients)
    total = g.sum(-1)
    yield total, ((g - (total / n)[:, None] * count)**2).sum(-1)


def _gain_terms(xp, y, f, cell, table, scale):
  """The Brier score's gain by the correction, and its square."""
  ids = _ids(xp, cell, y.shape[1])
  better = shifted(f, table[ids], scale, xp)
  gain = xp.where(xp.isnan(y), 0, (f - y)**2 - (better - y)**2)
  return ids, xp.stack([gain, gain * gain], -1)


# named once: a program is compiled for each function that it is given
_GAIN_TERMS = {scale: functools.partial(_gain_terms, scale=scale)
               for scale in ("probability", "logit")}


def _cell_table(values_TxKxP):
  """(K P T,) in the order of _ids."""
  return np.ascontiguousarray(values_TxKxP.transpose(1, 2, 0)).ravel()


def shifted(f, gamma, scale, xp=np):
  """Probabilities f with gamma added on the scale "probability" or "logit"."""
  if scale == "probability":
    return xp.clip(f + gamma, 0, 1)
  return _sigmoid(_logit(f, xp) + gamma, xp)


def _logit(f, xp=np):
  f = xp.clip(f, EDGE, 1 - EDGE)
  return xp.log(f) - xp.log1p(-f)


def _sigmoid(x, xp=np):
  return 0.5 + 0.5 * xp.tanh(0.5 * x)
