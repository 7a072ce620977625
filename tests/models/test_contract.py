"""What every model of the zoo owes, whatever its method: over all names in MODELS and a toy that
uses what the engine offers. Sizes are tiny, and a model's compiled programs are shared.

What the engine owes to any model is in tests/engine/test_methods.py; of every model it is asked
here too, on demand.
"""

import contextlib
import dataclasses
import types

import jax
import numpy as np
import pytest

from crl_jax import config as config_lib, models
from crl_jax.backbones import resnet
from crl_jax.engine import checkpoint, step
from crl_jax.models.parts import losses
from tests import toy_model
from tests.small_engine import (ROWS, TASKS, Engine, batch_of, build, close, compare_members, drawn,
                                make_data, prepared, raw, same, small, streamed_source, wanted)

NAMES = *models.MODELS, "toy"
# models that choose edges by a threshold, or the largest: another order of summation moves their
# parameters
PIECEWISE = "m3care", "raindrop"


@pytest.fixture(scope="module", params=NAMES)
def name(request):
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, "toy", models.Entry("a toy", "left out", toy_model.build))
    patch.setitem(resnet.DEPTHS, "resnet10", ((1,), False))   # compiles quickly
    yield request.param


@pytest.fixture(scope="module")
def data(name):
  return make_data(wanted(name))


@pytest.fixture(scope="module")
def engine(name, data):
  return Engine(small(name), data)


@pytest.fixture(scope="module")
def one(name, data):
  """Of a model: drawn parameters, what it keeps of the training rows, a batch of 16 rows with every
  kind of gap, and per mode

  learn(params, inputs, batch) -> (loss, (Terms, Outputs)), gradients in parameters and inputs;
  ask(params, batch) -> probabilities in the last stage's mode.
  """
  model = build(small(name), data)
  kept = jax.tree.map(lambda x: x[0], prepared(model, data)) or None
  params = drawn(model)
  if model.hooks:   # as a stage leaves the parameters that hooks set
    carry = model.hooks.start(params)
    for stage in model.stages:
      params, carry = model.hooks.begin(params, carry, kept, jax.random.key(4), stage.mode)

  def learns(mode):
    def learn(params, inputs, batch):
      batch, rng = batch.replace(inputs=inputs), jax.random.key(5)
      outputs = model.apply(params, batch, True, rng, mode=mode, prepared=kept)
      if model.join:
        outputs = model.join(params, outputs, batch.replace(inputs={}), batch.valid, True, rng,
                             mode=mode, prepared=kept)
      terms = model.loss(outputs, batch)
      return sum((1.0 + i) * losses.reduce(*terms[term])
                 for i, term in enumerate(sorted(terms))), (terms, outputs)
    return jax.jit(jax.value_and_grad(learn, (0, 1), has_aux=True))

  stages = {mode: learns(mode) for mode in {stage.mode: 0 for stage in model.stages}}
  how = dict(model=model, mode=model.stages[-1].mode)
  ask = jax.jit(lambda params, batch: step.eval_step(
      params, batch, step.memory(params, kept, **how), kept, **how))
  rows = np.r_[ROWS[1][:13], 0, 1, 2]
  batch = batch_of(data, rows)
  batch = batch.replace(observed=np.concatenate([np.eye(3, dtype=bool), np.ones((1, 3), bool),
                                                 np.zeros((1, 3), bool), batch.observed[5:]]))
  return types.SimpleNamespace(model=model, params=params, kept=kept, batch=batch, stages=stages,
                               ask=ask)


def gap(batch, value, observed=None):
  """The inputs with `value` under what is not observed."""
  observed = batch.observed if observed is None else observed
  return {m: np.where(observed[:, i].reshape(-1, *[1] * (x.ndim - 1)), x, value).astype(np.float32)
          for i, (m, x) in enumerate(batch.inputs.items())}


def test_padding_rows_change_no_loss_and_no_gradient(one):
  batch, valid = one.batch, np.arange(16) < 12
  fill = lambda x, value: np.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, value).astype(x.dtype)
  padded = [batch.replace(valid=valid, labels=fill(batch.labels, label),
                          observed=fill(batch.observed, label == 1),
                          inputs={m: fill(x, value) for m, x in batch.inputs.items()})
            for label, value in ((0.0, 0.0), (1.0, 7.0))]
  for learn in one.stages.values():
    (loss, (terms, _)), (gradient, _) = learn(one.params, padded[0].inputs, padded[0])
    (other, _), (others, _) = learn(one.params, padded[1].inputs, padded[1])
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    close(others, gradient, 1e-5)
    for term, _ in terms.values():
      assert (term.count[12:] == 0).all() and (term.weight[12:] == 0).all()


