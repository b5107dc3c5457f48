"""The names of a run's numbers: what each promises, for the pictures and the watchdog that read it.

A family logs those that mean something for it; a panel without rows is not drawn, and a signal
without numbers is silent. PLAYER is the name of a player of its state.
"""

import dataclasses
import fnmatch
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Metric:
  """A kind of number in metrics.jsonl.

  Attributes:
    pattern: of its names, as of a shell.
    meaning: what it is.
    good: what it is in a healthy run.
  """

  pattern: str
  meaning: str
  good: str

  def __contains__(self, name: str) -> bool:
    return fnmatch.fnmatchcase(name, self.pattern)

  def among(self, names: Iterable[str]) -> list[str]:
    """Those of the names that are of this kind, in their order."""
    return [name for name in names if name in self]


LOSS = Metric('*_loss', 'loss of a player', 'no sudden jump')
GRAD_NORM = Metric('*_grad_norm', "norm of a player's gradient", 'of one order of magnitude')
ACCURACY = Metric(
  '*_accuracy_*', "share of images a discriminator's sign gets right", 'neither 0 nor 1 for long'
)
PROBE_ACCURACY = Metric(
  'probe_accuracy_*', 'the same between two steps: of train, held_out and fake images',
  'held_out near train',
)  # fmt: skip
CLASS_ACCURACY = Metric(
  '*_accuracy', 'share of images whose class a classifier tells: of a step, of train and held_out',
  'held_out near train',
)  # fmt: skip
SKIPPED = Metric('skipped', 'updates refused in a row, for numbers that are not finite', '0')
REFUSED = Metric('refused', 'updates refused since the run began', 'does not grow')
SIGMA = Metric(
  'sigma[0-9]_*/*', 'singular values of a kernel before it is normalised: sigma0_PLAYER/PATH',
  'grows slowly',
)  # fmt: skip
SIGMA_MAX = Metric('sigma_max_*', 'the largest of the norms that PLAYER divides by', 'grows slowly')
WEIGHT_NORM = Metric('weight_norm_*', "norm of PLAYER's parameters", 'moves')
BATCH_STD = Metric('batch_std', 'standard deviation of a pixel over a batch, in [0, 1]', 'constant')
BATCH_LABEL_SHARE = Metric(
  'batch_label_share', "share of a batch's labels that are the first one", 'constant'
)

AUGMENT = Metric(
  'augment_*', 'strength p of an adaptive augmentation, and r_t, which it follows',
  'r_t near its target',
)  # fmt: skip

RGB_SHARE = Metric(
  'rgb_share_*', "share of the output's deviation that a resolution adds: rgb_share_8",
  'moves to the last resolutions as a run goes on',
)  # fmt: skip

SAMPLES_MOVED = Metric(
  'samples_moved', 'mean squared change of the samples of fixed latents since an evaluation',
  'falls, without jumps',
)  # fmt: skip

LATENT_COSINE = Metric(
  'latent_cosine', 'mean cosine of latents and what an encoder makes of their images',
  'about 0 at first, grows',
)  # fmt: skip

NORM_RATIO = Metric(
  'norm_ratio_*/*', 'norm of a shortcut over that of the branch beside it: norm_ratio_PLAYER/LAYER',
  'about 1, and not ever larger',
)  # fmt: skip

METRICS = (
  LOSS, GRAD_NORM, ACCURACY, PROBE_ACCURACY, CLASS_ACCURACY, SKIPPED, REFUSED, SIGMA, SIGMA_MAX,
  WEIGHT_NORM, BATCH_STD, BATCH_LABEL_SHARE, AUGMENT, RGB_SHARE, SAMPLES_MOVED, LATENT_COSINE,
  NORM_RATIO,
)  # fmt: skip


def singular_value(index: int, player: str, path: str = '') -> str:
  """Name of the singular value `index` (0 the largest) of a player's kernel, or its beginning."""
  return f'sigma{index}_{player}/{path}'


def norm_ratio(player: str, layer: str) -> str:
  """Name of the norm of a shortcut of a player over that of the branch beside it."""
  return f'norm_ratio_{player}/{layer}'
