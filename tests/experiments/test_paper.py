"""The paper's tables in small: every part, its files, and a second call that trains nothing."""

import csv
import re
import types

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.statistics import bootstrap
from experiments import paper, study as study_lib, tables
from experiments.tables import c5, c6, figure1, table1, table2, table3, table4

# every program that is compiled is most of the time of these tests: fewer variants
RANGES = {"train.joint.learning_rate": (1e-3,), "model.dropout": (0.2,)}
ALONE = table2.ALONE[-2:]   # the rectifier, and any of them


@pytest.fixture(scope="module")
def made(tiny_config, quickly, tmp_path_factory):
  """Results by name, the folder, and how often anything was trained in the second call."""
  folder = tmp_path_factory.mktemp("paper")
  config = config_lib.override(tiny_config, [
      "members.folds=2", "model.crl_mmnar.hide=one", "evaluate.informative=False",
      "evaluate.permutations=10"])
  with quickly(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(table2, "ALONE", ALONE)
    patch.setattr(table4.make, "__defaults__", (RANGES,))
    first = paper.paper(config, folder)
    trained = []
    patch.setattr(study_lib, "_train", lambda *args: trained.append(args))
    again = paper.paper(config, folder, quick=True)
  assert [r.rows for r in first if r.name != "c5"] == [r.rows for r in again if r.name != "c5"]
  return {r.name: r for r in first}, folder, trained


@pytest.mark.slow
def test_every_part_is_there_and_nothing_is_trained_twice(made):
  found, folder, trained = made
  assert set(found) == {"figure1", "table1", "table2", "table3", "table4", "c5", "c6_norms",
                        "c6_checks"}
  assert not trained
  for name, result in found.items():
    with open(folder / "tables" / f"{name}.csv", newline="") as file:
      assert len(list(csv.DictReader(file))) == len(result.rows) > 0
    text = (folder / "tables" / f"{name}.md").read_text()
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert (folder / "tables" / f"{name}.svg").exists() == (result.figure is not None)
  page = (folder / "paper.html").read_text()
  assert "Quick settings" in page and all(r.title.split(":")[0] in page for r in found.values())
  assert not re.search(r"https?:|<script", page) and page.count("<svg") == 7


@pytest.mark.slow
def test_table1_names_every_model_and_agrees_with_the_run(made):
  found, folder, _ = made
  table = pd.DataFrame(found["table1"].rows).set_index(["task", "predictor"])
  assert {"crl_mmnar", "zero-filling + mask", "mean imputation"} <= set(
      table.index.get_level_values("predictor"))
  import json
  metrics = json.loads((folder / "run" / "metrics.json").read_text())
  for task, entry in metrics["test"].items():
    ours = table.loc[(task, "crl_mmnar")]
    for name in ("auroc", "brier"):
      assert [ours[name], ours[f"{name}_lo"], ours[f"{name}_hi"]] == pytest.approx(
          [entry[name][k] for k in ("value", "lo", "hi")], abs=1e-9)
    folds = entry["auroc"]["folds"]
    assert ours.auroc_over_members == f"{folds['mean']:.3f} ({folds['sd']:.3f}, n = 2)"
    base = table.loc[(task, "crl_mmnar, no rectifier")]
    assert base.ours_minus_it == pytest.approx(ours.auroc - base.auroc)
    assert (table.loc[task].p_holm.dropna() >= table.loc[task].p.dropna() - 1e-12).all()


@pytest.mark.slow
def test_table2_gains_are_differences_of_its_lines(made):
  for task, part in pd.DataFrame(made[0]["table2"].rows).groupby("task"):
    part = part.set_index("model")
    steps = [label for label, *_ in table2.STEPS]
    np.testing.assert_allclose(part.loc[steps].auroc_gain.iloc[1:], np.diff(part.loc[steps].auroc))
    whole = part.loc[steps[-1]].auroc
    for label, *_ in ALONE:
      assert part.loc[label].auroc_gain == pytest.approx(whole - part.loc[label].auroc)
    same = part.loc["without the rectifier"], part.loc["+ reconstruction, contrastive"]
    assert same[0].brier == same[1].brier
    assert pd.isna(part.earns_its_place.iloc[0]) and set(part.earns_its_place.iloc[1:]) <= {
        "yes (AUROC)", "yes (Brier)", "harms (AUROC)", "harms (Brier)", "not shown"}


def test_verdicts_follow_sign_and_adjusted_p():
  row = lambda auroc, brier, t=None: dict(
      adds="step", auroc_gain=auroc[0], auroc_p=auroc[1], auroc_p_resampled_t=t,
      brier_gain=brier[0], brier_p=brier[1], brier_p_resampled_t=t)
  assert table2.verdict(row((0.01, 0.01), (-0.1, 0.5))) == "yes (AUROC)"
  assert table2.verdict(row((0.01, 0.2), (-0.01, 0.01))) == "yes (Brier)"   # lower is better
  assert table2.verdict(row((-0.01, 0.01), (-0.1, 0.01))) == "harms (AUROC)"
  assert table2.verdict(row((0.01, 0.2), (0.01, 0.01))) == "harms (Brier)"
  assert table2.verdict(row((0.01, 0.2), (-0.01, None))) == "not shown"
  assert table2.verdict(row((0.01, 0.01), (-0.1, 0.01), 0.01)) == "yes (AUROC)"
  assert table2.verdict(row((0.01, 0.01), (-0.1, 0.01), 0.2)) == "not shown"


def test_rates_of_patterns_differ_by_chance_as_often_as_the_test_says():
  """Three rows a patient, alike in outcome and in pattern, at the level for 300 patients."""
  rng, p = np.random.default_rng(0), []
  patient = np.repeat(np.arange(300), 3)
  for _ in range(400):
    y = np.repeat(rng.random(300) < 0.3, 3).astype(float)
    pattern = np.repeat(rng.integers(0, 4, 300), 3)
    p.append(figure1.heterogeneity(y, [pattern == k for k in range(4)], patient))
  assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)
  assert figure1.heterogeneity(np.where(pattern == 1, 1.0, y), [pattern == k for k in range(4)],
                               patient) < 1e-6
  assert figure1.heterogeneity(y, [pattern == 1], patient) is None
  few = patient < 9   # three patients of a pattern without any outcome
  assert figure1.heterogeneity(np.where(few, 0.0, y), [few, ~few], patient) > 1e-3


