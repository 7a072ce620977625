"""The TFDS builders give the cohort, row by row, without TensorFlow."""

import functools
import gzip
import hashlib
import http.server
import subprocess
import sys
import threading

import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, prepared
from crl_jax.data.eicu import tables as eicu_tables
from crl_jax.data.mimic import simulate

tfds = pytest.importorskip("tensorflow_datasets")
from crl_jax.data import tfds_builders


@pytest.fixture
def server(eicu_root, monkeypatch):
  """The demo folder behind a web server of this machine, in place of PhysioNet; of the tables only
  those that the cohort cannot do without, for speed."""
  quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
  web = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), functools.partial(quiet, directory=str(eicu_root)))
  threading.Thread(target=web.serve_forever, daemon=True).start()
  there = [name for name, table in eicu_tables.schema().items() if table.required]
  sums = {t: hashlib.sha256((eicu_root / f"{t}.csv.gz").read_bytes()).hexdigest()
          for t in tfds_builders.CrlEicu.SHA256 if t in there}
  monkeypatch.setattr(tfds_builders.CrlEicu, "SHA256", sums)
  monkeypatch.setattr(tfds_builders.CrlEicu, "URL", f"http://127.0.0.1:{web.server_port}")
  yield web
  web.shutdown()


def test_published_checksums_are_those_of_the_demo(eicu_root):
  lines = (eicu_root / "UPSTREAM_SHA256SUMS.txt").read_text().split()
  published = dict(zip((n.split(".")[0] for n in lines[1::2]), lines[::2]))
  assert len(tfds_builders.CrlEicu.SHA256) == 20
  for table, digest in tfds_builders.CrlEicu.SHA256.items():
    assert published[table] == digest
  assert tfds_builders.CrlEicu.URL == "https://physionet.org/files/eicu-crd-demo/2.0.1"


def test_eicu_is_downloaded_checked_and_read_back(server, tmp_path, monkeypatch):
  built = []
  real = tfds_builders.eicu.build
  monkeypatch.setattr(tfds_builders.eicu, "build",
                      lambda config: built.append(real(config)) or built[0])
  builder = tfds.builder("crl_eicu", data_dir=tmp_path)
  builder.download_and_prepare()
  cohort, = built
  rows, patients = {}, {}
  for split in ("train", "validation", "test"):
    source = builder.as_data_source(split=split)
    assert len(source) == builder.info.splits[split].num_examples
    for example in source:
      rows[int(example["row_id"])] = example
      patients.setdefault(int(example["patient_id"]), set()).add(split)
  assert sorted(rows) == sorted(cohort.row_id.tolist())
  assert all(len(s) == 1 for s in patients.values())
  for i in (0, len(cohort) // 2, len(cohort) - 1):
    example = rows[int(cohort.row_id[i])]
    for m in cohort.modalities:
      np.testing.assert_array_equal(example["inputs"][m], cohort.inputs[m][i])
    np.testing.assert_array_equal(example["observed"], cohort.observed[i])
    np.testing.assert_array_equal(example["labels"], cohort.labels[i])
    assert example["pattern"] == cohort.pattern[i]
    assert example["groups"]["sex"].decode() == cohort.groups["sex"][i]
  again = tfds.builder("crl_eicu", data_dir=tmp_path).info.metadata
  assert again["tasks"] == ["readmission", "mortality"]
  assert {m: list(n) for m, n in cohort.features.items()} == again["features"]


def test_a_changed_download_is_refused(server, tmp_path, monkeypatch):
  wrong = dict(tfds_builders.CrlEicu.SHA256, hospital="0" * 64)
  monkeypatch.setattr(tfds_builders.CrlEicu, "SHA256", wrong)
  with pytest.raises(cohort_lib.CohortError, match="hospital.csv.gz is not the file"):
    tfds.builder("crl_eicu", data_dir=tmp_path).download_and_prepare()


def test_mimic_is_read_from_the_manual_folder(tmp_path, monkeypatch):
  built = []
  real = tfds_builders.mimic.build
  monkeypatch.setattr(tfds_builders.mimic, "build",
                      lambda config: built.append(real(config)) or built[0])
  root = tmp_path / "manual"
  simulate.write(config_lib.default().data.simulate, root, 120, density=0.1)
  overrides = ("data.mimic.modalities=('structured','image')", "data.mimic.image_pooling=mean")
  builder = tfds.builder("crl_mimic", data_dir=tmp_path / "tfds", config=tfds_builders.CohortConfig(
      name="mine", overrides=overrides))
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=root))
  cohort, = built
  assert cohort.info["protocol"] == "honest" and cohort.info["version"] == "3.1"
  found = {int(e["row_id"]): e for s in ("train", "validation", "test")
           for e in builder.as_data_source(split=s)}
  assert len(found) == len(cohort)
  for i in range(len(cohort)):
    example = found[int(cohort.row_id[i])]
    np.testing.assert_array_equal(example["inputs"]["image"], cohort.inputs["image"][i])
    np.testing.assert_array_equal(example["labels"], cohort.labels[i])
  assert builder.info.metadata["features"]["structured"] == list(cohort.features["structured"])

  def again(*more):
    manual = tfds.download.DownloadConfig(manual_dir=root)
    again = tfds.builder("crl_mimic", data_dir=tmp_path / "tfds", config=tfds_builders.CohortConfig(
        name="mine", overrides=(*overrides, *more)))
    again.download_and_prepare(download_config=manual)
    return again

  assert again("train.batch_size=4").info.splits["train"].num_examples   # changes no number
  assert len(built) == 1
  for other in ("data.protocol=paper", "seed=1", "splits.folds=4"):
    with pytest.raises(cohort_lib.CohortError, match="made of other settings or code"):
      again(other)
  with monkeypatch.context() as m:
    m.setattr(prepared, "_code", lambda *_: "other code")
    with pytest.raises(cohort_lib.CohortError, match="made of other settings or code"):
      again()
  patients, = root.rglob("patients.csv.gz")
  patients.write_bytes(gzip.compress(gzip.decompress(patients.read_bytes()) + b"\n"))
  with pytest.raises(cohort_lib.CohortError, match="made of other files.*delete that folder"):
    again()


def test_mimic_without_files_says_what_to_download(tmp_path):
  (tmp_path / "empty").mkdir()
  builder = tfds.builder("crl_mimic", data_dir=tmp_path / "tfds")
  with pytest.raises((AssertionError, FileNotFoundError), match="wget .*--ask-password"):
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "absent"))
  with pytest.raises((AssertionError, FileNotFoundError), match="wget .*--ask-password"):
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "empty"))
  assert "crl_jax.data.mimic.verify" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS


def test_configs_are_the_two_protocols():
  assert set(tfds_builders.CrlEicu.builder_configs) == {"honest", "paper"}
  assert tfds_builders.CrlMimic.name == "crl_mimic"


def test_tensorflow_is_never_imported(tmp_path):
  code = ("import sys, tensorflow_datasets as tfds\n"
          "from crl_jax.data import tfds_builders\n"
          f"b = tfds.builder('crl_eicu', data_dir={str(tmp_path)!r})\n"
          "print(b.info.features['labels'].shape, sorted(b.builder_configs), "
          "'tensorflow' in sys.modules)")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.stdout.strip() == "(2,) ['honest', 'paper'] False", done.stderr
