"""GradInit (Zhu et al. 2021): a scale for every tensor, learned between init and the first step.

The scales are such that the first step of the optimizer that follows lowers the loss as far as it
can, while the gradient's norm stays below gamma. Works on any algorithm's `losses`: the players
take turns, the one that is sampled last. Differences from the authors' code: tensors whose scale
spectral norm divides out keep theirs; what a loss draws itself (latents, fake labels, keys) is
drawn anew for the loss after the step, where of the images every second one stays; dropout, where
there is some, stays on.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax import lax

from bigjax import data
from bigjax.algorithms.base import player
from bigjax.algorithms.base.contract import Batch, Stage, State
from bigjax.core import errors, files, parallel, progress, trees
from bigjax.training import history as histories
from bigjax.training import plots
from bigjax.training.batches import Batches
from bigjax.training.program import Program, on_mesh
from bigjax.training.records.logs import Say

Array = jax.Array
Params = Mapping[str, Array]  # by path
B1, B2, EPS = 0.9, 0.999, 1e-8  # Adam's, for the scales
LARGEST_SLOPE = 1.0  # of a loss or norm by a scale; what is beyond is clipped
LEAST = 0.01  # scale of whatever is no bias
CONSTRAINT, OBJECTIVE = 0, 1
KEY = trees.stable_hash('gradinit')  # folded into the run's key: no step draws the same


class Tensors(NamedTuple):
  """Paths of a player's tensors.

  scaled: that have a scale; scale_free: whose scale makes no difference; zero: all of whose numbers
  are 0, whatever their scale.
  """

  scaled: tuple[str, ...]
  scale_free: tuple[str, ...]
  zero: tuple[str, ...]


class Report(NamedTuple):
  """The record of a player in gradinit.json.

  Attributes:
    scales: by path.
    scale_free, zero: the other tensors; see Tensors.
    norm: of the gradient in the first iteration, and in the last.
    lowered: iterations that were spent on lowering that norm.
    refused: iterations whose numbers were not finite, which changed nothing.
  """

  scales: dict[str, float]
  scale_free: list[str]
  zero: list[str]
  norm: list[float]
  lowered: int
  refused: int


# --- What is refused


def is_on(config: ml_collections.ConfigDict) -> bool:
  """Whether a config asks for GradInit."""
  return config.gradinit.optimizer != 'none'


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse GradInit of weights that are trained already.

  Raises:
    UserError: the run begins with another's weights.
  """
  if is_on(config) and config.init_from:
    raise errors.UserError(
      f'gradinit.optimizer is {config.gradinit.optimizer}, which rescales freshly drawn weights, '
      f'but init_from={config.init_from} gives trained ones; leave out one of the two.'
    )


def scale_free(program: Program) -> dict[str, frozenset[str]]:
  """{player: paths of tensors whose scale makes no difference to its loss}; computes nothing."""
  found = {}

  def look(state, batch, stage):
    losses = program.algorithm.losses(state, batch, stage)
    found.update({name: loss.scale_free for name, loss in losses.items()})

  stage = program.stage(0)
  with jax.set_mesh(program.mesh):
    jax.eval_shape(lambda *args: look(*args, stage), program.shapes(), stage.shapes())
  return found


def tensors_of(program: Program, state: State) -> dict[str, Tensors]:
  """Finds the tensors to scale in a freshly made state, by player."""

  def nonzero(players):
    return {
      name: {path: (x != 0).any() for path, x in trees.flat(one['params']).items()}
      for name, one in players.items()
    }

  everywhere = parallel.replicated(program.mesh)
  alive = jax.device_get(jax.jit(nonzero, out_shardings=everywhere)(state['players']))
  found = {}
  for name, free in scale_free(program).items():
    rest = {path: yes for path, yes in alive[name].items() if path not in free}
    scaled = tuple(path for path, yes in rest.items() if yes)
    zero = tuple(path for path, yes in rest.items() if not yes)
    found[name] = Tensors(scaled, tuple(sorted(free)), zero)
  return found


