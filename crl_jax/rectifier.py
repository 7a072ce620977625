"""Cross-fitted residual aggregation over pattern ids (arXiv 2509.17228, stage 2): arrays in, arrays
out, no model.

    gamma_t[p] = mean of (y - f) over the labelled calibration rows of pattern p
    f_rect     = clip(f + 1[|gamma| > threshold_t] gamma, 0, 1)

A calibration row is corrected with an estimate that its patient's fold had no part in, a new row
with the pooled one. Everything comes from segment sums over the id (task, fold, pattern), each one
pass over the rows: NumPy's where they are few, a compiled program's where they are many. Axes in
names: N rows, T tasks, P patterns, C clusters (the rows of one patient in one pattern), K folds, G
= K + 1 estimates: for g < K that of all folds but g, and last the pooled one.
"""

import dataclasses
import functools
import math
import typing

import numpy as np

from crl_jax import segments
from crl_jax.data import cohort as cohort_lib

_PRIOR_ROWS = 4.0   # nu_0: how many rows the task's variance counts for in the variance of a cell
_FEW = 5            # rows of the rarer class below which a cell's own variance is not believed
# times gamma^2 / 2 on the logit scale: keeps a cell of one class finite, invisible in any other
_RIDGE = 0.05
# probabilities are kept this far from 0 and 1 before their logit; no variance is below its square
EDGE = 1e-6
# steps of at most 1 each: for this convex problem such steps never overshoot by more than they gain
_NEWTON = 40
_STILL = 1e-12   # a step that ends a cell's iteration
_SURE = 1.645    # standard errors that a correction must gain: the one-sided 5% level


@dataclasses.dataclass(frozen=True)
class Rectifier:
  """What calibration rows say of T tasks in P patterns.

  Attributes:
    patterns: (P,) int64 pattern ids, ascending.
    n: (T, P) labelled rows.
    gamma: (T, P) mean residual, or shift of the logit; NaN where n is 0.
    se, lo, hi: (T, P) its standard error, clustered by patient, and 95% interval; NaN where n is 0.
    gamma_shrunk: (T, P) empirical-Bayes estimate; the prior mean where n is 0.
    prior_mean, prior_sd: (T,) of gamma over patterns. A pattern never seen gets prior_mean.
    prior_se: (T,) standard error of that: the spread over patterns and the error of the mean. NaN
      without labels.
    threshold: (T,) a gamma is applied where its absolute value is larger; inf: no correction.
    scale: "probability" | "logit".
    shrinkage: True where gamma_shrunk is applied, False where gamma is.
  """
  patterns: np.ndarray
  n: np.ndarray
  gamma: np.ndarray
  se: np.ndarray
  lo: np.ndarray
  hi: np.ndarray
  gamma_shrunk: np.ndarray
  prior_mean: np.ndarray
  prior_sd: np.ndarray
  prior_se: np.ndarray
  threshold: np.ndarray
  scale: str
  shrinkage: bool

  @property
  def table(self):
    """(T, P + 1) the gamma of every pattern before the threshold; last, that of a pattern never
    seen."""
    chosen = self.gamma_shrunk if self.shrinkage else np.where(
        self.n > 0, self.gamma, self.prior_mean[:, None])
    return np.concatenate([chosen, self.prior_mean[:, None]], axis=1)


def fit(y, f, pattern, patient, config, seed):
  """Estimates gamma on calibration rows, and the threshold by cross-validation among them.

  Args:
    y: (N, T) outcomes in {0, 1}; NaN where undefined, which counts in nothing.
    f: (N, T) probabilities by a model that was not trained on these rows.
    pattern: (N,) pattern ids.
    patient: (N,) ids; all rows of a patient are in one fold.
    config: config.rectifier.
    seed: deals the patients into config.folds folds.
  Returns:
    `Rectifier`, its table the pooled estimate.
  Raises:
    ValueError: shapes that do not match, f outside 0..1, y other than 0, 1 or NaN, an impossible
      config.
  """
  rows = _checked(y, f, pattern, patient, config, seed)
  estimates = _estimate(rows, config)
  return dataclasses.replace(_at(estimates, -1), threshold=_threshold(rows, estimates, config))


