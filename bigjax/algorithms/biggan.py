"""BigGAN (Brock, Donahue, Simonyan 2019): large-batch class-conditional GAN with spectral norm.

k discriminator steps, each on its own real minibatch with fresh latents and labels, then one
generator step; hinge loss; cross-replica BatchNorm; orthogonal penalty on the generator; averaged
weights. BigGAN-deep is the same game with other networks, and so is SA-GAN (Zhang et al. 2019).
Differences from BigGAN-PyTorch, all towards the paper: the penalty has Eq. 3's full gradient, one
power iteration per update rather than per forward pass, epsilon 1e-4 in every BatchNorm, zero
biases at init, no running BatchNorm averages.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import optax

from bigjax.algorithms.base import configs, contract, networks, player, residual, residual_config
from bigjax.algorithms.base.contract import Batch, Metrics, Stage, State
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import errors, parallel
from bigjax.core.keys import Key, Keys
from bigjax.models import biggan, biggan_deep, sagan
from bigjax.nn import optim, spectral_norm
from bigjax.nn.objectives import regularizers

NETWORKS = {'biggan': biggan, 'biggan_deep': biggan_deep, 'sagan': sagan}


def penalised(path: str, leaf: Any) -> bool:
  """The orthogonal penalty covers every matrix of the generator but its shared embedding."""
  return leaf.ndim >= 2 and path != 'shared/embedding'


@dataclasses.dataclass(frozen=True)
class BigGAN(residual.ResidualGAN):
  """The game of the paper; see contract.Algorithm for what each method promises."""

  remedies = (
    'lower the learning rates, or add a tool of the paper (optim.r1_gamma, optim.sigma_tool, '
    'model.disc_dropout)'
  )
  penalty: float = 0.0  # beta of Eq. 3, reported; the gradient is in the generator's chain

  def step(
    self, state: State, batch: Batch, stage: Stage, due: contract.Due = contract.NONE_DUE
  ) -> tuple[State, Metrics]:
    skipped = state['aux']['skipped']
    of_disc, of_gen = self.examples(state, batch, stage)
    pulled = self.gen.pullback(state['players']['gen'])  # of use to both players

    # Discriminator: k steps, each on a minibatch of its own (Appendix C).
    disc, disc_skipped, disc_metrics, terms = self.move_disc(
      state, skipped['disc'], pulled[0], of_disc, due, self.terms(state)
    )

    # Generator: one step against the discriminator as it is now.
    gen, gen_skipped, ema, metrics, terms = self.move_gen(
      state, skipped['gen'], self.disc.weights(disc), of_gen, due, terms, pulled
    )

    skipped = {'gen': gen_skipped, 'disc': disc_skipped}
    state, refused = player.advanced(state, {'gen': gen, 'disc': disc}, ema, skipped, terms)
    return state, metrics | disc_metrics | refused

  def probe(self, state: State, batch: Batch, held_out: Batch, stage: Stage) -> Metrics:
    signs = super().probe(state, batch, held_out, stage)
    params = parallel.all_gather_weights(state['players']['gen']['params'])
    penalties = regularizers.total(regularizers.orthogonal, params, penalised)
    return signs | {'orthogonal_penalty': self.penalty * penalties}


def make_generator(architecture: dict[str, Any]) -> StandingStatistics:
  """Build the sampled network from a card's `architecture`."""
  return residual_config.make_generator(NETWORKS, architecture)


