"""What a config puts into the five places of base/places.py, and the keys that say it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from bigjax.algorithms.base.places import DiscTerm, GenTerm, Named, Places
from bigjax.core import errors
from bigjax.core.config import flat
from bigjax.core.keys import Key, Keys
from bigjax.nn import augment
from bigjax.nn.augment import ada, adaptive
from bigjax.nn.objectives import class_affines, losses, perturbations, regularizers, scores

Array = jax.Array
ADAPTIVE = 'ada_'  # how the names of augmentations with a probability begin

# fmt: off
KEYS: Keys = {
  'optim.r1_gamma': Key(0.0, 'gradient penalty on real images (R1; BigGAN Eq. 5); 0: off'),
  'optim.r1_every': Key(
    1, 'steps between two of R1, each with so many times its weight', since=1, least=1,
  ),
  'optim.r1_plain': Key(
    False, 'its gradient is by images before augmentation, through it (StyleGAN2-ADA)', since=1,
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
  'optim.cr_augment': Key(
    'flip,translation', "what changes those images, on top of augment.name; none: nothing, and "
    'they are compared with those that have not been augmented', since=1,
  ),
  'optim.zcr_weight': Key(
    0.0, 'consistency of scores of fakes whose z are near (zCR); 0: off', since=1,
  ),
  'optim.zcr_gen_weight': Key(
    0.0, 'how much the generator gains by making these differ (zCR); 0: off', since=1
  ),
  'optim.zcr_sigma': Key(
    0.05, 'standard deviation of the step from z to one that is near', since=1, above=0
  ),
  'optim.lecam_weight': Key(
    0.0, 'LeCam: scores stay near averages of the other kind; 0: off', since=1,
  ),
  'optim.lecam_decay': Key(0.99, 'of those averages, per discriminator step', since=1, most=1),
  'optim.top_k_least': Key(
    1.0, 'least share of its batch that the generator learns from, the best (top-k); 1: off',
    since=1, above=0, most=1,
  ),
  'optim.top_k_decay': Key(0.99, 'of that share, per epoch', since=1, above=0, most=1),
  'optim.gsr_weight': Key(
    0.0, "spectral norm of what BatchNorm does to each class, the more the rarer (gSR); 0: off",
    since=1,
  ),
  'optim.gsr_beta': Key(
    0.99, 'how soon further images of a class stop counting', since=1, below=1,
  ),
  'optim.gsr_every': Key(
    1, 'steps between two of gSR, each with so many times its weight', since=1, least=1,
  ),
  'optim.loss': Key('hinge', 'pair of adversarial losses', since=1, choices=tuple(losses.LOSSES)),
  'optim.scores': Key(
    'none', 'scores divided by the norm of their gradient: none, gran, gn', since=1,
    choices=tuple(scores.TRANSFORMS),
  ),
  'optim.gran_k': Key(
    1.0, "GraN's Lipschitz constant K", since=1, above=0, where=('optim.scores', 'gran'),
  ),
  'optim.gran_eps': Key(
    0.1, 'added to the squared norm', since=1, above=0, where=('optim.scores', 'gran'),
  ),
  'model.disc_perturb': Key(
    'none', "what perturbs the input of D's convolutions (PConv), see docs/stabilisers.md", since=1,
    choices=tuple(perturbations.PERTURBATIONS),
  ),
  'model.disc_perturb_amount': Key(
    0.1, 'its standard deviation, or share that is dropped', since=1, below=1,
    where=('model.disc_perturb', *list(perturbations.PERTURBATIONS)[1:]),
  ),
  'augment.name': Key(
    'none', "of real and fake images: none, a policy of DiffAugment such as "
    "color,translation,cutout, or ada_ and a set of ADA's such as ada_bgc"
  ),
  'augment.pseudo': Key(
    False, 'fakes shown as training images, with probability p (APA)', since=1,
  ),
  'augment.p': Key(0.0, 'probability of ADA or APA; 0 where it adapts', since=1, most=1),
  'augment.target': Key(
    0.0, 'measure of overfitting above which p grows from 0 (ADA, APA: 0.6); 0: p stays', since=1,
    most=1,
  ),
  'augment.measure': Key(
    'lambda_r', "mean sign of D on training images (ADA's r_t), of minus that on fakes, or both",
    since=1, choices=tuple(adaptive.MEASURES),
  ),
  'augment.kimg': Key(500.0, 'thousand images in which p goes from 0 to 1', since=1, above=0),
}
# fmt: on
# Those of an augmentation with a probability, for games that have no other places.
OF_AUGMENTATION: Keys = {
  name: KEYS[name] for name in ('augment.name', 'augment.p', 'augment.target', 'augment.kimg')
}
# Keys that change nothing while all of these are off, which is their default here.
SAYS_HOW = {
  'optim.r1_every': ('optim.r1_gamma',),
  'optim.r1_plain': ('optim.r1_gamma',),
  'optim.gp_one_sided': ('optim.gp_weight',),
  'optim.cr_augment': ('optim.cr_weight', 'optim.cr_fake_weight'),
  'optim.zcr_sigma': ('optim.zcr_weight', 'optim.zcr_gen_weight'),
  'optim.lecam_decay': ('optim.lecam_weight',),
  'optim.top_k_decay': ('optim.top_k_least',),
  'optim.gsr_beta': ('optim.gsr_weight',),
  'optim.gsr_every': ('optim.gsr_weight',),
  'augment.kimg': ('augment.target',),
  'augment.measure': ('augment.target',),
}


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse what means nothing together.

  Raises:
    UserError: names the first such keys.
  """
  how, opt = config.augment, config.optim
  check_augmentation(config)
  if how.target and not errors.pick(opt.loss, losses.LOSSES, 'optim.loss').has_sides:
    raise errors.UserError(
      f'augment.target={how.target:g} adapts to the sign of scores, which says nothing with '
      f'optim.loss={opt.loss}: its scores have no zero between real and fake; give augment.p, or '
      'another loss.'
    )
  # Terms that look at the whole batch, and pairs that are of use together or not at all.
  if opt.dragan_weight and config.run.microbatches > 1:
    raise errors.UserError(
      'optim.dragan_weight takes the deviation of the whole batch, which is never whole with '
      f'run.microbatches={config.run.microbatches}; set that to 1, or take another penalty.'
    )
  check_idle(config, KEYS)
  if how.pseudo and how.name.startswith(ADAPTIVE):
    raise errors.UserError(
      f'augment.pseudo and augment.name={how.name} would both be driven by one probability; turn '
      "one of them off (DiffAugment's policies go with both)."
    )
  if (opt.cr_weight or opt.cr_fake_weight) and opt.cr_augment == how.name == 'none':
    raise errors.UserError(
      'optim.cr_weight compares scores of images that optim.cr_augment or augment.name change, and '
      'both are none; give one, such as optim.cr_augment=flip,translation, or turn the weight off.'
    )


