"""What a finished Study says: the content of metrics.json as report.py tells it.

Policies come from training rows. Their values and rankings are judged on the test rows, by scores
that were cross-fitted among these; where the truth is known, by the truth too.
"""

import numpy as np

from crl_jax.data.cohort import pattern_name
from crl_jax.policy import diagnostics, policies, pseudo, sensitivity, value
from crl_jax.policy import effects as effects_lib

ORACLES = ("oracle", "oracle_risk")
QUESTION = ("If only a share of such patients can be treated: whom first, and what would that "
            "change? Decided from what is at hand at time zero; the confounders were known to the "
            "annotators of the training rows only.")
LEVELS = {
    "x": ("nuisances on the annotations", "treatment is as good as random given the annotations "
          "where recorded, and what was recorded of them"),
    "x+pattern": ("nuisances on the annotations and the pattern", "the same, given the pattern of "
                  "what exists of phi too: it may move treatment and outcome"),
    "x+phi": ("nuisances on the annotations and phi", "the same, given all of phi"),
    "phi": ("nuisances on phi alone", "treatment is as good as random given phi, whatever the "
            "annotators knew: the plug-in of the paper's first version")}


def judge(study, seed):
  """The dict of metrics.json. Raises ValueError where no test row has a score."""
  p, c, test = study.p, study.config.policy, study.test
  least = study.config.evaluate.min_cell
  judged = test.weight > 0
  if not judged.any():
    raise ValueError("no test row has a score: none is annotated, or policy.trim leaves none.")
  rows = test.rows[judged]
  patient, t, y = p.cohort.patient_id[rows], p.treatment[rows], p.outcome[rows].astype(float)
  gamma0, gamma1 = weighted(test, judged)
  found = {name: v[judged] for name, v in study.effects.items()}
  known = ~np.isnan(found["dr_x"])
  if not known.all():   # a policy has a priority for every row, or is none
    teacher = found.pop("dr_x")
  else:
    teacher = found["dr_x"]
  if p.truth:
    found |= {"oracle": p.effect[rows], "oracle_risk": p.truth["mu0"][rows]}
  ranked = effects_lib.priorities(found, p.higher_is_better)
  pis = {name: {float(q): policies.assign(v, policies.budget(q)) for q in c.budgets}
         for name, v in ranked.items()}
  constants = {"all": np.ones(len(rows)), "none": np.zeros(len(rows)), "observed": t.astype(float)}
  told = {name: v for name, v in pis.items() if name not in ORACLES}
  benefit = policies.priority(gamma1 - gamma0, p.higher_is_better)
  pairs = [("aace", other) for other in ("risk", "plugin", "t_learner")]
  middle = min(map(float, c.budgets), key=lambda q: abs(q - 0.2))
  estimates = {name: v for name, v in found.items() if not name.endswith("risk")}
  patterns = np.array([pattern_name(i, study.phi.modalities) for i in study.phi.pattern[rows]])
  binary = y if p.outcome_kind == "binary" else None
  group = lambda level: value.by_group(level, patient, t, pis["aace"][middle], found["aace"],
                                       gamma1 - gamma0, least, binary)
  overlap = _overlap(study, judged, patterns, least)
  metrics = {
      "title": f"Treatment policies: {c.cohort}{c.world and ', world ' + c.world}",
      "banner": p.cohort.info.get("banner"), "question": QUESTION, "min_cell": least,
      "warnings": [*p.cohort.info["warnings"], *overlap["warnings"]],
      "design": _design(study, rows), "overlap": overlap, "effects": _effects(study),
      "policies": value.study(
          {name: v for name, v in ranked.items() if name not in ORACLES},
          told | {name: {None: pi} for name, pi in constants.items()}, gamma0, gamma1, benefit,
          patient, pairs, least, seed=seed),
      "truth": _truth(study, rows, ranked, estimates, pis) if p.truth else None,
      "calibration": {"aace": value.calibration(found["aace"], gamma1 - gamma0, patient, least)},
      "estimators": [{"policy": name, "budget": middle, **value.estimators(
          pis[name][middle], t, y, *(v[judged] for v in test.nuisances), gamma0, gamma1, patient,
          c.clip)} for name in ("aace", "risk")],
      "beside": diagnostics.beside(
          ranked, pis, [("aace", "risk"), ("aace", "plugin")],
          {"predicted benefit": ranked["aace"], "predicted risk": found["risk"]}, patient, least),
      "risk_benefit": value.risk_benefit(ranked["risk"], benefit, patient, least),
      "recoverability": diagnostics.recoverability(
          p.names, p.annotations[test.rows], study.recovered, p.cohort.patient_id[test.rows], least,
          seed=seed),
      "coarsening": _coarsening(study, rows, found, teacher, patient, least, seed),
      "decomposition": _decomposition(study, rows, found),
      "patterns": group(patterns),
      "groups": {name: group(level[rows]) for name, level in p.cohort.groups.items()},
      "fairness": {name: value.fairness(level[rows], patient, pis["aace"][middle], ranked["aace"],
                                        least, seed=seed)
                   for name, level in p.cohort.groups.items()},
      "sensitivity": _sensitivity(study, rows, pis, middle, judged, patient, seed),
      "correction": _correction(study.learned.correction)}
  metrics["assumptions"] = _assumptions(study, metrics)
  metrics["limits"] = _limits(study)
  return metrics


