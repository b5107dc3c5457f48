"""`bigjax completion --shell NAME`: what the shells are told, and what bash makes of it."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from bigjax import __main__, completion
from bigjax.core import config as core_config
from bigjax.core import errors

VERBS = __main__.VERBS


def options_of(verb):
  """The options of a verb, without their dashes, read from its tables or its own parser."""
  module = importlib.import_module(f'bigjax.{verb}')
  if hasattr(module, 'arguments'):
    actions = module.arguments()._actions
    return [word[2:] for it in actions for word in it.option_strings if word.startswith('--')]
  return [*module.OPTIONS, *getattr(module, 'SWITCHES', ()), 'config', 'help']


@pytest.fixture(scope='module')
def scripts():
  """Made in one process of its own, which is asked what it has imported."""
  code = (
    'import json, sys\nfrom bigjax import completion\n'
    'made = {name: completion.script(name) for name in completion.SHELLS}\n'
    "heavy = {'jax', 'flax', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
    'print(json.dumps([made, *heavy]))'
  )
  pytest.importorskip('shtab')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  made, *heavy = json.loads(done.stdout)
  assert not heavy
  return made


def of_verb(script, shell, verb):
  """What a script says of one verb."""
  if shell == 'zsh':
    return script.partition(f'\n_shtab_bigjax_{verb}_options=(')[2].partition('\n)')[0]
  mark = {'bash': f'_shtab_bigjax_{verb}_', 'fish': f'_shtab_bigjax_using {verb}'}[shell]
  return '\n'.join(line for line in script.splitlines() if mark in line)


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_a_script_knows_every_verb_option_and_config(scripts, shell):
  for verb in VERBS:
    text = of_verb(scripts[shell], shell, verb)
    prefix = '-l ' if shell == 'fish' else '--'
    for option in options_of(verb):
      assert re.search(rf'(?<![-\w]){prefix}{option}(?![-\w])', text), (verb, option)
    assert not re.search(rf'(?<![-\w]){prefix}colour', text)
  for name in core_config.builtin():
    assert re.search(rf'\b{name}\b', scripts[shell]), name


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_a_script_is_one_of_its_shell(scripts, shell, tmp_path):
  if not shutil.which(shell):
    pytest.skip(f'needs {shell}')
  path = tmp_path / 'script'
  path.write_text(scripts[shell])
  done = subprocess.run([shell, '-n', str(path)], capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(
  ('words', 'found'),
  [
    (['tr'], {'train'}),
    (['--v'], {'--version'}),
    (['sample', '--work'], {'--workdir'}),
    (['sample', '--layout', ''], {'bigjax', 'adm'}),
    (['train', '--config', 'imagenet128'], {'imagenet128', 'imagenet128_deep'}),
    (['train', '--config', 'm'], {'msggan', 'mine.py'}),
    (['train', '--workdir', ''], {'folder'}),
    (['plan', '--topology', 'v3-12'], {'v3-128'}),
    (['evaluate', '--features', 'cif'], {'cifar_resnet56'}),
    (['export', '--format', ''], {'safetensors', 'npz', 'stablehlo'}),
    (['sample', '--params', ''], {'mine.py', 'notes.txt', 'folder'}),
    (['sample', '--num', ''], set()),  # a number, which is no file
  ],
)
def test_what_bash_completes(scripts, tmp_path, words, found):
  (tmp_path / 'script').write_text(scripts['bash'])
  here = tmp_path / 'here'
  (here / 'folder').mkdir(parents=True)
  for name in ('mine.py', 'notes.txt'):
    (here / name).touch()
  run = (
    'source ../script; COMP_WORDS=(bigjax "$@"); COMP_CWORD=$#; _shtab_bigjax; '
    'printf "%s\\n" "${COMPREPLY[@]}"'
  )
  argv = ['bash', '-c', run, 'bash', *words]
  done = subprocess.run(argv, cwd=here, capture_output=True, text=True)
  assert set(done.stdout.split()) == found, done.stderr


def test_the_verb_prints_it(bigjax, scripts):
  assert bigjax('completion', '--shell', 'bash') == (0, scripts['bash'] + '\n', '')


@pytest.mark.parametrize('words', [['--shell=ksh'], ['--shell'], []])
def test_a_shell_that_there_is_not(bigjax, words):
  status, out, err = bigjax('completion', *words)
  assert status == 2 and not out and '--shell' in err and err.count('\n') == 1


def test_what_it_needs_is_said(bigjax, monkeypatch):
  monkeypatch.setattr(errors, 'is_installed', lambda module: False)
  status, out, err = bigjax('completion', '--shell=fish')
  assert status == 2 and not out and "pip install 'bigjax[completion]'" in err
