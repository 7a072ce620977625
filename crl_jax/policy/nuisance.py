"""Who is treated, and what follows in either arm: cross-fitted e, mu_0 and mu_1.

Each row's values come from fits that saw no row of its patient, by networks (all folds and
nuisances in one program), ridge and logistic regression, or boosting.
"""

import typing

import numpy as np

from crl_jax.policy import boosting, nets
from crl_jax.statistics import orthogonal


class Nuisances(typing.NamedTuple):
  """(N,) each, out of fold: P(T = 1 | .), E[Y | ., T = 0] and E[Y | ., T = 1]."""
  e: np.ndarray
  mu0: np.ndarray
  mu1: np.ndarray


def fit(x, treatment, outcome, folds, binary, settings, seed, weight=None):
  """The Nuisances of N rows.

  Args:
    x: (N, F) inputs, see annotations.inputs().
    treatment, outcome: (N,) T and Y.
    folds: list of role -> (n,) rows, see data.folds(); with one of them the scored rows are those
      of the fit.
    binary: whether outcomes are 0/1 and their loss is the log-loss.
    settings: config.policy.
    seed: int.
    weight: (N,) of each row in the fits; one where None.
  Returns:
    Nuisances. Where the outcomes of an arm in a fold have one class, mu is its rate.
  Raises:
    ValueError: an arm without rows in a fold.
  """
  t, y = np.asarray(treatment, np.float64), np.asarray(outcome, np.float64)
  weight = np.ones(len(t)) if weight is None else np.asarray(weight, np.float64)
  for fold in folds:
    for arm in (0, 1):
      if not (weight[fold["train"]][t[fold["train"]] == arm] > 0).any():
        raise ValueError(f"a fold's training rows have nobody with treatment {arm}: lower "
                         "policy.folds, or bring more rows.")
  found = {"net": _nets, "linear": _linear, "boosting": _boosting}[settings.nuisances](
      x, t, y, folds, binary, settings, seed, weight)
  if binary:
    for fold in folds:
      for arm, mu in enumerate(found[1:]):
        some = y[fold["train"]][(t[fold["train"]] == arm) & (weight[fold["train"]] > 0)]
        if some.min() == some.max():
          mu[fold["test"]] = some[0]
  return Nuisances(*found)


def _nets(x, t, y, folds, binary, settings, seed, weight):
  """Three members a fold: e on all rows, mu_0 and mu_1 on their arms."""
  n, arms = len(t), np.stack([np.ones(len(t)), 1 - t, t])
  sees = lambda role: np.concatenate([
      arms * weight * np.isin(np.arange(n), fold[role]) for fold in folds])
  fitted = nets.fit(
      x, np.tile([t, y, y], (len(folds), 1)), sees("train"), sees("val"),
      np.tile([True, binary, binary], len(folds)), np.arange(3 * len(folds)), settings.net, seed)
  every = nets.predict(fitted, x).reshape(len(folds), 3, n)
  found = np.empty((3, n))
  for fold, values in zip(folds, every):
    found[:, fold["test"]] = values[:, fold["test"]]
  return found


def fold_of(folds, n):
  """(N,) the fold whose test rows hold a row."""
  found = np.empty(n, np.int64)
  for k, fold in enumerate(folds):
    found[fold["test"]] = k
  return found


def _linear(x, t, y, folds, binary, settings, seed, weight):
  del binary, settings, seed   # a linear model of probabilities, and no draws
  fold, x = fold_of(folds, len(t)), (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
  x = x[:, x.std(0) > 0]
  e = orthogonal.classes(x, t.astype(int), fold, 2, weight)[:, 1]
  mu = [orthogonal.linear(x, y[:, None], fold, (t == arm) & (weight > 0), weight)[:, 0]
        for arm in (0, 1)]
  return np.stack([e, *mu])


def _boosting(x, t, y, folds, binary, settings, seed, weight):
  del settings
  found = np.empty((3, len(t)))
  for fold in folds:
    for row, (target, arm, classes) in enumerate(((t, None, True), (y, 0, binary), (y, 1, binary))):
      sees = (weight > 0) if arm is None else (weight > 0) & (t == arm)
      train, val = (fold[role][sees[fold[role]]] for role in ("train", "val"))
      predict = boosting.fit(x, target, weight, train, val, classes, seed)
      found[row, fold["test"]] = predict(x[fold["test"]])
  return found
