"""StyleGAN2 (Karras et al. 2020), and with an augmentation what ADA (2020b) and DiffAugment train.

The non-saturating loss, with two regularisers that are due only every so many steps, each as an
update of its own: R1 of the discriminator, and path length of the generator, which asks that a step
in w changes images as much wherever it is taken. Four updates at most, in the official order; the
average w moves in all three that draw latents, as in the official code. Styles of two latents are
mixed from a layer on that is drawn for each example, where that code draws one for all that a GPU
holds; the path length's average and the minibatch's deviation are over the global batch, and an
update that is not finite is refused, where that code replaces what is not finite by numbers.
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
  places_config,
  player,
  style_config,
  truncation,
)
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law, purpose
from bigjax.algorithms.base.places import Places
from bigjax.algorithms.base.player import Player, to_float
from bigjax.algorithms.base.residual_config import averaging
from bigjax.algorithms.base.truncation import Styled, mapped, noise_maps, synthesized
from bigjax.core import errors, parallel, trees
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.core.ranges import BATCH
from bigjax.models import stylegan2
from bigjax.nn import optim
from bigjax.nn.objectives import losses, scores
from bigjax.nn.schedules import Decay
from bigjax.nn.style import blocks, stylegan
from bigjax.nn.style.equalized import Gains

Array = jax.Array
PL_DECAY = 0.01  # how far the average path length goes towards that of a minibatch
UNSPLIT = (
  'examples of a path length cannot be split over {devices} devices; lower optim.pl_batch_shrink.'
)


@dataclasses.dataclass(frozen=True)
class StyleGAN2:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  gen_net: stylegan2.Generator
  disc_net: stylegan2.Discriminator
  gen: Player
  disc: Player
  batch: int  # examples of a step
  pl_batch: int  # of the path length's update
  labels: LabelLaw
  places: Places  # of which the augmentation is used
  r1_gamma: float
  r1_plain: bool  # its gradient is by images before they are augmented
  pl_weight: float
  every: tuple[tuple[str, int], ...]  # (term, steps between two of its own updates)
  mixing: float  # share of examples whose styles are mixed
  ema: Decay
  ema_start: int
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # its network

  sampled = 'gen'
  remedies = (
    'raise optim.r1_gamma, lower the learning rates (optim.gen_lr, optim.disc_lr), or, of few '
    'images, set augment.name=ada_bgc and augment.target=0.6'
  )

  @property
  def periods(self) -> Mapping[str, int]:
    return dict(self.every)

  def joined(self, term: str) -> bool:
    """Whether a term is part of every step's loss instead (as in the paper's rows A and B)."""
    weight = {'r1': self.r1_gamma, 'pl': self.pl_weight}[term]
    return bool(weight) and term not in self.periods

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    inputs = contract.image_inputs(self.gen_net.resolution, self.gen_net.channels)
    return [(0, Stage(1, self.batch, inputs))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net = self.gen_net
    z, y = jnp.zeros((1, net.z_dim)), jnp.zeros((1,), jnp.int32)
    gen = net.init(key_gen, z, y)['params']
    gen = self.gen.init(player.replace(gen, given.get('gen', {})))
    images = jnp.zeros((1, net.resolution, net.resolution, net.channels))
    disc = self.disc_net.init(key_disc, images, y)['params']
    disc = self.disc.init(player.replace(disc, given.get('disc', {})))
    ema = player.replace(gen['params'], given.get('ema', {}))
    aux = {'w_avg': jnp.zeros((net.w_dim,), jnp.float32), 'pl_mean': jnp.zeros((), jnp.float32)}
    terms = self.places.start(None, key_state)  # ADA's p, and what it follows
    aux |= {'terms': terms} if terms else {}
    return player.initial_state(key_state, {'gen': gen, 'disc': disc}, ema, aux)

  # --- What is drawn

  def fresh(self, key: Array, num: int) -> dict[str, Array]:
    """Draw two latents, where to mix them, labels and keys for the rest, one per example."""
    key_z, key_y, key_mix, key_rest = jax.random.split(key, 4)
    key_other, key_coin, key_cut = jax.random.split(key_mix, 3)
    last, latents = self.gen_net.num_ws, (num, self.gen_net.z_dim)
    cut = jax.random.randint(key_cut, (num,), 1, last, jnp.int32)
    inputs = {
      'z': jax.random.normal(key_z, latents),
      'z2': jax.random.normal(key_other, latents),
      'cutoff': jnp.where(jax.random.uniform(key_coin, (num,)) < self.mixing, cut, last),
      'y': self.labels.draw(key_y, (num,)),
    }
    return {**parallel.shard_examples(inputs), 'keys': example_keys(key_rest, (num,))}

  def examples(self, state: State, batch: Batch) -> dict[str, dict]:
    """Examples [B, ...] of the step's updates: `gen`, `pl` and `disc`, with the real images."""
    if self.pl_weight:
      parallel.check_split(self.pl_batch, UNSPLIT)
    key = jax.random.fold_in(state['key'], state['step'])
    key_gen, key_pl, key_disc, key_real = jax.random.split(key, 4)
    real = jax.tree.map(lambda x: x[0], dict(batch))
    of_disc = {**real, **self.fresh(key_disc, self.batch)}
    of_disc['real_keys'] = example_keys(key_real, (self.batch,))
    of_gen = self.fresh(key_gen, self.batch)
    return {'gen': of_gen, 'pl': self.fresh(key_pl, self.pl_batch), 'disc': of_disc}

  def noise(self, batch: dict) -> Sequence[Array]:
    """The noise of each convolution [b, r, r, 1]."""
    return noise_maps(purpose(batch['keys'], 'noise'), self.gen_net.resolution)

  def directions(self, batch: dict) -> Array:
    """Normal images [b, H, W, C], along which path lengths are measured."""
    net = self.gen_net
    shape = net.resolution, net.resolution, net.channels
    keys = purpose(batch['keys'], 'directions')
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

  # --- The players' losses, each on one device's examples

  def styles(self, weights: Any, batch: dict) -> Array:
    """What each layer is given [b, num_ws, w_dim]: one latent's w, or from a layer on another's."""
    w = mapped(self.gen_net, weights, batch['z'], batch['y'])
    ws = stylegan.broadcast(w, self.gen_net.num_ws)
    if not self.mixing:
      return ws
    other = mapped(self.gen_net, weights, batch['z2'], batch['y'])
    return stylegan.mixed(ws, other, batch['cutoff'])

  def images(self, weights: Any, batch: dict) -> Array:
    """The generator's images [b, H, W, C]."""
    return synthesized(self.gen_net, weights, self.styles(weights, batch), self.noise(batch))

  def augmented(self, shared: dict, keys: Array, images: Array) -> Array:
    """Images [b, H, W, C] as the discriminator sees them, each of a key of its own."""
    return self.places.strengthened(shared.get('terms', {})).augmented(keys, images)

  def judged(self, weights: Any, images: Array, y: Array) -> Array:
    """The discriminator's scores [b] of augmented images."""
    return self.disc_net.apply({'params': weights}, images, y)

  def gen_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """The non-saturating loss of the generator."""
    keys = purpose(batch['keys'], 'augment')
    fake = self.augmented(shared, keys, self.images(weights, batch))
    loss = losses.logistic_gen(self.judged(shared['disc'], fake, batch['y']))
    metrics = {'g_loss': loss}
    if not self.joined('pl'):
      return loss, metrics
    penalty, more = self.path_length(weights, shared, batch['pl'])
    return loss + penalty, metrics | more

  def path_length(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """weight E (|J^T y| - a)^2 (Eq. 4), with a the average of |J^T y|, this step's included.

    J is the images' Jacobian by the styles and y a normal image over the root of its pixels, so
    that a length does not depend on the resolution. The gradient goes through a, too.
    """
    ws, noise, along = self.styles(weights, batch), self.noise(batch), self.directions(batch)
    along = along / (along.shape[1] * along.shape[2]) ** 0.5
    slopes = jax.grad(lambda ws: (synthesized(self.gen_net, weights, ws, noise) * along).sum())(ws)
    lengths = scores.safe_sqrt(jnp.square(slopes).sum(2).mean(1))  # of w, a mean over its layers
    length, old = parallel.global_mean(lengths)[0], shared['pl_mean']
    mean = old + PL_DECAY * (length - old)
    penalty = self.pl_weight * jnp.square(lengths - mean).mean()
    return penalty, {'g_pl': penalty, 'pl_length': length, 'pl_mean': mean}

  def disc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """The logistic loss of the discriminator; fakes and reals do not see each other."""
    key_real, key_fake = (purpose(batch[name], 'augment') for name in ('real_keys', 'keys'))
    real = self.augmented(shared, key_real, to_float(batch['image']))
    fake = self.augmented(shared, key_fake, self.images(shared['gen'], batch))
    real = self.judged(weights, real, batch['label'])
    fake = self.judged(weights, fake, batch['y'])
    loss_real, loss_fake = losses.logistic_disc(real, fake)
    metrics = {
      'd_loss': loss_real + loss_fake, 'd_loss_real': loss_real, 'd_loss_fake': loss_fake,
      'd_logit_real': real.mean(), 'd_logit_fake': fake.mean(),
      'd_accuracy_real': (real > 0).mean(dtype=jnp.float32),
      'd_accuracy_fake': (fake < 0).mean(dtype=jnp.float32),
    }  # fmt: skip
    if self.places.controller is not None:
      metrics['d_overfit'] = self.places.controller.measure(real, fake)
    if not self.joined('r1'):
      return metrics['d_loss'], metrics
    penalty, more = self.r1(weights, shared, batch)
    return metrics['d_loss'] + penalty, metrics | {'d_r1': more['d_r1']}

  def r1(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """gamma / 2 E |grad D|^2 at augmented real images, by these or by what they are made of."""
    draws = 'augment' if self.joined('r1') else 'r1'  # those of the loss, or others
    seen = functools.partial(self.augmented, shared, purpose(batch['real_keys'], draws))
    judge = lambda images: self.judged(weights, images, batch['label'])
    of, at = lambda x: judge(seen(x)), to_float(batch['image'])
    if not self.r1_plain:
      of, at = judge, seen(at)
    real, _, slopes = scores.with_gradient(lambda x: (of(x), None), at)
    penalty = self.r1_gamma / 2 * scores.squares(slopes).mean()
    metrics = {'d_r1': penalty}
    if self.places.controller is not None:
      metrics['d_overfit'] = self.places.controller.measure(real, real)
    return penalty, metrics

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    del stage
    gen, disc = state['players']['gen'], state['players']['disc']
    examples, others = self.examples(state, batch), self.others(state)
    of_gen = {'disc': self.disc.weights(disc), **others}
    of_disc = {'gen': self.gen.weights(gen), **others}
    return {
      'gen': self.gen.loss(gen, self.gen_loss, of_gen, self.of_main(examples)),
      'disc': self.disc.loss(disc, self.disc_loss, of_disc, examples['disc']),
    }

  def others(self, state: State) -> dict[str, Any]:
    """What losses look at beside the players: the average length, the augmentation's strength."""
    return {name: state['aux'][name] for name in ('pl_mean', 'terms') if name in state['aux']}

  def of_main(self, examples: dict[str, dict]) -> dict:
    """Examples of the generator's loss, with those of the path length where it is part of that."""
    return examples['gen'] | ({'pl': examples['pl']} if self.joined('pl') else {})

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    aux, skipped, others = state['aux'], state['aux']['skipped'], self.others(state)
    gen, disc = state['players']['gen'], state['players']['disc']
    examples, w_avg, num_judged = self.examples(state, batch), aux['w_avg'], self.batch

    # The generator's loss, by the discriminator as it is.
    pulled = self.gen.pullback(gen)
    w_avg = self.averaged_w(w_avg, pulled[0], examples['gen'])
    gen, _, gen_moved, metrics = self.gen.descend(
      gen, skipped['gen'], self.gen_loss, {'disc': self.disc.weights(disc), **others},
      self.of_main(examples), 'g_grad_norm', pulled,
    )  # fmt: skip
    gen_whole = gen_moved

    # The generator's path length, of another minibatch, weighted by the steps that it stands for.
    if 'pl' in due:
      pulled = self.gen.pullback(gen)
      w_avg = self.averaged_w(w_avg, pulled[0], examples['pl'])
      gen, _, finite, more = self.gen.descend(
        gen, skipped['gen'], times(self.periods['pl'], self.path_length), others, examples['pl'],
        'g_pl_norm', pulled,
      )  # fmt: skip
      gen_whole, metrics = gen_whole & finite, metrics | more

    # The discriminator's loss, of real images and of fakes by the generator that has moved.
    weights = self.gen.weights(gen)
    w_avg = self.averaged_w(w_avg, weights, examples['disc'])
    disc, _, disc_whole, more = self.disc.descend(
      disc, skipped['disc'], self.disc_loss, {'gen': weights, **others}, examples['disc'],
      'd_grad_norm',
    )  # fmt: skip
    metrics |= more

    # Its slope at the same real images, augmented anew.
    if 'r1' in due:
      disc, _, finite, more = self.disc.descend(
        disc, skipped['disc'], times(self.periods['r1'], self.r1), others, examples['disc'],
        'd_r1_norm',
      )  # fmt: skip
      if 'd_overfit' in more:  # both of its judgements of real images count
        more['d_overfit'] = (metrics['d_overfit'] + more['d_overfit']) / 2
      disc_whole, metrics, num_judged = disc_whole & finite, metrics | more, 2 * self.batch

    # Averages: of the generator, of path lengths, and the augmentation's strength that follows D.
    decay = self.ema(state['step'], self.batch)
    ema = player.averaged(state, gen['params'], decay, self.ema_start, gen_moved)
    length = metrics.get('pl_mean', aux['pl_mean'])
    aux = {'w_avg': w_avg, 'pl_mean': trees.select(gen_whole, length, aux['pl_mean'])}
    if self.places.controller is not None:
      terms, metrics = self.places.adapted(others['terms'], metrics, num_judged)
      aux['terms'] = terms

    skipped = {
      'gen': player.count_skipped(skipped['gen'], gen_whole),
      'disc': player.count_skipped(skipped['disc'], disc_whole),
    }
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, aux)
    return state, metrics | refused

  def averaged_w(self, w_avg: Array, weights: Any, examples: dict) -> Array:
    """The average w after the mapping network has mapped a minibatch."""
    mapping = lambda weights, batch: mapped(self.gen_net, weights, batch['z'], batch['y'])
    return truncation.averaged_w(w_avg, mapping, weights, examples)

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del stage
    players = parallel.all_gather_weights(state['players'])
    gen, disc = players['gen'], players['disc']
    weights = {'gen': self.gen.weights(gen), 'disc': self.disc.weights(disc)}

    # Signs of the discriminator, of images that are not augmented.
    def accuracies(_, weights, examples):
      judge = lambda x, y: self.disc_net.apply({'params': weights['disc']}, x, y)
      real = [judge(to_float(of['image']), of['label']) for of in examples['real']]
      fresh = examples['fresh']
      return player.accuracies(*real, judge(self.images(weights['gen'], fresh), fresh['y']))

    real = [jax.tree.map(lambda x: x[0], dict(of)) for of in (batch, held_out)]
    key = jax.random.fold_in(jax.random.fold_in(state['key'], state['step']), 4)  # no key of a step
    examples = {'real': real, 'fresh': self.fresh(key, real[0]['label'].shape[0])}
    signs = parallel.over_batch(accuracies)({}, weights, examples)
    if self.gen_net.architecture == 'skip':
      signs |= self.rgb_shares(weights['gen'], examples['fresh'])
    return signs | player.vital_signs({'gen': self.gen, 'disc': self.disc}, players)

  def rgb_shares(self, weights: Any, batch: dict) -> Metrics:
    """Each resolution's share of the output: the deviation of what it adds, of all (Figure 8)."""

    def moments(weights, shared, batch):
      del shared
      given = self.styles(weights, batch), self.noise(batch)
      images = stylegan2.rgb_images(self.gen_net, weights, *given)
      return {size: (x.mean(), jnp.square(x).mean()) for size, x in images.items()}

    found = parallel.over_batch(moments)(weights, {}, batch)
    deviations = {
      size: jnp.sqrt(jnp.maximum(square - mean**2, 0)) for size, (mean, square) in found.items()
    }
    total = jnp.maximum(sum(deviations.values()), 1e-12)
    return {f'rgb_share_{size}': one / total for size, one in deviations.items()}

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    params = self.gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    return {'params': params, 'w_avg': state['aux']['w_avg']}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return dict(self.card)

  def sampling(self) -> dict[str, Any]:
    return {}


def times(num: int, loss: Callable[..., tuple[Array, Metrics]]) -> Callable:
  """A loss that stands for `num` steps; its metrics are those of one."""

  def lazy(*of):
    value, metrics = loss(*of)
    return num * value, metrics

  return lazy


# --- After training


def make_generator(architecture: dict[str, Any]) -> Styled:
  """Build the sampled network from a card's `architecture`."""
  return Styled(stylegan2.Generator(**architecture))


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
SHARED = {name: key for name, key in style_config.KEYS.items() if name != 'optim.d_steps'}
R1 = ('r1_gamma', 'r1_every', 'r1_plain')
SIZES = ('resolution', 'num_classes', 'fmap_base', 'fmap_max', 'z_dim', 'w_dim', 'mapping_layers',
         'channels', 'architecture')  # of the sampled network
KEYS: Keys = {
  **with_defaults(
    SHARED, model__fmap_base=16_384, optim__batch_size=32, optim__gen_lr=2e-3,
    optim__disc_lr=2e-3, optim__ema_decay=0.0,
  ),
  'model.w_dim': Key(512, 'dimensions of w, where z is mapped', least=1, most=65_536),
  'model.mapping_layers': Key(8, 'layers from z to w', least=1, most=64),
  'model.gen_architecture': Key(
    'skip', 'shape of the generator', choices=stylegan2.ARCHITECTURES,
  ),
  'model.disc_architecture': Key(
    'resnet', 'shape of the discriminator', choices=stylegan2.ARCHITECTURES,
  ),
  'model.disc_mapping_layers': Key(
    8, "layers that map a class for D's projection (ADA's paper: 0)", most=64,
  ),
  'model.stddev_group': Key(
    4, 'examples whose deviation is taken together; 0: the whole batch', most=BATCH.most,
  ),
  'optim.style_mixing': Key(0.9, 'share of fakes that two latents give their styles to', most=1),
  'optim.lazy': Key(
    True, 'R1 and path length have updates of their own, now and then; False: in every loss',
  ),
  **with_defaults(
    {f'optim.{name}': places_config.KEYS[f'optim.{name}'] for name in R1},
    optim__r1_gamma=10.0, optim__r1_every=16, optim__r1_plain=True,
  ),
  'optim.pl_weight': Key(2.0, 'path length regularisation of the generator; 0: off'),
  'optim.pl_every': Key(4, 'steps between two updates by path length', least=1, most=1000),
  'optim.pl_batch_shrink': Key(
    2, 'its minibatch is the batch over that', least=1, most=BATCH.most,
  ),
  'optim.ema_half_life': Key(
    10.0, 'thousand images after which weights count for half in the average; 0: ema_decay rules',
  ),
  'optim.ema_ramp': Key(
    0.0, 'half-life at most this share of the images so far; 0: no such limit',
  ),
  'optim.ema_start': Key(0, 'step at which averaging begins'),
  'optim.freeze_disc': Key(
    0, "first layers of the discriminator that stay as they are (Freeze-D)", most=1000,
  ),
  **places_config.OF_AUGMENTATION,
}
TINY = {
  'run.remat': False,
  'data.resolution': 8,
  'model.fmap_base': 32, 'model.fmap_max': 16, 'model.z_dim': 16, 'model.w_dim': 16,
  'model.mapping_layers': 2, 'model.disc_mapping_layers': 2, 'model.stddev_group': 4,
  'model.dtype': 'float32', 'optim.batch_size': 8, 'optim.pl_batch_shrink': 2,
  'optim.freeze_disc': 0, 'optim.ema_start': 0,
}
DIGITS = {
  'run.remat': False,
  'model.fmap_base': 256, 'model.fmap_max': 32, 'model.z_dim': 32, 'model.w_dim': 32,
  'model.mapping_layers': 2, 'model.disc_mapping_layers': 2, 'model.stddev_group': 4,
  'model.dtype': 'float32', 'optim.batch_size': 32, 'optim.pl_batch_shrink': 2,
  'optim.gen_lr': 2e-3, 'optim.disc_lr': 2e-3, 'optim.r1_gamma': 0.1, 'optim.ema_decay': 0.99,
  'optim.ema_half_life': 0.0, 'optim.ema_ramp': 0.0, 'optim.ema_start': 0,
  'optim.freeze_disc': 0, 'optim.pl_every': 4, 'optim.r1_every': 16,
  'augment.name': 'none', 'augment.p': 0.0, 'augment.target': 0.0, 'augment.kimg': 500.0,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  places_config.check_augmentation(config)
  places_config.check_idle(config, places_config.OF_AUGMENTATION)
  opt = config.optim
  if opt.pl_weight and opt.batch_size % opt.pl_batch_shrink:
    raise errors.UserError(
      f'optim.pl_batch_shrink is {opt.pl_batch_shrink}, which does not divide '
      f'optim.batch_size={opt.batch_size}; give one that does, or 1.'
    )


def disc_layers(net: stylegan2.Discriminator) -> list[str]:
  """Paths of the discriminator's layers before its last block, in the order they are frozen in."""
  skips, top = net.architecture == 'skip', blocks.level_of(net.resolution)
  found = []
  for level in range(top, blocks.FIRST, -1):
    names = ['fromrgb'] if skips or level == top else []
    names += ['conv0', 'conv1'] + (['skip'] if net.architecture == 'resnet' else [])
    found += [f'b{2**level}/{name}/' for name in names]
  return found


def frozen(net: stylegan2.Discriminator, num: int) -> Callable[[str, Any], bool]:
  """(path, leaf) -> whether it belongs to one of the first `num` layers (Mo et al. 2020).

  Raises:
    UserError: there are not as many.
  """
  layers = disc_layers(net)
  if num > len(layers):
    raise errors.UserError(
      f'optim.freeze_disc is {num}; this discriminator has {len(layers)} layers before its last '
      f'block: give 0 (none) to {len(layers)}.'
    )
  return lambda path, leaf: path.startswith(tuple(layers[:num]))


def make_nets(
  config: ml_collections.ConfigDict,
) -> tuple[stylegan2.Generator, stylegan2.Discriminator]:
  """The networks of a config."""
  model, shared = config.model, style_config.of_both(config)
  gen_net = stylegan2.Generator(
    **shared, z_dim=model.z_dim, w_dim=model.w_dim, mapping_layers=model.mapping_layers,
    channels=config.data.channels, architecture=model.gen_architecture,
  )  # fmt: skip
  disc_net = stylegan2.Discriminator(
    **shared, architecture=model.disc_architecture, mapping_layers=model.disc_mapping_layers,
    stddev_group=model.stddev_group or None,
  )  # fmt: skip
  return gen_net, disc_net


def make_player(
  config: ml_collections.ConfigDict, lr: float, every: int, gains: Gains, **links: Any
) -> Player:
  """A player whose Adam makes up for `every` + 1 updates in `every` steps (Appendix B).

  Args:
    config: with KEYS.
    lr: its learning rate where each step has one update.
    every: steps between two updates of a regulariser, which share the moments; 0: there are none.
    gains: of its kernels.
    links: `before` and `after` of the optimizer.
  """
  opt, share = config.optim, every / (every + 1) if every else 1.0
  adam = optim.OPTIMIZERS['adam_b1_0'](lr * share, 0.0, opt.b2**share, opt.eps)
  dtype = errors.pick(config.model.dtype, style_config.DTYPES, 'model.dtype')
  return Player(adam, reparametrisation=player.equalized(gains), dtype=dtype, **links)


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> StyleGAN2:
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
  # Rates are made up for also where a weight is 0, as in the official code.
  rates = {'pl': opt.pl_every, 'r1': opt.r1_every} if opt.lazy else {}
  weights = {'pl': opt.pl_weight, 'r1': opt.r1_gamma}
  return StyleGAN2(
    gen_net, disc_net,
    gen=make_player(config, opt.gen_lr, rates.get('pl', 0), stylegan2.GEN_GAINS),
    disc=make_player(
      config, opt.disc_lr, rates.get('r1', 0), stylegan2.DISC_GAINS,
      after=optim.freeze(frozen(disc_net, opt.freeze_disc)),
    ),
    batch=opt.batch_size, pl_batch=opt.batch_size // opt.pl_batch_shrink,
    labels=label_law('data', config.data.num_classes, class_counts),
    places=Places(**places_config.augmentation(config, opt.batch_size)),
    r1_gamma=opt.r1_gamma, r1_plain=opt.r1_plain, pl_weight=opt.pl_weight,
    every=tuple((name, num) for name, num in rates.items() if weights[name]),
    mixing=opt.style_mixing, ema=averaging(opt), ema_start=opt.ema_start,
    card={name: getattr(gen_net, name) for name in SIZES},
  )  # fmt: skip
