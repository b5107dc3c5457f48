"""What is missing is said first, by name."""

import importlib.util

import pytest

from bigjax import __main__
from bigjax.core import errors


def without(monkeypatch, *missing):
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name, *rest: None if name in missing else found(name, *rest)
  )


def test_what_is_missing_is_named(monkeypatch):
  errors.need('nothing', 'train', 'numpy')
  without(monkeypatch, 'a', 'b')
  with pytest.raises(errors.UserError, match=r'^x needs a, which is not .*bigjax.plan'):
    errors.need('x', 'plan', 'numpy', 'a')
  with pytest.raises(errors.UserError, match=r'^x needs a and b, which are not'):
    errors.need('x', 'plan', 'a', 'b')


@pytest.mark.parametrize(
  ('missing', 'words', 'extra'),
  [
    ('libtpu', ['plan', '--topology', 'v3-8'], 'plan'),
    ('matplotlib', ['plan', '--topology', 'v3-8'], 'plan'),
    ('libtpu', ['doctor', '--topology', 'v3-8'], 'plan'),
    ('flatbuffers', ['export', '--params', 'none.npz', '--format', 'stablehlo'], 'export'),
    ('matplotlib', ['evaluate', '--params', 'none.npz', '--sweep', '0.5,1'], 'train'),
    ('matplotlib', ['evaluate', '--workdir', 'none', '--checkpoints', 'all'], 'train'),
    ('matplotlib', ['train'], 'train'),
    ('clu', ['train'], 'train'),
  ],
)
def test_a_verb_without_its_extra_says_so_before_all_else(
  tmp_path, monkeypatch, capsys, missing, words, extra
):
  monkeypatch.chdir(tmp_path)
  without(monkeypatch, missing)
  assert __main__.main(words) == 2
  out, err = capsys.readouterr()
  assert not out and err.count('\n') == 1
  assert missing in err and f"pip install 'bigjax[{extra}]'" in err
  assert not list(tmp_path.iterdir())
