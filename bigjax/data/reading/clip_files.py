"""What is known of every clip below a folder, and its frames: videos, and folders of pictures.

A folder that holds pictures, and no clip below it, is a clip, its frames by the numbers in their
names. Found once and kept in bigjax's cache for as long as no file changes. Which frames of a video
are a clip is told in `window`.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from bigjax import data
from bigjax.core import errors, progress
from bigjax.data.files.stores import HASH
from bigjax.data.reading import decode, listing, photo_files, tfrecord, video
from bigjax.data.reading.levels import NAMED, readable, some

WHAT = 'clips'
OF_CLIPS = ('nums', 'starts', 'rates', 'sizes', 'grey', 'contents')  # facts, one for each


# --- Which


def entries(listed: listing.Listing) -> listing.Listing:
  """The clips of a listing in place of its images: paths of videos, and of folders of pictures.

  Pictures beside clips are among the others.

  Raises:
    UserError: pictures lie in the folder itself, which can be no clip of its own.
  """
  ending = lambda path: path.lower().endswith(video.SUFFIXES)
  full = lambda path: os.path.join(listed.root, path)
  videos = [path for path in listed.others if ending(path)]
  videos += [path for path in listed.images if ending(path) and video.moves(full(path))]
  still = sorted({*listed.images} - {*videos})
  holding = {path.rpartition('/')[0] for path in still}
  above = {'/'.join(names[:i]) for path in [*videos, *holding]
           if (names := path.split('/')) for i in range(len(names))}  # fmt: skip
  clips = sorted([*videos, *(holding - above)])
  beside = [path for path in still if path.rpartition('/')[0] in above | {''}]
  if beside and not clips:
    raise errors.UserError(
      f'{listed.root!r} holds pictures, such as {beside[0]!r}, and no clip: give each clip a '
      'folder of its frames, or set data.frames=0 for still images.'
    )
  others = sorted([*({*listed.others} - {*videos}), *beside])
  folders = sorted({*listed.folders} - {*clips})
  return listing.Listing(listed.root, clips, others, folders, listed.aside, listed.closed, WHAT)


def pictures_of(root: str, clip: str) -> list[str]:
  """Paths of the frames of a folder, in order; none of a video."""
  folder = os.path.join(root, clip)
  if not os.path.isdir(folder):
    return []
  with os.scandir(folder) as found:
    names = [entry.name for entry in found if listing.is_image(entry.name) and entry.is_file()]
  return [os.path.join(folder, name) for name in sorted(names, key=listing.natural)]


# --- What is known of them


def examine(root: str, names: list[str], config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Facts about every clip that can be read and is long enough, in the order of their names.

  As `photo_files.examine`; and rates float [n], nums int [n] of frames, starts int [n] of each
  clip's in the columns of frames: places (see video.Facts), files ('' of videos), orientations.

  Args:
    root: a folder.
    names: of its clips, relative to it.
    config: the group `data`.
  Raises:
    UserError: there is no clip, none can be read, or a decoder is missing.
  """
  if not names:
    raise errors.UserError(
      f'data.source is {config.source!r} with data.frames={config.frames}, but no clip is below '
      f'{root!r}; lay videos ({" ".join(video.SUFFIXES)}) there, or folders of numbered pictures.'
    )
  paths = [os.path.join(root, name) for name in names]
  pictures = [pictures_of(root, name) for name in names]
  files = [file for path, of in zip(paths, pictures, strict=True) for file in of or [path]]
  if any(not of and not video.is_animation(path) for path, of in zip(paths, pictures, strict=True)):
    video.pyav()
  facts = tfrecord.cached(
    'clips', tfrecord.fingerprint(files, need=False), lambda: read_all(paths, pictures)
  )
  stride, span = spans(config)
  reasons = facts['reasons'].astype(object)
  short = (reasons == '') & (facts['nums'] < span)
  reasons[short] = [f'{num} frames' for num in facts['nums'][short]]
  good = reasons == ''
  names, paths = np.array(names, object), np.array(paths, object)
  if not good.any():
    raise errors.UserError(
      f'data.source is {config.source!r}, but of its {len(names)} clips none can be read and has '
      f'the {span} frames that data.frames={config.frames} at data.frame_stride='
      f'{stride} takes: {left_out(names[~good], reasons[~good])}; lower these, or set '
      'data.frames=0 for still images.'
    )
  frame_files = [file for path, of in zip(paths, pictures, strict=True) for file in of]
  where = np.full(facts['places'].shape, '', object)
  where[facts['still']] = frame_files
  return {
    'names': names[good],
    'paths': paths[good],
    'labels': np.zeros(good.sum(), np.int32),
    'unreadable': names[~good],
    'reasons': reasons[~good],
    'num_short': int(short.sum()),
    'files': where,
    **{name: facts[name] for name in ('places', 'orientations')},
    **{name: facts[name][good] for name in OF_CLIPS},
  }


