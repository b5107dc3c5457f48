"""Latents in files: what `bigjax project` finds, and `bigjax sample --latents` makes images of.

An .npz with `z` [n, ...] or `w` [n, w_dim], and what else decides the images: `labels` [n]; the
noise of the layers, as the latents `noise_of` [n, ...] that it is drawn for, or as maps `noise00`,
`noise01`, ... [n, h, w, 1]; `sampling`, the options as JSON. All but the first may be missing.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigjax.algorithms.base.contract import Spec
from bigjax.algorithms.base.generators.parts import styles_of
from bigjax.core import errors, files
from bigjax.sampling import loaded as generators
from bigjax.sampling.image_files import BATCH
from bigjax.sampling.loaded import Loaded

SPACES = ('z', 'w')


@dataclasses.dataclass(frozen=True)
class Latents:
  """Latents of n samples, and what else decides their images.

  Attributes:
    space: of SPACES.
    values: float32 [n, *latent_shape], or w, untruncated, [n, w_dim].
    labels: int32 [n]; None: nobody said. Of w they are names alone.
    noise_of: float32 [n, *latent_shape], whose noise it is; None: of z itself, of w sample 0's.
    maps: of w, noise of the layers, float32 [n, h, w, 1] each; () for that of `noise_of`.
    names: of the samples, [n] or none.
    sampling: options {name: word}, 'truncation' among them, that they were found with.
    generator: its digest; '' where nobody said.
  """

  space: str
  values: np.ndarray
  labels: np.ndarray | None = None
  noise_of: np.ndarray | None = None
  maps: Sequence[np.ndarray] = ()
  names: Sequence[str] = ()
  sampling: Mapping[str, str] = dataclasses.field(default_factory=dict)
  generator: str = ''

  def __len__(self) -> int:
    return len(self.values)

  def at(self, index: Any) -> 'Latents':
    """Those of an index, a slice or an array of indices."""
    cut = lambda x: None if x is None else x[index]
    return dataclasses.replace(
      self,
      values=self.values[index],
      labels=cut(self.labels),
      noise_of=cut(self.noise_of),
      maps=[x[index] for x in self.maps],
      names=np.array(self.names)[index].tolist() if self.names else (),
    )

  def moved(self, steps: np.ndarray) -> 'Latents':
    """With vectors [n, ...] added, and the noise of before."""
    noise = self.values if self.space == 'z' and self.noise_of is None else self.noise_of
    values = (self.values + steps).astype(np.float32)
    return dataclasses.replace(self, values=values, noise_of=noise)


def images(loaded: Loaded, latents: Latents, spec: Spec, batch: int = BATCH) -> np.ndarray:
  """uint8 images [n, ...] of latents; call `loaded.prepare(spec)` first."""
  sampler, gen, num = loaded.sampler, loaded.gen, len(latents)
  noise = latents.noise_of
  if latents.space == 'z':
    labels = np.zeros(num, np.int32) if latents.labels is None else latents.labels
    noise = latents.values if noise is None else noise
    return sampler.images_with_noise_of(gen, latents.values, labels, spec, noise, batch)
  if latents.maps:
    return sampler.synthesized_with(gen, latents.values, latents.maps, spec, batch)
  if noise is None:
    noise = np.repeat(sampler.latents(0, 1, spec), num, axis=0)
  return sampler.synthesized(gen, latents.values, noise, spec, batch=batch)


def write(path: str, latents: Latents, **others: Any) -> None:
  """Write latents as .npz, whole or not at all.

  Args:
    path: of the file.
    latents: these.
    others: further arrays, or what NumPy makes arrays of.
  """
  found: dict[str, Any] = {latents.space: latents.values, 'names': latents.names}
  found |= {'labels': latents.labels, 'noise_of': latents.noise_of}
  found |= {'generator': latents.generator}
  found |= {f'noise{i:02d}': maps for i, maps in enumerate(latents.maps)}
  found |= {'sampling': json.dumps(dict(latents.sampling)), **others}
  arrays: dict[str, Any] = {name: np.array(x) for name, x in found.items() if x is not None}
  with files.whole(path) as file:
    np.savez(file, **arrays)


def latent_shape(loaded: Loaded, space: str, what: str = 'w') -> tuple[int, ...]:
  """The shape of one latent in a space.

  Raises:
    UserError: there is no w, which `what` needs.
  """
  generator = loaded.sampler.generator
  if space == 'z':
    return tuple(generator.latent_shape)
  styles = styles_of(generator, what)
  z = jax.ShapeDtypeStruct((1, *generator.latent_shape), np.float32)
  y = jax.ShapeDtypeStruct((1,), np.int32)
  return tuple(jax.eval_shape(styles.map, loaded.gen, z, y).shape[1:])


def arrays_of(path: str, option: str) -> dict[str, np.ndarray]:
  """The arrays of an .npz that an option names; nothing in it is run.

  Raises:
    UserError: it is none, or damaged.
  """
  try:
    return files.read_npz(path)
  except ValueError as error:
    raise errors.UserError(
      f'{option}={path} is no .npz of arrays ({error}); give another.'
    ) from None


def text_of(arrays: Mapping[str, np.ndarray], name: str, otherwise: str = '') -> str:
  """An array that is a text; another where it is missing."""
  found = arrays.get(name)
  return otherwise if found is None or found.dtype.kind != 'U' or found.ndim else str(found)


def options_of(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
  """The sampling options in a file; none where it has none that can be read."""
  try:
    found = json.loads(text_of(arrays, 'sampling', '{}'))
  except (ValueError, RecursionError):
    return {}
  return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def note_if_of_another(loaded: Loaded, digest: str, what: str) -> None:
  """Say so where latents or directions are another generator's, which may be meant."""
  if digest and digest != generators.generator_digest(loaded):
    print(f'note: {what} of another generator than this one.', file=sys.stderr)


