"""Photos for a generator to find: files read as for training, by Pillow alone.

Upright, on white, made square as its training images were, averaged down or enlarged to its size.
Files that would not be decoded for training are not decoded here either.
"""

import os

import numpy as np
from PIL import Image, ImageOps

from bigjax.core import errors
from bigjax.data.reading import image_headers, listing, video

MOST = 10_000


def files(path: str) -> list[str]:
  """The image files that a path means: itself, or those below it.

  Raises:
    UserError: there is none, or there are too many.
  """
  if os.path.isfile(path):
    return [path]
  if not os.path.isdir(path):
    raise errors.UserError(f'--images={path}: there is no such file or folder.')
  found = [os.path.join(path, name) for name in listing.walk(path).images]
  if not found:
    raise errors.UserError(
      f'--images={path}: no image is there (looked for {" ".join(listing.SUFFIXES)}).'
    )
  if len(found) > MOST:
    raise errors.UserError(f'--images={path} are {len(found):,} images; give at most {MOST:,}.')
  return found


def read(path: str, shape: tuple[int, ...], fit: str = 'crop') -> np.ndarray:
  """A photo as uint8 [H, W, C] of a generator's shape; `fit` as data.fit.

  Raises:
    UserError: it cannot be read.
  """
  _, reason = image_headers.examine(path)
  try:
    if reason:
      raise ValueError(reason)
    with Image.open(path, formats=image_headers.FORMATS) as file:
      picture = ImageOps.exif_transpose(file).convert('RGBA')
  except Exception as error:  # Pillow has a dozen ways to say that a file is damaged
    raise errors.UserError(
      f'the image {path!r} cannot be read ({error}); leave it out, or give another.'
    ) from None
  white = Image.new('RGBA', picture.size, 'white')
  picture = Image.alpha_composite(white, picture).convert('RGB')
  return video.square(np.asarray(picture), shape[-3], shape[-1], fit=fit)
