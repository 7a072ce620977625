"""The loop: the same numbers on any device layout, bit-identical repeats and resumes, early
stopping, faults."""

import contextlib
import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import checkpoint, config as config_lib, models, programs, stopping, train, validation
from crl_jax.data import preprocess, stream
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


TASKS = "readmission", "mortality"
ROWS = np.arange(120), np.arange(120, 160)


class Programs(programs.Programs):
  """Counts how often the epoch is traced."""
  traced = 0

  def _resident_epoch(self, *arrays):
    self.traced += 1
    return super()._resident_epoch(*arrays)

  def compiled_once(self):
    # where a sharding changes, jit compiles again without a trace; pmap tells of traces alone
    return self.traced == 1 and (self.layout.pmap or self._resident._cache_size() == 1)


class Engine:
  """Everything that fit() wants, for `count` members that differ in their seed."""

  def __init__(self, config, data, devices=1, count=1, **settings):
    self.config = c = config.copy_and_resolve_references().unlock()
    c.update_from_flattened_dict(settings)
    spec = models.Spec(("a", "b", "c"), TASKS,
                       {m: x.shape[1:] for m, x in data["inputs"].items()}, tuple(range(8)))
    self.model, self.optimizer = models.build(c, spec), train.make_optimizer(c)
    self.programs = Programs(self.model, self.optimizer, c, spec.modalities,
                             jax.devices()[:devices], count)
    self.data = self.programs.resident(with_fold(data))
    self.count = count

  def members(self, seeds=(5,), **vary):
    keys = np.stack([jax.random.key_data(jax.random.key(seed)) for seed in seeds])
    fill = lambda value: np.full(len(seeds), value, np.float32)
    values = {k: np.array(vary.get(k, fill(v)), np.float32) for k, v in self.model.vary.items()}
    return self.programs.init(*self.programs.pad(
        (keys, fill(self.config.train.weight_decay), values)))

  def splits(self, rows=((ROWS),)):
    pad = lambda r, n: np.pad(r, (0, n - len(r)), constant_values=-1).astype(np.int32)
    lines = [np.stack([pad(r[i], max(len(x[i]) for x in rows)) for r in rows]) for i in (0, 1)]
    return train.Split(*self.programs.pad((*lines, np.zeros(len(rows), np.int32))))

  def fit(self, member=None, splits=None, data=None, stages=None, note=None, **hooks):
    records = [] if note is None else note
    note = lambda m, stage, total, scalars: records.append(
        (m, stage, total, {k: v for k, v in scalars.items() if k != "seconds"}))
    member = self.members() if member is None else member
    member = train.fit(self.programs, member, splits or self.splits(),
                       self.data if data is None else data, TASKS,
                       stages or [self.model.stages] * self.count, self.config, on_epoch=note,
                       **hooks)
    return self.programs.to_host(member.best), records


def with_fold(data):
  return data | {"inputs": {m: x[None] for m, x in data["inputs"].items()}}


def twenty_steps(small_config, data, devices, **settings):
  """Losses of 2 epochs of 10 steps, epoch by epoch, and the parameters after them."""
  engine = Engine(small_config, data, devices, **settings)
  programs_, stage = engine.programs, dataclasses.replace(engine.model.stages[-1],
                                                          learning_rate=1e-3)
  values = jax.tree.map(lambda x: np.stack([x]), train.stage_values(stage))
  member = programs_.enter(engine.members(), programs_.by_member(values))
  splits = programs_.by_member(engine.splits([(np.arange(155), ROWS[1])]))
  reports = []
  for _ in range(2):
    member, report = programs_.epoch(member, splits, engine.data)
    reports.append(programs_.to_host(report))
  host = programs_.to_host(member)
  assert host.state.step[0] == 20 and programs_.compiled_once()
  return np.array([r["train"]["loss"][0] for r in reports]), host.state.params, reports


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_one_device_eight_under_jit_and_eight_under_pmap_agree(small_config, data, dropout):
  settings = {"model.dropout": dropout, "train.batch_size": 16}
  loss, params, reports = twenty_steps(small_config, data, 1, **settings)
  assert loss[1] < loss[0]
  for parallel in ("jit", "pmap"):
    other, others, told = twenty_steps(small_config, data, 8, parallel=parallel, **settings)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    close(others, params, 1e-5)
    close([r["val"] for r in told], [r["val"] for r in reports], 1e-5)


def close(found, expected, rtol):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_a_batch_size_that_devices_do_not_divide_gives_the_same_numbers(small_config, data):
  settings = {"model.dropout": 0.2, "train.batch_size": 16}
  loss, *_ = twenty_steps(small_config, data, 1, **settings)
  other, *_ = twenty_steps(small_config, data, 3, **settings)
  np.testing.assert_allclose(other, loss, rtol=1e-5)


