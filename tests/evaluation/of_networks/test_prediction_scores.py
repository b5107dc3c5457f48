"""Scores of predictions: names and values by hand, the best of several, refusals, by the verb."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import linear_styles
import numpy as np
import pytest
from PIL import Image

from bigjax.algorithms.base import contract
from bigjax.core import errors, parallel
from bigjax.evaluation import after_training, image_sets, quick
from bigjax.evaluation.of_networks import predicted_frames, prediction_scores, predictions
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import Sampler

FRAMES, SIDE, GIVEN = 5, 12, 2
WORDS = '7_test_2given'


@dataclasses.dataclass(frozen=True)
class Mover:
  """Goes on with the last given frame `speed` px to the right a frame, brighter by z and class."""

  speed: int
  num_given: int = GIVEN

  def predict(self, gen, frames, z, y, spec):
    after = [jnp.roll(frames[:, -1], self.speed * t, axis=2) for t in range(1, FRAMES - GIVEN + 1)]
    added = gen * z[:, 0] + 0.1 * y.astype(jnp.float32)
    return jnp.stack(after, 1) + added[:, None, None, None, None]


@dataclasses.dataclass(frozen=True)
class Generator(contract.PlainGenerator):
  predictor: Mover | None
  num_classes: int = 1
  shape: tuple = (FRAMES, SIDE, SIDE, 1)
  latent_shape = (1,)


def loaded(speed=1, classes=1, devices=1, gen=0.0, **changes):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  generator = dataclasses.replace(Generator(Mover(speed), classes), **changes)
  card = {'class_names': list('abcdefghij'[:classes]), 'sampling': {}, 'algorithm': 'mover'}
  return Loaded(Sampler(generator, mesh), jnp.float32(gen), card)


def clips(num):
  """Clips of a pattern that moves a pixel a frame; their levels leave room for more light."""
  image = np.random.RandomState(num).randint(20, 150, (num, 4, 4, 1)).repeat(3, 1).repeat(3, 2)
  moved = np.stack([np.roll(image, t, axis=2) for t in range(FRAMES)], 1)
  return moved.astype(np.uint8), (np.arange(num) % 2).astype(np.int64)


def splits(classes=2):
  found = {}
  for split, num in (('train', 9), ('test', 7)):
    images, labels = clips(num)
    batches = lambda size, a=images, b=labels: image_sets.in_batches(a, b, size)
    some = lambda most, a=images, b=labels: (a[:most], b[:most])
    shape = (FRAMES, SIDE, SIDE, 1)
    found[split] = image_sets.ImageSet(
      'moving', split, num, shape, classes, f'{num}', batches, some
    )
  return found


def measured(one, num=7, batch=3, seeds=(0,), metrics=('psnr', 'ssim')):
  measure = prediction_scores.Measure(metrics, splits(), num, batch)
  return measure.scored(one, one.spec(), seeds)


def test_who_knows_the_motion_is_right_at_every_frame():
  (found,) = measured(loaded())
  for t in ('', '_t1', '_t2', '_t3'):
    assert found[f'psnr{WORDS}{t}'] == predicted_frames.LARGEST
    assert found[f'ssim{WORDS}{t}'] == pytest.approx(1, abs=1e-12)
  assert len(found) == 2 * 4 * 4  # scores, predictions, three frames and all


def test_who_stands_still_is_the_last_frame_and_baselines_are_of_the_same_clips():
  (found,) = measured(loaded(speed=0))
  of = lambda who, metric: [found[f'{metric}{who}{WORDS}_t{t}'] for t in (1, 2, 3)]
  images, came = clips(7)[0], clips(7)[0][:, GIVEN:]
  mean = predicted_frames.mean_image(clips(9)[0])
  for metric, score in predicted_frames.SCORES.items():
    assert of('', metric) == of('_of_last_frame', metric)
    for who, frames in predicted_frames.baselines(images, GIVEN, mean).items():
      np.testing.assert_allclose(of(f'_of_{who}', metric), score(frames, came).mean(0))
  assert of('', 'psnr')[0] > of('', 'psnr')[2]  # the further, the worse
  late = measured(loaded(speed=2))[0]
  assert late[f'psnr{WORDS}'] < 30


def test_labels_and_latents_follow_the_clip():
  """Each prediction is of its clip's label and number, whatever the batch and the devices."""
  dark = measured(loaded(classes=1))[0][f'psnr{WORDS}']
  told = measured(loaded(classes=2), metrics=('psnr',))[0]
  assert told[f'psnr{WORDS}'] < dark
  levels = np.round(0.1 * 127.5)
  own = 20 * np.log10(255 / levels)  # of the clips of class 1, 3 of 7
  assert told[f'psnr{WORDS}'] == pytest.approx((4 * 100 + 3 * own) / 7, rel=0.02)
  first = measured(loaded(gen=0.2))
  for other in (measured(loaded(gen=0.2), batch=7), measured(loaded(gen=0.2, devices=2), batch=4)):
    assert other[0] == pytest.approx(first[0])
  assert measured(loaded(gen=0.2), seeds=(1,))[0] != first[0]


