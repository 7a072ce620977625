"""grape: GRAPE (You et al., NeurIPS 2020, arXiv 2010.16418). Rows and modalities are the nodes of a
graph, an observed modality is an edge with its token, and messages along edges fill in the tokens
of all cells, from which outcomes are predicted.

Ours: the edges hold tokens (the paper's hold scalar features), and rows that are asked meet fixed
rows of training instead of each other (the paper's message passing runs over test rows too).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from crl_jax.models import settings
from crl_jax.models.parts import encoders, graphs, heads, losses, rows, stages
from crl_jax.models.record import Model, Outputs


class Grape(nn.Module):
  """N rows: edges, of which training leaves some out -> messages -> a token of every cell ->
  logits, linear in them."""
  config: ml_collections.FrozenConfigDict   # settings.chosen()
  tasks: tuple

  @nn.compact
  def __call__(self, outputs, batch, sends_N, noise):
    c, e_NxMxD = self.config, outputs.named["embeddings"]
    N, M, _ = e_NxMxD.shape
    edges_NxMxE = nn.Dense(c.node, name="edge")(e_NxMxD)
    seen_NxM = batch.observed & batch.valid[:, None]
    kept_NxM = seen_NxM
    if noise is not None:
      kept_NxM &= noise.take((N, M)).astype(jnp.int32) < round(c.known * 65536)
    p_NxK, q_MxK = graphs.Bipartite(c.node, c.rounds, norm=True, name="messages")(
        jnp.ones((N, M)), jnp.eye(M), edges_NxMxE, kept_NxM, sends_N)
    ends = jnp.concatenate([jnp.broadcast_to(p_NxK[:, None], (N, M, c.node)),
                            jnp.broadcast_to(q_MxK, (N, M, c.node))], -1)
    filled_NxMxE = nn.Dense(c.node, name="fill_out")(nn.relu(nn.Dense(c.node, name="fill")(ends)))
    flat = filled_NxMxE.reshape(N, -1)
    return Outputs(nn.Dense(len(self.tasks), name="head")(flat), flat, dict(
        edges=edges_NxMxE, filled=filled_NxMxE, left_out=seen_NxM & ~kept_NxM))


def build(config, spec):
  """Arguments as models.build; returns a Model. Terms: impute, the squared distance of a filled
  token to the constant one of an edge that was left out."""
  c = settings.chosen(config)
  makers, pretrained, inputs = encoders.build(config, spec)
  prediction, probability = heads.prediction(config, spec.tasks)
  init, apply, join, vary = rows.joined(
      graphs.Tokens(spec.modalities, makers), Grape(c, spec.tasks), inputs, len(spec.modalities),
      len(spec.tasks), c.dropout)

  def loss(outputs, batch, gather=lambda x: x):
    del gather
    named = outputs.named
    left_BxM = named["left_out"] & batch.valid[:, None]
    apart = jnp.square(named["filled"] - jax.lax.stop_gradient(named["edges"])).mean(-1)
    return {"prediction": prediction(outputs.logits, batch),
            "impute": (losses.masked(apart, left_BxM), 1.0)}

  stage = stages.joint(config, c.weights.to_dict())
  return Model(init, apply, loss, probability, (stage,), vary, pretrained, join=join,
               support=c.support)
