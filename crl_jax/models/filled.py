"""Two comparators that fill what is missing instead of modelling it: zeros with the mask as an
input, and the mean.

Both encode every modality (as CRL-MMNAR does), concatenate the tokens and predict. Inputs are
scaled, so that zero is the mean of a feature over the training rows that have its modality:
"mean_fill" sees filled tokens alone and cannot tell a missing modality from an average one;
"zero_fill" is given the bits of the pattern too.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax import losses
from crl_jax.config import task_losses
from crl_jax.models import encoders, noise as noise_lib
from crl_jax.models.crl_mmnar import Head
from crl_jax.models.noise import Noise, dropout
from crl_jax.models.record import Model, Outputs, Stage


class Filled(nn.Module):
  """One row: filled modalities -> encoders -> concatenation (and the mask) -> h -> heads."""
  config: ml_collections.FrozenConfigDict   # config.model
  modalities: tuple
  tasks: tuple
  deeper: tuple
  mask: bool

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c = self.config
    tokens = []
    for m, name in enumerate(self.modalities):
      x = jnp.where(observed_M[m], inputs[name], 0.0)
      enc = encoders.encoder(x.ndim)(c.width, c.input_dropout, name=f"encode_{name}")
      tokens.append(enc(x, noise))
    if self.mask:
      tokens.append(observed_M.astype(tokens[0].dtype))
    h = dropout(nn.relu(nn.LayerNorm()(nn.Dense(c.width)(jnp.concatenate(tokens)))), noise)
    logits = jnp.stack([Head(1 + (t in self.deeper), c.width, name=f"head_{t}")(h, noise)
                        for t in self.tasks])
    return Outputs(logits, h, {})


def build_zero(config, spec):
  """Zero-filling with the mask as an input. Arguments as models.build; returns a Model."""
  return _build(config, spec, mask=True)


def build_mean(config, spec):
  """Mean imputation without the mask. Arguments as models.build; returns a Model."""
  return _build(config, spec, mask=False)


def _build(config, spec, mask):
  c = ml_collections.FrozenConfigDict(config.model)
  module = Filled(c, spec.modalities, spec.tasks, tuple(config.loss.deeper), mask)
  alpha, gamma, task_weight = (jnp.array(v) for v in task_losses(config, spec.tasks))
  example = ({m: jnp.zeros(shape) for m, shape in spec.shapes.items()},
             jnp.ones(len(spec.modalities), bool))
  counter = Noise()
  jax.eval_shape(lambda rng: module.init(rng, *example, counter), jax.random.key(0))
  vary = {"dropout": c.dropout}

  def init(rng):
    return module.init(rng, *example, Noise())["params"]

  def apply(params, batch, train, rng, vary=vary):
    one = lambda x, seen, noise: module.apply({"params": params}, x, seen, noise)
    if not train:
      return jax.vmap(lambda x, seen: one(x, seen, None))(batch.inputs, batch.observed)
    bits = noise_lib.draw(jax.vmap(lambda slot: jax.random.fold_in(rng, slot))(batch.slot),
                          counter.used)
    return jax.vmap(lambda x, seen, b: one(x, seen, Noise(b, vary["dropout"])))(
        batch.inputs, batch.observed, bits)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    labels = jnp.where(batch.valid[:, None], batch.labels, jnp.nan)
    return {"prediction": (losses.focal(outputs.logits, labels, alpha, gamma), task_weight)}

  def probability(logits):
    return losses.focal_probability(logits, alpha, gamma)

  t = config.train.joint   # there is nothing to learn without outcomes: no first phase
  stages = (Stage("joint", t.epochs, t.learning_rate, t.weights.to_dict(), t.patience),)
  return Model(init, apply, loss, probability, stages, vary)
