"""Prepared cohorts: found again only where nothing changed, whole or not there, one writer."""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from crl_jax import config as config_lib, files
from crl_jax.data import cohort as cohort_lib, eicu, prepared, simulate, sources


@pytest.fixture
def config(tmp_path):
  c = config_lib.default().unlock()
  c.data.simulate.rows, c.data.simulate.sizes, c.data.simulate.draws = 60, (4, 5, 6, 7), 16
  c.data.cache = str(tmp_path / "cache")
  c.data.root = str(tmp_path / "files")
  (tmp_path / "files").mkdir()
  (tmp_path / "files" / "a.csv.gz").write_bytes(b"first")
  return c.lock()


@pytest.fixture
def maker(config):
  """A recipe of one file and one key, and a make() that counts its calls."""
  made = types.SimpleNamespace(count=0)
  made.recipe = prepared.Recipe(keys=("data.protocol",), files=lambda c: sorted(
      __import__("pathlib").Path(c.data.root).glob("*.csv.gz")))

  def make():
    made.count += 1
    return cohort_lib.validate(simulate.build(config))
  made.build = lambda c=config: prepared.build(c, made.recipe, make)
  made.make = make
  return made


def _folders(config):
  return sorted(p.name for p in (prepared.cache_folder(config)).iterdir() if p.is_dir())


def test_the_second_build_is_read_and_equal(config, maker):
  first, second = maker.build(), maker.build()
  assert maker.count == 1 and len(_folders(config)) == 1
  assert cohort_lib.fingerprint(first) == cohort_lib.fingerprint(second)
  fresh = maker.make()
  assert cohort_lib.fingerprint(second) == cohort_lib.fingerprint(fresh)
  assert json.loads(json.dumps(fresh.info)) == second.info
  assert isinstance(second.inputs["image"], np.memmap)


def test_what_it_is_a_function_of_makes_another(config, maker, tmp_path, monkeypatch):
  maker.build()
  changed = config_lib.override(config, ["data.protocol=paper"])
  prepared.build(changed, maker.recipe, maker.make)
  assert maker.count == 2
  (tmp_path / "files" / "a.csv.gz").write_bytes(b"other")   # same name, same length
  maker.build()
  assert maker.count == 3
  (tmp_path / "files" / "b.csv.gz").write_bytes(b"more")
  maker.build()
  assert maker.count == 4
  monkeypatch.setattr(prepared, "_code", lambda more, other: "another")
  maker.build()
  assert maker.count == 5 and len(_folders(config)) == 5


def test_what_it_is_no_function_of_makes_none(config, maker, tmp_path):
  maker.build()
  file = tmp_path / "files" / "a.csv.gz"
  os.utime(file, ns=(1, 1))                     # touched: read again, the same content
  maker.build()
  (tmp_path / "files").rename(tmp_path / "moved")
  other = config_lib.override(config, [f"data.root={tmp_path / 'moved'}", "seed=7",
                                       "data.memory_limit=1GB", "train.batch_size=64"])
  prepared.build(other, maker.recipe, maker.make)
  assert maker.count == 1


def test_unchanged_files_are_not_read_again(config, maker, monkeypatch):
  maker.build()
  read = []
  monkeypatch.setattr(files, "sha256", lambda path, real=files.sha256: (
      read.append(path.name), real(path))[1])
  maker.build()
  assert "a.csv.gz" not in read and "cohort.json" in read


def test_very_many_files_count_by_size_and_time(config, maker, tmp_path):
  paths = [tmp_path / "pictures" / "p10" / name for name in ("x.tfrecord", "y.tfrecord")]
  paths[0].parent.mkdir(parents=True)
  paths[0].write_bytes(b"x")
  maker.recipe = prepared.Recipe(("data.protocol",), lambda c: [], many=lambda c: map(str, paths))

  def counted(*changes):
    for change in changes:
      change()
    maker.build(), maker.build()
    return maker.count
  assert counted() == 1
  stamp = paths[0].stat().st_mtime_ns
  assert counted(lambda: paths[1].write_bytes(b"y")) == 2                       # added
  assert counted(lambda: paths[1].write_bytes(b"z!"), lambda: os.utime(paths[1], ns=(1, 1))) == 3
  assert counted(lambda: os.utime(paths[1], ns=(1, stamp + 1))) == 4
  assert counted(lambda: paths[1].write_bytes(b"y"),                            # its size alone
                 lambda: os.utime(paths[1], ns=(1, stamp + 1))) == 5
  assert counted(lambda: paths[0].rename(tmp_path / "elsewhere")) == 6          # removed


