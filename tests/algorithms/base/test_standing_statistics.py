"""Cards of generators with standing statistics: settings that anybody may have written."""

import math

import pytest

from bigjax.algorithms import biggan
from bigjax.algorithms.base import configs
from bigjax.core import errors


@pytest.fixture(scope='module')
def made():
  """(digits:tiny's generator, what its card says of sampling)."""
  game = biggan.make(configs.read('digits:tiny'))
  ((_, stage),) = game.stages(1)
  return biggan.make_generator(game.architecture(stage)), game.sampling()


WRONG = {
  'dialect': (1, None, 'resampel'),
  'standing_passes': (0, -1, 1.5, '2', True, None),
  'standing_batch': (0, 2**0.5, []),
  'truncations': ('none', [None], ['a'], [-1], None),
}


@pytest.mark.parametrize(('key', 'value'), [(k, v) for k, given in WRONG.items() for v in given])
def test_a_card_of_other_settings_is_refused(made, key, value):
  generator, sampling = made
  for given in ({**sampling, key: value}, {k: v for k, v in sampling.items() if k != key}):
    with pytest.raises(errors.UserError) as error:
      generator.prepared(given)
    message = str(error.value)
    assert message.isprintable() and len(message) < 400, message
    assert any(word in message for word in (key, key.rstrip('s'), 'truncation')), message


def test_options_win_over_the_card_and_unknown_ones_are_named(made):
  generator, sampling = made
  spec = generator.spec(sampling, {'standing_passes': '7', 'truncation': '0.5:clamp'})
  assert (spec.standing_passes, spec.standing_batch) == (7, sampling['standing_batch'])
  assert (spec.truncation, spec.dialect) == (0.5, 'clamp')
  with pytest.raises(errors.UserError, match=r"'standing_pases' \(did you mean standing_passes\?"):
    generator.spec(sampling, {'standing_pases': '7'})
  for word in ('0', '-3', '1.5', 'many', ''):
    with pytest.raises(errors.UserError, match=r'standing_batch=.*(at least 1|whole number)'):
      generator.spec(sampling, {'standing_batch': word})


def test_what_is_described_makes_the_same_settings_again(made):
  generator, sampling = made
  for truncation in ('none', '0.5', '0.3:truncnorm'):
    spec = generator.spec(sampling, {'truncation': truncation})
    said = spec.described()
    assert generator.spec({**sampling, **said}, {'truncation': said['truncation']}) == spec


@pytest.mark.parametrize(
  ('given', 'truncations'),
  [(('0.5,none',), [0.5, math.inf]), ((0.5, 1.0), [0.5, 1]), (('0.5', ' none'), [0.5, math.inf])],
)
def test_exported_truncations_may_be_written_in_many_ways(made, given, truncations):
  config = configs.read('digits:tiny')
  with config.ignore_type():
    config.export.truncations = given
  specs = made[0].prepared(biggan.make(config).sampling())
  assert [spec.truncation for spec in specs] == truncations
