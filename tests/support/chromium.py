"""A headless Chromium, driven by its DevTools protocol over a pipe: no port, no package."""

import base64
import contextlib
import fcntl
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest
from PIL import Image

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = (
  '--headless', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--disable-extensions', '--hide-scrollbars', '--remote-debugging-pipe',
)  # fmt: skip
PATIENCE = 60  # seconds for an answer; machines of tests are busy


def found():
  """The program, or None: $BIGJAX_CHROMIUM, or what is on the path."""
  return os.environ.get('BIGJAX_CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
  """A tab. `complaints` are errors of the console, of scripts, and of the page's own policy."""

  def __init__(self, ask, size):
    self._ask, self.complaints = ask, []
    target = ask('Target.createTarget', {'url': 'about:blank'})['targetId']
    self.session = ask('Target.attachToTarget', {'targetId': target, 'flatten': True})['sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      self.do(f'{domain}.enable')
    self.resize(*size)

  def do(self, method, **params):
    return self._ask(method, params, self)

  def hear(self, method, params):
    if method == 'Runtime.exceptionThrown':
      details = params['exceptionDetails']
      self.complaints.append(details.get('exception', details).get('description', str(details)))
    elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
      self.complaints.append(f'{params["entry"]["text"]} {params["entry"].get("url", "")}')

  def resize(self, width, height):
    self.do(
      'Emulation.setDeviceMetricsOverride',
      width=width, height=height, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip

  def scheme(self, name):
    """As readers have it whose system is 'light' or 'dark'."""
    self.do(
      'Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': name}]
    )

  def open(self, url):
    self.do('Page.navigate', url=url)

  def value(self, expression):
    """What JavaScript says, after its promises."""
    answer = self.do(
      'Runtime.evaluate', expression=expression, awaitPromise=True, returnByValue=True
    )
    if 'exceptionDetails' in answer:
      raise AssertionError(answer['exceptionDetails'])
    return answer['result'].get('value')

  def until(self, expression):
    """Wait for something to become true, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
      with contextlib.suppress(AssertionError):  # of a page that is not there yet
        if found := self.value(expression):
          return found
      time.sleep(0.05)
    raise AssertionError(f'never true: {expression}; {self.complaints}')

  def press(self, selector, key, code):
    """Focus an element and press a key, as people do."""
    self.value(f'document.querySelector({json.dumps(selector)}).focus()')
    for kind in ('keyDown', 'keyUp'):
      self.do('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code)

  def screenshot(self, whole=False):
    """What is seen, or the whole page, as a picture."""
    data = self.do('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data']
    return Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB')


@contextlib.contextmanager
def browser(program, size=(1200, 900)):
  """Start it with a profile of its own; yields a function that opens a Page."""
  (low_read, to_write), (from_read, low_write) = os.pipe(), os.pipe()
  to_read, from_write = (fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (low_read, low_write))
  os.close(low_read)
  os.close(low_write)
  folder = tempfile.mkdtemp(prefix='bigjax-chromium-')
  sandbox = ['--no-sandbox'] if os.geteuid() == 0 else []
  line = [program, *FLAGS, *sandbox, f'--user-data-dir={folder}', 'about:blank']
  # It reads commands from number 3 and writes to number 4, whatever theirs are here.
  script = f'exec "$@" 3<&{to_read} 4>&{from_write}'
  process = subprocess.Popen(
    ['bash', '-c', script, 'chromium', *line],
    pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    stdin=subprocess.DEVNULL,
  )  # fmt: skip
  os.close(to_read)
  os.close(from_write)
  numbers, pages, left = itertools.count(1), {}, bytearray()

  def message():
    end = time.monotonic() + PATIENCE
    while b'\0' not in left:
      ready, _, _ = select.select([from_read], [], [], max(end - time.monotonic(), 0))
      part = os.read(from_read, 2**20) if ready else b''
      assert part, 'the browser has ended, or says nothing'
      left.extend(part)
    text, _, rest = bytes(left).partition(b'\0')
    left[:] = rest
    return json.loads(text)

  def ask(method, params, page=None):
    number = next(numbers)
    session = {'sessionId': page.session} if page else {}
    command = {'id': number, 'method': method, 'params': params, **session}
    os.write(to_write, json.dumps(command).encode() + b'\0')
    while (answer := message()).get('id') != number:
      if answer.get('sessionId') in pages:
        pages[answer['sessionId']].hear(answer['method'], answer['params'])
    assert 'error' not in answer, (method, answer)
    return answer['result']

  def new():
    page = Page(ask, size)
    pages[page.session] = page
    return page

  try:
    yield new
  finally:
    with contextlib.suppress(AssertionError, OSError):
      ask('Browser.close', {})
    os.close(to_write)
    try:
      process.wait(10)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
    os.close(from_read)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='module')
def chromium():
  """A function that opens a Page in a browser of the module's own."""
  program = found()
  if program is None:
    pytest.skip('there is no Chromium: install it, or set BIGJAX_CHROMIUM to the program')
  with browser(program) as new:
    yield new
