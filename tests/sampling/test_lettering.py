"""Words in pictures of images."""

import numpy as np
import pytest
from PIL import Image

from bigjax.sampling import lettering


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


def test_heads_that_do_not_fit_are_left_out():
  grid = Image.new('RGB', (100, 50))
  assert lettering.labelled(grid, 1, 2, heads=['a long name', 'b']).size == grid.size


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