def read_all(paths: list[str], pictures: list[list[str]]) -> dict[str, np.ndarray]:
  """Reads what `examine` keeps of clips, readable or not: of videos, and of folders' pictures."""
  still = [file for of in pictures for file in of]
  of_stills = photo_files.read_all(still) if still else None
  with concurrent.futures.ThreadPoolExecutor() as pool:
    videos = [path for path, of in zip(paths, pictures, strict=True) if not of]
    looks = pool.map(lambda path: (video.examine(path), file_hash(path)), videos)
    told = progress.counted(videos, 'examining videos')
    looked = iter([look for _, look in zip(told, looks, strict=True)])
  at, rows = 0, []
  for of in pictures:
    if of:
      rows.append((*of_folder(of_stills, slice(at, at + len(of)), of), len(of)))
      at += len(of)
    else:
      rows.append((*next(looked), 0))
  facts, contents, counts = zip(*rows, strict=True)
  nums = np.array([len(one.places) for one in facts])
  ends = np.cumsum(nums)
  is_still = np.repeat(np.array(counts) > 0, nums)
  orientations = np.ones(len(is_still), np.int32)
  if still:
    orientations[is_still] = of_stills['orientations']
  return {
    'reasons': np.array([one.reason for one in facts]),
    'nums': nums,
    'starts': ends - nums,
    'rates': np.array([one.rate for one in facts], float),
    'sizes': np.array([one.size for one in facts], np.int64).reshape(-1, 2),
    'grey': np.array([one.grey for one in facts], bool),
    'contents': np.frombuffer(b''.join(contents), np.uint8).reshape(-1, HASH),
    'places': np.concatenate([one.places for one in facts]),
    'still': is_still,
    'orientations': orientations,
  }


def of_folder(
  stills: dict[str, np.ndarray], mine: slice, files: list[str]
) -> tuple[video.Facts, bytes]:
  """Facts about a folder of pictures, and the hash of all their bytes."""
  names = [os.path.basename(file) for file in files]
  sizes, can_be = stills['sizes'][mine], stills['readable'][mine]
  if not all(any(c.isdigit() for c in name) for name in names):
    reason = 'its pictures are not numbered'
  elif not can_be.all():
    reason = f'{readable(names[int(can_be.argmin())])} cannot be read'
  elif (sizes != sizes[0]).any():
    reason = 'pictures of several sizes'
  else:
    reason = ''
  size = tuple(map(int, sizes[0]))
  facts = video.Facts(reason, np.full(len(files), video.UNTOLD), 0.0, size, stills['grey'][mine][0])
  words = np.ascontiguousarray(stills['contents'][mine]).data
  return facts, hashlib.blake2b(words, digest_size=HASH).digest()


def file_hash(path: str) -> bytes:
  """The hash of a file's bytes; that of nothing where it cannot, or may not, be read."""
  words = hashlib.blake2b(digest_size=HASH)
  try:
    if os.path.isfile(path) and os.path.getsize(path) <= video.MOST_BYTES:
      with open(path, 'rb') as file:
        words = hashlib.file_digest(file, lambda: words)
  except OSError:  # which the decoder fails at too
    pass
  return words.digest()


# --- Their frames


def spans(config: ml_collections.ConfigDict) -> tuple[int, int]:
  """(Every so many frames of a video are a clip's, frames of the video from its first to last)."""
  stride = config.get('frame_stride', 1)
  return stride, (config.frames - 1) * stride + 1


def digest_of(contents: str, config: ml_collections.ConfigDict) -> str:
  """The digest of clips of videos whose contents have that one: another for each stride.

  Still images have no stride, and clips of every frame keep the digest of their videos.
  """
  stride = spans(config)[0] if config.frames else 1
  return contents + f' every {stride}' * (stride > 1)


def window(num: Any, span: int, chance: Any | None) -> tuple[Any, Any | None]:
  """(First frame of a clip, what is left of the chance) in a video of `num` frames.

  The clip spans `span` of them: anywhere, evenly, by the chance, or in the middle without one.
  """
  room = num - span + 1
  if chance is None:
    return (room - 1) // 2, None
  return chance % room, chance // room


