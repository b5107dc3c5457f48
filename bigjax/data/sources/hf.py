"""Sets of Hugging Face's `datasets`: `hf:PATH`, or `hf:NAME[:CONFIG]` of its Hub.

A folder is one that `save_to_disk` wrote, or of files that `load_dataset` knows (Parquet, Arrow,
an ImageFolder). A name is looked for on the Hub, and downloaded, by that library. Labels are a
column: names of a ClassLabel, or whatever values there are. Every image is decoded once, when the
set is first used, as those of a folder are; small sets are then held in memory.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors
from bigjax.data.files import label_files, stores
from bigjax.data.files.label_files import Labels
from bigjax.data.reading import image_headers, photo_files, tfrecord
from bigjax.data.reading.levels import UNSEEN, readable, some
from bigjax.data.reading.listing import Listing

IMAGES = ('image', 'img', 'picture', 'photo', 'jpg', 'png', 'webp')  # columns, the first there is
MOST_MIB = 512  # of a set that is held in memory, as pixels
SPLITS = True  # data.split means something here
LABELS = True  # and data.label_column


class Rows(stores.Packed):
  """The images of a split, by its name and their number."""

  def __init__(self, root: str, rows: Any, column: str, roots: Sequence[str]):
    """Args: what paths begin with, the Dataset, its column, where files that it names may lie."""
    import datasets

    encoded = datasets.Image(decode=False)
    self._rows = rows.with_format(None).select_columns([column]).cast_column(column, encoded)
    self._root, self._column, self._roots = root, column, roots

  def fingerprint(self, paths: Sequence[str]) -> str:
    """Another where a file of the split changes, or other rows are meant."""
    names = [file['filename'] for file in self._rows.cache_files]
    print_of = tfrecord.fingerprint(names) if names else self._rows._fingerprint
    return stores.of_names(f'{print_of} {self._column}', paths)

  def read(self, path: str, most: int = image_headers.MOST_BYTES) -> bytes:
    """The encoded bytes of an image.

    Raises:
      OSError, ValueError: they cannot be read.
    """
    row = self._rows[int(path[len(self._root) + 1 :])][self._column] or {}
    given = row.get('bytes')
    if given is not None:
      if len(given) > most:
        raise ValueError(f'over {most // 2**20} MiB')
      return given
    file = os.path.abspath(row.get('path') or '')
    if not row.get('path') or not any(file.startswith(root + os.sep) for root in self._roots):
      raise ValueError('its bytes are not in the set')
    return stores.FILES.read(file, most)


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the set, its images made squares of `config.resolution`.

  Trained on is `config.split`, or 'train'. Held out is the first of the usual names that there is,
  with labels, and where there is none, the share `config.held_out` of every class.

  Raises:
    UserError: the library is not installed, or there is no such set, or not one of images.
  """
  splits, roots = find(config, argument)
  seen = config.get('split', '') or ('train' if 'train' in splits else next(iter(splits)))
  if seen not in splits:
    raise errors.UserError(
      f'data.split is {seen!r}, but {config.source!r} has the splits {some(splits)}.'
    )
  # Which columns, and what the labels say.
  features = splits[seen].features
  image = image_column(config.source, features)
  label = '' if config.num_classes == 1 else label_column(config, features)
  opened = lambda split: listed(f'{argument}/{split}', splits[split], image, roots)
  labels = {split: labels_of(rows, label) for split, rows in splits.items()}
  below, of_below = opened(seen), labels[seen]
  classes = names_of(features, label) or label_files.classes_of(below, of_below)
  train = label_files.examine(below, of_below, classes, config.source)
  # What is held out: a split of its own, or a share of each class.
  unseen = next((s for s in UNSEEN if s in splits and s != seen and any(labels[s].of.values())), '')
  if unseen:
    apart = opened(unseen)
    label_files.refuse_unknown(apart, labels[unseen], classes)
    other = label_files.examine(apart, labels[unseen], classes, config.source)
    kept, held_out = np.arange(len(train['names'])), np.arange(len(other['names']))
  else:
    mask = data.held_out_mask(train['labels'], config.held_out)
    other, kept, held_out = train, np.flatnonzero(~mask), np.flatnonzero(mask)
  labels_of_train = train['labels'][kept]
  parts = [(photo_files.lookup(train, config), kept), (photo_files.lookup(other, config), held_out)]
  licence = splits[seen].info.license
  common = {
    'class_names': tuple(classes) if label else data.ALL,
    'license': f'see the dataset {argument}' + f' ({licence})' * bool(licence),
    'digest': photo_files.photos_digest(train, kept, classes),
    'held_out_digest': photo_files.photos_digest(other, held_out, classes),
    'findings': (
      photo_files.of_files(below.root, train),
      *([photo_files.of_files(apart.root, other)] if unseen else []),
      *(label_files.of_images(below, of_below, classes) if label else ()),
      *photo_files.copies(*photo_files.together(train, other, held_out)),
      *photo_files.of_sizes(train['sizes'], config),
      *photo_files.greyed(train['grey'], config.channels),
    ),
  }
  num = len(kept) + len(held_out)
  small = num * config.resolution**2 * config.channels <= MOST_MIB * 2**20
  if small and len(held_out) and config.crop == 'center':
    return data.in_memory(*(data.read(*part) for part in parts), **common)
  return data.by_number(*parts, labels=lambda: labels_of_train, labels_known=True, **common)


