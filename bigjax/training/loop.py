"""config + workdir -> a trained state: loop, log, checkpoints, evaluations. Names no family.

Everything that decides the result is in (state, config, step); the disk, the clock and the terminal
are here. A resumed run writes the same bytes as one that was never stopped.
"""

import contextlib
import os
import shlex
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

import bigjax
from bigjax.algorithms.base import configs
from bigjax.core import buckets, files, processes, progress
from bigjax.evaluation import during_training
from bigjax.sampling import generator_file as cards
from bigjax.training import history as histories
from bigjax.training import holder, init_from, rollback
from bigjax.training.batches import load_data
from bigjax.training.ready import Ready, card_architecture, check, make_ready
from bigjax.training.records import stopwatch
from bigjax.training.records.logs import Say
from bigjax.training.records.session import Session
from bigjax.training.run import begin, refuse_non_finite
from bigjax.training.workdir import (
  about_data,
  given_weights,
  prepare_workdir,
  saying_disk_trouble,
)


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  devices: Sequence[jax.Device] | None = None,
  change: bool = False,
  began: float | None = None,
) -> dict[str, Any]:
  """Train from where the workdir stands to `config.run.steps`; return the summary.

  Args:
    config: of the run.
    workdir: where it lives, a folder, gs:// or s3://; created where it is missing, resumed where it
      is not.
    devices: to train on (default: all, on all hosts).
    change: go on with this config where the workdir has another, and write that in its history.
    began: time.monotonic() when the process began, for the run's clock (default: now).
  Returns:
    What summary.json holds; {} where the run was told to end before its last step.
  Raises:
    UserError: config, data or workdir do not fit, the updates stay non-finite, or the watchdog ends
      the run.
  """
  check(config)
  with holder.hold(workdir, progress.say) as still_held:
    folder = buckets.local(workdir, training=True)
    session = Session(folder, began)
    with contextlib.closing(session), stopwatch.compilations(session.watch, 'compilation'):
      return train_alone(config, folder, devices, change, still_held, session)


def train_alone(
  config: ml_collections.ConfigDict,
  workdir: str,
  devices: Sequence[jax.Device] | None,
  change: bool,
  still_held: holder.Check,
  session: Session,
) -> dict[str, Any]:
  """Train in a folder that no other run writes to; see `train`."""
  # Everything that can be refused, before anything is written.
  config, source = load_data(config)
  ready = make_ready(config, source, devices)
  given = given_weights(ready.program, workdir, config.init_from, source.class_names)
  say = progress.say
  with saying_disk_trouble(workdir):
    base, history = prepare_workdir(workdir, config, about_data(source), change)
    session.begin()
    for level, sentence in source.findings:
      if level != 'ok':
        say(f'{level}: {sentence}')
    # Run, and run again from an earlier checkpoint where the watchdog wants that.
    with processes.Notice(still_held) as notice:
      while True:
        now = histories.patched(base, history)
        if configs.config_hash(now) != configs.config_hash(ready.config):
          ready = make_ready(now, source, devices)
        ready.card['config_hash'] = configs.config_hash(base)
        try:
          return loop(ready, workdir, history, given, notice, say, session)
        except rollback.RollBack as back:
          history = rollback.go_back(workdir, now, history, back.alarm, say)


