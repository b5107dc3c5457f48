"""BigBiGAN's encoders and joint discriminator (Donahue & Simonyan 2019); its generator is BigGAN's.

The encoders are the ResNet-50 (v2) and RevNet-50 of Kolesnikov et al. 2019, the code that RevNets
are taken from, and begin as those do; a perceptron with two skip connections follows. Of the
authors' own code nothing is public: how the perceptrons' blocks are put together is ours, as are
the encoders of 14 layers and the stem for images of 64 px and less, which neither strides nor
pools.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn import residual
from bigjax.nn.convolution import mean_pool
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  BatchNorm,
  Dense,
  Initializer,
  glorot,
  orthogonal,
  pooled,
  remat,
)

Array = jax.Array

# Units of each stage, and whether they are reversible.
ENCODERS = {
  'resnet50': ((3, 4, 6, 3), False),
  'resnet101': ((3, 4, 23, 3), False),
  'revnet50': ((3, 4, 6, 3), True),
  'resnet14': ((1, 1, 1, 1), False),
  'revnet14': ((1, 1, 1, 1), True),
}
EXPANSION = 4  # of a bottleneck: channels around its 3x3 convolution, to those in it
SMALL = 64  # pixels a side up to which the stem keeps the resolution
ENC_LAYERS, DISC_LAYERS = 4, 8  # of the perceptrons
UNARIES = ('x', 'z')  # scores of one part of a pair alone


class ResidualMLP(nn.Module):
  """Vectors [B, n] -> [B, width], positive or 0: blocks of two linear layers with a skip each.

  As in the discriminator's blocks, ReLUs come before the layers, but not before the first, and a
  skip that changes the width is linear.
  """

  width: int
  layers: int
  dtype: Any = jnp.float32
  initializer: Initializer = orthogonal

  @nn.compact
  def __call__(self, x: Array) -> Array:
    dense = functools.partial(Dense, self.width, dtype=self.dtype, initializer=self.initializer)
    x = x.astype(self.dtype)
    for i in range(self.layers // 2):
      h = nn.relu(x) if i else x
      h = dense(name=f'blocks_{i}_2')(nn.relu(dense(name=f'blocks_{i}_1')(h)))
      if x.shape[1] != self.width:
        x = dense(use_bias=False, name=f'blocks_{i}_sc')(x)
      x = x + h
    return nn.relu(x)


# --- Encoders ------------------------------------------------------------------------------------


class StridedConv(nn.Module):
  """Convolution without a bias, padded evenly: as many pixels out as in, over the stride."""

  features: int
  size: int
  stride: int = 1
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', glorot(), shape, jnp.float32)
    before = (self.size - 1) // 2
    pad = (before, self.size - 1 - before)
    padding = 'SAME' if self.stride == 1 else (pad, pad)
    return self.kernels.conv(x.astype(self.dtype), kernel, self.stride, padding)


class Bottleneck(nn.Module):
  """BatchNorm, ReLU and convolution three times (He et al. 2016, v2), 1x1, 3x3 and 1x1.

  With `skip`, its input is added, by a linear map of the first activations where sizes differ.
  """

  features: int
  stride: int
  skip: bool
  bn_group: int | None
  bn_eps: float
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    conv = functools.partial(StridedConv, kernels=self.kernels, dtype=self.dtype)
    inner = self.features // EXPANSION

    def activated(h, name):
      norm = BatchNorm(h.shape[-1], self.bn_group, self.bn_eps, self.dtype, name=name)
      return nn.relu(norm(h, norm.moments(h, train)))

    h = first = activated(x, 'bn1')
    h = conv(inner, 1, name='conv1')(h)
    h = conv(inner, 3, self.stride, name='conv2')(activated(h, 'bn2'))
    h = conv(self.features, 1, name='conv3')(activated(h, 'bn3'))
    if not self.skip:
      return h
    if self.stride > 1 or x.shape[-1] != self.features:
      x = conv(self.features, 1, self.stride, name='conv_sc')(first)
    return x + h


def reversible(unit: nn.Module, x: Array, train: bool) -> Array:
  """(x1, x2) -> (x2, x1 + unit(x2)) of the halves of the channels (Gomez et al. 2017).

  From what comes out, what went in can be computed: x2 is there, x1 a difference. Nothing here
  does that: see `remat` of Encoder.
  """
  x1, x2 = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([x2, x1 + unit(x2, train)], axis=-1)


def halved(x: Array) -> Array:
  """Maps of half the resolution, and of twice the channels: zeros on either side."""
  quarter = x.shape[-1] // 2
  return jnp.pad(mean_pool(x), ((0, 0), (0, 0), (0, 0), (quarter, quarter)))


class Encoder(nn.Module):
  """Images [B, r, r, channels] in [-1, 1] -> (features [B, num_features], mean, deviation of z).

  `mean` and `deviation` [B, z_dim] are of the normal law of z given an image; features are what
  probes look at: the last maps, averaged. `ch` is the stem's width in a ResNet, 64 as published,
  256 for four times as wide; a RevNet's stem has four times that. In training it sows `moments`,
  else it reads `stats`.

  With `remat` the backward pass computes stem and units again, from their inputs; of a RevNet, from
  the input of each stage. That is not its inversion (Gomez et al. 2017), which would keep the last
  maps alone and cost a gradient of our own. Other fields as in `models.biggan.Generator`.
  """

  resolution: int
  encoder: str = 'resnet50'
  ch: int = 64
  z_dim: int = 120
  mlp: int = 4096
  bn_group: int | None = None
  bn_eps: float = 1e-5
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """The width of the features."""
    return self.ch * EXPANSION * 2 ** (len(ENCODERS[self.encoder][0]) - 1)

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
    stages, is_reversible = ENCODERS[self.encoder]
    unit = remat(Bottleneck, self.remat, static=(2,))
    norms, how = (self.bn_group, self.bn_eps), (self.kernels, self.dtype)
    small, width = x.shape[1] <= SMALL, self.ch * EXPANSION
    size, stride = (3, 1) if small else (7, 2)

    def stem(_, x):
      h = StridedConv(width if is_reversible else self.ch, size, stride, *how, name='stem')(x)
      if small:
        return h
      # zeros around it, which the code pads with
      return nn.max_pool(jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))

    def reversible_stage(i):
      # Units are computed again one by one within it, or all of a stage would be there at once.
      def stage(_, h):
        for j in range(stages[i]):
          half = unit(h.shape[-1] // 2, 1, False, *norms, *how, name=f'stages_{i}_{j}')
          h = reversible(half, h, train)
        return h

      return stage

    h = remat(stem, self.remat)(self, x)
    for i, num in enumerate(stages):
      if is_reversible:
        h = halved(h) if i else h  # before its stage: what is kept of that is half as large
        h = remat(reversible_stage(i), self.remat)(self, h)
        continue
      for j in range(num):
        down = 2 if i and not j else 1
        name = f'stages_{i}_{j}'
        h = unit(width * 2**i, down, True, *norms, *how, name=name)(h, train)
    norm = BatchNorm(h.shape[-1], *norms, self.dtype, name='bn')
    h = norm(h, norm.moments(h, train))
    h = h if is_reversible else nn.relu(h)
    features = trees.at_least_float32(h).mean((1, 2))
    mlp = ResidualMLP(self.mlp, ENC_LAYERS, self.dtype, glorot(), name='mlp')
    h = trees.at_least_float32(mlp(features))
    head = functools.partial(Dense, self.z_dim, dtype=h.dtype, initializer=glorot())
    return features, head(name='mean')(h), nn.softplus(head(name='deviation')(h))


# --- The joint discriminator ---------------------------------------------------------------------


class Features(nn.Module):
  """F: images [B, r, r, channels] -> summed features [B, C] of BigGAN's discriminator, float32.

  `widths` are multiples of `ch`, one for each block, of which the first `num_down` halve the
  resolution; other fields as in `models.biggan.Discriminator`.
  """

  ch: int
  widths: tuple[int, ...]
  num_down: int
  attention: tuple[int, ...]
  remat: bool
  kernels: Kernels
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    widths = [width * self.ch for width in self.widths]
    how = (self.attention, self.remat, self.kernels, self.dtype)
    return pooled(residual.trunk(x, widths, self.num_down, *how), None)


class JointDiscriminator(nn.Module):
  """Pairs (images [B, r, r, channels], latents [B, z_dim]) -> their scores {name: float32 [B]}.

  Images come in parts, which F sees one after the other; together they are as many as latents.
  `xz` is of the pair, J's; the `unaries` among x and z are of one part alone, F's and H's. An image
  goes through F once, whatever its scores. `mlp` is the width of H and J, other fields are F's.
  """

  ch: int
  widths: tuple[int, ...]
  num_down: int
  attention: tuple[int, ...] = (64,)
  mlp: int = 2048
  unaries: tuple[str, ...] = UNARIES
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Sequence[Array], z: Array) -> dict[str, Array]:
    fields = (self.ch, self.widths, self.num_down, self.attention, self.remat, self.kernels)
    mlp = functools.partial(ResidualMLP, self.mlp, DISC_LAYERS, self.dtype)
    features = Features(*fields, self.dtype, name='F')
    f = jnp.concatenate([features(part) for part in x])
    h = trees.at_least_float32(mlp(name='H')(z))
    j = trees.at_least_float32(mlp(name='J')(jnp.concatenate([f, h], axis=1)))
    of = {'xz': j, **{name: {'x': f, 'z': h}[name] for name in self.unaries}}
    score = lambda name, value: Dense(1, dtype=value.dtype, name=f'theta_{name}')(value)[:, 0]
    return {name: score(name, value) for name, value in of.items()}
