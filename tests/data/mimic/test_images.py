"""TFRecord files of X-ray embeddings: checksums and protocol buffers against independent writers,
and every way to be damaged."""

import pathlib
import struct
import threading

import numpy as np
import pytest

from crl_jax.data.mimic import images, tfrecord


@pytest.fixture(scope="module")
def vectors():
  return np.random.default_rng(0).normal(size=(5, images.WIDTH)).astype(np.float32)


def framed(record):
  length = struct.pack("<Q", len(record))
  return (length + struct.pack("<I", tfrecord.masked_crc(length)) + record
          + struct.pack("<I", tfrecord.masked_crc(record)))


def example(**features):
  """A serialized tf.train.Example by the protobuf package, from the published .proto."""
  from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
  file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
  def message(name, *fields, entry=False):
    m = file.message_type.add(name=name)
    m.options.map_entry = entry
    for number, field, label, kind, type_name in fields:
      m.field.add(number=number, name=field, label=label, type=kind, type_name=type_name)
    return m
  F = descriptor_pb2.FieldDescriptorProto
  one, many = F.LABEL_OPTIONAL, F.LABEL_REPEATED
  message("BytesList", (1, "value", many, F.TYPE_BYTES, None))
  message("FloatList", (1, "value", many, F.TYPE_FLOAT, None))
  message("Int64List", (1, "value", many, F.TYPE_INT64, None))
  message("Feature", *((i + 1, f"{n}_list", one, F.TYPE_MESSAGE, f".t.{n.capitalize()}List")
                       for i, n in enumerate(("bytes", "float", "int64"))))
  whole = message("Features", (1, "feature", many, F.TYPE_MESSAGE, ".t.Features.FeatureEntry"))
  entry = whole.nested_type.add(name="FeatureEntry")
  entry.options.map_entry = True
  entry.field.add(number=1, name="key", label=one, type=F.TYPE_STRING)
  entry.field.add(number=2, name="value", label=one, type=F.TYPE_MESSAGE, type_name=".t.Feature")
  message("Example", (1, "features", one, F.TYPE_MESSAGE, ".t.Features"))
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))()
  for name, value in features.items():
    kind = "bytes" if isinstance(value[0], bytes) else (
        "int64" if isinstance(value[0], int) else "float")
    getattr(made.features.feature[name], f"{kind}_list").value.extend(value)
  return made.SerializeToString()


def test_known_checksums():
  """RFC 3720, appendix B.4, and the check value of CRC-32C."""
  for content, crc in ((b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA),
                       (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"", 0)):
    assert tfrecord._crc32c(content) == crc


