"""Labels in files beside images: which are read, what they mean, and what is said of them."""

import json

import ml_collections
import numpy as np
import pytest
import zips

from bigjax import data
from bigjax.core import errors
from bigjax.data.files import label_files, stores
from bigjax.data.reading import levels, listing

from folders import config, refusal, said, shade, shades, unseen, write

JSON, CSV = 'dataset.json', 'labels.csv'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


def labels_of(root, files, images=(), **keys):
  """What files of labels say of images that are not looked at."""
  write(root, dict.fromkeys(images, b''))
  write(root, {name: given if isinstance(given, bytes) else given.encode()
               for name, given in files.items()})  # fmt: skip
  given = ml_collections.ConfigDict({'label_column': '', 'num_classes': None, **keys})
  found = listing.walk(str(root))
  return label_files.find(found, levels.splits(found), given)


def sentence(*args, **keys):
  with pytest.raises(errors.UserError) as error:
    labels_of(*args, **keys)
  assert '\n' not in str(error.value)
  return str(error.value)


AB = ('a.png', 'b.png')
FORMS = {  # what says that a is a cat and b a dog
  'dataset_tool': (JSON, '{"labels": [["a.png", "cat"], ["b.png", "dog"]]}'),
  'pairs': (JSON, '{"labels": {"a.png": "cat", "b.png": "dog"}}'),
  'csv': (CSV, 'file_name,label\na.png,cat\nb.png,dog\n'),
  'windows': (CSV, '\ufefffile_name,label\r\n"a.png", cat\r\nb.png ,dog'),
  'semicolons': (CSV, 'label;file\ncat;a.png\ndog;b.png\n'),
  'tabs': (CSV, 'Image\tCLASS\ta,b\na.png\tcat\t1,2\nb.png\tdog\t3\n'),
  'kaggle': (CSV, 'id,category\na,cat\n\nb,dog\n'),
  'others first': (CSV, 'note,label,file_name\n"x, y",cat,./a.png\n"""z""\nq",dog,b.png\n'),
  'jsonl': (
    'metadata.jsonl',
    '{"file_name": "a.png", "label": "cat"}\n\n{"label": "dog", "file_name": "b.png", "x": [1]}',
  ),
  'metadata.csv': ('metadata.csv', 'file_name,text,label\na.png,a cat,cat\nb.png,a dog,dog\n'),
  'bars in names': (CSV, 'file,label\na|b.png,\na.png,cat\nb.png,dog\n'),
  'upper': ('LABELS.CSV', 'file_name,label\na.png,cat\nb.png,dog\n'),
}


@pytest.mark.parametrize('form', FORMS)
def test_forms_of_one_table(tmp_path, form):
  name, given = FORMS[form]
  found = labels_of(tmp_path, {name: given}, AB)
  assert found.of == {'a.png': ('cat',), 'b.png': ('dog',)}
  assert found.files == (name,) and len(found.findings) == (form == 'bars in names')


@pytest.mark.parametrize(
  ('value', 'expected'),
  [
    (3, ('3',)), (3.0, ('3',)), (2.5, ('2.5',)), (float('nan'), ()), (None, ()), ('', ()),
    (' ', ()), (True, ('true',)), (' a b ', ('a b',)), (['x', 'y', 'x'], ('x', 'y')), ([], ()),
    ([1, None], ('1',)), (-1, ('-1',)), ('a\nb\x1b', (r'a\nb\x1b',)), (float('inf'), ('inf',)),
    (10**30, ('1' + '0' * 30,)), ('\ud800', (r'\ud800',)),
  ],
)  # fmt: skip
def test_what_a_value_means(value, expected):
  assert label_files.words_of(value) == expected


@pytest.mark.parametrize('value', [{'a': 1}, [[1]], [{}], 'x' * 201, 10**300, 1e300])
def test_what_is_no_label(value):
  with pytest.raises(ValueError, match=r'is no label|letters long'):
    label_files.words_of(value)


def test_columns_are_chosen(tmp_path):
  """By the key, or by a name that labels usually have; several of them in one file."""
  table = {CSV: 'file_name,breed,label\na.png,tabby,cat\nb.png,poodle,dog\n'}
  assert labels_of(tmp_path, table, AB).of['a.png'] == ('cat',)
  found = labels_of(tmp_path, table, label_column='breed')
  assert found.of == {'a.png': ('tabby',), 'b.png': ('poodle',)} and "'breed'" in found.words
  message = sentence(tmp_path, table, label_column='bred')
  assert "data.label_column is 'bred'" in message and 'file_name, breed, label' in message
  assert 'looked for dataset.json' in sentence(tmp_path / 'none', {'a.png': b''}, label_column='x')


