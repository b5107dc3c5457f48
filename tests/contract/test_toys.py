"""Two toy families through every verb: what BigGAN has not, nothing shared may need.

A (toy_denoiser): one player, no BatchNorm, no spectral norm, no augmentation, two stages of other
resolution and batch, latents like images. B (toy_video): clips, a frozen network, a term due every
two steps, a further input, a generator of two scales, two critics, `encode`.
"""

import concurrent.futures
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

from bigjax import data, sample
from bigjax.algorithms.base import configs
from bigjax.core import checkpoint, errors, files, trees
from bigjax.evaluation import after_training
from bigjax.evaluation.of_networks import predictions
from bigjax.evaluation.samples import SEED
from bigjax.models.pretrained import registry
from bigjax.sampling import grids
from bigjax.training import batches, loop, quick_evaluation, ready
from bigjax.training import run as runs
from bigjax.training.program import Program, make_program

import toys
from tiny_run import one_program_each

NAMES = [path.rpartition('/')[2].removesuffix('.py') for path in toys.CONFIGS]


def config_of(name, **changes):
  config = configs.read(f'{toys.CONFIGS[NAMES.index(name)]}:tiny')
  for key, value in changes.items():
    group, _, key = key.partition('__')
    config[group][key] = value
  return config


@pytest.fixture(scope='module', params=NAMES)
def run(request, tmp_path_factory):
  """(Name, workdir of a whole run of four steps, what it said)."""
  workdir = str(tmp_path_factory.mktemp(request.param) / 'run')
  with one_program_each():
    loop.train(config_of(request.param), workdir, jax.devices()[:2])
  return request.param, workdir


def test_a_run_writes_what_it_has(run):
  name, workdir = run
  rows = files.read_rows(f'{workdir}/metrics.jsonl')
  assert [row['step'] for row in rows if 'skipped' in row] == [1, 2, 3, 4]
  config = config_of(name)
  losses = {key for key in rows[0] if key.endswith('_loss')}
  assert losses == (
    {'net_loss'} if name == 'toy_denoiser' else {'gen_loss', 'whole_loss', 'small_loss'}
  )
  card = files.read_json(f'{workdir}/card.json')
  assert card['sampling'] == {} and card['algorithm'] == config.algorithm
  assert not {'standing_passes', 'dialect', 'truncations'} & set(card)
  # Clips of synthetic data are of 8 frames a second; of still images nothing is said.
  assert card.get('frame_rate') == (8 if name == 'toy_video' else None)
  # who knows no classes has one
  assert len(card['class_names']) == (1 if name == 'toy_denoiser' else 5)


@pytest.mark.parametrize('fit', ['crop', 'pad'])
def test_a_card_says_how_images_were_made_square(fit):
  config = config_of('toy_denoiser', data__fit=fit)
  config, source = batches.load_data(config)
  card = ready.make_card(make_program(config, jax.devices()[:1]), source, config)
  assert card.get('fit') == {'crop': None, 'pad': 'pad'}[fit]
  assert source.digest.endswith(' pad') == (fit == 'pad')


@pytest.mark.parametrize('at', [2, 3])
@pytest.mark.usefixtures('no_pictures', 'shared_programs')
def test_resuming_equals_going_on(run, at, tmp_path):
  """At the border of two stages and within one; after a step with a lazy term and before one."""
  name, workdir = run
  other = str(tmp_path / 'run')
  loop.train(config_of(name, run__steps=at), other, jax.devices()[:2])
  loop.train(config_of(name), other, jax.devices()[:2])
  for step in range(max(at, 2), 5):  # three are kept
    one, two = (
      checkpoint.restore_part(place, step, lambda path: True) for place in (workdir, other)
    )
    assert one.keys() == two.keys() and not any(path.startswith('frozen') for path in one)
    for path, leaf in one.items():
      np.testing.assert_array_equal(leaf, two[path], err_msg=f'{step} {path}')
  rows = lambda place: [r for r in files.read_rows(f'{place}/metrics.jsonl') if 'skipped' in r]
  assert rows(workdir) == rows(other)


