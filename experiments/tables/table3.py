"""Table 3: per configuration of modalities, beside zero-filling with the mask and mean
imputation."""

import numpy as np

from crl_jax.data import cohort as cohort_lib
from crl_jax.report import figures, svg
from crl_jax.statistics import disclosure
from experiments import study as study_lib, tables

_COMPARED = {"method": (), "zero_fill": ("model.name=zero_fill",),
             "mean_fill": ("model.name=mean_fill",)}
_COLORS = dict(zip(_COMPARED, (svg.ORANGE, svg.BLUE, svg.BLACK)))
_TOP = 10
_COLUMNS = ("positives", *(f"{name}{end}" for name in (
    *(f"auroc_{model}" for model in _COMPARED), "over_zero_fill", "over_mean_fill")
    for end in ("", "_lo", "_hi")), *(f"brier_{model}" for model in _COMPARED), "no_value_because")


def make(study):
  """[Result]: test patients by the modalities they have; one training for all of them."""
  found = study_lib.tables(study, _COMPARED)
  test = found["method"].query("role == 'test'").drop_duplicates("row_id")
  least = study.config.evaluate.min_cell
  rows, marks = [], []
  sized = disclosure.sized(test[[f"y_{task}" for task in study.cohort.tasks]].notna())
  for task, may in zip(study.cohort.tasks, sized):
    known = test[test[f"y_{task}"].notna()]
    for name, mine, told in configurations(known, task, study.cohort.modalities, least):
      y = known[f"y_{task}"][mine]
      row = {"task": task, "modalities": name, "rows": len(y) if told or may else None,
             **dict.fromkeys(_COLUMNS)}
      rows.append(row)
      if not told:
        row["no_value_because"] = disclosure.reason(least)
        continue
      ids = known.row_id[mine]
      scores = {model: study_lib.score(study, table, task, rows=table.row_id.isin(ids),
                                       metrics=("auroc", "auprc", "brier"))
                for model, table in found.items()}
      row["positives"] = int(y.sum())
      for model, score in scores.items():
        row |= tables.columns(f"auroc_{model}", score["auroc"])
      for other in ("zero_fill", "mean_fill"):
        row |= tables.columns(f"over_{other}", scores["method"]["auroc"] - scores[other]["auroc"])
      row |= {f"brier_{model}": score["brier"].entry["value"] for model, score in scores.items()}
      marks.append((f"{task}: {name}", [figures.mark(s["auroc"].entry, _COLORS[model])
                                        for model, s in scores.items()],
                    f"n = {len(y)}, {int(y.sum())} pos."))
  figure = svg.forest(marks, "AUROC by the modalities that a patient has", "AUROC", names=[
      (label, _COLORS[model], "dot") for model, label in (
          ("method", study.config.model.name), ("zero_fill", "zero-filling + mask"),
          ("mean_fill", "mean imputation"))]) if marks else None
  return [tables.Result("table3", "Table 3: by modality configuration", rows, figure, (
      f"Test patients grouped by what they have, the {_TOP} largest groups; each model was trained "
      f"once, on all patterns. Groups of fewer than {least} patients are left out, or told with a "
      "larger one where they are few together. Intervals are not adjusted for the number of "
      "groups.",
      "The comparators have the method's encoders and heads; they lack gates, attention, "
      "and reconstruction; the same rectifier is fitted to all three. Scaled inputs have mean "
      "zero, so filling with zeros and with means differ in whether the mask is an input.",
      "The values of the paper's Table 3 were not at hand."),
      {"over_zero_fill": "+.3f", "over_mean_fill": "+.3f"})]


def configurations(rows, task, modalities, least):
  """(name, (N,) bool, whether what depends on outcomes may be told) of all rows, then of the
  largest patterns, from rows of the predictions whose outcome is known."""
  y, patient = rows[f"y_{task}"].to_numpy(), rows.patient_id.to_numpy()
  found = disclosure.groups(rows.pattern, patient, y, least)
  everyone = disclosure.counts(np.zeros(len(y), int), patient, y, 1)
  named = [(g.name(cohort_lib.pattern_name(g.level, modalities), "rarer patterns"), g.rows, g.told)
           for g in found if g.level is not None]
  whole = [("all", np.full(len(y), True), bool(disclosure.told(everyone, least)[0]))]
  return whole + named[:_TOP] if len(y) else []
