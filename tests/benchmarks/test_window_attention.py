"""The forms of attention that the benchmark compares are one function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import attention
from bigjax.nn.tokens.window_attention import WindowAttention

import window_attention

FORMS = {
  'plain': functools.partial(window_attention.forms, 8, 4, 0),
  'shifted': functools.partial(window_attention.forms, 8, 4, 2),
  'global': functools.partial(window_attention.global_forms, 8, 8),
}


@pytest.mark.parametrize('kind', FORMS)
def test_forms_have_the_same_outputs_and_gradients(kind):
  """Within 1e-5 of the largest, in float32, all parameters random."""
  net, forms = FORMS[kind](head_dim=4, dtype=jnp.float32)
  rng = np.random.default_rng(0)
  draw = lambda s: jnp.asarray(rng.normal(size=s.shape) / 2, jnp.float32)
  x = jax.ShapeDtypeStruct((2, 8, 8, 8), jnp.float32)
  params = jax.tree.map(draw, jax.eval_shape(net.init, jax.random.key(0), x)['params'])
  x, dy = draw(x), draw(x)

  @jax.jit
  def run(params, x, dy):
    def both(form):
      out, pullback = jax.vjp(form, params, x)
      return out, pullback(dy)

    with jax.numpy_rank_promotion('allow'):
      return {name: both(form) for name, form in forms.items()}

  found = jax.device_get(run(params, x, dy))
  assert len(found) == 2
  for one, other in zip(*map(jax.tree.leaves, found.values()), strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(('side', 'shared'), [(8, False), (16, True)])
def test_a_whole_map_of_many_tokens_has_shared_attention(side, shared, monkeypatch):
  calls = []
  attend = attention.attend
  monkeypatch.setattr(attention, 'attend', lambda *args: calls.append(1) or attend(*args))
  for relative in (False, True):  # a bias by offset is what the shared one does not have
    net = WindowAttention(2, side, relative=relative)
    jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, side, side, 8)))
  assert len(calls) == shared
