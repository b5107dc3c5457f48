"""Where files of images lie: on the disk, or in a zip, which is read in place and never unpacked.

Both say what is there (`walk`), and of a path what `photo_files` wants to know: another fingerprint
where a file changes, what its header says, its bytes. A path in a zip is the zip's own and the name
within.

A zip may come from anybody. It is refused as a whole where names lead out of it or are there twice,
where its files lie over each other, or where its list is longer than MOST_LIST. A file that is
encrypted, a link, packed by another method than DEFLATE, or much larger than it is packed, is left
out with the reason.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from bigjax.core import errors
from bigjax.data.reading import image_headers, listing, tfrecord
from bigjax.data.reading.levels import readable

HASH = 16  # bytes of a file's
MOST_LIST = 2**27  # bytes of a zip's list of names: ImageNet's takes 90 MB
SMALL = 2**24  # bytes that may be packed as tightly as they can be
MOST_TIMES = 100  # as large as they are packed, of others
HEADER = 30  # bytes before the name of a member


class Files:
  """Files on the disk."""

  def fingerprint(self, paths: Sequence[str]) -> str:
    """Another where one of the files changes."""
    return tfrecord.fingerprint(list(paths), need=False)

  def look(self, path: str) -> tuple[int, str, bytes]:
    """EXIF's orientation, why not to decode it ('' to do so), and the hash of its bytes if so."""
    orientation, reason = image_headers.examine(path)
    words = hashlib.blake2b(digest_size=HASH)
    if not reason:
      try:
        with open(path, 'rb') as file:
          words = hashlib.file_digest(file, lambda: words)
      except OSError:  # which the decoder fails at too
        pass
    return orientation, reason, words.digest()

  def read(self, path: str, most: int = image_headers.MOST_BYTES) -> bytes:
    """The bytes of a file.

    Raises:
      OSError, ValueError: it cannot be read, or has more than `most` bytes.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode) or about.st_size > most:
      raise ValueError('not a file' if about.st_size <= most else f'over {most // 2**20} MiB')
    with open(path, 'rb') as file:
      return file.read(most)

  def reader(self, paths: Sequence[str]) -> Callable[[Any, Any], Any]:
    """(tf, scalar index) -> the bytes of that file, traced by tf.data."""
    names = [os.fsencode(path) for path in paths]  # a name need not be text

    def read(tf, index):
      with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
        table = tf.constant(names)
      return tf.io.read_file(table[index])

    return read


FILES = Files()


class Packed:
  """Files within others, of which Python reads the bytes: `read(path)`."""

  def look(self, path: str) -> tuple[int, str, bytes]:
    """As `Files.look`."""
    try:
      given = self.read(path)
    except (OSError, ValueError) as error:
      return 1, str(error), hashlib.blake2b(digest_size=HASH).digest()
    orientation, reason = image_headers.examine_bytes(given)
    words = hashlib.blake2b(b'' if reason else given, digest_size=HASH)
    return orientation, reason, words.digest()

  def reader(self, paths: Sequence[str]) -> Callable[[Any, Any], Any]:
    """As `Files.reader`."""

    def read(tf, index):
      one = lambda i: self.read(paths[i])
      return tf.ensure_shape(tf.numpy_function(one, [index], tf.string, stateful=False), [])

    return read


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a zip: where its header is, its bytes as packed and as read, and why to leave it."""

  offset: int
  packed: int
  size: int
  crc: int
  deflated: bool
  reason: str = ''


