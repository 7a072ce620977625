"""The order of an epoch's steps; one step: what it does with gradients, and that it is taken as a
whole or not at all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crl_jax import models
from crl_jax.engine import step
from tests import toy_model
from tests.small_engine import Engine, batch_of, close, make_data, prepared, same, small


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


@pytest.fixture(scope="module")
def toy():
  """(step(state, which=None) -> state of a model with turns, hooks and fixed parameters; its stage,
  its state): `which`: the index of one turn."""
  data = make_data()
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, "toy", models.Entry("a toy", "left out", toy_model.build))
    engine = Engine(small("toy"), data, **{"train.ema": 0.5})
  model, stage = engine.model, engine.model.stages[1]
  kept = jax.tree.map(lambda x: x[0], prepared(model, data))
  state = jax.tree.map(lambda x: x[0], engine.members().state)
  state = state.replace(learning_rate=jnp.float32(0.01), weights=dict(a=1.0, b=1.0),
                        params=state.params | {"join": state.params["join"] | {
                            "layers": jnp.float32(1)}})
  how = dict(model=model, optimizer=engine.optimizer, layout=engine.programs.layout, ema=0.5,
             stage=stage)
  whole = jax.jit(functools.partial(step.train_step, **how))
  turns = [jax.jit(functools.partial(step.one_step, trains=trains, terms=terms, **how))
           for terms, trains in stage.turns]
  batch = batch_of(data, np.arange(16))
  run = lambda state, which=None: (whole if which is None else turns[which])(state, batch, kept)
  return run, stage, state


def test_turns_are_steps_one_after_another_with_the_same_noise(toy):
  run, stage, state = toy
  whole, told = run(state)
  first, a = run(state, 0)
  second, b = run(first.replace(step=state.step), 1)
  assert whole.step == 1 and told["loss"] == pytest.approx(float(a["loss"] + b["loss"]), rel=1e-6)
  close(whole.params, second.params, 1e-6)
  close(whole.opt_state, second.opt_state, 1e-6)
  assert whole.carry["rows"] == 32   # adjust() is asked in every turn


def test_what_is_not_trained_keeps_value_moments_and_average_to_the_bit(toy):
  run, stage, state = toy
  before, _ = run(state, 0)   # moments that are not zero
  after, _ = run(before, 1)
  parts = lambda tree: {**tree, **tree["join"], "join": {}}
  flat = lambda state: [parts(x) for x in (state.params, state.average, state.opt_state[1].mu,
                                           state.opt_state[1].nu)]
  hooked = {"layers", "centres"}
  for old, new in zip(flat(before), flat(after)):
    assert {name for name in old if not same(old[name], new[name])} - hooked == {"b"}
  # what hooks set holds for the average too
  for name in hooked:
    assert same(parts(after.average)[name], parts(state.params)[name])
    assert same(parts(after.params)[name], parts(state.params)[name])


def test_a_path_that_no_parameter_has_is_refused(small_config, spec):
  model = models.build(small_config, spec)
  for wrong in (dict(fixed=(("absent",),)), dict(stages=tuple(
      dataclasses.replace(s, trains=(("gate",), ("absent", "kernel"))) for s in model.stages))):
    with pytest.raises(ValueError, match="no parameter at .*'absent'"):
      jax.eval_shape(lambda rng: step.init_member(
          dataclasses.replace(model, **wrong), step.make_optimizer(small_config), rng,
          jnp.float32(0), {}, 0.0), jax.random.key(0))
