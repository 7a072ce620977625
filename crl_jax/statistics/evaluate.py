"""From the predictions table to metrics.json: values, patient-bootstrap intervals, paired
differences, patterns.

Everything here works on the predictions table alone, so it can be run again on any saved run.
"""

import numpy as np

from crl_jax.data.cohort import pattern_name
from crl_jax.statistics import (compare, conformal, disclosure, fairness, metrics as metrics_lib,
                                scoring)
from crl_jax.statistics.bootstrap import resample

# Role in metrics.json -> (role of the table's rows, prefix of the predictor's columns).
ROLES = {"test": ("test", "p_"), "test_base": ("test", "p_base_"),
         "test_logistic": ("test", "p_logistic_"), "test_boosting": ("test", "p_boosting_"),
         "test_bayes": ("test", "p_bayes_"), "val": ("val", "p_"), "val_base": ("val", "p_base_")}
# Differences of metrics between two roles, first minus second; the last one is the regret.
DIFFERENCES = (("test", "test_base"), ("test", "test_logistic"), ("test", "test_boosting"),
               ("test_bayes", "test"))
LABELS = {
    "test_base": "base model", "test": "with rectifier", "test_logistic": "logistic reg.",
    "test_boosting": "boosting", "test_bayes": "Bayes-optimal"}
# Of a pattern's row; what the rectifier added to its predictions is about its residual, too.
_OUTCOMES = ("positives", "rate", "rate_lo", "rate_hi", "predicted_base", "predicted")
DIFFERENCE_LABELS = {"test-test_base": "rectifier's gain", "test-test_boosting": "over boosting",
                     "test_bayes-test": "regret"}


def evaluate(predictions, tasks, config, seed, modalities):
  """Scores a predictions table.

  Values are those of `scoring.score`, intervals those of `bootstrap.interval` and, of differences,
  `compare.bootstrapped`: one draw of the patients serves all roles, tasks and predictors, so
  differences between them are paired.

  Args:
    predictions: DataFrame with row_id, patient_id, fold, seed, role, pattern and per task y_,
      p_base_, p_ columns; optional predictors p_logistic_, p_boosting_, p_bayes_ are scored on the
      same rows.
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
    "fairness" and "conformal": what their modules' study() returns;
    "patterns": task -> rows with outcome rates, largest first; rare patterns are one row, with a
    null "pattern" or beside another, and outcomes of few patients are null (see disclosure.py).

  Raises:
    ValueError: a missing column, a repeated row, or a prediction that is no probability, with names
      and counts.
  """
  _check(predictions, tasks)
  patients, patient = np.unique(predictions.patient_id.to_numpy(), return_inverse=True)
  counts_RxP = resample(len(patients), config.evaluate.bootstrap, seed)
  scores, points = _score_roles(predictions, patient, tasks, counts_RxP, config.evaluate)
  result = {}
  for (role, task), found in scores.items():
    result.setdefault(role, {})[task] = found.entry
  pairs = [(a, b) for a, b in DIFFERENCES if a in result and b in result]
  result["differences"] = {
      f"{a}-{b}": {task: compare.difference(scores[a, task], scores[b, task]) for task in tasks}
      for a, b in pairs}
  result["tests"] = _tests(predictions, scores, pairs, tasks, config)
  result["operating"] = _operating(points, config.evaluate.sensitivity)
  result["net_benefit"] = _net_benefit(predictions, patient, tasks, list(points), counts_RxP,
                                       config.evaluate)
  if "test" in points:
    test = (predictions.role == "test").to_numpy()
    result["fairness"] = fairness.study(predictions[test], tasks, config.evaluate, counts_RxP,
                                        patient[test], points["test"], seed)
    result["conformal"] = conformal.study(conformal.add(predictions, tasks, config.evaluate), tasks,
                                          modalities, config.evaluate)
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
  """(role, task) -> Scores, and the thresholds of the test roles: role -> task -> (fold, seed) ->
  threshold."""
  found, points = {}, {}
  for role, (source, prefix) in ROLES.items():
    rows = np.flatnonzero((predictions.role == source).to_numpy())
    if not len(rows) or f"{prefix}{tasks[0]}" not in predictions:
      continue
    for task in tasks:
      thresholds = None   # chosen on validation rows, so those are not scored by it
      if source == "test":
        thresholds = scoring.operating_points(predictions, task, prefix, config.sensitivity)
        points.setdefault(role, {})[task] = thresholds
      found[role, task] = scoring.score(predictions.iloc[rows], patient[rows], task, prefix,
                                        counts_RxP, config, thresholds)
  return found, points


