"""What rows that meet say to each other: over a graph of similarities, or over one of rows and
modalities.

Messages go from j to i only where j sends, or is i; statistics are those of rows that send. So a
row that is asked changes no other's answer.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from crl_jax.models.parts import encoders
from crl_jax.models.record import Outputs


class Tokens(nn.Module):
  """One row: its tokens, `named["embeddings"]` (M, D)."""
  modalities: tuple
  encoders: tuple

  @nn.compact
  def __call__(self, inputs, observed_M, noise):
    e_MxD = jnp.stack(encoders.tokens(self.encoders, self.modalities, inputs, observed_M, noise))
    return Outputs(None, None, dict(embeddings=e_MxD))


class Bipartite(nn.Module):
  """Layers of messages between N rows p and M modalities q along edges E (You et al., NeurIPS
  2020; Wu et al., ICLR 2024). In a layer both ends share their maps:

  `p_i' = relu(W' [mean_m relu(W [q_m | E_im]) | p_i])`,
  `q_m' = relu(W' [mean_i relu(W [p_i | E_im]) | q_m])`,

  means over edges, those to q over rows that send; and between layers
  `E_im' = relu(V [E_im | p_i' | q_m'])`, the two nodes in the order of the message's direction.
  """
  width: int
  layers: int
  norm: bool   # nodes have length 1 after every layer

  @nn.compact
  def __call__(self, p_NxK, q_MxK, edges_NxMxE, there_NxM, sends_N):
    shape = there_NxM.shape
    to_p = to_q = edges_NxMxE
    along = lambda x, axis: jnp.broadcast_to(jnp.expand_dims(x, axis), (*shape, x.shape[-1]))
    mean = lambda x, who, axis: ((x * who[..., None]).sum(axis) /
                                 jnp.maximum(who.sum(axis), 1)[..., None])
    for i in range(self.layers):
      layer = lambda name, i=i: nn.Dense(self.width, name=f"{name}_{i}")
      send, update, change = layer("send"), layer("update"), layer("change")
      from_q = nn.relu(send(jnp.concatenate([along(q_MxK, 0), to_p], -1)))
      from_p = nn.relu(send(jnp.concatenate([along(p_NxK, 1), to_q], -1)))
      told_NxK = mean(from_q, there_NxM, 1)
      told_MxK = mean(from_p, there_NxM & sends_N[:, None], 0)
      p_NxK = nn.relu(update(jnp.concatenate([told_NxK, p_NxK], -1)))
      q_MxK = nn.relu(update(jnp.concatenate([told_MxK, q_MxK], -1)))
      if self.norm:
        p_NxK, q_MxK = unit(p_NxK), unit(q_MxK)
      if i < self.layers - 1:
        p, q = along(p_NxK, 1), along(q_MxK, 0)
        to_q = nn.relu(change(jnp.concatenate([to_q, p, q], -1)))
        to_p = nn.relu(change(jnp.concatenate([to_p, q, p], -1)))
    return p_NxK, q_MxK


def unit(x):
  """x (..., K) of length 1, or 0 where it is."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def others(sends_N):
  """(N, N) bool, True where row j (column) may tell row i: it sends, and is another."""
  return sends_N[None] & ~jnp.eye(sends_N.shape[0], dtype=bool)


def standardised(x_NxD, who_N):
  """x with mean 0 and variance 1 over the rows `who`: in the place of BatchNorm, whose kept
  statistics are none of this package's."""
  weight_Nx1 = who_N[:, None] / jnp.maximum(who_N.sum(), 1)
  mean = (x_NxD * weight_Nx1).sum(0)
  return (x_NxD - mean) * jax.lax.rsqrt((jnp.square(x_NxD - mean) * weight_Nx1).sum(0) + 1e-5)


def gaussian(x_NxD, pairs_NxN):
  """(N, N) mean of three Gaussian kernels, of half, once and twice the mean squared distance of the
  `pairs` (bool)."""
  square_N = jnp.square(x_NxD).sum(-1)
  distance_NxN = jnp.maximum(square_N[:, None] + square_N - 2 * x_NxD @ x_NxD.T, 0.0)
  width = jnp.where(pairs_NxN, distance_NxN, 0.0).sum() / jnp.maximum(pairs_NxN.sum(), 1) + 1e-6
  width = jax.lax.stop_gradient(width)
  return sum(jnp.exp(-distance_NxN / (width * factor)) for factor in (0.5, 1.0, 2.0)) / 3


def averaging(weights_NxN):
  """Rows that sum to 1, or to 0 where there is nothing."""
  return weights_NxN / jnp.maximum(weights_NxN.sum(1, keepdims=True), 1e-6)
