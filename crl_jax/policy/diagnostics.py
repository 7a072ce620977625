"""What can be checked of a study of treatment policies: whether phi holds the confounders, whether
the arms overlap, what a pattern or a note tells beyond the annotations, and what coarsening costs.

Predictions and scores come from elsewhere, cross-fitted on test rows; intervals are by patient, and
numbers of fewer than `least` patients are withheld as statistics/disclosure.py says.
"""

import numpy as np

from crl_jax.policy import value
from crl_jax.statistics import bootstrap, compare, disclosure, metrics as metrics_lib

EPS = (0.001, 0.01, 0.02, 0.05, 0.1)   # at which the average effect is told
CLIPPED = 0.2      # share of clipped rows past which overlap is poor
GATE = 0.7, 0.8    # the AUROC that this share of the binary confounders should reach
CONTROL = "permuted"
_BINS = 20
_PAIRS = 100_000
_EDGE = 1e-12      # probabilities are kept this far from 0 and 1 in a log-loss


# Recoverability.

def recoverability(names, annotations, predictions, patient, least=10, resamples=500, seed=0,
                   source="all"):
  """How well annotations are told from parts of phi, on rows that the predictors did not see.

  Args:
    names: Q names.
    annotations: (N, Q), NaN where a value was not recorded: left out.
    predictions: what they were predicted from ("text", "tabular", "all", CONTROL: phi of another
      patient) -> (N, Q), probabilities where an annotation is 0 or 1.
    patient: (N,) ids.
    source: the key of `predictions` that the gate looks at.
  Returns:
    {"annotations": [{"name", "n", "kind": "binary" | "continuous", "prevalence", "sources": source
    -> {"auroc", "auprc", "f1"} or {"r2", "mae"}, each {value, lo, hi}}], "gate": {"passed",
    "reached", "of", "auroc", "share"}, "control": {"warning": sentence or null, "auroc": mean}}.
    F1 is at a probability of .5. What few patients are behind is null with a "reason". The control
    must be .5: a clear difference means that rows of a patient were in training.
  """
  _, who = np.unique(patient, return_inverse=True)
  counts_RxP = bootstrap.resample(who.max() + 1, resamples, seed)
  found, chance = [], []
  for name, y, *columns in zip(names, np.transpose(annotations),
                               *(np.transpose(p) for p in predictions.values())):
    known = ~np.isnan(y)
    y, index = np.asarray(y[known], np.float64), who[known]
    binary = bool(np.isin(y, (0, 1)).all())
    few = min(len(np.unique(index[rows])) for rows in ((y == 0, y == 1) if binary else
                                                        (np.ones(len(y), bool),)))
    line = {"name": name, "n": len(y), "kind": "binary" if binary else "continuous",
            "prevalence": None, "sources": {}}
    score = _classified if binary else _measured
    for key, p in zip(predictions, columns):
      if few < max(least, 2):
        why = disclosure.reason(least) if binary else f"fewer than {least} patients"
        blank = {"value": None, "lo": None, "hi": None, "reason": why}
        line["sources"][key] = dict.fromkeys(("auroc", "auprc", "f1") if binary else
                                             ("r2", "mae"), blank)
        continue
      line["prevalence"] = float(y.mean()) if binary else None
      line["sources"][key], drawn = score(y, np.asarray(p[known], np.float64), index, counts_RxP)
      if key == CONTROL and binary:
        seen = line["sources"][key]["auroc"]["value"]
        chance.append({**bootstrap.difference(seen - 0.5, drawn - 0.5, tail=True), "auroc": seen})
    found.append(line)
  return {"annotations": found, "gate": _gate(found, source), "control": _control(chance)}


def _classified(y, p, index, counts_RxP):
  """({"auroc", "auprc", "f1"}, resampled AUROC) of probabilities."""
  names = ("auroc", "auprc")
  seen, drawn = (metrics_lib.scores(y, p, w, None if w is None else index, only=names)
                 for w in (None, counts_RxP))
  found = {name: bootstrap.interval(seen[name][0], drawn[name], floor=0.0) for name in names}
  flag = p >= 0.5
  sums = np.stack([2 * y * flag, flag + y], 1)
  f1 = lambda total: np.divide(total[:, 0], total[:, 1], out=np.zeros(len(total)),
                               where=total[:, 1] > 0)
  found["f1"] = bootstrap.interval(f1(sums.sum(0, keepdims=True))[0],
                                   f1(bootstrap.totals(counts_RxP, index, sums)))
  return found, drawn["auroc"]


