"""Patient -> fold -> role. The only place where a row is assigned anywhere."""

import dataclasses
import hashlib

import numpy as np

from crl_jax.data.cohort import CohortError

ROLES = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Splits:
  """Attributes: fold (N,) int, the fold of each row's patient; validation (K, N) bool, held out by
  member k."""
  fold: np.ndarray
  validation: np.ndarray

  def rows(self, k, role):
    """Row indices of `role` ("train", "val" or "test") for member k."""
    mask = {"test": self.fold == k, "val": self.validation[k],
            "train": (self.fold != k) & ~self.validation[k]}[role]
    return np.flatnonzero(mask)

  def fingerprint(self):
    """SHA-256 of the assignment."""
    return hashlib.sha256(self.fold.tobytes() + self.validation.tobytes()).hexdigest()


def of_config(config, cohort):
  """The Splits of a cohort under `config.splits` and `config.seed`; see assign()."""
  return assign(cohort.patient_id, cohort.labels, config.splits.folds, config.splits.validation,
                config.seed)


def assign(patient_id, labels, folds, validation, seed):
  """Deals patients into folds, then holds a validation share out of each member's other folds.

  Stratified on the set of outcomes a patient ever has, grouped by patient: no patient has two roles
  in a member.

  Args:
    patient_id: (N,) int64.
    labels: (N, T) in {0, 1, NaN}.
    folds: K, at least 2.
    validation: share of the non-test patients, in (0, 1).
    seed: int.
  Returns:
    Splits.
  Raises:
    CohortError: when a role of a member would be empty.
  """
  patients, index = np.unique(patient_id, return_inverse=True)
  stratum = _strata(labels, index, len(patients))
  rng = np.random.default_rng([seed, 0x5311])
  order = np.lexsort((rng.random(len(patients)), stratum))
  fold = np.empty(len(patients), np.int64)
  fold[order] = (np.arange(len(patients)) + rng.integers(folds)) % folds
  held = np.zeros((folds, len(patients)), bool)
  for k in range(folds):
    rest = np.flatnonzero(fold != k)
    rest = rest[np.lexsort((rng.random(len(rest)), stratum[rest]))]
    # every 1/validation-th of each stratum
    quota = np.floor(np.arange(len(rest) + 1) * validation + rng.random())
    held[k, rest[np.diff(quota) > 0]] = True
  splits = Splits(fold[index], held[:, index])
  for k in range(folds):
    for role in ROLES:
      if not len(splits.rows(k, role)):
        raise CohortError(f"Fold {k} has no '{role}' rows: {len(patients)} patients are too few "
                          f"for {folds} folds with {validation:.0%} validation. Lower splits.folds "
                          "or bring more patients.")
  check(splits, patient_id)
  return splits


def check(splits, patient_id):
  """Raises CohortError if any patient has two roles in a member."""
  for k in range(len(splits.validation)):
    sets = [np.unique(patient_id[splits.rows(k, role)]) for role in ROLES]
    shared = sum(map(len, sets)) - len(np.unique(np.concatenate(sets)))
    if shared:
      raise CohortError(f"{shared} patients have two roles in fold {k}: the splits were altered; "
                        "make them again.")


def _strata(labels, index, patients):
  """(patients,) int: each task's state over the patient's rows (undefined, never, ever), in base
  3."""
  state = np.zeros((patients, labels.shape[1]), np.int64)
  np.maximum.at(state, index,
                np.where(np.isnan(labels), 0, 1 + np.nan_to_num(labels)).astype(np.int64))
  return state @ 3 ** np.arange(labels.shape[1])
