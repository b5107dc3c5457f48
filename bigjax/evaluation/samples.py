"""Samples to be scored: the one way in which latents and labels are drawn for scores.

Classes come in turn, latents from one seed, so that the first n samples are the same however many
are drawn: what scores a run quickly, and what scores it by protocol, look at the same images.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from bigjax.algorithms.base.contract import Gen, Spec
from bigjax.sampling.sampler import Sampler

BATCH = 256  # samples at a time, of a run's scores
SEED = 0  # of their latents


def draw(
  sampler: Sampler, gen: Gen, spec: Spec, num: int, seed: int, batch: int, side: int | None = None
) -> Iterator[tuple[jax.Array, np.ndarray]]:
  """Yields samples and their labels.

  Args:
    sampler: of the generator.
    gen: prepared for `spec`.
    spec: sampling settings.
    num: how many samples.
    seed: of their latents.
    batch: a multiple of the number of devices.
    side: pixels of what they are compared with; those of a stage that is smaller are enlarged.
  Yields:
    (uint8 [batch, ...] on the devices that made them, int32 [n]): the first n count; n is `batch`
    but for the last.
  """
  for i in range(0, num, batch):
    y = (np.arange(i, i + batch) % sampler.generator.num_classes).astype(np.int32)
    images = sampler.sharded(gen, sampler.latents(seed, batch, spec, i), y, spec)
    # In turn: programs with collectives may not run side by side on CPU devices.
    yield jax.block_until_ready(enlarged(images, side)), y[: num - i]


def enlarged(images: jax.Array, side: int | None) -> jax.Array:
  """Images [B, ..., H, W, C] by repetition at `side` px; as they are where that is no multiple."""
  times, rest = divmod(side or 0, images.shape[-3])
  if times < 2 or rest:
    return images
  return _repeated(images, times)


@functools.partial(jax.jit, static_argnames='times')
def _repeated(images: jax.Array, times: int) -> jax.Array:
  return images.repeat(times, -3).repeat(times, -2)


def whole_batches(batch: int, num_devices: int) -> int:
  """The least multiple of the number of devices that holds a batch."""
  return -(-batch // num_devices) * num_devices
