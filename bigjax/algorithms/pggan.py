"""PGGAN (Karras et al. 2018): both networks grow from 4 px, each new resolution fading in.

WGAN-GP with a drift term that keeps D's scores of real images near 0; equalised learning rates; one
step of each player on fresh latents, or both from the same fakes; Adam's moments begin anew where a
resolution begins to fade in and where it has; averaged weights are sampled. With classes, D has an
AC-GAN's head. Differences from the authors' code: networks run at the resolution at hand, where it
enlarges images to the last one; the fade weight is renewed every step, not every fourth; minibatch
discrimination begins from the first minibatch of real images, not from 500.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import (
  configs,
  contract,
  growing,
  player,
  standing_statistics,
  style_config,
)
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, State
from bigjax.algorithms.base.draws import LabelLaw, label_law
from bigjax.algorithms.base.growing import GrowingStage
from bigjax.algorithms.base.player import Player
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import parallel
from bigjax.core.keys import Key, Keys
from bigjax.core.ranges import BATCH
from bigjax.models import pggan
from bigjax.nn import latents, optim
from bigjax.nn.objectives import losses, regularizers
from bigjax.nn.style import blocks, equalized

Array = jax.Array
KERNELS = 100  # of minibatch discrimination
RAMP_IMAGES = 40_000  # over which `optim.ramp` lets learning rates rise


def ramp(images: Array) -> Array:
  """The share of its learning rate that a player has after so many images: exp(-5 (1 - t)^2)."""
  return jnp.exp(-5 * jnp.square(1 - jnp.minimum(images / RAMP_IMAGES, 1)))


@dataclasses.dataclass(frozen=True)
class PGGAN:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  gen_net: pggan.Generator
  disc_net: pggan.Discriminator
  gen: Callable[[Any], Player]  # of its learning rate
  disc: Callable[[Any], Player]
  rates: tuple[float, float]  # of the generator and the discriminator, but where a stage has one
  ramps: bool
  growth: Callable[[int], contract.Stages]  # number of steps -> stages
  labels: LabelLaw
  ema: float
  penalty: regularizers.Penalty
  drift: Callable[[Array], Array]  # scores of real images -> [B]
  simultaneous: bool
  equalized: bool
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'gen'
  remedies = 'lower the learning rates (optim.gen_lr, optim.disc_lr), or raise optim.fade_kimg'

  def stages(self, num_steps: int) -> contract.Stages:
    return self.growth(num_steps)

  def players(self, stage: GrowingStage, step: Array) -> tuple[Player, Player]:
    """The generator and the discriminator with the learning rates of a step."""
    rates = self.rates if stage.lr is None else (stage.lr, stage.lr)
    if self.ramps:
      shown = stage.before + (step - stage.first).astype(jnp.float32) * stage.num_images
      rates = [lambda _, rate=rate: rate * ramp(shown) for rate in rates]
    return self.gen(rates[0]), self.disc(rates[1])

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net, level = self.gen_net, blocks.level_of(self.gen_net.resolution)
    z, y, alpha = jnp.zeros((2, net.num_latents)), jnp.zeros((2,), jnp.int32), jnp.ones(())
    images = jnp.zeros((2, 2**level, 2**level, net.channels))
    gen = net.init(key_gen, z, y, level, alpha)['params']
    disc = self.disc_net.init(key_disc, images, level, alpha)['params']
    if not self.equalized:  # He's constants are in the parameters, once and for all
      gen = equalized.scale(gen, pggan.GEN_GAINS)
      disc = equalized.scale(disc, pggan.DISC_GAINS)
    players = {
      'gen': self.gen(0.0).init(player.replace(gen, given.get('gen', {}))),
      'disc': self.disc(0.0).init(player.replace(disc, given.get('disc', {}))),
    }
    ema = player.replace(players['gen']['params'], given.get('ema', {}))
    return player.initial_state(key_state, players, ema)

  def fresh(self, key: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """Draw latents, labels and keys for the rest, one per example."""
    key_z, key_y, key_mix = jax.random.split(key, 3)
    inputs = {
      'z': jax.random.normal(key_z, (*shape, self.gen_net.num_latents)),
      'y': self.labels.draw(key_y, shape),
      'mix': jax.random.split(key_mix, shape),
    }
    return parallel.shard_examples(inputs, lead=len(shape) - 1)

  def examples(self, state: State, batch: Batch, stage: GrowingStage) -> tuple[dict, dict]:
    """The discriminator's examples of a step [k, B, ...], and the generator's [B, ...]."""
    key_disc, key_gen = jax.random.split(jax.random.fold_in(state['key'], state['step']))
    # Its fakes have the labels of its real images.
    of_disc = {**batch, **self.fresh(key_disc, (stage.minibatches, stage.examples))}
    of_disc['y'] = batch['label']
    if self.simultaneous:
      return of_disc, {name: of_disc[name][0] for name in ('z', 'y', 'mix')}
    return of_disc, self.fresh(key_gen, (stage.examples,))

  def disc_loss(
    self, weights: Any, shared: dict, batch: dict, stage: GrowingStage
  ) -> tuple[Array, Metrics]:
    """L_D on one device's examples: Wasserstein, gradient penalty, drift, classes."""
    alpha = shared['alpha']
    judge = lambda images: self.disc_net.apply({'params': weights}, images, stage.level, alpha)
    fake = self.images(shared['gen'], batch, stage, alpha)
    real = stage.reals(batch['image'], alpha)
    (real_scores, real_classes), (fake_scores, fake_classes) = judge(real), judge(fake)
    score = lambda images: judge(images)[0]
    penalty = self.penalty(score, real, fake, batch['mix']).mean()
    drift = self.drift(real_scores).mean()
    metrics = {
      'd_loss': fake_scores.mean() - real_scores.mean(),
      'd_logit_real': real_scores.mean(), 'd_logit_fake': fake_scores.mean(),
      'd_gp': penalty, 'd_drift': drift,
    }  # fmt: skip
    total = metrics['d_loss'] + penalty + drift
    if real_classes is not None:
      entropy = losses.class_entropy(real_classes, batch['label'])
      entropy = (entropy + losses.class_entropy(fake_classes, batch['y'])).mean()
      metrics['d_class'], total = entropy, total + entropy
    return total, metrics

  def gen_loss(
    self, weights: Any, shared: dict, batch: dict, stage: GrowingStage
  ) -> tuple[Array, Metrics]:
    """L_G on one device's examples."""
    alpha = shared['alpha']
    fake = self.images(weights, batch, stage, alpha)
    scores, classes = self.disc_net.apply({'params': shared['disc']}, fake, stage.level, alpha)
    loss = -scores.mean()
    if classes is None:
      return loss, {'g_loss': loss}
    entropy = losses.class_entropy(classes, batch['y']).mean()
    return loss + entropy, {'g_loss': loss, 'g_class': entropy}

  def images(self, weights: Any, batch: dict, stage: GrowingStage, alpha: Array) -> Array:
    """The generator's images [B, H, W, C] at a stage's resolution."""
    return self.gen_net.apply({'params': weights}, batch['z'], batch['y'], stage.level, alpha)

  def losses(self, state: State, batch: Batch, stage: GrowingStage) -> dict[str, contract.Loss]:
    gen, disc = self.players(stage, state['step'])
    of_disc, of_gen = self.examples(state, batch, stage)
    alpha = stage.alpha(state['step'])
    players = state['players']
    of_gen_loss = {'disc': disc.weights(players['disc']), 'alpha': alpha}
    of_disc_loss = {'gen': gen.weights(players['gen']), 'alpha': alpha}
    first = jax.tree.map(lambda x: x[0], of_disc)
    bound = lambda loss: functools.partial(loss, stage=stage)
    return {
      'gen': gen.loss(players['gen'], bound(self.gen_loss), of_gen_loss, of_gen),
      'disc': disc.loss(players['disc'], bound(self.disc_loss), of_disc_loss, first),
    }

  def step(
    self, state: State, batch: Batch, stage: GrowingStage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    step, skipped = state['step'], state['aux']['skipped']
    of_gen_player, of_disc_player = self.players(stage, step)
    of_disc, of_gen = self.examples(state, batch, stage)
    alpha = stage.alpha(step)

    # Adam begins anew where blocks begin to fade in, and where they have.
    anew = stage.begins_anew(step)
    gen = growing.begun_anew(of_gen_player, state['players']['gen'], anew)
    before = growing.begun_anew(of_disc_player, state['players']['disc'], anew)

    if self.disc_net.discrimination:
      before = self.fitted(of_disc_player, before, of_disc, stage, step)

    # Discriminator: k steps, each on a minibatch of its own, with fresh fakes.
    shared = {'gen': of_gen_player.weights(gen), 'alpha': alpha}
    loss = functools.partial(self.disc_loss, stage=stage)
    disc, disc_skipped, disc_metrics, _ = of_disc_player.descend_each(
      before, skipped['disc'], loss, shared, of_disc, 'd_grad_norm'
    )

    # Generator: one step against the discriminator as it is now, or as it was.
    judge = of_disc_player.weights(before if self.simultaneous else disc)
    loss = functools.partial(self.gen_loss, stage=stage)
    gen, gen_skipped, finite, metrics = of_gen_player.descend(
      gen, skipped['gen'], loss, {'disc': judge, 'alpha': alpha}, of_gen, 'g_grad_norm'
    )

    ema = player.averaged(state, gen['params'], self.ema, 0, finite)
    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped)
    return state, metrics | disc_metrics | refused | {'fade': alpha}

  def fitted(
    self, of: Player, disc: dict[str, Any], examples: dict, stage: GrowingStage, step: Array
  ) -> dict[str, Any]:
    """The discriminator, before the first step with minibatch discrimination begun from data."""

    def begun(params):
      fit = lambda weights, shared, batch: pggan.fitted(
        self.disc_net, weights, stage.reals(batch['image'], shared), stage.level
      )
      first = jax.tree.map(lambda x: x[0], examples)
      weights = of.weights({**disc, 'params': params})
      return player.replace(params, parallel.over_batch(fit)(weights, stage.alpha(step), first))

    params = jax.lax.cond(step == 0, begun, lambda params: params, disc['params'])
    return {**disc, 'params': params}

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: GrowingStage) -> Metrics:
    del batch, held_out
    gen, disc = self.players(stage, state['step'])
    whole = parallel.all_gather_weights(state['players'])
    return player.vital_signs({'gen': gen, 'disc': disc}, whole)

  def generator(self, state: State, stage: GrowingStage) -> Gen:
    gen, _ = self.players(stage, state['step'])
    params = gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    return {'params': {'weights': params, 'alpha': stage.alpha(state['step'])}}

  def architecture(self, stage: GrowingStage) -> dict[str, Any]:
    fields = {name: getattr(self.gen_net, name) for name in SAMPLED}
    return {'level': stage.level, 'equalized': self.equalized, **fields}

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


