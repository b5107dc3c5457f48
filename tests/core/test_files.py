"""Files that survive a stop, the progress line, grids."""

import io
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from bigjax.core import errors, files, progress
from bigjax.core.progress import Progress
from bigjax.sampling import grids
from bigjax.training.records import logs


def write(path, text):
  path.write_text(text)
  return str(path)


def test_json_lines_drops_what_will_be_written_again(tmp_path):
  rows = [{'step': step, 'loss': step / 3} for step in (1, 2, 2, 3, 4)]
  path = write(tmp_path / 'x.jsonl', ''.join(json.dumps(row) + '\n' for row in rows))
  log = files.JsonLines(path, last_step=2)
  assert files.read_rows(path) == rows[:3]
  log.write({'step': 3, 'loss': 1.0})
  assert files.read_rows(path) == [*rows[:3], {'step': 3, 'loss': 1.0}]  # on disk at once
  log.close()


@pytest.mark.parametrize('cut', ['{"step": 2, "lo', '{"step": 2, "loss": 0.5}', '{'])
def test_json_lines_drops_a_cut_last_line(tmp_path, cut):
  path = write(tmp_path / 'x.jsonl', '{"step": 1, "loss": 0.25}\n' + cut)
  assert files.read_rows(path) == [{'step': 1, 'loss': 0.25}]
  log = files.JsonLines(path, last_step=9)
  log.write({'step': 2, 'loss': 0.5})
  log.close()
  assert files.read_rows(path) == [{'step': 1, 'loss': 0.25}, {'step': 2, 'loss': 0.5}]


def test_json_lines_keeps_every_bit(tmp_path):
  path, value = str(tmp_path / 'x.jsonl'), float(np.float32(0.1) / np.float32(3))
  log = files.JsonLines(path, 0)
  log.write({'step': 1, 'loss': value})
  log.close()
  assert files.read_rows(path) == [{'step': 1, 'loss': value}]
  assert files.read_rows(str(tmp_path / 'none.jsonl')) == []


@pytest.mark.parametrize('shared', [False, True])
def test_a_whole_file_is_there_at_the_end_or_not_at_all(tmp_path, shared):
  path = tmp_path / 'x.bin'
  path.write_bytes(b'before')
  with files.whole(str(path), shared=shared) as file:
    file.write(b'af')
    file.flush()
    assert path.read_bytes() == b'before'
    file.write(b'ter')
  assert path.read_bytes() == b'after'
  with pytest.raises(KeyboardInterrupt), files.whole(str(path), shared=shared) as file:
    file.write(b'half')
    raise KeyboardInterrupt
  assert path.read_bytes() == b'after' and os.listdir(tmp_path) == ['x.bin']


def test_processes_may_write_one_whole_file_at_once(tmp_path):
  path = str(tmp_path / 'x.txt')
  with files.whole(path, 'w', shared=True) as first, files.whole(path, 'w', shared=True) as second:
    second.write('é of the second')
    first.write('é of the first')
  assert (tmp_path / 'x.txt').read_text('utf-8') == 'é of the first'  # the last to end
  assert os.listdir(tmp_path) == ['x.txt']


def test_a_folder_is_prepared_or_refused_before_work_is_done_for_it(tmp_path):
  files.prepare_folder('--out', str(tmp_path / 'a' / 'b' / 'x.png'))
  assert os.listdir(tmp_path / 'a' / 'b') == []
  (tmp_path / 'file').touch()
  long = 'x' * 300
  for path in (tmp_path / 'file' / 'x.png', tmp_path / 'a', tmp_path / f'{long}.png'):
    with pytest.raises(errors.UserError, match=r'--out=.* cannot be written \('):
      files.prepare_folder('--out', str(path))


def test_write_json_whole_or_not_at_all(tmp_path):
  path = str(tmp_path / 'x.json')
  files.write_json(path, {'a': [1, 2]})
  with pytest.raises(TypeError):
    files.write_json(path, {'b': list(range(1000)), 'c': object()})  # fails half way
  with open(path) as f:
    assert json.load(f) == {'a': [1, 2]}
  files.write_json(path, {'a': 3})
  with open(path) as f:
    assert json.load(f) == {'a': 3}


@pytest.mark.parametrize(
  ('side', 'channels', 'mode', 'gap', 'enlarge'),
  # The gap is a sixteenth of a side, at least 1; small images grow to 48 pixels or just above.
  [(8, 1, 'L', 1, 6), (10, 3, 'RGB', 1, 5), (32, 1, 'L', 2, 2), (64, 3, 'RGB', 4, 1)],
)
def test_grid_is_pixel_exact(side, channels, mode, gap, enlarge):
  images = np.random.RandomState(0).randint(0, 255, (5, side, side, channels), np.uint8)
  picture = grids.grid(images, columns=2)
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
  monkeypatch.setattr(progress, 'time', types.SimpleNamespace(monotonic=lambda: clock.now))
  return clock


