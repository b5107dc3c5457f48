"""The collapse watchdog: which of a run's logged numbers are out of bounds, and since when.

BigGAN is expected to collapse (Brock et al. 2019, Section 4). Everything here is a function of the
rows of metrics.jsonl: what the devices compute for them anyway, the trainer has them on the host.
Bounds are ratios and shares (the group `watch` of a config); 0 switches a signal off.

refused: updates that were not finite, since the row before. One is too many where `watch.refused`
  is 1.
spike: a loss or norm of a gradient, over its median among the WINDOW rows before; of losses the
  distance from it, over the larger of the median and 1: hinge losses are of order 1.
one_sided: share of real or of fake images of a step that the discriminator's sign gets right; at
  most `one_sided` on one side means that it no longer tells them apart, but says one thing of all.
  Not the probe's shares: just after the generator's update it may be ahead for a while.
sigma: sigma0 of a kernel of the sampled player, over its smallest value among the WINDOW probes
  before.
still: the norm of a player's weights is the same as at the probe before: it does not learn.
data: the spread of a batch's images, under `data` of its median among the WINDOW rows before; or
  the share of its labels that are the same, within `data` of all where it was not.
variance: the evaluator's std_ratio, the spread of samples within a class over the real one.
score: the score of run.best, over its best value so far (the inverse where lower is better).

A stage of another size has other losses and norms: what came before it is no measure, but of
`refused` and `score`.

An alarm is raised when a signal is out of bounds `patience` times in a row (`refused` and `still`:
once); its onset is the first of them.
"""

import bisect
import collections
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import ml_collections

from bigjax.algorithms.base import metrics
from bigjax.algorithms.base.metrics import singular_value
from bigjax.core import errors

WINDOW = 20  # rows that a value is compared with
FEWEST = 5  # rows, without which there is no comparison
POLICIES = ('off', 'warn', 'stop', 'rollback')
AT_ONCE = ('refused', 'still')

Row = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Reading:
  """One value and its bound.

  Attributes:
    signal: 'spike', 'sigma', ...
    name: of the number it is computed from.
    value: dimensionless.
    out: whether it is out of bounds.
    words: what it means, for people.
  """

  signal: str
  name: str
  value: float
  out: bool
  words: str


@dataclasses.dataclass(frozen=True)
class Alarm:
  """A signal that stayed out of bounds.

  Attributes:
    step: at which it was raised.
    onset: the step of the first value out of bounds.
    signal, name, value: of the last reading.
    words: what it means, for people.
  """

  step: int
  onset: int
  signal: str
  name: str
  value: float
  words: str


def check(config: ml_collections.ConfigDict) -> None:
  """Refuse a group `watch`, of a checked config, that makes no sense.

  Raises:
    UserError: names the first such key.
  """
  watch = config.watch
  errors.pick(watch.policy, dict.fromkeys(POLICIES), 'watch.policy')
  for key in ('spike', 'sigma'):
    if watch[key] and watch[key] <= 1:
      raise errors.UserError(f'watch.{key} is {watch[key]}; give 0 (off) or a ratio above 1.')


class Watchdog:
  """Takes a run's rows one by one, and raises alarms.

  Args:
    watch: the group `watch` of the config.
    best: run.best: a score's name, with a leading '-' where lower is better, or ''.
    sampled: the player whose kernels are watched.
    begins: steps at which the run's stages begin.
  """

  def __init__(
    self, watch: ml_collections.ConfigDict, best: str, sampled: str, begins: Sequence[int] = (0,)
  ):
    self._watch, self._best, self._sampled = watch, best, sampled
    self._begins, self._stage = begins, 0
    self._before = collections.defaultdict(lambda: collections.deque(maxlen=WINDOW))
    self._best_so_far: float | None = None
    self._streaks: dict[tuple[str, str], list[int]] = {}  # (signal, name) -> steps out of bounds

  def readings(self, row: Row) -> Iterator[Reading]:
    """Yield what a row says, beside those before it."""
    for signal in (refused, spike, one_sided, still, data, variance):
      yield from signal(row, self._before, self._watch)
    yield from sigma(row, self._before, self._watch, self._sampled)
    yield from self._score(row)

  def _score(self, row: Row) -> Iterator[Reading]:
    name = self._best.removeprefix('-')
    value = row.get(name)
    if not name or value is None or not self._watch.score:
      return
    lower, best = self._best.startswith('-'), self._best_so_far
    better = best is None or (value < best if lower else value > best)
    if better and math.isfinite(value):
      self._best_so_far = value
      return
    left = best / value if lower else value / best if best > 0 else 1.0
    words = f'{name} is {value:.3g}, was {best:.3g}'
    yield Reading('score', name, left, not left >= self._watch.score, words)

  def see(self, row: Row) -> list[Alarm]:
    """Return the alarms that a row raises: (signal, name) once per streak."""
    step, alarms = int(row['step']), []
    stage = bisect.bisect_right(self._begins, step - 1)  # that of the step before this row
    if stage != self._stage:
      self._stage = stage
      self._forget()
    for reading in self.readings(row):
      at = reading.signal, reading.name
      if not reading.out:
        self._streaks.pop(at, None)
        continue
      streak = self._streaks.setdefault(at, [])
      streak.append(step)
      if len(streak) == (1 if reading.signal in AT_ONCE else self._watch.patience):
        alarms.append(
          Alarm(step, streak[0], reading.signal, reading.name, reading.value, reading.words)
        )
    for name, value in row.items():
      if math.isfinite(value):
        self._before[name].append(value)
    return alarms

  def _forget(self) -> None:
    """Begin anew, as at the run's first row."""
    self._streaks.clear()
    for name in self._before.keys() - {'refused'}:
      del self._before[name]