# --- After training


# The generator's fields on the card.
SAMPLED = (
  'resolution', 'num_classes', 'fmap_base', 'fmap_max', 'z_dim', 'channels', 'norm', 'activation',
  'tanh', 'normalize_latents', 'normalize_labels',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AtLevel:
  """The generator's network at one resolution: its parameters are {weights, alpha}.

  `equalized`: whether its weights are those of an equalised learning rate.
  """

  net: pggan.Generator
  level: int
  equalized: bool

  @property
  def resolution(self) -> int:
    return 2**self.level

  @property
  def channels(self) -> int:
    return self.net.channels

  @property
  def z_dim(self) -> int:
    return self.net.num_latents

  @property
  def num_classes(self) -> int:
    return self.net.num_classes

  def parameters(self, gen: Gen) -> Any:
    """What the weights of a sampled generator were made of."""
    weights = gen['params']['weights']
    return equalized.unscale(weights, pggan.GEN_GAINS) if self.equalized else weights

  def apply(self, variables: dict, z: Array, y: Array, train: bool = False, **how: Any) -> Any:
    params = variables['params']
    variables = {**variables, 'params': params['weights']}
    return self.net.apply(variables, z, y, self.level, params['alpha'], train=train, **how)


@dataclasses.dataclass(frozen=True)
class Growing(contract.OfNetwork, contract.PlainGenerator):
  """The sampled network; gen is {params: {weights, alpha}}."""

  net: AtLevel

  def generate(self, gen: Gen, z: Array, y: Array, spec: contract.NoChoice) -> Array:
    del spec
    return self.net.apply({'params': gen['params']}, z, y)

  def weights(self, gen: Gen) -> Any:
    return self.net.parameters(gen)


class GrowingWithBatchNorm(StandingStatistics):
  """The same with BatchNorm, of Table 1's first rows."""

  def weights(self, gen: Gen) -> Any:
    return self.net.parameters(gen)


def make_generator(architecture: dict[str, Any]) -> contract.Generator:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  level, equal = fields.pop('level'), fields.pop('equalized')
  net = AtLevel(pggan.Generator(**fields), level, equal)
  if net.net.norm == 'batch':
    return GrowingWithBatchNorm(net, latents.law('normal'))
  return Growing(net)


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
OF_BATCH_NORM = {
  name: dataclasses.replace(key, where=('model.gen_norm', 'batch'))
  for name, key in standing_statistics.KEYS.items()
}
MINIBATCH = ('stddev', 'discrimination', 'none')
# fmt: off
KEYS: Keys = {
  **style_config.KEYS,
  'model.gen_norm': Key(
    'pixel', "norm of the generator's layers", choices=pggan.GEN_NORMS,
  ),
  'model.gen_activation': Key(
    'lrelu', "activation of the generator's layers", choices=tuple(pggan.ACTIVATIONS),
  ),
  'model.gen_tanh': Key(False, 'whether its images end in tanh; else they are linear'),
  'model.normalize_latents': Key(True, 'whether z has its length normalised'),
  'model.normalize_labels': Key(
    False, 'whether the label joins z before that (TensorFlow code), or after it',
  ),
  'model.disc_norm': Key(
    'none', "norm of the discriminator's layers", choices=pggan.DISC_NORMS,
  ),
  'model.order': Key(
    'theano', 'D averages 2x2 activations (theano: the paper), or activates averages (tf)',
    choices=blocks.ORDERS,
  ),
  'model.minibatch': Key(
    'stddev', 'how D sees the variety of a batch', choices=MINIBATCH,
  ),
  'model.stddev_group': Key(
    0, 'examples whose deviation is taken together; 0: the whole batch', most=BATCH.most,
    where=('model.minibatch', 'stddev'),
  ),
  **growing.KEYS,
  'optim.simultaneous': Key(
    False, 'whether both players move from the same fakes, before either has moved',
  ),
  'optim.ramp': Key(False, 'whether learning rates rise over the first 40 thousand images'),
  'optim.equalized': Key(True, 'whether learning rates are equalised over layers'),
  'optim.gp_weight': Key(10.0, 'gradient penalty between real and fake images (WGAN-GP); 0: off'),
  'optim.gp_target': Key(1.0, 'the slope that it aims at; its weight is over its square', above=0),
  'optim.drift': Key(0.001, "weight of D's squared scores of real images"),
  **OF_BATCH_NORM,
}
TINY = {
  'run.steps': 4, 'data.resolution': 8,
  'model.fmap_base': 32, 'model.fmap_max': 16, 'model.z_dim': 16, 'model.dtype': 'float32',
  'model.first_resolution': 4, 'optim.batch_size': 8, 'optim.batch_at': (), 'optim.lr_at': (),
  'optim.hold_kimg': 0.008, 'optim.fade_kimg': 0.016, 'optim.d_steps': 1, 'optim.ramp': False,
}
DIGITS = {
  'model.fmap_base': 128, 'model.fmap_max': 32, 'model.z_dim': 32, 'model.dtype': 'float32',
  'model.first_resolution': 4, 'optim.batch_size': 32, 'optim.batch_at': (), 'optim.lr_at': (),
  'optim.hold_kimg': 4.0, 'optim.fade_kimg': 4.0, 'optim.d_steps': 1, 'optim.ramp': False,
  'optim.gen_lr': 2e-3, 'optim.disc_lr': 2e-3, 'optim.ema_decay': 0.99,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  growing.check(config)


def make_nets(config: ml_collections.ConfigDict) -> tuple[pggan.Generator, pggan.Discriminator]:
  """The networks of a config."""
  data, model = config.data, config.model
  shared = style_config.of_both(config)
  gen_net = pggan.Generator(
    **shared, z_dim=model.z_dim, channels=data.channels, norm=model.gen_norm,
    activation=model.gen_activation, tanh=model.gen_tanh,
    normalize_latents=model.normalize_latents, normalize_labels=model.normalize_labels,
  )  # fmt: skip
  disc_net = pggan.Discriminator(
    **shared, norm=model.disc_norm, order=model.order,
    stddev_features=int(model.minibatch == 'stddev'),
    stddev_group=model.get('stddev_group') or None,
    discrimination=KERNELS if model.minibatch == 'discrimination' else 0,
  )  # fmt: skip
  return gen_net, disc_net


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> PGGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`.
  """
  check(config)
  data, model, opt = config.data, config.model, config.optim
  gen_net, disc_net = make_nets(config)

  def of_rate(gains, rate):
    adam = optim.OPTIMIZERS['adam_b1_0'](rate, 0.0, opt.b2, opt.eps)
    how = player.equalized(gains) if opt.equalized else player.IDENTITY
    return Player(adam, reparametrisation=how, dtype=gen_net.dtype)

  return PGGAN(
    gen_net, disc_net,
    gen=functools.partial(of_rate, pggan.GEN_GAINS),
    disc=functools.partial(of_rate, pggan.DISC_GAINS),
    rates=(opt.gen_lr, opt.disc_lr), ramps=opt.ramp,
    growth=growing.growth(config),
    labels=label_law('data', data.num_classes, class_counts),
    ema=opt.ema_decay,
    penalty=regularizers.gradient_penalty(opt.gp_weight / opt.gp_target**2, opt.gp_target),
    drift=regularizers.drift(opt.drift), simultaneous=opt.simultaneous, equalized=opt.equalized,
    card=standing_statistics.card(config) if model.gen_norm == 'batch' else {},
  )  # fmt: skip
