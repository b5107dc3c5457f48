"""The CIFAR ResNet against the network that it stands for, and on pictures that it was trained for.

KEPT is some of what resnet.py of akamaster/pytorch_resnet_cifar10 (commit d5489e8, resnet56, eval
mode, torch 2.14.1) computed of the weights and pictures that are drawn here.
"""

import functools

import jax
import numpy as np
import pytest

from bigjax.models.pretrained import cifar_resnet, registry, torch_layout

import places
from feature_networks import (
  check_compiled,
  distance,
  draw,
  lower,
  pictures,
  products_as_written,
)

SHARED = places.SHARED
ACCURACY = 0.9339  # of the weights in shared/, on all 10,000 test pictures
KEPT = {
  'features': [  # every fifth
    [5.0115, 7.64363, 0, 8.17449, 4.7031, 4.0237, 0.397431, 6.3779, 1.69344, 1.79087, 3.2899,
     3.85452, 6.17338],
    [4.40007, 6.59082, 0, 7.10624, 4.09969, 3.64436, 0.271744, 5.43242, 1.38462, 1.80373, 2.87827,
     3.36056, 5.54934],
  ],
  'logits': [
    [-10.4888, -1.4032, 2.78015, 8.95094, 15.2221, 1.81278, 4.63575, -2.88797, 2.35027, 7.28912],
    [-9.54799, -1.26707, 2.19444, 7.81879, 13.5047, 2.05731, 4.10378, -2.40593, 2.02615, 6.71375],
  ],
}  # fmt: skip


@functools.cache
def module():
  return cifar_resnet.NETWORKS['resnet56']()


@functools.cache
def run():
  return jax.jit(module().apply)


def weights(seed=2016):
  """Return a state dict in torch's layout, with residuals so small that features stay finite."""
  state = draw(torch_layout.shapes(module()), seed)
  small = lambda name: name.startswith('layer') and name.endswith('bn2.weight')
  return {name: x * np.float32(0.3) if small(name) else x for name, x in state.items()}


def compute(state, images):
  variables = torch_layout.from_torch(state, torch_layout.shapes(module()))
  return {name: np.asarray(value) for name, value in run()(variables, images).items()}


def agrees(found):
  kept = {name: np.array(value, np.float32) for name, value in KEPT.items()}
  return (
    distance(found['features'][:, ::5], kept['features']) < 1e-5
    and distance(found['logits'], kept['logits']) < 1e-5
  )


def test_values_are_the_references():
  found = compute(weights(), pictures(32, 32))
  assert found['features'].shape == (2, 64) and found['logits'].shape == (2, 10)
  assert found['features'].dtype == found['logits'].dtype == np.float32
  assert agrees(found)


def test_a_network_with_its_zeros_elsewhere_is_seen(monkeypatch):
  def behind(x, width, stride):
    return jax.numpy.pad(x[:, ::stride, ::stride], ((0, 0),) * 3 + ((0, width - x.shape[-1]),))

  monkeypatch.setattr(cifar_resnet, 'shortcut', behind)
  variables = torch_layout.from_torch(weights(), torch_layout.shapes(module()))
  found = jax.jit(lambda v, x: module().apply(v, x))(variables, pictures(32, 32))
  assert not agrees(found)


@pytest.mark.slow
def test_trained_weights_know_cifar10():
  path, data = SHARED / 'weights' / 'resnet56_cifar10.npz', SHARED / 'data' / 'tfds'
  if not path.is_file() or not data.is_dir():
    pytest.skip('needs shared/weights and shared/data/tfds, which are not part of the project')
  tfds = pytest.importorskip('tensorflow_datasets')
  test = tfds.load('cifar10', split='test', data_dir=data, download=False, batch_size=-1)
  images, labels = test['image'].numpy(), test['label'].numpy()
  network = registry.load('cifar_resnet56', str(path))
  apply = jax.jit(network.apply)
  guesses = [
    np.asarray(apply(network.variables, part)['logits']).argmax(1) for part in np.split(images, 20)
  ]
  accuracy = (np.concatenate(guesses) == labels).mean()
  assert len(labels) == 10_000 and accuracy == pytest.approx(ACCURACY, abs=1e-6)


def test_products_keep_all_digits_on_tpus():
  check_compiled(lower(cifar_resnet.NETWORKS['tiny'](), side=8), num_products=8)


def test_lost_digits_are_seen(monkeypatch):
  assert products_as_written(lower(module())) == {True: 56}
  monkeypatch.setattr(cifar_resnet, 'EXACT', None)
  assert products_as_written(lower(cifar_resnet.NETWORKS['tiny']())) == {False: 8}
