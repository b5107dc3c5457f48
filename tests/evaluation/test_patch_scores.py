"""Sliced Wasserstein distances and MS-SSIM: their names, their table, their Python call."""

import numpy as np
import pytest

from bigjax.core import errors
from bigjax.evaluation import after_training, patch_scores
from bigjax.evaluation.metrics import frechet, ms_ssim, registry, swd


@pytest.fixture(autouse=True)
def fewer_directions(monkeypatch):
  """Less work, and the same on average."""
  monkeypatch.setattr(swd, 'REPEATS', 1)
  monkeypatch.setattr(swd, 'DIRECTIONS', 32)


def noise(seed, num, size=32, most=256):
  return np.random.RandomState(seed).randint(0, most, (num, size, size, 1)).astype(np.uint8)


def stats(images):
  return registry.FeatureStats(len(images), frechet.Moments(1), images=images)


def test_names_say_of_how_many_images_a_score_is():
  """Of the smaller set, of an even number for pairs, and of no more than the paper's numbers."""
  found = patch_scores.of_images(noise(0, 13), noise(1, 9), 'test')
  assert set(found) == {'swd9_test', 'swd9_test_32', 'swd9_test_16', 'ms_ssim12'}
  none = np.zeros(50_000)
  many = registry.FeatureStats(50_000, frechet.Moments(1), images=none)
  used = {name: registry.METRICS[name].num_used(many, many) for name in ('swd', 'ms_ssim', 'fid')}
  assert used == {'swd': 16_384, 'ms_ssim': 20_000, 'fid': 50_000}


def test_scores_are_of_images_from_the_whole_of_either_set(monkeypatch):
  """Files lie in order of class: the first of them would be of some classes alone."""
  monkeypatch.setattr(registry, 'SWD_IMAGES', 20)
  dark, bright = noise(0, 100, 16, 40), np.sort(noise(1, 100, 16), axis=1)
  both = np.concatenate([dark, bright])
  score = lambda a, b: registry.METRICS['swd'].score(stats(a), stats(b), 0)['swd']
  assert score(both, both[::-1]) < 0.5 * score(both, dark)


def test_the_python_call_is_the_commands(workdir, bigjax, tmp_path, monkeypatch):
  """Of a run at 16 px, which asks for no network; its scores go into a table of their own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(after_training, 'open_network', lambda *given: pytest.fail('a network'))
  status, out, err = bigjax(
    'evaluate', '--workdir', workdir, '--metrics', 'swd,ms_ssim', '--num', 40, '--seeds', 3,
    '--out', tmp_path,
  )  # fmt: skip
  assert status == 0, err
  found = patch_scores.of_run(workdir, num=40, seed=3)
  assert list(found) == ['swd40_train', 'swd40_train_16', 'ms_ssim40']
  head, _, row, real, *_ = out.splitlines()
  assert head == '| swd40_train x 1e3, ms_ssim40 | 16 px | average | MS-SSIM |'
  cells = [f'{found[name]:.4g}' for name in ('swd40_train_16', 'swd40_train', 'ms_ssim40')]
  assert row == '| ' + ' | '.join(['step 4', *cells]) + ' |'
  assert real.startswith('| 40 real images | ') and 'Frechet' not in err


def test_the_table():
  """Of several levels, with scores that are none of its own, and of other numbers."""
  rows = [
    ('a', {'swd16384_train': '9.28', 'swd16384_train_64': '7.79', 'swd16384_train_128': '12.99',
           'fid50k_train_inception': '5', 'ms_ssim20k': '0.2854'}),
    ('b', {'swd9_train': '3', 'swd9_train_128': '1', 'swd9_train_64': '5'}),
  ]  # fmt: skip
  assert patch_scores.table(rows).splitlines() == [
    '| swd16384_train x 1e3, ms_ssim20k | 128 px | 64 px | average | MS-SSIM |',
    '|---|---|---|---|---|',
    '| a | 12.99 | 7.79 | 9.28 | 0.2854 |',
    '| b (swd9_train x 1e3) | 1 | 5 | 3 |  |',
  ]
  head = patch_scores.table([('c', {'ms_ssim9': '0.1'})]).splitlines()[0]
  assert head == '| ms_ssim9 | MS-SSIM |'


def test_the_average_is_of_the_levels_and_pairs_are_drawn_by_the_seed():
  images, real = noise(0, 8), noise(1, 8)
  found = patch_scores.of_images(images, real)
  levels = [found['swd8_train_32'], found['swd8_train_16']]
  assert found['swd8_train'] == pytest.approx(np.mean(levels))
  assert found['ms_ssim8'] == ms_ssim.ms_ssim(images, seed=0)


def test_images_of_other_sizes_are_refused():
  with pytest.raises(errors.UserError, match='give one shape'):
    patch_scores.of_images(noise(0, 4, 16), noise(0, 4, 32))
