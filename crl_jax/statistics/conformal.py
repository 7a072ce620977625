"""Prediction sets for one patient: split conformal prediction, calibrated per outcome and
missingness pattern.

A label's nonconformity is 1 minus its predicted probability. Its p-value for a new row is the share
of calibration patients of the row's category (Mondrian; Vovk et al. 2005, section 4.5) at least as
nonconforming, the new row itself counted; the set at level alpha holds the labels with a p-value
above alpha. On average over draws of both, it misses the outcome of at most a share alpha of the
patients of a category, whatever the model, provided that calibration and new patients are
exchangeable. A patient's rows share the weight of one (Lee, Barber and Willett 2023, arXiv
2306.06342): coverage is that of a random row of a new patient.

By default a label is compared with calibration patients who had that outcome (Mondrian by class;
Vovk 2012, arXiv 1209.2673), so the sick are covered as the well are; without, with all of them, and
where the outcome is rare the sets may buy their coverage by leaving the events out.

Categories are patterns. Those with too few patients are merged into one; whether a pattern has too
few is read off the calibration and the new rows together, without outcomes, which keeps the two
exchangeable. Where even the merged category has fewer than 1 / alpha - 1 calibration patients,
every set holds both labels. The base predictions are used: validation rows had no part in them but
in choosing when to stop, for which coverage is only about as promised, whereas the rectifier is
fitted on their outcomes.
"""

import numpy as np

from crl_jax.data.cohort import pattern_name
from crl_jax.statistics import disclosure, metrics as metrics_lib, scoring

MERGED = -1   # the category of all rare patterns


