"""m3care: M3Care (Zhang et al., KDD 2022, arXiv 2210.17292). What a missing modality would say is
taken from similar patients: a graph over the modalities that two rows share, two graph convolutions
of each modality's tokens, and a mixture of both for what is there.

`K_m = (1 - s) k(std phi_m(e)) + s k(std e)`; S is the mean of K_m over the shared modalities, kept
where it exceeds theta. Ours: messages are averages (upstream sums, unnormalised) over rows that
have the modality.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, fusion, graphs, heads, losses, rows, stages
from crl_jax.models.record import Model, Outputs


class M3Care(nn.Module):
  """N rows: similarity graph -> completed tokens -> attention over them -> heads."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  tasks: tuple

  @nn.compact
  def __call__(self, outputs, batch, sends_N, noise):
    c, e_NxMxD = self.config, outputs.named["embeddings"]
    N, M, D = e_NxMxD.shape
    seen_NxM = batch.observed & batch.valid[:, None]
    others_NxN = graphs.others(sends_N)
    told_NxN = others_NxN | jnp.eye(N, dtype=bool)
    mix_M = nn.sigmoid(self.param("mix", nn.initializers.constant(-0.3), (M,)))
    theta = nn.sigmoid(self.param("threshold", nn.initializers.zeros, ()))
    similar_NxN, shared_NxN, drift = 0.0, 0, []
    for m in range(M):
      e, seen = e_NxMxD[:, m], seen_NxM[:, m]
      z = nn.Dense(D, name=f"compare_{m}_0")(e)
      for i in (1, 2):
        z = nn.Dense(D, name=f"compare_{m}_{i}")(nn.selu(z))
      pair_NxN = seen[:, None] & seen
      kernel = lambda x: graphs.gaussian(graphs.standardised(x, seen & sends_N),
                                         pair_NxN & sends_N[:, None] & others_NxN)
      similar_NxN += ((1 - mix_M[m]) * kernel(z) + mix_M[m] * kernel(e)) * pair_NxN
      shared_NxN += pair_NxN
      size = lambda x: jnp.sqrt(jnp.square(x * seen[:, None]).sum() + 1e-12)
      drift.append(jnp.abs(size(z) - size(e)) / jnp.sqrt(jnp.maximum(seen.sum(), 1) * D))
    similar_NxN /= jnp.maximum(shared_NxN, 1)
    kept_NxN = nn.relu(similar_NxN - theta)
    graph_NxN = kept_NxN + (kept_NxN > 0) * jax.lax.stop_gradient(theta)

    tokens = []
    for m in range(M):
      e, seen = e_NxMxD[:, m], seen_NxM[:, m]
      edges = graphs.averaging(graph_NxN * (told_NxN & seen))
      g = nn.selu(edges @ nn.Dense(D, name=f"pass_{m}_0")(e))
      g = nn.selu(edges @ nn.Dense(D, name=f"pass_{m}_1")(g))
      a = nn.sigmoid(nn.Dense(1, name=f"near_{m}")(g))
      b = nn.sigmoid(nn.Dense(1, name=f"self_{m}")(e))
      tokens.append(jnp.where(seen[:, None], (a * g + b * e) / (a + b), g))
    kind_MxD = self.param("kind", nn.initializers.normal(0.02), (M, D))
    whole_NxMxD = jnp.stack(tokens, 1)
    fuse = fusion.Fusion(c.heads, c.layers, name="fusion")
    h_NxD = nn.vmap(lambda fuse, x: fuse(x, jnp.ones((1, M), bool), None)[0][0],
                    variable_axes={"params": None}, split_rngs={"params": False})(
                        fuse, whole_NxMxD + kind_MxD)
    return Outputs(nn.Dense(len(self.tasks), name="head")(h_NxD), h_NxD, dict(
        completed=whole_NxMxD, similar=similar_NxN,
        drift=jnp.broadcast_to(jnp.stack(drift), (N, M))))


def build(config, spec):
  """Arguments as models.build; returns a Model."""
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, join, vary = rows.joined(
      graphs.Tokens(spec.modalities, makers), M3Care(c, spec.tasks), inputs, len(spec.modalities),
      len(spec.tasks), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    drift = outputs.named["drift"]
    return {"prediction": prediction(outputs.logits, batch), "stability": (losses.masked(
        drift, jnp.broadcast_to(batch.valid[:, None], drift.shape)), 1.0)}

  stage = stages.joint(config, c.weights.to_dict())
  return Model(init, apply, loss, probability, (stage,), vary, pretrained, join=join,
               support=c.support)
