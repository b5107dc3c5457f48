"""A generator's functions, jitted, on a mesh."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigjax.algorithms import generator_of
from bigjax.algorithms.base.contract import Gen, Generator, Spec
from bigjax.algorithms.base.draws import with_noise_of
from bigjax.algorithms.base.generators import parts
from bigjax.core import errors, parallel
from bigjax.core.device import use_compilation_cache


def to_uint8(images: jax.Array) -> jax.Array:
  """Images in [-1, 1] as uint8, rounded."""
  return jnp.round((images + 1) * 127.5).clip(0, 255).astype(jnp.uint8)


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

  @functools.cached_property
  def _firsts(self):
    def one(seed, spec):
      return self.generator.latents(jax.random.key(seed), 1, spec)[0]

    each = jax.vmap(one, in_axes=(0, None))
    return jax.jit(each, out_shardings=parallel.replicated(self.mesh))

  def _generate(self, out: Any) -> Callable[..., jax.Array]:
    def run(gen, z, y, spec):
      return to_uint8(self.generator.generate(gen, z, y, spec))

    examples = parallel.batched(self.mesh)
    return jax.jit(run, in_shardings=(None, examples, examples, None), out_shardings=out)

  @functools.cached_property
  def _to_all(self):
    return self._generate(parallel.replicated(self.mesh))

  @functools.cached_property
  def _to_each(self):
    return self._generate(parallel.batched(self.mesh))

  def sharded(self, gen: Gen, z: np.ndarray, y: np.ndarray, spec: Spec) -> jax.Array:
    """uint8 images [n, H, W, C], or clips [n, T, H, W, C], that stay on the devices.

    n must be a multiple of the number of devices.
    """
    with jax.set_mesh(self.mesh):
      return self._to_each(gen, *parallel.shard_batch(self.mesh, (z, y)), spec)

  def lower(self, gen: Gen, z: Any, y: Any, spec: Spec) -> jax.stages.Lowered:
    """The program of `sharded` for these shapes, traced for this mesh, not compiled."""
    with jax.set_mesh(self.mesh):
      return self._to_each.lower(gen, z, y, spec)

  def latents(self, seed: int, num: int, spec: Spec, start: int = 0) -> np.ndarray:
    """Latents [num, ...] of samples `start` and on of a seed; each follows from its number."""
    key, first = jax.random.key(seed), np.int32(start)
    with jax.set_mesh(self.mesh):
      return np.asarray(self._latents(key, num, spec, first).addressable_data(0))

  def first_of_each(self, seeds: Iterable[int], spec: Spec) -> np.ndarray:
    """The first latents of every seed, [n, ...]."""
    seeds = np.fromiter(seeds, np.uint32)
    with jax.set_mesh(self.mesh):
      return np.asarray(self._firsts(seeds, spec).addressable_data(0))

  def images(
    self, gen: Gen, z: np.ndarray, y: np.ndarray, spec: Spec, batch: int = 64
  ) -> np.ndarray:
    """uint8 [n, ...] for latents and labels (int32 [n], or float32 [n, classes])."""
    return self.in_batches(lambda *part: self._to_all(gen, *part, spec), (z, y), batch)

  @functools.cached_property
  def _to_all_with(self):
    def run(gen, z, y, others, spec):
      return to_uint8(with_noise_of(self.generator, gen, z, y, spec, others))

    examples, everywhere = parallel.batched(self.mesh), parallel.replicated(self.mesh)
    given = (None, examples, examples, examples, None)
    return jax.jit(run, in_shardings=given, out_shardings=everywhere)

  def images_with_noise_of(
    self, gen: Gen, z: np.ndarray, y: np.ndarray, spec: Spec, others: np.ndarray, batch: int = 64
  ) -> np.ndarray:
    """`images`, with the noise of other latents [n, ...] where the generator has any."""
    if not hasattr(self.generator, 'with_noise_of'):  # the program is there already
      return self.images(gen, z, y, spec, batch)
    run = lambda *part: self._to_all_with(gen, *part, spec)
    return self.in_batches(run, (z, y, others), batch)

  def in_batches(
    self, run: Callable[..., jax.Array], arrays: Sequence[np.ndarray], batch: int
  ) -> np.ndarray:
    """What `run` makes of arrays [n, ...], a batch of each at a time, in one shape."""
    num, size = len(arrays[0]), self.mesh.size
    batch = -(-min(batch, num) // size) * size
    padding = -num % batch
    arrays = [np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for a in arrays]
    # One batch at a time: programs with collectives that do not depend on each other may start in
    # another order on each device, and CPU devices then wait for each other for ever.
    out = []
    with jax.set_mesh(self.mesh):
      for i in range(0, num + padding, batch):
        part = parallel.shard_batch(self.mesh, tuple(a[i : i + batch] for a in arrays))
        out.append(np.asarray(run(*part).addressable_data(0)))
    return np.concatenate(out)[:num]

  # --- Of generators with an encoder (parts.Encoder)

  def _look(self, see: Callable[[Gen, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def run(gen, images):
      return see(gen, images.astype(jnp.float32) / 127.5 - 1)

    examples, everywhere = parallel.batched(self.mesh), parallel.replicated(self.mesh)
    return jax.jit(run, in_shardings=(None, examples), out_shardings=everywhere)

  @functools.cached_property
  def _encode(self):
    return self._look(parts.encoder_of(self.generator, 'encoding').encode)

  @functools.cached_property
  def _features(self):
    return self._look(parts.encoder_of(self.generator, 'encoding').features)

  def encoded(self, gen: Gen, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Latents float32 [n, ...] of uint8 images [n, ...]."""
    return self.in_batches(lambda part: self._encode(gen, part), (images,), batch)

  def features(self, gen: Gen, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """The encoder's features float32 [n, num_features] of the same."""
    return self.in_batches(lambda part: self._features(gen, part), (images,), batch)

  # --- Of generators that say how likely images are (parts.Likelihood)

  @functools.cached_property
  def _bits(self):
    def run(gen, images, y, numbers, seed):
      keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)
      of = parts.likelihood_of(self.generator, 'likelihood')
      return of.bits(gen, images.astype(jnp.float32) / 127.5 - 1, y, keys)

    examples, everywhere = parallel.batched(self.mesh), parallel.replicated(self.mesh)
    given = (None, examples, examples, examples, None)
    return jax.jit(run, in_shardings=given, out_shardings=everywhere)

  def bits(
    self,
    gen: Gen,
    images: np.ndarray,
    y: np.ndarray,
    numbers: np.ndarray,
    seed: int,
    batch: int = 64,
  ) -> np.ndarray:
    """Bits per dimension, float32 [n], of uint8 images [n, ...] with labels int32 [n].

    Args:
      gen: the generator.
      images, y: images and their labels.
      numbers: int32 [n], of the images: what is drawn for one follows from it and the seed.
      seed: of what is drawn.
      batch: images at a time.
    """
    run = lambda *part: self._bits(gen, *part, np.uint32(seed))
    return self.in_batches(run, (images, y, numbers), batch)

  # --- Of generators that go on with clips (parts.Predictor)

  @functools.cached_property
  def _predict(self):
    def run(gen, frames, z, y, spec):
      of = parts.predictor_of(self.generator, 'prediction')
      return to_uint8(of.predict(gen, frames.astype(jnp.float32) / 127.5 - 1, z, y, spec))

    examples, everywhere = parallel.batched(self.mesh), parallel.replicated(self.mesh)
    given = (None, examples, examples, examples, None)
    return jax.jit(run, in_shardings=given, out_shardings=everywhere)

  def predicted(
    self,
    gen: Gen,
    frames: np.ndarray,
    z: np.ndarray,
    y: np.ndarray,
    spec: Spec,
    batch: int = 64,
  ) -> np.ndarray:
    """The frames uint8 [n, T - num_given, ...] that follow uint8 [n, num_given, ...].

    Args:
      gen: the generator.
      frames: first frames of clips.
      z, y: latents, and labels int32 [n].
      spec: sampling settings.
      batch: clips at a time.
    """
    run = lambda *part: self._predict(gen, *part, spec)
    return self.in_batches(run, (frames, z, y), batch)

  # --- Of generators with styles (parts.Styles)

  @functools.cached_property
  def _map(self):
    examples = parallel.batched(self.mesh)
    return jax.jit(
      parts.styles_of(self.generator, 'mapping').map,
      in_shardings=(None, examples, examples),
      out_shardings=parallel.replicated(self.mesh),
    )

  @functools.cached_property
  def _synthesize(self):
    styles = parts.styles_of(self.generator, 'mixing')

    def run(gen, w, others, z, theirs, spec):
      own, other = (styles.layers(gen, one, spec) for one in (w, others))
      ws = jnp.where(theirs[None, :, None], other, own)
      return to_uint8(styles.synthesize(gen, ws, styles.noise(gen, z, spec), spec))

    examples, everywhere = parallel.batched(self.mesh), parallel.replicated(self.mesh)
    given = (None, examples, examples, examples, None, None)
    return jax.jit(run, in_shardings=given, out_shardings=everywhere)

  @functools.cached_property
  def _synthesize_with(self):
    styles = parts.styles_of(self.generator, 'noise in maps')

    def run(gen, w, maps, spec):
      return to_uint8(styles.synthesize(gen, styles.layers(gen, w, spec), maps, spec))

    examples, everywhere = parallel.batched(self.mesh), parallel.replicated(self.mesh)
    return jax.jit(run, in_shardings=(None, examples, examples, None), out_shardings=everywhere)

  def synthesized_with(
    self, gen: Gen, w: np.ndarray, maps: Sequence[np.ndarray], spec: Spec, batch: int = 64
  ) -> np.ndarray:
    """uint8 images [n, ...] of w [n, w_dim] and what layers add, [n, h, w, 1] each."""
    run = lambda w, *maps: self._synthesize_with(gen, w, maps, spec)
    return self.in_batches(run, (w, *maps), batch)

  def mapped(self, gen: Gen, z: np.ndarray, y: np.ndarray, batch: int = 64) -> np.ndarray:
    """w float32 [n, w_dim] of latents and labels, untruncated."""
    return self.in_batches(lambda *part: self._map(gen, *part), (z, y), batch)

  def synthesized(
    self,
    gen: Gen,
    w: np.ndarray,
    z: np.ndarray,
    spec: Spec,
    others: np.ndarray | None = None,
    theirs: Iterable[int] = (),
    batch: int = 64,
  ) -> np.ndarray:
    """uint8 images [n, ...] of w.

    Args:
      gen: the generator.
      w: [n, w_dim], untruncated.
      z: [n, ...], the latents whose noise it is.
      spec: sampling settings.
      others: [n, w_dim], whose styles the layers `theirs` have in place of w's.
      theirs: numbers of layers, from 0 on.
      batch: images at a time.
    """
    layers = np.isin(np.arange(parts.styles_of(self.generator, 'mixing').num_layers), list(theirs))
    run = lambda *part: self._synthesize(gen, *part, layers, spec)
    return self.in_batches(run, (w, w if others is None else others, z), batch)

  def prepare(self, gen: Gen, seed: int, spec: Spec) -> Gen:
    """`gen` with whatever these settings need measured; what it has already stays."""
    with jax.set_mesh(self.mesh):
      return self.generator.prepare(gen, jax.random.key(seed), spec)

  def prepare_all(self, gen: Gen, sampling: Mapping[str, Any]) -> Gen:
    """`gen` prepared for exactly the settings that a card's `sampling` lists."""
    gen = self.generator.bare(gen)
    for spec in self.generator.prepared(sampling):
      gen = self.prepare(gen, 0, spec)
    return gen


