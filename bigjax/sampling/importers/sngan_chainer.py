"""SN-GAN's networks as its authors' chainer code saves them (.npz), <-> BigGAN-PyTorch's names.

Their arrays lie as PyTorch's do: what differs is names, and tables of gains around 1 that are ours
less 1. The generator has no spectral norm and its BatchNorms keep running averages, which become
the standing statistics; a discriminator's vectors u come along. That code has nets of 32, 64, 128
and 256 px; ours of 16 px follows the same pattern, ours of 48 px (whose first map is 6x6) has no
place in it.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from bigjax.core import errors
from bigjax.models import sngan
from bigjax.sampling.importers.biggan_pytorch import num_blocks
from bigjax.sampling.importers.layout import CHAINER, Arrays, PublishedGenerator, Reader

BN_EPS = 2e-5
RESOLUTIONS = (16, 32, 64, 128, 256)
# How often a BatchNorm was fine-tuned: of no use to anybody, but its loader asks for it.
COUNTER = re.compile(r'/N$')
# What not every discriminator has: a shortcut's convolution, classes, the last bias, vectors.
OPTIONAL = re.compile(r'/c_sc/|^l_y/|^l\d+/b$|/u$')
Names = Iterator[tuple[str, str, int]]  # (theirs, BigGAN-PyTorch's, rank)


# --- names ---------------------------------------------------------------------------------------


def _convs(theirs: str, ours: str, names: tuple[str, ...], sn: bool) -> Names:
  for name in names:
    conv = f'{ours}.{name.replace("c", "conv", 1)}'
    yield f'{theirs}/{name}/W', f'{conv}.weight', 4
    yield f'{theirs}/{name}/b', f'{conv}.bias', 1
    if sn:
      yield f'{theirs}/{name}/u', f'{conv}.u0', 2


def _statistics(theirs: str, ours: str) -> Names:
  yield f'{theirs}/avg_mean', f'{ours}.stored_mean', 1
  yield f'{theirs}/avg_var', f'{ours}.stored_var', 1


def gen_names(num: int, conditional: bool) -> Names:
  """The arrays of a generator of `num` blocks."""
  yield 'l1/W', 'linear.weight', 2
  yield 'l1/b', 'linear.bias', 1
  for i in range(num):
    block, ours = f'block{i + 2}', f'blocks.{i}.0'
    yield from _convs(block, ours, ('c1', 'c2', 'c_sc'), sn=False)
    for j in (1, 2):
      for theirs, name in (('gamma', 'gain'), ('beta', 'bias')):
        if conditional:
          yield f'{block}/b{j}/{theirs}s/W', f'{ours}.bn{j}.{name}.weight', 2
        else:
          yield f'{block}/b{j}/{theirs}', f'{ours}.bn{j}.{name}', 1
      yield from _statistics(f'{block}/b{j}', f'{ours}.bn{j}')
  last = num + 2
  yield f'b{last}/gamma', 'output_layer.0.gain', 1
  yield f'b{last}/beta', 'output_layer.0.bias', 1
  yield from _statistics(f'b{last}', 'output_layer.0')
  conv = f'{"c" if num <= 3 else "l"}{last}'  # c5 at 32 px, l6, l7 and l8 above
  yield f'{conv}/W', 'output_layer.2.weight', 4
  yield f'{conv}/b', 'output_layer.2.bias', 1


def disc_names(num: int) -> Names:
  """The arrays of a discriminator of `num` blocks; those that OPTIONAL fits may be missing."""
  for i in range(num):
    yield from _convs(f'block{i + 1}', f'blocks.{i}.0', ('c1', 'c2', 'c_sc'), sn=True)
  last = f'l{num + 1}'
  yield f'{last}/W', 'linear.weight', 2
  yield f'{last}/b', 'linear.bias', 1
  yield f'{last}/u', 'linear.u0', 2
  yield 'l_y/W', 'embed.weight', 2
  yield 'l_y/u', 'embed.u0', 2


def is_gain_table(ours: str) -> bool:
  return ours.endswith('.gain.weight')


# --- in and out ----------------------------------------------------------------------------------


def _num_blocks(arrays: Arrays, first: int) -> int:
  places = [int(m[1]) for m in (re.match(r'block(\d+)/', name) for name in arrays) if m]
  return max(places, default=first - 1) + 1 - first


def _taken(
  arrays: Arrays, names: Names, what: str, optional: re.Pattern[str] | None = None
) -> tuple[Arrays, dict[str, str]]:
  """Return (the arrays in BigGAN-PyTorch's layout, what each was called).

  Raises:
    UserError: one is missing, of another rank, or has no place.
  """
  read, found = Reader(arrays, what), {}
  for theirs, ours, rank in names:
    if theirs in arrays or not (optional and optional.search(theirs)):
      w = read(theirs, ours, rank)
      found[ours] = w - np.float32(1) if is_gain_table(ours) else w
  rest = [name for name in arrays if name not in read.used and not COUNTER.search(name)]
  if rest:
    raise errors.UserError(
      f'the weights have {rest[0]!r}, which {what} has no place for ({len(rest)} such arrays).'
    )
  return found, read.names


def _renamed(arrays: Arrays, names: Names) -> Arrays:
  given = {ours: theirs for theirs, ours, _ in names}
  return {
    given[ours]: w + np.float32(1) if is_gain_table(ours) else w for ours, w in arrays.items()
  }


def gen_in(arrays: Arrays) -> tuple[Arrays, dict[str, str]]:
  """A generator in BigGAN-PyTorch's layout, and what each of its arrays was called.

  Raises:
    UserError: an array is missing, superfluous or of another rank.
  """
  conditional = any(name.endswith('/gammas/W') for name in arrays)
  num = _num_blocks(arrays, 2)
  return _taken(arrays, gen_names(num, conditional), "SN-GAN's generator")


def gen_out(arrays: Arrays) -> Arrays:
  """The inverse of `gen_in`: in the authors' layout, with the counters that their loader wants."""
  num = num_blocks(arrays)
  found = _renamed(arrays, gen_names(num, 'blocks.0.0.bn1.gain.weight' in arrays))
  norms = [name.removesuffix('avg_mean') for name in found if name.endswith('/avg_mean')]
  return found | {f'{norm}N': np.zeros((), np.int64) for norm in norms}


def disc_in(arrays: Arrays) -> tuple[Arrays, dict[str, str]]:
  """A discriminator in BigGAN-PyTorch's layout, as `gen_in`."""
  return _taken(arrays, disc_names(_num_blocks(arrays, 1)), "SN-GAN's discriminator", OPTIONAL)


def disc_out(arrays: Arrays) -> Arrays:
  """The inverse of `disc_in`; of spectral norm, the vectors are written and sigmas are not."""
  arrays = {name: w for name, w in arrays.items() if not name.endswith('.sv0')}
  num = num_blocks(arrays)
  return _renamed(arrays, disc_names(num))


def from_chainer(arrays: Arrays) -> PublishedGenerator:
  """A generator of the authors' code, `ResNetGenerator_450000.npz` for example."""
  found, names = gen_in(arrays)
  modules = {name.removesuffix('.weight') for name in found if name.endswith('.weight')}
  norms = dict.fromkeys(modules, 1.0)  # there is no spectral norm
  return PublishedGenerator(
    CHAINER, found, names, {}, norms, np.array([np.inf], np.float32), 'resample', BN_EPS, BN_EPS,
    None, [],
  )  # fmt: skip


# --- architectures -------------------------------------------------------------------------------


def _resolution(num: int, sizes: dict[int, int], what: str) -> int:
  if num not in sizes:
    raise errors.UserError(
      f"these are no weights of SN-GAN's {what}: there are {num} blocks; expected one of "
      f'{sorted(sizes)}.'
    )
  return sizes[num]


def gen_architecture(arrays: Arrays, bn_eps: float) -> dict[str, Any]:
  """What a card says of a generator in BigGAN-PyTorch's layout that `gen_in` returned.

  Raises:
    UserError: it has another number of blocks than any of ours.
  """
  num = num_blocks(arrays)
  sizes = {len(sngan.GEN_WIDTHS[r]) - 1: r for r in RESOLUTIONS}
  resolution = _resolution(num, sizes, 'generator')
  table = arrays.get('blocks.0.0.bn1.gain.weight')
  channels, last_width = arrays['output_layer.2.weight'].shape[:2]
  return {
    'network': 'sngan',
    'latent': 'normal',
    'attention': [],
    'resolution': resolution,
    'num_classes': 1 if table is None else len(table),
    'ch': last_width // sngan.GEN_WIDTHS[resolution][-1],
    'z_dim': arrays['linear.weight'].shape[1],
    'channels': channels,
    'bn_eps': bn_eps,
  }


def disc_architecture(arrays: Arrays) -> dict[str, Any]:
  """The fields of a discriminator in BigGAN-PyTorch's layout that `disc_in` returned.

  Raises:
    UserError: it has another number of blocks than any of ours.
  """
  num = num_blocks(arrays)
  sizes = {sngan.num_disc_widths(r): r for r in RESOLUTIONS}
  resolution = _resolution(num, sizes, 'discriminator')
  embed = arrays.get('embed.weight')
  fields: dict[str, Any] = {
    'resolution': resolution,
    'num_classes': 1 if embed is None else len(embed),
    'ch': len(arrays['blocks.0.0.conv1.weight']) // sngan.DISC_WIDTHS[resolution][0][0],
  }
  joined = min(sngan.CONCAT_AFTER, num - 1)  # the block whose input an embedding may widen
  before = len(arrays[f'blocks.{joined - 1}.0.conv2.weight'])
  if arrays[f'blocks.{joined}.0.conv1.weight'].shape[1] != before:
    if embed is None:
      raise errors.UserError("the weights have no 'l_y/W', which this network needs.")
    fields |= {'class_input': 'concat', 'class_dim': embed.shape[1]}
  return fields
