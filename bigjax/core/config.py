"""Configs: the keys that all families share, config files, and what makes two runs the same run.

A config has flat groups, and every key a default and a description in a table: those that all
families share in SHARED, a family's own in its module (completed and checked with those by
algorithms/base/configs.py). A config file states what differs from the defaults. The groups `run`
(steps, periods, memory), `scores` and `watch` and where the data lies may change freely between
resumes; everything else is the identity of a run: hashed, and refused on mismatch.
"""

import ast
import hashlib
import importlib.resources
import importlib.util
import inspect
import json
import os
from collections.abc import Mapping
from typing import Any

import ml_collections

from bigjax.core import errors, paths, ranges
from bigjax.core.keys import Key, Keys, suggestion

Values = dict[str, Any]  # {'group.key': value}


GROUPS = (
  'algorithm',
  'seed',
  'init_from',
  'run',
  'data',
  'model',
  'optim',
  'augment',
  'gradinit',
  'ema',
  'eval',
  'scores',
  'watch',
  'export',
)
FREE = ('run.', 'scores.', 'watch.', 'data.data_dir', 'eval.published')
FITS = ('crop', 'pad', 'stretch')  # images that are not square
GRADINIT = ('gradinit.optimizer', 'adam', 'sgd', 'normalised_sgd')  # where its keys exist
SHARED: Keys = {
  'algorithm': Key('', 'the game that is played: a file of bigjax/algorithms'),
  'seed': Key(0, 'of parameters, latents and the order of the data', most=ranges.SEED.most),
  'init_from': Key(
    '', "a workdir, file or address whose weights a run begins with; '': fresh ones"
  ),
  # Steps, periods, memory.
  'run.steps': Key(150_000, "generator updates, each with all of the other players'", least=1),
  'run.log_every': Key(100, 'steps between two rows of metrics.jsonl; 0: never'),
  'run.eval_every': Key(
    2500, 'steps between two evaluations (samples, vital signs, eval.name); 0: at the end only'
  ),
  'run.checkpoint_every': Key(1000, 'steps between two checkpoints; 0: at the end only'),
  'run.keep': Key(3, 'newest checkpoints that stay', least=1),
  'run.keep_every': Key(10_000, 'checkpoints at multiples of so many steps stay, too; 0: none'),
  'run.best': Key('', "score whose best checkpoint stays (-NAME: lower is better); '': none"),
  'run.max_skipped': Key(10, 'non-finite updates in a row after which a run stops', least=1),
  'run.profile_steps': Key(0, 'steps that the profiler records; 0: none'),
  'run.writers': Key(
    '', "trackers that get all rows, too, as wandb,mlflow; '': TensorBoard alone", since=1
  ),
  # What is trained on.
  'data.source': Key(
    '',
    'NAME or NAME:ARGUMENT: digits, moving_digits:1, folder:DIR (or a zip), tfds:NAME, hf:NAME or '
    'hf:DIR, synthetic',
  ),
  'data.split': Key(
    '', "split of a tfds set that is trained on, such as stl10's unlabelled; '': train", since=1
  ),
  'data.data_dir': Key('', "where TFDS' prepared sets lie; '': TFDS' own place"),
  'data.resolution': Key(128, 'of square images, in pixels', least=1, most=8192),
  'data.channels': Key(3, '3: colour, 1: grey', least=1, most=3),
  'data.frames': Key(
    0, 'of clips, for sources that have them; 0: still images', since=1, most=4096
  ),
  'data.frame_stride': Key(
    1, 'a clip has every so many frames of its video', since=1, least=1, most=1000
  ),
  'data.num_classes': Key(
    None,
    'classes; None: as many as the data has; 1: labels are not looked at',
    kind=int,
    least=1,
    most=10**6,
  ),
  'data.held_out': Key(
    0.05, 'share of each class held out, of data without a test split', above=0, below=1
  ),
  'data.fraction': Key(1.0, 'share of the training images that is trained on', above=0, most=1),
  'data.per_class': Key(0, 'training images of each class, at most; 0: all'),
  'data.imbalance': Key(
    1.0,
    'images of the first class over those of the last, a long tail; 1 or 0: as is',
    since=1,
  ),
  'data.label_column': Key(
    '', "column of a file of labels, or of a set of hf; '': the one called label or alike", since=1
  ),
  'data.crop': Key('center', 'of the longer side: center, or random at every visit'),
  'data.fit': Key(
    'crop',
    'images that are not square: crop (see data.crop), pad with black, or stretch',
    since=1,
    choices=FITS,
  ),
  'data.flip': Key(False, 'mirror half of the images that are trained on'),
  # A scale for every tensor, learned between init and the first step: training/gradinit.py.
  'gradinit.optimizer': Key(
    'none',
    'GradInit: the optimizer whose first step is to lower the losses most',
    since=1,
    choices=('none', *GRADINIT[1:]),
  ),
  'gradinit.steps': Key(
    390, 'its iterations, of each player', since=1, least=1, most=10**6, where=GRADINIT
  ),
  'gradinit.scale_lr': Key(
    1e-2, 'learning rate of the scales', since=1, above=0, most=1, where=GRADINIT
  ),
  'gradinit.eta': Key(0.1, 'length of that step', since=1, above=0, most=1000, where=GRADINIT),
  'gradinit.gamma': Key(
    1.0, "norm of a loss's gradient above which that is lowered", since=1, above=0, where=GRADINIT
  ),
  # Averages of the weights that others are made of after training: training/posthoc/.
  'ema.posthoc': Key(
    (),
    'widths of averages that are kept for export --ema_std, such as 0.05,0.1 (Karras et al. 2024); '
    '(): none',
    since=1,
    items=(float,),
    above=0,
    below=ranges.EMA_STD.below,
  ),
  # Scores at each evaluation.
  'eval.name': Key(
    'none', 'what scores a run: pixels (small images), classifier, prediction (of clips), none'
  ),
  'eval.num_samples': Key(512, 'samples of each evaluation', least=1, most=10**6),
  'eval.grid_columns': Key(10, 'columns of the grids of samples', least=1, most=1000),
  'eval.published': Key('', "published learning curve that is drawn beside; '': none"),
  # Scores by published protocols.
  'scores.every': Key(0, 'steps between two scorings, a multiple of run.eval_every; 0: never'),
  'scores.metrics': Key('fid,is', 'separated by commas: fid, kid, is, pr, dc, intra_fid, ...'),
  'scores.num': Key(50_000, 'samples of each scoring', least=2, most=ranges.IMAGES.most),
  'scores.features': Key('inception', 'network whose features are compared'),
  'scores.weights': Key('', 'file of its weights, where it is not in the cache'),
  'scores.reference': Key('train', 'images that are compared with: train or test'),
  # When a run collapses: training/watchdog.py.
  'watch.policy': Key('warn', 'what an alarm does: off, warn, stop, rollback'),
  'watch.most': Key(3, 'roll-backs before a run stops'),
  'watch.patch': Key('', "what a roll-back changes: 'KEY=VALUE,KEY=VALUE'"),
  'watch.patience': Key(
    2, 'times in a row that a signal is out of bounds before an alarm', least=1
  ),
  'watch.refused': Key(1, 'non-finite updates between two rows; 0 switches this or any signal off'),
  'watch.spike': Key(20.0, 'a loss or gradient norm over its median'),
  'watch.one_sided': Key(
    0.01, 'share of real or fake images that the discriminator gets right', below=1
  ),
  'watch.sigma': Key(10.0, 'largest singular value of a kernel over its least of late'),
  'watch.still': Key(True, "whether a player's weights no longer change"),
  'watch.data': Key(0.1, 'variation of the images of a batch over its median', below=1),
  'watch.variance': Key(0.3, "samples' deviation within a class over that of real images", below=1),
  'watch.score': Key(0.5, 'score run.best over its best value', below=1),
}
# Keys of networks that can compute the same in several ways: families that can include this table.
WAYS: Keys = {
  'run.microbatches': Key(
    1, "parts of each device's batch, one after the other: memory for time, same numbers", least=1
  ),
  'run.remat': Key(False, 'recompute activations in the backward pass: memory for time'),
  'run.kernels': Key('fast', 'which of equal formulas a network computes: fast, plain, fewest'),
}
RENAMED = {'run.minibatches': 'run.microbatches', 'run.forms': 'run.kernels'}

