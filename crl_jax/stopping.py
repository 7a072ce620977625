"""What SIGTERM and SIGINT (Ctrl-C) do: a command stops cleanly and says how to go on."""

import contextlib
import gc
import shlex
import signal
import sys


class Interrupted(BaseException):
  """Raised where a signal asks for a stop. As KeyboardInterrupt, it passes what handles errors."""


class Stop:
  """What a SIGTERM or SIGINT does: it stops at once, or in after_epoch() is kept for who asks. A
  second one acts as if nobody were listening."""

  def __init__(self):
    self.at_once = True
    self._received = 0
    self._waiting = False   # for an alarm, because the signal came where a stop would be lost

  def __call__(self):
    """The number of the signal received, or 0."""
    return self._received

  def handle(self, number, frame):
    """The signal handler."""
    if self._received:
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)
    self._received = number
    self.act(signal.SIGALRM, frame)

  def act(self, _, frame):
    """What a signal does, and the handler of the alarm that repeats it. (A signal of the same
    number sent again could not be told from a second one.)"""
    if not self.at_once:
      print("\nStopping after this epoch; once more stops at once.", file=sys.stderr, flush=True)
    elif _loses(frame):
      self._waiting = True
      signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
      raise Interrupted

  def end(self):
    """What still waits comes too late."""
    if self._waiting:
      signal.setitimer(signal.ITIMER_REAL, 0)

  @contextlib.contextmanager
  def after_epoch(self):
    """Here a signal waits until somebody asks; where nobody did, it stops the run in the end."""
    self.at_once = False
    yield
    self.at_once = True
    if self._received:
      self.end()
      raise Interrupted


def _loses(frame):
  """Whether Python would print what is raised in `frame` and go on (finalizers, callbacks of weak
  references and of garbage collection, where JAX collects too), or leave an event loop half made
  (orbax reads and writes in one)."""
  called = {getattr(callback, "__code__", None) for callback in gc.callbacks}
  while frame is not None:
    module = frame.f_globals.get("__name__", "").partition(".")[0]
    if (frame.f_code in called or frame.f_code.co_name == "__del__"
        or module in ("asyncio", "weakref", "_weakrefset")):
      return True
    frame = frame.f_back
  return False


@contextlib.contextmanager
def signals():
  """Yields a Stop that SIGTERM and SIGINT go to."""
  stop = Stop()
  try:
    before = {number: signal.signal(number, handler) for number, handler in (
        (signal.SIGTERM, stop.handle), (signal.SIGINT, stop.handle), (signal.SIGALRM, stop.act))}
  except ValueError:   # not the main thread (some notebooks): no handler, no harm
    before = {}
  try:
    yield stop
  finally:
    stop.end()
    for number, old in before.items():
      signal.signal(number, old)


@contextlib.contextmanager
def cleanly(module):
  """Around what `python -m module` does: a signal ends the program with the command to repeat.
  Yields the Stop."""
  with signals() as stop:
    try:
      yield stop
    except Interrupted:
      print("\nStopped. To do it again, run the same command:\n  "
            f"{shlex.join(['python', '-m', module, *sys.argv[1:]])}", flush=True)
      sys.exit(128 + stop())
