"""Section C.6: does the missingness embedding say something? Its norm per pattern against the
outcome rates, and the pattern predicted from the representation."""

import itertools
import warnings

import numpy as np

from crl_jax.data import cohort as cohort_lib
from crl_jax.report import svg
from crl_jax.serve import predictor
from crl_jax.statistics import disclosure, metrics as metrics_lib
from experiments import tables

_MOST = 5000   # validation rows that the probe is fitted on


def make(study):
  """[Result, Result]: norms and rates per pattern; correlations and the probe's accuracy. [] for a
  model without a missingness embedding."""
  seen = representations(study)
  if seen is None:
    return []
  z_norm, test, pattern, hit, majority = seen
  cohort, floor = study.cohort, study.config.evaluate.min_cell
  ids, counts = np.unique(cohort.pattern, return_counts=True)
  rates = {task: told_rates(cohort, t, floor) for t, task in enumerate(cohort.tasks)}
  sized = disclosure.sized(np.isfinite(cohort.labels)).all()
  rows, pairs = [], {task: [] for task in cohort.tasks}
  for p in ids[np.argsort(-counts, kind="stable")]:
    mine = cohort.pattern == p
    if len(np.unique(cohort.patient_id[mine])) < floor or not (pattern == p).any():
      continue
    row = {"pattern": cohort_lib.pattern_name(p, cohort.modalities),
           "rows": int(mine.sum()) if sized or all(p in told for told in rates.values()) else None,
           "norm": float(z_norm[:, pattern == p].mean()),
           "norm_sd_over_members": float(z_norm[:, pattern == p].mean(1).std(ddof=1))
           if len(z_norm) > 1 else None}
    for t, task in enumerate(cohort.tasks):
      row[f"rate_{task}"] = rates[task].get(p)
      y = cohort.labels[mine, t]
      if np.isfinite(y).any():   # a correlation over all patterns tells of none of them
        pairs[task].append((row["norm"], float(np.nanmean(y))))
    rows.append(row)
  checks = [correlation(pairs[task], task, kind) for task in cohort.tasks
            for kind in ("pearson", "spearman")]
  lo, hi = metrics_lib.wilson(hit * len(test), len(test))
  low, high = metrics_lib.wilson(majority * len(test), len(test))
  checks += [dict(check="pattern from the representation, accuracy", value=hit, value_lo=lo,
                  value_hi=hi, p=None, over=len(test)),
             dict(check="majority pattern, accuracy", value=majority, value_lo=low, value_hi=high,
                  p=None, over=len(test))]
  norms = [r["norm"] for r in rows]
  plot = svg.Plot(svg.limits(norms), svg.limits(
      [v for r in rows for t in cohort.tasks if (v := r[f"rate_{t}"]) is not None], include=(0.0,)),
      "Norm of the missingness embedding and outcome rate", "norm of z, mean over members",
      "outcome rate", width=460, height=300)
  for color, task in zip(svg.SERIES, cohort.tasks):
    mine = [(r["norm"], r[f"rate_{task}"]) for r in rows if r[f"rate_{task}"] is not None]
    if mine:
      plot.points(*zip(*mine), color, task)
  return [
      tables.Result("c6_norms", "C.6: missingness embedding, norm per pattern", rows, plot.svg(),
                    (f"Patterns with at least {floor} patients. No rate: "
                     f"{disclosure.reason(floor)}.",)),
      tables.Result("c6_checks", "C.6: correlations and the pattern from the representation",
                    checks, None, (
          f"Correlations are over the {len(rows)} patterns: with so few, only a very strong one "
          "can be told from chance; p by permutation. The probe is a logistic regression on h, "
          "fitted on validation rows and scored on test rows of fold 0. The pattern is an input of "
          "the model, so its being readable from h shows that fusion keeps it, not that it "
          "matters.",
          "The values of the paper's section C.6 were not at hand."), {"p": ".2g"})]


