"""SA-GAN's networks: what its code has; the parameters are those of BigGAN's Table 1, row 1."""

import jax
import jax.numpy as jnp
import pytest

from bigjax.core import trees
from bigjax.models import sagan
from bigjax.nn import spectral_norm

from counts import num_params
from networks import (
  assert_place_of_attention,
  convolution_dtypes,
  disc_shapes,
  f32,
  gen_shapes,
  weights,
)

OF_ROW_1 = {'ch': 64, 'attention': (64,)}


def test_parameters_are_those_of_the_first_row_of_biggans_table():
  # ... with attention where that row has it, and biases to the attention of neither.
  mine, theirs = (
    {path: s.shape for path, s in trees.flat(shapes).items()}
    for shapes in (
      gen_shapes(128, network=sagan, **OF_ROW_1),
      gen_shapes(128, **OF_ROW_1, shared_dim=0, skip_z=False, z_dim=128),
    )
  )
  assert mine == theirs
  mine, theirs = (
    {path: s.shape for path, s in trees.flat(shapes).items()}
    for shapes in (disc_shapes(128, network=sagan, **OF_ROW_1), disc_shapes(128, **OF_ROW_1))
  )
  assert mine == theirs
  published = num_params(gen_shapes(128, network=sagan)) + num_params(
    disc_shapes(128, network=sagan)
  )
  assert published == 42_078_852 + 39_463_618  # by arithmetic: attention at 32, 40 and 10 thousand


def test_attention_is_at_32_px_in_both():
  assert_place_of_attention(gen_shapes(128, network=sagan), 2, 256)
  assert_place_of_attention(disc_shapes(128, network=sagan), 1, 128)


def test_every_kernel_of_both_is_normalised_and_no_table_of_the_generator():
  gen = trees.flat(gen_shapes(128, 10, network=sagan))
  which = spectral_norm.spec()
  normalised = {path for path, leaf in gen.items() if which(path, leaf)}
  assert normalised == {path for path in gen if path.endswith('kernel')} and len(normalised) == 21
  assert {'attention_2/theta/kernel', 'linear/kernel', 'output/conv/kernel'} <= normalised
  disc = trees.flat(disc_shapes(128, 10, network=sagan))
  which = spectral_norm.spec(embeddings=True)
  normalised = {path for path, leaf in disc.items() if which(path, leaf)}
  assert 'embed/embedding' in normalised and len(normalised) == 23


@pytest.mark.parametrize('resolution', sagan.GEN_WIDTHS)
def test_shapes_at_every_resolution_in_bfloat16(resolution):
  at = {'attention': (8,), 'ch': 8, 'dtype': jnp.bfloat16}
  gen, disc = sagan.Generator(resolution, 3, **at), sagan.Discriminator(resolution, 3, **at)
  of_gen = gen_shapes(resolution, 3, network=sagan, **at)
  of_disc = disc_shapes(resolution, 3, network=sagan, **at)
  y = jax.ShapeDtypeStruct((2,), jnp.int32)

  def run(gen_params, disc_params, z, y):
    images = gen.apply({'params': gen_params}, z, y, train=True)
    return images, disc.apply({'params': disc_params}, images, y)

  images, scores = jax.eval_shape(run, of_gen, of_disc, f32(2, 128), y)
  assert images.shape == (2, resolution, resolution, 3) and images.dtype == jnp.float32
  assert scores.shape == (2,) and scores.dtype == jnp.float32
  assert convolution_dtypes(run, of_gen, of_disc, f32(2, 128), y) == {'bf16'}


def test_of_one_class_labels_are_not_looked_at():
  disc = sagan.Discriminator(16, 1, ch=2, attention=())
  shapes = disc_shapes(16, 1, network=sagan, ch=2, attention=())
  assert 'embed' not in shapes
  params = weights(shapes)
  text = str(
    jax.make_jaxpr(lambda x, y: disc.apply({'params': params}, x, y))(
      f32(2, 16, 16, 3), jax.ShapeDtypeStruct((2,), jnp.int32)
    )
  )
  assert 'gather' not in text
