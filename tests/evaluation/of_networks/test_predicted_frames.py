"""PSNR and SSIM of predicted frames: scikit-image's values, by hand, and a shift of one frame."""

import numpy as np
import pytest

from bigjax.core import errors
from bigjax.evaluation.of_networks import predicted_frames


def noise(seed, shape):
  return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def moving(num=2, frames=6, side=24):
  """Clips of a smooth pattern that moves by two pixels a frame."""
  coarse = np.random.RandomState(0).rand(num, 6, 6, 1).repeat(4, 1).repeat(4, 2)
  image = (255 * coarse).astype(np.uint8)
  return np.stack([np.roll(image, 2 * t, axis=2) for t in range(frames)], 1)


@pytest.mark.parametrize('channels', [1, 3])
def test_values_of_scikit_image(channels):
  metrics = pytest.importorskip('skimage.metrics')
  a = noise(0, (2, 3, 17, 20, channels))
  b = (0.7 * a + 0.3 * noise(1, a.shape)).astype(np.uint8)
  ssim, psnr = predicted_frames.ssim(a, b), predicted_frames.psnr(a, b)
  assert ssim.shape == psnr.shape == (2, 3)
  for i, t in np.ndindex(2, 3):
    want = metrics.structural_similarity(
      a[i, t], b[i, t], gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
      data_range=255, channel_axis=-1,
    )  # fmt: skip
    assert ssim[i, t] == pytest.approx(want, rel=1e-10)
    want = metrics.peak_signal_noise_ratio(a[i, t], b[i, t], data_range=255)
    assert psnr[i, t] == pytest.approx(want, rel=1e-12)


def test_ssim_is_wangs_formula_in_one_window():
  """Of 11 x 11 px there is one window: Eq. 13, summed up as it is printed."""
  a, b = noise(0, (1, 1, 11, 11, 1)), noise(1, (1, 1, 11, 11, 1))
  x, y = (one[0, 0, :, :, 0].astype(float) for one in (a, b))
  weights = [
    [np.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)
  ]
  weights = np.array(weights) / np.sum(weights)
  mean = lambda z: (weights * z).sum()
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  shared = mean((x - mean(x)) * (y - mean(y)))
  spread = mean((x - mean(x)) ** 2) + mean((y - mean(y)) ** 2)
  light = (2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
  assert predicted_frames.ssim(a, b)[0, 0] == pytest.approx(
    light * (2 * shared + c2) / (spread + c2)
  )


def test_psnr_by_hand():
  """A difference of 5 levels everywhere is 10 log10(255^2 / 25) dB; of 255, none."""
  a = np.full((1, 3, 12, 12, 1), 100, np.uint8)
  b = a.copy()
  b[:, 1] = 95
  a[:, 2], b[:, 2] = 0, 255
  np.testing.assert_allclose(predicted_frames.psnr(a, b), [[100, 20 * np.log10(51), 0]])


def test_equal_clips_and_clips_that_are_a_frame_late():
  clips = moving()
  np.testing.assert_allclose(predicted_frames.ssim(clips, clips), 1, rtol=1e-12)
  assert (predicted_frames.psnr(clips, clips) == predicted_frames.LARGEST).all()
  late, came = clips[:, :-1], clips[:, 1:]
  assert (predicted_frames.ssim(late, came) < 0.8).all() and (
    predicted_frames.psnr(late, came) < 20
  ).all()


def test_many_frames_are_as_few(monkeypatch):
  a, b = noise(0, (3, 5, 12, 12, 1)), noise(1, (3, 5, 12, 12, 1))
  whole = {name: score(a, b) for name, score in predicted_frames.SCORES.items()}
  monkeypatch.setattr(predicted_frames, 'CHUNK', 4)
  for name, score in predicted_frames.SCORES.items():
    np.testing.assert_array_equal(score(a, b), whole[name])
    np.testing.assert_allclose(whole[name][2:, 3:4], score(a[2:, 3:4], b[2:, 3:4]))


def test_baselines():
  clips = noise(0, (2, 5, 4, 4, 1))
  mean = predicted_frames.mean_image(clips)
  assert abs(mean.astype(float) - clips.mean((0, 1))).max() <= 0.5 and mean.dtype == np.uint8
  found = predicted_frames.baselines(clips, 2, mean)
  assert list(found) == ['last_frame', 'mean_image', 'black']
  assert all(one.shape == (2, 3, 4, 4, 1) for one in found.values())
  assert (found['last_frame'] == clips[:, 1:2]).all() and (found['mean_image'] == mean).all()
  assert not found['black'].any()


def test_other_shapes_are_refused():
  with pytest.raises(errors.UserError, match=r'\[1, 2, 8, 8, 1\] and those that came \[1, 3, 8'):
    predicted_frames.psnr(noise(0, (1, 2, 8, 8, 1)), noise(0, (1, 3, 8, 8, 1)))
