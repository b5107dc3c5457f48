"""Bits per dimension, of generators that know them: names, values, what is drawn, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import linear_styles
import numpy as np
import pytest

from bigjax.algorithms.base import contract
from bigjax.core import errors, parallel
from bigjax.evaluation import after_training, image_sets
from bigjax.evaluation.of_networks import likelihood_scores, pixel_histogram, refusals
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sampler import Sampler

SIDE, CLASSES = 16, 10


@dataclasses.dataclass(frozen=True)
class Law:
  """Bits are an image's mean level, ten times its class, and a number that is drawn for it."""

  num_classes: int = CLASSES
  words = 'byhand'

  def bits(self, gen, images, y, keys):
    drawn = jax.vmap(lambda key: jax.random.normal(key))(keys)
    return (images.mean((1, 2, 3)) + 1) * 127.5 + 10.0 * y.astype(jnp.float32) + gen * drawn


@dataclasses.dataclass(frozen=True)
class Teller(contract.PlainGenerator):
  num_classes: int = CLASSES
  shape = (SIDE, SIDE, 1)
  latent_shape = (2,)
  likelihood = Law()


def loaded(classes=CLASSES, devices=1, gen=0.0):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  card = {'class_names': list('abcdefghij'[:classes]), 'sampling': {}, 'algorithm': 'teller'}
  return Loaded(Sampler(Teller(classes), mesh), jnp.float32(gen), card)


def arrays(num):
  images = np.random.default_rng(num).integers(0, 256, (num, SIDE, SIDE, 1)).astype(np.uint8)
  return images, np.arange(num) % CLASSES


def splits(classes=CLASSES):
  found = {}
  for split, num in (('train', 30), ('test', 11)):
    images, labels = arrays(num)
    batches = lambda size, a=images, b=labels: image_sets.in_batches(a, b, size)
    some = lambda most, a=images, b=labels: (a[:most], b[:most])
    shape = (SIDE, SIDE, 1)
    found[split] = image_sets.ImageSet('noise', split, num, shape, classes, f'{num}', batches, some)
  return found


def measured(one, num=11, batch=4, seeds=(0,)):
  return likelihood_scores.Measure(('nll_bpd',), splits(), num, batch).scored(one, seeds)


@pytest.mark.parametrize('classes', [1, CLASSES])
def test_means_over_images_and_what_a_histogram_takes(classes):
  (found,) = measured(loaded(classes))
  (images, labels), (train, _) = arrays(11), arrays(30)
  want = images.mean() + (10 * labels.mean() if classes > 1 else 0)
  beside = pixel_histogram.bits(pixel_histogram.fitted(train), images).mean()
  assert found == {
    'nll_bpd11_test_byhand': pytest.approx(want, rel=1e-6),
    'nll_bpd_of_pixel_histogram11_test_30train': pytest.approx(beside, rel=1e-9),
  }


def test_what_is_drawn_follows_from_seed_and_number():
  """Not from the batch, the devices, or which other images are looked at."""
  name = 'nll_bpd11_test_byhand'
  first, second = measured(loaded(gen=5.0), seeds=(0, 1))
  assert abs(first[name] - second[name]) > 0.1
  for one, batch in ((loaded(gen=5.0), 3), (loaded(gen=5.0), 11), (loaded(gen=5.0, devices=2), 4)):
    assert measured(one, batch=batch)[0][name] == pytest.approx(first[name], rel=1e-6)
  images, _ = arrays(11)
  bits = loaded(gen=5.0).sampler.bits(
    jnp.float32(5), images, np.zeros(11, np.int32), np.arange(11, dtype=np.int32), 0
  )
  drawn = (bits - images.mean((1, 2, 3))) / 5
  want = [jax.random.normal(jax.random.fold_in(jax.random.key(0), i)) for i in range(11)]
  np.testing.assert_allclose(drawn, want, atol=1e-4)
  kept = np.sort(np.random.RandomState(0).permutation(11)[:5])
  want = (images.mean((1, 2, 3)) + 10 * (np.arange(11) % CLASSES) + 5 * drawn)[kept].mean()
  assert measured(loaded(gen=5.0), num=5)[0]['nll_bpd5_test_byhand'] == pytest.approx(want)


def test_refusals():
  with pytest.raises(errors.UserError, match='of the likelihood that a generator gives images'):
    likelihood_scores.refuse(['nll_bpd'], None)
  with pytest.raises(errors.UserError, match=r'nll_bpd needs a generator that says how likely'):
    likelihood_scores.refuse(['nll_bpd'], linear_styles.loaded())
  likelihood_scores.refuse(['nll_bpd'], loaded())
  with pytest.raises(errors.UserError, match='needs real images with a test split'):
    refusals.refuse_real(['nll_bpd'], None, 1)
  with pytest.raises(errors.UserError, match="it has 4 classes, and 'noise' has 10"):
    refusals.refuse_real(['nll_bpd'], splits()['test'], 4)
  refusals.refuse_real(['nll_bpd'], splits()['test'], 1)


def test_by_the_verb(bigjax, tmp_path, monkeypatch):
  monkeypatch.setattr(after_training, 'load', lambda path, classifier: loaded(devices=8, gen=1.0))
  words = ['evaluate', '--params=x.npz', f'--out={tmp_path}', '--num=40', '--batch=16']
  words += ['--metrics=nll_bpd']
  status, out, err = bigjax(*words, '--reference=digits', '--seeds=0,1')
  assert status == 0, err
  assert '| nll_bpd40_test_byhand | ' in out and ' ± ' in out
  (row,) = [json.loads(line) for line in (tmp_path / 'scores.jsonl').read_text().splitlines()]
  assert set(row['scores']) == {
    'nll_bpd40_test_byhand', 'nll_bpd_of_pixel_histogram40_test_1618train',
  }  # fmt: skip
  of_histogram = row['scores']['nll_bpd_of_pixel_histogram40_test_1618train']
  assert 1 < of_histogram['value'] < 8 and of_histogram['std'] == 0
  assert row['protocol']['likelihood_digest'].endswith('-test')
  status, _, err = bigjax(*words)
  assert status and 'needs real images with a test split' in err
