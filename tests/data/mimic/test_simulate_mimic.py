"""The simulated files of MIMIC-IV: layout, headers, ids, times, truth, and the same bytes again."""

import gzip
import pathlib
import struct
import subprocess

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data.mimic import files as mimic_files, images, simulate as simulate_mimic, tfrecord
from crl_jax.data.mimic.simulated import csv_gz, people as people_lib

PATIENTS = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("mimic")
  simulate_mimic.write(config_lib.default().data.simulate, root / "a", PATIENTS, density=0.1)
  return root / "a"


@pytest.fixture(scope="module")
def read(folder):
  files = mimic_files.files(mimic_files.locate(folder, mimic_files.PROJECTS))
  cache = {}

  def table(name, *times):
    if name not in cache:
      cache[name] = pd.read_csv(files[name][0], low_memory=False, keep_default_na=False,
                                na_values=[""])
    return cache[name].assign(**{t: pd.to_datetime(cache[name][t], format="ISO8601").astype(
        "datetime64[s]") for t in times})
  return table


def test_headers_are_those_of_the_demo(folder, mimic_demo):
  files = mimic_files.files(mimic_files.locate(folder))
  head = lambda path: gzip.open(path, "rt").readline()
  shared = 0
  for name, paths in mimic_files.files(mimic_files.locate(mimic_demo)).items():
    if name in files:
      shared += 1
      assert head(files[name][0]) == head(paths[0]), name
  assert shared >= 10


def test_ids_are_unique_and_refer_to_each_other(read):
  unique = dict(patients="subject_id", admissions="hadm_id", icustays="stay_id",
                transfers="transfer_id", labevents="labevent_id", discharge="note_id",
                radiology="note_id", microbiologyevents="microevent_id", pharmacy="pharmacy_id")
  for name, column in unique.items():
    assert read(name)[column].is_unique, name
  subjects, hadm = set(read("patients").subject_id), read("admissions").set_index("hadm_id")
  stays = read("icustays").set_index("stay_id")
  for name in ("transfers", "services", "diagnoses_icd", "procedures_icd", "drgcodes", "labevents",
               "prescriptions", "emar", "microbiologyevents", "icustays", "chartevents",
               "inputevents", "outputevents", "procedureevents", "discharge", "radiology"):
    t = read(name)
    assert set(t.subject_id) <= subjects, name
    linked = t[t.hadm_id.notna()]
    np.testing.assert_array_equal(hadm.subject_id.loc[linked.hadm_id], linked.subject_id, name)
    if "stay_id" in t and name != "icustays":
      np.testing.assert_array_equal(stays.hadm_id.loc[t.stay_id], t.hadm_id, name)
  for name, words in (("chartevents", "d_items"), ("labevents", "d_labitems"),
                      ("inputevents", "d_items"), ("procedureevents", "d_items")):
    assert set(read(name).itemid) <= set(read(words).itemid), name


def test_times_lie_in_their_stays(folder, read):
  a = read("admissions", "admittime", "dischtime", "deathtime").set_index("hadm_id")
  assert (a.dischtime > a.admittime).mean() > 0.99
  assert (a.deathtime.notna() == (a.hospital_expire_flag == 1)).all()
  i = read("icustays", "intime", "outtime").set_index("stay_id")
  assert (i.intime >= a.admittime.loc[i.hadm_id].to_numpy()).all()
  assert (i.outtime > i.intime).all()
  c = read("chartevents", "charttime")
  assert (c.charttime >= i.intime.loc[c.stay_id].to_numpy() - pd.Timedelta("1min")).all()
  assert (c.charttime <= i.outtime.loc[c.stay_id].to_numpy()).all()
  d = read("discharge", "charttime", "storetime")
  assert (d.charttime.dt.hour == 0).all() and (d.charttime.dt.minute == 0).all()
  end = d.hadm_id.map(a.dischtime).to_numpy()
  assert (d.charttime <= end).all() and (d.storetime > end).mean() > 0.99
  rx, orders = read("prescriptions", "starttime"), read("pharmacy", "entertime")
  assert set(rx.pharmacy_id) == set(orders.pharmacy_id)
  entered = rx.pharmacy_id.map(orders.set_index("pharmacy_id").entertime)
  assert 0.03 < (entered > rx.starttime).mean() < 0.15
  visits = read("omr", "chartdate")
  assert set(visits.result_name) == {"Blood Pressure", "Weight (Lbs)", "BMI (kg/m2)"}
  index = pd.read_parquet(folder / "truth.parquet").set_index("subject_id").hadm_id
  assert (visits.chartdate < visits.subject_id.map(index).map(a.admittime)).all()
  m = read("microbiologyevents", "charttime", "storetime")
  assert (m.storetime - m.charttime).min() > pd.Timedelta("20h")


