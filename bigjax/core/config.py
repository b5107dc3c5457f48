"""Configs: finding them by name, checking their keys, and what makes two runs the same run.

A config is an ml_collections file with flat groups. The groups `run` (steps, periods, memory),
`scores` and `watch` and where the data lies may change freely between resumes; everything else is
the identity of a run: hashed, and refused on mismatch.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from bigjax.core import errors

FREE = ('run.', 'scores.', 'watch.', 'data.data_dir', 'eval.published')
TOP = (
  'algorithm',
  'seed',
  'init_from',
  'run',
  'data',
  'model',
  'optim',
  'augment',
  'eval',
  'scores',
  'watch',
  'export',
)
GROUPS = {
  'run': (
    'steps',
    'log_every',
    'eval_every',
    'checkpoint_every',
    'keep',
    'keep_every',
    'best',
    'max_skipped',
    'minibatches',
    'remat',
    'forms',
    'profile_steps',
  ),
  'data': (
    'source',
    'data_dir',
    'resolution',
    'channels',
    'num_classes',
    'held_out',
    'fraction',
    'per_class',
    'crop',
    'flip',
  ),
  'eval': (
    'name',
    'num_samples',
    'standing_passes',
    'standing_batch',
    'grid_columns',
    'published',
  ),
  'scores': ('every', 'metrics', 'num', 'features', 'weights', 'reference'),
  'watch': (
    'policy',
    'most',
    'patch',
    'patience',
    'refused',
    'spike',
    'one_sided',
    'sigma',
    'still',
    'data',
    'variance',
    'score',
  ),
  'export': ('truncations', 'dialect'),
}


def builtin() -> dict[str, str]:
  """Return the paths of the configs that come with bigjax, by name."""
  folder = importlib.resources.files('bigjax.configs')
  return {
    os.path.splitext(entry.name)[0]: str(entry)
    for entry in folder.iterdir()
    if entry.name.endswith('.py') and not entry.name.startswith('_')
  }


def resolve(given: str) -> str:
  """Return 'path.py[:variant]' for NAME[:variant] or a path.

  Raises:
    UserError: no such config.
  """
  name, colon, variant = given.partition(':')
  if name.endswith('.py'):
    if not os.path.isfile(name):
      raise errors.UserError(f'--config={given}: there is no file {name!r}.')
    return given
  known = builtin()
  if name not in known:
    raise errors.UserError(
      f'--config={given}: there is no config {name!r}{errors.did_you_mean(name, known)}; '
      f'expected one of {", ".join(sorted(known))}, or a path to a .py file.'
    )
  return known[name] + colon + variant


def read(given: str) -> ml_collections.ConfigDict:
  """Return the config NAME[:variant] or path.py[:variant]; the file is executed.

  Raises:
    UserError: no such config.
  """
  path, _, variant = resolve(given).rpartition('.py')
  spec = importlib.util.spec_from_file_location('bigjax_config', path + '.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant.removeprefix(':'))


def require(
  config: ml_collections.ConfigDict, groups: Mapping[str, tuple[str, ...]], exact: bool = True
) -> None:
  """Refuse a config whose groups lack a key that is read or (`exact`) have one that nobody knows.

  Raises:
    UserError: names the first such key.
  """
  for group, keys in groups.items():
    if group not in config:
      raise errors.UserError(f'the config has no group {group!r}; it needs {", ".join(keys)}.')
    for key in keys:
      if key not in config[group]:
        raise errors.UserError(f'config.{group}.{key} is missing from the config.')
    for key in config[group]:
      if exact and key not in keys:
        raise errors.UserError(
          f'config.{group}.{key} is not a known key{errors.did_you_mean(key, keys)}; '
          f'the group has {", ".join(keys)}.'
        )


def at_least_one(config: ml_collections.ConfigDict, group: str, *keys: str) -> None:
  """Refuse a config in which one of these numbers is below 1.

  Raises:
    UserError: names the first such key.
  """
  for key in keys:
    if config[group][key] < 1:
      raise errors.UserError(f'{group}.{key} is {config[group][key]}; give at least 1.')


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config whose shared part is incomplete, has unknown keys, or makes no sense.

  Raises:
    UserError: names the first such key.
  """
  for key in config:
    if key not in TOP:
      raise errors.UserError(
        f'config.{key} is not known{errors.did_you_mean(key, TOP)}; a config has {", ".join(TOP)}.'
      )
  for key in TOP:
    if key not in config:
      raise errors.UserError(f'config.{key} is missing from the config.')
  require(config, GROUPS)
  at_least_one(config, 'eval', 'num_samples', 'standing_passes', 'standing_batch', 'grid_columns')
  at_least_one(config, 'run', 'steps', 'keep')
  if not 0 < config.data.held_out < 1:
    raise errors.UserError(
      f'data.held_out is {config.data.held_out}; give a share between 0 and 1.'
    )


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return a config as {'group.key': JSON-able value}, sorted."""
  leaves = json.loads(config.to_json(sort_keys=True))
  flat = {}
  for group, value in leaves.items():
    if isinstance(value, dict):
      flat |= {f'{group}.{key}': v for key, v in value.items()}
    else:
      flat[group] = value
  return dict(sorted(flat.items()))


def identity(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Return what must not change between resumes."""
  return {k: v for k, v in flatten(config).items() if not k.startswith(FREE)}


