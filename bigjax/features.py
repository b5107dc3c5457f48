"""Networks whose features scores are computed in, with their published weights, found or fetched.

A file that is named is used as it is, and a note says when it is not the published one; what lies
in a folder or comes from the network must have the published checksum. Nothing in a file is run.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax import pth, utils
from bigjax.models import cifar_resnet, inception

Array = jax.Array

BLOCK = 1 << 20  # bytes read at once
PATIENCE = 20.0  # seconds without an answer or a byte


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
  """A network with its weights. Where its values are compared, all of this must be the same.

  Attributes:
    name: of `NETWORKS`.
    digest: 16 hex digits of the SHA-256 of all weights, whatever file they came in.
    resizer: how images come to the network's size.
    dim: of the features.
    num_logits: classes that the network tells apart.
    variables: NumPy arrays, as `apply` takes them.
    apply: (variables, images uint8 [B, H, W, 1 or 3]) -> {'features': float32 [B, dim], 'logits':
      float32 [B, num_logits]}, pure; grey images are repeated in three channels. The logits are
      those that the network's reference computes the Inception score of. UserError: the images
      have another size or number of channels than the network takes.
  """

  name: str
  digest: str
  resizer: str
  dim: int
  num_logits: int
  variables: Any
  apply: Callable[[Any, Array], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Weights:
  """A published file: its name, how its SHA-256 begins, and where it is, if it can be fetched."""

  file: str
  sha256: str
  url: str | None = None


@dataclasses.dataclass(frozen=True)
class Network:
  """What `load` knows by name."""

  make: Callable[[], Any]  # -> a linen module
  weights: Weights
  resizer: str
  side: int | None = None  # the only size it takes
  unused: tuple[str, ...] = ()  # beginnings of tensors' names that the file may have for nothing


FID_WEIGHTS = Weights(
  'pt_inception-2015-12-05-6726825d.pth',
  '6726825d',
  'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
  'pt_inception-2015-12-05-6726825d.pth',
)
NETWORKS = {
  'inception': Network(inception.RECIPES['fid'], FID_WEIGHTS, 'tf1_bilinear_299'),
  'inception_pytorch_fid': Network(
    inception.RECIPES['pytorch_fid'], FID_WEIGHTS, 'torch_bilinear_299'
  ),
  'inception_torchvision': Network(
    inception.RECIPES['torchvision'],
    Weights(
      'inception_v3_google-0cc3c7bd.pth',
      '0cc3c7bd',
      'https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth',
    ),
    'torch_bilinear_corners_299',
    unused=('AuxLogits.',),
  ),
  'cifar_resnet56': Network(
    cifar_resnet.NETWORKS['resnet56'],
    Weights('resnet56_cifar10.npz', ''),
    'none_32',
    side=cifar_resnet.SIDE,
  ),
}


# Torch's state dicts in our layout.

_LEAVES = {  # ours -> torch's
  ('params', 'kernel'): 'weight',
  ('params', 'scale'): 'weight',
  ('params', 'bias'): 'bias',
  ('batch_stats', 'mean'): 'running_mean',
  ('batch_stats', 'var'): 'running_var',
}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}  # axes of kernels: [out, in, h, w] -> [h, w, in, out]
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}


def shapes(network: nn.Module, side: int = 32) -> dict[str, tuple[int, ...]]:
  """Return the shapes of a network's variables by their path, such as 'params/fc/kernel'."""
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  return {path: leaf.shape for path, leaf in utils.flat(variables).items()}


def torch_name(path: str) -> str:
  """Return what torch calls a variable: 'params/a/conv/kernel' -> 'a.conv.weight'."""
  collection, *modules, leaf = path.split('/')
  return '.'.join([*modules, _LEAVES[collection, leaf]])


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Return the shape that a variable of ours has in torch."""
  if path.endswith('kernel'):
    return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])
  return shape


def _some(names: list[str]) -> str:
  return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def from_torch(
  tensors: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
  unused: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Return a torch state dict as variables of a network: renamed, transposed, float32.

  Args:
    tensors: by torch's names.
    expected: shapes of ours by path, of `shapes`.
    unused: beginnings of names that may be there for nothing.

  Raises:
    UserError: tensors are missing, left over, or of another shape; a sentence without the file.
  """
  ours = {torch_name(path): path for path in expected}
  missing = [name for name in ours if name not in tensors]
  more = [
    name
    for name in tensors
    if name not in ours
    and not name.startswith(tuple(unused))
    and not name.endswith('num_batches_tracked')
  ]
  if missing or more:
    words = [f'lacks {_some(missing)}'] if missing else []
    words += [f'has {_some(more)}, which the network has not'] if more else []
    raise utils.UserError(' and '.join(words))
  variables = {}
  for name, path in ours.items():
    tensor, wanted = tensors[name], torch_shape(path, expected[path])
    if tensor.shape != wanted:
      raise utils.UserError(f'has {name} of shape {tensor.shape}, where {wanted} was expected')
    axes = _FROM_TORCH[tensor.ndim] if path.endswith('kernel') else range(tensor.ndim)
    variables[path] = np.ascontiguousarray(tensor.transpose(*axes), np.float32)
  return utils.nest(variables)


