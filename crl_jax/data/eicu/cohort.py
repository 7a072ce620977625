"""The eICU-CRD cohort: unit stays as rows, ten virtual modalities, readmission to the unit and
hospital mortality.

features.py says which table and columns feed which modality, stays.py which stays become rows. Here
is the rule that keeps a row honest: a record enters only where the latest of its offsets lies
before the row's minute. Everything is Ibis expressions over the tables that data/tables/source.py
opens, executed once each.

Rows. Honest protocol: one at `prediction_hour` for each stay still in the unit (task mortality),
and one at unit discharge for each stay that left the unit alive (task readmission). Paper protocol:
one per stay, at unit discharge, with both tasks where they are defined.
"""

import hashlib

import numpy as np

from crl_jax.data import prepared, units
from crl_jax.data.cohort import Cohort, CohortError
from crl_jax.data.eicu import (features as spec, files as eicu_files, scores, stays as eicu_stays,
                               tables as eicu_tables)
from crl_jax.data.tables import numbers, repeats, source as tables

TASKS = ("readmission", "mortality")
RECIPE = prepared.Recipe(
    keys=("data.protocol", "data.encoding", "data.eicu"),
    files=lambda config: [path for paths in tables.find(
        config.data.root, eicu_tables.schema()).values() for path in paths],
    other_code=("mimic", "text"))
_YEAR = 365 * spec.DAY
# values are summed as whole thousandths: exact, so the order of records in a file cannot matter
_UNIT = 1000


def build(config, for_prediction=False):
  """Returns the eICU `Cohort` of the folder `config.data.root`.

  Args:
    config: the whole tree; `data.root`, `protocol`, `encoding`, `memory_limit`, `spill` and
      `data.eicu` are read.
    for_prediction: new patients: outcomes may be unknown (their labels are NaN), patients still in
      the unit may lack a discharge time, and every table but `patient` may be absent.

  Raises:
    CohortError: see tables.open_folder; also duplicated or missing ids, or no row left.
  """
  c, protocol = config.data.eicu, config.data.protocol
  if protocol not in ("honest", "paper"):
    raise CohortError(f"data.protocol is '{protocol}'; it must be 'honest' or 'paper'.")
  schema = eicu_tables.schema(for_prediction)
  with tables.open_folder(config.data.root, schema, config.data.encoding,
                          config.data.memory_limit, config.data.spill,
                          known=eicu_files.TABLES) as source:
    served, odd = repeats.served(source, ("patient", "hospital"))
    t = prepare(served, source.keep)
    eicu_stays.check_ids(t["patient"])
    stays = eicu_stays.stay_table(t["patient"], c, for_prediction)
    about = stays.order_by("stay").to_pandas()
    steps = eicu_stays.attrition(about, c, for_prediction)
    rows = source.keep(eicu_stays.row_table(stays, c, protocol, for_prediction))
    frame = rows.order_by("row_id").to_pandas()
    if not len(frame):
      left = "; ".join(f"{s['step']}: {s['left']:,} left" for s in steps)
      raise CohortError(f"No row is left of the patient table ({left}). Check config.data.eicu and "
                        "the folder.")
    row_id = frame["row_id"].to_numpy(np.int64)
    odd += eicu_stays.odd_stays(about, c) + odd_records(t, rows) + source.odd
    values, read = {m: {} for m in spec.MODALITIES}, dict(t)
    for name in eicu_tables.OWN.keys() & {s.table for s in spec.SOURCES}:
      read[name] = source.keep(repeats.once(t[name].semi_join(rows, "stay")))
      odd += repeats.again(name, read[name])
    for s in spec.SOURCES:
      values[s.modality].update(_collect(s, read[s.table], rows, row_id))
  kind = frame["kind"].to_numpy()
  scores.add(values, frame["time"].to_numpy(np.float64), kind)
  # parts of the stays left, which may overlap, so nothing is removed
  steps += [{"step": f"of which with rows at {eicu_stays.KINDS[k]}", "removed": None,
             "left": int((kind == k).sum())} for k in sorted(set(kind))]
  info = dict(attrition=steps, odd_rows=[o for o in odd if o["count"]], inputs=source.inputs,
              absent_tables=source.absent, protocol=protocol,
              notes=_notes(c, protocol, for_prediction))
  return _assemble(values, frame, c.modality_missing, info)


