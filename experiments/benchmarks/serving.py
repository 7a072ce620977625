"""Predictions from host arrays to rectified probabilities: how long one patient waits, and how many
a second many get.

The model is that of configs/mimic.py, trained on a few hundred rows for an epoch, with five members
(one per fold) and with the first of them alone. Features, a tenth of them missing, and patterns are
drawn at random.
"""

import contextlib
import dataclasses
import io
import tempfile
import time

import jax
import numpy as np

from configs import mimic
from crl_jax import config as config_lib, run
from crl_jax.serve import predictor as predictor_lib
from experiments.benchmarks import interleaved, line, ratios

MEMBERS = 5
BATCHES = 1, 64, 1024
CALLS = 1000
PAPER_MS = 50.0   # the lower end of the 50-100 ms of one prediction on an RTX A6000 [paper]


def rows(options):
  """Lines of the table."""
  with tempfile.TemporaryDirectory() as folder:
    predictor = trained(options, folder)
  return [found for members in (1, MEMBERS) for found in case(first(predictor, members), options)]


def trained(options, folder):
  """The Predictor of a small run."""
  config = config_lib.override(mimic.get_config(), [
      f"data.simulate.rows={min(options.rows, 400)}", "data.simulate.draws=2",
      f"members.folds={MEMBERS}", "train.pretrain.epochs=0", "train.joint.epochs=1",
      "evaluate.yardsticks=False", "evaluate.bootstrap=1", *options.settings])
  with contextlib.redirect_stdout(io.StringIO()):
    run.run(config, folder)
  return predictor_lib.load(folder)


def first(predictor, members):
  """The Predictor of its first members, one per fold."""
  keep = lambda tree: jax.tree.map(lambda x: x[:members], tree)
  some = {key: keep(predictor.weights[key]) for key in ("params", "fold", "stats")}
  return dataclasses.replace(predictor, weights=predictor.weights | some, members=members)


def draw(predictor, count, seed=0):
  """inputs, observed of `count` rows."""
  rng = np.random.default_rng(seed)
  inputs = {m: rng.normal(size=(count, *shape)).astype(np.float32)
            for m, shape in predictor.shapes.items()}
  for x in inputs.values():
    x[rng.random(x.shape) < 0.1] = np.nan
  return inputs, rng.random((count, len(predictor.modalities))) < 0.7


def case(predictor, options):
  """Lines of one Predictor."""
  part = f"serving, {predictor.members} member{'s' * (predictor.members > 1)}"
  data = {count: draw(predictor, count) for count in BATCHES}
  whole = timed(lambda: predictor(*data[1]))
  # of the same call: the program, with and without what crosses to the device before it, the
  # results, and the launch of a program that does nothing with as many arguments
  on_device = jax.device_put(data[1])
  program = lambda: predictor.compiled(predictor.weights, *on_device)
  nothing = jax.jit(lambda weights, inputs, observed: observed)
  results = program()
  parts = {"program, inputs on the host": timed(
               lambda: predictor.compiled(predictor.weights, *data[1])),
           "program, inputs on the device": timed(program),
           "launch: an empty program with the weights": timed(
               lambda: nothing(predictor.weights, *on_device)),
           "results to the host": timed(lambda: [np.array(x) for x in results])}
  seconds = interleaved({count: throughput(predictor, *data[count]) for count in BATCHES},
                        options.repeats)
  rate = lambda count: [count / s for s in seconds[count]]
  return [
      line(part, "one patient, median", whole, "ms", "paper's 50 ms",
           PAPER_MS / float(np.median(whole))),
      line(part, "one patient, 99th percentile", float(np.quantile(whole, 0.99)), "ms",
           "paper's 50 ms", PAPER_MS / float(np.quantile(whole, 0.99))),
      *(line(part, f"of it: {name}", values, "ms") for name, values in parts.items()),
      *(line(part, f"{count} rows at once", rate(count), "patients/s", "one at a time",
             ratios(rate(count), rate(1))) for count in BATCHES)]


def timed(function):
  """Milliseconds of each of CALLS calls, after a warm-up."""
  for _ in range(max(1, CALLS // 20)):
    jax.block_until_ready(function())
  found = []
  for _ in range(CALLS):
    start = time.perf_counter()
    jax.block_until_ready(function())
    found.append((time.perf_counter() - start) * 1e3)
  return found


def throughput(predictor, inputs, observed):
  """A function that returns the seconds of one call, averaged over some."""
  calls = max(1, min(CALLS, 2048) // len(observed))
  def once():
    start = time.perf_counter()
    for _ in range(calls):
      predictor(inputs, observed)
    return (time.perf_counter() - start) / calls
  return once
