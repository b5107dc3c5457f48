"""Images from a trained generator: grids, seeds, interpolations, truncation sweeps, neighbours.

  from bigjax import sample
  gen = sample.load('runs/digits')
  images = gen(labels=[3, 7], truncation=0.5, seed=0)

Needs neither TensorFlow nor the training state, nor the dataset (but to look for neighbours in it).
Many images are written as they are made, so that memory holds one batch of them.
"""

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

from bigjax import build, neighbours, remote, utils
from bigjax import card as cards
from bigjax.latents import How, check_truncation
from bigjax.writing import BATCH, Wanted, ready, write

SHOWN = 10  # samples whose neighbours are looked for, unless told
LISTED = 20  # of them, by line
Labels = int | str | Sequence[int | str] | np.ndarray | None


@dataclasses.dataclass
class Loaded:
  """A generator and what sampling needs; `gen` is `stored` with the statistics last prepared."""

  sampler: build.Sampler
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
      gen = self.sampler.generator.calibrate(build.uncalibrated(gen), jax.random.key(0), how)
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
        raise utils.UserError(
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
    gen = self.sampler.calibrate(build.uncalibrated(self.stored), 0, how)
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
    raise utils.UserError(f'{name} is {given!r}; give a whole number, {least} or more.')
  return number


def load(path: str | os.PathLike, which: str = 'last') -> Loaded:
  """Load a generator from a workdir (checkpoint `which`) or an exported .safetensors or .npz file.

  Raises:
    UserError: it is neither, or cannot be read.
  """
  path, verbosity = os.fspath(path), logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant
  try:
    folder = os.path.isdir(path) or remote.is_url(path)
    read = cards.load_workdir(remote.local(path), str(which)) if folder else cards.load(path)
  finally:
    logging.set_verbosity(verbosity)
  return Loaded(*build.from_card(*read))


def of_options(args: argparse.Namespace) -> Loaded:
  """Return the generator that --workdir and --checkpoint, or --params, name.

  Raises:
    UserError: there is none.
  """
  if args.params and args.checkpoint:
    raise utils.UserError(
      '--checkpoint chooses one of a --workdir; --params has only one generator.'
    )
  if args.workdir:
    read = cards.load_workdir(args.workdir, args.checkpoint or 'last')
  else:
    read = cards.load(args.params)
  return Loaded(*build.from_card(*read))


def find_class(word: str, class_names: Sequence[str]) -> int:
  """Return the number of a class given by name or number; a name wins over a number.

  Raises:
    UserError: there is none.
  """
  if word in class_names:
    return class_names.index(word)
  if word.isdecimal() and int(word) < len(class_names):
    return int(word)
  raise utils.UserError(
    f'there is no class {word!r}{utils.did_you_mean(word, class_names)}; this '
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
    raise utils.UserError(
      f'labels are {labels.dtype} {list(labels.shape)}; give whole numbers or names, one per '
      f'image, or float weights [images, {classes}].'
    )
  if floats and not np.isfinite(labels).all():
    raise utils.UserError('labels hold weights that are not finite.')
  for label in [] if floats else labels[(labels < 0) | (labels >= classes)][:1]:
    find_class(str(label), class_names)  # says so
  labels = labels.astype(np.float32 if floats else np.int32)
  return labels if num is None else labels[np.arange(num) % len(labels)]


def parse_seeds(text: str) -> list[int]:
  """Read '0-9', '0,1,2' or '3,10-12' into seeds.

  Raises:
    UserError: it is not like that.
  """
  seeds = []
  for word in text.split(','):
    first, dash, last = word.partition('-')
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
      raise utils.UserError(
        f'--seeds={text}: {word!r} is no seed and no range; write for example 0-9 or 3,10-12.'
      )
    seeds += range(int(first), int(last) + 1)
  return seeds


def slerp(a: np.ndarray, b: np.ndarray, way: np.ndarray) -> np.ndarray:
  """Return points on the arc between latents a and b [dim], at `way` [n] in [0, 1]: [n, dim].

  The norm goes linearly from one's to the other's, so that every point is as likely as its ends.
  """
  norm_a, norm_b = (max(np.linalg.norm(x), 1e-12) for x in (a, b))
  angle = np.arccos(np.clip(a @ b / (norm_a * norm_b), -1, 1))
  if angle < 1e-4:
    return a[None] + way[:, None] * (b - a)[None]
  unit = np.sin((1 - way) * angle)[:, None] * (a / norm_a) + np.sin(way * angle)[:, None] * (
    b / norm_b
  )
  norms = (1 - way) * norm_a + way * norm_b
  return (unit / np.sin(angle) * norms[:, None]).astype(np.float32)


def first_of_each(loaded: Loaded, seeds: Sequence[int], how: How) -> np.ndarray:
  """Return the first latents of every seed, [n, ...]: those of `gen(..., seed=seed)`."""
  return np.concatenate([loaded.sampler.latents(seed, 1, how) for seed in seeds])


def interpolation(
  loaded: Loaded, kind: str, labels: np.ndarray, columns: int, seed: int, how: How
) -> np.ndarray:
  """Return rows of `columns` images from one sample to another: z, class, or both change.

  Rows start at each class of `labels`; the class changes to the next one of them.
  """
  way = np.linspace(0, 1, columns, dtype=np.float32)
  starts = loaded.sampler.latents(seed, 2 * len(labels), how)
  rows = []
  for i, label in enumerate(labels):
    a, b = starts[2 * i], starts[2 * i + 1]
    z = np.repeat(a[None], columns, 0) if kind == 'class' else slerp(a, b, way)
    ends = np.eye(loaded.num_classes, dtype=np.float32)[[label, labels[(i + 1) % len(labels)]]]
    mix = np.zeros_like(way) if kind == 'z' else way
    rows.append(loaded.images(z, (1 - mix)[:, None] * ends[0] + mix[:, None] * ends[1], how))
  return np.concatenate(rows)


def digest(loaded: Loaded) -> str:
  """Return 16 hexadecimal digits of a generator's weights and stored statistics."""
  told = hashlib.sha256()
  for path, leaf in utils.flat(loaded.stored).items():
    told.update(path.encode())
    told.update(np.ascontiguousarray(leaf))
  return told.hexdigest()[:16]


def arguments() -> utils.Arguments:
  parser = utils.Arguments(
    prog='bigjax sample',
    description=__doc__.splitlines()[0],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--workdir', help='of a run: its newest checkpoint (see --checkpoint)')
  source.add_argument('--params', help='an exported generator, .safetensors or .npz')
  parser.add_argument('--checkpoint', help='of the workdir: last (default), best or a step')
  parser.add_argument(
    '--classes', default='all', help="numbers or names, '3,7', or 'all' (default)"
  )
  parser.add_argument(
    '--truncation',
    default='none',
    metavar='t[:dialect]',
    help='0.5, 0.4:truncnorm (dialects: resample, truncnorm, scale, clamp), or none',
  )
  parser.add_argument('--seed', type=int, default=0, help='of all latents (default: 0)')
  parser.add_argument(
    '--seeds',
    metavar='a-b,c,...',
    help='the first image of each seed, for every class: a row per class, a column per seed',
  )
  parser.add_argument(
    '--num',
    type=int,
    help='number of images, shared evenly among the classes (default: ten of each); '
    'with --sweep, images in a row',
  )
  parser.add_argument(
    '--out',
    default='samples.png',
    help='x.png (a grid), x.npz (arrays) or a folder (a PNG each; the same command again resumes)',
  )
  parser.add_argument(
    '--layout',
    choices=('bigjax', 'adm'),
    default='bigjax',
    help="of an .npz: adm is what guided-diffusion's evaluator reads, classes in random order",
  )
  parser.add_argument('--batch', type=int, default=BATCH, help='images at a time (default: 64)')
  parser.add_argument(
    '--interpolate',
    choices=('z', 'class', 'both'),
    help='a row per class, from one sample to another',
  )
  parser.add_argument('--sweep', metavar='t,t,...', help='a row per truncation, 0.02,0.5,1,2')
  parser.add_argument('--recalibrate', action='store_true', help='measure standing statistics anew')
  parser.add_argument(
    '--neighbours',
    nargs='?',
    const='',
    metavar='SOURCE',
    help='a row per sample: the training images nearest to it, in pixels and in features. SOURCE '
    'is as data.source: tfds:cifar10, folder:PATH, ...; without it, what was trained on',
  )
  parser.add_argument('--data_dir', help='where TFDS has prepared SOURCE')
  parser.add_argument(
    '--nearest', type=int, default=5, help='how many --neighbours of each sample (default: 5)'
  )
  return parser


def check(args: argparse.Namespace) -> None:
  """Refuse options that mean nothing together.

  Raises:
    UserError: names them.
  """
  for name in ('num', 'batch', 'nearest'):
    given = getattr(args, name)
    if given is not None and given < 1:
      raise utils.UserError(f'--{name}={given}: give at least 1.')
  pictures = [n for n in ('sweep', 'interpolate', 'neighbours') if getattr(args, n) is not None]
  if len(pictures) > 1:
    raise utils.UserError(
      f'--{pictures[0]} and --{pictures[1]} are two pictures: ask for one at a time.'
    )
  if args.seeds and (args.num or args.interpolate):
    raise utils.UserError(
      f'--seeds already says how many images there are; leave out '
      f'{"--num" if args.num else "--interpolate"}.'
    )
  if args.layout != 'bigjax' and not args.out.endswith('.npz'):
    raise utils.UserError(f'--layout={args.layout} is for an .npz file, not --out={args.out}.')
  if args.neighbours is not None and not args.out.endswith('.png'):
    raise utils.UserError('--neighbours draws a picture; give an --out ending in .png.')


def plain(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray, num: int) -> Wanted:
  """Return samples class by class; those of an ADM file are in random order."""
  how, seeds = loaded.how(args.truncation), None
  loaded.prepare(how, args.recalibrate)
  if args.seeds:
    each = parse_seeds(args.seeds)
    z = np.tile(first_of_each(loaded, each, how), (len(labels), 1))
    y, seeds = np.repeat(labels, len(each)), np.tile(np.array(each, np.int64), len(labels))
    columns = len(each) if len(labels) > 1 else min(len(each), 10)
  else:
    z = loaded.sampler.latents(args.seed, num, how)
    y, columns = labels[np.sort(np.arange(num) % len(labels))], -(-num // len(labels))
    if args.layout == 'adm':  # its evaluator takes every 5,000 in a row for one sample of all
      y = y[np.random.RandomState(args.seed % 2**32).permutation(num)]
  make = lambda start: loaded.one_batch(z, y, how, args.batch, start)
  return Wanted(len(y), make, y, columns, seeds)


def sweep(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return a row of the same samples at each truncation."""
  hows = [loaded.how(t) for t in args.sweep.split(',')]
  seeds = parse_seeds(args.seeds) if args.seeds else None
  columns = len(seeds) if seeds else args.num or max(10, len(labels))
  y = labels[np.arange(columns) % len(labels)]
  rows = []
  for how in hows:
    loaded.prepare(how, args.recalibrate)
    z = (
      first_of_each(loaded, seeds, how)
      if seeds
      else loaded.sampler.latents(args.seed, columns, how)
    )
    rows.append(loaded.images(z, y, how, args.batch))
  return ready(np.concatenate(rows), np.tile(y, len(hows)), columns)


def interpolate(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> Wanted:
  """Return a row from one sample to another for each class."""
  how = loaded.how(args.truncation)
  loaded.prepare(how, args.recalibrate)
  columns = max(-(-(args.num or 10 * len(labels)) // len(labels)), 3)
  return ready(
    interpolation(loaded, args.interpolate, labels, columns, args.seed, how), None, columns
  )


def look_for_neighbours(loaded: Loaded, args: argparse.Namespace, labels: np.ndarray) -> str:
  """Draw samples beside the training images nearest to them; return what is to be said of them."""
  source = neighbours.reference(
    args.neighbours or loaded.card.get('data', ''), args.data_dir, loaded.shape, args.workdir
  )
  if args.num is None and len(labels) > SHOWN:
    labels = labels[np.arange(SHOWN) * len(labels) // SHOWN]
  wanted = plain(loaded, args, labels, args.num or SHOWN)
  starts = range(0, wanted.num, args.batch)
  images = np.concatenate([wanted.make(start) for start in starts])
  spaces = {'pixels': neighbours.pixels, 'features': neighbours.of_classifier(source)}
  found = neighbours.search(images, source, spaces, args.nearest)
  os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
  names = [loaded.class_names[label] for label in wanted.labels]
  neighbours.draw(images, names, found).save(args.out)
  return '\n'.join([f'{args.out}: {neighbours.words(source, found)}', *table(names, found)])


def table(names: Sequence[str], found: Sequence[neighbours.Found]) -> list[str]:
  """Return a line per sample: its class, and how near its nearest training image is."""
  if len(names) > LISTED:
    return []
  width = max(len('class'), *(len(name) for name in names)) + 2
  head = f'{"sample":8}{"class":{width}}' + ''.join(f'{one.space:>10}' for one in found)
  return [head] + [
    f'{i:<8}{name:{width}}' + ''.join(f'{one.ratios[i, 0]:10.2f}' for one in found)
    for i, name in enumerate(names)
  ]


def main(argv: list[str]) -> None:
  """`bigjax sample`."""
  args = arguments().parse_args(argv)
  check(args)
  args.workdir = args.workdir and remote.local(args.workdir)
  loaded = of_options(args)
  labels = parse_classes(args.classes, loaded.class_names)
  try:
    if args.neighbours is not None:
      print(look_for_neighbours(loaded, args, labels))
      return
    if args.sweep:
      wanted, batch = sweep(loaded, args, labels), BATCH
    elif args.interpolate:
      wanted, batch = interpolate(loaded, args, labels), BATCH
    else:
      wanted, batch = plain(loaded, args, labels, args.num or 10 * len(labels)), args.batch
    keys = ('classes', 'truncation', 'seed', 'seeds', 'num', 'interpolate', 'sweep', 'recalibrate')
    ask = {'generator': digest(loaded), **{key: getattr(args, key) for key in keys}}
    print(write(wanted, batch, args.out, args.layout, ask))
  except OSError as error:
    raise utils.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
