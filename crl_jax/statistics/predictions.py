"""The predictions table: the one thing that training hands to statistics.

One line per row, member (fold, seed) and held-out role: row_id, patient_id, fold, seed, role,
pattern, group_<name>, and per task y_<task>, p_base_<task>, p_<task>, p_<name>_<task> of each
reference predictor, and the conformal_ and category_ columns of conformal.add.
"""

import numpy as np
import pandas as pd

from crl_jax.posthoc import rectifier


def part(cohort, rows, fold, seed, role, base, references):
  """The table of one member and role.

  Args:
    cohort: data.cohort.Cohort.
    rows: (n,) row indices.
    fold, seed, role: of the member.
    base: (n, T) probabilities before the rectifier.
    references: name -> (n, T) probabilities of other predictors.
  Returns:
    DataFrame.
  """
  columns = dict(row_id=cohort.row_id[rows], patient_id=cohort.patient_id[rows], fold=fold,
                 seed=seed, role=role, pattern=cohort.pattern[rows])
  columns |= {f"group_{name}": values[rows].astype(str) for name, values in cohort.groups.items()}
  for t, task in enumerate(cohort.tasks):
    columns[f"y_{task}"] = cohort.labels[rows, t].astype(np.float64)
    columns[f"p_base_{task}"] = base[:, t].astype(np.float64)
    columns |= {f"p_{name}_{task}": p[:, t].astype(np.float64) for name, p in references.items()}
  return pd.DataFrame(columns)


def of_fold(cohort, rows, fold, seeds, base, ensemble, references):
  """The table of the members of one fold.

  Args:
    cohort, fold: see part().
    rows: role -> (n,) row indices.
    seeds: the members'.
    base: role -> a list of (n, T), one of each member.
    ensemble: the members' average instead of each; its seed is 0.
    references: role -> references of part().
  Returns:
    DataFrame.
  """
  lines = lambda found: [(0, np.mean(found, 0))] if ensemble else zip(seeds, found)
  return pd.concat([part(cohort, rows[role], fold, seed, role, p, references[role])
                    for role, found in base.items() for seed, p in lines(found)],
                   ignore_index=True)


def matrix(table, prefix, tasks):
  """(n, T) float64 of the columns `<prefix><task>`."""
  return table[[prefix + task for task in tasks]].to_numpy(np.float64)


def rectify(table, tasks, modalities, config, seed):
  """Adds p_<task> to every line of the table.

  Each member's rectifier is fitted on its own validation lines: its test lines take the pooled
  estimate, its validation lines that of the other calibration folds. The rectifier for new
  patients, whose base prediction is the members' average, pools the validation lines of all
  members.

  Args:
    table: the parts of all members, with p_base_<task>.
    tasks, modalities: names.
    config: config.rectifier.
    seed: deals calibration patients into folds.
  Returns:
    (table, {"members": [...], "pooled": ...}): rectifiers as plain dicts.
  """
  base = matrix(table, "p_base_", tasks)
  final = base.copy()
  members = []
  arguments = lambda mask: (
      matrix(table[mask], "y_", tasks), base[mask], table.pattern[mask].to_numpy(),
      table.patient_id[mask].to_numpy())
  val = (table.role == "val").to_numpy()
  if config.enabled:
    for (fold, seed_of_member), lines in table.groupby(["fold", "seed"], sort=True).indices.items():
      mine = np.zeros(len(table), bool)
      mine[lines] = True
      fitted = rectifier.fit(*arguments(mine & val), config, seed)
      final[mine & val] = rectifier.cross_fitted(*arguments(mine & val), config, seed)
      test = mine & ~val
      final[test] = rectifier.apply(fitted, base[test], table.pattern[test].to_numpy())
      members.append({"fold": int(fold), "seed": int(seed_of_member),
                      **rectifier.to_dict(fitted, tasks, modalities)})
  pooled = rectifier.to_dict(rectifier.fit(*arguments(val), config, seed), tasks, modalities)
  table = table.assign(**{f"p_{task}": final[:, t] for t, task in enumerate(tasks)})
  return table, {"enabled": bool(config.enabled), "members": members, "pooled": pooled}
