"""Prepared cohorts on disk, so that the second start takes seconds.

A cohort is kept in a folder named by the SHA-256 of all that it is a function of: the content of
the files it was read from (of the X-rays' many: size and time of change), the config keys that its
module names (`Recipe`), and the code of crl_jax/data. Whatever changes, the folder is another one;
nothing is ever out of date. The folder is what data/cohort.py saves, so it can be read as a source
of its own (configs/cohort.py), and manifest.json, which holds the key's parts and the checksum of
every file.

    <cache>/<cohort>-<first 16 digits of the key>/
    <cache>/files.json       path, size, time of change -> SHA-256: only changed files are read
    <cache>/*.lock           held while a folder is written or files.json is

A folder is written beside its place and renamed when it is whole, under a lock: two runs on one
cache prepare a cohort once, and a kill or a full disk leaves nothing half written. It holds what
the source files hold: keep it as confidential as those. Old folders may be deleted at any time.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import shutil
import tempfile
import types
import typing

import numpy as np

from crl_jax import files as files_lib
from crl_jax.data import cohort as cohort_lib
from crl_jax.files import user_folder   # also known here

_LOG = logging.getLogger("crl_jax")
_ENGINES = ("duckdb", "ibis-framework", "numpy", "pyarrow")   # versions that values may depend on
# of crl_jax/data, what makes no cohort from files
_OTHER_CODE = ("prepared.py", "preprocess.py", "saved.py", "simulate.py", "sources.py", "splits.py",
               "stream.py", "tfds_builders.py")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What the cohort of a module is a function of; the module names it RECIPE.

  Attributes:
    keys: dotted names of config keys or whole subtrees; `data.root` and what only says how fast or
      where is left out.
    files: config -> the files it is read from, in the order of their tables, or None where these
      cannot be known (another engine, no root): then nothing is kept. They count by their content.
    many: config -> paths of very many small files, in an order that `files` decide. They count by
      size and time of change, or as absent: to read them would take longer than the cohort.
    code: source files besides crl_jax/data, relative to the package.
    other_code: files and folders of crl_jax/data, relative to it, that it does not depend on.
  """
  keys: tuple
  files: typing.Callable
  many: typing.Callable = lambda config: ()
  code: tuple = ()
  other_code: tuple = ()


def build(config, recipe, make):
  """Returns make(), or what an earlier make() of the same inputs, settings and code returned.

  A full disk, or a folder that cannot be written, is a warning, not the end of the run. Raises
  whatever make() does.
  """
  folder = cache_folder(config)
  files = recipe.files(config) if folder else None
  if files is None:
    return make()
  try:
    make_private(folder)
    parts = key_parts(config, recipe, files, folder)
    name = f"{config.data.cohort}-{_digest(parts)[:16]}"
    lock = _lock(folder / f"{name}.lock")
  except OSError as error:
    _LOG.warning("The cohort is not kept: %s", _why(folder, error))
    return make()
  with lock:
    found = _load(folder / name)
    if found is not None:
      _LOG.info("Prepared cohort: %s", folder / name)
      return found
    cohort = make()
    try:
      _save(cohort, folder / name, parts)
    except OSError as error:
      _LOG.warning("The cohort is not kept: %s", _why(folder, error))
      return cohort
    except TypeError as error:
      raise cohort_lib.CohortError("The cohort's info is not JSON: it cannot be kept.") from error
    _LOG.info("The prepared cohort is kept in %s (data.cache)", folder / name)
    return _load(folder / name) or cohort


def cache_folder(config):
  """The folder of config.data.cache, or None where it is off."""
  place = files_lib.kept_folder() if config.data.cache == "auto" else config.data.cache
  return pathlib.Path(place) / "cohorts" if place else None


def key_parts(config, recipe, files, folder):
  """All that the cohort is a function of, as a JSON-able tree."""
  read = list(map(pathlib.Path, files))
  sums = _hash_files(read, folder)
  return {
      **_recipe_parts(config, recipe),
      "files": [[p.name, p.stat().st_size, sums[p]] for p in read],
      "many": _stamps(list(recipe.many(config)))}


def recipe_digest(config, recipe):
  """Digest of all that the cohort is a function of besides its files."""
  return _digest(_recipe_parts(config, recipe))


def files_digest(config, recipe):
  """Digest of the files that the cohort is read from; None where these cannot be known. Raises
  OSError."""
  files = recipe.files(config)
  if files is None:
    return None
  with contextlib.ExitStack() as stack:
    folder = cache_folder(config)
    if folder is None:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    make_private(folder)
    parts = key_parts(config, recipe, files, folder)
  return _digest([parts["files"], parts["many"]])


