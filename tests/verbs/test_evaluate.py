"""`bigjax evaluate` end to end on a tiny run: names, protocol, pictures, devices, errors."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from bigjax.core import errors, parallel
from bigjax.evaluation import feature_pass, image_sets, protocol
from bigjax.evaluation.metrics import frechet, registry
from bigjax.evaluation.quick import classifier
from bigjax.evaluation.reference import read_statistics
from bigjax.models.pretrained import registry as networks
from bigjax.preflight import tpu_slices
from bigjax.sampling import generator_file as cards
from bigjax.sampling.loaded import load
from bigjax.sampling.sampler import from_card

import tpu_hlo


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
  """A classifier that is hardly trained, and a cache of each test's own."""
  recipe = dataclasses.replace(classifier.RECIPE, epochs=1, min_steps=20)
  monkeypatch.setattr(classifier, 'RECIPE', recipe)
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


def rows_of(folder):
  return [json.loads(line) for line in (folder / 'scores.jsonl').read_text().splitlines()]


def pixels(dim=12):
  """A network that is none: a fixed projection of the pixels."""

  def apply(variables, images):
    flat = images.reshape(len(images), -1).astype('float32') / 255
    seen = jax.numpy.matmul(flat, variables, precision='highest')
    return {'features': seen, 'logits': seen}

  weights = np.random.RandomState(0).randn(16 * 16, dim).astype(np.float32)
  return networks.FeatureNetwork('pixels', '0' * 16, 'none', dim, dim, weights, apply)


@pytest.mark.parametrize(
  ('short', 'metric', 'num', 'network', 'want'),
  [
    ('fid', 'fid', 50_000, 'inception', 'fid50k_train_inception'),
    ('fid', 'fid', 10_000, 'cifar_resnet56', 'fd10k_train_cifar_resnet56'),
    ('is', 'is', 50_000, 'inception', 'is50k_inception_10splits'),
    ('precision', 'pr', 1500, 'inception', 'precision1500_train_inception_k3'),
    ('fid', 'fid', 50_000, 'inception_clean', 'fid50k_train_inception_clean'),
    ('fid', 'fid', 50_000, 'dinov2_vitl14', 'fd50k_train_dinov2_vitl14'),
    ('cmmd', 'cmmd', 30_000, 'clip_vitl14_336', 'cmmd30k_train_clip_vitl14_336'),
    ('cmmd', 'cmmd', 30_000, 'dinov2_vitl14', 'mmd_rbf30k_train_dinov2_vitl14'),
    ('fid', 'fid', 5000, 'inception_torchvision', 'fd5k_train_inception_torchvision'),
    ('swd@64', 'swd', 16_384, 'inception', 'swd16384_train_64'),
    ('kid@subsets450', 'kid', 450, 'inception', 'kid450_train_inception_subsets450'),
  ],
)  # fmt: skip
def test_names_carry_the_protocol(short, metric, num, network, want):
  name = registry.full_name(short, registry.METRICS[metric], num, 'train', network)
  assert name == want
  assert registry.without_num(name) == registry.without_num(
    registry.full_name(short, registry.METRICS[metric], 7, 'train', network)
  )


def test_scores_of_a_run(workdir, params, bigjax, tmp_path):
  words = ('evaluate', '--workdir', workdir, '--features', 'classifier', '--num', 60)
  words += ('--metrics', 'fid,is,pr,dc,kid,intra_fid', '--seeds', '0,1', '--batch', 32)
  status, out, err = bigjax(*words, '--checkpoints', 'all', '--out', tmp_path / 'a')
  assert status == 0, err
  first, last = rows_of(tmp_path / 'a')
  assert (first['what'], last['what']) == ('step 2', 'step 4')
  assert set(last['scores']) == {
    'fd60_train_classifier',
    'is60_classifier_10splits',
    'precision60_train_classifier_k3',
    'recall60_train_classifier_k3',
    'density60_train_classifier_k5',
    'coverage60_train_classifier_k5',
    'kid60_train_classifier_subsets60',
    'intra_fd60_train_classifier',
  }
  score = last['scores']['fd60_train_classifier']
  assert score['value'] == pytest.approx(np.mean(score['each']))
  assert score['std'] == pytest.approx(np.std(score['each'], ddof=1)) and score['std'] > 0
  protocol = last['protocol']
  assert protocol['reference'] == 'digits/train' and protocol['reference_num'] == 1347
  assert protocol['network'] == 'classifier' and len(protocol['network_digest']) == 16
  assert (protocol['num'], protocol['seeds'], protocol['step']) == (60, [0, 1], 4)
  assert protocol['generator_digest'] == load(params).digest  # which has statistics in it
  assert protocol['generator_digest'] != first['protocol']['generator_digest']
  assert protocol['sampling'] == {
    'truncation': 'none', 'dialect': 'resample', 'standing_passes': 2, 'standing_batch': 16,
  }  # fmt: skip
  assert '±' in out and 'real images' in out and 'to itself: ' in err
  itself = float(err.split('to itself: ')[1].split()[0])
  assert abs(itself) < 1e-6
  assert last['floor']['fd60_train_classifier'] < 0.2 * score['value']  # four steps are no training
  Image.open(tmp_path / 'a' / 'scores.png').verify()

  status, out, err = bigjax(*words, '--by_class', '--out', tmp_path / 'b')
  assert status == 0 and 'reference digits' not in err  # it was kept
  (again,) = rows_of(tmp_path / 'b')
  assert again['scores'] == last['scores']
  classes = [json.loads(line) for line in (tmp_path / 'b' / 'by_class.jsonl').open()]
  counts = [row['train_images'] for row in classes]
  assert sorted(row['name'] for row in classes) == list('0123456789')
  assert counts == sorted(counts, reverse=True) and sum(counts) == 1347
  assert classes[0]['real'].keys() >= {'fd6_train_classifier', 'agreement6_classifier'}
  scores = [row['scores']['fd6_train_classifier'] for row in classes]
  assert all(len(score['each']) == 2 and score['value'] > 0 for score in scores)
  assert 'the 3 most frequent' in out and 'the 3 rarest' in out and out.count('\n| ') > 20
  Image.open(tmp_path / 'b' / 'by_class.png').verify()


