"""Checkpoints: Orbax behind save, restore and latest; nothing else of the project sees Orbax.

A checkpoint holds three items: `state` (training), `generator` (what is sampled, an item of its own
so that sampling never reads the optimizer) and `meta` (JSON). Trees are stored as nested dicts of
arrays by path, with no library classes, so that another Python, JAX or optax reads them.
"""

import itertools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from bigjax.core import buckets, errors, processes, trees

FORMAT = 4


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_plain(tree: Any) -> dict[str, Any]:
  """Return any tree of arrays as nested dicts by path; PRNG keys as their uint32 data.

  Arrays without elements are left out: Orbax refuses them.
  """
  return trees.nest(
    {
      path: jax.random.key_data(leaf) if _is_key(leaf) else leaf
      for path, leaf in trees.flat(tree).items()
      if leaf.size
    }
  )


def from_plain(plain: Mapping[str, Any], like: Any) -> Any:
  """Return the plain tree in the structure of `like` (arrays or shapes), inverting `to_plain`.

  Raises:
    UserError: a leaf is missing, superfluous or has another shape.
  """
  _check_shapes(plain, jax.eval_shape(to_plain, like))
  leaves = trees.flat(plain)

  def take(path, template):
    if not template.size:
      return jnp.zeros(template.shape, template.dtype)
    return jax.random.wrap_key_data(leaves[path]) if _is_key(template) else leaves[path]

  return trees.map_paths(take, like)


def _stored_shapes(path: epath.Path) -> Any:
  """Return the tree of shapes that a stored item has."""
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
    metadata = checkpointer.metadata(path).item_metadata
  if metadata is None:
    raise ValueError('its metadata is damaged')
  return metadata.tree


def _check_shapes(stored: Any, wanted: Any) -> None:
  """Refuse a checkpoint of another tree, which is sound but not ours.

  Raises:
    UserError: names the first leaf that differs.
  """
  theirs = {path: tuple(leaf.shape) for path, leaf in trees.flat(stored).items()}
  ours = {path: tuple(leaf.shape) for path, leaf in trees.flat(wanted).items()}
  for path in sorted({*theirs, *ours}):
    if theirs.get(path) != ours.get(path):
      raise errors.UserError(
        f'{path!r} has shape {theirs.get(path, "(absent)")} in the checkpoint, but this config and '
        f'version give {ours.get(path, "(absent)")}.'
      )


