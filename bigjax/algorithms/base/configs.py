"""Configs with their family's keys: read, completed, overridden from a command line, checked.

`python -m bigjax.algorithms.base.configs` prints docs/config.md. Importing this imports no JAX;
completing a config does, with the module of its family.
"""

import os
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from bigjax import algorithms
from bigjax.core import config as core_config
from bigjax.core import errors, paths
from bigjax.core.config import Values
from bigjax.core.keys import Key, Keys, suggestion

# Flags of other people's programs, and what does it here.
FOREIGN = {
  'outdir': 'give --workdir=DIR',
  'gpus': 'all visible devices are used: choose them with CUDA_VISIBLE_DEVICES',
  'batch': 'give --config.optim.batch_size=NUMBER',
  'data': 'give --config.data.source=folder:DIR',
  'network': 'give --config=NAME, or --config.init_from=WORKDIR to begin from trained weights',
  'resume': 'give the same --workdir again, and the run goes on',
  'epochs': 'give --config.run.steps=NUMBER',
  'lr': 'learning rates are keys such as --config.optim.gen_lr=NUMBER; --dry_run lists all keys',
}


def keys(values: Mapping[str, Any]) -> Keys:
  """All keys that the family of these values knows, shared ones too, in order.

  Raises:
    UserError: there is no such family.
  """
  family = algorithms.family(values.get('algorithm', ''))
  return core_config.in_order({**core_config.SHARED, **family.KEYS})


def patch(variant: str, values: Mapping[str, Any]) -> Values:
  """These values with the patches for a variant in them; keys that these take away are gone.

  Args:
    variant: one of core.config.VARIANTS_OF_ALL, the patch of shared keys; on top of it comes the
      family's table of that name in capitals.
    values: {'group.key': value}, perhaps not of all keys.
  Raises:
    UserError: the family has no such patch.
  """
  known = keys(values)
  table = getattr(algorithms.family(values['algorithm']), variant.upper(), None)
  if table is None:
    raise errors.UserError(f'algorithm {values["algorithm"]} has no variant {variant!r}.')
  patched = {**values, **core_config.VARIANTS_OF_ALL[variant], **table}
  here = core_config.existing(known, patched)
  return {name: v for name, v in patched.items() if name in here or name not in known}


