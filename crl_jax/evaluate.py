"""From the predictions table to metrics.json: values, patient-bootstrap intervals, paired
differences, patterns.

Everything here works on the predictions table alone, so it can be run again on any saved run.
"""

import numpy as np

from crl_jax import metrics as metrics_lib
from crl_jax.data.cohort import pattern_name

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
DIFFERENCE_LABELS = {"test-test_base": "rectifier's gain", "test-test_boosting": "over boosting",
                     "test_bayes-test": "regret"}


def evaluate(predictions, tasks, config, seed, modalities):
  """Scores a predictions table.

  A value is the metric over all labelled rows of the role, as one set per seed in which every row
  stands once (test: the folds pooled; val, where a row may belong to several members: one set per
  fold and seed), then the mean over the sets where it is defined. The interval repeats that on
  resamples of the patients: percentiles, and for the calibration error, which resampling biases
  upward, percentiles reflected at the value (and widened to hold it). One draw of the patients
  serves all roles, tasks and predictors, so differences between them are paired.

  Args:
    predictions: DataFrame with row_id, patient_id, fold, seed, role, pattern and per task y_,
      p_base_, p_ columns; optional predictors p_logistic_, p_boosting_, p_bayes_ are scored on the
      same rows.
    tasks: T names.
    config: the whole config; `evaluate.bootstrap` and `evaluate.bins` are read.
    seed: int, of the resamples.
    modalities: M names, for the names of the patterns.

  Returns:
    JSON-able dict, the contract of metrics.json: role -> task -> {metric: {value, lo, hi, folds:
    {mean, sd, n}}, n, positives}, where a metric that is undefined is null with a "reason" and n
    counts distinct rows; "differences": "first-second" -> task -> metric -> {value, lo, hi};
    "patterns": task -> rows with outcome rates, largest first.

  Raises:
    ValueError: a missing column, a repeated row, or a prediction that is no probability, with names
      and counts.
  """
  _check(predictions, tasks)
  patients, patient = np.unique(predictions.patient_id.to_numpy(), return_inverse=True)
  counts_RxP = resample(len(patients), config.evaluate.bootstrap, seed)
  result, draws = {}, {}
  for role, (source, prefix) in ROLES.items():
    rows = np.flatnonzero((predictions.role == source).to_numpy())
    if not len(rows) or f"{prefix}{tasks[0]}" not in predictions:
      continue
    result[role] = {}
    for task in tasks:
      result[role][task], draws[role, task] = _score(
          predictions.iloc[rows], patient[rows], task, prefix, counts_RxP,
          config.evaluate.bins, source)
  result["differences"] = {
      f"{a}-{b}": {task: _difference(result, draws, a, b, task) for task in tasks}
      for a, b in DIFFERENCES if a in result and b in result}
  result["patterns"] = {task: _patterns(predictions, task, modalities) for task in tasks}
  return result


def resample(patients, resamples, seed):
  """Returns how often each patient is drawn, (resamples, patients) int16: rows sum to
  `patients`."""
  rng = np.random.default_rng([seed, 0xB007])
  counts_RxP = np.empty((resamples, patients), np.int16)
  for count_P in counts_RxP:
    count_P[:] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
  return counts_RxP


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


def _score(table, patient_N, task, prefix, counts_RxP, bins, source):
  """Returns the entry of one role and task, and metric -> (R,) draws of its value."""
  column = f"{prefix}{task}"
  labelled = table[f"y_{task}"].notna().to_numpy()
  table, patient_N = table[labelled], patient_N[labelled]
  y_N, p_N = (table[name].to_numpy(np.float64) for name in (f"y_{task}", column))
  if bad := int(np.sum(~((p_N >= 0) & (p_N <= 1)))):
    raise ValueError(f"column '{column}' has {bad} of {len(table)} labelled '{source}' rows "
                     "without a probability.")
  score = lambda rows, weights=None: metrics_lib.scores(
      y_N[rows], p_N[rows], weights, patient_N[rows], bins)
  sets = _sets(table, ["seed"] if source == "test" else ["fold", "seed"])
  member = [metrics_lib.scores(y_N[rows], p_N[rows], bins=bins)
            for rows in _sets(table, ["fold", "seed"])]
  value = [metrics_lib.scores(y_N[rows], p_N[rows], bins=bins) for rows in sets]
  drawn = [score(rows, counts_RxP) for rows in sets]
  distinct = ~table.row_id.duplicated().to_numpy()
  n, positives = int(distinct.sum()), int(y_N[distinct].sum())
  entry, draws = {}, {}
  for name in metrics_lib.METRICS:
    draws[name] = _mean([d[name] for d in drawn], len(counts_RxP))
    entry[name] = _interval(float(_mean([v[name] for v in value], 1)[0]), draws[name], name)
    if entry[name]["value"] is None:
      entry[name]["reason"] = "no row with this outcome" if not n else (
          f"only one class: {n} rows, {positives} positive" if positives in (0, n)
          else "one class in every fold")
    each = np.array([m[name][0] for m in member])
    each = each[~np.isnan(each)]
    entry[name]["folds"] = dict(mean=float(each.mean()) if len(each) else None,
                                sd=float(each.std(ddof=1)) if len(each) > 1 else None, n=len(each))
  return {**entry, "n": n, "positives": positives}, draws


