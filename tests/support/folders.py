"""Folders of flat pictures."""

import numpy as np
from PIL import Image

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
