"""Strans-G and Strans-D (Xu et al. 2023): a generator of Transformer blocks alone, and its critic.

The generator makes 4 x 4 tokens of z and doubles them; at low resolutions all tokens of a map see
each other, at high ones those of a window (nn/tokens/window_attention.py). With classes, z and an
embedding of the class scale and shift what the blocks normalise (AdaNorm-T), where the paper tells
three placements apart. The critic begins with convolutions, and its blocks have a learned
projection for a shortcut (SkipProj), because an identity drowns the branch beside it there.

The authors' code is not public and we had their project page: widths, windows, the number of
blocks, how tokens are doubled (bilinear), halved (Swin's merging) and scored are ours, and so is
the choice among the placements. So are these: z is whole beside the class in every condition, and
the class has an embedding as large as z, or z would drown it; AdaNorm-T's projections begin at a
deviation of 0.02, so that blocks begin nearly without a condition; global blocks of the generator
have no bias by offset, and know where a token is of the positions that the first ones are given;
a LayerNorm comes before the projection of tokens to colours, and no tanh after it.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.core import errors, trees
from bigjax.nn.kernels import FAST, Kernels
from bigjax.nn.layers import (
  Conv,
  Dense,
  Embed,
  Moments,
  glorot,
  in_microbatches,
  remat,
  standardize,
)
from bigjax.nn.tokens.layers import EPS, Mlp, PatchMerging, TokenNorm, bilinear, normalized
from bigjax.nn.tokens.window_attention import WindowAttention

Array = jax.Array

# Channels of the maps in multiples of ch, from 4 x 4 on: as many for low resolutions, then halved.
WIDTHS = {4: 16, 8: 16, 16: 16, 32: 8, 64: 4, 128: 2, 256: 1}
RESOLUTIONS = tuple(WIDTHS)[1:]
ADANORMS = ('layer', 'instance', 'batch')  # AdaLN, AdaIN-T, AdaBN
PLACEMENTS = ('a', 'b', 'c')
SKIPS = ('glorot', 'identity')  # how SkipProj begins
SLOPE = 0.2  # of leaky ReLUs
LEAST_WIDTH = 8  # of the largest map: a LayerNorm over fewer channels leaves next to nothing of z


def sides(resolution: int) -> list[int]:
  """Resolutions of a network's maps, from 4 px up."""
  return [side for side in WIDTHS if side <= resolution]


def window_of(side: int, window: int) -> int:
  """The window of a map: the given one, or by its resolution where that is 0."""
  return window or (16 if side >= 64 else min(side, 8))


def heads_of(width: int, head_dim: int, side: int) -> int:
  """How many heads share a map's channels; one, where a head could have more.

  Raises:
    UserError: they cannot share them evenly.
  """
  if width > head_dim and width % head_dim:
    raise errors.UserError(
      f'model.head_dim is {head_dim}, which does not divide the {width} channels at {side} px; '
      'give a divisor.'
    )
  return max(width // head_dim, 1)


def note(module: nn.Module, name: str, skip: Array, main: Array) -> None:
  """Keeps the energies of a shortcut and of the branch beside it, [B, 2], where somebody asks.

  In the collection `norms`, as of_NAME, since NAME is the branch's module.
  """
  if module.is_mutable_collection('norms') and not module.is_initializing():
    square = lambda x: jnp.square(trees.at_least_float32(x)).sum((1, 2, 3))
    keep_last = {'init_fn': lambda: None, 'reduce_fn': lambda _, new: new}
    module.sow('norms', f'of_{name}', jnp.stack([square(skip), square(main)], -1), **keep_last)


# --- the generator


class AdaNorm(nn.Module):
  """AdaNorm-T: tokens normalised, times 1 + Wg c plus Wb c, of a condition c [B, dim].

  `kind` says over what: a token's channels (layer), a channel's tokens (instance), or those of the
  whole batch (batch).
  """

  kind: str
  train: bool
  bn_group: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, c: Array) -> Array:
    features = x.shape[-1]
    if self.kind == 'batch':
      moments = Moments(self.bn_group, name='norm')(x, self.train)
      h = standardize(x, moments, EPS, self.dtype)
    else:
      h = normalized(x, {'layer': -1, 'instance': (1, 2)}[self.kind], self.dtype)
    linear = functools.partial(
      Dense, features, use_bias=False, dtype=self.dtype, initializer=nn.initializers.normal(0.02)
    )
    gain, bias = linear(name='gain')(c), linear(name='bias')(c)
    return h * (1 + gain[:, None, None]) + bias[:, None, None]


