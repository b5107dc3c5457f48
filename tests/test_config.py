"""Finding configs, refusing wrong keys, and what makes two runs the same run."""

import json
import os

import ml_collections
import pytest

from bigjax import build, train, utils
from bigjax import config as configs

NAMES = sorted(configs.builtin())
IDENTITY = sorted(configs.identity(configs.read('digits:tiny')))
FREE = sorted(set(configs.flatten(configs.read('digits:tiny'))) - set(IDENTITY))


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
  """It has the same keys, and builds (which compiles nothing)."""
  whole, tiny = configs.read(name), configs.read(f'{name}:tiny')
  assert list(configs.flatten(whole)) == list(configs.flatten(tiny))
  assert configs.digest(whole) != configs.digest(tiny)
  shapes = [build.make(config).shapes()['players'] for config in (tiny, whole)]
  assert utils.num_params(shapes[0]) < utils.num_params(shapes[1])


@pytest.mark.parametrize('name', NAMES)
def test_every_config_refuses_an_unknown_variant(name):
  with pytest.raises(utils.UserError, match='tiny') as error:
    train.parse([f'--config={name}:tinny'])
  assert f'--config={name}:tinny' in str(error.value)


@pytest.mark.parametrize('variant', ['', ':tiny'])
def test_resolve_a_name(variant):
  path, _, found = configs.resolve(f'digits{variant}').rpartition('.py')
  assert os.path.basename(path) == 'digits' and os.path.isfile(path + '.py')
  assert found == variant


def test_resolve_and_read_a_path(own):
  assert configs.resolve(f'{own}:small') == f'{own}:small'
  assert configs.read(f'{own}:small').variant == 'small'
  assert train.parse([f'--config={own}:small'])[0].variant == 'small'


def test_resolve_a_path_without_variant(own):
  assert configs.resolve(own) == own
  assert train.parse([f'--config={own}'])[0].seed == 7
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
  with pytest.raises(utils.UserError) as error:
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
    with pytest.raises(utils.UserError) as error:
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


@pytest.mark.parametrize('name', NAMES)
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
