"""What the folders below a folder of images mean: splits, classes, or something one level off.

Names alone can mislead (a class may be called 'train'), so folders count as splits only where the
others allow it; what looks like splits or like a wrong level all the same is refused where that is
sure, and said where it is not.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable

from bigjax.core import errors
from bigjax.data.reading.listing import Listing, natural
from bigjax.data.reading.random_access import printable

TRAIN = ('train', 'training', 'trn')
UNSEEN = (  # the first of these that there is, is held out
  'test', 'testing', 'tst', 'val', 'valid', 'validation', 'dev', 'eval', 'evaluation', 'holdout',
  'heldout',
)  # fmt: skip
FILLING = r'(?:data|dataset|set|split|images?|imgs?|photos|pictures)'
NAMED = 5  # folders or files, in a sentence
Finding = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Splits:
  """Where training and held-out images lie below a folder: '' for itself, None for nowhere.

  Attributes:
    train, unseen: folders.
    findings: about what is neither.
  """

  train: str
  unseen: str | None
  findings: tuple[Finding, ...] = ()


def split_word(name: str) -> str:
  """The word of TRAIN or UNSEEN that a folder's name stands for, or ''; 'val' of 'Val_images'."""
  word = ''.join(re.findall(r'[^\W\d_]+', name.lower()))
  word = re.sub(f'^{FILLING}+|{FILLING}+$', '', word)
  return word if word in TRAIN + UNSEEN else ''


def paired(names: Iterable[str]) -> list[str]:
  """Those names that are a split's and something more, the same after both: trainA and testA."""
  found: dict[str, tuple[bool, str]] = {}
  for name in names:
    starts = [w for w in TRAIN + UNSEEN if name.lower().startswith(w)]
    if starts:
      word = max(starts, key=len)
      found[name] = (word in TRAIN, name[len(word) :].lower())
  rests = [{rest for train, rest in found.values() if train is which} for which in (True, False)]
  return [name for name, (_, rest) in found.items() if rest and rest in rests[0] & rests[1]]


def readable(name: str) -> str:
  """A file's name as one line that can be printed, whatever bytes it is made of."""
  with contextlib.suppress(UnicodeEncodeError):  # half of a pair, as JSON may have
    name = os.fsencode(name).decode(errors='backslashreplace')
  return printable(name)


def some(names: Iterable[str]) -> str:
  """At most NAMED names, in a sentence."""
  names = list(names)
  return ', '.join(map(readable, names[:NAMED])) + (', ...' if len(names) > NAMED else '')


def images_of(listing: Listing) -> dict[str, list[str]]:
  """{folder: its images below it, relative to it} of the outermost folders that have any."""
  found: dict[str, list[str]] = {}
  for path in listing.images:
    folder, inner, rest = path.partition('/')
    if inner:
      found.setdefault(folder, []).append(rest)
  return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def subfolders(images: Iterable[str]) -> set[str]:
  """The outermost folders in paths of images."""
  return {path.partition('/')[0] for path in images if '/' in path}


def splits(listing: Listing) -> Splits:
  """Finds the folders of training and of held-out images.

  They are splits where no other folder holds images, or where one of each holds the same class
  folders, whatever lies beside them.
  """
  # Which folders have names of splits, and whether they are splits.
  holding = images_of(listing)
  word = {name: split_word(name) for name in holding}
  train = [name for name in holding if word[name] in TRAIN]
  unseen = [name for name in holding if word[name] in UNSEEN]
  unseen.sort(key=lambda name: UNSEEN.index(word[name]))
  rest = [name for name in holding if not word[name]]
  classes = subfolders(holding[train[0]]) if len(train) == 1 else set()
  if len(train) != 1 or (rest and not any(classes & subfolders(holding[u]) for u in unseen)):
    return Splits('', None)
  found: list[Finding] = []
  # A test set that is given without its labels has no class folders: nothing says what it shows.
  labelled = [name for name in unseen if not classes or subfolders(holding[name])]
  chosen = labelled[0] if labelled else None
  for name in unseen:
    if name not in labelled:
      found.append(
        (
          'warning',
          f'{readable(name)!r} has no class folders: its {len(holding[name]):,} {listing.what} '
          'have no labels and are left out',
        )
      )
    elif name != chosen:
      found.append(
        (
          'ok',
          f'{readable(name)!r} ({len(holding[name]):,} {listing.what}) is not used: '
          f'{readable(chosen)!r} is held out',
        )
      )
  # What is left out.
  if rest:
    told = (f'{name} ({len(holding[name]):,} {listing.what})' for name in rest)
    found.append(
      ('warning', f'beside {readable(train[0])!r} and the other splits, left out: {some(told)}')
    )
  if loose := [path for path in listing.images if '/' not in path]:
    found.append(
      (
        'warning',
        f'{len(loose):,} {listing.what} (such as {readable(loose[0])!r}) lie beside the folder '
        f'{readable(train[0])!r} and are left out: move them into it',
      )
    )
  empty = without_images(listing, holding)
  return Splits(train[0], chosen, (*found, *empty))