def test_a_correlation_over_few_patterns_is_at_its_level():
  """Every pairing is equally likely where there is no association: by scipy's count of them, and
  where the t approximation of Spearman's p rejects a third (p = 0 of three in order)."""
  from scipy import stats
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(2, 6))
  strength = lambda a: abs(np.corrcoef(a, y)[0, 1])
  oracle = stats.permutation_test((x,), strength, permutation_type="pairings",
                                  alternative="greater", n_resamples=10_000)
  assert c6.by_pairing(x, y) == pytest.approx(oracle.pvalue)
  line = c6.correlation([(1, 0.1), (2, 0.2), (3, 0.4)], "icu", "spearman")
  assert line["value"] == pytest.approx(1) and line["p"] == pytest.approx(2 / 6)
  for n, kind in ((4, "spearman"), (5, "pearson"), (8, "spearman")):
    p = [c6.correlation(rng.normal(size=(n, 2)), "icu", kind)["p"] for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
  strong = np.arange(8) + 0.1 * rng.normal(size=8)
  assert c6.by_pairing(np.arange(8.0), strong) < 0.001


def test_p_values_are_not_bounded_by_the_number_of_resamples():
  score = lambda mean: study_lib.Score(mean, np.random.default_rng(0).normal(mean, 0.01, 1000))
  nothing = study_lib.Score(0.0, np.zeros(1000))
  assert (score(0.05) - nothing).entry["p"] == pytest.approx(5.7e-7, rel=0.9)
  few = (score(0.01) - nothing).entry   # some lie beyond 0
  assert few == bootstrap.difference(0.01, score(0.01).draws)
  assert (nothing - nothing).entry["p"] == 1.0 and "p" not in score(0.05).entry
  assert table2.verdict(dict(adds=None)) is None


def test_interval_and_p_of_a_table_never_contradict_each_other():
  rng, small = np.random.default_rng(0), 0
  for i in range(600):
    value, resamples = rng.normal(0, 0.02), (200, 120, 39)[i % 3]
    skewed = rng.gamma(1 + 9 * (i % 2), size=resamples)
    draws = value + 0.01 * (skewed - skewed.mean()) + rng.choice([0, 0.01])   # a biased statistic
    gain = study_lib.Score(value, draws) - study_lib.Score(0.0, np.zeros(resamples))
    row = {**tables.columns("gain", gain), "p": gain.entry["p"]}
    out = row["gain_lo"] is not None and (row["gain_lo"] > 0 or row["gain_hi"] < 0)
    assert (row["p"] < 0.05) == out, row
    small += out
  assert 60 < small < 540


@pytest.mark.slow
def test_table3_rows_of_the_patterns_make_up_all(made):
  table = pd.DataFrame(made[0]["table3"].rows)
  for _, part in table.groupby("task"):
    assert part.modalities.iloc[0] == "all" and part["rows"].iloc[1:].sum() <= part["rows"].iloc[0]
    gaps = part.auroc_method - part.auroc_zero_fill
    np.testing.assert_allclose(part.over_zero_fill, gaps)


@pytest.mark.slow
def test_table4_has_no_change_at_the_configs_own_setting(made):
  table = pd.DataFrame(made[0]["table4"].rows)
  own = table[table.of_the_config == "yes"]
  assert (own.auroc_change == 0).all() and len(own) == 2 * len(RANGES)
  assert (table[table.of_the_config == ""].auroc_change != 0).any()


@pytest.mark.slow
def test_c6_probe_beats_the_majority_since_the_pattern_is_an_input(made):
  checks = pd.DataFrame(made[0]["c6_checks"].rows).set_index("check").value
  assert checks["pattern from the representation, accuracy"] > checks["majority pattern, accuracy"]


@pytest.mark.slow
def test_figure1_counts_the_whole_cohort(made):
  table = pd.DataFrame(made[0]["figure1"].rows)
  assert table[table.task == "mortality"]["rows"].sum() <= 300
  told = table[table.positives.notna()]
  assert ((told.rate_lo <= told.rate) & (told.rate <= told.rate_hi)).all()


def test_figure1_counts_patients_as_clusters():
  """Every row a second time as the same patient's: nothing new is known."""
  def ends(rows):
    cohort = types.SimpleNamespace(
        pattern=np.ones(100, int)[rows], labels=np.tile([0.0, 1.0], 50)[rows, None],
        patient_id=np.arange(100)[rows], tasks=("death",), modalities=("structured",))
    made = figure1.make(types.SimpleNamespace(cohort=cohort, config=config_lib.default()))
    row = made[0].rows[0]
    return row["rate_lo"], row["rate_hi"]
  alone = ends(np.arange(100))
  assert alone == pytest.approx((0.404, 0.596), abs=1e-3)
  assert ends(np.repeat(np.arange(100), 2)) == pytest.approx(alone)


def cells():
  """(pattern, outcome) of 500 patients: pattern 7 has 2 positives, of pattern 3 there are 20, of 5
  there are 4 patients."""
  pattern = np.repeat([1, 7, 3, 5], [300, 60, 136, 4])
  y = np.zeros(500)
  y[:90], y[300:302], y[360:380] = 1, 1, 1
  return pattern, y


def test_figure1_tells_no_outcomes_of_few_patients():
  pattern, y = cells()
  cohort = types.SimpleNamespace(pattern=pattern, labels=y[:, None], patient_id=np.arange(500),
                                 tasks=("death",), modalities=("structured", "image", "text"))
  study = types.SimpleNamespace(cohort=cohort, config=config_lib.default())
  result = figure1.make(study)[0]
  assert [(r["rows"], r["positives"]) for r in result.rows] == [(300, 90), (136, None), (64, None)]
  assert result.rows[2]["pattern"].endswith(" + rarer patterns")
  for row in result.rows[1:]:   # the second would give the third away
    assert (row["rate"], row["rate_lo"], row["rate_hi"]) == (None, None, None)
  assert any("fewer than 10 patients with the outcome" in s for s in result.said)
  assert "of 300" in result.figure and "of 136" not in result.figure


def test_table3_compares_nothing_on_few_outcomes():
  pattern, y = cells()
  rows = pd.DataFrame(dict(patient_id=np.arange(500), pattern=pattern, y_death=y))
  found = table3.configurations(rows, "death", ("structured", "image", "text"), 10)
  assert [(mine.sum(), told) for _, mine, told in found] == [
      (500, True), (300, True), (136, False), (64, False)]
  none = table3.configurations(rows.assign(y_death=0.0), "death", ("structured", "image"), 10)
  assert not any(told for *_, told in none)
  assert table3.configurations(rows[:0], "death", ("structured", "image"), 10) == []


def test_sizes_do_not_tell_how_many_died():
  """Readmission is known of those who lived: two sizes of pattern 7 would tell its 2 deaths."""
  pattern, y = cells()
  cohort = types.SimpleNamespace(
      pattern=pattern, labels=np.stack([y, np.where(y == 1, np.nan, np.arange(500) % 2)], 1),
      patient_id=np.arange(500), tasks=("death", "back"), modalities=("a", "b", "c"))
  study = types.SimpleNamespace(cohort=cohort, config=config_lib.default())
  rows = figure1.make(study)[0].rows
  assert [r["rows"] for r in rows] == [300, None, None, 210, 116, 62]


def fake_study(monkeypatch, table):
  """A Study all of whose variants predicted `table`, of the tasks icu and mortality."""
  config = config_lib.default().unlock()
  config.evaluate.bootstrap = 50
  patients = np.unique(table.patient_id)
  monkeypatch.setattr(study_lib, "tables", lambda study, variants: dict.fromkeys(variants, table))
  return types.SimpleNamespace(
      config=config, patients=patients, resamples=bootstrap.resample(len(patients), 50, 0),
      cohort=types.SimpleNamespace(tasks=("icu", "mortality"), modalities=("a", "b", "c")))


def test_a_task_of_one_class_is_a_dash(monkeypatch, tmp_path):
  from tests.statistics.test_evaluate import make
  study = fake_study(monkeypatch, make().assign(y_icu=0.0, y_mortality=np.nan))
  for part in (table1, table2, table3, table4):
    (result,) = part.make(study)
    text = tables.markdown(result) + (result.figure or "")
    assert not re.search(r"\b\+?(nan|inf|None)\b", text), part
    tables.write(result, tmp_path)
    assert "nan" not in (tmp_path / f"{result.name}.csv").read_text()


def test_the_best_rival_is_any_other_model_whatever_its_name(monkeypatch):
  from tests.statistics.test_evaluate import make
  table = make()
  study = fake_study(monkeypatch, table)
  monkeypatch.setattr(table1, "MODELS", ("crl_mmnar", "crl_mmnar_large"))
  better = table.assign(p_icu=np.where(table.role == "test", table.y_icu, table.p_icu))
  monkeypatch.setattr(study_lib, "tables", lambda study, variants: {
      name: better if "large" in name else table for name in variants})
  (result,) = table1.make(study)
  ours = next(row for row in result.rows if row["predictor"] == "crl_mmnar")
  assert ours["over_best_yardstick"] == f"{ours['auroc'] - 1:+.1%}"   # that one's AUROC is 1


def test_patterns_that_may_not_be_told_leave_a_table_without_rows(tmp_path):
  cohort = types.SimpleNamespace(pattern=np.arange(60) // 4, labels=(np.arange(60) % 2.0)[:, None],
                                 patient_id=np.arange(60), tasks=("death",), modalities=("a",) * 4)
  (result,) = figure1.make(types.SimpleNamespace(cohort=cohort, config=config_lib.default()))
  assert result.rows == []
  tables.write(result, tmp_path)
  text = (tmp_path / "figure1.md").read_text()
  assert "| nothing that may be told |" in text and "fewer than two patterns" in text


def test_a_column_and_its_interval_are_one_cell():
  result = tables.Result("x", "X", [dict(a="k", v=0.5, v_lo=0.4, v_hi=0.6, n=3, none=None)], None)
  assert tables.cells(result) == (["a", "v", "n", "none"],
                                  [["k", "0.500 [0.400, 0.600]", "3", "-"]])


def test_seconds_of_members_that_train_together_count_once():
  record = lambda member, stage, seconds: dict(member=member, stage=stage, seconds=seconds)
  history = [record("a", "pretrain", 2.0), record("b", "pretrain", 2.0), record("a", "joint", 3.0),
             record("b", "joint", 3.0), record("b", "joint", 4.0)]
  assert c5.epochs(history) == {"pretrain": [2.0], "joint": [3.0, 4.0]}