def cross_fitted(y, f, pattern, patient, config, seed):
  """Returns calibration rows (N, T), each corrected with the estimate of the other folds. Arguments
  as `fit`."""
  rows = _checked(y, f, pattern, patient, config, seed)
  estimates = _estimate(rows, config)
  return _corrected(rows.f, _held_out(rows, estimates), _threshold(rows, estimates, config),
                    config.scale)


def apply(rectifier, f, pattern):
  """Returns corrected probabilities (N, T) of new rows, from base probabilities f (N, T) and
  pattern ids (N,)."""
  f = _probabilities(f)
  gamma_NxT = rectifier.table[:, _slot(rectifier.patterns, pattern)].T
  return _corrected(f, gamma_NxT, rectifier.threshold, rectifier.scale)


def unseen(rectifier, pattern):
  """Returns (N,) bool, True where no calibration row had the pattern: `apply` gives such rows the
  prior mean."""
  return _slot(rectifier.patterns, pattern) == len(rectifier.patterns)


def to_dict(rectifier, tasks, modalities):
  """Returns the rectifier as JSON types, a readable entry per task and pattern. null: no value, or
  no threshold."""
  r, table = rectifier, rectifier.table
  number = lambda x: float(x) if np.isfinite(x) else None
  applied = np.where(np.abs(table) > r.threshold[:, None], table, 0.0)
  cell = lambda t, p: dict(
      pattern=int(r.patterns[p]), name=cohort_lib.pattern_name(r.patterns[p], modalities),
      n=int(r.n[t, p]),
      **{k: number(getattr(r, k)[t, p]) for k in ("gamma", "se", "lo", "hi", "gamma_shrunk")},
      applied=number(applied[t, p]))
  return dict(scale=r.scale, shrinkage=r.shrinkage, patterns=r.patterns.tolist(), tasks={task: dict(
      threshold=number(r.threshold[t]),
      unseen=dict(gamma=number(r.prior_mean[t]), sd=number(r.prior_sd[t]),
                  se=number(r.prior_se[t]), applied=number(applied[t, -1])),
      cells=[cell(t, p) for p in range(len(r.patterns))]) for t, task in enumerate(tasks)})


def from_dict(entry, tasks):
  """Returns the `Rectifier` whose `to_dict` is `entry`, with its tasks in the order of `tasks`."""
  found = [entry["tasks"][task] for task in tasks]
  number = lambda x, null=np.nan: null if x is None else x
  shape = (len(tasks), len(entry["patterns"]))
  cells = lambda key: np.array([[number(c[key]) for c in t["cells"]] for t in found],
                               float).reshape(shape)
  prior = lambda key: np.array([number(t["unseen"][key]) for t in found], float)
  return Rectifier(
      patterns=np.array(entry["patterns"], np.int64), n=cells("n").astype(np.int64),
      **{k: cells(k) for k in ("gamma", "se", "lo", "hi", "gamma_shrunk")},
      prior_mean=prior("gamma"), prior_sd=prior("sd"), prior_se=prior("se"),
      threshold=np.array([number(t["threshold"], np.inf) for t in found], float),
      scale=entry["scale"], shrinkage=entry["shrinkage"])


class _Rows(typing.NamedTuple):
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


def _checked(y, f, pattern, patient, config, seed):
  y, f, pattern, patient = (np.asarray(y, float), _probabilities(f), np.asarray(pattern),
                            np.asarray(patient))
  if y.shape != f.shape or pattern.shape != (len(y),) or patient.shape != (len(y),):
    raise ValueError(f"rectifier: y {y.shape} and f {f.shape} must be (N, T), pattern "
                     f"{pattern.shape} and patient {patient.shape} (N,).")
  if odd := segments.count(lambda y: ~((y == 0) | (y == 1) | np.isnan(y)), y):
    raise ValueError(f"rectifier: {odd} of {y.size} labels are neither 0, 1 nor NaN; mark "
                     "undefined outcomes as NaN.")
  if config.folds < 2 or config.scale not in ("probability", "logit") or min(config.thresholds) < 0:
    raise ValueError("config.rectifier: folds must be at least 2, scale 'probability' or 'logit', "
                     "thresholds >= 0.")
  patterns, pattern = segments.dense(pattern.astype(np.int64, copy=False))
  patients, patient = segments.dense(patient)
  fold = _deal(len(patients), config.folds, seed)[patient]
  return _Rows(y, f, pattern, patient, fold, fold * np.int32(len(patterns)) + pattern, patterns,
               config.folds, len(patients) == len(y))


