"""One run folder from config to report:
cohort -> members -> predictions -> rectifier -> evaluation -> report.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import logging
import pathlib
import signal
import sys

import jax
import numpy as np

from crl_jax import checkpoint, config as config_lib, models, sharding, train, writer
from crl_jax.data import cohort as cohort_lib, preprocess, splits as splits_lib

_LOG = logging.getLogger("crl_jax")


def run(config, workdir, command=""):
  """Runs, resumes or shows the run of `workdir`.

  Args:
    config: the whole tree.
    workdir: the run folder, made if absent.
    command: what the user typed, repeated where a run can be resumed.
  Returns:
    the metrics dict of metrics.json.
  Raises:
    ValueError, CohortError: bad settings or data, before anything is trained.
    SystemExit: after an interruption has been saved.
  """
  config_lib.check(config)
  workdir = pathlib.Path(workdir)
  with _locked(workdir):
    _settle_config(workdir, config)
    finished = _finished(workdir)
    if finished:
      print(f"This run is finished: {workdir}. Delete the folder, or name another --workdir, to "
            "run again.\n")
    else:
      _execute(config, workdir, command)
      finished = _finished(workdir)
  print(_table(workdir, finished, config.evaluate.min_cell))
  print(f"\nReport: {workdir / 'report.html'}")
  return finished


def build_cohort(config, **options):
  """The validated cohort of `config.data.cohort`.

  Raises CohortError; ValueError for an unknown cohort.
  """
  try:
    source = importlib.import_module(f"crl_jax.data.{config.data.cohort}")
    build = source.build
  except (ModuleNotFoundError, AttributeError) as error:
    if getattr(error, "name", None) in (f"crl_jax.data.{config.data.cohort}", "build"):
      raise ValueError(f"config.data.cohort '{config.data.cohort}': no module of crl_jax/data with "
                       "a build().") from error
    raise
  return cohort_lib.validate(build(config, **options))


def make_spec(cohort, stats):
  """The models.Spec of a cohort under a member's preprocessing."""
  widths = preprocess.widths(stats)
  shapes = {m: (*cohort.inputs[m].shape[1:-1], widths[m]) for m in cohort.modalities}
  return models.Spec(cohort.modalities, cohort.tasks, shapes,
                     tuple(int(p) for p in np.unique(cohort.pattern)))


def member_data(cohort, stats):
  """What train.fit and train.predict want of a cohort: preprocessed host arrays."""
  return {"inputs": preprocess.transform(stats, cohort.inputs, cohort.observed, cohort.modalities),
          "observed": cohort.observed, "labels": cohort.labels,
          "patient": np.unique(cohort.patient_id, return_inverse=True)[1].astype(np.int32)}


def _programs(config, spec, devices, compiled):
  """(model, optimizer, train.Programs) of `spec`; members of one shape share them in `compiled`."""
  key = repr(spec)
  if key not in compiled:
    model = models.build(config, spec)
    optimizer = train.make_optimizer(config)
    compiled[key] = model, optimizer, train.make_programs(model, optimizer, config, devices)
  return compiled[key]


def probabilities(config, facts, cohort, stats, params, devices, compiled):
  """(N, T) probabilities of every row of `cohort` by one trained member.

  Args:
    config: of the run.
    facts: its data.json.
    cohort: with the run's modalities, features and tasks.
    stats, params: of the member.
    devices: to run on.
    compiled: dict that keeps the programs for the members that follow.
  Returns:
    float32 array.
  """
  spec = dataclasses.replace(make_spec(cohort, stats),
                             patterns=tuple(p["pattern"] for p in facts["patterns"]))
  *_, programs = _programs(config, spec, devices, compiled)
  resident = programs.resident(member_data(cohort, stats))
  return train.predict(programs, programs.resident(params), resident, np.arange(len(cohort)))


