"""DINOv2 against torch and transformers' network, number by number, and by hand without them.

The reference is transformers' Dinov2Model (5.24.0; torch 2.13.0) behind Pillow's resize, with
positions that torch's own `interpolate` has brought to the grid, as the official code does: the
model's own interpolation is by another factor. golden/dinov2.npz keeps what it computed for places
without it; running this file writes it.
"""

import functools

import jax
import numpy as np
import pytest
import scipy.special
from PIL import Image

from bigjax.core import errors, parallel, trees
from bigjax.evaluation.feature_pass import FeaturePass
from bigjax.models.pretrained import download, registry, torch_layout
from bigjax.models.pretrained.published import PUBLISHED
from bigjax.models.pretrained.vit import dinov2
from bigjax.nn import resizing

import places
from feature_networks import distance, draw, in_torch, pictures

GOLDEN = places.GOLDEN / 'dinov2.npz'
RTOL = 1e-4  # of the largest value
SMALL = {'width': 32, 'depth': 3, 'heads': 4, 'grid': 5, 'side': 42}  # a grid of 3 is looked at
GRIDS = {'published': (37, 16), 'small': (5, 3), 'larger': (4, 9)}


def net(**changes):
  return dinov2.DINOv2(**{**SMALL, **changes})


@functools.cache
def weights():
  """A state dict under the official names; positions and factors count for as much as the rest."""
  state = draw(torch_layout.shapes(net()), seed=2023)
  for name, x in state.items():
    if name.endswith('gamma'):
      state[name] = x + np.float32(0.5)
    if name in ('cls_token', 'pos_embed'):
      state[name] = 3 * x
  return state


def images():
  return pictures(50, 50)


def features(module=None):
  module = module or net()
  variables = torch_layout.from_torch(weights(), torch_layout.shapes(net()))
  return np.asarray(jax.jit(module.apply)(variables, images())['features'])


def resized(side):
  """What Pillow makes of the pictures, in 0..1, normalised."""
  bicubic = Image.Resampling.BICUBIC
  found = [np.asarray(Image.fromarray(x).resize((side, side), bicubic)) for x in images()]
  return ((np.stack(found) / 255 - dinov2.MEAN) / dinov2.STD).astype(np.float32)


# The reference.


def torch_positions(grid, new):
  """The matrix of torch's `interpolate`, by the official factor, of one axis."""
  torch = pytest.importorskip('torch')
  lines = torch.eye(grid)[:, None, :, None].expand(-1, 1, grid, grid)  # along the first axis
  factor = (new + 0.1) / grid
  found = torch.nn.functional.interpolate(lines, scale_factor=(factor, factor), mode='bicubic')
  assert found.shape == (grid, 1, new, new)
  return found[:, 0, :, 0].numpy().T


