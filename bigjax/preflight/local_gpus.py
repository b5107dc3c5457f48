"""What a training step needs of GPUs of a given memory, by the compiler of those that are here.

A GPU's compiler works only where there is one. It says what its program needs, which is held
against the memory of another: `plan_search` then takes these GPUs for a slice. A compiler that sees
more memory may use more of it, so that what does not fit might, barely, on the smaller one itself.
"""

import dataclasses
import os
import time
from typing import Any

import jax
import ml_collections

from bigjax.core import errors
from bigjax.core.progress import size
from bigjax.preflight.step_cost import compile_step, memory_of
from bigjax.training.program import make_program

PLATFORM = 'gpu'  # as JAX calls it; tests let CPUs stand in
SHARE = 0.75  # of a GPU's memory, what JAX takes unless told (docs.jax.dev, GPU memory allocation)
TOLD_BY = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')


def share() -> float:
  """The share of a GPU's memory that JAX may take, as its variable says."""
  told = next((os.environ[name] for name in TOLD_BY if os.environ.get(name)), '')
  try:
    return float(told or SHARE)
  except ValueError:
    raise errors.UserError(f'{TOLD_BY[0]} is {told!r}; give a number, such as {SHARE}.') from None


@dataclasses.dataclass(frozen=True)
class LocalGpus:
  """The GPUs of this machine, as if each had another memory.

  Attributes:
    num_devices: how many.
    memory: of each, in bytes, as it is sold; None: what those that are here let JAX have.
  """

  num_devices: int
  memory: float | None

  @property
  def name(self) -> str:
    own = '' if self.memory is None else f' of {size(self.memory)}'
    return f'{self.num_devices} {PLATFORM}{own}'

  @property
  def usable(self) -> float:
    """Bytes of each that JAX may take."""
    if self.memory is not None:
      return self.memory * share()
    known = self.devices()[0].memory_stats() or {}
    if 'bytes_limit' not in known:
      raise errors.UserError(
        'these GPUs do not say how much memory they have; give it as --memory.'
      )
    return known['bytes_limit']

  def devices(self) -> list[jax.Device]:
    return jax.local_devices(backend=PLATFORM)


def find(memory: float | None) -> LocalGpus:
  """The GPUs of this machine.

  Args:
    memory: bytes that each is to have; None: its own.
  Raises:
    UserError: there is none.
  """
  try:
    num = len(jax.local_devices(backend=PLATFORM))
  except RuntimeError:  # JAX has no such back end
    raise errors.UserError(
      f'--fit=gpu needs a GPU on this machine, whatever its size: its compiler is what says how '
      f'much memory a step takes, and here JAX has {jax.default_backend()} (pip install '
      "'bigjax[gpu]' where there is one). Only TPUs can be planned for from anywhere: --fit=v4-8."
    ) from None
  return LocalGpus(num, memory)


def plan(config: ml_collections.ConfigDict, of: LocalGpus) -> dict[str, Any]:
  """How much memory a config's steps need on GPUs, as JSON-able values: of the largest program.

  Raises:
    UserError: the compiler itself, which tries programs out, ran out of memory.
  """
  start = time.monotonic()
  program, largest = make_program(config, of.devices()), {'peak_bytes': -1}
  pairs = program.pairs(0, config.run.steps)
  for pair in pairs:
    try:
      compiled = compile_step(program.lower(*pair))
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      raise errors.UserError(
        f'the compiler ran out of memory on this machine while it tried the step of {pair[0]}; '
        'give --config.run.microbatches or --config.run.remat, or take a larger GPU.'
      ) from None
    found = memory_of(compiled)
    largest = found if found['peak_bytes'] > largest['peak_bytes'] else largest
  return {
    'slice': of.name,
    'devices': of.num_devices,
    'batch_size': max(stage.examples for stage, _ in pairs),
    'microbatches': config.run.get('microbatches', 1),
    'remat': config.run.get('remat', False),
    'usable_bytes': of.usable,
    'fits': largest['peak_bytes'] <= of.usable,
    'compile_seconds': time.monotonic() - start,
    **largest,
  }
