"""Finding configs, refusing wrong keys, what makes two runs the same run; the configs' values."""

import ast
import functools
import json
import os
import pathlib
import pkgutil
import re
import shlex

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from bigjax import data
from bigjax.core import config as configs
from bigjax.core import errors, trees
from bigjax.evaluation import quick
from bigjax.training import program, reference_curves
from bigjax.training.program import make_program

NAMES = sorted(configs.builtin())
IDENTITY = sorted(configs.identity(configs.read('digits:tiny')))
FREE = sorted(set(configs.flatten(configs.read('digits:tiny'))) - set(IDENTITY))


def variants(name):
  """The variants that a config says it knows, beside ''."""
  with pytest.raises(ValueError, match="unknown variant '\\?'; known: ") as error:
    configs.read(f'{name}:?')
  return str(error.value).partition('known: ')[2].split(', ')


EVERY = [given for name in NAMES for given in (name, *(f'{name}:{v}' for v in variants(name)))]


def parse(*words):
  """The config of `bigjax train WORDS`."""
  return configs.parse('train', list(words), {'workdir': ''}, {'dry_run': ''})[0]


@functools.cache
def made(given):
  """(config, shapes of its players): what `bigjax train` does before it reads data or compiles."""
  config = configs.read(given)
  if config.data.num_classes is None:
    config.data.num_classes = 5
  return config, program.make_program(config, jax.devices()[:1]).shapes()['players']


def counts(given):
  """Parameters of (generator, discriminator)."""
  players = made(given)[1]
  return tuple(trees.num_params(players[name]['params']) for name in ('gen', 'disc'))


def changed(key, value='changed'):
  """digits:tiny with another value at 'group.key'."""
  config = configs.read('digits:tiny')
  *groups, name = key.split('.')
  owner = config[groups[0]] if groups else config
  with owner.ignore_type():
    owner[name] = value
  return config


@pytest.fixture
def own(tmp_path):
  """A config file of the user's, in a folder whose name has '.py' in it, as pyenv's has."""
  folder = tmp_path / '.pyenv'
  folder.mkdir()
  path = folder / 'mine.py'
  path.write_text(
    'import ml_collections\n'
    "def get_config(variant='none'):\n"
    "  return ml_collections.ConfigDict({'seed': 7, 'variant': variant})\n"
  )
  return str(path)


def test_builtin_configs_are_there():
  assert 'digits' in NAMES
  assert not [name for name in NAMES if name.startswith('_')]


@pytest.mark.parametrize('name', NAMES)
def test_every_config_has_tiny(name):
  assert 'tiny' in variants(name)
  assert configs.digest(configs.read(name)) != configs.digest(configs.read(f'{name}:tiny'))
  assert all(map(int.__lt__, counts(f'{name}:tiny'), counts(name)))


@pytest.mark.parametrize('given', EVERY)
def test_every_variant_builds(given):
  """It has the keys of all others, and makes networks (which compiles nothing)."""
  config, players = made(given)
  configs.check(config)
  name = given.partition(':')[0]
  assert list(configs.flatten(config)) == list(configs.flatten(configs.read(name)))
  assert set(players) == {'gen', 'disc'}
  assert all(count > 0 for count in counts(given))
  assert reference_curves.get(config.eval.published) is None or ':tiny' not in given
  for package, word in (
    (data.sources, config.data.source.partition(':')[0]),
    (quick, config.eval.name),
  ):
    assert word in [module.name for module in pkgutil.iter_modules(package.__path__)]
  run = config.run
  assert max(run.log_every, run.eval_every, run.checkpoint_every) <= run.steps
  assert config.optim.ema_start < run.steps
  if ':tiny' in given:
    assert config.data.source == 'digits' or config.data.source.startswith('synthetic')
    assert run.steps <= 4 and config.model.dtype == 'float32'


@pytest.mark.parametrize('name', NAMES)
def test_every_config_refuses_an_unknown_variant(name):
  with pytest.raises(errors.UserError, match='tiny') as error:
    parse(f'--config={name}:tinny')
  assert f'--config={name}:tinny' in str(error.value)


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_name_every_variant_and_a_command_that_parses(name):
  tree = ast.parse(pathlib.Path(configs.builtin()[name]).read_text())
  function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
  commands = re.findall(r'^  bigjax train\b.*$', ast.get_docstring(tree), re.M)
  found = [parse(*shlex.split(line)[2:]) for line in commands]
  assert found and configs.flatten(found[0]).keys() == configs.flatten(configs.read(name)).keys()
  assert all(re.search(rf'--config {name}\b', line) for line in commands) or name == 'digits'
  said = ast.get_docstring(function)
  if 'those of' not in said and name != 'table1':  # 'row1' to 'row9'
    assert not [variant for variant in variants(name) if f"'{variant}'" not in said]


