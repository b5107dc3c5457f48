"""ADA's pipeline of 18 transforms that a generator can see through (Karras et al. 2020b).

Each transform draws its parameter, then a coin of probability `strength`, per example. Geometric
transforms make one affine map per image (warp.py), colour transforms one affine map of its
channels, image-space filters one kernel along rows and columns, so that the pipeline costs the same
whatever is drawn. At strength 0 it is the identity up to rounding. Where we differ from the
official code: the margins (warp.py), and images of 22 px or less are mirrored more than once by
the filters, where that code fails.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import errors, trees
from bigjax.nn import upfirdn
from bigjax.nn.augment import warp

Draws = Mapping[str, Mapping[str, jax.Array]]  # {transform: {draw: [B, ...]}}

# Deviations and ranges of the paper; fractions are of a side.
XINT, SCALE, ANISO, XFRAC = 0.125, 0.2, 0.2, 0.125
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0
FILTER, NOISE, CUTOUT = 1.0, 0.1, 0.5

# fmt: off
BLIT = ('xflip', 'rotate90', 'xint')
GEOM = ('scale', 'rotate', 'aniso', 'xfrac')
COLOR = ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation')
TRANSFORMS = (*BLIT, *GEOM, *COLOR, 'imgfilter', 'noise', 'cutout')  # in the order of the pipeline
OF_COLOURS = frozenset(('hue', 'saturation'))  # that leave grey images as they are
SETS = {
  'blit': BLIT, 'geom': GEOM, 'color': COLOR, 'filter': ('imgfilter',),
  'bg': TRANSFORMS[:7], 'bgc': TRANSFORMS[:12], 'bgcf': TRANSFORMS[:13], 'bgcfn': TRANSFORMS[:14],
  'bgcfnc': TRANSFORMS,
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """The transforms of a set, an augmentation; pipelines of equal sets are equal."""

  transforms: frozenset[str]

  def __call__(self, keys: jax.Array, images: jax.Array, strength: jax.Array | float) -> jax.Array:
    """Augment [B, H, W, C] images in [-1, 1], C = 1 or 3, each transform with P = `strength`."""
    return transform(images, draw(keys, self.transforms, images.shape[1:]), strength)


def pipeline(text: str) -> Pipeline:
  """Read the name of a set, or of transforms and sets joined by commas: 'bgc', 'xflip,color'.

  Raises:
    UserError: a name is neither of SETS nor of TRANSFORMS.
  """
  known = {**{name: (name,) for name in TRANSFORMS}, **SETS}
  parts = [errors.pick(part.strip(), known, "a set of ADA's") for part in text.split(',')]
  return Pipeline(frozenset(name for part in parts for name in part))


# What a transform draws, and its shape: an `n` is standard normal, all else uniform in [0, 1); a
# coin shows heads where it is below the transform's probability.
U, N = {'u': (), 'coin': ()}, {'n': (), 'coin': ()}
DRAWS = {
  **dict.fromkeys(('xflip', 'rotate90', 'lumaflip', 'hue'), U),
  **dict.fromkeys(('scale', 'aniso', 'brightness', 'contrast', 'saturation'), N),
  'xint': {'u': (2,), 'coin': ()},  # x, y
  'rotate': {'pre_u': (), 'pre_coin': (), 'post_u': (), 'post_coin': ()},
  'xfrac': {'n': (2,), 'coin': ()},
  'imgfilter': {'n': (4,), 'coin': (4,)},  # of each band
  'noise': {'sigma_n': (), 'coin': (), 'pixel_n': None},  # an image
  'cutout': {'center_u': (2,), 'coin': ()},
}


def draw(keys: jax.Array, transforms: frozenset[str], shape: tuple[int, int, int]) -> Draws:
  """Draw what the transforms need, for each of the keys [B]; `shape` is an image's, (H, W, C).

  What a transform draws does not depend on which others there are.
  """
  keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
  # A few numbers per image: all are drawn at once, whoever needs them.
  numbers = {
    'u': jax.vmap(lambda key: jax.random.uniform(key, (_count('u'),)))(keys[:, 0]),
    'n': jax.vmap(lambda key: jax.random.normal(key, (_count('n'),)))(keys[:, 1]),
  }
  draws, taken = {}, dict.fromkeys(numbers, 0)
  for name in TRANSFORMS:
    parts = {}
    for part, size in DRAWS[name].items():
      if part == 'pixel_n':
        continue
      kind, num = _kind(part), math.prod(size)
      values = numbers[kind][:, taken[kind] : taken[kind] + num]
      parts[part] = values.reshape(len(keys), *size)
      taken[kind] += num
    if name in transforms:
      draws[name] = parts
  if 'noise' in transforms:
    pixels = jax.vmap(lambda key: jax.random.normal(key, shape))(keys[:, 2])
    draws['noise'] = {**draws['noise'], 'pixel_n': pixels}
  return draws


def _kind(part: str) -> str:
  return 'n' if part in ('n', 'sigma_n') else 'u'


def _count(kind: str) -> int:
  parts = [item for table in DRAWS.values() for item in table.items() if item[0] != 'pixel_n']
  return sum(math.prod(size) for part, size in parts if _kind(part) == kind)


def transform(
  images: jax.Array,
  draws: Draws,
  strength: jax.Array | float,
  margins: warp.Margins | None = None,
) -> jax.Array:
  """Apply the transforms that have draws, in the order of the pipeline, to [B, H, W, C]."""
  x = trees.at_least_float32(images)
  if draws.keys() & {*BLIT, *GEOM}:
    x = warp.warp(x, inverse_map(draws, strength, *x.shape[1:3]), margins)
  if draws.keys() & set(COLOR):
    x = recolor(x, color_map(draws, strength, x.shape[3]))
  if 'imgfilter' in draws:
    x = amplify_bands(x, band_gains(draws['imgfilter'], strength))
  if 'noise' in draws:
    x = add_noise(x, draws['noise'], strength)
  if 'cutout' in draws:
    x = cut(x, draws['cutout'], strength)
  return x.astype(images.dtype)


def _gate(coin: jax.Array, strength: jax.Array | float, value: jax.Array, identity: float):
  """The parameter where the coin shows heads, else what changes nothing."""
  heads = coin < strength
  heads = heads.reshape(heads.shape + (1,) * (value.ndim - heads.ndim))
  return jnp.where(heads, value, jnp.asarray(identity, value.dtype))


def inverse_map(draws: Draws, strength: jax.Array | float, h: int, w: int) -> jax.Array:
  """Where each pixel of the result lies in the image: [B, 3, 3] in pixels from the centre.

  The transforms act in the order written, so that their inverses stand from left to right.
  """
  maps, size = [], np.array([[w, h]])
  gate = lambda name, value, identity: _gate(draws[name]['coin'], strength, value, identity)
  if 'xflip' in draws:
    flip = gate('xflip', jnp.floor(2 * draws['xflip']['u']), 0)
    maps.append(warp.scale(1 - 2 * flip, 1.0))
  if 'rotate90' in draws:
    quarters = gate('rotate90', jnp.floor(4 * draws['rotate90']['u']), 0)
    maps.append(warp.rotate(np.pi / 2 * quarters))
  if 'xint' in draws:
    by = gate('xint', (2 * draws['xint']['u'] - 1) * XINT, 0)
    by = jnp.round(by * size.astype(by.dtype))
    maps.append(warp.translate(-by[:, 0], -by[:, 1]))
  if 'scale' in draws:
    factor = gate('scale', jnp.exp2(SCALE * draws['scale']['n']), 1)
    maps.append(warp.scale(1 / factor, 1 / factor))
  if 'rotate' in draws:
    # One transform in two halves, each with a coin such that P(either) is the strength.
    half = 1 - jnp.sqrt(jnp.clip(1 - jnp.asarray(strength), 0, 1))
    turn = lambda part: _gate(
      draws['rotate'][f'{part}_coin'], half, (2 * draws['rotate'][f'{part}_u'] - 1) * np.pi, 0
    )
    maps.append(warp.rotate(turn('pre')))
  if 'aniso' in draws:
    factor = gate('aniso', jnp.exp2(ANISO * draws['aniso']['n']), 1)
    maps.append(warp.scale(1 / factor, factor))
  if 'rotate' in draws:
    maps.append(warp.rotate(turn('post')))
  if 'xfrac' in draws:
    by = gate('xfrac', XFRAC * draws['xfrac']['n'], 0)
    by = by * size.astype(by.dtype)
    maps.append(warp.translate(-by[:, 0], -by[:, 1]))
  return functools.reduce(warp.times, maps)


GREY = np.ones(3) / np.sqrt(3)  # the axis of luma
ALONG = np.outer(GREY, GREY)  # the projection onto it
ACROSS = np.cross(np.eye(3), GREY)  # [3, 3]: the product of a colour (a row) with that axis


def color_map(draws: Draws, strength: jax.Array | float, channels: int) -> jax.Array:
  """The affine map of colours: [B, 3, 4], matrix and offset; hue and saturation need channels."""
  coin = next(part['coin'] for name, part in draws.items() if name in COLOR)
  total = jnp.broadcast_to(jnp.eye(3, 4, dtype=coin.dtype), (len(coin), 3, 4))
  gate = lambda name, value, identity: _gate(draws[name]['coin'], strength, value, identity)
  full = lambda value: value[:, None, None]
  const = lambda array: jnp.asarray(array, total.dtype)[None]
  if 'brightness' in draws:
    more = gate('brightness', BRIGHTNESS * draws['brightness']['n'], 0)
    total = total + const(np.eye(1, 4, 3)) * full(more)
  if 'contrast' in draws:
    total = total * full(gate('contrast', jnp.exp2(CONTRAST * draws['contrast']['n']), 1))
  if 'lumaflip' in draws:
    flip = gate('lumaflip', jnp.floor(2 * draws['lumaflip']['u']), 0)
    total = warp.times(const(np.eye(3)) - 2 * const(ALONG) * full(flip), total)
  if 'hue' in draws and channels > 1:
    angle = full(gate('hue', (2 * draws['hue']['u'] - 1) * np.pi, 0))
    turn = const(ALONG) + const(np.eye(3) - ALONG) * jnp.cos(angle) + const(ACROSS) * jnp.sin(angle)
    total = warp.times(turn, total)
  if 'saturation' in draws and channels > 1:
    factor = full(gate('saturation', jnp.exp2(SATURATION * draws['saturation']['n']), 1))
    total = warp.times(const(ALONG) + const(np.eye(3) - ALONG) * factor, total)
  return total


def recolor(images: jax.Array, colors: jax.Array) -> jax.Array:
  """Apply maps of colours [B, 3, 4] to images of 3 channels, or of 1: grey in, the mean out."""
  matrix, offset = colors[:, :, :3].astype(images.dtype), colors[:, :, 3].astype(images.dtype)
  if images.shape[3] == 1:
    matrix, offset = matrix.sum(2).mean(1)[:, None, None], offset.mean(1, keepdims=True)
  # Sums rather than a product of matrices: three channels would leave a matrix unit idle.
  mixed = (images[:, :, :, None, :] * matrix[:, None, None]).sum(4)
  return mixed + offset[:, None, None]


def bands() -> np.ndarray:
  """Filters [4, 43] whose sum is a unit impulse, lowest octave first, of the wavelet sym2."""
  root = np.sqrt(3)
  low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
  high = low * (-1) ** np.arange(4)
  # Half-band filters without phase; their sum is an impulse.
  low, high = (np.convolve(f, f[::-1]) / 2 for f in (low, high))
  bank = [np.ones(1)]
  for _ in range(3):  # each octave halves the band below, and adds the one above
    wide = [np.kron(f, [1, 0])[:-1] for f in bank]
    bank = [np.convolve(f, low) for f in wide]
    pad = (len(bank[0]) - len(high)) // 2
    bank.append(np.pad(high, pad))
  return np.stack(bank)


POWER = np.array([10, 1, 1, 1]) / 13  # of natural images in each band, as the paper expects it


def band_gains(draws: Mapping[str, jax.Array], strength: jax.Array | float) -> jax.Array:
  """Gains [B, 4] of the bands: each band's draw in turn, at constant expected power."""
  factors = _gate(draws['coin'], strength, jnp.exp2(FILTER * draws['n']), 1)  # [B, 4]
  eye = jnp.asarray(np.eye(len(POWER))[None], factors.dtype)
  alone = 1 + eye * (factors[:, :, None] - 1)  # [B, draw, band]: 1 but in the draw's own band
  power = (alone**2 * jnp.asarray(POWER[None, None], factors.dtype)).sum(2, keepdims=True)
  return (alone / jnp.sqrt(power)).prod(1)


