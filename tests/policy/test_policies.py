"""Rules: who is treated, whatever the order of the rows."""

import numpy as np
import pytest

from crl_jax.policy import policies


def test_a_budget_treats_the_first_and_splits_the_rest_among_ties():
  priority = np.array([3.0, 1.0, 2.0, 2.0, 0.0])
  pi = policies.assign(priority, policies.budget(0.4))
  assert pi.tolist() == [1, 0, 0.5, 0.5, 0]
  order = np.random.default_rng(0).permutation(5)
  np.testing.assert_array_equal(policies.assign(priority[order], policies.budget(0.4)), pi[order])
  np.testing.assert_allclose(policies.assign(np.zeros(7), policies.budget(0.3)), 0.3)
  ties = np.random.default_rng(1).integers(0, 4, 100)
  for share in (0.1, 0.25, 0.77):
    assert policies.assign(ties, policies.budget(share)).sum() == pytest.approx(share * 100)


def test_thresholds_temperatures_and_the_direction():
  assert policies.assign([-1, 0, 2], policies.threshold(0)).tolist() == [0, 0, 1]
  soft = policies.assign([-800.0, 0, 800], policies.softmax(1))
  np.testing.assert_allclose(soft, [0, 0.5, 1])
  assert policies.assign([1.0], policies.softmax(2))[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
  assert policies.priority([1, -2], False).tolist() == [-1, 2]
  assert policies.priority([1, -2], True).tolist() == [1, -2]


@pytest.mark.parametrize("rule", [lambda: policies.budget(1.0), lambda: policies.budget(0),
                                  lambda: policies.softmax(0)])
def test_rules_that_cannot_be_are_refused(rule):
  with pytest.raises(ValueError):
    rule()
  with pytest.raises(ValueError, match="1 of 2 priorities"):
    policies.assign([np.nan, 1], policies.budget(0.5))
