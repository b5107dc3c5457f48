"""What a residual GAN asks of the module with its networks, and of the config that sizes them."""

from typing import Any, Protocol

import ml_collections

from bigjax.core import errors

LEAST_ATTENTION = 8  # channels: an eighth of them are keys


class Networks(Protocol):
  """A file of models/ with `Generator` and `Discriminator`, linen modules, and their tables.

  Attributes:
    GEN_WIDTHS: {resolution: multiples of ch}, of the resolutions there are networks for.
    OPTIONS, DISC_OPTIONS: fields of the generator and of the discriminator that only this file's
      have, each a config key of `model`.
  """

  Generator: Any
  Discriminator: Any
  GEN_WIDTHS: dict[int, tuple[int, ...]]
  OPTIONS: tuple[str, ...]
  DISC_OPTIONS: tuple[str, ...]

  def num_disc_widths(self, resolution: int) -> int:
    """How many entries `model.disc_widths` has."""

  def gen_maps(self, resolution: int) -> dict[int, int]:
    """{resolution that a block of the generator ends at: its multiple of ch}."""

  def disc_maps(self, resolution: int, widths: tuple[int, ...]) -> dict[int, int]:
    """The same of the discriminator."""

  def check_options(self, options: dict[str, Any], z_dim: int, resolution: int) -> None:
    """Refuse values of OPTIONS that do not fit together, by a UserError."""

  def check_disc_options(self, options: dict[str, Any], num_classes: int) -> None:
    """The same of DISC_OPTIONS."""


def check(name: str, networks: Networks, config: ml_collections.ConfigDict) -> None:
  """Refuse sizes that the networks do not have.

  Args:
    name: of the networks.
    networks: their module.
    config: complete.
  Raises:
    UserError: names the first such key.
  """
  resolution, model = config.data.resolution, config.model
  if resolution not in networks.GEN_WIDTHS:
    raise errors.UserError(
      f'data.resolution is {resolution}; {name} has networks for '
      f'{", ".join(map(str, networks.GEN_WIDTHS))}.'
    )
  networks.check_options({key: model[key] for key in networks.OPTIONS}, model.z_dim, resolution)
  networks.check_disc_options(
    {key: model[key] for key in networks.DISC_OPTIONS if key in model}, config.data.num_classes or 2
  )
  num_widths = networks.num_disc_widths(resolution)
  if len(model.disc_widths) not in (0, num_widths):
    raise errors.UserError(
      f'model.disc_widths has {len(model.disc_widths)} entries; at {resolution} px '
      f"{name}'s discriminator has {num_widths} (or give () for the published ones)."
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
