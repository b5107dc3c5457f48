"""The five places of a residual GAN's step: each is off unless a config asks for something there.

1. the augmentation of whatever the discriminator sees,
2. the transform of its scores,
3. the pair of adversarial losses,
4. terms of the discriminator's loss, each with a value for every example,
5. terms of the generator's.

A term with a weight of 0 is left out of its tuple, so that what is off is not in the program.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from bigjax.core import errors
from bigjax.core.config import Key, Keys
from bigjax.nn import augment as augmentations
from bigjax.nn import class_affines, losses, regularizers, scores
from bigjax.nn.augment import Augment
from bigjax.nn.augment.adaptive import Controller

Array = jax.Array
Score = Callable[[Array], Array]  # images [b, H, W, C] -> [b]


@dataclasses.dataclass(frozen=True)
class Seen:
  """What a term of the discriminator's loss is given, of a part of one device's batch.

  Attributes:
    score: images [b, H, W, C] -> scores [b], with the labels and the dropout of the real images.
    score_fake: the same with those of the fake ones.
    real, fake: images as they are judged, augmented.
    plain_real, plain_fake: before that.
    keys: [b], one for each pair of a real and a fake image.
    augment: (keys, images) -> images.
  """

  score: Score
  score_fake: Score
  real: Array
  fake: Array
  plain_real: Array
  plain_fake: Array
  keys: Array
  augment: Callable[[Array, Array], Array]


DiscTerm = Callable[[Seen], Array]  # -> [b]
# Of all scores of one device: (state, real [B], fake [B]) -> (scalar, new state).
ScoreTerm = Callable[[Any, Array, Array], tuple[Array, Any]]
GenTerm = Callable[[Any, Any], tuple[Array, Any]]  # (state, weights) -> (scalar, new state)
Named = tuple[tuple[str, Any], ...]  # (name, term): the metric of a term is d_NAME or g_NAME


@dataclasses.dataclass(frozen=True)
class Places:
  """What is in the five places.

  Attributes:
    augment: (keys, images, strength) -> images.
    controller: of that strength, for adaptive ones; None: it is `strength`.
    strength: where nothing adapts it.
    transform: of scores, see nn/scores.py.
    loss: the pair.
    disc_terms: of single examples.
    score_terms: of all scores, with a state from one discriminator step to the next.
    gen_terms: with a state from one generator step to the next.
    starts: {name: weights of the generator and a key -> the state that its term begins with}.
    periods: {name of a lazy term of disc_terms: every so many steps}.
  """

  augment: Augment = augmentations.none
  controller: Controller | None = None
  strength: float = 1.0
  transform: scores.Transform = scores.none
  loss: losses.Loss = losses.LOSSES['hinge']
  disc_terms: Named = ()
  score_terms: Named = ()
  gen_terms: Named = ()
  starts: tuple[tuple[str, Callable[[Any, Array], Any]], ...] = ()
  periods: tuple[tuple[str, int], ...] = ()

  def start(self, weights: Any, key: Array) -> dict[str, Any]:
    """States of the terms at step 0, by name.

    Args:
      weights: the generator's, as its network uses them.
      key: of whatever is drawn.
    """
    return {name: begin(weights, key) for name, begin in self.starts}

  def augmented(self, states: Mapping[str, Any]) -> Callable[[Array, Array], Array]:
    """(keys, images) -> images, at the strength that the states of the terms have it at."""
    strength = states['augment']['p'] if 'augment' in states else self.strength
    return lambda keys, images: self.augment(keys, images, strength)

  def adapted(
    self, states: dict[str, Any], metrics: dict[str, Array], num: int
  ) -> tuple[dict[str, Any], dict[str, Array]]:
    """(States, metrics) after the discriminator judged `num` real images: the strength follows."""
    if self.controller is None:
      return states, metrics
    state = self.controller.update(states['augment'], metrics['d_sign_real'], num)
    return {**states, 'augment': state}, {
      **metrics, 'augment_p': state['p'], 'augment_r_t': state['r_t'],
    }  # fmt: skip

  def due(self, due: frozenset[str]) -> Named:
    """Terms of disc_terms that are in a step's program: lazy ones where they are due."""
    lazy = dict(self.periods)
    return tuple((name, term) for name, term in self.disc_terms if name not in lazy or name in due)