@pytest.mark.slow
def test_a_sweep_draws_what_truncation_trades(params, bigjax, tmp_path):
  status, _, err = bigjax(
    'evaluate', '--params', params, '--features', 'classifier', '--num', 40, '--metrics', 'fid,pr',
    '--reference', 'digits', '--sweep', '0.5,none', '--seeds', 0, '--out', tmp_path, '--no_floor',
  )  # fmt: skip
  assert status == 0, err
  half, whole = rows_of(tmp_path)
  assert half['protocol']['sampling']['truncation'] == '0.5:resample'
  assert whole['protocol']['sampling']['truncation'] == 'none'
  assert half['scores']['fd40_train_classifier']['std'] is None
  Image.open(tmp_path / 'truncation.png').verify()


def test_devices_do_not_change_scores(params):
  gen, card = cards.load(str(params))
  found = []
  for devices in (jax.devices()[:1], jax.devices()):
    sampler, placed, _ = from_card(gen, card, devices)
    look = feature_pass.FeaturePass(
      pixels(), frozenset({'features'}), parallel.make_mesh(devices), 16
    )
    spec = sampler.generator.spec(card['sampling'])
    ready = sampler.prepare(sampler.generator.bare(placed), 0, spec)
    found.append(look.samples(sampler, ready, spec, 37, seed=3))
  one, eight = found
  assert one.num == eight.num == len(one.features) == 37
  np.testing.assert_allclose(one.features, eight.features, atol=2e-2)  # a pixel may round over
  reference = frechet.Moments.of_rows(np.random.RandomState(1).rand(100, 12).astype(np.float32))
  a, b = (frechet.frechet(seen.moments, reference) for seen in found)
  assert a == pytest.approx(b, rel=1e-4)
  assert a == pytest.approx(
    frechet.frechet(frechet.Moments.of_rows(one.features), reference), rel=1e-5
  )  # what the devices added up is what the features give


@pytest.mark.parametrize(
  ('keeps', 'gathered'),
  [
    ((), []),
    (('features',), [('f32', 104 * 12)]),
    (('features', 'images'), [('f32', 104 * 12), ('u8', 104 * 16 * 16)]),
  ],
)
def test_on_tpus_only_what_is_kept_is_gathered(keeps, gathered):
  """A slice of v3-8 adds up moments and gathers, once, what a metric asked for."""
  pytest.importorskip('libtpu', reason='compiling for TPUs needs libtpu: pip install "jax[tpu]"')
  mesh = parallel.make_mesh(tpu_slices.find('v3-8').devices())
  look = feature_pass.FeaturePass(pixels(), frozenset(keeps), mesh, 8 * tpu_hlo.PRIME)
  ops = tpu_hlo.parse_compiled(look.lower((16, 16, 1)).compile().as_text())
  of_kind = lambda kind: [shape for op in ops if op.kind == kind for shape in op.results]
  assert sorted((shape.dtype, shape.size) for shape in of_kind('all-gather')) == gathered
  assert sorted(s.dims for s in of_kind('all-reduce')) == [(), (12,), (12, 12)]
  assert set(tpu_hlo.count_collectives(ops)) <= {'all-reduce', 'all-gather'}


