"""Embeddings of chest X-rays: the Generalized Image Embeddings for MIMIC-CXR, read without
TensorFlow.

A file holds one record in TFRecord's framing: length (8 bytes), its checksum (4), a
tf.train.Example (a protocol buffer), its checksum (4), all little-endian. The Example's feature
`embedding` is 1376 floats. A checksum is CRC-32C, rotated and shifted by a constant.
"""

import concurrent.futures
import functools
import pathlib
import struct

import numpy as np

WIDTH = 1376
_BLOCK = 1 << 14    # bytes whose checksum is taken in one go


class DamagedImage(ValueError):
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
    FileNotFoundError: an absent one, by its name.
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
    with open(path, "rb") as file:
      content = file.read()
  except FileNotFoundError:
    raise FileNotFoundError(f"{path} is absent: the download is not complete. Run python -m "
                            "crl_jax.data.mimic.verify to see what is missing.") from None
  try:
    values = _embedding(_record(content))
  except DamagedImage as error:
    raise DamagedImage(f"{path}: {error}") from None
  if len(values) != WIDTH:
    raise DamagedImage(f"{path}: its embedding has {len(values)} values, not {WIDTH}; it is never "
                       "cut or padded. Is it of another data set?")
  if not np.isfinite(values).all():
    raise DamagedImage(f"{path}: its embedding holds values that are not finite. Download it "
                       "again.")
  return values


def write(path, vector):
  """Writes a vector as PhysioNet does; its folder is made."""
  path, data = pathlib.Path(path), np.asarray(vector, "<f4").tobytes()
  field = lambda number, content: _varint(number << 3 | 2) + _varint(len(content)) + content
  entry = field(1, b"embedding") + field(2, field(2, field(1, data)))
  record = field(1, field(1, entry))
  length = struct.pack("<Q", len(record))
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(length + struct.pack("<I", masked_crc(length)) + record
                   + struct.pack("<I", masked_crc(record)))


def as_sets(vectors, row, rows, most, out=None):
  """Images by the row they belong to, as a cohort's input of kind "set".

  Args:
    vectors: (n, F) float32.
    row: (n,) int, which row an image belongs to; a row's images in the order of time.
    rows: N, the number of rows.
    most: K, images of a row at most; the latest are kept.
    out: an array (N, K, F) to fill, on disk for example; a new one by default.
  Returns:
    (N, K, F) float32: NaN in places without an image, zero in rows without any.
  """
  row = np.asarray(row)
  order = np.argsort(row, kind="stable")
  count = np.bincount(row, minlength=rows)
  place = np.arange(len(row)) - (np.cumsum(count) - count)[row[order]]
  place -= np.maximum(count - most, 0)[row[order]]      # the oldest fall out below zero
  out = np.zeros((rows, most, vectors.shape[1]), np.float32) if out is None else out
  out[np.flatnonzero(count)] = np.nan
  kept = place >= 0
  out[row[order][kept], place[kept]] = vectors[order[kept]]
  return out


def _record(content):
  """The one record in a file's content."""
  if len(content) < 16:
    raise DamagedImage(f"it has {len(content)} bytes, too few for a record. Download it again.")
  length, check = struct.unpack_from("<QI", content)
  if masked_crc(content[:8]) != check:
    other = ("it is a web page, no TFRecord: check your credentials."
             if content.lstrip()[:1] == b"<" else
             "it is a git-lfs pointer, no TFRecord." if content.startswith(b"version https") else
             "the checksum of its length is wrong: it is no TFRecord, or damaged.")
    raise DamagedImage(f"{other} Download it again.")
  if length + 16 != len(content):
    raise DamagedImage(f"its record has {length} bytes and the file {len(content)}, not "
                       f"{length + 16}: it is cut off, or holds more than one record. Download it "
                       "again.")
  record, (check,) = content[12:-4], struct.unpack_from("<I", content, len(content) - 4)
  if masked_crc(record) != check:
    raise DamagedImage("the checksum of its record is wrong: it is damaged. Download it again.")
  return record


def _embedding(record):
  """The floats of feature `embedding` of a serialized tf.train.Example."""
  try:
    for _, features in _fields(record, 1):
      for _, entry in _fields(features, 1):
        parts = dict(_fields(entry, 1, 2))
        if bytes(parts.get(1, b"")) == b"embedding":
          lists = [x for _, x in _fields(parts.get(2, b""), 2)]
          floats = [x for found in lists for _, x in _fields(found, 1)]
          return np.concatenate([np.frombuffer(x, "<f4") for x in floats]
                                or [np.zeros(0, np.float32)])
  except (IndexError, ValueError, struct.error):
    raise DamagedImage("its record is no tf.train.Example. Download it again.") from None
  raise DamagedImage("its record has no feature 'embedding'. Is it of another data set?")


def _fields(message, *wanted):
  """Yields (number, content) of the `wanted` fields of a protocol buffer that hold bytes, packed
  numbers, a message or one float; the others are passed over. Raises IndexError or ValueError where
  it is none."""
  message, at = memoryview(message), 0
  while at < len(message):
    tag, at = _read_varint(message, at)
    number, wire = tag >> 3, tag & 7
    if wire == 0:
      _, at = _read_varint(message, at)
      continue
    size, at = (8, at) if wire == 1 else (4, at) if wire == 5 else _read_varint(message, at)
    if wire not in (1, 2, 5) or at + size > len(message):
      raise ValueError
    if number in wanted and wire != 1:
      yield number, message[at:at + size]
    at += size


def _read_varint(message, at):
  value = shift = 0
  while True:
    byte = message[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at
    if shift > 63:
      raise ValueError


def _varint(value):
  found = bytearray()
  while value > 127:
    found.append(value & 127 | 128)
    value >>= 7
  return bytes(found + bytes([value]))


def masked_crc(content):
  """TFRecord's checksum of bytes: CRC-32C, rotated right by 15 bits, plus 0xa282ead8."""
  crc = _crc32c(content)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c(content):
  """CRC-32C (Castagnoli) of bytes.

  The CRC of a string is the XOR of what each byte contributes alone, which depends on its value and
  on how many bytes follow: a table look-up per byte, all at once.
  """
  crc, data = 0xFFFFFFFF, np.frombuffer(content, np.uint8)
  for start in range(0, len(data), _BLOCK):
    block = data[start:start + _BLOCK]
    if len(block) < 4:
      for byte in block:
        crc = crc >> 8 ^ int(_ALONE[(crc ^ int(byte)) & 255])
      continue
    table, begin = _contributions(_BLOCK if len(block) > 8 else 8)
    index = begin[-len(block):] + block
    index[:4] ^= np.frombuffer(struct.pack("<I", crc), np.uint8)   # in the lowest byte alone
    crc = int(np.bitwise_xor.reduce(table.take(index)))
  return crc ^ 0xFFFFFFFF


def _alone():
  """(256,) the CRC register after a byte of each value, from zero."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
  return table


_ALONE = _alone()


@functools.cache
def _contributions(length):
  """What a byte of each value adds to the CRC of a string of `length` bytes, by its place: a flat
  table (length * 256,) uint32, and where in it each place begins (length,)."""
  table = np.empty((length, 256), np.uint32)
  table[-1] = _ALONE
  for i in range(length - 2, -1, -1):
    table[i] = table[i + 1] >> 8 ^ _ALONE[table[i + 1] & 255]   # one more byte follows
  return table.ravel(), np.arange(length) * 256
