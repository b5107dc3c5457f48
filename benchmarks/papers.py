"""Every paper's system on the digits, at equal cost: one table, one picture.

  nice -n 15 python benchmarks/papers.py             # goes on where it was; trains what is missing
  python benchmarks/papers.py --only biggan --budgets 1 --seeds 0
  python benchmarks/papers.py --seeds ''             # trains nothing, draws table and picture again

Which systems. One per paper, found among the built-in configs. A config file offers a run on the
digits by its bare name (`digits`) or as `NAME:digits`. Its paper is `PAPER`, a text in that file,
where it has one; else BigGAN for every file of algorithm `biggan` (these are named after data
sets); else the file's name. Where several files share a paper, the bare one stands for it, then the
one named after it, then the first by name. So a new paper's file is picked up as it is, unless its
game is BigGAN's own with another recipe: then it says, for example, `PAPER = 'diffaugment'`.

Cost. Steps are set so that a run needs as many FLOPs as BigGAN's of `digits` with that config's own
number of steps: counted in what JAX traces, by step (lazy penalties count as often as they run),
penalties and spectral norm included, with the fewest multiplications known for each layer. Budgets
are multiples of that: 1, 4, and 0, which is one step, the untrained network.

Scores are those of papers_scores.py, the same for all, whatever a config's own `eval` says. The
corruptions beside them are the tests' (tests/support/corruptions.py).

A run has a workdir by (config hash, seed, budget), so that an interrupted one goes on, and one row
in papers.jsonl, which says so where it failed. Rows of other configs than today's stay in the file
and out of the table.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np

import bigjax
from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import device, errors, files, progress
from bigjax.preflight import step_cost
from bigjax.sampling import loaded
from bigjax.training import loop

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / 'benchmarks'), str(ROOT / 'tests' / 'support')]
import papers_report  # noqa: E402
from papers_report import SHOWN, Row, encoded  # noqa: E402
from papers_scores import Referee  # noqa: E402

BIGGAN, YARDSTICK = 'biggan', 'digits'  # the paper that all are measured by, and its config
DATA = 'digits'  # data.source
PROTOCOL = 2  # another number where scores of the same run would be other ones


# Systems and what they cost.


@dataclasses.dataclass(frozen=True)
class System:
  """A paper on the digits.

  Attributes:
    paper: its name.
    given: what --config calls it: NAME or NAME:digits.
    config: that config.
    cost: step -> its FLOPs.
  """

  paper: str
  given: str
  config: ml_collections.ConfigDict
  cost: Callable[[int], int]

  @property
  def config_hash(self) -> str:
    """Of the config as it is given: the same for all seeds."""
    return configs.config_hash(self.config)

  def flops(self, steps: int) -> int:
    """Sums what so many steps cost."""
    return sum(map(self.cost, range(steps)))

  def steps(self, flops: int) -> int:
    """Finds the number of steps, 1 or more, whose FLOPs are nearest to these."""
    step, total = 0, 0
    while total + self.cost(step) <= flops:
      total += self.cost(step)
      step += 1
    under, over = flops - total, total + self.cost(step) - flops
    return max(step + (over < under), 1)


def offered(name: str) -> tuple[str, ml_collections.ConfigDict] | None:
  """Finds the run on the digits that a built-in config offers; None where there is none.

  Args:
    name: of the config file.
  Returns:
    (NAME or NAME:digits, the config).
  """
  for given in (name, f'{name}:digits'):
    try:
      config = configs.read(given)
    except (ValueError, errors.UserError) as error:
      if given != name and "'digits'" in str(error):  # it has no such variant
        continue
      raise
    if config.data.source == DATA:
      return given, config
  return None


def paper_of(name: str, config: ml_collections.ConfigDict) -> str:
  """Names the paper whose system a config file holds; see the rule at the top."""
  said = getattr(importlib.import_module(f'bigjax.configs.{name}'), 'PAPER', '')
  return said or (BIGGAN if config.algorithm == BIGGAN else name)


def chosen(offers: Sequence[tuple[str, str, str]]) -> dict[str, str]:
  """Picks one config per paper, by the rule at the top.

  Args:
    offers: (config file, what --config calls its run on the digits, paper).
  Returns:
    {paper: what --config calls it}, BigGAN's first, the others by name.
  """
  rank = lambda offer: (offer[1] != offer[0], offer[0] != offer[2], offer[0])
  papers = sorted({paper for *_, paper in offers}, key=lambda paper: (paper != BIGGAN, paper))
  of = lambda paper: min((offer for offer in offers if offer[2] == paper), key=rank)
  return {paper: of(paper)[1] for paper in papers}


def system(paper: str, given: str) -> System:
  """Makes a System of a config."""
  config = configs.read(given)
  if config.data.num_classes is None:
    config.data.num_classes = len(data.load(config.data).class_names)
  return System(paper, given, config, step_cost.run_flops(config))


def systems() -> list[System]:
  """Finds all systems, BigGAN's first."""
  found = [(name, offered(name)) for name in sorted(core_config.builtin())]
  offers = [(name, of[0], paper_of(name, of[1])) for name, of in found if of]
  return [system(paper, given) for paper, given in chosen(offers).items()]