def weighted(scored, judged):
  """Gamma_0 and Gamma_1 of the rows `judged`, times their weight over its mean: so a plain mean of
  them is the weighted one."""
  weight = scored.weight[judged] / scored.weight[judged].mean()
  return (scored.scores.gamma0[judged] * weight, scored.scores.gamma1[judged] * weight)


def _design(study, rows):
  p, c = study.p, study.config.policy
  estimand = f"patients whose probability of treatment is within ({c.trim:g}, {1 - c.trim:g})"
  return {**{key: p.info.get(key) for key in ("time_zero", "treatment", "outcome", "landmark")},
          "estimand": estimand if c.trim else "all patients of the test rows",
          "rows": len(p), "patients": len(np.unique(p.cohort.patient_id)),
          "treated": int(p.treatment.sum()), "annotated": int(p.annotated.sum()),
          "test_rows": len(rows), "higher_is_better": bool(p.higher_is_better),
          "randomised": bool(p.randomised), "attrition": p.info.get("attrition"),
          "arms": p.info.get("arms")}


def _overlap(study, judged, patterns, least):
  p, c, test = study.p, study.config.policy, study.test
  rows = test.rows[judged]
  nuisances = [v[judged] for v in test.nuisances]
  deltas = {eps: pseudo.scores(p.treatment[rows], p.outcome[rows], *nuisances, eps).delta
            for eps in sorted({*diagnostics.EPS, c.clip})}
  return diagnostics.overlap(nuisances[0], p.treatment[rows], deltas, p.cohort.patient_id[rows],
                             p.annotations[rows], p.names, c.clip,
                             patterns if len(np.unique(patterns)) > 1 else None, least)


def _effects(study):
  """Average effects of the training rows, by what nuisances see."""
  p, rows = study.p, study.rows["train"]
  patient, t, y = p.cohort.patient_id[rows], p.treatment[rows], p.outcome[rows].astype(float)
  # difference of the arms' means, as the mean of influences
  share = t.mean()
  arms = [y[t == arm].mean() for arm in (0, 1)]
  naive = value.mean(arms[1] - arms[0] + t / share * (y - arms[1])
                     - (1 - t) / (1 - share) * (y - arms[0]), patient)
  delta, judged = {}, {}
  for kind, scored in study.by_kind.items():
    judged[kind] = scored.weight > 0
    gamma0, gamma1 = weighted(scored, judged[kind])
    delta[kind] = gamma1 - gamma0
  found = {"naive": naive, "true": None, "pattern": None, "gains": {}, "leak": None,
           "levels": [{"level": LEVELS[kind][0], "assumption": LEVELS[kind][1],
                       "ate": value.mean(d, patient[judged[kind]])} for kind, d in delta.items()]}
  if p.truth:
    found["true"] = value.mean(p.effect[rows], patient)
  usable = judged["x"]
  gain = lambda base, more: diagnostics.gains(
      t[usable], y[usable], *({name: v[usable] for name, v in
                               study.by_kind[kind].nuisances._asdict().items()}
                              for kind in (base, more)), patient[usable],
      p.outcome_kind == "binary" and study.config.policy.outcome_loss == "auto")
  if "x+pattern" in delta and (judged["x+pattern"] == usable).all():
    found["pattern"] = {"with": value.mean(delta["x+pattern"], patient[usable]),
                        "without": value.mean(delta["x"], patient[usable]),
                        "difference": value.mean(delta["x+pattern"] - delta["x"], patient[usable])}
    found["gains"]["pattern"] = gain("x", "x+pattern")
  found["gains"]["phi"] = gain("x", "x+phi")
  found["leak"] = diagnostics.leaking(found["gains"]["phi"])
  return found


def _truth(study, rows, ranked, estimates, pis):
  p = study.p
  mu0, mu1, tau = p.truth["mu0"][rows], p.truth["mu1"][rows], p.effect[rows]
  benefit = policies.priority(tau, p.higher_is_better)
  coarse = p.truth["tau_phi"][rows] if "tau_phi" in p.truth else None
  found = {}
  for name, priority in ranked.items():
    found[name] = {**value.rate(priority, benefit), "budgets": [
        {"budget": q, "value": value.true_value(pi, mu0, mu1),
         "regret": value.regret(pi, pis["oracle"][q], benefit)} for q, pi in pis[name].items()]}
    if name in estimates and name not in ORACLES:
      found[name] |= value.errors(estimates[name], tau, coarse)
  return found


