"""For whom does it hold: performance, calibration and decisions by subgroup, and the gaps between
them beside those that chance alone would give.

Groups are the predictions' columns group_<name> and, where neither of two has many levels, their
intersections. disclosure.py says what is told of small ones: levels with fewer than `min_cell`
patients are pooled, small intersections are suppressed, and of a group with fewer than `min_cell`
patients of either outcome the size alone is given, if that; as is done to those that would give
these away.

A gap is the largest minus the smallest over the groups whose outcomes are told, so it is never
negative and grows with the number of small groups: "expected" is its mean, and "p" its rank, when
patients are dealt to them at random (among patients of one outcome for rates given the outcome and
for the AUROC); "p_holm" is adjusted over all gaps of a task, for they are looked at together.
Decisions are those at the members' operating points. Gaps are defined as fairlearn defines them.
"""

import dataclasses
import itertools

import numpy as np

from crl_jax.statistics import bootstrap, compare, disclosure, metrics as metrics_lib, scoring

LEVELS = 20   # groupings with more groups are not intersected
RARE = "rarer groups"
METRICS = ("auroc", "auprc", "tpr", "fpr", "flagged", "bias", "slope")
GAPS = {"equalized_odds": ("tpr", "fpr"), "demographic_parity": ("flagged",),
        "auroc": ("auroc",), "bias": ("bias",)}
