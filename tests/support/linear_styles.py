"""A generator with styles whose images are linear in w, of no family: what is asked is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base import truncation
from bigjax.core import parallel
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import Sampler

SIDE, LAYERS, Z, W = 16, 3, 5, 4


@dataclasses.dataclass(frozen=True)
class LinearStyles(truncation.WithStyles):
  """w = M z; an image is the sum over layers of A_l w, and a map of noise.

  gen is {map [Z, W], layers [LAYERS, W, SIDE * SIDE], strength}.
  """

  shape = (SIDE, SIDE, 1)
  latent_shape = (Z,)
  num_classes = 1
  num_layers = LAYERS
  gains = None  # no run begins with its weights

  @property
  def styles(self):
    return self

  def map(self, gen, z, y):
    del y
    return jnp.matmul(z, gen['map'], precision='highest')

  def layers(self, gen, w, spec):
    del gen, spec
    return jnp.repeat(w[:, None], LAYERS, 1)

  def noise(self, gen, z, spec):
    del gen, spec
    keys = jax.vmap(jax.random.key)(jax.lax.bitcast_convert_type(z[:, 0], jnp.uint32))
    return (jax.vmap(lambda key: jax.random.normal(key, (SIDE, SIDE, 1)))(keys),)

  def synthesize(self, gen, ws, noise, spec):
    del spec
    image = jnp.einsum('blw,lwp->bp', ws, gen['layers'], precision='highest')
    image = image.reshape(-1, SIDE, SIDE, 1)
    return image + gen['strength'] * noise[0] if noise else image


def weights(strength=0.0, scale=0.03):
  """Those of a LinearStyles, float32."""
  rng = np.random.RandomState(0)
  layers = scale * rng.randn(LAYERS, W, SIDE * SIDE)
  return {
    'map': rng.randn(Z, W).astype(np.float32), 'layers': layers.astype(np.float32),
    'strength': np.float32(strength),
  }  # fmt: skip


def loaded(strength=0.0, scale=0.03, devices=1):
  """A LinearStyles as `bigjax.sample.load` gives it."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  gen = jax.device_put(weights(strength, scale), parallel.replicated(mesh))
  card = {'algorithm': 'linear', 'class_names': ['one'], 'sampling': {}}
  return Loaded(Sampler(LinearStyles(), mesh), gen, card)
