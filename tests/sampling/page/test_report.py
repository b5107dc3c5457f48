"""Reports of runs and exports: one file that has everything in it."""

import base64
import html.parser
import io
import re

import pytest
from PIL import Image

from bigjax.core import files, progress
from bigjax.sampling.page import run_files

from tiny_run import bigjax  # noqa: F401 - a fixture


class Reader(html.parser.HTMLParser):
  """Tags that are open at a time, and what a report shows and refers to."""

  VOID = ('meta', 'img', 'link', 'br', 'input')

  def __init__(self):
    super().__init__()
    self.open, self.sources, self.text, self.tags = [], [], [], set()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.sources += [value for name, value in attrs if name in ('src', 'href', 'srcset', 'data')]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data.strip())


def read(path):
  reader = Reader()
  reader.feed(path.read_text(encoding='utf-8'))
  assert reader.open == []
  return reader


def pictures(reader):
  """The bytes of those that lie in a report."""
  found = [re.fullmatch(r'data:image/(png|webp);base64,(.+)', one) for one in reader.sources]
  assert all(found)  # it refers to nothing else
  return [base64.b64decode(one[2]) for one in found]


def test_a_run_with_its_pictures(bigjax, workdir, tmp_path):  # noqa: F811
  path = tmp_path / 'new' / 'report.html'
  status, out, _ = bigjax('view', workdir, '--html', path)
  assert status == 0 and out.startswith(f'{path}: a report, ')
  reader = read(path)
  names = ['samples/00000004.png', 'curves.png', 'vital_signs.png', 'samples/00000002.png']
  assert pictures(reader) == [(workdir / name).read_bytes() for name in names]
  assert not {'script', 'link', 'iframe', 'object', 'form'} & reader.tags
  assert "default-src 'none'" in path.read_text(encoding='utf-8')
  text = '\n'.join(reader.text)
  summary = files.read_json(str(workdir / 'summary.json'))
  at = reader.text.index('coverage')
  assert summary['step'] == 4 and 'real images' in text
  assert reader.text[at + 2] == f'{summary["coverage"]:.4g}' or str(summary['coverage']) in text
  assert f'{summary["real"]["coverage"]:.4g}' in reader.text
  for word in ('biggan on digits, step 4 of 4', 'optim.d_steps', '1,347', 'Card'):
    assert word in text
  clock = files.read_json(str(workdir / 'clock.json'))['seconds']
  assert reader.text[reader.text.index('wall clock') + 1].strip() == progress.duration(clock)


def test_an_export_has_a_grid_made_for_it(bigjax, params, tmp_path):  # noqa: F811
  path = tmp_path / 'report.html'
  assert bigjax('view', params, '--html', path)[0] == 0
  reader = read(path)
  (body,) = pictures(reader)
  with Image.open(io.BytesIO(body)) as image:
    assert image.width > 8 * 48 and image.height > 10 * 48
  assert 'biggan, an exported generator' in reader.text


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['nowhere'], "there is neither a workdir nor an exported generator 'nowhere'"),
    (['.', '--html=x.html'], "'.' is not the workdir of a run: it has no card.json."),
    (['.'], "'.' has no checkpoints"),
    (['x.npz', '--html=x.pdf'], '--html=x.pdf: give a name that ends in .html'),
    (['x.npz', '--html=x.html', '--port=80'], '--port is of a page'),
    (['x.npz', '--checkpoint=best'], '--checkpoint best is of a workdir'),
    (['x.npz', '--port=65536'], '--port=65536: give at most 65,535.'),
  ],
)
def test_mistakes_are_a_sentence(bigjax, tmp_path, monkeypatch, words, said):  # noqa: F811
  monkeypatch.chdir(tmp_path)
  status, out, err = bigjax('view', *words)
  assert (status, out) == (2, '') and said in err and err.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written(bigjax, workdir, tmp_path):  # noqa: F811
  (tmp_path / 'file').write_text('mine')
  status, _, err = bigjax('view', workdir, '--html', tmp_path / 'file' / 'x.html')
  assert status == 2 and 'cannot be written' in err and err.count('\n') == 1


# --- What a run has left


def test_scores_are_of_evaluations_and_by_protocol(tmp_path):
  """Of a run that is being written: rows cut off, scores that are no numbers."""
  (tmp_path / 'summary.json').write_text('{"real": {"fid": 1.0, "kid": 0.5}}')
  rows = [f'{{"step": {step}, "fid": {100 / step}, "d_loss": 1}}' for step in range(1, 21)]
  rows.insert(3, '{"step": 3, "d_loss": 2}')
  (tmp_path / 'metrics.jsonl').write_text('\n'.join([*rows, '{"step": 21, "f']))
  (first,) = run_files.score_tables(str(tmp_path))
  steps = [1, *range(14, 21)]
  assert first.head == ['score', *(f'step {step}' for step in steps), 'real images']
  assert first.rows[0] == ['fid', *(f'{100 / step:.4g}' for step in steps), '1']
  assert first.rows[1] == ['kid', *'–' * len(steps), '0.5']
  (tmp_path / 'evaluation').mkdir()
  row = '{"what": "step 20", "scores": {"fid10k": {"value": 5.25}}, "floor": {"fid10k": 2}}\n'
  (tmp_path / 'evaluation' / 'scores.jsonl').write_text(row)
  _, second = run_files.score_tables(str(tmp_path))
  assert second.title == 'Scores by protocol, of bigjax evaluate'
  assert second.rows == [['fid10k', '5.25', '2']]


def test_a_run_that_has_just_begun_and_one_that_is_damaged(tmp_path):
  assert run_files.about(str(tmp_path)) == {
    'grids': [], 'pictures': [], 'tables': [], 'events': [], 'checkpoints': [], 'step': 0,
    'steps': 0,
  }  # fmt: skip
  for name in ('metrics.jsonl', 'scores.jsonl', 'events.jsonl', 'summary.json', 'config.json'):
    (tmp_path / name).write_bytes(b'[{"step": "\xff\n' * 3)
  assert run_files.about(str(tmp_path))['tables'] == []


def test_films_stand_for_their_strips(tmp_path):
  (tmp_path / 'samples').mkdir()
  for name in ('00000001.png', '00000002.png', '00000002.webp', 'note.txt', '.png', '3 4.png'):
    (tmp_path / 'samples' / name).write_bytes(b'x')
  found = run_files.pictures(str(tmp_path))
  assert [one.name for one in run_files.grids(found)] == [
    'samples/00000001.png', 'samples/00000002.webp'
  ]  # fmt: skip