def check_program(program: Program) -> None:
  """Refuse GradInit where one of the players has nothing that could be scaled.

  Raises:
    UserError: names the first such player.
  """
  state = program.init(jax.random.key(0), {})  # what begins at 0 does so whatever the key
  for name, tensors in tensors_of(program, state).items():
    if not tensors.scaled:
      raise errors.UserError(
        f'gradinit.optimizer: the player {name} has nothing to scale: spectral norm divides the '
        f'scale of {len(tensors.scale_free)} of its tensors out again, and the other '
        f'{len(tensors.zero)} begin at 0; train it without spectral norm, or give '
        'gradinit.optimizer=none.'
      )


# --- One iteration


@dataclasses.dataclass(frozen=True)
class Method:
  """How scales are learned; static. The fields are the config's keys of that name."""

  optimizer: str = 'sgd'
  scale_lr: float = 1e-2
  eta: float = 0.1
  gamma: float = 1.0

  def norm(self, grads: Any) -> Array:
    """What gamma bounds: how much a small step along `direction` would lower the loss."""
    leaves = jax.tree.leaves(grads)
    if self.optimizer == 'adam':
      return sum(jnp.abs(g).sum() for g in leaves)
    return jnp.sqrt(sum(jnp.square(g).sum() for g in leaves))

  def direction(self, grads: Any, norm: Array) -> Any:
    """The optimizer's first step, but for its learning rate and its sign."""
    by = {
      'adam': jnp.sign,
      'sgd': lambda g: g,
      'normalised_sgd': lambda g: g / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny),
    }
    return jax.tree.map(by[self.optimizer], grads)


class Rescaling(NamedTuple):
  """Scales of n tensors and the state of their optimizer, an Adam with two first moments.

  scales: [n]; first: [2, n], of the constraint and of the objective; second: [n], of both; counts:
  int32 [2], updates by either.
  """

  scales: Array
  first: Array
  second: Array
  counts: Array


def initial(num: int, dtype: Any = jnp.float32) -> Rescaling:
  """Scales of 1."""
  zeros = lambda *shape: jnp.zeros(shape, dtype)
  return Rescaling(jnp.ones((num,), dtype), zeros(2, num), zeros(num), jnp.zeros((2,), jnp.int32))


def floors(paths: tuple[str, ...]) -> list[float]:
  """The least scale of each tensor: 0 of a bias, which a network can do without."""
  return [0.0 if 'bias' in path.rsplit('/', 1)[-1] else LEAST for path in paths]


def scaled(params: Params, paths: tuple[str, ...], scales: Array) -> dict[str, Array]:
  """The parameters with those at n paths times their scales [n]."""
  by_path = dict(zip(paths, jnp.unstack(scales), strict=True))
  return {path: by_path[path] * x if path in by_path else x for path, x in params.items()}


def updated(old: Rescaling, slopes: Array, which: Array, lr: float, least: Array) -> Rescaling:
  """The scales after one update of their Adam.

  Args:
    old: before it.
    slopes: [n], of what is minimised by each scale.
    which: CONSTRAINT or OBJECTIVE.
    lr: learning rate.
    least: scales [n] that are not gone below.
  """
  slopes = jnp.clip(slopes, -LARGEST_SLOPE, LARGEST_SLOPE)
  counts = old.counts.at[which].add(1)
  first = old.first.at[which].set(B1 * old.first[which] + (1 - B1) * slopes)
  second = B2 * old.second + (1 - B2) * jnp.square(slopes)
  since = counts.astype(slopes.dtype)
  mean = first[which] / (1 - B1 ** since[which])
  spread = jnp.sqrt(second / (1 - B2 ** since.sum())) + EPS
  scales = jnp.maximum(old.scales - lr * mean / spread, least)
  # A bias whose scale came to 0 has no norm any more, and stays as it is.
  return Rescaling(jnp.where(old.scales > 0, scales, old.scales), first, second, counts)


