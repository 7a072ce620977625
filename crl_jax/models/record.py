"""What a model is to the rest of the package: a record of pure functions, each of a type that says
its shapes.

A model has a part per row (apply) and, where rows tell each other anything, a part per batch
(join); losses stay per row. A join always sees all rows that meet: in training the whole batch, in
evaluation the `support` rows of training and after them those that are asked for.

Axes: B rows of a batch, N rows that meet, M modalities, T tasks, D width.
"""

import dataclasses
from typing import Any, Callable, Mapping, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

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
  """logits (B, T), representation h (B, D), and every other named intermediate (B, ...).

  Of the row part of a model with a join, the first two are None. Nothing has a size of 0, which no
  device could gather.
  """
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
    mode: what the model computes in it, validation included; predictions are made in the last
      stage's.
    trains: paths (tuples of keys, or their beginnings) of the parameters that alone are trained;
      (): all but Model.fixed.
    turns: pairs (names of loss terms, paths trained): a batch is an optimizer step for each, one
      after the other; (): one step of all terms.
    rows: (observed (n, M), labels (n, T), numpy Generator) -> (n,) bool, those of the training rows
      that it sees; None: all.
  """
  name: str
  epochs: int
  learning_rate: float
  weights: dict
  patience: int | None
  mode: str = ""
  trains: tuple = ()
  turns: tuple = ()
  rows: Callable | None = None

  @property
  def program(self):
    """What its compiled programs depend on: stages of one `program` share them."""
    return self.mode, self.trains, self.turns, tuple(sorted(self.weights))


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What a model does beside following its loss: pure functions on the device, each of which does
  nothing by default.

  `carry` is a tree of arrays that a member keeps, and its checkpoints, but predictions do not need;
  what they do need are parameters of Model.fixed, which hooks may set.

  Attributes:
    start: (params) -> carry, before the first stage.
    begin: (params, carry, prepared, rng, mode) -> (params, carry), when a stage starts.
    see: (outputs, batch, total) -> tree of sums over all rows of a training batch, from outputs
      without gradients; `total` sums over devices.
    adjust: (gradients, params, carry, seen, mode) -> (gradients, carry), in every optimizer step,
      before the gradients are clipped; `seen` from see().
    close: (params, carry) -> (params, carry), after every epoch, once it was validated.
  """
  start: Callable = lambda params: {}
  begin: Callable = lambda params, carry, prepared, rng, mode: (params, carry)
  see: Callable = lambda outputs, batch, total: {}
  adjust: Callable = lambda gradients, params, carry, seen, mode: (gradients, carry)
  close: Callable = lambda params, carry: (params, carry)


class Init(Protocol):

  def __call__(self, rng: jax.Array) -> Params:
    """Returns the parameters drawn from the key `rng`."""


class Apply(Protocol):

  def __call__(self, params: Params, batch: Batch, train: bool, rng: jax.Array | None,
               vary: Mapping[str, jax.Array] = ..., mode: str = ...,
               prepared: Mapping | None = ...) -> Outputs:
    """Returns what the model makes of every row, from that row alone.

    Args:
      params: as Init returns them, cast to the dtype of the inputs.
      batch: B rows; the dtype of their inputs is that of the arithmetic.
      train: with noise (dropout, hidden modalities), and all that a loss needs in `named`.
      rng: key of the step; a row's noise is a function of it and of the row's slot. None where not
        training.
      vary: values for those of Model.vary; only used in training.
      mode: the stage's.
      prepared: what is kept of the training rows (Model.prepare, Model.support) of the member's
        fold, float32 in any arithmetic; None where nothing is.
    """


class Join(Protocol):

  def __call__(self, params: Params, outputs: Outputs, batch: Batch, sends: jax.Array, train: bool,
               rng: jax.Array | None, vary: Mapping[str, jax.Array] = ..., mode: str = ...,
               prepared: Mapping | None = ...) -> Outputs:
    """Returns the Outputs of N rows that met, row axis first, float32.

    Args:
      outputs: of Apply for these rows, float32.
      batch: the rows; its inputs are {}. Labels may be read in training; in evaluation those of the
        asked rows are NaN.
      sends: (N,) bool: only these rows may change what is said of others.
      params, train, rng, vary, mode, prepared: see Apply.
    """


class Prepare(Protocol):

  def __call__(self, observed: np.ndarray, labels: np.ndarray) -> dict:
    """Returns what a model keeps of a fold's training rows, NumPy arrays whose shapes do not depend
    on them; on the host.

    Args:
      observed: (n, M) bool.
      labels: (n, T) float, NaN where undefined.
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
    fixed: paths of parameters that hooks set and no optimizer touches.
    hooks: Hooks, or None.
    join: see Join; None: rows do not meet.
    support: how many training rows of a fold are kept as prepared["support"], a Batch, for join and
      for Hooks.begin: every pattern in proportion.
    remembers: rows that are asked for meet the support; False: rows meet in training only, and in
      evaluation join is called with no row that sends.
    prepare: see Prepare; None: nothing but the support is kept.
  """
  init: Init
  apply: Apply
  loss: Loss
  probability: Probability
  stages: tuple
  vary: dict
  pretrained: tuple = ()
  fixed: tuple = ()
  hooks: Hooks | None = None
  join: Join | None = None
  support: int = 0
  remembers: bool = True
  prepare: Prepare | None = None