def check_augmentation(config: ml_collections.ConfigDict) -> None:
  """Refuse an augmentation and a probability that mean nothing together.

  Args:
    config: with OF_AUGMENTATION at least.
  Raises:
    UserError: names the first such keys.
  """
  # The probability of the augmentation: fixed or adapted, and of something that has one.
  how, pseudo = config.augment, config.augment.get('pseudo', False)
  has_p = how.name.startswith(ADAPTIVE) or pseudo
  if how.target and how.p:
    raise errors.UserError(
      f'augment.p={how.p:g} fixes the probability of the augmentation, and '
      f'augment.target={how.target:g} adapts it; give one of them, and 0 for the other.'
    )
  if (how.target or how.p) and not has_p:
    key = 'target' if how.target else 'p'
    raise errors.UserError(
      f'augment.{key} is {how[key]:g}, but augment.name={how.name} has no probability; give one of '
      "ADA's sets, such as augment.name=ada_bgc, or augment.pseudo=True, or set it to 0."
    )
  if has_p and not (how.target or how.p):
    what = 'augment.pseudo=True' if pseudo else f'augment.name={how.name}'
    raise errors.UserError(
      f'{what} needs a probability; give augment.target=0.6, which adapts it, or a fixed one by '
      'augment.p.'
    )
  of = augment.find(how.name) if how.name.startswith(ADAPTIVE) else None
  coloured = isinstance(of, ada.Pipeline) and of.transforms <= ada.OF_COLOURS
  if coloured and config.data.channels == 1:
    raise errors.UserError(
      f'augment.name={how.name} changes colours alone, and images are grey (data.channels=1); '
      "give another of ADA's sets, such as augment.name=ada_bg, or data.channels=3."
    )


