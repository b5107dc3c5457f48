"""BigBiGAN's losses against a reference (golden file), and its game on linear players.

Of what is known of it, these cannot be tested here: the paper's scores, which take a TPU pod, and
TF-Hub's encoder, of whose arrays there is no public list. That E(G(z)) comes to agree with z, and
that probes of a trained encoder beat others, takes whole runs: benchmarks/bigbigan_probe.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax.algorithms import bigbigan
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.contract import Stage
from bigjax.algorithms.base.generators import parts
from bigjax.algorithms.base.player import Player
from bigjax.core import errors, trees
from bigjax.models import bigbigan as models
from bigjax.nn import latents, optim, schedules

from golden_files import golden, under
from networks import pictures, weights

# --- Losses


def scored(params):
  """The golden file's heads: linear scores of F, H, and of a perceptron of both."""
  relu = lambda x: jnp.maximum(x, 0)

  def of(f, h):
    j = relu(jnp.concatenate([f, h], 1) @ params['j_w1'] + params['j_b1'])
    parts = {'xz': (j, 'theta_xz', 2), 'x': (f, 'theta_x', 0), 'z': (h, 'theta_z', 1)}
    return {k: (part @ params[name])[:, 0] + params['b'][i] for k, (part, name, i) in parts.items()}

  return of(params['f_real'], params['h_enc']), of(params['f_fake'], params['h_z'])


@pytest.mark.usefixtures('x64')
def test_losses_scores_and_gradients_of_the_reference():
  file = golden('bigbigan_losses')
  params = {name: jnp.asarray(a, jnp.float64) for name, a in under(file, 'in/').items()}

  @jax.jit
  def everything(params):
    of_disc = lambda params: sum(bigbigan.disc_loss(*scored(params)))
    of_gen_enc = lambda params: sum(bigbigan.gen_enc_loss(*scored(params)))
    return (
      scored(params),
      jax.value_and_grad(of_disc)(params),
      jax.value_and_grad(of_gen_enc)(params),
    )

  with jax.numpy_rank_promotion('allow'), jax.default_matmul_precision('highest'):
    scores, (d_loss, d_grads), (eg_loss, eg_grads) = everything(params)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
  for kind, found in zip(('enc', 'gen'), scores, strict=True):
    for name, value in found.items():
      close(value, file[f'out/s_{name}_{kind}'], err_msg=name)
  close(d_loss, file['out/d_loss'])
  close(eg_loss, file['out/eg_loss'])
  assert abs(float(d_loss) - file['ours/hinge_of_sum_wrong']) > 0.1  # one hinge for each score
  close(d_loss / 3, file['ours/hub_mean_convention_d_loss'])
  for grads, name in ((d_grads, 'grad_d'), (eg_grads, 'grad_eg')):
    for path, grad in grads.items():
      close(grad, file[f'out/{name}/{path}'], err_msg=f'{name}/{path}')


def test_the_encoder_lowers_scores_and_the_generator_raises_them():
  """Means: 1/B and -1/B."""
  scores = {name: jnp.arange(4.0) for name in ('xz', 'x', 'z')}
  loss = lambda enc, gen: sum(bigbigan.gen_enc_loss(enc, gen))
  for_enc, for_gen = jax.jit(jax.grad(loss, argnums=(0, 1)))(scores, scores)
  for name in scores:
    np.testing.assert_allclose(for_enc[name], 1 / 4)
    np.testing.assert_allclose(for_gen[name], -1 / 4)


# --- The game, of players that are linear

SIDE, Z, NUM = 2, 3, 8
RATE, TIMES = 0.1, 10.0


class Line(nn.Module):
  """A generator: images that are linear in z, and in the label that it is given."""

  resolution: int = SIDE
  channels: int = 1
  z_dim: int = Z
  num_classes: int = 1
  bn_group: int | None = None
  side: int = SIDE

  @nn.compact
  def __call__(self, z, y, train):
    flat = nn.Dense(self.side**2, use_bias=False)(z) + y[:, None].astype(z.dtype)
    return flat.reshape(-1, self.side, self.side, 1)


class Back(nn.Module):
  """An encoder: latents that are linear in the image, whose first moment it sows."""

  resolution: int = SIDE
  bn_group: int | None = None

  @nn.compact
  def __call__(self, x, train):
    flat = x.reshape(x.shape[0], -1)
    keep = {'init_fn': lambda: None, 'reduce_fn': lambda _, new: new}
    self.sow('moments', 'mean', flat.mean(0), **keep)
    mean = nn.Dense(Z, use_bias=False)(flat)
    return flat, mean, jnp.ones_like(mean)


