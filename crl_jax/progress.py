"""What a command is doing and how long it will take: a bar on a terminal, elsewhere lines of the
log (a file, SLURM's), one in 30 seconds at most."""

import contextlib
import logging
import sys
import time

PAUSE = 30.0   # seconds between two lines of a stage

_LOG = logging.getLogger("crl_jax")


@contextlib.contextmanager
def stage(name, total=None, stream=None):
  """Around a stage of a command. Yields update(done, text=""): `done` of `total` units are, and
  what there is to say of them."""
  stream = stream or sys.stderr
  if stream.isatty():
    with _bar(name, total, stream) as update:
      yield update
    return
  lines = _Lines(name, total)
  _tell(f"{name} ...")
  yield lines.update
  lines.end()


class _Lines:
  """A stage that is told in lines."""

  def __init__(self, name, total):
    self._name, self._total = name, total
    self._began = self._told = time.monotonic()
    self._last = None
    self._first = None   # units that were done when the stage began, of a run that goes on

  def update(self, done, text=""):
    now = time.monotonic()
    self._first = done if self._first is None else self._first
    last, self._last = done == self._total and self._last != done, done   # of many members, once
    if not text or now - self._told < PAUSE and not last:
      return
    self._told, new = now, done - self._first
    left = (now - self._began) / new * (self._total - done) if new and self._total else None
    _tell(f"{self._name}: {text}"
          + (f" ({done} of {self._total}, {duration(left)} left)" if left else ""))

  def end(self):
    seconds = time.monotonic() - self._began
    if seconds > 1:
      _tell(f"{self._name}: done in {duration(seconds)}")


def _tell(line):
  """To the log; where nobody has set one up, as in a notebook, to the screen."""
  if _LOG.isEnabledFor(logging.INFO):
    _LOG.info(line)
  elif _LOG.level == logging.NOTSET:
    print(line, file=sys.stderr, flush=True)


def duration(seconds):
  """'41 s', '12 min', '3.4 h'."""
  return (f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000
          else f"{seconds / 3600:.1f} h")


@contextlib.contextmanager
def _bar(name, total, stream):
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
  columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
             TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
  if total is None:   # nobody knows how much there is
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
  with Progress(*columns, console=Console(file=stream)) as bar:
    task = bar.add_task(name, total=total)
    yield lambda done, text="": bar.update(task, completed=done, description=text or name)
