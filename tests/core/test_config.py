"""Tables of keys, config files and their variants, refusals, and what makes two runs the same."""

import itertools
import os

import ml_collections
import pytest

from bigjax.core import config as core_config
from bigjax.core import errors
from bigjax.core.config import GROUPS, SHARED
from bigjax.core.keys import Key, suggestion

TABLE = {
  'algorithm': Key('', 'a game'),
  'run.steps': Key(10, 'how many', least=1),
  'data.classes': Key(None, 'how many', kind=int),
  'model.network': Key('a', 'which', choices=('a', 'b')),
  'model.depth': Key(1, 'of b', where=('model.network', 'b')),
  'model.maps': Key((4,), 'where'),
  'optim.rate': Key(0.5, 'how fast'),
  'optim.warm': Key(False, 'or cold', since=1),
}


def test_every_shared_key_has_a_group_in_order_and_a_line_that_says_what_it_is():
  groups = [name.partition('.')[0] for name in SHARED]
  assert [group for group, _ in itertools.groupby(groups)] == [g for g in GROUPS if g in groups]
  for name, key in SHARED.items():
    assert len(key.description) > 10 and '\n' not in key.description, name
    assert key.default is not None or key.kind, name
    assert core_config.fits(key, key.default), name
  assert len({key.description for key in SHARED.values()}) == len(SHARED)


def test_the_tables_name_no_family():
  groups = {name.partition('.')[0] for name in SHARED}
  assert not SHARED['algorithm'].default and not {'model', 'optim', 'augment'} & groups


# --- Files


@pytest.fixture
def own(tmp_path):
  """A config file of the user's, in a folder whose name has '.py' in it, as pyenv's has."""
  folder = tmp_path / '.pyenv'
  folder.mkdir()
  path = folder / 'mine.py'

  def write(text):
    path.write_text('import ml_collections\n' + text)
    return str(path)

  write(
    "def get_config(variant='none'):\n  return ml_collections.ConfigDict({'init_from': variant})"
  )
  return str(path), write


def test_find_a_name_and_a_path(own):
  path, variants = core_config.find('digits:tiny')
  assert os.path.basename(path) == 'digits.py' and os.path.isfile(path) and variants == ['tiny']
  assert core_config.find('digits')[1] == core_config.find('digits:')[1] == []
  assert core_config.find('imagenet128:gpu8,tiny')[1] == ['gpu8', 'tiny']
  assert core_config.find(f'{own[0]}:a,b') == (own[0], ['a', 'b'])
  assert core_config.find(own[0]) == (own[0], [])


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ('digit:', ['--config=digit:', 'did you mean digits?', 'path to a .py file']),
    ('digit:tiny', ["no config 'digit'", 'did you mean digits?']),
    ('', ["no config ''", 'digits']),
    ('nowhere/digits.py', ["no file 'nowhere/digits.py'"]),
    ('nowhere/digits.py:tiny', ["no file 'nowhere/digits.py'"]),
  ],
)
def test_find_refuses_what_is_not_there(given, words):
  with pytest.raises(errors.UserError) as error:
    core_config.find(given)
  assert all(word in str(error.value) for word in words), str(error.value)


def test_a_file_with_a_table_of_variants(own):
  path, write = own
  write(
    "def get_config():\n  return {'run': {'steps': 3}, 'optim.rate': 1.0}\n"
    "VARIANTS = {'big': {'run.steps': 5}, 'tiny': {'run.steps': 1}}\n"
  )
  stated = {'run.steps': 3, 'optim.rate': 1.0}
  assert core_config.layers(path) == [stated]
  # Left to right; the file's own entry wins over a family's patch, which is a name.
  tiny, big = {'run.steps': 1}, {'run.steps': 5}
  assert core_config.layers(f'{path}:tiny,big') == [stated, tiny, big]
  assert core_config.layers(f'{path}:big,digits') == [stated, big, 'digits']
  with pytest.raises(errors.UserError, match=r'did you mean big\?.*known: big, tiny, digits'):
    core_config.layers(f'{path}:bigg')