def test_stages_reach_data_programs_held_out_batch_and_clock(monkeypatch, tmp_path):
  """C1 to C4: all of a step is sized by its stage, and a stage's compilation is no stepping."""
  seen, held = [], []
  step, make = Program.step, batches.held_out_batch
  monkeypatch.setattr(
    Program, 'step',
    lambda self, state, batch, at=0: (
      seen.append(jax.tree.map(lambda x: x.shape, dict(batch))), step(self, state, batch, at)
    )[1],
  )  # fmt: skip
  monkeypatch.setattr(
    runs, 'held_out_batch', lambda *args: (held.append(args[-1].image), make(*args))[1]
  )
  said = []
  monkeypatch.setattr(loop.progress.Progress, 'say', lambda self, text, **_: said.append(text))
  loop.train(config_of('toy_denoiser'), str(tmp_path / 'run'), jax.devices()[:2])
  shapes = [shape['image'] for shape in seen]
  assert shapes == [(1, 16, 8, 8, 1)] * 2 + [(1, 8, 16, 16, 1)] * 2
  assert held == [(8, 8, 1), (16, 16, 1)]
  programs = [text for text in said if 'program' in text]
  assert [text.partition(',')[0] for text in programs] == ['8 px', '16 px']
  clock = files.read_rows(str(tmp_path / 'run' / 'timing.jsonl'))
  assert clock[-1]['images_per_second'] > 0  # of the second stage's second step
  (change,) = [row for row in clock if 'stage_change' in row]
  assert change['step'] == 3 and 0 < change['stage_change'] < clock[-1]['seconds']
  assert any('from the stage before' in text for text in said)


def test_the_small_stage_is_the_mean_of_the_large_one(tmp_path):
  config = config_of('toy_denoiser', data__source='synthetic:80')
  config, source = batches.load_data(config)
  program = make_program(config, jax.devices()[:2])
  history = [{'from_step': 0, 'seed': 0, 'patch': {}, 'position': 0, 'reason': 'start'}]
  stream = batches._placed(program, source, False, history, 0)
  small = np.asarray(next(stream)['image'])[0]
  images, _ = source.train()
  means = images.reshape(-1, 8, 2, 8, 2, 1).astype(np.float32).mean((2, 4))
  distances = np.abs(small[:, None].astype(np.float32) - means[None]).max((2, 3, 4)).min(1)
  assert small.shape == (16, 8, 8, 1) and distances.max() <= 0.5


def test_programs_are_compiled_per_stage_and_due_before_the_stage(monkeypatch, tmp_path):
  events = []
  lower, step = Program.lower, Program.step
  monkeypatch.setattr(
    Program, 'lower',
    lambda self, stage, due=frozenset(): (
      events.append(('compile', stage.image, sorted(due))), lower(self, stage, due)
    )[1],
  )  # fmt: skip
  monkeypatch.setattr(
    Program,
    'step',
    lambda self, state, batch, at=0: (events.append(('step', at)), step(self, state, batch, at))[1],
  )
  loop.train(config_of('toy_video'), str(tmp_path / 'run'), jax.devices()[:2])
  assert events[:2] == [
    ('compile', (3, 8, 8, 1), ['gradient_penalty']), ('compile', (3, 8, 8, 1), []),
  ]  # fmt: skip
  assert events[2:] == [('step', i) for i in range(4)]


def test_a_step_does_not_wait_for_the_next_stages_compilation():
  program = make_program(config_of('toy_denoiser'), jax.devices()[:2])
  ready = program.compiled(program.stage(0))
  with concurrent.futures.ThreadPoolExecutor(1) as other, program._lock:  # as while compiling
    assert other.submit(program.compiled, program.stage(0)).result(timeout=60) is ready


def test_the_lazy_term_runs_when_it_is_due(tmp_path):
  program = make_program(config_of('toy_video'), jax.devices()[:2])
  assert [sorted(program.due(step)) for step in range(3)] == [
    ['gradient_penalty'], [], ['gradient_penalty'],
  ]  # fmt: skip
  stage = program.stage(0)
  rng = np.random.RandomState(0)
  batch = {
    'image': rng.randint(0, 256, (1, 8, 3, 8, 8, 1)).astype(np.uint8),
    'small': rng.randint(0, 256, (1, 8, 3, 4, 4, 1)).astype(np.uint8),
    'label': np.zeros((1, 8), np.int32),
  }
  with_it, without = (
    program.step(program.init(jax.random.key(0), {}), batch, at)[1] for at in (0, 1)
  )
  assert with_it['small_loss'] > without['small_loss']
  assert with_it['gen_loss'] == without['gen_loss'] and stage.image == (3, 8, 8, 1)


