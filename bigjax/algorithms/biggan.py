"""BigGAN (Brock, Donahue, Simonyan 2019): large-batch class-conditional GAN with spectral norm.

k discriminator steps, each on its own real minibatch with fresh latents and labels, then one
generator step; hinge loss; cross-replica BatchNorm; orthogonal penalty on the generator; averaged
weights. Differences from BigGAN-PyTorch, all towards the paper: the penalty has Eq. 3's full
gradient, one power iteration per update rather than per forward pass, epsilon 1e-4 in every
BatchNorm, zero biases at init, no running BatchNorm averages.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from bigjax import augment, losses, optim, parallel, regularizers, spectral, utils
from bigjax import config as configs
from bigjax.algorithms import base
from bigjax.algorithms.base import Gen, Metrics, Player, Stage, State
from bigjax.latents import How, draw, knot_weights
from bigjax.models import biggan as models

Array = jax.Array
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16, 'float64': jnp.float64}


def to_float(image: Array) -> Array:
  """Return uint8 images in [0, 255] as float32 in [-1, 1]."""
  return image.astype(jnp.float32) / 127.5 - 1


def penalised(path: str, leaf: Any) -> bool:
  """The orthogonal penalty covers every kernel of the generator, not its shared embedding."""
  del leaf
  return path.endswith('kernel')


@dataclasses.dataclass(frozen=True)
class BigGAN:
  """The game of the paper; see base.Algorithm for what each method promises."""

  gen_net: models.Generator
  disc_net: models.Discriminator
  gen: Player
  disc: Player
  batch: tuple[int, int]  # (discriminator steps, examples of each)
  penalty: float  # beta of Eq. 3, reported; the gradient is in gen.tx
  ema_decay: float
  ema_start: int
  augment: augment.Augment

  def stage(self, step: int) -> Stage:
    del step
    return Stage(self.gen_net.resolution, self.batch)

  def position(self, step: int) -> int:
    d_steps, batch = self.batch
    return step * d_steps * batch

  def init(self, key: Array) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net = self.gen_net
    z, y = jnp.zeros((2, net.z_dim)), jnp.zeros((2,), jnp.int32)
    images = jnp.zeros((2, net.resolution, net.resolution, net.channels))
    net = net.clone(bn_group=None)  # two examples need not make whole groups
    gen = self.gen.init(net.init(key_gen, z, y, train=True)['params'])
    disc = self.disc.init(self.disc_net.init(key_disc, images, y)['params'])
    return {
      'step': jnp.int32(0),
      'key': key_state,
      'players': {'gen': gen, 'disc': disc},
      'ema': jax.tree.map(jnp.copy, gen['params']),  # never an alias: the state is donated
      'aux': {'skipped': {'gen': jnp.int32(0), 'disc': jnp.int32(0)}},
      'frozen': {},
    }

  def fresh(self, key: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """Draw latents, labels uniform over the classes, and augmentation keys, one per example."""
    key_z, key_y, key_aug = jax.random.split(key, 3)
    inputs = {
      'z': jax.random.normal(key_z, (*shape, self.gen_net.z_dim)),
      'y': jax.random.randint(key_y, shape, 0, self.gen_net.num_classes),
      'aug': jax.random.split(key_aug, shape),
    }
    return parallel.shard_examples(inputs, lead=len(shape) - 1)

  def disc_loss(self, params: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_D on one device's examples; `shared` has the other player's weights and D's vectors."""
    fake = self.gen_net.apply({'params': shared['gen']}, batch['z'], batch['y'], train=True)
    fake = self.augment(batch['aug'], fake)
    real = self.augment(batch['aug_real'], to_float(batch['image']))
    weights = spectral.normalize(params, shared['vectors'])
    images, labels = jnp.concatenate([real, fake]), jnp.concatenate([batch['label'], batch['y']])
    logits = self.disc_net.apply({'params': weights}, images, labels)
    real_logits, fake_logits = jnp.split(logits, 2)
    loss_real, loss_fake = losses.hinge_disc(real_logits, fake_logits)
    metrics = {
      'd_loss': loss_real + loss_fake,
      'd_loss_real': loss_real,
      'd_loss_fake': loss_fake,
      'd_logit_real': real_logits.mean(),
      'd_logit_fake': fake_logits.mean(),
      'd_accuracy_real': (real_logits > 0).mean(dtype=jnp.float32),
      'd_accuracy_fake': (fake_logits < 0).mean(dtype=jnp.float32),
    }
    return loss_real + loss_fake, metrics

  def gen_loss(self, params: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_G on one device's examples; the penalty is not in it but in the optimizer chain."""
    weights = spectral.normalize(params, shared['vectors'])
    fake = self.gen_net.apply({'params': weights}, batch['z'], batch['y'], train=True)
    fake = self.augment(batch['aug'], fake)
    loss = losses.hinge_gen(self.disc_net.apply({'params': shared['disc']}, fake, batch['y']))
    return loss, {'g_loss': loss}

  def step(self, state: State, batch: dict[str, Array], stage: Stage) -> tuple[State, Metrics]:
    key = jax.random.fold_in(state['key'], state['step'])
    key_disc, key_gen, key_real = jax.random.split(key, 3)
    gen, disc, aux = state['players']['gen'], state['players']['disc'], state['aux']
    num_steps, num_examples = stage.batch
    gen_weights = self.gen.normalized(gen)

    def disc_step(carry, examples):
      disc, skipped = carry
      shared = {'gen': gen_weights, 'vectors': spectral.vectors(disc['opt'])}
      grad = parallel.value_and_grad(self.disc_loss)
      (loss, metrics), grads = grad(disc['params'], shared, examples)
      new_disc = self.disc.update(disc, grads)
      finite = utils.all_finite((loss, grads, new_disc))
      disc = utils.select(finite, new_disc, disc)
      return (disc, base.count_skipped(skipped, finite)), metrics

    shape = (num_steps, num_examples)
    aug_real = parallel.shard_examples(jax.random.split(key_real, shape), lead=1)
    examples = {**batch, **self.fresh(key_disc, shape), 'aug_real': aug_real}
    carry = (disc, aux['skipped']['disc'])
    (disc, disc_skipped), disc_metrics = parallel.scan(disc_step, carry, examples)

    shared = {'disc': self.disc.normalized(disc), 'vectors': spectral.vectors(gen['opt'])}
    grad = parallel.value_and_grad(self.gen_loss)
    (loss, metrics), grads = grad(gen['params'], shared, self.fresh(key_gen, (num_examples,)))
    new_gen = self.gen.update(gen, grads)  # with the penalty, which can overflow by itself
    finite = utils.all_finite((loss, grads, new_gen))
    started = state['step'] >= self.ema_start
    new_ema = optim.ema(state['ema'], new_gen['params'], self.ema_decay, started)
    gen, ema = utils.select(finite, (new_gen, new_ema), (gen, state['ema']))

    skipped = {'gen': base.count_skipped(aux['skipped']['gen'], finite), 'disc': disc_skipped}
    metrics |= jax.tree.map(lambda x: x.mean(), disc_metrics)
    metrics['skipped'] = jnp.maximum(skipped['gen'], skipped['disc'])
    state = {
      'step': state['step'] + 1,
      'key': state['key'],
      'players': {'gen': gen, 'disc': disc},
      'ema': ema,
      'aux': {'skipped': skipped},
      'frozen': state['frozen'],
    }
    return state, metrics

  def probe(self, state: State, batch: dict[str, Array], held_out: dict[str, Array]) -> Metrics:
    gen, disc = state['players']['gen'], state['players']['disc']
    weights = {'gen': self.gen.normalized(gen), 'disc': self.disc.normalized(disc)}
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    train, held_out = first(dict(batch)), first(dict(held_out))
    key = jax.random.fold_in(jax.random.fold_in(state['key'], state['step']), 3)  # no key of a step

    def accuracies(_, weights, examples):
      score = lambda image, y: self.disc_net.apply({'params': weights['disc']}, image, y)
      share = lambda positive: positive.mean(dtype=jnp.float32)
      train, held_out, z, y = (examples[name] for name in ('train', 'held_out', 'z', 'y'))
      fake = self.gen_net.apply({'params': weights['gen']}, z, y, train=True)
      return {
        'probe_accuracy_train': share(score(to_float(train['image']), train['label']) > 0),
        'probe_accuracy_held_out': share(score(to_float(held_out['image']), held_out['label']) > 0),
        'probe_accuracy_fake': share(score(fake, y) < 0),
      }

    fresh = self.fresh(key, train['label'].shape)
    examples = {'train': train, 'held_out': held_out, 'z': fresh['z'], 'y': fresh['y']}
    signs = parallel.over_batch(accuracies)({}, weights, examples)
    for name, player in state['players'].items():
      sigmas = spectral.sigmas(player['params'], spectral.vectors(player['opt']))
      signs[f'sigma_max_{name}'] = jnp.max(jnp.stack(list(sigmas.values())))
      signs[f'weight_norm_{name}'] = optax.tree.norm(player['params'])
    sigmas = spectral.sigmas(gen['params'], spectral.vectors(gen['opt']))
    signs['sigma_gen_linear'] = sigmas['linear/kernel']  # the layer that explodes at collapse
    signs['orthogonal_penalty'] = self.penalty * regularizers.total(
      regularizers.orthogonal, gen['params'], penalised
    )
    return signs

  def generator(self, state: State) -> Gen:
    return {
      'params': spectral.fold(state['ema'], spectral.spec()),
      'stats': {},
      'knots': jnp.zeros((0,)),
    }

  def architecture(self) -> dict[str, Any]:
    net = self.gen_net
    fields = ('resolution', 'num_classes', 'ch', 'z_dim', 'shared_dim', 'channels')
    return {**{name: getattr(net, name) for name in fields}, 'attention': list(net.attention)}


@dataclasses.dataclass(frozen=True)
class BigGANGenerator:
  """The sampled network; gen is {params, stats: {layer: {mean [K, C], var [K, C]}}, knots [K]}."""

  net: models.Generator

  def latents(self, key: Array, num: int, how: How) -> Array:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))
    return draw(keys, self.net.z_dim, how)

  def generate(self, gen: Gen, z: Array, y: Array, how: How) -> Array:
    if not gen['knots'].shape[0]:
      raise ValueError('sampling needs standing statistics: calibrate the generator first.')
    weights = knot_weights(gen['knots'], how.truncation)
    stats = jax.tree.map(lambda s: jnp.tensordot(weights, s, 1, precision='highest'), gen['stats'])
    return self.net.apply({'params': gen['params'], 'stats': stats}, z, y, train=False)

  def moments(self, params: Any, key: Array, how: How) -> dict[str, Any]:
    """Return BatchNorm's moments over one batch of `how.batch` fresh samples."""
    key_z, key_y = jax.random.split(key)
    z = self.latents(key_z, how.batch, how)
    y = jax.random.randint(key_y, (how.batch,), 0, self.net.num_classes)
    z, y = parallel.shard_examples((z, y))
    return self.net.apply({'params': params}, z, y, train=True, mutable=['moments'])[1]['moments']

  @functools.partial(jax.jit, static_argnums=0)
  def add_pass(self, total: dict[str, Any], params: Any, key: Array, how: How) -> dict[str, Any]:
    """Return `total` plus one more pass: chained, so that passes never run side by side."""
    return jax.tree.map(jnp.add, total, self.moments(params, key, how))

  def calibrate(self, gen: Gen, key: Array, how: How) -> Gen:
    """Average BatchNorm's moments over `how.passes` passes of `how.batch` samples (paper, C.1)."""
    shapes = jax.eval_shape(self.moments, gen['params'], key, how)
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    for key_pass in jax.random.split(key, how.passes):
      total = self.add_pass(total, gen['params'], key_pass, how)
    stats = jax.tree.map(lambda s: s[None] / how.passes, total)  # [1, C]
    knots = jnp.full((1,), how.truncation, jnp.float32)
    if gen['knots'].shape[0]:
      others = gen['knots'] != how.truncation  # a knot measured again replaces the old one
      stats = jax.tree.map(
        lambda old, new: jnp.concatenate([old[others], new]), gen['stats'], stats
      )
      knots = jnp.concatenate([gen['knots'][others], knots])
    order = jnp.argsort(knots)
    return {
      'params': gen['params'],
      'knots': knots[order],
      'stats': jax.tree.map(lambda s: s[order], stats),
    }


