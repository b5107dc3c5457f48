"""Inception against the networks that it stands for, number by number, and what TPUs make of it.

The references (torch-fidelity 0.4.0, pytorch-fid 0.3.0, torchvision 0.29.1 as BigGAN-PyTorch calls
it; torch 2.14.1) run where they are installed; golden/inception.npz keeps some of what they
computed for all other places; running this file writes it. Weights are drawn here, in the layout of
the published checkpoints.
"""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from bigjax.models.pretrained import inception, torch_layout
from bigjax.nn import resizing

import places
from feature_networks import (
  check_compiled,
  distance,
  in_torch,
  lower,
  pictures,
  products_as_written,
  shapes,
  weights,
)

GOLDEN = places.GOLDEN / 'inception.npz'
RTOL = 1e-4  # of the largest value
RECIPES = ('fid', 'pytorch_fid', 'torchvision')
RESIZED = {'up': (32, 20), 'down': (400, 310), 'near': (300, 298)}  # height, width
PIXELS = np.s_[:, ::37, 1::41]
FEATURES, LOGITS = np.s_[:, ::61], np.s_[:, ::31]


def compute(module, recipe, images):
  """Return what a network of ours makes of the images with the weights of `recipe`."""
  variables = torch_layout.from_torch(weights(recipe), shapes(recipe))
  found = jax.jit(module.apply)(variables, images)
  return {name: np.asarray(value) for name, value in found.items()}


def agree(ours, golden, prefix):
  return (
    distance(ours['features'][FEATURES], golden[f'{prefix}/features']) < RTOL
    and distance(ours['logits'][LOGITS], golden[f'{prefix}/logits']) < RTOL
  )


@functools.cache
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


# The references.


def seen(net, into):
  """Keep what the first convolution of a torch network sees."""
  keep = lambda module, args: into.update(input=args[0].permute(0, 2, 3, 1).numpy())
  net.register_forward_pre_hook(keep)


def places(branch, into):
  """Keep the first 7 channels of the maps of a torch module, as features of places."""
  keep = lambda module, args, out: into.update(
    spatial=out[:, :7].permute(0, 2, 3, 1).flatten(1).numpy()
  )
  branch.register_forward_hook(keep)


@functools.cache
def reference_fid():
  """Return torch-fidelity's network: uint8 images -> features, logits with and without bias."""
  torch = pytest.importorskip('torch')
  extractors = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
  names = ['2048', 'logits_unbiased', 'logits']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(extractors.torch, 'load', lambda *_, **__: in_torch(weights('fid')))
    net = extractors.FeatureExtractorInceptionV3('any', names, 'any')
  first = {}
  seen(net.Conv2d_1a_3x3, first)
  places(net.Mixed_6d.branch1x1, first)

  def run(images):
    with torch.no_grad():
      features, logits, biased = net(torch.from_numpy(images).permute(0, 3, 1, 2))
    return {
      'features': features.numpy(), 'logits': logits.numpy(), 'biased': biased.numpy(), **first
    }  # fmt: skip

  return run


@functools.cache
def reference_pytorch_fid():
  """Return pytorch-fid's network, whose loader of pictures divides by 255, and its last layer."""
  torch = pytest.importorskip('torch')
  theirs = pytest.importorskip('pytorch_fid.inception')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(theirs, 'load_state_dict_from_url', lambda *_, **__: in_torch(weights('fid')))
    net, last = theirs.InceptionV3().eval(), theirs.fid_inception_v3().fc
  first = {}
  seen(net.blocks[0][0], first)
  places(net.blocks[2][6].branch1x1, first)

  def run(images):
    with torch.no_grad():
      pool = net(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)[0][:, :, 0, 0]
      return {'features': pool.numpy(), 'logits': last(pool).numpy(), **first}

  return run


