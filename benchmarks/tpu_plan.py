"""`bigjax plan` over configs and slices: the table of benchmarks/README.md.

  python benchmarks/tpu_plan.py                        # everything: about an hour on two CPU cores
  python benchmarks/tpu_plan.py --only imagenet128:v3-128,imagenet256:v3-256

Needs the [plan] extra. Plans are added to --out one by one, and those in it already are not made
again: remove the file, or name another, after the step has changed.
"""

import argparse
import json
import os
import sys

from bigjax import plan
from bigjax.algorithms.base import configs
from bigjax.core import files
from bigjax.preflight import plan_search, plan_tables, tpu_slices

RUNS = (
  ('imagenet128', 'v3-128'),
  ('imagenet128', 'v4-128'),
  ('imagenet128', 'v5p-128'),
  ('imagenet128', 'v5litepod-256'),
  ('imagenet128', 'v6e-256'),
  ('imagenet128', 'tpu7x-128'),
  ('imagenet256', 'v3-256'),
  ('imagenet512', 'v3-512'),
  ('imagenet128_deep', 'v3-128'),
  ('imagenet256_deep', 'v3-256'),
  ('imagenet512_deep', 'v3-512'),
)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', help='config:slice, separated by commas')
  parser.add_argument('--out', default='benchmarks/tpu_plan.json')
  args = parser.parse_args()
  runs = [tuple(word.rsplit(':', 1)) for word in args.only.split(',')] if args.only else RUNS
  found = []
  if os.path.exists(args.out):
    with open(args.out) as f:
      found = json.load(f)
  run = plan_search.watched()
  for name, of in runs:
    if any((known['config'], known['slice']) == (name, of) for known in found):
      continue
    print(f'{name} on {of}', file=sys.stderr, flush=True)
    found.append({'config': name, **run(configs.read(name), tpu_slices.find(of))})
    files.write_json(args.out, found)
  for name in dict.fromkeys(name for name, _ in runs):
    plans = [known for known in found if known['config'] == name]
    print(f'\n{name}\n\n{plan_tables.overview(plans)}')
  print(f'\n{plan.CAVEAT}')


if __name__ == '__main__':
  main()