def make_generator(architecture: dict[str, Any]) -> BigGANGenerator:
  """Build the sampled network from a card's `architecture`."""
  fields = {**architecture, 'attention': tuple(architecture['attention'])}
  return BigGANGenerator(models.Generator(**fields))


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.require(
    config,
    {
      'model': (
        'ch',
        'z_dim',
        'shared_dim',
        'gen_attention',
        'disc_attention',
        'bn_group',
        'dtype',
      ),
      'optim': (
        'batch_size',
        'd_steps',
        'name',
        'gen_lr',
        'disc_lr',
        'b1',
        'b2',
        'eps',
        'ortho_beta',
        'spectral_eps',
        'ema_decay',
        'ema_start',
      ),
      'augment': ('name',),
    },
  )
  data, model = config.data, config.model
  if data.resolution not in models.GEN_WIDTHS:
    raise utils.UserError(
      f'data.resolution is {data.resolution}; biggan has networks for '
      f'{", ".join(map(str, models.GEN_WIDTHS))}.'
    )
  configs.at_least_one(config, 'optim', 'batch_size', 'd_steps')
  configs.at_least_one(config, 'model', 'ch', 'z_dim')
  chunks = models.num_chunks(data.resolution)
  if model.z_dim % chunks:
    raise utils.UserError(
      f'model.z_dim is {model.z_dim}, but at {data.resolution} px z is split into {chunks} '
      f'equal chunks; use a multiple of {chunks}, for example {chunks * 20}.'
    )
  for key, maps in (
    ('gen_attention', models.gen_maps(data.resolution)),
    ('disc_attention', models.disc_maps(data.resolution)),
  ):
    for at in model[key]:
      if at not in maps:  # BigGAN-PyTorch then has silently no attention
        raise utils.UserError(
          f'model.{key} has {at}, but at {data.resolution} px blocks end at '
          f'{", ".join(map(str, maps))}.'
        )
      if maps[at] * model.ch < 8:
        raise utils.UserError(
          f'model.{key} has {at}, where model.ch={model.ch} gives {maps[at] * model.ch} channels; '
          'attention needs at least 8.'
        )


