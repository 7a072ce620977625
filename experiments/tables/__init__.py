"""The paper's analyses, a file each: `make(study) -> Result`. See experiments/paper.py."""

import csv
import dataclasses
import math

import numpy as np

from crl_jax.report import svg
from crl_jax.statistics import bootstrap


@dataclasses.dataclass(frozen=True)
class Result:
  """A table with its figure.

  Attributes:
    name: of its files.
    title: one line.
    rows: list of dicts of one set of columns; numbers, text or None.
    figure: an <svg> element, or None.
    said: sentences on what the table shows and what it does not.
    forms: column -> format of its numbers; others are ".3f".
  """
  name: str
  title: str
  rows: list
  figure: str | None
  said: tuple = ()
  forms: dict = dataclasses.field(default_factory=dict)


def columns(prefix, score):
  """A Score as the columns <prefix>, <prefix>_lo, <prefix>_hi."""
  lo, hi = score.interval
  return {prefix: score.value, f"{prefix}_lo": float(lo), f"{prefix}_hi": float(hi)}


def p_value(score):
  """Two-sided p of a paired difference, from its resamples; where none lies beyond 0, the normal
  tail, for a table's correction would never get past the fewness of resamples. None without one."""
  p, known = bootstrap.p_value(score.draws), score.draws[~np.isnan(score.draws)]
  if p is None or (known <= 0).any() and (known >= 0).any():
    return p
  return min(p, math.erfc(abs(score.value) / known.std() / math.sqrt(2)))


def over_members(score):
  """'0.812 (0.020, n = 5)': mean and standard deviation over folds x seeds; None for one member."""
  values = np.array(list(score.members.values()))
  return (f"{values.mean():.3f} ({values.std(ddof=1):.3f}, n = {len(values)})"
          if len(values) > 1 else None)


def resampled_t(difference, config):
  """p of the corrected resampled t-test over folds x seeds; None for one member."""
  from crl_jax.statistics import compare
  return compare.resampled_t(list(difference.members.values()), compare.ratio(config))["p"]


def write(result, folder):
  """Writes <name>.csv, <name>.md and <name>.svg into the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / f"{result.name}.csv", "w", newline="", encoding="utf-8") as file:
    lines = csv.DictWriter(file, list(result.rows[0]) if result.rows else [])
    lines.writeheader()
    lines.writerows({k: "" if _nothing(v) else v for k, v in row.items()} for row in result.rows)
  (folder / f"{result.name}.md").write_text(markdown(result), encoding="utf-8")
  if result.figure:
    (folder / f"{result.name}.svg").write_text(svg.standalone(result.figure), encoding="utf-8")


def markdown(result):
  """The table as Markdown; a value with its interval is one cell."""
  heads, lines = cells(result)
  body = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines)]
  return "\n".join([f"### {result.title}", "", *body, "", *(f"{s}\n" for s in result.said)])


def cells(result):
  """(heads, lines of text): columns ending in _lo and _hi are folded into their value's; a word
  where there is no row."""
  if not result.rows:
    return ["nothing that may be told"], []
  names = list(result.rows[0])
  shown = [n for n in names if not (n[-3:] in ("_lo", "_hi") and n[:-3] in names)]
  def cell(row, name):
    value, form = row[name], result.forms.get(name, ".3f")
    if _nothing(value):
      return "-"
    if not isinstance(value, float):
      return str(value)
    text = f"{value:{form}}"
    if f"{name}_lo" in row and not _nothing(row[f"{name}_lo"]):
      text += f" [{row[f'{name}_lo']:{form}}, {row[f'{name}_hi']:{form}}]"
    return text
  return [n.replace("_", " ") for n in shown], [[cell(row, n) for n in shown]
                                                for row in result.rows]


def _nothing(value):
  return value is None or isinstance(value, float) and not math.isfinite(value)
