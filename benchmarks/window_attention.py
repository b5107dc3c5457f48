"""Attention of tokens on TPUs, by the compiler: as it is written here, and in other forms.

  python benchmarks/window_attention.py                 # v3, both forms, plain and shifted
  python benchmarks/window_attention.py --topology=v6e-8 --only=128

Needs the [plan] extra. One layer of stransgan:imagenet128's generator, forward and backward, on one
core, in bfloat16; figures are the compiler's estimates, and nothing runs. `bigjax/nn/tokens/` has
the form called `ours`: heads are an axis of kernels, the bias is two products with constants, the
mask compares numbers of regions. `swin` splits one product into heads by transposes, gathers the
bias, and adds a mask of [windows, tokens, tokens]. Global attention has neither bias nor mask:
`windows` is as in windows, `shared` is BigGAN's, with heads for examples.
"""

import argparse
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import device
from bigjax.nn.tokens import window_attention
from bigjax.nn.tokens.window_attention import MASKED, WindowAttention, merge, partition, regions
from bigjax.preflight import hlo, step_cost, tpu_slices

SHAPES = ((32, 256, 8), (128, 64, 16))  # pixels a side, channels, window
GLOBAL = ((8, 512), (16, 512))  # pixels a side, channels
HEAD_DIM = 32


def swin(params, x, heads, window, shift):
  """The same layer with splits and transposes, a gather and an array of the mask."""
  b, h, w, c = x.shape
  tokens, dtype = window**2, x.dtype
  wide = lambda name: (params[name][part].astype(dtype) for part in ('kernel', 'bias'))
  x = partition(jnp.roll(x, (-shift, -shift), (1, 2)) if shift else x, window)
  x = x.reshape(-1, tokens, c)
  kernel, bias = wide('qkv')
  qkv = (x @ kernel + bias).reshape(-1, tokens, 3, heads, c // heads).transpose(2, 0, 3, 1, 4)
  queries, keys, values = qkv
  offsets = jnp.arange(window)[:, None] - jnp.arange(window)[None] + window - 1
  index = offsets[:, None, :, None] * (2 * window - 1) + offsets[None, :, None]
  table = params['relative_position_bias_table'][index.reshape(-1)]
  logits = jnp.einsum(
    'nhqd,nhkd->nhqk', queries * (c // heads) ** -0.5, keys, preferred_element_type=jnp.float32
  )
  logits = logits + table.reshape(tokens, tokens, heads).transpose(2, 0, 1)
  if shift:
    region = regions(h, w, window, shift)
    mask = np.where(region[:, :, None] == region[:, None], 0, MASKED).astype(np.float32)
    logits = logits.reshape(b, -1, heads, tokens, tokens) + mask[:, None]
    logits = logits.reshape(-1, heads, tokens, tokens)
  weights = jax.nn.softmax(logits).astype(dtype)
  out = jnp.einsum('nhqk,nhkd->nhqd', weights, values).transpose(0, 2, 1, 3).reshape(-1, tokens, c)
  kernel, bias = wide('proj')
  out = merge((out @ kernel + bias).reshape(b, -1, tokens, c), h, w)
  return jnp.roll(out, (shift, shift), (1, 2)) if shift else out


def forms(channels, window, shift, head_dim=HEAD_DIM, dtype=jnp.bfloat16):
  """The layer, and {name: (parameters, maps) -> maps}."""
  heads = channels // head_dim
  net = WindowAttention(heads, window, shift, dtype=dtype)
  ours = lambda params, x: net.apply({'params': params}, x)
  return net, {
    'ours': ours,
    'swin': functools.partial(swin, heads=heads, window=window, shift=shift),
  }


def global_forms(side, channels, head_dim=HEAD_DIM, dtype=jnp.bfloat16):
  """Attention of a whole map, without a bias, and its forms as in `forms`."""
  net = WindowAttention(channels // head_dim, side, relative=False, dtype=dtype)

  def form(tokens, params, x):
    with mock.patch.object(window_attention, 'MANY', tokens):
      return net.apply({'params': params}, x)

  of = functools.partial
  return net, {'windows': of(form, math.inf), 'shared': of(form, 0)}


def compiled(form, params, x, chip):
  """(ms by the compiler, MiB of temporaries) of a form and its gradients."""

  def both(params, x, dy):
    out, pullback = jax.vjp(form, params, x)
    return out, pullback(dy)

  program = jax.jit(both).lower(params, x, x).compile()
  lines = step_cost.account(hlo.parse(program.as_text()), chip)
  seconds = sum(line.exposed for line in lines)
  return 1e3 * seconds, program.memory_analysis().temp_size_in_bytes / 2**20


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='v3-8', help='slice whose cores are compiled for')
  parser.add_argument('--batch', type=int, default=8, help='images on the core')
  parser.add_argument('--only', type=int, default=0, help='of this resolution alone; 0: of all')
  args = parser.parse_args()
  chip = tpu_slices.find(args.topology)
  core = chip.devices()[0]
  sharding = jax.sharding.SingleDeviceSharding(core)
  shaped = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)
  print('| px, channels, window | shift | form | ms | MiB |\n|---|---|---|---|---|')
  layers = [
    (side, channels, f'{window} | {shift}', forms(channels, window, shift))
    for side, channels, window in SHAPES
    for shift in (0, window // 2)
  ]
  layers += [(side, channels, 'all | 0', global_forms(side, channels)) for side, channels in GLOBAL]
  for side, channels, about, (net, all_forms) in layers:
    if args.only not in (0, side):
      continue
    x = jax.ShapeDtypeStruct((args.batch, side, side, channels), jnp.bfloat16)
    params = jax.tree.map(shaped, jax.eval_shape(net.init, jax.random.key(0), x)['params'])
    for name, form in all_forms.items():
      with device.for_kind(core.device_kind):
        ms, mib = compiled(form, params, shaped(x), chip)
      print(f'| {side}, {channels}, {about} | {name} | {ms:.2f} | {mib:.0f} |', flush=True)


if __name__ == '__main__':
  main()
