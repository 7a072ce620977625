"""One study from rows to priorities: split -> nuisances -> scores -> effects -> priorities of the
test rows, and scores of those that no training row has touched. judge.py reads it, folder.py writes
it."""

import dataclasses

import ml_collections
import numpy as np

from crl_jax import progress
from crl_jax.data.cohort import CohortError
from crl_jax.policy import annotations, data, diagnostics, effects, nets, nuisance, pseudo
from crl_jax.policy import representation as representation_lib

_STARTS = 500   # of the networks that tell annotations from phi


@dataclasses.dataclass(frozen=True)
class Scored:
  """Some rows with their scores, cross-fitted among themselves.

  Attributes:
    rows: (n,) of the cohort.
    nuisances: nuisance.Nuisances of them, of the first repeat.
    scores: pseudo.Scores, medians over repeats; under "aipw" augmented and of all rows.
    weight: (n,) 0 where a row has no score, else 1, or S / pi under "ipw".
    folds: list of role -> positions in `rows`.
  """
  rows: np.ndarray
  nuisances: nuisance.Nuisances
  scores: pseudo.Scores
  weight: np.ndarray
  folds: list


@dataclasses.dataclass(frozen=True)
class Study:
  """What a study found.

  Attributes:
    config: the whole tree.
    p: data.PolicyCohort.
    phi: what inference sees of it, policy.hide hidden.
    rows: {"train", "test"}: (n,) rows.
    x: (N, D) representation.
    learned: effects.Learned.
    by_kind: what nuisances see -> Scored of the training rows.
    test: Scored of the test rows.
    effects: name -> (n,) of the test rows, see effects.predict(); dr_x is NaN where there is no
      annotation.
    recovered: {"all", each modality, diagnostics.CONTROL} -> (n, Q) annotations told from these
      parts of phi.
    dropped: names of annotations that nuisances do not see.
  """
  config: ml_collections.ConfigDict
  p: data.PolicyCohort
  phi: data.Phi
  rows: dict
  x: np.ndarray
  learned: effects.Learned
  by_kind: dict
  test: Scored
  effects: dict
  recovered: dict
  dropped: tuple


def run(config, p):
  """The Study of a data.PolicyCohort under `config`, the whole tree.

  Raises:
    CohortError, ValueError: rows, arms or annotations that do not suffice.
  """
  c = config.policy
  phi = data.phi(p).hiding(c.hide)
  rows = data.split(p, c, config.seed)
  _require_arms(p, rows)
  with progress.stage("Scaling what inference sees"):
    represented = representation_lib.fit(phi, rows["train"], config)
    x = representation_lib.transform(represented, phi)
  inputs, design = _inputs(config, p, phi, x, rows)
  by_kind = {}
  others = ("x", *["x+pattern"] * (len(np.unique(phi.pattern)) > 1), "x+phi", "phi")
  for kind in dict.fromkeys((c.nuisance_inputs, *others)):
    with progress.stage(f"Nuisances on {kind}"):
      by_kind[kind] = score(config, p, x, inputs(kind), rows["train"], kind)
  of_rows = learning_rows(config, p, phi, by_kind)
  with progress.stage("Effects"):
    learned = effects.learn(represented, x[rows["train"]], of_rows, c, config.seed)
    found = effects.predict(learned, phi.take(rows["test"]))
    on_x = annotations.transform(design, p.annotations)
    teacher = effects.on_annotations(on_x[rows["train"]], of_rows, c, config.seed)
    known = p.annotated[rows["test"]]
    found["dr_x"] = np.where(
        known, effects.values_on_annotations(teacher, on_x[rows["test"]]), np.nan)
  with progress.stage("Scores of the test rows"):
    test = score(config, p, x, inputs(c.nuisance_inputs), rows["test"], c.nuisance_inputs)
  with progress.stage("Are the annotations in phi?"):
    recovered = recover(config, p, phi, x, represented, rows)
  return Study(config, p, phi, rows, x, learned, by_kind, test, found, recovered, design.dropped)


def _require_arms(p, rows):
  for role, mine in rows.items():
    for arm in (0, 1):
      if (n := int((p.treatment[mine] == arm).sum())) < data.FEWEST:
        raise CohortError(f"treatment is {arm} in {n} {role} rows; at least {data.FEWEST} are "
                          "needed in training and test: bring more rows.")


