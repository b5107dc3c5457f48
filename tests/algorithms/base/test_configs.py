"""Configs with their family's keys: the built-in ones' values, command lines, docs/config.md."""

import ast
import functools
import json
import pathlib
import pkgutil
import re
import shlex
import subprocess
import sys

import jax
import pytest

from bigjax import algorithms, data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.core.keys import Key
from bigjax.evaluation import quick, reference_curves
from bigjax.training import history, program

import places
import toys
from counts import num_params

NAMES = sorted(core_config.builtin())
IDENTITY = sorted(configs.identity(configs.read('digits:tiny')))
LATER = configs.later(configs.read('digits:tiny'))  # keys that came after runs had begun
FREE = sorted(set(core_config.flatten(configs.read('digits:tiny'))) - {*IDENTITY, *LATER})
GOLDEN = json.loads((places.GOLDEN / 'configs.json').read_text())
OURS = algorithms.__path__[:1]  # without the toys
# Keys that are there only where GradInit is on.
OF_GRADINIT = {k for k, key in core_config.SHARED.items() if key.where == core_config.GRADINIT}
FAMILIES = [module.name for module in pkgutil.iter_modules(OURS) if not module.ispkg]


def stated(name):
  """What a config's file defines."""
  found, text = {}, pathlib.Path(core_config.builtin()[name]).read_text()
  exec(compile(text, name, 'exec'), found)
  return found


def variants(name):
  """The variants in a config's own table."""
  return list(stated(name)['VARIANTS'])


EVERY = [given for name in NAMES for given in (name, *(f'{name}:{v}' for v in variants(name)))]
# The oldest: BigGAN's own recipes, and not those of papers that play its game.
BIGGAN = [
  given
  for given in EVERY
  if configs.read(given).algorithm == 'biggan' and 'PAPER' not in stated(given.partition(':')[0])
]


def parse(*words):
  """The config of `bigjax train WORDS`."""
  return configs.parse('train', list(words), {'workdir': ''}, {'dry_run': ''})[0]


def refusal(*words):
  """The sentence that refuses `bigjax train WORDS`."""
  with pytest.raises(errors.UserError) as error:
    parse(*words)
  return str(error.value)


SHAPES = {}  # by what they follow from: variants of a paper often have the same networks


@functools.cache
def made(given):
  """(config, shapes of its players): what `bigjax train` does before it reads data or compiles."""
  config = configs.read(given)
  if config.data.num_classes is None:
    config.data.num_classes = 5
  values = core_config.flat(config)
  sizes = ('algorithm', 'data.resolution', 'data.channels', 'data.num_classes')
  networks = repr([v for k, v in values.items() if k in sizes or k.startswith('model.')])
  if networks in SHAPES:
    algorithms.family(config.algorithm).make(config)
  else:
    SHAPES[networks] = program.make_program(config, jax.devices()[:1]).shapes()['players']
  return config, SHAPES[networks]


def counts(given):
  """Parameters of each player: of (generator, discriminator) in BigGAN."""
  players = made(given)[1]
  names = sorted(players, key=lambda name: (name != 'gen', name))
  return tuple(num_params(players[name]['params']) for name in names)


def changed(key, value='changed'):
  """digits:tiny with another value at 'group.key'."""
  config = configs.read('digits:tiny')
  *groups, name = key.split('.')
  owner = config[groups[0]] if groups else config
  with owner.ignore_type():
    owner[name] = value
  return config


# --- The built-in configs


def test_builtin_configs_are_there():
  assert 'digits' in NAMES
  assert not [name for name in NAMES if name.startswith('_')]


@pytest.mark.parametrize('given', GOLDEN['configs'])
def test_values_and_hash_are_those_of_before(given):
  """Recorded when every config stated all of its values; keys that came later have defaults."""
  want = GOLDEN['configs'][given]
  values = {k: v for k, v in GOLDEN['imagenet128'].items() if k not in want['lacks']}
  config = configs.read(given)
  # As JSON: 0 and 0.0 are not the same to a hash.
  found = {k: v for k, v in core_config.flatten(config).items() if k not in configs.later(config)}
  assert json.dumps(found, sort_keys=True) == json.dumps(
    {**values, **want['differs']}, sort_keys=True
  )
  assert configs.config_hash(config) == want['hash']