def test_progress_says_rate_and_time_left(clock):
  screen = Screen(tty=False)
  progress = Progress(first=20, last=100, images_per_step=32, out=screen)
  clock.now += 4
  progress.update(30, {'d_loss': 0.51249, 'g_loss': -1})
  assert progress.rate == 10 * 32 / 4
  # 70 steps of 0.4 s are left.
  assert screen.getvalue() == (
    '[######..............] step 30/100  80 images/s  28s left  d_loss 0.512 g_loss -1.000\n'
  )


def test_progress_measures_since_the_last_update(clock):
  progress = Progress(0, 100, 10, Screen(tty=False))
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
  progress = Progress(first, last, 32, screen)
  progress.update(step, {'d_loss': 1.0})
  assert f'step {step}/{last}  d_loss 1.000' in screen.getvalue()
  assert 'images/s' not in screen.getvalue() and progress.rate == 0


def test_progress_is_rewritten_in_place_on_a_terminal(clock):
  screen = Screen(tty=True)
  progress = Progress(0, 10, 1, screen)
  progress.update(5, {})
  progress.update(10, {})
  assert screen.getvalue().count('\r\x1b[K') == 2 and '\n' not in screen.getvalue()
  progress.say('step 10: done')
  assert screen.getvalue().endswith('\r\x1b[Kstep 10: done\n')


def test_progress_is_plain_lines_elsewhere(clock):
  screen = Screen(tty=False)
  progress = Progress(0, 10, 1, screen)
  progress.update(5, {})
  progress.update(10, {})
  progress.say('step 10: done')
  assert screen.getvalue() == (
    '[##########..........] step 5/10  \n[####################] step 10/10  \nstep 10: done\n'
  )


def test_progress_to_nowhere(capsys):
  progress.Progress(0, 10, 1, out=None).update(5, {'d_loss': 1.0})
  assert capsys.readouterr() == ('', '')


def test_tensorboard_events_can_be_read_back(tmp_path):
  events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  writer = logs.TensorBoard(str(tmp_path))
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
  writer = files.Null()
  writer.write({'step': 1})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_importing_report_is_light(tmp_path):
  """Sampling imports it, where there is no TensorFlow and no time for Matplotlib."""
  code = (
    'import sys; from bigjax.training.records import logs\n'
    "logs.TensorBoard('unused').close()\n"
    "heavy = {'tensorflow', 'matplotlib', 'clu'} & set(sys.modules)\n"
    'assert not heavy, heavy'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('line', [b'5', b'\xff\xfe', b'[' * 100_000, b'{"step": 1'])
def test_damaged_rows_get_a_sentence(tmp_path, line):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1}\n' + line + b'\n')
  with pytest.raises(errors.UserError, match='is damaged at'):
    files.read_rows(str(path))
  path.write_bytes(b'[' * 100_000)
  with pytest.raises(errors.UserError, match='cannot be read'):
    files.read_json(str(path))


def test_a_cache_is_whole_or_nothing(tmp_path, monkeypatch, capsys):
  path, arrays = str(tmp_path / 'a' / 'x.npz'), {'p/q': np.arange(3), 'r': np.float32([[0.1]])}
  assert files.read_cache(path) is None
  files.write_cache(path, arrays, 'it')
  found = files.read_cache(path)
  assert set(found) == set(arrays) and capsys.readouterr().err == ''
  assert all(found[k].dtype == a.dtype and (found[k] == a).all() for k, a in arrays.items())
  before = (tmp_path / 'a' / 'x.npz').read_bytes()
  monkeypatch.setattr(files.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
  files.write_cache(path, {'other': np.zeros(9)}, 'it')
  assert 'warning: it cannot be kept' in capsys.readouterr().err
  files.write_cache(path, {'other': np.zeros(9)})
  assert capsys.readouterr().err == ''
  assert [p.name for p in (tmp_path / 'a').iterdir()] == ['x.npz']  # and nothing partial
  assert (tmp_path / 'a' / 'x.npz').read_bytes() == before
  (tmp_path / 'a' / 'x.npz').write_bytes(before[: len(before) // 2])
  assert files.read_cache(path) is None


def test_sizes_for_people():
  assert progress.size(41 * 2**20) == '41 MiB' and progress.size(3.25 * 2**30) == '3.25 GiB'


def test_whether_a_folder_can_be_written(tmp_path):
  assert files.unwritable(str(tmp_path / 'new' / 'folder')) == ''
  assert list((tmp_path / 'new' / 'folder').iterdir()) == []
  (tmp_path / 'file').write_text('')
  assert files.unwritable(str(tmp_path / 'file' / 'folder')) == 'Not a directory'
