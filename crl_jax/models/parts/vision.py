"""Encoder of an image: uint8 pixels (H, W, C) -> a token (D,). In training every row sees its image
rotated, shifted, enlarged, mirrored and cropped at random, on the device, by its own key."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from crl_jax.backbones import resnet


@dataclasses.dataclass(frozen=True)
class View:
  """How pixels are looked at: the keys of config.vision, all but `width`."""
  crop: int
  mean: tuple
  sd: tuple
  rotation: float
  translation: float
  scale: tuple
  flip: bool


def central(x, view):
  """(side, side, C) the center of the pixels (H, W, C); `side` is view.crop, or what there is."""
  side = min(view.crop, *x.shape[:2])
  top, left = ((n - side) // 2 for n in x.shape[:2])
  return x[top:top + side, left:left + side]


def augment(x, key, view):
  """(side, side, C) float32 of one image's pixels (H, W, C), seen through one random affine map;
  black where the map leaves the image."""
  side = min(view.crop, *x.shape[:2])
  angle, down, right, size, flip, top, left = jax.random.uniform(key, (7,))
  either = lambda u: 2 * u - 1
  angle = jnp.deg2rad(view.rotation) * either(angle)
  size = view.scale[0] + (view.scale[1] - view.scale[0]) * size
  mirror = jnp.where(view.flip & (flip < 0.5), -1.0, 1.0)
  shift = jnp.stack([view.translation * n * either(u) + (n - side) / 2 * either(v)
                     for n, u, v in zip(x.shape[:2], (down, right), (top, left))])
  # from a pixel of the result, counted from its center, back to one of the image
  i, j = jnp.mgrid[:side, :side] - (side - 1) / 2
  j = mirror * j
  row = (jnp.cos(angle) * i - jnp.sin(angle) * j) / size + shift[0] + (x.shape[0] - 1) / 2
  column = (jnp.sin(angle) * i + jnp.cos(angle) * j) / size + shift[1] + (x.shape[1] - 1) / 2
  return bilinear(x, row, column)


def bilinear(x, row, column):
  """(..., C) float32 of the pixels (H, W, C) at real-valued places; 0 outside."""
  x, top, left = jnp.asarray(x), jnp.floor(row), jnp.floor(column)
  found = 0.0
  for i, down in ((top, 1 - (row - top)), (top + 1, row - top)):
    for j, right in ((left, 1 - (column - left)), (left + 1, column - left)):
      inside = (i >= 0) & (i < x.shape[0]) & (j >= 0) & (j < x.shape[1])
      near = (jnp.clip(at, 0, n - 1).astype(jnp.int32) for at, n in zip((i, j), x.shape))
      found += (down * right * inside)[..., None] * x[tuple(near)].astype(jnp.float32)
  return found


def scaled(x, view):
  """Pixels 0..255 (..., C) as (x / 255 - mean) / sd; float32."""
  of = lambda three: jnp.array(three if x.shape[-1] == 3 else [sum(three) / 3])
  return (x / 255.0 - of(view.mean)) / of(view.sd)


class ImageEncoder(nn.Module):
  """A residual network, the mean over the places of its last map, and a projection."""
  width: int
  depth: str      # a key of resnet.DEPTHS
  channels: int   # of the first stage
  view: View

  @nn.compact
  def __call__(self, x, noise):
    seen = central(x, self.view) if noise is None else augment(x, noise.key(), self.view)
    last = resnet.ResNet(self.depth, self.channels, name="resnet")(scaled(seen, self.view))[-1]
    return nn.LayerNorm()(nn.Dense(self.width)(last.mean((0, 1))))
