"""A run's folder: made or checked, restored from, and what a full disk does."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import checkpoint, errors, files, processes, trees
from bigjax.core import config as core_config
from bigjax.training import history as histories
from bigjax.training.init_from import WeightsByPlayer, begin
from bigjax.training.program import Program
from bigjax.training.records.logs import Say


def prepare_workdir(
  workdir: str, config: ml_collections.ConfigDict, about: Mapping[str, Any], change: bool = False
) -> tuple[ml_collections.ConfigDict, histories.History]:
  """Create the workdir, or check that it belongs to this config.

  Returns:
    (the config that its run began with, its history).
  Raises:
    UserError: it cannot be written, or holds a run of another config or on other data.
  """
  why = files.unwritable(workdir) or files.unwritable(os.path.join(workdir, 'samples'))
  if why:
    raise errors.UserError(
      f'the workdir {workdir!r} cannot be written ({why}); give another with --workdir.'
    )
  history = histories.read(workdir)
  processes.wait('history')  # before the first of them writes it
  if history is None:
    history = histories.begin(config.seed)
  else:
    config, patch = histories.match_run_config(workdir, config, history, change)
    refuse_other_data(workdir, about)
    if patch:
      history = with_change(workdir, history, patch)
  if jax.process_index() == 0:
    files.write_json(os.path.join(workdir, 'config.json'), core_config.flatten(config))
    files.write_json(os.path.join(workdir, 'data.json'), about)
    histories.write(workdir, history)
  return config, history


def with_change(
  workdir: str, history: histories.History, patch: dict[str, Any]
) -> histories.History:
  """Return the history of a run whose config is to be another from its newest checkpoint on."""
  step = max(checkpoint.list_steps(workdir), default=0)
  position = checkpoint.read_meta(workdir, step)['position'] if step else 0
  seed = patch.get('seed', histories.seed_at(history, step))
  reason = f'asked for: {histories.format_patch(patch)}'
  return histories.append_entry(history, step, seed, patch, position, reason)


def about_data(source: data.Source) -> dict[str, Any]:
  """The content of data.json."""
  return {
    'num_train': source.num_train,
    'class_names': list(source.class_names),
    'digest': source.digest,
    'findings': [f'{level}: {sentence}' for level, sentence in source.findings],
  }


def refuse_other_data(workdir: str, about: Mapping[str, Any]) -> None:
  """Refuse to go on with other training images than those a run began with.

  Raises:
    UserError: their digest differs.
  """
  path = os.path.join(workdir, 'data.json')
  theirs = files.read_json(path) if os.path.exists(path) else about
  if theirs['digest'] != about['digest']:
    raise errors.UserError(
      f'the workdir {workdir!r} holds a run on other training images ({theirs["num_train"]:,}, now '
      f'{about["num_train"]:,}; or they changed); restore them, or give another --workdir.'
    )


def given_weights(
  program: Program, workdir: str, init_from: str, class_names: Sequence[str]
) -> tuple[WeightsByPlayer, str]:
  """Return the weights to begin with and a table of them; none where the workdir has checkpoints.

  Raises:
    UserError: those of `init_from` cannot be read, or none fits.
  """
  if not init_from or checkpoint.list_steps(workdir):
    return {}, ''
  given, table = begin(init_from, program.shapes(), class_names)
  return given, f'weights of {init_from}:\n{table}'


def frozen_digest(state: Any) -> str:
  """16 hexadecimal digits of the weights that no one trains; '' where there are none."""
  leaves = trees.flat(state['frozen'])
  told = hashlib.sha256()
  for path, leaf in leaves.items():
    told.update(path.encode())
    told.update(np.ascontiguousarray(jax.device_get(leaf)))
  return told.hexdigest()[:16] if leaves else ''


def thawed(state: Any) -> Any:
  """Selects what a checkpoint holds of a state: all but the weights that no one trains."""
  return {**state, 'frozen': {}}


def restore(
  program: Program, checkpoints: checkpoint.Checkpoints, config_hash: str, say: Say
) -> tuple[Any, int] | None:
  """(State, step) from the newest readable checkpoint, or None where there is none.

  Raises:
    UserError: the checkpoint was written under another config, or with other frozen weights.
  """
  shapes = program.shapes()
  restored = checkpoints.restore_latest(thawed(shapes), warn=say)
  if restored is None:
    return None
  state, meta = restored
  if meta['config_hash'] != config_hash:
    raise errors.UserError(
      f'checkpoint {meta["step"]} was written under another config (hash {meta["config_hash"]}, '
      f'this one has {config_hash}); use its config, or another --workdir.'
    )
  if jax.tree.leaves(shapes['frozen']):
    state['frozen'] = program.init(jax.random.key(0), {})['frozen']
    if meta['frozen'] != frozen_digest(state):
      raise errors.UserError(
        f'checkpoint {meta["step"]} was trained with other frozen weights (digest '
        f'{meta["frozen"]}, these have {frozen_digest(state)}); give those back, or another '
        '--workdir.'
      )
  checkpoints.set_aside(meta['step'], 'corrupt', say)
  say(f'resuming at step {meta["step"]}')
  return state, meta['step']


# What the disk of a workdir may do in mid-run; libraries below Orbax say it in words of their own.
FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT)


def disk_trouble(error: BaseException | None, workdir: str) -> str:
  """What an error, or one that it came from, says of the disk of a workdir; '' if nothing."""
  while error is not None:
    said, number = str(error), getattr(error, 'errno', None)
    if number in FULL or any(os.strerror(full) in said for full in FULL):
      return f'the disk of {workdir!r} is full'
    here = os.path.abspath(workdir) in said or str(workdir) in said
    if here and (number in UNWRITABLE or os.strerror(errno.EROFS) in said):
      why = getattr(error, 'strerror', None) or os.strerror(errno.EROFS)
      return f'the workdir {workdir!r} can no longer be written ({why})'
    error = error.__cause__ or error.__context__
  return ''


@contextlib.contextmanager
def saying_disk_trouble(workdir: str) -> Iterator[None]:
  """Within, what the disk of a workdir does to a run is said in a sentence.

  Raises:
    UserError: it is full, or can no longer be written.
  """
  try:
    yield
  except Exception as error:
    trouble = disk_trouble(error, workdir)
    if not trouble:
      raise
    steps = checkpoint.list_steps(workdir)
    kept = f'checkpoint {steps[-1]} is whole' if steps else 'no checkpoint was written yet'
    raise errors.UserError(
      f'{trouble}; {kept}: make room, or mend that, and give the same command again.'
    ) from error