def test_a_file_whose_get_config_takes_a_variant(own):
  path, write = own
  assert core_config.layers(path) == [{'init_from': 'none'}]
  assert core_config.layers(f'{path}:small') == [{'init_from': 'small'}]
  assert core_config.layers(f'{path}:tiny') == [{'init_from': 'tiny'}]
  assert core_config.layers(f'{path}:small,fast') == [{'init_from': 'small,fast'}]
  assert core_config.layers(f'{path}:small,digits,tiny') == [
    {'init_from': 'small'},
    'digits',
    'tiny',
  ]
  write("def get_config(variant=''):\n  raise ValueError('no such\\nvariant')")
  with pytest.raises(errors.UserError, match='small: no such variant'):
    core_config.layers(f'{path}:small')


# --- Values


def complete(**values):
  return core_config.completed({k.replace('__', '.'): v for k, v in values.items()}, TABLE)


def test_absent_means_default_and_types_are_those_of_the_table():
  assert complete() == {
    'algorithm': '', 'run.steps': 10, 'data.classes': None, 'model.network': 'a',
    'model.maps': (4,), 'optim.rate': 0.5, 'optim.warm': False,
  }  # fmt: skip
  found = complete(optim__rate=2, model__maps=[8], model__network='b', data__classes=7)
  assert (found['model.maps'], found['model.depth'], found['data.classes']) == ((8,), 1, 7)
  assert repr(found['optim.rate']) == '2.0'  # or its hash would be another


def test_flat_and_nested():
  config = core_config.nested({'algorithm': 'x', 'run.steps': 1, 'run.keep': 2})
  assert config.run.keep == 2 and config.algorithm == 'x'
  assert core_config.flat(config) == {'algorithm': 'x', 'run.steps': 1, 'run.keep': 2}
  assert core_config.flat({'run': {'steps': 1}, 'run.keep': 2}) == {'run.steps': 1, 'run.keep': 2}


@pytest.mark.parametrize(
  ('values', 'words'),
  [
    ({'run.steps': None}, ['run.steps is None', 'a whole number']),
    ({'run.steps': 2.0}, ['run.steps is 2.0', 'a whole number']),
    ({'run.steps': True}, ['run.steps is True', 'a whole number']),
    ({'run.steps': 0}, ['run.steps is 0', 'at least 1']),
    ({'data.classes': 'many'}, ["data.classes is 'many'", 'a whole number or None']),
    ({'optim.rate': '1'}, ["optim.rate is '1'", 'a number']),
    ({'optim.warm': 1}, ['optim.warm is 1', 'True or False']),
    ({'model.maps': 4}, ['model.maps is 4', 'a tuple, such as (4,)']),
    ({'model.network': 'bb'}, ["model.network is 'bb'", 'did you mean b?']),
    ({'model.depth': 2}, ['config.model.depth is only known where model.network=b']),
    ({'model.dept': 2}, ['config.model.dept is not a known key (did you mean model.depth?)']),
    ({'run.minibatches': 2}, ['config.run.minibatches is now called run.microbatches.']),
    ({'other': 2}, ['config.other is not a known key.']),
  ],
)
def test_require_refuses(values, words):
  core_config.require(complete(), TABLE)  # says nothing
  with pytest.raises(errors.UserError) as error:
    core_config.require({**complete(), **values}, TABLE)
  message = str(error.value)
  assert all(word in message for word in words), message
  assert message.endswith('.') and '\n' not in message


@pytest.mark.parametrize('name', [name for name, key in TABLE.items() if not key.where])
def test_require_refuses_a_missing_key(name):
  values = complete()
  del values[name]
  with pytest.raises(errors.UserError, match=f'config.{name} is missing'):
    core_config.require(values, TABLE)


@pytest.mark.parametrize(
  ('name', 'text', 'value'),
  [
    ('run.steps', '150_000', 150_000),
    ('data.classes', 'None', None),
    ('data.classes', '7', 7),
    ('optim.rate', '1e-3', 1e-3),
    ('optim.rate', '2', 2.0),
    ('optim.warm', 'true', True),
    ('optim.warm', 'False', False),
    ('model.maps', '(8, 16)', (8, 16)),
    ('model.maps', '[8]', (8,)),
    ('model.maps', '8', (8,)),
    ('model.maps', '()', ()),
    ('algorithm', 'None', 'None'),
  ],
)
def test_parse_value(name, text, value):
  found = core_config.parse_value(TABLE[name], text)
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('run.steps', '1.5'),
    ('run.steps', 'None'),
    ('run.steps', ''),
    ('data.classes', 'many'),
    ('optim.rate', 'fast'),
    ('optim.warm', 'perhaps'),
    ('model.maps', '(8'),
    ('model.maps', 'eight'),
  ],
)
def test_parse_value_refuses_another_type(name, text):
  with pytest.raises(ValueError):
    core_config.parse_value(TABLE[name], text)


