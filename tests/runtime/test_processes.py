# SPDX-License-Identifier: Apache-2.0
"""Several processes make one run: its numbers, its files, its end."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from collab.runtime import processes as hosts
from collab.runtime import workdir as workdirs
from configs import lm as base
from tests import tiny
import train

STEPS = 12
LOST_AFTER = 5


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return tiny.write_text(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def one(text, tmp_path_factory):
  """The workdir of a run in this process."""
  folder = tmp_path_factory.mktemp('runs') / 'one'
  config = base.get_config('sample')
  config.update_from_flattened_dict(tiny.SMALL_LM | {'data.path': str(text)})
  workdirs.claim(config.lock(), folder)
  train.run(config, str(folder))
  return folder


@pytest.fixture(scope='module')
def two(text, cache, tmp_path_factory):
  """The workdir of a run of two processes, and what these ended with."""
  folder = tmp_path_factory.mktemp('runs') / 'two'
  return folder, finish(start(2, text, folder, cache))


def start(n, text, folder, cache, **changes):
  """train.py as n processes, each with an environment of launch.sh --local."""
  command = tiny.lm_command(text, folder, **changes)
  return [tiny.start(command, cache, **e) for e in environments(n)]


def environments(n):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  for i in range(n):
    yield dict(
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES=str(n),
      JAX_PROCESS_ID=str(i),
      COLLAB_LOST_AFTER=str(LOST_AFTER),
    )


def finish(processes):
  """(exit code, standard output, standard error) of each."""
  return [tiny.finish(process) for process in processes]


def wait_for(happened, processes):
  deadline = time.monotonic() + 240
  while not happened():
    assert all(p.poll() is None for p in processes), finish(processes)
    assert time.monotonic() < deadline
    time.sleep(0.001)


def scores(folder):
  return json.loads((folder / 'result.json').read_text())['metrics']


def check_close(got, expected):
  """Rows or scores that differ by the order of sums only."""
  assert got.keys() == expected.keys()
  for name, value in got.items():
    assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-7), name


# The numbers ------------------------------------------------------------------


def test_two_are_as_one(one, two):
  folder, ends = two
  assert [code for code, *_ in ends] == [0, 0], ends
  got, expected = tiny.rows(folder), tiny.rows(one)
  for row, other in zip(got, expected, strict=True):
    check_close(row, other)
  check_close(scores(folder), scores(one))
  assert (folder / 'tokenizer.json').read_bytes() == (
    one / 'tokenizer.json'
  ).read_bytes()


def test_process_0_alone_writes(one, two):
  folder, [(_, out, err), (_, *other)] = two
  assert other == ['', '']
  assert "2 x cpu, {'data': 2, 'fsdp': 1, 'tensor': 1}" in out
  assert err.count(f'step {STEPS}/{STEPS},') == 1
  assert len(os.listdir(folder / 'tensorboard')) == 1

  def names(path):
    return {p.name for p in path.iterdir()}

  assert names(folder) - {'lock'} == names(one)  # main's, not train.run's
  assert names(folder / 'checkpoints') == names(one / 'checkpoints')


@pytest.mark.slow
def test_four_split_the_state_and_stop_as_one(text, cache, one, tmp_path):
  """SIGTERM to one of them; all save the same step, with the same numbers."""
  processes = start(4, text, tmp_path, cache, fsdp=4)
  metrics = tmp_path / 'metrics.jsonl'
  wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, processes)
  processes[2].send_signal(signal.SIGTERM)
  ends = finish(processes)
  assert [code for code, *_ in ends] == [0] * 4, ends
  assert "4 x cpu, {'data': 1, 'fsdp': 4, 'tensor': 1}" in ends[0][1]
  for _, other, err in ends[1:]:
    said = [x for x in err.splitlines() if 'SIGTERM caught' not in x]
    assert (other, said) == ('', [])
  got, expected = tiny.rows(tmp_path), tiny.rows(one)
  step = got[-1]['step']
  assert f'Stopped and saved at step {step};' in ends[0][1]
  assert step < STEPS
  saved = [int(path.name) for path in (tmp_path / 'checkpoints').iterdir()]
  assert max(saved) == step
  for row, other in zip(got, expected, strict=False):
    check_close(row, other)


@pytest.mark.slow
def test_parameters_of_an_earlier_run(text, cache, one, tmp_path):
  """Read by both, and split; the loss starts where that run ended."""
  ends = finish(start(2, text, tmp_path, cache, fsdp=2, init_from=one))
  assert [code for code, *_ in ends] == [0, 0], ends
  first, last = tiny.rows(tmp_path)[0], tiny.rows(one)[0]
  assert first['train/loss'] < last['train/loss'] - 0.1
  assert 'fresh     none' in ends[0][1]


class Counted:
  """An array that counts what is read of it."""

  def __init__(self, array):
    self._array, self.read = array, 0

  def __getitem__(self, index):
    found = self._array[index]
    self.read += found.size
    return found

  def __len__(self):
    return len(self._array)


def test_a_host_reads_its_slice_alone(text, tmp_path):
  from collab.tasks import lm

  data = base.get_config('sample').data
  data.update(path=str(text), vocab_size=300, row_length=16)
  data.update(batch_size=8, eval_stride=8)
  batches, counts = [], []
  for shard in [(0, 1), *((i, 4) for i in range(4))]:
    task = lm.build(data, workdir=str(tmp_path), seed=0, shard=shard)
    stream = task._streams['train']
    tokens = Counted(stream.tokens)
    task._streams['train'] = stream._replace(tokens=tokens)
    batches.append(task.batch(3))
    counts.append(tokens.read)
  whole, *parts = batches
  for name, rows in whole.items():
    got = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(got, rows)
  assert counts == [2 * 8 * 16] + [2 * 2 * 16] * 4  # labels and inputs


# Losses -----------------------------------------------------------------------


def check_lost(ends, victim):
  """All have failed, and each but the victim names it in its last line."""
  n = len(ends)
  for i, (code, _, err) in enumerate(ends):
    assert code != 0
    if i != victim:
      last = err.splitlines()[-1]
      assert last.startswith(f'train.py: process {victim} of {n} is lost'), err
      assert f'so process {i} stops too' in last


@pytest.mark.slow
def test_restart_after_a_loss(text, cache, two, tmp_path):
  """Both again, and the numbers are those of the undisturbed run."""
  processes = start(2, text, tmp_path, cache)
  wait_for((tmp_path / 'checkpoints' / '3').exists, processes)
  processes[1].kill()
  killed = time.monotonic()
  ends = finish(processes)
  assert time.monotonic() - killed < 120  # and not when collectives give up
  check_lost(ends, 1)
  assert not (tmp_path / 'result.json').exists()
  ends = finish(start(2, text, tmp_path, cache))
  assert [code for code, *_ in ends] == [0, 0], ends
  assert '0 of 12 done' not in ends[0][1]
  assert tiny.rows(tmp_path) == tiny.rows(two[0])
  assert scores(tmp_path) == scores(two[0])


# Does what training does, with less to import: all add up, in every step.
LOOP = """
import os, sys, time
import jax
from jax.experimental import multihost_utils
import numpy as np
from collab.runtime import processes as hosts

