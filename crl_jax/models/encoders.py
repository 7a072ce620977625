"""Encoders: one modality's raw input of one row -> its token in R^D. Written without a batch
axis."""

import flax.linen as nn
import jax.numpy as jnp

from crl_jax.models.noise import dropout, input_dropout


class VectorEncoder(nn.Module):
  """(F,) -> (D,). Dense 2D, LayerNorm, ReLU, Dropout, Dense D, LayerNorm, ReLU, Dropout, Dense D,
  LayerNorm."""
  width: int
  input_dropout: float

  @nn.compact
  def __call__(self, x, noise):
    x = input_dropout(x, self.input_dropout, noise)
    for width in (2 * self.width, self.width):
      x = dropout(nn.relu(nn.LayerNorm()(nn.Dense(width)(x))), noise)
    return nn.LayerNorm()(nn.Dense(self.width)(x))


class SequenceEncoder(nn.Module):
  """(L, F) -> (D,). A GRU over time; steps whose features are all zero are padding and leave the
  state as it is."""
  width: int
  input_dropout: float

  @nn.compact
  def __call__(self, x, noise):
    x = input_dropout(x, self.input_dropout, noise)
    states = nn.RNN(nn.GRUCell(self.width))(nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x))))
    real = jnp.any(x != 0, -1)
    last = jnp.max(jnp.where(real, jnp.arange(x.shape[0]), 0))
    return nn.LayerNorm()(nn.Dense(self.width)(dropout(states[last], noise)))


def encoder(rank):
  """The encoder class for an input of `rank` axes per row: 1 for vectors, 2 for sequences. Raises
  KeyError otherwise."""
  return {1: VectorEncoder, 2: SequenceEncoder}[rank]
