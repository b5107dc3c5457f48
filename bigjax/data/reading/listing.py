"""What lies below a folder: the one lister of training, of references and of images to be scored.

Links are followed, out of the folder too. Hidden names are passed over, and so are the folders in
which storage devices and archives keep thumbnails and deleted files beside photos.
"""

import dataclasses
import os
import re

SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.gif')
VIDEOS = ('.mp4', '.m4v', '.mov', '.webm', '.mkv', '.avi')
UNREAD = (  # endings of pictures that no decoder here reads
  '.bmp', '.tif', '.tiff', '.heic', '.heif', '.avif', '.jxl', '.jp2', '.j2k', '.ppm', '.pgm',
  '.pbm', '.pnm', '.tga', '.ico', '.psd', '.svg', '.dng', '.cr2', '.cr3', '.nef', '.arw', '.orf',
  '.rw2', '.raw', '.exr', '.hdr', '.dcm',
)  # fmt: skip
TABLES = ('.json', '.jsonl', '.csv', '.tsv', '.parquet', '.xml', '.mat')
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
  """

  root: str
  images: list[str]
  others: list[str]
  folders: list[str]
  aside: list[str]
  closed: list[str]
  what: str = 'images'

  def within(self, folder: str) -> 'Listing':
    """The part below one of its folders ('' for all)."""
    if not folder:
      return self
    cut = lambda paths: [p[len(folder) + 1 :] for p in paths if p.startswith(folder + '/')]
    columns = self.images, self.others, self.folders, self.aside, self.closed
    return Listing(os.path.join(self.root, folder), *map(cut, columns), self.what)


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


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
  """A key that sorts the numbers in names by their value: 2 before 10, a2 before a10."""
  parts = re.split(r'(\d+)', name)
  key = [(0, int(part), '') if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part]
  return key, name
