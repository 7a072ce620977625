"""Folds x seeds in one run against as many runs."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from sklearn import metrics

from crl_jax import config as config_lib, pipeline
from crl_jax.data import preprocess, sources, stream
from crl_jax.engine import loop, members, step
from crl_jax.models import record

FIRST_STEPS = 50   # whose losses must agree to rounding; long training amplifies it


class Losses:
  """A writer.Writer that keeps each member's losses, (steps,) of every epoch."""

  def __init__(self):
    self.found = {}

  def rewind(self, epoch):
    pass

  def write(self, member, stage, epoch, scalars):
    self.found.setdefault(member, []).append(scalars["steps"])


def tell_steps(patch):
  """From here on epochs tell their steps' losses instead of their mean."""
  close = step.close_epoch
  def close_epoch(member, state, scalars, *rest):
    member, report = close(member, state, scalars, *rest)
    return member, report | dict(steps=scalars["loss"])
  patch.setattr(step, "close_epoch", close_epoch)
  patch.setattr(loop, "_scalars", lambda report, m, tasks: dict(steps=report["steps"][m]))


@pytest.fixture(scope="module")
def twenty_five(quickly, tmp_path_factory):
  """(trained(plans, together) -> (steps' losses, test predictions), plans, each alone, cohort,
  splits) of five folds by five seeds of a small cohort."""
  c = config_lib.paper_tasks(config_lib.default()).unlock()
  c.model.width, c.model.heads = 16, 4
  c.data.simulate.rows, c.data.simulate.sizes, c.data.simulate.draws = 1000, (6, 20, 12, 12), 64
  c.train.batch_size, c.train.pretrain.epochs, c.train.joint.epochs = 32, 1, 5
  c.checkpoint.every_epochs, c.members.folds, c.members.seeds = 10, 5, 5
  prepared = pipeline.prepare(c.lock())
  cohort, splits = prepared.cohort, prepared.splits

  def trained(plans, together=0):
    each = [config_lib.override(plan.config, [f"members.together={together}"]) for plan in plans]
    plans = [dataclasses.replace(plan, config=config) for plan, config in zip(plans, each)]
    log = Losses()
    with quickly(), pytest.MonkeyPatch.context() as patch:
      tell_steps(patch)
      ready = members.fit(plans, cohort, prepared.rows, prepared.stats,
                          tmp_path_factory.mktemp("training"), {}, log, lambda *_: None,
                          lambda: False)
      return log.found, ready.predict([splits.rows(plan.fold, "test") for plan in plans])

  plans = members.grid(c)
  return trained, plans, [trained([plan]) for plan in plans], cohort, splits