@pytest.mark.parametrize('variant', ['', ':tiny'])
def test_resolve_a_name(variant):
  path, _, found = configs.resolve(f'digits{variant}').rpartition('.py')
  assert os.path.basename(path) == 'digits' and os.path.isfile(path + '.py')
  assert found == variant


def test_resolve_and_read_a_path(own):
  assert configs.resolve(f'{own}:small') == f'{own}:small'
  assert configs.read(f'{own}:small').variant == 'small'
  assert parse(f'--config={own}:small').variant == 'small'


def test_resolve_a_path_without_variant(own):
  assert configs.resolve(own) == own
  assert parse(f'--config={own}').seed == 7
  assert configs.read(own).seed == 7


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ('digit', ['--config=digit:', 'did you mean digits?', 'path to a .py file']),
    ('digit:tiny', ["no config 'digit'", 'did you mean digits?']),
    ('', ["no config ''", 'digits']),
    ('nowhere/digits.py', ["no file 'nowhere/digits.py'"]),
    ('nowhere/digits.py:tiny', ["no file 'nowhere/digits.py'"]),
  ],
)
def test_resolve_refuses_what_is_not_there(given, words):
  with pytest.raises(errors.UserError) as error:
    configs.resolve(given)
  assert all(word in str(error.value) for word in words), str(error.value)


def test_require():
  groups = {'data': ('source', 'resolution'), 'run': ('steps',)}
  config = ml_collections.ConfigDict(
    {'data': {'source': 'x', 'resolution': 8}, 'run': {'steps': 1}, 'other': {'free': 1}}
  )
  configs.require(config, groups)  # says nothing

  def refusal(edit):
    wrong = config.copy_and_resolve_references().unlock()
    edit(wrong)
    with pytest.raises(errors.UserError) as error:
      configs.require(wrong, groups)
    return str(error.value)

  assert "no group 'run'" in refusal(lambda c: c.__delattr__('run'))
  assert 'config.data.source is missing' in refusal(lambda c: c.data.__delattr__('source'))
  unknown = refusal(lambda c: c.data.update({'resolutoin': 8}))
  assert 'config.data.resolutoin is not a known key (did you mean resolution?)' in unknown


def test_flatten_names_every_value():
  config = ml_collections.ConfigDict({'b': {'y': (1, 2), 'x': 0.5}, 'a': 'text'})
  flat = configs.flatten(config)
  assert flat == {'a': 'text', 'b.x': 0.5, 'b.y': [1, 2]}
  assert list(flat) == sorted(flat)


def test_identity_is_everything_but_run_and_where_the_data_lies():
  assert FREE and all(key.startswith(configs.FREE) for key in FREE)
  assert not [key for key in IDENTITY if key.startswith(configs.FREE)]
  assert {'seed', 'algorithm', 'optim.gen_lr', 'data.source', 'model.ch'} <= set(IDENTITY)


@pytest.mark.parametrize('key', FREE)
def test_digest_is_stable_under_run_changes(key):
  assert configs.digest(changed(key)) == configs.digest(configs.read('digits:tiny'))


@pytest.mark.parametrize('key', IDENTITY)
def test_digest_changes_with_the_identity(key):
  assert configs.digest(changed(key)) != configs.digest(configs.read('digits:tiny'))


def test_digest_does_not_depend_on_the_order_of_keys():
  pairs = [('seed', 0), ('data', {'source': 'x', 'held_out': 0.5}), ('model', {'ch': 4})]
  digests = {
    configs.digest(ml_collections.ConfigDict(dict(order))) for order in (pairs, pairs[::-1])
  }
  assert len(digests) == 1


@pytest.mark.parametrize('name', EVERY)
def test_identity_survives_json(name):
  """A workdir keeps it as JSON: a tuple that came back as a list would differ from itself."""
  identity = configs.identity(configs.read(name))
  assert not configs.differences(identity, json.loads(json.dumps(identity)))


def test_differences_name_key_and_both_values():
  ours = {'a': 1, 'b': 2, 'new': [1]}
  theirs = {'a': 1, 'b': 3, 'old': 'x'}
  assert configs.differences(ours, theirs) == [
    'b: 3 -> 2',
    'new: (absent) -> [1]',
    'old: x -> (absent)',
  ]
  assert configs.differences(ours, dict(ours)) == []


