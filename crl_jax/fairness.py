"""For whom does it hold: performance, calibration and decisions by subgroup, and the gaps between
them beside those that chance alone would give.

Groups are the predictions' columns group_<name> and, where neither of two has many levels, their
intersections. A cell with fewer than `min_cell` rows or patients is suppressed, and with it the
next larger one where the size of what is hidden could be had by subtraction. A metric that needs
positives (negatives) is given where a cell has `min_cell` of them.

A gap is the largest minus the smallest over the cells shown, so it is never negative and grows with
the number of small cells: "expected" is its mean, and "p" its rank, when patients are dealt to the
groups at random (among patients of one outcome for rates given the outcome and for the AUROC).
Decisions are those at the members' operating points. Gaps are defined as fairlearn defines them.
"""

import itertools

import numpy as np

from crl_jax import bootstrap, metrics as metrics_lib, scoring

LEVELS = 20   # groupings with more levels are not intersected
METRICS = ("auroc", "auprc", "tpr", "fpr", "flagged", "bias", "slope")
GAPS = {"equalized_odds": ("tpr", "fpr"), "demographic_parity": ("flagged",),
        "auroc": ("auroc",), "bias": ("bias",)}
_GIVEN_OUTCOME = ("equalized_odds", "auroc")
NOTE = ("Gaps are largest minus smallest; read them beside the gap expected by chance. They "
        "describe these predictions on these patients, and name no cause.")


def study(table, tasks, config, counts_RxP, patient_N, points, seed):
  """Subgroup results on the test rows of a predictions table.

  Args:
    table: DataFrame of N test rows, with y_<task>, p_<task> and group_<name>; without group columns
      the result is empty.
    tasks: T names.
    config: config.evaluate.
    counts_RxP: (R, P) how often each patient was drawn.
    patient_N: (N,) their patients' columns in it.
    points: task -> (fold, seed) -> threshold; where it is empty nobody's decision is known.
    seed: int, of the permutations.
  Returns:
    {"min_cell", "note", "tasks": task -> grouping -> {"groups": [{"group", "n", "positives",
    metric: {value, lo, hi}}], "suppressed": cells, "gaps": name -> {value, lo, hi, expected, p}}},
    largest groups first. bias: outcome rate minus mean prediction. Counts of positives under
    min_cell, except 0, are null.
  """
  found = {}
  for task in tasks:
    known = table[f"y_{task}"].notna().to_numpy()
    rows = _Rows(table[known], patient_N[known], task, points.get(task, {}), counts_RxP)
    found[task] = {name: _grouping(rows, level_N, config, seed)
                   for name, level_N in groupings(table[known]).items()}
  return {"min_cell": int(config.min_cell), "note": NOTE, "tasks": found}


def groupings(table):
  """name -> (N,) str of every group column, and of the pairs that neither have many levels nor say
  the same."""
  single = {c[len("group_"):]: table[c].astype(str).replace({"": "unknown", "nan": "unknown",
                                                             "None": "unknown"}).to_numpy()
            for c in table if c.startswith("group_")}
  few = [name for name, level in single.items() if 2 <= len(np.unique(level)) <= LEVELS]
  pairs = {f"{a} x {b}": np.array([f"{x}, {y}" for x, y in zip(single[a], single[b])], dtype=object)
           for a, b in itertools.combinations(few, 2)}
  return {**single, **pairs}


