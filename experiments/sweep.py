"""Which settings are best on validation rows:
python -m experiments.sweep --config=configs/eicu.py --out=DIR [--seeds=2]
    [--setting=KEY=VALUE[,KEY=VALUE...]]... [KEY=VALUE ...]

Every setting is trained on all folds of the config with so many seeds; settings that share their
shapes are members of one program. KEY=VALUE arguments apply to all. Scores are those of a fold's
averaged seeds on its validation rows, pooled over folds; test rows are never looked at. A second
call goes on where the first one stopped: Ctrl-C and SIGTERM save the epochs that were begun.
"""

import argparse
import hashlib
import importlib.util
import json
import pathlib

import numpy as np
import pandas as pd

from crl_jax import commands, config as config_lib, pipeline
from crl_jax.data import sources
from crl_jax.engine import members
from crl_jax.statistics import metrics

# Around the paper's values: the default grid.
GRID = ("", *(f"train.joint.learning_rate={x}" for x in (5e-5, 1e-4, 4e-4, 8e-4)),
        *(f"model.dropout={x}" for x in (0.1, 0.3)),
        *(f"train.weight_decay={x}" for x in (1e-6, 1e-4, 1e-2)),
        *(f"train.joint.weights.contrastive={x}" for x in (0.05, 0.3)),
        *(f"train.joint.weights.reconstruction={x}" for x in (0.05, 0.5)))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", type=commands.path, required=True)
  parser.add_argument("--out", type=commands.path, required=True)
  parser.add_argument("--seeds", type=int, default=2)
  parser.add_argument("--setting", action="append")
  parser.add_argument("common", nargs="*")
  arguments = parser.parse_args()
  with commands.ending("experiments.sweep") as stop:
    table = sweep(read(arguments.config), arguments.common, arguments.setting or GRID,
                  arguments.seeds, arguments.out, stop)
  print(table.to_string(index=False, float_format=lambda x: f"{x:.4f}"))
  print(f"\nLowest validation log-loss: {table.setting[table.log_loss.idxmin()] or 'the config'}")


def read(path):
  """The config of FILE or FILE:MODEL, a file in configs/. Raises OSError or ValueError where there
  is none."""
  file, _, model = str(path).partition(":")
  path = pathlib.Path(file)
  if path.suffix != ".py":
    raise ValueError(f"--config={path} is no Python file: name one of configs/.")
  spec = importlib.util.spec_from_file_location("chosen", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except OSError as error:
    raise OSError(f"--config={path} cannot be read ({error.strerror}): name one of configs/."
                  ) from error
  if not hasattr(module, "get_config"):
    raise ValueError(f"--config={path} defines no get_config(): name one of configs/.")
  return module.get_config(*[model] if model else ())


def sweep(config, common, settings, seeds, out, stop):
  """The table of all settings, written to out/sweep.csv too. `stop` is a stopping.Stop."""
  config = config_lib.override(config, [*common, f"members.seeds={seeds}"])
  groups = grouped(config, settings)   # before hours of reading
  out.mkdir(parents=True, exist_ok=True)
  cohort = sources.build_cohort(config)
  lines = []
  for group in groups:
    lines += [{"setting": s, **scores} for s, scores in validated(group, cohort, out, stop)]
    pd.DataFrame(lines).to_csv(out / "sweep.csv", index=False)
  return pd.DataFrame(lines)


def grouped(config, settings):
  """[{setting: its config}, ...], each of settings that can share their programs. Raises ValueError
  for one that cannot work."""
  groups = {}
  for setting in settings:
    changed = config_lib.check(config_lib.override(config.copy_and_resolve_references(),
                                                   setting.split(",") if setting else []))
    lines = config_lib.difference(config_lib.as_dict(config), config_lib.as_dict(changed))
    if any(line.startswith(("data.", "splits.", "seed:")) for line in lines):
      raise ValueError(f"Setting '{setting}' changes the rows or their splits, which all settings "
                       "share: name it without --setting, in a sweep of its own.")
    fixed = [line for line in lines if not members.may_differ(line, ["dropout"])]
    groups.setdefault(tuple(fixed), {})[setting] = changed
  return list(groups.values())


def validated(group, cohort, out, stop):
  """Yields (setting, scores on validation rows) of the members of one program."""
  config = next(iter(group.values()))
  prepared = pipeline.prepare(config, cohort)
  plans = [plan for s, changed in enumerate(group.values())
           for plan in members.grid(changed, f"setting{s}")]
  text = json.dumps([list(group), config_lib.as_dict(config)], sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()
  folder = out / digest[:8]
  folder.mkdir(exist_ok=True)
  ready = pipeline.fit(prepared, plans, folder, digest, stop)
  found = pipeline.predict(prepared, plans, ready, ("val",))["val"]
  for s, setting in enumerate(group):
    y, p = [], []
    for fold, rows in enumerate(prepared.rows):
      mine = [m for m, plan in enumerate(plans)
              if plan.label == f"setting{s}" and plan.fold == fold]
      y.append(cohort.labels[rows["val"]])
      p.append(np.mean([found[m] for m in mine], 0))
    yield setting, scored(np.concatenate(y), np.concatenate(p), cohort.tasks)


def scored(y, p, tasks):
  """name -> AUROC, AUPRC and log-loss of every task, and the mean log-loss."""
  ranked, found = metrics.scores(y.T, p.T, only=("auroc", "auprc"), where=~np.isnan(y.T)), {}
  for t, task in enumerate(tasks):
    found |= {f"{name}_{task}": float(value[t, 0]) for name, value in ranked.items()}
    known = ~np.isnan(y[:, t])
    q = np.clip(p[known, t].astype(np.float64), 1e-7, 1 - 1e-7)
    found[f"log_loss_{task}"] = float(
        -(y[known, t] * np.log(q) + (1 - y[known, t]) * np.log1p(-q)).mean())
  return {**found, "log_loss": np.mean([found[f"log_loss_{task}"] for task in tasks])}


if __name__ == "__main__":
  main()
