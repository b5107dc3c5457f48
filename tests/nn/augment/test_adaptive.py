"""The controller of ADA's strength: the official code's trace, and every rule of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import parallel
from bigjax.nn.augment import adaptive

from golden_files import golden


def test_r_t_and_p_follow_the_official_code():
  # tests/golden/ada_p1.npz: 24 steps of 64 images, two of them with a lazy penalty's logits too.
  arrays = golden('ada_p1')
  cfg = {name: float(arrays[f'cfg/ctl_{name}']) for name in ('kimg', 'target', 'p0')}
  batch, interval = int(arrays['cfg/ctl_batch']), int(arrays['cfg/ctl_interval'])
  controller = adaptive.Controller(batch, cfg['target'], cfg['kimg'], interval)
  state, update = controller.init(cfg['p0']), jax.jit(controller.update, static_argnums=2)
  lazy = dict(zip(arrays['in/ctl/dreg_at'].tolist(), arrays['in/ctl/logits_dreg'], strict=True))
  r_t, p = [], []
  for i, logits in enumerate(arrays['in/ctl/logits']):
    logits = np.concatenate([logits, lazy.get(i, logits[:0])])
    state = update(state, adaptive.mean_sign(jnp.asarray(logits)), len(logits))
    if (i + 1) % interval == 0:
      r_t.append(float(state['r_t']))
      p.append(float(state['p']))
  np.testing.assert_allclose(r_t, arrays['out/ctl/r_t'], atol=1e-6)
  np.testing.assert_allclose(p, arrays['out/ctl/p'], atol=1e-7)


def steps(controller, state, sign, num):
  for _ in range(num):
    state = controller.update(state, jnp.float32(sign), controller.batch)
  return state


def test_p_goes_from_0_to_1_in_kimg_and_never_below_0():
  controller = adaptive.Controller(batch=64)
  state = steps(controller, controller.init(), 1.0, 3)
  assert state['p'] == 0 and state['steps'] == 3  # not yet
  state = steps(controller, state, 1.0, 1)
  np.testing.assert_allclose(state['p'], 64 * 4 / 500_000)  # 0.000512
  assert state['r_t'] == 1 and state['steps'] == 0
  state = steps(controller, state, -1.0, 8)
  assert state['p'] == 0 and state['r_t'] == -1
  fast = adaptive.Controller(batch=64, kimg=0.512)
  assert steps(fast, fast.init(), 1.0, 8)['p'] == pytest.approx(1)


def test_at_the_target_p_stays():
  controller = adaptive.Controller(batch=10, target=0.5, interval=1)
  state = controller.init(0.3)
  assert steps(controller, state, 0.5, 5)['p'] == state['p']
  assert steps(controller, state, 0.51, 1)['p'] > state['p'] > steps(controller, state, 0, 1)['p']


def test_a_state_saved_between_adjustments_goes_on_as_if_nothing_had_been():
  controller = adaptive.Controller(batch=64)
  whole = steps(controller, controller.init(), 1.0, 6)
  saved = jax.tree.map(np.asarray, steps(controller, controller.init(), 1.0, 2))
  restored = steps(controller, jax.tree.map(jnp.asarray, saved), 1.0, 4)
  for name, value in whole.items():
    assert value == restored[name] and value.dtype == restored[name].dtype


def test_the_mean_sign_is_of_the_global_batch():
  """Of no device's examples alone; a logit of 0 counts as neither."""
  logits = jnp.asarray([3, -1, 2, 5, 0, 7, 1, 1.0], jnp.float32)
  mesh = parallel.make_mesh(jax.devices()[:2])
  with jax.set_mesh(mesh):
    of_device = parallel.over_batch(lambda params, shared, batch: adaptive.mean_sign(batch))
    assert jax.jit(of_device)({}, {}, logits) == 5 / 8
  assert adaptive.mean_sign(logits) == 5 / 8
