"""From the predictions table to metrics.json: values, patient-bootstrap intervals, paired
differences, patterns.

Everything here works on the predictions table alone, so it can be run again on any saved run.
"""

import numpy as np

from crl_jax.data.cohort import pattern_name
from crl_jax.statistics import (bootstrap, compare, conformal, disclosure, fairness,
                                influence, metrics as metrics_lib, roles, scoring)

# Of a pattern's row; what the rectifier added to its predictions is about its residual, too.
_OUTCOMES = ("positives", "rate", "rate_lo", "rate_hi", "predicted_base", "predicted")


def evaluate(predictions, tasks, config, seed, modalities):
  """Scores a predictions table.

  Values are those of `scoring.score`, intervals those of `bootstrap.interval` and, of differences,
  `bootstrap.difference`: one draw of the patients serves all roles, tasks and predictors, so
  differences between them are paired. Of bootstrap.MANY patients and more they are the normal ones
  of the patients' influences, paired too, on rows where bootstrap.RARER patients of either outcome
  are left.

  Args:
    predictions: DataFrame with row_id, patient_id, fold, seed, role, pattern and per task y_,
      p_base_, p_ columns; the other predictors of roles.ROLES are scored where their columns are.
    tasks: T names.
    config: the whole config; `evaluate` and `splits` are read.
    seed: int, of the resamples.
    modalities: M names, for the names of the patterns.

  Returns:
    JSON-able dict, the contract of metrics.json: role -> task -> {metric: {value, lo, hi, folds:
    {mean, sd, n}}, n, positives}, where a metric that is undefined is null with a "reason" and n
    counts distinct rows; "differences": "first-second" -> task -> metric -> {value, lo, hi, p};
    "tests": "first-second" -> task -> {"delong", "resampled_t": metric -> ...}, each with p and
    p_holm; "operating": role -> task -> thresholds; "net_benefit": role -> task -> curves;
    "fairness" and "conformal": what their modules' study() returns, the former of the role whose
    label is its "predictor";
    "patterns": task -> rows with outcome rates, largest first; rare patterns are one row, with a
    null "pattern" or beside another, and outcomes of few patients are null (see disclosure.py).

  Raises:
    ValueError: a missing column, a repeated row, or a prediction that is no probability, with names
      and counts.
  """
  _check(predictions, tasks)
  patients, patient = np.unique(predictions.patient_id.to_numpy(), return_inverse=True)
  counts_RxP = bootstrap.sampling(len(patients), config.evaluate.bootstrap, seed)
  scores, points, differences = _score_roles(predictions, patient, tasks, counts_RxP,
                                             config.evaluate)
  result = {}
  for (role, task), found in scores.items():
    result.setdefault(role.key, {})[task] = found.entry
  pairs = list(differences)
  result["differences"] = {pair.key: differences[pair] for pair in pairs}
  result["tests"] = _tests(predictions, scores, pairs, tasks, config)
  result["operating"] = _operating(points, config.evaluate.sensitivity)
  result["net_benefit"] = _net_benefit(predictions, patient, tasks, points, counts_RxP,
                                       config.evaluate)
  if roles.FINAL in points:
    test = (predictions.role == "test").to_numpy()
    lead = roles.lead(result)
    result["fairness"] = {"predictor": lead.label, **fairness.study(
        predictions[test], tasks, config.evaluate, counts_RxP, patient[test], points[lead], seed,
        lead.prefix)}
    # of new patients there are no rows to calibrate on: their sets are there
    made = test.all() and f"conformal_{tasks[0]}_0" in predictions
    sets = predictions if made else conformal.add(predictions, tasks, config.evaluate)
    result["conformal"] = conformal.study(sets, tasks, modalities, config.evaluate)
  test = predictions[predictions.role == "test"]
  sized = disclosure.sized(test[[f"y_{task}" for task in tasks]].notna())
  result["patterns"] = {task: _patterns(test, task, modalities, config.evaluate.min_cell, may)
                        for task, may in zip(tasks, sized)}
  return result


