"""Scores of what a generator predicts of held-out clips: PSNR and SSIM, over frames and clips.

What is scored is no samples, whose first frames are of clips that it was trained on, but how it
goes on with the first frames of held-out clips (evaluation/of_networks/predicted_frames.py). The
floor is the best that needs no network: the last given frame, the mean image of training clips, or
black.
"""

from collections.abc import Callable

import numpy as np

from bigjax.core.progress import say
from bigjax.data import Labelled
from bigjax.evaluation.of_networks import predicted_frames
from bigjax.evaluation.quick import Groups, RealImages, Scores

PREDICTS = True
FLOOR_OF = 'without a network'  # the best of these gets the floor
SCORES = tuple(predicted_frames.SCORES)


def make(
  train: RealImages, held_out: RealImages, groups: Groups, num_given: int, num: int
) -> tuple[Callable[[Labelled], Scores], Scores]:
  """Return (score, floor): `score((frames, labels))`, and what needs no network.

  Args:
    train, held_out: real clips.
    groups: ignored.
    num_given: frames of a clip that are given.
    num: of held-out clips, at most: frames [num, T - num_given, ...] are predictions of
      `held_out(num)`, in this order.
  """
  del groups
  clips, _ = held_out(num)
  came = clips[:, num_given:]

  def score(frames: np.ndarray) -> Scores:
    return {name: float(of(frames, came).mean()) for name, of in predicted_frames.SCORES.items()}

  some, _ = train(predicted_frames.num_of_mean(clips.shape[1:]))
  mean = predicted_frames.mean_image(some)
  beside = {
    n: score(some) for n, some in predicted_frames.baselines(clips, num_given, mean).items()
  }
  words = [f'{n.replace("_", " ")} {s["psnr"]:.2f} dB, {s["ssim"]:.3f}' for n, s in beside.items()]
  say(f'predictions of {len(clips):,} held-out clips; without a network: {"; ".join(words)}')
  floor = {name: max(scores[name] for scores in beside.values()) for name in SCORES}
  return lambda predictions: score(predictions[0]), floor
