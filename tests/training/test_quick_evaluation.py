"""What a run is scored with: which images, which groups of classes."""

import types

import pytest

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.evaluation import quick
from bigjax.training import quick_evaluation


def evaluation_of(monkeypatch, num_classes, **changes):
  """(Training and held-out images, groups) that an evaluator is given."""
  config = configs.read('digits:tiny,digits')
  config.data.update(changes)
  generator = types.SimpleNamespace(num_classes=num_classes)
  sampler = lambda stage: types.SimpleNamespace(generator=generator)
  program = types.SimpleNamespace(stages=[(0, None)], sampler=sampler)
  given = []
  monkeypatch.setattr(quick, 'load', lambda name, *args: given.append(args) or (None, {}))
  source = data.load(config.data)
  quick_evaluation.Evaluation(program, source, config)
  ((train, held_out, groups),) = given
  return source, len(train(10**6)[1]), len(held_out(10**6)[1]), groups


def test_a_tail_is_scored_against_even_images_and_by_group(monkeypatch):
  source, train, held_out, groups = evaluation_of(monkeypatch, 10, imbalance=20.0)
  assert source.num_train < 600 and (train, held_out) == (1347, 450)
  assert [(name, classes.tolist()) for name, classes in groups] == [
    ('rare', [7, 8, 9]), ('frequent', [0, 1, 2]),
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('num_classes', 'changes', 'num'), [(10, {'per_class': 9}, 90), (1, {'imbalance': 20.0}, 1347)]
)
def test_else_there_are_no_groups(monkeypatch, num_classes, changes, num):
  _, train, _, groups = evaluation_of(monkeypatch, num_classes, **changes)
  assert (train, groups) == (num, ())


def test_the_best_of_rare_classes_can_be_kept_where_there_are_any():
  config = configs.read('digits')
  config.run.best = 'std_ratio_rare'
  with pytest.raises(errors.UserError, match=r"run\.best is 'std_ratio_rare'"):
    quick_evaluation.check(config)
  config.data.imbalance = 20.0
  quick_evaluation.check(config)
