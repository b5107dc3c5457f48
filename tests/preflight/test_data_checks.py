"""The sheet of what is trained on."""

import ml_collections
import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.preflight import data_checks


@pytest.mark.parametrize(('frames', 'shown'), [(2, [0, 1]), (4, [0, 1, 2, 3]), (10, [0, 3, 6, 9])])
def test_of_a_clip_some_frames_lie_side_by_side(frames, shown):
  clip = np.arange(frames, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 32, 32, 1), np.uint8)
  picture = np.asarray(data_checks.enlarged(clip))
  assert picture.shape == (96, 96 * len(shown), 3)
  assert picture[50, 48::96, 0].tolist() == shown


def test_a_sheet_of_clips(tmp_path):
  """Strips in rows that a screen has room for, each with its label."""
  clips = np.full((20, 8, 16, 16, 3), 200, np.uint8)
  labels = np.arange(20, dtype=np.int32) % 2
  source = data.in_memory((clips, labels), (clips, labels), ('a', 'b'), '', frame_rate=8)
  config = ml_collections.ConfigDict({'seed': 0, 'data': {'flip': False}})
  data_checks.draw_sheet(source, config, str(tmp_path / 'sheet.png'))
  with Image.open(tmp_path / 'sheet.png') as sheet:
    assert sheet.size == (3 * (4 * 96 + 4) + 4, 7 * (96 + 16 + 4) + 4)
    seen = np.asarray(sheet)
  assert (seen[4:100, 4:388] == 200).all() and seen[102:116, 4:30].min() < 100
