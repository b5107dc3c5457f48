"""Images from a checkpoint and from an exported generator; what is said, and what is refused."""

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from bigjax.core import errors, trees
from bigjax.nn import latents as laws
from bigjax.sampling import (
  generator_file,
  grids,
  image_files,
  interpolation,
  lettering,
  options,
  sampler,
)
from bigjax.sampling.loaded import Loaded, load, parse_classes, read_labels

NAMES = ['cat', 'dog', 'fox, red', 'bird']
NUMBERED = [str(i) for i in range(1, 11)]  # folders called 1 to 10


@pytest.fixture(scope='module')
def original(params):
  return Loaded(*sampler.from_card(*generator_file.load(str(params)), jax.devices()[:1]))


@pytest.fixture
def loaded(original):
  """The exported generator; `prepare` may change it."""
  return copy.copy(original)


def plain(loaded, labels, seed=0, text='none', first=0):
  """Samples number first, first + 1, ... of a seed, with these labels."""
  z = loaded.sampler.latents(seed, first + len(labels), loaded.spec(text))[first:]
  return loaded.images(z, np.array(labels, np.int32), loaded.spec(text))


def assert_same_images(a, b):
  """Other batch shapes may round a grey level differently."""
  assert a.dtype == b.dtype == np.uint8
  np.testing.assert_allclose(a.astype(int), b.astype(int), atol=1)


def read(path):
  with np.load(path) as arrays:
    return dict(arrays)


# --- classes and latents


@pytest.mark.parametrize(
  ('text', 'labels'),
  [
    ('all', [0, 1, 2, 3]),
    ('3,1', [3, 1]),
    ('bird,cat', [3, 0]),
    ('0', [0]),
    ('fox, red', [2]),
    ('bird, name:dog, number:2', [3, 1, 2]),
    ('1,1', [1, 1]),
  ],
)
def test_parse_classes(text, labels):
  found = parse_classes(text, NAMES)
  assert found.dtype == np.int32 and found.tolist() == labels


@pytest.mark.parametrize('text', ['4', '-1', 'cta', '', '1,', '1.0', '²'])
def test_a_class_that_does_not_exist(text):
  word = text.split(',')[-1]
  with pytest.raises(errors.UserError) as error:
    parse_classes(text, NAMES)
  assert f'there is no class {word!r}' in str(error.value) and '0 to 3' in str(error.value)
  assert ('(did you mean cat?)' in str(error.value)) == (text == 'cta')


@pytest.mark.parametrize('text', ['1', '0,1', '10', '0', 'name:0', 'number:10', 'name:x'])
def test_a_number_that_may_be_a_name_is_refused(text):
  with pytest.raises(errors.UserError) as error:
    parse_classes(text, NUMBERED)
  if ':' not in text:
    assert 'may be a name or a number' in str(error.value)
    assert f'write name:{text[0]}' in str(error.value)


def test_numbers_mean_the_same_everywhere():
  """Numbers are places, in Python and, where classes have other names, on the command line."""
  natural = [str(i) for i in range(12)]
  for names in (NAMES, natural, [f'kind {i}' for i in range(12)]):
    for given in ('2', 2, [2], ['2'], 'number:2', ['bird', 2][1:]):
      assert read_labels(given, names, None).tolist() == [2]
  assert parse_classes('name:1,number:1,name:10', NUMBERED).tolist() == [0, 1, 9]
  assert read_labels([1, 'name:1'], NUMBERED, None).tolist() == [1, 0]
  with pytest.raises(errors.UserError, match="2 classes are named 'crane'"):
    parse_classes('crane', ['crane', 'dog', 'crane'])


def test_a_class_called_all():
  """Is not taken for all of them; where it is the only one, both are the same."""
  assert parse_classes('all', ['all']).tolist() == [0]
  assert parse_classes('name:all', ['all', 'none']).tolist() == [0]
  with pytest.raises(errors.UserError, match='write name:all for that'):
    parse_classes('all', ['all', 'none'])


def test_slerp_goes_along_the_arc():
  a, b = np.random.RandomState(0).normal(size=(2, 60)).astype(np.float32)
  b *= 2
  way = np.linspace(0, 1, 5, dtype=np.float32)
  points = interpolation.slerp(a, b, way)
  assert points.dtype == np.float32
  for ends in np.random.RandomState(1).normal(size=(50, 2, 60)).astype(np.float32):
    found = interpolation.slerp(*ends, way)[[0, -1]]
    np.testing.assert_array_equal(found, ends)  # samples themselves, not rounded
  norms = np.linalg.norm(points, axis=1)
  np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 5), rtol=1e-5)
  unit = points / norms[:, None]
  steps = np.arccos((unit[1:] * unit[:-1]).sum(1))
  np.testing.assert_allclose(steps, steps[0], rtol=1e-3)  # equal angles
  plane = np.linalg.lstsq(np.stack([a, b], 1), points.T, rcond=None)[0]
  np.testing.assert_allclose(np.stack([a, b], 1) @ plane, points.T, atol=1e-4)


