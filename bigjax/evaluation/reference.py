"""What samples are compared with: real images, or statistics of them, seen by a network once.

What it sees is kept in the cache folder, under a digest of images and weights.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from bigjax import data
from bigjax.core import errors, files, parallel
from bigjax.evaluation import image_sets
from bigjax.evaluation.feature_pass import FeaturePass
from bigjax.evaluation.image_sets import ImageBatch, ImageSet
from bigjax.evaluation.metrics import frechet
from bigjax.evaluation.metrics.registry import FeatureStats
from bigjax.evaluation.quick import classifier
from bigjax.models.pretrained import registry as networks

ROUNDING = 1e-4  # of a covariance of thousands of features in float32, relative to its largest
MOST_MOMENT = 1e30  # products of larger ones overflow: the distance would be inf


def no_network() -> networks.FeatureNetwork:
  """In the place of one where no score looks at features: one feature, always 0."""
  apply = lambda variables, images: {'features': jnp.zeros((len(images), 1), jnp.float32)}
  return networks.FeatureNetwork('none', 'none', 'none', 1, 0, {}, apply)


def open_network(name: str, weights: str | None, train: ImageSet | None) -> networks.FeatureNetwork:
  """Return the network in whose features scores are computed.

  Args:
    name: of registry.NETWORKS, or 'classifier': the small one that is trained on the reference's
      images or clips, for sets that have none.
    weights: a file, or None for where they are usually kept.
    train: the training images of the reference, for 'classifier'.
  Raises:
    UserError: there is no such network, or its weights cannot be had.
  """
  errors.pick(name, {**networks.NETWORKS, 'classifier': None}, '--features')
  if name != 'classifier':
    return networks.load(name, weights)
  if train is None:
    raise errors.UserError(
      '--features=classifier is trained on the labelled images of --reference; give one, such as '
      'tfds:cifar10 or digits.'
    )
  trained, _ = classifier.trained_on(train.some)
  return networks.FeatureNetwork(
    name=name,
    digest=trained.digest,
    resizer='none',
    dim=trained.net.widths[-1],
    num_logits=trained.net.num_classes,
    variables=trained.variables,
    apply=trained.apply,
    class_names=tuple(train.class_names[label] for label in trained.known),
    clips=len(train.size) == 4,
  )


@dataclasses.dataclass(frozen=True)
class Reference:
  """The reference of a score: a split of real images, and its statistics in the features."""

  name: str
  split: str
  digest: str
  seen: FeatureStats


def cached_reference(
  look: FeaturePass, images: ImageSet, keeps: frozenset[str], num: int
) -> Reference:
  """Feature statistics of real images: moments of all, the rest of at most `num`.

  Moments and features are kept in the cache folder, under a digest of images and weights.
  """
  told = f'{images.digest} {look.network.name} {look.network.digest} {look.network.resizer} '
  key = hashlib.sha256((told + f'{sorted(keeps)} {num}').encode()).hexdigest()[:16]
  path = os.path.join(files.cache_dir(), 'references', f'{key}.npz')
  seen = None if 'images' in keeps else read_reference(path)
  if not parallel.agreed(seen is not None):  # all look, or none: there are collectives in it
    kept = np.isin(np.arange(images.num), data.subset(images.num, num))
    words = f'reference {images.name}/{images.split}'
    seen = look(images.batches(look.batch), images.num, words, kept)
    if 'images' not in keeps:
      write_reference(path, seen)
  return Reference(images.name, images.split, images.digest, seen)


def read_reference(path: str) -> FeatureStats | None:
  """Reads what `write_reference` wrote; None where it is missing or damaged."""
  arrays = files.read_cache(path)
  if arrays is None or not arrays.keys() >= {'num', 'mean', 'cov'}:
    return None
  num = int(arrays.pop('num'))
  moments = frechet.Moments.of(num, arrays.pop('mean'), arrays.pop('cov'))
  if 'spatial_mean' in arrays:
    of_places = (arrays.pop(f'spatial_{name}') for name in ('mean', 'cov'))
    arrays['spatial'] = frechet.Moments.of(num, *of_places)
  return FeatureStats(moments.num, moments, **arrays)


def write_reference(path: str, seen: FeatureStats) -> None:
  """Keep what is known of a reference."""
  arrays = {name: getattr(seen, name) for name in ('features', 'logits', 'labels')}
  arrays = {name: array for name, array in arrays.items() if array is not None}
  moments = {name: getattr(seen.moments, name) for name in ('num', 'mean', 'cov')}
  if seen.spatial is not None:
    arrays |= {f'spatial_{name}': getattr(seen.spatial, name) for name in ('mean', 'cov')}
  files.write_cache(path, {**moments, **arrays}, 'the reference')


def read_statistics(path: str, dim: int, spatial: int = 0) -> Reference:
  """Return the reference whose mean and covariance an .npz holds: `mu`, `sigma`, as pytorch-fid's.

  Args:
    path: of the file.
    dim: of the features.
    spatial: features of places, whose `mu_s` and `sigma_s` are read too, as guided-diffusion's
      files of references have them; 0: none.
  Raises:
    UserError: it does not hold them, or of other features.
  """
  wanted = {'': dim, **({'_s': spatial} if spatial else {})}
  try:
    with np.load(path) as file:
      found = {end: (file[f'mu{end}'], file[f'sigma{end}']) for end in wanted}
  except KeyError:
    names = ' and '.join(f'mu{end}, sigma{end}' for end in wanted)
    raise errors.UserError(
      f'--reference={path} has not the arrays {names}; expected the statistics that pytorch-fid '
      "writes (for sfid, one of guided-diffusion's references), or a source of images such as "
      'tfds:cifar10/train.'
    ) from None
  except Exception as error:  # zipfile has a dozen ways to say that a file is damaged
    raise errors.UserError(f'--reference={path} cannot be read ({error}).') from None
  told = hashlib.sha256()
  for end, (mean, cov) in found.items():
    found[end] = _gaussian(path, end, mean, cov, wanted[end])
    told.update(found[end].mean.tobytes() + found[end].cov.tobytes())
  seen = FeatureStats(0, found[''], spatial=found.get('_s'))
  return Reference(path, 'stats', told.hexdigest()[:16], seen)


def _gaussian(path: str, end: str, mean: np.ndarray, cov: np.ndarray, dim: int) -> frechet.Gaussian:
  """The arrays mu and sigma with this ending; UserError: they are none of so many features."""
  if mean.shape != (dim,) or cov.shape != (dim, dim):
    raise errors.UserError(
      f'--reference={path} is of {mean.size} features (mu{end} {list(mean.shape)}, sigma{end} '
      f'{list(cov.shape)}), the network gives {dim}; give statistics of the same features, mu{end} '
      f'[{dim}] and sigma{end} [{dim}, {dim}].'
    )
  for name, array in ((f'mu{end}', mean), (f'sigma{end}', cov)):
    what = f'the array {name!r} of {path!r}'
    files.check_array(array, what, least=-MOST_MOMENT, most=MOST_MOMENT)
  mean, cov = mean.astype(np.float64), cov.astype(np.float64)
  check_covariance(cov, f"the array 'sigma{end}' of {path!r}")
  return frechet.Gaussian(mean, cov)


def check_covariance(cov: np.ndarray, what: str) -> None:
  """Refuse a matrix [d, d] that is no covariance, up to what float32 rounds.

  A Frechet distance to it would be any number, 0 too.

  Args:
    cov: float64.
    what: it is, with the name of its file.
  Raises:
    UserError: it is not symmetric, or has a negative eigenvalue.
  """
  if np.abs(cov - cov.T).max() > ROUNDING * np.abs(cov).max():
    raise errors.UserError(f'{what} is no covariance: it is not symmetric.')
  values = np.linalg.eigvalsh(cov)
  if values[0] < -ROUNDING * max(values[-1], 0):
    raise errors.UserError(
      f'{what} is no covariance: its eigenvalues are {values[0]:.3g} to {values[-1]:.3g}, and none '
      'may be negative.'
    )


def chosen(batches: Iterator[ImageBatch], kept: np.ndarray, size: int) -> Iterator[ImageBatch]:
  """Yield those of the images that are kept, in full batches."""

  def parts():
    done = 0
    for images, labels in batches:
      pick = np.flatnonzero(kept[done : done + len(images)])
      done += len(images)
      yield images[pick], None if labels is None else labels[pick]

  return image_sets.rebatched(parts(), size)
