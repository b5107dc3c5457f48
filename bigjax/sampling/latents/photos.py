"""Photos for a generator to find: files read as for training, by Pillow alone.

Upright, on white, made square as its training images were, averaged down or enlarged to its size.
Files that would not be decoded for training are not decoded here either.
"""

import io
import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from bigjax.core import errors
from bigjax.data.files import stores
from bigjax.data.reading import image_headers, listing, video

MOST = 10_000


class Photos(NamedTuple):
  """Files of images.

  Attributes:
    names: below the folder or in the zip that was given.
    paths: as `store` takes them.
    store: reads them, see `data.files.stores`.
  """

  names: list[str]
  paths: list[str]
  store: Any = stores.FILES


def find(path: str) -> Photos:
  """The image files that a path means: itself, or those below a folder or in a zip.

  Raises:
    UserError: there is none, or there are too many, or the zip cannot be read.
  """
  is_zip = stores.is_zip(path)
  if os.path.isfile(path) and not is_zip:
    return Photos([os.path.basename(path)], [path])
  if not os.path.isdir(path) and not is_zip:
    raise errors.UserError(f'--images={path}: there is no such file or folder.')
  found = stores.walk(path)
  if not found.images:
    raise errors.UserError(
      f'--images={path}: no image is there (looked for {" ".join(listing.SUFFIXES)}).'
    )
  if len(found.images) > MOST:
    raise errors.UserError(
      f'--images={path} are {len(found.images):,} images; give at most {MOST:,}.'
    )
  paths = [os.path.join(found.root, name) for name in found.images]
  return Photos(found.images, paths, found.store or stores.FILES)


def read(
  path: str, shape: tuple[int, ...], fit: str = 'crop', store: Any = stores.FILES
) -> np.ndarray:
  """A photo as uint8 [H, W, C] of a generator's shape.

  Args:
    path: of Photos.paths.
    shape: of the generator's images.
    fit: as data.fit.
    store: of the Photos.
  Raises:
    UserError: it cannot be read.
  """
  try:
    given = store.read(path)
    _, reason = image_headers.examine_bytes(given)
    if reason:
      raise ValueError(reason)
    with Image.open(io.BytesIO(given), formats=image_headers.FORMATS) as file:
      picture = ImageOps.exif_transpose(file).convert('RGBA')
  except Exception as error:  # Pillow has a dozen ways to say that a file is damaged
    raise errors.UserError(
      f'the image {path!r} cannot be read ({error}); leave it out, or give another.'
    ) from None
  white = Image.new('RGBA', picture.size, 'white')
  picture = Image.alpha_composite(white, picture).convert('RGB')
  return video.square(np.asarray(picture), shape[-3], shape[-1], fit=fit)
