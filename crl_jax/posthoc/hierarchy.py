"""Corrects anybody's probabilities of one outcome by a hierarchy of levels, as far up as
calibration patients pay for: arrays in, arrays out, no model.

    eta = logit p                          none
    eta = logit p + a                      intercept
    eta = b logit p + a                    platt
    eta = b logit p + a + c . delta        modalities
    eta = ... + u[pattern]                 patterns

Each level has a prior of mean zero around the one below (a, b - 1, c and u are 0 there), whose
standard deviation is its *strength*. No test has to be passed: the logits of all levels and
strengths are averaged, each weighted by exp(the log-loss that it spares patients of other folds)
times a prior that halves with each level (pseudo-BMA; Yao et al. 2018, doi 10.1214/17-BA1091). What
gains nothing gets little, and where nothing gains, little changes.
Axes in names: N rows, M modalities, K folds.
"""

import dataclasses
import itertools
import typing

import numpy as np

from crl_jax.posthoc import logits, segments

LEVELS = ("none", "intercept", "platt", "modalities", "patterns")
STRENGTHS = (0.1, 0.3, 1.0)   # standard deviations of the prior, in log-odds
FEW = 100          # labelled patients below which nothing but the intercept is tried
FEWEST = 10        # labelled patients with the outcome, and without, below which nothing is
FOLDS = 5
_LEAST = 0.01      # of the largest weight: less is none


@dataclasses.dataclass(frozen=True)
class Correction:
  """What calibration rows say of a predictor.

  Attributes:
    levels: level -> its weight; they sum to 1.
    centre: mean logit of the calibration rows.
    weight: (2 + M,) a (at the centre), b - 1 and c.
    patterns: (P,) ids or (P, M) bits, sorted; effect: (P,) u. A pattern that is not there has 0.
    bits: whether patterns are told as bits.
  """
  levels: dict
  centre: float
  weight: np.ndarray
  patterns: np.ndarray
  effect: np.ndarray
  bits: bool

  @property
  def level(self):
    """That of the largest weight."""
    return max(self.levels, key=self.levels.get)

  def __call__(self, p, pattern):
    """Corrected probabilities (N,) of new rows, from p (N,) and pattern (N,) or (N, M), as those of
    the calibration rows."""
    if self.levels["none"] == 1:
      return np.array(p, float)
    p, pattern = _probabilities(p), _told(pattern)
    if (pattern.ndim == 2) != self.bits or self.bits and pattern.shape[1] != self.patterns.shape[1]:
      raise ValueError("rectify: patterns of new rows are not told as those of the calibration "
                       "rows.")
    logit = logits.of(p)
    effect = np.append(self.effect, 0.0)[_slots(self.patterns, pattern)]
    return logits.sigmoid(logit + _design(logit - self.centre, pattern) @ self.weight + effect)


@dataclasses.dataclass(frozen=True)
class Rectified:
  """Attributes:
    p: (N,) of the calibration rows, each corrected by what patients of other folds say, the weights
      included; NaN where the outcome is not known.
    correction: Correction of new rows, from all calibration rows.
    gain: {"log_loss", "brier"} -> {value, lo, hi}: how much lower the mean over labelled rows is
      with `p` than with what was given, with its 95% interval by patient.
    tried: per level and strength the expected gain in log-loss, its standard error and its weight.
    patients: labelled ones.
  """
  p: np.ndarray
  correction: Correction
  gain: dict
  tried: list
  patients: int