def test_slerp_between_parallel_latents():
  a = np.arange(1, 5, dtype=np.float32)
  way = np.array([0, 0.5, 1], np.float32)
  np.testing.assert_allclose(
    interpolation.slerp(a, 2 * a, way), np.outer([1, 1.5, 2], a), rtol=1e-6
  )
  np.testing.assert_allclose(interpolation.slerp(a, a, way), np.stack([a] * 3), rtol=1e-6)


# --- the sampler


def test_first_samples_do_not_depend_on_their_number(loaded):
  z = loaded.sampler.latents(3, 70, loaded.spec())
  assert len(np.unique(z, axis=0)) == 70
  for num in (1, 9, 64):
    np.testing.assert_array_equal(loaded.sampler.latents(3, num, loaded.spec()), z[:num])
  y = np.arange(70, dtype=np.int32) % 10
  images = loaded.images(z, y, loaded.spec())
  assert images.shape == (70, 16, 16, 1)
  assert_same_images(loaded.images(z[:9], y[:9], loaded.spec()), images[:9])


def test_seed_decides(loaded):
  images = plain(loaded, [1, 2, 3], seed=5)
  np.testing.assert_array_equal(plain(loaded, [1, 2, 3], seed=5), images)
  other = plain(loaded, [1, 2, 3], seed=6)
  assert ((other != images).mean((1, 2, 3)) > 0.5).all()


def test_label_decides(loaded):
  """The class reaches the image (four steps of training: faintly)."""
  z = np.repeat(loaded.sampler.latents(0, 1, loaded.spec()), 10, 0)
  images = loaded.images(z, np.arange(10, dtype=np.int32), loaded.spec())
  assert len(np.unique(images.reshape(10, -1), axis=0)) == 10
  weights = np.eye(10, dtype=np.float32)
  assert_same_images(loaded.images(z, weights, loaded.spec()), images)


# --- grids and files


def test_class_grid_has_a_row_for_each_class(bigjax, params, loaded, tmp_path):
  status, out, err = bigjax('sample', '--params', params, '--out', tmp_path / 'all.npz')
  assert status == 0 and err == '' and out.startswith(f'{tmp_path}/all.npz: 100 images')
  arrays = read(tmp_path / 'all.npz')
  np.testing.assert_array_equal(arrays['labels'], np.repeat(np.arange(10), 10))
  assert_same_images(arrays['images'], plain(loaded, arrays['labels']))


def test_class_grid_as_png_and_folder(bigjax, params, loaded, tmp_path):
  ask = ('sample', '--params', params, '--classes', '7,3', '--num', 5, '--seed', 4, '--out')
  assert bigjax(*ask, tmp_path / 'new' / 'x.png')[0] == 0  # two rows of three, one cell empty
  assert bigjax(*ask, tmp_path / 'folder')[0] == 0
  images = plain(loaded, [7, 7, 7, 3, 3, 3], seed=4)[:5]
  with Image.open(tmp_path / 'new' / 'x.png') as picture:
    words = {'rows': ['7', '3'], 'caption': 'step 4, untruncated, seed 4'}
    expected = lettering.labelled(grids.grid(images, 3), 2, 3, **words)
    expected = np.asarray(expected).astype(int)
    np.testing.assert_allclose(np.asarray(picture).astype(int), expected, atol=1)
  names = sorted(os.listdir(tmp_path / 'folder'))
  names.remove('samples.json')
  classes = [7, 7, 7, 3, 3]
  assert names == [f'{i:06d}_class{label}.png' for i, label in enumerate(classes)]
  for name, image in zip(names, images, strict=True):
    with Image.open(tmp_path / 'folder' / name) as picture:
      assert_same_images(np.asarray(picture)[..., None], image)


@pytest.mark.parametrize('num', [1, 7, 20])
def test_num_is_the_number_of_images(bigjax, params, tmp_path, num):
  ask = ('sample', '--params', params, '--classes', '2,5,8', '--out', tmp_path / 'x.npz')
  assert bigjax(*ask, '--num', num)[0] == 0
  arrays = read(tmp_path / 'x.npz')
  assert len(arrays['images']) == len(arrays['labels']) == num
  assert arrays['labels'].tolist() == sorted(arrays['labels'])  # class by class