def categories(pattern, patient, calibration, least):
  """The category of each row: its pattern, or MERGED where the pattern has too few patients.

  Args:
    pattern, patient: (N,) ids, of calibration and new rows together.
    calibration: (N,) bool.
    least: calibration patients that a pattern must be expected to have: its patients in all rows
      times the share of the patients who are in calibration.
  Returns:
    (N,) int64.
  """
  pattern, patient = np.asarray(pattern, np.int64), np.asarray(patient)
  patients, who = np.unique(patient, return_inverse=True)
  share = len(np.unique(who[calibration])) / max(len(patients), 1)
  ids, at = np.unique(pattern, return_inverse=True)
  pairs = np.unique(at * len(patients) + who)
  count = np.bincount(pairs // max(len(patients), 1), minlength=len(ids))
  return np.where(count * share >= least, ids, MERGED)[at]


def p_values(score, category, patient, score_new, category_new):
  """Conformal p-values (n, L) of the nonconformities `score_new` (n, L) of L labels.

  Args:
    score: (N,) nonconformity of the calibration rows with their outcomes.
    category: (N,) their categories; category_new: (n,).
    patient: (N,) ids; the rows of a patient in a category weigh 1 together.
  """
  score_new = np.asarray(score_new, np.float64)
  found = np.ones(score_new.shape)
  known, at = np.unique(np.concatenate([category, category_new]), return_inverse=True)
  held, fresh = (disclosure.positions(v, len(known)) for v in np.split(at, [len(category)]))
  for mine, new in zip(held, fresh):
    _, who, rows = np.unique(patient[mine], return_inverse=True, return_counts=True)
    order = np.argsort(score[mine])
    ordered, weight = score[mine][order], (1 / rows[who])[order]
    above = np.append(np.cumsum(weight[::-1])[::-1], 0)   # weight from here up
    at_least = above[np.searchsorted(ordered, score_new[new] - 1e-12)]
    found[new] = (1 + at_least) / (1 + len(rows))
  return found


def add(table, tasks, config):
  """Adds columns conformal_<task>_0 and conformal_<task>_1, the p-values of either label, to the
  test rows of a predictions table (NaN on others); each member is calibrated on its own labelled
  validation rows.

  Args:
    table: DataFrame of predictions.parquet.
    tasks: T names.
    config: config.evaluate; `calibrate` and `by_class` are read.
  Returns:
    DataFrame with 2 T more columns, and `category_<task>`: the pattern, or MERGED where it is for
    either label.
  """
  from crl_jax.statistics import predictions   # loads pandas, which who gives a table has loaded

  added = {}
  for task in tasks:
    y, p = (table[name].to_numpy(np.float64) for name in (f"y_{task}", f"p_base_{task}"))
    value, category = np.full((len(table), 2), np.nan), np.full(len(table), MERGED, np.int64)
    role, pattern = table.role.to_numpy(), table.pattern.to_numpy()
    patient = table.patient_id.to_numpy()
    for rows in scoring.members_of(table).values():
      rows = rows[(role[rows] == "test") | (role[rows] == "val") & ~np.isnan(y[rows])]
      val = role[rows] == "val"
      held, new = rows[val], rows[~val]
      wrong = np.where(y[held] == 1, 1 - p[held], p[held])
      # a label whose patients are a third needs patterns three times as large
      least = {label: config.calibrate for label in (0, 1)}
      if config.by_class:
        everybody = max(len(np.unique(patient[held])), 1)
        least = {label: config.calibrate * everybody / max(
            len(np.unique(patient[held][y[held] == label])), 1e-9) for label in (0, 1)}
      merged = np.zeros(len(rows), bool)
      for label in (0, 1):
        mine = categories(pattern[rows], patient[rows], val, least[label])
        merged |= mine == MERGED
        alike = y[held] == label if config.by_class else np.ones(len(held), bool)
        value[new, label] = p_values(
            wrong[alike], mine[val][alike], patient[held][alike],
            np.abs(label - p[new])[:, None], mine[~val])[:, 0]
      category[rows] = np.where(merged, MERGED, pattern[rows])
    added |= {f"conformal_{task}_{label}": value[:, label] for label in (0, 1)}
    added[f"category_{task}"] = category
  return predictions.with_columns(table, added)


def of_new(calibration, table, tasks, config):
  """The columns of add() for new patients, whose predictions are the members' average: calibrated
  on the validation rows of all members together.

  Args:
    calibration: a run's predictions table.
    table: lines of role "test" with p_base_<task>; y_<task> is not looked at.
    tasks, config: as add().
  Returns:
    `table` with more columns.
  """
  import pandas as pd
  columns = ["role", "pattern", "patient_id", *(f"{name}_{task}" for task in tasks
                                                for name in ("y", "p_base"))]
  both = pd.concat([calibration.loc[calibration.role == "val", columns], table[columns]],
                   ignore_index=True).assign(fold=0, seed=0)
  added = add(both, tasks, config).iloc[len(both) - len(table):]
  return table.assign(**{name: added[name].to_numpy() for name in added if name not in both})


def study(table, tasks, modalities, config):
  """Coverage and size of the sets of a table that `add` returned, over all and per pattern.

  Returns:
    {"alpha", "by_class", "rule", "tasks": task -> {"coverage": {value, lo, hi}, "size", "both",
    "single", "empty": shares, "positives_covered", "negatives_covered", "n", "patients", "classes":
    [the same per outcome, 0 first, with "label"], "patterns": [the same per pattern, with
    "pattern", "name", "rare" (how many rarer ones are among them), "merged", "calibration_patients"
    (a member's mean)], largest first, "suppressed": how many are left out}}. Shares weigh patients
    alike; coverage is null where outcomes may not be told, and a pattern left out where its size
    may not be either (see disclosure.py).
  """
  alpha = float(config.alpha)
  found = {"alpha": alpha, "by_class": bool(config.by_class), "rule": _rule(alpha, config),
           "tasks": {}}
  known = table[[f"y_{task}" for task in tasks]].notna().to_numpy()
  sized = disclosure.sized(known[(table.role == "test").to_numpy()])
  for task, known_N, may in zip(tasks, known.T, sized):
    test, val = (table[(table.role == role) & known_N] for role in ("test", "val"))
    sets = _Sets(test, task, alpha)
    entry = sets.cell(np.arange(len(test)))
    entry["classes"] = [_of_class(sets, label, config.min_cell) for label in (0, 1)]
    groups = disclosure.groups(test.pattern, test.patient_id, test[f"y_{task}"], config.min_cell)
    shown = [g for g in groups if g.told or may]
    patterns, entry["suppressed"] = [], len(groups) - len(shown)
    members = max(1, len(scoring.members_of(test)))
    calibration = _Calibration(val, task)
    # of sets that hold the same outcome the coverage is its rate
    withheld = {"positives_covered": None, "negatives_covered": None, "coverage": {
        "value": None, "lo": None, "hi": None, "reason": disclosure.reason(config.min_cell)}}
    for g in shown:
      categories_ = np.unique(sets.category[g.positions])
      patterns.append({
          "pattern": None if g.level is None else int(g.level), "rare": g.rare,
          "name": g.name("" if g.level is None else pattern_name(g.level, modalities),
                         "rarer patterns"), "merged": MERGED in categories_,
          "calibration_patients": calibration.patients(categories_) / members if may else None,
          **sets.cell(g.positions), **({} if g.told else withheld)})
    entry["patterns"] = sorted(patterns, key=lambda row: -row["n"])
    found["tasks"][task] = entry
  return found


def _rule(alpha, config):
  """What the sets promise, in words."""
  whom, among, few = (
      (", of those with the outcome and of those without,", " with the outcome in question",
       " with an outcome every set holds it") if config.by_class else
      ("", "", " every set holds both labels"))
  return (
      f"Sets are made to miss the outcome of about {alpha:.0%} of the patients of a category{whom} "
      "or of fewer, on average over draws of the patients. A category is a pattern expected to "
      f"have {config.calibrate} calibration patients{among} or more; all rarer ones share one "
      "category and are covered only together, so one of them may be missed more often. With fewer "
      f"than {int(np.ceil(1 / alpha - 1 - 1e-9))} calibration patients{few}. "
      "Base predictions, calibrated on each member's validation patients, who also chose when "
      "its training stopped: hence 'about'.")


def _of_class(sets, label, least):
  """_Sets.cell of the patients with an outcome; told of `least` of them or more."""
  cell = {"label": label, **sets.cell(np.flatnonzero(sets.y == label))}
  if cell["patients"] < least and cell["n"]:
    cell |= {key: None for key in ("both", "single", "empty", "size", "positives_covered",
                                   "negatives_covered")}
    cell["coverage"] = {"value": None, "lo": None, "hi": None, "reason": disclosure.reason(least)}
  return cell


class _Calibration:
  """The calibration rows of a task by category, to be asked how many patients they are."""

  def __init__(self, val, task):
    # a patient counts once in a member
    patients, who = np.unique(val.patient_id.to_numpy(), return_inverse=True)
    codes = val.groupby(["fold", "seed"]).ngroup().to_numpy() * len(patients) + who
    self.known, at = np.unique(val[f"category_{task}"].to_numpy(), return_inverse=True)
    self.codes = [np.unique(codes[rows]) for rows in disclosure.positions(at, len(self.known))]

  def patients(self, categories_):
    """Patients of any of the categories (n,), summed over members."""
    at = np.searchsorted(self.known, categories_)
    found = [self.codes[i] for i, c in zip(at, categories_)
             if i < len(self.known) and self.known[i] == c]
    if not found:
      return 0
    most = max(found, key=len)   # searched rather than gone through: many patterns share MERGED
    others = [codes for codes in found if codes is not most]
    others = np.unique(np.concatenate(others or [most[:0]]))
    near = np.minimum(np.searchsorted(most, others), len(most) - 1)
    return len(most) + int(np.sum(most[near] != others))


class _Sets:
  """The prediction sets of a task's test rows, as arrays: a pattern is a slice of them."""

  def __init__(self, test, task, alpha):
    self.y, self.category = (test[f"{name}_{task}"].to_numpy() for name in ("y", "category"))
    self.zero, self.one = (test[f"conformal_{task}_{label}"].to_numpy() > alpha
                           for label in (0, 1))
    self.row, self.patient = test.row_id.to_numpy(), test.patient_id.to_numpy()

  def cell(self, rows):
    """Coverage and size over the rows (n,); a patient's rows share the weight of one. The interval
    is Wilson's with patients for n: conservative where a patient has several rows."""
    y, zero, one = self.y[rows], self.zero[rows], self.one[rows]
    patients, who = np.unique(self.patient[rows], return_inverse=True)
    weight = 1 / np.bincount(who)[who] if len(rows) else np.ones(0)
    share = lambda v, among=1.0: (float((v * among * weight).sum() / total)
                                  if (total := np.sum(among * weight)) > 0 else None)
    covered = np.where(y == 1, one, zero)
    value = share(covered)
    lo, hi = (None, None) if value is None else metrics_lib.wilson(value * len(patients),
                                                                   len(patients))
    coverage = {"value": value, "lo": lo, "hi": hi}
    if value is None:
      coverage["reason"] = "no row with this outcome"
    return {"n": len(np.unique(self.row[rows])), "patients": len(patients), "coverage": coverage,
            "positives_covered": share(covered, y == 1),
            "negatives_covered": share(covered, y == 0), "both": share(zero & one),
            "single": share(zero != one), "empty": share(~zero & ~one),
            "size": share(zero.astype(float) + one)}
