"""Errors of other libraries while data are read: told by their kind and place alone, as their text
may quote a patient's row."""

import contextlib
import pathlib

from crl_jax.data.cohort import CohortError

# They see numbers and token ids, never a row: what they say of memory or of a model is needed.
_BLIND = ("crl_jax.backbones.", "crl_jax.processes.", "jax.", "jaxlib.", "flax.", "transformers.",
          "tokenizers.")


@contextlib.contextmanager
def plain(tell):
  """Turns an error whose text is not crl_jax's own into a CohortError.

  Args:
    tell: (error, kind) -> the message; kind is like "ValueError at mimic/stays.py:25".
  """
  try:
    yield
  except Exception as error:
    frames = list(_frames(error))
    if _is_known(error, frames[-1]):
      raise
    own = [f"{pathlib.Path(f.tb_frame.f_code.co_filename).name}:{f.tb_lineno}" for f in frames
           if _module(f).startswith("crl_jax.")]
    message = tell(error, " at ".join([type(error).__name__, *own[-1:]]))
    raise CohortError(message) from None


def _frames(error):
  frame = error.__traceback__
  while frame:
    yield frame
    frame = frame.tb_next


def _module(frame):
  """"jax.numpy." of a frame in jax.numpy."""
  return frame.tb_frame.f_globals.get("__name__", "") + "."


def _is_known(error, frame):
  """Whether the text of the error, which came from `frame`, holds no value of the data: it is our
  own by its type, the system's, or of code that sees none."""
  if isinstance(error, (CohortError, AssertionError, MemoryError)):
    return True
  if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.errno:
    return True
  return _module(frame).startswith(_BLIND)
