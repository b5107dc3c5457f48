"""Generators of four other codes read, runs written as BigGAN-PyTorch has them.

The layout and the architecture are read off the arrays. Pickles are read by
models/pretrained/torch_pickle.py, which runs nothing of them.
"""

import argparse
import os
import shlex
import zipfile

import jax
import numpy as np
import safetensors.numpy

import bigjax
from bigjax.core import checkpoint, errors, files, trees
from bigjax.models.pretrained import torch_pickle
from bigjax.nn import spectral_norm
from bigjax.sampling import generator_file
from bigjax.sampling.importers import hugging_face, layout, sngan_chainer, tf_hub
from bigjax.sampling.importers.biggan_pytorch import (
  LAST_VAR,
  Architecture,
  Arrays,
  disc_architecture,
  disc_shapes,
  from_biggan_pytorch,
  gen_architecture,
  generator_in,
  leading_vectors,
  params_in,
  params_out,
  plain_tables,
  stats_out,
)
from bigjax.sampling.importers.layout import PublishedGenerator


def read_arrays(path: str) -> Arrays:
  """Return the arrays of a .pth, .npz or .safetensors file by name.

  Raises:
    UserError: it cannot be read.
  """
  if not os.path.isfile(path):
    raise errors.UserError(f'there is no file {path!r}.')
  try:
    if path.endswith('.npz'):
      with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    elif path.endswith('.safetensors'):
      arrays = safetensors.numpy.load_file(path)
    else:
      arrays = torch_pickle.read(path)
  except (EOFError, OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
    raise errors.UserError(f'{path!r} cannot be read ({error}).') from None
  files.check_weights(arrays, path)
  # torch.nn.DataParallel puts `module.` before every name; half-precision weights are widened.
  return {
    name.removeprefix('module.'): np.asarray(array, np.float32) for name, array in arrays.items()
  }


def read_class_names(path: str, num: int) -> list[str]:
  """Return the names in a text file, one per line, or numbers where no file is given.

  Raises:
    UserError: the file cannot be read or has another number of lines.
  """
  if not path:
    return [str(i) for i in range(num)]
  try:
    with open(path, encoding='utf-8') as file:
      names = [line.strip() for line in file if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(f'--class_names={path} cannot be read ({error}).') from None
  if len(names) != num:
    raise errors.UserError(
      f'--class_names={path} has {len(names)} lines; the weights have {num} classes.'
    )
  return names


def read_generator(path: str) -> PublishedGenerator:
  """Return a generator of any layout.

  Raises:
    UserError: the file cannot be read, or holds none.
  """
  arrays, notes = layout.network(read_arrays(path))
  match layout.layout(arrays):
    case layout.HUGGING_FACE:
      source = hugging_face.from_hugging_face(arrays, hugging_face.config_beside(path))
    case layout.TF_HUB:
      source = tf_hub.from_hub(arrays)
    case layout.CHAINER:
      source = sngan_chainer.from_chainer(arrays)
    case _:
      source = from_biggan_pytorch(arrays)
  return source._replace(notes=notes + source.notes)


def read_discriminator(path: str, beside: str) -> tuple[Arrays, Architecture, list[str]]:
  """Return (discriminator in BigGAN-PyTorch's layout, its fields, notes) to a generator `beside`.

  Raises:
    UserError: the file cannot be read, holds none, or one of another kind of network.
  """
  arrays, notes = layout.network(read_arrays(path))
  own = layout.layout(arrays)
  if (own == layout.CHAINER) != (beside == layout.CHAINER):
    raise errors.UserError(
      f'the discriminator is of {own}, the generator of {beside}; give two of the same run.'
    )
  if own == layout.CHAINER:
    arrays, _ = sngan_chainer.disc_in(arrays)
    return arrays, sngan_chainer.disc_architecture(arrays), notes
  return arrays, disc_architecture(arrays), notes


def bring_in(args: argparse.Namespace) -> None:
  """Write an exported generator, and where there is more than that the players, from files."""
  # The averaged generator, and its card.
  source = read_generator(args.gen)
  if args.bn_eps is not None:
    own = source.layout == layout.TORCH  # its last BatchNorm has an epsilon of its own
    source = source._replace(bn_eps=args.bn_eps, last_eps=source.last_eps if own else args.bn_eps)
  if source.layout == layout.CHAINER:
    architecture = sngan_chainer.gen_architecture(source.arrays, source.bn_eps)
  else:
    architecture = gen_architecture(source.arrays, source.bn_eps, source.channels)
  gen, params, shapes = generator_in(source, architecture)
  knots = gen.get('knots', ())
  own = '' if source.layout == layout.TORCH else f' ({source.layout})'
  card = {
    'format': generator_file.FORMAT,
    'bigjax': bigjax.__version__,
    'algorithm': 'sngan' if source.layout == layout.CHAINER else 'biggan',
    'architecture': architecture,
    'class_names': read_class_names(args.class_names, architecture['num_classes']),
    'class_numbers': generator_file.CLASS_NUMBERS,
    'license': 'that of the weights it was converted from',
    'converted_from': os.path.basename(args.gen) + own,
    'player': 'gen',
    'sampling': {
      'dialect': source.dialect,
      'standing_passes': 100,
      'standing_batch': 64,
      'truncations': [f'{k:g}' if np.isfinite(k) else 'none' for k in knots] or ['none'],
    },
    'step': 0,
  }
  # What training begins with, where it was given: raw weights and a discriminator.
  players = {}
  raw = source._replace(arrays=source.raw) if source.raw else source
  if args.raw_gen:
    raw = read_generator(args.raw_gen)
  if args.raw_gen or args.disc or source.raw:
    raw_params = plain_tables(*params_in(raw.arrays, shapes['params'], raw.names))[0]
    players['gen'], players['ema'] = raw_params, params
  if args.disc:
    arrays, fields, notes = read_discriminator(args.disc, source.layout)
    source.notes.extend(notes)
    for key in ('resolution', 'num_classes'):
      if fields[key] != architecture[key]:
        names = {'resolution': 'pixels a side', 'num_classes': 'classes'}
        raise errors.UserError(
          f'the discriminator is for {fields[key]} {names[key]}, the generator for '
          f'{architecture[key]}; give two of the same run.'
        )
    wanted = disc_shapes(architecture['network'], fields, architecture['channels'])
    players['disc'], _ = params_in(arrays, wanted)
  # Files.
  generator_file.save(args.out, gen, card)
  print(
    f'wrote {args.out} and {generator_file.card_path(args.out)} from {source.layout}: '
    f'{describe(architecture)}'
  )
  if players:
    path = generator_file.players_path(args.out)
    generator_file.save_tensors(path, players)
    print(f'wrote {path}: {", ".join(players)}, for --config.init_from={shlex.quote(args.out)}')
  for note in source.notes:
    print(f'{note}.')


def describe(architecture: Architecture) -> str:
  """Return an architecture in a few words."""
  return (
    f'{architecture["network"]}, {architecture["resolution"]} px, ch {architecture["ch"]}, '
    f'z {architecture["z_dim"]}, {architecture["num_classes"]} classes, attention at '
    f'{", ".join(map(str, architecture["attention"])) or "no place"}'
  )


def below(leaves: Arrays, prefix: str, mark: str = '') -> Arrays:
  """Return the leaves of which the path begins with `prefix`, by what follows it, and `mark`."""
  inner = {p.removeprefix(prefix): leaf for p, leaf in leaves.items() if p.startswith(prefix)}
  return (
    {path.split(mark, 1)[1]: leaf for path, leaf in inner.items() if mark in path}
    if mark
    else inner
  )


def take_out(args: argparse.Namespace) -> None:
  """Write the networks of a run's checkpoint in BigGAN-PyTorch's layout."""
  gen, card = generator_file.load_workdir(args.workdir, args.checkpoint or 'last')
  if card['algorithm'] != 'biggan':
    raise errors.UserError(
      f'{args.workdir!r} is a run of {card["algorithm"]!r}, which BigGAN-PyTorch has no layout for.'
    )
  wanted = lambda path: generator_file.is_weight(path) or '/sn_u/' in path or '/sn_v/' in path
  leaves = checkpoint.restore_part(args.workdir, card['step'], wanted)
  files = {
    name: params_out(
      trees.nest(below(leaves, f'players/{player}/params/')),
      spectral_norm.SpectralState(
        *(trees.nest(below(leaves, f'players/{player}/opt/', mark)) for mark in ('sn_u/', 'sn_v/'))
      ),
    )
    for player, name in (('gen', 'G'), ('disc', 'D'))
  }
  ema = trees.nest(below(leaves, 'ema/'))
  files['G_ema'] = params_out(ema, leading_vectors(ema))
  knots = np.asarray(gen.get('knots', ()))
  if np.isinf(knots).any():
    (at,) = np.flatnonzero(np.isinf(knots))
    stats = stats_out(jax.tree.map(lambda s: s[at], gen['stats']))
    # Its last BatchNorm adds an epsilon of its own.
    shift = np.float32(card['architecture']['bn_eps'] - layout.LAST_EPS)
    files['G_ema'] |= stats | {LAST_VAR: stats[LAST_VAR] + shift}
  os.makedirs(args.out, exist_ok=True)
  for name, arrays in files.items():
    np.savez(os.path.join(args.out, f'{name}.npz'), **arrays)
  print(
    f'wrote {", ".join(f"{args.out}/{name}.npz" for name in files)}: step {card["step"]}, '
    f'{describe(card["architecture"])}; BatchNorm epsilon is {card["architecture"]["bn_eps"]:g}'
  )
  if card['architecture'].get('rgb_filters'):
    print(
      f'the last convolution has {card["architecture"]["rgb_filters"]} filters, of which an image '
      "takes the first three; BigGAN-PyTorch's own has three, and must be told."
    )
