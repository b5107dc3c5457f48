"""config + workdir -> a trained state: loop, log, checkpoints, evaluations. Names no family.

Everything that decides the result is in (state, config, step); the disk, the clock and the terminal
are here. A resumed run writes the same bytes as one that was never stopped.
"""

import collections
import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

import bigjax
from bigjax import build, checkpoint, data, evaluators, parallel, report, transfer, utils
from bigjax import card as cards
from bigjax import config as configs
from bigjax.latents import How, check_truncation
from bigjax.latents import parse as parse_truncation

History = list[dict[str, Any]]  # [{from_step, seed, patch, reason}], ascending
Say = Callable[[str], None]


def batches(
  program: build.Program, source: data.Source, history: History, step: int
) -> Iterator[Any]:
  """Yield the global batch of every step from `step` on, two ahead of their use."""
  ahead: collections.deque[Any] = collections.deque()
  for batch in _placed(program, source, history, step):
    ahead.append(batch)
    if len(ahead) > 2:
      yield ahead.popleft()


def _placed(
  program: build.Program, source: data.Source, history: History, step: int
) -> Iterator[Any]:
  """Yield global batches; another batch shape or another seed begins a new stream."""
  algorithm, current = program.algorithm, None
  for now in itertools.count(step):
    shape, seed = algorithm.stage(now).batch, seed_at(history, now)
    if (shape, seed) != current:
      current = shape, seed
      rows = parallel.local_rows(program.mesh, shape[1])
      stream = data.stream(source, seed, algorithm.position(now), shape, rows)
    yield parallel.to_global(program.mesh, next(stream))


def held_out_batch(program: build.Program, source: data.Source) -> Any:
  """Return one batch shaped as the step's, from held-out images (repeated where they are few)."""
  images, labels = source.held_out()
  labels = data.one_label(labels)
  num_minibatches, num_examples = program.algorithm.stage(0).batch
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
    labelled = [
      (images, data.one_label(labels)) for images, labels in (source.train(), source.held_out())
    ]
    self._score, self.floor = evaluators.load(config.eval.name, *labelled)
    best = config.run.best
    if best and best.removeprefix('-') not in self.floor:
      raise utils.UserError(
        f'run.best is {best!r}, but eval.name={config.eval.name} gives '
        f'{", ".join(self.floor)} (with a leading - where lower is better).'
      )

  def __call__(self, state: Any, workdir: str, step: int) -> tuple[Any, dict[str, float]]:
    """Return (gen calibrated untruncated, scores), and write the class grid of this step."""
    sampler = self._program.sampler
    gen = sampler.calibrate(self._program.gen(state), 0, self._how)
    num_classes, num = len(self._source.class_names), self._config.num_samples
    labels = np.arange(num, dtype=np.int32) % num_classes
    images = sampler.images(gen, sampler.latents(1, num, self._how), labels, self._how, batch=256)
    shown = np.repeat(np.arange(min(num_classes, 10), dtype=np.int32), self._columns)
    cells = sampler.images(gen, sampler.latents(0, len(shown), self._how), shown, self._how)
    if jax.process_index() == 0:
      report.grid(cells, self._columns).save(os.path.join(workdir, 'samples', f'{step:08d}.png'))
    return gen, {name: round(value, 6) for name, value in self._score((images, labels)).items()}


def prepare_workdir(workdir: str, config: ml_collections.ConfigDict) -> History:
  """Create the workdir, or check that it belongs to this config; return its history.

  Raises:
    UserError: it cannot be written, or holds a run of another config.
  """
  if '://' in workdir:
    raise utils.UserError(f'the workdir {workdir!r} is a URL; give a folder that is mounted here.')
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
  path = os.path.join(workdir, 'history.json')
  if os.path.exists(path):
    theirs = _read_json(os.path.join(workdir, 'config.json'))
    theirs = {k: v for k, v in theirs.items() if not k.startswith(configs.FREE)}
    differing = configs.differences(configs.identity(config), theirs)
    if differing:
      raise utils.UserError(
        f'the workdir {workdir!r} holds a run of another config ('
        f'{"; ".join(differing)}); give those values, or another --workdir.'
      )
    history = _read_json(path)
  else:
    history = [{'from_step': 0, 'seed': config.seed, 'patch': {}, 'reason': 'start'}]
  if jax.process_index() == 0:
    report.write_json(os.path.join(workdir, 'config.json'), configs.flatten(config))
    report.write_json(path, history)
  return history