class Judge(nn.Module):
  """Scores that are linear in the image, in the latents, and in both."""

  @nn.compact
  def __call__(self, x, z):
    x = jnp.concatenate(x)
    flat = x.reshape(x.shape[0], -1)
    weight = lambda name, n: self.param(name, nn.initializers.constant(0.01), (n,))
    return {
      'xz': flat @ weight('a', SIDE**2) + z @ weight('b', Z),
      'x': flat @ weight('v', SIDE**2),
      'z': z @ weight('u', Z),
    }


def game(posterior='deterministic', d_steps=2, **nets):
  given = {'gen_net': Line(), 'enc_net': Back(), 'disc_net': Judge()} | nets
  faster = optim.scaled(lambda path, leaf: not bigbigan.of_gen(path), TIMES)
  return bigbigan.BigBiGAN(
    **given, ge=Player(optax.sgd(RATE), after=faster), d=Player(optax.sgd(RATE)),
    d_steps=d_steps, batch=NUM, law=latents.law('normal'), posterior=bigbigan.Posterior(posterior),
    ema=schedules.ema_decay(0.9), ema_start=0,
  )  # fmt: skip


def batch_of(one):
  ((_, stage),) = one.stages(10)
  draw = lambda x: np.random.default_rng(2).uniform(-1, 1, x.shape).astype(np.float32)
  return stage, {k: draw(x) for k, x in stage.shapes().items() if k != 'label'}


def test_a_step_in_closed_form():
  """D's steps on minibatches of their own, of the others as they were; then these, on the last.

  All hinges are active, so that D's gradients are differences of means.
  """
  one = game()
  stage, batch = batch_of(one)
  assert stage == Stage(3, NUM, contract.image_inputs(SIDE, 1))

  @jax.jit
  def run(batch):
    before = one.init(jax.random.key(0))
    return before, one.examples(before, batch), one.step(before, batch, stage)

  with jax.numpy_rank_promotion('allow'):
    before, examples, (after, metrics) = jax.device_get(run(batch))
  params = lambda state, who: state['players'][who]['params']
  ge, d = params(before, 'ge'), dict(params(before, 'd'))
  w, e = ge['gen']['Dense_0']['kernel'], ge['enc']['Dense_0']['kernel']
  flat = examples['image'].reshape(3, NUM, -1)
  assert len(np.unique(examples['z'])) == 3 * NUM * Z
  for x, z in zip(flat[:2], examples['z'][:2], strict=True):
    of_image, of_z = (z @ w).mean(0) - x.mean(0), z.mean(0) - (x @ e).mean(0)
    for name, slope in (('a', of_image), ('v', of_image), ('b', of_z), ('u', of_z)):
      d[name] = d[name] - RATE * slope
  for name, value in d.items():
    np.testing.assert_allclose(params(after, 'd')[name], value, rtol=1e-4, err_msg=name)
  x, z = flat[2], examples['z'][2]
  moved = w + RATE * np.outer(z.mean(0), d['a'] + d['v'])
  moved_enc = e - TIMES * RATE * np.outer(x.mean(0), d['b'] + d['u'])
  found = params(after, 'ge')
  np.testing.assert_allclose(found['gen']['Dense_0']['kernel'], moved, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found['enc']['Dense_0']['kernel'], moved_enc, rtol=1e-4, atol=1e-6)
  # Averages: of both, and of the encoder's moments on the last minibatch; there were none before.
  averaged = 0.9 * e + 0.1 * moved_enc
  np.testing.assert_allclose(after['ema']['enc']['Dense_0']['kernel'], averaged, rtol=1e-4)
  np.testing.assert_allclose(after['aux']['enc_stats']['mean'], x.mean(0), rtol=1e-4, atol=1e-6)
  assert metrics['refused'] == 0
  np.testing.assert_allclose(metrics['e_loss'] + metrics['g_loss'], sum(
    ((x.mean(0) - (z @ w).mean(0)) @ (d['a'] + d['v']), ((x @ e).mean(0) - z.mean(0)) @ (
      d['b'] + d['u'])),
  ), rtol=1e-3, atol=1e-5)  # fmt: skip


