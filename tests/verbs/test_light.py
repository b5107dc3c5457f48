"""Help and errors of usage come at once: no verb imports JAX, or what else is heavy, for them."""

import json
import subprocess
import sys

import pytest

from bigjax import __main__

HEAVY = ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'matplotlib', 'sklearn')
CODE = f"""
import contextlib, io, json, sys
from bigjax.__main__ import main

for argv in json.loads(sys.argv[1]):
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      status = main(argv)
    except SystemExit as error:
      status = error.code
  heavy = [name for name in {HEAVY} if name in sys.modules]
  print(json.dumps([status or 0, out.getvalue(), err.getvalue(), heavy]))
"""
WRONG = [  # a command line, and a word of the sentence that it gets
  (['trian'], 'did you mean train?'),
  *[([verb, '--colour=red'], '--colour' if verb in ('train', 'doctor', 'plan') else 'required')
    for verb in __main__.VERBS],
  (['train', '--outdir=x'], '--workdir'),
  (['train', 'digits'], '--config digits'),
  (['train', '--config=digts'], 'did you mean digits?'),
  (['train', '--config=digits:tny'], 'did you mean tiny?'),
  (['train', '--workdir'], 'needs a value'),
  (['train', '--dry_run=perhaps'], 'True or False'),
  (['doctor', '--config=digts'], 'did you mean digits?'),
  (['plan'], 'one of --topology'),
  (['plan', '--topology=v3-8', '--fit=v3-8'], 'one of --topology'),
  (['plan', '--topology=v3-7'], 'v3-7'),
  (['plan', '--scale=v3-8', '--per_device=many'], '--per_device=many'),
  (['sample', '--workdir=x', '--params=y'], 'not allowed with'),
  (['sample', '--workdir=x', '--colour=red'], '--colour'),
  (['sample', '--workdir=x', '--outdir=y'], 'did you mean --out?'),
  (['sample', '--params=x', '--network', 'y'], 'did you mean --params?'),
  (['evaluate', '--workdir=x', '--metric_s=fid'], 'did you mean --metrics?'),
  (['sample', '--workdir=x', '--num=0'], '--num=0'),
  (['sample', '--workdir=x', '--sweep=1', '--interpolate=z'], 'two pictures'),
  (['sample', '--workdir=x', '--seeds=3-1'], "'3-1' is no seed"),
  (['sample', '--workdir=x', '--predict', '--out=x.npz'], '.png or .webp or .gif or .mp4 or .apng'),
  (['sample', '--workdir=x', '--frames=9'], '--out ending in .webp or'),
  (['sample', '--workdir=x', '--predict', '--classes=3'], 'leave out --classes'),
  (['sample', '--workdir=x', '--predict=synthetic', '--seeds=3'], 'leave out --seeds'),
  (['sample', '--workdir=x', '--sampling=much'], 'NAME=VALUE'),
  (['sample', '--params=x.npz', '--checkpoint=best'], '--workdir'),
  (['compare', 'x', '--out=x.jpg'], '.png'),
  (['evaluate', '--workdir=x', '--colour=red'], '--colour'),
  (['evaluate', '--workdir=x', '--metrics=fidd'], 'did you mean fid?'),
  (['evaluate', '--workdir=x', '--features=incept'], 'did you mean inception?'),
  (['evaluate', '--images=x', '--sweep=1'], '--sweep'),
  (['evaluate', '--images=x', '--checkpoints=best'], '--workdir'),
  (['evaluate', '--workdir=x', '--seeds=one'], '--seeds=one'),
  (['export', '--workdir=x', '--format=onnx'], 'onnx'),
  (['export', '--workdir=x', '--truncation=0.5'], '--format=stablehlo'),
  (['export', '--params=x.npz', '--format=npz'], 'already'),
  (['export', '--workdir=x', '--out=x.png'], '.safetensors'),
  (['view', 'x.npz', '--port=70000'], '--port=70000'),
  (['view', 'x.npz', '--html=x.png'], '.html'),
  (['view', 'x.npz', '--checkpoint=best'], 'workdir'),
  (['convert', '--gen=x.pth'], '--out'),
  (['convert', '--gen=x.pth', '--out=x.npz'], '.safetensors'),
  (['convert', '--workdir=x', '--out=y', '--disc=D.pth'], '--disc'),
]  # fmt: skip


def results(command_lines: list[list[str]], cwd) -> list[tuple[int, str, str, list[str]]]:
  """[(status, stdout, stderr, heavy modules by then)] of command lines, all in one new process."""
  command = [sys.executable, '-c', CODE, json.dumps(command_lines)]
  done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
  return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize('verb', [None, *__main__.VERBS])
def test_help_and_usage_errors(tmp_path, verb):
  of = lambda argv: argv[0] if argv[0] in __main__.VERBS else None
  mine = [(argv, words) for argv, words in WRONG if of(argv) == verb]
  assert mine
  ask = [verb, '--help'] if verb else ['--help']
  (status, out, _, heavy), *errors = results([ask, *(argv for argv, _ in mine)], tmp_path)
  assert status == 0 and 'usage: bigjax' in out and heavy == []
  for (argv, words), (status, _, err, heavy) in zip(mine, errors, strict=True):
    assert status == 2 and len(err.splitlines()) == 1 and words in err, (argv, err)
    assert heavy == [], (argv, heavy)


def test_the_check_sees_jax(tmp_path):
  """Where a generator is really looked for, JAX is imported: the list is not always empty."""
  ((status, _, err, heavy),) = results([['sample', '--params=absent.npz']], tmp_path)
  assert status == 2 and 'absent.npz' in err and 'jax' in heavy


def test_a_generator_is_loaded_from_the_verb():
  """`from bigjax import sample; sample.load(...)`, and nothing that is not there."""
  from bigjax import sample
  from bigjax.sampling import loaded

  assert sample.load is loaded.load and sample.Loaded is loaded.Loaded
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    sample.lod  # noqa: B018