def test_code_counts(tmp_path, monkeypatch):
  from crl_jax.data import eicu, mimic
  real = pathlib.Path(prepared.__file__).parents[1]
  package = tmp_path / "crl_jax"
  shutil.copytree(real, package)
  monkeypatch.setattr(prepared, "__file__", str(package / "data" / "prepared.py"))
  digests = lambda: {cohort: prepared._code.__wrapped__(recipe.code, recipe.other_code)
                     for cohort, recipe in (("eicu", eicu.RECIPE), ("mimic", mimic.RECIPE))}

  def changed(name):
    before = digests()
    (package / name).write_text((package / name).read_text() + "\n")
    return {cohort for cohort, digest in digests().items() if digest != before[cohort]}
  folders = {path.parent.relative_to(real) for path in (real / "data").rglob("*.py")}
  for folder in folders | {pathlib.Path("backbones")}:   # a file of every folder, new ones too
    name = next(path for path in sorted((package / folder).glob("*.py"))
                if path.name not in prepared._OTHER_CODE)
    assert changed(name.relative_to(package)) == {
        "data": {"eicu", "mimic"}, "data/tables": {"eicu", "mimic"}, "data/eicu": {"eicu"},
        "data/mimic": {"mimic"}, "data/text": {"mimic"}, "data/mimic/simulated": set(),
        "backbones": {"mimic"}}[str(folder)]
  assert changed("data/simulate.py") == changed("data/mimic/verify.py") == set()
  (package / "data/mimic/new.py").write_text("")   # a file that no list names
  assert changed("data/mimic/new.py") == {"mimic"}
  before = digests()
  (package / "data/mimic/new.py").rename(package / "data/mimic/newer.py")
  assert digests()["mimic"] != before["mimic"]


def test_off_and_unknown_inputs_keep_nothing(config, maker, tmp_path):
  prepared.build(config_lib.override(config, ["data.cache="]), maker.recipe, maker.make)
  prepared.build(config, prepared.Recipe((), lambda c: None), maker.make)
  assert maker.count == 2 and not (tmp_path / "cache").exists()


