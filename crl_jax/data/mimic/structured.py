"""The structured modality of MIMIC-IV: runs the queries of features.py and lays their results
out as one row per patient and time, in the order of items.feature_names()."""

import numpy as np

from crl_jax.data.mimic import features as queries, items
from crl_jax.data.mimic.stays import DAY
from crl_jax.data.tables import numbers, repeats


def collect(source, people, rows):
  """Returns (values, odd): feature -> (N,) float64, NaN where unknown; counts of odd values.

  Args:
    source: data.tables.source.Source.
    people: the frame of stays.select.
    rows: the frame of stays.rows.
  """
  line = queries.timeline(people, rows)
  layout = _Layout(source, people, rows, source.put(line))
  values = _demographics(people, rows)
  for part in (_earlier, _outpatient, _services, _places, _signals, _procedures, _drugs, _samples):
    values.update(part(layout))
  names = items.feature_names()
  unknown = np.full(len(rows), np.nan)
  return {name: values.get(name, unknown) for name in names}, layout.odd


class _Layout:
  """What the parts below share: the open tables, and how results per patient become rows."""

  def __init__(self, source, people, rows, line):
    self.source, self.people, self.rows, self.line = source, people, rows, line
    self.person, self.time = rows["person"].to_numpy(), rows["time"].to_numpy()
    self.place = self.person, rows["part"].to_numpy()
    self.odd = []

  def table(self, name):
    """The table, or None where the source lacks it."""
    return None if name in self.source.absent else self.source.tables[name]

  def keep(self, expr, name=""):
    """The stored result of `expr`; of records of the table `name` those that were there again are
    counted."""
    kept = self.source.keep(expr)
    if name:
      self.odd += repeats.again(name, kept)
    return kept

  def used(self, name, expr):
    """The stored records of `expr` (of the table `name`) that a row uses; the others are counted,
    and those that were there again."""
    kept = self.keep(expr)
    self.odd += queries.left_out(name, kept)
    return queries.used(kept)

  def rows_of(self, array):
    """(N,) of an array (people, 2) per part."""
    return array[self.place]

  def counts(self, frame, columns):
    """column -> (N,) sums over the parts up to the row; 0 where nothing is recorded."""
    add = lambda c: np.nan_to_num(queries.add_parts(frame, c, "sum", len(self.people)))
    return {c: self.rows_of(add(c)) for c in columns}

  def before(self, events):
    """The records `events` (person, t, ...) joined with the rows that lie later: column `row`."""
    import pandas as pd
    rows = pd.DataFrame({"person": self.person, "row": np.arange(len(self.person)),
                         "time": self.time})
    # in an order that no engine can change: sums of floats depend on it
    both = events.sort_values(list(events.columns)).merge(rows, on="person")
    return both[both["t"] < both["time"]].reset_index(drop=True)

  def tally(self, rows, weight=None):
    """(N,) number, or sum of `weight`, of the records at `rows`."""
    return np.bincount(rows, weight, len(self.person)).astype(np.float64)

  def latest(self, events):
    """Of `before(events)` the latest record of each row, indexed by row; ties by content."""
    order = [c for c in ("row", "t", *events.columns) if c in events.columns]
    return events.sort_values(list(dict.fromkeys(order))).groupby("row").tail(1).set_index("row")


def _number(series):
  return series.astype("float64").to_numpy()


def _match(texts, patterns):
  """pattern name -> (n,) float64 0/1, searched in lower-cased texts; a missing one matches none."""
  lower = texts.fillna("").astype(str).str.lower()
  return {name: lower.str.contains(pattern, regex=True).to_numpy(np.float64)
          for name, pattern in patterns.items()}


def _demographics(people, rows):
  p = people.loc[rows["person"]].reset_index(drop=True)
  time = rows["time"].to_numpy(np.float64)
  hours = (_number(p["ed_out"]) - _number(p["ed_in"])) / 60
  # until the row at most: who is still in the emergency room has no ed_out yet
  so_far = (time + _number(p["admit"]) - _number(p["ed_in"])) / 60
  out = {"age": _number(p["age"]),
         "male": p["gender"].map({"M": 1.0, "F": 0.0}).to_numpy(np.float64),
         "hour_of_admission": _number(p["hour"]), "hours_since_admission": time / 60,
         "in_emergency_hours": np.where(hours >= 0, np.fmin(hours, so_far), np.nan),
         "earlier_admissions": _number(p["earlier"]),
         "earlier_admissions_year": _number(p["earlier_year"]),
         "earlier_icu_stays": _number(p["earlier_icu"]),
         "days_since_discharge": (_number(p["admit"]) - _number(p["last_end"])) / DAY,
         "earlier_days": np.nan_to_num(_number(p["earlier_minutes"])) / DAY}
  for column, patterns in items.ADMISSION.items():
    out.update(_match(p[column], patterns))
  return out


