"""What a run tells of its cohort and splits: the content of data.json."""

import contextlib
import hashlib
import importlib.metadata
import platform

import numpy as np

from crl_jax import __version__
from crl_jax.data import cohort as cohort_lib

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pandas",
             "scikit-learn")


def describe(cohort, splits, folds):
  """JSON-able facts: those that the cohort brings, its fingerprints, shapes and counts, and the
  versions that made them.

  Args:
    cohort: data.cohort.Cohort.
    splits: data.splits.Splits.
    folds: how many of its folds are trained on.
  """
  ids, counts = np.unique(cohort.pattern, return_counts=True)
  trained = np.unique(np.concatenate([cohort.pattern[splits.rows(fold, "train")]
                                      for fold in range(folds)]))
  return {
      **cohort.info, "fingerprint": cohort_lib.fingerprint(cohort),
      "splits_fingerprint": splits.fingerprint(),
      "modalities": list(cohort.modalities), "tasks": list(cohort.tasks),
      "shapes": {m: list(cohort.inputs[m].shape[1:]) for m in cohort.modalities},
      "kinds": {m: cohort.kind(m) for m in cohort.modalities},
      "features": {m: list(names) for m, names in cohort.features.items()},
      "labelled": {t: {"n": int(np.isfinite(cohort.labels[:, i]).sum()),
                       "positives": int(np.nansum(cohort.labels[:, i]))}
                   for i, t in enumerate(cohort.tasks)},
      "observed": {m: int(cohort.observed[:, i].sum()) for i, m in enumerate(cohort.modalities)},
      "patterns": [{"pattern": int(p), "name": cohort_lib.pattern_name(p, cohort.modalities),
                    "rows": int(n)}
                   for p, n in zip(ids, counts)],
      "trained_patterns": trained.tolist(), "digests": _digests(cohort, splits),
      "versions": _versions()}


def _digests(cohort, splits):
  """Part of a cohort or of its splits -> start of its SHA-256, to tell which part has changed."""
  parts = {"row ids": cohort.row_id, "patients": cohort.patient_id, "observed": cohort.observed,
           "labels": cohort.labels} | {f"inputs of {m}": x for m, x in cohort.inputs.items()} | {
               f"{role} rows of fold {k}": splits.rows(k, role)
               for k in range(len(splits.validation)) for role in ("val", "test")}
  return {name: hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()[:16]
          for name, x in parts.items()}


def _versions():
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found | {"crl_jax": __version__}   # installed or not