def test_rows_in_another_order_and_company_are_the_same(one):
  batch, order = one.batch, np.random.default_rng(0).permutation(16)
  for learn in one.stages.values():
    (loss, (terms, outputs)), _ = learn(one.params, batch.inputs, batch)
    mixed = jax.tree.map(lambda x: x[order], batch)
    (again, (others, moved)), _ = learn(one.params, mixed.inputs, mixed)
    np.testing.assert_allclose(again, loss, rtol=1e-5)
    close((others, moved.logits),
          jax.tree.map(lambda x: x[order] if np.ndim(x) and len(x) == 16 else x,
                       (terms, outputs.logits)), 1e-4)
  p = np.asarray(one.ask(one.params, batch))
  some = np.r_[np.repeat(4, 10), [0, 2, 4, 9, 11, 15]]
  np.testing.assert_allclose(one.ask(one.params, jax.tree.map(lambda x: x[some], batch)), p[some],
                             atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, 1e30, -3.0])
def test_unobserved_content_enters_nowhere(one, value):
  batch, hidden = one.batch, gap(one.batch, 0.0)
  for learn in one.stages.values():
    (loss, _), _ = learn(one.params, hidden, batch)
    (other, _), (gradient, inner) = learn(one.params, gap(batch, value), batch)
    assert other == loss and np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    for i, (m, g) in enumerate(inner.items()):
      assert (np.asarray(g)[~batch.observed[:, i]] == 0).all(), m
  np.testing.assert_array_equal(one.ask(one.params, batch.replace(inputs=gap(batch, value))),
                                one.ask(one.params, batch.replace(inputs=hidden)))


@pytest.mark.parametrize("observed", [
    np.eye(3, dtype=bool)[np.arange(16) % 3], np.zeros((16, 3), bool),
    np.tile([True, False, True], (16, 1))], ids=["one", "none", "a modality that nobody has"])
def test_any_pattern_has_a_finite_loss_and_gradient(one, observed):
  batch = one.batch.replace(observed=observed)
  for learn in one.stages.values():
    (loss, _), (gradient, _) = learn(one.params, batch.inputs, batch)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
  p = np.asarray(one.ask(one.params, batch))
  assert ((p > 0) & (p < 1)).all()


def test_labels_are_not_read_where_predictions_are_asked(one):
  p = np.asarray(one.ask(one.params, one.batch))
  for labels in (one.batch.labels * np.nan, 1 - one.batch.labels):
    np.testing.assert_array_equal(one.ask(one.params, one.batch.replace(labels=labels)), p)


def drive(engine, train, val, epochs, rate):
  """The last report of so many epochs of the last stage on rows `train`."""
  programs, stage = engine.programs, engine.model.stages[-1]
  pad = lambda rows, n: np.pad(rows, (0, n - len(rows)), constant_values=-1).astype(np.int32)[None]
  split = programs.by_member(step.Split(pad(train, 120), pad(val, 40), np.zeros(1, np.int32)))
  member = engine.members()
  for each in engine.model.stages:
    each = dataclasses.replace(each, learning_rate=rate, patience=None)
    member = programs.enter(member, values_of(engine, each), split.fold, engine.data, each)
    last = each.name == stage.name
    # what the last stage holds is trained before
    for _ in range(epochs if last else 60 if stage.trains else 0):
      member, report = programs.epoch(member, split, engine.data, each)
  return programs.to_host(report)


def values_of(engine, stage):
  return engine.programs.by_member(jax.tree.map(
      lambda x: np.stack([x]), step.stage_values(stage, step.terms(engine.model.stages))))


@pytest.mark.slow
def test_it_can_learn_32_rows_by_heart(name, engine, data):
  """A model of some kind of input alone: rows that have all."""
  rows = np.flatnonzero(data["observed"].sum(1) > (2 if wanted(name) else 1))[:32]
  report = drive(engine, rows, rows, 150, 1e-2)
  assert np.nanmean(report["val"]["auroc"][0]) > 0.99


@pytest.mark.slow
def test_every_save_goes_on_to_the_same_bits_by_one_program_each(engine, tmp_path):
  saves, template = [], engine.programs.to_host(engine.members((9,)))
  def keep(phase, epoch, member):
    folder = tmp_path / str(len(saves))
    checkpoint.save(folder, 0, dict(member=member), 1)
    saves.append((folder, phase, epoch, int(member.total[0])))
  params, records = engine.fit(save=keep)
  assert len(saves) > len(engine.model.stages)   # within a stage, too
  for folder, phase, epoch, total in saves[:-1]:
    _, found = checkpoint.restore(folder, dict(member=template))
    again, rest = engine.fit(found["member"], at=(phase, epoch))
    assert same(again, params) and rest == records[total:]
  assert engine.programs.compiled_once()


