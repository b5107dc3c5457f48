"""Scores of a run's checkpoints, an exported generator, or any images, as `bigjax evaluate` asks.

Samples are made and looked at on all devices, in one pass for all scores.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.core import buckets, checkpoint, device, errors, files, parallel
from bigjax.core.progress import say
from bigjax.evaluation import class_scores, image_sets
from bigjax.evaluation.class_scores import ByClass
from bigjax.evaluation.feature_pass import FeaturePass, fitted
from bigjax.evaluation.image_sets import ImageSet
from bigjax.evaluation.metrics import frechet, registry
from bigjax.evaluation.metrics.registry import METRICS, OF_GENERATOR
from bigjax.evaluation.of_networks import (
  encoder_scores,
  generator_scores,
  likelihood_scores,
  prediction_scores,
  refusals,
)
from bigjax.evaluation.of_networks.generator_scores import Measure
from bigjax.evaluation.protocol import (
  about_generator,
  floor_of,
  over_seeds,
  refuse,
  refuse_clips,
  scored,
  warn,
)
from bigjax.evaluation.reference import (
  cached_reference,
  chosen,
  no_network,
  open_network,
  read_statistics,
)
from bigjax.evaluation.results import Floor, Generated, at, report
from bigjax.models.pretrained import taps
from bigjax.sampling import generator_file, options
from bigjax.sampling.loaded import Loaded, load, of_workdir
from bigjax.sampling.sampler import shape_of


def checkpoints_of(workdir: str, which: str) -> list[str]:
  """Return the checkpoints that --checkpoints asks for, as restore_generator takes them.

  Raises:
    UserError: the workdir has none.
  """
  if which != 'all':
    words = [word.strip() for word in which.split(',') if word.strip()]
    if not words:
      raise errors.UserError(f'--checkpoints={which}: give last, best, all, or steps: 1000,2000.')
    return words
  steps = checkpoint.list_steps(workdir)
  if not steps:
    raise errors.UserError(f'{workdir!r} has no checkpoints; give the workdir of a run.')
  return [str(step) for step in steps]


def of_generators(
  args: Any,
  readers: list[Callable[[], Loaded]],
  look: FeaturePass,
  reference: Any,
  by_class: ByClass | None,
  measure: Measure,
  of_encoder: encoder_scores.Measure,
  of_likelihood: likelihood_scores.Measure,
  of_prediction: prediction_scores.Measure,
  side: int,
) -> list[Generated]:
  """Score every generator at every truncation asked for; one of them is in memory at a time.

  Smaller samples are enlarged to `side` pixels.
  """
  found, many = [], len(readers) > 1
  samples_needed = bool(args.metrics or by_class or separates(args))
  prepared = samples_needed or args.of_generator or of_encoder.needs_generator
  prepared = prepared or args.of_prediction
  while readers:
    loaded = None  # gone before the next one is read
    loaded = readers.pop(0)()
    digest = loaded.digest
    for spec in specs(args, loaded):
      if prepared:
        loaded.prepare(spec, anew=True)
      each, by_seed = [], []
      step = loaded.card.get('step')
      picture = encoder_scores.picture_of(step if many else None, spec if args.sweep else None)
      of_seeds = of_encoder.scored(loaded, spec, args.seeds, picture)
      likely = of_likelihood.scored(loaded, args.seeds)
      predicted = of_prediction.scored(loaded, spec, args.seeds)
      for seed, *others in zip(args.seeds, of_seeds, likely, predicted, strict=True):
        samples, scores = None, {}
        if samples_needed:
          samples = look.samples(loaded.sampler, loaded.gen, spec, args.num, seed, side)
        if args.metrics:
          if not (found or each):
            warn(samples, reference, args.metrics)
          scores = scored(samples, reference, args.metrics, look.network.name, seed)
        of_it = args.of_generator, loaded, spec, samples, args.num, seed
        scores |= measure.scored(*of_it)
        each.append({k: v for found in (scores, *others) for k, v in found.items()})
        by_seed += [by_class(samples)] if by_class else []
      what = 'exported' if step is None else f'step {step:,}'
      what += f', {spec}' if args.sweep else ''
      classes = by_class.records(what, by_seed) if by_class else ()
      about = about_generator(loaded.sampler.generator)
      scores = over_seeds(each)
      found.append(Generated(what, step, spec, loaded.card, scores, digest, classes, about))
  return found


def separates(args: Any) -> bool:
  """Whether a score is of what a network sees in samples beside its features."""
  return any(OF_GENERATOR[name].separates for name in args.of_generator)


def reads_labels(args: Any) -> bool:
  """Whether a score looks at the labels of real images; for others there may be none."""
  return args.by_class or any('labels' in METRICS[name].keeps for name in args.metrics)


def specs(args: Any, loaded: Loaded) -> list[Spec]:
  """The sampling settings asked for: one, or one per truncation of a sweep.

  Raises:
    UserError: they mean nothing for this generator, or have no truncation to sweep over.
  """
  truncations = args.sweep.split(',') if args.sweep else [args.truncation]
  given = options.parse_sampling(args.sampling)
  found = [loaded.spec(text and text.strip(), **given) for text in truncations]
  if args.sweep and any(at(spec) is None for spec in found):
    raise errors.UserError(
      f'--sweep={args.sweep} draws scores over the truncation of a generator, and this one has '
      f"none as a whole ('{found[0]}'); leave --sweep out and score one --truncation at a time."
    )
  return found


def of_images(
  args: Any, images: ImageSet, look: FeaturePass, reference: Any, by_class: ByClass | None
) -> list[Generated]:
  """Score a set of images as it is."""
  num = min(args.num or images.num, images.num)
  kept = np.arange(images.num) < num
  batches = (
    chosen(images.batches(look.batch), kept, look.batch)
    if num < images.num
    else (images.batches(look.batch))
  )
  samples = look(batches, num, images.name)
  warn(samples, reference, args.metrics)
  each = [scored(samples, reference, args.metrics, look.network.name, args.seeds[0])]
  what = os.path.basename(os.path.normpath(images.name))
  classes = by_class.records(what, [by_class(samples)]) if by_class else ()
  return [Generated(what, None, None, {}, over_seeds(each), classes=classes)]


def begin(
  args: Any,
) -> tuple[list[Callable[[], Loaded]], Loaded | None, ImageSet | None, tuple[int, ...]]:
  """(How to read each generator that is scored, the first of them; or images; their shape).

  Of generators that differ in size, as a growing run's do, it is that of the largest.
  """
  if args.images:
    images = image_sets.open_files(args.images)
    say_warnings(images)
    if images.num < 2:
      raise errors.UserError(f'--images={args.images} has one image; scores need two at least.')
    args.num = min(args.num or images.num, images.num)
    return [], None, images, images.size
  if args.workdir:
    which = checkpoints_of(args.workdir, args.checkpoint or 'last')
    readers = [functools.partial(of_workdir, args.workdir, one, args.classifier) for one in which]
    shapes = [shape_of(generator_file.card_of(args.workdir, one)) for one in which]
  else:
    readers, shapes = [functools.partial(load, args.params, classifier=args.classifier)], []
  first = readers[0]()
  specs(args, first)  # refuses what means nothing, before anything is read or computed
  return [lambda: first, *readers[1:]], first, None, max([first.shape, *shapes])


def find_real(
  args: Any, size: tuple[int, ...], labelled: bool = False, fit: str = 'crop'
) -> tuple[ImageSet | None, dict[str, ImageSet], str]:
  """Return (the reference's images, all splits of its source, a file of statistics or '').

  Args:
    args: of the command.
    size: of an image or clip.
    labelled: whether with the data's own labels, also where the run did not look at them.
    fit: as data.fit, of the generator: of a source that its run does not know.
  """
  given, known = args.reference, {}
  if args.workdir:
    path = os.path.join(args.workdir, 'config.json')
    config = files.read_json(path)
    if not isinstance(config, dict) or 'data.source' not in config:
      raise errors.UserError(f'{path!r} is not the config of a run: give --reference.')
    known = {k.removeprefix('data.'): v for k, v in config.items() if k.startswith('data.')}
  if given is None and not known:
    return None, {}, ''
  if given is not None and given.endswith('.npz'):
    return None, {}, given
  source, split = image_sets.split_of(given) if given is not None else (known['source'], 'train')
  same = source == known.get('source')
  if labelled and known.get('num_classes') == 1:  # another number may decide the images, too
    del known['num_classes']
  data_dir = args.data_dir or (known.get('data_dir') if same else '') or ''
  splits = image_sets.open_source(source, size, data_dir, known if same else {'fit': fit})
  say_warnings(splits[split])
  return splits[split], splits, ''


def with_encoder(args: Any, loaded: Loaded | None) -> encoder_scores.Measure:
  """What scores of an encoder are measured with: labelled images of the size that it takes.

  Raises:
    UserError: there are none that serve.
  """
  if not args.of_encoder:
    encoder_scores.refuse_images((), None, args.labels_per_class)
    return encoder_scores.of_none()
  size = loaded.encoder_shape
  _, splits, _ = find_real(args, size, labelled=True, fit=loaded.fit)
  train = splits.get('train')
  encoder_scores.refuse_images(args.of_encoder, train, args.labels_per_class)
  network = None
  tells = args.features == 'classifier' and train.num_classes > 1
  if 'reconstruction' in args.of_encoder and tells:
    whole = splits if size == loaded.shape else find_real(args, loaded.shape, True, loaded.fit)[1]
    network = open_network(args.features, None, whole['train'])
  return encoder_scores.Measure(
    args.of_encoder, splits, args.num, args.labels_per_class, network, args.batch, args.out
  )


def with_real(args: Any, module: Any, metrics: Sequence[str], loaded: Loaded | None) -> Any:
  """The Measure of likelihood_scores or prediction_scores, with real ones of the generator's size.

  They have the data's own labels where the generator knows classes.

  Args:
    args: of the verb.
    module: whose scores they are.
    metrics: of it; () measures nothing.
    loaded: the generator.
  Raises:
    UserError: there are none that serve.
  """
  if not metrics:
    return module.of_none()
  _, splits, _ = find_real(args, loaded.shape, loaded.num_classes > 1, loaded.fit)
  refusals.refuse_real(metrics, splits.get('test'), loaded.num_classes)
  return module.Measure(metrics, splits, args.num, args.batch)


def say_warnings(images: ImageSet) -> None:
  """Say what looks wrong in a set of images: scores without it would be of others."""
  for level, sentence in images.findings:
    if level == 'warning':
      say(f'warning: {images.name}: {sentence}')


def run(args: Any) -> None:
  """Scores what the options of `bigjax evaluate` name.

  Raises:
    UserError: that cannot be done.
  """
  device.use_compilation_cache()
  with buckets.copied(args.workdir) as args.workdir:
    args.out = args.out or os.path.join(args.workdir or '', 'evaluation')
    _run(args)


def measures(
  args: Any, first: Loaded | None, size: tuple[int, ...], splits: Mapping[str, ImageSet]
) -> tuple[FeaturePass, Measure, tuple[Any, Any, Any]]:
  """(What sees samples, what measures generators; and their encoders, likelihoods, predictions).

  Args:
    args: of the command.
    first: of the generators; None of images.
    size: of an image or clip.
    splits: of the real images' source.
  Raises:
    UserError: a network is none for what is asked for.
  """
  # The feature network, and what is kept of its answers.
  network = no_network()
  if registry.need_network(args.metrics) or separates(args) or args.by_class:
    network = open_network(args.features, args.weights, splits.get('train'))
  keeps = frozenset(kept for name in args.metrics for kept in METRICS[name].keeps)
  keeps |= class_scores.KEEPS if args.by_class else frozenset()
  keeps |= {'logits'} if separates(args) else frozenset()
  generator_scores.refuse_network(args.of_generator, network)
  paths = any(not OF_GENERATOR[name].separates for name in args.of_generator)
  distance = taps.image_distance(args.distance, args.distance_weights) if paths else None
  network = fitted(network, size)
  look = FeaturePass(network, keeps, parallel.make_mesh(), args.batch)
  others = (
    with_encoder(args, first),
    with_real(args, likelihood_scores, args.of_likelihood, first),
    with_real(args, prediction_scores, args.of_prediction, first),
  )
  return look, Measure(distance, args.crop, network, args.batch), others


def find_floor(
  args: Any, look: FeaturePass, real: ImageSet, splits: Mapping[str, ImageSet], reference: Any
) -> Floor:
  """What real images get that are not the reference: those of the other split, if there is one."""
  if args.no_floor or real.split == 'all':
    return Floor()
  other = splits['test' if real.split == 'train' else 'train']
  scores, seen = floor_of(look, other, reference, args.metrics, args.num)
  words = f'floor: {seen.num:,} real images of {other.name}/{other.split}'
  if registry.need_network(args.metrics) or separates(args):
    itself = frechet.frechet(reference.seen.moments, reference.seen.moments)
    words += f'; Frechet distance of the reference to itself: {itself:.2g}'
  say(words)
  return Floor(scores, seen.num, seen)


def _run(args: Any) -> None:
  # What is scored, and with what it is compared; refused before a network is loaded.
  readers, first, images, size = begin(args)
  generator_scores.refuse(args.of_generator, first)
  encoder_scores.refuse(args.of_encoder, first)
  likelihood_scores.refuse(args.of_likelihood, first)
  prediction_scores.refuse(args.of_prediction, first)
  compares = bool(args.metrics or args.by_class)
  real_images, splits, statistics = None, {}, ''
  if compares or separates(args):
    of_classes = bool(first) and first.num_classes > 1 and reads_labels(args)
    found = find_real(args, size, of_classes, first.fit if first else 'crop')
    real_images, splits, statistics = found
  split = real_images.split if real_images else 'stats' if statistics else ''
  num_classes = first.num_classes if first else images.num_classes
  refuse(args.metrics, split, num_classes)
  if len(size) == 4:
    refuse_clips(args.metrics)
  if args.by_class:
    class_scores.refuse(num_classes, real_images)
  look, measure, others = measures(args, first, size, splits)
  # Real images: the reference, and others of the same set, whose scores are the floor.
  spatial = look.network.spatial if 'spatial' in look.keeps else 0
  reference = read_statistics(statistics, look.network.dim, spatial) if statistics else None
  floor = Floor()
  if real_images is not None and compares:
    reference = cached_reference(look, real_images, look.keeps, args.num)
    floor = find_floor(args, look, real_images, splits, reference)
  # Samples.
  look.restart()
  by_class = None
  if args.by_class:
    counts = class_scores.counts_in(first.card if first else {}, num_classes)
    per_class = class_scores.per_class(args.num, num_classes, floor.seen)
    names = real_images.class_names
    by_class = ByClass(reference, names, look.network, counts, per_class, floor.seen)
  if first:
    del first  # which its reader alone shall hold
    rows = of_generators(args, readers, look, reference, by_class, measure, *others, size[-3])
  else:
    rows = of_images(args, images, look, reference, by_class)
  # The records, each with its protocol; pictures and tables.
  report(args, rows, look, reference, (measure, *others), floor, by_class)
