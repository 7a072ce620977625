"""One vector as a TFRecord file, read and written without TensorFlow.

A file holds one record in TFRecord's framing: length (8 bytes), its checksum (4), a
tf.train.Example (a protocol buffer), its checksum (4), all little-endian. The Example's feature
`embedding` is the vector's floats. A checksum is CRC-32C, rotated and shifted by a constant.
Sources: tensorflow.org/tutorials/load_data/tfrecord, protobuf.dev/programming-guides/encoding.
"""

import functools
import pathlib
import struct

import numpy as np

from crl_jax.data.cohort import CohortError

_BLOCK = 1 << 14    # bytes whose checksum is taken in one go


class DamagedRecord(CohortError):
  """Bytes that are not one whole record of one vector."""


def write(path, vector):
  """Writes the file of a vector (n,) as PhysioNet does, and makes its folder; returns its bytes."""
  field = lambda number, content: _varint(number << 3 | 2) + _varint(len(content)) + content
  floats = np.asarray(vector, "<f4").tobytes()
  entry = field(1, b"embedding") + field(2, field(2, field(1, floats)))
  record, check = field(1, field(1, entry)), lambda part: struct.pack("<I", masked_crc(part))
  length = struct.pack("<Q", len(record))
  content = length + check(length) + record + check(record)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return content


def read(path):
  """The vector (n,) float32 in a file. Raises DamagedRecord, which does not name it, and OSError
  where it is absent."""
  record = _record(pathlib.Path(path).read_bytes())
  try:
    for _, features in _fields(record, 1):
      for _, entry in _fields(features, 1):
        parts = dict(_fields(entry, 1, 2))
        if bytes(parts.get(1, b"")) == b"embedding":
          lists = [x for _, x in _fields(parts.get(2, b""), 2)]
          floats = [x for found in lists for _, x in _fields(found, 1)]
          return np.concatenate([np.frombuffer(x, "<f4") for x in floats]
                                or [np.zeros(0, np.float32)])
  except (IndexError, ValueError):
    raise DamagedRecord("its record is no tf.train.Example. Download it again.") from None
  raise DamagedRecord("its record has no feature 'embedding'. Is it of another data set?")


def _record(content):
  """The one record in a file's bytes."""
  if len(content) < 16:
    raise DamagedRecord(f"it has {len(content)} bytes, too few for a record. Download it again.")
  length, check = struct.unpack_from("<QI", content)
  if masked_crc(content[:8]) != check:
    other = ("it is a web page, no TFRecord: check your credentials."
             if content.lstrip()[:1] == b"<" else
             "it is a git-lfs pointer, no TFRecord." if content.startswith(b"version https") else
             "the checksum of its length is wrong: it is no TFRecord, or damaged.")
    raise DamagedRecord(f"{other} Download it again.")
  if length + 16 != len(content):
    raise DamagedRecord(f"its record has {length} bytes and the file {len(content)}, not "
                        f"{length + 16}: it is cut off, or holds more than one record. Download it "
                        "again.")
  record, (check,) = content[12:-4], struct.unpack_from("<I", content, len(content) - 4)
  if masked_crc(record) != check:
    raise DamagedRecord("the checksum of its record is wrong: it is damaged. Download it again.")
  return record


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
