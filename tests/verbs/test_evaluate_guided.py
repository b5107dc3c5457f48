"""`bigjax evaluate --classifier`: of a run without labels, with scores that read them."""

import dataclasses
import json

import jax
import numpy as np

from bigjax.algorithms import diffusion, generator_of, noised_classifier
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import trees
from bigjax.core.checkpoint import Checkpoints
from bigjax.evaluation import image_sets
from bigjax.evaluation.quick import classifier
from bigjax.sampling import generator_file
from bigjax.sampling.loaded import load

pytest_plugins = ['tiny_run']
GREY = {'data.source': 'digits', 'data.resolution': 8, 'data.channels': 1}


def drawn(name, family, seed, **keys):
  """(gen, card) of a tiny config, with weights that are drawn and not trained."""
  config = core_config.changed(configs.read(f'{name}:tiny'), {**GREY, **keys})
  game = family.make(config)
  rng = np.random.RandomState(seed)
  shapes = jax.eval_shape(lambda: game.init(jax.random.key(0)))['ema']
  gen = trees.map_paths(lambda path, x: 0.1 * rng.randn(*x.shape).astype(np.float32), shapes)
  architecture = json.loads(json.dumps(game.architecture(game.stages(1)[0][1])))
  card = {
    'format': generator_file.FORMAT, 'algorithm': config.algorithm, 'player': game.sampled,
    'architecture': architecture, 'sampling': dict(game.sampling()), 'step': 7,
  }  # fmt: skip
  num = generator_of(card).num_classes
  return {'params': gen}, {**card, 'class_names': [str(i) for i in range(num)]}, config


def run_of(folder, gen, card, config):
  """A workdir as training leaves it, but for what only going on needs."""
  folder.mkdir()
  (folder / 'card.json').write_text(json.dumps(card))
  (folder / 'config.json').write_text(json.dumps(core_config.flatten(config)))
  checkpoints = Checkpoints(str(folder))
  checkpoints.save(7, {'step': np.int32(7)}, gen, {'architecture': card['architecture']})
  checkpoints.close()
  return folder


def test_a_guided_run_is_scored_by_the_datas_own_labels(bigjax, tmp_path, monkeypatch):
  recipe = dataclasses.replace(classifier.RECIPE, epochs=1, min_steps=2, widths=(8, 8, 8, 8))
  monkeypatch.setattr(classifier, 'RECIPE', recipe)
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  *walk, config = drawn('iddpm', diffusion, 0, **{'data.num_classes': 1})
  walk = run_of(tmp_path / 'walk', *walk, config)
  guides = [tmp_path / f'{name}.npz' for name in ('one', 'other')]
  for seed, path in enumerate(guides, 1):
    generator_file.save_npz(str(path), *drawn('adm_classifier', noised_classifier, seed)[:2])
  status, _, err = bigjax(
    'evaluate', '--workdir', walk, '--classifier', guides[0], '--guidance', 2, '--steps', 2,
    '--metrics', 'cas', '--num', 20, '--batch', 20, '--seeds', 0, '--no_floor',
  )  # fmt: skip
  assert status == 0, err
  (row,) = map(json.loads, (walk / 'evaluation' / 'scores.jsonl').read_text().splitlines())
  about = row['protocol']
  assert about['sampling']['guidance'] == 2 and about['labels'] == 'every class in turn'
  assert row['scores'].keys() == {'cas20_train'}
  known = {'held_out': config.data.held_out}
  real = image_sets.open_source('digits', (8, 8, 1), '', known)['train']
  assert real.num_classes == 10 and about['reference_digest'] == real.digest
  of = lambda guide: load(walk, classifier=guide).digest
  assert about['generator_digest'] == of(guides[0])
  assert len({of(guide) for guide in (*guides, None)}) == 3
