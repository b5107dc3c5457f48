"""Golden files of the style family: weights by our names, comparisons to the tolerances asked."""

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.core import trees

from golden_files import under


def kernel(w):
  """Their convolution [out, in, h, w] or dense weight [out, in] as ours."""
  return w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T


def of_map(w):
  """Their dense weight [out, 16 C] of a flattened 4x4 map, channels first, as ours."""
  return w.reshape(len(w), -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, len(w))


def stylegan(arrays):
  """Parameters or gradients under StyleGAN's names, by ours."""
  ours = {}
  for name, w in arrays.items():
    path = name.replace('.', '/')
    if name.endswith('Noise.weight'):
      path = path.removesuffix('/weight')
    elif name.endswith('.weight'):
      path = path.replace('weight', 'kernel')
      w = of_map(w) if name == '4x4.Dense0.weight' else kernel(w)
    elif name.endswith('.const'):
      w = w[0].transpose(1, 2, 0)
    ours[path.replace('Conv1_down', 'Conv1')] = w
  return ours


def stylegan2(arrays):
  """Parameters or gradients under StyleGAN2's names, by ours; its buffers are left out."""
  ours = {}
  for name, w in arrays.items():
    path = name.replace('.', '/')
    if name.endswith(('noise_const', 'w_avg')):
      continue
    if name.endswith('embed.weight'):
      path, w = path.replace('weight', 'embedding'), w.T
    elif name.endswith('embed.bias'):
      path = path.replace('embed/bias', 'embed_bias')
    elif name.endswith('.weight'):
      path = path.replace('weight', 'kernel')
      w = of_map(w) if name == 'b4.fc.weight' else kernel(w)
      if name.startswith('synthesis') and name.endswith('conv0.weight'):
        w = w[::-1, ::-1]  # convolves there, correlates here
    elif name.endswith('.const'):
      w = w.transpose(1, 2, 0)
    ours[path] = w
  return ours


def nested(arrays):
  return trees.nest({path: jnp.asarray(w, jnp.float64) for path, w in arrays.items()})


def pictures(x):
  """NCHW in any dtype to NHWC in float64."""
  return jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float64)


def close(ours, theirs, rtol=1e-5):
  """Within `rtol` of the array's maximum."""
  theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs.reshape(np.shape(ours))
  np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=rtol * np.abs(theirs).max())


def assert_same(ours, theirs, rtol=1e-5, but=()):
  """Trees of gradients or weights: each tensor within rtol max(its norm, 1e-4 of the network's)."""
  ours = trees.flat(jax.device_get(ours))
  whole = np.sqrt(sum((w.astype(np.float64) ** 2).sum() for w in theirs.values()))
  assert set(ours) <= set(theirs)
  for path in set(ours) - set(but):
    want = theirs[path]
    error = np.linalg.norm(ours[path] - want)
    assert error <= rtol * max(np.linalg.norm(want), 1e-4 * whole), path


def noise(arrays):
  """The fixed noise maps of StyleGAN's synthesis, in order."""
  maps = under(arrays, 'G/synthesis.noise')
  return tuple(pictures(maps[str(i)]) for i in range(len(maps)))


def noise_of_layers(arrays, prefix='in/noise.'):
  """StyleGAN2's noise by the names of its layers, in order: [N, 1, r, r], or [r, r] for all."""
  found = {}
  for name, x in under(arrays, prefix).items():
    layer = name.removesuffix('.noise_const')
    if layer != name or prefix.endswith('noise.'):
      size, conv = layer.removeprefix('synthesis.').split('.')
      found[int(size[1:]), conv] = pictures(x if x.ndim == 4 else x[None, None])
  return tuple(found[at] for at in sorted(found))
