"""What all scores of networks refuse: images in a network's place, a part that lacks, clips."""

from collections.abc import Callable, Sequence
from typing import Any

from bigjax.core import errors
from bigjax.sampling.loaded import Loaded


def refuse(
  metrics: Sequence[str], loaded: Loaded | None, kind: str, need: Callable[[Any, str], Any]
) -> None:
  """Refuse scores that a generator cannot have.

  Args:
    metrics: all of one kind.
    loaded: the generator; None where images are scored.
    kind: what each is in words, 'a score of an encoder'.
    need: (generator, name of a score) -> nothing; refuses a generator without what it needs.
  Raises:
    UserError: names the first.
  """
  for name in metrics:
    if loaded is None:
      raise errors.UserError(
        f'--metrics={name} is {kind}, not of images: give --workdir or --params.'
      )
    need(loaded.sampler.generator, name)
    if len(loaded.shape) == 4:
      raise errors.UserError(f'--metrics={name} is for images; this generator makes clips.')
