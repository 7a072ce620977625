"""The paper's tables and figures for any config, one command, resumable:

    python -m experiments.paper --config=configs/mimic.py --workdir=DIR [--quick]
        [--tables=table1,table2] [KEY=VALUE ...]

Writes CSV, Markdown and SVG of every part into DIR/tables, and DIR/paper.html with all of them. The
config's own run, with its report, is DIR/run. --quick cuts epochs, seeds, resamples and rows, to
see it work. A second call goes on where the first one stopped.
"""

import importlib
import json
import pathlib
import time

from crl_jax import commands, config as config_lib
from experiments import study as study_lib, sweep, tables

PARTS = ("figure1", "table1", "table2", "table3", "c5", "c6", "table4")   # the longest last
QUICK = ("train.pretrain.epochs=1", "train.joint.epochs=2", "members.seeds=1", "members.folds=1",
         "evaluate.bootstrap=100", "data.simulate.rows=1500")


def main():
  arguments = tables.parsed(tables.parser_of(__doc__, PARTS), PARTS)
  with commands.ending("experiments.paper") as stop:
    config = config_lib.override(sweep.read(arguments.config),
                                 [*(QUICK if arguments.quick else ()), *arguments.settings])
    paper(config, arguments.workdir, arguments.tables, arguments.quick, stop)


def paper(config, workdir, parts=PARTS, quick=False, stop=None):
  """Makes the parts of a config's study; returns their results. `stop`: see study.start()."""
  workdir = pathlib.Path(workdir)
  began = time.time()
  study = study_lib.start(config_lib.check(config), workdir, stop)
  print(f"{len(study.cohort)} rows, {config.members.folds} folds x {config.members.seeds} seeds; "
        f"the run: {study.run_folder} ({_minutes(began)})", flush=True)
  results = []
  for part in parts:
    began = time.time()
    for result in importlib.import_module(f"experiments.tables.{part}").make(study):
      tables.write(result, workdir / "tables")
      results.append(result)
      print(f"\n{tables.markdown(result)}", flush=True)
    _clock(workdir, part, time.time() - began)
  facts, title = study.read("data.json"), f"The paper's tables: {config.data.cohort}"
  tables.write_page(workdir / "paper.html", title, results, facts.get("banner"), quick)
  return results


def _clock(workdir, part, seconds):
  """Adds to minutes.json; a part that was only read again adds little."""
  path = workdir / "minutes.json"
  known = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(known | {part: round(known.get(part, 0) + seconds / 60, 2)}, indent=1))


def _minutes(began):
  return f"{(time.time() - began) / 60:.1f} minutes"


if __name__ == "__main__":
  main()