def test_a_folder_an_npz_and_arrays_score_alike(bigjax, tmp_path):
  images = np.random.RandomState(0).randint(0, 256, (50, 16, 16, 1)).astype(np.uint8)
  (tmp_path / 'pngs' / 'sub').mkdir(parents=True)
  for i, image in enumerate(images):
    Image.fromarray(image[..., 0]).save(tmp_path / 'pngs' / ('sub' if i % 2 else '') / f'{i}.png')
  np.savez(tmp_path / 'x.npz', arr_0=images)
  values = []
  for given in (tmp_path / 'pngs', tmp_path / 'x.npz'):
    status, _, err = bigjax(
      'evaluate', '--images', given, '--reference', 'digits/test', '--features', 'classifier',
      '--metrics', 'fid', '--out', tmp_path / 'out', '--batch', 16,
    )  # fmt: skip
    assert status == 0, err
    values.append(rows_of(tmp_path / 'out')[-1]['scores']['fd50_test_classifier']['value'])
  assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_batches_are_put_together():
  parts = [(np.arange(n)[:, None, None, None], np.arange(n)) for n in (3, 5, 1, 4)]
  found = list(image_sets.rebatched(iter(parts), 4))
  assert [len(labels) for _, labels in found] == [4, 4, 4, 1]
  want = np.concatenate([labels for _, labels in parts])
  np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), want)


def stats(path, dim):
  np.savez(path, mu=np.zeros(dim), sigma=np.eye(dim))
  return path


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (('--metrics', 'fid,isc'), r"--metrics is 'isc' \(did you mean is\?\)"),
    (('--metrics', ','), '--metrics is empty'),
    (('--metrics', 'fid', '--out', 'x.json'), 'give a folder, x.json/'),
    (('--metrics', 'fid'), 'give --reference'),
    (('--seeds', 'a'), 'whole numbers'),
    (('--num', '1'), 'at least 2'),
    (('--features', 'clasifier', '--reference', 'digits'), 'did you mean classifier'),
    (('--metrics', 'fid', '--reference', 'tdfs:x'), 'expected one of'),
    (('--features', 'classifier', '--metrics', 'is'), 'is trained on the labelled images'),
    (('--metrics', 'cas', '--features', 'classifier', '--reference', 'digits'), 'needs labels'),
    (('--by_class', '--metrics', 'ms_ssim'), '--by_class compares with real images'),
    (('--by_class', '--metrics', 'fid', '--reference', 'digits'), 'no classes and digits has 10'),
  ],
)
def test_mistakes_get_a_sentence(words, said, bigjax, tmp_path):
  np.savez(tmp_path / 'x.npz', arr_0=np.zeros((20, 16, 16, 1), np.uint8))
  status, _, err = bigjax('evaluate', '--images', tmp_path / 'x.npz', *words)
  assert status == 2
  assert 'Traceback' not in err
  assert re.search(said, err)


def test_a_workdir_that_is_none_is_called_that(bigjax, tmp_path):
  status, _, err = bigjax('evaluate', '--workdir', tmp_path / 'absent')
  assert status == 2 and 'is not the workdir of a run' in err and err.count('\n') == 1


def test_statistics_of_other_features_are_refused(tmp_path):
  with pytest.raises(
    errors.UserError, match=r'of 5 features \(mu \[5\], sigma \[5, 5\]\), the network gives 12'
  ):
    read_statistics(str(stats(tmp_path / 's.npz', 5)), 12)
  reference = read_statistics(str(stats(tmp_path / 's.npz', 12)), 12)
  with pytest.raises(errors.UserError, match='only their mean and covariance'):
    protocol.refuse(['kid'], reference.split, 10)
  protocol.refuse(['fid'], reference.split, 10)
  shifted = frechet.Gaussian(np.full(12, 2.0), np.eye(12))
  assert frechet.frechet(shifted, reference.seen.moments) == pytest.approx(48)


def test_statistics_that_are_none_are_refused_by_name(tmp_path):
  """A NaN once gave nan, and a negative covariance the perfect score 0."""
  path = str(tmp_path / 's.npz')

  def said(mu, sigma):
    np.savez(path, mu=mu, sigma=sigma)
    with pytest.raises(errors.UserError) as error:
      read_statistics(path, 3)
    assert 's.npz' in str(error.value)
    return str(error.value)

  mu, sigma = np.zeros(3), np.eye(3)
  assert "'mu'" in said([0, np.nan, 0], sigma) and "'sigma'" in said(mu, sigma + np.inf)
  assert 'expected numbers' in said(['a', 'b', 'c'], sigma)
  assert 'none may be negative' in said(mu, -sigma)
  assert 'none may be negative' in said(mu, np.diag([1.0, 1.0, -0.01]))
  assert 'not symmetric' in said(mu, sigma + np.triu(np.ones((3, 3)), 1))
  assert 'of 2 features' in said(mu[:2], sigma)
  assert 'sigma [3])' in said(mu, np.ones(3))
  assert 'at most 1e+30' in said(mu, sigma * 1e300)
  rows = np.random.default_rng(0).normal(size=(2, 3))  # of less rank, and rounded
  np.savez(path, mu=mu.astype(np.float32), sigma=np.cov(rows.T).astype(np.float32))
  assert read_statistics(path, 3).seen.moments.cov.dtype == np.float64


