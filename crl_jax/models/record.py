"""What a model is to the rest of the package: a record of pure functions."""

import dataclasses
from typing import Callable

import flax.struct
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Spec:
  """The static shapes a model is built for.

  Attributes:
    modalities, tasks: names in the cohort's order.
    shapes: modality -> shape of one row's preprocessed input.
    patterns: sorted pattern ids that exist in the cohort, the classes of the optional pattern head.
    kinds: modality -> key of data.cohort.KINDS; those not named are vectors or sequences.
  """
  modalities: tuple
  tasks: tuple
  shapes: dict
  patterns: tuple
  kinds: dict = dataclasses.field(default_factory=dict)

  def kind(self, modality):
    """The key of data.cohort.KINDS that says what a row's input of `modality` is."""
    return self.kinds.get(modality) or ("vector", "sequence")[len(self.shapes[modality]) - 1]


@flax.struct.dataclass
class Batch:
  """What a train or eval step sees of B rows.

  Attributes:
    inputs: modality -> (B, ...) float, scaled, free of NaN where observed.
    observed: (B, M) bool.
    labels: (B, T) float, NaN where undefined.
    valid: (B,) bool; False marks padding, which counts in nothing.
    patient: (B,) int32, dense patient index (true ids overflow on the device and stay on the host).
    slot: (B,) int32, the row's place in the global batch: the source of its own randomness on any
      device layout.
  """
  inputs: dict
  observed: jnp.ndarray
  labels: jnp.ndarray
  valid: jnp.ndarray
  patient: jnp.ndarray
  slot: jnp.ndarray


@flax.struct.dataclass
class Outputs:
  """logits (B, T), representation h (B, D), and every other named intermediate (B, ...)."""
  logits: jnp.ndarray
  representation: jnp.ndarray
  named: dict


@dataclasses.dataclass(frozen=True)
class Stage:
  """A phase of training.

  Attributes:
    name: appears in logs.
    epochs: at most this many.
    learning_rate: constant over the phase.
    weights: loss term -> weight; every term that the model's loss returns must be named.
    patience: epochs without a better validation score before it ends; None: no early stopping, last
      parameters kept.
  """
  name: str
  epochs: int
  learning_rate: float
  weights: dict
  patience: int | None


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A part of the parameters that starts from known values.

  Attributes:
    path: the keys that lead to it.
    read: () -> its tree of float32 NumPy arrays.
    rate: its learning rate, times the phase's.
  """
  path: tuple
  read: Callable
  rate: float


@dataclasses.dataclass(frozen=True)
class Model:
  """Pure functions of one model, bound to a config and a Spec by its builder.

  Attributes:
    init: (rng) -> params.
    apply: (params, batch, train, rng, vary) -> Outputs. `rng` and `vary` are used in training only,
      the former through each row's slot. The inputs' dtype is that of the arithmetic.
    loss: (outputs, batch, gather) -> {term: (losses.Term, column weights)}. `gather` collects rows
      over devices in a per-device program.
    probability: (logits) -> P(y = 1).
    stages: the phases of training, in order.
    vary: name -> value of the numbers in config.model that may differ between members that share a
      compiled program.
    pretrained: tuple of Pretrained, parts of the parameters.
  """
  init: Callable
  apply: Callable
  loss: Callable
  probability: Callable
  stages: tuple
  vary: dict
  pretrained: tuple = ()
