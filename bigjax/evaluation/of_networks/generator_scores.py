"""Scores of a generator itself, not of a set of images: path lengths, separability of latents.

Their names say in which distance, or by which network's outputs: ppl_w_full50k_DISTANCE,
ls_w50k_NETWORK_10attributes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.contract import Generator, Spec
from bigjax.algorithms.base.draws import with_noise_of
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import errors, parallel
from bigjax.core.progress import counted
from bigjax.evaluation.metrics import path_length, registry, separability
from bigjax.evaluation.metrics.registry import OF_GENERATOR, FeatureStats, OfGenerator
from bigjax.evaluation.of_networks import refusals
from bigjax.evaluation.samples import whole_batches
from bigjax.models.pretrained.registry import FeatureNetwork
from bigjax.models.pretrained.taps import ImageDistance
from bigjax.sampling.loaded import Loaded

MOST_ATTRIBUTES = 100


def refuse(metrics: Sequence[str], loaded: Loaded | None) -> None:
  """Refuse scores that this generator cannot have.

  Args:
    metrics: of registry.OF_GENERATOR.
    loaded: the generator; None where images are scored.
  Raises:
    UserError: names the first.
  """

  def need(generator: Generator, name: str) -> None:
    if OF_GENERATOR[name].space == 'w':
      styles_of(generator, f'--metrics={name}')

  refusals.refuse(metrics, loaded, 'a score of a generator', need)


def refuse_network(metrics: Sequence[str], network: FeatureNetwork) -> None:
  """Refuse attributes of a network that tells too many classes apart, or none.

  Raises:
    UserError: says so.
  """
  asked = [name for name in metrics if OF_GENERATOR[name].separates]
  if asked and not 2 <= network.num_logits <= MOST_ATTRIBUTES:
    raise errors.UserError(
      f'--metrics={asked[0]} takes the outputs of the network for attributes, 2 to '
      f'{MOST_ATTRIBUTES}, and {network.name} has {network.num_logits}; give '
      '--features=classifier or another with fewer.'
    )


@dataclasses.dataclass(frozen=True)
class Measure:
  """What these scores are measured with.

  Attributes:
    distance: of images.
    crop: whether path lengths are of the part of portraits that the face is in.
    network: whose outputs are attributes.
    batch: pairs at a time.
  """

  distance: ImageDistance | None
  crop: bool
  network: FeatureNetwork
  batch: int

  def about(self) -> dict[str, Any]:
    """What of it a score depends on, for its protocol."""
    if self.distance is None:
      return {}
    return {
      'distance': self.distance.name, 'distance_digest': self.distance.digest,
      'epsilon': path_length.EPSILON, 'crop': self.crop,
    }  # fmt: skip

  def scored(
    self,
    metrics: Sequence[str],
    loaded: Loaded,
    spec: Spec,
    samples: FeatureStats | None,
    num: int,
    seed: int,
  ) -> Mapping[str, float]:
    """{Full name: value} of a generator, prepared for `spec`.

    Args:
      metrics: of registry.OF_GENERATOR.
      loaded: the generator.
      spec: sampling settings.
      samples: with logits; None where no score is of attributes.
      num: of pairs, or of samples.
      seed: of latents.
    """
    found = {}
    for name in metrics:
      metric = OF_GENERATOR[name]
      kind = name + registry.thousands(num)
      if metric.separates:
        words, value = self.separability(metric, loaded, spec, samples, num, seed)
      else:
        words, value = self.path_length(metric, loaded, spec, num, seed)
      found[f'{kind}_{words}'] = value
    return found

  def separability(
    self,
    metric: OfGenerator,
    loaded: Loaded,
    spec: Spec,
    samples: FeatureStats,
    num: int,
    seed: int,
  ) -> tuple[str, float]:
    """(What the name says of the network, 2 to the entropies of its outputs)."""
    sampler = loaded.sampler
    latents = sampler.latents(seed, num, spec)
    if metric.space == 'w':
      y = (np.arange(num) % sampler.generator.num_classes).astype(np.int32)
      latents = sampler.mapped(loaded.gen, latents, y, self.batch)
    sure = separability.margins(samples.logits)
    words = f'{self.network.name}_{sure.shape[1]}attributes'
    return words, separability.separability(latents.reshape(num, -1), sure)

  def path_length(
    self, metric: OfGenerator, loaded: Loaded, spec: Spec, num: int, seed: int
  ) -> tuple[str, float]:
    """(What the name says of the distance, the expected length)."""
    sampler = loaded.sampler
    mesh, classes = sampler.mesh, sampler.generator.num_classes
    batch = whole_batches(min(self.batch, num), mesh.size)
    t = np.random.RandomState(seed).uniform(size=num + batch).astype(np.float32)
    t = t if metric.full else np.zeros_like(t)
    examples, everywhere = parallel.batched(mesh), parallel.replicated(mesh)
    measure = jax.jit(
      self.program(metric, loaded, spec),
      in_shardings=(None, everywhere, *[examples] * 4),
      out_shardings=everywhere,
    )
    variables, found = jax.device_put(self.distance.variables, everywhere), []
    with jax.set_mesh(mesh):
      for i in counted(range(0, num, batch), f'path lengths in {metric.space}, batches'):
        z = sampler.latents(seed, 2 * batch, spec, 2 * i)
        y = (np.arange(i, i + batch) % classes).astype(np.int32)
        pairs = parallel.shard_batch(mesh, (z[0::2], z[1::2], y, t[i : i + batch]))
        found.append(np.asarray(measure(loaded.gen, variables, *pairs)))
    size = loaded.resolution // 2 if self.crop else loaded.resolution
    words = self.distance.name_at(size) + ('_crop' if self.crop else '')
    return words, path_length.expected(np.concatenate(found)[:num])

  def program(self, metric: OfGenerator, loaded: Loaded, spec: Spec) -> Any:
    """(gen, variables, z, z of the other ends, y, t) -> path lengths [B], both images of one noise.

    In float32 throughout: at so small a step, rounding would be most of what is measured.
    """
    generator, distance = loaded.sampler.generator, self.distance
    styles = getattr(generator, 'styles', None)

    def images(gen, w, z):
      ws = styles.layers(gen, w, spec)
      return styles.synthesize(gen, ws, styles.noise(gen, z, spec), spec)

    def on_paths(gen, z, other, y):
      if metric.space == 'w':
        a, b = styles.map(gen, z, y), styles.map(gen, other, y)
        return lambda t: images(gen, path_length.lerp(a, b, t), z)
      return lambda t: with_noise_of(generator, gen, path_length.slerp(z, other, t), y, spec, z)

    def run(gen, variables, z, other, y, t):
      cut = path_length.cropped if self.crop else lambda x: x
      away = lambda a, b: distance.apply(variables, cut(a), cut(b))
      with jax.default_matmul_precision('highest'):
        return path_length.lengths(on_paths(gen, z, other, y), away, t).astype(jnp.float32)

    return run
