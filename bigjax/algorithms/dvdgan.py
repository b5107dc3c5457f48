"""DVD-GAN (Clark et al. 2019) and TrIVD-GAN (Luc et al. 2020): BigGAN's game on clips.

k steps of the critics, each on its own minibatch of clips, then one of the generator; hinge loss;
spectral norm; cross-replica BatchNorm; averaged weights. There are several critics, each of which
judges one view of a clip (nn/video/views.py): a list in the config, and all that the two papers'
discriminators differ in. The loss is the sum over the critics. TrIVD-GAN's generator has TSRU for
ConvGRU.

With `model.num_given`, the generator is given the first frames of real clips and goes on with them
(-FP, frame prediction): critics of single frames see what it made, those of clips the given frames
and what follows. A run keeps the first frames of its last real clips, so that whatever samples a
generator has something to go on with.

Neither code is public. The step's order is BigGAN's; one power iteration per update.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, draws, places_config, player, residual_config
from bigjax.algorithms.base import standing_statistics as standing
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law, purpose
from bigjax.algorithms.base.player import Player, to_float
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors, parallel
from bigjax.core.keys import Key, Keys
from bigjax.models import dvdgan
from bigjax.nn import kernels
from bigjax.nn.latents import Law, law
from bigjax.nn.microbatches import microbatched
from bigjax.nn.objectives import losses
from bigjax.nn.schedules import Decay
from bigjax.nn.video import recurrent, views

Array = jax.Array
BANK = 256  # clips whose first frames a run keeps, where it predicts
# Fields of the sampled network that the card has.
SIZES = (
  'resolution', 'num_classes', 'frames', 'num_given', 'ch', 'z_dim', 'shared_dim', 'channels',
  'unit', 'warp_size', 'mix_warped', 'bn_eps',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DVDGAN:
  """The game of the papers; see contract.Algorithm for what each method promises."""

  gen_net: dvdgan.Generator
  critics: dvdgan.Critics
  gen: Player
  disc: Player
  batch: tuple[int, int]  # (steps of the critics, clips of each)
  law: Law
  labels: LabelLaw
  ema: Decay  # of the averaged weights
  ema_start: int
  microbatches: int = 1  # parts of a device's batch, one after the other
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'gen'
  remedies = 'lower the learning rates (optim.gen_lr, optim.disc_lr)'

  @property
  def clip(self) -> tuple[int, int, int, int]:
    """Shape of a clip, given frames and all."""
    net = self.gen_net
    return net.num_given + net.frames, net.resolution, net.resolution, net.channels

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    frames, side, _, channels = self.clip
    return [(0, Stage(*self.batch, contract.image_inputs(side, channels, frames)))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    # Two examples need not divide, and all frames have the same weights.
    net = self.gen_net.clone(bn_group=None, microbatches=1, frames=1)
    z, y = jnp.zeros((2, net.z_dim), jnp.float32), jnp.zeros((2,), jnp.int32)
    clips, keys = jnp.zeros((2, *self.clip), jnp.float32), jax.random.split(key, 2)
    gen = net.init(key_gen, z, y, train=True, given=self.first(clips))['params']
    disc = self.critics.init(key_disc, clips, y, keys)['params']
    players = {
      'gen': self.gen.init(player.replace(gen, given.get('gen', {}))),
      'disc': self.disc.init(player.replace(disc, given.get('disc', {}))),
    }
    ema = player.replace(players['gen']['params'], given.get('ema', {}))
    aux = {'bank': self.empty_bank()} if net.num_given else {}
    return player.initial_state(key_state, players, ema, aux)

  def first(self, clips: Array) -> Array | None:
    """The frames of clips that the generator is given; None where it is given none."""
    num = self.gen_net.num_given
    return clips[:, :num] if num else None

  def empty_bank(self) -> dict[str, Array]:
    """Grey frames of label -1 in the place of those that are not yet seen: {frames, label}.

    Frames are [BANK, numbers of a clip's], so that devices share them clip by clip.
    """
    size = self.gen_net.num_given * math.prod(self.clip[1:])
    frames = jnp.full((BANK, size), 128, jnp.uint8)
    return {'frames': frames, 'label': jnp.full((BANK,), -1, jnp.int32)}

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """The critics' examples of a step [k, B, ...], and the generator's [B, ...]."""
    key = jax.random.fold_in(state['key'], state['step'])
    key_disc, key_gen, key_real = jax.random.split(key, 3)
    shape = stage.minibatches, stage.examples
    of_disc = {**batch, **self.fresh(key_disc, shape, state['step'])}
    of_disc['keys_real'] = example_keys(key_real, shape)
    of_gen = self.fresh(key_gen, shape[1:], state['step'])
    if self.gen_net.num_given:  # a clip's own label, where it goes on with that clip
      of_disc['y'] = of_disc['label']
      of_gen |= {'image': batch['image'][0], 'y': batch['label'][0]}
    return of_disc, of_gen

  def fresh(self, key: Array, shape: tuple[int, ...], step: Array) -> dict[str, Array]:
    """Latents, labels and keys of what critics see, one per example."""
    key_z, key_y, key_see = jax.random.split(key, 3)
    inputs = {
      'z': self.law.train(key_z, shape, self.gen_net.z_dim, step),
      'y': self.labels.draw(key_y, shape),
      'keys': jax.random.split(key_see, shape),
    }
    return parallel.shard_examples(inputs, lead=len(shape) - 1)

  def fakes(self, weights: Any, batch: dict) -> Array:
    """Clips [B, T, H, W, C] of a device's batch, in training mode; given frames lead them."""
    given = self.first(to_float(batch['image'])) if self.gen_net.num_given else None
    of_net = {'params': weights}, batch['z'], batch['y']
    made = self.gen_net.apply(*of_net, train=True, given=given)
    return made if given is None else jnp.concatenate([given.astype(made.dtype), made], 1)

  def judge(self, weights: Any, clips: Array, y: Array, keys: Array) -> Array:
    """The critics' scores of clips, [B, critics]."""
    return jnp.stack(self.critics.apply({'params': weights}, clips, y, keys), 1)

  def disc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """The critics' loss on one device's examples, of normalised weights."""

    def judge(part):  # real and fake in one pass
      clips = jnp.concatenate([part['real'], part['fake']])
      labels, keys = (
        jnp.concatenate([part[real], part[fake]])
        for real, fake in (('label', 'y'), ('keys_real', 'keys'))
      )
      return jnp.split(self.judge(weights, clips, labels, keys), 2)

    fake = self.fakes(shared['gen'], batch)
    examples = {**batch, 'real': to_float(batch['image']).astype(fake.dtype), 'fake': fake}
    real_scores, fake_scores = microbatched(judge, self.microbatches, examples)
    halves = [losses.hinge_disc(*of) for of in zip(real_scores.T, fake_scores.T, strict=True)]
    loss_real, loss_fake = (sum(half) for half in zip(*halves, strict=True))
    metrics = {
      'd_loss': loss_real + loss_fake, 'd_loss_real': loss_real, 'd_loss_fake': loss_fake,
      'd_logit_real': real_scores.mean(), 'd_logit_fake': fake_scores.mean(),
      'd_accuracy_real': (real_scores > 0).mean(dtype=jnp.float32),
      'd_accuracy_fake': (fake_scores < 0).mean(dtype=jnp.float32),
    }  # fmt: skip
    of_views = zip(self.critics.views, halves, strict=True)
    return metrics['d_loss'], metrics | {loss_name(view): sum(half) for view, half in of_views}

  def gen_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """The generator's loss on one device's examples: all scores of fakes, as high as can be."""
    judge = lambda part: self.judge(shared['disc'], part['fake'], part['y'], part['keys'])
    examples = {**batch, 'fake': self.fakes(weights, batch)}
    scores = microbatched(judge, self.microbatches, examples)
    loss = sum(losses.hinge_gen(of) for of in scores.T)
    return loss, {'g_loss': loss}

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    gen, disc = state['players']['gen'], state['players']['disc']
    of_disc, of_gen = self.examples(state, batch, stage)
    first = jax.tree.map(lambda x: x[0], of_disc)
    of_others = {'disc': self.disc.weights(disc)}, {'gen': self.gen.weights(gen)}
    return {
      'gen': self.gen.loss(gen, self.gen_loss, of_others[0], of_gen),
      'disc': self.disc.loss(disc, self.disc_loss, of_others[1], first),
    }

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    players, skipped = state['players'], state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)
    pulled = self.gen.pullback(players['gen'])  # of use to both players

    # Critics: k steps, each on a minibatch of its own.
    disc, disc_skipped, disc_metrics, _ = self.disc.descend_each(
      players['disc'], skipped['disc'], self.disc_loss, {'gen': pulled[0]}, of_disc, 'd_grad_norm',
    )  # fmt: skip

    # Generator: one step against the critics as they are now.
    gen, gen_skipped, finite, metrics = self.gen.descend(
      players['gen'], skipped['gen'], self.gen_loss, {'disc': self.disc.weights(disc)}, of_gen,
      'g_grad_norm', pulled,
    )  # fmt: skip

    decay = self.ema(state['step'], stage.examples)
    ema = player.averaged(state, gen['params'], decay, self.ema_start, finite)
    aux = {'bank': self.kept(state['aux']['bank'], batch)} if self.gen_net.num_given else {}
    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, aux)
    return state, metrics | disc_metrics | refused

  def kept(self, bank: dict[str, Array], batch: Batch) -> dict[str, Array]:
    """The bank with a step's first minibatch in place of its oldest clips."""
    frames = jnp.round((to_float(self.first(batch['image'][0])) + 1) * 127.5).clip(0, 255)
    frames = frames.reshape(len(frames), -1).astype(jnp.uint8)
    new = {'frames': frames, 'label': batch['label'][0].astype(jnp.int32)}
    size = len(bank['label'])
    return {name: jnp.concatenate([new[name], bank[name]])[:size] for name in new}

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del stage
    players = parallel.all_gather_weights(state['players'])
    weights = {'gen': self.gen.weights(players['gen']), 'disc': self.disc.weights(players['disc'])}
    key = jax.random.fold_in(jax.random.fold_in(state['key'], state['step']), 3)  # no key of a step
    first = lambda tree: jax.tree.map(lambda x: x[0], dict(tree))
    train, held_out = first(batch), first(held_out)

    # Signs of the critics' scores of training, held-out and fake clips.
    def accuracies(_, weights, examples):
      def score(part):
        return self.judge(weights['disc'], to_float(part['image']), part['label'], part['keys'])

      fresh = {name: examples[name] for name in ('image', 'z', 'y')}
      fake = {
        'image': self.fakes(weights['gen'], fresh), 'label': fresh['y'], 'keys': examples['keys']
      }  # fmt: skip
      real = [
        {**examples, **{'image': x, 'label': y}}
        for x, y in (
          (examples['image'], examples['label']),
          (examples['unseen'], examples['unseen_label']),
        )
      ]
      return player.accuracies(
        *(microbatched(score, self.microbatches, part) for part in (*real, fake))
      )

    fresh = self.fresh(key, train['label'].shape, state['step'])
    examples = {**train, 'unseen': held_out['image'], 'unseen_label': held_out['label'], **fresh}
    if self.gen_net.num_given:
      examples['y'] = examples['label']
    signs = parallel.over_batch(accuracies)({}, weights, examples)
    return signs | player.vital_signs({'gen': self.gen, 'disc': self.disc}, players)

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    whole = parallel.all_gather_weights({'params': state['ema'], **given_of(state['aux'])})
    if 'bank' in whole:
      frames = whole['bank']['frames'].reshape(BANK, self.gen_net.num_given, *self.clip[1:])
      whole['bank'] = {**whole['bank'], 'frames': frames}
    return whole | {'params': self.gen.reparametrisation.fold(whole['params'])}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return {'latent': self.law.name, **{name: getattr(self.gen_net, name) for name in SIZES}}

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


