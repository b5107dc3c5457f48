"""Strips and films of clips: read back by Pillow and by PyAV, pixel by pixel."""

import types

import numpy as np
import pytest
from PIL import Image, ImageSequence

from bigjax.core import errors
from bigjax.sampling import clip_files, grids, image_files, pictures

RATE = 12.5
has_av = pytest.mark.skipif(
  not errors.is_installed('av'), reason="needs PyAV: pip install 'bigjax[video]'"
)


def clips_of(num=3, times=4, side=8, channels=1, colours=256):
  given = np.random.RandomState(0).randint(0, colours, (num, times, side, side, channels))
  return given.astype(np.uint8)


def read(path):
  """(Pictures uint8 [T, H, W, 3], milliseconds of each, how often all are shown: 0 for ever)."""
  pictures, times = [], []
  with Image.open(path) as film:
    for picture in ImageSequence.Iterator(film):
      picture.load()
      pictures.append(np.asarray(picture.convert('RGB')))
      times.append(picture.info['duration'])
    return np.stack(pictures), times, film.info['loop']


def cells(pixels, times, side, gaps, enlarge):
  """The images of a grid without letters, [n, side, side, C], in order."""
  down, across = ((gap + side) * enlarge for gap in gaps)
  small = pixels[gaps[0] * enlarge :, gaps[1] * enlarge :]
  rows = pixels.shape[0] // down
  take = lambda i, j: small[i * down :, j * across :][: side * enlarge, : side * enlarge]
  return np.stack([take(i, j)[::enlarge, ::enlarge] for i in range(rows) for j in range(times)])


# --- pictures