def yardstick() -> int:
  """Counts the FLOPs of BigGAN's run on the digits."""
  biggan = system(BIGGAN, YARDSTICK)
  return biggan.flops(biggan.config.run.steps)


# Runs and their rows.


@dataclasses.dataclass(frozen=True)
class Run:
  """A system, a seed and a budget; `steps` and `flops` follow from those."""

  system: System
  seed: int
  times: int  # the budget, in runs of BigGAN; 0 is one step
  steps: int
  flops: int
  evals: int = 1  # how often it is evaluated

  @property
  def key(self) -> tuple[str, int, int]:
    return self.system.config_hash, self.seed, self.times

  @property
  def name(self) -> str:
    """Of its workdir, and for people."""
    given = self.system.given.replace(':', '-')
    return f'{given}-{self.system.config_hash}-seed{self.seed}-{self.times}x'


def runs_of(
  found: Sequence[System], seeds: Sequence[int], budgets: Sequence[int], unit: int
) -> list[Run]:
  """Lists runs in the order in which they are trained: all systems at a budget and seed, then on.

  Args:
    found: systems.
    seeds, budgets: of each.
    unit: the FLOPs of budget 1.
  """
  runs = []
  for times in budgets:
    steps = [of.steps(times * unit) for of in found]
    costs = [of.flops(num) for of, num in zip(found, steps, strict=True)]
    for seed in seeds:
      for of, num, flops in zip(found, steps, costs, strict=True):
        runs.append(Run(of, seed, times, num, flops))
  return runs


def refuse_other_images(config: ml_collections.ConfigDict, referee: Referee) -> None:
  """Refuses a system that trains on other images than those that it is compared on.

  Raises:
    UserError: it does.
  """
  images, _ = data.load(config.data).train()
  if not np.array_equal(images, referee.train[0]):
    raise errors.UserError(
      f'it trains on other images than {YARDSTICK}: give both the same data.resolution, '
      'data.channels, data.held_out, data.fraction, data.per_class and data.imbalance.'
    )