def _read_json(path: str) -> Any:
  try:
    with open(path) as f:
      return json.load(f)
  except (OSError, ValueError) as error:
    raise utils.UserError(
      f'{path!r} cannot be read ({error}); mend it, or use another --workdir.'
    ) from None


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


def seed_at(history: History, step: int) -> int:
  """Return the seed at a step: of the data's order, and at step 0 of the state's key."""
  return [entry['seed'] for entry in history if entry['from_step'] <= step][-1]


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


class Log:
  """metrics.jsonl (values), timing.jsonl (clock), TensorBoard and the progress line."""

  def __init__(self, workdir: str, first: int, last: int, images_per_step: int):
    main = jax.process_index() == 0
    self._path = os.path.join(workdir, 'metrics.jsonl')
    self._values = report.JsonLines(self._path, first) if main else report.Null()
    self._clock = (
      report.JsonLines(os.path.join(workdir, 'timing.jsonl'), first) if main else report.Null()
    )
    self._events = (
      report.TensorBoard(os.path.join(workdir, 'tensorboard')) if main else report.Null()
    )
    self.progress = report.Progress(first, last, images_per_step, sys.stderr if main else None)
    self._start = time.time()

  def metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Write a step's metrics and move the progress line."""
    values = {name: float(value) for name, value in sorted(jax.device_get(metrics).items())}
    losses = {name: value for name, value in values.items() if name.endswith('_loss')}
    self.progress.update(step, losses)
    self.write(step, values)
    clock = {
      'images_per_second': round(self.progress.rate, 2),
      'seconds': round(time.time() - self._start, 3),
      'time': round(time.time(), 3),
    }
    self._clock.write({'step': step, **clock})
    self._events.write({'step': step, 'images_per_second': self.progress.rate})

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Write a row of values."""
    self._values.write({'step': step, **values})
    self._events.write({'step': step, **values})

  def rows(self) -> list[dict[str, Any]]:
    return report.read_rows(self._path)

  def close(self) -> None:
    for writer in (self._values, self._clock, self._events):
      writer.close()


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
  everywhere = parallel.replicated(program.mesh)
  restored = checkpoints.restore_latest(program.shapes(), everywhere, warn=say)
  if restored is None:
    return None
  state, meta = restored
  if meta['config_hash'] != config_hash:
    raise utils.UserError(
      f'checkpoint {meta["step"]} was written under another config (hash {meta["config_hash"]}, '
      f'this one has {config_hash}); use its config, or another --workdir.'
    )
  checkpoints.set_aside(meta['step'], say)
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


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
  """Train from where the workdir stands to `config.run.steps`; return the summary.

  Args:
    config: of the run.
    workdir: where it lives; created where it is missing, resumed where it is not.
    devices: to train on (default: all, on all hosts).
  Raises:
    UserError: config, data or workdir do not fit, or the updates stay non-finite.
  """
  began = time.monotonic()
  run = config.run
  program = build.make(config, devices)
  source = data.load(config.data)
  evaluation = Evaluation(program, source, config)
  card = make_card(program, source, config)
  given, table = given_weights(program, workdir, config.init_from, source.class_names)
  history = prepare_workdir(workdir, config)
  main = jax.process_index() == 0
  if main:
    report.write_json(os.path.join(workdir, 'card.json'), card)
  say = report.Progress(0, run.steps, 0, sys.stderr if main else None).say

  with contextlib.ExitStack() as stack:
    checkpoints = checkpoint.Checkpoints(workdir, run.keep, run.keep_every, run.best)
    stack.callback(checkpoints.close)
    restored = restore(program, checkpoints, card['config_hash'], say)
    if restored is None:
      if table:
        say(table)
      restored = program.init(jax.random.key(seed_at(history, 0)), given), 0
    state, first = restored
    stream = batches(program, source, history, first)
    held_out = held_out_batch(program, source)
    log = Log(workdir, first, run.steps, math.prod(program.algorithm.stage(first).batch))
    stack.callback(log.close)
    scores: dict[str, float] = {}
    if first >= run.steps:
      say(f'{workdir} is at step {first} already; a larger --config.run.steps trains on')
      _, scores = evaluation(state, workdir, first)

    for step in range(first, run.steps):
      batch = next(stream)
      state, metrics = program.step(state, batch, program.algorithm.stage(step))
      done = step + 1
      if step == first:
        jax.block_until_ready(state)
        say(f'first step after {utils.duration(time.monotonic() - began)} (data and compilation)')
        log.progress.restart(done)
      if utils.due(done, run.log_every):
        log.metrics(done, metrics)
        refuse_non_finite(metrics, done, run.max_skipped)
      # A last step off the periods is evaluated and kept, but leaves no row: a run that goes on has
      # none there.
      evaluated = utils.due(done, run.eval_every) or done == run.steps
      kept = utils.due(done, run.checkpoint_every) or done == run.steps
      if evaluated or kept:
        refuse_non_finite(metrics, done, run.max_skipped)  # waits for the step, too
      pause = time.monotonic()
      if evaluated:
        signs = jax.device_get(program.probe(state, batch, held_out))
        gen, scores = evaluation(state, workdir, done)
        if utils.due(done, run.eval_every):
          log.write(done, {**{k: float(v) for k, v in sorted(signs.items())}, **scores})
        say(f'step {done}: ' + '  '.join(f'{k} {v:.3f}' for k, v in scores.items()))
        if main:
          report.curves(
            os.path.join(workdir, 'curves.png'),
            log.rows(),
            evaluation.floor,
            f'{config.algorithm} on {config.data.source}, step {done}',
          )
      if kept:
        gen = gen if evaluated else program.gen(state)
        checkpoints.save(
          done, state, gen, {'config_hash': card['config_hash']}, scores if evaluated else None
        )
      log.progress.skip(time.monotonic() - pause)
  return finish(program, evaluation, state, card, workdir, scores, began)


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
      f'{step} steps in {utils.duration(seconds)}: see {workdir}/samples, {workdir}/curves.png; '
      f'try: bigjax sample --params {path}'
    )
  return summary


USAGE = """usage: bigjax train [--config NAME[:variant] | FILE.py[:variant]] [--workdir DIR]
                    [--dry_run] [--config.group.key=value ...]