# fmt: off
KEYS: Keys = {
  'optim.r1_gamma': Key(0.0, 'gradient penalty on real images (R1; BigGAN Eq. 5); 0: off'),
  'optim.r1_every': Key(
    1, 'steps between two of R1, each with so many times its weight', since=1, least=1,
  ),
  'optim.r2_gamma': Key(0.0, 'the same on fake images; 0: off', since=1),
  'optim.gp_weight': Key(
    0.0, 'gradient penalty between real and fake images (WGAN-GP); 0: off', since=1,
  ),
  'optim.gp_one_sided': Key(False, 'only slopes above 1 cost', since=1),
  'optim.dragan_weight': Key(0.0, 'gradient penalty around real images (DRAGAN); 0: off', since=1),
  'optim.cr_weight': Key(
    0.0, 'consistency of scores of real images under augmentation (CR); 0: off', since=1,
  ),
  'optim.cr_fake_weight': Key(0.0, 'the same of fake images: with cr_weight, bCR; 0: off', since=1),
  'optim.lecam_weight': Key(
    0.0, 'LeCam: scores stay near averages of the other kind; 0: off', since=1,
  ),
  'optim.lecam_decay': Key(0.99, 'of those averages, per discriminator step', since=1),
  'optim.gsr_weight': Key(
    0.0, "spectral norm of what BatchNorm does to each class, the more the rarer (gSR); 0: off",
    since=1
  ),
  'optim.gsr_beta': Key(0.99, 'how soon further images of a class stop counting', since=1),
  'optim.loss': Key('hinge', 'pair of adversarial losses', since=1, choices=tuple(losses.LOSSES)),
  'optim.scores': Key(
    'none', 'normalised scores: none, gran, gn', since=1, choices=tuple(scores.TRANSFORMS),
  ),
  'augment.name': Key(
    'none', "of real and fake images: none, a policy of DiffAugment such as "
    "color,translation,cutout, or ada_ and a set of ADA's such as ada_bgc"
  ),
  'augment.p': Key(
    0.0, 'probability of its transforms, where they have one; adaptive: that at first',
    since=1, most=1
  ),
  'augment.target': Key(
    0.0, 'ADA: mean sign of D on training images above which p grows (0.6); 0: p stays',
    since=1, most=1
  ),
  'augment.kimg': Key(500.0, 'thousand images in which p goes from 0 to 1', since=1, above=0),
}
# fmt: on


def places(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> Places:
  """What a config with KEYS asks for.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: a name that stands for nothing.
  """
  opt = config.optim
  weights = {
    'r1': opt.r1_gamma, 'r2': opt.r2_gamma, 'gp': opt.gp_weight, 'dragan': opt.dragan_weight,
    'cr': opt.cr_weight, 'cr_fake': opt.cr_fake_weight,
  }  # fmt: skip
  disc_terms = disc_terms_of(opt)
  lecam = regularizers.lecam(opt.lecam_weight, opt.lecam_decay)
  score_terms, gen_terms, starts = (), (), ()
  if opt.lecam_weight:
    score_terms = (('lecam', lecam),)
    starts += (('lecam', lambda weights, key: regularizers.lecam_start()),)
  if opt.gsr_weight:
    counts = class_counts() if class_counts else [1] * config.data.num_classes
    term = class_affines.gsr(class_affines.class_weights(counts, opt.gsr_weight, opt.gsr_beta))
    gen_terms = (('gsr', lambda state, weights: term(state, class_affines.affines(weights))),)
    starts += (
      ('gsr', lambda weights, key: class_affines.start(class_affines.affines(weights), key)),
    )
  controller = None
  if config.augment.target:
    controller = Controller(opt.batch_size, config.augment.target, config.augment.kimg)
    starts += (('augment', lambda weights, key: controller.init(config.augment.p)),)
  return Places(
    augment=augmentations.find(config.augment.name),
    controller=controller,
    strength=config.augment.p if config.augment.name.startswith('ada_') else 1.0,
    transform=errors.pick(opt.scores, scores.TRANSFORMS, 'optim.scores')(),
    loss=errors.pick(opt.loss, losses.LOSSES, 'optim.loss'),
    disc_terms=tuple((name, disc_terms[name]) for name, weight in weights.items() if weight),
    score_terms=score_terms,
    gen_terms=gen_terms,
    starts=starts,
    periods=(('r1', opt.r1_every),) if opt.r1_gamma and opt.r1_every > 1 else (),
  )


def disc_terms_of(opt: ml_collections.ConfigDict) -> Mapping[str, DiscTerm]:
  """Every term of the discriminator's loss there is, by name, at a config's weights."""
  r1 = regularizers.r1_penalty(opt.r1_gamma * opt.r1_every)
  r2 = regularizers.r1_penalty(opt.r2_gamma)  # at the fake images, under their labels
  gp = regularizers.gradient_penalty(opt.gp_weight, one_sided=opt.gp_one_sided)
  dragan = regularizers.dragan_penalty(opt.dragan_weight)
  cr, cr_fake = (regularizers.consistency(weight) for weight in (opt.cr_weight, opt.cr_fake_weight))
  return {
    'r1': lambda seen: r1(seen.score, seen.real, seen.fake, seen.keys),
    'r2': lambda seen: r2(seen.score_fake, seen.fake, seen.real, seen.keys),
    'gp': lambda seen: gp(seen.score, seen.real, seen.fake, seen.keys),
    'dragan': lambda seen: dragan(seen.score, seen.real, seen.fake, seen.keys),
    'cr': lambda seen: cr(seen.score, seen.augment, seen.plain_real, seen.keys),
    'cr_fake': lambda seen: cr_fake(seen.score_fake, seen.augment, seen.plain_fake, seen.keys),
  }
