"""Keys of networks that are told noisy images, their process and their optimizer; and checks."""

from typing import Any

import ml_collections

from bigjax.algorithms.base import residual_config
from bigjax.core import errors
from bigjax.core.config import WAYS
from bigjax.core.keys import Key, Keys, with_defaults
from bigjax.core.ranges import BATCH, Range
from bigjax.models import unet
from bigjax.nn import kernels
from bigjax.nn.diffusion import tables
from bigjax.nn.diffusion.tables import Tables

GUIDANCE = Range(0, 1000, whole=False)  # scales of it
SHARED = (
  'optim.schedule', 'optim.schedule_start', 'optim.schedule_end', 'optim.warmup', 'optim.eps',
  'optim.ema_half_life', 'optim.ema_ramp', 'optim.ema_start', 'model.ch', 'model.dtype',
  'optim.b1', 'optim.b2', 'optim.ema_decay',
)  # fmt: skip
# fmt: off
KEYS: Keys = {
  'model.widths': Key(
    (), 'multiples of ch by resolution, from the largest on; (): the published ones',
    items=(int, float), above=0, most=64,
  ),
  'model.blocks': Key(2, 'blocks at each resolution', least=1, most=64),
  'model.attention': Key(
    (16, 8), 'resolutions with attention after each block', least=1, most=8192,
  ),
  'model.heads': Key(4, 'heads of attention, where head_dim is 0', least=1, most=1024),
  'model.head_dim': Key(0, 'channels of each head; 0: as many heads as model.heads', most=1024),
  'model.split_first': Key(
    False, 'whether attention cuts into queries, keys and values before it cuts into heads',
  ),
  'model.scale_shift': Key(
    True, 'whether the step scales and shifts normalised maps; False: it is added before',
  ),
  'model.updown': Key(False, "whether residual blocks change the resolution, as BigGAN's"),
  'model.schedule': Key('linear', 'of the noise', choices=tuple(tables.SCHEDULES)),
  'model.num_steps': Key(1000, 'of the process', least=1, most=100_000),
  'optim.batch_size': Key(128, 'examples of a step, over all devices', least=1, most=BATCH.most),
  'optim.lr': Key(1e-4, 'learning rate', most=1000),
  'optim.weight_decay': Key(0.0, "AdamW's decay of weights, in learning rates"),
  **with_defaults(
    {name: residual_config.KEYS[name] for name in SHARED},
    model__ch=128, model__dtype='float32', optim__b1=0.9, optim__b2=0.999,
  ),
  'export.steps': Key('250', 'calls of the network for a sample'),
  **WAYS,
}
SMALL = {  # of TINY and DIGITS
  'model.head_dim': 0, 'model.heads': 2, 'model.dtype': 'float32',
  'optim.ema_half_life': 0.0, 'optim.ema_ramp': 0.0, 'optim.schedule': 'constant',
  'optim.schedule_start': 0, 'optim.schedule_end': 0, 'optim.warmup': 0, 'run.microbatches': 1,
}
# fmt: on
FIELDS = (  # of a network, which its card has, beside widths and attention
  'resolution',
  'channels',
  'num_classes',
  'ch',
  'blocks',
  'heads',
  'head_dim',
  'split_first',
  'scale_shift',
  'updown',
)  # fmt: skip


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a network that cannot be built.

  Raises:
    UserError: says which values do not fit together.
  """
  model, size = config.model, config.data.resolution
  if Tables(model.schedule, model.num_steps).betas.max() >= 1:
    raise errors.UserError(
      f'the last of {model.num_steps} steps of {model.schedule} noise leaves nothing of an image; '
      'give more model.num_steps, or model.schedule=cosine.'
    )
  if not model.widths and size not in unet.WIDTHS:
    raise errors.UserError(
      f'data.resolution is {size}; there are published widths for '
      f'{", ".join(map(str, sorted(unet.WIDTHS)))}: give one of these, or model.widths.'
    )
  widths = tuple(model.widths) or unet.WIDTHS[size]
  least = size / 2 ** (len(widths) - 1)
  if least != int(least):
    raise errors.UserError(
      f'{len(widths)} widths halve images of {size} px {len(widths) - 1} times, to {least:g} px; '
      'give fewer widths.'
    )
  sides = [size >> level for level in range(len(widths))]
  if absent := set(model.attention) - set(sides):
    raise errors.UserError(
      f'model.attention has {min(absent)}, but maps are of {", ".join(map(str, sides))} pixels a '
      'side; give some of these.'
    )
  for multiple in widths:
    if int(multiple * model.ch) % unet.GROUPS or multiple * model.ch < unet.GROUPS:
      raise errors.UserError(
        f'model.ch={model.ch} times {multiple:g} is {multiple * model.ch:g} channels, which norms '
        f'cut into {unet.GROUPS} groups; give a model.ch of which all are multiples of that.'
      )
  for level, (side, multiple) in enumerate(zip(sides, widths, strict=True)):
    if side in model.attention or level == len(widths) - 1:
      unet.heads_of(int(multiple * model.ch), model.heads, model.head_dim)


def fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The fields of a unet.UNetParts that follow from KEYS: all but its sizes, classes and dropout.

  Raises:
    UserError: there are no such kernels.
  """
  run, model = config.run, config.model
  same = ('ch', 'blocks', 'heads', 'head_dim', 'split_first', 'scale_shift', 'updown')
  return {
    **{name: model[name] for name in same},
    'widths': tuple(model.widths),
    'attention': tuple(model.attention),
    'remat': run.remat,
    'kernels': errors.pick(run.kernels, kernels.KERNELS, 'run.kernels'),
    'dtype': errors.pick(model.dtype, residual_config.DTYPES, 'model.dtype'),
  }


def architecture(net: unet.UNetParts, of: Tables) -> dict[str, Any]:
  """What a card says of a network and of the process that it was trained along."""
  return {
    **{name: getattr(net, name) for name in FIELDS},
    'widths': list(net.multiples), 'attention': list(net.attention),
    'schedule': of.schedule, 'num_steps': of.num,
  }  # fmt: skip


def read_steps(of: Tables, steps: str) -> str:
  """The kept steps that a user or a card asks for.

  Args:
    of: the tables of the whole process.
    steps: as `Tables` reads them.
  Raises:
    UserError: they mean nothing, or there are none.
  """
  if not steps:
    raise errors.UserError('steps are empty; give how many, such as 25.')
  _ = Tables(of.schedule, of.num, steps).timesteps  # refuses what means nothing
  return steps