def train(run: Run, workdir: str) -> str | None:
  """Trains a run from where its workdir stands; None where it was told to end before.

  Returns:
    the path of its generator.
  """
  summary = os.path.join(workdir, 'summary.json')
  path = os.path.join(workdir, 'export', 'generator.safetensors')
  if os.path.exists(summary) and files.read_json(summary)['step'] == run.steps:
    return path
  config = run.system.config.copy_and_resolve_references()
  config.seed = run.seed
  every = max(run.steps // 8, 1)
  evals = max(run.steps // run.evals, 1)
  config.run.update({'steps': run.steps, 'eval_every': evals, 'checkpoint_every': every})
  config.run.update({'keep': 1, 'keep_every': 0, 'best': ''})
  return path if loop.train(config, workdir) else None


def seconds(workdir: str, steps: int) -> float | None:
  """How long a run trained so many steps, compilation included; None where it has no rows."""
  rows = files.read_rows(os.path.join(workdir, 'timing.jsonl'))
  if not rows:
    return None
  return round(rows[-1]['seconds'] * steps / rows[-1]['step'], 1)


def drawn_by(gen: loaded.Loaded) -> Callable[[np.ndarray, int], np.ndarray]:
  """What makes samples of (labels, seed): as many, where the generator knows no labels."""
  known = gen.num_classes > 1
  return lambda labels, seed: gen(labels if known else np.zeros_like(labels), seed=seed)


def row_of(run: Run, folder: str, referee: Referee) -> Row | None:
  """Trains and scores a run; None where it was told to end. A failure is a row, too."""
  workdir = os.path.join(folder, run.name)
  row = {
    'paper': run.system.paper,
    'config': run.system.given,
    'config_hash': run.system.config_hash,
    'seed': run.seed,
    'budget': run.times,
    'steps': run.steps,
    'flops': run.flops,
    'protocol': PROTOCOL,
    'bigjax': bigjax.__version__,
  }
  try:
    refuse_other_images(run.system.config, referee)
    path = train(run, workdir)
    if path is None:
      return None
    gen = loaded.load(path)
    draw = drawn_by(gen)
    row |= {name: round(value, 4) for name, value in referee.samples(draw).items()}
    row['conditional'] = gen.num_classes > 1
    row['seconds'] = seconds(workdir, run.steps)
    if run.seed == 0:
      row['strip'] = encoded(draw(np.repeat(np.unique(referee.train[1]), SHOWN), 0))
  except Exception as error:  # whatever it is, the other systems go on
    row['failed'] = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
  return row


def key(row: Row) -> tuple[str, int, int]:
  return row['config_hash'], row['seed'], row['budget']


def missing(runs: Sequence[Run], rows: Sequence[Row], retry: bool) -> list[Run]:
  """Lists the runs that have no row of this protocol; with `retry`, those that failed, too."""
  done = {key(r) for r in rows if r['protocol'] == PROTOCOL and not (retry and 'failed' in r)}
  return [run for run in runs if run.key not in done]


def keep(path: str, row: Row) -> None:
  """Puts a row into the file, in place of the one with its key."""
  rows = [old for old in files.read_rows(path) if key(old) != key(row)]
  partial = path + '.partial'
  with open(partial, 'w') as f:
    f.writelines(json.dumps(one) + '\n' for one in [*rows, row])
  os.replace(partial, path)


def train_all(runs: Sequence[Run], folder: str, path: str, referee: Referee) -> bool:
  """Trains runs one after another and keeps their rows; False where it was told to end."""
  began, work, done = time.monotonic(), sum(run.flops for run in runs), 0
  for i, run in enumerate(runs):
    spent = time.monotonic() - began
    left = f', about {progress.duration(spent * (work - done) / done)} left' if done else ''
    progress.say(f'run {i + 1} of {len(runs)}{left}: {run.name}, {run.steps:,} steps')
    row = row_of(run, folder, referee)
    if row is None:
      return False
    keep(path, row)
    if 'failed' in row:
      progress.say(f'{run.name} failed: {row["failed"]}')
    done += run.flops
  return True


def of_today(rows: Sequence[Row], found: Sequence[System]) -> dict[tuple[str, int], list[Row]]:
  """Groups the rows of these systems and this protocol by (paper, budget), each by seed."""
  hashes, order = {of.config_hash for of in found}, [of.paper for of in found]
  rows = [row for row in rows if row['config_hash'] in hashes and row['protocol'] == PROTOCOL]
  rows.sort(key=lambda row: (order.index(row['paper']), row['budget'], row['seed']))
  by = lambda row: (row['paper'], row['budget'])
  return {of: list(group) for of, group in itertools.groupby(rows, by)}


def main() -> int:
  numbers = lambda text: [int(word) for word in text.split(',') if word]
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='papers, by commas (default: all)')
  parser.add_argument('--seeds', type=numbers, default=[0, 1, 2], help='by commas')
  parser.add_argument('--budgets', type=numbers, default=[0, 1, 4], help='by commas; 0: untrained')
  parser.add_argument('--retry', action='store_true', help='train failed runs again')
  parser.add_argument('--folder', default='runs/papers', help='of the workdirs')
  parser.add_argument('--rows', default=str(ROOT / 'benchmarks' / 'papers.jsonl'))
  parser.add_argument('--docs', default=str(ROOT / 'docs'), help='where papers.md goes')
  args = parser.parse_args()
  device.use_compilation_cache()
  found, unit = systems(), yardstick()
  only = args.only.split(',') if args.only else [of.paper for of in found]
  if unknown := set(only) - {of.paper for of in found}:
    parser.error(f'no paper {", ".join(unknown)}; there are {", ".join(of.paper for of in found)}')
  runs = runs_of([of for of in found if of.paper in only], args.seeds, args.budgets, unit)
  runs = missing(runs, files.read_rows(args.rows), args.retry)
  referee = Referee(data.load(configs.read(YARDSTICK).data))
  if not train_all(runs, args.folder, args.rows, referee):
    return 1
  groups = of_today(files.read_rows(args.rows), found)
  papers_report.write(args.docs, groups, referee, unit, BIGGAN)
  progress.say(f'wrote papers.md and images/papers.png in {args.docs}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
