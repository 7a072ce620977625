"""A run folder's files: whole, private, and what the manifest says was written."""

import errno
import json
import os
import pathlib
import random
import stat

import pandas as pd
import pytest

from crl_jax import files

NAMES = ("config.json", "data.json", "predictions.parquet")


@pytest.fixture
def folder(tmp_path):
  """A finished run's folder."""
  files.write_json(tmp_path / "config.json", {"seed": 0})
  files.write_json(tmp_path / "data.json", {"rows": 2, "versions": {"crl_jax": "0.2.0"}})
  with files.replaced(tmp_path / "predictions.parquet") as part:
    pd.DataFrame({"p": [0.25, 0.75]}).to_parquet(part)
  files.finish(tmp_path, NAMES, {"test": {"auroc": 0.5}})
  return tmp_path


def test_a_finished_run_is_read_as_it_was_written(folder):
  config, metrics = files.of_finished(folder, "config.json", "metrics.json")
  assert config == {"seed": 0} and metrics == {"test": {"auroc": 0.5}}
  assert files.read(folder / "predictions.parquet").p.tolist() == [0.25, 0.75]


@pytest.mark.parametrize("name", [*NAMES, "metrics.json", "manifest.json"])
def test_no_flipped_bit_is_read(folder, name):
  content, rng = (folder / name).read_bytes(), random.Random(0)
  for _ in range(40):
    damaged = bytearray(content)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    (folder / name).write_bytes(damaged)
    with pytest.raises(OSError, match=f"{name} is absent or damaged.*Delete {name}"):
      files.of_finished(folder, *NAMES, "metrics.json")
  (folder / name).write_bytes(content)
  files.of_finished(folder, *NAMES, "metrics.json")


@pytest.mark.parametrize("content", ["null", "[]", "{}", "3", '"', "[" * 100_000])
@pytest.mark.parametrize("sealed", [True, False])
def test_json_of_another_shape_is_refused(folder, content, sealed):
  if not sealed:
    files.begin(folder)
  (folder / "config.json").write_text(content)
  with pytest.raises(OSError, match="config.json is absent or damaged"):
    files.read(folder / "config.json")


def test_a_run_without_a_manifest_is_one_of_a_version_before(folder):
  (folder / "manifest.json").unlink()
  with pytest.raises(OSError, match="no manifest.json.*Delete its metrics.json"):
    files.of_finished(folder, "config.json")
  files.write_json(folder / "data.json", {"rows": 2, "versions": {"crl_jax": "0.1.0"}})
  assert files.of_finished(folder, "config.json") == [{"seed": 0}]


def test_what_is_written_later_is_sealed_too(folder):
  files.write_json(folder / "explain.json", {"rows": 1})
  files.seal(folder, "explain.json")
  assert files.read(folder / "explain.json") == {"rows": 1}
  (folder / "explain.json").write_text('{"rows": 2}')
  with pytest.raises(OSError, match="explain.json is absent or damaged"):
    files.read(folder / "explain.json")


def test_nobody_else_may_look(tmp_path):
  old = os.umask(0o022)
  try:
    files.make_private(tmp_path / "a" / "run")
    with files.replaced(tmp_path / "a" / "run" / "file") as part:
      part.write_text("ids")
    mode = lambda path: stat.S_IMODE(path.stat().st_mode)
    assert mode(tmp_path / "a" / "run") == 0o700
    assert mode(tmp_path / "a" / "run" / "file") == 0o600
    (tmp_path / "shared").mkdir()
    files.make_private(tmp_path / "shared")   # somebody's choice
    assert mode(tmp_path / "shared") == 0o755
  finally:
    os.umask(old)


def test_a_failed_write_leaves_what_was_there(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")
  with pytest.raises(KeyError), files.replaced(path) as part:
    part.write_text("new")
    raise KeyError
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_its_place(tmp_path):
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  with pytest.raises(OSError, match="could not write .*file: No space.*MiB free.*Free some space"):
    with files.replaced(tmp_path / "file"):
      raise full
  with pytest.raises(OSError, match="^told already. Free some space$"):   # is not told twice
    with files.replaced(tmp_path / "file"):
      raise OSError("told already. Free some space")


def test_damaged_curves_are_left_out_and_told_of(tmp_path, caplog):
  record = {"member": "a", "stage": "joint", "epoch": 1, "val/loss": 0.5, "train/loss": None}
  good = json.dumps(record).encode()
  lines = [good, b"null", good.replace(b"epoch", b"epoci"), b"\xff" + good, b'{"member": 1}', good,
           good[:20]]
  (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
  assert files.history(tmp_path) == [record, record]
  assert "4 damaged lines are left out" in caplog.text


def write(path, content):
  """A file, or a folder with one file in it; content None: the disk fills while it is written."""
  with files.replaced(path, folder=not path.suffix) as part:
    file = part if path.suffix else part / "inside"
    file.write_text(content or "half")
    if content is None:
      raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["table.json", "folder"])
def test_what_failed_leaves_nothing_and_says_why(tmp_path, name, monkeypatch):
  with pytest.raises(OSError, match="No space left"):
    write(tmp_path / name, None)
  assert not list(tmp_path.iterdir())
  write(tmp_path / name, "whole")
  file, = (p for p in tmp_path.rglob("*") if p.is_file())
  assert file.read_text() == "whole" and [p.name for p in tmp_path.iterdir()] == [name]

  def refuse(*_, **__):
    raise OSError(5, "Input/output error")
  with monkeypatch.context() as patch:   # a disk that does not even remove
    patch.setattr(pathlib.Path, "unlink", refuse)
    patch.setattr(files.shutil.os, "rmdir", refuse)
    with pytest.raises(OSError, match="No space left"):
      write(tmp_path / name, None)
  assert file.read_text() == "whole"


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path):
  path = tmp_path / "x.json"
  files.write_json(path, {"a": 1})
  with pytest.raises(ValueError, match="JSON"):
    files.write_json(path, {"a": float("nan")})
  assert files.read(path) == {"a": 1}
  files.write_json(path, {"a": 2})
  assert files.read(path) == {"a": 2} and [p.name for p in tmp_path.iterdir()] == ["x.json"]
