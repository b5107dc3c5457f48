"""Who is answered by the page's server, and with what: over real sockets, of plain images."""

import http.client
import io
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import pytest
import setuptools
from PIL import Image

from bigjax.core import errors
from bigjax.sampling.page import server

import stub_pages
from places import ROOT


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder that looks like a run's, and a secret beside it."""
  outside = tmp_path_factory.mktemp('view')
  (outside / 'secret.png').write_bytes(b'a secret')
  folder = outside / 'run'
  for name in ('samples', 'evaluation', 'checkpoints'):
    (folder / name).mkdir(parents=True)
  Image.new('RGB', (4, 4), 'red').save(folder / 'curves.png')
  Image.new('RGB', (4, 4), 'blue').save(folder / 'samples' / '00000004.png')
  (folder / 'config.json').write_text('{"run.steps": 8}')
  (folder / 'leak.png').symlink_to(outside / 'secret.png')
  (folder / 'within.png').symlink_to(folder / 'curves.png')
  (folder / 'sub').mkdir()
  (folder / 'sub' / 'other.png').write_bytes(b'not shown')
  os.mkfifo(folder / 'pipe.png')
  return folder


@pytest.fixture(scope='module')
def shelf(folder):
  return stub_pages.Shelf(str(folder))


@pytest.fixture(scope='module')
def port(shelf):
  with stub_pages.served(shelf) as port:
    yield port


def ask(port, target, method='GET', **headers):
  """(Status, headers, body) of a request."""
  line = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
  line.putrequest(method, target, skip_host='Host' in headers)
  for name, value in headers.items():
    if value is not None:
      line.putheader(name.replace('_', '-'), value)
  line.endheaders()
  answer = line.getresponse()
  body = answer.read()
  line.close()
  return answer.status, answer.headers, body


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    ('localhost', 200), ('127.0.0.1', 200), ('localhost:1234', 200), ('LOCALHOST:80', 200),
    ('evil.example', 403), ('localhost.evil.example', 403), ('127.0.0.1.evil.example', 403),
    ('evil.example:8000', 403), ('localhost:80@evil.example', 403), ('localhost:123456', 403),
    ('0.0.0.0', 403), ('', 403), (None, 403),
  ],
)  # fmt: skip
def test_other_hosts_are_refused(port, host, status):
  for target in ('/', '/about.json', '/run/curves.png', '/nowhere'):
    found = ask(port, target, Host=host)[0]
    assert found == (404 if status == 200 and target == '/nowhere' else status)


def test_two_hosts_are_none(port):
  with socket.create_connection(('127.0.0.1', port)) as line:
    line.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n')
    assert b' 403 ' in line.recv(100)


@pytest.mark.parametrize('site', ['cross-site', 'same-site'])
def test_another_page_can_only_link_to_this_one(port, site):
  assert ask(port, '/image?seed=1', Sec_Fetch_Site=site)[0] == 403
  assert ask(port, '/run/curves.png', Sec_Fetch_Site=site)[0] == 403
  assert ask(port, '/', Sec_Fetch_Site=site)[0] == 200
  assert ask(port, '/image?seed=1', Sec_Fetch_Site='same-origin')[0] == 200


@pytest.mark.parametrize(
  'target',
  [
    '/run/../secret.png', '/run/%2e%2e/secret.png', '/run/..%2fsecret.png',
    '/run/%2e%2e%2fsecret.png', '/../secret.png', '/run//etc/passwd', '/run/%2fetc%2fpasswd',
    '//etc/passwd', '/run/leak.png', '/run/pipe.png', '/run/sub/other.png',
    '/run/config.json', '/run/', '/run', '/run/curves.png/',
    '/run/samples', '/run/samples/../curves.png', '/run/curves.png%00', '/run/%ff', '/page.html',
    '/page.py', '/server.py', '/__init__.py', 'http://evil.example/', '/.git/config',
    '/run/nowhere.png',
  ],
)  # fmt: skip
def test_what_is_not_listed_is_not_there(port, target):
  status, _, body = ask(port, target, Host='localhost')
  assert status == 404 and b'secret' not in body and b'not shown' not in body


def test_what_is_listed_is_there(port, folder):
  for name in ('curves.png', 'samples/00000004.png', 'within.png'):
    status, headers, body = ask(port, f'/run/{name}?123')
    assert status == 200 and headers['Content-Type'] == 'image/png'
    assert body == (folder / name).read_bytes()
  for target, kind in {'/': 'html', '/page.css': 'css', '/page.js': 'javascript'}.items():
    status, headers, body = ask(port, target)
    assert status == 200 and headers['Content-Type'] == f'text/{kind}; charset=utf-8' and body


def test_the_page_asks_nobody_else():
  """It names no other address, and its policy forbids them."""
  for name in ('page.html', 'page.css', 'page.js'):
    assert not re.search(r'(https?:)?//\w|@import|url\(', server.asset(name).decode()), name


def test_what_is_served_is_installed(monkeypatch):
  """A wheel has the files that are no Python."""
  given = {}
  monkeypatch.setattr(setuptools, 'setup', given.update)
  runpy.run_path(str(ROOT / 'setup.py'))
  installed = given['package_data']['bigjax.sampling.page']
  folder = ROOT / 'bigjax' / 'sampling' / 'page'
  assert sorted(installed) == sorted(
    p.name for p in folder.iterdir() if p.suffix in ('.html', '.css', '.js')
  )
  assert {name for name, _ in server.STATIC.values()} == set(installed)


