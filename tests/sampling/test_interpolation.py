"""Paths in w and mixed styles, of a generator whose images are linear in its styles."""

import jax
import linear_styles
import numpy as np
import pytest
from PIL import Image

from bigjax import sample
from bigjax.algorithms.base import configs
from bigjax.core import errors
from bigjax.sampling import interpolation, loaded, options
from bigjax.sampling.loaded import Loaded
from bigjax.training.program import make_program


def of_layers(gen, w):
  """Images [16, 16, 1] of what each layer [LAYERS, W] is given, in grey levels."""
  image = np.einsum('lw,lwp->p', w, np.asarray(gen['layers'])).reshape(16, 16, 1)
  return ((image + 1) * 127.5).round().clip(0, 255)


def test_layers_that_are_named():
  assert options.parse_layers('coarse', 14) == [0, 1, 2, 3]
  assert options.parse_layers('fine', 10) == [8, 9]
  assert options.parse_layers('2,8-', 10) == [2, 8, 9] and options.parse_layers('0-1,1', 2) == [
    0,
    1,
  ]
  for text, num in (('fine', 8), ('3-1', 5), ('5', 5), ('', 5), ('a', 5), ('-1', 5), ('9' * 30, 5)):
    with pytest.raises(errors.UserError, match=r'^--mixing='):
      options.parse_layers(text, num)


def test_a_path_in_w_is_straight_and_keeps_its_noise():
  gen = linear_styles.loaded(strength=0.1)
  z = gen.sampler.latents(3, 2, gen.spec())
  path = interpolation.interpolation(gen, 'w', np.zeros(1, np.int32), 5, 3, gen.spec())
  ends = gen.sampler.mapped(gen.gen, z, np.zeros(2, np.int32))
  still = gen.sampler.synthesized(gen.gen, ends, np.repeat(z[:1], 2, 0), gen.spec()).astype(float)
  for i, share in enumerate(np.linspace(0, 1, 5)):
    want = (1 - share) * still[0] + share * still[1]
    np.testing.assert_allclose(path[i], want, atol=1.01)
  assert (path[0] == gen.images(z[:1], np.zeros(1, np.int32), gen.spec())[0]).all()


def test_a_path_in_z_keeps_its_noise():
  one = np.zeros(1, np.int32)
  path, still = (
    interpolation.interpolation(gen, 'z', one, 5, 3, gen.spec()).astype(float)
    for gen in (linear_styles.loaded(strength=0.1), linear_styles.loaded())
  )
  assert np.std(path[0] - still[0]) > 5
  for image, without in zip(path, still, strict=True):
    np.testing.assert_allclose(image - without, path[0] - still[0], atol=1.01)
  gen = linear_styles.loaded(strength=0.1)
  z = gen.sampler.latents(3, 1, gen.spec())
  assert (path[0] == gen.images(z, one, gen.spec())[0]).all()


def test_a_grid_has_the_columns_styles_in_the_layers_named():
  gen = linear_styles.loaded()
  two, three = np.zeros(2, np.int32), np.zeros(3, np.int32)
  grid = interpolation.mixed(gen, [1, 2], two, three, 3, gen.spec()).reshape(3, 4, 16, 16, 1)
  z = gen.sampler.latents(3, 5, gen.spec())
  w = gen.sampler.mapped(gen.gen, z, np.zeros(5, np.int32))
  assert (grid[0, 0] == 255).all()
  for i in range(2):
    np.testing.assert_allclose(grid[i + 1, 0], of_layers(gen.gen, w[[i, i, i]]), atol=1)
    for j in range(3):
      want = of_layers(gen.gen, w[[i, 2 + j, 2 + j]])
      np.testing.assert_allclose(grid[i + 1, j + 1], want, atol=1)


def test_the_verb_draws_both(bigjax, tmp_path, monkeypatch):
  monkeypatch.setattr(loaded, 'of_options', lambda args: linear_styles.loaded())
  for words in (['--mixing=0-1', '--num=2'], ['--interpolate=w', '--num=4']):
    out = tmp_path / f'{words[0][2:5]}.png'
    status, said, err = bigjax('sample', '--params=x.npz', f'--out={out}', *words)
    assert status == 0, err
    assert f'{9 if "mix" in words[0] else 4} images' in said
    Image.open(out).verify()
  refused = lambda *words: bigjax('sample', '--params=x.npz', *words)[2]
  assert 'none of the layers 0 to 2' in refused('--mixing=coarse', f'--out={tmp_path / "a.png"}')
  assert '--mixing draws a picture' in refused('--mixing=0', '--out=a.npz')
  assert 'two pictures' in refused('--mixing=0', '--sweep=1')
  assert 'leave out --mixing' in refused('--mixing=0', '--seeds=1')


@pytest.mark.parametrize('words', ['--mixing=0', '--interpolate=w'])
def test_who_has_no_styles_is_refused(bigjax, tmp_path, monkeypatch, words):
  program = make_program(configs.read('digits:tiny'), jax.devices()[:1])
  card = {'class_names': list('0123456789'), 'sampling': program.algorithm.sampling()}
  given = Loaded(program.sampler(program.stage(0)), {}, card)
  monkeypatch.setattr(loaded, 'of_options', lambda args: given)
  status, out, err = bigjax('sample', '--params=x.npz', words, f'--out={tmp_path / "a.png"}')
  assert status == 2 and not out and err.count('\n') == 1
  what = words.removesuffix('=0')
  assert f'{what} needs a generator with styles' in err
  assert not list(tmp_path.iterdir()) and sample.parse(['--params=x', words])
