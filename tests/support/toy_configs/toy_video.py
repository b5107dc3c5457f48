"""Toy family video: see tests/support/families."""


def get_config():
  return {'algorithm': 'toy_video', 'run.steps': 4}


VARIANTS = {}
