"""The yardsticks that any model must beat: rivals.py on zero-filled inputs plus the bits of the
pattern.

They see the same training rows as the model, tables on the quantile scale with indicators of what
is missing in them, embeddings as the model gets them. What may be set is chosen on training rows
only (search.py): no validation or test row has a part in them.
"""

import logging
import typing

import numpy as np

from crl_jax.data import preprocess, summaries
from crl_jax.engine import rivals, search

BYTES = 2 ** 29   # of the training rows' design matrix, at most
TABLE = 512       # features of a modality that is a table, not an embedding, at most

_LOG = logging.getLogger("crl_jax")
# raw inputs that are scaled and flattened at once, at most
_CHUNK_BYTES, _CHUNK_ROWS = 2 ** 26, 2 ** 11

WORDS = 512   # columns into which the token ids of a text are counted


def design_matrix(inputs, observed, modalities, kinds={}):
  """Concatenates flattened inputs, zero where unobserved, and the bits of the pattern. A set enters
  as its mean, a text as how often its token ids occur, log(1 + count) of the id modulo WORDS; a
  series by what its variables did and an image by the means of a grid (data/summaries.py).

  Args:
    inputs: modality -> (N, ...) float, scaled.
    observed: (N, M) bool.
    modalities: M names.
    kinds: modality -> key of data.cohort.KINDS; those not named are flattened.

  Returns:
    (N, F + M) float32.

  Raises:
    ValueError: a value that is not finite in an observed modality, with its name and the count of
      rows.
  """
  blocks = []
  for m, name in enumerate(modalities):
    present_N = observed[:, m]
    found = _FLAT.get(kinds.get(name), _flattened)(np.asarray(inputs[name])[present_N])
    block = np.zeros((len(observed), found.shape[1]), np.float32)
    block[present_N] = found
    if bad := int(np.sum(~np.isfinite(block).all(axis=1))):
      raise ValueError(f"modality '{name}' has {bad} rows that are not finite: preprocess before "
                       "the yardsticks.")
    blocks.append(block)
  return np.concatenate([*blocks, observed.astype(np.float32)], axis=1)


def _flattened(x):
  return x.reshape(len(x), int(np.prod(x.shape[1:])))


def _mean_of_set(x):
  real = (x != 0).any(-1, keepdims=True)   # entries of zero alone are padding
  return (x * real).sum(1) / np.maximum(real.sum(1), 1)


def _counted(ids):
  counts = np.zeros((len(ids), WORDS), np.float32)
  for row, tokens in zip(counts, ids.reshape(len(ids), -1)):
    row += np.bincount(tokens[tokens > 0] % WORDS, minlength=WORDS)
  return np.log1p(counts)


def _of_series(x):
  value, seen = np.split(x[..., 2:], 2, -1)
  return np.nan_to_num(summaries.of_series(x[..., 1], np.where(seen > 0, value, np.nan)))


_FLAT = {"set": _mean_of_set, "text": _counted, "series": _of_series, "image": summaries.of_image}


class Fitted(typing.NamedTuple):
  """Yardsticks of one fold.

  Attributes:
    predict: (n, F) of `design_matrix` -> {name: (n, T)} float64 probabilities.
    chosen: name -> per task the settings, None for a task that nothing could be fitted to.
    models: name -> per task the fitted model, or the rate (a number) of such a task.
  """
  predict: typing.Callable
  chosen: dict
  models: dict


