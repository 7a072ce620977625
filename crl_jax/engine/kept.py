"""The yardsticks that a run keeps, as arrays in one npz file without pickle: logistic regression
and boosting of every fold, with the preprocessing that they see; averaged over folds for new
patients.

A fold is {"stats": modality -> arrays of preprocess.fit, "logistic": {weight (T, F), bias (T,)},
"boosting": {trees.of() by task}}; a task of one class has no weight and no tree.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax import files
from crl_jax.data import preprocess, summaries
from crl_jax.engine import trees, yardsticks

PARTS = ("logistic", "boosting")   # of rivals.RIVALS
_RANGE = ("low", "high")           # of the training data: single patients' values, and not needed
_CHUNK = 2048                      # rows at once


def of_fold(stats, models):
  """The arrays of one fold: yardsticks.of_cohort()'s `keep`. None where one of PARTS is absent."""
  if not set(PARTS) <= models.keys():
    return None
  found = {"stats": {m: {k: x for k, x in arrays.items() if k not in _RANGE}
                     for m, arrays in stats.items()}}
  linear = models["logistic"]
  width = max((len(model.weight) for model in linear if not isinstance(model, float)), default=0)
  found["logistic"] = {
      "weight": np.stack([np.zeros(width) if isinstance(model, float) else
                          np.asarray(model.weight, np.float64) for model in linear]),
      "bias": np.array([_logit(model) if isinstance(model, float) else model.bias
                        for model in linear])}
  found["boosting"] = {str(t): _constant(model) if isinstance(model, float) else
                               trees.of(model.model) for t, model in enumerate(models["boosting"])}
  return found


def _logit(rate):
  with np.errstate(divide="ignore"):
    return float(np.log(rate) - np.log1p(-rate))


def _constant(rate):
  empty = np.zeros((0, 1))
  return dict(base=np.float64(_logit(rate)), depth=np.int32(0), threshold=empty, value=empty,
              **dict.fromkeys(("feature", "left", "right"), empty.astype(np.int32)))


def save(path, folds):
  """Writes the folds to the .npz file `path`, all of it or nothing."""
  with files.replaced(path) as part, open(part, "wb") as file:
    np.savez_compressed(file, allow_pickle=False,
                        **{str(k): x for k, x in _flat(dict(enumerate(folds)))})


def load(path):
  """The folds of a file of save(). Raises OSError where it is damaged."""
  folds = {}
  for name, x in files.read(path).items():
    *way, last = name.split("/")
    node = folds
    for key in way:
      node = node.setdefault(key, {})
    node[last] = x
  return [folds[str(k)] for k in range(len(folds))]


def _flat(tree, prefix=""):
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", value


def predict(folds, inputs, observed, modalities, kinds):
  """name of PARTS -> (N, T) float64 probabilities, the mean over folds, of raw inputs.

  Args:
    folds: load()'s.
    inputs: modality -> (N, ...) raw features.
    observed: (N, M) bool.
    modalities: the M names.
    kinds: modality -> key of data.cohort.KINDS.
  """
  total = {name: 0.0 for name in PARTS}
  for fold in folds:
    parts = []
    for start in range(0, len(observed), _CHUNK):
      rows = slice(start, start + _CHUNK)
      scaled = preprocess.transform(fold["stats"], {m: inputs[m][rows] for m in modalities},
                                    observed[rows], modalities)
      parts.append(_of_design(fold, yardsticks.design_matrix(scaled, observed[rows], modalities,
                                                             kinds)))
    for name in PARTS:
      total[name] = total[name] + np.concatenate([p[name] for p in parts])
  return {name: p / len(folds) for name, p in total.items()}


def _of_design(fold, x):
  """name -> (n, T) of the design matrix (n, F)."""
  weight_TxF, bias_T = fold["logistic"]["weight"], fold["logistic"]["bias"]
  linear = x[:, :weight_TxF.shape[1]] @ weight_TxF.T.astype(x.dtype)
  boosted = np.stack([trees.log_odds(tree, x, int(tree["depth"]))
                      for _, tree in sorted(fold["boosting"].items(), key=lambda t: int(t[0]))], 1)
  return {"logistic": _sigmoid(linear.astype(np.float64) + bias_T), "boosting": _sigmoid(boosted)}


def _sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * x)


def on_device(folds, modalities, kinds):
  """The same inside a JAX program, in float32.

  Returns:
    (arrays, predict): (arrays, inputs, observed (B, M)) -> name of PARTS -> (B, T).
  """
  tasks = [[fold["boosting"][str(t)] for t in range(len(fold["boosting"]))] for fold in folds]
  depths = [[int(tree["depth"]) for tree in of_fold] for of_fold in tasks]
  arrays = [{"stats": fold["stats"],
             "logistic": {k: x.astype(np.float32) for k, x in fold["logistic"].items()},
             "boosting": [trees.narrow({k: x for k, x in tree.items() if k != "depth"})
                          for tree in of_fold]} for fold, of_fold in zip(folds, tasks)]

  # a product in few digits moves values across the trees' thresholds
  @jax.default_matmul_precision("highest")
  def predict(arrays, inputs, observed):
    total = dict.fromkeys(PARTS, 0.0)
    for fold, depth in zip(arrays, depths):
      x = _design({m: preprocess.apply(fold["stats"][m], inputs[m], observed[:, i])
                   for i, m in enumerate(modalities)}, observed, modalities, kinds)
      weight_TxF = fold["logistic"]["weight"]
      odds = {"logistic": x[:, :weight_TxF.shape[1]] @ weight_TxF.T + fold["logistic"]["bias"],
              "boosting": jnp.stack([trees.log_odds(tree, x, steps, jnp) for tree, steps in
                                     zip(fold["boosting"], depth)], 1)}
      total = {name: total[name] + jax.nn.sigmoid(odds[name]) / len(arrays) for name in PARTS}
    return total
  return arrays, predict


def _design(scaled, observed, modalities, kinds):
  """yardsticks.design_matrix() on the device, of inputs that are zero where absent."""
  blocks = [_FLAT.get(kinds.get(m), _flattened)(scaled[m]) for m in modalities]
  blocks = [jnp.where(observed[:, i:i + 1], x, 0) for i, x in enumerate(blocks)]
  return jnp.concatenate([*blocks, observed.astype(jnp.float32)], 1)


def _flattened(x):
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))   # the rows may be a symbol


def _mean_of_set(x):
  real = (x != 0).any(-1, keepdims=True)
  return (x * real).sum(1) / jnp.maximum(real.sum(1), 1)


def _counted(ids):
  ids = _flattened(ids)
  counts = jnp.zeros((ids.shape[0], yardsticks.WORDS), jnp.float32)
  rows = jnp.arange(ids.shape[0])[:, None]
  return jnp.log1p(counts.at[rows, ids % yardsticks.WORDS].add(ids > 0))


def _of_series(x):
  value, seen = jnp.split(x[..., 2:], 2, -1)
  return jnp.nan_to_num(summaries.of_series(x[..., 1], jnp.where(seen > 0, value, jnp.nan), jnp))


_FLAT = {"set": _mean_of_set, "text": _counted, "series": _of_series,
         "image": lambda x: summaries.of_image(x, jnp)}
