"""Rows past the memory: time and memory of a streamed epoch at three sizes.

Each size is trained in a process of its own whose data segment (all memory but files mapped from
disk) is limited; the cohort lies in a folder on disk, of MIMIC's shape, and is removed afterwards.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time

from experiments import benchmarks


SIZES = 20_000, 200_000, 1_000_000
LIMIT = 4   # GiB


def rows(options):
  """The table's lines. options.rows above 20,000 is ignored; options.rows below it is for tests:
  one size alone."""
  sizes = SIZES if options.rows >= SIZES[0] else (options.rows,)
  lines, first = [], None
  for size in sizes:
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder) / "cohort"
      make(size, folder, options.settings)
      gigabytes = sum(f.stat().st_size for f in folder.iterdir()) / 2 ** 30
      done = subprocess.run([sys.executable, "-m", "experiments.benchmarks.growth", str(folder),
                             *options.settings], capture_output=True, text=True)
      if done.returncode:
        raise RuntimeError(f"Training on {size} rows failed:\n{done.stderr[-2000:]}")
      found = json.loads(done.stdout.splitlines()[-1])
    each = found["seconds"] / size * 1e6
    first = first or each
    lines += [
        benchmarks.line("growth", f"{size:,} rows ({gigabytes:.1f} GiB), streamed epoch", [found[
            "seconds"]], "s", f"linear from {sizes[0]:,} rows", first / each),
        benchmarks.line("growth", f"{size:,} rows, peak memory", [found["peak"]], "GiB",
                        f"limit of {LIMIT} GiB", LIMIT / found["peak"])]
  return lines


def make(size, folder, settings):
  """Writes a simulated cohort whose inputs are never in memory."""
  from configs import mimic
  from crl_jax import config as config_lib
  from crl_jax.data import cohort as cohort_lib, simulate
  config = config_lib.override(mimic.get_config(), [f"data.simulate.rows={size}",
                                                    "data.simulate.draws=2", *settings])
  cohort_lib.save(simulate.build(config, cohort_lib.on_disk(folder)), folder)


def train(folder, settings):
  """{"seconds": of the second epoch, "peak": GiB of memory that is not a mapped file}."""
  resource.setrlimit(resource.RLIMIT_DATA, (LIMIT * 2 ** 30, resource.RLIM_INFINITY))
  peak = [0]
  def watch():
    while True:
      status = pathlib.Path("/proc/self/status").read_text()
      peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]) / 2 ** 20)
      time.sleep(0.05)
  threading.Thread(target=watch, daemon=True).start()

  from configs import mimic
  from crl_jax import config as config_lib, files, pipeline, stopping
  from crl_jax.engine import members
  config = config_lib.override(mimic.get_config(), [
      "data.cohort=saved", f"data.root={folder}", "train.data=streamed", "train.pretrain.epochs=0",
      "train.joint.epochs=2", "checkpoint.every_epochs=1", *settings])
  pipeline.fit(pipeline.prepare(config), members.grid(config), folder, "", stopping.Stop())
  return {"seconds": files.history(folder)[-1]["seconds"], "peak": peak[0]}


if __name__ == "__main__":
  print(json.dumps(train(pathlib.Path(sys.argv[1]), sys.argv[2:])))
