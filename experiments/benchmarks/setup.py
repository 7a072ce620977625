"""What the training parts start from: the simulated cohort of MIMIC's shape and members in phase 2,
ready to be timed."""

import dataclasses
import time

import jax
import numpy as np

from configs import mimic
from crl_jax import config as config_lib, models, pipeline, processes
from crl_jax.engine import members, programs, step


def settings(options, *more):
  """The config: configs/mimic.py with raw inputs and the paper's batch and optimizer."""
  # the posterior draws are for the Bayes-optimal reference, of which nothing is asked here
  return config_lib.override(mimic.get_config(), [
      f"data.simulate.rows={options.rows}", "data.simulate.draws=2", "preprocess.components=0",
      "model.crl_mmnar.hide=all", "train.batch_size=32", "train.ema=0", *options.settings, *more])


@dataclasses.dataclass(frozen=True)
class Prepared:
  """The cohort on the host.

  Attributes:
    tasks: the T names.
    spec: models.Spec.
    data: as programs.resident() takes it, preprocessed for so many folds.
    train, val: per fold, the (n,) row indices.
  """
  tasks: tuple
  spec: models.Spec
  data: dict
  train: list
  val: list


def prepare(options, folds=1):
  """The Prepared cohort."""
  found = pipeline.prepare(settings(options, f"members.folds={folds}"))
  return Prepared(found.cohort.tasks, members.make_spec(found.cohort, found.stats[0]),
                  members.member_data(found.cohort, found.stats),
                  **{role: [rows[role] for rows in found.rows] for role in ("train", "val")})


class Bench:
  """Members in phase 2 that can be driven epoch by epoch."""

  def __init__(self, config, prepared, folds=(0,), steps=0):
    """folds: of the members, one each; steps: of an epoch that are run, 0 for all."""
    self.config = config
    self.model = models.build(config, prepared.spec)
    self.optimizer = step.make_optimizer(config)
    self.programs = programs.Programs(self.model, self.optimizer, config, prepared.spec.modalities,
                                      processes.select_devices(config.platform), len(folds))
    most = max(len(rows) for rows in prepared.train)
    self.epoch_steps = -(-most // config.train.batch_size)
    self.steps = min(steps, self.epoch_steps) or self.epoch_steps
    self._prepared, self._kept = prepared, min(most, self.steps * config.train.batch_size)
    self.split = self.split_of(folds)

  def split_of(self, folds):
    """The members' rows, those of `folds`, on the devices. One row is validated: the epochs timed
    here are their training steps."""
    cut = lambda rows, n: np.pad(rows, (0, max(0, n - len(rows))),
                                 constant_values=-1)[:n].astype(np.int32)
    split = step.Split(np.stack([cut(self._prepared.train[f], self._kept) for f in folds]),
                       np.stack([self._prepared.val[f][:1].astype(np.int32) for f in folds]),
                       np.array(folds, np.int32))
    return self.programs.by_member(self.programs.pad(split))

  @property
  def scale(self):
    """What the seconds of run() are times this for a whole epoch."""
    return self.epoch_steps / self.steps

  def member(self, seed=0):
    """The members at the start of phase 2, where they are never stopped early."""
    count, p = self.programs.count, self.programs
    keys = np.stack([jax.random.key_data(jax.random.fold_in(jax.random.key(seed), i))
                     for i in range(count)])
    fill = lambda value: np.full(count, value, np.float32)
    member = p.init(*p.pad((keys, fill(self.config.train.weight_decay),
                            {name: fill(value) for name, value in self.model.vary.items()})))
    stage = dataclasses.replace(self.model.stages[-1], patience=None)
    values = jax.tree.map(lambda x: np.stack([x] * count), step.stage_values(stage))
    return p.enter(member, p.by_member(p.pad(values)), self.split.fold, {}, stage)

  def runner(self, data, seed=0, folds=None):
    """A function that runs the steps on resident `data`, on the rows of other `folds` if given, and
    returns their seconds; training goes on from call to call."""
    member, split = self.member(seed), self.split if folds is None else self.split_of(folds)
    def run():
      nonlocal member
      start = time.perf_counter()
      member, report = self.programs.epoch(member, split, data, self.model.stages[-1])
      jax.block_until_ready(member)
      seconds = time.perf_counter() - start
      if not np.isfinite(self.programs.to_host(report)["train"]["loss"]).all():
        raise FloatingPointError("The benchmark's loss is not finite; a setting is wrong.")
      return seconds
    return run