def iterate(
  method: Method,
  params: Params,
  paths: tuple[str, ...],
  loss: Callable[[Params], Array],
  loss_after: Callable[[Params], Array],
  old: Rescaling,
) -> tuple[Rescaling, dict[str, Array]]:
  """One iteration (Algorithm 1): lower the gradient's norm where it is too large, else the loss.

  Args:
    method: of the learning.
    params: as they were drawn, by path.
    paths: of the n tensors that have a scale.
    loss: of the parameters, on the batch S that decides about the step.
    loss_after: the same on the batch S~, on which the step is judged.
    old: scales up to now.
  Returns:
    (scales, {norm, loss, loss_after (NaN where the norm was lowered), lowered, finite, slopes [n]
    before they are clipped}).
  """

  def gradient(scales):
    value, grads = jax.value_and_grad(loss)(scaled(params, paths, scales))
    return method.norm(grads), (value, grads)

  norm, (value, grads) = gradient(old.scales)
  # A constant: the scales are to suit the step, not to bend it.
  step = lax.stop_gradient(method.direction(grads, norm))

  def constraint(scales):
    return jax.grad(gradient, has_aux=True)(scales)[0], jnp.full_like(value, jnp.nan)

  def objective(scales):
    def after(scales):
      moved = jax.tree.map(lambda x, by: x - method.eta * by, scaled(params, paths, scales), step)
      return loss_after(moved) / method.eta

    reached, slopes = jax.value_and_grad(after)(scales)
    return slopes, reached * method.eta

  lowered = norm > method.gamma
  slopes, reached = lax.cond(lowered, constraint, objective, old.scales)
  which = jnp.where(lowered, CONSTRAINT, OBJECTIVE)
  least = jnp.array(floors(paths), old.scales.dtype)
  new = updated(old, slopes, which, method.scale_lr, least)
  finite = jnp.isfinite(norm) & jnp.isfinite(slopes).all()
  return trees.select(finite, new, old), {
    'norm': norm, 'loss': value, 'loss_after': reached, 'lowered': lowered, 'finite': finite,
    'slopes': slopes,
  }  # fmt: skip


# --- A run's


def two_batches(program: Program) -> Stage:
  """The first stage, of steps that take two minibatches: what an iteration sees."""
  return dataclasses.replace(program.stage(0), minibatches=2)


def batches(
  program: Program,
  source: data.Source,
  config: ml_collections.ConfigDict,
  history: histories.History,
) -> Batches:
  """The images of the run's first steps, two minibatches [2, B, ...] at a time."""
  paired = dataclasses.replace(program, stages=[(0, two_batches(program))])
  return Batches(paired, source, config, histories.begin(histories.seed_at(history, 0)), 0)


def mixed(batch: Batch) -> Batch:
  """The batch with every second example of the first minibatch replaced by one of the second."""

  def mix(x):
    stays = (jnp.arange(x.shape[1]) % 2 == 0).reshape(-1, *[1] * (x.ndim - 2))
    return x.at[0].set(jnp.where(stays, x[0], x[1]))

  return jax.tree.map(mix, dict(batch))


def iteration(program: Program, name: str, paths: tuple[str, ...], method: Method) -> Callable:
  """(scales, state, batch [2, B, ...]) -> (scales, report): one iteration of a player, jitted."""
  algorithm, stage = program.algorithm, two_batches(program)

  def run(old, state, batch):
    drawn = state['players'][name]['params']
    key = jax.random.fold_in(jax.random.fold_in(state['key'], KEY), old.counts.sum())

    def on(batch, key):
      def loss(params):
        tree = player.replace(drawn, params)
        return algorithm.losses({**state, 'key': key}, batch, stage)[name](tree)[0]

      return loss

    before, after = jax.random.split(key)
    losses = on(batch, before), on(mixed(batch), after)
    return iterate(method, trees.flat(drawn), paths, *losses, old)

  return on_mesh(program.mesh, jax.jit(run, out_shardings=parallel.replicated(program.mesh)))


