"""Parts that some generators have, beside what the contract asks of all.

A generator has a part as an attribute of its name, which is None or missing where it has none:
`styles`, `linear_layers`, `searchable`, `encoder`, `likelihood`, `enlarger`, `classifier`,
`steerable`, `predictor`. Whoever needs one asks by `encoder_of` and the like, which refuse a
generator without it in a sentence.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from bigjax.algorithms.base.contract import Gen, Generator, OwnSpec, Spec
from bigjax.core import errors

Array = jax.Array


class Styles(Protocol):
  """A generator by its parts: z is mapped to w, and every layer is given a style, made of w.

  What mixing, interpolation and path lengths in w, and projection of images need.

  Attributes:
    num_layers: that are given a style, from the smallest resolution on.
  """

  @property
  def num_layers(self) -> int: ...

  def map(self, gen: Gen, z: Array, y: Array) -> Array:
    """w [B, w_dim] of latents and labels, untruncated."""

  def layers(self, gen: Gen, w: Array, spec: OwnSpec) -> Array:
    """What each layer is given, [B, num_layers, w_dim], truncated as the settings say."""

  def noise(self, gen: Gen, z: Array, spec: OwnSpec) -> Sequence[Array]:
    """Maps [B or 1, H, W, 1] of what layers add for these latents; () where they add nothing."""

  def synthesize(self, gen: Gen, ws: Array, noise: Sequence[Array], spec: OwnSpec) -> Array:
    """Samples [B, ...] in [-1, 1] of what each layer is given and adds; () adds nothing."""


class LinearLayers(Protocol):
  """The layers that see a latent first, and are linear in it: what closed-form directions are of.

  Attributes:
    space: what the latent is: 'z', or 'w' of a generator with styles.
  """

  space: str

  def kernels(self, gen: Gen) -> Mapping[str, Array]:
    """{layer: [numbers of the latent, its outputs]}; 0 where it is not given a number."""


class Searchable(Protocol):
  """A generator whose latents can be looked for by gradients of its samples.

  These are one pass of a network, of latents of a continuous law. It has nothing else to say; a
  walk of many steps from noise, of which steps draw noise too, is none.
  """

  latent_shape: tuple[int, ...]


class Encoder(Protocol):
  """The way back, from images to latents: what encoding, reconstructions and probes need.

  Its weights, and whatever else it needs, are part of the tree that its Generator is given.

  Attributes:
    shape: of the images that it takes, (H, W, C) or (T, H, W, C), which may be larger than samples.
    num_features: of an image.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def num_features(self) -> int: ...

  def encode(self, gen: Gen, images: Array) -> Array:
    """Latents [B, ...] of images [B, ...] in [-1, 1]: of a law of latents, the mean."""

  def features(self, gen: Gen, images: Array) -> Array:
    """Features [B, num_features], float32, of the same images: what a probe looks at."""


class Likelihood(Protocol):
  """How likely a generator holds images to be, exactly or by a bound from below.

  Attributes:
    words: how it is computed, for a score's name: '1000steps'.
  """

  @property
  def words(self) -> str: ...

  def bits(self, gen: Gen, images: Array, y: Array, keys: Array) -> Array:
    """-log2 p(image | y) for each of an image's numbers, or a bound above that, float32 [B].

    Args:
      gen: the generator.
      images: 8-bit levels [B, ...], as numbers from -1 to 1.
      y: labels, int32 [B].
      keys: of whatever is drawn for an image, [B].
    """


class Enlarger(Protocol):
  """A generator that makes images of smaller ones: a stage of a cascade. Its latents are N(0, I).

  Noise of small images has levels, 0 of which is none; what the others are is the family's.

  Attributes:
    low_shape: of the small images, (h, w, C).
  """

  @property
  def low_shape(self) -> tuple[int, ...]: ...

  def enlarge(
    self,
    gen: Gen,
    low: Array,
    z: Array,
    y: Array,
    spec: OwnSpec,
    others: Array | None = None,
    noisy: bool = False,
    left: int = 0,
  ) -> Array:
    """Samples [B, ...] of small images [B, h, w, C] in [-1, 1].

    Args:
      gen, z, y, spec: as of `generate`.
      low: small images.
      others: latents whose noise it is; None: z.
      noisy: whether `low` has the noise of `level_of(spec)` already; else it is added.
      left: see `Unfinished`.
    """

  def enlarging(self, gen: Gen) -> Gen:
    """What of `gen` enlarging needs."""

  def takes_unfinished(self, generator: Generator) -> bool:
    """Whether what another generator leaves unfinished has the noise that this one knows."""

  def level_of(self, spec: OwnSpec) -> int:
    """The level of the noise of small images in its settings."""

  def at_level(self, spec: OwnSpec, level: int) -> Spec:
    """Settings with another one."""


class Unfinished(Protocol):
  """What a Generator also has whose samples are made by taking noise away."""

  def reachable(self, spec: OwnSpec, level: int) -> int:
    """The level nearest to this one at which it can stop, 0 for 0 alone."""

  def unfinished(
    self, gen: Gen, z: Array, y: Array, spec: OwnSpec, others: Array, left: int
  ) -> Array:
    """`with_noise_of` the others, with the noise of a level that is reachable left in it."""


