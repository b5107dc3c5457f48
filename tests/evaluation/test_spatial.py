"""sFID: moments of features of places, against SciPy; references, kept and from files; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from bigjax.core import errors, parallel
from bigjax.evaluation import image_sets, protocol, reference
from bigjax.evaluation.feature_pass import FeaturePass
from bigjax.evaluation.metrics import registry
from bigjax.models.pretrained.registry import FeatureNetwork

SIDE, CHANNELS, KEEPS = 4, 2, frozenset({'spatial'})
DIM = SIDE * SIDE * CHANNELS


def maps(images):
  """Two channels of maps, as ADM's evaluator takes seven: [B, H, W, 2]."""
  x = images.astype(np.float32) / 255
  return x[..., :1] * [1, 0.5] + x[..., 1:2] * [-0.3, 1]


def network():
  def apply(variables, images):
    x = images.astype(jnp.float32) / 255
    weights = jnp.array([[1, 0.5], [-0.3, 1]], jnp.float32)
    seen = jnp.einsum('bhwc,cd->bhwd', x[..., :2], weights, precision='highest')
    return {'features': x.mean((1, 2)), 'logits': x.mean((1, 2)), 'spatial': seen.reshape(-1, DIM)}

  return FeatureNetwork('inception', '0' * 16, 'none', 3, 3, {}, apply, spatial=DIM)


def images(seed, num):
  """Smooth blotches, with noise: numbers of one image hang together."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 150, (num, 2, 2, 3)).repeat(2, 1).repeat(2, 2)
  return (coarse + rng.integers(0, 60 + 40 * seed, (num, SIDE, SIDE, 3))).astype(np.uint8)


def image_set(seed, num, split='train'):
  some = images(seed, num)
  batches = lambda size: image_sets.in_batches(some, np.zeros(num, np.int64), size)
  return image_sets.ImageSet('noise', split, num, some.shape[1:], 1, f'{seed}', batches)


def by_evaluator(a, b):
  """Features laid side by side, NumPy's mean and covariance, SciPy's root: as guided-diffusion."""
  a, b = (maps(some).reshape(len(some), -1).astype(np.float64) for some in (a, b))
  gap, covs = a.mean(0) - b.mean(0), [np.cov(rows, rowvar=False) for rows in (a, b)]
  root = scipy.linalg.sqrtm(covs[0] @ covs[1])
  return gap @ gap + np.trace(covs[0] + covs[1]) - 2 * np.trace(root.real)


def look(of=None, devices=1):
  return FeaturePass(of or network(), KEEPS, parallel.make_mesh(jax.devices()[:devices]), 32)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


def seen(devices=1):
  sees = look(devices=devices)
  samples = image_set(1, 150)
  return sees, sees(samples.batches(32), 150, 'samples')


@pytest.mark.parametrize('devices', [1, 2])
def test_sfid_is_the_evaluators(devices):
  sees, samples = seen(devices)
  for _ in range(2):  # the second time it was kept
    real = reference.cached_reference(sees, image_set(0, 200), KEEPS, 50)
    found = protocol.scored(samples, real, ['sfid'], 'inception', 0)
    want = by_evaluator(images(1, 150), images(0, 200))  # of all real images, not of 50
    assert found == {'sfid150_train_inception': pytest.approx(want, rel=1e-4)}
  fid = protocol.scored(samples, real, ['fid'], 'inception', 0)['fid150_train_inception']
  assert abs(fid / want - 1) > 0.1
  itself = dataclasses.replace(samples, num=0)
  assert registry.METRICS['sfid'].score(samples, itself, 0)['sfid'] < 1e-9


def test_its_name_and_warning():
  name = registry.full_name('sfid', registry.METRICS['sfid'], 50_000, 'train', 'other')
  assert name == 'sfd50k_train_other'
  _, samples = seen()
  few = dataclasses.replace(samples, num=20)
  (words,) = registry.warnings(few, None, ['sfid'])
  assert f'20 samples are too few for a covariance of {DIM} dimensions' in words


def test_statistics_as_guided_diffusion_has_them(tmp_path):
  _, samples = seen()
  rows = maps(images(0, 200)).reshape(200, -1)
  pooled = images(0, 200).mean((1, 2)) / 255
  of = lambda x: (x.mean(0), np.cov(x, rowvar=False))
  (mu, sigma), (mu_s, sigma_s) = of(pooled), of(rows)
  np.savez(tmp_path / 'x.npz', mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
  real = reference.read_statistics(str(tmp_path / 'x.npz'), 3, DIM)
  found = protocol.scored(samples, real, ['sfid'], 'inception', 0)
  want = by_evaluator(images(1, 150), images(0, 200))
  assert found == {'sfid150_stats_inception': pytest.approx(want, rel=1e-4)}
  protocol.refuse(['sfid'], 'stats', 0)
  np.savez(tmp_path / 'y.npz', mu=mu, sigma=sigma)
  assert reference.read_statistics(str(tmp_path / 'y.npz'), 3).seen.spatial is None
  with pytest.raises(errors.UserError, match='has not the arrays mu, sigma and mu_s, sigma_s'):
    reference.read_statistics(str(tmp_path / 'y.npz'), 3, DIM)
  np.savez(tmp_path / 'z.npz', mu=mu, sigma=sigma, mu_s=mu_s[1:], sigma_s=sigma_s)
  with pytest.raises(errors.UserError, match=rf'mu_s \[{DIM - 1}\], sigma_s'):
    reference.read_statistics(str(tmp_path / 'z.npz'), 3, DIM)


def test_networks_without_places_are_refused():
  with pytest.raises(errors.UserError, match="features of places, which the network 'other'"):
    look(dataclasses.replace(network(), name='other', spatial=0))
