"""Encoders: one modality's raw input of one row -> its token in R^D. Written without a batch axis."""

import flax.linen as nn
import jax.numpy as jnp


class VectorEncoder(nn.Module):
  """(F,) -> (D,). Dense 2D, LayerNorm, ReLU, Dropout, Dense D, LayerNorm, ReLU, Dropout, Dense D, LayerNorm."""
  width: int
  dropout: float
  input_dropout: float

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dropout(self.input_dropout, deterministic=not train)(x)
    for width in (2 * self.width, self.width):
      x = nn.relu(nn.LayerNorm()(nn.Dense(width)(x)))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.LayerNorm()(nn.Dense(self.width)(x))


class SequenceEncoder(nn.Module):
  """(L, F) -> (D,). A GRU over time; steps whose features are all zero are padding and leave the state as it is."""
  width: int
  dropout: float
  input_dropout: float

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dropout(self.input_dropout, broadcast_dims=(0,), deterministic=not train)(x)
    states = nn.RNN(nn.GRUCell(self.width))(nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x))))
    real = jnp.any(x != 0, -1)
    last = jnp.max(jnp.where(real, jnp.arange(x.shape[0]), 0))
    state = nn.Dropout(self.dropout, deterministic=not train)(states[last])
    return nn.LayerNorm()(nn.Dense(self.width)(state))


def encoder(rank):
  """The encoder class for an input of `rank` axes per row: 1 for vectors, 2 for sequences. Raises KeyError otherwise."""
  return {1: VectorEncoder, 2: SequenceEncoder}[rank]
