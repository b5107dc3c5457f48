"""Folders of clips: videos and numbered pictures, whole, damaged, hostile, short and misplaced."""

import io
import itertools
import sys

import ml_collections
import numpy as np
import pytest
from PIL import Image

from bigjax import data
from bigjax.core import errors
from bigjax.data.reading import clip_files, decode, listing, video

from folders import shade, write
from pictures import encoded, noise

LENGTH = 9  # frames of most videos here


def config(path, **changes):
  """A config for clips of three frames at 8 x 8 in colour, but for the changes."""
  plain = {
    'source': f'folder:{path}',
    'data_dir': '',
    'resolution': 8,
    'channels': 3,
    'frames': 3,
    'frame_stride': 1,
    'num_classes': None,
    'held_out': 0.25,
    'fraction': 1.0,
    'per_class': 0,
    'imbalance': 1.0,
    'crop': 'center',
    'flip': False,
  }
  return ml_collections.ConfigDict({**plain, **changes})


def gif(levels, size=12, duration=100):
  """An animation, a shade a frame; `size` a side, or (height, width)."""
  sides = (size, size) if isinstance(size, int) else size
  frames = [Image.fromarray(np.full((*sides, 3), level, np.uint8)) for level in levels]
  return encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:], duration=duration)


def webp(levels):
  frames = [Image.fromarray(np.full((12, 12, 3), level, np.uint8)) for level in levels]
  return encoded(frames[0], 'WEBP', save_all=True, append_images=frames[1:], lossless=True,
                 duration=100)  # fmt: skip


def mp4(levels, kind='mp4', codec='libx264', rate=20, size=(16, 32), gop=4):
  """A video, a shade a frame, with a key frame at every `gop`th."""
  av = pytest.importorskip('av')
  out = io.BytesIO()
  with av.open(out, 'w', format=kind) as container:
    stream = container.add_stream(codec, rate=rate, options={'g': str(gop)})
    stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
    for level in levels:  # of a whole frame, or of its columns
      picture = np.zeros((*size, 3), np.uint8) + np.asarray(level, np.uint8)[..., None]
      frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return out.getvalue()


def pictures(folder, levels, name='{}.png'):
  return {f'{folder}/{name.format(i)}': shade(level) for i, level in enumerate(levels)}


def shades(clips):
  """The shade of every frame, [n, T], of clips whose frames have one each."""
  assert (clips == clips[:, :, :1, :1, :1]).all()
  return clips[..., 0, 0, 0].astype(int)


def said(source):
  return '\n'.join(f'{level}: {sentence}' for level, sentence in source.findings)


