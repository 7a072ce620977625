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

Where patients are many (bootstrap.Limit), in every group, intervals and the gap of chance are those
of the normal limit; a group of fewer is resampled, and then patients are dealt.
"""

import dataclasses
import itertools

import numpy as np

from crl_jax.statistics import (bootstrap, compare, disclosure, influence, metrics as metrics_lib,
                                scoring)

LEVELS = 20   # groupings with more groups are not intersected
RARE = "rarer groups"
METRICS = ("auroc", "auprc", "tpr", "fpr", "flagged", "bias", "slope")
GAPS = {"equalized_odds": ("tpr", "fpr"), "demographic_parity": ("flagged",),
        "auroc": ("auroc",), "bias": ("bias",)}
_GIVEN_OUTCOME = ("equalized_odds", "auroc")
_RANKED = ("auroc", "auprc", "slope")
# columns of _Rows.sums
_OF = {"tpr": (0, 1), "fpr": (2, 3), "flagged": (4, 5), "bias": (6, 5)}
_BATCHES, _ENOUGH = 10, 10
NOTE = ("Gaps are largest minus smallest; read them beside the gap expected by chance. Many are "
        "looked at: the p-values of Holm are adjusted over all gaps of the outcome. They describe "
        "these predictions on these patients, and name no cause.")


def study(table, tasks, config, counts_RxP, patient_N, points, seed, prefix="p_"):
  """Subgroup results on the test rows of a predictions table.

  Args:
    table: DataFrame of N test rows, with y_<task>, <prefix><task> and group_<name>; without group
      columns the result is empty.
    tasks: T names.
    config: config.evaluate.
    counts_RxP: (R, P) how often each patient was drawn, or the Limit of many patients.
    patient_N: (N,) their patients' columns in it.
    points: task -> (fold, seed) -> threshold; where it is empty nobody's decision is known.
    seed: int, of the permutations.
    prefix: of the predictor's columns.
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
    rows = _Rows(table[known], patient_N[known], task, points.get(task, {}), counts_RxP, sized,
                 prefix)
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

  def __init__(self, table, patient_N, task, thresholds, counts_RxP, sized, prefix="p_"):
    self.sized = sized
    self.y = table[f"y_{task}"].to_numpy(np.float64)
    self.p = table[f"{prefix}{task}"].to_numpy(np.float64)
    self.row, self.patient, self.counts = table.row_id.to_numpy(), patient_N, counts_RxP
    self.limit = counts_RxP if isinstance(counts_RxP, bootstrap.Limit) else None
    self.patients = self.limit.patients if self.limit else counts_RxP.shape[1]
    self.sets = scoring.sets_of(table, "test")
    cut = scoring.cuts(table, thresholds)
    self.flagged = np.where(np.isnan(cut), np.nan, self.p >= cut)
    self.share = 1 / max(1, len(self.sets))

  def rates(self, mine, weights=None, index=None):
    """tpr, fpr, flagged and bias of the rows `mine`, (R,) each, under weights (R, P) of the
    patients, `index` (n,) of them those of the rows."""
    sums = self.sums(mine)
    return self.ratios(sums.sum(0, keepdims=True) if weights is None else
                       bootstrap.totals(weights, self.patient[mine] if index is None else index,
                                        sums))

  def sums(self, mine):
    """(n, 7) what the rates of the rows `mine` are ratios of sums of."""
    y, flag = self.y[mine], self.flagged[mine]
    return np.stack([y * flag, y, (1 - y) * flag, 1 - y, flag, np.ones_like(y),
                     y - self.p[mine]], 1)

  def ratios(self, total_Rx7):
    """The rates of totals of `sums`, (R,) each."""
    total = total_Rx7.T
    divide = lambda a, b: np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
    return {name: divide(total[a], total[b]) for name, (a, b) in _OF.items()}

  def holds(self, mine):
    """Whether the normal limit is used on the rows `mine`."""
    return self.limit is not None and self.limit.holds(self.y[mine], self.patient[mine])

  def influences(self, mine, names):
    """name -> (n,) influences of the rows `mine` in a rate or, the mean over the sets in which it
    is defined, in a metric; by a name that is undefined there are none."""
    sums, at = self.sums(mine), np.cumsum(mine) - 1   # at: of the rows among `mine`
    found = {name: influence.ratio(sums[:, a], sums[:, b]) for name, (a, b) in _OF.items()
             if name in names and sums[:, b].sum() > 0}
    each = []
    for rows in self.sets if set(names) & set(_RANKED) else []:
      rows = rows[mine[rows]]
      if len(rows):
        each.append((at[rows], influence.scores(self.y[rows], self.p[rows])))
    for name in [name for name in names if name in _RANKED]:
      known = [(rows, psi[name]) for rows, psi in each if name in psi]
      if known:
        found[name] = np.zeros(len(sums))
        for rows, psi in known:
          found[name][rows] += psi / len(known)
    return found

  def drawn(self, mine, value, stream):
    """metric -> (R,) draws and metric -> standard error (no entry where it was resampled) of the
    rows `mine`, whose values are `value`, metric -> (1,)."""
    if self.holds(mine):
      own, index = np.unique(self.patient[mine], return_inverse=True)
      psi = self.influences(mine, METRICS)
      psi_PxK = bootstrap.by_patient(index, np.stack(
          [psi.get(name, np.zeros(len(index))) for name in METRICS], 1), len(own))
      covariance = psi_PxK.T @ psi_PxK
      draws_RxK = self.limit.draws(np.array([value[name][0] for name in METRICS]), covariance,
                                   stream)
      return dict(zip(METRICS, draws_RxK.T)), dict(zip(METRICS, np.sqrt(np.diag(covariance))))
    counts, index = self.counts, self.patient[mine]
    if self.limit:
      counts, index = self.limit.few(index)
    every = np.zeros(len(self.y), int)
    every[mine] = index
    return {**self.rates(mine, counts, index), **self.ranked(mine, _RANKED, counts, every)}, {}

  def ranked(self, mine, names, weights=None, every=None):
    """The metrics `names` of the rows `mine`: the mean over the sets, (R,) each, under weights
    (R, P) of the patients, `every` (N,) of them those of the rows."""
    found = []
    for rows in self.sets if names else []:
      rows = rows[mine[rows]]
      index = None if weights is None else every[rows]
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
    value = {**rows.rates(cell.rows), **rows.ranked(cell.rows, _RANKED)}
    draws[cell.name], se = rows.drawn(cell.rows, value, 1 + len(lines))
    lines.append({"group": cell.name, "n": n,
                  "positives": int(round(rows.y[cell.rows].sum() * rows.share)),
                  **{name: _entry(rows, cell.rows, name, value[name][0], draws[cell.name][name],
                                  se.get(name)) for name in METRICS}})
  gaps = _gaps([cell for cell in cells if cell.told], rows, draws,
               {line["group"]: line for line in lines}, config, seed)
  return {"groups": lines, **hidden, "gaps": gaps}


