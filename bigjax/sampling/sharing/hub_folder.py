"""A folder that the Hugging Face hub understands: a generator, its picture, and a page about it.

  README.md                   front matter (licence, tags, scores as a model-index), then the page
  generator.safetensors       with its card, generator.json: what --params and sample.load read
  samples.png                 a class grid
  config.json                 what the run was asked for, where there was one

The page says what is known, and nothing else: scores with their protocol, those of these very
weights alone. Paths of this machine are cut to their last names, wherever they lie.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from bigjax.core import errors, files
from bigjax.sampling import generator_file as cards
from bigjax.sampling.loaded import Loaded
from bigjax.sampling.sharing import addresses, showing

README, PICTURE, CONFIG = 'README.md', 'samples.png', 'config.json'
FILES = (README, addresses.FILE, 'generator.json', PICTURE, CONFIG)
MARK = re.compile(r'\n<!-- bigjax export --hub; ([0-9a-f]{16}) -->\n\Z')
MOST_SHOWN = 10  # classes in the picture


class Score(NamedTuple):
  """A score: its name, which is its protocol; over seeds; what real images get (None: unknown)."""

  name: str
  value: float
  std: float | None = None
  real: float | None = None


class Scores(NamedTuple):
  """Scores by one protocol, what else decides them, and what their names do not say of it."""

  scores: tuple[Score, ...]
  protocol: Mapping[str, Any]
  beside: str = ''


# --- what is published


def without_paths(value: Any) -> Any:
  """A value of JSON of which no text is a path of this machine: its last name stays.

  'folder:/home/me/photos' becomes 'folder:photos'.
  """
  if isinstance(value, dict):
    return {key: without_paths(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [without_paths(one) for one in value]
  if not isinstance(value, str):
    return value
  if '://' in value:  # a bucket is nobody's business, nor is what signs an address
    return os.path.basename(addresses.printable(value).rstrip('/'))
  kind, colon, path = value.rpartition(':')
  if re.match(r'~|/|\.{1,2}/', path) or kind == 'folder':
    return kind + colon + os.path.basename(os.path.normpath(path))
  return value


def published_card(card: Mapping[str, Any], licence: str) -> dict[str, Any]:
  """A card for others: without this machine's paths, with the licence of the weights."""
  kept = ('class_names', 'architecture', 'class_numbers')  # in which a slash is no folder's
  told = {key: value if key in kept else without_paths(value) for key, value in card.items()}
  if licence != 'unknown':
    told['license'] = '; '.join([*filter(None, [data_licence(card)]), f'weights: {licence}'])
  return told


def data_licence(card: Mapping[str, Any]) -> str:
  """What a card says of the licence of the data: 'data: CC BY 4.0', '' for nothing."""
  return str(card.get('license') or '').partition('; weights:')[0].strip()


def finite(value: Any) -> float | None:
  """A number as a float, None where it is none that can be written."""
  known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
  return float(value) if known else None


def without_num(name: str) -> str:
  """A score's name without its number of samples, in which those of real images may differ."""
  return re.sub(r'(?<=[a-z])\d+k?(?=_|$)', '', name, count=1)


def evaluated(workdir: str, digest: str) -> list[Scores]:
  """What `bigjax evaluate` found of weights of that digest, the newest of each protocol.

  Raises:
    UserError: its file is damaged.
  """
  path, found = os.path.join(workdir, 'evaluation', 'scores.jsonl'), {}
  if not os.path.isfile(path):
    return []
  with open(path, encoding='utf-8', errors='replace') as file:
    for line in file:
      try:
        row = json.loads(line)
        about, floor = dict(row['protocol']), dict(row.get('floor') or {})
        if about.get('generator_digest') != digest:
          continue
        real = {without_num(name): value for name, value in floor.items()}
        scores = tuple(
          Score(name, value, finite(one.get('std')), finite(real.get(without_num(name))))
          for name, one in row['scores'].items()
          if (value := finite(one['value'])) is not None
        )
        key = json.dumps([about, [score.name for score in scores]], sort_keys=True)
      except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise errors.UserError(
          f'{path!r} is damaged at: {line[:40]!r}; mend or remove it.'
        ) from None
      if scores:
        found[key] = Scores(scores, about)
  return list(found.values())


