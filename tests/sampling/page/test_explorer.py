"""What the sliders of the page make: the images of `bigjax sample`, by one program."""

import dataclasses
import io
import math
import shlex

import jax
import jax.numpy as jnp
import linear_styles
import numpy as np
import pytest
from PIL import Image

from bigjax import algorithms
from bigjax.algorithms.base import truncation
from bigjax.core import errors
from bigjax.sampling import loaded
from bigjax.sampling.page import explorer
from bigjax.sampling.page.explorer import Settings, Shelf
from bigjax.sampling.sampler import from_card

from tiny_run import bigjax  # noqa: F401 - a fixture


@pytest.fixture(scope='module')
def shelf(params):
  return Shelf(str(params))


@pytest.fixture(scope='module')
def one(shelf):
  return shelf.at()


@pytest.fixture(scope='module')
def gen(params):
  return loaded.load(params)


def test_its_ends_are_the_samples_of_their_seeds(one, gen):
  settings = Settings(classes=(3, 7), seeds=(5, 11), truncation='0.5')
  spec = gen.spec('0.5')
  z = gen.sampler.first_of_each([5, 11], spec)
  samples = gen.images(z, np.array([3, 7], np.int32), spec)
  ends = [one.image(dataclasses.replace(settings, way=way)) for way in (0.0, 1.0)]
  np.testing.assert_array_equal(ends, samples)
  middle = one.image(dataclasses.replace(settings, way=0.5)).astype(int)
  assert all(abs(middle - end).max() > 2 for end in samples)


def test_classes_mix_as_weights_do(one, gen):
  """Of one seed, whose latents stay."""
  weights = np.zeros((1, 10), np.float32)
  weights[0, [2, 9]] = 0.75, 0.25
  found = one.image(Settings(classes=(2, 9), seeds=(4, 4), way=0.25))
  np.testing.assert_array_equal(found, gen(weights, seed=4)[0])


def test_one_program_makes_them_all(one):
  for way, at, label in ((0, '', 0), (1, '0.5', 3), (0.3, '0.7', 9), (0.3, '2', 1)):
    one.image(Settings((label, 2), (label, 8), way, at))
  sampler = one.loaded.sampler
  assert sampler._to_all._cache_size() == 1 and sampler._firsts._cache_size() == 1
  assert sampler.mesh.size == 1 < len(jax.devices())


def test_truncations_are_those_of_the_table(one):
  about = one.about()
  assert about['truncation'] == {'least': 0.5, 'most': 2.0, 'untruncated': True, 'value': None}
  assert about['options'] == []  # what the table was measured with is not asked for
  assert (about['height'], about['width'], about['frames'], about['step']) == (16, 16, 0, 4)
  assert 'between those at 0.5 and 1' in one.spec(Settings(truncation='0.75'))[1]
  for wrong in ('0.4', '3', '0.7:truncnorm', 'much'):
    with pytest.raises(errors.UserError):
      one.spec(Settings(truncation=wrong))
  with pytest.raises(errors.UserError, match='no sampling option'):
    one.spec(Settings(options=(('steps', '25'),)))


@pytest.mark.parametrize('at', [0, 1])
def test_the_command_makes_the_same_image(one, bigjax, tmp_path, monkeypatch, at):  # noqa: F811
  settings = Settings((3, 7), (5, 11), float(at), '0.75')
  verb, *words = shlex.split(one.command(settings))[1:]
  monkeypatch.chdir(tmp_path)
  assert bigjax(verb, *words)[0] == 0
  (path,) = (tmp_path / 'samples').glob('*.png')
  assert path.name == ('seed0005_class3.png', 'seed0011_class7.png')[at]
  np.testing.assert_array_equal(np.asarray(Image.open(path))[..., None], one.image(settings))


def test_where_there_is_no_command(one):
  assert one.command(Settings((3, 7), (5, 11), 0.5)) == ''
  assert one.command(Settings((3, 3), (5, 5), 0.5))  # no way at all


def test_png_holds_every_pixel(one):
  image = one.image(Settings())
  body, media, ending = explorer.encoded(image)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(body)))[..., None], image)
  assert (media, ending) == ('image/png', '.png')


# --- Generators of other kinds


def toy(name, architecture, class_names):
  """The explorer of a toy family's generator, with random weights."""
  card = {
    'algorithm': name, 'architecture': architecture, 'class_names': class_names, 'sampling': {},
    'frame_rate': 4,
  }  # fmt: skip
  generator = algorithms.generator_of(card)
  z = np.zeros((1, *generator.latent_shape), np.float32)
  net, how = generator.net, {}
  given = () if name == 'toy_denoiser' else (np.zeros(1, np.int32),)
  if given:  # with its encoder
    how['method'] = type(net).everything
  gen = net.init(jax.random.key(0), z, *given, **how)['params']
  return explorer.Explorer(loaded.Loaded(*from_card(gen, card, jax.devices()[:1])), ['--params=x'])