def test_the_number_of_classes_may_be_left_to_the_data():
  assert configs.read('folder').data.num_classes is None
  given = parse('--config=folder', '--config.data.num_classes=7', '--config.data.source=folder:x')
  assert given.data.num_classes == 7
  configs.check(given)
  with pytest.raises(errors.UserError, match='num_classes=many'):
    parse('--config=folder', '--config.data.num_classes=many')
  assert configs.flatten(configs.read('folder'))['data.num_classes'] is None


# What the paper says of its ImageNet models: section 3, Table 1, row 8, and appendices B and C. Not
# in it, and here as in the first author's code: where averaging begins, and Adam's epsilon.
PAPER = {
  'algorithm': 'biggan',
  'data.source': 'tfds:imagenet2012',
  'data.num_classes': 1000,
  'data.channels': 3,
  'data.crop': 'center',
  'data.flip': False,
  'data.fraction': 1,
  'data.per_class': 0,
  'augment.name': 'none',
  'model.latent': 'normal',
  'model.shared_dim': 128,
  'model.disc_widths': [],
  'model.disc_dropout': 0,
  'model.bn_group': 0,  # cross-replica
  'model.bn_eps': 1e-4,
  'optim.batch_size': 2048,
  'optim.d_steps': 2,
  'optim.gen_lr': 5e-5,
  'optim.disc_lr': 2e-4,
  'optim.b1': 0,
  'optim.b2': 0.999,
  'optim.eps': 1e-8,
  'optim.ortho_beta': 1e-4,
  'optim.spectral_eps': 1e-4,
  'optim.ema_decay': 0.9999,
  'optim.ema_start': 20_000,
  'optim.r1_gamma': 0,
  'optim.sigma_tool': 'none',
  'optim.freeze_disc': 0,
}


def biggan(resolution, z_dim, gen_attention, disc_attention):
  return PAPER | {
    'data.resolution': resolution,
    'model.network': 'biggan',
    'model.ch': 96,
    'model.z_dim': z_dim,
    'model.skip_z': True,
    'model.gen_attention': [gen_attention],
    'model.disc_attention': [disc_attention],
  }


def biggan_deep(resolution, **rates):
  return PAPER | {
    'data.resolution': resolution,
    'model.network': 'biggan_deep',
    'model.ch': 128,
    'model.z_dim': 128,
    'model.rgb_filters': 0,
    'model.gen_attention': [64],
    'model.disc_attention': [64],
    **{f'optim.{name}': rate for name, rate in rates.items()},
  }


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('imagenet128', biggan(128, 120, 64, 64)),
    ('imagenet256', biggan(256, 140, 128, 64)),
    ('imagenet512', biggan(512, 160, 64, 64)),
    ('imagenet128_deep', biggan_deep(128)),
    ('imagenet256_deep', biggan_deep(256, gen_lr=2.5e-5, disc_lr=2.5e-5)),
    ('imagenet512_deep', biggan_deep(512, gen_lr=2.5e-5, disc_lr=2.5e-5)),
    ('table1', biggan(128, 120, 64, 64)),  # row 8
    ('imagenet64', biggan(64, 100, 32, 32)),  # no model of the paper's
  ],
)
def test_values_of_the_paper(name, expected):
  found = configs.flatten(configs.read(name))
  assert {key: found[key] for key in expected} == expected


def test_learning_rates_are_those_of_the_number_of_discriminator_steps():
  """T35: BigGAN-PyTorch's doubled rates belong to one step; BigGAN-deep's halve with resolution."""
  for given in (given for given in EVERY if given.startswith(('imagenet', 'table1'))):
    optim = configs.read(given).optim
    rates = (optim.gen_lr, optim.disc_lr)
    if given == 'imagenet128:gpu8':
      assert (optim.d_steps, *rates) == (1, 1e-4, 4e-4)
    else:
      deep = given.startswith(('imagenet256_deep', 'imagenet512_deep'))
      assert rates == ((2.5e-5, 2.5e-5) if deep else (5e-5, 2e-4)), given


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('imagenet64', (70_222_212, 45_511_970)),
    ('imagenet128', (70_433_988, 87_982_370)),
    ('imagenet128:gpu8', (70_433_988, 87_982_370)),
    ('imagenet256', (82_097_604, 99_225_890)),
    ('imagenet512', (82_468_068, 99_401_282)),
    ('imagenet128_deep', (50_244_484, 34_590_210)),
    ('imagenet256_deep', (55_736_708, 38_247_426)),
    ('imagenet512_deep', (56_019_780, 38_301_122)),
    ('cifar10', (9_416_196, 2_415_170)),
    ('cifar10:biggan_pytorch', (4_304_387, 4_207_361)),
  ],
)
def test_published_numbers_of_parameters(given, expected):
  """The paper's 70.4, 88.0, 50.4 (with 128 filters at the end) and 34.6 million; from the code of

  BigGAN-PyTorch, TF-Hub's modules and StudioGAN's logs, to the last one and for the others.
  """
  assert counts(given) == expected


