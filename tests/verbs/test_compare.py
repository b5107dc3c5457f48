"""`bigjax compare`: groups over seeds, differing keys as columns, scores with their spread."""

import csv
import json
import statistics

import pytest
from PIL import Image

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.training.records import comparison, session

pytest_plugins = ['tiny_run']


def make(folder, seed=0, curve=((100, 0.2), (200, 0.6)), ends=True, more=(), **changes):
  """A workdir as a run leaves it, without a training: coverage and std_ratio over steps."""
  folder.mkdir()
  config = core_config.flatten(configs.read('digits')) | changes | {'seed': seed}
  write = lambda name, value: (folder / name).write_text(json.dumps(value))
  write('config.json', config | {'run.steps': 200})
  entry = {'from_step': 0, 'seed': seed, 'patch': {}, 'position': 0, 'reason': 'start'}
  write('history.json', [entry, *more])
  rows = [{'step': step, 'd_loss': 1.0} for step in range(25, curve[-1][0] + 1, 25)]
  rows += [{'step': step, 'coverage': value, 'std_ratio': 1 + 0.1 / step} for step, value in curve]
  rows.sort(key=lambda row: row['step'])
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  parts = {**dict.fromkeys(session.PARTS, 0.0), 'steps': 90.0, 'lost': 10.0}
  write('clock.json', {'sessions': 2, 'seconds': 100.0, 'marks': {'200': parts}})
  if ends:
    last = {'coverage': curve[-1][1], 'std_ratio': 1.0}
    real = {'coverage': 0.99, 'std_ratio': 1.0}
    write('summary.json', {**last, 'real': real, 'step': 200, 'seconds': 100.0, 'clock': parts})
  return str(folder)


@pytest.fixture
def runs(tmp_path):
  """Two seeds at one rate, and one of another that is still going."""
  return [
    make(tmp_path / 'a', 0),
    make(tmp_path / 'b', 3, [(100, 0.9), (200, 0.8)], **{'run.log_every': 7}),
    make(tmp_path / 'c', 0, [(100, 0.4)], ends=False, **{'optim.gen_lr': 0.001}),
  ]


def test_a_line_per_group_with_its_seeds_and_what_differs(bigjax, runs):
  status, out, err = bigjax('compare', *runs, '--scores=coverage,std_ratio')
  assert status == 0 and err == ''
  cells = [line.split() for line in out.splitlines()]
  rates = configs.read('digits').optim.gen_lr
  heads = ['optim.gen_lr', 'seeds', 'step', 'images', 'time', 'unfinished']
  first = ['1', str(rates), '0,3', '200', '-', '1m40s']
  assert cells[:3] == [heads, first, ['2', '0.001', '0', '100', '-', '1m40s', '1']]
  final, best = statistics.stdev([0.6, 0.8]), statistics.stdev([0.6, 0.9])
  assert ['1', '0.7', '+-', f'{final:.2g}', '1', '+-', '0'] in cells
  assert ['1', '0.75', '+-', f'{best:.2g}', '1', '+-', '0'] in cells
  assert cells.count(['2', '0.4', '1.001']) == 2 and ['real', '0.99', '1'] in cells


def test_files_hold_every_run(bigjax, runs, tmp_path):
  status, _, err = bigjax(
    'compare', *runs, f'--json={tmp_path}/x.json', f'--csv={tmp_path}/x.csv', '--scores=coverage'
  )
  assert status == 0 and err == ''
  found = json.loads((tmp_path / 'x.json').read_text())
  assert found['differing'] == ['optim.gen_lr'] and found['scores'] == ['coverage']
  first, second = found['groups']
  assert first['scores']['coverage']['best'] == {
    'mean': pytest.approx(0.75), 'std': pytest.approx(statistics.stdev([0.6, 0.9])), 'num': 2,
  }  # fmt: skip
  assert first['runs'][1]['scores']['coverage'] == {
    'final': 0.8, 'final_step': 200, 'best': 0.9, 'best_step': 100,
  }  # fmt: skip
  assert first['runs'][0]['clock']['lost'] == 10.0
  assert second['config'] == {'optim.gen_lr': 0.001}
  assert second['scores']['coverage']['final']['std'] is None
  with open(tmp_path / 'x.csv', encoding='utf-8') as file:
    lines = list(csv.DictReader(file))
  assert [(line['workdir'], line['group'], line['coverage_final']) for line in lines] == [
    (runs[0], '1', '0.6'), (runs[1], '1', '0.8'), (runs[2], '2', '0.4'),
  ]  # fmt: skip


def test_curves_are_means_within_their_spread(bigjax, runs, tmp_path, monkeypatch):
  drawn, save = [], comparison.plotting.save
  monkeypatch.setattr(
    comparison.plotting, 'save', lambda *args: drawn.append(args[0]) or save(*args)
  )
  assert bigjax('compare', *runs, f'--out={tmp_path}/x.png', '--scores=coverage')[0] == 0
  with Image.open(tmp_path / 'x.png') as picture:
    assert picture.width > 900
  axis = drawn[0].axes[0]
  first, second = (
    line for line in axis.get_lines() if len(line.get_xdata()) and line.get_label()[0] != '_'
  )
  assert first.get_xydata().tolist() == [[100, pytest.approx(0.55)], [200, pytest.approx(0.7)]]
  assert second.get_xydata().tolist() == [[100, 0.4]]
  band = axis.collections[0].get_paths()[0].vertices
  assert {(100, 0.2), (100, 0.9), (200, 0.6), (200, 0.8)} <= {tuple(v) for v in band.tolist()}
  words = [text.get_text() for text in drawn[0].legends[0].get_texts()]
  rate = configs.read('digits').optim.gen_lr
  assert words == [f'1: optim.gen_lr={rate} (2 runs)', '2: optim.gen_lr=0.001 (1 run)']


