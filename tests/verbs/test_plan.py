"""`bigjax plan` on a small network: what is in it, what it refuses, and that it adds up."""

import contextlib
import io
import json
import re
import types

import jax
import ml_collections
import pytest

from bigjax import plan
from bigjax.__main__ import main
from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.core.progress import size
from bigjax.preflight import plan_search, plan_tables, sampling_cost, step_cost, tpu_slices
from bigjax.training import loop, program

from counts import num_params

REFUSAL = 'Ran out of memory in memory space hbm. Used 23.61G of 15.48G hbm. Exceeded by 8.13G.'
needs_libtpu = pytest.mark.usefixtures('libtpu')


def tiny(**values):
  config = configs.read('digits:tiny')
  config.update_from_flattened_dict({'optim.batch_size': 64, **values})
  return config


@pytest.fixture(scope='module')
def asked(libtpu, tmp_path_factory):
  """(What the command said of tiny's plan, the folder that it wrote into)."""
  folder, said = tmp_path_factory.mktemp('plan'), io.StringIO()
  argv = ['plan', '--config', 'digits:tiny', '--config.optim.batch_size=64', '--topology', 'v3-8']
  with contextlib.chdir(folder), contextlib.redirect_stdout(said):
    assert main([*argv, '--samples', '1000', '--json', 'out.json']) == 0
  return said.getvalue(), folder


@pytest.fixture(scope='module')
def planned(asked):
  (found,) = json.loads((asked[1] / 'out.json').read_text())['plans']
  return found


@needs_libtpu
def test_a_plan_adds_up(planned):
  of = tpu_slices.find('v3-8')
  assert planned['fits'] and 0 < planned['peak_bytes'] < planned['usable_bytes']
  assert planned['step_seconds'] == pytest.approx(
    planned['compute_seconds'] + planned['exposed_collective_seconds']
  )
  assert sum(planned['parts'].values()) == pytest.approx(planned['compute_seconds'])
  per_device = planned['model_flops'] / of.num_devices
  assert planned['roofline_fraction'] == pytest.approx(
    per_device / of.generation.device_peak / planned['step_seconds']
  )
  # Never below what FLOPs or bytes need, nor below the compiler's cycles.
  least = max(
    planned['executed_flops'] / of.generation.device_peak,
    planned['hbm_bytes'] / of.generation.device_bandwidth,
    planned['cycles'] / of.generation.clock,
  )
  assert planned['compute_seconds'] >= least
  assert planned['images_per_second'] == pytest.approx(2 * 64 / planned['step_seconds'])
  assert planned['chip_hours'] == pytest.approx(planned['hours'] * 4)


@needs_libtpu
def test_samples_are_planned_as_well(asked):
  (found,) = json.loads((asked[1] / 'out.json').read_text())['samples']
  of, batch = tpu_slices.find('v3-8'), sampling_cost.PER_DEVICE * 8
  assert found['batch_size'] == batch and found['sampling'] in asked[0]
  assert found['seconds'] == pytest.approx(found['step_seconds'] * 1000 / batch)
  floor = found['model_flops'] / of.num_devices / of.generation.device_peak
  assert 0 < floor < found['step_seconds']
  assert '1,000 samples' in asked[0]


@needs_libtpu
def test_parts_are_named(planned):
  named = set(planned['parts'])
  assert {'Generator forward', 'Discriminator backward', 'BatchNorm', 'optimizer'} <= named
  assert 'spectral norm' in named and planned['collectives'].keys() == {'all-reduce', 'all-gather'}
  assert planned['parts'].get('the rest', 0) < 0.25 * planned['compute_seconds']
  assert len(planned['dearest']) == step_cost.SHOWN


@needs_libtpu
def test_gradients_of_both_players_are_on_the_wire(planned):
  config = tiny()
  shapes = program.make_program(config, jax.devices()[:1]).shapes()
  disc, gen = (num_params(shapes['players'][name]['params']) for name in ('disc', 'gen'))
  weights = 4 * (config.optim.d_steps * disc + gen)
  assert weights <= planned['collectives']['all-reduce']['bytes'] < 1.2 * weights


@needs_libtpu
def test_what_is_frozen_has_shapes_without_a_device():
  """The weights of no network are read or drawn where there is nothing to compute with."""
  config = configs.read('projected_gan:tiny')
  frozen = program.make_program(config, tpu_slices.find('v3-8').devices()).shapes()['frozen']
  assert num_params(frozen['features']) > 2e6  # EfficientNet-Lite0's, without its head


