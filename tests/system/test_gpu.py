"""The step for GPUs, lowered here where there is none: which of its parts are cuDNN's.

benchmarks/README.md has what was measured on one.
"""

import re

import jax
import pytest

from bigjax.algorithms.base import configs
from bigjax.core import device
from bigjax.training.program import make_program

cudnn = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')


@pytest.fixture
def gpu(monkeypatch):
  """Let the devices here pass for GPUs, as far as tracing and lowering go."""
  for name, answer in {
    'check_cudnn_version': lambda: 91500,
    'check_compute_capability': lambda _: True,
    'is_cuda_compute_capability_equal': lambda _: False,
  }.items():
    monkeypatch.setattr(cudnn, name, answer)
  monkeypatch.setattr(device, 'device_kind', lambda: 'NVIDIA H200')
  monkeypatch.setattr(device, 'has_fused_attention', lambda: True)


@pytest.mark.parametrize('r1_gamma', [0.0, 1.0])
def test_attention_is_cudnns_on_eight_devices(gpu, r1_gamma):
  """Forward in both networks and backward, with the discriminator's gradient twice too."""
  words = ['--config=imagenet128:tiny', '--config.model.dtype=bfloat16', '--config.model.ch=16']
  config, *_ = configs.parse('train', [*words, f'--config.optim.r1_gamma={r1_gamma}'], {}, {})
  program = make_program(config)
  assert program.mesh.size == 8
  stage = program.stage(0)
  with jax.set_mesh(program.mesh):
    step = program.jitted_step.trace(program.shapes(), stage.shapes(), stage, program.due(0))
    text = step.lower(lowering_platforms=('cuda',)).as_text()
  calls = re.findall(r'__cudnn\$(\w+)', text)
  # Backward: D's step, and both networks in G's; each contains its forward pass again, which XLA
  # then runs once. Forward besides: the fakes of D's step.
  assert calls.count('fmhaSoftmaxBackward') == 3
  assert calls.count('fmhaSoftmax') == 2 * 3 + 1
