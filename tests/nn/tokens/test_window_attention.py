"""Attention in windows: cutting, shifting, masks, biases, and Swin's own numbers (swin_blocks)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import trees
from bigjax.nn import resizing
from bigjax.nn.tokens import layers
from bigjax.nn.tokens import window_attention as wa

from golden_files import golden, under


def numbered(height, width, channels=1):
  """A map whose tokens are numbers, row by row."""
  return jnp.arange(height * width * channels, dtype=jnp.float32).reshape(
    1, height, width, channels
  )


@pytest.mark.parametrize(('height', 'width', 'side'), [(8, 8, 4), (4, 8, 2), (6, 6, 6)])
def test_windows_are_cut_row_by_row_and_put_together_again(height, width, side):
  x = numbered(height, width, 3)
  cut = wa.partition(x, side)
  assert cut.shape == (1, height * width // side**2, side**2, 3)
  for i, window in enumerate(np.asarray(cut[0])):
    top, left = divmod(i, width // side)
    want = x[0, top * side : (top + 1) * side, left * side : (left + 1) * side]
    np.testing.assert_array_equal(window, want.reshape(-1, 3))
  np.testing.assert_array_equal(wa.merge(cut, height, width), x)


@pytest.mark.parametrize(('height', 'side', 'shift'), [(8, 4, 2), (8, 4, 1), (4, 2, 1), (16, 8, 4)])
def test_the_mask_by_brute_force(height, side, shift):
  """Two tokens of a window of the shifted map see each other where the shift took both alike."""
  region = wa.regions(height, height, side, shift)
  seen = region[:, :, None] == region[:, None]
  at = np.stack(np.meshgrid(np.arange(height), np.arange(height), indexing='ij'), -1)
  rolled = np.roll(at, (-shift, -shift), (0, 1))
  jumps = (rolled - at - shift) // height  # -1 along an axis where it went around the edge
  both = jnp.asarray(jumps[None], jnp.float32)
  cut = np.asarray(wa.partition(both, side))[0]
  for window, (mask, moved) in enumerate(zip(seen, cut, strict=True)):
    for q in range(side**2):
      for k in range(side**2):
        assert mask[q, k] == (moved[q] == moved[k]).all(), (window, q, k)
  assert (seen == seen.swapaxes(1, 2)).all() and seen[:, range(side**2), range(side**2)].all()
  assert seen[0].all() and not seen[-1].all()


def test_offsets_have_an_entry_each():
  """Closed form of the index: (dy + s - 1)(2 s - 1) + dx + s - 1; the bias only picks."""
  side = 3
  table = jnp.arange((2 * side - 1) ** 2, dtype=jnp.float32)[:, None]
  index = np.asarray(wa.relative_bias(table, side))[0]
  for q in range(side**2):
    for k in range(side**2):
      dy, dx = np.subtract(divmod(q, side), divmod(k, side))
      assert index[q, k] == (dy + side - 1) * (2 * side - 1) + dx + side - 1
  assert set(index.ravel()) == set(range((2 * side - 1) ** 2))
  centre = len(table) // 2
  np.testing.assert_array_equal(index - centre, -(index - centre).T)


def attention(side=8, **fields):
  """(module, its parameters, all random, a map of 8 channels)."""
  net = wa.WindowAttention(2, **fields)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(1, side, side, 8)), jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)['params']
  rng = np.random.default_rng(0)
  return net, jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes), x


def changed_by(net, params, x, at):
  """Which tokens of the output change with one of the input, [H, W]."""
  run = jax.jit(lambda x: net.apply({'params': params}, x))
  y, x = run(x), x.at[0, *at].add(1.0)
  return np.asarray((run(x) != y).any(-1))[0]


def test_a_token_is_seen_in_its_window_alone():
  net, params, x = attention(window=4)
  want = np.zeros((8, 8), bool)
  want[:4, 4:] = True
  np.testing.assert_array_equal(changed_by(net, params, x, (1, 5)), want)


def test_shifted_windows_cross_borders_but_not_the_edge():
  net, params, x = attention(window=4, shift=2)
  want = np.zeros((8, 8), bool)
  want[2:6, 2:6] = True  # a window of the middle
  np.testing.assert_array_equal(changed_by(net, params, x, (3, 4)), want)
  corner = np.zeros((8, 8), bool)
  corner[:2, :2] = True  # in one window with all other corners
  np.testing.assert_array_equal(changed_by(net, params, x, (0, 1)), corner)


def test_a_window_as_large_as_the_map_is_global_attention():
  """Nothing is shifted, and the result is plain attention of all tokens, by NumPy."""
  net, params, x = attention(4, window=8, shift=4)
  got = jax.jit(net.apply)({'params': params}, x)
  p = {name: np.asarray(leaf, np.float64) for name, leaf in trees.flat(params).items()}
  tokens = np.asarray(x, np.float64).reshape(16, 8)
  q, k, v = np.split(tokens @ p['qkv/kernel'] + p['qkv/bias'], 3, axis=1)
  bias, out = np.asarray(wa.relative_bias(params['relative_position_bias_table'], 4)), []
  for head in range(2):
    of = slice(4 * head, 4 * head + 4)
    weights = np.exp(q[:, of] @ k[:, of].T / 2 + bias[head])
    out.append(weights / weights.sum(1, keepdims=True) @ v[:, of])
  want = np.concatenate(out, 1) @ p['proj/kernel'] + p['proj/bias']
  np.testing.assert_allclose(got.reshape(16, 8), want, rtol=1e-4, atol=1e-4)
  blind = net.clone(relative=False)
  assert (
    'relative_position_bias_table' not in jax.eval_shape(blind.init, jax.random.key(0), x)['params']
  )


def test_logits_are_float32_in_a_narrow_network():
  net, params, x = attention(window=4, shift=2, dtype=jnp.bfloat16)
  program = jax.make_jaxpr(lambda x: net.apply({'params': params}, x))(x)
  lines = [line for line in str(program).splitlines() if '= exp ' in line]
  assert lines and all(':f32[' in line for line in lines)
  # Of [1, windows, heads, tokens, tokens]: queries by keys, and nothing rounds them before.
  dots = [line for line in str(program).splitlines() if '[1,4,2,16,16] = dot_general[' in line]
  assert len(dots) == 1 and ':f32[1,4,2,16,16]' in dots[0]
  assert program.out_avals[0].dtype == jnp.bfloat16


def test_tokens_are_doubled_as_torch_does():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 5)), jnp.float32)
  want = resizing.resize(x, 6, 'torch_bilinear')
  np.testing.assert_allclose(jax.jit(layers.bilinear)(x), want, rtol=1e-5, atol=1e-6)
  assert jax.eval_shape(layers.bilinear, x[:, :, :2]).shape == (2, 6, 4, 5)


# --- the numbers of the authors' Swin


def close(ours, theirs, rtol=1e-5):
  np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=rtol * np.abs(theirs).max())


def test_windows_and_merging_are_swins(x64):
  arrays = golden('swin_blocks')
  side = arrays['window_partition_indices'].shape[-1]
  height = round(arrays['window_partition_indices'].size ** 0.5)
  cut = wa.partition(numbered(height, height), side).reshape(-1, side, side)
  np.testing.assert_array_equal(cut, arrays['window_partition_indices'])
  region = wa.regions(8, 8, 4, int(arrays['shifted/effective_shift']))
  seen = region[:, :, None] == region[:, None]
  np.testing.assert_array_equal(seen, arrays['shifted/attn_mask_allowed'])
  for name, size in (('plain', 4), ('window_ge_resolution', 8)):
    count = jnp.arange((2 * size - 1) ** 2, dtype=jnp.float64)[:, None]
    index = arrays[f'{name}/relative_position_index']
    np.testing.assert_array_equal(wa.relative_bias(count, size)[0], index)
  w = {k: jnp.asarray(a.T, jnp.float64) for k, a in under(arrays, 'patch_merging/w/').items()}
  params = {
    'norm': {'gain': w['norm.weight'], 'bias': w['norm.bias']},
    'reduction': {'kernel': w['reduction.weight']},
  }
  x = jnp.asarray(arrays['in/x'], jnp.float64).reshape(2, 8, 8, 12)
  net = layers.PatchMerging(24, jnp.float64)
  got = jax.jit(functools.partial(net.apply, {'params': params}))(x)
  close(got.reshape(2, 16, 24), arrays['patch_merging/out'])
