"""Strict mode for every test: 8 fake CPU devices, no silent rank or dtype promotion."""

import gc
import os
import shutil
import signal
import tempfile

import compile_flags

os.environ['XLA_FLAGS'] = compile_flags.flags('--xla_force_host_platform_device_count=8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Threads of XLA's pool: eight devices that meet hold one each, and with no more than these the
# work that one of them waits for may find none (seen once: a test that stood still for ever).
os.environ['NPROC'] = '16'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# A compilation cache of the session's own: tests share programs, and leave the user's cache alone.
WORKER = 'PYTEST_XDIST_WORKER' in os.environ  # which inherits the session's
if not WORKER:
  os.environ['BIGJAX_CACHE'] = tempfile.mkdtemp(prefix='bigjax-test-cache-')
os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
# A suite in the background of a script is deaf to Ctrl-C: the programs that it starts shall not be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)
# Programs that are traced make millions of objects that stay: look for garbage among them seldom.
gc.set_threshold(50_000, 20, 50)

import jax  # noqa: E402
import pytest  # noqa: E402

from bigjax.core import device  # noqa: E402

import schedule  # noqa: E402
import seconds  # noqa: E402

pytest_plugins = ['tiny_run', 'toys']

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')
device.use_compilation_cache()


@pytest.fixture(scope='module', autouse=True)
def light_garbage_collection():
  """Whatever JAX has traced and compiled so far stays, and is not searched for garbage again."""
  gc.freeze()


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


LONG = (  # minutes each, the longest first: else one process ends alone with them
  'test_loop.py', 'test_hosts.py', 'test_during_training.py', 'test_contract.py', 'test_toys.py',
  'test_tpu_hlo.py', 'test_biggan.py', 'test_plan.py', 'test_biggan_pytorch.py',
  'test_rollback.py', 'test_golden.py', 'test_projected_gan.py', 'test_bigbigan.py',
  'test_stylegan.py', 'test_stylegan2.py', 'test_papers.py',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  order = {name: i for i, name in enumerate(LONG)}
  items.sort(key=lambda item: order.get(item.path.name, len(LONG)))
  if not os.environ.get('BIGJAX_SLOW'):
    for item in items:
      if item.get_closest_marker('slow'):
        item.add_marker(pytest.mark.skip(reason='takes minutes: set BIGJAX_SLOW=1'))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  return schedule.Together(config, log)


def pytest_unconfigure(config):
  del config
  if not WORKER:
    shutil.rmtree(os.environ['BIGJAX_CACHE'], ignore_errors=True)


# With BIGJAX_MUST_RUN set, as in CI, a test listed in must_run.txt that was skipped or not
# collected fails the session: a check that never ran is no check. Slow ones may be skipped.


def must_run():
  if not os.environ.get('BIGJAX_MUST_RUN'):
    return []
  with open(os.path.join(os.path.dirname(__file__), 'must_run.txt')) as f:
    return [line.strip() for line in f if line.strip()]


def pytest_sessionfinish(session):
  gc.freeze()  # pytest ends by searching all that JAX has made five times
  if WORKER:
    return
  stats = session.config.pluginmanager.get_plugin('terminalreporter').stats
  passed = [report.nodeid for report in stats.get('passed', [])]
  skips = [
    report for report in stats.get('skipped', []) if 'BIGJAX_SLOW' not in str(report.longrepr)
  ]
  skipped = [report.nodeid for report in skips]
  wrong = [name for name in must_run() if any(node.startswith(name) for node in skipped)]
  wrong += [name for name in must_run() if not any(node.startswith(name) for node in passed)]
  session.config.must_have_run = sorted(set(wrong))
  if wrong:
    session.exitstatus = 1


def pytest_terminal_summary(terminalreporter, config):
  every = [x for some in terminalreporter.stats.values() for x in some if hasattr(x, 'duration')]
  if every:
    terminalreporter.section('seconds by family')
    for heading, spent, num in seconds.by_family(every, seconds.names()):
      terminalreporter.write_line(f'{spent:7.1f} s  {heading} ({num} tests)')
  for group in schedule.apart(every):
    terminalreporter.write_line(f'SPLIT over processes, each of which compiled: {group}', red=True)
  for name in getattr(config, 'must_have_run', []):
    terminalreporter.write_line(f'MUST RUN, but skipped or not collected: {name}', red=True)