def test_stages_that_do_not_fit_get_a_sentence(tmp_path):
  with pytest.raises(errors.UserError, match='6 examples from step 2 on cannot be split over 4'):
    make_program(config_of('toy_denoiser', optim__batch_size=12), jax.devices()[:4])
  workdir = str(tmp_path / 'run')
  with pytest.raises(errors.UserError, match='fewer than one batch of 128'):
    loop.train(config_of('toy_denoiser', optim__batch_size=128), workdir, jax.devices()[:2])
  config = config_of('toy_denoiser', data__resolution=10, optim__grow_at=1)
  config, source = batches.load_data(config)
  program = make_program(config, jax.devices()[:2])
  big = config_of('toy_denoiser')
  with pytest.raises(errors.UserError, match='cannot be averaged down'):
    batches.check_data(batches.load_data(config_of('toy_denoiser', data__resolution=24))[1],
                       make_program(big, jax.devices()[:2]))  # fmt: skip
  batches.check_data(source, program)


@pytest.mark.usefixtures('shared_programs')
@pytest.mark.parametrize('run', ['toy_video'], indirect=True)  # which has frozen weights
def test_other_frozen_weights_are_refused(run, tmp_path, monkeypatch):
  name, workdir = run
  other = tmp_path / 'run'
  shutil.copytree(workdir, other)
  make = ready.make_program

  def changed(*args):
    program = make(*args)
    frozen = type(program.algorithm).frozen
    monkeypatch.setattr(
      type(program.algorithm), 'frozen',
      lambda self: jax.tree.map(lambda x: 2 * x, frozen(self)),
    )  # fmt: skip
    jax.clear_caches()  # of equal games, `init` is traced once
    return make(*args)

  monkeypatch.setattr(ready, 'make_program', changed)
  with pytest.raises(errors.UserError, match='other frozen weights'):
    loop.train(config_of(name, run__steps=5), str(other), jax.devices()[:2])


def frames_of(path):
  """What a film shows, uint8 [T, H, W, 3]."""
  with Image.open(path) as film:
    return np.stack([np.asarray(one.convert('RGB')) for one in ImageSequence.Iterator(film)])


def test_samples_of_both(run, bigjax, tmp_path):
  name, workdir = run
  gen = sample.load(f'{workdir}/export/generator.safetensors')
  assert gen.frame_rate == (8 if name == 'toy_video' else 0)
  images = gen(num=4, seed=3)
  assert images.shape == (4, *gen.shape) and images.dtype == np.uint8
  np.testing.assert_array_equal(gen(num=2, seed=3, labels=[0, 0])[0], images[0])
  with pytest.raises(errors.UserError, match="no sampling option 'truncation'; it has none"):
    gen(num=2, truncation=0.5)
  out = tmp_path / 'grid.png'
  status, said, err = bigjax('sample', '--workdir', workdir, '--num', 5, '--out', out)
  assert status == 0 and out.exists() and 'standing' not in said + err
  status, *_ = bigjax('sample', '--workdir', workdir, '--interpolate', 'z', '--out', out)
  assert status == 0
  status, _, err = bigjax('sample', '--workdir', workdir, '--truncation', 0.5, '--out', out)
  assert status == 2 and 'no sampling option' in err
  status, *_ = bigjax('sample', '--workdir', workdir, '--num', 3, '--out', tmp_path / 'x.npz')
  with np.load(tmp_path / 'x.npz') as file:
    assert status == 0 and file['images'].shape == (3, *gen.shape)


