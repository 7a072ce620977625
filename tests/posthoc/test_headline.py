"""The headline on a predictions table: no row's own outcome in its own prediction, the method or
its stack by calibration patients, rules that can be told and read."""

import json
import types

import numpy as np
import pandas as pd
import pytest

from crl_jax.posthoc import headline, logits

CONFIG = types.SimpleNamespace(stack=True, calibrate=True, folds=4)
NAMES = ("pool", "stack", "calibrated", "chosen")


def make(n=500, seed=0, yardsticks=True, good="logistic_"):
  """Two members, folds 0 and 1: an overconfident method, a good yardstick, a poor one."""
  rng = np.random.default_rng(seed)
  parts = []
  for fold in range(2):
    truth = rng.normal(-1, 1.2, n)
    y = (rng.random(n) < logits.sigmoid(truth)).astype(float)
    noise = {"": 2.0, "logistic_": 2.0, "boosting_": 2.0, good: 0.3}
    p = {f"p_{name}y": logits.sigmoid((2.0 if name == "" else 1.0) * (
        truth + rng.normal(0, sd, n))) for name, sd in noise.items()}
    y[:3] = np.nan
    parts.append(pd.DataFrame(dict(
        row_id=np.arange(n) + fold * n, patient_id=np.arange(n) // 2 + fold * n, fold=fold, seed=0,
        role=np.where(np.arange(n) < n // 2, "val", "test"), pattern=0, y_y=y, p_base_y=p["p_y"],
        **(p if yardsticks else {"p_y": p["p_y"]}))))
  return pd.concat(parts, ignore_index=True)


def loss(table, name, role="test"):
  rows = table[(table.role == role) & table.y_y.notna()]
  return logits.log_loss(rows.y_y, logits.of(rows[f"p_{name}y"])).mean()


def test_the_stack_is_chosen_where_a_yardstick_is_better_and_is_calibrated():
  table, rules = headline.add(make(), ("y",), CONFIG, 0)
  assert [m["tasks"]["y"]["chosen"] for m in rules["members"]] == ["stack", "stack"]
  weights = rules["pooled"]["y"]["weights"]
  assert max(weights, key=weights.get) == "logistic" and sum(weights.values()) == pytest.approx(1)
  assert loss(table, "chosen_") == loss(table, "stack_") < loss(table, "logistic_") + 0.005
  assert loss(table, "calibrated_") < loss(table, "") - 0.05   # twice too extreme
  assert loss(table, "chosen_", "val") < loss(table, "", "val")
  assert table[[f"p_{name}_y" for name in NAMES]].notna().all().all()


def test_the_method_alone_is_a_choice():
  table, rules = headline.add(make(yardsticks=False), ("y",), CONFIG, 0)
  assert rules["parts"] == ["method"] and "p_stack_y" not in table
  np.testing.assert_array_equal(table.p_chosen_y, table.p_calibrated_y)
  one = np.linspace(0.1, 0.9, 9)
  rule = headline.Rule("method", np.array([0.2, 0.8]), {
      "method": headline.scaling.Scaling("temperature", 0.5), "stack": headline.scaling.Scaling()},
                       {}, 9)
  found = rule(np.stack([one, one[::-1]], 1))
  np.testing.assert_allclose(found["pool"], 0.2 * one + 0.8 * one[::-1])
  np.testing.assert_array_equal(found["chosen"], found["calibrated"])
  np.testing.assert_allclose(logits.of(found["chosen"]), 0.5 * logits.of(one))


def test_switched_off_there_is_none_and_each_switch_does_its_part():
  off = types.SimpleNamespace(stack=False, calibrate=False, folds=4)
  table, rules = headline.add(make(), ("y",), off, 0)
  assert rules is None and "p_chosen_y" not in table
  only = lambda **off: types.SimpleNamespace(**{**vars(CONFIG), **off})
  table, _ = headline.add(make(), ("y",), only(calibrate=False), 0)
  np.testing.assert_array_equal(table.p_pool_y, table.p_stack_y)
  np.testing.assert_array_equal(table.p_calibrated_y, table.p_y)
  _, rules = headline.add(make(), ("y",), only(stack=False), 0)
  assert rules["parts"] == ["method"]


def test_outcomes_of_test_rows_reach_no_prediction():
  before, _ = headline.add(table := make(), ("y",), CONFIG, 0)
  columns = [f"p_{name}_y" for name in NAMES]
  changed = table.copy()
  test = (table.role == "test").to_numpy()
  changed.loc[test, "y_y"] = 1 - changed.loc[test, "y_y"]   # of all test rows at once
  after, _ = headline.add(changed, ("y",), CONFIG, 0)
  pd.testing.assert_frame_equal(before[columns], after[columns])


def test_validation_rows_are_predicted_by_the_rules_of_other_folds(monkeypatch):
  table = make(200)
  monkeypatch.setattr(headline.folds, "deal", lambda y, patient, count, seed: np.asarray(
      patient) % count)
  before, _ = headline.add(table, ("y",), CONFIG, 0)
  changed = table.copy()
  mine = ((table.role == "val") & (table.fold == 0) & (table.patient_id % 4 == 1)).to_numpy()
  changed.loc[mine, "y_y"] = 1 - changed.loc[mine, "y_y"]
  after, _ = headline.add(changed, ("y",), CONFIG, 0)
  columns = [f"p_{name}_y" for name in NAMES]
  known = mine & table.y_y.notna().to_numpy()
  np.testing.assert_array_equal(before.loc[known, columns], after.loc[known, columns])
  others = ((table.role == "val") & (table.fold == 0) & ~mine & table.y_y.notna()).to_numpy()
  assert (before.loc[others, "p_stack_y"] != after.loc[others, "p_stack_y"]).any()
  np.testing.assert_array_equal(before.loc[table.fold == 1, columns],
                                after.loc[table.fold == 1, columns])   # another member's business


def test_rules_are_told_as_json_and_read_again():
  table, rules = headline.add(make(), ("y",), CONFIG, 0)
  rules = json.loads(json.dumps(rules, allow_nan=False))
  rule = headline.from_dict(rules["members"][0]["tasks"]["y"])
  rows = table[(table.fold == 0) & (table.role == "test")]
  found = rule(rows[["p_y", "p_logistic_y", "p_boosting_y"]].to_numpy())
  for name in NAMES:
    np.testing.assert_allclose(found[name], rows[f"p_{name}_y"], atol=1e-12)
  told = headline.summary(rules)["y"]
  assert told["chosen"] == {"stack": 2} and sum(told["scaling"]["method"].values()) == 2
  assert set(told["log_loss"]["stack"]) == {"none", "temperature", "platt"}
