"""The five places of a residual GAN's step: each is off unless a config asks for something there.

1. the augmentation of whatever the discriminator sees,
2. the transform of its scores,
3. the pair of adversarial losses,
4. terms of the discriminator's loss,
5. terms of the generator's.

A term with a weight of 0 is left out of its tuple, so that what is off is not in the program.
base/places_config.py makes them of a config.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.core import trees
from bigjax.nn import augment as augmentations
from bigjax.nn.augment import Augment, apa
from bigjax.nn.augment.adaptive import Controller
from bigjax.nn.objectives import losses, perturbations, scores

Array = jax.Array
Score = Callable[[Array], Array]  # images [b, H, W, C] -> [b]


@dataclasses.dataclass(frozen=True)
class Judged:
  """Arguments of a term of the discriminator's loss, of a part of one device's batch.

  Attributes:
    score: images [b, H, W, C] -> scores [b], with the labels and the dropout of the real images.
    score_fake: the same with those of the fake ones.
    score_plain: as `score`, of images before they are augmented.
    real, fake: images as they are judged, augmented.
    plain_real, plain_fake: before that.
    real_scores, fake_scores: [b], of `real` and `fake`.
    labels: [b], of the real images.
    keys: [b], one for each pair of a real and a fake image, the term's own.
    augment: images -> images, as the fakes have been.
    classes: [b, classes], what D says of the real images' classes; None where it says nothing.
    others: fakes of further latents, by the names of Places.latents.
  """

  score: Score
  score_fake: Score
  score_plain: Score
  real: Array
  fake: Array
  plain_real: Array
  plain_fake: Array
  real_scores: Array
  fake_scores: Array
  labels: Array
  keys: Array
  augment: Callable[[Array], Array]
  classes: Array | None = None
  others: Mapping[str, Array] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Made:
  """Arguments of a term of the generator's loss, of a part of one device's batch.

  Attributes:
    fake: images [b, H, W, C], not augmented.
    labels: [b].
    classes: as in Judged, of the fakes as they are judged.
    others: as in Judged.
  """

  fake: Array
  labels: Array
  classes: Array | None = None
  others: Mapping[str, Array] = dataclasses.field(default_factory=dict)


# A term of single examples has a value [b] for each. The others have a state, which goes from one
# step of their player to the next.
DiscTerm = Callable[[Judged], Array]
GenTerm = Callable[[Made], Array]
ScoreTerm = Callable[[Any, Array, Array], tuple[Array, Any]]  # (state, real [B], fake [B]) -> []
WeightTerm = Callable[[Any, Any], tuple[Array, Any]]  # (state, weights of the generator) -> []
ScoreFilter = Callable[[Any, Array], tuple[Array, Any]]  # (state, scores of fakes [B]) -> [B]
Named = tuple[tuple[str, Any], ...]  # (name, term): the metric of a term is d_NAME or g_NAME


@dataclasses.dataclass(frozen=True)
class Places:
  """The contents of the five places.

  Attributes:
    augment: (keys, images, strength) -> images.
    pseudo: whether fakes stand in for real images, at that strength: see nn/augment/apa.py.
    controller: of the strength, for adaptive ones; None: it is `strength`.
    strength: where nothing adapts it.
    perturb: of what enters the discriminator's convolutions, see nn/objectives/perturbations.py.
    transform: of scores, see nn/objectives/scores.py.
    loss: the pair.
    filters: of the scores that the generator learns from.
    disc_terms: of the discriminator's single examples.
    score_terms: of all its scores.
    gen_terms: of the generator's single examples.
    weight_terms: of its weights.
    latents: (name, (keys [B], z) -> z) of further fakes that terms look at.
    starts: (name, (weights of the generator, key) -> the state that a term begins with).
    periods: (name of a lazy term, steps from one to the next), its weight times as much.
  """

  augment: Augment = augmentations.none
  pseudo: bool = False
  controller: Controller | None = None
  strength: float = 1.0
  perturb: perturbations.Perturbation = perturbations.none
  transform: scores.Transform = scores.none
  loss: losses.Loss = losses.LOSSES['hinge']
  filters: Named = ()
  disc_terms: Named = ()
  score_terms: Named = ()
  gen_terms: Named = ()
  weight_terms: Named = ()
  latents: Named = ()
  starts: tuple[tuple[str, Callable[[Any, Array], Any]], ...] = ()
  periods: tuple[tuple[str, int], ...] = ()

  def start(self, weights: Any, key: Array) -> dict[str, Any]:
    """States of the terms at step 0, by name.

    Args:
      weights: the generator's, as its network uses them.
      key: of whatever is drawn.
    """
    return {name: begin(weights, key) for name, begin in self.starts}

  def strengthened(self, states: Mapping[str, Any]) -> 'Places':
    """The same, with the strength that the states of the terms have."""
    if 'augment' not in states:
      return self
    return dataclasses.replace(self, strength=states['augment']['p'])

  def augmented(self, keys: Array, images: Array) -> Array:
    """Images [b, H, W, C] as the discriminator sees them, from keys [b]."""
    return self.augment(keys, images, self.strength)

  def shown(
    self, keys: Array, real: tuple[Array, Array], fake: tuple[Array, Array]
  ) -> tuple[Array, Array]:
    """Picks what stands for training images: (images, labels) [b], of those of both kinds."""
    if not self.pseudo:
      return real
    swapped = apa.deceive(keys, self.strength)
    image = jnp.where(swapped[:, None, None, None], jax.lax.stop_gradient(fake[0]), real[0])
    return image, jnp.where(swapped, fake[1], real[1])

  def adapted(
    self, states: dict[str, Any], metrics: dict[str, Array], num: int
  ) -> tuple[dict[str, Any], dict[str, Array]]:
    """(States, metrics) after the discriminator judged `num` real images: the strength follows."""
    if self.controller is None:
      return states, metrics
    sign = metrics['d_overfit']
    state = self.controller.update(states['augment'], sign, num)
    state = trees.select(jnp.isfinite(sign), state, states['augment'])
    return {**states, 'augment': state}, {
      **metrics, 'augment_p': state['p'], 'augment_r_t': state['r_t'],
    }  # fmt: skip

  def due(self, terms: Named, due: frozenset[str]) -> Named:
    """Those of the terms that are in a step's program: lazy ones where they are due."""
    lazy = dict(self.periods)
    return tuple((name, term) for name, term in terms if name not in lazy or name in due)
