"""The parts of experiments/engine_benchmark.py, one module each with rows(options) -> list of lines
of its table, and what they share."""

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Options:
  """What a part is asked for.

  Attributes:
    rows: of the simulated cohort.
    steps: training steps that are timed at once; 0: a whole epoch.
    repeats: how often each of the compared things is timed.
    settings: 'key=value' of the config, for all parts that train.
  """
  rows: int = 20000
  steps: int = 60
  repeats: int = 5
  settings: tuple = ()


COLUMNS = "part", "measure", "value", "min", "max", "unit", "compared with", "ratio"


def line(part, measure, value, unit, compared="", ratio=None):
  """A line of the table.

  Args:
    value: a number, or all repeats of it: the table tells their median, least and largest.
    compared: what the ratio refers to.
    ratio: how many times better than that (a share of it, for a rate that it bounds); a number or
      one per repeat, of which the median is told.
  """
  many = not isinstance(value, (int, float))
  return {"part": part, "measure": measure, "value": statistics.median(value) if many else value,
          "min": min(value) if many else None, "max": max(value) if many else None, "unit": unit,
          "compared with": compared,
          "ratio": statistics.median(ratio) if isinstance(ratio, (list, tuple)) else ratio}


def interleaved(things, repeats):
  """Times things in turn (A B A B ...), so that what else the machine does meets all alike.

  Args:
    things: name -> function without arguments that returns its seconds. Its first call, which may
      compile, is not counted.
    repeats: calls of each that are.
  Returns:
    name -> list of `repeats` seconds; those of one index ran one after another.
  """
  for run in things.values():
    run()
  found = {name: [] for name in things}
  for _ in range(repeats):
    for name, run in things.items():
      found[name].append(run())
  return found


def ratios(slower, faster):
  """slower / faster of each repeat."""
  return [a / b for a, b in zip(slower, faster)]
