"""What is withheld cannot be had from what is told by adding and subtracting."""

import numpy as np
import pytest

from crl_jax.statistics import disclosure

LEAST = 10


def derivable(hidden, told_A, told_B):
  """The hidden cells and sums of hidden cells that follow from the rest: (K, hidden) 0/1 rows, K
  over all subsets. Brute force."""
  at = np.argwhere(hidden)
  A, B = hidden.shape
  known = [(at[:, 0] == a) for a in range(A) if told_A[a]]
  known += [(at[:, 1] == b) for b in range(B) if told_B[b]]
  known += [~told_A[at[:, 0]], ~told_B[at[:, 1]]]   # the rest of everyone's total
  known = np.array(known, float)
  subsets = (np.arange(1, 2 ** len(at))[:, None] >> np.arange(len(at))) & 1
  projected = subsets @ np.linalg.pinv(known) @ known
  return subsets[np.abs(projected - subsets).max(1) < 1e-9].astype(bool), at


@pytest.mark.parametrize("seed", range(40))
def test_no_small_sum_of_crossed_cells_follows_from_the_rest(seed):
  rng = np.random.default_rng(seed)
  shape = rng.integers(2, 5, 2)
  while True:   # margins as `groups` leaves them
    size = rng.choice([0, 3, 8, 12, 60, 300], shape)
    if min(size.sum(0).min(), size.sum(1).min()) >= LEAST:
      break
  positives = rng.binomial(size, rng.choice([0.02, 0.2, 0.5]))
  cells = np.stack([size, positives, size - positives])
  told_A, told_B = (disclosure.told(cells.sum(axis), LEAST) for axis in (2, 1))
  shown, told = disclosure.crossed(cells, told_A, told_B, LEAST)
  assert (size[shown] >= LEAST).all() and (cells[1:, told] >= LEAST).all()
  assert not (told & ~shown).any()
  everyone = np.ones(shape[0], bool), np.ones(shape[1], bool)
  for hidden, margins, kinds in ((~shown, everyone, cells[:1]),
                                 (~told, (told_A, told_B), cells[1:])):
    if not 0 < hidden.sum() <= 14 or hidden.all() and kinds.shape[0] == 2:
      continue
    subsets, at = derivable(hidden, *margins)
    for kind in kinds:
      assert all(kind[tuple(at[s].T)].sum() >= LEAST for s in subsets)


def test_told_leaves_over_two_groups_with_enough_together():
  cells = np.array([[300, 200, 50, 20], [90, 60, 15, 3], [210, 140, 35, 17]])
  assert disclosure.told(cells, LEAST).tolist() == [True, True, False, False]
  cells[1:, 2] = [6, 44]   # 3 + 6 positives are few together
  assert disclosure.told(cells, LEAST).tolist() == [True, False, False, False]
  negatives = np.array([[300, 200, 50], [90, 60, 50], [210, 140, 0]])
  assert disclosure.told(negatives, LEAST).tolist() == [True, False, False]
  assert disclosure.told(np.array([[90], [0], [90]]), LEAST).tolist() == [False]
  assert disclosure.told(np.zeros((3, 2)), LEAST).all()


def test_sizes_are_told_of_outcomes_known_of_the_same_rows_or_of_others():
  known = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 0]], bool)
  assert disclosure.sized(known[:, :3]).tolist() == [True, True, True]
  assert disclosure.sized(known).tolist() == [False] * 4   # the last overlaps with each
  assert disclosure.sized(known[:, [0, 2]]).all() and disclosure.sized(known[:, :1]).all()
  assert disclosure.sized(np.zeros((0, 2), bool)).all()


def one_each(sizes):
  level = np.repeat([*sizes], [*sizes.values()])
  return level, np.arange(len(level)), np.arange(len(level)) % 2


def test_rare_levels_are_told_together_and_cost_no_large_one():
  found = disclosure.groups(*one_each({"a": 917, "b": 617, "?": 1}), LEAST)
  assert [(g.name(g.level, "rarer"), int(g.rows.sum())) for g in found] == [
      ("a", 917), ("b + rarer", 618)]
  found = disclosure.groups(*one_each({"a": 917, "b": 6, "c": 5}), LEAST)
  assert [(g.name(g.level, "rarer"), int(g.rows.sum()), g.rare) for g in found] == [
      ("a", 917, 0), ("rarer", 11, 2)]
  assert disclosure.groups(*one_each({"a": 5, "b": 4}), LEAST) == []
  level, patient, y = one_each({"a": 40, "b": 40})
  rows = disclosure.groups(level, np.where(level == "b", patient // 8, patient), y, LEAST)
  assert len(rows) == 1   # 40 rows of 5 patients are few
