"""Sums over rows of equal id: NumPy where rows are few, one compiled program where they are
many."""

import concurrent.futures
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

# rows from which the compilation pays: NumPy takes about as long for them
_MANY = 1 << 18
# rows that the compiled program sees at a time: they stay in the cache, and one compilation fits
# any number of rows
_CHUNK = 1 << 16


def few(ids_N, values, size):
  """Sums `values` (..., N) over equal `ids_N`: (..., size), by NumPy."""
  flat = values.reshape(int(np.prod(values.shape[:-1])), values.shape[-1])
  ids = ids_N + size * np.arange(len(flat))[:, None]
  return np.bincount(ids.ravel(), flat.ravel(), len(flat) * size).reshape(*values.shape[:-1], size)


def total(terms, arrays, fills, tables, size):
  """Sums what `terms` makes of the rows over equal ids, in float64.

  Args:
    terms: (xp, *arrays, *tables) -> ids (n, ...) and values (n, ..., Q) of n rows, xp NumPy or
      jax.numpy; a module-level function, for each of which a program is compiled.
    arrays: of N rows each.
    fills: a value per array that makes a row whose values are 0 or whose id nobody asks for.
    tables: arrays common to all rows.
    size: number of ids.
  Returns:
    (size, Q).
  """
  if len(arrays[0]) < _MANY:
    ids, values = terms(np, *arrays, *tables)
    return np.stack([np.bincount(ids.ravel(), values[..., q].ravel(), size)
                     for q in range(values.shape[-1])], -1)

  def part(start):
    with jax.enable_x64(True):   # in this thread alone
      rows = [_chunk(x, start, fill) for x, fill in zip(arrays, fills)]
      return np.asarray(_compiled(rows, tables, terms=terms, size=size))
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
    return np.sum(list(threads.map(part, range(0, len(arrays[0]), _CHUNK))), 0)


@functools.partial(jax.jit, static_argnames=("terms", "size"))
def _compiled(arrays, tables, terms, size):
  ids, values = terms(jnp, *arrays, *tables)
  count = values.shape[-1]
  if count == 3:   # an addition four wide is one vector instruction
    values = jnp.concatenate([values, values[..., :1]], -1)
  elif count > 4:   # else each would be computed again for every other
    values = jax.lax.optimization_barrier(values)
  sums = jnp.zeros((size, values.shape[-1]), values.dtype)
  return sums.at[ids].add(values, mode="promise_in_bounds")[:, :count]


def _chunk(x, start, fill):
  """_CHUNK rows of x, filled up past its last."""
  part = x[start:start + _CHUNK]
  if len(part) < _CHUNK:
    part = np.pad(part, ((0, _CHUNK - len(part)),) + ((0, 0),) * (x.ndim - 1),
                  constant_values=fill)
  return part


def dense(ids):
  """(sorted distinct ids, int32 index of each of `ids` among them); sorts only wide, unordered
  ids."""
  if ids.dtype.kind == "i" and len(ids):
    if (ids[1:] > ids[:-1]).all():
      return ids, np.arange(len(ids), dtype=np.int32)
    low, high = int(ids.min()), int(ids.max())
    if high - low < 4 * len(ids):
      offset = ids - low
      seen = np.zeros(high - low + 1, bool)
      seen[offset] = True
      return np.flatnonzero(seen) + low, (np.cumsum(seen, dtype=np.int32) - 1)[offset]
  distinct, index = np.unique(ids, return_inverse=True)
  return distinct, index.astype(np.int32)


def count(odd, x):
  """How many entries of x are odd(x), taken in parts: temporaries stay in the cache."""
  return sum(int(odd(x[start:start + _CHUNK]).sum()) for start in range(0, len(x), _CHUNK))
