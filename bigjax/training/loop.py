"""config + workdir -> a trained state: loop, log, checkpoints, evaluations. Names no family.

Everything that decides the result is in (state, config, step); the disk, the clock and the terminal
are here. A resumed run writes the same bytes as one that was never stopped.
"""

import contextlib
import dataclasses
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

import bigjax
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.contract import Stage
from bigjax.core import buckets, checkpoint, errors, files, processes, progress
from bigjax.core import config as core_config
from bigjax.evaluation import during_training, reference_curves
from bigjax.sampling import generator_file as cards
from bigjax.training import gradinit, holder, init_from, quick_evaluation, rollback
from bigjax.training import history as histories
from bigjax.training.batches import Batches, held_out_batch, load_data
from bigjax.training.logs import Log, Profile, Say
from bigjax.training.posthoc import snapshots
from bigjax.training.program import Compiler
from bigjax.training.ready import Ready, card_architecture, check, make_ready
from bigjax.training.records import stopwatch, writers
from bigjax.training.records.session import Session
from bigjax.training.workdir import (
  about_data,
  frozen_digest,
  given_weights,
  prepare_workdir,
  restore,
  saying_disk_trouble,
  thawed,
)


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
        changed = pause = time.monotonic()
        stage = program.stage(step)
        with watch.part('data'):
          held_out = held_out_batch(program, ready.source, stage)
        with watch.part('compilation'):
          run.compiler.enter(step)
        run.log.skip(time.monotonic() - pause)
      # Step.
      batch = run.stream.next(metrics)
      run.profile.before(step)
      state, metrics = program.step(state, batch, step)
      done = step + 1
      if new_stage:
        jax.block_until_ready(state)
        if step == run.first:
          spent = progress.duration(session.seconds)
          say(f'first step after {spent} (data and compilation)')
        else:
          run.log.changed_stage(done, time.monotonic() - changed)
        run.stream.waited()
        run.log.restart(done, stage.num_images)
      # Log.
      if progress.due(done, periods.log_every):
        row = jax.block_until_ready(metrics | program.batch_statistics(batch))
        with watch.part('logs'):
          values = run.log.metrics(done, row, run.stream.waited())
        run.check_alarms(done, values)
        refuse_non_finite(metrics, done, periods.max_skipped)
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
