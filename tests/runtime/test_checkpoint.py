# SPDX-License-Identifier: Apache-2.0
"""Checkpoints come back bit for bit, or are known to be damaged."""

import contextlib
import logging
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.runtime import checkpoint, tree_table
from collab.training import sharding


def make_state(step, width=61):
  """Of several types; its values are a function of the step."""
  kernel = jax.random.normal(jax.random.key(step), (67, width))
  params = dict(layer_0=dict(kernel=kernel, bias=jnp.full(width, step)))
  return dict(
    step=jnp.int32(step),
    params=jax.tree.map(lambda x: x.astype(jnp.float32), params),
    opt=(dict(mu=kernel.astype(jnp.bfloat16)), jnp.array([True, False])),
    ema=jax.tree.map(jnp.zeros_like, params),
  )


def abstract(state):
  shardings = sharding.state_shardings(sharding.make_mesh(), state)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    shardings,
  )


ABSTRACT = abstract(make_state(0))


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert tree_table.shapes(a) == tree_table.shapes(b)


@contextlib.contextmanager
def opened(workdir, keep=3, best=''):
  checkpoints = checkpoint.Checkpoints(workdir, keep, best)
  try:
    yield checkpoints
  finally:
    checkpoints.close()


def save(workdir, *steps, **fields):
  with opened(workdir, **fields) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(step))


def kept(workdir):
  names = (path.name for path in (workdir / 'checkpoints').iterdir())
  return sorted(int(name) for name in names if name.isdecimal())


def test_none_at_first(tmp_path):
  with opened(tmp_path) as checkpoints:
    assert checkpoints.restore(ABSTRACT) is None


def test_newest_comes_back(tmp_path):
  save(tmp_path, 1, 2, 5)
  with opened(tmp_path) as checkpoints:
    step, state = checkpoints.restore(ABSTRACT)
  assert step == 5
  assert_same(state, make_state(5))


def test_donated_while_being_written(tmp_path):
  state = jax.tree.map(lambda x: jnp.tile(x[None], (500, 1)), make_state(1))
  state = dict(params=state['params'])
  expected = jax.tree.map(np.array, state)
  shapes = abstract(state)
  clear = jax.jit(lambda x: jax.tree.map(lambda x: 0 * x, x), donate_argnums=0)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, state)
    jax.block_until_ready(clear(state))
  with opened(tmp_path) as checkpoints:
    assert_same(checkpoints.restore(shapes)[1], expected)


@pytest.mark.parametrize('best, expected', [('f1', 2), ('-f1', 1)])
def test_keeps_the_last_and_the_best(tmp_path, best, expected):
  values = {1: 0.25, 2: 0.75, 3: 0.5, 4: float('nan'), 5: 0.5, 6: None}
  with opened(tmp_path, keep=2, best=best) as checkpoints:
    for step, value in values.items():
      metrics = {} if value is None else dict(f1=value, loss=step)
      checkpoints.save(step, make_state(step), metrics)
  assert kept(tmp_path) == [expected, 5, 6]
  with opened(tmp_path, keep=2, best=best) as checkpoints:
    step, params = checkpoints.best_params(ABSTRACT['params'])
  assert step == expected
  assert_same(params, make_state(expected)['params'])


def test_no_best_without_its_metric(tmp_path):
  with opened(tmp_path, best='f1') as checkpoints:
    checkpoints.save(1, make_state(1), dict(loss=1.0))
    with pytest.raises(ValueError, match="best='f1': no checkpoint"):
      checkpoints.best_params(ABSTRACT['params'])


def test_steps_only_grow(tmp_path):
  save(tmp_path, 4)
  with opened(tmp_path) as checkpoints:
    for step in (3, 4):
      with pytest.raises(ValueError, match=f'step {step}: .* one of step 4'):
        checkpoints.save(step, make_state(step))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, value):
  bad = make_state(2)
  bad['opt'][0]['mu'] = bad['opt'][0]['mu'].at[1, 1].set(value)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1))
    words = 'Step 2 is not saved, for these are not finite: opt/0/mu;'
    with pytest.raises(FloatingPointError, match=words):
      checkpoints.save(2, bad)
  assert kept(tmp_path) == [1]


