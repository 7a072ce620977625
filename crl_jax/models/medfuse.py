"""medfuse_ri, medfuse_pt, medfuse: MedFuse (Hayat, Geras and Shamout, MLHC 2022, arXiv 2207.07027):
the modalities' tokens are the steps of a sequence that an LSTM reads, and one that is missing is no
step, `h_m = LSTM(h_{m-1}, P_m e_m)` where delta_m = 1, else h_{m-1}.

medfuse_ri trains all from random values; medfuse_pt first trains each encoder under a head of its
own; medfuse, the paper's OPTIMAL, does so too and then sees but a share of the rows that have less
than two modalities. Ours: any number of modalities, the first in the order unprojected as the
paper's base modality is, and a row that has nothing keeps the state of zeros.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows, stages
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Model, Outputs


class MedFuse(nn.Module):
  """One row: its tokens in an order, through an LSTM, to the heads."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple
  order: tuple                              # indices of modalities
  first: bool                               # whether there is the mode stages.ALONE

  @nn.compact
  def __call__(self, inputs, observed_M, noise, mode=""):
    c = self.config
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    if self.first and (mode == stages.ALONE or self.is_initializing()):
      found = stages.alone_outputs(e_MxD, observed_M, self.modalities, len(self.tasks))
      if mode == stages.ALONE:
        return found
    cell = nn.OptimizedLSTMCell(c.hidden, name="lstm")
    state = (jnp.zeros(c.hidden, e_MxD.dtype),) * 2
    for place, m in enumerate(self.order):
      x = e_MxD[m]
      if place:
        x = nn.Dense(c.width, name=f"project_{self.modalities[m]}")(x)
      after, _ = cell(state, x)
      state = jax.tree.map(lambda new, old, m=m: jnp.where(observed_M[m], new, old), after, state)
    h = dropout(state[1], noise)
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h, {})


def build_ri(config, spec):
  """medfuse_ri. Arguments as models.build; returns a Model."""
  return _build(config, spec, first=False)


def build_pt(config, spec):
  """medfuse_pt. Arguments as models.build; returns a Model."""
  return _build(config, spec, first=True)


def build(config, spec):
  """medfuse. Arguments as models.build; returns a Model."""
  share = settings.chosen(config).share
  def some(observed, labels, rng):
    del labels
    return (observed.sum(1) > 1) | (rng.random(len(observed)) < share)
  return _build(config, spec, first=True, some=some)


def _build(config, spec, first, some=None):
  c = settings.chosen(config)
  named = tuple(c.order) or spec.modalities
  if sorted(named) != sorted(spec.modalities):
    raise ValueError(f"model.{config.model.name}.order is {named}; it names each of "
                     f"{', '.join(spec.modalities)} once, or is () for this order.")
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  module = MedFuse(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper),
                   tuple(map(spec.modalities.index, named)), first)
  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout,
                                   {"mode": ""} if first else None)
  own = (("lstm",), *((f"project_{m}",) for m in named[1:]),
         *((f"encode_{m}",) for m in spec.modalities), *((f"head_{t}",) for t in spec.tasks))
  phases = ((stages.alone(c.stages.alone, spec.modalities),
             stages.joint(config, trains=own, rows=some)) if first else (stages.joint(config),))
  return Model(init, apply, stages.loss(prediction, spec.modalities), probability, phases, vary,
               pretrained)
