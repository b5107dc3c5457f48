"""A page of bigjax view without a generator: its images are plain, and say what was asked for."""

import contextlib
import dataclasses
import threading

import numpy as np

from bigjax.core import errors
from bigjax.sampling.page import server
from bigjax.sampling.page.explorer import Settings

ABOUT = {
  'algorithm': 'stub', 'class_names': ['cat', '<b>dog</b>', 'eel'], 'height': 8, 'width': 8,
  'frames': 0, 'frame_rate': 0.0, 'step': None, 'measurable': False, 'most_seed': 2**32 - 1,
  'truncation': {'least': 0.5, 'most': 2.0, 'untruncated': True, 'value': None},
  'options': [{'name': 'steps', 'help': 'calls of the network', 'value': '25'}],
}  # fmt: skip


def colour(settings):
  """Of the image of these settings: red is the class, green the seed, blue the way."""
  whole = not settings.truncation
  return [
    80 * settings.classes[0], settings.seeds[0] % 256, round(200 * settings.way) + 50 * whole,
  ]  # fmt: skip


class Explorer:
  """In the place of explorer.Explorer."""

  rate, command = 0.0, staticmethod(lambda settings: f'bigjax sample --seeds {settings.seeds[0]}')

  def __init__(self, about, step):
    self._about, self.step, self.asked, self.before = about, step, [], lambda: None
    self.loaded = type('Loaded', (), {'num_classes': len(about['class_names'])})

  def about(self):
    return {**self._about, 'step': self.step}

  def spec(self, settings):
    if dict(settings.options).get('steps') == 'many':
      raise errors.UserError('steps=many is no number.')
    return None, 'between 1 and 2; --recalibrate measures them.'

  def image(self, settings: Settings):
    self.spec(settings)
    self.before()
    self.asked.append(settings)
    image = np.broadcast_to(np.array(colour(settings), np.uint8), (8, 8, 3)).copy()
    image[0, 0] = 255  # a pixel in a corner
    return image


@dataclasses.dataclass
class Shelf:
  """In the place of explorer.Shelf; `path` is a workdir's, or ''."""

  path: str = ''
  about: dict = dataclasses.field(default_factory=lambda: ABOUT)

  def __post_init__(self):
    self.lock, self.is_workdir = threading.Lock(), bool(self.path)
    self.explorers = {}

  def at(self, step=None):
    if step == 404:
      raise errors.UserError('there is no checkpoint 404.')
    step = 2 if self.is_workdir and step is None else step
    return self.explorers.setdefault(step, Explorer(self.about, step))


@contextlib.contextmanager
def served(shelf, title='a stub'):
  """The port at which its page is, meanwhile."""
  listening = server.Server(0)
  listening.site = server.Site(shelf, title)
  thread = threading.Thread(target=listening.serve_forever, args=[0.05])
  thread.start()
  try:
    yield listening.server_port
  finally:
    listening.shutdown()
    listening.server_close()
    thread.join()
