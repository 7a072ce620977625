"""Image files as a cohort's input of kind "image"."""

import concurrent.futures

import numpy as np

from crl_jax.data.cohort import AbsentError, CohortError


class UnreadableImage(CohortError):
  """A file that holds no image, or not a whole one; the message names it."""


def decode(paths, out, threads=8):
  """Reads image files, in their order: gray, the short side scaled to S pixels, the central square.

  Args:
    paths: sequence of n paths of PNG, JPEG, ...; 16 bits become their leading 8.
    out: (n, S, S, 1) uint8 to be filled, in memory or on disk (cohort.on_disk).
    threads: that read at once.
  Raises:
    AbsentError, UnreadableImage: by the file's name.
    CohortError: `out` is something else.
  """
  if out.dtype != np.uint8 or out.ndim != 4 or out.shape[:1] + out.shape[3:] != (len(paths), 1) or (
      out.shape[1] != out.shape[2]):
    raise CohortError(f"out is {out.dtype} {out.shape}; expected uint8 ({len(paths)}, S, S, 1).")
  def fill(i):
    out[i, ..., 0] = read_one(paths[i], out.shape[1])
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    try:
      for _ in pool.map(fill, range(len(paths))):
        pass
    except CohortError:
      pool.shutdown(cancel_futures=True)
      raise


def read_one(path, side):
  """(side, side) uint8 of an image file; raises as decode()."""
  from PIL import Image
  try:
    with Image.open(path) as image:
      if image.mode.startswith("I"):   # 16 bits, which convert() would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
      image = image.convert("L")
  except FileNotFoundError:
    raise AbsentError(f"{path} is absent: is the download complete?") from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UnreadableImage(f"{path} is no whole image ({type(error).__name__}): download or export "
                          "it again.") from None
  scale = side / min(image.size)
  image = image.resize([max(side, round(n * scale)) for n in image.size], Image.Resampling.BILINEAR)
  left, top = ((n - side) // 2 for n in image.size)
  return np.asarray(image)[top:top + side, left:left + side]
