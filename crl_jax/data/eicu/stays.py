"""Unit stays of eICU-CRD: who is included, the rows (a stay at a time), their outcomes, what was
odd about them."""

from crl_jax.data.cohort import CohortError
from crl_jax.data.eicu import features as spec

OLDEST = 90.0   # years that "> 89" counts as: all that is told of who is older
KINDS = {0: "prediction hour", 1: "unit discharge", 2: "whole stay"}    # last digit of row_id


def years(age):
  """The age in years of an Ibis text: '> 89' is OLDEST; NULL where there is none."""
  import ibis
  return ibis.cases((age.re_search("^> *89$"), OLDEST), else_=age.try_cast("float64"))


def check_ids(patient):
  """Raises CohortError where the patient table lacks an id or holds a unit stay twice."""
  p = patient
  blank = (p.stay.isnull() | p.patienthealthsystemstayid.isnull() | p.unitvisitnumber.isnull()
           | p.hospitalid.isnull() | (p.uniquepid.fill_null("").strip() == ""))
  n, stays, blanks = (int(x) for x in p.aggregate(
      n=p.count(), stays=p.stay.nunique(), blanks=blank.sum().fill_null(0)).to_pandas().iloc[0])
  if blanks:
    raise CohortError(
        f"The patient table has {blanks:,} rows without an id (patientunitstayid, uniquepid, "
        "patienthealthsystemstayid, unitvisitnumber, hospitalid). Complete or remove them.")
  if stays < n:
    raise CohortError(f"The patient table holds {n - stays:,} rows whose patientunitstayid is "
                      "there already, with other content. Keep one row per unit stay.")


def stay_table(p, c, for_prediction=False):
  """Returns one record per unit stay: who, when, outcome, and one boolean per inclusion criterion.

  `later` is the readmission: another unit stay of the same hospital stay with a higher
  unitvisitnumber which is, by `c.later_stay`, "eligible" (its length meets the inclusion criteria),
  "any", or a "return" (it began after this one had ended; most later stays in eICU begin in the
  same minute, the bed having become another unit's).

  A stay that begins after the patient's death (donors of organs) is neither a row nor a later stay:
  of those who died in hospital, one that follows a stay they did not leave alive, or whose hospital
  stay had ended by its admission.

  Args:
    p: the patient table of cohort.prepare.
    c: config.data.eicu.
    for_prediction: an unknown length or outcome excludes no stay.
  """
  import ibis

  died = (p.hospitaldischargestatus == "Expired").fill_null(False)
  ends = p.filter(died, p.unitdischargestatus == "Expired")
  ends = ends.group_by(hospital_stay=ends.patienthealthsystemstayid).agg(
      last_visit=ends.unitvisitnumber.min())
  p = p.left_join(ends, [p.patienthealthsystemstayid == ends.hospital_stay])
  p = p.drop("hospital_stay").mutate(dead_before=(
      (p.hospitaldischargestatus == "Expired")
      & ((p.unitvisitnumber > p.last_visit) | (p.hospitaldischargeoffset <= 0))).fill_null(False))
  minutes = p.unitdischargeoffset
  other = p.filter(~p.dead_before)
  other = other.select(hospital_stay="patienthealthsystemstayid", visit="unitvisitnumber",
                       length="unitdischargeoffset", admitted="hospitaladmitoffset")
  pair = p.join(other, [p.patienthealthsystemstayid == other.hospital_stay,
                        other.visit > p.unitvisitnumber])
  counts = {
      "eligible": (pair.length >= c.min_stay_hours * 60) & (pair.length <= c.max_stay_hours * 60),
      "any": ibis.literal(True),
      "return": pair.hospitaladmitoffset - pair.admitted > pair.unitdischargeoffset}
  if c.later_stay not in counts:
    raise CohortError(f"data.eicu.later_stay is '{c.later_stay}'; it must be one of "
                      f"{', '.join(counts)}.")
  later = pair.filter(counts[c.later_stay]).group_by("stay").agg(later_stays=ibis._.count())
  s = p.left_join(later, "stay")
  minutes = s.unitdischargeoffset
  return s.select(
      "stay", "uniquepid", "gender", "age", "age_text", "ethnicity", "hospitalid", "region",
      "unittype", "hospitaladmitoffset", "hospitaldischargeoffset", "unitdischargeoffset",
      "unitdischargestatus", "hospitaldischargestatus", later=s.later_stays.notnull(),
      ok_alive=~s.dead_before,
      ok_age=((s.age >= c.min_age) & (s.age <= c.max_age)).fill_null(False),
      ok_min=(minutes >= c.min_stay_hours * 60).fill_null(for_prediction),
      ok_max=(minutes <= c.max_stay_hours * 60).fill_null(for_prediction),
      ok_status=s.hospitaldischargestatus.notnull() | for_prediction)


