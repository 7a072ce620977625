"""The structured features of MIMIC-IV's rows: one pass over each table, as Ibis expressions.

A patient has at most two rows (`times`), so every record belongs to a part of the stay: 0, known
before the patient's first row; 1, known later but before the second; others (EARLY, LATE, UNDATED)
are only counted, in the pass that reads them. Sums, extremes and counts are taken per patient and
part, and a row adds up the parts before it. Values are whole thousandths, times whole minutes after
the hospital admission: sums are exact, so neither the order of records nor the engine can move a
feature.
"""

import numpy as np

from crl_jax.data import units
from crl_jax.data.mimic import codes, items
from crl_jax.data.mimic.stays import DAY, minute
from crl_jax.data.tables import repeats

EARLY, LATE, UNDATED = -1, 2, 3     # parts whose records no row uses
_OUT = {EARLY: "more than 24 h before the admission: not used",
        1: "known only after the patient's first row: not in it",
        LATE: "known only after the patient's last row: not used", UNDATED: "no time: not used"}
_UNIT = 1000
_SHIFT = 1 << 40                # (minute, value) as one number: minute * _SHIFT + value
# table -> (value column, unit column, columns whose latest time is when a record is known, the
# record's own number where it has one)
MEASURED = {
    "labevents": ("valuenum", "valueuom", ("charttime", "storetime"), ("labevent_id",)),
    "chartevents": ("valuenum", "valueuom", ("charttime", "storetime"), ()),
    "inputevents": ("amount", "amountuom", ("starttime", "endtime", "storetime"), ("orderid",)),
    "outputevents": ("value", "valueuom", ("charttime", "storetime"), ())}
# how a number was read: as filed, in the unit that it can only be of; or why it is no value
FILED, OTHER, DROPPED, STRANGE, OUTSIDE = range(5)
NO_GROWTH = (90760, 90856)     # org_itemid of "CANCELLED" and "NEGATIVE"
_GIVEN = r"^(delayed )?(administered|started|restarted|applied|confirmed|partial)"


def timeline(people, rows):
  """Returns the frame that events are joined with: person, subject_id, admit (minutes since 1970),
  t1, t2: the times of the patient's first and last row (the same where there is one).

  Args:
    people: the frame of stays.select.
    rows: the frame of stays.rows; gains the column `part`.
  """
  import pandas as pd

  times = rows.groupby("person")["time"].agg(["min", "max"])
  rows["part"] = (rows["time"] > rows["person"].map(times["min"])).astype("int64")
  chosen = people.loc[times.index]
  return pd.DataFrame({
      "person": times.index.to_numpy("int64"), "subject_id": chosen["subject_id"].to_numpy("int64"),
      "hadm_id": chosen["hadm_id"].to_numpy("int64"), "admit": chosen["admit"].to_numpy("int64"),
      "t1": times["min"].to_numpy("int64"), "t2": times["max"].to_numpy("int64")})


def part_of(t, known, people):
  """The part of records measured in minute t and known in minute `known`, of an ibis table that is
  joined with `timeline`."""
  import ibis

  return ibis.cases((t.isnull(), UNDATED), (t < -items.LOOKBACK, EARLY), (known < people.t1, 0),
                    (known < people.t2, 1), else_=LATE).cast("int8")


def used(records):
  """Those of the records (with a column `part`) that a row uses."""
  return records.filter(records.part >= 0, records.part < LATE)


def left_out(table, records):
  """Counts the records of a table that some row does not use and, of those that one uses, what was
  there again: list of {table, rule, count}. One query for both.

  Args:
    table: its name.
    records: with the columns part and, where several are one, their number: records, copies or n.
  """
  number = next((c for c in ("records", "copies", "n") if c in records.columns), None)
  sums = {"size": records[number].sum() if number else records.count()}
  if "copies" in records.columns:
    sums["copies"], sums["n"] = repeats.sums(records)
  frame = records.group_by("part").agg(**sums).to_pandas().set_index("part")
  found = [{"table": table, "rule": rule, "count": int(frame["size"].get(part, 0))}
           for part, rule in _OUT.items()]
  if "copies" in sums:
    mine = frame[(frame.index >= 0) & (frame.index < LATE)]
    found.append(repeats.told(table, mine["copies"].sum(), mine["n"].sum()))
  return found


def _placed(table, people, first, *times, keep=(), also=()):
  """The records of the cohort's patients: person, part, `keep` (among them t, the minute of the
  column `first`), and `also`. Those that no row uses are of person -1 and keep nothing but `also`,
  so that a sum over them is one.

  A record is known at the latest of the columns `first` and `times`; NULL there says nothing.
  """
  import ibis

  joined = table.inner_join(people, "subject_id")
  t = minute(joined[first]) - joined.admit
  known = ibis.greatest(t, *[ibis.coalesce(minute(joined[c]) - joined.admit, t) for c in times]
                        ) if times else t
  joined = joined.mutate(t=t, known=known)
  joined = joined.mutate(part=part_of(joined.t, joined.known, joined))
  mine = joined.part.between(0, 1)
  return joined.select("part", *also, person=ibis.ifelse(mine, joined.person, -1), **{
      c: ibis.ifelse(mine, joined[c], None) for c in keep})


