"""config + workdir -> a trained state: loop, log, checkpoints, evaluations. Names no family.

Everything that decides the result is in (state, config, step); the disk, the clock and the terminal
are here. A resumed run writes the same bytes as one that was never stopped.
"""

import contextlib
import dataclasses
import math
import os
import sys
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
from bigjax.nn.latents import check_truncation
from bigjax.nn.latents import parse as parse_truncation
from bigjax.sampling import generator_file as cards
from bigjax.training import history as histories
from bigjax.training import init_from, program, reference_curves, rollback, watchdog
from bigjax.training.batches import Batches, held_out_batch, load_data, refuse_too_few
from bigjax.training.logs import Log, Profile, Say
from bigjax.training.program import make_program, program_digest
from bigjax.training.quick_evaluation import Evaluation
from bigjax.training.workdir import (
  about_data,
  disk_is_full,
  given_weights,
  prepare_workdir,
  restore,
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
  program: program.Program, source: data.Source, config: ml_collections.ConfigDict
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
  program: program.Program
  evaluation: Evaluation
  card: dict[str, Any]


def make_ready(
  config: ml_collections.ConfigDict, source: data.Source, devices: Sequence[jax.Device] | None
) -> Ready:
  """Build what a config asks for.

  Raises:
    UserError: it does not fit the data or the devices.
  """
  program = make_program(config, devices)
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
    scores_of = during_training.start(program.sampler, config, workdir, card, first)
    stack.callback(scores_of.close)
    if scores_of.missing(first):
      scores_of.begin(evaluation.ready(state), first)
    profile = Profile(workdir, first, run.profile_steps if main else 0, say)
    stack.callback(profile.close)
    copies = buckets.Copies(workdir, say) if main else buckets.Copies('', say)
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
      except (rollback.RollBack, errors.UserError):
        draw(done)  # what ends the run is in the picture
        raise

    for step in range(first, run.steps):
      batch = stream.next(metrics)
      profile.before(step)
      state, metrics = program.step(state, batch, program.algorithm.stage(step))
      done = step + 1
      if step == first:
        jax.block_until_ready(state)
        spent = progress.duration(time.monotonic() - began)
        digest = program_digest(program.lower(config.data.channels, step))  # traced already
        say(f'first step after {spent} (data and compilation); program {digest}')
        stream.waited()
        log.restart(done)
      if progress.due(done, run.log_every):
        judge(done, log.metrics(done, metrics | program.of_batch(batch), stream.waited()))
        refuse_non_finite(metrics, done, run.max_skipped)
      # A last step off the periods is evaluated and kept, but leaves no row: a run that goes on has
      # none there.
      told = notice.reached(done) and done < run.steps
      evaluated = (progress.due(done, run.eval_every) or done == run.steps) and not told
      kept = progress.due(done, run.checkpoint_every) or done == run.steps or told
      if evaluated or kept:
        refuse_non_finite(metrics, done, run.max_skipped)  # waits for the step, too
      pause = time.monotonic()
      profile.after(done, state)
      if evaluated:
        signs = jax.device_get(program.probe(state, batch, held_out))
        gen, scores = evaluation(state, workdir, done)
        signs = {name: float(value) for name, value in sorted(signs.items())}
        if progress.due(done, run.eval_every):
          log.write(done, {**signs, **scores})
        say(f'step {done}: ' + '  '.join(f'{k} {v:.3f}' for k, v in scores.items()))
        if alarm := reference_curves.far_off(curve, done, scores):
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
  program: program.Program,
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
    files.write_json(os.path.join(workdir, 'summary.json'), summary)
    print(f'{"":16}{"samples":>9}{"real":>9}')
    for name, value in scores.items():
      print(f'{name:16}{value:9.3f}{evaluation.floor[name]:9.3f}')
    print(
      f'{step} steps in {progress.duration(seconds)}: see samples, curves.png and '
      f'vital_signs.png in {workdir}; try: bigjax sample --params {path}'
    )
  return summary
