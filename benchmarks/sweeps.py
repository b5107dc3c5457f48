"""Settings of a paper's system on the digits, one run each: what such benchmarks share."""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from bigjax import data
from bigjax.core import config as core_config
from bigjax.core import device, files, progress

import papers
from papers_report import Row
from papers_scores import Referee

SCORES = ('agreement', 'precision', 'coverage', 'fd_held_out_classifier')


def swept(
  doc: str, name: str, points: Mapping[str, tuple[str, Mapping[str, Any]]], evals: int = 1
) -> dict[str, Row]:
  """Reads the command line, trains what is missing, and scores each run as papers.py does.

  Args:
    doc: of the benchmark.
    name: of it: runs/NAME is where workdirs go.
    points: {label: (what --config calls a system, config keys)}, each at BigGAN's compute.
    evals: how often a run is evaluated; the last is at its end.
  Returns:
    {label: row, with its `workdir`}.
  """
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument('--folder', default=f'runs/{name}', help='of the workdirs')
  args = parser.parse_args()
  device.use_compilation_cache()
  referee = Referee(data.load(papers.system(papers.BIGGAN, papers.YARDSTICK).config.data))
  unit, rows = papers.yardstick(), {}
  for label, (given, keys) in points.items():
    path = os.path.join(args.folder, f'{label.replace(" ", "_")}.json')
    if not os.path.exists(path):
      progress.say(label)
      base = papers.system(given.partition(':')[0], given)
      config = core_config.changed(base.config, keys)
      system = papers.System(base.paper, given, config, base.cost)
      run = papers.Run(system, 0, 1, base.steps(unit), unit, evals)
      row = papers.row_of(run, args.folder, referee)
      if row is None:
        raise SystemExit(1)  # told to end: the next start goes on
      row.pop('strip', None)
      files.write_json(path, row | {'workdir': os.path.join(args.folder, run.name)})
    rows[label] = files.read_json(path)
  return rows


def table(names: tuple[str, ...], rows: Mapping[str, Row]) -> str:
  """The scores of each run, in Markdown; labels are its first columns, as `names` call them."""
  lines = [[*names, 'agreement', 'precision', 'coverage', 'Frechet distance']]
  lines.append(['---'] * len(lines[0]))
  for label, row in rows.items():
    scores = [f'{row[score]:.3f}' if score in row else 'failed' for score in SCORES]
    lines.append([*label.split(), *scores])
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
