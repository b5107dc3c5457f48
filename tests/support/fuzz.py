"""Mutated files through the readers of what anybody may send.

  python tests/support/fuzz.py --minutes 10

Every case must end in a value or in a UserError of one line, within ten seconds and 2 GiB, and the
process must live. Cases run in a child, which is started again where it dies: what it was at is in
the folder that is printed. Not a test: `test_hostile.py` holds what was found.
"""

import argparse
import faulthandler
import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib

SLOW = 10  # seconds of computing, of a case or a folder of images
LARGE = 2 * 2**30  # bytes of a case
TOGETHER = 48  # images in a folder

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x3FFF, 0x7FFF, 0xFFFF, 65000, 2**27, 2**31 - 1, 2**32 - 1)


def mangle(rng, given):
  """Return bytes with some of them changed, cut, doubled, moved or set to an extreme number."""
  out = bytearray(given)
  for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
    if not out:
      break
    at, size = rng.randrange(len(out)), rng.choice((1, 2, 3, 4, 8, 30, 200))
    kind = rng.randrange(8)
    if kind == 0:
      out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
      out[at : at + size] = rng.randbytes(size)
    elif kind == 2:
      del out[at:]
    elif kind == 3:
      del out[at : at + size]
    elif kind == 4:
      out[at:at] = out[at : at + size] * rng.choice((1, 2, 50))
    elif kind == 5:
      to = rng.randrange(len(out))
      out[to : to + size] = out[at : at + size]
    else:
      at = min(at, rng.choice((len(out), 64)) - 1)
      width = rng.choice((1, 2, 3, 4))
      number = (rng.choice(EXTREMES) % 256**width).to_bytes(width, rng.choice(('big', 'little')))
      out[at : at + width] = number
  return bytes(out)


# Images.


def png_chunks(given):
  """Return [(kind, content)] of a PNG."""
  at, found = 8, []
  while at + 8 <= len(given):
    size = struct.unpack('>I', given[at : at + 4])[0]
    found.append((given[at + 4 : at + 8], given[at + 8 : at + 8 + size]))
    at += size + 12
  return found


def mangle_png(rng, given):
  """Return a PNG whose checksums hold, with changes behind them."""
  chunks = png_chunks(given)
  for _ in range(rng.choice((1, 1, 2, 4))):
    i = rng.randrange(len(chunks))
    kind, content = chunks[i]
    what = rng.randrange(5)
    if what == 0 and kind == b'IDAT':
      try:
        content = zlib.compress(mangle(rng, zlib.decompress(content)))
      except zlib.error:
        continue
      chunks[i] = kind, content
    elif what == 1:
      chunks.insert(rng.randrange(len(chunks) + 1), chunks[i])
    elif what == 2 and len(chunks) > 1:
      del chunks[i]
    elif what == 3:
      chunks[i] = (
        rng.choice((b'IHDR', b'PLTE', b'tRNS', b'acTL', b'fdAT', b'iCCP', b'eXIf')),
        content,
      )
    else:
      chunks[i] = kind, mangle(rng, content)
  out = given[:8]
  for kind, content in chunks:
    out += struct.pack('>I', len(content)) + kind + content
    out += struct.pack('>I', zlib.crc32(kind + content))
  return out


def mangle_webp(rng, given):
  """Return a WebP whose sizes hold, with changes in its chunks."""
  at, chunks = 12, []
  while at + 8 <= len(given):
    size = struct.unpack('<I', given[at + 4 : at + 8])[0]
    chunks.append((given[at : at + 4], given[at + 8 : at + 8 + size]))
    at += 8 + size + size % 2
  for _ in range(rng.choice((1, 1, 2))):
    i = rng.randrange(len(chunks))
    what = rng.randrange(4)
    if what == 0:
      chunks.insert(rng.randrange(len(chunks) + 1), chunks[i])
    elif what == 1 and len(chunks) > 1:
      del chunks[i]
    else:
      chunks[i] = chunks[i][0], mangle(rng, chunks[i][1])
  body = b''.join(
    kind + struct.pack('<I', len(content)) + content + b'\0' * (len(content) % 2)
    for kind, content in chunks
  )
  return b'RIFF' + struct.pack('<I', 4 + len(body)) + b'WEBP' + body


