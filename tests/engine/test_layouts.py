"""The same numbers on any layout: devices, parts of a batch, members in turn or at once, rows on
the device or streamed."""

import contextlib
import dataclasses
import functools
import types

import jax
import numpy as np
import pytest

from crl_jax import stopping
from crl_jax.data import preprocess, stream
from crl_jax.engine import checkpoint, step
from tests.small_engine import (ROWS, Engine, close, compare_members, make_data, make_engine, same,
                                streamed_source)


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def engine(data):
  return make_engine(data)


def twenty_steps(small_config, data, devices, **settings):
  """Losses of 2 epochs of 10 steps, epoch by epoch, and the parameters after them."""
  engine = Engine(small_config, data, devices, **settings)
  programs_, stage = engine.programs, dataclasses.replace(engine.model.stages[-1],
                                                          learning_rate=1e-3)
  values = jax.tree.map(lambda x: np.stack([x]), step.stage_values(stage))
  splits = programs_.by_member(engine.splits([(np.arange(155), ROWS[1])]))
  member = programs_.enter(engine.members(), programs_.by_member(values), splits.fold, engine.data,
                           stage)
  reports = []
  for _ in range(2):
    member, report = programs_.epoch(member, splits, engine.data, stage)
    reports.append(programs_.to_host(report))
  host = programs_.to_host(member)
  assert host.state.step[0] == 20 and programs_.compiled_once()
  return np.array([r["train"]["loss"][0] for r in reports]), host.state.params, reports


@pytest.fixture(scope="module")
def done():
  return {}


@pytest.fixture
def one_device(small_config, data, done):
  """one_device(dropout): twenty_steps() on one device, with which other layouts are compared."""
  def of(dropout):
    if dropout not in done:
      done[dropout] = twenty_steps(small_config, data, 1, **settings_of(dropout))
    return done[dropout]
  return of


def settings_of(dropout):
  return {"model.dropout": dropout, "train.batch_size": 16}


@pytest.fixture(scope="module")
def alone(engine):
  """alone(seed): the run of that member by itself."""
  return functools.cache(lambda seed: engine.fit(engine.members([seed])))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_one_device_eight_under_jit_and_eight_under_pmap_agree(small_config, data, one_device,
                                                               dropout):
  settings = settings_of(dropout)
  loss, params, reports = one_device(dropout)
  assert loss[1] < loss[0]
  for parallel in ("jit", "pmap"):
    other, others, told = twenty_steps(small_config, data, 8, parallel=parallel, **settings)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    close(others, params, 1e-5)
    close([r["val"] for r in told], [r["val"] for r in reports], 1e-5)


def test_a_batch_size_that_devices_do_not_divide_gives_the_same_numbers(small_config, data,
                                                                        one_device):
  loss, *_ = one_device(0.2)
  other, *_ = twenty_steps(small_config, data, 3, **settings_of(0.2))
  np.testing.assert_allclose(other, loss, rtol=1e-5)


def test_a_batch_in_parts_gives_the_same_numbers(small_config, data, one_device):
  settings = settings_of(0.2)
  loss, params, _ = one_device(0.2)
  for devices, parallel in ((1, "jit"), (3, "jit"), (3, "pmap")):
    other, others, _ = twenty_steps(small_config, data, devices, parallel=parallel,
                                    **{"train.microbatches": 4}, **settings)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    close(others, params, 1e-5)


def test_bfloat16_follows_float32_and_keeps_float32_parameters(small_config, data, one_device):
  loss, *_ = one_device(0.0)
  other, params, _ = twenty_steps(small_config, data, 1, **{"train.precision": "bfloat16"},
                                  **settings_of(0.0))
  np.testing.assert_allclose(other, loss, rtol=0.03)
  assert not np.array_equal(other, loss)
  assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("streamed", [False, True])
def test_members_in_turn_are_the_runs_of_each_by_one_program(engine, data, monkeypatch, streamed):
  """To the bit where the rows are resident; pieces of a stream hold other numbers of members, so
  these are other programs."""
  several, rows = Engine(engine.config, data, count=3), [ROWS, (ROWS[0][:-20], ROWS[1]), ROWS]
  source = lambda engine: streamed_source(engine, data, monkeypatch) if streamed else None
  params, records = several.fit(several.members((5, 6, 7)), several.splits(rows), source(several))
  assert streamed or several.programs.compiled_once()
  for m in range(3):
    split = jax.tree.map(lambda x: x[m:m + 1], several.splits(rows))
    alone, own = engine.fit(engine.members((5 + m,)), split, source(engine))
    mine = jax.tree.map(lambda x: x[m:m + 1], params)
    if streamed:
      compare_members(mine, [(0, *r[1:]) for r in records if r[0] == m], [(alone, own)])
    else:
      assert same(alone, mine)
      assert [r[1:] for r in own] == [r[1:] for r in records if r[0] == m]


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
  text = programs_.variant(joined.model.stages[0]).resident.lower(
      joined.members([5, 6, 7]), splits, joined.data).as_text()
  once = "x".join(map(str, joined.data["inputs"]["b"].shape))
  assert f"tensor<{once}xf32>" in text and f"tensor<3x{once}xf32>" not in text


@pytest.mark.parametrize("devices, parallel", [
    (8, "jit"), (2, "jit"), pytest.param(4, "pmap", marks=pytest.mark.slow)])
def test_members_over_devices_equal_separate_runs(engine, data, alone, devices, parallel):
  """On 8 devices 3 members lie over 2 (one repeated as padding) and their rows over 4."""
  seeds = [5, 6, 7]
  joined = Engine(engine.config, data, devices, count=3, parallel=parallel)
  params, records = joined.fit(joined.members(seeds), joined.splits([ROWS] * 3))
  compare_members(params, records, map(alone, seeds))


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


@pytest.mark.slow
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
