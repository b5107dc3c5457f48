"""Sets of Hugging Face's library, made here and read from the disk; nothing is downloaded."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.core import errors

from folders import config, everything, refusal, said, shades, unseen
from pictures import encoded, noise, square

datasets = pytest.importorskip('datasets', reason='needs [hf]')


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
  """Caches of each test's own, and no way out."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))
  for name in ('HF_CACHE_HOME', 'HF_DATASETS_CACHE'):
    monkeypatch.setattr(datasets.config, name, tmp_path / 'hf')
  monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)


def shade_of(level, **how):
  return encoded(Image.new('RGB', (9, 9), (level,) * 3), **how)


def rows(images, labels, kind=None, **columns):
  """A Dataset of encoded images and labels, by default of a ClassLabel."""
  kind = kind or datasets.ClassLabel(names=['cat', 'dog'])
  features = {'image': datasets.Image(), 'label': kind}
  given = {'image': [{'bytes': one, 'path': None} for one in images], 'label': labels}
  for name, (feature, values) in columns.items():
    features[name], given[name] = feature, values
  return datasets.Dataset.from_dict(given, features=datasets.Features(features))


def hf(path, **changes):
  return config('', source=f'hf:{path}', **changes)


def test_a_saved_set_of_splits(tmp_path):
  splits = {
    'train': rows([shade_of(i) for i in range(6)], [i % 2 for i in range(6)]),
    'unsupervised': rows([shade_of(50)], [-1]),
    'validation': rows([shade_of(i) for i in range(100, 104)], [1, 0] * 2),
    'test': rows([shade_of(60)], [-1]),
  }
  datasets.DatasetDict(splits).save_to_disk(tmp_path / 'set')
  source = data.load(hf(tmp_path / 'set'))
  assert source.class_names == ('cat', 'dog') and source.at_once
  assert shades(source) == {i: i % 2 for i in range(6)} and unseen(source) == [*range(100, 104)]
  assert source.held_out()[1].tolist() == [1, 0] * 2 and source.labels().dtype == np.int32
  again = data.load(hf(tmp_path / 'set'))
  assert (again.digest, again.held_out_digest) == (source.digest, source.held_out_digest)
  other = data.load(hf(tmp_path / 'set', split='validation', held_out=0.5))
  assert everything(other) == [*range(100, 104)] and other.num_train == 2
  assert 'has the splits train, unsupervised' in refusal(hf(tmp_path / 'set', split='tset'))


def test_parquet_is_split_by_share_and_read_by_number(tmp_path):
  """A random crop is another at every visit, so that nothing is kept in memory."""
  images = [encoded(Image.fromarray(noise(12, 9 + i))) for i in range(8)]
  rows(images, ['b', 'a', None, '10', '9', 'a', 'b', 'b'], datasets.Value('string')).to_parquet(
    tmp_path / 'train-00000-of-00001.parquet'
  )
  source = data.load(hf(tmp_path, crop='random', held_out=0.3))
  assert source.class_names == ('9', '10', 'a', 'b') and not source.at_once
  assert source.num_train + source.num_held_out == 7
  assert 'warning: 1 of 8 images' in said(source) and "have no label in column 'label'" in said(
    source
  )
  seen = {image.tobytes(): label for part in (source.train(), source.held_out())
          for image, label in zip(*part, strict=True)}  # fmt: skip
  for i, label in enumerate([3, 2, None, 1, 0, 2, 3, 3]):
    image = square(np.asarray(Image.open(io.BytesIO(images[i])).convert('RGB')), 8)
    assert seen.get(image.tobytes()) == label
  batch = next(data.stream(source, 0, 0, (1, 5), np.arange(5)))
  assert batch['image'].shape == (1, 5, 8, 8, 3)


def test_what_is_in_the_images(tmp_path):
  """Cameras' orientation, damaged ones, copies: as in a folder."""
  exif = Image.Exif()
  exif[274] = 6
  wide = Image.fromarray(noise(8, 16))
  images = [encoded(wide, 'JPEG', exif=exif, quality=100), b'no picture', shade_of(1), shade_of(1)]
  images += [shade_of(i) for i in range(2, 8)]
  rows(images, [0, 0, 0, 1, 0, 0, 0, 1, 1, 1]).save_to_disk(tmp_path / 'set')
  source = data.load(hf(tmp_path / 'set', fit='pad', held_out=0.1))
  assert source.num_train + source.num_held_out == 9
  text = said(source)
  assert '1 of 10 images' in text and 'are left out: 1' in text
  assert '1 of 9 images are copies of another' in text and 'in another class' in text
  found = [np.concatenate([a, b]) for a, b in zip(source.train(), source.held_out(), strict=True)]
  upright = [image for image in found[0] if image[:, 2:6].std() > 9]
  assert len(upright) == 1 and not upright[0][:, :2].any() and not upright[0][:, 6:].any()