def array_files(step):
  """Files with array data, the largest first."""
  files = [p for p in (step / 'state').glob('**/d/*') if p.is_file()]
  return sorted(files, key=lambda p: -p.stat().st_size)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def empty(step):
  for path in sorted(step.glob('**/*'), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()


DAMAGES = {
  'bit flipped': lambda step: flip(array_files(step)[0]),
  'truncated': lambda step: os.truncate(array_files(step)[0], 100),
  'arrays gone': lambda step: [p.unlink() for p in array_files(step)],
  'metadata gone': lambda step: (step / 'state' / '_METADATA').unlink(),
  'table gone': lambda step: (step / 'leaves' / 'metadata').unlink(),
  'table changed': lambda step: (step / 'leaves' / 'metadata').write_text(
    (step / 'leaves' / 'metadata').read_text().replace('67', '66')
  ),
  'empty': empty,
}


# Reads that are under way when one fails end after Orbax has closed its event
# loop, and say so to nobody.
@pytest.mark.filterwarnings(
  'ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning'
)
@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_newest_is_told_and_passed_over(tmp_path, caplog, damage):
  save(tmp_path, 3, 6)
  DAMAGES[damage](tmp_path / 'checkpoints' / '6')
  caplog.set_level(logging.WARNING, 'absl')
  with opened(tmp_path) as checkpoints:
    step, state = checkpoints.restore(ABSTRACT)
    [told] = caplog.messages  # Orbax itself says pages
    assert '\n' not in told
    assert 'checkpoints/6 is damaged' in told
    assert (step, kept(tmp_path)) == (3, [3, 6])
    assert_same(state, make_state(3))
    # The run goes on from 3, through 6, and loses nothing.
    for step in (5, 6):
      checkpoints.save(step, make_state(step))
  assert kept(tmp_path) == [3, 5, 6]
  assert (tmp_path / 'damaged' / '6.0').is_dir()
  with opened(tmp_path) as checkpoints:
    assert_same(checkpoints.restore(ABSTRACT)[1], make_state(6))


def test_all_damaged(tmp_path):
  save(tmp_path, 3, 6)
  for step in ('3', '6'):
    empty(tmp_path / 'checkpoints' / step)
  with (
    opened(tmp_path) as checkpoints,
    pytest.raises(ValueError, match=r'All .* are damaged: \[3, 6\]'),
  ):
    checkpoints.restore(ABSTRACT)


def test_other_model(tmp_path):
  save(tmp_path, 3)
  other = abstract(make_state(3, width=59))
  other['opt'][0]['mu'] = ABSTRACT['params']['layer_0']['kernel']
  del other['ema']
  other['extra'] = other['step']
  with (
    opened(tmp_path) as checkpoints,
    pytest.raises(ValueError, match='is of another model') as error,
  ):
    checkpoints.restore(other)
  text = str(error.value)
  for line in (
    'params/layer_0/kernel: expected float32[67, 59], found float32[67, 61]',
    'params/layer_0/bias: expected float32[59], found float32[61]',
    'opt/0/mu: expected float32[67, 61], found bfloat16[67, 61]',
    'ema/layer_0/kernel: expected none, found float32[67, 61]',
    'extra: expected int32[], found none',
  ):
    assert line in text
  assert '\n' not in text


@pytest.mark.parametrize('name', ['params', 'ema'])
def test_renamed_is_damaged(name, tmp_path, caplog):
  """The step is in the checkpoint, and not the name of its folder alone."""
  save(tmp_path, 3, 6)
  path = tmp_path / 'checkpoints'
  (path / '6').rename(path / '9')
  with opened(tmp_path) as checkpoints:
    assert checkpoints.restore(ABSTRACT)[0] == 3
    got = checkpoints.average(1, ABSTRACT[name], name)
    assert_same(got, make_state(3)[name])
  assert (
    'checkpoints/9 is damaged and not used: OSError: it is not of step 9'
    in (caplog.text)
  )


def test_readers_make_no_folder(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, 1, read_only=True)
  assert checkpoints.restore(ABSTRACT) is None
  with pytest.raises(ValueError, match='has no checkpoint'):
    checkpoints.abstract_params()
  with pytest.raises(ValueError, match='is read_only: step 1 is not saved'):
    checkpoints.save(1, make_state(1))
  checkpoints.close()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'text, words',
  [('{', 'is no JSON'), ('[1]', 'holds a list'), ('{"f1": "x"}', "it has 'x'")],
)
def test_damaged_metrics_name_their_file(text, words, tmp_path):
  with opened(tmp_path, best='f1') as checkpoints:
    checkpoints.save(1, make_state(1), dict(f1=1.0))
  path = tmp_path / 'checkpoints' / '1' / 'metrics' / 'metrics'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'^{path} .*{words}'):
    checkpoint.Checkpoints(tmp_path, 1, 'f1', read_only=True)


