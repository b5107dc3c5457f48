"""StyleGAN (Karras et al. 2019): styles of each layer from one mapped latent, and images that grow.

The generator modulates a learned constant by w, layer by layer, and adds noise; in training, the
styles of two latents change hands at a random layer. Non-saturating logistic loss with R1, or
WGAN-GP; all else is PGGAN's: growing, equalised learning rates, Adam's moments that begin anew at
both ends of a fade. The rows of Table 1 are keys of `model` and `optim`. As in the authors' code,
the average of w follows the latents of both players' steps. Differences from it: networks run at
the resolution at hand, where it enlarges images to the last one; styles change hands once in a
minibatch of all devices, not of each; averaged weights follow the generator's steps, where they are
one step behind; minibatch deviation is over groups of the global batch.
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
  style_config,
  truncation,
)
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law, purpose
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.growing import GrowingStage
from bigjax.algorithms.base.player import Player
from bigjax.algorithms.base.truncation import StyleSpec
from bigjax.core import errors, parallel
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.core.ranges import BATCH
from bigjax.models import stylegan as networks
from bigjax.nn import optim, schedules
from bigjax.nn.objectives import losses, regularizers
from bigjax.nn.style import blocks, stylegan

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class StyleGAN:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  gen_net: networks.Generator
  disc_net: networks.Discriminator
  gen: Callable[[float], Player]  # of its learning rate
  disc: Callable[[float], Player]
  rates: tuple[float, float]  # of the generator and the discriminator, but where a stage has one
  growth: Callable[[int], contract.Stages]  # number of steps -> stages
  labels: LabelLaw
  loss: losses.Loss
  penalties: tuple[tuple[str, regularizers.Penalty], ...]
  score_terms: tuple[tuple[str, Callable[[Array], Array]], ...]  # scores of real images -> [B]
  mixing: float  # the share of minibatches in which styles are mixed
  ema: schedules.Decay

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'gen'
  remedies = 'lower the learning rates (optim.gen_lr, optim.disc_lr), or raise optim.r1_gamma'

  def stages(self, num_steps: int) -> contract.Stages:
    return self.growth(num_steps)

  def players(self, stage: GrowingStage) -> tuple[Player, Player]:
    """The generator and the discriminator with the learning rates of a stage."""
    rates = self.rates if stage.lr is None else (stage.lr, stage.lr)
    return self.gen(rates[0]), self.disc(rates[1])

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net, level = self.gen_net, blocks.level_of(self.gen_net.resolution)
    z, y, alpha = jnp.zeros((2, net.z_dim)), jnp.zeros((2,), jnp.int32), jnp.ones(())
    images = jnp.zeros((2, 2**level, 2**level, net.channels))
    gen = net.init(key_gen, z, y, level, alpha)['params']
    disc = self.disc_net.init(key_disc, images, y, level, alpha)['params']
    players = {
      'gen': self.gen(0.0).init(player.replace(gen, given.get('gen', {}))),
      'disc': self.disc(0.0).init(player.replace(disc, given.get('disc', {}))),
    }
    ema = player.replace(players['gen']['params'], given.get('ema', {}))
    w_avg = jnp.zeros((net.w_size,), jnp.float32)
    return player.initial_state(key_state, players, ema, {'w_avg': w_avg})

  def fresh(self, key: Array, shape: tuple[int, ...], stage: GrowingStage) -> dict[str, Array]:
    """Draw latents, labels and keys for the rest, one per example; where styles change hands."""
    key_z, key_y, key_rest, key_z2, key_cutoff = jax.random.split(key, 5)
    inputs = {
      'z': jax.random.normal(key_z, (*shape, self.gen_net.z_dim)),
      'y': self.labels.draw(key_y, shape),
    }
    if self.mixing:
      layers = stylegan.num_layers(stage.level)
      cutoffs = stylegan.mixing_cutoffs(key_cutoff, shape[:-1], layers, self.mixing)
      inputs['z2'] = jax.random.normal(key_z2, (*shape, self.gen_net.z_dim))
      inputs['cutoff'] = jnp.broadcast_to(cutoffs[..., None], shape)
    inputs = parallel.shard_examples(inputs, lead=len(shape) - 1)
    return {**inputs, 'keys': example_keys(key_rest, shape)}

  def examples(self, state: State, batch: Batch, stage: GrowingStage) -> tuple[dict, dict]:
    """The discriminator's examples of a step [k, B, ...], and the generator's [B, ...]."""
    key_disc, key_gen = jax.random.split(jax.random.fold_in(state['key'], state['step']))
    # Its fakes have the labels of its real images.
    fakes = self.fresh(key_disc, (stage.minibatches, stage.examples), stage)
    of_disc = {**batch, **fakes, 'y': batch['label']}
    return of_disc, self.fresh(key_gen, (stage.examples,), stage)

  def w(self, weights: Any, batch: dict, latents: str = 'z') -> Array:
    """w [B, w_dim] of examples."""
    return self.gen_net.apply({'params': weights}, batch[latents], batch['y'], method='w')

  def images(self, weights: Any, batch: dict, stage: GrowingStage, alpha: Array) -> Array:
    """The generator's images [B, H, W, C] at a stage's resolution, of mixed styles."""
    ws = stylegan.broadcast(self.w(weights, batch), stylegan.num_layers(stage.level))
    if self.mixing:
      ws = stylegan.mixed(ws, self.w(weights, batch, 'z2'), batch['cutoff'])
    noise = None
    if self.gen_net.noisy:
      noise = stylegan.noise_maps(purpose(batch['keys'], 'noise'), 2**stage.level)
    given = ws, stage.level, alpha, noise
    return self.gen_net.apply({'params': weights}, *given, method='image')

  def disc_loss(
    self, weights: Any, shared: dict, batch: dict, stage: GrowingStage
  ) -> tuple[Array, Metrics]:
    """L_D on one device's examples."""
    alpha = shared['alpha']
    judge = lambda images, y: self.disc_net.apply(
      {'params': weights}, images, y, stage.level, alpha
    )
    real = stage.reals(batch['image'], alpha)
    fake = self.images(shared['gen'], batch, stage, alpha)
    real_scores, fake_scores = judge(real, batch['label']), judge(fake, batch['y'])
    loss_real, loss_fake = self.loss.disc(real_scores, fake_scores)
    metrics = {
      'd_loss': loss_real + loss_fake,
      'd_logit_real': real_scores.mean(), 'd_logit_fake': fake_scores.mean(),
    }  # fmt: skip
    if self.loss.has_sides:
      metrics |= {
        'd_accuracy_real': (real_scores > 0).mean(dtype=jnp.float32),
        'd_accuracy_fake': (fake_scores < 0).mean(dtype=jnp.float32),
      }
    score = lambda images: judge(images, batch['label'])
    values = {
      f'd_{name}': penalty(score, real, fake, purpose(batch['keys'], name)).mean()
      for name, penalty in self.penalties
    }
    values |= {f'd_{name}': term(real_scores).mean() for name, term in self.score_terms}
    return sum(values.values(), metrics['d_loss']), metrics | values

  def gen_loss(
    self, weights: Any, shared: dict, batch: dict, stage: GrowingStage
  ) -> tuple[Array, Metrics]:
    """L_G on one device's examples."""
    alpha = shared['alpha']
    fake = self.images(weights, batch, stage, alpha)
    judged = {'params': shared['disc']}, fake, batch['y'], stage.level, alpha
    loss = self.loss.gen(self.disc_net.apply(*judged), None)
    return loss, {'g_loss': loss}

  def losses(self, state: State, batch: Batch, stage: GrowingStage) -> dict[str, contract.Loss]:
    gen, disc = self.players(stage)
    of_disc, of_gen = self.examples(state, batch, stage)
    alpha, players = stage.alpha(state['step']), state['players']
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
    of_gen_player, of_disc_player = self.players(stage)
    of_disc, of_gen = self.examples(state, batch, stage)
    alpha = stage.alpha(step)

    # Adam begins anew where blocks begin to fade in, and where they have.
    anew = stage.begins_anew(step)
    gen = growing.begun_anew(of_gen_player, state['players']['gen'], anew)
    disc = growing.begun_anew(of_disc_player, state['players']['disc'], anew)

    # Discriminator: k steps, each on a minibatch of its own, with fresh fakes.
    weights = of_gen_player.weights(gen)
    disc, disc_skipped, disc_metrics, _ = of_disc_player.descend_each(
      disc, skipped['disc'], functools.partial(self.disc_loss, stage=stage),
      {'gen': weights, 'alpha': alpha}, of_disc, 'd_grad_norm',
    )  # fmt: skip

    # Generator: one step against the discriminator as it is now.
    gen, gen_skipped, finite, metrics = of_gen_player.descend(
      gen, skipped['gen'], functools.partial(self.gen_loss, stage=stage),
      {'disc': of_disc_player.weights(disc), 'alpha': alpha}, of_gen, 'g_grad_norm',
    )  # fmt: skip

    ema = player.averaged(state, gen['params'], self.ema(step, stage.examples), 0, finite)
    w_avg = state['aux']['w_avg']
    aux = {'w_avg': truncation.averaged_over_step(w_avg, self.w, weights, of_disc, of_gen)}
    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, aux)
    return state, metrics | disc_metrics | refused | {'fade': alpha}

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: GrowingStage) -> Metrics:
    del batch, held_out
    gen, disc = self.players(stage)
    whole = parallel.all_gather_weights(state['players'])
    return player.vital_signs({'gen': gen, 'disc': disc}, whole)

  def generator(self, state: State, stage: GrowingStage) -> Gen:
    gen, _ = self.players(stage)
    params = gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    alpha = stage.alpha(state['step'])
    return {'params': params, 'w_avg': state['aux']['w_avg'], 'alpha': alpha}

  def architecture(self, stage: GrowingStage) -> dict[str, Any]:
    return {'level': stage.level, **{name: getattr(self.gen_net, name) for name in SAMPLED}}

  def sampling(self) -> dict[str, Any]:
    return {}


