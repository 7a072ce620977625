"""Anybody's predicted probabilities, corrected by posthoc.hierarchy: two tables in, a table out,
and what may be told of it."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd

from crl_jax import files
from crl_jax.posthoc import hierarchy
from crl_jax.statistics import disclosure, metrics

_ABSENT = ("", "na", "n/a", "nan", "null", "none")   # of a CSV's text, in any case


@dataclasses.dataclass(frozen=True)
class Columns:
  """Names of the columns of both tables; the outcome is needed in the calibration table alone.

  patterns: several columns of 0/1, one a modality, or one column of ids.
  """
  outcome: str
  probability: str
  patient: str
  patterns: tuple


def rectify(calibration, predictions, output, columns, min_cell=10, seed=0):
  """Writes the predictions with a column more, `<probability>_rectified`.

  Args:
    calibration: a CSV or Parquet file: rows whose outcomes are known, and which the predictor was
      not trained on.
    predictions: a CSV or Parquet file: rows to correct.
    output: the file to write, CSV or Parquet by its name.
    columns: Columns.
    min_cell: patients behind any number of a group that is told.
    seed: deals patients into folds.
  Returns:
    what report.rectified.write shows: plain facts, no row.
  Raises:
    ValueError, OSError: nothing is written; no value of a row is told.
  """
  output = pathlib.Path(output)
  known, new = read(calibration), read(predictions)
  needed = [columns.outcome, columns.probability, columns.patient, *columns.patterns]
  for path, table, names in ((calibration, known, needed),
                             (predictions, new, [needed[1], *columns.patterns])):
    if absent := [name for name in names if name not in table]:
      raise ValueError(f"{path} lacks the columns {absent}; it has {list(table.columns)}.")
  name = f"{columns.probability}_rectified"
  if name in new:
    raise ValueError(f"{predictions} has a column '{name}' already.")
  if output.suffix not in (".csv", ".parquet"):
    raise ValueError(f"--output must end in .csv or .parquet, not '{output.name}'.")
  y, p = (_numbers(known, column, calibration) for column in needed[:2])
  pattern = _patterns(known, columns.patterns, calibration)
  patient = _ids(known, columns.patient, calibration)
  p_new = _numbers(new, columns.probability, predictions)
  pattern_new = _patterns(new, columns.patterns, predictions)
  for path, values in ((calibration, p), (predictions, p_new)):
    if gaps := int(np.isnan(values).sum()):
      raise ValueError(f"{path}: {gaps} of {len(values)} rows have no '{columns.probability}'.")
  found = hierarchy.rectify(y, p, pattern, patient, seed)
  after = found.correction(p_new, pattern_new)
  output.parent.mkdir(parents=True, exist_ok=True)
  with files.replaced(output) as part:
    table = new.assign(**{name: after})
    (table.to_csv if output.suffix == ".csv" else table.to_parquet)(part, index=False)
  return _facts(found, y, p, pattern, patient, p_new, pattern_new, after, columns, min_cell)


def read(path):
  """The DataFrame of a CSV file, its cells as text, or of a Parquet file. Raises OSError,
  ValueError, without what the file holds."""
  path = pathlib.Path(path)
  if path.suffix not in (".csv", ".parquet"):
    raise ValueError(f"{path} must be a .csv or a .parquet file.")
  try:
    if path.suffix == ".parquet":
      return pd.read_parquet(path)
    return pd.read_csv(path, dtype=str, na_filter=False)   # an id 007 stays 007
  except (ValueError, pd.errors.ParserError) as error:
    raise ValueError(f"{path} cannot be read as {path.suffix[1:]} ({type(error).__name__})."
                     ) from None


def _numbers(table, name, path):
  """(n,) float64 of a column, NaN where it says nothing."""
  values = table[name]
  if not pd.api.types.is_numeric_dtype(values):
    text = values.astype(str).str.strip().str.lower()
    empty = text.isin(_ABSENT) | values.isna()
    values = pd.to_numeric(text.where(~empty), errors="coerce")
    if odd := int((values.isna() & ~empty).sum()):
      raise ValueError(f"{path}: {odd} of {len(values)} cells of '{name}' are no numbers.")
  return values.to_numpy(np.float64, na_value=np.nan)


def _ids(table, name, path):
  values = table[name]
  if gaps := int((values.isna() | (values.astype(str).str.strip() == "")).sum()):
    raise ValueError(f"{path}: {gaps} of {len(values)} rows have no '{name}'.")
  return values.astype(str).str.strip().to_numpy(str)


def _patterns(table, names, path):
  """(n, M) bits of several columns, or (n,) ids as text of one."""
  if len(names) == 1:
    return _ids(table, names[0], path)
  bits = np.column_stack([_numbers(table, name, path) for name in names])
  if odd := int((~np.isin(bits, (0, 1))).sum()):
    raise ValueError(f"{path}: {odd} of {bits.size} cells of the patterns {list(names)} are "
                     "neither 0 nor 1.")
  return bits


def _facts(found, y, p, pattern, patient, p_new, pattern_new, after, columns, min_cell):
  known = ~np.isnan(y)
  label = _labels(np.concatenate([pattern[known], pattern_new]), columns.patterns)
  mine, theirs = label[:known.sum()], label[known.sum():]
  y, before, rectified, patient = y[known], p[known], found.p[known], patient[known]
  groups = []
  for group in disclosure.groups(mine, patient, y, min_cell):
    row = dict(name=group.name(group.level, "rarer patterns"), n=int(group.rows.sum()),
               told=group.told)
    if group.told:
      lo, hi = metrics.wilson(int(y[group.rows].sum()), row["n"])
      row |= dict(rate=dict(value=float(y[group.rows].mean()), lo=lo, hi=hi),
                  before=float(before[group.rows].mean()),
                  after=float(rectified[group.rows].mean()))
    groups.append(row)
  scored = len(y) and disclosure.told(disclosure.counts(np.zeros(len(y), int), patient, y, 1),
                                      min_cell)[0]
  return dict(
      probability=columns.probability, outcome=columns.outcome, level=found.correction.level,
      levels=found.correction.levels, patients=found.patients, rows=int(known.sum()),
      gain=found.gain if scored else None, tried=found.tried if scored else [], groups=groups,
      min_cell=min_cell, few=hierarchy.FEW, fewest=hierarchy.FEWEST, new=dict(
          rows=len(p_new), changed=int((after != p_new).sum()),
          before=float(p_new.mean()) if len(p_new) else None,
          after=float(after.mean()) if len(p_new) else None,
          unseen=int((~np.isin(theirs, mine)).sum())))


def _labels(pattern, names):
  """(n,) what a pattern is called: the columns that are 1, or its id."""
  if pattern.ndim == 1:
    return pattern
  distinct, index = np.unique(pattern, axis=0, return_inverse=True)
  words = [" + ".join(name for name, bit in zip(names, row) if bit) or "nothing"
           for row in distinct]
  return np.array(words, dtype=object)[index.ravel()].astype(str)
