"""A record enters a row only where the latest of its offsets lies before the row's minute.

One hospital, a stay for every case: its only record of a time is known early by all of its offsets
but one, and by that one a minute before a row or in its very minute.
"""

import itertools

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import eicu
from crl_jax.data.eicu import cohort as eicu_cohort, features as spec, tables as eicu_tables
from tests.data.eicu.eicu_hospital import DAY, feature, hospital, make_config, save, stay

EARLY = 60
ROWS = {0: DAY, 1: 2 * DAY}     # kind of row -> its minute
TIMES = [(s, i) for s in spec.SOURCES if not isinstance(s, spec.Values)
         for i in range(len(s.times))]
MINUTES = (DAY - 1, DAY, 2 * DAY - 1, 2 * DAY)
# (index in TIMES, minute) -> stay
CASES = {case: 100 + i for i, case in enumerate(itertools.product(range(len(TIMES)), MINUTES))}
NOTHING = 1                     # a stay without any record of a time
IDS = [f"{j}-{s.table}.{s.times[i]}" for j, (s, i) in enumerate(TIMES)]


def record(source, i, minute):
  """Column -> value of a record that feeds `source`, its i-th time at `minute`."""
  types = eicu_tables.schema()[source.table].types
  row = {c: {"string": "x", "int64": EARLY}.get(kind, "") for c, kind in types.items()}
  row |= {"cplgroup": "Volume Status"} if "cplgroup" in types else {}
  if isinstance(source, spec.Signals):
    signal = next(iter(source.signals.values()))
    value = (signal.low + signal.high) / 2
    row |= {source.name: signal.names[0], source.value: value} if source.name else (
        {signal.names[0]: value})
  return row | {source.times[i]: minute}


def names(source):
  """The features that `source` feeds."""
  if isinstance(source, spec.Signals):
    return [f"{n}_{stat}" for n, g in source.signals.items() for stat in g.stats]
  return [*source.patterns, *[source.count] * bool(source.count)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  tables = hospital([stay(i) for i in (NOTHING, *CASES.values())])
  for s, _ in TIMES:
    tables[s.table] = []
  for (j, minute), i in CASES.items():
    source, time = TIMES[j]
    tables[source.table].append({**record(source, time, minute), "patientunitstayid": i})
  tables = {name: pd.DataFrame(x) for name, x in tables.items()}
  folder = save(tmp_path_factory.mktemp("eicu"), tables)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(eicu_cohort, "odd_records", lambda t, rows: [])   # half of the time, for counts
    found = eicu.build(make_config(folder, modality_missing=1.0))
  assert len(found) == 2 * (1 + len(CASES)) and not found.info["absent_tables"]
  return found


def at(cohort, i, kind):
  """The index of a stay's row."""
  return np.flatnonzero(cohort.row_id == 10 * i + kind)[0]


def same(a, b):
  return np.array_equal(a, b, equal_nan=True)


def test_every_source_with_a_time_has_one_that_is_moved():
  assert {s.table for s, _ in TIMES} == set(eicu_tables.schema()) - {
      "patient", "hospital", "apacheApsVar", "apachePredVar"}
  assert len({(s.table, s.times[i]) for s, i in TIMES}) == 23


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("j", range(len(TIMES)), ids=IDS)
def test_a_record_known_a_minute_before_the_row_enters(cohort, j, kind):
  source, _ = TIMES[j]
  row = at(cohort, CASES[j, ROWS[kind] - 1], kind)
  assert cohort.observed[row, cohort.modalities.index(source.modality)]
  assert not all(np.isnan(feature(cohort, source.modality, name)[row]) for name in names(source))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("j", range(len(TIMES)), ids=IDS)
def test_a_record_known_in_the_rows_minute_or_later_changes_nothing(cohort, j, kind):
  without = at(cohort, NOTHING, kind)
  for minute in (x for x in MINUTES if x >= ROWS[kind]):
    row = at(cohort, CASES[j, minute], kind)
    assert same(cohort.observed[row], cohort.observed[without]), f"of minute {minute}"
    for m in cohort.modalities:
      assert same(cohort.inputs[m][row], cohort.inputs[m][without]), f"{m} of minute {minute}"
