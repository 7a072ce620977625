"""Checkpoints survive kills, flipped bits, truncation and empty folders."""

import numpy as np
import pytest

from crl_jax import checkpoint


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


def test_a_step_without_its_manifest_does_not_count(folder):
  (folder / "3.json").unlink()   # killed between the data and the manifest
  (folder / "60").mkdir()        # and a folder that is no checkpoint
  assert restored_value(folder) == 2
  checkpoint.save(folder, 3, tree(3), keep=2)
  assert restored_value(folder) == 3


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