def test_truth_is_what_happened(folder, read):
  truth = pd.read_parquet(folder / "truth.parquet").set_index("subject_id")
  a = read("admissions", "admittime", "dischtime").sort_values(["subject_id", "admittime"])
  index = a[a.hadm_id.isin(truth.hadm_id)].set_index("subject_id")
  died = index.hospital_expire_flag.loc[truth.index]
  np.testing.assert_array_equal(died, truth.y_mortality)
  after = a.merge(index[["hadm_id", "dischtime"]], left_on="subject_id", right_index=True,
                  suffixes=("", "_0"))
  after = after[after.admittime > after.dischtime_0]
  days = (after.admittime - after.dischtime_0).dt.total_seconds() / 86400
  again = truth.index.isin(after.subject_id[days <= 30])
  i = read("icustays", "intime").merge(index[["dischtime"]], left_on="subject_id",
                                       right_index=True)
  days = (i.intime - i.dischtime).dt.total_seconds() / 86400
  icu = truth.index.isin(i.subject_id[(days > 0) & (days <= 90)])
  alive = truth.y_mortality == 0
  np.testing.assert_array_equal(again[alive], truth.y_readmission[alive])
  np.testing.assert_array_equal(icu[alive], truth.y_icu[alive])
  assert truth.y_readmission[~alive].isna().all() and not again[~alive].any()
  stays = read("icustays").groupby("hadm_id").size().reindex(truth.hadm_id, fill_value=0)
  np.testing.assert_array_equal(stays.to_numpy() == 1, truth.eligible)


def test_what_is_recorded_is_the_clinicians_choice(folder, read):
  truth = pd.read_parquet(folder / "truth.parquet").set_index("subject_id")
  has = lambda table: truth.index.isin(read(table).subject_id)
  np.testing.assert_array_equal(has("discharge"), truth.observed_discharge)
  np.testing.assert_array_equal(has("radiology"), truth.observed_radiology)
  np.testing.assert_array_equal(has("mimic-cxr-2.0.0-metadata"), truth.observed_image)
  assert (truth.eligible == truth.index.isin(read("chartevents").subject_id)).mean() > 0.9


def test_latent_health_drives_values_and_pictures(folder, read):
  truth = pd.read_parquet(folder / "truth.parquet").set_index("subject_id")
  u = np.c_[np.ones(len(truth)), truth[[f"u{i}" for i in range(8)]]]
  lab = read("labevents").query("itemid == 50983 and valuenum < 1000").groupby("subject_id")
  y = lab.valuenum.median().reindex(truth.index).to_numpy()
  ok = np.isfinite(y)
  fitted = u[ok] @ np.linalg.lstsq(u[ok], y[ok], rcond=None)[0]
  assert np.corrcoef(fitted, y[ok])[0, 1] > 0.5
  place = mimic_files.locate(folder, ["embeddings"])["embeddings"]
  meta = read("mimic-cxr-2.0.0-metadata").drop_duplicates("study_id")
  x = np.array([_embedding(pathlib.Path(images.path(place.folder, *image))) for image in zip(
      meta.subject_id, meta.study_id, meta.dicom_id)])
  same = meta.subject_id.to_numpy()[:, None] == meta.subject_id.to_numpy()
  close = np.corrcoef(x)
  np.fill_diagonal(same, False)
  assert close[same].mean() > close[~same].mean() + 0.1


def test_the_discharge_summary_tells_the_end(read):
  died = read("admissions").set_index("hadm_id").hospital_expire_flag.loc[read("discharge").hadm_id]
  told = read("discharge").text.str.contains("Disposition:\nExpired")
  np.testing.assert_array_equal(told, died == 1)
  assert read("discharge").text.str.contains("___").all()
  assert not read("radiology").text.str.contains("xpired").any()


def test_quirks(read):
  labs, charts = read("labevents"), read("chartevents")
  assert 0.05 < labs.hadm_id.isna().mean() < 0.6
  assert ((labs.value == "___") & labs.valuenum.isna()).any()
  assert (charts.valuenum == 999999).any() and charts.valuenum.isna().any()
  time = read("mimic-cxr-2.0.0-metadata").StudyTime
  assert time.between(0, 240000).all() and (time < 100000).any()
  assert read("transfers").query("eventtype == 'discharge'").outtime.isna().all()
  assert read("patients").anchor_age.max() <= 91 and read("patients").anchor_age.min() >= 18
  assert read("patients").dod.dropna().str.len().eq(10).all()


