"""Do 95% intervals cover 95% of the time, and do tests reject 5% of what is true?

    python -m experiments.coverage [--cohorts=500] [--out=DIR]        # minutes, see the README
    python -m experiments.coverage --patients=12000 --cohorts=100     # above bootstrap.MANY

Each cohort has 600 patients, or as many as are asked for, with one to three correlated rows, split
into validation and test rows; its predictions are overconfident and shifted, and worse for one sex,
which four of five unequal groups are made of. The truth is that of a population of a million rows
(thresholds chosen on the cohort's validation rows are held fixed). The statistics are those of
metrics.json, made by the same code.
"""

import argparse
import csv

import numpy as np
import pandas as pd
from scipy import special

from crl_jax import commands, config as config_lib
from crl_jax.statistics import (bootstrap, compare, evaluate, fairness, metrics as metrics_lib,
                                roles, scoring)
from experiments import study as study_lib
from experiments.tables import c6

PATIENTS, VALIDATION, POPULATION, CUT = 600, 0.25, 1_000_000, 0.2
DIFFERENCE = roles.GAIN.key
FIVE = (0.4, 0.25, 0.2, 0.15)   # shares of the men in four groups; the women are the fifth
INTERVALS, TESTS = "95% interval covers", "rejects at 5%"
SEVERAL = "gap, five unequal groups"   # covers more often than 95%, by its making
ABSENT = "gap, three groups without one"
TABLED = ("auroc", "auprc", "brier")
PATTERNS = 8   # of a correlation over patterns


def draw(rng, patients):
  """Rows of `patients`: outcome, two predictors of the same quality, a better one, sex."""
  patient = np.repeat(np.arange(patients), rng.choice([1, 2, 3], patients, p=[0.6, 0.3, 0.1]))
  n = len(patient)
  sex = rng.choice(["female", "male"], patients)[patient]
  frailty = rng.normal(size=patients)[patient]
  x = 0.7 * frailty + 0.7 * rng.normal(size=n)
  risk = special.expit(1.2 * x - 1)
  noise = lambda: rng.normal(size=n) * np.where(sex == "male", 1.0, 0.5)
  # the base and the twin differ in their noise alone
  base, twin, better = x + noise(), x + noise(), x + 0.6 * noise()
  p = lambda score: special.expit(1.6 * score - 0.7)
  table = pd.DataFrame(dict(
      row_id=np.arange(n), patient_id=patient, fold=0, seed=0, role="test", pattern=1,
      group_sex=sex, group_coin=rng.choice(["a", "b", "c"], patients)[patient],
      y_a=(rng.random(n) < risk).astype(float), p_base_a=p(base), p_a=p(better), p_twin_a=p(twin)))
  five = rng.choice(["b", "c", "d", "e"], patients, p=FIVE)[patient]
  return table.assign(group_five=np.where(sex == "female", "a", five))


def cohort(rng, patients=PATIENTS):
  """A predictions table with validation and test rows of different patients."""
  table = draw(rng, patients)
  table.loc[table.patient_id < VALIDATION * patients, "role"] = "val"
  return table


class Population:
  """What the statistics estimate."""

  def __init__(self, rng, bins):
    self.table = draw(rng, int(POPULATION / 1.5))
    self.values = {prefix: self._values(prefix, bins) for prefix in ("p_", "p_base_")}

  def _values(self, prefix, bins):
    y, p = self.table.y_a.to_numpy(), self.table[prefix + "a"].to_numpy()
    found = metrics_lib.scores(y, p, bins=bins, only=metrics_lib.METRICS + metrics_lib.LINE)
    return {name: float(v[0]) for name, v in found.items()}

  def rates(self, prefix, threshold, mine=None):
    table = self.table if mine is None else self.table[mine]
    y, flag = table.y_a.to_numpy() == 1, table[prefix + "a"].to_numpy() >= threshold
    share = lambda a, b: float((a & b).sum() / b.sum())
    return dict(sensitivity=share(flag, y), specificity=share(~flag, ~y), ppv=share(y, flag),
                npv=share(~y, ~flag), flagged=float(flag.mean()),
                bias=float((y - table[prefix + "a"]).mean()))


