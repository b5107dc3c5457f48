"""What the house holds still while it is rebuilt: programs by their digest, a tiny run's numbers.

golden/programs.json: digests of the StableHLO of a step by the version of jax that traced it, and
the rows of metrics.jsonl that four steps of `digits:tiny` wrote before the contract was widened
(7e322c5): equal to the last bit on the machine that wrote them, when it was. Who changes a program
or a number on purpose runs `PYTHONPATH=tests/support python tests/contract/test_programs.py`, and
says why in the commit.
"""

import json
import os

import jax
import numpy as np
import pytest

from bigjax.algorithms.base import configs
from bigjax.training import loop
from bigjax.training.program import make_program, program_digest

import places

PATH = places.GOLDEN / 'programs.json'
PROGRAMS = [
  ('digits:tiny', 1),
  pytest.param('digits:tiny', 8, marks=pytest.mark.slow),
  pytest.param('imagenet128', 8, marks=pytest.mark.slow),
]


def golden():
  return json.loads(PATH.read_text())


def digest(name, num_devices):
  # As users trace it: strict promotion, which tests have on, changes the text.
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    program = make_program(configs.read(name), jax.devices()[:num_devices])
    return program_digest(program.lower(program.stage(0), program.due(0)))


@pytest.mark.parametrize(('name', 'num_devices'), PROGRAMS)
def test_a_step_is_the_program_that_it_was(name, num_devices):
  kept = golden()
  if kept['jax'] != jax.__version__:
    pytest.skip(f'digests are those of jax {kept["jax"]}, this is {jax.__version__}')
  assert digest(name, num_devices) == kept['digests'][f'{name} on {num_devices}']


def test_four_steps_give_the_numbers_that_they_gave(tmp_path):
  workdir = str(tmp_path / 'run')
  loop.train(configs.read('digits:tiny'), workdir, jax.devices()[:1])
  with open(os.path.join(workdir, 'metrics.jsonl')) as file:
    rows = [json.loads(line) for line in file]
  rows = [row for row in rows if 'd_loss' in row]
  assert len(rows) == 4
  for row, kept in zip(rows, golden()['rows'], strict=True):
    assert row.keys() == kept.keys()
    for name, value in kept.items():  # other processors round otherwise
      np.testing.assert_allclose(row[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


if __name__ == '__main__':
  os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'  # read at first use
  found = golden()
  found['jax'] = jax.__version__
  found['digests'] = {
    f'{name} on {num}': digest(name, num)
    for name, num in (getattr(one, 'values', one) for one in PROGRAMS)
  }
  PATH.write_text(json.dumps(found, indent=1) + '\n')
