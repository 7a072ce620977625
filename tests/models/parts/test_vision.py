"""Images: what the random view does to pixels, and what the network may know."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import config as config_lib
from crl_jax.backbones import resnet
from crl_jax.models.parts import encoders, noise, vision

STILL = vision.View(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 0.0, 0.0, (1.0, 1.0), False)


@pytest.fixture(scope="module")
def pixels():
  return np.random.default_rng(0).integers(0, 256, (8, 8, 2)).astype(np.uint8)


def views(x, view, count=16):
  keys = jax.random.split(jax.random.key(0), count)
  return np.asarray(jax.jit(jax.vmap(lambda key: vision.augment(x, key, view)))(keys))


def test_a_view_that_moves_nothing_shows_the_image(pixels):
  for found in views(pixels, STILL, 2):
    np.testing.assert_allclose(found, pixels, atol=1e-3)
  assert views(pixels, STILL, 2).dtype == np.float32
  np.testing.assert_array_equal(
      vision.central(pixels, dataclasses.replace(STILL, crop=4)), pixels[2:6, 2:6])


def test_half_of_the_views_are_mirrored_where_asked(pixels):
  found = views(pixels, dataclasses.replace(STILL, flip=True))
  same, mirrored = (np.abs(found - x).max((1, 2, 3)) < 1e-2 for x in (pixels, pixels[:, ::-1]))
  assert (same ^ mirrored).all() and 3 < same.sum() < 13


def test_a_crop_lies_anywhere_within_the_image(pixels):
  wide = np.zeros((8, 8, 1), np.uint8)
  wide[...] = np.arange(8)[:, None, None] * 20 + np.arange(8)[None, :, None]
  found = views(wide, dataclasses.replace(STILL, crop=4), 64)
  corner = found[:, 0, 0, 0]
  top, left = corner // 20, corner % 20   # of a plane, bilinear values are exact
  assert (found >= 0).all() and corner.min() < 25 and corner.max() > 60
  np.testing.assert_allclose(found[:, -1, -1, 0] - corner, 63, atol=1e-2)   # three rows and columns
  assert top.min() >= -1e-3 and top.max() <= 4.001 and np.ptp(left) > 2


def test_rotation_shift_and_scale_are_one_inverse_map(pixels, monkeypatch):
  """Against NumPy: a quarter turn, a shift by whole pixels, twice the size; black outside."""
  def draw(**at):
    u = np.full(7, 0.5, np.float32)   # nothing moves
    for i, value in at.items():
      u[int(i[1])] = value
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.array(u))
  turn = dataclasses.replace(STILL, rotation=90.0)
  draw(u0=0.0)
  np.testing.assert_allclose(vision.augment(pixels, None, turn), np.rot90(pixels), atol=1e-2)
  draw(u1=1.0)
  found = np.asarray(vision.augment(pixels, None, dataclasses.replace(STILL, translation=0.25)))
  np.testing.assert_allclose(found[:6], pixels[2:], atol=1e-2)
  assert not found[6:].any()
  draw()
  found = vision.augment(pixels, None, dataclasses.replace(STILL, scale=(2.0, 2.0)))
  at = 3.5 + (np.arange(8) - 3.5) / 2
  low, share = np.floor(at).astype(int), (at % 1)[:, None, None]
  rows = (1 - share) * pixels[low] + share * pixels[low + 1]
  share = share.transpose(1, 0, 2)
  np.testing.assert_allclose(found, (1 - share) * rows[:, low] + share * rows[:, low + 1],
                             atol=1e-2)


@pytest.fixture(scope="module")
def encoder(pixels):
  """(module, parameters) of the small network."""
  c = config_lib.default().unlock()
  c.model.width, c.vision.width, c.vision.crop, c.encoders.image = 8, 4, 8, "resnet10"
  made = encoders.ENCODERS["image"](c).make()
  return made, jax.jit(lambda: made.init(jax.random.key(0), pixels, None))()


def test_training_sees_another_view_in_every_step_and_evaluation_the_center(encoder, pixels):
  made, params = encoder
  bits = np.random.default_rng(0).integers(0, 65536, (2, 4)).astype(np.uint16)
  apply = jax.jit(jax.vmap(lambda b: made.apply(params, pixels, noise.Noise(b))))
  a, b = np.asarray(apply(bits))
  still = jax.jit(lambda: made.apply(params, pixels, None))()
  assert np.abs(a - b).max() > 1e-3 and np.abs(a - still).max() > 1e-3
  np.testing.assert_array_equal(a, np.asarray(apply(bits))[0])


def test_its_arithmetic_is_that_of_its_parameters(encoder, pixels):
  made, params = encoder
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  found = jax.jit(lambda p: made.apply(p, pixels, None))(half)
  assert found.dtype == jnp.bfloat16 and np.isfinite(found.astype(np.float32)).all()


def test_a_mean_is_taken_where_there_are_not_three_channels():
  view = dataclasses.replace(STILL, mean=(0.1, 0.2, 0.6), sd=(1.0, 2.0, 3.0))
  three, one = (np.asarray(vision.scaled(jnp.full((2, 2, c), 255.0), view)) for c in (3, 1))
  np.testing.assert_allclose(three[0, 0], [0.9, 0.4, 0.4 / 3], rtol=1e-5)
  np.testing.assert_allclose(one[0, 0], [0.7 / 2], rtol=1e-5)


@pytest.mark.parametrize("depth, count", [("resnet18", 11_174_000), ("resnet34", 21_282_000),
                                          ("resnet50", 23_501_000)])
def test_networks_have_the_sizes_of_the_paper(depth, count):
  """Without the last layer, to 0.5 per cent: torchvision's have 11.18, 21.28 and 23.51 million."""
  net = resnet.ResNet(depth, 64)
  shape = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((64, 64, 3)))
  assert sum(x.size for x in jax.tree.leaves(shape)) == pytest.approx(count, rel=0.005)


def test_maps_get_smaller_and_wider():
  net = resnet.ResNet("resnet10", 4)
  maps = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((40, 24, 1)))[0]
  assert [m.shape for m in maps] == [(10, 6, 4), (5, 3, 8), (3, 2, 16), (2, 1, 32)]


def test_weights_have_no_scale_and_no_mean():
  conv, x = resnet.Conv(3, 3, 2), np.random.default_rng(0).normal(size=(8, 6, 2)).astype(np.float32)
  params = conv.init(jax.random.key(0), x)
  found = conv.apply(params, x)
  assert found.shape == (4, 3, 3)
  np.testing.assert_allclose(
      conv.apply(jax.tree.map(lambda p: 3 * p + 1, params), x), found, atol=1e-5)
  flat = conv.apply(params, np.full_like(x, 5))[1:-1, 1:-1]   # within, a sum of weights
  np.testing.assert_allclose(flat, 0, atol=1e-4)