def of_cohort(cohort, stats, rows, config, seed, keep=lambda stats, models: None):
  """Fits the yardsticks on a cohort's training rows and predicts its held-out rows. Evenly spread
  rows stand for more training rows than BYTES hold, and others are predicted in pieces, so the
  memory does not grow with the cohort.

  Args:
    cohort: data.cohort.Cohort.
    stats: preprocessing of the fold.
    rows: role -> (n,) row indices.
    config: config.preprocess.
    seed: int.
    keep: called with the preprocessing that they see and Fitted.models.

  Returns:
    ("val" and "test" -> {name: (n, T)}, as Fitted.chosen).
  """
  kinds = {m: cohort.kind(m) for m in cohort.modalities}
  at_once = max(1, min(_CHUNK_ROWS, max(map(len, rows.values())), _CHUNK_BYTES // sum(
      cohort.inputs[m][:1].nbytes for m in cohort.modalities)))
  stats = own_scale(cohort, stats, rows["train"], config)

  def pieces(rows):
    """Yields (n, F) of `rows`, some at a time."""
    for start in range(0, len(rows), at_once):
      part = rows[start:start + at_once]
      some = np.resize(part, at_once)   # filled up by repetition, so that one shape is compiled
      inputs = preprocess.transform(stats, {m: cohort.inputs[m][some] for m in cohort.modalities},
                                    cohort.observed[some], cohort.modalities)
      # cut on the host: on the device every shape would be compiled
      yield design_matrix({m: np.asarray(x)[:len(part)] for m, x in inputs.items()},
                          cohort.observed[part], cohort.modalities, kinds)
  kept = _spread(rows["train"], max(1, BYTES // next(pieces(rows["train"][:1])).nbytes))
  fitted = fit(np.concatenate(list(pieces(kept))), cohort.labels[kept], cohort.patient_id[kept],
               len(cohort.modalities), seed)
  keep(stats, fitted.models)
  found = {role: [fitted.predict(piece) for piece in pieces(rows[role])]
           for role in ("val", "test")}
  return {role: {name: np.concatenate([p[name] for p in parts]) for name in fitted.chosen}
          for role, parts in found.items()}, fitted.chosen


def described(chosen, tasks):
  """What metrics.json says of the Fitted.chosen of each fold: {"chosen": name -> task -> settings
  per fold, "absent": rivals whose package is not installed}."""
  return {"chosen": {name: {task: [fold[name][t] for fold in chosen]
                            for t, task in enumerate(tasks)} for name in chosen[0]},
          "absent": rivals.available()[1]}


def own_scale(cohort, stats, train, config):
  """`stats` with the modalities that are tables on the quantile scale and with indicators, fitted
  on the rows `train`."""
  tables = [m for m in cohort.modalities if np.issubdtype(cohort.inputs[m].dtype, np.floating)
            and cohort.inputs[m].shape[-1] <= TABLE]
  own = config.copy_and_resolve_references()
  own.update(scale="quantile", indicators=True)
  if own == config:
    return stats
  return {**stats, **preprocess.fit(rows=train, **preprocess.of_cohort(cohort, own, tables))}


def _spread(rows, most):
  """`rows`, or evenly spread `most` of them."""
  if len(rows) <= most:
    return rows
  _LOG.warning("Yardsticks: %d of %d train rows, evenly spread, stand for all of them; more would "
               "take over %.0f MiB.", most, len(rows), BYTES / 2 ** 20)
  return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def fit(x, y, patient, modalities, seed, names=None):
  """Fits each yardstick to each task, on one thread: several fight each other and are slower.

  Args:
    x: (N, F) float32 of `design_matrix`, training rows.
    y: (N, T) in {0, 1, NaN}; rows with NaN are left out of their task.
    patient: (N,) ids.
    modalities: M, the number of its last columns that are bits.
    seed: int.
    names: of rivals.RIVALS; those that can be fitted here by default.

  Returns:
    Fitted. A task without two classes is predicted at its training rate, or 0.5 where nothing is
    known.
  """
  import threadpoolctl
  known = rivals.available()[0]
  chosen, models = {}, {}
  with threadpoolctl.threadpool_limits(1):
    onehot = rivals.patterns(x[:, -modalities:])
    wide = np.concatenate([x, onehot(x[:, -modalities:])], axis=1)
    for name in names or known:
      rival = known[name]
      chosen[name], models[name] = zip(*(_fit_task(
          rival, wide if rival.onehot else x, y[:, t], patient, seed) for t in range(y.shape[1])))

  def predict(x):
    with threadpoolctl.threadpool_limits(1):
      wide = np.concatenate([x, onehot(x[:, -modalities:])], axis=1)
      return {name: np.stack([
          np.full(len(x), model) if isinstance(model, float) else
          np.asarray(model(wide if known[name].onehot else x), np.float64)
          for model in of_task], 1) for name, of_task in models.items()}
  return Fitted(predict, {name: list(found) for name, found in chosen.items()}, models)


def _fit_task(rival, x, y, patient, seed):
  """(settings, (n, F) -> (n,)) of one task; (None, the rate) where it has one class."""
  labelled = ~np.isnan(y)
  x, y, patient = (x, y, patient) if labelled.all() else (x[labelled], y[labelled],
                                                         patient[labelled])
  if len(np.unique(y)) < 2:
    return None, float(y.mean()) if len(y) else 0.5
  settings = search.choose(rival, x, y, patient, seed)
  return settings, rival.at(x, y, settings, seed)
