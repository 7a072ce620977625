"""Effects of the treatment given phi, learned from pseudo-outcomes (AACE: annotation-assisted
coarsened effects, arXiv 2507.20993 v3), and the learners beside it.

    aace       f = argmin mean (Delta - f(phi))^2, Delta from nuisances that see the annotations
    plugin     the same with nuisances on phi: confounded by what phi does not show
    t_learner  mu_1(phi) - mu_0(phi), a regression in each arm
    tarnet, dragonnet   the two arms' outcomes as heads of one representation (and the propensity)
    risk       mu_0(phi): no effect, the outcome of the untreated

All learn from training rows; predict() takes a data.Phi and nothing else.
"""

import pathlib
import typing
import zipfile

import numpy as np

from crl_jax import files

from crl_jax.policy import nets, policies, representation as representation_lib
from crl_jax.policy import pseudo
from crl_jax.posthoc import rectifier

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)   # of the ridge, per row, for standardised columns
SURE = 1.645        # standard errors above which a gain is applied
_FEWEST = 500       # training rows below which nothing is rectified
_SINGLE = ("aace", "risk", "treated", "plugin")
_STARTS = {"single": 100, "folds": 200, "shared": 300, "annotated": 400}   # of networks' weights


class Correction(typing.NamedTuple):
  """What effects of a pattern lack: ids (P,), table (P + 1,) whose last entry is that of unseen
  patterns, whether it is applied, and its mean gain with standard error on rows left out."""
  patterns: np.ndarray
  table: np.ndarray
  applied: np.ndarray
  gain: np.ndarray
  se: np.ndarray


class Learned(typing.NamedTuple):
  """Attributes: representation; single, what predicts _SINGLE; shared, the networks of tarnet and
  dragonnet, or None; correction of aace by pattern, or None."""
  representation: representation_lib.Representation
  single: typing.Any
  shared: nets.Fitted | None
  correction: Correction | None


class Ridge(typing.NamedTuple):
  """Coefficients (M, D) and intercepts (M,) of linear effects."""
  slope: np.ndarray
  intercept: np.ndarray


class Rows(typing.NamedTuple):
  """What effects are learned from, N training rows.

  Attributes:
    treatment, outcome: (N,) T, Y.
    delta: (N,) pseudo-outcomes with the annotations, 0 where there is none.
    delta_phi: (N,) those of nuisances on phi.
    weight: (N,) of delta in the fits.
    pattern, patient: (N,) ids.
    hold: role -> rows that fit, and that stop, what predicts.
    folds: list of role -> rows, of cross-fitting.
    binary: whether the outcome is.
  """
  treatment: np.ndarray
  outcome: np.ndarray
  delta: np.ndarray
  delta_phi: np.ndarray
  weight: np.ndarray
  pattern: np.ndarray
  patient: np.ndarray
  hold: dict
  folds: list
  binary: bool


def learn(representation, x, rows, settings, seed):
  """The Learned of a study's training rows.

  Args:
    representation: of phi.
    x: (N, D) representation of the N training rows.
    rows: Rows.
    settings: config.policy.
    seed: int.
  """
  t, y = rows.treatment, rows.outcome
  targets = np.stack([rows.delta, y, y, rows.delta_phi])
  sees = np.stack([rows.weight, 1 - t, t, np.ones(len(t))])
  binary = np.array([False, rows.binary, rows.binary, False])
  masks = [np.isin(np.arange(len(t)), rows.hold[role]) for role in ("train", "val")]
  rectified = settings.rectify_effects and len(t) >= _FEWEST and len(rows.folds) > 1
  if settings.effects == "linear":
    single = _ridge(x, targets, sees, *masks)
    shared = None
    out = [_ridge(x, targets[:1], sees[:1], *(np.isin(np.arange(len(t)), fold[role])
                                              for role in ("train", "val")))
           for fold in rows.folds] if rectified else []
    fold_values = [_single(model, x)[0] for model in out]
  else:
    single, fold_values = _networks(x, targets, sees, binary, masks, rows, rectified, settings,
                                    seed)
    shared = _shared(x, t, y, masks, settings, seed)
  correction = None
  if rectified:
    f = np.empty(len(t))
    for fold, values in zip(rows.folds, fold_values):
      f[fold["test"]] = values[fold["test"]]
    correction = rectify(f, rows)
  return Learned(representation, single, shared, correction)


