"""Subgroups against fairlearn and scikit-learn; small cells stay hidden; gaps beside chance."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from crl_jax import config as config_lib
from crl_jax.statistics import bootstrap, compare, fairness, metrics

MEMBER = {(0, 0): 0.4}


@pytest.fixture
def config():
  c = config_lib.default().unlock()
  c.evaluate.bootstrap, c.evaluate.permutations = 100, 60
  return c.evaluate


def make(n=900, seed=0, worse=0.0, rows=1):
  rng = np.random.default_rng(seed)
  patient = np.arange(n) // rows
  sex = np.where(rng.random(n)[patient] < 0.5, "female", "male")
  age = rng.choice(["18-44", "45-64", "80+"], n, p=[0.4, 0.595, 0.005])[patient]
  risk = rng.beta(2, 3, n)
  y = (rng.random(n) < risk).astype(float)
  noise = np.where(sex == "male", worse, 0.05)
  return pd.DataFrame(dict(
      row_id=np.arange(n) + 10 ** 10, patient_id=patient, fold=0, seed=0, role="test", pattern=1,
      group_sex=sex, group_age_band=age, y_a=y,
      p_a=np.clip(risk + noise * rng.normal(size=n) * 4, 0, 1)))


def run(table, config, points=None):
  patients, patient = np.unique(table.patient_id, return_inverse=True)
  counts = bootstrap.resample(len(patients), config.bootstrap, 0)
  return fairness.study(table, ("a",), config, counts, patient,
                        {"a": MEMBER if points is None else points}, 0)


def test_equals_fairlearn_and_scikit_learn(config):
  fairlearn = pytest.importorskip("fairlearn.metrics")
  table = make(worse=0.3)
  table = table[table.group_age_band != "80+"]
  found = run(table, config)["tasks"]["a"]
  flag = (table.p_a >= 0.4).astype(int)
  for name, column in (("sex", table.group_sex),
                       ("sex x age_band", table.group_sex + ", " + table.group_age_band)):
    gaps = found[name]["gaps"]
    assert gaps["demographic_parity"]["value"] == pytest.approx(
        fairlearn.demographic_parity_difference(table.y_a, flag, sensitive_features=column))
    assert gaps["equalized_odds"]["value"] == pytest.approx(
        fairlearn.equalized_odds_difference(table.y_a, flag, sensitive_features=column))
    frame = fairlearn.MetricFrame(
        metrics=dict(tpr=fairlearn.true_positive_rate, fpr=fairlearn.false_positive_rate,
                     flagged=fairlearn.selection_rate, n=fairlearn.count),
        y_true=table.y_a, y_pred=flag, sensitive_features=column)
    for cell in found[name]["groups"]:
      mine = table[column == cell["group"]]
      for metric in ("tpr", "fpr", "flagged"):
        assert cell[metric]["value"] == pytest.approx(frame.by_group.loc[cell["group"], metric])
        assert cell[metric]["lo"] < cell[metric]["value"] < cell[metric]["hi"]
      assert cell["n"] == frame.by_group.loc[cell["group"], "n"]
      assert cell["auroc"]["value"] == pytest.approx(roc_auc_score(mine.y_a, mine.p_a))
      assert cell["auprc"]["value"] == pytest.approx(average_precision_score(mine.y_a, mine.p_a))
      assert cell["bias"]["value"] == pytest.approx((mine.y_a - mine.p_a).mean())
      for metric in ("auroc", "auprc", "bias", "slope"):
        assert cell[metric]["lo"] < cell[metric]["value"] < cell[metric]["hi"]


def test_rare_levels_are_pooled_and_not_named(config):
  table = make()
  table = table.drop(index=table.index[table.group_age_band == "80+"][6:])
  assert 0 < (table.group_age_band == "80+").sum() < config.min_cell
  found = run(table, config)["tasks"]["a"]
  assert found["age_band"]["pooled"] == 1
  assert [c["group"] for c in found["age_band"]["groups"]] == ["45-64", "18-44 + rarer groups"]
  for part in found.values():   # everyone is in a group: nothing is left to be had by subtraction
    assert sum(c["n"] for c in part["groups"]) == len(table)
  assert "80+" not in json.dumps(found)


def test_a_large_group_is_not_given_up_for_a_tiny_one(config):
  """Male 917, Female 617, unknown 1."""
  sex = np.repeat(["Male", "Female", "unknown"], [917, 617, 1])
  table = make(n=1535).assign(group_sex=sex).drop(columns="group_age_band")
  found = run(table, config)["tasks"]["a"]["sex"]
  assert [(c["group"], c["n"]) for c in found["groups"]] == [
      ("Male", 917), ("Female + rarer groups", 618)]
  assert all(c["auroc"]["value"] is not None for c in found["groups"])


def test_crossed_cells_do_not_follow_from_the_margins(config):
  cells = {("female", "18-44"): 200, ("female", "45-64"): 210, ("female", "65+"): 220,
           ("male", "18-44"): 100, ("male", "45-64"): 230, ("male", "65+"): 4}
  sex, age = np.repeat(np.array([*cells]), [*cells.values()], axis=0).T
  found = run(make(n=964).assign(group_sex=sex, group_age_band=age), config)["tasks"]["a"]
  n = {c["group"]: c["n"] for part in found.values() for c in part["groups"]}
  assert n["65+"] == 224 and "male, 65+" not in n and "female, 65+" not in n
  assert found["sex x age_band"]["suppressed"] == 4 and {"male, 45-64", "female, 45-64"} <= set(n)


def test_many_rows_of_few_patients_are_a_small_cell(config):
  table = make(n=900, rows=150).assign(group_sex="x", group_age_band="y")
  assert run(table, config)["tasks"]["a"]["sex"]["groups"] == []


@pytest.mark.parametrize("outcome", [0.0, 1.0])
@pytest.mark.parametrize("rare", [0, 3])
def test_few_outcomes_follow_from_nothing_that_is_told(config, outcome, rare):
  """3 of a group, or none, have (or lack) the outcome: no count, no rate, no score of it is told,
  nor of the group that would give it away."""
  table = make(n=900).assign(group_age_band=lambda t: np.repeat(["a", "b", "c"], [500, 250, 150]))
  table.loc[750:, "y_a"] = outcome
  table.loc[750:750 + rare - 1, "y_a"] = 1 - outcome
  found = run(table, config)["tasks"]["a"]
  cells = {c["group"]: c for c in found["age_band"]["groups"]}
  assert {name: c["n"] for name, c in cells.items()} == {"a": 500, "b": 250, "c": 150}
  for name in "bc":
    assert cells[name]["positives"] is None and "fewer than 10" in cells[name]["reason"]
    for metric in fairness.METRICS:
      entry = cells[name][metric]
      assert (entry["value"], entry["lo"], entry["hi"]) == (None, None, None) and entry["reason"]
  assert cells["b"]["reason"] == cells["c"]["reason"]   # which of them is small is not told
  assert cells["a"]["positives"] == table.y_a[:500].sum() and cells["a"]["tpr"]["value"] is not None
  for c in found["sex x age_band"]["groups"]:
    assert (c["positives"] is None) == (c["group"][-1] in "bc")
  json.dumps(found, allow_nan=False)


def test_without_an_operating_point_there_is_a_reason(config):
  no_point = run(make(n=300), config, points={})["tasks"]["a"]["sex"]
  assert no_point["groups"][0]["flagged"]["reason"] == "no operating point"
  assert no_point["gaps"]["demographic_parity"]["value"] is None
  json.dumps(no_point, allow_nan=False)


def test_a_rate_of_zero_is_not_certain(config):
  """Nobody is flagged, in any resample: a gap of 0, of which groups' sizes leave a part open."""
  gap = run(make().assign(p_a=0.1), config)["tasks"]["a"]["sex"]["gaps"]["demographic_parity"]
  assert (gap["value"], gap["lo"]) == (0, 0) and 0.002 < gap["hi"] < 0.05


