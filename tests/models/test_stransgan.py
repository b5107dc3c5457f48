"""Strans-G and Strans-D: Swin's own numbers, what the specification asserts, counts, first steps.

Of what is known of the paper, these cannot be tested: its scores (no code, no settings, no
hardware), which placement of AdaNorm-T it settled on, and its widths, windows and depths, which are
ours. That shortcuts and branches are of one order is tested of our initialisation alone: what the
paper says of later, without SkipProj, takes runs.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.models import stransgan
from bigjax.nn.tokens import layers
from bigjax.nn.tokens.window_attention import WindowAttention

from counts import num_params
from golden_files import golden, under
from networks import (
  LABELS,
  assert_same_gradients,
  disc_shapes,
  f32,
  gen_shapes,
  latents,
  loss_and_gradients,
  pictures,
  weights,
)

TINY = {'ch': 1, 'blocks': 1, 'head_dim': 8, 'window': 4}
shapes_of_gen = functools.partial(gen_shapes, network=stransgan)
shapes_of_disc = functools.partial(disc_shapes, network=stransgan)


# --- counts


def linear(before, after):
  return before * after + after


def block(width, heads, window, norms):
  """Parameters of attention, MLP and norms; `window` 0: no bias by offset."""
  attention = (
    linear(width, 3 * width) + linear(width, width) + heads * (2 * window - 1) ** 2 * (window > 0)
  )
  return attention + linear(width, 4 * width) + linear(4 * width, width) + norms


def gen_count(resolution, classes, z_dim=128, shared=128):
  """By arithmetic, of the default widths: 512 channels up to 16 px, then halved."""
  widths = {4: 512, 8: 512, 16: 512, 32: 256, 64: 128, 128: 64, 256: 32}
  total = linear(z_dim, 512) + linear(512, 16 * 512) + 16 * 512  # and positions
  total += classes * shared if classes > 1 else 0
  for side in (side for side in widths if side <= resolution):
    width = widths[side]
    window = 0 if side <= 16 else 8 if side == 32 else 16
    given = z_dim + shared
    norms = 4 * width if classes == 1 else 2 * width + 2 * 2 * given * width
    total += 2 * block(width, width // 32, window, norms)
    total += linear(2 * width, width) if side > 16 else 0
  return total + 2 * width + linear(width, 3)


def disc_count(resolution, classes):
  """The same; convolutions end at 32 px."""
  widths = {256: 32, 128: 64, 64: 128, 32: 256, 16: 512, 8: 512, 4: 512}
  convolution = lambda before, after: 9 * before * after + after
  total = convolution(3, widths[resolution]) + convolution(widths[resolution], widths[resolution])
  for side, width in widths.items():
    if 32 <= side < resolution:
      total += convolution(widths[2 * side], width)
    if side < 32:
      before = 4 * widths[2 * side]
      total += 2 * before + before * width
    if side <= 32:
      total += 2 * (block(width, width // 32, min(side, 8), 4 * width) + 2 * width**2)
  return total + 2 * 512 + 513 + (classes * 512 if classes > 1 else 0)


@pytest.mark.parametrize(
  ('resolution', 'classes', 'gen', 'disc'),
  [
    (32, 10, 28_570_899, 27_156_849),
    (64, 1, 25_343_259, 27_000_817),
    (256, 1, 25_484_257, 26_952_145),
    (128, 1000, 29_638_303, 27_474_225),
  ],
)
def test_parameter_counts(resolution, classes, gen, disc):
  assert num_params(shapes_of_gen(resolution, classes)) == gen == gen_count(resolution, classes)
  assert num_params(shapes_of_disc(resolution, classes)) == disc == disc_count(resolution, classes)


# --- blocks


def ours(arrays):
  """Swin's weights by the names of a block here; linear layers the other way round."""
  found = {}
  for name, a in arrays.items():
    path = name.replace('.', '/').replace('norm1/weight', 'norm1/gain')
    path = path.replace('norm2/weight', 'norm2/gain').replace('/weight', '/kernel')
    found[path] = jnp.asarray(a.T if path.endswith('/kernel') else a, jnp.float64)
  return trees.nest(found)