def without_images(listing: Listing, holding: Iterable[str]) -> tuple[Finding, ...]:
  """The finding about outermost folders in which there is no image, none where all have some."""
  bare = {name: 0 for name in listing.folders if '/' not in name and name not in holding}
  for path in listing.others:
    if (folder := path.partition('/')[0]) in bare and '/' in path:
      bare[folder] += 1
  if not bare:
    return ()
  a_one = 'an image' if listing.what == 'images' else 'a clip'
  told = [name + f' ({num:,} other files)' * bool(num) for name, num in bare.items()]
  return (('warning', f'left out, without {a_one} that bigjax reads: {some(told)}'),)


def classes(listing: Listing) -> list[str]:
  """The outermost folders that hold images, in natural order; none for a flat folder.

  Raises:
    UserError: there are images beside class folders, or the folders are splits for sure.
  """
  holding = images_of(listing)
  loose = [path for path in listing.images if '/' not in path]
  if holding and loose:
    raise errors.UserError(
      f'{listing.root!r} has {len(loose)} {listing.what} (such as {loose[0]!r}) beside the '
      f'class folders {some(holding)}; move them into a class folder, or all {listing.what} into '
      'one folder.'
    )
  refuse_inner_splits(listing)
  suspects = [name for name in holding if split_word(name)]
  inner = {name: subfolders(images) for name, images in holding.items()}
  for name in suspects:
    same = next((n for n in holding if n != name and inner[n] & inner[name]), None)
    if same is not None:
      common = some(sorted(inner[name] & inner[same]))
      raise errors.UserError(
        f'{listing.root!r} has the folders {some(holding)}, of which {readable(name)!r} and '
        f'{readable(same)!r} hold the same class folders ({common}): they '
        "are no classes. Call the folder to train on 'train', one that is held out 'test' or "
        "'val', and move others away; or give the path of one of them."
      )
  return list(holding)


def refuse_inner_splits(listing: Listing) -> None:
  """Refuse splits within a folder that would be a class.

  Raises:
    UserError: a folder below holds one for training and one that is held out.
  """
  inner: dict[str, set[str]] = {}
  for path in {image.rpartition('/')[0] for image in listing.images}:
    names = path.split('/')
    for i in range(1, len(names)):
      inner.setdefault('/'.join(names[:i]), set()).add(names[i])
  for folder, names in sorted(inner.items()):
    words = {split_word(name) for name in names}
    if words & {*TRAIN} and words & {*UNSEEN}:
      there = os.path.join(listing.root, folder)
      held = [name for name in sorted(names) if split_word(name)]
      only = all(path.startswith(folder + '/') for path in listing.images)
      remedy = (
        f'give folder:{there}'
        if only
        else 'the splits must be outermost, as in train/CLASS and test/CLASS: move the files so'
      )
      raise errors.UserError(
        f'{there!r} holds the splits {some(held)}, and would be one class of {listing.root!r}, '
        f'with held-out {listing.what} among those trained on; {remedy}.'
      )


def of_classes(listing: Listing, names: list[str]) -> tuple[Finding, ...]:
  """Findings about class folders: none, one, names of splits, the same folders in all of them."""
  found: list[Finding] = []
  holding = images_of(listing)
  inner = [subfolders(holding[name]) for name in names]
  alike = paired(names)
  if suspects := [name for name in names if split_word(name) or name in alike]:
    found.append(
      (
        'warning',
        f'class names that look like splits: {some(suspects)}; splits are found where no other '
        'folder lies beside them, or where they hold the same class folders',
      )
    )
  if not names:
    found.append(('ok', 'there are no class folders: training is unconditional, with one class'))
  elif len(names) == 1:
    holds = f' (it holds {some(sorted(inner[0], key=natural))})' if inner[0] else ''
    found.append(
      (
        'warning',
        f'there is one class folder only, {readable(names[0])!r}{holds}: training is '
        'unconditional; if there should be more, give the folder that holds the class folders',
      )
    )
  elif len(inner[0]) > 1 and all(one == inner[0] for one in inner):
    found.append(
      (
        'warning',
        f'each of the {len(names):,} classes holds the same folders, '
        f'{some(sorted(inner[0], key=natural))}: are those the classes, and is this a level off?',
      )
    )
  return (*found, *without_images(listing, holding))
