"""Series and images as tables, for whoever reads tables alone."""

import math

import numpy as np

_ROWS = 512     # summarised at once
_GRID = 8       # cells of a side of an image
OF_SERIES = ("last", "mean", "least", "most", "slope", "count")   # of every variable, in this order


def of_series(time, value, np=np):
  """What a series' variables did, by OF_SERIES.

  Args:
    time: (N, L) of the steps, ascending; what it is where nothing was measured does not matter.
    value: (N, L, V), NaN where nothing was measured.
    np: numpy, or jax.numpy inside a program.
  Returns:
    (N, 6V) float32: all variables' last value, mean, least, most, slope by least squares over time
    (0 where one time alone was measured), and log(1 + count); NaN where nothing was, the count 0.
  """
  seen = ~np.isnan(value)
  count = seen.sum(1)
  none = np.where(count > 0, 0.0, np.nan)
  total = lambda x: np.where(seen, x, 0.0).sum(1)
  mean = total(value) / np.maximum(count, 1)
  t = np.where(seen, time[..., None], 0.0)
  apart = np.where(seen, t - (t.sum(1) / np.maximum(count, 1))[:, None], 0.0)
  spread = total(apart * apart)
  slope = np.where(spread > 1e-9, total(apart * value) / np.maximum(spread, 1e-9), 0.0)
  last = np.where(seen, np.arange(value.shape[1])[:, None], 0).max(1)
  last = np.take_along_axis(value, last[:, None], 1)[:, 0]
  least, most = (np.where(seen, value, edge).min(1) if edge > 0 else
                 np.where(seen, value, edge).max(1) for edge in (np.inf, -np.inf))
  found = [last, mean + none, least + none, most + none, slope + none, np.log1p(count)]
  return np.concatenate(found, 1).astype(np.float32)


def of_image(x, np=np):
  """(N, H, W, C) pixels -> (N, G * G' * C) float32 means on 0..1 of a grid of 8 x 8 cells, of fewer
  where there are fewer pixels; `np` as of of_series()."""
  high, wide = _cells(x.shape[1]), _cells(x.shape[2])
  # sums of whole numbers and one product: the same bits everywhere, as thresholds of trees need
  found = np.einsum("nhwc,gh,kw->ngkc", np.asarray(x, np.float32), high, wide, optimize=True)
  found = found * (1 / (255 * high.sum(1)[:, None, None] * wide.sum(1)[:, None]))
  return found.reshape(x.shape[0], math.prod(found.shape[1:]))


def _cells(side):
  """(G, side) float32, 1 where a pixel is of the cell."""
  edges = np.linspace(0, side, min(_GRID, side) + 1).astype(int)
  cell = np.searchsorted(edges, np.arange(side), side="right") - 1
  return (cell == np.arange(len(edges) - 1)[:, None]).astype(np.float32)


def _raw_series(x):
  exists = ~np.isnan(x[..., :1])
  return of_series(x[..., 0], np.where(exists, x[..., 1:], np.nan))


_RAW = {"series": _raw_series, "image": of_image}


def of_raw(kind, x, rows):
  """`rows` of a cohort's inputs x as they are; those of a series or an image summarised, (n, F)."""
  if kind not in _RAW or not len(rows):
    return x[rows]
  return np.concatenate([_RAW[kind](x[rows[start:start + _ROWS]])
                         for start in range(0, len(rows), _ROWS)])
