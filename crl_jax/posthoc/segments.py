"""Sums over rows of equal id, and ids made dense: float64, many rows in parts on all cores."""

import concurrent.futures
import math
import os

import numpy as np

_PART = 1 << 15   # rows of a part: what is computed of them stays in the cache


def by_id(ids_N, values, size):
  """Sums `values` (..., N) over equal `ids_N`: (..., size)."""
  sums = [np.bincount(ids_N, row, size) for row in values.reshape(math.prod(values.shape[:-1]), -1)]
  return np.reshape(sums, (*values.shape[:-1], size))


def total(sums, n):
  """Adds up what `sums` (slice of rows -> array of one shape) finds in each part of `n` rows, in
  the order of the parts: it is the same on any number of cores."""
  parts = [slice(start, start + _PART) for start in range(0, max(n, 1), _PART)]
  if len(parts) == 1:
    return sums(parts[0])
  with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
    return sum(threads.map(sums, parts))


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
  """How many entries of x are odd(x)."""
  return int(total(lambda part: odd(x[part]).sum(), len(x)))
