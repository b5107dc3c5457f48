"""Images per second of the input pipeline, beside the bare decoding of the same files.

  python benchmarks/input_pipeline.py [--folder PHOTOS] [--data_dir TFDS] [--rounds 5]

Bare is decode, crop and resize alone, from bytes in memory, by as many threads as there are cores;
the pipeline also draws the order, reads the files, hashes, batches and hands NumPy arrays over. The
two take turns in one process, because machines are noisy: what counts is their ratio, by the clock
and by the seconds of processors that an image takes. Without --folder, JPEG files of 500x375 pixels
are made, which are read from a zip, too; with --data_dir, CIFAR-10 is read as well: decoded once
and held in memory, as a run does, and by record, as a set too large for memory is.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator

import ml_collections
import numpy as np
from PIL import Image

from bigjax import data
from bigjax.data.reading import decode
from bigjax.data.sources import synthetic, tfds

BATCH = 64
SECONDS = 4.0  # of each measurement
Rate = tuple[float, float]  # images per second of the clock, and per second of a processor
# Batch 2048 and two discriminator steps in the 206 ms that the compiler estimates (README.md), on
# the 16 hosts of a v3-128. At the paper's pace, 150,000 steps in 42 hours, it is 256.
POD_HOST = 2 * 2048 / 16 / 0.206


def settings(
  source: str, resolution: int, data_dir: str = '', crop: str = 'center'
) -> ml_collections.ConfigDict:
  """Return the group `data` of a config."""
  config = ml_collections.ConfigDict(
    {
      'source': source,
      'data_dir': data_dir,
      'resolution': resolution,
      'channels': 3,
      'frames': 0,
      'held_out': 0.05,
      'fraction': 1.0,
      'per_class': 0,
      'imbalance': 1.0,
      'crop': crop,
      'flip': False,
    }
  )
  config.num_classes = ml_collections.config_dict.placeholder(int)
  return config


@contextlib.contextmanager
def photos(num: int = 256) -> Iterator[str]:
  """Yield a folder of JPEG files, 500x375 and about 75 kB each, as ImageNet's are."""
  with tempfile.TemporaryDirectory() as folder:
    for i in range(num):
      smooth = synthetic.enlarge(synthetic.knots(i, 3), 500)[:375]
      grain = np.random.RandomState(i).normal(0, 12, smooth.shape)
      image = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
      name = os.path.join(folder, f'class{i % 4}', f'{i}.jpg')
      os.makedirs(os.path.dirname(name), exist_ok=True)
      image.save(name, quality=88)
    yield folder


@contextlib.contextmanager
def zipped(folder: str) -> Iterator[str]:
  """Yield a zip of a folder's files, stored, as dataset_tool's."""
  with tempfile.TemporaryDirectory() as other:
    path = os.path.join(other, 'photos.zip')
    with zipfile.ZipFile(path, 'w') as archive:
      for root, _, names in os.walk(folder):
        for name in names:
          whole = os.path.join(root, name)
          archive.write(whole, os.path.relpath(whole, folder))
    yield path


def bare(encoded: list[bytes], resolution: int, crop: str = 'center') -> Callable[[], Rate]:
  """Return the measurement of decode, crop and resize alone."""
  tf = data.tensorflow()

  def one(image, chance):
    chance = chance if crop == 'random' else None
    return decode.square(tf, decode.decode(tf, image, tf.constant(1)), resolution, 3, chance)

  chances = np.random.RandomState(0).randint(0, 2**31, len(encoded))
  dataset = tf.data.Dataset.from_tensor_slices((encoded, chances)).repeat()
  dataset = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
  options = tf.data.Options()
  options.threading.max_intra_op_parallelism = 1
  return rate(dataset.with_options(options).as_numpy_iterator())


def piped(source: data.Source) -> Callable[[], Rate]:
  """Return the measurement of the stream a run reads."""
  stream = data.stream(source, 0, 0, (1, BATCH), np.arange(BATCH))
  return rate(batch['image'][0] for batch in stream)


def rate(batches: Iterator[np.ndarray]) -> Callable[[], Rate]:
  """Return a function that takes batches for SECONDS and returns their rate."""

  def measure():
    for _ in range(3):  # what was made while the other side was measured
      next(batches)
    began, busy, done = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < SECONDS:
      done += len(next(batches))
    return done / (time.monotonic() - began), done / (time.process_time() - busy)

  return measure


def compare(what: str, sides: dict[str, Callable[[], Rate]], rounds: int) -> None:
  """Measure both sides in turn and print a row."""
  rates: dict[str, list[Rate]] = {name: [] for name in sides}
  for _ in range(rounds):
    for name, measure in sides.items():
      rates[name].append(measure())
  pairs = list(zip(rates['piped'], rates['bare'], strict=True))
  ratio, by_cpu = (statistics.median(p[i] / b[i] for p, b in pairs) for i in range(2))
  per_core = {name: statistics.median(cpu for _, cpu in found) for name, found in rates.items()}
  need = POD_HOST / per_core['piped']
  print(
    f'{what:38}{per_core["bare"]:8.0f}{per_core["piped"]:10.0f}{ratio:8.2f}{by_cpu:8.2f}{need:8.1f}',
    flush=True,
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--folder', help='of photos')
  parser.add_argument('--data_dir', help='where TFDS prepared cifar10')
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  print(f'images per second that a core works; a v3-128 host needs {POD_HOST:.0f} in all')
  print(f'{"":38}{"bare":>8}{"pipeline":>10}{"ratio":>8}{"by CPU":>8}{"cores":>8}')
  with contextlib.ExitStack() as stack:
    folder = args.folder or stack.enter_context(photos())
    paths = [os.path.join(root, f) for root, _, files in os.walk(folder) for f in files]
    encoded = [pathlib.Path(path).read_bytes() for path in sorted(paths)]
    for resolution, crop in ((64, 'random'), (128, 'center'), (256, 'center')):
      source = data.load(settings(f'folder:{folder}', resolution, crop=crop))
      sides = {'bare': bare(encoded, resolution, crop), 'piped': piped(source)}
      words = ', random crops' * (crop == 'random')
      compare(f'JPEG files to {resolution} px{words}', sides, args.rounds)
    source = data.load(settings(f'folder:{stack.enter_context(zipped(folder))}', 128))
    sides = {'bare': bare(encoded, 128), 'piped': piped(source)}
    compare('the same in a zip, to 128 px', sides, args.rounds)
  if args.data_dir:
    encoded = cifar_bytes(args.data_dir)
    for how, most in (('in memory', tfds.MOST_MIB), ('by record', 0)):
      tfds.MOST_MIB = most
      source = data.load(settings('tfds:cifar10', 32, args.data_dir))
      sides = {'bare': bare(encoded, 32), 'piped': piped(source)}
      compare(f'TFDS, PNG at 32 px, {how}', sides, args.rounds)


def cifar_bytes(data_dir: str, num: int = 2000) -> list[bytes]:
  """Return the encoded images of the first CIFAR-10 records."""
  import tensorflow_datasets

  builder = tensorflow_datasets.builder('cifar10', data_dir=data_dir)
  skip = {'image': tensorflow_datasets.decode.SkipDecoding()}
  rows = builder.as_dataset(split=f'train[:{num}]', decoders=skip, shuffle_files=False)
  return [row['image'] for row in rows.as_numpy_iterator()]


if __name__ == '__main__':
  main()
