"""The Gaussian diffusion process around a network's output: Ho et al. 2020, Nichol & Dhariwal 2021.

Everything is a function of arrays: what the network says of x_t is given. `t` are numbers of kept
steps (`tables.py`), int32 [B]; images are [B, H, W, C] in [-1, 1]. Losses and likelihoods are of
each example, [B]: means over its numbers; likelihoods in bits.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.nn.diffusion.tables import Tables

Array = jax.Array

MEANS = ('epsilon', 'x_start', 'previous_x')  # what a network's output is
VARIANCES = ('learned_range', 'fixed_small', 'fixed_large')
LOSSES = ('mse', 'rescaled_mse', 'kl', 'rescaled_kl')


class Reverse(NamedTuple):
  """p(x_{t-1} | x_t), Gaussian, and the x_0 that it is made of; [B, H, W, C] each."""

  mean: Array
  log_variance: Array
  x_start: Array


def per_example(x: Array) -> Array:
  """The mean [B] of each example's numbers."""
  return x.mean(range(1, x.ndim))


def normal_kl(mean1: Array, log_var1: Array, mean2: Array, log_var2: Array) -> Array:
  """KL divergence of N(mean1, exp(log_var1)) from N(mean2, exp(log_var2)), in nats."""
  moved = jnp.square(mean1 - mean2) * jnp.exp(-log_var2)
  return 0.5 * (log_var2 - log_var1 + jnp.exp(log_var1 - log_var2) + moved - 1)


def log_likelihood_of_levels(x: Array, mean: Array, log_scale: Array) -> Array:
  """Log-probability, in nats, of 8-bit levels under a Gaussian integrated over each level's bin.

  The first and the last bin go on for ever. The integral is the usual approximation by a tanh, as a
  sigmoid: where one of its values is next to 1, both are taken of the other side, so that their
  difference keeps its digits.

  Args:
    x: levels k as k / 127.5 - 1.
    mean, log_scale: of the Gaussian.
  """
  cdf = lambda x: jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
  log = lambda p: jnp.log(jnp.maximum(p, 1e-12))
  away, narrow = mean - x, jnp.exp(-log_scale)
  above, below = narrow * (1 / 255 - away), narrow * (-1 / 255 - away)
  near = narrow * (1 / 255 - jnp.abs(away)), narrow * (-1 / 255 - jnp.abs(away))
  inside = jnp.where(x > 0.999, log(cdf(-below)), log(cdf(near[0]) - cdf(near[1])))
  return jnp.where(x < -0.999, log(cdf(above)), inside)


