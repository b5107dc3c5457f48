"""The page of bigjax view in a real browser: it loads, its sliders change what is seen."""

import io

import numpy as np
import pytest
from PIL import Image

from bigjax.sampling.page import report
from bigjax.sampling.page.explorer import Settings

import stub_pages
from stub_pages import colour

pytest_plugins = ['chromium']

PIXEL = """(() => {
  const image = document.getElementById('image'), canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  return [canvas.width, canvas.height, ...pen.getImageData(4, 4, 1, 1).data].join();
})()"""


FRAMES = 'new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))'


def shows(page, **settings):
  """Wait until the image is that of these settings, nothing more is wanted, and it is drawn."""
  wanted = f"'8,8,{','.join(map(str, colour(Settings(**settings))))},255'"
  page.until(f'{PIXEL} === {wanted} && !busy && !dirty.size')
  page.value(FRAMES)


def seen(page):
  """The pixels of the image as they are on the screen."""
  box = page.value(
    '(() => {const b = document.getElementById("image").getBoundingClientRect();'
    ' return [b.left, b.top, b.right, b.bottom]})()'
  )
  return np.asarray(page.screenshot().crop([round(x) for x in box]))


def colours(pixels):
  return {tuple(one) for one in pixels.reshape(-1, 3).tolist()}


@pytest.fixture(scope='module')
def shelf(tmp_path_factory):
  return stub_pages.Shelf()


@pytest.fixture(scope='module')
def url(shelf):
  with stub_pages.served(shelf) as port:
    yield f'http://localhost:{port}/'


def test_a_slider_changes_the_picture(chromium, url):
  page = chromium()
  page.open(url)
  shows(page, seeds=(0, 1))
  found = seen(page)
  # Enlarged by a whole factor, and not smoothed: its white corner has sharp edges.
  white = (found == 255).all(-1)
  image = (found == colour(Settings())).all(-1)
  factor = int(white.sum() ** 0.5)
  assert factor > 20 and white.sum() == factor**2 and image.sum() == 63 * white.sum()
  page.press('#seed-slider', 'ArrowRight', 39)
  shows(page, seeds=(1, 1))
  assert tuple(colour(Settings(seeds=(1, 1)))) in colours(seen(page))
  assert tuple(colour(Settings())) not in colours(seen(page))
  assert page.value('document.getElementById("seed").value') == '1'
  page.press('#class-slider', 'ArrowRight', 39)
  shows(page, classes=(1, 1), seeds=(1, 1))
  assert page.value('document.getElementById("class").selectedOptions[0].text') == '<b>dog</b>'
  page.press('#way', 'End', 35)
  shows(page, classes=(1, 1), seeds=(1, 1), way=1.0)
  page.value('document.getElementById("untruncated").click()')
  shows(page, classes=(1, 1), seeds=(1, 1), way=1.0, truncation='1')
  assert page.complaints == []


def test_what_is_saved_is_the_picture_by_its_name(chromium, url):
  page = chromium()
  page.open(f'{url}#seed=7&class=2&class2=2&way=0')
  shows(page, seeds=(7, 1), classes=(2, 2))
  assert page.value('document.getElementById("save").download') == 'a-stub_seed7_class2.png'
  size = page.value('fetch(document.getElementById("save").href).catch(() => null) && 1')
  assert size == 1 and page.value('document.getElementById("save").href').startswith('blob:')
  assert page.value('document.getElementById("command").textContent') == 'bigjax sample --seeds 7'
  assert 'between 1 and 2' in page.value('document.getElementById("status").textContent')


def test_one_image_is_in_flight_and_those_between_are_skipped(chromium, url, shelf):
  page = chromium()
  page.open(url)
  shows(page, seeds=(0, 1))
  asked = shelf.at().asked
  asked.clear()
  page.value("""(() => {
    const slider = document.getElementById('seed-slider');
    for (let i = 1; i <= 200; i++) {
      slider.value = i;
      slider.dispatchEvent(new Event('input'));
    }
  })()""")
  shows(page, seeds=(200, 1))
  assert asked[-1].seeds[0] == 200 and len(asked) <= 4  # the first, the last, a small picture of it


def test_it_plays_the_way_there_and_back(chromium, url, shelf):
  page = chromium()
  page.open(url)
  shows(page, seeds=(0, 1))
  shelf.at().asked.clear()
  page.value('document.getElementById("play").click()')
  page.until('Number(document.getElementById("way").value) > 0.2')
  page.value('document.getElementById("play").click()')
  way = page.value('document.getElementById("way").value')
  page.until('!busy && !dirty.size')
  ways = [one.way for one in shelf.at().asked]
  assert len(ways) > 2 and ways == sorted(ways) and ways[-1] == float(way)
  assert page.value('document.getElementById("play").textContent') == 'Play'


def test_a_mistake_is_said_and_the_page_lives_on(chromium, url):
  page = chromium()
  page.open(url)
  shows(page, seeds=(0, 1))
  write = lambda word: page.value(
    f"""(() => {{const input = document.querySelector('[name=steps]'); input.value = '{word}';
    input.dispatchEvent(new Event('change'))}})()"""
  )
  write('many')
  page.until("document.getElementById('status').textContent === 'steps=many is no number.'")
  write('25')
  page.press('#seed-slider', 'ArrowRight', 39)
  shows(page, seeds=(1, 1))


def brightness(picture):
  """Of pixels on the average, 0 to 1."""
  return float(np.asarray(picture).mean() / 255)


def test_it_fits_narrow_windows_and_dark_rooms(chromium, url):
  page = chromium()
  page.scheme('light')
  page.open(url)
  shows(page, seeds=(0, 1))
  light = brightness(page.screenshot())
  page.scheme('dark')
  assert light > 0.6 and brightness(page.screenshot()) < 0.35
  for width in (1200, 700, 360):
    page.resize(width, 800)
    assert page.value('document.documentElement.scrollWidth') <= width
  width = 'document.getElementById("image").getBoundingClientRect().width'
  page.until(f'{width} <= 360')
  image = page.value(width)
  assert image > 64 and image % 8 == 0


def test_a_report_needs_no_server(chromium, tmp_path):
  """Its pictures are seen with nothing else in the folder, and it asks for nothing."""
  body = io.BytesIO()
  Image.new('RGB', (40, 30), (250, 3, 7)).save(body, 'png')
  parts = [report.panel('Samples', report.picture(body.getvalue(), 'image/png', 'a <grid>'))]
  report.write(str(tmp_path / 'report.html'), 'a & b', '<i>', parts)
  page = chromium()
  page.open(f'file://{tmp_path}/report.html')
  page.until('document.images.length === 1 && document.images[0].naturalWidth === 40')
  assert (250, 3, 7) in colours(np.asarray(page.screenshot()))
  assert page.value('document.querySelector("h1").textContent') == 'a & b'
  assert page.value('performance.getEntriesByType("resource").length') == 0
  assert page.complaints == []