def _operating(points, target):
  """The thresholds as JSON."""
  found = {"rule": f"the highest threshold that flags {target:.0%} of the positive validation rows "
                   "of the member"}
  for role, tasks in points.items():
    found[role] = {task: {"threshold": float(np.mean(list(t.values()))) if t else None,
                          "thresholds": [dict(fold=fold, seed=seed, threshold=value)
                                         for (fold, seed), value in t.items()]}
                   for task, t in tasks.items()}
  return found


def _tests(predictions, scores, pairs, tasks, config):
  """pair -> task -> DeLong's test and the corrected resampled t-test, each adjusted over all."""
  test = predictions[predictions.role == "test"]
  found = {f"{a}-{b}": {task: {
      "delong": compare.rows_delong(test, task, test[ROLES[a][1] + task], test[ROLES[b][1] + task]),
      "resampled_t": compare.members(scores[a, task], scores[b, task], compare.ratio(config))}
      for task in tasks} for a, b in pairs}
  entries = [entry for pair in found.values() for entry in pair.values()]
  compare.adjust([entry["delong"] for entry in entries])
  for name in metrics_lib.METRICS:
    compare.adjust([entry["resampled_t"][name] for entry in entries])
  return found


def _net_benefit(predictions, patient, tasks, roles, counts_RxP, config):
  """role -> task -> the decision curve, its interval, and the curve of treating everybody."""
  thresholds = np.arange(1, int(round(100 * config.benefit)) + 1) / 100
  found = {}
  for role in roles:
    source, prefix = ROLES[role]
    found[role] = {}
    for task in tasks:
      mine = ((predictions.role == source) & predictions[f"y_{task}"].notna()).to_numpy()
      table, index = predictions[mine], patient[mine]
      y, p = (table[name].to_numpy(np.float64) for name in (f"y_{task}", prefix + task))
      curves = [metrics_lib.net_benefit(y[rows], p[rows], thresholds, weights, index[rows])
                for weights in (np.ones((1, counts_RxP.shape[1])), counts_RxP)
                for rows in scoring.sets_of(table, source)]
      if not curves:
        found[role][task] = {"threshold": [], "value": [], "lo": [], "hi": [], "all": [],
                             "reason": "no row with this outcome"}
        continue
      half = len(curves) // 2
      value_K, all_K = (np.mean([c[i][0] for c in curves[:half]], 0) for i in (0, 1))
      lo_K, hi_K = np.nanquantile(np.mean([c[0] for c in curves[half:]], 0), (0.025, 0.975), axis=0)
      found[role][task] = {key: v.tolist() for key, v in dict(
          threshold=thresholds, value=value_K, lo=lo_K, hi=hi_K, all=all_K).items()}
  return found


def _patterns(test, task, modalities, least, sized):
  """Test rows by pattern, largest first; a row that several seeds predicted counts once, with its
  mean prediction. `sized`: sizes may be told where outcomes may not."""
  table = test[test[f"y_{task}"].notna()]
  rows = table.groupby("row_id").agg({
      "pattern": "first", "patient_id": "first", f"y_{task}": "first", f"p_base_{task}": "mean",
      f"p_{task}": "mean"})
  found = []
  for group in disclosure.groups(rows.pattern, rows.patient_id, rows[f"y_{task}"], least):
    cell, pattern = rows[group.rows], None if group.level is None else int(group.level)
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


def table(metrics, rectifier, info, min_cell=10, top=12):
  """Returns the final table of a run as plain text, under 120 columns wide.

  Args:
    metrics: what `evaluate` returned.
    rectifier: the dict of rectifier.json, or None: no gammas.
    info: the cohort's facts; "banner" is printed first, "truth" gives the true gammas.
    min_cell: patterns with fewer rows are pooled; so are those past the `top` largest.
  """
  roles = [role for role in LABELS if role in metrics]
  lines = [info["banner"], ""] if info.get("banner") else []
  for task in metrics[roles[0]]:
    entry = metrics[roles[0]][task]
    lines.append(f"{task.upper()}: {entry['n']} test rows, {entry['positives']} positive; 95% "
                 "intervals by patient")
    grid = [["", "AUROC", "AUPRC", "Brier", "ECE"]]
    grid += [[LABELS[role], *(interval_text(metrics[role][task][m]) for m in metrics_lib.METRICS)]
             for role in roles]
    for pair, label in DIFFERENCE_LABELS.items():
      if pair in metrics["differences"]:
        grid.append([label, *(interval_text(metrics["differences"][pair][task][m], "+.3f")
                              for m in metrics_lib.METRICS)])
    lines += _aligned(grid)
    reasons = {metrics[role][task][m]["reason"] for role in roles for m in metrics_lib.METRICS
               if "reason" in metrics[role][task][m]}
    lines += [f"  no value: {reason}" for reason in sorted(reasons)] + [""]
    lines += _aligned(_pattern_grid(pattern_rows(metrics, rectifier, info, task, min_cell, top)))
    lines += [f"  {sentence}" for sentence in [threshold(rectifier, task)] if sentence] + [""]
  lines.append("gamma: what the base model, which sees the pattern too, leaves of the pattern's "
               "effect on the outcome.")
  if info.get("truth"):
    lines.append("true gamma: the whole direct effect.")
  return "\n".join(lines)


