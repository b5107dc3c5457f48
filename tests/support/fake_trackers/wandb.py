"""What bigjax uses of wandb, offline: rows lie in memory, and in a folder after `finish` alone."""

import itertools
import json
import os

NUMBERS = itertools.count()
REFUSE = []  # errors that the next calls of `log` raise, None for none


class Settings:
  def __init__(self, **settings):
    assert settings == {'console': 'off', 'silent': True}


class Image:
  def __init__(self, path):
    assert os.path.isfile(path)
    self.path = path


class Run:
  offline = True

  def __init__(self, id, dir, config):
    number = next(NUMBERS)
    self.id, self.config, self.rows, self.metrics = id or f'id{number}', config, [], []
    self.dir = os.path.join(dir, 'wandb', f'offline-run-{number}-{self.id}', 'files')
    os.makedirs(self.dir)

  def define_metric(self, name, step_metric=None):
    self.metrics.append((name, step_metric))

  def log(self, values, step, commit):
    if REFUSE and (refused := REFUSE.pop(0)):
      raise refused
    assert commit and (not self.rows or step > self.rows[-1]['_step'])
    values = {k: 'picture' if isinstance(v, Image) else v for k, v in values.items()}
    self.rows.append({**values, '_step': step})

  def finish(self, exit_code):
    assert self.metrics == [('step', None), ('*', 'step')]
    with open(os.path.join(self.dir, '..', 'rows.json'), 'w', encoding='utf-8') as file:
      json.dump({'config': self.config, 'rows': self.rows, 'exit_code': exit_code}, file)


def init(*, project, name, id, resume, dir, config, allow_val_change, settings):
  assert project == 'bigjax' and name == os.path.basename(dir) and allow_val_change and settings
  assert resume == ('allow' if id else None)
  return Run(id, dir, config)
