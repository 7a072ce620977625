"""Does statistics/informative.py name the right mechanism, are its tests at their level, and does
what is left of a pattern's effect equal gamma where it should?

    python -m experiments.informative [--cohorts=200] [--rows=2000] [--out=DIR]

Every cohort is a world of its own, with modalities of reduced width. "no effect" worlds have no
direct effect of the pattern: under mcar it then says nothing of the outcome, and under mar nothing
once what everyone has is known, so those tests are of true nulls. Where a direct effect exists it
is compared with gamma minus that of the reference pattern, in worlds whose risks stay away from 0
and 1 (clipping would change it). So is the share of the effect that is left: it is 1 under mcar, 0
without a direct effect, and under mar what a large cohort of the same world says.
"""

import argparse
import collections
import csv

import numpy as np

from crl_jax import commands, config as config_lib
from crl_jax.data import simulate
from crl_jax.statistics import informative

WORLDS = {"mcar": ("mcar", 0.08), "mar": ("mar", 0.08), "mmnar": ("mmnar", 0.08),
          "mcar, no effect": ("mcar", 0.0), "mar, no effect": ("mar", 0.0)}


_MANY = 20_000   # rows of a cohort that says what is true


def make(mechanism, effect, rows, seed, again=0):
  """A small simulated cohort of the world `seed`; `again`: of other patients."""
  c = config_lib.default().unlock()
  c.seed = seed + again
  c.data.simulate.update(dict(
      mechanism=mechanism, effect=effect, rows=rows, world=seed, draws=1, sizes=(32, 64, 48, 48),
      prevalence=(0.4, 0.5, 0.35), signal=1.0))
  return simulate.build(c.lock())


def nulls(mechanism, effect, found):
  """name -> p-values of the hypotheses that are true in this world."""
  values = collections.defaultdict(list)
  for entry in found["modalities"].values():
    if mechanism == "mcar":
      values["covariates tell the modality"].append(entry["covariates"]["p"])
    if mechanism != "mmnar":
      values["content tells it, given covariates"].append(entry["content"]["p"])
  for entry in found["tasks"].values():
    if not effect and mechanism == "mcar":
      values["pattern predicts the outcome"].append(entry["predicts"]["p"])
    if not effect:
      values["pattern predicts it, given covariates"].append(entry["left"]["p"])
  return values


def contrasts(found, truth):
  """(estimates, 3) errors of what is left against gamma, whether the interval holds it, and the
  same error of the raw difference."""
  lines = []
  for task, entry in found["tasks"].items():
    gamma = truth[task]
    for row in entry["patterns"]:
      if row["pattern"] is None:
        continue
      true = gamma[str(row["pattern"])] - gamma[str(entry["reference"]["pattern"])]
      lines.append((row["left"]["value"] - true, row["left"]["lo"] <= true <= row["left"]["hi"],
                    row["raw"]["value"] - true))
  return lines


def shares(mechanism, effect, found, gamma, seed):
  """Of every task, whether the interval of the share that is left holds the true one; None where
  there is none."""
  many = (make(mechanism, effect, _MANY, seed, again=10**6) if mechanism == "mar" and effect
          else None)
  held = []
  for t, (task, entry) in enumerate(found["tasks"].items()):
    share = entry["left"].get("share", {"value": None})
    if share["value"] is None:
      held.append(None)
      continue
    true = 0.0 if not effect else 1.0 if many is None else _true_share(entry, many, t, gamma[task])
    held.append(share["lo"] <= true <= share["hi"])
  return held


def _true_share(entry, many, t, gamma):
  """Spread of gamma over that of the rates, among the patterns told of and the others as one."""
  rows = entry["reference"], *entry["patterns"]
  ids = [row["pattern"] for row in rows if row["pattern"] is not None]
  label = np.select([many.pattern == p for p in ids], range(len(ids)), len(ids))
  gamma_N = np.array([gamma[str(p)] for p in many.pattern])
  n = np.bincount(label)
  spread = lambda v: np.sqrt(np.cov(np.bincount(label, v) / n, fweights=n, ddof=0))
  return float(spread(gamma_N) / spread(many.references["bayes"][:, t]))


def study(cohorts, rows):
  """A dict per world: shares of verdicts, of rejected true nulls at 5%, and errors of gamma."""
  lines = []
  for name, (mechanism, effect) in WORLDS.items():
    verdicts, rejected, errors = collections.Counter(), collections.defaultdict(list), []
    held = []
    for seed in range(cohorts):
      cohort = make(mechanism, effect, rows, seed)
      found = informative.study(cohort, seed=seed)
      verdicts[found["verdict"]] += 1
      for test, p in nulls(mechanism, effect, found).items():
        rejected[test] += [v < 0.05 for v in p if v is not None]
      gamma = cohort.info["truth"]["gamma"]
      errors += contrasts(found, gamma)
      if mechanism != "mmnar":
        held += shares(mechanism, effect, found, gamma, seed)
    error = np.array(errors, float)
    lines.append(dict(
        world=name, cohorts=cohorts,
        **{f"verdict {v}": verdicts[v] / cohorts for v in ("mcar", "mar", "mmnar")},
        wrong=1 - verdicts[mechanism] / cohorts,
        gamma_covered=float(error[:, 1].mean()),
        gamma_rmse=float(np.sqrt(np.mean(error[:, 0]**2))),
        raw_rmse=float(np.sqrt(np.mean(error[:, 2]**2))),
        **({"share_told": np.mean([v is not None for v in held]),
            "share_covered": np.mean([v for v in held if v is not None] or [np.nan])}
           if held else {}),
        **{f"rejects: {test}": float(np.mean(v)) for test, v in rejected.items()}))
    print(f"{name}: {dict(verdicts)}", flush=True)
  return lines


def table(lines):
  """Markdown."""
  keys = list(dict.fromkeys(key for line in lines for key in line))
  cell = lambda v: "" if v is None else v if isinstance(v, (str, int)) else f"{v:.3f}"
  body = [[cell(line.get(key)) for key in keys] for line in lines]
  return "\n".join("| " + " | ".join(map(str, row)) + " |"
                   for row in [keys, ["---"] * len(keys), *body])


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cohorts", type=int, default=200, help="per world")
  parser.add_argument("--rows", type=int, default=2000)
  parser.add_argument("--out", type=commands.path, help="folder for informative.csv")
  arguments = parser.parse_args()
  lines = study(arguments.cohorts, arguments.rows)
  print(table(lines))
  if arguments.out:
    path = arguments.out / "informative.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
      writer = csv.DictWriter(file, list(dict.fromkeys(k for line in lines for k in line)))
      writer.writeheader()
      writer.writerows(lines)
    print(f"written: {path}")


if __name__ == "__main__":
  main()