class _Rows:
  """The labelled test rows of a task. A row that several seeds predicted stands once per seed in
  `sets` and counts 1 / seeds."""

  def __init__(self, table, patient_N, task, thresholds, counts_RxP):
    self.y = table[f"y_{task}"].to_numpy(np.float64)
    self.p = table[f"p_{task}"].to_numpy(np.float64)
    self.row, self.patient, self.counts = table.row_id.to_numpy(), patient_N, counts_RxP
    self.sets = scoring.sets_of(table, "test")
    cut = [thresholds.get(key, np.nan) for key in zip(table.fold.to_numpy(), table.seed.to_numpy())]
    self.flagged = np.where(np.isnan(cut), np.nan, self.p >= np.array(cut, float))
    self.share = 1 / max(1, len(self.sets))

  def rates(self, mine, weights=None):
    """tpr, fpr, flagged and bias of the rows `mine`, (R,) each, under weights (R, P) of the
    patients."""
    y, flag = self.y[mine], self.flagged[mine]
    sums = np.stack([y * flag, y, (1 - y) * flag, 1 - y, flag, np.ones_like(y),
                     y - self.p[mine]], 1)
    total = (sums.sum(0, keepdims=True) if weights is None else
             bootstrap.totals(weights, self.patient[mine], sums)).T
    divide = lambda a, b: np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
    return dict(tpr=divide(*total[:2]), fpr=divide(*total[2:4]), flagged=divide(*total[4:6]),
                bias=divide(total[6], total[5]))

  def ranked(self, mine, names, weights=None):
    """The metrics `names` of the rows `mine`: the mean over the sets, (R,) each."""
    found = []
    for rows in self.sets:
      rows = rows[mine[rows]]
      index = None if weights is None else self.patient[rows]
      found.append(metrics_lib.scores(self.y[rows], self.p[rows], weights, index, only=names))
    length = 1 if weights is None else len(weights)
    return {name: bootstrap.mean([f[name] for f in found], length) for name in names}


def _grouping(rows, level_N, config, seed):
  levels, cell_N = np.unique(level_N, return_inverse=True)
  shown, hidden = _shown(rows, cell_N, len(levels), config.min_cell)
  cells, draws, need = [], {}, {}
  for g in shown:
    mine = cell_N == g
    n = len(np.unique(rows.row[mine]))
    positives = int(round(rows.y[mine].sum() * rows.share))
    need[g] = _enough(n, positives, config.min_cell)
    value = {**rows.rates(mine), **rows.ranked(mine, ("auroc", "auprc", "slope"))}
    draws[g] = {**rows.rates(mine, rows.counts),
                **rows.ranked(mine, ("auroc", "auprc", "slope"), rows.counts)}
    cells.append({"group": str(levels[g]), "n": n,
                  "positives": None if 0 < positives < config.min_cell else positives,
                  **{name: _entry(rows, mine, name, value[name][0], draws[g][name], need[g][name])
                     for name in METRICS}})
  gaps = _gaps(rows, cell_N, shown, need, draws, config, seed)
  return {"groups": sorted(cells, key=lambda c: (-c["n"], c["group"])), "suppressed": hidden,
          "gaps": gaps}


def _shown(rows, cell_N, cells, least):
  """Numbers of the cells that are large enough, and how many are suppressed."""
  size = lambda ids: np.bincount(np.unique(np.stack([cell_N, ids], 1), axis=0)[:, 0],
                                 minlength=cells)
  n = size(rows.row)
  large = (n >= least) & (size(rows.patient) >= least)
  small = n[~large]
  if large.any() and len(small) and (len(small) == 1 or small.sum() < least):
    large[np.flatnonzero(large)[np.argmin(n[large])]] = False
  return np.flatnonzero(large), int((~large).sum())


def _enough(n, positives, least):
  """metric -> None, or why a cell cannot say."""
  few = lambda count, what: None if count >= least else f"fewer than {least} {what}"
  positive, negative = few(positives, "positives"), few(n - positives, "negatives")
  both = positive or negative
  return dict(auroc=both, auprc=both, slope=both, tpr=positive, fpr=negative, flagged=None,
              bias=None)


def _entry(rows, mine, name, value, draws, reason):
  if reason or np.isnan(value):
    return {"value": None, "lo": None, "hi": None,
            "reason": reason or ("no operating point" if name in ("tpr", "fpr", "flagged") else
                                 "not defined on these rows")}
  if name in ("tpr", "fpr", "flagged"):
    among = mine & (rows.y == {"tpr": 1, "fpr": 0}[name]) if name != "flagged" else mine
    lo, hi = proportion(rows.flagged[among], rows.row[among], rows.patient[among])
    return {"value": float(value), "lo": lo, "hi": hi}
  return bootstrap.interval(value, draws, floor=None if name in ("bias", "slope") else 0.0)


