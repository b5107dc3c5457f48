"""Scores of an encoder, on one that forgets nothing: names, values, the picture, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bigjax.algorithms import bigbigan
from bigjax.algorithms.base import contract
from bigjax.core import errors, parallel
from bigjax.evaluation import image_sets
from bigjax.evaluation.metrics import probes
from bigjax.evaluation.of_networks import encoder_scores
from bigjax.models.pretrained.registry import FeatureNetwork
from bigjax.nn import latents
from bigjax.sampling import generator_file as cards
from bigjax.sampling.loaded import Loaded, load
from bigjax.sampling.sampler import Sampler

from networks import weights

SIDE, CLASSES, PICTURE = 4, 4, encoder_scores.PICTURE


@dataclasses.dataclass(frozen=True)
class Mirror(contract.PlainGenerator):
  """An image is its latents; its encoder sees twice the size, and averages it. gen is a number."""

  shape = (SIDE, SIDE, 1)
  latent_shape = (SIDE**2,)
  num_classes = 1

  def generate(self, gen, z, y, spec):
    del y, spec
    return gen * z.reshape(-1, SIDE, SIDE, 1)

  @property
  def encoder(self):
    return Averaging()


@dataclasses.dataclass(frozen=True)
class Averaging:
  shape = (2 * SIDE, 2 * SIDE, 1)
  num_features = SIDE**2

  def encode(self, gen, images):
    return images.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(-1, SIDE**2) * gen

  features = encode


def loaded(devices=1):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  card = {'class_names': ['all'], 'sampling': {}, 'algorithm': 'mirror'}
  return Loaded(Sampler(Mirror(), mesh), jnp.float32(1), card)


def splits(classes=CLASSES):
  """Dark noise with one quarter lit, whose number is the class."""
  found = {}
  for split, num in (('train', 60), ('test', 24)):
    rng, labels = np.random.default_rng(num), np.arange(num) % CLASSES
    images = rng.integers(0, 60, (num, 8, 8, 1))
    for i, label in enumerate(labels):
      row, column = 4 * (label // 2), 4 * (label % 2)
      images[i, row : row + 4, column : column + 4] += 150
    images = images.astype(np.uint8)
    batches = lambda size, a=images, b=labels: image_sets.in_batches(a, b, size)
    found[split] = image_sets.ImageSet(
      'quarters', split, num, (8, 8, 1), classes, f'{num}', batches,
      class_names=tuple('abcd'[:classes]),
    )  # fmt: skip
  return found


def told_by_quarters():
  """A network that sees which quarter is brightest."""

  def apply(variables, images):
    quarters = jnp.asarray(images, jnp.float32).reshape(-1, 2, 2, 2, 2).mean((2, 4))
    return {'logits': quarters.reshape(-1, 4), 'features': quarters.reshape(-1, 4)}

  return FeatureNetwork('quarters', '0' * 16, 'none', 4, 4, {}, apply, tuple('abcd'))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(probes, 'RECIPE', dataclasses.replace(probes.RECIPE, steps=100, alone=1e-2))
  monkeypatch.setattr(probes.linear, '__defaults__', (probes.as_they_are, 0, probes.RECIPE))


def measure(tmp_path, metrics, labels_per_class=0, network=None):
  return encoder_scores.Measure(metrics, splits(), 20, labels_per_class, network, 8, str(tmp_path))


def test_probes_by_their_protocol(tmp_path):
  one, names = loaded(), ('linear_probe', 'knn_probe')
  first, second = measure(tmp_path, names, 1).scored(one, one.spec(), [0, 1])
  assert first.keys() == {
    'linear_probe20_test_avepool_100steps_1perclass',
    'linear_probe20_test_bncrelu_100steps_1perclass', 'knn_probe20_test_avepool_k4_1perclass',
  }  # fmt: skip
  assert min([*first.values(), *second.values()]) > 0.9
  assert measure(tmp_path, names, 1).about()['labels_per_class'] == 1


@pytest.mark.parametrize('devices', [1, 2])
def test_reconstructions_and_their_picture(tmp_path, devices):
  one = loaded(devices)
  (found,) = measure(tmp_path, ('reconstruction',), 0, told_by_quarters()).scored(
    one, one.spec(), [0]
  )
  assert found['reconstruction_mse20_test'] < (1 / 255) ** 2
  assert found['reconstruction_ratio20_test'] < 0.01
  assert found['reconstruction_agreement20_test_quarters'] == 1
  with Image.open(tmp_path / 'reconstructions.png') as picture:  # 2 x 8 images, each with its twin
    assert picture.width / picture.height == pytest.approx(8 / 4, rel=0.1)
  images = next(splits()['test'].batches(5))[0]
  assert one.encode(images).shape == (5, SIDE**2) and one.features(images).shape == (5, SIDE**2)
  assert one.reconstruct(images).shape == (5, *one.shape) and one.encoder_shape == (8, 8, 1)
  with pytest.raises(errors.UserError, match=r'encode was given images uint8 \[5, 4, 4, 1\]'):
    one.encode(images[:, :4, :4])
  assert float(one.stored) == 1  # frozen


def test_agreement_is_of_two_classes_or_more(tmp_path):
  one = loaded()
  images = {name: dataclasses.replace(of, num_classes=1, class_names=('all',))
            for name, of in splits().items()}  # fmt: skip
  network = dataclasses.replace(told_by_quarters(), class_names=())
  alone = dataclasses.replace(measure(tmp_path, ('reconstruction',), 0, network), splits=images)
  (found,) = alone.scored(one, one.spec(), [0], encoder_scores.picture_of(700, None))
  assert found.keys() == {'reconstruction_mse20_test', 'reconstruction_ratio20_test'}
  assert [path.name for path in tmp_path.iterdir()] == ['reconstructions_step700.png']
  spec = latents.parse('0.5')
  assert encoder_scores.picture_of(None, spec) == 'reconstructions_0.5-resample.png'
  assert encoder_scores.picture_of(None, None) == 'reconstructions.png'


def exported(path):
  """BigBiGAN's smallest networks with drawn weights, as a run would export them."""
  architecture = {
    'latent': 'normal', 'posterior': 'normal', 'attention': [], 'resolution': 16, 'ch': 4,
    'z_dim': 12, 'shared_dim': 4, 'channels': 1, 'bn_eps': 1e-4, 'encoder': 'resnet14',
    'enc_resolution': 16, 'enc_ch': 4, 'enc_mlp': 8, 'enc_bn_eps': 1e-5,
  }  # fmt: skip
  both = bigbigan.make_generator(architecture)
  x, z, y = jnp.zeros((2, 16, 16, 1)), jnp.zeros((2, 12)), jnp.zeros((2,), jnp.int32)
  gen = jax.eval_shape(lambda: both.net.init(jax.random.key(0), z, y, True))
  enc = jax.eval_shape(lambda: both.enc_net.init(jax.random.key(0), x, True))
  ones = lambda tree, *lead: jax.tree.map(lambda x: np.ones((*lead, *x.shape), np.float32), tree)
  tree = {
    'params': {'gen': weights(gen['params']), 'enc': weights(enc['params'])},
    'stats': ones(gen['moments'], 1), 'knots': np.full(1, np.inf, np.float32),
    'enc_stats': ones(enc['moments']),
  }  # fmt: skip
  sampling = {
    'dialect': 'resample', 'standing_passes': 2, 'standing_batch': 8, 'truncations': ['none'],
  }  # fmt: skip
  card = {
    'format': cards.FORMAT, 'algorithm': 'bigbigan', 'architecture': architecture,
    'class_names': ['all'], 'player': 'ge', 'sampling': sampling,
  }  # fmt: skip
  cards.save(str(path), tree, card)
  return str(path)


