"""A row's randomness, drawn in one piece and dealt out to its dropouts.

One draw per step compiles and runs several times faster than a PRNG call in every dropout, and a
row's noise depends on its key alone, so that any layout of rows over devices trains on the same
numbers.
"""

import math

import jax
import jax.numpy as jnp


class Noise:
  """Deals 16-bit random integers to whoever asks, in the order of the (traced) program.

  With `bits` None it only counts what is asked for and deals zeros.

  Attributes:
    rate: the model's dropout rate in [0, 1), a number or a () array.
    used: how many integers were dealt.
  """

  def __init__(self, bits=None, rate=0.0):
    self._bits = bits
    self.rate = rate
    self.used = 0

  def take(self, shape):
    """The next uint16 of `shape`."""
    start, count = self.used, 1
    for n in shape:
      count *= n
    self.used += count
    if self._bits is None:
      return jnp.zeros(shape, jnp.uint16)
    return jax.lax.slice(self._bits, (start,), (start + count,)).reshape(shape)

  def key(self):
    """A jax.random key, for noise too much to be drawn in one piece."""
    halves = self.take((4,)).astype(jnp.uint32)
    return jax.random.wrap_key_data(halves[:2] << 16 | halves[2:])


class RowsNoise(Noise):
  """The Noise of N rows at once: whatever is asked for has the rows as its first axis, and each row
  is dealt its own integers. `bits` (N, count)."""

  def take(self, shape):
    start, count = self.used, math.prod(shape[1:])
    self.used += count
    if self._bits is None:
      return jnp.zeros(shape, jnp.uint16)
    return self._bits[:, start:start + count].reshape(shape)


def draw(keys, count):
  """(B, count) uint16 from (B,) keys: those of jax.random.bits(key, (count,), uint16)."""
  return jax.vmap(lambda key: _bits(jax.random.key_data(key), count))(keys)


def _bits(key, count):
  """Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), counters 0, 1, ... under `key` (2,).

  Written out, a CPU runs it in one loop over the numbers. jax.random's is a loop over rounds that
  copies all numbers in each, eight times slower and a tenth of a training step.
  """
  words = key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA)
  a, b = jnp.broadcast_to(words[0], (count,)), words[1] + jnp.arange(count, dtype=jnp.uint32)
  for i in range(5):
    for shift in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      a = a + b
      b = a ^ (b << shift | b >> (32 - shift))
    a, b = a + words[(i + 1) % 3], b + words[(i + 2) % 3] + jnp.uint32(i + 1)
  return (a ^ b).astype(jnp.uint16)


def dropout(x, noise):
  """Zeroes a share `noise.rate` of `x` and scales the rest up; returns `x` as it is where `noise`
  is None. The rate may be traced: the same noise is taken for any rate."""
  return x if noise is None else _drop(x, noise.rate, noise.take(x.shape))


def input_dropout(x, rate, noise):
  """dropout() of the features of (..., F), each at all times or at none, with a rate of its own. At
  rate 0 it takes no noise: inputs are wide."""
  return x if noise is None or not rate else _drop(x, rate, noise.take(x.shape[-1:]))


def _drop(x, rate, noise):
  cut = jnp.minimum(jnp.round(jnp.asarray(rate, jnp.float32) * 65536), 65535)
  scale = (1 / (1 - cut / 65536)).astype(x.dtype)
  return jnp.where(noise >= cut.astype(jnp.uint16), x * scale, 0)
