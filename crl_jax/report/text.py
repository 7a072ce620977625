"""What a run's facts allow one to say, in sentences: the question, the findings, what may be
concluded and what not. The report and the model card share them."""

from crl_jax.report import tables
from crl_jax.statistics import roles

PAPER = ("PAPER PROTOCOL. Inputs hold everything recorded up to discharge and may contain the "
         "outcome itself (a discharge summary states a death). These numbers are for comparison "
         "with the literature; they are not what a clinician at the bedside could have had.")


def question(tasks, data):
  """One sentence."""
  modalities = listed(data.get("modalities", [])) or "the modalities at hand"
  return (f"How well are {listed(tasks)} predicted from {modalities}, when which of them were "
          "recorded is itself a clinical decision, and what does a correction by pattern change?")


def findings(metrics, rectifier):
  """Sentences on what was found, per task, each with its interval."""
  said = []
  for task, entry in metrics[roles.lead(metrics).key].items():
    auroc = entry["auroc"]
    if auroc["value"] is None:
      said.append(f"{task}: the AUROC cannot be computed ({auroc['reason']}).")
      continue
    text = f"{task}: AUROC {tables.interval_text(auroc)} on {entry['n']} test rows"
    rival = best_yardstick(metrics, task, "auroc")
    if rival:
      name, difference = rival
      text += (f", {_compared(difference)} the best yardstick ({name}; "
               f"{tables.interval_text(difference, '+.3f')})")
    said += [text + ".", *_headline(metrics, task), *_beside_ranking(metrics, task)]
    brier = metrics["differences"][roles.GAIN.key][task]["brier"]
    if brier["value"] is not None:
      change = tables.interval_text(brier, "+.4f")
      said.append(f"{task}: the rectifier {_changed(brier)} the Brier score ({change}). "
                  f"{tables.threshold(rectifier, task)}".rstrip())
  informative = metrics.get("informative")
  return said + ([f"Missingness: {informative['sentence']}"] if informative else [])


def _headline(metrics, task):
  """A sentence on what the headline is; none of a run without."""
  if not (found := metrics.get("headline")):
    return []
  mine = found[task]
  members = sum(mine["chosen"].values())
  stack = mine["chosen"].get("stack", 0)
  what = ("the method alone, calibrated" if not stack else
          f"its stack with yardsticks ({weights(mine)}), calibrated")
  if 0 < stack < members:
    what += f", in {stack} of {members} members, else the method alone, calibrated"
  alone = tables.interval_text(metrics["test"][task]["auroc"])
  return [f"{task}: this headline is {what}: the lower log-loss on calibration patients. The "
          f"method alone: AUROC {alone}."]


def weights(mine):
  """'method 0.29, logistic reg. 0.50, boosting 0.21' of a task of metrics["headline"], the mean
  over members."""
  label = {role.prefix[len("p_"):-1]: role.label for role in roles.YARDSTICKS}
  return ", ".join(f"{label.get(part, part)} {tables.number(w, '.2f')}"
                   for part, w in mine["weights"].items())


def may_conclude(metrics, data, config):
  """Sentences on what the design supports."""
  tasks = listed(list(metrics["test"]))
  said = [f"How well {tasks} are ranked, and whether probabilities can be taken at their word, for "
          "patients of this cohort that the model did not see: no test row had a part in training, "
          "early stopping, thresholds or its own correction."]
  if config["data"]["cohort"] == "saved":   # nobody can read this off arrays
    said.append("What could have been known, if the maker of this saved cohort ensured it: that "
                "nothing recorded at or after a row's prediction time is an input, the pattern of "
                "missing modalities included. crl_jax cannot check it.")
  elif config["data"]["protocol"] == "honest":
    said.append("What could have been known: a row is a patient at a prediction time, and nothing "
                "recorded at or after it is an input, the pattern of missing modalities included.")
  said.append("Whether this model and a yardstick differ: they share rows and resamples. Of two "
              "that are equal about 5% of the intervals leave out 0 by chance, so among many "
              "comparisons some do; Holm's p-values allow for that.")
  if data.get("truth"):
    said.append("How far the model is from the best possible predictor, which is known here "
                "because the cohort is simulated.")
  return said


