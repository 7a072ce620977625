"""A row's randomness, drawn in one piece and dealt out to its dropouts.

One draw per step compiles and runs several times faster than a PRNG call in every dropout, and a
row's noise depends on its key alone, so that any layout of rows over devices trains on the same
numbers.
"""

import jax
import jax.numpy as jnp


class Noise:
  """Deals 16-bit random integers to whoever asks, in the order of the (traced) program.

  With `bits` None it only counts what is asked for and deals zeros.
  """

  def __init__(self, bits=None):
    self._bits = bits
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


def draw(keys, count):
  """(B, count) uint16 from (B,) keys."""
  return jax.vmap(lambda key: jax.random.bits(key, (count,), jnp.uint16))(keys)


def dropout(x, rate, noise, shape=None):
  """Zeroes a share `rate` of `x` and scales the rest up; returns `x` as it is where `noise` is
  None.

  Args:
    x: any array.
    rate: in [0, 1), rounded to 1/65536.
    noise: Noise, or None outside training.
    shape: of the mask, broadcast against x; that of x by default.
  Returns:
    array like x.
  """
  cut = round(rate * 65536)
  if noise is None or not cut:
    return x
  kept = noise.take(x.shape if shape is None else shape) >= cut
  return jnp.where(kept, x / (1 - cut / 65536), 0.0)
