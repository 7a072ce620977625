"""The predictions table: the one thing that training hands to statistics.

One line per row, member (fold, seed) and held-out role: row_id, patient_id, fold, seed, role,
pattern, group_<name>, and per task y_<task>, p_base_<task>, p_<task>, p_<name>_<task> of each
reference predictor, p_chosen_<task> and what it was chosen from (posthoc.headline), and the
conformal_ and category_ columns of conformal.add.
"""

import numpy as np
import pandas as pd


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
  Raises:
    ValueError: names that share a column.
  """
  columns = [*dict(row_id=cohort.row_id[rows], patient_id=cohort.patient_id[rows], fold=fold,
                   seed=seed, role=role, pattern=cohort.pattern[rows]).items(),
             *((f"group_{name}", values[rows].astype(str))
               for name, values in cohort.groups.items())]
  for t, task in enumerate(cohort.tasks):
    columns += [(f"y_{task}", cohort.labels[rows, t].astype(np.float64)),
                (f"p_base_{task}", base[:, t].astype(np.float64)),
                *((f"p_{name}_{task}", p[:, t].astype(np.float64))
                  for name, p in references.items())]
  names = [name for name, _ in columns]
  if twice := {name for name in names if names.count(name) > 1}:   # validate() refuses them
    raise ValueError(f"Two predictors or tasks share the columns {sorted(twice)}.")
  return pd.DataFrame(dict(columns))


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


def with_columns(table, columns):
  """The table with further columns, {name: (n,)}, or with others in place of those it had. All at
  once: a frame that takes up many one by one is slow and pandas warns of it."""
  had = {name: values for name, values in columns.items() if name in table}
  new = {name: values for name, values in columns.items() if name not in table}
  found = pd.concat([table.assign(**had), pd.DataFrame(new, index=table.index)], axis=1)
  found.attrs = dict(table.attrs)   # of two frames, concat keeps none
  return found


def matrix(table, prefix, tasks):
  """(n, T) float64 of the columns `<prefix><task>`."""
  return table[[prefix + task for task in tasks]].to_numpy(np.float64)
