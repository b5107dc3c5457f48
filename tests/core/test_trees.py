"""Trees by path, errors that suggest, periods, durations and hashes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, files, progress, trees


class Moments(NamedTuple):
  mu: dict
  count: int


NESTED = {'b': {'x': 1, 'y': {'z': 2}}, 'a': 3}
FLAT = {'a': 3, 'b/x': 1, 'b/y/z': 2}


def test_flat_and_nest_are_inverse():
  assert trees.flat(NESTED) == FLAT
  assert list(trees.flat(NESTED)) == list(FLAT)  # tree order
  assert trees.nest(FLAT) == NESTED


def test_paths_through_sequences_and_attributes():
  tree = {'opt': (Moments({'w': 1.0}, 2), [3])}
  assert trees.flat(tree) == {'opt/0/mu/w': 1.0, 'opt/0/count': 2, 'opt/1/0': 3}


def test_map_paths_keeps_the_structure():
  tree = (Moments({'w': 10}, 20),)
  mapped = trees.map_paths(lambda path, leaf: f'{path}={leaf}', tree)
  assert mapped == (Moments({'w': '0/mu/w=10'}, '0/count=20'),)


@pytest.mark.parametrize(
  ('given', 'hint'),
  [('trian', ' (did you mean train?)'), ('train', ' (did you mean train?)'), ('zzz', '')],
)
def test_did_you_mean(given, hint):
  known = ['sample', 'train']
  assert errors.did_you_mean(given, known) == hint


def test_pick_returns_the_object_or_says_what_there_is():
  table = {'hinge': object(), 'logistic': object()}
  assert errors.pick('hinge', table, 'the loss') is table['hinge']
  with pytest.raises(errors.UserError) as error:
    errors.pick('hnige', table, 'the loss')
  assert str(error.value) == (
    "the loss is 'hnige' (did you mean hinge?); expected one of: hinge, logistic."
  )


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0s'),
    (41.4, '41s'),
    (59.4, '59s'),
    (59.6, '1m00s'),  # not 60s
    (185, '3m05s'),
    (3599.6, '1h00m'),
    (2 * 3600 + 7 * 60 + 59, '2h07m'),
    (86399.6, '1d00h'),
    (3 * 86400 + 4 * 3600 + 3599, '3d04h'),
  ],
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


@pytest.mark.parametrize(
  ('step', 'every', 'expected'),
  [(20, 10, True), (25, 10, False), (1, 1, True), (0, 10, True), (7, 0, False), (0, 0, False)],
)
def test_due(step, every, expected):
  assert progress.due(step, every) is expected


def test_stable_hash_is_crc32_in_every_process():
  # The check value of CRC-32 (ISO 3309) is 0xCBF43926; the top bit is dropped.
  assert trees.stable_hash('123456789') == 0x4BF43926
  assert 0 <= trees.stable_hash('image') < 2**31


@pytest.mark.parametrize('keep', [True, False])
def test_select_takes_one_tree_whole(keep):
  new = {'w': jnp.array([jnp.nan, 1.0]), 'count': (jnp.int32(5),)}
  old = {'w': jnp.array([2.0, 3.0]), 'count': (jnp.int32(4),)}
  chosen = jax.jit(trees.select)(jnp.bool_(keep), new, old)
  expected = new if keep else old
  np.testing.assert_array_equal(chosen['w'], expected['w'])
  assert chosen['count'][0] == expected['count'][0]
  assert jax.tree.map(lambda x: x.dtype, chosen) == jax.tree.map(lambda x: x.dtype, old)


def test_at_least_float32():
  for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
    x = trees.at_least_float32(jnp.array([1.5, -2.0], dtype))
    assert x.dtype == jnp.float32 and x.tolist() == [1.5, -2.0]
  with jax.enable_x64(True):
    assert trees.at_least_float32(jnp.zeros(2, jnp.float64)).dtype == jnp.float64


def test_cache_dir_follows_the_environment(monkeypatch):
  monkeypatch.delenv('BIGJAX_CACHE', raising=False)
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setenv('HOME', '/home/someone')
  assert files.cache_dir() == '/home/someone/.cache/bigjax'
  monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
  assert files.cache_dir() == '/xdg/bigjax'
  monkeypatch.setenv('BIGJAX_CACHE', '/mine')
  assert files.cache_dir() == '/mine'