def test_by_the_verb(bigjax, tmp_path):
  """Labels are the data's, which training did not look at."""
  path = exported(tmp_path / 'x.safetensors')
  status, out, err = bigjax(
    'evaluate', '--params', path, '--reference', 'digits', '--num', 40, '--seeds', '0,1',
    '--metrics', 'linear_probe,knn_probe,reconstruction', '--labels_per_class', 2,
    '--out', tmp_path / 'scores',
  )  # fmt: skip
  assert status == 0, err
  (row,) = [json.loads(line) for line in (tmp_path / 'scores' / 'scores.jsonl').open()]
  assert set(row['scores']) == {
    'linear_probe40_test_avepool_100steps_2perclass',
    'linear_probe40_test_avepool_100steps_2perclass_top5',
    'linear_probe40_test_bncrelu_100steps_2perclass',
    'linear_probe40_test_bncrelu_100steps_2perclass_top5',
    'knn_probe40_test_avepool_k20_2perclass', 'reconstruction_mse40_test',
    'reconstruction_ratio40_test',
  }  # fmt: skip
  assert (
    row['protocol']['labels_per_class'] == 2 and row['protocol']['linear_probe']['steps'] == 100
  )
  assert (tmp_path / 'scores' / 'reconstructions.png').exists()
  assert 'linear_probe40_test_bncrelu_100steps_2perclass' in out
  again = load(path)
  images = np.zeros((3, 16, 16, 1), np.uint8)
  assert again.encode(images).shape == (3, 12) and again.reconstruct(images).shape == images.shape
  assert 'measuring standing statistics' in err  # of which probes alone need none
  status, _, err = bigjax(
    'evaluate', '--params', path, '--reference', 'digits', '--num', 40, '--metrics', 'knn_probe',
    '--out', tmp_path / 'probed',
  )  # fmt: skip
  assert status == 0 and 'measuring' not in err and not (tmp_path / 'probed' / PICTURE).exists()
  status, _, err = bigjax('evaluate', '--params', path, '--metrics', 'knn_probe')
  assert status == 2 and 'training split' in err


def test_what_cannot_be_scored_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='not of images'):
    encoder_scores.refuse(('knn_probe',), None)
  plain = loaded()
  plain.sampler = dataclasses.replace(plain.sampler, generator=contract.PlainGenerator())
  with pytest.raises(errors.UserError, match='no encoder'):
    encoder_scores.refuse(('reconstruction',), plain)
  with pytest.raises(errors.UserError, match='training split'):
    encoder_scores.refuse_images(('reconstruction',), None)
  with pytest.raises(errors.UserError, match='two classes'):
    encoder_scores.refuse_images(('linear_probe',), splits(1)['train'])
  with pytest.raises(errors.UserError, match='labels_per_class'):
    encoder_scores.refuse_images((), None, 3)
  assert encoder_scores.of_none().scored(plain, None, [0, 1]) == [{}, {}]
  assert encoder_scores.of_none().about() == {}
