"""Several plans: slices compared, and the settings that fit one."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from bigjax import algorithms
from bigjax.core import config as core_config
from bigjax.core import errors, progress
from bigjax.core.progress import size
from bigjax.preflight import step_cost, tpu_slices

Plan = Callable[[ml_collections.ConfigDict, Any], dict[str, Any]]  # of a Slice, or of LocalGpus


def batch_key(config: ml_collections.ConfigDict) -> str:
  """The config key that says how many examples a batch has, which the family names."""
  return algorithms.family(config.algorithm).BATCH_KEY


def batch_of(config: ml_collections.ConfigDict) -> int:
  """Examples of a batch."""
  return core_config.flatten(config)[batch_key(config)]


def watched(plan: Plan = step_cost.plan) -> Plan:
  """A plan with progress on stderr; later ones are expected to take as long as the last."""
  last: list[float] = []

  def run(config: ml_collections.ConfigDict, of: Any) -> dict[str, Any]:
    what = f'compiling for {of.name}, batch {batch_of(config)}'
    with progress.ticking(what, last[-1] if last else None):
      found = plan(config, of)
    last.append(found['compile_seconds'])
    return found

  return run


def attempts(
  configs: Sequence[tuple[ml_collections.ConfigDict, tpu_slices.Slice]],
  run: Plan,
  say: Callable[[str], None],
) -> list[dict[str, Any] | None]:
  """The plans of these configs on these slices, None where a slice cannot have its config.

  Raises:
    UserError: none of them can.
  """
  found, refused = [], None
  for config, of in configs:
    try:
      found.append(run(config, of))
    except errors.UserError as error:
      found.append(None)
      refused = error
      if len(configs) > 1:
        say(f'{of.name}, batch {batch_of(config)}, is left out: {error}')
  if refused and not any(found):
    raise refused
  return found


def compared(
  config: ml_collections.ConfigDict,
  slices: Sequence[tpu_slices.Slice],
  run: Plan,
  say: Callable[[str], None],
) -> list[dict[str, Any]]:
  """The plans of these slices; one that cannot have this config is said and left out.

  Raises:
    UserError: none of them can.
  """
  return [found for found in attempts([(config, of) for of in slices], run, say) if found]


def scaled(
  config: ml_collections.ConfigDict,
  slices: Sequence[tpu_slices.Slice],
  per_device: int,
  run: Plan,
  say: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
  """{'weak': plans at a fixed batch per device, 'strong': at the configured batch}.

  Slices that the configured batch does not divide over are in the first alone; one that cannot have
  its config is said and left out.

  Raises:
    UserError: none of them can.
  """
  strong = batch_of(config)
  batches = {
    'weak': [(per_device * of.num_devices, of) for of in slices],
    'strong': [(strong, of) for of in slices if strong % of.num_devices == 0],
  }
  distinct = list(dict.fromkeys(itertools.chain(*batches.values())))
  configs = [
    (core_config.changed(config, {batch_key(config): batch}), of) for batch, of in distinct
  ]
  plans = dict(zip(distinct, attempts(configs, run, say), strict=True))
  return {kind: [plans[of] for of in given if plans[of]] for kind, given in batches.items()}


def settings(config: ml_collections.ConfigDict, per_device: int) -> list[dict[str, Any]]:
  """Values of run.microbatches and run.remat to try, from the fastest to the smallest.

  Of a family that has but one of these ways to trade time for memory, or none, those of that.
  """
  divisors = [n for n in range(1, per_device + 1) if per_device % n == 0]
  pairs = [(1, False), (1, True)] + [(n, True) for n in divisors if n > 1]
  both = [{'run.microbatches': num, 'run.remat': remat} for num, remat in pairs]
  ways = [key for key in both[0] if key.removeprefix('run.') in config.run]
  found = [{key: values[key] for key in ways} for values in both]
  return [values for i, values in enumerate(found) if values not in found[:i]]


def fitted(
  config: ml_collections.ConfigDict, of: Any, run: Plan, say: Callable[[str], None]
) -> dict[str, Any] | None:
  """Return the plan of the first of `settings` that fits, by halving; None where none does."""
  batch = batch_of(config)
  if batch % of.num_devices:
    raise errors.UserError(
      f'a batch of {batch} examples cannot be split over the {of.num_devices} devices of '
      f'{of.name}; use a multiple.'
    )
  tried = settings(config, batch // of.num_devices)
  low, high, best = 0, len(tried) - 1, None
  while low <= high:
    middle = (low + high) // 2
    found = run(core_config.changed(config, tried[middle]), of)
    words = ' '.join(f'{key}={value}' for key, value in tried[middle].items()) or 'as it is'
    say(f'{words}: {size(found["peak_bytes"])} of {size(found["usable_bytes"])}')
    if found['fits']:
      best, high = found, middle - 1
    else:
      low = middle + 1
  return best
