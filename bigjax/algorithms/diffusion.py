"""Denoising diffusion: Improved DDPM (Nichol & Dhariwal 2021) and ADM (Dhariwal & Nichol 2021).

One player, a U-Net that is told noisy images and how noisy they are. A sample is a walk from noise
to an image (`base/generators/walker.py`). Samplers and guidance are settings of sampling, not of
training. With `model.upsampling` the network is also given the image itself, made smaller, and
learns to enlarge such (ADM's upsamplers; the stages of Ho et al. 2022, "Cascaded Diffusion Models",
of which `compositions/cascade.py` makes one generator).

Ours: steps, noise and dropout are drawn for each example, whatever the devices; labels may be left
out in training (`model.label_dropout`), for classifier-free guidance, which is in neither paper.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, player, residual_config
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import example_keys, purpose
from bigjax.algorithms.base.generators import walker
from bigjax.algorithms.base.generators.walker import TOLD, Teller
from bigjax.algorithms.base.noising import config as noising_config
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import errors, parallel, trees
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.models import unet
from bigjax.nn import optim, schedules
from bigjax.nn.diffusion import conditioning as conditionings
from bigjax.nn.diffusion import importance, sampling
from bigjax.nn.diffusion import process as processes
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.tables import Tables
from bigjax.nn.microbatches import microbatched
from bigjax.nn.schedules import Decay

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """The game of the papers; see contract.Algorithm for what each method promises."""

  teller: Teller
  process: Process
  steps: importance.Uniform | importance.SecondMoment  # law of the steps that are trained at
  loss_name: str
  net: Player
  batch: int
  ema: Decay
  ema_start: int = 0
  label_dropout: float = 0.0
  microbatches: int = 1
  conditioning: conditionings.Conditioning = conditionings.NOTHING  # of what it enlarges
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'net'
  remedies = 'lower the learning rate (optim.lr), or let it rise over more steps (optim.warmup)'

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    net = self.teller.net
    return [(0, Stage(1, self.batch, contract.image_inputs(net.resolution, net.channels)))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_net, key_state = jax.random.split(key)
    net = self.teller.net
    x = jnp.zeros((1, net.resolution, net.resolution, net.channels), jnp.float32)
    t = jnp.zeros((1,), jnp.int32)
    params = net.init(key_net, x, t, t, **self.conditioning.blank(1, net.channels))['params']
    net = self.net.init(player.replace(params, given.get('net', {})))
    ema = player.replace(net['params'], given.get('ema', {}))
    aux = known_of(self.steps.start(), self.conditioning.start(self.batch, x.shape[-1]))
    return player.initial_state(key_state, {'net': net}, ema, aux)

  def examples(self, state: State, batch: Batch) -> dict[str, Array]:
    """A step's images with a step of the process, noise, and keys for each, [B, ...]."""
    key = jax.random.fold_in(state['key'], state['step'])
    images, labels = batch['image'][0], batch['label'][0]
    keys = example_keys(key, labels.shape)
    t, weights = self.steps.draw(purpose(keys, 'step'), state['aux'].get('known', {}))
    draw = lambda key: jax.random.normal(key, images.shape[1:])
    noise = jax.vmap(draw)(purpose(keys, 'noise'))
    drop = lambda key: jax.random.bernoulli(key, self.label_dropout)
    drawn = {
      't': t, 'weight': weights, 'noise': noise, 'keys': purpose(keys, 'dropout'),
      'none': jax.vmap(drop)(purpose(keys, 'label')),
      **self.conditioning.draw(purpose(keys, 'low'), to_float(images)),
    }  # fmt: skip
    return {'image': images, 'label': labels, **parallel.shard_examples(drawn)}

  def terms(self, weights: Any, batch: dict, dropout: bool) -> dict[str, Array]:
    """Losses of a device's examples, [b] each."""
    x_start, t, noise = to_float(batch['image']), batch['t'], batch['noise']
    x = self.process.noised(x_start, t, noise)

    def say(part):
      keys = part['keys'] if dropout else None
      given = {name: part[name] for name in self.conditioning.names}
      return self.teller.say(
        weights, part['x'], part['t'], part['label'], keys, part['none'], **given
      )

    out = microbatched(say, self.microbatches, {**batch, 'x': x})
    return self.process.losses(self.loss_name, out, x_start, x, t, noise)

  def loss(self, weights: Any, known: dict, batch: dict) -> tuple[Array, Metrics]:
    """The loss on one device's examples, weighed by how likely their steps were.

    Where something is known of losses, `each` of all examples is among the metrics.
    """
    terms = self.terms(weights, batch, dropout=True)
    metrics = {f'net_{name}': (batch['weight'] * term).mean() for name, term in terms.items()}
    each = {'each': parallel.gather_examples(terms['loss'])} if known else {}
    return metrics['net_loss'], metrics | each

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    del stage
    examples = self.examples(state, batch)
    return {'net': self.net.loss(state['players']['net'], self.loss, {}, examples)}

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    examples, known = self.examples(state, batch), state['aux'].get('known', {})
    net, skipped, finite, metrics = self.net.descend(
      state['players']['net'], state['aux']['skipped']['net'], self.loss, known, examples,
      'net_grad_norm',
    )  # fmt: skip
    ema = player.averaged(
      state, net['params'], self.ema(state['step'], stage.examples), self.ema_start, finite
    )
    if known:
      learnt = self.steps.learn(known, examples['t'], metrics.pop('each'))
      known = trees.select(finite, learnt, known)
    bank = self.conditioning.keep(
      state['aux'].get('bank', {}), to_float(examples['image']), examples['label']
    )
    aux = known_of(known, bank)
    state, refused = player.advanced(state, {'net': net}, ema, {'net': skipped}, aux)
    return state, metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    """The loss of averaged weights, at steps spread evenly over the process, without dropout."""
    del stage
    weights = parallel.all_gather_weights(state['ema'])
    apart = {**state, 'key': jax.random.fold_in(state['key'], 3)}  # no key of a step
    found = {}
    for name, of in (('train', batch), ('held_out', held_out)):
      examples = self.examples(apart, of)
      t = jnp.asarray(self.process.tables.evenly(len(examples['t'])))
      examples |= {'t': t, 'none': jnp.zeros_like(examples['none'])}
      mean = lambda weights, _, examples: self.terms(weights, examples, False)['loss'].mean()
      found[f'{name}_loss'] = parallel.over_batch(mean)(weights, {}, examples)
    players = parallel.all_gather_weights(state['players'])
    return found | player.vital_signs({'net': self.net}, players)

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    bank = state['aux'].get('bank', {})
    return parallel.all_gather_weights({'params': state['ema'], **bank})

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return walker.card(self.teller, self.process, self.conditioning)

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


