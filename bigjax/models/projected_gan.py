"""Projected GAN's discriminators (Sauer et al. 2021), on mixed features of a frozen network.

Maps of four scales are mixed across channels (CCM) and, from the deepest up, across scales (CSM),
by 1x1 convolutions that are drawn at random once and never trained; then there is a small
discriminator at every scale, all with spectral norm, of which networks know nothing. The official
code enlarges maps before it mixes them, which is the same and four times the work, and gives its
discriminators as many layers as if images had 256 px whatever they have. So do we from 224 px on;
smaller features are judged by as many as they have room for.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import trees
from bigjax.nn.convolution import mean_pool
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import BatchNorm, Embed, TorchConv, TorchDense
from bigjax.nn.resizing import resize

Array = jax.Array
ZEROS = nn.initializers.zeros
NUM_SCALES = 4
BN_EPS = 1e-5
NOMINAL = 256  # pixels, of the images that discriminators are laid out for
LEAST_NOMINAL = 224  # and of those that are taken for such
END = 8  # pixels of the nominal maps that are scored, by windows of 4
# Channels of a discriminator's maps by their nominal resolution, at `width` 64.
WIDTHS = ((8, 512), (16, 256), (32, 128), (64, 64), (128, 64))


# --- The projection


class Mix(nn.Module):
  """A 1x1 convolution that nobody trains, of weights that `random_projection` draws."""

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param('kernel', ZEROS, (1, 1, x.shape[-1], self.features), jnp.float32)
    bias = self.param('bias', ZEROS, (self.features,), jnp.float32)
    return jnp.einsum('bhwc,cf->bhwf', x, kernel[0, 0].astype(x.dtype)) + bias[None, None, None]


class Projection(nn.Module):
  """Four maps [B, H / 2^i, W / 2^i, C_i] -> as many, each twice as high and wide, mixed.

  The deepest last, as given. Those returned have as many channels as `mixed_widths` says.
  """

  width: int = 64

  @nn.compact
  def __call__(self, taps: Sequence[Array]) -> tuple[Array, ...]:
    crossed = [Mix(self.width * 2**i, name=f'layer{i}_ccm')(tap) for i, tap in enumerate(taps)]
    found, x = [], None
    for i, (one, features) in reversed(
      list(enumerate(zip(crossed, self.mixed_widths, strict=True)))
    ):
      x = Mix(features, name=f'layer{i}_csm')(one if x is None else x + one)
      x = resize(x, 2 * x.shape[1], 'torch_bilinear_corners')  # of square maps
      found.append(x)
    return tuple(found[::-1])

  @property
  def mixed_widths(self) -> tuple[int, ...]:
    """Channels of what is returned: each scale leaves half, but for the first."""
    return (self.width, *(self.width * 2**i // 2 for i in range(1, NUM_SCALES)))


def random_projection(shapes: Any) -> Any:
  """Parameters of a Projection as torch's layers begin: U(-a, a) with a = inputs^-1/2.

  The same on every machine, whatever jax is installed: they are NumPy's oldest generator's, seeded
  by the tensor's name.

  Args:
    shapes: of the parameters, a tree.
  """
  flat = trees.flat(shapes)

  def one(path, shape):
    inputs = flat[path.rpartition('/')[0] + '/kernel'].shape[2]
    u = np.random.RandomState(trees.stable_hash(path)).random_sample(shape)
    return ((2 * u - 1) / math.sqrt(inputs)).astype(np.float32)

  return trees.nest({path: one(path, leaf.shape) for path, leaf in flat.items()})


# --- Discriminators


class Down(nn.Module):
  """[B, H, W, C] -> [B, H/2, W/2, features]: convolution, BatchNorm, leaky ReLU.

  `separable`: a 3x3 convolution of each channel and one that mixes them, then 2x2 means.
  """

  features: int
  separable: bool = False
  group: int | None = None
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    how = {'kernels': self.kernels, 'dtype': self.dtype}
    if self.separable:
      plain = {'use_bias': False, **how}
      x = TorchConv(x.shape[-1], 3, padding=1, depthwise=True, **plain, name='depthwise')(x)
      x = TorchConv(self.features, 1, **plain, name='pointwise')(x)
    else:
      x = TorchConv(self.features, 4, 2, 1, **how, name='conv')(x)
    norm = BatchNorm(self.features, self.group, BN_EPS, self.dtype, name='bn')
    x = nn.leaky_relu(norm(x, norm.moments(x, train)), 0.2)
    return mean_pool(x) if self.separable else x


class SingleDiscriminator(nn.Module):
  """(Maps [B, s, s, C], y, train) -> a score for each window of the last map [B, num], float32.

  Attributes:
    start: nominal resolution of the maps: they are halved until it is END.
    widths: channels by nominal resolution.
    num_classes: 1: y is not looked at, otherwise windows are compared with an embedding of it.
  """

  start: int
  widths: tuple[tuple[int, int], ...]
  num_classes: int = 1
  embedding: int = 128
  cmap: int = 64
  separable: bool = False
  group: int | None = None
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, y: Array, train: bool) -> Array:
    how, widths = {'kernels': self.kernels, 'dtype': self.dtype}, dict(self.widths)
    size = self.start
    while size > END:
      size //= 2
      down = Down(widths[size], self.separable, self.group, **how, name=f'down_{size}')
      x = down(x, train)
    conditional = self.num_classes > 1
    cls = TorchConv(self.cmap if conditional else 1, 4, use_bias=False, **how, name='cls')
    x = trees.at_least_float32(cls(x))
    if conditional:
      e = Embed(self.num_classes, self.embedding, nn.initializers.normal(1.0), name='embed')(y)
      e = nn.leaky_relu(TorchDense(self.cmap, x.dtype, name='embed_proj')(e), 0.2)
      x = (x * e[:, None, None]).sum(-1) * self.cmap**-0.5
    return x.reshape(x.shape[0], -1)


class Discriminator(nn.Module):
  """(Four maps of a Projection, y, train) -> all scores [B, num] of an image, float32.

  Attributes:
    side: pixels of the images that the features are of: see `starts`.
    width: WIDTHS are for 64.
  """

  side: int
  num_classes: int = 1
  width: int = 64
  separable: bool = False
  bn_group: int | None = None
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[Array], y: Array, train: bool) -> Array:
    widths = tuple((size, channels * self.width // 64) for size, channels in WIDTHS)
    scores = []
    for i, (x, start) in enumerate(zip(maps, starts(self.side), strict=True)):
      single = SingleDiscriminator(
        start, widths, self.num_classes, separable=self.separable, group=self.bn_group,
        kernels=self.kernels, dtype=self.dtype, name=f'mini_discs_{i}',
      )  # fmt: skip
      scores.append(single(x, y, train))
    return jnp.concatenate(scores, 1)


def starts(side: int) -> tuple[int, ...]:
  """Nominal resolutions of the four maps of images of a side: (128, 64, 32, 16) from 224 px on."""
  nominal = NOMINAL if side >= LEAST_NOMINAL else side
  return tuple(nominal // 2 ** (i + 1) for i in range(NUM_SCALES))


def normalised(path: str, leaf: Any) -> bool:
  """Whether a tensor of a discriminator or of FastGAN has spectral norm: spectral_norm.Spec.

  All kernels, but for that which an embedding goes through.
  """
  del leaf
  return path.endswith('/kernel') and '/embed_proj/' not in path
