"""A diffusion's network as it is sampled: a walk from noise to an image, or to a larger image.

Latents are x_T; whatever else is drawn for a sample is drawn of their bits. An `Upsampler` enlarges
images that it is given (Dhariwal & Nichol 2021; Ho et al. 2022). Alone, it enlarges those that its
training kept of its last batches, so that whatever samples a generator samples it, too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base import contract, draws
from bigjax.algorithms.base.contract import Gen
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.noising import config as noising_config
from bigjax.algorithms.base.player import to_float
from bigjax.core import errors, ranges
from bigjax.models import unet
from bigjax.nn.diffusion import conditioning as conditionings
from bigjax.nn.diffusion import likelihood, sampling
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.sampling import Walk
from bigjax.nn.diffusion.tables import Tables

Array = jax.Array
TOLD = 1000  # steps that a network is told as if there were so many, with model.rescale_steps


@dataclasses.dataclass(frozen=True)
class Teller:
  """A network, and how it is told of steps, labels and small images.

  Attributes:
    net: its table of labels has one more, for no label, with `unlabelled`.
    num_steps: of the process.
    rescale: whether steps are told as of TOLD.
    unlabelled: whether it knows images without labels.
  """

  net: unet.UNet
  num_steps: int
  rescale: bool
  unlabelled: bool

  @property
  def num_classes(self) -> int:
    return max(self.net.num_classes - self.unlabelled, 1)

  def told(self, t: Array) -> Array:
    """Steps of the whole process as the network is told them."""
    return t.astype(jnp.float32) * (TOLD / self.num_steps) if self.rescale else t

  def say(
    self,
    weights: Any,
    x: Array,
    t: Array,
    y: Array,
    keys: Array | None = None,
    none: Any = False,
    low: Array | None = None,
    level: Array | None = None,
  ) -> Array:
    """What the network says of x at steps t [B] of the whole process.

    Args:
      weights: of the network.
      x, t: noisy images and their steps.
      y: labels [B], or weights over classes [B, classes].
      keys: of dropout.
      none: whether, or [B] of which examples, the label is left out.
      low, level: small images and how noisy they are, as conditioning.Given has them.
    """
    if self.unlabelled:
      y = y if y.ndim == 2 else jax.nn.one_hot(y, self.num_classes)
      none = jnp.broadcast_to(jnp.asarray(none), t.shape).astype(y.dtype)[:, None]
      y = jnp.concatenate([y * (1 - none), none], -1)
    level = level if level is None else self.told(level)
    said: Any = self.net.apply({'params': weights}, x, self.told(t), y, keys, low, level)
    return said


@dataclasses.dataclass(frozen=True)
class WalkSpec:
  """Sampling settings: which steps are kept, how they are walked, and towards what.

  Attributes:
    steps: as `tables.kept_steps` reads them.
    sampler: one of sampling.SAMPLERS.
    eta: of DDIM, its share of ancestral noise.
    label_guidance: scale of classifier-free guidance; 1: none.
    augmentation: noise level of the images that are enlarged; 0: none.
  """

  steps: str
  sampler: str
  eta: float = 0.0
  label_guidance: float = 1.0
  augmentation: int = 0

  def __str__(self) -> str:
    words = f'{self.steps} steps, {self.sampler}'
    words += f', eta {self.eta:g}' if self.eta else ''
    words += f', label guidance {self.label_guidance:g}' if self.label_guidance != 1 else ''
    return words + (f', of images with noise {self.augmentation}' if self.augmentation else '')

  def described(self) -> dict[str, Any]:
    found = dataclasses.asdict(self)
    return found if self.augmentation else {k: v for k, v in found.items() if k != 'augmentation'}


jax.tree_util.register_static(WalkSpec)

OPTIONS = {
  'steps': 'calls of the network: 25, 10,15,20 (of equal parts), ddim25, logsnr25',
  'sampler': f'of the steps: {", ".join(sampling.SAMPLERS)} (DPM-Solver++, with logsnr10 and such)',
  'eta': 'noise of ddim, 0 to 1; 1: as much as ancestral',
  'label_guidance': 'scale of classifier-free guidance, of a network trained with label_dropout',
}
CARD = {'steps': str, 'sampler': str, 'eta': float}
ETA = ranges.Range(0, 1, whole=False)


@dataclasses.dataclass(frozen=True)
class Bound:
  """The parts.Likelihood of a network and its whole process."""

  teller: Teller
  process: Process

  @property
  def words(self) -> str:
    return f'{self.process.num_steps}steps'

  def bits(self, gen: Gen, images: Array, y: Array, keys: Array) -> Array:
    say = lambda x, t: self.teller.say(gen['params'], x, t, y)
    return likelihood.bits(self.process, say, images, keys)


@dataclasses.dataclass(frozen=True)
class Walker(contract.PlainGenerator):
  """The sampled network: latents are x_T, of whose bits the noise of later steps is drawn."""

  teller: Teller
  process: Process  # of all steps

  @property
  def options(self) -> Mapping[str, str]:
    return OPTIONS

  @property
  def searchable(self) -> None:  # it takes many steps
    return None

  @property
  def shape(self) -> tuple[int, ...]:
    net = self.teller.net
    return net.resolution, net.resolution, net.channels

  @property
  def latent_shape(self) -> tuple[int, ...]:
    return self.shape

  @property
  def num_classes(self) -> int:
    return self.teller.num_classes

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> WalkSpec:
    contract.check_options(given, self.options)
    contract.check_sampling(sampling, CARD)
    given = {**{name: sampling[name] for name in CARD}, **(given or {})}
    return read_spec(given, self.process.tables, self.teller.unlabelled)

  def generate(self, gen: Gen, z: Array, y: Array, spec: WalkSpec) -> Array:
    return self.with_noise_of(gen, z, y, spec, z)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: WalkSpec, others: Array) -> Array:
    return self.unfinished(gen, z, y, spec, others, 0)

  def walked(
    self,
    gen: Gen,
    z: Array,
    y: Array,
    spec: WalkSpec,
    keys: Array,
    given: Mapping[str, Array] | None = None,
    left: int = 0,
    gradient: parts.Gradient | None = None,
  ) -> Array:
    """The end of a walk.

    Args:
      gen, z, y, spec: as of `generate`.
      keys: [B], of the noise of its steps.
      given: what the network is given besides.
      left: level of the noise that is left in it, one that is `reachable`.
      gradient: moves every step; None: none.
    """
    of, given = self.kept(spec), given or {}
    stop = int((of.timesteps < left).sum())
    walk = Walk(dataclasses.replace(self.process, tables=of), spec.sampler, spec.eta)
    say = lambda x, t, none=False: self.teller.say(gen['params'], x, t, y, None, none, **given)
    network: Callable[..., Array] = say
    if spec.label_guidance != 1:
      unlabelled = lambda x, t: say(x, t, True)
      network = sampling.classifier_free(say, unlabelled, spec.label_guidance)
    return walk.back(network, z, lambda i: walk.noise(keys, i, self.shape), gradient, stop)

  def kept(self, spec: WalkSpec) -> Tables:
    """The tables of the steps that are kept."""
    return dataclasses.replace(self.process.tables, steps=spec.steps)

  # --- Of guidance by a classifier (parts.Steerable)

  @property
  def steerable(self) -> parts.Steerable | None:
    return self

  @property
  def noising(self) -> parts.Noising:
    return parts.Noising(self.process.tables.schedule, self.process.tables.num)

  def steered(
    self,
    gen: Gen,
    z: Array,
    y: Array,
    spec: WalkSpec,
    gradient: parts.Gradient | None,
    others: Array,
  ) -> Array:
    return self.walked(gen, z, y, spec, draws.keys_of(others), gradient=gradient)

  # --- Of cascades: samples with some noise left in them (parts.Unfinished). Level s is the
  # noise of step s - 1, as conditioning.Noised has it; level 0 is none.

  def reachable(self, spec: WalkSpec, level: int) -> int:
    steps = self.kept(spec).timesteps
    return int(steps[abs(steps + 1 - level).argmin()]) + 1 if level else 0

  def unfinished(
    self, gen: Gen, z: Array, y: Array, spec: WalkSpec, others: Array, left: int
  ) -> Array:
    return self.walked(gen, z, y, spec, draws.keys_of(others), left=left)

  @property
  def likelihood(self) -> Bound | None:
    return Bound(self.teller, self.process)

  def weights(self, gen: Gen) -> Any:
    return gen['params']


@dataclasses.dataclass(frozen=True)
class Upsampler(Walker):
  """A sampled network that enlarges images; a parts.Enlarger itself.

  gen has, besides the weights, a bank of images to be enlarged where none are given: `low`, uint8
  [N, h, w, C], and their `label`. Without one (it was trained elsewhere) it is a stage of cascades.
  """

  conditioning: conditionings.Small
  likelihood = None  # these are of images alone, and it has none
  steerable = None

  @property
  def options(self) -> Mapping[str, str]:
    levels = self.conditioning.levels
    words = f'noise of the images that are enlarged, 0 (none) to {levels}'
    return {**OPTIONS, **({'augmentation': words} if levels else {})}

  @property
  def enlarger(self) -> 'Upsampler':
    return self

  @property
  def low_shape(self) -> tuple[int, ...]:
    side = self.conditioning.resolution
    return side, side, self.teller.net.channels

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> WalkSpec:
    spec = super().spec(sampling, given)
    within = ranges.Range(0, self.conditioning.levels)
    level = within.read('augmentation=', (given or {}).get('augmentation', '0'))
    return dataclasses.replace(spec, augmentation=level)

  def unfinished(
    self, gen: Gen, z: Array, y: Array, spec: WalkSpec, others: Array, left: int
  ) -> Array:
    low = self.picked(gen, y, draws.keys_of(others))
    return self.enlarge(gen, low, z, y, spec, others, left=left)

  def picked(self, gen: Gen, y: Array, keys: Array) -> Array:
    """An image of the bank for each sample, [B, h, w, C], of its label where there are any.

    Raises:
      UserError: there is no bank.
    """
    self.need_bank(gen)
    at = draws.alike(draws.purpose(keys, 'picked'), y, gen['label'])
    return to_float(gen['low'][at])

  def enlarge(
    self,
    gen: Gen,
    low: Array,
    z: Array,
    y: Array,
    spec: WalkSpec,
    others: Array | None = None,
    noisy: bool = False,
    left: int = 0,
  ) -> Array:
    keys = draws.keys_of(z if others is None else others)
    low_keys = draws.purpose(keys, 'low')
    given = self.conditioning.given(low_keys, low, spec.augmentation, noisy)
    return self.walked(gen, z, y, spec, keys, given, left)

  def enlarging(self, gen: Gen) -> Gen:
    return {'params': gen['params']}

  def takes_unfinished(self, generator: contract.Generator) -> bool:
    same = isinstance(generator, Walker) and generator.process.tables == self.process.tables
    return same and self.conditioning.levels > 0

  def level_of(self, spec: WalkSpec) -> int:
    return spec.augmentation

  def at_level(self, spec: WalkSpec, level: int) -> WalkSpec:
    if level > self.conditioning.levels:
      raise errors.UserError(
        f'noise of level {level} is what is left at the step nearest to the augmentation that was '
        f'asked for, and what enlarges knows {self.conditioning.levels} at most; give less, or '
        'more steps before it.'
      )
    return dataclasses.replace(spec, augmentation=level)

  def provenance(self, gen: Gen, spec: WalkSpec, sampling: Mapping[str, Any]) -> tuple[bool, str]:
    del spec, sampling
    if 'label' not in gen:
      return False, ''  # `prepare` then says why
    num = gen['label'].shape[0]
    return True, f'alone, it enlarges {num:,} images of its last batches of training'

  def prepare(self, gen: Gen, key: Array, spec: WalkSpec) -> Gen:
    """As it is; UserError: there is nothing that it can enlarge alone."""
    del key, spec
    self.need_bank(gen)
    return gen

  def need_bank(self, gen: Gen) -> None:
    if 'label' not in gen:
      side = self.conditioning.resolution
      raise errors.UserError(
        f'this generator enlarges images of {side} px and has none of its own to enlarge, so it is '
        'not sampled alone; put it after a generator of such: bigjax export --cascade BASE THIS.'
      )


def read_spec(given: Mapping[str, Any], of: Tables, unlabelled: bool) -> WalkSpec:
  """Settings from words, or a card's values.

  Args:
    given: {option: value}.
    of: the tables of the whole process.
    unlabelled: whether the network knows images without labels.
  Raises:
    UserError: a value means nothing.
  """
  sampler = str(given['sampler'])
  if sampler not in sampling.SAMPLERS:
    raise errors.UserError(
      f'there is no sampler {sampler!r}{errors.did_you_mean(sampler, sampling.SAMPLERS)}; give '
      f'{", ".join(sampling.SAMPLERS)}.'
    )
  steps = noising_config.read_steps(of, str(given['steps']))
  eta = ETA.read('eta=', str(given['eta']))
  scale = noising_config.GUIDANCE.read('label_guidance=', str(given.get('label_guidance', 1.0)))
  if eta and sampler != 'ddim':
    raise errors.UserError(f'eta={eta:g} is of the sampler ddim, not of {sampler}; leave it out.')
  if scale != 1 and not unlabelled:
    raise errors.UserError(
      'label_guidance needs a network that was trained without labels, too '
      '(model.label_dropout=0.1), and this one was not.'
    )
  return WalkSpec(steps, sampler, eta, scale)


def card(
  teller: Teller, process: Process, conditioning: conditionings.Conditioning
) -> dict[str, Any]:
  """The values of a card's `architecture`, from which `make` builds the sampled network."""
  return {
    **noising_config.architecture(teller.net, process.tables), 'learned': teller.net.learned,
    'mean': process.mean, 'variance': process.variance, 'rescale_steps': teller.rescale,
    'unlabelled': teller.unlabelled, **conditioning.card(),
  }  # fmt: skip


def make(architecture: Mapping[str, Any]) -> Walker:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  of = Tables(fields.pop('schedule'), fields.pop('num_steps'))
  process = Process(of, fields.pop('mean'), fields.pop('variance'))
  rescale, unlabelled = fields.pop('rescale_steps'), fields.pop('unlabelled')
  small = {name: fields.pop(name) for name in conditionings.CARD if name in fields}
  conditioning = conditionings.of_card(small, of)
  lists: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ('widths', 'attention')}
  enlarges: dict[str, Any] = {
    'low_resolution': conditioning.resolution,
    'augmented': conditioning.levels > 0,
  }
  teller = Teller(unet.UNet(**fields, **lists, **enlarges), of.num, rescale, unlabelled)
  if isinstance(conditioning, conditionings.Nothing):
    return Walker(teller, process)
  return Upsampler(teller, process, conditioning)