class GenBlock(nn.Module):
  """Transformer block of tokens [B, H, W, C]; with a condition, AdaNorm-T at one of three places.

  Without: x + MSA(LN x), then x + MLP(LN x). With one, and N for AdaNorm-T:
  a: N for LN in both branches, so that the shortcuts carry on what nothing has normalised;
  b: x + MSA(LN x), N of that, and x + MLP(x);
  c: as b, but with N of the attention as well, before it is added.
  """

  heads: int
  window: int
  shift: int = 0
  relative: bool = True
  adanorm: str = 'layer'
  adanorm_t: str = 'c'
  bn_group: int | None = None
  train: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, c: Array | None = None) -> Array:
    ada = functools.partial(AdaNorm, self.adanorm, self.train, self.bn_group, self.dtype)
    adapt = lambda name: lambda h: ada(name=name)(h, c)
    norm = lambda name: TokenNorm(self.dtype, name=name)
    same = lambda h: h
    # What attention sees, what becomes of it, of the sum, and of that before the MLP.
    if c is None:
      steps = norm('norm1'), same, same, norm('norm2')
    elif self.adanorm_t == 'a':
      steps = adapt('norm1'), same, same, adapt('norm2')
    else:
      after = adapt('norm_attn') if self.adanorm_t == 'c' else same
      steps = norm('norm1'), after, adapt('norm2'), same
    before, after, trunk, before_mlp = steps
    attend = WindowAttention(
      self.heads, self.window, self.shift, self.relative, self.dtype, name='attn'
    )
    h = after(attend(before(x)))
    note(self, 'attn', x, h)
    x = trunk(x + h)
    h = Mlp(dtype=self.dtype, name='mlp')(before_mlp(x))
    note(self, 'mlp', x, h)
    return x + h


class Generator(nn.Module):
  """Strans-G: (z [B, z_dim], y [B] or weights [B, classes]) -> images [B, H, W, channels].

  Float32, with no bound: they are drawn to [-1, 1]. Of one class it is unconditional, blind to y.

  Attributes:
    resolution: of images; one of RESOLUTIONS.
    num_classes: classes.
    ch: channels that all maps have a multiple of.
    z_dim: dimensions of z.
    channels: of images.
    shared_dim: dimensions of the class embedding.
    blocks: at each resolution.
    head_dim: channels of a head.
    window: of attention, in pixels; 0: 8, and 16 from 64 px on.
    global_resolution: up to it, attention is global.
    adanorm, adanorm_t: see ADANORMS, PLACEMENTS and GenBlock.
    bn_group: examples that share moments, where a norm is over the batch; None: all.
    microbatches, remat, dtype: as in `models.biggan.Generator`; more than one microbatch only where
      no norm is over the batch.
  """

  resolution: int
  num_classes: int
  ch: int = 32
  z_dim: int = 128
  channels: int = 3
  shared_dim: int = 128
  blocks: int = 2
  head_dim: int = 32
  window: int = 0
  global_resolution: int = 16
  adanorm: str = 'layer'
  adanorm_t: str = 'c'
  bn_group: int | None = None
  microbatches: int = 1
  remat: bool = False
  dtype: Any = jnp.float32

  @property
  def over_batch(self) -> bool:
    """Whether a norm is over the batch, whose moments are then measured for sampling."""
    return self.adanorm == 'batch' and self.num_classes > 1

  def block(self, side: int, i: int, train: bool) -> nn.Module:
    """The i-th block at a resolution; every second one is shifted."""
    heads = heads_of(WIDTHS[side] * self.ch, self.head_dim, side)
    whole = side <= self.global_resolution
    window = side if whole else window_of(side, self.window)
    return remat(GenBlock, self.remat)(
      heads, window, window // 2 * (i % 2), not whole, self.adanorm, self.adanorm_t,
      self.bn_group, train, self.dtype, name=f'blocks{side}_{i}',
    )  # fmt: skip

  @nn.compact
  def __call__(self, z: Array, y: Array, train: bool) -> Array:
    dense = functools.partial(Dense, dtype=self.dtype)
    tokens = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=glorot())
    first, *others = sides(self.resolution)
    width = WIDTHS[first] * self.ch
    cs = ()  # of the blocks, what they are conditioned on: at most one array
    if self.num_classes > 1:
      as_z = nn.initializers.normal(1.0)
      shared = Embed(self.num_classes, self.shared_dim, as_z, name='shared')(y)
      cs = (jnp.concatenate([shared, z.astype(shared.dtype)], -1),)
    # z becomes 4 x 4 tokens of size about 1, as the branches add to them; and these are told where
    # they are, which has to be seen beside that.
    h = dense(width, initializer=nn.initializers.lecun_normal(), name='mlp1')(z)
    last = dense(first * first * width, initializer=nn.initializers.he_normal(), name='mlp2')
    h = last(nn.leaky_relu(h, SLOPE)).reshape(-1, first, first, width)
    position = nn.initializers.truncated_normal(0.2)
    position = self.param('position', position, (first, first, width), jnp.float32)
    h = h + position.astype(self.dtype)[None]
    for side in (first, *others):
      if side != first:
        width = WIDTHS[side] * self.ch
        if width != h.shape[-1]:  # before there are four times as many
          h = tokens(width, name=f'project{side}')(h)
        h = bilinear(h)
      for i in range(self.blocks):
        block = self.block(side, i, train)
        h = in_microbatches(self.microbatches, block, type(block).__call__, h, *cs)
    h = tokens(self.channels, name='to_rgb')(TokenNorm(self.dtype, name='norm')(h))
    return trees.at_least_float32(h)