@pytest.mark.parametrize(
  ('name', 'window', 'shift'), [('plain', 4, 0), ('shifted', 4, 2), ('window_ge_resolution', 8, 4)]
)
def test_a_block_without_a_condition_is_swins(name, window, shift, x64):
  """Outputs and gradients of the authors' code, in float64."""
  arrays = golden('swin_blocks')
  params = ours(under(arrays, f'{name}/w/'))
  net = stransgan.GenBlock(3, window, shift, dtype=jnp.float64)
  square = lambda key: jnp.asarray(arrays[key], jnp.float64).reshape(2, 8, 8, 12)

  @jax.jit
  def run(params, x):
    out, pullback = jax.vjp(lambda params, x: net.apply({'params': params}, x), params, x)
    return out, pullback(square('in/cotangent'))

  out, (grads, grad_x) = run(params, square('in/x'))
  for got, want in ((out, 'out'), (grad_x, 'grad_x')):
    want = arrays[f'{name}/{want}']
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=1e-5 * abs(want).max())
  wanted, found = ours(under(arrays, f'{name}/grad/')), trees.flat(grads)
  assert found.keys() == trees.flat(wanted).keys()
  whole = np.sqrt(sum(np.square(g).sum() for g in trees.flat(wanted).values()))
  for path, want in trees.flat(wanted).items():
    error = np.linalg.norm(found[path] - want)
    assert error <= 1e-5 * max(np.linalg.norm(want), 1e-4 * whole), path


def given_block(net, seed=0, c_dim=3, side=4, width=8, conditional=True):
  """(random parameters, x, c) of a block; c is None where it has no condition."""
  rng = np.random.default_rng(seed)
  x, c = (
    jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, side, side, width), (2, c_dim))
  )
  c = c if conditional and isinstance(net, stransgan.GenBlock) else None
  args = (x,) if c is None else (x, c)
  return weights(jax.eval_shape(net.init, jax.random.key(0), *args)['params'], seed), x, c


def silent(params):
  """With both branches 0."""
  ends = ('proj/kernel', 'proj/bias', 'fc2/kernel', 'fc2/bias')
  return trees.map_paths(lambda path, w: 0 * w if path.endswith(ends) else w, params)


def normal(x, axes):
  x = np.asarray(x, np.float64)
  return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize(
  ('kind', 'axes'), [('layer', -1), ('instance', (1, 2)), ('batch', (0, 1, 2))]
)
def test_adanorm_in_closed_form(kind, axes):
  net = stransgan.AdaNorm(kind, train=True)
  rng = np.random.default_rng(0)
  x, c = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 2, 2, 4), (3, 5)))
  params = weights(jax.eval_shape(net.init, jax.random.key(0), x, c)['params'])
  got = jax.jit(net.apply)({'params': params}, x, c)
  gain, bias = (np.asarray(c @ params[name]['kernel'])[:, None, None] for name in ('gain', 'bias'))
  np.testing.assert_allclose(got, normal(x, axes) * (1 + gain) + bias, rtol=1e-4, atol=1e-4)


def by_hand(net, p, x, c):
  """The formulas of GenBlock and DiscBlock, from their sub-modules."""
  attend = lambda x: WindowAttention(net.heads, net.window).apply({'params': p['attn']}, x)
  mlp = lambda x: layers.Mlp().apply({'params': p['mlp']}, x)
  each = lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
  affine = lambda name, x: each(x) * p[name]['gain'] + p[name]['bias']
  given = lambda name, part: (c @ p[name][part]['kernel'])[:, None, None]
  ada = lambda name, x: each(x) * (1 + given(name, 'gain')) + given(name, 'bias')
  leaky = lambda x: jnp.where(x > 0, x, 0.2 * x)
  if isinstance(net, stransgan.DiscBlock):
    x = leaky(attend(affine('norm1', x))) + x @ p['skip1']['kernel']
    return leaky(mlp(affine('norm2', x))) + x @ p['skip2']['kernel']
  if c is None:
    x = x + attend(affine('norm1', x))
    return x + mlp(affine('norm2', x))
  if net.adanorm_t == 'a':
    x = x + attend(ada('norm1', x))
    return x + mlp(ada('norm2', x))
  attended = attend(affine('norm1', x))
  x = ada('norm2', x + (ada('norm_attn', attended) if net.adanorm_t == 'c' else attended))
  return x + mlp(x)


