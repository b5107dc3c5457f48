"""`bigjax plan`: what a run needs on a TPU slice that is not there, by the TPU's own compiler.

The very step that `bigjax train` runs is compiled ahead of time; its program is walked, and every
instruction is given the compiler's estimate of cycles, or what its FLOPs or bytes need at the
least. Nothing runs: these are estimates, and no host, data or waiting is in them.
"""

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from bigjax.algorithms.base import configs
from bigjax.core import errors, files, ranges
from bigjax.preflight import tpu_slices

USAGE = """usage: bigjax plan [--config NAME[:variant] | FILE.py[:variant]]
                   --topology v3-128 [--topology v5p-128 ...] [--samples 50000]
                   [--json FILE.json] [--png FILE.png] [--config.group.key=value ...]
       bigjax plan --config ... --scale v3-8,v3-32,v3-128 [--per_device 16] [--json ...] [--png ...]
       bigjax plan --config ... --fit v4-8
       bigjax plan --config ... --fit gpu [--memory 24GiB]      (on a machine with a GPU)

Compiles the training step for TPU slices that need not exist, on this machine: memory per device,
FLOPs, estimated time of a step, of the run, and where it goes; with --samples, also of so many
samples. --scale compares slices at a fixed batch per device and at the configured batch; --fit
searches run.microbatches and run.remat until the configured batch fits. Each compilation takes
minutes. Needs: pip install 'bigjax[plan]'. --fit gpu searches by the compiler of GPUs that are
here, for their memory or another one, and says of them memory alone.
"""
OPTIONS = {
  'topology': 'slices, such as v3-128; separated by commas',
  'scale': 'slices to compare, separated by commas',
  'per_device': 'examples per device for --scale',
  'fit': 'one slice, or gpu',
  'memory': 'with --fit gpu: that each is to have, such as 24GiB (default: its own)',
  'samples': 'with --topology: how many samples to plan, too',
  'json': 'where to write everything as JSON',
  'png': 'where to draw it (default: plan.png)',
}
CAVEAT = (
  "These are the compiler's estimates, not measurements: no host, no input pipeline, no waiting "
  'for other devices is in them.'
)
GPU = 'gpu'  # in place of a slice
OF_GPUS = (
  'This is what the compiler says that the step alone needs, not a measurement; JAX takes three '
  'quarters of a GPU unless XLA_CLIENT_MEM_FRACTION says otherwise.'
)


def main(argv: list[str]) -> int:
  """`bigjax plan`; returns the exit status: 1 where nothing fits."""
  if '--help' in argv or '-h' in argv:
    slices = textwrap.wrap('slices: ' + ', '.join(tpu_slices.names()), 100, break_on_hyphens=False)
    print('\n'.join([USAGE, *slices]))
    return 0
  return run(*parse(argv))


def parse(argv: list[str]) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """(Config, options) of the command line.

  Raises:
    UserError: it makes no sense.
  """
  config, _, given = configs.parse('plan', joined(argv, 'topology'), OPTIONS, {}, check)
  return config, given


def joined(argv: Sequence[str], option: str) -> list[str]:
  """Return the words of a command line with a repeated option given once, with commas."""
  values, rest, words = [], [], iter(argv)
  for word in words:
    if word == f'--{option}':
      values.append(next(words, ''))
    elif word.startswith(f'--{option}='):
      values.append(word.partition('=')[2])
    else:
      rest.append(word)
  return rest + ([f'--{option}={",".join(values)}'] if values else [])


def mode_of(given: Mapping[str, Any]) -> str:
  """Which of its three questions plan is asked.

  Raises:
    UserError: none, or several.
  """
  modes = [mode for mode in ('topology', 'scale', 'fit') if given[mode]]
  if len(modes) != 1:
    raise errors.UserError(
      'give one of --topology, --scale and --fit, for example --topology v3-128.'
    )
  return modes[0]


def check(given: Mapping[str, Any]) -> None:
  """Refuse options that mean nothing together, and slices that there are not.

  Raises:
    UserError: names them.
  """
  mode = mode_of(given)
  if given['memory'] is not None:
    if given['fit'] != GPU:
      raise errors.UserError('--memory goes with --fit=gpu; what a TPU has is known: leave it out.')
    ranges.read_bytes('--memory=', given['memory'])
  if given['fit'] != GPU and not slices_of(given[mode]):
    raise errors.UserError(f'--{mode} names no slice; give one such as v3-128.')
  if given['per_device'] is not None:
    ranges.BATCH.read('--per_device=', given['per_device'])
  if given['samples'] is not None:
    ranges.IMAGES.read('--samples=', given['samples'])
    if mode != 'topology':
      raise errors.UserError(f'--samples goes with --topology, not with --{mode}; leave it out.')
  if given['png']:
    files.ending('--png', given['png'], ('.png', '.pdf', '.svg'))
  if given['fit'] != GPU:
    errors.need('compiling for TPUs', 'plan', 'libtpu', 'matplotlib')


