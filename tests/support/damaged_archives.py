"""Archives of NumPy arrays that are damaged in ways of which each has an error of its own."""

import io
import zipfile

import numpy as np

HEADERS = {  # what is written in the place of the shape
  'huge.npz': b'(99999999999999,)',  # MemoryError
  'open.npz': b'(2, (((((((((((((',  # TokenError
  'words.npz': b'(2 6 7 8 9 10 11)',  # SyntaxError
}
NAMES = (*HEADERS, 'method.npz')


def write(folder):
  """Write them all to a folder, with the array `z`."""
  file = io.BytesIO()
  np.save(file, np.zeros((2, 6), np.float32))
  for name, shape in HEADERS.items():
    given = file.getvalue().replace(b'(2, 6), }'.ljust(20), shape + b', }', 1)
    assert given != file.getvalue() and len(given) == len(file.getvalue())
    with zipfile.ZipFile(folder / name, 'w') as archive:
      archive.writestr('z.npy', given)
  packed = bytearray((folder / 'words.npz').read_bytes())
  at = packed.rindex(b'PK\1\2') + 10
  packed[at : at + 2] = b'\x63\0'  # NotImplementedError: method 99
  (folder / 'method.npz').write_bytes(packed)
