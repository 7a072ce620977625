"""Cross-fitted residual aggregation over pattern ids (arXiv 2509.17228, stage 2): arrays in, arrays
out, no model.

    gamma_t[p] = mean of (y - f) over the labelled calibration rows of pattern p
    f_rect     = clip(f + 1[|gamma| > threshold_t] gamma, 0, 1)

A calibration row is corrected with an estimate that its patient's fold had no part in, a new row
with the pooled one. Everything comes from segment sums over the id (task, fold, pattern). Axes in
names: N rows, T tasks, P patterns, C clusters (the rows of one patient in one pattern), K folds, G
= K + 1 estimates: for g < K that of all folds but g, and last the pooled one.
"""

import dataclasses
import typing

import numpy as np

from crl_jax.data import cohort as cohort_lib

_PRIOR_ROWS = 4.0   # nu_0: how many rows the task's variance counts for in the variance of a cell
_FEW = 5            # rows of the rarer class below which a cell's own variance is not believed
# times gamma^2 / 2 on the logit scale: keeps a cell of one class finite, invisible in any other
_RIDGE = 0.05
# probabilities are kept this far from 0 and 1 before their logit; no variance is below its square
EDGE = 1e-6
# steps of at most 1 each: for this convex problem such steps never overshoot by more than they gain
_NEWTON = 40


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
  patterns: np.ndarray  # (P,) ids
  folds: int

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
  if odd := int((~np.isin(y, (0, 1)) & ~np.isnan(y)).sum()):
    raise ValueError(f"rectifier: {odd} of {y.size} labels are neither 0, 1 nor NaN; mark "
                     "undefined outcomes as NaN.")
  if config.folds < 2 or config.scale not in ("probability", "logit") or min(config.thresholds) < 0:
    raise ValueError("config.rectifier: folds must be at least 2, scale 'probability' or 'logit', "
                     "thresholds >= 0.")
  patterns, pattern = np.unique(pattern.astype(np.int64), return_inverse=True)
  patients, patient = np.unique(patient, return_inverse=True)
  fold = np.random.default_rng([2, seed]).permutation(len(patients)) % config.folds
  return _Rows(y, f, pattern, patient, fold[patient], patterns, config.folds)


def _probabilities(f):
  f = np.asarray(f, float)
  if odd := int((~((f >= 0) & (f <= 1))).sum()):
    raise ValueError(f"rectifier: {odd} of {f.size} base predictions are not probabilities within "
                     "0..1; look for a diverged model, or logits passed as probabilities.")
  return f


def _slot(patterns, pattern):
  """Index of `pattern` (N,) in the sorted `patterns` (P,), or P where it is not there."""
  pattern = np.asarray(pattern, np.int64)
  slot = np.searchsorted(patterns, pattern)
  return np.where(np.append(patterns, -1)[slot] == pattern, slot, len(patterns))


def _segment(ids_N, values, size):
  """Sums `values` (..., N) over equal `ids_N`: (..., size)."""
  flat = values.reshape(int(np.prod(values.shape[:-1])), values.shape[-1])
  ids = ids_N + size * np.arange(len(flat))[:, None]
  return np.bincount(ids.ravel(), flat.ravel(), len(flat) * size).reshape(*values.shape[:-1], size)


def _clusters(rows):
  """Returns the cluster of each row (N,), and a row of each cluster (C,)."""
  _, first, cluster = np.unique(
      rows.patient * len(rows.patterns) + rows.pattern, return_index=True, return_inverse=True)
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
  table = np.stack([_at(estimates, g).table for g in range(rows.folds)])   # (K, T, P + 1)
  return table[rows.fold, :, rows.pattern]


