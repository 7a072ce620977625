"""Analyses, a file each: the paper's, `make(study) -> Results` (experiments/paper.py), and those of
treatment policies, `make(studies) -> Result` (experiments/policy.py). What their commands share."""

import argparse
import csv
import dataclasses

import numpy as np

from crl_jax import commands
from crl_jax.report import page, svg, tables as text
from crl_jax.statistics import compare


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
  entry = score.entry
  return {prefix: entry["value"], f"{prefix}_lo": entry["lo"], f"{prefix}_hi": entry["hi"]}


def over_members(score):
  """'0.812 (0.020, n = 5)': mean and standard deviation over folds x seeds; None for one member."""
  values = np.array(list(score.members.values()))
  return (f"{values.mean():.3f} ({values.std(ddof=1):.3f}, n = {len(values)})"
          if len(values) > 1 else None)


def resampled_t(difference, config):
  """p of the corrected resampled t-test over folds x seeds; None for one member."""
  return compare.resampled_t(list(difference.members.values()), compare.ratio(config))["p"]


def parser_of(doc, parts):
  """An ArgumentParser with the flags of a command that makes tables; see parsed()."""
  parser = argparse.ArgumentParser(description=doc,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", type=commands.path, required=True)
  parser.add_argument("--workdir", type=commands.path, required=True)
  parser.add_argument("--tables", default=",".join(parts))
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("settings", nargs="*", help="key=value of the config")
  return parser


def parsed(parser, parts):
  """Its arguments, of which `tables` is the list of the parts that are asked for. Ends the command
  where there is no such part."""
  arguments = parser.parse_args()
  arguments.tables = arguments.tables.split(",")
  if unknown := sorted(set(arguments.tables) - set(parts)):
    parser.error(f"--tables: there is no {', '.join(unknown)}; there are {', '.join(parts)}.")
  return arguments


def write_page(path, title, results, banner, quick):
  """Writes all results as one page; `banner` of the data, or None."""
  page.write_tables(path, title, [
      *([banner] if banner else []),
      *(["Quick settings: to see it work; the numbers mean nothing."] if quick else [])], [
          dict(title=r.title, heads=cells(r)[0], lines=cells(r)[1], figure=r.figure, said=r.said)
          for r in results])
  print(f"\nAll of them: {path}")


def write(result, folder):
  """Writes <name>.csv, <name>.md and <name>.svg into the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / f"{result.name}.csv", "w", newline="", encoding="utf-8") as file:
    lines = csv.DictWriter(file, list(result.rows[0]) if result.rows else [])
    lines.writeheader()
    lines.writerows(result.rows)
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
    if not isinstance(row[name], float | None):
      return str(row[name])
    entry = dict(value=row[name], lo=row.get(f"{name}_lo"), hi=row.get(f"{name}_hi"))
    return text.interval_text(entry, result.forms.get(name, ".3f"))
  return [n.replace("_", " ") for n in shown], [[cell(row, n) for n in shown]
                                                for row in result.rows]
