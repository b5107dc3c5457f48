"""What evaluate compares with, and what it refuses before it computes anything."""

import argparse
import json
import types

import pytest

from bigjax.algorithms.base import contract
from bigjax.algorithms.compositions import cascade
from bigjax.core import errors
from bigjax.evaluation import after_training
from bigjax.evaluation.of_networks import likelihood_scores, prediction_scores
from bigjax.nn.latents import SamplingSpec


def asked(**words):
  usual = {'workdir': None, 'reference': None, 'data_dir': None, 'sweep': None, 'truncation': None}
  return argparse.Namespace(**usual, sampling=[], **words)


def labels_of(workdir, labelled):
  args = asked()
  args.workdir = str(workdir)
  splits = after_training.find_real(args, (8, 8, 1), labelled)[1]
  return {label for _, labels in splits['train'].batches(500) for label in labels.tolist()}


def test_labels_that_a_run_did_not_look_at_are_there_when_asked_for(tmp_path):
  run = {'data.source': 'digits', 'data.num_classes': 1}
  (tmp_path / 'config.json').write_text(json.dumps(run))
  assert labels_of(tmp_path, False) == {0} and labels_of(tmp_path, True) == set(range(10))
  run = {'data.source': 'synthetic:64', 'data.num_classes': 3}  # which decides the images
  (tmp_path / 'config.json').write_text(json.dumps(run | {'data.channels': 1}))
  assert labels_of(tmp_path, True) == {0, 1, 2}


def test_real_images_of_a_generator_of_one_class_are_split_as_in_its_run(tmp_path):
  """Its labels are not asked for, which may be absent, and by which a share is held out."""
  run = {'data.source': 'digits', 'data.num_classes': 1}
  (tmp_path / 'config.json').write_text(json.dumps(run))
  args = asked(num=9, batch=9)
  args.workdir = str(tmp_path)
  for module, metric in ((likelihood_scores, 'nll_bpd'), (prediction_scores, 'psnr')):
    for classes in (1, 10):
      loaded = types.SimpleNamespace(shape=(8, 8, 1), num_classes=classes, fit='crop')
      measure = after_training.with_real(args, module, [metric], loaded)
      assert measure.splits['test'].num_classes == classes


def test_a_sweep_needs_one_truncation():
  both = cascade.CascadeSpec((SamplingSpec(0.5), contract.NoChoice()), (0, 0))
  for spec in (both, contract.NoChoice()):
    args, loaded = asked(), types.SimpleNamespace(spec=lambda text, spec=spec: spec)
    assert after_training.specs(args, loaded) == [spec]
    args.sweep = '0.5,none'
    with pytest.raises(errors.UserError, match=r'--sweep=0.5,none .* none as a whole'):
      after_training.specs(args, loaded)
  loaded = types.SimpleNamespace(spec=lambda text: SamplingSpec(float(text)))
  args.sweep = '0.5, 1'
  assert [after_training.at(spec) for spec in after_training.specs(args, loaded)] == [0.5, 1]
