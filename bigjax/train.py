"""config + workdir -> a trained state: loop, log, checkpoints, evaluations. Names no family.

Everything that decides the result is in (state, config, step); the disk, the clock and the terminal
are here. A resumed run writes the same bytes as one that was never stopped.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import bigjax
from bigjax import (
  build,
  checkpoint,
  data,
  evaluators,
  hosts,
  parallel,
  published,
  remote,
  report,
  rollback,
  scoring,
  transfer,
  utils,
  watch,
)
from bigjax import card as cards
from bigjax import config as configs
from bigjax import history as histories
from bigjax.latents import How, check_truncation
from bigjax.latents import parse as parse_truncation
from bigjax.log import Log, Profile, Say

HELD_OUT = 4096  # images, at least, of which a held-out batch is drawn


def load_data(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, data.Source]:
  """Return the config, its number of classes read from the data where it is None, and the data.

  Raises:
    UserError: the data cannot be read, or does not fit the config.
  """
  configs.check(config)
  source = data.load(config.data)
  config = config.copy_and_resolve_references()
  config.data.num_classes = len(source.class_names)
  return config, source


def refuse_too_few(source: data.Source, program: build.Program) -> None:
  """Refuse a set that does not fill one minibatch.

  Raises:
    UserError: it does not.
  """
  _, num_examples = program.algorithm.stage(0).batch
  if source.num_train < num_examples:
    raise utils.UserError(
      f'the data has {source.num_train} training images, fewer than one batch of {num_examples}; '
      'give more images, or a smaller batch size.'
    )


class Batches:
  """The global batch of every step, two ahead of their use, and the time spent waiting for them."""

  def __init__(
    self,
    program: build.Program,
    source: data.Source,
    config: ml_collections.ConfigDict,
    history: histories.History,
    step: int,
  ):
    self._placed = _placed(program, source, config.data.flip, history, step)
    self._ahead: collections.deque[Any] = collections.deque()
    self._waited = 0.0

  def next(self, previous: Any) -> Any:
    """Return the next batch. Where `previous` (a step's metrics) is done by then, that was waiting.

    An upper bound: the devices may have finished at any time in between.
    """
    began = time.monotonic()
    while len(self._ahead) < 3:
      self._ahead.append(next(self._placed))
    if all(leaf.is_ready() for leaf in jax.tree.leaves(previous)):
      self._waited += time.monotonic() - began
    return self._ahead.popleft()

  def waited(self) -> float:
    """Return the seconds in which the devices had nothing to do but wait, since the last call."""
    waited, self._waited = self._waited, 0.0
    return waited


def _placed(
  program: build.Program, source: data.Source, flip: bool, history: histories.History, step: int
) -> Iterator[Any]:
  """Yield global batches; another batch shape or another seed begins a new stream."""
  algorithm, current = program.algorithm, None
  for now in itertools.count(step):
    shape, seed = algorithm.stage(now).batch, histories.seed_at(history, now)
    if (shape, seed) != current:
      current = shape, seed
      rows = parallel.local_rows(program.mesh, shape[1])
      position = histories.position_at(history, now, algorithm)
      stream = data.stream(source, seed, position, shape, rows, flip)
    yield parallel.to_global(program.mesh, next(stream))


def held_out_batch(program: build.Program, source: data.Source) -> Any:
  """Return one batch shaped as the step's, from held-out images (repeated where they are few)."""
  num_minibatches, num_examples = program.algorithm.stage(0).batch
  images, labels = source.held_out(max(HELD_OUT, num_minibatches * num_examples))
  labels = data.one_label(labels)
  rows = parallel.local_rows(program.mesh, num_examples)
  pick = np.arange(num_minibatches)[:, None] * num_examples + rows[None]
  pick = np.random.RandomState(0).permutation(len(images))[pick % len(images)]
  return parallel.to_global(program.mesh, {'image': images[pick], 'label': labels[pick]})


class Evaluation:
  """Samples, scores and pictures of the averaged generator with standing statistics."""

  def __init__(
    self, program: build.Program, source: data.Source, config: ml_collections.ConfigDict
  ):
    self._program, self._source, self._config = program, source, config.eval
    self._columns = config.eval.grid_columns
    self._how = How(passes=config.eval.standing_passes, batch=config.eval.standing_batch)
    real = [functools.partial(data.labelled, images) for images in (source.train, source.held_out)]
    self._score, self.floor = evaluators.load(config.eval.name, *real)
    best = config.run.best
    if best and best.removeprefix('-') not in self.floor:
      given = f'{", ".join(self.floor)} (with a leading - where lower is better)'
      raise utils.UserError(
        f'run.best is {best!r}, but eval.name={config.eval.name} gives '
        f'{given if self.floor else "no scores: set run.best= to nothing"}.'
      )

  def ready(self, state: Any) -> Any:
    """Return gen calibrated untruncated."""
    return self._program.sampler.calibrate(self._program.gen(state), 0, self._how)

  def __call__(self, state: Any, workdir: str, step: int) -> tuple[Any, dict[str, float]]:
    """Return (gen calibrated untruncated, scores), and write the class grid of this step."""
    sampler, gen = self._program.sampler, self.ready(state)
    num_classes, num = len(self._source.class_names), self._config.num_samples
    labels = np.arange(num, dtype=np.int32) % num_classes
    images = sampler.images(gen, sampler.latents(1, num, self._how), labels, self._how, batch=256)
    shown = np.repeat(np.arange(min(num_classes, 10), dtype=np.int32), self._columns)
    cells = sampler.images(gen, sampler.latents(0, len(shown), self._how), shown, self._how)
    if jax.process_index() == 0:
      report.grid(cells, self._columns).save(os.path.join(workdir, 'samples', f'{step:08d}.png'))
    return gen, {name: round(value, 6) for name, value in self._score((images, labels)).items()}


def prepare_workdir(
  workdir: str, config: ml_collections.ConfigDict, about: Mapping[str, Any], change: bool = False
) -> tuple[ml_collections.ConfigDict, histories.History]:
  """Create the workdir, or check that it belongs to this config.

  Returns:
    (the config that its run began with, its history).
  Raises:
    UserError: it cannot be written, or holds a run of another config or on other data.
  """
  try:
    os.makedirs(os.path.join(workdir, 'samples'), exist_ok=True)
    probe = os.path.join(workdir, f'.writable{jax.process_index()}')
    with open(probe, 'w'):
      pass
    os.remove(probe)
  except OSError as error:
    raise utils.UserError(
      f'the workdir {workdir!r} cannot be written ({error.strerror}); give another with --workdir.'
    ) from None
  history = histories.read(workdir)
  hosts.wait('history')  # before the first of them writes it
  if history is None:
    history = histories.begin(config.seed)
  else:
    config, patch = histories.reconcile(workdir, config, history, change)
    refuse_other_data(workdir, about)
    if patch:
      history = with_change(workdir, history, patch)
  if jax.process_index() == 0:
    report.write_json(os.path.join(workdir, 'config.json'), configs.flatten(config))
    report.write_json(os.path.join(workdir, 'data.json'), about)
    histories.write(workdir, history)
  return config, history


def with_change(
  workdir: str, history: histories.History, patch: dict[str, Any]
) -> histories.History:
  """Return the history of a run whose config is to be another from its newest checkpoint on."""
  step = max(checkpoint.list_steps(workdir), default=0)
  position = checkpoint.read_meta(workdir, step)['position'] if step else 0
  seed = patch.get('seed', histories.seed_at(history, step))
  reason = f'asked for: {histories.words_of(patch)}'
  return histories.changed(history, step, seed, patch, position, reason)


def about_data(source: data.Source) -> dict[str, Any]:
  """Return what data.json says of the data."""
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
  theirs = report.read_json(path) if os.path.exists(path) else about
  if theirs['digest'] != about['digest']:
    raise utils.UserError(
      f'the workdir {workdir!r} holds a run on other training images ({theirs["num_train"]:,}, now '
      f'{about["num_train"]:,}; or they changed); restore them, or give another --workdir.'
    )


def export_truncations(config: ml_collections.ConfigDict, dialects: tuple[str, ...]) -> list[str]:
  """Return `export.truncations` as words, however they were given on the command line.

  Args:
    config: of the run.
    dialects: that mean something for its latents.
  Raises:
    UserError: one of them means nothing.
  """
  words = [w.strip() for given in config.export.truncations for w in str(given).split(',')]
  for word in words:
    check_truncation(parse_truncation(word, config.export.dialect), dialects)
  return words


def make_card(
  program: build.Program, source: data.Source, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Return what travels with a generator: its network, its data, how to sample it."""
  return {
    'format': cards.FORMAT,
    'bigjax': bigjax.__version__,
    'algorithm': config.algorithm,
    'architecture': program.algorithm.architecture(),
    'class_names': list(source.class_names),
    'data': config.data.source,
    'license': f'data: {source.license}; weights: set by whoever publishes them',
    'config_hash': configs.digest(config),
    'dialect': config.export.dialect,
    'truncations': export_truncations(config, program.sampler.generator.dialects),
    'standing_passes': config.eval.standing_passes,
    'standing_batch': config.eval.standing_batch,
  }


def dry_run(config: ml_collections.ConfigDict) -> None:
  """Print the resolved config, the parameters of every player, and the stages."""
  try:
    from clu import parameter_overview
  except ImportError:
    raise utils.UserError("--dry_run needs clu; run: pip install 'bigjax[train]'") from None

  if config.data.get('num_classes') is None:
    config, _ = load_data(config)
  program = build.make(config)
  for key, value in configs.flatten(config).items():
    print(f'config.{key} = {value}')
  for name, player in program.shapes()['players'].items():
    print(f'\nplayer {name}')
    print(parameter_overview.get_parameter_overview(player['params'], include_stats=False))
  stages = {}
  for step in range(config.run.steps):
    stages.setdefault(program.algorithm.stage(step), step)
  print(f'\n{config.run.steps} steps in {len(stages)} stage(s):')
  for stage, first in stages.items():
    print(
      f'  from step {first}: {stage.resolution} px, {stage.batch[0]} x {stage.batch[1]} images each'
      f'{", with " + ", ".join(sorted(stage.due)) if stage.due else ""}'
    )


def given_weights(
  program: build.Program, workdir: str, init_from: str, class_names: Sequence[str]
) -> tuple[transfer.Weights, str]:
  """Return the weights to begin with and a table of them; none where the workdir has checkpoints.

  Raises:
    UserError: those of `init_from` cannot be read, or none fits.
  """
  if not init_from or checkpoint.list_steps(workdir):
    return {}, ''
  given, table = transfer.begin(init_from, program.shapes(), class_names)
  return given, f'weights of {init_from}:\n{table}'


def restore(
  program: build.Program, checkpoints: checkpoint.Checkpoints, config_hash: str, say: Say
) -> tuple[Any, int] | None:
  """Return (state, step) from the newest readable checkpoint, or None where there is none.

  Raises:
    UserError: the checkpoint was written under another config.
  """
  restored = checkpoints.restore_latest(program.shapes(), warn=say)
  if restored is None:
    return None
  state, meta = restored
  if meta['config_hash'] != config_hash:
    raise utils.UserError(
      f'checkpoint {meta["step"]} was written under another config (hash {meta["config_hash"]}, '
      f'this one has {config_hash}); use its config, or another --workdir.'
    )
  checkpoints.set_aside(meta['step'], 'corrupt', say)
  say(f'resuming at step {meta["step"]}')
  return state, meta['step']


def refuse_non_finite(metrics: Mapping[str, Any], step: int, most: int) -> None:
  """End a run in which too many updates in a row were refused.

  Raises:
    UserError: there were at least `most`.
  """
  skipped = int(metrics['skipped'])
  if skipped >= most:
    raise utils.UserError(
      f'{skipped} updates in a row were not finite and were refused, up to step {step}; '
      'lower the learning rates, or resume from an earlier checkpoint.'
    )


@dataclasses.dataclass(frozen=True)
class Ready:
  """Everything that a config decides, made before anything is written."""

  config: ml_collections.ConfigDict
  source: data.Source
  program: build.Program
  evaluation: Evaluation
  card: dict[str, Any]


def make_ready(
  config: ml_collections.ConfigDict, source: data.Source, devices: Sequence[jax.Device] | None
) -> Ready:
  """Build what a config asks for.

  Raises:
    UserError: it does not fit the data or the devices.
  """
  program = build.make(config, devices)
  refuse_too_few(source, program)
  evaluation = Evaluation(program, source, config)
  return Ready(config, source, program, evaluation, make_card(program, source, config))


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  devices: Sequence[jax.Device] | None = None,
  change: bool = False,
) -> dict[str, Any]:
  """Train from where the workdir stands to `config.run.steps`; return the summary.

  Args:
    config: of the run.
    workdir: where it lives, a folder, gs:// or s3://; created where it is missing, resumed where it
      is not.
    devices: to train on (default: all, on all hosts).
    change: go on with this config where the workdir has another, and write that in its history.
  Returns:
    What summary.json holds; {} where the run was told to end before its last step.
  Raises:
    UserError: config, data or workdir do not fit, the updates stay non-finite, or the watchdog ends
      the run.
  """
  began = time.monotonic()
  scoring.check(config)
  watch.check(config)
  workdir = remote.local(workdir, training=True)
  config, source = load_data(config)
  histories.read_patch(config.watch.patch, config)
  ready = make_ready(config, source, devices)
  given = given_weights(ready.program, workdir, config.init_from, source.class_names)
  base, history = prepare_workdir(workdir, config, about_data(source), change)
  main = jax.process_index() == 0
  say = report.Progress(0, config.run.steps, 0, sys.stderr if main else None).say
  for level, sentence in source.findings:
    if level != 'ok':
      say(f'{level}: {sentence}')
  with hosts.Notice() as notice:
    while True:
      now = histories.patched(base, history)
      if configs.digest(now) != configs.digest(ready.config):
        ready = make_ready(now, source, devices)
      ready.card['config_hash'] = configs.digest(base)
      try:
        return run(ready, workdir, history, given, notice, say, began)
      except rollback.RollBack as back:
        history = rollback.go_back(workdir, now, history, back.alarm, say)
      except Exception as error:
        if not disk_is_full(error):
          raise
        steps = checkpoint.list_steps(workdir)
        kept = f'checkpoint {steps[-1]} is whole' if steps else 'no checkpoint was written yet'
        raise utils.UserError(
          f'the disk of {workdir!r} is full; {kept}: make room, and give the same command again.'
        ) from error


def disk_is_full(error: BaseException | None) -> bool:
  """Return whether an error, or one that it came from, says that there is no room left.

  Libraries below Orbax say it in words of their own.
  """
  while error is not None:
    if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    if 'No space left on device' in str(error) or 'Disk quota exceeded' in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def run(
  ready: Ready,
  workdir: str,
  history: histories.History,
  given: tuple[transfer.Weights, str],
  notice: hosts.Notice,
  say: Say,
  began: float,
) -> dict[str, Any]:
  """Train until the last step, a notice, or the watchdog's roll-back; see `train`.

  Raises:
    RollBack: to be run again, with another history.
  """
  config, source, program, evaluation = (
    ready.config, ready.source, ready.program, ready.evaluation,
  )  # fmt: skip
  card, run, curve = ready.card, config.run, published.get(config.eval.published)
  main = jax.process_index() == 0
  if main:
    report.write_json(os.path.join(workdir, 'card.json'), card)
  with contextlib.ExitStack() as stack:
    checkpoints = checkpoint.Checkpoints(workdir, run.keep, run.keep_every, run.best)
    stack.callback(checkpoints.close)
    restored = restore(program, checkpoints, card['config_hash'], say)
    if restored is None:
      weights, table = given
      if table:
        say(table)
      restored = program.init(jax.random.key(histories.seed_at(history, 0)), weights), 0
    state, first = restored
    state = {**state, 'key': histories.key_at(history, first, state['key'])}
    stream = Batches(program, source, config, history, first)
    held_out = held_out_batch(program, source)
    log = Log(workdir, first, run.steps, math.prod(program.algorithm.stage(first).batch))
    stack.callback(log.close)
    dog = rollback.Watch(config, workdir, history, first, say)
    stack.callback(dog.close)
    scores_of = scoring.start(program, config, workdir, card, first)
    stack.callback(scores_of.close)
    if scores_of.missing(first):
      scores_of.begin(evaluation.ready(state), first)
    profile = Profile(workdir, first, run.profile_steps if main else 0, say)
    stack.callback(profile.close)
    copies = remote.Copies(workdir, say) if main else remote.Copies('', say)
    copies.push()
    metrics: Any = ()
    scores: dict[str, float] = {}
    if first >= run.steps:
      say(f'{workdir} is at step {first} already; a larger --config.run.steps trains on')
      _, scores = evaluation(state, workdir, first)

    def draw(done: int) -> None:
      title = f'{config.algorithm} on {config.data.source}, step {done}'
      log.draw(evaluation.floor, curve, histories.events(history, dog.events()), title)

    def judge(done: int, row: Mapping[str, float]) -> None:
      try:
        dog.see(done, row)
      except (rollback.RollBack, utils.UserError):
        draw(done)  # what ends the run is in the picture
        raise

    for step in range(first, run.steps):
      batch = stream.next(metrics)
      profile.before(step)
      state, metrics = program.step(state, batch, program.algorithm.stage(step))
      done = step + 1
      if step == first:
        jax.block_until_ready(state)
        spent = utils.duration(time.monotonic() - began)
        digest = build.digest(program.lower(config.data.channels, step))  # traced already
        say(f'first step after {spent} (data and compilation); program {digest}')
        stream.waited()
        log.restart(done)
      if utils.due(done, run.log_every):
        judge(done, log.metrics(done, metrics | program.of_batch(batch), stream.waited()))
        refuse_non_finite(metrics, done, run.max_skipped)
      # A last step off the periods is evaluated and kept, but leaves no row: a run that goes on has
      # none there.
      told = notice.reached(done) and done < run.steps
      evaluated = (utils.due(done, run.eval_every) or done == run.steps) and not told
      kept = utils.due(done, run.checkpoint_every) or done == run.steps or told
      if evaluated or kept:
        refuse_non_finite(metrics, done, run.max_skipped)  # waits for the step, too
      pause = time.monotonic()
      profile.after(done, state)
      if evaluated:
        signs = jax.device_get(program.probe(state, batch, held_out))
        gen, scores = evaluation(state, workdir, done)
        signs = {name: float(value) for name, value in sorted(signs.items())}
        if utils.due(done, run.eval_every):
          log.write(done, {**signs, **scores})
        say(f'step {done}: ' + '  '.join(f'{k} {v:.3f}' for k, v in scores.items()))
        if alarm := published.far_off(curve, done, scores):
          say(f'warning: {alarm}')
        judge(done, {**signs, **scores})
        draw(done)
      if scores_of.due(done) and evaluated:
        scores_of.begin(gen, done)
      # What is before a checkpoint would not be scored again by a run that goes on from it.
      for scored_at, found in scores_of.finished(wait_for=done if kept else None):
        log.scores(scored_at, found)
      if kept:
        copies.push()
        gen = gen if evaluated else program.gen(state)
        meta = {
          'config_hash': card['config_hash'],
          'position': histories.position_at(history, done, program.algorithm),
        }
        checkpoints.save(done, state, gen, meta, scores if evaluated else None)
      log.skip(time.monotonic() - pause)
      if told:
        say(f'told to end: saved step {done}; the same command goes on from there')
        break
    for scored_at, found in scores_of.finished(wait_for=run.steps + 1):
      log.scores(scored_at, found)
  if int(state['step']) < run.steps:
    copies.finish()
    return {}
  summary = finish(program, evaluation, state, card, workdir, scores, began)
  copies.finish()
  return summary


def finish(
  program: build.Program,
  evaluation: Evaluation,
  state: Any,
  card: dict[str, Any],
  workdir: str,
  scores: dict[str, float],
  began: float,
) -> dict[str, Any]:
  """Export the generator, write summary.json and print the scores beside those of real images."""
  step = int(state['step'])
  card = {**card, 'step': step, 'images_seen': program.algorithm.position(step), 'scores': scores}
  gen = program.sampler.calibrate_all(program.gen(state), card)
  if jax.process_index() == 0:
    path = os.path.join(workdir, 'export', 'generator.safetensors')
    cards.save(path, gen, card)
  seconds = time.monotonic() - began
  summary = {
    **scores,
    'real': evaluation.floor,
    'step': step,
    'seconds': round(seconds, 1),
    'config_hash': card['config_hash'],
    'bigjax': bigjax.__version__,
  }
  if jax.process_index() == 0:
    report.write_json(os.path.join(workdir, 'summary.json'), summary)
    print(f'{"":16}{"samples":>9}{"real":>9}')
    for name, value in scores.items():
      print(f'{name:16}{value:9.3f}{evaluation.floor[name]:9.3f}')
    print(
      f'{step} steps in {utils.duration(seconds)}: see samples, curves.png and '
      f'vital_signs.png in {workdir}; try: bigjax sample --params {path}'
    )
  return summary


USAGE = """usage: bigjax train [--config NAME[:variant] | FILE.py[:variant]] [--workdir DIR]
                    [--dry_run] [--change] [--config.group.key=value ...]

Trains from a config, or resumes the run that DIR holds (default: digits, in runs/NAME).
--dry_run prints the config, the parameters of every player and the stages, and exits.
--change goes on with other values than the run in DIR began with, and writes that in its history.
Config files are Python and are executed: run only those you trust.
"""
OPTIONS = {'workdir': 'where the run lives'}
SWITCHES = {'dry_run': 'show what would run', 'change': 'go on with other values'}


def parse(argv: list[str]) -> tuple[ml_collections.ConfigDict, str, dict[str, bool]]:
  """Return (config with overrides, workdir, switches) from the command line.

  Raises:
    UserError: it makes no sense.
  """
  config, name, given = configs.parse('train', argv, OPTIONS, SWITCHES)
  return config, given['workdir'] or os.path.join('runs', name), given


def main(argv: list[str]) -> None:
  """`bigjax train`."""
  if '--help' in argv or '-h' in argv:
    print(USAGE + '\nconfigs: ' + ', '.join(sorted(configs.builtin())))
    return
  config, workdir, given = parse(argv)
  if given['dry_run']:
    dry_run(config)
    return
  hosts.connect()
  build.use_compilation_cache()
  with hosts.together():
    train(config, workdir, change=given['change'])
