"""The scores that can be asked for: what each needs to know of the images, and its full name.

A score is named by its protocol: fid50k_train_inception is the Frechet distance of 50,000 samples
to the training split in the features of the FID Inception. Nothing else is called FID. What needs
JAX is imported by the score that it computes, so that a verb's --help can list them all.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigjax.data.reading.shares import subset
from bigjax.evaluation.metrics import inception_score, kid, ms_ssim, swd

if TYPE_CHECKING:
  from bigjax.evaluation.metrics import frechet

SWD_IMAGES = 16_384  # as in the PGGAN paper
FEW = 100  # images on either side, of which no score says much
# One network, three ways to resize.
FID_NETWORKS = ('inception', 'inception_pytorch_fid', 'inception_clean')
FVD_NETWORK = 'i3d'
CMMD_NETWORK = 'clip_vitl14_336'


@dataclasses.dataclass(frozen=True)
class FeatureStats:
  """Feature statistics of an image set: those that the metrics ask for, the rest empty."""

  num: int  # of images in the moments; the rest may be of fewer
  moments: 'frechet.Moments | frechet.Gaussian'
  features: np.ndarray | None = None  # float32 [n, d]
  logits: np.ndarray | None = None  # float32 [n, k]
  images: np.ndarray | None = None  # uint8 [n, H, W, C]
  labels: np.ndarray | None = None  # int [n]
  spatial: 'frechet.Moments | frechet.Gaussian | None' = None  # of features of places


@dataclasses.dataclass(frozen=True)
class Metric:
  """One entry of --metrics.

  Attributes:
    keeps: of every image, beside moments: 'features', 'logits', 'images', 'labels'; 'spatial' are
      the moments of features of places.
    score: (samples, reference or None, seed) -> {name without its protocol: value}.
    compares: whether it needs a reference.
    sees: whether it is computed in the features of a network.
    words: what its name ends with.
    spread: where it scatters among few images: its name in words.
    stills: whether it is of still images alone, and clips have none.
    used: (samples, reference or None) -> of how many samples it is computed, which its name says;
      None for all.
  """

  score: Callable[[FeatureStats, FeatureStats | None, int], dict[str, float]]
  keeps: tuple[str, ...] = ()
  compares: bool = True
  sees: bool = True
  words: str = ''
  spread: str = ''
  stills: bool = False
  used: Callable[[FeatureStats, FeatureStats | None], int] | None = None

  def num_used(self, samples: FeatureStats, real: FeatureStats | None) -> int:
    """Of how many of these samples the score is."""
    return self.used(samples, real) if self.used else samples.num


def _fid(samples, real, seed):
  from bigjax.evaluation.metrics import frechet

  del seed
  return {'fid': frechet.frechet(samples.moments, real.moments)}


def _sfid(samples, real, seed):
  from bigjax.evaluation.metrics import frechet

  del seed
  return {'sfid': frechet.frechet(samples.spatial, real.spatial)}


def _kid(samples, real, seed):
  subset = min(kid.SUBSET, len(samples.features), len(real.features))
  mean, _ = kid.kid(samples.features, real.features, subset=subset, seed=seed)
  return {'kid' if subset == kid.SUBSET else f'kid@subsets{subset}': mean}


def _cmmd(samples, real, seed):
  del seed
  return {'cmmd': kid.mmd_rbf(samples.features, real.features)}


def _is(samples, real, seed):
  del real, seed
  mean, _ = inception_score.inception_score(samples.logits)
  return {'is': mean}


def _pr(samples, real, seed):
  from bigjax.evaluation.metrics import precision_recall

  del seed
  precision, recall = precision_recall.precision_recall(samples.features, real.features)
  return {'precision': precision, 'recall': recall}


def _dc(samples, real, seed):
  from bigjax.evaluation.metrics import precision_recall

  del seed
  density, coverage = precision_recall.density_coverage(samples.features, real.features)
  return {'density': density, 'coverage': coverage}


def _intra(samples, real, seed):
  from bigjax.evaluation.metrics import intra_fid

  del seed
  return {
    'intra_fid': intra_fid.intra_fid(samples.features, samples.labels, real.features, real.labels)
  }


def _swd_used(samples, real):
  return min(SWD_IMAGES, len(samples.images), len(real.images))


def _swd(samples, real, seed):
  # Evenly of all of either set: files lie in order of class.
  most = _swd_used(samples, real)
  a, b = [some.images[subset(len(some.images), most)] for some in (samples, real)]
  return swd.swd(a, b, seed=seed)


def _ms_ssim_used(samples, real):
  del real
  return 2 * min(len(samples.images) // 2, ms_ssim.PAIRS)


def _ms_ssim(samples, real, seed):
  del real
  return {'ms_ssim': ms_ssim.ms_ssim(samples.images, seed=seed)}


def _cas(samples, real, seed):
  from bigjax.evaluation.metrics import classification_accuracy

  del seed
  return {
    'cas': classification_accuracy.accuracy(
      (samples.images, samples.labels), (real.images, real.labels)
    )
  }


METRICS = {
  'fid': Metric(_fid),
  'sfid': Metric(_sfid, keeps=('spatial',)),
  'kid': Metric(_kid, keeps=('features',), spread='KID'),
  'cmmd': Metric(_cmmd, keeps=('features',), spread='CMMD'),
  'is': Metric(
    _is, keeps=('logits',), compares=False, words='10splits', spread='the Inception Score'
  ),
  'pr': Metric(_pr, keeps=('features',), words='k3', spread='precision and recall'),
  'dc': Metric(_dc, keeps=('features',), words='k5', spread='density and coverage'),
  'intra_fid': Metric(_intra, keeps=('features', 'labels')),
  'swd': Metric(_swd, keeps=('images',), sees=False, stills=True, used=_swd_used),
  'ms_ssim': Metric(
    _ms_ssim, keeps=('images',), compares=False, sees=False, stills=True, used=_ms_ssim_used
  ),
  'cas': Metric(_cas, keeps=('images', 'labels'), sees=False),
}


@dataclasses.dataclass(frozen=True)
class OfGenerator:
  """One entry of --metrics that looks at a generator itself: of_networks/generator_scores.py.

  Attributes:
    space: of latents, 'z' or 'w'.
    full: whether paths are looked at all along; else at their beginning, which is a sample.
    separates: whether it is of planes between latents; else of paths.
  """

  space: str
  full: bool = False
  separates: bool = False


OF_GENERATOR = {
  'ppl_z_full': OfGenerator('z', full=True),
  'ppl_w_full': OfGenerator('w', full=True),
  'ppl_z_end': OfGenerator('z'),
  'ppl_w_end': OfGenerator('w'),
  'ls_z': OfGenerator('z', separates=True),
  'ls_w': OfGenerator('w', separates=True),
}


# Entries of --metrics that look at a generator's encoder: of_networks/encoder_scores.py.
PROBES = ('linear_probe', 'knn_probe')
OF_ENCODER = (*PROBES, 'reconstruction')

# That look at the likelihood it gives real images: of_networks/likelihood_scores.py.
OF_LIKELIHOOD = ('nll_bpd',)

# That look at what it predicts of real clips: of_networks/prediction_scores.py.
OF_PREDICTION = ('psnr', 'ssim')


def need_network(metrics: Sequence[str]) -> bool:
  """Whether any of these is computed in the features of a network."""
  return any(METRICS[name].sees for name in metrics)


def thousands(num: int) -> str:
  """Return '50k' for 50000, '1500' for 1500."""
  return f'{num // 1000}k' if num % 1000 == 0 else str(num)


def full_name(short: str, metric: Metric, num: int, split: str, network: str) -> str:
  """Return a score's name with its protocol: 'fid' -> 'fid50k_train_inception'.

  Only what is computed in the FID Inception's features is called FID, and FVD (Unterthiner et al.
  2018) what is in the logits of I3D; in others it is `fd`. CMMD is in CLIP's embeddings; in other
  features it is `mmd_rbf`.
  """
  kind, _, rest = short.partition('@')  # '@' parts a score from its level: swd@16
  if metric.sees and network not in FID_NETWORKS:
    kind = kind.replace('fid', 'fvd' if network == FVD_NETWORK else 'fd')
  if kind == 'cmmd' and network != CMMD_NETWORK:
    kind = 'mmd_rbf'
  words = [kind + thousands(num)]
  words += [split] if metric.compares else []
  words += [network] if metric.sees else []
  words += [word for word in (metric.words, rest) if word]
  return '_'.join(words)


def without_num(name: str) -> str:
  """Return a full name without the number of samples: two of one kind differ in that alone."""
  return re.sub(r'(?<=[a-z])\d+k?(?=_|$)', '', name, count=1)


def warnings(
  samples: FeatureStats, reference: FeatureStats | None, metrics: Sequence[str]
) -> list[str]:
  """Warnings about scores of too few images."""
  from bigjax.evaluation.metrics import frechet, intra_fid

  found = []
  if 'fid' in metrics:
    found.append(frechet.warning(samples.num, len(samples.moments.mean)))
  if 'sfid' in metrics:
    found.append(frechet.warning(samples.num, len(samples.spatial.mean)))
  if 'intra_fid' in metrics:
    dimensions = samples.features.shape[1]
    found.append(intra_fid.warning(samples.labels, reference.labels, dimensions))
  sides = {'samples': samples} | ({'real images': reference} if reference else {})
  what, fewest = min(sides.items(), key=lambda side: side[1].num)
  scattered = [METRICS[name].spread for name in metrics if METRICS[name].spread]
  if scattered and fewest.num < FEW:
    found.append(
      f'{", ".join(scattered)} of {fewest.num:,} {what} would be another number for others; '
      f'give {FEW} or more, and compare at equal numbers.'
    )
  return [words for words in found if words]
