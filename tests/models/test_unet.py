"""The U-Nets of IDDPM and ADM: published numbers of parameters, the official outputs, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import errors, trees
from bigjax.models import unet
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.tables import Tables
from bigjax.sampling.importers import openai_diffusion

from counts import num_params
from golden_files import golden, under
from golden_unets import assert_same, nhwc, official, official_classifier, said, shapes

ADM = {'updown': True, 'head_dim': 64, 'attention': (32, 16, 8)}


# Those of the configs: tests/algorithms/test_diffusion.py.
@pytest.mark.parametrize(
  'resolution, num_classes, ch, more, count',
  [
    (32, 0, 128, {'blocks': 3, 'heads': 4}, 52_546_438),
    (256, 1000, 192, {'heads': 4, 'low_resolution': 64}, 279_792_390),
    (64, 1000, 192, {**ADM, 'blocks': 3}, 295_904_454),
  ],
)
def test_counts(resolution, num_classes, ch, more, count):
  assert num_params(shapes(unet.UNet(resolution, 3, num_classes, ch, **more))) == count


@pytest.mark.parametrize('resolution, count', [(128, 42_568_040), (256, 54_096_360)])
def test_counts_of_classifiers(resolution, count):
  net = unet.Classifier(resolution, 3, 1000, 128, blocks=2, **ADM)
  assert num_params(shapes(net)) == count


# --- The official outputs


@functools.cache
def gradients(name, schedule='linear', num=1000, times=1.0):
  """(x_t, what the network says of it, terms, gradients of the mean L_hybrid by official names)."""
  net, params, inputs = official(name)
  of, t, y = Process(Tables(schedule, num)), inputs['t'], inputs.get('y')
  x_start = inputs['x_start'] if 'x_start' in inputs else inputs['high_res']
  more = {}
  if name == 'adm_superres':
    b, h, w, c = x_start.shape
    more = {'low': x_start.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))}
  x = of.noised(x_start, t, inputs['noise'])

  def loss(params):
    out = net.apply({'params': params}, x, t.astype(jnp.float32) * times, y, **more)
    terms = of.losses('rescaled_mse', out, x_start, x, t, inputs['noise'])
    return terms['loss'].mean(), (out, terms)

  (_, (out, terms)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  return x, out, terms, openai_diffusion.params_out(grads)


def assert_same_gradients(ours, theirs, most=1e-3):
  assert set(ours) == set(theirs)
  whole = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
  for key, want in theirs.items():
    error = np.linalg.norm(ours[key] - want)
    assert error <= most * max(np.linalg.norm(want), 1e-4 * whole), (key, error)


@pytest.mark.parametrize('name', ['adm_uncond', 'adm_cond'])
def test_official_outputs(name):
  arrays, t = golden(name), official(name)[2]['t']
  assert_same(unet.sinusoid(t, 32), arrays['out/time_embedding_sinusoid'])
  x, out, terms, _ = gradients(name)
  assert_same(x, arrays['out/x_t'])
  assert_same(out, arrays['out/model_out'])
  for term in ('mse', 'vb', 'loss'):
    np.testing.assert_allclose(terms[term], arrays[f'out/hybrid/{term}'], rtol=1e-4)


@pytest.mark.parametrize('name', ['adm_uncond', 'adm_cond'])
def test_official_gradients(name):
  arrays = golden('grad_adm_cond' if name == 'adm_cond' else name)
  *_, grads = gradients(name)
  assert_same_gradients(grads, under(arrays, 'grad/'))


def test_official_superresolution():
  arrays = golden('adm_superres')
  _, _, inputs = official('adm_superres')
  out = said('adm_superres')(inputs['x_t'], inputs['t'], low=inputs['low_res'])
  assert_same(out, arrays['out/model_out'])
  up = unet.resize(inputs['low_res'], 16, 'torch_bilinear')
  assert_same(up, arrays['out/low_res_upsampled'])
  _, _, terms, grads = gradients('adm_superres')
  for term in ('mse', 'vb', 'loss'):
    np.testing.assert_allclose(terms[term], arrays[f'out/hybrid/{term}'], rtol=1e-4)
  assert_same_gradients(grads, under(arrays, 'grad/'))


def test_official_improved_ddpm():
  """Its steps are told as if there were a thousand."""
  arrays = golden('iddpm')
  _, _, inputs = official('iddpm')
  t = inputs['t']
  told = t.astype(jnp.float32) * (1000 / 4000)
  np.testing.assert_allclose(told, arrays['out/model_timesteps'])
  x, out, _, grads = gradients('iddpm', 'cosine', 4000, 1000 / 4000)
  assert_same(out, arrays['out/model_out'])
  assert_same_gradients(grads, under(arrays, 'grad/'))
  for schedule in ('linear', 'cosine'):
    of = Process(Tables(schedule, 4000))
    x = of.noised(inputs['x_start'], t, inputs['noise'])
    out = said('iddpm')(x, told)
    for loss in ('rescaled_mse', 'rescaled_kl'):
      terms = of.losses(loss, out, inputs['x_start'], x, t, inputs['noise'])
      for term, value in terms.items():
        want = arrays[f'out/{schedule}/{loss.upper()}/{term}']
        np.testing.assert_allclose(value, want, rtol=1e-4)


def test_official_classifier():
  arrays = golden('adm_guidance')
  net, params = official_classifier()
  x, t, y = nhwc(arrays['in/x']), *(arrays[f'in/{k}'].astype(np.int32) for k in ('t', 'y'))

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def gradients(params, x):
    logits = net.apply({'params': params}, x, t)
    picked = jax.nn.log_softmax(logits)[jnp.arange(len(y)), y]
    return picked.sum(), (logits, picked)

  (of_params, of_x), (logits, picked) = gradients(params, x)
  assert_same(logits, arrays['out/logits'])
  assert_same(picked, arrays['out/log_prob_y'])
  assert_same(of_x, arrays['out/grad_x_log_prob'], 1e-3)
  # The cross entropy is minus the mean.
  grads = openai_diffusion.params_out(jax.tree.map(lambda g: -g / len(y), of_params))
  assert_same_gradients(grads, under(arrays, 'grad_classifier/'))


# --- What needs no file

TINY = unet.UNet(8, 1, 3, 32, widths=(1, 1), blocks=1, attention=(4,), heads=2)
SMALLER = TINY.clone(widths=(1,), attention=(8,))
# One program each for all that asks them of four images.
say_tiny, say_smaller = jax.jit(TINY.apply), jax.jit(SMALLER.apply)


def drawn(net, seed=0, scale=0.1):
  """Weights of which none is 0."""
  leaves = trees.map_paths(
    lambda path, leaf: (
      scale * jax.random.normal(jax.random.key(seed + trees.stable_hash(path) % 1000), leaf.shape)
    ),
    shapes(net),
  )
  return {'params': leaves}


def some(num=4, size=8, channels=1):
  keys = jax.random.split(jax.random.key(1), 2)
  x = jax.random.normal(keys[0], (num, size, size, channels))
  return x, jnp.arange(num, dtype=jnp.int32) * 100, jnp.arange(num, dtype=jnp.int32) % 3


def test_a_fresh_network_says_nothing():
  x, t, y = some()
  variables = jax.jit(SMALLER.init)(jax.random.key(0), x, t, y)
  assert (say_smaller(variables, x, t, y) == 0).all()


def test_a_block_that_begins_resamples_its_input():
  """With a branch of 0, halved maps are means, doubled ones copies."""
  x, emb = jax.random.normal(jax.random.key(0), (2, 8, 8, 32)), jnp.zeros((2, 128))
  for resample, want in (('down', unet.mean_pool(x)), ('up', unet.upsample(x)), ('none', x)):
    block = unet.ResBlock(32, resample, True, 0.0, unet.FAST, jnp.float32)
    variables = block.init(jax.random.key(1), x, emb, None)
    np.testing.assert_allclose(block.apply(variables, x, emb, None), want, atol=1e-6)


def test_orders_of_heads_agree_once_kernels_are_permuted():
  rng = np.random.RandomState(0)
  tokens, kernel = rng.randn(2, 9, 12).astype('f'), rng.randn(12, 36).astype('f')
  heads_first = tokens @ kernel
  permuted = kernel.reshape(12, 3, 3, 4).transpose(0, 2, 1, 3).reshape(12, 36)
  one = unet.attend(jnp.asarray(heads_first), 3, unet.FAST, split_first=False)
  other = unet.attend(jnp.asarray(tokens @ permuted), 3, unet.FAST, split_first=True)
  np.testing.assert_allclose(one, other, atol=1e-5)
  wrong = unet.attend(jnp.asarray(heads_first), 3, unet.FAST, split_first=True)
  assert np.abs(wrong - one).max() > 0.1


def test_labels_and_steps_change_what_is_said_and_neighbours_do_not():
  say = functools.partial(say_tiny, drawn(TINY))
  x, t, y = some()
  out = say(x, t, y)
  assert out.shape == (4, 8, 8, 2)
  for other in (say(x, t + 1, y), say(x, t, (y + 1) % 3)):
    assert np.abs(other - out).max() > 1e-3
  others = [x.at[:2].add(1.0), t.at[:2].add(5), y.at[:2].set(2)]
  np.testing.assert_allclose(say(*others)[2:], out[2:], atol=1e-5)
  np.testing.assert_allclose(say(x, t, jax.nn.one_hot(y, 3)), out, atol=1e-5)


def test_dropout_is_of_each_example_and_only_where_there_are_keys():
  net = TINY.clone(dropout=0.3)
  variables, (x, t, y) = drawn(net), some()
  keys = jax.random.split(jax.random.key(5), 4)
  say = functools.partial(jax.jit(net.apply), variables)
  out = say(x, t, y, keys)
  assert np.abs(out - say_tiny(variables, x, t, y)).max() > 1e-3
  without, plain = (
    jax.jit(lambda *of, net=net: net.apply(*of)).lower(variables, x, t, y).as_text()
    for net in (net, TINY)
  )
  assert without == plain
  others = jax.random.split(jax.random.key(6), 4).at[1:3].set(keys[1:3])
  part = say(x.at[jnp.array([0, 3])].add(1.0), t, y, others)
  np.testing.assert_allclose(part[1:3], out[1:3], atol=1e-5)
  assert np.abs(part - out).max() > 1e-3


def test_remat_and_low_precision():
  variables, (x, t, y) = drawn(SMALLER), some()
  of = lambda net: lambda v: jnp.square(net.apply(v, x, t, y)).sum()
  grad = lambda net: jax.jit(jax.grad(of(net)))(variables)
  for one, other in zip(
    *(jax.tree.leaves(grad(SMALLER.clone(remat=on))) for on in (False, True)), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
  out = say_smaller(variables, x, t, y)
  low = jax.jit(SMALLER.clone(dtype=jnp.bfloat16).apply)(variables, x, t, y)
  assert low.dtype == jnp.float32 and np.abs(low - out).max() < 0.05 * np.abs(out).max()


def test_an_image_to_enlarge_and_how_noisy_it_is_are_seen():
  net = TINY.clone(low_resolution=4, augmented=True)
  variables, (x, t, y) = drawn(net), some()
  low, level = jnp.ones((4, 4, 4, 1)), jnp.zeros((4,))
  of = jax.jit(lambda low, level: net.apply(variables, x, t, y, low=low, level=level))
  out = of(low, level)
  assert (
    np.abs(of(-low, level) - out).max() > 1e-3 and np.abs(of(low, level + 50) - out).max() > 1e-3
  )


@pytest.mark.parametrize('how', [{'heads': 3}, {'head_dim': 5}, {'head_dim': 64}])
def test_heads_that_do_not_divide(how):
  with pytest.raises(errors.UserError, match='does not divide 32 channels'):
    shapes(TINY.clone(**how))


def test_weights_of_others_are_refused_in_a_sentence():
  params = openai_diffusion.params_out(drawn(TINY)['params'])
  wanted = shapes(TINY)
  again = openai_diffusion.params_in(params, wanted, 'a test')
  for path, leaf in trees.flat(drawn(TINY)['params']).items():
    np.testing.assert_array_equal(trees.flat(again)[path], leaf)
  name = 'middle_block.1.qkv.weight'
  for broken, words in (
    ({k: v for k, v in params.items() if k != name}, 'is missing'),
    ({**params, 'more.weight': params[name]}, 'is no part of'),
    ({**params, name: params[name][:-1]}, 'should be'),
  ):
    with pytest.raises(errors.UserError, match=words):
      openai_diffusion.params_in(broken, wanted, 'a test')
