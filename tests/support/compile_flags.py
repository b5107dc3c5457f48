"""Flags of XLA with which tests compile: they compile far more than they compute."""

import importlib.metadata
import os

FLAGS = ['--xla_backend_optimization_level=0']
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # later ones end at the first
  # Fewer, plainer kernels in one module: a step compiles in a third of the time.
  FLAGS += ['--xla_cpu_use_fusion_emitters=false', '--xla_cpu_parallel_codegen_split_count=1']


def flags(*more: str) -> str:
  """The value of XLA_FLAGS: those already set, further ones, and FLAGS."""
  return ' '.join([os.environ.get('XLA_FLAGS', ''), *more, *FLAGS]).strip()
