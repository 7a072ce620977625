"""What one accelerator does with the full method: epochs over batch size, precision and members,
the share of its matrix product's rate, and memory.

Every program is compiled first, side by side; then all are timed in turn. An epoch is its training
steps. The rate that bounds a line is that of a large product of the line's own precision (float32
products run as the accelerator's default has them: TensorFloat-32 on NVIDIA's).
"""

import concurrent.futures
import time

from crl_jax import config as config_lib
from experiments.benchmarks import interleaved, line, ratios, setup, training

# batch size, folds, seeds
CASES = (32, 1, 1), (128, 1, 1), (512, 1, 1), (4096, 1, 1), (32, 5, 5), (512, 5, 5)


def rows(options):
  """Lines of the table."""
  prepared = setup.prepare(options, max(folds for _, folds, _ in CASES))
  cases = {(precision, *case): _bench(options, prepared, precision, *case)
           for case in CASES for precision in ("float32", "bfloat16")}
  data = next(iter(cases.values())).programs.resident(prepared.data)
  runs = {case: bench.runner(data) for case, bench in cases.items()}
  products = {precision: training.MatrixProduct(precision) for precision in ("float32", "bfloat16")}
  start = time.perf_counter()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(lambda run: run(), runs.values()))
  compiled = time.perf_counter() - start
  seconds = interleaved(runs | {name: p.run for name, p in products.items()}, options.repeats)
  flops = {case: training.HostLoop(bench, prepared.data).flops() for case, bench in cases.items()
           if case[0] == "float32" and case[2:] == (1, 1)}
  lines = []
  for case, bench in cases.items():
    precision, batch, folds, seeds = case
    members = folds * seeds
    part = f"accelerator, batch {batch}, {precision}, {members} member{'s' * (members > 1)}"
    epoch = [bench.scale * s for s in seconds[case]]
    first = [bench.scale * s for s in seconds["float32", *case[1:]]]
    rate = [members * flops["float32", batch, 1, 1] * bench.steps / s for s in seconds[case]]
    roof = [products[precision].flops / s for s in seconds[precision]]
    lines += [
        line(part, f"epoch of {bench.epoch_steps} steps ({bench.steps} timed)", epoch, "s",
             *(("float32", ratios(first, epoch)) if precision != "float32" else ())),
        line(part, "arithmetic", [r / 1e9 for r in rate], "GFLOP/s",
             f"matrix product, {precision}", ratios(rate, roof))]
    if members > 1:
      alone = [cases[precision, batch, 1, 1].scale * s * members
               for s in seconds[precision, batch, 1, 1]]
      lines.append(line(part, "epoch of all, again", epoch, "s", f"{members} epochs of one",
                        ratios(alone, epoch)))
  return lines + [
      *(line("accelerator", f"matrix product, {name}, {p.size} x {p.size}",
             [p.flops / s / 1e9 for s in seconds[name]], "GFLOP/s")
        for name, p in products.items()),
      line("accelerator", f"compilation of {len(runs)} programs side by side", compiled, "s"),
      line("accelerator", "peak memory", training.peak_memory() / 2 ** 30, "GiB")]


def _bench(options, prepared, precision, batch, folds, seeds):
  config = config_lib.override(setup.settings(options), [
      f"train.batch_size={batch}", f"train.precision={precision}", "members.together=0"])
  return setup.Bench(config, prepared, [fold for fold in range(folds) for _ in range(seeds)],
                     options.steps)