def test_checksums_of_any_length_are_those_of_another_implementation():
  from tensorboardX import crc32c
  rng = np.random.default_rng(0)
  for size in (1, 3, 4, 5, 8, 9, 1000, tfrecord._BLOCK, tfrecord._BLOCK + 2, 2 * tfrecord._BLOCK + 77):
    content = rng.bytes(size)
    assert tfrecord._crc32c(content) == crc32c.crc32c(content)
    masked = ((crc := crc32c.crc32c(content)) >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
    assert tfrecord.masked_crc(content) == masked


def test_files_of_another_writer_are_read(tmp_path, vectors):
  """tensorboardX's framing around protobuf's bytes, with other features beside."""
  from tensorboardX import record_writer
  content = example(name=[b"a", b"embedding"], embedding=vectors[0].tolist(), size=[7, -1, 2 ** 40])
  writer = record_writer.RecordWriter(str(tmp_path / "a.tfrecord"))
  writer.write(content)
  writer.close()
  np.testing.assert_array_equal(images.read_one(tmp_path / "a.tfrecord"), vectors[0])


def test_unpacked_floats_are_read(tmp_path, vectors):
  """Old writers put each float in a field of its own."""
  field = lambda number, content: tfrecord._varint(number << 3 | 2) + tfrecord._varint(
      len(content)) + content
  floats = b"".join(b"\x0d" + struct.pack("<f", x) for x in vectors[0])
  entry = field(1, b"embedding") + field(2, field(2, floats))
  (tmp_path / "a").write_bytes(framed(field(1, field(1, entry))))
  np.testing.assert_array_equal(images.read_one(tmp_path / "a"), vectors[0])


def test_many_files_come_back_in_order_by_any_number_of_threads(tmp_path, vectors):
  paths = [images.path(tmp_path, 10000032 + i, 50414267 + i, f"dicom{i}") for i in range(150)]
  assert paths[0] == f"{tmp_path}/files/p10/p10000032/s50414267/dicom0.tfrecord"
  for i, path in enumerate(paths):
    tfrecord.write(path, vectors[i % 5] + i)
  expected = np.stack([vectors[i % 5] + np.float32(i) for i in range(150)])
  for threads in (1, 8):
    np.testing.assert_array_equal(images.read(paths, threads), expected)
  assert images.read([]).shape == (0, images.WIDTH)


def test_a_protobuf_reader_agrees_with_what_is_written(tmp_path, vectors):
  tfrecord.write(tmp_path / "a", vectors[0])
  assert (tmp_path / "a").read_bytes() == framed(example(embedding=vectors[0].tolist()))


@pytest.mark.parametrize("change, message", [
    (lambda b: b[:-3], "cut off"),
    (lambda b: b[:9], "too few"),
    (lambda b: b"", "0 bytes"),
    (lambda b: b"<!DOCTYPE html><html>log in</html>", "web page"),
    (lambda b: b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
    (lambda b: b + b, "more than one record"),
    (lambda b: bytes([b[0] ^ 1]) + b[1:], "checksum of its length"),
    (lambda b: b[:2000] + bytes([b[2000] ^ 16]) + b[2001:], "checksum of its record"),
    (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "checksum of its record"),
    (lambda b: framed(example(embedding=[0.5] * 1375)), "1375 values, not 1376"),
    (lambda b: framed(example(embedding=[0.5] * 768)), "never cut or padded"),
    (lambda b: framed(example(embedding=[b"0.1,0.2"])), "0 values"),
    (lambda b: framed(example(other=[0.5] * 1376)), "no feature 'embedding'"),
    (lambda b: framed(b""), "no feature 'embedding'"),
    (lambda b: framed(example(embedding=[float("nan")] * 1376)), "not finite"),
    (lambda b: framed(b[12:-300]), "no tf.train.Example"),
    (lambda b: framed(b"\xff" * 40), "no tf.train.Example"),
])
def test_damage_is_refused_by_the_files_name(tmp_path, vectors, change, message):
  good, bad = (pathlib.Path(images.path(tmp_path, 1, i, "x")) for i in (1, 2))
  for path in (good, bad):
    tfrecord.write(path, vectors[0])
  bad.write_bytes(change(bad.read_bytes()))
  with pytest.raises(images.DamagedImage, match=message) as error:
    images.read([good, bad, good])
  assert str(bad) in str(error.value)


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="absent.tfrecord is absent"):
    images.read([tmp_path / "absent.tfrecord"])


def test_a_failure_stops_the_threads(tmp_path, vectors):
  tfrecord.write(tmp_path / "a", vectors[0])
  before = threading.active_count()
  with pytest.raises(FileNotFoundError):
    images.read([tmp_path / "none"] + [tmp_path / "a"] * 300)
  assert threading.active_count() == before


def test_sets_keep_the_latest_images_of_each_row(vectors):
  row = [2, 0, 2, 2, 0]
  found = images.as_sets(vectors, row, rows=4, most=2)
  assert found.shape == (4, 2, images.WIDTH)
  np.testing.assert_array_equal(found[0], vectors[[1, 4]])
  np.testing.assert_array_equal(found[2], vectors[[2, 3]])
  assert (found[[1, 3]] == 0).all()
  wide = images.as_sets(vectors, row, rows=4, most=4)
  np.testing.assert_array_equal(wide[2, :3], vectors[[0, 2, 3]])
  assert np.isnan(wide[2, 3]).all() and np.isnan(wide[0, 2:]).all()
