"""MSG-GAN (Karnewar & Wang 2020): images of every scale go from the generator to the discriminator.

Nothing grows: each block of D sees the image of its own scale, and so each block of G has gradients
from the first step on. MSG-ProGAN is PGGAN's networks with WGAN-GP or, as in the authors' BMSG-GAN,
the relativistic hinge loss, MSG-StyleGAN is StyleGAN's with the logistic loss and R1; slopes of
penalties are averaged over the scales. A step is k of D and one of G, on latents of its own or, as
in BMSG-GAN, on those that D has seen last. With classes, which the paper has not, labels join the
latents, and D has a score for each class.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import configs, contract, player, style_config, truncation
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import LabelLaw, example_keys, label_law, purpose
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.player import Player, to_float
from bigjax.algorithms.base.residual_config import averaging
from bigjax.core import errors, parallel
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.core.ranges import BATCH, Range
from bigjax.models import msggan
from bigjax.nn import optim
from bigjax.nn.objectives import losses, multiscale
from bigjax.nn.schedules import Decay
from bigjax.nn.style import blocks, equalized, resampling, stylegan

Array = jax.Array
Images = tuple[Array, ...]  # of every scale, 4 px first


@dataclasses.dataclass(frozen=True)
class MSGGAN:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  gen_net: Any  # a generator of models/msggan.py
  disc_net: msggan.Discriminator
  gen: Player
  disc: Player
  batch: tuple[int, int]  # (discriminator steps, examples of each)
  labels: LabelLaw
  loss: losses.Loss
  penalties: tuple[tuple[str, multiscale.Penalty], ...]
  ema: Decay
  same_latents: bool
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # its network

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'gen'
  remedies = 'lower the learning rates (optim.gen_lr, optim.disc_lr), or raise optim.r1_gamma'

  @property
  def styled(self) -> bool:
    """Whether the generator is StyleGAN's, with noise and an average of w."""
    return isinstance(self.gen_net, msggan.StyleGenerator)

  @property
  def num_scales(self) -> int:
    return len(blocks.resolutions(self.gen_net.resolution))

  def stages(self, num_steps: int) -> contract.Stages:
    del num_steps
    inputs = contract.image_inputs(self.gen_net.resolution, self.gen_net.channels)
    return [(0, Stage(*self.batch, inputs))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_disc, key_state = jax.random.split(key, 3)
    net = self.gen_net
    z, y = jnp.zeros((1, net.z_dim)), jnp.zeros((1,), jnp.int32)
    gen = net.init(key_gen, z, y)['params']
    gen = self.gen.init(player.replace(gen, given.get('gen', {})))
    whole = jnp.zeros((1, net.resolution, net.resolution, net.channels))
    plain = self.disc_net.clone(stddev_group=1, stddev_block=1)  # of one example
    disc = plain.init(key_disc, resampling.pyramid(whole, self.num_scales), y)['params']
    disc = self.disc.init(player.replace(disc, given.get('disc', {})))
    ema = player.replace(gen['params'], given.get('ema', {}))
    aux = {'w_avg': jnp.zeros((net.w_size,), jnp.float32)} if self.styled else {}
    return player.initial_state(key_state, {'gen': gen, 'disc': disc}, ema, aux)

  def fresh(self, key: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """Draw latents, labels and keys for the rest, one per example."""
    key_z, key_y, key_rest = jax.random.split(key, 3)
    inputs = {
      'z': jax.random.normal(key_z, (*shape, self.gen_net.z_dim)),
      'y': self.labels.draw(key_y, shape),
    }
    inputs = parallel.shard_examples(inputs, lead=len(shape) - 1)
    return {**inputs, 'keys': example_keys(key_rest, shape)}

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """The discriminator's examples of a step [k, B, ...], and the generator's [B, ...]."""
    key_disc, key_gen = jax.random.split(jax.random.fold_in(state['key'], state['step']))
    of_disc = {**batch, **self.fresh(key_disc, (stage.minibatches, stage.examples))}
    last = jax.tree.map(lambda x: x[-1], of_disc)
    if self.same_latents:
      return of_disc, last
    # Relativistic losses compare with real images: those of the last minibatch.
    real = {name: last[name] for name in batch} if self.loss.needs_real else {}
    return of_disc, real | self.fresh(key_gen, (stage.examples,))

  def images(self, weights: Any, batch: dict) -> Images:
    """The generator's images [B, r, r, C] at every scale r."""
    return made(self.gen_net, {'params': weights}, batch['z'], batch['y'], batch['keys'])

  def reals(self, batch: dict) -> Images:
    """Real images at every scale, each the mean of 2x2 pixels of the next."""
    return tuple(resampling.pyramid(to_float(batch['image']), self.num_scales))

  def disc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_D on one device's examples."""
    judge = lambda y: lambda images: self.disc_net.apply({'params': weights}, images, y)
    real, fake = self.reals(batch), self.images(shared['gen'], batch)
    real_scores, fake_scores = judge(batch['label'])(real), judge(batch['y'])(fake)
    loss_real, loss_fake = self.loss.disc(real_scores, fake_scores)
    metrics = {
      'd_loss': loss_real + loss_fake,
      'd_logit_real': real_scores.mean(), 'd_logit_fake': fake_scores.mean(),
    }  # fmt: skip
    if self.loss.has_sides:
      metrics |= {
        'd_accuracy_real': (real_scores > 0).mean(dtype=jnp.float32),
        'd_accuracy_fake': (fake_scores < 0).mean(dtype=jnp.float32),
      }
    values = {
      f'd_{name}': penalty(judge(batch['label']), real, fake, purpose(batch['keys'], name)).mean()
      for name, penalty in self.penalties
    }
    return sum(values.values(), metrics['d_loss']), metrics | values

  def gen_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_G on one device's examples."""
    judge = lambda images, y: self.disc_net.apply({'params': shared['disc']}, images, y)
    fake = judge(self.images(weights, batch), batch['y'])
    real = judge(self.reals(batch), batch['label']) if self.loss.needs_real else None
    loss = self.loss.gen(fake, real)
    return loss, {'g_loss': loss}

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    gen, disc = state['players']['gen'], state['players']['disc']
    of_disc, of_gen = self.examples(state, batch, stage)
    first = jax.tree.map(lambda x: x[0], of_disc)
    return {
      'gen': self.gen.loss(gen, self.gen_loss, {'disc': self.disc.weights(disc)}, of_gen),
      'disc': self.disc.loss(disc, self.disc_loss, {'gen': self.gen.weights(gen)}, first),
    }

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    skipped = state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)

    # Discriminator: k steps, each on a minibatch of its own.
    weights = self.gen.weights(state['players']['gen'])
    disc, disc_skipped, disc_metrics, _ = self.disc.descend_each(
      state['players']['disc'], skipped['disc'], self.disc_loss, {'gen': weights}, of_disc,
      'd_grad_norm',
    )  # fmt: skip

    # Generator: one step against the discriminator as it is now.
    gen, gen_skipped, finite, metrics = self.gen.descend(
      state['players']['gen'], skipped['gen'], self.gen_loss,
      {'disc': self.disc.weights(disc)}, of_gen, 'g_grad_norm',
    )  # fmt: skip

    ema = player.averaged(state, gen['params'], self.ema(state['step'], stage.examples), 0, finite)
    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    aux = self.averaged_w(state, weights, of_disc, of_gen)
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, aux)
    return state, metrics | disc_metrics | refused

  def averaged_w(self, state: State, weights: Any, of_disc: dict, of_gen: dict) -> dict[str, Array]:
    """{'w_avg': the running average of the mapping network's outputs}, where there is one."""
    if not self.styled:
      return {}
    of = lambda weights, batch: mapped(self.gen_net, weights, batch['z'], batch['y'])
    w_avg = state['aux']['w_avg']
    return {'w_avg': truncation.averaged_over_step(w_avg, of, weights, of_disc, of_gen)}

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del batch, held_out, stage
    players = {'gen': self.gen, 'disc': self.disc}
    return player.vital_signs(players, parallel.all_gather_weights(state['players']))

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    params = self.gen.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    return {'params': params, **{k: state['aux'][k] for k in ('w_avg',) if k in state['aux']}}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    return dict(self.card)

  def sampling(self) -> dict[str, Any]:
    return {}