def test_the_recorded_configs_are_all():
  assert set(BIGGAN) == set(GOLDEN['configs'])


def test_photos_on_a_laptop_get_the_recipe_that_cifar10_was_measured_with():
  ours, theirs = (core_config.flatten(configs.read(f'{n}:laptop')) for n in ('folder', 'cifar10'))
  differs = {key for key in theirs if ours[key] != theirs[key]}
  data = {'data.source', 'data.num_classes', 'augment.name'}
  assert differs == {*data, 'run.checkpoint_every', 'eval.num_samples', 'scores.features'}
  many = core_config.flatten(configs.read('folder:laptop_many'))
  assert {key for key in theirs if many[key] != theirs[key]} == (
    differs - {'augment.name', 'eval.num_samples'}
  )


@pytest.mark.parametrize('name', NAMES)
def test_every_config_has_tiny(name):
  assert configs.config_hash(configs.read(name)) != configs.config_hash(
    configs.read(f'{name}:tiny')
  )
  assert all(map(int.__lt__, counts(f'{name}:tiny'), counts(name)))


@pytest.mark.parametrize('given', EVERY)
def test_every_variant_builds(given):
  """It has the keys of all others but GradInit's, and makes networks (which compiles nothing)."""
  config, players = made(given)
  configs.check(config)
  values = core_config.flatten(config)
  assert values.keys() == core_config.existing(configs.keys(values), values).keys()
  assert len(counts(given)) == len(players) and all(count > 0 for count in counts(given))
  assert reference_curves.get(config.eval.published) is None or not given.endswith(':tiny')
  for package, word in (
    (data.sources, config.data.source.partition(':')[0]),
    (quick, config.eval.name),
  ):
    assert word in [module.name for module in pkgutil.iter_modules(package.__path__)]
  run = config.run
  assert max(run.log_every, run.eval_every, run.checkpoint_every) <= run.steps
  assert config.optim.get('ema_start', 0) < run.steps
  if given.endswith(':tiny'):
    assert config.data.source == 'digits' or config.data.source.startswith('synthetic')
    assert run.steps <= 4 and config.model.get('dtype', 'float32') == 'float32'


@pytest.mark.parametrize('given', [given for given in BIGGAN if ':' in given])
def test_tiny_and_digits_are_patches_on_any_variant(given):
  """Whatever options, resolution and data stood there."""
  config = configs.read(f'{given},tiny')
  algorithms.family(config.algorithm).make(config)
  assert config.data.source == 'digits' or config.data.source.startswith('synthetic')
  assert config.run.steps <= 4
  digits = core_config.flatten(configs.read('digits'))
  assert core_config.flatten(configs.read(f'{given},digits')) == digits


@pytest.mark.parametrize('given', EVERY)
def test_the_familys_own_tiny_fits_every_config(given):
  """For configs whose table has none."""
  config = configs.read(given)
  values = configs.patch('tiny', core_config.flat(config))
  algorithms.family(config.algorithm).make(configs.complete(values))
  assert values['data.source'].startswith('synthetic') and values['run.steps'] <= 4


@pytest.mark.parametrize('variant', core_config.VARIANTS_OF_ALL)
@pytest.mark.parametrize(
  'given', ['gsr:lsun_lt', 'sngan:stl10', 'diffaug:cifar10_10', 'ada:cifar10_500']
)
def test_tiny_and_digits_are_of_all_images(given, variant):
  """What was said of another set's split, share and tail does not fit theirs."""
  config = configs.read(given)
  found = configs.complete(configs.patch(variant, core_config.flat(config))).data
  assert (found.split, found.fraction, found.per_class, found.imbalance) == ('', 1, 0, 1)
  assert data.load(found).num_train > 50


