"""Vectors on disk: whole files from any number of processes, and what survives damage."""

import errno
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from crl_jax.data.text import vectors

ROOT = pathlib.Path(__file__).parents[3]


def keys(*numbers):
  """Keys that agree in all but one byte."""
  result = np.zeros((len(numbers), 32), np.uint8)
  result[:, 20] = numbers
  return result


def spread_keys(numbers):
  return np.random.default_rng(0).integers(0, 256, (256, 32)).astype(np.uint8)[list(numbers)]


def filled(numbers, width=3):
  return np.arange(width, dtype=np.float32) + np.array(numbers, np.float32)[:, None]


def test_what_is_added_is_found_by_this_and_by_later_processes(tmp_path):
  store = vectors.Vectors(tmp_path / "new" / "folder", 3)
  store.refresh()
  assert not store.find(spread_keys([1]))[0].any()
  for part in ([1, 2], [3], range(4, 60)):
    store.add(spread_keys(part), filled(part))
  assert (tmp_path / "new" / "folder").stat().st_mode & 0o077 == 0
  other = vectors.Vectors(tmp_path / "new" / "folder", 3)
  for reader in (store, other):
    reader.refresh()
    hit, found = reader.find(spread_keys([59, 100, 3, 1, 3]))
    assert hit.tolist() == [True, False, True, True, True]
    np.testing.assert_array_equal(found[hit], filled([59, 3, 1, 3]))
    assert (found[~hit] == 0).all()


def test_a_key_is_compared_whole(tmp_path):
  store = vectors.Vectors(tmp_path, 3)
  store.add(keys(1), filled([1]))
  store.refresh()
  assert store.find(keys(1))[0].all() and not store.find(keys(2))[0].any()


def test_damage_is_noticed_told_and_mended(tmp_path, caplog):
  store = vectors.Vectors(tmp_path, 3)
  store.add(spread_keys([1, 2]), filled([1, 2]))
  path, = tmp_path.glob("*.npy")
  content = bytearray(path.read_bytes())
  content[-8] ^= 4   # in the vector of 2
  path.write_bytes(content)
  store = vectors.Vectors(tmp_path, 3)
  store.refresh()
  hit, _ = store.find(spread_keys([1, 2]))
  assert hit.tolist() == [True, False] and "damaged" in caplog.text
  store.add(spread_keys([2]), filled([2]))
  store = vectors.Vectors(tmp_path, 3)
  store.refresh()
  hit, found = store.find(spread_keys([1, 2]))   # the newer one counts
  assert hit.all()
  np.testing.assert_array_equal(found, filled([1, 2]))


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_a_file_that_is_none_is_left_out_and_told(tmp_path, caplog, content):
  store = vectors.Vectors(tmp_path, 3)
  store.add(spread_keys([1]), filled([1]))
  whole, = tmp_path.glob("*.npy")
  (tmp_path / "0.npy").write_bytes(whole.read_bytes()[:-9] if content is None else content)
  vectors.Vectors(tmp_path, 4).add(spread_keys([2]), filled([2], 4))   # of another width
  store.refresh()
  assert store.find(spread_keys([1, 2]))[0].tolist() == [True, False]
  assert "0.npy is damaged" in caplog.text


def test_a_full_disk_keeps_what_was_there_and_says_how_much_is_free(tmp_path, monkeypatch):
  store = vectors.Vectors(tmp_path, 3)
  store.add(spread_keys([1]), filled([1]))
  def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")
  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="GiB") as error:
      store.add(spread_keys([2]), filled([2]))
  assert "config.text.cache" in str(error.value) and str(tmp_path) in str(error.value)
  assert not list(tmp_path.glob("*.part"))
  store.refresh()
  assert store.find(spread_keys([1, 2]))[0].tolist() == [True, False]


def test_abandoned_parts_are_removed_and_young_ones_kept(tmp_path):
  old, young = tmp_path / "a.part", tmp_path / "b.part"
  for path in (old, young):
    path.write_bytes(b"x")
  os.utime(old, (time.time() - 10 ** 6,) * 2)
  vectors.Vectors(tmp_path, 3)
  assert not old.exists() and young.exists()


def test_processes_write_into_one_folder_at_once(tmp_path):
  code = ("import sys, numpy as np; from crl_jax.data.text import vectors\n"
          "store = vectors.Vectors(sys.argv[1], 3); which = int(sys.argv[2])\n"
          "every = np.random.default_rng(0).integers(0, 256, (256, 32)).astype(np.uint8)\n"
          "for i in range(40):\n"
          "  n = [(i * 3 + which) % 120]\n"
          "  store.add(every[n], np.arange(3, dtype=np.float32) + np.array(n, np.float32))\n"
          "  store.refresh()\n"
          "  assert store.find(every[n])[0].all()\n")
  started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(which)], cwd=ROOT)
             for which in (0, 1)]
  assert [p.wait() for p in started] == [0, 0]
  store = vectors.Vectors(tmp_path, 3)
  store.refresh()
  wanted = sorted({(i * 3 + which) % 120 for i in range(40) for which in (0, 1)})
  hit, found = store.find(spread_keys(wanted))
  assert hit.all() and len(list(tmp_path.iterdir())) == 80
  np.testing.assert_array_equal(found, filled(wanted))