def _probability_cells(rows):
  """n, mean residual, its variance and degrees of freedom, (T, G, P) each.

  The variance of a mean of C clusters is S / n^2 * C / (C - 1), S = sum over clusters of (sum of
  residuals)^2, the mean taken out. It is moderated by the task's (Smyth 2004, doi
  10.2202/1544-6115.1027). Residuals of one class vary with f only: in a cell with fewer than _FEW
  rows of a class it is not below what a binomial outcome would give, at the smoothed rate of the
  cell (Agresti and Coull 1998) or at f, whichever is less.
  """
  valid = ~np.isnan(rows.y.T)
  residual = np.where(valid, rows.y.T - rows.f.T, 0)
  cluster, first = _clusters(rows)
  count, total, events, binomial = _segment(cluster, np.stack(
      [valid, residual, np.nan_to_num(rows.y.T), valid * (rows.f * (1 - rows.f)).T]), len(first))
  sums = _segment(rows.fold[first] * len(rows.patterns) + rows.pattern[first],
                  np.stack([count, count > 0, total, total**2, count * total, count**2, events,
                            binomial]), rows.folds * len(rows.patterns))
  sums = sums.reshape(*sums.shape[:-1], rows.folds, len(rows.patterns))
  n, clusters, r, rr, nr, nn, events, binomial = np.einsum("gk,qtkp->qtgp", rows.mix, sums)
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


def _logit_cells(rows):
  """As `_probability_cells` with gamma the root of sum(y - sigmoid(logit f + gamma)) = ridge gamma,
  by Newton's method.

  The variance is the inverse information, times the clusters' design effect where that is above 1.
  """
  shape = rows.y.shape[1], rows.folds + 1, len(rows.patterns)
  inside = rows.mix[:, rows.fold]   # (G, N)
  weight_TxGxN = ~np.isnan(rows.y.T)[:, None] * inside
  y_Tx1xN, logit_Tx1xN = np.nan_to_num(rows.y.T)[:, None], _logit(rows.f).T[:, None]
  per_cell = lambda values: _segment(rows.pattern, values, shape[-1])
  gamma = np.zeros(shape)

  def moments():
    p = _sigmoid(logit_Tx1xN + gamma[..., rows.pattern])
    return weight_TxGxN * (y_Tx1xN - p), per_cell(weight_TxGxN * p * (1 - p)) + _RIDGE

  for _ in range(_NEWTON):
    residual, information = moments()
    gamma = gamma + np.clip((per_cell(residual) - _RIDGE * gamma) / information, -1, 1)
  residual, information = moments()
  cluster, first = _clusters(rows)
  count, total = _segment(cluster, np.stack([weight_TxGxN, residual]), len(first))
  by_cluster = lambda values: _segment(rows.pattern[first], values, shape[-1])
  independent = np.maximum(per_cell(residual**2), EDGE**2)
  design = np.maximum(by_cluster(total**2) / independent, 1)
  freedom = np.maximum(by_cluster(count > 0) - 1, 0) + _PRIOR_ROWS
  return per_cell(weight_TxGxN), gamma, design / information, freedom


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
  correction is above one standard error (by patient); else inf. Among equals the largest, which
  changes least."""
  valid = ~np.isnan(rows.y)
  gamma, patients = _held_out(rows, estimates), int(rows.patient.max(initial=-1)) + 1
  n = np.maximum(valid.sum(0), 1)
  count = _segment(rows.patient, valid.T, patients)
  best, gain = np.full(rows.y.shape[1], np.inf), np.zeros(rows.y.shape[1])
  for candidate in sorted(config.thresholds, reverse=True):
    corrected = _corrected(rows.f, gamma, np.full(len(n), candidate), config.scale)
    gains = np.where(valid, (rows.f - rows.y)**2 - (corrected - rows.y)**2, 0).T
    mean = gains.sum(-1) / n
    se = np.sqrt(((_segment(rows.patient, gains, patients) - mean[:, None] * count)**2).sum(-1)) / n
    better = (mean > gain) & (mean > se)
    best, gain = np.where(better, candidate, best), np.where(better, mean, gain)
  return best


def _corrected(f, gamma_NxT, threshold_T, scale):
  shifted = f + gamma_NxT if scale == "probability" else _sigmoid(_logit(f) + gamma_NxT)
  return np.where(np.abs(gamma_NxT) > threshold_T, np.clip(shifted, 0, 1), f)


def _logit(f):
  f = np.clip(f, EDGE, 1 - EDGE)
  return np.log(f) - np.log1p(-f)


def _sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * x)
