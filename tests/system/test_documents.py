"""The documents say what is so: their links, commands, snippets, names and quoted sentences."""

import argparse
import ast
import importlib
import pathlib
import re
import runpy
import shlex

import pytest
import setuptools
from PIL import Image

import bigjax as package
from bigjax import __main__, train
from bigjax.algorithms.base import configs as family_configs
from bigjax.core import config as configs

from places import ROOT

README = ROOT / 'README.md'
PAGES = [
  README,
  *(ROOT / name for name in ('CONTRIBUTING.md', 'CHANGELOG.md')),
  *sorted((ROOT / 'docs').glob('*.md')),
  *(ROOT / folder / 'README.md' for folder in ('launch', 'benchmarks')),
]
BLOCK = re.compile(r'(?ms)^ *```(\w*)\n(.*?)^ *```')
LINK = re.compile(r'(!?)\[[^][]*\]\(([^()\s]+)\)')
CODE = re.compile(r'`([^`\n]+)`')
FILES = ('.json', '.jsonl', '.png')  # which groups of a config share their names with
OWN_CONFIG = """from bigjax.configs import digits


def get_config(variant=''):
  return digits.get_config()
"""


def named(path):
  return str(path.relative_to(ROOT))


def prose(path):
  """A page without its code blocks."""
  return BLOCK.sub('', path.read_text())


def code(path):
  """All pieces of code in the lines of a page."""
  return CODE.findall(prose(path))


pages = pytest.mark.parametrize('page', PAGES, ids=named)


@pytest.fixture(scope='module')
def metadata():
  """What setup.py gives to setuptools, and its names."""
  given = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, 'setup', given.update)
    names = runpy.run_path(str(ROOT / 'setup.py'))
  return given, names


# --- the README


def test_the_readme_is_read_to_its_end():
  text = README.read_text()
  assert len(text.splitlines()) <= 200
  assert len(text.split()) <= 2200
  assert max(map(len, text.splitlines())) <= 140


def test_the_readme_is_of_this_version(metadata):
  given, _ = metadata
  text = README.read_text()
  (extras,) = re.findall(r'## Installing\n\n(.*?)\n\n##', text, re.S)
  found = CODE.findall('\n'.join(line.split('|')[1] for line in extras.splitlines()[2:]))
  assert sorted(found) == sorted(f'[{name}]' for name in given['extras_require'])
  least = given['python_requires'].removeprefix('>=')
  assert f'With Python {least} to ' in text
  assert f'Version {package.__version__.rpartition(".")[0]}:' in text
  assert all(path.name in text for path in (ROOT / 'docs').glob('*.md'))


def test_a_run_leaves_what_the_readme_says(workdir):
  """Of the tiny run, whose last step is 4."""
  table = README.read_text().partition('`runs/digits/`:')[2].strip().partition('\n\n')[0]
  cells = [line.split('|')[1] for line in table.splitlines()[2:]]
  files = []
  for name in CODE.findall('\n'.join(cells)):
    path = workdir / name.replace('00000700', '00000004')
    files.append(files[-1].with_suffix(name) if name.startswith('.') else path)
  assert len(files) > 10
  files += [workdir / name for name in ('samples/00000002.png', 'checkpoints/4', 'events.jsonl')]
  assert not [path for path in files if not path.exists()]


@pytest.mark.parametrize('url', ['', 'https://host/owner/name'])
def test_the_package_index_gets_no_dead_link(metadata, url):
  given, names = metadata
  text = names['for_package_index'](README.read_text(), url)
  links = [
    (bool(picture), target) for picture, target in LINK.findall(text) if not target.startswith('#')
  ]
  assert all(target.startswith('https://') for _, target in links)
  here = [target for _, target in LINK.findall(README.read_text()) if not target.startswith('#')]
  assert len(here) > 15
  assert len(links) == (len(here) if url else 0)
  if url:
    assert (True, f'{url}/raw/HEAD/docs/images/digits.png') in links
    assert (False, f'{url}/blob/HEAD/docs/data.md') in links
  else:
    assert '![' not in text and 'docs/data.md' in text
  assert given['long_description'] == names['for_package_index'](README.read_text(), names['URL'])


# --- links


