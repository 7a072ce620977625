"""Two comparators that fill what is missing instead of modelling it: zeros with the mask as an
input, and the mean.

Both encode every modality (as CRL-MMNAR does), concatenate the tokens and predict. Inputs are
scaled, so that zero is the mean of a feature over the training rows that have its modality:
"mean_fill" sees filled tokens alone and cannot tell a missing modality from an average one;
"zero_fill" is given the bits of the pattern too.
"""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Model, Outputs, Stage


class Filled(nn.Module):
  """One row: filled modalities -> encoders -> concatenation (and the mask) -> h -> heads."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple                           # per modality, (name=) -> module
  tasks: tuple
  deeper: tuple
  mask: bool

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c = self.config
    tokens = encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise)
    if self.mask:
      tokens.append(observed_M.astype(tokens[0].dtype))
    h = dropout(nn.relu(nn.LayerNorm()(nn.Dense(c.width)(jnp.concatenate(tokens)))), noise)
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h, {})


def build_zero(config, spec):
  """Zero-filling with the mask as an input. Arguments as models.build; returns a Model."""
  return _build(config, spec, mask=True)


def build_mean(config, spec):
  """Mean imputation without the mask. Arguments as models.build; returns a Model."""
  return _build(config, spec, mask=False)


def _build(config, spec, mask):
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  module = Filled(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper), mask)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(module, inputs, len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    return {"prediction": prediction(outputs.logits, batch)}

  t = config.train.joint   # there is nothing to learn without outcomes: no first phase
  stages = (Stage("joint", t.epochs, t.learning_rate, t.weights.to_dict(), t.patience or None),)
  return Model(init, apply, loss, probability, stages, vary, pretrained)
