"""Where downloads are looked for, and what is said when they are not there."""

import logging

import pytest

from crl_jax.data import mimic
from crl_jax.data.mimic import cohort as mimic_cohort, files as mimic_files, images
from tests.data.mimic import mimic_hospital as made


def _write(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_folders_directly_under_the_root(tmp_path):
  _write(tmp_path, "hosp/patients.csv.gz", "icu/icustays.parquet", "note/radiology.csv.gz",
         "mimic-cxr-2.0.0-metadata.csv.gz", "files/p10/p10000032/s50414267/a.tfrecord")
  found = mimic_files.locate(tmp_path, mimic_files.PROJECTS)
  assert mimic_files.files(found) == {
      "patients": (tmp_path / "hosp/patients.csv.gz",),
      "icustays": (tmp_path / "icu/icustays.parquet",),
      "radiology": (tmp_path / "note/radiology.csv.gz",),
      "mimic-cxr-2.0.0-metadata": (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz",)}
  assert {place.version for place in found.values()} == {""}
  assert images.path(found["embeddings"].folder, 10000032, 50414267, "a") == str(
      tmp_path / "files/p10/p10000032/s50414267/a.tfrecord")


@pytest.mark.parametrize("where", ["", "physionet.org", "physionet.org/files",
                                   "physionet.org/files/mimiciv/3.0"])
def test_wgets_folders_from_any_level(tmp_path, where):
  wget = tmp_path / "physionet.org/files"
  _write(wget, "mimiciv/3.0/hosp/patients.csv.gz", "mimic-iv-note/2.2/note/discharge.csv.gz",
         "mimic-cxr-jpg/2.1.0/mimic-cxr-2.0.0-metadata.csv.gz",
         "image-embeddings-mimic-cxr/1.0/files/p10/p10000032/s50414267/a.tfrecord")
  found = mimic_files.locate(tmp_path / where, mimic_files.PROJECTS)
  assert {source: place.version for source, place in found.items()} == dict(
      tables="3.0", notes="2.2", cxr="2.1.0", embeddings="1.0")
  assert f"-P {tmp_path} " in mimic_files.command("notes", tmp_path / where)


def test_unpacked_zip_files(tmp_path):
  _write(tmp_path, "mimic-iv-3.1/hosp/patients.csv.gz",
         "mimic-iv-note-deidentified-free-text-clinical-notes-2.2/note/discharge.csv.gz")
  found = mimic_files.locate(tmp_path)
  assert {source: place.version for source, place in found.items()} == dict(
      tables="3.1", notes="2.2")
  assert mimic_files.locate(tmp_path / "mimic-iv-3.1")["tables"].version == "3.1"


def test_the_newest_known_version_unless_the_root_names_one(tmp_path):
  wget = tmp_path / "physionet.org/files/mimiciv"
  _write(wget, *(f"{v}/hosp/patients.csv.gz" for v in ("2.2", "3.0", "3.1", "9.9")))
  assert mimic_files.locate(tmp_path)["tables"].version == "3.1"
  assert mimic_files.locate(wget / "2.2")["tables"].version == "2.2"


def test_projects_side_by_side_without_wgets_top_folder(tmp_path):
  _write(tmp_path, "mimiciv/3.1/hosp/patients.csv.gz", "mimic-iv-note/2.2/note/discharge.csv.gz")
  for root in (tmp_path, tmp_path / "mimiciv/3.1"):
    assert set(mimic_files.locate(root)) == {"tables", "notes"}


def test_an_unknown_version_is_refused_by_name(tmp_path):
  _write(tmp_path, "physionet.org/files/mimiciv/1.0/hosp/patients.csv.gz")
  for root in (tmp_path, tmp_path / "physionet.org/files/mimiciv/1.0"):
    with pytest.raises(ValueError, match="version 1.0 of mimiciv.*3.1, 3.0 or 2.2 can"):
      mimic_files.locate(root)


def test_what_is_missing_comes_with_its_command(tmp_path):
  with pytest.raises(FileNotFoundError, match="is not a folder"):
    mimic_files.locate(tmp_path / "nowhere")
  _write(tmp_path, "hosp/patients.csv.gz")
  assert set(mimic_files.locate(tmp_path)) == {"tables"}
  with pytest.raises(FileNotFoundError) as error:
    mimic_files.locate(tmp_path, mimic_files.PROJECTS)
  text = str(error.value)
  assert "holds no mimiciv" not in text
  assert ("wget -r -np -N -c --user YOUR_PHYSIONET_NAME --ask-password "
          f"-P {tmp_path} https://physionet.org/files/mimic-iv-note/2.2/") in text
  # the metadata alone: the project around it is 500 GB of images
  assert ("wget -x -N -c --user YOUR_PHYSIONET_NAME --ask-password -P "
          f"{tmp_path} https://physionet.org/files/mimic-cxr-jpg/2.1.0/"
          "mimic-cxr-2.0.0-metadata.csv.gz") in text
  assert "image-embeddings-mimic-cxr/1.0/" in text and "--password" not in text


def test_a_table_in_two_forms_is_refused(tmp_path):
  _write(tmp_path, "hosp/patients.csv.gz", "hosp/patients.parquet")
  with pytest.raises(ValueError, match="both patients.csv.gz and patients.parquet"):
    mimic_files.locate(tmp_path)


def test_capitals_parts_and_another_folder_of_the_project(tmp_path):
  _write(tmp_path, "HOSP/PATIENTS.CSV.GZ", "Icu/icustays_1.csv", "Icu/icustays_0.csv",
         "Icu/labevents.parquet/a.parquet", "Icu/labevents.parquet/_SUCCESS", "NOTE/discharge.csv")
  assert mimic_files.files(mimic_files.locate(tmp_path)) == {
      "patients": (tmp_path / "HOSP/PATIENTS.CSV.GZ",),
      "icustays": (tmp_path / "Icu/icustays_0.csv", tmp_path / "Icu/icustays_1.csv"),
      "labevents": (tmp_path / "Icu/labevents.parquet/a.parquet",),
      "discharge": (tmp_path / "NOTE/discharge.csv",)}
  # every part is in the key of a prepared cohort, and the table it is of
  files = mimic.RECIPE.files(made.make_config(tmp_path))
  assert [path.name for path in files] == [
      "a.parquet", "PATIENTS.CSV.GZ", "icustays_0.csv", "icustays_1.csv", "discharge.csv"]


def test_the_demo_where_it_is_named_and_the_full_tables_before_it(tmp_path):
  wget = tmp_path / "physionet.org/files"
  _write(wget, "mimic-iv-demo/2.2/hosp/patients.csv.gz")
  for root in (tmp_path, wget / "mimic-iv-demo/2.2"):
    place = mimic_files.locate(root)["tables"]
    assert (place.project.slug, place.version) == ("mimic-iv-demo", "2.2")
  assert "mimic-iv-demo/2.2/hosp/x.csv.gz" in mimic_files.command("tables", root, "hosp/x.csv.gz",
                                                                  place)
  _write(wget, "mimiciv/3.1/hosp/patients.csv.gz")
  assert mimic_files.locate(tmp_path)["tables"].project.slug == "mimiciv"


def test_no_command_writes_one_database_into_the_folder_of_another(tmp_path):
  _write(tmp_path, "patient.csv.gz", "lab.csv.gz")
  with pytest.raises(FileNotFoundError, match="data.cohort=eicu") as error:
    mimic_files.locate(tmp_path)
  assert "wget" not in str(error.value)
  _write(tmp_path, "hosp/patients.csv.zip")
  with pytest.raises(FileNotFoundError, match="patients.csv.zip is there") as error:
    mimic_files.locate(tmp_path)
  assert "wget" not in str(error.value)


def test_a_table_that_is_there_in_a_form_not_read_is_warned_of(tmp_path, caplog):
  root = made.save(tmp_path / "files", made.tables(made.stays((11,)), made.records(11, 10)))
  for name, other in (("hosp/labevents.csv.gz", "hosp/labevents.csv.zst"),
                      ("icu/chartevents.csv.gz", "icu/chartevents (1).csv.gz")):
    (root / name).rename(root / other)
  with caplog.at_level(logging.WARNING, "crl_jax"):
    with mimic_cohort.open_source(made.make_config(root), ["structured"]) as (source, _):
      assert {"labevents", "chartevents"} < set(source.absent)
  told = "\n".join(caplog.messages)
  assert len(caplog.messages) == 2 and "labevents.csv.zst is there" in told
  assert "chartevents (1).csv.gz is there" in told and "expected is chartevents.csv.gz" in told
  (root / "icu/icustays.csv.gz").rename(root / "icu/icustays.csv.zst")
  with pytest.raises(ValueError, match="icustays.*icustays.csv.zst is there"):
    with mimic_cohort.open_source(made.make_config(root), ["structured"]):
      pass
