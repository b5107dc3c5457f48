"""FastGAN's generators: counts, and the official code's numbers (golden projgan_fastgan)."""

import functools

import golden_style
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.models import fastgan, projected_gan
from bigjax.nn import kernels, spectral_norm

from counts import num_params
from golden_files import golden, under


def shapes(net):
  z, y = jnp.zeros((2, net.z_dim)), jnp.zeros(2, jnp.int32)
  init = functools.partial(net.init, train=True)
  return jax.eval_shape(init, jax.random.key(0), z, y)['params']


def count(resolution, **fields):
  return num_params(shapes(fastgan.Generator(resolution, **fields)))


@pytest.mark.parametrize(
  ('fields', 'official'),
  [
    ({'resolution': 256}, 105_684_175),
    ({'resolution': 256, 'lite': True}, 79_354_307),
    ({'resolution': 256, 'num_classes': 1000}, 110_527_689),
    ({'resolution': 1024}, 105_884_483),
    ({'resolution': 256, 'ngf': 8}, 1_397_515),
  ],
)
def test_counts(fields, official):
  assert count(**fields) == official


@pytest.mark.parametrize(('ngf', 'official'), [(128, 105_685_903), (8, 1_397_623)])
def test_counts_at_128_px_are_without_blocks_that_nothing_looks_at(ngf, official):
  """Theirs has a block at 256 px and its gate all the same."""
  widths = {size: int(times * ngf) for size, times in fastgan.WIDTHS.items()}
  c, last = widths[128], widths[256]
  block = 9 * c * 2 * last + 9 * last * 2 * last + 2 * (2 * 2 * last + 1)
  gate = 16 * widths[16] * last + last**2
  assert count(128, ngf=ngf) == official - block - gate


def test_there_are_networks_below_128_px():
  assert count(8, ngf=4) < count(16, ngf=4) < count(64, ngf=4)
  with pytest.raises(errors.UserError, match='one of: 8, 16'):
    count(96)


def test_noise_is_of_each_example_and_of_every_convolution():
  keys = jax.random.split(jax.random.key(0), 2)
  noise = fastgan.noise_maps(fastgan.Generator(16, ngf=4), keys)
  assert [[x.shape for x in two] for two in noise] == [[(2, s, s, 1)] * 2 for s in (8, 16)]
  flat = [np.asarray(x)[i, :8, :8].ravel() for two in noise for x in two for i in (0, 1)]
  assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 0.5  # of 64 numbers
  assert fastgan.noise_maps(fastgan.Generator(16, lite=True), keys) == ()


# --- The official code's numbers

PLAIN = {'1': 'conv1', '2': 'noise1', '3': 'bn1', '5': 'conv2', '6': 'noise2', '7': 'bn2'}
LITE = {'1': 'conv1', '2': 'bn1'}
LEAVES = {
  'running_mean': 'norm/mean', 'stored_mean': 'norm/mean',
  'running_var': 'norm/var', 'stored_var': 'norm/var',
}  # fmt: skip


def our_path(name, kind):
  """Our path of a parameter of theirs, such as 'feat_8.1.weight_orig'."""
  block, *rest, leaf = name.split('.')
  linear = leaf.startswith('weight_')
  if block == 'embed':
    return 'embed/embedding'
  if block == 'init':
    if rest[-1] == '0':
      return 'init/kernel'
    return f'init/bn/{LEAVES.get(leaf, "gain" if leaf == "weight" else leaf)}'
  if block == 'to_big':
    return 'to_big/kernel' if linear else 'to_big/bias'
  if block.startswith('se_'):
    return f'{block}/{ {"1": "conv1", "3": "conv2"}[rest[1]] }/kernel'
  part = rest[0] if kind == 'cond' else (LITE if kind.startswith('lite') else PLAIN)[rest[0]]
  if part.startswith('conv'):
    return f'{block}/{part}/kernel'
  if part.startswith('noise'):
    return f'{block}/{part}'
  if len(rest) == 2:  # a class's gain or bias
    return f'{block}/{part}/{rest[1]}/{"kernel" if linear else "bias"}'
  return f'{block}/{part}/{LEAVES.get(leaf, "gain" if leaf == "weight" else leaf)}'


def ours(arrays, kind):
  """Parameters, gradients or moments by our paths."""
  found = {}
  for name, w in arrays.items():
    if name.rsplit('.', 1)[-1] in ('weight_u', 'weight_v'):
      continue
    path = our_path(name, kind)
    if path == 'init/kernel':  # a transposed convolution [in, out, h, w]
      w = w.transpose(2, 3, 0, 1)
    elif path.endswith('kernel'):
      w = golden_style.kernel(w)
    found[path] = w.reshape(()) if '/noise' in path else w
  return found