LABELS = np.arange(6) % 3


@pytest.mark.parametrize(
  ('arrays', 'said'),
  [
    ({'labels': LABELS[:4]}, r"'labels' of .*x.npz' is int64 \[4\]; .*whole numbers \[6\]"),
    ({'labels': np.eye(3)[LABELS]}, r"'labels' .*float64 \[6, 3\]"),
    ({'labels': LABELS.astype(float)}, "'labels' .*whole numbers"),
    ({'labels': LABELS.astype(str)}, "'labels' .*whole numbers"),
    ({'arr_1': LABELS - 1}, "'arr_1' .*at least 0"),
    ({'labels': LABELS + 10**9}, "'labels' .*at most"),
    ({'images': np.zeros((0, 4, 4, 3), np.uint8)}, "no images: 'images'"),
    ({'images': np.zeros((6, 0, 4, 3), np.uint8)}, "no images: 'images'"),
    ({'images': np.zeros((6, 4, 4, 3))}, 'float64'),
    ({'images': np.array([None] * 6)}, 'cannot be read'),
    ({'images': None}, 'no arrays'),
  ],
)
def test_arrays_of_images_and_labels_that_are_none(tmp_path, arrays, said):
  arrays = {'images': np.zeros((6, 4, 4, 3), np.uint8), **arrays}
  np.savez(tmp_path / 'x.npz', **{k: a for k, a in arrays.items() if a is not None})
  with pytest.raises(errors.UserError, match=said):
    image_sets.open_files(str(tmp_path / 'x.npz'))


def test_labels_of_any_width_are_read(tmp_path):
  for kind in (np.uint8, np.int32, np.int64):
    np.savez(tmp_path / 'x.npz', arr_0=np.zeros((6, 4, 4, 3), np.uint8), arr_1=LABELS.astype(kind))
    assert image_sets.open_files(str(tmp_path / 'x.npz')).num_classes == 3


@pytest.mark.slow
def test_a_folder_scores_as_torch_fidelity_scores_it(bigjax, tmp_path):
  """The same PNGs and weights, from files to FID, KID, Inception score, precision and recall."""
  torch = pytest.importorskip('torch')
  fidelity = pytest.importorskip('torch_fidelity')
  import feature_networks as inception  # a recipe of weights in the published layout

  torch.save(inception.in_torch(inception.weights('fid')), tmp_path / 'fid.pth')
  for name, seed in (('a', 1), ('b', 2)):
    (tmp_path / name).mkdir()
    for i, image in enumerate(inception.pictures(32, 32, 40, seed)):
      Image.fromarray(image).save(tmp_path / name / f'{i:03d}.png')
  theirs = fidelity.calculate_metrics(
    input1=str(tmp_path / 'a'), input2=str(tmp_path / 'b'), cuda=False, batch_size=20,
    isc=True, fid=True, kid=True, prc=True, samples_shuffle=False, kid_subset_size=40,
    kid_subsets=1, save_cpu_ram=True, cache=False, verbose=False, prc_neighborhood=3,
    feature_extractor='inception-v3-compat', feature_layer_prc='2048',
    feature_extractor_weights_path=str(tmp_path / 'fid.pth'),
  )  # fmt: skip
  status, _, err = bigjax(
    'evaluate', '--images', tmp_path / 'a', '--reference', f'folder:{tmp_path / "b"}',
    '--weights', tmp_path / 'fid.pth', '--metrics', 'fid,is,pr,kid', '--batch', 20,
    '--out', tmp_path,
  )  # fmt: skip
  assert status == 0, err
  (row,) = rows_of(tmp_path)
  ours = {name: score['value'] for name, score in row['scores'].items()}
  # Of 40 pictures in 2048 dimensions, FID itself is only known to a few digits: see scores/frechet.
  for name, key, tolerance in (
    ('fid40_all_inception', 'frechet_inception_distance', 1e-3),
    ('is40_inception_10splits', 'inception_score_mean', 1e-4),
    ('kid40_all_inception_subsets40', 'kernel_inception_distance_mean', 1e-3),
    ('precision40_all_inception_k3', 'precision', 1e-6),
    ('recall40_all_inception_k3', 'recall', 1e-6),
  ):
    print(f'{name}: ours {ours[name]:.8g}, torch-fidelity {fidelity.__version__} {theirs[key]:.8g}')
    assert ours[name] == pytest.approx(theirs[key], rel=tolerance), name