def known_of(known: dict[str, Array], bank: dict[str, Array]) -> dict[str, Any]:
  """What training needs beside its player: losses of steps, and images to be enlarged, if any."""
  return {name: part for name, part in (('known', known), ('bank', bank)) if part}


def make_generator(architecture: dict[str, Any]) -> walker.Walker:
  """Build the sampled network from a card's `architecture`."""
  return walker.make(architecture)


# --- Configs

BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  **with_defaults(noising_config.KEYS, optim__ema_decay=0.9999),
  'model.dropout': Key(0.0, 'in residual blocks', below=1),
  'model.label_dropout': Key(
    0.0, 'share of labels left out in training, for label_guidance; 0: that is not possible',
    below=1,
  ),
  'model.rescale_steps': Key(False, f'whether steps are told as if there were {TOLD}'),
  'model.mean': Key('epsilon', "what the network's output is", choices=processes.MEANS),
  'model.variance': Key('learned_range', 'of a step back', choices=processes.VARIANCES),
  'model.upsampling': Key(
    1, 'times a side that it enlarges images, as a stage of a cascade; 1: it makes them of noise',
    since=1, least=1, most=64,
  ),
  'model.augmentation': Key(
    'none', 'of the images that it learns to enlarge: none, gaussian (noise of a level that the '
    'network is told), blur (of half of them)', since=1, choices=conditionings.AUGMENTATIONS,
  ),
  'model.augmentation_most': Key(
    0, 'the highest level of gaussian: steps of the process; 0: all of them', since=1, most=100_000,
  ),
  'optim.loss': Key(
    'rescaled_mse', 'mse (with a learned variance its bound is added), rescaled_mse (L_hybrid), '
    'kl (L_vlb), rescaled_kl', choices=processes.LOSSES,
  ),
  'optim.steps_law': Key(
    'uniform', 'law of the steps that are trained at: uniform, second_moment (of their losses)',
    choices=tuple(importance.SAMPLERS),
  ),
  'export.sampler': Key('ancestral', 'of the steps', choices=sampling.SAMPLERS),
  'export.eta': Key(0.0, 'noise of the sampler ddim', most=1),
}
SMALL = {**noising_config.SMALL, 'model.dropout': 0.0}
TINY = {
  **SMALL,
  'data.resolution': 8,
  'model.ch': 32, 'model.widths': (1, 1), 'model.blocks': 1, 'model.attention': (4,),
  'model.schedule': 'cosine', 'model.num_steps': 20, 'optim.batch_size': 8, 'optim.ema_start': 0,
  'optim.ema_decay': 0.5, 'export.steps': '3',
}
DIGITS = {
  **SMALL, 'run.remat': False,
  'run.steps': 2400, 'run.eval_every': 600, 'run.checkpoint_every': 600, 'eval.num_samples': 450,
  'model.ch': 32, 'model.widths': (1, 2), 'model.blocks': 1, 'model.attention': (8,),
  'model.num_steps': 1000, 'model.rescale_steps': False,
  'optim.batch_size': 32, 'optim.lr': 1e-3, 'optim.schedule': 'linear',
  'optim.schedule_start': 1200, 'optim.warmup': 50, 'optim.ema_decay': 0.99,
  'optim.ema_start': 50, 'export.steps': '25', 'export.sampler': 'ancestral',
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  noising_config.check(config)
  data, model = config.data, config.model
  if model.label_dropout and data.num_classes == 1:
    raise errors.UserError(
      f'model.label_dropout is {model.label_dropout:g}, but with data.num_classes=1 there are no '
      'labels; give 0.'
    )
  if data.resolution % model.upsampling:
    raise errors.UserError(
      f'model.upsampling={model.upsampling} does not divide data.resolution='
      f'{data.resolution}; give a divisor, or 1 for a network that enlarges nothing.'
    )
  if model.augmentation != 'none' and model.upsampling == 1:
    raise errors.UserError(
      f'model.augmentation={model.augmentation} is of images that are enlarged, and with '
      'model.upsampling=1 there are none; give none.'
    )
  if model.augmentation_most and model.augmentation != 'gaussian':
    raise errors.UserError(
      f'model.augmentation_most={model.augmentation_most} is of model.augmentation=gaussian, not '
      f'of {model.augmentation}; give 0.'
    )
  if model.augmentation_most > model.num_steps:
    raise errors.UserError(
      f'model.augmentation_most={model.augmentation_most:,} is more than the '
      f'{model.num_steps:,} steps of the process (model.num_steps); give fewer, or 0 for all.'
    )
  if config.optim.loss.endswith('kl') and model.variance != 'learned_range':
    raise errors.UserError(
      f'optim.loss is {config.optim.loss}, the bound, which needs model.variance=learned_range, '
      f'not {model.variance}.'
    )
  walker.read_spec(card(config), Tables(model.schedule, model.num_steps), False)


def card(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """How samples are made unless told otherwise."""
  return {name: kind(config.export[name]) for name, kind in walker.CARD.items()}


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> Diffusion:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: not looked at.

  Raises:
    UserError: as `check`.
  """
  del class_counts
  check(config)
  run, data, model, opt = config.run, config.data, config.model, config.optim
  classes, unlabelled = data.num_classes, model.label_dropout > 0
  of = Tables(model.schedule, model.num_steps)
  low = data.resolution // model.upsampling if model.upsampling > 1 else 0
  conditioning = conditionings.make(low, model.augmentation, of, model.augmentation_most)
  net = unet.UNet(
    data.resolution, data.channels, classes + unlabelled if classes > 1 else 0,
    dropout=model.dropout, learned=model.variance == 'learned_range', low_resolution=low,
    augmented=conditioning.levels > 0, **noising_config.fields(config),
  )  # fmt: skip
  rate = schedules.learning_rate(
    opt.lr, opt.schedule, opt.schedule_end or run.steps, opt.schedule_start, opt.warmup
  )
  return Diffusion(
    Teller(net, model.num_steps, model.rescale_steps, unlabelled),
    Process(of, model.mean, model.variance),
    importance.SAMPLERS[opt.steps_law](model.num_steps),
    opt.loss,
    Player(optim.adamw(rate, opt.b1, opt.b2, opt.eps, opt.weight_decay), dtype=net.dtype),
    opt.batch_size,
    residual_config.averaging(opt),
    opt.ema_start,
    model.label_dropout,
    run.microbatches,
    conditioning,
    card(config),
  )