@pytest.mark.parametrize(
  ('words', 'rows', 'heads', 'caption'),
  [
    ('--classes 3,7 --num 6', ['3', '7'], [], 'step 4, untruncated, seed 0'),
    ('--classes 3,7 --num 5 --seed 2', ['3', '7'], [], 'step 4, untruncated, seed 2'),
    ('--num 20 --truncation 0.5', list('0123456789'), [], 'step 4, 0.5 (resample), seed 0'),
    ('--classes 3,7 --seeds 0-1', ['3', '7'], ['seed 0', 'seed 1'], 'step 4, untruncated'),
    ('--classes 3 --seeds 0-11', ['3, seeds 0-9', '3, seeds 10-11'], [],
     'step 4, untruncated, seeds 0-11'),
    ('--classes 3 --seeds 7,0-10', ['3, seeds 7, 0, 1, 2, 3, 4, 5, 6, 7, 8', '3, seeds 9-10'], [],
     'step 4, untruncated, seeds 7,0-10'),
    ('--classes 3 --plain', [], [], ''),
    ('--classes 3,7 --sweep 0.5,none', ['0.5 (resample)', 'untruncated'], list('3737373737'),
     'step 4, seed 0'),
    ('--classes 3 --sweep 0.5,none', ['0.5 (resample)', 'untruncated'], [],
     'step 4, seed 0, class 3'),
    ('--classes 3 --sweep standing_batch=8,16', ['standing_batch=8', 'standing_batch=16'], [],
     'step 4, seed 0, class 3'),
    ('--classes 3,7 --interpolate both', ['3 → 7', '7 → 3'], [], 'step 4, untruncated, seed 0'),
    ('--classes 3,7 --interpolate z', ['3', '7'], [], 'step 4, untruncated, seed 0'),
  ],
)  # fmt: skip
def test_grids_say_what_is_in_them(
  bigjax, params, tmp_path, monkeypatch, words, rows, heads, caption
):
  said = []
  labelled = lettering.labelled

  def see(grid, num_rows, num_columns, rows, heads, caption):
    said.append((list(rows), list(heads), caption))
    assert len(rows) in (0, num_rows) and len(heads) in (0, num_columns)
    return labelled(grid, num_rows, num_columns, rows, heads, caption)

  monkeypatch.setattr(lettering, 'labelled', see)
  out = tmp_path / 'x.PNG'
  assert bigjax('sample', '--params', params, *words.split(), '--out', out)[0] == 0
  assert said == [(rows, heads, caption)] and out.is_file()


@pytest.mark.parametrize('name', ['it\'s a \n"grid".png', "two\nlines' folder", 'ü 花.npz'])
def test_an_out_of_any_name(bigjax, params, tmp_path, name):
  status, out, _ = bigjax('sample', '--params', params, '--num', 2, '--out', tmp_path / name)
  assert status == 0 and name in out and [path.name for path in tmp_path.iterdir()] == [name]


def test_num_is_shared_evenly_among_the_classes(bigjax, params, tmp_path):
  """As --help says: none of the classes asked for may be left out where there are enough."""
  ask = ('sample', '--params', params, '--out', tmp_path / 'x.npz')
  assert bigjax(*ask, '--num', 12)[0] == 0
  counts = np.bincount(read(tmp_path / 'x.npz')['labels'], minlength=10)
  assert counts.max() - counts.min() <= 1, counts


def test_sweep_has_a_row_for_each_truncation(bigjax, params, loaded, tmp_path):
  ask = ('sample', '--params', params, '--seed', 2, '--out', tmp_path / 'x.npz')
  status, _, err = bigjax(*ask, '--classes', '4,6', '--sweep', '0.5,1,none')
  assert status == 0 and err == ''  # statistics of all three were exported
  arrays = read(tmp_path / 'x.npz')
  y = [4, 6] * 5
  assert arrays['labels'].tolist() == y * 3
  rows = [plain(loaded, y, seed=2, text=text) for text in ('0.5', '1', 'none')]
  assert_same_images(arrays['images'], np.concatenate(rows))
  assert all((rows[0] != row).any() for row in rows[1:])


def test_sweep_of_another_option_by_its_name(bigjax, params, tmp_path):
  ask = ('sample', '--params', params, '--classes', '4', '--num', 3, '--out', tmp_path / 'x.npz')
  assert bigjax(*ask, '--sweep', 'standing_batch=8,16', '--sampling', 'standing_passes=2')[0] == 0
  few, more = np.split(read(tmp_path / 'x.npz')['images'], 2)
  assert (few != more).any()
  for batch, rows in ((8, few), (16, more)):
    options = ('--sampling', f'standing_batch={batch}', '--sampling', 'standing_passes=2')
    assert bigjax(*ask, *options)[0] == 0
    assert_same_images(read(tmp_path / 'x.npz')['images'], rows)
  assert bigjax(*ask, '--sweep', 'truncation=0.5,1')[0] == 0
  named = read(tmp_path / 'x.npz')['images']
  assert bigjax(*ask, '--sweep', '0.5,1')[0] == 0
  assert_same_images(read(tmp_path / 'x.npz')['images'], named)
  assert bigjax(*ask, '--sweep', '1,1')[0] == 0  # a row each, whatever they are called
  assert len(read(tmp_path / 'x.npz')['images']) == len(named)


@pytest.mark.parametrize('kind', ['z', 'class', 'both'])
def test_interpolation_ends_are_plain_samples(loaded, kind):
  labels, columns = np.array([3, 8], np.int32), 5
  images = interpolation.interpolation(loaded, kind, labels, columns, 1, loaded.spec())
  rows = images.reshape(2, columns, 16, 16, 1)
  for i, row in enumerate(rows):
    start, following = labels[i], labels[(i + 1) % 2]
    last_z = 2 * i if kind == 'class' else 2 * i + 1
    last_y = start if kind == 'z' else following
    assert_same_images(row[:1], plain(loaded, [start], seed=1, first=2 * i))
    assert_same_images(row[-1:], plain(loaded, [last_y], seed=1, first=last_z))
    assert len(np.unique(row.reshape(columns, -1), axis=0)) == columns


