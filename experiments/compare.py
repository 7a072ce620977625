"""Several finished runs on one page:

    python -m experiments.compare RUN RUN ... [--out=compare.html]

Scores side by side, calibration, paired differences to the first run where both predicted the same
test rows, how the configs differ, and whether the data are the same.
"""

import argparse
import dataclasses
import pathlib

import numpy as np
import pandas as pd

from crl_jax import commands, files
from crl_jax.report import figures, page, svg, tables
from crl_jax.statistics import bootstrap, compare as compare_lib, metrics as metrics_lib

_SHOWN = ("auroc", "auprc", "brier", "ece", "slope", "intercept")
_PAIRED = ("auroc", "auprc", "brier")


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run's files."""
  name: str
  metrics: dict
  data: dict
  config: dict
  table: pd.DataFrame


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("runs", nargs="+", type=commands.path)
  parser.add_argument("--out", type=commands.path, default=pathlib.Path("compare.html"))
  arguments = parser.parse_args()
  with commands.ending("experiments.compare"):
    compare(arguments.runs, arguments.out)
  print(arguments.out)


def compare(folders, path):
  """Writes the page. Raises OSError for a folder that is no finished run, ValueError where the runs
  share no task."""
  runs = [read(folder, name) for folder, name in zip(folders, names(folders))]
  tasks = [t for t in runs[0].metrics["test"] if all(t in r.metrics["test"] for r in runs)]
  if not tasks:
    raise ValueError("the runs share no task: " + "; ".join(
        f"{r.name} has {', '.join(r.metrics['test'])}" for r in runs) + ".")
  parts = []
  for task in tasks:
    parts += [scores(runs, task), calibration(runs, task)]
    if found := differences(runs, task):
      parts.append(found)
  parts += [settings(runs), facts(runs)]
  alarms = sorted({text for r in runs for text in (
      r.data.get("banner"), page.text.PAPER if r.config["data"]["protocol"] == "paper" else None)
      if text})
  if len({r.data["fingerprint"] for r in runs}) > 1:
    alarms.append("These runs are not of the same cohort: their scores are not comparable row by "
                  "row.")
  page.write_tables(path, f"{len(runs)} runs: " + ", ".join(r.name for r in runs), alarms,
                      [part for part in parts if part])


def read(folder, name):
  """A Run. Raises OSError where it is not finished."""
  return Run(name, *files.of_finished(folder, "metrics.json", "data.json", "config.json",
                                          "predictions.parquet"))


def names(folders):
  """The shortest ends of the paths that tell them apart."""
  folders = [folder.resolve().parts for folder in folders]
  for depth in range(1, max(map(len, folders)) + 1):
    found = ["/".join(parts[-depth:]) for parts in folders]
    if len(set(found)) == len(found):
      return found
  return [f"{'/'.join(parts[-1:])} ({i + 1})" for i, parts in enumerate(folders)]


def scores(runs, task):
  """AUROCs as a figure, all metrics as a table."""
  color = lambda i: svg.SERIES[i % len(svg.SERIES)]
  rows, lines = [], []
  shown = [m for m in _SHOWN if all(m in r.metrics["test"][task] for r in runs)]
  for i, run in enumerate(runs):
    entry = run.metrics["test"][task]
    rows.append((run.name, [figures.mark(entry["auroc"], color(i))], None))
    lines.append([run.name, f"{entry['n']} ({entry['positives']})",
                  *(tables.interval_text(entry[m]) for m in shown)])
  return dict(title=f"{task}: scores on test rows", heads=["run", "rows (positive)", *shown],
              lines=lines, figure=svg.forest(rows, f"{task}: AUROC", "AUROC", width=640),
              said=["After the rectifier; 95% intervals by patient."])