def mapped(net: msggan.StyleGenerator, params: Any, z: Array, y: Array) -> Array:
  """w [B, w_dim] of latents and labels."""
  return net.apply({'params': params}, z, y, method='w')


def made(net: Any, variables: dict, z: Array, y: Array, keys: Array) -> Images:
  """A generator's images at every scale; `keys` [B] are of a StyleGAN's noise."""
  if not isinstance(net, msggan.StyleGenerator):
    return net.apply(variables, z, y)
  return net.apply(variables, z, y, stylegan.noise_maps(keys, net.resolution))


# --- After training


@dataclasses.dataclass(frozen=True)
class Shown(truncation.StyleSpec):
  """Sampling settings: those of styles, where there are any, and the scale that is shown.

  Attributes:
    scale: pixels of the image that is shown, enlarged by repetition; 0: of the last.
  """

  scale: int = 0

  def __str__(self) -> str:
    return super().__str__() + (f', scale {self.scale}' if self.scale else '')

  def described(self) -> dict[str, Any]:
    return super().described() | ({'scale': f'{self.scale}'} if self.scale else {})


jax.tree_util.register_dataclass(
  Shown, data_fields=['psi'], meta_fields=['cutoff', 'noise', 'scale']
)
SCALE = Range(4, 1024)


@dataclasses.dataclass(frozen=True)
class MultiScale(truncation.WithStyles):
  """The sampled network; gen is {params} and, of a StyleGAN, {params, w_avg}."""

  net: Any

  @property
  def options(self) -> dict[str, str]:
    scale = {'scale': 'pixels of the image shown, enlarged: 4, 8, ... (default: the last)'}
    return {**(truncation.OPTIONS if self.styles else {}), **scale}

  @property
  def inputs(self) -> Mapping[str, str]:
    return truncation.INPUTS if self.styles else {}

  style_kernels = '*/StyleMod/kernel'

  @property
  def styles(self) -> parts.Styles | None:
    return self if isinstance(self.net, msggan.StyleGenerator) else None

  @property
  def gains(self) -> equalized.Gains:
    return msggan.GAINS['stylegan' if self.styles else 'progan'][0]

  @property
  def num_layers(self) -> int:
    return 2 * len(self.scales())

  def spec(self, sampling: Mapping[str, Any], given: Mapping[str, str] | None = None) -> Shown:
    del sampling
    contract.check_options(given, self.options)
    scale = SCALE.read('scale=', given['scale']) if given and 'scale' in given else 0
    if scale and scale not in self.scales():
      known = ', '.join(map(str, self.scales()))
      raise errors.UserError(f'scale={scale} is none of this generator; give one of {known}.')
    return Shown(**truncation.fields(given, self.num_layers), scale=scale)

  def scales(self) -> Sequence[int]:
    """Pixels of its images, the smallest first."""
    return blocks.resolutions(self.net.resolution)

  def images(self, gen: Gen, z: Array, y: Array, spec: Shown, others: Array) -> Images:
    """The images of every scale, 4 px first, of z, but with the noise of other latents."""
    if not self.styles:
      return self.net.apply({'params': gen['params']}, z, y)
    ws = self.layers(gen, self.map(gen, z, y), spec)
    return self.of_styles(gen, ws, self.noise(gen, others, spec))

  def map(self, gen: Gen, z: Array, y: Array) -> Array:
    return mapped(self.net, gen['params'], z, y)

  def noise(self, gen: Gen, z: Array, spec: Shown) -> Sequence[Array]:
    del gen
    keys = spec.noise_keys(z)
    return () if keys is None else stylegan.noise_maps(keys, self.net.resolution)

  def of_styles(self, gen: Gen, ws: Array, noise: Sequence[Array]) -> Images:
    """The images of every scale, of what each layer is given and adds."""
    run = lambda net, *given: net.synthesis(*given)
    return self.net.apply({'params': gen['params']}, ws, noise or None, method=run)

  def synthesize(self, gen: Gen, ws: Array, noise: Sequence[Array], spec: Shown) -> Array:
    return self.shown(self.of_styles(gen, ws, noise), spec)

  def with_noise_of(self, gen: Gen, z: Array, y: Array, spec: Shown, others: Array) -> Array:
    return self.shown(self.images(gen, z, y, spec, others), spec)

  def shown(self, images: Images, spec: Shown) -> Array:
    """The image of the settings' scale, as large as the last."""
    image = images[self.scales().index(spec.scale) if spec.scale else -1]
    times = self.net.resolution // image.shape[1]
    return image.repeat(times, 1).repeat(times, 2)