def _notes(c, protocol, for_prediction):
  """What a reader of the results has to know, in sentences."""
  rows = {"honest": f"mortality at {c.prediction_hour:g} h after unit admission, readmission at "
                    "unit discharge, both from what was recorded before",
          "paper": "one per stay, with all information up to unit discharge (the paper's protocol: "
                   "more than anyone at the bedside knows when a prediction is wanted)"}[protocol]
  later = {"eligible": "whose length meets the inclusion criteria", "any": "of any length",
           "return": "that began after a time outside the unit"}[c.later_stay]
  older = ([f"Age '> 89' counts as {eicu_stays.OLDEST:g} years: those are in, as data.eicu.max_age "
            f"is {c.max_age}."] if c.max_age >= eicu_stays.OLDEST else [])
  notes = [f"Rows: {rows}.", *older,
           f"Readmission: a later unit stay in the same hospital stay, {later}.",
           "APACHE variables are the worst of the first 24 h: used in rows at 24 h or later and at "
           "discharge."]
  if protocol == "honest":
    notes.append(f"Stays longer than {c.max_stay_hours:g} h are left out, which nobody knows at "
                 "the prediction hour (data.eicu.max_stay_hours sets the limit).")
  if for_prediction:
    notes.append("New patients: rows with unknown outcomes are kept, their labels are undefined.")
  return notes


def prepare(t, keep=lambda table: table):
  """Returns the tables with the derived columns that features.py names, and `stay` for
  patientunitstayid.

  Args:
    t: name -> ibis table of tables.schema.
    keep: stores a derived table that several queries read (tables.Source.keep); by default it is
      derived each time.
  """
  import ibis

  text = lambda x: x.fill_null("")
  p = t["patient"]
  for column in ("hospitaldischargestatus", "unitdischargestatus"):
    status = p[column].strip().lower()
    p = p.mutate(**{column: ibis.cases((status == "alive", "Alive"),
                                       (status == "expired", "Expired"), else_=None)})
  p = p.mutate(age_text=text(p.age).strip(), age=eicu_stays.years(p.age.strip()),
               male=ibis.cases((p.gender == "Male", 1.0), (p.gender == "Female", 0.0), else_=None),
               hours_before=-p.hospitaladmitoffset / 60.0,
               hour=p.unitadmittime24.substr(0, 2).try_cast("float64"))
  h = t["hospital"]
  h = h.group_by("hospitalid").agg(beds=h.numbedscategory.min(), teaching=h.teachingstatus.min(),
                                   region=h.region.min())
  h = h.mutate(facts="teaching " + text(h.teaching) + " beds " + text(h.beds) +
               " region " + text(h.region))
  patient = keep(p.left_join(h, "hospitalid").drop("hospitalid_right"))
  plan = t["carePlanGeneral"]
  plan = plan.mutate(item=text(plan.cplgroup) + "|" + text(plan.cplitemvalue),
                     volume=ibis.cases((plan.cplgroup == "Volume Status", plan.cplitemvalue),
                                       else_=None))
  plan = keep(plan)
  talks = t["carePlanEOL"].mutate(discussion=ibis.literal("discussion"))
  out = {**t, "patient": patient, "hospital": patient.select("patientunitstayid", "facts"),
         "carePlanGeneral": plan, "carePlanEOL": talks}
  return {name: table.rename(stay="patientunitstayid") for name, table in out.items()}


# Features: one query per source -------------------------------------------------------------------


def feature_query(s, table, rows, named=()):
  """Returns the Ibis expression that computes the source `s` (of features.SOURCES) for `rows`;
  any engine's.

  Args:
    named: of Signals with units: `units_named`.
  """
  rows = rows.select("row_id", "stay", "time", "day_one")
  if isinstance(s, spec.Signals):
    return _signals_query(s, table, rows, named)
  return {spec.Values: _values_query, spec.Flags: _flags_query}[type(s)](s, table, rows)


def units_named(s, table):
  """The pairs (name of a measurement, unit) that occur in the table of Signals."""
  if not isinstance(s, spec.Signals) or not s.unit:
    return ()
  pairs = table.filter(table[s.unit].notnull()).select(s.name, s.unit).distinct().to_pandas()
  return tuple(sorted(pairs.itertuples(index=False, name=None)))


def _known(table, times):
  """Minutes after unit admission at which a record is known: the latest of its offsets, NULL where
  it has none."""
  import ibis

  if not times:
    return ibis.literal(-spec.LOOKBACK)
  offsets = [table[c] for c in times]
  first = ibis.coalesce(*offsets)
  return ibis.greatest(*[o.fill_null(first) for o in offsets]) if len(offsets) > 1 else first


def _number(value):
  """A number, or the first number in a text, NULL where there is none."""
  return numbers.first(value) if value.type().is_string() else value


