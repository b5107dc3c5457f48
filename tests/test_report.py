"""Files that survive a stop, the progress line, grids and curves."""

import io
import json
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

from bigjax import published, report, utils


def write(path, text):
  path.write_text(text)
  return str(path)


def test_json_lines_drops_what_will_be_written_again(tmp_path):
  rows = [{'step': step, 'loss': step / 3} for step in (1, 2, 2, 3, 4)]
  path = write(tmp_path / 'x.jsonl', ''.join(json.dumps(row) + '\n' for row in rows))
  log = report.JsonLines(path, last_step=2)
  assert report.read_rows(path) == rows[:3]
  log.write({'step': 3, 'loss': 1.0})
  assert report.read_rows(path) == [*rows[:3], {'step': 3, 'loss': 1.0}]  # on disk at once
  log.close()


@pytest.mark.parametrize('cut', ['{"step": 2, "lo', '{"step": 2, "loss": 0.5}', '{'])
def test_json_lines_drops_a_cut_last_line(tmp_path, cut):
  path = write(tmp_path / 'x.jsonl', '{"step": 1, "loss": 0.25}\n' + cut)
  assert report.read_rows(path) == [{'step': 1, 'loss': 0.25}]
  log = report.JsonLines(path, last_step=9)
  log.write({'step': 2, 'loss': 0.5})
  log.close()
  assert report.read_rows(path) == [{'step': 1, 'loss': 0.25}, {'step': 2, 'loss': 0.5}]


def test_json_lines_keeps_every_bit(tmp_path):
  path, value = str(tmp_path / 'x.jsonl'), float(np.float32(0.1) / np.float32(3))
  log = report.JsonLines(path, 0)
  log.write({'step': 1, 'loss': value})
  log.close()
  assert report.read_rows(path) == [{'step': 1, 'loss': value}]
  assert report.read_rows(str(tmp_path / 'none.jsonl')) == []


def test_write_json_whole_or_not_at_all(tmp_path):
  path = str(tmp_path / 'x.json')
  report.write_json(path, {'a': [1, 2]})
  with pytest.raises(TypeError):
    report.write_json(path, {'b': list(range(1000)), 'c': object()})  # fails half way
  with open(path) as f:
    assert json.load(f) == {'a': [1, 2]}
  report.write_json(path, {'a': 3})
  with open(path) as f:
    assert json.load(f) == {'a': 3}


@pytest.mark.parametrize(
  ('side', 'channels', 'mode', 'gap', 'enlarge'),
  # The gap is a sixteenth of a side, at least 1; small images grow to 48 pixels or just above.
  [(8, 1, 'L', 1, 6), (10, 3, 'RGB', 1, 5), (32, 1, 'L', 2, 2), (64, 3, 'RGB', 4, 1)],
)
def test_grid_is_pixel_exact(side, channels, mode, gap, enlarge):
  images = np.random.RandomState(0).randint(0, 255, (5, side, side, channels), np.uint8)
  picture = report.grid(images, columns=2)
  assert picture.mode == mode
  pixels = np.array(picture).reshape(picture.height, picture.width, channels)
  small = pixels[::enlarge, ::enlarge]
  np.testing.assert_array_equal(pixels, small.repeat(enlarge, 0).repeat(enlarge, 1))
  assert small.shape == (3 * (side + gap) + gap, 2 * (side + gap) + gap, channels)
  for i, image in enumerate(images):
    top, left = gap + i // 2 * (side + gap), gap + i % 2 * (side + gap)
    np.testing.assert_array_equal(small[top : top + side, left : left + side], image)
    small[top : top + side, left : left + side] = 255
  assert (small == 255).all()  # the gaps and the cell that has no image


class Screen(io.StringIO):
  def __init__(self, tty):
    super().__init__()
    self.isatty = lambda: tty


@pytest.fixture
def clock(monkeypatch):
  """A clock that moves only when told."""
  clock = types.SimpleNamespace(now=100.0)
  monkeypatch.setattr(report, 'time', types.SimpleNamespace(monotonic=lambda: clock.now))
  return clock


def test_progress_says_rate_and_time_left(clock):
  screen = Screen(tty=False)
  progress = report.Progress(first=20, last=100, images_per_step=32, out=screen)
  clock.now += 4
  progress.update(30, {'d_loss': 0.51249, 'g_loss': -1})
  assert progress.rate == 10 * 32 / 4
  # 70 steps of 0.4 s are left.
  assert screen.getvalue() == (
    '[######..............] step 30/100  80 images/s  28s left  d_loss 0.512 g_loss -1.000\n'
  )


