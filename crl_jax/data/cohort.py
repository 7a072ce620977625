"""Cohort: what every data source delivers and everything else consumes; Batch: the part of it that a step sees."""

import dataclasses
import hashlib
import json
import pathlib

import flax.struct
import numpy as np


class CohortError(ValueError):
  """Data that cannot be used as it is; the message names the place and the next step, never a patient's values."""


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Rows are patients at a prediction time. All arrays are NumPy and live on the host.

  Attributes:
    modalities: the M names, in the order of the columns of `observed` and of the bits of the pattern id.
    tasks: the T names.
    inputs: modality -> float32 (N, F) or, for sequences, (N, L, F). Zeros where the modality is unobserved. NaN inside
      an observed modality is a missing feature, imputed by data/preprocess.py.
    observed: (N, M) bool, True where present.
    labels: (N, T) float32 in {0, 1, NaN}; NaN: the outcome is not defined for that row.
    row_id: (N,) int64, unique.
    patient_id: (N,) int64. All grouping is by patient.
    groups: name -> (N,) str, for subgroup results (sex, age band, hospital, ...).
    features: modality -> names of its F features.
    references: name -> (N, T) float32 probabilities that come with the cohort (the simulated one's Bayes-optimal).
    info: JSON-able facts for data.json: attrition, counts of odd rows, input hashes, notes, truth.
  """
  modalities: tuple
  tasks: tuple
  inputs: dict
  observed: np.ndarray
  labels: np.ndarray
  row_id: np.ndarray
  patient_id: np.ndarray
  groups: dict
  features: dict
  references: dict = dataclasses.field(default_factory=dict)
  info: dict = dataclasses.field(default_factory=dict)

  def __len__(self):
    return len(self.row_id)

  @property
  def pattern(self):
    """(N,) int64 pattern ids."""
    return pattern_id(self.observed)

  def take(self, rows):
    """Returns the cohort restricted to `rows` (indices or a boolean mask), in that order."""
    pick = lambda tree: {k: v[rows] for k, v in tree.items()}
    return dataclasses.replace(
        self, inputs=pick(self.inputs), observed=self.observed[rows], labels=self.labels[rows],
        row_id=self.row_id[rows], patient_id=self.patient_id[rows], groups=pick(self.groups),
        references=pick(self.references))


@flax.struct.dataclass
class Batch:
  """What a train or eval step sees of B rows.

  Attributes:
    inputs: modality -> (B, ...) float, scaled, free of NaN where observed.
    observed: (B, M) bool.
    labels: (B, T) float, NaN where undefined.
    valid: (B,) bool; False marks padding, which counts in nothing.
    patient: (B,) int32, dense patient index (true ids overflow on the device and stay on the host).
    slot: (B,) int32, the row's place in the global batch: the source of its own randomness on any device layout.
  """
  inputs: dict
  observed: np.ndarray
  labels: np.ndarray
  valid: np.ndarray
  patient: np.ndarray
  slot: np.ndarray


def pattern_id(observed):
  """Pattern id `sum_m delta_m 2^m` of `observed` (..., M) bool, as int64 (...,). Raises CohortError past 62 modalities."""
  observed = np.asarray(observed, bool)
  if observed.shape[-1] > 62:
    raise CohortError(f"{observed.shape[-1]} modalities do not fit a 64-bit pattern id; merge some.")
  return observed @ (np.int64(1) << np.arange(observed.shape[-1], dtype=np.int64))


def pattern_name(pattern, modalities):
  """'structured+image' for the pattern id 3; 'none' for 0."""
  names = [m for i, m in enumerate(modalities) if int(pattern) >> i & 1]
  return "+".join(names) or "none"