@pytest.mark.parametrize('run', ['toy_video'], indirect=True)
def test_clips_are_strips_and_films(run, bigjax, tmp_path):
  """In training, and as `bigjax sample` writes them: what a file holds are the clips of Python."""
  _name, workdir = run
  gen = sample.load(workdir)
  clips = gen(num=10)  # two of each class, as in the grid of a run with two columns
  names = [f'class {i}' for i in range(5)]
  words = f'{tmp_path}/x.webp: 10 clips, 2 in a row, 3 frames, 8 per second'
  for ending in ('webp', 'apng', 'gif'):
    out = tmp_path / f'x.{ending}'
    status, said, err = bigjax('sample', '--workdir', workdir, '--num', 10, '--out', out)
    assert status == 0 and said.strip() == words.replace('webp', ending), err
    film = grids.film(clips, 2, names, caption='step 4, as trained, seed 0')
    found = frames_of(out)
    assert len(found) == 3
    for ours, theirs in zip(film, found, strict=True):
      np.testing.assert_array_equal(np.asarray(ours), theirs)
  found = frames_of(f'{workdir}/samples/00000004.webp')
  in_training = gen(labels=np.arange(5).repeat(2), seed=SEED)
  film = grids.film(in_training, 2, names, caption=f'step 4, as trained, seed {SEED}')
  for ours, theirs in zip(film, found, strict=True):  # on other devices
    assert np.abs(np.asarray(ours).astype(int) - theirs).max() <= 1
  strips, rows = quick_evaluation.grid_at(workdir, 4)
  assert rows == 5  # one of each class: as many as columns, but all classes
  pixels = np.asarray(strips)[::6, ::6]  # rows three pixels apart, frames one
  frame = pixels[3 + 4 * 11 :, 1 + 9 :][:8, :8]  # the second one of the last class
  assert np.abs(frame[..., :1].astype(int) - in_training[8, 1]).max() <= 1
  assert 'samples_moved' in quick_evaluation.moved(workdir, 4, 2)


@pytest.mark.parametrize('run', ['toy_video'], indirect=True)
def test_clips_in_other_files(run, bigjax, tmp_path):
  _name, workdir = run
  ask = ('sample', '--workdir', workdir, '--num', 10, '--out')
  clips = sample.load(workdir)(num=10)
  for _ in range(2):  # the second finds all of them there
    status, said, _ = bigjax(*ask, tmp_path / 'folder')
    assert status == 0 and '10 films, .webp' in said
  assert '10 of which were there already' in said
  found = sorted((tmp_path / 'folder').glob('*.webp'))
  assert [path.name for path in found][:3] == [
    f'{i:06d}_class{label}.webp' for i, label in enumerate((0, 0, 1))
  ]
  for path, clip in zip(found, clips, strict=True):
    np.testing.assert_array_equal(frames_of(path)[..., :1], clip)
  status, said, _ = bigjax(*ask, tmp_path / 'x.npz')
  assert status == 0 and 'x.npz: 10 clips, uint8 (10, 3, 8, 8, 1)' in said
  np.testing.assert_array_equal(np.load(tmp_path / 'x.npz')['images'], clips)
  status, said, _ = bigjax(*ask, tmp_path / 'i.webp', '--interpolate', 'both')
  assert status == 0 and '15 clips, 3 in a row' in said
  for name, picture in (
    ('p.webp', grids.film(clips, 2)),
    ('p.png', grids.strips(clips, plain=True)),
  ):
    status, said, err = bigjax(*ask, tmp_path / name, '--plain', *['--fps=2'] * ('webp' in name))
    assert status == 0 and ('3 frames, 2 per second' in said) == ('webp' in name), err
    found, wanted = frames_of(tmp_path / name), np.stack(picture if 'webp' in name else [picture])
    np.testing.assert_array_equal(
      found, wanted if wanted.ndim == 4 else wanted[..., None].repeat(3, -1)
    )
  for words, what in (
    (['--frames=9'], '--frames=9 is for a film of still images'),
    (['--interpolate=z', '--seeds=1,2'], 'leave one of them out'),
  ):
    status, _, err = bigjax('sample', '--workdir', workdir, '--out', tmp_path / 'y.webp', *words)
    assert status == 2 and what in err and 'clips' in err and err.count('\n') == 1
  for words in (['--layout', 'adm', '--out', tmp_path / 'y.npz'], ['--neighbours']):
    status, _, err = bigjax('sample', '--workdir', workdir, *words)
    assert status == 2 and 'is for still images, and this generator makes clips' in err


