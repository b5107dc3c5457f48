"""What keeps critics in bounds: penalties, LeCam, consistency, top-k.

Sources: specs/others.md 2, 5.2 and 6, and the papers that nn/objectives/regularizers.py names.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import parallel
from bigjax.nn.objectives import regularizers

PENALTIES = {
  'gradient_penalty': regularizers.gradient_penalty,
  'r1': regularizers.r1_penalty,
  'r2': regularizers.r2_penalty,
  'dragan': regularizers.dragan_penalty,
}


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def quadratic(a):
  """D(x) = x^T A x / 2 + sum(x): its gradient is A x + 1 for a symmetric A."""

  def critic(x):
    x = x.reshape(len(x), -1)
    return 0.5 * jnp.einsum('bi,ij,bj->b', x, a, x) + x.sum(1)

  return critic


# Penalties of critics: each example's own, weight included.

W = jnp.asarray(rand(4, 3, 2), jnp.float32)
NORM = float(np.linalg.norm(rand(4, 3, 2)))


def keys(num, seed=0):
  return jax.random.split(jax.random.key(seed), num)


def linear(x, w=W):
  return jnp.einsum('bhwc,hwc->b', x, w) - 0.2


def pair(num=5):
  real, fake = rand(2, num, 4, 3, 2, seed=6)
  return real.astype(np.float32), fake.astype(np.float32)


CLOSED_FORMS = [  # of a linear critic, whose gradient is w wherever it is taken
  (regularizers.gradient_penalty(), 10 * (NORM - 1) ** 2),
  (regularizers.gradient_penalty(10 / 750**2, 750.0), 10 * (NORM / 750 - 1) ** 2),  # PGGAN's
  (regularizers.gradient_penalty(weight=3.0, target=0.0), 3 * NORM**2),
  (regularizers.gradient_penalty(one_sided=True), 10 * (NORM - 1) ** 2),
  (regularizers.gradient_penalty(target=2 * NORM), 10 * NORM**2),
  (regularizers.gradient_penalty(target=2 * NORM, one_sided=True), 0),
  (regularizers.r1_penalty(gamma=4.0), 2 * NORM**2),
  (regularizers.r2_penalty(), 5 * NORM**2),
  (regularizers.dragan_penalty(), 10 * (NORM - 1) ** 2),
]


@pytest.mark.parametrize(('penalty', 'want'), CLOSED_FORMS)
def test_penalties_of_a_linear_critic(penalty, want):
  real, fake = pair()
  got = jax.jit(penalty, static_argnums=0)(linear, real, fake, keys(5))
  np.testing.assert_allclose(got, np.full(5, want), rtol=1e-5)


@pytest.mark.parametrize('name', list(PENALTIES))
def test_where_a_penalty_is_taken(name):
  # |grad| of sum(x^2) / 2 is |x|: the penalty tells the points that it was taken at.
  real, fake = pair()
  square = lambda x: jnp.square(x).sum((1, 2, 3)) / 2
  got = np.asarray(jax.jit(PENALTIES[name](), static_argnums=0)(square, real, fake, keys(5)))
  length = lambda x: np.linalg.norm(np.asarray(x).reshape(5, -1), axis=1)
  if name in ('r1', 'r2'):
    at = real if name == 'r1' else fake
    np.testing.assert_allclose(got, 5 * length(at) ** 2, rtol=1e-5)
    return
  at = np.sqrt(got / 10) + 1  # all are longer than 1
  if name == 'gradient_penalty':  # on the segment from one image to the other
    t = np.linspace(0, 1, 2001)[:, None, None, None, None]
    a, b = np.asarray(real)[None], np.asarray(fake)[None]
    lengths = np.linalg.norm((a + t * (b - a)).reshape(2001, 5, -1), axis=-1)
    assert (np.abs(lengths - at).min(0) < 2e-3).all()
    assert len(np.unique(np.argmin(np.abs(lengths - at), axis=0))) == 5  # an alpha for each pair
  else:  # within half a standard deviation of each pixel
    std = float(np.std(np.asarray(real), ddof=1))
    assert (np.abs(at - length(real)) < 0.5 * std * 24**0.5).all()
    assert (np.abs(at - length(real)) > 1e-4).all()


@pytest.mark.parametrize('name', list(PENALTIES))
def test_a_dead_critic_is_penalised_with_finite_gradients(name):
  real, fake = pair()

  def value(w):
    return PENALTIES[name]()(lambda x: linear(x, w), real, fake, keys(5)).sum()

  got, grad = jax.jit(jax.value_and_grad(value))(jnp.zeros_like(W))
  assert np.isfinite(got) and np.isfinite(grad).all()


@pytest.mark.parametrize('name', list(PENALTIES))
def test_penalties_do_not_depend_on_the_devices(name):
  real, fake = pair(16)
  a = rand(24, 24, seed=4).astype(np.float32)
  batch = {'real': real, 'fake': fake, 'keys': keys(16)}

  def loss(w, shared, part):
    critic = quadratic(w + w.T)
    penalty = PENALTIES[name]()
    return penalty(critic, part['real'], part['fake'], part['keys']).mean(), {}

  want, want_grad = jax.jit(jax.value_and_grad(lambda w: loss(w, {}, batch)[0]))(a)
  with jax.set_mesh(parallel.make_mesh()):
    (got, _), grad = jax.jit(parallel.value_and_grad(loss))(a, {}, batch)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-5 * np.abs(want_grad).max())


def dirac(penalty, psi, theta):
  """A penalty's gradient by psi for D(x) = psi x, real at 0 and fake at theta."""
  at = lambda value: jnp.full((1, 1, 1, 1), value)
  critic = lambda psi: lambda x: psi * x[:, 0, 0, 0]
  value = lambda psi: penalty(critic(psi), at(0.0), at(theta), keys(1)).sum()
  return jax.grad(value)(psi)


