"""What a model is to the rest of the package: a record of pure functions, each of a type that says
its shapes.

Axes: B rows, M modalities, T tasks, D width.
"""

import dataclasses
from typing import Any, Mapping, Protocol

import flax.struct
import jax
import jax.numpy as jnp

Params = Any   # nested dicts of float32 arrays


@dataclasses.dataclass(frozen=True)
class Spec:
  """The static shapes a model is built for.

  Attributes:
    modalities, tasks: names in the cohort's order.
    shapes: modality -> shape of one row's preprocessed input.
    patterns: sorted pattern ids that exist in the cohort, the classes of the optional pattern head.
    rows: how many rows of the cohort have each of `patterns`; () where nothing is trained.
    kinds: modality -> key of data.cohort.KINDS; those not named are vectors or sequences.
  """
  modalities: tuple
  tasks: tuple
  shapes: dict
  patterns: tuple
  kinds: dict = dataclasses.field(default_factory=dict)
  rows: tuple = ()

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


class Init(Protocol):

  def __call__(self, rng: jax.Array) -> Params:
    """Returns the parameters drawn from the key `rng`."""


class Apply(Protocol):

  def __call__(self, params: Params, batch: Batch, train: bool, rng: jax.Array | None,
               vary: Mapping[str, jax.Array] = ...) -> Outputs:
    """Returns what the model makes of every row, from that row alone.

    Args:
      params: as Init returns them, cast to the dtype of the inputs.
      batch: B rows; the dtype of their inputs is that of the arithmetic.
      train: with noise (dropout, hidden modalities), and all that a loss needs in `named`.
      rng: key of the step; a row's noise is a function of it and of the row's slot. None where not
        training.
      vary: values for those of Model.vary; only used in training.
    """


class Gather(Protocol):

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the rows (B, ...) of the whole batch from this device's (b, ...), in the order of the
    devices; in a program of the whole batch they are the same."""


class Loss(Protocol):

  def __call__(self, outputs: Outputs, batch: Batch, gather: Gather = ...) -> dict[str, tuple]:
    """Returns term -> (losses.Term of (B, C), weights of its C columns, (C,) or a number).

    Args:
      outputs: of Apply in training, as float32.
      batch: the same B rows.
      gather: for terms in which rows meet: B are this device's share in a per-device program.
    """


class Probability(Protocol):

  def __call__(self, logits: jax.Array) -> jax.Array:
    """Returns P(y = 1) (..., T) for logits (..., T)."""


class Read(Protocol):

  def __call__(self) -> Params:
    """Returns the values, float32 NumPy arrays. May read files."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A part of the parameters that starts from known values.

  Attributes:
    path: the keys that lead to it.
    read: gives their values.
    rate: its learning rate, times the phase's.
  """
  path: tuple
  read: Read
  rate: float


@dataclasses.dataclass(frozen=True)
class Model:
  """Pure functions of one model, bound to a config and a Spec by its builder.

  Attributes:
    init, apply, loss, probability: see their types.
    stages: the phases of training, in order.
    vary: name -> value of the numbers in config.model that may differ between members that share a
      compiled program.
    pretrained: tuple of Pretrained, parts of the parameters.
  """
  init: Init
  apply: Apply
  loss: Loss
  probability: Probability
  stages: tuple
  vary: dict
  pretrained: tuple = ()