def test_groups_are_optional_and_large_groupings_are_not_crossed(config):
  table = make().drop(columns=["group_sex", "group_age_band"])
  assert run(table, config)["tasks"]["a"] == {}
  hospitals = make().assign(group_hospital=lambda t: (t.row_id % 30).astype(str))
  assert set(run(hospitals, config)["tasks"]["a"]) == {"sex", "age_band", "hospital",
                                                       "sex x age_band"}


def test_a_gap_that_is_there_and_one_that_is_chance(config):
  real = run(make(n=3000, worse=0.3), config)["tasks"]["a"]["sex"]["gaps"]["auroc"]
  assert real["p"] < 0.05 and real["value"] > 3 * real["expected"] and real["lo"] > 0
  chance = run(make(n=3000, worse=0.05), config)["tasks"]["a"]["sex"]["gaps"]["auroc"]
  assert chance["p"] > 0.05 and 0 < chance["expected"] < 0.05


def test_gaps_are_adjusted_together_and_can_pass(config):
  """With 100 permutations no p-value would be below 1/101, and 12 times that is above 0.05."""
  config.permutations = 100
  found = run(make(n=3000, worse=0.5), config)["tasks"]["a"]
  gaps = [gap for part in found.values() for gap in part["gaps"].values()]
  assert len(gaps) == 12
  assert [gap["p_holm"] for gap in gaps] == compare.holm([gap["p"] for gap in gaps])
  assert found["sex"]["gaps"]["auroc"]["p_holm"] < 0.05
  common = max(gap["p"] for gap in gaps if gap["p"] is not None)   # no more than it takes
  assert common * 101 == pytest.approx(round(common * 101))


