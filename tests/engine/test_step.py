"""The order of an epoch's steps; one step: what it does with gradients, and that it is taken as a
whole or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crl_jax.engine import step


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b),
                                                  strict=True))


def test_every_row_once_an_epoch_and_the_order_is_a_function_of_seed_and_epoch():
  rows = jnp.array([4, 9, 2, 7, 5])
  order = lambda key, epoch, rows=rows: np.asarray(
      step.epoch_order(jax.random.key_data(jax.random.key(key)), epoch, rows, 2, 4))
  assert sorted(order(0, 0)[order(0, 0) >= 0]) == [2, 4, 5, 7, 9]
  assert order(0, 0).shape == (3, 4) and (order(0, 0)[:, 2:] == -1).all()
  assert np.array_equal(order(0, 1), order(0, 1)) and not np.array_equal(order(0, 0), order(0, 1))
  assert not np.array_equal(order(0, 0), order(1, 0))
  padded = order(0, 0, jnp.array([4, 9, 2, 7, 5, -1, -1, -1]))
  assert np.array_equal(padded[:3], order(0, 0)) and (padded[3] == -1).all()


def test_gradients_are_clipped_as_optax_clips_them(small_config):
  for scale in (1e-3, 1.0, 1e3):
    gradients = {"a": scale * jnp.arange(-3.0, 4.0), "b": jnp.full((2, 3), scale)}
    expected = optax.chain(optax.clip_by_global_norm(small_config.train.clip_norm),
                           optax.scale_by_adam())
    found, norm = step.make_optimizer(small_config), optax.tree.norm(gradients)
    state, other = found.init(gradients), expected.init(gradients)
    _, state = found.update(gradients, state, norm=norm)
    _, other = expected.update(gradients, other)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other)):
      np.testing.assert_allclose(a, b, rtol=1e-6)
    assert optax.tree.norm(state[1].mu) == pytest.approx(0.1 * min(float(norm), 1.0), rel=1e-5)


def test_a_step_that_is_not_taken_changes_nothing_on_any_device(monkeypatch):
  """What a CPU and what other devices run choose alike; the latter without a branch."""
  state = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
  doubled = lambda state: jax.tree.map(lambda x: 2 * x, state)
  broken = lambda state: jax.tree.map(lambda x: x / 0, state)
  chosen = lambda update: jax.jit(lambda so, state: step._chosen(so, update, state))
  on = lambda device: chosen(doubled).trace(jnp.bool_(True), state).lower(
      lowering_platforms=(device,)).as_text()
  # the cases that both have are over the platform, a constant: XLA takes them out
  assert on("cpu").count("stablehlo.case") == on("cuda").count("stablehlo.case") + 1
  assert "stablehlo.select" in on("cuda") and "stablehlo.select" not in on("cpu")
  for device in ("cpu", "default"):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, device=device, **branches: (
        branches[device](*args)))
    assert same(chosen(doubled)(jnp.bool_(True), state), doubled(state))
    assert same(chosen(broken)(jnp.bool_(False), state), state)