def signal_frame(table):
  """The items of a table's signals: itemid, signal (number), range in thousandths, the unit under
  which the item is filed, and whether a record's own is looked at."""
  import pandas as pd

  return pd.DataFrame([
      dict(itemid=item, signal=i, low=round(s.low * _UNIT), high=round(s.high * _UNIT),
           filed=s.filed.get(item, s.unit), checked=bool(s.unit))
      for i, s in enumerate(items.SIGNALS.values()) if s.table == table for item in s.items])


def unit_frame(table):
  """What the units are to the items of a table's signals: itemid, unit (as units.written), factor
  and offset; a blank unit is the one under which the item is filed."""
  import pandas as pd

  out = []
  for name, s in items.SIGNALS.items():
    known = units.conversions(s.unit, name) if s.unit else {}
    for item in s.items if s.table == table else ():
      own = s.factor.get(item, 1)
      filed = units.convert(s.unit, s.filed.get(item, s.unit), name)
      named = {**known, **dict.fromkeys(units.NO_UNIT, filed)}
      out += [(item, unit, factor * own, offset * own) for unit, (factor, offset) in named.items()]
      out += [(item, unit + kind, factor * times, offset)
              for unit, (factor, offset) in known.items() for kind, times in s.kinds.items()]
  return pd.DataFrame(out, columns=["itemid", "unit", "factor", "offset"])


