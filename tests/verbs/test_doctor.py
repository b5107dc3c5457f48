"""`bigjax doctor`: what it says of good and bad data, its exit status, and the contact sheet."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.algorithms.base.contract import Stage, image_inputs
from bigjax.core import errors
from bigjax.preflight import data_checks

from folders import shade, write

SIDE, STRIP, GAP = 96, 16, 4  # of a cell of the sheet, of the strip under it, between cells


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """A cache and a working folder of each test's own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)


def photos(root, **counts):
  """So many images of each class, each of a colour of its own."""
  for c, (name, count) in enumerate(counts.items()):
    write(root, {f'{name}/{i}.png': shade((40 * c, i, 200 - i)) for i in range(count)})
  return f'--config.data.source=folder:{root}'


# digits:tiny has batches of 16 grey 16 x 16 images.
BATCH = 16
COLOUR = ('--config=digits:tiny', '--config.data.channels=3', '--config.data.resolution=16')


def as_json(bigjax, *words):
  """The exit status, and the object that was printed."""
  status, out, err = bigjax('doctor', *words, '--json')
  assert not err
  return status, json.loads(out)


def levels(given, words):
  """The levels of the checks that say this."""
  return [check['level'] for check in given['checks'] if words in check['message']]


def cell(path, row, column):
  """The picture in a cell of a contact sheet."""
  sheet = np.asarray(Image.open(path))
  top, left = GAP + row * (SIDE + STRIP + GAP), GAP + column * (SIDE + GAP)
  return sheet[top : top + SIDE, left : left + SIDE]


def test_all_is_well(bigjax, tmp_path):
  status, out, err = bigjax('doctor', '--config=digits:tiny')
  assert status == 0 and not err
  lines = out.splitlines()
  assert lines[0].startswith('ok      digits: 1,347 training images, 10 classes')
  assert any('look at contact_sheet.png' in line for line in lines)
  counts = [line.split() for line in lines[lines.index('') + 1 :]]
  source = data.load(configs.read('digits').data)
  expected = np.bincount(source.labels())
  assert [(int(n.replace(',', '')), name) for n, name in counts] == list(
    zip(expected, source.class_names, strict=True)
  )
  assert 'warning' not in out and 'fail' not in out


