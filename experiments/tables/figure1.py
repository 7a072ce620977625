"""Figure 1: how often each outcome occurs by the modalities that were observed, in the whole
cohort."""

import numpy as np

from crl_jax import disclosure, figures, metrics as metrics_lib
from crl_jax.data import cohort as cohort_lib
from experiments import tables

_TOP = 12


def make(study):
  """[Result]: outcome rate per pattern with 95% intervals; no model takes part."""
  cohort, least = study.cohort, study.config.evaluate.min_cell
  rows, marks, said = [], [], []
  for t, task in enumerate(cohort.tasks):
    known, cells = np.isfinite(cohort.labels[:, t]), []
    y_N, patient_N = cohort.labels[known, t], cohort.patient_id[known]
    found = disclosure.groups(cohort.pattern[known], patient_N, y_N, least)
    for group in [g for g in found if g.level is not None]:
      y, patient = y_N[group.rows], patient_N[group.rows]
      if group.told:
        cells.append((len(y), int(y.sum())))
      if sum(row["task"] == task for row in rows) == _TOP:
        continue
      name = group.name(cohort_lib.pattern_name(group.level, cohort.modalities), "rarer patterns")
      row = {"task": task, "pattern": name, "rows": len(y),
             **dict.fromkeys(("positives", "rate", "rate_lo", "rate_hi"))}
      if group.told:
        lo, hi = interval(y, patient)
        row |= dict(positives=int(y.sum()), rate=float(y.mean()), rate_lo=lo, rate_hi=hi)
        marks.append((f"{task}: {name}", [(row["rate"], lo, hi, figures.SERIES[t % 7], "dot")],
                      f"{y.mean():.1%} of {len(y)}"))
      rows.append(row)
    said.append(heterogeneity(task, cells))
  figure = figures.forest(marks, "Outcome rate by observed modalities, 95% intervals",
                          "outcome rate", include=(0.0,), form=".1%") if marks else None
  return [tables.Result(
      "figure1", "Figure 1: outcome rates by pattern", rows, figure,
      (*said, f"Patterns of fewer than {least} patients are left out, or told with a larger one "
       f"where they are few together. No rate: {disclosure.reason(least)}. The {_TOP} largest "
       "are drawn. A difference between patterns may be the direct effect of the pattern or of "
       "what made clinicians order: see the test of informative missingness."),
      {"rate": ".3f"})]


def interval(y, patient):
  """Wilson's interval on the effective number of rows: rows of one patient count as the cluster
  that they are."""
  n, rate = len(y), y.mean()
  _, index = np.unique(patient, return_inverse=True)
  clustered = float((np.bincount(index, y - rate) ** 2).sum())
  plain = float(((y - rate) ** 2).sum())
  effective = n / max(clustered / plain, 1.0) if plain > 0 else len(np.unique(patient))
  return tuple(float(v) for v in metrics_lib.wilson(rate * effective, effective))


def heterogeneity(task, cells):
  """A sentence on the chi-square test that all patterns have one outcome rate."""
  from scipy import stats
  n, positives = np.array(cells, float).reshape(-1, 2).T
  if len(n) < 2 or not 0 < positives.sum() < n.sum():
    return f"{task}: fewer than two patterns or outcomes to compare."
  found = stats.chi2_contingency(np.stack([positives, n - positives]), correction=False)
  return (f"{task}: the rates of {len(n)} patterns "
          f"{'differ' if found.pvalue < 0.05 else 'are not shown to differ'} (chi-square "
          f"{found.statistic:.1f}, {len(n) - 1} degrees of freedom, p = {found.pvalue:.2g}).")
