"""Words in pictures of images: names of classes, seeds, settings; in a font with many letters."""

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIZE = 12  # pixels
GAP = 6


@functools.cache
def font() -> Any:
  """matplotlib's DejaVu Sans where that is installed, which has the letters of most of Europe.

  Else Pillow's own, which has those of the west of it.
  """
  try:
    found = importlib.util.find_spec('matplotlib')
  except ImportError:
    found = None
  folder = os.path.dirname(found.origin) if found and found.origin else ''
  path = os.path.join(folder, 'mpl-data', 'fonts', 'ttf', 'DejaVuSans.ttf')
  if not os.path.isfile(path):
    return ImageFont.load_default(SIZE)
  return ImageFont.truetype(path, SIZE, layout_engine=ImageFont.Layout.BASIC)


def width(text: str) -> float:
  """Pixels that a line of text takes."""
  return font().getlength(text)


def fitting(text: str, most: float) -> str:
  """A text in one line of at most so many pixels, with dots for what is cut off."""
  text = ''.join(c if c.isprintable() else '\ufffd' for c in ' '.join(text.split()))
  if width(text) <= most:
    return text
  while text and width(text + '…') > most:
    text = text[:-1]
  return text + '…' if text else ''


def write(pen: ImageDraw.ImageDraw, left: float, top: float, text: str, fill: str) -> None:
  """Write a line of text."""
  pen.text((left, top), text, fill=fill, font=font())


def labelled(
  grid: Image.Image,
  num_rows: int,
  num_columns: int,
  rows: Sequence[str] = (),
  heads: Sequence[str] = (),
  caption: str = '',
) -> Image.Image:
  """A grid of images with a name left of each row, above each column, and a line below.

  Args:
    grid: of images of one size.
    num_rows, num_columns: of it.
    rows: names, [num_rows] or none.
    heads: names, [num_columns] or none; none is written where the columns are too narrow.
    caption: below.
  Returns:
    the picture, whose info['grid'] says where the grid lies in it, and its rows:
    'left,top,right,bottom,rows'.
  """
  rows = [fitting(name, 16 * SIZE) for name in rows]
  column, row = grid.width / num_columns, grid.height / num_rows
  heads = heads if all(fitting(head, column) == head for head in heads) else ()
  left = max((int(width(name)) for name in rows), default=-2 * GAP) + 2 * GAP
  top, bottom = (SIZE + GAP if heads else 0), (SIZE + 2 * GAP if caption else 0)
  caption = fitting(caption, 2 * grid.width + left)
  wide = max(left + grid.width, int(width(caption)) + 2 * GAP)
  sheet = Image.new('RGB', (wide, top + grid.height + bottom), 'white')
  sheet.paste(grid, (left, top))
  sheet.info['grid'] = f'{left},{top},{left + grid.width},{top + grid.height},{num_rows}'
  pen = ImageDraw.Draw(sheet)
  for i, name in enumerate(rows):
    write(pen, left - GAP - width(name), top + (i + 0.5) * row - SIZE / 2 - 2, name, 'black')
  for j, name in enumerate(heads):
    write(pen, left + (j + 0.5) * column - width(name) / 2, GAP / 2, name, 'black')
  write(pen, GAP, top + grid.height + GAP / 2, caption, '#595959')
  return sheet
