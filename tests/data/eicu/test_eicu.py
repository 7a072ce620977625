"""The eICU cohort: rows, labels, honest features, counts; on a small made-up hospital."""

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, eicu
from crl_jax.data.cohort import CohortError
from crl_jax.data.eicu import (cohort as eicu_cohort, features as spec, scores as eicu_scores,
                               stays as eicu_stays, tables as eicu_tables)
from tests.data.eicu.eicu_hospital import (DAY, HOUR, feature, hospital, make_config, same_rows,
                                           save, stay)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """Eight stays with a reason each; returns (folder, tables, cohort)."""
  stays = [
      stay(1),
      # died later, in the hospital
      stay(2, hospitaldischargestatus="Expired"),
      # died in the unit
      stay(3, unitdischargestatus="Expired", hospitaldischargestatus="Expired"),
      # left before 24 h
      stay(4, unitdischargeoffset=20 * HOUR),
      stay(5, age="> 89"), stay(6, unitdischargeoffset=11 * HOUR),
      stay(7, hospitaldischargestatus=""),
      stay(8, patienthealthsystemstayid=1001, uniquepid="002-1", unitvisitnumber=2,
           hospitaladmitoffset=-5000)]
  tables = hospital(stays)
  folder = save(tmp_path_factory.mktemp("eicu"), tables)
  return folder, tables, eicu.build(make_config(folder, modality_missing=0.99))


def only(monkeypatch, *keep):
  """Restricts builds to the sources for which `keep` has the modality or the table: faster, no
  derived features."""
  sources = [s for s in spec.SOURCES if s.modality in keep or s.table in keep]
  monkeypatch.setattr(spec, "SOURCES", sources)
  monkeypatch.setattr(spec, "MODALITIES",
                      tuple(m for m in spec.MODALITIES if m in {s.modality for s in sources}))
  monkeypatch.setattr(eicu_scores, "add", lambda values, minutes, kind: None)


@pytest.fixture
def rows_only(monkeypatch):
  """For what concerns rows and labels."""
  only(monkeypatch, "demographics")


def test_rows_and_labels_of_the_honest_protocol(small):
  _, _, c = small
  assert c.tasks == ("readmission", "mortality")
  rows = {int(r): tuple(c.labels[i]) for i, r in enumerate(c.row_id)}
  nan = pytest.approx(np.nan, nan_ok=True)
  assert rows == {10: (nan, 0), 11: (1, nan), 20: (nan, 1), 21: (0, nan), 30: (nan, 1),
                  41: (0, nan), 80: (nan, 0), 81: (0, nan)}
  same = c.patient_id[np.isin(c.row_id, (10, 80))]
  assert same[0] == same[1] and len(set(c.patient_id)) == 4
  assert (set(c.groups["time"]) == {"prediction hour", "unit discharge"} and
          set(c.groups["region"]) == {"West"})
  assert cohort_lib.validate(c).info["rows"] == 8
  assert any("than 240 h are left out, which nobody knows" in n for n in c.info["notes"])


def test_paper_protocol_has_one_row_a_stay_with_both_tasks(small, rows_only):
  c = eicu.build(make_config(small[0], protocol="paper"))
  assert c.row_id.tolist() == [12, 22, 32, 42, 82]
  np.testing.assert_array_equal(c.labels, [[1, 0], [0, 1], [np.nan, 1], [0, 0], [0, 0]])
  assert any("paper" in n for n in c.info["notes"])
  assert not any("nobody knows" in n for n in c.info["notes"])


