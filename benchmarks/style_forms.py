"""Forms of StyleGAN2's layers on a TPU, forward and backward, by the compiler's figures.

  python benchmarks/style_forms.py                 # minutes; no TPU needed, but the [plan] extra
  python benchmarks/style_forms.py --only downsample --topology v4-8

One layer at a time, compiled alone for one device: what it takes by the compiler's estimates, and
the memory that it needs beside its inputs. `modulated` is a 3x3 convolution with a kernel for each
example: one convolution for all, of scaled inputs and outputs, or as many groups as examples, as in
the official code. `up` is one on a map that is enlarged by the filter [1, 3, 3, 1] first: filter
and kernel as one, or one after the other. `downsample` is the filter alone: a sum of shifted maps,
products with matrices, or a depthwise convolution; `down` is a 3x3 convolution with a stride of 2
behind it. `depthwise` is a 5x5 convolution of each channel by itself, as in the frozen network that
Projected GAN looks through.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bigjax.nn import convolution, upfirdn
from bigjax.nn.style import fir, modulated
from bigjax.preflight import hlo, tpu_slices
from bigjax.preflight.step_cost import account

SHAPES = ((64, 512), (256, 128), (1024, 32))  # pixels a side and channels, of config F
OTHER_SHAPES = {
  'up': ((32, 512), (128, 256), (512, 64)),
  'depthwise': ((64, 144), (16, 672)),  # of EfficientNet-Lite0 on 256 px
}
BATCH = 4  # examples of a device: of 32 on a v3-8


def grouped_conv(x: jax.Array, kernel: jax.Array, style: jax.Array) -> jax.Array:
  """What `modulated.modulated_conv` computes, with a kernel and a group for each example."""
  wide = kernel[None] * style[:, None, None, :, None]
  wide = wide * lax.rsqrt(jnp.square(wide).sum((1, 2, 3), keepdims=True) + 1e-8)
  num, height, width, channels = x.shape
  images = x.transpose(1, 2, 0, 3).reshape(1, height, width, num * channels)
  kernels = wide.transpose(1, 2, 3, 0, 4).reshape(*kernel.shape[:3], -1).astype(x.dtype)
  y = lax.conv_general_dilated(
    images, kernels, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=num,
  )  # fmt: skip
  return y.reshape(height, width, num, -1).transpose(2, 0, 1, 3)


def depthwise(x: jax.Array) -> jax.Array:
  """What `fir.downsample` computes, as a convolution of each channel by itself."""
  taps = jnp.asarray(fir.TAPS, x.dtype)
  kernel = jnp.tile((taps[:, None] * taps)[:, :, None, None], (1, 1, 1, x.shape[-1]))
  return lax.conv_general_dilated(
    x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )  # fmt: skip


def sums(x: jax.Array, down: int = 2, pad: tuple[int, int] = (1, 1)) -> jax.Array:
  """The same, as a sum of shifted maps; TPUs take products with matrices."""
  return upfirdn.resample(x, fir.TAPS, down=down, pad=pad)


def filtered_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """What `fir.down_conv` computes, as one convolution with the 6x6 kernel of both."""
  taps = np.zeros((6, 3))
  for k in range(3):
    taps[k : k + 4, k] = fir.TAPS
  taps = jnp.asarray(taps, kernel.dtype)
  both = jnp.einsum('ia,jb,abcd->ijcd', taps, taps, kernel)
  return convolution.conv(x, both, 2, ((2, 2), (2, 2)))


FORMS = {
  'modulated': {
    'one convolution': modulated.modulated_conv,
    'a group per example': grouped_conv,
  },
  'up': {
    'filter and kernel as one': lambda x, kernel, style: fir.up_conv(x, kernel),
    'one after the other': lambda x, kernel, style: fir.up_conv_plain(x, kernel),
  },
  'downsample': {
    'shifted sums': lambda x, kernel, style: sums(x),
    'matrices': lambda x, kernel, style: fir.downsample(x),
    'depthwise': lambda x, kernel, style: depthwise(x),
  },
  'down': {
    'shifted sums, then a stride of 2': lambda x, kernel, style: convolution.conv(
      sums(x, 1, (2, 2)), kernel, 2, 'VALID'
    ),
    'matrices, then a stride of 2': lambda x, kernel, style: fir.down_conv(x, kernel),
    'filter and kernel as one': lambda x, kernel, style: filtered_kernel(x, kernel),
  },
  'depthwise': {
    'one convolution': lambda x, kernel, style: convolution.depthwise_plain(x, kernel),
    'shifted sums': lambda x, kernel, style: convolution.depthwise_sums(x, kernel),
  },
}


def inputs(layer: str, side: int, channels: int, dtype: jnp.dtype) -> list[jax.ShapeDtypeStruct]:
  """Images, a kernel and styles, as shapes."""
  kernel = (5, 5, 1, channels) if layer == 'depthwise' else (3, 3, channels, channels)
  shapes = (BATCH, side, side, channels), kernel, (BATCH, channels)
  return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def both_ways(form, args: list[jax.Array]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """A layer between activations, as in a network, and its gradients."""
  layer = lambda x, *rest: jax.nn.relu(form(jax.nn.relu(x), *rest))
  y, pullback = jax.vjp(layer, *args)
  return y, pullback(y)


def figures(form, args: list[jax.Array], of: tpu_slices.Slice) -> tuple[float, float]:
  """(Milliseconds, MiB of temporaries) of a layer and its gradients on one device."""
  mesh = jax.sharding.Mesh(np.array(of.devices()[:1]), ('data',))
  with jax.set_mesh(mesh):  # forms choose by the device that they are traced for
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    fn = jax.jit(functools.partial(both_ways, form), in_shardings=everywhere)
    compiled = fn.lower(args).compile()
  lines = account(hlo.parse(compiled.as_text()), of)
  temporary = compiled.memory_analysis().temp_size_in_bytes
  return 1000 * sum(line.exposed for line in lines), temporary / 2**20


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='v3-8')
  parser.add_argument('--only', default='', help='layers whose name contains this')
  parser.add_argument('--dtype', default='bfloat16')
  args = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)
  of = tpu_slices.find(args.topology)
  print(f'| {of.name}, {args.dtype}, {BATCH} images | pixels, channels | ms | MiB |')
  print('|---' * 4 + '|')
  for layer, forms in FORMS.items():
    for side, channels in OTHER_SHAPES.get(layer, SHAPES):
      for name, form in forms.items() if args.only in layer else ():
        found = figures(form, inputs(layer, side, channels, jnp.dtype(args.dtype)), of)
        about = f'{side}, {channels}'
        print(f'| {layer}: {name} | {about} | {found[0]:.2f} | {found[1]:.0f} |', flush=True)


if __name__ == '__main__':
  main()
