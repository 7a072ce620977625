"""Gradient boosting of probabilities and of means, stopped early by rows left out."""

import numpy as np

from crl_jax.engine import rivals

SETTINGS = dict(learning_rate=rivals.RATE, max_leaf_nodes=8, max_features=0.3, max_bins=32)
TREES, PATIENCE, ALONE = 300, 30, 100   # at most; without a lower loss; where nothing stops them


def fit(x, y, weight, train, val, classes, seed):
  """(n, F) -> (n,) probabilities of y = 1 (`classes`) or means, fitted on `train` and stopped by
  `val` (both row indices; where val has none, ALONE trees); one class is predicted as it is."""
  from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
  if classes and np.ptp(y[train]) == 0:
    return lambda new: np.full(len(new), float(y[train][0]))
  kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
  if len(val):
    model = kind(**SETTINGS, max_iter=TREES, early_stopping=True, n_iter_no_change=PATIENCE,
                 random_state=seed)
    model.fit(x[train], y[train], weight[train], X_val=x[val], y_val=y[val],
              sample_weight_val=weight[val])
  else:
    model = kind(**SETTINGS, max_iter=ALONE, early_stopping=False, random_state=seed)
    model.fit(x[train], y[train], weight[train])
  return (lambda new: model.predict_proba(new)[:, 1]) if classes else model.predict
