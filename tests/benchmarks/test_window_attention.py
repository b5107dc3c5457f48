"""Both forms of attention in windows that the benchmark compares are one function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import window_attention


@pytest.mark.parametrize('shift', [0, 2])
def test_forms_have_the_same_outputs_and_gradients(shift):
  """Within 1e-5 of the largest, in float32, all parameters random."""
  net, forms = window_attention.forms(8, 4, shift, head_dim=4, dtype=jnp.float32)
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
  for ours, swin in zip(*map(jax.tree.leaves, (found['ours'], found['swin'])), strict=True):
    np.testing.assert_allclose(ours, swin, rtol=0, atol=1e-5 * np.abs(swin).max())
