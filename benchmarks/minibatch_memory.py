"""Memory of one training step per TPU core, by `run.minibatches` and `run.remat`; no TPU is needed.

  python benchmarks/minibatch_memory.py --config imagenet128 --topology v3:2x2 --batch_size 2048

Compiles the step that `bigjax train` runs, ahead of time, and prints what the compiler reserves. A
step that does not fit is an error of the compiler, which names what it would need.
"""

import argparse
import os
import re
import time

os.environ.update(
  JAX_PLATFORMS='cpu',
  TPU_SKIP_MDS_QUERY='1',
  ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  TF_CPP_MIN_LOG_LEVEL='3',
)

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from bigjax import build, parallel
from bigjax import config as configs


def compile_step(config, devices):
  """Return the compiled step of a config on these (absent) devices."""
  program = build.make(config, devices)
  stage = program.algorithm.stage(0)
  everywhere = parallel.replicated(program.mesh)
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), program.shapes()
  )
  size = (stage.resolution, stage.resolution, config.data.channels)
  examples = parallel.batched(program.mesh, lead=1)
  batch = {
    'image': jax.ShapeDtypeStruct((*stage.batch, *size), jnp.uint8, sharding=examples),
    'label': jax.ShapeDtypeStruct(stage.batch, jnp.int32, sharding=examples),
  }
  with jax.set_mesh(program.mesh):
    return program.step.__wrapped__.lower(state, batch, stage).compile()


def measure(config, devices):
  """Return a table cell: GiB per core, or what the compiler says is missing."""
  try:
    memory = compile_step(config, devices).memory_analysis()
  except jax.errors.JaxRuntimeError as error:
    used = re.search(r'\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)', str(error))
    if not used:
      raise
    return f'does not fit: {used[1]} temporary, {used[2]} available'
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  held, temporary = held / 2**30, memory.temp_size_in_bytes / 2**30
  return f'{held + temporary:.2f} GiB ({temporary:.2f} temporary)'


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='imagenet128')
  parser.add_argument('--topology', default='v3:2x2')
  parser.add_argument('--batch_size', type=int, default=2048)
  parser.add_argument('--minibatches', default='1,4,16')
  parser.add_argument('--remat', default='0,1')
  args = parser.parse_args()
  devices = topologies.get_topology_desc(platform='tpu', topology_name=args.topology).devices
  print(f'{args.config}, batch {args.batch_size} on {len(devices)} cores of {args.topology}')
  print('| minibatches | remat | per core | compiled in |\n|---|---|---|---|')
  for remat in args.remat.split(','):
    for num in args.minibatches.split(','):
      config = configs.read(args.config)
      config.optim.batch_size = args.batch_size
      config.run.update({'minibatches': int(num), 'remat': remat == '1'})
      start = time.monotonic()
      cell = measure(config, devices)
      print(f'| {num} | {remat} | {cell} | {time.monotonic() - start:.0f} s |', flush=True)


if __name__ == '__main__':
  main()
