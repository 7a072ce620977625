"""Prediction sets: p-values by hand, coverage within every pattern, few patients, merged patterns,
repeated rows."""

import json

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.statistics import conformal

MODALITIES = ("structured", "image", "text")


@pytest.fixture
def config():
  return config_lib.default().evaluate


def make(patients=3000, rows=1, seed=0, share=0.4, patterns=(1, 3, 7, 5),
         rates=(0.5, 0.3, 0.17, 0.03)):
  """A member whose model is overconfident, and wrong in pattern 3; a patient's rows are alike."""
  rng = np.random.default_rng(seed)
  patient = np.repeat(np.arange(patients), rows)
  pattern = rng.choice(patterns, patients, p=rates)[patient]
  x = rng.normal(size=patients)[patient] + 0.1 * rng.normal(size=len(patient))
  sigmoid = lambda v: 1 / (1 + np.exp(-v))
  truth = sigmoid(x - 1 + 2 * (pattern == 3))
  y = (rng.random(patients)[patient] < truth).astype(float)
  return pd.DataFrame(dict(
      row_id=np.arange(len(patient)), patient_id=patient + 10 ** 10, fold=0, seed=0,
      role=np.where(rng.random(patients)[patient] < share, "val", "test"), pattern=pattern, y_a=y,
      p_base_a=sigmoid(2 * x - 1)))


def test_p_values_by_hand():
  found = conformal.p_values(np.array([0.1, 0.3, 0.3, 0.9, 0.5]), np.array([1, 1, 1, 1, 2]),
                             np.arange(5), np.array([[0.3, 0.95], [0.05, 0.5]]), np.array([1, 1]))
  np.testing.assert_allclose(found, [[4 / 5, 1 / 5], [1, 2 / 5]])
  alone = conformal.p_values(np.array([0.1]), np.array([1]), np.array([0]), [[0.9, 0.0]],
                             np.array([8]))
  np.testing.assert_array_equal(alone, [[1, 1]])   # nobody to compare with: both labels


def test_rows_of_a_patient_weigh_one():
  score, patient = np.array([0.9, 0.9, 0.9, 0.1]), np.array([4, 4, 4, 9])
  found = conformal.p_values(score, np.zeros(4), patient, [[0.5]], np.zeros(1))
  np.testing.assert_allclose(found, [[2 / 3]])


def test_covers_within_every_pattern(config):
  """Over 60 splits the mean coverage of each pattern is at least 90%, and no more than the size of
  its calibration explains; a calibration that ignored the pattern would miss pattern 3."""
  covered = {p: [] for p in (1, 3, 7)}
  config.min_cell = 1   # nothing is withheld
  for seed in range(60):
    table = conformal.add(make(patients=1500, seed=seed), ("a",), config)
    found = conformal.study(table, ("a",), MODALITIES, config)["tasks"]["a"]
    for row in found["patterns"]:
      if row["pattern"] in covered:
        covered[row["pattern"]].append((row["coverage"]["value"], row["patients"]))
  for pattern, values in covered.items():
    value, n = np.transpose(values)
    error = 3 * np.sqrt(0.09 / n.sum() + 0.09 / (n.sum() / 1.5))
    assert 0.9 - error <= np.average(value, weights=n) <= 0.93, pattern


def test_repeated_rows_do_not_buy_certainty(config):
  """With 20 rows a patient, coverage of patients holds where it would not if rows were counted."""
  found = []
  for seed in range(40):
    table = conformal.add(make(patients=60, rows=20, seed=seed, share=0.5, patterns=(1,),
                               rates=(1,)), ("a",), config)
    found.append(conformal.study(table, ("a",), MODALITIES, config)["tasks"]["a"]["coverage"]
                 ["value"])
  assert np.mean(found) >= 0.9 - 3 * np.std(found) / np.sqrt(len(found))


def test_few_calibration_patients_give_both_labels(config):
  config.by_class = False
  table = make(patients=12, patterns=(1,), rates=(1,))
  assert 0 < (table.role == "val").sum() < 9
  found = conformal.study(conformal.add(table, ("a",), config), ("a",), MODALITIES, config)
  assert found["tasks"]["a"]["both"] == 1 and "both labels" in found["rule"]


def test_rare_patterns_share_a_category(config):
  config.by_class = False
  table = make(patients=400)
  found = conformal.add(table, ("a",), config)
  by = found.groupby("pattern").category_a.unique()
  assert list(by[1]) == [1] and list(by[5]) == [conformal.MERGED]
  rows = conformal.study(found, ("a",), MODALITIES, config)["tasks"]["a"]
  assert not any(row["merged"] for row in rows["patterns"] if row["pattern"] in (1, 3))
  assert all(row["merged"] for row in rows["patterns"] if row["pattern"] == 5)


