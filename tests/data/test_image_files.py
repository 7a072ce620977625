"""Image files become a cohort's pixels, or are refused by name."""

import numpy as np
import pytest
from PIL import Image

from crl_jax.data import cohort as cohort_lib, images


@pytest.fixture
def ramp():
  """(24, 40) uint8, brighter to the right."""
  return np.tile(np.arange(40, dtype=np.uint8) * 6, (24, 1))


def test_files_are_scaled_and_cut_to_the_middle(ramp, tmp_path):
  Image.fromarray(ramp).save(tmp_path / "gray.png")
  Image.fromarray(np.repeat(ramp[..., None], 3, 2)).save(tmp_path / "color.png")
  Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
  Image.fromarray(ramp.T.copy()).save(tmp_path / "tall.png")
  paths = [tmp_path / f"{name}.png" for name in ("gray", "color", "deep", "tall")]
  out = cohort_lib.on_disk(tmp_path / "c")("xray", (4, 12, 12, 1), np.uint8)
  images.decode(paths, out)
  # half the size: columns 8 to 31 of 40 are the middle
  expected = ramp[:, 8:32].astype(float).reshape(12, 2, 12, 2).mean((1, 3))
  for found in (*out[:3], out[3].transpose(1, 0, 2)):
    np.testing.assert_allclose(found[..., 0], expected, atol=2)
  assert isinstance(out, np.memmap) and out.dtype == np.uint8


def test_a_size_that_is_asked_for_is_kept(ramp, tmp_path):
  Image.fromarray(ramp).save(tmp_path / "a.png")
  np.testing.assert_array_equal(images.read_one(tmp_path / "a.png", 24), ramp[:, 8:32])


def test_what_is_no_image_is_refused_by_its_name(ramp, tmp_path):
  Image.fromarray(ramp).save(tmp_path / "a.png")
  whole = (tmp_path / "a.png").read_bytes()
  (tmp_path / "cut.png").write_bytes(whole[:len(whole) // 2])
  (tmp_path / "text.png").write_bytes(b"a note")
  for name in ("cut.png", "text.png"):
    with pytest.raises(images.UnreadableImage, match=f"{name} is no whole image"):
      images.decode([tmp_path / "a.png", tmp_path / name], np.zeros((2, 8, 8, 1), np.uint8))
  with pytest.raises(cohort_lib.AbsentError, match="b.png is absent"):
    images.decode([tmp_path / "b.png"], np.zeros((1, 8, 8, 1), np.uint8))
  for wrong in (np.zeros((1, 8, 8, 1), np.float32), np.zeros((2, 8, 8, 1), np.uint8),
                np.zeros((1, 8, 9, 1), np.uint8)):
    with pytest.raises(ValueError, match=r"expected uint8 \(1, S, S, 1\)"):
      images.decode([tmp_path / "a.png"], wrong)
