"""One predictor, one task: every metric's value over the sets that a table holds, its draws under
resampled patients (or, of many, its influence by patient), and its spread over members."""

import dataclasses

import numpy as np

from crl_jax.statistics import bootstrap, influence, metrics as metrics_lib

RATES = ("sensitivity", "specificity", "ppv", "npv", "flagged")   # at an operating point
_FLOOR = {"slope": None, "intercept": None}   # the least a metric can be; 0 for the others
_OF = {"sensitivity": ([0], [0, 2]), "specificity": ([3], [3, 1]), "ppv": ([0], [0, 1]),
       "npv": ([3], [3, 2]), "flagged": ([0, 1], [0, 1, 2, 3])}   # columns of _counted


@dataclasses.dataclass(frozen=True)
class Scores:
  """Attributes, R resamples:
    entry: metric -> {value, lo, hi, folds: {mean, sd, n}[, reason]}, and n, positives.
    draws: metric -> (R,), NaN where undefined; empty where there is a limit.
    members: metric -> (fold, seed) -> value, of the members where it is defined.
    limit: None, or that which the intervals are from, and then
    influence: metric -> (P,) by patient; of the calibration error it is "gaps", rows' blocks as
      `bootstrap.covariance` takes them, of the signed gaps "parts" (K,).
  """
  entry: dict
  draws: dict
  members: dict
  limit: bootstrap.Limit | None = None
  influence: dict = dataclasses.field(default_factory=dict)

  def light(self):
    """Without what only differences are made from."""
    return dataclasses.replace(self, draws={}, influence={})


def score(table, patient_N, task, prefix, counts_RxP, config, thresholds=None):
  """Scores the predictor `<prefix><task>` on the rows of one role.

  A value is the metric over all labelled rows, as one set per seed in which every row stands once
  (test: the folds pooled; val, where a row may belong to several members: one set per fold and
  seed), then the mean over the sets where it is defined.

  Args:
    table: the rows of one role, DataFrame.
    patient_N: (N,) their patients' columns in the resamples.
    task, prefix: strings.
    counts_RxP: (R, P) how often each patient was drawn, or the Limit of many patients.
    config: config.evaluate.
    thresholds: (fold, seed) -> operating point, for RATES; {}: there is none; None: leave RATES
      out.
  Returns:
    Scores.
  Raises:
    ValueError: labelled rows without a probability, with the column's name and their number.
  """
  column, role = f"{prefix}{task}", "".join(table.role.iloc[:1])
  labelled = table[f"y_{task}"].notna().to_numpy()
  table, patient_N = table[labelled], patient_N[labelled]
  y_N, p_N = (table[name].to_numpy(np.float64) for name in (f"y_{task}", column))
  if bad := int(np.sum(~((p_N >= 0) & (p_N <= 1)))):
    raise ValueError(f"column '{column}' has {bad} of {len(table)} labelled '{role}' rows "
                     "without a probability.")
  ranked = metrics_lib.METRICS + metrics_lib.LINE
  def values(rows, weights=None):
    args = y_N[rows], p_N[rows], weights, None if weights is None else patient_N[rows], config.bins
    found = metrics_lib.scores(*args, only=[*(name for name in ranked if name != "ece"), "gaps"])
    return {**found, "ece": np.abs(found["gaps"]).sum(axis=1)}
  members, sets = members_of(table), sets_of(table, role)
  limit = counts_RxP if isinstance(counts_RxP, bootstrap.Limit) else None
  if limit and not limit.holds(y_N, patient_N):
    (counts_RxP, patient_N), limit = limit.few(patient_N), None
  counted_NxK = None
  if thresholds is not None:
    counted_NxK = _counted(y_N, p_N, table, thresholds)
    plain = values
    def values(rows, weights=None):
      sums = (counted_NxK[rows].sum(axis=0, keepdims=True) if weights is None else
              bootstrap.totals(weights, patient_N[rows], counted_NxK[rows]))
      return {**plain(rows, weights), **_rates(sums)}
  names = ranked + (RATES if thresholds is not None else ())
  each = {key: values(rows) for key, rows in members.items()}
  alone = [values(rows) for rows in sets]
  drawn = [] if limit else [values(rows, counts_RxP) for rows in sets]
  distinct = ~table.row_id.duplicated().to_numpy()
  n, positives = int(distinct.sum()), int(y_N[distinct].sum())
  entry = {"n": n, "positives": positives}
  draws = {} if limit else {name: bootstrap.mean([d[name] for d in drawn], len(counts_RxP))
                            for name in names}
  psi = _influences(y_N, p_N, patient_N, sets, counted_NxK, limit, config.bins) if limit else {}
  parts = lambda found: np.concatenate([v["gaps"] for v in found], axis=1) / len(found)
  if limit:
    psi["parts"] = parts(alone)[0]
  known = {name: {key: float(found[name][0]) for key, found in each.items()
                  if not np.isnan(found[name][0])} for name in names}
  for name in names:
    value = bootstrap.mean([v[name] for v in alone], 1)[0]
    if name == "ece" and not np.isnan(value):
      entry[name] = bootstrap.magnitude(parts(alone)[0], parts(drawn) if not limit else limit.draws(
          psi["parts"], bootstrap.covariance(psi["gaps"], limit.patients)))
    elif limit and not np.isnan(value):
      entry[name] = bootstrap.normal(value, np.linalg.norm(psi[name]), _FLOOR.get(name, 0.0),
                                     share=name not in metrics_lib.LINE)
    else:
      entry[name] = bootstrap.interval(value, draws.get(name, np.zeros(0)),
                                       floor=_FLOOR.get(name, 0.0))
    if entry[name]["value"] is None:
      entry[name]["reason"] = _reason(name, n, positives, p_N, thresholds)
    spread = np.array(list(known[name].values()))
    entry[name]["folds"] = dict(mean=float(spread.mean()) if len(spread) else None,
                                sd=float(spread.std(ddof=1)) if len(spread) > 1 else None,
                                n=len(spread))
  return Scores(entry, draws, known, limit, psi)