def anchors(path):
  """The fragments that headings of a page answer to, as code hosts make them."""
  heads = re.findall(r'(?m)^#+ (.+)$', BLOCK.sub('', path.read_text()))
  return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


@pages
def test_links_lead_somewhere(page):
  dead = []
  for _, target in LINK.findall(prose(page)):
    if target.startswith(('http:', 'https:')):
      continue
    name, _, anchor = target.partition('#')
    path = (page.parent / name).resolve() if name else page
    if not path.exists() or (anchor and anchor not in anchors(path)):
      dead.append(target)
  assert not dead


def test_every_picture_is_shown_and_can_be_read():
  shown = {
    (page.parent / target).resolve()
    for page in PAGES
    for picture, target in LINK.findall(page.read_text())
    if picture
  }
  assert shown == set((ROOT / 'docs' / 'images').iterdir())
  for path in shown:
    with Image.open(path) as image:
      image.load()
      assert len(image.convert('RGB').getcolors(2**24)) > 1, path


# --- commands


class Parsed(BaseException):
  """A verb understood its command line; no verb catches this."""


def read(name, *overrides):
  """A config as `bigjax train` reads it."""
  config, _, _ = train.parse(['--config', name, *overrides])
  return configs.flatten(config)


def of_config(words):
  """Those words of a command line that choose a config or change it."""
  after = {i + 1 for i, word in enumerate(words) if word == '--config'}
  return [word for i, word in enumerate(words) if word.startswith('--config') or i in after]


def flags_of(main, capsys):
  """The flags that a verb's help names."""
  main(['--help'])
  return set(re.findall(r'--\w+', capsys.readouterr().out))


def lines(page):
  """The command lines of a page: those of its blocks without a language, and those in its text."""
  blocks = [body for kind, body in BLOCK.findall(page.read_text()) if not kind]
  given = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  given += code(page)
  split = re.compile(r' && | \| | > ').split
  return [part.strip() for line in given for part in split(line.partition('  #')[0])]


def commands(page):
  """The whole commands of a page: no verb's name alone in prose, no placeholder."""
  found = [
    line for line in lines(page) if re.match(rf'bigjax ({"|".join(__main__.VERBS)})\b', line)
  ]
  return [line for line in found if not re.search(r'\.\.\.|\bNAME\b', line)]


@pages
def test_commands_are_understood(page, tmp_path, monkeypatch, capsys):
  """To the end of parsing: verbs, flags and choices, configs and variants, keys and values."""
  parse_args = argparse.ArgumentParser.parse_args

  def parsed(*args, **kwargs):
    parse_args(*args, **kwargs)
    raise Parsed

  monkeypatch.chdir(tmp_path)
  for name in ('my.py', 'path/to/my.py'):  # a reader's own
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_text(OWN_CONFIG)
  for command in commands(page):
    verb, *words = shlex.split(command)[1:]
    main = importlib.import_module(f'bigjax.{verb}').main
    if verb in ('train', 'plan', 'doctor'):
      flags = {word.partition('=')[0] for word in words if re.match(r'--(?!config|help)', word)}
      assert not flags - flags_of(main, capsys), command
      train.parse(of_config(words))
    elif words:  # else the name of a verb
      with monkeypatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, 'parse_args', parsed)
        main(words)


def test_commands_are_looked_for():
  found = {named(page): len(commands(page)) for page in PAGES}
  assert found['README.md'] >= 12 and found['docs/pods.md'] >= 5 and found['docs/networks.md'] >= 6


@pages
def test_what_is_installed_and_run_exists(page, metadata):
  given, _ = metadata
  text = page.read_text()
  for extras in re.findall(r"(?:'\.|bigjax)\[([\w,]+)\]", text):
    assert set(extras.split(',')) <= set(given['extras_require']), extras
  for script in re.findall(r'python3? ([\w/]+\.py)', text):
    assert (ROOT / script).is_file(), script


# --- names


@pages
def test_paths_exist(page):
  """Of files and folders of the project, patterns too; NAME is the reader's to choose."""
  missing = []
  for piece in code(page):
    for path in re.findall(
      r'^(?:bigjax|tests|configs|docs|launch|benchmarks|\.ci)/[\w./*-]*', piece
    ):
      if 'NAME' not in path and not list(ROOT.glob(path.rstrip('/.'))):
        missing.append(path)
  assert not missing


