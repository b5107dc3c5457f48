"""Pictures only: no scores, for images whose pixels are no measure of their quality."""

from collections.abc import Callable

from bigjax.evaluation.quick import Images, Labelled, Scores


def make(train: Images, held_out: Images) -> tuple[Callable[[Labelled], Scores], Scores]:
  """Return (score, floor), both without any scores."""
  del train, held_out
  return lambda samples: {}, {}