def _earlier(at):
  out, admissions = {}, at.source.tables["admissions"]
  size = len(at.people)
  if (table := at.table("diagnoses_icd")) is not None:
    kept = at.keep(queries.earlier_query(
        table, admissions, at.line, "icd_code", "icd_version", "seq_num"), "diagnoses_icd")
    frame = queries.conditions_query(kept).to_pandas()
    found = at.counts(frame, [c for c in frame.columns if c not in ("person", "part")])
    out["earlier_diagnoses"] = found.pop("n")
    out.update({f"had_{name}": np.minimum(value, 1) for name, value in found.items()})
  if (table := at.table("procedures_icd")) is not None:
    kept = at.keep(queries.earlier_query(
        table, admissions, at.line, "icd_code", "icd_version", "seq_num", "chartdate"),
        "procedures_icd")
    frame = kept.group_by("person").agg(n=kept.count()).to_pandas()
    count = np.bincount(frame["person"].to_numpy(np.int64), frame["n"], size)
    out["earlier_procedures"] = count[at.person].astype(np.float64)
  return out


def _outpatient(at):
  if (table := at.table("omr")) is None:
    return {}
  kept = at.keep(queries.outpatient_query(table, at.line))
  late, old = kept.t > 0, kept.t <= -366 * DAY
  leading = kept.text.re_search(r"^\s*[0-9]")
  at.odd += [{"table": "omr", "rule": rule, "count": int(kept.filter(hits).count().to_pandas())}
             for rule, hits in (("not of a day before the admission: not used", late),
                                ("more than a year before the admission: not used", old),
                                ("a result that can be read as two numbers: not used",
                                 leading & numbers.unclear(kept.text)))]
  frame = kept.filter(~late, ~old, leading).mutate(value=numbers.first(kept.text)).to_pandas()
  frame = frame.assign(value=frame["value"].to_numpy(np.float64, na_value=np.nan))
  out = {}
  for name, column, factor, low, high in (
      ("BMI (kg/m2)", "bmi", 1, 8, 100), ("Weight (Lbs)", "outpatient_weight", 0.45359237, 20, 400),
      ("Blood Pressure", "outpatient_systolic", 1, 50, 300)):
    mine = frame[(frame["name"] == name) & frame["value"].notna()]
    mine = mine.assign(value=mine["value"] * factor)
    real = mine["value"].between(low, high)
    at.odd.append({"table": "omr", "rule": f"{column} outside {low} to {high}: NaN",
                   "count": int((~real).sum())})
    last = mine[real].sort_values(["person", "t", "value"]).groupby("person").tail(1)
    x = np.full(len(at.people), np.nan)
    x[last["person"].to_numpy(np.int64)] = last["value"].to_numpy()
    out[column] = x[at.person]
  return out


def _services(at):
  if (table := at.table("services")) is None:
    return {}
  kept = at.used("services", queries.places_query(table, at.line, "transfertime", "curr_service"))
  seen = at.before(kept.select("person", "t", "curr_service").to_pandas())
  last = at.latest(seen)["curr_service"].reindex(range(len(at.person)))
  return {"services": at.tally(seen["row"]),
          **{f"service_{n}": v for n, v in _match(last, items.SERVICES).items()}}


def _places(at):
  out = {}
  if (table := at.table("transfers")) is not None:
    kept = at.used("transfers", queries.places_query(
        table.filter(table.eventtype.lower() != "discharge"), at.line, "intime", "careunit"))
    seen = at.before(kept.select("person", "t", "careunit").to_pandas())
    last = at.latest(seen)["careunit"].reindex(range(len(at.person)))
    out["transfers"] = at.tally(seen["row"])
    out.update({f"unit_{n}": v for n, v in _match(last, items.UNITS).items()})
  icu = at.source.tables["icustays"]
  every = icu.inner_join(at.line, "subject_id")
  every = every.select("person", begin=queries.minute(every.intime),
                       end=queries.minute(every.outtime))
  every = every.to_pandas().sort_values(["person", "begin"])
  # the latest end of the patient's stays that began before
  until = every.groupby("person")["end"].cummax().groupby(every["person"]).shift()
  at.odd.append({"table": "icustays", "count": int((every["begin"] < until).sum()),
                 "rule": "begins before an earlier one of the patient has ended: kept, the hours "
                         "of both count"})
  joined = icu.inner_join(at.line, "hadm_id")
  joined = joined.mutate(t=queries.minute(joined.intime) - joined.admit,
                         leave=queries.minute(joined.outtime) - joined.admit)
  seen = at.before(joined.select("person", "t", "leave").to_pandas())
  # the end of the stay is known only once it is past
  over = seen["leave"] < seen["time"]
  end = np.where(over, seen["leave"].astype("float64"), seen["time"])
  hours = np.maximum(end - seen["t"].to_numpy(np.float64), 0) / 60
  out["icu_stays"] = at.tally(seen["row"])
  out["icu_hours"] = at.tally(seen["row"], hours)
  out["in_icu"] = np.minimum(at.tally(seen["row"][~over]), 1)
  return out