def _measured(y, p, index, counts_RxP):
  """({"r2", "mae"}, resampled R2) of values."""
  sums = np.stack([np.ones_like(y), y, y**2, (y - p) ** 2, np.abs(y - p)], 1)
  def both(total):
    n, first, second, squares, absolute = total.T
    spread = second - np.divide(first**2, n, out=np.zeros_like(n), where=n > 0)
    divide = lambda a, b: np.divide(a, b, out=np.full_like(a, np.nan), where=b > 1e-12)
    return 1 - divide(squares, spread), divide(absolute, n)
  seen = both(sums.sum(0, keepdims=True))
  drawn = both(bootstrap.totals(counts_RxP, index, sums))
  return {name: bootstrap.interval(s[0], d) for name, s, d in zip(("r2", "mae"), seen, drawn)
          }, drawn[0]


def _gate(found, source):
  level, share = GATE
  areas = [line["sources"][source]["auroc"]["value"] for line in found
           if line["kind"] == "binary" and source in line["sources"]]
  areas = [area for area in areas if area is not None]
  reached = sum(area > level for area in areas)
  return {"passed": reached >= share * len(areas) if areas else None, "reached": reached,
          "of": len(areas), "auroc": level, "share": share}


def _control(chance):
  compare.adjust(chance)
  clear = [entry for entry in chance if entry["p_holm"] is not None and entry["p_holm"] < 0.05]
  return {"auroc": float(np.mean([entry["auroc"] for entry in chance])) if chance else None,
          "warning": f"{len(clear)} of {len(chance)} annotations are told from another patient's "
                     "phi: rows of one patient were in training and test" if clear else None}


def permutation(patient, seed):
  """(N,) rows whose phi each row gets in the negative control: those of another patient, the next
  of a random circle of the patients; all of a patient's rows get theirs of one."""
  patients, who, size = np.unique(patient, return_inverse=True, return_counts=True)
  if len(patients) < 2:
    raise ValueError("a negative control needs two patients.")
  circle = np.random.default_rng([seed, 0xC7]).permutation(len(patients))
  other = np.empty_like(circle)
  other[circle] = np.roll(circle, 1)
  order = np.argsort(who, kind="stable")
  start = np.cumsum(size) - size
  turn = np.empty(len(who), int)   # which of its patient's rows a row is
  turn[order] = np.arange(len(who)) - start[who[order]]
  given = other[who]
  return order[start[given] + turn % size[given]]


def misread(annotations, sensitivity, specificity, seed):
  """`annotations` (N, Q) as noisy annotators or a model would give them: of the binary columns a 1
  is kept with probability `sensitivity` and a 0 with `specificity`. NaN and other columns stay."""
  x = np.array(annotations)
  drawn = np.random.default_rng([seed, 0x4015E]).random(x.shape)
  binary = (np.isin(x, (0, 1)) | np.isnan(x)).all(0)
  flip = binary & (drawn > np.where(x == 1, sensitivity, specificity))
  return np.where(flip, 1 - x, x)


# Overlap.

def overlap(e, treatment, deltas, patient, annotations, names, eps, pattern=None, least=10):
  """Were alike patients treated and not treated?

  Args:
    e: (N,) estimated P(T = 1). treatment: (N,). patient: (N,) ids.
    deltas: eps -> (N,) doubly robust scores clipped there.
    annotations: (N, Q) with NaN. names: Q.
    eps: of the study.
    pattern: (N,) names of patterns, or None.
  Returns:
    {"arms": {"treated", "untreated": rows}, "histogram": arm -> [{"lo", "hi", "share"}] of e, bins
    of at least `least` patients, "clipped": share, "ess": {"treated", "untreated"}, "standardised":
    [{"name", "before", "after"}] differences of means in pooled sds, without and with weights,
    "ate": [{"eps", value, lo, hi, se, p}], "patterns": [{"group", "n", "e": mean, "observed",
    "clipped", "ess", "ate", "extrapolation"}], "warnings": sentences}. A pattern with fewer than
    `least` patients of an arm is extrapolation, and like those that would give it away it is told
    without numbers of its arms.
  """
  e, arms = np.asarray(e, np.float64), {"treated": treatment == 1, "untreated": treatment == 0}
  weight = dict(zip(arms, value.weights(treatment, e, eps)))
  clipped = (e < eps) | (1 - e < eps)
  share = float(clipped.mean())
  effective = lambda rows: {arm: value.ess(w[rows]) for arm, w in weight.items()}
  everyone = np.ones(len(e), bool)
  found = {
      "arms": {arm: int(mine.sum()) for arm, mine in arms.items()},
      "histogram": {arm: _histogram(e[mine], patient[mine], least) for arm, mine in arms.items()},
      "clipped": share, "ess": effective(everyone),
      "standardised": [{"name": name, "before": _standardised(x, arms, None),
                        "after": _standardised(x, arms, weight)}
                       for name, x in zip(names, np.transpose(annotations))],
      "ate": [{"eps": at, **value.mean(delta, patient)} for at, delta in deltas.items()],
      "patterns": []}
  groups = [] if pattern is None else disclosure.groups(pattern, patient, treatment, least)
  for group in groups:
    mine = group.rows
    few = min(len(np.unique(patient[mine & rows])) for rows in arms.values()) < least
    line = {"group": str(group.name(group.level, "rarer patterns")), "n": int(mine.sum()),
            "e": float(e[mine].mean()), "extrapolation": bool(few)}
    if group.told:
      line |= {"observed": float(np.mean(treatment[mine])), "clipped": float(clipped[mine].mean()),
               "ess": effective(mine), "ate": value.mean(deltas[eps][mine], patient[mine])}
    else:
      why = disclosure.reason(least)
      line |= {"observed": None, "clipped": None, "ess": None, "reason": why,
               "ate": {"value": None, "lo": None, "hi": None, "se": None, "p": None, "reason": why}}
    found["patterns"].append(line)
  found["warnings"] = _poor(found, share)
  return found


