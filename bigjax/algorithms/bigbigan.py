"""BigBiGAN (Donahue & Simonyan 2019): BigGAN without labels, with an encoder that plays against D.

The discriminator judges pairs: an image with the latents that the encoder makes of it, or latents
with the image that the generator makes of them. It has a score of the pair and of either part
alone, each with a hinge of its own; generator and encoder are one player, whose loss is the scores
themselves. What is left after training samples, encodes and reconstructs.

The encoder may see larger images than the others: `data.resolution` is its own, of which those are
averaged down. Losses are sums over the scores, as in the paper; the released module's are means.
Of the authors' code nothing is public. Ours: every update has a minibatch of its own; the encoder
is averaged as the generator is, and the moments of its BatchNorms by the same law, which it is
sampled with; there is no random area and aspect in crops.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from bigjax.algorithms.base import (
  configs,
  contract,
  networks,
  player,
  residual_config,
  standing_statistics,
)
from bigjax.algorithms.base.contract import Batch, Gen, Metrics, Stage, State
from bigjax.algorithms.base.draws import example_keys
from bigjax.algorithms.base.generators.parts import Encoder
from bigjax.algorithms.base.player import Player, to_float
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors, parallel, trees
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.models import bigbigan, biggan
from bigjax.nn import kernels, optim, spectral_norm
from bigjax.nn.convolution import upsample
from bigjax.nn.latents import Law, law
from bigjax.nn.objectives import losses, regularizers
from bigjax.nn.schedules import Decay

Array = jax.Array
Scores = Mapping[str, Array]  # {'xz', 'x', 'z': [b]}, those that there are

# --- Losses: of the scores of pairs of the encoder, (x, E(x)), and of the generator, (G(z), z).


def disc_loss(enc: Scores, gen: Scores) -> tuple[Array, Array]:
  """L_D in its two parts: of each score a hinge of its own, not one of their sum."""
  parts = [losses.hinge_disc(enc[name], gen[name]) for name in enc]
  return sum(part[0] for part in parts), sum(part[1] for part in parts)


def gen_enc_loss(enc: Scores, gen: Scores) -> tuple[Array, Array]:
  """L_EG in its two parts: the encoder's pairs are to be scored low, the generator's high."""
  return sum(s.mean() for s in enc.values()), -sum(s.mean() for s in gen.values())


# The encoder's latents, of what its network says of an image and N(0, I) noise.
POSTERIORS: dict[str, Callable[[Array, Array, Array], Array]] = {
  'normal': lambda mean, deviation, noise: mean + deviation * noise,
  'deterministic': lambda mean, deviation, noise: mean,
  'tanh': lambda mean, deviation, noise: jnp.tanh(mean),
}


@dataclasses.dataclass(frozen=True)
class Posterior:
  """The law of latents given an image: one of POSTERIORS."""

  name: str

  def sample(self, mean: Array, deviation: Array, keys: Array) -> Array:
    """Latents [B, z_dim], of keys [B]."""
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    return POSTERIORS[self.name](mean, deviation, noise)

  def centre(self, mean: Array) -> Array:
    """Its mean, or where it has none but a point, that."""
    return POSTERIORS[self.name](mean, jnp.zeros_like(mean), jnp.zeros_like(mean))


# --- The game


@dataclasses.dataclass(frozen=True)
class BigBiGAN:
  """The game of the paper; see contract.Algorithm for what each method promises."""

  gen_net: biggan.Generator  # of one class
  enc_net: bigbigan.Encoder
  disc_net: bigbigan.JointDiscriminator
  ge: Player  # of {gen, enc}
  d: Player
  d_steps: int
  batch: int
  law: Law
  posterior: Posterior
  ema: Decay
  ema_start: int
  penalty: float = 0.0  # beta of the orthogonal penalty, reported
  card: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)  # how it is sampled

  periods = {}  # noqa: RUF012 - a constant, not a field
  sampled = 'ge'
  remedies = (
    "lower the learning rates (optim.gen_lr, optim.disc_lr), the encoder's above all "
    '(optim.enc_lr_times)'
  )

  def stages(self, num_steps: int) -> contract.Stages:
    """One; the last of a step's minibatches is the generator's and the encoder's."""
    del num_steps
    size, seen = self.gen_net.resolution, self.enc_net.resolution
    larger = {} if seen == size else {'enc_image': seen}
    inputs = contract.image_inputs(size, self.gen_net.channels, **larger)
    return [(0, Stage(self.d_steps + 1, self.batch, inputs))]

  def init(self, key: Array, given: contract.Given = contract.NOTHING) -> State:
    key_gen, key_enc, key_disc, key_state = jax.random.split(key, 4)
    gen_net = self.gen_net.clone(bn_group=None)  # two examples need not divide
    enc_net = self.enc_net.clone(bn_group=None)
    images = lambda side: jnp.zeros((2, side, side, gen_net.channels), jnp.float32)
    z, y = jnp.zeros((2, gen_net.z_dim), jnp.float32), jnp.zeros((2,), jnp.int32)
    encoder = enc_net.init(key_enc, images(enc_net.resolution), train=True)
    params = {
      'gen': gen_net.init(key_gen, z, y, train=True)['params'],
      'enc': encoder['params'],
    }
    ge = self.ge.init(player.replace(params, given.get('ge', {})))
    d = self.disc_net.init(key_disc, (images(gen_net.resolution),), z)['params']
    d = self.d.init(player.replace(d, given.get('d', {})))
    ema = player.replace(ge['params'], given.get('ema', {}))
    # Before the first step the encoder's BatchNorms do nothing.
    plain = {'mean': jnp.zeros_like, 'var': jnp.ones_like}
    stats = trees.map_paths(lambda path, x: plain[path.split('/')[-1]](x), encoder['moments'])
    return player.initial_state(key_state, {'ge': ge, 'd': d}, ema, {'enc_stats': stats})

  def examples(self, state: State, batch: Batch) -> dict[str, Array]:
    """The minibatches of a step [k, B, ...], with latents and keys of every example."""
    key = jax.random.fold_in(state['key'], state['step'])
    key_z, key_enc = jax.random.split(key)
    shape = batch['image'].shape[:2]
    z = self.law.train(key_z, shape, self.gen_net.z_dim, state['step'])
    images = {name: x for name, x in batch.items() if name != 'label'}
    return {**images, 'z': parallel.shard_examples(z, 1), 'keys': example_keys(key_enc, shape)}

  def pairs(self, weights: Any, batch: dict) -> tuple[tuple, tuple, Any]:
    """((x, E(x)), (G(z), z), moments of E's BatchNorms) of a device's examples."""
    y = jnp.zeros((len(batch['z']),), jnp.int32)
    fake = self.gen_net.apply({'params': weights['gen']}, batch['z'], y, train=True)
    seen = to_float(batch.get('enc_image', batch['image']))
    (_, *law_of_z), sown = self.enc_net.apply(
      {'params': weights['enc']}, seen, train=True, mutable=['moments']
    )
    encoded = self.posterior.sample(*law_of_z, batch['keys'])
    return (to_float(batch['image']), encoded), (fake, batch['z']), sown['moments']

  def scores(
    self, weights: Any, enc: tuple, gen: tuple, apart: bool = False
  ) -> tuple[Scores, Scores]:
    """Scores of both kinds of pairs, judged in one pass.

    With `apart`, F sees the two kinds of images one after the other: the same scores, as none of
    its layers mixes examples. Where only the generator and the encoder are differentiated, it then
    has a backward pass of fake images alone, for real ones are data.
    """
    (x, encoded), (fake, z) = enc, gen
    x = (x, fake) if apart else (jnp.concatenate([x, fake]),)
    scores = self.disc_net.apply({'params': weights}, x, jnp.concatenate([encoded, z]))
    halves = {name: jnp.split(s, 2) for name, s in scores.items()}
    return {n: half[0] for n, half in halves.items()}, {n: half[1] for n, half in halves.items()}

  def disc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_D on one device's examples, of normalised weights; `shared` has the other player's."""
    enc, gen, _ = self.pairs(shared['ge'], batch)
    of_enc, of_gen = self.scores(weights, enc, gen)
    loss_enc, loss_gen = disc_loss(of_enc, of_gen)
    metrics = {'d_loss': loss_enc + loss_gen, 'd_loss_real': loss_enc, 'd_loss_fake': loss_gen}
    for name, s in of_enc.items():
      metrics |= {f'd_logit_{name}_real': s.mean(), f'd_logit_{name}_fake': of_gen[name].mean()}
    metrics['d_accuracy_real'] = (of_enc['xz'] > 0).mean(dtype=jnp.float32)
    metrics['d_accuracy_fake'] = (of_gen['xz'] < 0).mean(dtype=jnp.float32)
    return metrics['d_loss'], metrics

  def gen_enc_loss(self, weights: Any, shared: dict, batch: dict) -> tuple[Array, Metrics]:
    """L_EG on one device's examples; links of the optimizer chain have penalties of their own."""
    enc, gen, moments = self.pairs(weights, batch)
    loss_enc, loss_gen = gen_enc_loss(*self.scores(shared['d'], enc, gen, apart=True))
    metrics = {'e_loss': loss_enc, 'g_loss': loss_gen}
    return loss_enc + loss_gen, {**metrics, 'enc_stats': moments}

  def losses(self, state: State, batch: Batch, stage: Stage) -> dict[str, contract.Loss]:
    del stage
    ge, d = state['players']['ge'], state['players']['d']
    first = jax.tree.map(lambda x: x[0], self.examples(state, batch))

    def of_ge(weights, shared, examples):
      loss, metrics = self.gen_enc_loss(weights, shared, examples)
      return loss, {name: value for name, value in metrics.items() if name != 'enc_stats'}

    return {
      'ge': self.ge.loss(ge, of_ge, {'d': self.d.weights(d)}, first),
      'd': self.d.loss(d, self.disc_loss, {'ge': self.ge.weights(ge)}, first),
    }

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    del due
    players, skipped = state['players'], state['aux']['skipped']
    examples = self.examples(state, batch)
    of_disc, last = (jax.tree.map(part, examples) for part in (lambda x: x[:-1], lambda x: x[-1]))
    pulled = self.ge.pullback(players['ge'])  # of use to both players

    # Discriminator: its steps, each on pairs of its own, of the others as they are.
    d, d_skipped, d_metrics, _ = self.d.descend_each(
      players['d'], skipped['d'], self.disc_loss, {'ge': pulled[0]}, of_disc, 'd_grad_norm'
    )

    # Generator and encoder: one step together against it.
    ge, ge_skipped, finite, metrics = self.ge.descend(
      players['ge'], skipped['ge'], self.gen_enc_loss, {'d': self.d.weights(d)}, last,
      'ge_grad_norm', pulled,
    )  # fmt: skip
    moments = metrics.pop('enc_stats')

    # Averages: of both networks, and of what the encoder's BatchNorms measured.
    decay = self.ema(state['step'], stage.examples)
    ema = player.averaged(state, ge['params'], decay, self.ema_start, finite)
    old = state['aux']['enc_stats']
    started = state['step'] >= max(self.ema_start, 1)  # what there is before is no measurement
    stats = optim.ema(old, moments, decay, started)
    aux = {'enc_stats': trees.select(finite, stats, old)}
    skipped = {'ge': ge_skipped, 'd': d_skipped}
    state, refused = player.advanced(state, {'ge': ge, 'd': d}, ema, skipped, aux)
    return state, metrics | d_metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    del stage
    players = parallel.all_gather_weights(state['players'])
    weights = {'ge': self.ge.weights(players['ge']), 'd': self.d.weights(players['d'])}
    apart = {**state, 'key': jax.random.fold_in(state['key'], 3)}  # no key of a step
    first = lambda batch: jax.tree.map(lambda x: x[0], self.examples(apart, batch))

    # Scores of pairs with training and with held-out images; what the encoder knows of z.
    def signs(_, weights, examples):
      enc, gen, _ = self.pairs(weights['ge'], examples['train'])
      unseen, _, _ = self.pairs(weights['ge'], examples['held_out'])
      train, fake = self.scores(weights['d'], enc, gen)
      others, _ = self.scores(weights['d'], unseen, gen)
      found = player.accuracies(train['xz'], others['xz'], fake['xz'])
      image, z = gen
      while image.shape[1] < self.enc_net.resolution:
        image = upsample(image)
      back = self.enc_net.apply({'params': weights['ge']['enc']}, image, train=True)[1]
      return found | {'latent_cosine': cosine(self.posterior.centre(back), z).mean()}

    examples = {'train': first(dict(batch)), 'held_out': first(dict(held_out))}
    found = parallel.over_batch(signs)({}, weights, examples)
    penalties = regularizers.total(regularizers.orthogonal, players['ge']['params'], penalised)
    found |= player.vital_signs({'ge': self.ge, 'd': self.d}, players)
    return found | {'orthogonal_penalty': self.penalty * penalties}

  def generator(self, state: State, stage: Stage) -> Gen:
    del stage
    params = self.ge.reparametrisation.fold(parallel.all_gather_weights(state['ema']))
    return {'params': params, 'enc_stats': parallel.all_gather_weights(state['aux']['enc_stats'])}

  def architecture(self, stage: Stage) -> dict[str, Any]:
    del stage
    gen, enc = self.gen_net, self.enc_net
    fields = ('resolution', 'ch', 'z_dim', 'shared_dim', 'channels', 'bn_eps')
    return {
      'latent': self.law.name,
      'posterior': self.posterior.name,
      'attention': list(gen.attention),
      **{name: getattr(gen, name) for name in fields},
      'encoder': enc.encoder,
      **{f'enc_{name}': getattr(enc, name) for name in ('resolution', 'ch', 'mlp', 'bn_eps')},
    }

  def sampling(self) -> dict[str, Any]:
    return dict(self.card)


