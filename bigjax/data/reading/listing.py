"""What lies below a folder: the one lister of training, of references and of images to be scored.

Links are followed, out of the folder too. Hidden names are passed over, and so are the folders in
which storage devices and archives keep thumbnails and deleted files beside photos.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from typing import Any

SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.gif')
VIDEOS = ('.mp4', '.m4v', '.mov', '.webm', '.mkv', '.avi')
UNREAD = (  # endings of pictures that no decoder here reads
  '.bmp', '.tif', '.tiff', '.heic', '.heif', '.avif', '.jxl', '.jp2', '.j2k', '.ppm', '.pgm',
  '.pbm', '.pnm', '.tga', '.ico', '.psd', '.svg', '.dng', '.cr2', '.cr3', '.nef', '.arw', '.orf',
  '.rw2', '.raw', '.exr', '.hdr', '.dcm',
)  # fmt: skip
TABLES = ('.json', '.jsonl', '.csv', '.tsv', '.parquet', '.xml', '.mat')
LABELS = ('dataset.json', 'labels.csv', 'labels.jsonl', 'metadata.csv', 'metadata.jsonl')
ABOUT = re.compile(r'label|class|annot|attr|caption|meta')  # in the name of a .txt
ASIDE = (  # in lower case, as the others
  '@eadir', '__macosx', '#recycle', '@recycle', '$recycle.bin', '#snapshot', '@recently-snapshot',
  'lost+found', 'system volume information', 'desktop.ini', 'thumbs.db',
)  # fmt: skip
PREVIEWS = ('thumbnails', 'thumbs', '_thumbs', 'thumb')  # within another folder only


@dataclasses.dataclass(frozen=True)
class Listing:
  """The files below a folder, as paths relative to it, with '/' between names, sorted.

  Attributes:
    root: the folder.
    images: files with the name of an image bigjax reads.
    others: all other files.
    folders: at any depth, with or without images.
    aside: images in folders that are passed over (ASIDE, PREVIEWS).
    closed: folders that may not be read.
    what: images are called so; clips take their place where those are read.
    store: of `files.stores`, what reads them; None for files on the disk.
  """

  root: str
  images: list[str]
  others: list[str]
  folders: list[str]
  aside: list[str]
  closed: list[str]
  what: str = 'images'
  store: Any = None

  def within(self, folder: str) -> 'Listing':
    """The part below one of its folders ('' for all)."""
    if not folder:
      return self
    cut = lambda paths: [p[len(folder) + 1 :] for p in paths if p.startswith(folder + '/')]
    columns = self.images, self.others, self.folders, self.aside, self.closed
    return Listing(os.path.join(self.root, folder), *map(cut, columns), self.what, self.store)


def walk(root: str) -> Listing:
  """Lists a folder.

  A link to a folder that it lies in, at any number of links, is not followed: what is there has
  been seen.
  """
  listing = Listing(root, [], [], [], [], [])
  todo = [('', (os.path.realpath(root),), False)]  # (path, real paths from the root on, aside)
  while todo:
    folder, above, aside = todo.pop()
    try:
      with os.scandir(os.path.join(root, folder)) as entries:
        found = list(entries)
    except OSError:
      listing.closed.append(folder)
      continue
    for entry in found:
      path = f'{folder}/{entry.name}' if folder else entry.name
      if is_folder(entry):
        real = os.path.join(above[-1], entry.name)
        real = os.path.realpath(real) if entry.is_symlink() else real
        if entry.name.startswith('.') or any(inside(one, real) for one in above):
          continue
        within_aside = aside or entry.name.lower() in (ASIDE + PREVIEWS if folder else ASIDE)
        if not within_aside:
          listing.folders.append(path)
        todo.append((path, (*above, real), within_aside))
      elif is_image(entry.name):
        (listing.aside if aside else listing.images).append(path)
      elif not aside and not entry.name.startswith('.') and entry.name.lower() not in ASIDE:
        listing.others.append(path)
  for column in (listing.images, listing.others, listing.folders, listing.aside, listing.closed):
    column.sort()
  return listing


def of_names(root: str, files: Iterable[str], folders: Iterable[str], store: Any) -> Listing:
  """The listing of files by their names, as `walk` lists those of a folder.

  Args:
    root: what they are relative to.
    files: names.
    folders: names of those, also without files.
    store: see Listing.
  """
  listing = Listing(root, [], [], [], [], [], store=store)
  seen: set[str] = set()

  def entered(folder: str) -> tuple[bool, bool]:
    """(Whether a folder is hidden, whether it is passed over)."""
    names = folder.split('/') if folder else []
    hidden = any(name.startswith('.') for name in names)
    aside = any(name.lower() in (ASIDE + PREVIEWS if i else ASIDE) for i, name in enumerate(names))
    if not hidden and not aside:
      seen.update('/'.join(names[: i + 1]) for i in range(len(names)))
    return hidden, aside

  known: dict[str, tuple[bool, bool]] = {}
  for path in (*(f'{folder}/' for folder in folders), *files):
    folder, _, name = path.rpartition('/')
    hidden, aside = known[folder] if folder in known else known.setdefault(folder, entered(folder))
    if hidden or not name:
      continue
    if is_image(name):
      (listing.aside if aside else listing.images).append(path)
    elif not aside and not name.startswith('.') and name.lower() not in ASIDE:
      listing.others.append(path)
  listing.folders.extend(seen)
  for column in (listing.images, listing.others, listing.folders, listing.aside):
    column.sort()
  return listing


def is_folder(entry: os.DirEntry) -> bool:
  """Whether an entry is a folder, or a link to one; a link in a circle is none."""
  try:
    return entry.is_dir()
  except OSError:
    return False


def inside(path: str, folder: str) -> bool:
  """Whether a real path is a folder or lies in it."""
  return os.path.join(path, '').startswith(os.path.join(folder, ''))


def is_image(name: str) -> bool:
  """Whether a file's name is that of an image bigjax reads."""
  return name.lower().endswith(SUFFIXES) and not name.startswith('.')


def is_table(name: str) -> bool:
  """Whether a file's name is that of labels or annotations."""
  base, suffix = os.path.splitext(os.path.basename(name.lower()))
  return suffix in TABLES or (suffix == '.txt' and bool(ABOUT.search(base)))


def is_label_file(path: str) -> bool:
  """Whether a file's name is one of those that labels of images are looked for in."""
  return os.path.basename(path).lower() in LABELS


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
  """A key that sorts the numbers in names by their value: 2 before 10, a2 before a10."""
  parts = re.split(r'(\d+)', name)
  key = [(0, int(part), '') if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part]
  return key, name