@dataclasses.dataclass(frozen=True)
class Noising:
  """The process that makes images noisy, along which a network was trained.

  Attributes:
    schedule: of the noise, by its name.
    num_steps: from images to noise, whose numbers a network is told; 0 has the least noise.
  """

  schedule: str
  num_steps: int

  def __str__(self) -> str:
    return f'{self.schedule}, {self.num_steps:,} steps'


# (noisy images [B, H, W, C], their steps [B] of the whole process) -> a gradient [B, H, W, C].
Gradient = Callable[[Array, Array], Array]


class Classifier(Protocol):
  """Tells classes of noisy images: what a walk from noise to an image is guided by.

  Attributes:
    shape: of images, (H, W, C).
    num_classes: that it tells.
    noising: of the images that it was trained with.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def num_classes(self) -> int: ...

  @property
  def noising(self) -> Noising: ...

  def log_probabilities(self, gen: Gen, x: Array, t: Array) -> Array:
    """log p(y | x_t), float32 [B, classes], of noisy images [B, H, W, C] at steps t [B]."""


class Steerable(Protocol):
  """A walk from noise to an image, of which each step can be moved; it needs no preparing.

  Attributes:
    noising: what it walks back.
  """

  @property
  def noising(self) -> Noising: ...

  def steered(
    self, gen: Gen, z: Array, y: Array, spec: OwnSpec, gradient: Gradient | None, others: Array
  ) -> Array:
    """Samples of z with the noise of other latents, moved at every step by a gradient, or none."""


class Predictor(Protocol):
  """A generator that goes on with clips whose first frames it is given.

  Its samples [T, H, W, C] begin with frames that its training kept of real clips; here they are the
  caller's.

  Attributes:
    num_given: frames that it is given, at least 1 and fewer than T.
  """

  @property
  def num_given(self) -> int: ...

  def predict(self, gen: Gen, frames: Array, z: Array, y: Array, spec: OwnSpec) -> Array:
    """The T - num_given frames that follow [B, num_given, H, W, C], both in [-1, 1]."""


LACKING = {  # a part: what is needed, and what the generator at hand does instead
  'styles': (
    'a generator with styles, which maps z to a w that every layer is given; this one makes images '
    'of z at once: give one that has a mapping network.'
  ),
  'linear_layers': (
    'a generator that says which of its layers see a latent first and are linear in it; this one '
    'does not: leave out --method, for directions by principal components.'
  ),
  'searchable': (
    'a generator whose images are one pass of a network, of latents that are continuous: gradients '
    'find no latents at the end of a walk of many steps, as of a diffusion, nor of a discrete law; '
    'give a GAN of normal latents.'
  ),
  'encoder': (
    'a generator that was trained with an encoder, and this one has no encoder: give another.'
  ),
  'likelihood': (
    'a generator that says how likely images are, as a diffusion does that makes them of noise '
    'alone, by nothing guided; this one does not: give another, or leave it out.'
  ),
  'enlarger': (
    'a generator that enlarges images, and this one makes them of latents alone: give one that was '
    'trained with model.upsampling.'
  ),
  'classifier': (
    'a classifier of noisy images, and this is a generator without one: give a run of such a '
    'classifier, or what was exported of it.'
  ),
  'steerable': (
    'a generator that walks from noise to an image and can be steered on its way, such as a '
    'diffusion that nothing guides yet; this one cannot: give another; of a cascade, guide the '
    'base before you put it together.'
  ),
  'predictor': (
    'a generator that goes on with the first frames of a clip, and this one does not: give one '
    'that was trained to predict frames.'
  ),
}


def part_of(generator: Generator, name: str, what: str) -> Any:
  """A part of a generator.

  Args:
    generator: any.
    name: of the part.
    what: needs it, as it was asked for: '--mixing', '--metrics=linear_probe'.
  Raises:
    UserError: it has none.
  """
  found = getattr(generator, name, None)
  if found is None:
    raise errors.UserError(f'{what} needs {LACKING[name]}')
  return found


# The same for each, with its type.


def styles_of(generator: Generator, what: str) -> Styles:
  return part_of(generator, 'styles', what)


def linear_layers_of(generator: Generator, what: str) -> LinearLayers:
  return part_of(generator, 'linear_layers', what)


def searchable_of(generator: Generator, what: str) -> Searchable:
  return part_of(generator, 'searchable', what)


def encoder_of(generator: Generator, what: str) -> Encoder:
  return part_of(generator, 'encoder', what)


def likelihood_of(generator: Generator, what: str) -> Likelihood:
  return part_of(generator, 'likelihood', what)


def enlarger_of(generator: Generator, what: str) -> Enlarger:
  return part_of(generator, 'enlarger', what)


def classifier_of(generator: Generator, what: str) -> Classifier:
  return part_of(generator, 'classifier', what)


def steerable_of(generator: Generator, what: str) -> Steerable:
  return part_of(generator, 'steerable', what)


def predictor_of(generator: Generator, what: str) -> Predictor:
  return part_of(generator, 'predictor', what)