def of_the_run(workdir: str | None, card: Mapping[str, Any]) -> list[Scores]:
  """What the run itself said of this step: summary.json beside real images, or the card alone."""
  scores: Any = card.get('scores')
  real: dict[str, Any] = {}
  about: dict[str, Any] = {'by': 'the run, at its end'}
  if workdir:
    path = os.path.join(workdir, 'summary.json')
    summary = files.read_json(path) if os.path.isfile(path) else {}
    if not isinstance(summary, dict) or summary.get('step') != card.get('step'):
      return []
    floor = summary.get('real')
    real = floor if isinstance(floor, dict) else {}
    scores = {name: value for name, value in summary.items() if name in real}
    about |= {'real': summary.get('floor_of', 'real'), 'bigjax': summary.get('bigjax')}
    config = config_of(workdir)
    about |= {key: config[key] for key in ('eval.name', 'eval.num_samples') if key in config}
  told = (about.get('eval.name'), about.get('eval.num_samples'))
  beside = f' (eval.name={told[0]}, {told[1]} samples)' if None not in told else ' (of the run)'
  found = [
    Score(name, value, None, finite(real.get(name)))
    for name, given in (scores if isinstance(scores, dict) else {}).items()
    if (value := finite(given)) is not None
  ]
  about = {key: value for key, value in about.items() if value is not None}
  return [Scores(tuple(found), about, beside)] if found else []


def config_of(workdir: str | None) -> dict[str, Any]:
  """The config of a run, {} where there is none.

  Raises:
    UserError: it cannot be read.
  """
  path = os.path.join(workdir or '', CONFIG)
  config = files.read_json(path) if workdir and os.path.isfile(path) else {}
  return config if isinstance(config, dict) else {}


# --- the page


def data_name(card: Mapping[str, Any]) -> str:
  """What it was trained on, in a word: 'digits', 'cifar10', a folder's name."""
  given = str(without_paths(card.get('data') or 'unknown data'))
  kind, _, name = given.partition(':')
  return name if kind in ('folder', 'tfds', 'hf') and name else given


def task_of(loaded: Loaded) -> str:
  """The hub's name of what it does; of clips, for which the hub has none, ours."""
  clips = len(loaded.shape) == 4
  return 'unconditional-video-generation' if clips else 'unconditional-image-generation'


def front_matter(loaded: Loaded, title: str, licence: str, found: Sequence[Scores]) -> str:
  """The YAML at the head of the page, between its lines of dashes."""
  card, clips = loaded.card, len(loaded.shape) == 4
  tags = ['bigjax', 'jax', 'flax', card['algorithm'], 'video' if clips else 'image-generation']
  told: dict[str, Any] = {
    'license': licence,
    'library_name': 'bigjax',
    **({} if clips else {'pipeline_tag': task_of(loaded)}),
    'tags': tags + (['class-conditional'] if loaded.num_classes > 1 else []),
  }
  name = data_name(card)
  results = [
    {
      'task': {'type': task_of(loaded)},
      'dataset': {'type': re.sub(r'\W+', '-', name.lower()).strip('-') or 'data', 'name': name},
      'metrics': [
        {'type': re.split(r'[^A-Za-z_]', score.name)[0].strip('_') or 'score',
         'name': score.name + one.beside, 'value': float(f'{score.value:.6g}')}
        for score in one.scores
      ],
    }
    for one in found
  ]  # fmt: skip
  if results:
    told['model-index'] = [{'name': title, 'results': results}]
  return f'---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100)}---\n'


def plain(text: Any) -> str:
  """A text of somebody's in one line of Markdown in which nothing has a meaning."""
  words = ' '.join(str(text).split())
  words = ''.join(c if c.isprintable() else '\ufffd' for c in words)
  return re.sub(r'([\\`*_\[\]<>|#!~$&])', r'\\\1', words)


def tables(found: Sequence[Scores]) -> Iterable[str]:
  """Lines with a table of scores for each protocol, and what else decides them."""
  for one in found:
    spread, real = (any(s[i] is not None for s in one.scores) for i in (2, 3))
    heads = ['score', 'samples', *(['real images'] if real else [])]
    yield from ('| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|')
    for score in one.scores:
      value = f'{score.value:.4g}' + (f' ± {score.std:.2g}' if score.std is not None else '')
      real_ones = '' if score.real is None else f'{score.real:.4g}'
      yield '| ' + ' | '.join([f'`{score.name}`', value, *([real_ones] if real else [])]) + ' |'
    yield ''
    if spread:
      yield 'Means and standard deviations over the seeds of the latents.'
    yield 'What decides these scores beside what their names say:'
    yield ''
    yield '```json'
    yield json.dumps(without_paths(dict(one.protocol)), indent=2, ensure_ascii=False)
    yield '```'
    yield ''


