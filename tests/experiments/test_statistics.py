"""The studies of the statistics run, and (slow) say what they should: 95% intervals cover, tests
keep their level, verdicts are right."""

import csv
import pathlib
import resource

import numpy as np
import pytest

from crl_jax import config as config_lib
from experiments import conformal, coverage, informative, metrics_benchmark
from tests.statistics.test_conformal import make


@pytest.fixture
def config():
  c = config_lib.default().unlock()
  c.evaluate.bootstrap, c.evaluate.permutations = 40, 20
  return c.lock()


def test_coverage_scores_every_interval_against_the_population(config, monkeypatch):
  monkeypatch.setattr(coverage, "POPULATION", 20_000)
  lines = coverage.study(2, config)
  names = {x["name"] for x in lines}
  assert {"auroc", "slope", "ppv", "net benefit at 0.2", "auroc, difference, DeLong", "tpr, male",
          "equalized_odds gap, two groups", "auroc gap, five unequal groups",
          "corrected resampled t-test", "DeLong", "permutation, auroc gap", "tables, brier",
          "Holm over a table, any", "Holm over all gaps, any that is not there",
          "Spearman correlation over 8 patterns"} <= names
  assert all(0 <= x["share"] <= 1 and 1 <= x["cohorts"] <= 2 for x in lines)


def test_a_wrong_truth_is_not_covered(config, monkeypatch):
  """What the study counts: with the truth moved, nothing covers it."""
  monkeypatch.setattr(coverage, "POPULATION", 20_000)
  population = coverage.Population(np.random.default_rng(0), 10)
  population.sex_auroc = {"female": 2.0, "male": 5.0}
  population.values["p_"]["brier"] = 2.0
  covered, _ = coverage.one(np.random.default_rng(1), config, population)
  assert not covered["brier"] and not covered["auroc, male"]
  assert not covered["auroc gap, two groups"]


@pytest.mark.parametrize("kind, name, band", [
    ("95% interval covers", "auroc", (0.907, 0.985)),
    ("95% interval covers", "auroc gap, two groups", (0.907, 0.985)),
    ("95% interval covers", "auroc gap, three groups without one", (0.931, 1)),
    ("95% interval covers", "auroc gap, five unequal groups", (0.931, 1)),
    ("95% interval covers", "equalized_odds gap, two groups", (0.931, 1)),
    ("rejects at 5%", "DeLong", (0, 0.069))])
def test_bands_are_what_is_asked_and_two_standard_errors(kind, name, band):
  line = dict(kind=kind, name=name, cohorts=500)
  assert coverage.band(line) == pytest.approx(band, abs=1e-3)
  line["cohorts"] = 10 ** 8   # no allowance is left
  assert coverage.band(line) == pytest.approx(
      (0, 0.05) if band[0] == 0 else (0.95, 1) if band[1] == 1 else (0.93, 0.97), abs=1e-3)


def test_the_committed_study_is_within_its_bands():
  path = pathlib.Path(coverage.__file__).parent / "figures" / "coverage.csv"
  with open(path, newline="", encoding="utf-8") as file:
    for x in csv.DictReader(file):
      least, most = coverage.band({**x, "cohorts": int(x["cohorts"])})
      assert least <= float(x["share"]) <= most, x


def test_informative_counts_verdicts_and_true_nulls():
  found = informative.informative.study(informative.make("mar", 0.0, 800, 0))
  assert set(informative.nulls("mar", 0.0, found)) == {
      "content tells it, given covariates", "pattern predicts it, given covariates"}
  assert set(informative.nulls("mmnar", 0.1, found)) == set()
  cohort = informative.make("mcar", 0.08, 800, 0)
  lines = informative.contrasts(informative.informative.study(cohort),
                                cohort.info["truth"]["gamma"])
  assert len(lines) > 6 and np.abs(np.array(lines, float)[:, 0]).max() < 0.5
  text = informative.table([dict(world="a", x=0.5), dict(world="b", y=1)])
  assert text.splitlines()[2:] == ["| a | 0.500 |  |", "| b |  | 1 |"]


