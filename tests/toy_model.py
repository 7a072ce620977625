"""A model that uses what the engine offers beside a loss: turns, parameters that hooks set, rows of
a stage's own, a mask that grows, constants of the training rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows
from crl_jax.models.record import Hooks, Model, Outputs, Stage


class Toy(nn.Module):
  modalities: tuple
  encoders: tuple
  tasks: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise, prepared):
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    centres = self.param("centres", nn.initializers.zeros, e_MxD.shape)
    layers = self.param("layers", nn.initializers.zeros, ())
    h = ((e_MxD - centres) * observed_M[:, None] / (1 + prepared["share"][:, None])).sum(0)
    dense = lambda name: nn.Dense(len(self.tasks), name=name)(h)
    a = dense("a") + layers * dense("extra")
    b = dense("b")
    return Outputs((a + b) / 2, h, dict(a=a, b=b))


def build(config, spec):
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      Toy(spec.modalities, makers, spec.tasks), inputs, len(spec.modalities), c.dropout,
      dict(prepared=dict(share=jnp.zeros(len(spec.modalities)))))

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    return {name: prediction(outputs.named[name], batch) for name in ("a", "b")}

  def begin(params, carry, prepared, rng, mode):
    del mode
    support = prepared["support"]
    mean_M = jnp.stack([jnp.where(support.observed[:, m], support.inputs[name][:, 0], 0.0).mean()
                        for m, name in enumerate(spec.modalities)])
    centres = mean_M[:, None] + 0.01 * jax.random.normal(rng, params["centres"].shape)
    return params | {"centres": centres}, carry

  def see(outputs, batch, total):
    del outputs
    return dict(rows=total(batch.valid.sum()).astype(jnp.float32))

  def adjust(gradients, params, carry, seen, mode):
    del params, mode
    return gradients, carry | dict(rows=carry["rows"] + seen["rows"])

  def close(params, carry):
    grown = jnp.minimum(carry["epoch"] + 1, 1).astype(jnp.float32)
    return params | {"layers": grown}, carry | dict(epoch=carry["epoch"] + 1)

  t, each = config.train, dict(a=1.0, b=1.0)
  encoded = tuple((f"encode_{m}",) for m in spec.modalities)
  turns = ((("a",), (("a",), ("extra",), *encoded)), (("b",), (("b",),)))
  stages = (Stage("whole", t.pretrain.epochs, t.pretrain.learning_rate, each, None,
                  rows=lambda observed, labels, rng: observed.sum(1) > 1),
            Stage("turns", t.joint.epochs, t.joint.learning_rate, each, t.joint.patience or None,
                  turns=turns))
  start = lambda params: dict(rows=jnp.float32(0), epoch=jnp.int32(0))
  return Model(
      init, apply, loss, probability, stages, vary, pretrained, (("centres",), ("layers",)),
      Hooks(start, begin, see, adjust, close), support=32, prepare=lambda observed, labels: dict(share=observed.mean(0, dtype=np.float32)))
