"""Images and clips as pictures: grids of images, strips of clips, and the pictures of a film."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from bigjax.core import errors
from bigjax.sampling import lettering

MIN_SIDE = 48  # pixels of an image in a grid
MOST_PIXELS = 2**29  # of a grid, or of all pictures of a film
FILM_SIDE = 240  # pixels of a film's longer side, at least
NAMED_SIDE = 128  # pixels that an image grows to, at most, so that the name above it is not cut
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
  side = side_of_film(rows, columns, (h, w)) if film else MIN_SIDE
  height, width = _sides(rows, columns, (h, w), side)
  if height * width * (times if film else 1) > MOST_PIXELS or (
    film and max(height, width) > MOST_FILM_SIDE
  ):
    what = f'clips of {times} frames' if frames else 'images'
    raise errors.UserError(
      f'{num:,} {what} of {w}x{h} are too many for one {"film" if film else "picture"}; ask for '
      'fewer with --num or --classes, or give an --out ending in .npz, or a folder.'
    )


def check_film(
  num: int, columns: int, shape: tuple[int, ...], times: int, names: Collection[str] = ()
) -> None:
  """Refuse a film of still images that is too large, before these are made.

  Args:
    num: of images in each picture.
    columns: of the grid.
    shape: of an image.
    times: pictures that are in memory together.
    names: that may stand above images.
  Raises:
    UserError: they have more than MOST_PIXELS, or a side has more than MOST_FILM_SIDE.
  """
  rows, (h, w) = -(-num // columns), shape[:2]
  side = side_of_film(rows, columns, (h, w), names)
  height, width = _sides(rows, columns, (h, w), side)
  height += rows * lettering.BAND if names else 0
  if height * width * times > MOST_PIXELS or max(height, width) > MOST_FILM_SIDE:
    frames = f'{times:,} frames of ' if times > 1 else ''
    raise errors.UserError(
      f'{frames}{num:,} images of {w}x{h} are too many for one film; ask for fewer '
      f'with {"--frames, " if frames else ""}--num or --classes.'
    )


def _sides(rows: int, columns: int, size: tuple[int, int], side: int) -> tuple[int, int]:
  """(height, width) of a grid of images of a size (height, width), enlarged to `side` or more."""
  enlarge, gap = -(-side // size[0]), _gap(size[0])
  return rows * (size[0] + gap) * enlarge, columns * (size[1] + gap) * enlarge


def _gap(h: int) -> int:
  """Pixels between images of that height, before they are enlarged."""
  return max(1, h // 16)


def grid(
  images: np.ndarray,
  columns: int,
  min_side: int = MIN_SIDE,
  gaps: tuple[int, int] | None = None,
  marked: Sequence[bool] = (),
  names: Sequence[str] = (),
) -> Image.Image:
  """Return uint8 images [n, H, W, C] as one picture, row by row, enlarged to `min_side`.

  Args:
    images: these, or clips [n, T, H, W, C], whose frames lie side by side.
    columns: images, or clips, in a row.
    min_side: pixels of an image's height, at least; images grow by whole factors.
    gaps: pixels between rows, and between columns, before that; None: what suits the images.
    marked: which images have a coloured frame, [n] or none.
    names: above the images, [n] or none.
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
  picture = picture.resize(
    (picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST
  )
  if not len(names):
    return picture
  gaps = (down * enlarge, across * enlarge)
  return lettering.named(picture, columns, gaps, h * enlarge, names)


def sheet(
  images: np.ndarray,
  columns: int,
  rows: Sequence[str] = (),
  heads: Sequence[str] = (),
  caption: str = '',
  plain: bool = False,
) -> Image.Image:
  """A grid of images [n, H, W, C], or a strip of each clip [n, T, H, W, C], with words beside it.

  Args:
    images: these.
    columns: of the grid, which is what names belong to.
    rows, heads, caption: see lettering.labelled.
    plain: see strips.
  """
  if images.ndim == 5:
    names = names_of(len(images), columns, rows, heads)
    return strips(images, names, caption, plain=plain)
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
  plain: bool = False,
) -> Image.Image:
  """Clips uint8 [n, T, H, W, C] as one picture: a row each, whose frames go from left to right.

  Rows lie farther from each other than frames do; frames are numbered where there is room.

  Args:
    clips: these.
    names: of the clips, [n] or none.
    caption: below.
    marked: bool [n, T], which frames have a coloured frame; None: none.
    plain: whether frames have no numbers, and nobody is told that they go to the right.
  """
  num, times, h = clips.shape[:3]
  across = max(1, h // 32)
  picture = grid(
    clips.reshape(-1, *clips.shape[2:]),
    times,
    gaps=(3 * across, across),
    marked=() if marked is None else marked.reshape(-1).tolist(),
  )
  if plain:
    return lettering.labelled(picture, num, times, names, caption=caption)
  heads = [f'{i}' for i in range(1, times + 1)]
  words = f'frames 1 to {times} from left to right'
  caption = f'{caption}, {words}' if caption else words
  return lettering.labelled(picture, num, times, names, heads, caption)


def side_of_film(
  rows: int, columns: int, size: tuple[int, int], names: Collection[str] = ()
) -> int:
  """Pixels of an image's height in a film of so many, at least.

  Args:
    rows, columns: of the film.
    size: (height, width) of an image.
    names: that may stand above images.
  """
  widest = max(map(lettering.width, names), default=0)
  named = min(NAMED_SIDE, math.ceil(widest * size[0] / size[1]))
  return max(MIN_SIDE, -(-FILM_SIDE // max(rows, columns)), named)


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
  side = side_of_film(num_rows, columns, clips.shape[2:4])
  at = lambda t: grid(clips[:, t], columns, side, marked=of(t))
  first = lettering.labelled(at(0), num_rows, columns, rows, heads, caption)
  left, top, *_ = map(int, first.info['grid'].split(','))
  pictures = [first]
  for t in range(1, clips.shape[1]):  # the words stay as they are
    pictures.append(first.copy())
    pictures[-1].paste(at(t), (left, top))
  return pictures


def moving(
  frames: Iterable[np.ndarray],
  columns: int,
  rows: Sequence[str] = (),
  heads: Sequence[str] = (),
  names: Sequence[Sequence[str]] = (),
  captions: Sequence[str] = (),
) -> Iterator[Image.Image]:
  """Yields the pictures of a film, the grid of images at each time, one by one.

  Args:
    frames: uint8 [n, H, W, C] of each time.
    columns: of the grid.
    rows, heads: see lettering.labelled.
    names: above the images, [times][n] or none.
    captions: below, [times] or none; all pictures are as wide as the widest of them needs.
  """
  widest = max(captions, key=lettering.width, default='')
  all_names, least, last = {name for some in names for name in some}, 0, None
  for t, images in enumerate(frames):
    above = names[t] if len(names) else ()
    caption = captions[t] if len(captions) else ''
    asked = id(images), caption, tuple(above)
    if last is None or last[0] != asked:
      num_rows = -(-len(images) // columns)
      side = side_of_film(num_rows, columns, images.shape[1:3], all_names)
      drawn = grid(images, columns, side, names=above)
      words = (num_rows, columns, rows, heads)
      least = least or lettering.labelled(drawn, *words, widest).width
      last = asked, lettering.labelled(drawn, *words, caption, least), images
    yield last[1]


def columns_of_film(num: int, together: int = 1) -> int:
  """Columns of a film of so many groups of images that stay side by side, about a square."""
  return together * max(1, round(math.sqrt(num / together)))