def test_attrition_adds_up_and_odd_rows_have_rules(small):
  _, _, c = small
  steps = [s for s in c.info["attrition"] if "rows at" not in s["step"]]
  assert steps[0]["left"] == 8 and steps[-1]["left"] == 5
  assert all(a["left"] - b["removed"] == b["left"] for a, b in zip(steps, steps[1:]))
  assert {s["step"]: s["removed"] for s in steps if s["removed"]} == {
      "older than 89, '> 89' included": 1, "unit stay shorter than 12 h": 1,
      "hospital discharge status unknown": 1}
  odd = {(o["table"], o["rule"]): o["count"] for o in c.info["odd_rows"]}
  assert odd["patient", "age is '> 89': older than the inclusion criterion, excluded"] == 1
  assert odd["lab", "potassium outside 1 to 12: NaN"] == 8
  assert odd["apacheApsVar", "urine is -1, not recorded: NaN"] == 8
  # the value corrected at the 24th hour; stays 3 and 4 have no row after it
  assert odd["lab", "known only after the stay's first row: not in it"] == 3
  assert odd["lab", "known only after the stay's last row: not used"] == 2
  assert ({i["table"] for i in c.info["inputs"]} == set(eicu_tables.schema()) and
          not c.info["absent_tables"])


def test_features_are_what_the_records_say(small):
  _, _, c = small
  assert (feature(c, "laboratory", "creatinine_last")[0] == 2 and
          feature(c, "laboratory", "creatinine_max")[0] == 3)
  assert feature(c, "laboratory", "creatinine_change")[0] == 1
  assert feature(c, "laboratory", "creatinine_last")[1] == 9, (
      "revised before discharge, after the prediction hour")
  assert (np.isnan(feature(c, "apache", "albumin")).sum() == 0 and
          feature(c, "apache", "creatinine")[0] == 2.5)
  assert feature(c, "diagnosis", "ards")[0] == 1 and feature(c, "diagnosis", "stroke")[0] == 0
  assert feature(c, "medication", "sedative")[0] == 1, "an order without a name counts by its code"
  assert feature(c, "admission", "hours_in_unit").tolist() == [24, 48, 24, 48, 24, 20, 24, 48]
  assert feature(c, "demographics", "bmi")[0] == pytest.approx(70 / 1.7**2)


def test_statistics_of_a_window_are_those_of_pandas(tmp_path, monkeypatch):
  only(monkeypatch, "vitalPeriodic", "lab")
  measured = {1: {-700: 95, -1: 61.5, 0: 64, 333: 80, 600: 71, 1079: 90, 1080: 102, 1439: 77,
                  1440: 120, 2000: 55, 2519: 60, 2520: 83, 2879: 84, 2880: 30},
              2: {-30: 66, 700: 70}, 3: {-500: 99}}          # one in the window, none
  values = {i: pd.Series(x).add(0.125) for i, x in measured.items()}
  tables = hospital([stay(i) for i in measured])
  long = pd.concat([pd.DataFrame({"patientunitstayid": i, "minute": x.index, "value": x.to_numpy()})
                    for i, x in values.items()])
  long.loc[len(long)] = 1, 1000, 2001                        # neither a pulse nor a glucose
  tables["vitalPeriodic"] = long.rename(
      columns={"minute": "observationoffset", "value": "heartrate"}).reindex(
          columns=list(eicu_tables.schema()["vitalPeriodic"].types))
  tables["lab"] = long.rename(columns={"minute": "labresultoffset", "value": "labresult"}).assign(
      labname="glucose", labresultrevisedoffset="")
  c = eicu.build(make_config(save(tmp_path, tables), modality_missing=1.0))
  for i, x in values.items():
    for row, minute in ((10 * i, DAY), (10 * i + 1, 2 * DAY)):
      seen = x[x.index < minute]
      day, late = (seen[seen.index >= minute - hours * HOUR] for hours in (24, 6))
      expected = dict(heart_rate_last=seen.iloc[-1], heart_rate_mean=day.mean(),
                      heart_rate_min=day.min(), heart_rate_max=day.max(), heart_rate_sd=day.std(),
                      heart_rate_count=len(day), late_heart_rate_mean=late.mean(),
                      late_heart_rate_max=late.max())
      whole = dict(glucose_last=seen.iloc[-1], glucose_min=seen.min(), glucose_max=seen.max(),
                   glucose_change=seen.iloc[-1] - seen.iloc[0], glucose_mean=seen.mean(),
                   glucose_count=len(seen))
      at = c.row_id == row
      for modality, features in (("vitals", expected), ("laboratory", whole)):
        for name, value in features.items():
          np.testing.assert_allclose(feature(c, modality, name)[at], [value], rtol=1e-6,
                                     err_msg=f"{name} of {row}")