def make(config: ml_collections.ConfigDict) -> BigGAN:
  """Build the algorithm from a config with the groups data, model, optim and augment.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  check(config)
  data, model, opt = config.data, config.model, config.optim
  dtype = utils.pick(model.dtype, DTYPES, 'model.dtype')
  net = {
    'resolution': data.resolution,
    'num_classes': data.num_classes,
    'ch': model.ch,
    'dtype': dtype,
  }
  adam = utils.pick(opt.name, optim.OPTIMIZERS, 'optim.name')
  gen_tx = optax.chain(
    optim.add_orthogonal_penalty(opt.ortho_beta, penalised),
    adam(opt.gen_lr, opt.b1, opt.b2, opt.eps),
    spectral.track(spectral.spec(), opt.spectral_eps),
  )
  disc_tx = optax.chain(
    adam(opt.disc_lr, opt.b1, opt.b2, opt.eps),
    spectral.track(spectral.spec(embeddings=True), opt.spectral_eps),
  )
  return BigGAN(
    gen_net=models.Generator(
      **net,
      z_dim=model.z_dim,
      shared_dim=model.shared_dim,
      channels=data.channels,
      attention=tuple(model.gen_attention),
      bn_group=model.bn_group or None,
    ),
    disc_net=models.Discriminator(**net, attention=tuple(model.disc_attention)),
    gen=Player(gen_tx),
    disc=Player(disc_tx),
    batch=(opt.d_steps, opt.batch_size),
    penalty=opt.ortho_beta,
    ema_decay=opt.ema_decay,
    ema_start=opt.ema_start,
    augment=utils.pick(config.augment.name, augment.AUGMENTATIONS, 'augment.name'),
  )