def test_progress_measures_since_the_last_update(clock):
  progress = report.Progress(0, 100, 10, Screen(tty=False))
  clock.now += 50  # compiling
  progress.restart(1)
  clock.now += 2
  progress.update(3, {})
  assert progress.rate == 10
  clock.now += 31
  progress.skip(30)  # an evaluation
  progress.update(5, {})
  assert progress.rate == 20


@pytest.mark.parametrize(('first', 'step', 'last'), [(0, 0, 10), (3, 4, 10), (0, 0, 0), (5, 5, 5)])
def test_progress_divides_by_nothing(clock, first, step, last):
  """The first update may come at once, without a step, or in a run that has none."""
  screen = Screen(tty=False)
  progress = report.Progress(first, last, 32, screen)
  progress.update(step, {'d_loss': 1.0})
  assert f'step {step}/{last}  d_loss 1.000' in screen.getvalue()
  assert 'images/s' not in screen.getvalue() and progress.rate == 0


def test_progress_is_rewritten_in_place_on_a_terminal(clock):
  screen = Screen(tty=True)
  progress = report.Progress(0, 10, 1, screen)
  progress.update(5, {})
  progress.update(10, {})
  assert screen.getvalue().count('\r\x1b[K') == 2 and '\n' not in screen.getvalue()
  progress.say('step 10: done')
  assert screen.getvalue().endswith('\r\x1b[Kstep 10: done\n')


def test_progress_is_plain_lines_elsewhere(clock):
  screen = Screen(tty=False)
  progress = report.Progress(0, 10, 1, screen)
  progress.update(5, {})
  progress.update(10, {})
  progress.say('step 10: done')
  assert screen.getvalue() == (
    '[##########..........] step 5/10  \n[####################] step 10/10  \nstep 10: done\n'
  )


def test_progress_to_nowhere(capsys):
  report.Progress(0, 10, 1, out=None).update(5, {'d_loss': 1.0})
  assert capsys.readouterr() == ('', '')


ROWS = [
  *(
    {'step': step, 'd_loss': 1 / step, 'g_loss': -1 / step, 'd_accuracy_real': 1 - step / 20}
    for step in range(1, 9)
  ),
  *({'step': step, 'coverage': step / 9, 'weight_norm_gen': 1e9} for step in (4, 8)),
]


def draw(tmp_path, rows, floor):
  path = str(tmp_path / 'curves.png')
  report.curves(path, rows, floor, 'a title')
  with Image.open(path) as picture:
    assert picture.format == 'PNG'
    return np.asarray(picture.convert('RGB')).astype(int)


def test_curves_draws_what_the_rows_hold(tmp_path):
  empty = draw(tmp_path, [], {})
  pixels = draw(tmp_path, iter(ROWS), {'coverage': 0.9})
  assert pixels.shape == empty.shape and min(pixels.shape[:2]) > 300
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


CURVE = published.Curve(
  'name',
  'their log',
  'as they did it',
  {'fid': ((20, 80.0), (40, 40.0), (60, 20.0), (180, 10.0)), 'is': ((20, 5.0), (200, 50.0))},
)
FLOOR = {'fid50k_train': 2.0, 'is50k': 200.0, 'coverage': 0.9, 'fidelity': 0.8}


@pytest.mark.parametrize(
  ('scores', 'curve', 'expected'),
  [
    ((), None, ['scores (dashed']),
    (('coverage', 'fidelity'), None, ['scores (dashed']),
    (('fid50k_train',), None, ['FID']),
    (('coverage', 'is50k', 'fid50k_train'), None, ['scores (dashed', 'FID', 'Inception score']),
    ((), CURVE, ['FID', 'Inception score']),
    (('coverage',), CURVE, ['scores (dashed', 'FID', 'Inception score']),
  ],
)
def test_scores_have_a_panel_per_scale(scores, curve, expected):
  rows = [{'step': step, **dict.fromkeys(scores, 3.0)} for step in (10, 20)]
  figure = report.curves_figure(rows, FLOOR, 'a title', curve)
  assert headings(figure)[2:] == expected
  assert figure.get_suptitle() == 'a title'
  for axis in figure.axes[2:]:
    assert (axis.get_yscale() == 'log') == (axis.get_title('left')[:3] in ('FID', 'Inc'))
  drawn = {name for axis in figure.axes for name in lines(axis)}
  assert drawn == {*scores, *(['published: their log'] if curve else [])}
  assert ('as they did it' in figure.get_supxlabel()) == bool(curve)


def published_line(last, scores=()):
  rows = [{'step': 1}, {'step': last, **dict.fromkeys(scores, 3.0)}]
  figure = report.curves_figure(rows, FLOOR, '', CURVE)
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
  edge = published.at(CURVE.metrics['fid'], to)
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
    report.curves_figure(rows, {'fid50k': floor}, '', curve).draw_without_rendering()


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