def test_one_without_classes_and_truncation_has_fewer_controls():
  one = toy('toy_denoiser', {'width': 2, 'channels': 3, 'resolution': 8}, ['all'])
  about = one.about()
  assert about['truncation'] is None and about['options'] == [] and about['class_names'] == ['all']
  assert one.image(Settings(seeds=(1, 2), way=0.5)).shape == (8, 8, 3)
  assert '--classes' not in one.command(Settings())


class Truncated(linear_styles.LinearStyles):
  """Linear styles that are truncated towards 0, as the average w is."""

  options = truncation.OPTIONS

  def spec(self, sampling, given=None):
    return truncation.StyleSpec(**truncation.fields(given, self.num_layers))

  def layers(self, gen, w, spec):
    return spec.styles(w, jnp.zeros(w.shape[-1:]), self.num_layers)

  def noise(self, gen, z, spec):
    return () if spec.noise == 'none' else super().noise(gen, z, spec)


def test_styles_have_psi_and_noise():
  whole = linear_styles.loaded(strength=0.1)
  sampler = dataclasses.replace(whole.sampler, generator=Truncated())
  one = explorer.Explorer(loaded.Loaded(sampler, whole.stored, whole.card), ['--params=x'])
  about = one.about()
  assert about['truncation'] == {'least': 0.0, 'most': 1.0, 'untruncated': False, 'value': 1.0}
  assert [option['name'] for option in about['options']] == ['noise'] and not about['measurable']
  quiet = (('noise', 'none'),)
  flat = one.image(Settings(seeds=(3, 4), truncation='0', options=quiet))
  assert (flat == 128).all()  # the average w, whose image is 0
  # The noise is the first sample's all the way, and so the end of the way has no command.
  at = lambda way, **more: one.image(Settings((0, 0), (3, 4), way, '0', **more)).astype(int)
  np.testing.assert_array_equal(at(0.0), at(1.0))
  assert abs(at(0.5) - 128).max() > 20
  assert one.command(Settings((0, 0), (3, 4), 1.0)) == ''
  assert '--sampling noise=none' in one.command(Settings(seeds=(3, 4), options=quiet))


def test_clips_play():
  architecture = {
    'frames': 3, 'resolution': 8, 'channels': 1, 'num_classes': 5, 'z_dim': 6, 'width': 4,
  }  # fmt: skip
  one = toy('toy_video', architecture, list('abcde'))
  clip = one.image(Settings((1, 2), (3, 4), 0.5))
  body, media, ending = explorer.encoded(clip, one.rate)
  assert clip.shape == (3, 8, 8, 1) and one.about()['frames'] == 3 and one.rate == 4
  with Image.open(io.BytesIO(body)) as film:
    assert film.n_frames == 3 and film.info['loop'] == 0
  assert (media, ending) == ('image/webp', '.webp')


def test_checkpoints_are_at_hand_and_their_tables_are_measured_when_asked_for(workdir):
  """The last is the exported one, which has its own."""
  shelf = Shelf(str(workdir))
  assert shelf.at().step == 4 and shelf.at()._flags[0] == '--params'
  before = shelf.at(2)
  assert before.step == 2 and before._flags == ['--workdir', str(workdir), '--checkpoint', '2']
  assert before.about()['truncation'] is None and before.about()['measurable']
  assert before.loaded.sampler is shelf.at(4).loaded.sampler  # whose programs are there
  assert (before.image(Settings()) != shelf.at(4).image(Settings())).any()
  with pytest.raises(errors.UserError, match="no checkpoint '3'"):
    shelf.at(3)
  image = before.image(Settings())
  before.measure()
  assert before.about()['truncation'] == shelf.at(4).about()['truncation']
  assert not before.about()['measurable'] and not shelf.at(4).about()['measurable']
  np.testing.assert_array_equal(before.image(Settings()), image)
  before.image(Settings(truncation='0.75'))
  assert before.command(Settings()) and not before.command(Settings(truncation='0.75'))


# --- Words


def test_names_of_files_say_the_settings():
  name = lambda *args, **kwargs: explorer.file_name('a/b', Settings(*args, **kwargs), '.png')
  assert name() == 'a-b_seed0_class0.png'
  assert name((1, 2), (3, 4), 0.25, '0.5') == 'a-b_seed3-4_class1-2_way0.25_truncation0.5.png'
  assert name((1, 1), (3, 3), 0.5) == 'a-b_seed3_class1.png'
  assert name(options=(('steps', '../25'),), step=7) == 'a-b_step7_seed0_class0_steps..-25.png'


def test_settings_are_read_with_their_ranges():
  read = lambda **words: explorer.read_settings(words, 10)
  assert read() == Settings()
  assert read(**{'class': '9', 'seed2': '4294967295', 'way': '1', 'option.eta': '0.5'}) == Settings(
    (9, 9), (0, 4294967295), 1.0, '', (('eta', '0.5'),)
  )
  assert math.isclose(read(way='0.1').way, 0.1)
  for name in ('class', 'class2', 'seed', 'seed2', 'way', 'step'):
    for word in ('', 'nan', 'inf', '-1', '1e400', '9' * 30, '٣x'):
      with pytest.raises(errors.UserError):
        read(**{name: word})