class Net:
  """A generator of the golden file in float64."""

  def __init__(self, kind):
    arrays = golden('projgan_fastgan')
    self.kind, self.arrays = kind, arrays
    self.raw = under(arrays, f'G/{kind}/')
    flat = ours(self.raw, kind)
    self.moments = {path: w for path, w in flat.items() if '/norm/' in path}
    self.params = golden_style.nested(
      {path: w for path, w in flat.items() if path not in self.moments}
    )
    self.net = fastgan.Generator(
      128 if kind == 'lite128' else 64, 5 if kind == 'cond' else 1, 12, 2,
      lite=kind.startswith('lite'), kernels=kernels.PLAIN, dtype=jnp.float64,
    )  # fmt: skip
    self.z = jnp.asarray(arrays[f'in/{kind}/z'], jnp.float64)
    c = arrays.get(f'in/{kind}/c', np.zeros((len(self.z), 1)))
    self.y = jnp.asarray(c.argmax(1), jnp.int32)
    self.us = {self.path_of(name, 'weight_u'): jnp.asarray(w, jnp.float64)
               for name, w in self.raw.items() if name.endswith('weight_u')}  # fmt: skip

  def path_of(self, name, leaf):
    return our_path(name.replace(leaf, 'weight_orig'), self.kind)

  def noise(self, mode):
    if self.net.lite:
      return ()
    maps = under(self.arrays, f'in/{self.kind}/{mode}_noise.')
    return tuple(
      tuple(golden_style.pictures(maps[f'{size}.{i}']) for i in (0, 1)) for size in self.net.sizes
    )

  def in_training(self, params):
    """(Images, moments, next u) with batch statistics, one step of the power iteration on."""
    flat = trees.flat(params)
    left = {path: spectral_norm.left(flat[path], u, 1e-12) for path, u in self.us.items()}
    right = {path: spectral_norm.right(flat[path], v, 1e-12) for path, v in left.items()}
    state = spectral_norm.SpectralState(trees.nest(self.us), trees.nest(left))
    weights = spectral_norm.normalize(params, state)
    image, seen = self.net.apply(
      {'params': weights}, self.z, self.y, True, self.noise('train'), mutable=['moments']
    )
    return image, seen['moments'], right


def test_what_is_normalised(x64):
  for kind in ('big', 'cond'):
    net = Net(kind)
    flat = trees.flat(net.params)
    assert {path for path, w in flat.items() if projected_gan.normalised(path, w)} == set(net.us)


def kinds(*often):
  """All three, those not among `often` marked slow: each is looked at in one way or another."""
  slow = lambda kind: pytest.param(kind, marks=pytest.mark.slow)
  return [kind if kind in often else slow(kind) for kind in ('big', 'lite', 'cond')]


@pytest.mark.parametrize('kind', kinds('cond'))
def test_images_of_stored_statistics(x64, kind):
  net = Net(kind)
  params = trees.flat(net.params)
  for name, w in net.raw.items():
    if name.endswith('weight_v'):
      path = net.path_of(name, 'weight_v')
      theirs = net.raw[name.replace('weight_v', 'weight_orig')]
      if path == 'init/kernel':
        theirs = theirs.swapaxes(0, 1)
      u = np.asarray(net.us[path])
      params[path] = params[path] / (u @ theirs.reshape(len(u), -1) @ w)
  stats = golden_style.nested(net.moments)
  run = jax.jit(
    lambda params, z: net.net.apply(
      {'params': params, 'stats': stats}, z, net.y, False, net.noise('eval')
    )
  )
  image = run(trees.nest(params), net.z)
  golden_style.close(image, net.arrays[f'out/{kind}/img_eval'])


@pytest.mark.parametrize('kind', kinds('big'))
def test_images_and_gradients_in_training(x64, kind):
  net = Net(kind)
  cotangent = golden_style.pictures(net.arrays[f'in/{kind}/cotangent'])

  def total(params):
    image, *seen = net.in_training(params)
    return (image * cotangent).sum(), (image, *seen)

  (_, (image, moments, us)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(net.params)
  golden_style.close(image, net.arrays[f'out/{kind}/img_train'])
  golden_style.assert_same(grads, ours(under(net.arrays, f'grad_G_{kind}/'), kind))
  # What the pass leaves: singular vectors, and moments averaged over time.
  after = under(net.arrays, f'after_g/{kind}/')
  for name, w in after.items():
    if name.endswith('weight_u'):
      np.testing.assert_allclose(us[net.path_of(name, 'weight_u')], w, atol=1e-6)
  moments = trees.flat(jax.device_get(moments))
  for path, w in ours(after, kind).items():
    size = 4 if path.startswith('init') else int(path.split('/')[0].removeprefix('feat_'))
    num = len(net.z) * size**2
    new = moments[path] * (num / (num - 1) if path.endswith('var') else 1)
    np.testing.assert_allclose(0.9 * net.moments[path] + 0.1 * new, w, rtol=1e-5, atol=1e-6)


def test_images_at_128_px(x64):
  """Of the official forward pass, where smaller ones are put together of its blocks."""
  net = Net('lite128')
  unused = {path: w for path, w in trees.flat(net.params).items() if '256' in path}
  assert not unused
  image = jax.jit(lambda params: net.in_training(params)[0])(net.params)
  golden_style.close(image, net.arrays['out/lite128/img_train'])
