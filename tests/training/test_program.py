"""What is compiled for a run, and what is said meanwhile."""

import types

import jax
import pytest

from bigjax import algorithms
from bigjax.algorithms.base import configs
from bigjax.core import config as core_config
from bigjax.core import device
from bigjax.preflight import tpu_slices
from bigjax.training.program import Compiler, Program, make_program

import toys


class Recorded:
  """A program of two stages, with a lazy term in the first; compiles nothing."""

  def __init__(self):
    self.compilations = []

  def spans(self, first, last):
    return [(first, 4, 'small'), (4, last, 'large')]

  def pairs(self, first, last):
    del last
    return (
      {('small', frozenset({'r1', 'pl'})): 1, ('small', frozenset()): 3}
      if not first
      else {('large', frozenset()): 4}
    )

  def compiled(self, stage, due, what=''):
    self.compilations.append((stage, what))
    return None, f'digest{len(self.compilations)}'


def test_what_people_wait_for_has_a_name():
  program, said = Recorded(), []
  compiler = Compiler(program, 0, 8, said.append)
  compiler.enter(0)
  compiler._next.join()
  awaited = [('small', 'the step with pl and r1'), ('small', 'the step')]
  assert program.compilations == [*awaited, ('large', '')]  # meanwhile, which nobody waits for
  compiler.enter(4)
  assert program.compilations[3:] == [('large', 'the step')]
  assert said == ['small: programs digest1, digest2', 'large: program digest4']


def test_init_is_traced_once(monkeypatch):
  """For shapes, shardings, the step and the first state: a large network takes seconds."""
  config = configs.read(f'{toys.CONFIGS[0]}:tiny')
  kind = type(algorithms.family(config.algorithm).make(config))
  traced, init = [], kind.init
  seen = lambda self, *args: (traced.append(args), init(self, *args))[1]
  monkeypatch.setattr(kind, 'init', seen)
  program = make_program(config, jax.devices()[:2])
  program.lower(program.stage(0))
  state = program.init(jax.random.key(0), {})
  assert len(traced) == 1
  assert jax.tree.structure(program.shapes()) == jax.tree.structure(state)
  program.shapes().clear()  # the caller's own
  assert set(program.shapes()) == set(state)


@pytest.mark.parametrize('kernels', ['fast', 'plain'])
def test_the_compiler_is_given_what_helps_its_kind_of_device(kernels):
  pytest.importorskip('libtpu')
  config = core_config.changed(configs.read('digits:tiny'), {'run.kernels': kernels})
  made = make_program(config, tpu_slices.find('v3-8').devices())
  wanted = {} if kernels == 'plain' else device.compiler_options('TPU v3')
  assert made.options == wanted and device.compiler_options('TPU v3')
  assert make_program(config, jax.devices()[:1]).options == {}


class Old:
  """A lowered program of a compiler that does not know an option, or that fails otherwise."""

  def __init__(self, wrong):
    self.wrong, self.given = wrong, []

  def compile(self, options=None):
    self.given.append(options)
    if options:
      raise jax.errors.JaxRuntimeError(self.wrong)
    return 'compiled'


def test_an_option_that_the_compiler_does_not_know_is_left_out_and_said(capfd):
  options = types.SimpleNamespace(options={'xla_new': True})
  old = Old("INVALID_ARGUMENT: No such compile option: 'xla_new'")
  assert Program.compile(options, old) == 'compiled'
  assert old.given == [{'xla_new': True}, None]
  assert 'xla_new' in capfd.readouterr().err
  with pytest.raises(jax.errors.JaxRuntimeError, match='memory'):
    Program.compile(options, Old('RESOURCE_EXHAUSTED: memory'))