def library(source: str) -> Any:
  """Import `datasets` and return it.

  Raises:
    UserError: it is not installed; a folder of that name where a command runs is not it.
  """
  errors.need(f'data.source={source}', 'hf', 'datasets')
  import datasets

  if not hasattr(datasets, 'load_dataset'):
    raise errors.UserError(
      f"data.source={source} needs datasets, which is not installed; run: pip install 'bigjax[hf]'"
    )
  return datasets


def find(
  config: ml_collections.ConfigDict, argument: str
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
  """({split: Dataset}, folders in which files that they name may lie).

  Raises:
    AbsentData: there is none.
    UserError: it is not named, or cannot be read.
  """
  if not argument:
    raise errors.UserError(
      'data.source=hf: needs the folder or the name of a set, as in '
      '--config.data.source=hf:uoft-cs/cifar10.'
    )
  datasets = library(config.source)
  if not sys.stderr.isatty():
    datasets.disable_progress_bars()
  folder = os.path.abspath(os.path.expanduser(argument))
  here = os.path.isdir(folder)
  if not here and argument.startswith(('/', '.', '~')):
    raise errors.AbsentData(f'data.source is {config.source!r}, but there is no folder {folder!r}.')
  own = ('dataset_dict.json', 'state.json')
  name, _, of_name = argument.partition(':')
  try:
    if not here:
      found = datasets.load_dataset(name, of_name or None)
    elif any(os.path.exists(os.path.join(folder, one)) for one in own):
      found = datasets.load_from_disk(folder)
    else:
      found = datasets.load_dataset(folder)
  except Exception as error:  # of the library, of Arrow, of a dozen formats
    words = readable(' '.join(str(error).split()))[:300] or type(error).__name__
    absent = isinstance(error, ConnectionError | FileNotFoundError)
    kind = errors.AbsentData if absent else errors.UserError
    raise kind(
      f'data.source is {config.source!r}, but datasets cannot load it ({words}).'
    ) from None
  splits = found if isinstance(found, dict) else {str(found.split or 'train'): found}
  if not here:
    places = datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE
    return splits, tuple(os.path.abspath(place) for place in places)
  for rows in splits.values():
    if any(os.path.exists(os.path.join(folder, one)) for one in own):
      refuse_outside(folder, rows)
  return splits, (folder,)


def refuse_outside(folder: str, rows: Any) -> None:
  """Refuse shards that lie elsewhere: their names come from a set's own state.json.

  Raises:
    UserError: names the first.
  """
  for file in rows.cache_files:
    path = os.path.abspath(file['filename'])
    if not path.startswith(folder + os.sep):
      raise errors.UserError(
        f'a state.json in {folder!r} asks for {path!r}, which is outside that folder; save the set '
        'again.'
      )


def image_column(source: str, features: Mapping[str, Any]) -> str:
  """The column of images.

  Raises:
    UserError: there is none, or it is not clear which.
  """
  import datasets

  found = [name for name, one in features.items() if isinstance(one, datasets.Image)]
  usual = [name for name in IMAGES if name in found]
  if not usual and len(found) != 1:
    raise errors.UserError(
      f'{source!r} has {len(found) or "no"} columns of images{": " * bool(found)}{some(found)}; '
      f'expected one, or one called {IMAGES[0]} (its columns are {some(features)}).'
    )
  return (usual or found)[0]


def label_column(config: ml_collections.ConfigDict, features: Mapping[str, Any]) -> str:
  """The column of labels.

  Raises:
    UserError: there is none, or it is not clear which.
  """
  import datasets

  wanted = config.get('label_column', '')
  if wanted in features:
    return wanted
  classes = [name for name, one in features.items() if isinstance(one, datasets.ClassLabel)]
  usual = [name for name in label_files.COLUMNS if name in features]
  if wanted or (not usual and len(classes) != 1):
    words = f'is {wanted!r}, but' if wanted else f'is needed: of the columns of {config.source!r}'
    raise errors.UserError(
      f'data.label_column {words} {"it has" * bool(wanted)} {some(features)}; name one of them, or '
      'give data.num_classes=1, which asks for no labels.'
    )
  return (usual or classes)[0]


def names_of(features: Mapping[str, Any], column: str) -> list[str]:
  """The names of the classes that a column has by its type; of none, of all images; [] unknown."""
  if not column:
    return list(data.ALL)
  feature = features[column]
  feature = getattr(feature, 'feature', feature)  # of a list
  return [readable(name) for name in getattr(feature, 'names', None) or ()]


def labels_of(rows: Any, column: str) -> Labels:
  """The labels of a split's rows, by their number.

  Raises:
    UserError: one can be none.
  """
  if not column:
    return Labels((), dict.fromkeys(map(str, range(len(rows))), data.ALL), '', ())
  if column not in rows.features:
    return Labels((), {}, '', ())
  names = names_of(rows.features, column)
  values = rows.with_format(None).select_columns([column])[:][column]

  def named(value):
    if isinstance(value, list):
      return [named(one) for one in value]
    return names[value] if value is not None and 0 <= value < len(names) else None

  values = map(named, values) if names else values
  of = {
    str(i): label_files.labels_of(f'column {column!r}', str(i), v) for i, v in enumerate(values)
  }
  return Labels((), of, f'column {column!r}', ())


def listed(root: str, rows: Any, column: str, roots: Sequence[str]) -> Listing:
  """The listing of a split: its rows, by their number."""
  store = Rows(root, rows, column, roots)
  return Listing(root, [str(i) for i in range(len(rows))], [], [], [], [], store=store)