PANELS = (
  'losses', 'accuracies', 'refused', 'sigmas', 'first', 'norms', 'speed', 'waiting', 'memory',
)  # fmt: skip


def vital_signs(rows, clock=(), events=()):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    figure = report.vital_signs_figure(rows, clock, events, 'a title')
    figure.draw_without_rendering()
  return types.SimpleNamespace(**dict(zip(PANELS, figure.axes, strict=True)))


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
  rows = report.stretches(points)
  assert len(rows) == report.STRETCHES and rows[-1, 0] == 1000
  np.testing.assert_array_equal(rows[0], [4, 1, 2.5, 4])  # of 1, 2, 3, 4
  assert report.stretches(points[:3]).tolist() == [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]
  nan = report.stretches([(1, float('nan')), (2, float('inf')), (3, 5.0)])
  assert np.isnan(nan[:2, 1:]).all() and nan[2].tolist() == [3, 5, 5, 5]


def test_vital_signs_without_data_says_so():
  panels = vital_signs([])
  assert 'none yet' in words(panels.sigmas) and 'none yet' in words(panels.first)
  for name in sorted(set(PANELS) - {'sigmas', 'first'}):
    assert 'nothing logged yet' in words(getattr(panels, name))
  panels = vital_signs([step_row(1)], [tick(1)])
  assert 'not reported by this device' in words(panels.memory)
  assert 'nothing' not in words(panels.losses) + words(panels.refused) + words(panels.speed)


def test_vital_signs_survives_numbers_that_are_not():
  bad = dict.fromkeys(('d_loss', 'g_loss', 'd_grad_norm', 'g_grad_norm'), float('nan'))
  vital_signs([step_row(1, **bad)])
  panels = vital_signs([step_row(1), step_row(2, **bad, skipped=1.0), step_row(3, g_grad_norm=0.0)])
  assert [x for x, y in lines(panels.losses)['d_loss'] if np.isfinite(y)] == [1, 3]


def test_events_are_lines_with_their_words_in_every_panel():
  panels = vital_signs([step_row(1), step_row(9)], (), [(4, 'seed 2'), (7, 'very ' * 40)])
  for axis in vars(panels).values():
    at = [line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == '--']
    assert at[-2:] == [4, 7]
    assert 'seed 2' in words(axis) and 'very' in words(axis)
    assert max(len(text.get_text()) for text in axis.texts) < 100


def test_vital_signs_is_saved_as_png(tmp_path):
  path = tmp_path / 'vital_signs.png'
  report.vital_signs(str(path), iter([step_row(1), probe(1)]), iter([tick(1)]), [], 'a title')
  with Image.open(path) as picture:
    assert picture.format == 'PNG' and min(picture.size) > 1000


def test_tensorboard_events_can_be_read_back(tmp_path):
  events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  writer = report.TensorBoard(str(tmp_path))
  writer.write({'step': 3, 'd_loss': 0.5, 'g_loss': 1.5})
  writer.write({'step': 7, 'd_loss': 0.25})
  writer.close()
  reader = events.EventAccumulator(str(tmp_path), size_guidance={'tensors': 0, 'scalars': 0})
  reader.Reload()
  tags = reader.Tags()
  assert set(tags['tensors'] + tags['scalars']) == {'d_loss', 'g_loss'}  # and no 'step'
  if 'd_loss' in tags['scalars']:
    found = [(event.step, event.value) for event in reader.Scalars('d_loss')]
  else:
    found = [
      (event.step, event.tensor_proto.float_val[0])
      if event.tensor_proto.float_val
      else (event.step, np.frombuffer(event.tensor_proto.tensor_content, np.float32)[0])
      for event in reader.Tensors('d_loss')
    ]
  assert found == [(3, 0.5), (7, 0.25)]


def test_null_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  writer = report.Null()
  writer.write({'step': 1})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_importing_report_is_light(tmp_path):
  """Sampling imports it, where there is no TensorFlow and no time for Matplotlib."""
  code = (
    'import sys; from bigjax import report\n'
    "report.TensorBoard('unused').close()\n"
    "heavy = {'tensorflow', 'matplotlib', 'clu'} & set(sys.modules)\n"
    'assert not heavy, heavy'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('line', [b'5', b'\xff\xfe', b'[' * 100_000, b'{"step": 1'])
def test_damaged_rows_get_a_sentence(tmp_path, line):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1}\n' + line + b'\n')
  with pytest.raises(utils.UserError, match='is damaged at'):
    report.read_rows(str(path))
  path.write_bytes(b'[' * 100_000)
  with pytest.raises(utils.UserError, match='cannot be read'):
    report.read_json(str(path))
