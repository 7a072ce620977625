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
    sums = self.sums(mine)
    return self.ratios(sums.sum(0, keepdims=True) if weights is None else
                       bootstrap.totals(weights, self.patient[mine], sums))

  def sums(self, mine):
    """(n, 7) what the rates of the rows `mine` are ratios of sums of."""
    y, flag = self.y[mine], self.flagged[mine]
    return np.stack([y * flag, y, (1 - y) * flag, 1 - y, flag, np.ones_like(y),
                     y - self.p[mine]], 1)

  def ratios(self, total_Rx7):
    """The rates of totals of `sums`, (R,) each."""
    total = total_Rx7.T
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
  gaps = _gaps([cell for cell in cells if cell.told], rows, draws,
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


def _gaps(cells, rows, draws, lines, config, seed):
  found, seen = {}, {}
  for name, parts in GAPS.items():
    values, lo, hi = (np.array([[lines[cell.name][part][key] for cell in cells] for part in parts],
                               float) for key in ("value", "lo", "hi"))
    if len(cells) < 2 or np.isnan(values).any():
      found[name] = {"value": None, "lo": None, "hi": None, "expected": None, "p": None,
                     "reason": "fewer than two groups in which it is defined"}
      continue
    drawn = np.array([[draws[cell.name][part] for cell in cells] for part in parts])
    found[name], seen[name] = bootstrap.gap(values, lo, hi, drawn.transpose(2, 0, 1)), values
  for name, chance in _beside_chance(seen, rows, cells, config.permutations, seed).items():
    found[name] |= chance
  return found


def _beside_chance(seen, rows, cells, permutations, seed):
  """gap -> {"expected", "p"}, of the gaps whose values (parts, G) are `seen`. One deal serves all
  gaps of a kind. Where few permutations reach a gap more are made, up to ten times as many, so that
  its p-value can be small enough for Holm's correction (sequential as in Besag and Clifford 1991,
  doi 10.1093/biomet/78.2.301)."""
  gaps = {name: np.zeros(0) for name in seen}
  above = lambda name: np.sum(gaps[name] >= _widest(seen[name]) - 1e-12)
  for given_outcome in (False, True):
    active = [name for name in seen if (name in _GIVEN_OUTCOME) == given_outcome]
    for batch in range(_BATCHES):
      if not active:
        break
      deals = _deals(rows, cells, given_outcome, permutations, (seed, batch))
      for name, values in _chance(rows, cells, active, deals).items():
        new = _widest(values)
        gaps[name] = np.append(gaps[name], new[~np.isnan(new)])
      active = [name for name in active if len(gaps[name]) and above(name) < _ENOUGH]
  return {name: {"expected": float(v.mean()) if len(v) else None,
                 "p": float((1 + above(name)) / (1 + len(v))) if len(v) else None}
          for name, v in gaps.items()}


def _widest(values):
  """Of values (..., parts, G): largest minus smallest over groups, the largest over parts."""
  return np.ptp(values, axis=-1).max(axis=-1)


def _deals(rows, cells, given_outcome, permutations, seed):
  """Yields `permutations` times (P,) the cell that a patient of the resamples' columns is dealt,
  len(cells) where in none: the patients of the cells at random, among those of one outcome where
  `given_outcome`."""
  rng = np.random.default_rng([*seed, 0xFA12])
  nobody = len(cells)
  cell_N = np.full(len(rows.y), nobody, np.min_scalar_type(nobody))   # small: it is sorted by radix
  for g, cell in enumerate(cells):
    cell_N[cell.rows] = g
  mine = np.flatnonzero(cell_N < nobody)
  cell_P = np.full(rows.counts.shape[1], nobody, cell_N.dtype)
  cell_P[rows.patient[mine][::-1]] = cell_N[mine][::-1]   # a patient's first row decides
  outcome_P = np.zeros(len(cell_P), bool)
  if given_outcome:
    np.logical_or.at(outcome_P, rows.patient[mine], rows.y[mine] == 1)
  strata = [np.flatnonzero((cell_P < nobody) & (outcome_P == value)) for value in (False, True)]
  for _ in range(permutations):
    dealt_P = cell_P.copy()
    for at in strata:
      if len(at):
        dealt_P[at] = rng.permutation(cell_P[at])
    yield dealt_P


def _chance(rows, cells, names, deals):
  """gap -> (permutations, parts, G) the values of its parts where patients are dealt to the
  cells."""
  mine = np.any([cell.rows for cell in cells], axis=0)
  parts = {part for name in names for part in GAPS[name]}
  sums_PxK = bootstrap.by_patient(rows.patient[mine], rows.sums(mine), rows.counts.shape[1])
  ranks = [_Ranks(rows, at[mine[at]]) for at in rows.sets] if "auroc" in parts else []
  rates, areas = [], []
  for dealt_P in deals:
    total_GxK = bootstrap.by_patient(dealt_P, sums_PxK, len(cells) + 1)[:-1]
    rates.append(rows.ratios(total_GxK))
    areas.append([rank.areas(dealt_P, len(cells)) for rank in ranks])
  values = {name: np.array([found[name] for found in rates]) for name in parts - {"auroc"}}
  if ranks:
    areas = np.array(areas)   # (permutations, sets, G)
    values["auroc"] = bootstrap.mean(areas.transpose(1, 0, 2).reshape(len(ranks), -1),
                                     areas[:, 0].size).reshape(-1, len(cells))
  return {name: np.stack([values[part] for part in GAPS[name]], 1) for name in names}


class _Ranks:
  """The rows `at` of one set in the order of their predictions."""

  def __init__(self, rows, at):
    at = at[np.argsort(rows.p[at], kind="stable")]
    self.positive, self.patient = rows.y[at] == 1, rows.patient[at]
    self.run = np.cumsum(np.diff(rows.p[at], prepend=-1.0) > 0)   # equal predictions share theirs

  def areas(self, dealt_P, cells):
    """(cells,) AUROC of the patients dealt to each, ties counting half; NaN without a class."""
    cell = dealt_P[self.patient]
    order = np.argsort(cell, kind="stable")   # each cell's rows in the order of their predictions
    cell, positive, run = cell[order], self.positive[order], self.run[order]
    first = np.flatnonzero(np.r_[True, (run[1:] != run[:-1]) | (cell[1:] != cell[:-1])])
    n = np.diff(np.append(first, len(cell)))
    true = np.add.reduceat(positive, first, dtype=np.int64)
    false, at = n - true, cell[first]
    below = np.cumsum(false) - false / 2
    positives, negatives = (np.bincount(at, v, cells) for v in (true, false))
    before = np.append(0, np.cumsum(negatives)[:-1])   # the negatives of the cells before
    area = np.bincount(at, true * below, cells) - positives * before
    return np.divide(area, positives * negatives, out=np.full(cells, np.nan),
                     where=positives * negatives > 0)
