"""Every number has a range: every key and every option, with what strangers type, is a value or

a sentence. Keys and options are found in the code: a new one is tried without being named here.
"""

import functools
import importlib
import pkgutil

import jax
import pytest

from bigjax import __main__, algorithms, data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, ranges
from bigjax.evaluation import during_training, reference_curves
from bigjax.sampling.loaded import load
from bigjax.training import history, watchdog

import toys

WORDS = ['nan', 'inf', '-inf', '-1', '0', str(2**31), str(2**63), str(10**30), '1e400', '']
NEVER = ['nan', 'inf', '-inf', str(10**30), '1e400', '']  # no number of ours
FAMILIES = [module.name for module in pkgutil.iter_modules(algorithms.__path__) if not module.ispkg]
BASE = {  # the fewest words with which a verb has something to do
  'train': [], 'doctor': [], 'plan': ['--topology=v3-8'], 'evaluate': ['--params=x.npz'],
  'sample': ['--params=x.npz'], 'export': ['--params=x.npz', '--format=stablehlo'],
  'convert': ['--gen=x.pth', '--out=y.safetensors'],
  'project': ['--params=x.npz', '--images=photos'], 'view': ['x.npz'],
  'directions': ['--params=x.npz'], 'compare': ['x'], 'completion': ['--shell=bash'],
}  # fmt: skip


def sentence_of(ask, *args):
  """What `ask` says where it refuses, None where it does not; anything but a UserError fails."""
  try:
    ask(*args)
  except errors.UserError as error:
    said = str(error)
    assert said.endswith('.') and '\n' not in said and len(said) < 1000, said
    return said
  return None


# --- Keys


@functools.cache
def base_of(family):
  """A small config of a family, the first that there is."""
  for given in [*sorted(core_config.builtin()), *toys.CONFIGS]:
    config = configs.read(f'{given}:tiny')
    if config.algorithm == family:
      return config
  raise AssertionError(f'no config of {family}')


def start(family, key, word):
  """What a start does with a key given on the command line, up to reading data and compiling."""
  values = core_config.flat(base_of(family))
  other, value = core_config.existing(configs.keys(values), {**values, key: 0}), word
  table = configs.keys(values)[key]
  if table.where and key not in other:  # in configs with another value of another key
    values[table.where[0]] = table.where[1]
  config = configs.complete(configs._overridden(values, {key: value}))
  configs.check(config)
  data.check(config.data)
  during_training.check(config)
  watchdog.check(config)
  reference_curves.get(config.eval.published)
  history.read_patch(config.watch.patch, config)
  if config.data.num_classes is None:
    config.data.num_classes = 10
  algorithms.family(config.algorithm).make(config, lambda: [1] * config.data.num_classes)


@pytest.mark.parametrize('family', FAMILIES)
def test_every_key_with_every_word_is_a_value_or_a_sentence(family):
  """Of keys that families share, in the first of them."""
  before = [configs.keys({'algorithm': one}) for one in FAMILIES[: FAMILIES.index(family)]]
  for key, table in configs.keys({'algorithm': family}).items():
    if any(table == keys.get(key) for keys in before):
      continue
    for word in WORDS:
      said = sentence_of(start, family, key, word)
      if table.within and (word in NEVER or (word == '-1' and (table.within.least or 0) >= 0)):
        assert said, f'--config.{key}={word} is accepted'


@pytest.mark.parametrize('family', FAMILIES)
def test_every_number_has_a_range_that_holds_its_default(family):
  for name, key in configs.keys({'algorithm': family}).items():
    if not {int, float} & {key.value_type, *(key.items if key.value_type is tuple else ())}:
      continue
    assert key.within, name
    core_config.refuse(name, key, key.default)
    for number in (float('nan'), float('inf'), 10**30):
      value = (number,) if key.value_type is tuple else number
      assert sentence_of(core_config.refuse, name, key, value), name


def test_the_ranges_of_the_issue():
  """Examples that were once accepted, of each type."""
  config = configs.read('digits:tiny')
  for key, value in {
    'seed': 2**32, 'optim.gen_lr': float('nan'), 'optim.ema_decay': 2.0, 'optim.ema_decay ': 1.0,
    'model.disc_widths': (10**30,), 'data.fraction': float('nan'), 'run.max_skipped': 0,
    'model.gen_attention': ('nan',), 'export.truncations': (float('inf'),), 'optim.b2': 1.0,
  }.items():  # fmt: skip
    group, _, name = key.strip().rpartition('.')
    changed = core_config.nested({**core_config.flat(config), f'{group}.{name}'.strip('.'): value})
    assert sentence_of(configs.check, changed), key
  config.seed = 2**32 - 1
  configs.check(config)