def given_of(aux: Mapping[str, Any]) -> dict[str, Any]:
  """{'bank': first frames of clips}, where there are any."""
  return {'bank': aux['bank']} if 'bank' in aux else {}


def loss_name(view: views.View) -> str:
  """Name of the loss of a view's critic among the metrics: d_frames_8_by_2_loss."""
  return f'd_{view}_loss'.replace(':', '_').replace('/', '_by_')


# --- After training


@dataclasses.dataclass(frozen=True)
class Clips(StandingStatistics):
  """The sampled network; of one that predicts, gen also has the `bank`: frames, label."""

  net: dvdgan.Generator

  @property
  def num_given(self) -> int:
    return self.net.num_given

  @property
  def predictor(self) -> 'Clips | None':
    return self if self.num_given else None

  @property
  def shape(self) -> tuple[int, ...]:
    net = self.net
    return net.num_given + net.frames, net.resolution, net.resolution, net.channels

  def bare(self, gen: Gen) -> Gen:
    return {'params': gen['params'], **given_of(gen)}

  def given(self, gen: Gen, z: Array, y: Array, spec: Any) -> dict[str, Any]:
    """First frames of the bank for each sample, of its label where there are any."""
    del spec
    if not self.num_given:
      return {}
    keys = purpose(draws.keys_of(z), 'given')
    at = draws.alike(keys, y, gen['bank']['label'])
    return {'given': to_float(gen['bank']['frames'][at])}

  def generate(self, gen: Gen, z: Array, y: Array, spec: Any) -> Array:
    return self.with_noise_of(gen, z, y, spec, z)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: Any, others: Array) -> Array:
    """Samples of z that go on with the clips that others would."""
    given = self.given(gen, others, y, spec)
    made = self.made(self.variables(gen, spec), z, y, train=False, **given)
    return jnp.concatenate([*given.values(), made], 1)

  def predict(self, gen: Gen, frames: Array, z: Array, y: Array, spec: Any) -> Array:
    return self.made(self.variables(gen, spec), z, y, train=False, given=frames)