def _plausible(value, low, high):
  return (value >= low) & (value <= high)


def _as_other(x, unit, bounds):
  """The value of numbers that can only be of another unit than `unit`, NULL of the others.

  Args:
    bounds: {unit: (lowest, highest)}.
  """
  import ibis

  found = []
  for other, (low, high) in bounds.items():
    factor, offset = units.convert(unit, other)
    found.append((_plausible(x, low, high), x * factor + offset))
  return ibis.cases(*found, else_=None) if found else ibis.null("float64")


def _in_unit(s, table, named):
  """(number, strange) of the records of Signals in a column of their own: the value in the signal's
  unit; whether the record names a unit that nothing converts into it."""
  import ibis

  number, signals = _number(table[s.value]), {n: k for k, g in s.signals.items() for n in g.names}
  change, strange = [], ibis.literal(False)
  for name, text in named:
    unit, written = s.signals[signals[name]].unit if name in signals else "", units.written(text)
    if not unit or written in units.NO_UNIT:
      continue
    here = ((table[s.name] == name) & (table[s.unit] == text)).fill_null(False)
    factor, offset = units.conversions(unit, signals[name]).get(written, (None, None))
    if factor is None:
      strange = strange | here
    elif (factor, offset) != (1, 0):
      change.append((here, number * factor + offset))
  return ibis.cases(*change, else_=number) if change else number, strange


def _values_query(s, table, rows):
  """row_id and the features, one record per row; of several records of a stay the one with the
  smallest id counts, and of several with one id the smaller value."""
  import ibis

  columns = {f: ibis.cases((_plausible(table[c], low, high), table[c].cast("float64")),
                           else_=_as_other(table[c].cast("float64"), *s.other.get(f, ("", {}))))
             for f, (c, low, high) in s.columns.items()}
  key = s.table.lower() + "id"
  one = table.select("stay", **columns, order=table[key] if key in table.columns else table.stay)
  one = one.group_by("stay", "order").agg(**{f: one[f].min() for f in columns})
  one = one.group_by("stay").agg(**{f: one[f].argmin(one.order) for f in columns})
  if s.day_one:
    rows = rows.filter(rows.day_one)
  return rows.join(one, "stay").select("row_id", *columns)


def _flags_query(s, table, rows):
  """row_id, number of records, and 0 / 1 per feature, for the rows with at least one record known
  by then."""
  import ibis

  text = table[s.text].lower()
  used = text.notnull()
  hits = {f: text.re_search(pattern).fill_null(False) for f, pattern in s.patterns.items()}
  if s.codes:
    code = table[s.codes[0]]
    used = used | code.notnull()
    hits.update({f: hits[f] | code.isin(numbers).fill_null(False)
                 for f, numbers in s.codes[1].items()})
  records = table.select("stay", used=used, known=_known(table, s.times),
                         **{f: hit.cast("int64") for f, hit in hits.items()})
  records = records.filter(records.used & (records.known.abs() <= _YEAR))
  seen = rows.join(records, "stay")
  seen = seen.filter(seen.known < seen.time)
  if s.window:
    recent = (seen.known >= seen.time - s.window).cast("int64")
    seen = seen.mutate(one=recent, **{f: seen[f] * recent for f in hits})
  else:
    seen = seen.mutate(one=ibis.literal(1))
  return seen.group_by("row_id").agg(records=seen.one.sum(), **{f: seen[f].max() for f in hits})


