"""Checkpoints: orbax trees, each with a SHA-256 manifest of its files and of itself, because orbax
does not notice flipped bits in arrays."""

import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil

import flax.serialization
import jax
import numpy as np

from crl_jax import files


def save(folder, step, tree, keep, fingerprint=None):
  """Writes `tree` (of arrays) as step `step`, then its manifest; removes all but the newest
  `keep` steps.

  Of several processes the first writes. `fingerprint`, a dict of strings, says what the tree
  depends on. A step counts only once its manifest exists, so a kill at any moment loses at most
  this step.

  Raises:
    OSError: it could not be written; says why, and whether the disk is full.
  """
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(folder).absolute()
  target = folder / str(step)
  folder.mkdir(parents=True, exist_ok=True)
  shutil.rmtree(target, ignore_errors=True)
  try:
    with _checkpointer() as checkpointer:
      checkpointer.save(target, jax.tree.map(np.asarray, tree))
    sums = {str(path.relative_to(target)): files.sha256(path) for path in sorted(target.rglob("*"))
            if path.is_file()}
    manifest = {"fingerprint": fingerprint or {}, "files": sums}
    files.write_json(_manifest(folder, step), manifest | {"sha256": _digest_of(manifest)})
  except (OSError, ValueError) as error:
    code = _os_error(error)
    if code is None:      # a tree that cannot be saved, say: no disk is to blame
      raise
    why, advice = os.strerror(code), "remove the cause"
    if code in (errno.ENOSPC, errno.EDQUOT):
      free = shutil.disk_usage(folder).free / 2**20
      why, advice = f"{why}, {free:.0f} MiB free on that disk", "free some space"
    raise OSError(f"Could not write checkpoint {target}: {why}. Earlier checkpoints are intact; "
                  f"{advice} and run the same command again to resume.") from error
  for old in steps(folder)[:-keep]:
    _manifest(folder, old).unlink()
  _sweep(folder)


def _sweep(folder):
  """Removes what belongs to no manifest: steps that are not kept, and what killed saves left,
  also under orbax's own names."""
  kept = {str(step) for step in steps(folder)}
  for path in folder.iterdir():
    if path.name[0].isdigit() and path.name not in kept:
      if path.is_dir():
        shutil.rmtree(path)
      elif path.suffix == ".part":
        path.unlink()


def _os_error(error):
  """The errno of what the operating system refused, or None. tensorstore raises a ValueError for
  it that has the errno in its text alone."""
  if isinstance(error, OSError):
    return error.errno
  found = re.search(r"os_error_code='(\d+)'", str(error))
  return int(found.group(1)) if found else None


def restore(folder, like=None, fingerprint=None):
  """Reads the newest step that is complete and unaltered, into the structure of `like` or as a tree
  of NumPy arrays. Where `fingerprint` is given, that of the step must equal it.

  Returns:
    (step, tree), or None where there is no checkpoint at all.
  Raises:
    OSError: there are checkpoints, and every one of them is damaged.
    ValueError: the fingerprint differs; says in what.
  """
  folder = pathlib.Path(folder).absolute()
  found = steps(folder)
  for step in reversed(found):
    try:
      kept = _intact(folder, step)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      logging.warning("Checkpoint %s is damaged (%s %s); trying the one before it.",
                      folder / str(step), type(error).__name__, error)
      continue
    # the final parameters of version 0.1.0 have none
    changed = [k for k in fingerprint or {} if kept and kept.get(k) != fingerprint[k]]
    if changed:
      raise ValueError(f"Checkpoint {folder / str(step)} belongs to other {', '.join(changed)} "
                       "than this run: name another --workdir, or delete that folder to start "
                       "anew.")
    with _checkpointer() as checkpointer:
      if like is None:
        return step, checkpointer.restore(folder / str(step))
      return step, checkpointer.restore(folder / str(step), jax.tree.map(np.asarray, like))
  if found:
    raise OSError(f"Every checkpoint in {folder} is damaged: delete that folder to train "
                  "again.")
  return None


def plain(tree):
  """`tree` with its dataclasses as dicts, as a tree that is read without a `like` has them."""
  return flax.serialization.to_state_dict(tree)


def _checkpointer():
  """One process reads or writes alone: every process holds the whole tree."""
  import orbax.checkpoint as ocp
  mine = jax.process_index()
  return ocp.StandardCheckpointer(multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"process{mine}"))


def steps(folder):
  """Ascending steps that have a manifest."""
  return sorted(int(path.stem) for path in pathlib.Path(folder).glob("*.json")
                if path.stem.isdigit())


def _manifest(folder, step):
  return folder / f"{step}.json"


def _intact(folder, step):
  """The fingerprint of a step. Raises one of many errors where it is not as it was written."""
  manifest = json.loads(_manifest(folder, step).read_text())
  if manifest.pop("sha256") != _digest_of(manifest):
    raise ValueError("checksum of the manifest")
  for name, digest in manifest["files"].items():
    if files.sha256(folder / str(step) / name) != digest:
      raise ValueError(f"checksum of {name}")
  return manifest["fingerprint"]


def _digest_of(manifest):
  return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
