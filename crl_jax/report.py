"""report.html: one self-contained page about a run, from its metrics, predictions and facts. No
script, no patient row."""

import importlib.resources
import pathlib
import re

import numpy as np

from crl_jax import evaluate
from crl_jax import metrics as metrics_lib

# a palette that colour-blind readers can tell apart
_BEFORE, _AFTER, _TRUE = "#0072B2", "#D55E00", "#000000"
_TERMS = ("prediction", "reconstruction", "contrastive", "missingness", "pattern")
_GRID = np.linspace(0, 1, 101)   # curves are drawn on a grid, so that no point of them is a patient
_PAPER = ("PAPER PROTOCOL. Inputs hold everything recorded up to discharge and may contain the "
          "outcome itself (a discharge summary states a death). These numbers are for comparison "
          "with the literature; they are not what a clinician at the bedside could have had.")


def write(path, metrics, predictions, data, rectifier, config, history):
  """Writes the report of a run.

  Args:
    path: the file, replaced at once when complete.
    metrics: metrics.json, see evaluate.evaluate.
    predictions: the predictions table; used for curves only.
    data: data.json: the cohort's facts, any of which may be absent.
    rectifier: rectifier.json, or None.
    config: the whole config as plain dicts.
    history: records of metrics.jsonl: member, stage, epoch and scalars; may be empty.
  """
  import jinja2
  import markupsafe
  import matplotlib
  template = (importlib.resources.files("crl_jax") / "templates" / "report.html").read_text(
      encoding="utf-8")
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                   trim_blocks=True)
  settings = config["evaluate"]
  style = {"svg.fonttype": "none", "svg.hashsalt": "crl_jax", "text.parse_math": False,
           "font.size": 9,
           "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False}
  with matplotlib.rc_context(style):
    draw = lambda name, figure: markupsafe.Markup(_svg(figure, name)) if figure else None
    tasks = [_task(i, task, metrics, predictions, data, rectifier, settings, draw)
             for i, task in enumerate(metrics["patterns"])]
    training = draw("training", _training_figure(history))
  page = environment.from_string(template).render(
      title=f"{data.get('title', config['data']['cohort'])}: {config['model']['name']}",
      question=_question(tasks, data),
      alarms=[t for t in (data.get("banner"),
                          _PAPER if config["data"]["protocol"] == "paper" else None) if t],
      warnings=data.get("warnings", []), tasks=tasks, training=training,
      bootstrap=settings["bootstrap"], bins=settings["bins"], min_cell=settings["min_cell"],
      cohort=_cohort(data), notes=data.get("notes", []), facts=_facts(data, config))
  path = pathlib.Path(path)
  part = path.with_suffix(".part")
  part.write_text(page, encoding="utf-8")
  part.replace(path)


def _question(tasks, data):
  modalities = ", ".join(data.get("modalities", [])) or "the modalities at hand"
  return (f"How well are {', '.join(task['name'] for task in tasks)} predicted from {modalities}, "
          "when which of them are "
          "observed is itself a clinical decision, and what does the correction by pattern change?")


def _task(index, task, metrics, predictions, data, rectifier, settings, draw):
  """What the template shows of one task."""
  roles = [role for role in evaluate.LABELS if role in metrics]
  names = metrics_lib.METRICS
  line = lambda kind, label, entry, form: dict(
      kind=kind, label=label, cells=[evaluate.interval_text(entry[m], form) for m in names])
  lines = [line("strong" if role == "test" else "", evaluate.LABELS[role], metrics[role][task],
                ".3f") for role in roles]
  lines += [line("delta", label, metrics["differences"][pair][task], "+.3f")
            for pair, label in evaluate.DIFFERENCE_LABELS.items() if pair in metrics["differences"]]
  entry = metrics["test"][task]
  folds = {m: entry[m]["folds"] for m in names if entry[m]["folds"]["sd"] is not None}
  rows = evaluate.pattern_rows(metrics, rectifier, data, task, settings["min_cell"], top=12)
  threshold = evaluate.threshold(rectifier, task)
  return dict(
      name=task, n=entry["n"], positives=entry["positives"], lines=lines,
      reasons=sorted({metrics[role][task][m]["reason"] for role in roles for m in names
                      if "reason" in metrics[role][task][m]}),
      members=folds and dict(n=max(f["n"] for f in folds.values()), text=", ".join(
          f"{m.upper() if m != 'brier' else 'Brier'} {f['mean']:.3f} ({f['sd']:.3f})"
          for m, f in folds.items())),
      curves=draw(f"curves{index}", _curves_figure(predictions, task, settings)),
      patterns=[dict(name=evaluate.pattern_label(row, 200), n=row["n"],
                     rate=evaluate.interval_text(dict(value=row["rate"], lo=row["rate_lo"],
                                                      hi=row["rate_hi"])),
                     gamma=evaluate.gamma_text(row),
                     true="-" if row["true"] is None else f"{row['true']:+.3f}")
                for row in rows],
      truth=any(row["true"] is not None for row in rows), threshold=threshold,
      gammas=draw(f"gammas{index}", _gamma_figure([row for row in rows if row["cell"]])))


def _curves_figure(predictions, task, settings):
  """ROC, precision-recall and calibration of the test rows, or None where there is only one
  class."""
  from matplotlib.figure import Figure
  table = predictions[(predictions.role == "test") & predictions[f"y_{task}"].notna()]
  y = table[f"y_{task}"].to_numpy()
  if len(np.unique(y)) < 2:
    return None
  figure = Figure(figsize=(9.6, 3.1), layout="constrained")
  roc, pr, calibration = figure.subplots(1, 3)
  bins = int(np.clip(len(y) // max(settings["min_cell"], 1), 1, settings["bins"]))
  limit = 0.0
  for prefix, label, color, dash in (("p_base_", "before", _BEFORE, "--"),
                                     ("p_", "after", _AFTER, "-")):
    p = table[f"{prefix}{task}"].to_numpy()
    false, recall, precision = metrics_lib.curves(y, p)
    roc.plot(_GRID, np.interp(_GRID, np.r_[0, false], np.r_[0, recall]), dash, color=color,
             label=label)
    reached = np.minimum(np.searchsorted(recall, _GRID[1:]), len(recall) - 1)
    pr.plot(_GRID[1:], precision[reached], dash, color=color, label=label)
    predicted, rate, mass = metrics_lib.calibration(y, p, bins)
    lo, hi = np.transpose([metrics_lib.wilson(r * n, n) for r, n in zip(rate, mass)])
    calibration.errorbar(predicted, rate, [np.maximum(rate - lo, 0), np.maximum(hi - rate, 0)],
                         fmt="o" + dash, color=color,
                         label=label, markersize=3, linewidth=1, elinewidth=0.7)
    limit = max(limit, hi.max(), predicted.max())
  roc.plot([0, 1], [0, 1], ":", color="#999999", linewidth=1)
  pr.axhline(y.mean(), linestyle=":", color="#999999", linewidth=1)
  calibration.plot([0, limit], [0, limit], ":", color="#999999", linewidth=1)
  pr.set_ylim(0, 1.02)
  for axes, x, name in ((roc, "1 - specificity", "sensitivity"), (pr, "recall", "precision"),
                        (calibration, "predicted probability", "outcome rate")):
    axes.set_xlabel(x)
    axes.set_ylabel(name)
  roc.legend(frameon=False)
  return figure


def _gamma_figure(rows):
  """A forest plot of gamma by pattern, the true effects where known; None without rows."""
  from matplotlib.figure import Figure
  if not rows:
    return None
  figure = Figure(figsize=(7.2, 0.9 + 0.27 * len(rows)), layout="constrained")
  axes = figure.subplots()
  for i, row in enumerate(rows):
    cell = row["cell"]
    if cell["lo"] is not None:
      axes.plot([cell["lo"], cell["hi"]], [i, i], color=_AFTER, linewidth=1.5)
    if cell["gamma"] is not None:
      axes.plot(cell["gamma"], i, "o", color=_AFTER, markersize=4)
    if row["true"] is not None:
      axes.plot(row["true"], i, "D", color=_TRUE, markerfacecolor="none", markersize=6)
  axes.axvline(0, color="#999999", linewidth=1)
  axes.set_yticks(range(len(rows)), [evaluate.pattern_label(row, 44) for row in rows])
  axes.invert_yaxis()
  axes.set_xlabel("gamma")
  return figure


def _training_figure(history):
  """Losses and validation scores by epoch, a line per member; None without history."""
  from matplotlib.figure import Figure
  if not history:
    return None
  names = sorted({key for record in history for key in record})
  panels = (("training loss", [f"train/{t}" for t in _TERMS if f"train/{t}" in names]),
            ("validation log-loss", [k for k in names if k == "val/loss"]),
            ("validation AUROC", [k for k in names if k.startswith("val/auroc")]))
  figure = Figure(figsize=(9.6, 3.1), layout="constrained")
  members = {record["member"]: [r for r in history if r["member"] == record["member"]]
             for record in history}
  for axes, (title, keys) in zip(figure.subplots(1, 3), panels):
    for k, key in enumerate(keys):
      for i, records in enumerate(members.values()):
        values = [np.nan if r.get(key) is None else r[key] for r in records]
        axes.plot([r["epoch"] for r in records], values, color=f"C{k}", alpha=0.8, linewidth=1,
                  label=key.split("/")[-1] if not i else None)
    axes.set_xlabel("epoch")
    axes.set_ylabel(title)
    if len(keys) > 1:
      axes.legend(frameon=False, fontsize=7)
  return figure


def _svg(figure, name):
  """The figure as an SVG element for HTML: ids made unique by `name`, no header, no metadata, no
  namespace address."""
  import io
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg",
                 metadata={key: None for key in ("Creator", "Date", "Format", "Type")})
  text = buffer.getvalue()
  text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text[text.index("<svg"):], count=2)
  return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)