def measured_query(name, table, people, signals, conversions):
  """person, part, signal, the exact sums of which `statistic` makes every statistic, and counts of
  what was read in another way than filed.

  Two steps: the records, each once; then their sums. Of records that no row uses the first keeps
  no value and no time, so that they are few.

  Args:
    name: a key of MEASURED.
    table: its ibis table.
    people: `timeline`, as an ibis table.
    signals: `signal_frame`, as an ibis table.
    conversions: `unit_frame`, as an ibis table.
  """
  import ibis

  value, unit, times, own = MEASURED[name]
  wanted = table.inner_join(signals, "itemid")
  wanted = wanted.mutate(x=wanted[value].cast("float64"))
  wanted = wanted.filter(wanted.x.notnull(), ~wanted.x.isnan())
  # most units are written as in items.py: the others alone are looked at letter by letter
  usual = wanted[unit].isnull() | (wanted[unit] == wanted.filed) | ~wanted.checked
  wanted = wanted.mutate(written=ibis.ifelse(usual, "", units.written(wanted[unit])))
  wanted = wanted.left_join(conversions, [wanted.itemid == conversions.itemid,
                                          wanted.written == conversions.unit])
  e = _placed(wanted, people, *times, keep=("itemid", "signal", "t", *times, *own),
              also=("x", "low", "high", "factor", "offset"))
  e = e.mutate(read=((e.x * e.factor + e.offset) * _UNIT).round())
  e = e.mutate(filed=e.read.between(e.low, e.high) & (e.read < items.SENTINEL * _UNIT))
  # almost every value is one as filed: the others alone are looked at unit by unit
  other = ibis.ifelse(e.filed, None, _as_other(name, e.signal, e.x))
  e = e.mutate(read=ibis.ifelse(e.filed, e.read, (other * _UNIT).round()))
  e = e.mutate(how=ibis.cases(
      (e.person < 0, None), (e.filed, FILED), (e.x.abs() >= items.SENTINEL, DROPPED),
      (e.factor.isnull(), STRANGE), (e.read.notnull(), OTHER), else_=OUTSIDE).cast("int8"))
  # (minute, value) as one number
  order = ibis.ifelse(e.how.isin((FILED, OTHER)), e.t * _SHIFT + e.read.cast("int64"), None)
  e = repeats.once(e.select("person", "part", "signal", "itemid", "how", *times, *own, order=order))
  minute_of = lambda order: ((order + _SHIFT // 2) / _SHIFT).floor().cast("int64")
  e = e.mutate(t=minute_of(e.order))
  e = e.mutate(v=e.order - e.t * _SHIFT)
  number = lambda *hows: e.copies.sum(where=e.how.isin(hows)).fill_null(0)
  sums = e.group_by("person", "part", "signal").agg(
      records=e.copies.sum(), n=e.v.count(), begin=e.order.min(), end=e.order.max(), low=e.v.min(),
      high=e.v.max(), total=e.v.sum(), t=e.t.sum(), tt=(e.t * e.t).sum(), tv=(e.t * e.v).sum(),
      copies=number(FILED, OTHER), other=number(OTHER), sentinels=number(DROPPED),
      strange=number(STRANGE), outside=number(OUTSIDE))
  when = {c: minute_of(sums[c]) for c in ("begin", "end")}
  return sums.select(
      *(c for c in sums.columns if c not in when),
      first_t=when["begin"], last_t=when["end"], first=sums.begin - when["begin"] * _SHIFT,
      last=sums.end - when["end"] * _SHIFT)


def _as_other(name, signal, x):
  """The values of the numbers `x` that can only be of another unit than they are filed under; NULL
  of the others.

  Args:
    name: of the table.
    signal: column with the number of the signal.
    x: column with the number as it was recorded.
  """
  import ibis

  found = []
  for i, (key, s) in enumerate(items.SIGNALS.items()):
    for unit, (low, high) in s.other.items() if s.table == name else ():
      factor, offset = units.convert(s.unit, unit, key)
      found.append(((signal == i) & x.between(low, high), x * factor + offset))
  return ibis.cases(*found, else_=None) if found else ibis.null("float64")


def add_parts(frame, column, how, size):
  """(size, 2) float64: `how` ("sum" | "min" | "max") of a column over the parts up to each, NaN
  where there is none."""
  merge = {"sum": np.add, "min": np.fmin, "max": np.fmax}[how]
  out = np.full((size, 2), np.nan)
  out[frame["person"].to_numpy(np.int64), frame["part"].to_numpy(np.int64)] = (
      frame[column].to_numpy(np.float64, na_value=np.nan))
  before, now = np.isnan(out).T
  out[:, 1] = np.where(before, out[:, 1], np.where(now, out[:, 0], merge(*out.T)))
  return out


def statistic(frame, stats, size):
  """statistic -> (size, 2) of one signal from the sums of measured_query; count is 0, the others
  are NaN, where there is no value."""
  add = lambda column, how="sum": add_parts(frame, column, how, size)
  n = add("n")
  out = {}
  for stat in stats:
    if stat == "count":
      out[stat] = np.nan_to_num(n)
    elif stat in ("first", "last"):
      out[stat] = _end(frame, stat, size) / _UNIT
    elif stat in ("min", "max"):
      out[stat] = add({"min": "low", "max": "high"}[stat], stat) / _UNIT
    elif stat == "sum":
      out[stat] = add("total") / _UNIT
    elif stat == "mean":
      out[stat] = add("total") / np.where(n > 0, n, np.nan) / _UNIT
    elif stat == "slope":
      t, v, spread, both = add("t"), add("total"), add("tt"), add("tv")
      spread = n * spread - t * t
      with np.errstate(invalid="ignore", divide="ignore"):
        out[stat] = np.where(spread > 0, (n * both - t * v) / spread, np.nan) * DAY / _UNIT
  return out


def _end(frame, stat, size):
  """(size, 2): the first or last value of the parts up to each; at a tie in time the smaller first
  and the larger last."""
  later = np.greater if stat == "last" else np.less
  time, value = (np.full((size, 2), np.nan) for _ in range(2))
  place = frame["person"].to_numpy(np.int64), frame["part"].to_numpy(np.int64)
  time[place] = frame[f"{stat}_t"].to_numpy(np.float64, na_value=np.nan)
  value[place] = frame[stat].to_numpy(np.float64, na_value=np.nan)
  (t0, t1), (v0, v1) = time.T, value.T
  keep = np.isnan(v1) | later(t0, t1) | ((t0 == t1) & later(v0, v1))
  value[:, 1] = np.where(keep, v0, v1)
  return value


def procedures_query(table, people, kinds):
  """person, part, kind, n: procedures begun.

  Args:
    table: procedureevents.
    people: `timeline`.
    kinds: `procedure_frame`.
  """
  events = _placed(table.inner_join(kinds, "itemid"), people, "starttime", "storetime",
                   keep=("kind",))
  return events.group_by("person", "part", "kind").agg(n=events.count())


def procedure_frame():
  """itemid, kind (number in PROCEDURES)."""
  import pandas as pd
  return pd.DataFrame([dict(itemid=item, kind=i)
                       for i, group in enumerate(items.PROCEDURES.values()) for item in group])


def entered_query(table, people):
  """pharmacy_id, entertime (NULL: unknown), once each: when orders came into the system; it may be
  hours after the time they are said to start."""
  mine = table.semi_join(people, "subject_id").filter(lambda t: t.pharmacy_id.notnull())
  return mine.group_by("pharmacy_id").agg(entertime=mine.entertime.max())


def orders_query(table, people, entered):
  """person, part, name, n (and copies): orders by the lower-cased name of the drug; unentered:
  those of them that are known from their start, for want of a time of entry.

  Args:
    table: prescriptions; several of its rows may have one pharmacy_id.
    people: `timeline`.
    entered: `entered_query`; None without the table pharmacy.
  """
  import ibis

  if entered is None:
    table = table.mutate(entertime=ibis.null("timestamp"))
  else:
    table = table.left_join(entered, "pharmacy_id").drop("pharmacy_id_right")
  events = repeats.once(_placed(table, people, "starttime", "entertime", keep=(
      "drug", "starttime", "entertime", "pharmacy_id", "formulary_drug_cd")))
  events = events.mutate(name=events.drug.fill_null("").lower(),
                         unentered=events.entertime.isnull().cast("int64"))
  return events.group_by("person", "part", "name").agg(
      n=events.count(), copies=events.copies.sum(), unentered=events.unentered.sum())


def given_query(table, people):
  """person, part, name, n (and copies): administrations by the lower-cased name of the drug."""
  table = table.filter(table.event_txt.lower().re_search(_GIVEN))
  events = repeats.once(_placed(table, people, "charttime", "storetime", keep=(
      "medication", "event_txt", "charttime", "storetime", "emar_seq")))
  events = events.mutate(name=events.medication.fill_null("").lower())
  return events.group_by("person", "part", "name").agg(
      n=events.count(), copies=events.copies.sum())


def flags_query(counts, patterns):
  """person, part, n and, per pattern, the number of records whose name matches it.

  The patterns are searched once per different name.
  """
  names = counts.select("name").distinct()
  names = names.mutate(**{f: names.name.re_search(p).cast("int64") for f, p in patterns.items()})
  joined = counts.inner_join(names, "name")
  return joined.group_by("person", "part").agg(
      n=joined.n.sum(), **{f: (joined[f] * joined.n).sum() for f in patterns})


def samples_query(table, people):
  """Cultures: person, part, t, known (minutes after admission; NULL: never reported), kind of
  specimen, sample, organism, resistant (0/1). A date without a time is known at its end."""
  import ibis

  m = table.inner_join(people, "subject_id")
  end = lambda date: minute(m[date]) + DAY
  taken = ibis.coalesce(minute(m.charttime), end("chartdate")) - m.admit
  stored = ibis.coalesce(minute(m.storetime), end("storedate")) - m.admit
  m = m.mutate(t=taken, known=ibis.greatest(stored, taken))
  m = m.select("person", "t", "known", part=part_of(m.t, m.t, m), sample="micro_specimen_id",
               name=m.spec_type_desc.fill_null("").lower(),
               organism=(m.org_name.notnull() & ~m.org_itemid.isin(NO_GROWTH).fill_null(False)
                         ).cast("int64"),
               resistant=(m.interpretation == "R").fill_null(False).cast("int64"))
  return m.group_by("person", "part", "sample", "name", "t", "known").agg(
      organism=m.organism.max(), resistant=m.resistant.max())


def earlier_query(table, admissions, people, *columns):
  """The records of `table` (by hadm_id) of admissions that had ended when the patient's own one
  began, each once: person, hadm_id, `columns` and copies."""
  ended = admissions.select("subject_id", other="hadm_id", end=minute(admissions.dischtime))
  ended = ended.inner_join(people, "subject_id")
  ended = ended.filter(ended.other != ended.hadm_id, ended.end <= ended.admit)
  ended = ended.select("person", hadm_id="other")
  return repeats.once(table.inner_join(ended, "hadm_id").select("person", "hadm_id", *columns))


def conditions_query(diagnoses):
  """person, n, and 0/1 per condition of codes, of kept earlier diagnoses."""
  d = diagnoses
  d = d.mutate(name=d.icd_version.cast("string") + ":" + d.icd_code.strip())
  d = d.mutate(part=0, n=1)
  patterns = {f: f"^(9:({nine})|10:({ten}))" for f, (nine, ten) in codes.CONDITIONS.items()}
  return flags_query(d.select("person", "part", "name", "n"), patterns)


def outpatient_query(table, people):
  """person, name, t (minutes from the admission to the end of the day), text."""
  o = table.filter(table.result_name.isin(("BMI (kg/m2)", "Weight (Lbs)", "Blood Pressure")))
  o = o.inner_join(people, "subject_id")
  o = o.mutate(t=minute(o.chartdate) + DAY - o.admit)
  return o.select("person", "t", name="result_name", text="result_value")


def places_query(table, people, time, *columns):
  """person, part, t, `time`, `columns` and copies of small tables (services, transfers)."""
  joined = table.inner_join(people, "subject_id")
  joined = joined.mutate(t=minute(joined[time]) - joined.admit)
  return repeats.once(joined.select("person", "t", time, *columns,
                            part=part_of(joined.t, joined.t, joined)))
