"""Large csv.gz files, written by all cores: text made from whole columns, compressed in blocks that
join into one gzip stream, byte for byte the same for any number of threads."""

import collections
import concurrent.futures
import hashlib
import pathlib
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crl_jax.data.cohort import CohortError

_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"   # no name and no time: the same bytes always


def write(path, header, blocks, pool, ahead, level=1):
  """Writes one table.

  Args:
    path: of the .csv.gz file; its folder is made.
    header: names of the columns.
    blocks: functions without arguments that return the columns of one block of rows: as many arrays
      of one length as the header has names (see `lines`).
    pool: a concurrent.futures executor of threads; the blocks run there, in any order.
    ahead: how many blocks may be in memory at a time.
    level: of the compression, 1 to 9.
  Returns:
    (rows, sha256 of the file).
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  digest, crc, size, rows = hashlib.sha256(), 0, 0, 0
  waiting = collections.deque()
  head = (",".join(header) + "\n").encode()
  work = lambda block: _compress(*_rows(block(), header, path), level)
  jobs = iter(blocks)
  with open(path, "wb") as file:

    def put(data):
      digest.update(data)
      file.write(data)

    def add(deflated, text, count):
      nonlocal crc, size, rows
      crc, size, rows = zlib.crc32(text, crc), size + len(text), rows + count
      put(deflated)

    put(_HEAD)
    add(*_compress(head, 0, level))
    try:
      for block in jobs:
        waiting.append(pool.submit(work, block))
        if len(waiting) >= ahead:
          add(*waiting.popleft().result())
      while waiting:
        add(*waiting.popleft().result())
    finally:
      for future in waiting:
        future.cancel()
    put(b"\x03\x00" + struct.pack("<II", crc, size & 0xffffffff))   # an empty last block
  return rows, digest.hexdigest()


def lines(columns):
  """The text of the columns as CSV without a header, a buffer of bytes.

  Args:
    columns: arrays of one length: NumPy integers, floats (NaN is an empty field), datetime64[s]
      (NaT is an empty field), or what `text`, `pick`, `ids` and `whole` return.
  """
  fields = [_strings(c) for c in columns]
  fields[-1] = pc.binary_join_element_wise(fields[-1], "\n", "")
  joined = pc.binary_join_element_wise(*fields, ",") if len(fields) > 1 else fields[0]
  offsets = np.frombuffer(joined.buffers()[1], np.int32)
  return joined.buffers()[2].slice(0, int(offsets[len(joined)]))


def text(values):
  """Strings as CSV fields, quoted where they need it; None is an empty field."""
  quote = lambda v: ("" if v is None else '"' + v.replace('"', '""') + '"'
                     if any(c in v for c in ',"\n\r') else v)
  return pa.array([quote(v) for v in values], pa.string())


def pick(vocabulary, codes):
  """The strings vocabulary[codes] as CSV fields; a negative code is an empty field."""
  return text([*vocabulary, None]).take(pa.array(np.where(codes < 0, len(vocabulary), codes)))


def whole(values, present):
  """Integers as CSV fields, empty where `present` is False."""
  return pa.array(np.asarray(values, np.int64), mask=~np.asarray(present))


def ids(prefix, numbers, width):
  """Strings like P03YMR: a prefix and a number in base 36, `width` digits."""
  digits = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
  numbers = np.asarray(numbers, np.int64)
  unique, places = np.unique(numbers, return_inverse=True)
  names = ["".join(digits[n // 36 ** np.arange(width)[::-1] % 36]) for n in unique]
  return pick([prefix + name for name in names], places)


def _strings(column):
  if isinstance(column, np.ndarray):
    column = pa.array(column, from_pandas=True)   # NaN and NaT become null
  return pc.fill_null(pc.cast(column, pa.string()), "")


def _rows(columns, header, path):
  if len(columns) != len(header):
    raise CohortError(f"{path.name}: {len(columns)} columns for {len(header)} names.")
  count = len(columns[0])
  return (lines(columns) if count else b""), count


def _compress(data, count, level):
  """(raw deflate blocks that end on a byte and are not the last, the data, count)."""
  press = zlib.compressobj(level, zlib.DEFLATED, -15)
  return press.compress(data) + press.flush(zlib.Z_SYNC_FLUSH), data, count


def pool(threads):
  return concurrent.futures.ThreadPoolExecutor(threads)
