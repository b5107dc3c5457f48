"""Scores in the features of a classifier of the real images or clips, for sets without Inception.

A small network (models/pretrained/small_classifier.py) learns the real training images once,
deterministically, and is kept in the cache folder: their classes, and to tell images as they are
from distorted ones (evaluation/distortions.py), without which noise would pass for photos. Its
penultimate features stand in for Inception's: what is computed in
them must not be compared with published FIDs, nor between sets or recipes. In them:

agreement, worst_class: share of samples, in all and in the worst class, whose predicted class is
the label that was asked for (1 where there is one class).
fd_held_out_classifier: Frechet distance of Gaussians (Heusel et al. 2017) fitted to the samples and
to the held-out images, in units of the features' mean variance on the latter. It falls as samples
get more: compare at one eval.num_samples.
precision (Kynkaanniemi et al. 2019), coverage (Naeem et al. 2020): k = 3, of as many samples as
held-out images (the smaller number, PAIRS at most), so that they hardly depend on the numbers. Left
out where fewer than four images are held out.
std_ratio: mean over classes of the standard deviation of features within one, over that of the
held-out images (a collapsed class is near 0).

Of larger sets, TRAINED_ON training and HELD_OUT held-out images stand for all; images of more than
LARGEST pixels a side are averaged down to fewer.

Clips [T, H, W, C] are scored as wholes: their frames are channels of an image, and the network sees
windows of three of them, so that its features know motion, and learns to tell clips in another
order of time, too. Their recipe is CLIP_RECIPE.
"""

import dataclasses
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from bigjax.core import files, trees
from bigjax.core.progress import Progress, out, say
from bigjax.data import Labelled
from bigjax.evaluation import distortions
from bigjax.evaluation.metrics import frechet, precision_recall
from bigjax.evaluation.quick import NEIGHBOURS, Groups, RealImages, Scores, of_groups
from bigjax.models.pretrained import small_classifier as models