def proportion(flag, row, patient):
  """Wilson's 95% interval of the mean of `flag`, with as many rows as the correlation within
  patients leaves (n over the design effect; Korn and Graubard 1998)."""
  row, first, at = np.unique(row, return_index=True, return_inverse=True)
  value = np.bincount(at, flag) / np.bincount(at)   # of a row that several seeds predicted
  n, rate = len(row), value.mean()
  _, who = np.unique(patient[first], return_inverse=True)
  clusters = who.max() + 1
  spread = np.sum(np.bincount(who, value - rate) ** 2) / n**2
  binomial = rate * (1 - rate) / n
  effective = n / max(1.0, spread / binomial) if binomial > 0 else clusters
  return tuple(float(v) for v in metrics_lib.wilson(rate * effective, effective))


def _gaps(rows, cell_N, shown, need, draws, config, seed):
  found = {}
  for name, parts in GAPS.items():
    cells = {part: [g for g in shown if need[g][part] is None] for part in parts}
    cells = {part: groups for part, groups in cells.items() if len(groups) > 1}
    values = [(rows.ranked(cell_N == g, (part,)) if part == "auroc" else
               rows.rates(cell_N == g))[part][0] for part, groups in cells.items() for g in groups]
    widest = _widest(cells)
    if not cells or np.isnan(gap := widest(np.array(values))):
      found[name] = {"value": None, "lo": None, "hi": None, "expected": None, "p": None,
                     "reason": "fewer than two groups in which it is defined"}
      continue
    drawn = np.stack([draws[g][part] for part, groups in cells.items() for g in groups], 1)
    chance = widest(_chance(rows, cell_N, cells, name in _GIVEN_OUTCOME, config.permutations, seed))
    chance = chance[~np.isnan(chance)]
    found[name] = {**bootstrap.magnitude(np.array(values), drawn, widest),
                   "expected": float(chance.mean()) if len(chance) else None,
                   "p": float((1 + np.sum(chance >= gap - 1e-12)) / (1 + len(chance)))}
  return found


def _widest(cells):
  """A function from values (..., G) of all parts' cells, one part after another, to (...): largest
  minus smallest over the cells of a part, then the largest over the parts."""
  ends = np.cumsum([len(groups) for groups in cells.values()])[:-1]
  return lambda values: np.max([np.ptp(v, axis=-1) for v in np.split(values, ends, axis=-1)], axis=0)


def _chance(rows, cell_N, cells, given_outcome, permutations, seed):
  """(permutations, G) the values when the patients of the cells are dealt to them at random."""
  rng = np.random.default_rng([seed, 0xFA12])
  mine = np.isin(cell_N, np.unique(np.concatenate([*cells.values()]).astype(int)))
  patient, who = np.unique(rows.patient[mine], return_inverse=True)
  cell_P = np.zeros(len(patient), int)
  cell_P[who[::-1]] = cell_N[mine][::-1]   # a patient's first row decides
  stratum_P = np.zeros(len(patient))
  if given_outcome:
    np.maximum.at(stratum_P, who, rows.y[mine])
  dealt = np.empty((permutations, len(patient)), int)
  for dealt_P in dealt:
    for s in np.unique(stratum_P):
      at = np.flatnonzero(stratum_P == s)
      dealt_P[at] = cell_P[rng.permutation(at)]
  values = []
  for part, groups in cells.items():
    for g in groups:
      weights = np.zeros((permutations, rows.counts.shape[1]), np.int8)
      weights[:, patient] = dealt == g
      values.append((rows.ranked(mine, (part,), weights) if part == "auroc" else
                     rows.rates(mine, weights))[part])
  return np.stack(values, 1)
