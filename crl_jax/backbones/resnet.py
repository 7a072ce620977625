"""Residual networks for images (He et al., CVPR 2016) whose arithmetic knows one image alone:
GroupNorm (Wu and He, ECCV 2018) and standardised weights (Qiao et al., arXiv 1903.10520) instead of
statistics of a batch, so that a row's output depends on no other row and there is no state."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

# name -> (blocks of each stage, whether they are bottlenecks)
DEPTHS = {"resnet10": ((1, 1, 1, 1), False), "resnet18": ((2, 2, 2, 2), False),
          "resnet34": ((3, 4, 6, 3), False), "resnet50": ((3, 4, 6, 3), True)}
_GROUPS = 32    # of two channels or more; a narrower stage is one group


class Conv(nn.Module):
  """A convolution (H, W, C) -> (H / stride, W / stride, features) whose kernel has mean 0 and
  variance 1 over what a feature sums. It has no bias: a norm follows."""
  features: int
  size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    shape = self.size, self.size, x.shape[-1], self.features
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    wide = kernel.astype(jnp.float32)
    wide = (wide - wide.mean((0, 1, 2))) * jax.lax.rsqrt(wide.var((0, 1, 2)) + 1e-8)
    wide = wide / math.sqrt(math.prod(shape[:3]))   # outputs are of the inputs' size
    return jax.lax.conv_general_dilated(
        x[None].astype(kernel.dtype), wide.astype(kernel.dtype), (self.stride, self.stride), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def _norm(channels):
  # of one image: no axis is a batch
  groups = _GROUPS if channels % (2 * _GROUPS) == 0 else 1
  return nn.GroupNorm(groups, reduction_axes=(-3, -2, -1))


class Block(nn.Module):
  """One residual block; a bottleneck's inner width is a quarter of its outer one."""
  features: int
  stride: int
  bottleneck: bool

  @nn.compact
  def __call__(self, x):
    inner = self.features // 4 if self.bottleneck else self.features
    sizes = (1, 3, 1) if self.bottleneck else (3, 3)
    widths = (inner, inner, self.features) if self.bottleneck else (inner, self.features)
    y = x
    for i, (size, width) in enumerate(zip(sizes, widths)):
      stride = self.stride if i == len(sizes) - 2 else 1   # of the 3x3, or the first 3x3
      y = _norm(width)(Conv(width, size, stride, name=f"conv_{i}")(y))
      y = nn.relu(y) if i < len(sizes) - 1 else y
    if x.shape != y.shape:
      x = _norm(self.features)(Conv(self.features, 1, self.stride, name="shortcut")(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  """One image (H, W, C) -> the maps of its four stages, (H / 4, W / 4, width) to (H / 32, W / 32,
  8 width), four times as many channels with bottlenecks; sides are rounded up."""
  depth: str   # a key of DEPTHS
  width: int

  @nn.compact
  def __call__(self, x):
    blocks, bottleneck = DEPTHS[self.depth]
    x = nn.relu(_norm(self.width)(Conv(self.width, 7, 2, name="stem")(x)))
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    maps = []
    for stage, count in enumerate(blocks):
      features = self.width * 2 ** stage * (4 if bottleneck else 1)
      for block in range(count):
        stride = 2 if stage and not block else 1
        x = Block(features, stride, bottleneck, name=f"stage_{stage}_{block}")(x)
      maps.append(x)
    return maps
