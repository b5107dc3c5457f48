"""Pictures of scores: every panel has room, every line a name."""

import math
import warnings

import pytest
from PIL import Image

from bigjax.core import plotting
from bigjax.evaluation import plots

KINDS = (
  'fid10k_train_inception', 'is10k', 'precision10k_train_k3', 'recall10k_train_k3',
  'density10k_train_k5', 'coverage10k_train_k5',
)  # fmt: skip


def points(names, ats, steps=(1000,)):
  score = lambda i, name: {'value': len(name) + i, 'std': 0.1 if i else None}
  return [
    {'step': step, 'at': at, 'scores': {name: score(i, name) for name in names}}
    for step in steps
    for i, at in enumerate(ats)
  ]


@pytest.mark.parametrize('num', [2, 6])
@pytest.mark.parametrize('drawn', ['scores', 'truncation'])
def test_panels_do_not_lie_on_each_other(tmp_path, monkeypatch, num, drawn):
  figures, save = [], plotting.save
  monkeypatch.setattr(plotting, 'save', lambda fig, path: figures.append(fig) or save(fig, path))
  steps = (1000, 2000) if drawn == 'scores' else (1000,)
  some = points(KINDS[:num], (0.5, 1.0, math.inf), steps)
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # a layout that finds no room warns
    getattr(plots, drawn)(str(tmp_path / 'x.png'), some, dict.fromkeys(KINDS, 2.0), 'a title')
  with Image.open(tmp_path / 'x.png') as picture:
    assert picture.format == 'PNG'
  (figure,) = figures
  assert len(figure.axes) == num + (num > 1 and drawn == 'truncation') * (3 if num == 6 else 1)
  boxes = [axis.get_tightbbox() for axis in figure.axes]
  assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
  if drawn == 'scores':
    for axis in figure.axes:
      words = [text.get_text() for text in axis.get_legend().get_texts()]
      assert words == ['truncation 0.5', 'truncation 1', 'untruncated']


def test_one_line_needs_no_legend(tmp_path, monkeypatch):
  figures = []
  monkeypatch.setattr(plotting, 'save', lambda fig, path: figures.append(fig))
  plots.scores('', points(KINDS[:1], (None,), (1, 2)), {}, 'a title')
  assert figures[0].axes[0].get_legend() is None


@pytest.mark.parametrize(('num', 'whats', 'counted'), [(10, 1, True), (3, 2, False), (60, 1, True)])
def test_a_bar_for_each_class(tmp_path, monkeypatch, num, whats, counted):
  """From above in the order given, with names where there is room, and a dash for real images."""
  figures, save = [], plotting.save
  monkeypatch.setattr(plotting, 'save', lambda fig, path: figures.append(fig) or save(fig, path))
  names = ('fd50_train_classifier', 'agreement50_classifier')
  records = [
    {
      'what': f'step {what}',
      'name': f'class {i}',
      'train_images': 1000 // (i + 1) if counted else None,
      'scores': {name: {'value': i + what, 'std': None} for name in names[: 1 + (i > 0)]},
      'real': {names[0]: 2.0},
    }
    for what in range(whats)
    for i in range(num)
  ]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    plots.by_class(str(tmp_path / 'x.png'), records, 'a title')
  (figure,) = figures
  assert len(figure.axes) == 2 + counted
  *_, distance, agreement = figure.axes
  bars, lines = [bar.get_width() for bar in distance.patches], distance.get_lines()
  drawn = bars[:num] if num < 60 else lines[0].get_xdata().tolist()
  assert drawn == list(range(num)) and lines[-1].get_xdata().tolist() == [2.0] * num
  assert agreement.get_legend().get_texts()[0].get_text() == 'step 0'
  ticks = [text.get_text() for text in distance.get_yticklabels()]
  assert ticks == ([f'class {i}' for i in range(num)] if num < 60 else [])
  assert distance.yaxis_inverted()