def _check(table, tasks):
  needed = ["row_id", "patient_id", "fold", "seed", "role", "pattern"]
  needed += [f"{prefix}{task}" for task in tasks for prefix in ("y_", "p_base_", "p_")]
  if missing := [name for name in needed if name not in table]:
    raise ValueError(f"the predictions table lacks the columns {missing}; it has "
                     f"{list(table.columns)}.")
  for role, keys in (("test", ["row_id", "seed"]), ("val", ["row_id", "fold", "seed"])):
    if repeated := int(table[table.role == role].duplicated(keys).sum()):
      raise ValueError(f"{repeated} '{role}' rows of the predictions repeat a row of the same "
                       f"{' and '.join(keys[1:])}: "
                       "two members' files were joined, or one was read twice.")


def _score_roles(predictions, patient, tasks, counts_RxP, config):
  """(Role, task) -> Scores; the thresholds of the test roles: Role -> task -> (fold, seed) ->
  threshold; and Difference -> task -> metric -> entry."""
  scores, points, differences = {}, {}, {}
  rows = {role: np.flatnonzero((predictions.role == role.rows).to_numpy()) for role in roles.ROLES
          if f"{role.prefix}{tasks[0]}" in predictions}
  for task in tasks:
    found, twins = {}, {}
    for role in [role for role, mine in rows.items() if len(mine)]:
      p = predictions[role.prefix + task].to_numpy(np.float64)
      twin = twins.setdefault((role.rows, p.tobytes()), role)   # the headline is another's column
      if twin is not role:
        found[role] = found[twin]
        if role.rows == "test":
          points.setdefault(role, {})[task] = points[twin][task]
        continue
      thresholds = None   # chosen on validation rows, so those are not scored by it
      if role.rows == "test":
        thresholds = scoring.operating_points(predictions, task, role.prefix, config.sensitivity)
        points.setdefault(role, {})[task] = thresholds
      found[role] = scoring.score(predictions.iloc[rows[role]], patient[rows[role]], task,
                                  role.prefix, counts_RxP, config, thresholds)
      if role.rows != "test":
        found[role] = found[role].light()
    for pair in roles.DIFFERENCES:
      if all(role in found for role in pair):
        differences.setdefault(pair, {})[task] = compare.difference(*(found[r] for r in pair))
    scores |= {(role, task): one.light() for role, one in found.items()}
  return scores, points, differences


def _operating(points, target):
  """The thresholds as JSON."""
  found = {"rule": f"the highest threshold that flags {target:.0%} of the positive validation rows "
                   "of the member"}
  for role, tasks in points.items():
    found[role.key] = {task: {
        "threshold": float(np.mean(list(t.values()))) if t else None,
        "thresholds": [dict(fold=fold, seed=seed, threshold=value)
                       for (fold, seed), value in t.items()]} for task, t in tasks.items()}
  return found


def _tests(predictions, scores, pairs, tasks, config):
  """pair -> task -> DeLong's test and the corrected resampled t-test, each adjusted over all."""
  test = predictions[predictions.role == "test"]
  found = {pair.key: {task: {
      "delong": compare.rows_delong(test, task, *(test[role.prefix + task] for role in pair)),
      "resampled_t": compare.members(*(scores[role, task] for role in pair),
                                     compare.ratio(config))} for task in tasks} for pair in pairs}
  entries = [entry for pair in found.values() for entry in pair.values()]
  compare.adjust([entry["delong"] for entry in entries])
  for name in metrics_lib.METRICS:
    compare.adjust([entry["resampled_t"][name] for entry in entries])
  return found


