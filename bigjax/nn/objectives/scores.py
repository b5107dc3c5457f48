"""Scores of critics: their gradients by the image, and transforms that normalise by those.

GraN (Bhaskara et al. 2022) and GN (Wu et al. 2021) bound the slope of a critic by dividing by the
norm of its own gradient. Both are meant for critics that are linear in pieces, where that norm is
constant around an image; `curved` says whether one is. GraN's code is not public: its epsilon here
is what we understand the paper to use, and K is to be tuned for each data set.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from bigjax.core import errors, trees

Array = jax.Array
Score = Callable[[Array], Array]  # images [B, H, W, C] -> [B], each of its own image alone
Critic = Callable[[Array], tuple[Array, Any]]  # images -> (scores [B], whatever else it says)
Transform = Callable[..., tuple[Array, Any]]  # (critic, images, stop_norm=False) -> the same


def with_gradient(critic: Critic, images: Array) -> tuple[Array, Any, Array]:
  """A critic's answer and its scores' gradients by the images [B, H, W, C], at least float32."""

  def total(x):
    scores, said = critic(x)
    return scores.sum(), (scores, said)

  gradients, (scores, said) = jax.grad(total, has_aux=True)(images)
  return trees.at_least_float32(scores), said, trees.at_least_float32(gradients)


def squares(x: Array) -> Array:
  """The sum of squares of each example [B, ...] -> [B]."""
  return jnp.square(x).sum(tuple(range(1, x.ndim)))


def safe_sqrt(x: Array) -> Array:
  """The square root, with gradient 0 at 0: there autodiff's is infinite, and NaN times 0."""
  positive = x > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def slopes(score: Score, images: Array) -> Array:
  """The norm of each score's gradient by its image, [B]; differentiable also where it is 0."""
  return safe_sqrt(squares(with_gradient(lambda x: (score(x), None), images)[2]))


def none(critic: Critic, images: Array, stop_norm: bool = False) -> tuple[Array, Any]:
  """The transform that is none."""
  del stop_norm
  return critic(images)


def _measured(critic: Critic, images: Array, stop_norm: bool) -> tuple[Array, Any, Array]:
  """What a critic says, and the squared norms [B] of its scores' gradients.

  With `stop_norm` the norms are constants and the scores linear in the images, whose gradient is
  at hand: what a generator needs, for the price of a score without transform. Where the critic is
  linear in pieces that is exact, because the norm does not change around an image.
  """
  scores, said, gradients = with_gradient(critic, images)
  if stop_norm:
    scores, gradients = lax.stop_gradient((scores, gradients))
    moved = (images - lax.stop_gradient(images)).astype(gradients.dtype)
    scores = scores + (gradients * moved).sum(tuple(range(1, images.ndim)))
  return scores, said, squares(gradients)


def gran(k: float = 1.0, eps: float = 0.1) -> Transform:
  """GraN: K f n / (n^2 + eps) with n = |grad f|, whose own slope is K n^2 / (n^2 + eps) < K.

  Args:
    k: the Lipschitz constant K of the pieces. The step that Adam takes is the smaller, the larger
      K is against its epsilon, so the two are tuned together.
    eps: added to the squared norm.
  """

  def transform(critic, images, stop_norm=False):
    scores, said, norms = _measured(critic, images, stop_norm)
    return k * scores * safe_sqrt(norms) / (norms + eps), said

  return transform


def gn() -> Transform:
  """GN: f / (|grad f| + |f|), between -1 and 1; 0 where both are 0."""

  def transform(critic, images, stop_norm=False):
    scores, said, norms = _measured(critic, images, stop_norm)
    below = safe_sqrt(norms) + jnp.abs(scores)
    return jnp.where(below > 0, scores / jnp.where(below > 0, below, 1), 0), said

  return transform


TRANSFORMS: dict[str, Callable[..., Transform]] = {'none': lambda: none, 'gran': gran, 'gn': gn}


# Is a critic linear in pieces? Read off its program, as a function of the image, without running
# it: its primitives are followed with what is known of their operands.