def lookup(known: dict[str, Any], config: ml_collections.ConfigDict) -> data.Lookup:
  """The lookup of examined clips: random windows in training, the central ones without chance."""
  stride, span = spans(config)
  steps = np.arange(config.frames) * stride
  shape = config.resolution, config.resolution, config.channels
  random, fit = config.crop == 'random', config.get('fit', 'crop')
  flat = [os.fsencode(path) for path in known['files']]  # a name need not be text

  def from_video(index, first, chance):
    start, num = known['starts'][index], known['nums'][index]
    places = known['places'][start : start + num]
    chance = int(chance) if random and chance >= 0 else None
    found = video.frames(known['paths'][index], places, (first + steps).tolist())
    return np.stack([video.square(frame, *shape[1:], chance, fit) for frame in found])

  def look_up(tf, indices, chance):
    with tf.init_scope():  # outside the graph, whose constants may not exceed 2 GiB
      columns = flat, known['orientations'], known['starts'], known['nums'], known['labels']
      files, orientations, starts, nums, labels = map(tf.constant, columns)
    index = indices[0]
    first, left = window(nums[index], span, None if chance is None else chance[0])

    def picture(at):
      image = decode.decode(tf, tf.io.read_file(files[at]), orientations[at])
      return decode.square(tf, image, *shape[1:], left if random else None, fit)

    def from_folder():
      return tf.map_fn(picture, starts[index] + first + steps, fn_output_signature=tf.uint8)

    def from_file():
      given = [index, first, tf.constant(-1, tf.int64) if left is None else left]
      return tf.numpy_function(from_video, given, tf.uint8, stateful=False)

    clip = tf.cond(files[starts[index]] == b'', from_file, from_folder)
    clip = tf.ensure_shape(clip, [config.frames, *shape])
    return clip[None], labels[index][None]

  return data.Named(look_up, known['paths'].__getitem__)


# --- What is told of them


def of_files(root: str, known: dict[str, Any]) -> data.Finding:
  """Whether all clips of a folder can be read and are long enough, naming those that are not."""
  bad = known['unreadable']
  total = len(known['names']) + len(bad)
  if not len(bad):
    return 'ok', f'all {total:,} clips in {readable(root)!r} can be read'
  short = known['num_short']
  why = f', {short} of them too short for data.frames' if short else ''
  return 'warning', (
    f'{len(bad)} of {total:,} clips in {readable(root)!r} are left out{why}: '
    + left_out(bad, known['reasons'])
  )


def left_out(names: np.ndarray, reasons: np.ndarray) -> str:
  """The first of these clips, with their reasons, in words."""
  told = zip(map(readable, names[:NAMED]), reasons, strict=False)
  words = ', '.join(f'{name} ({reason})' for name, reason in told)
  return words + (', ...' if len(names) > NAMED else '')


def frame_rate(known: dict[str, Any], config: ml_collections.ConfigDict) -> float:
  """Frames per second of clips: the median of those that say, 0 where none does."""
  told = known['rates'][known['rates'] > 0]
  return float(np.median(told)) / spans(config)[0] if len(told) else 0.0


def of_rates(known: dict[str, Any], config: ml_collections.ConfigDict) -> list[data.Finding]:
  """The findings about how long clips are and how fast."""
  nums, told = known['nums'], known['rates'][known['rates'] > 0]
  found = [
    ('ok', f'{nums.min():,} to {nums.max():,} frames a video, of which a clip has {config.frames}')
  ]
  if not len(told):
    found.append(('ok', 'folders of pictures do not say how many frames there are in a second'))
  elif told.max() > 1.02 * told.min():
    found.append(
      (
        'warning',
        f'videos have {told.min():g} to {told.max():g} frames a second: motion in clips is '
        f'that much faster or slower; the generator is said to have {np.median(told):g}',
      )
    )
  return found


def of_others(listed: listing.Listing, used: Sequence[str] = ()) -> list[data.Finding]:
  """Findings about what lies below a folder and is no clip; see `photo_files.of_others`."""
  del used  # clips have the labels of their folders
  stills = [path for path in listed.others if listing.is_image(path)]
  rest = sorted({*listed.others} - {*stills})
  found = []
  for paths, level, words in (
    (stills, 'warning', 'pictures lie beside clips and are left out'),
    (listed.aside, 'warning', "pictures in a device's or an archive's own folders are left out"),
    (listed.closed, 'warning', 'folders may not be read and are left out'),
    (rest, 'ok', 'other files are not videos that bigjax reads'),
  ):
    if paths:
      found.append((level, f'{len(paths):,} {words}, such as {some(paths[:1])!r}'))
  return found