def test_a_family_patches_only_what_differs_from_the_patch_of_all():
  """A toy states its steps and data; periods, scores and the size of grids are everybody's."""
  config = configs.read(f'{toys.CONFIGS[0]}:tiny')
  module = algorithms.family(config.algorithm)
  assert 'run.log_every' not in module.TINY and config.run.log_every == 1
  assert config.run.steps == module.TINY['run.steps'] == 4
  for table in core_config.VARIANTS_OF_ALL.values():
    assert all(core_config.fits(core_config.SHARED[key], value) for key, value in table.items())


def test_a_variant_takes_away_the_keys_of_another_network():
  """sagan:digits has SA-GAN's networks, although the patch of all BigGANs has stated its own."""
  config = configs.read('sagan:digits')
  assert config.model.network == 'sagan' and 'shared_dim' not in config.model
  algorithms.family(config.algorithm).make(config)


def test_a_patch_takes_away_the_keys_of_another_network(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    "def get_config():\n  return {'algorithm': 'biggan', 'optim': {'r1_gamma': 3},\n"
    "    'model': {'network': 'biggan_deep', 'rgb_filters': 128}}\n"
  )
  config = configs.read(f'{path}:digits')
  configs.check(config)
  assert 'rgb_filters' not in config.model and config.model.network == 'biggan'
  assert config.optim.r1_gamma == 3  # what the patch says nothing of stays
  assert 'skip_z' not in configs.read(str(path)).model


OF_GSR = ('steps', 'batch_size', 'd_steps', 'b1', 'b2', 'lecam_weight', 'gsr_weight', 'gsr_beta')


@pytest.mark.parametrize(
  ('given', 'numbers', 'z_dim', 'attention'),
  [
    ('gsr', (120_000, 64, 5, 0.5, 0.999, 0.1, 0.5, 0.99), 80, (16,)),
    ('gsr:lsun_lt', (200_000, 64, 5, 0.5, 0.9, 0.3, 0.5, 0.99), 120, (32,)),
    ('gsr:inaturalist2019', (200_000, 256, 2, 0.0, 0.999, 0.01, 0.01, 0.999), 100, (32,)),
    ('sngan:cifar10_lt100', (120_000, 64, 5, 0.5, 0.9, 0.3, 0.5, 0.999), 128, ()),
  ],
)
def test_long_tails_are_trained_on_as_by_gsrs_authors(given, numbers, z_dim, attention):
  """Each data set and network has numbers of its own in their code."""
  config = configs.read(given)
  values = {**config.optim, 'steps': config.run.steps}
  assert tuple(values[name] for name in OF_GSR) == numbers
  assert config.optim.gen_lr == config.optim.disc_lr == 2e-4
  assert config.optim.schedule == 'constant' and config.optim.gen_batch_times == 1
  model = config.model
  assert model.z_dim == z_dim and model.gen_attention == model.disc_attention == attention


def test_variants_compose_from_left_to_right():
  both = configs.read('imagenet128:gpu8,tiny')
  assert both.optim.gen_lr == 1e-4 and both.model.ch == 8  # of the one, and of the other
  assert both.optim.batch_size == 8
  other = configs.read('imagenet128:tiny,gpu8')
  assert other.run.microbatches == 8 and both.run.microbatches == 1
  name = configs.parse('train', ['--config=imagenet128:gpu8,tiny'], {}, {})[1]
  assert name == 'imagenet128-gpu8-tiny'


@pytest.mark.parametrize('name', NAMES)
def test_every_config_refuses_an_unknown_variant(name):
  with pytest.raises(errors.UserError, match='tiny') as error:
    parse(f'--config={name}:tinny')
  assert f'--config={name}:tinny' in str(error.value)
  assert all(variant in str(error.value) for variant in (*variants(name), 'digits'))


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_have_a_command_that_parses_and_name_variants(name):
  words = ast.get_docstring(ast.parse(pathlib.Path(core_config.builtin()[name]).read_text()))
  commands = re.findall(r'^  bigjax train\b.*$', words, re.M)
  found = [parse(*shlex.split(line)[2:]) for line in commands]
  keys = core_config.flatten(configs.read(name)).keys()
  assert found and core_config.flatten(found[0]).keys() == keys
  assert all(re.search(rf'--config {name}\b', line) for line in commands) or name == 'digits'
  own = set(variants(name)) - {'tiny'} if name != 'cifar100' else ()  # which are those of cifar10
  # cifar10 and _20 are named, and all of lsun_CATEGORY.
  parts = lambda variant: all(part in words for part in variant.split('_'))
  said = lambda variant: parts(variant) or f'{variant.partition("_")[0]}_CATEGORY' in words
  assert name == 'table1' or not [variant for variant in own if not said(variant)]


