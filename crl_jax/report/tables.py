"""Where numbers become text: how they are written, and a run's tables of them."""

import math
import re

from crl_jax.statistics import metrics as metrics_lib, roles

NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "ece": "ECE",
         "slope": "calibration slope", "intercept": "calibration intercept",
         "ppv": "PPV", "npv": "NPV"}   # of metrics; others are called what they are


def number(value, form=".3f"):
  """'0.812'; '-' for null and what is not finite."""
  return "-" if value is None or not math.isfinite(value) else f"{value:{form}}"


def count(n, least, of=None):
  """A number of rows as text; '< 10' where there are a few, '> 290' where all but a few of `of` are
  meant; '-' for null."""
  if n is None:
    return "-"
  if 0 < n < least:
    return f"< {least}"
  return f"> {of - least}" if of and 0 < of - n < least else str(n)


def few_rows(sentence, least):
  """A sentence whose 'N rows' are told as `count` tells them."""
  return re.sub(r"\b\d+(?= (?:observed )?rows\b)", lambda n: count(int(n[0]), least), sentence)


def interval_text(entry, form=".3f"):
  """'0.812 [0.790, 0.834]'; without an interval '0.812'; '-' for null."""
  value, lo, hi = (number(entry[key], form) for key in ("value", "lo", "hi"))
  return value if "-" in (value, lo) else f"{value} [{lo}, {hi}]"


def p_text(value):
  """'0.012'; '< 0.001'; '-' for null."""
  return "< 0.001" if value is not None and value < 0.001 else number(value)


def adjusted(entry):
  """'0.012 (Holm 0.036)'; the first alone where there is no other."""
  return p_text(entry["p"]) + (
      "" if entry["p_holm"] is None else f" (Holm {p_text(entry['p_holm'])})")


def gamma_text(row):
  """'+0.080 [+0.041, +0.119]' of a row of `pattern_rows`; '-' where there is no cell."""
  cell = row["cell"] or dict(gamma=None, lo=None, hi=None)
  return interval_text({**cell, "value": cell["gamma"]}, "+.3f")


def rate_text(row):
  """The outcome rate of a row of `pattern_rows`."""
  return interval_text(dict(value=row["rate"], lo=row["rate_lo"], hi=row["rate_hi"]))


def scores(metrics, task, names=metrics_lib.METRICS):
  """[(role, cells)] of the predictors of a metrics.json."""
  return [(role, [interval_text(metrics[role.key][task][m]) for m in names])
          for role in roles.shown(metrics)]


def differences(metrics, task):
  """[(label, cells)] of the paired differences that have a line."""
  return [(pair.label, [interval_text(metrics["differences"][pair.key][task][m], "+.3f")
                        for m in metrics_lib.METRICS])
          for pair in roles.DIFFERENCES if pair.label and pair.key in metrics["differences"]]


def reasons(metrics, task):
  """Why metrics of the predictors that are shown have no value."""
  return sorted({metrics[role.key][task][m]["reason"] for role in roles.shown(metrics)
                 for m in metrics_lib.METRICS if "reason" in metrics[role.key][task][m]})


def table(metrics, rectifier, info, min_cell=10, top=12):
  """Returns the final table of a run as plain text, under 120 columns wide.

  Args:
    metrics: what `evaluate` returned.
    rectifier: the dict of rectifier.json, or None: no gammas.
    info: the cohort's facts; "banner" is printed first, "truth" gives the true gammas.
    min_cell: patterns with fewer rows are pooled; so are those past the `top` largest.
  """
  lines = [info["banner"], ""] if info.get("banner") else []
  for task, entry in metrics[roles.FINAL.key].items():
    lines.append(f"{task.upper()}: {entry['n']} test rows, {entry['positives']} positive; 95% "
                 "intervals by patient")
    grid = [["", *(NAMES[m] for m in metrics_lib.METRICS)]]
    grid += [[role.label, *cells] for role, cells in scores(metrics, task)]
    lines += _aligned(grid + [[label, *cells] for label, cells in differences(metrics, task)])
    lines += [f"  no value: {reason}" for reason in reasons(metrics, task)] + [""]
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
  cells = {c["pattern"]: c for c in (rectifier["pooled"]["tasks"][task]["cells"] if rectifier
                                     else ()) if c["n"] >= min_cell}
  true = info.get("truth", {}).get("gamma", {}).get(task, {})
  rows = [{**row, "cell": cells.get(row["pattern"]) if row["positives"] is not None else None,
           "true": true.get(str(row["pattern"]))} for row in metrics["patterns"][task]]
  shown = [row for row in rows if row["pattern"] is not None and
           (row["n"] is None or row["n"] >= min_cell)][:top]
  if rest := [row for row in rows if row not in shown]:
    count = sum(max(1, row["rare"]) for row in rest)
    n = None if any(row["n"] is None for row in rest) else sum(row["n"] for row in rest)
    few = n is None or n < min_cell or any(row["positives"] is None for row in rest)
    positives = None if few else sum(row["positives"] for row in rest)
    lo, hi = (None, None) if few else metrics_lib.wilson(positives, n)
    shown.append(dict(pattern=None, name=f"other patterns ({count})", missing=(), n=n, rare=count,
                      positives=positives, rate=None if few else positives / n,
                      rate_lo=lo, rate_hi=hi, cell=None, true=None))
  return shown


def threshold(rectifier, task):
  """A sentence on the size that gamma must have to be applied; '' without a rectifier."""
  if not rectifier:
    return ""
  if not rectifier["enabled"]:
    return "The rectifier is off: gammas are estimated, predictions are left as they are."
  pooled = rectifier["pooled"]
  size = pooled["tasks"][task]["threshold"]
  if size is None:
    return ("New predictions stay as they are: no threshold gained significantly (one-sided 5%) on "
            "held-out calibration patients.")
  gamma = (("shrunken " if pooled["shrinkage"] else "") + "gamma" +
           (", in log-odds," if pooled["scale"] == "logit" else ""))
  return f"New predictions are corrected where the absolute {gamma} exceeds {size:g}."


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
  return grid + [[pattern_label(row), number(row["n"], "d"), rate_text(row), gamma_text(row),
                  *([number(row["true"], "+.3f")] if truth else [])] for row in rows]


def _aligned(grid):
  widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
  return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
          for row in grid]
