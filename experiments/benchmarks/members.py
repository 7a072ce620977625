"""Many members in one run (5 folds x 5 seeds, or members.folds=... members.seeds=...) against
as many runs one after another, in the steady state: what compilation and the cohort's preparation
cost each separate run is not counted."""

from crl_jax import config as config_lib
from experiments.benchmarks import interleaved, line, ratios, setup, training


def rows(options):
  """Lines of the table."""
  grid = config_lib.override(setup.settings(options, "members.folds=5", "members.seeds=5"),
                             options.settings).members
  prepared = setup.prepare(options, grid.folds)
  folds = [fold for fold in range(grid.folds) for _ in range(grid.seeds)]
  steps = min(options.steps, max(2, options.steps // 6))
  count = len(folds)
  bench = lambda together, folds: setup.Bench(
      setup.settings(options, f"members.together={together}"), prepared, folds, steps)
  chosen, one_by_one, all_at_once = bench(0, folds), bench(1, folds), bench(count, folds)
  single = bench(0, folds[:1])
  data = single.programs.resident(prepared.data)
  # one compiled program, called for one member after another
  separate = [single.runner(data, seed, [fold]) for seed, fold in enumerate(folds)]
  things = {"separate": lambda: sum(run() for run in separate),
            "one by one": one_by_one.runner(data), "all at once": all_at_once.runner(data)}
  seconds = interleaved(things, options.repeats)
  epoch = {name: [s * chosen.scale for s in found] for name, found in seconds.items()}
  which = "one by one" if chosen.programs.together == 1 else "all at once"
  part = f"members, {grid.folds} folds x {grid.seeds} seeds"
  measured, runs = f"{steps or 'all'} steps timed", f"{count} runs"
  return [
      line(part, f"epoch, one run ({which}: members.together=0; {measured})", epoch[which],
           "s", runs, ratios(epoch["separate"], epoch[which])),
      line(part, f"epoch, {count} runs one after another", epoch["separate"], "s"),
      line(part, "epoch, one run, members.together=1", epoch["one by one"], "s", runs,
           ratios(epoch["separate"], epoch["one by one"])),
      line(part, f"epoch, one run, members.together={count}", epoch["all at once"], "s",
           "members.together=1", ratios(epoch["one by one"], epoch["all at once"])),
      line(part, f"{training.EPOCHS} epochs of all, from the first line",
           [training.EPOCHS * s for s in epoch[which]], "s")]
