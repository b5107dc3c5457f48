"""What is said while something takes long."""

import contextlib
import io
import json
import sys
import time
import types

import pytest

from bigjax.core import device, progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize('usual', [None, 130.0])
def test_what_takes_long_says_for_how_long_it_has(monkeypatch, usual):
  monkeypatch.setattr(sys, 'stderr', io.StringIO())
  monkeypatch.setattr(progress, 'PATIENCE', 0.05)
  with progress.ticking('compiling the step', usual):
    time.sleep(0.25)
  lines = sys.stderr.getvalue().splitlines()
  assert 1 <= len(lines) <= 3  # ever more seldom
  assert lines[0] == 'compiling the step, 0s so far' + (', usually 2m10s' if usual else '')


def test_what_is_quick_or_waited_for_by_nobody_says_nothing(monkeypatch):
  for stream in (io.StringIO(), Terminal()):
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setattr(progress, 'PATIENCE', 0.01 if stream.isatty() else 9.0)
    with progress.ticking('compiling', shown=not stream.isatty()):
      time.sleep(0.05)
    assert stream.getvalue() == ''


def test_compilations_are_expected_to_take_what_the_last_took(tmp_path, monkeypatch):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  monkeypatch.setattr(device, 'device_kind', lambda: 'a kind')
  said = []
  see = lambda what, usual, shown: said.append(usual) or contextlib.nullcontext()
  monkeypatch.setattr(progress, 'ticking', see)
  clock = iter([0, 20, 100, 101, 200, 200])  # the second is too quick: it may have been cached
  monkeypatch.setattr(device, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))
  for length in (1000, 500, 2000):
    with device.compiling('', length):
      pass
  assert said == [None, 10, 40]
  assert json.loads((tmp_path / device.RATES).read_text())['a kind'] == 20_000


@pytest.mark.parametrize('content', ['', '[]', '{"cpu": "x"}', '{"cpu": null}', '{"cpu": NaN}'])
def test_a_damaged_note_of_compilations_is_no_error(tmp_path, monkeypatch, content):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  (tmp_path / device.RATES).write_text(content)
  entered = False
  with device.compiling('', 1000):
    entered = True
  assert entered
  assert (tmp_path / device.RATES).read_text() == content  # what compiles at once measures nothing


def test_what_the_first_item_sets_up_is_no_measure_of_the_rest(monkeypatch, capsys):
  clock = iter([0, 0, 100, 102, 104, 106])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  list(progress.counted(range(5), 'photos'))
  assert capsys.readouterr().err.splitlines()[0] == 'photos: 2 of 5, 6s left'