def test_a_file_without_labels_is_told(tmp_path):
  """Captions are no classes; folders go on to be."""
  (tmp_path / 'x').mkdir()
  found = labels_of(tmp_path, {'metadata.jsonl': '{"file_name": "a.png", "text": "a cat"}'}, AB)
  assert found.of == {} and found.files == ('metadata.jsonl',)
  ((level, words),) = found.findings
  assert level == 'warning' and 'it has file_name, text' in words and 'label_column' in words


def test_several_labels_of_an_image(tmp_path):
  table = {CSV: 'file,label\na.png,cat|dog\nb.png,dog\n'}
  found = labels_of(tmp_path, table, AB)
  assert found.of == {'a.png': ('cat', 'dog'), 'b.png': ('dog',)}
  numbers = label_files.numbers_of(['b.png', 'a.png'], found, ['cat', 'dog'])
  np.testing.assert_array_equal(numbers, [[1, -1], [0, 1]])
  below = listing.walk(str(tmp_path))
  told = label_files.of_images(below, found, ['cat', 'dog'])
  assert ('ok', '1 of 2 images have several labels, up to 2: one is drawn at every visit') in told


def test_rows_and_images_that_do_not_meet(tmp_path):
  """Images without labels, rows without images, rows said twice: counted and named."""
  rows = 'file,label\na.png,1\na.png,1\nb.png,\nzz.png,1\n../a.png,1\n/etc/passwd,1\nd.png,3\n'
  found = labels_of(tmp_path, {CSV: rows}, ('a.png', 'b.png', 'c.png', 'd.png'))
  assert found.of == {'a.png': ('1',), 'b.png': (), 'd.png': ('3',)}
  words = '\n'.join(text for _, text in found.findings)
  where = "labels.csv, column 'label'"
  assert f'3 rows of {where} name files that are not there: zz.png, ../a.png, /etc' in words
  assert f'1 row of {where} says again what another does: a.png' in words
  below = listing.walk(str(tmp_path))
  told = '\n'.join(text for _, text in label_files.of_images(below, found, ['1', '3']))
  assert f'2 of 4 images in {str(tmp_path)!r} have no label in {where}' in told
  assert 'left out: b.png, c.png' in told
  assert 'no image has the label 2, though' in told
  assert label_files.labelled(below, found).images == ['a.png', 'd.png']


@pytest.mark.parametrize(
  ('classes', 'gone'),
  [('0 1 2', ''), ('1 2 3', ''), ('0 2 3', '1'), ('1 3', '2'), ('1999 2007', ''), ('a 0 2', '')],
)
def test_numbers_that_no_image_has(tmp_path, classes, gone):
  classes = classes.split()
  below = listing.Listing('/x', ['a'] * len(classes), [], [], [], [])
  told = label_files.of_images(below, label_files.Labels((), {'a': ('x',)}, 'x', ()), classes)
  named = [words for _, words in told if 'though there are higher' in words]
  assert named == ([f'no image has the label {gone}, though there are higher ones'] if gone else [])


def test_names_that_are_no_text(tmp_path):
  """Half of a pair, as JSON may have; found by tests/support/fuzz.py."""
  found = labels_of(tmp_path, {JSON: r'{"labels": [["\ud800.png", 1], ["a.png", "\ud800"]]}'}, AB)
  assert found.of == {'a.png': (r'\ud800',)}
  assert found.findings[0][1].endswith(r'not there: \ud800.png')


def test_names_are_found_in_folders(tmp_path):
  """By their path, and by a name alone where there is one such file."""
  images = ('train/x/a.png', 'train/y/b.png', 'train/y/c.png', 'train/x/c.jpg')
  rows = 'name,label\ntrain/x/a.png,1\nb.png,2\nc,3\nc.jpg,4\ntrain\\y\\c.png,5\nx/b.png,6\n'
  found = labels_of(tmp_path, {CSV: rows}, images)
  assert found.of == {
    'train/x/a.png': ('1',), 'train/y/b.png': ('2',), 'train/x/c.jpg': ('4',),
    'train/y/c.png': ('5',),
  }  # fmt: skip
  assert found.findings[0][1].endswith('not there: c, x/b.png')