def test_whatever_a_stage_trains_has_a_gradient_in_it_and_nothing_is_left_out(one):
  model, learned = one.model, set()
  for stage in model.stages:
    (_, (terms, _)), (gradient, _) = one.stages[stage.mode](one.params, one.batch.inputs, one.batch)
    assert terms.keys() <= stage.weights.keys()
    assert all(set(named) <= terms.keys() for named, _ in stage.turns)
    trains = stage.trains or tuple(path for _, paths in stage.turns for path in paths)
    flat = {step._keys(path): x for path, x in jax.tree_util.tree_leaves_with_path(gradient)}
    own = {path for path in flat if not step._begins(path, model.fixed) and (
        not trains or step._begins(path, trains))}
    assert not [path for path in own if not np.any(flat[path])], stage.name
    learned |= own
  assert learned == {path for path in flat if not step._begins(path, model.fixed)}


@pytest.mark.slow
@pytest.mark.parametrize("devices, parallel, parts", [
    (8, "jit", 1), (8, "pmap", 1), (1, "jit", 4), (3, "jit", 1)])
def test_any_layout_gives_the_same_numbers(name, engine, data, devices, parallel, parts):
  _, records = engine.fit()
  other = Engine(small(name), data, devices, parallel=parallel, **{"train.microbatches": parts})
  _, others = other.fit()
  assert [r[:3] for r in others] == [r[:3] for r in records] and other.programs.compiled_once()
  loose = name in PIECEWISE
  for (*_, a), (*_, b) in zip(others, records):
    for key, value in b.items():
      tolerance = 0.02 if "auroc" in key else (1e-2 if loose else 2e-4) * abs(value)
      assert a[key] == pytest.approx(value, abs=tolerance + 1e-6, nan_ok=True), key


@pytest.mark.slow
def test_members_mapped_are_as_many_runs(name, engine, data):
  alone = [engine.fit(engine.members([seed])) for seed in (5, 6, 7)]
  joined = Engine(small(name), data, count=3, **{"members.together": 3})
  params, records = joined.fit(joined.members((5, 6, 7)), joined.splits([ROWS] * 3))
  compare_members(params, records, alone)


@pytest.mark.slow
def test_streamed_rows_are_the_resident_ones(name, engine, data, monkeypatch):
  """Rows that are preprocessed in the step, or before."""
  from crl_jax.data import preprocess
  source = streamed_source(engine, data, monkeypatch)
  source.prepared = engine.data.get("prepared")
  stats = jax.tree.map(lambda x: np.asarray(x[0]), source.stats)
  done = preprocess.transform(stats, raw(data), data["observed"], ("a", "b", "c"))
  resident = engine.programs.resident(
      {**engine.data, "inputs": {m: x[None] for m, x in done.items()}})
  params, records = engine.fit(data=resident)
  streamed, others = engine.fit(data=source)
  compare_members(streamed, others, [(params, records)])


@pytest.mark.slow
def test_a_run_is_exported_explained_and_predicts_the_same(name, tiny_config, tmp_path):
  from crl_jax import run
  from crl_jax.serve import explain, export, predictor as predictor_lib
  c = config_lib.override(tiny_config, [f"model.name={name}", "members.folds=2"]).unlock()
  for stage in c.model[name].get("stages", {}).values():
    stage.epochs = 1
  if kinds := wanted(name):
    c.data.simulate.kinds = (*kinds, "vector", "vector")
    c.vision.width, c.data.simulate.sizes = 4, (9, 6, 5)
    if "depth" in c.model[name]:
      c.model[name].depth = 10
  with contextlib.redirect_stdout(None):
    run.run(c.lock(), tmp_path / "run")
  export.export(tmp_path / "run", tmp_path / "export")
  staged = jax.export.deserialize((tmp_path / "export" / "model.stablehlo").read_bytes())
  weights = dict(np.load(tmp_path / "export" / "weights.npz", allow_pickle=False))
  found = predictor_lib.load(tmp_path / "run")
  rng = np.random.default_rng(0)
  observed = (np.arange(16)[:, None] >> np.arange(3) & 1).astype(bool)   # also never seen ones
  inputs = {m: (rng.integers(0, 256, (16, *shape)).astype(np.uint8) if len(shape) == 3 else
                rng.normal(size=(16, *shape)).astype(np.float32))
            for m, shape in found.shapes.items()}
  for a, b in zip(staged.call(weights, inputs, observed), found(inputs, observed)):
    np.testing.assert_allclose(a, b, atol=1e-6)
  one = explain.of_run(tmp_path / "run", rows=8)
  np.testing.assert_allclose(one.nothing + one.values.sum(1), one.prediction, atol=1e-5)


@pytest.mark.parametrize("wanting", [
    name for name, about in models.MODELS.items() if about.inputs != "any"])
def test_a_cohort_without_the_kind_that_a_model_wants_is_refused_in_a_line(wanting):
  spec = models.Spec(("waves", "words"), TASKS, {"waves": (4, 3), "words": (2, 5)}, (0,),
                     {"words": "text"})
  with pytest.raises(ValueError) as error:
    models.build(small(wanting), spec)
  said = str(error.value)
  assert f"model '{wanting}'" in said and "none: waves (sequence), words (text)" in said
  assert "\n" not in said
