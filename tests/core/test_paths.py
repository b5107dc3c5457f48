"""Paths as people give them: homes that no shell put in, endings that say what is written."""

import pathlib

import pytest

from bigjax import doctor, evaluate, plan, sample
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, files, paths


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  return str(tmp_path)


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('~', '{home}'),
    ('~/x', '{home}/x'),
    ('folder:~/x y', 'folder:{home}/x y'),
    ('a~/x', 'a~/x'),
    ('~nobody-of-that-name/x', '~nobody-of-that-name/x'),
    ('/a/~/b', '/a/~/b'),
    ('folder:/a:b', 'folder:/a:b'),
    ('digits', 'digits'),
    ('', ''),
  ],
)
def test_a_home_that_no_shell_put_in(home, given, expected):
  assert paths.expanded(given) == expected.format(home=home)


def test_every_option_and_every_path_of_a_config_knows_home(home):
  (pathlib.Path(home) / 'c.py').write_text(
    "def get_config():\n  return {'algorithm': 'biggan', 'data': {'source': 'folder:~/photos'}}\n"
  )
  words = ['--config=~/c.py', '--workdir', '~/run', '--sheet=~/s.png']
  words += [f'--config.{key}=~/x' for key in ('data.data_dir', 'init_from', 'scores.weights')]
  config, _, given = configs.parse('doctor', words, doctor.OPTIONS, doctor.SWITCHES)
  values = core_config.flatten(config)
  found = [given['workdir'], given['sheet'], values['data.data_dir'], values['init_from']]
  assert found == [f'{home}/run', f'{home}/s.png', f'{home}/x', f'{home}/x']
  assert values['scores.weights'] == f'{home}/x'
  assert values['data.source'] == f'folder:{home}/photos'
  args = evaluate.arguments().parse_args(
    ['--images=~/a', '--reference=folder:~/b', '--out', '~/c', '--weights=~/d', '--data_dir=~/e']
  )
  found = [args.images, args.reference, args.out, args.weights, args.data_dir]
  assert not [word for word in found if '~' in word]


@pytest.mark.parametrize('name', ['x.jpg', 'x.bmp', 'x.html', 'x.npy', 'a b/x.Tiff', "it's\n.txt"])
def test_an_unknown_ending_is_refused_before_anything_is_made(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  refused = [
    (sample.main, ['--params', 'none.npz', '--out', name], ', or a folder'),
    (evaluate.main, ['--images', 'none', '--out', name], 'a folder'),
    (plan.main, ['--topology', 'v3-8', '--png', name], '.png or .pdf or .svg'),
  ]
  if not name.endswith('.jpg'):
    refused.append((doctor.main, ['--sheet', name], '.png or .jpg'))
  for main, words, expected in refused:
    with pytest.raises(errors.UserError) as error:
      main(words)
    assert f'={name}: give' in str(error.value) and expected in str(error.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('x.png', '.png'),
    ('a/x.PNG', '.png'),
    ('two\nlines.NpZ', '.npz'),
    ('folder', ''),
    ('folder.d/', ''),
    ('truncation-0.5', ''),
    ('a.b/c', ''),
    ('there.is', ''),
  ],
)
def test_endings(tmp_path, monkeypatch, name, expected):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'there.is').mkdir()
  assert files.ending('--out', name, ('.png', '.npz'), folder=True) == expected
