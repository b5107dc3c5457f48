"""What keeps weights and critics in bounds: penalties, consistency, top-k.

First of weights, for losses, logs and tests. Then of critics: each is made by a factory whose
keywords are its paper's numbers, and takes `score`, images [B, H, W, C] -> scores [B] with labels,
dropout and weights bound, each score a function of its own image alone. Values are per example,
[B], with the weight in them, unless a line says otherwise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.core import parallel, trees
from bigjax.nn import linalg
from bigjax.nn.objectives import scores

Penalty = Callable[..., jax.Array]  # (score, real, fake, keys [B]) -> [B]


def orthogonal(w: jax.Array) -> jax.Array:
  """Return |W^T W * (1 - I)|_F^2 of a kernel [..., out]: BigGAN's Eq. 3 without beta.

  Uses |W^T W|_F = |W W^T|_F, so that the 20 x 24576 first layer never builds a 24576^2 matrix. Its
  gradient, in closed form, is `optim.orthogonal_grad`.
  """
  m = linalg.matrix(w)
  norms = jnp.square(m).sum(0)
  return jnp.square(linalg.small_gram(m)).sum() - jnp.square(norms).sum()


def total(
  value: Callable[[jax.Array], jax.Array], params: Any, mask: Callable[[str, Any], bool]
) -> jax.Array:
  """Return the sum of `value` over the tensors that `mask(path, leaf)` picks."""
  terms = [value(w) for path, w in trees.flat(params).items() if mask(path, w)]
  return jnp.sum(jnp.stack(terms)) if terms else jnp.float32(0)


def r1(critic: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
  """Return |grad D(x)|^2 / 2 of each image [B, ...]: R1 without gamma (BigGAN Eq. 5), [B].

  Args:
    critic: images -> scores [B], each a function of its own image alone.
    images: real ones.
  """
  grads = jax.grad(lambda x: critic(x).sum())(images)
  return scores.squares(grads) / 2


def _excess(slopes: jax.Array, target: float, one_sided: bool) -> jax.Array:
  """The squared distance of slopes [B] to the target, or of those above it."""
  distance = slopes - target
  return jnp.square(jax.nn.relu(distance) if one_sided else distance)


def _per_image(x: jax.Array, images: jax.Array) -> jax.Array:
  """One number of each example, [B], in the rank of the images."""
  return x.reshape(-1, *[1] * (images.ndim - 1)).astype(images.dtype)


def between(real: jax.Array, fake: jax.Array, alpha: jax.Array) -> jax.Array:
  """Points on the lines from real to fake images, `alpha` [B] of the way.

  The official code weights the fake image by alpha, StudioGAN and mimicry the real one.
  """
  return real + _per_image(alpha, real) * (fake - real)


def gradient_penalty(weight: float = 10.0, target: float = 1.0, one_sided: bool = False) -> Penalty:
  """WGAN-GP (Gulrajani et al. 2017): weight (|grad D| - target)^2 between real and fake images.

  Args:
    weight: lambda.
    target: the slope aimed at; 0 makes the penalty zero-centred.
    one_sided: only slopes above the target cost (WGAN-LP; Petzka et al. 2018).
  """

  def penalty(score, real, fake, keys):
    alpha = jax.vmap(jax.random.uniform)(keys)  # one number of each pair, not of each pixel
    slopes = scores.slopes(score, between(real, fake, alpha))
    return weight * _excess(slopes, target, one_sided)

  return penalty


def drift(weight: float = 0.001) -> Callable[[jax.Array], jax.Array]:
  """PGGAN's drift (Karras et al. 2018, A.1): weight D(x)^2, which holds a critic's zero in place.

  Returns:
    scores [B] of real images -> [B].
  """
  return lambda real: weight * jnp.square(real)


def r1_penalty(gamma: float = 10.0) -> Penalty:
  """R1 (Mescheder et al. 2018): gamma / 2 |grad D|^2 at real images."""
  return lambda score, real, fake, keys: gamma * r1(score, real)


def r2_penalty(gamma: float = 10.0) -> Penalty:
  """R2 (Mescheder et al. 2018): gamma / 2 |grad D|^2 at fake images."""
  return lambda score, real, fake, keys: gamma * r1(score, fake)


def standard_deviation(images: jax.Array) -> jax.Array:
  """That of all pixels of the global batch, with n - 1 below the sum; a scalar.

  Of a part of the batch at a time (`run.microbatches`), that of the part.
  """
  axes = tuple(range(1, images.ndim))
  mean = parallel.gather_examples(images.mean(axes)).mean()
  spread = parallel.gather_examples(jnp.square(images - mean).mean(axes))
  num = spread.size * images[0].size
  return jnp.sqrt(spread.mean() * num / (num - 1))


def around(real: jax.Array, alpha: jax.Array, noise: jax.Array, spread: float) -> jax.Array:
  """DRAGAN's points: real images plus `alpha` [B] of noise in [0, 1), in units of their spread."""
  return real + _per_image(alpha, real) * (spread * standard_deviation(real) * noise)