def test_interpolation_between_classes_weighs_them(loaded):
  images = interpolation.interpolation(
    loaded, 'class', np.array([3, 8], np.int32), 5, 1, loaded.spec()
  )
  z = loaded.sampler.latents(1, 1, loaded.spec())
  weights = np.zeros((1, 10), np.float32)
  weights[0, [3, 8]] = 0.75, 0.25
  assert_same_images(images[1:2], loaded.images(z, weights, loaded.spec()))


@pytest.mark.parametrize('kind', ['z', 'class', 'both'])
def test_interpolation_is_a_row_per_class(bigjax, params, tmp_path, kind):
  ask = ('sample', '--params', params, '--classes', '1,2,3', '--num', 12, '--interpolate', kind)
  assert bigjax(*ask, '--out', tmp_path / 'x.npz')[0] == 0
  assert read(tmp_path / 'x.npz')['images'].shape == (12, 16, 16, 1)


# --- seeds


@pytest.mark.parametrize(
  ('text', 'seeds'), [('0-3', [0, 1, 2, 3]), ('7', [7]), ('5,1,2-3', [5, 1, 2, 3]), ('4-4', [4])]
)
def test_parse_seeds(text, seeds):
  assert list(options.parse_seeds(text)) == seeds


@pytest.mark.parametrize('text', ['', 'a', '3-1', '1,', '-1', '1-', '0-2-4', '1.5'])
def test_seeds_that_are_none(text):
  with pytest.raises(errors.UserError, match='is no seed and no range'):
    options.parse_seeds(text)


def test_a_row_per_class_and_a_column_per_seed(bigjax, params, loaded, tmp_path):
  ask = ('sample', '--params', params, '--classes', '2,7', '--seeds', '4,0-1', '--out')
  assert bigjax(*ask, tmp_path / 'x.npz')[0] == 0
  status, out, _ = bigjax(*ask, tmp_path / 'x.png')
  assert status == 0 and out.endswith('6 images, 3 in a row\n')
  arrays = read(tmp_path / 'x.npz')
  assert arrays['labels'].tolist() == [2, 2, 2, 7, 7, 7]
  assert arrays['seeds'].tolist() == [4, 0, 1] * 2
  alone = [plain(loaded, [y], seed) for y in (2, 7) for seed in (4, 0, 1)]
  assert_same_images(arrays['images'], np.concatenate(alone))
  assert bigjax(*ask, tmp_path / 'folder')[0] == 0
  assert 'seed0004_class2.png' in os.listdir(tmp_path / 'folder')


def test_many_seeds_of_one_class_are_ten_in_a_row(bigjax, params, tmp_path):
  ask = ('sample', '--params', params, '--classes', '2', '--seeds', '0-11')
  assert bigjax(*ask, '--out', tmp_path / 'x.png')[1].endswith('12 images, 10 in a row\n')


def test_sweep_of_seeds(bigjax, params, loaded, tmp_path):
  ask = ('sample', '--params', params, '--classes', '4', '--seeds', '3,9', '--sweep', '0.5,none')
  assert bigjax(*ask, '--out', tmp_path / 'x.npz')[0] == 0
  rows = [plain(loaded, [4], seed, text) for text in ('0.5', 'none') for seed in (3, 9)]
  assert_same_images(read(tmp_path / 'x.npz')['images'], np.concatenate(rows))


# --- many images


def test_the_layout_of_the_adm_evaluator(bigjax, params, loaded, tmp_path):
  """Its evaluator reads arr_0.npy, the first file of the archive, as a stream of a header 1.0."""
  ask = ('sample', '--params', params, '--num', 90, '--seed', 1, '--layout', 'adm')
  status, out, _ = bigjax(*ask, '--out', tmp_path / 'x.npz')
  assert status == 0 and '90 images, uint8 (90, 16, 16, 3)' in out
  with zipfile.ZipFile(tmp_path / 'x.npz') as archive:
    assert archive.namelist() == ['arr_0.npy', 'arr_1.npy']
    with archive.open('arr_0.npy') as file:
      assert np.lib.format.read_magic(file) == (1, 0)
      shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
      assert (shape, fortran, dtype) == ((90, 16, 16, 3), False, np.uint8)
      images = np.frombuffer(file.read(), np.uint8).reshape(shape)
  arrays = read(tmp_path / 'x.npz')
  np.testing.assert_array_equal(arrays['arr_0'], images)
  labels = arrays['arr_1']
  assert np.bincount(labels).tolist() == [9] * 10
  assert len(set(labels[:30])) == 10  # mixed: it splits by order for the Inception score
  assert_same_images(images, np.repeat(plain(loaded, labels, seed=1), 3, -1))