@functools.cache
def reference_torchvision():
  """Return torchvision's network, with what BigGAN-PyTorch's inception_utils.py does before it."""
  torch = pytest.importorskip('torch')
  models = pytest.importorskip('torchvision.models')
  net = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
  missing, unexpected = net.load_state_dict(in_torch(weights('torchvision')), strict=False)
  assert not unexpected
  assert all(name.startswith('AuxLogits.') or 'num_batches' in name for name in missing)
  found = {}
  seen(net.Conv2d_1a_3x3, found)
  places(net.Mixed_6d.branch1x1, found)
  net.fc.register_forward_pre_hook(lambda module, args: found.update(features=args[0].numpy()))

  def run(images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
    x = ((x + 1) / 2 - mean) / std
    if x.shape[2:] != (299, 299):
      x = torch.nn.functional.interpolate(x, (299, 299), mode='bilinear', align_corners=True)
    with torch.no_grad():
      logits = net(x)
    return {'logits': logits.numpy(), **found}

  return run


REFERENCES = {
  'fid': reference_fid,
  'pytorch_fid': reference_pytorch_fid,
  'torchvision': reference_torchvision,
}


def reference_resize(images, resizer):
  torch = pytest.importorskip('torch')
  x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
  if resizer == 'tf1_bilinear':
    theirs = pytest.importorskip('torch_fidelity.interpolate_compat_tensorflow')
    x = theirs.interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
  else:
    corners = resizer == 'torch_bilinear_corners'
    x = torch.nn.functional.interpolate(x, (299, 299), mode='bilinear', align_corners=corners)
  return x.permute(0, 2, 3, 1).numpy()


def make_golden():
  """Return some of what the references compute."""
  found = {}
  for name, (height, width) in RESIZED.items():
    for resizer in resizing.BILINEAR:
      resized = reference_resize(pictures(height, width, num=1), resizer)
      found[f'{resizer}/{name}'] = resized[PIXELS]
  for recipe, make in REFERENCES.items():
    result = make()(pictures(32, 32, num=1))
    found[f'{recipe}/input'] = result['input'][PIXELS]
    found[f'{recipe}/features'] = result['features'][FEATURES]
    found[f'{recipe}/logits'] = result['logits'][LOGITS]
  return found


@pytest.mark.parametrize('size', [32, 128, 299])
@pytest.mark.parametrize('recipe', RECIPES)
def test_values_are_the_references(recipe, size):
  reference = REFERENCES[recipe]()
  images = pictures(size, size)
  ours, theirs = compute(inception.RECIPES[recipe](), recipe, images), reference(images)
  apart = {name: distance(ours[name], theirs[name]) for name in ours}
  print(recipe, size, apart)  # pytest -s
  assert max(apart.values()) < RTOL
  # The pictures differ by far more than that, so that it says something.
  assert distance(theirs['features'][:1], theirs['features'][1:]) > 100 * RTOL


def test_with_the_bias_logits_are_torch_fidelitys_other_ones():
  reference = reference_fid()
  images = pictures(299, 299, num=1)
  ours = compute(inception.RECIPES['fid'](bias_of_logits=True), 'fid', images)
  theirs = reference(images)
  assert distance(ours['logits'], theirs['biased']) < RTOL
  assert distance(ours['logits'], theirs['logits']) > 10 * RTOL


def test_golden_is_what_the_references_compute():
  found = make_golden()
  assert found.keys() == golden().keys()
  for name, value in found.items():
    assert distance(value, golden()[name]) < 1e-5, name


# What they computed.


@pytest.mark.parametrize('size', RESIZED)
@pytest.mark.parametrize('resizer', resizing.BILINEAR)
def test_resized_pictures_are_as_kept(resizer, size):
  images = pictures(*RESIZED[size], num=1).astype(np.float32)
  found = np.asarray(inception.resize(images, 299, resizer))
  assert found.shape == (1, 299, 299, 3)
  np.testing.assert_allclose(found[PIXELS], golden()[f'{resizer}/{size}'], rtol=0, atol=1e-3)
  for other in set(resizing.BILINEAR) - {resizer}:  # which they would not be, were they mixed up
    assert np.abs(found[PIXELS] - golden()[f'{other}/{size}']).max() > 0.1


@pytest.mark.parametrize('resizer', resizing.BILINEAR)
def test_pictures_of_the_right_size_stay(resizer):
  images = pictures(9, 9).astype(np.float32)
  np.testing.assert_array_equal(inception.resize(images, 9, resizer), images)
  np.testing.assert_array_equal(resizing.interpolation(resizer, 9, 9), np.eye(9))
  rows = resizing.interpolation(resizer, 1, 4)  # one pixel
  np.testing.assert_array_equal(rows, np.ones((4, 1)))


@pytest.mark.parametrize('recipe', RECIPES)
def test_what_the_network_sees_is_as_kept(recipe):
  found = np.asarray(inception.RECIPES[recipe]().prepare(pictures(32, 32, num=1)))[PIXELS]
  assert distance(found, golden()[f'{recipe}/input']) < 1e-5
  for other in set(RECIPES) - {recipe}:
    assert distance(found, golden()[f'{other}/input']) > 1e-3


def test_clean_fid_sees_pillows_pictures():
  """clean-fid 0.1.35: each channel in mode F by Image.resize(BICUBIC), cut off, (x - 128) / 128."""
  images = pictures(40, 52, num=1)
  images[0, :20, :26] = np.random.RandomState(0).choice([0, 255], (20, 26, 3))  # overshoots
  channels = [Image.fromarray(images[0, ..., c].astype(np.float32)) for c in range(3)]
  resized = [np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)) for c in channels]
  want = (np.stack(resized, -1).clip(0, 255) - 128) / 128
  found = np.asarray(inception.RECIPES['clean']().prepare(images))[0]
  assert np.abs(found - want).max() < 1e-5
  for wrong in ({'clip': False}, {'resizer': 'torch_bilinear'}):
    found = np.asarray(inception.RECIPES['clean'](**wrong).prepare(images))[0]
    assert np.abs(found - want).max() > 0.1
  same = ('mean', 'std', 'pool', 'last_pool', 'num_logits', 'bias_of_logits')
  clean, fid = (inception.RECIPES[name].keywords for name in ('clean', 'fid'))
  assert [clean[name] for name in same] == [fid[name] for name in same]


