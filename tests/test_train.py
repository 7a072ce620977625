"""The loop: the same numbers on any device layout, bit-identical repeats and resumes, early
stopping, faults."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import checkpoint, models, train
from crl_jax.models.record import Stage


@pytest.fixture(scope="module")
def data():
  rng, rows = np.random.default_rng(0), 160
  observed = rng.random((rows, 3)) < 0.7
  labels = (rng.random((rows, 2)) < 0.3).astype(np.float32)
  labels[rng.random((rows, 2)) < 0.1] = np.nan
  inputs = {m: rng.normal(size=(rows, f)).astype(np.float32)
            for m, f in (("a", 5), ("b", 7), ("c", 4))}
  for i, m in enumerate(inputs):
    labels[:, 0] = np.where(np.isnan(labels[:, 0]), np.nan, inputs[m][:, 0] + labels[:, 0] > 0.8)
    inputs[m][~observed[:, i]] = 0
  return {"inputs": inputs, "observed": observed, "labels": labels,
          "patient": np.arange(rows, dtype=np.int32) // 2}


def setup(small_config, data, devices=1, **settings):
  c = small_config.copy_and_resolve_references().unlock()
  c.update_from_flattened_dict(settings)
  spec = models.Spec(("a", "b", "c"), ("readmission", "mortality"),
                     {m: x.shape[1:] for m, x in data["inputs"].items()}, tuple(range(8)))
  model = models.build(c, spec)
  optimizer = train.make_optimizer(c)
  return c, model, optimizer, train.make_programs(model, optimizer, c, jax.devices()[:devices])


def twenty_steps(small_config, data, devices, **settings):
  c, model, optimizer, programs = setup(small_config, data, devices, **settings)
  joint = dataclasses.replace(model.stages[-1], learning_rate=1e-3)
  state = train.init_state(model, optimizer, joint, jax.random.key(0), 0.0)
  order = jnp.concatenate(
      [train.epoch_order(state.rng, epoch, jnp.arange(155), batch_size=c.train.batch_size,
                         slots=programs.slots) for epoch in range(2)])
  assert len(order) == 20 and (order[9] == -1).sum() >= 5   # the last batch of an epoch is padded
  placed = programs.resident(data) if c.parallel == "jit" else programs.place(data)
  state, scalars = programs.train_epoch(programs.place(state), placed, order)
  return np.asarray(scalars["loss"]), jax.device_get(programs.fetch(state).params)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_one_device_eight_under_jit_and_eight_under_pmap_agree(small_config, data, dropout):
  settings = {"model.dropout": dropout, "train.batch_size": 16}
  loss, params = twenty_steps(small_config, data, 1, **settings)
  assert loss[-1] < loss[0]
  for parallel in ("jit", "pmap"):
    other, others = twenty_steps(small_config, data, 8, parallel=parallel, **settings)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(params)):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_a_batch_size_that_devices_do_not_divide_gives_the_same_numbers(small_config, data):
  settings = {"model.dropout": 0.2, "train.batch_size": 16}
  loss, _ = twenty_steps(small_config, data, 1, **settings)
  other, _ = twenty_steps(small_config, data, 3, **settings)
  np.testing.assert_allclose(other, loss, rtol=1e-5)


@pytest.fixture(scope="module")
def compiled(data):
  from crl_jax import config as config_lib
  c = config_lib.default().unlock()
  c.model.width, c.model.heads, c.train.batch_size = 8, 2, 16
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 2, 4, 2
  c.train.joint.learning_rate = 3e-3
  c.checkpoint.every_epochs = 1
  return setup(c, data)


ROWS = np.arange(120), np.arange(120, 160)


def fit(compiled, data, progress=None, **hooks):
  c, model, optimizer, programs = compiled
  records = []
  progress = progress or train.begin(model, optimizer, c, jax.random.key(5))
  on_epoch = lambda stage, total, scalars: records.append(
      (stage, total, {k: v for k, v in scalars.items() if k != "seconds"}))
  params, _ = train.fit(programs, model, optimizer, data, ("readmission", "mortality"), *ROWS, c,
                        progress, on_epoch, **hooks)
  return jax.device_get(params), records


def same(a, b):
  return all(np.array_equal(x, y)
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_two_runs_are_bit_identical_and_test_labels_are_never_seen(compiled, data):
  params, records = fit(compiled, data)
  again, records_again = fit(compiled, data)
  assert same(params, again) and records == records_again
  assert [stage for stage, *_ in records[:3]] == ["pretrain", "pretrain", "joint"]


def test_a_stopped_run_resumes_to_the_same_bits(compiled, data, tmp_path):
  params, records = fit(compiled, data)
  c, model, optimizer, _ = compiled
  for stop_after in (1, 2, 3):
    folder = tmp_path / str(stop_after)
    folder.mkdir()
    asked = iter(range(1, 100))
    with pytest.raises(train.Interrupted):
      fit(compiled, data, save=lambda p: checkpoint.save(folder, int(p.total), p, 2),
          should_stop=lambda: next(asked) >= stop_after)
    step, progress = checkpoint.restore(folder,
                                        train.begin(model, optimizer, c, jax.random.key(99)))
    assert step == stop_after
    resumed, rest = fit(compiled, data, progress)
    assert same(params, resumed) and records[stop_after:] == rest


def test_early_stopping_keeps_the_best_parameters(compiled, data):
  c, model, optimizer, programs = compiled
  params, records = fit(compiled, data)
  joint = [scalars["val/loss"] for stage, _, scalars in records if stage == "joint"]
  resident = programs.resident(data)
  p = train.predict(programs, programs.resident(params), resident, ROWS[1])
  scalars, _ = train.score(p, data["labels"][ROWS[1]], ("readmission", "mortality"), "loss")
  assert scalars["loss"] == pytest.approx(min(joint), rel=1e-6)


def test_every_row_once_an_epoch_and_the_order_is_a_function_of_seed_and_epoch():
  rows = jnp.array([4, 9, 2, 7, 5])
  order = lambda key, epoch: np.asarray(
      train.epoch_order(jax.random.key(key), epoch, rows, batch_size=2, slots=4))
  assert sorted(order(0, 0)[order(0, 0) >= 0]) == [2, 4, 5, 7, 9]
  assert order(0, 0).shape == (3, 4) and (order(0, 0)[:, 2:] == -1).all()
  assert np.array_equal(order(0, 1), order(0, 1)) and not np.array_equal(order(0, 0), order(0, 1))
  assert not np.array_equal(order(0, 0), order(1, 0))


def test_non_finite_steps_change_nothing_and_then_stop_the_run(compiled, data):
  c, model, optimizer, programs = compiled
  bad = jax.tree.map(np.copy, data)
  bad["inputs"]["a"][:] = np.inf
  with pytest.raises(FloatingPointError, match="Row indices") as error:
    fit(compiled, bad)
  assert "inf" not in str(error.value)   # indices, never content
  state = programs.place(train.begin(model, optimizer, c, jax.random.key(5)).state)
  order = train.epoch_order(jax.random.key(0), 0, jnp.arange(16), batch_size=16,
                            slots=programs.slots)
  new, scalars = programs.train_epoch(state, programs.resident(bad), jnp.tile(order, (8, 1)))
  assert not np.asarray(scalars["finite"]).any()
  assert same(jax.device_get(new.params), jax.device_get(state.params))


def test_a_loss_term_without_a_weight_is_refused(compiled, data):
  c, model, optimizer, programs = compiled
  stage = Stage("joint", 1, 1e-3, {"prediction": 1.0}, 2)
  state = train.init_state(model, optimizer, stage, jax.random.key(0), 0.0)
  batch = train.take(programs.resident(data), jnp.arange(4), jnp.arange(4))
  with pytest.raises(ValueError, match="contrastive"):
    jax.eval_shape(lambda s: train.train_step(s, batch, model=model, optimizer=optimizer), state)


def test_predict_does_not_depend_on_the_batching(compiled, data):
  c, model, optimizer, programs = compiled
  params = programs.resident(train.begin(model, optimizer, c, jax.random.key(5)).state.params)
  resident = programs.resident(data)
  whole = train.predict(programs, params, resident, np.arange(160))
  np.testing.assert_allclose(train.predict(programs, params, resident, np.arange(160), batch=48),
                             whole, atol=1e-6)
