"""Projected GAN (Sauer et al. 2021): discriminators look at features of a frozen network.

EfficientNet-Lite0, trained on ImageNet, sees images at four scales; fixed random convolutions mix
what it sees, and a small discriminator judges each scale: nothing that looks at an image is
trained, and the gradient goes through all of it to the generator. Both players' images are
augmented (DiffAugment) at their own resolution, then enlarged to what the network was trained on.
As in the official code, the generator moves first, and nothing regularises the discriminators,
whose learning rate and Adam's memory are those of 16 updates in 17 all the same.

Differences: the power iteration runs once per update, not in every forward pass; the generator is
sampled with standing statistics of its averaged weights, not with running ones of others; the
projection is the same in every run, so that `frozen` is.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, player, standing_statistics, style_config
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law, purpose
from bigjax.algorithms.base.generators.kinds import KINDS, SPECTRAL
from bigjax.algorithms.base.player import Player, to_float
from bigjax.algorithms.base.residual_config import DTYPES, averaging
from bigjax.core import errors, parallel, trees
from bigjax.core.config import WAYS
from bigjax.core.keys import Key, Keys
from bigjax.core.ranges import BATCH
from bigjax.models import projected_gan
from bigjax.models.pretrained import efficientnet_lite0, taps, torch_layout
from bigjax.nn import augment, kernels, optim
from bigjax.nn.augment import diffaugment
from bigjax.nn.augment.blur import FadingBlur, no_blur
from bigjax.nn.objectives import losses
from bigjax.nn.resizing import resize
from bigjax.nn.schedules import Decay

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Critic:
  """What is frozen: (frozen, images [B, H, W, C] in [-1, 1]) -> four mixed maps of each image.

  Attributes:
    features: name of the network, one of taps.NETWORKS.
    file: of its weights; None: where they are usually kept.
    trunk: the network itself.
    projection: what mixes its maps.
    side: pixels that smaller images are enlarged to before the network; 0: none.
  """

  features: str
  file: str | None
  trunk: efficientnet_lite0.EfficientNetLite0
  projection: projected_gan.Projection
  side: int

  @functools.cached_property
  def tapped(self) -> taps.Tapped:
    """The network's weights, read at the first call.

    Raises:
      UserError: they cannot be had.
    """
    return taps.load(self.features, self.file)

  def frozen(self) -> dict[str, Any]:
    """Weights that no one trains, the same whatever the run.

    Raises:
      UserError: those of the network cannot be had.
    """
    variables = self.tapped.variables
    projection = projected_gan.random_projection(self.of_projection(variables))
    return jax.tree.map(jnp.asarray, {'features': variables, 'projection': projection})

  def shapes(self) -> dict[str, Any]:
    """Shapes of the same, without the network's weights."""
    of_trunk = torch_layout.shapes(self.trunk)
    trunk = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in of_trunk.items()}
    variables = trees.nest(trunk)
    return {'features': variables, 'projection': self.of_projection(variables)}

  def of_projection(self, variables: Any) -> Any:
    """Shapes of the projection's weights, from those of the network or their shapes."""

    def run(variables):
      taps = self.trunk.apply(variables, jnp.zeros((1, 64, 64, 3)))['taps']
      return self.projection.init(jax.random.key(0), taps)['params']

    return jax.eval_shape(run, variables)

  def __call__(self, frozen: dict[str, Any], images: Array) -> tuple[Array, ...]:
    images = jnp.repeat(images, 3 // images.shape[-1], axis=3)
    if images.shape[1] < self.side:
      images = resize(images, self.side, 'torch_bilinear')
    seen = self.trunk.apply(frozen['features'], (images + 1) * 127.5)
    return self.projection.apply({'params': frozen['projection']}, seen['taps'])

  def described(self) -> dict[str, Any]:
    """For the card: whose features, of which weights, under which licence, and how they looked."""
    return {
      'features': self.features, 'digest': self.tapped.digest, 'licence': self.tapped.licence,
      'side': self.side,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ProjectedGAN:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  synthesis: Any  # the generator as one of KINDS makes it
  critic: Critic
  disc_net: projected_gan.Discriminator
  gen: Player
  disc: Player
  batch: int
  labels: LabelLaw
  augment: augment.Augment
  blur: Callable[[Array, Array], Array]
  ema: Decay
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'gen'
  remedies = (
    'lower the learning rates (optim.gen_lr, optim.disc_lr), or blur at first (optim.blur_sigma)'
  )

  @property
  def gen_net(self) -> Any:
    return self.synthesis.net

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    inputs = contract.image_inputs(self.gen_net.resolution, self.gen_net.channels)
    return [(0, Stage(1, self.batch, inputs))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net, frozen = self.gen_net, given.get('frozen') or self.critic.frozen()
    gen = self.synthesis.init(key_gen)
    gen = self.gen.init(player.replace(gen, given.get('gen', {})))
    images = jnp.zeros((2, net.resolution, net.resolution, net.channels))
    maps = jax.eval_shape(self.critic, frozen, images)
    zeros = [jnp.zeros(x.shape, x.dtype) for x in maps]
    plain = self.disc_net.clone(bn_group=None)  # two examples need not divide
    disc = plain.init(key_disc, zeros, jnp.zeros((2,), jnp.int32), True)['params']
    disc = self.disc.init(player.replace(disc, given.get('disc', {})))
    ema = player.replace(gen['params'], given.get('ema', {}))
    players = {'gen': gen, 'disc': disc}
    return player.initial_state(key_state, players, ema, self.synthesis.start(), frozen)

  def fresh(self, key: Array, num: int) -> dict[str, Array]:
    """Draw latents, labels and keys for the rest, one per example."""
    key_z, key_y, key_rest = jax.random.split(key, 3)
    inputs = {
      'z': jax.random.normal(key_z, (num, self.gen_net.z_dim)),
      'y': self.labels.draw(key_y, (num,)),
    }
    return {**parallel.shard_examples(inputs), 'keys': example_keys(key_rest, (num,))}

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """The generator's examples of a step [B, ...], and the discriminators', with real images."""
    key = jax.random.fold_in(state['key'], state['step'])
    key_gen, key_disc, key_real = jax.random.split(key, 3)
    real = jax.tree.map(lambda x: x[0], dict(batch))
    real['keys_real'] = example_keys(key_real, (stage.examples,))
    fresh = [self.fresh(one, stage.examples) for one in (key_gen, key_disc)]
    return fresh[0], {**real, **fresh[1]}

  def maps(self, shared: dict, keys: Array, images: Array) -> tuple[Array, ...]:
    """What discriminators see of images [b, H, W, C]: blurred, augmented, enlarged, projected."""
    images = self.blur(images, shared['seen'])
    images = self.augment(purpose(keys, 'augment'), images, 1.0)
    return self.critic(shared['frozen'], images)

  def score(self, weights: Any, maps: Sequence[Array], y: Array) -> Array:
    """Scores [b, num], of which BatchNorm sees one kind of images alone."""
    scores, _ = self.disc_net.apply({'params': weights}, maps, y, True, mutable=['moments'])
    return scores

  def gen_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_G on one device's examples: all scores of fakes, as high as can be."""
    fake = self.synthesis.images(weights, batch['z'], batch['y'], batch['keys'])
    maps = self.maps(shared, batch['keys'], fake)
    loss = losses.hinge_gen(self.score(shared['disc'], maps, batch['y']))
    return loss, {'g_loss': loss}

  def disc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_D on one device's examples: the hinge loss, a mean over images and scores."""
    fake = self.synthesis.images(shared['gen'], batch['z'], batch['y'], batch['keys'])
    real = to_float(batch['image'])
    # One look at both: what is frozen takes no notice of other examples.
    keys = jnp.concatenate([batch['keys_real'], batch['keys']])
    maps = self.maps(shared, keys, jnp.concatenate([real, fake]))
    real_maps, fake_maps = ([half(x) for x in maps] for half in (first_half, second_half))
    real_scores = self.score(weights, real_maps, batch['label'])
    fake_scores = self.score(weights, fake_maps, batch['y'])
    loss_real, loss_fake = losses.hinge_disc(real_scores, fake_scores)
    metrics = {
      'd_loss': loss_real + loss_fake, 'd_loss_real': loss_real, 'd_loss_fake': loss_fake,
      'd_logit_real': real_scores.mean(), 'd_logit_fake': fake_scores.mean(),
      'd_accuracy_real': (real_scores > 0).mean(dtype=jnp.float32),
      'd_accuracy_fake': (fake_scores < 0).mean(dtype=jnp.float32),
    }  # fmt: skip
    return metrics['d_loss'], metrics

  def shared(self, state: State, stage: Stage) -> dict[str, Any]:
    """What both losses are given beside the other player."""
    seen = state['step'].astype(jnp.float32) * stage.num_images
    return {'frozen': parallel.all_gather_weights(state['frozen']), 'seen': seen}

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    gen, disc = state['players']['gen'], state['players']['disc']
    of_gen, of_disc = self.examples(state, batch, stage)
    shared = self.shared(state, stage)
    of_others = (
      {**shared, 'disc': self.disc.weights(disc)},
      {**shared, 'gen': self.gen.weights(gen)},
    )
    return {
      'gen': self.gen.loss(gen, self.gen_loss, of_others[0], of_gen),
      'disc': self.disc.loss(disc, self.disc_loss, of_others[1], of_disc),
    }

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    players, skipped = state['players'], state['aux']['skipped']
    of_gen, of_disc = self.examples(state, batch, stage)
    shared = self.shared(state, stage)

    # Generator: one step against the discriminators as they are.
    gen, gen_skipped, finite, metrics = self.gen.descend(
      players['gen'], skipped['gen'], self.gen_loss,
      {**shared, 'disc': self.disc.weights(players['disc'])}, of_gen, 'g_grad_norm',
    )  # fmt: skip

    # Discriminators: one step, on images of the generator as it is now.
    weights = self.gen.weights(gen)
    disc, disc_skipped, _, disc_metrics = self.disc.descend(
      players['disc'], skipped['disc'], self.disc_loss, {**shared, 'gen': weights}, of_disc,
      'd_grad_norm',
    )  # fmt: skip

    ema = player.averaged(state, gen['params'], self.ema(state['step'], stage.examples), 0, finite)
    aux = self.synthesis.carried(state['aux'], weights, of_disc)
    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, aux)
    return state, metrics | disc_metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del batch, held_out, stage
    players = {'gen': self.gen, 'disc': self.disc}
    return player.vital_signs(players, parallel.all_gather_weights(state['players']))

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    params = self.gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    return {'params': params, **{name: state['aux'][name] for name in self.synthesis.start()}}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return self.synthesis.card()

  def frozen_shapes(self) -> dict[str, Any]:
    return self.critic.shapes()

  def frozen_card(self) -> dict[str, Any]:
    return {'critic': self.critic.described()}

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


def first_half(x: Array) -> Array:
  return x[: len(x) // 2]


def second_half(x: Array) -> Array:
  return x[len(x) // 2 :]


# --- After training


def make_generator(architecture: dict[str, Any]) -> contract.Generator:
  """Build the sampled network from a card's `architecture`; its critic is only told of there."""
  fields = {name: value for name, value in architecture.items() if name != 'critic'}
  return KINDS[fields.pop('network')].sampled(fields)


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
LAZY = 16 / 17  # of the discriminators' updates, as if every 16 there were one more
# fmt: off
KEYS: Keys = {
  **{name: WAYS[name] for name in ('run.remat', 'run.kernels')},
  'run.features_file': Key(
    '', "file of the frozen network's weights; '': the package of [features], or the cache",
  ),
  'model.network': Key('fastgan', 'the generator', choices=tuple(KINDS)),
  'model.z_dim': Key(256, 'dimensions of z', least=1, most=65_536),
  'model.ngf': Key(128, "channels of FastGAN's maps at 128 px", least=1, most=4096),
  'model.w_dim': Key(128, 'dimensions of w', least=1, most=65_536),
  'model.mapping_layers': Key(2, 'layers from z to w', least=1, most=64),
  'model.fmap_base': dataclasses.replace(style_config.KEYS['model.fmap_base'], default=16_384),
  'model.fmap_max': style_config.KEYS['model.fmap_max'],
  'model.fake_labels': Key(
    'data', 'law of fake labels: uniform, or as frequent as in the data',
    choices=('uniform', 'data'),
  ),
  'model.features': Key(
    'efficientnet_lite0', 'the frozen network', choices=taps.NETWORKS,
  ),
  'model.features_side': Key(
    224, 'pixels that smaller images are enlarged to before it; 0: none', most=1024,
  ),
  'model.proj_width': Key(64, 'channels of the first mixed maps', least=2, most=4096),
  'model.disc_width': Key(
    64, "channels of the discriminators' maps, as many times 1 to 8", least=1, most=4096,
  ),
  'model.separable': Key(False, "whether the discriminators' convolutions are separable"),
  'model.bn_group': Key(0, "examples that share BatchNorm's moments; 0: the global batch"),
  'model.dtype': Key('float32', 'of the computation', choices=tuple(DTYPES)),
  'optim.batch_size': Key(
    64, "examples of a discriminator's step, over all devices", least=1, most=BATCH.most,
  ),
  'optim.gen_lr': Key(2e-4, 'learning rate of the generator', most=1000),
  'optim.disc_lr': Key(2e-4 * LAZY, 'learning rate of the discriminator', most=1000),
  'optim.gen_b2': Key(0.99, "the generator's Adam's decay of squared gradients", below=1),
  'optim.disc_b2': Key(0.99**LAZY, "the discriminators' Adam's", below=1),
  'optim.eps': Key(1e-8, "Adam's epsilon", above=0, most=1),
  'optim.ema_decay': Key(0.0, 'decay of the averaged weights, per step; 0: none', below=1),
  'optim.ema_half_life': Key(
    20.0, 'thousand images after which weights count for half in the average; 0: ema_decay rules',
  ),
  'optim.ema_ramp': Key(
    0.05, 'half-life at most this share of the images so far; 0: no such limit',
  ),
  'optim.blur_sigma': Key(
    0.0, 'blur, in pixels, of what the discriminators see at first; 0: none', most=100,
  ),
  'optim.blur_kimg': Key(
    200.0, 'thousand images over which it fades', above=0,
  ),
  'augment.name': Key(
    'color,translation,cutout', "of real and fake images: none, or a policy of DiffAugment",
  ),
  'augment.cutout': Key(0.2, "side of the square cut out, of the image's", above=0, most=1),
  **standing_statistics.KEYS,
}
TINY = {
  'run.remat': False, 'data.resolution': 16,
  'model.w_dim': 16, 'model.fmap_base': 64, 'model.fmap_max': 16,
  'model.z_dim': 16, 'model.ngf': 2, 'model.features': 'efficientnet_lite0_random',
  'model.features_side': 64, 'model.proj_width': 8, 'model.disc_width': 8, 'model.bn_group': 0,
  'model.dtype': 'float32', 'optim.batch_size': 8,
  'eval.standing_passes': 2, 'eval.standing_batch': 8, 'export.truncations': ('1', 'none'),
}
DIGITS = {
  'run.remat': False,
  'model.w_dim': 32, 'model.fmap_base': 256, 'model.fmap_max': 32,
  'model.z_dim': 64, 'model.ngf': 16, 'model.features': 'efficientnet_lite0_random',
  'model.features_side': 64, 'model.proj_width': 16, 'model.disc_width': 16, 'model.bn_group': 0,
  'model.dtype': 'float32', 'optim.batch_size': 32, 'optim.gen_lr': 1e-3, 'optim.disc_lr': 1e-3,
  'optim.ema_decay': 0.99, 'optim.ema_half_life': 0.0, 'optim.ema_ramp': 0.0,
  'augment.name': 'none', 'eval.standing_passes': 16, 'eval.standing_batch': 128,
}
# fmt: on


def seen_side(config: ml_collections.ConfigDict) -> int:
  """Pixels of what the frozen network sees.

  Raises:
    UserError: it has no maps of four scales, each half the other, that can be judged.
  """
  side = max(config.data.resolution, config.model.features_side)
  power = side & (side - 1) == 0
  if side < 64 or not (power or (side % 32 == 0 and side >= projected_gan.LEAST_NOMINAL)):
    raise errors.UserError(
      f'the frozen network would see images of {side} px; give a resolution or '
      'model.features_side of 64 or 128, or a multiple of 32 from 224 on.'
    )
  return side


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> ProjectedGAN:
  """Build the algorithm from a config; weights are read when a state is made.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  data, model, opt = config.data, config.model, config.optim
  dtype = errors.pick(model.dtype, DTYPES, 'model.dtype')
  ways = {
    'kernels': errors.pick(config.run.kernels, kernels.KERNELS, 'run.kernels'), 'dtype': dtype,
  }  # fmt: skip
  kind = errors.pick(model.network, KINDS, 'model.network')
  side = seen_side(config)
  if data.channels not in (1, 3):
    raise errors.UserError(
      f'data.channels is {data.channels}; the frozen network sees colours: give 3, or 1 for grey.'
    )
  policy = augment.none
  if config.augment.name != 'none':
    policy = diffaugment.policy(config.augment.name, config.augment.cutout)

  def moving(name, reparametrisation):
    adam = optim.adam_b1_0(opt[f'{name}_lr'], 0.0, opt[f'{name}_b2'], opt.eps)
    return Player(adam, reparametrisation=reparametrisation, dtype=dtype)

  return ProjectedGAN(
    synthesis=kind.make(config, ways),
    critic=Critic(
      model.features, config.run.features_file or None,
      efficientnet_lite0.Trunk(precision=None, **ways),
      projected_gan.Projection(model.proj_width), model.features_side,
    ),
    disc_net=projected_gan.Discriminator(
      side, data.num_classes, model.disc_width, model.separable, model.bn_group or None,
      **ways,
    ),
    gen=moving('gen', kind.reparametrisation), disc=moving('disc', SPECTRAL),
    batch=opt.batch_size,
    labels=label_law(model.fake_labels, data.num_classes, class_counts),
    augment=policy,
    blur=FadingBlur(opt.blur_sigma, 1000 * opt.blur_kimg) if opt.blur_sigma else no_blur,
    ema=averaging(opt), card=standing_statistics.card(config),
  )  # fmt: skip