def _inputs(config, p, phi, x, rows):
  """(kind -> (N, F) what nuisances see, the Design of the annotations)."""
  c, train = config.policy, rows["train"]
  usable = annotations.usable(p.annotations, p.annotated, c.annotation_missing)
  design = annotations.fit(p.annotations[train][usable[train]], p.names,
                           config.preprocess.max_missing)
  on_x = annotations.transform(design, p.annotations)
  if c.nuisances == "linear" and on_x.shape[1] > usable[train].sum() / 10:
    raise CohortError(f"{on_x.shape[1]} columns of annotations for {usable[train].sum()} annotated "
                      "training rows are too many for policy.nuisances 'linear': fewer columns "
                      "than a tenth of the rows, or another kind.")
  patterns = annotations.fit_patterns(phi.pattern[train])
  columns = annotations.pattern_columns(patterns, phi.pattern)
  return lambda kind: annotations.inputs(kind, on_x, x, columns), design


def score(config, p, x, inputs, rows, kind):
  """The Scored `rows` of `p`, with nuisances on `inputs` (N, F), of all rows of the cohort; those
  on phi alone need no annotation, so nobody is left out."""
  c, n = config.policy, len(rows)
  t, y = p.treatment[rows].astype(float), p.outcome[rows].astype(float)
  seen = (np.ones(n, bool) if kind == "phi" else
          annotations.usable(p.annotations[rows], p.annotated[rows], c.annotation_missing))
  binary = p.outcome_kind == "binary" and c.outcome_loss == "auto"
  repeats = []
  for repeat in range(c.repeats):
    seed = config.seed + 1000 * repeat
    folds = data.folds(p, rows, c.folds, seed)
    weight = seen.astype(float)
    if selected := c.sampling != "none" and not seen.all():
      v = annotations.selection_inputs(x[rows], t, y)
      fold = nuisance.fold_of(folds, n)
      chance = annotations.seen_probability(
          v, seen, fold, "boosting" if c.nuisances == "boosting" else "logistic", seed)
      weight = annotations.weights(seen, chance)
    fitted = nuisance.fit(inputs[rows], t, y, folds, binary, c, seed, weight)
    scores = pseudo.scores(t, y, *fitted, c.clip)
    if selected and c.sampling == "aipw":
      gamma0, gamma1 = (annotations.augmented(g, seen, chance, v, fold) for g in scores[:2])
      scores = pseudo.Scores(gamma0, gamma1, gamma1 - gamma0, scores.clipped)
      weight = np.ones(n)
    repeats.append((fitted, scores, weight, folds))
  fitted, _, weight, folds = repeats[0]
  if c.trim:
    weight = weight * ((fitted.e > c.trim) & (fitted.e < 1 - c.trim))
  return Scored(rows, fitted, pseudo.median([r[1] for r in repeats]), weight, folds)


def learning_rows(config, p, phi, by_kind):
  """The effects.Rows of the training rows."""
  scored, plugin = by_kind[config.policy.nuisance_inputs], by_kind["phi"]
  rows = scored.rows
  (hold,) = data.folds(p, rows, 1, config.seed)
  return effects.Rows(
      p.treatment[rows].astype(float), p.outcome[rows].astype(float),
      np.where(scored.weight > 0, scored.scores.delta, 0), plugin.scores.delta, scored.weight,
      phi.pattern[rows], phi.patient_id[rows], hold, scored.folds,
      p.outcome_kind == "binary" and config.policy.outcome_loss == "auto")


def recover(config, p, phi, x, represented, rows):
  """Source -> (n, Q) annotations of the test rows, told by networks that saw the training rows:
  from all of phi, from each modality with the others hidden, from the phi of another patient."""
  train, test = rows["train"], rows["test"]
  y = p.annotations[train].astype(float)
  binary = np.array([np.isin(v[~np.isnan(v)], (0, 1)).all() for v in y.T])
  center, spread = np.nanmean(y, 0), np.nanstd(y, 0)
  spread = np.where(binary | (spread == 0), 1, spread)
  center = np.where(binary, 0, center)
  (hold,) = data.folds(p, train, 1, config.seed)
  sees = lambda role: (~np.isnan(y)).T * np.isin(np.arange(len(train)), hold[role])
  enough = np.all([sees(role).any(1) for role in ("train", "val")], 0)
  found = {}
  parts = ["all", *(phi.modalities if len(phi.modalities) > 1 else ())]
  for part in parts:
    seen = x if part == "all" else representation_lib.transform(
        represented, phi.hiding(tuple(m for m in phi.modalities if m != part)))
    fitted = nets.fit(seen[train], ((y - center) / spread).T[enough], sees("train")[enough],
                      sees("val")[enough], binary[enough], _STARTS + np.flatnonzero(enough),
                      config.policy.net, config.seed)
    told = np.full((len(test), len(binary)), np.nan)
    told[:, enough] = nets.predict(fitted, seen[test]).T * spread[enough] + center[enough]
    found[part] = told
  others = diagnostics.permutation(phi.patient_id[test], config.seed)
  return found | {diagnostics.CONTROL: found["all"][others]}