@pytest.mark.parametrize('run', ['toy_video'], indirect=True)
def test_predictions_stand_beside_the_truth(run, bigjax, tmp_path):
  """The toy moves the last given frame to the left and inverts odd classes; clips move right."""
  _name, workdir = run
  gen = sample.load(workdir)
  truth, y, names = predictions.held_out(gen, 'synthetic:80', None, workdir, 5)
  assert sorted(y) == [0, 1, 2, 3, 4] and names == [f'class {label}' for label in y]
  source, _ = data.load(config_of('toy_video').data).held_out()
  assert {clip.tobytes() for clip in truth} <= {clip.tobytes() for clip in source}
  moved = np.roll(truth[:, 1], -1, axis=2)
  expected = np.where(y[:, None, None, None] % 2, 255 - moved, moved)
  made = gen.predict(truth[:, :2], y)
  np.testing.assert_array_equal(made, np.concatenate([truth[:, :2], expected[:, None]], axis=1))
  ask = ('sample', '--workdir', workdir, '--predict', '--num', 5, '--out')
  words = 'step 4, as trained, seed 0, 2 frames given, in colour'
  status, said, err = bigjax(*ask, tmp_path / 'x.png')
  assert status == 0 and '5 held-out clips of synthetic:80, 1 of 3 predicted' in said, err
  picture = np.asarray(Image.open(tmp_path / 'x.png'))
  np.testing.assert_array_equal(picture, predictions.strips(truth, made, 2, names, words))
  status, _, err = bigjax(*ask, tmp_path / 'x.webp')
  assert status == 0, err
  film = predictions.film(truth, made, 2, words)
  np.testing.assert_array_equal(frames_of(tmp_path / 'x.webp'), np.stack(film))
  status, _, err = bigjax('sample', '--workdir', workdir, '--predict', 'synthetic:90')
  assert status == 2 and 'it has 5, synthetic:90 has 10' in err
  with pytest.raises(errors.UserError, match=r'give uint8 \[images, 2, 8, 8, 1\]'):
    gen.predict(truth, y)


@pytest.mark.parametrize('run', ['toy_denoiser'], indirect=True)
def test_still_images_are_no_films(run, bigjax, tmp_path):
  _name, workdir = run
  for ending in ('webp', 'gif'):
    status, _, err = bigjax('sample', '--workdir', workdir, '--out', tmp_path / f'x.{ending}')
    assert status == 2 and f'x.{ending} is a film, and this generator makes still images' in err
  status, _, err = bigjax('sample', '--workdir', workdir, '--predict', '--out', tmp_path / 'x.png')
  assert status == 2 and '--predict needs a generator that goes on with the first frames' in err


def test_an_encoder_is_part_of_what_is_exported(run):
  name, workdir = run
  gen = sample.load(workdir)
  images = gen(num=3)
  if name == 'toy_video':
    assert gen.encode(images).shape == (3, *gen.sampler.generator.latent_shape)
  else:
    with pytest.raises(errors.UserError, match='no encoder'):
      gen.encode(images)


def test_both_go_to_the_hub_and_say_what_they_are(run, bigjax, tmp_path):
  name, workdir = run
  status, _, err = bigjax('export', '--workdir', workdir, '--hub', tmp_path)
  assert status == 0, err
  gen = sample.load(tmp_path)
  said = repr(gen)
  assert '\n' not in said and name in said and gen.digest in said and 'step 4' in said
  page = (tmp_path / 'README.md').read_text(encoding='utf-8')
  shape = ', '.join(map(str, (16, *gen.shape)))
  assert f'gen(num=16, seed=0)  # uint8 [{shape}]' in page
  with Image.open(tmp_path / 'samples.png') as picture:
    assert picture.width > gen.shape[-2]
  if len(gen.shape) == 4:
    assert 'pipeline_tag' not in page and 'frames of' in page
    with pytest.raises(errors.UserError, match='makes clips'):
      gen.image()
  else:
    assert gen.image().size == gen.shape[1::-1]


def test_export_of_both(run, bigjax, tmp_path):
  from jax import export

  _name, workdir = run
  out = tmp_path / 'program.stablehlo'
  status, said, err = bigjax('export', '--workdir', workdir, '--out', out)
  assert status == 0, err
  assert 'standing' not in said + err
  gen = sample.load(workdir)
  z, y = gen.sampler.latents(0, 3, gen.spec()), np.zeros(3, np.int32)
  program = export.deserialize(out.read_bytes())
  made = np.asarray(jax.jit(program.call)(z, y)).astype(int)
  assert np.abs(made - gen.images(z, y, gen.spec())).max() <= 1
  card = json.loads((tmp_path / 'program.stablehlo.json').read_text())
  assert card['made_at'] == {} and card.get('frame_rate', 0) == gen.frame_rate
  scope = {}
  exec('\n'.join(card['latents']), scope)
  np.testing.assert_allclose(scope['latents'](0, 3), z, rtol=1e-6)


