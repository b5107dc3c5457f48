"""Data parallelism over one mesh: the only file that names a mesh axis.

The step is one jitted program over global arrays. Loss and gradient of a player run under
`jax.shard_map` over `data` inside that program, for two measured reasons: plain jit with bfloat16
compute reduces weight gradients in bfloat16, and concatenating real and fake images across a
sharded batch axis costs three all-to-alls. Every function here also works with no mesh set, on one
device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigjax.core import errors, trees

GROUP, SLICE = 'group', 'slice'
DATA = (GROUP, SLICE)  # examples are split over both

MOST_SLICES = 32  # of a weight: they divide all channels; more would save little more
LEAST_SLICED = 4096  # elements


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Return the mesh over these devices (default: all of them, on all hosts)."""
  devices = jax.devices() if devices is None else devices
  num = len(devices)
  slices = max(n for n in range(1, min(num, MOST_SLICES) + 1) if num % n == 0)
  near = mesh_utils.create_device_mesh((num,), devices)  # neighbours of a torus side by side
  return Mesh(near.reshape(-1, slices), DATA, axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds all of."""
  return NamedSharding(mesh, P())


def _slice_spec(x: Any, slices: int) -> P:
  """Return how an array is sliced: a kernel [..., in, out] or table along `in`, if that divides."""
  divides = x.ndim >= 2 and x.size >= LEAST_SLICED and x.shape[-2] % slices == 0
  return P(*[None] * (x.ndim - 2), SLICE) if divides else P()


def zero_sharding(mesh: Mesh, tree: Any) -> Any:
  """Return the shardings of state: of large arrays, each device of a group holds one slice.

  What a step does with weights, gradients, moments and averages alone, each device then does with
  its slices (Rajbhandari et al. 2020, ZeRO; Xu et al. 2020).
  """
  slices = mesh.shape[SLICE]
  return jax.tree.map(lambda x: NamedSharding(mesh, _slice_spec(x, slices)), tree)


def all_gather_weights(tree: Any, dtype: Any = None) -> Any:
  """Gather slices: every device gets all of every array.

  Args:
    dtype: what convolution kernels [h, w, in, out], and those over time, too, are rounded to on the
      way; they stay of the dtype they are. Half the bytes, where the network rounds them anyway.
  """

  def gather(x):
    narrow = x if dtype is None or x.ndim not in (4, 5) else x.astype(dtype)
    if not jax.sharding.get_abstract_mesh().empty:
      narrow = lax.with_sharding_constraint(narrow, P())
    return narrow.astype(x.dtype)

  return jax.tree.map(gather, tree)


def batched(mesh: Mesh, lead: int = 0) -> NamedSharding:
  """The sharding of a batch whose axis `lead` counts examples: [k, B, ...] is `lead=1`."""
  return NamedSharding(mesh, P(*[None] * lead, DATA))


def local_rows(mesh: Mesh, num: int) -> np.ndarray:
  """Return which of `num` examples of a global minibatch this process must supply, ascending."""
  spans = batched(mesh).addressable_devices_indices_map((num,)).values()
  return np.unique(np.concatenate([np.arange(num)[span[0]] for span in spans if span]))


def to_global(mesh: Mesh, batch: Any) -> Any:
  """Place this process's rows [k, rows, ...] as global arrays [k, B, ...] sharded over B."""
  sharding = batched(mesh, lead=1)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def shard_batch(mesh: Mesh, batch: Any) -> Any:
  """Place arrays [B, ...] that every process has all of, or that are on the devices already."""

  def one(x):
    if isinstance(x, jax.Array) and x.sharding == batched(mesh):
      return x
    return jax.make_array_from_callback(x.shape, batched(mesh), lambda at: x[at])

  return jax.tree.map(one, batch)


def agreed(yes: bool) -> bool:
  """Return whether all processes say yes."""
  if jax.process_count() == 1:
    return yes
  return bool(multihost_utils.process_allgather(np.array(yes)).all())


def _in_shard_map() -> bool:
  return SLICE in jax.sharding.get_abstract_mesh().manual_axes


def shard_examples(tree: Any, lead: int = 0) -> Any:
  """Constrain arrays made inside a program to be sharded over their examples, if they divide."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree
  spec = P(*[None] * lead, DATA)

  def shard(x):
    return x if x.shape[lead] % mesh.size else lax.with_sharding_constraint(x, spec)

  return jax.tree.map(shard, tree)


def check_split(num: int, what: str) -> None:
  """Refuse examples that are drawn inside a program and cannot be split over its devices.

  Args:
    num: of the examples, over all devices.
    what: they are, and what to do: 'NUM WHAT' begins the error.
  Raises:
    UserError: `num` is no multiple of the number of devices.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty and num % mesh.size:
    raise errors.UserError(f'{num} {what.format(devices=mesh.size)}')


def global_mean(x: jax.Array) -> jax.Array:
  """Return the mean over axis 0 of the global batch, keeping the axis: [b, ...] -> [1, ...].

  Under `value_and_grad` x holds this device's examples and the mean is taken over all devices (one
  all-reduce); elsewhere x is the global batch already.
  """
  mean = x.mean(0, keepdims=True)
  return lax.pmean(mean, DATA) if _in_shard_map() else mean


def gather_examples(x: jax.Array) -> jax.Array:
  """All examples of the global batch, in their order: [b, ...] -> [B, ...].

  For losses that compare every example with all others (contrastive ones, relativistic averages):
  a loss that is a mean over this device's examples, each against all, has the gradient of the whole
  under `value_and_grad`, because what others make of these examples flows back to them.
  """
  return lax.all_gather(x, DATA, axis=0, tiled=True) if _in_shard_map() else x


def num_examples(num: int) -> int:
  """How many examples the global batch has, of which this device holds `num`."""
  return num * lax.axis_size(DATA) if _in_shard_map() else num


def places(num: int) -> jax.Array:
  """Where this device's `num` examples lie in what `gather_examples` returns: int32 [num]."""
  return (lax.axis_index(DATA) * num if _in_shard_map() else 0) + jnp.arange(num, dtype=jnp.int32)


def group_mean(x: jax.Array, size: int | None) -> jax.Array:
  """Return for each example the mean over its group of `size` consecutive examples.

  Args:
    x: [b, ...], this device's part of the global batch (or all of it, outside shard_map).
    size: examples per group; it must divide the global batch, and divide or be a multiple of the
      examples per device. None means one group: the whole global batch.
  Returns:
    [1, ...] for one group, else [b, ...].
  Raises:
    UserError: the groups do not line up with the devices.
  """
  if size is None:
    return global_mean(x)
  b = x.shape[0]
  if size <= b:
    if b % size:
      raise errors.UserError(
        f'BatchNorm groups of {size} examples do not divide {b} examples per device.'
      )
    groups = x.reshape(b // size, size, *x.shape[1:]).mean(1)
    return jnp.repeat(groups, size, axis=0)
  if not _in_shard_map():
    raise errors.UserError(f'a BatchNorm group of {size} examples exceeds the batch of {b}.')
  num_devices = lax.axis_size(DATA)
  span = size // b
  if size % b or num_devices % span:
    raise errors.UserError(
      f'BatchNorm groups of {size} examples do not line up with {num_devices} devices '
      f'of {b} examples.'
    )
  # Groups over several devices: moments are small, so gather them all and keep this group's.
  means = lax.all_gather(x.mean(0), DATA)  # [devices, ...]
  means = means.reshape(num_devices // span, span, *means.shape[1:]).mean(1)
  return means[lax.axis_index(DATA) // span][None]


def to_varying(x: jax.Array) -> jax.Array:
  """Cast a replicated value to device-varying (`lax.pcast`).

  Its gradient is then summed over the devices once, here, and not wherever `x` is used.
  """
  if not _in_shard_map() or SLICE in jax.typeof(x).manual_axis_type.varying:
    return x
  return lax.pcast(x, DATA, to='varying')


def over_slices(fn: Callable[[jax.Array, Callable], jax.Array], x: jax.Array) -> jax.Array:
  """Return `fn(x, total)`, computed by each device for its slice of x alone.

  Args:
    fn: (slice [..., n, out], total) -> the same shape, where `total` adds up what it is given over
      all slices; each row of the result depends on its own row and on such totals.
    x: kernel [..., in, out]. One that is not sliced is taken whole.
  """
  mesh = jax.sharding.get_abstract_mesh()
  spec = P() if mesh.empty else _slice_spec(x, mesh.shape[SLICE])
  if spec == P():
    return fn(x, lambda part: part)
  mapped = lambda part: fn(part, lambda x: lax.psum(x, SLICE))
  return jax.shard_map(mapped, in_specs=spec, out_specs=spec)(x)


def _mean_slice(x: jax.Array) -> jax.Array:
  """Return this device's slice of the mean of x over the devices."""
  slices = lax.axis_size(SLICE)
  if _slice_spec(x, slices) == P():
    return lax.pmean(x, DATA)
  x = lax.psum_scatter(x, SLICE, scatter_dimension=x.ndim - 2, tiled=True)
  return lax.pmean(x / slices, GROUP)


def value_and_grad(loss: Callable[[Any, Any, Any], tuple[jax.Array, dict]]) -> Callable:
  """Differentiate a batch-mean loss over the global batch.

  Args:
    loss: (params, shared, batch) -> (scalar, {name: scalar}), both means over the examples in
    `batch`.
  Returns:
    (params, shared, batch) -> ((scalar, {name: scalar}), grads): means over the global batch,
    float32, the scalars equal on all devices, gradients sliced. `params` and `shared` are whole
    trees, `batch` leaves are [B, ...]; `shared` is not differentiated.
  """

  def local(params, shared, batch):
    params = jax.tree.map(
      to_varying, params
    )  # the gradient stays local until the float32 mean below
    return jax.value_and_grad(loss, has_aux=True)(params, shared, batch)

  def reduce(out):
    scalars, grads = out
    return _mean(scalars), jax.tree.map(_mean_slice, grads)

  def specs(params, slices):
    return P(), jax.tree.map(lambda x: _slice_spec(x, slices), params)

  return _over_devices(local, reduce, specs)


def over_batch(fn: Callable[..., Any]) -> Callable:
  """Run `fn(params, shared, batch)` on each device's examples; return the mean of its results."""
  return _over_devices(fn, _mean, lambda params, slices: P())


def _mean(tree: Any) -> Any:
  return jax.tree.map(lambda x: lax.pmean(x, DATA), tree)


def _over_devices(fn: Callable, reduce: Callable[[Any], Any], specs: Callable) -> Callable:
  """Run `fn(params, shared, batch)` on each device's examples, and `reduce` its float32 results.

  Args:
    fn: see `over_batch`.
    reduce: what becomes of the results on all devices; without a mesh they stay as they are.
    specs: (params, number of slices) -> how what `reduce` returns is sharded.
  """

  def wide(params, shared, batch):
    return jax.tree.map(trees.at_least_float32, fn(params, shared, batch))

  def run(params, shared, batch):
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
      return wide(params, shared, batch)
    mapped = lambda *args: reduce(wide(*args))
    out_specs = specs(params, mesh.shape[SLICE])
    in_specs = (P(), P(), P(DATA))
    return jax.shard_map(mapped, in_specs=in_specs, out_specs=out_specs)(params, shared, batch)

  return run