# --- Identity


def test_identity_is_everything_but_run_and_where_the_data_lies():
  assert FREE and all(key.startswith(core_config.FREE) for key in FREE)
  assert not [key for key in IDENTITY if key.startswith(core_config.FREE)]
  assert {'seed', 'algorithm', 'optim.gen_lr', 'data.source', 'model.ch'} <= set(IDENTITY)


@pytest.mark.parametrize('key', FREE)
def test_digest_is_stable_under_run_changes(key):
  assert configs.config_hash(changed(key)) == configs.config_hash(configs.read('digits:tiny'))


@pytest.mark.parametrize('key', [key for key in IDENTITY if key != 'algorithm'])
def test_digest_changes_with_the_identity(key):
  assert configs.config_hash(changed(key)) != configs.config_hash(configs.read('digits:tiny'))


@pytest.mark.parametrize('name', EVERY)
def test_identity_survives_json(name):
  """A workdir keeps it as JSON: a tuple that came back as a list would differ from itself."""
  identity = configs.identity(configs.read(name))
  assert not core_config.differences(identity, json.loads(json.dumps(identity)))


@pytest.fixture
def later(monkeypatch):
  """A key of the family that came after runs had begun."""
  family = algorithms.family('biggan')
  monkeypatch.setattr(family, 'KEYS', {**family.KEYS, 'optim.new': Key(0.0, 'new', since=1)})


def test_a_key_that_came_later_changes_no_hash(later):
  config = configs.read('digits')
  assert config.optim.new == 0 and configs.later(config) == LATER | {'optim.new': 0}
  assert configs.config_hash(config) == GOLDEN['configs']['digits']['hash']
  assert configs.config_hash(parse('--config.optim.new=1')) != configs.config_hash(config)


def test_a_run_that_began_before_a_key_came_goes_on(later, tmp_path):
  config = configs.read('digits')
  values = core_config.flatten(config)
  start = history.begin(0)
  for known in (values, {k: v for k, v in values.items() if k != 'optim.new'}):
    (tmp_path / 'config.json').write_text(json.dumps(known))
    assert history.match_run_config(str(tmp_path), config, start, False) == (config, {})
    other = parse('--config.optim.new=1')
    with pytest.raises(errors.UserError, match=r'optim\.new: '):
      history.match_run_config(str(tmp_path), other, start, False)
    base, patch = history.match_run_config(str(tmp_path), other, start, True)
    assert base.optim.new == 0 and patch == {'optim.new': 1}


# --- Reading


def test_the_number_of_classes_may_be_left_to_the_data():
  assert configs.read('folder').data.num_classes is None
  given = parse('--config=folder', '--config.data.num_classes=7', '--config.data.source=folder:x')
  assert given.data.num_classes == 7
  configs.check(given)
  assert 'num_classes=many: expected a whole number or None' in refusal(
    '--config=folder', '--config.data.num_classes=many'
  )
  assert core_config.flatten(configs.read('folder'))['data.num_classes'] is None


def test_none_can_be_given_where_it_means_something():
  given = parse('--config=digits', '--config.data.num_classes=None')
  assert given.data.num_classes is None
  given.data.num_classes = 4  # as the data has
  configs.check(given)
  assert 'expected a whole number, such as 64' in refusal('--config.optim.batch_size=None')