@dataclasses.dataclass(frozen=True)
class Process:
  """A diffusion process and what its network's output means.

  Attributes:
    tables: its steps and their factors.
    mean: one of MEANS.
    variance: one of VARIANCES; with learned_range, half of the network's channels are v.
  """

  tables: Tables
  mean: str = 'epsilon'
  variance: str = 'learned_range'

  @property
  def num_steps(self) -> int:
    return len(self.tables.betas)

  def at(self, table: np.ndarray, t: Array, like: Array) -> Array:
    """A table's numbers at steps [B], to be multiplied with maps [B, ...] such as `like`."""
    return jnp.asarray(table, like.dtype)[t].reshape(-1, *(1,) * (like.ndim - 1))

  # --- q, from images to noise

  def noised(self, x_start: Array, t: Array, noise: Array) -> Array:
    """x_t of images and N(0, I) noise."""
    signal = self.at(self.tables.sqrt_alpha_bar, t, x_start) * x_start
    return signal + self.at(self.tables.sqrt_one_minus, t, x_start) * noise

  def posterior(self, x_start: Array, x: Array, t: Array) -> tuple[Array, Array]:
    """(Mean, log-variance) of q(x_{t-1} | x_t, x_0); the latter [B, 1, 1, 1], clipped at t = 0."""
    of = self.tables
    mean = self.at(of.posterior_coef1, t, x) * x_start + self.at(of.posterior_coef2, t, x) * x
    return mean, self.at(of.posterior_log_variance, t, x)

  def x_start_of(self, x: Array, t: Array, noise: Array) -> Array:
    """The image in x_t, where its noise is known."""
    signal = self.at(self.tables.sqrt_recip, t, x) * x
    return signal - self.at(self.tables.sqrt_recip_m1, t, x) * noise

  def noise_of(self, x: Array, t: Array, x_start: Array) -> Array:
    """The noise in x_t, where its image is known."""
    noise = self.at(self.tables.sqrt_recip, t, x) * x - x_start
    return noise / self.at(self.tables.sqrt_recip_m1, t, x)

  # --- p, from noise to images

  def split(self, out: Array) -> tuple[Array, Array | None]:
    """A network's output as what it says of the mean, and v where the variance is learned."""
    return tuple(jnp.split(out, 2, -1)) if self.variance == 'learned_range' else (out, None)

  def reverse(self, out: Array, x: Array, t: Array, clip: bool = True) -> Reverse:
    """p(x_{t-1} | x_t) of a network's output [B, H, W, C or 2C]; `clip` holds x_0 in [-1, 1]."""
    said, v = self.split(out)
    x_start = self._x_start(said, x, t)
    x_start = x_start.clip(-1, 1) if clip else x_start
    mean = said if self.mean == 'previous_x' else self.posterior(x_start, x, t)[0]
    return Reverse(mean, self._log_variance(v, x, t), x_start)

  def _x_start(self, said: Array, x: Array, t: Array) -> Array:
    if self.mean == 'x_start':
      return said
    if self.mean == 'epsilon':
      return self.x_start_of(x, t, said)
    of = self.tables
    ratio = of.posterior_coef2 / of.posterior_coef1
    return self.at(1 / of.posterior_coef1, t, x) * said - self.at(ratio, t, x) * x

  def _log_variance(self, v: Array | None, x: Array, t: Array) -> Array:
    of = self.tables
    small = self.at(of.posterior_log_variance, t, x)
    if v is not None:  # IDDPM's Eq. 15; v is not clipped, and may extrapolate
      share = (v + 1) / 2
      return share * self.at(np.log(of.betas), t, x) + (1 - share) * small
    if self.variance == 'fixed_small':
      return jnp.broadcast_to(small, x.shape)
    large = np.append(of.posterior_variance[1:2], of.betas[1:])[-self.num_steps :]
    return jnp.broadcast_to(self.at(np.log(large), t, x), x.shape)

  # --- Guidance, by the gradient of log p(y | x_t) at x_t (Dhariwal & Nichol 2021, section 4)

  def shifted_mean(self, p: Reverse, gradient: Array) -> Reverse:
    """Algorithm 1: the mean moved by the variance times the gradient."""
    return p._replace(mean=p.mean + jnp.exp(p.log_variance) * gradient)

  def shifted_noise(self, p: Reverse, x: Array, t: Array, gradient: Array) -> Reverse:
    """Algorithm 2: the noise that x_0 implies, moved; of x_0, which is not clipped again."""
    of = self.tables
    x_start = p.x_start + self.at(of.sqrt_recip_m1 * of.sqrt_one_minus, t, x) * gradient
    return p._replace(mean=self.posterior(x_start, x, t)[0], x_start=x_start)

  # --- Losses and likelihoods

  def bits(self, p: Reverse, x_start: Array, x: Array, t: Array) -> Array:
    """The step's term of the variational bound, bits per number [B]: at t = 0, the decoder's."""
    mean, log_variance = self.posterior(x_start, x, t)
    kl = normal_kl(mean, log_variance, p.mean, p.log_variance)
    decoder = -log_likelihood_of_levels(x_start, p.mean, 0.5 * p.log_variance)
    return jnp.where(t == 0, per_example(decoder), per_example(kl)) / math.log(2)

  def prior_bits(self, x_start: Array) -> Array:
    """The bound's last term [B]: how far x_T is from N(0, I)."""
    t = jnp.full(x_start.shape[:1], self.num_steps - 1)
    mean = self.at(self.tables.sqrt_alpha_bar, t, x_start) * x_start
    log_variance = self.at(self.tables.log_one_minus, t, x_start)
    zero = jnp.zeros_like(log_variance)
    return per_example(normal_kl(mean, log_variance, zero, zero)) / math.log(2)

  def losses(
    self, name: str, out: Array, x_start: Array, x: Array, t: Array, noise: Array
  ) -> dict[str, Array]:
    """Losses of examples: {'loss': [B]}, and its terms 'mse' and 'vb' where it has them.

    Args:
      name: one of LOSSES. mse is L_simple; with a learned variance the bound's term is added, whose
        mean has no gradient; rescaled, that is times T / 1000 (L_hybrid). kl is the bound's term
        alone (L_vlb), rescaled times T.
      out: what the network says of x.
      x_start, x, t, noise: as `noised` has them.
    """
    if name in ('kl', 'rescaled_kl'):
      vb = self.bits(self.reverse(out, x, t, clip=False), x_start, x, t)
      return {'loss': vb * self.num_steps if name == 'rescaled_kl' else vb}
    said, v = self.split(out)
    if self.mean == 'previous_x':
      target = self.posterior(x_start, x, t)[0]
    else:
      target = {'epsilon': noise, 'x_start': x_start}[self.mean]
    terms = {'mse': per_example(jnp.square(target - said))}
    if v is not None:
      held = jnp.concatenate([jax.lax.stop_gradient(said), v], -1)
      vb = self.bits(self.reverse(held, x, t, clip=False), x_start, x, t)
      terms['vb'] = vb * (self.num_steps / 1000) if name == 'rescaled_mse' else vb
    return {'loss': sum(terms.values()), **terms}


# --- x_{t-1} of p(x_{t-1} | x_t) and N(0, I) noise: a step of each sampler.


def ancestral_step(p: Reverse, t: Array, noise: Array) -> Array:
  """A sample of p; at t = 0 its mean."""
  last = (t == 0).reshape(-1, *(1,) * (noise.ndim - 1))
  return p.mean + jnp.where(last, 0, jnp.exp(0.5 * p.log_variance) * noise)


def ddim_step(
  process: Process, p: Reverse, x: Array, t: Array, noise: Array, eta: float = 0.0
) -> Array:
  """DDIM's (Song et al. 2021, Eq. 12): no noise with eta 0, as much as ancestral with eta 1."""
  of, at = process.tables, lambda table: process.at(table, t, x)
  deviation = np.sqrt((1 - of.alpha_bar_prev) / (1 - of.alpha_bar))
  deviation = eta * deviation * np.sqrt(1 - of.alpha_bar / of.alpha_bar_prev)  # 0 at t = 0
  rest = np.sqrt(1 - of.alpha_bar_prev - np.square(deviation))
  implied = process.noise_of(x, t, p.x_start)
  x = p.x_start * at(np.sqrt(of.alpha_bar_prev)) + at(rest) * implied
  return x + at(deviation) * noise


def ddim_reverse_step(process: Process, p: Reverse, x: Array, t: Array) -> Array:
  """x_{t+1} by the same equation with eta 0: from an image towards its noise."""
  after, at = process.tables.alpha_bar_next, lambda table: process.at(table, t, x)
  implied = process.noise_of(x, t, p.x_start)
  return p.x_start * at(np.sqrt(after)) + at(np.sqrt(1 - after)) * implied