@pytest.mark.parametrize(
  ('net', 'conditional'),
  [(stransgan.GenBlock(2, 4, adanorm_t=placement), True) for placement in stransgan.PLACEMENTS]
  + [(stransgan.GenBlock(2, 4), False), (stransgan.DiscBlock(2, 4), False)],
  ids=['a', 'b', 'c', 'unconditional', 'disc'],
)
def test_blocks_in_closed_form(net, conditional):
  params, x, c = given_block(net, conditional=conditional)

  @jax.jit
  def run(params, x, c):
    args = (x,) if c is None else (x, c)
    with jax.numpy_rank_promotion('allow'):
      want = by_hand(net, params, x, c)
    return net.apply({'params': params}, *args), want

  got, want = run(params, x, c)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('placement', stransgan.PLACEMENTS)
def test_where_a_condition_enters(placement):
  """Of branches that say nothing: a leaves the trunk alone, b and c normalise it."""
  net = stransgan.GenBlock(2, 4, adanorm_t=placement)
  params, x, c = given_block(net)
  assert ('norm_attn' in params) == (placement == 'c')
  run = jax.jit(net.apply)
  got = run({'params': silent(params)}, x, c)
  of = lambda name, part: np.asarray(c @ params[name][part]['kernel'])[:, None, None]
  want = np.asarray(x)
  if placement == 'c':
    want = want + of('norm_attn', 'bias')  # of attention that is 0, which normalised is 0, too
  if placement != 'a':
    want = normal(want, -1) * (1 + of('norm2', 'gain')) + of('norm2', 'bias')
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  moved = run({'params': params}, x, 2 * c) - run({'params': params}, x, c)
  assert np.abs(moved).max() > 1e-2


@pytest.mark.parametrize('start', stransgan.SKIPS)
def test_shortcuts_are_projected(start):
  net = stransgan.DiscBlock(2, 4, skip_init=start)
  params, x, _ = given_block(net)
  run = jax.jit(net.apply)
  got = run({'params': silent(params)}, x)
  want = x @ params['skip1']['kernel'] @ params['skip2']['kernel']
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert np.abs(got - x).max() > 0.1
  fresh = jax.jit(net.init)(jax.random.key(0), x)['params']
  begun = run({'params': silent(fresh)}, x)
  assert np.allclose(begun, x, atol=1e-6) == (start == 'identity')


def test_ratios_are_norms_of_shortcuts_over_branches():
  """By hand, of each layer: what it adds to its shortcut is what is left of its output."""
  net = stransgan.DiscBlock(2, 4)
  params, x, _ = given_block(net)
  out, sown = jax.jit(functools.partial(net.apply, mutable=['norms']))({'params': params}, x)
  apart = trees.map_paths(lambda p, w: 0 * w if p.startswith('mlp') else w, params)
  after = jax.jit(net.apply)({'params': apart}, x) @ np.linalg.inv(params['skip2']['kernel'])
  skips = x @ params['skip1']['kernel'], after @ params['skip2']['kernel']
  for name, skip, total in (('attn', skips[0], after), ('mlp', skips[1], out)):
    got = np.asarray(sown['norms'][f'of_{name}'])
    want = np.stack([np.square(a).sum((1, 2, 3)) for a in (skip, total - skip)], -1)
    assert got.shape == (2, 2)
    np.testing.assert_allclose(got, want, rtol=1e-3)
  assert set(jax.eval_shape(net.init, jax.random.key(0), x)) == {'params'}


# --- whole networks


def test_of_one_class_labels_change_nothing():
  net = stransgan.Generator(8, 1, z_dim=6, **TINY)
  shapes = shapes_of_gen(8, 1, z_dim=6, **TINY)
  assert 'shared' not in shapes and set(shapes['blocks4_0']['norm1']) == {'gain', 'bias'}
  run = lambda p, z, y: net.apply({'params': p}, z, y, train=True)
  assert 'gather' not in str(jax.make_jaxpr(run)(shapes, f32(2, 6), LABELS))


