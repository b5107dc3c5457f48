"""Laws of latents, the four truncations, weights between knots (biggan.md 2.6, 3.7, T51-T54)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bigjax.algorithms import biggan
from bigjax.algorithms.base import configs
from bigjax.core import errors, parallel
from bigjax.nn import latents
from bigjax.nn.latents import SamplingSpec
from bigjax.sampling import sampler

NORMAL = latents.LAWS['normal']
DIM, NUM = 100, 4000  # 400,000 numbers: the std of their std is 1.1e-3 of it


@pytest.fixture(scope='module')
def keys():
  return jax.random.split(jax.random.key(0), NUM)


def sample(keys, t, dialect):
  z = np.asarray(jax.jit(NORMAL.draw, static_argnums=1)(keys, DIM, SamplingSpec(t, dialect)))
  assert z.shape == (len(keys), DIM) and z.dtype == np.float32
  return z.astype(np.float64)


def cdf(t):
  return 0.5 * (1 + math.erf(t / math.sqrt(2)))


def truncated_std(t):
  """Std of N(0, 1) given |z| <= t: sqrt(1 - 2 t phi(t) / (2 Phi(t) - 1))."""
  phi = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
  return math.sqrt(1 - 2 * t * phi / (2 * cdf(t) - 1))


# (t, dialect, std, bound); the stds of the first two laws are printed in section 2.6 and T51.
@pytest.mark.parametrize(
  ('t', 'dialect', 'std', 'bound'),
  [
    (0.5, 'resample', 0.2839, 0.5),
    (1.0, 'resample', 0.5396, 1.0),
    (2.0, 'resample', 0.8796, 2.0),
    (0.25, 'truncnorm', 0.2199, 0.5),
    (0.5, 'truncnorm', 0.4398, 1.0),
    (1.0, 'truncnorm', 0.8796, 2.0),
    (0.3, 'scale', 0.3, math.inf),
    (1.5, 'scale', 1.5, math.inf),
    # clamp: E z^2 = (2 Phi(1) - 1) s^2 + 2 (1 - Phi(1)), s = 0.5396: 0.19877 + 0.31731
    (1.0, 'clamp', 0.71839, 1.0),
  ],
)
def test_law_of_each_dialect(keys, t, dialect, std, bound):
  z = sample(keys, t, dialect)
  assert np.abs(z).max() <= bound  # T51: always
  assert np.abs(z).max() > 0.99 * min(bound, 4 * t)  # and the range is used
  np.testing.assert_allclose(z.std(), std, rtol=5e-3)
  np.testing.assert_allclose(z.mean(), 0, atol=5 * std / math.sqrt(z.size))
  if dialect == 'resample':
    np.testing.assert_allclose(truncated_std(t), std, atol=5e-5)
    # The law between: the share within t/2.
    share = (2 * cdf(t / 2) - 1) / (2 * cdf(t) - 1)
    np.testing.assert_allclose((np.abs(z) < t / 2).mean(), share, atol=5e-3)
  if dialect == 'clamp':
    np.testing.assert_allclose((np.abs(z) == t).mean(), 2 * (1 - cdf(t)), atol=5e-3)


@pytest.mark.parametrize('dialect', list(latents.DIALECTS))
def test_untruncated_is_normal_in_every_dialect(keys, dialect):
  # T54: N(0, I), not TF-Hub's t = 1 with |z| <= 2.
  z = sample(keys, math.inf, dialect)
  normal = np.asarray(jax.jit(latents.normal, static_argnums=1)(keys, DIM))
  np.testing.assert_allclose(z, normal, rtol=1e-5, atol=1e-6)  # another program rounds otherwise
  np.testing.assert_allclose(z.std(), 1, rtol=5e-3)
  np.testing.assert_allclose((np.abs(z) > 2).mean(), 2 * (1 - cdf(2)), atol=2e-3)


@pytest.mark.parametrize('dialect', list(latents.DIALECTS))
def test_a_sample_depends_on_its_own_key_alone(keys, dialect):
  draw = jax.jit(lambda keys: NORMAL.draw(keys, 8, SamplingSpec(0.7, dialect)))
  some = draw(keys[:5])
  np.testing.assert_array_equal(draw(keys[2:4]), some[2:4])
  assert len(np.unique(np.asarray(some), axis=0)) == 5


@pytest.mark.parametrize('dialect', list(latents.DIALECTS))
def test_a_sweep_compiles_once(keys, dialect):
  # The truncation is traced, inf included; as a constant it gives the same numbers.
  draw = jax.jit(lambda keys, spec: NORMAL.draw(keys, 8, spec))
  constant = jax.jit(lambda keys: NORMAL.draw(keys, 8, SamplingSpec(0.3, dialect)))
  np.testing.assert_allclose(
    draw(keys[:3], SamplingSpec(0.3, dialect)), constant(keys[:3]), rtol=1e-6
  )
  for t in (1.7, math.inf):
    assert np.isfinite(draw(keys[:3], SamplingSpec(t, dialect))).all()
  assert draw._cache_size() == 1


@pytest.mark.parametrize('dialect', ['truncnorm', 'scale', 'clamp'])
def test_zero_is_the_mode_where_it_has_a_meaning(keys, dialect):
  assert not np.any(NORMAL.draw(keys[:2], 4, SamplingSpec(0.0, dialect)))


# Appendix E's laws: name -> (mean, variance, support), by hand. E max(n, 0) = phi(0), E max(n, 0)^2
# is half of E n^2.
PHI0 = 1 / math.sqrt(2 * math.pi)
CLOSED = {
  'normal': (0, 1, None),
  'uniform': (0, 1 / 3, None),
  'bernoulli': (0.5, 0.25, {0, 1}),
  'rademacher': (0, 1, {-1, 1}),
  'categorical': (0, 2 / 3, {-1, 0, 1}),
  'censored_normal': (PHI0, 0.5 - 1 / (2 * math.pi), None),
  'normal_times_bernoulli': (0, 0.5, None),
  # half N(0, 1), half {0, 1}: mean 1/4, E z^2 = 1/2 + 1/4
  'normal_and_bernoulli': (0.25, 0.75 - 1 / 16, None),
  # E s^2 = (low^2 + low high + high^2) / 3
  'variable_normal:0.5:2': (0, 1.75, None),
  'variable_normal:0:1': (0, 1 / 3, None),
  'variable_normal:1.5:1.5': (0, 2.25, None),
  'annealed_normal:1000': (0, 1, None),  # as sampled from; training below
}
STEP = jnp.int32(10**6)


@functools.cache
def drawn(train):
  """400,000 numbers of each law, as training draws them or as sampling does, in one program."""
  laws = {name: latents.law(name) for name in CLOSED}
  if train:
    one = lambda law, key: law.train(key, (NUM // 8, 8), DIM, STEP).reshape(NUM, DIM)
    keys = jax.random.key(1)
  else:
    one = lambda law, keys: law.draw(keys, DIM, SamplingSpec())
    keys = jax.random.split(jax.random.key(0), NUM)
  z = jax.jit(lambda keys: {name: one(law, keys) for name, law in laws.items()})(keys)
  assert {(x.shape, x.dtype.name) for x in z.values()} == {((NUM, DIM), 'float32')}
  return jax.tree.map(lambda x: np.asarray(x, np.float64), z)


def test_every_law_is_tested():
  assert {name.split(':')[0] for name in CLOSED} == {*latents.LAWS, 'variable_normal',
                                                     'annealed_normal'}  # fmt: skip
  for name in CLOSED:
    assert latents.law(name).name == name  # what a card stores is read again


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', list(CLOSED))
def test_moments_and_support_of_each_law(name, train):
  mean, var, support = CLOSED[name]
  z = drawn(train)[name]
  np.testing.assert_allclose(z.mean(), mean, atol=5 * math.sqrt(var / z.size))
  np.testing.assert_allclose(z.var(), var, rtol=0.02)
  if support:
    assert set(np.unique(z)) == support
    shares = [(z == value).mean() for value in support]
    np.testing.assert_allclose(shares, 1 / len(support), atol=4e-3)
  # Vectors, and their elements, do not go together (a standard deviation per vector is no sign).
  assert len(np.unique(z[:50], axis=0)) == 50
  unit = z - z.mean(0)
  pairs = [unit[:-1] * unit[1:], unit[:, 1:] * unit[:, :-1]]
  if name != 'normal_and_bernoulli':
    np.testing.assert_allclose([p.mean() / var for p in pairs], 0, atol=0.01)


@pytest.mark.parametrize('train', [False, True])
def test_distributions_that_two_moments_do_not_tell(train):
  z = drawn(train)['normal']
  assert stats.kstest(z[:, :10].ravel(), 'norm').pvalue > 1e-3
  assert stats.kstest(drawn(train)['uniform'][:, :10].ravel(), 'uniform', (-1, 2)).pvalue > 1e-3
  z = drawn(train)['censored_normal']
  np.testing.assert_allclose((z == 0).mean(), 0.5, atol=4e-3)
  assert z.min() == 0 and stats.kstest(z[:, :10][z[:, :10] > 0], 'halfnorm').pvalue > 1e-3
  z = drawn(train)['normal_times_bernoulli']
  np.testing.assert_allclose((z == 0).mean(), 0.5, atol=4e-3)
  assert stats.kstest(z[:, :10][z[:, :10] != 0], 'norm').pvalue > 1e-3
  z = drawn(train)['normal_and_bernoulli']
  assert stats.kstest(z[:, :10].ravel(), 'norm').pvalue > 1e-3
  assert set(np.unique(z[:, DIM // 2 :])) == {0, 1}
  np.testing.assert_allclose(z[:, DIM // 2 :].mean(), 0.5, atol=4e-3)
  odd = latents.law('normal_and_bernoulli').train(jax.random.key(0), (2,), 7, STEP)
  assert odd.shape == (2, 7) and set(np.unique(odd[:, 3:])) <= {0, 1} and odd[:, :3].all()


@pytest.mark.parametrize('train', [False, True])
def test_variable_normal_has_a_uniform_deviation_per_vector(train):
  law, dim, num = latents.law('variable_normal:0.5:2'), 3000, 500
  if train:
    z = jax.jit(lambda key: law.train(key, (num,), dim, STEP))(jax.random.key(0))
  else:
    z = jax.jit(lambda keys: law.draw(keys, dim, SamplingSpec()))(
      jax.random.split(jax.random.key(0), num)
    )
  z = np.asarray(z, np.float64)
  std = z.std(1)  # to 1.3 %
  assert stats.kstest(std, 'uniform', (0.5, 1.5)).pvalue > 1e-3
  assert std.min() < 0.53 and std.max() > 1.95
  assert stats.kstest((z / std[:, None])[:, :20].ravel(), 'norm').pvalue > 1e-3


def test_annealed_normal_narrows_from_two_to_one():
  """Section 3.7; T53: these are standard deviations, not variances."""
  law = latents.law('annealed_normal:1000')
  train = jax.jit(lambda step: law.train(jax.random.key(0), (50,), 20, step))
  plain = np.asarray(jax.jit(lambda key: NORMAL.train(key, (50,), 20, STEP))(jax.random.key(0)))
  for step, factor in [(0, 2), (250, 1.75), (500, 1.5), (1000, 1), (1001, 1), (10**6, 1)]:
    np.testing.assert_allclose(train(jnp.int32(step)), factor * plain, rtol=1e-6)
  assert train._cache_size() == 1  # the step is traced
  keys = jax.random.split(jax.random.key(3), 4)
  for how in (
    SamplingSpec(),
    SamplingSpec(0.5),
    SamplingSpec(0.5, 'scale'),
  ):  # sampling is from what training ends with
    np.testing.assert_array_equal(law.draw(keys, 9, how), NORMAL.draw(keys, 9, how))


def test_the_normal_law_is_the_plain_normal():
  key, keys = jax.random.key(2), jax.random.split(jax.random.key(0), 6)
  np.testing.assert_array_equal(NORMAL.draw(keys, 9, SamplingSpec()), latents.normal(keys, 9))
  np.testing.assert_array_equal(latents.normal(keys, 9)[4], jax.random.normal(keys[4], (9,)))
  np.testing.assert_array_equal(
    NORMAL.train(key, (2, 3), 9, STEP), jax.random.normal(key, (2, 3, 9))
  )


def test_a_vector_of_any_law_depends_on_its_own_key_alone():
  @jax.jit
  def draw(keys):
    laws = [latents.law(name) for name in CLOSED]
    of = lambda law: SamplingSpec(0.7, law.dialects[0]) if law.dialects else SamplingSpec()
    return [law.draw(keys, 16, of(law)) for law in laws]

  keys = jax.random.split(jax.random.key(5), 9)
  for name, whole, part in zip(CLOSED, draw(keys), draw(keys[2:6]), strict=True):
    np.testing.assert_array_equal(part, whole[2:6], err_msg=name)
    assert len(np.unique(np.asarray(whole), axis=0)) == 9


# Which truncation means something for which law: those of the normals in it, or a factor.
DISCRETE = ('bernoulli', 'rademacher', 'categorical')


@pytest.mark.parametrize('name', list(CLOSED))
def test_dialects_of_each_law(name):
  want = {'uniform': {'scale'}, **{discrete: set() for discrete in DISCRETE}}
  assert set(latents.law(name).dialects) == want.get(name, set(latents.DIALECTS))


@pytest.mark.parametrize('t', [0.4, 1.5, math.inf])
@pytest.mark.parametrize('name', [n for n in CLOSED if n not in DISCRETE])
def test_scale_is_a_factor(name, t):
  law, keys = latents.law(name), jax.random.split(jax.random.key(0), 5)
  factor = 1 if t == math.inf else t
  whole = law.draw(keys, 12, SamplingSpec())
  np.testing.assert_allclose(
    law.draw(keys, 12, SamplingSpec(t, 'scale')), factor * whole, rtol=1e-6
  )


@pytest.mark.parametrize('t', [0.4, 1.5])
@pytest.mark.parametrize('dialect', ['resample', 'truncnorm', 'clamp'])
def test_other_truncations_are_of_the_normals_in_a_law(dialect, t):
  keys, dim = jax.random.split(jax.random.key(0), 50), 12
  draw = lambda name: np.asarray(latents.law(name).draw(keys, dim, SamplingSpec(t, dialect)))
  n = np.asarray(latents.DIALECTS[dialect].draw(keys, dim, t))
  u = np.asarray(latents.uniform(keys, dim))
  coin = u < 0.5
  np.testing.assert_array_equal(draw('normal'), n)
  np.testing.assert_array_equal(draw('annealed_normal:9'), n)
  np.testing.assert_array_equal(draw('censored_normal'), np.maximum(n, 0))
  np.testing.assert_array_equal(draw('normal_times_bernoulli'), n * coin)
  both = draw('normal_and_bernoulli')
  np.testing.assert_array_equal(both, np.where(np.arange(dim)[None] < dim // 2, n, coin))
  np.testing.assert_allclose(draw('variable_normal:0.5:2'), n * (0.5 + 1.5 * u[:, :1]), rtol=1e-6)
  if dialect != 'truncnorm':
    assert draw('censored_normal').max() <= np.float32(t) < np.abs(latents.normal(keys, dim)).max()


def generator_of(latent):
  """digits:tiny's generator with latents of this law, what samples it, and its card's settings."""
  config = configs.read('digits:tiny')
  config.model.latent = latent
  game = biggan.make(config)
  ((_, stage),) = game.stages(1)
  generator = biggan.make_generator(game.architecture(stage))
  return sampler.Sampler(generator, parallel.make_mesh(jax.devices()[:1])), game.sampling()


@pytest.mark.parametrize('name', ['uniform', *DISCRETE])
def test_a_truncation_that_means_nothing_is_refused_in_one_sentence(name):
  sampler, sampling = generator_of(name)
  generator, dialects = sampler.generator, sampler.generator.law.dialects
  whole = generator.spec(sampling)
  assert whole.truncation == math.inf and sampler.latents(0, 3, whole).shape == (3, 12)
  assert generator.spec(sampling, {'truncation': 'none'}) == whole
  refused = [
    lambda: generator.spec(sampling, {'truncation': '0.5'}),
    lambda: generator.spec(sampling, {'truncation': '0.5:clamp'}),
    lambda: generator.prepared({**sampling, 'truncations': ['none', '0.5']}),
    lambda: latents.check_truncation(SamplingSpec(2.0, 'truncnorm'), dialects),
  ]
  if name != 'uniform':
    refused.append(lambda: generator.spec(sampling, {'truncation': '0.5:scale'}))
    refused.append(lambda: generator.spec({**sampling, 'dialect': 'scale'}, {'truncation': '0.5'}))
  for refuse in refused:
    with pytest.raises(errors.UserError, match='means nothing for the latents') as error:
      refuse()
    assert str(error.value).endswith('use none.') and '\n' not in str(error.value)
  assert generator.prepared({**sampling, 'truncations': ['none']}) == [whole]


def test_a_truncation_that_means_something_is_not_refused():
  sampler, sampling = generator_of('uniform')
  sampling |= {'truncations': ['0.5', 'none'], 'dialect': 'scale'}
  half, whole = sampler.generator.prepared(sampling)
  assert (half.truncation, half.dialect, whole.truncation) == (0.5, 'scale', math.inf)
  z = sampler.latents(0, 3, half)
  np.testing.assert_allclose(z, 0.5 * sampler.latents(0, 3, whole), rtol=1e-6)
  assert set(generator_of('normal')[0].generator.law.dialects) == set(latents.DIALECTS)


def test_first_latents_do_not_depend_on_their_number():
  generator = generator_of('variable_normal:0.5:2')[0].generator
  key = jax.random.key(4)
  draw = jax.jit(lambda num: generator.latents(key, num, SamplingSpec()), static_argnums=0)
  few, many = draw(3), draw(7)
  np.testing.assert_array_equal(few, many[:3])
  assert len(np.unique(np.asarray(many), axis=0)) == 7


@pytest.mark.parametrize(
  'name',
  [
    '', 'gaussian', 'normal:1', 'uniform:-1:1', 'annealed_normal', 'annealed_normal:',
    'annealed_normal:0', 'annealed_normal:-5', 'annealed_normal:soon', 'annealed_normal:nan',
    'annealed_normal:inf', 'annealed_normal:10:20', 'variable_normal', 'variable_normal:1',
    'variable_normal:2:1', 'variable_normal:-1:1', 'variable_normal:0:0', 'variable_normal:a:b',
    'variable_normal:nan:1', 'variable_normal:0:nan', 'variable_normal:0:inf',
    'variable_normal:1:2:3', ':1',
  ],
)  # fmt: skip
def test_a_law_that_makes_no_sense_is_refused(name):
  with pytest.raises(errors.UserError) as error:
    latents.law(name)
  message = str(error.value)
  assert f'model.latent is {name!r}' in message and 'variable_normal:LOW:HIGH' in message
  assert message.endswith('.') and '\n' not in message


def test_a_misspelt_law_is_guessed():
  with pytest.raises(errors.UserError, match='did you mean censored_normal'):
    latents.law('censored_norml')


@pytest.mark.parametrize(
  ('text', 'spec'),
  [
    ('0.5', SamplingSpec(0.5, 'resample')),
    ('2', SamplingSpec(2.0, 'resample')),
    ('1:scale', SamplingSpec(1.0, 'scale')),
    ('0.4:truncnorm', SamplingSpec(0.4, 'truncnorm')),
    ('none', SamplingSpec(math.inf)),
    ('inf', SamplingSpec(math.inf)),
    ('0:scale', SamplingSpec(0.0, 'scale')),
  ],
)
def test_parse(text, spec):
  assert latents.parse(text) == spec


def test_parse_takes_the_dialect_that_is_meant_where_none_is_named():
  assert latents.parse('0.5', 'truncnorm') == SamplingSpec(0.5, 'truncnorm')
  assert latents.parse('0.5:clamp', 'truncnorm') == SamplingSpec(0.5, 'clamp')


def test_printed_truncation_names_its_law():
  # T51: "truncation 0.5" alone means two different things.
  for dialect in latents.DIALECTS:
    assert '0.5' in str(SamplingSpec(0.5, dialect)) and dialect in str(SamplingSpec(0.5, dialect))
  assert str(SamplingSpec()) == 'untruncated'


@pytest.mark.parametrize('text', ['', 'half', '0.5;scale', ':scale'])
def test_parse_refuses_what_is_no_number(text):
  with pytest.raises(errors.UserError, match='write t or t:dialect'):
    latents.parse(text)


@pytest.mark.parametrize('text', ['-0.5', 'nan:scale', '0', '-inf:clamp'])
def test_parse_refuses_a_truncation_without_meaning(text):
  with pytest.raises(errors.UserError, match='leaves nothing to draw'):
    latents.parse(text)


def test_parse_refuses_an_unknown_dialect_and_suggests():
  with pytest.raises(errors.UserError, match='did you mean truncnorm'):
    latents.parse('0.5:truncnrom')
  with pytest.raises(errors.UserError, match='expected one of: resample'):
    latents.parse('0.5', 'gauss')


@pytest.mark.parametrize(
  ('knots', 't', 'want'),
  [
    # T52: a quarter of the way up the lower knot weighs 0.75; Hugging Face's port has 0.25.
    ([0.2, 0.4], 0.25, [0.75, 0.25]),
    ([0.2, 0.4, 1.0], 0.85, [0, 0.25, 0.75]),
    ([0.2, 0.4], 0.3, [0.5, 0.5]),
    ([0.2, 0.4, 1.0], 0.4, [0, 1, 0]),
    ([0.2, 0.4, 1.0], 0.2, [1, 0, 0]),  # on a knot
    ([0.2, 0.4, 1.0], 1.0, [0, 0, 1]),
    ([0.2, 0.4], 0.1, [1, 0]),
    ([0.2, 0.4], 3.0, [0, 1]),
    ([0.2, 0.4], math.inf, [0, 1]),  # ends
    ([0.5, 1.0, math.inf], 0.75, [0.5, 0.5, 0]),
    ([0.5, 1.0, math.inf], 1.5, [0, 1, 0]),  # towards inf: the last finite one
    ([0.5, 1.0, math.inf], math.inf, [0, 0, 1]),
    ([math.inf], 0.5, [1]),
    ([math.inf], math.inf, [1]),
    ([0.5], 0.1, [1]),
    ([0.5], 0.9, [1]),
  ],
)
def test_knot_weights(knots, t, want):
  got = jax.jit(latents.knot_weights)(jnp.array(knots, jnp.float32), t)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_knot_weights_interpolate_linearly():
  # What they are for: a quantity linear between knots is read exactly, and the weights sum to 1.
  knots = jnp.array([0.02, 0.3, 0.5, 1.0])
  weights_at = jax.jit(latents.knot_weights)
  for t in np.linspace(0.02, 1.0, 23):
    weights = np.asarray(weights_at(knots, float(t)), np.float64)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(weights @ np.asarray(knots), t, atol=1e-6)
    assert (weights >= 0).all()


# The code that goes with an exported program.

ALL_LAWS = [*latents.LAWS, 'annealed_normal:10', 'variable_normal:0.5:1.5']


def test_recipes_draw_our_latents():
  """Of every law, in every dialect that means something for it; compiled together, to save time."""
  specs = {d: SamplingSpec(0.7, d) for d in latents.DIALECTS} | {'none': SamplingSpec()}
  laws = [latents.law(name) for name in ALL_LAWS]
  cases = [(law, specs[d]) for law in laws for d in ('none', *law.dialects)]

  def drawn(law, spec):
    scope, code = {}, latents.recipe(law, 7, spec)
    assert 'bigjax' not in code.replace('the z of bigjax sample', '')
    exec(code, scope)
    return scope['latents'](5, 3)

  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(np.arange(3))
  ours, theirs = jax.jit(
    lambda: (
      [law.draw(keys, 7, spec) for law, spec in cases],
      [drawn(law, spec) for law, spec in cases],
    )
  )()
  for (law, spec), our, their in zip(cases, ours, theirs, strict=True):
    assert their.dtype == np.float32
    np.testing.assert_allclose(their, our, rtol=1e-6, atol=1e-7, err_msg=f'{law.name}, {spec}')