def make_generator(architecture: dict[str, Any]) -> Clips:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  return Clips(law=law(fields.pop('latent')), net=dvdgan.Generator(**fields))


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# Of the keys that residual GANs have, those that say something here.
SHARED = residual_config.defaults(
  model__ch=128,
  model__z_dim=120,
  model__bn_eps=1e-4,
  optim__batch_size=512,
  optim__d_steps=2,
  optim__gen_lr=1e-4,
  optim__disc_lr=5e-4,
  optim__b2=0.999,
  optim__ema_decay=0.9999,
  optim__ema_start=20_000,
)
ABSENT = (
  'model.gen_attention', 'model.disc_attention', 'model.disc_widths', 'model.disc_dropout',
  'optim.gen_batch_times', *places_config.KEYS,
)  # fmt: skip
# fmt: off
KEYS: Keys = {
  'model.unit': Key('gru', 'what carries frames on: ConvGRU or TSRU', choices=recurrent.UNITS),
  'model.warp_size': Key(
    3, 'pixels a side of the kernel that TSRU warps a pixel with', least=1, most=15,
    where=('model.unit', *recurrent.UNITS[1:]),
  ),
  'model.mix_warped': Key(
    True, "whether TSRU's gate keeps what is warped, or what was before",
    where=('model.unit', *recurrent.UNITS[1:]),
  ),
  'model.num_given': Key(
    0, 'first frames that are given, of which it predicts the rest; 0: none', most=1024,
  ),
  'model.shared_dim': Key(
    120, 'dimensions of the class embedding, where there are classes', least=1, most=65_536,
  ),
  'model.critics': Key(
    ('frames:8', 'clip/2'), f'what critics see, one each: {views.HELP}', items=(str,),
  ),
  **{name: key for name, key in SHARED.items() if name not in ABSENT},
}
TINY = {
  **{name: value for name, value in residual_config.TINY.items() if name not in ABSENT},
  'data.frames': 3, 'data.resolution': 8,
  'model.num_given': 1, 'model.ch': 2, 'model.shared_dim': 4,
  'model.critics': ('frames:2', 'clip'), 'optim.ema_start': 0,
}
DIGITS = {
  **{name: value for name, value in residual_config.DIGITS.items() if name not in ABSENT},
  'data.source': 'moving_digits', 'data.frames': 8,
  'model.ch': 8, 'model.shared_dim': 16, 'model.z_dim': 32, 'model.num_given': 0,
  'model.critics': ('frames:2', 'clip'), 'optim.batch_size': 32, 'optim.d_steps': 1,
  'optim.gen_lr': 5e-4, 'optim.disc_lr': 1e-3,
}
# fmt: on


