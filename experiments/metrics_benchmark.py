"""How long the statistics take: 1,000 patient resamples of 3 tasks on 100,000 rows.

    python -m experiments.metrics_benchmark [--rows=100000] [--resamples=1000] [--tasks=3]

Beside it scikit-learn's time for the same, from a few of the resamples. Processor seconds too: on a
busy machine the clock says little.
"""

import argparse
import time

import numpy as np
from sklearn import metrics as oracle

from crl_jax.statistics import bootstrap, metrics as metrics_lib
from experiments import engine_benchmark

PARTS = {"AUROC, AUPRC, Brier, ECE": metrics_lib.METRICS, "calibration line": metrics_lib.LINE}
_SAMPLE = 5   # resamples that scikit-learn is timed on


def rows(n, resamples, tasks):
  """Yields (what, seconds by the clock, seconds of processors)."""
  rng = np.random.default_rng(0)
  p = rng.beta(2, 6, (tasks, n))
  y = (rng.random(p.shape) < p).astype(float)
  counts, took = _timed(lambda: bootstrap.resample(n, resamples, 0))
  yield "resamples of the patients", *took
  patient = np.arange(n)
  for name, only in PARTS.items():
    found, took = _timed(lambda: metrics_lib.scores(y, p, counts, patient, only=only))
    yield name, *took
    if "auroc" in only:
      share = min(1, _SAMPLE / resamples)
      values, took = _timed(lambda: [_scikit_learn(y[t], p[t], counts[r]) for t in range(tasks)
                                     for r in range(int(share * resamples))])
      last = {name: v[-1, int(share * resamples) - 1] for name, v in found.items()}
      if any(abs(values[-1][name] - last[name]) > 1e-9 for name in values[-1]):
        raise AssertionError("not scikit-learn's values")
      yield "scikit-learn, AUROC, AUPRC and Brier (scaled up)", *(v / share for v in took)
  thresholds = np.arange(1, 51) / 100
  yield "decision curve, 50 thresholds", *_timed(
      lambda: [metrics_lib.net_benefit(y[t], p[t], thresholds, counts, patient)
               for t in range(tasks)])[1]


def _scikit_learn(y, p, weight):
  return dict(auroc=oracle.roc_auc_score(y, p, sample_weight=weight),
              auprc=oracle.average_precision_score(y, p, sample_weight=weight),
              brier=oracle.brier_score_loss(y, p, sample_weight=weight))


def _timed(function):
  start = time.perf_counter(), time.process_time()
  found = function()
  return found, (time.perf_counter() - start[0], time.process_time() - start[1])


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", type=int, default=100_000, help="one per patient")
  parser.add_argument("--resamples", type=int, default=1000, help="of the patients")
  parser.add_argument("--tasks", type=int, default=3)
  a = parser.parse_args()
  print(f"{engine_benchmark.machine()}\n\n{a.resamples} resamples, {a.tasks} tasks, "
        f"{a.rows} rows\n\n| what | seconds | of processors |\n"
        "| --- | --- | --- |")
  for name, clock, processors in rows(a.rows, a.resamples, a.tasks):
    print(f"| {name} | {clock:.1f} | {processors:.1f} |", flush=True)


if __name__ == "__main__":
  main()
