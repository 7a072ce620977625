"""Who of MIMIC-IV is included, the rows (a patient at a time), their outcomes, what was odd.

One hospital admission per patient: the first with an ICU stay. Times are minutes after that
admission, rounded down, so that a record counts as earlier than a row only if it is.

Donors of organs are admitted again after they have died. An admission that begins after the day of
patients.dod, or at or after the deathtime of another admission, is left out: it is no row, and
neither an earlier nor a later admission of another. Both are known only afterwards: nothing else
is made of them, but that nobody has a row after a death without a deathtime whose day is past.

Outcomes of a discharge: readmission is another admission that begins at it or within 30 days, ICU
admission an ICU stay of another admission that begins within 90 days; both undefined (NaN) for
those who died in hospital, and where the follow-up may reach past the end of the data. Dates are
shifted by whole years per patient; `anchor_year_group` says in which three years the patient's
anchor_year lay. A discharge is censored if, in the latest year it can have had, the days after it
cross the end of the last year of the data. The rule looks at nothing that happened afterwards:
undefined are positives and negatives alike.
"""

import numpy as np

KINDS = {0: "prediction hour", 1: "hospital discharge", 2: "whole admission"}   # digit of row_id
TASKS = ("readmission", "icu", "mortality")
DAY = 24 * 60
FOLLOW_UP = {"readmission": 30 * DAY, "icu": 90 * DAY}


def minute(time):
  """Minutes since 1970 of an ibis timestamp, rounded down."""
  return (time.epoch_seconds().cast("int64") / 60).floor().cast("int64")


def admission_table(t):
  """Returns one record per hospital admission with an ICU stay: who, when, what followed and came
  before. Times are minutes since 1970.

  Args:
    t: name -> ibis table of tables.SCHEMA.
  """
  import ibis

  p = t["patients"]
  p = p.mutate(day_of_death_end=minute(p.dod) + DAY)
  a = t["admissions"]
  a = a.select(
      "subject_id", "hadm_id", "race", "insurance", "language", "marital_status", "admission_type",
      "admission_location", "hospital_expire_flag", admit=minute(a.admittime),
      year=a.admittime.year(), hour=a.admittime.hour(), discharge=minute(a.dischtime),
      discharge_year=a.dischtime.year(), discharge_day=a.dischtime.day_of_year(),
      death=minute(a.deathtime), ed_in=minute(a.edregtime), ed_out=minute(a.edouttime))
  dead = a.filter(a.death.notnull()).select("subject_id", other_id="hadm_id", died="death")
  dead = a.inner_join(dead, "subject_id")
  dead = dead.filter(dead.hadm_id != dead.other_id, dead.died <= dead.admit).select("hadm_id")
  dead = ibis.union(dead, a.inner_join(p, "subject_id").filter(
      lambda x: x.day_of_death_end <= x.admit).select("hadm_id"), distinct=True)
  a = a.left_join(dead.mutate(dead_before=True), "hadm_id").drop("hadm_id_right")
  a = a.mutate(dead_before=a.dead_before.fill_null(False))
  icu = t["icustays"]
  icu = icu.select("subject_id", "hadm_id", "stay_id", "first_careunit", icu_in=minute(icu.intime),
                   icu_out=minute(icu.outtime))
  first = icu.group_by("hadm_id").agg(
      icu_stays=icu.stay_id.nunique(), icu_in=icu.icu_in.min(),
      unit=icu.first_careunit.argmin(icu.icu_in), icu_end=icu.icu_out.max())
  mine = a.inner_join(first, "hadm_id").inner_join(p, "subject_id")
  mine = mine.select(*a.columns, "icu_stays", "icu_in", "icu_end", "unit", "gender", "anchor_age",
                     "anchor_year", "anchor_year_group", "day_of_death_end")

  other = a.select(subject_id="subject_id", other_id="hadm_id", begin="admit", end="discharge",
                   unreal="dead_before")
  pair = mine.select("subject_id", "hadm_id", "admit", "discharge").inner_join(
      other, "subject_id")
  pair = pair.filter(pair.hadm_id != pair.other_id)
  real = ~pair.unreal
  later, before = real & (pair.begin >= pair.discharge), real & (pair.end <= pair.admit)
  context = pair.group_by("hadm_id").agg(
      unreal=pair.hadm_id.count(where=pair.unreal),
      next_admission=pair.begin.min(where=later), earlier=pair.hadm_id.count(where=before),
      earlier_year=pair.hadm_id.count(where=before & (pair.end > pair.admit - 365 * DAY)),
      last_end=pair.end.max(where=before),
      earlier_minutes=(pair.end - pair.begin).sum(where=before).cast("float64"),
      overlaps=pair.hadm_id.count(where=real & ~later & ~before))
  stay = icu.anti_join(dead, "hadm_id")
  stay = stay.select(subject_id="subject_id", other_id="hadm_id", begin="icu_in")
  pair = mine.select("subject_id", "hadm_id", "admit", "discharge").inner_join(stay, "subject_id")
  pair = pair.filter(pair.hadm_id != pair.other_id)
  context_icu = pair.group_by("hadm_id").agg(
      next_icu=pair.begin.min(where=pair.begin >= pair.discharge),
      earlier_icu=pair.hadm_id.count(where=pair.begin < pair.admit))
  mine = mine.left_join(context, "hadm_id").drop("hadm_id_right")
  mine = mine.left_join(context_icu, "hadm_id").drop("hadm_id_right")
  return mine.mutate(age=mine.anchor_age + mine.year - mine.anchor_year,
                     earlier=ibis.coalesce(mine.earlier, 0),
                     earlier_year=ibis.coalesce(mine.earlier_year, 0),
                     earlier_icu=ibis.coalesce(mine.earlier_icu, 0),
                     overlaps=ibis.coalesce(mine.overlaps, 0),
                     unreal=ibis.coalesce(mine.unreal, 0))