def test_a_user_without_a_home_keeps_nothing(config, monkeypatch, caplog, maker):
  """As in a container: docker run --user 12345."""
  def unknown(*_):
    raise RuntimeError("Could not determine home directory.")
  for name in ("CRL_JAX_CACHE", "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pathlib.Path, "home", unknown)
  auto = config_lib.override(config, ["data.cache=auto"])
  prepared.build(auto, maker.recipe, maker.make), prepared.build(auto, maker.recipe, maker.make)
  assert maker.count == 2 and "Set CRL_JAX_CACHE to a folder" in caplog.text
  monkeypatch.setenv("CRL_JAX_CACHE", "somewhere")
  assert files.user_folder() == pathlib.Path("somewhere")


def test_auto_is_the_users_folder(config, monkeypatch, tmp_path):
  auto = config_lib.override(config, ["data.cache=auto"])
  monkeypatch.setenv("CRL_JAX_CACHE", str(tmp_path / "mine"))
  assert prepared.cache_folder(auto) == tmp_path / "mine" / "cohorts"
  assert files.user_folder() == tmp_path / "mine"
  monkeypatch.setenv("CRL_JAX_CACHE", "")
  assert prepared.cache_folder(auto) is None
  assert files.user_folder().name == "crl_jax"   # embeddings are kept always
  monkeypatch.delenv("CRL_JAX_CACHE")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  assert prepared.cache_folder(auto) == tmp_path / "xdg" / "crl_jax" / "cohorts"


@pytest.mark.parametrize("harm", [
    lambda place: (place / "rows.labels.npy").write_bytes(
        (place / "rows.labels.npy").read_bytes()[:-4] + b"\0\0\1\0"),
    lambda place: (place / "inputs.image.npy").unlink(),
    lambda place: (place / "manifest.json").write_text("{"),
    lambda place: (place / "manifest.json").unlink()])
def test_a_damaged_folder_is_made_again(config, maker, caplog, harm):
  good = cohort_lib.fingerprint(maker.build())
  place = prepared.cache_folder(config) / _folders(config)[0]
  harm(place)
  with caplog.at_level(logging.WARNING, "crl_jax"):
    again = maker.build()
  assert maker.count == 2 and cohort_lib.fingerprint(again) == good
  assert "is made again" in caplog.text
  maker.build()
  assert maker.count == 2


def test_a_full_disk_leaves_nothing_and_the_run_goes_on(config, maker, monkeypatch, caplog):
  written = []

  def full(path, array, **_):
    path.write_bytes(b"half")
    written.append(path)
    if len(written) == 3:
      raise OSError(28, "No space left on device")
  monkeypatch.setattr(cohort_lib.np, "save", full)
  with caplog.at_level(logging.WARNING, "crl_jax"):
    cohort = maker.build()
  assert len(cohort) == 60 and _folders(config) == []
  for words in ("No space left", "GiB free", "data.cache"):
    assert words in caplog.text
  monkeypatch.undo()
  maker.build()
  assert maker.count == 2 and len(_folders(config)) == 1


def test_a_really_full_disk(tmp_path):
  """A file size limit of the operating system stands for the full disk: writes fail midway."""
  code = f"""
import logging, os, resource, signal, sys
sys.path.insert(0, {str(os.getcwd())!r})
from crl_jax import config as config_lib, files
from crl_jax.data import cohort as cohort_lib, prepared, simulate
c = config_lib.default().unlock()
c.data.simulate.rows, c.data.simulate.draws, c.data.cache = 400, 16, {str(tmp_path / 'cache')!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
file = {str(tmp_path / 'in')!r}
open(file, 'w').close()
cohort = prepared.build(c, prepared.Recipe((), lambda c: [file]), lambda: simulate.build(c))
print(len(cohort), sorted(p.name for p in prepared.cache_folder(c).iterdir() if p.is_dir()))
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.stdout.strip() == "400 []", done.stderr
  assert "The cohort is not kept" in done.stderr


def test_a_folder_that_cannot_be_written_is_a_warning(config, maker, caplog, tmp_path):
  (tmp_path / "cache").write_text("a file")
  with caplog.at_level(logging.WARNING, "crl_jax"):
    assert len(maker.build()) == 60
  assert "is not kept" in caplog.text


def test_a_killed_writer_leaves_nothing_that_is_read(config, maker):
  maker.build()
  place = prepared.cache_folder(config) / _folders(config)[0]
  place.rename(place.with_name(place.name + ".part"))   # as a kill before the rename leaves it
  maker.build()
  assert maker.count == 2 and _folders(config) == [place.name]


def test_two_runs_prepare_once(config, maker):
  inside, count = [], []

  def slow():
    inside.append(1)
    assert len(inside) == 1
    time.sleep(0.2)
    inside.pop()
    count.append(1)
    return maker.make()
  found = []
  threads = [threading.Thread(target=lambda: found.append(
      prepared.build(config, maker.recipe, slow))) for _ in range(3)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert len(found) == 3 and len(count) == 1


def test_errors_of_the_source_pass_and_release_the_lock(config, maker):
  def wrong():
    raise cohort_lib.CohortError("no good")
  for _ in range(2):
    with pytest.raises(cohort_lib.CohortError, match="no good"):
      prepared.build(config, maker.recipe, wrong)
  maker.build()


def test_the_folder_is_private_and_a_source_of_its_own(config, maker):
  cohort = maker.build()
  folder = prepared.cache_folder(config)
  assert folder.stat().st_mode & 0o077 == 0
  saved = config_lib.override(config, ["data.cohort=saved",
                                       f"data.root={folder / _folders(config)[0]}"])
  assert cohort_lib.fingerprint(sources.build_cohort(saved)) == cohort_lib.fingerprint(cohort)


def test_eicu_is_kept_and_new_patients_are_not(config, maker, tmp_path, monkeypatch):
  from crl_jax.data.eicu import tables as eicu_tables
  required = sorted(n for n, t in eicu_tables.schema().items() if t.required)
  for name in required:
    (tmp_path / "files" / f"{name}.csv.gz").write_bytes(b"x")
  assert sorted(p.name.split(".")[0] for p in eicu.RECIPE.files(config)) == required
  c = config_lib.override(config, ["data.cohort=eicu"])
  monkeypatch.setattr(eicu, "build", lambda config, for_prediction=False: maker.make())
  sources.build_cohort(c), sources.build_cohort(c)
  assert maker.count == 1
  sources.build_cohort(config_lib.override(c, ["data.eicu.min_age=20"]))
  assert maker.count == 2
  sources.build_cohort(c, for_prediction=True), sources.build_cohort(c, for_prediction=True)
  assert maker.count == 4


def test_mimics_files_are_those_that_it_reads(tmp_path):
  from crl_jax.data import mimic
  from crl_jax.data.mimic import simulate as simulate_mimic
  simulate_mimic.write(config_lib.default().data.simulate, tmp_path / "files", 30, density=0.02)
  (tmp_path / "bert").mkdir()
  (tmp_path / "bert" / "config.json").write_text("{}")
  c = config_lib.override(config_lib.default(), [
      "data.cohort=mimic", f"data.root={tmp_path / 'files'}", f"text.model={tmp_path / 'bert'}"])
  names = lambda c: {p.name.split(".")[0] for p in mimic.RECIPE.files(c)}
  everything = names(c)
  assert {"patients", "chartevents", "discharge", "radiology", "config",
          "mimic-cxr-2"} <= everything and "drgcodes" not in everything
  bare = config_lib.override(c, ["data.mimic.modalities=('structured',)"])
  assert everything - names(bare) >= {"discharge", "radiology", "mimic-cxr-2"}
  assert sorted(mimic.RECIPE.many(c)) == sorted(map(str, tmp_path.glob("files/**/*.tfrecord")))
  assert mimic.RECIPE.many(bare) == []
  assert mimic.RECIPE.files(config_lib.override(c, ["data.root="])) is None
  assert mimic.RECIPE.files(config_lib.override(c, ["data.engine=bigquery"])) is None
  for key in mimic.RECIPE.keys + eicu.RECIPE.keys:
    prepared._at(c, key)
