"""A download is checked to the last byte, and what mends it is said."""

import gzip
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data.mimic import simulate, verify, versions as mimic_versions


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  root = tmp_path_factory.mktemp("download") / "root"
  simulate.write(config_lib.default().data.simulate, root, 30, density=0.05)
  return root


@pytest.fixture
def root(whole, tmp_path):
  shutil.copytree(whole, tmp_path / "root")
  return tmp_path / "root"


@pytest.fixture
def no_counts(monkeypatch):
  """Published row counts are unknown: simulated files do not have them."""
  monkeypatch.setattr(mimic_versions, "ROWS", {})


def _mimic(root):
  return root / "physionet.org/files/mimiciv/3.1"


def _found(root):
  return {f.name: f for f in verify.verify(root, threads=2)}


def _bad(root):
  return {name: f for name, f in _found(root).items() if f.bad}


def _drop_sums(root):
  (_mimic(root) / "SHA256SUMS.txt").unlink()


def test_a_whole_download_is_whole(whole):
  found = _found(whole)
  assert not [f for f in found.values() if f.status != "ok"]
  rows = len(pd.read_csv(_mimic(whole) / "hosp/admissions.csv.gz"))
  assert found["hosp/admissions.csv.gz"].text == f"{rows} rows, as in SHA256SUMS.txt"
  # notes hold line breaks: rows are counted, not lines
  notes = pd.read_csv(whole / "physionet.org/files/mimic-iv-note/2.2/note/discharge.csv.gz")
  assert found["note/discharge.csv.gz"].text.startswith(f"{len(notes)} rows")
  assert "41" not in found["mimiciv"].text and "3.1" in found["mimiciv"].text
  assert "All that is here is whole" in verify.report(list(found.values()))


