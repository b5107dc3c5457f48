"""One result on any number of devices: gradients, moments, placement (DESIGN.md 4, T11)."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bigjax.core import errors, parallel
from bigjax.nn import microbatches

B = 16


def on(num_devices):
  """The mesh over the first devices as a context; None for no mesh."""
  if num_devices is None:
    return contextlib.nullcontext()
  return jax.set_mesh(parallel.make_mesh(jax.devices()[:num_devices]))


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batchnorm(x, mean_of):
  moments = mean_of(jnp.stack([x, jnp.square(x)], 1))  # [b, 2, C] -> [1 or b, 2, C]
  mean, var = moments[:, 0], moments[:, 1] - jnp.square(moments[:, 0])
  return (x - mean) * jax.lax.rsqrt(var + 1e-2)


def noise_of(keys):
  """One number in [0, 1) per key: keys are examples too, as augmentation's are."""
  bits = jax.random.key_data(keys)[:, :1] >> jnp.uint32(8)
  return bits.astype(jnp.float32) * jnp.float32(2**-24)


def make_loss(mean_of):
  """A batch-mean loss in which every example sees the others through `mean_of`."""

  def loss(params, shared, batch):
    h = batchnorm(batch['x'] @ params['w'], mean_of)
    out = jnp.tanh(h + shared['shift'][None] + noise_of(batch['keys']))
    per_example = jnp.square(out - batch['y'][:, None]).sum(1)
    return per_example.mean(), {'out': out.mean(), 'share': (out > 0).mean(dtype=jnp.float32)}

  return loss


def inputs():
  params, shared = {'w': jnp.asarray(rand(5, 4))}, {'shift': jnp.asarray(rand(4, seed=1))}
  batch = {
    'x': jnp.asarray(rand(B, 5, seed=2)),
    'y': jnp.asarray(rand(B, seed=3)),
    'keys': jax.random.split(jax.random.key(0), B),
  }
  return params, shared, batch


def differentiate(num_devices, mean_of):
  with on(num_devices):
    return jax.jit(parallel.value_and_grad(make_loss(mean_of)))(*inputs())


@pytest.fixture(scope='module')
def alone():
  """The reference without bigjax: plain autodiff over the whole batch."""
  loss = make_loss(lambda x: x.mean(0, keepdims=True))
  return jax.jit(jax.value_and_grad(loss, has_aux=True))(*inputs())


@pytest.mark.parametrize('num_devices', [None, 1, 2, 8])
def test_value_and_grad_does_not_depend_on_the_devices(alone, num_devices):
  (loss, metrics), grads = differentiate(num_devices, parallel.global_mean)
  (want, want_metrics), want_grads = alone
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  for name, value in want_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(grads['w'], want_grads['w'], rtol=1e-6, atol=1e-6)
  assert np.abs(grads['w']).max() > 1e-2


def test_gradients_meet_in_float32():
  # Plain jit with bfloat16 compute reduces weight gradients in bfloat16 (DESIGN.md 4): here the
  # all-reduce must be float32 although every product is bfloat16.
  def loss(params, shared, batch):
    h = batch['x'].astype(jnp.bfloat16) @ params['w'].astype(jnp.bfloat16)
    return jnp.square(h).mean(dtype=jnp.float32), {}

  params, shared, batch = inputs()
  with on(8):
    fn = jax.jit(parallel.value_and_grad(loss))
    (_, grads), text = fn(params, shared, batch), str(fn.trace(params, shared, batch).jaxpr)
  assert grads['w'].dtype == jnp.float32
  reduced = [line for line in text.splitlines() if 'psum' in line and '=' in line]
  assert reduced and all('bf16' not in line for line in reduced)
  whole = jax.grad(lambda p: loss(p, shared, batch)[0])(params)['w']
  np.testing.assert_allclose(grads['w'], whole, rtol=2e-2, atol=2e-2 * np.abs(whole).max())


@pytest.mark.parametrize('num_devices', [None, 1, 8])
def test_over_batch_returns_the_float32_mean(num_devices):
  x = rand(B, 3)
  with on(num_devices):
    fn = jax.jit(parallel.over_batch(lambda p, shared, batch: {'m': (batch * p * shared).mean(0)}))
    got = fn(jnp.float32(2), jnp.float32(3), jnp.asarray(x))
  np.testing.assert_allclose(got['m'], 6 * x.mean(0), rtol=1e-5, atol=1e-6)