def numbers(path: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """An array of a file as float32 [n, *shape].

  Raises:
    UserError: it has another shape, or numbers that are not finite.
  """
  fits = array.dtype.kind == 'f' and array.ndim > 0 and array.shape[1:] == shape and array.size
  if not fits or not np.isfinite(array).all():
    wrong = f'{array.dtype} {list(array.shape)}' if not fits else 'not finite'
    raise errors.UserError(
      f'{path}: {name} is {wrong}; this generator takes floats [n, {", ".join(map(str, shape))}].'
    )
  return array.astype(np.float32)


def check_maps(path: str, maps: Sequence[np.ndarray], loaded: Loaded) -> None:
  """Refuse noise maps of other layers than a generator's.

  Raises:
    UserError: says so.
  """
  generator, spec = loaded.sampler.generator, loaded.spec()
  styles = styles_of(generator, f'--latents={path}, of w,')
  z = jax.ShapeDtypeStruct((1, *generator.latent_shape), np.float32)
  wanted = jax.eval_shape(lambda gen, z: styles.noise(gen, z, spec), loaded.gen, z)
  ours, theirs = ([x.shape[1:] for x in some] for some in (wanted, maps))
  if ours != theirs or any(x.dtype != np.float32 for x in maps):
    raise errors.UserError(
      f'{path}: its noise maps are not of the layers of this generator; give latents of its own.'
    )


def read(path: str, loaded: Loaded) -> Latents:
  """Latents of a file, for this generator.

  Raises:
    UserError: it is no such file, or its arrays do not fit the generator.
  """
  arrays = arrays_of(path, '--latents')
  space = next((name for name in SPACES if name in arrays), None)
  if space is None:
    raise errors.UserError(
      f'--latents={path} has neither z nor w, but {", ".join(arrays)[:200] or "nothing"}; give '
      'what `bigjax project` wrote, or an .npz with the array z.'
    )
  shape = latent_shape(loaded, 'z')
  needed = shape if space == 'z' else latent_shape(loaded, 'w', f'--latents={path}, of w,')
  values = numbers(path, space, arrays[space], needed)
  found, num = {}, len(values)
  for name in sorted(arrays):
    of_samples = name in ('labels', 'names') or name.startswith('noise')
    if of_samples and arrays[name].shape[:1] != (num,):
      raise errors.UserError(f'{path}: {name} is not of {num} samples, as {space} is.')
  if 'labels' in arrays:
    labels = arrays['labels']
    if labels.dtype.kind not in 'iu' or labels.ndim != 1:
      raise errors.UserError(f'{path}: labels are {labels.dtype}; they must be whole numbers [n].')
    found['labels'] = generators.read_labels(labels, loaded.class_names, None)
  if 'noise_of' in arrays:
    found['noise_of'] = numbers(path, 'noise_of', arrays['noise_of'], shape)
  maps = [arrays[name] for name in sorted(arrays) if name[5:].isdecimal() and name[:5] == 'noise']
  if space == 'w' and maps:
    check_maps(path, maps, loaded)
  names = arrays['names'].astype(str).tolist() if 'names' in arrays else ()
  note_if_of_another(loaded, text_of(arrays, 'generator'), f'{path} has latents')
  return Latents(
    space, values, **found, maps=maps, names=names, sampling=options_of(arrays),
    generator=text_of(arrays, 'generator'),
  )  # fmt: skip
