"""Section C.5: what training and prediction cost, beside what the paper reports."""

import time

import numpy as np

from crl_jax.report import svg
from crl_jax.serve import predictor as predictor_lib
from crl_jax import files
from experiments import tables

# arXiv 2509.17228, section C.5, for 20,000 patients on an RTX A6000.
PAPER = {"training": "12-16 h (RTX A6000, 20,000 patients)", "one patient": "50-100 ms"}
_CALLS = 100


def make(study):
  """[Result]: measured on this machine, which may have been doing other things."""
  import jax
  restored = predictor_lib.restore(study.run_folder)
  predictor = predictor_lib.load(study.run_folder)
  members = len(restored.tree["fold"])
  sizes = [int(np.prod(x.shape)) for x in jax.tree.leaves(restored.tree["params"])]
  parameters = sum(sizes) // members
  by_stage = epochs(files.history(study.run_folder))
  train_rows = len(study.prepared.rows[0]["train"])
  rows = [dict(measure="parameters of a member", value=parameters, unit="", paper=""),
          dict(measure="training rows of a member", value=train_rows, unit="", paper=""),
          dict(measure="members trained", value=members, unit="", paper="")]
  rows += [dict(measure=f"an epoch of {stage}, median", value=float(np.median(seconds)), unit="s",
                paper="") for stage, seconds in by_stage.items()]
  rows.append(dict(measure="training, all members and epochs",
                   value=sum(sum(s) for s in by_stage.values()) / 60, unit="min",
                   paper=PAPER["training"]))
  one = times(predictor, study.cohort, 1)
  rows += [dict(measure="one patient, median", value=1e3 * float(np.median(one)), unit="ms",
                paper=PAPER["one patient"]),
           dict(measure="one patient, 99th percentile", value=1e3 * float(np.quantile(one, 0.99)),
                unit="ms", paper=""),
           dict(measure="256 patients at once, per patient", unit="ms", paper="",
                value=1e3 * float(np.median(times(predictor, study.cohort, 256))) / 256)]
  device = jax.devices()[0]
  plot = svg.Plot((0, max((len(s) for s in by_stage.values()), default=1) + 1),
                      (0, max((max(s) for s in by_stage.values()), default=1) * 1.05),
                      "Seconds of each epoch", "epoch of its phase", "seconds")
  for color, (stage, seconds) in zip(svg.SERIES, by_stage.items()):
    plot.points(range(1, len(seconds) + 1), seconds, color, stage)
  return [tables.Result("c5", "C.5: cost", rows, plot.svg(), (
      f"Measured on {machine(device)}; the first epoch of a phase holds its "
      "compilation. Another machine, data of another width and another number of epochs than the "
      "paper's: the columns say what each cost, not which method is faster.",), {"value": ".4g"})]


def epochs(history):
  """stage -> seconds of each of its epochs. Members train side by side and each records the seconds
  of all, so the member that trained longest in a stage tells them."""
  found = {}
  for record in history:
    stage = found.setdefault(record["stage"], {})
    stage.setdefault(record["member"], []).append(record["seconds"])
  return {stage: max(members.values(), key=len) for stage, members in found.items()}


def machine(device):
  """The processor and how many cores of it this process may use, or the accelerator's name."""
  if device.platform != "cpu":
    return device.device_kind
  import os
  import pathlib
  import re
  info = pathlib.Path("/proc/cpuinfo")
  name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return f"{name[1] if name else 'a CPU'}, {cores} core{'s' if cores > 1 else ''}"


def times(predictor, cohort, count):
  """(calls,) seconds of predicting `count` rows from raw inputs on the host, compilation left
  out."""
  found = []
  calls = _CALLS if count == 1 else 10
  for i in range(calls + 1):
    rows = np.arange(i * count, (i + 1) * count) % len(cohort)
    inputs, observed = {m: x[rows] for m, x in cohort.inputs.items()}, cohort.observed[rows]
    began = time.perf_counter()
    predictor(inputs, observed)
    found.append(time.perf_counter() - began)
  return np.array(found[1:])