def _recipe_parts(config, recipe):
  return {
      "cohort": config.data.cohort,
      "config": {key: _plain(_at(config, key)) for key in sorted(recipe.keys)},
      "code": _code(recipe.code, recipe.other_code),
      "versions": {name: importlib.metadata.version(name) for name in _ENGINES}}


def _save(cohort, place, parts):
  """Writes the folder `place` and its manifest: all or nothing. Raises OSError."""
  with files_lib.replaced(place, folder=True) as part:   # what a killed run left: we hold the lock
    cohort_lib.save(cohort, part)
    sums = {"cohort.json": files_lib.sha256(part / "cohort.json")}   # which holds the arrays' own
    (part / "manifest.json").write_text(json.dumps({"key": parts, "files": sums}, indent=1))
    _sync(part)
    shutil.rmtree(place, ignore_errors=True)   # a damaged one


def _load(place):
  """The cohort kept at `place`; None where there is none or it is damaged."""
  try:
    manifest = json.loads((place / "manifest.json").read_text())
    changed = [name for name, digest in manifest["files"].items()
               if files_lib.sha256(place / name) != digest]
    if changed:
      raise cohort_lib.CohortError(f"{', '.join(changed)} changed on disk")
    return cohort_lib.load(place)
  except FileNotFoundError:
    if place.exists():
      _LOG.warning("The prepared cohort %s is incomplete; it is made again.", place)
  except (OSError, ValueError, KeyError, TypeError) as error:
    _LOG.warning("The prepared cohort %s is damaged (%s); it is made again.", place, error)
  return None


def _hash_files(paths, folder):
  """path -> SHA-256; a file whose size and time of change are those of files.json is not read."""
  record = folder / "files.json"
  with _lock(folder / "files.lock"):
    known = {}
    with contextlib.suppress(OSError, ValueError):
      known = json.loads(record.read_text())
    stamp = lambda p: [p.stat().st_size, p.stat().st_mtime_ns]
    stamps = {p: stamp(p) for p in paths}
    entry = lambda p: known.get(str(p.absolute()), [None, None, None])
    new = [p for p in paths if entry(p)[:2] != stamps[p]]
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for path, digest in zip(new, pool.map(files_lib.sha256, new)):
        known[str(path.absolute())] = [*stamps[path], digest]
    if new:
      files_lib.write_json(record, known)
  return {p: entry(p)[2] for p in paths}


def _stamps(paths, at_once=4096):
  """[number of files, digest of their sizes and times of change]."""
  def stamp(part):
    found = []
    for path in part:
      try:
        stat = os.stat(path)
        found += stat.st_size, stat.st_mtime_ns
      except (FileNotFoundError, NotADirectoryError):
        found += -1, -1
    return np.array(found, np.int64).tobytes()

  digest = hashlib.sha256()
  with concurrent.futures.ThreadPoolExecutor() as pool:   # a network's disk answers several faster
    for stamps in pool.map(stamp, (paths[i:i + at_once] for i in range(0, len(paths), at_once))):
      digest.update(stamps)
  return [len(paths), digest.hexdigest()]


@functools.cache
def _code(more, other):
  """Digest of the source that makes a cohort: all of crl_jax/data but `other`, and `more`."""
  package = pathlib.Path(__file__).parents[1]
  left_out = {package / "data" / name for name in (*_OTHER_CODE, *other)}
  paths = [path for path in sorted((package / "data").rglob("*.py"))
           if left_out.isdisjoint((path, *path.parents))]
  digest = hashlib.sha256()
  for path in [*paths, *(package / name for name in more)]:
    digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()


def _at(config, key):
  for name in key.split("."):
    config = config[name]
  return config


def _plain(value):
  return value.to_dict() if hasattr(value, "to_dict") else value


def _digest(tree):
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _sync(folder):
  """Waits until the folder's files are on the disk, not only on their way."""
  for path in [*folder.iterdir(), folder]:
    handle = os.open(path, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


def make_private(folder):
  """Makes a folder, if need be, that no other user of the machine can look into."""
  folder.mkdir(parents=True, exist_ok=True)
  if folder.stat().st_mode & 0o077:
    with contextlib.suppress(OSError):
      folder.chmod(0o700)   # it holds what the source files hold


def _lock(path):
  import filelock
  lock = filelock.FileLock(str(path))
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    _LOG.warning("Another run is preparing this cohort (%s): waiting for it.", path)
    lock.acquire()
  return contextlib.closing(types.SimpleNamespace(close=lock.release))


def _why(folder, error):
  text = f"{folder}: {error.strerror or error}"
  if error.errno in (errno.ENOSPC, errno.EDQUOT):
    with contextlib.suppress(OSError):
      text += f" ({shutil.disk_usage(folder).free / 2**30:.1f} GiB free)"
  return text + ". Free space, or set data.cache to another folder (\"\" keeps nothing)."
