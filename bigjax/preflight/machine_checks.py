"""What can be known of the machine, the disk and the workdir before a run: doctor's other checks.

Each function returns findings: (level, sentence), the level 'ok', 'warning' or 'fail'.
"""

import hashlib
import importlib.metadata
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from bigjax import data
from bigjax.algorithms.base import configs
from bigjax.core import buckets, checkpoint, errors, files
from bigjax.core.progress import size
from bigjax.data import Finding
from bigjax.evaluation import during_training
from bigjax.evaluation.metrics import registry
from bigjax.evaluation.reference import open_network
from bigjax.models.pretrained import download
from bigjax.models.pretrained.registry import NETWORKS
from bigjax.preflight import plan_search, step_cost, tpu_slices
from bigjax.training import history as histories
from bigjax.training import holder
from bigjax.training.program import Program
from bigjax.training.workdir import given_weights

PACKAGES = ('bigjax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow')
LOOKED_AT = 2000  # images, for duplicates
MOST_BYTES = 2**30  # of these
MOST_APART = 1.0  # seconds between the clocks of two hosts
ROOM = 1.2  # times the bytes that checkpoints will take


def versions() -> list[Finding]:
  """Say what is installed, and whether its parts belong together."""
  found = {}
  for name in (*PACKAGES, 'jaxlib', 'libtpu'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  python = '.'.join(map(str, sys.version_info[:3]))
  words = ', '.join([f'Python {python}', *(f'{k} {found[k]}' for k in PACKAGES if k in found)])
  if found.get('jaxlib') != found['jax']:
    return [('warning', f'{words}; but jaxlib {found.get("jaxlib")}: install one version of both')]
  return [('ok', words)]


def devices() -> list[Finding]:
  """Say what there is to compute on, and whether TensorFlow keeps off it."""
  kinds = {device.device_kind for device in jax.devices()}
  where = f' on {jax.process_count()} hosts' if jax.process_count() > 1 else ''
  found = [('ok', f'{len(jax.devices())} x {", ".join(sorted(kinds))}{where}')]
  if jax.default_backend() == 'cpu' and any(
    os.path.exists(f'/dev/{d}') for d in ('nvidia0', 'accel0')
  ):
    found.append(
      (
        'warning',
        'this machine has an accelerator, but JAX sees none: install '
        "'bigjax[gpu]' or 'bigjax[tpu]', or unset JAX_PLATFORMS",
      )
    )
  tf = data.tensorflow()
  held = [d.name for kind in ('GPU', 'TPU') for d in tf.config.get_visible_devices(kind)]
  if held:
    found.append(('fail', f'TensorFlow holds {", ".join(held)}, which JAX needs'))
  return found


def clocks() -> list[Finding]:
  """Say how far the clocks of several hosts are apart."""
  if jax.process_count() == 1:
    return []
  times = multihost_utils.process_allgather(np.float64(time.time() % 1e6))
  apart = float(times.max() - times.min())
  if apart > MOST_APART:
    return [('warning', f'clocks of the hosts are {apart:.1f} s apart: logs will not line up')]
  return [('ok', f'clocks of the hosts are within {apart:.2f} s')]


def state_bytes(program: Program) -> int:
  """Return the bytes of a checkpoint: the state, and the generator once more."""
  shapes = program.shapes()
  num_bytes = lambda tree: sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(checkpoint.to_plain, tree))
  )
  return num_bytes(shapes) + num_bytes(shapes['ema'])


def disk(config: ml_collections.ConfigDict, program: Program, workdir: str) -> list[Finding]:
  """Say whether the checkpoints that a run keeps fit the free space of its workdir."""
  if buckets.is_url(workdir):
    return bucket(workdir)
  folder = os.path.abspath(workdir)
  while not os.path.isdir(folder):
    folder = os.path.dirname(folder)
  if not os.access(folder, os.W_OK):
    return [('fail', f'{folder!r} cannot be written: give another --workdir')]
  run, one = config.run, state_bytes(program)
  periodic = run.steps // run.keep_every if run.keep_every else 0
  num = run.keep + 1 + periodic + bool(run.best)  # one more is written before one goes
  free = shutil.disk_usage(folder).free
  words = f'{num} checkpoints of {size(one)} at most; {size(free)} are free in {folder!r}'
  if ROOM * num * one > free:
    return [('fail', f'{words}: make room, or lower run.keep, or raise run.keep_every')]
  return [('ok', words)]


