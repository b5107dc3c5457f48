"""What `bigjax view` does with its options: a page that is served, or a report."""

import argparse
import os

from bigjax.core import buckets, checkpoint, errors
from bigjax.sampling.page import report, server
from bigjax.sampling.page.explorer import Shelf


def title_of(path: str) -> str:
  """What PATH is called: the run's folder, the file's stem, or that of the run it lies in."""
  folder, name = os.path.split(os.path.abspath(path))
  stem = os.path.splitext(name)[0] if os.path.isfile(path) else name
  if stem == 'generator' and os.path.basename(folder) == 'export':
    stem = os.path.basename(os.path.dirname(folder))
  return stem or 'bigjax'


def run(args: argparse.Namespace) -> None:
  """Serves the page, or writes the report.

  Raises:
    UserError: that cannot be done.
  """
  shown = args.path.rstrip('/') or args.path
  title = shown.rpartition('/')[2] if buckets.is_url(shown) else title_of(shown)
  path = buckets.local(shown)
  if not os.path.exists(path):
    raise errors.UserError(
      f'there is neither a workdir nor an exported generator {shown!r}; give one of them.'
    )
  if args.checkpoint and os.path.isfile(path):
    raise errors.UserError(
      f'--checkpoint {args.checkpoint} is one of a workdir, and {shown!r} is a file: leave it out.'
    )
  which = args.checkpoint or 'last'
  if args.html:
    opened = lambda: Shelf(path, which, args.classifier, shown)
    if os.path.isfile(path):
      made = report.of_generator(opened())
    else:
      made = report.of_run(path, opened() if checkpoint.list_steps(path) else None)
    print(report.write(args.html, title, *made))
    return
  listening = server.Server(args.port or 0)  # before a generator is opened for nothing
  shelf = Shelf(path, which, args.classifier, shown)
  shelf.at()
  server.serve(listening, server.Site(shelf, title))