def rectify(y, p, pattern, patient, seed=0):
  """Corrects a predictor's probabilities of one outcome.

  Args:
    y: (N,) in {0, 1}; NaN where undefined, which counts in nothing.
    p: (N,) probabilities by a predictor that was not trained on these rows.
    pattern: (N, M) what was recorded, 0 or 1, or (N,) any ids, whose modalities are not known.
    patient: (N,) ids; a patient's rows are in one fold.
    seed: deals patients into folds.
  Returns:
    Rectified.
  Raises:
    ValueError: shapes that do not match, values that may not be, with their count.
  """
  y, p, pattern, patient = (np.asarray(y, float), _probabilities(p), _told(pattern),
                            np.asarray(patient))
  if not p.shape == y.shape == patient.shape == pattern.shape[:1]:
    raise ValueError(f"rectify: y {y.shape}, p {p.shape} and patient {patient.shape} must be (N,), "
                     f"pattern {pattern.shape} (N,) or (N, M).")
  if odd := int((~((y == 0) | (y == 1) | np.isnan(y))).sum()):
    raise ValueError(f"rectify: {odd} of {y.size} outcomes are neither 0, 1 nor undefined.")
  known = np.flatnonzero(~np.isnan(y))
  rows = _rows(y[known], p[known], pattern[known], patient[known], seed)
  out = [(), *itertools.combinations(range(FOLDS), 1), *itertools.combinations(range(FOLDS), 2)]
  fits = {folds: _fits(rows, ~np.isin(rows.fold, folds)) for folds in out}
  pooled = fits[()]
  weights, tried = _weigh(rows, {(k,): k for k in range(FOLDS)}, fits)
  p_known = p[known].copy()
  for k in range(FOLDS):
    # a fold's weights are chosen by the others, each corrected by what is left of them
    mine, theirs = rows.fold == k, _weigh(rows, {
        tuple(sorted((k, other))): other for other in range(FOLDS) if other != k}, fits)[0]
    if theirs[0] < 1:
      p_known[mine] = logits.sigmoid(_average(fits[k,], theirs).logit(rows, mine))
  final = np.full(len(y), np.nan)
  final[known] = p_known
  gains = {"log_loss": logits.log_loss(rows.y, rows.logit)
                       - logits.log_loss(rows.y, logits.of(p_known)),
           "brier": (p[known] - rows.y)**2 - (p_known - rows.y)**2}
  best = _average(pooled, weights)
  levels = {level: float(sum(w for w, fit in zip(weights, pooled) if fit.level == level))
            for level in rows.levels}
  return Rectified(
      final, Correction(levels, rows.centre, best.weight, rows.patterns, best.effect,
                        pattern.ndim == 2),
      {name: _interval(*_mean(gain, rows.patient)) for name, gain in gains.items()}, tried,
      rows.patients)


class _Rows(typing.NamedTuple):
  """Labelled calibration rows, and what an estimate may use of them."""
  y: np.ndarray         # (N,)
  logit: np.ndarray     # (N,)
  design: np.ndarray    # (N, 2 + M) 1, the centred logit, the bits
  slot: np.ndarray      # (N,) index into patterns
  patterns: np.ndarray
  patient: np.ndarray   # (N,) dense
  fold: np.ndarray      # (N,)
  centre: float
  patients: int
  levels: tuple         # that are tried


class _Fit(typing.NamedTuple):
  """One level and strength, from some rows."""
  level: str
  strength: float | None
  weight: np.ndarray    # (2 + M,)
  effect: np.ndarray    # (P,)

  def logit(self, rows, mask):
    """Corrected logits of the rows in `mask`."""
    return rows.logit[mask] + rows.design[mask] @ self.weight + self.effect[rows.slot[mask]]


def _rows(y, p, pattern, patient, seed):
  logit = logits.of(p)
  centre = float(logit.mean()) if len(logit) else 0.0
  bits = pattern.ndim == 2
  patterns, slot = np.unique(pattern, axis=0 if bits else None, return_inverse=True)
  patients, patient = np.unique(patient, return_inverse=True)
  turn = np.random.default_rng([5, seed]).permutation(len(patients)) % FOLDS
  ever = [len(np.unique(patient[y == label])) for label in (0, 1)]
  levels = LEVELS if bits else tuple(level for level in LEVELS if level != "modalities")
  if len(patients) < FEW:
    levels = LEVELS[:2]
  if min(ever) < FEWEST:
    levels = LEVELS[:1]
  return _Rows(y, logit, _design(logit - centre, pattern), slot.ravel(), patterns, patient,
               turn[patient], centre, len(patients), levels)


def _design(centred, pattern):
  bits = pattern if pattern.ndim == 2 else np.zeros((len(pattern), 0))
  return np.column_stack([np.ones(len(centred)), centred, bits])