@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("harm, words", [
    (lambda data: data[:len(data) // 2], "cut off"),
    (lambda data: data[:-20] + bytes([data[-20] ^ 4]) + data[-19:], "damaged|checksum"),
    (lambda data: b"<!DOCTYPE html><html>Sign in to PhysioNet</html>", "web page.*credentials"),
    (lambda data: gzip.compress(b"<html>Sign in to PhysioNet</html>"), "web page.*credentials"),
    (lambda data: b"", "empty"),
    (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    (lambda data: gzip.decompress(data), "not a gzip file"),
    (lambda data: gzip.compress(gzip.decompress(data) + b'1,"open\n2,3\n'), "quote is not closed"),
])
def test_damage_is_found_without_and_with_checksums(root, no_counts, harm, words, with_sums):
  path = _mimic(root) / "hosp/labevents.csv.gz"
  path.write_bytes(harm(path.read_bytes()))
  if not with_sums:
    _drop_sums(root)
  bad = _bad(root)
  assert list(bad) == ["hosp/labevents.csv.gz"]
  found = bad["hosp/labevents.csv.gz"]
  assert found.status == "damaged" and re.search(words, found.text)
  # wget would take the damaged file for finished: it goes first
  assert found.command.startswith(f"rm {path} && wget -x -nH --cut-dirs=3 -N -c --user ")
  assert found.command.endswith(
      f"-P {_mimic(root)} https://physionet.org/files/mimiciv/3.1/hosp/labevents.csv.gz")


def test_a_changed_value_is_found_by_the_checksum_or_the_rows_alone(root, monkeypatch):
  path = _mimic(root) / "hosp/patients.csv.gz"
  text = gzip.decompress(path.read_bytes())
  path.write_bytes(gzip.compress(text.replace(b",M,", b",F,", 1)))
  bad = _bad(root)
  assert "not the published file" in bad["hosp/patients.csv.gz"].text and len(bad) == 1
  _drop_sums(root)
  assert "58 rows: 3.1 has 546,028" in _bad(root)["hosp/admissions.csv.gz"].text
  monkeypatch.setattr(mimic_versions, "ROWS", {})
  assert not _bad(root)


def test_rows_of_notes_and_x_rays_are_known_too(root):
  for project in ("mimic-iv-note/2.2", "mimic-cxr-jpg/2.1.0"):
    (root / "physionet.org/files" / project / "SHA256SUMS.txt").unlink()
  bad = _bad(root)
  assert set(bad) == {"note/radiology.csv.gz", "mimic-cxr-2.0.0-metadata.csv.gz"}
  assert "has 2,321,355" in bad["note/radiology.csv.gz"].text
  assert "has 377,110" in bad["mimic-cxr-2.0.0-metadata.csv.gz"].text


def test_missing_files_come_with_their_command(root):
  (_mimic(root) / "icu/chartevents.csv.gz").unlink()
  (_mimic(root) / "hosp/drgcodes.csv.gz").unlink()   # not needed: not missed
  plain = _mimic(root) / "icu/d_items.csv.gz"
  plain.rename(plain.with_name("d_items.csv.zip"))
  shutil.rmtree(root / "physionet.org/files/mimic-iv-note")
  bad = _bad(root)
  assert {n: f.status for n, f in bad.items()} == {
      "icu/chartevents.csv.gz": "missing", "icu/d_items.csv.gz": "missing",
      "mimic-iv-note": "missing"}
  assert "d_items.csv.zip is there, which is not read" in bad["icu/d_items.csv.gz"].text
  assert bad["icu/chartevents.csv.gz"].command.endswith("mimiciv/3.1/icu/chartevents.csv.gz")
  assert bad["mimic-iv-note"].command == (
      "wget -r -np -N -c --user YOUR_PHYSIONET_NAME --ask-password "
      f"-P {root} https://physionet.org/files/mimic-iv-note/2.2/")
  text = verify.report(list(_found(root).values()))
  assert bad["mimic-iv-note"].command in text and "3 of " in text


def test_every_form_that_is_read_is_checked(root, no_counts):
  hosp, icu = _mimic(root) / "hosp", _mimic(root) / "icu"
  text = gzip.decompress((hosp / "labevents.csv.gz").read_bytes())
  head, *rows = text.splitlines(True)
  (hosp / "labevents_0.csv").write_bytes(head + b"".join(rows[:9]))
  (hosp / "labevents_1.csv").write_bytes(head + b"".join(rows[9:]))
  (hosp / "labevents.csv.gz").unlink()
  hosp.rename(hosp.with_name("HOSP"))
  (icu / "d_items.csv.gz").rename(icu / "D_ITEMS.CSV.GZ")
  found = _found(root)
  assert not [f for f in found.values() if f.bad]
  assert found["HOSP/labevents_0.csv"].text == "9 rows, whole, its checksum not compared"
  assert "as in SHA256SUMS.txt" in found["icu/D_ITEMS.CSV.GZ"].text   # its name in capitals
  assert "as in SHA256SUMS.txt" in found["HOSP/patients.csv.gz"].text
  part = hosp.with_name("HOSP") / "labevents_1.csv"
  part.write_bytes(part.read_bytes() + b'1,"open\n2,3\n')
  bad, = _bad(root).values()
  assert bad.name == "HOSP/labevents_1.csv" and "quote" in bad.text
  assert not bad.command, "PhysioNet has no such part"


def test_the_demo_is_known_and_gets_nothing_but_its_own(mimic_demo, tmp_path):
  found = verify.verify(mimic_demo, 2)
  assert found[0].status == "ok" and (found[0].name, found[0].text) == (
      "mimic-iv-demo", "version 2.2")
  assert {f.status for f in found if f.name in ("mimic-iv-note", "mimic-cxr-jpg")} == {"ok"}
  assert "275 rows" in {f.name: f.text for f in found}["hosp/admissions.csv.gz"]
  text = verify.report(found)
  assert f"-N -c -P {mimic_demo.absolute()} https://physionet.org/files/mimic-iv-demo/2.2/" in text
  assert "mimiciv" not in text and "--ask-password" not in text
  wrong = tmp_path / "mimiciv/3.1"       # a name does not make it the full database
  shutil.copytree(mimic_demo, wrong)
  text = verify.report(verify.verify(wrong, 2))
  assert f"-P {wrong} https://physionet.org/files/mimic-iv-demo/2.2/" in text
  assert "files/mimiciv/" not in text


def test_eicu_is_known_and_gets_nothing_of_mimic(tmp_path, eicu_root):
  place = tmp_path / "physionet.org/files/eicu-crd-demo/2.0.1"
  place.mkdir(parents=True)
  for table in ("patient", "apacheApsVar", "hospital"):
    shutil.copy(eicu_root / f"{table}.csv.gz", place)
  for root in (tmp_path, place):
    text = verify.report(verify.verify(root, 2))
    assert "version 2.0.1" in text and "patient.csv.gz" in text and "mimic" not in text
    assert f"-N -c -P {place} https://physionet.org/files/eicu-crd-demo/2.0.1/" in text
  # of which version these are is not known: the demo's, less 36 hospitals
  assert "2,045 rows: 2.0.1 has 2,520" in text
  alone = tmp_path / "alone"
  shutil.copytree(place, alone)
  text = verify.report(verify.verify(alone, 2))
  assert "eicu-crd" in text and "lab.csv.gz" in text and "wget" not in text.replace("(wget", "")


def test_no_database_is_offered_into_a_folder_of_other_tables(tmp_path, root):
  (tmp_path / "other").mkdir()
  (tmp_path / "other/PATIENT_LIST.csv").write_text("id\n1\n")
  first = verify.verify(tmp_path / "other", 2)[0]
  assert first.name == "mimiciv" and "empty folder" in first.text and not first.command
  # a copy that no name tells the version of, with rows of none
  alone = tmp_path / "alone"
  shutil.copytree(_mimic(root), alone)
  (alone / "SHA256SUMS.txt").unlink()
  (alone / "icu/chartevents.csv.gz").unlink()
  found = {f.name: f for f in verify.verify(alone, 2)}
  assert found["mimiciv"].status == "unverified"
  assert found["icu/chartevents.csv.gz"].status == "missing"
  assert not [f for f in found.values() if "mimiciv/" in f.command]


def test_many_missing_files_are_one_command(root):
  for path in sorted((_mimic(root) / "icu").glob("*events.csv.gz")) + sorted(
      (_mimic(root) / "hosp").glob("*events.csv.gz")) + [_mimic(root) / "hosp/emar.csv.gz"]:
    path.unlink()
  commands = {f.command for f in _bad(root).values()}
  assert len(commands) == 1 and commands.pop().endswith("/mimiciv/3.1/")


def test_wrong_versions_are_named(root, monkeypatch):
  _drop_sums(root)
  found = _found(root)
  rows = {n: int(f.text.split()[0].replace(",", "")) for n, f in found.items() if ".csv" in n}
  counts = lambda shift: {n.split("/")[-1].split(".")[0]: r + shift for n, r in rows.items()}
  monkeypatch.setitem(mimic_versions.ROWS, "mimiciv", {"3.1": counts(0), "3.0": counts(1)})
  assert "rows are 3.1's" in _found(root)["hosp/patients.csv.gz"].text and not _bad(root)
  # a folder that says 3.1 with the rows of 3.0
  monkeypatch.setitem(mimic_versions.ROWS, "mimiciv", {"3.1": counts(1), "3.0": counts(0)})
  bad = _bad(root)["hosp/patients.csv.gz"]
  assert bad.status == "version" and "the rows of version 3.0, not 3.1" in bad.text
  # a table that is cut between two rows, and zipped again
  monkeypatch.setitem(mimic_versions.ROWS, "mimiciv", {"3.1": counts(0)})
  path = _mimic(root) / "hosp/patients.csv.gz"
  path.write_bytes(gzip.compress(b"".join(
      gzip.decompress(path.read_bytes()).splitlines(True)[:-3])))
  assert "27 rows: 3.1 has 30" in _bad(root)["hosp/patients.csv.gz"].text


def test_a_table_older_than_2_2_is_told_by_its_header(root):
  _drop_sums(root)
  path = _mimic(root) / "hosp/admissions.csv.gz"
  table = pd.read_csv(path, dtype=str).drop(columns="admit_provider_id")
  table.to_csv(path, index=False)
  bad = _bad(root)["hosp/admissions.csv.gz"]
  assert bad.status == "version" and "no column admit_provider_id" in bad.text


def test_a_folder_of_another_version_is_refused(root):
  _mimic(root).rename(_mimic(root).with_name("1.0"))
  bad = _bad(root)["mimiciv"]
  assert bad.status == "version" and "3.1, 3.0 or 2.2" in bad.text
  assert bad.command.endswith("/mimiciv/3.1/")


def test_embeddings_are_checked(root):
  folder = root / "physionet.org/files/image-embeddings-mimic-cxr/1.0"
  first, second, *_ = sorted(folder.rglob("*.tfrecord"))
  first.write_bytes(first.read_bytes()[:-1] + b"x")
  second.unlink()
  found = [f for f in verify.verify(root, 2) if f.bad]
  assert [f.status for f in found] == ["damaged", "missing"]
  assert found[0].name.endswith(first.name) and "1 embeddings" in found[1].text


def test_embeddings_are_read_where_no_checksums_are(root):
  folder = root / "physionet.org/files/image-embeddings-mimic-cxr/1.0"
  (folder / "SHA256SUMS.txt").unlink()
  assert "readable" in {f.name: f for f in verify.verify(root, 2) if f.status == "ok"}[
      "image-embeddings-mimic-cxr"].text
  first, *_ = sorted(folder.rglob("*.tfrecord"))
  data = bytearray(first.read_bytes())
  data[1000] ^= 1
  first.write_bytes(data)
  bad, = [f for f in verify.verify(root, 2) if f.bad]
  assert bad.status == "damaged" and first.name in bad.name


def test_checksum_lists_that_are_web_pages_are_damaged(root):
  (_mimic(root) / "SHA256SUMS.txt").write_text("<html>Sign in</html>")
  assert _bad(root)["mimiciv/SHA256SUMS.txt"].status == "damaged"


def test_parquet_is_read_and_counted(root):
  _drop_sums(root)
  path = _mimic(root) / "hosp/patients.csv.gz"
  pd.read_csv(path).to_parquet(path.with_name("patients.parquet"))
  path.unlink()
  assert _found(root)["hosp/patients.parquet"].text.startswith("30 rows")
  other = _mimic(root) / "hosp/patients.parquet"
  other.write_bytes(other.read_bytes()[:-100])
  assert _bad(root)["hosp/patients.parquet"].status == "damaged"


def test_command_line_says_what_to_do_and_shows_no_row(root):
  path = _mimic(root) / "hosp/labevents.csv.gz"
  path.write_bytes(path.read_bytes()[:-100])
  done = subprocess.run([sys.executable, "-m", "crl_jax.data.mimic.verify", f"--root={root}"],
                        capture_output=True, text=True)
  assert done.returncode == 1 and "cut off" in done.stdout
  subjects = pd.read_csv(_mimic(root) / "hosp/patients.csv.gz").subject_id.astype(str)
  shown = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("  "))
  assert not any(s in shown for s in subjects)
  assert "--password" not in done.stdout
  done = subprocess.run(
      [sys.executable, "-m", "crl_jax.data.mimic.verify", "--root=/nowhere/at/all"],
      capture_output=True, text=True)
  assert done.returncode == 1 and "is not a folder" in done.stderr
