"""Probes of features: how well a linear classifier, or nearest neighbours, tell classes by them.

As BigBiGAN's authors probe their encoder (Donahue & Simonyan 2019, Appendix B): the features as
they are (`avepool`), or normalised over the training images and split by sign (`bncrelu`: BatchNorm
without gain and bias, then CReLU). The classifier is trained with Adam at five learning rates at
once, of which training images that are held out for that choose one. Neighbours are nearest in
angle, and the most frequent class among them wins.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigjax.nn import linalg

Array = jax.Array
Seen = tuple[np.ndarray, np.ndarray]  # features float32 [n, d], labels int [n]
Change = Callable[[np.ndarray], np.ndarray]  # of features, a part at a time: all may be many
NEIGHBOURS = 25
CHUNK = 1024  # rows at a time
EPS = 1e-5  # of the variance
SENT = 2**24  # numbers of the batches that are sent to the devices at once


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the linear classifier is trained.

  Attributes:
    steps, batch: of Adam, which begins at 0.
    rates: learning rates to choose from.
    held_out: share of the labelled images that choose, at most `most_held_out`.
    least: labelled images of a class, below which none is held out and `alone` is the rate.
    alone: see there.
  """

  steps: int = 5000
  batch: int = 512
  rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
  held_out: float = 0.1
  most_held_out: int = 10_000
  least: int = 10
  alone: float = 1e-3


RECIPE = Recipe()


def as_they_are(features: np.ndarray) -> np.ndarray:
  """Features, unchanged."""
  return features


def bncrelu(train: np.ndarray) -> Change:
  """(Features [n, d]) -> normalised by the moments of training ones, split by sign: [n, 2d]."""
  mean = train.mean(0, dtype=np.float64)
  parts = (train[i : i + CHUNK] for i in range(0, len(train), CHUNK))
  var = sum(np.square(part - mean).sum(0) for part in parts) / len(train)
  centre, scale = mean.astype(np.float32), (1 / np.sqrt(var + EPS)).astype(np.float32)

  def change(features: np.ndarray) -> np.ndarray:
    normal = (features - centre) * scale
    return np.concatenate([np.maximum(normal, 0), np.maximum(-normal, 0)], axis=1)

  return change


def few(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
  """Places of so many of each class, drawn by a seed, in ascending order; 0: of all."""
  if not per_class:
    return np.arange(len(labels))
  order = np.random.RandomState(seed).permutation(len(labels))
  return np.sort(
    np.concatenate([order[labels[order] == one][:per_class] for one in np.unique(labels)])
  )


@jax.jit
def _logits(params: dict[str, Array], x: Array) -> Array:
  """Logits [rates, B, k]."""
  logits = jnp.einsum('bd,rdk->rbk', x, params['kernel'], precision='highest')
  return logits + params['bias'][:, None]


@functools.partial(jax.jit, donate_argnums=0)
def _train(state: tuple, rates: Array, xs: Array, ys: Array) -> tuple:
  """(Parameters, Adam's state) of all rates after batches xs [steps, B, d], ys [steps, B]."""
  adam = optax.scale_by_adam()

  def loss(params, x, y):
    logits, targets = _logits(params, x), y[None].repeat(len(rates), 0)
    of_each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return of_each.mean(1).sum()  # the rates know nothing of each other

  def step(carry, batch):
    params, opt = carry
    with jax.numpy_dtype_promotion('standard'):
      updates, opt = adam.update(jax.grad(loss)(params, *batch), opt)
    move = lambda p, u: p - rates.reshape(-1, *[1] * (p.ndim - 1)) * u
    return (jax.tree.map(move, params, updates), opt), None

  return jax.lax.scan(step, state, (xs, ys))[0]


def right(params: dict[str, Array], seen: Seen, top: int, change: Change) -> np.ndarray:
  """Shares [rates] of rows whose class is among the `top` likeliest."""
  features, labels = seen
  hits = 0
  for i in range(0, len(labels), CHUNK):
    logits = np.asarray(_logits(params, change(features[i : i + CHUNK])))
    best = np.argpartition(-logits, top - 1, axis=2)[..., :top]
    hits = hits + (best == labels[None, i : i + CHUNK, None]).any(2).sum(1)
  return hits / len(labels)


def linear(
  train: Seen,
  test: Seen,
  change: Change = as_they_are,
  seed: int = 0,
  recipe: Recipe = RECIPE,
) -> dict[int, float]:
  """{1: share of test rows told right by a linear classifier, 5: among the five likeliest}.

  The second is there where there are more than five classes.

  Args:
    train: features and labels 0 to k - 1 that it learns from.
    test: the same of others.
    change: what it is given of features.
    seed: of what is held out, and of the order.
    recipe: of its training.
  """
  features, labels = train
  classes, rng = int(labels.max()) + 1, np.random.RandomState(seed)
  order, rates, kept = rng.permutation(len(labels)), recipe.rates, 0
  counts = np.bincount(labels)
  if counts[counts > 0].min() < recipe.least:  # a class that does not occur has none to hold out
    rates = (recipe.alone,)
  else:
    kept = min(int(recipe.held_out * len(labels)), recipe.most_held_out)
  choosing, learning = order[:kept], order[kept:]
  shape = (len(rates), change(features[:1]).shape[1], classes)
  params = {'kernel': jnp.zeros(shape), 'bias': jnp.zeros((shape[0], classes))}
  state, batch = (params, optax.scale_by_adam().init(params)), min(recipe.batch, len(learning))
  block = max(1, min(recipe.steps, SENT // (batch * shape[1])))
  for done in range(0, recipe.steps, block):
    pick = learning[rng.randint(len(learning), size=(block, batch))]
    if done + block > recipe.steps:
      pick = pick[: recipe.steps - done]
    rows = change(features[pick.reshape(-1)]).reshape(*pick.shape, -1)
    targets = labels[pick].astype(np.int32)
    state = _train(state, jnp.array(rates, jnp.float32), rows, targets)
  params, best = state[0], 0
  if kept:
    best = int(right(params, (features[choosing], labels[choosing]), 1, change).argmax())
  chosen = jax.tree.map(lambda p: p[best : best + 1], params)
  tops = (1, 5) if classes > 5 else (1,)
  return {top: float(right(chosen, test, top, change)[0]) for top in tops}


def neighbours(train: Seen, test: Seen, k: int = NEIGHBOURS) -> float:
  """Share of test rows told right by the most frequent class of their k nearest training rows.

  Between classes as frequent, the nearer one wins. Of fewer training rows, all are neighbours.
  """
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  (rows, labels), (queries, wanted) = train, test
  rows, k, classes = jnp.asarray(unit(rows)), min(k, len(labels)), int(labels.max()) + 1

  @jax.jit
  def told(part):
    near, at = jax.lax.top_k(linalg.dot(part, rows.T), k)
    votes = jax.nn.one_hot(jnp.asarray(labels)[at], classes)
    return (votes * (1 + near[..., None] / (4 * k))).sum(1).argmax(1)

  hits = 0
  for i in range(0, len(wanted), CHUNK):
    hits += (np.asarray(told(unit(queries[i : i + CHUNK]))) == wanted[i : i + CHUNK]).sum()
  return float(hits / len(wanted))