# Batch, channels, millions of parameters, shared embedding, skip-z, penalty, thousands of steps.
TABLE_1 = [
  (256, 64, 81.5, False, False, False, 1000),
  (512, 64, 81.5, False, False, False, 1000),
  (1024, 64, 81.5, False, False, False, 1000),
  (2048, 64, 81.5, False, False, False, 732),
  (2048, 96, 173.5, False, False, False, 295),
  (2048, 96, 160.6, True, False, False, 185),
  (2048, 96, 158.3, True, True, False, 152),
  (2048, 96, 158.3, True, True, True, 165),
  (2048, 64, 71.3, True, True, True, 371),
]


@pytest.mark.parametrize('row', range(1, 10))
def test_rows_of_table_1(row):
  batch, ch, millions, shared, skip_z, penalty, thousands = TABLE_1[row - 1]
  config, _ = made(f'table1:row{row}')
  model, optim = config.model, config.optim
  assert (optim.batch_size, model.ch, config.run.steps) == (batch, ch, 1000 * thousands)
  assert (model.shared_dim, model.skip_z) == (128 * shared, skip_z)
  assert optim.ortho_beta == (1e-4 if penalty else 0)
  # The printed numbers leave out the shared embedding.
  assert round((sum(counts(f'table1:row{row}')) - 128_000 * shared) / 1e6, 1) == millions
  # Nothing else differs from row 8; z is split into six parts of 20, or whole.
  assert model.z_dim == (120 if skip_z else 128)
  columns = {'optim.batch_size', 'optim.ortho_beta', 'eval.published', 'model.ch'}
  columns |= {'model.shared_dim', 'model.skip_z', 'model.z_dim'}
  rest, row_8 = (
    {key: value for key, value in configs.identity(c).items() if key not in columns}
    for c in (config, configs.read('table1:row8'))
  )
  assert rest == row_8 == {k: v for k, v in rest.items() if PAPER.get(k, v) == v}


def differing(given, base):
  """{key: value} of what is not as in `base`."""
  theirs = configs.flatten(configs.read(base))
  return {k: v for k, v in configs.flatten(configs.read(given)).items() if v != theirs[k]}


def test_gpu8_is_the_launch_script_of_biggan_pytorch():
  """scripts/launch_BigGAN_bs256x8.sh: 256 examples on 8 GPUs, accumulated eight times."""
  assert differing('imagenet128:gpu8', 'imagenet128') == {
    'eval.published': 'imagenet128_256x8_biggan_pytorch',
    'model.bn_eps': 1e-5,
    'model.bn_group': 256 // 8,
    'model.dtype': 'float32',
    'optim.d_steps': 1,
    'optim.disc_lr': 4e-4,
    'optim.eps': 1e-6,
    'optim.gen_lr': 1e-4,
    'optim.ortho_beta': 0,
    'optim.spectral_eps': 1e-6,
    'run.minibatches': 8,
  }


def test_fashion_mnist_at_16_px_has_the_networks_of_digits():
  """So that it can begin from a digits run."""
  assert differing('fashion_mnist:16px', 'digits') == {
    'data.held_out': 0.1,
    'data.source': 'tfds:fashion_mnist',
    'run.checkpoint_every': 500,
    'run.eval_every': 100,
    'run.steps': 1500,
  }


@pytest.mark.parametrize('variant', ['', ':biggan_pytorch', ':laptop'])
def test_cifar100_is_cifar10_with_other_classes(variant):
  differences = differing(f'cifar100{variant}', f'cifar10{variant}')
  assert differences.pop('eval.published', '') == ''
  assert differences == {'data.source': 'tfds:cifar100', 'data.num_classes': 100}


@pytest.mark.parametrize(('given', 'num'), [('cifar10:biggan_pytorch', 2), ('imagenet128:gpu8', 8)])
def test_the_step_of_recipes_for_several_gpus_traces_on_as_many(given, num):
  """BatchNorm's groups, minibatches and devices fit together, which only tracing tells."""
  program = make_program(configs.read(given), jax.devices()[:num])
  stage = program.algorithm.stage(0)
  batch = {
    'image': jax.ShapeDtypeStruct((*stage.batch, *[stage.resolution] * 2, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct(stage.batch, jnp.int32),
  }
  with jax.set_mesh(program.mesh):
    step = functools.partial(program.algorithm.step, stage=stage)
    state, metrics = jax.eval_shape(step, program.shapes(), batch)
  assert jax.tree.structure(state) == jax.tree.structure(program.shapes())
  assert metrics['d_loss'].shape == ()
