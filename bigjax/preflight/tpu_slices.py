"""TPU slices that are not there: what their chips can do, and devices to compile for.

Peaks, memory and interconnect are Google's published figures (docs.cloud.google.com/tpu; v2 and v3:
Jouppi et al. 2020; v4: Jouppi et al. 2023). What the compiler lets a program use of the memory is
less; `clock` and `usable` are what libtpu 0.0.42 itself uses, read off programs compiled with it.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from bigjax.core import errors


@dataclasses.dataclass(frozen=True)
class Generation:
  """A chip. Devices are what JAX shows: a core, or a chip whose cores work as one."""

  name: str  # in topology names
  counts: str  # what accelerator names count: 'cores' or 'chips'
  devices_per_chip: int
  peak: float  # bfloat16 FLOP/s of a chip
  bandwidth: float  # of its main memory, bytes/s
  usable: float  # bytes a program may use, per device
  axes: int  # of the torus
  ici: float  # bytes/s of a chip's links together, both directions
  clock: float  # Hz, of the compiler's cycles
  largest: int  # chips in a slice
  options: tuple[tuple[str, str], ...] = ()  # of the topology description

  @property
  def device_peak(self) -> float:
    return self.peak / self.devices_per_chip

  @property
  def device_bandwidth(self) -> float:
    return self.bandwidth / self.devices_per_chip

  @property
  def link(self) -> float:
    """Bytes/s of one link in one direction."""
    return self.ici / (4 * self.axes)


GiB = 2**30
MEGACORE = (('chip_config_name', 'megacore'),)
GENERATIONS = {
  'v2': Generation('v2', 'cores', 2, 46e12, 700e9, 7.48 * GiB, 2, 496e9, 700e6, 256),
  'v3': Generation('v3', 'cores', 2, 123e12, 900e9, 15.48 * GiB, 2, 656e9, 940e6, 1024),
  'v4': Generation('v4', 'cores', 1, 275e12, 1228e9, 30.75 * GiB, 3, 600e9, 1.05e9, 4096, MEGACORE),
  'v5e': Generation('v5e', 'chips', 1, 197e12, 819e9, 15.75 * GiB, 2, 400e9, 1.5e9, 256),
  'v5p': Generation('v5p', 'cores', 1, 459e12, 2765e9, 95.74 * GiB, 3, 1200e9, 1.75e9, 6144),
  'v6e': Generation('v6e', 'chips', 1, 918e12, 1638e9, 31.25 * GiB, 2, 800e9, 1.75e9, 256),
  'tpu7x': Generation('tpu7x', 'cores', 2, 2307e12, 7380e9, 94.75 * GiB, 3, 1200e9, 2.2e9, 9216),
}
ALIASES = {'v5litepod': 'v5e', 'v5lite': 'v5e', 'v7x': 'tpu7x', 'trillium': 'v6e', 'v5': 'v5p'}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Part of a pod: 'v3-128' is 8 x 8 chips, 128 devices."""

  name: str
  generation: Generation
  shape: tuple[int, ...]  # chips

  @property
  def num_chips(self) -> int:
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    return self.num_chips * self.generation.devices_per_chip

  @property
  def topology(self) -> str:
    return f'{self.generation.name}:{"x".join(map(str, self.shape))}'

  def wraps(self, axis: int) -> bool:
    """Return whether the links of an axis form a ring."""
    if self.generation.axes == 3:  # whole cubes of 4 x 4 x 4
      return all(length % 4 == 0 for length in self.shape)
    full = {'v2': 16, 'v3': 32}.get(self.generation.name, 16)
    return self.shape[axis] == full

  def devices(self) -> Sequence[Any]:
    """Return devices to compile for; nothing can run on them.

    Raises:
      UserError: the TPU compiler is not installed, or does not know such a slice.
    """
    errors.need('compiling for TPUs', 'plan', 'libtpu')
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # there is no metadata server to wait for
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    from jax.experimental import topologies

    options: dict[str, Any] = dict(self.generation.options)
    if self.num_chips == 1:
      options['chips_per_host_bounds'] = (1, 1, 1)
    try:
      found = topologies.get_topology_desc(platform='tpu', topology_name=self.topology, **options)
    except Exception as error:  # whatever libtpu raises
      raise errors.UserError(
        f'the TPU compiler does not know the slice {self.name} ({self.topology}): '
        f'{str(error).splitlines()[0]}'
      ) from None
    return found.devices