def test_a_batch_in_parts_gives_the_same_numbers(small_config, data):
  settings = {"model.dropout": 0.2, "train.batch_size": 16}
  loss, params, _ = twenty_steps(small_config, data, 1, **settings)
  for devices, parallel in ((1, "jit"), (3, "jit"), (3, "pmap")):
    other, others, _ = twenty_steps(small_config, data, devices, parallel=parallel,
                                    **{"train.microbatches": 4}, **settings)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    close(others, params, 1e-5)


def test_bfloat16_follows_float32_and_keeps_float32_parameters(small_config, data):
  settings = {"model.dropout": 0.0, "train.batch_size": 16}
  loss, *_ = twenty_steps(small_config, data, 1, **settings)
  other, params, _ = twenty_steps(small_config, data, 1, **{"train.precision": "bfloat16"},
                                  **settings)
  np.testing.assert_allclose(other, loss, rtol=0.03)
  assert not np.array_equal(other, loss)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.fixture(scope="module")
def engine(data):
  c = config_lib.default().unlock()
  c.model.width, c.model.heads, c.train.batch_size = 8, 2, 16
  c.train.pretrain.epochs, c.train.joint.epochs, c.train.joint.patience = 2, 4, 2
  c.train.joint.learning_rate = 3e-3
  c.checkpoint.every_epochs = 1
  return Engine(c, data)


