"""Toy A of the contract: a denoiser. One player, no BatchNorm, two stages, latents like images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bigjax.algorithms.base import contract, draws, player
from bigjax.core import parallel
from bigjax.core.keys import Key, Keys

BATCH_KEY = 'optim.batch_size'
KEYS: Keys = {
  'model.width': Key(8, 'channels of the network', least=1),
  'optim.batch_size': Key(
    16, 'examples of a step in the first stage; the second has half', least=1
  ),
  'optim.lr': Key(1e-2, 'learning rate'),
  'optim.grow_at': Key(2, 'step at which the resolution doubles'),
}
TINY = {
  'run.steps': 4, 'run.checkpoint_every': 1, 'data.source': 'synthetic:80', 'data.num_classes': 5,
  'data.resolution': 16, 'data.channels': 1,
}  # fmt: skip


class Denoiser(nn.Module):
  """Noisy images [B, H, W, C] of any size -> what they are without the noise."""

  width: int
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = nn.relu(nn.Conv(self.width, (3, 3))(x))
    return nn.tanh(nn.Conv(self.channels, (3, 3))(h))


@dataclasses.dataclass(frozen=True)
class Denoising:
  """Images plus noise of a random strength, and back in one step."""

  net: Denoiser
  net_player: player.Player
  resolution: int
  batch: int
  grow_at: int

  periods = {}  # noqa: RUF012
  sampled = 'net'
  remedies = 'lower optim.lr'

  def stages(self, num_steps):
    small = contract.Stage(1, self.batch, self._inputs(self.resolution // 2))
    large = contract.Stage(1, self.batch // 2, self._inputs(self.resolution))
    return [(0, small), (self.grow_at, large)] if num_steps > self.grow_at else [(0, small)]

  def _inputs(self, side):
    (image, _) = contract.image_inputs(side, self.net.channels)
    return (image,)  # no labels

  def init(self, key, given=contract.NOTHING):
    key_net, key_state = jax.random.split(key)
    params = self.net.init(key_net, jnp.zeros((1, 8, 8, self.net.channels)))['params']
    net = self.net_player.init(player.replace(params, given.get('net', {})))
    return player.initial_state(
      key_state, {'net': net}, player.replace(net['params'], given.get('ema', {}))
    )

  def loss(self, weights, shared, batch):
    del shared
    loss = jnp.square(self.net.apply({'params': weights}, batch['noisy']) - batch['clean']).mean()
    return loss, {'net_loss': loss}

  def examples(self, state, batch, stage):
    key = jax.random.fold_in(state['key'], state['step'])
    clean = player.to_float(batch['image'][0])
    keys = draws.example_keys(key, (stage.examples,))
    noise = jax.vmap(lambda key: jax.random.normal(key, stage.image))(keys)
    return {'clean': clean, 'noisy': clean + noise}

  def losses(self, state, batch, stage):
    examples = self.examples(state, batch, stage)
    return {'net': self.net_player.loss(state['players']['net'], self.loss, {}, examples)}

  def step(self, state, batch, stage, due=contract.NONE_DUE):
    net, skipped = state['players']['net'], state['aux']['skipped']['net']
    examples = self.examples(state, batch, stage)
    net, skipped, finite, metrics = self.net_player.descend(
      net, skipped, self.loss, {}, examples, 'net_grad_norm'
    )
    ema = player.averaged(state, net['params'], 0.5, 0, finite)
    state, refused = player.advanced(state, {'net': net}, ema, {'net': skipped})
    return state, metrics | refused

  def probe(self, state, batch, held_out, stage):
    loss = self.losses(state, held_out, stage)['net'](state['players']['net']['params'])[0]
    return {'held_out_loss': loss}

  def generator(self, state, stage):
    return parallel.all_gather_weights(state['ema'])

  def architecture(self, stage):
    side = stage.image[0]
    return {'width': self.net.width, 'channels': self.net.channels, 'resolution': side}

  def sampling(self):
    return {}


@dataclasses.dataclass(frozen=True)
class Generator(contract.PlainGenerator):
  """Noise shaped like an image -> an image."""

  net: Denoiser
  resolution: int
  num_classes: int = 1

  @property
  def shape(self):
    return self.resolution, self.resolution, self.net.channels

  latent_shape = shape

  def generate(self, gen, z, y, spec):
    return self.net.apply({'params': gen}, z)


def make(config, class_counts=None) -> Denoising:
  del class_counts
  net = Denoiser(config.model.width, config.data.channels)
  optim = config.optim
  return Denoising(
    net, player.Player(optax.sgd(optim.lr)), config.data.resolution, optim.batch_size, optim.grow_at
  )


def make_generator(architecture: Mapping[str, Any]) -> Generator:
  net = Denoiser(architecture['width'], architecture['channels'])
  return Generator(net, architecture['resolution'])