def cosine(a: Array, b: Array) -> Array:
  """Cosines [B] of vectors [B, n]."""
  norms = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
  return (a * b).sum(1) / jnp.maximum(norms, 1e-12)


def of_gen(path: str) -> bool:
  """Whether a tensor of the player ge is the generator's: the encoder has BatchNorm alone."""
  return path.startswith('gen/')


def penalised(path: str, leaf: Any) -> bool:
  """The orthogonal penalty covers every matrix of the generator but its shared embedding."""
  return of_gen(path) and leaf.ndim >= 2 and path != 'gen/shared/embedding'


# --- After training


@dataclasses.dataclass(frozen=True)
class Bidirectional(StandingStatistics):
  """The sampled networks; gen is that of StandingStatistics and the encoder's `enc_stats`.

  `params` is {gen, enc}. It knows no class: whatever the label, it is that of the one there is.

  Attributes:
    enc_net: the encoder.
    posterior: the law of latents given an image.
  """

  enc_net: bigbigan.Encoder
  posterior: Posterior

  def made(self, variables: dict[str, Any], z: Array, y: Array, **how: Any) -> Any:
    variables = {**variables, 'params': variables['params']['gen']}
    return self.net.apply(variables, z, jnp.zeros_like(z[:, 0], jnp.int32), **how)

  def bare(self, gen: Gen) -> Gen:
    return {name: gen[name] for name in ('params', 'enc_stats')}

  def kernels(self, gen: Gen) -> Mapping[str, Array]:
    return self.net.kernels_of_z(gen['params']['gen'])

  @property
  def encoder(self) -> Encoder:
    return OfImages(self)


