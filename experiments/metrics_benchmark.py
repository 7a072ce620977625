"""How long the statistics take: 1,000 patient resamples of 3 tasks on 100,000 rows.

    python -m experiments.metrics_benchmark [--rows=100000] [--resamples=1000] [--tasks=3]

Beside it scikit-learn's time for the same, from a few of the resamples.
"""

import argparse
import time

import numpy as np
from sklearn import metrics as oracle

from crl_jax import bootstrap, metrics as metrics_lib
from experiments import engine_benchmark

PARTS = {"AUROC, AUPRC, Brier, ECE": metrics_lib.METRICS, "calibration line": metrics_lib.LINE}
_SAMPLE = 5   # resamples that scikit-learn is timed on


def rows(n, resamples, tasks):
  """Yields (what, seconds)."""
  rng = np.random.default_rng(0)
  p = rng.beta(2, 6, (tasks, n))
  y = (rng.random(p.shape) < p).astype(float)
  start = time.perf_counter()
  counts = bootstrap.resample(n, resamples, 0)
  yield "resamples of the patients", time.perf_counter() - start
  patient = np.arange(n)
  for name, only in PARTS.items():
    start = time.perf_counter()
    for t in range(tasks):
      found = metrics_lib.scores(y[t], p[t], counts, patient, only=only)
    yield name, time.perf_counter() - start
    if "auroc" in only:
      start = time.perf_counter()
      for r in range(_SAMPLE):
        for t in range(tasks):
          pairs = [(f(y[t], p[t], sample_weight=counts[r]), name) for f, name in (
              (oracle.roc_auc_score, "auroc"), (oracle.average_precision_score, "auprc"),
              (oracle.brier_score_loss, "brier"))]
        if any(abs(value - found[name][r]) > 1e-9 for value, name in pairs):
          raise AssertionError("not scikit-learn's values")
      yield ("scikit-learn, AUROC, AUPRC and Brier (scaled up)",
             (time.perf_counter() - start) * resamples / _SAMPLE)
  start = time.perf_counter()
  for t in range(tasks):
    metrics_lib.net_benefit(y[t], p[t], np.arange(1, 51) / 100, counts, patient)
  yield "decision curve, 50 thresholds", time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", type=int, default=100_000, help="one per patient")
  parser.add_argument("--resamples", type=int, default=1000, help="of the patients")
  parser.add_argument("--tasks", type=int, default=3)
  a = parser.parse_args()
  print(f"{engine_benchmark.machine()}\n\n{a.resamples} resamples, {a.tasks} tasks, "
        f"{a.rows} rows\n\n| what | seconds |\n| --- | --- |")
  for name, seconds in rows(a.rows, a.resamples, a.tasks):
    print(f"| {name} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
  main()
