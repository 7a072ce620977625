"""Intervals of differences from those of the groups, against published ones."""

import numpy as np
import pytest

from crl_jax.statistics import bootstrap, metrics


# contrasts (a), (b), (c) and (g) of Newcombe 1998 (doi 10.1002/(SICI)1097-0258(19980430)17:8<873::
# AID-SIM779>3.0.CO;2-I), table II, method 10: from Wilson's intervals, which are skewed
@pytest.mark.parametrize("first, second, lo, hi", [
    ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090),
    ((6, 7), (2, 7), 0.0582, 0.8062), ((10, 10), (0, 20), 0.6791, 1.0)])
def test_a_gap_of_two_rates_is_newcombes(first, second, lo, hi):
  for groups in ((first, second), (second, first)):
    values = np.array([[events / n for events, n in groups]])
    below, above = np.array([[metrics.wilson(*group) for group in groups]]).transpose(2, 0, 1)
    # resamples one standard error off: nothing to widen
    draws = values + np.array([[[0.01, 0]], [[-0.01, 0]]] * 50)
    found = bootstrap.gap(values, below, above, draws)
    assert found == pytest.approx({"value": abs(np.diff(values)[0, 0]), "lo": lo, "hi": hi},
                                  abs=6e-5)


def test_a_limit_has_the_sides_of_its_own_pair_and_the_lower_is_widened():
  """Three groups whose intervals reach far on one side only."""
  values = np.array([[0.9, 0.5, 0.1]])
  lo, hi = values - [0.3, 0.04, 0.01], values + [0.02, 0.05, 0.2]
  draws = values + np.random.default_rng(0).normal(0, 0.01, (4000, 1, 3))
  errors = (draws[..., [0, 0, 1]] - draws[..., [1, 2, 2]])[:, 0] - [0.4, 0.8, 0.4]
  wider = np.quantile(np.abs(errors / errors.std(0)).max(1), 0.95) / 1.96
  assert 1.1 < wider < 1.3
  found = bootstrap.gap(values, lo, hi, draws)
  assert found["lo"] == pytest.approx(max(
      0.8 - wider * np.hypot(0.3, 0.2), 0.4 - wider * np.hypot(0.3, 0.05),
      0.4 - wider * np.hypot(0.04, 0.2)), abs=2e-3)
  assert found["hi"] == pytest.approx(0.8 + np.hypot(0.02, 0.01))
