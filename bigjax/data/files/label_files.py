"""Labels in files beside images, as people have them, in place of a folder per class.

`dataset.json` is that of StyleGAN's dataset_tool ({"labels": [["00000/a.png", 3], ...]}, or null
for none); `labels.csv`, `labels.jsonl`, `metadata.csv` and `metadata.jsonl` have a column of file
names and others, as Hugging Face's ImageFolder. They lie in the folder itself or in those of its
splits, and come before class folders. Where two of them, or one and the class folders, say two
things of an image, they are refused. An image may have several labels: a list in JSON, `cat|dog` in
CSV.
"""

import collections
import csv
import dataclasses
import io
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_collections
import numpy as np

from bigjax.core import errors
from bigjax.data.files import stores
from bigjax.data.reading import listing, photo_files
from bigjax.data.reading.levels import Finding, Splits, readable, some
from bigjax.data.reading.listing import natural

MOST_BYTES = 2**27  # of a file of labels: those of two million images
MOST_JSON = 2**26  # of a dataset.json, which is in memory as a whole: as many
FEW = 20  # images that may each have a label of their own
MOST_CLASSES = 10**6
LONGEST = 200  # letters of a class name
NAMES = ('file_name', 'filename', 'file', 'image', 'path', 'image_path', 'name', 'id')
COLUMNS = ('label', 'labels', 'class', 'class_name', 'category', 'target')
SEVERAL = '|'  # between the labels of an image, in CSV

Row = tuple[str, Any]  # (name of a file as it is given, its label or labels, of any type)


@dataclasses.dataclass(frozen=True)
class Labels:
  """What files of labels say of the images of a listing.

  Attributes:
    files: of labels, relative to the listing.
    of: {image: its labels}, in the order given; None where there are said to be none, {} where
      no file says anything.
    words: where from, for findings.
    findings: about them.
  """

  files: tuple[str, ...]
  of: dict[str, tuple[str, ...]] | None
  words: str
  findings: tuple[Finding, ...]

  def within(self, folder: str) -> 'Labels':
    """Those of the images in one of the folders ('' for all)."""
    if not folder or not self.of:
      return self
    start = folder + '/'
    cut = {name[len(start) :]: words for name, words in self.of.items() if name.startswith(start)}
    return dataclasses.replace(self, of=cut)


NOTHING = Labels((), {}, '', ())


# --- Reading one


def rows_of(name: str, given: bytes, column: str) -> tuple[str, list[Row] | None] | str:
  """(Column of labels, rows) of a file of labels; None for its rows if it says there are none.

  Or a text: its columns, where none of them is of labels.

  Args:
    name: of the file, for errors and what it is.
    given: its bytes.
    column: as data.label_column.
  Raises:
    UserError: it is damaged.
  """
  try:
    text = given.decode('utf-8-sig')
    if name.lower().endswith('dataset.json'):
      return of_stylegan(text, column)
    return of_columns(text, of_csv if name.lower().endswith('.csv') else of_jsonl, column)
  except (ValueError, RecursionError, csv.Error) as error:
    words = readable(' '.join(str(error).split()))[:200]
    raise errors.UserError(
      f'{name!r} cannot be read as labels ({words}); mend it, or take it away.'
    ) from None


def of_stylegan(text: str, column: str) -> tuple[str, list[Row] | None] | str:
  """As `rows_of`, of a dataset.json."""
  content = json.loads(text)
  if not isinstance(content, dict) or 'labels' not in content or column not in ('', 'labels'):
    return ', '.join(map(str, content)) if isinstance(content, dict) else 'none'
  labels = content['labels']
  if labels is None:
    return 'labels', None
  pairs = list(labels.items()) if isinstance(labels, dict) else labels
  if not isinstance(pairs, list):
    raise ValueError('"labels" is no list of pairs')
  for pair in pairs:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
      raise ValueError(f'"labels" has {json.dumps(pair)[:60]}, expected ["NAME", NUMBER]')
    if isinstance(pair[1], (list, dict)):
      raise ValueError(f'the label of {pair[0][:60]} is a vector, expected the number of a class')
  return 'labels', [tuple(pair) for pair in pairs]