def test_seeds_are_averaged_and_counted_once(config):
  once = make()
  twice = pd.concat([once, once.assign(seed=1)], ignore_index=True)
  a = run(once, config)["tasks"]["a"]["sex"]
  b = run(twice, config, {**MEMBER, (0, 1): 0.4})["tasks"]["a"]["sex"]
  for first, second in zip(a["groups"], b["groups"]):
    assert (first["n"], first["positives"]) == (second["n"], second["positives"])
    for metric in fairness.METRICS:
      for key in ("value", "lo", "hi"):
        assert first[metric][key] == pytest.approx(second[metric][key])


def test_rows_of_a_patient_widen_a_proportion():
  flag, row = np.tile([1.0, 0.0, 0.0], 30), np.arange(90)
  alone = fairness.proportion(flag, row, row)
  wider = fairness.proportion(np.sort(flag), row, row // 3)
  assert wider[1] - wider[0] > 1.5 * (alone[1] - alone[0])
  from statsmodels.stats.proportion import proportion_confint
  np.testing.assert_allclose(alone, proportion_confint(30, 90, method="wilson"))


def test_chance_deals_patients_within_their_outcome(config):
  """Where the decision is the outcome, no deal among patients of one outcome opens a gap in the
  rates given the outcome, and deals among all open one in the share flagged."""
  table = make(n=400)
  gaps = run(table.assign(p_a=0.1 + 0.8 * table.y_a), config)["tasks"]["a"]["sex"]["gaps"]
  assert (gaps["equalized_odds"]["value"], gaps["equalized_odds"]["expected"]) == (0, 0)
  assert gaps["equalized_odds"]["p"] == 1 and gaps["demographic_parity"]["expected"] > 0


def test_gaps_of_chance_are_those_of_a_deal_per_gap(config):
  """Golden values of commit 01df910, which dealt for every gap apart and scored group by group."""
  config.bootstrap = 2
  gaps = run(make(worse=0.3), config)["tasks"]["a"]["sex x age_band"]["gaps"]
  for name, expected, p in (("equalized_odds", 0.12093656119499414, 3 / 601),
                            ("demographic_parity", 0.07255447168156764, 29 / 61),
                            ("auroc", 0.07857189920433609, 4 / 601),
                            ("bias", 0.08246031050468157, 21 / 61)):
    assert gaps[name]["expected"] == pytest.approx(expected, rel=1e-12)
    assert gaps[name]["p"] == pytest.approx(p, rel=1e-12)


def test_areas_of_dealt_groups_are_those_of_each_group_alone(config):
  """Ties, a group of one class, one of nobody."""
  rng = np.random.default_rng(1)
  table = make(n=300, rows=2)
  table["p_a"] = table.p_a.round(1)
  table.loc[table.patient_id == 0, "y_a"] = 1.0
  rows = fairness._Rows(table, table.patient_id.to_numpy(), "a", MEMBER, np.ones((1, 150)), True)
  dealt_P = rng.choice([1, 2, 4], 150).astype(np.uint8)
  dealt_P[0] = 3
  found = fairness._Ranks(rows, np.arange(300)).areas(dealt_P, 5)
  cell = dealt_P[table.patient_id]
  for g in range(5):
    alone = metrics.auroc(table.y_a[cell == g], table.p_a[cell == g])[0]
    np.testing.assert_array_equal(found[g], alone)
  assert np.isnan(found[[0, 3]]).all() and not np.isnan(found[[1, 2, 4]]).any()


def test_deals_keep_the_patients_of_a_cell_and_are_small(config):
  table = make(n=60, rows=2)
  rows = fairness._Rows(table, table.patient_id.to_numpy(), "a", MEMBER, np.ones((1, 40)), True)
  cells = [fairness._Cell(name, (table.group_sex == name).to_numpy(), True)
           for name in ("female", "male")]
  before, positive = (np.zeros(40, int), np.zeros(40, bool))
  before[table.patient_id] = table.group_sex == "male"
  np.logical_or.at(positive, table.patient_id, table.y_a == 1)
  for given in (False, True):
    deals = list(fairness._deals(fairness._Dealt(rows, cells, given), 5, (0, 0)))
    for dealt_P in deals:
      assert dealt_P.itemsize == 1 and (dealt_P[30:] == 2).all()
      for among in (positive[:30], ~positive[:30]) if given else (np.ones(30, bool),):
        assert dealt_P[:30][among].sum() == before[:30][among].sum()
    assert len({dealt_P.tobytes() for dealt_P in deals}) == 5
