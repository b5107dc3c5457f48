"""State dicts of OpenAI's diffusion codes, as their constructors name and shape them.

Written from the constructors of guided-diffusion's and improved-diffusion's UNetModel, and of the
former's EncoderUNetModel, with their arguments and nothing of ours.
"""

import numpy as np


def state_shapes(
  model_channels,
  num_res_blocks,
  channel_mult,
  attention_ds,
  num_classes=None,
  in_channels=3,
  out_channels=6,
  scale_shift=True,
  resblock_updown=False,
):
  """{name: shape}; `attention_ds` are factors of downsampling."""
  found, wide = {}, 4 * model_channels

  def layer(name, *shape):
    found[f'{name}.weight'], found[f'{name}.bias'] = shape, shape[:1]

  def res(name, ins, outs):
    layer(f'{name}.in_layers.0', ins)
    layer(f'{name}.in_layers.2', outs, ins, 3, 3)
    layer(f'{name}.emb_layers.1', 2 * outs if scale_shift else outs, wide)
    layer(f'{name}.out_layers.0', outs)
    layer(f'{name}.out_layers.3', outs, outs, 3, 3)
    if ins != outs:
      layer(f'{name}.skip_connection', outs, ins, 1, 1)

  def attention(name, ch):
    layer(f'{name}.norm', ch)
    layer(f'{name}.qkv', 3 * ch, ch, 1)
    layer(f'{name}.proj_out', ch, ch, 1)

  def resampled(name, ch, what):
    if resblock_updown:
      res(name, ch, ch)
    else:
      layer(f'{name}.{what}', ch, ch, 3, 3)

  layer('time_embed.0', wide, model_channels)
  layer('time_embed.2', wide, wide)
  if num_classes:
    found['label_emb.weight'] = (num_classes, wide)
  ch = first = int(channel_mult[0] * model_channels)
  layer('input_blocks.0.0', ch, in_channels, 3, 3)
  kept, ds = [ch], 1
  for level, mult in enumerate(channel_mult):
    for _ in range(num_res_blocks):
      at, outs = f'input_blocks.{len(kept)}', int(mult * model_channels)
      res(f'{at}.0', ch, outs)
      ch = outs
      if ds in attention_ds:
        attention(f'{at}.1', ch)
      kept.append(ch)
    if level != len(channel_mult) - 1:
      resampled(f'input_blocks.{len(kept)}.0', ch, 'op')
      kept.append(ch)
      ds *= 2
  res('middle_block.0', ch, ch)
  attention('middle_block.1', ch)
  res('middle_block.2', ch, ch)
  index = 0
  for level, mult in list(enumerate(channel_mult))[::-1]:
    for i in range(num_res_blocks + 1):
      at, outs = f'output_blocks.{index}', int(mult * model_channels)
      res(f'{at}.0', ch + kept.pop(), outs)
      ch, place = outs, 1
      if ds in attention_ds:
        attention(f'{at}.1', ch)
        place = 2
      if level and i == num_res_blocks:
        resampled(f'{at}.{place}', ch, 'conv')
        ds //= 2
      index += 1
  layer('out.0', ch)
  layer('out.2', out_channels, first, 3, 3)
  return found


def classifier_shapes(
  image_size,
  model_channels,
  num_res_blocks,
  channel_mult,
  attention_ds,
  out_channels=1000,
  in_channels=3,
  scale_shift=True,
  resblock_updown=True,
):
  """{name: shape} of a classifier with attention's pool."""
  found = state_shapes(
    model_channels, num_res_blocks, channel_mult, attention_ds, in_channels=in_channels,
    scale_shift=scale_shift, resblock_updown=resblock_updown,
  )  # fmt: skip
  half = {name: at for name, at in found.items() if not name.startswith(('output_blocks.', 'out.'))}
  ch, side = int(channel_mult[-1] * model_channels), image_size >> (len(channel_mult) - 1)
  half['out.0.weight'] = half['out.0.bias'] = (ch,)
  half['out.2.positional_embedding'] = (ch, side**2 + 1)
  for name, outs in (('qkv_proj', 3 * ch), ('c_proj', out_channels)):
    half[f'out.2.{name}.weight'], half[f'out.2.{name}.bias'] = (outs, ch, 1), (outs,)
  return half


def drawn(shapes, seed=0):
  """Arrays of these shapes that keep maps about as large as they come."""
  rng, arrays = np.random.RandomState(seed), {}
  for name, shape in shapes.items():
    w = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 25)
    norm = len(shape) == 1 and name.endswith('weight')
    arrays[name] = (w + norm).astype(np.float32)
  return arrays


def without_numbers(shapes):
  """Arrays of these shapes that take no memory."""
  return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
