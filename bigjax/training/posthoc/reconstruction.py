"""The generator of any average of the weights, made of stored ones (post-hoc EMA)."""

import functools
import os
import re
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from bigjax.algorithms.base import configs
from bigjax.algorithms.base.posthoc import power_functions
from bigjax.algorithms.base.posthoc.tracking import KEY, NAME
from bigjax.core import checkpoint, errors, files, trees
from bigjax.core import config as core_config
from bigjax.sampling import generator_file as cards
from bigjax.training import history as histories
from bigjax.training.posthoc.snapshots import stored
from bigjax.training.program import Program, make_program, on_mesh

ROUGH = 0.05  # relative error of a profile above which a warning is due


def read(path: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """The averages of a file by path, 'WIDTH/...'.

  Raises:
    UserError: it is damaged, or another run's.
  """
  try:
    found = safetensors.numpy.load_file(path)
  except Exception as error:  # of safetensors: many kinds
    raise cards.damaged(repr(path), error) from None
  if {name: x.shape for name, x in found.items()} != shapes:
    raise errors.UserError(f"{path!r} has not the averages that the run's checkpoints have.")
  files.check_weights(found, path)
  return found


def combined(
  averages: dict[str, np.ndarray], step: int, paths: dict[int, str], std: float
) -> tuple[dict[str, np.ndarray], float]:
  """(The average of this width at a step, by path; relative error of its profile).

  Args:
    averages: those of the step itself, by path, 'WIDTH/...'.
    step: at which it ends.
    paths: {step: file} of stored ones; later ones do not count.
    std: its width.
  Raises:
    UserError: a file is damaged.
  """
  widths = list(dict.fromkeys(path.partition('/')[0] for path in averages))
  paths = {at: path for at, path in paths.items() if at < step}
  ends = np.repeat([*paths, step], len(widths)).astype(np.float64)
  found, error = power_functions.coefficients(
    ends, np.tile(np.array(widths, np.float64), len(paths) + 1), float(step), std
  )
  shapes, total = {path: x.shape for path, x in averages.items()}, {}
  for i, path in enumerate([*paths.values(), None]):
    some = averages if path is None else read(path, shapes)
    for name, x in some.items():
      which, _, inside = name.partition('/')
      share = found[i * len(widths) + widths.index(which)]
      total[inside] = total.get(inside, 0.0) + share * x.astype(np.float64)
  return {name: x.astype(np.float32) for name, x in total.items()}, error


def program_of(workdir: str) -> Program:
  """The program of the run in a workdir, on one device.

  Raises:
    UserError: its files are damaged, or of another version.
  """
  values = files.read_json(os.path.join(workdir, 'config.json'))
  config = configs.complete(core_config.nested(values))
  if history := histories.read(workdir):
    config = histories.patched(config, history)
  return make_program(config, jax.devices()[:1])


def load(workdir: str, which: str, std: float) -> tuple[Any, dict[str, Any]]:
  """(gen, card) of a checkpoint with an average of another width in place of the one it samples.

  Args:
    workdir: of a run that kept averages.
    which: of its checkpoints: 'last', 'best' or a step number.
    std: width of the average, the standard deviation of its profile over the checkpoint's step.
  Raises:
    UserError: there is no such checkpoint, it has no averages, or files are damaged.
  """
  card = cards.card_of(workdir, which)
  program, step = program_of(workdir), card['step']
  like = {**program.shapes(), 'frozen': {}}
  if NAME not in like['aux']:
    raise errors.UserError(
      f'the run in {workdir!r} kept no averages that others can be made of; train with '
      f'--config.{KEY}=0.05,0.1.'
    )
  # What a generator is made of; moments of optimizers are never among it, and are large.
  no_moments = lambda player: {name: x for name, x in player.items() if name != 'opt'}
  like['players'] = {name: no_moments(player) for name, player in like['players'].items()}
  kept = checkpoint.restore_part(
    workdir, step, lambda path: not re.match('players/[^/]+/opt/', path)
  )
  inside = f'aux/{NAME}/'
  averages = {path.removeprefix(inside): x for path, x in kept.items() if path.startswith(inside)}
  params, error = combined(averages, step, stored(workdir), std)
  state = checkpoint.from_plain(trees.nest(kept), like)
  state['ema'] = trees.map_paths(lambda path, old: params[path], state['ema'])
  make = jax.jit(program.algorithm.generator, static_argnums=1)
  gen = on_mesh(program.mesh, functools.partial(make, stage=program.stage(max(step - 1, 0))))(state)
  num = sum(at < step for at in stored(workdir)) + 1
  about = {'std': std, 'snapshots': num, 'profile_error': float(f'{error:.2g}')}
  return jax.device_get(gen), {**card, NAME: about}
