"""The folder of a study: config.json, data.json, policies.npz, nuisances.npz, priorities.parquet,
report.html and, last, metrics.json, whose presence says that it is finished."""

import pathlib

import numpy as np
import pandas as pd

from crl_jax import config as config_lib, files, processes, progress
from crl_jax.policy import cohorts, data, effects, judge, policies, report, study as study_lib

_FREE = tuple(key for key in config_lib.FREE if key != "policy.")


def run(config, workdir):
  """Does the study of `workdir`, or shows it where it is finished. Returns its metrics.json.

  Raises:
    ValueError, CohortError: bad settings or data; a folder of another study.
  """
  config = config_lib.expanded(config_lib.check(config))
  processes.select_devices(config.platform)
  workdir = pathlib.Path(workdir)
  files.make_private(workdir)   # it will hold patients' ids
  tree = config_lib.as_dict(config)
  if (workdir / "config.json").exists():
    if lines := config_lib.difference(files.read(workdir / "config.json"), tree, _FREE):
      raise ValueError(f"{workdir} was made with another config:\n  " + "\n  ".join(lines)
                       + "\nRun with the old values, or name another --workdir.")
  if (workdir / "metrics.json").exists():
    metrics = files.read(workdir / "metrics.json")
    print(f"This study is finished: {workdir}. Delete the folder, or name another --workdir, to "
          "run again.\n")
  else:
    metrics = _execute(config, workdir, tree)
  print(_table(metrics))
  print(f"\nReport: {workdir / 'report.html'}")
  return metrics


def _execute(config, workdir, tree):
  files.begin(workdir)
  files.write_json(workdir / "config.json", tree)
  p = cohorts.build(config)
  if "banner" in p.cohort.info:
    print(f"\n*** {p.cohort.info['banner']} ***\n", flush=True)
  found = study_lib.run(config, p)
  files.write_json(workdir / "data.json", _facts(found))
  effects.save(found.learned, workdir / "policies.npz")
  with files.replaced(workdir / "nuisances.npz") as part, open(part, "wb") as file:
    np.savez(file, **_nuisances(found))
  with files.replaced(workdir / "priorities.parquet") as part:
    _priorities(found).to_parquet(part, index=False)
  with progress.stage("Judging the policies"):
    metrics = judge.judge(found, config.seed)
  with progress.stage("Writing the report"):
    report.write(workdir / "report.html", metrics)
  files.finish(workdir, ("config.json", "data.json", "policies.npz", "nuisances.npz",
                         "priorities.parquet"), metrics)
  return metrics


def _facts(found):
  """What predict must know of the rows, and the fingerprint of all of them."""
  p, c = found.p, found.p.cohort
  trained = np.unique(found.phi.pattern[found.rows["train"]])
  return {"fingerprint": data.fingerprint(p), "trained_patterns": trained.tolist(),
          "modalities": list(c.modalities),
          "kinds": {m: c.kind(m) for m in c.modalities},
          "features": {m: list(names) for m, names in c.features.items()},
          "higher_is_better": bool(p.higher_is_better), "rows": len(p)}


def _nuisances(found):
  """Name -> array: rows, and nuisances and scores of the training rows and of the test rows."""
  kind = found.config.policy.nuisance_inputs
  return {f"{role}.{name}": v for role, scored in (("train", found.by_kind[kind]),
                                                   ("test", found.test))
          for name, v in {"row_id": found.p.cohort.row_id[scored.rows], "weight": scored.weight,
                          **scored.nuisances._asdict(), **scored.scores._asdict()}.items()}


def _priorities(found):
  """DataFrame of the test rows: row_id, fold of the scores, each policy's priority and whom it
  treats at each budget. No outcome."""
  fold = np.empty(len(found.test.rows), int)
  for k, rows in enumerate(found.test.folds):
    fold[rows["test"]] = k
  columns = {"row_id": found.p.cohort.row_id[found.test.rows], "fold": fold}
  for name, v in effects.priorities(found.effects, found.p.higher_is_better).items():
    columns[name] = v
    if np.isfinite(v).all():
      columns |= {f"{name}@{q:g}": policies.assign(v, policies.budget(q))
                  for q in found.config.policy.budgets}
  return pd.DataFrame(columns)


def _table(metrics):
  """Lines for a terminal: each policy's ranking and, where the truth is known, its errors."""
  truth = metrics["truth"] or {}
  lines = [f"{'policy':<12} {'AUTOC':>8} {'95% interval':>20} {'PEHE':>7} {'bias':>8}"]
  for name, entry in metrics["policies"]["policies"].items():
    if "autoc" not in entry:
      continue
    a, true = entry["autoc"], truth.get(name, {})
    number = lambda key, form: format(true[key], form) if key in true else "-"
    interval = f"[{a['lo']:+.3f}, {a['hi']:+.3f}]"
    lines.append(f"{name:<12} {a['value']:>+8.3f} {interval:>20} {number('pehe', '.3f'):>7} "
                 f"{number('bias', '+.3f'):>8}")
  return "\n".join(lines)
