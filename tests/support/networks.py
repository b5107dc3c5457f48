"""What the tests of both BigGAN networks ask of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import parallel, trees
from bigjax.models import biggan as models
from bigjax.nn import microbatches

from counts import num_params

CHANGE_NO_PARAMETER = ('microbatches', 'remat', 'bn_group', 'bn_eps')


def f32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


LABELS = jax.ShapeDtypeStruct((2,), jnp.int32)


@functools.cache
def gen_shapes(resolution, num_classes=1000, network=models, **fields):
  net = network.Generator(resolution, num_classes, **fields)
  init = lambda z, y: net.init(jax.random.key(0), z, y, train=True)['params']
  return jax.eval_shape(init, f32(2, net.z_dim), LABELS)


@functools.cache
def disc_shapes(resolution, num_classes=1000, network=models, channels=3, **fields):
  net = network.Discriminator(resolution, num_classes, **fields)
  init = lambda x, y: net.init(jax.random.key(0), x, y)['params']
  return jax.eval_shape(init, f32(2, resolution, resolution, channels), LABELS)


def weights(shapes, seed=0, dtype=jnp.float32):
  """Random weights of the size that orthogonal init gives, without its QR; biases too."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(
      rng.normal(size=s.shape) / max(s.size // s.shape[-1], 1) ** 0.5
      if s.ndim > 1
      else rng.uniform(0.5, 1, size=s.shape),
      dtype,
    ),
    shapes,
  )


def latents(num, dim, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(num, dim)), jnp.float32)


def pictures(num, side, channels=3, seed=0):
  x = np.random.default_rng(seed).uniform(-1, 1, size=(num, side, side, channels))
  return jnp.asarray(x, jnp.float32)


def count_of_each(tree):
  """Parameters by the name of the top-level module."""
  return {name: num_params(part) for name, part in tree.items()}


def generate(net, params, z, y, **kwargs):
  """Images and the outputs of every submodule by path, in training mode."""
  images, state = net.apply(
    {'params': params},
    z,
    y,
    train=True,
    capture_intermediates=True,
    mutable=['intermediates'],
    **kwargs,
  )
  inner = {
    path.removesuffix('/__call__/0'): leaf
    for path, leaf in trees.flat(state['intermediates']).items()
  }
  return images, inner


def without_conditioning(params):
  """The parameters with every projection of every conditional BatchNorm zero."""
  projection = ('/gain/kernel', '/bias/kernel', '/gain/embedding', '/bias/embedding')
  return trees.map_paths(lambda path, w: 0 * w if path.endswith(projection) else w, params)


@functools.cache
def loss_and_gradients(network, num_devices, rolled, **fields):
  """A loss of 16 images and its gradients in float64, over a mesh where devices are given.

  `rolled`: loops stay loops, as on TPUs; on CPUs parallel.scan unrolls them.
  """
  net = network.Generator(num_classes=3, dtype=jnp.float64, **fields)
  plain = {name: value for name, value in fields.items() if name not in CHANGE_NO_PARAMETER}
  params = weights(gen_shapes(num_classes=3, network=network, **plain), dtype=jnp.float64)
  batch = {
    'z': latents(16, net.z_dim).astype(jnp.float64),
    'y': jnp.arange(16) % 3,
    'target': pictures(16, net.resolution, net.channels).astype(jnp.float64),
  }

  def loss(params, shared, batch):
    images = net.apply({'params': params}, batch['z'], batch['y'], train=True)
    return (images * batch['target']).sum((1, 2, 3)).mean(), {}

  fn = jax.jit(parallel.value_and_grad(loss))
  with pytest.MonkeyPatch.context() as patch:
    if rolled:
      patch.setattr(microbatches, 'scan', jax.lax.scan)
    if num_devices is None:
      (value, _), grads = fn(params, {}, batch)
    else:
      with jax.set_mesh(parallel.make_mesh(jax.devices()[:num_devices])):
        (value, _), grads = fn(params, {}, batch)
  return float(value), jax.device_get(trees.flat(grads))


def assert_same_gradients(got, want, rtol):
  """Per tensor, relative to its norm; that of a bias before a BatchNorm is 0 but for rounding."""
  np.testing.assert_allclose(got[0], want[0], rtol=rtol)
  whole = np.sqrt(sum(np.square(g).sum() for g in want[1].values()))
  for path, grad in want[1].items():
    size = np.linalg.norm(grad)
    assert size > 1e-6 * whole or path.endswith('/bias'), path
    assert np.linalg.norm(got[1][path] - grad) <= rtol * max(size, 1e-4 * whole), path


def assert_place_of_attention(shapes, place, channels):
  assert [name for name in shapes if name.startswith('attention')] == [f'attention_{place}']
  kernels = {
    name: p['kernel'].shape[2:]
    for name, p in shapes[f'attention_{place}'].items()
    if name != 'gamma'
  }
  assert kernels == {
    'theta': (channels, channels // 8),
    'phi': (channels, channels // 8),
    'g': (channels, channels // 2),
    'o': (channels // 2, channels),
  }


def convolution_dtypes(fn, *args):
  text = str(jax.make_jaxpr(fn)(*args))
  lines = [line for line in text.splitlines() if 'conv_general_dilated[' in line]
  return {line.split(':')[1].split('[')[0] for line in lines if ':' in line}