CONSTANT, LINEAR = 0, 1  # in each piece
# fmt: off
KEPT = frozenset((  # linear in pieces, whatever of their operands depends on the image
  'abs', 'add', 'add_any', 'broadcast_in_dim', 'clamp', 'concatenate', 'convert_element_type',
  'copy', 'cumsum', 'expand_dims', 'max', 'min', 'name', 'neg', 'optimization_barrier',
  'pad', 'pcast', 'psum', 'psum_invariant', 'pvary', 'reduce_max', 'reduce_min',
  'reduce_precision', 'reduce_sum', 'reduce_window_max', 'reduce_window_min', 'reduce_window_sum',
  'reshape', 'rev', 'select_n', 'sharding_constraint', 'slice', 'sort', 'split', 'squeeze',
  'stop_gradient', 'sub', 'transpose',
))
PRODUCTS = frozenset(('mul', 'dot_general', 'conv_general_dilated'))  # of one that does
STEPS = frozenset((  # constant in pieces
  'and', 'argmax', 'argmin', 'ceil', 'eq', 'floor', 'ge', 'gt', 'is_finite', 'le', 'lt', 'ne',
  'not', 'or', 'round', 'sign', 'xor',
))
# fmt: on
ONLY_FIRST = frozenset(('div', 'gather', 'dynamic_slice'))  # the rest must be constant


def curved(score: Callable[..., Any], *inputs: Any) -> str:
  """Finds the primitive that keeps a function from being linear in pieces; '' if none does.

  Cheap: the function is traced and not run. What is not known to be linear in pieces counts as
  curved, such as a loop.

  Args:
    score: (images, ...) -> scores.
    inputs: arrays or ShapeDtypeStructs, float32: all that the function shall be linear in.
  """
  closed = jax.make_jaxpr(score)(*inputs)
  return _follow(closed.jaxpr, [LINEAR] * len(closed.jaxpr.invars))[1]


def _follow(jaxpr: Any, kinds: Sequence[int]) -> tuple[list[int], str]:
  """(The kind of each result, the first primitive that bends), given the kinds of the inputs."""
  known = dict(zip(jaxpr.invars, kinds, strict=True))
  kind = lambda atom: CONSTANT if isinstance(atom, jex.Literal) else known.get(atom, CONSTANT)
  for eqn in jaxpr.eqns:
    results, bend = _result(eqn, [kind(atom) for atom in eqn.invars])
    if bend:
      return [], bend
    known |= dict(zip(eqn.outvars, results, strict=True))
  return [kind(atom) for atom in jaxpr.outvars], ''


def _result(eqn: Any, kinds: list[int]) -> tuple[list[int], str]:
  """The same of one equation."""
  name, each = eqn.primitive.name, lambda kind: [kind] * len(eqn.outvars)
  if max(kinds, default=CONSTANT) == CONSTANT or name in STEPS:
    return each(CONSTANT), ''
  inner = [x for x in jax.tree.leaves(list(eqn.params.values()), is_leaf=_program) if _program(x)]
  if len(inner) == 1 and name not in ('scan', 'while'):  # a call; custom rules hold the function
    jaxpr = getattr(inner[0], 'jaxpr', inner[0])
    return _follow(jaxpr, kinds)
  linear = (
    name in KEPT
    or (name in PRODUCTS and sum(kinds) == LINEAR)
    or (name in ONLY_FIRST and not any(kinds[1:]))
    or (name == 'integer_pow' and eqn.params['y'] == 1)
  )
  return (each(LINEAR), '') if linear else ([], name)


def _program(x: Any) -> bool:
  return isinstance(x, (jex.Jaxpr, jex.ClosedJaxpr))


def check_piecewise_linear(score: Score, shape: Sequence[int], key: str) -> None:
  """Refuse a critic whose gradient norm is no constant of a piece.

  Args:
    score: a critic; its weights may be of any value.
    shape: of its images [B, H, W, C].
    key: the setting that asks for such a critic, for the message.

  Raises:
    UserError: it bends somewhere.
  """
  bend = curved(score, jax.ShapeDtypeStruct(tuple(shape), jnp.float32))
  if bend:
    raise errors.UserError(
      f'{key} needs a discriminator that is linear in pieces (convolutions, ReLU, LeakyReLU, '
      f'pooling), but this one computes `{bend}` of the image; take another network or activation, '
      'no attention and no normalisation of features, or turn it off.'
    )