def reference():
  """The features that transformers' network has of what Pillow made of the pictures."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = transformers.Dinov2Config(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=4, image_size=42,
    patch_size=14, layerscale_value=1.0, qkv_bias=True, attn_implementation='eager',
  )  # fmt: skip
  model = transformers.Dinov2Model(config).eval()
  ours, theirs = in_torch(weights()), {}
  positions = ours['pos_embed'][:, 1:].reshape(1, 5, 5, 32).permute(0, 3, 1, 2)
  factor = 3.1 / 5
  positions = torch.nn.functional.interpolate(
    positions, scale_factor=(factor, factor), mode='bicubic'
  )
  positions = positions.permute(0, 2, 3, 1).reshape(1, 9, 32)
  theirs['embeddings.position_embeddings'] = torch.cat([ours['pos_embed'][:, :1], positions], 1)
  theirs['embeddings.cls_token'] = ours['cls_token']
  theirs['embeddings.mask_token'] = torch.zeros(1, 32)
  names = {
    'attn.proj': 'attention.o_proj', 'ls1.gamma': 'layer_scale1.lambda1',
    'ls2.gamma': 'layer_scale2.lambda1', 'blocks.': 'encoder.layer.',
    'patch_embed.proj': 'embeddings.patch_embeddings.projection',
  }  # fmt: skip
  for name, x in ours.items():
    if name in ('cls_token', 'pos_embed'):
      continue
    renamed = 'layernorm' + name[4:] if name.startswith('norm.') else name
    for old, new in names.items():
      renamed = renamed.replace(old, new)
    if 'attn.qkv' in renamed:
      for part, third in zip(('q', 'k', 'v'), x.chunk(3), strict=True):
        theirs[renamed.replace('attn.qkv', f'attention.{part}_proj')] = third
    else:
      theirs[renamed] = x
  model.load_state_dict(theirs, strict=True)
  with torch.no_grad():
    seen = torch.from_numpy(resized(42)).permute(0, 3, 1, 2)
    return model(seen).last_hidden_state[:, 0].numpy()


def make_golden():
  found = {f'positions/{name}': torch_positions(*GRIDS[name]) for name in GRIDS}
  return {**found, 'features': reference()}


@functools.cache
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def test_golden_is_what_the_reference_computes():
  found = make_golden()
  assert found.keys() == golden().keys()
  for name, value in found.items():
    assert distance(value, golden()[name]) < 1e-5, name


# What it computed.


def test_features_are_the_references():
  found, want = features(), golden()['features']
  assert found.shape == (2, 32) and found.dtype == np.float32
  assert distance(found, want) < RTOL
  assert distance(want[:1], want[1:]) > 100 * RTOL


def even_positions(grid, new):
  """As transformers brings positions to another grid: evenly."""
  at = (np.arange(new) + 0.5) * grid / new - 0.5
  low = np.floor(at).astype(int)
  matrix = np.zeros((new, grid))
  for tap in range(-1, 3):
    column = np.clip(low + tap, 0, grid - 1)
    np.add.at(matrix, (np.arange(new), column), resizing.cubic(at - low - tap, -0.75))
  return matrix


def other_gelu(x, approximate, right=jax.nn.gelu):
  return right(x, approximate=not approximate)


WRONG = {  # what is put in the place of what
  'epsilon': (dinov2, 'norm', functools.partial(dinov2.norm, epsilon=1e-3)),
  'gelu': (dinov2.nn, 'gelu', other_gelu),
  'positions': (dinov2, 'position_matrix', even_positions),
  'rounding': (resizing, 'resize_uint8', resizing.resize),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_a_wrong_network_is_seen(wrong, monkeypatch):
  monkeypatch.setattr(*WRONG[wrong])
  assert distance(features(), golden()['features']) > RTOL


@pytest.mark.parametrize('name', GRIDS)
def test_positions_are_torchs(name):
  found, want = dinov2.position_matrix(*GRIDS[name]), golden()[f'positions/{name}']
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)
  assert np.abs(even_positions(*GRIDS[name]) - want).max() > 1e-2


@pytest.mark.parametrize(('size', 'side'), [((50, 60), 42), ((32, 32), 224), ((256, 300), 224)])
def test_the_network_sees_pillows_pictures_of_bytes(size, side):
  pixels = pictures(*size)
  bicubic = Image.Resampling.BICUBIC
  want = np.stack([np.asarray(Image.fromarray(x).resize((side, side), bicubic)) for x in pixels])
  found = np.asarray(net(side=side).prepare(pixels))
  found = (found * np.float32(dinov2.STD) + np.float32(dinov2.MEAN)) * 255
  away = np.abs(found - want)
  assert away.max() < 1.01 and (away > 0.01).mean() < 1e-3  # where a number lies next to a half


def test_gradients_pass_the_rounding():
  pixels = pictures(30, 30).astype(np.float32)
  total = lambda x: (resizing.resize_uint8(x, 14, 'pil_bicubic') ** 2).sum()
  smooth = lambda x: (resizing.resize(x, 14, 'pil_bicubic') ** 2).sum()
  found, want = jax.grad(total)(pixels), jax.grad(smooth)(pixels)
  assert distance(np.asarray(found), np.asarray(want)) < 0.05 and np.abs(want).max() > 1


def by_hand(module, state, images):
  """The features in float64: tokens, blocks and the last norm, of what `prepare` gives."""
  of = {name: x.astype(np.float64) for name, x in state.items()}
  x = np.asarray(module.prepare(images), np.float64)
  b, c, old, new = len(x), module.width, module.grid, module.side // module.patch
  x = x.reshape(b, new, 14, new, 14, 3).transpose(0, 1, 3, 5, 2, 4).reshape(b, new**2, -1)
  x = x @ of['patch_embed.proj.weight'].reshape(c, -1).T + of['patch_embed.proj.bias']
  x = np.concatenate([np.broadcast_to(of['cls_token'], (b, 1, c)), x], 1)
  matrix, grid = dinov2.position_matrix(old, new), of['pos_embed'][0, 1:].reshape(old, old, c)
  moved = np.einsum('yh,xw,hwc->yxc', matrix, matrix, grid).reshape(1, new**2, c)
  x = x + np.concatenate([of['pos_embed'][:, :1], moved], 1)

  def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * of[f'{name}.weight'] + of[f'{name}.bias']

  def linear(x, name):
    return x @ of[f'{name}.weight'].T + of[f'{name}.bias']

  for i in range(module.depth):
    at = f'blocks.{i}'
    q, k, v = np.split(linear(norm(x, f'{at}.norm1'), f'{at}.attn.qkv'), 3, -1)
    heads = lambda t: t.reshape(b, -1, module.heads, c // module.heads).transpose(0, 2, 1, 3)
    scores = heads(q) @ heads(k).transpose(0, 1, 3, 2) / np.sqrt(c // module.heads)
    seen = scipy.special.softmax(scores, -1) @ heads(v)
    seen = linear(seen.transpose(0, 2, 1, 3).reshape(x.shape), f'{at}.attn.proj')
    x = x + of[f'{at}.ls1.gamma'] * seen
    h = linear(norm(x, f'{at}.norm2'), f'{at}.mlp.fc1')
    h = linear(h * (1 + scipy.special.erf(h / np.sqrt(2))) / 2, f'{at}.mlp.fc2')
    x = x + of[f'{at}.ls2.gamma'] * h
  return norm(x[:, 0], 'norm')


def test_a_network_by_hand():
  assert distance(features(), by_hand(net(), weights(), images())) < RTOL


# What is published.

MASK = {'vits14': 384, 'vitb14': 768, 'vitl14': 1024}  # of the one tensor that only training reads


@pytest.mark.parametrize(
  ('name', 'num'), [('vits14', 22_056_576), ('vitb14', 86_580_480), ('vitl14', 304_368_640)]
)
def test_networks_have_the_published_sizes(name, num):
  """torch.hub's dinov2_NAME, parameters in all; the names are those of its state dict."""
  expected = torch_layout.shapes(dinov2.NETWORKS[name]())
  assert sum(int(np.prod(shape)) for shape in expected.values()) + MASK[name] == num
  names = {torch_layout.torch_name(path) for path in expected}
  assert {
    'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'blocks.11.attn.qkv.bias',
    'blocks.0.ls1.gamma', 'blocks.0.mlp.fc2.weight', 'norm.bias',
  } <= names  # fmt: skip


