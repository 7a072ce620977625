"""Tables of a study of treatment policies, one command, resumable:

    python -m experiments.policy --config=configs/policy_simsum.py --workdir=DIR [--quick]
        [--tables=methods,pattern] [--seeds=3] [KEY=VALUE ...]

Writes CSV, Markdown and SVG of every part into DIR/tables, and DIR/policy.html with all of them. A
part that its cohort cannot tell says so. --quick is 2,000 simulated rows, one seed and 10 epochs,
to see it work. Every study that a part asks for is kept as its metrics in DIR/studies, so that
parts share them and a second call goes on where the first one stopped.
"""

import dataclasses
import hashlib
import importlib
import json
import logging
import pathlib

import ml_collections
import numpy as np

from crl_jax import commands, config as config_lib, files
from crl_jax.policy import cohorts, data, judge, study as study_lib
from experiments import sweep, tables

PARTS = ("methods", "budget", "inputs", "pattern", "recoverability", "coarsening", "sensitivity",
         "folds", "noise", "annotation", "learning", "align")
QUICK = ("data.simulate.rows=2000", "policy.net.epochs=10")


@dataclasses.dataclass(frozen=True)
class Studies:
  """A config, whose studies are done once and kept.

  Attributes:
    config: the whole tree.
    folder: where they are kept.
    seeds: how many seeds a table averages over, from config.seed on.
  """
  config: ml_collections.ConfigDict
  folder: pathlib.Path
  seeds: int

  def metrics(self, settings=(), seed=0, change=None):
    """What policy.judge says of one study.

    Args:
      settings: "key=value" beside the config's.
      seed: added to the config's: of the simulated rows, the split and the networks.
      change: None, or (name, (PolicyCohort, config) -> PolicyCohort): what is done to the rows.
    """
    c = config_lib.override(self.config, settings).unlock()
    c.seed += seed
    c.lock()
    name = change[0] if change else ""
    text = json.dumps([config_lib.as_dict(c), name], sort_keys=True)
    path = self.folder / "studies" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.exists():
      print(f"  study: {', '.join(filter(None, (*settings, name, f'seed {c.seed}')))}", flush=True)
      p = cohorts.build(c)
      if change:
        p = data.validate(change[1](p, c))
      files.make_private(path.parent)
      files.write_json(path, judge.judge(study_lib.run(c, p), c.seed))
    return files.read(path)

  def mean(self, read, settings=(), change=None):
    """The mean over the seeds of what `read` (metrics -> float or None) finds in them; of several,
    as text with the standard deviation; None where a study lacks it."""
    found = [read(self.metrics(settings, seed, change)) for seed in range(self.seeds)]
    if None in found:
      return None
    if len(found) == 1:
      return float(found[0])
    return f"{np.mean(found):.3f} ({np.std(found, ddof=1):.3f}, n = {len(found)})"


def truth(policy, key):
  """A reader of an error of a policy against the truth, for Studies.mean()."""
  return lambda metrics: ((metrics["truth"] or {}).get(policy) or {}).get(key)


def ate(metrics, level=0):
  """(average effect, its lo and hi, the true one) of a level of what nuisances see."""
  found, true = metrics["effects"]["levels"][level]["ate"], metrics["effects"]["true"]
  return found["value"], found["lo"], found["hi"], true and true["value"]


def main():
  parser = tables.parser_of(__doc__, PARTS)
  parser.add_argument("--seeds", type=int, default=None, help="3; one with --quick")
  a = tables.parsed(parser, PARTS)
  logging.getLogger("crl_jax").setLevel("WARNING")   # a study is one line, not its stages
  with commands.ending("experiments.policy"):
    config = config_lib.override(sweep.read(a.config),
                                 [*(QUICK if a.quick else ()), *a.settings])
    seeds = a.seeds or (1 if a.quick else 3)
    make(Studies(config_lib.check(config), pathlib.Path(a.workdir), seeds), a.tables,
         a.quick)


def make(studies, parts=PARTS, quick=False):
  """Makes the parts and their page; returns their results."""
  results = []
  for part in parts:
    result = importlib.import_module(f"experiments.tables.policy_{part}").make(studies)
    tables.write(result, studies.folder / "tables")
    results.append(result)
    print(f"\n{tables.markdown(result)}", flush=True)
  title = f"Treatment policies: {studies.config.policy.cohort}"
  tables.write_page(studies.folder / "policy.html", title, results, studies.metrics()["banner"],
                    quick)
  return results


if __name__ == "__main__":
  main()