# --- the discriminator


def skip_proj(start: str) -> Any:
  """The initializer of SkipProj; an identity is a plain residual, until it has learned."""
  if start == 'glorot':
    return glorot()
  return lambda key, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype)


class DiscBlock(nn.Module):
  """Transformer block with SkipProj: LReLU(MSA(LN x)) + P x, then LReLU(MLP(LN x)) + P' x."""

  heads: int
  window: int
  shift: int = 0
  skip_init: str = 'glorot'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    project = functools.partial(
      nn.Dense, x.shape[-1], use_bias=False, dtype=self.dtype, kernel_init=skip_proj(self.skip_init)
    )
    attend = WindowAttention(self.heads, self.window, self.shift, dtype=self.dtype, name='attn')
    mlp = Mlp(dtype=self.dtype, name='mlp')
    for i, (name, branch) in enumerate((('attn', attend), ('mlp', mlp)), 1):
      h = nn.leaky_relu(branch(TokenNorm(self.dtype, name=f'norm{i}')(x)), SLOPE)
      x = project(name=f'skip{i}')(x)
      note(self, name, x, h)
      x = x + h
    return x


class Discriminator(nn.Module):
  """Strans-D: (images [B, H, W, channels], y [B]) -> scores [B], float32; no example sees another.

  Convolutions halve the image down to `disc_resolution`; from there on to 4 x 4 it is blocks and
  merged tokens. What is scored is the mean of the last tokens, with a projection on the class where
  there are several.

  Attributes:
    disc_resolution: of the first blocks, or the image's where that is smaller.
    skip_init: see SKIPS.
    remat, kernels, dtype, and `mask` of the call: as in `models.biggan.Discriminator`.
    The others: as in Generator.
  """

  resolution: int
  num_classes: int
  ch: int = 32
  blocks: int = 2
  head_dim: int = 32
  window: int = 0
  disc_resolution: int = 32
  skip_init: str = 'glorot'
  remat: bool = False
  kernels: Kernels = FAST
  dtype: Any = jnp.float32

  @property
  def num_features(self) -> int:
    """How many features the last layer sees."""
    return WIDTHS[4] * self.ch

  def stem(self, x: Array) -> Array:
    """Convolutions of images, down to `disc_resolution`."""
    conv = functools.partial(Conv, kernels=self.kernels, dtype=self.dtype, initializer=glorot(2.0))
    # A bias that is not 0: where an image is (as DiffAugment leaves it), a token would be 0, too,
    # and each of the LayerNorms after it would multiply its gradient by eps^-1/2.
    first = conv(
      WIDTHS[self.resolution] * self.ch, bias_initializer=nn.initializers.normal(0.3), name='conv0'
    )
    h = nn.leaky_relu(first(x), SLOPE)
    h = nn.leaky_relu(conv(h.shape[-1], name='conv1')(h), SLOPE)
    for side in reversed(sides(self.resolution)[:-1]):
      if side >= self.disc_resolution:
        h = conv(WIDTHS[side] * self.ch, resample='down', name=f'down{side}')(h)
        h = nn.leaky_relu(h, SLOPE)
    return h

  def block(self, side: int, i: int) -> nn.Module:
    """The i-th block at a resolution; every second one is shifted."""
    heads = heads_of(WIDTHS[side] * self.ch, self.head_dim, side)
    window = window_of(side, self.window)
    return remat(DiscBlock, self.remat)(
      heads, window, window // 2 * (i % 2), self.skip_init, self.dtype, name=f'blocks{side}_{i}'
    )

  @nn.compact
  def __call__(self, x: Array, y: Array, mask: Array | None = None) -> Array:
    h = self.stem(x)
    start = h.shape[1]
    for side in reversed(sides(start)):
      if side != start:
        h = PatchMerging(WIDTHS[side] * self.ch, self.dtype, name=f'merge{side}')(h)
      for i in range(self.blocks):
        h = self.block(side, i)(h)
    h = trees.at_least_float32(TokenNorm(self.dtype, name='norm')(h)).mean((1, 2))
    h = h if mask is None else h * mask
    score = Dense(1, dtype=h.dtype, initializer=glorot(), name='linear')(h)[:, 0]
    if self.num_classes == 1:
      return score
    embedding = Embed(self.num_classes, h.shape[-1], name='embed')(y).astype(h.dtype)
    return score + (embedding * h).sum(1)