def digest(variables: Any) -> str:
  """Return 16 hex digits of the SHA-256 of names, shapes and values."""
  sha256 = hashlib.sha256()
  for path, leaf in sorted(utils.flat(variables).items()):
    sha256.update(f'{path} {leaf.shape} {leaf.dtype} '.encode())
    sha256.update(np.ascontiguousarray(leaf).tobytes())
  return sha256.hexdigest()[:16]


# Files.


def read(path: str) -> dict[str, np.ndarray]:
  """Return the arrays of a .npz file, or the tensors of a torch file, by name.

  Raises:
    UserError: there is no such file, or it is damaged.
  """
  if not path.endswith('.npz'):
    return pth.read(path)
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error) as error:
    why = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error!s:.200}'
    raise utils.UserError(f'cannot read {path!r} ({why}); copy or download it again.') from None


def file_sha256(path: str) -> str:
  """Return the SHA-256 of a file in hex digits.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    why = error.strerror or error
    raise utils.UserError(
      f'cannot read the weights {path!r} ({why}); give a .pth or .npz file.'
    ) from None


class _Report:
  """One line on stderr about a download, at most every second on a terminal, else every ten."""

  def __init__(self, what: str, total: int | None):
    self._what, self._total = what, total
    self._terminal = sys.stderr.isatty()
    self._began = self._said = time.monotonic()

  def __call__(self, done: int, end: bool = False) -> None:
    now = time.monotonic()
    if not end and now - self._said < (1 if self._terminal else 10):
      return
    self._said, seconds = now, max(now - self._began, 1e-3)
    words = f'{self._what}: {done / 1e6:,.1f} MB'
    if end:
      words += f' in {utils.duration(seconds)}'
    elif self._total and done:
      left = utils.duration(seconds * (self._total - done) / done)
      words += f' of {self._total / 1e6:,.1f} MB, {done / 1e6 / seconds:,.1f} MB/s, {left} left'
    head, tail = ('\r\033[K', '\n' if end else '') if self._terminal else ('', '\n')
    print(head + words, end=tail, file=sys.stderr, flush=True)


def _receive(url: str, path: str) -> tuple[int, int | None, str]:
  """Write what lies at `url`; return its size, the size that was promised, and its SHA-256."""
  sha256, done = hashlib.sha256(), 0
  with urllib.request.urlopen(url, timeout=PATIENCE) as response, open(path, 'wb') as file:
    length = response.headers.get('Content-Length', '')
    total = int(length) if length.isdigit() else None
    say = _Report(f'downloading {url.rsplit("/", 1)[-1]}', total)
    while block := response.read(BLOCK):
      file.write(block)
      sha256.update(block)
      done += len(block)
      say(done)
    say(done, end=True)
  return done, total, sha256.hexdigest()


def download(weights: Weights, path: str) -> None:
  """Fetch published weights; the file is there whole, with the right checksum, or not at all.

  Raises:
    UserError: no network, a file cut short, another checksum, a folder that cannot be written.
  """
  by_hand = f'or put that file at {path!r}, in the folder $BIGJAX_WEIGHTS, or give its path'
  partial = f'{path}.{os.getpid()}.partial'  # processes of one machine may fetch at once
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    size, total, found = _receive(weights.url, partial)
    if total is not None and size < total:
      raise utils.UserError(
        f'the download of {weights.url} ended after {size:,} of {total:,} bytes; try again, '
        f'{by_hand}.'
      )
    if not found.startswith(weights.sha256):
      raise utils.UserError(
        f'what lies at {weights.url} has the SHA-256 {found[:16]}..., where {weights.sha256}... '
        f'was expected, so it is not the published file and was not kept; try again, {by_hand}.'
      )
    os.replace(partial, path)
  except (OSError, http.client.HTTPException) as error:  # OSError: no network, no space, refused
    told = not isinstance(error, urllib.error.HTTPError) and getattr(error, 'reason', None)
    why = ' '.join(f'{told or error!s:.200}'.split())  # what a server says may have line breaks
    raise utils.UserError(
      f'cannot download {weights.url} ({why}); try again with a network and room '
      f'on the disk, {by_hand}.'
    ) from None
  finally:
    with contextlib.suppress(OSError):
      os.remove(partial)


def _places(weights: Weights) -> list[str]:
  """Return where published weights may lie: in $BIGJAX_WEIGHTS, else in the cache."""
  folders = [os.environ.get('BIGJAX_WEIGHTS', ''), os.path.join(utils.cache_dir(), 'weights')]
  return [os.path.join(folder, weights.file) for folder in folders if folder]


def find_here(name: str) -> str | None:
  """Return where the published weights of a network lie on this machine, None for nowhere.

  Raises:
    UserError: no such network, or what is there has another checksum.
  """
  weights = utils.pick(name, NETWORKS, 'the network').weights
  for path in _places(weights):
    if os.path.exists(path):
      found = file_sha256(path)
      if not found.startswith(weights.sha256):
        raise utils.UserError(
          f'{path!r} has the SHA-256 {found[:16]}..., where {weights.sha256}... was expected, so '
          'it is damaged or another file; remove it, or give its path if you do want it.'
        )
      return path
  return None


def find(name: str, weights: Weights) -> str:
  """Return where published weights lie: on this machine, or in the cache after a download.

  Raises:
    UserError: they are nowhere and cannot be fetched, or what is there has another checksum.
  """
  if (here := find_here(name)) is not None:
    return here
  path = _places(weights)[-1]
  if weights.url is None:
    raise utils.UserError(
      f'the network {name!r} has no weights to download; give the path of its {weights.file}, or '
      f'put that file in the folder $BIGJAX_WEIGHTS or at {path!r}.'
    )
  download(weights, path)
  return path


def _note_if_not_published(path: str, weights: Weights) -> None:
  if not file_sha256(path).startswith(weights.sha256):
    print(
      f'note: {path} is not the published file {weights.file}: scores in its features compare with '
      'each other only.',
      file=sys.stderr,
    )


def _applied(name: str, network: Network, module: nn.Module) -> Callable:
  def apply(variables: Any, images: Array) -> dict[str, Array]:
    if images.dtype != jnp.uint8:
      raise TypeError(f'images are {images.dtype}; expected uint8.')
    _, h, w, channels = images.shape
    if network.side not in (None, h) or network.side not in (None, w):
      raise utils.UserError(
        f'the network {name!r} takes images of {network.side}x{network.side} pixels, not {h}x{w}; '
        'choose another network.'
      )
    if channels not in (1, 3):
      raise utils.UserError(
        f'the network {name!r} takes images of 1 or 3 channels, not {channels}; choose a score '
        'that needs no network.'
      )
    return module.apply(variables, jnp.repeat(images, 3 // channels, axis=3))

  return apply


def load(name: str, path: str | None = None) -> Features:
  """Return a network of `NETWORKS` with its weights.

  Args:
    name: 'inception' (what FID and the Inception score are defined in), 'inception_pytorch_fid'
      (the same weights behind pytorch-fid's resize), 'inception_torchvision' (as BigGAN-PyTorch
      scores) or 'cifar_resnet56'.
    path: of the weights: torch's file, or a .npz with its names and layout. None for the published
      file in the folder $BIGJAX_WEIGHTS, in the cache folder, or from the network.

  Raises:
    UserError: no such network; weights that are missing, damaged, of another layout, or cannot be
      downloaded.
  """
  network = utils.pick(name, NETWORKS, 'the network')
  if path is None:
    path = find(name, network.weights)
  else:
    _note_if_not_published(path, network.weights)
  module, tensors = network.make(), read(path)
  try:
    variables = from_torch(tensors, shapes(module), network.unused)
  except utils.UserError as error:
    raise utils.UserError(
      f'{path!r} is no file of weights for {name!r}: it {error}; give {network.weights.file}.'
    ) from None
  return Features(
    name=name,
    digest=digest(variables),
    resizer=network.resizer,
    dim=module.dim,
    num_logits=module.num_logits,
    variables=variables,
    apply=_applied(name, network, module),
  )
