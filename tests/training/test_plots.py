"""What is drawn of a run: its curves, its vital signs, its scores."""

import types
import warnings

import numpy as np
import pytest
from PIL import Image

from bigjax.core import plotting
from bigjax.evaluation import reference_curves
from bigjax.training import plots

ROWS = [
  *(
    {'step': step, 'd_loss': 1 / step, 'g_loss': -1 / step, 'd_accuracy_real': 1 - step / 20}
    for step in range(1, 9)
  ),
  *({'step': step, 'coverage': step / 9, 'weight_norm_gen': 1e9} for step in (4, 8)),
]


def draw(tmp_path, rows, floor):
  path = str(tmp_path / 'curves.png')
  plots.curves(path, rows, floor, 'a title')
  with Image.open(path) as picture:
    assert picture.format == 'PNG'
    return np.asarray(picture.convert('RGB')).astype(int)


def test_curves_draws_what_the_rows_hold(tmp_path):
  empty = draw(tmp_path, [], {})
  pixels = draw(tmp_path, iter(ROWS), {'coverage': 0.9})
  assert min(pixels.shape[:2]) > 300
  thirds = np.split(pixels[:, : pixels.shape[1] // 3 * 3], 3, axis=1)
  blue, orange = (31, 119, 180), (255, 127, 14)  # matplotlib's C0 and C1
  count = lambda image, colour: (np.abs(image - colour).sum(-1) < 12).sum()
  assert count(empty, blue) == 0
  assert [count(third, blue) > 50 for third in thirds] == [True] * 3
  assert [count(third, orange) > 50 for third in thirds] == [True, False, False]


def test_curves_draws_the_floor(tmp_path):
  without, with_floor = (draw(tmp_path, ROWS, {'coverage': floor}) for floor in (float('nan'), 0.9))
  changed = (without != with_floor).any(-1)
  assert changed[:, changed.shape[1] * 2 // 3 :].sum() > 100


def lines(axis):
  """Return the lines of a panel that have a name, {label: [(x, y), ...]}."""
  return {
    line.get_label(): list(zip(*line.get_data(), strict=True))
    for line in axis.get_lines()
    if not line.get_label().startswith('_')
  }


def headings(figure):
  return [axis.get_title('left').partition(':')[0] for axis in figure.axes]


def words(axis):
  return ' '.join(text.get_text() for text in axis.texts)


CURVE = reference_curves.Curve(
  'name',
  'their log',
  'as they did it',
  {'fid': ((20, 80.0), (40, 40.0), (60, 20.0), (180, 10.0)), 'is': ((20, 5.0), (200, 50.0))},
)
FLOOR = {'fid50k_train': 2.0, 'is50k': 200.0, 'coverage': 0.9, 'fidelity': 0.8}


@pytest.mark.parametrize(
  ('scores', 'curve', 'expected'),
  [
    ((), None, []),
    (('coverage', 'fidelity'), None, ['scores (dashed']),
    (('fid50k_train',), None, ['FID']),
    (('coverage', 'is50k', 'fid50k_train'), None, ['scores (dashed', 'FID', 'Inception score']),
    ((), CURVE, ['FID', 'Inception score']),
    (('coverage',), CURVE, ['scores (dashed', 'FID', 'Inception score']),
  ],
)
def test_scores_have_a_panel_per_scale(scores, curve, expected):
  rows = [{'step': step, **dict.fromkeys(scores, 3.0)} for step in (10, 20)]
  figure = plots.curves_figure(rows, FLOOR, 'a title', curve)
  assert headings(figure)[1:] == expected
  assert figure.get_suptitle() == 'a title'
  for axis in figure.axes[1:]:
    assert (axis.get_yscale() == 'log') == (axis.get_title('left')[:3] in ('FID', 'Inc'))
  drawn = {name for axis in figure.axes for name in lines(axis)}
  assert drawn == {*scores, *(['published: their log'] if curve else [])}
  assert ('as they did it' in figure.get_supxlabel()) == bool(curve)


def published_line(last, scores=()):
  rows = [{'step': 1}, {'step': last, **dict.fromkeys(scores, 3.0)}]
  figure = plots.curves_figure(rows, FLOOR, '', CURVE)
  axis = figure.axes[headings(figure).index('FID')]
  (line,) = (line for line in axis.get_lines() if line.get_label() == 'published: their log')
  assert line.get_linestyle() == ':'
  points = list(zip(*line.get_data(), strict=True))
  return points, [points[i] for i in line.get_markevery()], axis


@pytest.mark.parametrize(
  ('last', 'marked', 'to'),
  [(1, 3, 60), (30, 3, 60), (60, 3, 60), (120, 3, 120), (180, 4, 180), (500, 4, 500)],
)
@pytest.mark.parametrize('scores', [(), ('fid50k_train',)])
def test_published_points_are_drawn_to_our_last_step_and_at_least_three(last, marked, to, scores):
  points, markers, axis = published_line(last, scores)
  assert markers == list(CURVE.metrics['fid'][:marked])  # only what was published has a marker
  edge = reference_curves.at(CURVE.metrics['fid'], to)
  assert points[-1] == ((to, edge) if edge else CURVE.metrics['fid'][-1])
  left, right = axis.get_xlim()
  assert left < 0 and to <= right < 1.1 * to


@pytest.mark.parametrize('fid', [0.0, float('nan'), float('inf')])
@pytest.mark.parametrize('floor', [0.0, float('nan'), 2.0])
@pytest.mark.parametrize('curve', [None, CURVE])
def test_scores_without_a_logarithm_are_survived(fid, floor, curve):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    rows = [{'step': 5, 'fid50k': fid}]
    figure = plots.curves_figure(rows, {'fid50k': floor}, '', curve)
    figure.draw_without_rendering()
  assert any('fid50k' in lines(axis) for axis in figure.axes)


def probe(step, **more):
  """A row as BigGAN's probe makes one: sigma0 of the kernels grows with their number."""
  sigmas = {f'sigma0_gen/blocks_{i}/conv1/kernel': 1.0 + i for i in range(8)}
  first = {f'sigma{i}_gen/linear/kernel': 9.0 - i for i in range(3)}
  others = {'sigma0_disc/linear/kernel': 2.0, 'sigma_max_disc': 2.0, 'weight_norm_gen': 300.0}
  signs = {'probe_accuracy_train': 0.9, 'probe_accuracy_held_out': 0.5, 'weight_norm_disc': 200.0}
  return {'step': step, **sigmas, **first, **others, **signs, **more}


def step_row(step, **more):
  row = {'d_loss': 1.0, 'g_loss': 0.1, 'd_loss_real': 0.5, 'skipped': 0.0}
  norms = {'d_grad_norm': 3.0, 'g_grad_norm': 0.3, 'd_accuracy_real': 0.8, 'd_accuracy_fake': 0.7}
  return {'step': step, **row, **norms, **more}


def tick(step, **more):
  return {'step': step, 'images_per_second': 50.0, 'seconds': 1.0, 'time': 2.0, **more}


PANELS = {  # how the headings begin
  'losses': 'losses', 'accuracies': 'share of images', 'refused': 'updates refused',
  'sigmas': 'sigma0', 'first': 'singular values', 'norms': 'norms', 'speed': 'images per second',
  'waiting': 'share of time', 'memory': 'device memory',
}  # fmt: skip


def vital_signs(rows, clock=(), events=()):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    figure = plots.vital_signs_figure(rows, clock, events, 'a title')
    figure.draw_without_rendering()
  assert all(axis.get_title('left') for axis in figure.axes)  # no empty panel is left
  return types.SimpleNamespace(
    **{
      name: axis
      for axis in figure.axes
      for name, heading in PANELS.items()
      if axis.get_title('left').startswith(heading)
    }
  )


def test_vital_signs_shows_every_sign_in_its_panel():
  rows = [step_row(1), step_row(2), probe(2)]
  clock = [tick(1, images_per_second=0.0), tick(2, waiting=0.25, device_memory_gib=7.5)]
  panels = vital_signs(rows, clock)
  assert set(lines(panels.losses)) == {'d_loss', 'g_loss'}
  assert lines(panels.losses)['d_loss'] == [(1, 1.0), (2, 1.0)]
  assert set(lines(panels.accuracies)) == {
    'd_accuracy_real', 'd_accuracy_fake', 'probe_accuracy_train', 'probe_accuracy_held_out',
  }  # fmt: skip
  assert lines(panels.first) == {f'sigma{i}_gen/linear/kernel': [(2, 9.0 - i)] for i in range(3)}
  assert set(lines(panels.norms)) == {
    'd_grad_norm', 'g_grad_norm', 'weight_norm_gen', 'weight_norm_disc',
  }  # fmt: skip
  for axis in (panels.sigmas, panels.first, panels.norms):
    assert axis.get_yscale() == 'log'
  only = lambda axis: [tuple(np.ravel(line.get_data())) for line in axis.get_lines()]
  assert only(panels.speed) == [(2, 50)]  # 0 images per second is a rate not measured
  assert only(panels.waiting) == [(2, 0.25)]
  assert only(panels.memory) == [(2, 7.5)]
  assert not any('nothing' in words(axis) for axis in vars(panels).values())


def test_the_largest_kernels_are_named_and_all_are_drawn():
  axis = vital_signs([probe(1), probe(2)]).sigmas
  largest = ['linear/kernel', *(f'blocks_{i}/conv1/kernel' for i in (7, 6, 5, 4))]
  assert list(lines(axis)) == [*largest, 'sigma_max_disc']
  assert len(axis.get_lines()) == 10


def test_without_a_first_linear_layer_another_kernel_is_followed():
  rows = [{k: v for k, v in probe(1).items() if 'linear' not in k}]
  panels = vital_signs(rows)
  assert list(lines(panels.first)) == ['sigma0_gen/blocks_0/conv1/kernel']
  assert 'blocks_0/conv1/kernel' in panels.first.get_title('left')


@pytest.mark.parametrize('num', [1, 40, 5000])
def test_a_refusal_and_a_spike_survive_thinning(num):
  rows = [step_row(step) for step in range(1, num + 1)]
  spike = num // 2
  rows[spike] |= {'skipped': 3.0, 'd_loss': 77.0}
  panels = vital_signs(rows)
  (refused,) = panels.refused.get_lines()
  assert refused.get_ydata().max() == 3 and panels.refused.get_ylim()[1] > 3
  top = max(y for _, y in lines(panels.losses)['d_loss'])
  bands = [path.vertices[:, 1].max() for c in panels.losses.collections for path in c.get_paths()]
  assert max([top, *bands]) == 77
  for axis in vars(panels).values():
    assert all(len(line.get_xdata()) <= 1000 for line in axis.get_lines())


def test_stretches_keep_extremes_means_and_the_last_step():
  points = [(step, float(step % 7)) for step in range(1, 1001)]
  rows = plotting.stretches(points)
  assert len(rows) == plotting.STRETCHES and rows[-1, 0] == 1000
  np.testing.assert_array_equal(rows[0], [4, 1, 2.5, 4])  # of 1, 2, 3, 4
  assert plotting.stretches(points[:3]).tolist() == [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]
  nan = plotting.stretches([(1, float('nan')), (2, float('inf')), (3, 5.0)])
  assert np.isnan(nan[:2, 1:]).all() and nan[2].tolist() == [3, 5, 5, 5]


def test_only_panels_with_rows_are_drawn():
  panels = vital_signs([])
  assert list(vars(panels)) == ['losses'] and 'nothing logged yet' in words(panels.losses)
  one_player = {'step': 1, 'loss': 1.0, 'mse_loss': 1.0, 'skipped': 0.0}
  assert set(vars(vital_signs([one_player], [tick(1)]))) == {'losses', 'refused', 'speed'}
  everything = vital_signs([step_row(1), probe(1)], [tick(1, waiting=0.1, device_memory_gib=1.0)])
  assert set(vars(everything)) == set(PANELS)
  titles = [a.get_title('left') for a in plots.curves_figure([one_player], {}, 'a title').axes]
  assert titles == ['losses']


def test_an_adaptive_augmentation_is_drawn():
  rows = [{'step': s, 'd_loss': 1.0, 'augment_p': s / 10, 'augment_r_t': 0.7} for s in (1, 2)]
  figure = plots.vital_signs_figure(rows, (), (), 'a title')
  (axis,) = (a for a in figure.axes if 'strength of the augmentation' in a.get_title('left'))
  assert lines(axis) == {'augment_p': [(1, 0.1), (2, 0.2)], 'augment_r_t': [(1, 0.7), (2, 0.7)]}


def test_shares_of_resolutions_are_drawn_from_the_smallest_on():
  shares = {'rgb_share_16': 0.1, 'rgb_share_4': 0.7, 'rgb_share_8': 0.2}
  rows = [{'step': step, 'd_loss': 1.0, **shares} for step in (1, 2)]
  figure = plots.vital_signs_figure(rows, (), (), 'a title')
  (axis,) = (a for a in figure.axes if "resolution's share" in a.get_title('left'))
  assert list(lines(axis)) == ['rgb_share_4', 'rgb_share_8', 'rgb_share_16']
  assert lines(axis)['rgb_share_4'] == [(1, 0.7), (2, 0.7)]


def test_shortcuts_of_all_layers_are_drawn_and_the_largest_named():
  ratios = {f'norm_ratio_disc/blocks8_{i}/attn': 1.0 + i for i in range(7)}
  rows = [{'step': step, 'd_loss': 1.0, **ratios} for step in (1, 2)]
  figure = plots.vital_signs_figure(rows, (), (), 'a title')
  (axis,) = (a for a in figure.axes if a.get_title('left').startswith('shortcuts'))
  assert len(axis.get_lines()) == 7 and axis.get_yscale() == 'log'
  named = [line.get_label() for line in axis.get_lines() if not line.get_label().startswith('_')]
  assert named == [f'disc/blocks8_{i}/attn' for i in (6, 5, 4, 3, 2)]


def test_vital_signs_survives_numbers_that_are_not():
  bad = dict.fromkeys(('d_loss', 'g_loss', 'd_grad_norm', 'g_grad_norm'), float('nan'))
  vital_signs([step_row(1, **bad)])
  panels = vital_signs([step_row(1), step_row(2, **bad, skipped=1.0), step_row(3, g_grad_norm=0.0)])
  assert [x for x, y in lines(panels.losses)['d_loss'] if np.isfinite(y)] == [1, 3]


def drawn_events(events):
  rows = [step_row(step) for step in range(1, 101)]
  figure = plots.vital_signs_figure(rows, (), events, 'a title')
  return figure, vars(vital_signs(rows, (), events)).values()


def test_events_are_numbered_lines_in_every_panel_and_words_once():
  long = 'very ' * 40 + 'end'
  figure, panels = drawn_events([(70, long), (40, 'seed\n2')])
  for axis in panels:
    at = [line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == '--']
    assert at[-2:] == [40, 70]
    assert [t.get_text().strip() for t in axis.texts][-2:] == ['1', '2']
    assert 'seed' not in words(axis) and 'very' not in words(axis)
  told = figure.get_supxlabel()
  assert told.startswith('1: step 40, seed 2\n2: step 70, very') and told.endswith('very end')
  assert '...' not in told  # nothing is cut off


def test_events_that_lie_together_share_a_place():
  _, panels = drawn_events([(40, 'a'), (41, 'b'), (42, 'c'), (43, 'd'), (90, 'e'), (91, 'f')])
  for axis in panels:
    assert [t.get_text().strip() for t in axis.texts][-2:] == ['1-4', '5,6']


def test_many_events_are_told_in_part():
  figure, _ = drawn_events([(step, 'x') for step in range(1, 61)])
  told = figure.get_supxlabel().splitlines()
  assert len(told) == plots.EVENTS + 1 and told[6] == (
    '48 more in between: see events.jsonl and history.json'
  )
  assert told[0] == '1: step 1, x' and told[-1] == '60: step 60, x'


def test_no_legend_lies_on_data_and_no_label_is_out_of_the_picture():
  rows = [*(step_row(step) for step in range(1, 101)), probe(50), probe(100)]
  clock = [tick(step, waiting=0.0, device_memory_gib=1.0) for step in range(1, 101)]
  named = {f'score_{i}': 0.1 * i for i in range(8)}
  rows += [{'step': step, **named} for step in (50, 100)]
  for figure in (
    plots.vital_signs_figure(rows, clock, [(50, 'words'), (51, 'more')], 'a title'),
    plots.curves_figure(rows, named, 'a title', CURVE),
  ):
    figure.draw_without_rendering()
    whole, legends = figure.bbox, 0
    for axis in figure.axes:
      legend = axis.get_legend()
      boxes = [other.get_tightbbox() for other in figure.axes if other is not axis]
      if legend:
        legends += 1
        box = legend.get_window_extent()
        assert box.y1 <= axis.get_window_extent().y0  # below it
        assert not any(box.overlaps(other.get_window_extent()) for other in figure.axes)
      mine = axis.get_tightbbox()
      assert not any(mine.overlaps(other) for other in boxes)
      assert whole.x0 <= mine.x0 and mine.x1 <= whole.x1 + 1
    assert legends >= 3


@pytest.mark.parametrize('values', [(10.2, 22.0), (1.0005, 1.003), (3.0, 40.0), (0.4, 380.0)])
def test_logarithmic_axes_have_several_ticks(values):
  rows = [{'step': i, 'fid50k_train': value} for i, value in enumerate(values, 1)]
  figure = plots.curves_figure(rows, {'fid50k_train': values[0]}, '')
  axis = figure.axes[headings(figure).index('FID')]
  figure.draw_without_rendering()
  low, high = axis.get_ylim()
  shown = [t for t in axis.yaxis.get_ticklabels() if low <= t.get_position()[1] <= high]
  assert axis.get_yscale() == 'log' and len([t for t in shown if t.get_text()]) >= 3


def test_real_lines_on_each_other_show_all_their_colours():
  rows = [{'step': 1, 'a': 0.0, 'b': 1.0, 'c': 0.5}, {'step': 2, 'a': 0.1, 'b': 0.9, 'c': 0.5}]
  axis = plots.curves_figure(rows, {'a': 0.7, 'b': 0.7001, 'c': 0.2}, '').axes[-1]
  dashed = {
    line.get_color(): line._dash_pattern
    for line in axis.get_lines()
    if len(set(line.get_xdata())) == 2 and line.get_xdata()[0] == 0
  }
  assert set(dashed) == {'C0', 'C1', 'C2'}
  (first, (on, off)), (second, same) = dashed['C0'], dashed['C1']
  assert tuple(same) == (on, off) and off > on and on < second - first <= off
  assert dashed['C2'][1][1] < dashed['C2'][1][0]


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
  title = 'biggan on folder:/my/$photos_{x$, 花'
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    plots.curves(str(tmp_path / 'x.png'), [{'step': 1, 'd_loss': 1.0}], {}, title)
  with Image.open(tmp_path / 'x.png') as picture:
    assert picture.format == 'PNG' and min(picture.size) > 300


def test_vital_signs_is_saved_as_png(tmp_path):
  path = tmp_path / 'vital_signs.png'
  plots.vital_signs(str(path), iter([step_row(1), probe(1)]), iter([tick(1)]), [], 'a title')
  with Image.open(path) as picture:
    assert picture.format == 'PNG' and min(picture.size) > 1000