def _probabilities(f):
  f = np.asarray(f, float)
  if odd := segments.count(lambda f: ~((f >= 0) & (f <= 1)), f):
    raise ValueError(f"rectifier: {odd} of {f.size} base predictions are not probabilities within "
                     "0..1; look for a diverged model, or logits passed as probabilities.")
  return f


def _deal(patients, folds, seed):
  """(patients,) int32 folds: of every `folds` patients in turn one each, from a random start. A
  random permutation's memory access would cost more than everything else on many rows."""
  start = np.random.default_rng([2, seed]).integers(folds, size=-(-patients // folds))
  rotations = (np.arange(folds)[:, None] + np.arange(folds)) % folds
  return rotations.astype(np.int32)[start].ravel()[:patients]


def _slot(patterns, pattern):
  """Index of `pattern` (N,) in the sorted `patterns` (P,), or P where it is not there."""
  pattern = np.asarray(pattern, np.int64)
  slot = np.searchsorted(patterns, pattern)
  return np.where(np.append(patterns, -1)[slot] == pattern, slot, len(patterns))


def _sums(terms, rows, kinds, *tables):
  """Sums over the rows of every (task, fold, pattern), in float64.

  Args:
    terms: (xp, y, f, cell, *tables) -> ids (n, T) of (cell, kind, task) and values (n, T, Q) of n
      rows, xp NumPy or jax.numpy. Where y is NaN, values must be 0 or of a kind that nobody asks
      for.
    rows: _Rows.
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


def _estimate(rows, config):
  """Returns a `Rectifier` without thresholds whose arrays have an axis G after T."""
  from scipy import special
  cells = _probability_cells if config.scale == "probability" else _logit_cells
  n, gamma, variance, freedom = (x.astype(float) for x in cells(rows))   # (T, G, P) each
  some = n > 0
  gamma, se = np.where(some, gamma, np.nan), np.where(some, np.sqrt(variance), np.nan)
  half = se * special.stdtrit(freedom, 0.975)
  mean, sd, mean_se = _prior(np.where(some, gamma, 0), variance, some)
  keep = sd[..., None]**2 / (sd[..., None]**2 + variance)
  shrunk = np.where(some, mean[..., None] + keep * (np.where(some, gamma, 0) - mean[..., None]),
                    mean[..., None])
  return Rectifier(
      patterns=rows.patterns, n=n.astype(np.int64), gamma=gamma, se=se, lo=gamma - half,
      hi=gamma + half, gamma_shrunk=shrunk, prior_mean=mean,
      prior_sd=np.where(some.any(-1), sd, np.nan),
      prior_se=np.where(some.any(-1), np.hypot(sd, mean_se), np.nan),
      threshold=np.full(len(n), np.inf), scale=config.scale, shrinkage=bool(config.shrinkage))


def _at(estimates, g):
  """The `Rectifier` of estimate g."""
  arrays = ("n", "gamma", "se", "lo", "hi", "gamma_shrunk", "prior_mean", "prior_sd", "prior_se")
  return dataclasses.replace(estimates, **{k: getattr(estimates, k)[:, g] for k in arrays})


def _held_out(rows, estimates):
  """(N, T) gamma of each row by the folds that its patient is not in."""
  return _folds_table(rows, estimates)[rows.fold, :, rows.pattern]


def _folds_table(rows, estimates):
  """(K, T, P + 1) gamma of each fold's rows, by the other folds."""
  return np.stack([_at(estimates, g).table for g in range(rows.folds)])


def _probability_cells(rows):
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


def _logit_cells(rows):
  """As `_probability_cells` with gamma the root of sum(y - sigmoid(logit f + gamma)) = ridge gamma,
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


def _prior(gamma, variance, some):
  """Mean, sd and standard error of the mean of gamma over patterns, by moments (DerSimonian and
  Laird 1986)."""
  total = lambda values: np.where(some, values, 0).sum(-1)
  mean = lambda weight: np.divide(total(weight * gamma), total(weight), where=some.any(-1),
                                  out=np.zeros(some.shape[:-1]))
  weight = 1 / variance
  excess = total(weight * (gamma - mean(weight)[..., None])**2) - (some.sum(-1) - 1)
  spread = total(weight) - total(weight**2) / np.maximum(total(weight), EDGE)
  tau2 = np.maximum(np.divide(excess, spread, where=some.sum(-1) > 1,
                              out=np.zeros(spread.shape)), 0)
  weight = 1 / (variance + tau2[..., None])
  return mean(weight), np.sqrt(tau2), 1 / np.sqrt(np.maximum(total(weight), EDGE))


def _threshold(rows, estimates, config):
  """(T,) thresholds: the smallest Brier score of the held-out corrections, if its gain on no
  correction is significant (by patient, one-sided at 5%); else inf. Among equals the largest, which
  changes least."""
  gamma_TxKxP = _folds_table(rows, estimates)[..., :-1].transpose(1, 0, 2)
  gains = _alone_gains if rows.alone else _patient_gains
  n = np.maximum(estimates.n[:, -1].sum(-1), 1)
  best, gain = np.full(len(n), np.inf), np.zeros(len(n))
  candidates = sorted(config.thresholds, reverse=True)
  for candidate, found in zip(candidates, gains(rows, n, gamma_TxKxP, candidates, config.scale)):
    mean, se = found[0] / n, np.sqrt(np.maximum(found[1], 0)) / n
    better = (mean > gain) & (mean > _SURE * se)
    best, gain = np.where(better, candidate, best), np.where(better, mean, gain)
  return best


def _alone_gains(rows, n, gamma_TxKxP, candidates, scale):
  """For each candidate the sum of the gains, (T,), and the sum over patients of (sum of his gains,
  the mean taken out)^2, where a patient has one row: a cell's rows are corrected all or none."""
  gain, squares = _sums(_GAIN_TERMS[scale], rows, 1, _cell_table(gamma_TxKxP))[:, 0]
  for candidate in candidates:
    on = np.abs(gamma_TxKxP) > candidate
    total = (on * gain).sum((1, 2))
    yield total, (on * squares).sum((1, 2)) - total**2 / n


def _patient_gains(rows, n, gamma_TxKxP, candidates, scale):
  """As _alone_gains, where patients have several rows."""
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
  better = _shifted(f, table[ids], scale, xp)
  gain = xp.where(xp.isnan(y), 0, (f - y)**2 - (better - y)**2)
  return ids, xp.stack([gain, gain * gain], -1)


# named once: a program is compiled for each function that it is given
_GAIN_TERMS = {scale: functools.partial(_gain_terms, scale=scale)
               for scale in ("probability", "logit")}


def _cell_table(values_TxKxP):
  """(K P T,) in the order of _ids."""
  return np.ascontiguousarray(values_TxKxP.transpose(1, 2, 0)).ravel()


def _corrected(f, gamma_NxT, threshold_T, scale):
  return np.where(np.abs(gamma_NxT) > threshold_T, _shifted(f, gamma_NxT, scale), f)


def _shifted(f, gamma, scale, xp=np):
  if scale == "probability":
    return xp.clip(f + gamma, 0, 1)
  return _sigmoid(_logit(f, xp) + gamma, xp)


def _logit(f, xp=np):
  f = xp.clip(f, EDGE, 1 - EDGE)
  return xp.log(f) - xp.log1p(-f)


def _sigmoid(x, xp=np):
  return 0.5 + 0.5 * xp.tanh(0.5 * x)