def _sets(table, keys):
  """Positions of the rows of each combination of `keys`."""
  return list(table.groupby(keys, sort=True).indices.values())


def _mean(values, length):
  """Mean over a list of (length,) vectors, leaving NaN out; NaN where all are."""
  values = np.array(values, np.float64).reshape(len(values), length)
  known = ~np.isnan(values)
  total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
  return np.divide(total, count, out=np.full(length, np.nan), where=count > 0)


def _interval(value, draws, metric, difference=False):
  """{"value", "lo", "hi"} with null for what is undefined. Resamples where the metric is undefined
  are left out."""
  draws = draws[~np.isnan(draws)]
  if np.isnan(value) or not len(draws):
    lo = hi = None
  else:
    lo, hi = (float(v) for v in np.quantile(draws, (0.025, 0.975)))
    if metric == "ece":
      lo, hi = min(2 * value - hi, value), max(2 * value - lo, value)
      lo = lo if difference else max(lo, 0.0)
  entry = {"value": None if np.isnan(value) else value, "lo": lo, "hi": hi}
  if lo is None and entry["value"] is not None:
    entry["reason"] = "no resample in which it is defined"
  return entry


def _difference(result, draws, a, b, task):
  entry = {}
  for name in metrics_lib.METRICS:
    first, second = (result[role][task][name] for role in (a, b))
    if first["value"] is None or second["value"] is None:
      entry[name] = {"value": None, "lo": None, "hi": None,
                     "reason": first.get("reason", second.get("reason"))}
    else:
      entry[name] = _interval(first["value"] - second["value"],
                              draws[a, task][name] - draws[b, task][name], name, difference=True)
  return entry


def _patterns(table, task, modalities):
  """Test rows by pattern, largest first; a row that several seeds predicted counts once, with its
  mean prediction."""
  table = table[(table.role == "test") & table[f"y_{task}"].notna()]
  rows = table.groupby("row_id").agg(
      {"pattern": "first", f"y_{task}": "first", f"p_base_{task}": "mean", f"p_{task}": "mean"})
  found = []
  for pattern, cell in rows.groupby("pattern"):
    n, positives = len(cell), int(cell[f"y_{task}"].sum())
    lo, hi = metrics_lib.wilson(positives, n)
    found.append(dict(pattern=int(pattern), name=pattern_name(pattern, modalities),
                      missing=[m for i, m in enumerate(modalities) if not int(pattern) >> i & 1],
                      n=n, positives=positives, rate=positives / n,
                      rate_lo=lo, rate_hi=hi, predicted_base=float(cell[f"p_base_{task}"].mean()),
                      predicted=float(cell[f"p_{task}"].mean())))
  return sorted(found, key=lambda row: (-row["n"], row["pattern"]))


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
  `true` gamma, or None.

  Patterns under `min_cell` rows or past the `top` largest are pooled into one last row, without
  either.
  """
  cells = {int(c["pattern"]): c for c in _pooled(rectifier, task)["cells"]}
  true = info.get("truth", {}).get("gamma", {}).get(task, {})
  rows = [{**row, "cell": cells.get(row["pattern"]), "true": true.get(str(row["pattern"]))}
          for row in metrics["patterns"][task]]
  shown = [row for row in rows if row["n"] >= min_cell][:top]
  if rest := rows[len(shown):]:
    n, positives = (sum(row[key] for row in rest) for key in ("n", "positives"))
    lo, hi = metrics_lib.wilson(positives, n)
    few = n < min_cell   # a rate of so few rows says nothing and may point at someone
    shown.append(dict(pattern=None, name=f"other patterns ({len(rest)})", missing=(), n=n,
                      positives=None if few else positives, rate=None if few else positives / n,
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
    return ("The rectifier leaves new predictions as they are: no threshold did better on "
            "calibration patients.")
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
  """The shorter of what is present and what is absent, cut at `width`."""
  names = [row["name"]]
  if row["missing"] and row["pattern"]:
    names.append("all but " + ", ".join(row["missing"]))
  name = min(names, key=len)
  return name if len(name) <= width else name[:width - 3] + "..."


def _pattern_grid(rows):
  truth = any(row["true"] is not None for row in rows)
  grid = [["pattern", "n", "outcome rate", "gamma", *(["true gamma"] if truth else [])]]
  for row in rows:
    rate = dict(value=row["rate"], lo=row["rate_lo"], hi=row["rate_hi"])
    grid.append([pattern_label(row), str(row["n"]), interval_text(rate),
                 gamma_text(row), *([_number(row["true"], "+.3f")] if truth else [])])
  return grid


def _number(value, form):
  return "-" if value is None else f"{value:{form}}"


def _aligned(grid):
  widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
  return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
          for row in grid]