class Zip(Packed):
  """The files in a zip, by the zip's own path and their name within it.

  Attributes:
    path: of the zip.
    members: {path: Member}.
    folders: paths that the zip says are folders.
  """

  def __init__(self, path: str):
    """Reads the list of a zip.

    Raises:
      UserError: it is none that can be read, or is made to do harm.
    """
    self.path = path
    try:
      if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError('not a file')
      self._file = Listed(path)
      self._size = os.fstat(self._file.fileno()).st_size
      entries = zipfile.ZipFile(self._file).infolist()
    except Exception as error:  # zipfile has a dozen ways to say that a file is damaged
      words = ' '.join(str(error).split()) or type(error).__name__
      raise errors.UserError(
        f'{path!r} cannot be read as a zip ({readable(words)[:200]}); make it again, or give the '
        'folder of what was in it.'
      ) from None
    self.members: dict[str, Member] = {}
    self.folders: list[str] = []
    for entry in entries:
      name = inner_name(entry)
      if leads_out(name):
        raise self._harmful(f'the name {ascii(name)[:80]} leads out of it')
      where = f'{path}/{name}'
      if entry.is_dir() or name.endswith('/'):
        self.folders.append(where.rstrip('/'))
      elif where in self.members:
        raise self._harmful(f'{ascii(name)[:80]} is in it twice')
      else:
        self.members[where] = self._member(entry)
    if sum(member.packed for member in self.members.values()) > self._size:
      raise self._harmful('its files lie over each other')

  def _harmful(self, words: str) -> errors.UserError:
    return errors.UserError(f'{self.path!r} is refused: {words}; make the zip again.')

  def _member(self, entry: zipfile.ZipInfo) -> Member:
    packed, size = entry.compress_size, entry.file_size
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0  # 3: Unix
    reason = ''
    if kind == stat.S_IFLNK:
      reason = 'a link'
    elif kind not in (0, stat.S_IFREG):
      reason = 'not a file'
    elif entry.flag_bits & 0x41:
      reason = 'encrypted'
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      reason = 'packed by another method than DEFLATE'
    elif size > image_headers.MOST_BYTES:
      reason = f'over {image_headers.MOST_BYTES // 2**20} MiB'
    elif size > max(SMALL, MOST_TIMES * packed):
      reason = f'over {MOST_TIMES} times as large as it is packed'
    elif not 0 <= entry.header_offset <= self._size - HEADER - packed:
      reason = 'cut'
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    return Member(entry.header_offset, packed, size, entry.CRC, deflated, reason)

  def listing(self) -> listing.Listing:
    """What is in it, as the folder that it was made of, without one that everything lies in."""
    cut = lambda paths: [path[len(self.path) + 1 :] for path in paths]
    found = listing.of_names(self.path, cut(self.members), cut(self.folders), self)
    tops = {name.partition('/')[0] for name in (*found.images, *found.others)}
    if len(tops) == 1 and wrapped(found):
      return found.within(*tops)
    return found

  def fingerprint(self, paths: Sequence[str]) -> str:
    """Another where the zip changes, or other names in it are meant."""
    return of_names(tfrecord.fingerprint([self.path]), paths)

  def read(self, path: str, most: int = image_headers.MOST_BYTES) -> bytes:
    """The bytes of a member.

    Raises:
      OSError, ValueError: they cannot be read, are not those that were packed, or more than `most`.
    """
    member = self.members[path]
    if member.reason or member.size > most:
      raise ValueError(member.reason or f'over {most // 2**20} MiB')
    # No seeking: threads read side by side.
    head = os.pread(self._file.fileno(), HEADER, member.offset)
    if len(head) < HEADER or head[:4] != b'PK\3\4':
      raise ValueError('damaged in the zip')
    start = member.offset + HEADER + sum(struct.unpack('<HH', head[26:]))
    given = os.pread(self._file.fileno(), member.packed, start)
    if member.deflated:
      try:
        given = zlib.decompressobj(-zlib.MAX_WBITS).decompress(given, member.size + 1)
      except zlib.error:
        raise ValueError('damaged in the zip') from None
    if len(given) != member.size or zlib.crc32(given) != member.crc:
      raise ValueError('damaged in the zip')
    return given


class Listed(io.FileIO):
  """A file that refuses to be read at once for more than a list of MOST_LIST."""

  def read(self, size: int = -1, /) -> bytes:
    if size > MOST_LIST:
      raise ValueError(f'its list of files is over {MOST_LIST // 2**20} MiB')
    return super().read(size)


def of_names(fingerprint: str, paths: Sequence[str]) -> str:
  """A fingerprint of files within one that has this fingerprint."""
  words = '\0'.join([fingerprint, *paths])
  return hashlib.blake2b(words.encode(errors='surrogateescape'), digest_size=12).hexdigest()


def inner_name(entry: zipfile.ZipInfo) -> str:
  """The name of a member; between folders, some programs for Windows have backslashes."""
  name = entry.filename
  if not entry.flag_bits & 0x800:  # not said to be UTF-8, as of Macs, which it is all the same
    with contextlib.suppress(UnicodeError):
      name = name.encode('cp437').decode()
  name = name.replace('\\', '/') if entry.create_system == 0 else name
  return name.removeprefix('./')


def leads_out(name: str) -> bool:
  """Whether a name within a zip means something else than a place in it."""
  parts = name.removesuffix('/').split('/')
  return bool({'', '.', '..'} & {*parts}) or bool(re.match('[A-Za-z]:', name))


def wrapped(found: listing.Listing) -> bool:
  """Whether what lies in the one folder of a zip is more than the images of a class."""
  deep = any(path.count('/') > 1 for path in found.images)
  return deep or any(listing.is_label_file(path) for path in found.others if path.count('/') == 1)


def is_zip(path: str) -> bool:
  """Whether a path is that of a zip."""
  return path.lower().endswith('.zip') and os.path.isfile(path)


def walk(root: str) -> listing.Listing:
  """Lists a folder or a zip.

  Raises:
    UserError: the zip cannot be read.
  """
  return Zip(root).listing() if is_zip(root) else listing.walk(root)
