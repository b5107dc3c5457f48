"""From noise to images: samplers that walk a process back, a network's call or two for each step.

Ancestral (Ho et al. 2020), DDIM (Song et al. 2021), DPM-Solver++(2M) (Lu et al. 2022), each with
guidance or without. A walk is one `scan`, so that a program holds the network once, whatever the
number of steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.nn.diffusion.process import Process, Reverse, ancestral_step, ddim_step
from bigjax.nn.diffusion.tables import half_log_snr

Array = jax.Array
# (x_t [B, H, W, C], steps of the whole process [B]) -> a network's output, or a gradient.
Network = Callable[[Array, Array], Array]

SAMPLERS = ('ancestral', 'ddim', 'dpm')


@dataclasses.dataclass(frozen=True)
class Walk:
  """How a process is walked back.

  Attributes:
    process: of the kept steps.
    sampler: one of SAMPLERS.
    eta: of DDIM: 0: no noise, 1: as much as ancestral.
    clip: whether x_0 is held in [-1, 1] at every step.
  """

  process: Process
  sampler: str = 'ancestral'
  eta: float = 0.0
  clip: bool = True

  @property
  def draws(self) -> bool:
    """Whether steps draw noise."""
    return self.sampler == 'ancestral' or (self.sampler == 'ddim' and self.eta > 0)

  def noise(self, keys: Array, i: Array, shape: tuple[int, ...]) -> Array:
    """The noise of step i (the first is 0) for examples of keys [B], [B, *shape]."""
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, i), shape)
    return jax.vmap(draw)(keys)

  def reverse(self, network: Network, gradient: Network | None, x: Array, t: Array) -> Reverse:
    """p(x_{t-1} | x_t), moved by `gradient`, that of a classifier's log p(y | x_t) at x_t."""
    told = jnp.asarray(self.process.tables.timesteps)[t]
    p = self.process.reverse(network(x, told), x, t, self.clip)
    if gradient is None:
      return p
    if self.sampler == 'ancestral':
      return self.process.shifted_mean(p, gradient(x, told))
    return self.process.shifted_noise(p, x, t, gradient(x, told))

  def back(
    self,
    network: Network,
    x: Array,
    noise: Callable[[Array], Array],
    gradient: Network | None = None,
    stop: int = 0,
  ) -> Array:
    """x_0, of x_T.

    Args:
      network: what it says of x_t; t are steps of the whole process, of which some are kept.
      x: [B, H, W, C], N(0, I).
      noise: number of the step, the first is 0 -> N(0, I) like x.
      gradient: of guidance; None: none.
      stop: steps that are left out at the end: what comes is x at this kept step.
    """
    num = self.process.num_steps
    first = jnp.zeros_like(x)  # the x_0 before: DPM-Solver's memory
    (x, _), _ = jax.lax.scan(
      lambda carry, i: (self.step(network, gradient, noise, *carry, i), None),
      (x, first),
      jnp.arange(num - stop),
    )
    return x

  def step(
    self,
    network: Network,
    gradient: Network | None,
    noise: Callable[[Array], Array],
    x: Array,
    before: Array,
    i: Array,
  ) -> tuple[Array, Array]:
    """(x after step i, the x_0 that it took), of x and the x_0 of the step before."""
    t = jnp.full(x.shape[:1], self.process.num_steps - 1 - i)
    p = self.reverse(network, gradient, x, t)
    if self.sampler == 'dpm':
      return self._dpm(p.x_start, before, x, t, i), p.x_start
    drawn = noise(i) if self.draws else jnp.zeros_like(x)
    if self.sampler == 'ddim':
      return ddim_step(self.process, p, x, t, drawn, self.eta), p.x_start
    return ancestral_step(p, t, drawn), p.x_start

  def _dpm(self, x_start: Array, before: Array, x: Array, t: Array, i: Array) -> Array:
    """DPM-Solver++(2M)'s Algorithm 2; of first order in the first step and into x_0."""
    of = self.process.tables
    now, after = half_log_snr(of.alpha_bar), half_log_snr(of.alpha_bar_prev)
    first = np.arange(self.process.num_steps) == self.process.num_steps - 1
    with np.errstate(invalid='ignore', divide='ignore'):
      length = after - now  # infinite at t = 0
      earlier = np.append(length[1:], np.inf)  # the step before, from t + 1
      more = np.where(first | np.isinf(length), 0.0, length / (2 * earlier))
      shrink = np.sqrt((1 - of.alpha_bar_prev) / (1 - of.alpha_bar))
      gain = np.sqrt(of.alpha_bar_prev) * -np.expm1(-length)
    at = lambda table: self.process.at(table, t, x)
    extrapolated = x_start + at(more) * (x_start - before)
    return at(shrink) * x + at(gain) * extrapolated


def classifier_free(conditional: Network, unconditional: Network, scale: float | Array) -> Network:
  """Classifier-free guidance (Ho & Salimans 2021), of the noise alone: 1 is `conditional` itself.

  Not in the papers of IDDPM and ADM. What is said of the variance is the conditional network's.
  """

  def network(x: Array, t: Array) -> Array:
    out, other = conditional(x, t), unconditional(x, t)
    c = x.shape[-1]
    moved = other[..., :c] + scale * (out[..., :c] - other[..., :c])
    return jnp.concatenate([moved, out[..., c:]], -1)

  return network


def guidance(log_probabilities: Callable[[Array, Array], Array], y: Array, scale: Any) -> Network:
  """The gradient of a classifier's log p(y | x_t), times a scale.

  Args:
    log_probabilities: (x, t) -> [B, classes], of noisy images.
    y: labels [B], or weights over classes [B, classes].
    scale: 0: no guidance.
  """

  def gradient(x: Array, t: Array) -> Array:
    def total(x):
      log_p = log_probabilities(x, t)
      picked = (
        log_p * jax.nn.one_hot(y, log_p.shape[-1], dtype=log_p.dtype) if y.ndim == 1 else log_p * y
      )
      return picked.sum()

    return scale * jax.grad(total)(x)

  return gradient
