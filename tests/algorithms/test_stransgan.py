"""STransGAN's game: its vital sign by hand, how it is sampled, what its config refuses.

In which order its players move is in test_residual_games.py, beside the others of its kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms import stransgan
from bigjax.algorithms.base import configs, contract
from bigjax.algorithms.base.generators.truncated_latents import TruncatedLatents
from bigjax.algorithms.base.standing_statistics import StandingStatistics
from bigjax.core import config as core_config
from bigjax.core import errors, parallel, trees

from networks import LABELS, f32, weights


def changed(**of):
  """A tiny config with other values, given as GROUP__KEY."""
  values = core_config.flat(configs.read('stransgan:tiny'))
  return configs.complete(values | {name.replace('__', '.', 1): of[name] for name in of})


LAYERS = [
  f'norm_ratio_{block}/{branch}'
  for block in ('gen/blocks4_0', 'gen/blocks8_0', 'disc/blocks4_0')
  for branch in ('attn', 'mlp')
]


def test_a_probe_has_every_layers_ratio():
  """Where blocks are made again for their gradients, too."""
  game = stransgan.make(changed(run__remat=True))
  ((_, stage),) = game.stages(1)
  state, batch = contract.state_shapes(game), stage.shapes()
  signs = jax.eval_shape(lambda state, batch: game.probe(state, batch, batch, stage), state, batch)
  assert {name for name in signs if name.startswith('norm_ratio')} == set(LAYERS)
  assert {'probe_accuracy_held_out', 'weight_norm_gen'} <= set(signs)


def test_ratios_are_over_all_examples_and_devices():
  """tests/models has the norms of one layer by hand."""
  game = stransgan.make(changed())
  rng = np.random.default_rng(0)
  examples = {
    'image': jnp.asarray(rng.integers(0, 256, (2, 8, 8, 3)), jnp.uint8),
    'label': jnp.asarray([3, 4], jnp.int32), 'y': jnp.asarray([5, 6], jnp.int32),
    'z': jnp.asarray(rng.normal(size=(2, 16)), jnp.float32),
  }  # fmt: skip
  players = contract.state_shapes(game)['players']
  drawn = {name: weights(players[name]['params']) for name in players}

  @jax.jit
  def run(drawn):
    real = examples['image'].astype(jnp.float32) / 127.5 - 1
    given = {'params': drawn['disc']}, real, examples['label']
    of_disc = game.disc_net.apply(*given, mutable=['norms'])[1]['norms']
    given = {'params': drawn['gen']}, examples['z'], examples['y']
    of_gen = game.gen_net.apply(*given, train=True, mutable=['norms'])[1]['norms']
    return game.norm_ratios(drawn, examples), {'gen': of_gen, 'disc': of_disc}

  with jax.set_mesh(parallel.make_mesh(jax.devices()[:2])):
    ratios, seen = jax.device_get(run(drawn))
  assert set(ratios) == set(LAYERS) and all(0 < value < np.inf for value in ratios.values())
  for name in LAYERS:
    player, block, branch = name.removeprefix('norm_ratio_').split('/')
    skip, main = seen[player][block][f'of_{branch}'].sum(0)
    found = ratios[name]
    np.testing.assert_allclose(found, np.sqrt(skip / main), rtol=1e-5)


def test_what_is_prepared_to_sample():
  """Statistics, only of blocks that normalise over a batch."""
  ((_, stage),) = stransgan.make(changed()).stages(1)
  for kind, classes, measured in (('layer', 10, False), ('batch', 10, True), ('layer', 1, False)):
    game = stransgan.make(changed(model__adanorm=kind, data__num_classes=classes))
    generator = stransgan.make_generator(game.architecture(stage))
    assert type(generator) is (StandingStatistics if measured else TruncatedLatents)
    assert ('standing_passes' in game.sampling()) == measured
    spec = generator.spec(game.sampling(), {'truncation': '0.5'})
    assert spec.described()['truncation'] == '0.5:resample' and str(spec) == '0.5 (resample)'
    assert bool(generator.prepared(game.sampling())) == measured
  with pytest.raises(errors.UserError, match='dialect'):
    stransgan.make_generator(stransgan.make(changed()).architecture(stage)).spec({})


def test_moments_of_a_batch_are_measured_and_sampled_with():
  """Shapes alone: of the norm after attention and the one before the MLP, in both blocks."""
  game = stransgan.make(changed(model__adanorm='batch'))
  ((_, stage),) = game.stages(1)
  generator = stransgan.make_generator(game.architecture(stage))
  spec, key = generator.spec(game.sampling()), jax.random.key(0)
  params = contract.state_shapes(game)['players']['gen']['params']
  moments = jax.eval_shape(lambda gen: generator.moments(gen, key, spec), {'params': params})
  norms = [f'blocks{side}_0/{name}' for side in (4, 8) for name in ('norm2', 'norm_attn')]
  paths = {f'{norm}/norm/{of}' for norm in norms for of in ('mean', 'var')}
  assert set(trees.flat(moments)) == paths
  at_one = lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype)
  gen = {'params': params, 'stats': jax.tree.map(at_one, moments), 'knots': f32(1)}
  images = jax.eval_shape(
    lambda gen, z, y: generator.generate(gen, z, y, spec), gen, f32(2, 16), LABELS
  )
  assert images.shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
  ('of', 'words'),
  [
    ({'data__resolution': 48}, ['data.resolution is 48', '8, 16, 32, 64, 128, 256']),
    ({'model__window': 3}, ['model.window is 3', '0, 4, 8']),
    ({'model__disc_resolution': 12}, ['model.disc_resolution is 12']),
    ({'model__head_dim': 3}, ['model.head_dim is 3', '16 channels at 4 px']),
    (
      {'optim__scores': 'gn', 'optim__r1_gamma': 0.0, 'optim__r1_every': 1},
      ['optim.scores=gn', 'linear in pieces'],
    ),
    ({'model__head_dim': 12}, ['model.head_dim is 12', '16 channels at 4 px']),
    ({'model__bn_group': 4}, ['model.bn_group is only known where model.adanorm=batch']),
    ({'eval__standing_passes': 4}, ['only known where model.adanorm=batch']),
    ({'eval__standing_batch': 4}, ['only known where model.adanorm=batch']),
    ({'export__truncations': ('1',)}, ['only known where model.adanorm=batch']),
    ({'model__adanorm': 'instance', 'data__num_classes': 1}, ['adanorm is instance', 'give layer']),
    ({'model__adanorm_t': 'a', 'data__num_classes': 1}, ['adanorm_t is a,', 'num_classes=1']),
    ({'data__resolution': 128, 'model__ch': 2}, ['model.ch is 2', '4 channels', 'at least 4.']),
    ({'model__adanorm': 'batch', 'run__microbatches': 2}, ['model.adanorm is batch', 'give 1']),
  ],
)
def test_a_config_is_refused(of, words):
  with pytest.raises(errors.UserError) as error:
    stransgan.make(changed(**of))
  assert all(word in str(error.value) for word in words), str(error.value)


def test_keys_that_would_do_nothing_are_not_there():
  """Those of moments come with norms over a batch."""
  of = {'eval': ('standing_passes', 'standing_batch'), 'export': ('truncations',)}
  for kind in ('layer', 'instance', 'batch'):
    config = changed(model__adanorm=kind)
    there = [key in config[group] for group in of for key in of[group]]
    assert there == [kind == 'batch'] * 3 and ('bn_group' in config.model) == (kind == 'batch')
  game = stransgan.make(changed(model__adanorm='batch', model__bn_group=4))
  assert game.gen_net.bn_group == 4


def test_lazy_terms_and_what_stabilises():
  """The bare config has R1 now and then and DiffAugment, CelebA's consistency in its place."""
  game = stransgan.make(configs.read('stransgan'))
  assert game.periods == {'r1': 16} and [name for name, _ in game.places.disc_terms] == ['r1']
  game = stransgan.make(configs.read('stransgan:celeba64'))
  assert [name for name, _ in game.places.disc_terms] == ['r1', 'cr', 'cr_fake']
  assert contract.due_at(game.periods, 16) == {'r1'} and not contract.due_at(game.periods, 17)
