"""Games whose images grow (Karras et al. 2018): when each resolution begins, fades in, and holds.

The networks have all their blocks from the start, so that the state is one tree; a stage says which
are in use. Time is counted in real images, as the papers count it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import contract
from bigjax.algorithms.base.contract import Stage
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import errors, trees
from bigjax.core.keys import Key, Keys
from bigjax.nn.style import blocks, resampling

Array = jax.Array

# fmt: off
KEYS: Keys = {
  'model.first_resolution': Key(
    4, 'pixels of the images that training begins with; data.resolution: they do not grow',
    least=4, most=1024,
  ),
  'optim.hold_kimg': Key(600.0, 'thousand images at each resolution, but the last', above=0),
  'optim.fade_kimg': Key(600.0, 'thousand images over which the next resolution fades in'),
  'optim.batch_at': Key(
    (), "examples of a step where they are not optim.batch_size: ('RESOLUTION:NUMBER', ...)",
    items=(str,),
  ),
  'optim.lr_at': Key(
    (), "learning rates where they are not those of all: ('RESOLUTION:RATE', ...)",
    items=(str,),
  ),
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class GrowingStage(Stage):
  """The steps at one resolution.

  Attributes:
    level: images are 2^level px.
    first: its first step.
    before: images shown before that.
    fade: images over which its newest blocks fade in; 0: they are whole from the start.
    lr: learning rate of both players here; None: what they have elsewhere.
  """

  level: int = 2
  first: int = 0
  before: int = 0
  fade: float = 0.0
  lr: float | None = None

  @property
  def whole(self) -> int:
    """The first step at which the newest blocks are whole."""
    return self.first + math.ceil(self.fade / self.num_images)

  def alpha(self, step: Array) -> Array:
    """The weight of the newest blocks in a step, in [0, 1]; float32."""
    if not self.fade:
      return jnp.ones((), jnp.float32)
    shown = (step - self.first).astype(jnp.float32) * self.num_images
    return jnp.clip(shown / self.fade, 0, 1)

  def reals(self, images: Array, alpha: Array) -> Array:
    """Real images as float32, blurred as the generator's are while a resolution fades in."""
    images = to_float(images)
    return resampling.faded(images, alpha) if self.fade else images

  def begins_anew(self, step: Array) -> Array:
    """Whether a step is the first of a fade, or the first after one: Adam's moments are dropped."""
    changes = {self.first, self.whole} - {0}
    return jnp.any(jnp.array([step == change for change in sorted(changes)], bool))


def stages(
  resolutions: Sequence[int],
  num_steps: int,
  stage_of: Callable[[int], Stage],
  hold_kimg: float,
  fade_kimg: float,
  lr_at: Mapping[int, float],
) -> contract.Stages:
  """The stages of a run of `num_steps`: each resolution fades in, holds, and gives way to the next.

  Args:
    resolutions: powers of 2, each twice the one before it.
    num_steps: those that begin later are left out.
    stage_of: resolution -> its minibatches, examples and inputs.
    hold_kimg, fade_kimg: thousand images.
    lr_at: {resolution: learning rate}.
  """
  found, first, before = [], 0, 0
  for i, resolution in enumerate(resolutions):
    plain, fade = stage_of(resolution), 1000 * fade_kimg if i else 0.0
    found.append((first, GrowingStage(
      plain.minibatches, plain.examples, plain.inputs, level=blocks.level_of(resolution),
      first=first, before=before, fade=fade, lr=lr_at.get(resolution),
    )))  # fmt: skip
    length = math.ceil((fade + 1000 * hold_kimg) / plain.num_images)
    first, before = first + length, before + length * plain.num_images
  return [(first, stage) for first, stage in found if first < max(num_steps, 1)]


def resolutions(first: int, last: int) -> list[int]:
  """The resolutions from the first to the last, each twice the one before it.

  Raises:
    UserError: one is no power of 2, or the last is below the first.
  """
  for name, value in (('model.first_resolution', first), ('data.resolution', last)):
    if value < 4 or value & (value - 1):
      raise errors.UserError(
        f'{name} is {value}; images that grow are 4, 8, 16, ... pixels a side.'
      )
  if first > last:
    raise errors.UserError(
      f'model.first_resolution is {first}, above data.resolution, {last}; give it at most that.'
    )
  return [side for side in blocks.resolutions(last) if side >= first]


def at_resolutions(name: str, words: Sequence[str], number: Callable[[str], Any]) -> dict[int, Any]:
  """{resolution: number} of a key's ('RESOLUTION:NUMBER', ...).

  Raises:
    UserError: names what is no such word.
  """
  found = {}
  for word in words:
    resolution, _, value = str(word).partition(':')
    try:
      found[int(resolution)] = number(value)
    except ValueError:
      raise errors.UserError(
        f"{name} has {word!r}; expected RESOLUTION:NUMBER, such as '256:{number('8')}'."
      ) from None
    if found[int(resolution)] <= 0:
      raise errors.UserError(f'{name} has {word!r}; the number must be above 0.')
  return found


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a growth that cannot be.

  Raises:
    UserError: names the key.
  """
  resolutions(config.model.first_resolution, config.data.resolution)
  at_resolutions('optim.batch_at', config.optim.batch_at, int)
  at_resolutions('optim.lr_at', config.optim.lr_at, float)


def growth(config: ml_collections.ConfigDict) -> Callable[[int], contract.Stages]:
  """The stages of a config as a function of the number of steps; UserError as `check`."""
  data, opt = config.data, config.optim
  batch_at = at_resolutions('optim.batch_at', opt.batch_at, int)
  stage_of = lambda resolution: Stage(
    opt.d_steps, batch_at.get(resolution, opt.batch_size),
    contract.image_inputs(resolution, data.channels),
  )  # fmt: skip
  return functools.partial(
    stages, resolutions(config.model.first_resolution, data.resolution),
    stage_of=stage_of, hold_kimg=opt.hold_kimg, fade_kimg=opt.fade_kimg,
    lr_at=at_resolutions('optim.lr_at', opt.lr_at, float),
  )  # fmt: skip


def begun_anew(player: Player, state: dict[str, Any], when: Array) -> dict[str, Any]:
  """A player's state, with its optimizer as at the start where `when` holds."""
  return {**state, 'opt': trees.select(when, player.tx.init(state['params']), state['opt'])}