def loop(
  ready: Ready,
  workdir: str,
  history: histories.History,
  given: tuple[init_from.WeightsByPlayer, str],
  notice: processes.Notice,
  say: Say,
  session: Session,
) -> dict[str, Any]:
  """Train until the last step, a notice, or the watchdog's roll-back; see `train`.

  Raises:
    RollBack: to be run again, with another history.
  """
  config, program = ready.config, ready.program
  periods, watch = config.run, session.watch
  watch.goes_on('start')
  with contextlib.ExitStack() as stack:
    state, run = begin(ready, workdir, history, given, say, session, stack)
    watch.goes_on('steps')
    stage, held_out, gen = None, None, None
    metrics: Any = ()
    scores: dict[str, float] = {}
    if run.first >= periods.steps:
      say(f'{workdir} is at step {run.first} already; a larger --config.run.steps trains on')
      now = program.stage(run.first)
      with watch.part('evaluation'):
        _, scores = ready.evaluation(state, now, workdir, run.first, during_training.Off())

    for step in range(run.first, periods.steps):
      # Stage: another one has programs, sizes and a held-out batch of its own.
      new_stage = program.stage(step) != stage
      if new_stage:
        jax.block_until_ready(state)  # the last steps of the stage before are no pause
        changed, stage = time.monotonic(), program.stage(step)
        held_out = run.enter(step)
      # Step.
      batch = run.stream.next(metrics)
      run.profile.before(step)
      state, metrics = program.step(state, batch, step)
      done = step + 1
      if new_stage:
        jax.block_until_ready(state)
        run.entered(done, time.monotonic() - changed)
      # Log.
      if progress.due(done, periods.log_every):
        run.log_row(metrics, batch, done)
      last = done == periods.steps
      preempted = notice.reached(done) and not last
      evaluated = (progress.due(done, periods.eval_every) or last) and not preempted
      save_now = progress.due(done, periods.checkpoint_every) or last or preempted
      if evaluated or save_now:
        refuse_non_finite(metrics, done, periods.max_skipped)  # waits for the step, too
      pause = time.monotonic()
      run.profile.after(done, state)
      # Evaluation.
      with watch.part('evaluation'):
        if evaluated:
          gen, scores = run.evaluate(state, batch, held_out, stage, done)
        # What is before a checkpoint would not be scored again by a run that goes on from it.
        run.log_scores(wait_for=done if save_now else None)
      # Checkpoint.
      with watch.part('checkpoints'):
        run.snapshots.take(state, done)
        if save_now:
          gen = gen if evaluated else program.gen(state, stage)
          run.save(state, gen, stage, done, scores if evaluated else None)
      if evaluated or progress.due(done, periods.log_every):
        run.mirrors.push(done)
      run.log.skip(time.monotonic() - pause)
      if preempted:
        say(f'told to end: saved step {done}; the same command goes on from there')
        break
    with watch.part('evaluation'):
      run.log_scores(wait_for=periods.steps + 1)
  ended = int(state['step']) >= periods.steps
  summary = finish(ready, state, workdir, scores, session) if ended else {}
  session.mark(int(state['step']))  # what came after its checkpoint is not to be done again
  run.copies.finish()
  return summary


def finish(
  ready: Ready, state: Any, workdir: str, scores: dict[str, float], session: Session
) -> dict[str, Any]:
  """Export the generator, write summary.json and print the scores beside those of real images."""
  program, evaluation, card = ready.program, ready.evaluation, ready.card
  step = int(state['step'])
  stage = program.stage(max(step - 1, 0))
  card = {
    **card,
    'architecture': card_architecture(program, stage),
    'step': step,
    'images_seen': program.position(step),
    'scores': scores,
  }
  gen = program.sampler(stage).prepare_all(program.gen(state, stage), card['sampling'])
  if jax.process_index() == 0:
    path = os.path.join(workdir, 'export', 'generator.safetensors')
    cards.save(path, gen, card)
  summary = {
    **scores,
    'real': evaluation.floor,
    **({'floor_of': evaluation.floor_name} if evaluation.floor_name != 'real' else {}),
    'step': step,
    **session.summary(),
    'config_hash': card['config_hash'],
    'bigjax': bigjax.__version__,
    'compiler_options': dict(program.options),
  }
  if jax.process_index() == 0:
    files.write_json(os.path.join(workdir, 'summary.json'), summary)
    width = max((len(name) for name in scores), default=0)
    if scores:  # else there was no evaluator
      floor_of = evaluation.floor_name
      column = max(9, len(floor_of) + 2)
      print(f'{"":{width}}{"samples":>9}{floor_of:>{column}}')
    for name, value in scores.items():
      print(f'{name:{width}}{value:9.3f}{evaluation.floor[name]:{column}.3f}')
    print(
      f'{session.words(step)}: see samples, curves.png and '
      f'vital_signs.png in {workdir}; try: bigjax sample --params {shlex.quote(path)}'
    )
    print(session.clock_words())
  return summary
