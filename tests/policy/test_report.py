"""The page of a study of policies: what it says, from metrics alone, by rule; and of nobody."""

import collections
import copy
import html
import json
import re

import numpy as np
import pytest

from crl_jax import files
from crl_jax.policy import conclusions, diagnostics, report, sensitivity, value
from crl_jax.report import tables

HOSTILE = "<script>alert('x')</script> $\\frac{$"
FORMS = ".3f", "+.3f", "+.4f"
FIRST = 7_340_000   # of the patients' ids, which no page may hold


def study(groups=True, truth=True, patterns=True):
  """Metrics of 600 rows of 400 patients, by the functions that make them; lower outcomes are
  better. The pattern "rare" has one treated patient."""
  rng, n = np.random.default_rng(0), 600
  patient = FIRST + rng.integers(400, size=n)
  x, noise = rng.normal(size=n), rng.normal(size=n)
  pattern = rng.choice(["text", "all", "rare"], n, p=(0.45, 0.45, 0.1))
  e = np.clip(1 / (1 + np.exp(-x)), 0.05, 0.95)
  treatment = (rng.random(n) < e) * 1.0
  rare = np.flatnonzero(pattern == "rare")
  treatment[rare], e[rare] = 0, 0.05
  treatment[rare[0]] = 1
  mu0, mu1 = x, x - 1.5 * noise
  outcome = np.where(treatment > 0, mu1, mu0) + 0.3 * rng.normal(size=n)
  gamma1 = mu1 + treatment * (outcome - mu1) / e
  gamma0 = mu0 + (1 - treatment) * (outcome - mu0) / (1 - e)
  delta, benefit = gamma1 - gamma0, -(gamma1 - gamma0)
  priorities = {"aace": noise + 0.1 * rng.normal(size=n), "risk": x,
                "plugin": rng.normal(size=n), "t_learner": rng.normal(size=n)}
  top = lambda score, q: (score > np.quantile(score, 1 - q)) * 1.0
  pis = {name: {q: top(score, q) for q in (0.2, 0.5)} for name, score in priorities.items()}
  pis["all"] = {None: np.ones(n)}
  at = dict(pi=pis["aace"][0.2], patient=patient)
  mean = lambda psi: value.mean(psi, patient)
  nuisance, flat = dict(e=e, mu0=mu0, mu1=mu1), dict(e=e, mu0=mu0 * 0, mu1=mu1 * 0)
  sex = rng.choice(["female", "male", "unknown"], n, p=(0.5, 0.49, 0.01))
  group = lambda level: value.by_group(level, patient, treatment, at["pi"], priorities["aace"],
                                       delta, 10)
  found = dict(
      title="simsum: AACE", banner="SIMULATED COHORT", warnings=["nobody has said when", "4 rows repeat"],
      question="Whom first?", min_cell=10,
      design=dict(time_zero="At the visit.", treatment="Antibiotics.", outcome="Days at home.",
                  estimand=None, landmark="Stays to t0 + 6 h.", rows=n, patients=400, treated=300,
                  annotated=n, test_rows=n, higher_is_better=False, randomised=False,
                  attrition=[dict(step="too young", removed=12, left=610),
                             dict(step="no note", removed=3, left=607),
                             dict(step="before", removed=7, left=n)],
                  arms=[dict(step="left", treated=30, untreated=55),
                        dict(step="died", treated=73, untreated=4)]),
      assumptions=[dict(assumption="Consistency.", checked="Not checkable.")],
      overlap=diagnostics.overlap(
          e, treatment, {0.01: delta, 0.1: delta}, patient, x[:, None], ("severity",), 0.01,
          pattern if patterns else np.full(n, "all")),
      effects=dict(naive=mean(outcome), true=mean(mu1 - mu0) if truth else None,
                   levels=[dict(level="1", assumption="The pattern confounds.", ate=mean(delta))],
                   pattern={"with": mean(delta), "without": mean(delta + 0.1 * x),
                            "difference": mean(-0.1 * x)},
                   gains={"pattern": diagnostics.gains(treatment, outcome, flat, nuisance,
                                                       patient)},
                   leak="phi tells of both."),
      policies=value.study(priorities, pis, gamma0, gamma1, benefit, patient,
                           [("aace", "risk"), ("plugin", "risk")], halves=60),
      calibration={"aace": value.calibration(-1.5 * noise, delta, patient)},
      estimators=[dict(policy="aace", budget=0.2, **value.estimators(
          at["pi"], treatment, outcome, e, mu0, mu1, gamma0, gamma1, patient, 0.01))],
      beside=diagnostics.beside(priorities, pis, [("aace", "risk")], {"risk": x}, patient),
      risk_benefit=value.risk_benefit(x, benefit, patient),
      recoverability=diagnostics.recoverability(
          ("a", "b"), np.stack([noise > 0, x], 1), {
              "all": np.stack([1 / (1 + np.exp(-noise)), x + noise], 1),
              "permuted": rng.random((n, 2))}, patient, resamples=40),
      coarsening=diagnostics.taught(-noise, -1.5 * noise + 0.3 * x, patient, resamples=40),
      sensitivity=[dict(first="aace", second="none", budget=0.2, **sensitivity.study(
          at["pi"], 0.0, treatment, outcome, e, (1, 1.2, 1.5), patient, resamples=40))],
      more=[dict(title="By window", heads=["hours", "effect"], lines=[["3", "-0.25"]],
                 said=["Shorter windows have fewer treated."])],
      limits=["One simulated world."])
  if truth:
    found |= dict(truth={name: {**value.rate(score, -(mu1 - mu0)), "budgets": [
        dict(budget=0.2, value=value.true_value(pis[name][0.2], mu0, mu1),
             regret=value.regret(pis[name][0.2], top(mu0 - mu1, 0.2), mu0 - mu1))]}
                         for name, score in priorities.items()})
    found["truth"]["aace"] |= value.errors(-1.5 * noise, mu1 - mu0)
    found["decomposition"] = diagnostics.decomposition(-noise, mu1 - mu0, -1.5 * noise)
  if patterns:
    found["patterns"] = group(pattern)
  if groups:
    found |= dict(groups={"sex": group(sex)}, fairness={
        "sex": value.fairness(sex, patient, at["pi"], priorities["aace"], 10, permutations=20)})
  return json.loads(json.dumps(found, allow_nan=False))   # as it is read back


