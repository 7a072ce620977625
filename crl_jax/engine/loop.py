"""The loop of a training: phases and epochs of many members, what is written, saved and refused."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax import stopping
from crl_jax.engine import step


def fit(programs, member, splits, data, tasks, stages, config, at=(0, 0), on_epoch=lambda *_: None,
        save=lambda *_: None, should_stop=lambda: False):
  """Trains members through all phases. The loop runs on the devices; the host reads the numbers of
  epoch t while t + 1 runs.

  Args:
    programs: programs.Programs.
    member: from programs.init(), or on the host from a checkpoint that `at` tells the place of.
    splits: per phase, a Split with the same axis.
    data: what programs.resident() or programs.streamed() made of the cohort.
    tasks: the T names.
    stages: per member, the tuple of Stage; all of equal lengths and numbers of epochs.
    config: the whole tree.
    at: (phase, epochs done in it) to go on from.
    on_epoch: called with (member index, stage name, epochs done in all, scalars) for every epoch of
      every member still training.
    save: called with (phase, epochs done in it, Member on the host) every
      config.checkpoint.every_epochs epochs, when a phase ends, and before a stop.
    should_stop: asked before every epoch.
  Returns:
    Member on the devices; `best` holds the parameters to use.
  Raises:
    stopping.Interrupted: when should_stop() says so, after what was begun is finished and saved.
    FloatingPointError: too many consecutive non-finite steps; names the steps and the row indices
      of their batches.
  """
  phase, epoch = at
  member = member if at == (0, 0) else programs.by_member(member)
  while phase < len(stages[0]):
    stage, placed = stages[0][phase], programs.by_member(splits[phase])
    name, epochs = stage.name, stage.epochs
    if epoch == 0:
      values = jax.tree.map(lambda *x: np.stack(x), *[
          step.stage_values(s[phase], step.terms(s)) for s in stages])
      member = programs.enter(member, programs.by_member(programs.pad(values)), placed.fold, data,
                              stage)
    unread, over, clock = [], False, time.perf_counter()
    while epoch < epochs and not over:
      stop = should_stop()
      if stop and not unread:   # all that was trained is saved
        raise stopping.Interrupted
      if not stop:
        member, report = programs.epoch(member, placed, data, stage)
        epoch += 1
        unread.append(report)
      due = stop or epoch == epochs or epoch % config.checkpoint.every_epochs == 0
      while unread and (due or len(unread) > 1):
        found = programs.to_host(unread.pop(0))
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        _refuse_non_finite(found, member, splits[phase], programs, config)
        for m in np.flatnonzero(found["ran"][:len(stages)]):
          on_epoch(int(m), name, int(found["total"][m]),
                   {**_scalars(found, m, tasks), "seconds": seconds})
        over = found["stopped"].all()
      if due and epoch < epochs and not over:
        save(phase, epoch, programs.to_host(member))
        if stop:
          raise stopping.Interrupted
        clock = time.perf_counter()
    phase, epoch = phase + 1, 0
    save(phase, epoch, programs.to_host(member))
  return member


def _scalars(report, m, tasks):
  """name -> float of member `m` in an epoch's report."""
  return {**{f"train/{k}": float(v[m]) for k, v in report["train"].items()},
          "val/loss": float(report["val"]["loss"][m]),
          **{f"val/auroc_{task}": float(report["val"]["auroc"][m, t])
             for t, task in enumerate(tasks)}}


def _refuse_non_finite(report, member, splits, programs, config):
  """Raises FloatingPointError where a member had too many consecutive non-finite steps, with the
  rows they saw."""
  limit, size = config.train.non_finite_steps, config.train.batch_size
  for m in np.flatnonzero(report["ran"] & (report["worst"] >= limit)):
    epoch, last = int(report["total"][m]), int(report["worst_end"][m])
    rng, own = programs.to_host(member.state.rng)[m], jnp.asarray(splits.train[m])
    batches = []   # the last ones; of earlier epochs too, where one has fewer
    for before in range(epoch):
      order = np.asarray(step.epoch_order(rng, epoch - 1 - before, own, size, size))
      order = order[order[:, 0] >= 0][:None if before else last + 1]
      batches = [*order, *batches][-limit:]
      if len(batches) == limit:
        break
    rows = np.concatenate(batches)
    raise FloatingPointError(
        f"Loss or gradient not finite in {int(report['worst'][m])} consecutive steps up to step "
        f"{last} of epoch {epoch}. Row indices of the last {limit} batches: "
        f"{rows[rows >= 0].tolist()}. Lower train.*.learning_rate, or look at the inputs of these "
        "rows.")