def test_where_attention_is_global_and_where_in_windows():
  shapes = shapes_of_gen(64, 1)
  has = lambda side: 'relative_position_bias_table' in shapes[f'blocks{side}_0']['attn']
  assert [has(side) for side in (4, 8, 16, 32, 64)] == [False] * 3 + [True] * 2
  tables = {
    name: of['attn']['relative_position_bias_table'].shape
    for name, of in shapes_of_disc(64, 1).items()
    if name.startswith('blocks')
  }
  assert set(tables) == {f'blocks{side}_{i}' for side in (32, 16, 8, 4) for i in (0, 1)}
  assert tables['blocks32_1'] == (225, 8) and tables['blocks4_0'] == (49, 16)
  assert 'down32' in shapes_of_disc(64, 1) and 'down16' not in shapes_of_disc(64, 1)
  assert [stransgan.heads_of(width, 32, 8) for width in (16, 32, 96)] == [1, 1, 3]
  for width, head_dim in ((32, 5), (32, 20), (48, 32)):
    with pytest.raises(errors.UserError, match=f'head_dim is {head_dim}, .* {width} channels'):
      stransgan.heads_of(width, head_dim, 8)


def windows(net, *args, **kwargs):
  """{block: (window, shift, whether it has a bias by offset)} of a network, by what it calls."""
  found = {}

  def note(next_call, args, kwargs, context):
    if isinstance(context.module, WindowAttention):
      module = context.module
      found[module.path[0]] = module.window, module.shift, module.relative
    return next_call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(lambda: net.init(jax.random.key(0), *args, **kwargs))
  return found


def test_every_second_block_in_windows_is_shifted():
  """Of global ones, a shift is none; offsets have a bias where there are windows, and in D."""
  tiny, y = {'ch': 2, 'head_dim': 32}, jnp.zeros((1,), jnp.int32)
  gen = windows(stransgan.Generator(64, 1, **tiny), latents(1, 128), y, train=True)
  assert [gen[f'blocks32_{i}'] for i in (0, 1)] == [(8, 0, True), (8, 4, True)]
  assert [gen[f'blocks64_{i}'] for i in (0, 1)] == [(16, 0, True), (16, 8, True)]
  assert {side: gen[f'blocks{side}_0'] for side in (4, 8, 16)} == {
    side: (side, 0, False) for side in (4, 8, 16)
  }
  assert not gen['blocks16_1'][2]
  disc = windows(stransgan.Discriminator(64, 1, **tiny), jnp.zeros((1, 64, 64, 3)), y)
  assert all(relative for _, _, relative in disc.values())
  for side in (32, 16):
    assert [disc[f'blocks{side}_{i}'][:2] for i in (0, 1)] == [(8, 0), (8, 4)]
  assert disc['blocks8_0'][0] == 8 and disc['blocks4_0'][0] == 4


def test_the_discriminator_sees_the_class():
  """By its projection: scores differ by (e[y] - e[y']) . h; of features all 0, the bias is left."""
  net = stransgan.Discriminator(8, 3, disc_resolution=4, **TINY)
  shapes = shapes_of_disc(8, 3, disc_resolution=4, **TINY)
  params, x = weights(shapes), pictures(2, 8)
  kept = lambda module, method: module.path == ('norm',) and method == '__call__'

  @jax.jit
  def run(params, x, y, mask):
    return net.apply(
      {'params': params}, x, y, mask, capture_intermediates=kept, mutable=['intermediates']
    )

  one, two = jnp.asarray([0, 1]), jnp.asarray([2, 0])
  whole = jnp.ones((2, net.num_features))
  score, seen = run(params, x, one, whole)
  h = np.asarray(seen['intermediates']['norm']['__call__'][0]).mean((1, 2))
  table = np.asarray(params['embed']['embedding'])
  want = ((table[one] - table[two]) * h).sum(1)
  assert np.abs(want).min() > 1e-2
  np.testing.assert_allclose(score - run(params, x, two, whole)[0], want, rtol=1e-3, atol=1e-4)
  bias = params['linear']['bias'][0]
  np.testing.assert_allclose(run(params, x, one, 0 * whole)[0], [bias, bias], rtol=1e-6)
  assert 'embed' not in shapes_of_disc(8, 1, disc_resolution=4, **TINY)