def same(a, b):
  return all(np.array_equal(x, y, equal_nan=True)
             for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_two_runs_are_bit_identical_and_one_program_serves_all_epochs(engine):
  params, records = engine.fit()
  again, records_again = engine.fit()
  assert same(params, again) and records == records_again
  assert [stage for _, stage, *_ in records[:3]] == ["pretrain", "pretrain", "joint"]
  assert engine.programs.compiled_once()


@pytest.mark.parametrize("streamed", [False, True])
def test_members_in_turn_are_the_runs_of_each_to_the_bit_by_one_program(engine, data, monkeypatch,
                                                                        streamed):
  several, rows = Engine(engine.config, data, count=3), [ROWS, (ROWS[0][:-20], ROWS[1]), ROWS]
  source = lambda engine: streamed_source(engine, data, monkeypatch) if streamed else None
  params, records = several.fit(several.members((5, 6, 7)), several.splits(rows), source(several))
  assert streamed or several.programs.compiled_once()
  for m in range(3):
    split = jax.tree.map(lambda x: x[m:m + 1], several.splits(rows))
    alone, own = engine.fit(engine.members((5 + m,)), split, source(engine))
    assert same(alone, jax.tree.map(lambda x: x[m:m + 1], params))
    assert [r[1:] for r in own] == [r[1:] for r in records if r[0] == m]


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
  monkeypatch.setattr(train, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
  monkeypatch.setattr(engine.programs, "epoch", takes(1, engine.programs.epoch))
  train.fit(engine.programs, engine.members(), engine.splits(), engine.data, TASKS,
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


def streamed_source(engine, data, monkeypatch):
  """The rows as a Stream, three steps of one member in a piece."""
  monkeypatch.setattr(stream, "_CHUNK_BYTES", 3 * 16 * 16 * 4)
  stats = preprocess.fit_folds(data["inputs"], data["observed"], ("a", "b", "c"), [ROWS[0]],
                               engine.config.preprocess)
  cohort = types.SimpleNamespace(inputs=data["inputs"], observed=data["observed"],
                                 labels=data["labels"], modalities=("a", "b", "c"))
  return stream.Stream(cohort, data["patient"],
                       engine.programs.resident(preprocess.stack(stats)))


def test_a_run_goes_on_on_fewer_devices(engine, data, tmp_path):
  """8 -> 2 -> 1 devices, 20 steps on each: each step (all rows, so one is an epoch) like on 8."""
  on = {n: Engine(engine.config, data, n, **{"train.batch_size": len(ROWS[0])}) for n in (8, 2, 1)}
  stages = [tuple(dataclasses.replace(s, patience=None, epochs=epochs)
                  for s, epochs in zip(on[8].model.stages, (10, 50)))]
  _, expected = on[8].fit(stages=stages)
  kept, records = {}, []
  member, at = on[8].members(), (0, 0)
  for devices in (8, 2, 1):
    asked = iter(range(100))
    last = None if devices == 1 else 20
    def keep(phase, epoch, member):
      checkpoint.save(tmp_path, 100 * phase + epoch, dict(at=np.array([phase, epoch]),
                                                          member=member), 1)
    with contextlib.suppress(stopping.Interrupted):
      on[devices].fit(member, at=at, stages=stages, save=keep, note=records,
                      should_stop=lambda: last == next(asked))
    like = dict(at=np.zeros(2, int), member=on[1].programs.to_host(on[1].members()))
    _, kept = checkpoint.restore(tmp_path, like)
    member, at = kept["member"], tuple(int(x) for x in kept["at"])
  assert [r[:3] for r in records] == [r[:3] for r in expected] and len(expected) == 60
  for (*_, a), (*_, b) in zip(records, expected):
    np.testing.assert_allclose([a[k] for k in b], list(b.values()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(a["train/loss"], b["train/loss"], rtol=1e-5)


def test_early_stopping_keeps_the_best_parameters(engine, data):
  params, records = engine.fit()
  joint = [scalars["val/loss"] for _, stage, _, scalars in records if stage == "joint"]
  fold = engine.programs.by_member(np.zeros(1, np.int32))
  p = engine.programs.predict(engine.programs.by_member(params), fold,
                              ROWS[1][None].astype(np.int32), engine.data)[0]
  scalars, _ = validation.score(jnp.asarray(p), jnp.asarray(data["labels"][ROWS[1]]), "loss")
  assert scalars["loss"] == pytest.approx(min(joint), rel=1e-6)
  assert np.argmin(joint) >= len(joint) - 1 - engine.config.train.joint.patience


@pytest.mark.parametrize("together", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_members_in_one_program_equal_separate_runs(engine, data, together):
  """Their own seeds, rows (of other numbers), rates, dropout and stopping."""
  rows = [ROWS, (np.arange(20, 127), np.arange(0, 20)), (np.arange(0, 120, 2), ROWS[1])]
  rates, dropout, seeds = [3e-3, 5e-2, 1e-3], [0.2, 0.0, 0.5], [5, 6, 7]
  first, second = engine.model.stages
  stages = [(first, dataclasses.replace(second, learning_rate=rate, patience=1)) for rate in rates]
  alone = [engine.fit(engine.members([seed], dropout=[rate]), engine.splits([r]), stages=[stage])
           for seed, r, rate, stage in zip(seeds, rows, dropout, stages)]
  lengths = [len(records) for _, records in alone]
  assert len(set(lengths)) > 1   # they stop at different epochs
  joined = Engine(engine.config, data, count=3, **{"members.together": together})
  params, records = joined.fit(joined.members(seeds, dropout=dropout), joined.splits(rows),
                               stages=stages)
  compare_members(params, records, alone)


def test_members_share_the_data(engine, data):
  """However many train at once, the program holds the rows once."""
  joined = Engine(engine.config, data, count=3, **{"members.together": 3})
  programs_ = joined.programs
  splits = programs_.by_member(joined.splits([ROWS] * 3))
  text = programs_._resident.lower(joined.members([5, 6, 7]), splits,
                                   joined.data).as_text()
  once = "x".join(map(str, joined.data["inputs"]["b"].shape))
  assert f"tensor<{once}xf32>" in text and f"tensor<3x{once}xf32>" not in text


def compare_members(params, records, alone):
  for m, (expected, expected_records) in enumerate(alone):
    mine = [(0, *r[1:]) for r in records if r[0] == m]
    assert [r[:3] for r in mine] == [r[:3] for r in expected_records]
    for (*_, a), (*_, b) in zip(mine, expected_records):
      np.testing.assert_allclose([a[k] for k in b], list(b.values()), rtol=1e-3, atol=1e-5)
    close(jax.tree.map(lambda x: x[m], params), jax.tree.map(lambda x: x[0], expected), 2e-3)


@pytest.mark.parametrize("devices, parallel", [(8, "jit"), (2, "jit"), (4, "pmap")])
def test_members_over_devices_equal_separate_runs(engine, data, devices, parallel):
  """On 8 devices 3 members lie over 2 (one repeated as padding) and their rows over 4."""
  seeds = [5, 6, 7]
  alone = [engine.fit(engine.members([seed])) for seed in seeds]
  joined = Engine(engine.config, data, devices, count=3, parallel=parallel)
  params, records = joined.fit(joined.members(seeds), joined.splits([ROWS] * 3))
  compare_members(params, records, alone)


def test_streamed_batches_follow_the_resident_ones(engine, data, monkeypatch):
  """Raw rows read from the host in small pieces and preprocessed in the step."""
  observed = data["observed"]
  raw = {m: x.copy() for m, x in data["inputs"].items()}
  raw["a"][::7, 2] = np.nan
  config = engine.config
  stats = preprocess.fit_folds(raw, observed, ("a", "b", "c"), [ROWS[0]], config.preprocess)
  done = {m: x[None] for m, x in preprocess.transform(stats[0], raw, observed, "abc").items()}
  other = Engine(config, data | {"inputs": {m: x[0] for m, x in done.items()}}, 2)
  expected, records = other.fit()
  monkeypatch.setattr(stream, "_CHUNK_BYTES", 3 * 16 * 16 * 4)   # three steps at a time
  cohort = types.SimpleNamespace(inputs=raw, observed=observed, labels=data["labels"],
                                 modalities=("a", "b", "c"))
  source = stream.Stream(cohort, data["patient"], other.programs.resident(preprocess.stack(stats)))
  params, streamed = other.fit(data=source)
  compare_members(params, streamed, [(expected, records)])


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
  member, report = engine.programs.epoch(engine.members(), splits, engine.programs.resident(bad))
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
      few.programs.by_member(kept["member"]), few.programs.by_member(few.splits()), few.data)
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
