"""What PGGAN's family shares: its way to trade time for memory reaches both networks."""

import jax
import numpy as np
import pytest

from bigjax import algorithms
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config


def gradients(name: str, player: str, **changes) -> str:
  """What a player's gradient at 8 px is computed by, as JAX prints it; nothing runs."""
  config = core_config.changed(configs.read(f'{name}:tiny'), {'optim.batch_size': 4, **changes})
  algorithm = algorithms.family(name).make(config)
  stage = algorithm.stages(1000)[-1][1]
  batch = {'image': np.zeros((1, 4, 8, 8, 3), np.uint8), 'label': np.zeros((1, 4), np.int32)}

  def gradient(state):
    loss = algorithm.losses(state, batch, stage)[player]
    return jax.grad(lambda params: loss(params)[0])(state['players'][player]['params'])

  return str(jax.make_jaxpr(gradient)(jax.eval_shape(algorithm.init, jax.random.key(0))))


@pytest.mark.parametrize('player', ['gen', 'disc'])
@pytest.mark.parametrize('name', ['pggan', 'msggan'])
def test_remat_reaches_both_networks(name, player):
  """Through its own network and, for the generator, the discriminator's: two blocks each."""
  assert 'remat' not in gradients(name, player)
  assert gradients(name, player, **{'run.remat': True}).count(' remat') >= 2
