"""What each modality contributed: from the contributions of rows to text, figures and pages."""

import pathlib

import numpy as np

from crl_jax import files
from crl_jax.report import figures, page, svg, tables
from crl_jax.statistics import bootstrap

PATTERN = "what was recorded"


def summary(found, new=False, min_cell=10, resamples=1000, seed=0):
  """The cohort's explanation (a serve.explain.Explained) as JSON types: means over rows with 95%
  intervals by patient, null over fewer than `min_cell` patients. `new`: the rows are not the run's
  own."""
  modalities, absent = found.modalities, found.absent
  patients, patient = np.unique(found.patient_id, return_inverse=True)
  counts = bootstrap.resample(len(patients), resamples, seed)

  enough = lambda rows: len(np.unique(patient[rows])) >= min_cell

  def mean(values, rows):
    if not enough(rows):
      reason = f"observed for fewer than {min_cell} explained patients"
      return dict(value=None, lo=None, hi=None, reason=reason)
    total, n = (np.bincount(patient, w, len(patients)) for w in (np.where(rows, values, 0), rows))
    drawn = (counts @ total) / np.maximum(counts @ n, 1)
    lo, hi = np.quantile(drawn[counts @ n > 0], (0.025, 0.975))
    return dict(value=float(values[rows].mean()), lo=float(lo), hi=float(hi))

  every, by_task = np.ones(len(found.row_id), bool), {}
  for t, task in enumerate(found.tasks):
    pattern = found.nothing[:, t] - found.average[:, t]
    average = float(found.nothing[:, t].mean()) if enough(every) else None
    entry = dict(average=average, contribution={}, signed={})
    whole = [(PATTERN, pattern, every)] if absent == "replaced" else []
    for name, values, rows in (*whole, *(
        (m, found.values[:, i, t], found.observed[:, i]) for i, m in enumerate(modalities))):
      entry["contribution"][name] = mean(np.abs(values), rows)
      entry["signed"][name] = mean(values, rows)
    by_task[task] = entry
  looks = {key: {m: float(np.nanmean(value[:, i])) if enough(found.observed[:, i]) else None
                 for i, m in enumerate(modalities)}
           for key, value in (("attention", found.attention), ("gate", found.gate))
           if value is not None}
  how = (f"from all {2 ** len(modalities)} coalitions" if not found.orders else
         f"from {found.orders} sampled orders of arrival")
  if found.error.any():
    seen = found.error[found.observed]
    how += (f", with sampled patients standing in: standard error of a single value "
            f"{np.median(seen):.4f} at the median, {seen.max():.4f} at most, the same patients for "
            "all rows; the intervals of means below hold the rows' own chance alone")
  stands = ("A modality outside a coalition has the content of other patients, the pattern stays; "
            f"'{PATTERN}' is how far the pattern alone moves the prediction from the average."
            if absent == "replaced" else
            "A modality outside a coalition counts as never recorded, so its contribution holds "
            "what its being there says.")
  return dict(rows=len(found.row_id), absent=absent, tasks=by_task, **looks, said=[
      f"Shapley values over modalities of the predicted probability before the rectifier, {how}; "
      f"{len(found.row_id)} " + ("new rows, explained by all members. " if new else
      "test rows, each explained by members that never saw it. ") + stands,
      "They describe the model, not the patient: a modality that contributes is one the model "
      "used, not one that would change the outcome.",
      *([] if all(enough(rows) for rows in found.observed.T) else [
          f"A dash: fewer than {min_cell} of these patients have the modality."])])


def figure(brief):
  """The cohort's contributions as one <svg>."""
  rows = [(f"{task}: {name}",
           [figures.mark(v, svg.BLACK if name == PATTERN else svg.SERIES[i % 7])], None)
          for i, (task, entry) in enumerate(brief["tasks"].items())
          for name, v in entry["contribution"].items()]
  return svg.forest(rows, "Mean absolute contribution of each modality",
                        "change of the predicted probability", include=(0.0,))


def lines(found):
  """A table of single rows: one line per row and task."""
  import pandas as pd
  parts = []
  for t, task in enumerate(found.tasks):
    columns = dict(row_id=found.row_id, task=task, prediction=found.prediction[:, t],
                   average=found.average[:, t], pattern=found.nothing[:, t] - found.average[:, t])
    for i, m in enumerate(found.modalities):
      columns[f"contribution_{m}"] = found.values[:, i, t]
      columns[f"error_{m}"] = found.error[:, i, t]
      if found.attention is not None:
        columns[f"attention_{m}"] = found.attention[:, i]
      if found.gate is not None:
        columns[f"gate_{m}"] = found.gate[:, i]
    parts.append(pd.DataFrame(columns))
  return pd.concat(parts, ignore_index=True)


def patient_page(path, table, ids, modalities):
  """Writes a page with a figure and a line per asked row and task. Raises ValueError for rows that
  were not explained, by their number."""
  known = table[table.row_id.isin(ids)]
  if absent := len(set(ids) - set(known.row_id)):
    raise ValueError(f"{absent} of the {len(ids)} --row_ids are not among the explained rows: "
                     "raise --rows, or name rows of the test folds.")
  parts = []
  for row in known.sort_values(["row_id", "task"]).to_dict("records"):
    steps = [(PATTERN, row["pattern"]), *((m, row[f"contribution_{m}"]) for m in modalities)]
    parts.append(dict(
        title=f"row {row['row_id']}: {row['task']}",
        figure=svg.waterfall(("average", row["average"]), steps, "prediction",
                             f"{row['task']}: how the prediction came about"),
        heads=["", "changes the probability by", "attention", "gate"],
        lines=[[name, f"{value:+.4f}"] + [
            tables.number(row.get(f"{key}_{name}")) for key in ("attention", "gate")]
            for name, value in steps],
        said=[f"Average {row['average']:.4f}; prediction before the rectifier "
              f"{row['prediction']:.4f}."]))
  page.write_tables(path, "Contributions to single predictions", [
      "This page is about single patients. Handle it as you handle their records."], parts)


def write(workdir, found, new=False):
  """Writes explain.json and explain.svg of a run and makes its report again, unless `new`: the
  report is about the run's own test rows. Returns summary()'s."""
  workdir = pathlib.Path(workdir)
  settings = files.read(workdir / "config.json")["evaluate"]
  brief = summary(found, new, settings["min_cell"])
  if not new:
    files.write_json(workdir / "explain.json", brief)
    files.seal(workdir, "explain.json")
    page.rebuild(workdir)
    with files.replaced(workdir / "explain.svg") as part:   # last: see is_written()
      part.write_text(svg.standalone(figure(brief)), encoding="utf-8")
  return brief


def is_written(workdir):
  """True where the run in `workdir` was explained and its report says so."""
  return (pathlib.Path(workdir) / "explain.svg").exists()