@pytest.mark.parametrize('make', [regularizers.r1_penalty, regularizers.r2_penalty])
def test_dirac_gan_converges_with_r1_and_r2(make):
  # Mescheder et al. 2018, Theorem 4.1: eigenvalues -gamma/2 +- sqrt(gamma^2/4 - f'(0)^2).
  gamma = 0.6  # and f'(0) = 1/2, of the logistic loss: -0.3 +- 0.4 i

  def flow(both):
    theta, psi = both
    damped = -jax.grad(lambda p: jax.nn.softplus(p * theta))(psi) - dirac(make(gamma), psi, theta)
    return jnp.stack([jax.grad(lambda t: -jax.nn.softplus(-psi * t))(theta), damped])

  values = np.linalg.eigvals(np.asarray(jax.jit(jax.jacobian(flow))(jnp.zeros(2))))
  np.testing.assert_allclose(values.real, -0.3, rtol=1e-5)
  np.testing.assert_allclose(sorted(values.imag), [-0.4, 0.4], rtol=1e-5)


def test_dirac_gan_is_drawn_to_a_slope_of_one_by_wgan_gp():
  # (|psi| - 1)^2 pulls |psi| to 1 and not to the equilibrium at 0.
  slope = jax.jit(lambda psi: dirac(regularizers.gradient_penalty(), psi, 0.7))
  for psi in (0.25, -0.25, 3.0):
    want = 20 * (abs(psi) - 1) * np.sign(psi)
    np.testing.assert_allclose(slope(psi), want, rtol=1e-5)


# LeCam.


@pytest.mark.parametrize('relu', [False, True])
def test_lecam_by_hand(relu):
  real, fake = jnp.array([1.0, -3.0]), jnp.array([0.5, 2.5])
  state = {'real': jnp.float32(2.0), 'fake': jnp.float32(-1.0)}
  term = regularizers.lecam(weight=0.3, decay=0.9, relu=relu)
  both = jax.jit(jax.value_and_grad(lambda real: term(state, real, fake), has_aux=True))
  (value, new), grad = both(real)
  a_real, a_fake = 0.9 * 2 + 0.1 * -1, 0.9 * -1 + 0.1 * 1.5
  np.testing.assert_allclose([new['real'], new['fake']], [a_real, a_fake], rtol=1e-6)
  gap = (lambda x: np.maximum(x, 0)) if relu else (lambda x: x)
  above, below = gap(np.asarray(real) - a_fake), gap(a_real - np.asarray(fake))
  np.testing.assert_allclose(value, 0.3 * ((above**2).mean() + (below**2).mean()), rtol=1e-6)
  # the anchors are constants: d/dreal = 2 * 0.3 * gap / B
  np.testing.assert_allclose(grad, 0.3 * above, rtol=1e-5)


def test_lecam_anchors_are_of_the_global_batch():
  batch = {'real': jnp.arange(16.0), 'fake': -jnp.arange(16.0)}

  def loss(w, shared, part):
    value, state = regularizers.lecam()(shared, w * part['real'], w * part['fake'])
    return value, state

  want, state = jax.jit(loss)(jnp.float32(2), regularizers.lecam_start(), batch)
  np.testing.assert_allclose([state['real'], state['fake']], [0.15, -0.15], rtol=1e-5)
  with jax.set_mesh(parallel.make_mesh()):
    (got, found), _ = jax.jit(parallel.value_and_grad(loss))(
      jnp.float32(2), regularizers.lecam_start(), batch
    )
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose([found['real'], found['fake']], [0.15, -0.15], rtol=1e-5)


