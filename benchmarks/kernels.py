"""The forms of each layer of BigGAN-128, forward and backward, measured on whatever is here.

  python benchmarks/kernels.py                # batch 2 and float32 on a CPU
  python benchmarks/kernels.py --batch=128    # bfloat16 elsewhere
  python benchmarks/kernels.py --ch=32 --only=attention

What `bigjax/nn/kernels.py` chooses on GPUs was measured so; on TPUs, the compiler was asked
(benchmarks/README.md). Each row is one layer after a ReLU; a figure is milliseconds of the best
run, compiled alone. Steps are another matter: what a layer saves, copies around it can take back
(benchmarks/train_step.py).
"""

import functools

import jax
import jax.numpy as jnp
from absl import app, flags
from train_step import timed

from bigjax.core import device
from bigjax.nn import attention, convolution

BATCH = flags.DEFINE_integer('batch', None, 'examples (default 2 on a CPU, else 64)')
CH = flags.DEFINE_integer('ch', 96, 'width multiplier')
ONLY = flags.DEFINE_string('only', '', 'layers whose name contains this')
SECONDS = flags.DEFINE_float('seconds', 0.5, 'per figure')

# Name, pixels a side of the input, multipliers of its channels and of the output's.
SHAPES = (
  ('up', 4, 16, 16),
  ('up', 8, 16, 8),
  ('up', 16, 8, 4),
  ('up', 32, 4, 2),
  ('up', 64, 2, 1),
  ('down', 128, 1, 1),
  ('down', 64, 2, 2),
  ('down', 32, 4, 4),
  ('down', 16, 8, 8),
  ('down', 8, 16, 16),
  ('conv', 128, 1, None),
  ('attention', 64, 1, 1),
)
KERNELS = {
  'up': {'plain': convolution.up_conv_plain, 'phases': convolution.up_conv_phases},
  'down': {'plain': convolution.down_conv_plain, 'strided': convolution.down_conv_strided},
  'conv': {
    'plain': convolution.conv,
    'blocks': convolution.conv_blocks,
    'columns': convolution.conv_columns,
  },
  'attention': {'plain': attention.attend_plain, 'lean': attention.attend_lean},
}
if device.has_fused_attention():
  KERNELS['attention']['fused'] = attention.attend_fused


def inputs(kind, side, before, after, dtype):
  """Return what a layer takes, random: images and a kernel, or queries, keys and values."""
  batch = BATCH.value or (2 if jax.default_backend() == 'cpu' else 64)
  before, after = before * CH.value, 3 if after is None else after * CH.value
  keys = jax.random.split(jax.random.key(0), 3)
  if kind == 'attention':
    shapes = (side**2, before // 8), (side**2 // 4, before // 8), (side**2 // 4, before // 2)
    return [
      jax.random.normal(k, (batch, *shape), dtype) for k, shape in zip(keys, shapes, strict=True)
    ]
  kernel = jax.random.normal(keys[1], (3, 3, before, after)) / 3 / before**0.5
  return [jax.random.normal(keys[0], (batch, side, side, before), dtype), kernel.astype(dtype)]


def milliseconds(form, args):
  """Return the best time of a layer and its gradient with respect to all it takes."""

  @jax.jit
  def both(args):
    with_relu = lambda first, *rest: form(jax.nn.relu(first), *rest)
    y, pullback = jax.vjp(with_relu, *args)
    return pullback(y)

  run = lambda: jax.block_until_ready(both(args))
  run()  # compiles
  return 1000 * timed(run, SECONDS.value)


def main(argv):
  del argv
  dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  print(f'{jax.devices()[0].device_kind}, {jnp.dtype(dtype)}, ms')
  for kind, side, before, after in SHAPES:
    name = f'{kind}, {side} px, {before * CH.value} to {after * CH.value if after else 3}'
    if ONLY.value not in name:
      continue
    time_of = functools.partial(milliseconds, args=inputs(kind, side, before, after, dtype))
    figures = [f'{form} {time_of(fn):.2f}' for form, fn in KERNELS[kind].items()]
    print(f'{name}: {", ".join(figures)}', flush=True)


if __name__ == '__main__':
  app.run(main)
