"""What a command is doing and how long it will take: a bar on a terminal, elsewhere lines of the
log (a file, SLURM's), one in 30 seconds at most."""

import contextlib
import json
import logging
import re
import sys
import time

from crl_jax import files

PAUSE = 30.0   # seconds between two lines of a stage

_LOG = logging.getLogger("crl_jax")
_plan = None   # of the command that runs


@contextlib.contextmanager
def plan(names):
  """Around a command's stages `names`, which follow one another: the time that is told as left
  counts those to come. Yields the `Plan`, to be told the size of the work.

  What they will take is what they took in the last command on this machine (files.kept_folder()),
  for each unit of size.
  """
  global _plan
  before, _plan = _plan, Plan(names)
  try:
    yield _plan
  finally:
    _plan.save()
    _plan = before


class Plan:
  """The stages of a command, and what each takes.

  Attributes:
    size: how many units (rows) they work on; None until it is known.
  """

  def __init__(self, names):
    self._names, self.size = tuple(names), None
    folder = files.kept_folder()
    self._path = folder / "stages.json" if folder else None
    self._each, self._new = {}, {}     # stage -> seconds a unit
    # absent or damaged, it tells nothing
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
      self._each = {k: float(v) for k, v in json.loads(self._path.read_text()).items()}

  def after(self, name):
    """(seconds, untimed): what the stages after `name` will take, and those of which nobody knows.
    """
    names = self._names[self._names.index(name) + 1:] if name in self._names else ()
    known = {n for n in names if self.size and _kind(n) in self._each}
    return (sum(self.size * self._each[_kind(n)] for n in known),
            [n for n in names if n not in known])

  def took(self, name, seconds):
    """To be remembered of a stage."""
    if self.size and name in self._names:
      self._new.setdefault(_kind(name), []).append(seconds / self.size)

  def save(self):
    """Keeps it for the next command."""
    if self._path and self._new:
      each = {**self._each, **{k: sum(v) / len(v) for k, v in self._new.items()}}
      with contextlib.suppress(OSError):     # a guess is no reason to fail
        files.make_private(self._path.parent)
        files.write_json(self._path, each)


def _kind(name):
  """The stage of whatever fold."""
  return re.sub(r"\d+", "#", name)


@contextlib.contextmanager
def stage(name, total=None, stream=None):
  """Around a stage of a command. Yields update(done, text=""): `done` of `total` units are, and
  what there is to say of them."""
  stream = stream or sys.stderr
  later, untimed = _plan.after(name) if _plan else (0.0, [])
  began = time.monotonic()
  if stream.isatty():
    with _bar(name, total, stream, later, untimed) as update:
      yield update
  else:
    lines = _Lines(name, total, later, untimed)
    _tell(f"{name} ...")
    yield lines.update
    lines.end()
  if _plan:
    _plan.took(name, time.monotonic() - began)


class _Lines:
  """A stage that is told in lines."""

  def __init__(self, name, total, later, untimed):
    self._name, self._total, self._later = name, total, later
    self._untimed = f" and what comes then: {', '.join(untimed)}" if untimed else ""
    self._told = time.monotonic()
    self._last = None
    # Since when, and from how many done on: the stage's beginning, of a run that goes on too, and
    # the end of the first unit. That one compiles.
    self._began, self._steady = [self._told, None], None

  def update(self, done, text=""):
    now = time.monotonic()
    if self._began[1] is None:
      self._began[1] = done
    elif self._steady is None and done > self._began[1]:
      self._steady = now, done
    last, self._last = done == self._total and self._last != done, done   # of many members, once
    if not text or now - self._told < PAUSE and not last:
      return
    self._told = now
    steady = self._steady is not None and done > self._steady[1]
    since, before = self._steady if steady else self._began
    if not self._total or not before < done < self._total:
      return _tell(f"{self._name}: {text}")
    left = (now - since) / (done - before) * (self._total - done)
    _tell(f"{self._name}: {text} ({done} of {self._total}, {'' if steady else 'at most '}"
          f"{duration(left + self._later)} left{self._untimed})")

  def end(self):
    seconds = time.monotonic() - self._began[0]
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
def _bar(name, total, stream, later, untimed):
  from rich.console import Console
  from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
  from rich.text import Text

  class Left(ProgressColumn):
    max_refresh = 0.5

    def render(self, task):
      left = task.time_remaining
      return Text("ETA " + ("-" if left is None else duration(left + later))
                  + (" +" if untimed else ""))

  columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
             TimeElapsedColumn(), Left())
  if total is None:   # nobody knows how much there is
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
  with Progress(*columns, console=Console(file=stream)) as bar:
    task = bar.add_task(name, total=total)
    yield lambda done, text="": bar.update(task, completed=done, description=text or name)
