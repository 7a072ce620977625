"""Checkpoints survive kills, flipped bits, truncation and empty folders."""

import contextlib
import resource

import numpy as np
import pytest

from crl_jax.engine import checkpoint


def tree(value):
  return {"params": {"kernel": np.full((64, 64), value, np.float32)},
          "rng": np.array([0, value], np.uint32),
          "count": np.int64(2 ** 40 + value), "none": None}


@pytest.fixture
def folder(tmp_path):
  for step in (1, 2, 3):
    checkpoint.save(tmp_path, step, tree(step), keep=2)
  return tmp_path


def largest_file(folder):
  return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def restored_value(folder):
  step, found = checkpoint.restore(folder, tree(0))
  assert found["params"]["kernel"][0, 0] == step and found["count"] == 2 ** 40 + step
  assert found["rng"].tolist() == [0, step] and found["none"] is None
  return step


def test_the_newest_step_comes_back_and_only_some_are_kept(folder):
  assert restored_value(folder) == 3
  assert checkpoint.steps(folder) == [2, 3]
  assert not (folder / "1").exists()
  assert checkpoint.restore(folder / "absent", tree(0)) is None


def test_restores_without_a_structure(folder):
  _, found = checkpoint.restore(folder)
  assert found["params"]["kernel"].dtype == np.float32


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_step_is_passed_over(folder, damage, caplog):
  file = largest_file(folder / "3")
  if damage == "flip":
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
  elif damage == "truncate":
    file.write_bytes(file.read_bytes()[:-10])
  elif damage == "remove":
    file.unlink()
  else:
    for f in (folder / "3").rglob("*"):
      f.is_file() and f.unlink()
  assert restored_value(folder) == 2
  assert "damaged" in caplog.text


def test_a_byte_flipped_anywhere_in_a_manifest_is_noticed(tmp_path):
  """Also in what it says of the run: that would look like another config."""
  fingerprint = {"config": "0123", "data": "4567"}
  for step in (1, 2):
    checkpoint.save(tmp_path, step, tree(step), 2, fingerprint)
  manifest = tmp_path / "2.json"
  good = manifest.read_bytes()
  for at in [*range(200), *range(200, len(good), 29)]:
    manifest.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
    assert checkpoint.restore(tmp_path, tree(0), fingerprint)[0] == 1, good[at - 9:at + 9]
  for other in (b"", b"[]", b"1", b"{}", b'{"fingerprint": {}, "files": {}}'):
    manifest.write_bytes(other)
    assert checkpoint.restore(tmp_path, tree(0), fingerprint)[0] == 1, other
  manifest.write_bytes(good)
  assert checkpoint.restore(tmp_path, tree(0), fingerprint)[0] == 2


def test_a_step_without_its_manifest_does_not_count(folder):
  (folder / "3.json").unlink()   # killed between the data and the manifest
  (folder / "60").mkdir()        # and a folder that is no checkpoint
  assert restored_value(folder) == 2
  checkpoint.save(folder, 3, tree(3), keep=2)
  assert restored_value(folder) == 3


def test_what_killed_saves_left_is_removed_by_the_next_good_one(folder):
  for name in ("7", "8.orbax-checkpoint-tmp-12"):   # killed before its manifest; in orbax's hands
    (folder / name / "d").mkdir(parents=True)
  (folder / "7.part").write_text("{}")
  (folder / "2.json").unlink()       # killed between dropping a manifest and its step
  (folder / "final").mkdir()
  checkpoint.save(folder, 9, tree(9), keep=2)
  assert {p.name for p in folder.iterdir()} == {"3", "3.json", "9", "9.json", "final"}
  assert restored_value(folder) == 9


def test_all_damaged_is_an_error_that_names_the_folder(folder):
  for step in (2, 3):
    largest_file(folder / str(step)).write_bytes(b"")
  with pytest.raises(OSError, match=str(folder)):
    checkpoint.restore(folder, tree(0))


def test_another_fingerprint_is_refused_by_name(tmp_path):
  checkpoint.save(tmp_path, 1, tree(1), 1, {"config": "a", "data": "b"})
  assert checkpoint.restore(tmp_path, tree(0), {"config": "a", "data": "b"})[0] == 1
  with pytest.raises(ValueError, match="belongs to other data than"):
    checkpoint.restore(tmp_path, tree(0), {"config": "a", "data": "c"})


def test_a_tree_that_cannot_be_saved_is_not_blamed_on_the_disk(folder):
  with pytest.raises(ValueError) as error:
    checkpoint.save(folder, 4, {"name": np.array(["a"])}, keep=2)
  assert "Unsupported data type" in str(error.value) and "space" not in str(error.value)
  assert restored_value(folder) == 3


@contextlib.contextmanager
def small_files_only():
  """The operating system refuses to write past 100 kB of a file."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_operating_system_refuses_is_told(folder):
  big = {"kernel": np.random.default_rng(0).normal(size=(256, 256))}
  with small_files_only(), pytest.raises(OSError) as error:
    checkpoint.save(folder, 4, big, keep=2)
  text = str(error.value)
  assert f"{folder / '4'}: File too large. Earlier checkpoints are intact" in text
  assert "free" not in text and "run the same command again" in text
  assert restored_value(folder) == 3


@pytest.mark.parametrize("refusal", [
    OSError(28, "No space left on device"),
    # as tensorstore says it
    ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device "
               "[os_error_code='28']")])
def test_a_full_disk_is_told_with_what_to_do(folder, monkeypatch, refusal):
  class Full:
    def save(self, *_):
      raise refusal
  monkeypatch.setattr(checkpoint, "_checkpointer", lambda: contextlib.nullcontext(Full()))
  with pytest.raises(OSError, match="No space left on device, [0-9]+ MiB free on that disk.*"
                                    "intact; free some space and run"):
    checkpoint.save(folder, 4, tree(4), keep=2)
  monkeypatch.undo()
  assert restored_value(folder) == 3
