"""The loop: bit-identical repeats and resumes, stops, early stopping, faults."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import stopping
from crl_jax.engine import checkpoint, loop, programs, validation
from crl_jax.models.record import Stage
from tests.small_engine import (ROWS, TASKS, Engine, make_data, make_engine, same, streamed_source,
                                with_fold)


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def engine(data):
  return make_engine(data)


def test_two_runs_are_bit_identical_and_one_program_serves_all_epochs(engine):
  params, records = engine.fit()
  again, records_again = engine.fit()
  assert same(params, again) and records == records_again
  assert [stage for _, stage, *_ in records[:3]] == ["pretrain", "pretrain", "joint"]
  assert engine.programs.compiled_once()


def test_a_stop_dispatches_no_further_epoch(engine, monkeypatch):
  """Asked for while epoch 2 runs, before epoch 1 is read: epoch 2 is the last, read and saved."""
  dispatched, saved = [], []
  epoch = engine.programs.epoch
  monkeypatch.setattr(engine.programs, "epoch", lambda *a: dispatched.append(0) or epoch(*a))
  stages = [tuple(dataclasses.replace(s, epochs=6) for s in engine.model.stages)]
  monkeypatch.setitem(engine.config.checkpoint, "every_epochs", 5)
  records = []
  with pytest.raises(stopping.Interrupted):
    engine.fit(stages=stages, note=records, should_stop=lambda: len(dispatched) == 2,
               save=lambda *at: saved.append(at[:2]))
  assert len(dispatched) == 2 and saved == [(0, 2)] and len(records) == 2
  with pytest.raises(stopping.Interrupted):   # nothing in flight: nothing to save
    engine.fit(stages=stages, should_stop=lambda: True, save=lambda *at: saved.append(at[:2]))
  assert len(dispatched) == 2 and len(saved) == 1


def test_the_seconds_of_an_epoch_are_not_those_of_a_save(engine, monkeypatch):
  """On a clock by which an epoch takes a second and a save a thousand."""
  now, seconds, saves = [0.0], [], []
  def takes(duration, function):
    def slow(*args):
      now[0] += duration
      return function(*args)
    return slow
  monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
  monkeypatch.setattr(engine.programs, "epoch", takes(1, engine.programs.epoch))
  loop.fit(engine.programs, engine.members(), [engine.splits()] * 2, engine.data, TASKS,
            [engine.model.stages], engine.config,
            on_epoch=lambda m, stage, total, scalars: seconds.append(scalars["seconds"]),
            save=takes(1000, lambda *at: saves.append(at[:2])))
  assert len(saves) >= 4 and seconds == [1.0] * len(seconds) and len(seconds) >= 4


@pytest.mark.parametrize("stop_after, settings", [
    *((after, {}) for after in (1, 2, 3, 4)),   # after 2 epochs the phase has ended
    (3, {"streamed": True}), (3, {"train.precision": "bfloat16"}), (3, {"train.microbatches": 4}),
    (3, {"parallel": "pmap", "devices": 2}), (3, {"count": 3}),
    (3, {"count": 3, "streamed": True}), (3, {"count": 3, "members.together": 3})])
def test_a_stopped_run_resumes_to_the_same_bits(engine, data, tmp_path, monkeypatch, stop_after,
                                                settings):
  own = dict(settings)
  streamed, count = own.pop("streamed", False), own.get("count", 1)
  one = Engine(engine.config, data, **own) if own else engine
  seeds, splits = tuple(range(5, 5 + count)), one.splits([ROWS] * count)
  source = streamed_source(one, data, monkeypatch) if streamed else None
  params, records = one.fit(one.members(seeds), splits, source)
  asked = iter(range(1, 100))
  keep = lambda phase, epoch, member: checkpoint.save(
      tmp_path, 10 * phase + epoch, dict(at=np.array([phase, epoch]), member=member), 2)
  with pytest.raises(stopping.Interrupted):
    one.fit(one.members(seeds), splits, source, save=keep,
            should_stop=lambda: next(asked) > stop_after)
  other = one.programs.to_host(one.members(tuple(range(99, 99 + count))))
  _, found = checkpoint.restore(tmp_path, dict(at=np.zeros(2, int), member=other))
  resumed, rest = one.fit(found["member"], splits, source, at=tuple(int(x) for x in found["at"]))
  assert same(params, resumed) and records[stop_after * count:] == rest and rest


def test_early_stopping_keeps_the_best_parameters(engine, data):
  params, records = engine.fit()
  joint = [scalars["val/loss"] for _, stage, _, scalars in records if stage == "joint"]
  fold = engine.programs.by_member(np.zeros(1, np.int32))
  p = engine.programs.predict(engine.programs.by_member(params), fold,
                              ROWS[1][None].astype(np.int32), engine.data)[0]
  scalars, _ = validation.score(jnp.asarray(p), jnp.asarray(data["labels"][ROWS[1]]), "loss")
  assert scalars["loss"] == pytest.approx(min(joint), rel=1e-6)
  assert np.argmin(joint) >= len(joint) - 1 - engine.config.train.joint.patience


def test_non_finite_steps_change_nothing_and_then_stop_the_run(engine, data):
  bad = with_fold(jax.tree.map(np.copy, data))
  bad["inputs"]["a"][:] = np.inf
  with pytest.raises(FloatingPointError, match="Row indices") as error:
    engine.fit(data=engine.programs.resident(bad))
  assert "inf" not in str(error.value)   # indices, never content
  named = [int(x) for x in re.findall(r"\d+", str(error.value).split("batches: ")[1])]
  # the last three batches of 120 rows by 16
  assert len(set(named)) == 16 + 16 + 8 and set(named) <= set(ROWS[0])
  before = engine.programs.to_host(engine.members())
  splits = engine.programs.by_member(engine.splits())
  member, report = engine.programs.epoch(engine.members(), splits, engine.programs.resident(bad),
                                         engine.model.stages[0])
  assert report["worst"][0] == 8
  assert same(member.state.params, before.state.params)


def test_non_finite_steps_are_counted_over_epochs(engine, data, tmp_path):
  """Epochs of two steps each: the third such step stops the run, resumed in between or not."""
  few = Engine(engine.config, data, **{"train.batch_size": 64, "train.pretrain.epochs": 0})
  bad = with_fold(jax.tree.map(np.copy, data))
  bad["inputs"]["a"][:] = np.inf
  placed, kept = few.programs.resident(bad), {}
  keep = lambda phase, epoch, member: kept.update(at=(phase, epoch), member=member)
  with pytest.raises(FloatingPointError, match="in 4 consecutive.* step 1 of epoch 2") as e:
    few.fit(data=placed, save=keep)
  named = [int(x) for x in re.findall(r"\d+", str(e.value).split("batches: ")[1])]
  assert len(named) == 56 + 64 + 56 and set(named) == set(ROWS[0])
  assert kept["at"] == (0, 1) and kept["member"].state.failed[0] == 2
  with pytest.raises(FloatingPointError, match="in 4 consecutive"):
    few.fit(kept["member"], at=kept["at"], data=placed)
  # a step that is finite starts the count again
  member, report = few.programs.epoch(
      few.programs.by_member(kept["member"]), few.programs.by_member(few.splits()), few.data,
      few.model.stages[0])
  assert report["worst"][0] == 0 and member.state.failed[0] == 0


def test_a_loss_term_without_a_weight_is_refused(engine):
  stage = Stage("joint", 1, 1e-3, {"prediction": 1.0}, 2)
  with pytest.raises(ValueError, match="contrastive"):
    engine.fit(stages=[(stage,)])


def test_predict_does_not_depend_on_the_batching(engine, data, monkeypatch):
  params = engine.members().state.params
  fold, rows = engine.programs.by_member(np.zeros(1, np.int32)), np.arange(160)[None]
  whole = engine.programs.predict(params, fold, rows.astype(np.int32), engine.data)
  monkeypatch.setattr(programs, "_EVALUATED", 48)
  other = Engine(engine.config, data)
  np.testing.assert_allclose(
      other.programs.predict(params, fold, rows.astype(np.int32), other.data), whole, atol=1e-6)
