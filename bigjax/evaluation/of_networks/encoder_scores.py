"""Scores of a generator's encoder: probes of its features, and what becomes of its latents.

Their names say of how many images of which split, and by which protocol:
linear_probe10k_test_bncrelu_5000steps, knn_probe10k_test_avepool_k25, reconstruction_mse10k_test.
The encoder is as it is after training, with its own moments: nothing here changes it.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bigjax import data
from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import encoder_of
from bigjax.core import errors
from bigjax.core.progress import Progress, out, say
from bigjax.evaluation.image_sets import ImageSet
from bigjax.evaluation.metrics import probes, registry
from bigjax.evaluation.of_networks import refusals
from bigjax.models.pretrained.registry import FeatureNetwork
from bigjax.sampling import grids
from bigjax.sampling.loaded import Loaded

SHOWN = 24  # images in the picture of reconstructions, at most
COLUMNS = 8
PICTURE = 'reconstructions.png'


def refuse(metrics: Sequence[str], loaded: Loaded | None) -> None:
  """Refuse scores that this generator cannot have.

  Args:
    metrics: of registry.OF_ENCODER.
    loaded: the generator; None where images are scored.
  Raises:
    UserError: names the first.
  """
  need = lambda generator, name: encoder_of(generator, f'--metrics={name}')
  refusals.refuse(metrics, loaded, 'a score of an encoder', need)


def refuse_images(
  metrics: Sequence[str], train: ImageSet | None, labels_per_class: int = 0
) -> None:
  """Refuse real images that probes learn nothing from.

  Args:
    metrics: of registry.OF_ENCODER.
    train: what they learn from; None where no real images are named.
    labels_per_class: how many of each class have labels; 0: all.
  Raises:
    UserError: says which.
  """
  asked = [name for name in metrics if name in registry.PROBES]
  if metrics and train is None:
    raise errors.UserError(
      f'--metrics={metrics[0]} needs real images with a training split; give --reference, such as '
      'tfds:cifar10/train.'
    )
  if asked and train.num_classes < 2:
    raise errors.UserError(
      f'--metrics={asked[0]} needs two classes or more, and {train.name!r} has {train.num_classes}.'
    )
  if labels_per_class and not asked:
    raise errors.UserError(
      '--labels_per_class is of probes: ask for one with --metrics, such as linear_probe, or leave '
      'it out.'
    )


@dataclasses.dataclass(frozen=True)
class Measure:
  """What these scores are measured with.

  Attributes:
    metrics: of registry.OF_ENCODER; () measures nothing.
    splits: real images of the size that the encoder takes: 'train', 'test'.
    num: of the test images, at most.
    labels_per_class: training images of each class whose labels probes know; 0: all.
    network: trained on the same classes, which tells what reconstructions show; None for none.
    batch: images at a time.
    folder: where the picture goes.
  """

  metrics: Sequence[str]
  splits: dict[str, ImageSet]
  num: int
  labels_per_class: int
  network: FeatureNetwork | None
  batch: int
  folder: str

  def about(self) -> dict[str, Any]:
    """What of it a score depends on, for its protocol."""
    if not self.metrics:
      return {}
    found = {'encoder_digest': {name: of.digest for name, of in self.splits.items()}}
    if 'linear_probe' in self.metrics:
      found['linear_probe'] = dataclasses.asdict(probes.RECIPE)
    return found | {'labels_per_class': self.labels_per_class or 'all'}

  @property
  def needs_generator(self) -> bool:
    """Whether a generator has to be prepared: probes look at the encoder alone."""
    return 'reconstruction' in self.metrics

  def scored(
    self, loaded: Loaded, spec: Spec, seeds: Sequence[int], picture: str = PICTURE
  ) -> list[dict[str, float]]:
    """{Full name: value} of a generator, prepared for `spec`, for each seed.

    Seeds are of what a probe draws; reconstructions follow from the images, and are drawn into the
    file `picture`.
    """
    found: list[dict[str, float]] = [{} for _ in seeds]
    if any(name in registry.PROBES for name in self.metrics):
      train = self.seen(loaded, 'train')
      test = self.seen(loaded, 'test')
      for scores, seed in zip(found, seeds, strict=True):
        scores |= self.probed(train, test, seed)
    if self.needs_generator:
      reconstructed = self.reconstructed(loaded, spec, picture)
      found = [{**scores, **reconstructed} for scores in found]
    return found

  def parts(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Real images and their labels, of the test split at most `num`, evenly chosen."""
    images = self.splits[split]
    most = images.num if split == 'train' else min(self.num, images.num)
    kept, done = np.isin(np.arange(images.num), data.subset(images.num, most)), 0
    progress = Progress(0, -(-images.num // self.batch), self.batch, out())
    progress.say(f'{images.name}/{split}: {most:,} images')
    for i, (some, labels) in enumerate(images.batches(self.batch)):
      pick = kept[done : done + len(some)]
      done += len(some)
      if pick.any():
        yield some[pick], np.asarray(labels)[pick]
      progress.update(i + 1, {})

  def seen(self, loaded: Loaded, split: str) -> probes.Seen:
    """The encoder's features of a split, and its labels."""
    found = [(loaded.features(some, self.batch), labels) for some, labels in self.parts(split)]
    features, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    return features, labels

  def probed(self, train: probes.Seen, test: probes.Seen, seed: int) -> dict[str, float]:
    """Scores of the probes, which know some of the labels, drawn by a seed."""
    pick = probes.few(train[1], self.labels_per_class, seed)
    words = [f'{self.labels_per_class}perclass'] if self.labels_per_class else []
    known, found = (train[0][pick], train[1][pick]), {}
    begin = lambda name: f'{name}{registry.thousands(len(test[1]))}_test'
    if 'knn_probe' in self.metrics:
      k = min(probes.NEIGHBOURS, len(pick))
      name = '_'.join([begin('knn_probe'), 'avepool', f'k{k}', *words])
      found[name] = probes.neighbours(known, test, k)
    if 'linear_probe' in self.metrics:
      steps = f'{probes.RECIPE.steps}steps'
      changes = {'avepool': probes.as_they_are, 'bncrelu': probes.bncrelu(train[0])}
      for kind, change in changes.items():
        shares = probes.linear(known, test, change, seed)
        for top, share in shares.items():
          of_top = [f'top{top}'] if top > 1 else []
          found['_'.join([begin('linear_probe'), kind, steps, *words, *of_top])] = share
    return found

  def reconstructed(self, loaded: Loaded, spec: Spec, picture: str) -> dict[str, float]:
    """Scores of G(E(x)), and their picture: each image, and below it what was made of it.

    reconstruction_mse: mean squared difference of pixels in [0, 1]. reconstruction_ratio: that over
    the same of reconstructions of other images; 1 tells nothing apart.
    reconstruction_agreement_NETWORK: the share that shows the image's class, of two or more.
    """
    network = self.network if self.splits['train'].num_classes > 1 else None
    look = network and jax.jit(network.apply)
    side, named = loaded.shape[-3], self.splits['train'].class_names
    squares, others, hits, num, shown = 0.0, 0.0, 0, 0, []
    for images, labels in self.parts('test'):
      z = loaded.encode(images, self.batch)
      y = labels if loaded.num_classes > 1 else np.zeros_like(labels)
      made = loaded.images(z, y.astype(np.int32), spec, self.batch)
      real, num = data.shrunk(images, side), num + len(images)
      away = lambda a, b: float(np.square(a / 255.0 - b / 255.0).mean((1, 2, 3)).sum())
      squares, others = (
        squares + away(real, made),
        others + away(real, np.roll(made, max(len(made) // 2, 1), 0)),
      )
      if network is not None:
        told = np.asarray(look(network.variables, made)['logits']).argmax(1)
        hits += sum(network.class_names[a] == named[b] for a, b in zip(told, labels, strict=True))
      if len(shown) < SHOWN:
        shown += list(zip(real, made, strict=True))[: SHOWN - len(shown)]
    self.draw(shown, picture)
    words = f'{registry.thousands(num)}_test'
    found = {
      f'reconstruction_mse{words}': squares / num,
      f'reconstruction_ratio{words}': squares / max(others, 1e-12),
    }
    if network is not None:
      found[f'reconstruction_agreement{words}_{network.name}'] = hits / num
    return found

  def draw(self, shown: Sequence[tuple[np.ndarray, np.ndarray]], picture: str) -> None:
    """Write the file `picture`: rows of images, each above the row of what was made of them."""
    columns = min(COLUMNS, len(shown))
    rows = []
    for i in range(0, len(shown) // columns * columns, columns):
      for part in zip(*shown[i : i + columns], strict=True):
        rows.extend(part)
    path = os.path.join(self.folder, picture)
    os.makedirs(self.folder, exist_ok=True)
    grids.grid(np.stack(rows), columns).save(path)
    say(f'{path}: real images, and below each what the generator makes of its latents')


def picture_of(step: int | None, spec: Spec | None) -> str:
  """The name of the picture of one of several: reconstructions_step700_0.5-resample.png.

  Args:
    step: of its checkpoint; None where there is one.
    spec: its sampling settings; None where there are one of these.
  """
  truncation = spec and str(spec.described().get('truncation', '')).replace(':', '-')
  words = [*([f'step{step}'] if step is not None else []), *([truncation] if truncation else [])]
  stem, ending = os.path.splitext(PICTURE)
  return '_'.join([stem, *words]) + ending


def of_none() -> Measure:
  """In the place of one where no score is of an encoder."""
  return Measure((), {}, 0, 0, None, 1, '')
