"""A folder for the hub, what is sent there, to a hub of our own; generators in notebooks."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from bigjax import sample
from bigjax.core import errors
from bigjax.sampling import generator_file as cards
from bigjax.sampling.sharing import hub_folder, push

import fake_hub

TOKEN = 'hf_thisIsASecretOfTheUser'
has_hub = pytest.mark.skipif(
  not errors.is_installed('huggingface_hub'),
  reason="needs huggingface_hub: pip install 'bigjax[hub]'",
)
FILES = ['README.md', 'config.json', 'generator.json', 'generator.safetensors', 'samples.png']


@pytest.fixture(scope='module')
def gen(params):
  return sample.load(params)


@pytest.fixture
def hub(monkeypatch, tmp_path):
  with fake_hub.Files('localhost').running() as store, fake_hub.Hub(store, TOKEN).running() as hub:
    for name, value in {
      'HF_ENDPOINT': hub.url, 'HF_TOKEN': TOKEN, 'HF_HOME': str(tmp_path / 'home'),
      'BIGJAX_CACHE': str(tmp_path / 'cache'),
    }.items():  # fmt: skip
      monkeypatch.setenv(name, value)
    if errors.is_installed('huggingface_hub'):  # which looks at the environment when imported
      from huggingface_hub import constants

      monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
      monkeypatch.setattr(constants, 'ENDPOINT', hub.url)
    yield hub


def text_of(folder):
  return (folder / 'README.md').read_text(encoding='utf-8')


def card_of(folder):
  """The page as huggingface_hub reads it, metadata checked."""
  from huggingface_hub import ModelCard

  return ModelCard.load(str(folder / 'README.md'))


def scored(path, digest, **scores):
  """Add a row as `bigjax evaluate` writes it."""
  row = {
    'what': 'step 4', 'floor': {'fid2k_train_inception': 1.5}, 'floor_num': 2000,
    'protocol': {'generator_digest': digest, 'num': 10_000, 'seeds': [0, 1, 2],
                 'network': 'inception', 'reference': 'folder:/home/me/photos/train'},
    'scores': {name: {'value': value, 'std': 0.25, 'each': []} for name, value in scores.items()},
  }  # fmt: skip
  os.makedirs(path, exist_ok=True)
  with open(path / 'scores.jsonl', 'a', encoding='utf-8') as file:
    file.write(json.dumps(row) + '\n')


@has_hub
def test_a_run_becomes_a_folder_that_the_hub_understands(bigjax, workdir, gen, tmp_path):
  folder = tmp_path / 'small-digits'
  ask = ('--workdir', workdir, '--hub', folder, '--license', 'apache-2.0')
  status, said, _ = bigjax('export', *ask)
  assert status == 0 and said.startswith('wrote README.md, ')
  assert sorted(path.name for path in folder.iterdir()) == FILES
  card = card_of(folder)
  told = card.data.to_dict()
  assert told['license'] == 'apache-2.0' and told['library_name'] == 'bigjax'
  assert told['pipeline_tag'] == 'unconditional-image-generation' and 'biggan' in told['tags']
  summary = json.loads((workdir / 'summary.json').read_text())
  assert card.data.model_name == 'small-digits'
  for found in card.data.eval_results:
    assert found.dataset_name == 'digits'
    assert found.metric_name == f'{found.metric_type} (eval.name=pixels, 40 samples)'
    assert found.metric_value == pytest.approx(summary[found.metric_type], rel=1e-5)
  assert {one.metric_type for one in card.data.eval_results} == set(summary['real'])
  # The same generator, whose picture is that of its samples.
  theirs = sample.load(folder)
  assert theirs.digest == gen.digest and theirs.digest in card.text
  np.testing.assert_array_equal(theirs(num=3), gen(num=3))
  with Image.open(folder / 'samples.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(gen.grid()))
  assert json.loads((folder / 'config.json').read_text())['data.source'] == 'digits'
  licence = json.loads((folder / 'generator.json').read_text())['license']
  assert licence.startswith('data: CC BY 4.0') and licence.endswith('weights: apache-2.0')
  assert 'CC BY 4.0' in card.text


def test_scores_are_those_of_these_weights_with_their_protocol(workdir, gen, tmp_path):
  mine = tmp_path / 'run'
  scored(mine / 'evaluation', gen.digest, fid10k_train_inception=12.345678, nan=float('nan'))
  scored(mine / 'evaluation', 'of others', fid10k_train_inception=1.0)
  found = hub_folder.evaluated(str(mine), gen.digest)
  assert found[0].scores == (hub_folder.Score('fid10k_train_inception', 12.345678, 0.25, 1.5),)
  text = hub_folder.page(gen, 'a', 'mit', found, 'me/a', 'ab' * 32)
  assert '| `fid10k_train_inception` | 12.35 ± 0.25 | 1.5 |' in text and '"seeds": [' in text
  assert '/home/me' not in text and 'folder:train' in text
  assert 'type: fid\n' in text and 'value: 12.3457' in text
  scored(mine / 'evaluation', gen.digest, fid10k_train_inception=11.0)  # measured again
  (again,) = hub_folder.evaluated(str(mine), gen.digest)
  assert again.scores[0].value == 11.0
  (mine / 'evaluation' / 'scores.jsonl').write_text('{"protocol": 3}\n')
  with pytest.raises(errors.UserError, match='is damaged at'):
    hub_folder.evaluated(str(mine), gen.digest)
  assert hub_folder.evaluated(str(workdir), gen.digest) == []


@pytest.mark.parametrize(
  ('given', 'told'),
  [
    ('folder:/home/me/photos', 'folder:photos'),
    ('folder:photos/of/mine', 'folder:mine'),
    ('~/runs/a', 'a'),
    ('../a', 'a'),
    ('gs://secret-bucket/runs/a', 'a'),
    ('https://host/a.npz?signature=secret', 'a.npz'),
    ('tfds:cifar10', 'tfds:cifar10'),
    ('CC BY 4.0 (a/b)', 'CC BY 4.0 (a/b)'),
  ],
)
def test_paths_of_this_machine_are_nobodys_business(given, told):
  assert hub_folder.without_paths({'a': [given, 1]}) == {'a': [told, 1]}
  card = {'class_names': ['/m/0jbk', 'a'], 'data': given}
  assert hub_folder.published_card(card, 'unknown') == {**card, 'data': told}


@has_hub
def test_names_of_classes_cannot_write_the_page(gen, tmp_path):
  names = ['---\nlicense: mit', '[x](http://y)', '<script>', '| a |', '"q": {', "'", '\x1b[31m',
           '- a', 'no', '#']  # fmt: skip
  hostile = type(gen)(gen.sampler, gen.stored, {**gen.card, 'class_names': names})
  folder = tmp_path / 'a'
  hub_folder.write(str(folder), hostile, None, names[0], 'me/a', 'other')
  card = card_of(folder)
  assert card.data.license == 'other' and card.data.model_name == names[0]
  assert '<script>' not in card.text.replace('\\<script\\>', '') and '\x1b' not in text_of(folder)
  assert '](http' not in card.text.replace('\\](http', '')
  assert sample.load(folder).class_names == names


def test_a_page_that_somebody_wrote_is_not_lost(bigjax, params, tmp_path):
  ask = ('export', '--params', params, '--hub', tmp_path / 'a')
  status, said, _ = bigjax(*ask)
  assert status == 0 and '--license' in said
  assert bigjax(*ask, '--license', 'mit')[0] == 0  # over its own
  assert 'license: mit' in text_of(tmp_path / 'a')
  with open(tmp_path / 'a' / 'README.md', 'a', encoding='utf-8') as file:
    file.write('My words.\n')
  status, _, err = bigjax(*ask)
  assert status == 2 and 'would be lost' in err
  assert text_of(tmp_path / 'a').endswith('My words.\n')


@has_hub
def test_a_folder_is_sent_and_comes_back(bigjax, workdir, hub, gen, tmp_path):
  folder = tmp_path / 'a'
  folder.mkdir()
  (folder / 'diary.txt').write_text('mine')  # is not sent
  ask = ('--workdir', workdir, '--hub', folder, '--push', 'me/digits', '--license', 'mit')
  status, said, err = bigjax('export', *ask, '--private')
  assert status == 0, err
  assert f'sent to {hub.url}/me/digits (commit ' in said and hub.private == {'me/digits'}
  (commit, files), = hub.commits['me/digits']  # fmt: skip
  assert sorted(files) == FILES
  assert files == {name: (folder / name).read_bytes() for name in FILES}
  assert "sample.load('hf://me/digits')" in files['README.md'].decode()
  theirs = sample.load('hf://me/digits')
  assert theirs.digest == gen.digest
  assert TOKEN not in said + err and commit[:12] in said


@has_hub
def test_tokens_are_never_said(bigjax, params, hub, monkeypatch, tmp_path, caplog):
  ask = ('export', '--params', params, '--hub', tmp_path / 'a', '--push', 'me/digits')
  hub.echo = True
  status, said, err = bigjax(*ask)
  assert status == 2 and '--push=me/digits failed (' in err and 'is ready' in err
  assert '403' in err and '***' in err
  hub.echo = False
  monkeypatch.setenv('HF_TOKEN', 'hf_wrongButStillASecret')
  status, more, other = bigjax(*ask)
  assert status == 2 and '401' in other
  everything = said + err + more + other + caplog.text + text_of(tmp_path / 'a')
  assert 'hf_' not in everything.replace('hf_***', '')
  monkeypatch.delenv('HF_TOKEN')
  status, _, err = bigjax(*ask)
  assert status == 2 and 'hf auth login' in err and not hub.commits


@has_hub
def test_private_is_not_pushed_in_public(bigjax, params, hub, tmp_path):
  hub.commit('me/digits', {'README.md': b''})
  ask = ('--params', params, '--hub', tmp_path / 'a', '--push', 'me/digits', '--private')
  status, _, err = bigjax('export', *ask)
  assert status == 2 and 'is public: nothing was sent' in err
  assert len(hub.commits['me/digits']) == 1


def test_what_looks_like_a_token_is_hidden():
  words = push.hidden('a hf_abcDEF123 b Bearer xyz c\nsecret http://s3/x?sign=y z', 'secret')
  assert words == 'a *** b Bearer *** c *** http://s3/x?*** z'


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    (['--push=me/x'], '--hub=DIR'),
    (['--license=mit'], '--hub=DIR'),
    (['--hub=x', '--out=y.npz'], 'leave out --out'),
    (['--hub=x', '--format=npz'], 'leave out --format'),
    (['--hub=x', '--private'], '--push=OWNER/NAME'),
    (['--hub=x', '--push=digits'], 'OWNER/NAME'),
    (['--hub=x', '--push=https://huggingface.co/me/x'], 'OWNER/NAME'),
    (['--hub=x', '--license=apache2'], 'did you mean apache-2.0?'),
  ],
)
def test_what_means_nothing_is_refused_at_once(words, said, bigjax):
  status, _, err = bigjax('export', '--params=nowhere.npz', *words)
  assert status == 2 and said in err and len(err.splitlines()) == 1


def test_without_the_library_it_is_named(bigjax, monkeypatch):
  monkeypatch.setattr(errors, 'is_installed', lambda module: False)
  status, _, err = bigjax('export', '--params=nowhere.npz', '--hub=x', '--push=me/x')
  assert status == 2 and "pip install 'bigjax[hub]'" in err


# --- in a notebook


def test_a_generator_says_what_it_is_in_a_line(gen):
  said = repr(gen)
  count = re.search(r' ([\d,]+) parameters', said)[1]
  learnt = np.sum([np.size(leaf) for leaf in cards.trees.flat(gen.stored['params']).values()])
  assert int(count.replace(',', '')) == learnt
  assert said == (
    f'<bigjax generator: biggan, 16 px, grey, 10 classes, untruncated, {count} parameters, '
    f'step 4, digest {gen.digest}>'
  )


def test_images_and_grids_are_pictures(gen):
  image = gen.image('3', seed=5, truncation=0.5)
  assert image.mode == 'L' and image.size == (16, 16)
  np.testing.assert_array_equal(np.asarray(image), gen('3', 0.5, 5)[0, ..., 0])
  weights = np.full(10, 0.1, np.float32)
  np.testing.assert_array_equal(np.asarray(gen.image(weights)), gen(weights[None])[0, ..., 0])
  grid = gen.grid([3, '7'], seed=2, num=6, names=False)
  assert grid.mode == 'L' and grid.size == ((3 * 17 + 1) * 3, (2 * 17 + 1) * 3)
  cells = np.asarray(grid)[3::3, 3::3]
  found = [cells[i * 17 :, j * 17 :][:16, :16] for i in range(2) for j in range(3)]
  np.testing.assert_array_equal(found, gen([3, 3, 3, 7, 7, 7], seed=2)[..., 0])
  seeds = np.asarray(gen.grid([3, 7], seeds=[8, 9], names=False))[3::3, 3::3]
  np.testing.assert_array_equal(seeds[17:33, 17:33], np.asarray(gen.image(7, seed=9)))
  named = gen.grid([3, 7], seeds=[8, 9])
  assert named.mode == 'RGB' and named.width > 2 * 17 * 3
  for wrong in (
    lambda: gen.image([3, 4]),
    lambda: gen.grid(weights[None]),
    lambda: gen.grid(seeds=[1], num=3),
    lambda: gen.grid('11'),
  ):
    with pytest.raises(errors.UserError):
      wrong()
