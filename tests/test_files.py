"""What is written is there whole or not at all."""

import pathlib

import pytest

from crl_jax import files


def write(path, content):
  """A file, or a folder with one file in it; content None: the disk fills while it is written."""
  with files.replaced(path) as part:
    if path.suffix:
      file = part
    else:
      part.mkdir()
      file = part / "inside"
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
