"""What the training engine and what follows it cost, in one table.

    python -m experiments.engine_benchmark [--parts=training,step,members,serving,rectifier,growth,accelerator]
        [--rows=20000] [--steps=60] [--repeats=5] [--out=DIR] [KEY=VALUE ...]

Things that are compared are timed in turn in one process, because machines are shared; values are
medians with the least and largest repeat. A ratio says how many times better a line is than what it
is compared with. Epochs are measured on --steps consecutive steps and scaled (--steps=0: whole
epochs). KEY=VALUE are settings of the config. --out gets engine_benchmark.csv and .md after every
part.
"""

import argparse
import csv
import datetime
import importlib
import os
import pathlib
import platform

from crl_jax import commands
from experiments import benchmarks

PARTS = "training", "step", "members", "serving", "rectifier", "growth", "accelerator"


def main():
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--rows", type=int, default=benchmarks.Options.rows)
  parser.add_argument("--steps", type=int, default=benchmarks.Options.steps)
  parser.add_argument("--repeats", type=int, default=benchmarks.Options.repeats)
  parser.add_argument("--out", type=commands.path)
  parser.add_argument("settings", nargs="*", help="key=value of the config")
  arguments = parser.parse_args()
  parts = arguments.parts.split(",")
  unknown = set(parts) - set(PARTS)
  if unknown:
    parser.error(f"unknown part {sorted(unknown)}; there are {', '.join(PARTS)}")
  options = benchmarks.Options(arguments.rows, arguments.steps, arguments.repeats,
                               tuple(arguments.settings))
  print(run(parts, options, arguments.out))


def run(parts, options, out=None):
  """The table of `parts` as Markdown text; `out` gets it and the CSV after every part, so that a
  late failure loses nothing."""
  lines, about = [], machine()
  for part in parts:
    lines += importlib.import_module(f"experiments.benchmarks.{part}").rows(options)
    if out:
      write(out, about, lines)
  return f"{about}\n\n{table(lines)}"


def machine():
  """One line: processor or accelerator, versions, date and how busy the machine is."""
  import jax
  device = jax.devices()[0]
  chip = _cpu() if device.platform == "cpu" else device.device_kind
  count = len(os.sched_getaffinity(0)) if device.platform == "cpu" else jax.device_count()
  load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
  return (f"{count} x {chip}; jax {jax.__version__}, Python {platform.python_version()}; "
          f"{datetime.date.today().isoformat()}; load average {load} at the start")


def _cpu():
  info = pathlib.Path("/proc/cpuinfo")
  names = [text.split(":", 1)[1].strip() for text in info.read_text().splitlines()
           if text.startswith("model name")] if info.exists() else []
  return names[0] if names else platform.processor() or platform.machine()


def table(lines):
  """Markdown of benchmarks.line()s."""
  head = ["part", "measure", "median (least - largest)", "unit", "compared with", "ratio"]
  body = [[line["part"], line["measure"], _range(line), line["unit"], line["compared with"],
           "" if line["ratio"] is None else _number(line["ratio"])] for line in lines]
  return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *body])


def _range(line):
  if line["min"] is None:
    return _number(line["value"])
  return f"{_number(line['value'])} ({_number(line['min'])} - {_number(line['max'])})"


def _number(x):
  return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def write(out, about, lines):
  """engine_benchmark.csv and .md in the folder `out`."""
  out.mkdir(parents=True, exist_ok=True)
  with open(out / "engine_benchmark.csv", "w", newline="") as f:
    writer = csv.DictWriter(f, benchmarks.COLUMNS)
    writer.writeheader()
    writer.writerows(lines)
  (out / "engine_benchmark.md").write_text(f"{about}\n\n{table(lines)}\n")


if __name__ == "__main__":
  main()
