# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test: nothing broadcasts by accident.

Warnings are errors by pyproject.toml.
"""

import os
import pathlib
import signal
import tempfile

import jaxlib

# A shell's background jobs ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.pop('COLLAB_RUNS', None)  # runs of tests are in their own folders

# The tests compile far more than they compute: half the time without these.
# XLA refuses to start with a flag that it does not know.
flags = [
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
]
if jaxlib.version.__version_info__ < (0, 11):
  flags.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *flags])

# What one test has compiled, another does not compile again, whichever process
# it is in: the first of them makes the folder, those that it starts inherit it.
if 'PYTEST_XDIST_WORKER' not in os.environ:
  compiled = tempfile.TemporaryDirectory(prefix='collab-tests-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = compiled.name
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def cache():
  """The folder of compiled programs, for what is given one."""
  return pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])


@pytest.fixture(autouse=True, scope='module')
def _few_programs():
  """Programs of a module go with it: a process can map only so many.

  Beyond 65,530 maps, Linux' default, XLA ends in a segmentation fault.
  """
  yield
  jax.clear_caches()


COUNTED = {}


@pytest.fixture(scope='module')
def counted_once():
  """Counting a layer's FLOPs takes as long as all else of a small run."""
  from collab.accounting import layer

  count = layer.of

  def of(*args, **kwargs):
    key = repr((args, kwargs))
    if key not in COUNTED:
      COUNTED[key] = count(*args, **kwargs)
    return COUNTED[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(layer, 'of', of)
    yield


@pytest.fixture(scope='session')
def _served():
  """The environment of a bucket that all tests of this process use."""
  from tests import bucket

  with bucket.served() as environ:
    yield environ


@pytest.fixture
def bucket(_served, tmp_path, monkeypatch):
  """A new folder in it, and a new cache of this machine."""
  from collab.io import buckets

  for name, value in _served.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'node'))
  return buckets.at(f'gs://bucket/{tmp_path.name}')