@dataclasses.dataclass(frozen=True)
class OfImages:
  """The encoder of a Bidirectional; see parts.Encoder."""

  both: Bidirectional

  @property
  def shape(self) -> tuple[int, ...]:
    side = self.both.enc_net.resolution
    return side, side, self.both.net.channels

  @property
  def num_features(self) -> int:
    return self.both.enc_net.num_features

  def _said(self, gen: Gen, images: Array) -> tuple[Array, Array, Array]:
    variables = {'params': gen['params']['enc'], 'stats': gen['enc_stats']}
    return self.both.enc_net.apply(variables, images, train=False)

  def encode(self, gen: Gen, images: Array) -> Array:
    return self.both.posterior.centre(self._said(gen, images)[1])

  def features(self, gen: Gen, images: Array) -> Array:
    return self._said(gen, images)[0]


def make_generator(architecture: dict[str, Any]) -> Bidirectional:
  """Build the sampled networks from a card's `architecture`."""
  fields = {**architecture, 'attention': tuple(architecture['attention'])}
  of_enc = {name: fields.pop(f'enc_{name}') for name in ('resolution', 'ch', 'mlp', 'bn_eps')}
  enc_net = bigbigan.Encoder(encoder=fields.pop('encoder'), z_dim=fields['z_dim'], **of_enc)
  law_of_z, posterior = law(fields.pop('latent')), Posterior(fields.pop('posterior'))
  return Bidirectional(biggan.Generator(num_classes=1, **fields), law_of_z, enc_net, posterior)