def test_shares_that_are_left_are_held_against_the_world():
  cohort = informative.make("mar", 0.06, 3000, 1)
  found, gamma = informative.informative.study(cohort), cohort.info["truth"]["gamma"]
  for entry in found["tasks"].values():
    entry["left"]["share"] = dict(value=0.5, lo=0.0, hi=9.0)
  held = lambda: informative.shares("mar", 0.06, found, gamma, 1)
  assert held() == [True] * 3
  found["tasks"]["icu"]["left"]["share"] = dict(value=8.5, lo=8.0, hi=9.0)
  found["tasks"]["mortality"]["left"]["share"] = dict(value=None, reason="not sure")
  held = dict(zip(found["tasks"], held()))
  assert held == {"readmission": True, "icu": False, "mortality": None}
  many = informative.make("mar", 0.06, 20_000, 1, again=10**6)
  assert not np.array_equal(many.observed[:3000], cohort.observed)   # other patients, one world
  assert many.info["truth"] == cohort.info["truth"]
  entry = found["tasks"]["icu"]
  ids = [entry["reference"]["pattern"], *(row["pattern"] for row in entry["patterns"])]
  group = [many.pattern == p if p is not None else ~np.isin(many.pattern, ids) for p in ids]
  if None not in ids:
    group.append(~np.isin(many.pattern, ids))
  direct = np.array([gamma["icu"][str(p)] for p in many.pattern])
  spread = lambda v: np.std(np.select(group, [v[rows].mean() for rows in group]))
  assert informative._true_share(entry, many, 1, gamma["icu"]) == pytest.approx(
      spread(direct) / spread(many.labels[:, 1]), rel=0.1)   # by the outcomes themselves


def test_conformal_counts_by_calibration_patients(config):
  lines = conformal.coverage(make(patients=300), ("a",), config.evaluate, 0.1)
  rows = (make(patients=300).role == "test").sum()
  for method in ("per pattern", "pooled"):
    assert sum(x[2] for x in lines if x[0] == method) == rows
  assert all(covered <= weight <= n and both <= weight for _, _, n, weight, covered, both in lines)


def test_benchmark_checks_itself_against_scikit_learn():
  names = [name for name, *_ in metrics_benchmark.rows(400, 8, 1)]
  assert names[1] == "AUROC, AUPRC, Brier, ECE" and len(names) == 5


def test_benchmark_times_whole_studies(monkeypatch, capsys):
  monkeypatch.setitem(metrics_benchmark.WHOLE, "tiny",
                      lambda: metrics_benchmark._evaluate(300, 1, 2, 10))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  took, peak = metrics_benchmark.whole("tiny")
  # the peak is the process's, which here is also that of the tests before this one
  assert took > 0 and 0 <= peak - before < 500
  monkeypatch.setattr(metrics_benchmark, "apart", lambda name, checkout: [1.0, 2.0])
  monkeypatch.setattr("sys.argv", ["", "--whole=tiny", "--before=."])
  metrics_benchmark.main()
  assert capsys.readouterr().out.endswith("| tiny | 1.0 | 2 | 1.0 | 2 |\n")


def test_coverage_above_the_switch_is_of_the_limit(config, monkeypatch):
  monkeypatch.setattr(coverage, "POPULATION", 20_000)
  monkeypatch.setattr(coverage.bootstrap, "MANY", 1000)
  monkeypatch.setattr(coverage.bootstrap, "RARER", 5)
  monkeypatch.setattr(coverage.bootstrap, "resample", None)   # nothing is resampled
  names = {x["name"] for x in coverage.study(1, config, patients=1500)}
  assert {"auroc", "auroc, difference", "equalized_odds gap, two groups"} <= names
  assert "tables, brier" not in names


@pytest.mark.slow
def test_intervals_cover_and_tests_keep_their_level():
  for x in coverage.study(500, config_lib.default()):
    least, most = coverage.band(x)
    assert least <= x["share"] <= most, x


@pytest.mark.slow
def test_verdicts_are_right():
  for line in informative.study(50, 2000):
    assert line["wrong"] <= 0.06, line
    for name, share in line.items():
      if name.startswith("rejects"):
        assert share <= 0.09, line