def calibration(runs, task):
  """Calibration curves of all runs in one plot; None where no run has two classes."""
  lines = []
  for i, run in enumerate(runs):
    table = run.table[(run.table.role == "test") & run.table[f"y_{task}"].notna()]
    y = table[f"y_{task}"].to_numpy()
    if len(np.unique(y)) < 2:
      continue
    evaluated = run.config["evaluate"]
    patients = table.patient_id.nunique()
    bins = int(np.clip(patients // max(evaluated["min_cell"], 1), 1, evaluated["bins"]))
    lines.append((run.name, i, metrics_lib.calibration(y, table[f"p_{task}"].to_numpy(), bins)))
  if not lines:
    return None
  limit = max(max(predicted.max(), rate.max()) for _, _, (predicted, rate, _) in lines) * 1.05
  plot = svg.Plot((0, limit), (0, limit), f"{task}: calibration", "predicted probability",
                      "outcome rate", width=460, height=360)
  plot.line([0, limit], [0, limit], svg.GREY, dash="2 3", width=1)
  for name, i, (predicted, rate, _) in lines:
    color, dash = (each[i % len(each)] for each in (svg.SERIES, svg.DASHES))
    plot.line(predicted, rate, color, name, dash).points(predicted, rate, color, radius=2.5)
  return dict(title=f"{task}: calibration", heads=["run", "lowest group", "highest group"],
              lines=[[name, *(f"{p:.3f} predicted, {r:.3f} observed" for p, r in
                              ((predicted[0], rate[0]), (predicted[-1], rate[-1])))]
                     for name, _, (predicted, rate, _) in lines], figure=plot.svg(), said=[])


def differences(runs, task):
  """Paired differences to the first run; None where no other run predicted the same rows."""
  rows, lines = [], []
  first = test_rows(runs[0], task)
  patients, patient = np.unique(first.patient_id.to_numpy(), return_inverse=True)
  counts = bootstrap.resample(len(patients), runs[0].config["evaluate"]["bootstrap"],
                              runs[0].config["seed"])
  skipped = []
  for run in runs[1:]:
    other = test_rows(run, task)
    if not first.index.equals(other.index) or not (first.y == other.y).all():
      skipped.append(run.name)
      continue
    y, p_2xN = first.y.to_numpy(), np.stack([other.p, first.p])
    value, draws = (metrics_lib.scores(y, p_2xN, w, patient, only=_PAIRED) for w in (None, counts))
    found = {m: bootstrap.difference(float(value[m][0, 0] - value[m][1, 0]),
                                     draws[m][0] - draws[m][1], tail=True) for m in _PAIRED}
    found["delong"] = compare_lib.delong(y, other.p, first.p, patient)
    rows.append((run.name, [figures.mark(found["auroc"], svg.BLUE)], None))
    lines.append((run.name, found))
  if not lines:
    return None
  compare_lib.adjust([found[metric] for _, found in lines for metric in _PAIRED])
  compare_lib.adjust([found["delong"] for _, found in lines])
  p = lambda entry: tables.number(entry["p_holm"], ".2g")
  lines = [[name, *(text for metric in _PAIRED for text in (
      tables.interval_text(found[metric], "+.3f"), p(found[metric]))), p(found["delong"])]
           for name, found in lines]
  said = [f"Against {runs[0].name}; seeds are averaged row by row first, so that one prediction "
          "of a row meets another. p by the same resamples and by DeLong, each after Holm's "
          "correction over this table."]
  if skipped:
    said.append(f"Other test rows, so not paired: {', '.join(skipped)}.")
  heads = ["run", "AUROC", "p", "AUPRC", "p", "Brier", "p", "DeLong p"]
  return dict(title=f"{task}: paired differences", heads=heads, lines=lines, said=said,
              figure=svg.forest(
                  rows, f"{task}: AUROC minus that of {runs[0].name}", "difference", zero=0.0,
                  form="+.3f", width=640))


def test_rows(run, task):
  """row_id -> y, p, patient_id of its labelled test rows, the seeds averaged."""
  table = run.table[(run.table.role == "test") & run.table[f"y_{task}"].notna()]
  return table.groupby("row_id").agg(y=(f"y_{task}", "first"), p=(f"p_{task}", "mean"),
                                     patient_id=("patient_id", "first"))


def settings(runs):
  """Where the configs differ."""
  flat = [dict(page.flat(r.config)) for r in runs]
  keys = sorted({key for one in flat for key in one})
  lines = [[key, *(str(one.get(key, "absent")) for one in flat)] for key in keys
           if len({str(one.get(key, "absent")) for one in flat}) > 1]
  said = [] if lines else ["The configs are the same."]
  return dict(title="Settings that differ", heads=["setting", *(r.name for r in runs)],
              lines=lines or [["none", *[""] * len(runs)]], figure=None, said=said)


def facts(runs):
  """Cohort and versions of each run."""
  line = lambda name, get: [name, *(str(get(r)) for r in runs)]
  versions = sorted({name for r in runs for name in r.data.get("versions", {})})
  return dict(title="Data and versions", heads=["", *(r.name for r in runs)], figure=None, said=[],
              lines=[line("rows", lambda r: r.data.get("rows", "-")),
                     line("cohort (SHA-256)", lambda r: r.data["fingerprint"][:16]),
                     line("splits (SHA-256)", lambda r: r.data["splits_fingerprint"][:16]),
                     *(line(v, lambda r, v=v: r.data.get("versions", {}).get(v, "-"))
                       for v in versions)])


if __name__ == "__main__":
  main()
