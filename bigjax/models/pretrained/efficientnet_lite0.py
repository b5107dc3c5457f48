"""EfficientNet-Lite0 (Tan & Le 2019, in the variant of 2020 for phones), an ImageNet classifier.

What Projected GAN looks at images with: no squeeze-and-excitation, ReLU6. Names are those of the
PyTorch port by lukemelas, in which its weights are published; those were trained by TensorFlow,
hence BatchNorm's epsilon, padding that is uneven where steps are of 2, and pixels as (x - 127) /
128. BatchNorm is as after training. Products are of float32 on every backend, unless asked
otherwise: a critic needs fewer digits than a score.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.resizing import resize

Array = jax.Array
EXACT = 'highest'
EPSILON = 1e-3  # of BatchNorm
SIDE = 224  # pixels, of the images that it was trained on
ZEROS = nn.initializers.zeros  # weights come from files


@dataclasses.dataclass(frozen=True)
class Stage:
  """Blocks of one width, of which the first may halve the map."""

  width: int
  num_blocks: int
  kernel: int
  stride: int
  expansion: int
  tapped: bool = False  # whether Projected GAN looks at its maps


STAGES = (
  Stage(16, 1, 3, 1, 1),
  Stage(24, 2, 3, 2, 6, tapped=True),
  Stage(40, 2, 5, 2, 6, tapped=True),
  Stage(80, 3, 3, 2, 6),
  Stage(112, 3, 5, 1, 6, tapped=True),
  Stage(192, 4, 5, 2, 6),
  Stage(320, 1, 3, 1, 6, tapped=True),
)
TAP_WIDTHS = tuple(stage.width for stage in STAGES if stage.tapped)  # (24, 40, 112, 320)
TAP_STRIDES = (4, 8, 16, 32)  # pixels of the image for one of theirs
STEM, HEAD = 32, 1280  # channels


@dataclasses.dataclass(frozen=True)
class Layers:
  """How all convolutions and norms of the network are computed."""

  precision: Any
  kernels: Kernels
  dtype: Any

  def conv(self, x: Array, width: int, kernel: int, stride: int, name: str) -> Array:
    """A convolution without bias; XLA's SAME is TensorFlow's."""
    conv = nn.Conv(
      width, (kernel, kernel), stride, 'SAME', use_bias=False, precision=self.precision,
      kernel_init=ZEROS, dtype=self.dtype, name=name,
    )  # fmt: skip
    return conv(x)

  def depthwise(self, x: Array, kernel: int, stride: int, name: str) -> Array:
    """A convolution of each channel by itself."""
    return Depthwise(kernel, stride, self, name=name)(x)

  def norm(self, x: Array, name: str) -> Array:
    norm = nn.BatchNorm(use_running_average=True, epsilon=EPSILON, dtype=self.dtype, name=name)
    return norm(x)


class Depthwise(nn.Module):
  """A convolution of each channel by itself, without bias."""

  size: int
  stride: int
  layers: Layers

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = self.size, self.size, 1, x.shape[-1]
    kernel = self.param('kernel', ZEROS, shape, jnp.float32)
    with jax.default_matmul_precision(self.layers.precision):
      return self.layers.kernels.depthwise(x.astype(self.layers.dtype), kernel, self.stride)


class Block(nn.Module):
  """MobileNetV2's inverted residual: [B, H, W, C] -> [B, H/stride, W/stride, width]."""

  width: int
  kernel: int
  stride: int
  expansion: int
  layers: Layers

  @nn.compact
  def __call__(self, x: Array) -> Array:
    layers, wide = self.layers, x.shape[-1] * self.expansion
    h = x
    if self.expansion > 1:
      h = nn.relu6(layers.norm(layers.conv(h, wide, 1, 1, '_expand_conv'), '_bn0'))
    h = layers.depthwise(h, self.kernel, self.stride, '_depthwise_conv')
    h = nn.relu6(layers.norm(h, '_bn1'))
    h = layers.norm(layers.conv(h, self.width, 1, 1, '_project_conv'), '_bn2')
    return h + x if h.shape == x.shape else h


class Blocks(nn.Module):
  """All stages, their blocks named 0, 1, ...: [B, H, W, 32] -> maps of the tapped stages."""

  layers: Layers

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, ...]:
    taps, num = [], 0
    for stage in STAGES:
      for i in range(stage.num_blocks):
        stride = stage.stride if i == 0 else 1
        block = Block(
          stage.width, stage.kernel, stride, stage.expansion, self.layers, name=f'{num}'
        )
        x, num = block(x), num + 1
      if stage.tapped:
        taps.append(x)
    return tuple(taps)


class EfficientNetLite0(nn.Module):
  """Images [B, H, W, 3] with pixels in 0..255 -> a dictionary of what it sees of them.

  With `head`, {'features': [B, 1280], 'logits': [B, 1000]}, averages and scores of ImageNet's
  classes; without it, {'taps': maps [B, H/s, W/s, C] at TAP_STRIDES s with TAP_WIDTHS channels}, of
  the same weights but for those of the head. All float32.

  Attributes:
    side: pixels that images are resized to, as torch's bilinear `interpolate` does; None: not.
  """

  head: bool = True
  side: int | None = SIDE
  precision: Any = EXACT
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def dim(self) -> int:
    return HEAD

  @property
  def num_logits(self) -> int:
    return 1000

  @nn.compact
  def __call__(self, images: Array) -> dict[str, Any]:
    x, layers = images.astype(jnp.float32), Layers(self.precision, self.kernels, self.dtype)
    x = x if self.side is None else resize(x, self.side, 'torch_bilinear')
    x = ((x - 127) / 128).astype(self.dtype)
    x = nn.relu6(layers.norm(layers.conv(x, STEM, 3, 2, '_conv_stem'), '_bn0'))
    taps = Blocks(layers, name='_blocks')(x)
    if not self.head:
      return {'taps': tuple(tap.astype(jnp.float32) for tap in taps)}
    x = nn.relu6(layers.norm(layers.conv(taps[-1], HEAD, 1, 1, '_conv_head'), '_bn1'))
    features = x.astype(jnp.float32).mean((1, 2))
    logits = nn.Dense(self.num_logits, precision=self.precision, kernel_init=ZEROS, name='_fc')
    return {'features': features, 'logits': logits(features)}


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Weights that nobody trained: He et al.'s normal kernels, norms that change nothing.

  The same on every machine, whatever jax is installed: they are NumPy's oldest generator's, seeded
  by the tensor's name.

  Args:
    shapes: by path, of `torch_layout.shapes`.
  """

  def one(path, shape):
    if not path.endswith('kernel'):
      return np.full(shape, path.endswith(('scale', 'var')), np.float32)
    gain = 1 if '_project_conv' in path or '_fc' in path else 2  # of no ReLU behind it
    rng = np.random.RandomState(trees.stable_hash(path))
    return (rng.randn(*shape) * math.sqrt(gain / math.prod(shape[:-1]))).astype(np.float32)

  return trees.nest({path: one(path, shape) for path, shape in shapes.items()})


Trunk = functools.partial(EfficientNetLite0, head=False, side=None)
