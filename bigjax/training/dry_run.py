"""What `bigjax train --dry_run` prints: the config, the networks, the stages."""

import ml_collections

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.training.batches import load_data
from bigjax.training.program import make_program

ASSUMED_CLASSES = 10  # of a dry run without its data


def dry_run(config: ml_collections.ConfigDict) -> None:
  """Print the whole config, the parameters of every player, and the stages."""
  try:
    from clu import parameter_overview
  except ImportError:
    raise errors.UserError("--dry_run needs clu; run: pip install 'bigjax[train]'") from None

  configs.check(config)
  lines = configs.overview(config)
  config, data = classes_of(config)
  program = make_program(config)
  print(f"{lines}\n\n'*': not the default\n\ndata: {data}")
  for name, player in program.shapes()['players'].items():
    print(f'\nplayer {name}')
    print(parameter_overview.get_parameter_overview(player['params'], include_stats=False))
  spans = program.spans(0, config.run.steps)
  print(f'\n{config.run.steps} steps in {len(spans)} stage{"" if len(spans) == 1 else "s"}:')
  for start, end, stage in spans:
    lazy = [
      ' and '.join(sorted(due)) + f' in {num} of them'
      for (_, due), num in program.pairs(start, end).items()
      if due
    ]
    print(f'  from step {start}: {stage}' + ''.join(f', {words}' for words in lazy))


def classes_of(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, str]:
  """(The config with a number of classes, what its data is or that it is absent)."""
  try:
    config, source = load_data(config)
    return config, f'{source.num_train:,} training images, {config.data.num_classes} classes'
  except errors.UserError as error:
    absent = f'absent: {error}'
  if config.data.num_classes is not None:
    return config, absent
  config = core_config.changed(config, {'data.num_classes': ASSUMED_CLASSES})
  return config, f'{absent} What follows assumes {ASSUMED_CLASSES} classes.'
