"""A network looks at images for the scores: in batches, on all devices, sums on the host.

What it sees in real images is kept in the cache folder, under a digest of images and weights.
"""

import dataclasses
import functools
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bigjax import build, data, parallel, real, report, utils
from bigjax import features as networks
from bigjax.evaluators import classifier
from bigjax.evaluators.scores import frechet
from bigjax.evaluators.scores.table import Seen
from bigjax.latents import How
from bigjax.real import Images, Labelled


def say(text: str) -> None:
  """Print a line on stderr, from one process of all."""
  report.Progress(0, 0, 0, _out()).say(text)


def _out() -> Any:
  return sys.stderr if jax.process_index() == 0 else None


class Looker:
  """A network on a mesh, and where the time went since the last `restart`."""

  def __init__(
    self, network: networks.Features, keeps: frozenset[str], mesh: jax.sharding.Mesh, batch: int
  ):
    self.network, self.mesh = network, mesh
    self.batch = -(-batch // mesh.size) * mesh.size
    self.restart()
    self._keeps = keeps
    examples, everywhere = parallel.batched(mesh), parallel.replicated(mesh)
    self._look = jax.jit(
      self._traced,
      in_shardings=(everywhere, examples, examples, everywhere),
      out_shardings=everywhere,
    )

  @functools.cached_property
  def _variables(self) -> Any:
    return jax.device_put(self.network.variables, parallel.replicated(self.mesh))

  def lower(self, size: tuple[int, int, int]) -> jax.stages.Lowered:
    """Return the program of a batch of images [H, W, C], traced for this mesh, not compiled."""
    shape = jax.ShapeDtypeStruct
    images, mask = shape((self.batch, *size), np.uint8), shape((self.batch,), np.float32)
    with jax.set_mesh(self.mesh):
      shift = shape((self.network.dim,), np.float32)
      return self._look.lower(self.network.variables, images, mask, shift)

  def restart(self) -> None:
    """Count the time from here on."""
    self.seconds = {'making images': 0.0, 'network': 0.0, 'statistics': 0.0}

  def _traced(self, variables: Any, images: Any, mask: Any, shift: Any) -> dict[str, Any]:
    found = self.network.apply(variables, images)
    seen = {'sums': frechet.batch_sums(found['features'], mask, shift)}
    seen |= {name: found[name] for name in ('features', 'logits') if name in self._keeps}
    return seen | ({'images': images} if 'images' in self._keeps else {})

  def __call__(
    self, batches: Iterator[Labelled], total: int, what: str, kept: np.ndarray | None = None
  ) -> Seen:
    """Return what is known of all images together.

    Args:
      batches: (uint8 images [b, H, W, C], on the host or the devices; labels [n] or None), of
        `self.batch` images but for the last; where n < b, only the first n images count.
      total: number of images.
      what: for the progress line.
      kept: bool [total], of which images features and pixels are kept (default: all).
    """
    moments, shift = frechet.Moments(self.network.dim), np.zeros(self.network.dim, np.float32)
    parts = {name: [] for name in ('features', 'logits', 'images', 'labels')}
    done = 0
    progress = report.Progress(0, -(-total // self.batch), self.batch, _out())
    progress.say(f'{what}: {total:,} images')
    for i, (images, labels) in enumerate(batches):
      num = len(images) if labels is None else len(labels)
      began = time.monotonic()
      if missing := self.batch - len(images):
        images = np.pad(np.asarray(images), ((0, missing), (0, 0), (0, 0), (0, 0)))
      mask = (np.arange(self.batch) < num).astype(np.float32)
      with jax.set_mesh(self.mesh):
        placed = parallel.place(self.mesh, (images, mask))
        found = jax.device_get(self._look(self._variables, *placed, shift))
        if i == 0:  # float32 sums are exact enough only about the mean: once more
          shift = found['sums'].first / found['sums'].num
          found = jax.device_get(self._look(self._variables, *placed, shift))
      looked = time.monotonic()
      moments.add(found.pop('sums'), shift)
      rows = slice(num) if kept is None else np.flatnonzero(kept[done : done + num])
      for name, array in found.items():
        parts[name].append(array[:num][rows])
      if labels is not None:
        parts['labels'].append(np.asarray(labels)[rows])
      done += num
      self.seconds['network'] += looked - began
      self.seconds['statistics'] += time.monotonic() - looked
      progress.update(i + 1, {}) if i else progress.restart(1)
    arrays = {name: np.concatenate(part) for name, part in parts.items() if part}
    return Seen(done, moments, **arrays)

  def samples(
    self, sampler: build.Sampler, gen: Any, how: How, num: int, num_classes: int, seed: int
  ) -> Seen:
    """Return what is known of `num` samples, their classes in turn."""
    labels = np.arange(num, dtype=np.int32) % num_classes
    z = sampler.latents(seed, num, how)

    def batches():
      for i in range(0, num, self.batch):
        began = time.monotonic()
        some, y = z[i : i + self.batch], labels[i : i + self.batch]
        missing = ((0, self.batch - len(y)), (0, 0))
        images = sampler.spread(gen, np.pad(some, missing), np.pad(y, missing[0]), how)
        # In turn: programs with collectives may not run side by side on CPU devices.
        jax.block_until_ready(images)
        self.seconds['making images'] += time.monotonic() - began
        yield images, y

    return self(batches(), num, f'seed {seed}, {how}')


def open_network(name: str, weights: str | None, train: Images | None) -> networks.Features:
  """Return the network in whose features scores are computed.

  Args:
    name: of features.NETWORKS, or 'classifier': the small one that is trained on the reference's
      images, for sets that have none.
    weights: a file, or None for where they are usually kept.
    train: the training images of the reference, for 'classifier'.
  Raises:
    UserError: there is no such network, or its weights cannot be had.
  """
  utils.pick(name, {**networks.NETWORKS, 'classifier': None}, '--features')
  if name != 'classifier':
    return networks.load(name, weights)
  if train is None:
    raise utils.UserError(
      '--features=classifier is trained on the labelled images of --reference; give one, such as '
      'tfds:cifar10 or digits.'
    )
  trained, _ = classifier.trained_on(train.some)
  return networks.Features(
    name=name,
    digest=trained.digest,
    resizer='none',
    dim=classifier.RECIPE.widths[-1],
    num_logits=trained.net.num_classes,
    variables=trained.variables,
    apply=trained.apply,
  )


@dataclasses.dataclass(frozen=True)
class Reference:
  """What samples are compared with: a split of real images, and what a network sees in it."""

  name: str
  split: str
  digest: str
  seen: Seen


def cached_reference(look: Looker, images: Images, keeps: frozenset[str], num: int) -> Reference:
  """Return what the network sees in real images: moments of all, the rest of at most `num`.

  Moments and features are kept in the cache folder, under a digest of images and weights.
  """
  told = f'{images.digest} {look.network.name} {look.network.digest} {look.network.resizer} '
  key = hashlib.sha256((told + f'{sorted(keeps)} {num}').encode()).hexdigest()[:16]
  path = os.path.join(utils.cache_dir(), 'references', f'{key}.npz')
  seen = None if 'images' in keeps else read_reference(path)
  if not parallel.agreed(seen is not None):  # all look, or none: there are collectives in it
    kept = np.isin(np.arange(images.num), data.spread(images.num, num))
    words = f'reference {images.name}/{images.split}'
    seen = look(images.batches(look.batch), images.num, words, kept)
    if 'images' not in keeps:
      write_reference(path, seen)
  return Reference(images.name, images.split, images.digest, seen)


def read_reference(path: str) -> Seen | None:
  """Return what `write_reference` wrote, or None where it is missing or damaged."""
  try:
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
  except Exception:  # zipfile has a dozen ways to say that a file is damaged
    return None
  moments = frechet.Moments.of(int(arrays.pop('num')), arrays.pop('mean'), arrays.pop('cov'))
  return Seen(moments.num, moments, **arrays)


def write_reference(path: str, seen: Seen) -> None:
  """Keep what is known of a reference; a cache that cannot be written is no error."""
  arrays = {name: getattr(seen, name) for name in ('features', 'logits', 'labels')}
  moments = {name: getattr(seen.moments, name) for name in ('num', 'mean', 'cov')}
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f'{path}.{os.getpid()}.partial'
    with open(partial, 'wb') as file:
      np.savez(file, **moments, **{k: v for k, v in arrays.items() if v is not None})
    os.replace(partial, path)
  except OSError as error:
    say(f'the reference cannot be kept in {os.path.dirname(path)!r} ({error.strerror})')


def read_statistics(path: str, dim: int) -> Reference:
  """Return the reference whose mean and covariance an .npz holds: `mu`, `sigma`, as pytorch-fid's.

  Raises:
    UserError: it does not hold them, or of other features.
  """
  try:
    with np.load(path) as file:
      mean, cov = (np.asarray(file[name], np.float64) for name in ('mu', 'sigma'))
  except KeyError:
    raise utils.UserError(
      f'--reference={path} has no arrays mu and sigma; expected the statistics that pytorch-fid '
      'writes, or a source of images such as tfds:cifar10/train.'
    ) from None
  except Exception as error:  # zipfile has a dozen ways to say that a file is damaged
    raise utils.UserError(f'--reference={path} cannot be read ({error}).') from None
  if mean.shape != (dim,) or cov.shape != (dim, dim):
    raise utils.UserError(
      f'--reference={path} is of {mean.size} features, the network gives {dim}; give statistics of '
      'the same features.'
    )
  digest = hashlib.sha256(mean.tobytes() + cov.tobytes()).hexdigest()[:16]
  return Reference(path, 'stats', digest, Seen(0, frechet.Gaussian(mean, cov)))


def chosen(batches: Iterator[Labelled], kept: np.ndarray, size: int) -> Iterator[Labelled]:
  """Yield those of the images that are kept, in full batches."""

  def parts():
    done = 0
    for images, labels in batches:
      pick = np.flatnonzero(kept[done : done + len(images)])
      done += len(images)
      yield images[pick], labels[pick]

  return real.rebatched(parts(), size)