def refusal(given):
  """The sentence with which data is refused."""
  with pytest.raises(errors.UserError) as error:
    data.load(given)
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """A cache of each test's own."""
  monkeypatch.setenv('BIGJAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def clips(tmp_path):
  """Four videos in each of two classes; frame t of video i has the shade 20 i + 2 t."""
  of = lambda i: [20 * i + 2 * t for t in range(LENGTH)]
  files = {f'cats/{i}.gif': gif(of(i)) for i in range(2)}
  files |= {f'cats/{i}.webp': webp(of(i)) for i in range(2, 4)}
  for i in range(4, 8):
    files |= pictures(f'dogs/{i}', of(i), 'frame{}.png')
  return write(tmp_path / 'my clips', files)


def test_videos_and_numbered_pictures(clips):
  """Central windows, labels of the class folders, and shares by name, as of photos."""
  source = data.load(config(clips))
  assert source.class_names == ('cats', 'dogs') and source.num_train == 6
  assert source.small is None and not source.at_once
  (train, labels), (unseen, others) = source.train(), source.held_out()
  assert train.shape == (6, 3, 8, 8, 3) and train.dtype == np.uint8
  together = sorted(map(tuple, [*shades(train).tolist(), *shades(unseen).tolist()]))
  assert together == [tuple(20 * i + 2 * t for t in (3, 4, 5)) for i in range(8)]
  np.testing.assert_array_equal(shades(train)[:, 0] // 80, labels)
  np.testing.assert_array_equal(shades(unseen)[:, 0] // 80, others)
  assert source.frame_rate == 10  # of GIFs and WebPs; folders do not say
  assert 'ok: all 8 clips' in said(source) and 'warning' not in said(source), said(source)
  assert '9 to 9 frames a video, of which a clip has 3' in said(source)


def test_numbers_are_in_their_order(tmp_path):
  """2 before 10, whatever stands around them."""
  files = {}
  for clip in 'ab':
    files |= {f'{clip}/f_{i}_x.png': shade(10 * i) for i in range(12)}
  source = data.load(config(write(tmp_path / 'all', files), frames=12, held_out=0.5))
  assert shades(source.train()[0]).tolist() == [[10 * i for i in range(12)]]
  assert source.class_names == ('all',) and source.frame_rate == 0


def test_windows_are_drawn_by_seed_and_position(clips):
  """Anywhere in a video, another at every visit; frames in order and of one video."""
  source = data.load(config(clips))
  stream = data.stream(source, 0, 0, (2, 60), np.arange(60))
  images = next(stream)['image']
  seen = shades(images.reshape(120, *images.shape[2:]))
  np.testing.assert_array_equal(np.diff(seen, axis=1), 2)
  first = seen[:, 0] % 20 // 2
  assert {*first.tolist()} == {*range(LENGTH - 2)}
  assert np.bincount(first).min() > 6  # of 17 on average
  again = next(data.stream(source, 0, 60, (1, 60), np.arange(10, 60, 10)))['image'][0]
  np.testing.assert_array_equal(again, images[1, 10::10])


def test_windows_are_even_and_leave_chance_for_crops():
  chances = np.random.RandomState(0).randint(0, 2**62, 7000)
  first, left = clip_files.window(LENGTH, 3, chances)
  counts = np.bincount(first)
  assert len(counts) == LENGTH - 2 and (abs(counts - 1000) < 150).all()
  assert abs(np.corrcoef(first, left % 5)[0, 1]) < 0.05
  assert clip_files.window(LENGTH, 3, None) == (3, None)
  assert clip_files.window(3, 3, None) == (0, None) and clip_files.window(4, 3, 5)[0] == 1


def test_a_stride(clips):
  source = data.load(config(clips, frames=3, frame_stride=4))
  seen = shades(source.train()[0])
  np.testing.assert_array_equal(np.diff(seen, axis=1), 8)
  assert (seen[:, 0] % 20 == 0).all() and source.frame_rate == 2.5
  every = data.load(config(clips))
  assert source.digest != every.digest and source.held_out_digest != every.held_out_digest
  message = refusal(config(clips, frames=3, frame_stride=5))
  assert 'none can be read and has the 11 frames' in message
  assert 'cats/0.gif (9 frames)' in message and 'data.frames=0' in message


def test_splits(tmp_path):
  files = {f'train/{c}/{i}.gif': gif([i, i + 1, i + 2]) for i, c in enumerate('abab')}
  files |= {f'test/{c}/x.gif': gif([100, 101, 102]) for c in 'ab'}
  source = data.load(config(write(tmp_path / 'all', files)))
  assert (source.num_train, source.num_held_out) == (4, 2)
  assert shades(source.held_out()[0]).tolist() == [[100, 101, 102]] * 2


def test_what_cannot_be_read_is_named_and_left_out(tmp_path):
  files = {f'{i}.gif': gif([i, i + 1, i + 2, i + 3]) for i in range(4)}
  files |= {'short.gif': gif([1, 2]), 'damaged.webp': webp([1, 2, 3])[:60], 'empty.avi': b''}
  files |= pictures('sizes', [1, 2]) | {'sizes/9.png': noise(5, 7)}
  files |= pictures('holes', [1, 2]) | {'holes/9.png': b'\x89PNG'}
  files |= {f'photos/{name}.png': shade(1) for name in ('cat', 'dog', 'hen')}
  files |= {'vast.gif': gif([1, 2, 3])[:6] + b'\xff\xff\xff\xff' + gif([1, 2, 3])[10:]}
  pytest.importorskip('av')
  files |= {'text.mp4': b'no video at all'}
  source = data.load(config(write(tmp_path / 'all', files)))
  assert source.num_train + source.num_held_out == 4
  known = clip_files.examine(*(lambda x: (x.root, x.images))(
    clip_files.entries(listing.walk(str(tmp_path / 'all')))), config(tmp_path / 'all'))  # fmt: skip
  reasons = dict(zip(known['unreadable'], known['reasons'], strict=True))
  assert reasons['short.gif'] == '2 frames' and reasons['empty.avi'] == 'empty'
  assert reasons['sizes'] == 'pictures of several sizes'
  assert reasons['holes'] == '9.png cannot be read'
  assert reasons['photos'] == 'its pictures are not numbered'
  assert reasons['vast.gif'] == 'too many pixels'
  assert reasons['text.mp4'] == 'damaged'
  assert '8 of 12 clips' in said(source) and '1 of them too short' in said(source), said(source)


def test_a_bomb_of_frames_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'x.gif').write_bytes(gif(range(20)))
  assert len(video.examine(str(tmp_path / 'x.gif')).places) == 20
  monkeypatch.setattr(video, 'MOST_WORK', 10 * 12 * 12)
  assert video.examine(str(tmp_path / 'x.gif')).reason == 'too many frames'
  monkeypatch.setattr(video, 'MOST_BYTES', 10)
  assert video.examine(str(tmp_path / 'x.gif')).reason.startswith('over')
  assert video.examine(str(tmp_path)).reason == 'not a file'


def test_contents_are_what_counts(clips, tmp_path):
  """A GIF by another name; copies; another digest where a frame is another."""
  first = data.load(config(clips))
  (clips / 'cats' / '0.gif').rename(clips / 'cats' / '0.mp4')
  renamed = data.load(config(clips))
  assert renamed.num_train + renamed.num_held_out == 8
  (clips / 'cats' / 'copy.gif').write_bytes((clips / 'cats' / '1.gif').read_bytes())
  assert '1 of 9 clips are copies' in said(data.load(config(clips)))
  (clips / 'cats' / 'copy.gif').unlink()
  write(clips, {'dogs/5/frame3.png': shade(7)})
  again = data.load(config(clips))
  assert again.digest + again.held_out_digest != first.digest + first.held_out_digest


def test_what_goes_bad_later_is_named(clips):
  source = data.load(config(clips))
  for i in range(4):
    for kind in ('gif', 'webp'):
      path = clips / 'cats' / f'{i}.{kind}'
      if path.exists():
        path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(errors.UserError, match=r'cats/\d\.(gif|webp)'):
    list(itertools.islice(data.stream(source, 0, 0, (1, 6), np.arange(6)), 4))


# Folders of the other kind.


def test_photos_are_no_clips(tmp_path):
  flat = write(tmp_path / 'flat', {f'{i}.jpg': shade(i) for i in range(3)})
  assert "such as '0.jpg', and no clip: give each clip a folder" in refusal(config(flat))
  sorted_ = write(tmp_path / 'sorted', {f'{c}/{c}.png': shade(1) for c in 'ab'})
  message = refusal(config(sorted_))
  assert 'a (its pictures are not numbered)' in message and 'set data.frames=0' in message
  assert 'no clip is below' in refusal(config(write(tmp_path / 'none', {'a.txt': b''})))


def test_clips_are_no_photos(clips, tmp_path):
  videos = write(tmp_path / 'videos', {'a.mp4': b'', 'b.mp4': b''})
  message = refusal(config(videos, frames=0))
  assert "'a.mp4' is a video: data.frames=16 makes clips" in message
  photos = data.load(config(clips, frames=0))
  assert 'data.frames=16 makes clips of them' in said(photos) and photos.frame_rate == 0
  files = {}
  for clip in ('a/1', 'a/2', 'b/3'):
    files |= pictures(clip, [1, 2, 3])
  numbered = data.load(config(write(tmp_path / 'numbered', files), frames=0))
  assert '3 folders hold pictures numbered without a gap' in said(numbered)


def test_pictures_beside_clips_are_left_out(clips):
  write(clips, {'cats/cover1.png': shade(1), 'cats/notes.txt': b'x', 'none/notes.txt': b''})
  source = data.load(config(clips))
  assert source.num_train + source.num_held_out == 8
  assert "1 pictures lie beside clips and are left out, such as 'cats/cover1.png'" in said(source)
  assert 'left out, without a clip that bigjax reads: none' in said(source)


# Pictures of frames.


@pytest.mark.parametrize('shape', [(48, 20), (20, 31), (5, 9), (16, 16), (33, 47)])
@pytest.mark.parametrize('channels', [1, 3])
def test_frames_are_cut_and_averaged_as_photos_are(shape, channels):
  frame = noise(*shape)
  tf = data.tensorflow()
  for chance in (None, 3, 1000):
    want = decode.square(
      tf, tf.constant(frame), 16, channels, chance and tf.constant(chance, 'int64')
    )
    found = video.square(frame, 16, channels, chance)
    assert found.shape == want.shape and found.dtype == np.uint8
    limit = 1 if min(shape) >= 16 else 255  # enlarged ones are bicubic by other conventions
    assert abs(found.astype(int) - want.numpy().astype(int)).max() <= limit


def test_crops_follow_chance(tmp_path):
  """One place for all frames of a visit, others at others."""
  wide = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)
  frames = [Image.fromarray(wide) for _ in range(3)]
  frames = [encoded(frame) for frame in frames]
  files = {f'{c}/{i}.png': one for c in 'ab' for i, one in enumerate(frames)}
  source = data.load(config(write(tmp_path / 'all', files), crop='random', held_out=0.5))
  seen = next(data.stream(source, 0, 0, (1, 50), np.arange(50)))['image'][0][..., 0, 0, 0]
  assert (seen == seen[:, :1]).all() and len({*seen[:, 0].tolist()}) > 15
  assert (source.train()[0][..., 0, 0, 0] == 16).all()


# What FFmpeg decodes.


@pytest.mark.parametrize(('kind', 'codec'), [('mp4', 'libx264'), ('webm', 'libvpx'),
                                             ('mov', 'mpeg4'), ('avi', 'mpeg4')])  # fmt: skip
def test_every_frame_is_found_by_its_number(tmp_path, kind, codec):
  """Over key frames and frames between them; and when files do not tell when a frame is shown."""
  levels = np.arange(10, 240, 10)
  path = tmp_path / f'x.{kind}'
  path.write_bytes(mp4(levels, kind, codec))
  facts = video.examine(str(path))
  assert facts.reason == '' and len(facts.places) == len(levels) and facts.size == (16, 32)
  assert abs(facts.rate - 20) < 0.01 and facts.grey
  untold = np.full(len(levels), video.UNTOLD)
  for first in (0, 1, 5, 11, 20):
    for places in (facts.places, untold):
      found = [f.mean() for f in video.frames(str(path), places, [first, first + 2])]
      assert np.abs(found - levels[[first, first + 2]]).max() < 4, (first, found)
  with pytest.raises(ValueError, match='shorter'):
    list(video.frames(str(path), np.append(untold, -1), [len(levels)]))


def test_videos_of_a_folder(tmp_path):
  files = {f'{i}.mp4': mp4(range(20 * i, 20 * i + 9), rate=24) for i in range(1, 5)}
  source = data.load(config(write(tmp_path / 'all', files)))
  clips = source.train()[0].astype(int)
  assert clips.shape == (3, 3, 8, 8, 3) and source.frame_rate == 24
  batch = next(data.stream(source, 0, 0, (2, 3), np.arange(3), flip=True))
  assert batch['image'].shape == (2, 3, 3, 8, 8, 3)
  write(tmp_path / 'all', {'9.mp4': mp4(range(9), rate=12)})
  assert 'videos have 12 to 24 frames a second' in said(data.load(config(tmp_path / 'all')))


def test_a_camera_held_upright(tmp_path):
  """By the matrix of an MP4's track, as phones write it."""
  given = bytearray(mp4([np.repeat([250, 5], 16)] * 3))  # what is left here was up
  at = given.index(b'tkhd') + 4 + 40  # of version 0
  one = (1 << 16).to_bytes(4, 'big')
  minus = (2**32 - (1 << 16)).to_bytes(4, 'big')
  zero = bytes(4)
  assert given[at : at + 4] == one
  given[at : at + 24] = zero + one + zero + minus + zero + zero
  path = tmp_path / 'x.mp4'
  path.write_bytes(given)
  facts = video.examine(str(path))
  assert facts.size == (32, 16)
  (frame,) = video.frames(str(path), facts.places, [1])
  assert frame.shape == (32, 16, 3) and frame[:12].min() > 200 and frame[20:].max() < 50


def test_a_playlist_is_not_followed(tmp_path, monkeypatch):
  """A file that names others, which FFmpeg would open."""
  write(tmp_path, {'x.mp4': mp4(range(5)), 'y.mp4': b"ffconcat version 1.0\nfile 'x.mp4'\n"})
  assert video.examine(str(tmp_path / 'y.mp4')).reason == 'damaged'
  monkeypatch.setattr(video, 'FORMATS', f'{video.FORMATS},concat')
  assert len(video.examine(str(tmp_path / 'y.mp4')).places) == 5


def test_without_pyav_its_name_is_said(clips, monkeypatch):
  video.pyav.cache_clear()
  monkeypatch.setitem(sys.modules, 'av', None)  # importing it raises ImportError
  assert data.load(config(clips)).num_train == 6  # none is needed
  write(clips, {'cats/9.mp4': b'x'})
  assert "PyAV, which is not installed; run: pip install 'bigjax[video]'" in refusal(config(clips))