def _entry(rows, mine, name, value, draws, se):
  if np.isnan(value):
    return {"value": None, "lo": None, "hi": None,
            "reason": "no operating point" if name in ("tpr", "fpr", "flagged") else
                      "not defined on these rows"}
  if name in ("tpr", "fpr", "flagged"):
    among = mine & (rows.y == {"tpr": 1, "fpr": 0}[name]) if name != "flagged" else mine
    lo, hi = proportion(rows.flagged[among], rows.row[among], rows.patient[among])
    return {"value": float(value), "lo": lo, "hi": hi}
  floor = None if name in ("bias", "slope") else 0.0
  return (bootstrap.interval(value, draws, floor) if se is None else
          bootstrap.normal(value, se, floor, share=name in ("auroc", "auprc")))


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
    drawn = [[draws[cell.name][part] for cell in cells] for part in parts]
    least = min(len(v) for part in drawn for v in part)   # a group of many patients may have fewer
    drawn = np.array([[v[:least] for v in part] for part in drawn])
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
  limit = all(rows.holds(cell.rows) for cell in cells)
  above = lambda name: np.sum(gaps[name] >= _widest(seen[name]) - 1e-12)
  for given_outcome in (False, True):
    active = [name for name in seen if (name in _GIVEN_OUTCOME) == given_outcome]
    for batch in range(_BATCHES):
      if not active:
        break
      make = _chance_limit if limit else _chance
      for name, values in make(rows, cells, active, given_outcome, permutations,
                               (seed, batch)).items():
        new = _widest(values)
        gaps[name] = np.append(gaps[name], new[~np.isnan(new)])
      active = [name for name in active if len(gaps[name]) and above(name) < _ENOUGH]
  return {name: {"expected": float(v.mean()) if len(v) else None,
                 "p": float((1 + above(name)) / (1 + len(v))) if len(v) else None}
          for name, v in gaps.items()}


def _widest(values):
  """Of values (..., parts, G): largest minus smallest over groups, the largest over parts."""
  return np.ptp(values, axis=-1).max(axis=-1)


