"""The notes and X-rays of MIMIC-IV's rows: which of them are known at a row's time, and what they
become.

- Radiology reports count from the later of charttime and storetime, X-rays from StudyDate and
  StudyTime; both reach back to LOOKBACK before the hospital admission (the emergency room).
- Discharge summaries are those of the admission itself and enter its discharge and whole-admission
  rows only: they are written when the patient leaves. Notes of earlier admissions do not enter.
- A note without content (empty, or de-identification blanks alone) is no observation, and counted.
- What is left out by its time is counted too (features.left_out). So is what was there again: a
  note_id, or a dicom_id, is one note or image, as it was when a row could first know it.
"""

import os

import numpy as np

from crl_jax import progress
from crl_jax.data.mimic import features as queries, files, images
from crl_jax.data.text import encode, notes as note_windows

_AT_ONCE = 20_000     # notes in memory at a time


def radiology_query(table, people):
  """person, part, known (minutes after admission), note_id, text; no text where no row uses it."""
  import ibis

  joined = table.inner_join(people, "subject_id")
  t = queries.minute(joined.charttime) - joined.admit
  stored = queries.minute(joined.storetime) - joined.admit
  joined = joined.mutate(t=t, known=ibis.greatest(t, ibis.coalesce(stored, t)))
  joined = joined.mutate(part=queries.part_of(joined.t, joined.known, joined))
  text_ = ibis.ifelse(joined.part.between(0, 1), joined.text, "")
  return joined.select("person", "part", "known", "note_id", text=text_)


def discharge_query(table, people):
  """person, part and known (0: the row's kind decides), note_id, text."""
  joined = table.inner_join(people.select("hadm_id", "person"), "hadm_id")
  joined = joined.mutate(part=0, known=0)
  return joined.select("person", "part", "known", "note_id", "text")


def images_query(table, people):
  """person, part, known, subject_id, study_id, dicom_id of X-rays: StudyDate is YYYYMMDD,
  StudyTime HHMMSS with a fraction."""
  joined = table.inner_join(people, "subject_id")
  date, clock = joined.StudyDate, joined.StudyTime.floor().cast("int64")
  # minutes of a civil date since 1970, by arithmetic that every engine has
  year, month, day = _div(date, 10000), _div(date, 100) % 100, date % 100
  shifted = (month <= 2).cast("int64")        # the year begins in March
  y = year - shifted
  era = _div(y, 400)
  days = (era * 146097 + (y - era * 400) * 365 + _div(y - era * 400, 4) - _div(y - era * 400, 100)
          + _div(153 * (month + 12 * shifted - 3) + 2, 5) + day - 1 - 719468)
  known = days * 1440 + _div(clock, 10000) * 60 + _div(clock, 100) % 100 - joined.admit
  joined = joined.mutate(known=known)
  part = queries.part_of(joined.known, joined.known, joined)
  return joined.select("person", "known", "subject_id", "study_id", "dicom_id", part=part)


def _div(number, divisor):
  """The whole part of number / divisor, of whole numbers."""
  return (number / divisor).floor().cast("int64")


def collect_notes(modality, source, people, rows, config):
  """Returns (inputs, observed, facts) of "discharge" or "radiology".

  Args:
    modality: the table's name too.
    source: data.tables.source.Source.
    people: the ibis table of features.timeline.
    rows: the frame of stays.rows.
    config: the whole tree.
  Returns:
    inputs: (N, W) float32, the mean over a row's notes, or (N, K, L) int32 windows of tokens where
      BERT is trained; observed: (N,) bool; facts: JSON-able counts, of them `odd_rows` a list of
      {table, rule, count}.
  """
  import ibis

  encode.require_model(config)
  query = {"discharge": discharge_query, "radiology": radiology_query}[modality]
  # numbered in an order that no engine can change, and taken in pieces that fit in memory
  order = ibis.window(order_by=[ibis._.part.between(0, 1).desc(), "person", "known", "note_id",
                                ibis._.text.hash()])
  kept = source.keep(query(source.tables[modality], people).mutate(
      place=ibis.row_number().over(order)))
  odd = queries.left_out(modality, kept)
  kept = queries.used(kept)
  ids = kept.select("place", "person", "note_id").order_by("place").to_pandas()
  again = ids["place"][ids.duplicated(["person", "note_id"]) & ids["note_id"].notna()]
  odd.append({"table": modality, "rule": "a note_id again: one note, as it was first known",
              "count": len(again)})
  found, empty = len(ids), 0
  if modality == "discharge":
    rows = _discharge_rows(rows)
  combine = (_Tokens if config.text.finetune else _Means)(rows, config)
  with progress.stage(f"Reading notes: {modality}", found) as update:
    for start in range(0, found, _AT_ONCE):
      part = kept.filter(kept.place >= start, kept.place < start + _AT_ONCE).order_by("place")
      part = part.to_pandas()
      part = part[~part["place"].isin(again)]
      content = np.asarray(encode.has_content(part["text"].tolist()), bool)
      empty += int((~content).sum())
      part = part[content]
      if len(part):
        told = lambda done, _: update(min(start + done, found), "notes")
        combine.add(part["person"].to_numpy(np.int64), part["known"].to_numpy(np.int64),
                    encode.inputs(part["text"].tolist(), config, told))
  encode.release()
  inputs, observed = combine.result()
  return inputs, observed, {"notes": found - len(again), "without content": empty, "odd_rows": odd,
                            "rows": int(observed.sum()), **encode.facts(config)}