def _poor(found, share):
  said = []
  if share > CLIPPED:
    said.append(f"{share:.0%} of the propensities are clipped: the arms hardly overlap, and the "
                "average effect is about patients who could have been in either.")
  said += [f"only {n:.0f} effective rows are {arm}: fewer than {value.FEWEST}"
           for arm, n in found["ess"].items() if n < value.FEWEST]
  if few := [line["group"] for line in found["patterns"] if line["extrapolation"]]:
    said.append(f"one arm is (nearly) absent in {', '.join(few)}: effects there are extrapolation "
                "from other patterns.")
  return said


def _histogram(e, patient, least):
  """[{"lo", "hi", "share"}]: of twentieths of (0, 1), joined from below until each has `least`
  patients."""
  found, lo = [], 0
  for hi in range(1, _BINS + 1):
    mine = (e >= lo / _BINS) & ((e < hi / _BINS) | (hi == _BINS))
    last = hi == _BINS
    if len(np.unique(patient[mine])) >= least or last and mine.any() and not found:
      found.append({"lo": lo / _BINS, "hi": hi / _BINS, "share": float(mine.mean())})
      lo = hi
    elif last and mine.any():   # too few are left: they join those before
      found[-1] |= {"hi": 1.0, "share": found[-1]["share"] + float(mine.mean())}
  return found


def _standardised(x, arms, weight):
  """Difference of the arms' means of a column (N,) with NaN in its sds without weights; null where
  an arm has no value or none varies."""
  means, variances = [], []
  for arm, mine in arms.items():
    rows = mine & ~np.isnan(x)
    w = np.ones(rows.sum()) if weight is None else weight[arm][rows]
    if not w.sum() > 0:
      return None
    means.append(np.average(x[rows], weights=w))
    variances.append(np.var(x[rows]))
  pooled = np.sqrt(np.mean(variances))
  return float((means[0] - means[1]) / pooled) if pooled > 1e-12 else None


# What is told beyond the annotations.

def gains(treatment, outcome, base, more, patient, binary=False):
  """What more inputs add to the nuisances, of rows that the fits did not see.

  Args:
    treatment, outcome: (N,).
    base, more: {"e", "mu0", "mu1"} -> (N,) predictions without and with what may add (the pattern,
      or phi).
    binary: whether the outcome is 0 or 1: then the loss is the log-loss as it is of the treatment,
      else the squared error.
  Returns:
    {"treatment", "untreated", "treated": {value, lo, hi, se, p}}: mean loss of base minus that of
    more, above 0 where more helps; of an outcome in the rows of its arm.
  """
  loss = _log_loss if binary else lambda y, p: (y - p) ** 2
  found = {"treatment": value.mean(_log_loss(treatment, base["e"])
                                   - _log_loss(treatment, more["e"]), patient)}
  for arm, name, key in ((0, "untreated", "mu0"), (1, "treated", "mu1")):
    rows = treatment == arm
    found[name] = value.mean(loss(outcome[rows], base[key][rows])
                             - loss(outcome[rows], more[key][rows]), patient[rows])
  return found


def leaking(found):
  """A sentence where phi (`gains` of adding it) tells more of the treatment and more of the outcome
  than the annotations do; null where either gain is not clear of 0, for the bias of the scores is a
  product of both."""
  clear = lambda name: found[name]["lo"] is not None and found[name]["lo"] > 0
  if clear("treatment") and (clear("untreated") or clear("treated")):
    return ("phi tells of the treatment and of the outcome what the annotations do not: scores are "
            "biased by the product of both. Use policy.nuisance_inputs='x+phi'.")
  return None


