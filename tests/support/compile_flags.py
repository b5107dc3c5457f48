"""Flags of XLA for tests: they compile far more than they compute, often on eight devices."""

import importlib.metadata
import os

FLAGS = [
  '--xla_backend_optimization_level=0',
  # On a machine with other work, eight devices may take long to meet: XLA would abort after 40 s.
  '--xla_cpu_collective_call_warn_stuck_timeout_seconds=120',
  '--xla_cpu_collective_call_terminate_timeout_seconds=600',
]
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # later ones end at the first
  # Fewer, plainer kernels in one module: a step compiles in a third of the time.
  FLAGS += ['--xla_cpu_use_fusion_emitters=false', '--xla_cpu_parallel_codegen_split_count=1']


def flags(*more: str) -> str:
  """The value of XLA_FLAGS: those already set, further ones, and FLAGS."""
  return ' '.join([os.environ.get('XLA_FLAGS', ''), *more, *FLAGS]).strip()