class _Means:
  """The mean over a row's notes."""

  def __init__(self, rows, config):
    self._rows = _Rows(rows)
    self._sum = np.zeros((len(rows), encode.width(config)), np.float32)
    self._count = np.zeros(len(rows), np.int64)

  def add(self, person, known, vectors):
    row, note = self._rows.of(person, known)
    np.add.at(self._sum, row, vectors[note])
    np.add.at(self._count, row, 1)

  def result(self):
    count = np.maximum(self._count, 1).astype(np.float32)
    return self._sum / count[:, None], self._count > 0


class _Tokens:
  """The windows of a row's notes in the order of time, at most K, evenly spread."""

  def __init__(self, rows, config):
    self._rows, self._windows = _Rows(rows), [[] for _ in range(len(rows))]
    self._shape = config.text.finetune_windows, config.text.window

  def add(self, person, known, windows):
    row, note = self._rows.of(person, known)
    for r, n in zip(row, note):
      self._windows[r] += [w for w in windows[n] if w.any()]

  def result(self):
    out = np.zeros((len(self._windows), *self._shape), np.int32)
    for line, mine in zip(out, self._windows):
      for k, window in enumerate(note_windows.spread(mine, self._shape[0])):
        line[k] = window
    return out, out.reshape(len(out), -1).any(1)


class _Rows:
  """Which rows a record of a patient enters: those later than it."""

  def __init__(self, rows):
    size = int(rows["person"].max()) + 1 if len(rows) else 0
    self._row = np.full((size, 2), -1)
    self._time = np.zeros((size, 2), np.int64)
    place = rows["person"].to_numpy(), rows["part"].to_numpy()
    self._row[place] = np.arange(len(rows))
    self._time[place] = rows["time"].to_numpy()

  def of(self, person, known):
    """Returns (row, record): indices of the pairs, in the order of the records."""
    enters = (self._row[person] >= 0) & (np.asarray(known)[:, None] < self._time[person])
    record, part = np.nonzero(enters)
    return self._row[person[record], part], record


def _discharge_rows(rows):
  """The rows that a discharge summary may enter: at minute 0 of those, never of others."""
  mine = rows.copy()
  mine["time"] = np.where(mine["kind"] == 0, -1, 1)
  return mine


def collect_images(source, place, people, rows, config):
  """Returns (inputs, observed, facts) of the X-rays.

  Args:
    source, people, rows, config: see collect_notes.
    place: files.Place of the embeddings.
  Returns:
    inputs: (N, K, 1376) float32, a row's latest images, or (N, 1376), their mean; observed: (N,)
      bool; facts: JSON-able counts.
  """
  c = config.data.mimic
  kept = source.keep(images_query(source.tables[files.CXR_METADATA], people))
  odd = queries.left_out(files.CXR_METADATA, kept)
  frame = queries.used(kept).to_pandas()
  frame = frame.sort_values(["person", "known", "study_id", "dicom_id"])
  again = frame.duplicated(["person", "dicom_id"])
  odd.append({"table": files.CXR_METADATA, "count": int(again.sum()),
              "rule": "a dicom_id again: one image, as it was first known"})
  frame = frame[~again].reset_index(drop=True)
  paths = [images.path(place.folder, *ids) for ids in
           zip(frame["subject_id"], frame["study_id"], frame["dicom_id"])]
  there = np.array([os.path.isfile(path) for path in paths], bool)
  vectors = images.read([path for path, yes in zip(paths, there) if yes])
  known = frame[there]
  row, image = _Rows(rows).of(known["person"].to_numpy(np.int64), known["known"].to_numpy(np.int64))
  sets = images.as_sets(vectors[image], row, len(rows), c.max_images)
  observed = np.bincount(row, minlength=len(rows)) > 0
  if c.image_pooling == "mean":
    mean = np.zeros((len(rows), images.WIDTH), np.float32)
    mean[observed] = np.nanmean(sets[observed], 1)
    sets = mean
  return sets, observed, {"images": len(frame), "without an embedding": int((~there).sum()),
                          "rows": int(observed.sum()), "odd_rows": odd}