def test_gradients_go_where_the_paper_has_them():
  """x and z are data: E learns nothing of scores of x, G nothing of scores of z; of a pair both.

  With the real joint discriminator, in which F sees 2 B images once for both of its scores; or,
  for the generator's and the encoder's step, B and B, of which the real ones have no backward pass.
  """
  calls = []
  net = models.JointDiscriminator(4, (1, 1, 1), 2, (), 16)
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 1)), jnp.float32)
  z = jnp.asarray(np.random.default_rng(1).normal(size=(2, Z)), jnp.float32)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), (image,), z))['params']
  rng = np.random.default_rng(3)
  params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) / 3, jnp.float32), shapes)
  one = game(gen_net=Line(side=16), disc_net=net)
  weights = {'gen': {'Dense_0': {'kernel': jnp.ones((Z, 256))}},
             'enc': {'Dense_0': {'kernel': jnp.ones((256, Z))}}}  # fmt: skip
  real = {'image': image, 'z': z, 'keys': jax.random.split(jax.random.key(4), 2)}

  def note(next_call, args, kwargs, context):
    if isinstance(context.module, models.Features) and context.method_name == '__call__':
      calls.append(args[0].shape)
    return next_call(*args, **kwargs)

  def slopes(encoded, fake):
    """Of the mean score of each kind, by what the encoder made and by what the generator made."""
    of = lambda name: (
      lambda encoded, fake: sum(
        s[name].mean() for s in one.scores(params, (image, encoded), (fake, z))
      )
    )
    return {name: jax.grad(of(name), argnums=(0, 1))(encoded, fake) for name in ('xz', 'x', 'z')}

  def of_all(encoded, fake, apart):
    """Of their sum, as one player's step has it."""
    total = lambda encoded, fake: sum(
      s.mean() for of in one.scores(params, (image, encoded), (fake, z), apart) for s in of.values()
    )
    return jax.grad(total, argnums=(0, 1))(encoded, fake)

  with nn.intercept_methods(note):
    jax.eval_shape(lambda: one.scores(params, (image, z), (image, z)))
    assert calls == [(4, 16, 16, 1)]
    jax.eval_shape(lambda: one.gen_enc_loss(weights, {'d': params}, real))
  assert calls[1:] == [(2, 16, 16, 1)] * 2
  found, again = jax.jit(lambda *args: (slopes(*args), of_all(*args, True)))(z + 1, image)
  for i, slope in enumerate(again):
    np.testing.assert_allclose(slope, sum(pair[i] for pair in found.values()), rtol=1e-4, atol=1e-6)
  # Forward twice and backward once, not twice: three quarters, and a little for H and J.
  flops = [
    jax.jit(functools.partial(of_all, apart=apart)).lower(z, image).cost_analysis()['flops']
    for apart in (False, True)
  ]
  assert flops[1] < 0.85 * flops[0]
  any_of = {name: [bool(np.any(x)) for x in pair] for name, pair in found.items()}
  assert any_of == {'xz': [True, True], 'x': [False, True], 'z': [True, False]}


def test_what_the_links_of_the_players_reach():
  """Spectral norm and the orthogonal penalty the generator's matrices, the rate the encoder's."""
  one = bigbigan.make(configs.read('bigbigan:tiny'))
  players = jax.eval_shape(one.init, jax.random.key(0))['players']
  shapes = {name: players[name]['params'] for name in ('ge', 'd')}
  paths = {name: trees.flat(of) for name, of in shapes.items()}
  kernels = lambda name: {path for path in paths[name] if path.endswith('/kernel')}
  of_gen = {path for path in kernels('ge') if path.startswith('gen/')}
  assert of_gen and of_gen < kernels('ge')
  assert one.ge.reparametrisation.scale_free(shapes['ge']) == of_gen
  assert one.d.reparametrisation.scale_free(shapes['d']) == kernels('d') > set()

  @jax.jit
  def updates(params):
    of = lambda link, grads: link.update(grads, link.init(params), params)[0]
    return (
      of(one.ge.before, jax.tree.map(jnp.zeros_like, params)),
      of(one.ge.after, jax.tree.map(jnp.ones_like, params)),
    )

  penalty, moved = jax.device_get(updates(weights(shapes['ge'])))
  assert {path for path, x in trees.flat(penalty).items() if x.any()} == of_gen
  times = {path: np.unique(x).tolist() for path, x in trees.flat(moved).items()}
  assert times == {path: [10.0 if path.startswith('enc/') else 1.0] for path in paths['ge']}


def test_the_encoder_is_frozen():
  """What it says of an image depends on its averaged moments, and on no other image."""
  net = models.Encoder(16, 'resnet14', 4, Z, 8)
  both = bigbigan.Bidirectional(Line(), latents.law('normal'), net, bigbigan.Posterior('normal'))
  images = pictures(3, 16)
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, True))
  stats = jax.tree.map(lambda s: jnp.ones(s.shape), shapes['moments'])
  gen = {'params': {'enc': weights(shapes['params'])}, 'enc_stats': stats}
  of = jax.jit(lambda gen, x: (both.encoder.encode(gen, x), both.encoder.features(gen, x)))
  whole, one = of(gen, images), of(gen, images[:1])
  others = of({**gen, 'enc_stats': jax.tree.map(lambda s: 2 * s, stats)}, images)
  for a, b, c in zip(whole, one, others, strict=True):
    np.testing.assert_allclose(a[:1], b, rtol=1e-4, atol=1e-6)
    assert np.abs(a - c).max() > 1e-2 and np.abs(a[0] - a[1]).max() > 1e-4


