"""What a config decides, made and checked before anything is written: what a start can refuse.

`train`, `train --dry_run` and `doctor` check with the same functions; the last two also where the
data is absent.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

import bigjax
from bigjax import data
from bigjax.algorithms.base import configs, contract
from bigjax.core import buckets, errors
from bigjax.core import config as core_config
from bigjax.evaluation import during_training, reference_curves
from bigjax.sampling import generator_file as cards
from bigjax.training import gradinit, quick_evaluation, watchdog
from bigjax.training import history as histories
from bigjax.training.batches import check_data, load_data
from bigjax.training.program import Program, make_program
from bigjax.training.quick_evaluation import Evaluation
from bigjax.training.records import writers
from bigjax.training.workdir import about_data, given_weights, refuse_other_data

ASSUMED_CLASSES = 10  # of a config that leaves their number to its data, where that is absent

# What a config alone can be refused for, in the order in which a start looks.
CHECKS: tuple[Callable[[ml_collections.ConfigDict], Any], ...] = (
  configs.check,
  lambda config: data.check(config.data),
  during_training.check,
  watchdog.check,
  lambda config: histories.read_patch(config.watch.patch, config),
  lambda config: reference_curves.get(config.eval.published),
  quick_evaluation.check,
  gradinit.check,
  writers.check,
)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config for what it says itself.

  Raises:
    UserError: names the first key that is wrong.
  """
  for refuse in CHECKS:
    refuse(config)


def make_card(
  program: Program, source: data.Source, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Makes the card that travels with a generator: its network, its data, how to sample it."""
  algorithm, (_, last) = program.algorithm, program.stages[-1]
  return {
    'format': cards.FORMAT,
    'bigjax': bigjax.__version__,
    'algorithm': config.algorithm,
    'architecture': card_architecture(program, last),
    'player': algorithm.sampled,
    'class_names': class_names(program, source),
    'class_numbers': cards.CLASS_NUMBERS,
    'data': config.data.source,
    'data_share': {name: config.data[name] for name in ('fraction', 'per_class', 'imbalance')},
    'class_counts': class_counts(program, source),
    'license': f'data: {source.license}; weights: set by whoever publishes them',
    'config_hash': configs.config_hash(config),
    'sampling': algorithm.sampling(),
    **({'fit': config.data.fit} if config.data.get('fit', 'crop') != 'crop' else {}),
    **({'frame_rate': source.frame_rate} if source.frame_rate else {}),  # of clips
  }


def card_architecture(program: Program, stage: contract.Stage) -> dict[str, Any]:
  """What a card says of the network that is sampled, and of weights that came from a file."""
  algorithm = program.algorithm
  return algorithm.architecture(stage) | contract.frozen_card(algorithm)


def class_names(program: Program, source: data.Source) -> list[str]:
  """Names of the classes that samples can be asked for; one where the generator knows none."""
  _, last = program.stages[-1]
  known = program.sampler(last).generator.num_classes
  return ['all'] if known == 1 < len(source.class_names) else list(source.class_names)


def class_counts(program: Program, source: data.Source) -> list[int] | None:
  """Training images of each of `class_names`; None where all would have to be read for that."""
  if not source.labels_known:
    return None
  counts = source.class_counts()
  return counts if len(counts) == len(class_names(program, source)) else [sum(counts)]


def check_program(
  program: Program, source: data.Source | None, config: ml_collections.ConfigDict
) -> None:
  """Refuse a program that does not fit its data (None where that is not here), or cannot sample.

  Nor may there be nothing to scale for GradInit, where the config asks for it.

  Raises:
    UserError: names what does not fit.
  """
  if source:
    check_data(source, program)
  for _, stage in program.stages:
    program.sampler(stage).generator.prepared(program.algorithm.sampling())
  if gradinit.is_on(config):
    gradinit.check_program(program)


@dataclasses.dataclass(frozen=True)
class Ready:
  """Everything that a config decides, made before anything is written."""

  config: ml_collections.ConfigDict
  source: data.Source
  program: Program
  evaluation: Evaluation
  card: dict[str, Any]


def make_ready(
  config: ml_collections.ConfigDict, source: data.Source, devices: Sequence[jax.Device] | None
) -> Ready:
  """Build what a config asks for.

  Raises:
    UserError: it does not fit the data or the devices.
  """
  program = make_program(config, devices, source.class_counts)
  check_program(program, source, config)
  card = make_card(program, source, config)
  return Ready(config, source, program, Evaluation(program, source, config), card)


# --- Without a start


def data_of(
  config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, data.Source | None, errors.UserError | None]:
  """(The config with a number of classes, its data, None) or, without data, (config, None, why)."""
  try:
    return *load_data(config), None
  except errors.UserError as error:
    why = error
  if config.data.num_classes is not None:
    return config, None, why
  return core_config.changed(config, {'data.num_classes': ASSUMED_CLASSES}), None, why


def check_start(
  program: Program,
  config: ml_collections.ConfigDict,
  source: data.Source | None,
  workdir: str,
  change: bool,
) -> None:
  """Refuse what a start in a workdir would refuse, and write nothing.

  Raises:
    UserError: the workdir holds another run, or the weights to begin with do not fit.
  """
  names = source.class_names if source else ()
  given_weights(program, workdir, config.init_from, names)
  history = histories.read(workdir)
  if history is not None:
    histories.match_run_config(workdir, config, history, change)
    if source:
      refuse_other_data(workdir, about_data(source))


def dry_run(config: ml_collections.ConfigDict, workdir: str, change: bool) -> None:
  """Print the whole config, the parameters of every player, and the stages.

  Raises:
    UserError: a start would be refused.
  """
  try:
    from clu import parameter_overview
  except ImportError:
    raise errors.UserError("--dry_run needs clu; run: pip install 'bigjax[train]'") from None

  check(config)
  lines = configs.overview(config)
  assumed = config.data.num_classes is None
  config, source, why = data_of(config)
  if why and not isinstance(why, errors.AbsentData):
    raise why
  program = make_program(config, class_counts=source.class_counts if source else None)
  check_program(program, source, config)
  check_start(program, config, source, buckets.local(workdir), change)
  if source:
    known = f'{source.num_train:,} training images, {config.data.num_classes} classes'
  else:
    follows = f' What follows assumes {ASSUMED_CLASSES} classes.' if assumed else ''
    known = f'absent: {why}{follows}'
  print(f"{lines}\n\n'*': not the default\n\ndata: {known}")
  for name, player in program.shapes()['players'].items():
    print(f'\nplayer {name}')
    table = parameter_overview.get_parameter_overview(player['params'], include_stats=False)
    print(re.sub(r'\.0\b', '', table))  # CLU counts in floats where a parameter has no axes
  spans = program.spans(0, config.run.steps)
  print(f'\n{config.run.steps} steps in {len(spans)} stage{"" if len(spans) == 1 else "s"}:')
  for start, end, stage in spans:
    lazy = [
      ' and '.join(sorted(due)) + f' in {num} of them'
      for (_, due), num in program.pairs(start, end).items()
      if due
    ]
    print(f'  from step {start}: {stage}' + ''.join(f', {words}' for words in lazy))