def _networks(x, targets, sees, binary, masks, rows, rectified, settings, seed):
  """(Fitted of _SINGLE, [(N,) values of aace fitted without a fold]), in one program."""
  folds = rows.folds if rectified else []
  of_folds = [np.stack([rows.weight * np.isin(np.arange(len(x)), fold[role]) for fold in folds]
                       ) if folds else np.zeros((0, len(x))) for role in ("train", "val")]
  fitted = nets.fit(
      x, np.concatenate([targets, np.tile(targets[0], (len(folds), 1))]),
      *(np.concatenate([sees * mask, more]) for mask, more in zip(masks, of_folds)),
      np.concatenate([binary, np.zeros(len(folds), bool)]),
      np.concatenate([_STARTS["single"] + np.arange(len(_SINGLE)),
                      _STARTS["folds"] + np.arange(len(folds))]), settings.net, seed)
  values = nets.predict(fitted, x)[len(_SINGLE):]
  cut = lambda a: a[:len(_SINGLE)]
  return nets.Fitted({name: cut(a) for name, a in fitted.params.items()}, cut(fitted.binary),
                     cut(fitted.loss), cut(fitted.epochs)), list(values)


def _shared(x, t, y, masks, settings, seed):
  """TARNet and DragonNet, outputs Y(0), Y(1) and, of the second, T."""
  targets = np.tile(np.stack([y, y, t], 1), (2, 1, 1))
  fit_weight, val_weight = (np.tile(mask, (2, 1)) for mask in masks)
  return nets.fit(x, targets, fit_weight, val_weight, np.tile([False, False, True], (2, 1)),
                  _STARTS["shared"] + np.arange(2), settings.net, seed,
                  np.stack([1 - t, t, np.ones(len(t))], 1), np.array([[1, 1, 0], [1, 1, 1]]))


def on_annotations(x, rows, settings, seed):
  """(M = 1) what predicts dr_x: the effect given the annotations themselves, an upper bound."""
  masks = [np.isin(np.arange(len(x)), rows.hold[role]) for role in ("train", "val")]
  arguments = (rows.delta[None], rows.weight[None])
  if settings.effects == "linear":
    return _ridge(x, *arguments, *masks)
  return nets.fit(x, arguments[0], *(arguments[1] * mask for mask in masks), [False],
                  [_STARTS["annotated"]], settings.net, seed)


def _ridge(x, targets, sees, train, val):
  """The Ridge of M targets (M, N), each with the strength of the lowest loss on validation rows.
  Raises ValueError where a target has no row to fit or to stop by."""
  x1 = np.concatenate([np.ones((len(x), 1)), x], 1)
  found = []
  for y, weight in zip(targets, sees):
    w, v = weight * train, weight * val
    if not w.any() or not v.any():
      raise ValueError("too few rows to fit, or to choose a penalty by.")
    gram, moment = (x1 * w[:, None]).T @ x1, x1.T @ (w * y)
    penalty = w.sum() * np.diag([0.0] + [1.0] * x.shape[1])
    found.append(min((np.linalg.solve(gram + strength * penalty, moment) for strength in PENALTIES),
                     key=lambda beta: np.sum(v * (y - x1 @ beta)**2)))
  beta = np.stack(found)
  return Ridge(beta[:, 1:], beta[:, 0])


def _single(model, x):
  """(M, N)."""
  if isinstance(model, Ridge):
    return model.slope @ x.T + model.intercept[:, None]
  return nets.predict(model, x)


def values_on_annotations(model, x):
  """(N,) effects of what on_annotations() made."""
  return _single(model, x)[0]


def predict(learned, phi):
  """Name -> (N,) effects, and under "risk" the expected outcome without treatment, of a data.Phi.
  Raises TypeError for anything else."""
  x = representation_lib.transform(learned.representation, phi)
  found = dict(zip(_SINGLE, _single(learned.single, x)))
  found["t_learner"] = found.pop("treated") - found["risk"]
  if learned.shared is not None:
    y0, y1 = np.moveaxis(nets.predict(learned.shared, x)[..., :2], 2, 0)
    found |= {"tarnet": (y1 - y0)[0], "dragonnet": (y1 - y0)[1]}
  if learned.correction is not None:
    found["aace"] = corrected(found["aace"], phi.pattern, learned.correction)
  return found