@pytest.fixture(scope="module")
def metrics():
  return study()


@pytest.fixture
def page(tmp_path):
  def run(metrics):
    report.write(tmp_path / "report.html", metrics)
    return (tmp_path / "report.html").read_text(encoding="utf-8")
  return run


def entries(tree):
  """Every {"value", "lo", "hi"} of nested metrics."""
  if isinstance(tree, dict):
    if {"value", "lo", "hi"} <= set(tree) and not isinstance(tree["value"], list):
      yield tree
    for part in tree.values():
      yield from entries(part)
  elif isinstance(tree, list):
    for part in tree:
      yield from entries(part)


def test_every_interval_of_the_metrics_is_on_the_page(metrics, page):
  text = html.unescape(page(metrics))
  known = [entry for entry in entries(metrics) if entry["value"] is not None]
  assert len(known) > 80
  shown = lambda entry: sum(text.count(tables.interval_text(dict(zip(("value", "lo", "hi"), entry)),
                                                            form)) for form in FORMS)
  times = collections.Counter((entry["value"], entry["lo"], entry["hi"]) for entry in known)
  assert [entry for entry, count in times.items() if shown(entry) < count] == []
  for words in ("SIMULATED COHORT", "nobody has said when", "At the visit.", "too young",
                "Consistency.", "One simulated world.", "Treatment policies", "lower outcomes",
                "By window", "Shorter windows"):
    assert words in text, words
  lines = metrics["sensitivity"][0]["bounds"]
  assert all(f"[{b['lower']:+.3f}, {b['upper']:+.3f}]" in text for b in lines)
  truth = metrics["truth"]["aace"]
  assert all(f"<td class=\"value\">{truth[key]:.3f}</td>" in text for key in ("autoc", "pehe"))
  risk = re.search(r'>risk</th>\s*<td[^>]*>[\d.-]+</td>\s*<td[^>]*>[\d.-]+</td>\s*'
                   r'<td[^>]*>-</td>', text)
  assert risk   # which has no PEHE


def test_is_self_contained_of_no_patient_and_the_same_again(metrics, page):
  text = page(metrics)
  assert not re.search(r"https?:|<script|<link|<img|@import|src=| on\w+=", text)
  assert not {w for w in re.findall(r"\d+", text) if len(w) == 7 and w.startswith("734")}
  ids = re.findall(r'\bid="([^"]+)"', text)
  assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
  assert "None<" not in text and "nan" not in re.findall(r">(\w+)<", text)
  assert text == page(metrics)
  svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
  assert len(svgs) == 12 and all("<title>" in svg for svg in svgs)
  assert max(map(len, svgs)) < 60_000


