"""Films of still images, read back: exact frames on closed loops, there and back, what is refused.

The generator is linear in its styles, its classes are added to these; it compiles in no time.
"""

import dataclasses
import weakref

import jax.numpy as jnp
import linear_styles
import numpy as np
import pytest
from PIL import Image, ImageSequence

from bigjax.algorithms.base import truncation
from bigjax.core import errors
from bigjax.sampling import clip_files, grids, interpolation, lettering, loaded
from bigjax.sampling.films import loops, movies, sweeps
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import Sampler

SIDE, NAMES = linear_styles.SIDE, ['ash', 'birch', 'cedar']
has_av = pytest.mark.skipif(
  not errors.is_installed('av'), reason="needs PyAV: pip install 'bigjax[video]'"
)


@dataclasses.dataclass(frozen=True)
class OfClasses(linear_styles.LinearStyles):
  """w = M z + E y, truncated towards 0; in colour."""

  shape = (SIDE, SIDE, 3)
  num_classes = len(NAMES)
  options = truncation.OPTIONS

  def spec(self, sampling, given=None):
    del sampling
    return truncation.StyleSpec(**truncation.fields(given, self.num_layers))

  def map(self, gen, z, y):
    classes = gen['classes'][y] if y.ndim == 1 else y @ gen['classes']
    return super().map(gen, z, y) + classes

  def layers(self, gen, w, spec):
    return spec.psi * super().layers(gen, w, spec)

  def synthesize(self, gen, ws, noise, spec):
    grey = super().synthesize(gen, ws, noise, spec)
    return jnp.concatenate([grey, grey[:, ::-1], -grey], axis=-1)


def of_classes(strength=0.0):
  plain = linear_styles.loaded(strength, scale=0.05)
  classes = np.random.RandomState(1).randn(len(NAMES), linear_styles.W).astype(np.float32)
  gen = {**plain.stored, 'classes': classes}
  card = {'algorithm': 'linear', 'class_names': NAMES, 'sampling': {}, 'step': 7}
  return Loaded(Sampler(OfClasses(), plain.sampler.mesh), gen, card)


@pytest.fixture(scope='module')
def gen():
  return of_classes()


@pytest.fixture
def sample(bigjax, monkeypatch, tmp_path):
  """`bigjax sample --out=NAME WORDS` of that generator -> (status, said, error, the file)."""

  def ask(words, name='x.webp', of=None):
    monkeypatch.setattr(loaded, 'of_options', lambda args: of or of_classes())
    out = tmp_path / name
    return *bigjax('sample', '--params=x.npz', f'--out={out}', *words.split()), out

  return ask


def shown(path):
  """(Pictures uint8 [n, H, W, 3], milliseconds of each); a picture that stays is one."""
  found, times = [], []
  with Image.open(path) as film:
    for picture in ImageSequence.Iterator(film):
      picture.load()
      found.append(np.asarray(picture.convert('RGB')))
      times.append(picture.info['duration'])
  return np.stack(found), times


