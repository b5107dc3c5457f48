"""The game of residual GANs, but for the order in which the players move, which each family has.

Two players; latents, labels and keys drawn per example; in the five places of base/places.py
whatever a config asks for. A family adds `step`, and its paper's own links of the optimizers.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from bigjax.algorithms.base import contract, places, player, standing_statistics
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law
from bigjax.algorithms.base.places import Places, Seen
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import errors, parallel
from bigjax.core.config import WAYS, Key, Keys
from bigjax.core.microbatches import microbatched
from bigjax.core.ranges import BATCH
from bigjax.nn import kernels, optim, regularizers
from bigjax.nn.latents import Law, law
from bigjax.nn.schedules import SCHEDULES, learning_rate

Array = jax.Array
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16, 'float64': jnp.float64}


def as_stored(keys: Array, images: Array) -> Array:
  """uint8 images as float32 in [-1, 1], nothing added; `keys` [B] are for those that add noise."""
  del keys
  return to_float(images)


def dequantised(keys: Array, images: Array) -> Array:
  """uint8 images x as x / 128 - 1 + U(0, 1/128), in [-1, 1): SN-GAN's and WGAN-GP's codes."""
  if images.dtype != jnp.uint8:
    return images
  noise = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
  return images.astype(jnp.float32) / 128 - 1 + noise / 128


@dataclasses.dataclass(frozen=True)
class ResidualGAN:
  """All of contract.Algorithm but `step`; see there for what each method promises."""

  gen_net: Any  # Generator and Discriminator of a module of models/ (base/networks.Networks)
  disc_net: Any
  gen: Player
  disc: Player
  batch: tuple[int, int]  # (discriminator steps, examples of each)
  gen_batch: int  # examples of the generator's step
  law: Law
  labels: LabelLaw
  ema_decay: float
  ema_start: int
  places: Places = Places()
  dropout: float = 0.0  # of the discriminator's summed features
  microbatches: int = 1  # parts of a device's batch, one after the other
  read: Callable[[Array, Array], Array] = as_stored  # (keys, uint8 images) -> floats
  network: str = ''  # its name on the card, and further fields of the generator that this has
  options: tuple[str, ...] = ()
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  sampled = 'gen'
  remedies = (
    'lower the learning rates, or add a tool of the paper (optim.r1_gamma, optim.sigma_tool, '
    'model.disc_dropout)'
  )

  @property
  def periods(self) -> Mapping[str, int]:
    return dict(self.places.periods)

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    inputs = contract.image_inputs(self.gen_net.resolution, self.gen_net.channels)
    return [(0, Stage(*self.batch, inputs))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net = self.gen_net.clone(bn_group=None, microbatches=1)  # two examples need not divide
    z, y = jnp.zeros((2, net.z_dim), jnp.float32), jnp.zeros((2,), jnp.int32)
    images = jnp.zeros((2, net.resolution, net.resolution, net.channels), jnp.float32)
    gen = net.init(key_gen, z, y, train=True)['params']
    gen = self.gen.init(player.replace(gen, given.get('gen', {})))
    disc = self.disc_net.init(key_disc, images, y)['params']
    disc = self.disc.init(player.replace(disc, given.get('disc', {})))
    ema = player.replace(gen['params'], given.get('ema', {}))
    terms = self.places.start(self.gen.weights(gen), jax.random.fold_in(key_state, 0))
    aux = {'terms': terms} if terms else {}
    return player.initial_state(key_state, {'gen': gen, 'disc': disc}, ema, aux)

  def fresh(self, key: Array, shape: tuple[int, ...], step: Array) -> dict[str, Array]:
    """Draw latents, labels and keys for the rest, one per example."""
    key_z, key_y, key_aug = jax.random.split(key, 3)
    inputs = {
      'z': self.law.train(key_z, shape, self.gen_net.z_dim, step),
      'y': self.labels.draw(key_y, shape),
      'aug': jax.random.split(key_aug, shape),
    }
    return parallel.shard_examples(inputs, lead=len(shape) - 1)

  def images(self, weights: Any, z: Array, y: Array) -> Array:
    """The generator's images, in training mode, with no more in memory than need be.

    Microbatches that are whole BatchNorm groups run through the network one by one; others go from
    one BatchNorm to the next together.
    """
    net = self.gen_net
    if net.bn_group and (len(z) // self.microbatches) % net.bn_group == 0:
      run = lambda part: net.apply({'params': weights}, part['z'], part['y'], train=True)
      return microbatched(run, self.microbatches, {'z': z, 'y': y})
    net = net.clone(microbatches=self.microbatches)
    return net.apply({'params': weights}, z, y, train=True)

  def mask(self, keys: Array) -> Array | None:
    """Factors of dropout [B, features], None where it is off."""
    if not self.dropout:
      return None
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)  # key itself: the augmentation's
    return regularizers.dropout_mask(keys, self.disc_net.num_features, self.dropout)

  def disc_loss(
    self, weights: Any, shared: dict, batch: dict, due: contract.Due = contract.NONE_DUE
  ) -> tuple[Array, Metrics]:
    """L_D on one device's examples, of normalised weights; `shared` has the other player's.

    Terms with a state take it from shared['terms'], and leave it in the metrics' 'terms'.
    """
    judge_by = lambda *inputs: self.disc_net.apply({'params': weights}, *inputs)
    given, terms = self.places, self.places.due(due)
    augment = given.augmented(shared.get('terms', {}))

    def judge(part):
      plain_fake = part['fake']
      fake = augment(part['aug'], plain_fake)
      plain_real = self.read(part['aug_real'], part['image']).astype(fake.dtype)
      real = augment(part['aug_real'], plain_real)
      masks = [self.mask(part[name]) for name in ('aug_real', 'aug')]
      both = None if masks[0] is None else jnp.concatenate(masks)
      labels = jnp.concatenate([part['label'], part['y']])
      score = lambda images: judge_by(images, labels, both)
      logits = given.transform(score, jnp.concatenate([real, fake]))
      bound = lambda y, mask: lambda images: given.transform(lambda x: judge_by(x, y, mask), images)
      seen = Seen(
        bound(part['label'], masks[0]), bound(part['y'], masks[1]), real, fake, plain_real,
        plain_fake, part['aug'], augment,
      )  # fmt: skip
      return *jnp.split(logits, 2), {name: term(seen) for name, term in terms}

    fake = self.images(shared['gen'], batch['z'], batch['y'])
    real_logits, fake_logits, values = microbatched(
      judge, self.microbatches, {**batch, 'fake': fake}
    )
    loss_real, loss_fake = given.loss.disc(real_logits, fake_logits)
    metrics = {
      'd_loss': loss_real + loss_fake,
      'd_loss_real': loss_real,
      'd_loss_fake': loss_fake,
      'd_logit_real': real_logits.mean(),
      'd_logit_fake': fake_logits.mean(),
      'd_accuracy_real': (real_logits > 0).mean(dtype=jnp.float32),
      'd_accuracy_fake': (fake_logits < 0).mean(dtype=jnp.float32),
    }
    if given.controller is not None:
      metrics['d_sign_real'] = jnp.sign(real_logits).mean()
    total, states = loss_real + loss_fake, {}
    penalties = {f'd_{name}': value.mean() for name, value in values.items()}
    for name, term in given.score_terms:
      penalties[f'd_{name}'], states[name] = term(shared['terms'][name], real_logits, fake_logits)
    for value in penalties.values():
      total += value
    return total, metrics | penalties | ({'terms': states} if states else {})

  def gen_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_G on one device's examples; links of the optimizer chain have penalties of their own."""
    given, augment = self.places, self.places.augmented(shared.get('terms', {}))

    def judge(part):
      score = lambda images: self.disc_net.apply(
        {'params': shared['disc']}, images, part['y'], mask
      )
      fake, mask = augment(part['aug'], part['fake']), self.mask(part['aug'])
      return given.transform(score, fake, stop_norm=True)

    def judge_real(part):
      score = lambda images: self.disc_net.apply({'params': shared['disc']}, images, part['label'])
      real = augment(part['aug_real'], self.read(part['aug_real'], part['image']))
      return given.transform(score, real)

    fake = self.images(weights, batch['z'], batch['y'])
    logits = microbatched(judge, self.microbatches, {**batch, 'fake': fake})
    real = microbatched(judge_real, self.microbatches, batch) if given.loss.needs_real else None
    loss = total = given.loss.gen(logits, real)
    penalties, states = {}, {}
    for name, term in given.gen_terms:
      penalties[f'g_{name}'], states[name] = term(shared['terms'][name], weights)
      total += penalties[f'g_{name}']
    return total, {'g_loss': loss} | penalties | ({'terms': states} if states else {})

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """The discriminator's examples of a step [k, B, ...], and the generator's [B, ...]."""
    key = jax.random.fold_in(state['key'], state['step'])
    key_disc, key_gen, key_real = jax.random.split(key, 3)
    shape = stage.minibatches, stage.examples
    aug_real = example_keys(key_real, shape)
    of_disc = {**batch, **self.fresh(key_disc, shape, state['step']), 'aug_real': aug_real}
    of_gen = self.fresh(key_gen, (self.gen_batch,), state['step'])
    if self.places.loss.needs_real:  # relativistic losses compare with the first minibatch
      of_gen |= {name: of_disc[name][0] for name in ('image', 'label', 'aug_real')}
    return of_disc, of_gen

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    gen, disc = state['players']['gen'], state['players']['disc']
    of_disc, of_gen = self.examples(state, batch, stage)
    first = jax.tree.map(lambda x: x[0], of_disc)
    terms = self.terms(state)
    of_gen_loss = {'disc': self.disc.weights(disc), **terms}
    of_disc_loss = {'gen': self.gen.weights(gen), **terms}
    return {
      'gen': self.gen.loss(gen, self.gen_loss, of_gen_loss, of_gen),
      'disc': self.disc.loss(disc, self.disc_loss, of_disc_loss, first),
    }

  def terms(self, state: State) -> dict[str, Any]:
    """{'terms': states of the terms}, where there are any."""
    return {name: state['aux'][name] for name in ('terms',) if name in state['aux']}

  # --- moves of the players, for a family's `step`

  def move_disc(
    self,
    state: State,
    skipped: Array,
    gen_weights: Any,
    minibatches: dict,
    due: contract.Due,
    terms: dict[str, Any],
  ) -> tuple[dict[str, Any], Array, Metrics, dict[str, Any]]:
    """The discriminator's k steps, each on a minibatch of its own [k, B, ...].

    Returns:
      (player, skipped, metrics, {'terms': states} where there are any).
    """
    loss = functools.partial(self.disc_loss, due=due)
    disc, skipped, metrics, terms = self.disc.descend_each(
      state['players']['disc'], skipped, loss, {'gen': gen_weights}, minibatches, 'd_grad_norm',
      terms,
    )  # fmt: skip
    states, metrics = self.places.adapted(
      terms.get('terms', {}), metrics, self.batch[0] * self.batch[1]
    )
    return disc, skipped, metrics, {'terms': states} if states else terms

  def move_gen(
    self,
    state: State,
    skipped: Array,
    disc_weights: Any,
    examples: dict,
    terms: dict[str, Any],
    pulled: Any = None,
  ) -> tuple[dict[str, Any], Array, Any, Metrics, dict[str, Any]]:
    """The generator's step.

    Returns:
      (player, skipped, averaged weights, metrics, {'terms': states} where there are any).
    """
    gen, skipped, finite, metrics = self.gen.descend(
      state['players']['gen'], skipped, self.gen_loss, {'disc': disc_weights, **terms}, examples,
      'g_grad_norm', pulled,
    )  # fmt: skip
    ema = player.averaged(state, gen['params'], self.ema_decay, self.ema_start, finite)
    new = {name: terms[name] | metrics.pop(name) for name in terms if name in metrics}
    return gen, skipped, ema, metrics, {**terms, **new}

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del stage
    players = parallel.all_gather_weights(state['players'])
    gen, disc = players['gen'], players['disc']
    weights = {'gen': self.gen.weights(gen), 'disc': self.disc.weights(disc)}
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    train, held_out = first(dict(batch)), first(dict(held_out))
    key = jax.random.fold_in(jax.random.fold_in(state['key'], state['step']), 3)  # no key of a step

    # Signs of the discriminator on training, held-out and fake images.
    def accuracies(_, weights, examples):
      def score(image, y):
        judge = lambda part: self.disc_net.apply({'params': weights['disc']}, *part)
        return microbatched(judge, self.microbatches, (image, y))

      share = lambda positive: positive.mean(dtype=jnp.float32)
      train, held_out, z, y = (examples[name] for name in ('train', 'held_out', 'z', 'y'))
      fake = self.images(weights['gen'], z, y)
      return {
        'probe_accuracy_train': share(score(to_float(train['image']), train['label']) > 0),
        'probe_accuracy_held_out': share(score(to_float(held_out['image']), held_out['label']) > 0),
        'probe_accuracy_fake': share(score(fake, y) < 0),
      }

    fresh = self.fresh(key, train['label'].shape, state['step'])
    examples = {'train': train, 'held_out': held_out, 'z': fresh['z'], 'y': fresh['y']}
    signs = parallel.over_batch(accuracies)({}, weights, examples)
    for name, one in players.items():
      signs |= getattr(self, name).reparametrisation.signs(name, one)
    return signs

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    return {'params': self.gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    net = self.gen_net
    fields = ('resolution', 'num_classes', 'ch', 'z_dim', 'channels', 'bn_eps')
    return {
      'network': self.network,
      'latent': self.law.name,
      'attention': list(net.attention),
      **{name: getattr(net, name) for name in (*fields, *self.options)},
    }

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


# --- from a config

# fmt: off
KEYS: Keys = {
  'model.ch': Key(64, 'channels, which all layers have a multiple of', least=1, most=4096),
  'model.z_dim': Key(128, 'dimensions of z', least=1, most=65_536),
  'model.latent': Key('normal', 'law of z: normal, uniform, bernoulli, censored_normal, ...'),
  'model.fake_labels': Key(
    'uniform', 'law of fake labels: uniform, or as frequent as in the data',
    choices=('uniform', 'data'), since=1,
  ),
  'model.gen_attention': Key((), "resolutions of the generator's attention"),
  'model.disc_attention': Key((), "resolutions of the discriminator's attention"),
  'model.disc_widths': Key(
    (), 'multiples of ch of its blocks; (): the published ones', least=1, most=1024,
  ),
  'model.disc_dropout': Key(
    0.0, "share of the discriminator's summed features that is dropped", below=1,
  ),
  'model.bn_group': Key(0, "examples that share BatchNorm's moments; 0: the global batch"),
  'model.bn_eps': Key(2e-5, 'epsilon of BatchNorm', above=0, most=1),
  'model.dtype': Key('bfloat16', 'of the computation', choices=tuple(DTYPES)),
  'optim.batch_size': Key(
    64, "examples of a discriminator's step, over all devices", least=1, most=BATCH.most
  ),
  'optim.gen_batch_times': Key(
    1, "examples of the generator's step, in times that", least=1, most=1000, since=1
  ),
  'optim.d_steps': Key(5, "discriminator steps to one of the generator's", least=1, most=1000),
  'optim.name': Key('adam_b1_0', 'optimizer: adam, or adam_b1_0, which keeps no first moment'),
  'optim.gen_lr': Key(2e-4, 'learning rate of the generator', most=1000),
  'optim.disc_lr': Key(2e-4, 'learning rate of the discriminator', most=1000),
  'optim.schedule': Key('constant', 'of both learning rates', choices=tuple(SCHEDULES), since=1),
  'optim.schedule_start': Key(0, 'step at which they begin to fall, to 0 at run.steps', since=1),
  'optim.warmup': Key(0, 'steps over which they rise at first', since=1),
  'optim.b1': Key(0.0, "Adam's decay of gradients", below=1),
  'optim.b2': Key(0.9, "Adam's decay of squared gradients", below=1),
  'optim.eps': Key(1e-8, "Adam's epsilon", above=0, most=1),
  'optim.ema_decay': Key(0.0, 'decay of the averaged weights, per step; 0: none', below=1),
  'optim.ema_start': Key(0, 'step at which averaging begins'),
  **places.KEYS,
  **WAYS,
  **standing_statistics.KEYS,
}
TINY = {
  'run.microbatches': 1,
  'data.resolution': 32,
  'model.ch': 8, 'model.z_dim': 16, 'model.gen_attention': (), 'model.disc_attention': (),
  'model.disc_widths': (), 'model.bn_group': 0, 'model.dtype': 'float32',
  'optim.batch_size': 8, 'optim.d_steps': 1, 'optim.schedule': 'constant', 'optim.warmup': 0,
  'eval.standing_passes': 2, 'eval.standing_batch': 8, 'export.truncations': ('1', 'none'),
}
DIGITS = {
  'run.microbatches': 1, 'run.remat': False,
  'model.ch': 16, 'model.z_dim': 60, 'model.gen_attention': (), 'model.disc_attention': (),
  'model.disc_widths': (), 'model.bn_group': 0, 'model.dtype': 'float32',
  'optim.batch_size': 64, 'optim.b1': 0.0, 'optim.b2': 0.99, 'optim.ema_decay': 0.99,
  'optim.ema_start': 200, 'optim.warmup': 0, 'augment.name': 'none',
  'eval.standing_passes': 16, 'eval.standing_batch': 128,
  'export.truncations': ('0.5', '1', '2', 'none'),
}
# fmt: on


def defaults(**of: Any) -> Keys:
  """KEYS with a family's own defaults, given as GROUP__KEY."""
  found = dict(KEYS)
  for name, value in of.items():
    name = name.replace('__', '.', 1)
    found[name] = dataclasses.replace(found[name], default=value)
  return found


def make_generator(
  networks: Mapping[str, Any], architecture: dict[str, Any]
) -> standing_statistics.StandingStatistics:
  """The sampled network of a card's `architecture`, from {name: module of models/}."""
  fields = {**architecture, 'attention': tuple(architecture['attention'])}
  network = networks[fields.pop('network')]
  return standing_statistics.StandingStatistics(
    law=law(fields.pop('latent')), net=network.Generator(**fields)
  )


def adam(
  config: ml_collections.ConfigDict, lr: float, updates: int
) -> optax.GradientTransformation:
  """A player's optimizer, with the config's schedule of its learning rate.

  Args:
    config: with KEYS.
    lr: the highest learning rate.
    updates: of this player in a step.
  """
  opt = config.optim
  rate = learning_rate(lr, opt.schedule, config.run.steps, opt.schedule_start, opt.warmup, updates)
  return errors.pick(opt.name, optim.OPTIMIZERS, 'optim.name')(rate, opt.b1, opt.b2, opt.eps)


def fields(
  config: ml_collections.ConfigDict,
  name: str,
  network: Any,
  class_counts: Callable[[], Sequence[int]] | None,
) -> dict[str, Any]:
  """All fields of ResidualGAN that follow from KEYS alone: all but the players.

  Args:
    config: complete.
    name, network: of the networks, a module of models/.
    class_counts: () -> training images of each class; None where the data is not read.
  """
  run, data, model, opt = config.run, config.data, config.model, config.optim
  shared = {
    'resolution': data.resolution,
    'num_classes': data.num_classes,
    'ch': model.ch,
    'remat': run.remat,
    'kernels': errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, DTYPES, 'model.dtype'),
  }
  return {
    'gen_net': network.Generator(
      **shared,
      z_dim=model.z_dim,
      channels=data.channels,
      attention=tuple(model.gen_attention),
      bn_group=model.bn_group or None,
      bn_eps=model.bn_eps,
      **{key: model[key] for key in network.OPTIONS},
    ),
    'disc_net': network.Discriminator(
      **shared,
      widths=tuple(model.disc_widths),
      attention=tuple(model.disc_attention),
      **{key: model[key] for key in network.DISC_OPTIONS if key in model},
    ),
    'batch': (opt.d_steps, opt.batch_size),
    'gen_batch': opt.batch_size * opt.gen_batch_times,
    'law': law(model.latent),
    'labels': label_law(model.fake_labels, data.num_classes, class_counts),
    'ema_decay': opt.ema_decay,
    'ema_start': opt.ema_start,
    'places': places.places(config, class_counts),
    'dropout': model.disc_dropout,
    'microbatches': run.microbatches,
    'network': name,
    'options': tuple(network.OPTIONS),
    'card': standing_statistics.card(config),
  }
