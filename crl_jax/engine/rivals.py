"""The predictors that stand beside the method, each at the best of what was tried: linear, boosted
and bagged; arrays in, predictions out.

A *try* is one setting with a *path*: a series of fits, each grown out of the one before (weaker
penalties, more trees), that is followed until the held-out log-loss rises. Every rival has as many
tries, judged on the same held-out patients; search.py does that.
"""

import importlib.util
import typing
import warnings

import numpy as np

# C, the strong penalty first
STRENGTHS = tuple(float(f"{10 ** e:.1g}") for e in np.arange(-4, 1, 0.5))
TREES = (20, 40, 80, 160, 320)   # of boosting, along a path
RATE = 0.1                       # learning rate of all boosting
FOREST, BAG = 40, 1500           # trees of a random forest (half as many in the search), and rows
                                 # at most that one is grown on
_FREQUENT, _PATTERNS = 20, 64    # rows that make a pattern a column of its own; so many at most
_NEWTON, _STILL = 25, 1e-3       # steps of the elastic net; the change of a logit that ends them


class Rival(typing.NamedTuple):
  """A kind of predictor.

  Attributes:
    tries: settings to choose from, plain dicts; the first is taken where nothing can be chosen.
    path: (x, y, try, seed) -> yields (settings of this point, predict), predict: (n, F) -> (n,)
      probabilities, to be used before the next point is asked for, which is then fitted.
    usual: the point of the path that is taken where nothing can be chosen.
    at: (x, y, settings, seed) -> predict, the fit of one point.
    worth: mean log-loss that a point must spare, for the path to be followed further.
    onehot: sees a column for each frequent pattern, too.
    package: that it needs, besides those of crl_jax; "": none.
  """
  tries: tuple
  path: typing.Callable
  usual: dict
  at: typing.Callable
  worth: float = 0.0
  onehot: bool = False
  package: str = ""


def available():
  """(name -> Rival of those that can be fitted here, names of those whose package is absent)."""
  absent = [name for name, rival in RIVALS.items()
            if rival.package and importlib.util.find_spec(rival.package) is None]
  return {name: rival for name, rival in RIVALS.items() if name not in absent}, absent


def patterns(observed):
  """(M,) bits -> what adds a column per frequent pattern of the training rows `observed` (n, M):
  (n, M) -> (n, columns) float32. A rarer pattern has zeros in all of them."""
  known, count = np.unique(observed > 0, axis=0, return_counts=True)
  order = np.argsort(-count, kind="stable")[:_PATTERNS]
  known = known[order[count[order] >= _FREQUENT]]
  return lambda observed: (
      (observed > 0)[:, None] == known[None]).all(-1).astype(np.float32)


def _logistic_path(x, y, tried, seed):
  """Logistic regression along STRENGTHS; ratio 0: ridge, above: elastic net."""
  del seed
  start = np.zeros(x.shape[1]), np.log(y.mean() / (1 - y.mean()))
  for c in STRENGTHS:
    start = _linear(x, y, c, tried["ratio"], start)
    yield dict(C=c), Linear(*start)


def _logistic_at(x, y, settings, seed):
  del seed
  start = np.zeros(x.shape[1]), np.log(y.mean() / (1 - y.mean()))
  return Linear(*_linear(x, y, settings["C"], settings["ratio"], start))


class Linear(typing.NamedTuple):
  """A fitted logistic regression: (n, F) -> (n,) probabilities."""
  weight: np.ndarray   # (F,)
  bias: float

  def __call__(self, x):
    return _sigmoid(x @ self.weight.astype(x.dtype) + self.bias)


class Boosted(typing.NamedTuple):
  """A fitted model of scikit-learn's form: (n, F) -> (n,) probabilities."""
  model: typing.Any

  def __call__(self, x):
    return self.model.predict_proba(x)[:, 1]


def _sigmoid(x):
  return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(x, np.float64))


def _linear(x, y, c, ratio, start):
  """(weight (F,), bias) with the least C x sum of log-losses + ratio |w|_1 + (1 - ratio) |w|^2 / 2;
  the bias is free."""
  from sklearn.linear_model import LogisticRegression
  if ratio == 0:
    model = LogisticRegression(C=c, max_iter=500, warm_start=True)
    model.coef_, model.intercept_ = start[0][None].astype(x.dtype), np.array([start[1]], x.dtype)
    model.classes_ = np.array([0, 1])
    model.fit(x, y)
    return model.coef_[0], float(model.intercept_[0])
  return _elastic_net(x, y, c, ratio, start)