@pytest.mark.parametrize('num', [5, 16, 33])
def test_batches_make_the_same_images(bigjax, params, loaded, tmp_path, num):
  ask = ('sample', '--params', params, '--num', num, '--batch', 16, '--out', tmp_path / 'x.npz')
  assert bigjax(*ask)[0] == 0
  arrays = read(tmp_path / 'x.npz')
  assert_same_images(arrays['images'], plain(loaded, arrays['labels']))
  assert os.listdir(tmp_path) == ['x.npz']


def test_images_are_written_as_they_are_made(bigjax, params, tmp_path, monkeypatch):
  """Never more than one batch of them is held."""
  make, seen = Loaded.one_batch, []

  def watched(self, z, y, spec, batch, start):
    files = len(os.listdir(tmp_path / 'folder')) if (tmp_path / 'folder').exists() else 0
    seen.append((start, files))
    return make(self, z, y, spec, batch, start)

  monkeypatch.setattr(Loaded, 'one_batch', watched)
  ask = ('sample', '--params', params, '--num', 40, '--batch', 16, '--out', tmp_path / 'folder')
  assert bigjax(*ask)[0] == 0
  assert seen == [(0, 1), (16, 17), (32, 33)]  # and samples.json


def test_a_folder_is_resumed(bigjax, params, tmp_path, monkeypatch):
  folder = tmp_path / 'folder'
  ask = ('sample', '--params', params, '--num', 40, '--batch', 16, '--out', folder)
  assert bigjax(*ask)[0] == 0
  whole = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
  for name in sorted(whole)[20:30]:  # of the second batch
    (folder / name).unlink()
  kept = folder / sorted(whole)[0]
  before, made, make = kept.stat().st_mtime_ns, [], Loaded.one_batch
  monkeypatch.setattr(Loaded, 'one_batch', lambda self, *a: made.append(a[-1]) or make(self, *a))
  status, out, _ = bigjax(*ask)
  assert status == 0 and out.endswith('/: 40 PNGs, 30 of which were there already\n')
  assert made == [16] and kept.stat().st_mtime_ns == before
  assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == whole


@pytest.mark.parametrize(
  ('change', 'word'), [(('--seed', 1), 'another seed'), (('--classes', '1'), 'another classes')]
)
def test_a_folder_of_other_samples_is_left_alone(bigjax, params, tmp_path, change, word):
  ask = ('sample', '--params', params, '--num', 3, '--out', tmp_path / 'folder')
  assert bigjax(*ask)[0] == 0
  before = sorted(os.listdir(tmp_path / 'folder'))
  status, out, err = bigjax(*ask, *change)
  assert status == 2 and out == '' and word in err and err.count('\n') == 1
  assert sorted(os.listdir(tmp_path / 'folder')) == before


def test_a_folder_of_other_pictures_is_left_alone(bigjax, params, tmp_path):
  (tmp_path / 'cat.png').write_bytes(b'')
  status, _, err = bigjax('sample', '--params', params, '--num', 3, '--out', tmp_path)
  assert status == 2 and 'not samples of ours' in err
  assert os.listdir(tmp_path) == ['cat.png']


@pytest.mark.parametrize('terminal', [False, True])
def test_progress_says_what_is_left(monkeypatch, terminal):
  """The first batch, which compiles, does not count for the rate."""
  clock = iter([0.0, *np.arange(90, 200, 4.0)])
  err = io.StringIO()
  err.isatty = lambda: terminal
  monkeypatch.setattr(image_files.time, 'monotonic', lambda: next(clock))
  monkeypatch.setattr(image_files.sys, 'stderr', err)
  batches = []

  @contextlib.contextmanager
  def ticking(what, usual):
    batches.append((what, usual))
    yield

  monkeypatch.setattr(image_files.progress, 'ticking', ticking)
  assert list(image_files.told(range(0, 1000, 100), 1000, 100)) == list(range(0, 1000, 100))
  assert batches[0] == ('making the first images', None)  # nobody knows how long
  assert batches[-1] == ('900 of 1,000 images, the next', 4.0)
  said = err.getvalue()
  assert '400 of 1,000 images, 25 per second, 24s left' in said
  assert ('200 of 1,000 images, 25 per second, 32s left' in said) == terminal
  assert said.endswith('\r\033[K' if terminal else '12s left\n')  # gives way to what follows


# --- in Python


def test_three_lines(bigjax, params, workdir, loaded):
  gen = load(params)
  images = gen(labels=[7, 3], truncation=0.5, seed=2)
  assert_same_images(images, plain(loaded, [7, 3], seed=2, text='0.5'))
  assert gen.num_classes == 10 and gen.class_names == list('0123456789')
  assert gen.resolution == 16 and gen.shape == (16, 16, 1)
  run = load(str(workdir))
  assert run.resolution == 16
  assert_same_images(run([1], seed=2), plain(loaded, [1], seed=2))


