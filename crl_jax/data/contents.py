"""What the inputs of a modality hold: what no run can use, and what it survives and reports.

A check is (modality, x, names, present (N,) bool) -> (fault, warnings): a sentence, or "", on what
must be mended at the source, and a list of sentences on the rest. Only rows that have the modality
are looked at, some at a time.
"""

import math

import numpy as np

_ROWS = 16384    # looked at at once
_IMAGES = 512    # of images
_LATEST = 1e6    # hours of a series, at most


def _parts(x, present, size=_ROWS):
  for first in range(0, len(x), size):
    here = present[first:first + size]
    part = x[first:first + size] if here.all() else x[first:first + size][here]
    if part.size:
      yield part


def numbers(modality, x, names, present):
  """Of float32 (N, ..., F): vectors, sequences, sets, and the values of series."""
  bad = np.zeros(len(names), np.int64)
  empty = constant = 0
  for part in _parts(x, present):
    flat = part.reshape(len(part), math.prod(part.shape[1:]))
    # of the values that are there: sets are padded with NaN
    most, least = np.fmax.reduce(flat, axis=1), np.fmin.reduce(flat, axis=1)
    empty += int(np.isnan(most).sum())
    held = np.count_nonzero(~np.isnan(flat[most == least]), axis=1)
    # fewer values than one entry has may well be equal
    constant += int((held >= max(len(names), 2)).sum())
    columns = part.reshape(-1, len(names))
    size = np.fmax(np.fmax.reduce(columns), -np.fmin.reduce(columns))
    if (size > 1e30).any():
      bad += (np.abs(columns) > 1e30).sum(0)
  if bad.any():
    j = int(bad.argmax())
    return (f"inputs['{modality}'] column '{names[j]}' is infinite or past 1e30 in {bad[j]} rows "
            f"({int((bad > 0).sum())} such columns): remove the sentinel values at the source."), []
  found = []
  if not present.any():
    found.append(f"modality '{modality}' is observed for nobody: its losses are empty and its "
                 "encoder stays untrained")
  if empty:
    found.append(f"modality '{modality}' is marked observed in {empty} rows that hold no value")
  if constant:
    found.append(f"modality '{modality}' holds one repeated value in {constant} observed rows: a "
                 "hidden missing?")
  return "", found


def tokens(modality, ids, names, present):
  """Of int32 (N, K, L)."""
  del names
  empty = negative = 0
  for part in _parts(ids, present):
    flat = part.reshape(len(part), -1)
    negative += int((flat < 0).any(1).sum())
    empty += int((flat == 0).all(1).sum())
  if negative:
    return (f"inputs['{modality}'] holds negative token ids in {negative} rows; padding is 0."), []
  return "", _nobody(modality, present) or [
      f"modality '{modality}' is marked observed in {empty} rows without a token"] * bool(empty)


def pixels(modality, x, names, present):
  """Of uint8 (N, H, W, C)."""
  del names
  constant = sum(int((part == part[:, :1, :1, :1]).all((1, 2, 3)).sum())
                 for part in _parts(x, present, _IMAGES))
  return "", _nobody(modality, present) or [
      f"modality '{modality}' holds images of one value alone in {constant} observed rows: a "
      "hidden missing?"] * bool(constant)


def series(modality, x, names, present):
  """Of float32 (N, L, 1 + V), the hours in front."""
  if len(names) < 2 or names[0] != "hours":
    return (f"features of the series '{modality}' begin with {list(names)[:2]}; they must be "
            "'hours', the time that the first column holds, and one or more variables."), []
  count = dict.fromkeys(("gap", "none", "falling", "far", "empty"), 0)
  for part in _parts(x, present):
    time, absent = part[..., 0], np.isnan(part[..., 0])
    for key, rows in (("gap", absent[:, :-1] & ~absent[:, 1:]), ("none", absent[:, :1]),
                      ("falling", time[:, 1:] < time[:, :-1]), ("far", np.abs(time) >= _LATEST)):
      count[key] += int(rows.any(1).sum())
    count["empty"] += int((np.isnan(part[..., 1:]).all(-1) & ~absent).sum())
  for key, what in dict(
      gap="has a step without a time before one with a time: steps that do not exist (time NaN) "
          "stand at the end",
      none="is marked observed and has no step: set observed to False",
      falling="has times that fall: sort the steps by 'hours'",
      far=f"has times of {_LATEST:,.0f} hours or more: bring hours since a time of the row's own",
  ).items():
    if count[key]:
      return f"inputs['{modality}'] (series) {what} ({count[key]} rows).", []
  fault, warnings = numbers(modality, x[..., 1:], names[1:], present)
  return fault, warnings + [f"series '{modality}' has {count['empty']} steps without any value"
                            ] * bool(count["empty"])


def _nobody(modality, present):
  return [f"modality '{modality}' is observed for nobody: its encoder stays untrained"
          ] * (not present.any())


# a key of cohort.KINDS -> its check
CHECKS = {"vector": numbers, "sequence": numbers, "set": numbers, "text": tokens,
          "series": series, "image": pixels}
