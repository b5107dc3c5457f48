"""SN-GAN (Miyato et al. 2018; with projection, Miyato & Koyama 2018): spectral norm in D alone.

A step is one of the generator, on a batch of its own size, and then k of the discriminator with
fresh fakes, as in the authors' code; the hinge loss; learning rates that fall to 0; no averaged
weights. Real images have the noise of their quantisation added, which that code does on ImageNet
alone. Differences from that code: real and fake images go through D together, so that there is one
power iteration per update and not two; standing statistics replace its running averages.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from bigjax.algorithms.base import configs, contract, networks, player, residual, residual_config
from bigjax.algorithms.base.contract import Batch, Metrics, Stage, State
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core.keys import Key, Keys
from bigjax.models import sngan


@dataclasses.dataclass(frozen=True)
class SNGAN(residual.ResidualGAN):
  """The game of the paper; see contract.Algorithm for what each method promises."""

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    skipped = state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)

    # Generator first: against the discriminator that the step before left.
    gen, gen_skipped, ema, metrics, terms = self.move_gen(
      state,
      skipped['gen'],
      self.disc.weights(state['players']['disc']),
      of_gen,
      due,
      self.terms(state),
    )

    # Discriminator: k steps, each with fresh fakes of the generator as it is now.
    disc, disc_skipped, disc_metrics, terms = self.move_disc(
      state, skipped['disc'], self.gen.weights(gen), of_disc, due, terms
    )

    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, terms)
    return state, metrics | disc_metrics | refused


def make_generator(architecture: dict[str, Any]) -> StandingStatistics:
  """Build the sampled network from a card's `architecture`."""
  return residual_config.make_generator({'sngan': sngan}, architecture)


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  'model.class_input': Key(
    'projection', 'how D sees the class: projection, or concat: an embedding joined to its maps',
    choices=sngan.CLASS_INPUTS,
  ),
  'model.class_dim': Key(128, 'dimensions of that embedding', least=1, most=65_536),
  **residual_config.defaults(
    model__ch=64, optim__batch_size=64, optim__gen_batch_times=2, optim__d_steps=5,
    optim__schedule='linear', optim__spectral_norm='disc', optim__spectral_eps=1e-12,
  ),
}
TINY = residual_config.TINY
DIGITS = {
  **residual_config.DIGITS,
  'optim.d_steps': 2, 'optim.gen_batch_times': 1, 'optim.schedule': 'constant',
  'optim.gen_lr': 5e-4, 'optim.disc_lr': 1e-3,
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  networks.check('sngan', sngan, config)


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> SNGAN:
  """Build the algorithm from a config.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  check(config)
  fields = residual_config.fields(config, 'sngan', sngan, class_counts)
  gen = residual_config.make_player(config, 'gen', fields['gen_net'])
  disc = residual_config.make_player(config, 'disc', fields['disc_net'], embeddings=True)
  return SNGAN(**fields, gen=gen, disc=disc, read=residual.dequantised)
