"""The toy families of the contract, found like any other: by their files' names."""

from bigjax import algorithms

import places

algorithms.__path__.append(str(places.ROOT / 'tests' / 'support' / 'families'))
CONFIGS = sorted(str(p) for p in (places.ROOT / 'tests' / 'support' / 'toy_configs').glob('*.py'))
