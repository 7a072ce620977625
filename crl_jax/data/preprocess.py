"""Scalers and imputers, fitted on training rows only, applied as one pure function on the
device."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri


def fit(inputs, observed, modalities, rows, config):
  """Fits the preprocessing of every modality on `rows` alone.

  Args:
    inputs: modality -> (N, ..., F) with NaN for missing features.
    observed: (N, M) bool.
    modalities: the M names.
    rows: (n,) training row indices.
    config: config.preprocess.
  Returns:
    modality -> dict of float32 arrays: `fill` (F,) median, `knots` (Q, F) quantiles (Q = 1:
    unused), `center`, `spread` (F,) of the scaled values, `keep` (F,) 0/1, `indicator` (F,) 0/1,
    `low`, `high` (F,) training range, `clip` (), and `basis` (F, C), the leading principal
    components ((1, 1): unused; orbax saves no empty array).
  """
  stats = {}
  for m, name in enumerate(modalities):
    seen = rows[observed[rows, m]]
    stats[name] = _fit_one(inputs[name], seen, config)
    stats[name]["basis"] = _principal_components(stats[name], inputs[name], seen, config.components)
  return stats


def _fit_one(x, rows, config):
  width = x.shape[-1]
  columns = lambda value: np.full(width, value, np.float32)
  stats = dict(fill=columns(0), knots=np.zeros((1, width), np.float32), center=columns(0),
               spread=columns(1), keep=columns(0), indicator=columns(0), low=columns(0),
               high=columns(0), clip=np.float32(config.clip))
  if not len(rows):   # observed for nobody in training: everything is dropped
    return stats
  x = x[rows].reshape(-1, width)
  missing = np.isnan(x)
  share = missing.mean(0)
  some = share < 1
  if missing.any():
    stats["fill"][some] = np.nanmedian(x[:, some], 0)
    x = np.where(missing, stats["fill"], x)
  stats["low"], stats["high"] = x.min(0), x.max(0)
  stats["keep"] = (share <= config.max_missing).astype(np.float32)
  if config.indicators:
    stats["indicator"] = (some & (share > 0)).astype(np.float32)
  if config.scale == "quantile":
    stats["knots"] = np.quantile(x, np.linspace(0, 1, config.quantiles), axis=0).astype(np.float32)
    x = np.asarray(_to_normal(stats["knots"], x))
  stats["center"] = x.mean(0, dtype=np.float64).astype(np.float32)
  spread = x.std(0, dtype=np.float64).astype(np.float32)
  # a constant says nothing
  stats["keep"] *= spread > 1e-6 * np.maximum(1, np.abs(stats["center"]))
  stats["spread"] = np.where(stats["keep"] > 0, spread, 1).astype(np.float32)
  return stats


def _principal_components(stats, x, rows, components):
  """(F, C) directions of the scaled features, all scaled alike so that the mean variance is 1;
  (1, 1) if unused.

  Components are not whitened: directions of little variance, mostly noise, stay small.
  """
  width = x.shape[-1]
  if not 0 < components < width or not len(rows):
    return np.zeros((1, 1), np.float32)
  moment, count = np.zeros((width, width)), 0
  for part in np.array_split(rows, -(-len(rows) // 8192)):
    z = np.asarray(_scale(stats, x[part], np.ones(len(part), bool))[0]).reshape(-1, width)
    moment += z.T @ z
    count += len(z)
  values, vectors = np.linalg.eigh(moment / count)   # the scaled features have mean zero
  leading = vectors[:, ::-1][:, :components]
  # a sign that any LAPACK agrees on
  leading = leading * np.where(np.abs(leading).max(0) == leading.max(0), 1, -1)
  return (leading / np.sqrt(np.maximum(values[::-1][:components].mean(), 1e-12))).astype(np.float32)


def widths(stats):
  """modality -> number of features that transform() delivers."""
  return {m: (s["basis"].shape[1] if len(s["basis"]) > 1 else len(s["fill"]))
             + (len(s["fill"]) if s["indicator"].any() else 0) for m, s in stats.items()}


@jax.jit
def _scale(stats, x, present):
  missing = jnp.isnan(x)
  filled = jnp.where(missing, stats["fill"], x)
  if stats["knots"].shape[0] > 1:
    filled = _to_normal(stats["knots"], filled)
  z = (jnp.clip((filled - stats["center"]) / stats["spread"], -stats["clip"], stats["clip"]) *
       stats["keep"])
  present = present.reshape(present.shape + (1,) * (x.ndim - 1))
  return jnp.where(present, z, 0.0), jnp.where(present, missing * stats["indicator"], 0.0)


def transform(stats, inputs, observed, modalities, chunk=16384):
  """Imputes, scales and clips; appends the missing-indicators of modalities that have any.

  Args:
    stats: from fit().
    inputs: modality -> (N, ..., F), NaN for missing features.
    observed: (N, M) bool.
    modalities: the M names.
    chunk: rows scaled at once, which bounds the memory of temporaries.
  Returns:
    modality -> float32 (N, ..., F') on the host, exactly zero where unobserved.
  """
  result = {}
  for m, name in enumerate(modalities):
    parts = []
    for start in range(0, len(observed), chunk):
      rows = slice(start, start + chunk)
      z, gaps = _scale(stats[name], inputs[name][rows], observed[rows, m])
      z = z @ stats[name]["basis"] if len(stats[name]["basis"]) > 1 else z
      parts.append(np.concatenate([z, gaps], -1) if stats[name]["indicator"].any()
                   else np.asarray(z))
    result[name] = np.concatenate(parts)
  return result


def _to_normal(knots, x):
  """Maps each column to a standard normal by its empirical quantiles; ties take the middle of their
  range."""
  levels = jnp.linspace(0, 1, knots.shape[0])
  def column(k, v):
    upper = jnp.interp(v, k, levels)
    lower = 1 - jnp.interp(-v, -k[::-1], levels)
    return (upper + lower) / 2
  flat = x.reshape(-1, x.shape[-1])
  ranks = jax.vmap(column, in_axes=(1, 1), out_axes=1)(knots, flat).reshape(x.shape)
  edge = 0.5 / knots.shape[0]
  return ndtri(jnp.clip(ranks, edge, 1 - edge))


def out_of_range(stats, inputs, observed, modalities, features):
  """Counts features whose new values lie far outside the training range, a sign of other units.

  Returns:
    list of (modality, feature, share): more than 1 % of the observed values lie beyond the training
    range by more than the width of that range.
  """
  found = []
  for m, name in enumerate(modalities):
    x = inputs[name][observed[:, m]].reshape(-1, len(features[name]))
    low, high, keep = (stats[name][key] for key in ("low", "high", "keep"))
    slack = high - low
    with np.errstate(invalid="ignore"):
      share = ((x < low - slack) | (x > high + slack)).sum(0) / np.maximum(1, (~np.isnan(x)).sum(0))
    found += [(name, features[name][j], float(share[j]))
              for j in np.flatnonzero((share > 0.01) & (keep > 0))]
  return found