def told_rates(cohort, t, least):
  """pattern -> outcome rate of task t, of the patterns that it may be told of."""
  known = np.isfinite(cohort.labels[:, t])
  y, patient = cohort.labels[known, t], cohort.patient_id[known]
  return {g.level: float(y[g.rows].mean())
          for g in disclosure.groups(cohort.pattern[known], patient, y, least)
          if g.told and not g.rare and g.level is not None}


def representations(study):
  """Norms of z (members, rows), test rows of fold 0, their patterns, and the accuracies of the
  probe and of the majority; None for a model without z."""
  import jax
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler
  run = predictor.restore(study.run_folder)
  members = np.flatnonzero(run.tree["fold"] == 0)
  pick = lambda x: np.asarray(x)[members]
  weights = dict(run.tree, params=jax.tree.map(pick, run.tree["params"]),
                 fold=run.tree["fold"][members])
  function = jax.jit(predictor.make_outputs(run.model, run.modalities))
  cohort = study.cohort
  val, test = (study.prepared.rows[0][role] for role in ("val", "test"))
  def outputs(rows):
    parts = []
    for start in range(0, len(rows), 256):
      mine = np.resize(rows[start:start + 256], 256)   # one shape, one program
      found = function(weights, {m: x[mine] for m, x in cohort.inputs.items()},
                       cohort.observed[mine])
      named = found.named.get("missingness_embedding")
      keep = min(256, len(rows) - start)
      parts.append((np.asarray(found.representation)[:, :keep],
                    None if named is None else np.asarray(named)[:, :keep]))
    return parts
  at_val, at_test = outputs(val[:_MOST]), outputs(test)
  if at_test[0][1] is None:
    return None
  join = lambda parts, i: np.concatenate([p[i] for p in parts], axis=1)
  h_val, h_test = join(at_val, 0), join(at_test, 0)
  y_val, y_test = cohort.pattern[val[:_MOST]], cohort.pattern[test]
  hits = []
  for m in range(len(members)):
    if len(np.unique(y_val)) < 2:
      hits.append(float((y_test == y_val[0]).mean()))
      continue
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")   # a probe that has not quite converged is still a probe
      probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
      hits.append(float((probe.fit(h_val[m], y_val).predict(h_test[m]) == y_test).mean()))
  values, counts = np.unique(y_val, return_counts=True)
  majority = float((y_test == values[counts.argmax()]).mean())
  return np.linalg.norm(join(at_test, 1), axis=-1), test, y_test, float(np.mean(hits)), majority


def correlation(pairs, task, kind):
  """A line of the checks: correlation of norm and rate over patterns, with Fisher's interval."""
  from scipy import stats
  transform = stats.rankdata if kind == "spearman" else np.asarray
  pairs = np.array(pairs, float).reshape(-1, 2)
  line = dict(check=f"{kind.title()} correlation of norm and {task} rate", value=None,
              value_lo=None, value_hi=None, p=None, over=len(pairs))
  if len(pairs) > 2 and (pairs.std(0) > 0).all():
    x, y = (transform(v) for v in pairs.T)
    line |= dict(value=float(np.corrcoef(x, y)[0, 1]), p=by_pairing(x, y))
    if len(pairs) > 3:
      half = 1.96 / np.sqrt(len(pairs) - 3)
      centre = np.arctanh(np.clip(line["value"], -1 + 1e-9, 1 - 1e-9))
      line |= dict(value_lo=float(np.tanh(centre - half)), value_hi=float(np.tanh(centre + half)))
  return line


def by_pairing(x, y):
  """p of no correlation: the share of all ways to pair `x` and `y` (n,) that give one as strong, of
  9,999 drawn at random where n > 7. (Spearman's t approximation rejects a third of true nulls of
  three patterns.)"""
  n = len(x)
  if n <= 7:
    order = np.array([*itertools.permutations(range(n))])
  else:
    order = np.random.default_rng(0).permuted(np.tile(np.arange(n), (10_000, 1)), axis=1)
    order[0] = np.arange(n)   # what was seen
  strength = np.abs((y - y.mean())[order] @ (x - x.mean()))
  return float(np.mean(strength >= strength[0] * (1 - 1e-9)))
