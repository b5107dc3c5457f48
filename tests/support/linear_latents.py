"""A generator with classes whose images follow from z by known directions, of no family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base import contract
from bigjax.core import parallel
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import Sampler

SIDE, Z, CLASSES = 8, 6, 3
SHARES = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.125])  # of the variance of images


@dataclasses.dataclass(frozen=True)
class LinearLatents(contract.PlainGenerator):
  """An image is its class's mean, and a pattern for each direction, as far as z goes along it.

  gen is {means [CLASSES, P], directions [Z, Z], patterns [Z, P]}.
  """

  shape = (SIDE, SIDE, 1)
  latent_shape = (Z,)
  num_classes = CLASSES

  def generate(self, gen, z, y, spec):
    del spec
    y = jax.nn.one_hot(y, CLASSES) if y.ndim == 1 else y
    along = jnp.matmul(z, gen['directions'].T, precision='highest')
    image = jnp.matmul(y, gen['means'], precision='highest')
    image += jnp.matmul(along, gen['patterns'], precision='highest')
    return image.reshape(-1, *self.shape)


@dataclasses.dataclass(frozen=True)
class Encoded(LinearLatents):
  """The same, its own parts.Encoder, of images of class 0."""

  num_features = Z

  @property
  def encoder(self):
    return self

  def encode(self, gen, images):
    apart = images.reshape(-1, SIDE * SIDE) - gen['means'][:1]
    along = jnp.matmul(apart, jnp.linalg.pinv(gen['patterns']), precision='highest')
    return jnp.matmul(along, gen['directions'], precision='highest')

  def features(self, gen, images):
    return self.encode(gen, images)


def weights():
  """Those of a LinearLatents, float32: rows of `directions` are of length 1, at right angles."""
  rng = np.random.RandomState(0)
  turn = np.linalg.qr(rng.randn(Z, Z))[0]
  patterns = np.linalg.qr(rng.randn(SIDE * SIDE, Z))[0].T * np.sqrt(SHARES)[:, None]
  means = 0.5 * rng.uniform(-1, 1, (CLASSES, SIDE * SIDE))
  found = {'means': means, 'directions': turn, 'patterns': 0.5 * patterns}
  return {name: value.astype(np.float32) for name, value in found.items()}


def loaded(kind=LinearLatents, devices=1):
  """One as `bigjax.sample.load` gives it."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  gen = jax.device_put(weights(), parallel.replicated(mesh))
  card = {'algorithm': 'linear', 'class_names': ['ape', 'bee', 'cat'], 'sampling': {}}
  return Loaded(Sampler(kind(), mesh), gen, card)
