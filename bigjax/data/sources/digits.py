"""scikit-learn's handwritten digits: 1,797 real 8x8 images inside a dependency, no download."""

import ml_collections
import numpy as np
from PIL import Image

from bigjax import data
from bigjax.core import errors

LICENSE = 'CC BY 4.0 (UCI ML, optical digits; Alpaydin & Kaynak)'
NAMES = tuple('0123456789')
SIDE = 8  # px, as they were scanned


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the digits, enlarged smoothly to `config.resolution`, with a fixed stratified split.

  Raises:
    UserError: scikit-learn is missing, or the config asks for what digits are not.
  """
  if argument:
    raise errors.UserError(f'data.source=digits takes no argument, got {argument!r}.')
  grey, labels = scanned(config)
  data.check_memory(len(grey), config)
  images = enlarged(grey, config.resolution)[..., None]
  held_out = data.held_out_mask(labels, config.held_out)
  return data.in_memory(
    (images[~held_out], labels[~held_out]),
    (images[held_out], labels[held_out]),
    class_names=NAMES,
    license=LICENSE,
  )


def scanned(config: ml_collections.ConfigDict) -> data.Labelled:
  """Return all digits, uint8 [1797, SIDE, SIDE], and their labels, int32 [1797].

  Raises:
    UserError: scikit-learn is missing, or the config asks for colour.
  """
  if config.channels != 1:
    raise errors.UserError(f'data.channels is {config.channels}, but digits are grey: use 1.')
  try:
    from sklearn.datasets import load_digits
  except ImportError:
    raise errors.AbsentData(
      "the digits are scikit-learn's, which is not installed; run: pip install 'bigjax[train]'"
    ) from None
  raw, labels = load_digits(return_X_y=True)
  grey = np.rint(raw.reshape(-1, SIDE, SIDE) * (255 / 16)).astype(np.uint8)  # 17 levels
  return grey, labels.astype(np.int32)


def enlarged(grey: np.ndarray, side: int) -> np.ndarray:
  """Return uint8 images [n, h, w] resized smoothly to [n, side, side]."""
  resize = lambda one: Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)
  return np.stack([np.asarray(resize(one)) for one in grey])
