"""Training curves: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import logging
import pathlib
import time

from crl_jax import files

_LOG = logging.getLogger("crl_jax")
_FLUSH = 30.0   # seconds after which a TensorBoard that is open sees an epoch


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
      events.close()

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
      self._events[member] = _Events(self._folder / "events" / member, epoch)
    self._events[member].write(epoch, {k: v for k, v in clean.items() if v is not None})


class _Events:
  """TensorBoard's events of a member: pictures of what metrics.jsonl holds, so that what cannot be
  written is a warning and the last of them, no error of a run.

  They are written in the caller's thread: that of tensorboardX's SummaryWriter dies of a full disk,
  and whoever feeds it then waits for ever.
  """

  def __init__(self, folder, epoch):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog
    self._file, self._flushed = None, time.monotonic()
    with self._warned():
      folder.mkdir(parents=True, exist_ok=True)
      self._file = EventsWriter(str(folder / "events"))
    # what an earlier session wrote of this epoch and later ones is forgotten
    self._add(epoch, session_log=SessionLog(status=SessionLog.START))

  def write(self, epoch, scalars):
    from tensorboardX.proto.summary_pb2 import Summary
    self._add(epoch, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)
                                            for name, value in scalars.items()]))
    if self._file and time.monotonic() - self._flushed > _FLUSH:
      self._flushed = time.monotonic()
      with self._warned():
        self._file.flush()

  def close(self):
    if self._file:
      with self._warned():
        self._file.close()

  def _add(self, epoch, **what):
    from tensorboardX.proto.event_pb2 import Event
    if self._file:
      with self._warned():
        self._file.write_event(Event(wall_time=time.time(), step=epoch, **what))

  @contextlib.contextmanager
  def _warned(self):
    try:
      yield
    except OSError as error:
      self._file = None
      _LOG.warning("TensorBoard's events could not be written (%s).", error.strerror)


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
