"""Models of the zoo on one config, on the same rows, splits and resamples:

    python -m experiments.zoo --config=configs/mimic.py --workdir=DIR [--models=early,m3care]
        [--quick] [KEY=VALUE ...]

One table: AUROC, AUPRC and Brier score of every model and task with 95% intervals by patient, the
difference in AUROC to the config's own model (paired; p after Holm over the models of a task),
parameters, and seconds of training. It is printed and kept as CSV, Markdown and SVG in DIR/tables;
the config's own run, with its report, is DIR/run. --quick cuts epochs, rows and resamples, to see
it work. A second call, of more models too, goes on where the first one stopped. KEY=VALUE settings
are those that all models share. No model is tuned, and the learning rate is the config's. A model
that the cohort has no input for is left out, and named.
"""

import argparse
import dataclasses

import jax
import numpy as np

from crl_jax import commands, config as config_lib, models
from crl_jax.engine import members
from crl_jax.report import figures, svg
from crl_jax.statistics import compare
from experiments import paper, study as study_lib, sweep, tables
from experiments.tables import c5


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", type=commands.path, required=True)
  parser.add_argument("--workdir", type=commands.path, required=True)
  parser.add_argument("--models", default=",".join(models.MODELS))
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("settings", nargs="*", help="key=value of the config")
  arguments = parser.parse_args()
  with commands.ending("experiments.zoo") as stop:
    names = arguments.models.split(",")
    for name in names:   # before hours of training
      models.entry(name)
    config = config_lib.override(sweep.read(arguments.config),
                                 [*(paper.QUICK if arguments.quick else ()), *arguments.settings])
    zoo(config, arguments.workdir, names, arguments.quick, stop)


def zoo(config, workdir, names, quick=False, stop=None):
  """The tables.Result of the models `names` beside the config's own, written to workdir/tables.
  `stop`: see study.start()."""
  study, own = study_lib.start(config_lib.check(config), workdir, stop), config.model.name
  variants, refused = {own: ()}, []
  for name in names:
    if name != own:
      try:
        _model(study, config_lib.override(study.config, [f"model.name={name}"]))
      except ValueError as error:
        refused.append(f"Left out: {error}")
        print(f"{name} is left out: {error}", flush=True)
        continue
      variants[name] = (f"model.name={name}", *(_first_stages(name) if quick else ()))
      study_lib.tables(study, {name: variants[name]})
      print(f"{name}: trained", flush=True)
  result = compared(study, variants)
  result = dataclasses.replace(result, said=(*result.said, *refused))
  tables.write(result, workdir / "tables")
  print(f"\n{tables.markdown(result)}", flush=True)
  return result


def _first_stages(name):
  """Settings that cut a model's own stages to an epoch."""
  return [f"model.{name}.stages.{stage}.epochs=1"
          for stage in models.entry(name).settings().get("stages", {})]


def compared(study, variants):
  """The tables.Result of variants (see study.tables) that were trained, the config's own first."""
  found, own, rows, marks = study_lib.tables(study, variants), next(iter(variants)), [], []
  cost = {name: _cost(study, settings) for name, settings in variants.items()}
  for task in study.cohort.tasks:
    scores = {name: study_lib.score(study, table, task) for name, table in found.items()}
    lines = []
    for name, mine in scores.items():
      gain = mine["auroc"] - scores[own]["auroc"]
      lines.append({
          "task": task, "model": name,
          **{k: v for m in study_lib.METRICS for k, v in tables.columns(m, mine[m]).items()},
          **(tables.columns(f"over_{own}", gain) if name != own else
             dict.fromkeys((f"over_{own}{end}" for end in ("", "_lo", "_hi")))),
          "p": None if name == own else gain.entry["p"], **cost[name]})
      marks.append((f"{task}: {name}", [figures.mark(
          mine["auroc"].entry, svg.ORANGE if name == own else svg.BLUE)], None))
    for line, p in zip(lines, compare.holm([line["p"] for line in lines])):
      line["p_holm"] = p
    rows += lines
  readings = [name for name in variants if "our reading" in models.entry(name).source]
  said = ["Every model has the config's learning rate; none was tuned, and no test row was looked "
          "at to choose one. Probabilities are rectified; seconds are those of the epochs, of all "
          "members, and with other work on the machine they are more."]
  if readings:
    said.append(f"Our reading of an abstract, not a reproduction: {', '.join(readings)}.")
  return tables.Result(
      "zoo", f"The zoo: {study.config.data.cohort}, {study.config.members.folds} folds x "
      f"{study.config.members.seeds} seeds", rows,
      svg.forest(marks, "AUROC on test patients, with 95% intervals", "AUROC"), tuple(said),
      {"seconds": ".0f"})


def _model(study, config):
  return models.build(config, members.make_spec(study.cohort, study.prepared.stats[0]))


def _cost(study, settings):
  """The parameters of a member and the seconds that its training took."""
  config = config_lib.override(study.config, settings)
  shapes = jax.eval_shape(_model(study, config).init, jax.random.key(0))
  by_stage = c5.epochs(study_lib.curves(study, config))
  return {"parameters": int(sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))),
          "seconds": float(sum(map(sum, by_stage.values())))}


if __name__ == "__main__":
  main()
