"""Confounders that are missing not at random, as inputs of nuisances; rows that nobody annotated.

Four kinds of "not at random", each with what must hold for it:

1. The pattern of phi is a confounder: Y(t) is independent of T given (X, delta). `Patterns`.
2. Values of X are missing in annotated rows: Y(t) is independent of T given (X R, R), because
   clinicians act on what was recorded. `Design`, zeros and indicators.
3. Who was annotated is not representative: S is independent of X given V = (phi, T, Y, delta).
   `seen_probability`, `weights` and `augmented`.
4. The treatment followed values that nobody recorded: no estimator; only a sensitivity analysis.
"""

import typing

import numpy as np

from crl_jax.data.cohort import CohortError
from crl_jax.policy import boosting
from crl_jax.statistics import orthogonal

FEWEST = 30      # rows of a pattern that has a column of its own
LEAST = 0.05     # that the probability of being annotated may be


class Design(typing.NamedTuple):
  """What standardises annotations: kept (Q,) bool, center and spread (Q,), gaps (Q,) bool whose
  indicators are columns too, and the names of the dropped."""
  kept: np.ndarray
  center: np.ndarray
  spread: np.ndarray
  gaps: np.ndarray
  dropped: tuple


def usable(x, annotated, missing):
  """(N,) bool: the rows that nuisances on X can use.

  Args:
    x: (N, Q), NaN where not recorded.
    annotated: (N,) bool.
    missing: "indicators"; "complete", rows with every value, another population; or "refuse".
  Raises:
    CohortError: a gap that is to be refused.
  """
  complete = annotated & ~np.isnan(x).any(1)
  if missing == "refuse" and (gaps := int((annotated & ~complete).sum())):
    raise CohortError(f"{gaps} annotated rows lack a value of X and policy.annotation_missing is "
                      "'refuse': 'indicators' uses them, under the assumption that whoever treated "
                      "acted on what was recorded.")
  return complete if missing == "complete" else annotated


def fit(x, names, most):
  """The Design of the rows `x` (N, Q): annotations missing in a larger share than `most`, or
  constant, are dropped."""
  gap = np.isnan(x)
  share = gap.mean(0)
  count = np.maximum((~gap).sum(0), 1)
  center = np.where(gap, 0, x).sum(0) / count
  spread = np.sqrt(np.where(gap, 0, (x - center)**2).sum(0) / count)
  kept = (share <= most) & (share < 1) & ((spread > 1e-9) | (share > 0))
  return Design(kept, center, np.where(spread > 1e-9, spread, 1), kept & (share > 0),
                tuple(np.asarray(names, object)[~kept]))


def transform(design, x):
  """(N, F) float64: standardised values, 0 where missing, and the 0/1 indicators of a record."""
  z = np.where(np.isnan(x), 0, (x - design.center) / design.spread)
  return np.concatenate([z[:, design.kept], ~np.isnan(x[:, design.gaps])], 1)


class Patterns(typing.NamedTuple):
  """The ids (P,) of patterns with columns of their own; all others share one."""
  ids: np.ndarray


def fit_patterns(pattern):
  """The Patterns of the rows with ids `pattern` (N,)."""
  ids, rows = np.unique(pattern, return_counts=True)
  return Patterns(ids[rows >= FEWEST])


def pattern_columns(patterns, pattern):
  """(N, P + 1) float64, one-hot; the last column is that of the others. No column where all rows
  share one pattern."""
  if len(patterns.ids) < 2:
    return np.zeros((len(pattern), 0))
  own = pattern[:, None] == patterns.ids
  return np.concatenate([own, ~own.any(1, keepdims=True)], 1).astype(np.float64)


def inputs(kind, x, phi, pattern):
  """(N, F) what nuisances see, of `kind` "x", "x+pattern", "x+phi" or "phi".

  Args:
    x: (N, Q') transform()ed annotations.
    phi: (N, D) representation, the bits of the pattern among it.
    pattern: (N, P) pattern_columns().
  """
  parts = {"x": (x,), "x+pattern": (x, pattern), "x+phi": (x, phi), "phi": (phi,)}[kind]
  return np.concatenate(parts, 1)


def selection_inputs(phi, treatment, outcome):
  """(N, D + 3) V: the representation, T, Y standardised, and their product."""
  y = (outcome - outcome.mean()) / max(outcome.std(), 1e-9)
  return np.concatenate([phi, np.stack([treatment, y, treatment * y], 1)], 1)


def seen_probability(v, annotated, fold, method, seed):
  """(N,) cross-fitted P(S = 1 | V), at least LEAST.

  Args:
    v: (N, D) selection_inputs().
    annotated: (N,) bool.
    fold: (N,) of each row's patient.
    method: "logistic" or "boosting".
    seed: int.
  """
  s = annotated.astype(int)
  if s.all():
    return np.ones(len(s))
  if method == "logistic":
    found = orthogonal.classes(v, s, fold, 2)[:, 1]
  else:
    found = np.empty(len(s))
    for k in np.unique(fold):
      rest = np.flatnonzero(fold != k)
      predict = boosting.fit(v, s, np.ones(len(s)), rest, rest[:0], True, seed)
      found[fold == k] = predict(v[fold == k])
  return np.maximum(found, LEAST)


def weights(annotated, probability):
  """(N,) S / pi: 0 for rows that nobody annotated."""
  return np.where(annotated, 1 / probability, 0)


def augmented(delta, annotated, probability, v, fold):
  """(N,) pseudo-outcomes of all rows, S / pi (Delta - m(V)) + m(V), m a cross-fitted regression of
  Delta on V among the annotated (Robins, Rotnitzky and Zhao 1994).

  Args:
    delta: (N,) of the annotated rows; others are ignored.
    annotated, probability, v, fold: as of seen_probability().
  """
  known = np.where(annotated, delta, 0)
  m = orthogonal.linear(v, known[:, None], fold, annotated, weights(annotated, probability))[:, 0]
  return weights(annotated, probability) * (known - m) + m
