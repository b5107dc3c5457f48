"""Adversarial losses against their closed forms (specs/biggan.md section 2.1, T32)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.core import parallel
from bigjax.nn.objectives import losses


def disc_loss(real, fake):
  return sum(losses.hinge_disc(real, fake))


def test_hinge_of_an_undecided_discriminator():
  # T32: D = 0 gives L_D = 2 and L_G = 0; a factor 1/2 (as in SAGAN's text) would give 1.
  zeros = jnp.zeros((5,))
  assert [float(part) for part in losses.hinge_disc(zeros, zeros)] == [1.0, 1.0]
  assert float(losses.hinge_gen(zeros)) == 0.0


def test_hinge_saturates_beyond_the_margin():
  # T32: D(real) = 2, D(fake) = -2 gives L_D = 0 and no gradient at all.
  real, fake = jnp.full((4,), 2.0), jnp.full((4,), -2.0)
  loss, grads = jax.jit(jax.value_and_grad(disc_loss, argnums=(0, 1)))(real, fake)
  assert float(loss) == 0.0
  assert not np.any(grads[0]) and not np.any(grads[1])


def test_hinge_of_mixed_logits():
  # By hand: relu(1 - r) = 0.5, 0, 3, 1 -> mean 1.125; relu(1 + f) = 0, 1.5, 4 -> mean 11/6.
  real, fake = jnp.array([0.5, 1.5, -2.0, 0.0]), jnp.array([-1.5, 0.5, 3.0])
  parts = losses.hinge_disc(real, fake)
  np.testing.assert_allclose(parts, [1.125, 11 / 6], rtol=1e-6)


def test_hinge_gradients_inside_the_margin():
  # dL_D/dreal = -1/B where real < 1, dL_D/dfake = +1/B where fake > -1, else 0.
  real, fake = jnp.array([0.5, 1.5, -2.0, 0.0]), jnp.array([-1.5, 0.5, 3.0, -0.5])
  grads = jax.jit(jax.grad(disc_loss, argnums=(0, 1)))(real, fake)
  np.testing.assert_array_equal(grads[0], [-0.25, 0, -0.25, -0.25])
  np.testing.assert_array_equal(grads[1], [0, 0.25, 0.25, 0.25])


@pytest.mark.parametrize('logits', [[-5.0, -1.0, 0.0, 9.0]])
def test_generator_loss_is_linear_everywhere(logits):
  # L_G = -mean D(G(z)): no margin, so the gradient is -1/B for confident logits too.
  loss, grad = jax.jit(jax.value_and_grad(losses.hinge_gen))(jnp.array(logits))
  assert float(loss) == -0.75
  np.testing.assert_array_equal(grad, [-0.25] * 4)


# The other pairs, by hand and where the game is solved.

REAL, FAKE = np.float32([0.5, -2.0, 3.0]), np.float32([-1.0, 0.25, 2.0])
softplus = lambda x: np.log1p(np.exp(np.asarray(x, np.float64)))


def by_hand():
  """(name, the discriminator's two parts, the generator's loss) for REAL and FAKE."""
  r, f = np.asarray(REAL, np.float64), np.asarray(FAKE, np.float64)
  relative, back = r - f.mean(), f - r.mean()
  hinge = lambda above, below: (np.maximum(1 - above, 0).mean(), np.maximum(1 + below, 0).mean())
  logistic = lambda above, below: (softplus(-above).mean(), softplus(below).mean())
  return [
    ('hinge', hinge(r, f), -f.mean()),
    ('logistic', logistic(r, f), softplus(-f).mean()),
    ('logistic_saturating', logistic(r, f), -softplus(f).mean()),
    ('least_squares', (((r - 1) ** 2).mean() / 2, (f**2).mean() / 2), ((f - 1) ** 2).mean() / 2),
    ('wasserstein', (-r.mean(), f.mean()), -f.mean()),
    ('relativistic_average', logistic(relative, back), sum(logistic(back, relative))),
    ('relativistic_average_hinge', hinge(relative, back), sum(hinge(back, relative))),
  ]


@pytest.mark.parametrize(('name', 'disc', 'gen'), by_hand(), ids=lambda x: str(x)[:30])
def test_losses_by_hand(name, disc, gen):
  loss = losses.LOSSES[name]
  found = jax.jit(lambda real, fake: (loss.disc(real, fake), loss.gen(fake, real)))(REAL, FAKE)
  np.testing.assert_allclose(found[0], disc, rtol=1e-6)
  np.testing.assert_allclose(found[1], gen, rtol=1e-6)
  if not loss.needs_real:
    np.testing.assert_allclose(jax.jit(loss.gen)(FAKE, None), gen, rtol=1e-6)


def test_every_loss_is_checked():
  assert [name for name, _, _ in by_hand()] == list(losses.LOSSES)
  needing = {name for name, loss in losses.LOSSES.items() if loss.needs_real}
  assert needing == {'relativistic_average', 'relativistic_average_hinge'}


def test_relativistic_hinge_of_equal_scores_is_two():
  # real = fake = c: each half is relu(1 -+ 0) = 1, for both players.
  same = jnp.full((4,), 3.5)
  loss = losses.LOSSES['relativistic_average_hinge']
  assert float(sum(loss.disc(same, same))) == 2.0 and float(loss.gen(same, same)) == 2.0


# DiracGAN (Mescheder et al. 2018): data at 0, the generator's at theta, D(x) = psi x. Around the
# equilibrium (0, 0) gradient descent on both players turns with +-i |f'(0)|, whatever theta is
# worth: it neither converges nor flies apart.

SLOPES = {'hinge': 1, 'logistic': 1 / 2, 'logistic_saturating': 1 / 2, 'wasserstein': 1}


@pytest.mark.parametrize('name', list(SLOPES))
def test_dirac_gan_turns_around_its_equilibrium(name):
  loss = losses.LOSSES[name]

  def flow(both):
    theta, psi = both
    disc = lambda psi: sum(loss.disc(psi * jnp.zeros(1), jnp.stack([psi * theta])))
    gen = lambda theta: loss.gen(jnp.stack([psi * theta]), None)
    return -jnp.stack([jax.grad(gen)(theta), jax.grad(disc)(psi)])

  values = np.linalg.eigvals(np.asarray(jax.jit(jax.jacobian(flow))(jnp.zeros(2))))
  np.testing.assert_allclose(values.real, 0, atol=1e-7)
  np.testing.assert_allclose(sorted(values.imag), [-SLOPES[name], SLOPES[name]], rtol=1e-6)


@pytest.mark.parametrize('name', ['relativistic_average', 'relativistic_average_hinge'])
def test_relativistic_means_are_over_all_devices(name):
  # Scores linear in a weight: loss and gradient on 8 devices are those on one.
  loss = losses.LOSSES[name]
  rng = np.random.default_rng(0)
  batch = {k: rng.normal(size=(16, 3)).astype(np.float32) for k in ('real', 'fake')}
  w = rng.normal(size=3).astype(np.float32)

  def of(weights, shared, part):
    real, fake = part['real'] @ weights, part['fake'] @ weights
    return sum(loss.disc(real, fake)) + 2 * loss.gen(fake, real), {}

  want, want_grad = jax.jit(jax.value_and_grad(lambda w: of(w, None, batch)[0]))(w)
  with jax.set_mesh(parallel.make_mesh()):
    (got, _), grad = jax.jit(parallel.value_and_grad(of))(w, {}, batch)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-6)