def test_what_does_not_fit_says_how_much_is_needed(monkeypatch, libtpu, tmp_path):
  def refuse(lowered, options):
    raise jax.errors.JaxRuntimeError(REFUSAL)

  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))  # nothing that an earlier plan kept
  monkeypatch.setattr(step_cost, 'compile_step', refuse)
  found = step_cost.plan(tiny(), tpu_slices.find('v3-8'))
  assert not found['fits'] and found['peak_bytes'] > found['usable_bytes']
  assert 'step_seconds' not in found and '8.13 GiB per device are missing' in plan_tables.details(
    found
  )
  assert 'does not fit' in plan_tables.overview([found])


def test_figures_of_a_program_are_kept(monkeypatch, tmp_path):
  """A plan that was ended compiles what it lacks; another program, slice or compiler is another."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path))
  monkeypatch.setattr(step_cost, 'version', lambda name: '1')
  compiled = []
  figures = lambda *args: compiled.append(args) or {'fits': True, 'seconds': 1 / 3}
  monkeypatch.setattr(step_cost, 'figures', figures)
  stage = types.SimpleNamespace(num_images=8)

  def planned(step=jax.numpy.sin, name='v3-8', wanted=1, **options):
    lower = lambda stage, due: jax.jit(step).lower(1.0)
    made = types.SimpleNamespace(lower=lower, options=options)
    return step_cost.one_program(made, (stage, frozenset()), tpu_slices.find(name), wanted)

  first = planned()
  assert first.keys() == {'fits', 'seconds', 'digest'}
  assert planned() == first and len(compiled) == 1
  (kept,) = (tmp_path / 'plans').iterdir()
  kept.write_text(kept.read_text()[:-9])  # damaged
  assert planned() == first and len(compiled) == 2
  assert planned(jax.numpy.cos)['digest'] != first['digest'] and len(compiled) == 3
  assert planned(name='v4-8') == first and len(compiled) == 4
  assert planned(wanted=2) == first and len(compiled) == 5
  assert planned(xla_new=True) == first and len(compiled) == 6
  assert compiled[-1][-1] == {'xla_new': True}
  monkeypatch.setattr(step_cost, 'version', lambda name: '2')
  assert planned() == first and len(compiled) == 7


@needs_libtpu
def test_command_line(asked, planned):
  out, folder = asked
  assert 'MFU = model FLOPs' in out and 'not measurements' in out and '| v3-8 |' in out
  for key in (
    'step_seconds',
    'compute_seconds',
    'collective_seconds',
    'unestimated_share',
    'model_flops',
    'roofline_fraction',
    'peak_bytes',
    'fits',
    'compile_seconds',
    'compiler_options',
  ):
    assert key in planned
  assert (folder / 'plan.png').stat().st_size > 5000


def refused(capsys, *argv):
  assert main(['plan', *argv]) == 2
  return capsys.readouterr().err


def test_bad_input_is_one_sentence(capsys, monkeypatch):
  assert 'v3-128' in refused(capsys, '--topology', 'v3-129')
  assert 'one of --topology, --scale and --fit' in refused(capsys)
  assert 'one of --topology' in refused(capsys, '--topology', 'v3-8', '--fit', 'v3-8')
  assert 'Traceback' not in refused(capsys, '--topology', 'v3-8', '--config.optim.d_steps=0')
  monkeypatch.setitem(__import__('sys').modules, 'libtpu', None)
  assert "pip install 'bigjax[plan]'" in refused(
    capsys, '--config=digits:tiny', '--topology', 'v3-8'
  )


def test_a_program_of_several_in_words():
  about = {'usable_bytes': 15.5 * 2**30, 'peak_bytes': 3 * 2**30, 'fits': True}
  assert step_cost.in_words(about | {'step_seconds': 0.0123}).endswith('per device, 12.3 ms')
  lacking = about | {'peak_bytes': 20 * 2**30, 'fits': False}  # refused: no time is known
  assert step_cost.in_words(lacking).endswith('per device: too much')


def test_repeated_options_are_joined():
  argv = ['--topology', 'v3-8', '--x', 'y', '--topology=v4-8,v4-16']
  assert plan.joined(argv, 'topology') == ['--x', 'y', '--topology=v3-8,v4-8,v4-16']


def test_fit_takes_the_fastest_setting_that_fits():
  tried = []

  def run(config, of):
    run = config.run
    tried.append((run.microbatches, run.remat))
    fits = run.remat and run.microbatches >= 4
    return {'fits': fits, 'peak_bytes': 1, 'usable_bytes': 1, 'microbatches': run.microbatches}

  best = plan_search.fitted(tiny(), tpu_slices.find('v3-8'), run, lambda text: None)
  assert best['microbatches'] == 4 and len(tried) <= 3
  found = plan_search.settings(tiny(), 8)
  pairs = [(one['run.microbatches'], one['run.remat']) for one in found]
  assert pairs == [(1, False), (1, True), (2, True), (4, True), (8, True)]
  of_run = lambda **keys: plan_search.settings(ml_collections.ConfigDict({'run': keys}), 8)
  assert of_run(steps=1) == [{}]
  assert of_run(remat=False) == [{'run.remat': False}, {'run.remat': True}]
  never = lambda config, of: {'fits': False, 'peak_bytes': 2, 'usable_bytes': 1}
  assert plan_search.fitted(tiny(), tpu_slices.find('v3-8'), never, lambda text: None) is None


def test_a_slice_that_cannot_have_a_config_leaves_the_others_their_plans():
  def run(config, of):
    if of.num_devices > 8:
      raise errors.UserError('groups of 4 do not divide 1 example.')
    return {'slice': of.name}

  slices, said = [tpu_slices.find(name) for name in ('v3-8', 'v3-32')], []
  assert plan_search.compared(tiny(), slices, run, said.append) == [{'slice': 'v3-8'}]
  assert said == ['v3-32, batch 64, is left out: groups of 4 do not divide 1 example.']
  with pytest.raises(errors.UserError, match='groups of 4'):
    plan_search.compared(tiny(), slices[1:], run, said.append)


def test_scaling_keeps_the_batch_per_device_or_in_all():
  run = lambda config, of: {'slice': of.name, 'batch_size': config.optim.batch_size}
  slices = [tpu_slices.find(name) for name in ('v3-8', 'v3-32', 'v3-128')]
  found = plan_search.scaled(tiny(), slices, 8, run, print)
  assert [p['batch_size'] for p in found['weak']] == [64, 256, 1024]
  assert [(p['slice'], p['batch_size']) for p in found['strong']] == [('v3-8', 64), ('v3-32', 64)]


def test_scaling_plans_nothing_twice_and_leaves_out_what_cannot_be():
  ran, said = [], []

  def run(config, of):
    ran.append((of.name, config.optim.batch_size))
    if of.num_devices == 32 and config.optim.batch_size == 64:
      raise errors.UserError('groups of 4 do not divide 2 examples.')
    return {'slice': of.name, 'batch_size': config.optim.batch_size}

  slices = [tpu_slices.find(name) for name in ('v3-8', 'v3-32')]
  found = plan_search.scaled(tiny(), slices, 8, run, said.append)
  assert ran == [('v3-8', 64), ('v3-32', 256), ('v3-32', 64)]
  assert [p['slice'] for p in found['weak']] == ['v3-8', 'v3-32']
  assert [p['slice'] for p in found['strong']] == ['v3-8']
  assert said == ['v3-32, batch 64, is left out: groups of 4 do not divide 2 examples.']


@pytest.mark.parametrize(
  ('op_name', 'want'),
  [
    ('jit(step)/while/body/shard_map/jvp(Generator)/blocks_0/conv1/conv', 'Generator forward'),
    ('jit(step)/shard_map/transpose(jvp(Discriminator))/blocks_1/conv', 'Discriminator backward'),
    ('jit(step)/shard_map/jvp(Generator)/blocks_0/bn1/norm/psum', 'BatchNorm'),
    ('jit(step)/transpose(jvp(Discriminator))/attention_0/bqk/dot', 'attention'),
    ('jit(step)/jvp(Generator)/blocks32_0/attn/bntc,cshd->sbnhtd/dot_general', 'attention'),
    ('jit(step)/jvp(Generator)/blocks32_0/norm_attn/mul', 'Generator forward'),
    ('jit(step)/penalty/dot_general', 'orthogonal penalty'),
    ('jit(step)/transpose(jvp(spectral_norm))/mul', 'spectral norm'),
    ('jit(step)/optimizer/select_n', 'optimizer'),
    ('', 'the rest'),
  ],
)
def test_parts_by_scope(op_name, want):
  assert step_cost.part(op_name) == want


def test_the_compilers_refusals_are_understood():
  used, usable = step_cost.out_of_memory(RuntimeError(REFUSAL))
  assert size(used).startswith('23.61 GiB') and size(usable) == '15.48 GiB'
  assert step_cost.out_of_memory(RuntimeError('something else')) is None


@pytest.mark.slow
def test_the_program_planned_is_the_one_that_train_logs(tmp_path, capfd):
  """Its digest, for the same config and devices."""
  config = tiny(**{'run.steps': 1, 'eval.name': 'none', 'run.best': ''})
  loop.train(config, str(tmp_path), jax.devices()[:1])
  logged = re.search(r'program ([0-9a-f]{16})', capfd.readouterr().err)[1]
  made = lambda config: program.make_program(config, jax.devices()[:1])
  (pair,) = made(config).pairs(0, 1)
  lowered = made(config).lower(*pair)
  assert program.program_digest(lowered) == logged
  other = made(tiny(**{'optim.gen_lr': 1e-3})).lower(*pair)
  assert program.program_digest(other) != logged
