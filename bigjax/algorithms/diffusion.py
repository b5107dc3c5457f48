"""Denoising diffusion: Improved DDPM (Nichol & Dhariwal 2021) and ADM (Dhariwal & Nichol 2021).

One player, a U-Net that is told noisy images and how noisy they are. A sample is a walk from noise
to an image, with a call of the network at each of the steps that are kept. Samplers and guidance
are settings of sampling, not of training.

Ours: steps, noise and dropout are drawn for each example, whatever the devices; labels may be left
out in training (`model.label_dropout`), for classifier-free guidance, which is in neither paper.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, draws, player, residual_config
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import example_keys, purpose
from bigjax.algorithms.base.noising import config as noising_config
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import errors, parallel, trees
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.models import unet
from bigjax.nn import optim, schedules
from bigjax.nn.diffusion import importance, sampling
from bigjax.nn.diffusion import process as processes
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.sampling import Walk
from bigjax.nn.diffusion.tables import Tables
from bigjax.nn.microbatches import microbatched
from bigjax.nn.schedules import Decay

Array = jax.Array
TOLD = 1000  # steps that a network is told as if there were so many, with model.rescale_steps


@dataclasses.dataclass(frozen=True)
class Teller:
  """A network, and how it is told of steps and labels.

  Attributes:
    net: its table of labels has one more, for no label, with `unlabelled`.
    num_steps: of the process.
    rescale: whether steps are told as of TOLD.
    unlabelled: whether it knows images without labels.
  """

  net: unet.UNet
  num_steps: int
  rescale: bool
  unlabelled: bool

  @property
  def num_classes(self) -> int:
    return max(self.net.num_classes - self.unlabelled, 1)

  def say(
    self, weights: Any, x: Array, t: Array, y: Array, keys: Array | None = None, none: Any = False
  ) -> Array:
    """What the network says of x at steps t [B] of the whole process.

    Args:
      weights: of the network.
      x, t: noisy images and their steps.
      y: labels [B], or weights over classes [B, classes].
      keys: of dropout.
      none: whether, or [B] of which examples, the label is left out.
    """
    told = t.astype(jnp.float32) * (TOLD / self.num_steps) if self.rescale else t
    if self.unlabelled:
      y = y if y.ndim == 2 else jax.nn.one_hot(y, self.num_classes)
      none = jnp.broadcast_to(jnp.asarray(none), t.shape).astype(y.dtype)[:, None]
      y = jnp.concatenate([y * (1 - none), none], -1)
    return self.net.apply({'params': weights}, x, told, y, keys)


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
    params = net.init(key_net, x, t, t)['params']
    net = self.net.init(player.replace(params, given.get('net', {})))
    ema = player.replace(net['params'], given.get('ema', {}))
    known = self.steps.start()
    return player.initial_state(key_state, {'net': net}, ema, {'known': known} if known else {})

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
    }  # fmt: skip
    return {'image': images, 'label': labels, **parallel.shard_examples(drawn)}

  def terms(self, weights: Any, batch: dict, dropout: bool) -> dict[str, Array]:
    """Losses of a device's examples, [b] each."""
    x_start, t, noise = to_float(batch['image']), batch['t'], batch['noise']
    x = self.process.noised(x_start, t, noise)

    def say(part):
      keys = part['keys'] if dropout else None
      return self.teller.say(weights, part['x'], part['t'], part['label'], keys, part['none'])

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
    aux = {}
    if known:
      learnt = self.steps.learn(known, examples['t'], metrics.pop('each'))
      aux = {'known': trees.select(finite, learnt, known)}
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
    return {'params': parallel.all_gather_weights(state['ema'])}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    net, of = self.teller.net, self.process.tables
    return {
      **noising_config.architecture(net, of), 'learned': net.learned, 'mean': self.process.mean,
      'variance': self.process.variance, 'rescale_steps': self.teller.rescale,
      'unlabelled': self.teller.unlabelled,
    }  # fmt: skip

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


# --- After training


