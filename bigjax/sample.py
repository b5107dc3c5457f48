"""Images from a trained generator: class grids, interpolations, truncation sweeps.

Needs neither the dataset nor TensorFlow nor the training state.
"""

import dataclasses
import math
import os
import sys
from typing import Any

import numpy as np
from PIL import Image

from bigjax import build, report, utils
from bigjax import card as cards
from bigjax.latents import How


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
  def num_classes(self) -> int:
    return len(self.card['class_names'])

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

  def images(self, z: np.ndarray, y: np.ndarray, how: How) -> np.ndarray:
    """Return uint8 images [n, H, W, C]; call `prepare(how)` first."""
    return self.sampler.images(self.gen, z, y, how)


def say(text: str) -> None:
  print(text, file=sys.stderr)


def load(path: str, which: str = 'last') -> Loaded:
  """Load a generator from a workdir (checkpoint `which`) or an exported .safetensors file.

  Raises:
    UserError: it is neither, or cannot be read.
  """
  read = cards.load_workdir(path, which) if os.path.isdir(path) else cards.load(path)
  return Loaded(*build.from_card(*read))


def parse_classes(text: str, class_names: list[str]) -> np.ndarray:
  """Read '3,7', 'cat,dog' or 'all' into int32 labels; a name wins over a number.

  Raises:
    UserError: a class that does not exist.
  """
  if text == 'all':
    return np.arange(len(class_names), dtype=np.int32)
  labels = []
  for word in text.split(','):
    if word in class_names:
      labels.append(class_names.index(word))
    elif word.isdecimal() and int(word) < len(class_names):
      labels.append(int(word))
    else:
      raise utils.UserError(
        f'there is no class {word!r}{utils.did_you_mean(word, class_names)}; this '
        f'generator has {len(class_names)}: numbers 0 to {len(class_names) - 1} or '
        f'names such as {", ".join(class_names[:3])}.'
      )
  return np.array(labels, np.int32)


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


def of_each_class(
  loaded: Loaded, labels: np.ndarray, num: int, seed: int, how: How
) -> tuple[np.ndarray, np.ndarray]:
  """Return (images, labels) of `num` samples class by class, shared evenly among the classes."""
  y = labels[np.sort(np.arange(num) % len(labels))]
  return loaded.images(loaded.sampler.latents(seed, num, how), y, how), y


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


def write(images: np.ndarray, labels: np.ndarray | None, columns: int, out: str) -> str:
  """Write a grid (.png), arrays (.npz) or one PNG per image (a folder); return what was written."""
  if out.endswith('.png'):
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    report.grid(images, columns).save(out)
    return f'{out}: {len(images)} images, {columns} in a row'
  if out.endswith('.npz'):
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    arrays = {'images': images} if labels is None else {'images': images, 'labels': labels}
    np.savez(out, **arrays)
    return f'{out}: {len(images)} images, uint8 {images.shape}'
  os.makedirs(out, exist_ok=True)
  for i, image in enumerate(images):
    name = f'{i:06d}.png' if labels is None else f'{i:06d}_class{labels[i]}.png'
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(os.path.join(out, name))
  return f'{out}/: {len(images)} PNGs'


def arguments() -> utils.Arguments:
  parser = utils.Arguments(prog='bigjax sample', description=__doc__.splitlines()[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--workdir', help='of a run: its newest checkpoint (see --checkpoint)')
  source.add_argument('--params', help='an exported generator, .safetensors')
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
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--num',
    type=int,
    help='number of images, shared evenly among the classes (default: ten of each); '
    'with --sweep, images in a row',
  )
  parser.add_argument(
    '--out', default='samples.png', help='x.png (a grid), x.npz (arrays) or a folder'
  )
  parser.add_argument(
    '--interpolate',
    choices=('z', 'class', 'both'),
    help='a row per class, from one sample to another',
  )
  parser.add_argument('--sweep', metavar='t,t,...', help='a row per truncation, 0.02,0.5,1,2')
  parser.add_argument('--recalibrate', action='store_true', help='measure standing statistics anew')
  return parser


def main(argv: list[str]) -> None:
  """`bigjax sample`."""
  args = arguments().parse_args(argv)
  if args.num is not None and args.num < 1:
    raise utils.UserError(f'--num={args.num}: give at least 1.')
  if args.sweep and args.interpolate:
    raise utils.UserError('--sweep and --interpolate are two pictures: ask for one at a time.')
  if args.params and args.checkpoint:
    raise utils.UserError(
      '--checkpoint chooses one of a --workdir; --params has only one generator.'
    )
  if args.workdir:
    read = cards.load_workdir(args.workdir, args.checkpoint or 'last')
    loaded = Loaded(*build.from_card(*read))
  else:
    loaded = Loaded(*build.from_card(*cards.load(args.params)))
  labels = parse_classes(args.classes, loaded.card['class_names'])
  asked = args.sweep.split(',') if args.sweep else [args.truncation]
  hows = [cards.how(loaded.card, t) for t in asked]
  if args.sweep:
    columns = args.num or max(10, len(labels))
    y = labels[np.arange(columns) % len(labels)]
    rows = []
    for how in hows:
      loaded.prepare(how, args.recalibrate)
      rows.append(loaded.images(loaded.sampler.latents(args.seed, columns, how), y, how))
    images, y = np.concatenate(rows), np.tile(y, len(hows))
  else:
    how = hows[0]
    loaded.prepare(how, args.recalibrate)
    num = args.num or 10 * len(labels)
    columns = max(-(-num // len(labels)), 3 if args.interpolate else 1)
    if args.interpolate:
      images, y = interpolation(loaded, args.interpolate, labels, columns, args.seed, how), None
    else:
      images, y = of_each_class(loaded, labels, num, args.seed, how)
  try:
    print(write(images, y, columns, args.out))
  except OSError as error:
    raise utils.UserError(f'--out={args.out} cannot be written ({error.strerror}).') from None
