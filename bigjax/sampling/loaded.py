"""A trained generator in Python: `load(...)`, then images of classes, seeds and truncations."""

import argparse
import dataclasses
import hashlib
import math
import operator
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from bigjax.core import buckets, errors, trees
from bigjax.nn.latents import How, check_truncation
from bigjax.sampling import generator_file as cards
from bigjax.sampling import sampler
from bigjax.sampling.image_files import BATCH

LISTED = 20  # of them, by line
Labels = int | str | Sequence[int | str] | np.ndarray | None


@dataclasses.dataclass
class Loaded:
  """A generator and what sampling needs; `gen` is `stored` with the statistics last prepared."""

  sampler: sampler.Sampler
  stored: Any
  card: dict[str, Any]

  def __post_init__(self):
    self.gen = self.stored
    self._measured: dict[How, Any] = {}

  @property
  def class_names(self) -> list[str]:
    return list(self.card['class_names'])

  @property
  def num_classes(self) -> int:
    return len(self.card['class_names'])

  @property
  def shape(self) -> tuple[int, int, int]:
    """(H, W, C) of an image."""
    how = How(passes=1, batch=1)

    def one(gen):  # what makes images needs statistics, of which a checkpoint has none yet
      gen = self.sampler.generator.calibrate(sampler.uncalibrated(gen), jax.random.key(0), how)
      z = self.sampler.generator.latents(jax.random.key(0), 1, how)
      return self.sampler.generator.generate(gen, z, np.zeros((1,), np.int32), how)

    return jax.eval_shape(one, self.stored).shape[1:]

  @property
  def resolution(self) -> int:
    """Pixels along a side."""
    return self.shape[0]

  def __call__(
    self,
    labels: Labels = None,
    truncation: float | str | None = None,
    seed: int = 0,
    num: int | None = None,
    batch: int = BATCH,
  ) -> np.ndarray:
    """Return images, uint8 [n, H, W, C]: those of `bigjax sample` for the same latents and classes.

    Args:
      labels: the class of each image, by number or name (one alone is a list of one; 'all' is one
        of each), or float weights [n, classes], which mix classes. Without any, `num` images are
        spread evenly over the classes, in their order.
      truncation: a threshold, 't:dialect', or None for untruncated.
      seed: of the latents. Image i is the same however many are asked for.
      num: number of images; labels are repeated in turn until there are so many. By default, as
        many as labels, or one of each class.
      batch: images made at a time.
    Raises:
      UserError: there is no such class, an array has another shape, or such a truncation means
        nothing for this generator's latents.
    """
    y = read_labels(labels, self.class_names, num)
    how = self.how(truncation)
    seed, batch = whole('seed', seed, 0), whole('batch', batch, 1)
    self.prepare(how)
    return self.images(self.sampler.latents(seed, len(y), how), y, how, batch)

  def how(self, truncation: float | str | None) -> How:
    """Return how to sample at a truncation: a number, 't:dialect', None or 'none'.

    Raises:
      UserError: it is none of these, or means nothing for this generator's latents.
    """
    if truncation is None:
      truncation = 'none'
    if not isinstance(truncation, str):
      try:
        truncation = repr(float(truncation))
      except (TypeError, ValueError):
        raise errors.UserError(
          f"truncation is {truncation!r}; give a number, a text such as '0.5:truncnorm', or None."
        ) from None
    asked = cards.how(self.card, truncation)
    check_truncation(asked, self.sampler.generator.dialects)
    return asked

  def prepare(self, how: How, recalibrate: bool = False) -> None:
    """See to standing statistics for a truncation, and say where they come from.

    Stored at this very truncation: used. Between two stored ones: interpolated. Elsewhere, in
    another dialect, or with `recalibrate`: measured now.
    """
    knots = [float(t) for t in np.asarray(self.stored['knots'])]
    finite = [t for t in knots if math.isfinite(t)]
    t = float(np.float32(how.truncation))  # as the knots are stored
    self.gen = self.stored if recalibrate else self._measured.get(how, self.stored)
    if self.gen is not self.stored:
      return
    if not recalibrate and (math.isinf(t) or how.dialect == self.card['dialect']):
      if t in knots:
        return
      if finite and finite[0] < t < finite[-1]:
        upper = next(k for k in finite if k > t)
        lower = max(k for k in finite if k < t)
        say(
          f'standing statistics at {how}: interpolated between those at {lower:g} and {upper:g}; '
          '--recalibrate measures them.'
        )
        return
    why = 'as asked' if recalibrate else 'none are stored for it'
    say(
      f'measuring standing statistics at {how} ({why}): {how.passes} passes of {how.batch} samples.'
    )
    gen = self.sampler.calibrate(sampler.uncalibrated(self.stored), 0, how)
    self.gen = self._measured[how] = gen

  def images(self, z: np.ndarray, y: np.ndarray, how: How, batch: int = BATCH) -> np.ndarray:
    """Return uint8 images [n, H, W, C]; call `prepare(how)` first."""
    return self.sampler.images(self.gen, z, y, how, batch)

  def one_batch(self, z: np.ndarray, y: np.ndarray, how: How, batch: int, start: int) -> np.ndarray:
    """Return images `start` to `start + batch` of these; call `prepare(how)` first."""
    stop = min(start + batch, len(z))
    first = max(stop - batch, 0)  # a last batch of another shape would be compiled anew
    return self.images(z[first:stop], y[first:stop], how, batch)[start - first :]


