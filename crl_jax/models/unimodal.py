"""One modality alone, the others are not read: what fusing several has to beat.

lstm: LSTMs (Hochreiter and Schmidhuber, 1997) over a series' values and masks, from both ends, as
  in CareBench (2025); with bidirectional and project off it is MedFuse's.
transformer: self-attention among a series' steps (Vaswani et al., NeurIPS 2017, arXiv 1706.03762)
  and the mean of those that exist, as in CareBench. Ours: the steps' times stand in the place of
  learned positions, and no padding is attended to or averaged.
resnet50: a residual network (He et al., CVPR 2016, arXiv 1512.03385) of an image. Ours: its norms
  know one image alone (backbones/resnet.py), and where the cohort holds embeddings of images, a set
  or a vector, these are read as by any other model.

A series that a row does not have is a learned vector. A row without its image counts in no loss,
and is told what the heads say of zeros.
"""

import dataclasses
import functools
from typing import Callable

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from crl_jax import config as config_lib
from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows, series, stages
from crl_jax.models.parts.noise import dropout, input_dropout
from crl_jax.models.record import Model, Outputs


class Lstm(nn.Module):
  """(L, 2 + 2V) -> (D,): LSTMs over the steps that exist, and a Dense of the last one's states."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()

  @nn.compact
  def __call__(self, x, noise):
    c = self.config
    valid_L, _, values, masks = series.split(x)
    x = input_dropout(jnp.concatenate([values, masks], -1), c.input_dropout, noise)
    if c.project:
      x = nn.Dense(c.width, name="project")(x)
    for i in range(c.stacked):
      ends = [self._scan(f"forward_{i}", x, valid_L)]
      if c.bidirectional:
        ends.append(self._scan(f"backward_{i}", x, valid_L, reverse=True))
      h, x = (jnp.concatenate(parts, -1) for parts in zip(*ends))
    return nn.Dense(c.width, name="out")(h)

  def _scan(self, name, x, valid_L, reverse=False):
    cell = nn.OptimizedLSTMCell(self.config.width, name=name,
                                kernel_init=nn.initializers.xavier_uniform())
    (_, h), states = series.masked_scan(cell, x, valid_L, reverse)
    return h, states


class One(nn.Module):
  """One row: the token of a modality, to the heads."""
  config: ml_collections.FrozenConfigDict
  modality: str
  index: int
  make: Callable   # (name=) -> the modality's encoder
  tasks: tuple
  deeper: tuple
  absent: bool     # whether a learned vector stands for the modality; else zeros do

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    seen = observed_M[self.index]
    e, = encoders.tokens((self.make,), (self.modality,), inputs, seen[None], noise)
    other = 0.0
    if self.absent:
      other = self.param("absent", nn.initializers.normal(0.02), e.shape).astype(e.dtype)
    h = jnp.where(seen, dropout(e, noise), other)
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h, {})


def build_lstm(config, spec):
  """lstm. Arguments as models.build; returns a Model. Raises ValueError where the cohort has no
  series, or not the one that is named."""
  m = _modality(config, spec, "series")
  return _build(config, spec, m, functools.partial(Lstm, settings.chosen(config)))


def build_transformer(config, spec):
  """transformer. Arguments, result and errors as of build_lstm()."""
  c, m = settings.chosen(config), _modality(config, spec, "series")
  return _build(config, spec, m, functools.partial(
      series.TransformerEncoder, c.width, c.input_dropout, c.heads, c.layers))


def build_resnet50(config, spec):
  """resnet50. Arguments as models.build; returns a Model. Raises ValueError where the cohort has
  neither an image, a set nor a vector, or not the one that is named."""
  m = _modality(config, spec, "image", "set", "vector")
  deep = config_lib.override(config, [f"encoders.image=resnet{config.model.resnet50.depth}"])
  return _build(deep, spec, m, absent=False)


def _modality(config, spec, *kinds):
  """The one of these kinds that the settings name, or the first: of the first kind if any is."""
  name = config.model.name
  asked, may = config.model[name].modality, encoders.of_kind(spec, name, *kinds)
  if asked and asked not in may:
    raise ValueError(f"model.{name}.modality is '{asked}'; it may be {', '.join(may)}, or '' for "
                     "the first.")
  return asked or min(may, key=lambda m: spec.kind(m) != kinds[0])


def _build(config, spec, m, make=None, absent=True):
  c, i = settings.chosen(config), spec.modalities.index(m)
  one = dataclasses.replace(spec, modalities=(m,))
  (usual,), pretrained, inputs = encoders.build(config, one)
  prediction, probability = heads.prediction(config, spec.tasks)
  module = One(c, m, i, make or usual, spec.tasks, tuple(config.loss.deeper), absent)
  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    return {"prediction": prediction(outputs.logits, batch if absent else heads.having(batch, i))}

  return Model(init, apply, loss, probability, (stages.joint(config),), vary, pretrained)
