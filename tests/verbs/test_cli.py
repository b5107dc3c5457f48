"""`bigjax VERB ...`: help, dry run, and one clear sentence for each mistake."""

import os
import subprocess
import sys

import pytest

from bigjax import __main__, train
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import trees
from bigjax.training import program

from counts import num_params

TRAIN = ('train', '--config=digits:tiny')


def refused(answer, words):
  """Check the answer to a mistake: a status, nothing on stdout, one sentence on stderr."""
  status, out, err = answer
  assert status == 2 and out == ''
  assert err.startswith('bigjax: ') and err.endswith('\n') and err.count('\n') == 1, err
  assert 'Traceback' not in err
  assert all(word in err for word in words), err


def test_help_lists_the_verbs_and_imports_nothing_heavy():
  code = (
    'import sys; from bigjax.__main__ import main\n'
    "assert main(['--help']) == 0\n"
    "heavy = {'jax', 'numpy', 'tensorflow', 'absl', 'orbax'} & set(sys.modules)\n"
    'assert not heavy, heavy'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  lines = [line.split() for line in done.stdout.splitlines()]
  for verb in ('train', 'plan', 'sample', 'export'):
    assert [line for line in lines if line[:1] == [verb] and len(line) > 3], done.stdout


@pytest.mark.parametrize('argv', [(), ('-h',), ('help',)])
def test_help_has_many_names(bigjax, argv):
  status, out, err = bigjax(*argv)
  assert status == 0 and err == '' and out == __main__.usage() + '\n'


@pytest.mark.parametrize('verb', list(__main__.VERBS))
def test_every_verb_has_help(bigjax, capsys, verb):
  try:
    status, out, _ = bigjax(verb, '--help')
  except SystemExit as exit:  # argparse's way
    status, out = exit.code, capsys.readouterr().out
  assert status == 0
  assert out.startswith(f'usage: bigjax {verb}') and '--' in out.partition('\n')[2]


def test_train_help_lists_the_configs(bigjax):
  out = bigjax('train', '--help')[1]
  assert all(name in out for name in core_config.builtin())


def test_version(bigjax):
  assert bigjax('--version') == (0, '0.1.0\n', '')


def test_status_reaches_the_shell(tmp_path):
  argv = [sys.executable, '-m', 'bigjax', 'trian']
  done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
  refused((done.returncode, done.stdout, done.stderr), ['trian', 'did you mean train?'])


def test_a_reader_that_has_enough_is_no_defect(tmp_path):
  argv = [sys.executable, '-m', 'bigjax', '--help']
  read, write = os.pipe()
  os.close(read)  # as `head` does
  done = subprocess.run(argv, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True)
  os.close(write)
  assert (done.returncode, done.stderr) == (141, '')


def test_interruption_is_not_a_traceback(bigjax, monkeypatch):
  def interrupted(argv):
    raise KeyboardInterrupt

  monkeypatch.setattr(train, 'main', interrupted)
  status, _, err = bigjax(*TRAIN)
  assert status == 130 and err == '\nbigjax: interrupted.\n'


# --- flags


def test_overrides_reach_the_config():
  """Also in a program of its own: unless told, ml_collections takes them from sys.argv."""
  config, workdir, given = train.parse(
    ['--config', 'digits:tiny', '--config.run.steps=7', '--config.optim.gen_lr=1e-3', '--dry_run']
  )
  assert config.run.steps == 7 and config.optim.gen_lr == 1e-3 and config.model.ch == 8
  assert given['dry_run'] is True and workdir == 'runs/digits-tiny'


@pytest.mark.parametrize(
  ('argv', 'workdir'),
  [([], 'runs/digits'), (['--workdir=x/y'], 'x/y'), (['--config=digits', '--workdir', 'z'], 'z')],
)
def test_workdir_is_named_after_the_config(argv, workdir):
  config, found, given = train.parse(argv)
  assert found == workdir and not given['dry_run']
  assert configs.config_hash(config) == configs.config_hash(configs.read('digits'))


def test_dry_run_shows_everything_and_does_nothing(bigjax, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  changes = '--config.run.steps=12', '--config.model.gen_attention=(8,)'  # which has a scalar
  status, out, _ = bigjax(*TRAIN, '--dry_run', *changes)
  assert status == 0
  config = configs.read('digits:tiny')
  config.run.steps, config.model.gen_attention = 12, (8,)
  assert configs.overview(config) in out and '* config.run.steps = 12 ' in out
  assert out.index('config.seed') < out.index('config.run.steps') < out.index('config.watch.most')
  assert 'data: 1,' in out and 'training images, 10 classes' in out
  players = program.make_program(config).shapes()['players']
  assert set(players) == {'gen', 'disc'}
  for name, player in players.items():
    table = out.split(f'player {name}\n')[1].split('\nplayer')[0]
    assert f'Total: {num_params(player["params"]):,} -- ' in table
    assert all(path in table for path in trees.flat(player['params']))
  assert out.endswith('\n12 steps in 1 stage:\n  from step 0: 16 px, 2 x 16 images each\n')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'word',
  [
    'run.best=fid', 'watch.policy=panic', 'watch.patch=optim.zzz=1', 'init_from=nowhere',
    'run.microbatches=3', 'eval.name=pixel', 'eval.published=nobody', 'scores.every=1',
    'optim.batch_size=17', 'model.latent=flat',
  ],
)  # fmt: skip
def test_a_dry_run_refuses_what_a_start_does(bigjax, tmp_path, monkeypatch, word):
  """In the same words, with and without the data, and writes nothing."""
  monkeypatch.chdir(tmp_path)
  words = [*TRAIN, '--config.eval.name=none', '--config.run.best=', f'--config.{word}']
  start = bigjax(*words)
  key, _, value = word.partition('=')
  assert start[0] == 2 and (key in start[2] or repr(value) in start[2] or f' {value} ' in start[2])
  assert bigjax(*words, '--dry_run')[::2] == start[::2]
  assert bigjax(*words, '--dry_run', '--config.data.source=folder:nowhere')[::2] == start[::2]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('word', ['data.source=digit', 'data.num_classes=9'])
def test_data_that_does_not_fit_is_not_absent(bigjax, tmp_path, monkeypatch, word):
  monkeypatch.chdir(tmp_path)
  status, _, err = bigjax(*TRAIN, '--dry_run', f'--config.{word}')
  assert status == 2 and f'{word.partition("=")[0]} is ' in err


def test_a_dry_run_refuses_the_workdir_of_another_run(bigjax, workdir):
  words = [*TRAIN, '--dry_run', f'--workdir={workdir}']
  assert 'holds a run of another config (optim.d_steps' in bigjax(*words)[2]
  assert bigjax(*words, '--config.optim.d_steps=1')[0] == 0
  assert bigjax(*words, '--change')[0] == 0


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['--config=folder', '--config.data.source=folder:nowhere'], 'assumes 10 classes'),
    (['--config=digits:tiny', '--config.data.source=folder:nowhere'], 'there is no folder'),
  ],
)
def test_dry_run_goes_on_without_data(bigjax, tmp_path, monkeypatch, words, said):
  """doctor is what fails."""
  monkeypatch.chdir(tmp_path)
  status, out, err = bigjax('train', *words, '--dry_run')
  assert status == 0 and err == ''
  (line,) = (line for line in out.splitlines() if line.startswith('data: '))
  assert line.startswith('data: absent: ') and said in line
  assert 'config.optim.gen_lr' in out and out.count('Total: ') == 2
  assert ' steps in 1 stage:\n' in out
  assert bigjax('doctor', *words)[0] == 1


