"""A model that uses whatever the engine offers: rows that meet, modes, trained parts, turns, hooks,
parameters that hooks set, rows of a stage's own, constants and support of the training rows. Small,
so that it compiles quickly; of vectors alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.models import settings
from crl_jax.models.parts import heads, rows
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Hooks, Model, Outputs, Stage


class Row(nn.Module):
  """A token of each modality, less a centre; in the mode "alone" what the row says by itself."""
  modalities: tuple
  tasks: int

  @nn.compact
  def __call__(self, inputs, observed_M, noise, mode, prepared):
    e_MxD = jnp.stack([nn.Dense(4, name=f"encode_{m}")(jnp.where(observed_M[i], inputs[m], 0))
                       for i, m in enumerate(self.modalities)])
    centres = self.param("centres", nn.initializers.zeros, e_MxD.shape)
    e_MxD = dropout(nn.tanh(e_MxD) - centres, noise)
    h = (e_MxD * observed_M[:, None] / (1 + prepared["share"][:, None])).sum(0)
    named = dict(h=h)
    if mode == "alone" or self.is_initializing():
      named["alone"] = nn.Dense(self.tasks, name="alone")(h)
    return Outputs(None, None, named)


class Meeting(nn.Module):
  """A row's own part and the mean of those that send; in the mode "alone" they do not listen."""
  tasks: int

  @nn.compact
  def __call__(self, outputs, batch, sends_N, noise, mode, prepared):
    del prepared
    h_NxD = outputs.named["h"]
    layers = self.param("layers", nn.initializers.zeros, ())
    weight_N = sends_N / jnp.maximum(sends_N.sum(), 1)
    mean_NxD = jnp.broadcast_to((h_NxD * weight_N[:, None]).sum(0), h_NxD.shape)
    both = jnp.concatenate([h_NxD, dropout(mean_NxD, noise)], 1)
    dense = lambda name: nn.Dense(self.tasks, name=name)(both)
    a, b = dense("a") + layers * dense("extra"), dense("b")
    if mode == "alone":
      alone = outputs.named["alone"]
      return Outputs(alone, h_NxD, dict(alone=alone))
    return Outputs((a + b) / 2, h_NxD, dict(a=a, b=b))


def build(config, spec):
  """Two stages: "alone" trains the rows' part of full enough rows, "turns" what they say of each
  other (a with the encoders, then b). Arguments as models.build."""
  c, M = settings.chosen(config), len(spec.modalities)
  prediction, probability = heads.prediction(config, spec.tasks)
  inputs = {m: jnp.zeros(spec.shapes[m]) for m in spec.modalities}
  tasks = len(spec.tasks)
  init, apply, join, vary = rows.joined(
      Row(spec.modalities, tasks), Meeting(tasks), inputs, M, tasks, c.dropout,
      dict(mode="", prepared=dict(share=jnp.zeros(M))))

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    return {name: prediction(logits, batch) for name, logits in outputs.named.items()}

  def start(params):
    return dict(start=params["encode_a"], rows=jnp.float32(0), epoch=jnp.int32(0))

  def begin(params, carry, prepared, rng, mode):
    del mode
    support = prepared["support"]
    mean_M = jnp.stack([jnp.where(support.observed[:, i], support.inputs[m][:, 0], 0.0).mean()
                        for i, m in enumerate(spec.modalities)])
    centres = mean_M[:, None] + 0.01 * jax.random.normal(rng, params["centres"].shape)
    return params | {"centres": centres}, carry

  def see(outputs, batch, total):
    del outputs
    return dict(rows=total(batch.valid.sum()).astype(jnp.float32))

  def adjust(gradients, params, carry, seen, mode):
    """Holds the first encoder near the epoch's start."""
    del mode
    pull = lambda g, p, s: g + 0.1 * seen["rows"] / 16 * (p - s)
    held = jax.tree.map(pull, gradients["encode_a"], params["encode_a"], carry["start"])
    return gradients | {"encode_a": held}, carry | dict(rows=carry["rows"] + seen["rows"])

  def close(params, carry):
    grown = jnp.minimum(carry["epoch"] + 1, 1).astype(jnp.float32)
    carry = carry | dict(start=params["encode_a"], epoch=carry["epoch"] + 1)
    return params | {"join": params["join"] | {"layers": grown}}, carry

  t, encoded = config.train, tuple((f"encode_{m}",) for m in spec.modalities)
  turns = ((("a",), (("join", "a"), ("join", "extra"), *encoded)), (("b",), (("join", "b"),)))
  stages = (
      Stage("alone", t.pretrain.epochs, t.pretrain.learning_rate, dict(alone=1.0), None,
            mode="alone", trains=(("alone",), *encoded),
            rows=lambda observed, labels, rng: observed.sum(1) > 1),
      Stage("turns", t.joint.epochs, t.joint.learning_rate, dict(a=1.0, b=1.0),
            t.joint.patience or None, turns=turns))
  return Model(
      init, apply, loss, probability, stages, vary, fixed=(("centres",), ("join", "layers")),
      hooks=Hooks(start, begin, see, adjust, close), join=join, support=32,
      prepare=lambda observed, labels: dict(share=observed.mean(0, dtype=np.float32)))