def test_a_modality_with_too_many_gaps_is_missing_and_zero():
  some, nan = np.array([1.0, 2.0, 3.0]), np.full(3, np.nan)
  values = {m: {"a": some, "b": np.array([np.nan, 1, 1]), "c": nan, "d": nan, "e": nan}
            for m in spec.MODALITIES}
  frame = pd.DataFrame({"row_id": [10, 20, 30], "kind": 0, "later": False,
                        "hospitaldischargestatus": "Alive", "unitdischargestatus": "Alive",
                        "age": 60.0, "gender": "Male", "ethnicity": "", "hospitalid": 1,
                        "region": None, "unittype": "MICU", "uniquepid": ["a", "b", "c"]})
  c = eicu_cohort._assemble(values, frame, 0.7, {})
  assert c.observed[:, 0].tolist() == [False, True, True]
  assert (not c.inputs["vitals"][0].any() and
          np.isnan(c.inputs["vitals"][1]).tolist() == [False, False, True, True, True])
  assert eicu_cohort._assemble(values, frame, 0.8, {}).observed.all()
  none = {m: {"a": nan} for m in spec.MODALITIES}
  assert not eicu_cohort._assemble(none, frame, 1.0, {}).observed.any()
  assert set(c.groups["ethnicity"]) == set(c.groups["region"]) == {"unknown"}


def test_later_unit_stays_by_each_definition(tmp_path, rows_only):
  stays = [stay(1), stay(2, patienthealthsystemstayid=1001, unitvisitnumber=2,
                         # at once, five hours long
                         unitdischargeoffset=5 * HOUR, hospitaladmitoffset=-600 - 2 * DAY),
           stay(3), stay(4, patienthealthsystemstayid=1003, unitvisitnumber=2,
                         hospitaladmitoffset=-600 - 3 * DAY)]
  folder = save(tmp_path, hospital(stays))
  for rule, labels in (("eligible", {11: 0, 31: 1}), ("any", {11: 1, 31: 1}),
                       ("return", {11: 0, 31: 1})):
    c = eicu.build(make_config(folder, later_stay=rule))
    got = dict(zip(c.row_id.tolist(), c.labels[:, 0].tolist()))
    assert {r: got[r] for r in labels} == labels, rule
  with pytest.raises(CohortError, match="later_stay"):
    eicu.build(make_config(folder, later_stay="sometimes"))


def test_nothing_depends_on_the_order_of_records(small, tmp_path, monkeypatch):
  only(monkeypatch, "lab", "vitalPeriodic", "diagnosis", "pastHistory", "apacheApsVar")
  tables = small[1]
  # ties in time
  lab = pd.concat([tables["lab"], tables["lab"].assign(labresult=lambda f: f["labresult"] + 1)])
  config = lambda folder: make_config(folder, modality_missing=0.99)
  first = eicu.build(config(save(tmp_path / "a", {**tables, "lab": lab})))
  mixed = {n: f.sample(frac=1, random_state=1) for n, f in {**tables, "lab": lab}.items()}
  second = eicu.build(config(save(tmp_path / "b", mixed)))
  same_rows(first, second, np.ones(len(first), bool))
  np.testing.assert_array_equal(first.labels, second.labels)


def test_absent_tables(small, tmp_path):
  _, tables, c = small
  few = {n: f for n, f in tables.items()
         if n not in ("treatment", "respiratoryCharting", "hospital", "vitalAperiodic")}
  cut = eicu.build(make_config(save(tmp_path / "few", few)))
  assert sorted(cut.info["absent_tables"]) == ["hospital", "respiratoryCharting", "treatment",
                                               "vitalAperiodic"]
  assert cut.features == c.features and cut.row_id.tolist() == c.row_id.tolist()
  (tmp_path / "few" / "diagnosis.csv.gz").unlink()
  with pytest.raises(CohortError, match="diagnosis.csv.gz"):
    eicu.build(make_config(tmp_path / "few"))


