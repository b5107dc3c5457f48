"""Generators of six other codes read, runs written as BigGAN-PyTorch or StyleGAN2-ADA has them.

The layout and the architecture are read off the arrays. Pickles are read by
models/pretrained/torch_pickle.py and nvidia_pickle.py, which run nothing of them.
"""

import argparse
import os
import re
import shlex
import zipfile
from typing import Any

import jax
import numpy as np
import safetensors.numpy

import bigjax
from bigjax.core import checkpoint, errors, files, trees
from bigjax.models.pretrained import torch_pickle
from bigjax.nn import spectral_norm
from bigjax.sampling import generator_file
from bigjax.sampling.importers import (
  hugging_face,
  layout,
  nvidia_pickle,
  openai_diffusion,
  sngan_chainer,
  stylegan2_ada,
  tf_hub,
)
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

Networks = dict[str, Arrays]  # by the name of their file


def read_arrays(path: str) -> Arrays:
  """Return the arrays of a .pth, .npz or .safetensors file by name.

  Raises:
    UserError: it cannot be read.
  """
  if not os.path.isfile(path):
    raise errors.UserError(f'there is no file {path!r}.')
  try:
    if path.endswith('.npz'):
      arrays = files.read_npz(path)
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
  return published(path, *layout.network(read_arrays(path)))


def published(path: str, arrays: Arrays, notes: list[str]) -> PublishedGenerator:
  """The generator that a file's arrays are; UserError: there is none."""
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


def card_of(
  args: argparse.Namespace,
  algorithm: str,
  architecture: dict[str, Any],
  own: str,
  sampling: dict[str, Any],
  player: str = 'gen',
  num_classes: int | None = None,
) -> dict[str, Any]:
  """The card of a converted generator.

  Args:
    args: of the command.
    algorithm, architecture, sampling: as a run's card has them.
    own: names its layout.
    player: that training would begin with.
    num_classes: by default the architecture's.
  """
  num_classes = num_classes or architecture['num_classes']
  return {
    'format': generator_file.FORMAT,
    'bigjax': bigjax.__version__,
    'algorithm': algorithm,
    'architecture': architecture,
    'class_names': read_class_names(args.class_names, num_classes),
    'class_numbers': generator_file.CLASS_NUMBERS,
    'license': 'that of the weights it was converted from',
    'converted_from': os.path.basename(args.gen) + own,
    'player': player,
    'sampling': sampling,
    'step': 0,
  }


def write(
  args: argparse.Namespace,
  gen: Any,
  card: dict[str, Any],
  players: dict[str, Any],
  said: str,
  notes: list[str],
) -> None:
  """Write the generator with its card, and the players where there are any; say so."""
  generator_file.save(args.out, gen, card)
  print(f'wrote {args.out} and {generator_file.card_path(args.out)} from {said}')
  if players:
    path = generator_file.players_path(args.out)
    generator_file.save_tensors(path, players)
    print(f'wrote {path}: {", ".join(players)}, for --config.init_from={shlex.quote(args.out)}')
  for note in notes:
    print(f'{note}.')


def read_pickled(path: str) -> dict[str, nvidia_pickle.Network]:
  """The networks of a .pkl; UserError: it cannot be read, or has arrays that are no weights."""
  networks = nvidia_pickle.read(path)
  for name, network in networks.items():
    files.check_weights(network.arrays, f'{path} ({name})')
  return networks


def bring_in_styles(args: argparse.Namespace, networks: dict[str, nvidia_pickle.Network]) -> None:
  """The same as `bring_in`, of StyleGAN2-ADA's networks."""
  if args.bn_eps is not None:
    raise errors.UserError('--bn_eps has no use: StyleGAN2 has no BatchNorm; leave it out.')
  gen, architecture, players, notes = stylegan2_ada.bring_in(networks)
  card = card_of(args, 'stylegan2', architecture, f' ({layout.NVIDIA})', {})
  said = f'{layout.NVIDIA}: {stylegan2_ada.describe(architecture)}'
  write(args, gen, card, players, said, notes)


def bring_in_diffusion(args: argparse.Namespace, arrays: Arrays) -> None:
  """The same as `bring_in`, of OpenAI's diffusion codes."""
  for name, given in (('bn_eps', args.bn_eps), ('disc', args.disc), ('raw_gen', args.raw_gen)):
    if given not in (None, ''):
      raise errors.UserError(
        f'--{name} has no use: a file of {layout.OPENAI} is one network, without BatchNorm; leave '
        'it out.'
      )
  network = openai_diffusion.bring_in(arrays, args.config or '')
  card = card_of(
    args, network.algorithm, network.architecture, f' ({layout.OPENAI})', network.sampling,
    network.player, network.num_classes,
  )  # fmt: skip
  said = f'{layout.OPENAI}: {openai_diffusion.describe(network)}'
  write(args, network.gen, card, {}, said, network.notes)