_GIVEN_OUTCOME = ("equalized_odds", "auroc")
_BATCHES, _ENOUGH = 10, 10
NOTE = ("Gaps are largest minus smallest; read them beside the gap expected by chance. Many are "
        "looked at: the p-values of Holm are adjusted over all gaps of the outcome. They describe "
        "these predictions on these patients, and name no cause.")


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
    metric: {value, lo, hi}}], "pooled": rare levels in the group RARE or beside another,
    "suppressed": intersections, "gaps": name -> {value, lo, hi, expected, p, p_holm}}}, largest
    groups first. bias: outcome rate minus mean prediction. What may not be told is null with a
    "reason"; a group whose positives are null has one too.
  """
  found = {}
  known_NxT = table[[f"y_{task}" for task in tasks]].notna().to_numpy()
  for known, sized, task in zip(known_NxT.T, disclosure.sized(known_NxT), tasks):
    rows = _Rows(table[known], patient_N[known], task, points.get(task, {}), counts_RxP, sized)
    single = {name: disclosure.groups(level_N, rows.patient, rows.y, config.min_cell)
              for name, level_N in groupings(table[known]).items()}
    crossed = {f"{a} x {b}": _crossed(rows, single[a], single[b], config.min_cell)
               for a, b in itertools.combinations(single, 2) if _differ(single[a], single[b])}
    found[task] = {
        **{name: _grouping(rows, [_Cell(g.name(g.level, RARE), g.rows, g.told) for g in groups],
                           {"pooled": sum(g.rare for g in groups), "suppressed": 0}, config, seed)
           for name, groups in single.items()},
        **{name: _grouping(rows, cells, {"pooled": 0, "suppressed": hidden}, config, seed)
           for name, (cells, hidden) in crossed.items()}}
    compare.adjust([gap for part in found[task].values() for gap in part["gaps"].values()])
  return {"min_cell": int(config.min_cell), "note": NOTE, "tasks": found}


def groupings(table):
  """name -> (N,) str of every group column."""
  return {c[len("group_"):]: table[c].astype(str).replace({"": "unknown", "nan": "unknown",
                                                           "None": "unknown"}).to_numpy()
          for c in table if c.startswith("group_")}


@dataclasses.dataclass(frozen=True, eq=False)
class _Cell:
  """A group that is shown: its rows (N,) bool, and whether their outcomes may be told."""
  name: str
  rows: np.ndarray
  told: bool


def _differ(a, b):
  """Whether two groupings are intersected."""
  return 2 <= len(a) <= LEVELS and 2 <= len(b) <= LEVELS


def _crossed(rows, first, second, least):
  """The intersections of two groupings that may be shown, and how many others have patients."""
  at_N = sum(len(second) * i * g.rows for i, g in enumerate(first)) + sum(
      i * g.rows for i, g in enumerate(second))
  counts = disclosure.counts(at_N, rows.patient, rows.y, len(first) * len(second))
  counts = counts.reshape(3, len(first), len(second))
  shown, told = disclosure.crossed(counts, *(np.array([g.told for g in groups])
                                             for groups in (first, second)), least)
  cells = [_Cell(f"{a.name(a.level, RARE)}, {b.name(b.level, RARE)}", a.rows & b.rows,
                 bool(told[i, j]))
           for i, a in enumerate(first) for j, b in enumerate(second) if shown[i, j]]
  return cells, int((~shown & (counts[0] > 0)).sum())


class _Rows:
  """The labelled test rows of a task. A row that several seeds predicted stands once per seed in
  `sets` and counts 1 / seeds. `sized`: whether sizes may be told where outcomes may not."""

  def __init__(self, table, patient_N, task, thresholds, counts_RxP, sized):
    self.sized = sized
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


def _grouping(rows, cells, hidden, config, seed):
  lines, draws = [], {}
  sizes = {cell: len(np.unique(rows.row[cell.rows])) for cell in cells}
  for cell, n in sorted(sizes.items(), key=lambda c: (-c[1], c[0].name)):
    if not cell.told:
      why = {"reason": disclosure.reason(config.min_cell)}
      lines.append({"group": cell.name, "n": n if rows.sized else None, "positives": None, **why,
                    **dict.fromkeys(METRICS, {"value": None, "lo": None, "hi": None, **why})})
      continue
    value, drawn = ({**rows.rates(cell.rows, weights),
                     **rows.ranked(cell.rows, ("auroc", "auprc", "slope"), weights)}
                    for weights in (None, rows.counts))
    draws[cell.name] = drawn
    lines.append({"group": cell.name, "n": n,
                  "positives": int(round(rows.y[cell.rows].sum() * rows.share)),
                  **{name: _entry(rows, cell.rows, name, value[name][0], drawn[name])
                     for name in METRICS}})
  gaps = _gaps(rows, [cell for cell in cells if cell.told], draws,
               {line["group"]: line for line in lines}, config, seed)
  return {"groups": lines, **hidden, "gaps": gaps}


def _entry(rows, mine, name, value, draws):
  if np.isnan(value):
    return {"value": None, "lo": None, "hi": None,
            "reason": "no operating point" if name in ("tpr", "fpr", "flagged") else
                      "not defined on these rows"}
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


def _gaps(rows, cells, draws, lines, config, seed):
  found = {}
  for name, parts in GAPS.items():
    values = np.array([[(rows.ranked(cell.rows, (part,)) if part == "auroc" else
                         rows.rates(cell.rows))[part][0] for cell in cells] for part in parts])
    if len(cells) < 2 or np.isnan(values).any():
      found[name] = {"value": None, "lo": None, "hi": None, "expected": None, "p": None,
                     "reason": "fewer than two groups in which it is defined"}
      continue
    lo, hi = (np.array([[lines[cell.name][part][end] for cell in cells] for part in parts], float)
              for end in ("lo", "hi"))
    drawn = np.array([[draws[cell.name][part] for cell in cells] for part in parts])
    found[name] = {**bootstrap.gap(values, lo, hi, drawn.transpose(2, 0, 1)),
                   **_beside_chance(_widest(values), rows, cells, parts, name in _GIVEN_OUTCOME,
                                    config.permutations, seed)}
  return found


def _beside_chance(seen, rows, cells, parts, given_outcome, permutations, seed):
  """{"expected", "p"} of a gap. Where few permutations reach the one seen more are made, up to ten
  times as many, so that its p-value can be small enough for Holm's correction (sequential as in
  Besag and Clifford 1991, doi 10.1093/biomet/78.2.301)."""
  gaps = np.zeros(0)
  for batch in range(_BATCHES):
    new = _widest(_chance(rows, cells, parts, given_outcome, permutations, (seed, batch)))
    gaps = np.append(gaps, new[~np.isnan(new)])
    if not len(gaps) or (above := np.sum(gaps >= seen - 1e-12)) >= _ENOUGH:
      break
  return {"expected": float(gaps.mean()) if len(gaps) else None,
          "p": float((1 + above) / (1 + len(gaps))) if len(gaps) else None}


def _widest(values):
  """Of values (..., parts, G): largest minus smallest over groups, the largest over parts."""
  return np.ptp(values, axis=-1).max(axis=-1)


def _chance(rows, cells, parts, given_outcome, permutations, seed):
  """(permutations, parts, G) the values when the patients of the cells are dealt to them at
  random."""
  rng = np.random.default_rng([*seed, 0xFA12])
  mine = np.any([cell.rows for cell in cells], axis=0)
  cell_N = np.argmax([cell.rows for cell in cells], axis=0)
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
  for g in range(len(cells)):
    weights = np.zeros((permutations, rows.counts.shape[1]), np.int8)
    weights[:, patient] = dealt == g
    rates = rows.rates(mine, weights)
    values.append([rows.ranked(mine, (part,), weights)[part] if part == "auroc" else rates[part]
                   for part in parts])
  return np.transpose(values, (2, 1, 0))
