"""Scikit-learn's histogram boosting as plain arrays, which are evaluated without it: by NumPy, or
by JAX inside a program.

Axes: G trees, J nodes (filled up to those of the largest tree), n rows, F features.
"""

import numpy as np


def of(model):
  """The arrays of a fitted HistGradientBoostingClassifier of two classes and no categories.

  Returns:
    base: () log-odds before any tree; feature, left, right: (G, J) int32; threshold, value: (G, J)
    float64. A leaf is its own child, so that `depth` () steps end in one from anywhere.
  """
  grown = [tree.nodes for tree, in model._predictors]
  count = max((len(nodes) for nodes in grown), default=1)
  shape = len(grown), count
  own = np.tile(np.arange(count, dtype=np.int32), (len(grown), 1))
  found = dict(base=np.float64(model._baseline_prediction.ravel()[0]), depth=np.int32(0),
               feature=np.zeros(shape, np.int32), left=own, right=own.copy(),
               threshold=np.full(shape, np.inf), value=np.zeros(shape))
  for g, nodes in enumerate(grown):
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    for name, field in (("feature", "feature_idx"), ("left", "left"), ("right", "right"),
                        ("threshold", "num_threshold")):
      found[name][g, inner] = nodes[field][inner]
    found["value"][g, :len(nodes)] = nodes["value"]
    found["depth"] = max(found["depth"], np.int32(nodes["depth"].max()))
  return found


def narrow(trees):
  """The arrays for float32 inputs on a device: an input is at most a threshold where it is at most
  the largest float32 that the threshold is not below, so no row takes another way."""
  threshold = trees["threshold"].astype(np.float32)
  above = threshold > trees["threshold"]
  threshold = np.where(above, np.nextafter(threshold, np.float32(-np.inf)), threshold)
  return {name: threshold if name == "threshold" else
                x.astype(np.float32) if x.dtype == np.float64 else x for name, x in trees.items()}


def log_odds(trees, x, depth, xp=np):
  """(n,) log-odds of x (n, F), which is finite.

  Args:
    trees: of().
    x: (n, F).
    depth: of the deepest tree, an int.
    xp: numpy or jax.numpy.
  """
  if not len(trees["feature"]):   # of a task with one class
    return xp.zeros(x.shape[0]) + trees["base"]
  tree = np.arange(len(trees["feature"]))[None]
  node = xp.zeros((x.shape[0], tree.size), np.int32)   # the rows may be a symbol
  for _ in range(depth):
    value = xp.take_along_axis(x, trees["feature"][tree, node], 1)
    left = value <= trees["threshold"][tree, node]
    node = xp.where(left, trees["left"][tree, node], trees["right"][tree, node])
  return trees["base"] + trees["value"][tree, node].sum(1)
