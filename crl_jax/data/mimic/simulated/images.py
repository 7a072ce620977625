"""Chest X-rays of the simulated patients: the metadata of MIMIC-CXR and the embeddings as TFRecord
files, written without TensorFlow.

A TFRecord is: the length as uint64, its masked CRC-32C, the bytes, their masked CRC-32C, all little
endian; the bytes are a tf.train.Example with the one feature `embedding`. Sources:
tensorflow.org/tutorials/load_data/tfrecord (format), protobuf.dev/programming-guides/encoding.
"""

import numpy as np

from crl_jax.data.mimic.simulated import csv_gz, people as people_lib

METADATA_HEADER = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
    "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning")


def draw(people, seed):
  """The images: dict(patient, time, study, dicom) of arrays with one entry an image."""
  rng = np.random.default_rng([8, seed])
  patients = np.flatnonzero(people.observed[:, 1])
  studies = rng.integers(1, 3, len(patients))
  patient = np.repeat(patients, studies)
  admission = people.index[patient]
  length = people.discharge[admission] - people.admit[admission]
  # the first within a day, the others any time
  share = np.where(np.append(True, patient[1:] != patient[:-1])[:len(patient)],
                   np.minimum(people_lib.DAY / np.maximum(length, 1), 1), 1)
  time = people.admit[admission] + (rng.random(len(patient)) * share * length).astype(np.int64)
  study = 50_000_000 + rng.choice(9_999_999, len(patient), replace=False)
  views = rng.integers(1, 3, len(patient))
  parts = rng.integers(0, 1 << 32, (views.sum(), 5), dtype=np.uint64)
  return dict(patient=np.repeat(patient, views), time=np.repeat(time, views),
              study=np.repeat(study, views),
              dicom=["-".join(f"{p:08x}" for p in row) for row in parts.tolist()])


def metadata(people, images, rng):
  """The columns of the metadata; StudyTime is HHMMSS as a number, its leading zeros lost."""
  n = len(images["patient"])
  time = images["time"].astype("M8[s]")
  day = time.astype("M8[D]")
  year = day.astype("M8[Y]").astype(np.int64) + 1970
  month = day.astype("M8[M]").astype(np.int64) % 12 + 1
  date = year * 10000 + month * 100 + (day - day.astype("M8[M]")).astype(np.int64) + 1
  seconds = images["time"] % people_lib.DAY
  clock = seconds // 3600 * 10000 + seconds // 60 % 60 * 100 + seconds % 60
  view = rng.integers(0, 2, n)
  words = lambda *names: csv_gz.pick(names, view)
  return (csv_gz.text(images["dicom"]), people.subject[images["patient"]], images["study"],
          words("CHEST (PORTABLE AP)", "CHEST (PA AND LAT)"), words("AP", "PA"),
          2000 + rng.integers(0, 1000, n), 2000 + rng.integers(0, 1000, n), date,
          clock + np.round(rng.random(n), 3), words("CHEST (PORTABLE AP)", "CHEST (PA AND LAT)"),
          words("antero-posterior", "postero-anterior"), words("Recumbent", "Erect"))


def write(people, images, folder, seed, chunk=512):
  """Writes files/pXX/pSUBJECT/sSTUDY/DICOM.tfrecord of all images under `folder`. Returns name ->
  sha256 by path in `folder`."""
  import hashlib

  rng = np.random.default_rng([9, seed])
  loading, noise = people.world.loadings[1], people.world.noise[1]
  sums = {}
  for lo in range(0, len(images["patient"]), chunk):
    patient = images["patient"][lo:lo + chunk]
    x = people.u[patient] @ loading.T
    x += noise * rng.standard_normal(x.shape, np.float32)
    for i, data in zip(range(lo, lo + len(x)), tfrecords(example(x.astype("<f4")))):
      subject = str(people.subject[images["patient"][i]])
      name = (f"files/p{subject[:2]}/p{subject}/s{images['study'][i]}/{images['dicom'][i]}"
              ".tfrecord")
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
      sums[name] = hashlib.sha256(data).hexdigest()
  return sums


def example(values):
  """(n, L) bytes: tf.train.Example messages, each with the float feature `embedding` of one row of
  (n, F) values."""
  floats = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(len(values), -1)
  tag = lambda number, size: bytes([number << 3 | 2]) + _varint(size)
  body = floats.shape[1]
  heads = b""
  # from the inside out: packed floats, FloatList, Feature, map entry, Features, Example
  sizes = [body]
  for prefix in (b"", b"", tag(1, 9) + b"embedding", b""):
    sizes.append(len(prefix) + len(tag(1, sizes[-1])) + sizes[-1])
  packed, floatlist, feature, entry, features = sizes
  heads = (tag(1, features) + tag(1, entry) + tag(1, 9) + b"embedding" + tag(2, feature)
           + tag(2, floatlist) + tag(1, packed))
  head = np.broadcast_to(np.frombuffer(heads, np.uint8), (len(values), len(heads)))
  return np.concatenate([head, floats], 1)


def tfrecords(messages):
  """Yields the TFRecord file of each row of (n, L) bytes."""
  n, length = messages.shape
  size = np.frombuffer(np.uint64(length).tobytes(), np.uint8)
  head = size.tobytes() + _masked(size[None])[0].tobytes()
  for row, crc in zip(messages, _masked(messages)):
    yield head + row.tobytes() + crc.tobytes()


def _varint(number):
  out = b""
  while number >= 128:
    out, number = out + bytes([number & 127 | 128]), number >> 7
  return out + bytes([number])


def _table():
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, table >> 1 ^ np.uint32(0x82f63b78), table >> 1)
  return table


_CRC = _table()


def _masked(rows):
  """(n,) uint32 little endian: TFRecord's masked CRC-32C of each row of (n, L) bytes."""
  crc = np.full(len(rows), 0xffffffff, np.uint32)
  for column in np.ascontiguousarray(rows.T):
    crc = _CRC[(crc ^ column) & 0xff] ^ crc >> np.uint32(8)
  crc ^= np.uint32(0xffffffff)
  return ((crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xa282ead8)).astype("<u4")
