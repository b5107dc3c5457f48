"""Layouts of published weights: which one an array file has, and what the readers share."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigjax.core import errors

Arrays = dict[str, np.ndarray]

TORCH = 'BigGAN-PyTorch'
HUGGING_FACE = 'pytorch-pretrained-BigGAN'
TF_HUB = 'TF-Hub'
CHAINER = 'SN-GAN in chainer'
NVIDIA = 'StyleGAN2-ADA'
OPENAI = "OpenAI's diffusion"
# A name that every generator (and for the first and the last, discriminator) of the layout has.
MARKS = {
  TORCH: ('linear.weight',),
  HUGGING_FACE: ('generator.gen_z.weight_orig', 'generator.gen_z.weight'),
  TF_HUB: ('Generator/G_Z/G_linear/', 'Generator/GenZ/G_linear/'),
  CHAINER: ('l1/W', 'block1/c1/W'),
  NVIDIA: ('synthesis.b4.const', 'b4.conv.weight'),
  OPENAI: ('input_blocks.0.0.weight',),
}
LAST_EPS = 1e-5  # of BigGAN-PyTorch's last BatchNorm, whatever its BN_eps is


class PublishedGenerator(NamedTuple):
  """A generator in BigGAN-PyTorch's layout, and what its arrays do not tell.

  Attributes:
    layout: a key of MARKS.
    arrays: weights, vectors u0 and standing statistics, [C] or [K, C].
    names: what the arrays were called, where it was something else.
    raw: weights before averaging, {} where they are not known.
    norms: the sigma that the code divides a module's kernel by, where no u0 tells it.
    knots: truncations [K] of the statistics; inf is untruncated.
    dialect: of those truncations.
    bn_eps: epsilon of the BatchNorms.
    last_eps: epsilon of the last one.
    channels: of the images, None where the last convolution's filters tell.
    notes: sentences for people.
  """

  layout: str
  arrays: Arrays
  names: dict[str, str]
  raw: Arrays
  norms: dict[str, float]
  knots: np.ndarray
  dialect: str
  bn_eps: float
  last_eps: float
  channels: int | None
  notes: list[str]


# --- which is it ---------------------------------------------------------------------------------


def hub_name(name: str) -> str:
  """Return a variable's name without the module's scope and the output: 'Generator/conv_2d/w'.

  BigBiGAN's module has a scope more.
  """
  return re.sub(r'^(module(_\d+)?/)?(GenEncWrapper/)?|:\d+$', '', name)


def layout(arrays: Mapping[str, Any]) -> str:
  """Return which code's names these are: a key of MARKS.

  Raises:
    UserError: they are the names of an optimizer's state.
  """
  if any(hub_name(name).startswith(MARKS[TF_HUB]) for name in arrays):
    return TF_HUB
  if any(name in MARKS[CHAINER] for name in arrays):
    return CHAINER
  for own in (NVIDIA, OPENAI):
    if any(name in MARKS[own] for name in arrays):
      return own
  if any(name.endswith(MARKS[HUGGING_FACE]) for name in arrays):
    return HUGGING_FACE
  if arrays and all(re.search(r'\.(exp_avg|exp_avg_sq|step)$', name) for name in arrays):
    raise errors.UserError(
      'these are the moments of an optimizer (G_optim.pth?), not the weights of a network; give '
      'the file beside it, such as G.pth or G_ema.pth.'
    )
  return TORCH


def network(arrays: Arrays) -> tuple[Arrays, list[str]]:
  """Return (the network among the tensors of a checkpoint, notes on what was left out).

  A checkpoint may hold it under a key, beside an optimizer's state: 'state_dict.linear.weight'.

  Raises:
    UserError: there are several networks.
  """
  marks = (*MARKS[TORCH], *MARKS[HUGGING_FACE])
  prefixes = {
    name.removesuffix(mark)
    for name in arrays
    for mark in marks
    if name == mark or name.endswith(f'.{mark}')
  }
  if '' in prefixes or not prefixes:
    return arrays, []
  if len(prefixes) > 1:
    keys = ', '.join(f'{prefix.removesuffix(".")!r:.100}' for prefix in sorted(prefixes)[:5])
    raise errors.UserError(
      f'the file holds several networks, under {keys}; save one of them as a file of its own.'
    )
  (prefix,) = prefixes
  rest = [name for name in arrays if not name.startswith(prefix)]
  notes = [left_out(rest)] if rest else []
  return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}, notes


def left_out(names: list[str]) -> str:
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  said = (name[:100].encode('unicode_escape').decode() for name in names[:5])
  return f'left out: {", ".join(said)}{more}'


# --- shared by the two that come from TensorFlow -------------------------------------------------


class Reader:
  """Takes arrays by the names they have, and remembers which."""

  def __init__(self, arrays: Arrays, what: str):
    self.arrays, self.what = arrays, what
    self.used: set[str] = set()
    self.names: dict[str, str] = {}

  def __call__(self, theirs: str, ours: str, *ranks: int) -> np.ndarray:
    """Return the array called `theirs`, which becomes `ours`.

    Raises:
      UserError: it is missing, or has none of the ranks.
    """
    if theirs not in self.arrays:
      raise errors.UserError(f'the weights have no {theirs!r}, which {self.what} needs.')
    array = self.arrays[theirs]
    if array.ndim not in ranks:
      wanted = ' or '.join(map(str, ranks))
      raise errors.UserError(
        f'{theirs!r} has shape {list(array.shape)}; expected an array of rank {wanted}.'
      )
    self.used.add(theirs)
    self.names[ours] = theirs
    return array