def test_files_of_labels_in_splits(tmp_path):
  """Names are relative to them; elsewhere they are not looked at."""
  images = ('train/a.png', 'test/a.png')
  table = lambda label: f'file_name,label\na.png,{label}\n'
  files = {'train/metadata.csv': table('x'), 'test/metadata.csv': table('y')}
  found = labels_of(tmp_path, {**files, 'other/labels.csv': table('z')}, images)
  assert found.of == {'train/a.png': ('x',), 'test/a.png': ('y',)}
  assert found.within('train').of == {'a.png': ('x',)} and len(found.files) == 2


def test_what_disagrees_is_refused(tmp_path):
  """Two files, two rows, and a file and the class folders."""
  one, other = 'file,label\na.png,cat\nb.png,dog\n', '{"labels": [["a.png", "cat"]]}'
  both = labels_of(tmp_path / '1', {CSV: one, JSON: other}, AB)
  assert both.of == {'a.png': ('cat',), 'b.png': ('dog',)} and len(both.files) == 2
  message = sentence(tmp_path / '1', {JSON: other.replace('cat', 'dog')})
  assert "says that 'a.png' is cat" in message and 'that it is dog' in message
  assert 'keep one of them' in sentence(tmp_path / '2', {CSV: one + 'a.png,dog\n'}, AB)
  images = ('cat/a.png', 'dog/b.png')
  found = labels_of(tmp_path / '3', {CSV: one}, images)
  below = listing.walk(str(tmp_path / '3'))
  assert label_files.classes_of(below, found) == ['cat', 'dog']
  found = labels_of(tmp_path / '3', {CSV: one.replace('dog', 'cat') + 'dog/c.png,dog\n'},
                    ('dog/c.png',))  # fmt: skip
  with pytest.raises(errors.UserError, match=r"that 'dog/b.png' is cat, its folder that it is dog"):
    label_files.classes_of(listing.walk(str(tmp_path / '3')), found)


def test_labels_that_are_no_classes(tmp_path):
  """Nearly as many as images, or none."""
  names = [f'{i}.png' for i in range(30)]
  rows = 'file,label\n' + ''.join(f'{name},caption {name}\n' for name in names)
  found = labels_of(tmp_path, {CSV: rows}, names)
  with pytest.raises(errors.UserError, match=r'30 labels for 30 images.*no classes'):
    label_files.classes_of(listing.walk(str(tmp_path)), found)
  found = labels_of(tmp_path, {CSV: 'file,label\n0.png,\n'})
  with pytest.raises(errors.UserError, match=r'of the 30 images in .* none has a label'):
    label_files.classes_of(listing.walk(str(tmp_path)), found)


