"""Resizing against the programs whose it is; the bilinear ones are in test_inception.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bigjax.nn import resizing

SIZES = {'up': ((32, 20), 299), 'down': ((400, 310), 75), 'both': ((50, 300), 128)}


def pillow(images, side):
  """What Pillow makes of float32 [B, H, W, C], each channel in mode F."""
  one = lambda x: np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC))
  return np.stack([np.stack([one(c) for c in np.moveaxis(x, -1, 0)], -1) for x in images])


@pytest.mark.parametrize('name', SIZES)
def test_bicubic_is_pillows(name):
  size, side = SIZES[name]
  images = np.random.RandomState(0).randint(0, 256, (2, *size, 3)).astype(np.float32)
  want = pillow(images, side)
  found = np.asarray(resizing.resize(jnp.asarray(images), side, 'pil_bicubic'))
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-3)
  for other in resizing.BILINEAR:  # the bar tells one resize from another
    assert np.abs(np.asarray(resizing.resize(images, side, other)) - want).max() > 1


def test_bicubic_without_wider_filters_is_not_pillows(monkeypatch):
  """Torch's slope of -0.75, and a filter as narrow as that of larger images, are both seen."""
  images = np.random.RandomState(0).randint(0, 256, (1, 64, 64, 1)).astype(np.float32)
  want, right = pillow(images, 24), resizing.cubic
  for wrong in (lambda x, a: right(x, -0.75), lambda x, a: right(x * 64 / 24, a)):
    monkeypatch.setattr(resizing, 'cubic', wrong)
    assert np.abs(np.asarray(resizing.resize(images, 24, 'pil_bicubic')) - want).max() > 1


@pytest.mark.parametrize('resizer', resizing.RESIZERS)
def test_even_images_stay_even(resizer):
  for old, new in ((7, 20), (20, 7), (9, 9), (1, 4)):
    rows = resizing.interpolation(resizer, old, new)
    assert rows.shape == (new, old) and rows.dtype == np.float32
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
