"""Augmentations of real and fake images alike, differentiable to the image, of any order.

`none` does nothing; `diffaugment` has fixed policies (Zhao et al. 2020), `ada` transforms of a
probability that `adaptive` controls (Karras et al. 2020). `apa` is another kind: it shows fakes as
reals (Jiang et al. 2021). `blur` hides details at first (Sauer et al. 2021).
"""

from collections.abc import Callable

import jax

from bigjax.nn.augment import ada, diffaugment

# (keys [B], images [B, H, W, C], strength []) -> images, each of its own key and image alone. The
# strength is a probability, and may be traced.
Augment = Callable[[jax.Array, jax.Array, jax.Array | float], jax.Array]


def none(keys: jax.Array, images: jax.Array, strength: jax.Array | float) -> jax.Array:
  """The images as they are."""
  del keys, strength
  return images


# Those that do not look at the strength.
AUGMENTATIONS: dict[str, Augment] = {'none': none, **diffaugment.TRANSFORMS}


def find(name: str) -> Augment:
  """The augmentation of a name; those of equal names are equal.

  Args:
    name: 'none', a policy of DiffAugment ('color,translation,cutout'), or 'ada_' and a set of ADA's
      or its transforms ('ada_bgc', 'ada_xflip,rotate').
  Raises:
    UserError: there is none of this name.
  """
  if name.startswith('ada_'):
    return ada.pipeline(name.removeprefix('ada_'))
  return AUGMENTATIONS[name] if name in AUGMENTATIONS else diffaugment.policy(name)