def test_a_rare_pattern_is_told_with_another(config):
  """Its size, and its sets, do not follow from those of the others and of all."""
  table = make(patients=400)
  test = table.pattern[table.role == "test"]
  rare = table.pattern[(table.pattern == 5) & (table.role == "test")]
  assert 0 < len(rare) < 10
  found = conformal.study(conformal.add(table, ("a",), config), ("a",), MODALITIES, config)
  rows = {row["name"]: row for row in found["tasks"]["a"]["patterns"]}
  host = "structured+image+text + rarer patterns"
  assert set(rows) == {"structured", "structured+image", host} and rows[host]["rare"] == 1
  assert rows[host]["n"] == (test == 7).sum() + len(rare)
  assert sum(row["n"] for row in rows.values()) == found["tasks"]["a"]["n"]


def test_outcomes_of_test_rows_change_no_set(config):
  table = make(patients=500)
  other = table.assign(y_a=table.y_a.where(table.role == "val", 1 - table.y_a))
  a, b = (conformal.add(t, ("a",), config) for t in (table, other))
  for column in ("conformal_a_0", "conformal_a_1", "category_a"):
    pd.testing.assert_series_equal(a[column], b[column])
  hidden = conformal.add(table.assign(y_a=table.y_a.where(table.role == "val")), ("a",), config)
  pd.testing.assert_series_equal(a.conformal_a_1, hidden.conformal_a_1)


def test_members_are_calibrated_apart(config):
  one, other = make(seed=1, patients=600), make(seed=2, patients=600)
  both = pd.concat([one, other.assign(seed=1)], ignore_index=True)
  found = conformal.add(both, ("a",), config)
  np.testing.assert_array_equal(found.conformal_a_1[:len(one)],
                                conformal.add(one, ("a",), config).conformal_a_1)


def test_without_labels_or_validation_rows(config):
  table = make(patients=200)
  nothing = conformal.study(conformal.add(table.assign(y_a=np.nan), ("a",), config), ("a",),
                            MODALITIES, config)
  assert nothing["tasks"]["a"]["coverage"]["value"] is None
  assert "no row" in nothing["tasks"]["a"]["coverage"]["reason"]
  test_only = table[table.role == "test"]
  found = conformal.study(conformal.add(test_only, ("a",), config), ("a",), MODALITIES, config)
  assert found["tasks"]["a"]["both"] == 1
  json.dumps([nothing, found], allow_nan=False)


def test_coverage_of_few_positives_is_not_told(config):
  table = make(patients=900)
  few = (table.pattern == table.pattern.mode()[0]) & (table.role == "test")
  table.loc[few, "y_a"] = (np.arange(few.sum()) < 3).astype(float)
  entry = conformal.study(conformal.add(table, ("a",), config), ("a",), ("x", "y", "z"), config)
  rows = entry["tasks"]["a"]["patterns"]
  assert [row["positives_covered"] is None for row in rows if row["pattern"] ==
          table.pattern.mode()[0]] == [True]
  assert rows[0]["coverage"]["value"] is None and "fewer than 10" in rows[0]["coverage"]["reason"]
  assert rows[0]["single"] is not None and entry["tasks"]["a"]["coverage"]["value"] is not None


def test_one_sort_says_what_a_mask_a_pattern_says(config):
  """Two members, several rows a patient, patients of several patterns, rare patterns, one that is
  rare for one member alone: the categories, the sets and who calibrated them, by brute force."""
  rng, config.calibrate, config.min_cell = np.random.default_rng(3), 12, 0
  config.by_class = False
  parts = []
  for seed in (0, 1):
    table = make(patients=500 - 250 * seed, rows=4, seed=seed).assign(seed=seed)
    parts.append(table.assign(pattern=rng.geometric(0.3, len(table))))
  table = conformal.add(pd.concat(parts, ignore_index=True), ("a",), config)
  for _, one in table.groupby("seed"):
    val = one.role == "val"
    for pattern, mine in one.groupby("pattern"):
      share = one.patient_id[val].nunique() / one.patient_id.nunique()
      own = mine.patient_id.nunique() * share >= config.calibrate
      assert (mine.category_a == (pattern if own else conformal.MERGED)).all()
    for _, new in one[~val].head(40).iterrows():
      held = one[val & (one.category_a == new.category_a)]
      for label in (0, 1):
        p = np.where(held.y_a == 1, 1 - held.p_base_a, held.p_base_a)
        weight = 1 / held.groupby("patient_id").patient_id.transform("size")
        above = weight[p >= (1 - new.p_base_a if label else new.p_base_a)].sum()
        assert new[f"conformal_a_{label}"] == pytest.approx(
            (1 + above) / (1 + held.patient_id.nunique()))
  found = conformal.study(table, ("a",), ("x",) * 8, config)["tasks"]["a"]["patterns"]
  test, val = (table[table.role == role] for role in ("test", "val"))
  several = 0
  for row in found:
    mine = test[test.pattern == row["pattern"]]
    if not row["rare"]:
      chosen = mine.category_a.unique()
      several += len(chosen) > 1
      held = val[val.category_a.isin(chosen)]
      assert row["calibration_patients"] == held.groupby("seed").patient_id.nunique().sum() / 2
      assert (row["n"], row["patients"]) == (mine.row_id.nunique(), mine.patient_id.nunique())
      one = mine.conformal_a_1 > config.alpha
      zero = mine.conformal_a_0 > config.alpha
      weight = 1 / mine.groupby("patient_id").patient_id.transform("size")
      covered = np.where(mine.y_a == 1, one, zero)
      assert row["coverage"]["value"] == pytest.approx(np.average(covered, weights=weight))
      assert row["size"] == pytest.approx(np.average(zero * 1 + one, weights=weight))
  assert several >= 1 and len(found) > 6


