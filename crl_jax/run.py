"""One run folder from config to report:
cohort -> members -> predictions -> rectifier -> evaluation -> report.
"""

import contextlib
import logging
import pathlib
import sys

from crl_jax import config as config_lib, files, pipeline, processes, progress, stopping
from crl_jax.engine import checkpoint, kept as kept_lib, members
from crl_jax.report import explanations, page, tables
from crl_jax.serve import explain, predictor

_LOG = logging.getLogger("crl_jax")
_REPORT = "Writing the report"


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
  config = config_lib.expanded(config_lib.check(config))
  processes.keep_compiled()
  devices = processes.select_devices(config.platform)
  workdir = pathlib.Path(workdir)
  with _locked(workdir):
    _settle_config(workdir, config)
    processes.wait_for_all("config")
    finished = _finished(workdir)
    if finished:
      print(f"This run is finished: {workdir}. Delete the folder, or name another --workdir, to "
            "run again.\n")
    with stopping.signals() as stop, progress.plan(_stages(config)) as plan:
      try:
        if not finished:
          _execute(config, workdir, devices, stop, plan)
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


def _stages(config):
  """The stages of a run from training on, in their order."""
  folds = range(config.members.folds)
  return [*pipeline.stages(config), _REPORT,
          *(explain.STAGE.format(fold) for fold in folds if config.evaluate.explain)]


def _execute(config, workdir, devices, stop, plan):
  _LOG.info("Running on %d %s device(s): %s.", len(devices), devices[0].platform,
            devices[0].device_kind)
  prepared = pipeline.prepare(config)
  plan.size = len(prepared.cohort)
  info = prepared.cohort.info
  if "banner" in info and processes.leader():
    print(f"\n*** {info['banner']} ***\n", flush=True)
  for warning in info["warnings"]:
    _LOG.warning("Cohort: %s.", warning)
  facts = _settle_data(workdir, prepared.facts)
  plans, settings = members.grid(config), config_lib.digest(config_lib.as_dict(config))
  ready = pipeline.fit(prepared, plans, workdir, settings, stop)
  predictor.save(workdir / "checkpoints" / "final", ready, plans, prepared.stats,
                 {"config": settings, **prepared.fingerprints})
  base = pipeline.predict(prepared, plans, ready)
  if not processes.leader():
    return
  kept = []
  table, rectifiers = pipeline.correct(prepared, pipeline.table(prepared, plans, base, kept=kept))
  metrics = pipeline.judge(prepared, table)
  if ready.remembers:
    metrics["remembers"] = ready.remembers
  with files.replaced(workdir / "predictions.parquet") as part:
    table.to_parquet(part, index=False)
  files.write_json(workdir / "rectifier.json", rectifiers)
  names = ["config.json", "data.json", "rectifier.json", "predictions.parquet"]
  if "headline" in table.attrs:
    files.write_json(workdir / "headline.json", table.attrs["headline"])
    names.append("headline.json")
    if kept:
      kept_lib.save(workdir / "yardsticks.npz", kept)
      names.append("yardsticks.npz")
  for name in ("explain.svg", "explain.json"):   # of a report before
    (workdir / name).unlink(missing_ok=True)
  with progress.stage(_REPORT):
    page.write(workdir / "report.html", metrics, table, facts, rectifiers,
               config_lib.as_dict(config), files.history(workdir))
  files.finish(workdir, names, metrics)


def _explain(workdir, rows):
  """Explains so many rows of a finished run, unless somebody has."""
  if rows and not explanations.is_written(workdir):
    explanations.write(workdir, explain.of_run(workdir, rows))


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
    files.make_private(workdir)   # it will hold patients' ids and outcomes
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


def _settle_config(workdir, config):
  """Writes config.json, or refuses a folder in which a run with another config has got somewhere.
  Another evaluation is refused only where one is finished.
  """
  if not processes.leader():
    return
  path, new = workdir / "config.json", config_lib.as_dict(config)
  finished = _finished(workdir)
  if path.exists() and (finished or _begun(workdir)):
    lines = config_lib.difference(config_lib.current(files.read(path)), new,
                                  config_lib.FREE if finished else config_lib.UNTRAINED)
    if lines:
      again = finished is not None and all(line.startswith("evaluate.") for line in lines)
      raise ValueError(f"{workdir} was made with another config:\n  " + "\n  ".join(lines)
                       + "\nRun with the old values to go on there, or name another --workdir."
                       + " To evaluate it anew, delete its metrics.json." * again)
  if not finished:   # or it would tell of another run than its results
    files.begin(workdir)
    files.write_json(path, new)


def _settle_data(workdir, facts):
  """Writes data.json, or refuses a folder whose data or splits were others. Returns its content."""
  path = workdir / "data.json"
  if path.exists() and _begun(workdir):
    old = files.read(path)
    changed = [k for k in ("fingerprint", "splits_fingerprint") if old.get(k) != facts[k]]
    if changed:
      raise ValueError(f"The data or splits are not those that {workdir} began with "
                       f"({', '.join(changed)} in data.json differ):\n  "
                       + "\n  ".join(_changes(old, facts))
                       + "\nRestore the files of data.root, or name another --workdir.")
  if processes.leader():
    files.write_json(path, facts)
  processes.wait_for_all("data")
  return facts


def _changes(old, new):
  """Lines that say in what two contents of data.json differ: counts, and parts whose counts agree
  and whose values do not; and in the versions that made them."""
  keys = ("rows", "patients", "modalities", "tasks", "shapes", "observed", "labelled")
  some = lambda facts: {key: facts[key] for key in keys if key in facts} | {"patterns": {
      entry["name"]: entry["rows"] for entry in facts.get("patterns", ())},
                                "versions": facts.get("versions", {})}
  values = old.get("digests", {})
  return config_lib.difference(some(old), some(new)) + [
      f"{part}: other values" for part, digest in new["digests"].items()
      if values.get(part, digest) != digest]


def _finished(workdir):
  path = workdir / "metrics.json"
  return files.read(path) if path.exists() else None


def _table(workdir, metrics, min_cell):
  rectifiers, facts = files.of_finished(workdir, "rectifier.json", "data.json")
  return tables.table(metrics, rectifiers, facts, min_cell)


def default_workdir(config, name):
  """runs/<name>-<8 hex digits of the config>: one folder per config, so that a changed
  setting never meets an old run."""
  return pathlib.Path("runs") / f"{name}-{config_lib.identity(config)[:8]}"
