"""The dialect of generators with styles: what is read, what it does to w, what noise there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.algorithms.base import draws, truncation
from bigjax.algorithms.base.truncation import StyleSpec
from bigjax.core import errors
from bigjax.evaluation import after_training


@pytest.mark.parametrize(
  ('words', 'spec', 'said', 'described'),
  [
    ({}, StyleSpec(), 'untruncated', {'truncation': 'none'}),
    ({'truncation': 'none'}, StyleSpec(), 'untruncated', {'truncation': 'none'}),
    ({'truncation': '1'}, StyleSpec(1.0), 'untruncated', {'truncation': 'none'}),
    ({'truncation': '0.7'}, StyleSpec(0.7), '0.7 (psi)', {'truncation': '0.7'}),
    (
      {'truncation': '-0.5:8', 'noise': 'const'}, StyleSpec(-0.5, 8, 'const'),
      '-0.5 (psi, 8 layers), noise const', {'truncation': '-0.5:8', 'noise': 'const'},
    ),
  ],
)  # fmt: skip
def test_what_is_read(words, spec, said, described):
  found = StyleSpec(**truncation.fields(words, 18))
  assert found == spec and hash(found) == hash(spec)
  assert str(found) == said and found.described() == described
  assert StyleSpec(**truncation.fields(found.described(), 18)) == found  # the same samples again


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ({'truncation': 'half'}, 'truncation=half: give a number'),
    ({'truncation': 'inf'}, 'give a finite number'),
    ({'truncation': '0.7:0'}, 'give at least 1'),
    (
      {'truncation': '0.7:99'},
      'than there are: this generator has 18; give 0.7:18, or',
    ),
    ({'truncation': '0.7:19'}, 'this generator has 18'),
    ({'truncation': '0.7:'}, 'give a whole number'),
    ({'truncation': '0.7:resample'}, 'give a whole number'),
    ({'noise': 'constant'}, "the noise is 'constant' \\(did you mean const"),
  ],
)
def test_what_is_refused(words, message):
  with pytest.raises(errors.UserError, match=message):
    truncation.fields(words, 18)


def test_a_sweep_is_drawn_against_psi():
  specs = [StyleSpec(**truncation.fields({'truncation': t}, 18)) for t in ('0.5', 'none', '0')]
  assert [after_training.at(spec) for spec in specs] == [0.5, 1, 0]
  assert specs[0].dialect == 'psi'


def test_psi_may_be_traced_and_the_rest_is_static():
  traces = []

  @jax.jit
  def styles(spec, w, centre):
    traces.append(spec.cutoff)
    return spec.styles(w, centre, 4)

  w, centre = np.float32([[1, 2], [3, -2]]), np.ones(2, np.float32)
  np.testing.assert_allclose(
    styles(StyleSpec(0.5, 2), w, centre)[1], [[2, -0.5]] * 2 + [[3, -2]] * 2
  )
  np.testing.assert_allclose(styles(StyleSpec(0.0, 2), w, centre)[0], [[1, 1]] * 2 + [[1, 2]] * 2)
  np.testing.assert_allclose(styles(StyleSpec(0.0), w, centre), np.ones((2, 4, 2)))
  np.testing.assert_array_equal(styles(StyleSpec(1.0), w, centre)[0], [[1, 2]] * 4)
  assert traces == [2, 0]


def test_keys_of_the_noise():
  z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
  keys = {name: StyleSpec(noise=name).noise_keys(z) for name in draws.NOISE}
  assert keys['none'] is None and keys['const'].shape == (1,)
  of_each = jax.random.key_data(keys['random'])
  assert len(np.unique(of_each, axis=0)) == 3
  others = jax.random.key_data(StyleSpec().noise_keys(z[1:]))  # whoever else is in the batch
  np.testing.assert_array_equal(others, of_each[1:])


def test_the_average_w():
  """Decays by 0.995; a minibatch that is not finite leaves it."""
  mapping = lambda weights, batch: weights * batch
  move = jax.jit(lambda old, w: truncation.averaged_w(old, mapping, jnp.float32(2), w))
  old, w = np.float32([1, -1]), np.float32([[1, 2], [3, 4]])
  np.testing.assert_allclose(move(old, w), 0.995 * old + 0.005 * np.float32([4, 6]), rtol=1e-6)
  np.testing.assert_array_equal(move(old, w * np.float32([[1, np.nan]])), old)
