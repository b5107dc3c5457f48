"""`bigjax plan --fit gpu`, without a GPU: where one would compile, the CPUs' compiler stands in."""

import json

import pytest

from bigjax.core import errors, ranges
from bigjax.preflight import local_gpus

import toys

TOY = next(path for path in toys.CONFIGS if 'denoiser' in path)  # one compilation, of seconds
FIT = ('plan', f'--config={TOY}', '--config.data.source=synthetic', '--fit=gpu')


@pytest.mark.parametrize(
  ('word', 'num_bytes'),
  [('24GiB', 24 * 2**30), ('80GB', 80e9), ('1.5 GiB', 1.5 * 2**30), ('512MiB', 2**29)],
)
def test_sizes_with_units(word, num_bytes):
  assert ranges.read_bytes('--memory=', word) == num_bytes


@pytest.mark.parametrize('word', ['24', '0GiB', '-1GiB', 'nanGiB', '24 gb', 'GiB', '1e99GiB', ''])
def test_sizes_without(word):
  with pytest.raises(errors.UserError, match=r'^--memory=.*such as 24GiB'):
    ranges.read_bytes('--memory=', word)


def test_without_a_gpu_it_is_said_what_is_needed(bigjax, monkeypatch):
  monkeypatch.setattr(local_gpus, 'PLATFORM', 'gpu of another world')  # also where there is one
  status, out, err = bigjax(*FIT, '--memory=24GiB')
  assert status == 2 and not out
  assert err.startswith('bigjax: --fit=gpu needs a GPU on this machine') and err.count('\n') == 1


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['plan', '--fit=v4-8', '--memory=24GiB'], '--memory goes with --fit=gpu'),
    (['plan', '--fit=gpu', '--memory=much'], '--memory=much: give a size'),
    (['plan', '--fit=gpu', '--samples=5'], '--samples goes with --topology'),
    (['plan', '--fit=gpu', '--topology=v3-8'], 'one of --topology'),
  ],
)
def test_mistakes(bigjax, words, said):
  status, _, err = bigjax(*words)
  assert status == 2 and said in err


@pytest.fixture
def stand_in(monkeypatch):
  """CPUs in place of GPUs: this tests how the search goes, not what a GPU's compiler says."""
  monkeypatch.setattr(local_gpus, 'PLATFORM', 'cpu')
  for name in local_gpus.TOLD_BY:
    monkeypatch.delenv(name, raising=False)


def test_jax_takes_a_share(monkeypatch, stand_in):
  of = local_gpus.find(24 * 2**30)
  assert of.num_devices == 8 and of.usable == 18 * 2**30 and of.name == '8 cpu of 24.00 GiB'
  monkeypatch.setenv('XLA_CLIENT_MEM_FRACTION', '0.9')
  assert of.usable == pytest.approx(0.9 * 24 * 2**30)
  monkeypatch.setenv('XLA_CLIENT_MEM_FRACTION', 'all')
  with pytest.raises(errors.UserError, match='XLA_CLIENT_MEM_FRACTION is'):
    _ = of.usable
  with pytest.raises(errors.UserError, match='give it as --memory'):
    _ = local_gpus.find(None).usable  # CPUs do not say


def test_the_compiler_decides_what_fits(bigjax, stand_in, tmp_path):
  status, out, err = bigjax(*FIT, '--memory=1GiB', f'--json={tmp_path / "plan.json"}')
  assert status == 0 and '| 8 cpu of 1.00 GiB |' in out
  assert 'three quarters' in err
  (found,) = json.loads((tmp_path / 'plan.json').read_text())['plans']
  assert found['fits'] and found['peak_bytes'] == found['argument_bytes'] + found['temporary_bytes']
  assert found['argument_bytes'] > 0 and found['usable_bytes'] == 0.75 * 2**30
  status, out, _ = bigjax(*FIT, '--memory=0.001MiB')
  assert status == 1 and out.startswith('nothing fits a batch of') and 'a larger GPU' in out


def test_a_compiler_without_memory_is_a_sentence(stand_in, monkeypatch):
  import jax

  from bigjax.algorithms.base import configs

  def fail(lowered):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate')

  monkeypatch.setattr(local_gpus, 'compile_step', fail)
  with pytest.raises(errors.UserError, match='the compiler ran out of memory on this machine'):
    local_gpus.plan(configs.read(TOY), local_gpus.find(2**30))