def test_new_patients_may_lack_outcomes_discharge_and_tables(small, tmp_path, monkeypatch):
  _, _, c = small
  stays = [stay(1, hospitaldischargestatus="", unitdischargestatus="", unitdischargeoffset=""),
           stay(2), stay(7)]
  stays[2].update(hospitaldischargestatus="", unitdischargestatus="Alive")
  patient = pd.DataFrame(stays)
  folder = save(tmp_path / "new", {"patient": patient, "lab": hospital(stays)["lab"]})
  new = eicu.build(make_config(folder), for_prediction=True)
  assert new.features == c.features
  assert len(new.info["absent_tables"]) == len(eicu_tables.schema()) - 2
  assert new.row_id.tolist() == [10, 20, 21, 70, 71]
  np.testing.assert_array_equal(new.labels, [[np.nan, np.nan], [np.nan, 0], [0, np.nan],
                                             [np.nan, np.nan], [np.nan, np.nan]])
  only(monkeypatch, "demographics")
  bare = patient.drop(columns=["hospitaldischargestatus", "unitdischargestatus",
                               "hospitaldischargeoffset"])
  bare = eicu.build(make_config(save(tmp_path / "bare", {"patient": bare})), for_prediction=True)
  assert np.isnan(bare.labels).all() and len(bare) == 5
  with pytest.raises(CohortError, match="hospitaldischargestatus"):
    save(tmp_path / "c", {**small[1], "patient": patient.drop(columns="hospitaldischargestatus")})
    eicu.build(make_config(tmp_path / "c"))


def test_older_than_89_counts_as_90_where_the_limit_allows_it(tmp_path, rows_only):
  stays = [stay(1), stay(2, age="> 89"), stay(3, age=">89"), stay(4, age="")]
  folder = save(tmp_path, hospital(stays))
  c = eicu.build(make_config(folder, max_age=120))
  assert c.row_id.tolist() == [10, 11, 20, 21, 30, 31]
  assert feature(c, "demographics", "age").tolist() == [60, 60, 90, 90, 90, 90]
  assert set(c.groups["age_band"][2:]) == {"75 and over"}
  assert [s for s in c.info["attrition"] if s["removed"]] == [
      {"step": "age unknown", "removed": 1, "left": 3}]
  assert any("'> 89' counts as 90 years" in note for note in c.info["notes"])
  assert {"table": "patient", "rule": "age is '> 89': counts as 90", "count": 2
          } in c.info["odd_rows"]
  at_89 = eicu.build(make_config(folder, max_age=89))
  assert at_89.row_id.tolist() == [10, 11]
  assert not any("counts as 90" in note for note in at_89.info["notes"])


def test_commas_in_numbers_are_read_or_counted(tmp_path, monkeypatch):
  only(monkeypatch, "respiratoryCharting")
  tables = hospital([stay(i) for i in range(1, 6)])
  chart = tables["respiratoryCharting"]
  chart["respchartvaluelabel"] = ["Exhaled MV"] * 3 + ["Tidal Volume (set)", "another label"]
  chart["respchartvalue"] = ["7,5", "7.5", "1,2,3", "1,200", "1 200"]
  c = eicu.build(make_config(save(tmp_path, tables), modality_missing=1.0))
  at_hour = c.row_id % 10 == 0
  assert feature(c, "respiratory", "minute_volume_last")[at_hour][:2].tolist() == [7.5, 7.5]
  assert not c.observed[at_hour][2, c.modalities.index("respiratory")]   # its only value is unclear
  assert feature(c, "respiratory", "tidal_volume_last")[at_hour][3] == 1200
  assert {"table": "respiratoryCharting", "count": 1,
          "rule": "respchartvalue can be read as two numbers: NaN"} in c.info["odd_rows"]


