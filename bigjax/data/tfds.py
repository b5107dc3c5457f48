"""Image classification sets of TensorFlow Datasets that fit in memory: `tfds:NAME[/CONFIG]`.

They are read where they have been prepared (`config.data_dir`, else TFDS's own folder); nothing is
downloaded here.
"""

import os
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from bigjax import data, utils

HELD_OUT = ('test', 'validation')  # splits, in the order in which one is looked for


def load(config: ml_collections.ConfigDict, argument: str) -> data.Source:
  """Return the set, cut to squares and resized to `config.resolution` by `data.fit`.

  Trained on is 'train'. Held out is 'test' or else 'validation', and where there is neither, the
  share `config.held_out` of every class.
  Raises:
    UserError: TFDS is not installed, or the set is unknown, not prepared, too large, or not one of
      images with one label each.
  """
  data.tensorflow()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    builder = find(config, argument)
    splits = builder.info.splits
    unseen = next((split for split in HELD_OUT if split in splits), None)
    num = splits['train'].num_examples + (splits[unseen].num_examples if unseen else 0)
    data.check_memory(num, config)
    train = read(builder, 'train', config)
    held_out = read(builder, unseen, config) if unseen else None
  finally:
    logging.set_verbosity(verbosity)
  if held_out is None:
    mask = data.held_out_mask(train[1], config.held_out)
    train, held_out = (train[0][~mask], train[1][~mask]), (train[0][mask], train[1][mask])
  return data.in_memory(
    train,
    held_out,
    class_names=tuple(builder.info.features['label'].names),
    license=f'see the dataset {builder.info.full_name} ({builder.info.homepage})',
  )


def find(config: ml_collections.ConfigDict, argument: str) -> Any:
  """Return the TFDS builder of a prepared set with images and labels.

  Raises:
    UserError: there is none.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError:
    raise utils.UserError(
      f'data.source={config.source} is read through TensorFlow Datasets, which is not installed; '
      "run: pip install 'bigjax[train]'"
    ) from None
  if not argument:
    raise utils.UserError('data.source=tfds needs the name of a set, as in tfds:cifar10.')
  folder = os.path.expanduser(config.get('data_dir', '')) or None
  try:
    builder = tfds.builder(argument, data_dir=folder)
  except tfds.core.DatasetNotFoundError:
    known = tfds.list_builders(with_community_datasets=False)
    raise utils.UserError(
      f'data.source is {config.source!r}, but TensorFlow Datasets knows no set {argument!r}'
      f'{utils.did_you_mean(argument, known)}, nor is one prepared in '
      f'{folder or tfds.core.constants.DATA_DIR!r}.'
    ) from None
  except (AssertionError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
    raise utils.UserError(
      f'data.source is {config.source!r}, of which TensorFlow Datasets says: '
      + str(error).partition('\n')[0]
    ) from None
  if not builder.is_prepared():
    where = f', data_dir="{folder}"' if folder else ''
    # Not `tfds build`: it does not start where apache-beam is not installed.
    raise utils.UserError(
      f'{config.source!r} is not prepared in {str(builder.data_path)!r}; '
      'give --config.data.data_dir=FOLDER where it is, or prepare it: '
      "python -c 'import tensorflow_datasets as tfds; "
      f'tfds.builder("{argument}"{where}).download_and_prepare()\''
    )
  check(builder, config)
  return builder


def check(builder: Any, config: ml_collections.ConfigDict) -> None:
  """Refuse a set that is not a training split of uint8 images with one label each.

  Raises:
    UserError: says what it lacks.
  """
  features = dict(builder.info.features.items())
  image, label = features.get('image'), features.get('label')
  if image is None or label is None or not hasattr(label, 'names'):
    raise utils.UserError(
      f"{config.source!r} has {', '.join(features)}; expected an 'image' and a class 'label'."
    )
  if image.np_dtype != np.uint8 or len(image.shape) != 3 or image.shape[-1] not in (1, 3):
    raise utils.UserError(
      f'{config.source!r} has images of {np.dtype(image.np_dtype)} and shape {image.shape}; '
      'expected uint8 with 1 or 3 channels.'
    )
  if config.channels not in (1, 3):
    raise utils.UserError(f'data.channels is {config.channels}; give 1 (grey) or 3 (colour).')
  if 'train' not in builder.info.splits:
    raise utils.UserError(
      f"{config.source!r} has the splits {', '.join(builder.info.splits)}; expected a 'train'."
    )


def read(
  builder: Any, split: str, config: ml_collections.ConfigDict
) -> tuple[np.ndarray, np.ndarray]:
  """Return a whole split, in the order in which it is stored: uint8 [n, H, W, C], int32 [n]."""
  import tensorflow_datasets as tfds

  alike = None not in builder.info.features['image'].shape
  batches = builder.as_dataset(
    split,
    batch_size=256 if alike else 1,
    decoders=tfds.decode.PartialDecoding({'image': True, 'label': True}),
    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    shuffle_files=False,
  )
  num = builder.info.splits[split].num_examples
  images = np.empty((num, config.resolution, config.resolution, config.channels), np.uint8)
  labels = np.empty(num, np.int32)
  examples = (
    pair
    for batch in batches.as_numpy_iterator()
    for pair in zip(batch['image'], batch['label'], strict=True)
  )
  for i, (image, label) in enumerate(examples):
    images[i], labels[i] = data.fit(image, config.resolution, config.channels), label
  return images, labels