def of_csv(text: str) -> Iterator[dict[str, Any]]:
  """The rows of a table with a header, its cells separated by commas, semicolons or tabs."""
  first = text.partition('\n')[0]
  separator = max(',;\t', key=first.count)
  rows = csv.reader(io.StringIO(text, newline=''), delimiter=separator)
  header = [name.strip() for name in next(rows, [])]
  for row in filter(None, rows):
    yield dict(zip(header, (cell.strip() for cell in row), strict=False))


def of_jsonl(text: str) -> Iterator[dict[str, Any]]:
  """The rows of a file with a JSON object on each line."""
  for line in re.finditer(r'[^\n]+', text):
    if line[0].strip():
      row = json.loads(line[0])
      if not isinstance(row, dict):
        raise ValueError(f'{line[0][:60]} is no JSON object')
      yield row


def of_columns(
  text: str, rows_in: Callable[[str], Iterator[dict[str, Any]]], column: str
) -> tuple[str, list[Row]] | str:
  """As `rows_of`, of rows {column: value}; columns may be missing from some."""
  columns = list(dict.fromkeys(key for row in rows_in(text) for key in row))
  lower = {name.lower(): name for name in reversed(columns)}
  one_of = lambda names: next((lower[name] for name in names if name in lower), None)
  of_names = one_of(NAMES)
  of_labels = column if column in columns else None if column else one_of(COLUMNS)
  if of_names is None or of_labels is None:
    return ', '.join(columns) or 'none'
  found = []
  for row in rows_in(text):  # again, to keep no more of them than that
    if not isinstance(row.get(of_names), str):
      raise ValueError(f'a row has no {of_names}: {json.dumps(row)[:60]}')
    value = row.get(of_labels)
    listed = value.split(SEVERAL) if value and rows_in is of_csv else value
    found.append((row[of_names], listed))
  return of_labels, found


def words_of(value: Any) -> tuple[str, ...]:
  """The labels that a value means, none of null and of nothing.

  Raises:
    ValueError: it can be none.
  """
  if isinstance(value, list):
    if any(isinstance(one, (list, dict)) for one in value):
      raise ValueError(f'{json.dumps(value)[:60]} is no label')
    return tuple(dict.fromkeys(word for one in value for word in words_of(one)))
  if isinstance(value, dict):
    raise ValueError(f'{json.dumps(value)[:60]} is no label')
  if isinstance(value, float) and value == value // 1:
    value = int(value)  # as tables write whole numbers of which some are missing
  missing = value is None or value != value
  word = '' if missing else str(value).strip()
  word = word.lower() if isinstance(value, bool) else word
  if len(word) > LONGEST:
    raise ValueError(f'{word[:40]}... is {len(word)} letters long: no name of a class')
  return (readable(word),) if word else ()


# --- What all of them say