BATCH_KEY = 'optim.batch_size'  # what `plan --scale` sets
# fmt: off
KEYS: Keys = {
  'model.network': Key('biggan', 'architecture', choices=tuple(NETWORKS)),
  'model.shared_dim': Key(
    128, 'dimensions of the shared class embedding; 0: tables per class', most=65_536,
    where=('model.network', 'biggan', 'biggan_deep'),
  ),
  'model.skip_z': Key(
    True, 'z in parts, one for each block, joined to the embedding',
    where=('model.network', 'biggan'),
  ),
  'model.rgb_filters': Key(
    0, "filters of the generator's last convolution; 0: as many as channels", most=65_536,
    where=('model.network', 'biggan_deep'),
  ),
  'optim.ortho_beta': Key(1e-4, 'orthogonal penalty of the generator (Eq. 3); 0: off'),
  'optim.sigma_tool': Key(
    'none', "what holds the generator's largest singular values down (Eq. 4): none, clamp, penalty"
  ),
  'optim.sigma_weight': Key(0.0, 'weight of that penalty'),
  'optim.sigma_reg': Key(0.0, 'bound: a fixed value'),
  'optim.sigma_ratio': Key(1.0, 'bound: times the second singular value'),
  'optim.freeze_disc': Key(0, 'first blocks of the discriminator that stay as they are (FreezeD)'),
  **residual_config.defaults(
    model__ch=96, model__z_dim=120, model__gen_attention=(64,), model__disc_attention=(64,),
    model__bn_eps=1e-4, optim__batch_size=2048, optim__d_steps=2, optim__gen_lr=5e-5,
    optim__b2=0.999, optim__ema_decay=0.9999, optim__ema_start=20_000,
  ),
}
# What tiny and digits change beside the keys that all families share.
TINY = {
  'run.microbatches': 1,
  'data.resolution': 64,
  'model.ch': 8, 'model.z_dim': 20, 'model.shared_dim': 8, 'model.gen_attention': (32,),
  'model.disc_attention': (32,), 'model.disc_widths': (), 'model.bn_group': 0,
  'model.dtype': 'float32',
  'optim.batch_size': 8, 'optim.d_steps': 1, 'optim.ema_start': 1, 'optim.freeze_disc': 0,
  'eval.standing_passes': 2, 'eval.standing_batch': 8, 'export.truncations': ('1', 'none'),
}
DIGITS = {
  'run.microbatches': 1, 'run.remat': False,
  'model.network': 'biggan', 'model.ch': 16, 'model.z_dim': 60, 'model.shared_dim': 32,
  'model.skip_z': True, 'model.gen_attention': (), 'model.disc_attention': (),
  'model.disc_widths': (), 'model.bn_group': 0, 'model.bn_eps': 1e-4, 'model.dtype': 'float32',
  'optim.batch_size': 64, 'optim.d_steps': 2, 'optim.name': 'adam_b1_0', 'optim.gen_lr': 7e-4,
  'optim.disc_lr': 2e-3, 'optim.b1': 0.0, 'optim.b2': 0.99, 'optim.eps': 1e-8,
  'optim.ortho_beta': 1e-4, 'optim.spectral_eps': 1e-4, 'optim.ema_decay': 0.99,
  'optim.ema_start': 200, 'optim.freeze_disc': 0, 'augment.name': 'none',
  'eval.standing_passes': 16, 'eval.standing_batch': 128,
  'export.truncations': ('0.5', '1', '2', 'none'),
}
# fmt: on


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that `make` cannot build.

  Raises:
    UserError: a key is missing or unknown, or values do not fit together.
  """
  configs.check(config)
  network = NETWORKS[config.model.network]
  networks.check(config.model.network, network, config)
  check_tools(config.optim, network.num_disc_widths(config.data.resolution))


def check_tools(opt: ml_collections.ConfigDict, num_blocks: int) -> None:
  """Refuse settings of R1, FreezeD and the sigma tools that mean nothing.

  Raises:
    UserError: names the first.
  """
  if not 0 <= opt.freeze_disc < num_blocks:
    raise errors.UserError(
      f'optim.freeze_disc is {opt.freeze_disc}; give 0 (none) to {num_blocks - 1} blocks.'
    )
  if opt.sigma_tool == 'penalty' and opt.sigma_weight <= 0:
    raise errors.UserError(
      f'optim.sigma_tool is penalty, but optim.sigma_weight is {opt.sigma_weight}; give a positive '
      'number.'
    )


def frozen_blocks(num: int) -> Callable[[str, Any], bool]:
  """Return which of the discriminator's tensors stay as they are: its first blocks' (FreezeD)."""
  first = re.compile(rf'(blocks|attention)_({"|".join(map(str, range(num)))})(_\d)?/|input_conv/')
  return lambda path, leaf: num > 0 and first.match(path) is not None


def sigma_tools(opt: ml_collections.ConfigDict) -> tuple[Any, Any]:
  """Links that hold sigma0 of the generator down: one before and one after the optimizer.

  Raises:
    UserError: there is no such tool.
  """
  limit = {'fixed': opt.sigma_reg, 'ratio': opt.sigma_ratio}
  none = optax.identity()
  tools = {
    'none': lambda: (none, none),
    'clamp': lambda: (none, optim.clamp_sigma(spectral_norm.spec(), **limit)),
    'penalty': lambda: (
      optim.add_sigma_penalty(opt.sigma_weight, spectral_norm.spec(), **limit),
      none,
    ),
  }
  return errors.pick(opt.sigma_tool, tools, 'optim.sigma_tool')()


def make(
  config: ml_collections.ConfigDict, class_counts: Callable[[], Sequence[int]] | None = None
) -> BigGAN:
  """Build the algorithm from a config with the groups run, data, model, optim and augment.

  Args:
    config: complete.
    class_counts: () -> training images of each class; None where the data is not read.

  Raises:
    UserError: as `check`, or a name that stands for nothing.
  """
  check(config)
  opt, name = config.optim, config.model.network
  fields = residual_config.fields(config, name, NETWORKS[name], class_counts)
  sigma_before, sigma_after = sigma_tools(opt)
  gen = residual_config.make_player(
    config,
    'gen',
    fields['gen_net'],
    before=optax.chain(optim.add_orthogonal_penalty(opt.ortho_beta, penalised), sigma_before),
    after=sigma_after,
  )
  disc = residual_config.make_player(
    config,
    'disc',
    fields['disc_net'],
    embeddings=True,
    after=optim.freeze(frozen_blocks(opt.freeze_disc)),
  )
  return BigGAN(**fields, gen=gen, disc=disc, penalty=opt.ortho_beta)
