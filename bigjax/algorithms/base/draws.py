"""What is drawn for a batch of fakes: per example, so that devices and batches change nothing."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.core import errors, parallel, trees

Array = jax.Array
# What a sampler's layers add: a noise of each sample's own, which follows from its latents; one
# that all samples share; none.
NOISE = {'random': 'of each sample', 'const': 'the same for all', 'none': 'none at all'}
NOISE_HELP = 'of the layers: random (default), const (the same for all samples), none'


@dataclasses.dataclass(frozen=True)
class LabelLaw:
  """The law of fake labels.

  Attributes:
    num_classes: labels are below it.
    frequencies: of each class, 1 in all; None: uniform.
  """

  num_classes: int
  frequencies: tuple[float, ...] | None = None

  def draw(self, key: Array, shape: tuple[int, ...]) -> Array:
    """int32 labels of this shape."""
    if self.frequencies is None:
      return jax.random.randint(key, shape, 0, self.num_classes, jnp.int32)
    logits = jnp.log(jnp.array(self.frequencies, jnp.float32))
    return jax.random.categorical(key, logits, shape=shape).astype(jnp.int32)


def label_law(
  name: str, num_classes: int, class_counts: Callable[[], Sequence[int]] | None
) -> LabelLaw:
  """The law that a config names.

  Args:
    name: 'uniform', or 'data': as frequent as among the training images (long tails).
    num_classes: labels are below it.
    class_counts: () -> training images of each class; None where the data is not read: then they
      count as even, in a program of the same shapes.
  """
  if name == 'uniform':
    return LabelLaw(num_classes)
  counts = class_counts() if class_counts else [1] * num_classes
  return LabelLaw(num_classes, tuple(count / sum(counts) for count in counts))


def example_keys(key: Array, shape: tuple[int, ...]) -> Array:
  """One PRNG key per example, sharded over them."""
  return parallel.shard_examples(jax.random.split(key, shape), lead=len(shape) - 1)


def purpose(keys: Array, name: str) -> Array:
  """Keys [B] for one more thing that is drawn for the same examples, by its name.

  Not `fold_in(key, 1)`, which is the second of the keys that `split(key)` makes of it.
  """
  return jax.vmap(lambda key: jax.random.fold_in(key, trees.stable_hash(name)))(keys)


def keys_of(z: Array) -> Array:
  """One PRNG key per example of latents [B, ...], made of their bits: for samplers that draw noise.

  `Generator.generate` is given no key: a sample follows from its latents, its label and the
  settings, in whatever batch it is made. Here B may be symbolic, as it is in exported programs.
  """
  bits = jax.lax.bitcast_convert_type(z.astype(jnp.float32), jnp.uint32)
  seeds = bits.sum(range(1, z.ndim), dtype=jnp.uint32)
  return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(seeds)


def alike(keys: Array, y: Array, labels: Array) -> Array:
  """Which of some kept examples each sample takes, int [B]: one of its label where there are any.

  Args:
    keys: [B].
    y: of the samples: int [B], or weights [B, classes].
    labels: of what is kept, int [N]; -1 is of an empty place, which is taken where all are empty.
  """
  full = (labels >= 0).astype(jnp.float32)[None]
  share = y[:, labels] if y.ndim == 2 else (y[:, None] == labels[None]).astype(jnp.float32)
  share = share * full
  share = jnp.where(share.sum(1, keepdims=True) > 0, share, jnp.maximum(full, 1e-9))
  pick = lambda key, share: jax.random.categorical(key, jnp.log(share))
  return jax.vmap(pick)(keys, share)


def read_noise(given: Mapping[str, str] | None) -> str:
  """The key of NOISE in the words {option: value} given by a user; 'random' where none is.

  Raises:
    UserError: there is no such noise.
  """
  noise = (given or {}).get('noise', 'random')
  errors.pick(noise, NOISE, 'the noise')
  return noise


def noise_keys(noise: str, z: Array) -> Array | None:
  """Keys of the noise of samples: [B] for one of each, [1] for one of all; None for no noise.

  Args:
    noise: a key of NOISE.
    z: latents [B, ...].
  """
  if noise == 'none':
    return None
  return keys_of(z) if noise == 'random' else jax.random.key(0)[None]


def with_noise_of(generator: Any, gen: Any, z: Array, y: Array, spec: Any, others: Array) -> Array:
  """Samples of a contract.Generator, with the noise of other latents where it has any.

  Along a path in z, so that what changes is the path, and not a noise at every point of it.
  """
  if hasattr(generator, 'with_noise_of'):
    return generator.with_noise_of(gen, z, y, spec, others)
  return generator.generate(gen, z, y, spec)
