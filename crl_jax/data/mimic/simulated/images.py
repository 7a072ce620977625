"""Chest X-rays of the simulated patients: the metadata of MIMIC-CXR and the embeddings' files."""

import hashlib
import pathlib

import numpy as np

from crl_jax.data.mimic import images as images_lib, tfrecord
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
  rng = np.random.default_rng([9, seed])
  loading, noise = people.world.loadings[1], people.world.noise[1]
  sums = {}
  for lo in range(0, len(images["patient"]), chunk):
    patient = images["patient"][lo:lo + chunk]
    x = people.u[patient] @ loading.T
    x += noise * rng.standard_normal(x.shape, np.float32)
    for i, vector in enumerate(x, lo):
      path = pathlib.Path(images_lib.path(folder, people.subject[images["patient"][i]],
                                          images["study"][i], images["dicom"][i]))
      content = tfrecord.write(path, vector)
      sums[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
  return sums
