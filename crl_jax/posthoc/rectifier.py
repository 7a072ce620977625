"""Cross-fitted residual aggregation over pattern ids (arXiv 2509.17228, stage 2): arrays in, arrays
out, no model.

    gamma_t[p] = mean of (y - f) over the labelled calibration rows of pattern p
    f_rect     = clip(f + 1[|gamma| > threshold_t] gamma, 0, 1)

A calibration row is corrected with an estimate that its patient's fold had no part in, a new row
with the pooled one. `checked` rows, their `estimate` and `thresholds` are the steps of `fit` and
`cross_fitted`; what they add up is in residuals.py. Axes in names: N rows, T tasks, P patterns, K
folds, G = K + 1 estimates: for g < K that of all folds but g, last the pooled one.
"""

import dataclasses

import numpy as np

from crl_jax.data import cohort as cohort_lib
from crl_jax.posthoc import residuals, segments
from crl_jax.statistics import predictions

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
  rows = checked(y, f, pattern, patient, config, seed)
  estimates = estimate(rows, config)
  return dataclasses.replace(_at(estimates, -1), threshold=thresholds(rows, estimates, config))


def cross_fitted(y, f, pattern, patient, config, seed):
  """Returns calibration rows (N, T), each corrected with the estimate of the other folds. Arguments
  as `fit`."""
  rows = checked(y, f, pattern, patient, config, seed)
  estimates = estimate(rows, config)
  return _corrected(rows.f, _held_out(rows, estimates), thresholds(rows, estimates, config),
                    config.scale)


def apply(rectifier, f, pattern):
  """Returns corrected probabilities (N, T) of new rows, from base probabilities f (N, T) and
  pattern ids (N,); a pattern that no calibration row had gets the prior mean."""
  f = _probabilities(f)
  gamma_NxT = rectifier.table[:, _slot(rectifier.patterns, pattern)].T
  return _corrected(f, gamma_NxT, rectifier.threshold, rectifier.scale)


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


def checked(y, f, pattern, patient, config, seed):
  """Returns the calibration rows as `residuals.Rows`: ids dense, patients dealt into folds.
  Arguments and errors as of `fit`."""
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
  return residuals.Rows(
      y, f, pattern, patient, fold, fold * np.int32(len(patterns)) + pattern, patterns,
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


def estimate(rows, config):
  """Returns a `Rectifier` of the `checked` rows whose arrays have an axis G after T, without
  thresholds."""
  from scipy import special
  cells = residuals.probability_cells if config.scale == "probability" else residuals.logit_cells
  n, gamma, variance, freedom = (x.astype(float) for x in cells(rows))   # (T, G, P) each
  some = n > 0
  gamma, se = np.where(some, gamma, np.nan), np.where(some, np.sqrt(variance), np.nan)
  half = se * special.stdtrit(freedom, 0.975)
  mean, sd, mean_se = prior(np.where(some, gamma, 0), variance, some)
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


def prior(gamma, variance, some):
  """Mean, sd and standard error of the mean of gamma over patterns, by moments (DerSimonian and
  Laird 1986)."""
  total = lambda values: np.where(some, values, 0).sum(-1)
  mean = lambda weight: np.divide(total(weight * gamma), total(weight), where=some.any(-1),
                                  out=np.zeros(some.shape[:-1]))
  weight = 1 / variance
  excess = total(weight * (gamma - mean(weight)[..., None])**2) - (some.sum(-1) - 1)
  spread = total(weight) - total(weight**2) / np.maximum(total(weight), residuals.EDGE)
  tau2 = np.maximum(np.divide(excess, spread, where=some.sum(-1) > 1,
                              out=np.zeros(spread.shape)), 0)
  weight = 1 / (variance + tau2[..., None])
  return mean(weight), np.sqrt(tau2), 1 / np.sqrt(np.maximum(total(weight), residuals.EDGE))


def thresholds(rows, estimates, config):
  """Returns (T,) thresholds for the `estimates` of the `checked` rows: the smallest Brier score of
  the held-out corrections, if its gain on no correction is significant (by patient, one-sided at
  5%); else inf. Among equals the largest, which changes least."""
  gamma_TxKxP = _folds_table(rows, estimates)[..., :-1].transpose(1, 0, 2)
  gains = residuals.alone_gains if rows.alone else residuals.patient_gains
  n = np.maximum(estimates.n[:, -1].sum(-1), 1)
  best, gain = np.full(len(n), np.inf), np.zeros(len(n))
  candidates = sorted(config.thresholds, reverse=True)
  for candidate, found in zip(candidates, gains(rows, n, gamma_TxKxP, candidates, config.scale)):
    mean, se = found[0] / n, np.sqrt(np.maximum(found[1], 0)) / n
    better = (mean > gain) & (mean > _SURE * se)
    best, gain = np.where(better, candidate, best), np.where(better, mean, gain)
  return best


def _corrected(f, gamma_NxT, threshold_T, scale):
  return np.where(np.abs(gamma_NxT) > threshold_T, residuals.shifted(f, gamma_NxT, scale), f)


def rectify_table(table, tasks, modalities, config, seed):
  """Adds p_<task> to every line of the table.

  Each member's rectifier is fitted on its own validation lines: its test lines take the pooled
  estimate, its validation lines that of the other calibration folds. The rectifier for new
  patients, whose base prediction is the members' average, pools the validation lines of all
  members.

  Args:
    table: the parts of all members, with p_base_<task>.
    tasks, modalities: names.
    config: config.rectifier.
    seed: deals calibration patients into folds.
  Returns:
    (table, {"members": [...], "pooled": ...}): rectifiers as plain dicts.
  """
  base = predictions.matrix(table, "p_base_", tasks)
  final = base.copy()
  members = []
  arguments = lambda mask: (
      predictions.matrix(table[mask], "y_", tasks), base[mask], table.pattern[mask].to_numpy(),
      table.patient_id[mask].to_numpy())
  val = (table.role == "val").to_numpy()
  if config.enabled:
    for (fold, seed_of_member), lines in table.groupby(["fold", "seed"], sort=True).indices.items():
      mine = np.zeros(len(table), bool)
      mine[lines] = True
      fitted = fit(*arguments(mine & val), config, seed)
      final[mine & val] = cross_fitted(*arguments(mine & val), config, seed)
      test = mine & ~val
      final[test] = apply(fitted, base[test], table.pattern[test].to_numpy())
      members.append({"fold": int(fold), "seed": int(seed_of_member),
                      **to_dict(fitted, tasks, modalities)})
  pooled = to_dict(fit(*arguments(val), config, seed), tasks, modalities)
  table = predictions.with_columns(table, {f"p_{task}": final[:, t]
                                           for t, task in enumerate(tasks)})
  return table, {"enabled": bool(config.enabled), "members": members, "pooled": pooled}