# --- After training


# The generator's fields on the card.
SAMPLED = (
  'resolution', 'num_classes', 'z_dim', 'w_dim', 'mapping_layers', 'mapping_features', 'fmap_base',
  'fmap_max', 'channels', 'styled', 'constant', 'noisy', 'blurred',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Styled(truncation.WithStyles):
  """The sampled network at one resolution; gen is {params, w_avg, alpha}."""

  net: networks.Generator
  level: int

  gains = staticmethod(networks.GEN_GAINS)

  @property
  def style_kernels(self) -> str:
    return '*/StyleMod/kernel' if self.net.styled else ''

  @property
  def shape(self) -> tuple[int, ...]:
    return 2**self.level, 2**self.level, self.net.channels

  @property
  def options(self) -> dict[str, str]:
    has = {'truncation': self.net.styled, 'noise': self.net.noisy}
    return {name: words for name, words in truncation.OPTIONS.items() if has[name]}

  @property
  def inputs(self) -> Mapping[str, str]:
    return truncation.INPUTS if self.net.styled else {}

  @property
  def styles(self) -> parts.Styles | None:
    return self if self.net.styled else None

  @property
  def num_layers(self) -> int:
    return stylegan.num_layers(self.level)

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> StyleSpec:
    del sampling
    contract.check_options(given, self.options)
    return StyleSpec(**truncation.fields(given, self.num_layers))

  def map(self, gen: Gen, z: Array, y: Array) -> Array:
    return self.net.apply({'params': gen['params']}, z, y, method='w')

  def noise(self, gen: Gen, z: Array, spec: StyleSpec) -> Sequence[Array]:
    del gen
    keys = spec.noise_keys(z)
    silent = keys is None or not self.net.noisy
    return () if silent else stylegan.noise_maps(keys, 2**self.level)

  def synthesize(self, gen: Gen, ws: Array, noise: Sequence[Array], spec: StyleSpec) -> Array:
    del spec
    given = ws, self.level, gen['alpha'], noise or None
    return self.net.apply({'params': gen['params']}, *given, method='image')


def make_generator(architecture: dict[str, Any]) -> Styled:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  level = fields.pop('level')
  return Styled(networks.Generator(**fields), level)


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  **with_defaults(style_config.KEYS, optim__batch_size=32),
  'model.w_dim': Key(512, 'dimensions of w, where z is mapped', least=1, most=65_536),
  'model.mapping_layers': Key(8, 'layers from z to w; 0: w is z, normalised', most=64),
  'model.styled': Key(
    True, 'whether w modulates every layer after instance norm (AdaIN); else pixel norm follows',
  ),
  'model.constant': Key(True, 'whether the first map is a learned constant; else linear in w'),
  'model.noisy': Key(True, 'whether layers have a noise'),
  'model.blurred': Key(True, 'whether maps are blurred where they are resampled'),
  'model.stddev_group': Key(
    4, 'examples whose deviation is taken together; 0: the whole batch', most=BATCH.most,
  ),
  **growing.KEYS,
  'optim.style_mixing': Key(
    0.9, 'share of minibatches in which the styles of two latents change hands at some layer',
    most=1.0,
  ),
  'optim.loss': Key(
    'logistic', 'pair of adversarial losses', choices=tuple(
      name for name, loss in losses.LOSSES.items() if not loss.needs_real
    ),
  ),
  'optim.r1_gamma': Key(10.0, 'gradient penalty on real images (R1; BigGAN Eq. 5); 0: off'),
  'optim.gp_weight': Key(
    0.0, 'gradient penalty between real and fake images (WGAN-GP); 0: off',
  ),
  'optim.drift': Key(0.0, "weight of D's squared scores of real images"),
  'optim.ema_half_life': Key(
    10.0, 'thousand images after which weights count for half in the average', above=0,
  ),
}
del KEYS['optim.ema_decay']  # the average forgets by images
TINY = {
  'run.steps': 4, 'data.resolution': 8,
  'model.fmap_base': 32, 'model.fmap_max': 16, 'model.z_dim': 16, 'model.dtype': 'float32',
  'model.w_dim': 16, 'model.stddev_group': 4, 'model.first_resolution': 4,
  'optim.batch_size': 8, 'optim.batch_at': (), 'optim.lr_at': (), 'optim.hold_kimg': 0.008,
  'optim.fade_kimg': 0.016, 'optim.d_steps': 1,
}
DIGITS = {
  'model.fmap_base': 128, 'model.fmap_max': 32, 'model.z_dim': 32, 'model.dtype': 'float32',
  'model.w_dim': 32, 'model.stddev_group': 4, 'model.first_resolution': 8,
  'optim.batch_size': 32, 'optim.batch_at': (), 'optim.lr_at': (), 'optim.hold_kimg': 4.0,
  'optim.fade_kimg': 4.0, 'optim.d_steps': 1, 'optim.gen_lr': 2e-3, 'optim.disc_lr': 2e-3,
  'optim.ema_half_life': 2.0,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  growing.check(config)
  if not config.model.styled and config.optim.style_mixing:
    raise errors.UserError(
      f'optim.style_mixing is {config.optim.style_mixing:g}, of a generator without styles; set it '
      'to 0, or model.styled to True.'
    )


def make_nets(
  config: ml_collections.ConfigDict,
) -> tuple[networks.Generator, networks.Discriminator]:
  """The networks of a config."""
  data, model = config.data, config.model
  shared = {**style_config.of_both(config), 'blurred': model.blurred}
  gen_net = networks.Generator(
    **shared, z_dim=model.z_dim, channels=data.channels, w_dim=model.w_dim,
    mapping_layers=model.mapping_layers, mapping_features=model.w_dim, styled=model.styled,
    constant=model.constant, noisy=model.noisy,
  )  # fmt: skip
  return gen_net, networks.Discriminator(**shared, stddev_group=model.stddev_group or None)


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> StyleGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`.
  """
  check(config)
  opt = config.optim
  gen_net, disc_net = make_nets(config)

  def of_rate(gains, rate):
    adam = optim.OPTIMIZERS['adam_b1_0'](rate, 0.0, opt.b2, opt.eps)
    return Player(adam, reparametrisation=player.equalized(gains), dtype=gen_net.dtype)

  penalties = (
    ('r1', opt.r1_gamma and regularizers.r1_penalty(opt.r1_gamma)),
    ('gp', opt.gp_weight and regularizers.gradient_penalty(opt.gp_weight)),
  )
  return StyleGAN(
    gen_net, disc_net,
    gen=functools.partial(of_rate, networks.GEN_GAINS),
    disc=functools.partial(of_rate, networks.DISC_GAINS),
    rates=(opt.gen_lr, opt.disc_lr),
    growth=growing.growth(config),
    labels=label_law('data', config.data.num_classes, class_counts),
    loss=losses.LOSSES[opt.loss],
    penalties=tuple((name, penalty) for name, penalty in penalties if penalty),
    score_terms=(('drift', regularizers.drift(opt.drift)),) if opt.drift else (),
    mixing=opt.style_mixing,
    ema=schedules.ema_half_life(1000 * opt.ema_half_life),
  )  # fmt: skip
