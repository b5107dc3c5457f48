"""Feature networks with drawn weights, and what of their programs is checked."""

import collections
import functools

import jax
import numpy as np
import pytest

from bigjax.core import parallel
from bigjax.models.pretrained import inception, torch_layout
from bigjax.preflight import tpu_slices

import tpu_hlo


@functools.cache
def shapes(recipe):
  return torch_layout.shapes(inception.RECIPES[recipe]())


def draw(expected, seed):
  """Return a state dict under torch's names that keeps activations about as large as the input.

  From bytes of RandomState, whose stream NumPy keeps as it is.
  """
  random, state = np.random.RandomState(seed), {}
  for path in sorted(expected):
    shape = torch_layout.torch_shape(path, expected[path])
    num = int(np.prod(shape))
    x = np.frombuffer(random.bytes(2 * num), '<u2').reshape(shape).astype(np.float32)
    x = x / np.float32(2**15) - np.float32(1)  # uniform in [-1, 1)
    match path.rsplit('/', 1)[1]:
      case 'kernel':
        x *= np.float32(np.sqrt(6 / np.prod(shape[1:])))
      case 'scale' | 'var':
        x = np.float32(1) + np.float32(0.3) * x
      case _:
        x *= np.float32(0.2)
    state[torch_layout.torch_name(path)] = x
  return state


@functools.cache
def weights(recipe):
  return draw(shapes(recipe), seed=2015)


def pictures(height, width, num=2, seed=7):
  """Return uint8 [num, height, width, 3]: blotches, which differ from each other, with noise."""
  random = np.random.RandomState(seed)
  noise = random.randint(0, 256, (num, height, width, 3))
  blotches = random.randint(0, 256, (num, 5, 5, 3))
  rows, columns = np.arange(height) * 5 // height, np.arange(width) * 5 // width
  return ((3 * blotches[:, rows][:, :, columns] + noise) // 4).astype(np.uint8)


def distance(ours, reference):
  """Return the largest difference in units of the largest value."""
  assert ours.shape == reference.shape
  return np.abs(ours - reference).max() / np.abs(reference).max()


def in_torch(state):
  torch = pytest.importorskip('torch')
  return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def lower(module, side=32):
  """Lower a network for eight devices, each with its own eight images."""
  pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')
  mesh = parallel.make_mesh(tpu_slices.find('v3-8').devices())
  image = lambda num, sharding: jax.ShapeDtypeStruct(
    (num, side, side, 3), np.uint8, sharding=sharding
  )
  variables = jax.eval_shape(module.init, jax.random.key(0), image(1, None))
  variables = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated(mesh)), variables
  )
  batched = parallel.batched(mesh)
  return jax.jit(module.apply, out_shardings=batched).lower(variables, image(64, batched))


def check_compiled(lowered, num_products):
  """Every product is of float32, of all its digits, and no device waits for another."""
  ops = tpu_hlo.parse_compiled(lowered.compile().as_text())
  assert not tpu_hlo.count_collectives(ops)
  products = [op for op in ops if op.kind in ('convolution', 'dot')]
  assert len(products) >= num_products
  for op in products:
    assert 'operand_precision={highest,highest}' in op.text, op.text[:300]
    assert {shape.dtype for shape in op.results} == {'f32'}
    assert {shape.dtype for shape in op.operands} <= {'f32', 'u8'}  # pixels may come as they are


def products_as_written(lowered):
  """Return how many convolutions and matrix products there are, by whether they are exact."""
  found = collections.Counter()
  for line in lowered.as_text().splitlines():
    if 'stablehlo.convolution(' in line or 'stablehlo.dot_general ' in line:
      both = 'precision = [HIGHEST, HIGHEST]' in line or line.count('precision HIGHEST') == 2
      found[both and 'bf16' not in line and 'f32' in line] += 1
  return found