KNOWN = (
  'run.steps',
  'eval.num_samples',
  'optim.eps',
  'optim.gen_lr',
  'optim.disc_lr',
  'watch.most',
)
KNOWN += ('optim.batch_size', 'optim.name', 'eval.name', 'seed', 'watch.patch', 'data.source')
KNOWN += ('optim.b1', 'optim.d_steps', 'data.resolution')


@pytest.mark.parametrize(
  ('given', 'meant'),
  [
    ('optim.gen_rl', 'optim.gen_lr'),
    ('optm.gen_lr', 'optim.gen_lr'),
    ('optim.lr', 'optim.gen_lr'),
    ('model.batch_size', 'optim.batch_size'),
    ('eval.nam', 'eval.name'),
    ('optim.nam', 'optim.name'),
    ('steps', 'run.steps'),
    ('optim.loss', None),  # near optim.eps in letters only
    ('run.loss', None),
    ('optim.batch', 'optim.batch_size'),  # near watch.patch in letters
    ('data.path', None),
    ('data.image_size', 'data.resolution'),  # shares a word with optim.batch_size
    ('run.num_steps', 'run.steps'),
    ('optim.beta1', 'optim.b1'),
    ('optim.learning_rate', 'optim.gen_lr'),
    ('data', 'data.source'),
    ('eval', 'eval.name'),
    ('zzz', None),
  ],
)
def test_suggestions_are_near_in_meaning(given, meant):
  expected = f' (did you mean {meant}?)' if meant else ''
  assert suggestion(given, KNOWN) == expected


# --- Identity


def digest(**values):
  config = core_config.nested(complete(**values))
  return core_config.identity_hash(core_config.identity(config, TABLE))


def test_a_key_that_came_later_changes_no_identity_while_at_its_default():
  before = {name: key for name, key in TABLE.items() if not key.since}
  old = core_config.nested(core_config.completed({}, before))
  assert core_config.identity_hash(core_config.identity(old, before)) == digest()
  assert digest(optim__warm=True) != digest()
  assert digest(optim__rate=0.6) != digest(optim__rate=0.5) == digest()
  assert digest(run__steps=3) == digest()  # free


def test_a_later_tuple_at_its_default_is_left_out_too():
  keys = {**TABLE, 'model.maps': Key((4,), 'where', since=2)}
  assert 'model.maps' not in core_config.identity(core_config.nested(complete()), keys)


def test_flatten_names_every_value():
  config = ml_collections.ConfigDict({'b': {'y': (1, 2), 'x': 0.5}, 'a': 'text'})
  flat = core_config.flatten(config)
  assert flat == {'a': 'text', 'b.x': 0.5, 'b.y': [1, 2]}
  assert list(flat) == sorted(flat)


def test_digest_does_not_depend_on_the_order_of_keys():
  pairs = [('seed', 0), ('data.source', 'x'), ('model.ch', 4)]
  assert core_config.identity_hash(dict(pairs)) == core_config.identity_hash(dict(pairs[::-1]))


def test_differences_name_key_and_both_values():
  ours = {'a': 1, 'b': 2, 'new': [1]}
  theirs = {'a': 1, 'b': 3, 'old': 'x'}
  assert core_config.differences(ours, theirs) == [
    'b: 3 -> 2',
    'new: (absent) -> [1]',
    'old: x -> (absent)',
  ]
  assert core_config.differences(ours, dict(ours)) == []


def test_changed_copies_and_refuses_unknown_keys():
  config = core_config.nested(complete())
  other = core_config.changed(config, {'model.maps': [8], 'run.steps': 3})
  assert (other.model.maps, other.run.steps, config.run.steps) == ((8,), 3, 10)
  with pytest.raises(errors.UserError, match=r"no key 'run.step' \(did you mean run.steps\?\)"):
    core_config.changed(config, {'run.step': 3})