def mangle_jpeg(rng, given):
  """Return a JPEG with a segment changed, doubled, dropped, or moved."""
  at, parts = 2, []
  while at + 4 <= len(given) and given[at] == 0xFF:
    end = at + 2 + struct.unpack('>H', given[at + 2 : at + 4])[0]
    if given[at + 1] == 0xDA:
      while end + 1 < len(given) and not (
        given[end] == 0xFF and given[end + 1] not in (0, *range(0xD0, 0xD8))
      ):
        end += 1
    parts.append(given[at:end])
    at = end
  i = rng.randrange(len(parts))
  what = rng.randrange(5)
  if what == 0:
    parts[i:i] = [parts[i]] * rng.choice((1, 2, 300))
  elif what == 1:
    del parts[i]
  elif what == 2:
    parts.append(parts.pop(i))
  else:
    parts[i] = parts[i][:2] + mangle(rng, parts[i][2:])
  return given[:2] + b''.join(parts) + given[at:]


def pictures():
  """Return [bytes] of small images of every kind."""
  import numpy as np
  from PIL import Image

  def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()

  draw = np.random.RandomState(0)
  smooth = Image.fromarray(draw.randint(0, 256, (5, 6, 4)).astype(np.uint8)).resize((37, 29))
  rgb, grey, pale = smooth.convert('RGB'), smooth.convert('L'), smooth
  exif = Image.Exif()
  exif[274] = 6
  moving = {'save_all': True, 'append_images': [rgb.rotate(90), rgb.rotate(180)]}
  clear = {'save_all': True, 'append_images': [pale.rotate(90), pale.rotate(180)]}
  out = [
    encoded(image, 'PNG')
    for image in (rgb, grey, pale, smooth.convert('P'), smooth.convert('LA'), smooth.convert('1'))
  ]
  out += [encoded(Image.fromarray(draw.randint(0, 2**16, (9, 8)).astype(np.uint16)), 'PNG')]
  out += [encoded(rgb, 'PNG', **moving), encoded(rgb, 'PNG', exif=exif)]
  out += [
    encoded(rgb, 'JPEG'),
    encoded(grey, 'JPEG', progressive=True),
    encoded(rgb, 'JPEG', progressive=True),
  ]
  out += [encoded(smooth.convert('CMYK'), 'JPEG'), encoded(rgb, 'JPEG', exif=exif, subsampling=0)]
  out += [encoded(rgb, 'WEBP'), encoded(rgb, 'WEBP', lossless=True), encoded(pale, 'WEBP')]
  out += [encoded(pale, 'WEBP', lossless=True), encoded(rgb, 'WEBP', exif=exif)]
  out += [encoded(rgb, 'WEBP', **moving), encoded(pale, 'WEBP', **clear)]
  out += [
    encoded(rgb, 'GIF', **moving),
    encoded(rgb, 'GIF'),
    encoded(rgb, 'BMP'),
    encoded(rgb, 'TIFF'),
  ]
  return out


def mangle_picture(rng, seeds):
  """Return a mutant of one of the images."""
  given = rng.choice(seeds)
  own = {b'\x89P': mangle_png, b'RI': mangle_webp, b'\xff\xd8': mangle_jpeg}.get(given[:2], mangle)
  if rng.random() < 0.05:
    other = rng.choice(seeds)
    return given[: rng.randrange(len(given))] + other[rng.randrange(len(other)) :]
  return rng.choice((own, mangle))(rng, given)


def images(rng, folder, seeds):
  """Try a folder of mutants: survey it, then decode all that can be; return how many cases."""
  import ml_collections
  import numpy as np

  from bigjax import data
  from bigjax.core import errors
  from bigjax.data.reading import listing, photo_files
  from bigjax.data.sources import folder as folders

  for i in range(TOGETHER):
    (folder / f'{i:02d}{rng.choice((".png", ".jpg", ".webp"))}').write_bytes(
      mangle_picture(rng, seeds)
    )
  given = ml_collections.ConfigDict(
    {
      'source': 'folder',
      'resolution': 16,
      'channels': rng.choice((1, 3)),
      'crop': 'center',
      'frames': 0,
    }
  )
  try:
    known = folders.examine(listing.walk(str(folder)), [], given)
  except errors.UserError:
    return TOGETHER
  lookup = data.from_pictures(photo_files.picture_of(known), given, known['paths'].__getitem__)
  found, _ = data.read(lookup, np.arange(len(known['paths'])))  # what was surveyed can be read
  assert found.shape == (len(known['paths']), 16, 16, given.channels)
  photo_files.of_files(str(folder), known)
  return TOGETHER


# Zips, and files of labels.