def pattern_rows(metrics, rectifier, info, task, min_cell, top):
  """The rows of the pattern table: metrics["patterns"][task] with the rectifier's `cell` and the
  `true` gamma, or None; a row whose outcomes are withheld has no cell, nor has one whose gamma is
  of fewer than `min_cell` calibration rows.

  Rare patterns, those under `min_cell` rows and those past the `top` largest are pooled into one
  last row, without either.
  """
  cells = {int(c["pattern"]): c for c in _pooled(rectifier, task)["cells"] if c["n"] >= min_cell}
  true = info.get("truth", {}).get("gamma", {}).get(task, {})
  rows = [{**row, "cell": cells.get(row["pattern"]) if row["positives"] is not None else None,
           "true": true.get(str(row["pattern"]))} for row in metrics["patterns"][task]]
  shown = [row for row in rows if row["pattern"] is not None and
           (row["n"] is None or row["n"] >= min_cell)][:top]
  if rest := [row for row in rows if row not in shown]:
    count = sum(max(1, row.get("rare", 0)) for row in rest)
    n = None if any(row["n"] is None for row in rest) else sum(row["n"] for row in rest)
    few = n is None or n < min_cell or any(row["positives"] is None for row in rest)
    positives = None if few else sum(row["positives"] for row in rest)
    lo, hi = (None, None) if few else metrics_lib.wilson(positives, n)
    shown.append(dict(pattern=None, name=f"other patterns ({count})", missing=(), n=n, rare=count,
                      positives=positives, rate=None if few else positives / n,
                      rate_lo=lo, rate_hi=hi, cell=None, true=None))
  return shown


def threshold(rectifier, task):
  """A sentence on the size that gamma must have to be applied; '' where there is no rectifier for
  the task."""
  if rectifier and not rectifier.get("enabled", True):
    return "The rectifier is off: gammas are estimated, predictions are left as they are."
  found = _pooled(rectifier, task)
  if "threshold" not in found:
    return ""
  if found["threshold"] is None:
    return ("New predictions stay as they are: no threshold gained significantly (one-sided 5%) on "
            "held-out calibration patients.")
  pooled = rectifier.get("pooled", rectifier)
  gamma = (("shrunken " if pooled["shrinkage"] else "") + "gamma" +
           (", in log-odds," if pooled["scale"] == "logit" else ""))
  return f"New predictions are corrected where the absolute {gamma} exceeds {found['threshold']:g}."


def gamma_text(row):
  """'+0.080 [+0.041, +0.119]' of a row of `pattern_rows`; '-' where there is no cell."""
  cell = row["cell"] or dict(gamma=None, lo=None, hi=None)
  return interval_text(dict(value=cell["gamma"], lo=cell["lo"], hi=cell["hi"]), "+.3f")


def interval_text(entry, form=".3f"):
  """'0.812 [0.790, 0.834]'; '-' for null."""
  value = _number(entry["value"], form)
  return value if entry["value"] is None or entry["lo"] is None else (
      f"{value} [{_number(entry['lo'], form)}, {_number(entry['hi'], form)}]")


def _pooled(rectifier, task):
  """The rectifier's entry of a task for new patients (that of all members pooled, where there are
  several)."""
  pooled = rectifier.get("pooled", rectifier) if rectifier else {"tasks": {}}
  return pooled["tasks"].get(task, {"cells": ()})


def pattern_label(row, width=40):
  """The shorter of what is present and what is absent, cut at `width`; where nothing is absent and
  the list is long, that."""
  names, more = [row["name"]], " + rarer patterns" if row.get("rare") else ""
  if row["pattern"] and not row["missing"] and len(row["name"]) > 40:
    names.append("all modalities" + more)
  if row["missing"] and row["pattern"]:
    names.append("all but " + ", ".join(row["missing"]) + more)
  name = min(names, key=len)
  return name if len(name) <= width else name[:width - 3] + "..."


def _pattern_grid(rows):
  truth = any(row["true"] is not None for row in rows)
  grid = [["pattern", "n", "outcome rate", "gamma", *(["true gamma"] if truth else [])]]
  for row in rows:
    rate = dict(value=row["rate"], lo=row["rate_lo"], hi=row["rate_hi"])
    grid.append([pattern_label(row), _number(row["n"], "d"), interval_text(rate),
                 gamma_text(row), *([_number(row["true"], "+.3f")] if truth else [])])
  return grid


def _number(value, form):
  return "-" if value is None else f"{value:{form}}"


def _aligned(grid):
  widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
  return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
          for row in grid]
