"""docs/bigjax.ipynb runs from its first cell to its last, as in Jupyter, and shows a real run."""

import base64
import io
import os
import re
import sys

import pytest
from PIL import Image

from bigjax.core import errors

from places import ROOT

NOTEBOOK = ROOT / 'docs' / 'bigjax.ipynb'
needs_kernel = pytest.mark.skipif(
  not (errors.is_installed('nbclient') and errors.is_installed('ipykernel')),
  reason="needs nbclient and ipykernel: pip install '.[test]'",
)


def read():
  nbformat = pytest.importorskip('nbformat', reason="needs nbformat: pip install '.[test]'")
  return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def data_of(cell, kind):
  """What a cell shows of a kind, such as image/png."""
  return [one.data[kind] for one in cell.outputs if kind in one.get('data', {})]


def picture(cell, kind='image/png'):
  """The picture that a cell shows."""
  (shown,) = data_of(cell, kind)
  return Image.open(io.BytesIO(base64.b64decode(shown)))


def shown(notebook):
  """What the cells that promise something show, checked; the movie."""
  by = {cell.source.split('\n')[-1].split('(')[0]: cell for cell in code_of(notebook)}
  texts = data_of(by['gen'], 'text/plain')
  assert len(texts) == 1 and re.fullmatch(r'<bigjax generator: biggan, 16 px, .*>', texts[0])
  for name, cell in by.items():
    if name in ('gen.grid', 'gen.image', 'display'):
      assert len(picture(cell).convert('RGB').getcolors(2**20)) > 2, cell.source
  assert picture(by['gen.image']).size == (128, 128)
  movie = picture(by['Movie'], 'image/gif')
  assert movie.n_frames == 32 and min(movie.size) > 2 * 48  # two rows of five images
  return movie


@needs_kernel
def test_it_runs(tmp_path, monkeypatch):
  """On digits, with a tiny network, in a folder of its own."""
  from nbclient import NotebookClient

  monkeypatch.setenv('BIGJAX_NOTEBOOK', 'tiny')
  monkeypatch.setenv('PATH', f'{os.path.dirname(sys.executable)}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
  flags = os.environ['XLA_FLAGS'].replace('--xla_force_host_platform_device_count=8', '')
  monkeypatch.setenv('XLA_FLAGS', flags)  # one device, as people have it
  notebook = read()
  where = {'metadata': {'path': str(tmp_path)}}
  NotebookClient(notebook, timeout=3600, kernel_name='python3', resources=where).execute()
  movie = shown(notebook)
  assert 'WARNING:absl' not in str([cell.outputs for cell in code_of(notebook)])
  frames = []
  for i in (0, 8, 20):
    movie.seek(i)
    frames.append(movie.convert('L').tobytes())
  assert len(set(frames)) == 3
  written = {path.name for path in tmp_path.iterdir()}
  assert {'digits', 'runs', 'contact_sheet.png', 'movie.gif', 'for_the_hub'} <= written
  assert (tmp_path / 'for_the_hub' / 'generator.safetensors').is_file()


def test_what_is_stored_is_of_a_real_run():
  """Cells in order, each run once, without an error, without a path of a machine."""
  notebook = read()
  assert [cell.execution_count for cell in code_of(notebook)] == [*range(1, 11)]
  shown(notebook)
  for cell in code_of(notebook):
    for one in cell.outputs:
      assert one.output_type != 'error'
      text = str(one.get('text', '')) + str(one.get('data', {}).get('text/plain', ''))
      assert not re.search(r'(?<![\w.])/(tmp|home|root|Users|work|opt)/', text), cell.source
  trained = next(cell for cell in code_of(notebook) if 'bigjax train' in cell.source)
  assert 'step 700' in str(trained.outputs) or '700 steps' in str(trained.outputs)
  assert NOTEBOOK.stat().st_size < 2**20
