"""Resampling along an axis as a matrix, against convolutions written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import upfirdn

TAPS = np.array([1.0, 3.0, 4.0, -2.0, 0.5])


def by_convolution(x, taps, up, down, pad, flip):
  stuffed = np.zeros(len(x) * up)
  stuffed[::up] = x
  before, after = pad
  stuffed = np.pad(stuffed, (max(before, 0), max(after, 0)))
  stuffed = stuffed[max(-before, 0) : len(stuffed) - max(-after, 0)]
  return up * np.convolve(stuffed, taps[::-1] if flip else taps, 'valid')[::down]


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('pad', [(0, 0), (3, 2), (-1, 4)])
@pytest.mark.parametrize(('up', 'down'), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_fir_is_the_convolution(up, down, pad, flip):
  x = np.random.default_rng(0).normal(size=9)
  found = upfirdn.fir(9, TAPS, up, down, pad, flip) @ x
  np.testing.assert_allclose(found, by_convolution(x, TAPS, up, down, pad, flip), atol=1e-12)


@pytest.mark.parametrize(('size', 'before', 'after'), [(5, 4, 3), (4, 11, 9), (1, 2, 2)])
def test_mirror_is_numpys(size, before, after):
  x = np.arange(size) + 1.0
  np.testing.assert_array_equal(
    upfirdn.mirror(size, before, after) @ x, np.pad(x, (before, after), mode='reflect')
  )


def test_along_axes_takes_one_matrix_or_one_per_example():
  rng = np.random.default_rng(0)
  x, rows = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(2, 7, 5))
  columns = rng.normal(size=(6, 4))
  found = upfirdn.along_axes(rows, columns, jnp.asarray(x, jnp.float32))
  want = np.einsum('vw,bhwk->bhvk', columns, np.einsum('bhr,brwk->bhwk', rows, x))
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pad', [(0, 0), (3, 2), (1, 1), (-1, 4)])
@pytest.mark.parametrize(('up', 'down'), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)])
def test_shifted_sums_are_the_products(up, down, pad, x64):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)))
  rows, columns = (upfirdn.fir(size, TAPS, up, down, pad) for size in (7, 6))

  @jax.jit
  def both(x):
    return upfirdn.resample(x, TAPS, up, down, pad), upfirdn.along_axes(rows, columns, x)

  found, want = both(x)
  np.testing.assert_allclose(found, want, atol=1e-12)


def test_sums_of_narrow_numbers_are_wide():
  """In bfloat16 each sum of four would lose a bit or two."""
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 2)), jnp.bfloat16)
  run = jax.jit(lambda x: upfirdn.resample(x, [0.25, 0.75, 0.75, 0.25], up=2, pad=(2, 1)))
  found = run(x)
  assert found.dtype == jnp.bfloat16
  want = run(x.astype(jnp.float32))
  np.testing.assert_array_equal(found, want.astype(jnp.bfloat16))