# Patches on any config, for the keys above; a family's tables of the same names (TINY, DIGITS) add
# their own and have the last word. Seconds on a laptop, without data; the digits, in minutes.
# fmt: off
ALL_IMAGES = {'data.split': '', 'data.fraction': 1.0, 'data.per_class': 0, 'data.imbalance': 1.0}
VARIANTS_OF_ALL: Mapping[str, Values] = {
  'tiny': {
    'run.steps': 2, 'run.log_every': 1, 'run.eval_every': 2, 'run.checkpoint_every': 2,
    'run.best': '', 'gradinit.steps': 2,
    'data.source': 'synthetic:64', 'data.num_classes': 10, **ALL_IMAGES,
    'eval.name': 'none', 'eval.num_samples': 20, 'eval.grid_columns': 2, 'eval.published': '',
  },
  'digits': {
    'run.steps': 700, 'run.log_every': 25, 'run.eval_every': 175, 'run.checkpoint_every': 175,
    'run.keep': 2, 'run.keep_every': 0, 'run.best': 'coverage', 'gradinit.steps': 100,
    'data.source': 'digits', 'data.resolution': 16, 'data.channels': 1, 'data.num_classes': 10,
    'data.held_out': 0.25, 'data.flip': False, **ALL_IMAGES,
    'eval.name': 'pixels', 'eval.num_samples': 1000, 'eval.grid_columns': 10, 'eval.published': '',
    'scores.num': 10_000, 'scores.features': 'classifier',
  },
}
# fmt: on


