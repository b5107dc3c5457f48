"""Which of several equal formulas a network computes."""

import dataclasses
from collections.abc import Callable

from bigjax.nn.attention import attend, attend_plain
from bigjax.nn.convolution import (
  Array,
  conv,
  conv_biased,
  conv_biased_fast,
  conv_fast,
  depthwise_conv,
  depthwise_plain,
  down_conv,
  down_conv_plain,
  down_conv_strided,
  max_pool,
  max_pool_plain,
  up_conv,
  up_conv_phases,
  up_conv_plain,
)


@dataclasses.dataclass(frozen=True)
class Kernels:
  """Which of several equal formulas a network computes: exact algebra, chosen by measurement.

  benchmarks/README.md has the measurements. Derivatives are in reverse mode, of any order; PLAIN
  alone has them in forward mode (jax.jvp) too.
  """

  conv: Callable[[Array, Array], Array]
  conv_biased: Callable[[Array, Array, Array], Array]  # with a bias
  up: Callable[[Array, Array], Array]  # 3x3 convolution of an upsampled image
  down: Callable[[Array, Array], Array]  # 3x3 convolution, then mean-pooling
  depthwise: Callable[[Array, Array], Array]  # convolution of each channel by itself
  max_pool: Callable[[Array], Array]  # 2x2
  attend: Callable[[Array, Array, Array], Array]


PLAIN = Kernels(
  conv, conv_biased, up_conv_plain, down_conv_plain, depthwise_plain, max_pool_plain, attend_plain
)
FEWEST = Kernels(  # multiplications
  conv,
  conv_biased,
  up_conv_phases,
  down_conv_strided,
  depthwise_plain,
  max_pool_plain,
  attend_plain,
)
FAST = Kernels(conv_fast, conv_biased_fast, up_conv, down_conv, depthwise_conv, max_pool, attend)
KERNELS = {'fast': FAST, 'plain': PLAIN, 'fewest': FEWEST}
