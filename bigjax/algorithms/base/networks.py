"""What a residual GAN asks of the module with its networks, and of the config that sizes them."""

from typing import Any, Protocol

import ml_collections

from bigjax.core import errors

LEAST_ATTENTION = 8  # channels: an eighth of them are keys


class Networks(Protocol):
  """A file of models/ with `Generator` and `Discriminator`, linen modules, and their tables.

  Attributes:
    GEN_WIDTHS: {resolution: multiples of ch}, of the resolutions there are networks for.
    OPTIONS: fields of the generator that only this file's has, each a config key of `model`.
  """

  Generator: Any
  Discriminator: Any
  GEN_WIDTHS: dict[int, tuple[int, ...]]
  OPTIONS: tuple[str, ...]

  def num_disc_widths(self, resolution: int) -> int:
    """How many entries `model.disc_widths` has."""

  def gen_maps(self, resolution: int) -> dict[int, int]:
    """{resolution that a block of the generator ends at: its multiple of ch}."""

  def disc_maps(self, resolution: int, widths: tuple[int, ...]) -> dict[int, int]:
    """The same of the discriminator."""

  def check_options(self, options: dict[str, Any], z_dim: int, resolution: int) -> None:
    """Refuse values of OPTIONS that do not fit together, by a UserError."""


def check(networks: Networks, config: ml_collections.ConfigDict) -> None:
  """Refuse sizes that the networks do not have.

  Args:
    networks: that `config.model.network` names.
    config: complete.
  Raises:
    UserError: names the first such key.
  """
  resolution, model = config.data.resolution, config.model
  if resolution not in networks.GEN_WIDTHS:
    raise errors.UserError(
      f'data.resolution is {resolution}; {model.network} has networks for '
      f'{", ".join(map(str, networks.GEN_WIDTHS))}.'
    )
  networks.check_options({key: model[key] for key in networks.OPTIONS}, model.z_dim, resolution)
  num_widths = networks.num_disc_widths(resolution)
  if len(model.disc_widths) not in (0, num_widths):
    raise errors.UserError(
      f'model.disc_widths has {len(model.disc_widths)} entries; at {resolution} px '
      f"{model.network}'s discriminator has {num_widths} (or give () for the published ones)."
    )
  for key, maps in (
    ('gen_attention', networks.gen_maps(resolution)),
    ('disc_attention', networks.disc_maps(resolution, tuple(model.disc_widths))),
  ):
    for at in model[key]:
      if at not in maps:  # BigGAN-PyTorch then has silently no attention
        raise errors.UserError(
          f'model.{key} has {at}, but at {resolution} px blocks end at {", ".join(map(str, maps))}.'
        )
      if maps[at] * model.ch < LEAST_ATTENTION:
        raise errors.UserError(
          f'model.{key} has {at}, where model.ch={model.ch} gives {maps[at] * model.ch} channels; '
          f'attention needs at least {LEAST_ATTENTION}.'
        )