def test_the_sheet_shows_what_the_networks_will_see(bigjax, tmp_path):
  """The first batch of the run: enlarged in whole multiples, with labels below."""
  path = tmp_path / 'sheet.png'
  status, _, _ = bigjax('doctor', '--config=digits:tiny', f'--sheet={path}')
  assert status == 0 and not (tmp_path / 'contact_sheet.png').exists()
  columns, rows = 1280 // (SIDE + GAP), 4  # of 40 images
  size = columns * (SIDE + GAP) + GAP, rows * (SIDE + STRIP + GAP) + GAP
  assert Image.open(path).size == size and Image.open(path).mode == 'RGB'
  config = configs.read('digits:tiny')
  source = data.load(config.data)
  batch = next(data.stream(source, config.seed, 0, (1, 40), np.arange(40)))
  images = np.broadcast_to(batch['image'][0], (40, 16, 16, 3)).repeat(6, 1).repeat(6, 2)
  for i in (0, 1, columns, 39):
    shown = cell(path, i // columns, i % columns)
    np.testing.assert_array_equal(shown, images[i])
    assert shown.std() > 20
  sheet = np.asarray(Image.open(path))
  strips = [
    sheet[GAP + SIDE : GAP + SIDE + STRIP, GAP + i * (SIDE + GAP) :][:, :SIDE] for i in range(12)
  ]
  by_label = {}
  for label, strip in zip(batch['label'][0].tolist(), strips, strict=False):
    assert strip.min() < 128 < strip.max()  # words
    np.testing.assert_array_equal(by_label.setdefault(label, strip), strip)
  assert len({strip.tobytes() for strip in by_label.values()}) == len(by_label) > 2


def test_large_images_and_mirrored_ones(bigjax, tmp_path):
  """Drawn as they are, with the flip of the run."""
  given = ('--config.data.source=synthetic:40', '--config.data.resolution=32')
  for flip in ('true', 'false'):
    status, _, _ = bigjax('doctor', '--config=digits:tiny', *given, f'--config.data.flip={flip}',
                          f'--sheet={tmp_path}/{flip}.png')  # fmt: skip
    assert status == 0
  mirrored = np.asarray([cell(tmp_path / 'true.png', 0, i) for i in range(8)])
  plain = np.asarray([cell(tmp_path / 'false.png', 0, i) for i in range(8)])
  same = (mirrored == plain).all((1, 2, 3))
  assert 0 < same.sum() < 8
  np.testing.assert_array_equal(
    mirrored, np.where(same[:, None, None, None], plain, plain[:, :, ::-1])
  )


def test_json(bigjax, tmp_path):
  given = photos(tmp_path / 'all', cat=20, dog=12)
  status, report = as_json(bigjax, *COLOUR, given, '--config.data.num_classes=2')
  assert status == 0 and report['ok'] is True and set(report) == {'ok', 'checks', 'counts'}
  assert report['counts'] == {'cat': 15, 'dog': 9}
  assert {check['level'] for check in report['checks']} <= {'ok', 'warning'}
  assert levels(report, '9 (dog) to 15 (cat) training images per class') == ['ok']
  assert levels(report, '24 training images, 2 classes') == ['ok']
  assert levels(report, 'batches of 16 on 8 devices') == ['ok']
  # 9 x 9 pictures for 16 x 16.
  assert levels(report, 'they are enlarged') == ['warning']


def test_few_of_a_class_is_a_warning(bigjax, tmp_path):
  given = photos(tmp_path / 'all', cat=60, dog=2)
  status, report = as_json(bigjax, *COLOUR, given, '--config.data.num_classes=2')
  assert status == 0 and report['counts'] == {'cat': 45, 'dog': 1}
  assert levels(report, '1 (dog) to 45 (cat)') == ['warning']


def test_too_few_for_a_batch_fails(bigjax, tmp_path):
  given = photos(tmp_path / 'all', cat=9, dog=9)
  status, report = as_json(bigjax, *COLOUR, given, '--config.data.num_classes=2')
  assert status == 1 and report['ok'] is False
  assert levels(report, 'there are 14 training images: lower the batch size') == ['fail']
  assert (tmp_path / 'contact_sheet.png').exists()


def test_what_cannot_be_read_is_named(bigjax, tmp_path):
  given = photos(tmp_path / 'all', cat=20, dog=12)
  write(tmp_path / 'all', {'cat/broken.jpg': b'no'})
  status, out, _ = bigjax('doctor', *COLOUR, given, '--config.data.num_classes=2')
  assert status == 0
  assert re.search('warning 1 of 33 images in .* cannot be read .*: cat/broken.jpg\n', out)


@pytest.mark.parametrize('as_what', [(), ('--json',)])
def test_data_that_is_refused_fails(bigjax, tmp_path, as_what):
  words = ('--config=digits:tiny', f'--config.data.source=folder:{tmp_path}/none', *as_what)
  status, out, err = bigjax('doctor', *words)
  assert status == 1 and not err
  if as_what:
    report = json.loads(out)
    assert report['ok'] is False and report['counts'] == {}
    assert levels(report, 'there is no folder') == ['fail']
  else:
    levels_given = [line.split()[0] for line in out.splitlines()]
    assert out.startswith("fail    data.source is 'folder:") and levels_given.count('fail') == 1
  assert not (tmp_path / 'contact_sheet.png').exists()


def test_without_data_the_other_checks_go_on(bigjax, tmp_path):
  words = ('--config=digits:tiny', f'--config.data.source=folder:{tmp_path}/none')
  words += ('--config.data.num_classes=None', '--config.run.microbatches=3')
  wrong = ('--config.run.best=fid', '--config.watch.policy=panic', '--config.init_from=nowhere')
  status, report = as_json(bigjax, *words, *wrong, f'--workdir={tmp_path}/run')
  assert status == 1 and levels(report, 'there is no folder') == ['fail']
  assert levels(report, 'what follows assumes 10 classes') == ['warning']
  for said in ("run.best is 'fid'", "watch.policy is 'panic'", 'run.microbatches is 3'):
    assert levels(report, said) == ['fail'], said
  assert levels(report, 'holds no run: one would begin') == ['ok']
  status, report = as_json(bigjax, *words[:-1], '--config.init_from=nowhere')
  assert levels(report, 'batches of 16 on 8 devices') == ['ok']
  assert levels(report, 'checkpoints of') == ['ok'] and levels(report, 'nowhere') == ['fail']


def test_number_of_classes_is_read_from_the_data(bigjax, tmp_path):
  """Where a config says None; another number is a failed check."""
  own = tmp_path / 'own.py'
  given = photos(tmp_path / 'all', cat=20, dog=12).removeprefix('--config.data.')
  own.write_text(
    'from bigjax.algorithms.base import configs\n'
    'def get_config(variant=""):\n'
    '  config = configs.read("digits:tiny")\n'
    f'  config.data.update({{"source": "{given.partition("=")[2]}", "channels": 3}})\n'
    '  config.data.num_classes = None\n'
    '  return config\n'
  )
  status, report = as_json(bigjax, f'--config={own}')
  assert status == 0 and report['counts'] == {'cat': 15, 'dog': 9}
  status, report = as_json(bigjax, *COLOUR, f'--config.data.{given}')
  assert status == 1 and levels(report, 'data.num_classes is 10') == ['fail']


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['--config=digitz'], "there is no config 'digitz' (did you mean digits?)"),
    (
      ['--config.data.sauce=x'],
      '--config.data.sauce is not a known key (did you mean data.source?)',
    ),
    (['--config.data.resolution=big'], '--config.data.resolution=big: expected a whole number'),
    (['--sheets=x'], 'sheets'),
    (['now'], "'now' is not an option"),
  ],
)
def test_a_mistake_on_the_command_line(bigjax, words, said):
  status, out, err = bigjax('doctor', *words)
  assert status == 2 and not out
  assert err.startswith('bigjax: ') and said in err and err.count('\n') == 1