def test_the_best_of_several_is_chosen_for_each_clip():
  seeds = (0, 1, 2)
  each = measured(loaded(gen=0.2), seeds=seeds, metrics=('psnr',))
  z = [loaded().sampler.latents(seed, 7, loaded().spec())[:, 0] for seed in seeds]
  least = np.abs(z).min(0)
  own = 20 * np.log10(255 / np.maximum(np.round(0.2 * 127.5 * least), 255 / 1e5))
  best = each[0][f'psnr{WORDS}_best_of3']
  assert best == pytest.approx(own.mean(), rel=0.05)
  assert best == each[2][f'psnr{WORDS}_best_of3'] > max(one[f'psnr{WORDS}'] for one in each)


def test_refusals():
  with pytest.raises(errors.UserError, match='is of the frames that a generator predicts, not of'):
    prediction_scores.refuse(['psnr'], None)
  with pytest.raises(errors.UserError, match='--metrics=ssim needs a generator that goes on with'):
    prediction_scores.refuse(['ssim'], loaded(predictor=None))
  with pytest.raises(errors.UserError, match='--metrics=psnr needs a generator that goes on with'):
    prediction_scores.refuse(['psnr'], linear_styles.loaded())
  with pytest.raises(errors.UserError, match='is for clips; this generator makes images'):
    prediction_scores.refuse(['psnr'], loaded(shape=(8, 8, 1)))
  prediction_scores.refuse(['psnr'], loaded())


def test_by_the_verb(bigjax, tmp_path, monkeypatch):
  still = lambda path, classifier: loaded(0, shape=(FRAMES, 16, 16, 1), devices=8)
  monkeypatch.setattr(after_training, 'load', still)
  words = ['evaluate', '--params=x.npz', f'--out={tmp_path}', '--num=4', '--batch=16']
  status, out, err = bigjax(
    *words, '--metrics=psnr,ssim', '--reference=synthetic:80', '--seeds=0,1'
  )
  assert status == 0, err
  (row,) = [json.loads(line) for line in (tmp_path / 'scores.jsonl').read_text().splitlines()]
  scores = {name: score['value'] for name, score in row['scores'].items()}
  assert scores['psnr4_test_2given_t3'] == scores['psnr_of_last_frame4_test_2given_t3']
  assert scores['psnr4_test_2given_t1'] > scores['psnr4_test_2given_t3'] > 5
  assert '| exported: SSIM of frame | generator | best of 2 | last frame | mean image | bl' in out
  assert '| +3 | ' in out and '| all | ' in out and '_t1' not in out
  assert row['protocol']['prediction_digest'].endswith('-test')
  assert row['protocol']['num_given'] == GIVEN
  Image.open(tmp_path / 'prediction.png').verify()
  status, _, err = bigjax(*words, '--metrics=psnr')
  assert status and 'needs real images with a test split' in err


def test_clips_for_a_generator_of_one_class_need_no_labels():
  """Where no run says how they are split: a set may have none, and a share is held out of all."""
  find = lambda n: predictions.held_out(loaded(classes=n), 'synthetic:80', None, None, 8)
  _, y, names = find(1)
  assert y.tolist() == [0] * 8 and names == [''] * 8
  _, y, names = find(10)
  assert names == [f'class {label}' for label in y] and len({*y.tolist()}) > 1


def test_the_mean_image_is_of_so_many_bytes(monkeypatch):
  """While a run trains as afterwards: here of two training clips."""
  monkeypatch.setattr(predicted_frames, 'MEAN_OF', 2 * FRAMES * SIDE * SIDE + 1)
  asked = []
  train = lambda most: (asked.append(most), clips(9)[0][:most])[1:] * 2
  quick.load('prediction', train, lambda most: clips(most), (), num_given=GIVEN, num=5)
  one = dataclasses.replace(splits()['train'], some=train)
  measure = prediction_scores.Measure(('psnr',), {**splits(), 'train': one}, 1, 1)
  measure.scored(loaded(), loaded().spec(), (0,))
  assert asked == [2, 2]


def test_while_a_run_trains():
  """The evaluator is given predictions; the floor is the best that needs no network."""
  train, held_out = (lambda most, n=n: tuple(part[:most] for part in clips(n)) for n in (9, 7))
  assert quick.predicts('prediction') and not quick.predicts('classifier')
  assert quick.floor_name('prediction') == 'without a network'
  assert quick.floor_name('classifier') == quick.floor_name('none') == 'real'
  score, floor = quick.load('prediction', train, held_out, (), num_given=GIVEN, num=5)
  images, labels = held_out(5)
  assert list(floor) == list(quick.scores('prediction')) == ['psnr', 'ssim']
  last = np.repeat(images[:, 1:2], 3, 1)
  assert score((last, labels)) == pytest.approx(floor)
  perfect = score((images[:, GIVEN:], labels))
  assert perfect == {'psnr': predicted_frames.LARGEST, 'ssim': pytest.approx(1)}
