"""Networks whose features scores are computed in, with their published weights, found or fetched.

A file that is named is used as it is, and a note says when it is not the published one; what lies
in a folder or comes from the network must have the published checksum. Nothing in a file is run.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import errors, files, trees
from bigjax.models.pretrained import (
  cifar_resnet,
  efficientnet_lite0,
  i3d,
  inception,
  torch_pickle,
)
from bigjax.models.pretrained.download import file_sha256, find
from bigjax.models.pretrained.published import PUBLISHED, PublishedFile
from bigjax.models.pretrained.torch_layout import from_torch, shapes
from bigjax.models.pretrained.vit import clip_vision, dinov2

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
  """A network with its weights. Where its values are compared, all of this must be the same.

  Attributes:
    name: of `NETWORKS`.
    digest: 16 hex digits of the SHA-256 of all weights, whatever file they came in.
    resizer: how images come to the network's size.
    dim: of the features.
    num_logits: classes that the network tells apart; 0: none.
    variables: NumPy arrays, as `apply` takes them.
    apply: (variables, images [B, H, W, 1 or 3]) -> {'features': float32 [B, dim], 'logits':
      float32 [B, num_logits]}, pure, the latter where there are classes; images are uint8, or
      floats in [-1, 1], to which gradients flow; grey images are repeated in three channels. The
      logits are those that the network's reference computes the Inception score of. UserError: the
      images have another size or number of channels than the network takes.
    class_names: of the classes that the logits are of, where they are those of a known data set.
    licence: of the weights, where a card has to name it.
    spatial: features of places, 'spatial' [B, spatial] of what `apply` gives; 0: it has none.
    clips: whether it takes clips [B, T, H, W, 1 or 3] in the place of images.
  """

  name: str
  digest: str
  resizer: str
  dim: int
  num_logits: int
  variables: Any
  apply: Callable[[Any, Array], dict[str, Array]]
  class_names: tuple[str, ...] = ()
  licence: str = ''
  spatial: int = 0
  clips: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
  """What `load` knows by name."""

  make: Callable[[], Any]  # -> a linen module
  weights: PublishedFile | None  # None: there is no file, and `draw` makes them
  resizer: str
  side: int | None = None  # the only size it takes
  class_names: tuple[str, ...] = ()
  unused: tuple[str, ...] = ()  # beginnings of tensors' names that the file may have for nothing
  draw: Callable[[Mapping[str, tuple[int, ...]]], Any] | None = None  # shapes by path -> variables


NETWORKS = {
  'inception': Network(inception.RECIPES['fid'], PUBLISHED['inception'], 'tf1_bilinear_299'),
  'inception_pytorch_fid': Network(
    inception.RECIPES['pytorch_fid'], PUBLISHED['inception_pytorch_fid'], 'torch_bilinear_299'
  ),
  'inception_clean': Network(
    inception.RECIPES['clean'], PUBLISHED['inception_clean'], 'pil_bicubic_299'
  ),
  'inception_torchvision': Network(
    inception.RECIPES['torchvision'],
    PUBLISHED['inception_torchvision'],
    'torch_bilinear_corners_299',
    unused=('AuxLogits.',),
  ),
  'cifar_resnet56': Network(
    cifar_resnet.NETWORKS['resnet56'],
    PUBLISHED['cifar_resnet56'],
    'none_32',
    side=cifar_resnet.SIDE,
    class_names=cifar_resnet.CLASSES,
  ),
  'efficientnet_lite0': Network(
    efficientnet_lite0.EfficientNetLite0, PUBLISHED['efficientnet_lite0'], 'torch_bilinear_224'
  ),
  'i3d': Network(i3d.I3D, PUBLISHED['i3d'], 'tf1_bilinear_224'),
  **{
    f'dinov2_{name}': Network(
      make, PUBLISHED[f'dinov2_{name}'], 'pil_bicubic_uint8_224', unused=('mask_token',)
    )
    for name, make in dinov2.NETWORKS.items()
  },
  'clip_vitl14_336': Network(
    clip_vision.CLIPVision,
    PUBLISHED['clip_vitl14_336'],
    'pil_bicubic_uint8_336',
    unused=clip_vision.UNUSED,
  ),
  # Of weights that nobody trained: for tests, and as a baseline of what training is good for.
  'efficientnet_lite0_random': Network(
    efficientnet_lite0.EfficientNetLite0,
    PUBLISHED['efficientnet_lite0_random'],
    'torch_bilinear_224',
    draw=efficientnet_lite0.random_weights,
  ),
}


def weights_digest(variables: Any) -> str:
  """Return 16 hex digits of the SHA-256 of names, shapes and values."""
  sha256 = hashlib.sha256()
  for path, leaf in sorted(trees.flat(variables).items()):
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
    return torch_pickle.read(path)
  try:
    return files.read_npz(path)
  except ValueError as error:
    raise errors.UserError(f'cannot read {path!r} ({error}); copy or download it again.') from None


def _note_if_not_published(path: str, weights: PublishedFile) -> None:
  if not file_sha256(path).startswith(weights.sha256):
    print(
      f'note: {path} is not the published file {weights.file}: scores in its features compare with '
      'each other only.',
      file=sys.stderr,
    )


def _published(name: str, network: Network, module: nn.Module, path: str | None) -> Any:
  """Variables from the file at `path`, or from the published one."""
  if path is None:
    path = find(name, network.weights)
  else:
    _note_if_not_published(path, network.weights)
  tensors = read(path)
  files.check_weights(tensors, path)
  try:
    return from_torch(tensors, shapes(module), network.unused)
  except errors.UserError as error:
    raise errors.UserError(
      f'{path!r} is no file of weights for {name!r}: it {error}; give {network.weights.file}.'
    ) from None


def _drawn(name: str, network: Network, module: nn.Module, path: str | None) -> Any:
  if path is not None:
    raise errors.UserError(
      f'the weights of {name!r} are drawn, so {path!r} has no use; give no file, or a network that '
      'has weights of its own.'
    )
  return network.draw(shapes(module))


def _applied(name: str, network: Network, module: nn.Module) -> Callable:
  def apply(variables: Any, images: Array) -> dict[str, Array]:
    if jnp.issubdtype(images.dtype, jnp.floating):
      images = (images + 1) * 127.5  # a generator's, unrounded: gradients flow through
    elif images.dtype != jnp.uint8:
      raise TypeError(f'images are {images.dtype}; expected uint8, or floats in [-1, 1].')
    *_, h, w, channels = images.shape
    if network.side not in (None, h) or network.side not in (None, w):
      raise errors.UserError(
        f'the network {name!r} takes images of {network.side}x{network.side} pixels, not {h}x{w}; '
        'choose another network.'
      )
    if channels not in (1, 3):
      raise errors.UserError(
        f'the network {name!r} takes images of 1 or 3 channels, not {channels}; choose a score '
        'that needs no network.'
      )
    return module.apply(variables, jnp.repeat(images, 3 // channels, axis=-1))

  return apply


def load(name: str, path: str | None = None) -> FeatureNetwork:
  """Return a network of `NETWORKS` with its weights.

  Args:
    name: 'inception' (what FID and the Inception score are defined in), 'inception_pytorch_fid'
      (the same weights behind pytorch-fid's resize), 'inception_clean' (behind clean-fid's),
      'inception_torchvision' (as BigGAN-PyTorch scores), 'cifar_resnet56', 'efficientnet_lite0',
      'efficientnet_lite0_random', whose weights are drawn, 'i3d', of clips (what the Frechet video
      distance is defined in), 'dinov2_vits14', 'dinov2_vitb14', 'dinov2_vitl14' (what FD-DINOv2 is
      defined in), or 'clip_vitl14_336' (what CMMD is defined in).
    path: of the weights: torch's file, or a .npz with its names and layout. None for the published
      file in the folder $BIGJAX_WEIGHTS, in its package, in the cache folder, or from the network.

  Raises:
    UserError: no such network; weights that are missing, damaged, of another layout, or cannot be
      downloaded.
  """
  network = errors.pick(name, NETWORKS, 'the network')
  module = network.make()
  if network.weights is None:
    variables = _drawn(name, network, module, path)
  else:
    variables = _published(name, network, module, path)
  return FeatureNetwork(
    name=name,
    digest=weights_digest(variables),
    resizer=network.resizer,
    dim=module.dim,
    num_logits=module.num_logits,
    variables=variables,
    apply=_applied(name, network, module),
    class_names=network.class_names,
    licence=network.weights.licence if network.weights else '',
    spatial=getattr(module, 'spatial', 0),
    clips=getattr(module, 'clips', False),
  )