GENERATORS = {'progan': msggan.ProGenerator, 'stylegan': msggan.StyleGenerator}


def make_generator(architecture: dict[str, Any]) -> MultiScale:
  """Build the sampled network from a card's `architecture`."""
  fields = dict(architecture)
  return MultiScale(GENERATORS[fields.pop('network')](**fields))


# --- Configs


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  'model.network': Key('stylegan', 'whose networks: progan or stylegan', choices=tuple(GENERATORS)),
  **with_defaults(style_config.KEYS, optim__gen_lr=3e-3, optim__disc_lr=3e-3),
  'model.w_dim': Key(512, 'dimensions of w, where z is mapped', least=1, most=65_536),
  'model.mapping_layers': Key(8, 'layers from z to w; 0: w is z, normalised', most=64),
  'model.combine': Key(
    'cat_lin', 'how D joins an image to what came down', choices=msggan.COMBINE,
  ),
  'model.scales': Key(
    'all', 'which images below the last D is given', choices=tuple(msggan.SCALES),
  ),
  'model.stddev_group': Key(
    4, 'examples whose deviation is taken together; 0: the whole batch', most=BATCH.most,
  ),
  'optim.same_latents': Key(False, 'whether the generator moves on the latents that D has seen'),
  'optim.name': Key(
    'adam_b1_0', 'optimizer', choices=('adam_b1_0', 'rmsprop'),
  ),
  'optim.loss': Key('logistic', 'pair of adversarial losses', choices=tuple(losses.LOSSES)),
  'optim.r1_gamma': Key(0.0, 'gradient penalty on real images (R1; BigGAN Eq. 5); 0: off'),
  'optim.gp_weight': Key(
    0.0, 'gradient penalty between real and fake images (WGAN-GP); 0: off',
  ),
  'optim.ema_half_life': Key(
    0.0, 'thousand images after which weights count for half in the average; 0: ema_decay rules',
  ),
  'optim.ema_ramp': Key(
    0.0, 'half-life at most this share of the images so far; 0: no such limit',
  ),
}
TINY = {
  'run.steps': 4, 'data.resolution': 8,
  'model.fmap_base': 32, 'model.fmap_max': 16, 'model.z_dim': 16, 'model.dtype': 'float32',
  'model.w_dim': 16, 'model.mapping_layers': 2, 'model.stddev_group': 4, 'optim.batch_size': 8,
  'optim.d_steps': 1,
}
DIGITS = {
  'model.fmap_base': 128, 'model.fmap_max': 32, 'model.z_dim': 32, 'model.dtype': 'float32',
  'model.stddev_group': 4, 'optim.batch_size': 32, 'optim.d_steps': 1, 'optim.gen_lr': 1e-2,
  'optim.disc_lr': 1e-2, 'optim.ema_decay': 0.99, 'optim.ema_half_life': 0.0,
  'optim.ema_ramp': 0.0,
}
# fmt: on


