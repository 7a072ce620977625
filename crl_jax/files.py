"""The files of a run folder: written whole or not at all, private, and checked when they are read:
what is absent or damaged is named, with the way to have it again."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import pathlib
import shutil
import tokenize
import zipfile

_LOG = logging.getLogger("crl_jax")
_UNSEALED = ("", "0.1.0")   # versions of crl_jax whose runs have no manifest

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
def replaced(path, folder=False):
  """Yields a path beside `path`: an empty file to write, or a `folder` to fill, which other users of
  the machine cannot read. It takes the place of `path` once it is whole, and is gone where writing
  it failed. Raises OSError that says which folder is full, where one is."""
  path = pathlib.Path(path)
  part = path.with_name(path.name + ".part")
  try:
    if part.exists():   # of a killed process, with its own mode
      _remove(part)
    part.mkdir(mode=0o700) if folder else part.touch(0o600)
    yield part
    part.replace(path)
  except BaseException as error:
    with contextlib.suppress(OSError):   # what went wrong first is what is told
      _remove(part)
    if isinstance(error, OSError):
      raise_if_full(path, error)
    raise


def _remove(path):
  shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def raise_if_full(path, error):
  """Raises an OSError that names the place and its free space where `error` says that the disk of
  `path` is full."""
  if error.errno not in (errno.ENOSPC, errno.EDQUOT) or "Free some space" in str(error):
    return
  raise OSError(error.errno, f"could not write {path}: {os.strerror(error.errno)}"
                f"{free_space(path)}. Free some space and run the same command again") from error


def free_space(path):
  """', 12 MiB free on that disk'; '' where nobody knows."""
  folder = next((p for p in pathlib.Path(path).absolute().parents if p.exists()), None)
  with contextlib.suppress(OSError):
    return f", {shutil.disk_usage(folder).free / 2**20:.1f} MiB free on that disk"
  return ""


def user_folder():
  """The folder for all that is kept for the user: $CRL_JAX_CACHE or ~/.cache/crl_jax. None, with a
  warning, for a user without a home, as in a container."""
  if place := os.environ.get("CRL_JAX_CACHE"):
    return pathlib.Path(place)
  if place := os.environ.get("XDG_CACHE_HOME"):
    return pathlib.Path(place) / "crl_jax"
  try:
    return pathlib.Path.home() / ".cache" / "crl_jax"
  except RuntimeError:
    _LOG.warning("This user has no home folder: nothing is kept for the next run. Set CRL_JAX_CACHE "
                 "to a folder to keep prepared cohorts and embeddings of notes.")
    return None


def kept_folder():
  """`user_folder`, or None where CRL_JAX_CACHE is empty: then nothing is kept for the next command
  but what took hours, embeddings of notes."""
  return None if os.environ.get("CRL_JAX_CACHE") == "" else user_folder()


def make_private(folder):
  """Makes a folder and its parents, if need be, that no other user of the machine can look into; one
  that was there keeps its mode."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def write_json(path, tree):
  """Writes `tree`, all of it or nothing; NaN is refused, because it is not JSON."""
  with replaced(path) as part:
    part.write_text(_text(tree))


def _text(tree):
  return json.dumps(tree, indent=1, allow_nan=False)


def load_array(path, mode=None):
  """The NumPy array in a file, mapped where `mode` is "r"; no pickle is read. Raises OSError, or
  ValueError for all that a damaged header makes of np.load()."""
  import numpy as np
  try:
    return np.load(path, allow_pickle=False, mmap_mode=mode)
  except (ArithmeticError, EOFError, LookupError, SyntaxError, TypeError, tokenize.TokenError
          ) as error:
    raise ValueError(f"{path.name}: {type(error).__name__}") from error


