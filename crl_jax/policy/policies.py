"""Whom first: priorities of effects, and what a rule treats of them.

A rule is a function of a priority (N,), larger first, to the share pi (N,) in [0, 1] with which
each row is treated: budget(.2), threshold(0), softmax(1) make one, assign() applies it.
"""

import numpy as np


def priority(effect, higher_is_better):
  """(N,) what a treatment gains: the only place of this package where a direction has a sign."""
  effect = np.asarray(effect, np.float64)
  return effect if higher_is_better else -effect


def assign(priority, rule):
  """pi (N,) of a rule. Raises ValueError where a priority is not finite."""
  priority = np.asarray(priority, np.float64)
  if odd := int((~np.isfinite(priority)).sum()):
    raise ValueError(f"{odd} of {len(priority)} priorities are not finite.")
  return rule(priority)


def budget(share):
  """The first `share` of the rows: what is left of it is split equally among ties, so that the
  order of the rows never counts. Raises ValueError for a share outside (0, 1)."""
  if not 0 < share < 1:
    raise ValueError(f"a budget is a share in (0, 1), not {share}.")

  def rule(priority):
    values, tie, size = np.unique(-priority, return_inverse=True, return_counts=True)
    before = np.cumsum(size) - size
    return np.clip((share * len(priority) - before) / size, 0, 1)[tie]
  return rule


def threshold(cut):
  """Those whose priority is larger than `cut`."""
  return lambda priority: (priority > cut).astype(np.float64)


def softmax(temperature):
  """Each with probability sigmoid(priority / temperature): certain at temperature 0."""
  if temperature <= 0:
    raise ValueError(f"a temperature is more than 0, not {temperature}.")
  return lambda priority: 0.5 + 0.5 * np.tanh(0.5 * priority / temperature)
