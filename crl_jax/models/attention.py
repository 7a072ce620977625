"""Models of attention among several tokens a modality. The tokens are a linear map of the encoder's
one (ours: every kind of input has that), each with a learned place.

mt: Ma et al., CVPR 2022 (arXiv 2204.05454), "Are multimodal transformers robust to missing
  modality?", our reading of the abstract and a review: a transformer that fuses late, trained on
  what all modalities say together and what each says alone. The paper searches the layer of fusion;
  ours is a setting.
"""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, fusion, heads, rows, stages
from crl_jax.models.parts.noise import dropout
from crl_jax.models.record import Model, Outputs


class Split(nn.Module):
  """(D,) -> (P, D): P tokens of one, with a learned place each."""
  tokens: int

  @nn.compact
  def __call__(self, e):
    x_PxD = nn.Dense(self.tokens * e.shape[0], name="split")(e).reshape(self.tokens, -1)
    place_PxD = self.param("place", nn.initializers.normal(0.02), x_PxD.shape)
    return nn.LayerNorm(name="norm")(x_PxD) + place_PxD.astype(x_PxD.dtype)


class Block(nn.Module):
  """Attention of S tokens to those that a view shows, and a feed-forward layer, each with a
  residual and LayerNorm: (W, S, D), (V, S) -> (V, S, D), see fusion.Attention."""
  heads: int

  @nn.compact
  def __call__(self, x_WxSxD, visible_VxS, noise):
    width = x_WxSxD.shape[-1]
    mixed, _ = fusion.Attention(self.heads)(x_WxSxD, visible_VxS)
    x = nn.LayerNorm()(x_WxSxD + dropout(mixed, noise))
    forward = nn.Dense(width)(nn.relu(nn.Dense(2 * width)(x)))
    return nn.LayerNorm()(x + dropout(forward, noise))


class Mt(nn.Module):
  """One row: a summary token before each modality's own, layers inside modalities, layers across
  those of a view, and the mean of the view's summaries to the heads. Views: all, and in training
  each modality alone."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  modalities: tuple
  encoders: tuple
  tasks: tuple
  deeper: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    c, M, P = self.config, len(self.modalities), self.config.tokens + 1
    es = encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise)
    sets = []
    for m, e in zip(self.modalities, es):
      first = self.param(f"summary_{m}", nn.initializers.normal(0.02), (1, c.width))
      x = jnp.concatenate([first.astype(e.dtype), Split(c.tokens, name=f"tokens_{m}")(e)])[None]
      for i in range(c.inside):
        x = Block(c.heads, name=f"inside_{m}_{i}")(x, jnp.ones((1, P), bool), noise)
      sets.append(x)
    x = jnp.concatenate(sets, 1)
    views_VxM = observed_M[None]
    if noise is not None:
      views_VxM = jnp.concatenate([views_VxM, jnp.eye(M, dtype=bool) & observed_M])
    for i in range(c.across):
      x = Block(c.heads, name=f"across_{i}")(x, jnp.repeat(views_VxM, P, 1), noise)
    summary_VxMxD = x[:, ::P]
    weight_VxMx1 = (views_VxM / jnp.maximum(views_VxM.sum(1, keepdims=True), 1))[..., None]
    h_VxD = (summary_VxMxD * weight_VxMx1.astype(x.dtype)).sum(1)
    classify = heads.shared(self.tasks, self.deeper, c.width)
    named = {} if noise is None else dict(
        single=jnp.stack([classify(h, noise) for h in h_VxD[1:]]))
    return Outputs(classify(h_VxD[0], noise), h_VxD[0], named | dict(summary=summary_VxMxD[0]))


def build_mt(config, spec):
  """mt. Arguments as models.build; returns a Model. Terms: single_<modality>, what the view of one
  modality says, on the rows that have it."""
  c, M = settings.chosen(config), len(spec.modalities)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, vary = rows.batched(
      Mt(c, spec.modalities, makers, spec.tasks, tuple(config.loss.deeper)), inputs, M, c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    terms = {"prediction": prediction(outputs.logits, batch)}
    for i, m in enumerate(spec.modalities if "single" in outputs.named else ()):
      terms[f"single_{m}"] = prediction(outputs.named["single"][:, i], heads.having(batch, i))
    return terms

  weights = {"prediction": 1.0, **{f"single_{m}": c.weights.single / M for m in spec.modalities}}
  return Model(init, apply, loss, probability, (stages.joint(config, weights),), vary, pretrained)