# --- Configs

BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
SHARED = (
  'model.ch', 'model.z_dim', 'model.latent', 'model.gen_attention', 'model.disc_attention',
  'model.disc_widths', 'model.bn_group', 'model.dtype', 'optim.batch_size',
  'optim.d_steps', 'optim.name', 'optim.gen_lr', 'optim.disc_lr', 'optim.schedule',
  'optim.schedule_start', 'optim.schedule_end', 'optim.warmup', 'optim.b1', 'optim.b2',
  'optim.eps', 'optim.ema_decay', 'optim.ema_half_life', 'optim.ema_ramp', 'optim.ema_start',
  'run.remat', 'run.kernels', *standing_statistics.KEYS,
)  # fmt: skip
# fmt: off
KEYS: Keys = {
  'model.resolution': Key(
    0, "of the generator and the discriminator, of which data.resolution, the encoder's, is a "
    'multiple by a power of two; 0: the same', most=8192,
  ),
  'model.shared_dim': Key(
    128, 'dimensions of the vector, the same for all, that z joins in BatchNorm', least=1,
    most=65_536,
  ),
  'model.disc_ch': Key(0, "channels of the discriminator, of which all layers have a multiple; "
    '0: model.ch', most=4096),
  'model.encoder': Key(
    'resnet50', 'network of the encoder', choices=tuple(bigbigan.ENCODERS),
  ),
  'model.enc_ch': Key(
    64, 'channels of its first stage, before expansion; 64: as published, 256: four times as wide',
    least=bigbigan.EXPANSION, most=4096,
  ),
  'model.enc_mlp': Key(4096, 'width of the perceptron that ends it', least=1, most=65_536),
  'model.posterior': Key(
    'normal', 'latents of an image: normal, deterministic (the mean), tanh (of that, for '
    'model.latent=uniform)', choices=tuple(POSTERIORS),
  ),
  'model.disc_mlp': Key(
    2048, 'width of the perceptrons that judge latents and pairs', least=1, most=65_536,
  ),
  'model.bn_eps': Key(
    1e-4, "epsilon of the generator's BatchNorm; the encoder's is 1e-5", above=0, most=1,
  ),
  'model.unaries': Key(
    bigbigan.UNARIES, 'parts of a pair that have a score of their own: x, z', items=(str,),
  ),
  'optim.enc_lr_times': Key(
    10.0, "learning rate of the encoder, in times the generator's", most=1000,
  ),
  'optim.ortho_beta': Key(1e-4, 'orthogonal penalty of the generator (Eq. 3); 0: off'),
  'optim.spectral_eps': Key(
    1e-4, 'added to norms in the power iteration of spectral norm', above=0, most=1,
  ),
  **with_defaults(
    {name: residual_config.KEYS[name] for name in SHARED},
    model__ch=96, model__z_dim=120, model__gen_attention=(64,), model__disc_attention=(64,),
    optim__batch_size=2048, optim__d_steps=2, optim__gen_lr=5e-5,
    optim__b2=0.999, optim__ema_decay=0.9999, optim__ema_start=20_000,
  ),
}
SMALL = {
  'model.gen_attention': (), 'model.disc_attention': (), 'model.disc_widths': (),
  'model.bn_group': 0, 'model.dtype': 'float32',
  'optim.schedule': 'constant', 'optim.schedule_start': 0, 'optim.schedule_end': 0,
  'optim.warmup': 0,
}
TINY = {
  **SMALL,
  'data.resolution': 32, 'model.resolution': 16, 'data.num_classes': 1,
  'model.ch': 4, 'model.disc_ch': 0, 'model.z_dim': 12, 'model.shared_dim': 4,
  'model.encoder': 'resnet14', 'model.enc_ch': 4, 'model.enc_mlp': 8, 'model.disc_mlp': 8,
  'optim.batch_size': 8, 'optim.d_steps': 1, 'optim.ema_start': 1,
  'eval.standing_passes': 2, 'eval.standing_batch': 8, 'export.truncations': ('1', 'none'),
}
DIGITS = {
  **SMALL,
  'run.steps': 2000, 'run.eval_every': 500, 'run.checkpoint_every': 500, 'run.remat': False,
  'model.resolution': 0, 'data.num_classes': 1,
  'model.ch': 16, 'model.disc_ch': 0, 'model.z_dim': 30, 'model.shared_dim': 16,
  'model.encoder': 'resnet14', 'model.enc_ch': 16, 'model.enc_mlp': 128, 'model.disc_mlp': 128,
  'optim.batch_size': 64, 'optim.d_steps': 2, 'optim.name': 'adam_b1_0', 'optim.gen_lr': 7e-4,
  'optim.disc_lr': 2e-3, 'optim.enc_lr_times': 1.0, 'optim.b1': 0.0, 'optim.b2': 0.99,
  'optim.eps': 1e-8, 'optim.ema_decay': 0.99, 'optim.ema_start': 200,
  'eval.standing_passes': 16, 'eval.standing_batch': 128,
  'export.truncations': ('0.5', '1', '2', 'none'),
}
# fmt: on