def test_small_numbers_are_withheld(metrics, page):
  """One treated patient in the pattern "rare": its numbers, and those that would give it away."""
  text = page(metrics)
  rare = re.search(r"<th[^>]*>rare \(extrapolation\)</th>(.*?)</tr>", text, re.DOTALL)[1]
  assert re.findall(r">([^<\n]+)</td>", rare)[2:] == ["-"] * 5
  assert "No number: fewer than 10 patients with the outcome or without it" in text
  assert "unknown" not in re.sub("Sensitivity to an unmeasured.*", "", text)   # six rows of sex
  died = re.search(r"<th[^>]*>died</th>(.*?)</tr>", text, re.DOTALL)[1]
  assert re.findall(r">([^<\n]+)</td>", died) == ["-", "-"] and "73" not in died
  assert "Withheld where an arm has fewer than 10." in text
  assert "no note; before</th>" in text and "< 10 rows repeat" in html.unescape(text)


def test_without_truth_groups_or_patterns(page):
  bare = study(groups=False, truth=False, patterns=False)
  text = page({**bare, "banner": None})
  assert "Beside the truth" not in text and "By pattern" not in text and "By sex" not in text
  assert "SIMULATED" not in text and "are simulated" not in text
  assert "the study names no groups" in text and "Overlap by pattern" in text
  minimal = page({"title": "nothing but a title"})
  assert "What may be concluded" in minimal and "<svg" not in minimal
  for key in set(bare) - {"title"}:   # any part may be absent
    page({name: part for name, part in bare.items() if name != key})


def test_conclusions_by_rule(metrics):
  may, may_not = ("\n".join(f(metrics)) for f in (conclusions.may_conclude,
                                                  conclusions.may_not_conclude))
  autoc = {name: entry["autoc"] for name, entry in metrics["policies"]["policies"].items()
           if "autoc" in entry}
  assert autoc["aace"]["p_holm"] < 0.05 < autoc["plugin"]["p_holm"]
  assert "AACE ranks better than random" in may and "plug-in on phi ranks" not in may
  assert "That plug-in on phi ranks better than random" in may_not
  assert "AACE ranks better than risk" in may
  assert "That plug-in on phi ranks better than risk, or that they are equal" in may_not
  assert "AACE at 20%: the mean outcome differs" in may and "T-learner at" not in may
  assert "simulated" in may_not and "landmark" in may_not and "rare, where one arm" in may_not
  gamma = metrics["sensitivity"][0]["breakdown"]
  assert f"by a factor of {gamma:.2f} would undo" in may_not


@pytest.mark.parametrize("p, p_holm, said", [(0.04, 0.06, False), (0.04, 0.049, True),
                                             (0.2, None, False)])
def test_better_than_random_is_after_holm(metrics, p, p_holm, said):
  changed = copy.deepcopy(metrics)
  changed["policies"]["policies"]["plugin"]["autoc"] |= dict(p=p, p_holm=p_holm)
  assert any(text.startswith("plug-in on phi ranks better than random")
             for text in conclusions.may_conclude(changed)) == said
  assert any(text.startswith("That plug-in on phi ranks better than random")
             for text in conclusions.may_not_conclude(changed)) != said


@pytest.mark.parametrize("lo, said", [(0.001, True), (-0.001, False), (None, False)])
def test_better_than_risk_is_by_the_paired_difference(metrics, lo, said):
  changed = copy.deepcopy(metrics)
  changed["policies"]["differences"][1]["autoc"] |= dict(value=0.1, lo=lo, hi=0.2)
  assert any(text.startswith("plug-in on phi ranks better than risk")
             for text in conclusions.may_conclude(changed)) == said


def test_no_page_says_what_to_do(metrics, page):
  assert "should be treated" not in page(metrics)
  randomised = copy.deepcopy(metrics)
  randomised["design"] |= dict(randomised=True, higher_is_better=True)
  text = page(randomised)
  assert "whatever was not measured" not in text and "higher outcomes are better" in text


def test_hostile_words_are_escaped(metrics, page):
  changed = json.loads(json.dumps(metrics).replace("severity", "S").replace("female", "F"))
  changed |= dict(title=HOSTILE, banner=HOSTILE, warnings=[HOSTILE], limits=[HOSTILE])
  changed["design"]["time_zero"] = changed["overlap"]["standardised"][0]["name"] = HOSTILE
  changed["groups"] = {HOSTILE: changed["groups"]["sex"]}
  text = page(changed)
  assert "<script" not in text and "&lt;script&gt;" in text


def test_a_finished_study_is_reported_again(metrics, page, tmp_path):
  text = page(metrics)
  files.write_json(tmp_path / "metrics.json", metrics)
  (tmp_path / "report.html").unlink()
  report.rebuild(tmp_path)
  assert (tmp_path / "report.html").read_text(encoding="utf-8") == text