def test_a_run_whose_scores_are_not_finite_is_compared(bigjax, tmp_path):
  """As one that diverged: its group has no spread, and JSON no NaN."""
  nan, inf = float('nan'), float('inf')
  paths = [
    make(tmp_path / 'a', 0), make(tmp_path / 'b', 1, [(100, 0.3), (200, nan)]),
    make(tmp_path / 'c', 0, [(100, 0.3), (200, inf)], **{'optim.gen_lr': 0.1}),
  ]  # fmt: skip
  status, out, err = bigjax(
    'compare', *paths, '--scores=coverage', f'--json={tmp_path}/x.json', f'--out={tmp_path}/x.png'
  )
  assert status == 0 and err == ''
  cells = [line.split() for line in out.splitlines()]
  assert ['1', 'nan', '+-', 'nan'] in cells and ['2', 'inf'] in cells
  best = statistics.stdev([0.6, 0.3])
  assert ['1', '0.45', '+-', f'{best:.2g}'] in cells
  refuse = lambda name: pytest.fail(f'{name} is no JSON')
  found = json.loads((tmp_path / 'x.json').read_text(), parse_constant=refuse)
  assert found['groups'][0]['scores']['coverage']['final'] == {'mean': None, 'std': None, 'num': 2}
  assert found['groups'][1]['runs'][0]['scores']['coverage']['final'] is None


def test_a_run_is_one_however_often_it_is_given(bigjax, runs, tmp_path, monkeypatch):
  """`runs/* runs/a/`: else it would have no spread with itself."""
  monkeypatch.chdir(tmp_path)
  out = bigjax('compare', 'c', *runs, 'a/', f'{tmp_path}/../{tmp_path.name}/b')[1]
  assert [line.split()[2] for line in out.splitlines()[1:3]] == ['0', '0,3']


def test_a_change_within_a_run_counts_and_a_version_before_does_not(tmp_path):
  change = {'from_step': 100, 'seed': 0, 'patch': {'optim.gen_lr': 0.01}, 'position': 1,
            'reason': 'asked for'}  # fmt: skip
  paths = [make(tmp_path / 'a'), make(tmp_path / 'b', 1), make(tmp_path / 'c', 2, more=[change])]
  older = json.loads((tmp_path / 'b' / 'config.json').read_text())
  del older['data.frames'], older['run.writers']  # keys that came later, at their default
  (tmp_path / 'b' / 'config.json').write_text(json.dumps(older))
  groups = comparison.grouped(map(comparison.read, paths))
  assert [[run.seed for run in group] for group in groups] == [[0, 1], [2]]
  assert comparison.differing(groups) == ['optim.gen_lr']


def test_many_keys_have_a_table_of_their_own(bigjax, tmp_path):
  """Those that only one family has are told by its name."""
  other = core_config.flatten(configs.read('sngan:digits'))
  paths = [make(tmp_path / 'a'), make(tmp_path / 'b', **other)]
  (tmp_path / 'b' / 'config.json').write_text(json.dumps(other))
  groups = comparison.grouped(map(comparison.read, paths))
  keys = comparison.differing(groups)
  ours = core_config.flatten(configs.read('digits'))
  assert len(keys) > comparison.BESIDE and set(keys) <= ours.keys() & other.keys()
  assert ours.keys() ^ other.keys()
  out = bigjax('compare', *paths)[1]
  lines = [line.split() for line in out.splitlines()]
  assert ['optim.gen_lr', str(ours['optim.gen_lr']), str(other['optim.gen_lr'])] in lines


@pytest.mark.parametrize(
  ('name', 'best'),
  [
    ('fid50k_train_inception', 1.5), ('fd_test_classifier', 1.5), ('is50k_train_inception', 9.0),
    ('agreement_rare', 9.0), ('worst_class', 9.0), ('std_ratio', 1.5), ('psnr', 9.0),
  ],
)  # fmt: skip
def test_the_best_is_what_is_better(name, best):
  curve = [(1, 9.0), (2, 1.5), (3, float('nan')), (4, 3.0)]
  found = comparison.figures(curve, name)
  assert (found.final, found.final_step, found.best) == (3.0, 4, best)


def test_what_is_no_run_gets_a_sentence(bigjax, runs, tmp_path):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'config.json').write_text('{"model": 1}')
  status, out, err = bigjax('compare', *runs, str(tmp_path / 'photos'), str(tmp_path / 'other'))
  assert status == 0 and 'coverage' in out
  assert err.splitlines()[0].startswith('left out: ') and 'has no config.json' in err
  assert len(err.splitlines()) == 2
  (tmp_path / 'c' / 'metrics.jsonl').write_text('{"d_loss": 1}\n')
  (tmp_path / 'b' / 'metrics.jsonl').write_text('{"step": 1, "coverage": [2]}\n')
  for words, sentence in (
    ([str(tmp_path / 'photos')], 'is no workdir of a run'),
    ([runs[0], 'absent'], "there is no folder 'absent'"),
    ([runs[2]], 'is damaged, or of another version'),
    ([runs[1]], 'is damaged, or of another version'),
    ([runs[0], '--scores=coverge'], 'did you mean coverage?'),
  ):
    status, _, err = bigjax('compare', *words)
    assert status == 2 and sentence in err and len(err.splitlines()) == 1, err


def test_a_real_run_is_read(bigjax, workdir):
  """The tiny run of other tests: its images and clock are there."""
  run = comparison.read(str(workdir))
  assert run.step == run.last == 4 and run.images == 4 * 16
  assert run.seconds > 0 and run.scores.keys() == run.real.keys()
  assert bigjax('compare', str(workdir))[0] == 0