class Checkpoints:
  """The checkpoints of a workdir: the latest few, every K-th, and the best by a metric.

  Args:
    workdir: checkpoints lie in its folder `checkpoints`.
    keep: how many of the latest to keep.
    keep_every: also keep each whose step is a multiple of this (0: none).
    best: name of the score by which the best one is kept, or ''; higher is better, lower with a
      leading '-'.
  Raises:
    UserError: the workdir cannot be written.
  """

  def __init__(self, workdir: str, keep: int = 3, keep_every: int = 0, best: str = ''):
    self.root, self._workdir = buckets.checkpoints_of(workdir), workdir
    keepers = [policies.LatestN(keep)]
    if keep_every:
      keepers.append(policies.EveryNSteps(keep_every))
    metric = best.removeprefix('-')
    options: dict[str, Any] = {}
    if best:
      value = lambda metrics: metrics[metric]
      lower = best.startswith('-')
      keepers.append(
        policies.BestN(
          get_metric_fn=value, reverse=lower, n=1, keep_checkpoints_without_metrics=False
        )
      )
      # Without best_fn Orbax does not write the metrics down, and a restart deletes the best.
      options = {'best_fn': value, 'best_mode': 'min' if lower else 'max'}
    self._best = best
    options['preservation_policy'] = policies.AnyPreservationPolicy(keepers)
    try:
      self._manager = ocp.CheckpointManager(
        self.root, options=ocp.CheckpointManagerOptions(**options)
      )
    except OSError as error:
      raise errors.UserError(f'{self.root} cannot be written ({error.strerror}).') from None

  def save(
    self,
    step: int,
    state: Any,
    gen: Any,
    meta: Mapping[str, Any],
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """Start writing a checkpoint in the background; the arrays may be donated right after."""
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(to_plain(state)),
      generator=ocp.args.StandardSave(to_plain(gen)),
      meta=ocp.args.JsonSave(
        {'format': FORMAT, 'step': step, 'best': self._best, 'scores': dict(scores or {}), **meta}
      ),
    )
    known = scores and self._best.removeprefix('-') in scores
    self._manager.save(step, args=items, metrics=dict(scores or {}) if known else None, force=True)

  def steps(self) -> list[int]:
    """Return the steps of the finished checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def restore_latest(self, like: Any, warn: Callable[[str], None]) -> tuple[Any, dict] | None:
    """Return (state, meta) of the newest readable checkpoint, or None where there is none.

    One that cannot be read is named through `warn`, and the one before it is tried. The state may
    come from another number of devices.

    Args:
      like: the state, or its shapes, with the shardings that the restored one shall have.
    Raises:
      UserError: there are checkpoints and none can be read, or they are of another format or tree.
    """
    shardings = {path: leaf.sharding for path, leaf in trees.flat(like).items()}
    placed = lambda path, x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[path])
    tried = []
    for step in reversed(self.steps()):
      try:
        meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
          'meta'
        ]
        _check_format(meta, step)
        shapes = jax.eval_shape(to_plain, like)
        _check_shapes(_stored_shapes(self.root / str(step) / 'state'), shapes)
        target = trees.map_paths(placed, shapes)
        plain = self._manager.restore(
          step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )['state']
        return from_plain(plain, like), meta
      except errors.UserError:
        raise
      except Exception as error:
        logging.getLogger(__name__).debug('checkpoint %d', step, exc_info=True)
        tried.append(step)
        warn(
          f'checkpoint {step} cannot be read ({type(error).__name__}: {_first_line(error)}); '
          'trying the one before it.'
        )
    if tried:
      raise errors.UserError(
        f'no checkpoint of {self.root} can be read (tried {tried}); '
        'restore the folder from a copy, or train in another workdir.'
      )
    return None

  def set_aside(self, step: int, folder: str, warn: Callable[[str], None]) -> None:
    """Move every checkpoint after `step` to a folder of the workdir; see the function below."""
    if any(s > step for s in self.steps()):
      processes.wait('setting aside')
      if jax.process_index() == 0:
        set_aside(self._workdir, step, folder, warn)
      processes.wait('set aside')
      self._manager.reload()

  def close(self) -> None:
    """Wait for the writes under way to finish."""
    self._manager.wait_until_finished()
    self._manager.close()


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [''])[0][:160]


def _check_format(meta: Mapping[str, Any], step: int) -> None:
  if meta.get('format') != FORMAT:
    raise errors.UserError(
      f'checkpoint {step} has format {meta.get("format")!r}; this bigjax reads format {FORMAT}.'
    )


def list_steps(workdir: str) -> list[int]:
  """Return the steps of the finished checkpoints of a workdir, ascending, without opening them."""
  root = buckets.checkpoints_of(workdir)
  if not root.exists():
    return []
  found = [path for path in root.iterdir() if path.name.isdigit()]
  # Where nothing can be renamed, unfinished ones have their name already.
  return sorted(int(path.name) for path in found if ocp.utils.is_checkpoint_finalized(path))


def set_aside(workdir: str, step: int, folder: str, warn: Callable[[str], None]) -> None:
  """Move every checkpoint after `step` to a folder of the workdir: training will write it anew."""
  target = buckets.checkpoints_of(workdir).parent / folder
  for s in list_steps(workdir):
    if s > step:
      target.mkdir(parents=True, exist_ok=True)
      names = (f'{s}.{i}' if i else str(s) for i in itertools.count())
      free = next(target / name for name in names if not (target / name).exists())
      warn(f'checkpoint {s} is moved to {free}.')
      (buckets.checkpoints_of(workdir) / str(s)).rename(free)


def read_meta(workdir: str, step: int) -> dict[str, Any]:
  """The `meta` of a checkpoint: format, step, config_hash, position, architecture, scores.

  Raises:
    UserError: it cannot be read.
  """
  path = buckets.checkpoints_of(workdir) / str(step) / 'meta' / 'metadata'
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{path} cannot be read ({error}).') from None


def find_step(workdir: str, which: str = 'last') -> int:
  """The step of a checkpoint: 'last', 'best' or a step number.

  Raises:
    UserError: there is no such checkpoint.
  """
  steps = list_steps(workdir)
  if not steps:
    raise errors.UserError(
      f'{workdir!r} has no checkpoints; give the workdir of a run, '
      'or --params FILE for an exported generator.'
    )
  if which == 'best':
    return best_step(workdir)
  if which == 'last':
    return steps[-1]
  if which not in map(str, steps):
    raise errors.UserError(
      f'{workdir!r} has no checkpoint {which!r}; it has '
      f'{", ".join(map(str, steps))} (or say last or best).'
    )
  return int(which)


def restore_generator(workdir: str, which: str = 'last') -> tuple[dict[str, Any], int]:
  """Return (gen, step) of a checkpoint: NumPy arrays, without the training state.

  Args:
    workdir: of a run.
    which: 'last', 'best' or a step number.
  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  step = find_step(workdir, which)
  path = buckets.checkpoints_of(workdir) / str(step) / 'generator'
  try:
    target = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), _stored_shapes(path))
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      plain = checkpointer.restore(path, args=ocp.args.StandardRestore(target))
  except Exception as error:
    raise errors.UserError(
      f'the generator of checkpoint {step} in {workdir!r} cannot be read '
      f'({type(error).__name__}: {_first_line(error)}).'
    ) from error
  return plain, step