def amplify_bands(images: jax.Array, gains: jax.Array) -> jax.Array:
  """Filter rows and columns with the bands in these proportions [B, 4], margins mirrored."""

  def kernels(size):
    bank = bands()
    half = bank.shape[1] // 2
    margins = upfirdn.mirror(size, half, half)
    each = np.stack([upfirdn.fir(len(margins), taps, flip=True) @ margins for taps in bank])
    each = jnp.asarray(each, images.dtype)
    return jnp.einsum('bj,jrs->brs', gains.astype(images.dtype), each, precision='highest')

  return upfirdn.along_axes(kernels(images.shape[1]), kernels(images.shape[2]), images)


def add_noise(images: jax.Array, draws: Mapping[str, jax.Array], strength) -> jax.Array:
  """Add white noise, of a deviation that is half-normal over images."""
  sigma = _gate(draws['coin'], strength, NOISE * jnp.abs(draws['sigma_n']), 0)
  return images + (sigma[:, None, None, None] * draws['pixel_n']).astype(images.dtype)


def cut(images: jax.Array, draws: Mapping[str, jax.Array], strength) -> jax.Array:
  """Blank a rectangle of half the sides, centred anywhere in the image."""
  size = _gate(draws['coin'], strength, jnp.full_like(draws['coin'], CUTOUT), 0)
  inside = []
  for side, centre in zip(images.shape[1:3], draws['center_u'].T[::-1], strict=True):  # y, x
    at = (jnp.arange(side, dtype=centre.dtype) + 0.5) / side
    inside.append(jnp.abs(at[None] - centre[:, None]) < size[:, None] / 2)
  hit = inside[0][:, :, None, None] & inside[1][:, None, :, None]
  return jnp.where(hit, jnp.zeros((), images.dtype), images)
