"""Training curves (metrics.jsonl and TensorBoard events) and the progress bar of a run."""

import contextlib
import json
import pathlib
import sys

from crl_jax import files


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
    with self._path.open("a") as file:
      file.write(json.dumps({"member": member, "stage": stage, "epoch": epoch, **clean}) + "\n")
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


@contextlib.contextmanager
def progress_bar(total, stream=sys.stderr):
  """Yields update(done, text) for a bar over `total` units with an ETA; silent where
  `stream` is no terminal.
  """
  if not stream.isatty():
    yield lambda done, text: None
    return
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
  columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
             TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
  with Progress(*columns, console=Console(file=stream)) as bar:
    task = bar.add_task("starting", total=total)
    yield lambda done, text: bar.update(task, completed=done, description=text)