def say(text: str) -> None:
  print(text, file=sys.stderr)


def whole(name: str, given: Any, least: int) -> int:
  """Return a whole number.

  Raises:
    UserError: it is none, or below `least`.
  """
  try:
    number = operator.index(given)
  except TypeError:
    number = least - 1
  if isinstance(given, bool) or number < least:
    raise errors.UserError(f'{name} is {given!r}; give a whole number, {least} or more.')
  return number


def load(path: str | os.PathLike, which: str = 'last') -> Loaded:
  """Load a generator from a workdir (checkpoint `which`) or an exported .safetensors or .npz file.

  Raises:
    UserError: it is neither, or cannot be read.
  """
  path, verbosity = os.fspath(path), logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
  try:
    folder = os.path.isdir(path) or buckets.is_url(path)
    read = cards.load_workdir(buckets.local(path), str(which)) if folder else cards.load(path)
  finally:
    logging.set_verbosity(verbosity)
  return Loaded(*sampler.from_card(*read))


def of_options(args: argparse.Namespace) -> Loaded:
  """Return the generator that --workdir and --checkpoint, or --params, name.

  Raises:
    UserError: there is none.
  """
  if args.params and args.checkpoint:
    raise errors.UserError(
      '--checkpoint chooses one of a --workdir; --params has only one generator.'
    )
  if args.workdir:
    read = cards.load_workdir(args.workdir, args.checkpoint or 'last')
  else:
    read = cards.load(args.params)
  return Loaded(*sampler.from_card(*read))


def find_class(word: str, class_names: Sequence[str]) -> int:
  """Return the number of a class given by name or number; a name wins over a number.

  Raises:
    UserError: there is none.
  """
  if word in class_names:
    return class_names.index(word)
  if word.isdecimal() and int(word) < len(class_names):
    return int(word)
  raise errors.UserError(
    f'there is no class {word!r}{errors.did_you_mean(word, class_names)}; this '
    f'generator has {len(class_names)}: numbers 0 to {len(class_names) - 1} or '
    f'names such as {", ".join(class_names[:3])}.'
  )


def parse_classes(text: str, class_names: list[str]) -> np.ndarray:
  """Read '3,7', 'cat,dog' or 'all' into int32 labels; a name wins, even one with a comma in it.

  Raises:
    UserError: a class that does not exist.
  """
  if text == 'all':
    return np.arange(len(class_names), dtype=np.int32)
  words = [text] if text in class_names else text.split(',')
  return np.array([find_class(word, class_names) for word in words], np.int32)


def read_labels(labels: Labels, class_names: list[str], num: int | None) -> np.ndarray:
  """Return what `Loaded.__call__` is given as int32 [n], or float32 weights [n, classes].

  Raises:
    UserError: there is no such class, or an array has another shape or type.
  """
  num = num if num is None else whole('num', num, 1)
  classes = len(class_names)
  if labels is None:
    count = num or classes
    return (np.arange(count) * classes // count).astype(np.int32)
  if isinstance(labels, str):
    labels = parse_classes(labels, class_names)
  else:
    labels = np.atleast_1d(np.asarray(labels))
    if labels.dtype.kind in 'OU' and labels.ndim == 1:  # names, with numbers among them
      labels = np.array([find_class(str(word), class_names) for word in labels], np.int32)
  floats, integers = labels.dtype.kind == 'f', labels.dtype.kind in 'iu'
  fits = labels.ndim == 2 and labels.shape[1] == classes if floats else labels.ndim == 1
  if not (floats or integers) or not fits or not len(labels):
    raise errors.UserError(
      f'labels are {labels.dtype} {list(labels.shape)}; give whole numbers or names, one per '
      f'image, or float weights [images, {classes}].'
    )
  if floats and not np.isfinite(labels).all():
    raise errors.UserError('labels hold weights that are not finite.')
  for label in [] if floats else labels[(labels < 0) | (labels >= classes)][:1]:
    find_class(str(label), class_names)  # says so
  labels = labels.astype(np.float32 if floats else np.int32)
  return labels if num is None else labels[np.arange(num) % len(labels)]


def digest(loaded: Loaded) -> str:
  """Return 16 hexadecimal digits of a generator's weights and stored statistics."""
  told = hashlib.sha256()
  for path, leaf in trees.flat(loaded.stored).items():
    told.update(path.encode())
    told.update(np.ascontiguousarray(leaf))
  return told.hexdigest()[:16]
