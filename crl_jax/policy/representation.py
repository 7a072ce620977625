"""What phi becomes before effects are learned: scaled inputs, wide ones by principal components,
zero where unobserved, and the bits of the pattern, all by the project's own preprocessing."""

import typing

import numpy as np

from crl_jax.data import preprocess
from crl_jax.engine import yardsticks
from crl_jax.policy.data import Phi


class Representation(typing.NamedTuple):
  """Preprocessing (modality -> stats) and the mean and standard deviation (D,) of its columns."""
  stats: dict
  center: np.ndarray
  spread: np.ndarray


def fit(phi, rows, config):
  """The Representation of a data.Phi, by its training rows `rows` (n,).

  Args:
    config: the whole tree; config.preprocess with policy.components for its components.
  """
  settings = config.preprocess.copy_and_resolve_references()
  with settings.unlocked():
    settings.components = config.policy.components
  stats = preprocess.fit(phi.inputs, phi.observed, phi.modalities, rows, settings, phi.kinds)
  x = _matrix(stats, phi.take(rows))
  spread = x.std(0, dtype=np.float64)
  return Representation(stats, x.mean(0, dtype=np.float64), np.where(spread > 1e-9, spread, 1))


def transform(representation, phi):
  """(N, D) float32 standardised columns, the last of them the bits of the pattern. Raises TypeError
  for anything but a data.Phi: inference sees nothing else."""
  if not isinstance(phi, Phi):
    raise TypeError(f"inference takes a policy.data.Phi, not a {type(phi).__name__}: see "
                    "policy.data.phi().")
  x = _matrix(representation.stats, phi)
  return ((x - representation.center) / representation.spread).astype(np.float32)


def _matrix(stats, phi):
  inputs = preprocess.transform(stats, phi.inputs, phi.observed, phi.modalities)
  return yardsticks.design_matrix(inputs, phi.observed, phi.modalities, phi.kinds)
