"""How far from the best possible predictor: python -m experiments.regret [--rows=20000] [--seeds=5]
[--out=DIR].

For each seed a full run on the simulated cohort (its folder under --out, so that a second call
resumes or only prints), beside gradient boosting on 16 principal components of each modality plus
the pattern, fitted on the same training rows and scored on the same test rows. Other settings of
the run are given as key=value.
"""

import argparse
import pathlib

import numpy as np
import pandas as pd

from configs import mimic
from crl_jax import commands, config as config_lib, pipeline, run
from crl_jax.data import preprocess
from crl_jax.engine import yardsticks

COMPONENTS = 16


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=20000)
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--out", type=commands.path, default=pathlib.Path("runs/regret"))
  parser.add_argument("settings", nargs="*",
                      help="key=value of the config, for example train.joint.epochs=20")
  arguments = parser.parse_args()
  found = []
  for seed in range(arguments.seeds):
    config = mimic.get_config()
    with config.unlocked():
      config.seed = seed
      config.data.simulate.rows = arguments.rows
      config.evaluate.yardsticks = False   # the boosting below is the stronger one on these inputs
    config = config_lib.override(config, arguments.settings)
    metrics = run.run(config, arguments.out / f"rows{arguments.rows}-seed{seed}")
    found += rows_of(seed, metrics, boosting_on_components(config))
  table = pd.DataFrame(found)
  table.to_csv(arguments.out / f"regret-{arguments.rows}.csv", index=False)
  print(summary(table, arguments.rows))


def rows_of(seed, metrics, boosting):
  """One line per task: AUROC of all four predictors and the rectifier's change of the Brier
  score."""
  value = lambda role, task, name: metrics[role][task][name]["value"]
  for task, other in boosting.items():
    yield dict(seed=seed, task=task, bayes=value("test_bayes", task, "auroc"), boosting=other,
               base=value("test_base", task, "auroc"), rectified=value("test", task, "auroc"),
               brier_change=value("test", task, "brier") - value("test_base", task, "brier"))


def boosting_on_components(config):
  """task -> test AUROC of gradient boosting on the leading components of each modality and the
  pattern bits."""
  from sklearn.decomposition import PCA
  from sklearn.metrics import roc_auc_score
  prepared = pipeline.prepare(config)
  cohort, (train, _, test) = prepared.cohort, prepared.rows[0].values()
  inputs = preprocess.transform(prepared.stats[0], cohort.inputs, cohort.observed,
                                cohort.modalities)
  reduced = {}
  for m, name in enumerate(cohort.modalities):
    pca = PCA(COMPONENTS, svd_solver="randomized", random_state=config.seed)
    pca.fit(inputs[name][train[cohort.observed[train, m]]])
    reduced[name] = pca.transform(inputs[name]) * cohort.observed[:, [m]]
  x, y = yardsticks.design_matrix(reduced, cohort.observed, cohort.modalities), cohort.labels
  fitted = yardsticks.fit(x[train], y[train], cohort.patient_id[train], len(cohort.modalities),
                          config.seed, ["boosting"])
  p = fitted.predict(x[test])["boosting"]
  return {task: roc_auc_score(y[test, t], p[:, t]) for t, task in enumerate(cohort.tasks)}


def summary(table, rows):
  """The printed table: mean over seeds, with a t interval of the differences where there are
  several."""
  from scipy import stats
  lines = [f"\n{rows} rows, {table.seed.nunique()} seeds: test AUROC, "
           "mean over seeds [95% interval]",
           f"{'task':14}{'Bayes':>8}{'boosting':>10}{'CRL-MMNAR':>11}  "
           f"{'regret':27}{'over boosting':27}Brier change"]
  def interval(x):
    if len(x) < 2:
      return f"{x.mean():<+26.4f}"
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return f"{x.mean():+.4f} [{x.mean() - half:+.4f}, {x.mean() + half:+.4f}]"
  for task, part in table.groupby("task", sort=False):
    lines.append(f"{task:14}{part.bayes.mean():8.4f}{part.boosting.mean():10.4f}"
                 f"{part.rectified.mean():11.4f}  {interval(part.bayes - part.rectified)} "
                 f"{interval(part.rectified - part.boosting)} {part.brier_change.mean():+.5f}")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
