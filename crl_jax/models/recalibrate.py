"""Modalities that rescale each other's features.

mmtm: Multimodal Transfer Module (Vaezi Joze et al., CVPR 2020). What all modalities hold is
  squeezed, `z = relu(W [e_1 delta_1 | ... | e_M delta_M])`, and excites each, `sigmoid(W_m z) e_m`.
  Trained in turns, as MedFuse's code does: each modality's own answer with its encoder, then all.
daft: Dynamic Affine Feature Map Transform (Poelsterl, Wolf and Wachinger, MICCAI 2021). The other
  modalities scale and shift the base's features, `a e_0 + b` with `(a, b) = W_2 relu(W_1 s)`.

Both papers transform the maps between the layers of a network of images; ours transform tokens,
which every kind of input has. MedFuse's alignment of MMTM's answers, of weight 0 in its code, is
left out.
"""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, heads, rows, stages
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Model, Outputs


class Mmtm(nn.Module):
  """One row: gated tokens, a linear head of each, and the heads of all."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c, M = self.config, len(self.modalities)
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    e_MxD *= observed_M[:, None]
    squeezed = nn.Dense(max(1, 2 * M * c.width // c.ratio), name="squeeze")(e_MxD.reshape(-1))
    z = nn.relu(squeezed)
    gates_MxD = jnp.stack([nn.sigmoid(nn.Dense(c.width, name=f"gate_{m}")(z))
                           for m in self.modalities])
    gated_MxD = dropout(gates_MxD * e_MxD, noise)
    own_MxT = jnp.stack([nn.Dense(len(self.tasks), name=f"only_{m}")(x)
                         for m, x in zip(self.modalities, gated_MxD)])
    h = nn.Dense(c.width, name="project")(gated_MxD.reshape(-1))
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h,
                   dict(own=own_MxT, gates=gates_MxD, gated=gated_MxD))


class Daft(nn.Module):
  """One row: the base's token, transformed by the others', to the heads; as it is where there are
  none (ours)."""
  config: ml_collections.FrozenConfigDict
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple
  base: int

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c, D = self.config, self.config.width
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    e_MxD *= observed_M[:, None]
    other_M = observed_M & (jnp.arange(len(self.modalities)) != self.base)
    mean = (e_MxD * other_M[:, None]).sum(0) / jnp.maximum(other_M.sum(), 1)
    dense = lambda size, name: nn.Dense(size, use_bias=False, name=name)
    z = nn.relu(dense(c.bottleneck or (16 + D) // 7, "squeeze")(
        jnp.concatenate([e_MxD[self.base], mean])))
    scale, shift = jnp.split(dense(2 * D, "affine")(z), 2)
    transformed = scale * e_MxD[self.base] + shift
    h = dropout(jnp.where(other_M.any(), transformed, e_MxD[self.base]), noise)
    return Outputs(heads.logits(h, self.tasks, self.deeper, noise), h,
                   dict(scale=scale, shift=shift))


def build_mmtm(config, spec):
  """mmtm. Arguments as models.build; returns a Model."""
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      Mmtm(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper)), inputs,
      len(spec.modalities), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    own = {f"only_{m}": prediction(outputs.named["own"][:, i], heads.having(batch, i))
           for i, m in enumerate(spec.modalities)}
    return {"prediction": prediction(outputs.logits, batch), **own}

  transfer = (("squeeze",), *((f"gate_{m}",) for m in spec.modalities))
  turns = (*(((f"only_{m}",), ((f"encode_{m}",), (f"only_{m}",), *transfer))
             for m in spec.modalities),
           (("prediction",), (*transfer, ("project",), *((f"encode_{m}",) for m in spec.modalities),
                              *((f"head_{t}",) for t in spec.tasks))))
  weights = {"prediction": c.weights.prediction,
             **{f"only_{m}": c.weights.only for m in spec.modalities}}
  stage = stages.joint(config, weights, turns=turns if c.turns else ())
  return Model(init, apply, loss, probability, (stage,), vary, pretrained)


def build_daft(config, spec):
  """daft. Arguments as models.build; returns a Model. Raises ValueError for a base that is none."""
  c = settings.chosen(config)
  base = c.base or spec.modalities[0]
  if base not in spec.modalities:
    raise ValueError(f"model.daft.base is '{base}'; it may be {', '.join(spec.modalities)}, or '' "
                     "for the first.")
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      Daft(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper),
           spec.modalities.index(base)), inputs, len(spec.modalities), c.dropout)
  return Model(init, apply, stages.loss(prediction, spec.modalities), probability,
               (stages.joint(config),), vary, pretrained)