def _signals(at):
  out, names = {}, list(items.SIGNALS)
  for name in queries.MEASURED:
    if (table := at.table(name)) is None:
      continue
    items_frame = queries.signal_frame(name)
    sums = at.used(name, queries.measured_query(
        name, table, at.line, at.source.put(items_frame),
        at.source.put(queries.unit_frame(name))))
    for i, frame in _by_signal(sums, sorted(set(items_frame["signal"]))):
      signal = items.SIGNALS[names[i]]
      for stat, value in queries.statistic(frame, signal.stats, len(at.people)).items():
        out[f"{names[i]}_{stat}"] = at.rows_of(value)
      span = f"{names[i]} outside {signal.low:g} to {signal.high:g} {signal.unit}".rstrip()
      at.odd += [{"table": name, "rule": rule, "count": int(frame[column].sum())}
                 for column, rule in (
          ("outside", f"{span}: NaN"),
          ("other", f"{span}, can only be of another unit ({', '.join(signal.other)}): converted"),
          ("strange", f"{names[i]} in a unit that nothing converts: NaN"),
          ("sentinels", f"{names[i]} at or past {items.SENTINEL:,}: no value, dropped"))]
  return out


def _by_signal(sums, signals, at_once=2_000_000):
  """Yields (signal, its rows of `sums` as a frame); about `at_once` rows are in memory at once."""
  rows = int(sums.count().to_pandas())
  several = max(1, len(signals) * at_once // max(rows, 1))
  for start in range(0, len(signals), several):
    first, last = signals[start], signals[min(start + several, len(signals)) - 1]
    frame = sums.filter(sums.signal >= int(first), sums.signal <= int(last)).to_pandas()
    groups = dict(list(frame.groupby("signal")))
    for i in signals[start:start + several]:
      yield i, groups.get(i, frame.iloc[:0])


def _procedures(at):
  if (table := at.table("procedureevents")) is None:
    return {}
  kinds = at.source.put(queries.procedure_frame())
  frame = at.used("procedureevents", queries.procedures_query(table, at.line, kinds)).to_pandas()
  return {f"procedure_{name}": np.minimum(at.counts(frame[frame["kind"] == i], ["n"])["n"], 1)
          for i, name in enumerate(items.PROCEDURES)}


def _drugs(at):
  out = {}

  def put(counts, total, prefix):
    found = at.counts(queries.flags_query(counts, items.DRUGS).to_pandas(), ["n", *items.DRUGS])
    out[total] = found.pop("n")
    out.update({prefix + drug: np.minimum(value, 1) for drug, value in found.items()})

  if (table := at.table("prescriptions")) is not None:
    pharmacy = at.table("pharmacy")
    entered = None if pharmacy is None else at.keep(queries.entered_query(pharmacy, at.line))
    orders = at.used("prescriptions", queries.orders_query(table, at.line, entered))
    at.odd.append({"table": "prescriptions", "rule": "no entertime in pharmacy: known from "
                   "starttime",
                   "count": int(orders.aggregate(n=orders.unentered.sum().fill_null(0))
                                .to_pandas()["n"].iloc[0])})
    put(orders, "orders", "ordered_")
  if (table := at.table("emar")) is not None:
    put(at.used("emar", queries.given_query(table, at.line)), "administrations", "given_")
  return out


def _samples(at):
  if (table := at.table("microbiologyevents")) is None:
    return {}
  kept = at.used("microbiologyevents", queries.samples_query(table, at.line))
  frame = kept.drop("part").to_pandas()
  taken = at.before(frame)
  reported = at.before(frame.assign(t=frame["known"].astype("float64")))
  grown = reported[reported["organism"] == 1]
  out = {"organisms": at.tally(grown["row"]),
         "resistant": np.minimum(at.tally(grown["row"], grown["resistant"]), 1)}
  for name, match in _match(taken["name"], items.SPECIMENS).items():
    one = taken[match == 1].drop_duplicates(["row", "sample"])
    out[f"samples_{name}"] = at.tally(one["row"])
  for name, match in _match(grown["name"], items.SPECIMENS).items():
    out[f"organism_{name}"] = np.minimum(at.tally(grown["row"][match == 1]), 1)
  return out