def bring_in(args: argparse.Namespace) -> None:
  """Write an exported generator, and where there is more than that the players, from files.

  Raises:
    UserError: they cannot be read, or do not fit together.
  """
  if args.gen.endswith('.pkl'):
    if args.disc or args.raw_gen or args.config:
      raise errors.UserError(
        'a .pkl has all of its networks; leave --disc, --raw_gen and --config out.'
      )
    return bring_in_styles(args, read_pickled(args.gen))
  arrays, notes = layout.network(read_arrays(args.gen))
  if layout.layout(arrays) == layout.OPENAI:
    return bring_in_diffusion(args, arrays)
  if args.config:
    raise errors.UserError(
      f'--config={args.config} has no use: it is of the weights of a diffusion, and these are of '
      f'{layout.layout(arrays)}, which say all themselves; leave it out.'
    )
  if layout.layout(arrays) == layout.NVIDIA:
    others = {'G': args.raw_gen, 'D': args.disc}
    found = {'G_ema': arrays, **{name: read_arrays(at) for name, at in others.items() if at}}
    return bring_in_styles(args, {k: nvidia_pickle.Network(of, []) for k, of in found.items()})
  # The averaged generator, and its card.
  source = published(args.gen, arrays, notes)
  if args.bn_eps is not None:
    own = source.layout == layout.TORCH  # its last BatchNorm has an epsilon of its own
    source = source._replace(bn_eps=args.bn_eps, last_eps=source.last_eps if own else args.bn_eps)
  if source.layout == layout.CHAINER:
    architecture = sngan_chainer.gen_architecture(source.arrays, source.bn_eps)
  else:
    architecture = gen_architecture(source.arrays, source.bn_eps, source.channels)
  gen, params, shapes = generator_in(source, architecture)
  knots = gen.get('knots', ())
  whose = '' if source.layout == layout.TORCH else f' ({source.layout})'
  sampling = {
    'dialect': source.dialect,
    'standing_passes': 100,
    'standing_batch': 64,
    'truncations': [f'{k:g}' if np.isfinite(k) else 'none' for k in knots] or ['none'],
  }
  algorithm = 'sngan' if source.layout == layout.CHAINER else 'biggan'
  card = card_of(args, algorithm, architecture, whose, sampling)
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
  write(args, gen, card, players, f'{source.layout}: {describe(architecture)}', source.notes)


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
  """Write the networks of a run's checkpoint in BigGAN-PyTorch's or StyleGAN2-ADA's layout."""
  gen, card = generator_file.load_workdir(args.workdir, args.checkpoint or 'last')
  layouts = {'biggan': _as_biggan_pytorch, 'stylegan2': _as_stylegan2_ada}
  if card['algorithm'] not in layouts:
    raise errors.UserError(
      f'{args.workdir!r} is a run of {card["algorithm"]!r}, which no layout of another code is '
      f'known for; give one of {" or ".join(layouts)}.'
    )
  vectors = re.compile('/sn_[uv]/|^aux/w_avg$')
  wanted = lambda path: generator_file.is_weight(path) or bool(vectors.search(path))
  leaves = checkpoint.restore_part(args.workdir, card['step'], wanted)
  networks, said = layouts[card['algorithm']](leaves, gen, card)
  os.makedirs(args.out, exist_ok=True)
  for name, arrays in networks.items():
    np.savez(os.path.join(args.out, f'{name}.npz'), **dict[str, Any](arrays))
  print(
    f'wrote {", ".join(f"{args.out}/{name}.npz" for name in networks)}: step {card["step"]}, {said}'
  )


def _as_stylegan2_ada(leaves: Arrays, gen: Any, card: dict[str, Any]) -> tuple[Networks, str]:
  del gen
  architecture, w_avg = card['architecture'], leaves['aux/w_avg']
  disc = trees.nest(below(leaves, 'players/disc/params/'))
  networks = {'D': stylegan2_ada.discriminator_out(disc)}
  for name, prefix in (('G', 'players/gen/params/'), ('G_ema', 'ema/')):
    params = trees.nest(below(leaves, prefix))
    networks[name] = stylegan2_ada.generator_out(params, w_avg, architecture['resolution'])
  return networks, stylegan2_ada.describe(architecture)


def _as_biggan_pytorch(leaves: Arrays, gen: Any, card: dict[str, Any]) -> tuple[Networks, str]:
  networks = {
    name: params_out(
      trees.nest(below(leaves, f'players/{player}/params/')),
      spectral_norm.SpectralState(
        *(trees.nest(below(leaves, f'players/{player}/opt/', mark)) for mark in ('sn_u/', 'sn_v/'))
      ),
    )
    for player, name in (('gen', 'G'), ('disc', 'D'))
  }
  ema = trees.nest(below(leaves, 'ema/'))
  networks['G_ema'] = params_out(ema, leading_vectors(ema))
  knots = np.asarray(gen.get('knots', ()))
  if np.isinf(knots).any():
    (at,) = np.flatnonzero(np.isinf(knots))
    stats = stats_out(jax.tree.map(lambda s: s[at], gen['stats']))
    # Its last BatchNorm adds an epsilon of its own.
    shift = np.float32(card['architecture']['bn_eps'] - layout.LAST_EPS)
    networks['G_ema'] |= stats | {LAST_VAR: stats[LAST_VAR] + shift}
  said = (
    f'{describe(card["architecture"])}; BatchNorm epsilon is {card["architecture"]["bn_eps"]:g}'
  )
  if card['architecture'].get('rgb_filters'):
    said += (
      '\nthe last convolution has '
      f'{card["architecture"]["rgb_filters"]} filters, of which an image takes the first three; '
      "BigGAN-PyTorch's own has three, and must be told."
    )
  return networks, said
