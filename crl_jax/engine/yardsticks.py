"""Two yardsticks that any model must beat: logistic regression and gradient boosting on zero-filled
inputs plus the bits.

They see the same training rows, the same validation rows (for the strength of the penalty and the
number of trees) and the same inputs as the model. The settings of the boosting are those that
served *it* best of eight tried on eICU mortality (200 features, 800 training rows, 4 x 5 folds:
AUROC 0.775; scikit-learn's defaults 0.770), and they keep three tasks on 4,000 rows of 2,980 inputs
at 35 s of one core.
"""

import logging

import numpy as np

# inverse strengths C of the logistic regression, weakest last
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BOOSTING = dict(   # the rest: scikit-learn's
    learning_rate=0.05, max_iter=300, max_leaf_nodes=8, max_features=0.3, max_bins=32)
PATIENCE = 30   # trees without a better validation log-loss
BYTES = 2 ** 30   # of the training rows' design matrix, and of the validation rows', at most

_LOG = logging.getLogger("crl_jax")
_CHUNK_BYTES = 2 ** 26   # raw inputs that are scaled and flattened at once

WORDS = 512   # columns into which the token ids of a text are counted


def design_matrix(inputs, observed, modalities, kinds={}):
  """Concatenates flattened inputs, zero where unobserved, and the bits of the pattern. A set enters
  as its mean, a text as how often its token ids occur, log(1 + count) of the id modulo WORDS.

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


_FLAT = {"set": _mean_of_set, "text": _counted}


def of_cohort(cohort, stats, rows, seed):
  """Fits both yardsticks on a cohort's training rows and predicts its test rows. Evenly spread rows
  stand for more training or validation rows than BYTES hold, and test rows are predicted in pieces,
  so the memory does not grow with the cohort.

  Args:
    cohort: data.cohort.Cohort.
    stats: preprocessing of the fold.
    rows: role -> (n,) row indices.
    seed: int.

  Returns:
    as fit_predict(), of rows["test"].
  """
  from crl_jax.data import preprocess
  kinds = {m: cohort.kind(m) for m in cohort.modalities}
  at_once = max(1, _CHUNK_BYTES // sum(cohort.inputs[m][:1].nbytes for m in cohort.modalities))

  def pieces(rows):
    """Yields (n, F) of `rows`, some at a time."""
    for start in range(0, len(rows), at_once):
      part = rows[start:start + at_once]
      # rounded up by repetition, so that few shapes are compiled
      some = np.resize(part, min(at_once, 1 << (len(part) - 1).bit_length()))
      inputs = preprocess.transform(stats, {m: cohort.inputs[m][some] for m in cohort.modalities},
                                    cohort.observed[some], cohort.modalities)
      yield design_matrix({m: x[:len(part)] for m, x in inputs.items()}, cohort.observed[part],
                          cohort.modalities, kinds)
  most = max(1, BYTES // next(pieces(rows["train"][:1])).nbytes)
  kept = {role: _spread(rows[role], most, role) for role in ("train", "val")}
  x = {role: np.concatenate(list(pieces(some))) for role, some in kept.items()}
  predict = fit(x["train"], cohort.labels[kept["train"]], x["val"], cohort.labels[kept["val"]],
                seed)
  del x
  found = [predict(piece) for piece in pieces(rows["test"])]
  return {name: np.concatenate([p[name] for p in found]) for name in found[0]}


def _spread(rows, most, role):
  """`rows`, or evenly spread `most` of them."""
  if len(rows) <= most:
    return rows
  _LOG.warning("Yardsticks: %d of %d %s rows, evenly spread, stand for all of them; more would "
               "take over %.0f MiB.", most, len(rows), role, BYTES / 2 ** 20)
  return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def fit_predict(x_train, y_train, x_val, y_val, x_new, seed):
  """Fits both yardsticks per task and predicts new rows.

  Args:
    x_train, x_val, x_new: (N, F) float32 of `design_matrix`.
    y_train, y_val: (N, T) in {0, 1, NaN}; rows with NaN are left out of their task.
    seed: int.

  Returns:
    {"logistic": (N_new, T), "boosting": (N_new, T)} float64 probabilities. A task without two
    classes among its training rows is predicted at its training rate, or 0.5 where nothing is
    known.
  """
  return fit(x_train, y_train, x_val, y_val, seed)(x_new)


def fit(x_train, y_train, x_val, y_val, seed):
  """What fit_predict() predicts with: (N_new, F) -> its result."""
  models = []   # per task, name -> what gives an outcome's probability
  for t in range(y_train.shape[1]):
    (x, y), (x_v, y_v) = _labelled(x_train, y_train[:, t]), _labelled(x_val, y_val[:, t])
    if len(np.unique(y)) < 2:
      rate = y.mean() if len(y) else 0.5
      models.append(dict.fromkeys(("logistic", "boosting"),
                                  lambda x, rate=rate: np.full(len(x), rate, np.float64)))
      continue
    fitted = dict(logistic=_logistic(x, y, x_v, y_v), boosting=_boosting(x, y, x_v, y_v, seed))
    models.append({name: lambda x, model=model: model.predict_proba(x)[:, 1]
                   for name, model in fitted.items()})
  return lambda x_new: {
      name: np.stack([task[name](x_new) for task in models], 1).astype(np.float64)
      for name in ("logistic", "boosting")}


def _labelled(x, y):
  known = ~np.isnan(y)
  return (x, y) if known.all() else (x[known], y[known])


def _logistic(x, y, x_val, y_val):
  """The fit with the lowest validation log-loss, from strong penalties to weak until it rises."""
  from sklearn.linear_model import LogisticRegression
  from sklearn.metrics import log_loss
  best, lowest = None, np.inf
  for c in PENALTIES if len(y_val) else (1e-3,):
    model = LogisticRegression(C=c, max_iter=500, tol=1e-3).fit(x, y)
    loss = log_loss(y_val, model.predict_proba(x_val)[:, 1], labels=(0, 1)) if len(y_val) else 0.0
    if loss >= lowest:
      break
    best, lowest = model, loss
  return best


def _boosting(x, y, x_val, y_val, seed):
  """Gradient boosting, stopped early by the validation log-loss; 100 trees where there is no
  validation row."""
  from sklearn.ensemble import HistGradientBoostingClassifier
  if not len(y_val):
    settings = {**BOOSTING, "max_iter": 100, "early_stopping": False}
    return HistGradientBoostingClassifier(**settings, random_state=seed).fit(x, y)
  model = HistGradientBoostingClassifier(**BOOSTING, early_stopping=True, n_iter_no_change=PATIENCE,
                                         random_state=seed)
  return model.fit(x, y, X_val=x_val, y_val=y_val)
