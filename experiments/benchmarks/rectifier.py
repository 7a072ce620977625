"""The rectifier on many rows, against pandas and against reading the same bytes once.

Pandas gets its table ready made; only the residuals and the groupby are timed. By pattern it finds
mean, count and variance, which is all a user would ask for; by fold and pattern, the cells that
cross-fitting needs. `fit` does more than either: it checks the rows, ranks ids, deals folds,
estimates with errors and intervals, and chooses thresholds by held-out Brier scores.
"""

import time

import numpy as np
import pandas as pd

from crl_jax import config as config_lib
from crl_jax.posthoc import rectifier
from experiments.benchmarks import interleaved, line, ratios

TASKS, PATTERNS = 3, 16


def rows(options):
  """Lines of the table, of 500 times options.rows rows: ten million by default."""
  n, config = 500 * options.rows, config_lib.default().rectifier
  y, f, pattern = draw(n)
  patient = np.arange(n)   # one row each
  fit = lambda: rectifier.fit(y, f, pattern, patient, config, 0)
  # what it is made of
  checked = lambda: rectifier.checked(y, f, pattern, patient, config, 0)
  prepared = checked()
  estimate = lambda: rectifier.estimate(prepared, config)
  estimates = estimate()

  table = pd.DataFrame({"pattern": pattern, "fold": prepared.fold,
                        **{f"y_{t}": y[:, t] for t in range(TASKS)},
                        **{f"p_{t}": f[:, t] for t in range(TASKS)}})
  by = lambda keys: pd.DataFrame(
      {key: table[key] for key in keys} |
      {f"r_{t}": table[f"y_{t}"] - table[f"p_{t}"] for t in range(TASKS)}).groupby(keys).agg(
          ["mean", "count", "var"])
  means = by(["pattern"]).xs("mean", axis=1, level=1).to_numpy().T
  np.testing.assert_allclose(estimates.gamma[:, -1], means, rtol=1e-9, atol=1e-12)

  seconds = interleaved({
      "fit": _timed(fit), "checked": _timed(checked), "estimate": _timed(estimate),
      "threshold": _timed(lambda: rectifier.thresholds(prepared, estimates, config)),
      "pandas": _timed(lambda: by(["pattern"])), "cells": _timed(lambda: by(["fold", "pattern"])),
      "read": _timed(lambda: y.sum() + f.sum() + prepared.cell.sum())}, options.repeats)
  part = f"rectifier, {n:,} rows x {TASKS} tasks x {PATTERNS} patterns"
  of = lambda measure, name, compared="", other=None: line(
      part, measure, seconds[name], "s", compared,
      ratios(seconds[other], seconds[name]) if other else None)
  giga = [(y.nbytes + f.nbytes + prepared.cell.nbytes) / 1e9 / s for s in seconds["read"]]
  return [
      of("fit", "fit", "pandas by pattern", "pandas"),
      of("of it: checks, ids, folds", "checked"),
      of("of it: segment sums, estimates, errors", "estimate", "pandas by pattern", "pandas"),
      of("the same", "estimate", "pandas by fold and pattern", "cells"),
      of("the same", "estimate", "one read of its bytes", "read"),
      of("of it: thresholds", "threshold"),
      of("pandas groupby by pattern", "pandas"),
      of("pandas groupby by fold and pattern", "cells"),
      of("one read of y, f and ids (NumPy sums)", "read"),
      line(part, "memory bandwidth of that", giga, "GB/s")]


def draw(n, seed=0):
  """Outcomes (n, TASKS), a tenth undefined, predictions off by up to 0.05, pattern ids (n,)."""
  rng = np.random.default_rng(seed)
  pattern = rng.integers(0, PATTERNS, n)
  f = 0.1 + 0.8 * rng.random((n, TASKS))
  gamma = rng.uniform(-0.05, 0.05, (PATTERNS, TASKS))
  y = (rng.random((n, TASKS)) < f + gamma[pattern]).astype(float)
  y[rng.random((n, TASKS)) < 0.1] = np.nan
  return y, f, pattern


def _timed(function):
  def run():
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
  return run