def restore_part(workdir: str, step: int, wanted: Callable[[str], bool]) -> dict[str, Any]:
  """Return the leaves of a checkpoint's training state at the wanted paths, as NumPy arrays.

  Args:
    workdir: of a run.
    step: of one of its checkpoints.
    wanted: which paths, such as 'players/gen/params/linear/kernel'; others are not read.
  Returns:
    {path: array}.
  Raises:
    UserError: it cannot be read.
  """
  path = buckets.checkpoints_of(workdir) / str(step) / 'state'
  try:
    shapes = {p: s for p, s in trees.flat(_stored_shapes(path)).items() if wanted(p)}
    target = trees.nest({p: np.zeros(s.shape, s.dtype) for p, s in shapes.items()})
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      plain = checkpointer.restore(
        path,
        args=ocp.args.PyTreeRestore(
          item=target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
          partial_restore=True,
        ),
      )
  except Exception as error:
    raise errors.UserError(
      f'the weights of checkpoint {step} in {workdir!r} cannot be read '
      f'({type(error).__name__}: {_first_line(error)}).'
    ) from error
  return {p: np.asarray(leaf) for p, leaf in trees.flat(plain).items()}


def best_step(workdir: str) -> int:
  """Return the step of the best checkpoint by the metric that the run kept.

  Raises:
    UserError: the run kept none.
  """
  scored = {}
  for step in list_steps(workdir):
    try:
      meta = read_meta(workdir, step)
    except errors.UserError:
      continue  # restoring it would say what is wrong
    best = meta.get('best', '')
    if best.removeprefix('-') in meta.get('scores', {}):
      value = meta['scores'][best.removeprefix('-')]
      scored[step] = -value if best.startswith('-') else value
  if not scored:
    raise errors.UserError(
      f'{workdir!r} has no checkpoint with a score to be best by: '
      'set config.run.best to the name of a score.'
    )
  return max(scored, key=scored.__getitem__)
