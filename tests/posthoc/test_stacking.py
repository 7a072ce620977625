"""The stack's weights: against a slow search, dropping what adds nothing, equal where little is
known."""

import numpy as np
import pytest

from crl_jax.posthoc import logits, stacking


def make(n, noise=(0.3, 3.0), seed=0):
  """(y, p (n, J)): the true log-odds seen through the noise of each part."""
  rng = np.random.default_rng(seed)
  truth = rng.normal(-0.5, 1.5, n)
  y = (rng.random(n) < logits.sigmoid(truth)).astype(float)
  return y, logits.sigmoid(truth[:, None] + rng.normal(size=(n, len(noise))) * noise)


def test_weights_have_the_largest_posterior_on_the_simplex():
  y, p = make(300, (0.8, 1.0, 1.5))
  w = stacking.weights(y, p)
  assert w.sum() == pytest.approx(1) and (w >= 0).all()
  def loss(w):
    mixed = p @ w
    return -np.log(np.where(y == 1, mixed, 1 - mixed)).sum() + (
        ((w - 1 / 3)**2).sum() / (2 * stacking.SD**2))
  grid = [np.array([a, b, 1 - a - b]) for a in np.linspace(0, 1, 101)
          for b in np.linspace(0, 1 - a, 101)]
  assert loss(w) < min(map(loss, grid)) + 1e-6


def test_a_part_that_adds_nothing_is_dropped_and_a_good_one_kept():
  y, p = make(4000, (0.2, 2.5, 4.0))
  w = stacking.weights(y, p)
  assert w[0] > 0.9 and w[2] == 0
  y, p = make(4000, (1.0, 1.0, 1.0))
  assert stacking.weights(y, p).min() > 0.2   # three independent views of one truth


def test_without_much_to_go_by_weights_are_nearly_equal():
  y, p = make(12, (0.2, 2.5, 4.0))
  assert stacking.weights(y, p).min() > 0.1
  np.testing.assert_array_equal(stacking.weights(y[:0], p[:0]), [1 / 3] * 3)
  np.testing.assert_array_equal(stacking.weights(y, p[:, :1]), [1])


def test_certain_and_wrong_is_survived():
  y, p = make(50)
  p[:, 1] = 1 - y   # a likelihood of 0 everywhere
  w = stacking.weights(y, p)
  assert np.isfinite(w).all() and w[0] == 1
