"""Features of image sets: extracted in batches on all devices, moments summed up on the host."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.core import errors, parallel
from bigjax.core.progress import Progress, out
from bigjax.evaluation import samples
from bigjax.evaluation.image_sets import ImageBatch
from bigjax.evaluation.metrics import frechet
from bigjax.evaluation.metrics.registry import FeatureStats
from bigjax.models.pretrained import registry as networks
from bigjax.sampling.sampler import Sampler


class FeaturePass:
  """Extracts features of an image set on all devices and accumulates what FID-like metrics need.

  Counts where the time went since the last `restart`.

  Raises:
    UserError: the network has no features of places, or tells no classes apart, and that is to be
      kept.
  """

  def __init__(
    self,
    network: networks.FeatureNetwork,
    keeps: frozenset[str],
    mesh: jax.sharding.Mesh,
    batch: int,
  ):
    self.network, self.mesh = network, mesh
    self.batch = samples.whole_batches(batch, mesh.size)
    self.restart()
    self.keeps = keeps
    if 'logits' in keeps and not network.num_logits:
      raise errors.UserError(
        'the Inception score, and whatever else is of classes, needs a network that tells some '
        f'apart, which {network.name!r} does not; leave it out, as in --metrics=fid,kid,pr, or '
        'give --features=inception.'
      )
    self._dims = {'features': network.dim}
    if 'spatial' in keeps:
      if not network.spatial:
        raise errors.UserError(
          f'sfid is in features of places, which the network {network.name!r} has not; give '
          '--features=inception.'
        )
      self._dims['spatial'] = network.spatial
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
      shift = {name: shape((dim,), np.float32) for name, dim in self._dims.items()}
      return self._look.lower(self.network.variables, images, mask, shift)

  def restart(self) -> None:
    """Count the time from here on."""
    self.seconds = {'making images': 0.0, 'network': 0.0, 'statistics': 0.0}

  def _traced(self, variables: Any, images: Any, mask: Any, shifts: Any) -> dict[str, Any]:
    found = self.network.apply(variables, images)
    sums = {name: frechet.batch_sums(found[name], mask, shift) for name, shift in shifts.items()}
    seen = {'sums': sums}
    seen |= {name: found[name] for name in ('features', 'logits') if name in self.keeps}
    return seen | ({'images': images} if 'images' in self.keeps else {})

  def __call__(
    self, batches: Iterator[ImageBatch], total: int, what: str, kept: np.ndarray | None = None
  ) -> FeatureStats:
    """Feature statistics of all images together.

    Args:
      batches: (uint8 images [b, H, W, C], on the host or the devices; labels [n] or None), of
        `self.batch` images but for the last; where n < b, only the first n images count.
      total: number of images.
      what: for the progress line.
      kept: bool [total], of which images features and pixels are kept (default: all).
    """
    moments = {name: frechet.Moments(dim) for name, dim in self._dims.items()}
    shifts = {name: np.zeros(dim, np.float32) for name, dim in self._dims.items()}
    parts = {name: [] for name in ('features', 'logits', 'images', 'labels')}
    done = 0
    progress = Progress(0, -(-total // self.batch), self.batch, out())
    progress.say(f'{what}: {total:,} images')
    for i, (images, labels) in enumerate(batches):
      num = len(images) if labels is None else len(labels)
      began = time.monotonic()
      if missing := self.batch - len(images):
        images = np.asarray(images)
        images = np.pad(images, ((0, missing), *[(0, 0)] * (images.ndim - 1)))
      mask = (np.arange(self.batch) < num).astype(np.float32)
      with jax.set_mesh(self.mesh):
        placed = parallel.shard_batch(self.mesh, (images, mask))
        found = jax.device_get(self._look(self._variables, *placed, shifts))
        if i == 0:  # float32 sums are exact enough only about the mean: once more
          shifts = {name: sums.first / sums.num for name, sums in found['sums'].items()}
          found = jax.device_get(self._look(self._variables, *placed, shifts))
      looked = time.monotonic()
      for name, sums in found.pop('sums').items():
        moments[name].add(sums, shifts[name])
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
    return FeatureStats(done, moments['features'], **arrays, spatial=moments.get('spatial'))

  def timed(self, batches: Iterator[ImageBatch]) -> Iterator[ImageBatch]:
    """Yields the same batches, and counts the time that they take to be made."""
    while True:
      began = time.monotonic()
      batch = next(batches, None)
      self.seconds['making images'] += time.monotonic() - began
      if batch is None:
        return
      yield batch

  def samples(
    self, sampler: Sampler, gen: Any, spec: Spec, num: int, seed: int, side: int | None = None
  ) -> FeatureStats:
    """Accumulates the statistics of `num` samples, as `samples.draw` makes them."""
    batches = self.timed(samples.draw(sampler, gen, spec, num, seed, self.batch, side))
    return self(batches, num, f'seed {seed}, {spec}')


def fitted(network: networks.FeatureNetwork, size: tuple[int, ...]) -> networks.FeatureNetwork:
  """The network for images or clips of this size: one of images sees a clip frame by frame.

  Args:
    network: of images or of clips.
    size: (H, W, C) of an image, (T, H, W, C) of a clip.
  Raises:
    UserError: they are images, and the network takes clips.
  """
  if network.clips and len(size) == 3:
    raise errors.UserError(
      f'the network {network.name!r} takes clips, and these are images; choose another network.'
    )
  return over_frames(network) if len(size) == 4 and not network.clips else network


def over_frames(network: networks.FeatureNetwork) -> networks.FeatureNetwork:
  """The network of clips [b, T, H, W, C] whose features and logits are the means over frames.

  It does not notice in which order the frames are.
  """

  def apply(variables, clips):
    b, t = clips.shape[:2]
    found = network.apply(variables, clips.reshape(b * t, *clips.shape[2:]))
    return {name: x.reshape(b, t, *x.shape[1:]).mean(1) for name, x in found.items()}

  name = f'{network.name}_frame_mean'
  return dataclasses.replace(network, name=name, apply=apply, clips=True)
