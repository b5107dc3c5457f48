"""A run without a training: a workdir gets rows and grids, and a tracker is its mirror.

`python mirrored.py WORKDIR WRITER FIRST LAST` works between two steps, and then kills itself, if
LAST is not the run's last step.
"""

import os
import signal
import sys

from PIL import Image

from bigjax.algorithms.base import configs
from bigjax.core import files
from bigjax.training.records import writers

LAST = 10
START = [{'from_step': 0, 'seed': 0, 'patch': {}, 'position': 0, 'reason': 'start'}]


def config_of(writer):
  config = configs.read('digits:tiny')
  config.run.steps, config.run.writers = LAST, writer
  return config


def evaluation(step):
  return {'coverage': step / 7}


def write(workdir, first, last, push, scale=1.0, every=1):
  """Rows and grids of the steps after `first`, as the loop writes them, up to `last`."""
  os.makedirs(os.path.join(workdir, 'samples'), exist_ok=True)
  names = ('metrics.jsonl', 'timing.jsonl', 'scores.jsonl')
  rows, clock, scores = (files.JsonLines(os.path.join(workdir, name), first) for name in names)
  yield
  for step in range(first + 1, last + 1):
    if step % every == 0:
      clock.write({'step': step, 'images_per_second': 9.5, 'seconds': 1.0, 'time': 2.0})
      rows.write({'step': step, 'd_loss': scale / step, 'skipped': 0.0})
    if step % 2 == 0:
      Image.new('L', (8, 8), step).save(os.path.join(workdir, 'samples', f'{step:08d}.png'))
      rows.write({'step': step, **evaluation(step)})
    if step % 4 == 0:
      scores.write({'step': step, 'scores': {'fid': {'value': 100.0 + step}}})
    push(step)
  for file in (rows, clock, scores):
    file.close()
  yield


def expected(scale=1.0):
  """[(step, values)] of a run that nothing disturbed, sorted; a grid is a value, too."""
  found = []
  for step in range(1, LAST + 1):
    found.append((step, {'d_loss': scale / step, 'skipped': 0.0, 'images_per_second': 9.5}))
    if step % 2 == 0:
      found += [(step, evaluation(step)), (step, {'samples': 'picture'})]
    if step % 4 == 0:
      found.append((step, {'fid': 100.0 + step}))
  return in_order(found)


def in_order(rows):
  return sorted(rows, key=lambda row: (row[0], sorted(row[1])))


def work(workdir, writer, first, last, history=START, scale=1.0, say=lambda words: None, every=1):
  """Work from a step to another; return the mirrors, not closed where that is not the last."""
  mirrors = None
  writing = write(workdir, first, last, lambda step: mirrors.push(step), scale, every)
  next(writing)
  mirrors = writers.Mirrors(config_of(writer), workdir, history, first, {'config_hash': 'abc'}, say)
  next(writing)
  if last == LAST:
    mirrors.close()
  else:
    for mirror in mirrors._all:
      mirror._worker.submit(mirror._sync).result()  # all that there is has been handed over
  return mirrors


if __name__ == '__main__':
  folder, name, begin, end = sys.argv[1:]
  work(folder, name, int(begin), int(end))
  if int(end) < LAST:
    os.kill(os.getpid(), signal.SIGKILL)