TRAINED_ON = 20_000
HELD_OUT = 10_000
SCORES = (
  'agreement', 'worst_class', 'fd_held_out_classifier', 'precision', 'coverage', 'std_ratio',
)  # fmt: skip
FLOOR = 2000  # real training images that the floor scores: about what eval.num_samples is
PAIRS = 4000
LARGEST = 64
CHUNK = 250  # images of a forward pass
MOST_BYTES = 2**32  # of real images in memory before they are reduced


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the classifier is trained. Whatever changes its weights changes this, so also `version`."""

  version: int = 2
  widths: tuple[int, ...] = (32, 64, 96, 96)
  batch: int = 128
  epochs: int = 14
  min_steps: int = 400  # for small sets
  lr: float = 1e-2
  weight_decay: float = 1e-2
  smoothing: float = 0.1  # of labels
  distorted: float = 0.5  # share of a batch; its classes are not asked for
  shift: float = 1 / 16  # of the side, at most, in either direction
  seed: int = 0


RECIPE = Recipe()
# A clip of 8 frames is work for four images, so that fewer are seen; they are never mirrored.
CLIP_RECIPE = Recipe(version=1, widths=(16, 32, 64, 64), batch=32, epochs=3, distorted=0.3)


def evenly(labelled: Labelled, most: int) -> Labelled:
  """Return at most `most` of the images, evenly spaced within every class, in the given order."""
  images, labels = labelled
  if len(labels) <= most:
    return images, labels
  by_class = np.argsort(labels, kind='stable')
  pick = np.sort(by_class[np.arange(most) * len(labels) // most])
  return images[pick], labels[pick]


def frames_of(shape: tuple[int, ...]) -> int:
  """Frames of a clip [T, H, W, C]; 1 of an image [H, W, C]."""
  return math.prod(shape[:-3])


def stacked(images: Any) -> Any:
  """Clips [n, T, H, W, C] as images with their frames as channels, [n, H, W, T C]; or images."""
  if images.ndim == 4:
    return images
  n, t, h, w, c = images.shape
  return images.transpose(0, 2, 3, 1, 4).reshape(n, h, w, t * c)


def reduce(images: np.ndarray) -> np.ndarray:
  """Return uint8 images [n, H, H, C] averaged over whole squares of pixels to 32..64 px a side.

  Those of at most LARGEST px stay as they are. Rims that fill no square are cut off. Clips are
  stacked.
  """
  if images.shape[-3] <= LARGEST:
    return stacked(images)
  # Stacked in parts, too: that of all clips at their full size would be another copy of them.
  parts = [reduced(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
  return np.concatenate(parts)


def reduced(images: Any) -> Any:
  """`reduce` of arrays of NumPy or JAX, at once."""
  images = stacked(images)
  _, size, _, c = images.shape
  factor = -(-size // LARGEST)
  if factor == 1:
    return images
  side, rim = divmod(size, factor)
  start = rim // 2
  squares = slice(start, start + side * factor)
  part = images[:, squares, squares].reshape(-1, side, factor, side, factor, c)
  sums = part.sum((2, 4), dtype=np.uint32)
  return ((2 * sums + factor**2) // (2 * factor**2)).astype(np.uint8)


def augment(
  images: np.ndarray, pick: np.ndarray, shift: int, rng: Any, mirror: bool = True
) -> np.ndarray:
  """Return images[pick] moved by up to `shift` px, the rim repeats; mirrored half the time.

  Args:
    images: uint8 [n, H, H, C].
    pick: which of them.
    shift: in pixels.
    rng: draws moves.
    mirror: whether half of them are mirrored.
  """
  side = images.shape[1]
  moves = rng.randint(-shift, shift + 1, (2, len(pick), 1))
  rows, columns = (np.arange(side) + moves).clip(0, side - 1)
  mirrored = rng.rand(len(pick)) < 0.5 * mirror
  columns[mirrored] = columns[mirrored, ::-1]
  return images[pick[:, None, None], rows[:, :, None], columns[:, None, :]]


def turn(images: np.ndarray, quarters: np.ndarray) -> np.ndarray:
  """Return square images [n, H, H, C], each turned by its number of quarters."""
  turned = [np.rot90(images, quarter, (1, 2)) for quarter in range(4)]
  return np.choose(quarters[:, None, None, None], turned)


def recipe_of(frames: int) -> Recipe:
  """How a classifier of images, or of clips of so many frames, is trained."""
  return CLIP_RECIPE if frames > 1 else RECIPE


def network(num_classes: int, frames: int = 1) -> models.Classifier:
  """The classifier; of one class, it tells quarter turns apart (Gidaris et al. 2018)."""
  kinds = distortions.CLIP_KINDS if frames > 1 else distortions.KINDS
  widths = recipe_of(frames).widths
  return models.Classifier(num_classes if num_classes > 1 else 4, len(kinds), widths, frames)


def fit(
  images: np.ndarray,
  classes: np.ndarray,
  num_classes: int,
  what: str = 'real images',
  recipe: Recipe | None = None,
  frames: int = 1,
) -> Any:
  """Trains the classifier and returns its variables, as NumPy arrays.

  Args:
    images: uint8 [n, H, H, C]; clips are stacked.
    classes: int [n], in 0..num_classes - 1.
    num_classes: at least 1.
    what: the images are, for whoever waits.
    recipe: of the training (default: that of images, or of clips).
    frames: of a clip.
  """
  recipe, net, num = recipe or recipe_of(frames), network(num_classes, frames), len(images)
  batch = min(recipe.batch, num)
  steps = max(recipe.epochs * num // batch, recipe.min_steps)
  schedule = optax.linear_onecycle_schedule(steps, recipe.lr, 0.2, div_factor=10)
  optimizer = optax.adamw(schedule, weight_decay=recipe.weight_decay)

  @jax.jit
  def step(variables, opt, images, classes, kinds):
    def loss(params):
      given = {**variables, 'params': params}
      (logits, told, _), stats = net.apply(given, images, True, mutable=['batch_stats'])
      target = optax.smooth_labels(jax.nn.one_hot(classes, logits.shape[1]), recipe.smoothing)
      of_classes = optax.softmax_cross_entropy(logits, target).mean(where=kinds == 0)
      of_kinds = optax.softmax_cross_entropy_with_integer_labels(told, kinds).mean()
      return of_classes + of_kinds, stats

    (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(variables['params'])
    with jax.numpy_dtype_promotion('standard'):  # optax adds integers to floats
      updates, opt = optimizer.update(gradients, opt, variables['params'])
    return {'params': optax.apply_updates(variables['params'], updates), **stats}, opt, value

  progress = Progress(0, steps, batch, out())
  progress.say(
    f'training a classifier on {num:,} {what} for the scores, once: '
    f'{steps:,} steps of {batch} images at {images.shape[1]} px'
  )
  # The order of the images: whole permutations, one after another.
  rng = np.random.RandomState(recipe.seed)
  order = [rng.permutation(num) for _ in range(-(-steps * batch // num))]
  order = np.concatenate(order)[: steps * batch].reshape(steps, batch)
  variables = jax.jit(net.init, static_argnums=2)(jax.random.key(recipe.seed), images[:1], False)
  opt = optimizer.init(variables['params'])
  num_distorted = int(recipe.distorted * batch)
  clips = frames > 1
  distort = functools.partial(distortions.distort_clips, frames=frames)
  distort = distort if clips else distortions.distort
  # Training: images moved about, some distorted; where there is one class, turned, to be told.
  said = time.monotonic()
  for i, pick in enumerate(order):
    shift = int(recipe.shift * images.shape[1])
    shown, asked = augment(images, pick, shift, rng, mirror=not clips), classes[pick]
    if num_classes == 1:
      asked = rng.randint(0, 4, batch)
      shown = turn(shown, asked)
    kinds = np.zeros(batch, np.int32)
    if num_distorted:
      changed, kinds[:num_distorted] = distort(shown[:num_distorted], rng=rng)
      shown = np.concatenate([changed, shown[num_distorted:]])
    variables, opt, value = step(variables, opt, shown, asked.astype(np.int32), kinds)
    if time.monotonic() - said > 10 or i == 0:
      said = time.monotonic()
      progress.update(i + 1, {'loss': float(value)}) if i else progress.restart(1)
  return jax.device_get(variables)


def training_digest(images: np.ndarray, classes: np.ndarray, frames: int = 1) -> str:
  """Return 16 hexadecimal digits of the recipe and of all pixels and classes."""
  of_clips = f' {frames} frames' if frames > 1 else ''
  told = hashlib.sha256(f'{recipe_of(frames)} {images.shape}{of_clips}'.encode())
  told.update(np.ascontiguousarray(images))
  told.update(classes.astype('<i8'))
  return told.hexdigest()[:16]


def read(path: str, like: Any) -> Any:
  """The variables in a file, or None where it is missing, damaged, or not shaped `like`."""
  leaves = files.read_cache(path)
  shapes = lambda tree: {name: (leaf.shape, leaf.dtype) for name, leaf in tree.items()}
  if leaves is None or shapes(leaves) != shapes(trees.flat(like)):
    return None
  return trees.nest(leaves)


def cached(images: np.ndarray, classes: np.ndarray, num_classes: int, frames: int = 1) -> Any:
  """The variables of `fit`, from the cache folder where that holds them."""
  digest = training_digest(images, classes, frames)
  path = os.path.join(files.cache_dir(), 'classifiers', f'{digest}.npz')
  init = lambda: network(num_classes, frames).init(jax.random.key(0), images[:1], False)
  variables = read(path, jax.eval_shape(init))
  if variables is None:
    variables = fit(images, classes, num_classes, frames=frames)
    files.write_cache(path, trees.flat(variables), 'the classifier')
  return variables


def moments(features: np.ndarray) -> frechet.Gaussian:
  """Return (mean [d], covariance [d, d]) of rows [n, d], float64; one row has covariance 0."""
  found = frechet.Moments.of_rows(features)
  return frechet.Gaussian(found.mean, found.cov)


def std_ratio(samples: Labelled, real: Labelled) -> float:
  """Return the mean over classes of the features' standard deviation within one, over the real one.

  Only classes with two rows or more of either count; where there is none, all are one class.
  Args:
    samples, real: (features [n, d], labels [n]).
  """
  twice = lambda labels: {c for c in np.unique(labels) if (labels == c).sum() > 1}
  common = sorted(twice(samples[1]) & twice(real[1]))

  def deviation(features, labels):
    groups = [features[labels == c] for c in common] or [features]
    return np.mean([np.sqrt(np.trace(moments(group)[1])) for group in groups])

  return float(deviation(*samples) / max(deviation(*real), 1e-9))


def precision_coverage(samples: Labelled, real: Labelled) -> Scores:
  """Return both for as many samples as real images, PAIRS at most; none for too few real ones."""
  if len(real[1]) <= NEIGHBOURS:
    return {}
  num = min(len(samples[1]), len(real[1]), PAIRS)
  reference = evenly(real, max(num, NEIGHBOURS + 1))[0]
  precision, coverage = precision_recall.precision_coverage(
    evenly(samples, num)[0], reference, k=NEIGHBOURS
  )
  return {'precision': precision, 'coverage': coverage}


def agreements(predicted: np.ndarray, labels: np.ndarray) -> Scores:
  """Return the share of predicted labels [n] that are those asked for, over all and at worst."""
  hits = predicted == labels
  worst = min(hits[labels == c].mean() for c in np.unique(labels))
  return {'agreement': float(hits.mean()), 'worst_class': float(worst)}


def take(images: RealImages, most: int) -> Labelled:
  """Return at most so many real images, reduced, and their labels; fewer where they are large.

  Clips come stacked.
  """
  size = images(1)[0].nbytes
  some, labels = images(max(1, min(most, MOST_BYTES // size)))
  return reduce(some), labels


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """The classifier of one set of images.

  Attributes:
    net: the network.
    variables: NumPy arrays.
    known: int [classes], the labels that its outputs stand for; of one, it tells quarter turns
      apart.
    digest: of its recipe and what it was trained on.
  """

  net: models.Classifier
  variables: Any
  known: np.ndarray
  digest: str

  def apply(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Return {'features': [b, d], 'logits': [b, k]} of uint8 images [b, H, H, C]. Traced.

    Clips are [b, T, H, H, C], or stacked.
    """
    logits, _, features = self.net.apply(variables, reduced(images), False)
    return {'features': features, 'logits': logits}

  @functools.cached_property
  def _apply(self) -> Callable[..., dict[str, jax.Array]]:
    return jax.jit(self.apply)

  def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (logits [n, k], features [n, d]) of uint8 images [n, H, H, C], or clips."""
    parts = []
    for i in range(0, len(images), CHUNK):
      part = reduce(images[i : i + CHUNK])
      missing = CHUNK - len(part)  # so that all chunks have one shape, and there is one program
      found = self._apply(self.variables, np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))))
      parts.append([np.asarray(found[name])[: len(part)] for name in ('logits', 'features')])
    logits, features = map(np.concatenate, zip(*parts, strict=True))
    return logits, features


def trained_on(images: RealImages) -> tuple[Trained, Labelled]:
  """Return the classifier of real images, from the cache where it is there, and those it learnt."""
  frames = frames_of(images(1)[0].shape[1:])
  some, labels = take(images, TRAINED_ON)
  known, classes = np.unique(labels, return_inverse=True)
  variables = cached(some, classes, len(known), frames)
  digest = training_digest(some, classes, frames)
  trained = Trained(network(len(known), frames), variables, known, digest)
  return trained, (some, labels)


def make(
  train: RealImages, held_out: RealImages, groups: Groups = ()
) -> tuple[Callable[[Labelled], Scores], Scores]:
  """Return (score, floor): `score((images, labels))`, and what real images get.

  The floor's agreement and worst class are those of the held-out images. Its other scores are those
  of FLOOR training images (of all, where there are fewer), so compare them with as many samples.
  The classifier knows these, but on CIFAR-10 and Fashion-MNIST they were no farther away than as
  many real images that neither it nor the reference contained.
  """
  trained, (images, labels) = trained_on(train)

  def look(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # labels [n], features [n, d]
    logits, features = trained.look(images)
    return trained.known[logits[:, : len(trained.known)].argmax(1)], features

  unseen, unseen_labels = take(held_out, HELD_OUT)
  predicted, features = look(unseen)
  unit = np.sqrt(features.var(0).mean()) or np.float32(1)
  real = features / unit, unseen_labels
  gaussian = moments(real[0])

  def score(samples: Labelled) -> Scores:
    images, labels = samples
    predicted, features = look(images)
    found = features / unit, labels
    return {
      **agreements(predicted, labels),
      'fd_held_out_classifier': frechet.frechet(moments(found[0]), gaussian),
      **precision_coverage(found, real),
      'std_ratio': std_ratio(found, real),
      **of_groups(groups, labels, lambda of: of_some(predicted, found, of)),
    }

  def of_some(predicted: np.ndarray, found: Labelled, of: np.ndarray) -> Scores:
    rows, labels = found[0][of], found[1][of]
    own = np.isin(unseen_labels, labels)
    spread = std_ratio((rows, labels), (real[0][own], unseen_labels[own]) if own.any() else real)
    return {'agreement': (predicted[of] == labels).mean(), 'std_ratio': spread}

  of_floor = evenly((images, labels), FLOOR)
  unseen_groups = of_groups(
    groups, unseen_labels, lambda of: {'agreement': (predicted == unseen_labels)[of].mean()}
  )
  floor = {**score(of_floor), **agreements(predicted, unseen_labels), **unseen_groups}
  say(
    f'classifier: {floor["agreement"]:.1%} right of {len(unseen):,} held-out images, to which '
    f'samples and, for real scores, {len(of_floor[1]):,} training images are compared'
  )
  return score, floor