@pytest.mark.parametrize('name', dinov2.NETWORKS)
def test_the_published_file_where_it_is(name):
  """Its names and shapes are ours, and so is what is computed of them."""
  path = download.find_here(PUBLISHED[f'dinov2_{name}'])
  if path is None:
    pytest.skip(f'needs {PUBLISHED[f"dinov2_{name}"].file} in $BIGJAX_WEIGHTS')
  network = registry.load(f'dinov2_{name}', path)
  found = np.asarray(jax.jit(network.apply)(network.variables, images())['features'])
  assert distance(found, by_hand(dinov2.NETWORKS[name](), registry.read(path), images())) < 1e-3
  assert distance(found[:1], found[1:]) > 0.1


def test_a_file_becomes_a_network_without_classes(tmp_path, monkeypatch):
  path = str(tmp_path / 'dinov2_vits14_pretrain.npz')
  np.savez(path, mask_token=np.zeros((1, 32), np.float32), **weights())
  small = registry.dataclasses.replace(registry.NETWORKS['dinov2_vits14'], make=net)
  monkeypatch.setitem(registry.NETWORKS, 'dinov2_vits14', small)
  network = registry.load('dinov2_vits14', path)
  assert (network.dim, network.num_logits) == (32, 0)
  assert network.resizer == 'pil_bicubic_uint8_224' and network.licence == 'Apache-2.0'
  found = jax.jit(network.apply)(network.variables, images())
  assert found.keys() == {'features'} and distance(found['features'], features()) < 1e-6
  assert trees.flat(network.variables).keys() == torch_layout.shapes(net()).keys()
  mesh = parallel.make_mesh(jax.devices()[:1])
  with pytest.raises(errors.UserError, match='tells some apart'):
    FeaturePass(network, frozenset({'logits'}), mesh, 2)


if __name__ == '__main__':
  np.savez_compressed(GOLDEN, **make_golden())
