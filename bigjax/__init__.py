"""bigjax: BigGAN-family training on TPU pods in JAX, and sampling anywhere."""

__version__ = '0.1.0'