def test_every_answer_has_the_policy(port):
  for target in ('/', '/image?seed=1', '/nowhere', '/image?seed=no'):
    headers = ask(port, target)[1]
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and 'http' not in policy
    assert headers['X-Content-Type-Options'] == 'nosniff' and headers['Server'].strip() == 'bigjax'


@pytest.mark.parametrize('method', ['HEAD', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
def test_only_get_is_answered(port, method):
  status, headers, _ = ask(port, '/', method)
  assert status == 405 and headers['Allow'] == 'GET'
  assert ask(port, '/', method, Host='evil.example')[0] == 403


def test_an_image_and_what_is_told_with_it(port):
  query = 'class=1&class2=2&seed=3&seed2=4&way=0.25&truncation=0.5&step=2'
  status, headers, body = ask(port, f'/image?{query}')
  assert status == 200 and headers['Content-Type'] == 'image/png'
  with Image.open(io.BytesIO(body)) as image:
    assert image.size == (8, 8) and image.getpixel((4, 4)) == (80, 3, 50)
  told = json.loads(urllib.parse.unquote(headers['Bigjax-About']))
  assert told == {
    'name': 'a-stub_step2_seed3-4_class1-2_way0.25_truncation0.5.png',
    'command': 'bigjax sample --seeds 3',
    'note': 'between 1 and 2',
  }


@pytest.mark.parametrize(
  ('query', 'said'),
  [
    ('seed=-1', 'seed=-1: give at least 0.'), ('seed=4294967296', 'at most 4,294,967,295'),
    ('class=3', 'class=3: give at most 2.'), ('way=nan', 'way=nan'), ('way=1.5', 'at most 1'),
    ('color=red', "'color' is no setting of an image."), ('seed=1&seed=2', 'given twice'),
    ('step=x', 'a whole number'), ('step=404', 'there is no checkpoint 404.'),
    ('option.steps=many', 'steps=many is no number.'), (f'truncation={"1" * 99}', 'too long'),
  ],
)  # fmt: skip
def test_a_wrong_setting_is_a_sentence(port, query, said):
  status, headers, body = ask(port, f'/image?{query}')
  assert status == 422 and headers['Content-Type'].startswith('text/plain')
  assert said in body.decode() and b'Traceback' not in body


def test_many_fields_are_none(port):
  assert ask(port, '/image?' + '&'.join(f'option.{i}=1' for i in range(200)))[0] == 404


def test_an_image_that_fails_leaves_the_page_alive(port, shelf, capfd):
  def fail():
    raise MemoryError('no room')

  shelf.at().before = fail
  status, _, body = ask(port, '/image?seed=1')
  shelf.at().before = lambda: None
  assert status == 500 and b'MemoryError' in body and 'no room' in capfd.readouterr().err
  assert ask(port, '/image?seed=1')[0] == 200


def test_who_has_gone_gets_no_image(port, shelf):
  """One image is made at a time; of those that wait for it, only who still holds the line."""
  asked = shelf.at().asked
  asked.clear()
  lines = []
  with shelf.lock:  # an image is being made
    for seed in (100, 101):
      line = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
      line.request('GET', f'/image?seed={seed}')
      lines.append(line)
    time.sleep(0.1)
    lines[0].sock.close()
    time.sleep(3 * server.WAITING)
  assert lines[1].getresponse().status == 200
  assert [one.seeds[0] for one in asked] == [101]


def test_the_run_is_read_afresh(port, folder):
  before = json.loads(ask(port, '/run.json')[2])
  assert [one['title'] for one in before['grids']] == ['Step 4'] and before['steps'] == 8
  assert [one['name'] for one in before['pictures']] == ['curves.png', 'within.png']
  new = folder / 'samples' / '00000008.png'
  Image.new('RGB', (4, 4), 'green').save(new)
  (folder / 'metrics.jsonl').write_text('{"step": 8}\n{"step": 9, "cut o')
  after = json.loads(ask(port, '/run.json')[2])
  assert [one['title'] for one in after['grids']] == ['Step 4', 'Step 8'] and after['step'] == 8
  assert ask(port, '/' + after['grids'][1]['url'])[2] == new.read_bytes()


def test_an_export_has_no_run():
  with stub_pages.served(stub_pages.Shelf()) as port:
    assert json.loads(ask(port, '/run.json')[2]) is None
    assert ask(port, '/run/curves.png')[0] == 404
    assert json.loads(ask(port, '/about.json')[2])['is_workdir'] is False


def test_it_listens_on_this_machine_alone(port):
  with stub_pages.served(stub_pages.Shelf()) as port:
    with pytest.raises(errors.UserError, match=f'--port={port} cannot be had'):
      server.Server(port)
    others = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    for address in {one[4][0] for one in others} - {'127.0.0.1'}:
      with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):
        pass


def test_ctrl_c_ends_it_quietly(params):
  """The command itself, from its address to its end."""
  command = [sys.executable, '-m', 'bigjax', 'view', str(params)]
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  with subprocess.Popen(command, **pipes) as process:
    url = process.stdout.readline().strip()
    tunnel = process.stdout.readline()
    port = int(re.fullmatch(r'http://localhost:(\d+)/', url)[1])
    assert f'ssh -N -L {port}:127.0.0.1:{port} ' in tunnel
    about = json.loads(ask(port, '/about.json')[2])
    assert about['title'] == 'digits' and len(about['class_names']) == 10
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
  assert (process.returncode, out, err) == (0, '', '')
