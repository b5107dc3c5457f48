"""A script that completes bigjax's commands in a shell: verbs, options, words that options know.

shtab makes it, once, and it is static: pressing TAB starts no Python. Making it imports the parsers
of the verbs, not JAX. Keys of configs (`--config.GROUP.KEY`) are left out: which there are depends
on the config.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigjax.core import config as core_config
from bigjax.core import errors

SHELLS = ('bash', 'zsh', 'fish')


def _names(module: str, table: str) -> Callable[[], Sequence[str]]:
  """The names in a table, or that a function makes, of a module of bigjax that imports no JAX."""

  def names() -> Sequence[str]:
    found = getattr(importlib.import_module(f'bigjax.{module}'), table)
    return list(found() if callable(found) else found)

  return names


SLICES = _names('preflight.tpu_slices', 'names')
# Words of options that do not say by `choices` which they know: often one of these, never a path.
WORDS: Mapping[str, Callable[[], Sequence[str]]] = {
  'checkpoint': lambda: ('last', 'best'),
  'classes': lambda: ('all',),
  'distance': _names('models.pretrained.published', 'DISTANCES'),
  'features': lambda: (*_names('models.pretrained.published', 'PUBLISHED')(), 'classifier'),
  'fit': lambda: ('gpu', *SLICES()),
  'format': _names('export', 'FORMATS'),
  'memory': lambda: ('24GiB', '80GiB'),
  'metrics': _names('evaluation.metrics.registry', 'METRICS'),
  'mixing': _names('sampling.options', 'LAYERS'),
  'per_device': lambda: (),
  'reference': lambda: ('digits', 'folder:', 'tfds:'),
  'samples': lambda: (),
  'sampling': lambda: (),
  'scale': SLICES,
  'seeds': lambda: (),
  'sweep': lambda: (),
  'topology': SLICES,
  'truncation': lambda: ('none',),
}
FOLDERS = ('data_dir', 'workdir')
# Names of configs, and files, in each shell: a function each, which the script begins with. That a
# name has `_file` in it lets shtab's bash complete folders as such.
CONFIG = '_bigjax_config_files'
OF_CONFIG = {
  'bash': """{name}() {{
  compgen -W '{names}' -- "$1"
  compgen -f -X '!*.py' -- "$1"
  compgen -d -- "$1"
}}
""",
  'zsh': """{name}() {{
  _alternative 'configs:config:({names})' 'files:file:_files -g "*.py"'
}}
""",
  'fish': """function {name}
  printf '%s\\n' {names}
  __fish_complete_path (commandline -ct)
end
""",
}


def config_names() -> dict[str, Any]:
  """What shtab writes for an option that takes a config: built-in ones, and Python files."""
  names = ' '.join(sorted(core_config.builtin()))
  words = {'bash': CONFIG, 'zsh': CONFIG, 'fish': f'({CONFIG})'}
  preamble = {shell: text.format(name=CONFIG, names=names) for shell, text in OF_CONFIG.items()}
  return {**words, 'preamble': preamble}


def parser_of(verb: str) -> argparse.ArgumentParser:
  """The parser of a verb; of one whose options are a table, what they would be with argparse."""
  module = importlib.import_module(f'bigjax.{verb}')
  if hasattr(module, 'arguments'):
    return module.arguments()
  parser = argparse.ArgumentParser(prog=f'bigjax {verb}')
  parser.add_argument('--config', metavar='NAME', help='a built-in config, or a Python file')
  for name, words in module.OPTIONS.items():
    parser.add_argument(f'--{name}', help=words.replace('%', '%%'))
  for name, words in getattr(module, 'SWITCHES', {}).items():
    parser.add_argument(f'--{name}', action='store_true', help=words.replace('%', '%%'))
  return parser


def mark(action: argparse.Action) -> None:
  """Say what an option is completed with: its words, else a file, but for numbers and switches."""
  import shtab

  if action.dest == 'config':
    action.complete = config_names()  # type: ignore[attr-defined]  # what shtab looks for
  elif action.dest in WORDS:
    action.choices = list(WORDS[action.dest]())
  elif action.choices is None and action.type is None and action.nargs != 0:
    folder = action.dest in FOLDERS
    action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]


def script(shell: str) -> str:
  """The script that completes `bigjax` in one of SHELLS."""
  import shtab

  from bigjax.__main__ import VERBS

  root = argparse.ArgumentParser(prog='bigjax')
  root.add_argument('--version', action='store_true', help='print the version')
  subparsers = root.add_subparsers()
  for verb, what in VERBS.items():
    inner = parser_of(verb)
    for action in inner._actions:
      mark(action)
    subparsers.add_parser(verb, help=what, description=what, parents=[inner], add_help=False)
  return shtab.complete(root, shell)


def arguments() -> errors.Arguments:
  parser = errors.Arguments(prog='bigjax completion', description=__doc__.splitlines()[0])
  parser.add_argument('--shell', choices=SHELLS, required=True, help='whose script is printed')
  return parser


def parse(argv: list[str]) -> argparse.Namespace:
  """The arguments, checked.

  Raises:
    UserError: they make no sense.
  """
  args = arguments().parse_args(argv)
  errors.need('completion', 'completion', 'shtab')
  return args


def main(argv: list[str]) -> None:
  """`bigjax completion`."""
  print(script(parse(argv).shell))