def seed_zips(seeds):
  """Return [bytes] of zips of images and labels, in the layouts that people have."""
  small = [one for one in seeds if len(one) < 3000]
  images = {f'0000{i % 2}/img{i:08d}.png': one for i, one in enumerate(small[:6])}
  labels = json.dumps({'labels': [[name, i % 2] for i, name in enumerate(images)]})
  table = 'file_name,label\n' + ''.join(f'{name},{name[4]}\n' for name in images)
  lines = ''.join(json.dumps({'file_name': name, 'label': name[4]}) + '\n' for name in images)
  out = []
  for name, text in (('dataset.json', labels), ('labels.csv', table), ('metadata.jsonl', lines)):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      packed = io.BytesIO()
      with zipfile.ZipFile(packed, 'w', method) as archive:
        for one, given in {**images, name: text}.items():
          with archive.open(one, 'w', force_zip64=method == zipfile.ZIP_DEFLATED) as file:
            file.write(given if isinstance(given, bytes) else given.encode())
        archive.comment = b'x' * (7 * (method == zipfile.ZIP_STORED))
      out.append(packed.getvalue())
  return out


def mangle_zip(rng, given):
  """Return a zip with changes in its list, its end, its headers or anywhere."""
  out = bytearray(given)
  marks = rng.choice((b'PK\1\2', b'PK\1\2', b'PK\1\2', b'PK\3\4', b'PK\5\6', b'PK\6\6', None))
  if marks is None:
    return mangle(rng, given)
  places = [i for i in range(len(out)) if out[i : i + 4] == marks]
  for _ in range(rng.choice((1, 1, 1, 2, 4))):
    if not places:
      break
    at, kind = rng.choice(places), rng.randrange(6)
    if kind < 3:  # a field
      width = rng.choice((1, 2, 4, 8))
      field = at + 4 + 2 * rng.randrange(24)
      number = rng.choice((*EXTREMES, len(out), at, rng.randrange(len(out))))
      out[field : field + width] = (number % 256**width).to_bytes(width, 'little')
    elif kind == 3:  # a name
      name = rng.choice(
        (b'../', b'/', b'a//', b'.', b'C:', b'\0', b'\\', b'\xff\xfe', b'00000/img')
      )
      out[at + 46 : at + 46 + len(name)] = name
    elif kind == 4:  # an entry again
      out[at:at] = out[at : at + rng.choice((46, 67, 100))]
    else:
      out[at : at + 46] = out[(other := rng.choice(places)) : other + 46]
  return bytes(out)


def mangle_inside(rng, given):
  """Return a sound zip with changes in its files of labels and some of its images."""
  out = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(given)) as old, zipfile.ZipFile(out, 'w') as new:
    for entry in old.infolist():
      content = old.read(entry)
      if entry.filename.endswith('.json') and rng.random() < 0.7:
        content = mangle_json(rng, json.loads(content))
      elif entry.filename.endswith('.jsonl') and rng.random() < 0.7:
        lines = [json.loads(line) for line in content.splitlines()]
        content = b'\n'.join(mangle_json(rng, line) for line in lines)
      elif rng.random() < 0.4:
        content = mangle(rng, content)
      new.writestr(entry.filename, content)
  return out.getvalue()


def zips(rng, folder, seeds):
  """Try zips: their lists, all of their files, their labels; of the last, a whole source."""
  import ml_collections
  import numpy as np

  from bigjax import data
  from bigjax.core import errors
  from bigjax.data.files import label_files, stores
  from bigjax.data.reading import levels

  given = ml_collections.ConfigDict(
    {
      'source': f'folder:{folder}/x.zip',
      'data_dir': '',
      'resolution': 16,
      'channels': 3,
      'frames': 0,
      'num_classes': None,
      'held_out': 0.3,
      'fraction': 1.0,
      'per_class': 0,
      'imbalance': 1.0,
      'crop': 'center',
      'flip': False,
    }
  )

  def attempt(call):
    try:
      return call()
    except errors.UserError as error:
      assert len(str(error).splitlines()) == 1 and str(error).isprintable(), repr(str(error))

  def look():
    store = stores.Zip(f'{folder}/x.zip')
    listed = store.listing()
    for path in store.members:
      store.look(path)
    labels = label_files.find(listed, levels.splits(listed), given)
    if labels.of:
      classes = label_files.classes_of(listed, labels)
      label_files.of_images(listed, labels, classes)

  for _ in range(TOGETHER):
    seed = rng.choice(seeds)
    way = rng.choice((mangle_zip, mangle_zip, mangle_inside))
    (folder / 'x.zip').write_bytes(way(rng, seed))
    attempt(look)

  def whole():
    source = data.load(given)
    data.read(source.lookup, np.arange(source.num_train))

  attempt(whole)
  assert os.listdir(folder) == ['x.zip'], 'something was written'
  return TOGETHER + 1