# --- Options


def options_of(verb):
  """{'--option': its action, or None} of a verb, whatever its parser."""
  module = importlib.import_module(f'bigjax.{verb}')
  if hasattr(module, 'arguments'):
    actions = [a for a in module.arguments()._actions if a.option_strings and a.dest != 'help']
    return {action.option_strings[0]: action for action in actions}
  words = [*module.OPTIONS, *getattr(module, 'SWITCHES', ()), 'config']
  return {f'--{word}': None for word in words}


@pytest.mark.parametrize('verb', __main__.VERBS)
def test_every_option_with_every_word_is_a_value_or_a_sentence(verb, monkeypatch):
  monkeypatch.setattr(errors, 'is_installed', lambda module: True)  # extras are not asked about
  parse = importlib.import_module(f'bigjax.{verb}').parse
  parse(BASE[verb])
  empty = ('neighbours', 'predict', 'disc', 'raw_gen', 'class_names')  # without a word is a value
  for option, action in options_of(verb).items():
    flag = option.removeprefix('--')
    rest = [word for word in BASE[verb] if not word.startswith(option)]
    for word in WORDS:
      said = sentence_of(parse, [*rest, f'--{flag}={word}'])
      number = action is not None and action.type is not None
      assert said or not (word in NEVER and number), (option, word)
      assert said or word or flag in empty, option


@pytest.mark.parametrize('verb', __main__.VERBS)
def test_numbers_of_options_are_read_with_their_ranges_which_help_says(verb):
  for option, action in options_of(verb).items():
    if action is not None and action.type is not None:
      assert isinstance(action.type, ranges.Reader), option
      assert str(action.type.within) in action.help and action.type.flag == option


def test_sampling_options_with_every_word(params):
  generator = load(params)
  for name in generator.sampler.generator.options:
    for word in WORDS:
      said = sentence_of(lambda name=name, word=word: generator.spec(**{name: word}))
      assert said or word not in ('nan', '-1', '-inf', str(10**30)), (name, word)


def test_numbers_of_the_python_interface(params):
  generator = load(params)
  for name in ('seed', 'num', 'batch'):
    for value in (float('nan'), -1, 2**63, 10**30, '', True, 1.0):
      assert sentence_of(lambda name=name, value=value: generator(**{name: value})), (name, value)


# --- Ranges themselves


@pytest.mark.parametrize(
  ('within', 'words', 'inside', 'outside'),
  [
    (ranges.SEED, '0 to 4,294,967,295', ['0', '4294967295', '+7'], ['-1', '4294967296', '1.5']),
    (ranges.Range(above=0, most=1, whole=False), 'above 0 to 1', ['1', '1e-9'], ['0', 'nan', '2']),
    (ranges.Range(0, below=1, whole=False), '0 to below 1', ['0', '.9'], ['1', '1e0', '-inf']),
    (ranges.COUNT, '1 to 2,147,483,647', ['1', '2_000'], ['', ' ', '0x1', '1e3', '9' * 5000, '٣']),
  ],
)
def test_a_range_reads_what_is_in_it(within, words, inside, outside):
  assert str(within) == words
  for word in inside:
    assert within.read('--x=', word) == float(word)
  for word in outside:
    assert sentence_of(within.read, '--x=', word).startswith('--x=')


def test_seeds_are_not_written_out():
  from bigjax.sampling import options

  seeds = options.parse_seeds('7,10-99999999')
  assert len(seeds) == 99_999_991 and (seeds[0], seeds[1], seeds[99_999_990]) == (7, 10, 99_999_999)
  assert 'give at most 4,294,967,295' in sentence_of(options.parse_seeds, '0-100000000000')
  assert 'give at most 100,000,000' in sentence_of(options.parse_seeds, '0-4294967295')


def test_seeds_of_32_bits_all_differ_and_a_stream_begins_anywhere(params):
  sampler, spec = load(params).sampler, load(params).spec()
  seeds = [0, 1, 2**31, 2**32 - 1]
  each = [sampler.latents(seed, 6, spec) for seed in seeds]
  assert len({z.tobytes() for z in each}) == len(seeds)
  for z, first, seed in zip(each, sampler.first_of_each(seeds, spec), seeds, strict=True):
    assert (z[0] == first).all()
    assert (sampler.latents(seed, 2, spec, 4) == z[4:]).all()
  far = sampler.latents(0, 1, spec, 10**8 - 1)  # the last of the largest stream; no other is made
  assert jax.numpy.isfinite(far).all()