def _signals_query(s, table, rows, named):
  """row_id, signal and its statistics over the records known by then, in thousandths of the
  unit."""
  import ibis

  known = _known(table, s.times)
  if s.name:
    names = {n: signal for signal, g in s.signals.items() for n in g.names}
    kept = table.mutate(known=known, value=_in_unit(s, table, named)[0], label=table[s.name])
    kept = kept.filter(kept.label.isin(list(names)))
    long = kept.select("stay", "known", "value", signal=kept.label.cases(*names.items()))
  else:
    long = ibis.union(*[table.select("stay", known=known, value=table[n].cast("float64"),
                                     signal=ibis.literal(signal))
                        for signal, g in s.signals.items() for n in g.names])
  low = long.signal.cases(*[(n, float(g.low)) for n, g in s.signals.items()])
  high = long.signal.cases(*[(n, float(g.high)) for n, g in s.signals.items()])
  other = [(long.signal == n, _as_other(long.value, g.unit, g.other))
           for n, g in s.signals.items() if g.other]
  if other:
    long = long.mutate(value=ibis.ifelse(_plausible(long.value, low, high), long.value,
                                         ibis.cases(*other, else_=None)))
    long = long.filter(long.value.notnull())
  else:
    long = long.filter(_plausible(long.value, low, high))
  long = long.filter(long.known >= -spec.LOOKBACK, long.known <= _YEAR)
  long = long.mutate(value=(long.value * _UNIT).round().cast("int64"))
  seen = rows.join(long, "stay")
  seen = seen.filter(seen.known < seen.time)
  # At a tie in time the larger value counts, whatever the order of the file.
  seen = seen.mutate(order=seen.known * 10**10 + seen.value,
                     recent=(seen.known >= seen.time - s.window) if s.window
                     else ibis.literal(True))
  v, recent = seen.value, seen.recent
  squares = ({"squares": (v * v).sum(where=recent)}
             if any("sd" in g.stats for g in s.signals.values()) else {})
  return seen.group_by("row_id", "signal").agg(
      last=v.argmax(seen.order), first=v.argmin(seen.order), min=v.min(where=recent),
      max=v.max(where=recent), count=v.count(where=recent), total=v.sum(where=recent), **squares)


def _collect(s, table, rows, row_id):
  """Runs the query of source `s`. Returns feature -> (N,) float64 in the order of `row_id`, NaN
  where none is known."""
  frame = feature_query(s, table, rows, units_named(s, table)).to_pandas()
  place = np.searchsorted(row_id, frame["row_id"].to_numpy(np.int64))

  def spread(values, mine=slice(None)):
    out = np.full(len(row_id), np.nan)
    out[place[mine]] = values
    return out

  number = lambda column: column.to_numpy(np.float64, na_value=np.nan)
  if isinstance(s, spec.Values):
    return {f: spread(number(frame[f])) for f in s.columns}
  if isinstance(s, spec.Flags):
    out = {f: spread(number(frame[f])) for f in s.patterns}
    return {**out, s.count: spread(number(frame["records"]))} if s.count else out
  out = {}
  for signal, g in s.signals.items():
    mine = (frame["signal"] == signal).to_numpy()
    sums = {column: number(frame[column][mine]) for column in frame.columns
            if column not in ("row_id", "signal")}
    out.update({f"{signal}_{stat}": spread(_statistic(stat, sums), mine) for stat in g.stats})
  return out


def _statistic(stat, sums):
  """One statistic of a signal from the exact sums of `_signals_query`; NaN where its window is
  empty."""
  n = sums["count"]
  if stat == "count":
    return n
  if stat == "change":
    return (sums["last"] - sums["first"]) / _UNIT
  mean = sums["total"] / np.where(n > 0, n, np.nan)
  if stat == "mean":
    return mean / _UNIT
  if stat == "sd":
    return np.sqrt(
        np.maximum(sums["squares"] - n * mean**2, 0) / np.where(n > 1, n - 1, np.nan)) / _UNIT
  return sums[stat] / _UNIT


# From values to the Cohort ------------------------------------------------------------------------


def _assemble(values, frame, modality_missing, info):
  """Returns the Cohort; a modality is missing in a row where over `modality_missing` of its
  features are NaN."""
  inputs, features, observed = {}, {}, []
  for m in spec.MODALITIES:
    features[m] = tuple(values[m])
    x = np.stack([values[m][f] for f in features[m]], 1).astype(np.float32)
    gaps = np.isnan(x).mean(1)
    present = (gaps <= modality_missing) & (gaps < 1)
    inputs[m] = np.where(present[:, None], x, np.float32(0))
    observed.append(present)

  kind, later = frame["kind"].to_numpy(), frame["later"].to_numpy(bool)
  known = frame["hospitaldischargestatus"].notna().to_numpy()
  died = (frame["hospitaldischargestatus"] == "Expired").to_numpy(bool)
  alive = (frame["unitdischargestatus"] == "Alive").to_numpy(bool)
  mortality = np.where(known & (kind != 1), died, np.nan)
  # That no later stay is on file means none only once the hospital stay is over.
  readmission = np.where(alive & (later | known) & (kind != 0), later, np.nan)

  text = lambda column: frame[column].fillna("").astype(str).str.strip().replace(
      "", "unknown").to_numpy(str)
  bands = np.array(["18-44", "45-64", "65-74", "75 and over"])
  groups = dict(sex=text("gender"), ethnicity=text("ethnicity"), hospital=text("hospitalid"),
                region=text("region"),
                age_band=bands[np.digitize(frame["age"].to_numpy(np.float64), (45, 65, 75))],
                unit=text("unittype"), time=np.array([eicu_stays.KINDS[k] for k in kind]))
  return Cohort(modalities=spec.MODALITIES, tasks=TASKS, inputs=inputs,
                observed=np.stack(observed, 1),
                labels=np.stack([readmission, mortality], 1).astype(np.float32), groups=groups,
                features=features, row_id=frame["row_id"].to_numpy(np.int64),
                patient_id=_patient_ids(frame["uniquepid"]), info=info)


