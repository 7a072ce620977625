"""The figures of a run's report, from predictions and metrics; no point of a curve is a patient."""

import numpy as np

from crl_jax.report import tables
from crl_jax.report.svg import (BLACK, BLUE, COLORS, DASHES, GREY, PURPLE, SERIES, Plot, forest,
                                limits)
from crl_jax.statistics import fairness, metrics as metrics_lib, roles

BEFORE, AFTER = COLORS[roles.BASE.color], COLORS[roles.FINAL.color]   # the rectifier
_GRID = np.linspace(0, 1, 101)
_TERMS = ("prediction", "reconstruction", "contrastive", "missingness", "pattern")
_WIDTH = 390   # of a phone: text keeps its size on it without scrolling


def discrimination(metrics, task):
  """AUROC of every predictor with its interval."""
  rows = [(role.label, [mark(metrics[role.key][task]["auroc"], COLORS[role.color])], None)
          for role in roles.shown(metrics) if metrics[role.key][task]["auroc"]["value"] is not None]
  return rows and forest(rows, f"{task}: AUROC of each predictor", "AUROC", width=_WIDTH,
                         describe="95% intervals by patient")


def curves(predictions, task, settings, net_benefit):
  """[ROC, precision-recall, calibration, decision curve (of metrics.json's `net_benefit`)] as
  <svg>; [] where the test rows have one class."""
  table = predictions[(predictions.role == "test") & predictions[f"y_{task}"].notna()]
  y = table[f"y_{task}"].to_numpy()
  if len(np.unique(y)) < 2:
    return []
  roc = Plot((0, 1), (0, 1), f"{task}: ROC", "1 \N{MINUS SIGN} specificity", "sensitivity",
             describe="Receiver operating characteristic of the test rows before and after the "
                      "rectifier")
  pr = Plot((0, 1), (0, 1), f"{task}: precision and recall", "recall (sensitivity)",
            "precision (PPV)", describe=f"Outcome rate {y.mean():.2f}")
  roc.line([0, 1], [0, 1], GREY, dash="2 3", width=1)
  pr.line([0, 1], [y.mean()] * 2, GREY, dash="2 3", width=1)
  patients, least = table.patient_id.nunique(), max(settings["min_cell"], 1)
  bins = int(np.clip(patients // least, 1, settings["bins"]))
  found, limit = [], 0.0
  for role, label, shape in ((roles.BASE, "before the rectifier", "ring"),
                             (roles.FINAL, "after", "dot")):
    p, color, dash = table[f"{role.prefix}{task}"].to_numpy(), COLORS[role.color], role.dash
    false, recall, precision = metrics_lib.curves(y, p)
    roc.line(_GRID, np.interp(_GRID, np.r_[0, false], np.r_[0, recall]), color, label, dash)
    reached = np.minimum(np.searchsorted(recall, _GRID[1:]), len(recall) - 1)
    pr.line(_GRID[1:], precision[reached], color, label, dash)
    predicted, rate, _ = metrics_lib.calibration(y, p, bins)
    lo, hi = intervals(table, y, p, rate)
    found.append((predicted, rate, lo, hi, color, label, dash, shape))
    limit = max(limit, hi.max(), predicted.max())
  calibration = Plot((0, limit), (0, limit), f"{task}: calibration", "predicted probability",
                     "outcome rate", describe=f"{bins} groups of equal size with 95% intervals")
  calibration.line([0, limit], [0, limit], GREY, dash="2 3", width=1)
  for predicted, rate, lo, hi, color, label, dash, shape in found:
    calibration.spread(predicted, lo, hi, color).line(predicted, rate, color, label, dash)
    calibration.points(predicted, rate, color, shape=shape, radius=2.8)
  return [*(plot.svg() for plot in (roc, pr, calibration)), decision(net_benefit, task)]


def intervals(table, y, p, rate):
  """(2, B) lo and hi of the outcome `rate` (B,) of groups of equal size by prediction, for as many
  rows as repeated rows and the patients' correlation leave."""
  groups = np.array_split(np.lexsort((table.row_id, p)), len(rate))
  row, patient = table.row_id.to_numpy(), table.patient_id.to_numpy()
  found = np.transpose([fairness.proportion(y[g], row[g], patient[g]) for g in groups])
  return np.minimum(found[0], rate), np.maximum(found[1], rate)   # ties straddle groups


def decision(net_benefit, task):
  """Net benefit over threshold probabilities with its interval, beside treating all and none."""
  found = {role: net_benefit[role.key][task] for role in roles.ROLES
           if role.dash is not None and role.key in net_benefit}
  after = found[roles.FINAL]
  shown = [v for entry in found.values() for v in entry["value"]]
  lo, hi = limits(shown, 0.08, (0.0,))
  lo = max(lo, -0.3 * (hi or 1))   # what treating everyone costs at high thresholds says nothing
  x = after["threshold"]
  plot = Plot((min(x), max(x)), (lo, hi), f"{task}: decision curve", "threshold probability",
              "net benefit", describe="Net benefit of acting on the prediction, beside treating "
                                      "everyone and no one")
  plot.line(x, _above(after["all"], lo), GREY, "treat all", "2 3", 1.4)
  plot.line([min(x), max(x)], [0, 0], BLACK, width=1)
  plot.band(x, [None if v is None else max(v, lo) for v in after["lo"]], after["hi"], AFTER)
  labels = {roles.BASE: "before", roles.FINAL: "after"}
  for role in reversed(found):   # ours last, on top
    plot.line(found[role]["threshold"], _above(found[role]["value"], lo), COLORS[role.color],
              labels.get(role, role.label), role.dash)
  return plot.svg()


def gammas(task, rows):
  """Gamma by pattern with intervals, the true effects where known; None without rows."""
  lines = []
  for row in rows:
    cell = row["cell"]
    if cell is None or cell["gamma"] is None:
      continue
    marks = [(cell["gamma"], cell["lo"], cell["hi"], AFTER, "dot")]
    if row["true"] is not None:
      marks.append((row["true"], None, None, BLACK, "diamond"))
    lines.append((tables.pattern_label(row, 200), marks, None))
  names = [("gamma", AFTER, "dot")]
  if any(len(marks) > 1 for _, marks, _ in lines):
    names.append(("true direct effect", BLACK, "diamond"))
  return forest(lines, f"{task}: gamma by pattern", "gamma", zero=0.0, form="+.3f",
                width=_WIDTH, names=names, describe="95% intervals") if lines else None


def rates(task, rows, overall):
  """Outcome rate and mean predictions by pattern; None without rows."""
  lines = [(tables.pattern_label(row, 200),
            [(row["rate"], row["rate_lo"], row["rate_hi"], BLACK, "dot")]
            + ([(row["predicted_base"], None, None, BEFORE, "ring"),
                (row["predicted"], None, None, AFTER, "diamond")]
               if "predicted" in row else []), f"n = {row['n']}")
           for row in rows if row["rate"] is not None]
  return forest(lines, f"{task}: outcome rate and mean prediction by pattern", "probability",
                zero=overall, width=_WIDTH, names=[("outcome rate", BLACK, "dot"),
                                     ("predicted before", BEFORE, "ring"),
                                     ("after", AFTER, "diamond")]) if lines else None


def groups(task, grouping, found, metric, label):
  """A metric by the groups of one grouping; None where no group has it."""
  rows = [(f"{g['group']}", [mark(g[metric], BLUE)], f"n = {g['n']}") for g in found["groups"]
          if g.get(metric) and g[metric]["value"] is not None]
  return forest(rows, f"{task} by {grouping}: {label}", label, width=_WIDTH,
                describe="95% intervals") if len(rows) > 1 else None


def training(history):
  """Losses and validation scores by epoch: a line a member, thick their mean; [] without
  history."""
  if not history:
    return []
  members = {}
  for record in history:
    members.setdefault(record["member"], []).append(record)
  names = {key for record in history for key in record}
  starts = [r["epoch"] - 0.5 for records in list(members.values())[:1]
            for a, r in zip(records, records[1:]) if a["stage"] != r["stage"]]
  panels = (
      ("Training losses, first epoch = 1", [f"train/{t}" for t in _TERMS if f"train/{t}" in names],
       True),
      ("Log-loss of validation rows", [k for k in sorted(names) if k == "val/loss"], False),
      ("AUROC of validation rows", [k for k in sorted(names) if k.startswith("val/auroc")], False))
  return [svg for svg in (_epochs(members, *panel, starts) for panel in panels) if svg]


def observed(data, least):
  """Share of rows in which each modality was observed; to the nearest `least` of them where a few
  were, or all but a few."""
  rows = data.get("rows")
  if not rows or not data.get("observed"):
    return None
  few = lambda n: 0 < min(n, rows - n) < least
  share = lambda n: min(max(n, least), rows - least) / rows if few(n) else n / rows
  return forest([(m, [(share(n), None, None, BLUE, "dot")], f"{share(n):.1%}")
                 for m, n in data["observed"].items()], "How often each modality was observed",
                "share of rows", width=_WIDTH, include=(0.0, 1.0))


def effects(task, patterns):
  """Effects of patterns on the outcome rate, raw and left (informative.study); None without any."""
  rows = [(row["label"], [mark(row["raw"], GREY, "ring"), mark(row["left"], PURPLE)],
           f"n = {row['n']}") for row in patterns]
  return forest(rows, f"{task}: effect of the pattern on the outcome rate", "difference in rate",
                zero=0.0, width=_WIDTH,
                names=[("raw", GREY, "ring"), ("left", PURPLE, "dot")]) if rows else None


def contributions(task, found):
  """Mean absolute Shapley value of each modality; see explain.py."""
  rows = [(name, [mark(v, SERIES[i % len(SERIES)])], None)
          for i, (name, v) in enumerate(found.items())]
  return forest(rows, f"{task}: mean absolute contribution of each modality",
                "change of the predicted probability", width=_WIDTH, include=(0.0,))


def _epochs(members, title, keys, relative, starts):
  lines = []
  for key in keys:
    each = [[(r["epoch"], r[key]) for r in records if r.get(key) is not None]
            for records in members.values()]
    each = [[(e, v / abs(line[0][1]) if relative and line[0][1] else v) for e, v in line]
            for line in each if line]
    if each:
      lines.append((key.split("/")[-1].removeprefix("auroc_"), each))
  if not lines:
    return None
  values = [v for _, each in lines for line in each for _, v in line]
  last = max(e for _, each in lines for line in each for e, _ in line)
  plot = Plot((0, last + 1), limits(values, 0.05), title, "epoch", width=_WIDTH, height=320,
              describe="A line a member; thick: their mean")
  for start in starts:
    plot.line([start, start], limits(values, 0.05), GREY, dash="2 3", width=1)
  for color, dash, (name, each) in zip(SERIES, DASHES, lines):
    name = None if len(lines) == 1 else name
    if len(each) > 1:
      for line in each:
        plot.line(*zip(*line), color, width=0.8, opacity=0.3)
    epochs = sorted({e for line in each for e, _ in line})
    by_epoch = [dict(line) for line in each]
    mean = [np.mean([d[e] for d in by_epoch if e in d]) for e in epochs]
    plot.line(epochs, mean, color, name, dash)
  return plot.svg()


def _above(values, floor):
  return [np.nan if v is None or v < floor else v for v in values]


def mark(entry, color, shape="dot"):
  """A mark of svg.forest: a value with its interval, {"value", "lo", "hi"}."""
  return entry["value"], entry["lo"], entry["hi"], color, shape
