"""CLIP's image tower against transformers' network, number by number.

The reference is transformers' CLIPVisionModelWithProjection (5.24.0; torch 2.13.0) behind Pillow's
resize. golden/clip_vision.npz keeps what it computed for places without it; running this file
writes it.
"""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from bigjax.models.pretrained import registry, torch_layout
from bigjax.models.pretrained.vit import clip_vision

import places
from feature_networks import distance, draw, in_torch, pictures

GOLDEN = places.GOLDEN / 'clip_vision.npz'
RTOL = 1e-4  # of the largest value


def net():
  return clip_vision.CLIPVision(dim=24, width=32, depth=3, heads=4, side=42)


@functools.cache
def weights():
  return draw(torch_layout.shapes(net()), seed=2021)


def images():
  return pictures(50, 50)


def features():
  variables = torch_layout.from_torch(weights(), torch_layout.shapes(net()))
  return np.asarray(jax.jit(net().apply)(variables, images())['features'])


def reference():
  """The unit embeddings that transformers' network has of what Pillow made of the pictures."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = transformers.CLIPVisionConfig(
    hidden_size=32, intermediate_size=128, projection_dim=24, num_hidden_layers=3,
    num_attention_heads=4, image_size=42, patch_size=14, attn_implementation='eager',
  )  # fmt: skip
  model = transformers.CLIPVisionModelWithProjection(config).eval()
  model.load_state_dict(in_torch(weights()), strict=True)
  bicubic = Image.Resampling.BICUBIC
  seen = np.stack([np.asarray(Image.fromarray(x).resize((42, 42), bicubic)) for x in images()])
  seen = ((seen / 255 - clip_vision.MEAN) / clip_vision.STD).astype(np.float32)
  with torch.no_grad():
    found = model(torch.from_numpy(seen).permute(0, 3, 1, 2)).image_embeds
    return (found / found.norm(dim=-1, keepdim=True)).numpy()


def golden():
  with np.load(GOLDEN) as file:
    return file['features']


def test_golden_is_what_the_reference_computes():
  assert distance(reference(), golden()) < 1e-5


def test_features_are_the_references():
  found, want = features(), golden()
  assert found.shape == (2, 24) and found.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
  assert distance(found, want) < RTOL
  assert distance(want[:1], want[1:]) > 100 * RTOL


def test_the_network_sees_central_squares():
  """As cmmd/io_util.py cuts them before it resizes them."""
  wide = pictures(30, 41)
  found, want = (np.asarray(net().prepare(x)) for x in (wide, wide[:, :, 5:35]))
  assert found.shape == (2, 42, 42, 3) and (found == want).all()


WRONG = {  # what is put in the place of what
  'gelu': (clip_vision, 'quick_gelu', jax.nn.gelu),
  'epsilon': (clip_vision, 'norm', functools.partial(clip_vision.norm, epsilon=1e-2)),
  'mean': (clip_vision, 'MEAN', (0.485, 0.456, 0.406)),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_a_wrong_network_is_seen(wrong, monkeypatch):
  monkeypatch.setattr(*WRONG[wrong])
  assert distance(features(), golden()) > RTOL


def test_the_network_has_the_published_size():
  """openai/clip-vit-large-patch14-336: 303,507,456 parameters and the projection's 786,432."""
  expected = torch_layout.shapes(clip_vision.CLIPVision())
  num = sum(int(np.prod(shape)) for shape in expected.values())
  assert num == 303_507_456 + 768 * 1024
  names = {torch_layout.torch_name(path) for path in expected}
  assert {
    'vision_model.embeddings.class_embedding', 'vision_model.embeddings.position_embedding.weight',
    'vision_model.encoder.layers.23.self_attn.out_proj.bias', 'visual_projection.weight',
  } <= names  # fmt: skip


def test_a_whole_checkpoint_becomes_a_network(tmp_path, monkeypatch):
  """With its text tower, which has no use here."""
  path = str(tmp_path / 'clip.npz')
  more = {
    'text_model.embeddings.position_ids': np.arange(77)[None], 'logit_scale': np.float32(4.6),
    'text_projection.weight': np.zeros((24, 8), np.float32),
    'vision_model.embeddings.position_ids': np.arange(10)[None],
  }  # fmt: skip
  np.savez(path, **weights(), **more)
  small = registry.dataclasses.replace(registry.NETWORKS['clip_vitl14_336'], make=net)
  monkeypatch.setitem(registry.NETWORKS, 'clip_vitl14_336', small)
  network = registry.load('clip_vitl14_336', path)
  assert (network.dim, network.num_logits, network.resizer) == (24, 0, 'pil_bicubic_uint8_336')
  found = jax.jit(network.apply)(network.variables, images()[..., :1])  # grey
  assert found['features'].shape == (2, 24)


if __name__ == '__main__':
  np.savez_compressed(GOLDEN, features=reference())
