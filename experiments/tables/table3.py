"""Table 3: per configuration of modalities, beside zero-filling with the mask and mean
imputation."""

from crl_jax import figures
from crl_jax.data import cohort as cohort_lib
from experiments import study as study_lib
from experiments import tables

_COMPARED = {"method": (), "zero_fill": ("model.name=zero_fill",),
             "mean_fill": ("model.name=mean_fill",)}
_COLORS = dict(zip(_COMPARED, (figures.ORANGE, figures.BLUE, figures.BLACK)))
_TOP = 10


def make(study):
  """[Result]: test patients by the modalities they have; one training for all of them."""
  found = study_lib.tables(study, _COMPARED)
  test = found["method"].query("role == 'test'").drop_duplicates("row_id")
  counts = test.pattern.value_counts()
  patterns = [p for p, n in counts.items() if n >= study.config.evaluate.min_cell][:_TOP]
  rows, marks = [], []
  for task in study.cohort.tasks:
    for pattern in (None, *patterns):
      mine = test if pattern is None else test[test.pattern == pattern]
      y = mine[f"y_{task}"].dropna()
      if y.nunique() < 2 or len(y) < study.config.evaluate.min_cell:   # said in a sentence below
        continue
      name = "all" if pattern is None else cohort_lib.pattern_name(pattern, study.cohort.modalities)
      scores = {model: study_lib.score(
          study, table, task, rows=None if pattern is None else table.pattern == pattern,
          metrics=("auroc", "auprc", "brier")) for model, table in found.items()}
      row = {"task": task, "modalities": name, "rows": len(y), "positives": int(y.sum())}
      for model, score in scores.items():
        row |= tables.columns(f"auroc_{model}", score["auroc"])
      for other in ("zero_fill", "mean_fill"):
        row |= tables.columns(f"over_{other}", scores["method"]["auroc"] - scores[other]["auroc"])
      row |= {f"brier_{model}": score["brier"].value for model, score in scores.items()}
      rows.append(row)
      marks.append((f"{task}: {name}", [
          (s["auroc"].value, *s["auroc"].interval, _COLORS[model], "dot")
          for model, s in scores.items()], f"n = {len(y)}, {int(y.sum())} pos."))
  figure = figures.forest(marks, "AUROC by the modalities that a patient has", "AUROC", names=[
      (label, _COLORS[model], "dot") for model, label in (
          ("method", study.config.model.name), ("zero_fill", "zero-filling + mask"),
          ("mean_fill", "mean imputation"))])
  return [tables.Result("table3", "Table 3: by modality configuration", rows, figure, (
      f"Test patients grouped by what they have, the {_TOP} largest groups; each model was trained "
      "once, on all patterns. Groups with few labelled rows, or with one class among their "
      "outcomes, are left out. Intervals are not adjusted for the number of groups.",
      "The comparators have the method's encoders and heads; they lack gates, attention, "
      "and reconstruction; the same rectifier is fitted to all three. Scaled inputs have mean "
      "zero, so filling with zeros and with means differ in whether the mask is an input.",
      "The values of the paper's Table 3 were not at hand."),
      {"over_zero_fill": "+.3f", "over_mean_fill": "+.3f"})]