def read_views(config: ml_collections.ConfigDict) -> tuple[views.View, ...]:
  """What the critics of a config see.

  Raises:
    UserError: a word means nothing, is there twice, or what it names does not fit clips.
  """
  data, model = config.data, config.model
  if not data.frames > model.num_given:
    raise errors.UserError(
      f'data.frames is {data.frames}, of which model.num_given={model.num_given} are given; clips '
      f'need more frames: give data.frames, such as {model.num_given + 8}.'
    )
  if not model.critics:
    raise errors.UserError(f'model.critics is empty; give words such as {views.HELP}.')
  found = tuple(views.read(word, 'model.critics', model.num_given) for word in model.critics)
  if len(set(map(str, found))) < len(found):
    raise errors.UserError(
      f'model.critics is {", ".join(model.critics)}, with a view that is there twice; give each '
      'once.'
    )
  clip = data.frames, data.resolution, data.resolution, data.channels
  for view in found:
    frames, side, *_ = view.shape(clip)
    if data.resolution % view.scale:
      raise errors.UserError(
        f'model.critics has {view}, and {view.scale} does not divide the {data.resolution} px of '
        'data.resolution; give a divisor.'
      )
    generated = data.frames - model.num_given
    if view.single and frames > generated:
      raise errors.UserError(
        f'model.critics has {view}, but {generated} frames of a clip are generated; give that many '
        'at most.'
      )
    if side not in dvdgan.DISC_WIDTHS:
      known = ', '.join(map(str, dvdgan.DISC_WIDTHS))
      raise errors.UserError(
        f'model.critics has {view}, which is {side} px of {data.resolution}; there are critics of '
        f'{known} px.'
      )
  return found


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> DVDGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training clips of each class; None where the data is not read.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  if config.model.num_given and config.model.fake_labels != 'uniform':
    raise errors.UserError(
      f'model.fake_labels is {config.model.fake_labels}, but with model.num_given='
      f'{config.model.num_given} labels are those of the clips that are gone on with; give uniform.'
    )
  run, data, model, opt = config.run, config.data, config.model, config.optim
  if data.resolution not in dvdgan.GEN_WIDTHS:
    raise errors.UserError(
      f'data.resolution is {data.resolution}; dvdgan has networks for '
      f'{", ".join(map(str, dvdgan.GEN_WIDTHS))}.'
    )
  shared = {
    'num_classes': data.num_classes,
    'ch': model.ch,
    'remat': run.remat,
    'kernels': errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, residual_config.DTYPES, 'model.dtype'),
  }
  critics = dvdgan.Critics(views=read_views(config), **shared)
  of_warp = ('warp_size', 'mix_warped') if 'warp_size' in model else ()
  gen_net = dvdgan.Generator(
    **shared,
    **{name: model[name] for name in ('num_given', 'z_dim', 'shared_dim', 'unit', *of_warp)},
    resolution=data.resolution,
    channels=data.channels,
    frames=data.frames - model.num_given,
    bn_group=model.bn_group or None,
    bn_eps=model.bn_eps,
    microbatches=run.microbatches,
  )
  make_player = functools.partial(residual_config.make_player, config)
  return DVDGAN(
    gen_net=gen_net,
    critics=critics,
    gen=make_player('gen', gen_net),
    disc=make_player('disc', critics, embeddings=True),
    batch=(opt.d_steps, opt.batch_size),
    law=law(model.latent),
    labels=label_law(model.fake_labels, data.num_classes, class_counts),
    ema=residual_config.averaging(opt),
    ema_start=opt.ema_start,
    microbatches=run.microbatches,
    card=standing.card(config),
  )
