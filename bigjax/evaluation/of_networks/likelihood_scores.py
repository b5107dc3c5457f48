"""Scores of the likelihood that a generator gives real images, in bits per dimension.

Their names say of how many held-out images, and how it is computed: nll_bpd450_test_1000steps. What
is drawn for an image follows from the seed and the image's number, whatever the batch. Beside them
stands what the same images take by a histogram of each pixel, nll_bpd_of_pixel_histogram450_test,
which no generator should need more than.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigjax import data
from bigjax.algorithms.base.generators.parts import likelihood_of
from bigjax.core.progress import Progress, out
from bigjax.evaluation.image_sets import ImageSet
from bigjax.evaluation.metrics import registry
from bigjax.evaluation.of_networks import pixel_histogram, refusals
from bigjax.evaluation.reference import chosen
from bigjax.sampling.loaded import Loaded

FITTED = 50_000  # training images that the histograms are of, at most
FITTED_BYTES = 2**28  # that these take


def refuse(metrics: Sequence[str], loaded: Loaded | None) -> None:
  """Refuse scores that this generator cannot have.

  Args:
    metrics: of registry.OF_LIKELIHOOD.
    loaded: the generator; None where images are scored.
  Raises:
    UserError: names the first.
  """
  need = lambda generator, name: likelihood_of(generator, f'--metrics={name}')
  refusals.refuse(metrics, loaded, 'of the likelihood that a generator gives images', need)


@dataclasses.dataclass(frozen=True)
class Measure:
  """What these scores are measured with.

  Attributes:
    metrics: of registry.OF_LIKELIHOOD; () measures nothing.
    splits: real images of the generator's size: 'train', 'test'.
    num: of the test images, at most.
    batch: images at a time.
  """

  metrics: Sequence[str]
  splits: dict[str, ImageSet]
  num: int
  batch: int

  def about(self) -> dict[str, Any]:
    """What of it a score depends on, for its protocol."""
    return {'likelihood_digest': self.splits['test'].digest} if self.metrics else {}

  def scored(self, loaded: Loaded, seeds: Sequence[int]) -> list[dict[str, float]]:
    """{Full name: value} of a generator for each seed."""
    if not self.metrics:
      return [{} for _ in seeds]
    test, train = self.splits['test'], self.splits['train']
    numbers = data.subset(test.num, self.num)
    fit = max(min(FITTED, FITTED_BYTES // math.prod(test.size)), 1)
    some, _ = train.some(fit)
    counts, of_histogram = pixel_histogram.fitted(some), 0.0
    totals, done = np.zeros(len(seeds)), 0
    kept = np.isin(np.arange(test.num), numbers)
    progress = Progress(0, -(-len(numbers) // self.batch), self.batch, out())
    progress.say(f'likelihood of {test.name}/{test.split}: {len(numbers):,} images')
    for i, (images, labels) in enumerate(chosen(test.batches(self.batch), kept, self.batch)):
      y = np.asarray(labels if loaded.num_classes > 1 else np.zeros(len(images)), np.int32)
      own = numbers[done : done + len(images)].astype(np.int32)
      for j, seed in enumerate(seeds):
        found = loaded.sampler.bits(loaded.stored, images, y, own, seed, self.batch)
        totals[j] += found.sum(dtype=np.float64)
      of_histogram += pixel_histogram.bits(counts, images).sum()
      done += len(images)
      progress.update(i + 1, {})
    words = f'{registry.thousands(done)}_test'
    name = f'nll_bpd{words}_{likelihood_of(loaded.sampler.generator, "nll_bpd").words}'
    beside = f'nll_bpd_of_pixel_histogram{words}_{registry.thousands(len(some))}train'
    return [{name: float(total / done), beside: float(of_histogram / done)} for total in totals]


def of_none() -> Measure:
  """In the place of one where no score is of a likelihood."""
  return Measure((), {}, 0, 1)
