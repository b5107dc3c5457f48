"""Papers on the digits: which systems there are, that all cost the same, and what rows become."""

import json
import math

import jax
import numpy as np
import pytest

from bigjax import algorithms
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import errors, files, trees
from bigjax.preflight import step_cost

import papers
import papers_report
import papers_scores

BUDGETS = (1, 4)


@pytest.fixture(scope='module')
def systems():
  return papers.systems()


@pytest.fixture(scope='module')
def unit():
  """The FLOPs of BigGAN's run, from one traced step and the config's number of them."""
  config = configs.read('digits')
  return config.run.steps * step_cost.model_flops(config, without=())


def row(**values):
  scores = dict.fromkeys(papers_scores.FIGURES, 0.5)
  known = {'paper': 'biggan', 'config_hash': 'h', 'seed': 0, 'budget': 1, 'steps': 700}
  return known | {'protocol': papers.PROTOCOL, 'conditional': True, **scores} | values


def test_biggan_comes_first_by_its_digits(systems):
  assert (systems[0].paper, systems[0].given) == ('biggan', 'digits')
  assert len({of.paper for of in systems}) == len(systems)


def test_every_config_on_the_digits_has_a_paper_with_a_system(systems):
  """By another way than the benchmark's: what is left out has its paper in the table."""
  papers_of = {of.paper for of in systems}
  for name in core_config.builtin():
    config = configs.read(name)
    if config.data.source == 'digits':
      assert papers.paper_of(name, config) in papers_of


@pytest.mark.slow  # a minute, and more with every system
def test_every_system_costs_what_biggan_does(systems, unit):
  for of in systems:
    for times in BUDGETS:
      steps = of.steps(times * unit)
      cost = sum(of.cost(step) for step in range(steps))
      assert abs(cost / (times * unit) - 1) < 0.1, (of.given, times, steps)


def test_biggan_has_its_own_number_of_steps(systems, unit):
  biggan = systems[0]
  assert papers.yardstick() == unit
  assert [biggan.steps(times * unit) for times in (0, *BUDGETS)] == [1, 700, 2800]


def test_cost_counts_penalties():
  """4 beta (W W^T W - W diag n): a Gram matrix on the small side, and its product with W."""
  config = configs.read('digits')
  algorithm = algorithms.family(config.algorithm).make(config)
  state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
  want = 0
  for path, leaf in trees.flat(state['players']['gen']['params']).items():
    if leaf.ndim >= 2 and path != 'shared/embedding':
      rows, columns = math.prod(leaf.shape[:-1]), leaf.shape[-1]
      want += 4 * rows * columns * min(rows, columns)
  assert step_cost.run_flops(config)(0) - step_cost.model_flops(config) == want


@pytest.mark.parametrize('patch', [{'optim.d_steps': 1}, {'optim.batch_size': 16, 'model.ch': 8}])
def test_other_configs_get_other_steps(patch, unit):
  config = core_config.changed(configs.read('digits'), patch)
  other = papers.System('other', 'other', config, step_cost.run_flops(config))
  steps = other.steps(unit)
  assert steps > 800
  assert abs(steps * step_cost.model_flops(config, without=()) / unit - 1) < 0.01


def test_steps_are_the_nearest_where_costs_change():
  costs = [1, 1, 10, 1, 1, 10, 1, 1, 10]
  lazy = papers.System('', '', None, costs.__getitem__)
  nearest = lambda flops: min(range(1, 9), key=lambda n: abs(sum(costs[:n]) - flops))
  for flops in range(1, 27):
    assert abs(sum(costs[: lazy.steps(flops)]) - flops) == abs(sum(costs[: nearest(flops)]) - flops)
  assert lazy.steps(0) == 1


def test_one_config_per_paper():
  offers = [
    ('ada', 'ada:digits', 'ada'),
    ('cifar10', 'cifar10:digits', 'biggan'),
    ('digits', 'digits', 'biggan'),
    ('a_recipe', 'a_recipe:digits', 'wgan_gp'),
    ('wgan_gp', 'wgan_gp:digits', 'wgan_gp'),
  ]
  want = {'biggan': 'digits', 'ada': 'ada:digits', 'wgan_gp': 'wgan_gp:digits'}
  assert list(papers.chosen(offers).items()) == list(want.items())


def test_a_new_config_file_is_a_system(tmp_path, monkeypatch, systems):
  """A file with a variant of its own, as a stranger adds it; nothing else is touched."""
  text = (
    'from bigjax.configs import digits\n'
    "PAPER = 'another'\n"
    "def get_config(variant=''):\n"
    "  if variant not in ('', 'digits'):\n"
    "    raise ValueError(f'unknown variant {variant!r}; known: digits')\n"
    '  config = digits.get_config()\n'
    "  if not variant: config.data.source = 'synthetic'\n"
    '  config.optim.d_steps = 1\n'
    '  return config\n'
  )
  (tmp_path / 'newcomer.py').write_text(text)
  import bigjax.configs

  known = core_config.builtin()
  monkeypatch.setattr(bigjax.configs, '__path__', [*bigjax.configs.__path__, str(tmp_path)])
  monkeypatch.setattr(
    core_config, 'builtin', lambda: known | {'newcomer': str(tmp_path / 'newcomer.py')}
  )
  found = papers.systems()
  assert [of.paper for of in found if of.paper == 'another'] == ['another']
  assert next(of for of in found if of.paper == 'another').given == 'newcomer:digits'
  assert len(found) == len(systems) + 1


