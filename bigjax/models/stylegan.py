"""StyleGAN's networks (Karras et al. 2019), which grow, and the five steps from PGGAN's to them.

The generator's parts are those of nn/style/stylegan.py, the discriminator is PGGAN's with blurred
maps. All blocks have their parameters from the start; a call says how many of them are there
(`level`, static: images of 2^level px) and how far the newest one has faded in (`alpha`, traced).
Names are the official code's, but that its Conv1_down is Conv1 here. With classes, which the paper
has not, there is a score for each, of which the image's own counts.
"""

from collections.abc import Sequence

import jax

from bigjax.nn.convolution import upsample
from bigjax.nn.style import equalized, growing, stylegan
from bigjax.nn.style.blocks import FIRST, one_hot
from bigjax.nn.style.growing import is_complete
from bigjax.nn.style.resampling import fade

Array = jax.Array

# What the equalised learning rate multiplies kernels by, over sqrt(fan in).
GEN_GAINS = stylegan.GAINS
DISC_GAINS = equalized.gains(others={'4x4/Dense1/kernel': 1.0})


class Generator(stylegan.StyleGenerator):
  """(z [B, z_dim], y [B]) -> images [B, 2^level, 2^level, channels], float32 without bounds.

  Table 1's rows (a) and (b) are not `styled` and have no mapping layers, (a) is not `blurred` in
  addition; up to (c) the first map is not `constant`, up to (d) nothing is `noisy`.
  """

  def __call__(
    self,
    z: Array,
    y: Array,
    level: int,
    alpha: Array | float = 1.0,
    noise: Sequence[Array] | None = None,
  ) -> Array:
    ws = stylegan.broadcast(self.w(z, y), self.synthesis.num_layers)
    return self.image(ws, level, alpha, noise)

  def image(
    self,
    ws: Array,
    level: int,
    alpha: Array | float = 1.0,
    noise: Sequence[Array] | None = None,
  ) -> Array:
    """Images of the styles of each layer.

    Args:
      ws: [B, layers, w_dim], of as many layers as the level has, or more.
      level: static.
      alpha: weight of the newest block in [0, 1].
      noise: a map for each layer of the level, or None: see stylegan.Synthesis.
    """
    images = self.synthesis(ws, noise, level)
    if level == FIRST or is_complete(alpha):
      return images[level - FIRST]
    return fade(upsample(images[level - FIRST - 1]), images[level - FIRST], alpha)


class Discriminator(growing.Discriminator):
  """(images [B, 2^level, 2^level, channels], y [B]) -> scores [B], float32.

  Without `blurred` it is PGGAN's, of Table 1's row (a).
  """

  order: str = 'tf'
  blurred: bool = True

  def __call__(self, images: Array, y: Array, level: int, alpha: Array | float = 1.0) -> Array:
    scores = self.outputs(images, level, alpha)
    if self.num_classes == 1:
      return scores[:, 0]
    return (scores * one_hot(y, self.num_classes).astype(scores.dtype)).sum(1)
