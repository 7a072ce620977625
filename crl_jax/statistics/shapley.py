"""Shapley values over few players: exact from all coalitions, or sampled from permutations.

A player is a modality. v(S) is the prediction with the modalities of S; the value of a player is
the mean over orders of arrival of what it adds (Shapley, 1953). Both estimates hold the efficiency
axiom to rounding: values sum to v(all) - v(none). Axes in names: C coalitions, R permutations,
B rows, M players, T tasks.
"""

import math

import numpy as np


def coalitions(players):
  """(2^M, M) bool, every coalition once; that of row c holds the players of the bits of c."""
  return (np.arange(1 << players)[:, None] >> np.arange(players) & 1).astype(bool)


def exact(values):
  """Shapley values from all coalitions.

  Args:
    values: (2^M, ...) v of each coalition, in the order of `coalitions`.
  Returns:
    (M, ...) values.
  Raises:
    ValueError: the number of coalitions is no power of two.
  """
  values = np.asarray(values, np.float64)
  players = len(values).bit_length() - 1
  if len(values) != 1 << players:
    raise ValueError(f"{len(values)} coalitions are not all of any number of players.")
  index = np.arange(len(values))
  size = coalitions(players).sum(1)
  weight = np.array([math.factorial(s) * math.factorial(players - s - 1) / math.factorial(players)
                     if s < players else 0.0 for s in range(players + 1)])[size]
  found = []
  for m in range(players):
    without = index[~(index >> m & 1).astype(bool)]
    found.append(np.tensordot(weight[without], values[without | 1 << m] - values[without], axes=1))
  return np.stack(found)


def permutations(players, count, seed):
  """(count, M) int orders of arrival; each second one is the reverse of the one before it, which
  cancels most of the noise of smooth games."""
  rng = np.random.default_rng([seed, 0x5AA9])
  half = np.stack([rng.permutation(players) for _ in range(-(-count // 2))])
  return np.stack([half, half[:, ::-1]], axis=1).reshape(-1, players)[:count]


def chains(orders):
  """(R, M + 1, M) bool: the coalition before the first arrival, after it, ..., after the last."""
  count, players = orders.shape
  rank = np.empty_like(orders)
  np.put_along_axis(rank, orders, np.broadcast_to(np.arange(players), orders.shape), axis=1)
  return rank[:, None, :] < np.arange(players + 1)[None, :, None]


def sampled(orders, values):
  """Shapley values from sampled orders of arrival.

  Args:
    orders: (R, M) from `permutations`.
    values: (R, M + 1, ...) v along the chains.
  Returns:
    (mean, standard error), (M, ...) each; the error treats each pair of an order and its reverse
    as one draw, and is NaN with fewer than two pairs.
  """
  steps = np.diff(np.asarray(values, np.float64), axis=1)
  by_player = np.empty_like(steps)
  index = orders.reshape(*orders.shape, *[1] * (steps.ndim - 2))
  np.put_along_axis(by_player, np.broadcast_to(index, steps.shape), steps, axis=1)
  mean = by_player.mean(0)
  pairs = len(orders) // 2
  if pairs < 2:
    return mean, np.full_like(mean, np.nan)
  each = by_player[:2 * pairs].reshape(pairs, 2, *by_player.shape[1:]).mean(1)
  return mean, each.std(0, ddof=1) / np.sqrt(pairs)
