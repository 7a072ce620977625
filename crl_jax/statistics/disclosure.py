"""Which numbers of small groups may be told, so that no one's outcome can be read off a table.

A count is small where fewer than `least` patients stand behind it; a patient counts once, where
first seen. Everyone's totals are told elsewhere, so a number that is withheld must not follow from
them by adding and subtracting either:

* levels with few patients are told as one group; where they are few even together, with the
  smallest other level (`groups`): all rows are in a group that is told, and nothing is left over;
* where few patients of a group have the outcome, or few lack it, every number that depends on its
  outcomes is withheld, and so are those of the next larger groups until two or more groups are left
  over that have enough of both together (`told`);
* where two groupings are crossed, cells are withheld as a block of whole rows x whole columns
  (`block`). What follows from the margins and the cells outside are then sums over whole rows or
  columns of the block alone, and those are large: with two rows and two columns or more, u(row) +
  v(column) is the indicator of no other cells. Tables of other pairs add nothing: averaged over
  their third variable, they are margins;
* where outcomes are known of other rows that overlap (mortality of all, readmission of those who
  lived), two sizes of a group would tell how many died: where its outcomes are withheld, so is its
  size (`sized`).

It does not keep anyone from bounding what is withheld, nor from using other sources (one grouping
that is known to split the levels of another).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Group:
  """Rows that are told as one.

  Attributes:
    level: their level; None for the rare ones together.
    positions: (n,) of its rows, ascending.
    among: N, rows of all groups.
    rare: how many rare levels are among them.
    told: whether what depends on their outcomes may be told.
  """
  level: object
  positions: np.ndarray
  among: int
  rare: int
  told: bool

  @property
  def rows(self):
    """(N,) bool."""
    found = np.zeros(self.among, bool)
    found[self.positions] = True
    return found

  def name(self, level, rare):
    """`level`, `rare`, or both where a level stands for rare ones too."""
    return rare if self.level is None else f"{level} + {rare}" if self.rare else level


def groups(level_N, patient_N, y_N, least):
  """Groups of the levels of one grouping, those with most patients first; [] where all patients
  together are few.

  Args:
    level_N, patient_N, y_N: (N,) levels, ids and outcomes in {0, 1}; a row may be repeated.
    least: patients.
  """
  levels, at_N = np.unique(np.asarray(level_N), return_inverse=True)
  size = counts(at_N, patient_N, y_N, len(levels))[0]
  if size.sum() < least:
    return []
  rare = size < least
  host = len(levels) if size[rare].sum() >= least else int(np.argmin(np.where(rare, np.inf, size)))
  at_N = np.where(rare, host, np.arange(len(levels)))[at_N]
  known = told(counts(at_N, patient_N, y_N, len(levels) + 1), least)
  size = counts(at_N, patient_N, y_N, len(levels) + 1)[0]
  at = positions(at_N, len(levels) + 1)
  return [Group(levels[g] if g < len(levels) else None, at[g], len(at_N),
                int(rare.sum()) if g == host else 0, bool(known[g]))
          for g in np.argsort(-size, kind="stable") if size[g]]


def positions(at_N, cells):
  """The positions of the rows of each of 0..cells-1, ascending, by one sort."""
  at_N = np.asarray(at_N)
  return np.split(np.argsort(at_N, kind="stable"),
                  np.cumsum(np.bincount(at_N, minlength=cells))[:-1])


def counts(at_N, patient_N, y_N, cells):
  """(3, cells) patients, those with the outcome and those without, each where first seen."""
  at_N, patient_N, y_N = (np.asarray(v) for v in (at_N, patient_N, y_N))
  def first(rows):
    return np.bincount(at_N[rows][np.unique(patient_N[rows], return_index=True)[1]],
                       minlength=cells)
  return np.stack([first(rows) for rows in (np.full(len(y_N), True), y_N == 1, y_N == 0)])


def told(counts_3xG, least):
  """(G,) bool: the groups whose outcomes may be told. Groups without patients may."""
  size, few = counts_3xG[0], lambda mine: counts_3xG[1:, mine].sum(-1).min() < least
  hidden = (size > 0) & (counts_3xG[1:].min(0) < least)
  while hidden.any() and (rest := (size > 0) & ~hidden).any() and (hidden.sum() < 2 or few(hidden)):
    hidden[np.argmin(np.where(rest, size, np.inf))] = True
  return ~hidden


def sized(known_NxT):
  """(T,) bool: the outcomes, known of the rows `known_NxT`, of which a group may be told the size
  where it may not be told the rest: those known of exactly the rows of each other one, or of none
  of them."""
  known_NxT = np.asarray(known_NxT, int)
  both_TxT = known_NxT.T @ known_NxT
  n_T = np.diag(both_TxT)
  return ((both_TxT == 0) | (both_TxT == n_T) & (both_TxT == n_T[:, None])).all(1)


def crossed(counts_3xAxB, told_A, told_B, least):
  """(A, B) bool twice: the cells that may be told of, and those whose outcomes may be."""
  size, outcomes = counts_3xAxB[0], counts_3xAxB[1:]
  shown = ~block(size < least, size, counts_3xAxB[:1], least)
  # what is withheld of a margin must not be the sum of its cells
  few = ~shown | (outcomes.min(0) < least) | ~told_A[:, None] | ~told_B
  return shown, ~block(few, size, outcomes, least)


def block(small_AxB, size_AxB, counts_KxAxB, least):
  """(A, B) bool: the smallest rows x columns found that hold the small cells, at least two by two,
  whose sums over a row and over a column are `least` in each of the counts (K)."""
  inside = [small_AxB.any(1), small_AxB.any(0)]
  if not small_AxB.any():
    return small_AxB
  def grow(axis):
    """Adds a row (column) with few patients where the columns (rows) need one."""
    mine, other = inside[axis], inside[1 - axis]
    sums = (counts_KxAxB * np.expand_dims(mine, 1 - axis)).sum(axis + 1)[:, other]
    if mine.all() or mine.sum() > 1 and sums.min() >= least:
      return False
    size = (size_AxB * np.expand_dims(other, axis)).sum(1 - axis)
    mine[np.argmin(np.where(mine, np.inf, size))] = True
    return True
  while grow(0) or grow(1):
    pass
  return inside[0][:, None] & inside[1]


def steps(found, least):
  """The steps from the files to the rows, of which none tells that a few were removed: those that
  removed fewer than `least` are told as one with the next, the last with the one before.

  Args:
    found: list of {"step", "removed", "left"}; a step that does not go on from the one before it
      (removed from others, or None) begins anew.
    least: rows.
  """
  chains = []
  for step in found:
    last = chains[-1][-1] if chains else {"left": None}
    if None in (step["removed"], last["left"]) or last["left"] - step["removed"] != step["left"]:
      chains.append([])
    chains[-1].append(step)
  return [step for chain in chains for step in _pooled(chain, least)]


def _pooled(chain, least):
  few = lambda step: 0 < (step["removed"] or 0) < least
  both = lambda a, b: {"step": f"{a['step']}; {b['step']}", "removed": a["removed"] + b["removed"],
                       "left": b["left"]}
  told = []
  for step in chain:
    if told and few(told[-1]):
      told[-1] = both(told[-1], step)
    else:
      told.append(step)
  while len(told) > 1 and few(told[-1]):
    told[-2:] = [both(*told[-2:])]
  return told


def reason(least):
  """Why outcomes are withheld. One sentence for all: which group made it necessary is not told."""
  return (f"fewer than {least} patients with the outcome or without it, here or in a group that "
          "could be told from this one")