def learn(
  program: Program, config: ml_collections.ConfigDict, state: State, images: Batches
) -> tuple[dict[str, dict[str, Array]], dict[str, Report]]:
  """Learn every player's scales in turn, the sampled player's last.

  Args:
    program: of the run.
    config: with the group gradinit.
    state: freshly made; left as it is.
    images: see `batches`.
  Returns:
    (all weights, scaled, as `init` takes them, {player: Report}).
  """
  keys = dict(config.gradinit)
  steps, method = keys.pop('steps'), Method(**keys)
  apply = jax.jit(scaled, static_argnums=1)
  tensors, given, reports = tensors_of(program, state), {}, {}
  for name in sorted(tensors, key=lambda name: name == program.algorithm.sampled):
    params = trees.flat(state['players'][name]['params'])
    rescaling, rows = learn_player(
      program, name, tensors[name].scaled, method, steps, state, images
    )
    given[name] = apply(params, tensors[name].scaled, rescaling.scales)
    reports[name] = report(tensors[name], rescaling, rows)
    one = state['players'][name]
    one = {**one, 'params': player.replace(one['params'], given[name])}
    state = {**state, 'players': {**state['players'], name: one}}
  return given, reports


def learn_player(
  program: Program,
  name: str,
  paths: tuple[str, ...],
  method: Method,
  steps: int,
  state: State,
  images: Batches,
) -> tuple[Rescaling, list[dict[str, Any]]]:
  """One player's scales, the others held fixed, and a row for every iteration; see `learn`."""
  run, rows = iteration(program, name, paths, method), []
  rescaling = jax.device_put(initial(len(paths)), parallel.replicated(program.mesh))
  line = progress.Progress(0, steps, two_batches(program).num_images, progress.out())
  with progress.ticking(f'compiling GradInit of {name}'):
    rescaling, row = jax.block_until_ready(run(rescaling, state, images.next(())))
  line.restart(1)
  said = time.monotonic()
  for done in range(1, steps + 1):
    rows.append({key: float(row[key]) for key in ('norm', 'loss', 'lowered', 'finite')})
    if done == steps or time.monotonic() - said > progress.PATIENCE:
      line.update(done, {f'GradInit of {name}: gradient norm': rows[-1]['norm']})
      said = time.monotonic()
    if done < steps:
      rescaling, row = run(rescaling, state, images.next(()))
  return rescaling, rows


def report(tensors: Tensors, rescaling: Rescaling, rows: list[dict[str, Any]]) -> Report:
  """Makes the record of a player."""
  scales = dict(zip(tensors.scaled, jax.device_get(rescaling.scales).tolist(), strict=True))
  return Report(
    scales=scales,
    scale_free=list(tensors.scale_free),
    zero=list(tensors.zero),
    norm=[rows[0]['norm'], rows[-1]['norm']],
    lowered=sum(int(row['lowered']) for row in rows),
    refused=sum(not row['finite'] for row in rows),
  )


def words(name: str, of: Report, steps: int) -> str:
  """A report for people: a line about the player, and one for every scale."""
  first, last = of.norm
  text = (
    f'GradInit of {name}: gradient norm {first:.4g}, in the end {last:.4g}; lowered in '
    f'{of.lowered} of {steps} iterations, the loss after a step in the others'
  )
  if of.refused:
    text += f'; {of.refused} were not finite and were refused'
  lines = [text, *(f'  {path:40} {scale:8.4f}' for path, scale in of.scales.items())]
  if of.scale_free:
    lines.append(f'  not scaled, as spectral norm divides it out: {", ".join(of.scale_free)}')
  if of.zero:
    lines.append(f'  not scaled, as they begin at 0: {", ".join(of.zero)}')
  return '\n'.join(lines)


def show(
  reports: Mapping[str, Report], workdir: str, config: ml_collections.ConfigDict, say: Say
) -> None:
  """Say what was learned, and leave it in the workdir: gradinit.json, gradinit.png."""
  for name, of in reports.items():
    say(words(name, of, config.gradinit.steps))
  if jax.process_index() == 0:
    told = {name: of._asdict() for name, of in reports.items()}
    files.write_json(os.path.join(workdir, 'gradinit.json'), told)
    scales = {name: of.scales for name, of in reports.items()}
    title = f'GradInit: {config.algorithm} on {config.data.source}'
    plots.scales(os.path.join(workdir, 'gradinit.png'), scales, title)