# Consistency.


def test_consistency_is_the_squared_change_of_the_score():
  real, _ = pair()
  got = regularizers.consistency()(linear(real), linear(real + 2))
  np.testing.assert_allclose(got, np.full(5, 10 * 4 * float(W.sum()) ** 2), rtol=1e-4)
  assert not regularizers.consistency()(linear(real), linear(real)).any()


def test_latent_terms_have_opposite_signs():
  # Of a linear generator A z: zCR's gap is sigma A n, with n drawn from each example's key.
  a, z = rand(6, 24, seed=7).astype(np.float32), rand(5, 6, seed=8).astype(np.float32)
  generate = lambda z: (z @ a).reshape(-1, 4, 3, 2)

  @jax.jit
  def run(keys, z):
    n = jax.vmap(lambda key: jax.random.normal(key, (6,)))(keys)
    gap, near = 0.05 * generate(n), generate(regularizers.nearby(keys, z))
    diversity = regularizers.latent_diversity()(generate(z), near)
    consistency = regularizers.consistency(5.0)(linear(generate(z)), linear(near))
    return gap, linear(gap), diversity, consistency

  gap, score, diversity, got = jax.device_get(run(keys(5), z))
  np.testing.assert_allclose(diversity, -0.5 * np.square(gap).mean((1, 2, 3)), rtol=1e-3)
  np.testing.assert_allclose(got, 5 * np.square(score + 0.2), rtol=1e-2, atol=1e-6)
  assert len(np.unique(got)) == 5


# Top-k.


def test_top_k_learns_from_the_best_alone():
  # The gradient is that of the mean over the k best, the values stay.
  fake, share = jnp.array([0.3, -2.0, 5.0, 1.0]), jnp.float32(0.5)
  value = lambda fake: jnp.square(regularizers.best(fake, share)).mean()
  got, grad = jax.jit(jax.value_and_grad(value))(fake)
  np.testing.assert_allclose(got, jnp.square(fake).mean(), rtol=1e-6)
  np.testing.assert_allclose(grad, [0, 0, 5, 1], rtol=1e-6)  # d/df of f^2 / k, k = 2
  whole = lambda fake: jnp.square(regularizers.best(fake, jnp.float32(1))).mean()
  full = jax.jit(jax.grad(whole))(fake)
  np.testing.assert_allclose(full, fake / 2, rtol=1e-6)


def test_equal_scores_share_what_is_left():
  grad = jax.jit(jax.grad(lambda fake: regularizers.best(fake, jnp.float32(0.5)).mean()))
  np.testing.assert_allclose(grad(jnp.array([1.0, 1, 1, 0])), [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
  np.testing.assert_allclose(grad(jnp.full(4, 7.0)), [0.25] * 4, rtol=1e-6)
  none = jax.jit(jax.grad(lambda fake: regularizers.best(fake, jnp.float32(0)).mean()))
  np.testing.assert_allclose(none(jnp.array([1.0, 2.0])), [0, 1], rtol=1e-6)  # k is at least 1


def test_top_k_is_of_the_global_batch():
  scores = jnp.asarray(rand(16, seed=9), jnp.float32)
  loss = lambda w, shared, x: (regularizers.best(w * x, jnp.float32(0.25)).mean(), {})
  with jax.set_mesh(parallel.make_mesh()):
    _, grad = jax.jit(parallel.value_and_grad(loss))(jnp.float32(1), {}, scores)
  np.testing.assert_allclose(grad, np.sort(scores)[-4:].mean(), rtol=1e-5)


def test_top_k_is_annealed():
  # An epoch in four steps: 0.99 after it, and never below a half.
  keep = jax.jit(regularizers.top_k(0.99**0.25))
  scores, share = jnp.array([2.0, 1.0, 0.0, -1.0]), regularizers.top_k_start()
  shares = [1.0]
  for _ in range(400):
    kept, share = keep(share, scores)
    shares.append(float(share))
  np.testing.assert_allclose(kept, scores)
  np.testing.assert_allclose([shares[4], shares[40]], [0.99, 0.99**10], rtol=1e-5)
  assert shares[-1] == 0.5
  grad = jax.jit(jax.grad(lambda scores: keep(share, scores)[0].sum()))(scores)
  np.testing.assert_allclose(grad, [2, 2, 0, 0])


def test_drift_by_hand():
  found = regularizers.drift(0.001)(jnp.array([2.0, -3.0]))
  np.testing.assert_allclose(found, [0.004, 0.009], rtol=1e-6)
