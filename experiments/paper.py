"""The paper's tables and figures for any config, one command, resumable:

    python -m experiments.paper --config=configs/mimic.py --workdir=DIR [--quick]
        [--tables=table1,table2] [KEY=VALUE ...]

Writes CSV, Markdown and SVG of every part into DIR/tables, and DIR/paper.html with all of them. The
config's own run, with its report, is DIR/run. --quick cuts epochs, seeds, resamples and rows, to
see it work. A second call goes on where the first one stopped.
"""

import argparse
import importlib
import json
import pathlib
import time

from crl_jax import commands, config as config_lib
from crl_jax.report import page
from experiments import study as study_lib, sweep, tables

PARTS = ("figure1", "table1", "table2", "table3", "c5", "c6", "table4")   # the longest last
QUICK = ("train.pretrain.epochs=1", "train.joint.epochs=2", "members.seeds=1", "members.folds=1",
         "evaluate.bootstrap=100", "data.simulate.rows=1500")


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", type=commands.path, required=True)
  parser.add_argument("--workdir", type=commands.path, required=True)
  parser.add_argument("--tables", default=",".join(PARTS))
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("settings", nargs="*", help="key=value of the config")
  arguments = parser.parse_args()
  parts = arguments.tables.split(",")
  if unknown := sorted(set(parts) - set(PARTS)):
    parser.error(f"--tables: there is no {', '.join(unknown)}; there are {', '.join(PARTS)}.")
  with commands.ending("experiments.paper") as stop:
    config = config_lib.override(sweep.read(arguments.config),
                                 [*(QUICK if arguments.quick else ()), *arguments.settings])
    paper(config, arguments.workdir, parts, arguments.quick, stop)


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
  page.write_tables(workdir / "paper.html", title, [
      *([facts["banner"]] if facts.get("banner") else []),
      *(["Quick settings: to see it work; the numbers mean nothing."] if quick else [])], [
          dict(title=r.title, heads=tables.cells(r)[0], lines=tables.cells(r)[1], figure=r.figure,
               said=r.said) for r in results])
  print(f"\nAll of them: {workdir / 'paper.html'}")
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