def groups_reference(x, size):
  """NumPy: every example's group mean."""
  means = x.reshape(-1, size, *x.shape[1:]).mean(1)
  return means.repeat(size, axis=0)


# 4 examples per device: groups inside a device, one per device, over two devices, over all.
@pytest.mark.parametrize('num_devices', [1, 2, 8])
def test_a_contrastive_loss_sees_all_examples(num_devices):
  """InfoNCE over the global batch: value and gradient on any number of devices, T11."""

  def loss(params, shared, batch):
    mine = jnp.tanh(batch['x'] @ params['w'])
    everyone = parallel.gather_examples(mine)
    targets = parallel.gather_examples(batch['t'])
    logits = mine @ everyone.T
    own = (batch['t'][:, None] == targets[None, :]).astype(logits.dtype)
    value = -(jax.nn.log_softmax(logits, axis=1) * own).sum(1).mean()
    return value, {'loss': value}

  params, batch = {'w': rand(5, 3)}, {'x': rand(B, 5, seed=1), 't': np.arange(B, dtype=np.int32)}
  (want, _), grads = jax.value_and_grad(loss, has_aux=True)(params, {}, batch)
  with on(num_devices):
    (value, _), found = jax.jit(parallel.value_and_grad(loss))(params, {}, batch)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(found['w'], grads['w'], rtol=2e-4, atol=1e-5)
  assert np.abs(grads['w']).max() > 1e-2


@pytest.mark.parametrize('num_devices', [None, 8])
def test_places_are_those_among_all_examples(num_devices):
  x = jnp.asarray(rand(B, 3))

  def own(params, shared, part):
    del params, shared
    num = parallel.num_examples(len(part))
    found = parallel.gather_examples(part)[parallel.places(len(part))]
    return {'num': jnp.float32(num), 'error': jnp.abs(found - part).max()}

  with on(num_devices):
    found = jax.jit(parallel.over_batch(own))({}, {}, x)
  assert (found['num'], found['error']) == (B, 0)


@pytest.mark.parametrize('size', [1, 2, 4, 8, 16, None])
def test_group_mean_values(size):
  x = rand(B, 2, 3)
  with on(4):
    mapped = jax.shard_map(
      lambda x: jnp.broadcast_to(parallel.group_mean(x, size), x.shape),
      in_specs=P(parallel.DATA),
      out_specs=P(parallel.DATA),
    )
    got = jax.jit(mapped)(jnp.asarray(x))
  np.testing.assert_allclose(got, groups_reference(x, size or B), atol=1e-6)


