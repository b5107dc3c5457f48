"""BigGAN (Brock, Donahue, Simonyan 2019): large-batch class-conditional GAN with spectral norm.

k discriminator steps, each on its own real minibatch with fresh latents and labels, then one
generator step; hinge loss; cross-replica BatchNorm; orthogonal penalty on the generator; averaged
weights. BigGAN-deep is the same game with other networks. Differences from BigGAN-PyTorch, all
towards the paper: the penalty has Eq. 3's full gradient, one power iteration per update rather than
per forward pass, epsilon 1e-4 in every BatchNorm, zero biases at init, no running BatchNorm
averages.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from bigjax.algorithms.base import configs, contract, networks, player, standing_statistics
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law
from bigjax.algorithms.base.player import Player, spectral, spectral_signs, to_float
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors, parallel
from bigjax.core.config import WAYS, Key, Keys
from bigjax.core.microbatches import microbatched
from bigjax.core.ranges import BATCH
from bigjax.models import biggan, biggan_deep
from bigjax.nn import augment, kernels, losses, optim, regularizers, spectral_norm
from bigjax.nn.latents import Law, law

Array = jax.Array
NETWORKS = {'biggan': biggan, 'biggan_deep': biggan_deep}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16, 'float64': jnp.float64}


def penalised(path: str, leaf: Any) -> bool:
  """The orthogonal penalty covers every matrix of the generator but its shared embedding."""
  return leaf.ndim >= 2 and path != 'shared/embedding'


@dataclasses.dataclass(frozen=True)
class BigGAN:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  gen_net: Any  # Generator and Discriminator of one of NETWORKS
  disc_net: Any
  gen: Player
  disc: Player
  batch: tuple[int, int]  # (discriminator steps, examples of each)
  law: Law
  labels: LabelLaw
  penalty: float  # beta of Eq. 3, reported; the gradient is in the generator's chain
  ema_decay: float
  ema_start: int
  augment: augment.Augment
  r1: Callable[[Callable, Array], Array] = regularizers.no_r1  # (critic, real) -> [B]
  dropout: float = 0.0  # of the discriminator's summed features
  microbatches: int = 1  # parts of a device's batch, one after the other
  # How it is sampled; a dict has no hash, and whatever is jitted by a game needs one.
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

  periods = {}  # noqa: RUF012 - nothing is lazy
  sampled = 'gen'
  remedies = (
    'lower the learning rates, or add a tool of the paper (optim.r1_gamma, optim.sigma_tool, '
    'model.disc_dropout)'
  )

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
    return player.initial_state(key_state, {'gen': gen, 'disc': disc}, ema)

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

  def disc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_D on one device's examples, of normalised weights; `shared` has the other player's."""
    score = lambda *inputs: self.disc_net.apply({'params': weights}, *inputs)

    def judge(part):
      fake = self.augment(part['aug'], part['fake'])
      real = self.augment(part['aug_real'], to_float(part['image']).astype(fake.dtype))
      masks = [self.mask(part[name]) for name in ('aug_real', 'aug')]
      both = None if masks[0] is None else jnp.concatenate(masks)
      labels = jnp.concatenate([part['label'], part['y']])
      real_logits, fake_logits = jnp.split(score(jnp.concatenate([real, fake]), labels, both), 2)
      r1 = self.r1(lambda images: score(images, part['label'], masks[0]), real)
      return real_logits, fake_logits, r1

    fake = self.images(shared['gen'], batch['z'], batch['y'])
    real_logits, fake_logits, r1 = microbatched(judge, self.microbatches, {**batch, 'fake': fake})
    loss_real, loss_fake = losses.hinge_disc(real_logits, fake_logits)
    metrics = {
      'd_loss': loss_real + loss_fake,
      'd_loss_real': loss_real,
      'd_loss_fake': loss_fake,
      'd_r1': r1.mean(),
      'd_logit_real': real_logits.mean(),
      'd_logit_fake': fake_logits.mean(),
      'd_accuracy_real': (real_logits > 0).mean(dtype=jnp.float32),
      'd_accuracy_fake': (fake_logits < 0).mean(dtype=jnp.float32),
    }
    return loss_real + loss_fake + r1.mean(), metrics

  def gen_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_G on one device's examples; the penalty is not in it but in the optimizer chain."""

    def judge(part):
      fake, mask = self.augment(part['aug'], part['fake']), self.mask(part['aug'])
      return self.disc_net.apply({'params': shared['disc']}, fake, part['y'], mask)

    fake = self.images(weights, batch['z'], batch['y'])
    logits = microbatched(judge, self.microbatches, {**batch, 'fake': fake})
    loss = losses.hinge_gen(logits)
    return loss, {'g_loss': loss}

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """The discriminator's examples of a step [k, B, ...], and the generator's [B, ...]."""
    key = jax.random.fold_in(state['key'], state['step'])
    key_disc, key_gen, key_real = jax.random.split(key, 3)
    shape = stage.minibatches, stage.examples
    aug_real = example_keys(key_real, shape)
    of_disc = {**batch, **self.fresh(key_disc, shape, state['step']), 'aug_real': aug_real}
    return of_disc, self.fresh(key_gen, shape[1:], state['step'])

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    gen, disc = state['players']['gen'], state['players']['disc']
    of_disc, of_gen = self.examples(state, batch, stage)
    first = jax.tree.map(lambda x: x[0], of_disc)
    gen_weights, disc_weights = self.gen.weights(gen), self.disc.weights(disc)
    return {
      'gen': self.gen.loss(gen, self.gen_loss, {'disc': disc_weights}, of_gen),
      'disc': self.disc.loss(disc, self.disc_loss, {'gen': gen_weights}, first),
    }

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    gen, disc = state['players']['gen'], state['players']['disc']
    skipped = state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)
    pulled = self.gen.pullback(gen)  # of use to both players

    # Discriminator: k steps, each on a minibatch of its own (Appendix C).
    disc, disc_skipped, disc_metrics = self.disc.descend_each(
      disc, skipped['disc'], self.disc_loss, {'gen': pulled[0]}, of_disc, 'd_grad_norm'
    )

    # Generator: one step against the discriminator as it is now.
    shared = {'disc': self.disc.weights(disc)}
    gen, gen_skipped, finite, metrics = self.gen.descend(
      gen, skipped['gen'], self.gen_loss, shared, of_gen, 'g_grad_norm', pulled
    )
    ema = player.averaged(state, gen['params'], self.ema_decay, self.ema_start, finite)

    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped)
    return state, metrics | disc_metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
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
      signs |= spectral_signs(name, one)
    signs['orthogonal_penalty'] = self.penalty * regularizers.total(
      regularizers.orthogonal, gen['params'], penalised
    )
    return signs

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    return {
      'params': spectral_norm.fold(parallel.all_gather_weights(state['ema']), spectral_norm.spec())
    }

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    net = self.gen_net
    network = next(name for name, module in NETWORKS.items() if isinstance(net, module.Generator))
    fields = ('resolution', 'num_classes', 'ch', 'z_dim', 'channels', 'bn_eps')
    return {
      'network': network,
      'latent': self.law.name,
      'attention': list(net.attention),
      **{name: getattr(net, name) for name in (*fields, *NETWORKS[network].OPTIONS)},
    }

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


