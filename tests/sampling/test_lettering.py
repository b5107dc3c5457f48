"""Words in pictures of images."""

import numpy as np
import pytest
from PIL import Image

from bigjax.sampling import grids, lettering


def test_names_stand_beside_the_grid_which_stays_as_it_is():
  grid = Image.fromarray(np.random.RandomState(0).randint(0, 255, (120, 200), np.uint8))
  made = lettering.labelled(grid, 3, 2, ['a', 'b', 'c'], ['x', 'y'], 'a caption')
  pixels = np.asarray(made.convert('L'))
  top, left = lettering.SIZE + lettering.GAP, made.width - grid.width
  np.testing.assert_array_equal(pixels[top : top + 120, left:], np.asarray(grid))
  for strip in np.split(pixels[top : top + 120, :left], 3):  # a name beside each row
    assert strip.min() < 128
  assert pixels[:top, left : left + 100].min() < 128 and pixels[:top, left + 100 :].min() < 128
  assert pixels[top + 120 :].min() < 128
  assert lettering.labelled(grid, 3, 2).size == grid.size


def test_heads_that_do_not_fit_stand_upright():
  """At any size of the images, as long as a line fits in a column; and the grid stays as it is."""
  grid = Image.fromarray(np.random.RandomState(0).randint(0, 255, (50, 100), np.uint8))
  made = lettering.labelled(grid, 1, 2, heads=['a long name', 'b'])
  above = made.height - grid.height
  assert above >= lettering.width('a long name') and made.width == grid.width
  pixels = np.asarray(made.convert('L'))
  np.testing.assert_array_equal(pixels[above:], np.asarray(grid))
  long, short = np.split(pixels[:above] < 128, 2, axis=1)
  assert long[: above // 2].any() and short.any() and not short[: above // 2].any()
  narrow = grid.resize((30, 50))
  assert lettering.labelled(narrow, 1, 2, heads=['a long name', 'b']).size == narrow.size


def test_a_name_above_each_image_leaves_the_images_as_they_are():
  images = np.random.RandomState(0).randint(0, 255, (5, 8, 8, 1), np.uint8)
  plain, made = (
    grids.grid(images, 2, names=names) for names in ((), ['a', 'b', 'c', 'd', 'e' * 99])
  )
  enlarge, band = 6, lettering.BAND
  row = 9 * enlarge
  assert made.size == (plain.width, plain.height + 3 * band)
  plain, made = np.asarray(plain), np.asarray(made)
  for i in range(3):
    top = band + i * (row + band) + enlarge
    np.testing.assert_array_equal(made[top : top + 48], plain[i * row + enlarge :][:48])
    names = made[top - band : top - 1]
    assert names[:, :57].min() < 128 and (names[:, 57:].min() < 128) == (i < 2)


@pytest.mark.parametrize(
  'text', ['', 'x' * 500, 'two\nlines', 'Żółw Ψ Ж', '花', '\udcff', 'a\0b', '\t']
)
def test_any_name_fits_in_one_line(text):
  short = lettering.fitting(text, 60)
  assert '\n' not in short and lettering.width(short) <= 60
  assert short.endswith('…') == (len(text) > 20)
  lettering.labelled(Image.new('L', (60, 60)), 1, 1, [text], [text], text)


def test_letters_of_europe_are_in_the_font():
  pytest.importorskip('matplotlib')
  missing = lettering.font().getmask('\uffff')
  for letter in 'öŻΨЖ':
    assert bytes(lettering.font().getmask(letter)) != bytes(missing)
