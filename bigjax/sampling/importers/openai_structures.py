"""What names and shapes tell of the networks of OpenAI's diffusion codes, and the same of ours.

A whole U-Net has a block that enlarges maps at the end of every resolution, so that all of its
structure shows. Of its half, a classifier, it does not: a residual block that halves maps has the
arrays of any other. Its blocks in a row are compared, whatever resolutions they make. In return the
places that its pool attends to are counted in the file.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigjax.core import errors

Arrays = Mapping[str, np.ndarray]

_UP = re.compile(r'output_blocks\.\d{1,4}\.[12]\.(conv|in_layers\.0)\.weight$')
_INPUT = re.compile(r'input_blocks\.(\d{1,4})\.')
_OUTPUT = re.compile(r'output_blocks\.(\d{1,4})\.')
_STRIDED = re.compile(r'input_blocks\.\d{1,4}\.0\.op\.weight$')
POOL = 'out.2.positional_embedding'


class Whole(NamedTuple):
  """Of a diffusion's network; the words are those of sentences."""

  ch: int
  channels_in: int  # of images, and of those that are enlarged
  channels: int  # of images
  classes: int  # 0: no labels
  widths: tuple[int, ...]  # channels by resolution, from the largest on
  blocks: int
  attention: tuple[int, ...]  # levels, of which the largest resolution is 0
  learned_variance: bool
  scale_shift: bool
  updown: bool


class Half(NamedTuple):
  """Of a classifier's network; the words are those of sentences."""

  ch: int
  channels: int
  classes: int
  channels_by_block: tuple[int, ...]
  attention_in_blocks: tuple[int, ...]  # numbers of blocks
  smallest_maps: int  # pixels a side
  scale_shift: bool
  updown: bool


Structure = Whole | Half


def is_half(arrays: Arrays) -> bool:
  return not any(name.startswith('output_blocks.') for name in arrays)


def _count(pattern: re.Pattern, arrays: Arrays) -> int:
  """Blocks, of which the names begin with their numbers."""
  return 1 + max((int(match[1]) for match in map(pattern.match, arrays) if match), default=0)


def _shape(arrays: Arrays, name: str, rank: int) -> tuple[int, ...]:
  if name not in arrays:
    raise errors.UserError(
      f"{name!r} is missing in the weights, and every network of OpenAI's diffusion codes has it."
    )
  if arrays[name].ndim != rank:
    raise errors.UserError(
      f'{name!r} has shape {list(arrays[name].shape)}; expected an array of rank {rank}.'
    )
  return arrays[name].shape


def whole(arrays: Arrays) -> Whole:
  """What the arrays of a diffusion's network tell of it.

  Raises:
    UserError: they are those of another kind of network, or of none.
  """
  shape = lambda name, rank: _shape(arrays, name, rank)
  (_, ch), (_, given, *_) = shape('time_embed.0.weight', 2), shape('input_blocks.0.0.weight', 4)
  out = shape('out.2.weight', 4)[0]
  if given not in (1, 2, 3, 6):
    raise errors.UserError(
      f'this network takes {given} channels, and those of images that are known take 1 or 3, or '
      'twice as many where they enlarge others; give one of these.'
    )
  channels = given // 2 if given in (2, 6) else given
  ups = [match[1] for match in map(_UP.match, arrays) if match]  # what doubles maps
  levels = len(ups) + 1
  blocks = _count(_OUTPUT, arrays) // levels - 1
  first = [1 + level * (blocks + 1) for level in range(levels)]  # block of each resolution
  widths = tuple(shape(f'input_blocks.{i}.0.out_layers.3.weight', 4)[0] for i in first)
  said = shape(f'input_blocks.{first[0]}.0.emb_layers.1.weight', 2)[0]
  return Whole(
    ch,
    given,
    channels,
    shape('label_emb.weight', 2)[0] if 'label_emb.weight' in arrays else 0,
    widths,
    blocks,
    tuple(level for level, i in enumerate(first) if f'input_blocks.{i}.1.qkv.weight' in arrays),
    out == 2 * channels,
    said == 2 * widths[0],
    'in_layers.0' in ups,
  )


def whole_of(net: Any) -> Whole:
  """Of a unet.UNet."""
  levels = range(len(net.multiples))
  return Whole(
    net.ch,
    net.channels * (2 if net.low_resolution else 1),
    net.channels,
    net.num_classes if net.num_classes > 1 else 0,
    tuple(int(multiple * net.ch) for multiple in net.multiples),
    net.blocks,
    tuple(level for level in levels if net.resolution >> level in net.attention),
    net.learned,
    net.scale_shift,
    net.updown,
  )


def half(arrays: Arrays) -> Half:
  """What the arrays of a classifier of noisy images tell of it.

  Raises:
    UserError: they are those of another kind of network, or of none.
  """
  shape = lambda name, rank: _shape(arrays, name, rank)
  (_, ch), (_, channels, *_) = shape('time_embed.0.weight', 2), shape('input_blocks.0.0.weight', 4)
  if POOL not in arrays:
    raise errors.UserError(
      f'{POOL!r} is missing in the weights, which are half a U-Net: give all of a diffusion, or a '
      'classifier that ends in attention, as those that OpenAI published (64x64_classifier.pt).'
    )
  blocks = range(1, _count(_INPUT, arrays))
  strided = {name for name in arrays if _STRIDED.match(name)}
  features = [shape('input_blocks.0.0.weight', 4)[0]]
  for i in blocks:
    op = f'input_blocks.{i}.0.op.weight'
    name = op if op in strided else f'input_blocks.{i}.0.out_layers.3.weight'
    features.append(shape(name, 4)[0])
  middle = shape('middle_block.0.out_layers.3.weight', 4)[0]
  return Half(
    ch,
    channels,
    shape('out.2.c_proj.weight', 3)[0],
    tuple(features),
    tuple(i for i in blocks if f'input_blocks.{i}.1.qkv.weight' in arrays),
    math.isqrt(max(shape(POOL, 2)[1] - 1, 0)),
    shape('middle_block.0.emb_layers.1.weight', 2)[0] == 2 * middle,
    not strided,
  )


def half_of(net: Any) -> Half:
  """Of a unet.Classifier."""
  features, attention = [int(net.multiples[0] * net.ch)], []
  last = len(net.multiples) - 1
  for level, multiple in enumerate(net.multiples):
    for _ in range(net.blocks):
      if net.resolution >> level in net.attention:
        attention.append(len(features))
      features.append(int(multiple * net.ch))
    if level < last:
      features.append(features[-1])
  return Half(
    net.ch,
    net.channels,
    net.num_classes,
    tuple(features),
    tuple(attention),
    net.resolution >> last,
    net.scale_shift,
    net.updown or not last,
  )
