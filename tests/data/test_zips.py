"""Images in a zip: the same as in the folder that it was made of, whatever else is in it."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import zips
from PIL import Image

from bigjax import data
from bigjax.core import errors
from bigjax.data.files import stores
from bigjax.data.reading import listing, photo_files
from bigjax.evaluation import image_sets, reference

from folders import config, everything, refusal, said, shade, shades, unseen, write
from pictures import encoded, noise

GREY = encoded(Image.fromarray(noise(12, 12)))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder and a zip as StyleGAN's dataset_tool writes them, and the loaded source of each."""
  root = tmp_path_factory.mktemp('made') / 'digits'
  names = [f'0000{i // 8}/img{i:08d}.png' for i in range(16)]
  write(root, {name: noise(20, 20 + i) for i, name in enumerate(names)})
  labels = [[name, (7 * i) % 3] for i, name in enumerate(names)]
  (root / 'dataset.json').write_text(json.dumps({'labels': labels}))
  archive = zips.of_folder(root.parent / 'digits.zip', root)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('BIGJAX_CACHE', str(root.parent / 'cache'))
    return root, archive, *(data.load(config(path)) for path in (root, archive))


def test_a_zip_of_dataset_tool_gives_the_batches_of_its_folder(made):
  """Images, labels and their order, bit for bit, held-out ones too; none is taken for a class."""
  root, archive, folder, zipped = made
  assert zipped.class_names == folder.class_names == ('0', '1', '2')
  assert (zipped.digest, zipped.held_out_digest) == (folder.digest, folder.held_out_digest)
  for ours, theirs in zip(zipped.held_out(), folder.held_out(), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  streams = [data.stream(source, 3, 5, (2, 7), np.arange(7), True) for source in (zipped, folder)]
  for _ in range(2):
    ours, theirs = map(next, streams)
    assert ours.keys() == theirs.keys() == {'image', 'label'}
    for name in ours:
      np.testing.assert_array_equal(ours[name], theirs[name])
  assert f'all 16 images in {str(archive)!r} can be read' in said(zipped)
  assert said(zipped).replace(str(archive), str(root)) == said(folder)


ENDS = """
import sys, time
import ml_collections, numpy as np
from bigjax import data
from bigjax.data.files import stores
source = data.load(ml_collections.ConfigDict(eval(sys.argv[1])))
read = stores.Zip.read
stores.Zip.read = lambda *args: time.sleep(0.3) or read(*args)
stream = data.stream(source, 0, 0, (1, 2), np.arange(2))
next(stream)
print('read')
"""


def test_a_program_ends_while_a_zip_is_still_read(made):
  """TensorFlow waits for a reader in Python, which an interpreter that ends does not run."""
  given = config(made[1], crop='random').to_dict()  # by its number, each time
  command = [sys.executable, '-c', ENDS, repr(given)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stdout) == (0, 'read\n'), done.stderr[-2000:]


def test_scores_know_a_zip(made):
  root, archive, *_ = made
  ours, theirs = (image_sets.open_files(str(path)) for path in (archive, root))
  assert ours.digest == theirs.digest and ours.size == theirs.size == (20, 20, 3)
  (images, _), (expected, _) = (next(one.batches(16)) for one in (ours, theirs))
  np.testing.assert_array_equal(images, expected)
  kept = np.arange(16) % 3 == 0  # a share, of images that have no labels
  ((some, labels),) = reference.chosen(ours.batches(5), kept, 8)
  np.testing.assert_array_equal(some, expected[kept])
  assert labels is None
  assert image_sets.split_of(f'folder:{archive}/test') == (f'folder:{archive}', 'test')


def test_splits_classes_and_packing(tmp_path):
  """DEFLATE, a folder around everything, what a Mac adds, and names of a Windows program."""
  root = write(tmp_path / 'all', {f'train/{i % 2}/{i}.png': shade(i) for i in range(6)})
  write(root, {'val/1/9.png': shade(9), '__MACOSX/0/._0.png': b'x', '.DS_Store': b'x'})
  plain = data.load(config(root))
  path = zips.of_folder(tmp_path / 'all.zip', root, 'my photos', zipfile.ZIP_DEFLATED)
  source = data.load(config(path))
  assert shades(source) == shades(plain) == {i: i % 2 for i in range(6)}
  assert unseen(source) == [9] and source.digest == plain.digest
  found = stores.walk(str(path))
  assert found.root == f'{path}/my photos' and found.folders == listing.walk(str(root)).folders
  assert found.images == listing.walk(str(root)).images and not found.others
  given = path.read_bytes().replace(b'my photos/train/', b'my photos\\train\\')
  for at in zips.entries(given):  # made on Windows
    given = given[: at + 5] + b'\0' + given[at + 6 :]
  path.write_bytes(given)
  assert stores.walk(str(path)).images == found.images


def test_names_that_are_not_said_to_be_utf8(tmp_path):
  """A Mac's are; others keep the letters of DOS."""
  path = zips.packed(tmp_path / 'x.zip', {'\u00c4pfel/\u00fc.png': GREY})
  zips.changed(path, 0, *zips.FLAGS, 0)
  assert stores.walk(str(path)).images == ['\u00c4pfel/\u00fc.png']
  given = path.read_bytes().replace('\u00c4pfel/\u00fc.png'.encode(), b'\x8ea.pfel/\x81.png')
  path.write_bytes(given)
  assert stores.walk(str(path)).images == ['\u00c4a.pfel/\u00fc.png']


def test_a_folder_of_a_zip_is_a_class_or_what_lies_around_all(tmp_path):
  images = dict.fromkeys(('faces/a.png', 'faces/b.png'), GREY)
  flat = stores.walk(str(zips.packed(tmp_path / 'x.zip', images)))
  assert flat.root.endswith('x.zip') and flat.images == [*images]
  labels = {**images, 'faces/labels.csv': b'file,label\n'}
  around = stores.walk(str(zips.packed(tmp_path / 'x.zip', labels)))
  assert around.root.endswith('x.zip/faces') and around.images == ['a.png', 'b.png']
  deep = {**images, 'faces/old/c.png': GREY, 'faces/z/': b''}
  around = stores.walk(str(zips.packed(tmp_path / 'x.zip', deep)))
  assert around.images == ['a.png', 'b.png', 'old/c.png'] and around.folders == ['old', 'z']


def test_all_bytes_of_a_file_arrive(tmp_path):
  """Zeros at the end, too, which NumPy's own texts lose."""
  given = {'a.png': b'\0x\0\0', 'b.png': bytes(range(256)) * 99, 'c.png': b''}
  for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    store = stores.Zip(str(zips.packed(tmp_path / 'x.zip', given, method)))
    tf, paths = data.tensorflow(), [f'{store.path}/{name}' for name in given]
    read = store.reader(paths)
    found = [read(tf, tf.constant(i, tf.int64)).numpy() for i in range(3)]
    assert found == [*given.values()] == [store.read(path) for path in paths]


def test_another_zip_is_seen(tmp_path):
  """What was known of a zip is for as long as it stays the same."""
  path = zips.packed(tmp_path / 'x.zip', {'a.png': GREY, 'b.png': GREY})
  first = stores.Zip(str(path)).fingerprint(['a', 'b'])
  assert first == stores.Zip(str(path)).fingerprint(['a', 'b'])
  assert first != stores.Zip(str(path)).fingerprint(['a'])
  zips.packed(path, {'a.png': GREY, 'b.png': encoded(Image.fromarray(noise(12, 13)))})
  assert first != stores.Zip(str(path)).fingerprint(['a', 'b'])


@pytest.mark.parametrize(
  'name', ['../a.png', '/a.png', 'x/../../a.png', 'C:/a.png', 'x//a.png', 'x/./a.png']
)
def test_names_lead_nowhere(tmp_path, name):
  path = zips.packed(tmp_path / 'x.zip', {'good.png': GREY, name: GREY})
  with pytest.raises(errors.UserError, match='leads out of it') as error:
    stores.Zip(str(path))
  assert '\n' not in str(error.value)


def test_nothing_is_written_where_a_zip_is_read(made):
  root, archive, *_ = made
  before = sorted(os.listdir(root.parent))
  stores.Zip(str(archive)).listing()
  assert sorted(os.listdir(root.parent)) == before


def reason(path, name='bad.png'):
  """Why a file of a zip is left out, by what surveys images."""
  store = stores.Zip(str(path))
  orientation, why, _ = store.look(f'{path}/{name}')
  assert orientation == 1
  return why


def test_files_that_are_left_out_of_a_zip(tmp_path):
  """Each with its reason, and nothing of it is decoded."""
  good = {'good.png': GREY, 'bad.png': GREY}
  make = lambda: zips.packed(tmp_path / 'x.zip', good)
  assert reason(make()) == ''
  assert reason(zips.changed(make(), 1, *zips.FLAGS, 1)) == 'encrypted'
  assert reason(zips.changed(make(), 1, *zips.CRC, 7)) == 'damaged in the zip'
  assert reason(zips.changed(make(), 1, *zips.SIZE, len(GREY) + 1)) == 'damaged in the zip'
  assert reason(zips.changed(make(), 1, *zips.METHOD, 8)) == 'damaged in the zip'
  assert reason(zips.changed(make(), 1, *zips.METHOD, 9)) == 'packed by another method than DEFLATE'
  assert reason(zips.changed(make(), 1, *zips.OFFSET, 1)) == 'damaged in the zip'
  assert reason(zips.changed(make(), 1, *zips.OFFSET, 2**31)) == 'cut'
  assert reason(zips.changed(make(), 1, *zips.SIZE, 2**30)) == 'over 512 MiB'
  link = zips.with_link(tmp_path / 'x.zip', {'good.png': GREY}, 'bad.png', '/etc/hostname')
  assert reason(link) == 'a link'
  bomb = {'bad.png': bytes(2**25)}
  path = zips.packed(tmp_path / 'x.zip', bomb, zipfile.ZIP_DEFLATED)
  assert reason(path) == 'over 100 times as large as it is packed'
  small = zips.changed(path, 0, *zips.SIZE, 2**20)  # which is not said of it
  assert reason(small) == 'damaged in the zip'


def test_a_lying_size_is_not_unpacked(tmp_path, monkeypatch):
  """Of what is much larger than its entry says, no more than that and a byte is unpacked."""
  path = zips.packed(tmp_path / 'x.zip', {'bad.png': bytes(2**25)}, zipfile.ZIP_DEFLATED)
  zips.changed(path, 0, *zips.SIZE, 100)
  most, plain = [], stores.zlib.decompressobj

  class Watched:
    def __init__(self, *given):
      self.of = plain(*given)

    def decompress(self, given, size):
      most.append(size)
      return self.of.decompress(given, size)

  monkeypatch.setattr(stores.zlib, 'decompressobj', Watched)
  assert reason(path) == 'damaged in the zip' and most == [101]


def test_zips_that_are_refused(tmp_path):
  """In one sentence each."""
  good = {'a.png': GREY, 'b.png': GREY}
  make = lambda: zips.packed(tmp_path / 'x.zip', good)

  def sentence(path):
    with pytest.raises(errors.UserError) as error:
      stores.Zip(str(path))
    assert '\n' not in str(error.value) and str(path) in str(error.value)
    return str(error.value)

  path = make()
  path.write_bytes(path.read_bytes().replace(b'b.png', b'a.png'))
  assert "'a.png' is in it twice" in sentence(path)
  assert 'lie over each other' in sentence(zips.changed(make(), 1, *zips.PACKED, 2**20))
  whole = make().read_bytes()
  for given in (b'', b'PK', whole[:-30], b'no zip at all' * 99, whole[: len(whole) // 2]):
    path.write_bytes(given)
    assert 'cannot be read as a zip' in sentence(path)
  (tmp_path / 'x.zip').unlink()
  assert 'cannot be read as a zip' in sentence(path)
  os.mkfifo(path)
  assert 'not a file' in sentence(path)


def test_the_list_of_a_zip_has_a_limit(tmp_path, monkeypatch):
  """Which is looked at before as much memory is taken."""
  path = zips.packed(tmp_path / 'x.zip', {f'{i}.png': b'x' for i in range(2000)})
  assert len(stores.Zip(str(path)).members) == 2000
  monkeypatch.setattr(stores, 'MOST_LIST', 100_000)
  with pytest.raises(errors.UserError, match='its list of files is over'):
    stores.Zip(str(path))


def test_what_is_left_out_is_told(tmp_path):
  images = {f'{i % 2}/{i}.png': encoded(Image.fromarray(noise(9, 9 + i))) for i in range(8)}
  path = zips.with_link(tmp_path / 'x.zip', images, '1/link.png', '0/0.png')
  source = data.load(config(path))
  assert f'warning: 1 of 9 images in {str(path)!r} cannot be read and are left out' in said(source)
  assert ': 1/link.png (a link)\n' in said(source) and source.num_train == 6


def test_an_image_of_a_zip_that_turns_bad_is_named(tmp_path):
  images = {f'{i % 2}/{i}.png': encoded(Image.fromarray(noise(9, 9 + i))) for i in range(6)}
  path = zips.packed(tmp_path / 'x.zip', images)
  source = data.load(config(path))
  given = path.read_bytes()
  with open(path, 'r+b') as file:  # in place: a new file would not be seen
    file.write(bytes(len(given)))
  with pytest.raises(errors.UserError) as error:
    next(data.stream(source, 0, 0, (1, 4), np.arange(4)))
  assert f'{path}/' in str(error.value) and 'damaged in the zip' in str(error.value)
  assert '\n' not in str(error.value) and 'Traceback' not in str(error.value)


def test_clips_and_other_archives_are_told_to_be_unpacked(tmp_path):
  path = zips.packed(tmp_path / 'x.zip', {'a.png': GREY})
  assert 'is a zip: unpack it' in refusal(config(path, frames=4))
  (tmp_path / 'x.tar').write_bytes(b'x')
  assert 'a file that is no zip: unpack it' in refusal(config(tmp_path / 'x.tar'))


def test_folders_are_read_as_before(tmp_path):
  """A folder whose name ends as a zip's is a folder."""
  root = write(tmp_path / 'x.zip', {f'{i % 2}/{i}.png': shade(i) for i in range(8)})
  source = data.load(config(root))
  assert everything(source) == list(range(8)) and source.class_names == ('0', '1')
  assert photo_files.examine(listing.walk(str(root)), '')['store'] is stores.FILES