def _coarsening(study, rows, found, teacher, patient, least, seed):
  """Of the truth where it is known; else beside a teacher, on annotated rows."""
  signed = lambda v: policies.priority(v, study.p.higher_is_better)
  if study.p.truth:
    coarse = study.p.truth["tau_phi"][rows] if "tau_phi" in study.p.truth else found["aace"]
    return diagnostics.coarsening(signed(study.p.effect[rows]), signed(coarse), patient,
                                  least=least, seed=seed)
  known = ~np.isnan(teacher)
  return diagnostics.taught(signed(found["aace"][known]), signed(teacher[known]), patient[known],
                            least=least, seed=seed)


def _decomposition(study, rows, found):
  truth = study.p.truth
  if "tau_phi" not in truth:
    return None
  variance = truth["tau_phi_var"][rows] if "tau_phi_var" in truth else None
  return diagnostics.decomposition(found["aace"], study.p.effect[rows], truth["tau_phi"][rows],
                                   variance)


def _sensitivity(study, rows, pis, budget, judged, patient, seed):
  p, c = study.p, study.config.policy
  e = np.clip(study.test.nuisances.e[judged], c.clip, 1 - c.clip)
  return [{"first": "aace", "second": name, "budget": budget, **sensitivity.study(
      pis["aace"][budget], other, p.treatment[rows], p.outcome[rows].astype(float), e,
      [float(g) for g in c.gammas], patient, seed=seed)}
          for name, other in (("none", 0.0), ("risk", pis["risk"][budget]))]


def _correction(correction):
  if correction is None:
    return None
  return {"applied": bool(correction.applied), "gain": float(correction.gain),
          "se": float(correction.se)}


def _assumptions(study, metrics):
  """[{assumption, checked}], from the metrics."""
  p, effects = study.p, metrics["effects"]
  number = lambda entry: f"{entry['value']:+.3f} [{entry['lo']:+.3f}, {entry['hi']:+.3f}]"
  overlap = metrics["overlap"]
  moved = ("with minus without the pattern, the average effect changes by "
           f"{number(effects['pattern']['difference'])}" if effects["pattern"] else
           "one pattern, or the study's nuisances leave it out")
  gaps = float(np.isnan(p.annotations[p.annotated]).mean())
  correction = metrics["correction"]
  return [
      {"assumption": "consistency: the outcome is that of the treatment received, of which there "
                     "is one version, and nobody's treatment moves another's outcome",
       "checked": "not from these data"},
      {"assumption": "treatment is as good as random given the annotations (and the pattern)",
       "checked": "cannot be checked; how strong an unmeasured confounder must be is under "
                  "sensitivity" if not p.randomised else "the treatment was randomised"},
      {"assumption": "the pattern of what exists is no confounder, or nuisances see it",
       "checked": moved},
      {"assumption": "unrecorded annotations moved nobody's treatment: clinicians acted on what "
                     "was recorded",
       "checked": f"{gaps:.1%} of the annotations are missing in annotated rows"
                  + (f"; not seen by nuisances, too often missing: {', '.join(study.dropped)}"
                     if study.dropped else "")},
      {"assumption": "who was annotated does not depend on the annotations, given phi, treatment, "
                     "outcome and pattern",
       "checked": f"{1 - p.annotated.mean():.1%} of the rows are not annotated; policy.sampling is "
                  f"'{study.config.policy.sampling}'"},
      {"assumption": "overlap: everyone could have been treated, and not treated",
       "checked": f"{overlap['clipped']:.1%} of the propensities are clipped"},
      {"assumption": "phi and the annotations were fixed before the treatment",
       "checked": "by the times of every row" if p.times else
                  p.info.get("time_zero", "nobody has said")},
      {"assumption": "phi adds nothing on the treatment, or nothing on the outcome, to the "
                     "annotations",
       "checked": effects["leak"] or "not both gains are clear of 0"},
      {"assumption": "effects of a pattern are what the model of all patterns says",
       "checked": "not corrected by pattern" if correction is None else
                  f"correction by pattern {'' if correction['applied'] else 'not '}applied: gain "
                  f"{correction['gain']:.4f}, standard error {correction['se']:.4f}"}]


def _limits(study):
  said = ["Values and rankings are of test rows divided by patient from the training rows, of the "
          "same place and time."]
  if study.config.policy.folds == 1:
    said.append("The paper's way: scores are of the rows that the nuisances were fitted on, so "
                "their errors are too small.")
  if study.config.policy.trim:
    said.append("Rows of extreme propensity are left out, so nothing is said about them.")
  if (study.test.weight == 0).any():
    said.append("Test rows without a score are left out: nothing is said about them.")
  return said
