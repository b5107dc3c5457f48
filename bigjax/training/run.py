"""A run under one history: what it goes on from, what feeds its steps, what looks at them.

`loop` says when; here is what is done then, and how all of it is opened and closed.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import jax

import bigjax
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.contract import Stage
from bigjax.core import buckets, checkpoint, errors, files, progress
from bigjax.core import config as core_config
from bigjax.evaluation import during_training, reference_curves
from bigjax.training import gradinit, init_from, quick_evaluation, rollback
from bigjax.training import history as histories
from bigjax.training.batches import Batches, held_out_batch
from bigjax.training.posthoc import snapshots
from bigjax.training.program import Compiler
from bigjax.training.ready import Ready, card_architecture
from bigjax.training.records import writers
from bigjax.training.records.logs import Log, Profile, Say
from bigjax.training.records.session import Session
from bigjax.training.workdir import frozen_digest, restore, thawed


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
class Run:
  """A run under one history, and everything that feeds its steps or looks at them.

  Attributes:
    ready: what its config decides.
    workdir: where it lives.
    history: seeds, changes, roll-backs.
    first: the step that this process begins or goes on at.
    frozen: digest of the weights that no one trains.
    others: as named.
  """

  ready: Ready
  workdir: str
  history: histories.History
  first: int
  frozen: str
  checkpoints: checkpoint.Checkpoints
  stream: Batches
  log: Log
  alarms: rollback.AlarmHandler
  scorer: during_training.Scoring | during_training.Off
  profile: Profile
  snapshots: snapshots.Snapshots | snapshots.Off
  copies: buckets.Copies
  compiler: Compiler
  mirrors: writers.Mirrors
  session: Session
  say: Say

  def enter(self, step: int) -> Any:
    """The held-out batch of the stage that begins at a step, whose programs are there then."""
    pause = time.monotonic()
    with self.session.watch.part('data'):
      stage = self.ready.program.stage(step)
      held_out = held_out_batch(self.ready.program, self.ready.source, stage)
    with self.session.watch.part('compilation'):
      self.compiler.enter(step)
    self.log.skip(time.monotonic() - pause)
    return held_out

  def entered(self, done: int, seconds: float) -> None:
    """The first step of a stage is done, so many seconds after the last of the one before."""
    if done == self.first + 1:
      spent = progress.duration(self.session.seconds)
      self.say(f'first step after {spent} (data and compilation)')
    else:
      self.log.changed_stage(done, seconds)
    self.stream.waited()
    self.log.restart(done, self.ready.program.stage(done - 1).num_images)

  def log_row(self, metrics: Mapping[str, Any], batch: Any, done: int) -> None:
    """Write a row of what a step says of itself, and let the watchdog see it.

    Raises:
      RollBack, UserError: see `check_alarms`; or the updates stay non-finite.
    """
    row = jax.block_until_ready(metrics | self.ready.program.batch_statistics(batch))
    with self.session.watch.part('logs'):
      values = self.log.metrics(done, row, self.stream.waited())
    self.check_alarms(done, values)
    refuse_non_finite(metrics, done, self.ready.config.run.max_skipped)

  def draw(self, done: int) -> None:
    """Draw curves and vital signs."""
    ready = self.ready
    title = f'{ready.config.algorithm} on {ready.config.data.source}, step {done}'
    marks = histories.events(self.history, self.alarms.events())
    curve = reference_curves.get(ready.config.eval.published)
    player = ready.program.algorithm.sampled
    with self.session.watch.part('logs'):
      self.log.draw(ready.evaluation.floor, curve, marks, title, player)

  def check_alarms(self, done: int, row: Mapping[str, float]) -> None:
    """Let the watchdog see a row; what ends the run is in the picture.

    Raises:
      RollBack, UserError: see rollback.AlarmHandler.see.
    """
    try:
      self.alarms.see(done, row)
    except (rollback.RollBack, errors.UserError):
      self.draw(done)
      raise

  def evaluate(
    self, state: Any, batch: Any, held_out: Any, stage: Stage, done: int
  ) -> tuple[Any, dict[str, float]]:
    """Vital signs, samples and scores after a step: (the prepared generator, scores)."""
    program, config = self.ready.program, self.ready.config
    with progress.ticking(f'evaluating step {done} (the first time compiles)'):
      signs = jax.device_get(program.probe(state, batch, held_out, stage))
      gen, scores = self.ready.evaluation(state, stage, self.workdir, done, self.scorer)
    self.log.picture(done)
    signs = {name: float(value) for name, value in sorted(signs.items())}
    # A last step off the periods leaves no row: a run that goes on has none there.
    if progress.due(done, config.run.eval_every) and jax.process_index() == 0:  # who has samples/
      moved = quick_evaluation.moved(self.workdir, done, config.run.eval_every)
      self.log.write(done, {**signs, **scores, **moved})
    if scores:
      self.say(f'step {done}: ' + '  '.join(f'{k} {v:.3f}' for k, v in scores.items()))
    curve = reference_curves.get(config.eval.published)
    if alarm := reference_curves.far_off(curve, done, scores):
      self.say(f'warning: {alarm}')
    self.check_alarms(done, {**signs, **scores})
    self.draw(done)
    if len(program.stages) > 1 and jax.process_index() == 0:
      quick_evaluation.draw_growth(self.workdir, program.stages, done)
    return gen, scores

  def save(
    self, state: Any, gen: Any, stage: Stage, done: int, scores: Mapping[str, float] | None
  ) -> None:
    """Write a checkpoint."""
    self.session.mark(done)  # which a bucket has, too; of one that is not finished, it is forgotten
    self.copies.push()
    meta = {
      'architecture': card_architecture(self.ready.program, stage),
      'config_hash': self.ready.card['config_hash'],
      'position': histories.position_at(self.history, done, self.ready.program.position),
      'frozen': self.frozen,
    }
    self.checkpoints.save(done, thawed(state), gen, meta, scores)
    self.session.mark(done)

  def log_scores(self, wait_for: int | None) -> None:
    """Show the scores by protocol that have come in; see Scoring.finished."""
    for scored_at, found in self.scorer.finished(wait_for=wait_for):
      self.log.scores(scored_at, found)


def tags_of(card: Mapping[str, Any]) -> dict[str, str]:
  """What a tracker tells a run by, beside its config."""
  return {'bigjax': bigjax.__version__, 'config_hash': card['config_hash']}


def described(ready: Ready, history: histories.History) -> dict[str, str]:
  """What a run is, in Markdown: {its config, its data, what it has been}."""
  config, source = ready.config, ready.source
  defaults = {name: key.default for name, key in configs.keys(core_config.flat(config)).items()}
  classes = ', '.join(source.class_names[:100])
  found = [f'{level}: {sentence}' for level, sentence in source.findings]
  data = [f'{source.num_train:,} training images of {config.data.source}; {classes}', *found]
  entries = [f'- step {entry["from_step"]}: {entry["reason"]}, seed {entry["seed"]}'
             for entry in history]  # fmt: skip
  return {
    'config': writers.config_table(config, defaults),
    'data': '\n\n'.join(data),
    'history': '\n'.join(entries),
  }


def closing(stack: contextlib.ExitStack, thing: Any) -> Any:
  """The thing, which the stack will close."""
  stack.callback(thing.close)
  return thing


def begin(
  ready: Ready,
  workdir: str,
  history: histories.History,
  given: tuple[init_from.WeightsByPlayer, str],
  say: Say,
  session: Session,
  stack: contextlib.ExitStack,
) -> tuple[Any, Run]:
  """(The state to go on from, the run): from the newest checkpoint, or freshly drawn."""
  config, program, card = ready.config, ready.program, ready.card
  main = jax.process_index() == 0
  if main:
    files.write_json(os.path.join(workdir, 'card.json'), card)
  trackers = stack.enter_context(contextlib.ExitStack())  # last: no checkpoint waits for a server
  keep = config.run.keep, config.run.keep_every, config.run.best
  checkpoints = closing(stack, checkpoint.Checkpoints(workdir, *keep))
  # The state: of a checkpoint; else fresh, with given weights and GradInit's scales in it.
  restored = restore(program, checkpoints, card['config_hash'], say)
  if restored is None:
    weights, table = given
    if table:
      say(table)
    key = jax.random.key(histories.seed_at(history, 0))
    with progress.ticking('drawing the first weights'):
      fresh = program.init(key, weights)
    if gradinit.is_on(config):
      images = gradinit.batches(program, ready.source, config, history)
      scaled, reports = gradinit.learn(program, config, fresh, images)
      gradinit.show(reports, workdir, config, say)
      fresh = program.init(key, scaled)
    restored = fresh, 0
  state, first = restored
  state = {**state, 'key': histories.key_at(history, first, state['key'])}
  # All that a run holds on to; the stack closes it.
  stage, last = program.stage(first), config.run.steps
  run = Run(
    ready=ready,
    workdir=workdir,
    history=history,
    first=first,
    frozen=frozen_digest(state),
    checkpoints=checkpoints,
    stream=Batches(
      program, ready.source, config, history, first, lambda s: session.watch.move(s, 'data')
    ),
    log=closing(stack, Log(workdir, first, last, stage.num_images, session.of_steps)),
    alarms=closing(stack, rollback.AlarmHandler(config, program, workdir, history, first, say)),
    scorer=closing(
      stack, during_training.make_scorer(program.sampler(stage), config, workdir, card, first)
    ),
    profile=closing(stack, Profile(workdir, first, config.run.profile_steps if main else 0, say)),
    snapshots=snapshots.make_snapshots(program, workdir, first),
    copies=buckets.Copies(workdir if main else '', say),
    compiler=Compiler(program, first, last, say),
    mirrors=closing(trackers, writers.Mirrors(config, workdir, history, first, tags_of(card), say)),
    session=session,
    say=say,
  )
  run.log.describe(first, core_config.flatten(config), described(ready, history))
  if run.scorer.missing(first):
    with session.watch.part('evaluation'):
      ready.evaluation.catch_up(state, stage, first, run.scorer)
  session.goes_on_from(first)
  run.copies.push()
  # What the stack closes is waited for: checkpoints, most of all.
  stack.callback(session.watch.goes_on, 'checkpoints')
  return state, run