def _influences(y_N, p_N, patient_N, sets, counted_NxK, limit, bins):
  """Scores.influence but for "parts": the mean over the sets in which a metric is defined."""
  total, count, gaps = {}, {}, []
  for rows in sets:
    found = influence.scores(y_N[rows], p_N[rows], bins)
    gaps.append((patient_N[rows], (found.pop("gaps") / len(sets)).astype(np.float32)))
    if counted_NxK is not None:
      for name, (above, below) in _OF.items():
        above_N, below_N = (counted_NxK[np.ix_(rows, columns)].sum(1) for columns in (above, below))
        if below_N.any():
          found[name] = influence.ratio(above_N, below_N)
    for name, v in found.items():
      psi_P = np.bincount(patient_N[rows], v, limit.patients).astype(np.float32)
      total[name] = total[name] + psi_P if name in total else psi_P
      count[name] = count.get(name, 0) + 1
  return {**{name: psi_P / count[name] for name, psi_P in total.items()}, "gaps": gaps}


def members_of(table):
  """(fold, seed) -> positions of its rows."""
  found = table.groupby(["fold", "seed"], sort=True).indices
  return {(int(fold), int(seed)): rows for (fold, seed), rows in found.items()}


def sets_of(table, role):
  """Positions of the rows of each set: a seed's test rows, a member's other rows."""
  keys = ["seed"] if role == "test" else ["fold", "seed"]
  return list(table.groupby(keys, sort=True).indices.values())


def operating_points(table, task, prefix, target):
  """The threshold of each member: the highest at which at least the share `target` of its positive
  validation rows is flagged (p >= threshold).

  Returns:
    (fold, seed) -> threshold, without the members that have no positive validation row or no
    prediction there.
  """
  val = table[(table.role == "val") & (table[f"y_{task}"] == 1)]
  p_N = val[f"{prefix}{task}"].to_numpy(np.float64)
  found = {}
  for member, rows in members_of(val).items():
    p = np.sort(p_N[rows])[::-1]
    if not np.isnan(p).any():
      # the guard: 0.8 x 5 is not 5 by rounding
      found[member] = float(p[max(1, int(np.ceil(target * len(p) - 1e-9))) - 1])
  return found


def cuts(table, thresholds):
  """(N,) the operating point of each row's member; NaN without one."""
  found = np.full(len(table), np.nan)
  for member, rows in members_of(table).items():
    found[rows] = thresholds.get(member, np.nan)
  return found


def _counted(y_N, p_N, table, thresholds):
  """(N, 4): true positives, false positives, false negatives, true negatives, as 0/1; rows of a
  member without a threshold count in nothing."""
  cut_N = cuts(table, thresholds)
  flagged, known = p_N >= cut_N, ~np.isnan(cut_N)
  return np.stack([flagged & (y_N == 1), flagged & (y_N == 0), known & ~flagged & (y_N == 1),
                   known & ~flagged & (y_N == 0)], 1).astype(float)


def _rates(sums_Rx4):
  tp, fp, fn, tn = sums_Rx4.T
  divide = lambda a, b: np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
  return dict(sensitivity=divide(tp, tp + fn), specificity=divide(tn, tn + fp),
              ppv=divide(tp, tp + fp), npv=divide(tn, tn + fn),
              flagged=divide(tp + fp, tp + fp + fn + tn))


def _reason(name, n, positives, p_N, thresholds):
  if not n:
    return "no row with this outcome"
  if name in RATES and not thresholds:
    return "no prediction of positive validation rows to choose an operating point on"
  if positives in (0, n):
    return f"only one class: {n} rows, {positives} positive"
  if name == "slope":
    return ("all predictions are equal" if len(np.unique(p_N)) == 1 else
            "the predictions separate the outcomes")
  if name in ("ppv", "npv"):
    return "nobody is flagged" if name == "ppv" else "everybody is flagged"
  return "one class in every fold"