def test_latents_of_an_image():
  mean, deviation = jnp.full((1000, Z), 2.0), jnp.full((1000, Z), 0.5)
  keys = jax.random.split(jax.random.key(0), 1000)
  drawn = {
    name: np.asarray(bigbigan.Posterior(name).sample(mean, deviation, keys))
    for name in bigbigan.POSTERIORS
  }
  assert abs(drawn['normal'].mean() - 2) < 0.05 and abs(drawn['normal'].std() - 0.5) < 0.05
  np.testing.assert_array_equal(drawn['deterministic'], 2)
  np.testing.assert_allclose(drawn['tanh'], np.tanh(2), rtol=1e-6)
  np.testing.assert_allclose(bigbigan.Posterior('normal').centre(mean), 2)


# --- Configs, and what is left after training


def test_the_encoder_sees_images_of_twice_the_size():
  config = configs.read('bigbigan:tiny')
  ((_, stage),) = bigbigan.make(config).stages(2)
  sizes = {name: one.shape[0] for name, one in stage.inputs if one.shape}
  assert sizes == {'image': 16, 'enc_image': 32} and stage.image == (16, 16, 3)
  ((_, stage),) = bigbigan.make(configs.read('bigbigan:digits')).stages(2)
  assert [name for name, _ in stage.inputs] == ['image', 'label']


ROWS = {
  'base': (
    'deterministic', 'uniform', 'x_unary', 'z_unary', 'no_unaries', 'gen_ch32', 'gen_ch64',
  ),
  'enc256': (
    'gen64', 'imagenet256', 'resnet101', 'resnet50x2', 'revnet50', 'revnet50x2', 'revnet50x4',
  ),
}  # fmt: skip


@pytest.mark.parametrize('row', [f'{kind},{x}' for kind, words in ROWS.items() for x in words])
def test_rows_of_the_ablation_can_be_trained_and_sampled(row):
  """As a start asks, with nothing compiled: their settings go together."""
  config = configs.read(f'bigbigan:{row}')
  algorithm = bigbigan.make(config)
  generator = bigbigan.make_generator(algorithm.architecture(None))
  assert len(generator.prepared(algorithm.sampling())) == len(config.export.truncations)
  assert config.optim.enc_lr_times == 1 and config.run.remat == ('revnet' in row)
  assert generator.encoder.shape == (128 if row.startswith('base') else 256,) * 2 + (3,)


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('data.num_classes', 10, 'without labels'),
    ('data.resolution', 48, 'power of two'),
    ('model.enc_ch', 6, 'multiple of 4'),
    ('model.unaries', ('y',), 'model.unaries'),
    ('model.latent', 'uniform', 'belong together'),
    ('model.z_dim', 13, 'equal chunks'),
    ('model.resolution', 8, 'has networks for'),
  ],
)
def test_refused_configs(key, value, words):
  config = configs.read('bigbigan:tiny')
  group, name = key.split('.')
  config[group][name] = value
  with pytest.raises(errors.UserError, match=words):
    bigbigan.check(config)


def test_images_do_not_depend_on_labels_and_preparing_keeps_the_encoder():
  both = bigbigan.Bidirectional(Line(), latents.law('normal'), Back(), bigbigan.Posterior('normal'))
  z = jnp.ones((2, Z))
  gen = {
    'params': {'gen': {'Dense_0': {'kernel': jnp.ones((Z, SIDE**2))}},
               'enc': {'Dense_0': {'kernel': jnp.ones((SIDE**2, Z))}}},
    'enc_stats': {'mean': jnp.zeros(SIDE**2)}, 'stats': {}, 'knots': jnp.full((1,), jnp.inf),
  }  # fmt: skip
  spec = both.spec(
    {'dialect': 'resample', 'standing_passes': 1, 'standing_batch': 2, 'truncations': ['none']}
  )
  for y in (jnp.array([0, 5]), jnp.ones((2, 7))):
    np.testing.assert_array_equal(both.generate(gen, z, y, spec), 3)
  assert set(both.bare(gen)) == {'params', 'enc_stats'}
  images = both.generate(gen, z, jnp.zeros(2), spec)
  encoder = parts.encoder_of(both, 'this')
  assert encoder.shape == (SIDE, SIDE, 1) == both.shape
  np.testing.assert_array_equal(encoder.encode(gen, images), 12)
  assert trees.flat(both.weights(gen)).keys() == {
    'gen/Dense_0/kernel', 'enc/Dense_0/kernel',
  }  # fmt: skip