@pytest.mark.slow
@pytest.mark.parametrize("together", [0, 25])   # one after another, and one vmapped program
def test_twenty_five_members_are_twenty_five_runs(twenty_five, together):
  trained, plans, alone, cohort, splits = twenty_five
  losses, p = trained(plans, together)
  for m, (plan, (expected, [own])) in enumerate(zip(plans, alone)):
    steps = -(-len(splits.rows(plan.fold, "train")) // plan.config.train.batch_size)
    # a member with fewer rows than another has empty steps at the end of its epochs
    first, own_first = (np.concatenate([epoch[:steps] for epoch in found[plan.name]])[:FIRST_STEPS]
                        for found in (losses, expected))
    assert len(own_first) == FIRST_STEPS and own_first.all()
    np.testing.assert_allclose(first, own_first, rtol=1e-4)
    y = cohort.labels[splits.rows(plan.fold, "test")]
    for t in range(y.shape[1]):
      known = ~np.isnan(y[:, t])
      for score in (metrics.roc_auc_score, metrics.brier_score_loss):
        a, b = (score(y[known, t], found[known, t]) for found in (p[m], own))
        assert abs(a - b) < 0.005
  assert len({epochs[0][0] for epochs in losses.values()}) == 25


def test_a_stage_may_see_some_of_the_training_rows(tiny_config):
  observed = np.array([[1, 1], [1, 0], [1, 1], [0, 1]], bool)
  cohort = types.SimpleNamespace(observed=observed, labels=np.zeros((4, 1), np.float32))
  full = lambda observed, labels, rng: observed.all(1)
  stage = record.Stage("joint", 1, 1e-3, {}, None, rows=full)
  plan, rows = members.Plan(0, 0, tiny_config), np.array([0, 1, 3, 2])
  assert members._train_rows(stage, cohort, rows, plan).tolist() == [0, 2]
  assert members._train_rows(dataclasses.replace(stage, rows=None), cohort, rows, plan) is rows
  with pytest.raises(ValueError, match="Phase 'joint' of crl_mmnar would see none"):
    members._train_rows(stage, cohort, np.array([1, 3]), plan)
  half = lambda observed, labels, rng: rng.random(len(observed)) < 0.5
  some = dataclasses.replace(stage, rows=half)
  drawn = lambda **seeds: members._train_rows(some, types.SimpleNamespace(
      observed=np.ones((200, 2), bool), labels=np.zeros((200, 1))), np.arange(200),
      dataclasses.replace(plan, **seeds)).tolist()
  assert drawn() == drawn() != drawn(seed=1) != drawn(fold=1)


def test_the_support_has_every_pattern_in_proportion(tiny_config):
  cohort = sources.build_cohort(tiny_config)
  train = np.arange(0, 300, 2)
  stats = preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, train,
                         tiny_config.preprocess)
  model = types.SimpleNamespace(support=40, prepare=lambda observed, labels: dict(
      rows=np.float32(len(observed))))
  rows = [dict(train=train), dict(train=train[:20])]
  kept = members.prepare(model, cohort, rows, [stats, stats], 0)
  assert kept["rows"].tolist() == [150, 20] and kept["support"].labels.shape == (2, 40, 2)
  first, second = (jax.tree.map(lambda x: x[fold], kept["support"]) for fold in (0, 1))
  assert first.valid.all() and second.valid.sum() == 20
  patterns = lambda observed: observed @ (1 << np.arange(3))
  mine, all_of = (np.bincount(patterns(x), minlength=8) for x in (
      first.observed, cohort.observed[train]))
  assert ((mine > 0) == (all_of > 0)).all() and np.abs(mine - 40 / 150 * all_of).max() < 2
  # they are training rows, preprocessed
  own = preprocess.transform(stats, cohort.inputs, cohort.observed, cohort.modalities)["structured"]
  assert all((own[train] == x).all(1).any() for x in first.inputs["structured"])
  again = members.prepare(model, cohort, rows, [stats, stats], 0)
  jax.tree.map(np.testing.assert_array_equal, kept, again)
  nothing = types.SimpleNamespace(support=0, prepare=None)
  assert members.prepare(nothing, cohort, rows, [], 0) is None


def test_what_members_may_differ_in():
  allowed = [line for line in (
      "model.dropout: 0 -> 1", "model.dropout_more: 0 -> 1", "train.joint.patience: 1 -> 2",
      "model.early.stages.alone.learning_rate: 0 -> 1", "model.early.stages.alone.epochs: 0 -> 1",
      "model.inforeg.weights.part: 0 -> 1", "model.inforeg.scale: 0 -> 1", "model.width: 1 -> 2")
             if members.may_differ(line, ["dropout"])]
  assert [line.split(":")[0] for line in allowed] == [
      "model.dropout", "train.joint.patience", "model.early.stages.alone.learning_rate",
      "model.inforeg.weights.part"]


@pytest.mark.parametrize("data, resident_gb, limit, streamed", [
    ("auto", 0.0, None, False), ("auto", 1e-6, None, True), ("auto", 0.0, 4000, True),
    ("auto", 0.0, 2 ** 30, False), ("resident", 1e-6, 4000, False), ("streamed", 0.0, None, True)])
def test_data_is_resident_where_it_fits(tiny_config, data, resident_gb, limit, streamed):
  """Half of the device's memory, or what the settings say."""
  config = config_lib.override(tiny_config, [f"train.data={data}",
                                             f"train.resident_gb={resident_gb}"])
  cohort = sources.build_cohort(config)
  stats = [preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, np.arange(200),
                          config.preprocess)] * 2
  device = types.SimpleNamespace(memory_stats=lambda: limit and {"bytes_limit": limit})
  programs = types.SimpleNamespace(resident=lambda tree: tree)
  placed = members._placed(cohort, stats, programs, config, device)
  assert isinstance(placed, stream.Stream) == streamed
  if not streamed:
    for m, x in placed["inputs"].items():
      one = preprocess.transform(stats[0], cohort.inputs, cohort.observed, cohort.modalities)[m]
      np.testing.assert_array_equal(x, np.stack([one] * 2))


def test_data_is_resident_up_to_the_very_byte(tiny_config):
  cohort = sources.build_cohort(tiny_config)
  stats = [preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, np.arange(200),
                          tiny_config.preprocess)]
  size = sum(x.nbytes for x in members.member_data(cohort, stats)["inputs"].values())
  programs = types.SimpleNamespace(resident=lambda tree: tree)
  for room, streamed in ((size, False), (size - 1, True)):
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2 * room})
    placed = members._placed(cohort, stats, programs, tiny_config, device)
    assert isinstance(placed, stream.Stream) == streamed