def _elastic_net(x, y, c, ratio, start):
  """Proximal Newton (Friedman, Hastie and Tibshirani 2010): a weighted least-squares elastic net of
  the working response, until no logit moves by more than _STILL."""
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import enet_path
  x = np.asfortranarray(x)   # columns are what is descended along
  weight, bias = start[0].astype(x.dtype), start[1]
  logit = x @ weight + bias
  for _ in range(_NEWTON):
    p = _sigmoid(logit)
    # not below 0.05: a step as long as Newton's where p is near 0 or 1 would overshoot
    curvature = np.maximum(p * (1 - p), 0.05)
    response, root = logit + (y - p) / curvature, np.sqrt(curvature)
    # the bias is what centring takes out
    mean_F, mean = (curvature.astype(x.dtype) @ x / curvature.sum(dtype=x.dtype),
                    curvature @ response / curvature.sum())
    with warnings.catch_warnings():   # the next step goes on where this one stopped
      warnings.simplefilter("ignore", ConvergenceWarning)
      _, path_Fx1, _ = enet_path(
          (x - mean_F) * root.astype(x.dtype)[:, None], ((response - mean) * root).astype(x.dtype),
          l1_ratio=ratio, alphas=[1 / (c * len(y))], coef_init=weight, check_input=False,
          max_iter=200, tol=1e-6)
    weight = path_Fx1[:, 0]
    bias = mean - float(mean_F @ weight)
    before, logit = logit, x @ weight + bias
    if np.abs(logit - before).max() < _STILL:
      break
  return weight, bias


def _boosted(grow):
  """path, at, usual and worth of boosting; `grow`: (model of fewer trees or None, trees, settings,
  seed, x, y) -> a fitted model of scikit-learn's form."""
  def path(x, y, tried, seed):
    model = None
    for trees in TREES:
      model = grow(model, trees, tried, seed, x, y)
      yield dict(trees=trees), Boosted(model)
  at = lambda x, y, settings, seed: Boosted(grow(None, settings["trees"], settings, seed, x, y))
  return dict(path=path, at=at, usual=dict(trees=40), worth=0.002)


def _histograms(model, trees, tried, seed, x, y):
  from sklearn.ensemble import HistGradientBoostingClassifier
  if model:
    return model.set_params(max_iter=trees).fit(x, y)   # the trees that it has stay
  return HistGradientBoostingClassifier(
      learning_rate=RATE, max_iter=trees, max_leaf_nodes=tried["leaves"],
      min_samples_leaf=tried["rows"], max_features=0.3, max_bins=32, early_stopping=False,
      warm_start=True, random_state=seed).fit(x, y)


def _lightgbm(model, trees, tried, seed, x, y):
  import lightgbm
  del model
  return lightgbm.LGBMClassifier(
      n_estimators=trees, learning_rate=RATE, num_leaves=tried["leaves"],
      min_child_samples=tried["rows"], colsample_bytree=0.3, n_jobs=1, random_state=seed,
      deterministic=True, force_row_wise=True, verbose=-1).fit(x, y)


def _xgboost(model, trees, tried, seed, x, y):
  import xgboost
  del model
  return xgboost.XGBClassifier(
      n_estimators=trees, learning_rate=RATE, max_leaves=tried["leaves"], grow_policy="lossguide",
      max_depth=0, min_child_weight=tried["rows"] / 10,   # sums p (1 - p), not rows
      colsample_bylevel=0.3, tree_method="hist", n_jobs=1, random_state=seed).fit(x, y)


def _catboost(model, trees, tried, seed, x, y):
  import catboost
  del model
  return catboost.CatBoostClassifier(
      iterations=trees, learning_rate=RATE, depth=int(np.log2(tried["leaves"])), rsm=0.3,
      min_data_in_leaf=tried["rows"], thread_count=1, random_seed=seed, verbose=False,
      allow_writing_files=False).fit(x, y)


def _forest_at(x, y, settings, seed, trees=FOREST):
  from sklearn.ensemble import RandomForestClassifier
  model = RandomForestClassifier(
      trees, min_samples_leaf=settings["rows"], max_features=settings["features"],
      max_samples=min(BAG, len(y)), random_state=seed).fit(x, y)
  return lambda x: model.predict_proba(x)[:, 1]


def _forest_path(x, y, tried, seed):
  yield {}, _forest_at(x, y, tried, seed, FOREST // 2)


_LINEAR = dict(tries=tuple(dict(ratio=ratio) for ratio in (0.0, 0.5, 0.9)), path=_logistic_path,
               at=_logistic_at, usual=dict(C=0.01))
_BOOSTING = tuple(dict(leaves=leaves, rows=rows) for leaves, rows in ((8, 20), (4, 20), (8, 60)))
# column of the predictions table -> Rival; statistics.roles names them for the reader
RIVALS = {
    "logistic": Rival(**_LINEAR), "onehot": Rival(**_LINEAR, onehot=True),
    "boosting": Rival(_BOOSTING, **_boosted(_histograms)),
    "forest": Rival(tuple(dict(rows=rows, features=features) for rows, features in (
        (10, "sqrt"), (3, "sqrt"), (10, 0.2))), _forest_path, {}, _forest_at),
    "lightgbm": Rival(_BOOSTING, **_boosted(_lightgbm), package="lightgbm"),
    "xgboost": Rival(_BOOSTING, **_boosted(_xgboost), package="xgboost"),
    "catboost": Rival(_BOOSTING, **_boosted(_catboost), package="catboost")}