Trains from a config, or resumes the run that DIR holds (default: digits, in runs/NAME).
--dry_run prints the config, the parameters of every player and the stages, and exits.
Config files are Python and are executed: run only those you trust.
"""


def parse(argv: list[str]) -> tuple[ml_collections.ConfigDict, str, bool]:
  """Return (config with overrides, workdir, dry_run) from the command line.

  Raises:
    UserError: an unknown flag, config, variant or config key, or a value of the wrong type.
  """
  given, words = 'digits', []
  argv = iter(argv)
  for word in argv:
    if word == '--config':
      given = next(argv, '')
    elif word.startswith('--config='):
      given = word.removeprefix('--config=')
    else:
      words.append(word)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=['bigjax train', *words])
  flags.DEFINE_string('workdir', None, 'where the run lives', flag_values=values)
  flags.DEFINE_bool('dry_run', False, 'show what would run', flag_values=values)
  try:
    rest = values(['bigjax train', f'--config={configs.resolve(given)}', *words])[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise utils.UserError(_explain(error, given, words)) from None
  if rest:
    raise utils.UserError(f'{rest[0]!r} is not an option; see bigjax train --help.')
  path, _, variant = given.rpartition(':') if ':' in given else (given, '', '')
  name = os.path.basename(path).removesuffix('.py') + (f'-{variant}' if variant else '')
  return values.config, values.workdir or os.path.join('runs', name), values.dry_run


def _explain(error: Exception, given: str, words: list[str]) -> str:
  """Return the one sentence for what absl or ml_collections made of the command line."""
  try:
    known = configs.flatten(configs.read(given))
  except (AttributeError, KeyError, TypeError, ValueError) as of_config:
    return f'--config={given}: {" ".join(str(of_config).split())}'
  for word in words:
    key, _, value = word.removeprefix('--').partition('=')
    if key.startswith('config.') and key.removeprefix('config.') not in known:
      key = key.removeprefix('config.')
      return (
        f'--config.{key}: the config has no key {key!r}{utils.did_you_mean(key, known)}; '
        'bigjax train --dry_run lists them.'
      )
    if key.startswith('config.') and value in str(error):
      key = key.removeprefix('config.')
      return f'--config.{key}={value}: expected a value like {known[key]!r}.'
  return ' '.join(str(error).split()) + '; see bigjax train --help.'


def main(argv: list[str]) -> None:
  """`bigjax train`."""
  if '--help' in argv or '-h' in argv:
    print(USAGE + '\nconfigs: ' + ', '.join(sorted(configs.builtin())))
    return
  config, workdir, dry = parse(argv)
  if dry:
    dry_run(config)
    return
  build.use_compilation_cache()
  train(config, workdir)
