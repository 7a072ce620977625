"""Scalers and imputers, fitted on training rows only, applied as one pure function on the
device.

Token ids and pixels are left alone. In sequences and sets an entry whose features are all NaN is
padding: it counts in no statistic and is delivered as zeros; a sequence's steps are delivered with
a channel that is 1 on those that exist. A series is delivered as its steps' existence and times,
its values, filled, and which of them were measured.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from crl_jax.data.cohort import CohortError

_NEAR = 10   # training values behind a knot of the quantile scale


def fit_folds(inputs, observed, modalities, rows, config, kinds={}, normal={}):
  """Fits the preprocessing of every fold on its own training rows.

  Args:
    inputs: modality -> (N, ..., F) with NaN for missing features, or token ids.
    observed: (N, M) bool.
    modalities: the M names.
    rows: per fold, (n,) training row indices.
    config: config.preprocess.
    kinds: modality -> key of data.cohort.KINDS; those not named hold numbers or token ids.
    normal: series -> (V,) what its values are before they are measured, NaN: the median; looked at
      where config.before says so.
  Returns:
    per fold, modality -> dict of float32 arrays, of one shape in all folds: `fill` (F,) median,
    `knots` (Q, F) smoothed quantiles (Q = 1: unused), `center`, `spread` (F,) of the scaled values, `keep`
    (F,) 0/1, `low`, `high` (F,) training range, `clip` (), `indicator` (F,) 0/1, which features'
    gaps are delivered too, and `basis` (F, C), the leading principal components (both (1, 1):
    unused; orbax saves no empty array). Of a sequence `steps` () too; of a series, over its V
    values, all up to `clip`, `hours` () by which times are divided, and `forward` () 0/1, whether
    values hold until the next. Of token ids `ids` (L,) alone, of images `pixels` (C,).
  """
  folds = [{} for _ in rows]
  for m, name in enumerate(modalities):
    if not depends_on_fold(inputs[name]):
      key = "pixels" if inputs[name].dtype == np.uint8 else "ids"
      for fold in folds:
        fold[name] = {key: np.zeros(inputs[name].shape[-1], np.int32)}
      continue
    for fold, train in zip(folds, rows):
      entries = int(np.prod(inputs[name].shape[1:-1]))
      seen = _sample(train[observed[train, m]], max(1, config.sample // entries))
      if kinds.get(name) == "series":
        fold[name] = _fit_series(inputs[name], seen, config, normal.get(name))
        continue
      stats = _fit_one(inputs[name], seen, config)
      stats["basis"] = _principal_components(stats, inputs[name], seen, config.components)
      if kinds.get(name) == "sequence":
        stats["steps"] = np.float32(1)
      fold[name] = stats
    if not any(fold[name].get("indicator", np.ones(1)).any() for fold in folds):
      for fold in folds:
        fold[name]["indicator"] = np.zeros((1, 1), np.float32)
  return folds


def fit(inputs, observed, modalities, rows, config, kinds={}, normal={}):
  """fit_folds() of one fold whose training rows are `rows` (n,)."""
  return fit_folds(inputs, observed, modalities, [rows], config, kinds, normal)[0]


def of_cohort(cohort, config, modalities=None):
  """The arguments that fit_folds() and fit() take of a cohort: those of its inputs that are named,
  by default all, with `config` (config.preprocess).

  Raises CohortError where config.before asks for normal values and a series has none.
  """
  names = cohort.modalities if modalities is None else modalities
  kinds, normal = {m: cohort.kind(m) for m in names}, {}
  for m in names:
    if kinds[m] == "series" and config.before == "normal":
      known = cohort.info.get("normal", {}).get(m)
      if known is None:
        raise CohortError(f"config.preprocess.before is 'normal', and the cohort's info['normal'] "
                          f"has no values of the series '{m}': bring them, or choose 'median'.")
      normal[m] = np.array([known.get(name, np.nan) for name in cohort.features[m][1:]],
                           np.float32)
  observed = cohort.observed[:, [cohort.modalities.index(m) for m in names]]
  return dict(inputs=cohort.inputs, observed=observed, modalities=tuple(names), config=config,
              kinds=kinds, normal=normal)


def depends_on_fold(x):
  """Whether what apply() makes of a modality's input depends on the training rows: token ids and
  pixels are left alone."""
  return not np.issubdtype(x.dtype, np.integer)


def _sample(rows, most):
  """`rows`, or evenly spread `most` of them: scales of millions of rows need no more."""
  if len(rows) <= most:
    return rows
  return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _entries(x, rows):
  """(n, F) the entries of `rows` of x (N, ..., F) that are no padding."""
  flat = x[rows].reshape(-1, x.shape[-1])
  return flat[~np.isnan(flat).all(1)] if x.ndim > 2 else flat


def stack(folds):
  """The stats of all folds with a leading fold axis."""
  return jax.tree.map(lambda *x: np.stack(x), *folds)


def _unfitted(width, config):
  """Stats of `width` features that training never saw: everything is dropped."""
  columns = lambda value: np.full(width, value, np.float32)
  knots = config.quantiles if config.scale == "quantile" else 1
  return dict(fill=columns(0), knots=np.zeros((knots, width), np.float32), center=columns(0),
              spread=columns(1), keep=columns(0), low=columns(0), high=columns(0),
              clip=np.float32(config.clip))


def _fit_one(x, rows, config):
  width = x.shape[-1]
  stats = dict(_unfitted(width, config), indicator=np.zeros(width, np.float32))
  x = _entries(x, rows)
  if not len(x):
    return stats
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
    stats["knots"] = _knots(x, config.quantiles)
    x = _fitted_normal(stats["knots"], x)
  stats["center"] = x.mean(0, dtype=np.float64).astype(np.float32)
  spread = x.std(0, dtype=np.float64).astype(np.float32)
  # a constant says nothing
  stats["keep"] *= spread > 1e-6 * np.maximum(1, np.abs(stats["center"]))
  stats["spread"] = np.where(stats["keep"] > 0, spread, 1).astype(np.float32)
  return stats


def _fit_series(x, rows, config, normal):
  """Stats of a series x (N, L, 1 + V): scales of what was measured, nothing filled in.

  A variable that too many rows never have is dropped. Steps are many and each measures little: a
  share of them, or medians in the gaps, would drop or flatten most variables.
  """
  stats = dict(_unfitted(x.shape[-1] - 1, config), hours=np.float32(1),
               forward=np.float32(config.series_fill == "last"))
  x = x[rows]
  time = x[..., 0]
  if not len(x) or np.isnan(time).all():
    return stats
  last = np.quantile(np.nanmax(time[~np.isnan(time).all(1)], 1), 0.95)
  stats["hours"] = np.float32(last if last > 0 else 1)
  measured = ~np.isnan(x[..., 1:]) & ~np.isnan(time)[..., None]
  never = 1 - measured.any(1).mean(0)
  for v in np.flatnonzero(measured.any((0, 1))):
    own = x[..., 1 + v][measured[..., v]][:, None]
    one = _fit_one(own, slice(None), config)
    for key in ("knots", "center", "spread", "keep", "low", "high"):
      stats[key][..., v] = one[key][..., 0]
    stats["fill"][v] = np.median(own)
    stats["keep"][v] *= never[v] <= config.max_missing
  if normal is not None:
    stats["fill"] = np.where(np.isnan(normal), stats["fill"], normal)
  return stats


def _knots(x, count):
  """(count, F) float32 quantiles of the columns of x (n, F), each the mean of the _NEAR values around
  it: a quantile itself is one patient's value, and knots leave with an exported model."""
  near = min(_NEAR, len(x))
  middle = np.rint(np.linspace(0, len(x) - 1, count)).astype(int)
  first = np.clip(middle - near // 2, 0, len(x) - near)
  return np.sort(x, 0)[first[:, None] + np.arange(near)].mean(1, dtype=np.float64).astype(
      np.float32)


def _principal_components(stats, x, rows, components):
  """(F, C) directions of the scaled features, all scaled alike so that the mean variance is 1;
  (1, 1) if unused.

  Components are not whitened: directions of little variance, mostly noise, stay small.
  """
  width = x.shape[-1]
  if not 0 < components < width:
    return np.zeros((1, 1), np.float32)
  moment, count = np.zeros((width, width)), 0
  at_once = max(1, 8192 // int(np.prod(x.shape[1:-1])))
  for part in np.array_split(rows, -(-len(rows) // at_once)) if len(rows) else ():
    z = np.asarray(_scaled(stats, _entries(x, part)))
    moment += z.T @ z
    count += len(z)
  if not count:
    return np.zeros((width, components), np.float32)
  values, vectors = np.linalg.eigh(moment / count)   # the scaled features have mean zero
  leading = vectors[:, ::-1][:, :components]
  # a sign that any LAPACK agrees on
  leading = leading * np.where(np.abs(leading).max(0) == leading.max(0), 1, -1)
  return (leading / np.sqrt(np.maximum(values[::-1][:components].mean(), 1e-12))).astype(np.float32)


def widths(stats):
  """modality -> number of features that apply() delivers."""
  return {m: _width(s) for m, s in stats.items()}


def _width(s):
  if "ids" in s or "pixels" in s:
    return len(s.get("ids", s.get("pixels")))
  if "hours" in s:
    return 2 + 2 * len(s["fill"])
  return ((s["basis"].shape[1] if len(s["basis"]) > 1 else len(s["fill"]))
          + (len(s["fill"]) if s["indicator"].ndim == 1 else 0) + ("steps" in s))


def apply(stats, x, present):
  """Imputes, scales and clips the rows of one modality; pure, on the device.

  Args:
    stats: of that modality, of one fold.
    x: (B, ..., F), NaN for missing features, token ids (B, K, L) int32, or pixels uint8.
    present: (B,) bool.
  Returns:
    (B, ..., F') float32, or the ids or pixels; exactly zero where absent or padding. Of a sequence
    the last channel is 1 on steps that exist; a series is (B, L, 2 + 2V): whether the step exists,
    its time, the filled values, which of them were measured.
  """
  present = present.reshape(present.shape + (1,) * (x.ndim - 1))
  if "ids" in stats or "pixels" in stats:
    return jnp.where(present, x, 0)
  if "hours" in stats:
    return _apply_series(stats, x, present)
  missing = jnp.isnan(x)
  if x.ndim > 2:
    present = present & ~missing.all(-1, keepdims=True)
  z = _scale(stats, jnp.where(missing, stats["fill"], x))
  z = jnp.where(present, z, 0.0)
  if stats["basis"].shape[0] > 1:
    z = z @ stats["basis"]
  if stats["indicator"].ndim == 1:
    z = jnp.concatenate([z, jnp.where(present, missing * stats["indicator"], 0.0)], -1)
  if "steps" in stats:
    z = jnp.concatenate([z, present.astype(z.dtype)], -1)
  return z


def _apply_series(stats, x, present):
  """A value holds until the next one is measured; before the first it is stats["fill"], or, without
  stats["forward"], nothing holds and gaps are zero, the mean."""
  time, value = x[..., :1], x[..., 1:]
  valid = present & ~jnp.isnan(time)
  seen = valid & ~jnp.isnan(value)
  z = _scale(stats, jnp.where(seen, value, stats["fill"]))
  steps = jnp.arange(x.shape[1])[:, None]
  last = jax.lax.cummax(jnp.where(seen, steps, 0), axis=1)   # step 0 holds the fill, or is measured
  filled = jnp.where(stats["forward"] > 0, jnp.take_along_axis(z, last, 1), jnp.where(seen, z, 0.0))
  return jnp.concatenate([valid.astype(z.dtype), jnp.where(valid, time / stats["hours"], 0.0),
                          jnp.where(valid, filled, 0.0), seen * stats["keep"]], -1)


def _scale(stats, x):
  if stats["knots"].shape[0] > 1:
    x = _to_normal(stats["knots"], x)
  z = (x - stats["center"]) / stats["spread"]
  return jnp.clip(z, -stats["clip"], stats["clip"]) * stats["keep"]


@jax.jit
def _scaled(stats, x):
  return _scale(stats, jnp.where(jnp.isnan(x), stats["fill"], x))


_apply = jax.jit(apply)


def transform(stats, inputs, observed, modalities, chunk=16384):
  """apply() to all rows, a chunk at a time, which bounds the memory of temporaries.

  Args:
    stats: of one fold.
    inputs: modality -> (N, ..., F), NaN for missing features.
    observed: (N, M) bool.
    modalities: the M names.
    chunk: rows scaled at once.
  Returns:
    modality -> (N, ..., F') on the host, float32 or token ids.
  """
  result = {}
  for m, name in enumerate(modalities):
    parts = [np.asarray(_apply(stats[name], inputs[name][start:start + chunk],
                               observed[start:start + chunk, m]))
             for start in range(0, len(observed), chunk)]
    result[name] = np.concatenate(parts)
  return result


def _to_normal(knots, x):
  """Maps each column of `x` (..., F) to a standard normal by its empirical quantiles `knots`
  (Q, F)."""
  flat = x.reshape(-1, x.shape[-1])
  return jax.vmap(_column_to_normal, in_axes=(1, 1), out_axes=1)(knots, flat).reshape(x.shape)


def _column_to_normal(knots, x):
  """Ties take the middle of their range."""
  levels = jnp.linspace(0, 1, knots.shape[0])
  upper = jnp.interp(x, knots, levels)
  lower = 1 - jnp.interp(-x, -knots[::-1], levels)
  edge = 0.5 / knots.shape[0]
  return ndtri(jnp.clip((upper + lower) / 2, edge, 1 - edge))


_compiled_column = jax.jit(_column_to_normal)


def _fitted_normal(knots, x):
  """_to_normal() of (n, F) on the host: a column at a time, padded to a power of two, so that one
  program serves the features of all modalities and folds."""
  padded = np.zeros(1 << (len(x) - 1).bit_length(), np.float32)
  result = np.empty_like(x)
  for j in range(x.shape[1]):
    padded[:len(x)] = x[:, j]
    result[:, j] = _compiled_column(knots[:, j], padded)[:len(x)]
  return result


def out_of_range(stats, inputs, observed, modalities, features):
  """Counts features whose new values lie far outside the training range, a sign of other units.

  Returns:
    list of (modality, feature, share): more than 1 % of the observed values lie beyond the training
    range by more than the width of that range.
  """
  found = []
  for m, name in enumerate(modalities):
    if "low" not in stats[name]:   # token ids, pixels
      continue
    x, names = inputs[name][observed[:, m]], features[name]
    if "hours" in stats[name]:
      x, names = np.where(np.isnan(x[..., :1]), np.nan, x[..., 1:]), names[1:]
    x = x.reshape(-1, len(names))
    low, high, keep = (stats[name][key] for key in ("low", "high", "keep"))
    slack = high - low
    with np.errstate(invalid="ignore"):
      share = ((x < low - slack) | (x > high + slack)).sum(0) / np.maximum(1, (~np.isnan(x)).sum(0))
    found += [(name, names[j], float(share[j]))
              for j in np.flatnonzero((share > 0.01) & (keep > 0))]
  return found
