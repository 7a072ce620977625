"""How long the statistics take: 1,000 patient resamples of 3 tasks on 100,000 rows.

    python -m experiments.metrics_benchmark [--rows=100000] [--resamples=1000] [--tasks=3]
    python -m experiments.metrics_benchmark --whole=labels,levels [--before=DIR]

`--whole` times whole studies (WHOLE), each in a process of its own, with its peak of memory; beside
them those of another checkout in DIR, such as `git worktree add DIR 01df910`, in alternating turns.

Without it: scikit-learn's time for the same beside it, from a few of the resamples. Processor
seconds too: on a busy machine the clock says little.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from sklearn import metrics as oracle

from crl_jax import config as config_lib
from crl_jax.statistics import bootstrap, conformal, evaluate, metrics as metrics_lib, orthogonal
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


def table(n, tasks=1, groups=0, patterns=4, seed=0):
  """A predictions table of n patients, one row each, a sixth of them validation rows."""
  rng = np.random.default_rng(seed)
  columns = dict(row_id=np.arange(n), patient_id=np.arange(n) + 10**9, fold=np.arange(n) % 5,
                 seed=0, role=np.where(rng.random(n) < 1 / 6, "val", "test"),
                 pattern=rng.integers(patterns, size=n))
  if groups:
    columns["group_unit"] = rng.integers(groups, size=n).astype(str)
  sigmoid = lambda x: 1 / (1 + np.exp(1.5 - 1.2 * x))
  for t in range(tasks):
    x = rng.normal(size=n)
    columns[f"y_{t}"] = (rng.random(n) < sigmoid(x)).astype(float)
    for prefix in ("p_base_", "p_", "p_logistic_", "p_boosting_"):
      columns[f"{prefix}{t}"] = sigmoid(x + 0.5 * rng.normal(size=n))
  return pd.DataFrame(columns)


def _evaluate(rows, tasks, groups, resamples):
  config = config_lib.default().unlock()
  config.evaluate.bootstrap = resamples
  found = table(rows, tasks, groups)
  return lambda: evaluate.evaluate(found, [str(t) for t in range(tasks)], config, 0, "abcdefghij")


def _sets(patterns):
  config = config_lib.default().evaluate
  added = conformal.add(table(100_000, patterns=patterns), ("0",), config)
  return lambda: conformal.study(added, ("0",), "abcdefghij", config)


def _signs():
  y, d = np.random.default_rng(0).normal(size=(2, 400_000))
  return lambda: orthogonal.contrast(y, d[:, None], np.arange(400_000))


# what --whole times: name -> what is made ready, and then timed
WHOLE = {"labels": lambda: _evaluate(10_000, 25, 0, 200),
         "resampled": lambda: _evaluate(8_000, 3, 8, 1000),
         "evaluate": lambda: _evaluate(100_000, 3, 8, 1000),
         "million": lambda: _evaluate(1_000_000, 3, 8, 1000),
         "levels": lambda: _evaluate(40_000, 1, 200, 200),
         "sets16": lambda: _sets(16), "sets1024": lambda: _sets(1024), "signs": _signs}


def whole(name):
  """(processor seconds, peak MiB) of one of WHOLE in this process; what is made ready is in the
  peak."""
  _, (_, took) = _timed(WHOLE[name]())
  return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def apart(name, checkout):
  """`whole` in a process of its own, of the package in `checkout`."""
  done = subprocess.run([sys.executable, __file__, f"--child={name}"], check=True, text=True,
                        env={**os.environ, "PYTHONPATH": str(checkout)}, cwd=checkout,
                        stdout=subprocess.PIPE)
  return [float(v) for v in done.stdout.split()[-2:]]


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
  parser.add_argument("--whole", type=lambda text: text.split(","), metavar="NAME,...",
                      help=f"of {', '.join(WHOLE)}")
  parser.add_argument("--before", type=pathlib.Path, help="another checkout, to be timed beside it")
  parser.add_argument("--child", choices=WHOLE, help=argparse.SUPPRESS)
  a = parser.parse_args()
  if a.child:
    print(*whole(a.child))
    return
  print(f"{engine_benchmark.machine()}\n")
  if a.whole:
    here = pathlib.Path(__file__).resolve().parents[1]
    print("| what | processor seconds | peak MiB | before: seconds | peak MiB |\n"
          "| --- | --- | --- | --- | --- |")
    for name in a.whole:
      cells = [f"{v:.1f}" if i % 2 == 0 else f"{v:.0f}" for checkout in (here, a.before) if checkout
               for i, v in enumerate(apart(name, checkout.resolve()))]
      print(f"| {' | '.join([name, *cells])} |", flush=True)
    return
  print(f"{a.resamples} resamples, {a.tasks} tasks, {a.rows} rows\n\n"
        "| what | seconds | of processors |\n| --- | --- | --- |")
  for name, clock, processors in rows(a.rows, a.resamples, a.tasks):
    print(f"| {name} | {clock:.1f} | {processors:.1f} |", flush=True)


if __name__ == "__main__":
  main()
