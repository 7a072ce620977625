"""What the metrics of a study of treatment policies allow one to say, and what not, in sentences.

metrics is what report.py describes.
"""

from crl_jax.report import tables

LABELS = {"aace": "AACE", "risk": "risk", "plugin": "plug-in on phi", "t_learner": "T-learner",
          "tarnet": "TARNet", "dragonnet": "DragonNet", "dr_x": "DR on X", "oracle": "oracle",
          "oracle_risk": "oracle risk", "all": "everyone", "none": "nobody", "random": "random",
          "observed": "as observed", "treated": "treated", "untreated": "untreated"}
LEVEL = 0.05   # of the test that a priority ranks better than chance, after Holm's correction


def may_conclude(metrics):
  """Sentences that the metrics support, by rule: a priority ranks better than random where its
  one-sided AUTOC test, after Holm's correction over the policies, is below 5%; better than risk
  where the paired difference of their AUTOCs leaves out 0; of another value than a random choice
  where that test, corrected over policies and budgets, is below 5%."""
  said = []
  for name, entry in ranked(metrics):
    if _sure(entry["autoc"]):
      said.append(f"{label(name)} ranks better than random: AUTOC "
                  f"{tables.interval_text(entry['autoc'])}, one-sided p after Holm "
                  f"{tables.p_text(entry['autoc']['p_holm'])}.")
  for found in _against_risk(metrics):
    if _clear(found["autoc"]):
      said.append(f"{label(found['first'])} ranks better than risk: paired difference of the AUTOC "
                  f"{tables.interval_text(found['autoc'], '+.3f')}.")
  for name, entry in (metrics.get("policies") or {"policies": {}})["policies"].items():
    for at in entry["budgets"]:
      if _sure(at["over_random"]):
        said.append(f"{label(name)} at {at['budget']:.0%}: the mean outcome differs from that of a "
                    f"random {at['budget']:.0%} by "
                    f"{tables.interval_text(at['over_random'], '+.3f')} ({direction(metrics)}).")
  if metrics.get("truth"):
    said.append("How far each policy is from the best possible one, which is known here because "
                "treatment and outcome are simulated.")
  return said or ["Nothing of these policies beside random ones: no test is below the level."]


def may_not_conclude(metrics):
  """Sentences on what the metrics do not support."""
  design, said = metrics.get("design") or {}, []
  if metrics.get("banner"):
    said.append("Anything about patients' treatment: treatment and outcome, if not all of it, are "
                "simulated.")
  said.append("What to do for any one patient: a priority orders patients when not all can have a "
              "treatment, on average over many; it is no advice.")
  for name, entry in ranked(metrics):
    if not _sure(entry["autoc"]):
      said.append(f"That {label(name)} ranks better than random: AUTOC "
                  f"{tables.interval_text(entry['autoc'])}, one-sided p after Holm "
                  f"{tables.p_text(entry['autoc']['p_holm'])}.")
  for found in _against_risk(metrics):
    if not _clear(found["autoc"]):
      said.append(f"That {label(found['first'])} ranks better than risk, or that they are equal: "
                  "the paired difference of the AUTOC is "
                  f"{tables.interval_text(found['autoc'], '+.3f')}.")
  if not design.get("randomised"):
    said.append("That effects are causal whatever was not measured: no data show that the "
                "confounders are all there." + _strength(metrics))
  if design.get("landmark"):
    said.append("Anything about patients who did not reach the landmark.")
  named = [line["group"] for line in (metrics.get("overlap") or {}).get("patterns", ())
           if line["extrapolation"]]
  if named:
    said.append(f"Effects in {', '.join(named)}, where one arm is (nearly) absent: they are taken "
                "from other patterns.")
  if "r2" in (metrics.get("coarsening") or {}):
    said.append("How much is truly lost by seeing only phi: it is told relative to a teacher, who "
                "inherits that nothing unmeasured confounds.")
  if not metrics.get("groups"):
    said.append("That it holds for every kind of patient: the study names no groups.")
  said.append("That it holds elsewhere: rows are divided by patient, not by hospital or year.")
  return said


def ranked(metrics):
  """[(name, entry)] of the policies whose ranking was tested."""
  policies = (metrics.get("policies") or {"policies": {}})["policies"]
  return [(name, entry) for name, entry in policies.items() if "autoc" in entry]


def _sure(entry):
  """Whether a test stays below the level after Holm's correction; constants have none."""
  return entry.get("p_holm") is not None and entry["p_holm"] < LEVEL


def _against_risk(metrics):
  return [found for found in (metrics.get("policies") or {"differences": ()})["differences"]
          if found["second"] == "risk"]


def _clear(entry):
  return entry["lo"] is not None and entry["lo"] > 0


def _strength(metrics):
  """How strong an unmeasured confounder would have to be, in words."""
  said = []
  for found in metrics.get("sensitivity") or ():
    gamma = found["breakdown"]
    said.append(f" {pair(found)}: " + (
        "the difference is undone by none that was considered." if gamma is None else
        f"one that changes the odds of treatment by a factor of {gamma:.2f} would undo the "
        "difference."))
  return "".join(said)


def label(name):
  """What a policy is called on the page."""
  return LABELS.get(name, name)


def pair(found):
  """'AACE and risk at 20%' of a comparison."""
  budget = found.get("budget")
  return f"{label(found['first'])} and {label(found['second'])}" + (
      "" if budget is None else f" at {budget:.0%}")


def direction(metrics):
  """Which outcomes are better, in words."""
  return ("higher outcomes are better" if (metrics.get("design") or {}).get("higher_is_better")
          else "lower outcomes are better")
