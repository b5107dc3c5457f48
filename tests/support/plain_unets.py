"""Networks of diffusions that are arithmetic: what walks, upsamplers and cascades make of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from bigjax.algorithms.base.generators.walker import Teller, Upsampler, Walker
from bigjax.nn.diffusion import conditioning as conditionings
from bigjax.nn.diffusion.process import Process
from bigjax.nn.diffusion.tables import Tables
from bigjax.nn.resizing import resize

NUM = 20
CARD = {'steps': '4', 'sampler': 'ancestral', 'eta': 0.0}


@dataclasses.dataclass(frozen=True)
class Knowing:
  """A network that knows the image in x: `value`, the label's tenth, and the small image's tenth.

  Attributes:
    seen: whatever it was asked, appended as it is.
  """

  resolution: int
  of: Process
  channels: int = 3
  num_classes: int = 5
  value: float = 0.25
  seen: list = dataclasses.field(default_factory=list, hash=False, compare=False)

  def apply(self, variables, x, t, y=None, keys=None, low=None, level=None):
    self.seen.append({'y': y, 'low': low, 'level': level})
    y = y @ jnp.arange(self.num_classes, dtype=x.dtype) if y.ndim == 2 else y.astype(x.dtype)
    known = jnp.zeros_like(x) + variables['params'] * self.value + y[:, None, None, None] / 10
    if low is not None:
      known = known + resize(low, self.resolution, 'torch_bilinear') / 10
    return self.of.noise_of(x, t, known)


def process(schedule='cosine', num=NUM):
  return Process(Tables(schedule, num), variance='fixed_small')


def base(resolution=4, of=None, **fields):
  net = Knowing(resolution, of or process(), **fields)
  return Walker(Teller(net, NUM, False, False), net.of)


def upsampler(low=4, factor=2, augmentation='gaussian', of=None, **fields):
  net = Knowing(low * factor, of or process(), **fields)
  given = conditionings.make(low, augmentation, net.of.tables, 0)
  return Upsampler(Teller(net, NUM, False, False), net.of, given)


PARAMS = {'params': np.float32(1)}
