"""A generator's functions, jitted, on a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigjax.algorithms import family
from bigjax.algorithms.base.contract import Gen, Generator
from bigjax.core import parallel
from bigjax.core.device import use_compilation_cache
from bigjax.nn.latents import How, check_truncation
from bigjax.sampling import generator_file as cards


def to_uint8(images: jax.Array) -> jax.Array:
  """Return images in [-1, 1] as uint8, rounded."""
  return jnp.round((images + 1) * 127.5).clip(0, 255).astype(jnp.uint8)


def uncalibrated(gen: Gen) -> Gen:
  """Return `gen` without any standing statistics."""
  return {**gen, 'stats': {}, 'knots': np.zeros((0,), np.float32)}


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A generator's functions, jitted, on a mesh."""

  generator: Generator
  mesh: Mesh

  @functools.cached_property
  def _latents(self):
    return jax.jit(
      self.generator.latents, static_argnums=1, out_shardings=parallel.replicated(self.mesh)
    )

  def _generate(self, out: Any) -> Callable[..., jax.Array]:
    def run(gen, z, y, how):
      return to_uint8(self.generator.generate(gen, z, y, how))

    examples = parallel.batched(self.mesh)
    return jax.jit(run, in_shardings=(None, examples, examples, None), out_shardings=out)

  @functools.cached_property
  def _to_all(self):
    return self._generate(parallel.replicated(self.mesh))

  @functools.cached_property
  def _spread(self):
    return self._generate(parallel.batched(self.mesh))

  def spread(self, gen: Gen, z: np.ndarray, y: np.ndarray, how: How) -> jax.Array:
    """Return uint8 images [n, H, W, C] that stay on the devices that made them.

    n must be a multiple of the number of devices.
    """
    with jax.set_mesh(self.mesh):
      return self._spread(gen, *parallel.place(self.mesh, (z, y)), how)

  def latents(self, seed: int, num: int, how: How) -> np.ndarray:
    """Return z [num, ...]; the first n do not depend on `num`.

    Raises:
      UserError: such a truncation means nothing for these latents.
    """
    check_truncation(how, self.generator.dialects)
    with jax.set_mesh(self.mesh):
      return np.asarray(self._latents(jax.random.key(seed), num, how).addressable_data(0))

  def images(self, gen: Gen, z: np.ndarray, y: np.ndarray, how: How, batch: int = 64) -> np.ndarray:
    """Return uint8 [n, H, W, C] for latents and labels (int32 [n], or float32 [n, classes])."""
    num, size = len(z), self.mesh.size
    batch = -(-min(batch, num) // size) * size
    padding = -num % batch
    z, y = (np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for a in (z, y))
    # One batch at a time: programs with collectives that do not depend on each other may start in
    # another order on each device, and CPU devices then wait for each other for ever.
    out = []
    with jax.set_mesh(self.mesh):
      for i in range(0, num + padding, batch):
        part = parallel.place(self.mesh, (z[i : i + batch], y[i : i + batch]))
        made = self._to_all(gen, *part, how)
        out.append(np.asarray(made.addressable_data(0)))
    return np.concatenate(out)[:num]

  def calibrate(self, gen: Gen, seed: int, how: How) -> Gen:
    """Return `gen` with standing statistics for this truncation added.

    Raises:
      UserError: such a truncation means nothing for these latents.
    """
    check_truncation(how, self.generator.dialects)
    with jax.set_mesh(self.mesh):
      return self.generator.calibrate(gen, jax.random.key(seed), how)

  def calibrate_all(self, gen: Gen, card: Mapping[str, Any]) -> Gen:
    """Return `gen` with standing statistics at exactly the truncations that the card lists."""
    gen = uncalibrated(gen)
    for truncation in card['truncations']:
      gen = self.calibrate(gen, 0, cards.how(card, truncation))
    return gen


def from_card(
  gen: Gen, card: dict[str, Any], devices: Sequence[jax.Device] | None = None
) -> tuple[Sampler, Gen, dict[str, Any]]:
  """Return (sampler, gen, card) for what card.load or card.load_workdir read.

  Raises:
    UserError: the card names an algorithm that this version does not have.
  """
  use_compilation_cache()
  generator = family(card['algorithm']).make_generator(dict(card['architecture']))
  mesh = parallel.make_mesh(devices)
  return Sampler(generator, mesh), jax.device_put(gen, parallel.replicated(mesh)), card