def _shape(chips: int, axes: int) -> tuple[int, ...]:
  """Return the usual layout: powers of two, as equal as they get, ascending; 4 are 2 x 2 x 1."""
  exponent = chips.bit_length() - 1
  if axes == 3 and exponent <= 2:
    return (1 << min(exponent, 1), 1 << max(exponent - 1, 0), 1)
  low, more = divmod(exponent, axes)
  return tuple(1 << (low + (i >= axes - more)) for i in range(axes))


def names() -> list[str]:
  """Return the usual accelerator names, by generation, small ones first."""
  known = []
  for word, generation in GENERATIONS.items():
    prefix = 'v5litepod' if word == 'v5e' else word
    per = 2 if generation.counts == 'cores' else 1
    least = 1 if per == 1 else 4
    chips = least
    while chips <= generation.largest:
      known.append(f'{prefix}-{chips * per}')
      chips *= 2 if chips > 1 else 4
  return known


def find(name: str) -> Slice:
  """Return the slice of an accelerator name ('v5litepod-256') or of a topology ('v5e:16x16').

  Raises:
    UserError: there is none of that name.
  """
  words = re.fullmatch(r'(\w+?)[-:](\d{1,9}(?:x\d{1,9})*)', name.strip().lower())
  generation = GENERATIONS.get(ALIASES.get(words[1], words[1])) if words else None
  if generation is None:
    known = ', '.join(names())
    raise errors.UserError(
      f'there is no TPU slice {name!r}{errors.did_you_mean(name, names())}; expected one of '
      f'{known}, or a topology in chips such as v5p:4x4x8.'
    )
  if ':' in name:
    shape = tuple(map(int, words[2].split('x')))
    if len(shape) != generation.axes:
      raise errors.UserError(f'the topology {name!r} needs {generation.axes} numbers of chips.')
    if not 0 < math.prod(shape) <= generation.largest:
      raise errors.UserError(
        f'the topology {name!r} has {math.prod(shape):,} chips; give 1 to {generation.largest:,}.'
      )
  else:
    num = int(words[2]) if words[2].isdigit() else 0
    chips = num // 2 if generation.counts == 'cores' else num
    usual = f'{words[1]}-{num}'
    odd = generation.counts == 'cores' and num % 2
    if not chips or odd or chips & (chips - 1) or chips > generation.largest:
      like = [known for known in names() if find(known).generation == generation]
      raise errors.UserError(f'there is no TPU slice {usual!r}; expected one of {", ".join(like)}.')
    shape = _shape(chips, generation.axes)
  return Slice(name, generation, shape)


HOP = 1e-6  # seconds from one chip to the next (Austin et al., How to Scale Your Model)
LAUNCH = 5e-6  # seconds to begin a collective: an assumption


def collective_seconds(kind: str, num_bytes: int, of: Slice, group: int) -> float:
  """Return how long a collective takes: the larger of its bandwidth's time and its latency's.

  Bidirectional rings along every axis of the slice at once, as far as the axes wrap.

  Args:
    kind: of hlo.COLLECTIVES.
    num_bytes: what each device sends.
    of: the slice; the cores of a chip add up theirs before the links.
    group: devices that take part, 0 for all.
  """
  devices = group or of.num_devices
  if devices == 1:
    return 0.0
  share = devices / of.num_devices
  lengths = [max(1, round(length * share ** (1 / len(of.shape)))) for length in of.shape]
  rates = [
    of.generation.link * (2 if of.wraps(axis) else 1)
    for axis, length in enumerate(lengths)
    if length > 1
  ]
  hops = sum(length // 2 if of.wraps(axis) else length - 1 for axis, length in enumerate(lengths))
  rounds = 2 if kind == 'all-reduce' else 1
  sent = num_bytes * (devices if kind == 'all-gather' else 1)
  across = rounds * sent * (1 - 1 / devices) / sum(rates) if rates else 0.0
  on_chip = rounds * sent / of.generation.device_bandwidth
  return LAUNCH + max(across, on_chip, rounds * hops * HOP)