def check_idle(config: ml_collections.ConfigDict, keys: Keys) -> None:
  """Refuse those of `keys` that say how, where another key says that not.

  Raises:
    UserError: names the first.
  """
  values = flat(config)
  for name, switches in SAYS_HOW.items():
    if name not in keys:
      continue
    default, value = KEYS[name].default, values[name]
    if value != default and all(values[switch] == KEYS[switch].default for switch in switches):
      verb, off = 'is' if len(switches) == 1 else 'are', KEYS[switches[0]].default
      raise errors.UserError(
        f'{name}={value} says how, but {" and ".join(switches)} {verb} {off:g}, which is off; give '
        f'another value, or leave {name} at {default}.'
      )


def per_example(config: ml_collections.ConfigDict) -> str:
  """The first key that needs scores that follow each from its own image alone, '' if none."""
  opt, weights = config.optim, ('r1_gamma', 'r2_gamma', 'gp_weight', 'dragan_weight')
  found = [f'optim.{name}' for name in weights if opt[name]]
  return ([*found, ''] if opt.scores == 'none' else [f'optim.scores={opt.scores}'])[0]


def places(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> Places:
  """Makes the Places of a config with KEYS.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: a name that stands for nothing, or what means nothing together.
  """
  check(config)
  opt = config.optim
  counts = class_counts or (lambda: [1] * config.data.num_classes)  # not read where not needed
  disc_terms, gen_terms = terms(opt)
  score_terms: Named = ()
  weight_terms: Named = ()
  filters: Named = ()
  starts: Named = ()
  periods: tuple[tuple[str, int], ...] = ()
  # Terms with a state: each brings what it starts from.
  if opt.lecam_weight:
    score_terms = (('lecam', regularizers.lecam(opt.lecam_weight, opt.lecam_decay)),)
    starts += (('lecam', lambda weights, key: regularizers.lecam_start()),)
  if opt.gsr_weight:
    lambdas = class_affines.class_weights(counts(), opt.gsr_weight * opt.gsr_every, opt.gsr_beta)
    gsr = class_affines.gsr(lambdas)
    weight_terms = (('gsr', lambda state, weights: gsr(state, class_affines.affines(weights))),)
    starts += (
      ('gsr', lambda weights, key: class_affines.start(class_affines.affines(weights), key)),
    )
  if opt.top_k_least < 1:
    epochs = opt.batch_size * opt.d_steps / sum(counts())  # of a step
    filters = (('top_k', regularizers.top_k(opt.top_k_decay**epochs, opt.top_k_least)),)
    starts += (('top_k', lambda weights, key: regularizers.top_k_start()),)
  fields = augmentation(config, opt.batch_size * opt.d_steps)
  starts += fields.pop('starts')
  # Latents near others (zCR), lazy terms, and what the discriminator's features go through.
  near = lambda keys, z: regularizers.nearby(keys, z, opt.zcr_sigma)
  for name, weight, every in (
    ('r1', opt.r1_gamma, opt.r1_every), ('gsr', opt.gsr_weight, opt.gsr_every)
  ):  # fmt: skip
    periods += ((name, every),) if weight and every > 1 else ()
  amount = config.model.get('disc_perturb_amount')
  perturb = errors.pick(
    config.model.disc_perturb, perturbations.PERTURBATIONS, 'model.disc_perturb'
  )(amount)
  gran = {'k': opt.gran_k, 'eps': opt.gran_eps} if opt.scores == 'gran' else {}
  return Places(
    **fields,
    perturb=perturb,
    transform=errors.pick(opt.scores, scores.TRANSFORMS, 'optim.scores')(**gran),
    loss=errors.pick(opt.loss, losses.LOSSES, 'optim.loss'),
    filters=filters,
    disc_terms=disc_terms,
    score_terms=score_terms,
    gen_terms=gen_terms,
    weight_terms=weight_terms,
    latents=(('near', near),) if opt.zcr_weight or opt.zcr_gen_weight else (),
    starts=starts,
    periods=periods,
  )


def augmentation(config: ml_collections.ConfigDict, num: int) -> dict[str, Any]:
  """The fields of Places that an augmentation and its strength have.

  Args:
    config: with OF_AUGMENTATION at least, checked.
    num: training images of a step.
  """
  how, controller = config.augment, None
  starts: Named = ()
  if how.target:  # ADA's controller of p, whose state is the augmentation's
    measure = errors.pick(how.get('measure', 'lambda_r'), adaptive.MEASURES, 'augment.measure')
    controller = adaptive.Controller(num, how.target, how.kimg, measure=measure)
    starts = (('augment', lambda weights, key: controller.init()),)
  return {
    'augment': augment.find(how.name), 'pseudo': how.get('pseudo', False), 'strength': how.p,
    'controller': controller, 'starts': starts,
  }  # fmt: skip


def terms(
  opt: ml_collections.ConfigDict,
) -> tuple[tuple[tuple[str, DiscTerm], ...], tuple[tuple[str, GenTerm], ...]]:
  """(The discriminator's terms of single examples, the generator's) that have a weight."""
  r1 = regularizers.r1_penalty(opt.r1_gamma * opt.r1_every)
  r2 = regularizers.r2_penalty(opt.r2_gamma)
  gp = regularizers.gradient_penalty(opt.gp_weight, one_sided=opt.gp_one_sided)
  dragan = regularizers.dragan_penalty(opt.dragan_weight)
  cr, cr_fake = (regularizers.consistency(weight) for weight in (opt.cr_weight, opt.cr_fake_weight))
  change = augment.find(opt.cr_augment)
  plain = change is augment.none
  other = lambda x, images, plainly: plainly if plain else change(x.keys, images, 1.0)
  zcr = regularizers.consistency(opt.zcr_weight)
  zcr_gen = regularizers.latent_diversity(opt.zcr_gen_weight)
  # fmt: off
  disc: Mapping[str, tuple[float, DiscTerm]] = {
    'r1': (opt.r1_gamma, lambda x: (
      r1(x.score_plain, x.plain_real, x.fake, x.keys) if opt.r1_plain
      else r1(x.score, x.real, x.fake, x.keys))),
    'r2': (opt.r2_gamma, lambda x: r2(x.score_fake, x.real, x.fake, x.keys)),
    'gp': (opt.gp_weight, lambda x: gp(x.score, x.real, x.fake, x.keys)),
    'dragan': (opt.dragan_weight, lambda x: dragan(x.score, x.real, x.fake, x.keys)),
    'cr': (opt.cr_weight, lambda x: cr(
      x.real_scores, x.score(other(x, x.real, x.plain_real)))),
    'cr_fake': (opt.cr_fake_weight, lambda x: cr_fake(
      x.fake_scores, x.score_fake(other(x, x.fake, x.plain_fake)))),
    'zcr': (opt.zcr_weight, lambda x: zcr(
      x.fake_scores, x.score_fake(x.augment(x.others['near'])))),
  }
  gen: Mapping[str, tuple[float, GenTerm]] = {
    'zcr': (opt.zcr_gen_weight, lambda x: zcr_gen(x.fake, x.others['near'])),
  }
  # fmt: on
  on = lambda named: tuple((name, term) for name, (weight, term) in named.items() if weight)
  return on(disc), on(gen)
