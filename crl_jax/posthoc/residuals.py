"""What the residuals of calibration rows add up to, in every (task, fold, pattern): the rectifier's
numbers before its decisions.

Everything is a segment sum over the id (task, fold, pattern), each one pass over the rows. Axes in
names as in rectifier.py: N rows, T tasks, P patterns, C clusters (the rows of one patient in one
pattern), K folds, G = K + 1 estimates: for g < K that of all folds but g, and last the pooled one.
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
    terms: (y, f, cell, *tables) of n rows of one task -> ids (n,) of (cell, kind) and Q values
      (n,), None for ones. Where y is NaN, values must be 0 or of a kind that nobody asks for.
    rows: Rows.
    kinds: number of values that the id may have in a cell.
    *tables: (T, ...) arrays, of which terms gets its task's.
  Returns:
    (Q, kinds, T, K, P).
  """
  shape = rows.folds, len(rows.patterns), kinds

  def part(at):
    found, cell = [], rows.cell[at].astype(np.intp)   # as bincount and take want it
    for y, f, *of_task in zip(rows.y[at].T.copy(), rows.f[at].T.copy(), *tables):
      ids, values = terms(y, f, cell, *of_task)
      found.append(np.stack([np.bincount(ids, value, math.prod(shape)) for value in values], -1))
    return np.stack(found, 1)
  sums = segments.total(part, len(rows.y))
  return sums.reshape(*shape, *sums.shape[1:]).transpose(4, 2, 3, 0, 1)


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


def _moment_terms(y, f, cell):
  """1, f and f^2 where y is 0, 1 and undefined."""
  return 3 * cell + ((y == 1) + np.int8(2) * np.isnan(y)), (None, f, f * f)


def _cluster_cells(rows):
  """Sums over the clusters of (task, fold, pattern): 1, r^2, n r and n^2, where a cluster has n
  labelled rows and residuals that sum to r; (4, T, K, P)."""
  valid = ~np.isnan(rows.y.T)
  cluster, first = _clusters(rows)
  residual = np.where(valid, rows.y.T - rows.f.T, 0)
  n, r = segments.by_id(cluster, np.stack([valid, residual]), len(first))
  sums = segments.by_id(rows.cell[first], np.stack([n > 0, r**2, n * r, n**2]),
                        rows.folds * len(rows.patterns))
  return sums.reshape(*sums.shape[:-1], rows.folds, len(rows.patterns))


def logit_cells(rows):
  """As `probability_cells` with gamma the root of sum(y - sigmoid(logit f + gamma)) = ridge gamma,
  by Newton's method.

  The variance is the inverse information, times the clusters' design effect where that is above 1.
  """
  n = np.einsum("gk,tkp->tgp", rows.mix, _sums(_moment_terms, rows, 3)[0, :2].sum(0))
  on_logits = rows._replace(f=_logit(rows.f))
  gamma, moving = np.zeros(n.shape), np.ones(n.shape, bool)
  for _ in range(_NEWTON):
    # an estimate's sums are taken in every fold, and the folds then mixed
    sums = _sums(_logit_terms, on_logits, 2, np.tile(gamma, rows.folds))[:, 0]
    r, information = np.einsum("gk,gqtkp->qtgp", rows.mix,
                               sums.reshape(len(rows.mix), 2, *sums.shape[1:]))
    information = information + _RIDGE
    step = np.clip((r - _RIDGE * gamma) / information, -1, 1)
    gamma = gamma + moving * step
    # each cell by itself: when it stops is no business of the others'
    moving &= np.abs(step) > _STILL
    if not moving.any():
      break
  clusters, design = (n, 1) if rows.alone else _logit_clusters(rows, gamma)
  return n, gamma, design / information, np.maximum(clusters - 1, 0) + _PRIOR_ROWS


def _logit_terms(y, logit, cell, table_Gx):
  """Residual and variance of the outcome under each estimate's gamma, where y is known and not."""
  p_G = (_sigmoid(logit + table_x.take(cell)) for table_x in table_Gx)
  return 2 * cell + np.isnan(y), (value for p in p_G for value in (y - p, p * (1 - p)))


def _logit_clusters(rows, gamma):
  """Number of clusters and their design effect, (T, G, P) each."""
  inside = rows.mix[:, rows.fold]   # (G, N)
  weight_TxGxN = ~np.isnan(rows.y.T)[:, None] * inside
  p = _sigmoid(_logit(rows.f).T[:, None] + gamma[..., rows.pattern])
  residual = weight_TxGxN * (np.nan_to_num(rows.y.T)[:, None] - p)
  cluster, first = _clusters(rows)
  n, r = segments.by_id(cluster, np.stack([weight_TxGxN, residual]), len(first))
  by_cluster = lambda values: segments.by_id(rows.pattern[first], values, gamma.shape[-1])
  independent = np.maximum(segments.by_id(rows.pattern, residual**2, gamma.shape[-1]), EDGE**2)
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
  terms = functools.partial(_gain_terms, scale=scale)
  gain, squares = _sums(terms, rows, 1, _cells(gamma_TxKxP))[:, 0]
  for candidate in candidates:
    on = np.abs(gamma_TxKxP) > candidate
    total = (on * gain).sum((1, 2))
    yield total, (on * squares).sum((1, 2)) - total**2 / n


def patient_gains(rows, n, gamma_TxKxP, candidates, scale):
  """As alone_gains, where patients have several rows."""
  patients = int(rows.patient.max()) + 1
  gamma_TxN = _cells(gamma_TxKxP)[:, rows.cell]
  gain_TxN = _gain(rows.y.T, rows.f.T, gamma_TxN, scale)
  count = segments.by_id(rows.patient, ~np.isnan(rows.y.T), patients)
  for candidate in candidates:
    g = segments.by_id(rows.patient, np.where(np.abs(gamma_TxN) > candidate, gain_TxN, 0), patients)
    total = g.sum(-1)
    yield total, ((g - (total / n)[:, None] * count)**2).sum(-1)


def _gain_terms(y, f, cell, gamma_x, scale):
  """The Brier score's gain by the correction, and its square."""
  gain = _gain(y, f, gamma_x.take(cell), scale)
  return cell, (gain, gain * gain)


def _gain(y, f, gamma, scale):
  return np.where(np.isnan(y), 0, (f - y)**2 - (shifted(f, gamma, scale) - y)**2)


def _cells(values_TxKxP):
  """(T, K P): a column for each of Rows.cell."""
  return values_TxKxP.reshape(len(values_TxKxP), -1)


def shifted(f, gamma, scale):
  """Probabilities f with gamma added on the scale "probability" or "logit"."""
  if scale == "probability":
    return np.clip(f + gamma, 0, 1)
  return _sigmoid(_logit(f) + gamma)


def _logit(f):
  f = np.clip(f, EDGE, 1 - EDGE)
  return np.log(f) - np.log1p(-f)


def _sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * x)
