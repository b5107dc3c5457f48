"""What a run has been from which step on: seeds, changes of its config, and why (history.json).

The list of entries {from_step, seed, patch, position, reason}, ascending, and the config that the
run began with decide everything: which config holds at a step, in which order images come, which
latents are drawn. A run that was never changed has the one entry it began with.
"""

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, files, ranges
from bigjax.core.keys import suggestion

History = list[dict[str, Any]]
ENTRY = {'from_step', 'seed', 'patch', 'reason'}
NUMBERS = {  # of an entry, and their ranges
  'from_step': ranges.Range(0, ranges.LARGEST),
  'seed': ranges.SEED,
  'position': ranges.Range(0, 2**63 - 1),
}
FIXED = (
  'algorithm',
  'init_from',
  'data.',
  'export.',
  'ema.',
)  # which make another run of it


def begin(seed: int) -> History:
  """Return the history of a run that begins."""
  return [{'from_step': 0, 'seed': seed, 'patch': {}, 'position': 0, 'reason': 'start'}]


def read(workdir: str) -> History | None:
  """Return the history of a workdir, or None where no run has begun.

  Raises:
    UserError: it is damaged.
  """
  path = os.path.join(workdir, 'history.json')
  if not os.path.exists(path):
    return None
  found = files.read_json(path)
  sound = isinstance(found, list) and found
  if not sound or not all(isinstance(e, dict) and e.keys() >= ENTRY for e in found):
    raise errors.UserError(f'{path!r} is not the history of a run; restore it from a copy.')
  for entry in found:
    for key, within in NUMBERS.items():
      ranges.whole(f'the {key} of an entry of {path!r}', entry.get(key, 0), within)
    if not isinstance(entry['patch'], dict):
      raise errors.UserError(f'{path!r} has a patch that is no object; restore it from a copy.')
  # In the order they are written in: a run that goes on writes the same bytes.
  return [entry if 'position' in entry else {**entry, 'position': 0} for entry in found]


def write(workdir: str, history: History) -> None:
  """Write the history of a run; of several processes, the first does."""
  files.write_json(os.path.join(workdir, 'history.json'), history)


def seed_at(history: History, step: int) -> int:
  """Return the seed at a step: of the data's order, and at step 0 of the state's key."""
  return [entry['seed'] for entry in history if entry['from_step'] <= step][-1]


def key_at(history: History, step: int, key: jax.Array) -> jax.Array:
  """Return the state's key at a step, given that of the checkpoint.

  The same as long as the seed is the first one, whatever `init` made of it.
  """
  seed = seed_at(history, step)
  return key if seed == history[0]['seed'] else jax.random.key(seed)


def position_at(history: History, step: int, position: Callable[[int], int]) -> int:
  """Return how many real images were consumed before a step, at whatever batch sizes.

  Args:
    history: of the run.
    step: not before the last entry's.
    position: step -> images consumed before it, as the run is since the last entry.
  """
  last = history[-1]
  return last['position'] + position(step) - position(last['from_step'])


def patched(config: ml_collections.ConfigDict, history: History) -> ml_collections.ConfigDict:
  """Return the config with every change of its history made.

  Raises:
    UserError: a change names no key of the config.
  """
  patches = [entry['patch'] for entry in history]
  changes = {key: value for patch in patches for key, value in patch.items()}
  return core_config.changed(config, changes)


def append_entry(
  history: History, step: int, seed: int, patch: Mapping[str, Any], position: int, reason: str
) -> History:
  """Return the history of a run that is another from a step on, and forgets what came after."""
  entry = {
    'from_step': step,
    'seed': seed,
    'patch': dict(patch),
    'position': position,
    'reason': reason,
  }
  return [*(before for before in history if before['from_step'] <= step), entry]


