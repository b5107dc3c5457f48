"""`bigjax evaluate`: scores of a run's checkpoints, of an exported generator, of any images.

Every score is named by its protocol, and what else decides it is written beside it: the weights'
digest, the resizer, the reference's digest, truncation and its dialect, standing statistics, seeds.
Samples are made and looked at on all devices, in one pass for all scores.
"""

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import bigjax
from bigjax import build, checkpoint, data, parallel, real, report, utils
from bigjax import card as cards
from bigjax import features as networks
from bigjax.evaluators import classifier
from bigjax.evaluators.scores import frechet, table
from bigjax.evaluators.scores.table import METRICS, Seen
from bigjax.latents import How
from bigjax.real import Images, Labelled


class Looker:
  """Looks at images for the scores, in batches: a network on all devices, sums on the host."""

  def __init__(
    self, network: networks.Features, keeps: frozenset[str], mesh: jax.sharding.Mesh, batch: int
  ):
    self.network, self.mesh = network, mesh
    self.batch = -(-batch // mesh.size) * mesh.size
    self.seconds = {'making images': 0.0, 'network': 0.0, 'statistics': 0.0}
    self._keeps = keeps
    examples, everywhere = parallel.batched(mesh), parallel.replicated(mesh)
    self._examples = examples
    self._variables = jax.device_put(network.variables, everywhere)
    self._look = jax.jit(
      self._traced,
      in_shardings=(everywhere, examples, examples, everywhere),
      out_shardings=everywhere,
    )

  def _traced(self, variables: Any, images: Any, mask: Any, shift: Any) -> dict[str, Any]:
    found = self.network.apply(variables, images)
    seen = {'sums': frechet.batch_sums(found['features'], mask, shift)}
    seen |= {name: found[name] for name in ('features', 'logits') if name in self._keeps}
    return seen | ({'images': images} if 'images' in self._keeps else {})

  def __call__(
    self, batches: Iterator[Labelled], total: int, what: str, kept: np.ndarray | None = None
  ) -> Seen:
    """Return what is known of all images together.

    Args:
      batches: (uint8 images [b, H, W, C], on the host or the devices; labels [b] or None), of
        `self.batch` images but for the last.
      total: number of images.
      what: for the progress line.
      kept: bool [total], of which images features and pixels are kept (default: all).
    """
    moments, shift = frechet.Moments(self.network.dim), np.zeros(self.network.dim, np.float32)
    parts = {name: [] for name in ('features', 'logits', 'images', 'labels')}
    done = 0
    progress = report.Progress(0, -(-total // self.batch), self.batch)
    progress.say(f'{what}: {total:,} images')
    for i, (images, labels) in enumerate(batches):
      num = len(images)
      began = time.monotonic()
      if missing := self.batch - num:
        images = np.pad(np.asarray(images), ((0, missing), (0, 0), (0, 0), (0, 0)))
      mask = (np.arange(self.batch) < num).astype(np.float32)
      with jax.set_mesh(self.mesh):
        placed = jax.device_put((images, mask), self._examples)
        found = jax.device_get(self._look(self._variables, *placed, shift))
        if i == 0:  # float32 sums are exact enough only about the mean: once more
          shift = found['sums'].first / found['sums'].num
          found = jax.device_get(self._look(self._variables, *placed, shift))
      looked = time.monotonic()
      moments.add(found.pop('sums'), shift)
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
    return Seen(done, moments, **arrays)

  def samples(
    self, sampler: build.Sampler, gen: Any, how: How, num: int, num_classes: int, seed: int
  ) -> Seen:
    """Return what is known of `num` samples, their classes in turn."""
    labels = np.arange(num, dtype=np.int32) % num_classes
    z = sampler.latents(seed, num, how)

    def batches():
      for i in range(0, num, self.batch):
        began = time.monotonic()
        some, y = z[i : i + self.batch], labels[i : i + self.batch]
        missing = ((0, self.batch - len(y)), (0, 0))
        images = sampler.spread(gen, np.pad(some, missing), np.pad(y, missing[0]), how)
        # In turn: programs with collectives may not run side by side on CPU devices.
        images = jax.block_until_ready(images)
        self.seconds['making images'] += time.monotonic() - began
        yield (images if len(y) == self.batch else np.asarray(images)[: len(y)]), y

    return self(batches(), num, f'seed {seed}, {how}')


def open_network(name: str, weights: str | None, reference: Images | None) -> networks.Features:
  """Return the network in whose features scores are computed.

  Args:
    name: of features.NETWORKS, or 'classifier': the small one that is trained on the reference's
      images, for sets that have none.
    weights: a file, or None for where they are usually kept.
    reference: the training images, for 'classifier'.
  Raises:
    UserError: there is no such network, or its weights cannot be had.
  """
  utils.pick(name, {**networks.NETWORKS, 'classifier': None}, '--features')
  if name != 'classifier':
    return networks.load(name, weights)
  if reference is None or not reference.num_classes:
    raise utils.UserError(
      '--features=classifier is trained on the labelled images of --reference; give one, such as '
      'tfds:cifar10 or digits.'
    )
  batches = list(reference.batches(classifier.CHUNK))
  images, labels = (np.concatenate(column) for column in zip(*batches, strict=True))
  images, labels = classifier.evenly((images, labels), classifier.TRAINED_ON)
  images = classifier.reduce(images)
  variables = classifier.cached(images, labels, reference.num_classes)
  net = classifier.network(reference.num_classes)

  def apply(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    logits, seen = net.apply(variables, classifier.reduced(images), False)
    return {'features': seen, 'logits': logits}

  return networks.Features(
    name='classifier',
    digest=classifier.digest(images, labels),
    resizer='none',
    dim=classifier.RECIPE.widths[-1],
    num_logits=net.num_classes,
    variables=variables,
    apply=apply,
  )


@dataclasses.dataclass(frozen=True)
class Reference:
  """What samples are compared with: a split of real images, and what a network sees in it."""

  name: str
  split: str
  digest: str
  seen: Seen


def cached_reference(look: Looker, images: Images, keeps: frozenset[str], num: int) -> Reference:
  """Return what the network sees in real images: moments of all, the rest of at most `num`.

  Moments and features are kept in the cache folder, under a digest of images and weights.
  """
  told = f'{images.digest} {look.network.name} {look.network.digest} {look.network.resizer} '
  key = hashlib.sha256((told + f'{sorted(keeps)} {num}').encode()).hexdigest()[:16]
  path = os.path.join(utils.cache_dir(), 'references', f'{key}.npz')
  seen = None if 'images' in keeps else read_reference(path)
  if seen is None:
    kept = np.isin(np.arange(images.num), data.spread(images.num, num))
    words = f'reference {images.name}/{images.split}'
    seen = look(images.batches(look.batch), images.num, words, kept)
    if 'images' not in keeps:
      write_reference(path, seen)
  return Reference(images.name, images.split, images.digest, seen)


def read_reference(path: str) -> Seen | None:
  """Return what `write_reference` wrote, or None where it is missing or damaged."""
  try:
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
  except Exception:  # zipfile has a dozen ways to say that a file is damaged
    return None
  moments = frechet.Moments.of(int(arrays.pop('num')), arrays.pop('mean'), arrays.pop('cov'))
  return Seen(moments.num, moments, **arrays)


def write_reference(path: str, seen: Seen) -> None:
  """Keep what is known of a reference; a cache that cannot be written is no error."""
  arrays = {name: getattr(seen, name) for name in ('features', 'logits', 'labels')}
  moments = {name: getattr(seen.moments, name) for name in ('num', 'mean', 'cov')}
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f'{path}.{os.getpid()}.partial'
    with open(partial, 'wb') as file:
      np.savez(file, **moments, **{k: v for k, v in arrays.items() if v is not None})
    os.replace(partial, path)
  except OSError as error:
    say(f'the reference cannot be kept in {os.path.dirname(path)!r} ({error.strerror})')


def read_statistics(path: str, dim: int) -> Reference:
  """Return the reference whose mean and covariance an .npz holds: `mu`, `sigma`, as pytorch-fid's.

  Raises:
    UserError: it does not hold them, or of other features.
  """
  try:
    with np.load(path) as file:
      mean, cov = (np.asarray(file[name], np.float64) for name in ('mu', 'sigma'))
  except KeyError:
    raise utils.UserError(
      f'--reference={path} has no arrays mu and sigma; expected the statistics that pytorch-fid '
      'writes, or a source of images such as tfds:cifar10/train.'
    ) from None
  except Exception as error:  # zipfile has a dozen ways to say that a file is damaged
    raise utils.UserError(f'--reference={path} cannot be read ({error}).') from None
  if mean.shape != (dim,) or cov.shape != (dim, dim):
    raise utils.UserError(
      f'--reference={path} is of {mean.size} features, the network gives {dim}; give statistics of '
      'the same features.'
    )
  digest = hashlib.sha256(mean.tobytes() + cov.tobytes()).hexdigest()[:16]
  return Reference(path, 'stats', digest, Seen(0, frechet.Gaussian(mean, cov)))


def refuse(metrics: Sequence[str], split: str, num_classes: int) -> None:
  """Refuse scores that cannot be had, before anything is computed.

  Args:
    metrics: asked for.
    split: of the reference, 'stats' where only its mean and covariance are known, '' for none.
    num_classes: of the samples, 0 where they have no labels.
  Raises:
    UserError: names the first.
  """
  for name in metrics:
    metric = METRICS[name]
    if metric.compares and not split:
      raise utils.UserError(
        f'--metrics={name} compares with real images; give --reference, such as tfds:cifar10/train.'
      )
    needs = [kept for kept in metric.keeps if kept != 'logits']
    if metric.compares and needs and split == 'stats':
      raise utils.UserError(
        f'--metrics={name} needs the real images themselves, --reference has only their mean and '
        'covariance; give a source such as tfds:cifar10/train.'
      )
    if 'labels' in needs and not num_classes:
      raise utils.UserError(f'--metrics={name} needs labels, which these images have not.')


def scored(
  samples: Seen, reference: Reference | None, metrics: Sequence[str], network: str, seed: int
) -> dict[str, float]:
  """Return {full name: value} of one set of samples."""
  split = reference.split if reference else ''
  for warning in table.warnings(samples, reference and reference.seen, metrics):
    say(f'warning: {warning}')
  found = {}
  for name in metrics:
    metric = METRICS[name]
    against = reference.seen if metric.compares else None
    for short, value in metric.score(samples, against, seed).items():
      found[table.full_name(short, metric, samples.num, split, network)] = float(value)
  return found


def over_seeds(each: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
  """Return {name: {value: mean over seeds, std: their standard deviation, seeds: each}}."""
  return {
    name: {
      'value': float(np.mean([scores[name] for scores in each])),
      'std': float(np.std([scores[name] for scores in each], ddof=1)) if len(each) > 1 else None,
      'each': [scores[name] for scores in each],
    }
    for name in each[0]
  }


def floor_of(
  look: Looker, other: Images, reference: Reference, metrics: Sequence[str], num: int
) -> tuple[dict[str, float], int]:
  """Return the scores of real images that are not in the reference, and their number.

  No generator need be better; `fid` of the reference and itself is there, too, and is 0.
  """
  kept = np.isin(np.arange(other.num), data.spread(other.num, num))
  most = min(num, other.num)
  batches = chosen(other.batches(look.batch), kept, look.batch)
  seen = look(batches, most, f'floor: {other.name}/{other.split}')
  return scored(seen, reference, metrics, look.network.name, 0), most


def chosen(batches: Iterator[Labelled], kept: np.ndarray, size: int) -> Iterator[Labelled]:
  """Yield those of the images that are kept, in full batches."""

  def parts():
    done = 0
    for images, labels in batches:
      pick = np.flatnonzero(kept[done : done + len(images)])
      done += len(images)
      yield images[pick], labels[pick]

  return real.rebatched(parts(), size)


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def cell(score: Mapping[str, Any]) -> str:
  """Return '12.3 ± 0.2', or '12.3' of one seed."""
  spread = '' if score['std'] is None else f' ± {score["std"]:.2g}'
  return f'{score["value"]:.4g}{spread}'


@dataclasses.dataclass(frozen=True)
class Generated:
  """One column of the table: a generator at one truncation, scored with every seed."""

  what: str  # 'step 700', 'step 700, 0.5 (resample)'
  step: int | None
  how: How | None
  scores: Mapping[str, Mapping[str, Any]]


def write(folder: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Add the rows to scores.jsonl, the protocol of each beside its scores.

  Raises:
    UserError: the folder cannot be written.
  """
  path = os.path.join(folder, 'scores.jsonl')
  try:
    os.makedirs(folder, exist_ok=True)
    with open(path, 'a') as file:
      for row in rows:
        file.write(json.dumps(row) + '\n')
  except OSError as error:
    raise utils.UserError(
      f'{path!r} cannot be written ({error.strerror}); give another folder with --out.'
    ) from None


def draw(args: Any, rows: Sequence[Generated], floor: Mapping[str, float], title: str) -> None:
  """Draw scores against steps where there are several, and what truncation trades for what."""
  points = [
    {'step': row.step, 'at': row.how.truncation if row.how else None, 'scores': row.scores}
    for row in rows
  ]
  if len({row.step for row in rows}) > 1:
    path = os.path.join(args.out, 'scores.png')
    report.scores(path, points, floor, title)
    say(f'{path}: scores against step')
  if args.sweep:
    path = os.path.join(args.out, 'truncation.png')
    report.truncation(path, points, floor, f'{title}, truncation by {rows[0].how.dialect}')
    say(f'{path}: what truncation trades for what')


def shares(seconds: Mapping[str, float]) -> str:
  """Return where the time went."""
  total = max(sum(seconds.values()), 1e-9)
  words = ', '.join(f'{name} {value / total:.0%}' for name, value in seconds.items())
  return f'{total:.0f} s on the devices and with their results: {words}'


def overview(rows: Sequence[Mapping[str, Any]], floor: Mapping[str, float], num: int) -> str:
  """Return a Markdown table: a column per generator, a row per score, `num` real images last."""
  names = list(dict.fromkeys(name for row in rows for name in row['scores']))
  heads = ['score', *[row['what'] for row in rows], *([f'{num:,} real images'] if floor else [])]
  lines = ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
  for name in names:
    cells = [cell(row['scores'][name]) if name in row['scores'] else '' for row in rows]
    kind = table.kind(name)
    real_ones = [f'{v:.4g}' for n, v in floor.items() if table.kind(n) == kind][:1]
    lines.append('| ' + ' | '.join([name, *cells, *(real_ones or [''] if floor else [])]) + ' |')
  return '\n'.join(lines)


def checkpoints_of(workdir: str, which: str) -> list[str]:
  """Return the checkpoints that --checkpoints asks for, as restore_generator takes them.

  Raises:
    UserError: the workdir has none.
  """
  if which != 'all':
    return [word.strip() for word in which.split(',') if word.strip()]
  steps = checkpoint.list_steps(workdir)
  if not steps:
    raise utils.UserError(f'{workdir!r} has no checkpoints; give the workdir of a run.')
  return [str(step) for step in steps]


def of_generators(
  args: Any, loaded: Sequence[tuple[Any, dict[str, Any]]], look: Looker, reference: Any
) -> list[Generated]:
  """Score every generator at every truncation asked for."""
  found = []
  for gen, card in loaded:
    sampler, gen, card = build.from_card(gen, card)
    for text in args.sweep.split(',') if args.sweep else [args.truncation]:
      how = cards.how(card, text.strip())
      say(f'measuring standing statistics, {how}: {how.passes} passes of {how.batch} samples')
      ready = sampler.calibrate(build.uncalibrated(gen), 0, how)
      num_classes = len(card['class_names'])
      each = []
      for seed in args.seeds:
        samples = look.samples(sampler, ready, how, args.num, num_classes, seed)
        each.append(scored(samples, reference, args.metrics, look.network.name, seed))
      step = card.get('step')
      what = 'exported' if step is None else f'step {step:,}'
      what += f', {how}' if args.sweep else ''
      found.append(Generated(what, step, how, over_seeds(each)))
  return found


def of_images(args: Any, images: Images, look: Looker, reference: Any) -> list[Generated]:
  """Score a set of images as it is."""
  num = min(args.num or images.num, images.num)
  kept = np.arange(images.num) < num
  batches = (
    chosen(images.batches(look.batch), kept, look.batch)
    if num < images.num
    else (images.batches(look.batch))
  )
  samples = look(batches, num, images.name)
  each = [scored(samples, reference, args.metrics, look.network.name, args.seeds[0])]
  return [Generated(os.path.basename(os.path.normpath(images.name)), None, None, over_seeds(each))]


def protocol(
  args: Any, look: Looker, reference: Reference | None, row: Generated, card: Mapping[str, Any]
) -> dict[str, Any]:
  """Return everything that a score depends on, for whoever wants the same one again."""
  how = row.how
  return {
    'bigjax': bigjax.__version__,
    'network': look.network.name,
    'network_digest': look.network.digest,
    'resizer': look.network.resizer,
    'reference': reference and f'{reference.name}/{reference.split}',
    'reference_digest': reference and reference.digest,
    'reference_num': reference and reference.seen.num,
    'num': args.num,
    'seeds': args.seeds if how else None,
    'labels': 'every class in turn' if how else None,
    'truncation': str(how) if how else None,
    'dialect': how and how.dialect,
    'standing_passes': how and how.passes,
    'standing_batch': how and how.batch,
    'config_hash': card.get('config_hash'),
    'step': row.step,
  }


def arguments() -> utils.Arguments:
  parser = utils.Arguments(prog='bigjax evaluate', description=__doc__.splitlines()[0])
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--workdir', help='of a run: its checkpoints (see --checkpoints)')
  what.add_argument('--params', help='an exported generator, .safetensors')
  what.add_argument('--images', help='a folder of images of one size, or an .npz of them')
  parser.add_argument(
    '--checkpoints', default='last', help='last (default), best, all, or steps: 1000,2000'
  )
  parser.add_argument(
    '--metrics', default='fid,is,pr', help=f'of {", ".join(METRICS)} (default: fid,is,pr)'
  )
  parser.add_argument('--num', type=int, help='samples (default: 50000; of --images, all)')
  parser.add_argument(
    '--reference',
    help='real images: tfds:NAME[/train|/test], folder:PATH, digits, or stats.npz with mu and '
    "sigma (default: the training images of the run's data)",
  )
  parser.add_argument('--data_dir', help="of tfds: sets (default: the run's, or TFDS's own)")
  parser.add_argument(
    '--features',
    default='inception',
    help=f'{", ".join(networks.NETWORKS)} (default: inception), or classifier: a small one trained '
    'on the reference',
  )
  parser.add_argument('--weights', help="the network's file (default: kept ones, or a download)")
  parser.add_argument(
    '--truncation', default='none', metavar='t[:dialect]', help='0.5, 0.4:truncnorm or none'
  )
  parser.add_argument('--sweep', metavar='t,t,...', help='truncations to compare: 0.2,0.5,1,none')
  parser.add_argument(
    '--seeds', default='0,1,2', help='to sample with; the spread is theirs (default: 0,1,2)'
  )
  parser.add_argument('--batch', type=int, default=256, help='images at a time (default: 256)')
  parser.add_argument(
    '--out', help='folder for scores.jsonl and pictures (default: WORKDIR/evaluation, evaluation)'
  )
  parser.add_argument('--no_floor', action='store_true', help='do not score real images, too')
  return parser


def parse(argv: list[str]) -> Any:
  """Return the arguments, lists split and checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  args.metrics = [word.strip() for word in args.metrics.split(',') if word.strip()]
  for name in args.metrics:
    utils.pick(name, METRICS, '--metrics')
  words = args.seeds.split(',')
  if not all(word.strip().isdecimal() for word in words):
    raise utils.UserError(f'--seeds={args.seeds}: give whole numbers, such as 0,1,2.')
  args.seeds = [int(word) for word in words]
  if args.num is not None and args.num < 2:
    raise utils.UserError(f'--num={args.num}: give at least 2.')
  if args.batch < 1:
    raise utils.UserError(f'--batch={args.batch}: give at least 1.')
  if args.images and args.sweep:
    raise utils.UserError('--sweep asks for truncations of a generator; --images are as they are.')
  args.num = args.num or (None if args.images else 50_000)
  args.out = args.out or os.path.join(args.workdir or '', 'evaluation')
  return args


def begin(args: Any) -> tuple[list[tuple[Any, dict[str, Any]]], Images | None, tuple[int, ...]]:
  """Return what is scored, generators or images, and its (H, W, C)."""
  if args.images:
    images = real.open_files(args.images)
    args.num = min(args.num or images.num, images.num)
    return [], images, images.size
  if args.workdir:
    which = checkpoints_of(args.workdir, args.checkpoints)
    loaded = [cards.load_workdir(args.workdir, one) for one in which]
  else:
    loaded = [cards.load(args.params)]
  net = loaded[0][1]['architecture']
  return loaded, None, (net['resolution'], net['resolution'], net['channels'])


def find_real(args: Any, size: tuple[int, ...]) -> tuple[Images | None, dict[str, Images], str]:
  """Return (the reference's images, all splits of its source, a file of statistics or '')."""
  given, known = args.reference, {}
  if args.workdir:
    config = report.read_json(os.path.join(args.workdir, 'config.json'))
    known = {k.removeprefix('data.'): v for k, v in config.items() if k.startswith('data.')}
    given = given or f'{known["source"]}/train'
  if given is None or given.endswith('.npz'):
    return None, {}, given or ''
  source, split = real.split_of(given)
  same = source == known.get('source')
  data_dir = args.data_dir or (known.get('data_dir') if same else '') or ''
  splits = real.open_source(source, size[0], size[2], data_dir, known if same else {})
  return splits[split], splits, ''


def main(argv: list[str]) -> None:
  """`bigjax evaluate`."""
  args = parse(argv)
  build.use_compilation_cache()
  loaded, images, size = begin(args)
  real_images, splits, statistics = find_real(args, size)
  card = loaded[0][1] if loaded else {}
  split = real_images.split if real_images else 'stats' if statistics else ''
  refuse(args.metrics, split, len(card['class_names']) if loaded else images.num_classes)
  network = open_network(args.features, args.weights, splits.get('train'))
  keeps = frozenset(kept for name in args.metrics for kept in METRICS[name].keeps)
  look = Looker(network, keeps, parallel.make_mesh(), args.batch)
  reference = read_statistics(statistics, network.dim) if statistics else None
  if real_images is not None:
    reference = cached_reference(look, real_images, keeps, args.num)
  floor, floor_num = {}, 0
  if real_images is not None and not args.no_floor and real_images.split != 'all':
    other = splits['test' if real_images.split == 'train' else 'train']
    floor, floor_num = floor_of(look, other, reference, args.metrics, args.num)
    itself = frechet.frechet(reference.seen.moments, reference.seen.moments)
    say(
      f'floor: {floor_num:,} real images of {other.name}/{other.split}; Frechet distance of the '
      f'reference to itself: {itself:.2g}'
    )
  look.seconds = dict.fromkeys(look.seconds, 0.0)
  if loaded:
    rows = of_generators(args, loaded, look, reference)
  else:
    rows = of_images(args, images, look, reference)
  written = []
  for row in rows:
    record = {'what': row.what, 'scores': row.scores, 'floor': floor, 'floor_num': floor_num}
    written.append({**record, 'protocol': protocol(args, look, reference, row, card)})
  write(args.out, written)
  name = os.path.basename(os.path.normpath(args.workdir or args.params or args.images))
  draw(args, rows, floor, f'{name}, {args.num:,} samples')
  print(overview(written, floor, floor_num))
  print(shares(look.seconds))
