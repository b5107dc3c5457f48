"""What is being traced for, and where compiled programs are kept."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping

import jax

from bigjax.core import errors, files, progress

RATES = 'compile_rates.json'  # in the cache: {kind of device: seconds per million characters}
FIRST_RATES = {'cpu': 35.0}  # of digits, 842,238 characters: 30 seconds of two cores' time
QUICK = 10.0  # seconds; what compiles faster came from the cache, perhaps


def use_compilation_cache() -> None:
  """Keep compiled programs on disk, so that the second start of anything compiles nothing anew.

  JAX_COMPILATION_CACHE_DIR moves the cache; an empty value switches it off.
  """
  given = os.environ.get('JAX_COMPILATION_CACHE_DIR', os.path.join(files.cache_dir(), 'xla'))
  if given and '://' not in given and (why := files.unwritable(given)):
    progress.say(
      f'warning: compiled programs cannot be kept in {given!r} ({why}), so that every start '
      'compiles anew; BIGJAX_CACHE moves that folder'
    )
    given = ''
  jax.config.update('jax_compilation_cache_dir', given or None)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@contextlib.contextmanager
def compiling(what: str, length: int) -> Iterator[None]:
  """Say, while a program compiles, for how long it has, and how long one of its length takes here.

  Args:
    what: is compiled; '' where nobody waits for it.
    length: of the program's text, in characters; time is about proportional to it.
  """
  path, kind = os.path.join(files.cache_dir(), RATES), device_kind()
  rates, began = _rates(path), time.monotonic()
  usual = rates[kind] * length / 1e6 if kind in rates else None
  with progress.ticking(f'compiling {what}', usual, shown=bool(what)):
    yield
  seconds = time.monotonic() - began
  if seconds > QUICK and jax.process_index() == 0:
    with contextlib.suppress(OSError):
      os.makedirs(os.path.dirname(path), exist_ok=True)
      files.write_json(path, {**rates, kind: round(seconds / length * 1e6, 3)})


def _rates(path: str) -> dict[str, float]:
  """What was measured last on each kind of device, or FIRST_RATES."""
  try:
    found = files.read_json(path) if os.path.exists(path) else {}
    return FIRST_RATES | {kind: rate for kind, rate in found.items() if 0 < rate < 1e6}
  except (AttributeError, TypeError, ValueError, errors.UserError):
    return FIRST_RATES  # a damaged cache is no error


ANY = 'any'
# The scope (`jax.named_scope`) of a branch that is hardly ever taken: what estimates a program's
# cost takes the others.
SELDOM = 'seldom'


def for_any_device() -> contextlib.AbstractContextManager:
  """Trace for no device in particular: what is chosen runs on every platform (`device_kind`)."""
  return for_kind(ANY)


def for_kind(kind: str) -> contextlib.AbstractContextManager:
  """Trace for devices of a kind, as `device_kind` names them, whatever this machine has."""
  device = jax.sharding.AbstractDevice(kind, None, kind)
  return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def device_kind() -> str:
  """Return the kind of device that is being traced for: 'cpu', 'TPU v3', ..., or ANY."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else jax.local_devices()[0].device_kind


# What XLA is asked for where a step gains by it, by kind of device: benchmarks/README.md.
_OPTIONS: dict[str, dict[str, bool]] = {
  'TPU v3': {'xla_enable_async_all_gather': True},
}


def compiler_options(kind: str) -> dict[str, bool]:
  """What programs of training steps are compiled with for a kind of device: {option: value}."""
  return dict(_OPTIONS.get(kind, {}))


def compiled(lowered: jax.stages.Lowered, options: Mapping[str, bool]) -> jax.stages.Compiled:
  """The executable of a lowered program, with options, or without where the compiler has none."""
  try:
    return lowered.compile(dict(options))
  except jax.errors.JaxRuntimeError as error:
    if not options or 'No such compile option' not in str(error):
      raise
  given = ', '.join(options)
  progress.say(f'warning: this compiler does not know all of {given}: the step may be slower')
  return lowered.compile()


def on_tpu() -> bool:
  """Return whether a program for TPUs is being traced."""
  return device_kind().startswith('TPU')


def has_fused_attention() -> bool:
  """Return whether cuDNN fuses attention on what is being traced for: NVIDIA from Ampere on."""
  device = jax.local_devices()[0]
  capability = str(getattr(device, 'compute_capability', ''))  # AMD's are like 'gfx90a'
  major, _, minor = capability.partition('.')
  known = device.device_kind == device_kind() and major.isdigit() and minor.isdigit()
  return known and int(major) >= 8
