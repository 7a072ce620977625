"""The predictor that a report leads with: the method or its stack with the yardsticks, calibrated,
whichever has the lower log-loss on held-out calibration patients.

A member's calibration rows are its validation rows. Its test rows get what all of them say; a
validation row gets what patients of other folds say, the choices included, so no row's own outcome
reaches its own prediction, not even through the training of another fold's member.
"""

import typing

import numpy as np

from crl_jax.posthoc import folds, scaling, stacking
from crl_jax.statistics import predictions

METHOD = "method"
PARTS = (METHOD, "logistic", "boosting")   # of the stack; the method after its rectifier
CANDIDATES = (METHOD, "stack")


class Rule(typing.NamedTuple):
  """What calibration rows say of one task.

  Attributes:
    chosen: of CANDIDATES.
    weights: (J,) of the stack's parts.
    scalings: candidate -> scaling.Scaling.
    losses: candidate -> kind of scaling -> held-out log-loss.
    patients: labelled calibration patients.
  """
  chosen: str
  weights: np.ndarray
  scalings: dict
  losses: dict
  patients: int

  def __call__(self, p_NxJ):
    """{"pool": the stack before calibration, "stack": after, "calibrated": the method, "chosen"},
    (N,) each."""
    raw = {METHOD: p_NxJ[:, 0], "stack": stacking.mix(p_NxJ, self.weights)}
    done = {name: self.scalings[name](p) for name, p in raw.items()}
    return {"pool": raw["stack"], "stack": done["stack"], "calibrated": done[METHOD],
            "chosen": done[self.chosen]}


def fit(y, p_NxJ, patient, config, seed):
  """The Rule of one task.

  Args:
    y: (N,) in {0, 1}; p_NxJ: of the parts, the method first; patient: (N,) ids.
    config: config.headline.
    seed: deals patients into folds.
  """
  fold = folds.deal(y, patient, config.folds, seed)
  parts = p_NxJ.shape[1]
  stacked = np.zeros(len(y))
  for k in np.unique(fold):
    mine = fold == k
    stacked[mine] = stacking.mix(p_NxJ[mine], stacking.weights(y[~mine], p_NxJ[~mine]))
  scalings, losses = {}, {}
  for name, p in ((METHOD, p_NxJ[:, 0]), ("stack", stacked)):
    scalings[name], losses[name] = scaling.choose(y, p, patient, fold)
    if not config.calibrate:
      scalings[name] = scaling.Scaling()
  best = {name: losses[name][scalings[name].kind] for name in CANDIDATES}
  lower = parts > 1 and len(y) > 0 and best["stack"] < best[METHOD]
  return Rule(CANDIDATES[bool(lower)], stacking.weights(y, p_NxJ), scalings, losses,
              len(np.unique(patient)))


def add(table, tasks, config, seed):
  """Adds p_pool_, p_stack_, p_calibrated_ and p_chosen_<task> to every line of a predictions table
  that the rectifier has gone over.

  Args:
    table: see statistics.predictions; without the yardsticks' columns the method is the only part.
    tasks: T names.
    config: config.headline; off where neither stack nor calibrate is on.
    seed: deals patients into folds.
  Returns:
    (table, {"parts", "members": [...], "pooled": ...}, rules as plain dicts; the pooled one is that
    of new patients), or (table, None).
  """
  if not (config.stack or config.calibrate):
    return table, None
  prefixes = ["p_", *(f"p_{name}_" for name in PARTS[1:])]
  whole = config.stack and all(prefix + tasks[0] in table for prefix in prefixes)
  prefixes = prefixes if whole else prefixes[:1]
  names = ("pool", "stack", "calibrated", "chosen") if whole else ("calibrated", "chosen")
  added = {f"p_{name}_{task}": np.full(len(table), np.nan) for task in tasks for name in names}
  val, patient = (table.role == "val").to_numpy(), table.patient_id.to_numpy()
  members, pooled = [], {}
  groups = table.groupby(["fold", "seed"], sort=True).indices
  for member, lines in groups.items():
    members.append({"fold": int(member[0]), "seed": int(member[1]), "tasks": {}})
    for task in tasks:
      p_NxJ = table[[prefix + task for prefix in prefixes]].to_numpy(np.float64)[lines]
      y = table[f"y_{task}"].to_numpy(np.float64)[lines]
      held = val[lines] & ~np.isnan(y)
      rule = fit(y[held], p_NxJ[held], patient[lines][held], config, seed)
      found = {name: p.copy() for name, p in rule(p_NxJ).items()}   # two may be one array
      for name, values in _crossed(y[held], p_NxJ[held], patient[lines][held], config,
                                   seed).items():
        found[name][held] = values
      for name in names:
        added[f"p_{name}_{task}"][lines] = found[name]
      members[-1]["tasks"][task] = _told(rule, prefixes)
  for task in tasks:
    held = val & table[f"y_{task}"].notna().to_numpy()
    p_NxJ = table[[prefix + task for prefix in prefixes]].to_numpy(np.float64)[held]
    pooled[task] = _told(fit(table[f"y_{task}"].to_numpy(np.float64)[held], p_NxJ, patient[held],
                             config, seed), prefixes)
  return predictions.with_columns(table, added), {
      "parts": list(PARTS[:len(prefixes)]), "members": members, "pooled": pooled}


def _crossed(y, p_NxJ, patient, config, seed):
  """What Rule() gives of the calibration rows, each by the rule of the other folds' patients."""
  fold = folds.deal(y, patient, config.folds, seed + 1)
  found = {}
  for k in np.unique(fold):
    mine = fold == k
    rule = fit(y[~mine], p_NxJ[~mine], patient[~mine], config, seed)
    for name, values in rule(p_NxJ[mine]).items():
      found.setdefault(name, np.empty(len(y)))[mine] = values
  return found


def _told(rule, prefixes):
  """A Rule as JSON types."""
  return {"chosen": rule.chosen, "weights": dict(zip(PARTS, rule.weights.tolist())),
          "scaling": {name: dict(one._asdict()) for name, one in rule.scalings.items()},
          "log_loss": rule.losses, "patients": rule.patients}


def summary(rules):
  """What metrics.json says of add()'s: task -> {"chosen": candidate -> members, "weights": part ->
  mean over members, "scaling": candidate -> kind -> members, "log_loss": candidate -> kind -> mean
  over the members that tried it, "patients": calibration patients of a member}."""
  found = {}
  for task in rules["pooled"]:
    each = [member["tasks"][task] for member in rules["members"]]
    count = lambda values: {value: values.count(value) for value in dict.fromkeys(values)}
    mean = lambda values: float(np.mean(values)) if values else None
    tried = lambda name, kind: mean([one["log_loss"][name][kind] for one in each
                                     if one["log_loss"][name].get(kind) is not None])
    found[task] = {
        "chosen": count([one["chosen"] for one in each]),
        "weights": {part: mean([one["weights"][part] for one in each]) for part in rules["parts"]},
        "scaling": {name: count([one["scaling"][name]["kind"] for one in each])
                    for name in CANDIDATES},
        "log_loss": {name: {kind: tried(name, kind) for kind in scaling.KINDS}
                     for name in CANDIDATES},
        "patients": mean([one["patients"] for one in each])}
  return found


def from_dict(found):
  """The Rule of one task that add() told."""
  return Rule(found["chosen"], np.array(list(found["weights"].values())),
              {name: scaling.Scaling(**one) for name, one in found["scaling"].items()},
              found["log_loss"], found["patients"])
