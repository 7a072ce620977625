"""The eICU cohort of the public demo: published counts, nothing of a row from after its time."""

import numpy as np
import pandas as pd
import pytest

from crl_jax.data import eicu
from crl_jax.data.eicu import features as spec, tables as eicu_tables
from tests.data.eicu.eicu_hospital import DAY, feature, make_config, same_rows, save


@pytest.fixture(scope="module")
def demo(eicu_root):
  return eicu.build(make_config(eicu_root))


def test_demo_counts_are_the_published_ones(demo):
  hour, mortality, readmission = (demo.groups["time"] == "prediction hour", demo.labels[:, 1],
                                  demo.labels[:, 0])
  left = {s["step"]: s["left"] for s in demo.info["attrition"]}
  assert (left["unit stays in the file"] == 2045 and
          left["hospital discharge status unknown"] == 1600)
  assert (hour.sum(), np.nansum(mortality)) == (1194, 94)
  both = np.isin(demo.row_id - 1, demo.row_id[hour]) & ~hour
  assert (both.sum(), readmission[both].sum()) == (1139, 107)
  assert ((~hour).sum(), np.nansum(readmission)) == (1535, 142)
  assert demo.info["absent_tables"] == ["intakeOutput"]
  assert np.isnan(mortality[~hour]).all() and np.isnan(readmission[hour]).all()
  rates = demo.observed.mean(0)
  assert ((rates > 0.8).all() and 0.5 < rates[demo.modalities.index("fluid")] < 1 and
          len(set(demo.pattern)) > 20)


def _altered(frame, times, at, rng):
  """The table with every record known at or after its stay's minute `at` replaced by another stay's
  content, and for every stay two more records: at that very minute, and with an entry then of an
  earlier event."""
  moments = frame[times].apply(pd.to_numeric)
  late = (moments.max(axis=1).to_numpy() >=
          at.reindex(frame["patientunitstayid"]).fillna(np.inf).to_numpy())
  content = [c for c in frame.columns if c not in (*times, "patientunitstayid")]
  other = frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)
  frame = frame.reset_index(drop=True)
  frame.loc[late, content] = other.loc[late, content]
  stays = at.index.to_numpy()
  minute = np.rint(at.to_numpy()).astype(int).astype(str)
  added = frame.iloc[rng.integers(len(frame), size=len(stays))].assign(patientunitstayid=stays)
  now = added.assign(**{c: minute for c in times})
  entered = added.assign(**{c: minute if i == len(times) - 1 else "-30"
                            for i, c in enumerate(times)})
  return pd.concat([frame, now, entered], ignore_index=True)


def test_data_altered_after_the_time_of_a_row_changes_nothing(eicu_root, tmp_path):
  rng = np.random.default_rng(0)
  tables = {n: pd.read_csv(eicu_root / f"{n}.csv.gz", dtype=str, keep_default_na=False)
            for n in eicu_tables.schema() if n != "intakeOutput"}
  some = tables["patient"]["patientunitstayid"].sort_values()[::5]
  tables = {n: f[f["patientunitstayid"].isin(some)] if "patientunitstayid" in f else f
            for n, f in tables.items()}
  patient = tables["patient"]
  ids = patient["patientunitstayid"]
  discharge = patient["unitdischargeoffset"].astype(int)
  # Half of the stays are altered from 24 h on, which their discharge rows may see; the others from
  # discharge on.
  half = ids.astype(int) % 2 == 0
  at = pd.Series(np.where(half, DAY, np.maximum(discharge, DAY)), index=ids).astype(float)
  at[(~half & (discharge < DAY)).to_numpy()] = discharge[~half & (discharge < DAY)].to_numpy()
  dated = {}
  for s in spec.SOURCES:
    if not isinstance(s, spec.Values) and s.times:
      dated.setdefault(s.table, [t for t in s.times if t in eicu_tables.schema()[s.table].columns])
  assert len(dated) == 16 and dated.pop("intakeOutput")
  before = eicu.build(make_config(save(tmp_path / "before", tables)))
  altered = {}
  for name, frame in tables.items():
    frame = _altered(frame, dated[name], at, rng) if name in dated else frame.copy()
    for column in ("dischargeweight", "drugstopoffset"):
      if column in frame:
        frame[column] = "7"
    for column in ("drugordercancelled", "activeupondischarge", "unitdischargelocation",
                   "hospitaldischargelocation"):
      if column in frame:
        frame[column] = "Death"
    altered[name] = frame
  after = eicu.build(make_config(save(tmp_path / "after", altered)))
  even = (before.row_id // 10) % 2 == 0
  hour = before.groups["time"] == "prediction hour"
  same_rows(before, after, hour | ~even)
  np.testing.assert_array_equal(before.labels, after.labels)
  seen = ~hour & even & (feature(before, "admission", "hours_in_unit") > 24)
  for m in ("admission", "diagnosis", "medication", "laboratory", "vitals", "respiratory", "fluid",
            "comorbidities"):
    assert (before.inputs[m][seen] != after.inputs[m][seen]).any(), f"{m}: the test alters nothing"
