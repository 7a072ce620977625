"""Is one predictor better than another? Paired bootstrap, DeLong, the corrected resampled t-test,
and Holm's correction over a table of such answers."""

import numpy as np

from crl_jax.statistics import bootstrap, scoring

_Z = 1.959963984540054


def delong(y, p, q, patient=None, sets=None):
  """The difference of two AUROCs on the same rows, and its standard error, by their structural
  components (DeLong et al. 1988, doi 10.2307/2531595), summed within patients (Obuchowski 1997,
  doi 10.2307/2533958).

  Args:
    y: (N,) outcomes in {0, 1}.
    p, q: (N,) predictions of the first and of the second predictor.
    patient: (N,) ids; None: every row is a patient of its own.
    sets: lists of row positions; the AUROC is the mean over them (one per seed). None: all rows.
  Returns:
    {"value", "lo", "hi", "se", "p"}: first minus second, normal 95% interval, p-value of no
    difference; all null with a "reason" where a class is absent or has one row.
  """
  y, p, q = (np.asarray(v, np.float64) for v in (y, p, q))
  patient = np.arange(len(y)) if patient is None else np.unique(patient, return_inverse=True)[1]
  sets = [np.arange(len(y))] if sets is None else sets
  sets = [rows for rows in sets if 2 <= y[rows].sum() <= len(rows) - 2]
  if not sets:
    return dict(value=None, lo=None, hi=None, se=None, p=None,
                reason=f"fewer than two rows of a class: {len(y)} rows, {int(y.sum())} positive")
  value, component_P = 0.0, np.zeros(patient.max() + 1)
  for rows in sets:
    (first, a_N), (second, b_N) = (components(y[rows], v[rows]) for v in (p, q))
    value += (first - second) / len(sets)
    component_P += np.bincount(patient[rows], a_N - b_N, len(component_P)) / len(sets)
  se = float(np.sqrt(np.sum(component_P ** 2)))
  if se < 1e-12:
    return dict(value=value, lo=value, hi=value, se=0.0, p=1.0 if abs(value) < 1e-12 else 0.0)
  return dict(value=value, lo=value - _Z * se, hi=value + _Z * se, se=se,
              p=_two_sided(value / se))


def components(y, p):
  """AUROC, and what each row adds to its error (N,): their sum of squares is DeLong's variance."""
  positive, negative = np.sort(p[y == 1]), np.sort(p[y == 0])
  share = lambda ordered, x: (np.searchsorted(ordered, x) +
                              np.searchsorted(ordered, x, "right")) / (2 * len(ordered))
  above_N = np.where(y == 1, share(negative, p), 1 - share(positive, p))
  area = float(above_N[y == 1].mean())
  n_N = np.where(y == 1, len(positive), len(negative))
  return area, (above_N - area) / np.sqrt(n_N * np.maximum(n_N - 1.0, 1))


def area(y, p, patient):
  """{"value", "lo", "hi"} of the AUROC, the interval of its logit by the components' variance; null
  with a "reason" where a class has fewer than two rows."""
  y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
  if not 2 <= y.sum() <= len(y) - 2:
    return {"value": None, "lo": None, "hi": None, "reason": "fewer than two rows of a class"}
  value, component_N = components(y, p)
  se = np.sqrt(np.sum(np.bincount(np.unique(patient, return_inverse=True)[1], component_N) ** 2))
  if not 0 < value < 1:
    return {"value": value, "lo": value, "hi": value}
  logit, half = np.log(value / (1 - value)), _Z * se / (value * (1 - value))
  lo, hi = (float(1 / (1 + np.exp(-v))) for v in (logit - half, logit + half))
  return {"value": value, "lo": lo, "hi": hi}


def resampled_t(differences, ratio):
  """Corrected resampled t-test of the mean difference over folds x seeds (Nadeau and Bengio 2003,
  doi 10.1023/A:1024068626366): training sets overlap, so the variance of the mean is
  (1/J + ratio) sd^2 rather than sd^2 / J.

  Args:
    differences: J differences, one per member.
    ratio: rows of a test set over rows of a training set.
  Returns:
    {"mean", "sd", "n", "t", "lo", "hi", "p"}; t, lo, hi and p are null with a "reason" where J < 2.
  """
  from scipy import special
  d = np.asarray(differences, np.float64)
  found = dict(mean=float(d.mean()) if len(d) else None,
               sd=float(d.std(ddof=1)) if len(d) > 1 else None, n=len(d), t=None, lo=None, hi=None,
               p=None)
  if len(d) < 2:
    return {**found, "reason": f"{len(d)} member(s); the test needs at least 2"}
  se = found["sd"] * np.sqrt(1 / len(d) + ratio)
  if se < 1e-15:
    return {**found, "lo": found["mean"], "hi": found["mean"],
            "p": 1.0 if abs(found["mean"]) < 1e-15 else 0.0}
  t, half = found["mean"] / se, se * special.stdtrit(len(d) - 1, 0.975)
  return {**found, "t": float(t), "lo": float(found["mean"] - half),
          "hi": float(found["mean"] + half), "p": float(2 * special.stdtr(len(d) - 1, -abs(t)))}


