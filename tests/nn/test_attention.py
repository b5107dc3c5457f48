"""Every form of attention is the plain one, whatever the size of its logits; which is chosen where.

Sources: specs/biggan.md section 1.2; the guarantee of `row_shifts` is of elementary algebra.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import device
from bigjax.nn import attention

from plain import assert_same, rand, to_second_order


def of_attention(num=7):
  """Queries, keys and values, of which there are `num`."""
  return [rand(2, *shape, seed=i) for i, shape in enumerate([(12, 4), (num, 4), (num, 5)])]


def weighed(out):
  return (out * rand(*out.shape, seed=3).astype(out.dtype)).sum()


@pytest.mark.parametrize('shift', [0.0, 300.0])  # of the logits: exp of which overflows
def test_lean_attention_is_softmax_attention(x64, shift):
  """Values and gradients, and the gradient of a squared gradient."""
  args = queries, keys, _ = of_attention()
  queries[..., 0] = shift
  keys[..., 0] = 1.0
  forms = attention.attend_lean, attention.attend_plain
  got, want = (to_second_order(form, weighed, *args) for form in forms)
  assert_same(got, want)
  assert np.isfinite(got[0]).all() and np.abs(got[1][0]).max() > 1e-3


def test_lean_attention_in_bfloat16_is_as_near_as_plain():
  """Values and gradients: no farther from those of float32 than twice what plain ones are."""
  wide = *of_attention(), rand(2, 12, 5, seed=3)

  @functools.partial(jax.jit, static_argnums=0)
  def with_vjp(form, *args):
    out, vjp = jax.vjp(form, *args[:3])
    return out, *vjp(args[3])

  def everything(form, dtype):
    found = with_vjp(form, *(x.astype(dtype) for x in wide))
    assert found[0].dtype == dtype
    return [np.asarray(leaf, np.float32) for leaf in found]

  exact = everything(attention.attend_plain, jnp.float32)
  plain, lean = (
    everything(form, jnp.bfloat16) for form in (attention.attend_plain, attention.attend_lean)
  )
  for true, one, other in zip(exact, plain, lean, strict=True):
    assert np.abs(other - true).max() < 2 * np.abs(one - true).max() + 1e-3


@jax.custom_vjp
def once(queries, keys, values):
  """Attention whose gradient, like cuDNN's, has none."""
  return attention.attend_plain(queries, keys, values)


def _opaque(args, d_out):
  grads = lambda *args: jax.vjp(attention.attend_plain, *args[:3])[1](args[3])
  return jax.pure_callback(grads, args, *args, d_out)


once.defvjp(lambda *args: (once(*args), args), _opaque)


def test_attention_by_cudnn_can_be_differentiated_twice(x64, monkeypatch):
  monkeypatch.setattr(attention, '_cudnn', once)
  everything = lambda form: to_second_order(form, weighed, *of_attention())
  with pytest.raises(ValueError, match='JVP'):
    everything(once)
  assert_same(everything(attention.attend_fused), everything(attention.attend_plain))


@pytest.mark.parametrize(('width', 'columns'), [(12, 48), (3, 5), (24, 7)])
def test_what_cudnn_is_given_is_one_head_of_one_width(monkeypatch, width, columns):
  given, of_jax = [], jax.nn.dot_product_attention

  def stand_in(q, k, v, scale, implementation):
    given.extend(x.shape[2:] for x in (q, k, v))
    assert implementation == 'cudnn'
    return of_jax(q, k, v, scale=scale, implementation='xla')

  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  args = rand(2, 12, width), rand(2, 7, width, seed=1), rand(2, 7, columns, seed=2)
  args = [x.astype(np.float32) for x in args]
  got, want = jax.jit(lambda *args: (attention._cudnn(*args), attention.attend_plain(*args)))(*args)
  np.testing.assert_allclose(got, want, atol=1e-5)
  ((heads, widest),) = set(given)
  assert heads == 1 and widest % 8 == 0 and widest - max(width, columns) < 8


def test_attention_is_cudnns_where_it_can_be(monkeypatch):
  gpu = types.SimpleNamespace(device_kind='NVIDIA H200', compute_capability='9.0')
  chosen = []
  for form in ('attend_plain', 'attend_lean', 'attend_fused'):
    monkeypatch.setattr(attention, form, lambda *_, form=form: chosen.append(form))

  def choose(columns=48, dtype=jnp.bfloat16, traced_for=None, **other):
    here = types.SimpleNamespace(**vars(gpu) | other)
    monkeypatch.setattr(jax, 'local_devices', lambda: [here])
    traced_for = traced_for or here.device_kind
    monkeypatch.setattr(device, 'device_kind', lambda: traced_for)
    attention.attend(*(jnp.zeros((1, 4, width), dtype) for width in (12, 12, columns)))
    return chosen.pop().removeprefix('attend_')

  assert choose() == choose(128) == choose(compute_capability='8.0') == 'fused'
  assert choose(129) == choose(dtype=jnp.float32) == 'lean'
  assert choose(compute_capability='7.5') == choose(compute_capability='gfx942') == 'lean'
  assert choose(traced_for='TPU v3') == 'lean'
  assert choose(traced_for='cpu') == choose(traced_for='any') == 'plain'


