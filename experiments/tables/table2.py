"""Table 2: the ablation in the paper's order, and each component removed alone, with paired
intervals."""

from crl_jax.report import svg
from crl_jax.statistics import compare
from experiments import study as study_lib, tables

_NO_PATTERN, _NO_REBUILD, _NO_CONTRAST = (
    "model.crl_mmnar.conditioning=False", "model.crl_mmnar.reconstruction=False", "model.crl_mmnar.contrastive=False")
# label, settings, column: without the rectifier a run's predictions are its base predictions
STEPS = (("basic", (_NO_PATTERN, _NO_REBUILD), "p_base_"),
         ("+ MMNAR-aware fusion", (_NO_REBUILD,), "p_base_"),
         ("+ reconstruction, contrastive", (), "p_base_"),
         ("+ rectifier: the whole method", (), "p_"))
ALONE = (("without MMNAR-aware fusion", (_NO_PATTERN,), "p_"),
         ("without reconstruction, contrastive", (_NO_REBUILD,), "p_"),
         ("without the contrastive loss", (_NO_CONTRAST,), "p_"),
         ("without the rectifier", (), "p_base_"),
         ("without any of them", (_NO_PATTERN, _NO_REBUILD), "p_base_"))
METRICS = ("auroc", "auprc", "brier")


def make(study):
  """[Result]: every line's scores, and what its last (STEPS) or missing (ALONE) component adds."""
  lines = (*STEPS, *ALONE)
  found = study_lib.tables(study, {",".join(s): s for _, s, _ in lines})
  rows, marks = [], []
  for task in study.cohort.tasks:
    scores = {label: study_lib.score(study, found[",".join(s)], task, column, metrics=METRICS)
              for label, s, column in lines}
    whole, before = scores[STEPS[-1][0]], None
    for label, *_ in lines:
      score, alone = scores[label], label.startswith("without")
      row = {"task": task, "model": label,
             **{k: v for m in METRICS for k, v in tables.columns(m, score[m]).items()},
             "adds": "component removed" if alone else "step" if before else None}
      for m in ("auroc", "brier"):
        gain = whole[m] - score[m] if alone else score[m] - before[m] if before else None
        row |= tables.columns(f"{m}_gain", gain) if gain else {
            f"{m}_gain{end}": None for end in ("", "_lo", "_hi")}
        row[f"{m}_p"] = gain.entry["p"] if gain else None
        row[f"{m}_p_resampled_t"] = tables.resampled_t(gain, study.config) if gain else None
      if row["adds"]:
        marks.append((f"{task}: {label}", [(row["auroc_gain"], row["auroc_gain_lo"],
                                            row["auroc_gain_hi"], svg.BLUE if alone
                                            else svg.ORANGE, "dot")], None))
      before = None if alone else score
      rows.append(row)
  keys = [(i, f"{m}_p") for i in range(len(rows)) for m in ("auroc", "brier")]
  for (i, key), p in zip(keys, compare.holm([rows[i][key] for i, key in keys])):
    rows[i][key] = p
  for row in rows:
    row["earns_its_place"] = verdict(row)
  figure = svg.forest(
      marks, "What each component adds to the AUROC, with 95% intervals", "difference in AUROC",
      zero=0.0, form="+.3f", names=(("in the paper's order", svg.ORANGE, "dot"),
                                    ("removed alone", svg.BLUE, "dot")))
  return [tables.Result("table2", "Table 2: ablation", rows, figure, (
      "Gains: of a step over the line above it; of a component removed alone, the whole method "
      "minus the line. 95% intervals and p by paired patient resampling, p Holm-adjusted over the "
      "whole table; p resampled t: over folds x seeds, corrected for overlapping training sets, "
      "unadjusted. A lower Brier score is better. A component earns its place where the adjusted p "
      "is below 0.05, and the t-test's too where there are several members: resampling patients "
      "says nothing of another training.",
      "A constant per pattern cannot change the ranking within a pattern, so the rectifier is "
      "judged by its Brier score; it moves the AUROC only between patterns.",
      "The values of the paper's Table 2 were not at hand."),
      {f"{m}_{key}": form for m in ("auroc", "brier")
       for key, form in (("gain", "+.4f"), ("p", ".2g"), ("p_resampled_t", ".2g"))})]


def verdict(row):
  """'yes', 'harms' or 'not shown', by the sign and the p-values of the gain in AUROC, and in the
  Brier score where the AUROC's say nothing."""
  if row["adds"] is None:
    return None
  for name, label, sign in (("auroc", "AUROC", 1), ("brier", "Brier", -1)):
    p, again = row[f"{name}_p"], row[f"{name}_p_resampled_t"]
    if p is not None and max(p, 0.0 if again is None else again) < 0.05:
      return f"{'yes' if sign * row[f'{name}_gain'] > 0 else 'harms'} ({label})"
  return "not shown"
