"""The members of a run (folds x seeds x settings): trained together, saved, resumed, asked for
probabilities."""

import dataclasses
import re

import jax
import ml_collections
import numpy as np

from crl_jax import config as config_lib, models, processes
from crl_jax.data import preprocess, stream
from crl_jax.engine import checkpoint, loop, programs as programs_lib, step
from crl_jax.models.record import Batch

# Settings in which members that share their programs may differ.
SWEPT = ("train.weight_decay", "train.pretrain.learning_rate", "train.joint.learning_rate",
         "train.pretrain.weights.", "train.joint.weights.", "train.joint.patience")
# those among a model's own: its last phase's weights; rate, weights and patience of earlier ones
_OWN = re.compile(r"model\.\w+\.(weights\.|stages\.\w+\.(learning_rate|weights\.|patience))")

_ROWS = 16384   # that are preprocessed at once


@dataclasses.dataclass(frozen=True)
class Plan:
  """One member: its fold, its seed and its settings; `label` names the settings in logs."""
  fold: int
  seed: int
  config: ml_collections.ConfigDict
  label: str = ""

  @property
  def name(self):
    return f"fold{self.fold}_seed{self.seed}" + (f"_{self.label}" if self.label else "")


@dataclasses.dataclass(frozen=True)
class Ready:
  """Trained members on the devices.

  Attributes:
    programs: their programs.Programs.
    params: their parameters, with a leading member axis, padding included.
    fold: (members,) int32 on the devices.
    data: the cohort as the programs want it.
    prepared: what the model keeps of every fold's training rows, on the host; None: nothing.
  """
  programs: programs_lib.Programs
  params: dict
  fold: jax.Array
  data: object
  prepared: dict | None

  @property
  def remembers(self):
    """How many training rows of a fold every predicted row meets."""
    model = self.programs.model
    return model.support if model.join and model.remembers else 0

  def predict(self, rows):
    """Per member, (n, T) float32 probabilities of its `rows` (list of (n,) row indices)."""
    p = self.programs.predict(self.params, self.fold, self.programs.pad(_padded(rows)), self.data)
    return [p[m, :len(r)] for m, r in enumerate(rows)]


def grid(config, label=""):
  """The plans of a config: every fold with every seed."""
  return [Plan(fold, seed, config, label) for fold in range(config.members.folds)
          for seed in range(config.members.seeds)]


def make_spec(cohort, stats):
  """The models.Spec of a cohort under a fold's preprocessing."""
  widths = preprocess.widths(stats)
  shapes = {m: (*cohort.inputs[m].shape[1:-1], widths[m]) for m in cohort.modalities}
  patterns, rows = np.unique(cohort.pattern, return_counts=True)
  return models.Spec(cohort.modalities, cohort.tasks, shapes, tuple(map(int, patterns)),
                     {m: cohort.kind(m) for m in cohort.modalities}, tuple(map(int, rows)))


def epochs(config, cohort, stats):
  """How many epochs a member is trained at most, over all phases."""
  return sum(stage.epochs for stage in models.build(config, make_spec(cohort, stats[0])).stages)


