"""metrics.json: contract, intervals by patient, pairing, nulls; and the printed table."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from crl_jax import config as config_lib
from crl_jax.report import tables
from crl_jax.statistics import compare, evaluate, metrics as metrics_lib, roles, scoring

EXTRA = {"differences", "tests", "operating", "net_benefit", "fairness", "conformal", "patterns"}
TASKS, MODALITIES = ("icu", "mortality"), ("structured", "image", "text")


@pytest.fixture(scope="module")
def config():
  c = config_lib.default().unlock()
  c.evaluate.bootstrap = 200
  return c.lock()


@pytest.fixture(scope="module")
def whole(config):
  """What evaluate says of make(). Not to be written into."""
  return run(make(), config)


def make(n=300, seeds=1, per_patient=2, seed=0):
  """Predictions of 5 folds: `per_patient` rows each, every row tested once per seed and validated
  in two folds."""
  rng = np.random.default_rng(seed)
  patient = np.arange(n) // per_patient
  risk = rng.beta(2, 4, n)
  outcome = (rng.random((n, 2)) < risk[:, None]).astype(float)
  outcome[:20, 1] = np.nan
  pattern = rng.choice([1, 3, 7, 5], n, p=[0.5, 0.3, 0.185, 0.015])
  parts = []
  for s in range(seeds):
    for role, shift in (("test", 0), ("val", 1), ("val", 2)):
      columns = dict(row_id=np.arange(n) + 7_000_000_000, patient_id=patient + 9_000_000_000,
                     fold=(patient + shift) % 5, seed=s, role=role, pattern=pattern)
      for t, task in enumerate(TASKS):
        columns[f"y_{task}"] = outcome[:, t]
        columns[f"p_base_{task}"] = np.clip(risk + rng.normal(0, 0.1, n), 0, 1)
        columns[f"p_{task}"] = np.clip(columns[f"p_base_{task}"] + 0.02, 0, 1)
        columns |= {f"p_{name}_{task}": np.clip(risk + rng.normal(0, 0.15, n), 0, 1)
                    if role == "test" else np.nan for name in ("logistic", "boosting")}
        columns[f"p_bayes_{task}"] = risk
      parts.append(pd.DataFrame(columns))
  return pd.concat(parts, ignore_index=True)


def run(table, config, seed=0):
  return evaluate.evaluate(table, TASKS, config, seed, MODALITIES)


def test_contract(whole):
  found = whole
  assert found == json.loads(json.dumps(found, allow_nan=False))
  columns = make(30).columns   # of rivals that not every installation has there are none
  scored = [role.key for role in roles.ROLES if f"{role.prefix}icu" in columns]
  assert len(scored) == 7 and set(found) == {*scored, *EXTRA}
  assert set(found["differences"]) == {"test-test_base", "test-test_logistic", "test-test_boosting",
                                       "test_bayes-test"}
  for role in scored:
    for task, n in zip(TASKS, (300, 280)):
      entry = found[role][task]
      names = metrics_lib.METRICS + metrics_lib.LINE
      names += scoring.RATES if role.startswith("test") else ()
      assert set(entry) == {*names, "n", "positives"} and entry["n"] == n
      for name in names:
        if name in scoring.RATES and role in ("test_logistic", "test_boosting"):
          assert entry[name]["value"] is None and "operating point" in entry[name]["reason"]
          continue
        assert entry[name]["lo"] <= entry[name]["value"] <= entry[name]["hi"]
        assert entry[name]["folds"]["n"] == 5


def test_test_value_pools_the_folds_and_averages_the_seeds(config):
  table = make(seeds=3)
  test = table[table.role == "test"]
  each = [roc_auc_score(t.y_icu, t.p_icu) for _, t in test.groupby("seed")]
  members = [roc_auc_score(t.y_icu, t.p_icu) for _, t in test.groupby(["fold", "seed"])]
  entry = run(table, config)["test"]["icu"]
  np.testing.assert_allclose(entry["auroc"]["value"], np.mean(each))
  np.testing.assert_allclose([entry["auroc"]["folds"][k] for k in ("mean", "sd", "n")],
                             [np.mean(members), np.std(members, ddof=1), 15])
  assert entry["n"] == 300


def test_val_value_is_the_mean_over_members(config):
  table = make()
  each = [roc_auc_score(t.y_icu, t.p_icu) for _, t in table[table.role == "val"].groupby("fold")]
  np.testing.assert_allclose(run(table, config)["val"]["icu"]["auroc"]["value"], np.mean(each))


def test_repeated_rows_of_a_patient_do_not_shrink_the_interval(config):
  once = make(per_patient=1)
  again = once.assign(row_id=once.row_id + 10 ** 6)
  a, b = run(once, config), run(pd.concat([once, again], ignore_index=True), config)
  for name in metrics_lib.METRICS:
    for key in ("value", "lo", "hi"):
      np.testing.assert_allclose(a["test"]["icu"][name][key],
                                 b["test"]["icu"][name][key], rtol=1e-9)
  # the same rows as other patients: more is known
  others = again.assign(patient_id=again.patient_id + 10 ** 6)
  c = run(pd.concat([once, others], ignore_index=True), config)["test"]["icu"]["auroc"]
  width = lambda entry: entry["hi"] - entry["lo"]
  assert width(c) < 0.85 * width(a["test"]["icu"]["auroc"])


def test_order_of_rows_changes_nothing(config):
  table = make()
  a, b = run(table, config), run(table.sample(frac=1, random_state=1), config)
  pd.testing.assert_series_equal(pd.json_normalize(a["test"]).iloc[0],
                                 pd.json_normalize(b["test"]).iloc[0], check_exact=False, rtol=1e-9)
  assert a["patterns"]["icu"][0]["n"] == b["patterns"]["icu"][0]["n"]


def test_seed_moves_intervals_only(config):
  table = make()
  table = table[table.role == "test"]
  a, b, c = (run(table, config, seed)["test"]["icu"]["auroc"] for seed in (0, 0, 1))
  assert a == b and a["value"] == c["value"] and a["lo"] != c["lo"]


def test_differences_are_paired(config):
  table = make()
  for task in TASKS:
    table[f"p_boosting_{task}"] = table[f"p_{task}"]
  found = run(table, config)
  for name in metrics_lib.METRICS:
    assert found["differences"]["test-test_boosting"]["icu"][name] == {"value": 0, "lo": 0, "hi": 0,
                                                                       "p": 1}
  regret, bayes, model = (found["differences"]["test_bayes-test"]["icu"]["auroc"],
                          found["test_bayes"]["icu"]["auroc"], found["test"]["icu"]["auroc"])
  np.testing.assert_allclose(regret["value"], bayes["value"] - model["value"])
  independent = np.hypot(bayes["hi"] - bayes["lo"], model["hi"] - model["lo"])
  assert regret["hi"] - regret["lo"] < 0.8 * independent


def test_undefined_is_null_with_a_reason(config):
  table = make()
  table["y_icu"] = 0.0
  table["y_mortality"] = np.nan
  found = run(table, config)
  icu, mortality = found["test"]["icu"], found["test"]["mortality"]
  for name in ("auroc", "auprc"):
    assert (icu[name]["value"], icu[name]["lo"], icu[name]["hi"]) == (None, None, None)
    assert "one class: 300 rows, 0 positive" in icu[name]["reason"]
    assert found["differences"]["test-test_base"]["icu"][name]["reason"]
  assert icu["brier"]["value"] > 0
  assert mortality["n"] == 0 and all(mortality[m]["value"] is None for m in metrics_lib.METRICS)
  assert mortality["brier"]["reason"] == "no row with this outcome"
  assert found["patterns"]["mortality"] == []
  json.dumps(found, allow_nan=False)
  assert "no value: only one class" in tables.table(found, None, {})


def test_tests_of_differences(config):
  found = run(make(seeds=2), config)
  entry = found["tests"]["test-test_boosting"]["icu"]
  np.testing.assert_allclose(entry["delong"]["value"],
                             found["differences"]["test-test_boosting"]["icu"]["auroc"]["value"])
  adjusted = [pair[task]["delong"]["p_holm"] for pair in found["tests"].values() for task in TASKS]
  raw = [pair[task]["delong"]["p"] for pair in found["tests"].values() for task in TASKS]
  assert adjusted == compare.holm(raw) and adjusted != raw
  for name in metrics_lib.METRICS:
    assert entry["resampled_t"][name]["n"] == 10 and entry["resampled_t"][name]["p_holm"] <= 1


def test_operating_points_and_decision_curves(whole):
  table, found = make(), whole
  points = found["operating"]["test"]["icu"]
  assert len(points["thresholds"]) == 5 and "80%" in found["operating"]["rule"]
  assert 0.6 < found["test"]["icu"]["sensitivity"]["value"] < 0.95
  curve, test = found["net_benefit"]["test"]["icu"], table[table.role == "test"]
  k = curve["threshold"].index(0.2)
  flag = test.p_icu >= 0.2
  benefit = (flag & (test.y_icu == 1)).mean() - (flag & (test.y_icu == 0)).mean() / 4
  np.testing.assert_allclose(curve["value"][k], benefit)
  np.testing.assert_allclose(curve["all"][k], test.y_icu.mean() - (1 - test.y_icu).mean() / 4)
  assert curve["lo"][k] < benefit < curve["hi"][k] and len(curve["threshold"]) == 50


def test_subgroups_and_prediction_sets_are_there(config):
  table = make()
  table["group_sex"] = np.where(table.patient_id % 3, "female", "male")
  found = run(table, config)
  groups = found["fairness"]["tasks"]["icu"]["sex"]["groups"]
  assert [g["group"] for g in groups] == ["female", "male"] and sum(g["n"] for g in groups) == 300
  entry = found["conformal"]["tasks"]["icu"]
  assert entry["coverage"]["value"] > 0.85 and entry["n"] == 300
  assert found["conformal"]["tasks"]["mortality"]["n"] == 280


def test_patterns(config):
  table = make(seeds=2)
  rows = run(table, config)["patterns"]["icu"]
  test = table[(table.role == "test") & (table.seed == 0)]
  assert ([r["n"] for r in rows] == sorted((r["n"] for r in rows), reverse=True) and
          sum(r["n"] for r in rows) == 300)
  rare = test.pattern.value_counts().idxmin()   # told with the smallest other pattern
  assert [r["rare"] for r in rows] == [0] * (len(rows) - 1) + [1] and rare not in {
      r["pattern"] for r in rows}
  for row in rows:
    cell = test[test.pattern.isin([row["pattern"], *([rare] if row["rare"] else [])])]
    assert (row["n"], row["positives"]) == (len(cell), cell.y_icu.sum())
    assert row["rate_lo"] <= row["rate"] <= row["rate_hi"]
  told = {r["pattern"]: (r["name"], r["missing"]) for r in rows}
  assert told[3] == ("structured+image", ["text"])
  assert rows[-1]["name"].endswith(" + rarer patterns")


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_few_outcomes_of_a_pattern_follow_from_nothing_that_is_told(config, outcome):
  table = make()
  table["y_mortality"] = table.y_mortality.fillna(0.0)   # known of the same rows
  table["pattern"] = np.select([table.patient_id % 10 == 0, table.patient_id % 10 < 4], [7, 3], 1)
  small = (table.pattern == 7) & (table.patient_id % 100 > 20)
  table.loc[table.pattern == 7, "y_icu"] = np.where(small[table.pattern == 7], outcome, 1 - outcome)
  found = run(table, config)
  rows = {row["pattern"]: row for row in found["patterns"]["icu"]}
  assert {p: row["n"] for p, row in rows.items()} == {1: 180, 3: 90, 7: 30}
  for p in (3, 7):   # the next larger one, which would give the first away, is withheld too
    assert all(rows[p][key] is None for key in ("positives", "rate", "rate_lo", "rate_hi",
                                                "predicted_base", "predicted"))
    assert "fewer than 10" in rows[p]["reason"]
  assert rows[1]["rate"] is not None
  shown = tables.pattern_rows(found, rectifier(), {}, "icu", min_cell=10, top=1)
  assert (shown[1]["n"], shown[1]["positives"], shown[1]["rate"]) == (120, None, None)
  for row in tables.pattern_rows(found, rectifier(), {}, "icu", min_cell=10, top=12)[1:]:
    assert row["cell"] is None and tables.gamma_text(row) == "-"


def test_two_sizes_of_a_group_do_not_tell_how_many_died(config):
  """Admission to the ICU is known of those who lived: its sizes beside those of mortality would
  tell the deaths of every group, so the sizes of those with few deaths are withheld."""
  table = make(n=900, per_patient=1)
  who = table.patient_id - table.patient_id.min()
  table["group_sex"] = np.where(who % 2, "female", "male")
  table["group_unit"] = np.select([who < 300, who < 500], ["A", "B"], "C")
  table["pattern"] = np.select([who < 300, who < 500, who < 503], [7, 3, 1], 5)
  table["y_mortality"] = np.where(who < 300, who < 4, who // 2 % 2).astype(float)
  table["y_icu"] = table.y_icu.where(table.y_mortality == 0)
  found = run(table, config)
  def sizes(task):
    rows = {("pattern", row["name"]): row["n"] for row in found["patterns"][task]}
    sets = found["conformal"]["tasks"][task]["patterns"]
    rows |= {("sets", row["name"]): row["n"] for row in sets}
    return rows | {(name, g["group"]): g["n"] for name, part in
                   found["fairness"]["tasks"][task].items() for g in part["groups"]}
  icu, mortality = sizes("icu"), sizes("mortality")
  deaths = {key: mortality[key] - icu[key] for key in icu
            if icu[key] is not None and mortality.get(key) is not None}
  assert len(deaths) >= 5 and min(deaths.values()) >= 10, deaths
  assert mortality["unit", "A"] is None and icu["unit", "A"] == 296
  key = "sets", "structured+image+text"
  assert key in icu and key not in mortality
  rows = tables.pattern_rows(found, rectifier(), {}, "mortality", min_cell=10, top=1)
  assert [row["n"] for row in rows] == [found["patterns"]["mortality"][0]["n"], None]
  assert "None" not in tables.table(found, rectifier(), {})


def test_an_effect_of_few_calibration_rows_is_not_shown(whole):
  few = rectifier()
  few["pooled"]["tasks"]["icu"]["cells"][0]["n"] = 9   # of pattern 1
  shown = lambda found: [row["pattern"] for row in tables.pattern_rows(
      whole, found, {}, "icu", min_cell=10, top=12) if row["cell"]]
  assert 1 in shown(rectifier()) and shown(few) == [p for p in shown(rectifier()) if p != 1]


@pytest.mark.parametrize("break_it, message", [
    (lambda t: t.drop(columns="p_base_icu"), "p_base_icu"),
    (lambda t: t.assign(p_icu=t.p_icu.where(t.index != 5)), "'p_icu' has 1 of 300"),
    (lambda t: t.assign(p_logistic_icu=np.nan), "'p_logistic_icu' has 300"),
    (lambda t: pd.concat([t, t[t.role == "test"].head(3)]), "3 'test' rows")])
def test_refuses_a_broken_table_by_name(config, break_it, message):
  with pytest.raises(ValueError, match=message):
    run(break_it(make()), config)


def test_references_are_optional(config):
  table = make()
  table = table[[c for c in table if not c.startswith(("p_logistic", "p_boosting", "p_bayes"))]]
  found = run(table[table.role == "test"], config)
  assert (set(found) == {"test", "test_base", *EXTRA} and
          list(found["differences"]) == ["test-test_base"])


def rectifier(threshold=0.02):
  cells = [dict(pattern=p, n=50, gamma=0.03, se=0.01, lo=0.01, hi=0.05, gamma_shrunk=0.02)
           for p in (1, 3, 7)]
  return {"enabled": True, "members": [], "pooled": {
      "scale": "probability", "shrinkage": True,
      "tasks": {t: dict(threshold=threshold, cells=cells) for t in TASKS}}}


def test_table(whole):
  info = {"banner": "SIMULATED", "truth": {"gamma": {"icu": {"1": 0.044}}}}
  text = tables.table(whole, rectifier(), info, min_cell=20)
  assert text.splitlines()[0] == "SIMULATED" and text.isascii() and "\x1b" not in text
  assert max(map(len, text.splitlines())) < 120
  for words in ("base model", "with rectifier", "logistic reg.", "boosting", "Bayes-optimal",
                "regret", "+0.044", "+0.030 [+0.010, +0.050]", "+ rarer patterns",
                "absolute shrunken gamma exceeds 0.02"):
    assert words in text
  bare = tables.table(whole, rectifier(threshold=None), {}, min_cell=20)
  assert "true gamma" not in bare and "no threshold gained significantly" in bare
  assert max(map(len, bare.splitlines())) < 120
  assert "The rectifier is off" in tables.table(whole, {**rectifier(), "enabled": False},
                                                  {})


def test_small_patterns_are_pooled_without_a_rate(whole):
  rows = tables.pattern_rows(whole, rectifier(), {}, "icu", min_cell=60, top=12)
  assert rows[-1]["pattern"] is None and rows[-1]["n"] < 60 and rows[-1]["rate"] is None
  rows = tables.pattern_rows(whole, rectifier(), {}, "icu", min_cell=1, top=1)
  assert (len(rows) == 2 and rows[-1]["name"] == "other patterns (2)" and
          rows[-1]["rate"] is not None)


@pytest.mark.slow
def test_interval_covers_the_truth(config):
  """Of 95% intervals for AUROC and Brier, with two correlated rows a patient, 89% to 99% hold the
  population's value."""
  def draw(n, seed):
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    risk = rng.beta(2, 4, n // 2)[patient]
    y = (rng.random(n) < risk).astype(float)
    return pd.DataFrame(dict(row_id=np.arange(n), patient_id=patient, fold=0, seed=0, role="test",
                             pattern=0, y_a=y, p_base_a=risk, p_a=np.round(risk, 2)))
  big = draw(400_000, 10 ** 6)
  truth = metrics_lib.scores(big.y_a, big.p_a)
  found = [evaluate.evaluate(draw(600, seed), ("a",), config, seed, ("x",))["test"]["a"]
           for seed in range(300)]
  for name in ("auroc", "auprc", "brier"):
    covered = np.mean([entry[name]["lo"] <= truth[name][0] <= entry[name]["hi"] for entry in found])
    assert 0.89 <= covered <= 0.99, (name, covered)


def test_a_predictor_that_is_another_is_scored_once(monkeypatch):
  """The headline is a column of its own and equal to that which was chosen."""
  table = make()
  table["group_sex"] = np.where(table.patient_id % 3, "female", "male")
  for task in TASKS:
    table[f"p_boosting_{task}"] = table[f"p_boosting_{task}"].fillna(table[f"p_{task}"])
  same = {f"p_chosen_{task}": table[f"p_boosting_{task}"] for task in TASKS}
  settings = config_lib.override(config_lib.default(), ["evaluate.bootstrap=20"])
  asked, score = [], evaluate.scoring.score
  monkeypatch.setattr(evaluate.scoring, "score", lambda table, patient, task, prefix, *rest: (
      asked.append(prefix), score(table, patient, task, prefix, *rest))[1])
  found = evaluate.evaluate(table.assign(**same), TASKS, settings, 0, MODALITIES)
  assert asked.count("p_chosen_") + asked.count("p_boosting_") == len(TASKS)
  for part in ("operating", "net_benefit"):
    assert found[part]["test_chosen"] == found[part]["test_boosting"]
  assert found["test_chosen"] == found["test_boosting"] != found["test"]
  assert found["differences"]["test_chosen-test_boosting"][TASKS[0]]["auroc"]["value"] == 0
  # the headline is what is asked for whom it holds
  theirs = {f"p_{task}": table[f"p_boosting_{task}"] for task in TASKS}
  of_method, of_theirs = (evaluate.evaluate(lines, TASKS, settings, 0, MODALITIES)["fairness"]
                          for lines in (table, table.assign(**theirs)))
  assert found["fairness"] == of_theirs | {"predictor": "headline"} != of_method
  assert of_method["predictor"] == "with rectifier"


def test_no_two_differences_are_called_the_same():
  labels = [pair.label for pair in roles.DIFFERENCES if pair.label]
  assert len(set(labels)) == len(labels)
  assert roles.Difference(roles.BAYES, roles.CHOSEN).label == "headline's regret"
  assert roles.Difference(roles.CHOSEN, roles.FINAL).label == "headline's gain"