def dragan_penalty(weight: float = 10.0, target: float = 1.0, spread: float = 0.5) -> Penalty:
  """DRAGAN (Kodali et al. 2017): weight (|grad D| - target)^2 around real images.

  Args:
    weight: lambda.
    target: the slope aimed at.
    spread: the noise's width, in standard deviations of the global batch's pixels: the one place
      where an example's penalty depends on others, which takes two small all-gathers.
  """

  def penalty(score, real, fake, keys):
    del fake
    key_alpha, key_noise = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    alpha = jax.vmap(jax.random.uniform)(key_alpha)
    noise = jax.vmap(lambda key: jax.random.uniform(key, real.shape[1:], real.dtype))(key_noise)
    return weight * _excess(scores.slopes(score, around(real, alpha, noise, spread)), target, False)

  return penalty


def lecam_start() -> dict[str, jax.Array]:
  """LeCam's anchors before the first step."""
  return {'real': jnp.zeros((), jnp.float32), 'fake': jnp.zeros((), jnp.float32)}


def lecam(weight: float = 0.3, decay: float = 0.99, relu: bool = False) -> Callable:
  """LeCam (Tseng et al. 2021): weight (E |D(x) - a_fake|^2 + E |D(G(z)) - a_real|^2).

  The anchors a are averages over time of the global batch's mean scores, this step's included, and
  constants for the gradient.

  Args:
    weight: lambda; the paper's for CIFAR, where it takes 0.01 for ImageNet.
    decay: of the anchors, per discriminator step.
    relu: the form of the official code, in which a real score below the fake anchor costs nothing,
      nor a fake one above the real anchor.
  Returns:
    (anchors, real scores [B], fake scores [B]) -> (this device's mean, new anchors): scalars.
  """
  gap = jax.nn.relu if relu else lambda x: x

  def term(state, real, fake):
    now = {'real': parallel.global_mean(real)[0], 'fake': parallel.global_mean(fake)[0]}
    state = jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, state, now)
    state = jax.lax.stop_gradient(state)
    above, below = gap(real - state['fake']), gap(state['real'] - fake)
    return weight * (jnp.square(above).mean() + jnp.square(below).mean()), state

  return term


def consistency(weight: float = 10.0) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """CR (Zhang et al. 2020): weight (D(x) - D(T(x)))^2, for augmented images T(x).

  Of real images alone it is CR; of real and of fake ones bCR (Zhao et al. 2021), both weights 10;
  of fakes of z and of `nearby` latents zCR's term of the discriminator, weight 5; ICR is bCR and
  zCR together.

  Returns:
    (scores [B] of images, scores of their others) -> [B].
  """
  return lambda scores, others: weight * jnp.square(scores - others)


def nearby(keys: jax.Array, z: jax.Array, sigma: float = 0.05) -> jax.Array:
  """Latents [B, ...] moved by normal noise of standard deviation sigma, a key for each."""
  noise = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:], z.dtype))(keys)
  return z + sigma * noise


def latent_diversity(weight: float = 0.5) -> Callable:
  """zCR of the generator: -weight |G(z) - G(z + sigma n)|^2, a mean over the pixels.

  Returns:
    (images G(z), images G(z + sigma n)) -> [B].
  """

  def term(fake, near):
    gap = fake - near
    return -weight * jnp.square(gap).mean(tuple(range(1, gap.ndim)))

  return term


def top_k(decay: float, least: float = 0.5) -> Callable:
  """Top-k training (Sinha et al. 2020): the generator learns from the best of its batch alone.

  Args:
    decay: of the share k / B per step; the paper's is 0.99 per epoch.
    least: share at which that ends.
  Returns:
    (share [], scores of fakes [B]) -> (the scores, the next step's share): a filter of the scores
    before any adversarial loss.
  """

  def keep(share, scores):
    return best(scores, share), jnp.maximum(share * decay, least)

  return keep


def top_k_start() -> jax.Array:
  """The share before the first step: all of the batch."""
  return jnp.ones((), jnp.float32)


def best(fake: jax.Array, share: jax.Array) -> jax.Array:
  """Scores of fakes, the worst of them constants.

  Values stay, and what is left of the gradient is that of the mean over the k best of the global
  batch, so that k is no static shape. Equal scores at the border share what is left for them.

  Args:
    fake: [B] scores of this device's fakes.
    share: k over the global batch, in (0, 1]; k is rounded, and at least 1.
  """
  every = jax.lax.stop_gradient(parallel.gather_examples(fake))
  num = every.size
  k = jnp.clip(jnp.round(share * num), 1, num)
  border = jnp.sort(every)[num - k.astype(jnp.int32)]
  left = (k - (every > border).sum(dtype=k.dtype)) / (every == border).sum(dtype=k.dtype)
  still = jax.lax.stop_gradient(fake)
  kept = jnp.where(still > border, 1, jnp.where(still == border, left, 0)) * (num / k)
  return still + kept.astype(fake.dtype) * (fake - still)