def changed(
  config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Return a copy of a config with these {'group.key': value} in it.

  Raises:
    UserError: it has no such key.
  """
  known = flatten(config)
  for key in values:
    if key not in known:
      raise errors.UserError(
        f'the config has no key {key!r}{errors.did_you_mean(key, known)}, which this run was given.'
      )
  copy = ml_collections.ConfigDict(config.copy_and_resolve_references())
  for key, value in values.items():
    *groups, name = key.split('.')
    group = copy
    for part in groups:
      group = group[part]
    group[name] = tuple(value) if isinstance(value, list) else value
  return copy


def digest(config: ml_collections.ConfigDict) -> str:
  """Return a short hash of the identity."""
  return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
  """Return 'key: theirs -> ours' for every key that differs between two identities."""
  missing = '(absent)'
  return [
    f'{key}: {theirs.get(key, missing)} -> {ours.get(key, missing)}'
    for key in sorted({*ours, *theirs})
    if ours.get(key, missing) != theirs.get(key, missing)
  ]


def parse(
  verb: str, argv: list[str], options: Mapping[str, str], switches: Mapping[str, str]
) -> tuple[ml_collections.ConfigDict, str, dict[str, Any]]:
  """Return (config with overrides, its name, {option: word or None, switch: bool}).

  Args:
    verb: of the command line.
    argv: the words after the verb.
    options: {name: help} of flags that take a word, beside --config.
    switches: {name: help} of those that take none.
  Raises:
    UserError: an unknown flag, config, variant or config key, or a value of the wrong type.
  """
  given, words = 'digits', []
  argv = iter(argv)
  for word in argv:
    if word == '--config':
      given = next(argv, '')
    elif word.startswith('--config='):
      given = word.removeprefix('--config=')
    else:
      words.append(word)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=[verb, *words])
  for name, what in options.items():
    flags.DEFINE_string(name, None, what, flag_values=values)
  for name, what in switches.items():
    flags.DEFINE_bool(name, False, what, flag_values=values)
  try:
    rest = values([verb, f'--config={resolve(given)}', *words])[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(_explain(verb, error, given, words)) from None
  if rest:
    raise errors.UserError(f'{rest[0]!r} is not an option; see bigjax {verb} --help.')
  path, _, variant = given.rpartition(':') if ':' in given else (given, '', '')
  name = os.path.basename(path).removesuffix('.py') + (f'-{variant}' if variant else '')
  return values.config, name, {key: values[key].value for key in (*options, *switches)}


def _explain(verb: str, error: Exception, given: str, words: list[str]) -> str:
  """Return the one sentence for what absl or ml_collections made of the command line."""
  try:
    known = flatten(read(given))
  except (AttributeError, KeyError, TypeError, ValueError) as of_config:
    return f'--config={given}: {" ".join(str(of_config).split())}'
  for word in words:
    key, _, value = word.removeprefix('--').partition('=')
    if key.startswith('config.') and key.removeprefix('config.') not in known:
      key = key.removeprefix('config.')
      return (
        f'--config.{key}: the config has no key {key!r}{errors.did_you_mean(key, known)}; '
        'bigjax train --dry_run lists them.'
      )
    if key.startswith('config.') and value in str(error):
      key = key.removeprefix('config.')
      like = 'a whole number' if known[key] is None else f'a value like {known[key]!r}'
      return f'--config.{key}={value}: expected {like}.'
  return ' '.join(str(error).split()) + f'; see bigjax {verb} --help.'