# The network of `pytorch_fid` is that of `fid`.
@pytest.mark.parametrize(
  'recipe', ['fid', pytest.param('pytorch_fid', marks=pytest.mark.slow), 'torchvision']
)
def test_values_are_as_kept(recipe):
  ours = compute(inception.RECIPES[recipe](), recipe, pictures(32, 32, num=1))
  assert ours['features'].shape == (1, 2048) and ours['features'].dtype == np.float32
  assert ours['logits'].shape == (1, {'torchvision': 1000}.get(recipe, 1008))
  assert agree(ours, golden(), recipe)


def test_features_of_places_by_hand():
  """Of what Mixed_6d is given: its 1x1 branch, BatchNorm and ReLU, the first 7 channels."""
  module, state = inception.RECIPES['fid'](), weights('fid')
  variables = torch_layout.from_torch(state, shapes('fid'))

  @jax.jit
  def look(variables, images):
    keep = lambda block, _: block.name == 'Mixed_6c'
    found, kept = module.apply(
      variables, images, capture_intermediates=keep, mutable=['intermediates']
    )
    return found['spatial'], kept['intermediates']['Mixed_6c']['__call__'][0]

  spatial, maps = map(np.asarray, look(variables, pictures(32, 32, num=2)))
  of = lambda name: state[f'Mixed_6d.branch1x1.{name}'].astype(np.float64)[:7]
  x = maps.astype(np.float64) @ of('conv.weight')[:, :, 0, 0].T - of('bn.running_mean')
  x = x / np.sqrt(of('bn.running_var') + 1e-3) * of('bn.weight') + of('bn.bias')
  assert spatial.shape == (2, 2023) and module.spatial == 2023
  want = np.maximum(x, 0).reshape(2, -1)
  assert distance(spatial, want) < 1e-4 and (want == 0).any()
  assert distance(spatial, x.reshape(2, -1)) > 1e-2  # before the ReLU


WRONG = {
  'pool': {'pool': 'average_of_padded'},
  'last_pool': {'last_pool': 'average'},
  'resizer': {'resizer': 'torch_bilinear'},
  'scale': {'mean': (127.5,) * 3, 'std': (127.5,) * 3},
  'bias': {'bias_of_logits': True},
}


@pytest.mark.parametrize(
  'wrong',
  ['pool', *(pytest.param(name, marks=pytest.mark.slow) for name in WRONG if name != 'pool')],
)
def test_a_wrong_network_is_seen(wrong):
  module = inception.RECIPES['fid'](**WRONG[wrong])
  assert not agree(compute(module, 'fid', pictures(32, 32, num=1)), golden(), 'fid')


@pytest.mark.slow
def test_a_wrong_epsilon_is_seen(monkeypatch):
  monkeypatch.setattr(inception, 'EPSILON', 1e-5)
  module = inception.RECIPES['fid']()
  assert not agree(compute(module, 'fid', pictures(32, 32, num=1)), golden(), 'fid')


# What TPUs make of it: by default products of float32 are of bfloat16 there.


class Slice(inception.Inception):
  """A convolution and a linear layer behind the resize: one product of each kind."""

  @inception.nn.compact
  def __call__(self, images):
    x = inception.resize(images.astype(np.float32), 24, self.resizer)
    x = inception.ConvNorm(32, (3, 3), 2, name='conv')(x)
    return inception.Linear(self.num_logits, self.bias_of_logits, name='fc')(x.mean((1, 2)))


def test_products_ask_for_all_digits():
  lowered = lower(inception.RECIPES['fid']())
  assert products_as_written(lowered) == {True: 94 + 1 + 2}  # convolutions, linear, resize


@pytest.fixture
def inexact(monkeypatch):
  monkeypatch.setattr(inception, 'EXACT', None)


def sliced():
  return Slice(**inception.RECIPES['fid'].keywords)


def test_products_keep_all_digits_on_tpus():
  check_compiled(lower(sliced()), num_products=4)


def test_lost_digits_are_seen(inexact):
  assert products_as_written(lower(sliced())) == {False: 4}
  with pytest.raises(AssertionError):
    check_compiled(lower(sliced()), num_products=4)


@pytest.mark.slow
def test_the_whole_network_keeps_all_digits_on_tpus():
  check_compiled(lower(inception.RECIPES['fid'](), side=128), num_products=97)


if __name__ == '__main__':
  np.savez_compressed(GOLDEN, **make_golden())