def _execute(config, workdir, command):
  from crl_jax import evaluate, predictions, report
  devices = sharding.select_devices(config.platform)
  _LOG.info("Running on %d %s device(s): %s.", len(devices), devices[0].platform,
            devices[0].device_kind)
  cohort = build_cohort(config)
  if "banner" in cohort.info:
    print(f"\n*** {cohort.info['banner']} ***\n", flush=True)
  for warning in cohort.info["warnings"]:
    _LOG.warning("Cohort: %s.", warning)
  splits = splits_lib.assign(cohort.patient_id, cohort.labels, config.splits.folds,
                             config.splits.validation, config.seed)
  facts = _settle_data(workdir, cohort, splits)

  parts = []
  epochs = config.train.pretrain.epochs + config.train.joint.epochs
  total = config.members.folds * config.members.seeds * (epochs + 1)
  compiled = {}
  with writer.Writer(workdir) as log, writer.progress_bar(total) as bar, _stop_signal() as stop:
    for fold in range(config.members.folds):
      rows = {role: splits.rows(fold, role) for role in splits_lib.ROLES}
      stats = preprocess.fit(cohort.inputs, cohort.observed, cohort.modalities, rows["train"],
                             config.preprocess)
      data = member_data(cohort, stats)
      bases = []
      for seed in range(config.members.seeds):
        before = (fold * config.members.seeds + seed) * (epochs + 1)
        update = lambda done, text: bar(before + done, f"fold {fold} seed {seed}: {text}")
        try:
          bases.append(_member(config, workdir, cohort, rows, stats, data, fold, seed, devices,
                               compiled, log, update, stop))
        except train.Interrupted:
          print("\nStopped and saved. To go on where it was, run the same command again:\n  "
                f"{command}", flush=True)
          sys.exit(128 + stop())
      if config.members.ensemble:
        bases = [{role: np.mean([base[role] for base in bases], 0) for role in bases[0]}]
      references = _references(config, cohort, rows, data)
      parts += [predictions.part(cohort, rows[role], fold, seed, role, base[role], references[role])
                for seed, base in enumerate(bases) for role in base]
  import pandas as pd
  table = pd.concat(parts, ignore_index=True)
  table, rectifiers = predictions.rectify(table, cohort.tasks, cohort.modalities, config.rectifier,
                                          config.seed)
  metrics = evaluate.evaluate(table, cohort.tasks, config, config.seed, cohort.modalities)
  table.to_parquet(workdir / "predictions.parquet", index=False)
  _write_json(workdir / "rectifier.json", rectifiers)
  report.write(workdir / "report.html", metrics, table, facts, rectifiers,
               config_lib.as_dict(config), writer.history(workdir))
  # Last: its presence says that the run is finished.
  _write_json(workdir / "metrics.json", metrics)


def _member(config, workdir, cohort, rows, stats, data, fold, seed, devices, compiled, log, update,
            stop):
  """Trains (or resumes) one member; returns role -> its probabilities (n, T) of validation, test.
  """
  name = f"fold{fold}_seed{seed}"
  folder = workdir / "checkpoints" / name
  folder.mkdir(parents=True, exist_ok=True)
  update(0, "preparing")
  spec = make_spec(cohort, stats)
  model, optimizer, programs = _programs(config, spec, devices, compiled)

  rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), fold), seed)
  progress = train.begin(model, optimizer, config, rng)
  found = checkpoint.restore(folder, progress)
  if found:
    progress = found[1]
    _LOG.info("Member %s goes on after epoch %d.", name, int(progress.total))
  log.rewind(name, int(progress.total))

  def on_epoch(stage, total, scalars):
    log.write(name, stage, total, scalars)
    update(total, f"{stage} epoch {total}")
  params, resident = train.fit(
      programs, model, optimizer, data, cohort.tasks, rows["train"], rows["val"], config, progress,
      on_epoch, lambda p: checkpoint.save(folder, int(p.total) * 10 + int(p.stage), p,
                                          config.checkpoint.keep), stop)
  checkpoint.save(folder / "final", 0, {"params": params, "preprocess": stats}, 1)

  return {role: train.predict(programs, programs.resident(params), resident, rows[role])
          for role in ("val", "test")}


def _references(config, cohort, rows, data):
  """role -> name -> (n, T): predictors that came with the cohort and, on test rows, the
  yardsticks.
  """
  from crl_jax import yardsticks
  found = {role: {name: p[rows[role]] for name, p in cohort.references.items()}
           for role in ("val", "test")}
  if config.evaluate.yardsticks:
    x, y = (yardsticks.design_matrix(data["inputs"], cohort.observed, cohort.modalities),
            cohort.labels)
    found["test"] |= yardsticks.fit_predict(
        x[rows["train"]], y[rows["train"]], x[rows["val"]], y[rows["val"]], x[rows["test"]],
        config.seed)
  return found


