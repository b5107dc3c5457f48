"""Zips of a few files, sound and not."""

import os
import stat
import struct
import zipfile


def packed(path, files, method=zipfile.ZIP_STORED):
  """Write a zip of {name: bytes}, and return its path."""
  with zipfile.ZipFile(path, 'w', method) as archive:
    for name, given in files.items():
      archive.writestr(name, given)
  return path


def of_folder(path, root, top='', method=zipfile.ZIP_STORED):
  """Write a zip of a folder's files, below the folder `top` in it; return its path."""
  files = {}
  for folder, _, names in sorted(os.walk(root)):
    for name in sorted(names):
      whole = os.path.join(folder, name)
      with open(whole, 'rb') as file:
        files[os.path.join(top, os.path.relpath(whole, root))] = file.read()
  return packed(path, files, method)


def with_link(path, files, name, target):
  """Write a zip of {name: bytes} and a symbolic link."""
  packed(path, files)
  with zipfile.ZipFile(path, 'a') as archive:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, target)
  return path


def entries(given):
  """Where the entries of a zip's list begin."""
  at = struct.unpack('<I', given[given.rindex(b'PK\5\6') + 16 :][:4])[0]
  while given[at : at + 4] == b'PK\1\2':
    yield at
    at += 46 + sum(struct.unpack('<HHH', given[at + 28 : at + 34]))


def changed(path, number, place, form, value):
  """Overwrite a field of an entry of a zip's list, `place` bytes after its beginning."""
  given = bytearray(path.read_bytes())
  at = list(entries(bytes(given)))[number] + place
  given[at : at + struct.calcsize(form)] = struct.pack(form, value)
  path.write_bytes(given)
  return path


# Fields of an entry: (place, form).
FLAGS, METHOD = (8, '<H'), (10, '<H')
CRC, PACKED, SIZE, OFFSET = (16, '<I'), (20, '<I'), (24, '<I'), (42, '<I')
