"""config + workdir -> a trained state: loop, log, checkpoints, evaluations. Names no family.

Everything that decides the result is in (state, config, step); the disk, the clock and the terminal
are here. A resumed run writes the same bytes as one that was never stopped.
"""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

import bigjax
from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import buckets, checkpoint, errors, files, processes, progress
from bigjax.evaluation import during_training
from bigjax.sampling import generator_file as cards
from bigjax.training import history as histories
from bigjax.training import init_from, reference_curves, rollback, watchdog
from bigjax.training.batches import Batches, check_data, held_out_batch, load_data
from bigjax.training.logs import Log, Profile, Say
from bigjax.training.program import Program, make_program
from bigjax.training.quick_evaluation import Evaluation
from bigjax.training.workdir import (
  about_data,
  disk_is_full,
  frozen_digest,
  given_weights,
  prepare_workdir,
  restore,
  thawed,
)


def make_card(
  program: Program, source: data.Source, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """What travels with a generator: its network, its data, how to sample it.

  Raises:
    UserError: the config asks for sampling settings that mean nothing.
  """
  algorithm, (_, last) = program.algorithm, program.stages[-1]
  sampling = algorithm.sampling()
  program.sampler(last).generator.prepared(sampling)
  return {
    'format': cards.FORMAT,
    'bigjax': bigjax.__version__,
    'algorithm': config.algorithm,
    'architecture': algorithm.architecture(last),
    'player': algorithm.sampled,
    'class_names': list(source.class_names),
    'data': config.data.source,
    'license': f'data: {source.license}; weights: set by whoever publishes them',
    'config_hash': configs.digest(config),
    'sampling': sampling,
  }


def refuse_non_finite(metrics: Mapping[str, Any], step: int, most: int) -> None:
  """End a run in which too many updates in a row were refused.

  Raises:
    UserError: there were at least `most`.
  """
  skipped = int(metrics['skipped'])
  if skipped >= most:
    raise errors.UserError(
      f'{skipped} updates in a row were not finite and were refused, up to step {step}; '
      'lower the learning rates, or resume from an earlier checkpoint.'
    )


@dataclasses.dataclass(frozen=True)
class Ready:
  """Everything that a config decides, made before anything is written."""

  config: ml_collections.ConfigDict
  source: data.Source
  program: Program
  evaluation: Evaluation
  card: dict[str, Any]


def make_ready(
  config: ml_collections.ConfigDict, source: data.Source, devices: Sequence[jax.Device] | None
) -> Ready:
  """Build what a config asks for.

  Raises:
    UserError: it does not fit the data or the devices.
  """
  program = make_program(config, devices, source.class_counts)
  check_data(source, program)
  card = make_card(program, source, config)
  return Ready(config, source, program, Evaluation(program, source, config), card)


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
  # Everything that can be refused, before anything is written.
  during_training.check(config)
  watchdog.check(config)
  workdir = buckets.local(workdir, training=True)
  config, source = load_data(config)
  histories.read_patch(config.watch.patch, config)
  ready = make_ready(config, source, devices)
  given = given_weights(ready.program, workdir, config.init_from, source.class_names)
  base, history = prepare_workdir(workdir, config, about_data(source), change)
  main = jax.process_index() == 0
  say = progress.Progress(0, config.run.steps, 0, sys.stderr if main else None).say
  for level, sentence in source.findings:
    if level != 'ok':
      say(f'{level}: {sentence}')
  # Run, and run again from an earlier checkpoint where the watchdog wants that.
  with processes.Notice() as notice:
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
        raise errors.UserError(
          f'the disk of {workdir!r} is full; {kept}: make room, and give the same command again.'
        ) from error


class Compiler:
  """Compiles the programs of each stage before its first step, and the next stage's meanwhile.

  Args:
    program: of the run.
    first, last: the steps between which this process works.
    say: prints a line.
  """

  def __init__(self, program: Program, first: int, last: int, say: Say):
    self._program, self._say = program, say
    self._spans = program.spans(first, last)
    self._next: threading.Thread | None = None

  def enter(self, step: int) -> None:
    """See to everything that the stage of this step needs; then begin with the next stage's."""
    if self._next is not None:
      self._next.join()
    (start, end, stage), *later = [span for span in self._spans if span[1] > step]
    digests = [self._program.compiled(*pair)[1] for pair in self._program.pairs(start, end)]
    self._say(f'{stage}: program{"s" if len(digests) > 1 else ""} {", ".join(digests)}')
    if later:
      ahead = self._program.pairs(*later[0][:2])
      work = lambda: [self._program.compiled(*pair) for pair in ahead]
      self._next = threading.Thread(target=work, daemon=True)
      self._next.start()


def run(
  ready: Ready,
  workdir: str,
  history: histories.History,
  given: tuple[init_from.Weights, str],
  notice: processes.Notice,
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
  card, run, curve = ready.card, config.run, reference_curves.get(config.eval.published)
  main = jax.process_index() == 0
  if main:
    files.write_json(os.path.join(workdir, 'card.json'), card)
  with contextlib.ExitStack() as stack:
    # State: from the newest checkpoint, or freshly drawn.
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
    frozen = frozen_digest(state)
    # What feeds the steps, and what looks at them.
    stage = program.stage(first)
    stream = Batches(program, source, config, history, first)
    held_out = held_out_batch(program, source, stage)
    log = Log(workdir, first, run.steps, stage.num_images)
    stack.callback(log.close)
    alarms = rollback.AlarmHandler(config, program.algorithm, workdir, history, first, say)
    stack.callback(alarms.close)
    scorer = during_training.make_scorer(program.sampler(stage), config, workdir, card, first)
    stack.callback(scorer.close)
    if scorer.missing(first):
      evaluation.catch_up(state, stage, first, scorer)
    profile = Profile(workdir, first, run.profile_steps if main else 0, say)
    stack.callback(profile.close)
    copies = buckets.Copies(workdir, say) if main else buckets.Copies('', say)
    copies.push()
    compiler = Compiler(program, first, run.steps, say)
    metrics: Any = ()
    scores: dict[str, float] = {}
    if first >= run.steps:
      say(f'{workdir} is at step {first} already; a larger --config.run.steps trains on')
      _, scores = evaluation(state, stage, workdir, first, during_training.Off())

    def draw(done: int) -> None:
      title = f'{config.algorithm} on {config.data.source}, step {done}'
      marks = histories.events(history, alarms.events())
      log.draw(evaluation.floor, curve, marks, title, program.algorithm.sampled)

    def check_alarms(done: int, row: Mapping[str, float]) -> None:
      try:
        alarms.see(done, row)
      except (rollback.RollBack, errors.UserError):
        draw(done)  # what ends the run is in the picture
        raise

    for step in range(first, run.steps):
      # Stage: another one has programs, sizes and a held-out batch of its own.
      new_stage = step == first or program.stage(step) != stage
      if new_stage:
        pause = time.monotonic()
        if program.stage(step) != stage:
          jax.block_until_ready(state)  # the last steps of the stage before are not a pause
          pause = time.monotonic()
          stage = program.stage(step)
          held_out = held_out_batch(program, source, stage)
        compiler.enter(step)
        log.skip(time.monotonic() - pause)
      # Step.
      batch = stream.next(metrics)
      profile.before(step)
      state, metrics = program.step(state, batch, step)
      done = step + 1
      if new_stage:
        jax.block_until_ready(state)
        if step == first:
          spent = progress.duration(time.monotonic() - began)
          say(f'first step after {spent} (data and compilation)')
        stream.waited()
        log.restart(done, stage.num_images)
      # Log.
      if progress.due(done, run.log_every):
        row = metrics | program.batch_statistics(batch)
        check_alarms(done, log.metrics(done, row, stream.waited()))
        refuse_non_finite(metrics, done, run.max_skipped)
      # A last step off the periods is evaluated and kept, but leaves no row: a run that goes on has
      # none there.
      preempted = notice.reached(done) and done < run.steps
      evaluated = (progress.due(done, run.eval_every) or done == run.steps) and not preempted
      save_now = progress.due(done, run.checkpoint_every) or done == run.steps or preempted
      if evaluated or save_now:
        refuse_non_finite(metrics, done, run.max_skipped)  # waits for the step, too
      pause = time.monotonic()
      profile.after(done, state)
      # Evaluation: vital signs, samples, scores.
      if evaluated:
        signs = jax.device_get(program.probe(state, batch, held_out, stage))
        gen, scores = evaluation(state, stage, workdir, done, scorer)
        signs = {name: float(value) for name, value in sorted(signs.items())}
        if progress.due(done, run.eval_every):
          log.write(done, {**signs, **scores})
        say(f'step {done}: ' + '  '.join(f'{k} {v:.3f}' for k, v in scores.items()))
        if alarm := reference_curves.far_off(curve, done, scores):
          say(f'warning: {alarm}')
        check_alarms(done, {**signs, **scores})
        draw(done)
      # What is before a checkpoint would not be scored again by a run that goes on from it.
      for scored_at, found in scorer.finished(wait_for=done if save_now else None):
        log.scores(scored_at, found)
      # Checkpoint.
      if save_now:
        copies.push()
        gen = gen if evaluated else program.gen(state, stage)
        meta = {
          'config_hash': card['config_hash'],
          'position': histories.position_at(history, done, program.position),
          'frozen': frozen,
        }
        checkpoints.save(done, thawed(state), gen, meta, scores if evaluated else None)
      log.skip(time.monotonic() - pause)
      if preempted:
        say(f'told to end: saved step {done}; the same command goes on from there')
        break
    for scored_at, found in scorer.finished(wait_for=run.steps + 1):
      log.scores(scored_at, found)
  if int(state['step']) < run.steps:
    copies.finish()
    return {}
  summary = finish(program, evaluation, state, card, workdir, scores, began)
  copies.finish()
  return summary


def finish(
  program: Program,
  evaluation: Evaluation,
  state: Any,
  card: dict[str, Any],
  workdir: str,
  scores: dict[str, float],
  began: float,
) -> dict[str, Any]:
  """Export the generator, write summary.json and print the scores beside those of real images."""
  step = int(state['step'])
  stage = program.stage(max(step - 1, 0))
  card = {
    **card,
    'architecture': program.algorithm.architecture(stage),
    'step': step,
    'images_seen': program.position(step),
    'scores': scores,
  }
  gen = program.sampler(stage).prepare_all(program.gen(state, stage), card['sampling'])
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
    files.write_json(os.path.join(workdir, 'summary.json'), summary)
    width = max((len(name) for name in scores), default=0)
    print(f'{"":{width}}{"samples":>9}{"real":>9}')
    for name, value in scores.items():
      print(f'{name:{width}}{value:9.3f}{evaluation.floor[name]:9.3f}')
    print(
      f'{step} steps in {progress.duration(seconds)}: see samples, curves.png and '
      f'vital_signs.png in {workdir}; try: bigjax sample --params {path}'
    )
  return summary
