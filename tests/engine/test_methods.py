"""What the engine offers to a method beside a loss of its outputs, by a toy that uses it all: rows
that meet, modes, trained parts, turns, hooks, constants and support of the training rows."""

import jax
import numpy as np
import pytest

from crl_jax import models
from crl_jax.engine import checkpoint, step
from tests import toy_model
from tests.small_engine import (ROWS, Engine, batch_of, compare_members, make_data, prepared,
                                same, small, streamed_source)


@pytest.fixture(scope="module", autouse=True)
def known():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, "toy", models.Entry("a toy", "left out", toy_model.build))
    yield


@pytest.fixture(scope="module")
def data():
  return make_data()


@pytest.fixture(scope="module")
def engine(known, data):
  return Engine(small("toy"), data)


@pytest.fixture(scope="module")
def trained(engine):
  """(best parameters, records, [(phase, epoch, Member)] of every save)."""
  saves = []
  params, records = engine.fit(save=lambda *at: saves.append(at))
  return params, records, saves


def test_every_save_goes_on_to_the_same_bits_by_one_program_each(engine, trained, tmp_path):
  params, records, saves = trained
  assert [at[:2] for at in saves] == [(1, 0), (1, 1), (2, 0)]
  template = engine.programs.to_host(engine.members((9,)))
  for phase, epoch, member in saves[:-1]:
    folder = tmp_path / f"{phase}{epoch}"
    checkpoint.save(folder, 0, dict(member=member), 1)
    _, found = checkpoint.restore(folder, dict(member=template))
    again, rest = engine.fit(found["member"], at=(phase, epoch))
    assert same(again, params) and rest == records[int(member.total[0]):]
  assert engine.programs.compiled_once()


def flat(tree):
  return {step._keys(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_stage_trains_its_own_parameters_and_the_others_stay_to_the_bit(engine, trained):
  model, start = engine.model, engine.programs.to_host(engine.members())
  alone, turns = (at[2].state for at in (trained[2][0], trained[2][-1]))
  moves = lambda old, new: {path for path, x in flat(old).items() if not same(x, flat(new)[path])}
  hooked = {path for path in flat(start.best) if step._begins(path, model.fixed)}
  own = lambda paths: {path for path in flat(start.best) if step._begins(path, paths)}
  assert moves(start.state.params, alone.params) == own(model.stages[0].trains) | hooked
  assert {path for path, x in flat(alone.opt_state[1].nu).items() if x.any()} == own(
      model.stages[0].trains)
  trains = [path for _, paths in model.stages[1].turns for path in paths]
  assert moves(trained[2][0][2].best, turns.params) == own(trains) | hooked


def test_hooks_are_asked_when_they_should_be(trained):
  """120 rows an epoch, seen once and then in each of two turns; a part opens after an epoch."""
  carries = [at[2].state.carry for at in trained[2]]
  assert [float(c["rows"][0]) for c in carries] == [120, 360, 600]
  assert [int(c["epoch"][0]) for c in carries] == [1, 2, 3]
  member = trained[2][0][2]
  assert same(member.state.carry["start"], member.state.params["encode_a"])
  # what close() does after an epoch, that epoch's best has not
  assert member.state.params["join"]["layers"][0] == 1 and member.best["join"]["layers"][0] == 0
  # begin() draws anew for every stage
  centres = [at[2].state.params["centres"] for at in trained[2]]
  assert not same(centres[0], centres[1]) and same(centres[1], centres[2])


def test_validation_is_in_the_stages_mode_and_predictions_are_in_the_lasts(engine, data, trained):
  params, records, saves = trained
  kept = jax.tree.map(lambda x: x[0], prepared(engine.model, data))
  @jax.jit
  def ask(params, batch, kept):
    return [step.eval_step(params, batch, step.memory(params, kept, model=engine.model, mode=mode),
                           kept, model=engine.model, mode=mode) for mode in ("alone", "")]
  batch, first = batch_of(data, ROWS[1]), lambda tree: jax.tree.map(lambda x: x[0], tree)
  member = saves[0][2]
  labels, defined = np.nan_to_num(batch.labels), ~np.isnan(batch.labels)
  def loss(p):
    each = np.where(defined, -np.log(np.where(labels > 0, p, 1 - p)), 0)
    return (each.sum(0) / defined.sum(0)).mean()
  alone, together = ask(first(member.state.params), batch, kept)
  assert records[0][3]["val/loss"] == pytest.approx(float(loss(alone)), rel=1e-4)
  assert np.abs(alone - together).max() > 1e-3
  p = engine.programs.predict(*engine.programs.by_member((params, np.zeros(1, np.int32))),
                              ROWS[1][None].astype(np.int32), engine.data)
  found = ask(first(params), batch, kept)[1]
  np.testing.assert_allclose(p[0], found, atol=1e-6)
  # they met the support, and constants of the training rows are read
  for other in (dict(kept, share=kept["share"] * 0), dict(kept, support=kept["support"].replace(
      observed=~kept["support"].observed))):
    assert np.abs(ask(first(params), batch, other)[1] - found).max() > 1e-3


@pytest.mark.parametrize("devices, parallel, parts, together", [
    (4, "pmap", 2, 2), *(pytest.param(*how, marks=pytest.mark.slow) for how in (
        (1, "jit", 1, 2), (8, "jit", 1, 0), (3, "jit", 4, 1)))])
def test_members_on_any_layout_are_as_many_runs_on_one_device(engine, data, devices, parallel,
                                                              parts, together):
  alone = [engine.fit(engine.members([seed])) for seed in (5, 6)]
  joined = Engine(small("toy"), data, devices, count=2, parallel=parallel,
                  **{"train.microbatches": parts, "members.together": together})
  params, records = joined.fit(joined.members((5, 6)), joined.splits([ROWS] * 2))
  compare_members(params, records, alone)
  assert joined.programs.compiled_once()


def test_streamed_rows_are_the_resident_ones(engine, data, monkeypatch):
  """Rows that are preprocessed in the step, or before."""
  from crl_jax.data import preprocess
  source = streamed_source(engine, data, monkeypatch)
  source.prepared = engine.data["prepared"]
  stats = jax.tree.map(lambda x: np.asarray(x[0]), source.stats)
  done = preprocess.transform(stats, data["inputs"], data["observed"], ("a", "b", "c"))
  resident = engine.programs.resident(
      {**engine.data, "inputs": {m: x[None] for m, x in done.items()}})
  expected, (params, records) = engine.fit(data=resident), engine.fit(data=source)
  compare_members(params, records, [expected])