@dataclasses.dataclass(frozen=True)
class WalkSpec:
  """Sampling settings: which steps are kept, how they are walked, and towards what.

  Attributes:
    steps: as `tables.kept_steps` reads them.
    sampler: one of sampling.SAMPLERS.
    eta: of DDIM, its share of ancestral noise.
    label_guidance: scale of classifier-free guidance; 1: none.
  """

  steps: str
  sampler: str
  eta: float = 0.0
  label_guidance: float = 1.0

  def __str__(self) -> str:
    words = f'{self.steps} steps, {self.sampler}'
    words += f', eta {self.eta:g}' if self.eta else ''
    return words + (f', label guidance {self.label_guidance:g}' if self.label_guidance != 1 else '')

  def described(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


jax.tree_util.register_static(WalkSpec)

OPTIONS = {
  'steps': 'calls of the network: 25, 10,15,20 (of equal parts), ddim25, logsnr25',
  'sampler': f'of the steps: {", ".join(sampling.SAMPLERS)} (DPM-Solver++, with logsnr10 and such)',
  'eta': 'noise of ddim, 0 to 1; 1: as much as ancestral',
  'label_guidance': 'scale of classifier-free guidance, of a network trained with label_dropout',
}
CARD = {'steps': str, 'sampler': str, 'eta': float}


@dataclasses.dataclass(frozen=True)
class Walker(contract.PlainGenerator):
  """The sampled network: latents are x_T, of whose bits the noise of later steps is drawn."""

  teller: Teller
  process: Process  # of all steps

  options = OPTIONS

  @property
  def shape(self) -> tuple[int, ...]:
    net = self.teller.net
    return net.resolution, net.resolution, net.channels

  @property
  def latent_shape(self) -> tuple[int, ...]:
    return self.shape

  @property
  def num_classes(self) -> int:
    return self.teller.num_classes

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> WalkSpec:
    contract.check_options(given, self.options)
    contract.check_sampling(sampling, CARD)
    given = {**{name: sampling[name] for name in CARD}, **(given or {})}
    return read_spec(given, self.process.tables, self.teller.unlabelled)

  @property
  def steerable(self) -> contract.Steerable:
    return self

  @property
  def noising(self) -> contract.Noising:
    return contract.Noising(self.process.tables.schedule, self.process.tables.num)

  def generate(self, gen: Gen, z: Array, y: Array, spec: WalkSpec) -> Array:
    return self.steered(gen, z, y, spec, None)

  def steered(
    self, gen: Gen, z: Array, y: Array, spec: WalkSpec, gradient: contract.Gradient | None
  ) -> Array:
    of = dataclasses.replace(self.process.tables, steps=spec.steps)
    walk = Walk(dataclasses.replace(self.process, tables=of), spec.sampler, spec.eta)
    keys = draws.keys_of(z)
    say = lambda x, t, none=False: self.teller.say(gen['params'], x, t, y, None, none)
    if spec.label_guidance == 1:
      network = say
    else:
      unlabelled = lambda x, t: say(x, t, True)
      network = sampling.classifier_free(say, unlabelled, spec.label_guidance)
    return walk.back(network, z, lambda i: walk.noise(keys, i, self.shape), gradient)

  def weights(self, gen: Gen) -> Any:
    return gen['params']


def read_spec(given: Mapping[str, Any], of: Tables, unlabelled: bool) -> WalkSpec:
  """Settings from words, or a card's values.

  Args:
    given: {option: value}.
    of: the tables of the whole process.
    unlabelled: whether the network knows images without labels.
  Raises:
    UserError: a value means nothing.
  """
  sampler = str(given['sampler'])
  if sampler not in sampling.SAMPLERS:
    raise errors.UserError(
      f'there is no sampler {sampler!r}{errors.did_you_mean(sampler, sampling.SAMPLERS)}; give '
      f'{", ".join(sampling.SAMPLERS)}.'
    )
  steps = noising_config.read_steps(of, str(given['steps']))
  eta = KEYS['export.eta'].within.read('eta=', str(given['eta']))
  scale = noising_config.GUIDANCE.read('label_guidance=', str(given.get('label_guidance', 1.0)))
  if eta and sampler != 'ddim':
    raise errors.UserError(f'eta={eta:g} is of the sampler ddim, not of {sampler}; leave it out.')
  if scale != 1 and not unlabelled:
    raise errors.UserError(
      'label_guidance needs a network that was trained without labels, too '
      '(model.label_dropout=0.1), and this one was not.'
    )
  return WalkSpec(steps, sampler, eta, scale)


def make_generator(architecture: dict[str, Any]) -> Walker:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  of = Tables(fields.pop('schedule'), fields.pop('num_steps'))
  process = Process(of, fields.pop('mean'), fields.pop('variance'))
  rescale, unlabelled = fields.pop('rescale_steps'), fields.pop('unlabelled')
  lists = {name: tuple(fields.pop(name)) for name in ('widths', 'attention')}
  net = unet.UNet(**fields, **lists)
  return Walker(Teller(net, of.num, rescale, unlabelled), process)


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
  if config.optim.loss.endswith('kl') and model.variance != 'learned_range':
    raise errors.UserError(
      f'optim.loss is {config.optim.loss}, the bound, which needs model.variance=learned_range, '
      f'not {model.variance}.'
    )
  read_spec(card(config), Tables(model.schedule, model.num_steps), False)


def card(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """How samples are made unless told otherwise."""
  return {name: kind(config.export[name]) for name, kind in CARD.items()}


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
  net = unet.UNet(
    data.resolution, data.channels, classes + unlabelled if classes > 1 else 0,
    dropout=model.dropout, learned=model.variance == 'learned_range',
    **noising_config.fields(config),
  )  # fmt: skip
  rate = schedules.learning_rate(
    opt.lr, opt.schedule, opt.schedule_end or run.steps, opt.schedule_start, opt.warmup
  )
  return Diffusion(
    Teller(net, model.num_steps, model.rescale_steps, unlabelled),
    Process(Tables(model.schedule, model.num_steps), model.mean, model.variance),
    importance.SAMPLERS[opt.steps_law](model.num_steps),
    opt.loss,
    Player(optim.adamw(rate, opt.b1, opt.b2, opt.eps, opt.weight_decay), dtype=net.dtype),
    opt.batch_size,
    residual_config.averaging(opt),
    opt.ema_start,
    model.label_dropout,
    run.microbatches,
    card(config),
  )