@pytest.fixture(scope='module')
def keys():
  """'group.key' of all built-in configs, those too that only some values bring with them."""
  return {key for name in configs.builtin() for key in family_configs.keys(read(name))}


PRESENT = [page for page in PAGES if page.name != 'CHANGELOG.md']  # which speaks of old keys


@pytest.mark.parametrize('page', PRESENT, ids=named)
def test_configs_and_keys_exist(page, keys):
  """`NAME:variant` of the built-in configs, and `group.key`, with or without a value."""
  groups = {key.partition('.')[0] for key in keys if '.' in key}
  for piece in code(page):
    name, _, variant = piece.partition(':')
    if name in configs.builtin() and re.fullmatch(r'[a-z0-9_,]+', variant):
      read(piece)
    key = re.match(r'(?:--config\.)?([a-z]+\.\w+)(?:=|$)', piece)
    if key and key[1].partition('.')[0] in groups and not piece.endswith(FILES):
      assert key[1] in keys, piece


def test_the_configs_that_the_readme_names_are_there():
  """Some, by kind of data; `bigjax train --help` names all, from the files that there are."""
  (sentence,) = re.findall(r'Built-in configs: (.*?);', README.read_text(), re.S)
  found = CODE.findall(sentence)
  for name in found:
    read(name)
  ends = dict(re.findall(r'`(\w+)` to\s+`(\w+)`', sentence))
  assert ends == {'imagenet64': 'imagenet512', 'imagenet128_deep': 'imagenet512_deep'}
  assert len(found) > 5 and 'digits' in found


# --- snippets and sentences


def test_snippets_compile():
  snippets = [(page, body) for page in PAGES
              for kind, body in BLOCK.findall(page.read_text()) if kind == 'python']  # fmt: skip
  assert {README, ROOT / 'docs' / 'sampling.md'} <= {page for page, _ in snippets}
  for page, body in snippets:
    assert ast.parse(body, named(page)).body, body


@pytest.mark.parametrize('page', [README, ROOT / 'docs' / 'sampling.md'], ids=named)
def test_the_first_snippet_runs(page, workdir, tmp_path, monkeypatch):
  """On the tiny run, whose images are of the same shape."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'digits').symlink_to(workdir)
  snippet = next(body for kind, body in BLOCK.findall(page.read_text()) if kind == 'python')
  names = {}
  exec(compile(snippet, named(page), 'exec'), names)
  shape = ', '.join(map(str, names['images'].shape))
  assert f'# {names["images"].dtype} [{shape}]' in snippet
  with Image.open(tmp_path / 'three.png') as image:
    assert image.size == names['images'].shape[1:3]


def said():
  """All texts in the code; what is put into them stands as a NUL."""
  for path in (ROOT / 'bigjax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        yield ''.join(p.value if isinstance(p, ast.Constant) else '\0' for p in node.values)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_quoted_sentences_are_those_of_the_code():
  """`...` stands for what is put in, of which there may be several in a row."""
  rows = re.findall(r'(?m)^\| `(.+?)` \|', (ROOT / 'docs' / 'troubleshooting.md').read_text())
  assert len(rows) > 40
  texts = list(said())
  unsaid = []
  for row in rows:
    parts = [re.escape(part) for part in re.split(r'\.\.\.', row.strip())]
    pattern = re.compile(r'.*\0.*'.join(parts), re.S)
    if not any(pattern.search(text) for text in texts):
      unsaid.append(row)
  assert not unsaid


# --- about the project


def test_the_citation_is_of_this_version(metadata):
  yaml = pytest.importorskip('yaml')
  cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert cited['cff-version'] == '1.2.0' and cited['type'] == 'software' and cited['message']
  assert cited['version'] == package.__version__ == metadata[0]['version']
  assert cited['license'] == metadata[0]['license_expression']
  assert cited['authors'] == [{'name': 'The bigjax developers'}]
  (paper,) = cited['references']
  assert paper['authors'][0]['family-names'] == 'Brock' and paper['year'] == 2019


def test_the_changelog_begins_with_what_is_to_come():
  heads = re.findall(r'(?m)^## (.+)$', (ROOT / 'CHANGELOG.md').read_text())
  assert heads[0] == 'Unreleased' and heads[1].startswith(package.__version__)