def images_of(pictures, columns, num, size=SIDE):
  """The images in plain pictures, uint8 [pictures, num, SIDE, SIDE, 3]."""
  gap, rows = max(1, size // 16), -(-num // columns)
  enlarge = pictures.shape[2] // (columns * (size + gap) + gap)
  assert pictures.shape[1:3] == tuple((n * (size + gap) + gap) * enlarge for n in (rows, columns))
  np.testing.assert_array_equal(  # every pixel as often as every other
    pictures, pictures[:, ::enlarge, ::enlarge].repeat(enlarge, 1).repeat(enlarge, 2)
  )
  small = pictures[:, ::enlarge, ::enlarge]
  places = [
    (gap + i // columns * (size + gap), gap + i % columns * (size + gap)) for i in range(num)
  ]
  return np.stack([small[:, y : y + size, x : x + size] for y, x in places], axis=1)


def stations_of(num, keys):
  """[(key point, share of the way to the next)] of `num` pictures, in words of the manual."""
  counts = [num // keys + (i < num % keys) for i in range(keys)]
  return [(k, np.float32(i) / np.float32(n)) for k, n in enumerate(counts) for i in range(n)]


# --- loops


@pytest.mark.parametrize('ending', ['webp', 'apng'])
def test_classes_on_a_loop_are_what_a_call_makes(sample, gen, ending):
  """Every picture, bit for bit, by the call that a user would write; classes go round."""
  words = '--interpolate=class --num=6 --frames=11 --seed=3 --plain --batch=6'
  status, said, err, path = sample(words, f'x.{ending}')
  assert status == 0, err
  assert said == f'{path}: 11 frames, 24 per second, 0.458 s, 6 images side by side, 2 in a row\n'
  found, times = shown(path)
  assert len(found) == 11 and sum(times) == pytest.approx(11 / 24 * 1000, abs=1)
  ends, places = np.eye(3, dtype=np.float32), np.array([0, 0, 1, 1, 2, 2])
  for images, (k, share) in zip(images_of(found, 2, 6), stations_of(11, 3), strict=True):
    weights = (1 - share) * ends[(places + k) % 3] + share * ends[(places + k + 1) % 3]
    np.testing.assert_array_equal(images, gen(labels=weights, seed=3, batch=6))


@pytest.mark.parametrize('kind', ['z', 'both'])
def test_a_loop_goes_from_sample_to_sample_and_back(sample, gen, kind):
  """Four samples of each image, of which the first are those of a call with that seed."""
  status, _, err, path = sample(f'--interpolate={kind} --frames=9 --seed=3 --plain --batch=6')
  assert status == 0, err
  images = images_of(shown(path)[0], 2, 6)
  z = gen.sampler.latents(3, 24, gen.spec()).reshape(4, 6, -1)
  places, turn, eye = np.array([0, 0, 1, 1, 2, 2]), kind == 'both', np.eye(3, dtype=np.float32)
  np.testing.assert_array_equal(
    images[0], gen(labels=places if kind == 'z' else eye[places], seed=3)
  )
  for found, (k, share) in zip(images, stations_of(9, 4), strict=True):
    a, b, way = z[k], z[(k + 1) % 4], np.array([share])
    points = np.concatenate([interpolation.slerp(*ends, way) for ends in zip(a, b, strict=True)])
    y = places.astype(np.int32)
    if turn:
      first, then = (eye[(places + step % 4) % 3] for step in (k, k + 1))
      y = (1 - share) * first + share * then
    np.testing.assert_array_equal(found, gen.images(points, y, gen.spec(), 6))
  steps = np.abs(images.astype(int) - np.roll(images, -1, 0)).mean((1, 2, 3, 4))
  assert 0 < steps[-1] < 1.5 * steps[:-1].max()  # the last one leads to the first


def test_seeds_are_visited_in_turn(sample, gen):
  """Each is a picture of its own, the very sample of a call with that seed, of every class."""
  status, _, err, path = sample('--seeds=5,1-2 --frames=7 --plain')
  assert status == 0, err
  images = images_of(shown(path)[0], 3, 3)
  for at, seed in ((0, 5), (3, 1), (5, 2)):
    for label, image in enumerate(images[at]):
      want = gen(labels=[label], seed=seed)[0].astype(int)
      np.testing.assert_allclose(image, want, atol=1)  # of another batch


def test_a_loop_in_w_is_straight_and_keeps_its_noise(sample):
  noisy = of_classes(strength=0.1)
  status, _, err, path = sample(
    '--seeds=5,1,2 --classes=1 --frames=6 --interpolate=w --plain --batch=4', of=noisy
  )
  assert status == 0, err
  images = images_of(shown(path)[0], 1, 1)[:, 0].astype(int)
  z, y = noisy.sampler.first_of_each([5, 1, 2], noisy.spec()), np.ones(3, np.int32)
  w = noisy.sampler.mapped(noisy.gen, z, y)
  w = np.stack([w, (w + np.roll(w, -1, 0)) / 2], axis=1).reshape(6, -1)
  noise_of = np.repeat(z[:1], 6, 0)  # the first one's, all the way
  want = noisy.sampler.synthesized(noisy.gen, w, noise_of, noisy.spec())
  np.testing.assert_allclose(images, want, atol=1)


# --- sweeps


def test_a_sweep_goes_there_and_back(sample, gen):
  """Each setting stays for half a second; its picture is what a call with it makes."""
  status, _, err, path = sample('--sweep=0.1,0.5,1 --num=6 --seed=3 --plain --batch=6')
  assert status == 0, err
  found, times = shown(path)
  assert times == [500] * 4
  for images, psi in zip(images_of(found, 2, 6), (0.1, 0.5, 1, 0.5), strict=True):
    want = gen(labels=[0, 0, 1, 1, 2, 2], truncation=psi, seed=3)
    np.testing.assert_array_equal(images, want)


def test_a_sweep_of_seeds_has_a_column_for_each(sample, gen):
  status, said, err, path = sample('--sweep=0.1,1 --seeds=4,9 --frames=2 --fps=2 --plain')
  assert status == 0 and '2 frames, 2 per second, 1 s, 6 images' in said, err
  found, times = shown(path)
  assert times == [500, 500]
  for images, psi in zip(images_of(found, 2, 6), (0.1, 1), strict=True):
    want = [gen([y], truncation=psi, seed=seed)[0] for y in range(3) for seed in (4, 9)]
    np.testing.assert_allclose(images, np.stack(want).astype(int), atol=1)


# --- words


def test_names_and_captions_follow_the_film(sample, gen):
  """Pictures stay of one size; the images are those of the plain film."""
  ask = '--seeds=5,1002 --frames=4'
  plain = images_of(shown(sample(f'{ask} --plain')[-1])[0], 3, 3)
  found = shown(sample(ask)[-1])[0]
  captions = [
    f'step 7, untruncated, seed {words}' for words in ('5', '5 → 1002', '1002', '1002 → 5')
  ]
  assert found.shape[2] >= lettering.width(captions[1]) > lettering.width(captions[0])
  for picture, images, caption in zip(found, plain, captions, strict=True):
    grid = grids.grid(images, 3, 80, names=NAMES)
    want = lettering.labelled(grid, 1, 3, (), (), caption, picture.shape[1])
    np.testing.assert_array_equal(picture, want)


def test_rows_and_changing_names(gen, tmp_path, monkeypatch):
  """What stands where: a row per class, or what each image is on its way to."""

  def words(*given):
    monkeypatch.setattr(clip_files, 'save', lambda pictures, *args: None)
    args = movies_args(*given, f'--out={tmp_path}/x.webp')
    movie = (sweeps.sweep if args.sweep else loops.loop)(gen, args, np.arange(3, dtype=np.int32))
    return movie, movie.layout

  movie, layout = words('--interpolate=z', '--num=6')
  assert layout.rows == NAMES and layout.columns == 2 and not len(movie.names)
  movie, layout = words('--interpolate=class', '--num=3', '--frames=6')
  assert movie.names[0] == NAMES and not layout.rows
  assert movie.names[3] == ['birch → cedar', 'cedar → ash', 'ash → birch']
  movie, layout = words('--sweep=0,1', '--seeds=3-4')
  assert layout.heads == ['seed 3', 'seed 4'] and layout.rows == NAMES
  assert movie.captions[0] == 'step 7, 0 (psi)' and movie.captions[-1] == 'step 7, untruncated'
  movie, layout = words('--sweep=0,1', '--num=7')  # uneven: about a square, each with its class
  assert layout.names == ['ash'] * 3 + ['birch'] * 2 + ['cedar'] * 2 and layout.columns == 4


def test_of_many_classes_some_are_shown(sample, monkeypatch):
  """Unless they are named, or so many images are asked for."""
  monkeypatch.setattr(movies, 'CLASSES', 2)
  ask = '--seeds=1,2 --frames=2'
  assert sample(ask)[1].endswith('2 images side by side, 2 in a row, 2 of 3 classes\n')
  assert sample(f'{ask} --classes=0,1,2')[1].endswith('3 images side by side, 3 in a row\n')
  ask = '--interpolate=z --frames=4 --num=3'
  assert sample(ask)[1].endswith('3 images side by side, 3 in a row\n')


def movies_args(*words):
  from bigjax import sample

  return sample.parse(['--params=x.npz', *words])


# --- files


def test_pictures_are_taken_one_at_a_time(tmp_path):
  """By the encoders that need no more."""
  taken = []

  def pictures():
    for i in range(12):
      assert sum(one() is not None for one in taken) < 3
      one = Image.fromarray(np.full((16, 16), 20 * i, np.uint8))
      taken.append(weakref.ref(one))
      yield one
      del one

  for ending in ('webp', *(['mp4'] if errors.is_installed('av') else [])):
    clip_files.save(pictures(), 10, str(tmp_path / f'x.{ending}'), 12)
  np.testing.assert_array_equal(shown(tmp_path / 'x.webp')[0][:, 0, 0, 0], 20 * np.arange(12))


@has_av
def test_a_loop_as_mp4(sample):
  import av

  status, _, err, path = sample('--interpolate=z --frames=8 --fps=12', 'x.mp4')
  assert status == 0, err
  with av.open(str(path)) as film:
    (video,) = film.streams.video
    assert video.average_rate == 12 and len(list(film.decode(video))) == 8


# --- refusals


@pytest.mark.parametrize(
  ('words', 'name', 'said'),
  [
    ('', 'x.webp', 'say what moves with --interpolate, --seeds or --sweep'),
    ('--seeds=3', 'x.gif', '--seeds=3 is one seed, and nothing moves'),
    ('--sweep=0.5', 'x.apng', '--sweep=0.5 is one setting, and nothing moves'),
    ('--interpolate=class --classes=birch', 'x.webp', 'give two --classes'),
    ('--interpolate=z --frames=3', 'x.webp', '--frames=3 leaves no picture for some of the 4'),
    ('--sweep=0,0.5,1 --frames=3', 'x.webp', 'some of the 4 settings, there and back'),
    ('--seeds=0-9999', 'x.webp', 'the number of frames is 240000; give at most 100,000'),
    ('--interpolate=z --num=20000', 'x.webp', 'images side by side is 20000; give at most 10,000'),
    ('--interpolate=z --frames=90000', 'x.gif', '90,000 frames of 6 images of 16x16 are too many'),
    ('--seeds=1,2 --num=4', 'x.webp', 'leave out --num'),
    ('--seeds=1,2 --interpolate=class', 'x.webp', 'leave out --interpolate'),
    ('--seeds=1,2 --interpolate=z', 'x.png', 'leave out --interpolate'),
    ('--mixing=0', 'x.webp', '--mixing draws a picture; give an --out ending in .png'),
    ('--seeds=1,2 --frames=9', 'x.png', '--frames=9 is of a film'),
    ('--fps=9', 'x.npz', '--fps=9 is of a film'),
    ('--fps=9', 'folder', '--fps=9 is of a film, and this generator makes still images'),
    ('--fps=60 --seeds=1,2', 'x.gif', 'more than a GIF shows, 50 frames per second'),
    ('--plain', 'x.npz', '--plain is of a picture or a film'),
    ('--plain --neighbours', 'x.png', 'what --neighbours is for'),
  ],
)
def test_what_is_no_film(sample, words, name, said):
  status, out, err, path = sample(words, name)
  assert status == 2 and not out and err.count('\n') == 1 and said in err, err
  assert not path.exists()
