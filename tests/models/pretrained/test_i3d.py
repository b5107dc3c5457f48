"""I3D: PyTorch's values for random weights, names of its published file, what it refuses."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bigjax.core import errors
from bigjax.evaluation import feature_pass
from bigjax.evaluation.metrics import registry as metrics
from bigjax.models.pretrained import i3d, registry, torch_layout

SIDE, FRAMES = (
  40,
  9,
)  # maps of 20, 10, 5, 3 and 2 px, 5, 3 and 2 frames: odd ones, and a last window


@functools.cache
def shapes():
  return torch_layout.shapes(i3d.I3D())


def random_tensors():
  """A state dict under which values neither die out nor grow, running averages not 0 and 1."""
  rng = np.random.RandomState(0)
  found = {}
  for path, shape in shapes().items():
    name, shape = torch_layout.torch_name(path), torch_layout.torch_shape(path, shape)
    value = rng.normal(size=shape)
    if len(shape) == 5:
      value *= (2 / np.prod(shape[1:])) ** 0.5
    elif name.endswith(('bn.weight', 'running_var')):
      value = 1 + 0.3 * np.tanh(value)
    else:
      value *= 0.2
    found[name] = value.astype(np.float32)
  return found


def test_names_are_those_of_pytorch_i3d():
  names = {torch_layout.torch_name(path): path for path in shapes()}
  assert len(names) == 57 * 5 + 2  # of a convolution, and four of its BatchNorm; the logits
  wanted = {
    'Conv3d_1a_7x7.conv3d.weight': (64, 3, 7, 7, 7),
    'Conv3d_2c_3x3.bn.running_var': (192,),
    'Mixed_3b.b1b.conv3d.weight': (128, 96, 3, 3, 3),
    'Mixed_4f.b3b.conv3d.weight': (128, 528, 1, 1, 1),
    'Mixed_5c.b2b.bn.weight': (128,),
    'logits.conv3d.weight': (400, 1024, 1, 1, 1),
    'logits.conv3d.bias': (400,),
  }
  found = {n: torch_layout.torch_shape(names[n], shapes()[names[n]]) for n in wanted}
  assert found == wanted
  kernels = [np.prod(shape) for path, shape in shapes().items() if path.startswith('params')]
  assert 12.6e6 < sum(kernels) < 12.8e6  # 'I3D: 12M parameters', Table 1 of its paper, one stream


@pytest.fixture(scope='module')
def clips():
  coarse = np.random.RandomState(1).randint(0, 256, (2, FRAMES, 8, 8, 3))
  return coarse.repeat(5, 2).repeat(5, 3).astype(np.uint8)


def test_values_of_pytorch(clips, tmp_path, monkeypatch):
  """From its file, in the container of 2017 as the published one is."""
  torch = pytest.importorskip('torch')
  tensors = {name: torch.from_numpy(array) for name, array in random_tensors().items()}
  path = tmp_path / 'rgb_imagenet.pt'
  torch.save(tensors, path, _use_new_zipfile_serialization=False)
  small = dataclasses.replace(registry.NETWORKS['i3d'], make=lambda: i3d.I3D(side=SIDE))
  monkeypatch.setitem(registry.NETWORKS, 'i3d', small)
  network = registry.load('i3d', str(path))
  assert network.clips and network.dim == network.num_logits == 400
  found = jax.jit(network.apply)(network.variables, clips)
  with torch.no_grad():
    want = forward(torch, tensors, torch.from_numpy(clips).float() * (2 / 255) - 1).numpy()
  assert want.std() > 0.1 and np.abs(want[0] - want[1]).max() > 0.1
  for name in ('features', 'logits'):
    assert np.abs(np.asarray(found[name]) - want).max() < 1e-4 * np.abs(want).max()


def forward(torch, tensors, clips):
  """Logits of clips [B, T, H, W, 3] in [-1, 1], padded as TensorFlow documents SAME."""
  functional = torch.nn.functional

  def padded(x, size, step, value):
    pads = []
    for length, k, s in zip(x.shape[:1:-1], size[::-1], step[::-1], strict=True):
      total = max((-(-length // s) - 1) * s + k - length, 0)
      pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value)

  def unit(x, name, step=1):
    kernel = tensors[f'{name}.conv3d.weight']
    x = padded(x, kernel.shape[2:], (step,) * 3, 0)
    x = functional.conv3d(x, kernel, stride=step)
    of = lambda leaf: tensors[f'{name}.bn.{leaf}']
    stored = of('running_mean'), of('running_var'), of('weight'), of('bias')
    return functional.batch_norm(x, *stored, eps=1e-3).relu()

  def pool(x, size, step):
    return functional.max_pool3d(padded(x, size, step, -np.inf), size, step)

  def mixed(x, name):
    branches = [
      unit(x, f'{name}.b0'),
      unit(unit(x, f'{name}.b1a'), f'{name}.b1b'),
      unit(unit(x, f'{name}.b2a'), f'{name}.b2b'),
      unit(pool(x, (3, 3, 3), (1, 1, 1)), f'{name}.b3b'),
    ]
    return torch.cat(branches, 1)

  x = unit(clips.permute(0, 4, 1, 2, 3), 'Conv3d_1a_7x7', 2)
  x = unit(pool(x, (1, 3, 3), (1, 2, 2)), 'Conv3d_2b_1x1')
  x = pool(unit(x, 'Conv3d_2c_3x3'), (1, 3, 3), (1, 2, 2))
  x = mixed(mixed(x, 'Mixed_3b'), 'Mixed_3c')
  x = pool(x, (3, 3, 3), (2, 2, 2))
  for name in 'bcdef':
    x = mixed(x, f'Mixed_4{name}')
  x = pool(x, (2, 2, 2), (2, 2, 2))
  x = mixed(mixed(x, 'Mixed_5b'), 'Mixed_5c')
  x = functional.avg_pool3d(x, (2, *(min(7, side) for side in x.shape[3:])), 1)
  x = functional.conv3d(x, tensors['logits.conv3d.weight'], tensors['logits.conv3d.bias'])
  return x.mean((2, 3, 4))


def test_clips_of_any_size_and_of_grey_come_to_224_px():
  network = registry.NETWORKS['i3d']
  assert network.make().side == 224 and network.resizer == 'tf1_bilinear_224'
  apply = registry._applied('i3d', network, network.make())
  variables = jax.eval_shape(
    lambda: i3d.I3D().init(jax.random.key(0), np.zeros((1, *i3d.I3D.example), np.uint8))
  )
  for shape in ((2, 16, 64, 64, 1), (2, 9, 30, 30, 3), (1, 40, 8, 8, 3)):
    found = jax.eval_shape(apply, variables, jax.ShapeDtypeStruct(shape, np.uint8))
    assert found['features'].shape == found['logits'].shape == (shape[0], 400)
  with pytest.raises(errors.UserError, match='takes clips of 9 frames or more, and these have 8'):
    jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((1, 8, 32, 32, 3), np.uint8))


def test_only_its_distance_is_called_fvd():
  name = functools.partial(metrics.full_name, 'fid', metrics.METRICS['fid'], 2048, 'train')
  assert name('i3d') == 'fvd2048_train_i3d'
  assert name('classifier') == 'fd2048_train_classifier'
  assert name('inception_frame_mean') == 'fd2048_train_inception_frame_mean'
  images = registry.FeatureNetwork('i3d', '', '', 400, 400, {}, None, clips=True)
  assert feature_pass.fitted(images, (9, 8, 8, 1)).name == 'i3d'
  with pytest.raises(errors.UserError, match="'i3d' takes clips, and these are images"):
    feature_pass.fitted(images, (8, 8, 1))