def find(listed: listing.Listing, splits: Splits, config: ml_collections.ConfigDict) -> Labels:
  """Labels of the images of a listing by the files in it.

  Args:
    listed: the images, and the files of labels among the others.
    splits: of them.
    config: the group `data`: label_column, num_classes.
  Raises:
    UserError: a file is damaged, two disagree, or none has the column that is asked for.
  """
  column, places = config.get('label_column', ''), ('', splits.train, splits.unseen)
  files = [path for path in listed.others
           if listing.is_label_file(path) and os.path.dirname(path) in places]  # fmt: skip
  if files and config.num_classes == 1:
    words = f'labels in {some(files)} are not looked at: data.num_classes=1'
    return Labels(tuple(files), None, '', (('ok', words),))
  of: dict[str, tuple[str, ...]] = {}
  said_by: dict[str, str] = {}
  used, unused, columns, blind = [], {}, [], []
  doubled, unknown = [], []
  for file in files:
    path = os.path.join(listed.root, file)
    found = rows_of(path, content_of(listed, path), column)
    if isinstance(found, str):
      unused[file] = found
    elif found[1] is None:
      blind.append(file)
    else:
      used.append(file)
      columns.append(found[0])
      place = os.path.dirname(file)
      for image, value in resolved(listed, place, found[1], unknown):
        labels = labels_of(path, image, value)
        if image in of and of[image] != labels:
          raise errors.UserError(
            f'{path!r} says that {readable(image)!r} is {" and ".join(labels) or "nothing"}, '
            f'{said_by[image]!r} that it is {" and ".join(of[image]) or "nothing"}; keep one of '
            'them.'
          )
        if said_by.get(image) == path:
          doubled.append(image)
        of[image], said_by[image] = labels, path
  if column and not used:
    there = '; '.join(f'{readable(file)!r} has {has}' for file, has in unused.items())
    raise errors.UserError(
      f'data.label_column is {column!r}, but no file of labels in {listed.root!r} has such a '
      f'column ({there or "looked for " + ", ".join(listing.LABELS)}).'
    )
  about: list[Finding] = [
    (
      'warning',
      f'{readable(file)!r} is not read: no column of it is called {", ".join(COLUMNS[:3])} or '
      f'alike (it has {readable(has)[:200]}); data.label_column=NAME takes one for labels',
    )
    for file, has in unused.items()
  ]
  if blind and not used:
    about.append(('ok', f'{some(blind)} says that there are no labels: there is one class'))
    return Labels((*blind, *unused), None, '', tuple(about))
  if not used:
    return Labels(tuple(unused), {}, '', tuple(about))
  words = f'{some(used)}, {"column" if len({*columns}) == 1 else "columns"} '
  words += some(map(repr, dict.fromkeys(columns)))
  for names, one, many in (
    (unknown, 'names a file that is not there', 'name files that are not there'),
    (doubled, 'says again what another does', 'say again what others do'),
  ):
    if names:
      rows, what = ('row', one) if len(names) == 1 else ('rows', many)
      about.append(('warning', f'{len(names):,} {rows} of {words} {what}: {some(names)}'))
  return Labels((*used, *blind, *unused), of, words, tuple(about))


def content_of(listed: listing.Listing, path: str) -> bytes:
  """The bytes of a file of labels.

  Raises:
    UserError: it cannot be read, or is too large.
  """
  try:
    most = MOST_JSON if path.lower().endswith('.json') else MOST_BYTES
    return (listed.store or stores.FILES).read(path, most)
  except (OSError, ValueError) as error:
    raise errors.UserError(
      f'{path!r} cannot be read ({error}); mend it, or take it away.'
    ) from None


def resolved(
  listed: listing.Listing, place: str, rows: Iterable[Row], unknown: list[str]
) -> Iterator[Row]:
  """Yields (image of the listing, value) of the rows of a file in the folder `place`.

  A name without a folder may be that of an image in any, with or without its ending, if there is
  one only. Names of no image go to `unknown`.
  """
  images = {*listed.images}
  alike: dict[str, list[str]] = collections.defaultdict(list)
  for image in listed.images:
    if not place or image.startswith(place + '/'):
      base = posixpath.basename(image)
      for key in {base, posixpath.splitext(base)[0]}:
        alike[key].append(image)
  for name, value in rows:
    name = name.replace('\\', '/') if name not in images else name
    path = posixpath.normpath(posixpath.join(place, name))
    if path in images:
      yield path, value
    elif len(alike.get(name, ())) == 1:
      yield alike[name][0], value
    else:
      unknown.append(name)


def labels_of(path: str, image: str, value: Any) -> tuple[str, ...]:
  """The labels of an image in a file.

  Raises:
    UserError: they can be none.
  """
  try:
    return words_of(value)
  except ValueError as error:
    raise errors.UserError(
      f'{path!r}, label of {readable(image)!r}: {readable(str(error))}; name another column with '
      'data.label_column, or give data.num_classes=1 for no labels.'
    ) from None


# --- What that makes of the images of a folder


def labelled(below: listing.Listing, labels: Labels) -> listing.Listing:
  """Those of the images that have a label."""
  return dataclasses.replace(below, images=[name for name in below.images if labels.of.get(name)])


