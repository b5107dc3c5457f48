"""The watchdog on the digits: eight ways to break a run half-way, and healthy runs.

  python benchmarks/collapse.py                         # half an hour on two CPU cores
  python benchmarks/collapse.py --only 'healthy:0,one NaN'

Each run trains to step 250 of 450 as it should; there the trouble begins. The watchdog may roll
back, and then the trouble is over: of learning rates and momentum because watch.patch sets them
right, of the rest because it was of the moment. Prints a line per run: what was seen, when, and how
it ended.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import device, files
from bigjax.training import batches, loop, rollback
from bigjax.training.program import Program

AT = 250
OFTEN = {'steps': 450, 'eval_every': 50, 'checkpoint_every': 50, 'keep': 4}

Change = dict[str, Any]


class Fault:
  """Something that goes wrong from step AT on, until a roll-back."""

  def __init__(self):
    self.active = True

  def batch(self, batch: Any) -> Any:
    return batch

  def step(self, step: Callable, state: Any, batch: Any) -> Any:
    return step(state, batch)


class ConstantLabels(Fault):
  def batch(self, batch):
    return {**batch, 'label': batch['label'] * 0}


class ConstantImages(Fault):
  def batch(self, batch):
    images = batch['image']
    return {**batch, 'image': jnp.zeros_like(images) + images[:1, :1]}


class OneNan(Fault):
  """A gradient that is NaN once: the discriminator's weights are, for one step."""

  def step(self, step, state, batch):
    self.active = False
    whole = jax.tree.map(jnp.copy, state)
    state['players']['disc']['params'] = jax.tree.map(
      lambda x: x * jnp.nan, state['players']['disc']['params']
    )
    after, metrics = step(state, batch)
    return {**whole, 'aux': after['aux'], 'step': after['step']}, metrics


class NoAverage(Fault):
  """The average of the generator's weights is 0, at every step."""

  def step(self, step, state, batch):
    state, metrics = step(state, batch)
    return {**state, 'ema': jax.tree.map(jnp.zeros_like, state['ema'])}, metrics


def of_config(**values: float) -> Change:
  return {f'optim.{key}': value for key, value in values.items()}


RIGHT = configs.read('digits').optim
TROUBLES: dict[str, tuple[Change, type[Fault] | None]] = {
  'discriminator frozen': (of_config(disc_lr=0.0), None),
  "generator's learning rate x10": (of_config(gen_lr=10 * RIGHT.gen_lr), None),
  "discriminator's learning rate x0.1": (of_config(disc_lr=0.1 * RIGHT.disc_lr), None),
  'momentum 0.9': (of_config(b1=0.9), None),
  'labels constant': ({}, ConstantLabels),
  'images constant': ({}, ConstantImages),
  'one NaN': ({}, OneNan),
  'average broken': ({}, NoAverage),
}


@contextlib.contextmanager
def broken(fault: Fault) -> Iterator[None]:
  """Within, runs have this fault from step AT on."""
  placed, right, back = batches._placed, Program.step, rollback.go_back

  def wrong_batches(program, source, flip, history, step):
    for i, batch in enumerate(placed(program, source, flip, history, step)):
      yield fault.batch(batch) if fault.active and step + i >= AT else batch

  def wrong_step(program, state, batch, step):
    run = lambda state, batch: right(program, state, batch, step)
    if fault.active and step >= AT + 10:
      return fault.step(run, state, batch)
    return run(state, batch)

  def over(*args):
    fault.active = False
    return back(*args)

  batches._placed, Program.step, rollback.go_back = wrong_batches, wrong_step, over
  try:
    yield
  finally:
    batches._placed, Program.step, rollback.go_back = placed, right, back


def config_of(seed: int, policy: str) -> Any:
  config = configs.read('digits')
  config.seed = seed
  config.optim.name = 'adam'  # so that there is a momentum to raise
  config.run.update(OFTEN)
  config.watch.policy = policy
  return config


def told(workdir: str) -> list[dict[str, Any]]:
  return files.read_rows(os.path.join(workdir, 'events.jsonl'))


def healthy(seed: int, workdir: str) -> dict[str, Any]:
  """Train a sound run and return its alarms."""
  summary = loop.train(config_of(seed, 'warn'), workdir)
  return {
    'trouble': f'none, seed {seed}',
    'alarms': [f'{e["signal"]} at {e["step"]}' for e in told(workdir)],
    'coverage': summary['coverage'],
    'agreement': summary['agreement'],
  }


def half(workdir: str) -> str:
  """Train half of a sound run, once."""
  if not os.path.exists(os.path.join(workdir, 'summary.json')):
    config = config_of(0, 'warn')
    config.run.steps = AT
    loop.train(config, workdir)
  return workdir


def troubled(name: str, source: str, workdir: str) -> dict[str, Any]:
  """Go on from half of a sound run with a trouble, and return what was seen of it."""
  change, fault = TROUBLES[name]
  shutil.copytree(source, workdir)
  config = core_config.changed(config_of(0, 'rollback'), change)
  right = core_config.flatten(config_of(0, 'rollback'))
  config.watch.patch = ','.join(f'{key}={right[key]}' for key in change)
  with broken((fault or Fault)()):
    try:
      summary = loop.train(config, workdir, change=bool(change))
      ended = 'finished'
    except Exception as error:  # what it says is the result
      summary, ended = {}, f'{type(error).__name__}: {str(error)[:80]}'
  history = files.read_json(os.path.join(workdir, 'history.json'))
  backs = [e for e in history if e['reason'].startswith(rollback.BACK)]
  alarms = [e['reason'] for e in backs] or [f'{e["signal"]} at {e["step"]}' for e in told(workdir)]
  return {
    'trouble': name,
    'alarms': alarms,
    'rolled_back': [e['from_step'] for e in backs],
    'ended': ended,
    'coverage': summary.get('coverage'),
    'agreement': summary.get('agreement'),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='healthy:SEED or names of troubles, by commas')
  parser.add_argument('--seeds', type=int, default=10)
  parser.add_argument('--out', default='benchmarks/collapse.json')
  parser.add_argument('--folder', default='', help='where the runs go (default: a temporary one)')
  args = parser.parse_args()
  device.use_compilation_cache()
  folder = args.folder or tempfile.mkdtemp(prefix='bigjax-collapse-')
  names = args.only.split(',') if args.only else [*TROUBLES]
  names += [] if args.only else [f'healthy:{seed}' for seed in range(args.seeds)]
  found = []
  for i, name in enumerate(names):
    began, path = time.monotonic(), os.path.join(folder, f'{i}')
    if name.startswith('healthy:'):
      row = healthy(int(name.partition(':')[2]), path)
    else:
      row = troubled(name, half(os.path.join(folder, 'half')), path)
    found.append({**row, 'seconds': round(time.monotonic() - began)})
    print(json.dumps(found[-1]), flush=True)
    files.write_json(args.out, found)


if __name__ == '__main__':
  main()