def fit(plans, cohort, rows, stats, folder, fingerprint, log, update, should_stop):
  """Trains the members of `plans`, or goes on where `folder` says they were.

  Args:
    plans: list of Plan; their configs differ at most in SWEPT and in what the model lets vary.
    cohort: data.cohort.Cohort.
    rows: per fold, role -> (n,) row indices; "train" and "val" are looked at.
    stats: per fold, its preprocessing.
    folder: of the checkpoints.
    fingerprint: dict name -> str of what the checkpoints depend on.
    log: writer.Writer.
    update: called with (epochs done in all, text).
    should_stop: asked before every epoch.
  Returns:
    Ready.
  Raises:
    ValueError: plans that cannot share programs; a checkpoint of another config, data or splits; a
      phase that would see no training row.
    stopping.Interrupted, FloatingPointError: see loop.fit().
  """
  config = plans[0].config
  devices = processes.select_devices(config.platform)
  spec = make_spec(cohort, stats[0])
  built = {}
  for plan in plans:
    built.setdefault(_text(plan.config), models.build(plan.config, spec))
  each = [built[_text(plan.config)] for plan in plans]
  model = each[0]
  _require_one_program(plans, model)
  optimizer = step.make_optimizer(config)
  programs = programs_lib.Programs(model, optimizer, config, cohort.modalities, devices, len(plans))

  keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(plan.config.seed), plan.fold),
                             plan.seed) for plan in plans]
  member = programs.init(*programs.pad((
      np.stack([jax.random.key_data(key) for key in keys]),
      np.array([plan.config.train.weight_decay for plan in plans], np.float32),
      {name: np.array([m.vary[name] for m in each], np.float32) for name in model.vary})))
  host = _first(programs, programs.to_host(member))
  like = dict(phase=np.int64(0), epoch=np.int64(0), member=host)
  found, at = checkpoint.restore(folder, like, fingerprint), (0, 0)
  if found:
    at = int(found[1]["phase"]), int(found[1]["epoch"])
    member = programs.pad(found[1]["member"])
  done = sum(stage.epochs for stage in model.stages[:at[0]]) + at[1]
  log.rewind(done)
  update(done, "preparing")

  split = [step.Split(*programs.pad((
      _padded([_train_rows(stage, cohort, rows[plan.fold]["train"], plan) for plan in plans]),
      _padded([rows[plan.fold]["val"] for plan in plans]),
      np.array([plan.fold for plan in plans], np.int32)))) for stage in model.stages]
  mine = next(d for d in devices if d.process_index == jax.process_index())
  kept = prepare(model, cohort, rows, stats, config.seed)
  data = _placed(cohort, stats, programs, config, mine, kept)

  def on_epoch(m, stage, total, scalars):
    log.write(plans[m].name, stage, total, scalars)
    areas = [v for key, v in scalars.items() if key.startswith("val/auroc_") and v == v]
    update(total, f"{stage} epoch {total}, validation log-loss {scalars['val/loss']:.3f}" + (
        f", mean AUROC {np.mean(areas):.3f}" if areas else ""))

  def save(phase, epoch, member):
    total = sum(stage.epochs for stage in model.stages[:phase]) + epoch
    tree = dict(phase=np.int64(phase), epoch=np.int64(epoch), member=_first(programs, member))
    # a phase that has ended is saved under its last epoch; 10 leaves room to tell both apart
    checkpoint.save(folder, total * 10 + phase, tree, config.checkpoint.keep, fingerprint)
  member = loop.fit(programs, member, split, data, cohort.tasks, [m.stages for m in each], config,
                    at, on_epoch, save, should_stop)
  return Ready(programs, member.best, programs.by_member(split[0].fold), data, kept)


def _train_rows(stage, cohort, rows, plan):
  """Those of a member's training rows that it sees in a phase."""
  if stage.rows is None:
    return rows
  rng = np.random.default_rng([plan.config.seed, plan.fold, plan.seed, 0x0F17])
  keep = stage.rows(cohort.observed[rows], cohort.labels[rows], rng)
  if not keep.any():
    raise ValueError(f"Phase '{stage.name}' of {plan.config.model.name} would see none of the "
                     "training rows: the model needs rows that this cohort does not have.")
  return rows[keep]


def prepare(model, cohort, rows, stats, seed):
  """What `model` keeps of the training rows of every fold, stacked on a leading fold axis; None
  where it keeps nothing. rows, stats: see fit()."""
  if not model.support and not model.prepare:
    return None
  folds = []
  for mine, own in zip(rows, stats):
    train, found = mine["train"], {}
    if model.prepare:
      found |= model.prepare(cohort.observed[train], cohort.labels[train])
    if model.support:
      found["support"] = _support(cohort, own, train, model.support, seed)
    folds.append(found)
  return jax.tree.map(lambda *x: np.stack(x), *folds)