# Cards, and what lies in a workdir.


def odd(rng, deep=3):
  """Return an odd value of JSON."""
  plain = (None, True, 0, -1, 1.5, 10**400, 1e308, '', 'x', '\0', '\ud800', '../x', [], {}, 2)
  if deep and rng.random() < 0.3:
    inner = [odd(rng, deep - 1) for _ in range(rng.randrange(4))]
    return inner if rng.random() < 0.5 else {f'{i}': value for i, value in enumerate(inner)}
  return rng.choice(plain)


def mangle_json(rng, value):
  """Return the text of a JSON value with a part of it replaced, or with its bytes changed."""
  value = json.loads(json.dumps(value))
  node, key, parent = value, None, None
  while isinstance(node, (dict, list)) and node and rng.random() < 0.8:
    parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
    node = node[key]
  if parent is not None and rng.random() < 0.8:
    if rng.random() < 0.2:
      del parent[key]
    else:
      parent[key] = odd(rng)
  text = json.dumps(value).encode()
  kind = rng.randrange(8)
  if kind == 0:
    return mangle(rng, text)
  if kind == 1:
    nest = rng.choice((b'[', b'{"a":')) * rng.choice((10, 2000, 200_000))
    at = rng.randrange(len(text))
    return text[:at] + nest + text[at:]
  if kind == 2:
    return text.replace(b'2', rng.choice((b'NaN', b'-Infinity', b'9' * 5000, b'1e999', b'\xff')))
  return text


def safetensor(header, body):
  """Return the bytes of a safetensors file."""
  return struct.pack('<Q', len(header)) + header + body


def npz(rng, arrays, card):
  """Return an .npz whose zip is whole, with changes in its members."""
  import numpy as np

  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
    for name, array in {**arrays, 'card': np.array(card)}.items():
      member = io.BytesIO()
      np.lib.format.write_array(member, array)
      member = member.getvalue()
      if rng.random() < 0.3:
        member = mangle(rng, member)
      if rng.random() < 0.1:
        name = rng.choice(('a', 'a/b', 'card', '../x', 'a' * 999, 'a/' * 999, 'x\n'))
      archive.writestr(f'{name}.npy', member)
  return out.getvalue()


def cards(rng, folder, _):
  """Try a card, a safetensors file, an .npz and the files of a workdir."""
  import numpy as np

  from bigjax.core import errors, files
  from bigjax.sampling import generator_file

  about = {
    'format': generator_file.FORMAT,
    'algorithm': 'biggan',
    'architecture': {'ch': 8, 'attention': [8], 'network': 'biggan', 'skip_z': True},
    'class_names': ['a', 'b'],
    'player': 'gen',
    'sampling': {
      'dialect': 'resample',
      'standing_passes': 2,
      'standing_batch': 16,
      'truncations': ['none', '0.5'],
    },
    'step': 2,
  }
  arrays = {
    'params/conv/kernel': np.ones((2, 3), np.float32),
    'params/conv/bias': np.ones(3, np.float16),
    'ema/x': np.arange(4),
  }
  import safetensors.numpy

  def text():
    return mangle_json(rng, about) if rng.random() < 0.6 else json.dumps(about).encode()

  raw = safetensors.numpy.save(arrays, metadata={'x': 'y'})
  size = struct.unpack('<Q', raw[:8])[0]
  if rng.random() < 0.5:
    raw = safetensor(mangle_json(rng, json.loads(raw[8 : 8 + size])), raw[8 + size :])
  if rng.random() < 0.3:
    raw = mangle(rng, raw)
  if rng.random() < 0.2:
    kind = rng.choice(('BF16', 'F8_E4M3', 'F8_E5M2', 'BOOL', 'U64', 'C64', 'F4', 'I8')).encode()
    raw = raw.replace(b'"F32"', b'"' + kind + b'"')
  (folder / 'g.safetensors').write_bytes(raw)
  (folder / 'g.json').write_bytes(text())
  packed = npz(rng, arrays, text().decode('utf-8', 'replace'))
  (folder / 'g.npz').write_bytes(mangle(rng, packed) if rng.random() < 0.3 else packed)
  rows = b'\n'.join(mangle_json(rng, {'step': i, 'd_loss': 0.5}) for i in range(3)) + b'\n'
  (folder / 'metrics.jsonl').write_bytes(mangle(rng, rows) if rng.random() < 0.3 else rows)
  (folder / 'history.json').write_bytes(mangle_json(rng, [{'step': 0, 'seed': 1, 'why': 'x'}]))
  (folder / 'card.json').write_bytes(text())
  tries = (
    (generator_file.load, folder / 'g.safetensors'),
    (generator_file.load, folder / 'g.npz'),
    (generator_file.load_workdir, folder),
    (files.read_json, folder / 'history.json'),
    (files.read_rows, folder / 'metrics.jsonl'),
  )
  for call, path in tries:
    try:
      call(str(path))
    except errors.UserError as error:
      said = str(error)
      assert len(said.splitlines()) == 1, f'of several lines: {said!r}'
    except Exception as error:
      kind = f'{call.__name__}: {type(error).__name__}'
      note = f'{kind}: {str(error)[:100]!r}'
      if kind not in KNOWN:
        KNOWN.add(kind)
        print('FOUND', note, flush=True)
        shutil.copytree(folder, folder.parent / f'found-{len(KNOWN)}', dirs_exist_ok=True)
  return len(tries)