@pytest.mark.parametrize(
  ('name', 'given', 'words'),
  [
    (JSON, '{"labels": [["a.png"]]}', 'expected'),
    (JSON, '{"labels": 3}', 'no list of pairs'),
    (JSON, '{"labels": [["a.png", [0, 1]]]}', 'is a vector'),
    (JSON, '{"labels": [["a.png", 1], [2, 1]]}', 'expected'),
    (JSON, '{"labels"', 'Expecting'),
    (JSON, '[' * 200_000, 'recursion'),
    (JSON, b'\xff\xfe', 'decode'),
    ('metadata.jsonl', '{"file_name": 3, "label": 1}', 'no file_name'),
    ('metadata.jsonl', '{"file_name": "a.png", "label": 1}\n{"label": 1}', 'no file_name'),
    ('metadata.jsonl', '{"file_name": "a.png", "label": 1}\n3', 'no JSON object'),
    ('metadata.jsonl', '{"file_name": "a.png", "label": {"x": 1}}', 'no label'),
    ('metadata.jsonl', '{"file_name": "a.png", "label": ' + '9' * 5000 + '}', 'digits'),
    (CSV, 'file,label\na.png,"' + 'x' * 200_000, 'field larger'),
    (CSV, 'file,label\na.png,' + 'x' * 300, '300 letters long'),
  ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, given, words):
  message = sentence(tmp_path, {name: given}, AB)
  assert words in message and str(tmp_path / name) in message and len(message) < 500


def test_a_file_of_labels_has_a_limit(tmp_path, monkeypatch):
  for part, name in (('MOST_JSON', JSON), ('MOST_BYTES', CSV)):
    monkeypatch.setattr(label_files, part, 2**20)
    assert 'over 1 MiB' in sentence(tmp_path / part, {name: 'x' * (2**20 + 1)}, AB)
  (tmp_path / CSV).symlink_to('/dev/zero')
  assert 'not a file' in sentence(tmp_path, {}, AB)


def test_labels_make_a_source(tmp_path):
  """Of a split each, through images: several labels of one, drawn anew at each visit."""
  images = {f'train/{i}.png': shade(i) for i in range(6)} | {'test/9.png': shade(9)}
  root = write(tmp_path / 'all', {**images, 'train/7.png': shade(7)})
  rows = ''.join(f'train/{i}.png,{"odd|prime" if i in (3, 5) else "even"}\n' for i in range(6))
  (root / CSV).write_text('file_name,label\ntest/9.png,odd\n' + rows)
  source = data.load(config(root))
  assert source.class_names == ('even', 'odd', 'prime') and unseen(source) == [9]
  assert source.held_out()[1].tolist() == [1] and source.num_train == 6
  assert source.labels().tolist() == [[0, -1], [0, -1], [0, -1], [1, 2], [0, -1], [1, 2]]
  stream, seen = data.stream(source, 0, 0, (2, 12), np.arange(12), sizes={'small': 4}), {}
  for batch in (next(stream), next(stream)):
    for image, label in zip(batch['small'].reshape(-1, 48)[:, 0], batch['label'].reshape(-1),
                            strict=True):  # fmt: skip
      seen.setdefault(int(image), set()).add(int(label))
  assert seen == {i: {1, 2} if i in (3, 5) else {0} for i in range(6)}
  assert "labels are those of labels.csv, column 'label'" in said(source)
  assert 'have no label in' in said(source) and ': 7.png' in said(source)
  (root / CSV).write_text('file_name,label\ntest/9.png,neither\n' + rows)
  assert 'labels that no training image has' in refusal(config(root))
  (root / CSV).write_text('file_name,label\n' + rows)
  assert "'test' has no labels" in said(held := data.load(config(root))) and 9 not in unseen(held)


def test_no_labels_are_one_class(tmp_path):
  """By dataset_tool's null, whose folders are no classes; and by data.num_classes=1."""
  root = write(tmp_path / 'all', {f'0000{i % 2}/{i}.png': shade(i) for i in range(8)})
  (root / JSON).write_text('{"labels": null}')
  source = data.load(config(root))
  assert source.class_names == ('all',) and {*shades(source).values()} == {0}
  assert 'ok: dataset.json says that there are no labels' in said(source)
  (root / JSON).write_text('not looked at')
  blind = data.load(config(root, num_classes=1))
  assert blind.class_names == ('all',) and 'are not looked at' in said(blind)
  assert unseen(blind) == unseen(source)


def test_a_set_of_hf_needs_its_library(monkeypatch):
  monkeypatch.setattr(errors, 'is_installed', lambda name: False)
  assert "pip install 'bigjax[hf]'" in refusal(config('', source='hf:x'))
  assert 'has still images; set data.frames=0' in refusal(config('', source='hf:x', frames=4))


def test_a_column_is_of_sources_that_have_some():
  assert 'only folder: and hf:' in refusal(config('x', source='digits', label_column='x'))


def test_labels_in_a_zip_have_a_limit(tmp_path, monkeypatch):
  path = zips.packed(tmp_path / 'x.zip', {'a.png': b'x', CSV: b'x' * 2000})
  monkeypatch.setattr(label_files, 'MOST_BYTES', 1000)
  found = stores.walk(str(path))
  with pytest.raises(errors.UserError, match=r'cannot be read .over'):
    label_files.find(found, levels.splits(found), config(path))


def test_a_class_of_every_number_is_a_row(tmp_path):
  """A thousand rows of dataset_tool's, in the order of numbers, not of letters."""
  names = [f'{i:05d}/img{i:08d}.png' for i in range(24)]
  pairs = [[name, i % 12] for i, name in enumerate(names)]
  found = labels_of(tmp_path, {JSON: json.dumps({'labels': pairs})}, names)
  classes = label_files.classes_of(listing.walk(str(tmp_path)), found)
  assert classes == [str(i) for i in range(12)]
  numbers = label_files.numbers_of(names, found, classes)
  assert numbers.tolist() == [i % 12 for i in range(24)] and numbers.dtype == np.int32
