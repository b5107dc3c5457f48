"""A generator behind sliders: one image, or clip, at a time, on the way between two samples.

Always a batch of one, on one device, and of weights over classes: one program is compiled, whatever
is asked for, but for options that change what is computed (such as a diffusion's steps).
"""

import dataclasses
import io
import math
import os
import re
import shlex
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from bigjax.algorithms.base.contract import Spec
from bigjax.core import checkpoint, errors, files, ranges
from bigjax.core.progress import say
from bigjax.sampling import clip_files, generator_file, grids
from bigjax.sampling.interpolation import slerp
from bigjax.sampling.loaded import Loaded, guided, misnumbered, place, read

WAY = ranges.Range(0, 1, whole=False)
STEP = ranges.Range(0, ranges.LARGEST)
LONGEST = 60  # characters of a value that a browser sends
ROWS, COLUMNS = 10, 8  # of a grid of classes


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the sliders say; the image is `way` from the first sample to the second.

  Attributes:
    classes, seeds: of the two samples, which are the first of their seeds.
    way: 0: the first sample, 1: the second.
    truncation: as `--truncation` takes it; '' where there is none.
    options: (name, word) of other sampling options.
    step: of the checkpoint; None: the one that was opened first.
  """

  classes: tuple[int, int] = (0, 0)
  seeds: tuple[int, int] = (0, 0)
  way: float = 0.0
  truncation: str = ''
  options: tuple[tuple[str, str], ...] = ()
  step: int | None = None


def read_settings(words: Mapping[str, str], num_classes: int) -> Settings:
  """Settings of what a browser sends, by names: see `known`, and option.NAME.

  Raises:
    UserError: a name is none of these, or a value is out of range.
  """
  known, given = {'class', 'class2', 'seed', 'seed2', 'way', 'truncation', 'step'}, {}
  for name, word in words.items():
    if name not in known and not name.startswith('option.'):
      raise errors.UserError(f'{name[:LONGEST]!r} is no setting of an image.')
    if len(word) > LONGEST:
      raise errors.UserError(f'{name[:LONGEST]}={word[:LONGEST]}... is too long.')
  within = {'class': ranges.Range(0, num_classes - 1), 'seed': ranges.SEED}
  for name, kind in within.items():
    first = kind.read(f'{name}=', words.get(name, '0'))
    second = words.get(f'{name}2')
    given[name] = first, first if second is None else kind.read(f'{name}2=', second)
  return Settings(
    classes=given['class'],
    seeds=given['seed'],
    way=float(WAY.read('way=', words.get('way', '0'))),
    truncation=words.get('truncation', ''),
    options=tuple(
      (name.removeprefix('option.'), word)
      for name, word in sorted(words.items())
      if name.startswith('option.') and word
    ),
    step=STEP.read('step=', words['step']) if 'step' in words else None,
  )


def truncations(loaded: Loaded) -> dict[str, Any] | None:
  """The slider of truncations: {least, most, untruncated, value}; None where it would do nothing.

  Between the smallest and the largest of the stored table, where there is one. `untruncated` says
  whether that is a choice beside the slider; `value` is where it begins, None: untruncated.
  """
  generator, sampling = loaded.sampler.generator, loaded.card['sampling']
  if 'truncation' not in generator.options:
    return None
  ready = lambda spec: generator.provenance(loaded.gen, spec, sampling)[0]
  truncation = lambda spec: spec.truncation  # which the settings have where it is an option
  table = sorted(truncation(spec) for spec in generator.prepared(sampling) if ready(spec))
  finite, whole = [t for t in table if math.isfinite(t)], truncation(generator.spec(sampling))
  if table:
    if not finite:
      return None
    beside = math.isinf(table[-1])
    least, most = finite[0], finite[-1]
    value = None if beside else most
  else:
    try:
      generator.spec(sampling, {'truncation': '0.5'})
    except errors.UserError:  # latents that have none
      return None
    beside = math.isinf(whole)
    least, most, value = (0.1, 2.0, None) if beside else (0.0, float(whole), float(whole))
  return {'least': least, 'most': most, 'untruncated': beside, 'value': value}


class Explorer:
  """Makes images of settings; not by several threads at once.

  Args:
    loaded: on one device, with whatever it needs measured in its `gen`.
    flags: that name the generator on a command line of `bigjax sample`.
  Raises:
    UserError: it cannot be sampled.
  """

  def __init__(self, loaded: Loaded, flags: Sequence[str]):
    self.loaded, self._flags = loaded, flags
    self._latents: tuple[Any, np.ndarray] = (None, np.empty(0))
    generator, sampling = loaded.sampler.generator, loaded.card['sampling']
    if len(self.missing()) == len(generator.prepared(sampling)):  # else one of them is there
      loaded.prepare(generator.spec(sampling))

  @property
  def step(self) -> int | None:
    return self.loaded.card.get('step')

  @property
  def rate(self) -> float:
    """Frames per second of clips, 0 of images."""
    return clip_files.frame_rate(self.loaded.card) if len(self.loaded.shape) == 4 else 0.0

  def about(self) -> dict[str, Any]:
    """What a page needs to know of the generator, JSON-able."""
    loaded = self.loaded
    generator, sampling = loaded.sampler.generator, loaded.card['sampling']
    now = generator.spec(sampling).described()
    fixed = set(sampling) if generator.prepared(sampling) else set()  # what was measured with
    *frames, height, width, _ = loaded.shape
    return {
      'algorithm': loaded.card['algorithm'],
      'class_names': loaded.class_names,
      'height': height,
      'width': width,
      'frames': frames[0] if frames else 0,
      'frame_rate': self.rate,
      'step': self.step,
      'truncation': truncations(loaded),
      'options': [
        {'name': name, 'help': words, 'value': str(now.get(name, ''))}
        for name, words in generator.options.items()
        if name != 'truncation' and name not in fixed
      ],
      'most_seed': ranges.SEED.most,
      'measurable': bool(self.missing()),
    }

  def missing(self) -> list[Spec]:
    """What of the table of truncations is not there, as of a checkpoint that was not exported."""
    generator, sampling = self.loaded.sampler.generator, self.loaded.card['sampling']
    ready = lambda spec: generator.provenance(self.loaded.gen, spec, sampling)[0]
    return [spec for spec in generator.prepared(sampling) if not ready(spec)]

  def measure(self) -> None:
    """Measures that, as an export would."""
    loaded = self.loaded
    for spec in self.missing():
      say(f'measuring standing statistics at {spec}')
      loaded.gen = loaded.sampler.prepare(loaded.gen, 0, spec)

  def spec(self, settings: Settings) -> tuple[Spec, str]:
    """(Sampling settings, where their statistics come from; '' for nothing to be said).

    Raises:
      UserError: a word means nothing, or nothing was measured for these settings.
    """
    loaded = self.loaded
    spec = loaded.spec(settings.truncation or None, **dict(settings.options))
    ready, words = loaded.sampler.generator.provenance(loaded.gen, spec, loaded.card['sampling'])
    if not ready:
      raise errors.UserError(
        f'no statistics are stored for {spec}: bigjax sample measures them, and bigjax export '
        'writes those of a table of truncations.'
      )
    return spec, words

  def latents(self, seeds: tuple[int, int], spec: Spec) -> np.ndarray:
    """The first latents of both seeds, [2, ...]; kept for the next image."""
    if self._latents[0] != (seeds, spec):
      self._latents = (seeds, spec), self.loaded.sampler.first_of_each(seeds, spec)
    return self._latents[1]

  def image(self, settings: Settings) -> np.ndarray:
    """uint8 image [H, W, C], or clip [T, H, W, C].

    The noise of the layers is the first sample's, all the way.

    Raises:
      UserError: as `spec`.
    """
    loaded, way = self.loaded, settings.way
    spec, _ = self.spec(settings)
    first, second = self.latents(settings.seeds, spec)
    # At its ends the way is the samples themselves, to the last bit.
    z = {0.0: first, 1.0: second}.get(way)
    z = slerp(first, second, np.array([way], np.float32))[0] if z is None else z
    y = np.zeros((1, loaded.num_classes), np.float32)
    y[0, settings.classes[0]] += np.float32(1 - way)
    y[0, settings.classes[1]] += np.float32(way)
    make = loaded.sampler.images_with_noise_of
    return make(loaded.gen, z[None], y, spec, first[None], 1)[0]

  def command(self, settings: Settings) -> str:
    """The command that makes this very image at its size, '' where there is none."""
    at = {0.0: 0, 1.0: 1}.get(settings.way)
    if settings.seeds[0] == settings.seeds[1] and settings.classes[0] == settings.classes[1]:
      at = 0
    noise = hasattr(self.loaded.sampler.generator, 'with_noise_of')
    if at is None or (at == 1 and noise and settings.seeds[0] != settings.seeds[1]):
      return ''
    if self.spec(settings)[1] and '--workdir' in self._flags:
      return ''  # which measures there what is interpolated here
    label, names = settings.classes[at], self.loaded.class_names
    plain = misnumbered(names) is None and names.count(str(label)) <= 1
    words = ['bigjax', 'sample', *self._flags]
    if len(names) > 1:
      words += ['--classes', str(label) if plain else place(label)]
    words += ['--seeds', str(settings.seeds[at])]
    words += ['--truncation', settings.truncation] if settings.truncation else []
    words += [word for one in settings.options for word in ('--sampling', '='.join(one))]
    return shlex.join([*words, '--out', 'samples/'])

  def start(self) -> Settings:
    """What the sliders say first."""
    slider = truncations(self.loaded)
    value = slider['value'] if slider else None
    return Settings(truncation='' if value is None else f'{value:g}')

  def grid(self) -> tuple[bytes, str]:
    """(A picture of samples of at most ROWS classes, a row each, or a film of clips; its type)."""
    loaded, (spec, _) = self.loaded, self.spec(self.start())
    num = min(loaded.num_classes, ROWS)
    labels = np.arange(num, dtype=np.int32) * loaded.num_classes // num
    columns = COLUMNS if num > 1 else 2 * COLUMNS
    seeds = range(columns if num > 1 else columns * 3)
    y = np.repeat(labels, len(seeds))
    z = np.tile(
      loaded.sampler.first_of_each(seeds, spec),
      (num,) + (1,) * len(loaded.sampler.generator.latent_shape),
    )
    images = loaded.images(z, y, spec)
    names = [loaded.class_names[label] for label in labels] if num > 1 else []
    words = names, (), f'{spec}, seeds 0 to {len(seeds) - 1}'
    if images.ndim == 4:
      return packed([grids.sheet(images, columns, *words)])[:2]
    return packed(grids.film(images, columns, *words), self.rate)[:2]


def file_name(stem: str, settings: Settings, ending: str) -> str:
  """The name of a saved image, with its settings: digits_step700_seed3_class5_truncation0.5.png."""
  (a, b), (s, t), way = settings.classes, settings.seeds, settings.way
  moved = way > 0 and (a, s) != (b, t)
  words = [stem, f'step{settings.step}' if settings.step is not None else '']
  words += [f'seed{s}-{t}' if moved and s != t else f'seed{s}']
  words += [f'class{a}-{b}' if moved and a != b else f'class{a}']
  words += [f'way{way:g}'] if moved else []
  words += [f'truncation{settings.truncation}'] if settings.truncation else []
  words += [f'{name}{word}' for name, word in settings.options]
  return re.sub(r'[^\w.-]+', '-', '_'.join(filter(None, words)))[:150] + ending


def encoded(image: np.ndarray, rate: float = 0.0) -> tuple[bytes, str, str]:
  """`packed`, of a uint8 image [H, W, C] or clip [T, H, W, C]."""
  frames = image.reshape(-1, *image.shape[-3:])
  pictures = [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in frames]
  return packed(pictures, rate)


def packed(pictures: Sequence[Image.Image], rate: float = 0.0) -> tuple[bytes, str, str]:
  """(Bytes, media type, ending) of a picture as PNG, or at a rate of a film as WebP; lossless."""
  out = io.BytesIO()
  if not rate:
    pictures[0].save(out, 'png', compress_level=1)
    return out.getvalue(), 'image/png', '.png'
  first, *others = [picture.convert('RGB') for picture in pictures]
  times = clip_files.durations(len(pictures), rate, 1000)
  film = {'save_all': True, 'append_images': others, 'duration': times, 'loop': 0}
  first.save(out, 'webp', **film, lossless=True, method=0)
  return out.getvalue(), 'image/webp', '.webp'


# --- Opening what PATH names


def exported_at(workdir: str, card: Mapping[str, Any]) -> str:
  """The run's exported generator, where it is that of this checkpoint's card; else ''."""
  path = os.path.join(workdir, 'export', 'generator.safetensors')
  try:
    theirs = files.read_json(generator_file.card_path(path))
    generator_file.check(theirs, path)
  except errors.UserError:
    return ''
  same = all(theirs.get(key) == card.get(key) for key in ('step', 'config_hash', 'architecture'))
  return path if same else ''


class Shelf:
  """The generators of PATH: of a workdir one for each checkpoint, of which few are kept open.

  Args:
    path: a workdir on this machine, or an exported file.
    which: of a workdir's checkpoints is opened first.
    classifier: as `loaded.guided` takes it.
    shown: PATH as commands shall name it.
  """

  KEPT = 2

  def __init__(
    self, path: str, which: str = 'last', classifier: str | None = None, shown: str = ''
  ):
    self.path, self._classifier, self._shown = path, classifier, shown or path
    self.is_workdir = os.path.isdir(path)
    self.lock = threading.Lock()
    self._open: dict[int | None, Explorer] = {}
    if self.is_workdir:
      self.first: int | None = checkpoint.find_step(path, which)
    else:
      self.first = None

  def at(self, step: int | None = None) -> Explorer:
    """The generator of a step, None: of the first; by who holds the lock.

    Raises:
      UserError: there is none, or it cannot be sampled.
    """
    step = self.first if step is None or not self.is_workdir else step
    if step not in self._open:
      explorer = self._opened(step)
      for other in list(self._open)[: len(self._open) - self.KEPT + 1]:
        del self._open[other]
      self._open[step] = explorer
    return self._open[step]

  def _opened(self, step: int | None) -> Explorer:
    path, which = self.path, 'last' if step is None else str(step)
    flags = ['--params', self._shown]
    if self.is_workdir:
      path = exported_at(self.path, generator_file.card_of(self.path, which)) or path
      inside = os.path.relpath(path, self.path)
      flags = ['--workdir', self._shown, '--checkpoint', which]
      if path != self.path and '://' not in self._shown:
        flags = ['--params', os.path.join(self._shown, inside)]
    flags += ['--classifier', self._classifier] if self._classifier else []
    loaded = guided(read(path, which), self._classifier, devices=jax.local_devices()[:1])
    if self._open:  # programs are compiled already, where the network is the same
      before = next(iter(self._open.values())).loaded
      if before.sampler.generator == loaded.sampler.generator:
        loaded = Loaded(before.sampler, loaded.stored, loaded.card)
    return Explorer(loaded, flags)


def by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
  """{name: word} of what a browser sends.

  Raises:
    UserError: a name comes twice.
  """
  found: dict[str, str] = {}
  for name, word in pairs:
    if name in found:
      raise errors.UserError(f'{name[:LONGEST]!r} is given twice.')
    found[name] = word
  return found
