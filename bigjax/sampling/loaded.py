"""A trained generator in Python: `load(...)`, then images of classes, seeds and truncations."""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from PIL import Image

from bigjax.algorithms.base.contract import GUIDANCE, Spec
from bigjax.algorithms.base.generators.parts import encoder_of, predictor_of, styles_of
from bigjax.algorithms.base.noising.config import GUIDANCE as GUIDANCE_SCALE
from bigjax.algorithms.compositions import cascade
from bigjax.algorithms.compositions import guided as guidance
from bigjax.core import buckets, errors, paths, ranges, trees
from bigjax.core.ranges import whole
from bigjax.sampling import generator_file as cards
from bigjax.sampling import options
from bigjax.sampling.image_files import BATCH
from bigjax.sampling.sampler import Sampler, from_card, refusing_misfits
from bigjax.sampling.sharing import showing

Labels = int | str | Sequence[int | str] | np.ndarray | None


@dataclasses.dataclass
class Loaded:
  """A generator and what sampling needs; `gen` is `stored`, prepared for the last settings."""

  sampler: Sampler
  stored: Any
  card: dict[str, Any]

  def __post_init__(self):
    self.gen = self.stored
    self._measured: dict[Spec, Any] = {}

  def __repr__(self) -> str:
    return showing.described(self)

  @property
  def digest(self) -> str:
    """16 hexadecimal digits of all weights, also those of what guides; as in scores.jsonl.

    Not of statistics, which may be measured anew: a run's checkpoint and its export have the same,
    and so have a composition's parts and its file.
    """
    bare = self.sampler.generator.bare(self.stored)
    return generator_digest(dataclasses.replace(self, stored=bare))

  @property
  def class_names(self) -> list[str]:
    return list(self.card['class_names'])

  @property
  def num_classes(self) -> int:
    return len(self.card['class_names'])

  @property
  def shape(self) -> tuple[int, ...]:
    """(H, W, C) of an image, or (T, H, W, C) of a clip."""
    return tuple(self.sampler.generator.shape)

  @property
  def resolution(self) -> int:
    """Pixels along a side."""
    return self.shape[-3]

  @property
  def frame_rate(self) -> float:
    """Frames per second of a clip; 0 for images, and where its card does not say."""
    return float(self.card.get('frame_rate', 0))

  @property
  def fit(self) -> str:
    """How images that are not square were made so for it, as data.fit."""
    return self.card.get('fit', 'crop')

  def __call__(
    self,
    labels: Labels = None,
    truncation: float | str | None = None,
    seed: int = 0,
    num: int | None = None,
    batch: int = BATCH,
    **options: Any,
  ) -> np.ndarray:
    """Images, uint8 [n, H, W, C], or clips, [n, T, H, W, C]: those of `bigjax sample`.

    Args:
      labels: the class of each image, by number (its place in `class_names`) or, as text, by what
        --classes takes (one alone is a list of one; 'all' is one of each), or float weights
        [n, classes], which mix classes. Without any, `num` images are spread evenly over the
        classes, in their order.
      truncation: a threshold, 't:dialect', or None for untruncated.
      seed: of the latents. Image i is the same however many are asked for.
      num: number of images; labels are repeated in turn until there are so many. By default, as
        many as labels, or one of each class.
      batch: images made at a time.
      options: further sampling options of this generator, by name.
    Raises:
      UserError: there is no such class, an array has another shape, or an option that this
        generator does not have, or that means nothing for it.
    """
    y = read_labels(labels, self.class_names, num)
    spec = self.spec(truncation, **options)
    seed, batch = whole('seed', seed, ranges.SEED), whole('batch', batch, ranges.BATCH)
    self.prepare(spec)
    return self.images(self.sampler.latents(seed, len(y), spec), y, spec, batch)

  def image(
    self,
    label: int | str | Sequence[int | str | float] | np.ndarray = 0,
    seed: int = 0,
    truncation: float | str | None = None,
    **options: Any,
  ) -> Image.Image:
    """One image, as large as it is: the first of a seed, mode L where it is grey, else RGB.

    Args:
      label: its class, by number or name, or float weights [classes].
      seed, truncation, options: as of a call.
    Raises:
      UserError: as a call, or the generator makes clips.
    """
    if len(self.shape) == 4:
      raise errors.UserError(
        'this generator makes clips, of which none is an image: .grid(...) shows their frames side '
        'by side, a call gives them as arrays.'
      )
    given: Any = label
    several = np.ndim(given) == 1 and np.asarray(given).dtype.kind != 'f'
    made = self(given if several else [given], truncation, seed, **options)
    if len(made) != 1:
      raise errors.UserError(f'{len(made)} labels are several images: .grid(...) shows these.')
    return showing.picture(made[0])

  def grid(
    self,
    classes: Labels = 'all',
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    num: int | None = None,
    truncation: float | str | None = None,
    names: bool = True,
    **options: Any,
  ) -> Image.Image:
    """A picture of samples, a row per class, those of `bigjax sample`; of clips, strips of frames.

    Mode RGB; without names, of grey images, L.

    Args:
      classes: by number or name, or 'all'.
      seed: of all latents.
      seeds: in its place, a column each: the first image of each seed.
      num: of images, shared evenly among the classes, by default ten of each.
      truncation, options: as of a call.
      names: whether with those of classes and seeds, and with what was asked for.
    Raises:
      UserError: as a call, or the images are too many for a picture.
    """
    labels = read_labels(classes, self.class_names, None)
    spec = self.spec(truncation, **options)
    return showing.grid(self, labels, spec, seed, seeds, num, names)

  def spec(self, truncation: float | str | None = None, /, **options: Any) -> Spec:
    """Sampling settings: those of the card, but for what is given.

    Args:
      truncation: a number, 't:dialect', None or 'none'; where there is one, also by name.
      options: others that the generator has.
    Raises:
      UserError: it has no such option, or a value means nothing for it.
    """
    truncation = options.pop('truncation', truncation)
    given = {name: str(value) for name, value in options.items() if value is not None}
    if truncation is not None:
      if not isinstance(truncation, str):
        try:
          truncation = repr(float(truncation))
        except (TypeError, ValueError):
          raise errors.UserError(
            f"truncation is {truncation!r}; give a number, a text such as '0.5:truncnorm', or None."
          ) from None
      given['truncation'] = truncation
    return self.sampler.generator.spec(self.card['sampling'], given)

  def prepare(self, spec: Spec, anew: bool = False) -> None:
    """See to whatever these settings need, and say where it comes from.

    Stored for these very settings: used. Between two stored ones: interpolated. Else, or `anew`:
    measured now, once.
    """
    generator = self.sampler.generator
    self.gen = self.stored if anew else self._measured.get(spec, self.stored)
    if self.gen is not self.stored:
      return
    bare = generator.bare(self.stored)
    ready, words = generator.provenance(bare if anew else self.stored, spec, self.card['sampling'])
    if words:
      say(words)
    if not ready:
      self.gen = self._measured[spec] = self.sampler.prepare(bare, 0, spec)

  def images(self, z: np.ndarray, y: np.ndarray, spec: Spec, batch: int = BATCH) -> np.ndarray:
    """uint8 images [n, H, W, C] or clips [n, T, H, W, C]; call `prepare(spec)` first."""
    return self.sampler.images(self.gen, z, y, spec, batch)

  def encode(self, images: np.ndarray, batch: int = BATCH) -> np.ndarray:
    """Latents float32 [n, ...] of uint8 images [n, ...] of the size that the encoder takes.

    Args:
      images: see `encoder_shape`.
      batch: images looked at at a time.
    Raises:
      UserError: there is no encoder, or the images are of another shape or type.
    """
    return self.sampler.encoded(self.stored, self._encodable(images, 'encode'), batch)

  def features(self, images: np.ndarray, batch: int = BATCH) -> np.ndarray:
    """The encoder's features float32 [n, d] of the same images; arguments as of `encode`."""
    return self.sampler.features(self.stored, self._encodable(images, 'features'), batch)

  def reconstruct(
    self, images: np.ndarray, labels: Labels = 0, batch: int = BATCH, **options: Any
  ) -> np.ndarray:
    """Images uint8 [n, ...] that the generator makes of the latents of others.

    Args:
      images, batch: as of `encode`.
      labels: their classes, as of a call; by default all are of the first, which may be the only.
      options: sampling options of this generator, by name.
    Raises:
      UserError: as `encode`, or there is no such option or class.
    """
    self.spec(**options)  # refuses what there is not, before anything is computed
    return self.decode(self.encode(images, batch), labels, batch, **options)

  def decode(
    self, z: np.ndarray, labels: Labels = 0, batch: int = BATCH, **options: Any
  ) -> np.ndarray:
    """Images uint8 [n, ...] of latents of one's own, such as those that `bigjax project` finds.

    Args:
      z: float32 [n, ...] of the shape of the generator's latents; for w, see `synthesized`.
      labels, batch, options: as of `reconstruct`.
    Raises:
      UserError: z has another shape, or there is no such option or class.
    """
    shape = tuple(self.sampler.generator.latent_shape)
    z = np.asarray(z, np.float32)
    if z.shape[1:] != shape or not len(z):
      sizes = ', '.join(map(str, shape))
      raise errors.UserError(f'decode was given z {list(z.shape)}; give [images, {sizes}].')
    y, spec = read_labels(labels, self.class_names, len(z)), self.spec(**options)
    self.prepare(spec)
    return self.images(z, y, spec, batch)

  def predict(
    self, frames: np.ndarray, labels: Labels = 0, seed: int = 0, batch: int = BATCH, **options: Any
  ) -> np.ndarray:
    """Clips uint8 [n, T, H, W, C] that begin with frames uint8 [n, num_given, H, W, C].

    Args:
      frames: first frames.
      labels, seed, batch, options: as of a call; by default all clips are of the first class.
    Raises:
      UserError: it does not go on with clips, or the frames are of another shape or type.
    """
    given = predictor_of(self.sampler.generator, 'predict').num_given
    frames, spec = self._fitting(frames, (given, *self.shape[1:]), 'predict'), self.spec(**options)
    y = read_labels(labels, self.class_names, len(frames))
    z = self.sampler.latents(whole('seed', seed, ranges.SEED), len(frames), spec)
    self.prepare(spec)
    rest = self.sampler.predicted(self.gen, frames, z, y, spec, batch)
    return np.concatenate([frames, rest], axis=1)

  @property
  def encoder_shape(self) -> tuple[int, ...]:
    """(H, W, C) of the images that the encoder takes; UserError: there is none."""
    return tuple(encoder_of(self.sampler.generator, 'encoder_shape').shape)

  def _encodable(self, images: np.ndarray, what: str) -> np.ndarray:
    """Images that the encoder takes.

    Raises:
      UserError: there is no encoder, or they are of another shape or type.
    """
    return self._fitting(images, tuple(encoder_of(self.sampler.generator, what).shape), what)

  def _fitting(self, images: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """uint8 images [n, *shape], as `what` needs them; UserError: they are others."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
      raise errors.UserError(
        f'{what} was given images {images.dtype} {list(images.shape)}; give uint8 '
        f'[images, {", ".join(map(str, shape))}].'
      )
    return images

  def synthesized(
    self, w: np.ndarray, seed: int = 0, batch: int = BATCH, **options: Any
  ) -> np.ndarray:
    """uint8 images [n, ...] of w, such as those that `bigjax project` finds.

    Args:
      w: float32 [n, w_dim], untruncated.
      seed: of the noise of the layers, where that is random.
      batch: images made at a time.
      options: sampling options of this generator, by name.
    Raises:
      UserError: it has no styles, or no such option.
    """
    styles_of(self.sampler.generator, 'making images of w')
    w, spec = np.asarray(w, np.float32), self.spec(**options)
    seed, batch = whole('seed', seed, ranges.SEED), whole('batch', batch, ranges.BATCH)
    z = self.sampler.latents(seed, len(w), spec)
    return self.sampler.synthesized(self.gen, w, z, spec, batch=batch)

  def one_batch(
    self,
    latents: Callable[[int, int], np.ndarray],
    y: np.ndarray,
    spec: Spec,
    batch: int,
    start: int,
  ) -> np.ndarray:
    """Images `start` to `start + batch` of those with labels y; call `prepare(spec)` first.

    Args:
      latents: (first, num) -> those of as many samples from the first one on.
      y: labels of all.
      spec: sampling settings.
      batch: images at a time.
      start: the first of these images.
    """
    stop = min(start + batch, len(y))
    first = max(stop - batch, 0)  # a last batch of another shape would be compiled anew
    z = latents(first, stop - first)
    return self.images(z, y[first:stop], spec, batch)[start - first :]


def say(text: str) -> None:
  print(text, file=sys.stderr)


def load(
  path: str | os.PathLike, which: str = 'last', classifier: str | os.PathLike | None = None
) -> Loaded:
  """Load a generator from a workdir (checkpoint `which`) or an exported .safetensors or .npz file.

  Args:
    path: of the generator; or where it lies elsewhere: hf://OWNER/NAME, https://, gs://, s3://.
    which: of a workdir's checkpoints.
    classifier: a workdir or file of what guides it (the option `guidance` says how strongly); None:
      nothing.
  Raises:
    UserError: it is neither, or cannot be read.
  """
  return guided(read(path, which), classifier)


@contextlib.contextmanager
def orbax_silent() -> Iterator[None]:
  """Meanwhile Orbax does not warn of what is meant."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def read(path: str | os.PathLike, which: str = 'last') -> tuple[Any, dict[str, Any]]:
  """(gen, card) of a workdir or file, as `load` takes them.

  Raises:
    UserError: it is neither, or cannot be read.
  """
  path = paths.expanded(os.fspath(path))
  with orbax_silent():
    if cards.is_workdir(path):
      return cards.load_workdir(buckets.local(path), str(which))
    return cards.load(path)


def guided(
  generator: tuple[Any, dict[str, Any]],
  classifier: str | os.PathLike | None,
  scale: float | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Loaded:
  """A generator, as it is or guided by a classifier.

  Args:
    generator: (gen, card).
    classifier: a workdir or file; None: none.
    scale: what the card then says of the guidance; None: what the classifier's does.
    devices: that it is for; None: all.
  Raises:
    UserError: the classifier cannot be read, or one does not fit the other.
  """
  if classifier is not None:
    with refusing_misfits():
      generator = guidance.compose(generator, read(classifier), scale)
  return Loaded(*from_card(*generator, devices))


def of_workdir(workdir: str, which: str, classifier: str | None = None) -> Loaded:
  """The generator of a checkpoint in a workdir on this machine, guided as of `load`.

  Raises:
    UserError: it is no workdir, or has no such checkpoint, or what guides it does not fit.
  """
  return guided(cards.load_workdir(workdir, which), classifier)


def of_cascade(given: Sequence[str], options: Mapping[str, str]) -> Loaded:
  """The cascade of a base and of generators that enlarge, each a workdir or an exported file.

  Args:
    given: where they lie.
    options: {sampling option: word} that are meant unless told otherwise.
  Raises:
    UserError: one cannot be read, or they do not fit together.
  """
  parts = []
  for path in given:
    one = load(path)
    if cards.is_workdir(paths.expanded(path)):  # which has nothing measured
      one.stored = one.sampler.prepare_all(one.stored, one.card['sampling'])
    parts.append((one.stored, one.card))
  return Loaded(*from_card(*cascade.compose(parts, options, given)))


def of_options(
  args: argparse.Namespace, generator: tuple[Any, dict[str, Any]] | None = None
) -> Loaded:
  """The generator that --workdir and --checkpoint, or --params, name, with its --classifier.

  Args:
    args: of a verb.
    generator: (gen, card) that stands for it.
  Raises:
    UserError: there is none, or they do not fit together.
  """
  classifier = getattr(args, 'classifier', None)  # which not all verbs have
  scale: float | None = None
  if classifier is not None:
    word = options.parse_sampling(args.sampling).get(GUIDANCE)
    scale = GUIDANCE_SCALE.read(f'--{GUIDANCE}=', word) if word else None
  if generator is None:
    with orbax_silent():
      if args.workdir:
        generator = cards.load_workdir(args.workdir, args.checkpoint or 'last')
      else:
        generator = cards.load(args.params)
  return guided(generator, classifier, scale)


def find_class(word: str, class_names: Sequence[str]) -> int:
  """The number of a class given by name or number: its place in `class_names`, from 0 on.

  A name is a name; a number that is not a class's name is its place. Where classes are named by
  numbers that are not their places (1 to 10), a bare number is refused: 'name:1' and 'number:1' say
  which is meant, and may be written anywhere.

  Raises:
    UserError: there is none, or more than one that may be meant.
  """
  kind, colon, rest = word.partition(':')
  chosen = kind if colon and kind in ('name', 'number') and word not in class_names else ''
  text = rest if chosen else word
  count = len(class_names)
  places = [i for i, name in enumerate(class_names) if name == text and chosen != 'number']
  is_number = text.isdecimal() and len(text) < 10 and chosen != 'name'
  if is_number and not chosen and (other := misnumbered(class_names)) is not None:
    place = f'number:{text} is {class_names[int(text)]!r}' if int(text) < count else ''
    name = f'name:{text} is number {places[0]}' if places else ''
    raise errors.UserError(
      f'class {text!r} may be a name or a number: classes are named by numbers that are not their '
      f'places from 0 on (number {other} is {class_names[other]!r}); write name:{text} or '
      f'number:{text}' + ''.join(f', {words}' for words in (name, place) if words) + '.'
    )
  if is_number and not places and int(text) < count:
    places = [int(text)]
  if len(places) == 1:
    return places[0]
  if places:
    some = ', '.join(f'number:{place}' for place in places[:5])
    raise errors.UserError(f'{len(places)} classes are named {text!r}; write one of {some}.')
  raise errors.UserError(
    f'there is no class {text!r}{errors.did_you_mean(text, class_names)}; this '
    f'generator has {count}: numbers 0 to {count - 1} or '
    f'names such as {", ".join(class_names[:3])}.'
  )


def place(number: Any) -> str:
  """A class's place as `find_class` takes it."""
  return f'number:{number}'


def misnumbered(class_names: Sequence[str]) -> int | None:
  """The place of the first class that is named by another number than that; None where none is."""
  numbers = (i for i, n in enumerate(class_names) if n.isdecimal() and int(n) != i)
  return next(numbers, None)


def parse_classes(text: str, class_names: list[str]) -> np.ndarray:
  """Read '3,7', 'cat,dog' or 'all' into int32 labels; a name wins, even one with a comma in it.

  Raises:
    UserError: a class that does not exist, or that may be one of several.
  """
  if text == 'all':
    if text in class_names and len(class_names) > 1:
      raise errors.UserError("'all' is every class, and the name of one: write name:all for that.")
    return np.arange(len(class_names), dtype=np.int32)
  words = [text] if text in class_names else text.split(',')
  words = [word if word in class_names else word.strip() for word in words]
  return np.array([find_class(word, class_names) for word in words], np.int32)


def read_labels(labels: Labels, class_names: list[str], num: int | None) -> np.ndarray:
  """Labels as `Loaded.__call__` takes them -> int32 [n], or float32 weights [n, classes].

  Raises:
    UserError: there is no such class, or an array has another shape or type.
  """
  num = num if num is None else whole('num', num, ranges.IMAGES)
  classes = len(class_names)
  if labels is None:
    count = num or classes
    return (np.arange(count) * classes // count).astype(np.int32)
  if isinstance(labels, str):
    labels = parse_classes(labels, class_names)
  else:
    given: Any = labels
    labels = np.atleast_1d(np.asarray(labels))
    if labels.dtype.kind in 'OU' and labels.ndim == 1:  # names, with numbers among them
      words = [given] if np.ndim(given) == 0 else list(given)  # before NumPy made all of them texts
      words = [word if isinstance(word, str) else place(word) for word in words]
      labels = np.array([find_class(word, class_names) for word in words], np.int32)
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
    find_class(place(label), class_names)  # says so
  labels = labels.astype(np.float32 if floats else np.int32)
  return labels if num is None else labels[np.arange(num) % len(labels)]


def generator_digest(loaded: Loaded) -> str:
  """Return 16 hexadecimal digits of a generator's weights and stored statistics."""
  told = hashlib.sha256()
  for path, leaf in trees.flat(loaded.stored).items():
    told.update(path.encode())
    told.update(np.ascontiguousarray(leaf).data)
  return told.hexdigest()[:16]
