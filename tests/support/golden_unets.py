"""OpenAI's small U-Nets of the golden files, with their weights as ours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.models import unet
from bigjax.sampling.importers import openai_diffusion

from golden_files import golden, under


def shapes(net):
  """Of a network's parameters; nothing is computed."""
  size, channels = net.resolution, net.channels
  images = jnp.zeros((1, size, size, channels))
  inputs = {'x': images, 't': jnp.zeros((1,))}
  if isinstance(net, unet.UNet):
    inputs['y'] = jnp.zeros((1,), jnp.int32)
    if net.low_resolution:
      inputs['low'] = jnp.zeros((1, net.low_resolution, net.low_resolution, channels))
    if net.augmented:
      inputs['level'] = jnp.zeros((1,))
  return jax.eval_shape(lambda inputs: net.init(jax.random.key(0), **inputs), inputs)['params']


SETTINGS = {  # of the networks of golden files
  'adm_uncond': {
    'resolution': 32, 'num_classes': 0, 'widths': (1, 1, 1), 'attention': (16, 8), 'head_dim': 16,
    'updown': True,
  },
  'adm_cond': {
    'resolution': 16, 'num_classes': 5, 'widths': (1, 2), 'attention': (16, 8), 'heads': 2,
    'split_first': True, 'updown': True,
  },
  'adm_superres': {
    'resolution': 16, 'num_classes': 0, 'widths': (1, 1), 'attention': (8,), 'head_dim': 8,
    'low_resolution': 8, 'updown': True,
  },
  'iddpm': {
    'resolution': 16, 'num_classes': 0, 'widths': (1, 1), 'attention': (8,), 'heads': 2,
  },
}  # fmt: skip


def nhwc(x):
  return jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32)


@functools.cache
def official(name):
  """(Network, parameters, {name: input as ours}) of a golden file."""
  arrays = golden(name)
  net = unet.UNet(channels=3, ch=32, blocks=1, **SETTINGS[name])
  params = openai_diffusion.params_in(under(arrays, 'w/'), shapes(net), name)
  inputs = {key: x for key, x in under(arrays, 'in/').items() if '/' not in key}
  ours = {
    key: nhwc(x) if x.ndim == 4 else jnp.asarray(x.astype(np.int32)) for key, x in inputs.items()
  }
  return net, params, ours


@functools.cache
def said(name):
  """What a golden file's network says of (x, t, y, low image): compiled once for each shape."""
  net, params, _ = official(name)
  run = jax.jit(lambda params, x, t, y, low: net.apply({'params': params}, x, t, y, low=low))
  return lambda x, t, y=None, low=None: run(params, x, t, y, low)


def assert_same(ours, theirs, most=1e-4):
  theirs = np.asarray(nhwc(theirs)) if theirs.ndim == 4 else theirs
  atol = most * np.abs(theirs).max()
  np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


@functools.cache
def official_classifier():
  arrays = golden('adm_guidance')
  net = unet.Classifier(
    16, 3, 5, 32, widths=(1, 1), blocks=1, attention=(16, 8), head_dim=16, updown=True
  )
  params = openai_diffusion.params_in(under(arrays, 'classifier/'), shapes(net), 'the classifier')
  return net, params