def test_how_classes_can_be_given(loaded):
  same = [loaded([7, 3]), loaded(np.array([7, 3])), loaded(['7', 3]), loaded('7,3')]
  same += [loaded(np.eye(10)[[7, 3]]), loaded((7, 3), num=2)]
  for images in same[1:]:
    assert_same_images(images, same[0])
  assert_same_images(loaded([7, 3], num=5)[:2], same[0])
  assert_same_images(loaded([7, 3], num=5), plain(loaded, [7, 3, 7, 3, 7]))
  assert_same_images(loaded(4, num=2), plain(loaded, [4, 4]))
  assert_same_images(loaded(), plain(loaded, range(10)))
  assert_same_images(loaded(num=4), plain(loaded, [0, 2, 5, 7]))
  assert_same_images(loaded([1], '1'), plain(loaded, [1], text='1'))
  assert_same_images(loaded([1], np.float32(0.5)), plain(loaded, [1], text='0.5'))


def test_names_with_commas_in_them():
  names = ['tench, Tinca tinca', 'goldfish', '0']
  assert parse_classes('tench, Tinca tinca', names).tolist() == [0]
  found = read_labels(['goldfish', 'tench, Tinca tinca', 2], names, None)
  assert found.dtype == np.int32 and found.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ({'labels': [10]}, ["no class '10'", '0 to 9']),
    ({'labels': [-1]}, ["no class '-1'"]),
    ({'labels': ['ten']}, ["no class 'ten'"]),
    ({'labels': [0.5, 0.5]}, ['float64 [2]', 'float weights [images, 10]']),
    ({'labels': np.ones((3, 4))}, ['float64 [3, 4]', '[images, 10]']),
    ({'labels': np.ones((2, 10), int)}, ['int64 [2, 10]', 'one per image']),
    ({'labels': np.full((1, 10), np.nan)}, ['not finite']),
    ({'labels': []}, ['[0]']),
    ({'labels': [True]}, ['bool [1]']),
    ({'num': 0}, ['num is 0', 'at least 1']),
    ({'num': 2.5}, ['num is 2.5']),
    ({'seed': -1}, ['seed is -1']),
    ({'seed': '1'}, ["seed is '1'"]),
    ({'truncation': 0}, ['leaves nothing to draw']),
    ({'truncation': '1:scael'}, ['did you mean scale?']),
    ({'truncation': [1]}, ['truncation is [1]', "'0.5:truncnorm'"]),
  ],
)
def test_a_call_that_has_no_answer(loaded, given, words):
  with pytest.raises(errors.UserError) as error:
    loaded(**given)
  assert all(word in str(error.value) for word in words), error.value


def test_a_truncation_that_means_nothing_for_the_latents(loaded):
  loaded.card = {
    **loaded.card, 'architecture': {**loaded.card['architecture'], 'latent': 'bernoulli'}
  }  # fmt: skip
  other = Loaded(*sampler.from_card(loaded.stored, loaded.card, jax.devices()[:1]))
  with pytest.raises(errors.UserError, match='means nothing for the latents'):
    other([1], truncation=0.5)
  assert other([1]).shape == (1, 16, 16, 1)


# --- standing statistics


@pytest.mark.parametrize('text', ['0.5', '1', '2', 'none', '1:resample', 'none:scale'])
def test_stored_statistics_are_used_without_a_word(loaded, capsys, text):
  before = loaded.gen
  loaded.prepare(loaded.spec(text))
  assert loaded.gen is before
  assert capsys.readouterr() == ('', '')


def test_between_two_knots_is_interpolated_and_said(loaded, capsys):
  before = loaded.gen
  loaded.prepare(loaded.spec('0.625'))
  assert loaded.gen is before
  said = capsys.readouterr().err
  assert 'interpolated between those at 0.5 and 1' in said and '--recalibrate' in said
  # A quarter of the way: the lower knot weighs 0.75.
  knots = np.asarray(loaded.gen['knots']).tolist()
  weights = np.zeros(len(knots), np.float32)
  weights[[knots.index(0.5), knots.index(1)]] = 0.75, 0.25
  mixed = jax.tree.map(lambda s: np.tensordot(weights, s, 1)[None], loaded.gen['stats'])
  by_hand = copy.copy(loaded)
  by_hand.gen = {**loaded.gen, 'stats': mixed, 'knots': np.array([0.625], np.float32)}
  images = plain(loaded, [1, 2, 3], text='0.625')
  assert_same_images(images, plain(by_hand, [1, 2, 3], text='0.625'))


@pytest.mark.parametrize('text', ['0.25', '3'])
def test_beyond_the_knots_is_measured_and_said(loaded, capsys, text):
  loaded.prepare(loaded.spec(text))
  said = capsys.readouterr().err
  assert f'measuring standing statistics at {text} (resample)' in said
  assert '2 passes of 16 samples' in said
  knots = np.asarray(loaded.gen['knots']).tolist()
  assert knots == [float(text)]
  loaded.prepare(loaded.spec(text))
  assert capsys.readouterr().err == ''  # once is enough
  loaded.prepare(loaded.spec('0.625'))  # measured ones never mix with those stored
  assert 'between those at 0.5 and 1' in capsys.readouterr().err


