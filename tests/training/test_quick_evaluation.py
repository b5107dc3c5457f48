"""What a run is scored with: which images, which groups of classes."""

import os
import types

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bigjax import data
from bigjax.algorithms.base import configs, contract
from bigjax.core import errors
from bigjax.evaluation import quick, samples
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


def test_what_predicts_is_given_held_out_clips(monkeypatch):
  """Its predictions are scored in the place of samples; who does not predict is refused."""
  config = configs.read('digits:tiny,digits')
  config.eval.update({'name': 'prediction', 'num_samples': 6})
  real = np.arange(8 * 4 * 2 * 2, dtype=np.uint8).reshape(8, 4, 2, 2, 1), np.arange(8)
  some = lambda most: tuple(part[:most] for part in real)
  source = types.SimpleNamespace(reference=some, held_out=some, even=None, size=2)
  spec = types.SimpleNamespace(num_classes=10, predictor=types.SimpleNamespace(num_given=2))
  seen = {}

  def predicted(gen, frames, z, y, spec):
    seen.update(frames=frames, y=y, z=z)
    return np.repeat(frames[:, -1:], 2, axis=1)

  sampler = types.SimpleNamespace(
    generator=spec, predicted=predicted, latents=lambda seed, num, spec: (seed, num)
  )
  program = types.SimpleNamespace(stages=[(0, None)], sampler=lambda stage: sampler)
  evaluation = quick_evaluation.Evaluation(program, source, config)
  frames, labels = evaluation._predicted(sampler, None, None)
  np.testing.assert_array_equal(seen['frames'], real[0][:6, :2])
  assert seen['y'].tolist() == labels.tolist() == [0, 1, 2, 3, 4, 5] and seen['z'] == (0, 6)
  assert evaluation._score((frames, labels)) == pytest.approx(evaluation.floor)
  # No sample is made that nobody looks at: here by protocol, 3 where that is due.
  sampler.mesh, spec.shape = types.SimpleNamespace(size=1), (4, 2, 2, 1)
  monkeypatch.setattr(evaluation, '_prepared', lambda state, stage: (sampler, None, None))
  monkeypatch.setattr(evaluation, '_draw', lambda *args: None)
  drawn = []
  monkeypatch.setattr(samples, 'draw', lambda *args: drawn.append(args[3]) or iter(()))
  scorer = lambda due: types.SimpleNamespace(
    num=3, due=lambda step: due, begin=lambda batches, step: list(batches)
  )
  for due in (False, True):
    _, scores = evaluation(None, None, '', 1, scorer(due))
    assert scores == pytest.approx(evaluation.floor, abs=1e-6)
  assert drawn == [0, 3]
  del spec.predictor
  with pytest.raises(
    errors.UserError, match=r'eval\.name=prediction needs a generator that goes on'
  ):
    quick_evaluation.Evaluation(program, source, config)


def draw(workdir, step, level, side=4):
  """A class grid of two rows, below it a caption that changes, left of it a margin."""
  sheet = np.full((side + 3, side + 2, 3), step, np.uint8)
  sheet[:side, 2:] = level
  where = PngImagePlugin.PngInfo()
  where.add_text('grid', f'2,0,{2 + side},{side},2')
  os.makedirs(workdir / 'samples', exist_ok=True)
  Image.fromarray(sheet).save(workdir / 'samples' / f'{step:08d}.png', pnginfo=where)


def test_how_far_samples_have_moved(tmp_path):
  """Of the grids alone, whatever the caption; from the evaluation before, not from any picture."""
  moved = lambda step, every: quick_evaluation.moved(str(tmp_path), step, every)
  draw(tmp_path, 2, 100), draw(tmp_path, 3, 255), draw(tmp_path, 4, 151)
  assert moved(2, 2) == {} and moved(4, 0) == {}
  assert moved(4, 2) == {'samples_moved': pytest.approx((51 / 127.5) ** 2)}
  draw(tmp_path, 6, 151, side=8)  # another stage
  assert moved(6, 2) == {}


def test_a_growing_run_has_a_strip_of_its_stages(tmp_path):
  """The last pictures of each stage up to the step, enlarged to one size."""
  stages = [
    (first, contract.Stage(1, 8, contract.image_inputs(side, 3)))
    for first, side in ((0, 4), (4, 8), (9, 16))
  ]
  for step, level, side in ((2, 50, 4), (4, 100, 4), (6, 150, 8), (12, 250, 16)):
    draw(tmp_path, step, level, side)
  quick_evaluation.draw_growth(str(tmp_path), stages[:1], 6)
  assert not (tmp_path / 'growth.png').exists()  # one row is no strip
  quick_evaluation.draw_growth(str(tmp_path), stages, 6)
  picture = np.asarray(Image.open(tmp_path / 'growth.png'))
  assert picture[:, -1, 0].tolist() == [100] * 4 + [150] * 4
  quick_evaluation.draw_growth(str(tmp_path), stages, 12)
  picture = np.asarray(Image.open(tmp_path / 'growth.png'))
  assert picture[:, -1, 0].tolist() == [100] * 8 + [150] * 8 + [250] * 8