# --- mistakes


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['trian'], ["no verb 'trian'", 'did you mean train?', 'train, plan, evaluate, sample']),
    (['frobnicate'], ["no verb 'frobnicate'", 'train, plan, evaluate, sample']),
    (['--frobnicate'], ['--frobnicate', 'train, plan, evaluate, sample']),
    (['train', '--config=digit'], ["no config 'digit'", 'did you mean digits?']),
    (['train', '--config=nowhere.py'], ["no file 'nowhere.py'"]),
    (['train', '--config'], ['--config', 'digits']),
    (['train', '--config=digits:tinny'], ['digits:tinny', 'known: tiny']),
    ([*TRAIN, '--config.optim.gen_rl=1'], ['optim.gen_rl', 'did you mean optim.gen_lr?']),
    ([*TRAIN, '--config.optm.gen_lr=1'], ['optm.gen_lr', 'did you mean optim.gen_lr?']),
    ([*TRAIN, '--config.zzz=1'], ['zzz is not a known key;', '--dry_run']),
    ([*TRAIN, '--config.run.steps=many'], ['--config.run.steps=many', 'a whole number, such as 4']),
    ([*TRAIN, '--config.run.steps=1.5'], ['--config.run.steps=1.5', 'a whole number, such as 4']),
    (
      [*TRAIN, '--config.optim.gen_lr=fast'],
      ['--config.optim.gen_lr=fast', str(configs.read('digits').optim.gen_lr)],
    ),
    (
      [*TRAIN, '--config.optim.gen_lr', 'fast'],
      ['--config.optim.gen_lr', str(configs.read('digits').optim.gen_lr)],
    ),
    ([*TRAIN, '--wrokdir=x'], ['wrokdir', 'workdir']),
    ([*TRAIN, '--steps=3'], ['steps', '--help']),
    ([*TRAIN, 'stray'], ["'stray' is not an option"]),
    ([*TRAIN, '--config.optim.batch_size=12'], ['12 examples', '8 devices', 'multiple of 8']),
    ([*TRAIN, '--config.model.z_dim=13'], ['model.z_dim is 13', '3 equal chunks', 'multiple of 3']),
    ([*TRAIN, '--config.data.resolution=17'], ['data.resolution is 17', '16, 32']),
    ([*TRAIN, '--config.data.source=/photos'], ["'/photos'", 'did you mean folder:/photos?']),
    ([*TRAIN, '--config.data.source=tests'], ['expected one of', 'digits, folder']),
    ([*TRAIN, '--config.data.source='], ["data.source is ''", 'digits, folder']),
    ([*TRAIN, '--config.data.source=digit'], ["'digit'", 'did you mean digits?']),
    ([*TRAIN, '--config.data.num_classes=7'], ['data.num_classes is 7', '10 classes']),
    ([*TRAIN, '--config.eval.name=pixel'], ["'pixel'", 'did you mean pixels?']),
    ([*TRAIN, '--config.algorithm=bigan'], ["'bigan'", 'did you mean biggan?']),
    ([*TRAIN, '--config.optim.name=adm'], ["optim.name is 'adm'"]),
    ([*TRAIN, '--config.model.dtype=float23'], ["'float23'", 'did you mean float32?']),
    ([*TRAIN, '--config.run.best=fid'], ["run.best is 'fid'", 'agreement', 'coverage']),
  ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_workdir(
  bigjax, tmp_path, monkeypatch, argv, words
):
  monkeypatch.chdir(tmp_path)
  refused(bigjax(*argv), words)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', ['file', 'file/run'])
def test_an_unwritable_workdir(bigjax, tmp_path, path):
  """Below a regular file, where not even root can write."""
  (tmp_path / 'file').write_text('mine')
  refused(bigjax(*TRAIN, f'--workdir={tmp_path / path}'), [path, 'cannot be written', '--workdir'])
  assert (tmp_path / 'file').read_text() == 'mine'


def test_a_workdir_of_another_config(bigjax, workdir):
  before = (workdir / 'config.json').read_text()
  answer = bigjax(*TRAIN, '--config.model.ch=4', '--config.run.steps=99', f'--workdir={workdir}')
  refused(answer, [str(workdir), 'another config', 'model.ch: 8 -> 4', 'optim.d_steps: 1 -> 2'])
  assert 'run.steps' not in answer[2] and 'gen_lr' not in answer[2]
  assert (workdir / 'config.json').read_text() == before