def slices_of(text: str) -> list[tpu_slices.Slice]:
  """The TPU slices of names separated by commas."""
  return [tpu_slices.find(name) for name in text.split(',') if name.strip()]


def search(
  config: ml_collections.ConfigDict,
  of: Any,
  run: Any,
  say: Callable[[str], None],
  larger: str = 'slice',
) -> list[dict[str, Any]]:
  """Print the settings that fit a slice, or GPUs; return the plan, or none."""
  from bigjax.preflight.plan_search import batch_of, fitted
  from bigjax.preflight.plan_tables import overview

  best = fitted(config, of, run, say)
  if best is None:
    print(
      f'nothing fits a batch of {batch_of(config)} on {of.name}: take a larger {larger}, or a '
      'smaller batch.'
    )
    return []
  print(overview([best]))
  ways = [key for key in ('microbatches', 'remat') if key in config.run]
  print('\n' + ' '.join(f'--config.run.{key}={best[key]}' for key in ways))
  return [best]


def fit_gpus(config: ml_collections.ConfigDict, given: Mapping[str, Any]) -> int:
  """`--fit gpu`; returns the exit status."""
  from bigjax.preflight import local_gpus
  from bigjax.preflight.plan_search import watched

  memory, say = given['memory'], lambda text: print(text, file=sys.stderr, flush=True)
  of = local_gpus.find(memory and ranges.read_bytes('--memory=', memory))
  say(OF_GPUS)
  shown = search(config, of, watched(local_gpus.plan), say, 'GPU')
  if given['json']:
    files.write_json(given['json'], {'caveat': OF_GPUS, 'mfu': '', 'plans': shown, 'samples': []})
  return errors.DONE if shown else errors.FAILED


def run(config: ml_collections.ConfigDict, given: Mapping[str, Any]) -> int:
  """Compile and print what the options ask for; returns the exit status."""
  import jax

  from bigjax import data
  from bigjax.preflight import plots, sampling_cost
  from bigjax.preflight.plan_search import compared, scaled, watched
  from bigjax.preflight.plan_tables import FORMULA, bars, details, on_the_wire, overview

  mode = mode_of(given)
  if config.data.get('num_classes') is None:
    config.data.num_classes = len(data.load(config.data).class_names)
  configs.check(config)
  if given['fit'] == GPU:
    return fit_gpus(config, given)
  slices = slices_of(given[mode])
  jax.config.update('jax_platforms', 'cpu')
  samples = []
  run, say = watched(), lambda text: print(text, file=sys.stderr, flush=True)
  say(CAVEAT)
  # One of three questions: how it scales, what fits, or what these slices take.
  if mode == 'scale':
    per_device = int(given['per_device'] or 16)
    found = scaled(config, slices, per_device, run, say)
    for kind, plans in found.items():
      fixed = f'{per_device} examples per device' if kind == 'weak' else 'fixed batch'
      print(f'\n{kind} scaling, {fixed}\n\n{overview(plans)}\n\n{on_the_wire(plans)}')
    shown = found['weak'] + found['strong']
  elif mode == 'fit':
    shown = search(config, slices[0], run, say)
    if not shown:
      return errors.FAILED
  else:
    shown = compared(config, slices, run, say)
    print(overview(shown))
    smallest = min((p for p in shown if p['fits']), key=lambda p: p['chips'], default=None)
    name = smallest['slice'] if smallest else 'none of these'
    print(f'\nsmallest of these that it fits: {name}')
    for found in shown:
      print(details(found))
    for of in slices if given['samples'] else ():
      samples.append(sampling_cost.plan(config, of, int(given['samples'])))
      print(f'\n{sampling_cost.in_words(samples[-1])}')
  # Files.
  print(f'\n{CAVEAT}')
  if given['json']:
    files.write_json(
      given['json'], {'caveat': CAVEAT, 'mfu': FORMULA, 'plans': shown, 'samples': samples}
    )
  drawn = [found for found in shown if 'parts' in found]
  if drawn:
    plots.bars(given['png'] or 'plan.png', bars(drawn), 'estimated ms per step', CAVEAT)
  return errors.DONE if any(found['fits'] for found in shown) else errors.FAILED