def test_another_dialect_is_measured_and_said(loaded, capsys):
  """Statistics of two dialects never mix, there and back."""
  for truncation in (0.5, 1):
    loaded.prepare(loaded.spec(f'{truncation}:scale'))
    assert f'measuring standing statistics at {truncation} (scale)' in capsys.readouterr().err
    assert np.asarray(loaded.gen['knots']).tolist() == [truncation]
  loaded.prepare(loaded.spec('0.5:resample'))
  assert capsys.readouterr().err == '' and loaded.gen is loaded.stored


@pytest.mark.parametrize('truncation', [0.1, 0.4])
def test_a_stored_knot_is_found_though_float32_rounds_it(loaded, capsys, truncation):
  bare = loaded.sampler.generator.bare(loaded.stored)
  asked = loaded.spec(str(truncation))
  again = Loaded(loaded.sampler, loaded.sampler.prepare(bare, 0, asked), loaded.card)
  again.prepare(asked)
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('text', ['1', '0.75', 'none'])
def test_recalibrate_measures_and_says_so(loaded, capsys, text):
  loaded.prepare(loaded.spec(text), anew=True)
  said = capsys.readouterr().err
  assert said.startswith('measuring standing statistics at ') and said.count('\n') == 1
  knots = np.asarray(loaded.gen['knots']).tolist()
  assert knots == [laws.parse(text).truncation]


# --- exports


def test_exported_and_checkpointed_generators_make_the_same_images(
  bigjax, workdir, params, tmp_path
):
  found = []
  for source in (('--workdir', workdir), ('--params', params)):
    assert bigjax('sample', *source, '--seed', 9, '--out', tmp_path / 'x.npz')[0] == 0
    found.append(read(tmp_path / 'x.npz')['images'])
  assert_same_images(*found)


def test_export_can_be_repeated(bigjax, workdir, params, tmp_path):
  """`bigjax export` of the last checkpoint gives what training exported."""
  out = tmp_path / 'sub' / 'again.safetensors'
  assert bigjax('export', '--workdir', workdir, '--out', out)[0] == 0
  (ours, our_card), (theirs, their_card) = (
    generator_file.load(str(out)),
    generator_file.load(str(params)),
  )
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for path, leaf in trees.flat(ours).items():
    np.testing.assert_allclose(leaf, trees.flat(theirs)[path], rtol=1e-4, atol=1e-5, err_msg=path)
  assert our_card['step'] == their_card['step'] == 4
  assert ours['knots'].tolist() == [0.5, 1, 2, np.inf]


def test_card_says_what_it_is(params, workdir):
  found = json.loads((params.parent / 'generator.json').read_text())
  assert set(generator_file.CARD_KEYS) < set(found)
  assert {'step', 'config_hash', 'license', 'class_names', 'class_numbers', 'architecture'} < set(
    found
  )
  assert found['class_names'] == list('0123456789')
  assert found['config_hash'] == json.loads((workdir / 'summary.json').read_text())['config_hash']


def test_more_than_ten_classes(bigjax, params, tmp_path):
  gen, its_card = generator_file.load(str(params))
  table = gen['params']['shared']['embedding']
  gen['params']['shared']['embedding'] = np.concatenate([table, -table[:2]])
  its_card['architecture']['num_classes'] = 12
  its_card['class_names'] = [f'kind {i}' for i in range(12)]
  path = tmp_path / 'many.safetensors'
  generator_file.save(str(path), gen, its_card)
  ask = ('sample', '--params', path, '--out', tmp_path / 'x.npz')
  assert bigjax(*ask)[0] == 0
  arrays = read(tmp_path / 'x.npz')
  assert arrays['labels'].tolist() == np.repeat(np.arange(12), 10).tolist()
  assert bigjax(*ask, '--classes', '11,kind 10', '--num', '2')[0] == 0
  assert read(tmp_path / 'x.npz')['labels'].tolist() == [11, 10]
  status, _, err = bigjax(*ask, '--classes', '12')
  assert status == 2 and "no class '12'" in err and '0 to 11' in err
  assert bigjax(*ask, '--sweep', '0.5,1')[0] == 0
  assert read(tmp_path / 'x.npz')['labels'].tolist() == [*range(12)] * 2


BASE_ONLY = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name.split('.')[0] in {'tensorflow', 'tensorflow_datasets', 'clu', 'sklearn', 'matplotlib'}:
      raise ModuleNotFoundError(f'{name} is not installed')

