"""Parts of the wall clock exclude each other and add up to all of it."""

import threading

import jax
import jax.numpy as jnp
import pytest

from bigjax.training.records import stopwatch


class Clock:
  """A clock that a test moves."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  found = Clock()
  monkeypatch.setattr(stopwatch.time, 'monotonic', found)
  return found


def test_parts_within_parts_add_up(clock):
  watch = stopwatch.Stopwatch('start', began=90.0)
  clock.now += 1
  watch.goes_on('steps')
  clock.now += 10
  with watch.part('evaluation'):
    clock.now += 5
    with watch.part('logs'):
      clock.now += 2
    clock.now += 1
  clock.now += 4
  assert watch.read() == {'start': 11, 'steps': 14, 'evaluation': 6, 'logs': 2}
  assert sum(watch.read().values()) == clock.now - 90


def test_a_part_ends_where_an_error_leaves_it(clock):
  watch = stopwatch.Stopwatch('steps')
  with pytest.raises(KeyError), watch.part('evaluation'):
    clock.now += 3
    raise KeyError
  clock.now += 1
  assert watch.read() == {'steps': 1, 'evaluation': 3}


def test_what_is_known_later_is_moved_and_never_more_than_there_was(clock):
  watch = stopwatch.Stopwatch('steps')
  clock.now += 10
  watch.move(4, 'data')
  watch.move(100, 'data')
  assert watch.read() == {'steps': 0, 'data': 10}
  watch.clear()
  clock.now += 1
  assert watch.read() == {'steps': 1}


def test_traces_within_a_trace_are_counted_once(clock):
  """JAX tells of each trace when it ends, the inner ones first."""
  watch = stopwatch.Stopwatch('evaluation')
  tell = jax.monitoring.record_event_duration_secs
  trace = stopwatch.COMPILING + 'jaxpr_trace_duration'
  with stopwatch.compilations(watch, 'compilation'):
    clock.now += 10  # of which the last 6 are a trace, with two of 2 and 1 s in it
    clock.now -= 3
    tell(trace, 2.0)
    clock.now += 2
    tell(trace, 1.0)
    clock.now += 1
    tell(trace, 6.0)
    clock.now += 1
    tell('/jax/other', 1.0)
    thread = threading.Thread(target=tell, args=(trace, 1.0))  # keeps nobody waiting
    thread.start()
    thread.join()
  tell(trace, 1.0)  # no longer listened to
  assert watch.read() == {'evaluation': 5, 'compilation': 6}


def test_jax_tells_what_it_compiles():
  """By the names that are listened to; else compilation would silently be 0."""
  watch = stopwatch.Stopwatch('steps')
  with stopwatch.compilations(watch, 'compilation'):
    jax.jit(lambda x: jnp.sin(x) * 41.5)(jnp.ones(3)).block_until_ready()
  assert watch.read()['compilation'] > 0