def test_shapes_of_the_newest_readable_parameters(tmp_path, caplog):
  with opened(tmp_path) as checkpoints:
    for step, width in ((3, 61), (6, 59), (9, 53)):
      checkpoints.save(step, make_state(step, width))
  empty(tmp_path / 'checkpoints' / '9')
  with opened(tmp_path) as checkpoints:
    expected = tree_table.shapes(make_state(6, 59)['params'])
    assert tree_table.shapes(checkpoints.abstract_params()) == expected
  [told] = caplog.messages
  assert 'checkpoints/9 is damaged' in told
  for step in ('3', '6'):
    empty(tmp_path / 'checkpoints' / step)
  with (
    opened(tmp_path) as checkpoints,
    pytest.raises(ValueError, match=r'All .* are damaged: \[3, 6, 9\]'),
  ):
    checkpoints.abstract_params()


def test_folder_that_is_gone_does_not_come_back(tmp_path):
  with opened(tmp_path / 'run') as checkpoints:
    checkpoints.save(1, make_state(1))
    assert checkpoints.newest() == 1
    shutil.rmtree(tmp_path / 'run')
    with pytest.raises(OSError, match='checkpoints is gone: step 2 is not'):
      checkpoints.save(2, make_state(2))
  assert not list(tmp_path.iterdir())


def test_scores_without_the_best_metric(tmp_path):
  with opened(tmp_path, best='-val/nll') as checkpoints:
    checkpoints.check_metrics({'val/nll': np.inf})
    with pytest.raises(ValueError, match=r"'-val/nll' is no .* are val/f1, x"):
      checkpoints.check_metrics({'val/f1': 1.0, 'x': 2})
    with pytest.raises(FloatingPointError, match=r'val/nll of the .* is nan'):
      checkpoints.check_metrics({'val/nll': np.nan})


def test_average(tmp_path):
  save(tmp_path, 1, 2, 3, 4)
  flip(array_files(tmp_path / 'checkpoints' / '3')[0])
  with opened(tmp_path) as checkpoints:
    mean = checkpoints.average(2, ABSTRACT['params'])
    expected = jax.tree.map(
      lambda x, y: (x + y) / 2,
      make_state(2)['params'],
      make_state(4)['params'],
    )
    assert_same(mean, expected)
    newest = checkpoints.average(1, ABSTRACT['params'])
    assert_same(newest, make_state(4)['params'])
    with pytest.raises(ValueError, match=r'average of 3; .* has 2 good ones'):
      checkpoints.average(3, ABSTRACT['params'])
    with pytest.raises(ValueError, match='average=4; expected 1 to 3'):
      checkpoints.average(4, ABSTRACT['params'])
    with pytest.raises(ValueError, match='another model'):
      checkpoints.average(1, dict(a=ABSTRACT['step']))


