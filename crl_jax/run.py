"""One run folder from config to report:
cohort -> members -> predictions -> rectifier -> evaluation -> report.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import pathlib
import signal
import sys

import numpy as np

from crl_jax import checkpoint, config as config_lib, inference, members, sharding, train, writer
from crl_jax.data import cohort as cohort_lib, prepared, preprocess, splits as splits_lib

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
  devices = sharding.select_devices(config.platform)
  workdir = pathlib.Path(workdir)
  with _locked(workdir):
    _settle_config(workdir, config)
    sharding.together("config")
    finished = _finished(workdir)
    if finished:
      print(f"This run is finished: {workdir}. Delete the folder, or name another --workdir, to "
            "run again.\n")
    else:
      _execute(config, workdir, command, devices)
      sharding.together("finished")
      finished = _finished(workdir)
      if config.evaluate.explain and sharding.leader():
        from crl_jax import explain
        explain.write(workdir, config.evaluate.explain)
  if sharding.leader():
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
  recipe = getattr(source, "RECIPE", None)
  if recipe is None or options:   # new patients are read once
    return cohort_lib.validate(build(config, **options))
  return cohort_lib.validate(prepared.build(config, recipe, lambda: build(config)))


def _execute(config, workdir, command, devices):
  from crl_jax import conformal, evaluate, informative, predictions, report
  _LOG.info("Running on %d %s device(s): %s.", len(devices), devices[0].platform,
            devices[0].device_kind)
  cohort = build_cohort(config)
  if "banner" in cohort.info and sharding.leader():
    print(f"\n*** {cohort.info['banner']} ***\n", flush=True)
  for warning in cohort.info["warnings"]:
    _LOG.warning("Cohort: %s.", warning)
  splits = splits_lib.assign(cohort.patient_id, cohort.labels, config.splits.folds,
                             config.splits.validation, config.seed)
  facts = _settle_data(workdir, cohort, splits, config.members.folds)

  plans = members.grid(config)
  rows = [{role: splits.rows(fold, role) for role in splits_lib.ROLES}
          for fold in range(config.members.folds)]
  stats = preprocess.fit_folds(cohort.inputs, cohort.observed, cohort.modalities,
                               [fold["train"] for fold in rows], config.preprocess)
  epochs = config.train.pretrain.epochs + config.train.joint.epochs
  log = writer.Writer(workdir) if sharding.leader() else writer.Silent()
  with log, writer.progress_bar(epochs + 1) as bar, _stop_signal() as stop:
    try:
      ready = members.fit(plans, cohort, splits, stats, devices, workdir / "checkpoints",
                          _fingerprint(config, facts), log, bar,
                          lambda: sharding.agreed(stop()))
    except train.Interrupted:
      print("\nStopped and saved. To go on where it was, run the same command again:\n  "
            f"{command}", flush=True)
      sys.exit(128 + sharding.agreed(stop()))
    inference.save(workdir / "checkpoints" / "final", ready, plans, stats)
    bar(epochs, "predicting and evaluating")
    base = {role: ready.predict([rows[plan.fold][role] for plan in plans])
            for role in ("val", "test")}
  if not sharding.leader():
    return
  parts = []
  for fold in range(config.members.folds):
    mine = [m for m, plan in enumerate(plans) if plan.fold == fold]
    references = _references(config, cohort, rows[fold], stats[fold])
    for role, found in base.items():
      lines = [(plans[m].seed, found[m]) for m in mine]
      if config.members.ensemble:
        lines = [(0, np.mean([p for _, p in lines], 0))]
      parts += [predictions.part(cohort, rows[fold][role], fold, seed, role, p, references[role])
                for seed, p in lines]
  import pandas as pd
  table = pd.concat(parts, ignore_index=True)
  table, rectifiers = predictions.rectify(table, cohort.tasks, cohort.modalities, config.rectifier,
                                          config.seed)
  metrics = evaluate.evaluate(table, cohort.tasks, config, config.seed, cohort.modalities)
  if config.evaluate.informative:
    metrics["informative"] = informative.study(cohort, seed=config.seed)
  table = conformal.add(table, cohort.tasks, config.evaluate)
  table.to_parquet(workdir / "predictions.parquet", index=False)
  _write_json(workdir / "rectifier.json", rectifiers)
  report.write(workdir / "report.html", metrics, table, facts, rectifiers,
               config_lib.as_dict(config), writer.history(workdir))
  # Last: its presence says that the run is finished.
  _write_json(workdir / "metrics.json", metrics)


def _references(config, cohort, rows, stats):
  """role -> name -> (n, T): predictors that came with the cohort and, on test rows, the
  yardsticks.
  """
  from crl_jax import yardsticks
  found = {role: {name: p[rows[role]] for name, p in cohort.references.items()}
           for role in ("val", "test")}
  if config.evaluate.yardsticks:
    inputs = preprocess.transform(stats, cohort.inputs, cohort.observed, cohort.modalities)
    kinds = {m: cohort.kind(m) for m in cohort.modalities}
    x = yardsticks.design_matrix(inputs, cohort.observed, cohort.modalities, kinds)
    y = cohort.labels
    found["test"] |= yardsticks.fit_predict(
        x[rows["train"]], y[rows["train"]], x[rows["val"]], y[rows["val"]], x[rows["test"]],
        config.seed)
  return found


@contextlib.contextmanager
def _locked(workdir):
  """Holds the run folder's lock, for all processes of a run. Raises RuntimeError at once if another
  run has it."""
  import filelock
  if not sharding.leader():
    yield
    return
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
  return bool(checkpoint.steps(workdir / "checkpoints"))


def _fingerprint(config, facts):
  """What the checkpoints of a run depend on."""
  text = json.dumps(config_lib.as_dict(config), sort_keys=True)
  return {"config": hashlib.sha256(text.encode()).hexdigest(), "data": facts["fingerprint"],
          "splits": facts["splits_fingerprint"]}


def _settle_config(workdir, config):
  """Writes config.json, or refuses a folder in which a run with another config has got somewhere.
  """
  if not sharding.leader():
    return
  path, new = workdir / "config.json", config_lib.as_dict(config)
  if not path.exists() or not _begun(workdir):
    _write_json(path, new)
    return
  lines = config_lib.difference(json.loads(path.read_text()), new)
  if lines:
    raise ValueError(f"{workdir} was made with another config:\n  " + "\n  ".join(lines)
                     + "\nRun with the old values to go on there, or name another --workdir.")


def _settle_data(workdir, cohort, splits, folds):
  """Writes data.json, or refuses a folder whose data or splits were others. Returns its content."""
  path = workdir / "data.json"
  ids, counts = np.unique(cohort.pattern, return_counts=True)
  trained = np.unique(np.concatenate([cohort.pattern[splits.rows(fold, "train")]
                                      for fold in range(folds)]))
  facts = {
      **cohort.info, "fingerprint": cohort_lib.fingerprint(cohort),
      "splits_fingerprint": splits.fingerprint(),
      "modalities": list(cohort.modalities), "tasks": list(cohort.tasks),
      "shapes": {m: list(cohort.inputs[m].shape[1:]) for m in cohort.modalities},
      "kinds": {m: cohort.kind(m) for m in cohort.modalities},
      "features": {m: list(names) for m, names in cohort.features.items()},
      "labelled": {t: {"n": int(np.isfinite(cohort.labels[:, i]).sum()),
                       "positives": int(np.nansum(cohort.labels[:, i]))}
                   for i, t in enumerate(cohort.tasks)},
      "observed": {m: int(cohort.observed[:, i].sum()) for i, m in enumerate(cohort.modalities)},
      "patterns": [{"pattern": int(p), "name": cohort_lib.pattern_name(p, cohort.modalities),
                    "rows": int(n)}
                   for p, n in zip(ids, counts)],
      "trained_patterns": trained.tolist(), "versions": _versions()}
  if path.exists() and _begun(workdir):
    old = json.loads(path.read_text())
    changed = [k for k in ("fingerprint", "splits_fingerprint") if old[k] != facts[k]]
    if changed:
      raise ValueError(f"The data or splits are not those that {workdir} began with "
                       f"({', '.join(changed)} in data.json differ). Restore the files of "
                       "data.root, or name another --workdir.")
  if sharding.leader():
    _write_json(path, facts)
  sharding.together("data")
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
