"""Embeddings of chest X-rays: the Generalized Image Embeddings for MIMIC-CXR, read without
TensorFlow. A file (tfrecord.py) holds one, of 1376 floats."""

import concurrent.futures

import numpy as np

from crl_jax.data.cohort import AbsentError
from crl_jax.data.mimic import tfrecord

WIDTH = 1376


class DamagedImage(tfrecord.DamagedRecord):
  """A file that is not one whole embedding; the message names it."""


def path(root, subject_id, study_id, dicom_id):
  """Where the embedding of an image lies: ROOT/files/pXX/pSUBJECT/sSTUDY/DICOM.tfrecord."""
  return f"{root}/files/p{str(subject_id)[:2]}/p{subject_id}/s{study_id}/{dicom_id}.tfrecord"


def read(paths, threads=8):
  """The embeddings in files, in their order.

  Args:
    paths: sequence of n paths.
    threads: that read at once; a disk or a network answers several faster than one.
  Returns:
    (n, 1376) float32.
  Raises:
    DamagedImage: a file that is cut off, changed, or holds something else, by its name.
    AbsentError: an absent one, by its name.
  """
  result = np.empty((len(paths), WIDTH), np.float32)
  def fill(start):
    for i in range(start, min(start + 64, len(paths))):
      result[i] = read_one(paths[i])
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    parts = [pool.submit(fill, start) for start in range(0, len(paths), 64)]
    try:
      for part in parts:
        part.result()
    finally:
      pool.shutdown(cancel_futures=True)
  return result


def read_one(path):
  """The embedding (1376,) float32 in a file; raises as read()."""
  try:
    values = tfrecord.read(path)
  except FileNotFoundError:
    raise AbsentError(f"{path} is absent: the download is not complete. Run python -m "
                      "crl_jax.data.mimic.verify to see what is missing.") from None
  except tfrecord.DamagedRecord as error:
    raise DamagedImage(f"{path}: {error}") from None
  if len(values) != WIDTH:
    raise DamagedImage(f"{path}: its embedding has {len(values)} values, not {WIDTH}; it is never "
                       "cut or padded. Is it of another data set?")
  if not np.isfinite(values).all():
    raise DamagedImage(f"{path}: its embedding holds values that are not finite. Download it "
                       "again.")
  return values


def as_sets(vectors, row, rows, most):
  """Images by the row they belong to, as a cohort's input of kind "set".

  Args:
    vectors: (n, F) float32.
    row: (n,) int, which row an image belongs to; a row's images in the order of time.
    rows: N, the number of rows.
    most: K, images of a row at most; the latest are kept.
  Returns:
    (N, K, F) float32: NaN in places without an image, zero in rows without any.
  """
  row = np.asarray(row)
  order = np.argsort(row, kind="stable")
  count = np.bincount(row, minlength=rows)
  place = np.arange(len(row)) - (np.cumsum(count) - count)[row[order]]
  place -= np.maximum(count - most, 0)[row[order]]      # the oldest fall out below zero
  out = np.zeros((rows, most, vectors.shape[1]), np.float32)
  out[np.flatnonzero(count)] = np.nan
  kept = place >= 0
  out[row[order][kept], place[kept]] = vectors[order[kept]]
  return out
