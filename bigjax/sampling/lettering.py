"""Words in pictures of images: names of classes, seeds, settings; in a font with many letters."""

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIZE = 12  # pixels
GAP = 6
BAND = SIZE + GAP  # pixels that a line of names takes


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


def named(
  grid: Image.Image, num_columns: int, gaps: tuple[int, int], height: int, names: Sequence[str]
) -> Image.Image:
  """A grid of images that has a name above each, for which its rows lie BAND further apart.

  Args:
    grid: of images of one size, with gaps around and between them.
    num_columns: of it.
    gaps: pixels between rows, and between columns.
    height: of an image in the grid, in pixels.
    names: of the images in turn, row by row; cut where a column is too narrow.
  """
  down, across = gaps
  row, column = height + down, (grid.width - across) / num_columns
  num_rows = (grid.height - down) // row
  sheet = Image.new(grid.mode, (grid.width, grid.height + num_rows * BAND), 'white')
  pen = ImageDraw.Draw(sheet)
  for i in range(num_rows):
    sheet.paste(grid.crop((0, i * row, grid.width, (i + 1) * row + down)), (0, _band(i, row)))
  for i, name in enumerate(names):
    text = fitting(name, column)
    middle = across / 2 + (i % num_columns + 0.5) * column
    top = _band(i // num_columns, row) + down - SIZE - GAP / 2 - 2
    write(pen, middle - width(text) / 2, top, text, 'black')
  return sheet


def _band(i: int, row: int) -> int:
  """Where row i begins in a grid that has names above each row."""
  return i * (row + BAND) + BAND


def labelled(
  grid: Image.Image,
  num_rows: int,
  num_columns: int,
  rows: Sequence[str] = (),
  heads: Sequence[str] = (),
  caption: str = '',
  least: int = 0,
) -> Image.Image:
  """A grid of images with a name left of each row, above each column, and a line below.

  Args:
    grid: of images of one size.
    num_rows, num_columns: of it.
    rows: names, [num_rows] or none.
    heads: names, [num_columns] or none; they stand upright where one is wider than a column, and
      are left out where columns are narrower than a line is high.
    caption: below.
    least: pixels that the picture is wide, at least.
  Returns:
    the picture, whose info['grid'] says where the grid lies in it, and its rows:
    'left,top,right,bottom,rows'.
  """
  rows = [fitting(name, 16 * SIZE) for name in rows]
  column, row = grid.width / num_columns, grid.height / num_rows
  upright = any(fitting(head, column) != head for head in heads)
  heads = [fitting(head, 16 * SIZE) for head in heads] if not upright or column >= BAND else []
  left = max((int(width(name)) for name in rows), default=-2 * GAP) + 2 * GAP
  above = max((int(width(head)) for head in heads), default=0) if upright else SIZE
  top, bottom = (above + GAP if heads else 0), (SIZE + 2 * GAP if caption else 0)
  caption = fitting(caption, 2 * grid.width + left)
  wide = max(left + grid.width, int(width(caption)) + 2 * GAP, least)
  sheet = Image.new('RGB', (wide, top + grid.height + bottom), 'white')
  sheet.paste(grid, (left, top))
  sheet.info['grid'] = f'{left},{top},{left + grid.width},{top + grid.height},{num_rows}'
  pen = ImageDraw.Draw(sheet)
  for i, name in enumerate(rows):
    write(pen, left - GAP - width(name), top + (i + 0.5) * row - SIZE / 2 - 2, name, 'black')
  for j, name in enumerate(heads):
    middle = left + (j + 0.5) * column
    if upright:
      turned = _turned(name)
      sheet.paste(turned, (round(middle - turned.width / 2), top - GAP // 2 - turned.height))
    else:
      write(pen, middle - width(name) / 2, GAP / 2, name, 'black')
  write(pen, GAP, top + grid.height + GAP / 2, caption, '#595959')
  return sheet


def _turned(text: str) -> Image.Image:
  """A line of text that is read from below, black on white."""
  line = Image.new('L', (max(1, int(width(text))), SIZE + GAP // 2), 'white')
  write(ImageDraw.Draw(line), 0, 0, text, 'black')
  return line.transpose(Image.Transpose.ROTATE_90)
