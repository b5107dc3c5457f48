"""WGAN-GP (Gulrajani et al. 2017): a critic whose slope between real and fake images is near 1.

A step is k of the critic, which has no BatchNorm, and one of the generator, on a batch of its own
size; the Wasserstein loss; the gradient penalty is one of the five places (optim.gp_weight);
learning rates that fall to 0. Below 64 px, real images have the noise of their quantisation added.
The paper's language model is not here. Of one class it is the paper's unconditional game.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from bigjax.algorithms.base import configs, contract, networks, player, residual, residual_config
from bigjax.algorithms.base.contract import Batch, Metrics, Stage, State
from bigjax.algorithms.base.places import Places
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core.keys import Key, Keys
from bigjax.models import wgan_gp, wgan_gp_resnet101
from bigjax.nn.objectives import losses

NETWORKS = {'wgan_gp': wgan_gp, 'wgan_gp_resnet101': wgan_gp_resnet101}


@dataclasses.dataclass(frozen=True)
class WGANGP(residual.ResidualGAN):
  """The game of the paper; see contract.Algorithm for what each method promises."""

  def examples(self, state: State, batch: Batch, stage: Stage) -> tuple[dict, dict]:
    """As of all residual GANs, but the critic's fakes have the labels of its real images."""
    of_disc, of_gen = super().examples(state, batch, stage)
    return {**of_disc, 'y': of_disc['label']}, of_gen

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    skipped = state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)

    # Critic: k steps, each on a minibatch of its own, with fresh fakes.
    weights = self.gen.weights(state['players']['gen'])
    disc, disc_skipped, disc_metrics, terms = self.move_disc(
      state, skipped['disc'], weights, of_disc, due, self.terms(state)
    )

    # Generator: one step against the critic as it is now.
    gen, gen_skipped, ema, metrics, terms = self.move_gen(
      state, skipped['gen'], self.disc.weights(disc), of_gen, due, terms
    )

    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, terms)
    return state, metrics | disc_metrics | refused


def make_generator(architecture: dict[str, Any]) -> StandingStatistics:
  """Build the sampled network from a card's `architecture`."""
  return residual_config.make_generator(NETWORKS, architecture)


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  'model.network': Key('wgan_gp', 'architecture', choices=tuple(NETWORKS)),
  'model.class_head': Key(
    False, 'whether the critic tells classes apart (ACGAN)', since=1,
    where=('model.network', 'wgan_gp'),
  ),
  'optim.class_weight': Key(
    1.0, "of that head's cross-entropy on training images, for the critic", since=1,
    where=('model.class_head', True),
  ),
  'optim.class_gen_weight': Key(
    0.1, 'the same on fakes, for the generator', since=1, where=('model.class_head', True),
  ),
  **residual_config.defaults(
    model__ch=128, model__bn_eps=1e-5, optim__batch_size=64, optim__gen_batch_times=2,
    optim__d_steps=5, optim__schedule='linear', optim__loss='wasserstein', optim__gp_weight=10.0,
    optim__spectral_norm='none',
  ),
}
TINY = {**residual_config.TINY, 'model.network': 'wgan_gp'}
DIGITS = {
  **residual_config.DIGITS,
  'model.network': 'wgan_gp',
  'optim.d_steps': 3, 'optim.gen_batch_times': 1, 'optim.schedule': 'constant',
  'optim.gen_lr': 1e-3, 'optim.disc_lr': 1e-3,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  networks.check(config.model.network, NETWORKS[config.model.network], config)


def with_classes(given: Places, weight: float, gen_weight: float) -> Places:
  """The places with an ACGAN's terms: both players gain where the critic knows the class."""
  disc = lambda x: weight * losses.class_entropy(x.classes, x.labels)
  gen = lambda x: gen_weight * losses.class_entropy(x.classes, x.labels)
  return dataclasses.replace(
    given,
    disc_terms=(*given.disc_terms, *([('class', disc)] if weight else [])),
    gen_terms=(*given.gen_terms, *([('class', gen)] if gen_weight else [])),
  )


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> WGANGP:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  check(config)
  opt, name = config.optim, config.model.network
  fields = residual_config.fields(config, name, NETWORKS[name], class_counts)
  if config.model.get('class_head'):
    fields['places'] = with_classes(fields['places'], opt.class_weight, opt.class_gen_weight)
  gen = residual_config.make_player(config, 'gen', fields['gen_net'])
  disc = residual_config.make_player(config, 'disc', fields['disc_net'])
  noisy = config.data.resolution < 64  # as in the authors' codes of either size
  read = residual.dequantised if noisy else residual.as_stored
  return WGANGP(**fields, gen=gen, disc=disc, read=read)
