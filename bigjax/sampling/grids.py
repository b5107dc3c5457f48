"""Images and clips as pictures: grids of images, strips of clips, and the pictures of a film."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from bigjax.core import errors
from bigjax.sampling import lettering

MIN_SIDE = 48  # pixels of an image in a grid
MOST_PIXELS = 2**29  # of a grid, or of all pictures of a film
FILM_SIDE = 240  # pixels of a film's longer side, at least
MOST_FILM_SIDE = 16_000  # WebP ends at 16,383, and there are letters beside a grid
GIVEN = (230, 159, 0)  # the colour around frames that a generator was given


def check_grid(num: int, columns: int, shape: tuple[int, ...], film: bool = False) -> None:
  """Refuse what is no picture any more, before its images are made.

  Args:
    num: of images.
    columns: of the grid.
    shape: of an image, or of a clip, whose frames lie side by side.
    film: whether clips are drawn in a grid that moves; else a strip of frames is a row.
  Raises:
    UserError: it has more than MOST_PIXELS, or a film has a side of more than MOST_FILM_SIDE.
  """
  *frames, h, w, _ = shape
  (times,) = frames or [1]
  rows, columns = (num, times) if frames and not film else (-(-num // columns), columns)
  enlarge = -(-(_side(rows, columns) if film else MIN_SIDE) // h)
  sides = [count * (side + _gap(h)) * enlarge for count, side in ((rows, h), (columns, w))]
  pixels = rows * columns * h * w * enlarge**2 * (times if film else 1)
  if pixels > MOST_PIXELS or (film and max(sides) > MOST_FILM_SIDE):
    what, side = (f'clips of {times} frames', f'{w}x{h}') if frames else ('images', f'{w}x{h}')
    raise errors.UserError(
      f'{num:,} {what} of {side} are too many for one {"film" if film else "picture"}; ask for '
      'fewer with --num or --classes, or give an --out ending in .npz, or a folder.'
    )


def _gap(h: int) -> int:
  """Pixels between images of that height, before they are enlarged."""
  return max(1, h // 16)


def grid(
  images: np.ndarray,
  columns: int,
  min_side: int = MIN_SIDE,
  gaps: tuple[int, int] | None = None,
  marked: Sequence[bool] = (),
) -> Image.Image:
  """Return uint8 images [n, H, W, C] as one picture, row by row, enlarged to `min_side`.

  Args:
    images: these, or clips [n, T, H, W, C], whose frames lie side by side.
    columns: images, or clips, in a row.
    min_side: pixels of an image's height, at least; images grow by whole factors.
    gaps: pixels between rows, and between columns, before that; None: what suits the images.
    marked: which images have a coloured frame, [n] or none.
  """
  if images.ndim == 5:  # the frames of a clip side by side
    columns *= images.shape[1]
    images = images.reshape(-1, *images.shape[2:])
  if len(marked):
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
  num, h, w, c = images.shape
  rows = -(-num // columns)
  down, across = gaps or (_gap(h), _gap(h))
  sheet = np.full((rows * (h + down) + down, columns * (w + across) + across, c), 255, np.uint8)
  edge = min(down, across)
  for i, image in enumerate(images):
    top, left = down + i // columns * (h + down), across + i % columns * (w + across)
    if len(marked) and marked[i]:
      sheet[top - edge : top + h + edge, left - edge : left + w + edge] = GIVEN
    sheet[top : top + h, left : left + w] = image
  picture = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
  enlarge = -(-min_side // h)
  return picture.resize(
    (picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST
  )


def sheet(
  images: np.ndarray,
  columns: int,
  rows: Sequence[str] = (),
  heads: Sequence[str] = (),
  caption: str = '',
) -> Image.Image:
  """A grid of images [n, H, W, C], or a strip of each clip [n, T, H, W, C], with words beside it.

  Args:
    images: these.
    columns: of the grid, which is what names belong to.
    rows, heads, caption: see lettering.labelled.
  """
  if images.ndim == 5:
    return strips(images, names_of(len(images), columns, rows, heads), caption)
  num_rows = -(-len(images) // columns)
  return lettering.labelled(grid(images, columns), num_rows, columns, rows, heads, caption)


def names_of(num: int, columns: int, rows: Sequence[str], heads: Sequence[str]) -> list[str]:
  """A name of each image of a grid, of its row's and its column's; [] where there are none."""
  if not rows and not heads:
    return []
  of = lambda i: (rows[i // columns] if rows else '', heads[i % columns] if heads else '')
  return [', '.join(filter(None, of(i))) for i in range(num)]


def strips(
  clips: np.ndarray,
  names: Sequence[str] = (),
  caption: str = '',
  marked: np.ndarray | None = None,
) -> Image.Image:
  """Clips uint8 [n, T, H, W, C] as one picture: a row each, whose frames go from left to right.

  Rows lie farther from each other than frames do; frames are numbered where there is room.

  Args:
    clips: these.
    names: of the clips, [n] or none.
    caption: below.
    marked: bool [n, T], which frames have a coloured frame; None: none.
  """
  num, times, h = clips.shape[:3]
  across = max(1, h // 32)
  picture = grid(
    clips.reshape(-1, *clips.shape[2:]),
    times,
    gaps=(3 * across, across),
    marked=() if marked is None else marked.reshape(-1).tolist(),
  )
  heads = [f'{i}' for i in range(1, times + 1)]
  words = f'frames 1 to {times} from left to right'
  caption = f'{caption}, {words}' if caption else words
  return lettering.labelled(picture, num, times, names, heads, caption)


def _side(rows: int, columns: int) -> int:
  """Pixels of an image in a film of so many."""
  return max(MIN_SIDE, -(-FILM_SIDE // max(rows, columns)))


def film(
  clips: np.ndarray,
  columns: int,
  rows: Sequence[str] = (),
  heads: Sequence[str] = (),
  caption: str = '',
  marked: np.ndarray | None = None,
) -> list[Image.Image]:
  """Clips uint8 [n, T, H, W, C] as T pictures, each the grid of them at one time.

  Args:
    clips: these.
    columns: of the grid.
    rows, heads, caption: see lettering.labelled.
    marked: bool [n, T], which frames have a coloured frame; None: none.
  """
  num_rows = -(-len(clips) // columns)
  of = lambda t: () if marked is None else marked[:, t].tolist()
  side = _side(num_rows, columns)
  at = lambda t: grid(clips[:, t], columns, side, marked=of(t))
  first = lettering.labelled(at(0), num_rows, columns, rows, heads, caption)
  left, top, *_ = map(int, first.info['grid'].split(','))
  pictures = [first]
  for t in range(1, clips.shape[1]):  # the words stay as they are
    pictures.append(first.copy())
    pictures[-1].paste(at(t), (left, top))
  return pictures


def columns_of_film(num: int, together: int = 1) -> int:
  """Columns of a film of so many groups of images that stay side by side, about a square."""
  return together * max(1, round(math.sqrt(num / together)))
