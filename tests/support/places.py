"""Where things lie, for tests: the project, its golden files, and shared/ beside it, if it is."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'golden'
SHARED = ROOT.parent / 'shared'  # tests that need it skip where it is absent
