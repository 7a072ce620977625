"""What a treatment policy is worth, and how well a priority ranks patients by what they gain.

A priority (N,) says who comes first, the highest; a policy pi (N,) in [0, 1] with what probability
a row is treated. A benefit (N,) is an effect signed so that more is better: policies.priority is
the only place with that sign, so nothing here asks in which direction an outcome is good. Values
are in units of the outcome.

Ranking, of benefits b sorted by descending priority (Yadlowsky et al. 2025, doi
10.1080/01621459.2024.2393466):

    TOC(q) = mean b of the top q - mean b
    AUTOC = mean_k TOC(k/n)           = mean_j (H_n - H_{j-1} - 1) b_(j), H harmonic numbers
    QINI  = mean_k (k/n) TOC(k/n)     = mean_j ((n-j+1)/n - (n+1)/(2n)) b_(j)

Rows of one priority have no order: they share the mean of their weights, so the order of rows never
counts and a constant priority gives 0 exactly.

Where the truth is unknown, a row's scores stand for its outcomes: gamma1 - gamma0 = delta has the
mean of the effect where either nuisance is right (pseudo.py). They must be cross-fitted within the
test rows, whose policy comes from training rows alone. All intervals are by patient.
"""

import numpy as np

from crl_jax.statistics import compare, disclosure, orthogonal

HALVES = 200          # half-samples of the patients, behind the error of a ranking
MULTIPLIERS = 1000    # of a uniform band
POINTS = 50           # of a curve at most: none is drawn of fewer than `least` patients
FEWEST = 50           # effective rows of an arm: with fewer, weights say little
_BLOCK = 2048         # patients whose multipliers are drawn at once
_CELLS = 10**6        # half-samples x rows that are ranked at once


# Truth known.

def errors(effect, tau, tau_phi=None):
  """{"pehe", "bias", "rmse_phi"} of estimated effects (N,) beside the true ones given X, and given
  phi where known: root mean squared errors and the mean difference."""
  root = lambda truth: float(np.sqrt(np.mean((effect - truth) ** 2)))
  return {"pehe": root(tau), "bias": float(np.mean(effect - tau)),
          "rmse_phi": None if tau_phi is None else root(tau_phi)}


def true_value(pi, mu0, mu1):
  """Mean outcome under the policy `pi` (N,): mean(pi mu1 + (1 - pi) mu0)."""
  return float(np.mean(pi * mu1 + (1 - pi) * mu0))


def regret(pi, best, benefit):
  """Mean true benefit that the policy `best` (N,) at the same budget has over `pi` (N,)."""
  return float(np.mean((best - pi) * benefit))


def curve(priority, mu0, mu1):
  """(n,) V_k: the mean outcome where the top k of n by `priority` are treated, k = 1..n."""
  return np.mean(mu0) + _tops(priority, mu1 - mu0)[1:] / len(mu0)


# Ranking.

def toc(priority, benefit):
  """(n,) TOC(k/n), k = 1..n."""
  n = len(benefit)
  return _tops(priority, benefit)[1:] / np.arange(1, n + 1) - np.mean(benefit)


def rate(priority, benefit):
  """{"autoc", "qini"} of `priority` (N,) by `benefit` (N,), without an interval."""
  found = _rates(*_sorted(priority, np.arange(len(benefit)), benefit),
                 np.ones((1, len(benefit)), bool))
  return {name: float(value[0]) for name, value in found.items()}


def rankings(priorities, benefit, patient, pairs=(), halves=HALVES, seed=0):
  """How well each priority ranks, by the same half-samples of the patients for all.

  Args:
    priorities: name -> (N,).
    benefit: (N,) true benefits, or signed scores delta.
    patient: (N,) ids.
    pairs: ((name, name), ...) whose difference, first minus second, is asked for.
    halves: half-samples without replacement; the standard error is the sd over them.
  Returns:
    {"policies": name -> {"autoc", "qini"}, "differences": [{"first", "second", "autoc", "qini"}]},
    each {value, lo, hi, se, p}. p is one-sided against not more than 0 and has "p_holm" over the
    priorities for the AUTOC; two-sided for a difference.
  """
  weight_RxC, who = _halves(patient, halves, seed)
  seen, drawn = {}, {}
  for name, priority in priorities.items():
    order = _sorted(priority, who, benefit)
    seen[name] = rate(priority, benefit)
    drawn[name] = _rates(*order, weight_RxC)
  found = {name: {key: _tested(seen[name][key], drawn[name][key], one_sided=True)
                  for key in ("autoc", "qini")} for name in priorities}
  compare.adjust([entry["autoc"] for entry in found.values()])
  differences = [{"first": a, "second": b, **{
      key: _tested(seen[a][key] - seen[b][key], drawn[a][key] - drawn[b][key])
      for key in ("autoc", "qini")}} for a, b in pairs]
  return {"policies": found, "differences": differences}