def complete(config: Mapping[str, Any] | ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with its family's defaults where it states nothing.

  Raises:
    UserError: there is no such family.
  """
  values = core_config.flat(config)
  return core_config.nested(core_config.completed(values, keys(values)))


def read(given: str) -> ml_collections.ConfigDict:
  """The complete config NAME[:variant,...] or FILE.py[:variant,...]; the file is executed.

  Raises:
    UserError: no such config, variant or family.
  """
  return complete(_merged(core_config.layers(given)))


def _merged(layers: list[Values | str]) -> Values:
  values: Values = {}
  for layer in layers:
    values = patch(layer, values) if isinstance(layer, str) else _over(layer, values)
  return values


def _over(layer: Values, values: Values) -> Values:
  """These values under those of a layer; of the former, keys that the layer takes away are gone.

  One that names another game leaves of the former what all games share.
  """
  if layer.get('algorithm', '') not in ('', values.get('algorithm')):
    values = {name: value for name, value in values.items() if name in core_config.SHARED}
  both = {**values, **layer}
  if 'algorithm' not in both:
    return both
  known = keys(both)
  here = core_config.existing(known, both)
  return {k: v for k, v in both.items() if k in here or k in layer or k not in known}


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a config that is incomplete, has unknown keys, or values of a wrong type or range.

  Raises:
    UserError: names the first such key.
  """
  values = core_config.flat(config)
  core_config.require(values, keys(values))


def identity(config: ml_collections.ConfigDict) -> Values:
  """The identity of a run by its family's tables: what must not change between resumes."""
  return core_config.identity(config, keys(core_config.flat(config)))


def config_hash(config: ml_collections.ConfigDict) -> str:
  """A short hash of the identity."""
  return core_config.identity_hash(identity(config))


def later(config: ml_collections.ConfigDict) -> Values:
  """Defaults of the keys of a config that older runs know nothing of, as files have them."""
  values = core_config.flat(config)
  table = core_config.existing(keys(values), values)
  found = {name: key.default for name, key in table.items() if key.since}
  return {name: list(x) if isinstance(x, tuple) else x for name, x in found.items()}


# --- The command line


def parse(
  verb: str,
  argv: list[str],
  options: Mapping[str, str],
  switches: Mapping[str, str],
  refuse: Callable[[Mapping[str, Any]], None] | None = None,
) -> tuple[ml_collections.ConfigDict, str, dict[str, Any]]:
  """Parse a command line: (complete config, its name, {option: word or None, switch: bool}).

  The config is locked: keys cannot be added to it.

  Args:
    verb: of the command line.
    argv: the words after the verb.
    options: {name: help} of flags that take a word, beside --config.
    switches: {name: help} of those that take none.
    refuse: raises a UserError for flags that mean nothing together.
  Raises:
    UserError: an unknown flag, config, variant or config key, or a value of the wrong type.
  """
  given: dict[str, Any] = {'config': 'digits', **dict.fromkeys(options)}
  given |= dict.fromkeys(switches, False)
  overrides = _split(verb, argv, given)
  name = given.pop('config')
  layers = core_config.layers(name)
  if refuse is not None:
    refuse(given)
  # Whatever is wrong with the words themselves has been said before the family imports JAX.
  values = _overridden(_merged(layers), overrides)
  path, variants = core_config.find(name)
  name = '-'.join([os.path.basename(path).removesuffix('.py'), *variants])
  return complete(values).lock(), name, given


def _split(verb: str, argv: list[str], given: dict[str, Any]) -> dict[str, str | None]:
  """Set the flags of `given`, and return {'group.key': text or None} of --config.group.key."""
  overrides: dict[str, str | None] = {}
  words = list(argv)
  while words:
    word = words.pop(0)
    text: str | None
    flag, equals, text = word.removeprefix('-').removeprefix('-').partition('=')
    key = flag.removeprefix('config.')
    if not word.startswith('-'):
      raise errors.UserError(f'{word!r} is not an option{_config_of(word)}; see {_help(verb)}.')
    if key == flag and flag not in given:
      raise errors.UserError(f'--{flag} is not a flag of bigjax {verb}{_instead(flag, given)}.')
    if not equals and not isinstance(given.get(flag), bool):
      followed = words and not words[0].startswith('--')
      text = words.pop(0) if followed else None
      if text is None and flag == 'config':
        text = ''  # what there is, is said below
    if not text and key == flag != 'config' and not isinstance(given[flag], bool):
      raise errors.needs_value(f'--{flag}', f'bigjax {verb}')
    if key != flag:
      overrides[key] = text
    elif isinstance(given[flag], bool):
      given[flag] = _switch(flag, text or '') if equals else True
    else:
      given[flag] = paths.expanded(text or '')
  return overrides


def _help(verb: str) -> str:
  return f'bigjax {verb} --help'


def _switch(flag: str, text: str) -> bool:
  try:
    return core_config.parse_value(Key(False, ''), text)
  except ValueError:
    raise errors.UserError(f'--{flag}={text}: expected True or False.') from None


def _config_of(word: str) -> str:
  """What a stray word that names a config should be."""
  name = word.partition(':')[0]
  is_config = name in core_config.builtin() or name.endswith('.py')
  return f' (did you mean --config {word}?)' if is_config else ''


def _instead(flag: str, given: Mapping[str, Any]) -> str:
  """What to give instead of an unknown flag."""
  if flag in FOREIGN:
    return f': {FOREIGN[flag]}'
  hint = errors.did_you_mean(flag, given)
  key = '' if hint else suggestion(flag, core_config.SHARED)
  return (hint or key.replace('did you mean ', 'did you mean --config.')) + '; see --help'


def _overridden(values: Values, overrides: Mapping[str, str | None]) -> Values:
  """The values with what the command line says.

  Raises:
    UserError: an unknown key, or a value of the wrong type.
  """
  known = keys({**values, 'algorithm': overrides.get('algorithm') or values.get('algorithm', '')})
  found = dict(values)
  for name, text in overrides.items():
    if name not in known:
      wrong = core_config.unknown(name, known)
      raise errors.UserError(f'--config.{name} {wrong}; bigjax train --dry_run lists them.')
    key = known[name]
    if text is None and key.value_type is bool:
      text = 'True'
    try:
      found[name] = core_config.parse_value(key, text or '')
    except ValueError:
      like = key.like(values.get(name, key.default))
      raise errors.UserError(f'--config.{name}={text or ""}: expected {like}.') from None
    core_config.refuse(name, key, found[name])
  return found


# --- For people


def overview(config: ml_collections.ConfigDict) -> str:
  """Lines of a config: a key, its value and what it means; '*' where that is not the default."""
  values, lines, last = core_config.flat(config), [], None
  for name, key in core_config.existing(keys(values), values).items():
    group, dot, _ = name.partition('.')
    if group != last and (dot or last is None):
      lines.append('')
    last = group
    value = values[name]
    is_default = value == key.default
    mark = ' ' if is_default else '*'
    default = '' if is_default else f' (default: {key.default!r})'
    lines.append(f'{mark} config.{name} = {value!r}'.ljust(44) + f'  {key.description}{default}')
  return '\n'.join(lines).lstrip('\n')


HEAD = """# Every key of a config

Written by `python -m bigjax.algorithms.base.configs > docs/config.md` from the tables in the code.

A config file states what differs from these defaults; `bigjax train --config NAME --dry_run` prints
a whole config, and marks what it states. Any key can be given on the command line:
`--config.optim.gen_lr=1e-4`, `--config.data.num_classes=None`. Variants follow the name and are
composed from left to right: `--config imagenet128:gpu8,tiny`. Every config has `tiny` (seconds, no
data needed) and `digits` (minutes, on scikit-learn's digits). Keys of `run`, `scores` and `watch`,
`data.data_dir` and `eval.published` may change between resumes; all others are a run's identity.
A number outside the range of its key is refused, as is one that is not finite.
A config of your own is a Python file with `get_config()`, which returns what it states, as a
dictionary of groups, and perhaps a table `VARIANTS = {'NAME': {'group.key': value}}`.
"""


def document() -> str:
  """docs/config.md: a line per key, of all families that have it."""
  found: dict[tuple, dict[str, Key]] = {}  # {(name, words, ...): {family: key}}
  for module in pkgutil.iter_modules(algorithms.__path__):
    if not module.ispkg:
      for name, key in core_config.in_order(algorithms.family(module.name).KEYS).items():
        found.setdefault((name, *_line(key)), {})[module.name] = key
  shared = {(name, *_line(key)): {'': key} for name, key in core_config.SHARED.items()}
  parts = [HEAD, '## All families\n', _table(shared)]
  for families in dict.fromkeys(tuple(owners) for owners in found.values()):
    rows = {row: owners for row, owners in found.items() if tuple(owners) == families}
    parts += [f'\n## {", ".join(f"`{family}`" for family in families)}\n', _table(rows)]
  return '\n'.join(parts)


def _line(key: Key) -> tuple[str, str]:
  """(Range, what it is): what families must agree on to share a line."""
  words = key.description.replace('|', '\\|')
  words += f'; one of {", ".join(key.choices)}' if key.choices else ''
  words += f'; only where `{core_config.condition(key)}`' if key.where else ''
  return str(key.within or ''), words


def _table(rows: Mapping[tuple, Mapping[str, Key]]) -> str:
  lines = ['| key | default | range | what it is |', '|---|---|---|---|']
  for (name, within, words), owners in rows.items():
    by_default: dict[str, list[str]] = {}
    for family, key in owners.items():
      by_default.setdefault(f'`{key.default!r}`', []).append(family)
    some = len(by_default) > 1
    default = ', '.join(f'{x} {"/".join(f)}' if some else x for x, f in by_default.items())
    lines.append(f'| `{name}` | {default} | {within} | {words} |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  print(document(), end='')
