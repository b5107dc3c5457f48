"""Projected GAN's discriminators: counts, sizes, and the official code's numbers (projgan_disc)."""

import functools
import hashlib

import golden_style
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import trees
from bigjax.models import projected_gan as models
from bigjax.nn import kernels, resizing, spectral_norm
from bigjax.nn.objectives import losses

from counts import num_params
from golden_files import golden, under

TAPS = (24, 40, 112, 320)  # channels of EfficientNet-Lite0's maps


def shapes(net, side=224, channels=None, **how):
  """Shapes of the parameters, without computing any."""
  sizes = [side // 4 // 2**i * (1 if channels is None else 2) for i in range(4)]
  maps = [
    jax.ShapeDtypeStruct((2, size, size, c), jnp.float32)
    for size, c in zip(sizes, channels or TAPS, strict=True)
  ]
  inputs = (maps,) if channels is None else (maps, jnp.zeros(2, jnp.int32))
  return jax.eval_shape(functools.partial(net.init, **how), jax.random.key(0), *inputs)


def counted(net, **how):
  channels = models.Projection().mixed_widths
  return num_params(shapes(net, 224, channels, train=True, **how)['params'])


def test_counts_of_the_projection():
  found = trees.flat(shapes(models.Projection())['params'])
  count = lambda kind: sum(x.size for path, x in found.items() if kind in path)
  assert (count('_ccm'), count('_csm')) == (200_128, 176_640)
  assert models.Projection().mixed_widths == (64, 64, 128, 256)


@pytest.mark.parametrize(
  ('num_classes', 'separable', 'count'),
  [(1, False, 10_331_328), (1000, False, 12_940_736), (1, True, 696_512), (1000, True, 3_305_920)],
)
def test_counts_of_the_discriminators(num_classes, separable, count):
  assert counted(models.Discriminator(224, num_classes, separable=separable)) == count


@pytest.mark.parametrize(
  ('side', 'num'), [(224, 4 * 16), (256, 4 * 25), (128, 4 * 25), (64, 3 * 25 + 1)]
)
def test_numbers_of_scores(side, num):
  """pg2-02: 64 of an image at 224 px, 100 at 256; below, what there is room for."""
  projection = models.Projection()
  taps = [jnp.zeros((2, side // 4 // 2**i, side // 4 // 2**i, c)) for i, c in enumerate(TAPS)]
  run = lambda taps: projection.init_with_output(jax.random.key(0), taps)[0]
  maps = jax.eval_shape(run, taps)
  assert [x.shape[1] for x in maps] == [side // 2 // 2**i for i in range(4)]
  disc = models.Discriminator(side)
  init = functools.partial(disc.init_with_output, train=True)
  scores, _ = jax.eval_shape(init, jax.random.key(0), maps, jnp.zeros(2, jnp.int32))
  assert scores.shape == (2, num)


def test_the_projection_has_the_same_bits_everywhere():
  """Of torch's law, U(-a, a) with a = inputs^-1/2, and drawn without jax."""
  weights = trees.flat(models.random_projection(shapes(models.Projection())['params']))
  told = hashlib.sha256()
  for path, leaf in weights.items():
    bound = weights[path.replace('bias', 'kernel')].shape[2] ** -0.5
    assert leaf.dtype == np.float32 and np.abs(leaf).max() <= bound
    if leaf.size > 1000:
      assert np.abs(leaf).max() > 0.99 * bound and leaf.std() * 3**0.5 == pytest.approx(bound, 0.05)
    told.update(path.encode() + leaf.tobytes())
  assert told.hexdigest()[:16] == 'cbfc72a94147caae'


# --- The official code's numbers


def test_resizes_are_torchs(x64):
  arrays = golden('projgan_disc')
  x = golden_style.pictures(arrays['in/resize/x'])
  up = resizing.interpolation('torch_bilinear_corners', 5, 10, np.float64)
  rows = resizing.interpolation('torch_bilinear_corners', 3, 6, np.float64)
  found = jnp.einsum('yh,xw,bhwc->byxc', rows, up, x)
  golden_style.close(found, arrays['out/resize/up2_align_corners'], 1e-7)
  golden_style.close(
    resizing.resize(x, 7, 'torch_bilinear'), arrays['out/resize/to_7x7_noalign'], 1e-7
  )
  two = resizing.interpolation('torch_bilinear_corners', 2, 4, np.float64)
  np.testing.assert_allclose(two[:, 1], [0, 1 / 3, 2 / 3, 1])


def maps_of(arrays, prefix):
  found = under(arrays, prefix)
  return tuple(golden_style.pictures(found[f'{i}']) for i in range(4))


def projection_of(arrays):
  found = {}
  for name, w in under(arrays, 'D/scratch.').items():
    path = name.replace('.out_conv', '').replace('.weight', '/kernel').replace('.bias', '/bias')
    found[path] = golden_style.kernel(w) if w.ndim == 4 else w
  return golden_style.nested(found)


def test_the_projection(x64):
  arrays = golden('projgan_disc')
  net, params = models.Projection(4), projection_of(arrays)
  maps = jax.jit(net.apply)({'params': params}, maps_of(arrays, 'in/real_feat'))
  assert net.mixed_widths == tuple(arrays['cfg/csm_channels'])
  for i, one in enumerate(maps):
    golden_style.close(one, under(arrays, f'out/csm{i}')['_real'], 1e-6)


STARTS = (128, 64, 32, 16)
LEAVES = {
  'weight_orig': 'kernel', 'weight': 'kernel', 'bias': 'bias',
  'running_mean': 'mean', 'running_var': 'var',
}  # fmt: skip


def our_path(name):
  """Our path of a parameter of theirs: 'mini_discs.0.main.1.main.0.bias' and its like."""
  _, number, part, *rest = name.split('.')
  head, leaf = f'mini_discs_{number}', LEAVES[rest[-1]]
  if part == 'embed':
    return f'{head}/embed/embedding'
  if part in ('cls', 'embed_proj'):
    return f'{head}/{part}/{leaf}'
  size = STARTS[int(number)] // 2 ** (int(rest[0]) + 1)
  if size < models.END:  # behind the last block
    return f'{head}/cls/{leaf}'
  within = rest[2]
  if within == '1':
    return f'{head}/down_{size}/bn/{"gain" if rest[-1] == "weight" else leaf}'
  inner = rest[3] if len(rest) == 5 else 'conv'
  return f'{head}/down_{size}/{inner}/{leaf}'


def ours(arrays):
  """Parameters, gradients or moments by our paths."""
  found = {}
  for name, w in arrays.items():
    if name.rsplit('.', 1)[-1] not in ('weight_u', 'weight_v'):
      path = our_path(name)
      found[path] = golden_style.kernel(w) if path.endswith('kernel') else w
  return found


def split(flat):
  """(Parameters, {path of a BatchNorm: its stored moments}) of both."""
  moments = {path: w for path, w in flat.items() if path.endswith(('/mean', '/var'))}
  return {path: w for path, w in flat.items() if path not in moments}, moments


def stats_of(moments):
  nested = {}
  for path, w in moments.items():
    at, _, leaf = path.rpartition('/')
    nested[f'{at}/norm/{leaf}'] = w
  return golden_style.nested(nested)


class Heads:
  """The four discriminators of a kind, side by side, in float64."""

  def __init__(self, kind):
    self.arrays = golden('projgan_disc')
    self.raw = under(self.arrays, f'D/{kind}/')
    flat, moments = split(ours(self.raw))
    self.params, self.moments = golden_style.nested(flat), moments
    self.kind, cond = kind, kind == 'cond'
    self.y = jnp.asarray(self.arrays['in/c'].argmax(1) if cond else np.zeros(3), jnp.int32)
    widths = tuple((size, 6) for size, _ in models.WIDTHS)
    self.nets = [
      models.SingleDiscriminator(
        start, widths, 5 if cond else 1, 9, 7, kind == 'sep', None, kernels.PLAIN, jnp.float64
      )
      for start in STARTS
    ]
    self.us = {
      our_path(name.replace('weight_u', 'weight_orig')): jnp.asarray(w, jnp.float64)
      for name, w in self.raw.items()
      if name.endswith('weight_u')
    }

  def scores(self, params, maps, train, **more):
    """(Scores [B, 4], moments of the BatchNorms)."""
    found, seen = [], {}
    for i, (net, x) in enumerate(zip(self.nets, maps, strict=True)):
      name = f'mini_discs_{i}'
      variables = {'params': params[name], **{k: v.get(name, {}) for k, v in more.items()}}
      score, state = net.apply(variables, x, self.y, train, mutable=['moments'])
      found.append(score)
      seen[name] = state.get('moments', {})
    return jnp.concatenate(found, 1), seen

  def forward(self, params, us):
    """(Weights as their forward pass in training has them, the next u)."""
    flat = trees.flat(params)
    left = {path: spectral_norm.left(flat[path], u, 1e-12) for path, u in us.items()}
    right = {path: spectral_norm.right(flat[path], v, 1e-12) for path, v in left.items()}
    state = spectral_norm.SpectralState(trees.nest(us), trees.nest(left))
    return spectral_norm.normalize(params, state), right


def test_what_is_normalised(x64):
  heads = Heads('cond')
  flat = trees.flat(heads.params)
  assert {path for path, w in flat.items() if models.normalised(path, w)} == set(heads.us)


@functools.cache
def computed(kind):
  """What their forward and backward passes give, by one program; under x64 only."""
  heads = Heads(kind)
  csm = {who: maps_of_projection(heads.arrays, who) for who in ('real', 'fake')}

  def loss(params, us, fake_feat, real):
    weights, us = heads.forward(params, us)
    fakes, seen_fake = heads.scores(weights, project(heads.arrays, fake_feat), True)
    weights, us = heads.forward(params, us)  # the pass of real images is one step on
    reals, seen_real = heads.scores(weights, real, True)
    real_part, fake_part = losses.hinge_disc(reals, fakes)
    return real_part + fake_part, (reals, fakes, us, seen_fake, seen_real)

  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True))
  return heads, run(heads.params, heads.us, maps_of(heads.arrays, 'in/fake_feat'), csm['real'])


def project(arrays, features):
  return models.Projection(4).apply({'params': projection_of(arrays)}, features)


def maps_of_projection(arrays, who):
  return project(arrays, maps_of(arrays, f'in/{who}_feat'))


def kinds(*often):
  """All three, those not among `often` marked slow: each is looked at in one way or another."""
  slow = lambda kind: pytest.param(kind, marks=pytest.mark.slow)
  return [kind if kind in often else slow(kind) for kind in ('plain', 'cond', 'sep')]


@pytest.mark.parametrize('kind', kinds('sep'))
def test_scores_after_training(x64, kind):
  """With stored moments, and norms of the stored vectors, which are far from converged."""
  heads = Heads(kind)
  params = trees.flat(heads.params)
  for name, w in heads.raw.items():
    if name.endswith('weight_v'):
      path = our_path(name.replace('weight_v', 'weight_orig'))
      u, theirs = np.asarray(heads.us[path]), heads.raw[name.replace('weight_v', 'weight_orig')]
      params[path] = params[path] / (u @ theirs.reshape(len(u), -1) @ w)
  run = jax.jit(lambda params, maps: heads.scores(params, maps, False, stats=stats(heads))[0])
  scores = run(trees.nest(params), maps_of_projection(heads.arrays, 'real'))
  golden_style.close(scores, heads.arrays[f'out/{kind}/logits_real_eval'])


def stats(heads):
  return stats_of(heads.moments)


@pytest.mark.parametrize('kind', kinds('plain', 'cond'))
def test_losses_and_gradients(x64, kind):
  heads, ((loss, (reals, fakes, us, *seen)), (grads, by_features)) = computed(kind)
  out = under(heads.arrays, f'out/{kind}/')
  golden_style.close(reals, out['logits_real'])
  golden_style.close(fakes, out['logits_fake'])
  np.testing.assert_allclose(loss, out['d_loss'], rtol=1e-9)
  golden_style.assert_same(grads, ours(under(heads.arrays, f'grad_D_{kind}/')))
  for i, grad in enumerate(by_features):
    golden_style.close(grad, out[f'd_loss_dfake_feat{i}'])
  # What two passes in training leave: singular vectors, and moments averaged over time.
  after = under(heads.arrays, f'after_d/{kind}/')
  for name, w in after.items():
    if name.endswith('weight_u'):
      path = our_path(name.replace('weight_u', 'weight_orig'))
      np.testing.assert_allclose(us[path], w, atol=1e-6)
  moments = [trees.flat(jax.device_get(one)) for one in seen]
  for path, w in split(ours(after))[1].items():
    at, _, leaf = path.rpartition('/')
    want = heads.moments[path]
    for one in moments:
      mean = one[f'{at}/norm/{leaf}']
      want = 0.9 * want + 0.1 * mean * (unbiased(heads, path) if leaf == 'var' else 1)
    np.testing.assert_allclose(want, w, rtol=1e-5, atol=1e-6)


def unbiased(heads, path):
  """n / (n - 1) of the examples' pixels at a BatchNorm."""
  size = int(path.split('down_')[1].split('/')[0])
  start = STARTS[int(path.split('/')[0].rsplit('_', 1)[1])]
  true = {128: 64, 64: 32, 32: 16, 16: 8}[start] * size // start  # pixels behind the block
  side = 2 * true if heads.kind == 'sep' else true  # which pools behind the norm
  num = 3 * side**2
  return num / (num - 1)