def in_order(keys: Keys) -> Keys:
  """Keys by their groups' order; within a group as given."""
  return dict(sorted(keys.items(), key=lambda item: GROUPS.index(item[0].partition('.')[0])))


def existing(keys: Keys, values: Mapping[str, Any]) -> Keys:
  """The keys that a config of these values has: those whose `where` holds."""
  holds = lambda name, *allowed: values.get(name, keys[name].default) in allowed
  return {name: key for name, key in keys.items() if not key.where or holds(*key.where)}


# --- Files


def builtin() -> dict[str, str]:
  """Paths of the configs that come with bigjax, by name."""
  folder = importlib.resources.files('bigjax.configs')
  return {
    os.path.splitext(entry.name)[0]: str(entry)
    for entry in folder.iterdir()
    if entry.name.endswith('.py') and not entry.name.startswith('_')
  }


def find(given: str) -> tuple[str, list[str]]:
  """(path, variants) of NAME[:variant,...] or FILE.py[:variant,...].

  Raises:
    UserError: no such config.
  """
  path, py, variants = paths.expanded(given).rpartition('.py')
  if py and variants[:1] in ('', ':'):
    path, variants = path + py, variants[1:]
    if not os.path.isfile(path):
      raise errors.UserError(f'--config={given}: there is no file {path!r}.')
  else:
    name, _, variants = given.partition(':')
    known = builtin()
    if name not in known:
      raise errors.UserError(
        f'--config={given}: there is no config {name!r}{errors.did_you_mean(name, known)}; '
        f'expected one of {", ".join(sorted(known))}, or a path to a .py file.'
      )
    path = known[name]
  return path, [word for word in variants.split(',') if word]


def layers(given: str) -> list[Values | str]:
  """Layers of a config, from left to right: values, and names from VARIANTS_OF_ALL.

  The file is executed. Its `get_config()` states values, whole or in part; its table VARIANTS has
  more for each variant, or a tuple of these and of names from VARIANTS_OF_ALL. One without that
  table may do what ml_collections has: `get_config` takes the words after the colon.

  Raises:
    UserError: there is no such config or variant, or get_config refuses it.
  """
  path, words = find(given)
  spec = importlib.util.spec_from_file_location('bigjax_config', path)
  assert spec and spec.loader, path  # it ends in .py
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  variants, arguments = getattr(module, 'VARIANTS', None), []
  if variants is None and words and inspect.signature(module.get_config).parameters:
    own = len(words)
    while own > 1 and words[own - 1] in VARIANTS_OF_ALL:
      own -= 1
    arguments, words = [','.join(words[:own])], words[own:]
  try:
    stated = flat(module.get_config(*arguments))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(f'--config={given}: {" ".join(str(error).split())}') from None
  known = dict.fromkeys((*(variants or ()), *VARIANTS_OF_ALL))
  for word in words:
    if word not in known:
      raise errors.UserError(
        f'--config={given}: there is no variant {word!r}{errors.did_you_mean(word, known)}; '
        f'known: {", ".join(known)}.'
      )
  found = [(variants or {}).get(word, word) for word in words]
  return [
    stated,
    *(layer for one in found for layer in (one if isinstance(one, tuple) else (one,))),
  ]


# --- Values