def toc_band(priority, benefit, patient, least, multipliers=MULTIPLIERS, seed=0):
  """{"share", "value", "lo", "hi"}: TOC over the share q of the rows, in steps of about `least`
  patients or more, with a band that holds the whole curve with 95% probability: Gaussian
  multipliers of the patients' influence on it, ranks taken as fixed."""
  n, (patients, who) = len(benefit), np.unique(patient, return_inverse=True)
  steps = int(np.clip(len(patients) // max(least, 1), 1, POINTS))
  top_K = np.unique(np.arange(1, steps + 1) * n // steps)
  value_K = toc(priority, benefit)[top_K - 1]
  pi_NxK = np.stack([_treated(priority, k) for k in top_K], 1)
  b = np.asarray(benefit, np.float64)
  mean_K = pi_NxK.T @ b / top_K
  influence_NxK = (pi_NxK * (b[:, None] - mean_K) * n / top_K - (b - b.mean())[:, None]) / n
  sums_CxK = np.stack([np.bincount(who, v) for v in influence_NxK.T], 1)
  se_K = np.sqrt(np.sum(sums_CxK**2, 0))
  rng, drawn = np.random.default_rng([seed, 0x70C]), np.zeros((multipliers, len(top_K)))
  for first in range(0, len(sums_CxK), _BLOCK):
    part = sums_CxK[first:first + _BLOCK]
    drawn += rng.standard_normal((multipliers, len(part))) @ part
  worst = np.divide(np.abs(drawn), se_K, out=np.zeros_like(drawn), where=se_K > 1e-12).max(1)
  half_K = np.quantile(worst, 0.95) * se_K
  return {"share": (top_K / n).tolist(), "value": value_K.tolist(),
          "lo": (value_K - half_K).tolist(), "hi": (value_K + half_K).tolist()}


# Values from scores.

def mean(psi, patient):
  """{value, lo, hi, se, p} of the mean of `psi` (N,): normal, clustered by patient, p two-sided
  against 0. Without an interval, and with a "reason", where there are fewer than two patients.
  Raises ValueError where a score is not finite."""
  psi = np.asarray(psi, np.float64)
  if bad := int((~np.isfinite(psi)).sum()):
    raise ValueError(f"{bad} of {len(psi)} scores are not finite: a nuisance failed, or rows "
                     "without annotation were not left out.")
  centre, (_, who) = psi.mean(), np.unique(patient, return_inverse=True)
  clusters = who.max() + 1
  if clusters < 2:
    return {"value": float(centre), "lo": None, "hi": None, "se": None, "p": None,
            "reason": "fewer than two patients"}
  sums = np.bincount(who, psi - centre)
  return _normal(centre, np.sqrt(clusters / (clusters - 1) * np.sum(sums**2)) / len(psi))


def value(pi, gamma0, gamma1, patient):
  """Mean outcome under the policy `pi` (N,), by scores. See `mean`."""
  return mean((1 - pi) * gamma0 + pi * gamma1, patient)


def gain(pi, other, delta, patient):
  """What `pi` changes of the mean outcome beside `other` (0: nobody treated; q: a random share q),
  paired: mean((pi - other) delta). See `mean`."""
  return mean((pi - other) * delta, patient)


def study(priorities, pis, gamma0, gamma1, benefit, patient, pairs=(), least=10, halves=HALVES,
          seed=0):
  """All that is told of policies whose truth is unknown.

  Args:
    priorities: name -> (N,) of test rows; constants have none.
    pis: name -> {budget in (0, 1) -> (N,)}; constants such as everyone have {None: (N,)}.
    gamma0, gamma1: (N,) scores. benefit: (N,) signed delta. patient: (N,) ids.
    pairs: ((name, name), ...) to be compared.
    least: patients behind a point of a curve.
  Returns:
    {"policies": name -> {"autoc", "qini", "toc", "budgets": [{"budget", "share", "value",
    "over_none", "over_random"}]}, "differences": [{"first", "second", "autoc", "qini", "budgets":
    [{"budget", "value"}]}]}; entries as `mean`, differences first minus second in units of the
    outcome; over_random has "p_holm" over all policies and budgets.
  """
  delta = gamma1 - gamma0
  ranked = rankings(priorities, benefit, patient, pairs, halves, seed)
  policies = {}
  for name, budgets in pis.items():
    policies[name] = dict(ranked["policies"].get(name, {}), budgets=[
        {"budget": q, "share": float(np.mean(pi)), "value": value(pi, gamma0, gamma1, patient),
         "over_none": gain(pi, 0.0, delta, patient),
         "over_random": gain(pi, np.mean(pi), delta, patient)} for q, pi in budgets.items()])
    if name in priorities:
      policies[name]["toc"] = toc_band(priorities[name], benefit, patient, least, seed=seed)
  compare.adjust([at["over_random"] for entry in policies.values() for at in entry["budgets"]
                  if at["budget"] is not None])
  differences = []
  for found in ranked["differences"]:
    first, second = pis[found["first"]], pis[found["second"]]
    differences.append({**found, "budgets": [
        {"budget": q, "value": gain(pi, second[q], delta, patient)}
        for q, pi in first.items() if q in second]})
  return {"policies": policies, "differences": differences}


def calibration(effect, delta, patient, least=10, groups=5):
  """Are estimated effects (N,) as large as the scores say?

  Returns:
    {"slope": {value, lo, hi, se, p} of delta on the effect, 1 is wanted, "error": mean squared
    error against delta minus that of a constant (below 0: better), "groups": [{"n", "effect",
    "delta"}] by quantile of the effect, equal effects together, of at least `least` patients}; the
    slope is null with a "reason" where effects are constant.
  """
  x, d = effect - np.mean(effect), np.asarray(delta, np.float64)
  n, spread = len(x), float(np.sum(x**2))
  if spread > 1e-18 * n:
    centred = d - d.mean()
    slope = float(x @ centred / spread)
    _, who = np.unique(patient, return_inverse=True)
    sums = np.bincount(who, x * (centred - slope * x))
    c = len(sums)
    found = _normal(slope, np.sqrt(c / max(c - 1, 1) * np.sum(sums**2)) / spread)
  else:
    found = {"value": None, "lo": None, "hi": None, "se": None, "p": None,
             "reason": "all effects are the same"}
  return {"slope": found, "error": mean((d - effect) ** 2 - (d - d.mean()) ** 2, patient),
          "groups": [{"n": int(mine.sum()), "effect": float(np.mean(effect[mine])),
                      "delta": mean(d[mine], patient[mine])}
                     for mine in quantiles(effect, patient, groups, least)]}


def estimators(pi, treatment, outcome, e, mu0, mu1, gamma0, gamma1, patient, eps):
  """The value of `pi` (N,) by four estimators of one quantity: where they disagree, a nuisance is
  wrong or overlap is poor.

  Returns:
    {"dr", "direct", "ipw", "self_normalised": {value, ...}, the last without an interval, "spread":
    largest minus smallest, "ess": {"treated", "untreated": effective rows of the arm, null where
    the policy puts nobody there}, "warnings": sentences}.
  """
  weight1, weight0 = weights(treatment, e, eps)
  arms = {"treated": pi * weight1, "untreated": (1 - pi) * weight0}
  weight = arms["treated"] + arms["untreated"]
  total = weight.sum()
  found = {"dr": value(pi, gamma0, gamma1, patient), "direct": value(pi, mu0, mu1, patient),
           "ipw": mean(weight * outcome, patient), "self_normalised": {
               "value": float(weight @ outcome / total) if total > 0 else None,
               "lo": None, "hi": None}}
  known = [entry["value"] for entry in found.values() if entry["value"] is not None]
  effective = {"treated": ess(arms["treated"]) if np.any(pi > 0) else None,
               "untreated": ess(arms["untreated"]) if np.any(pi < 1) else None}
  return {**found, "spread": max(known) - min(known), "ess": effective, "warnings": [
      f"only {n:.0f} effective rows are {arm} as the policy would: fewer than {FEWEST}"
      for arm, n in effective.items() if n is not None and n < FEWEST]}


def weights(treatment, e, eps):
  """(w1, w0), (N,) each: T / e and (1 - T) / (1 - e), both probabilities kept within [eps, 1 -
  eps]."""
  keep = lambda p: np.clip(p, eps, 1 - eps)
  return treatment / keep(e), (1 - treatment) / keep(1 - np.asarray(e))


def ess(weight):
  """Effective number of rows of weights (N,): (sum w)^2 / sum w^2; 0 without weight."""
  squares = np.sum(np.square(weight))
  return float(np.sum(weight) ** 2 / squares) if squares > 0 else 0.0


def trial_scores(treatment, outcome, randomised):
  """(N,) effects by arm means alone, whose benefit `rate` turns into the Qini of a trial. Raises
  ValueError unless the treatment was randomised: confounding would be taken for effect."""
  if not randomised:
    raise ValueError("a Qini from raw outcomes takes confounding for effect: it needs a cohort "
                     "with randomised=True. Rank by cross-fitted scores instead.")
  share = np.mean(treatment)
  return (outcome - np.mean(outcome)) * (treatment / share - (1 - treatment) / (1 - share))


# Two policies beside each other, and one across groups.

def agreement(first, second):
  """How far two policies (N,) treat the same rows. Where rows are treated at random, both are taken
  to draw alike, so that a policy agrees wholly with itself.

  Returns:
    {"overlap": of those that the larger treats (a random share q expects q), "jaccard", "kappa",
    "switched": share of the rows that change, "expected": of overlap by chance}; null where nobody
    is treated, or kappa's chance leaves nothing to agree on.
  """
  both, either = np.minimum(first, second), np.maximum(first, second)
  a, b, n = np.sum(first), np.sum(second), len(first)
  chance = (a * b + (n - a) * (n - b)) / n**2
  same = 1 - np.mean(either - both)
  ratio = lambda x, y: float(x / y) if y > 1e-12 else None
  return {"overlap": ratio(both.sum(), max(a, b)), "expected": ratio(a * b / n, max(a, b)),
          "jaccard": ratio(both.sum(), either.sum()), "kappa": ratio(same - chance, 1 - chance),
          "switched": float(np.mean(either - both))}


def rank_agreement(first, second):
  """{"spearman", "kendall"} of two priorities (N,), ties as midranks and tau-b; null where one is
  constant."""
  from scipy import stats
  if np.ptp(first) == 0 or np.ptp(second) == 0:
    return {"spearman": None, "kendall": None}
  return {"spearman": float(stats.spearmanr(first, second).statistic),
          "kendall": float(stats.kendalltau(first, second).statistic)}


def switchers(first, second, columns, patient, least):
  """Who is treated by one policy (N,) alone, beside who by the other.

  Args:
    columns: name -> (N,) whose means are told, such as predicted risk and benefit; NaN is left out.
  Returns:
    [{"n": expected rows, name: mean}] for those whom `first` alone treats and those whom `second`
    alone does; means are null with a "reason" where fewer than `least` patients are among them.
  """
  found = []
  for extra in (np.maximum(first - second, 0), np.maximum(second - first, 0)):
    line = {"n": float(extra.sum())}
    for name, column in columns.items():
      known = (extra > 0) & ~np.isnan(column)
      if len(np.unique(patient[known])) >= least:
        line[name] = float(np.average(column[known], weights=extra[known]))
      else:
        line |= {name: None, "reason": f"fewer than {least} patients"}
    found.append(line)
  return found


def risk_benefit(risk, benefit, patient, least=10, groups=10):
  """Does the priority `risk` (N,) find those who gain? {"correlation", "groups": [{"n", "risk",
  "benefit": {value, ...}}] by quantile of the risk, equal ones together}, of true benefits or of
  signed scores; the correlation is null where either is constant."""
  constant = np.ptp(risk) == 0 or np.ptp(benefit) == 0
  return {"correlation": None if constant else float(np.corrcoef(risk, benefit)[0, 1]),
          "groups": [{"n": int(mine.sum()), "risk": float(np.mean(risk[mine])),
                      "benefit": mean(benefit[mine], patient[mine])}
                     for mine in quantiles(risk, patient, groups, least)]}


def by_group(level, patient, treatment, pi, effect, delta, least, binary_outcome=None):
  """A policy across the levels of one grouping, or across patterns.

  Small levels are told as statistics/disclosure.py says: what depends on treatments or outcomes is
  withheld where fewer than `least` patients are behind either arm, or behind a binary outcome.

  Args:
    level: (N,) names. treatment: (N,) as observed. pi: (N,). effect: (N,) estimates. delta: (N,)
      scores. binary_outcome: (N,) in {0, 1} where the outcome is of that kind.
  Returns:
    [{"group", "n", "share": treated by pi, "effect": mean estimate, "observed": share treated,
    "delta", "over_random": {value, lo, hi, se, p}}], largest first. What is withheld is null with a
    "reason".
  """
  groups = disclosure.groups(level, patient, treatment, least)
  told = np.array([group.told for group in groups], bool)
  if binary_outcome is not None and groups:
    at = np.argmax([group.rows for group in groups], axis=0)
    told &= disclosure.told(disclosure.counts(at, patient, binary_outcome, len(groups)), least)
  found = []
  for group, known in zip(groups, told):
    mine = group.rows
    line = {"group": str(group.name(group.level, "rarer groups")), "n": int(mine.sum()),
            "share": float(np.mean(pi[mine])), "effect": float(np.mean(effect[mine]))}
    if known:
      line |= {"observed": float(np.mean(treatment[mine])),
               "delta": mean(delta[mine], patient[mine]),
               "over_random": gain(pi[mine], np.mean(pi), delta[mine], patient[mine])}
    else:
      why = disclosure.reason(least)
      none = {"value": None, "lo": None, "hi": None, "se": None, "p": None, "reason": why}
      line |= {"observed": None, "delta": none, "over_random": none, "reason": why}
    found.append(line)
  return found


def fairness(level, patient, pi, benefit, least, permutations=200, seed=0):
  """The largest gap in the share that `pi` (N,) treats between two groups of one decile of the
  predicted `benefit` (N,).

  Returns:
    {"value", "decile" (1 gains least), "most", "fewest": groups, "expected": the mean gap where
    patients are dealt to the groups at random, "p": share of such gaps as large}; null with a
    "reason" where no decile has two groups of `least` patients.
  """
  names, at = np.unique(np.asarray(level, str), return_inverse=True)
  patients, first, who = np.unique(patient, return_index=True, return_inverse=True)
  deciles = quantiles(benefit, patient, 10, least)
  def widest(at_N):
    best = (-1.0, None, None, None)
    for decile, mine in enumerate(deciles, 1):
      size = np.bincount(at_N[mine][np.unique(who[mine], return_index=True)[1]],
                         minlength=len(names))
      large = np.flatnonzero(size >= max(least, 1))
      if len(large) > 1:
        rows = np.bincount(at_N[mine], minlength=len(names))[large]
        share = np.bincount(at_N[mine], pi[mine], len(names))[large] / rows
        gap = (float(np.ptp(share)), decile, *(names[large[f(share)]] for f in (np.argmax,
                                                                                np.argmin)))
        best = max(best, gap, key=lambda found: found[0])
    return best
  gap, decile, most, fewest = widest(at)
  if decile is None:
    blank = dict.fromkeys(("value", "decile", "most", "fewest", "expected", "p"))
    return {**blank, "reason": f"no two groups of {least} patients with the same predicted benefit"}
  rng = np.random.default_rng([seed, 0xFA1])
  drawn = [widest(at[first][rng.permutation(len(patients))][who])[0] for _ in range(permutations)]
  drawn = np.array([value for value in drawn if value >= 0])
  return {"value": gap, "decile": decile, "most": str(most), "fewest": str(fewest),
          "expected": float(drawn.mean()) if len(drawn) else None,
          "p": float((1 + np.sum(drawn >= gap - 1e-12)) / (1 + len(drawn)))}


def quantiles(score, patient, groups, least):
  """[(N,) bool] rows by quantile of `score` (N,), lowest first, equal scores together; as many as
  leave each about `least` patients, one at least."""
  count = int(np.clip(len(np.unique(patient)) // max(least, 1), 1, groups))
  edges = np.quantile(score, np.arange(1, count) / count) if count > 1 else []
  at = np.searchsorted(edges, score, "right")
  whole = [at == k for k in range(count) if (at == k).any()]
  found = []   # ties may leave few: they join the group before
  for mine in whole:
    if found and len(np.unique(patient[mine])) < least:
      found[-1] = found[-1] | mine
    else:
      found.append(mine)
  if len(found) > 1 and len(np.unique(patient[found[0]])) < least:
    found[:2] = [found[0] | found[1]]
  return found


def _treated(priority, k):
  """(N,) with what probability each row is among the top k: ties that the k-th is of share what the
  rows above them leave."""
  order = np.sort(priority)[::-1]
  cut = order[k - 1]
  above, tied = priority > cut, priority == cut
  return above + tied * ((k - above.sum()) / tied.sum())


def _tops(priority, values):
  """(n + 1,) sums of `values` over the top k, k = 0..n; ties in equal parts."""
  order = np.argsort(-np.asarray(priority), kind="stable")
  ends = _ends(np.asarray(priority)[order])
  sums = np.r_[0.0, np.cumsum(np.asarray(values, np.float64)[order])]
  return np.interp(np.arange(len(order) + 1), np.r_[0, ends], sums[np.r_[0, ends]])


def _ends(ordered):
  """Where each group of equal values ends, exclusive."""
  return np.r_[np.flatnonzero(np.diff(ordered)) + 1, len(ordered)]


def _sorted(priority, who, benefit):
  """(ends of the ties, patients, benefits), both by descending priority."""
  priority = np.asarray(priority)
  order = np.argsort(-priority, kind="stable")
  return _ends(priority[order]), who[order], np.asarray(benefit, np.float64)[order]


def _rates(ends, who, benefit, in_RxC):
  """{"autoc", "qini"} (R,) of the rows of the patients `in_RxC` (R, C) bool.

  With W_k the sum of the weights of the first k rows, k (H_n - H_k) and k (n - k) / (2 n), the
  rows of a tie that ends at k and begins after l share (W_k - W_l) / (k - l) each; W_n = 0."""
  harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, len(benefit) + 1))]
  starts, found = np.r_[0, ends[:-1]], []
  for in_BxC in np.array_split(in_RxC, -(-len(in_RxC) * len(who) // _CELLS)):
    in_BxN = in_BxC[:, who]
    k_BxG = np.pad(np.cumsum(in_BxN, axis=1, dtype=np.int32)[:, ends - 1], ((0, 0), (1, 0)))
    count_BxG, n_Bx1 = np.diff(k_BxG), np.maximum(k_BxG[:, -1:], 1)
    sums_BxG = np.add.reduceat(in_BxN * benefit, starts, axis=1)
    level_BxG = sums_BxG / np.maximum(count_BxG, 1)
    autoc = np.diff(k_BxG * (harmonic[k_BxG[:, -1:]] - harmonic[k_BxG]))
    qini = np.diff(k_BxG / n_Bx1 * (1 - k_BxG / n_Bx1) / 2)
    found.append([np.einsum("bg,bg->b", autoc, level_BxG) / n_Bx1[:, 0],
                  np.einsum("bg,bg->b", qini, level_BxG)])
  return dict(zip(("autoc", "qini"), np.concatenate(found, axis=1)))


def _halves(patient, halves, seed):
  """(halves, C) bool: half of the C patients each, and (N,) whose column a row is."""
  patients, who = np.unique(patient, return_inverse=True)
  rng = np.random.default_rng([seed, 0x4A1F])
  found = np.zeros((halves, len(patients)), bool)
  for row in found:
    row[rng.permutation(len(patients))[:len(patients) // 2]] = True
  return found, who


def _tested(value, draws, one_sided=False):
  """{value, lo, hi, se, p} of a normal statistic whose standard error is the sd of `draws`."""
  return _normal(value, np.std(draws, ddof=1), one_sided)


def _normal(value, se, one_sided=False):
  """{value, lo, hi, se, p}: 95% interval and p against 0 of a normal estimate."""
  from scipy import special
  if se > 1e-15:
    z = value / se
    p = special.ndtr(-z) if one_sided else 2 * special.ndtr(-abs(z))
  else:   # nothing varies: what is not 0 is not by chance
    p = 0.0 if value > 1e-15 or abs(value) > 1e-15 and not one_sided else 1.0
  return {**orthogonal.interval(value, se), "se": float(se), "p": float(p)}
