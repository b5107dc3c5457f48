"""A player: one set of weights, its optimizer, and its count of refused updates."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigjax.algorithms.base.contract import Array, Metrics
from bigjax.core import parallel, trees
from bigjax.nn import optim, spectral_norm


@dataclasses.dataclass(frozen=True)
class Player:
  """One set of weights and how it moves.

  `tx` holds still what is not finite (optim.guard) and carries spectral vectors (spectral.track).
  """

  tx: optax.GradientTransformation
  dtype: Any = jnp.float32  # that the network rounds its convolutions' kernels to

  def init(self, params: Any) -> dict[str, Any]:
    """Return the player's state around freshly initialised parameters."""
    return {'params': params, 'opt': self.tx.init(params), 'stats': {}}

  def update(self, player: dict[str, Any], grads: Any, loss: Array) -> tuple[dict[str, Any], Array]:
    """Return the player's state after one optimizer update, and whether there was one.

    Where the loss or a gradient is not finite, the state stays as it is.
    """
    tx = optax.with_extra_args_support(self.tx)
    updates, opt = tx.update(grads, player['opt'], player['params'], loss=loss)
    finite = optim.was_finite(opt)
    with jax.named_scope('optimizer'):
      opt = trees.select(finite, opt, player['opt'])
      return {
        **player,
        'params': optax.apply_updates(player['params'], updates),
        'opt': opt,
      }, finite

  def pullback(self, player: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """Return the weights as the network uses them, and gradient of those -> gradient of params."""
    vectors = spectral_norm.vectors(player['opt'])
    weights, back = jax.vjp(lambda p: spectral_norm.normalize(p, vectors), player['params'])
    return parallel.whole(weights, self.dtype), lambda grads: back(grads)[0]

  def normalized(self, player: dict[str, Any]) -> Any:
    """Return the weights as the network uses them: spectrally normalised."""
    weights = spectral_norm.normalize(player['params'], spectral_norm.vectors(player['opt']))
    return parallel.whole(weights, self.dtype)


def replace(params: Any, given: Mapping[str, Array]) -> Any:
  """Return the parameters with those at the paths of `given` replaced."""
  return trees.map_paths(lambda path, fresh: given.get(path, fresh), params)


def count_skipped(skipped: Array, finite: Array) -> Array:
  """Return refused updates [in a row, in all], int32, after one more that was finite or not."""
  in_a_row, in_all = skipped
  return jnp.stack([jnp.where(finite, 0, in_a_row + 1), in_all + jnp.where(finite, 0, 1)])


def none_skipped() -> Array:
  """Return the count of no refused updates."""
  return jnp.zeros((2,), jnp.int32)


def skipped_metrics(skipped: dict[str, Array]) -> Metrics:
  """Return the most updates of a player refused in a row, up to now, and those of all in all."""
  counts = jnp.stack(list(skipped.values()))
  return {'skipped': counts[:, 0].max(), 'refused': counts[:, 1].sum()}