hosts.join()
me = jax.process_index()
with hosts.first('order'):
  order = time.time()
times = multihost_utils.process_allgather(np.float64(order % 1e4))
assert times.argmin() == 0, times
assert hosts._answers(os.environ['JAX_COORDINATOR_ADDRESS'])
assert hosts.alone('words', lambda: {'me': me, 'x': [0.1, 'text']}) == (
  {'me': 0, 'x': [0.1, 'text']}
)
try:
  for step in range(int(sys.argv[1])):
    total = multihost_utils.process_allgather(np.array(step)).sum()
    assert total == step * jax.process_count()
    print(step, flush=True)
    if me == int(sys.argv[2]) and step == 9:
      raise ValueError('mine')
    time.sleep(0.01)
except Exception as e:  # as train.py does
  hosts.leave(e)
  sys.exit(str(e))
"""


def loop(n, steps=10**9, failing=-1):
  return script(LOOP, n, [str(steps), str(failing)])


def script(code, n, words):
  return [
    subprocess.Popen(
      [sys.executable, *tiny.WARNINGS, '-c', code, *words],
      cwd=pathlib.Path(__file__).parents[2],
      env=os.environ | e | dict(JAX_PLATFORMS='cpu', JAX_ENABLE_X64='1'),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for e in environments(n)
  ]


@contextlib.contextmanager
def running(processes):
  """Once process 0 says that they are in their loop."""
  try:
    for line in processes[0].stdout:
      if line == '3\n':
        break
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.__exit__(None, None, None)  # closes its pipes


def test_all_end_well():
  ends = finish(loop(2, steps=5))
  assert [(code, err) for code, _, err in ends] == [(0, '')] * 2
  assert ends[0][1].splitlines()[-5:] == ['0', '1', '2', '3', '4']
  assert ends[1][1] == ''


@pytest.mark.parametrize('victim', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed(victim):
  with running(loop(3)) as processes:
    processes[victim].kill()
    check_lost(finish(processes), victim)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_stalled(victim):
  """A process that is there and does nothing is lost as well."""
  with running(loop(2)) as processes:
    processes[victim].send_signal(signal.SIGSTOP)
    code, _, err = tiny.finish(processes[1 - victim])
    assert code == 1
    said = f'train.py: process {victim} of 2 is lost'
    assert err.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(
  'failing', [0, pytest.param(1, marks=pytest.mark.slow)]
)
def test_failed(failing):
  """Its own words, and the others name it."""
  ends = finish(loop(2, failing=failing))
  check_lost(ends, failing)
  assert ends[failing][2].splitlines()[-1] == 'mine'


# Alone ------------------------------------------------------------------------


def test_one_process_needs_nothing(monkeypatch):
  for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_COORDINATOR_PORT'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('SLURM_STEP_NODELIST', 'node1')
  monkeypatch.setenv('SLURM_NTASKS', '1')
  hosts.join()
  hosts.agree('facts', dict(x=1))
  made = {}
  assert hosts.exchange('all', made) == [made]
  with hosts.first('made'):
    assert hosts.alone('made', lambda: made) is made


@pytest.mark.parametrize(
  'variables, words',
  [
    (dict(), 'JAX_NUM_PROCESSES=; expected a number, at least 1'),
    (dict(JAX_NUM_PROCESSES='two'), 'JAX_NUM_PROCESSES=two; expected'),
    (dict(JAX_NUM_PROCESSES='2'), 'JAX_PROCESS_ID=; expected a number'),
    (
      dict(JAX_NUM_PROCESSES='2', JAX_PROCESS_ID='2'),
      'JAX_PROCESS_ID=2; expected less than 2',
    ),
    (dict(COLLAB_LOST_AFTER='1'), 'COLLAB_LOST_AFTER=1; expected'),
  ],
)
def test_impossible_environment(variables, words, monkeypatch):
  names = 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'COLLAB_LOST_AFTER'
  for name in names:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'localhost:1')
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=words):
    hosts.join()