def test_microbatches_and_remat_change_no_gradient(x64):
  fields = {'resolution': 8, 'z_dim': 6, 'shared_dim': 3, 'global_resolution': 4, **TINY}
  got = loss_and_gradients(stransgan, None, rolled=True, microbatches=4, remat=True, **fields)
  want = loss_and_gradients(stransgan, None, rolled=True, **fields)
  assert_same_gradients(got, want, rtol=1e-10)


@functools.cache
def begun():
  """(Both networks at 8 px, fresh parameters), of windows of 4."""
  nets = {
    'gen': stransgan.Generator(8, 3, z_dim=16, shared_dim=3, global_resolution=4, **TINY),
    'disc': stransgan.Discriminator(8, 3, disc_resolution=4, **TINY),
  }
  y = jnp.arange(2)
  params = {
    'gen': jax.jit(lambda key: nets['gen'].init(key, latents(2, 16), y, train=True)['params']),
    'disc': jax.jit(lambda key: nets['disc'].init(key, pictures(2, 8), y)['params']),
  }
  return nets, {name: init(jax.random.key(1)) for name, init in params.items()}


def test_slopes_at_the_start_are_moderate_where_images_are_0():
  """R1's squared slopes of images as DiffAugment leaves them: one with a hole, one all 0.

  Without the stem's bias they are not; and an image has no slope from another's score.
  """
  nets, params = begun()
  y, holed = jnp.arange(2), pictures(2, 8).at[0, 2:6, 2:6].set(0).at[1].set(0)

  @jax.jit
  def scored(params, x):
    def score(x):
      scores = nets['disc'].apply({'params': params}, x, y)
      return scores.sum(), scores

    slopes, scores = jax.grad(score, has_aux=True)(x)
    return jnp.square(slopes).sum((1, 2, 3)), scores

  found, scores = scored(params['disc'], holed)
  assert (found > 1e-4).all() and (found < 100).all(), found
  without = trees.map_paths(lambda p, w: 0 * w if p == 'conv0/bias' else w, params['disc'])
  assert scored(without, holed)[0][1] > 1e6
  other = scored(params['disc'], holed.at[0].set(1))[1]
  assert other[1] == scores[1] and other[0] != scores[0]


def test_branches_are_of_the_order_of_their_shortcuts_at_the_start():
  """So are z and the class in what blocks are conditioned on, and the first tokens beside both."""
  nets, params = begun()
  y = jnp.arange(2)

  @jax.jit
  def energies(params):
    of_gen = nets['gen'].apply(
      {'params': params['gen']}, latents(2, 16), y, train=True, mutable=['norms', 'intermediates'],
      capture_intermediates=lambda module, _: module.name == 'mlp2',
    )  # fmt: skip
    of_disc = nets['disc'].apply({'params': params['disc']}, pictures(2, 8), y, mutable=['norms'])
    made = {'gen': of_gen[1]['norms'], 'disc': of_disc[1]['norms']}
    return made, of_gen[1]['intermediates']['mlp2']['__call__'][0]

  found, tokens = energies(params)
  rms = lambda x: np.sqrt(np.square(x).mean())
  assert 0.7 < rms(tokens) < 1.3 and 0.1 < rms(params['gen']['position']) < 0.3
  assert 0.5 < rms(params['gen']['shared']['embedding']) < 1.5
  found = trees.flat(found)
  assert len(found) == 2 * 2 + 2  # attention and MLP, at 4 and 8 px, of D at 4 px alone
  for path, each in found.items():
    skip, main = np.asarray(each).mean(0)
    most = {'gen': 3, 'disc': 6}[path.partition('/')[0]]  # of noise, what D attends to is a mean
    assert 0.3 < np.sqrt(skip / main) < most, path
