"""PGGAN (Karras et al. 2018): both networks grow from 4 px, each new resolution fading in.

WGAN-GP with a drift term that keeps D's scores of real images near 0; equalised learning rates; one
step of each player on fresh latents, or both from the same fakes; Adam's moments begin anew where a
resolution begins to fade in and where it has; averaged weights are sampled. With classes, D has an
AC-GAN's head. Differences from the authors' code: networks run at the resolution at hand, where that
code enlarges images to the last one, and the fade weight is renewed every step, not every fourth.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, growing, player
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys
from bigjax.algorithms.base.growing import GrowingStage
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import parallel
from bigjax.core.keys import Key, Keys
from bigjax.core.ranges import BATCH
from bigjax.models import pggan
from bigjax.nn import optim
from bigjax.nn.objectives import losses, regularizers
from bigjax.nn.style import resampling

Array = jax.Array
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
  drift: float
  simultaneous: bool

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
    net, level = self.gen_net, self.gen_net.levels[-1]
    z, y, alpha = jnp.zeros((2, net.z_dim)), jnp.zeros((2,), jnp.int32), jnp.ones(())
    images = jnp.zeros((2, 2**level, 2**level, net.channels))
    gen = net.init(key_gen, z, y, level, alpha)['params']
    disc = self.disc_net.init(key_disc, images, level, alpha)['params']
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
      'z': jax.random.normal(key_z, (*shape, self.gen_net.z_dim)),
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
    real = self.reals(batch, stage, alpha)
    (real_scores, real_classes), (fake_scores, fake_classes) = judge(real), judge(fake)
    score = lambda images: judge(images)[0]
    penalty = self.penalty(score, real, fake, batch['mix']).mean()
    drift = self.drift * jnp.square(real_scores).mean()
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

  def reals(self, batch: dict, stage: GrowingStage, alpha: Array) -> Array:
    """Real images, blurred as the generator's are while a resolution fades in."""
    images = to_float(batch['image'])
    return resampling.faded(images, alpha) if stage.fade else images

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

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: GrowingStage) -> Metrics:
    del batch, held_out
    players = parallel.all_gather_weights(state['players'])
    signs = {}
    for name, of in zip(('gen', 'disc'), self.players(stage, state['step']), strict=True):
      signs |= of.reparametrisation.signs(name, players[name])
    return signs

  def generator(self, state: State, stage: GrowingStage) -> Gen:
    gen, _ = self.players(stage, state['step'])
    params = gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    return {'params': params, 'alpha': stage.alpha(state['step'])}

  def architecture(self, stage: GrowingStage) -> dict[str, Any]:
    net = self.gen_net
    return {
      'level': stage.level,
      **{name: getattr(net, name) for name in pggan.GENERATOR_FIELDS},
    }

  def sampling(self) -> dict[str, Any]:
    return {}