def _net_benefit(predictions, patient, tasks, points, counts_RxP, config):
  """role -> task -> the decision curve, its interval, and the curve of treating everybody."""
  thresholds = np.arange(1, int(round(100 * config.benefit)) + 1) / 100
  found, twins = {}, {}
  for role in points:
    by_task = found[role.key] = {}
    for task in tasks:
      mine = ((predictions.role == role.rows) & predictions[f"y_{task}"].notna()).to_numpy()
      table, index = predictions[mine], patient[mine]
      y, p = (table[name].to_numpy(np.float64) for name in (f"y_{task}", role.prefix + task))
      if not len(y):
        by_task[task] = {"threshold": [], "value": [], "lo": [], "hi": [], "all": [],
                         "reason": "no row with this outcome"}
        continue
      twin = twins.setdefault((task, p.tobytes()), by_task)
      by_task[task] = twin[task] if twin is not by_task else {
          key: v.tolist() for key, v in _curve(y, p, index, scoring.sets_of(table, role.rows),
                                               thresholds, counts_RxP).items()}
  return found


def _curve(y, p, index, sets, thresholds, counts_RxP):
  """A decision curve, the mean over the sets, as arrays (K,)."""
  of = lambda *weights: [np.mean(curves, 0) for curves in zip(*(
      metrics_lib.net_benefit(y[rows], p[rows], thresholds, *(w(rows) for w in weights))
      for rows in sets))]
  value_K, all_K = (v[0] for v in of())
  if isinstance(limit := counts_RxP, bootstrap.Limit):
    if limit.holds(y, index):
      each = zip(*(influence.net_benefit(y[rows], p[rows], thresholds) for rows in sets))
      se_K = np.array([np.linalg.norm(sum(
          np.bincount(index[rows], psi, limit.patients) for rows, psi in zip(sets, found)))
          for found in each]) / len(sets)
      entries = [bootstrap.normal(v, se) for v, se in zip(value_K, se_K)]
      lo_K, hi_K = (np.array([entry[end] for entry in entries]) for end in ("lo", "hi"))
      return dict(threshold=thresholds, value=value_K, lo=lo_K, hi=hi_K, all=all_K)
    counts_RxP, index = limit.few(index)
  drawn_RxK, _ = of(lambda rows: counts_RxP, lambda rows: index[rows])
  lo_K, hi_K = np.nanquantile(drawn_RxK, (0.025, 0.975), axis=0)
  return dict(threshold=thresholds, value=value_K, lo=lo_K, hi=hi_K, all=all_K)


def _patterns(test, task, modalities, least, sized):
  """Test rows by pattern, largest first; a row that several seeds predicted counts once, with its
  mean prediction. `sized`: sizes may be told where outcomes may not."""
  table = test[test[f"y_{task}"].notna()]
  rows = table.groupby("row_id").agg({
      "pattern": "first", "patient_id": "first", f"y_{task}": "first", f"p_base_{task}": "mean",
      f"p_{task}": "mean"})
  found = []
  for group in disclosure.groups(rows.pattern, rows.patient_id, rows[f"y_{task}"], least):
    cell, pattern = rows.iloc[group.positions], None if group.level is None else int(group.level)
    name = "" if pattern is None else pattern_name(pattern, modalities)
    row = dict(pattern=pattern, name=group.name(name, "rarer patterns"), rare=group.rare,
               missing=[] if pattern is None else
                       [m for i, m in enumerate(modalities) if not pattern >> i & 1],
               n=len(cell), **dict.fromkeys(_OUTCOMES))
    if group.told:
      n, positives = len(cell), int(cell[f"y_{task}"].sum())
      lo, hi = fairness.proportion(*(v.to_numpy() for v in (cell[f"y_{task}"], cell.index,
                                                            cell.patient_id)))
      row |= dict(positives=positives, rate=positives / n, rate_lo=lo, rate_hi=hi,
                  predicted_base=float(cell[f"p_base_{task}"].mean()),
                  predicted=float(cell[f"p_{task}"].mean()))
    else:
      row["reason"] = disclosure.reason(least)
    found.append(row)
  found.sort(key=lambda row: (-row["n"], row["pattern"] is None, row["pattern"]))
  return [row if sized or row["positives"] is not None else {**row, "n": None} for row in found]
