"""Two players that are linear, whose games have closed forms: images in z, scores in the image."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.algorithms import wgan_gp
from bigjax.algorithms.base.draws import LabelLaw
from bigjax.algorithms.base.player import Player
from bigjax.nn import latents, schedules

SIZE, NUM = 2, 10
V = np.array([1.0, -2.0, 0.5, 1.5], np.float32)  # the gradient of the score, everywhere
DISC = {'v': jnp.asarray(V), 'b': jnp.float32(0.25)}
GEN = {
  'Dense_0': {'kernel': jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)}
}


class Line(nn.Module):
  """A generator: images that are linear in z."""

  resolution: int = SIZE
  channels: int = 1
  z_dim: int = 3
  num_classes: int = 2
  bn_group: int | None = None
  microbatches: int = 1

  @nn.compact
  def __call__(self, z, y, train):
    return nn.Dense(SIZE * SIZE, use_bias=False)(z).reshape(-1, SIZE, SIZE, 1)


class Plane(nn.Module):
  """A critic: scores that are linear in the image, and logits of two classes."""

  num_features: int = 4
  class_head: bool = False

  @nn.compact
  def __call__(self, x, y, mask=None):
    x = x.reshape(len(x), -1)
    score = x @ self.param('v', nn.initializers.ones, (4,)) + self.param(
      'b', nn.initializers.ones, ()
    )
    logits = jnp.stack([score, -score], 1)
    return (score, logits) if self.class_head else score


def score(images):
  return np.asarray(images).reshape(len(images), -1) @ V + 0.25


def fakes(z):
  return jnp.asarray(z @ GEN['Dense_0']['kernel']).reshape(-1, SIZE, SIZE, 1)


def game(given, kind=wgan_gp.WGANGP, d_steps=1, gen_times=1, **fields):
  player = Player(optax.sgd(0.1))
  fields = {'class_head': False, 'microbatches': 1} | fields
  return kind(
    gen_net=Line(), disc_net=Plane(class_head=fields.pop('class_head')), gen=player, disc=player,
    batch=(d_steps, NUM), gen_batch=gen_times * NUM, law=latents.law('normal'), labels=LabelLaw(2),
    ema=schedules.ema_decay(0.9), ema_start=0, places=given, **fields,
  )  # fmt: skip
