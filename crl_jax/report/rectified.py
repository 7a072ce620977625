"""The page of `python -m crl_jax.rectify`: what changed, for whom, how sure."""

from crl_jax.report import page, tables

_WORDS = {"none": "leaving the probabilities as they are",
          "intercept": "one shift of the log-odds for all",
          "platt": "a shift and a stretch of the log-odds (Platt)",
          "modalities": "a shift, a stretch and a term for each modality that was recorded",
          "patterns": "a shift, a stretch and shrunken terms for modalities and patterns"}


def said(facts):
  """Sentences on what serve.rectify.rectify found."""
  level, new = facts["level"], facts["new"]
  found = [f"Most weight for '{facts['probability']}' of '{facts['outcome']}' "
           f"({facts['levels'][level]:.0%}): {_WORDS[level]}."]
  if facts["patients"] < facts["few"]:
    found.append(f"{facts['patients']} labelled patients: below {facts['few']} nothing but one "
                 f"shift is tried, and nothing at all with fewer than {facts['fewest']} patients "
                 "with the outcome or without it.")
  for name, words in (("log_loss", "log-loss"), ("brier", "Brier score")) if facts["gain"] else ():
    found.append(f"Expected gain in {words} (patients who had no part in their own correction): "
                 f"{tables.interval_text(facts['gain'][name], '+.4f')}"
                 f"{_sure(facts['gain'][name])}.")
  if not facts["gain"]:
    found.append(f"Fewer than {facts['min_cell']} patients with the outcome or without it: no gain "
                 "is told.")
  found.append(f"{new['changed']} of {new['rows']} new rows changed; mean "
               f"{tables.number(new['before'])} before, {tables.number(new['after'])} after; "
               f"{new['unseen']} have a pattern that no calibration row has.")
  return found


def _sure(gain):
  if gain["lo"] == gain["hi"]:
    return ""
  return (": beyond doubt" if gain["lo"] > 0 else ": a loss" if gain["hi"] < 0 else
          ": it may be chance, the interval holds 0")


def write(path, facts):
  """Writes the page.

  Args:
    path: the file.
    facts: of serve.rectify.rectify.
  """
  new, cell = facts["new"], lambda row, key: tables.number(row.get(key))
  parts = [
      dict(title="What changed",
           heads=["labelled patients", "labelled rows", "new rows", "changed"],
           lines=[[facts["patients"], facts["rows"], new["rows"], new["changed"]]],
           figure=None, said=said(facts)),
      dict(title="For whom",
           heads=["pattern", "labelled rows", "outcome rate", "predicted before", "after"],
           lines=[[row["name"], row["n"], tables.interval_text(row["rate"]) if row["told"] else "-",
                   cell(row, "before"), cell(row, "after")] for row in facts["groups"]],
           figure=None, said=[
               "After: each patient corrected by what patients of other folds say. A dash: fewer "
               f"than {facts['min_cell']} patients with the outcome or without it, here or in a "
               "group that could be told from this one."]),
      dict(title="How sure",
           heads=["level", "strength", "weight", "expected gain in log-loss [95%]"],
           lines=[[row["level"], tables.number(row["strength"], "g"),
                   tables.number(row["weight"], ".0%"), tables.interval_text(dict(
                       value=row["gain"], lo=row["gain"] - 1.96 * row["se"],
                       hi=row["gain"] + 1.96 * row["se"]), "+.4f")] for row in facts["tried"]],
           figure=None, said=[
               "Levels and strengths are averaged by these weights: exp of the gain over all "
               "patients, times a prior that halves with each level. That flatters the gains "
               "here; the one told at the top is of weights that were chosen without a patient's "
               "fold. Neither knows of another hospital or year than the calibration rows'."])]
  page.write_tables(path, f"Rectified: {facts['probability']}", [],
                    [part for part in parts if part["lines"]])