def classes_of(below: listing.Listing, labels: Labels) -> list[str]:
  """The labels that images have, in natural order.

  Raises:
    UserError: there are none, nearly as many as images, or other ones than their class folders say.
  """
  each = [labels.of.get(name, ()) for name in below.images]
  classes = sorted({word for words in each for word in words}, key=natural)
  num = sum(map(bool, each))
  if not classes:
    raise errors.UserError(
      f'{labels.words}: of the {len(below.images):,} images in {below.root!r} none has a label; '
      'names are relative to the folder that the file of labels lies in. '
      'data.num_classes=1 trains without labels.'
    )
  if num > FEW and len(classes) > num / 2:
    raise errors.UserError(
      f'{labels.words} has {len(classes):,} labels for {num:,} images, such as '
      f'{some(classes[:2])}: no classes; name another column with data.label_column, or give '
      'data.num_classes=1 for no labels.'
    )
  refuse_folders(below, labels, classes)
  return classes


def refuse_folders(below: listing.Listing, labels: Labels, classes: list[str]) -> None:
  """Refuses labels that are the names of the class folders, of images that lie in other ones.

  Raises:
    UserError: names the first.
  """
  folders = {name.partition('/')[0] for name in below.images if '/' in name}
  if len(folders) < 2 or not {*classes} <= folders:
    return
  for name in below.images:
    folder, words = name.partition('/')[0], labels.of.get(name)
    if words and '/' in name and folder not in words:
      raise errors.UserError(
        f'{labels.words} says that {readable(name)!r} is {" and ".join(words)}, its folder that it '
        f'is {readable(folder)}; move it, or mend or take away the file of labels.'
      )


def refuse_unknown(below: listing.Listing, labels: Labels, classes: list[str]) -> None:
  """Refuses held-out images with labels that are not trained on.

  Raises:
    UserError: names them.
  """
  unknown = {word for name in below.images for word in labels.of.get(name, ())} - {*classes}
  if unknown:
    raise errors.UserError(
      f'images in {below.root!r} have labels that no training image has, by {labels.words}: '
      f'{some(sorted(unknown, key=natural))}; both need the same.'
    )


def numbers_of(names: Iterable[str], labels: Labels, classes: list[str]) -> np.ndarray:
  """The labels of images as numbers of classes, int32 [n], or [n, m] padded with -1."""
  number = {word: i for i, word in enumerate(classes)}
  each = [[number[word] for word in labels.of[name]] for name in names]
  most = max(map(len, each))
  padded = np.array([row + [-1] * (most - len(row)) for row in each], np.int32)
  return padded[:, 0] if most == 1 else padded


def examine(
  below: listing.Listing, labels: Labels, classes: list[str], source: str
) -> dict[str, Any]:
  """Facts about the images that have a label, as `photo_files.examine`, with these.

  Raises:
    UserError: there is none, or none can be read.
  """
  known = photo_files.examine(labelled(below, labels), source)
  return {**known, 'labels': numbers_of(known['names'], labels, classes)}


def of_images(below: listing.Listing, labels: Labels, classes: list[str]) -> tuple[Finding, ...]:
  """Findings about labels of images: none, several, a number that none has."""
  each = {name: labels.of.get(name, ()) for name in below.images}
  found: list[Finding] = []
  if bare := [name for name, words in each.items() if not words]:
    found.append(
      (
        'warning',
        f'{len(bare):,} of {len(each):,} images in {readable(below.root)!r} have no label in '
        f'{labels.words} and are left out: {some(bare)}',
      )
    )
  if several := [name for name, words in each.items() if len(words) > 1]:
    most = max(map(len, each.values()))
    words = f'{len(several):,} of {len(each):,} images have several labels, up to {most}'
    found.append(('ok', f'{words}: one is drawn at every visit'))
  if all(word.isdecimal() for word in classes):
    there = {*map(int, classes)}
    first = 1 if 0 not in there and 1 in there else 0  # people count from either
    gone = [i for i in range(first, min(max(there), MOST_CLASSES)) if i not in there]
    if 0 < len(gone) <= len(there):
      words = some(map(str, gone))
      found.append(('warning', f'no image has the label {words}, though there are higher ones'))
  return tuple(found)