def one(rng, config, population, seed=0, patients=PATIENTS):
  """Returns name -> whether the interval held the truth, and name -> p-value of a true null."""
  table = cohort(rng, patients)
  found = evaluate.evaluate(table.drop(columns="group_five"), ("a",), config, seed, ("x",))
  inside = lambda entry, truth: None if entry["lo"] is None else entry["lo"] <= truth <= entry["hi"]
  covered, pvalues = {}, {}
  test, value = found["test"]["a"], population.values
  threshold = found["operating"]["test"]["a"]["threshold"]
  truth = {**value["p_"], **population.rates("p_", threshold)}
  for name in metrics_lib.METRICS + metrics_lib.LINE + scoring.RATES:
    covered[name] = inside(test[name], truth[name])
  for name in metrics_lib.METRICS + metrics_lib.LINE:
    covered[f"{name}, difference"] = inside(found["differences"][DIFFERENCE]["a"][name],
                                            value["p_"][name] - value["p_base_"][name])
  covered["auroc, difference, DeLong"] = inside(
      found["tests"][DIFFERENCE]["a"]["delong"], value["p_"]["auroc"] - value["p_base_"]["auroc"])
  curve = found["net_benefit"]["test"]["a"]
  k = int(round(100 * CUT)) - 1
  benefit = metrics_lib.net_benefit(population.table.y_a, population.table.p_a, [CUT])[0][0, 0]
  covered[f"net benefit at {CUT}"] = curve["lo"][k] <= benefit <= curve["hi"][k]
  sexes = {}
  for cell in found["fairness"]["tasks"]["a"]["sex"]["groups"]:
    mine = (population.table.group_sex == cell["group"]).to_numpy()
    sexes[cell["group"]] = truth = population.rates("p_", threshold, mine)
    rates = dict(tpr=truth["sensitivity"], fpr=1 - truth["specificity"], flagged=truth["flagged"],
                 bias=truth["bias"], auroc=population.sex_auroc[cell["group"]])
    for name, v in rates.items():
      covered[f"{name}, {cell['group']}"] = inside(cell[name], v)
  a, b = sexes.values()
  true = {name: abs(a[rate] - b[rate]) for name, rate in (("demographic_parity", "flagged"),
                                                          ("bias", "bias"))}
  true["equalized_odds"] = max(abs(a[rate] - b[rate]) for rate in ("sensitivity", "specificity"))
  five = _five(table, config.evaluate, seed)
  true["auroc"] = abs(np.subtract(*population.sex_auroc.values()))
  for name in true:
    gaps = {who: found["fairness"]["tasks"]["a"][who]["gaps"] for who in ("sex", "coin")}
    covered[f"{name} gap, two groups"] = inside(gaps["sex"][name], true[name])
    covered[f"{name} {SEVERAL}"] = inside(five[name], true[name])
    covered[f"{name} {ABSENT}"] = inside(gaps["coin"][name], 0.0)
  # true nulls: the twin is as good as the base; the coin says nothing
  rows = table[table.role == "test"]
  pvalues["DeLong"] = compare.rows_delong(rows, "a", rows.p_base_a, rows.p_twin_a)["p"]
  twin = compare.runs(table, table, ("a",), config, seed, "p_base_", "p_twin_")["a"]
  pvalues |= {f"paired bootstrap, {name}": twin[name]["p"] for name in TABLED}
  pvalues["Holm over the three, any"] = min(compare.holm([twin[m]["p"] for m in TABLED]))
  if patients < bootstrap.MANY:   # the paper's tables are resampled at every size
    pvalues |= _tabled(rows, config.evaluate, seed)
  coin = found["fairness"]["tasks"]["a"]["coin"]["gaps"]
  pvalues |= {f"permutation, {name} gap": gap["p"] for name, gap in coin.items()}
  pvalues["Holm over all gaps, any that is not there"] = min(g["p_holm"] for g in coin.values())
  for kind in ("pearson", "spearman"):
    pairs = rng.normal(size=(PATTERNS, 2))
    pvalues[f"{kind.title()} correlation over {PATTERNS} patterns"] = c6.correlation(
        pairs, "a", kind)["p"]
  pvalues["corrected resampled t-test"] = resampled(rng)
  return covered, pvalues


def _tabled(rows, config, seed):
  """p-values of the paper's tables (study.Score's), and whether Holm's correction over them passes
  any."""
  patients, patient = np.unique(rows.patient_id.to_numpy(), return_inverse=True)
  weights = bootstrap.resample(len(patients), config.bootstrap, seed)
  p_2xN = rows[["p_base_a", "p_twin_a"]].to_numpy().T
  value, draws = (metrics_lib.scores(rows.y_a.to_numpy(), p_2xN, w, patient, only=TABLED)
                  for w in (None, weights))
  first, second = ([study_lib.Score(float(value[m][i, 0]), draws[m][i]) for m in TABLED]
                   for i in (0, 1))
  p = [(a - b).entry["p"] for a, b in zip(first, second)]
  return {f"tables, {m}": one for m, one in zip(TABLED, p)} | {
      "Holm over a table, any": min(compare.holm(p))}


