"""Encoders of a series: (L, 2 + 2V) of data.preprocess -> a token (D,).

A step exists where its first channel says so, whatever its values are: one whose scaled values are
all zero, the mean patient's, is a step. Axes: L steps, V variables, D width.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from crl_jax.models.parts import fusion
from crl_jax.models.parts.noise import dropout, input_dropout

_CELLS = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
_RATES = 8   # wavelengths of the time embedding


def split(x):
  """(valid (L,) bool, time (L,), filled values (L, V), masks (L, V)) of a series' input."""
  values, masks = jnp.split(x[:, 2:], 2, -1)
  return x[:, 0] > 0, x[:, 1], values, masks


def waves(time_L):
  """(L, 16) sines and cosines of times in units of most series' length: waves from twice that down
  to a 64th of it."""
  angle = (jnp.pi * time_L)[:, None] * 2.0 ** jnp.arange(_RATES, dtype=time_L.dtype)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def masked_scan(cell, x_LxF, valid_L, reverse=False):
  """(carry, outputs (L, H)) of a recurrent `cell` (a flax module of the caller's) over the steps of
  `x_LxF`, from the last one on if `reverse`. Those that are not valid leave the carry as it is, and
  what they put out means nothing."""
  def step(cell, carry, at):
    x, valid = at
    new, out = cell(carry, x)
    return jax.tree.map(functools.partial(jnp.where, valid), new, carry), out
  start = cell.initialize_carry(jax.random.key(0), x_LxF.shape[1:])   # zeros
  start = jax.tree.map(lambda c: c.astype(x_LxF.dtype), start)
  scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False},
                 reverse=reverse)
  return scan(cell, start, (x_LxF, valid_L))


class RecurrentEncoder(nn.Module):
  """A GRU or LSTM over the steps that exist, each of its filled values and masks."""
  width: int
  input_dropout: float
  cell: str   # a key of _CELLS

  @nn.compact
  def __call__(self, x, noise):
    valid_L, _, values, masks = split(x)
    x = input_dropout(jnp.concatenate([values, masks], -1), self.input_dropout, noise)
    x = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x)))
    carry, _ = masked_scan(_CELLS[self.cell](self.width, name="cell"), x, valid_L)
    h = carry[1] if self.cell == "lstm" else carry
    return nn.LayerNorm()(nn.Dense(self.width)(dropout(h, noise)))


class TransformerEncoder(nn.Module):
  """Self-attention among the steps that exist, each of its filled values, masks and time; then
  their mean."""
  width: int
  input_dropout: float
  heads: int
  layers: int = 1

  @nn.compact
  def __call__(self, x, noise):
    valid_L, time_L, values, masks = split(x)
    x = input_dropout(jnp.concatenate([values, masks], -1), self.input_dropout, noise)
    tokens_LxD = nn.LayerNorm()(nn.Dense(self.width, name="values")(x) +
                                nn.Dense(self.width, use_bias=False, name="time")(waves(time_L)))
    fuse = fusion.Fusion(self.heads, self.layers, name="attention")
    h_VxD, _ = fuse(tokens_LxD, valid_L[None], noise)
    return nn.LayerNorm()(nn.Dense(self.width)(h_VxD[0]))