def _fits(rows, mask):
  """[_Fit] of each level and strength from the rows in `mask`; the first is "none"."""
  y, logit, design, slot = (
      values[mask] for values in (rows.y, rows.logit, rows.design, rows.slot))
  width, count = design.shape[1], len(rows.patterns)
  flat, still = np.zeros(width), np.zeros(count)
  found = [_Fit("none", None, flat, still)]
  for level in rows.levels[1:]:
    for strength in STRENGTHS:
      # below the level's own block a wide prior: those have paid already
      used = {"intercept": 1, "platt": 2}.get(level, width)
      sd = np.full(used, 1.0)
      sd[{"intercept": 0, "platt": 1}.get(level, 2):] = strength
      weight = np.append(logits.newton(y, logit, design[:, :used], sd), flat[used:])
      effect = still if level != "patterns" else _effects(
          y, logit + design @ weight, slot, strength, count)
      found.append(_Fit(level, strength, weight, effect))
  return found


def _effects(y, offset, slot, sd, count):
  """(P,) effects of the patterns, each by itself: prior N(0, sd^2)."""
  effect = np.zeros(count)
  for _ in range(logits.STEPS):
    p = logits.sigmoid(offset + effect[slot])
    slope, curve = segments.by_id(slot, np.stack([y - p, p * (1 - p)]), count)
    step = np.clip((slope - effect / sd**2) / (curve + 1 / sd**2), -1, 1)
    effect = effect + step
    if np.abs(step).max() < logits.STILL:
      break
  return effect


def _average(fits, weights):
  """The _Fit whose logits are the average of those of `fits`."""
  return _Fit("average", None, sum(w * fit.weight for w, fit in zip(weights, fits)),
              sum(w * fit.effect for w, fit in zip(weights, fits)))


def _weigh(rows, judged, fits):
  """((C,) weights of the fits, [what was tried]).

  Args:
    judged: folds left out of an estimate -> the fold of them whose rows it is judged on.
    fits: folds left out -> [_Fit].
  """
  masks = {out: rows.fold == k for out, k in judged.items()}
  where = np.concatenate([np.flatnonzero(mask) for mask in masks.values()])
  y, before, patient = rows.y[where], rows.logit[where], rows.patient[where]
  tried = []
  for i, fit in enumerate(fits[()]):
    after = np.concatenate([fits[out][i].logit(rows, mask) for out, mask in masks.items()])
    gains = logits.log_loss(y, before) - logits.log_loss(y, after)
    gain, se = _mean(gains, patient)
    # a patient's rows repeat each other: they tell as much as fewer independent ones would
    alone = _mean(gains, np.arange(len(gains)))[1]
    told = len(gains) * min(1.0, (alone / se)**2 if se > 0 else 1.0)
    prior = 0.5**LEVELS.index(fit.level) / (len(STRENGTHS) if fit.strength else 1)
    tried.append(dict(level=fit.level, strength=fit.strength, gain=gain, se=se,
                      log=told * gain + np.log(prior)))
  log = np.array([row.pop("log") for row in tried])
  weights = np.exp(log - log.max())
  weights[weights < _LEAST] = 0
  weights /= weights.sum()
  return weights, [{**row, "weight": float(w)} for row, w in zip(tried, weights)]


def _mean(values, patient):
  """(mean over rows, its standard error by patient)."""
  if not len(values):
    return 0.0, 0.0
  mean = values.mean()
  by_patient = np.bincount(patient, values - mean)
  return float(mean), float(np.sqrt((by_patient**2).sum()) / len(values))


def _interval(mean, se):
  return dict(value=mean, lo=mean - 1.96 * se, hi=mean + 1.96 * se)


def _told(pattern):
  """Patterns as an array of ids, or of 0/1 float."""
  pattern = np.asarray(pattern)
  if pattern.ndim == 2:
    pattern = pattern.astype(float)
    if odd := int((~np.isin(pattern, (0, 1))).sum()):
      raise ValueError(f"rectify: {odd} of {pattern.size} bits of patterns are neither 0 nor 1.")
  return pattern


def _slots(patterns, pattern):
  """(N,) index of each of `pattern` among the sorted `patterns`, or P where it is not there."""
  if not len(patterns):
    return np.zeros(len(pattern), np.int64)
  both, index = np.unique(np.concatenate([patterns, pattern]), return_inverse=True,
                          axis=0 if pattern.ndim == 2 else None)
  index, slot = index.ravel(), np.full(len(both), len(patterns))
  slot[index[:len(patterns)]] = np.arange(len(patterns))
  return slot[index[len(patterns):]]


def _probabilities(p):
  p = np.asarray(p, float)
  if odd := int((~((p >= 0) & (p <= 1))).sum()):
    raise ValueError(f"rectify: {odd} of {p.size} predictions are not probabilities within 0..1.")
  return p