@contextlib.contextmanager
def _locked(workdir):
  """Holds the run folder's lock. Raises RuntimeError at once if another process has it."""
  import filelock
  workdir.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(str(workdir / ".lock"))
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    raise RuntimeError(f"Another process is running in {workdir}: wait for it, or name another "
                       "--workdir.") from None
  try:
    yield
  finally:
    lock.release()


def _begun(workdir):
  """True once anything was saved there: before that a mistaken setting may be mended in place."""
  return any(workdir.glob("checkpoints/*/*.json"))


def _settle_config(workdir, config):
  """Writes config.json, or refuses a folder in which a run with another config has got somewhere.
  """
  path, new = workdir / "config.json", config_lib.as_dict(config)
  if not path.exists() or not _begun(workdir):
    _write_json(path, new)
    return
  lines = config_lib.difference(json.loads(path.read_text()), new)
  if lines:
    raise ValueError(f"{workdir} was made with another config:\n  " + "\n  ".join(lines)
                     + "\nRun with the old values to go on there, or name another --workdir.")


def _settle_data(workdir, cohort, splits):
  """Writes data.json, or refuses a folder whose data or splits were others. Returns its content."""
  path = workdir / "data.json"
  ids, counts = np.unique(cohort.pattern, return_counts=True)
  facts = {
      **cohort.info, "fingerprint": cohort_lib.fingerprint(cohort),
      "splits_fingerprint": splits.fingerprint(),
      "modalities": list(cohort.modalities), "tasks": list(cohort.tasks),
      "features": {m: list(names) for m, names in cohort.features.items()},
      "labelled": {t: {"n": int(np.isfinite(cohort.labels[:, i]).sum()),
                       "positives": int(np.nansum(cohort.labels[:, i]))}
                   for i, t in enumerate(cohort.tasks)},
      "observed": {m: int(cohort.observed[:, i].sum()) for i, m in enumerate(cohort.modalities)},
      "patterns": [{"pattern": int(p), "name": cohort_lib.pattern_name(p, cohort.modalities),
                    "rows": int(n)}
                   for p, n in zip(ids, counts)],
      "versions": _versions()}
  if path.exists() and _begun(workdir):
    old = json.loads(path.read_text())
    changed = [k for k in ("fingerprint", "splits_fingerprint") if old[k] != facts[k]]
    if changed:
      raise ValueError(f"The data or splits are not those that {workdir} began with "
                       f"({', '.join(changed)} in data.json differ). Restore the files of "
                       "data.root, or name another --workdir.")
  _write_json(path, facts)
  return facts


def _versions():
  import importlib.metadata
  import platform
  names = ("crl_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "pandas", "scikit-learn")
  found = {"python": platform.python_version()}
  for name in names:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def _finished(workdir):
  path = workdir / "metrics.json"
  return json.loads(path.read_text()) if path.exists() else None


def _table(workdir, metrics, min_cell):
  from crl_jax import evaluate
  read = lambda name: json.loads((workdir / name).read_text())
  return evaluate.table(metrics, read("rectifier.json"), read("data.json"), min_cell)


def _write_json(path, tree):
  """Writes atomically; NaN is refused, because it is not JSON."""
  part = path.with_suffix(".part")
  part.write_text(json.dumps(tree, indent=1, allow_nan=False))
  part.replace(path)


@contextlib.contextmanager
def _stop_signal():
  """Yields stop(), which is the number of the SIGTERM or SIGINT received, or 0; a second
  one acts at once.
  """
  received = []
  def handle(number, _):
    if received:
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)
    received.append(number)
    print("\nStopping after this epoch; once more stops at once.", file=sys.stderr, flush=True)
  try:
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
  except ValueError:   # not the main thread (some notebooks): no handler, no harm
    before = {}
  try:
    yield lambda: received[0] if received else 0
  finally:
    for number, old in before.items():
      signal.signal(number, old)


def default_workdir(config, name):
  """runs/<name>-<8 hex digits of the config>: one folder per config, so that a changed
  setting never meets an old run.
  """
  digest = hashlib.sha256(
      json.dumps(config_lib.as_dict(config), sort_keys=True).encode()).hexdigest()
  return pathlib.Path("runs") / f"{name}-{digest[:8]}"
