"""Tables of numbers as text: a run's table on the terminal, and how numbers are written."""

from crl_jax.statistics import metrics as metrics_lib
from crl_jax.statistics.evaluate import DIFFERENCE_LABELS, LABELS


def table(metrics, rectifier, info, min_cell=10, top=12):
  """Returns the final table of a run as plain text, under 120 columns wide.

  Args:
    metrics: what `evaluate` returned.
    rectifier: the dict of rectifier.json, or None: no gammas.
    info: the cohort's facts; "banner" is printed first, "truth" gives the true gammas.
    min_cell: patterns with fewer rows are pooled; so are those past the `top` largest.
  """
  roles = [role for role in LABELS if role in metrics]
  lines = [info["banner"], ""] if info.get("banner") else []
  for task in metrics[roles[0]]:
    entry = metrics[roles[0]][task]
    lines.append(f"{task.upper()}: {entry['n']} test rows, {entry['positives']} positive; 95% "
                 "intervals by patient")
    grid = [["", "AUROC", "AUPRC", "Brier", "ECE"]]
    grid += [[LABELS[role], *(interval_text(metrics[role][task][m]) for m in metrics_lib.METRICS)]
             for role in roles]
    for pair, label in DIFFERENCE_LABELS.items():
      if pair in metrics["differences"]:
        grid.append([label, *(interval_text(metrics["differences"][pair][task][m], "+.3f")
                              for m in metrics_lib.METRICS)])
    lines += _aligned(grid)
    reasons = {metrics[role][task][m]["reason"] for role in roles for m in metrics_lib.METRICS
               if "reason" in metrics[role][task][m]}
    lines += [f"  no value: {reason}" for reason in sorted(reasons)] + [""]
    lines += _aligned(_pattern_grid(pattern_rows(metrics, rectifier, info, task, min_cell, top)))
    lines += [f"  {sentence}" for sentence in [threshold(rectifier, task)] if sentence] + [""]
  lines.append("gamma: what the base model, which sees the pattern too, leaves of the pattern's "
               "effect on the outcome.")
  if info.get("truth"):
    lines.append("true gamma: the whole direct effect.")
  return "\n".join(lines)


def pattern_rows(metrics, rectifier, info, task, min_cell, top):
  """The rows of the pattern table: metrics["patterns"][task] with the rectifier's `cell` and the
  `true` gamma, or None; a row whose outcomes are withheld has no cell, nor has one whose gamma is
  of fewer than `min_cell` calibration rows.

  Rare patterns, those under `min_cell` rows and those past the `top` largest are pooled into one
  last row, without either.
  """
  cells = {int(c["pattern"]): c for c in _pooled(rectifier, task)["cells"] if c["n"] >= min_cell}
  true = info.get("truth", {}).get("gamma", {}).get(task, {})
  rows = [{**row, "cell": cells.get(row["pattern"]) if row["positives"] is not None else None,
           "true": true.get(str(row["pattern"]))} for row in metrics["patterns"][task]]
  shown = [row for row in rows if row["pattern"] is not None and
           (row["n"] is None or row["n"] >= min_cell)][:top]
  if rest := [row for row in rows if row not in shown]:
    count = sum(max(1, row.get("rare", 0)) for row in rest)
    n = None if any(row["n"] is None for row in rest) else sum(row["n"] for row in rest)
    few = n is None or n < min_cell or any(row["positives"] is None for row in rest)
    positives = None if few else sum(row["positives"] for row in rest)
    lo, hi = (None, None) if few else metrics_lib.wilson(positives, n)
    shown.append(dict(pattern=None, name=f"other patterns ({count})", missing=(), n=n, rare=count,
                      positives=positives, rate=None if few else positives / n,
                      rate_lo=lo, rate_hi=hi, cell=None, true=None))
  return shown


def threshold(rectifier, task):
  """A sentence on the size that gamma must have to be applied; '' where there is no rectifier for
  the task."""
  if rectifier and not rectifier.get("enabled", True):
    return "The rectifier is off: gammas are estimated, predictions are left as they are."
  found = _pooled(rectifier, task)
  if "threshold" not in found:
    return ""
  if found["threshold"] is None:
    return ("New predictions stay as they are: no threshold gained significantly (one-sided 5%) on "
            "held-out calibration patients.")
  pooled = rectifier.get("pooled", rectifier)
  gamma = (("shrunken " if pooled["shrinkage"] else "") + "gamma" +
           (", in log-odds," if pooled["scale"] == "logit" else ""))
  return f"New predictions are corrected where the absolute {gamma} exceeds {found['threshold']:g}."


def gamma_text(row):
  """'+0.080 [+0.041, +0.119]' of a row of `pattern_rows`; '-' where there is no cell."""
  cell = row["cell"] or dict(gamma=None, lo=None, hi=None)
  return interval_text(dict(value=cell["gamma"], lo=cell["lo"], hi=cell["hi"]), "+.3f")


def interval_text(entry, form=".3f"):
  """'0.812 [0.790, 0.834]'; '-' for null."""
  value = _number(entry["value"], form)
  return value if entry["value"] is None or entry["lo"] is None else (
      f"{value} [{_number(entry['lo'], form)}, {_number(entry['hi'], form)}]")


def _pooled(rectifier, task):
  """The rectifier's entry of a task for new patients (that of all members pooled, where there are
  several)."""
  pooled = rectifier.get("pooled", rectifier) if rectifier else {"tasks": {}}
  return pooled["tasks"].get(task, {"cells": ()})


def pattern_label(row, width=40):
  """The shorter of what is present and what is absent, cut at `width`; where nothing is absent and
  the list is long, that."""
  names, more = [row["name"]], " + rarer patterns" if row.get("rare") else ""
  if row["pattern"] and not row["missing"] and len(row["name"]) > 40:
    names.append("all modalities" + more)
  if row["missing"] and row["pattern"]:
    names.append("all but " + ", ".join(row["missing"]) + more)
  name = min(names, key=len)
  return name if len(name) <= width else name[:width - 3] + "..."


def _pattern_grid(rows):
  truth = any(row["true"] is not None for row in rows)
  grid = [["pattern", "n", "outcome rate", "gamma", *(["true gamma"] if truth else [])]]
  for row in rows:
    rate = dict(value=row["rate"], lo=row["rate_lo"], hi=row["rate_hi"])
    grid.append([pattern_label(row), _number(row["n"], "d"), interval_text(rate),
                 gamma_text(row), *([_number(row["true"], "+.3f")] if truth else [])])
  return grid


def _number(value, form):
  return "-" if value is None else f"{value:{form}}"


def _aligned(grid):
  widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
  return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
          for row in grid]