def ratio(config):
  """Test rows over training rows of a member, by config.splits."""
  share = 1 / config.splits.folds
  return share / ((1 - share) * (1 - config.splits.validation))


def holm(pvalues):
  """p-values adjusted for all of them together (Holm 1979); None stays None and counts for
  nothing."""
  known = [i for i, p in enumerate(pvalues) if p is not None]
  adjusted, largest = [None] * len(pvalues), 0.0
  for rank, i in enumerate(sorted(known, key=lambda i: pvalues[i])):
    largest = max(largest, min(1.0, (len(known) - rank) * pvalues[i]))
    adjusted[i] = largest
  return adjusted


def adjust(entries):
  """Adds "p_holm" to every dict of `entries` that has a "p", corrected over all of them."""
  entries = [entry for entry in entries if "p" in entry]
  for entry, p in zip(entries, holm([entry["p"] for entry in entries])):
    entry["p_holm"] = p


def difference(first, second):
  """Metric by metric, first minus second, of two `scoring.Scores` on the same rows and resamples:
  {value, lo, hi, p} of `bootstrap.difference` or, of many patients, `normal_difference`, null
  with a reason where either is undefined."""
  found = {}
  for name in first.members:
    if name not in second.members:
      continue
    a, b = first.entry[name], second.entry[name]
    if a["value"] is None or b["value"] is None:
      found[name] = {"value": None, "lo": None, "hi": None, "p": None,
                     "reason": a.get("reason", b.get("reason"))}
    elif first.limit and name != "ece":
      se = np.linalg.norm(first.influence[name] - second.influence[name])
      found[name] = bootstrap.normal_difference(a["value"] - b["value"], se)
    else:
      draws = _errors(first, second) if first.limit else first.draws[name] - second.draws[name]
      found[name] = bootstrap.difference(a["value"] - b["value"], draws, reflect=name == "ece")
  return found


def _errors(first, second):
  """(R,) differences of two calibration errors, from the limit of the gaps of both."""
  both, limit = (first.influence, second.influence), first.limit
  drawn = limit.draws(np.concatenate([psi["parts"] for psi in both]), bootstrap.covariance(
      [block for psi in both for block in psi["gaps"]], limit.patients))
  a, b = np.split(np.abs(drawn), [len(both[0]["parts"])], axis=1)
  return a.sum(axis=1) - b.sum(axis=1)


def members(first, second, share):
  """metric -> `resampled_t` over the members in which both `scoring.Scores` are defined."""
  found = {}
  for name in first.members:
    both = [key for key in first.members[name] if key in second.members.get(name, ())]
    if name in second.members:
      found[name] = resampled_t(
          [first.members[name][key] - second.members[name][key] for key in both], share)
  return found


def runs(first, second, tasks, config, seed, prefix="p_", prefix_second=None):
  """Compares two predictions tables, two models say, on their test rows.

  Args:
    first, second: DataFrames as predictions.parquet holds them, of the same test rows.
    tasks: T names.
    config: the whole config; evaluate and splits are read.
    seed: int, of the resamples.
    prefix, prefix_second: of the columns compared; the second's default is the first's.
  Returns:
    task -> {metric: {value, lo, hi, p, first, second}, "delong": {...}, "resampled_t": {metric:
    {...}}}, first minus second.
  Raises:
    ValueError: tables whose test rows, members or outcomes are not the same.
  """
  keys = ["row_id", "fold", "seed"]
  tables = [t[t.role == "test"].sort_values(keys, ignore_index=True) for t in (first, second)]
  same = [t[[*keys, "patient_id", *(f"y_{task}" for task in tasks)]] for t in tables]
  if not same[0].equals(same[1]):
    raise ValueError(f"the two tables hold other test rows ({len(same[0])} and {len(same[1])}), "
                     "members or outcomes: a paired comparison needs runs of the same cohort, "
                     "seed, members.folds and members.seeds.")
  patients, patient_N = np.unique(tables[0].patient_id.to_numpy(), return_inverse=True)
  counts_RxP = bootstrap.sampling(len(patients), config.evaluate.bootstrap, seed)
  prefixes, found = (prefix, prefix_second or prefix), {}
  for task in tasks:
    a, b = (scoring.score(table, patient_N, task, column, counts_RxP, config.evaluate)
            for table, column in zip(tables, prefixes))
    columns = (table[f"{column}{task}"] for table, column in zip(tables, prefixes))
    found[task] = {name: {**entry, "first": a.entry[name]["value"],
                          "second": b.entry[name]["value"]}
                   for name, entry in difference(a, b).items()}
    found[task]["delong"] = rows_delong(tables[0], task, *columns)
    found[task]["resampled_t"] = members(a, b, ratio(config))
  return found


def rows_delong(table, task, p, q):
  """`delong` of two columns on the labelled test rows of `table`."""
  known = table[f"y_{task}"].notna().to_numpy()
  return delong(table[f"y_{task}"][known], p[known], q[known],
                table.patient_id[known].to_numpy(), scoring.sets_of(table[known], "test"))


def _two_sided(z):
  from scipy import special
  return float(2 * special.ndtr(-abs(z)))
