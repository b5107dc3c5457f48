"""What all scores of networks refuse: images in a network's place, parts or data that lack."""

from collections.abc import Callable, Sequence
from typing import Any

from bigjax.core import errors
from bigjax.evaluation.image_sets import ImageSet
from bigjax.sampling.loaded import Loaded


def refuse(
  metrics: Sequence[str],
  loaded: Loaded | None,
  kind: str,
  need: Callable[[Any, str], Any],
  clips: bool = False,
) -> None:
  """Refuse scores that a generator cannot have.

  Args:
    metrics: all of one kind.
    loaded: the generator; None where images are scored.
    kind: what each is in words, 'a score of an encoder'.
    need: (generator, name of a score) -> nothing; refuses a generator without what it needs.
    clips: whether they are of generators of clips; else of images.
  Raises:
    UserError: names the first.
  """
  for name in metrics:
    if loaded is None:
      raise errors.UserError(
        f'--metrics={name} is {kind}, not of images: give --workdir or --params.'
      )
    need(loaded.sampler.generator, name)
    if (len(loaded.shape) == 4) != clips:
      kinds = ('clips', 'images') if clips else ('images', 'clips')
      raise errors.UserError(
        f'--metrics={name} is for {kinds[0]}; this generator makes {kinds[1]}.'
      )


def refuse_real(metrics: Sequence[str], test: ImageSet | None, num_classes: int) -> None:
  """Refuse real images that a generator says nothing of.

  Args:
    metrics: that look at held-out images.
    test: these; None where no real images are named.
    num_classes: of the generator.
  Raises:
    UserError: says why.
  """
  for name in metrics:
    if test is None:
      raise errors.UserError(
        f'--metrics={name} needs real images with a test split; give --reference, such as '
        'tfds:cifar10/train.'
      )
    if num_classes > 1 and test.num_classes != num_classes:
      raise errors.UserError(
        f'--metrics={name} needs the labels that the generator knows: it has {num_classes} '
        f'classes, and {test.name!r} has {test.num_classes}.'
      )