SCALES = (1e-3, 1.0, 30.0, 1e3)
NUM = attention.SAMPLE  # the sample has every NUMth key


def ordinary(scale):
  return [scale * x for x in of_attention(2 * NUM + 3)[:2]]


def hidden(scale):
  """The largest logits of all rows are with a key that is not in the sample, the rest far below."""
  queries, keys = ordinary(scale)
  keys[:, NUM - 1] = 3 * scale * queries[:, 0] / np.linalg.norm(queries[:, :1], axis=-1)
  return queries, keys


def opposed(scale):
  """All logits are far below |q| |k|, since keys look away from queries."""
  queries, keys = ordinary(scale)
  queries[..., 0], keys[..., 0] = 3 * scale, -3 * scale
  return queries, keys


def mixed(scale):
  """Of two images one is of such a scale, the other small."""
  queries, keys = ordinary(scale)
  queries[1] *= 1e-3 / scale
  return queries, keys


KEYS = {fn.__name__: fn for fn in (ordinary, hidden, opposed, mixed)}
TOLERANCE = {jnp.float64: 1e-12, jnp.float32: 5e-6, jnp.bfloat16: 0.06}


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('of', KEYS)
def test_shifts_are_near_the_largest_logit(of, scale):
  queries, keys = (x.astype(np.float32) for x in KEYS[of](scale))
  largest = np.einsum('bqc,bkc->bqk', *map(np.float64, (queries, keys))).max(-1, keepdims=True)
  above = np.asarray(jax.jit(attention.row_shifts)(queries, keys)) - largest
  slack = 1e-6 * scale**2 * 100  # rounding of the products
  assert above.max() <= attention.ABOVE + slack and above.min() >= -attention.BELOW - slack


def sizes(queries, keys, values):
  """How large what `to_second_order` finds is where the softmax is not all of one key."""
  largest = lambda x: float(jnp.abs(x).max())
  q, k, v = map(largest, (queries, keys, values))
  rows, d = queries.shape[1], 3.0
  first = d * v * k, rows * d * v * q, rows * d
  squared = sum(x.size * g**2 for x, g in zip((queries, keys, values), first, strict=True))
  return v, first, (squared * k, squared * q, squared / v)


@pytest.mark.parametrize('dtype', TOLERANCE, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize('of', KEYS)
def test_lean_attention_is_softmax_attention_at_every_scale(x64, of, dtype):
  """Values and gradients to second order, of what the dtype has of queries, keys and values.

  Where one key has all the weight, gradients vanish, and rounding is compared with what they are
  elsewhere.
  """
  for scale in SCALES:
    args = [jnp.asarray(x, dtype) for x in (*KEYS[of](scale), rand(2, 2 * NUM + 3, 5, seed=2))]
    got = to_second_order(attention.attend_lean, weighed, *args)
    wide = [x.astype(jnp.float64) for x in args]
    want = to_second_order(attention.attend_plain, weighed, *wide)
    for one, true, size in zip(*map(jax.tree.leaves, (got, want, sizes(*args))), strict=True):
      size = size if scale > 1 else np.abs(true).max()
      assert np.abs(np.asarray(one, np.float64) - true).max() < TOLERANCE[dtype] * size, scale


@pytest.mark.parametrize('of', ['hidden', 'opposed'])
def test_without_the_second_path_sums_overflow_or_vanish(monkeypatch, of):
  """What the test above is there to see."""
  monkeypatch.setattr(jax.lax, 'cond', lambda _, first, second: first())
  queries, keys = (x.astype(np.float32) for x in KEYS[of](30.0))
  values = rand(2, keys.shape[1], 5).astype(np.float32)
  attend = lambda *args: attention.attend_lean(*args)  # not from the cache
  found = jax.jit(attend)(queries, keys, values)
  assert not np.isfinite(found).all()


def test_the_second_path_is_not_taken_where_logits_are_moderate():
  queries, keys = (x.astype(np.float32) for x in ordinary(1.0))
  program = jax.make_jaxpr(attention.row_shifts)(queries, keys)
  (cond,) = [eqn for eqn in program.eqns if eqn.primitive.name == 'cond']
  branches = [str(branch.jaxpr) for branch in cond.params['branches']]
  assert ['dot_general' in branch for branch in branches] == [True, False]
  lowest = np.einsum('bqc,bkc->bqk', queries, keys[:, ::NUM]).max(-1, keepdims=True)
  norms = lambda x: np.linalg.norm(x, axis=-1, keepdims=True)
  highest = norms(queries) * norms(keys).max(1, keepdims=True)
  found = jax.jit(attention.row_shifts)(queries, keys)
  np.testing.assert_allclose(found, np.minimum(highest, lowest + attention.ABOVE), rtol=1e-5)