class _Dealt:
  """Who is dealt to the cells: `cell_P` (P,) the cell of each patient of the resamples' columns,
  len(cells) where in none, and `strata`, the patients among whom they are dealt: those of one
  outcome where `given_outcome`."""

  def __init__(self, rows, cells, given_outcome):
    nobody = len(cells)
    cell_N = np.full(len(rows.y), nobody, np.min_scalar_type(nobody))   # small: sorted by radix
    for g, cell in enumerate(cells):
      cell_N[cell.rows] = g
    self.mine = cell_N < nobody
    at = np.flatnonzero(self.mine)
    self.cell_P = np.full(rows.patients, nobody, cell_N.dtype)
    self.cell_P[rows.patient[at][::-1]] = cell_N[at][::-1]   # a patient's first row decides
    outcome_P = np.zeros(rows.patients, bool)
    if given_outcome:
      outcome_P[rows.patient[at][rows.y[at] == 1]] = True
    self.strata = [among for value in (False, True) if len(among := np.flatnonzero(
        (self.cell_P < nobody) & (outcome_P == value)))]


def _deals(dealt, permutations, seed):
  """Yields `permutations` times `cell_P` where the patients of each stratum have changed places at
  random."""
  rng = np.random.default_rng([*seed, 0xFA12])
  for _ in range(permutations):
    cell_P = dealt.cell_P.copy()
    for at in dealt.strata:
      cell_P[at] = rng.permutation(dealt.cell_P[at])
    yield cell_P


def _chance(rows, cells, names, given_outcome, permutations, seed):
  """gap -> (permutations, parts, G) the values of its parts where patients are dealt to the
  cells."""
  dealt = _Dealt(rows, cells, given_outcome)
  mine, parts = dealt.mine, {part for name in names for part in GAPS[name]}
  sums_PxK = bootstrap.by_patient(rows.patient[mine], rows.sums(mine), rows.patients)
  ranks = [_Ranks(rows, at[mine[at]]) for at in rows.sets] if "auroc" in parts else []
  rates, areas = [], []
  for cell_P in _deals(dealt, permutations, seed):
    total_GxK = bootstrap.by_patient(cell_P, sums_PxK, len(cells) + 1)[:-1]
    rates.append(rows.ratios(total_GxK))
    areas.append([rank.areas(cell_P, len(cells)) for rank in ranks])
  values = {name: np.array([found[name] for found in rates]) for name in parts - {"auroc"}}
  if ranks:
    areas = np.array(areas)   # (permutations, sets, G)
    values["auroc"] = bootstrap.mean(areas.transpose(1, 0, 2).reshape(len(ranks), -1),
                                     areas[:, 0].size).reshape(-1, len(cells))
  return {name: np.stack([values[part] for part in GAPS[name]], 1) for name in names}


def _chance_limit(rows, cells, names, given_outcome, permutations, seed):
  """`_chance` of many patients. A cell with n_s of the P_s patients of stratum s has, to first
  order, the value under the weights n_s / P_s, plus the sum over strata of P_s times the mean
  influence of those dealt to it; such means are normal, with covariance S_s (1 / n_s - 1 / P_s)
  within a cell and -S_s / P_s between two, S_s that of the influences in the stratum."""
  dealt = _Dealt(rows, cells, given_outcome)
  mine, parts = dealt.mine, sorted({part for name in names for part in GAPS[name]})
  psi = rows.influences(mine, parts)
  psi_PxK = bootstrap.by_patient(rows.patient[mine], np.stack([psi[part] for part in parts], 1),
                                 rows.patients)
  n_SxG = np.stack([np.bincount(dealt.cell_P[at], minlength=len(cells)) for at in dealt.strata])
  values = np.empty((permutations, len(cells), len(parts)))
  for g, n_S in enumerate(n_SxG.T):
    weights_P = np.zeros((1, rows.patients))
    for at, n in zip(dealt.strata, n_S):
      weights_P[:, at] = n / len(at)
    value = {**rows.rates(mine, weights_P),
             **rows.ranked(mine, [p for p in parts if p in _RANKED], weights_P, rows.patient)}
    values[:, g] = [value[part][0] for part in parts]
  rng = np.random.default_rng([*seed, 0xFA12])
  for at, n_G in zip(dealt.strata, n_SxG):
    size = len(at)
    root = bootstrap.normals(rng, permutations * len(cells), np.cov(psi_PxK[at].T).reshape(
        2 * (len(parts),))).reshape(values.shape)
    mean = np.divide(root, np.sqrt(n_G)[:, None], out=np.zeros_like(root), where=n_G[:, None] > 0)
    values += size * (mean - np.einsum("g,rgk->rk", n_G / size, mean)[:, None])
  return {name: np.stack([values[..., parts.index(part)] for part in GAPS[name]], 1)
          for name in names}


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