def test_bad_ids_and_empty_cohorts_are_refused(small, tmp_path, rows_only):
  tables = small[1]
  twice = pd.concat([tables["patient"], tables["patient"].head(2).assign(age="44")])
  with pytest.raises(CohortError, match="2 rows whose patientunitstayid"):
    eicu.build(make_config(save(tmp_path / "a", {**tables, "patient": twice})))
  with pytest.raises(CohortError, match="without an id"):
    eicu.build(make_config(save(tmp_path / "b",
                                {**tables, "patient": tables["patient"].assign(uniquepid=" ")})))
  with pytest.raises(CohortError, match="No row is left.*older than"):
    eicu.build(make_config(save(tmp_path / "c",
                                {**tables, "patient": tables["patient"].assign(age="> 89")})))
  with pytest.raises(CohortError, match="protocol"):
    eicu.build(make_config(small[0], protocol="dishonest"))


def test_the_folder_to_spill_into_is_that_of_the_config(small, tmp_path):
  with pytest.raises(CohortError, match="data.spill='.*nowhere' is not a folder"):
    eicu.build(make_config(small[0], spill=str(tmp_path / "nowhere")))


def test_day_one_records_wait_for_the_first_day_to_end(small, monkeypatch):
  only(monkeypatch, "apache")
  early = eicu.build(make_config(small[0], prediction_hour=12.0))
  m = early.modalities.index("apache")
  at_hour = early.groups["time"] == "prediction hour"
  assert not early.observed[at_hour, m].any() and early.observed[~at_hour, m].all()
  assert not np.any(early.inputs["apache"][at_hour])


def test_every_query_compiles_for_other_engines():
  import ibis
  c = config_lib.default().data.eicu
  compiled = []

  def keep(expr):
    compiled.append(ibis.to_sql(expr, dialect="bigquery"))
    return ibis.table(expr.schema(), name=f"kept_{len(compiled)}")

  t = eicu_cohort.prepare({n: ibis.table(table.types, name=n)
                    for n, table in eicu_tables.schema().items()}, keep)
  rows = keep(eicu_stays.row_table(eicu_stays.stay_table(t["patient"], c), c, "honest"))
  for s in spec.SOURCES:
    keep(eicu_cohort.feature_query(s, t[s.table], rows))
  assert len(compiled) == len(spec.SOURCES) + 3 and all("SELECT" in q for q in compiled)


def test_the_feature_table_reads_no_outcome_and_names_every_feature_once(small):
  outcome = {"hospitaldischargestatus", "unitdischargestatus", "hospitaldischargeoffset",
             "unitdischargeoffset", "hospitaldischargelocation", "unitdischargelocation",
             "dischargeweight", "activeupondischarge", "drugstopoffset", "drugordercancelled",
             "diedinhospital", "dischargelocation", "ventendoffset"}
  for _, table, columns, _, _ in spec.describe():
    assert table != "apachePatientResult" and not outcome & set(columns.split(", "))
  names = [(s.modality, f) for s in spec.SOURCES for f in _names(s)]
  assert len(names) == len(set(names))
  assert {m for m, *_ in spec.describe()} == set(spec.MODALITIES) == set(small[2].features)


def _names(s):
  if isinstance(s, spec.Signals):
    return [f"{n}_{stat}" for n, g in s.signals.items() for stat in g.stats]
  return list(s.columns) if isinstance(s, spec.Values) else list(s.patterns) + [s.count] * bool(
      s.count)


def test_points_at_their_bounds():
  points = eicu_scores._points(np.array([39.9, 40, 99.9, 154.9, 155, np.nan]),
                               *eicu_scores.APS_POINTS["heart_rate"])
  np.testing.assert_array_equal(points, [8, 5, 0, 13, 17, np.nan])
  assert all(len(p) == len(b) + 1
             for b, p in [*eicu_scores.APS_POINTS.values(), eicu_scores.AGE_POINTS])
