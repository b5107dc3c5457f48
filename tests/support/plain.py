"""Layers in plain NumPy, and what else their tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def rand(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def f32(x):
  return jnp.asarray(x, jnp.float32)


def conv_reference(x, kernel):
  """SAME cross-correlation, tap by tap, as HWIO kernels mean it."""
  size = kernel.shape[0]
  pad = size // 2
  b, h, w, _ = x.shape
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  y = np.zeros((b, h, w, kernel.shape[-1]))
  for i in range(size):
    for j in range(size):
      y += padded[:, i : i + h, j : j + w] @ kernel[i, j]
  return y


def up_reference(x):
  return x.repeat(2, axis=1).repeat(2, axis=2)


def pool_reference(x, reduce=np.mean):
  corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
  return reduce(np.stack(corners), axis=0)


def eqns(jaxpr):
  """All equations of a jaxpr, those of inner jaxprs included."""
  for eqn in jaxpr.eqns:
    yield eqn
    for value in eqn.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from eqns(inner)


@functools.partial(jax.jit, static_argnums=(0, 1))
def to_second_order(fn, loss, *args):
  """Values, gradients of all arguments, and the gradient of these squared."""
  every = tuple(range(len(args)))
  grads = jax.grad(lambda *args: loss(fn(*args)), every)
  squared = lambda *args: sum(jnp.square(g).sum() for g in grads(*args))
  return fn(*args), grads(*args), jax.grad(squared, every)(*args)


def assert_same(got, want):
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
