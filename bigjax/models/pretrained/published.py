"""The published weights of feature networks, by the network's name. Imports no JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PublishedFile:
  """A file of weights: its name, how its SHA-256 begins, and where it is, if it can be fetched."""

  file: str
  sha256: str
  url: str | None = None


_FID = PublishedFile(
  'pt_inception-2015-12-05-6726825d.pth',
  '6726825d',
  'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
  'pt_inception-2015-12-05-6726825d.pth',
)
PUBLISHED = {
  'inception': _FID,
  'inception_pytorch_fid': _FID,
  'inception_torchvision': PublishedFile(
    'inception_v3_google-0cc3c7bd.pth',
    '0cc3c7bd',
    'https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth',
  ),
  'cifar_resnet56': PublishedFile('resnet56_cifar10.npz', ''),
}
