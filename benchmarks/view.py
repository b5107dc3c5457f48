"""Images per second of the page of `bigjax view`, over HTTP, of a generator with random weights.

  python benchmarks/view.py [--config cifar10] [--num 100]

The way between two samples, the seed, or the truncation changes with every image, as by a slider.
CPU seconds are those of all threads: on a machine that is busy they say more than the clock.
"""

import argparse
import http.client
import json
import threading
import time

import jax
import numpy as np

from bigjax import algorithms
from bigjax.algorithms.base import configs
from bigjax.core import parallel, trees
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.page import server
from bigjax.sampling.page.explorer import Explorer, Shelf
from bigjax.sampling.sampler import from_card

KNOTS = ('0.5', '1', 'none')


def random_generator(name):
  """A generator with BatchNorm of a config, by nothing but its shapes: no run, no data."""
  config = configs.read(name)
  game = algorithms.family(config.algorithm).make(config, lambda: [1] * config.data.num_classes)
  stage = game.stages(1)[0][1]
  card = {
    'algorithm': config.algorithm,
    'architecture': json.loads(json.dumps(game.architecture(stage))),
    'class_names': [str(i) for i in range(config.data.num_classes)],
    'sampling': {**game.sampling(), 'truncations': list(KNOTS)},
  }
  generator, rng = algorithms.generator_of(card), np.random.RandomState(0)
  draw = lambda s: (np.asarray(rng.randn(*s.shape)) * 0.05).astype(s.dtype)
  with jax.set_mesh(parallel.make_mesh(jax.devices()[:1])):
    gen = jax.eval_shape(lambda key: game.generator(game.init(key), stage), jax.random.key(0))
    params = jax.tree.map(draw, gen['params'])
    spec = generator.spec(card['sampling'], {'standing_batch': '2'})
    shapes = jax.eval_shape(generator.moments, {'params': params}, jax.random.key(0), spec)
  flat = lambda path, s: np.full((len(KNOTS), *s.shape), float(path.endswith('var')), np.float32)
  knots = np.array([0.5, 1, np.inf], np.float32)
  whole = {'params': params, 'stats': trees.map_paths(flat, shapes), 'knots': knots}
  return Loaded(*from_card(whole, card, jax.devices()[:1])), params


class OneShelf(Shelf):
  """A shelf of one generator that lies in no file."""

  def __init__(self, explorer):
    self.lock, self.is_workdir, self.explorer = threading.Lock(), False, explorer

  def at(self, step=None):
    del step
    return self.explorer


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='cifar10')
  parser.add_argument('--num', type=int, default=100)
  args = parser.parse_args()
  loaded, params = random_generator(args.config)
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  print(f'{args.config}: images {list(loaded.shape)}, {size:,} parameters')
  listening = server.Server(0)
  listening.site = server.Site(OneShelf(Explorer(loaded, ['--params', 'x'])), 'benchmark')
  threading.Thread(target=listening.serve_forever, daemon=True).start()
  line = http.client.HTTPConnection(server.ADDRESS, listening.server_port)
  for what, query in {
    'the first': lambda i: '',
    'the way': lambda i: f'class2=3&seed2=4&way={i / args.num}',
    'the seed': lambda i: f'seed={i}',
    'the truncation': lambda i: f'truncation={0.5 + 0.5 * i / args.num}',
  }.items():
    num = 1 if what == 'the first' else args.num
    began, cpu = time.monotonic(), time.process_time()
    for i in range(num):
      line.request('GET', f'/image?{query(i)}')
      answer = line.getresponse()
      assert answer.read() and answer.status == 200
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f'{what}: {num / took:.1f} images a second, {1000 * cpu / num:.0f} ms of CPU each')
  programs = loaded.sampler._to_all._cache_size()
  print(f'{programs} compiled program{"s" if programs > 1 else ""}')


if __name__ == '__main__':
  main()