@contextlib.contextmanager
def refusing_misfits() -> Iterator[None]:
  """Makes one sentence of whatever a network says of a card or arrays that are another's.

  Raises:
    UserError: it said something.
  """
  try:
    yield
  except (errors.UserError, MemoryError):
    raise
  except Exception as error:  # each network has its own ways to say that arrays are another's
    words = ' '.join(str(error).split()).partition(' (https://')[0] or type(error).__name__
    raise errors.UserError(
      f"the generator's arrays and the architecture that its card states do not fit together "
      f'({words[:300].encode("unicode_escape").decode()}); give the card that was written with '
      'the arrays.'
    ) from None


def shape_of(card: Mapping[str, Any]) -> tuple[int, ...]:
  """(H, W, C) of the images, or (T, H, W, C) of the clips, of a card's generator.

  Raises:
    UserError: there is no such generator.
  """
  with refusing_misfits():
    return tuple(generator_of(card).shape)


def from_card(
  gen: Gen, card: dict[str, Any], devices: Sequence[jax.Device] | None = None
) -> tuple[Sampler, Gen, dict[str, Any]]:
  """(Sampler, gen, card) for what generator_file's load or load_workdir read.

  Raises:
    UserError: the card names an algorithm that this version does not have, or it and the arrays do
      not belong together.
  """
  use_compilation_cache()
  mesh = parallel.make_mesh(devices)
  with refusing_misfits():
    generator = generator_of(card)
    with jax.set_mesh(mesh):
      trace(generator, gen, card['sampling'])
  names = len(card['class_names'])
  if names != generator.num_classes:
    raise errors.UserError(
      f'the card names {names} classes, its generator has {generator.num_classes}: give the card '
      'that was written with the arrays.'
    )
  return Sampler(generator, mesh), jax.device_put(gen, parallel.replicated(mesh)), card


def trace(generator: Generator, gen: Gen, sampling: Mapping[str, Any]) -> None:
  """Trace what is made of one image, computing nothing: fails where arrays have other shapes."""
  encoder = getattr(generator, 'encoder', None)
  if encoder is not None:
    images = jax.ShapeDtypeStruct((1, *encoder.shape), jnp.float32)
    jax.eval_shape(encoder.encode, gen, images)
  classifier = getattr(generator, 'classifier', None)
  if classifier is not None:
    images = jax.ShapeDtypeStruct((1, *classifier.shape), jnp.float32)
    jax.eval_shape(classifier.log_probabilities, gen, images, jax.ShapeDtypeStruct((1,), jnp.int32))
  ready = lambda spec: generator.provenance(gen, spec, sampling)[0]
  spec: Spec | None = generator.spec(sampling)
  if not ready(spec):
    spec = next(filter(ready, generator.prepared(sampling)), None)
  if spec is None:  # statistics are missing, which sampling will measure
    return
  z = jax.ShapeDtypeStruct((1, *generator.latent_shape), jnp.float32)
  y = jax.ShapeDtypeStruct((1,), jnp.int32)
  jax.eval_shape(generator.generate, gen, z, y, spec)
