"""Adversarial losses against their closed forms (specs/biggan.md section 2.1, T32)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn import losses


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
  loss, grads = jax.value_and_grad(disc_loss, argnums=(0, 1))(real, fake)
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
  grads = jax.grad(disc_loss, argnums=(0, 1))(real, fake)
  np.testing.assert_array_equal(grads[0], [-0.25, 0, -0.25, -0.25])
  np.testing.assert_array_equal(grads[1], [0, 0.25, 0.25, 0.25])


@pytest.mark.parametrize('logits', [[-5.0, -1.0, 0.0, 9.0]])
def test_generator_loss_is_linear_everywhere(logits):
  # L_G = -mean D(G(z)): no margin, so the gradient is -1/B for confident logits too.
  loss, grad = jax.value_and_grad(losses.hinge_gen)(jnp.array(logits))
  assert float(loss) == -0.75
  np.testing.assert_array_equal(grad, [-0.25] * 4)
