"""ADM's classifier (Dhariwal & Nichol 2021): tells classes of noisy images, to guide diffusions.

One player, the first half of a U-Net, on images at steps drawn evenly from the process. As in the
authors' scripts/classifier_train.py: cross-entropy, AdamW, and a rate that falls to 0 over the run;
weights are not averaged there, which optim.ema_decay of 0 is here.

Ours: whatever is trained here has a generator. This one walks with the exact denoiser of N(0, I) in
place of a network, and is guided by the classifier alone. That shows what it knows, to be looked
at; scores of such pictures say nothing of it but their agreement.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, draws, player, residual_config
from bigjax.algorithms.base.contract import GUIDANCE, Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import example_keys, purpose
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.noising import config as noising_config
from bigjax.algorithms.base.noising.guided import Guided
from bigjax.algorithms.base.player import Player, to_float
from bigjax.core import errors, parallel
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.models import unet
from bigjax.nn import optim, schedules
from bigjax.nn.diffusion.importance import Uniform
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.sampling import Walk
from bigjax.nn.diffusion.tables import Tables
from bigjax.nn.microbatches import microbatched
from bigjax.nn.schedules import Decay

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Teller:
  """The network and the process of its noisy images: a parts.Classifier, of weights alone."""

  net: unet.Classifier
  tables: Tables

  @property
  def shape(self) -> tuple[int, ...]:
    return self.net.resolution, self.net.resolution, self.net.channels

  @property
  def num_classes(self) -> int:
    return self.net.num_classes

  @property
  def noising(self) -> parts.Noising:
    return parts.Noising(self.tables.schedule, self.tables.num)

  def log_probabilities(self, gen: Gen, x: Array, t: Array) -> Array:
    return jax.nn.log_softmax(self.net.apply({'params': gen}, x, t))


@dataclasses.dataclass(frozen=True)
class NoisedClassifier:
  """The game; see contract.Algorithm for what each method promises."""

  teller: Teller
  net: Player
  batch: int
  ema: Decay
  ema_start: int = 0
  microbatches: int = 1
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'net'
  remedies = 'lower the learning rate (optim.lr), or let it rise over more steps (optim.warmup)'

  @property
  def process(self) -> Process:
    return Process(self.teller.tables)

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    net = self.teller.net
    return [(0, Stage(1, self.batch, contract.image_inputs(net.resolution, net.channels)))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_net, key_state = jax.random.split(key)
    x = jnp.zeros((1, *self.teller.shape), jnp.float32)
    params = self.teller.net.init(key_net, x, jnp.zeros((1,), jnp.int32))['params']
    net = self.net.init(player.replace(params, given.get('net', {})))
    ema = player.replace(net['params'], given.get('ema', {}))
    return player.initial_state(key_state, {'net': net}, ema)

  def examples(self, state: State, batch: Batch) -> dict[str, Array]:
    """A step's labelled images with a step of the process and noise for each, [B, ...]."""
    key = jax.random.fold_in(state['key'], state['step'])
    images, labels = batch['image'][0], batch['label'][0]
    keys = example_keys(key, labels.shape)
    t, _ = Uniform(self.teller.tables.num).draw(purpose(keys, 'step'), {})
    draw = lambda key: jax.random.normal(key, images.shape[1:])
    drawn = {'t': t, 'noise': jax.vmap(draw)(purpose(keys, 'noise'))}
    return {'image': images, 'label': labels, **parallel.shard_examples(drawn)}

  def loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """The cross-entropy of one device's examples, and the share that it tells rightly."""
    del shared
    x = self.process.noised(to_float(batch['image']), batch['t'], batch['noise'])
    tell = lambda part: self.teller.log_probabilities(weights, part['x'], part['t'])
    log_p = microbatched(tell, self.microbatches, {'x': x, 't': batch['t']})
    loss = -jnp.take_along_axis(log_p, batch['label'][:, None], -1).mean()
    right = (log_p.argmax(-1) == batch['label']).mean(dtype=jnp.float32)
    return loss, {'net_loss': loss, 'net_accuracy': right}

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    del stage
    examples = self.examples(state, batch)
    return {'net': self.net.loss(state['players']['net'], self.loss, {}, examples)}

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    net, skipped, finite, metrics = self.net.descend(
      state['players']['net'], state['aux']['skipped']['net'], self.loss, {},
      self.examples(state, batch), 'net_grad_norm',
    )  # fmt: skip
    ema = player.averaged(
      state, net['params'], self.ema(state['step'], stage.examples), self.ema_start, finite
    )
    state, refused = player.advanced(state, {'net': net}, ema, {'net': skipped})
    return state, metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    """Loss and accuracy of the weights as sampled, at steps spread evenly over the process."""
    del stage
    weights = parallel.all_gather_weights(state['ema'])
    apart = {**state, 'key': jax.random.fold_in(state['key'], 3)}  # no key of a step
    found = {}
    for name, of in (('train', batch), ('held_out', held_out)):
      examples = self.examples(apart, of)
      t = jnp.asarray(self.teller.tables.evenly(len(examples['t'])))
      _, metrics = parallel.over_batch(self.loss)(weights, {}, {**examples, 't': t})
      found |= {key.replace('net', name): value for key, value in metrics.items()}
    players = parallel.all_gather_weights(state['players'])
    return found | player.vital_signs({'net': self.net}, players)

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    return {'params': parallel.all_gather_weights(state['ema'])}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return noising_config.architecture(self.teller.net, self.teller.tables)

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


# --- After training