def _embedding(path):
  """Reads one TFRecord by its documented format, with another way to the CRC than the writer's."""
  data = path.read_bytes()
  length, = struct.unpack("<Q", data[:8])
  assert len(data) == 8 + 4 + length + 4
  assert _masked(data[:8]) == struct.unpack("<I", data[8:12])[0]
  body = data[12:12 + length]
  assert _masked(body) == struct.unpack("<I", data[-4:])[0]
  assert body.count(b"embedding") == 1
  return np.frombuffer(body[-1376 * 4:], "<f4")


def _masked(data):
  crc = 0xffffffff
  for byte in data[:64] if len(data) > 64 else data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
  if len(data) > 64:   # bit by bit is slow: the rest by a table made of the same rule
    table = []
    for byte in range(256):
      for _ in range(8):
        byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
      table.append(byte)
    for byte in data[64:]:
      crc = table[(crc ^ byte) & 255] ^ crc >> 8
  crc ^= 0xffffffff
  return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def test_crc_is_castagnolis():
  # the check value of CRC-32C in the catalogue of parametrised CRC algorithms
  crc = tfrecord.masked_crc(b"123456789")
  unmasked = crc - 0xa282ead8 & 0xffffffff
  assert (unmasked << 15 | unmasked >> 17) & 0xffffffff == 0xe3069283


def test_the_same_seed_writes_the_same_bytes_on_any_number_of_threads(tmp_path):
  c = config_lib.default().data.simulate
  for name, seed, threads in (("a", 3, 1), ("b", 3, 4), ("c", 4, 1)):
    simulate_mimic.write(c, tmp_path / name, 40, seed=seed, density=0.05, threads=threads)
  files = lambda name: {str(p.relative_to(tmp_path / name)): p.read_bytes()
                        for p in (tmp_path / name).rglob("*") if p.is_file()}
  a, b, other = files("a"), files("b"), files("c")
  assert a == b
  assert a["truth.parquet"] != other["truth.parquet"]


def test_sums_are_right(folder):
  for sums in folder.rglob("SHA256SUMS.txt"):
    found = subprocess.run(["sha256sum", "--check", "--quiet", sums.name], cwd=sums.parent,
                           capture_output=True)
    assert found.returncode == 0, found.stdout


def test_blocks_join_into_one_gzip_stream_with_the_right_text(tmp_path):
  words = ['say "no"', "a,b", "two\nlines", "", "é"]
  blocks = [lambda lo=lo: (np.arange(lo, lo + 5), np.array([1.5, np.nan, 98.0, 0.1, 1e-5]),
                           np.array(["2180-05-06T22:23", "NaT", "2180-01-01", "NaT", "NaT"],
                                    "M8[s]"),
                           csv_gz.pick(words, np.array([0, 1, 2, -1, 4])),
                           csv_gz.whole(np.arange(5), np.arange(5) > 2)) for lo in (0, 5)]
  with csv_gz.pool(2) as pool:
    rows, _ = csv_gz.write(tmp_path / "t.csv.gz", ["i", "x", "t", "s", "n"], blocks, pool, 2)
  data = (tmp_path / "t.csv.gz").read_bytes()
  assert rows == 10 and gzip.decompress(data).decode().splitlines()[1:3] == [
      '0,1.5,2180-05-06 22:23:00,"say ""no""",', '1,,,"a,b",']
  import zlib
  stream = zlib.decompressobj(31)
  stream.decompress(data)
  assert stream.eof and not stream.unused_data   # one member, as in PhysioNet's files
  t = pd.read_csv(tmp_path / "t.csv.gz")
  assert t.s[2] == "two\nlines" and t.i.tolist() == list(range(10)) and t.n[3] == 3


def test_bad_arguments_are_named(tmp_path):
  c = config_lib.default().data.simulate
  with pytest.raises(ValueError, match="patients"):
    simulate_mimic.write(c, tmp_path, 0)
  c.sizes = (64, 10, 768, 768)
  with pytest.raises(ValueError, match="image of 1376"):
    simulate_mimic.write(c, tmp_path, 5)
  (tmp_path / "x").write_text("")
  with pytest.raises(FileExistsError, match="not empty"):
    simulate_mimic.write(config_lib.default().data.simulate, tmp_path, 5)


def test_seed_draws_patients_of_one_world():
  c = config_lib.default().data.simulate
  a, b = people_lib.draw(c, 300, 0), people_lib.draw(c, 300, 1)
  np.testing.assert_array_equal(a.world.loadings[1], b.world.loadings[1])
  assert not np.array_equal(a.subject, b.subject)