def sha256(path):
  """The digest of a file's content, 64 hex digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def finish(folder, names, metrics):
  """Ends a run: manifest.json, with the SHA-256 of its files `names`, and metrics.json, whose
  presence says that the run is finished."""
  digests = {name: sha256(folder / name) for name in names}
  digests["metrics.json"] = hashlib.sha256(_text(metrics).encode()).hexdigest()
  _write_manifest(folder, digests)
  write_json(folder / "metrics.json", metrics)


def begin(folder):
  """Forgets the manifest of a run that goes on: its files will be others."""
  (folder / "manifest.json").unlink(missing_ok=True)


def seal(folder, name):
  """Adds a file that was written after the end of a run to its manifest."""
  digests = _manifest(folder)
  if digests is not None:
    _write_manifest(folder, digests | {name: sha256(folder / name)})


def listed(folder):
  """Names of the files that a finished run's manifest holds; none of a run without one."""
  return set(_manifest(pathlib.Path(folder)) or ())


def _write_manifest(folder, digests):
  write_json(folder / "manifest.json", {"files": digests, "sha256": _digest_of(digests)})


def _manifest(folder):
  """File name -> SHA-256; None where a run has no manifest. Raises OSError for a damaged one."""
  path = folder / "manifest.json"
  if not path.exists():
    return None
  try:
    found = json.loads(path.read_text())
    if found["sha256"] != _digest_of(found["files"]):
      raise ValueError("checksum")
    return found["files"]
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise OSError(_damaged(path, error)) from error


def _digest_of(digests):
  return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def history(folder):
  """The records of metrics.jsonl, in order; lines that a kill cut short or that are damaged are left
  out, the latter with a warning: curves are no results."""
  path, records, damaged = pathlib.Path(folder) / "metrics.jsonl", [], 0
  lines = path.read_bytes().split(b"\n") if path.exists() else []
  for i, line in enumerate(lines):
    try:
      record = json.loads(line)
      if not all(isinstance(record[key], kind) for key, kind in (
          ("member", str), ("stage", str), ("epoch", int))) or not all(
          value is None or isinstance(value, (int, float, str)) for value in record.values()):
        raise ValueError
      records.append(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
      damaged += i < len(lines) - 1   # the last one may be cut short
  if damaged:
    _LOG.warning("%s: %d damaged lines are left out of the training curves.", path, damaged)
  return records


def of_finished(workdir, *names):
  """The contents of a finished run's files `names`, in their order. Raises OSError where the run is
  not finished, and as read()."""
  workdir = pathlib.Path(workdir)
  if not (workdir / "metrics.json").exists():
    raise OSError(f"{workdir} is not a finished run (no metrics.json): run crl_jax.main on it "
                  "until it prints its table.")
  if not (workdir / "manifest.json").exists():
    versions = read(workdir / "data.json").get("versions", {})
    if versions.get("crl_jax", "") not in _UNSEALED:
      raise OSError(f"{workdir} has no manifest.json, so nobody can tell whether its files are as "
                    "they were written. Delete its metrics.json and run the same main command "
                    "again: what was trained is kept.")
  return [read(workdir / name) for name in names]


def read(path):
  """The DataFrame of a .parquet file, the arrays by name of a .npz file, the JSON object of any
  other. Raises OSError where it is absent, damaged, or not what the manifest beside it says was
  written."""
  path = pathlib.Path(path)
  digest = (_manifest(path.parent) or {}).get(path.name)
  try:
    content = path.read_bytes()
    if digest not in (None, hashlib.sha256(content).hexdigest()):
      raise ValueError("not what was written")
    if path.suffix == ".parquet":
      import pandas as pd
      return pd.read_parquet(io.BytesIO(content))
    if path.suffix == ".npz":
      import numpy as np
      with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
    tree = json.loads(content)
    if not isinstance(tree, dict) or not tree:
      raise ValueError("no JSON object")
    return tree
  except (OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
    # without what was read: it may be a patient's
    raise OSError(_damaged(path, error)) from error


def _damaged(path, error):
  names = " and ".join(dict.fromkeys((path.name, "metrics.json")))
  why = error.args[0] if type(error) is ValueError else type(error).__name__
  return (f"{path} is absent or damaged ({why}). Delete {names} there and run the same main command "
          "again: what was trained is kept.")