@dataclasses.dataclass(frozen=True)
class StepsSpec:
  """Which steps are walked, as `tables.kept_steps` reads them."""

  steps: str

  def __str__(self) -> str:
    return f'{self.steps} steps'

  def described(self) -> dict[str, Any]:
    return {'steps': self.steps}


jax.tree_util.register_static(StepsSpec)


@dataclasses.dataclass(frozen=True)
class NormalWalker(contract.PlainGenerator):
  """Ancestral steps back to N(0, I), whose noise in x_t is known: sqrt(1 - alpha_bar) x_t.

  The x_0 on the way are not held in [-1, 1], where such images do not end; what comes of them is.
  """

  shape: tuple[int, ...]
  tables: Tables  # of all steps

  num_classes = 1
  options = {'steps': 'of the walk: 25, 10,15,20 (of equal parts), ddim25, logsnr25'}  # noqa: RUF012
  searchable = None  # it takes many steps

  @property
  def latent_shape(self) -> tuple[int, ...]:
    return self.shape

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> StepsSpec:
    contract.check_options(given, self.options)
    contract.check_sampling(sampling, {'steps': str})
    steps = (given or {}).get('steps', sampling['steps'])
    return StepsSpec(noising_config.read_steps(self.tables, steps))

  @property
  def steerable(self) -> parts.Steerable:
    return self

  @property
  def noising(self) -> parts.Noising:
    return parts.Noising(self.tables.schedule, self.tables.num)

  def generate(self, gen: Gen, z: Array, y: Array, spec: StepsSpec) -> Array:
    return self.with_noise_of(gen, z, y, spec, z)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: StepsSpec, others: Array) -> Array:
    return self.steered(gen, z, y, spec, None, others)

  def steered(
    self,
    gen: Gen,
    z: Array,
    y: Array,
    spec: StepsSpec,
    gradient: parts.Gradient | None,
    others: Array,
  ) -> Array:
    del gen, y
    whole = Process(self.tables, variance='fixed_large')  # beta is that of a step back to N(0, I)
    kept = dataclasses.replace(self.tables, steps=spec.steps)
    walk = Walk(dataclasses.replace(whole, tables=kept), clip=False)
    network = lambda x, t: whole.at(self.tables.sqrt_one_minus, t, x) * x
    keys = draws.keys_of(others)
    return walk.back(network, z, lambda i: walk.noise(keys, i, self.shape), gradient).clip(-1, 1)


@dataclasses.dataclass(frozen=True)
class Shown(Guided):
  """What the classifier draws, guiding a NormalWalker; gen is its own, {params}."""

  def split(self, gen: Gen) -> tuple[Gen, Gen]:
    return {}, gen['params']

  def weights(self, gen: Gen) -> Any:
    return gen['params']


def make_generator(architecture: dict[str, Any]) -> Shown:
  """Build the classifier, and what shows it, from a card's `architecture`."""
  fields = dict(architecture)
  of = Tables(fields.pop('schedule'), fields.pop('num_steps'))
  lists = {name: tuple(fields.pop(name)) for name in ('widths', 'attention')}
  teller = Teller(unet.Classifier(**fields, **lists), of)
  return Shown(NormalWalker(teller.shape, of), teller)


# --- Configs

BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
CARD = {'steps': str, GUIDANCE: float}
# fmt: off
KEYS: Keys = {
  **with_defaults(
    noising_config.KEYS, model__attention=(32, 16, 8), model__head_dim=64, model__updown=True,
    optim__batch_size=256, optim__lr=3e-4, optim__weight_decay=0.05, optim__schedule='linear',
  ),
  'export.guidance': Key(1.0, 'scale of its guidance', most=noising_config.GUIDANCE.most),
}
TINY = {
  **noising_config.SMALL,
  'data.resolution': 8,
  'model.ch': 32, 'model.widths': (1, 1), 'model.blocks': 1, 'model.attention': (4,),
  'model.schedule': 'cosine', 'model.num_steps': 20, 'optim.batch_size': 8, 'optim.ema_start': 0,
  'export.steps': '3', 'export.guidance': 1.0,
}
DIGITS = {
  **noising_config.SMALL, 'run.remat': False,
  'run.steps': 1200, 'run.eval_every': 600, 'run.checkpoint_every': 600, 'run.best': 'agreement',
  'eval.num_samples': 100,
  'model.ch': 32, 'model.widths': (1, 2), 'model.blocks': 1, 'model.attention': (8,),
  'model.num_steps': 1000,
  'optim.batch_size': 32, 'optim.lr': 1e-3, 'optim.schedule': 'linear', 'optim.ema_start': 0,
  'export.steps': '10', 'export.guidance': 1.0,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  noising_config.check(config)
  if config.data.num_classes == 1:
    raise errors.UserError(
      'a classifier tells classes, and data.num_classes=1 leaves none to be told; give None, or '
      'how many there are.'
    )
  noising_config.read_steps(
    Tables(config.model.schedule, config.model.num_steps), config.export.steps
  )


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> NoisedClassifier:
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
  net = unet.Classifier(
    data.resolution, data.channels, data.num_classes, **noising_config.fields(config)
  )
  rate = schedules.learning_rate(
    opt.lr, opt.schedule, opt.schedule_end or run.steps, opt.schedule_start, opt.warmup
  )
  return NoisedClassifier(
    Teller(net, Tables(model.schedule, model.num_steps)),
    Player(optim.adamw(rate, opt.b1, opt.b2, opt.eps, opt.weight_decay), dtype=net.dtype),
    opt.batch_size,
    residual_config.averaging(opt),
    opt.ema_start,
    run.microbatches,
    {name: kind(config.export[name]) for name, kind in CARD.items()},
  )
