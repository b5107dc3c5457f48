"""launch/Dockerfile and launch/sky.yaml, as they are read: neither is built or launched here."""

import ast
import fnmatch
import os
import re
import runpy
import shlex

import pytest
import setuptools

from bigjax import train
from bigjax.core import config as core_config

import places

ROOT = places.ROOT
DOCKERFILE = ROOT / 'launch' / 'Dockerfile'
SKY = ROOT / 'launch' / 'sky.yaml'
PAGES = [ROOT / 'docs' / 'pods.md', ROOT / 'launch' / 'README.md', DOCKERFILE]


@pytest.fixture(scope='module')
def metadata():
  """What setup.py gives to setuptools."""
  given = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, 'setup', given.update)
    runpy.run_path(str(ROOT / 'setup.py'))
  return given


def instructions():
  """(instruction, what follows) of the Dockerfile, in order."""
  text = re.sub(r'(?m)^\s*#.*\n', '', DOCKERFILE.read_text(encoding='utf-8')).replace('\\\n', ' ')
  return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def given_to_builds(path):
  """Whether .dockerignore lets a file through: the last pattern that fits it, or a folder of it."""
  lets = True
  for line in (ROOT / '.dockerignore').read_text(encoding='utf-8').splitlines():
    pattern = line.strip().removeprefix('!')
    if not pattern or pattern.startswith('#'):
      continue
    ends = ['/'.join(path.split('/')[:n]) for n in range(1, path.count('/') + 2)]
    if any(fnmatch.fnmatchcase(end, pattern.replace('**/', '*')) for end in ends):
      lets = line.startswith('!')
  return lets


def test_the_image_copies_what_there_is_and_what_the_package_needs(metadata):
  steps = [what.split() for _, what in instructions()]
  every = {word for name, what in instructions() if name == 'COPY' for word in what.split()[:-1]}
  assert all((ROOT / source).exists() and given_to_builds(source) for source in every)
  folders = {'bigjax', *metadata['package_dir'].values()}
  assert folders | {'setup.py', 'pyproject.toml', *metadata['license_files']} <= every
  # What setup.py reads has to be there before the first installation.
  installs = next(i for i, step in enumerate(steps) if step[:2] == ['pip', 'install'])
  early = {
    word for name, what in instructions()[:installs] if name == 'COPY' for word in what.split()
  }
  reads = re.findall(
    r"ROOT / '([\w.]+)'(?: / '([\w.]+)')?\)", (ROOT / 'setup.py').read_text(encoding='utf-8')
  )
  assert len(reads) == 2 and {'/'.join(filter(None, path)) for path in reads} <= early


def test_what_builds_are_given():
  assert given_to_builds('bigjax/core/errors.py') and given_to_builds('configs/digits.py')
  for path in ('tests/conftest.py', 'runs/digits/card.json', '.git/config', 'bigjax/__pycache__'):
    assert not given_to_builds(path), path


def test_the_image_is_bigjax():
  last = dict(instructions())
  assert ast.literal_eval(last['ENTRYPOINT']) == ['bigjax']  # no shell, which would keep signals
  assert 'BIGJAX_CACHE=/cache' in last['ENV'].split() and last['WORKDIR'] == '/work'
  assert any(name == 'RUN' and '/work /cache' in what for name, what in instructions())


def test_the_image_is_of_a_python_and_of_extras_that_there_are(metadata):
  arguments = dict(what.split('=') for name, what in instructions() if name == 'ARG')
  minors = [word.rpartition('3.')[2] for word in metadata['classifiers'] if 'Python :: 3.' in word]
  assert arguments['PYTHON'].removeprefix('3.') in minors
  told = [arguments['EXTRAS']]
  for page in PAGES:
    told += re.findall(r'EXTRAS[=:] ?([\w,]+)', page.read_text(encoding='utf-8'))
  assert len(told) >= 4
  assert all(set(words.split(',')) <= set(metadata['extras_require']) for words in told)


# --- SkyPilot


@pytest.fixture(scope='module')
def task():
  yaml = pytest.importorskip('yaml')
  return yaml.safe_load(SKY.read_text(encoding='utf-8'))


def commands(task, step):
  """The command lines of a step, the task's environment put in."""
  text = task[step].replace('\\\n', ' ')
  for name, value in task['envs'].items():
    text = text.replace(f'${name}', value)
  return [shlex.split(line) for line in text.splitlines()]


def test_skypilot_trains_as_a_user_would(task):
  ((exec_, program, verb, *words),) = commands(task, 'run')
  assert exec_ == 'exec' and program.endswith('/bin/bigjax') and verb == 'train'  # signals arrive
  config, workdir, given = train.parse(words)
  assert task['envs']['CONFIG'] in core_config.builtin() and not given['dry_run']
  assert workdir == task['envs']['WORKDIR'] and workdir.startswith('gs://')
  mounts = tuple(task['file_mounts'])
  assert config.data.data_dir.startswith(mounts)


def test_skypilot_installs_what_is_run(task, metadata):
  lines = commands(task, 'setup')
  (made,) = (line[-1] for line in lines if 'venv' in line)
  (installed,) = (line[-1] for line in lines if 'install' in line and '--python' in line)
  assert commands(task, 'run')[0][1] == f'{made}/bin/bigjax'
  assert set(installed.removeprefix('.[').removesuffix(']').split(',')) <= set(
    metadata['extras_require']
  )
  (python,) = (line[line.index('--python') + 1] for line in lines if 'venv' in line)
  assert f'Programming Language :: Python :: {python}' in metadata['classifiers']
  assert task['workdir'] == '.'  # from which it is installed


def test_skypilot_asks_for_a_slice_that_there_is(task):
  from bigjax.preflight import tpu_slices

  name = task['resources']['accelerators'].removeprefix('tpu-')
  config = train.parse(['--config', task['envs']['CONFIG']])[0]
  assert config.optim.batch_size % tpu_slices.find(name).num_devices == 0
  readme = (ROOT / 'launch' / 'README.md').read_text(encoding='utf-8')
  assert task['resources']['accelerator_args']['runtime_version'] in readme
  assert name in readme


def test_what_bash_thinks_of_it(task):
  import subprocess

  for step in ('setup', 'run'):
    done = subprocess.run(['bash', '-n'], input=task[step], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, ''), os.fsdecode(done.stderr)