def match_run_config(
  workdir: str, config: ml_collections.ConfigDict, history: History, change: bool
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """Return (the config that the run of a workdir began with, what is asked to change in it).

  Either that config or the one as it is since its last change may be given again; where a change
  is asked for, the first one, too, is a change of the last.

  Args:
    workdir: with a run.
    config: given now.
    history: of the run.
    change: whether differences are asked for, and recorded.
  Raises:
    UserError: they differ, and that was not asked for or cannot be.
  """
  theirs = files.read_json(os.path.join(workdir, 'config.json'))
  first = {key: value for key, value in theirs.items() if not key.startswith(core_config.FREE)}
  ours, missing = configs.identity(config), object()
  try:
    # A key that came after the run began had its default.
    base = core_config.changed(config, {**configs.later(config), **first})
    first = configs.identity(base)
  except errors.UserError:
    base = None  # another set of keys: another version's, or another family's
    new = configs.later(config)
    first = {key: value for key, value in first.items() if value != new.get(key, missing)}
  begun = not core_config.differences(ours, first)
  if begun and (base is None or not change):
    return config, {}
  now = configs.identity(patched(base, history)) if base is not None else first
  differing = core_config.differences(ours, now)
  if not differing:
    return base, {}
  keys = [key for key in {*ours, *now} if ours.get(key) != now.get(key)]
  words = f'holds a run of another config ({"; ".join(differing)})'
  if not change:
    raise errors.UserError(
      f'the workdir {workdir!r} {words}; give those values, or another --workdir, or --change to '
      'go on with these from here, which is then written in its history.'
    )
  fixed = sorted(key for key in keys if key.startswith(FIXED))
  if base is None or fixed:
    raise errors.UserError(
      f'the workdir {workdir!r} {words}; {", ".join(fixed) or "its keys"} cannot change within a '
      'run: give another --workdir (and --config.init_from to begin with its weights).'
    )
  return base, {key: ours[key] for key in sorted(keys)}


def newest(history: History) -> int:
  """Return the step from which on the run is what it is now."""
  return history[-1]['from_step']


def differ_after(before: Any, now: History) -> float:
  """The step after which a run is another than it was; inf where it is the same.

  Args:
    before: its history as somebody kept it as JSON; one that is none counts as the same.
    now: its history, as of JSON too.
  """
  if not isinstance(before, list):
    return math.inf
  pairs = itertools.zip_longest(before, now)
  other = next((pair for pair in pairs if pair[0] != pair[1]), ())
  return min((entry['from_step'] for entry in other if entry), default=math.inf)


def format_patch(patch: Mapping[str, Any]) -> str:
  """Return 'optim.gen_lr=0.0001, ...'."""
  return ', '.join(f'{key}={value}' for key, value in patch.items())


def read_patch(text: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return {key: value} of 'optim.r1_gamma=1,optim.gen_lr=1e-4', typed as in the config.

  Raises:
    UserError: a key is not in the config or cannot change, or a value has another type.
  """
  values, patch = core_config.flat(config), {}
  known = core_config.existing(configs.keys(values), values)
  for part in filter(None, (part.strip() for part in text.split(','))):
    key, equals, value = part.partition('=')
    if not equals or key not in known or key.startswith((*FIXED, *core_config.FREE)):
      can = [k for k in known if not k.startswith((*FIXED, *core_config.FREE))]
      raise errors.UserError(
        f'watch.patch has {part!r}{suggestion(key, can)}; give KEY=VALUE of keys that '
        'may change, such as optim.r1_gamma=1.'
      )
    try:
      patch[key] = core_config.parse_value(known[key], value)
    except ValueError:
      raise errors.UserError(
        f'watch.patch has {part!r}; expected {known[key].like(known[key].default)}.'
      ) from None
    core_config.refuse(f'watch.patch: {key}', known[key], patch[key])
  return patch


def events(history: History, alarms: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
  """Marks on the curves: (step, words)."""
  found = [(entry['from_step'], entry['reason']) for entry in history[1:]]
  return found + [(alarm['step'], alarm['words']) for alarm in alarms]