KNOWN = set()
TARGETS = {'images': images, 'cards': cards, 'zips': zips}


def child(target, seed, until, root):
  """Run cases until a time; print how many, after each batch."""
  os.environ['BIGJAX_CACHE'] = str(root / 'cache')
  warnings.simplefilter('ignore')
  seeds = {'images': pictures, 'zips': lambda: seed_zips(pictures())}.get(target, list)()
  folder = root / 'case'
  faulthandler.register(signal.SIGPROF, chain=True)  # then it ends the process
  most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  base = None
  count = 0
  for number in range(10**9):
    if time.time() > until:
      break
    rng = random.Random(f'{seed} {number}')
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(root / 'cache', ignore_errors=True)
    folder.mkdir()
    faulthandler.dump_traceback_later(60 * SLOW, exit=True)  # waiting for nothing
    signal.setitimer(signal.ITIMER_PROF, 6 * SLOW)  # busy without end
    began = time.process_time()
    count += TARGETS[target](rng, folder, seeds)
    spent = time.process_time() - began
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_PROF, 0)
    if spent > SLOW and number:
      print(f'FOUND slow: {spent:.0f} s at {number}', flush=True)
      shutil.copytree(folder, root / f'slow-{seed}-{number}')
    if base is not None and most() - base > LARGE:
      print(f'FOUND large: {(most() - base) / 2**30:.1f} GiB at {number}', flush=True)
      shutil.copytree(folder, root / f'large-{seed}-{number}')
      base = most()
    base = most() if base is None else base
    print(f'{count} cases', file=sys.stderr, flush=True)


def main():
  """Run children until the time is up, and print what was found."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--target', choices=TARGETS, default='images')
  parser.add_argument('--minutes', type=float, default=5)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--child', default='')
  args = parser.parse_args()
  if args.child:
    child(args.target, args.seed, args.minutes, pathlib.Path(args.child))
    return
  root = pathlib.Path(tempfile.mkdtemp(prefix='bigjax-fuzz-'))
  print(f'{args.target}, seed {args.seed}, in {root}', flush=True)
  until, seed, total, deaths = time.time() + 60 * args.minutes, args.seed, 0, 0
  while time.time() < until:
    line = [sys.executable, __file__, '--target', args.target, '--seed', str(seed)]
    line += ['--minutes', str(until), '--child', str(root)]
    with open(root / 'log', 'wb') as log:
      done = subprocess.run(line, stderr=log, check=False)
    said = (root / 'log').read_text(errors='replace').splitlines()
    total += max([int(x.split()[0]) for x in said if x.endswith(' cases')], default=0)
    if done.returncode:
      deaths += 1
      shutil.copytree(root / 'case', root / f'died-{seed}', dirs_exist_ok=True)
      print(f'FOUND the process ended with {done.returncode}; see {root}/died-{seed}')
      print('\n'.join(x for x in said if not x.endswith(' cases'))[-3000:], flush=True)
    seed += 1
  print(f'{total} cases, {deaths} deaths, seeds {args.seed} to {seed - 1}')


if __name__ == '__main__':
  main()