def select(about, c, for_prediction):
  """Returns (index admissions as a frame ordered by patient, attrition steps).

  Args:
    about: admission_table as a data frame.
    c: config.data.mimic.
    for_prediction: an unknown discharge excludes nobody.
  """
  about = about.sort_values(["subject_id", "admit", "hadm_id"], kind="stable", ignore_index=True)
  left = np.ones(len(about), bool)
  steps = [{"step": "hospital admissions with an ICU stay", "removed": 0, "left": len(about)}]

  def keep(step, mask):
    nonlocal left
    after = left & np.asarray(mask, bool)
    steps.append({"step": step, "removed": int(left.sum() - after.sum()), "left": int(after.sum())})
    left = after

  known = about["discharge"].notna()
  keep("age unknown", about["age"].notna())
  keep(f"younger than {c.min_age}", ~(about["age"] < c.min_age))
  keep("admission time, ICU time or hospital_expire_flag unknown",
       about["admit"].notna() & about["icu_in"].notna()
       & (about["hospital_expire_flag"].isin((0, 1)) | for_prediction))
  keep("begins after the patient's death", ~about["dead_before"].astype(bool))
  keep("discharge time unknown", known | for_prediction)
  keep("discharge at or before admission", (about["discharge"] > about["admit"]) | ~known)
  keep("ICU stay begins after the discharge", (about["icu_in"] < about["discharge"]) | ~known)
  first = ~about.loc[left, "subject_id"].duplicated()
  keep("not the patient's first admission with an ICU stay",
       left & np.isin(np.arange(len(about)), first.index[first]))
  if c.icu_stay == "single":
    keep("more than one ICU stay in the admission", about["icu_stays"] == 1)
  return about[left].reset_index(drop=True), steps


def rows(people, c, protocol, last_year, for_prediction):
  """Returns (rows, attrition steps): one record per row with row_id, kind, person (the index of the
  patient in `people`), time in minutes after admission, and a column per task.

  Args:
    people: the frame of select().
    c: config.data.mimic.
    protocol: "honest" | "paper".
    last_year: of the data (tables.last_year).
    for_prediction: outcomes may be unknown.
  """
  import pandas as pd

  stay = (people["discharge"] - people["admit"]).astype("float64")
  dead = people["hospital_expire_flag"].astype("float64")
  death, day_over = people[["death", "day_of_death_end"]].astype("float64").to_numpy().T
  death = np.where(np.isnan(death) & (dead == 1), day_over, death)
  end = np.fmin(stay, death - people["admit"].astype("float64"))
  labels = outcomes(people, last_year)
  steps = []

  def at(kind, time, step, *removed):
    """Rows of one kind for the people whom no mask of `removed` ({reason: mask}) takes out."""
    left = np.ones(len(people), bool)
    for reason, mask in removed:
      mask = np.asarray(mask, bool)
      steps.append({"step": f"{step}: {reason}", "removed": int((left & mask).sum()),
                    "left": int((left & ~mask).sum())})
      left &= ~mask
    steps.append({"step": f"rows at {step}", "removed": 0, "left": int(left.sum())})
    frame = people.loc[left, ["hadm_id"]].assign(
        kind=kind, person=np.flatnonzero(left), time=np.broadcast_to(time, len(people))[left])
    tasks = {0: ("mortality",), 1: ("readmission", "icu"), 2: TASKS}[kind]
    for task in TASKS:
      frame[task] = labels[task][left] if task in tasks else np.nan
    return frame

  if protocol == "paper":
    parts = [at(2, stay, KINDS[2], ("still in hospital", stay.isna()))]
  else:
    hour = round(c.prediction_hour * 60)
    since = (people["icu_in"] - people["admit"]).astype("float64")
    parts = [
        at(0, hour, f"{c.prediction_hour:g} h after admission",
           ("left the hospital or died before it", end <= hour),
           *([("entered the ICU only after it", since >= hour)] if c.icu_before_row else [])),
        at(1, stay, KINDS[1], ("died in hospital", dead == 1),
           ("still in hospital, or the outcome is unknown", stay.isna() | dead.isna()))]
  frame = pd.concat(parts, ignore_index=True)
  frame["time"] = frame["time"].astype("int64")
  frame["row_id"] = frame["hadm_id"].astype("int64") * 10 + frame["kind"]
  return frame.sort_values("row_id", ignore_index=True), steps