def may_not_conclude(metrics, data, config):
  """Sentences on what it does not support."""
  said = []
  if data.get("banner"):
    said.append("Anything about patients: the cohort is simulated.")
  if config["data"]["protocol"] == "paper":
    said.append("That these predictions were possible when they would have been needed: inputs "
                "reach up to discharge.")
  said += ["That ordering an examination changes an outcome. Gamma is what the model leaves of a "
           "pattern's outcome rate; it is a direct effect only if the representation holds all of "
           "the health that drove both the order and the outcome, which no data can show.",
           "That it holds elsewhere: folds divide patients, not hospitals or years.",
           *([] if any(metrics["fairness"]["tasks"].values()) else [
               "That it holds for every kind of patient: the cohort names no groups (sex, age, "
               "ethnicity, hospital)."]),
           "That two predictors are equal where the interval of their difference holds 0: it may "
           "hold every difference that matters."]
  few = [task for task, entry in metrics["test"].items()
         if min(entry["positives"], entry["n"] - entry["positives"]) < 200]
  if few:
    said.append(f"Small differences in {listed(few)}: with fewer than 200 rows of the rarer class "
                "an AUROC is uncertain by some hundredths.")
  if config["members"]["folds"] * config["members"]["seeds"] == 1:
    said.append("How much another initialisation or split would change: one member was trained.")
  return said


def listed(names):
  """'a, b and c'."""
  names = list(names)
  return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names \
      else ""


def _beside_ranking(metrics, task):
  """Sentences on what the AUROC does not see, where an interval leaves out the neutral value."""
  said = []
  for metric, name in (("auprc", "AUPRC"), ("brier", "Brier score")):
    rival = best_yardstick(metrics, task, metric)
    if rival and (verdict := _compared(rival[1], metric)) in ("better than", "worse than"):
      said.append(f"{verdict} the best yardstick in {name} ({rival[0]}; "
                  f"{tables.interval_text(rival[1], '+.3f')})")
  said = [f"{task}: " + ", and ".join(said) + "."] if said else []
  slope = metrics[roles.lead(metrics).key][task]["slope"]
  if slope["lo"] is not None and not slope["lo"] <= 1 <= slope["hi"]:
    far = ("too extreme (high ones too high, low ones too low)" if slope["hi"] < 1 else
           "too timid (high ones too low, low ones too high)")
    said.append(f"{task}: its probabilities are {far}: calibration slope "
                f"{tables.interval_text(slope)}, where 1 is ideal.")
  return said


def best_yardstick(metrics, task, metric):
  """(label, difference, the headline minus it) of the yardstick that is best by `metric`."""
  found = []
  for pair in [pair for pair in roles.DIFFERENCES if pair.first is roles.lead(metrics)
               and pair.second in roles.YARDSTICKS and pair.key in metrics["differences"]]:
    difference = metrics["differences"][pair.key][task][metric]
    if difference["value"] is not None:
      value = metrics[pair.second.key][task][metric]["value"]
      found.append((-value if metric == "brier" else value, pair.second.label, difference))
  return max(found, key=lambda f: f[0])[1:] if found else None


def yardsticks(found):
  """[(yardstick, task), what was chosen] of metrics["yardsticks"], and which are absent; none of a
  run without."""
  if not found:
    return []
  label = {role.prefix[len("p_"):-1]: role.label for role in roles.YARDSTICKS}
  words = lambda settings: "nothing to fit" if settings is None else ", ".join(
      f"{key} {value}" for key, value in settings.items())
  lines = [(f"{label[name]}: {task}", "; ".join(map(words, folds)))
           for name, tasks in found["chosen"].items() for task, folds in tasks.items()]
  return lines + [(label[name], "not installed here (the extra 'rivals')")
                  for name in found["absent"]]


def share_left(entry):
  """What share of a pattern's effect is left (informative.study's "share"), in a sentence."""
  if entry["value"] is None:
    return f"What share of it is left cannot be said: {entry['reason']}."
  return f"{tables.interval_text(entry, '.0%')} of it is left."


def _compared(difference, metric="auroc"):
  if difference["lo"] is None:
    return "beside"
  higher, lower = "better than", "worse than"
  if metric == "brier":
    higher, lower = lower, higher
  return (higher if difference["lo"] > 0 else lower if difference["hi"] < 0
          else "not distinguishable from")


def _changed(difference):
  if difference["value"] == 0 and difference["lo"] == difference["hi"] == 0:
    return "leaves"
  if difference["lo"] is None:
    return "changes"
  return ("improves" if difference["hi"] < 0 else "worsens" if difference["lo"] > 0
          else "does not demonstrably change")