def _support(cohort, stats, rows, count, seed):
  """The Batch of `count` training rows, preprocessed by their fold's `stats`: every pattern in
  proportion, rare ones at least once as far as there is room."""
  rows = rows[np.random.default_rng([seed, 0x50BB]).permutation(len(rows))]
  _, index, sizes = np.unique(cohort.pattern[rows], return_inverse=True, return_counts=True)
  place = np.empty(len(rows))   # of a pattern's n rows the first, second, ... lie at 0, 1 / n, ...
  place[np.argsort(index, kind="stable")] = np.concatenate([np.arange(n) / n for n in sizes])
  chosen = np.sort(rows[np.argsort(place, kind="stable")[:count]])
  padded = np.pad(chosen, (0, count - len(chosen)))
  observed = cohort.observed[padded]
  inputs = preprocess.transform(stats, {m: cohort.inputs[m][padded] for m in cohort.modalities},
                                observed, cohort.modalities)
  return Batch(inputs, observed, cohort.labels[padded], np.arange(count) < len(chosen),
               patient_index(cohort)[padded], np.arange(count, dtype=np.int32))


def patient_index(cohort):
  """(N,) int32 dense index of each row's patient."""
  return np.unique(cohort.patient_id, return_inverse=True)[1].astype(np.int32)


def member_data(cohort, stats):
  """The preprocessed cohort on the host as programs.resident() takes it; inputs (folds, N, ...), or
  (1, N, ...) where all folds see the same."""
  widths, inputs = preprocess.widths(stats[0]), {}
  for i, m in enumerate(cohort.modalities):
    x = cohort.inputs[m]
    inputs[m] = np.empty((_copies(x, stats), *x.shape[:-1], widths[m]), x.dtype)
    for fold, own in zip(inputs[m], stats):   # piece by piece: nothing is held twice
      for start in range(0, len(x), _ROWS):
        some = slice(start, start + _ROWS)
        present = cohort.observed[some, i:i + 1]
        fold[some] = preprocess.transform(own, {m: x[some]}, present, (m,))[m]
  return {"inputs": inputs, "observed": cohort.observed, "labels": cohort.labels,
          "patient": patient_index(cohort)}


def _copies(x, stats):
  """How often a modality's input is held, preprocessed."""
  return len(stats) if preprocess.depends_on_fold(x) else 1


def _placed(cohort, stats, programs, config, device, prepared=None):
  """The cohort resident on the devices, or a Stream where it is too large or config.train.data says
  so."""
  widths = preprocess.widths(stats[0])
  size = sum(_copies(x, stats) * x.dtype.itemsize * x[..., 0].size * widths[m]
             for m, x in cohort.inputs.items())
  if config.parallel == "pmap" or config.train.data == "resident" or (
      config.train.data == "auto" and size <= _room(config, device)):
    return programs.resident(member_data(cohort, stats) | (
        {} if prepared is None else {"prepared": prepared}))
  return stream.Stream(cohort, patient_index(cohort), *programs.resident(
      (preprocess.stack(stats), prepared)))


def _room(config, device):
  """Bytes that resident data may take on a device."""
  if config.train.resident_gb:
    return config.train.resident_gb * 2 ** 30
  limit = (device.memory_stats() or {}).get("bytes_limit", 8 * 2 ** 30)
  return limit / 2


def _first(programs, tree):
  """The wanted members of a tree on the host: what checkpoints hold on any number of devices."""
  return jax.tree.map(lambda x: x[:programs.count], tree)


def _padded(rows):
  """(members, most) int32 of lists of row indices, -1 padded."""
  result = np.full((len(rows), max(1, *map(len, rows))), -1, np.int32)
  for line, r in zip(result, rows):
    line[:len(r)] = r
  return result


def _text(config):
  return config.to_json(sort_keys=True)


def may_differ(line, vary):
  """Whether members that share their programs may differ in what a `line` of config.difference()
  names; `vary`: names in config.model that their model lets vary."""
  return line.startswith((*SWEPT, *(f"model.{name}:" for name in vary))) or bool(_OWN.match(line))


def _require_one_program(plans, model):
  first = config_lib.as_dict(plans[0].config)
  for plan in plans[1:]:
    for line in config_lib.difference(first, config_lib.as_dict(plan.config)):
      if not may_differ(line, model.vary):
        raise ValueError(f"Members trained together may not differ in {line.split(':')[0]} "
                         f"({plan.name}); they may in {', '.join(SWEPT)}, a model's own rates "
                         f"and weights, and {', '.join(f'model.{name}' for name in model.vary)}.")
