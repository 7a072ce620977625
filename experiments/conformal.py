"""Do prediction sets per missingness pattern cover, in patterns with few patients too?

    python -m experiments.conformal --config=configs/eicu.py --splits=10 data.root=DIR
    python -m experiments.conformal --config=configs/mimic.py --splits=1

Base predictions by logistic regression (coverage does not depend on the model), over all folds of
several splits of the patients, at miss rates of 10% and 20%. Patterns are grouped by the
calibration patients that they had; "pooled" calibrates without regard to the pattern. What is
promised is the coverage of a random row of a patient, so the rows of a patient share the weight of
one: within the pattern, or over all for "pooled".
"""

import argparse
import pathlib

import numpy as np
import pandas as pd
from sklearn import linear_model

from crl_jax import commands, config as config_lib, pipeline
from crl_jax.data import preprocess, sources
from crl_jax.engine import yardsticks
from crl_jax.statistics import conformal, predictions
from experiments import sweep

BANDS = (0, 9, 30, 100, 10**9)   # calibration patients of a pattern


def tables(cohort, config, splits):
  """Yields a predictions table per split, its base predictions by logistic regression."""
  for seed in range(splits):
    prepared = pipeline.prepare(config_lib.override(config, [
        f"seed={seed}", f"members.folds={config.splits.folds}"]), cohort)
    parts = []
    for fold, (rows, stats) in enumerate(zip(prepared.rows, prepared.stats)):
      x = yardsticks.design_matrix(
          preprocess.transform(stats, cohort.inputs, cohort.observed, cohort.modalities),
          cohort.observed, cohort.modalities)
      held = np.concatenate([rows["val"], rows["test"]])
      found = np.empty((len(held), len(cohort.tasks)))
      for t in range(len(cohort.tasks)):
        train = rows["train"][~np.isnan(cohort.labels[rows["train"], t])]
        model = linear_model.LogisticRegression(C=1e-2, max_iter=300, tol=1e-3)
        found[:, t] = model.fit(x[train], cohort.labels[train, t]).predict_proba(x[held])[:, 1]
      for role, p in zip(("val", "test"), np.split(found, [len(rows["val"])])):
        parts.append(predictions.part(cohort, rows[role], fold, seed, role, p, {}))
    yield pd.concat(parts, ignore_index=True)


def coverage(table, tasks, config, alpha):
  """Rows (method, band of calibration patients, test rows, their weight, that of the covered, that
  of both labels) of one table."""
  lines = []
  for method, one in (("per pattern", table), ("pooled", table.assign(pattern=0))):
    sets = conformal.add(one, tasks, config)
    within = ["fold", "patient_id"] + (["pattern"] if method == "per pattern" else [])
    sets["pattern"] = table.pattern
    for task in tasks:
      known = sets[f"y_{task}"].notna()
      val = sets[known & (sets.role == "val")].groupby(["fold", "pattern"]).patient_id.nunique()
      test = sets[known & (sets.role == "test")]
      n = val.reindex(pd.MultiIndex.from_frame(test[["fold", "pattern"]]), fill_value=0).to_numpy()
      inside = test[[f"conformal_{task}_0", f"conformal_{task}_1"]].to_numpy() > alpha
      y = test[f"y_{task}"].to_numpy().astype(int)
      weight = 1 / test.groupby(within).row_id.transform("size").to_numpy()
      for band in range(len(BANDS) - 1):
        mine = (n >= BANDS[band]) & (n < BANDS[band + 1])
        held = weight[mine] @ inside[mine, y[mine]], weight[mine] @ inside[mine].all(1)
        lines.append((method, band, mine.sum(), weight[mine].sum(), *held))
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", type=commands.path, default=pathlib.Path("configs/mimic.py"))
  parser.add_argument("--splits", type=int, default=5, help="of the patients into folds")
  parser.add_argument("settings", nargs="*", help="key=value of the config")
  arguments = parser.parse_args()
  config = config_lib.override(sweep.read(arguments.config), arguments.settings)
  cohort = sources.build_cohort(config)
  lines = {alpha: [] for alpha in (0.1, 0.2)}
  for table in tables(cohort, config, arguments.splits):
    for alpha, found in lines.items():
      found += coverage(table, cohort.tasks, config.evaluate, alpha)
  print("| miss rate | calibration | calibration patients of the pattern | test rows | covered | "
        "both labels |\n| --- | --- | --- | --- | --- | --- |")
  for alpha, found in lines.items():
    sums = pd.DataFrame(found, columns=[
        "method", "band", "n", "weight", "covered", "both"]).groupby(
        ["method", "band"], sort=True).sum()
    for (method, band), row in sums.iterrows():
      if row.n:
        upper = f"to {BANDS[band + 1] - 1}" if band < len(BANDS) - 2 else "or more"
        print(f"| {alpha:.0%} | {method} | {BANDS[band]} {upper} | {row.n:.0f} | "
              f"{row.covered / row.weight:.3f} | {row.both / row.weight:.3f} |")


if __name__ == "__main__":
  main()