def _cohort(data):
  """Tables of the cohort's facts, those that are there."""
  grids = []
  add = lambda title, head, rows: rows and grids.append(dict(title=title, head=head, rows=rows))
  add("Size", ("rows", "patients"), [(data["rows"], data["patients"])] if "rows" in data else [])
  add("From the files to the rows", ("step", "removed", "left"),
      [(s["step"], s["removed"], s["left"]) for s in data.get("attrition", [])])
  add("Outcomes", ("task", "labelled rows", "positive"),
      [(task, v["n"], v["positives"]) for task, v in data.get("labelled", {}).items()])
  add("Modalities", ("modality", "observed in rows"), list(data.get("observed", {}).items()))
  add("Odd records", ("table", "rule", "count"),
      [(o["table"], o["rule"], o["count"]) for o in data.get("odd_rows", [])])
  add("Absent tables", ("table",), [(name,) for name in data.get("absent_tables", [])])
  return grids


def _facts(data, config):
  """Hashes, versions and the config, as two-column tables."""
  files = [(f["file"], f["sha256"], f"{f['rows']} rows") for f in data.get("inputs", [])]
  prints = [(key, data[key]) for key in ("fingerprint", "splits_fingerprint") if key in data]
  grids = [dict(title="Data (SHA-256)", rows=prints + files, open=True),
           dict(title="Versions", rows=list(data.get("versions", {}).items()), open=True),
           dict(title="Config", rows=list(_flat(config)), open=False)]
  return [grid for grid in grids if grid["rows"]]


def _flat(tree, prefix=""):
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value
