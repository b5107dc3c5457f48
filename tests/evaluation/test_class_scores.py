"""Scores of each class, from features to the table: names, order, real images, means of thirds."""

import types

import numpy as np
import pytest

from bigjax.core import errors
from bigjax.evaluation import class_scores
from bigjax.evaluation.metrics.registry import FeatureStats

NAMES = ('cat', 'dog', 'cow')


def seen(num, right, seed):
  """`num` images of each class, of which a network with its outputs in NAMES[::-1] gets `right`."""
  rng = np.random.RandomState(seed)
  labels = np.tile(np.arange(3), num)
  predicted = np.where(np.arange(3 * num) // 3 < right * num, labels, (labels + 1) % 3)
  logits = np.eye(3)[2 - predicted]
  features = (rng.normal(size=(3 * num, 2)) + labels[:, None]).astype(np.float32)
  return FeatureStats(3 * num, None, features, logits, labels=labels)


def asked(names=NAMES[::-1], counts=(9, 90, 900), floor=True):
  network = types.SimpleNamespace(name='net', class_names=names)
  reference = types.SimpleNamespace(seen=seen(60, 1, seed=1), split='train')
  real = seen(50, 0.9, seed=2) if floor else None
  return class_scores.ByClass(reference, NAMES, network, counts, 20, real)


def test_classes_come_by_training_images_and_outputs_by_name():
  by_class = asked()
  records = by_class.records('step 1', [by_class(seen(20, right, 3)) for right in (0.5, 0.7)])
  assert [(r['name'], r['class'], r['train_images']) for r in records] == [
    ('cow', 2, 900), ('dog', 1, 90), ('cat', 0, 9),
  ]  # fmt: skip
  for record in records:
    assert record['scores'].keys() == record['real'].keys() == {
      'fd20_train_net', 'precision20_train_net_k3', 'coverage20_train_net_k5', 'agreement20_net',
    }  # fmt: skip
    assert record['scores']['agreement20_net']['each'] == pytest.approx([0.5, 0.7])
    assert record['real']['agreement20_net'] == 1  # of the first 20
  most, least = by_class.groups(records)
  assert (most['name'], least['name']) == ('the 1 most frequent', 'the 1 rarest')
  assert most['scores'] == records[0]['scores'] and least['real'] == records[2]['real']
  lines = class_scores.table(records, [most, least]).splitlines()
  assert lines[0].startswith('| class | training images | fd20_train_net |') and len(lines) == 7
  assert lines[2].startswith('| cow | 900 |') and '| 0.6 ± 0.14 (1) |' in lines[2]


@pytest.mark.parametrize(
  'names', [(), ('cat', 'dog', 'hen'), ('cat', 'dog'), ('cat', 'dog', 'dog')]
)
def test_a_network_of_other_classes_tells_no_agreement(names):
  by_class = asked(names, counts=None, floor=False)
  records = by_class.records('x', [by_class(seen(20, 1, 3))])
  assert all(len(r['scores']) == 3 and r['real'] == {} for r in records)
  assert [r['class'] for r in records] == [0, 1, 2] and by_class.groups(records) == []
  assert class_scores.table(records, []).splitlines()[2].startswith('| cat |  |')


def test_the_middle_of_many_classes_is_left_out():
  score = {'fd': {'value': 1.0, 'std': None}}
  records = [
    {'name': f'class {i}', 'train_images': 99 - i, 'scores': score, 'real': {}} for i in range(99)
  ]
  lines = class_scores.table(records, []).splitlines()
  assert len(lines) == 2 + 15 + 1 + 15 and lines[17].startswith('| ... 69 more |')
  assert lines[-1].startswith('| class 98 | 1 |')


@pytest.mark.parametrize(('num', 'theirs'), [(0, 10), (1, 1), (3, 10)])
def test_samples_of_other_classes_are_refused(num, theirs):
  reference = types.SimpleNamespace(name='digits', num_classes=theirs)
  with pytest.raises(errors.UserError, match=f'digits has {theirs}; give labelled images'):
    class_scores.refuse(num, reference)
  class_scores.refuse(10, types.SimpleNamespace(name='digits', num_classes=10))


@pytest.mark.parametrize('counts', [None, 'many', [1, 2], [1, 2, 'x'], [1, 2, 3.5]])
def test_a_card_may_say_anything(counts):
  assert class_scores.counts_in({'class_counts': counts}, 3) is None
  assert class_scores.counts_in({'class_counts': [1, 2, 3]}, 3) == [1, 2, 3]