def _patient_ids(names):
  """int64 ids of eICU's text ids: 63 bits of SHA-256, the same in every folder. Raises CohortError
  on a collision."""
  ids = {n: int.from_bytes(hashlib.sha256(n.encode()).digest()[:8], "big") >> 1 for n in set(names)}
  if len(set(ids.values())) < len(ids):
    raise CohortError("Two uniquepid of the patient table share one 63-bit hash; rename "
                      "one of them.")
  return np.array([ids[n] for n in names], np.int64)


def odd_records(t, rows):
  """Counts odd records of every table with the rule for each: list of {table, rule, count}; one
  query per source.

  Args:
    t: name -> table of `prepare`.
    rows: row_table.
  """
  times = rows.group_by("stay").agg(first_row=rows.time.min(), last_row=rows.time.max())
  found = {}
  for s in spec.SOURCES:
    table = t[s.table].left_join(times, "stay").drop("stay_right")
    rules = [(rule, hits) for rule, hits in _odd_rules(s, table, units_named(s, t[s.table]))
             if (s.table, rule) not in found]
    if rules:
      counts = table.aggregate(**{f"c{i}": hits.fill_null(0) for i, (_, hits) in enumerate(rules)})
      row = counts.to_pandas().iloc[0]
      found.update({(s.table, rule): int(row[f"c{i}"]) for i, (rule, _) in enumerate(rules)})
  return [{"table": table, "rule": rule, "count": count} for (table, rule), count in found.items()]


def _odd_rules(s, table, named):
  """Yields (rule, count expression) of the source `s`; `named` is its `units_named`."""
  import ibis

  def outside(name, value, low, high, unit="", bounds=None):
    """The rules of numbers outside a range."""
    span, out = f"{name} outside {low:g} to {high:g}", ~_plausible(value, low, high)
    other = _as_other(value, unit, bounds or {}).notnull()
    yield f"{span}: NaN", (out & ~other).sum()
    if bounds:
      yield (f"{span}, can only be of another unit ({', '.join(bounds)}): converted",
             (out & other).sum())

  if isinstance(s, spec.Values):
    for f, (c, low, high) in s.columns.items():
      if s.day_one:
        yield f"{c} is -1, not recorded: NaN", (table[c] == -1).sum()
      value = table[c].cast("float64")
      yield from outside(c, value.nullif(-1) if s.day_one else value, low, high,
                         *s.other.get(f, ()))
    yield ("several records of one stay: the one with the smallest id counts",
           table.count() - table.stay.nunique())
  elif s.times:
    known = _known(table, s.times)
    yield "no offset: not used", known.isnull().sum()
    yield "more than a year from unit admission: not used", (known.abs() > _YEAR).sum()
    yield "before unit admission: used, as known by then", (known < 0).sum()
    near, last = known <= _YEAR, table.last_row
    yield "known only after the stay's last row: not used", ((known >= last) & near).sum()
    yield ("known only after the stay's first row: not in it",
           ((known >= table.first_row) & (known < last) & near).sum())
    if len(s.times) > 1:
      event, entry = s.times
      yield f"{entry} before {event}: known from the later one", (table[entry] < table[event]).sum()
  if isinstance(s, spec.Signals):
    yield ("measured more than 7 days before unit admission: not used",
           (known < -spec.LOOKBACK).sum())
    if s.name and table[s.value].type().is_string():
      every = [name for g in s.signals.values() for name in g.names]
      yield (f"{s.value} can be read as two numbers: NaN",
             (table[s.name].isin(every) & numbers.unclear(table[s.value])).sum())
    number, strange = _in_unit(s, table, named) if s.name else (None, None)
    for signal, g in s.signals.items():
      mine = table[s.name].isin(g.names) if s.name else None
      for value in ([ibis.cases((mine, number), else_=None)] if s.name else
                    [table[n].cast("float64") for n in g.names]):
        yield from outside(signal, value, g.low, g.high, g.unit, g.other)
      if named and g.unit:
        yield (f"{signal} in a unit that nothing converts: read as if it named none",
               (mine & strange).sum())
