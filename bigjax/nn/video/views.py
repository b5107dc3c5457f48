"""What critics see of a clip: some frames, all of them smaller, or a part of all of them.

A view maps (keys [B], clips [B, T, H, W, C]) to clips [B, t, h, w, C]. DVD-GAN (Clark et al. 2019)
shows frames at full size and the whole clip at half of it; TrIVD-GAN (Luc et al. 2020) shows frames
at half their size and a crop of the whole clip at full detail, which are fewer pixels and lose
nothing. Real clips and fakes are seen by keys of their own, by the same law.
"""

import dataclasses
import re
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from bigjax.core import errors
from bigjax.nn.video.frames import pool_space

Array = jax.Array
Shape = tuple[int, int, int, int]  # [T, H, W, C]


class View(Protocol):
  """A part of clips.

  Attributes:
    single: whether its frames are judged one by one.
    scale: by which its sides are smaller than those of clips.
  """

  single: bool
  scale: int

  def shape(self, clip: Shape) -> Shape:
    """Shape of what is seen of a clip of this shape."""

  def __call__(self, keys: Array, clips: Array) -> Array:
    """What is seen of clips [B, T, H, W, C]; keys [B]."""


@dataclasses.dataclass(frozen=True)
class Frames:
  """`num` different frames, in order, from frame `first` on, averaged over `scale` x `scale`."""

  num: int
  scale: int = 1
  first: int = 0

  single = True

  def __str__(self) -> str:
    return f'frames:{self.num}' + (f'/{self.scale}' if self.scale > 1 else '')

  def shape(self, clip: Shape) -> Shape:
    return self.num, clip[1] // self.scale, clip[2] // self.scale, clip[3]

  def __call__(self, keys: Array, clips: Array) -> Array:
    some = clips[:, self.first :]
    pick = lambda key: jnp.sort(jax.random.permutation(key, some.shape[1])[: self.num])
    at = jax.vmap(pick)(keys)
    picked = jnp.take_along_axis(some, at[:, :, None, None, None], 1)
    return pool_space(picked, self.scale)


@dataclasses.dataclass(frozen=True)
class Whole:
  """All frames, averaged over `scale` x `scale` pixels."""

  scale: int = 1

  single = False

  def __str__(self) -> str:
    return 'clip' + (f'/{self.scale}' if self.scale > 1 else '')

  def shape(self, clip: Shape) -> Shape:
    return clip[0], clip[1] // self.scale, clip[2] // self.scale, clip[3]

  def __call__(self, keys: Array, clips: Array) -> Array:
    del keys
    return pool_space(clips, self.scale)


@dataclasses.dataclass(frozen=True)
class Crop:
  """A square of all frames at full detail, at one place, whose sides are 1/`scale` of theirs."""

  scale: int = 2

  single = False

  def __str__(self) -> str:
    return f'crop/{self.scale}'

  def shape(self, clip: Shape) -> Shape:
    return clip[0], clip[1] // self.scale, clip[2] // self.scale, clip[3]

  def __call__(self, keys: Array, clips: Array) -> Array:
    frames, height, width, channels = self.shape(clips.shape[1:])

    def cut(key, clip):
      most = jnp.array([clip.shape[1] - height, clip.shape[2] - width])
      y, x = jax.random.randint(key, (2,), 0, most + 1)
      return lax.dynamic_slice(clip, (0, y, x, 0), (frames, height, width, channels))

    return jax.vmap(cut)(keys, clips)


WORD = re.compile(r'(?:frames:(?P<num>[1-9]\d{0,3})|(?P<kind>clip|crop))(?:/(?P<scale>[1-9]\d?))?')
HELP = (
  'frames:8 (of so many, one by one), frames:8/2 (at half their size), clip/2 (all frames at half '
  'size), crop/2 (a square of half their size of all frames)'
)


def read(word: str, key: str, first: int = 0) -> View:
  """The view that a word names.

  Args:
    word: as in HELP.
    key: of the config, for the error.
    first: frame from which on single frames are taken.
  Raises:
    UserError: it names none.
  """
  found = WORD.fullmatch(word)
  if not found or (found['kind'] == 'crop' and found['scale'] in (None, '1')):
    raise errors.UserError(f'{key} has {word!r}; give words such as {HELP}.')
  scale = int(found['scale'] or 1)
  if found['num']:
    return Frames(int(found['num']), scale, first)
  return Whole(scale) if found['kind'] == 'clip' else Crop(scale)