@pytest.mark.parametrize('side', [8, 64])
def test_a_strip_has_a_clips_frames_in_a_row(side):
  clips, across = clips_of(side=side), side // 32 or 1
  picture = grids.strips(clips, ['a', 'b', 'c'], 'words')
  left, top, right, bottom, rows = map(int, picture.info['grid'].split(','))
  assert rows == 3
  pixels = np.asarray(picture)[top:bottom, left:right]
  found = cells(pixels, 4, side, (3 * across, across), max(1, 48 // side))
  np.testing.assert_array_equal(found[..., :1].reshape(clips.shape), clips)


def test_given_frames_have_a_coloured_frame():
  clips = clips_of(2)
  marked = np.broadcast_to(np.arange(4) < 2, (2, 4))
  picture = grids.strips(clips, marked=marked)
  left, top, right, bottom, _ = map(int, picture.info['grid'].split(','))
  pixels = np.asarray(picture)[top:bottom, left:right][::6, ::6]
  coloured = (pixels == grids.GIVEN).all(-1)
  expected = np.zeros_like(coloured)
  for row in (2, 13):
    expected[row : row + 10, :19] = True
    expected[row + 1 : row + 9, [*range(1, 9), *range(10, 18)]] = False
  np.testing.assert_array_equal(coloured, expected)


def test_names_of_strips_are_those_of_the_grid():
  assert grids.names_of(3, 2, ['a', 'b'], ['seed 0', 'seed 1']) == [
    'a, seed 0', 'a, seed 1', 'b, seed 0',
  ]  # fmt: skip
  assert grids.names_of(3, 2, ['a', ''], []) == ['a', 'a', ''] and not grids.names_of(3, 2, [], [])


def test_a_film_is_the_grid_at_each_time():
  clips = clips_of()
  film = grids.film(clips, 2, ['a', 'b'], caption='words')
  enlarge = 15  # the longer side, of two images, has 240 pixels
  for t, picture in enumerate(film):
    left, top, right, bottom, rows = map(int, film[0].info['grid'].split(','))
    assert rows == 2 and picture.size == film[0].size
    assert max(right - left, bottom - top) >= grids.FILM_SIDE
    found = cells(np.asarray(picture)[top:bottom, left:right], 2, 8, (1, 1), enlarge)
    np.testing.assert_array_equal(found[:3, ..., :1], clips[:, t])
    beside = np.asarray(picture)[:, :left]
    np.testing.assert_array_equal(beside, np.asarray(film[0])[:, :left])
    assert (beside < 255).any()  # letters


@pytest.mark.parametrize(
  ('num', 'shape', 'film', 'words'),
  [
    (2100, (16, 128, 128, 3), False, '2,100 clips of 16 frames of 128x128 .* one picture'),
    (2100, (16, 128, 128, 3), True, 'one film'),
    (400, (1, 64, 64, 3), True, 'one film'),  # 400 rows of 68 pixels: WebP has no such pictures
    (40_000, (128, 128, 3), False, '40,000 images of 128x128 are too many for one picture'),
  ],
)
def test_what_is_no_picture_any_more(num, shape, film, words):
  with pytest.raises(errors.UserError, match=words):
    grids.check_grid(num, 1, shape, film)
  grids.check_grid(num // 20, 1, shape, film)


def test_only_pictures_and_films_are_as_large_as_a_picture_may_be():
  """Whatever is asked for: an .npz or a folder holds more."""
  loaded = types.SimpleNamespace(shape=(16, 128, 128, 3))
  for out in ('x.png', 'x.PNG', 'x.webp', 'x.apng', 'x.gif', 'x.mp4'):
    with pytest.raises(errors.UserError, match='too many for one'):
      pictures.check_grid(2100, 1, loaded, out)
  for out in ('x.npz', 'folder', 'png'):
    pictures.check_grid(2100, 1, loaded, out)


# --- files


@pytest.mark.parametrize('ending', ['webp', 'apng', 'gif', 'GIF'])
def test_grey_films_are_exact(tmp_path, ending):
  film = grids.film(clips_of(), 2, caption='words')
  path = str(tmp_path / f'x.{ending}')
  clip_files.save(film, RATE, path)
  pictures, times, loop = read(path)
  np.testing.assert_array_equal(pictures, np.stack(film))
  assert times == [80] * 4 and loop == 0 and [p.name for p in tmp_path.iterdir()] == [f'x.{ending}']


def test_colours_of_a_webp_are_exact_and_of_a_gif_where_they_are_few(tmp_path):
  for channels, colours, endings in ((3, 256, ['webp', 'apng']), (3, 6, ['webp', 'gif'])):
    clips = clips_of(1, 3, 32, channels, colours) * (255 // (colours - 1))
    film = [Image.fromarray(frame) for frame in clips[0]]
    for ending in endings:
      path = str(tmp_path / f'x.{ending}')
      clip_files.save(film, RATE, path)
      np.testing.assert_array_equal(read(path)[0], clips[0])


@pytest.mark.parametrize('looked_at', [2**22, 2000])
def test_many_colours_of_a_gif_are_near_and_stand_still(monkeypatch, looked_at):
  """One palette, no dithering: equal pixels of two pictures are equal in the file.

  Of a large film, the palette is of some of its pixels.
  """
  monkeypatch.setattr(clip_files, 'LOOKED_AT', looked_at)
  ramp = np.arange(64, dtype=np.uint8) * 4
  first = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128), axis=-1).astype(np.uint8)
  second = first.copy()
  second[:, 32:] = second[:, 32:, ::-1]
  found = clip_files.indexed([Image.fromarray(first), Image.fromarray(second)])
  shown = [np.asarray(picture.convert('RGB')).astype(int) for picture in found]
  np.testing.assert_array_equal(shown[0][:, :32], shown[1][:, :32])
  assert np.abs(shown[0] - first).mean() < 8


@pytest.mark.parametrize(('num', 'rate', 'unit'), [(48, 30, 1000), (25, 24, 100), (3, 8, 100)])
def test_times_add_up_to_what_the_film_takes(num, rate, unit):
  times = clip_files.durations(num, rate, unit)
  assert len(times) == num and sum(times) == round(num * unit / rate)
  assert max(times) - min(times) <= 1


def test_a_card_may_say_how_many_frames_there_are_per_second():
  assert clip_files.frame_rate({}) == clip_files.frame_rate({'frame_rate': 0.0}) == 8
  assert clip_files.frame_rate({'frame_rate': 25}) == 25


@has_av
@pytest.mark.parametrize('channels', [1, 3])
def test_an_mp4_shows_the_film(tmp_path, channels):
  """Every picture, at the rate, near the original; an odd side is one pixel longer."""
  import av

  clips = clips_of(2, 5, channels=channels)
  film = [picture.crop((0, 0, 149, 283)) for picture in grids.film(clips, 1)]
  path = str(tmp_path / "it's: a film.mp4")
  clip_files.save(film, RATE, path)
  assert [one.name for one in tmp_path.iterdir()] == ["it's: a film.mp4"]
  with av.open(path) as film_file:
    (video,) = film_file.streams.video
    about = video.codec_context
    assert (about.name, about.pix_fmt, about.width, about.height) == ('h264', 'yuv420p', 150, 284)
    assert (about.color_range, about.colorspace) == (1, 1)  # of television, BT.709
    assert (about.color_primaries, about.color_trc) == (1, 1) and video.average_rate == RATE
    found = np.stack([frame.to_ndarray(format='rgb24') for frame in film_file.decode(video)])
  padding = ((0, 0), (0, 1), (0, 1), (0, 0))
  wanted = np.pad(np.stack(film), padding, mode='edge').astype(int)
  assert found.shape == wanted.shape
  distances = np.abs(found.astype(int) - wanted).mean((1, 2, 3))
  assert distances.max() < (2 if channels == 1 else 8)  # colours are of every other pixel
  assert (np.abs(found[1:].astype(int) - wanted[:-1]).mean((1, 2, 3)) > 15).all()  # in their order


def test_without_av_there_is_no_mp4(bigjax, monkeypatch):
  """Said before the generator is looked for."""
  monkeypatch.setattr(errors, 'is_installed', lambda module: module != 'av')
  status, _, err = bigjax('sample', '--params', 'absent.npz', '--out', 'x.mp4')
  assert status == 2 and err.count('\n') == 1
  assert '--out=x.mp4 needs av' in err and "pip install 'bigjax[video]'" in err


def test_a_folder_of_other_films_is_left_alone(tmp_path):
  clips = clips_of(2)
  wanted = image_files.Wanted(2, lambda start: clips[start:], None, 2, rate=RATE)
  (tmp_path / 'other.webp').write_bytes(b'')
  with pytest.raises(errors.UserError, match='holds pictures that are not samples of ours'):
    image_files.write(wanted, 64, str(tmp_path), 'bigjax', {})
  folder = str(tmp_path / 'new')
  assert image_files.write(wanted, 64, folder, 'bigjax', {}) == f'{folder}/: 2 films, .webp'
  pictures, times, _ = read(f'{folder}/000001.webp')
  np.testing.assert_array_equal(pictures[..., :1], clips[1])  # as large as they are
  assert times == [80] * 4