def make_generator(architecture: dict[str, Any]) -> StandingStatistics:
  """Build the sampled network from a card's `architecture`."""
  fields = {**architecture, 'attention': tuple(architecture['attention'])}
  network = NETWORKS[fields.pop('network')]
  return StandingStatistics(law=law(fields.pop('latent')), net=network.Generator(**fields))


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  'model.network': Key('biggan', 'architecture', choices=tuple(NETWORKS)),
  'model.ch': Key(96, 'channels, which all layers have a multiple of', least=1, most=4096),
  'model.z_dim': Key(120, 'dimensions of z', least=1, most=65_536),
  'model.latent': Key('normal', 'law of z: normal, uniform, bernoulli, censored_normal, ...'),
  'model.fake_labels': Key(
    'uniform', 'law of fake labels: uniform, or as frequent as in the data',
    choices=('uniform', 'data'), since=1,
  ),
  'model.shared_dim': Key(
    128, 'dimensions of the shared class embedding; 0: tables per class', most=65_536,
  ),
  'model.skip_z': Key(
    True, 'z in parts, one for each block, joined to the embedding',
    where=('model.network', 'biggan'),
  ),
  'model.rgb_filters': Key(
    0, "filters of the generator's last convolution; 0: as many as channels", most=65_536,
    where=('model.network', 'biggan_deep'),
  ),
  'model.gen_attention': Key((64,), "resolutions of the generator's attention"),
  'model.disc_attention': Key((64,), "resolutions of the discriminator's attention"),
  'model.disc_widths': Key(
    (), 'multiples of ch of its blocks; (): the published ones', least=1, most=1024,
  ),
  'model.disc_dropout': Key(
    0.0, "share of the discriminator's summed features that is dropped", below=1,
  ),
  'model.bn_group': Key(0, "examples that share BatchNorm's moments; 0: the global batch"),
  'model.bn_eps': Key(1e-4, 'epsilon of BatchNorm', above=0, most=1),
  'model.dtype': Key('bfloat16', 'of the computation', choices=tuple(DTYPES)),
  'optim.batch_size': Key(2048, 'examples of a step, over all devices', least=1, most=BATCH.most),
  'optim.d_steps': Key(2, "discriminator steps to one of the generator's", least=1, most=1000),
  'optim.name': Key('adam_b1_0', 'optimizer: adam, or adam_b1_0, which keeps no first moment'),
  'optim.gen_lr': Key(5e-5, 'learning rate of the generator', most=1000),
  'optim.disc_lr': Key(2e-4, 'learning rate of the discriminator', most=1000),
  'optim.b1': Key(0.0, "Adam's decay of gradients", below=1),
  'optim.b2': Key(0.999, "Adam's decay of squared gradients", below=1),
  'optim.eps': Key(1e-8, "Adam's epsilon", above=0, most=1),
  'optim.ortho_beta': Key(1e-4, 'orthogonal penalty of the generator (Eq. 3); 0: off'),
  'optim.spectral_eps': Key(
    1e-4, "added to norms in spectral norm's power iteration", above=0, most=1,
  ),
  'optim.ema_decay': Key(0.9999, 'decay of the averaged weights, per step', below=1),
  'optim.ema_start': Key(20_000, 'step at which averaging begins'),
  'optim.r1_gamma': Key(0.0, 'gradient penalty on real images (Eq. 5); 0: off'),
  'optim.sigma_tool': Key(
    'none', "what holds the generator's largest singular values down (Eq. 4): none, clamp, penalty"
  ),
  'optim.sigma_weight': Key(0.0, 'weight of that penalty'),
  'optim.sigma_reg': Key(0.0, 'bound: a fixed value'),
  'optim.sigma_ratio': Key(1.0, 'bound: times the second singular value'),
  'optim.freeze_disc': Key(0, 'first blocks of the discriminator that stay as they are (FreezeD)'),
  'augment.name': Key(
    'none', 'augmentation of real and fake images', choices=tuple(augment.AUGMENTATIONS)
  ),
  **WAYS,
  **standing_statistics.KEYS,
}
# What tiny and digits change beside the keys that all families share.
TINY = {
  'run.microbatches': 1,
  'data.resolution': 64,
  'model.ch': 8, 'model.z_dim': 20, 'model.shared_dim': 8, 'model.gen_attention': (32,),
  'model.disc_attention': (32,), 'model.disc_widths': (), 'model.bn_group': 0,
  'model.dtype': 'float32',
  'optim.batch_size': 8, 'optim.d_steps': 1, 'optim.ema_start': 1, 'optim.freeze_disc': 0,
  'eval.standing_passes': 2, 'eval.standing_batch': 8, 'export.truncations': ('1', 'none'),
}
DIGITS = {
  'run.microbatches': 1, 'run.remat': False,
  'model.network': 'biggan', 'model.ch': 16, 'model.z_dim': 60, 'model.shared_dim': 32,
  'model.skip_z': True, 'model.gen_attention': (), 'model.disc_attention': (),
  'model.disc_widths': (), 'model.bn_group': 0, 'model.bn_eps': 1e-4, 'model.dtype': 'float32',
  'optim.batch_size': 64, 'optim.d_steps': 2, 'optim.name': 'adam_b1_0', 'optim.gen_lr': 7e-4,
  'optim.disc_lr': 2e-3, 'optim.b1': 0.0, 'optim.b2': 0.99, 'optim.eps': 1e-8,
  'optim.ortho_beta': 1e-4, 'optim.spectral_eps': 1e-4, 'optim.ema_decay': 0.99,
  'optim.ema_start': 200, 'optim.freeze_disc': 0, 'augment.name': 'none',
  'eval.standing_passes': 16, 'eval.standing_batch': 128,
  'export.truncations': ('0.5', '1', '2', 'none'),
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  network = NETWORKS[config.model.network]
  networks.check(network, config)
  check_tools(config.optim, network.num_disc_widths(config.data.resolution))


def check_tools(opt: ml_collections.ConfigDict, num_blocks: int) -> None:
  """Refuse settings of R1, FreezeD and the sigma tools that mean nothing.

  Raises:
    UserError: names the first.
  """
  if not 0 <= opt.freeze_disc < num_blocks:
    raise errors.UserError(
      f'optim.freeze_disc is {opt.freeze_disc}; give 0 (none) to {num_blocks - 1} blocks.'
    )
  if opt.sigma_tool == 'penalty' and opt.sigma_weight <= 0:
    raise errors.UserError(
      f'optim.sigma_tool is penalty, but optim.sigma_weight is {opt.sigma_weight}; give a positive '
      'number.'
    )


def frozen_blocks(num: int) -> Callable[[str, Any], bool]:
  """Return which of the discriminator's tensors stay as they are: its first blocks' (FreezeD)."""
  first = re.compile(rf'(blocks|attention)_({"|".join(map(str, range(num)))})(_\d)?/|input_conv/')
  return lambda path, leaf: num > 0 and first.match(path) is not None


def sigma_tools(opt: ml_collections.ConfigDict) -> tuple[Any, Any]:
  """Links that hold sigma0 of the generator down: one before and one after the optimizer.

  Raises:
    UserError: there is no such tool.
  """
  limit = {'fixed': opt.sigma_reg, 'ratio': opt.sigma_ratio}
  none = optax.identity()
  tools = {
    'none': lambda: (none, none),
    'clamp': lambda: (none, optim.clamp_sigma(spectral_norm.spec(), **limit)),
    'penalty': lambda: (
      optim.add_sigma_penalty(opt.sigma_weight, spectral_norm.spec(), **limit),
      none,
    ),
  }
  return errors.pick(opt.sigma_tool, tools, 'optim.sigma_tool')()


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> BigGAN:
  """Build the algorithm from a config with the groups run, data, model, optim and augment.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  check(config)
  run, data, model, opt = config.run, config.data, config.model, config.optim
  network = NETWORKS[model.network]
  shared = {
    'resolution': data.resolution,
    'num_classes': data.num_classes,
    'ch': model.ch,
    'remat': run.remat,
    'kernels': errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, DTYPES, 'model.dtype'),
  }
  adam = errors.pick(opt.name, optim.OPTIMIZERS, 'optim.name')
  sigma_before, sigma_after = sigma_tools(opt)
  gen = Player(
    adam(opt.gen_lr, opt.b1, opt.b2, opt.eps),
    before=optax.chain(optim.add_orthogonal_penalty(opt.ortho_beta, penalised), sigma_before),
    after=sigma_after,
    reparametrisation=spectral(spectral_norm.spec(), opt.spectral_eps),
    dtype=shared['dtype'],
  )
  disc = Player(
    adam(opt.disc_lr, opt.b1, opt.b2, opt.eps),
    after=optim.freeze(frozen_blocks(opt.freeze_disc)),
    reparametrisation=spectral(spectral_norm.spec(embeddings=True), opt.spectral_eps),
    dtype=shared['dtype'],
  )
  r1 = regularizers.no_r1
  if opt.r1_gamma:
    r1 = lambda critic, images: opt.r1_gamma * regularizers.r1(critic, images)
  return BigGAN(
    gen_net=network.Generator(
      **shared,
      z_dim=model.z_dim,
      channels=data.channels,
      attention=tuple(model.gen_attention),
      bn_group=model.bn_group or None,
      bn_eps=model.bn_eps,
      **{key: model[key] for key in network.OPTIONS},
    ),
    disc_net=network.Discriminator(
      **shared, widths=tuple(model.disc_widths), attention=tuple(model.disc_attention)
    ),
    gen=gen,
    disc=disc,
    batch=(opt.d_steps, opt.batch_size),
    law=law(model.latent),
    labels=label_law(model.fake_labels, data.num_classes, class_counts),
    penalty=opt.ortho_beta,
    ema_decay=opt.ema_decay,
    ema_start=opt.ema_start,
    augment=errors.pick(config.augment.name, augment.AUGMENTATIONS, 'augment.name'),
    r1=r1,
    dropout=model.disc_dropout,
    microbatches=run.microbatches,
    card=standing_statistics.card(config),
  )
