"""What is published: the sdist's files, the wheel's, and the metadata that an index shows."""

import runpy
import shutil
import subprocess
import sys

import pytest
import setuptools

import places

ROOT = places.ROOT
OF_GIT = {'.gitignore'}  # what only a repository needs


@pytest.fixture(scope='module')
def metadata():
  """What setup.py gives to setuptools, and its names."""
  given = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, 'setup', given.update)
    names = runpy.run_path(str(ROOT / 'setup.py'))
  return given, names


@pytest.fixture(scope='module')
def notes(tmp_path_factory):
  """A folder of setuptools' notes, of which SOURCES.txt lists an sdist's files."""
  folder = tmp_path_factory.mktemp('packaging')
  command = [sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', str(folder)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return folder / 'bigjax.egg-info'


def git(*words):
  """Paths that `git ls-files` lists, of files that there are."""
  if not (shutil.which('git') and (ROOT / '.git').exists()):
    pytest.skip('needs git and a repository')
  command = ['git', '-c', 'safe.directory=*', 'ls-files', '-z', *words]
  listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  return {path for path in listed.split('\0') if path and (ROOT / path).exists()}


def test_the_sdist_has_what_git_has(notes):
  sources = set((notes / 'SOURCES.txt').read_text(encoding='utf-8').splitlines())
  sources = {path for path in sources if '.egg-info/' not in path}
  tracked = git()
  assert len(tracked) > 500
  assert tracked - sources == OF_GIT & tracked
  assert not sources - git('--cached', '--others', '--exclude-standard')


def test_the_wheel_has_every_module_and_says_that_it_is_typed(metadata):
  given, _ = metadata
  paths = {
    name: given['package_dir'].get(name, name.replace('.', '/')) for name in given['packages']
  }
  assert paths['bigjax.configs'] == 'configs'
  files = git('bigjax', 'configs')
  modules = {path for path in files if path.endswith('.py')}
  assert {path.rpartition('/')[0] for path in modules} == set(paths.values())
  data = [f'{paths[name]}/{file}' for name, some in given['package_data'].items() for file in some]
  page = {f'bigjax/sampling/page/page.{of}' for of in ('css', 'html', 'js')}
  assert files - modules == set(data) == {'bigjax/py.typed', *page}


@pytest.mark.parametrize('url', ['', 'https://host/owner/name'])
def test_all_links_are_below_the_one_address(metadata, url):
  given, names = metadata
  links = names['project_urls'](url)
  assert bool(links) == bool(url)
  assert {'Source', 'Documentation', 'Changelog', 'Issues'} <= set(links) or not url
  for link in links.values():
    path = link.removeprefix(url).partition('/HEAD/')[2]
    assert link.startswith(url) and (ROOT / path).exists()
  assert given['project_urls'] == names['project_urls'](names['URL'])


def test_metadata_says_who_may_use_it_where(metadata):
  given, _ = metadata
  assert given['license_expression'] == 'Apache-2.0' and given['license_files'] == ['LICENSE']
  assert not [word for word in given['classifiers'] if word.startswith('License ::')]  # PEP 639
  minors = [word.rpartition('.')[2] for word in given['classifiers'] if '3.' in word]
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  assert f'With Python 3.{minors[0]} to 3.{minors[-1]}' in readme
  assert given['python_requires'] == f'>=3.{minors[0]}'


def test_there_are_no_upper_bounds(metadata):
  """One stands only where a break is known: it is then named here, with what breaks."""
  given, _ = metadata
  every = [
    *given['install_requires'],
    *(word for some in given['extras_require'].values() for word in some),
  ]
  assert not [word for word in every if '<' in word or '==' in word.partition(';')[0]]
