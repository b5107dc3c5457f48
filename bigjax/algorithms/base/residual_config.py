"""Keys that all residual GANs have in their configs, and what follows from these alone."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from bigjax.algorithms.base import places_config, standing_statistics
from bigjax.algorithms.base.draws import label_law
from bigjax.algorithms.base.player import IDENTITY, Player, Reparametrisation, spectral
from bigjax.core import errors
from bigjax.core.config import WAYS
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.core.ranges import BATCH
from bigjax.nn import kernels, layers, optim, schedules, spectral_norm
from bigjax.nn.latents import law
from bigjax.nn.objectives import class_affines, scores

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16, 'float64': jnp.float64}

# Which players have spectral norm.
NORMALISED = {'none': (), 'gen': ('gen',), 'disc': ('disc',), 'both': ('gen', 'disc')}

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
  'optim.spectral_norm': Key(
    'both', 'whose kernels have spectral norm', since=1, choices=tuple(NORMALISED),
  ),
  'optim.spectral_eps': Key(
    1e-4, "added to norms in its power iteration", above=0, most=1,
    where=('optim.spectral_norm', *list(NORMALISED)[1:]),
  ),
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
  'optim.schedule': Key(
    'constant', 'of both learning rates', choices=tuple(schedules.SCHEDULES), since=1
  ),
  'optim.schedule_start': Key(0, 'step at which they begin to fall', since=1),
  'optim.schedule_end': Key(0, 'step at which they are 0; 0: run.steps', since=1),
  'optim.warmup': Key(0, 'steps over which they rise at first', since=1),
  'optim.b1': Key(0.0, "Adam's decay of gradients", below=1),
  'optim.b2': Key(0.9, "Adam's decay of squared gradients", below=1),
  'optim.eps': Key(1e-8, "Adam's epsilon", above=0, most=1),
  'optim.ema_decay': Key(0.0, 'decay of the averaged weights, per step; 0: none', below=1),
  'optim.ema_half_life': Key(
    0.0, 'thousand images after which weights count for half in the average; 0: ema_decay rules',
    since=1,
  ),
  'optim.ema_ramp': Key(
    0.0, 'half-life at most this share of the images so far; 0: no such limit', since=1,
  ),
  'optim.ema_start': Key(0, 'step at which averaging begins'),
  **places_config.KEYS,
  **WAYS,
  **standing_statistics.KEYS,
}
TINY = {
  'run.microbatches': 1,
  'data.resolution': 32,
  'model.ch': 8, 'model.z_dim': 16, 'model.gen_attention': (), 'model.disc_attention': (),
  'model.disc_widths': (), 'model.bn_group': 0, 'model.dtype': 'float32',
  'optim.batch_size': 8, 'optim.d_steps': 1, 'optim.schedule': 'constant',
  'optim.schedule_start': 0, 'optim.schedule_end': 0, 'optim.warmup': 0,
  'eval.standing_passes': 2, 'eval.standing_batch': 8, 'export.truncations': ('1', 'none'),
}
DIGITS = {
  'run.microbatches': 1, 'run.remat': False,
  'model.ch': 16, 'model.z_dim': 60, 'model.gen_attention': (), 'model.disc_attention': (),
  'model.disc_widths': (), 'model.bn_group': 0, 'model.dtype': 'float32',
  'optim.batch_size': 64, 'optim.b1': 0.0, 'optim.b2': 0.99, 'optim.ema_decay': 0.99,
  'optim.ema_start': 200, 'optim.schedule_start': 0, 'optim.schedule_end': 0, 'optim.warmup': 0,
  'augment.name': 'none', 'eval.standing_passes': 16, 'eval.standing_batch': 128,
  'export.truncations': ('0.5', '1', '2', 'none'),
}
# fmt: on


def defaults(**of: Any) -> Keys:
  """KEYS with a family's own defaults, given as GROUP__KEY."""
  return with_defaults(KEYS, **of)


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

  Raises:
    UserError: there is no such schedule or optimizer, or what says when it falls is idle.
  """
  opt = config.optim
  if opt.schedule == 'constant' and (opt.schedule_start or opt.schedule_end):
    key = 'schedule_start' if opt.schedule_start else 'schedule_end'
    raise errors.UserError(
      f'optim.{key}={opt[key]} says when learning rates fall, but optim.schedule=constant has them '
      f'stay; give linear or cosine, or optim.{key}=0.'
    )
  rate = schedules.learning_rate(
    lr, opt.schedule, opt.schedule_end or config.run.steps, opt.schedule_start, opt.warmup, updates
  )
  return errors.pick(opt.name, optim.OPTIMIZERS, 'optim.name')(rate, opt.b1, opt.b2, opt.eps)


def averaging(opt: ml_collections.ConfigDict) -> schedules.Decay:
  """How the averaged weights of a config with KEYS forget.

  Raises:
    UserError: two laws at once, or half of one.
  """
  if opt.ema_half_life and opt.ema_decay:
    raise errors.UserError(
      f'optim.ema_decay={opt.ema_decay:g} and optim.ema_half_life={opt.ema_half_life:g} are two '
      'laws of one average; set one of them to 0.'
    )
  if opt.ema_ramp and not opt.ema_half_life:
    raise errors.UserError(
      f'optim.ema_ramp is {opt.ema_ramp:g}, which limits optim.ema_half_life, and that is 0; give '
      'a half-life in thousand images, or set optim.ema_ramp to 0.'
    )
  if opt.ema_half_life:
    return schedules.ema_half_life(1000 * opt.ema_half_life, opt.ema_ramp or None)
  return schedules.ema_decay(opt.ema_decay)


def reparametrisation(
  config: ml_collections.ConfigDict, name: str, embeddings: bool = False
) -> Reparametrisation:
  """A player's spectral norm, where the config has it.

  Args:
    config: with KEYS.
    name: of the player.
    embeddings: whether class embeddings are normalised, too.
  """
  if name not in errors.pick(config.optim.spectral_norm, NORMALISED, 'optim.spectral_norm'):
    return IDENTITY
  return spectral(spectral_norm.spec(embeddings=embeddings), config.optim.spectral_eps)


def make_player(
  config: ml_collections.ConfigDict,
  name: str,
  network: Any,
  embeddings: bool = False,
  **links: optax.GradientTransformation,
) -> Player:
  """A player with the config's optimizer and spectral norm.

  Args:
    config: with KEYS.
    name: gen or disc.
    network: its linen module.
    embeddings: see `reparametrisation`.
    links: `before` and `after` of the optimizer.
  """
  updates = {'gen': 1, 'disc': config.optim.d_steps}[name]
  return Player(
    adam(config, config.optim[f'{name}_lr'], updates),
    reparametrisation=reparametrisation(config, name, embeddings),
    dtype=network.dtype,
    **links,
  )


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
  run, data, model = config.run, config.data, config.model
  # The networks.
  shared = {
    'resolution': data.resolution,
    'num_classes': data.num_classes,
    'ch': model.ch,
    'remat': run.remat,
    'kernels': errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, DTYPES, 'model.dtype'),
  }
  gen_net = network.Generator(
    **shared,
    z_dim=model.z_dim,
    channels=data.channels,
    attention=tuple(model.gen_attention),
    bn_group=model.bn_group or None,
    bn_eps=model.bn_eps,
    **{key: model[key] for key in network.OPTIONS},
  )
  disc_net = network.Discriminator(
    **shared,
    widths=tuple(model.disc_widths),
    attention=tuple(model.disc_attention),
    **{key: model[key] for key in network.DISC_OPTIONS if key in model},
  )
  check_nets(config, gen_net, disc_net)
  return {
    'gen_net': gen_net,
    'disc_net': disc_net,
    'network': name,
    'options': tuple(network.OPTIONS),
    'card': standing_statistics.card(config),
    **game(config, class_counts),
  }


def game(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None
) -> dict[str, Any]:
  """Those of `fields` that say how networks are trained; arguments as there."""
  run, data, model, opt = config.run, config.data, config.model, config.optim
  return {
    'batch': (opt.d_steps, opt.batch_size),
    'gen_batch': opt.batch_size * opt.gen_batch_times,
    'law': law(model.latent),
    'labels': label_law(model.fake_labels, data.num_classes, class_counts),
    'ema': averaging(opt),
    'ema_start': opt.ema_start,
    'places': places_config.places(config, class_counts),
    'dropout': model.disc_dropout,
    'microbatches': run.microbatches,
  }


def check_nets(config: ml_collections.ConfigDict, gen_net: Any, disc_net: Any) -> None:
  """Refuse networks that what is in the five places makes no sense with.

  Args:
    config: complete.
    gen_net, disc_net: linen modules.
  Raises:
    UserError: names the key.
  """
  key = places_config.per_example(config)
  if not key and not config.optim.gsr_weight:
    return
  sizes = (disc_net.resolution, disc_net.resolution, config.data.channels)
  images, y = jnp.zeros((2, *sizes), jnp.float32), jnp.zeros((2,), jnp.int32)
  found = set()

  def note(next_call, args, kwargs, context):
    found.add(type(context.module))
    return next_call(*args, **kwargs)

  with nn.intercept_methods(note):
    weights = jax.eval_shape(disc_net.init, jax.random.key(0), images, y)
  if key and found & set(layers.MIXING):
    raise errors.UserError(
      f'{key} needs scores of which each follows from its own image alone, but this discriminator '
      'has BatchNorm, which mixes the examples of a batch; take one without, or turn it off.'
    )
  if config.optim.scores != 'none':
    if 'disc' in NORMALISED[config.optim.spectral_norm]:
      raise errors.UserError(
        f'{key} bounds the slope of the discriminator in place of spectral norm, but '
        f'optim.spectral_norm={config.optim.spectral_norm} bounds it, too; give none or gen.'
      )
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), weights)
    said = lambda x: jax.tree.leaves(disc_net.apply(zeros, x, y))[0]
    scores.check_piecewise_linear(said, images.shape, key)
  if config.optim.gsr_weight:
    z = jnp.zeros((2, gen_net.z_dim), jnp.float32)
    init = functools.partial(gen_net.clone(bn_group=None, microbatches=1).init, train=True)
    jax.eval_shape(lambda key: class_affines.affines(init(key, z, y)['params']), jax.random.key(0))