def test_a_file_of_the_users_whole_or_in_part(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text("def get_config(variant=''):\n  return {'algorithm': 'biggan', 'seed': 7}\n")
  part = configs.read(f'{path}:anything')
  configs.check(part)
  assert part.seed == 7 and part.optim.d_steps == 2
  path.write_text(
    'from bigjax.configs import digits\n'
    'def get_config():\n  config = digits.get_config()\n  config.optim.r1_gamma = 1.0\n'
    '  return config\n'
  )
  assert set(differing(str(path), 'digits')) == {'optim.r1_gamma'}
  path.write_text(
    'from bigjax.algorithms.base import configs\n'
    "def get_config(variant=''):\n  config = configs.read('digits')\n"
    "  config.watch.policy = variant or 'stop'\n  return config\n"
  )
  assert differing(str(path), 'digits') == {'watch.policy': 'stop'}
  assert differing(f'{path}:off', 'digits') == {'watch.policy': 'off'}
  path.write_text("def get_config():\n  return {'seed': 1}\n")
  with pytest.raises(errors.UserError, match="algorithm is ''; expected one of: bigbigan, biggan"):
    configs.read(str(path))


def test_a_key_that_was_renamed_is_refused_with_its_new_name(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    "def get_config():\n  return {'algorithm': 'biggan', 'run': {'minibatches': 2}}\n"
  )
  with pytest.raises(errors.UserError, match=r'run.minibatches is now called run.microbatches\.$'):
    configs.check(configs.read(str(path)))
  assert 'is now called run.microbatches' in refusal('--config.run.minibatches=2')


def test_a_key_of_the_other_network_is_refused():
  with pytest.raises(errors.UserError, match='rgb_filters is only known where model'):
    configs.check(parse('--config.model.rgb_filters=128'))
  deep = parse('--config.model.network=biggan_deep', '--config.model.rgb_filters=128')
  configs.check(deep)
  assert deep.model.rgb_filters == 128 and 'skip_z' not in deep.model


# --- The command line


@pytest.mark.parametrize(
  ('words', 'hints'),
  [
    (['--config.optim.momentum=0.5'], ['optim.momentum is not a known key;']),
    (['--config.optim.lr=1e-4'], ['did you mean optim.gen_lr?']),
    (['digits'], ["'digits' is not an option", 'did you mean --config digits?']),
    (['digits:tiny'], ['did you mean --config digits:tiny?']),
    (['mine.py'], ['did you mean --config mine.py?']),
    (['stray'], ["'stray' is not an option;"]),
    (['--steps=3'], ['did you mean --config.run.steps?', '--help']),
    (['--wrokdir=x'], ['did you mean workdir?']),
    (['--outdir=x'], ['--outdir is not', '--workdir=DIR']),
    (['--gpus=8'], ['--gpus is not', 'CUDA_VISIBLE_DEVICES']),
    (['--batch', '32'], ['--batch is not', '--config.optim.batch_size=']),
    (['--data=x.zip'], ['--data is not', '--config.data.source=folder:DIR']),
    (['--network=x.pkl'], ['--network is not', '--config=NAME', '--config.init_from=']),
    (['--resume=x'], ['--resume is not', 'same --workdir']),
    (['--resume'], ['--resume is not', 'same --workdir']),
    (['--epochs=3'], ['--epochs is not', '--config.run.steps=']),
    (['--lr=1e-4'], ['--lr is not', '--config.optim.gen_lr=']),
    (['--workdir'], ['--workdir needs a value']),
    (['--dry_run=perhaps'], ['--dry_run=perhaps: expected True or False']),
    (['--config=digits:tinny'], ['known: tiny, digits']),
    (['--config=nowhere.py'], ["no file 'nowhere.py'"]),
  ],
)
def test_mistakes_name_what_was_meant(words, hints):
  message = refusal(*words)
  assert all(hint in message for hint in hints), message
  assert '\n' not in message and message.endswith('.')
  assert 'optim.momentum' not in words[0] or 'did you mean' not in message


def test_flags_and_values_may_be_two_words():
  words = ['--workdir', 'x', '--config.optim.gen_lr', '1e-3', '--config.run.remat', '--dry_run']
  config, _, given = configs.parse('train', words, {'workdir': ''}, {'dry_run': '', 'change': ''})
  assert given == {'workdir': 'x', 'dry_run': True, 'change': False}
  assert config.optim.gen_lr == 1e-3 and config.run.remat is True
  assert parse('--dry_run=false', '--config.model.gen_attention=(8,)').model.gen_attention == (8,)
  with pytest.raises(AttributeError):
    config.optim.new = 1  # it is locked


NO_JAX = """
import sys
from bigjax.algorithms.base import configs
from bigjax.core import errors
try:
  configs.parse('train', sys.argv[1:], {'workdir': ''}, {'dry_run': ''})
except errors.UserError:
  sys.exit('jax' in sys.modules or 'flax' in sys.modules)
sys.exit(3)
"""


@pytest.mark.parametrize(
  'word', ['--config=digit', '--config=digits:tinny', '--outdir=x', '--wrokdir=x', 'digits']
)
def test_usage_errors_import_no_jax(word):
  assert subprocess.run([sys.executable, '-c', NO_JAX, word], check=False).returncode == 0


# --- For people


@pytest.mark.parametrize('name', FAMILIES)
def test_a_familys_keys_are_described_and_of_its_groups(name):
  family = algorithms.family(name)
  for key, told in family.KEYS.items():
    assert key not in core_config.SHARED and key.partition('.')[0] in core_config.GROUPS
    assert len(told.description) > 8 and core_config.fits(told, told.default), key
  for table in ('TINY', 'DIGITS'):
    for key, value in getattr(family, table).items():
      known = {**core_config.SHARED, **family.KEYS}
      assert key in known and core_config.fits(known[key], value), key


def test_overview_marks_what_is_not_the_default():
  lines = configs.overview(configs.read('digits')).splitlines()
  of = {line.split()[1] if line[0] == '*' else line.split()[0]: line for line in lines if line}
  values = core_config.flatten(configs.read('digits'))
  assert list(of) == [
    f'config.{name}' for name in core_config.existing(configs.keys(values), values)
  ]
  assert 'config.model.rgb_filters' not in of
  steps = of['config.run.steps']
  assert steps.startswith('* config.run.steps = 700 ') and '(default: 150000)' in steps
  assert of['config.optim.d_steps'].startswith('  config.optim.d_steps = 2 ')
  assert "discriminator steps to one of the generator's" in of['config.optim.d_steps']


def test_docs_config_md_is_current(monkeypatch):
  monkeypatch.setattr(algorithms, '__path__', OURS)
  written = (places.ROOT / 'docs' / 'config.md').read_text()
  assert written == configs.document(), 'python -m bigjax.algorithms.base.configs > docs/config.md'
  lines = [line for line in written.splitlines() if line.startswith('| `')]
  known = {*core_config.SHARED, *(k for name in FAMILIES for k in algorithms.family(name).KEYS)}
  assert {line.split('`')[1] for line in lines} == known
  assert len(lines) < len(known) + 28  # families share them


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
  found = core_config.flatten(configs.read(name))
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
  theirs = core_config.flatten(configs.read(base))
  return {k: v for k, v in core_config.flatten(configs.read(given)).items() if v != theirs[k]}


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
    'run.microbatches': 8,
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
  made_of = program.make_program(configs.read(given), jax.devices()[:num])
  stage = made_of.stage(0)
  with jax.set_mesh(made_of.mesh):
    step = functools.partial(made_of.algorithm.step, stage=stage)
    state, metrics = jax.eval_shape(step, made_of.shapes(), stage.shapes())
  assert jax.tree.structure(state) == jax.tree.structure(made_of.shapes())
  assert metrics['d_loss'].shape == ()


def test_a_variant_of_another_game_leaves_what_all_games_share(tmp_path):
  """Its keys are gone, though the other game knows some of them by the same names."""
  path = tmp_path / 'mine.py'
  path.write_text(
    "def get_config():\n  return {'algorithm': 'biggan', 'data': {'flip': True},\n"
    "          'model': {'ch': 16, 'z_dim': 7}, 'optim': {'batch_size': 6}}\n"
    "VARIANTS = {'other': {'algorithm': 'pggan', 'optim.d_steps': 2}}\n"
  )
  config = configs.read(f'{path}:other')
  configs.check(config)
  assert config.data.flip and 'ch' not in config.model and config.optim.d_steps == 2
  plain = configs.read('pggan:celeba_hq')
  assert config.model.z_dim == plain.model.z_dim == 512