def make_nets(config: ml_collections.ConfigDict) -> tuple[Any, msggan.Discriminator]:
  """The networks of a config."""
  data, model = config.data, config.model
  shared = style_config.of_both(config)
  own = {'z_dim': model.z_dim, 'channels': data.channels}
  group = model.stddev_group or None
  if model.network == 'progan':
    gen_net = msggan.ProGenerator(**shared, **own)
    disc_net = msggan.ProDiscriminator(
      **shared, combine=model.combine, scales=model.scales, stddev_group=group
    )
    return gen_net, disc_net
  layers = {'mapping_layers': model.mapping_layers, 'mapping_features': model.w_dim}
  gen_net = msggan.StyleGenerator(**shared, **own, w_dim=model.w_dim, **layers)
  disc_net = msggan.Discriminator(
    **shared, combine=model.combine, scales=model.scales, stddev_group=group, stddev_block=group
  )
  return gen_net, disc_net


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> MSGGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  opt, model = config.optim, config.model
  gen_net, disc_net = make_nets(config)
  if config.data.resolution < 8:
    raise errors.UserError('data.resolution is below 8; several scales need at least 8 px.')

  def moving(gains, lr):
    optimizer = optim.OPTIMIZERS[opt.name](lr, 0.0, opt.b2, opt.eps)
    return Player(optimizer, reparametrisation=player.equalized(gains), dtype=gen_net.dtype)

  gen_gains, disc_gains = msggan.GAINS[model.network]
  seen = disc_net.looked_at
  penalties = (
    ('r1', opt.r1_gamma and multiscale.r1_penalty(opt.r1_gamma, seen)),
    ('gp', opt.gp_weight and multiscale.gradient_penalty(opt.gp_weight, looked_at=seen)),
  )
  sizes = ('resolution', 'num_classes', 'fmap_base', 'fmap_max', 'z_dim', 'channels')
  styles = ('w_dim', 'mapping_layers', 'mapping_features')
  fields = sizes if model.network == 'progan' else (*sizes, *styles)
  return MSGGAN(
    gen_net, disc_net, moving(gen_gains, opt.gen_lr), moving(disc_gains, opt.disc_lr),
    batch=(opt.d_steps, opt.batch_size),
    labels=label_law('uniform', config.data.num_classes, class_counts),
    loss=losses.LOSSES[opt.loss],
    penalties=tuple((name, penalty) for name, penalty in penalties if penalty),
    ema=averaging(opt), same_latents=opt.same_latents,
    card={'network': model.network, **{name: getattr(gen_net, name) for name in fields}},
  )  # fmt: skip