def bucket(url: str) -> list[Finding]:
  """Say whether a bucket can be written."""
  try:
    buckets.try_to_write(url)
  except errors.UserError as error:
    return [('fail', str(error))]
  return [('ok', f'{url} can be written')]


def available_memory(proc: str = '/proc', groups: str = '/sys/fs/cgroup') -> int | None:
  """Bytes of memory that this process can still have, None where that cannot be told.

  What the kernel keeps of files counts, for it gives that up; limits of containers hold.
  """
  meminfo = first_number(os.path.join(proc, 'meminfo'), r'MemAvailable:\s+(\d+) kB')
  if meminfo is None:
    try:
      return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_AVPHYS_PAGES')
    except (OSError, ValueError):  # not everywhere
      return None
  return min([meminfo * 1024, *rooms(proc, groups)])


def rooms(proc: str, groups: str) -> Iterator[int]:
  """Yields the bytes that are left within each memory limit of control groups, v1 and v2."""
  try:
    with open(os.path.join(proc, 'self', 'cgroup'), encoding='utf-8') as file:
      mine = [line.strip().split(':', 2) for line in file if line.count(':') > 1]
  except OSError:
    return
  for _, kind, path in mine:
    if kind and 'memory' not in kind.split(','):
      continue
    root = os.path.join(groups, 'memory') if kind else groups
    limit, used = ('limit_in_bytes', 'usage_in_bytes') if kind else ('max', 'current')
    parts = [part for part in path.split('/') if part not in ('', '..')]
    for depth in range(len(parts) + 1):  # limits of all groups above hold, too
      folder = os.path.join(root, *parts[:depth])
      most = first_number(os.path.join(folder, f'memory.{limit}'), r'(\d+)')  # or 'max'
      now = first_number(os.path.join(folder, f'memory.{used}'), r'(\d+)')
      if most is not None and now is not None:
        # Of v1, inactive_file leaves out the groups below.
        kept = rf'(?m)^{"total_" if kind else ""}inactive_file (\d+)'
        freed = first_number(os.path.join(folder, 'memory.stat'), kept) or 0
        yield max(most - now + freed, 0)


def first_number(path: str, pattern: str) -> int | None:
  """The number that a pattern finds in a file; None without either."""
  try:
    with open(path, encoding='utf-8') as file:
      found = re.search(pattern, file.read())
  except OSError:
    return None
  return int(found[1]) if found else None


def memory(source: data.Source, program: Program) -> list[Finding]:
  """Say whether the images that are held in memory, and the next batches, fit this host."""
  available = available_memory()
  if available is None:
    return []
  nbytes = lambda stage: sum(math.prod(x.shape) * x.dtype.itemsize for x in stage.shapes().values())
  largest = max((stage for _, stage in program.stages), key=nbytes)
  image = math.prod((source.size, source.size, largest.image[-1], *largest.image[:-3]))
  held = image * (source.num_train + source.num_held_out) if source.at_once else 0
  sized = [data.sizes(stage.inputs) for _, stage in program.stages]
  held += source.small.num_bytes if source.small and any(map(source.small.have, sized)) else 0
  steps = 6 * nbytes(largest) // jax.process_count()
  words = f'{size(held + steps)} of images in host memory; {size(available)} are available'
  if held + steps > available:
    return [('fail', f'{words}: use a smaller batch, or a machine with more memory')]
  return [('ok', words)]