def test_columns_are_chosen(tmp_path):
  """Of labels by the key, or by their type; several labels of an image; none with one class."""
  images = [shade_of(i) for i in range(6)]
  fine = datasets.ClassLabel(names=['tabby', 'poodle', 'beagle'])
  tags = datasets.List(datasets.ClassLabel(names=['in', 'out']))
  made = rows(images, [0, 1] * 3, fine=(fine, [0, 1, 2] * 2), tags=(tags, [[0], [0, 1], [1]] * 2))
  made.save_to_disk(tmp_path / 'set')
  source = data.load(hf(tmp_path / 'set', label_column='fine'))
  assert source.class_names == ('tabby', 'poodle', 'beagle')
  source = data.load(hf(tmp_path / 'set', label_column='tags', held_out=0.2))
  assert source.class_names == ('in', 'out') and source.labels().shape == (source.num_train, 2)
  blind = data.load(hf(tmp_path / 'set', num_classes=1))
  assert blind.class_names == ('all',) and {*shades(blind).values()} == {0}
  message = refusal(hf(tmp_path / 'set', label_column='fien'))
  assert "data.label_column is 'fien', but it has image, label, fine, tags" in message
  made.remove_columns('label').save_to_disk(tmp_path / 'two')  # one ClassLabel: it is taken
  assert data.load(hf(tmp_path / 'two')).class_names == ('tabby', 'poodle', 'beagle')
  made.select_columns('image').save_to_disk(tmp_path / 'bare')
  assert 'data.num_classes=1' in refusal(hf(tmp_path / 'bare'))
  made.select_columns('label').save_to_disk(tmp_path / 'none')
  assert 'no columns of images' in refusal(hf(tmp_path / 'none'))


def test_sets_that_are_not_there(tmp_path):
  for path in (tmp_path / 'none', ''):
    with pytest.raises(errors.UserError) as error:
      data.load(hf(path))
    assert '\n' not in str(error.value)
  (tmp_path / 'empty').mkdir()
  assert 'datasets cannot load it' in refusal(hf(tmp_path / 'empty'))
  with pytest.raises(errors.AbsentData, match='cannot load it'):
    data.load(hf('no/such-set'))


def test_a_set_reads_nothing_outside(tmp_path):
  """Neither a file that a row names, nor a shard that its state.json does."""
  (tmp_path / 'private.png').write_bytes(shade_of(9))
  images = [shade_of(i) for i in range(6)]
  made = rows(images, [0, 1] * 3)
  path = {'bytes': None, 'path': str(tmp_path / 'private.png')}
  inner = [{'bytes': one, 'path': None} for one in images[1:]]
  given = {'image': [path, *inner], 'label': [0, 1] * 3}
  datasets.Dataset.from_dict(given, features=made.features).save_to_disk(tmp_path / 'set')
  table = tmp_path / 'set' / 'data-00000-of-00001.arrow'
  source = data.load(hf(tmp_path / 'set'))
  assert 9 in everything(source), 'save_to_disk took the file in'
  # The same with the row as a stranger would write it.
  plain = datasets.Dataset.from_dict(
    {'image': given['image'], 'label': given['label']},
    features=datasets.Features({
      'image': {'bytes': datasets.Value('binary'), 'path': datasets.Value('string')},
      'label': made.features['label'],
    }),
  )  # fmt: skip
  plain.save_to_disk(tmp_path / 'raw')
  os.replace(tmp_path / 'raw' / 'data-00000-of-00001.arrow', table)
  source = data.load(hf(tmp_path / 'set'))
  assert 9 not in everything(source) and '0 (its bytes are not in the set)' in said(source)
  state = json.loads((tmp_path / 'set' / 'state.json').read_text())
  os.replace(table, tmp_path / 'elsewhere.arrow')
  state['_data_files'] = [{'filename': '../elsewhere.arrow'}]
  (tmp_path / 'set' / 'state.json').write_text(json.dumps(state))
  assert 'outside that folder' in refusal(hf(tmp_path / 'set'))
