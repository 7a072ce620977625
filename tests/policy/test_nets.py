"""Many networks in one program: each as if it were alone."""

import ml_collections
import numpy as np
import pytest

from crl_jax.policy import nets

SETTINGS = ml_collections.ConfigDict(dict(width=8, learning_rate=1e-2, weight_decay=0.0,
                                          batch_size=32, epochs=12, patience=3))
N = 200


@pytest.fixture(scope="module")
def problem():
  """Four members: two of squares, two of log-loss, on rows of their own."""
  rng = np.random.default_rng(0)
  x = 3 + 2 * rng.standard_normal((N, 3)).astype(np.float32)
  y = (x[:, 0] - 3) / 2
  targets = np.stack([y, -2 * y, y > 0, y > 0.5]).astype(np.float32)
  fit = (rng.random((4, N)) < 0.6).astype(np.float32)
  return x, targets, fit, (1 - fit) * (rng.random((4, N)) < 0.7), np.array([0, 0, 1, 1], bool)


@pytest.fixture(scope="module")
def together(problem):
  return nets.fit(*problem, np.arange(4), SETTINGS, 0)


def test_a_member_alone_is_as_among_others(problem, together):
  x, targets, fit, val, binary = problem
  alone = nets.fit(x, targets[2:3], fit[2:3], val[2:3], binary[2:3], [2], SETTINGS, 0)
  np.testing.assert_allclose(nets.predict(alone, x)[0], nets.predict(together, x)[2], atol=1e-5)
  other = nets.fit(x, targets[2:3], fit[2:3], val[2:3], binary[2:3], [7], SETTINGS, 0)
  assert np.abs(nets.predict(other, x)[0] - nets.predict(together, x)[2]).max() > 1e-3


def test_they_learn_keep_their_best_and_stop(problem, together):
  x, targets, fit, val, binary = problem
  p = nets.predict(together, x)
  assert p.shape == (4, N) and ((p[2:] > 0) & (p[2:] < 1)).all()
  for m in range(4):
    error = lambda q: np.average((q - targets[m])**2, weights=val[m])
    assert error(p[m]) < 0.5 * error(np.average(targets[m], weights=fit[m]))
    if not binary[m]:
      assert error(p[m]) == pytest.approx(together.loss[m], rel=1e-4)   # of the best epoch
  assert (1 <= together.epochs).all() and (together.epochs <= 12).all()
  # that of an earlier epoch, where training goes on to harm
  hurt = np.where(val[0] > 0, -targets[0], targets[0])[None]
  worse = nets.fit(x, np.repeat(hurt, 4, 0), np.repeat(fit[:1], 4, 0), np.repeat(val[:1], 4, 0),
                   np.zeros(4, bool), np.arange(4), SETTINGS, 0)
  assert (worse.epochs < 4).all()
  best = np.average((nets.predict(worse, x)[0] - hurt[0])**2, weights=val[0])
  assert best == pytest.approx(worse.loss[0], rel=1e-4)


def test_rows_without_weight_are_as_absent(problem, together):
  x, targets, fit, val, binary = problem
  unseen = (fit + val) == 0
  assert unseen.any(1).all()
  other = np.where(unseen, np.nan, targets)
  again = nets.fit(x, other, fit, val, binary, np.arange(4), SETTINGS, 0)
  np.testing.assert_array_equal(nets.predict(again, x), nets.predict(together, x))
  nobody = unseen.all(0)
  moved = np.where(nobody[:, None], 99, x).astype(np.float32)
  again = nets.fit(moved, targets, fit, val, binary, np.arange(4), SETTINGS, 0)
  np.testing.assert_array_equal(nets.predict(again, x), nets.predict(together, x))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(problem, together):
  x = problem[0]
  again, other = (nets.fit(*problem, np.arange(4), SETTINGS, seed) for seed in (0, 1))
  assert nets.predict(again, x).tobytes() == nets.predict(together, x).tobytes()
  assert (nets.predict(other, x) != nets.predict(together, x)).any(1).all()


def test_heads_of_one_representation_learn_each_from_its_own_rows(problem):
  x, targets, fit, val, _ = problem
  y, t = targets[0], (np.random.default_rng(1).random(N) < 0.5).astype(np.float32)
  outcome = np.where(t, y + 2, y)
  settings = SETTINGS.copy_and_resolve_references()
  settings.epochs = 40
  fitted = nets.fit(
      x, np.tile(np.stack([outcome, outcome, t], 1), (2, 1, 1)), fit[:2], val[:2],
      np.tile([False, False, True], (2, 1)), [0, 1], settings, 0,
      np.stack([1 - t, t, 0 * t + 1], 1), np.array([[1, 1, 0], [1, 1, 1]]))
  p = nets.predict(fitted, x)
  assert p.shape == (2, N, 3)
  np.testing.assert_allclose((p[..., 1] - p[..., 0]).mean(1), 2, atol=0.4)
  assert ((p[..., 2] > 0) & (p[..., 2] < 1)).all()


def test_a_network_without_rows_is_refused(problem):
  x, targets, fit, val, binary = problem
  with pytest.raises(ValueError, match="1 of 4 networks have no row to stop by"):
    nets.fit(x, targets, fit, val * np.array([1, 0, 1, 1])[:, None], binary, np.arange(4), SETTINGS,
             0)
  with pytest.raises(ValueError, match="not finite"):
    nets.fit(np.where(x > 3, np.nan, x), targets, fit, val, binary, np.arange(4), SETTINGS, 0)