sys.meta_path.insert(0, Missing())
from bigjax.__main__ import main
status = main(sys.argv[1:])
assert 'tensorflow' not in sys.modules
sys.exit(status)
"""


def test_sampling_needs_the_base_install_only(params, tmp_path):
  env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache')}
  argv = ['sample', '--params', str(params), '--classes', '1', '--out', 'x.png']
  done = subprocess.run(
    [sys.executable, '-c', BASE_ONLY, *argv], cwd=tmp_path, env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'x.png: 10 images, 10 in a row\n'
  assert (tmp_path / 'x.png').stat().st_size > 500


# --- refusals


def damaged(params, tmp_path, name, change):
  """A copy of the exported generator with one of its two files changed."""
  for suffix in ('.safetensors', '.json'):
    data = params.with_suffix(suffix).read_bytes()
    if suffix == name:
      data = change(data)
    if data is not None:
      (tmp_path / f'gen{suffix}').write_bytes(data)
  return tmp_path / 'gen.safetensors'


def other_format(data):
  return json.dumps({**json.loads(data), 'format': 99}).encode()


def without_player(data):
  return json.dumps({k: v for k, v in json.loads(data).items() if k != 'player'}).encode()


def without_dialect(data):
  card = json.loads(data)
  del card['sampling']['dialect']
  return json.dumps(card).encode()


@pytest.mark.parametrize(
  ('name', 'change', 'words'),
  [
    ('.safetensors', lambda data: None, ['no exported generator', 'gen.safetensors']),
    ('.json', lambda data: None, ['no card', 'gen.json']),
    ('.safetensors', lambda data: data[: len(data) // 2], ['gen.safetensors', 'damaged']),
    ('.safetensors', lambda data: bytes(len(data)), ['gen.safetensors', 'damaged']),
    ('.safetensors', lambda data: b'', ['gen.safetensors', 'damaged']),
    ('.json', lambda data: data[:-20], ['gen', 'damaged']),
    ('.json', lambda data: b'[]', ['gen.json', 'not a card']),
    ('.json', other_format, ['gen.json', f'not a card of format {generator_file.FORMAT}']),
    ('.json', without_player, ['gen.json', 'missing: player']),
    ('.json', without_dialect, ["the card's sampling.dialect is None", 'expected a str']),
  ],
)
def test_a_file_that_is_not_one(bigjax, params, tmp_path, name, change, words):
  path = damaged(params, tmp_path, name, change)
  status, out, err = bigjax('sample', '--params', path, '--out', tmp_path / 'x.png')
  assert status == 2 and out == ''
  assert err.startswith('bigjax: ') and err.count('\n') == 1
  assert all(word in err for word in words), err
  assert not (tmp_path / 'x.png').exists()


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--classes', 'ten'], ["no class 'ten'", '0 to 9']),
    (['--classes', '3,10'], ["no class '10'"]),
    (['--truncation', 'abc'], ["truncation 'abc' is not a number", 'truncnorm']),
    (['--truncation', '-1'], ['truncation -1', 'above 0']),
    (['--truncation', '0'], ['leaves nothing to draw']),
    (['--truncation', 'nan'], ['leaves nothing to draw']),
    (['--truncation', '0.5:trucnorm'], ['did you mean truncnorm?']),
    (['--sweep', '0.5,,1'], ["truncation ''"]),
    (['--sweep', 'scale=4,8'], ["'scale'", 'standing_passes']),
    (['--sweep', 'standing_passes=4,'], ['standing_passes=: give a whole number']),
    (['--sweep', 'truncation='], ["truncation ''"]),
    (['--sweep', 'self=1'], ["'self'", 'standing_passes']),
    (['--num', '0'], ['--num=0', 'at least 1']),
    (['--sweep', '1', '--interpolate', 'z'], ['--sweep and --interpolate']),
    (['--sweep', '1', '--neighbours', 'digits'], ['--sweep and --neighbours']),
    (['--seeds', '1-'], ['--seeds=1-', 'no range']),
    (['--seeds', '1', '--num', '2'], ['--seeds already', '--num']),
    (['--layout', 'adm'], ['--layout=adm', '.npz']),
    (['--batch', '0'], ['--batch=0']),
    (['--nearest', '0'], ['--nearest=0']),
  ],
)
def test_a_question_that_has_no_answer(bigjax, params, tmp_path, argv, words):
  status, out, err = bigjax('sample', '--params', params, '--out', tmp_path / 'x.png', *argv)
  assert status == 2 and out == ''
  assert err.startswith('bigjax: ') and err.count('\n') == 1
  assert all(word in err for word in words), err
  assert not (tmp_path / 'x.png').exists()


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--workdir', '{tmp}'], ['is not the workdir of a run']),
    (['--workdir', '{tmp}/nowhere'], ['nowhere', 'workdir']),
    (['--params', '{tmp}'], ['.safetensors']),
    (['--workdir', '{run}', '--checkpoint', '3'], ["no checkpoint '3'", '2, 4']),
  ],
)
def test_a_place_where_there_is_no_generator(bigjax, workdir, tmp_path, argv, words):
  argv = [word.format(tmp=tmp_path, run=workdir) for word in argv]
  status, out, err = bigjax('sample', *argv, '--out', tmp_path / 'x.png')
  assert status == 2 and out == ''
  assert err.startswith('bigjax: ') and err.count('\n') == 1
  assert all(word in err for word in words), err
