"""BigBiGAN's encoders and joint discriminator: counts, reversibility, skips, stems."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import trees
from bigjax.models import bigbigan, biggan
from bigjax.nn.kernels import FAST

from counts import num_params
from networks import f32, gen_shapes, pictures, weights

ENC_EPS = 1e-5


def shapes_of(net, *inputs):
  how = {} if isinstance(net, bigbigan.JointDiscriminator) else {'train': True}
  return jax.eval_shape(lambda *x: net.init(jax.random.key(0), *x, **how), *inputs)


@functools.cache
def encoder_shapes(encoder, ch, side=128, **fields):
  return shapes_of(bigbigan.Encoder(side, encoder, ch, **fields), f32(2, side, side, 3))


def bottlenecks(width, num, before, half):
  """Parameters of a stage by arithmetic: three BatchNorms and three kernels a unit, no biases."""
  inner, total = width // 4, 0
  for i in range(num):
    into = width if i or half else before
    total += 2 * (into + 2 * inner) + into * inner + 9 * inner**2 + inner * width
    total += into * width if into != width else 0
  return total


def counted(stages, ch, half):
  """The encoder before its perceptron: stem, stages, last BatchNorm."""
  widths = [4 * ch * 2**i for i in range(len(stages))]
  total = 49 * 3 * (widths[0] if half else ch) + 2 * widths[-1]
  before = ch
  for width, num in zip(widths, stages, strict=True):
    total += bottlenecks(width // 2 if half else width, num, before, half)
    before = width
  return total


@pytest.mark.parametrize(
  ('encoder', 'ch', 'count'),
  [
    # ResNet-50 has 24 M parameters and RevNet-50 x4 has 86 M in the tables of later papers
    ('resnet50', 64, 23_500_352),
    ('resnet50', 256, 375_347_456),
    ('resnet101', 64, 42_492_480),
    ('revnet50', 64, 5_408_640),
    ('revnet50', 256, 85_765_632),
  ],
)
def test_encoders_have_as_many_parameters_as_arithmetic_says(encoder, ch, count):
  params = encoder_shapes(encoder, ch)['params']
  ends = ('mlp', 'mean', 'deviation')
  assert num_params({k: v for k, v in params.items() if k not in ends}) == count
  stages, half = bigbigan.ENCODERS[encoder]
  assert counted(stages, ch, half) == count
  # the perceptron: four layers of 4096, one skip that changes the width, two heads of 120
  width = bigbigan.Encoder(128, encoder, ch).num_features
  mlp = 2 * width * 4096 + 3 * 4096**2 + 4 * 4096 if width != 4096 else 4 * (4096**2 + 4096)
  assert num_params({k: params[k] for k in ends}) == mlp + 2 * (4096 * 120 + 120)


def test_the_discriminator_and_the_generator_have_as_many_as_stated():
  net = bigbigan.JointDiscriminator(96, *biggan.DISC_WIDTHS[128])
  params = shapes_of(net, (f32(2, 128, 128, 3),), f32(2, 120))['params']
  deep = lambda n: n * 2048 * 2 + 7 * 2048**2 + 8 * 2048  # with the skip that changes the width
  of_each = {name: num_params(part) for name, part in params.items()}
  assert of_each['H'] == deep(120) and of_each['J'] == deep(1536 + 2048)
  assert {of_each[f'theta_{name}'] for name in ('z', 'xz')} == {2049}
  assert of_each['F'] == 87_982_370 - 1000 * 1536 - 1537  # BigGAN's, without what scores
  assert of_each['theta_x'] == 1537 and num_params(params) == 160_375_076
  # one vector in place of 1,000 embeddings
  assert num_params(gen_shapes(128, 1)) == num_params(gen_shapes(128, 1000)) - 999 * 128


def test_features_are_of_the_widths_that_the_released_encoders_have():
  for encoder, ch, num in (('resnet50', 64, 2048), ('revnet50', 256, 8192)):
    net = bigbigan.Encoder(256, encoder, ch)
    assert net.num_features == num
    features, mean, deviation = jax.eval_shape(
      lambda p, x, net=net: net.apply({'params': p}, x, True, mutable=['moments'])[0],
      encoder_shapes(encoder, ch)['params'], f32(2, 256, 256, 3),
    )  # fmt: skip
    assert features.shape == (2, num) and mean.shape == deviation.shape == (2, 120)


@pytest.mark.parametrize('encoder', ['resnet50', 'revnet50'])
def test_remat_keeps_inputs_and_moments(encoder):
  """Sizes only, in numbers for an image of 128 px, whose stem pools; nothing runs.

  Of a RevNet the inputs of the stages are kept, of a ResNet those of the units.
  """
  side, batch, ch, kept, shapes = 128, 4, 8, {}, {}
  stages, half = bigbigan.ENCODERS[encoder]
  for remat in (False, True):
    net = bigbigan.Encoder(side, encoder, ch, 6, 8, remat=remat)
    shapes[remat] = params = shapes_of(net, f32(batch, side, side, 3))['params']
    run = lambda p, net=net: net.apply(
      {'params': p}, jnp.zeros((batch, side, side, 3)), True, mutable=['moments']
    )[0]
    held = jax.tree.leaves(jax.eval_shape(lambda p, run=run: jax.vjp(run, p)[1], params))
    kept[remat] = sum(x.size // batch for x in held if x.shape[:1] == (batch,))
  assert shapes[False] == shapes[True]  # it may change between resumes
  # Of both moments of all BatchNorms, the last one's are not in a block.
  assert len([x for x in held if x.shape[:2] == (1, 2) and x.ndim == 3]) >= 3 * sum(stages)
  # From 32 px on maps are half as large, and have twice the channels; a ResNet's first are narrow.
  maps = [32**2 * 4 * ch // 2**i for i in range(len(stages))]
  before = [maps[0] // 4, *maps[:-1]]
  units = [first + (num - 1) * rest for first, num, rest in zip(before, stages, maps, strict=True)]
  inputs = side**2 * 3 + sum(maps if half else units)
  last = 6 * maps[-1]  # of the last BatchNorm, which is in no block
  assert inputs < kept[True] < 1.05 * (inputs + last) < 0.4 * kept[False]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('encoder', ['resnet14', 'revnet14'])
def test_remat_changes_no_gradient(encoder):
  nets = [
    bigbigan.Encoder(16, encoder, 4, 6, 8, dtype=jnp.float64, remat=remat)
    for remat in (False, True)
  ]
  x = pictures(3, 16).astype(jnp.float64)
  params = weights(shapes_of(nets[0], f32(3, 16, 16, 3))['params'], dtype=jnp.float64)

  @jax.jit
  def gradients(params):
    def loss(params, net):
      said, sown = net.apply({'params': params}, x, True, mutable=['moments'])
      return sum(jnp.sin(part).sum() for part in said), sown['moments']

    return [jax.grad(lambda p, net=net: loss(p, net), has_aux=True)(params) for net in nets]

  (want, moments), (got, again) = jax.device_get(gradients(params))
  for path, grad in trees.flat(want).items():
    size = max(np.linalg.norm(grad), 1e-6)
    assert np.linalg.norm(trees.flat(got)[path] - grad) < 1e-10 * size, path
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), moments, again)


def test_small_images_keep_their_resolution_at_the_stem():
  """32 px end at 4 x 4, as 256 px end at 8 x 8."""
  seen = {}

  def note(next_call, args, kwargs, context):
    out = next_call(*args, **kwargs)
    if context.module.name and context.method_name == '__call__':
      seen[context.module.name] = getattr(out, 'shape', None)
    return out

  for side, stem, last in ((32, 32, 4), (256, 128, 8)):
    with nn.intercept_methods(note):
      shapes_of(bigbigan.Encoder(side, 'resnet14', 4, 6, 8), f32(2, side, side, 3))
    assert seen['stem'] == (2, stem, stem, 4) and seen['stages_3_0'] == (2, last, last, 128)


def test_what_went_into_a_reversible_unit_follows_from_what_came_out():
  unit = bigbigan.Bottleneck(8, 1, False, None, ENC_EPS, FAST, jnp.float32)
  x = pictures(3, 4, 16)
  half = jax.eval_shape(lambda x: unit.init(jax.random.key(0), x, True), f32(3, 4, 4, 8))
  params = weights(half['params'])

  @jax.jit
  def there_and_back(x):
    run = lambda h, train: unit.apply({'params': params}, h, train, mutable=['moments'])[0]
    y = bigbigan.reversible(run, x, True)
    y1, y2 = jnp.split(y, 2, axis=-1)  # (x2, x1 + unit(x2))
    return y, jnp.concatenate([y2 - run(y1, True), y1], axis=-1)

  y, back = there_and_back(x)
  np.testing.assert_allclose(back, x, atol=1e-5)
  np.testing.assert_array_equal(y[..., :8], x[..., 8:])
  assert float(jnp.abs(y[..., 8:] - x[..., :8]).max()) > 0.1
  doubled = bigbigan.halved(x)
  assert doubled.shape == (3, 2, 2, 32)
  assert not doubled[..., :8].any() and not doubled[..., 24:].any()
  np.testing.assert_allclose(doubled[:, 0, 0, 8:24], x[:, :2, :2].mean((1, 2)), atol=1e-6)


def test_the_perceptron_in_numpy():
  net = bigbigan.ResidualMLP(5, 4)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
  shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), x)['params']
  params = weights(shapes)
  w = {path: np.asarray(leaf, np.float64) for path, leaf in trees.flat(params).items()}
  relu = lambda a: np.maximum(a, 0)
  dense = lambda name, a: a @ w[f'{name}/kernel'] + w[f'{name}/bias']
  a = np.asarray(x, np.float64)
  a = a @ w['blocks_0_sc/kernel'] + dense('blocks_0_2', relu(dense('blocks_0_1', a)))
  a = a + dense('blocks_1_2', relu(dense('blocks_1_1', relu(a))))
  found = jax.jit(lambda x: net.apply({'params': params}, x))(x)
  np.testing.assert_allclose(found, relu(a), rtol=1e-5, atol=1e-6)
