"""What rows that meet say to each other over a graph of similarities.

Messages go from j to i only where j sends, or is i; statistics are those of rows that send. So a
row that is asked changes no other's answer.
"""

import jax
import jax.numpy as jnp


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