def flat(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Values:
  """{'group.key': value} of nested groups, or of what is flat already."""
  values: Values = {}
  for group, value in config.items():
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
      values |= {f'{group}.{key}': v for key, v in value.items()}
    else:
      values[group] = value
  return values


def nested(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The config of {'group.key': value}."""
  groups: dict[str, Any] = {}
  for name, value in values.items():
    group, dot, key = name.partition('.')
    if dot:
      groups.setdefault(group, {})[key] = value
    else:
      groups[group] = value
  return ml_collections.ConfigDict(groups)


def completed(values: Mapping[str, Any], keys: Keys) -> Values:
  """`values` with defaults where they state nothing, numbers and tuples as their keys have them.

  A path may begin with ~.
  """
  found = {name: key.default for name, key in existing(keys, values).items()}
  for name, value in values.items():
    kind = keys[name].value_type if name in keys else None
    if kind is float and type(value) is int:
      value = float(value)
    elif kind is tuple and isinstance(value, list):
      value = tuple(value)
    elif kind is str and isinstance(value, str):
      value = paths.expanded(value)
    found[name] = value
  return found


def fits(key: Key, value: Any) -> bool:
  """Whether a value has the type of a key."""
  if value is None:
    return key.kind is not None
  if key.value_type is tuple:
    return isinstance(value, tuple | list) and all(_is(item, key.items) for item in value)
  return _is(value, (int, float) if key.value_type is float else (key.value_type,))


def _is(value: Any, types: tuple[type, ...]) -> bool:
  return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def refuse(name: str, key: Key, value: Any) -> None:
  """Refuse a value that a key does not take.

  Raises:
    UserError: it has another type, is none of the key's choices, or a number out of its range.
  """
  if not fits(key, value):
    raise errors.UserError(f'{name} is {value!r:.80}; expected {key.like(key.default)}.')
  if key.choices and value is not None:
    errors.pick(value, dict.fromkeys(key.choices), name)
  for number in value if isinstance(value, tuple | list) else (value,):
    if key.within and _is(number, (int, float)):
      key.within.check(f'{name} is ', number)


def require(values: Mapping[str, Any], keys: Keys) -> None:
  """Refuse a config that lacks a key, has one that nobody knows, or a value that a key forbids.

  Args:
    values: of the whole config.
    keys: all that its family knows, wherever they exist.
  Raises:
    UserError: names the first such key.
  """
  for name, key in keys.items():
    if name in values and key.choices:  # which other keys there are may depend on it
      refuse(name, key, values[name])
  here = existing(keys, values)
  for name in here:
    if name not in values:
      raise errors.UserError(f'config.{name} is missing from the config.')
  for name, value in values.items():
    if name not in here:
      raise errors.UserError(f'config.{name} {unknown(name, keys)}.')
    refuse(name, here[name], value)


def condition(key: Key) -> str:
  """Where a key exists, in words: 'model.network=biggan or biggan_deep'."""
  other, *allowed = key.where
  return f'{other}={" or ".join(map(str, allowed))}'


def unknown(name: str, keys: Keys) -> str:
  """What is wrong with a key that a config does not have: '... (did you mean ...?)'."""
  if name in RENAMED:
    return f'is now called {RENAMED[name]}'
  if name in keys:
    return f'is only known where {condition(keys[name])}'
  return f'is not a known key{suggestion(name, keys)}'


def parse_value(key: Key, text: str) -> Any:
  """Read a value from the command line.

  Raises:
    ValueError: it has another type.
  """
  if key.kind and text == 'None':
    return None
  if key.value_type is bool:
    words = {'true': True, '1': True, 'false': False, '0': False}
    if text.lower() not in words:
      raise ValueError(text)
    return words[text.lower()]
  if key.value_type is tuple:
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError):
      raise ValueError(text) from None
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
  return ranges.whole_number(text) if key.value_type is int else key.value_type(text)


# --- Of a complete config


def flatten(config: ml_collections.ConfigDict) -> Values:
  """{'group.key': JSON-able value} of a config, sorted."""
  return dict(sorted(flat(json.loads(config.to_json())).items()))


def changed(
  config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """A copy of a config with these {'group.key': value} in it.

  Raises:
    UserError: it has no such key.
  """
  known = flatten(config)
  for key in values:
    if key not in known:
      raise errors.UserError(
        f'the config has no key {key!r}{suggestion(key, known)}, which this run was given.'
      )
  copy = ml_collections.ConfigDict(config.copy_and_resolve_references())
  for key, value in values.items():
    *groups, name = key.split('.')
    group = copy
    for part in groups:
      group = group[part]
    group[name] = tuple(value) if isinstance(value, list) else value
  return copy


def identity(config: ml_collections.ConfigDict, keys: Keys) -> Values:
  """The identity of a run: all but what may change, and later keys at their default."""
  later = {name: json.loads(json.dumps(key.default)) for name, key in keys.items() if key.since}
  return {
    name: value
    for name, value in flatten(config).items()
    if not name.startswith(FREE) and not (name in later and value == later[name])
  }


def identity_hash(identity: Mapping[str, Any]) -> str:
  """A short hash of an identity."""
  return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
  """'key: theirs -> ours' for every key that differs between two identities."""
  missing = '(absent)'
  return [
    f'{key}: {theirs.get(key, missing)} -> {ours.get(key, missing)}'
    for key in sorted({*ours, *theirs})
    if ours.get(key, missing) != theirs.get(key, missing)
  ]