# Groups within a device's examples, equal to them, over several devices, over all.
@pytest.mark.parametrize(('num_devices', 'size'), [(1, 8), (4, 2), (4, 4), (8, 4), (8, 16)])
def test_group_mean_gradients(num_devices, size):
  # Through the moments too: an example's gradient depends on its group, wherever that lives.
  (loss, _), grads = differentiate(num_devices, lambda x: parallel.group_mean(x, size))

  def plain(x):
    means = x.reshape(B // size, size, *x.shape[1:]).mean(1)
    return jnp.repeat(means, size, axis=0)

  (want, _), want_grads = jax.jit(jax.value_and_grad(make_loss(plain), has_aux=True))(*inputs())
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(grads['w'], want_grads['w'], atol=3e-5)  # of up to 0.3


def test_gradient_through_group_moments_against_finite_differences():
  # The yardstick of the tests above, in float64 NumPy.
  params, shared, batch = inputs()
  noise = np.asarray(noise_of(batch['keys']), np.float64)
  x, y = np.asarray(batch['x'], np.float64), np.asarray(batch['y'], np.float64)
  shift = np.asarray(shared['shift'], np.float64)

  def loss(w):
    h = x @ w
    mean = groups_reference(h, 8)
    var = groups_reference(h**2, 8) - mean**2
    out = np.tanh((h - mean) / np.sqrt(var + 1e-2) + shift + noise)
    return ((out - y[:, None]) ** 2).sum(1).mean()

  w, step = np.asarray(params['w'], np.float64), 1e-5
  want = np.zeros_like(w)
  for i in np.ndindex(*w.shape):
    bump = np.zeros_like(w)
    bump[i] = step
    want[i] = (loss(w + bump) - loss(w - bump)) / (2 * step)
  (got, _), grads = differentiate(4, lambda x: parallel.group_mean(x, 8))
  np.testing.assert_allclose(got, loss(w), rtol=1e-5)
  np.testing.assert_allclose(grads['w'], want, atol=1e-4)


@pytest.mark.parametrize(
  ('num_devices', 'size', 'message'),
  [
    (None, 3, 'groups of 3 examples do not divide 16 examples'),
    (None, 32, 'group of 32 examples exceeds the batch of 16'),
    (4, 3, 'groups of 3 examples do not divide 4 examples per device'),
    (4, 6, 'groups of 6 examples do not line up with 4 devices of 4'),
    (4, 12, 'groups of 12 examples do not line up with 4 devices'),
    (4, 32, 'groups of 32 examples do not line up'),
  ],
)
def test_groups_that_do_not_line_up_are_refused(num_devices, size, message):
  with pytest.raises(errors.UserError, match=message):
    differentiate(num_devices, lambda x: parallel.group_mean(x, size))


def test_mesh_and_shardings():
  mesh = parallel.make_mesh()
  assert mesh.axis_names == parallel.DATA and dict(mesh.shape) == {'group': 1, 'slice': 8}
  assert parallel.replicated(mesh).spec == P()
  assert parallel.batched(mesh).spec == P(parallel.DATA)
  assert parallel.batched(mesh, lead=1).spec == P(None, parallel.DATA)


@pytest.mark.parametrize('num_devices', [1, 8])
def test_one_process_supplies_every_row(num_devices):
  rows = parallel.local_rows(parallel.make_mesh(jax.devices()[:num_devices]), B)
  np.testing.assert_array_equal(rows, np.arange(B))


def test_local_rows_are_those_of_this_process(monkeypatch):
  # Two hosts of four devices, interleaved on the mesh: this one owns the odd ones.
  devices = parallel.make_mesh().devices.flat
  spans = {d: (slice(2 * i, 2 * i + 2),) for i, d in reversed(list(enumerate(devices))) if i % 2}
  monkeypatch.setattr(
    jax.sharding.NamedSharding, 'addressable_devices_indices_map', lambda self, shape: spans
  )
  rows = parallel.local_rows(parallel.make_mesh(), B)
  np.testing.assert_array_equal(rows, [2, 3, 6, 7, 10, 11, 14, 15])


def test_to_global_places_minibatches_over_the_devices():
  mesh = parallel.make_mesh()
  batch = {
    'image': np.arange(2 * B * 3, dtype=np.uint8).reshape(2, B, 3),
    'label': np.arange(2 * B, dtype=np.int32).reshape(2, B),
  }
  placed = parallel.to_global(mesh, batch)
  for name, want in batch.items():
    got = placed[name]
    assert got.dtype == want.dtype and got.sharding.spec == P(None, parallel.DATA)
    np.testing.assert_array_equal(got, want)
    for i, shard in enumerate(sorted(got.addressable_shards, key=lambda s: s.index[1].start or 0)):
      np.testing.assert_array_equal(shard.data, want[:, 2 * i : 2 * i + 2])


def test_shard_examples():
  tree = {'z': jnp.ones((2, B, 3)), 'keys': jax.random.split(jax.random.key(0), (2, B))}
  assert parallel.shard_examples(tree, lead=1) is tree  # no mesh: nothing to do
  with on(8):
    got = jax.jit(lambda t: parallel.shard_examples(t, lead=1))(tree)
  assert got['z'].sharding.is_equivalent_to(parallel.batched(parallel.make_mesh(), 1), 3)
  assert {s.data.shape for s in got['z'].addressable_shards} == {(2, B // 8, 3)}
  np.testing.assert_array_equal(jax.random.key_data(got['keys']), jax.random.key_data(tree['keys']))


# Parts of a batch


def score(params, part):
  """A function of each example by itself: two outputs, keys among the inputs."""
  hidden = jnp.tanh(part['x'] @ params['w'])
  out = (hidden * part['y'][:, None]).sum(1) + noise_of(part['keys'])[:, 0].astype(hidden.dtype)
  return {'hidden': hidden, 'out': out}


def parted_loss(num, fn=score):
  """A batch mean of what `num` parts of each device's examples give; `w` is closed over."""

  def loss(params, shared, batch):
    out = microbatches.microbatched(functools.partial(fn, params), num, batch)
    weighted = out['hidden'] * shared['shift'][None]
    return jnp.square(out['out']).mean() + weighted.sum(1).mean(), {'out': out['out'].mean()}

  return loss


def wide_inputs():
  double = lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x
  return jax.tree.map(double, inputs())


def differentiate_parts(num_devices, num, fn=score):
  with on(num_devices):
    (loss, metrics), grads = jax.jit(parallel.value_and_grad(parted_loss(num, fn)))(*wide_inputs())
  return jax.device_get([loss, metrics['out'], grads['w']])


# 16 examples on 1 device: parts of 8, 4, 1; on 4 devices of 4 examples: parts of 2 and 1. On TPUs
# the loop over the parts stays a loop; on CPUs parallel.scan unrolls it.
@pytest.mark.parametrize(
  ('num_devices', 'num', 'rolled'),
  [(None, 2, False), (None, 4, True), (1, 16, True), (4, 2, False), (4, 2, True), (4, 4, True)],
)
def test_parts_change_no_value_and_no_gradient(x64, num_devices, num, rolled, monkeypatch):
  if rolled:
    monkeypatch.setattr(microbatches, 'scan', jax.lax.scan)
  for got, want in zip(
    differentiate_parts(num_devices, num), differentiate_parts(None, 1), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
    assert np.abs(want).max() > 1e-2


def test_parts_would_change_a_function_in_which_examples_see_each_other(x64):
  # The test above has teeth: half a batch's mean is another one.
  def centred(params, part):
    out = score(params, part)
    return {**out, 'hidden': jnp.square(out['hidden'] - out['hidden'].mean(0, keepdims=True))}

  got, want = (differentiate_parts(None, num, centred) for num in (2, 1))
  assert np.abs(got[0] / want[0] - 1) > 1e-3
  assert np.linalg.norm(got[2] - want[2]) > 1e-3 * np.linalg.norm(want[2])


def test_parts_come_back_in_order():
  x = jnp.arange(12).reshape(6, 2)
  for num in (1, 2, 3, 6):
    got = microbatches.microbatched(lambda x: {'double': 2 * x, 'sum': x.sum(1)}, num, x)
    np.testing.assert_array_equal(got['double'], 2 * x)
    np.testing.assert_array_equal(got['sum'], x.sum(1))


def test_parts_keep_only_inputs_and_outputs_for_the_backward_pass():
  # What the backward pass holds, as shapes: 64 hidden units of every example, or none.
  def kept(num):
    def loss(w, x):
      fn = lambda x: jnp.tanh(jnp.tanh(x @ w) @ w.T).sum(1)
      return microbatches.microbatched(fn, num, x).sum()

    shapes = jax.ShapeDtypeStruct((4, 64), jnp.float32), jax.ShapeDtypeStruct((B, 4), jnp.float32)
    backward = jax.eval_shape(lambda w, x: jax.vjp(loss, w, x)[1], *shapes)
    return sum(leaf.size for leaf in jax.tree.leaves(backward) if leaf.size != 4 * 64)

  assert kept(1) >= 64 * B
  assert kept(4) <= 2 * 4 * B


@pytest.mark.parametrize(('num_devices', 'num', 'size'), [(None, 3, 16), (None, 32, 16), (8, 4, 2)])
def test_parts_that_do_not_divide_are_refused(num_devices, num, size):
  message = f'run.microbatches is {num}, which does not divide the {size} examples of each device'
  with pytest.raises(errors.UserError, match=message), on(num_devices):
    jax.eval_shape(parallel.value_and_grad(parted_loss(num)), *inputs())
