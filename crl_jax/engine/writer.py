"""Training curves: metrics.jsonl and TensorBoard events."""

import json
import logging
import pathlib

from crl_jax import files

_LOG = logging.getLogger("crl_jax")


class Writer:
  """Appends one record per epoch to metrics.jsonl and mirrors its scalars to TensorBoard events.

  Used as a context manager. Keys of a record: member, stage, epoch (counted over the member's
  stages) and scalars.
  """

  def __init__(self, folder):
    self._path = pathlib.Path(folder) / "metrics.jsonl"
    self._events = {}
    self._folder = pathlib.Path(folder)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for events in self._events.values():
      try:
        events.close()
      except OSError as unwritten:   # pictures of what metrics.jsonl holds; no error of a run
        _LOG.warning("TensorBoard's events could not be written (%s).", unwritten.strerror)

  def rewind(self, epoch):
    """Forgets records past `epoch`: those a killed run wrote after its last checkpoint."""
    kept = [r for r in files.history(self._folder) if r["epoch"] <= epoch]
    with files.replaced(self._path) as part:
      part.write_text("".join(json.dumps(r) + "\n" for r in kept))

  def write(self, member, stage, epoch, scalars):
    """Appends a record; `scalars` maps names to floats, NaN written as null."""
    clean = {k: (v if v == v and abs(v) != float("inf") else None) for k, v in scalars.items()}
    try:
      with self._path.open("a") as file:
        file.write(json.dumps({"member": member, "stage": stage, "epoch": epoch, **clean}) + "\n")
    except OSError as error:
      files.raise_if_full(self._path, error)
      raise
    if member not in self._events:
      from tensorboardX import SummaryWriter
      self._events[member] = SummaryWriter(str(self._folder / "events" / member), purge_step=epoch)
    for name, value in clean.items():
      if value is not None:
        self._events[member].add_scalar(name, value, epoch)


class Silent:
  """A Writer of a process that is not the one to write."""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def rewind(self, epoch):
    pass

  def write(self, member, stage, epoch, scalars):
    pass