def projection():
  """A stand-in for a network: eight random projections of the pixels of an image."""

  def apply(variables, images):
    pixels = images.reshape(images.shape[0], -1).astype(np.float32)
    return {'features': pixels @ variables[: pixels.shape[1]]}

  variables = np.random.RandomState(0).normal(size=(16 * 16, 8)).astype(np.float32)
  return registry.FeatureNetwork('projection', 'digest', 'none', 8, 0, variables, apply)


def test_evaluation_of_both(run, bigjax, tmp_path, monkeypatch):
  """Clips are looked at frame by frame: a clip's features are the mean of its frames'."""
  name, workdir = run
  monkeypatch.setattr(after_training, 'open_network', lambda *_: projection())
  status, _, err = bigjax(
    'evaluate', '--workdir', workdir, '--checkpoints', '2,4', '--metrics', 'fid,pr',
    '--num', 30, '--seeds', '0', '--batch', 16, '--out', tmp_path,
  )  # fmt: skip
  assert status == 0, err
  rows = [json.loads(line) for line in (tmp_path / 'scores.jsonl').read_text().splitlines()]
  assert len(rows) == 2 and all(row['protocol']['sampling'] == {} for row in rows)
  ending = 'projection_frame_mean' if name == 'toy_video' else 'projection'
  assert f'fd30_train_{ending}' in rows[0]['scores']


@pytest.mark.parametrize(
  'name', [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_both_can_be_planned(name, bigjax, libtpu, tmp_path):
  plan = tmp_path / 'plan.json'
  config = toys.CONFIGS[NAMES.index(name)] + ':tiny'
  status, _said, err = bigjax(
    'plan', '--config', config, '--topology', 'v5litepod-4', '--json', plan, '--png',
    tmp_path / 'plan.png',
  )  # fmt: skip
  assert status == 0, err
  (found,) = json.loads(plan.read_text())['plans']
  assert [one['steps'] for one in found['programs']] == [2, 2]
  assert found['fits'] and found['step_seconds'] > 0
  assert found['peak_bytes'] == max(one['peak_bytes'] for one in found['programs'])


def test_what_a_family_cannot_do_is_no_key_of_it(bigjax):
  """A flag that does nothing would be a lie: neither toy has microbatches, remat or kernels."""
  for key in ('microbatches=4', 'remat=True', 'kernels=plain'):
    status, _, err = bigjax('train', '--config', toys.CONFIGS[0], f'--config.run.{key}')
    assert status == 2 and f'config.run.{key.partition("=")[0]} is not a known key' in err


@pytest.mark.parametrize('name', NAMES)
def test_dry_run_and_doctor_know_all_stages(name, bigjax, tmp_path):
  config = toys.CONFIGS[NAMES.index(name)] + ':tiny'
  status, said, err = bigjax('train', '--config', config, '--dry_run')
  assert status == 0, err
  if name == 'toy_denoiser':
    assert 'from step 0: 8 px, 1 x 16 images each' in said
    assert 'from step 2: 16 px, 1 x 8 images each' in said
  else:
    assert 'from step 0: 8 px, 3 frames, 1 x 8 clips each, gradient_penalty in 2 of them' in said
  status, said, err = bigjax('doctor', '--config', config, '--sheet', tmp_path / 'sheet.png')
  assert status == 0, said + err
  assert said.count('batches of') == (2 if name == 'toy_denoiser' else 1)


@pytest.mark.usefixtures('no_pictures', 'shared_programs')
def test_weights_of_one_run_begin_another(run, tmp_path):
  name, workdir = run
  for source in (workdir, f'{workdir}/export/generator.safetensors'):
    config = config_of(name, run__steps=1)
    config.init_from = source
    other = str(tmp_path / source.replace('/', '_'))
    loop.train(config, other, jax.devices()[:2])
    card = files.read_json(f'{other}/card.json')
    start = checkpoint.restore_part(workdir, 4, lambda path: path.startswith('ema/'))
    assert card['player'] in ('net', 'gen') and trees.nest(start)
