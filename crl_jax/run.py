"""One run folder from config to report:
cohort -> members -> predictions -> rectifier -> evaluation -> report.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import pathlib
import sys

import numpy as np

from crl_jax import config as config_lib, files, processes, stopping
from crl_jax.data import cohort as cohort_lib, prepared, preprocess, splits as splits_lib
from crl_jax.engine import checkpoint, members, writer
from crl_jax.serve import predictor

# Settings that change nothing that is trained: a run may go on with others. What a finished run
# found does depend on those of the evaluation.
_FREE = ("checkpoint.", "train.data:", "train.resident_gb:", "data.cache:")
_EVALUATION = ("evaluate.",)

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
  devices = processes.select_devices(config.platform)
  workdir = pathlib.Path(workdir)
  with _locked(workdir):
    _settle_config(workdir, config)
    processes.wait_for_all("config")
    finished = _finished(workdir)
    if finished:
      print(f"This run is finished: {workdir}. Delete the folder, or name another --workdir, to "
            "run again.\n")
    with stopping.signals() as stop:
      try:
        if not finished:
          _execute(config, workdir, devices, stop)
          processes.wait_for_all("finished")
          finished = _finished(workdir)
        if processes.leader():
          _explain(workdir, config.evaluate.explain)
      except stopping.Interrupted:
        print("\nStopped; all that was trained is saved. To go on where it was, run the same "
              f"command again:\n  {command}", flush=True)
        # one process may have stopped alone, once it waits for no other
        sys.exit(128 + (stop() if stop.at_once else processes.agreed(stop())))
  if processes.leader():
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


def _execute(config, workdir, devices, stop):
  import pandas as pd
  from crl_jax.report import page
  from crl_jax.statistics import conformal, evaluate, informative, predictions
  _LOG.info("Running on %d %s device(s): %s.", len(devices), devices[0].platform,
            devices[0].device_kind)
  cohort = build_cohort(config)
  if "banner" in cohort.info and processes.leader():
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
  log = writer.Writer(workdir) if processes.leader() else writer.Silent()
  with log, writer.progress_bar(epochs + 1) as bar:
    with stop.after_epoch():
      ready = members.fit(plans, cohort, splits, stats, devices, workdir / "checkpoints",
                          _fingerprint(config, facts), log, bar,
                          lambda: processes.agreed(stop()))
      if processes.agreed(stop()):   # asked for during the last epoch
        raise stopping.Interrupted
    predictor.save(workdir / "checkpoints" / "final", ready, plans, stats)
    bar(epochs, "predicting and evaluating")
    base = {role: ready.predict([rows[plan.fold][role] for plan in plans])
            for role in ("val", "test")}
  if not processes.leader():
    return
  parts = []
  for fold in range(config.members.folds):
    mine = [m for m, plan in enumerate(plans) if plan.fold == fold]
    parts.append(predictions.of_fold(
        cohort, rows[fold], fold, [plans[m].seed for m in mine],
        {role: [found[m] for m in mine] for role, found in base.items()},
        config.members.ensemble, _references(config, cohort, rows[fold], stats[fold])))
  table = pd.concat(parts, ignore_index=True)
  table, rectifiers = predictions.rectify(table, cohort.tasks, cohort.modalities, config.rectifier,
                                          config.seed)
  metrics = evaluate.evaluate(table, cohort.tasks, config, config.seed, cohort.modalities)
  if config.evaluate.informative:
    metrics["informative"] = informative.study(cohort, seed=config.seed,
                                               min_cell=config.evaluate.min_cell)
  table = conformal.add(table, cohort.tasks, config.evaluate)
  table.to_parquet(workdir / "predictions.parquet", index=False)
  _write_json(workdir / "rectifier.json", rectifiers)
  for name in ("explain.svg", "explain.json"):   # of a report before
    (workdir / name).unlink(missing_ok=True)
  page.write(workdir / "report.html", metrics, table, facts, rectifiers,
               config_lib.as_dict(config), writer.history(workdir))
  # Last: its presence says that the run is finished.
  _write_json(workdir / "metrics.json", metrics)


def _explain(workdir, rows):
  """Explains so many rows of a finished run, unless somebody has."""
  from crl_jax import explain
  if rows and not explain.is_written(workdir):
    explain.write(workdir, rows)


def _references(config, cohort, rows, stats):
  """role -> name -> (n, T): predictors that came with the cohort and, on test rows, the
  yardsticks.
  """
  from crl_jax.engine import yardsticks
  found = {role: {name: p[rows[role]] for name, p in cohort.references.items()}
           for role in ("val", "test")}
  if config.evaluate.yardsticks:
    found["test"] |= yardsticks.of_cohort(cohort, stats, rows, config.seed)
  return found


@contextlib.contextmanager
def _locked(workdir):
  """Holds the run folder's lock, for all processes of a run. Raises RuntimeError at once if another
  run has it."""
  import filelock
  if not processes.leader():
    yield
    return
  lock = filelock.FileLock(str(workdir / ".lock"))
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock.acquire(timeout=0)
  except filelock.Timeout:
    raise RuntimeError(f"Another process is running in {workdir}: wait for it, or name another "
                       "--workdir.") from None
  except OSError as error:
    raise OSError(f"{workdir} is no folder that can be written ({error.strerror}): name another "
                  "--workdir.") from error
  try:
    yield
  finally:
    lock.release()


def _begun(workdir):
  """True once anything was saved there: before that a mistaken setting may be mended in place."""
  return bool(checkpoint.steps(workdir / "checkpoints"))


def _fingerprint(config, facts):
  """What the checkpoints of a run depend on."""
  lines = config_lib.difference({}, config_lib.as_dict(config))
  text = "\n".join(line for line in lines if not line.startswith(_FREE + _EVALUATION))
  return {"config": hashlib.sha256(text.encode()).hexdigest(), "data": facts["fingerprint"],
          "splits": facts["splits_fingerprint"]}


def _settle_config(workdir, config):
  """Writes config.json, or refuses a folder in which a run with another config has got somewhere.
  Another evaluation is refused only where one is finished.
  """
  if not processes.leader():
    return
  path, new = workdir / "config.json", config_lib.as_dict(config)
  finished = _finished(workdir)
  if path.exists() and (finished or _begun(workdir)):
    lines = [line for line in config_lib.difference(files.read(path), new)
             if not line.startswith(_FREE if finished else _FREE + _EVALUATION)]
    if lines:
      again = finished is not None and all(line.startswith(_EVALUATION) for line in lines)
      raise ValueError(f"{workdir} was made with another config:\n  " + "\n  ".join(lines)
                       + "\nRun with the old values to go on there, or name another --workdir."
                       + " To evaluate it anew, delete its metrics.json." * again)
  if not finished:   # or it would tell of another run than its results
    _write_json(path, new)


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
      "trained_patterns": trained.tolist(), "digests": _digests(cohort, splits),
      "versions": _versions()}
  if path.exists() and _begun(workdir):
    old = files.read(path)
    changed = [k for k in ("fingerprint", "splits_fingerprint") if old[k] != facts[k]]
    if changed:
      raise ValueError(f"The data or splits are not those that {workdir} began with "
                       f"({', '.join(changed)} in data.json differ):\n  "
                       + "\n  ".join(_changes(old, facts))
                       + "\nRestore the files of data.root, or name another --workdir.")
  if processes.leader():
    _write_json(path, facts)
  processes.wait_for_all("data")
  return facts


def _digests(cohort, splits):
  """Part of a cohort or of its splits -> start of its SHA-256, to tell which part has changed."""
  parts = {"row ids": cohort.row_id, "patients": cohort.patient_id, "observed": cohort.observed,
           "labels": cohort.labels} | {f"inputs of {m}": x for m, x in cohort.inputs.items()} | {
               f"{role} rows of fold {k}": splits.rows(k, role)
               for k in range(len(splits.validation)) for role in ("val", "test")}
  return {name: hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()[:16]
          for name, x in parts.items()}


def _changes(old, new):
  """Lines that say in what two contents of data.json differ: counts, and parts whose counts agree
  and whose values do not; and in the versions that made them."""
  keys = ("rows", "patients", "modalities", "tasks", "shapes", "observed", "labelled")
  some = lambda facts: {key: facts[key] for key in keys if key in facts} | {"patterns": {
      entry["name"]: entry["rows"] for entry in facts["patterns"]},
                                "versions": facts.get("versions", {})}
  values = old.get("digests", {})
  return config_lib.difference(some(old), some(new)) + [
      f"{part}: other values" for part, digest in new["digests"].items()
      if values.get(part, digest) != digest]


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
  return files.read(path) if path.exists() else None


def _table(workdir, metrics, min_cell):
  from crl_jax.statistics import evaluate
  rectifiers, facts = files.of_finished(workdir, "rectifier.json", "data.json")
  return evaluate.table(metrics, rectifiers, facts, min_cell)


def _write_json(path, tree):
  """Writes atomically; NaN is refused, because it is not JSON."""
  part = path.with_suffix(".part")
  part.write_text(json.dumps(tree, indent=1, allow_nan=False))
  part.replace(path)


def default_workdir(config, name):
  """runs/<name>-<8 hex digits of the config>: one folder per config, so that a changed
  setting never meets an old run.
  """
  digest = hashlib.sha256(
      json.dumps(config_lib.as_dict(config), sort_keys=True).encode()).hexdigest()
  return pathlib.Path("runs") / f"{name}-{digest[:8]}"