def page(
  loaded: Loaded, title: str, licence: str, found: Sequence[Scores], where: str, sha256: str
) -> str:
  """README.md.

  Args:
    loaded: the generator.
    title: of the page.
    licence: of the weights, an identifier of the hub.
    found: scores.
    where: the generator will be found: OWNER/NAME.
    sha256: of its file.
  """
  card, clips, classes = loaded.card, len(loaded.shape) == 4, loaded.class_names
  kind = 'clips' if clips else 'images'
  facts = [
    ('network', f'{plain(card["algorithm"])}, {showing.num_parameters(loaded):,} parameters'),
    (kind, f'{showing.size_of(loaded)}, {"grey" if loaded.shape[-1] == 1 else "colour"}'),
    ('trained on', plain(data_name(card))),
    ('trained for', _lasted(card)),
    ('sampled', f'{loaded.spec()}, unless told otherwise'),
    ('weights', f'digest `{loaded.digest}`; the file has the SHA-256 `{sha256}`'),
    ('made with', f'bigjax {plain(card.get("bigjax", "of an unknown version"))}'),
  ]
  if loaded.num_classes > 1:
    some = ', '.join(plain(name) for name in classes[:20])
    facts.insert(2, ('classes', f'{len(classes):,}: {some}{", ..." if len(classes) > 20 else ""}'))
  lines = [
    f'# {plain(title)}', '',
    f'A generator of {kind}, trained with bigjax, a JAX system for BigGAN and its family.', '',
    f'![samples, a row per class]({PICTURE})', '',
    '## Use', '',
    '```python',
    'from bigjax import sample',
    '',
    f"gen = sample.load('hf://{where}')  # or the path of this folder",
    f'{kind} = gen(num=16, seed=0)  # uint8 {_shape(16, loaded.shape)}',
    '```', '',
    f'or `bigjax sample --params hf://{where} --out samples.png`.', '',
    '## What it is', '',
    '| | |', '|---|---|',
    *(f'| {name} | {words} |' for name, words in facts if words), '',
  ]  # fmt: skip
  lines += ['## Scores', '', *(tables(found) if found else ['None were measured.', ''])]
  lines += ['## Licence', '', _licence(card, licence), '']
  text = front_matter(loaded, title, licence, found) + '\n' + '\n'.join(lines).rstrip() + '\n'
  return f'{text}\n<!-- bigjax export --hub; {_digest(text)} -->\n'


def _shape(num: int, shape: Sequence[int]) -> str:
  return f'[{", ".join(map(str, (num, *shape)))}]'


def _lasted(card: Mapping[str, Any]) -> str:
  step, seen = card.get('step'), card.get('images_seen')
  words = [f'{step:,} steps'] if isinstance(step, int) else []
  return ', '.join(words + ([f'{seen:,} images shown'] if isinstance(seen, int) else []))


def _licence(card: Mapping[str, Any], licence: str) -> str:
  data = plain(data_licence(card))
  words = {'unknown': 'none was named', 'other': 'to be named here by whoever publishes them'}
  weights = words.get(licence, licence)
  return f'Weights: {weights}. ' + (f'{data[:1].upper()}{data[1:]}.' if data else '')


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- the folder


def check_folder(folder: str) -> None:
  """Refuse a place that is no folder, or whose page somebody has written.

  Raises:
    UserError: says so.
  """
  path = os.path.join(folder, README)
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise errors.UserError(f'--hub={folder} is a file; give a folder.')
  if not os.path.exists(path):
    return
  try:
    with open(path, encoding='utf-8', errors='replace') as file:
      text = file.read()
  except OSError as error:
    raise errors.UserError(f'{path!r} cannot be read ({error.strerror}).') from None
  mark = MARK.search(text)
  if not mark or _digest(text[: mark.start()]) != mark[1]:
    raise errors.UserError(
      f'{path!r} is not as `bigjax export --hub` left it, and would be lost: move it, or give '
      'another folder.'
    )


def picture(loaded: Loaded) -> Any:
  """A grid of some classes, evenly chosen."""
  num = min(loaded.num_classes, MOST_SHOWN)
  some = [i * loaded.num_classes // num for i in range(num)]
  clips = len(loaded.shape) == 4
  return loaded.grid(some, num=(2 if clips else showing.EACH) * num if num > 1 or clips else 40)


def write(
  folder: str, loaded: Loaded, workdir: str | None, title: str, where: str, licence: str
) -> list[str]:
  """Write the folder; return the names of the files in it that belong to it.

  Args:
    folder: made where it is missing.
    loaded: the generator, with everything stored that its file is to have.
    workdir: of the run that it is of, on this machine; None: of none.
    title: of the page.
    where: OWNER/NAME that the page tells people to load.
    licence: of the weights, an identifier of the hub.
  Raises:
    UserError: the folder's page is somebody's, or something of the workdir cannot be read.
  """
  check_folder(folder)
  card = published_card(loaded.card, licence)
  found = evaluated(workdir, loaded.digest) if workdir else []
  found += of_the_run(workdir, loaded.card)
  image, config = picture(loaded), config_of(workdir)
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, addresses.FILE)
  cards.save(path, loaded.stored, card)
  with open(path, 'rb') as file:
    sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
  with files.whole(os.path.join(folder, PICTURE)) as file:
    image.save(file, 'png')
  if config:
    files.write_json(os.path.join(folder, CONFIG), without_paths(config))
  with files.whole(os.path.join(folder, README), 'w') as file:
    file.write(page(loaded, title, licence, found, where, sha256))
  return [name for name in FILES if name != CONFIG or config]