def duplicates(source: data.Source) -> list[Finding]:
  """Say how many images are the same to the last pixel as another, and whether of another class."""
  (one, *_), _ = source.train(1)
  images, labels = source.train(max(1, min(LOOKED_AT, MOST_BYTES // one.nbytes)))
  labels, seen, copies, astray = data.one_label(labels), {}, 0, 0
  for image, label in zip(images, labels.tolist(), strict=True):
    own = seen.setdefault(hashlib.blake2b(np.ascontiguousarray(image)).digest(), [])
    copies += bool(own)
    astray += bool(own) and label not in own
    own.append(label)
  where = 'all' if len(images) == source.num_train else f'the {len(images):,} looked at'
  words = f'{copies:,} of {where} training images are copies of another'
  if not copies:
    return [('ok', words)]
  words += f', {astray:,} of them in another class' if astray else ''
  return [('warning', f'{words}: remove them')]


def weights(config: ml_collections.ConfigDict) -> list[Finding]:
  """Say whether the network that a run's scores are computed in is at hand."""
  scores = config.scores
  if not scores.every:
    return []
  metrics = [name for name in during_training.metrics_of(config) if name in registry.METRICS]
  if not registry.need_network(metrics):
    return [('ok', f'scores: {scores.metrics} of {scores.num:,} samples, without a network')]
  if scores.features == 'classifier':
    return [('ok', 'scores: in a classifier that is trained on the images before the first step')]
  try:
    published = errors.pick(scores.features, NETWORKS, 'scores.features').weights
    if published is None:
      return [('ok', f'scores: {scores.metrics} of {scores.num:,} samples in drawn weights')]
    path = scores.weights or download.find_here(published)
    if path is None and published.url is None:
      path = download.find(scores.features, published)  # refuses, and says what to do
    if path is None:
      return [
        (
          'warning',
          f'scores: the weights of {scores.features!r} are not here and will be fetched when the '
          'run begins; bigjax evaluate fetches them now',
        )
      ]
    open_network(scores.features, path, None)
  except errors.UserError as error:
    return [('fail', f'scores: {error}')]
  return [('ok', f'scores: {scores.metrics} of {scores.num:,} samples in {path}')]


def begins_with(
  config: ml_collections.ConfigDict, program: Program, given: str, class_names: Sequence[str]
) -> list[Finding]:
  """Say whether a run in a workdir could begin with the weights of `init_from`."""
  if not config.init_from:
    return []
  try:
    given_weights(program, given, config.init_from, class_names)
  except errors.UserError as error:
    return [('fail', str(error))]
  return [('ok', f'begins with the weights of {config.init_from}')]


def workdir(
  given: str, config: ml_collections.ConfigDict, source: data.Source | None
) -> list[Finding]:
  """Say whether a run could go on in a workdir; `source` is None where the data is absent."""
  try:
    if not buckets.is_url(given) and holder.is_locked(given):
      return [('warning', f'{given!r} is held by a run ({holder.holder_of(given)})')]
    given = buckets.local(given)
    history = histories.read(given)
    if history is None:
      return [('ok', f'{given!r} holds no run: one would begin')]
    base, _ = histories.match_run_config(given, config, history, change=False)
    about = files.read_json(os.path.join(given, 'data.json'))
    if source and about['digest'] != source.digest:
      return [('fail', f'{given!r} holds a run on other images')]
    steps = checkpoint.list_steps(given)
    if not steps:
      return [('ok', f'{given!r} holds a run without checkpoints: it would begin anew')]
    meta = checkpoint.read_meta(given, steps[-1])
    if meta['config_hash'] != configs.config_hash(base):
      return [('fail', f'checkpoint {steps[-1]} of {given!r} is of another config')]
    checkpoint.restore_generator(given)
  except errors.UserError as error:
    return [('fail', str(error))]
  return [('ok', f'{given!r} holds this run: it would go on at step {steps[-1]:,}')]


def hbm(config: ml_collections.ConfigDict, topology: str) -> list[Finding]:
  """Say whether a step fits the memory of a TPU slice; takes minutes."""
  try:
    found = plan_search.watched()(config, tpu_slices.find(topology))
  except errors.UserError as error:
    return [('fail', str(error))]
  words = f'{topology}: {step_cost.memory_in_words(found)}, by the TPU compiler'
  if not found['fits']:
    return [('fail', f'{words}: bigjax plan --fit {topology} proposes settings that fit')]
  return [('ok', f'{words}; {found["step_seconds"]:.3f} s per step by its estimate')]
