"""Checkpoints: orbax trees, each with a SHA-256 manifest, because orbax does not notice flipped
bits in arrays."""

import hashlib
import json
import logging
import pathlib
import shutil

import jax
import numpy as np


def save(folder, step, tree, keep):
  """Writes `tree` (arrays, PRNG keys) as step `step`, then its manifest; removes all but the newest
  `keep` steps.

  A step counts only once its manifest exists, so a kill at any moment loses at most this step.
  """
  import orbax.checkpoint as ocp
  folder = pathlib.Path(folder).absolute()
  target = folder / str(step)
  folder.mkdir(parents=True, exist_ok=True)
  shutil.rmtree(target, ignore_errors=True)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(target, jax.tree.map(_to_host, tree))
    manifest = {str(path.relative_to(target)): _digest(path) for path in sorted(target.rglob("*"))
                if path.is_file()}
    part = folder / f"{step}.part"
    part.write_text(json.dumps(manifest, indent=1))
    part.rename(_manifest(folder, step))
  except (OSError, ValueError) as error:
    free = shutil.disk_usage(folder).free / 2**20
    raise OSError(f"Could not write checkpoint {target} ({free:.0f} MiB free on that disk): "
                  f"{str(error)[:300]}. Earlier checkpoints are intact; free some space and run "
                  "the same command again to resume.") from error
  for old in steps(folder)[:-keep]:
    _manifest(folder, old).unlink()
    shutil.rmtree(folder / str(old))


def restore(folder, like=None):
  """Reads the newest step that is complete and unaltered, into the structure of `like` or as a tree
  of NumPy arrays.

  Returns:
    (step, tree), or None where there is no checkpoint at all.
  Raises:
    OSError: there are checkpoints, and every one of them is damaged.
  """
  import orbax.checkpoint as ocp
  folder = pathlib.Path(folder).absolute()
  found = steps(folder)
  for step in reversed(found):
    damage = _damage(folder, step)
    if damage:
      logging.warning("Checkpoint %s is damaged (%s); trying the one before it.",
                      folder / str(step), damage)
      continue
    with ocp.StandardCheckpointer() as checkpointer:
      if like is None:
        return step, checkpointer.restore(folder / str(step))
      tree = checkpointer.restore(folder / str(step), jax.tree.map(_to_host, like))
    return step, jax.tree.map(_like, like, tree)
  if found:
    raise OSError(f"Every checkpoint in {folder} is damaged: delete that folder to train this "
                  "member again.")
  return None


def steps(folder):
  """Ascending steps that have a manifest."""
  return sorted(int(path.stem) for path in pathlib.Path(folder).glob("*.json")
                if path.stem.isdigit())


def _manifest(folder, step):
  return folder / f"{step}.json"


def _damage(folder, step):
  try:
    manifest = json.loads(_manifest(folder, step).read_text())
    wrong = [name for name, digest in manifest.items()
             if _digest(folder / str(step) / name) != digest]
  except (OSError, ValueError) as error:
    return str(error)
  return f"checksum of {wrong[0]}" if wrong else ""


def _digest(path):
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _is_key(x):
  return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _to_host(x):
  return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _like(like, value):
  if _is_key(like):
    return jax.random.wrap_key_data(np.asarray(value))
  return jax.numpy.asarray(value) if isinstance(like, jax.Array) else np.asarray(value, like.dtype)
