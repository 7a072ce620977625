"""Vectors by key on disk: files that appear whole, are never changed, and may be written by several
processes at once."""

import contextlib
import logging
import os
import pathlib
import shutil
import time
import uuid
import zlib

import numpy as np

from crl_jax import files
from crl_jax.data import prepared
from crl_jax.data.cohort import DiskError

_LOG = logging.getLogger("crl_jax")
_ABANDONED = 86400   # seconds after which an unfinished file is nobody's


class Vectors:
  """A folder of vectors. A file holds records of a key, a vector and the checksum of both."""

  def __init__(self, folder, width):
    """Args:
      folder: made if absent.
      width: of every vector.
    """
    self._folder = pathlib.Path(folder)
    self._record = np.dtype([("key", "u1", 32), ("vector", "<f4", width), ("check", "<u4")])
    self._files, self._known = [], set()
    self._prefix = np.zeros(0, np.uint64)            # first 8 bytes of every key, sorted
    self._place = np.zeros((0, 2), np.int64)         # where it lies: file, record
    for part in self._folder.glob("*.part"):
      with contextlib.suppress(FileNotFoundError):   # another process has just finished it
        if time.time() - part.stat().st_mtime > _ABANDONED:
          part.unlink()

  def refresh(self):
    """Takes in what any process has added since; a file that cannot be read is told of and left
    out."""
    prefixes, places = [self._prefix], [self._place]
    for path in sorted(self._folder.glob("*.npy")):
      if path.name in self._known:
        continue
      self._known.add(path.name)
      try:
        records = files.load_array(path, "r")
        if records.dtype != self._record or records.ndim != 1:
          raise ValueError   # other records
      except (OSError, ValueError):
        _LOG.warning("%s is damaged: what it held is computed again. Delete it.", path)
        continue
      prefixes.append(_prefix(records["key"]))
      places.append(np.stack([np.full(len(records), len(self._files)), np.arange(len(records))], 1))
      self._files.append(records)
    prefix, place = np.concatenate(prefixes), np.concatenate(places)
    order = np.argsort(prefix, kind="stable")
    self._prefix, self._place = prefix[order], place[order]

  def find(self, keys):
    """(found (n,) bool, vectors (n, width) float32, zero where not found) of keys (n, 32) uint8."""
    vectors = np.zeros((len(keys), self._record["vector"].shape[0]), np.float32)
    wanted = _prefix(keys)
    at = np.searchsorted(self._prefix, wanted, "right") - 1   # of several, the newest
    hit = at >= 0
    hit[hit] = self._prefix[at[hit]] == wanted[hit]
    damaged = 0
    for i in np.flatnonzero(hit):
      file, row = self._place[at[i]]
      record = self._files[file][row]
      hit[i] = bytes(record["key"]) == bytes(keys[i])
      if hit[i] and _check(record["key"], record["vector"]) != record["check"]:
        hit[i], damaged = False, damaged + 1
      if hit[i]:
        vectors[i] = record["vector"]
    if damaged:
      _LOG.warning("%d vectors in %s are damaged: they are computed again.", damaged, self._folder)
    return hit, vectors

  def add(self, keys, vectors):
    """Writes one file of records; it is there whole or not at all. Raises OSError naming the folder
    and its free space."""
    records = np.empty(len(keys), self._record)
    records["key"], records["vector"] = keys, vectors
    records["check"] = [_check(r["key"], r["vector"]) for r in records]
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"   # newer ones sort behind

    def write():
      prepared.make_private(self._folder)   # vectors tell of their notes
      with files.replaced(self._folder / f"{name}.npy") as part, open(part, "wb") as file:
        np.save(file, records, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    _kept(self._folder, write)


def _prefix(keys):
  return np.ascontiguousarray(keys[:, :8]).view("<u8")[:, 0]


def _check(key, vector):
  return zlib.crc32(np.ascontiguousarray(vector), zlib.crc32(np.ascontiguousarray(key)))


def _kept(folder, write):
  """write(), an OSError being told with the folder and the room on its disk."""
  try:
    write()
  except OSError as error:
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free / 2 ** 30
    raise DiskError(
        error.errno, f"Embeddings cannot be written to {folder} "
        f"({error.strerror or 'not all was taken'}; {free:.2f} GiB are free): free some space or set config.text.cache to another folder, and run again. "
        "What was written before is kept.") from error