def test_reads_what_is_being_written(tmp_path, caplog):
  with opened(tmp_path, best='f1') as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, make_state(step), dict(f1=step))
      newest = checkpoints.average(1, ABSTRACT['params'])
      assert_same(newest, make_state(step)['params'])
    checkpoints.save(3, make_state(3), dict(f1=3))
    assert checkpoints.best_params(ABSTRACT['params'])[0] == 3
    checkpoints.save(4, make_state(4), dict(f1=0))
    assert checkpoints.restore(ABSTRACT)[0] == 4
  assert caplog.messages == []


def kill_while_writing(workdir):
  """Saves 1, and dies while 2 is being written."""
  import threading

  save(workdir, 1, keep=1)
  path = pathlib.Path(workdir) / 'checkpoints'

  def wait():
    while not any('tmp' in p.name for p in path.iterdir()):
      pass
    os.kill(os.getpid(), signal.SIGKILL)

  threading.Thread(target=wait, daemon=True).start()
  with opened(workdir, keep=1) as checkpoints:
    checkpoints.save(2, dict(params=jnp.ones((4000, 4000))))


def test_killed_while_writing(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.runtime.test_checkpoint', tmp_path],
    cwd=pathlib.Path(__file__).parents[2],
    check=False,
    timeout=120,
  )
  assert done.returncode == -signal.SIGKILL
  assert any('tmp' in p.name for p in (tmp_path / 'checkpoints').iterdir())
  with opened(tmp_path) as checkpoints:
    step, state = checkpoints.restore(ABSTRACT)
    assert step == 1
    assert_same(state, make_state(1))
    checkpoints.save(2, make_state(2))
  assert kept(tmp_path) == [1, 2]


@contextlib.contextmanager
def files_of_at_most(size):
  """The kernel refuses longer ones, as it does when a disk is full."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_disk_full(tmp_path, caplog):
  save(tmp_path, 1)
  checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
  noise = jax.random.normal(jax.random.key(0), (1000, 1000))
  with files_of_at_most(1 << 20):
    checkpoints.save(2, dict(params=noise))
    with pytest.raises(OSError, match=r'^No checkpoint written in ') as error:
      checkpoints.close()
  assert re.search('File too large|EFBIG', str(error.value))
  assert '\n' not in str(error.value)
  assert caplog.messages == []
  assert kept(tmp_path) == [1]
  with opened(tmp_path) as checkpoints:
    assert checkpoints.restore(ABSTRACT)[0] == 1


def test_no_place(tmp_path):
  (tmp_path / 'checkpoints').write_text('a file')
  with pytest.raises(OSError, match=r'^No checkpoint written in '):
    checkpoint.Checkpoints(tmp_path, keep=1)
  with pytest.raises(ValueError, match='keep=0; expected at least 1'):
    checkpoint.Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize(
  'dtype', ['float32', 'bfloat16', 'float16', 'int32', 'uint8', 'bool']
)
def test_checksum_sees_any_bit_and_any_swap(dtype):
  zero = jnp.zeros((), dtype)
  x = jnp.ones((5, 7), dtype).at[2, 3].set(zero)
  sums = {int(tree_table.checksum(x))}
  for bit in range(8 * x.dtype.itemsize if dtype != 'bool' else 1):
    word = np.array(x).view(f'uint{8 * x.dtype.itemsize}').copy()
    word[4, 1] ^= 1 << bit
    sums.add(int(tree_table.checksum(jnp.asarray(word.view(x.dtype)))))
  moved = jnp.ones((5, 7), dtype).at[3, 2].set(zero)
  sums.add(int(tree_table.checksum(moved)))
  assert len(sums) == bit + 3


if __name__ == '__main__':
  kill_while_writing(pathlib.Path(sys.argv[1]))
