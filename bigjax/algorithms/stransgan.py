"""STransGAN (Xu et al. 2023): a Transformer for a generator, another one for its critic.

The paper is about networks. The game is a plain one, as far as the project page goes: the
non-saturating loss, R1 at real images, averaged weights. A step moves the generator first, then the
discriminator, with fresh fakes of the generator as it is by then. R1 may be lazy, with so many
times its weight, but Adam's decays are not corrected for that, as StyleGAN2's are. The authors'
code is not public: this order, learning rates, batches, R1's weight and period, and where a config
has DiffAugment or bCR (both are places of base/places.py) are ours. The probe measures what the
paper argues with: how much larger than the branch beside it the shortcut of each layer is.

The digits, at two channels, need WGAN-GP's penalty between real and generated images, as TransGAN's
Transformers do: with R1, or spectral norm, the discriminator becomes flat at both and a cliff in
between, and the generator, whose gradients have norms of 1e-3 and then of 300, ends blank.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import (
  configs,
  contract,
  player,
  residual,
  residual_config,
  standing_statistics,
)
from bigjax.algorithms.base.contract import Batch, Metrics, Stage, State
from bigjax.algorithms.base.generators import truncated_latents
from bigjax.algorithms.base.generators.truncated_latents import TruncatedLatents
from bigjax.algorithms.base.metrics import norm_ratio
from bigjax.algorithms.base.player import to_float
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors, parallel, trees
from bigjax.core.keys import Key, Keys
from bigjax.models import stransgan
from bigjax.nn import kernels
from bigjax.nn.latents import law
from bigjax.nn.microbatches import microbatched

Array = jax.Array
# Fields of the sampled network that the card has.
SIZES = (
  'resolution', 'num_classes', 'ch', 'z_dim', 'channels', 'shared_dim', 'blocks', 'head_dim',
  'window', 'global_resolution', 'adanorm', 'adanorm_t',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class STransGAN(residual.ResidualGAN):
  """The game of the paper; see contract.Algorithm for what each method promises."""

  remedies = (
    'lower the learning rates, or raise R1 (optim.r1_gamma), or augment what the discriminator '
    'sees (augment.name)'
  )

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    skipped = state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)

    # Generator first, against the discriminator that the step before left.
    gen, gen_skipped, ema, metrics, terms = self.move_gen(
      state,
      skipped['gen'],
      self.disc.weights(state['players']['disc']),
      of_gen,
      due,
      self.terms(state),
    )

    # Discriminator, with fresh fakes of the generator as it is now; R1 where it is due.
    disc, disc_skipped, disc_metrics, terms = self.move_disc(
      state, skipped['disc'], self.gen.weights(gen), of_disc, due, terms
    )

    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, terms)
    return state, metrics | disc_metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    signs = super().probe(state, batch, held_out, stage)
    players = parallel.all_gather_weights(state['players'])
    weights = {name: getattr(self, name).weights(players[name]) for name in ('gen', 'disc')}
    key = jax.random.fold_in(jax.random.fold_in(state['key'], state['step']), 4)  # no key of a step
    train = jax.tree.map(lambda x: x[0], dict(batch))
    fresh = self.fresh(key, train['label'].shape, state['step'])
    return signs | self.norm_ratios(weights, {**train, 'z': fresh['z'], 'y': fresh['y']})

  def norm_ratios(self, weights: Any, examples: dict) -> Metrics:
    """Each layer's shortcut over the branch beside it, by their norms over a batch.

    Args:
      weights: {player: its network's}.
      examples: [B, ...]: image and label for the discriminator, z and y for the generator.
    """

    def measure(weights, part):
      real, label = to_float(part['image']), part['label']
      of = {name: {'params': weights[name]} for name in weights}
      made = self.gen_net.apply(of['gen'], part['z'], part['y'], train=True, mutable=['norms'])
      judged = self.disc_net.apply(of['disc'], real, label, mutable=['norms'])
      return {'gen': made[1]['norms'], 'disc': judged[1]['norms']}

    def energies(_, weights, examples):
      each = microbatched(functools.partial(measure, weights), self.microbatches, examples)
      return jax.tree.map(lambda x: x.mean(0), each)  # [2] of each layer

    found, ratios = parallel.over_batch(energies)({}, weights, examples), {}
    for name, of_layers in found.items():
      for path, (skip, main) in trees.flat(of_layers).items():
        ratio = jnp.sqrt(skip / jnp.maximum(main, 1e-30))
        ratios[norm_ratio(name, path.replace('/of_', '/'))] = ratio
    return ratios

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return {'latent': self.law.name, **{name: getattr(self.gen_net, name) for name in SIZES}}


# --- After training


def make_generator(architecture: dict[str, Any]) -> contract.Generator:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  latent = law(fields.pop('latent'))
  net = stransgan.Generator(**fields)
  return (StandingStatistics if net.over_batch else TruncatedLatents)(law=latent, net=net)


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# What other residual GANs have and these networks have not.
ABSENT = ('model.gen_attention', 'model.disc_attention', 'model.disc_widths', 'model.bn_eps')
# What there is only with moments of a batch.
OF_BATCH_NORM = (
  'model.bn_group', 'eval.standing_passes', 'eval.standing_batch', 'export.truncations',
)  # fmt: skip
# fmt: off
SHARED = residual_config.defaults(
  model__ch=32, model__z_dim=128, optim__batch_size=64, optim__d_steps=1, optim__gen_lr=1e-4,
  optim__b2=0.99, optim__loss='logistic', optim__spectral_norm='none',
)
KEYS: Keys = {
  'model.blocks': Key(2, 'blocks at each resolution', least=1, most=64),
  'model.head_dim': Key(32, "channels of each of attention's heads", least=1, most=4096),
  'model.window': Key(
    0, "a side of attention's windows, in pixels; 0: 8, and 16 from 64 px on", most=256,
  ),
  'model.global_resolution': Key(
    16, "up to it, the generator's attention is global, without windows", most=256,
  ),
  'model.disc_resolution': Key(
    32, "of the discriminator's first blocks; convolutions halve images down to it", least=4,
    most=256,
  ),
  'model.skip_init': Key(
    'glorot', "how the projection of the discriminator's shortcuts begins",
    choices=stransgan.SKIPS,
  ),
  'model.shared_dim': Key(
    128, 'dimensions of the class embedding, where there are classes', least=1, most=65_536,
  ),
  'model.adanorm': Key(
    'layer', 'what z and the class scale and shift: tokens normalised over their channels, '
    "channels over an image's tokens, or over the batch's", choices=stransgan.ADANORMS,
  ),
  'model.adanorm_t': Key(
    'c', 'where: a: before attention and before the MLP; b: before the MLP and its shortcut; c: '
    'there and after attention', choices=stransgan.PLACEMENTS,
  ),
  **{name: key for name, key in SHARED.items() if name not in ABSENT},
  **{
    name: dataclasses.replace(SHARED[name], where=('model.adanorm', 'batch'))
    for name in OF_BATCH_NORM
  },
}
TINY = {
  **{name: value for name, value in residual_config.TINY.items() if name not in ABSENT},
  'data.resolution': 8,
  'model.ch': 1, 'model.shared_dim': 8, 'model.blocks': 1, 'model.head_dim': 8, 'model.window': 4,
  'model.global_resolution': 4, 'model.disc_resolution': 4, 'optim.ema_start': 0,
  'optim.r1_every': 1, 'augment.name': 'none',
}
DIGITS = {
  **{name: value for name, value in residual_config.DIGITS.items() if name not in ABSENT},
  'run.steps': 1400, 'model.ch': 2, 'model.z_dim': 32, 'model.shared_dim': 32, 'model.head_dim': 16,
  'model.window': 8, 'model.global_resolution': 4, 'model.disc_resolution': 8,
  'optim.batch_size': 32, 'optim.d_steps': 2, 'optim.gen_lr': 5e-4, 'optim.disc_lr': 1e-3,
  'optim.loss': 'wasserstein', 'optim.gp_weight': 10.0, 'optim.r1_gamma': 0.0, 'optim.r1_every': 1,
  'optim.ema_half_life': 0.0, 'optim.ema_ramp': 0.0,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  data, model = config.data, config.model
  resolution = data.resolution
  if resolution not in stransgan.RESOLUTIONS:
    raise errors.UserError(
      f'data.resolution is {resolution}; stransgan has networks for '
      f'{", ".join(map(str, stransgan.RESOLUTIONS))}.'
    )
  known = (4, *stransgan.RESOLUTIONS)
  for key, allowed in (
    ('window', (0, *known)), ('global_resolution', (0, *known)), ('disc_resolution', known),
  ):  # fmt: skip
    if model[key] not in allowed:
      raise errors.UserError(
        f'model.{key} is {model[key]}; maps are halved and cut evenly, so give one of '
        f'{", ".join(map(str, allowed))}.'
      )
  for side in stransgan.sides(resolution):
    stransgan.heads_of(stransgan.WIDTHS[side] * model.ch, model.head_dim, side)
  largest = stransgan.WIDTHS[resolution]
  if largest * model.ch < stransgan.LEAST_WIDTH:
    raise errors.UserError(
      f'model.ch is {model.ch}, which leaves {largest * model.ch} channels at {resolution} px, '
      'and a LayerNorm over so few leaves nothing of z; give at least '
      f'{math.ceil(stransgan.LEAST_WIDTH / largest)}.'
    )
  for key in ('adanorm', 'adanorm_t'):
    default = KEYS[f'model.{key}'].default
    if data.num_classes == 1 and model[key] != default:
      raise errors.UserError(
        f'model.{key} is {model[key]}, but with data.num_classes=1 nothing is conditioned on z and '
        f'the class; give {default}, or data with classes.'
      )
  if model.adanorm == 'batch' and config.run.microbatches > 1:
    raise errors.UserError(
      'model.adanorm is batch, whose blocks see the whole batch at once, but run.microbatches is '
      f'{config.run.microbatches}; give 1, or model.adanorm=layer.'
    )


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> STransGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  check(config)
  run, data, model = config.run, config.data, config.model
  shared = {
    'resolution': data.resolution,
    'num_classes': data.num_classes,
    'remat': run.remat,
    'dtype': errors.pick(model.dtype, residual_config.DTYPES, 'model.dtype'),
    **{name: model[name] for name in ('ch', 'blocks', 'head_dim', 'window')},
  }
  of_gen = ('z_dim', 'shared_dim', 'global_resolution', 'adanorm', 'adanorm_t')
  gen_net = stransgan.Generator(
    **shared,
    **{name: model[name] for name in of_gen},
    channels=data.channels,
    bn_group=model.get('bn_group') or None,
  )
  disc_net = stransgan.Discriminator(
    **shared,
    disc_resolution=model.disc_resolution,
    skip_init=model.skip_init,
    kernels=errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
  )
  residual_config.check_nets(config, gen_net, disc_net)
  card = (standing_statistics if gen_net.over_batch else truncated_latents).card(config)
  gen = residual_config.make_player(config, 'gen', gen_net)
  disc = residual_config.make_player(config, 'disc', disc_net)
  game = residual_config.game(config, class_counts)
  return STransGAN(**game, gen_net=gen_net, disc_net=disc_net, gen=gen, disc=disc, card=card)