def row_table(s, c, protocol, for_prediction=False):
  """Returns the rows: row_id, stay, kind (see KINDS), `time` in minutes after unit admission, and
  the stay's columns.

  `day_one` is true where APACHE's record of the first 24 h may be used: at 24 h or later, and at
  discharge.
  """
  import ibis

  s = s.filter(s.ok_alive & s.ok_age & s.ok_min & s.ok_max & s.ok_status)
  minutes = s.unitdischargeoffset

  def at(stays, kind, time):
    return stays.mutate(kind=ibis.literal(kind, "int64"), time=time.cast("int64"),
                        row_id=stays.stay * 10 + kind)

  if protocol == "paper":
    rows = at(s.filter(minutes.notnull()), 2, minutes)
  else:
    hour = round(c.prediction_hour * 60)
    gone = (s.hospitaldischargestatus == "Expired") & (s.hospitaldischargeoffset <= hour)
    still = (minutes >= hour).fill_null(for_prediction) & ~gone.fill_null(False)
    left = (s.unitdischargestatus == "Alive").fill_null(for_prediction) & minutes.notnull()
    rows = ibis.union(at(s.filter(still), 0, ibis.literal(hour)), at(s.filter(left), 1, minutes))
  return rows.mutate(day_one=(rows.kind != 0) | (rows.time >= spec.DAY))


def attrition(about, c, for_prediction):
  """Ordered steps {step, removed, left} from the stays in the file to the eligible ones.

  Args:
    about: stay_table as a data frame.
  """
  import numpy as np

  known = about["unitdischargeoffset"].notna()
  left, steps = (np.ones(len(about), bool),
                 [{"step": "unit stays in the file", "removed": 0, "left": len(about)}])
  for step, keep in (
      ("begins after the patient's death", about["ok_alive"]),
      ("age unknown", about["age"].notna()),
      (f"younger than {c.min_age}", ~(about["age"] < c.min_age)),
      (f"older than {c.max_age}" + ", '> 89' included" * (c.max_age < OLDEST), about["ok_age"]),
      ("unit discharge time unknown", known | for_prediction),
      (f"unit stay shorter than {c.min_stay_hours:g} h", about["ok_min"]),
      (f"unit stay longer than {c.max_stay_hours:g} h", about["ok_max"]),
      ("hospital discharge status unknown", about["ok_status"])):
    after = left & np.asarray(keep, bool)
    steps.append({"step": step, "removed": int(left.sum() - after.sum()), "left": int(after.sum())})
    left = after
  return steps


def odd_stays(about, c):
  """Counts of odd rows of the patient table with the rule for each: list of {table, rule, count}.

  Args:
    about: stay_table as a data frame.
    c: config.data.eicu.
  """
  unit, hospital = about["unitdischargeoffset"], about["hospitaldischargeoffset"]
  above, alive = about["age"] == OLDEST, about["hospitaldischargestatus"] == "Alive"
  above &= about["age_text"].str.startswith(">")
  rules = {
      "begins after the patient's death: excluded": ~about["ok_alive"].astype(bool),
      "age is '> 89': " + ("older than the inclusion criterion, excluded" if c.max_age < OLDEST
                           else f"counts as {OLDEST:g}"): above,
      "age blank or unreadable: excluded": about["age"].isna(),
      "unit discharge at or before unit admission: excluded as too short a stay": unit <= 0,
      "hospital discharge before unit discharge: kept, hospital times are not used":
      hospital < unit,
      "hospital admission after unit admission: kept, hours_before is NaN":
      about["hospitaladmitoffset"] > 0,
      "died in the unit but left the hospital alive: kept, mortality is the hospital's status, no "
      "discharge row":
      alive & (about["unitdischargestatus"] == "Expired"),
      "unit discharge status unknown: no discharge row, unless for prediction":
      about["unitdischargestatus"].isna(),
      "sex blank: NaN": about["gender"].isna()}
  return [{"table": "patient", "rule": rule, "count": int(hits.sum())}
          for rule, hits in rules.items()]
