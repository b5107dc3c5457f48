"""Images per second of the input pipeline, beside the bare decoding of the same files.

  python benchmarks/input_pipeline.py [--folder PHOTOS] [--data_dir TFDS] [--rounds 5]

Bare is decode, crop and resize alone, from bytes in memory, by as many threads as there are cores;
the pipeline also draws the order, reads the files, hashes, batches and hands NumPy arrays over. The
two take turns in one process, because machines are noisy: what counts is their ratio. Without
--folder, JPEG files of 500x375 pixels are made, which are read from a zip, too; with --data_dir,
CIFAR-10 is read as well: decoded once and held in memory, as a run does, and record by record, as a
set too large for memory is.
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
# Batch 2048, two discriminator steps and one step per second (the paper's 150,000 steps in 42
# hours), on the 16 hosts of a v3-128.
POD_HOST = 2 * 2048 / 16


def settings(source: str, resolution: int, data_dir: str = '') -> ml_collections.ConfigDict:
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
      'crop': 'center',
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


def bare(encoded: list[bytes], resolution: int) -> Callable[[], float]:
  """Return the measurement of decode, crop and resize alone: () -> images per second."""
  tf = data.tensorflow()

  def one(image):
    return decode.square(tf, decode.decode(tf, image, tf.constant(1)), resolution, 3)

  dataset = tf.data.Dataset.from_tensor_slices(encoded).repeat()
  dataset = dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
  options = tf.data.Options()
  options.threading.max_intra_op_parallelism = 1
  return rate(dataset.with_options(options).as_numpy_iterator())


def piped(source: data.Source) -> Callable[[], float]:
  """Return the measurement of the stream a run reads: () -> images per second."""
  stream = data.stream(source, 0, 0, (1, BATCH), np.arange(BATCH))
  return rate(batch['image'][0] for batch in stream)


def rate(batches: Iterator[np.ndarray]) -> Callable[[], float]:
  """Return a function that takes batches for SECONDS and returns the images per second."""

  def measure():
    for _ in range(3):  # what was made while the other side was measured
      next(batches)
    began, done = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
      done += len(next(batches))
    return done / (time.monotonic() - began)

  return measure


def compare(what: str, sides: dict[str, Callable[[], float]], rounds: int, cores: int) -> None:
  """Measure both sides in turn and print a row."""
  rates: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(rounds):
    for name, measure in sides.items():
      rates[name].append(measure())
  ratio = statistics.median(p / b for p, b in zip(rates['piped'], rates['bare'], strict=True))
  per_core = {name: statistics.median(values) / cores for name, values in rates.items()}
  need = POD_HOST / per_core['piped']
  print(
    f'{what:34}{per_core["bare"]:10.0f}{per_core["piped"]:10.0f}{ratio:8.2f}{need:10.1f}',
    flush=True,
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--folder', help='of photos')
  parser.add_argument('--data_dir', help='where TFDS prepared cifar10')
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  print(f'{cores} cores; images per second and core; a v3-128 host needs {POD_HOST:.0f} in all')
  print(f'{"":34}{"bare":>10}{"pipeline":>10}{"ratio":>8}{"cores":>10}')
  with contextlib.ExitStack() as stack:
    folder = args.folder or stack.enter_context(photos())
    paths = [os.path.join(root, f) for root, _, files in os.walk(folder) for f in files]
    encoded = [pathlib.Path(path).read_bytes() for path in sorted(paths)]
    for resolution in (128, 256):
      source = data.load(settings(f'folder:{folder}', resolution))
      sides = {'bare': bare(encoded, resolution), 'piped': piped(source)}
      compare(f'JPEG files to {resolution} px', sides, args.rounds, cores)
    source = data.load(settings(f'folder:{stack.enter_context(zipped(folder))}', 128))
    sides = {'bare': bare(encoded, 128), 'piped': piped(source)}
    compare('the same in a zip, to 128 px', sides, args.rounds, cores)
  if args.data_dir:
    encoded = cifar_bytes(args.data_dir)
    for how, most in (('in memory', tfds.MOST_MIB), ('by record', 0)):
      tfds.MOST_MIB = most
      source = data.load(settings('tfds:cifar10', 32, args.data_dir))
      sides = {'bare': bare(encoded, 32), 'piped': piped(source)}
      compare(f'TFDS, PNG at 32 px, {how}', sides, args.rounds, cores)


def cifar_bytes(data_dir: str, num: int = 2000) -> list[bytes]:
  """Return the encoded images of the first CIFAR-10 records."""
  import tensorflow_datasets

  builder = tensorflow_datasets.builder('cifar10', data_dir=data_dir)
  skip = {'image': tensorflow_datasets.decode.SkipDecoding()}
  rows = builder.as_dataset(split=f'train[:{num}]', decoders=skip, shuffle_files=False)
  return [row['image'] for row in rows.as_numpy_iterator()]


if __name__ == '__main__':
  main()
