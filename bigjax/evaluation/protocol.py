"""Scores of image sets by name: what is asked for, what it is compared with, how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import bigjax
from bigjax import data
from bigjax.algorithms.base.contract import Generator, Spec
from bigjax.core import errors
from bigjax.core.progress import say
from bigjax.evaluation.feature_pass import FeaturePass
from bigjax.evaluation.image_sets import ImageSet
from bigjax.evaluation.metrics import registry
from bigjax.evaluation.metrics.registry import METRICS, FeatureStats
from bigjax.evaluation.reference import Reference, chosen


def refuse_clips(metrics: Sequence[str], what: str = '--metrics=') -> None:
  """Refuse scores that clips have not; `what` is how they were asked for.

  Raises:
    UserError: names the first.
  """
  for name in metrics:
    if METRICS[name].stills:
      raise errors.UserError(
        f'{what}{name} is for still images, and these are clips; leave it out.'
      )


def refuse(metrics: Sequence[str], split: str, num_classes: int) -> None:
  """Refuse scores that cannot be had, before anything is computed.

  Args:
    metrics: asked for.
    split: of the reference, 'stats' where only its mean and covariance are known, '' for none.
    num_classes: of the samples, 0 where they have no labels.
  Raises:
    UserError: names the first.
  """
  for name in metrics:
    metric = METRICS[name]
    if metric.compares and not split:
      raise errors.UserError(
        f'--metrics={name} compares with real images; give --reference, such as tfds:cifar10/train.'
      )
    needs = [kept for kept in metric.keeps if kept not in ('logits', 'spatial')]
    if metric.compares and needs and split == 'stats':
      raise errors.UserError(
        f'--metrics={name} needs the real images themselves, --reference has only their mean and '
        'covariance; give a source such as tfds:cifar10/train.'
      )
    if 'labels' in needs and not num_classes:
      raise errors.UserError(f'--metrics={name} needs labels, which these images have not.')


def scored(
  samples: FeatureStats,
  reference: Reference | None,
  metrics: Sequence[str],
  network: str,
  seed: int,
) -> dict[str, float]:
  """Return {full name: value} of one set of samples."""
  split = reference.split if reference else ''
  found = {}
  for name in metrics:
    metric = METRICS[name]
    against = reference.seen if metric.compares else None
    num = metric.num_used(samples, against)
    for short, value in metric.score(samples, against, seed).items():
      found[registry.full_name(short, metric, num, split, network)] = float(value)
  return found


def warn(samples: FeatureStats, reference: Reference | None, metrics: Sequence[str]) -> None:
  """Say what makes scores of so many samples doubtful."""
  for warning in registry.warnings(samples, reference and reference.seen, metrics):
    say(f'warning: {warning}')


def cell(score: Mapping[str, Any]) -> str:
  """Return '12.3 ± 0.2', or '12.3' of one seed."""
  spread = '' if score['std'] is None else f' ± {score["std"]:.2g}'
  return f'{score["value"]:.4g}{spread}'


def over_seeds(each: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
  """Return {name: {value: mean over seeds, std: their standard deviation, seeds: each}}."""
  return {
    name: {
      'value': float(np.mean([scores[name] for scores in each])),
      'std': float(np.std([scores[name] for scores in each], ddof=1)) if len(each) > 1 else None,
      'each': [scores[name] for scores in each],
    }
    for name in each[0]
  }


def floor_of(
  look: FeaturePass, other: ImageSet, reference: Reference, metrics: Sequence[str], num: int
) -> tuple[dict[str, float], FeatureStats]:
  """Return the scores of real images that are not in the reference, and what is known of these.

  No generator need be better; `fid` of the reference and itself is there, too, and is 0.
  """
  kept = np.isin(np.arange(other.num), data.subset(other.num, num))
  most = min(num, other.num)
  batches = chosen(other.batches(look.batch), kept, look.batch)
  seen = look(batches, most, f'floor: {other.name}/{other.split}')
  return scored(seen, reference, metrics, look.network.name, 0), seen


def about_generator(generator: Generator) -> dict[str, int]:
  """What else of a generator its samples depend on, for their protocol.

  `num_given`, where it goes on with clips: its samples begin with so many real frames.
  """
  predictor = getattr(generator, 'predictor', None)
  return {} if predictor is None else {'num_given': predictor.num_given}


def protocol(
  look: FeaturePass,
  reference: Reference | None,
  num: int,
  seeds: Sequence[int],
  spec: Spec | None,
  card: Mapping[str, Any],
) -> dict[str, Any]:
  """Return everything that a score depends on, for whoever wants the same one again.

  Args:
    look: with the network.
    reference: that samples were compared with.
    num: of samples.
    seeds: of their latents.
    spec: they were sampled with; None of images that no generator made.
    card: of the generator, {} where there is none.
  """
  return {
    'bigjax': bigjax.__version__,
    'network': look.network.name,
    'network_digest': look.network.digest,
    'resizer': look.network.resizer,
    'reference': reference and f'{reference.name}/{reference.split}',
    'reference_digest': reference and reference.digest,
    'reference_num': reference and reference.seen.num,
    'num': num,
    'seeds': list(seeds) if spec else None,
    'labels': 'every class in turn' if spec else None,
    'sampling': spec and spec.described(),
    'config_hash': card.get('config_hash'),
    'step': card.get('step'),
  }
