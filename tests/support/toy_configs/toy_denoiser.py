"""Toy family denoiser: see tests/support/families."""


def get_config():
  return {'algorithm': 'toy_denoiser', 'run.steps': 4}


VARIANTS = {}