Before = Mapping[str, 'collections.deque[float]']


def refused(row: Row, before: Before, watch: ml_collections.ConfigDict) -> Iterator[Reading]:
  value = row.get('refused')
  if value is None or not watch.refused:
    return
  new = value - (before['refused'][-1] if before['refused'] else 0)
  words = f'{new:.0f} updates were not finite and were refused'
  yield Reading('refused', 'refused', new, new >= watch.refused, words)


def spike(row: Row, before: Before, watch: ml_collections.ConfigDict) -> Iterator[Reading]:
  if not watch.spike:
    return
  for name, value in row.items():
    loss = name in metrics.LOSS
    known = before[name]
    if not (loss or name in metrics.GRAD_NORM) or len(known) < FEWEST:
      continue
    usual = statistics.median(known)
    ratio = abs(value - usual) / max(abs(usual), 1) if loss else value / max(usual, 1e-30)
    words = f'{name} is {value:.3g}, was {usual:.3g}'
    yield Reading('spike', name, ratio, not ratio <= watch.spike, words)


def one_sided(row: Row, before: Before, watch: ml_collections.ConfigDict) -> Iterator[Reading]:
  del before
  if not watch.one_sided:
    return
  for name, value in row.items():
    if name in metrics.ACCURACY and name not in metrics.PROBE_ACCURACY:
      words = f'{name} is {value:.1%}: the discriminator says one thing of all images'
      yield Reading('one_sided', name, value, not value > watch.one_sided, words)


def sigma(
  row: Row, before: Before, watch: ml_collections.ConfigDict, player: str
) -> Iterator[Reading]:
  if not watch.sigma:
    return
  for name, value in row.items():
    if name.startswith(singular_value(0, player)) and before[name]:
      ratio = value / max(min(before[name]), 1e-30)
      words = f'{name} is {value:.3g}, was {min(before[name]):.3g}'
      yield Reading('sigma', name, ratio, not ratio <= watch.sigma, words)


def still(row: Row, before: Before, watch: ml_collections.ConfigDict) -> Iterator[Reading]:
  if not watch.still:
    return
  for name, value in row.items():
    if name in metrics.WEIGHT_NORM and before[name]:
      words = f'{name} is {value:.6g} as at the probe before: this player does not learn'
      yield Reading('still', name, value, value == before[name][-1], words)


def data(row: Row, before: Before, watch: ml_collections.ConfigDict) -> Iterator[Reading]:
  for name, gone in (
    ('batch_std', lambda value, usual: value < watch.data * usual),
    ('batch_label_share', lambda value, usual: value > 1 - watch.data >= usual),
  ):
    if watch.data and name in row and len(before[name]) >= FEWEST:
      value, usual = row[name], statistics.median(before[name])
      words = f'{name} of the training data is {value:.3g}, was {usual:.3g}'
      yield Reading('data', name, value, gone(value, usual), words)


def variance(row: Row, before: Before, watch: ml_collections.ConfigDict) -> Iterator[Reading]:
  del before
  value = row.get('std_ratio')
  if value is None or not watch.variance:
    return
  words = f'samples of a class vary by {value:.2f} of what real images do'
  yield Reading('variance', 'std_ratio', value, not value >= watch.variance, words)
