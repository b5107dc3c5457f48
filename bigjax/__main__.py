"""`bigjax VERB ...`: only dispatch. Imports nothing heavy, so that --help answers at once."""

import os
import sys

from bigjax.core import errors

VERBS = {
  'doctor': 'check a config and its data, and see what the networks will see',
  'train': 'train from a config, or resume a run',
  'plan': 'what a run needs on a TPU slice that is not there: memory, time, chip-hours',
  'evaluate': 'scores of checkpoints or of any images: FID, IS, precision and recall, ...',
  'sample': 'make images: class grids, seeds, interpolations, truncation sweeps, neighbours',
  'view': 'a page with sliders for what a generator makes, and its run beside; or a report',
  'project': 'find given photos among the images of a generator; whose are they?',
  'directions': 'along which the images of a generator change most, and a picture of them',
  'compare': 'several runs: scores over seeds, what they differ in, where their time went',
  'export': 'write a generator for use elsewhere: safetensors, npz, a StableHLO program',
  'convert': 'weights of BigGAN-PyTorch in and out, of Hugging Face and TF-Hub in',
  'completion': 'a script that completes these commands in bash, zsh or fish',
}


def usage() -> str:
  lines = ['usage: bigjax VERB [options]      (bigjax VERB --help for its options)', '']
  lines += [f'  {verb:<12}{what}' for verb, what in VERBS.items()]
  lines += ['', 'exit status:', *(f'  {n:<12}{words}' for n, words in errors.STATUSES.items())]
  return '\n'.join(lines)


def speak_all_letters() -> None:
  """Let no terminal end a run: what its encoding lacks, names in other letters, is escaped."""
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):  # else it is not the terminal's but a caller's own
      stream.reconfigure(errors='backslashreplace')


def main(argv: list[str] | None = None) -> int:
  """Run one verb; return the exit status, one of errors.STATUSES."""
  speak_all_letters()
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ('-h', '--help', 'help'):
    print(usage())
    return errors.DONE
  if argv[0] == '--version':
    import bigjax

    print(bigjax.__version__)
    return errors.DONE
  verb, *rest = argv
  if verb not in VERBS:
    import difflib

    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f' (did you mean {close[0]}?)' if close else ''
    print(
      f'bigjax: there is no verb {verb!r}{hint}; expected one of {", ".join(VERBS)}.',
      file=sys.stderr,
    )
    return errors.MISTAKE
  import importlib

  import absl.logging

  absl.logging.set_verbosity('fatal')  # Orbax warns of what is meant, and logs what it raises

  try:
    return importlib.import_module(f'bigjax.{verb}').main(rest) or errors.DONE
  except errors.UserError as error:
    print(f'bigjax: {error}', file=sys.stderr)
    return errors.MISTAKE
  except KeyboardInterrupt:
    print('\nbigjax: interrupted.', file=sys.stderr)
    return errors.INTERRUPTED


def command() -> None:
  """`main` in a process of its own: Ctrl-C ends it in a sentence, which nothing comes after."""
  from bigjax.core import processes

  processes.INTERRUPTS.listen()
  processes.quiet_libraries()
  try:
    status = main()
    print(end='', flush=True)  # else what cannot be written were only found after the end
  except Exception as error:
    import traceback

    if isinstance(error, BrokenPipeError) and processes.unread():
      os._exit(processes.UNREAD)  # nothing is wrong with `bigjax ... | head`

    traceback.print_exc()
    words = 'bigjax: ends for the reason above, which is a defect: please report it.'
    processes.end(words, errors.FAILED)
  if status == errors.MISTAKE:
    # An orderly exit would let libraries complain of what they leave undone.
    os._exit(status)
  sys.exit(status)


if __name__ == '__main__':
  command()