def share_of_events(config):
  """Mean share of test patients whose set holds their outcome, with it and without, and of sets of
  both labels, over 40 splits where the outcome is rare and the model blind to it."""
  found = []
  for seed in range(40):
    table = make(patients=1200, seed=seed, patterns=(1, 7), rates=(0.8, 0.2)).assign(
        p_base_a=np.random.default_rng(seed).uniform(0.02, 0.1, 1200))
    rare = np.random.default_rng(seed + 1).random(1200) < 0.07
    table["y_a"] = rare.astype(float)
    entry = conformal.study(conformal.add(table, ("a",), config), ("a",), MODALITIES,
                            config)["tasks"]["a"]
    found.append((entry["classes"][1]["coverage"]["value"], entry["negatives_covered"],
                  entry["both"]))
  return np.mean(found, 0)


def test_the_sick_are_covered_as_the_well_are_and_the_price_is_told(config):
  events, others, both = share_of_events(config)
  assert events >= 0.88 and others >= 0.89 and both > 0.5   # a blind model buys it with both labels
  config.by_class = False
  events, others, both = share_of_events(config)
  assert events < 0.4 and both < 0.1   # covered on the whole, by leaving the sick out


def test_p_values_by_class_are_those_among_the_patients_of_the_class(config):
  table = make(patients=500, patterns=(1,), rates=(1,))
  found = conformal.add(table, ("a",), config)
  val, new = (table[table.role == role] for role in ("val", "test"))
  for label in (0, 1):
    alike = val[val.y_a == label]
    score = np.abs(label - alike.p_base_a.to_numpy())
    expected = [(1 + (score >= s - 1e-12).sum()) / (1 + len(score))
                for s in np.abs(label - new.p_base_a.to_numpy())]
    np.testing.assert_allclose(found.loc[new.index, f"conformal_a_{label}"], expected)


def test_patterns_have_sets_of_their_own_where_the_rarer_outcome_has_enough_patients(config):
  table = make(patients=2500, patterns=(1, 7), rates=(0.9, 0.1))   # 100 calibration patients in 7
  table["y_a"] = (np.random.default_rng(3).random(len(table)) < 0.2).astype(float)   # 20 events
  own = lambda: set(conformal.add(table, ("a",), config).category_a)
  assert own() == {1, conformal.MERGED}
  config.by_class = False
  assert own() == {1, 7}


def test_new_patients_are_calibrated_on_all_members_rows(config):
  run = make(patients=800)
  new = make(patients=50, seed=9).assign(role="test")
  new["patient_id"] += 10 ** 6
  found = conformal.of_new(run, new.assign(y_a=np.nan), ("a",), config)
  val = run[run.role == "val"]
  both = pd.concat([val, new], ignore_index=True)
  expected = conformal.add(both, ("a",), config).iloc[len(val):]
  np.testing.assert_array_equal(found.conformal_a_1, expected.conformal_a_1)
  assert found.conformal_a_1.notna().all() and len(found) == 50


def test_the_sets_of_few_with_an_outcome_are_not_told(config):
  table = make(patients=300)
  test = table.role == "test"
  table.loc[test, "y_a"] = (np.arange(test.sum()) < 4).astype(float)
  found = conformal.study(conformal.add(table, ("a",), config), ("a",), MODALITIES, config)
  few, many = found["tasks"]["a"]["classes"][1], found["tasks"]["a"]["classes"][0]
  assert few["coverage"]["value"] is None and few["both"] is None and few["n"] == 4
  assert many["coverage"]["value"] is not None
