"""Toy B of the contract: a game of clips with all that a GAN of still images has not.

Clips [T, H, W, C]; the same clips at half their size as a further input; a generator that returns
both; two critics, of which one sees features of a frozen network; a penalty that is due every two
steps; an encoder; a running mean of scores in `aux`; what goes on with clips.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.algorithms.base import contract, draws, player
from bigjax.core import parallel
from bigjax.core.keys import Key, Keys
from bigjax.nn import optim

BATCH_KEY = 'optim.batch_size'
KEYS: Keys = {
  'model.width': Key(4, 'channels of the networks', least=1),
  'model.z_dim': Key(6, 'dimensions of z', least=1),
  'optim.batch_size': Key(8, 'clips of a step', least=1),
  'optim.lr': Key(1e-2, 'learning rate of every player'),
}
TINY = {
  'run.steps': 4, 'run.checkpoint_every': 1, 'data.source': 'synthetic:80', 'data.num_classes': 5,
  'data.frames': 3, 'data.resolution': 8, 'data.channels': 1,
}  # fmt: skip


class Net(nn.Module):
  """(z, y) -> clips at half size and whole; and back, as `encode`."""

  frames: int
  resolution: int
  channels: int
  num_classes: int
  z_dim: int
  width: int

  def setup(self):
    self.first = nn.Dense(self.frames * (self.resolution // 2) ** 2 * self.width)
    self.embed = nn.Embed(self.num_classes, self.z_dim)
    self.to_small, self.to_large = (
      nn.Conv(self.channels, (1, 1, 1)),
      nn.Conv(self.channels, (1, 3, 3)),
    )
    self.back = nn.Dense(self.z_dim)

  def __call__(self, z, y):
    classes = self.embed(y) if jnp.issubdtype(y.dtype, jnp.integer) else y @ self.embed.embedding
    side = self.resolution // 2
    h = self.first(z + classes).reshape(-1, self.frames, side, side, self.width)
    large = h.repeat(2, 2).repeat(2, 3)
    return nn.tanh(self.to_small(h)), nn.tanh(self.to_large(large))

  def encode(self, clips):
    return self.back(clips.reshape(clips.shape[0], -1))

  def everything(self, z, y):
    small, large = self(z, y)
    return small, large, self.encode(large)


class Critic(nn.Module):
  """Clips or features [B, ...] -> a score [B]."""

  width: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(1)(nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1))))[:, 0]


@dataclasses.dataclass(frozen=True)
class VideoGame:
  """Hinge game of one generator against a critic of whole clips and one of small ones."""

  net: Net
  critic: Critic
  one: player.Player  # the same for all three
  batch: int

  periods = {'gradient_penalty': 2}  # noqa: RUF012
  sampled = 'gen'
  remedies = 'lower optim.lr'

  def stages(self, num_steps):
    net = self.net
    inputs = contract.image_inputs(
      net.resolution, net.channels, net.frames, small=net.resolution // 2
    )
    return [(0, contract.Stage(1, self.batch, inputs))]

  def init(self, key, given=contract.NOTHING):
    key_net, key_whole, key_small, key_state = jax.random.split(key, 4)
    net, side = self.net, self.net.resolution
    clip = jnp.zeros((1, net.frames, side, side, net.channels))
    z, y = jnp.zeros((1, net.z_dim)), jnp.zeros((1,), jnp.int32)
    fresh = {
      'gen': net.init(key_net, z, y, method=Net.everything)['params'],
      'whole': self.critic.init(key_whole, self.features(self.frozen(), clip))['params'],
      'small': self.critic.init(key_small, clip[:, :, ::2, ::2])['params'],
    }
    players = {
      name: self.one.init(player.replace(params, given.get(name, {})))
      for name, params in fresh.items()
    }
    ema = player.replace(fresh['gen'], given.get('ema', {}))
    aux = {'mean_score': jnp.zeros(())}
    return player.initial_state(key_state, players, ema, aux, self.frozen())

  def frozen(self):
    """A random projection of pixels, the same whatever the key of the run."""
    size = self.net.frames * self.net.resolution**2 * self.net.channels
    return {'projection': jax.random.normal(jax.random.key(11), (size, 16)) / size**0.5}

  def features(self, frozen, clips):
    return clips.reshape(clips.shape[0], -1) @ frozen['projection']

  def examples(self, state, batch, stage):
    key_z, key_y = jax.random.split(jax.random.fold_in(state['key'], state['step']))
    keys = draws.example_keys(key_z, (stage.examples,))
    z = jax.vmap(lambda key: jax.random.normal(key, (self.net.z_dim,)))(keys)
    y = jax.random.randint(key_y, (stage.examples,), 0, self.net.num_classes, jnp.int32)
    real = {name: player.to_float(batch[name][0]) for name in ('image', 'small')}
    return {**real, **parallel.shard_examples({'z': z, 'y': y})}

  def critic_loss(self, which, penalised, weights, shared, batch):
    small, large = self.net.apply({'params': shared['gen']}, batch['z'], batch['y'])
    fake, real = (small, batch['small']) if which == 'small' else (large, batch['image'])
    see = lambda x: x if which == 'small' else self.features(shared['frozen'], x)
    score = lambda x: self.critic.apply({'params': weights}, see(x))
    loss = nn.relu(1 - score(real)).mean() + nn.relu(1 + score(fake)).mean()
    if penalised:
      slope = jax.grad(lambda x: score(x).sum())(real)
      loss += jnp.square(slope).sum(range(1, slope.ndim)).mean()
    return loss, {f'{which}_loss': loss, 'score': score(fake).mean()}

  def gen_loss(self, weights, shared, batch):
    small, large, z = self.net.apply(
      {'params': weights}, batch['z'], batch['y'], method=Net.everything
    )
    whole = self.critic.apply({'params': shared['whole']}, self.features(shared['frozen'], large))
    few = self.critic.apply({'params': shared['small']}, small)
    loss = -whole.mean() - few.mean() + jnp.square(z - batch['z']).mean()
    return loss, {'gen_loss': loss}

  def _losses(self, state, examples, due):
    players, frozen = state['players'], {'frozen': state['frozen']}
    weights = {name: self.one.weights(one) for name, one in players.items()}
    penalised = 'gradient_penalty' in due
    found = {'gen': (self.gen_loss, {**frozen, **weights})}
    for which in ('whole', 'small'):
      fn = lambda *args, which=which: self.critic_loss(which, penalised, *args)
      found[which] = fn, {**frozen, 'gen': weights['gen']}
    return found, examples

  def losses(self, state, batch, stage):
    found, examples = self._losses(state, self.examples(state, batch, stage), frozenset())
    return {
      name: self.one.loss(state['players'][name], fn, shared, examples)
      for name, (fn, shared) in found.items()
    }

  def step(self, state, batch, stage, due=contract.NONE_DUE):
    found, examples = self._losses(state, self.examples(state, batch, stage), due)
    players, skipped, metrics = {}, {}, {}
    for name, (fn, shared) in found.items():
      one, count = state['players'][name], state['aux']['skipped'][name]
      players[name], skipped[name], finite, seen = self.one.descend(
        one, count, fn, shared, examples, f'{name}_grad_norm'
      )
      metrics |= seen
      if name == 'gen':
        ema = player.averaged(state, players['gen']['params'], 0.5, 0, finite)
    mean = 0.9 * state['aux']['mean_score'] + 0.1 * metrics['score']
    state, refused = player.advanced(state, players, ema, skipped, {'mean_score': mean})
    return state, metrics | refused

  def probe(self, state, batch, held_out, stage):
    losses = self.losses(state, held_out, stage)
    return {
      f'held_out_{name}_loss': loss(state['players'][name]['params'])[0]
      for name, loss in losses.items()
    }

  def generator(self, state, stage):
    return parallel.all_gather_weights(state['ema'])

  def architecture(self, stage):
    return dataclasses.asdict(self.net) | {'parent': None, 'name': None}

  def sampling(self):
    return {}


@dataclasses.dataclass(frozen=True)
class Generator(contract.PlainGenerator):
  """The network as sampled: the larger of its two scales."""

  net: Net

  @property
  def shape(self):
    net = self.net
    return net.frames, net.resolution, net.resolution, net.channels

  @property
  def latent_shape(self):
    return (self.net.z_dim,)

  @property
  def num_classes(self):
    return self.net.num_classes

  def generate(self, gen, z, y, spec):
    return self.net.apply({'params': gen}, z, y)[1]

  @property
  def encoder(self):
    return Encoder(self.net, self.shape)

  @property
  def predictor(self):
    return Predictor(self.net.frames)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The way back; its features are the latents."""

  net: Net
  shape: tuple[int, ...]

  @property
  def num_features(self):
    return self.net.z_dim

  def encode(self, gen, images):
    return self.net.apply({'params': gen}, images, method=Net.encode)

  features = encode


@dataclasses.dataclass(frozen=True)
class Predictor:
  """Moves the last frame that it is given to the left, a pixel a frame; odd classes' negative.

  Synthetic clips move to the right: so predictions are known, and are not the truth.
  """

  frames: int
  num_given = 2

  def predict(self, gen, frames, z, y, spec):
    sign = jnp.where(y % 2 == 1, -1.0, 1.0)[:, None, None, None]
    times = range(1, self.frames - self.num_given + 1)
    return jnp.stack([sign * jnp.roll(frames[:, -1], -t, axis=2) for t in times], axis=1)


def make(config, class_counts=None) -> VideoGame:
  del class_counts
  data, model = config.data, config.model
  net = Net(data.frames, data.resolution, data.channels, data.num_classes, model.z_dim, model.width)
  one = player.Player(optim.adam(config.optim.lr, 0.5, 0.9, 1e-8))
  return VideoGame(net, Critic(model.width), one, config.optim.batch_size)


def make_generator(architecture: Mapping[str, Any]) -> Generator:
  return Generator(Net(**{k: v for k, v in architecture.items() if k not in ('parent', 'name')}))