def test_a_config_that_breaks_is_not_taken_for_one_without_digits(monkeypatch):
  def read(given):
    raise ValueError('optim.lr is below 0' if ':' in given else 'no data')

  monkeypatch.setattr(configs, 'read', read)
  with pytest.raises(ValueError, match='no data'):
    papers.offered('digits')


def test_rows_replace_each_other_and_only_what_is_missing_runs(tmp_path, systems, unit):
  path = str(tmp_path / 'rows.jsonl')
  runs = papers.runs_of(systems[:1], [0, 1], [1, 4], unit)
  assert [(run.times, run.seed) for run in runs] == [(1, 0), (1, 1), (4, 0), (4, 1)]
  assert [run.steps for run in runs] == [700, 700, 2800, 2800]
  own = systems[0].config_hash
  papers.keep(path, row(config_hash=own, failed='ValueError: no'))
  papers.keep(path, row(config_hash=own, seed=1))
  papers.keep(path, row(config_hash='of another config', budget=4))
  papers.keep(path, row(config_hash=own, budget=4, protocol=papers.PROTOCOL - 1))
  read = lambda: files.read_rows(path)
  left = lambda retry: [(r.times, r.seed) for r in papers.missing(runs, read(), retry)]
  assert left(False) == [(4, 0), (4, 1)]
  assert left(True) == [(1, 0), (4, 0), (4, 1)]
  papers.keep(path, row(config_hash=own, agreement=0.9))
  rows = read()
  assert len(rows) == 4 and left(True) == [(4, 0), (4, 1)]
  groups = papers.of_today(rows, systems)
  assert list(groups) == [('biggan', 1)]
  assert [r['seed'] for r in groups['biggan', 1]] == [0, 1]


def test_a_failed_run_is_a_row_that_says_so(tmp_path, systems, unit, monkeypatch):
  class Real:
    train = papers.data.load(configs.read('digits').data).train()

  def fail(config, workdir):
    assert config.seed == 1 and config.run.steps == 700
    raise errors.UserError('updates were not finite')

  monkeypatch.setattr(papers.loop, 'train', fail)
  run = papers.Run(systems[0], 1, 1, 700, unit)
  found = papers.row_of(run, str(tmp_path), Real())
  assert found['failed'] == 'UserError: updates were not finite'
  other = core_config.changed(systems[0].config, {'data.held_out': 0.5})
  run = papers.Run(papers.System('x', 'x', other, None), 1, 1, 700, unit)
  assert 'data.held_out' in papers.row_of(run, str(tmp_path), Real())['failed']
  monkeypatch.setattr(papers.loop, 'train', lambda config, workdir: {})  # told to end
  run = papers.Run(systems[0], 1, 1, 700, unit)
  assert papers.row_of(run, str(tmp_path), Real()) is None


def test_seconds_are_of_the_run_and_of_so_many_steps(tmp_path):
  clock = [(25, 10.0), (50, 19.0), (75, 23.0), (100, 28.0), (125, 31.0)]
  lines = [json.dumps({'step': step, 'seconds': now}) + '\n' for step, now in clock]
  (tmp_path / 'timing.jsonl').write_text(''.join(lines))
  assert papers.seconds(str(tmp_path), 125) == 31
  assert papers.seconds(str(tmp_path), 250) == 2 * 31
  assert papers.seconds(str(tmp_path / 'none'), 1) is None


def test_table_says_what_rows_hold():
  real = dict.fromkeys(papers_scores.FIGURES, 1.0)
  rows = {
    ('biggan', 1): [
      row(agreement=0.9, seconds=10.0),
      row(agreement=0.8, seconds=30.0, seed=1),
      {**row(seed=2), 'failed': 'UserError: no'},
    ],
    ('other', 1): [row(paper='other', conditional=False, agreement=0.1)],
  }
  lines = papers_report.table(rows, real, {'noise': dict.fromkeys(papers_scores.FIGURES, 0.1)})
  assert lines[3].startswith('| `biggan` 1x | 700 | 2, 1 failed | 0.850 ± 0.071 | 0.500 ± 0.000 |')
  assert lines[3].endswith('| 20 ± 14 |')
  assert lines[4].startswith('| `other` 1x | 700 | 1 |  | 0.500 |')  # no agreement without labels
  assert lines[-1] == '- `biggan` 1x, seed 2, failed: UserError: no'
  assert len({line.count('|') for line in lines[:6]}) == 1


def test_a_strip_survives_its_row():
  images = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 1)).astype(np.uint8)
  read = papers_report.decoded(json.loads(json.dumps(papers_report.encoded(images))))
  np.testing.assert_array_equal(read, np.concatenate(images, 1)[..., 0])


@pytest.mark.parametrize(
  ('figure', 'better', 'worse'),
  [
    ('agreement', 0.95, 0.8),
    ('fd_held_out_classifier', 1.0, 2.5),
    ('nearest_ratio', 1.02, 1.5),
    ('nearest_ratio', 1.02, 0.7),
    ('nearest_ratio', 1.02, 0.0),
  ],
)
def test_figures_know_which_way_is_better(figure, better, worse):
  of = papers_scores.FIGURES[figure]
  assert of.better(better, worse) and not of.better(worse, better)
  assert not of.better(better, better)
