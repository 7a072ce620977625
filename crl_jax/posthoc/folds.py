"""Calibration patients dealt into folds, those with the outcome spread over them."""

import numpy as np

FEWEST = 5   # patients with an outcome, and without, below which nothing is chosen by it


def deal(y, patient, count, seed):
  """(N,) folds of 0 to `count` - 1: a patient's rows are in one.

  Args:
    y: (N,) in {0, 1}.
    patient: (N,) ids.
    count: of folds.
    seed: int.
  """
  patients, index = np.unique(patient, return_inverse=True)
  ever = np.bincount(index, y, len(patients)) > 0
  order = np.lexsort((np.random.default_rng([6, seed]).permutation(len(patients)), ever))
  fold = np.empty(len(patients), np.int64)
  fold[order] = np.arange(len(patients)) % count
  return fold[index]


def enough(y, patient):
  """Whether there are FEWEST patients with the outcome, and as many without."""
  return all(len(np.unique(patient[y == label])) >= FEWEST for label in (0, 1))