def resolution(config: ml_collections.ConfigDict) -> int:
  """Pixels a side of the generator's images."""
  return config.model.resolution or config.data.resolution


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  data, model, size = config.data, config.model, resolution(config)
  if data.num_classes not in (None, 1):
    raise errors.UserError(
      f'data.num_classes is {data.num_classes}, but BigBiGAN learns without labels; set '
      'data.num_classes=1.'
    )
  times = data.resolution // size
  if data.resolution % size or times & (times - 1):
    raise errors.UserError(
      f'model.resolution is {size} and data.resolution {data.resolution}, which the encoder sees; '
      f'give {size} times a power of two for that, such as {2 * size}.'
    )
  if model.enc_ch % bigbigan.EXPANSION:
    raise errors.UserError(
      f'model.enc_ch is {model.enc_ch}; give a multiple of {bigbigan.EXPANSION}, such as 64.'
    )
  for name in model.unaries:
    errors.pick(name, dict.fromkeys(bigbigan.UNARIES), 'model.unaries')
  if (model.posterior == 'tanh') != (model.latent == 'uniform'):
    raise errors.UserError(
      f'model.posterior is {model.posterior} and model.latent {model.latent}: latents in [-1, 1] '
      'belong together; give tanh and uniform, or neither.'
    )
  # The generator and F are BigGAN's: sizes that there are none of are refused as that does.
  like_biggan = config.copy_and_resolve_references()
  with like_biggan.unlocked():
    like_biggan.data.resolution, like_biggan.model.skip_z = size, True
  networks.check('biggan', biggan, like_biggan)


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> BigBiGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: not looked at.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  del class_counts
  check(config)
  run, data, model, opt = config.run, config.data, config.model, config.optim
  how = {
    'remat': run.remat,
    'kernels': errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, residual_config.DTYPES, 'model.dtype'),
  }
  group, size = model.bn_group or None, resolution(config)
  gen_net = biggan.Generator(
    size, 1, model.ch, model.z_dim, model.shared_dim, attention=tuple(model.gen_attention),
    channels=data.channels, bn_group=group, bn_eps=model.bn_eps, **how,
  )  # fmt: skip
  enc_net = bigbigan.Encoder(
    data.resolution, model.encoder, model.enc_ch, model.z_dim, model.enc_mlp, bn_group=group, **how
  )
  published, num_down = biggan.DISC_WIDTHS[size]
  disc_net = bigbigan.JointDiscriminator(
    model.disc_ch or model.ch, tuple(model.disc_widths) or published, num_down,
    tuple(model.disc_attention), model.disc_mlp, tuple(model.unaries), **how,
  )  # fmt: skip
  every = spectral_norm.spec()
  faster = optim.scaled(lambda path, leaf: not of_gen(path), opt.enc_lr_times)
  ge = Player(
    residual_config.adam(config, opt.gen_lr, 1),
    before=optim.add_orthogonal_penalty(opt.ortho_beta, penalised),
    after=faster,
    reparametrisation=player.spectral(
      lambda path, leaf: of_gen(path) and every(path, leaf), opt.spectral_eps
    ),
    dtype=gen_net.dtype,
  )
  d = Player(
    residual_config.adam(config, opt.disc_lr, opt.d_steps),
    reparametrisation=player.spectral(every, opt.spectral_eps),
    dtype=disc_net.dtype,
  )
  return BigBiGAN(
    gen_net, enc_net, disc_net, ge, d, opt.d_steps, opt.batch_size, law(model.latent),
    Posterior(model.posterior), residual_config.averaging(opt), opt.ema_start,
    penalty=opt.ortho_beta, card=standing_statistics.card(config),
  )  # fmt: skip