def _five(table, config, seed):
  """Gaps between the five groups, as in metrics.json: alone, for their crossings take long."""
  table = table.drop(columns=["group_sex", "group_coin"])
  patients, patient = np.unique(table.patient_id.to_numpy(), return_inverse=True)
  test = (table.role == "test").to_numpy()
  found = fairness.study(
      table[test], ("a",), config, bootstrap.sampling(len(patients), config.bootstrap, seed),
      patient[test], {"a": scoring.operating_points(table, "a", "p_", config.sensitivity)}, seed)
  return found["tasks"]["a"]["five"]["gaps"]


def resampled(rng, n=300, folds=5, repeats=2):
  """p-value of the corrected t-test between two learners that are equally good by symmetry, over
  folds x repeats."""
  x = rng.normal(size=(n, 8))
  y = (rng.random(n) < special.expit(x.sum(1) * 0.5)).astype(float)
  differences = []
  for _ in range(repeats):
    fold = rng.permutation(n) % folds
    for k in range(folds):
      score = []
      for part in (x[:, :4], x[:, 4:]):
        beta = np.linalg.lstsq(part[fold != k], y[fold != k] - y[fold != k].mean(), rcond=None)[0]
        score.append(metrics_lib.auroc(y[fold == k], special.expit(part[fold == k] @ beta))[0])
      differences.append(score[0] - score[1])
  return compare.resampled_t(differences, 1 / (folds - 1))["p"]


def study(cohorts, config, seed=0, patients=PATIENTS):
  """Rows of the table: kind, name, cohorts, share, its standard error."""
  population = Population(np.random.default_rng([seed, 1]), config.evaluate.bins)
  population.sex_auroc = {
      sex: float(metrics_lib.auroc(rows.y_a, rows.p_a)[0])
      for sex, rows in population.table.groupby("group_sex")}
  covered, pvalues = {}, {}
  for replicate in range(cohorts):
    for store, found in zip((covered, pvalues),
                            one(np.random.default_rng([seed, 2, replicate]), config, population,
                                replicate, patients)):
      for name, v in found.items():
        store.setdefault(name, []).append(v)
  lines = []
  for kind, store in ((INTERVALS, covered), (TESTS, pvalues)):
    for name, v in store.items():
      v = [x if kind == INTERVALS else x <= 0.05 for x in v if x is not None]
      share = float(np.mean(v))
      lines.append(dict(kind=kind, name=name, cohorts=len(v), share=share,
                        se=float(np.sqrt(share * (1 - share) / len(v)))))
  return lines


def band(line):
  """(least, most) share that a line of `study` may have: what is asked, give or take two standard
  errors at its number of cohorts.

  95% intervals are to hold 93% to 97%. A gap that is not there can be missed from above alone, and
  limits that hold for several pairs of groups, or for two rates (equalised odds), at once cover
  more often than asked: these are to hold 95% or more. Tests are to reject 5% or less.
  """
  allow = lambda share: 2 * float(np.sqrt(share * (1 - share) / line["cohorts"]))
  if line["kind"] == TESTS:
    return 0.0, 0.05 + allow(0.05)
  if line["name"].endswith((ABSENT, SEVERAL)) or line["name"].startswith("equalized_odds gap"):
    return 0.95 - allow(0.95), 1.0
  return 0.93 - allow(0.93), 0.97 + allow(0.97)


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cohorts", type=int, default=500)
  parser.add_argument("--patients", type=int, default=PATIENTS, help="of a cohort")
  parser.add_argument("--out", type=commands.path,
                      help="folder for coverage.csv, or coverage_PATIENTS.csv")
  arguments = parser.parse_args()
  config = config_lib.default()
  lines = study(arguments.cohorts, config, patients=arguments.patients)
  print("| what | statistic | cohorts | share | its standard error |\n"
        "| --- | --- | --- | --- | --- |")
  for x in lines:
    print(f"| {x['kind']} | {x['name']} | {x['cohorts']} | {x['share']:.3f} | {x['se']:.3f} |")
  if arguments.out:
    size = "" if arguments.patients == PATIENTS else f"_{arguments.patients}"
    path = arguments.out / f"coverage{size}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
      writer = csv.DictWriter(file, lines[0])
      writer.writeheader()
      writer.writerows(lines)
    print(f"written: {path}")


if __name__ == "__main__":
  main()