def _log_loss(y, p):
  p = np.clip(np.asarray(p, np.float64), _EDGE, 1 - _EDGE)
  return -(y * np.log(p) + (1 - y) * np.log1p(-p))


# Coarsening.

def coarsening(benefit, coarse, patient, cut=0.0, least=10, seed=0):
  """What is lost where decisions see only phi: with bias d = |coarse - benefit| and margin g =
  |benefit - cut|, a decision is surely kept where d < g, and the order of a pair where d_i + d_j <
  |benefit_i - benefit_j|.

  Args:
    benefit: (N,) given X, true or of a teacher. coarse: (N,) given phi, or its estimate.
    cut: benefit from which one treats.
  Returns:
    {"bias": mean d, "margin": mean g, "kept": share with d < g, "flipped": share decided otherwise,
    "regret": mean g of those, "bound": mean d of those, never below it, "pairs": {"kept",
    "ordered": shares of random pairs}, "by_margin": [{"n", "margin", "bias", "kept", "flipped"}],
    smallest margins first, of at least `least` patients each}.
  """
  d, g = np.abs(coarse - benefit), np.abs(benefit - cut)
  flipped, kept = (coarse > cut) != (benefit > cut), d < g
  i, j = np.random.default_rng([seed, 0xC0A]).integers(len(d), size=(2, _PAIRS))
  apart = np.abs(benefit[i] - benefit[j])
  some = apart > 0
  share = lambda v: float(v[some].mean()) if some.any() else None
  return {
      "bias": float(d.mean()), "margin": float(g.mean()), "kept": float(kept.mean()),
      "flipped": float(flipped.mean()), "regret": float(np.mean(g * flipped)),
      "bound": float(np.mean(d * flipped)),
      "pairs": {"kept": share(d[i] + d[j] < apart),
                "ordered": share((coarse[i] - coarse[j]) * (benefit[i] - benefit[j]) > 0)},
      "by_margin": [{"n": int(mine.sum()), "margin": float(g[mine].mean()),
                     "bias": float(d[mine].mean()), "kept": float(kept[mine].mean()),
                     "flipped": float(flipped[mine].mean())}
                    for mine in value.quantiles(g, patient, 10, least)]}


def decomposition(effect, tau, tau_phi, tau_phi_var=None):
  """{"pehe2", "floor", "model"}: PEHE^2 = E Var(tau | phi), below which no model of phi gets, + E
  (tau_phi - effect)^2. The sum holds up to chance."""
  floor = np.mean((tau - tau_phi) ** 2 if tau_phi_var is None else tau_phi_var)
  return {"pehe2": float(np.mean((effect - tau) ** 2)), "floor": float(floor),
          "model": float(np.mean((tau_phi - effect) ** 2))}


def taught(effect, teacher, patient, cut=0.0, least=10, resamples=500, seed=0):
  """`coarsening` where the truth is unknown: beside a teacher, the effects given X of held-out
  annotated rows, who inherits unconfoundedness.

  Returns:
    `coarsening`'s, and "r2": {value, lo, hi}: 1 - E (teacher - effect)^2 / Var teacher; null with a
    "reason" where the teacher is constant.
  """
  _, who = np.unique(patient, return_inverse=True)
  found, _ = _measured(np.asarray(teacher, np.float64), effect, who,
                       bootstrap.resample(who.max() + 1, resamples, seed))
  r2 = found["r2"]
  if r2["value"] is None:
    r2["reason"] = "the teacher's effects are all the same"
  return {**coarsening(teacher, effect, patient, cut, least, seed), "r2": r2}


# Policies beside each other.

def beside(priorities, pis, pairs, columns, patient, least=10):
  """How far policies agree, and who changes between them.

  Args:
    priorities: name -> (N,). pis: name -> {budget -> (N,)}. pairs: ((name, name), ...).
    columns: name -> (N,), told as means of who changes; see value.switchers.
  Returns:
    [{"first", "second", "spearman", "kendall", "budgets": [{"budget", "overlap", "expected",
    "jaccard", "kappa", "switched", "first", "second": who is treated by it alone}]}].
  """
  return [{"first": a, "second": b, **value.rank_agreement(priorities[a], priorities[b]),
           "budgets": [{"budget": q, **value.agreement(pi, pis[b][q]),
                        **dict(zip(("first", "second"),
                                   value.switchers(pi, pis[b][q], columns, patient, least)))}
                       for q, pi in pis[a].items() if q in pis[b]]} for a, b in pairs]
