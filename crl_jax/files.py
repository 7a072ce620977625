"""The files of a run folder: written whole or not at all; what is absent or damaged is named, with
the way to have it again."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil


def expanded(path):
  """The text `path` with the user's home folder for its '~', which no shell expands after a '='.

  Raises ValueError where there is no such home folder.
  """
  found = os.path.expanduser(path)
  if found.startswith("~"):
    raise ValueError(f"{path}: the home folder of its '~' is not known. Write the whole path, or "
                     f"./{path} for a name that begins so.")
  return found


@contextlib.contextmanager
def replaced(path):
  """Yields a path beside `path` to write a file or make a folder at; it takes the place of `path`
  once it is whole, and is gone where writing it failed."""
  part = path.with_name(path.name + ".part")
  try:
    yield part
    part.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):   # what went wrong first is what is told
      shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink()
    raise


def write_json(path, tree):
  """Writes `tree`, all of it or nothing; NaN is refused, because it is not JSON."""
  with replaced(path) as part:
    part.write_text(json.dumps(tree, indent=1, allow_nan=False))


def sha256(path):
  """The digest of a file's content, 64 hex digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def history(folder):
  """The records of metrics.jsonl, in order; a line cut short by a kill is left out."""
  path = pathlib.Path(folder) / "metrics.jsonl"
  records = []
  for line in path.read_text().splitlines() if path.exists() else []:
    with contextlib.suppress(json.JSONDecodeError):
      records.append(json.loads(line))
  return records


def of_finished(workdir, *names):
  """The contents of a finished run's files `names`, in their order. Raises OSError where the run is
  not finished, and as read()."""
  workdir = pathlib.Path(workdir)
  if not (workdir / "metrics.json").exists():
    raise OSError(f"{workdir} is not a finished run (no metrics.json): run crl_jax.main on it "
                  "until it prints its table.")
  return [read(workdir / name) for name in names]


def read(path):
  """The DataFrame of a .parquet file, the JSON tree of any other. Raises OSError where it is absent
  or damaged."""
  try:
    if path.suffix == ".parquet":
      import pandas as pd
      return pd.read_parquet(path)
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:   # without what was read: it may be a patient's
    names = " and ".join(dict.fromkeys((path.name, "metrics.json")))
    raise OSError(f"{path} is absent or damaged ({type(error).__name__}). Delete {names} there and "
                  "run the same main command again: what was trained is kept.") from error
