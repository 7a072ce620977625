"""Series that are measured now and then, read as they are. What else a row has joins late, which is
ours: `h = [series vectors | e_m delta_m | delta]`, to the heads.

gru_d: GRU-D (Che et al., 2016, arXiv 1606.01865): a GRU whose inputs fall to the mean, and whose
  state falls to zero, the longer a variable was not measured. Ours follows the paper's equations;
  its public code mixes in the state that did not decay.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows, series, stages
from crl_jax.models.parts.noise import dropout, input_dropout
from crl_jax.models.record import Model, Outputs


class Cell(nn.Module):
  """A GRU's step (Cho et al., 2014) from the decayed state. It is told what its inputs add to both
  gates and the candidate, and after these 3H numbers the H factors of decay."""
  size: int

  @nn.compact
  def __call__(self, h, x):
    own = functools.partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.orthogonal())
    gates, candidate, decay = jnp.split(x, (2 * self.size, 3 * self.size))
    h = decay * h
    z, r = jnp.split(nn.sigmoid(gates + own(2 * self.size, name="gates")(h)), 2)
    h = (1 - z) * h + z * nn.tanh(candidate + own(self.size, name="candidate")(r * h))
    return h, h

  def initialize_carry(self, rng, shape):
    del rng, shape
    return jnp.zeros(self.size)


class GruD(nn.Module):
  """(L, 2 + 2V) -> (H,). Scaled, a variable's mean is zero."""
  size: int
  input_dropout: float

  @nn.compact
  def __call__(self, x, noise):
    valid_L, time_L, values, masks = series.split(x)
    measured = masks > 0
    last, since = latest(time_L, values, measured)
    zeros = nn.initializers.zeros
    rate, least = (self.param(f"input_{name}", zeros, values.shape[1:]).astype(x.dtype)
                   for name in ("rate", "least"))
    filled = jnp.where(measured, values, _decay(rate * since + least) * last)
    decay = _decay(nn.Dense(self.size, kernel_init=zeros, name="decay")(since))
    seen = input_dropout(jnp.concatenate([filled, masks], -1), self.input_dropout, noise)
    told = nn.Dense(3 * self.size, name="inputs")(seen)
    return series.masked_scan(Cell(self.size, name="cell"), jnp.concatenate([told, decay], -1),
                              valid_L)[0]


def _decay(x):
  # rates start at zero, where relu has no gradient
  return jnp.exp(-jnp.maximum(x, 0.0))


def latest(time_L, values_LxV, measured_LxV):
  """What was measured at the latest before each step, and for how long it was not since: both
  (L, V). Before the first measurement these are 0 and the time since the first step."""
  steps = jnp.arange(1, len(time_L) + 1)[:, None]
  until = jax.lax.cummax(jnp.where(measured_LxV, steps, 0), axis=0)
  before = jnp.pad(until, ((1, 0), (0, 0)))[:-1]   # 0: none
  last = jnp.take_along_axis(jnp.pad(values_LxV, ((1, 0), (0, 0))), before, 0)
  return last, time_L[:, None] - jnp.concatenate([time_L[:1], time_L])[before]


class Joined(nn.Module):
  """One row: the vectors of its modalities, zeros where one is missing, and the pattern."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    found = encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise)
    there = [jnp.where(seen, e, 0.0) for seen, e in zip(observed_M, found)]
    h = jnp.concatenate([*there, observed_M.astype(found[0].dtype)])
    return Outputs(heads.logits(dropout(h, noise), self.tasks, self.deeper, noise), h, {})


def build_gru_d(config, spec):
  """gru_d. Arguments as models.build; returns a Model. Raises ValueError where the cohort has no
  series."""
  c = settings.chosen(config)
  read = functools.partial(GruD, c.hidden, c.input_dropout)
  own = encoders.of_kind(spec, config.model.name, "series")
  makers, pretrained, inputs = encoders.build(config, spec)
  makers = tuple(read if m in own else make for m, make in zip(spec.modalities, makers))
  prediction, probability = heads.prediction(config, spec.tasks)
  module = Joined(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper))
  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout)
  return Model(init, apply, stages.loss(prediction, spec.modalities), probability,
               (stages.joint(config),), vary, pretrained)