def priorities(effects, higher_is_better):
  """Name -> (N,) priority, larger first: what the treatment gains; of "risk" and "oracle_risk"
  whose outcome without treatment is worst."""
  return {name: policies.priority(-v if name.endswith("risk") else v, higher_is_better)
          for name, v in effects.items()}


def rectify(f, rows):
  """The Correction of effects f (N,), cross-fitted, by what Delta - f adds up to in each pattern.

  A pattern's mean residual is shrunk to the common mean by empirical Bayes. Applied where the gain
  r^2 - (r - c)^2, c from the rows of other folds, is positive beyond chance, by patient.
  """
  some = rows.weight > 0
  r, pattern = (rows.delta - f)[some], rows.pattern[some]
  ids = np.unique(pattern)
  slot, weight = np.searchsorted(ids, pattern), rows.weight[some]
  fold = np.full(len(f), -1)
  for k, rows_of in enumerate(rows.folds):
    fold[rows_of["test"]] = k
  fold = fold[some]
  left_out = np.empty(len(r))
  for k in range(len(rows.folds)):
    mine = fold == k
    left_out[mine] = _shrunk(r[~mine], slot[~mine], weight[~mine], len(ids))[slot[mine]]
  gain = pseudo.mean(r**2 - (r - left_out)**2, rows.patient[some], weight)
  return Correction(ids, _shrunk(r, slot, weight, len(ids)),
                    np.array(gain["value"] > SURE * gain["se"]), np.array(gain["value"]),
                    np.array(gain["se"]))


def _shrunk(r, slot, weight, patterns):
  """(P + 1,) shrunken means of the residuals of each pattern; last the common mean."""
  total = np.bincount(slot, weight, patterns)
  gamma = np.bincount(slot, weight * r, patterns) / np.maximum(total, 1e-12)
  squares = np.bincount(slot, (weight * (r - gamma[slot]))**2, patterns)
  rows = np.bincount(slot, minlength=patterns)
  some = rows > 1   # of one row nobody knows how far its mean is off
  variance = np.where(some, squares / np.maximum(total, 1e-12)**2, 1.0) * (
      rows / np.maximum(rows - 1, 1))
  variance = np.maximum(variance, 1e-12)
  mean, sd, _ = rectifier.prior(gamma[None], variance[None], some[None])
  keep = sd[0]**2 / (sd[0]**2 + variance)
  return np.append(np.where(some, mean[0] + keep * (gamma - mean[0]), mean[0]), mean[0])


def corrected(f, pattern, correction):
  """(N,) f and the correction of its pattern, where that is applied."""
  if not correction.applied:
    return f
  slot = np.searchsorted(correction.patterns, pattern)
  known = np.append(correction.patterns, -1)[slot] == pattern
  return f + correction.table[np.where(known, slot, len(correction.patterns))]


def save(learned, path):
  """Writes a Learned as one .npz file, whole or not at all."""
  tree = {"representation": {"stats": learned.representation.stats,
                             "center": learned.representation.center,
                             "spread": learned.representation.spread},
          "single": learned.single._asdict(),
          "shared": learned.shared and learned.shared._asdict(),
          "correction": learned.correction and learned.correction._asdict()}
  with files.replaced(path) as part, open(part, "wb") as file:
    np.savez(file, **_flat(tree))


def load(path):
  """The Learned that save() wrote. Raises OSError where the file is absent or damaged."""
  try:
    with np.load(path, allow_pickle=False) as arrays:
      tree = _nested({name: arrays[name] for name in arrays.files})
    single = (nets.Fitted if "params" in tree["single"] else Ridge)(**tree["single"])
    return Learned(representation_lib.Representation(**tree["representation"]), single,
                   nets.Fitted(**tree["shared"]) if "shared" in tree else None,
                   Correction(**tree["correction"]) if "correction" in tree else None)
  except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise OSError(f"{path} is absent or damaged ({type(error).__name__}). Delete "
                  f"{pathlib.Path(path).name} and metrics.json there and run the same main command "
                  "again.") from error


def _flat(tree, prefix=""):
  """'a/b/c' -> array; None is left out."""
  found = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      found |= _flat(value, f"{prefix}{name}/")
    elif value is not None:
      found[prefix + name] = np.asarray(value)
  return found


def _nested(flat):
  tree = {}
  for path, value in flat.items():
    *parts, last = path.split("/")
    node = tree
    for part in parts:
      node = node.setdefault(part, {})
    node[last] = value
  return tree
