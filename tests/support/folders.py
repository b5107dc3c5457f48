"""Folders of flat pictures, and what is said of them as a source."""

import ml_collections
import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.core import errors

from pictures import encoded


def write(root, files):
  """Write files below a folder, and return it: an array is saved as PNG, bytes as they are."""
  for name, given in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(given if isinstance(given, bytes) else encoded(Image.fromarray(given)))
  return root


def shade(level):
  """A picture of one colour."""
  return np.full((9, 9, 3), level, np.uint8)


def config(path, **changes):
  """A config for the photos below a path, at 8 x 8 in colour, but for the changes."""
  plain = {
    'source': f'folder:{path}',
    'data_dir': '',
    'resolution': 8,
    'channels': 3,
    'frames': 0,
    'num_classes': None,
    'held_out': 0.25,
    'fraction': 1.0,
    'per_class': 0,
    'imbalance': 1.0,
    'crop': 'center',
    'flip': False,
  }
  return ml_collections.ConfigDict({**plain, **changes})


def shades(source):
  """{shade: label} of the training images."""
  images, labels = source.train()
  assert (images == images[:, :1, :1, :1]).all()
  return dict(zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))


def unseen(source):
  """The shades held out."""
  return sorted(source.held_out()[0][:, 0, 0, 0].tolist())


def everything(source):
  """All shades."""
  return sorted([*shades(source), *unseen(source)])


def said(source):
  """The findings as one text."""
  return '\n'.join(f'{level}: {sentence}' for level, sentence in source.findings)


def refusal(given):
  """The sentence with which data is refused."""
  with pytest.raises(errors.UserError) as error:
    data.load(given)
  assert '\n' not in str(error.value)
  return str(error.value)