def test_a_sheet_that_cannot_be_written_fails(bigjax, tmp_path):
  path = tmp_path / 'none' / 'sheet.png'
  status, out, _ = bigjax('doctor', '--config=digits:tiny', f'--sheet={path}')
  assert status == 1 and f'fail    --sheet={path} cannot be written' in out


def test_help(bigjax):
  status, out, _ = bigjax('doctor', '--help')
  assert status == 0 and out.startswith('usage: bigjax doctor') and 'digits' in out


def test_a_batch_that_does_not_fit_the_devices_fails(bigjax):
  status, report = as_json(bigjax, '--config=digits:tiny', '--config.optim.batch_size=12')
  assert status == 1 and levels(report, 'cannot be split over 8 devices') == ['fail']
  assert report['counts']['0'] > 100


def test_labels_that_cannot_be_read_fail(bigjax, monkeypatch):
  """As those of a damaged set do, which are read last."""
  source = data.load(configs.read('digits').data)

  def damaged():
    raise errors.UserError('shard 7 is cut.')

  monkeypatch.setattr(data, 'load', lambda _: dataclasses.replace(source, labels=damaged))
  status, report = as_json(bigjax, '--config=digits:tiny')
  assert status == 1 and levels(report, 'shard 7 is cut') == ['fail']


@pytest.mark.parametrize(
  ('counts', 'level', 'words'),
  [
    ([5, 5, 100], 'ok', '5 (a) to 100 (c) training images per class'),
    ([5, 5, 101], 'warning', '5 (a) to 101 (c) training images per class: fakes are drawn evenly'),
    ([5, 0, 7], 'warning', '1 of 3 classes have no training image (b)'),
    ([0, 0, 7], 'fail', "all images have the label 'c' of 3 classes"),
    ([7], 'ok', '7 training images in every class'),
    ([1, 1], 'ok', '1 training image in every class'),
  ],
)
def test_counts_of_classes(counts, level, words):
  found, sentence = data_checks.of_counts(np.array(counts), 'abc'[: len(counts)])
  assert found == level and words in sentence


def test_a_long_tail_that_was_asked_for_is_no_warning():
  config = configs.read('digits')
  config.data.imbalance = 50.0
  (level, sentence), counts = data_checks.of_labels(data.load(config.data))
  assert level == 'ok' and 'the long tail of data.imbalance' in sentence
  assert max(counts.values()) > data_checks.UNEVEN * min(counts.values())


@pytest.mark.parametrize(('num', 'level'), [(15, 'fail'), (16, 'ok')])
def test_a_batch(num, level):
  found, sentence = data_checks.of_batch(num, Stage(2, 16, image_inputs(16, 1)), 1)
  assert found == level and 'batches of 16 on 1 device' in sentence
