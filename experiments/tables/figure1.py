"""Figure 1: how often each outcome occurs by the modalities that were observed, in the whole
cohort."""

import numpy as np

from crl_jax.data import cohort as cohort_lib
from crl_jax.report import svg
from crl_jax.statistics import disclosure, fairness, orthogonal
from experiments import tables

_TOP = 12


def make(study):
  """[Result]: outcome rate per pattern with 95% intervals; no model takes part."""
  cohort, least = study.cohort, study.config.evaluate.min_cell
  rows, marks, said = [], [], []
  sized = disclosure.sized(np.isfinite(cohort.labels))
  for t, task in enumerate(cohort.tasks):
    known = np.isfinite(cohort.labels[:, t])
    y_N, patient_N = cohort.labels[known, t], cohort.patient_id[known]
    found = disclosure.groups(cohort.pattern[known], patient_N, y_N, least)
    for group in [g for g in found if g.level is not None]:
      y, patient = y_N[group.rows], patient_N[group.rows]
      if sum(row["task"] == task for row in rows) == _TOP:
        continue
      name = group.name(cohort_lib.pattern_name(group.level, cohort.modalities), "rarer patterns")
      row = {"task": task, "pattern": name, "rows": len(y) if group.told or sized[t] else None,
             **dict.fromkeys(("positives", "rate", "rate_lo", "rate_hi"))}
      if group.told:
        lo, hi = fairness.proportion(y, np.arange(len(y)), patient)
        row |= dict(positives=int(y.sum()), rate=float(y.mean()), rate_lo=lo, rate_hi=hi)
        marks.append((f"{task}: {name}", [(row["rate"], lo, hi, svg.SERIES[t % 7], "dot")],
                      f"{y.mean():.1%} of {len(y)}"))
      rows.append(row)
    every = [group.rows for group in found]   # a p-value over all of them tells of none
    p = heterogeneity(y_N, every, patient_N)
    said.append(f"{task}: fewer than two patterns to compare." if p is None else
                f"{task}: the rates of {len(every)} groups of patterns "
                f"{'differ' if p < 0.05 else 'are not shown to differ'} (score test, patients as "
                f"clusters, p = {p:.2g}).")
  figure = svg.forest(marks, "Outcome rate by observed modalities, 95% intervals",
                          "outcome rate", include=(0.0,), form=".1%") if marks else None
  return [tables.Result(
      "figure1", "Figure 1: outcome rates by pattern", rows, figure,
      (*said, f"Patterns of fewer than {least} patients are left out, or told with a larger one "
       f"where they are few together. No rate: {disclosure.reason(least)}. The {_TOP} largest "
       "are drawn. A difference between patterns may be the direct effect of the pattern or of "
       "what made clinicians order: see the test of informative missingness."),
      {"rate": ".3f"})]


def heterogeneity(y_N, groups, patient_N):
  """p of the test that all groups of rows have one outcome rate, with patients as clusters; None
  for fewer than two groups."""
  if len(groups) < 2:
    return None
  rows = np.any(groups, 0)
  member = np.stack(groups[1:], 1)[rows].astype(float)
  # a score test: the variance of a Wald test is nothing where a small group has no outcome at all
  return orthogonal.score_test(y_N[rows] - y_N[rows].mean(), member - member.mean(0),
                               patient_N[rows])["p"]