def outcomes(people, last_year):
  """task -> (n,) float64 in {0, 1, NaN} of the admissions in `people`."""
  died = people["hospital_expire_flag"].astype("float64").to_numpy()
  leave = people["discharge"].astype("float64").to_numpy()
  found = {"mortality": died}
  for task, column in (("readmission", "next_admission"), ("icu", "next_icu")):
    gap = people[column].astype("float64").to_numpy() - leave
    positive = (gap <= FOLLOW_UP[task]).astype(np.float64)
    undefined = (died != 0) | np.isnan(leave) | censored(people, FOLLOW_UP[task], last_year)
    found[task] = np.where(undefined, np.nan, positive)
  return found


def censored(people, follow_up, last_year):
  """(n,) bool: the follow-up may reach past the end of the data (see the top of this file)."""
  group_end = people["anchor_year_group"].astype("string").str.extract(r"(\d{4})\s*$")[0]
  years = (people["discharge_year"] - people["anchor_year"]).astype("float64")
  # the latest year that the discharge can have had; an unknown group counts as the last
  latest = np.minimum(group_end.astype("float64").fillna(last_year) + years, last_year)
  crosses = people["discharge_day"].astype("float64") + follow_up / DAY > 365
  return np.asarray((latest >= last_year) & crosses, bool)


def odd(about, people):
  """Counts of odd rows with the rule for each: list of {table, rule, count}.

  Args:
    about: admission_table as a data frame.
    people: the frame of select().
  """
  dead = people["hospital_expire_flag"] == 1
  place = lambda table, rule, hits: {"table": table, "rule": rule, "count": int(hits.sum())}
  return [o for o in (
      place("admissions", "discharge before admission: excluded",
            about["discharge"] < about["admit"]),
      place("admissions", "begins after the patient's death: excluded", about["dead_before"]),
      place("admissions", "followed by one that begins after the patient's death: not a later one",
            people["unreal"] > 0),
      place("patients", "a dod before the day of discharge without hospital_expire_flag: kept, the "
            "flag counts", ~dead & (people["day_of_death_end"] <= people["discharge"])),
      place("admissions", "overlaps another admission of the patient: kept; the other counts "
            "neither as an earlier nor as a later one", people["overlaps"] > 0),
      place("admissions", "died in hospital without a deathtime: kept, the flag counts",
            dead & people["death"].isna()),
      place("admissions", "a deathtime without hospital_expire_flag: kept, the flag counts",
            ~dead & people["death"].notna()),
      place("admissions", "death after discharge by the clock: kept",
            people["death"] > people["discharge"]),
      place("admissions", "death before the ICU stay: kept", people["death"] < people["icu_in"]),
      place("admissions", "left the emergency room before entering it: those hours are NaN",
            people["ed_out"] < people["ed_in"]),
      place("icustays", "begins before the hospital admission: kept",
            people["icu_in"] < people["admit"]),
      place("icustays", "ends after the hospital discharge: kept",
            people["icu_end"] > people["discharge"]),
      place("patients", "older than 89: recorded as 91, kept", people["age"] >= 91),
      place("patients", "gender unknown: NaN", ~people["gender"].isin(("F", "M"))),
      place("patients", "anchor_year_group unknown: censored as the last one",
            people["anchor_year_group"].isna())) if o["count"]]
