# SPDX-License-Identifier: Apache-2.0
"""Runs whose workdir, data and results are in a bucket are those of a disk."""

import json
import random
import time

import pytest

from collab.io import buckets
from collab.runtime import workdir as workdirs
from configs import lm as base
from tests import tiny
from tests.runtime.test_processes import check_close, environments
import train

pytestmark = pytest.mark.usefixtures('counted_once')


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return tiny.write_text(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('compiled')


def run(text, folder, **changes):
  """A run in this process, to its end."""
  config = base.get_config('sample')
  changes = {key.replace('__', '.'): x for key, x in changes.items()}
  config.update_from_flattened_dict(
    tiny.SMALL_LM | {'data.path': str(text)} | changes
  )
  workdirs.claim(config.lock(), folder)
  train.run(config, str(folder))
  return folder


def put(text, place):
  """Copies a folder into the bucket."""
  buckets.upload(text, place, {})
  return place


def check_equal(got, expected, last):
  """The same rows, scores and state, bit by bit."""
  assert tiny.rows(got) == tiny.rows(expected)
  results = (
    json.loads((x / 'result.json').read_text()) for x in (got, expected)
  )
  a, b = results
  assert a['metrics'] == b['metrics']
  names = 'checkpoints', str(last), 'leaves', 'metadata'
  a, b = (x.joinpath(*names).read_text() for x in (got, expected))
  assert json.loads(a) == json.loads(b)  # the checksums of all leaves


def kill(process):
  process.kill()
  process.communicate()


@pytest.mark.slow
def test_killed_at_a_random_moment(text, cache, bucket, tmp_path):
  data, folder = put(text, bucket / 'data'), bucket / 'run'
  changes = dict(total_steps=6)
  process = tiny.start(tiny.lm_command(data, folder, **changes), cache)
  begun = time.monotonic()
  while not (folder / 'checkpoints' / '3' / 'commit_success.txt').exists():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < begun + 240
    time.sleep(0.02)
  time.sleep(random.Random().uniform(0, 1))
  kill(process)
  run(data, folder, **changes)
  check_equal(folder, run(text, tmp_path / 'run', **changes), 6)


@pytest.mark.slow
def test_killed_often(text, cache, bucket, tmp_path):
  """At any moment from the start on, imports and compilation included."""
  rng, kills, changes = random.Random(0), 0, dict(total_steps=60)
  data, whole = put(text, bucket / 'data'), run(text, tmp_path, **changes)
  folder, runs = bucket / '0', 1
  command = lambda: tiny.lm_command(data, folder, **changes)
  while kills < 20:
    process = tiny.start(command(), cache)
    time.sleep(rng.uniform(3, 14))
    kills += process.poll() is None
    kill(process)
    assert process.returncode in (0, -9)
    if (folder / 'result.json').exists():
      check_equal(folder, whole, 60)
      folder, runs = bucket / str(runs), runs + 1
  code, _, err = tiny.train(command(), cache)
  assert code == 0, err
  check_equal(folder, whole, 60)


@pytest.mark.slow
def test_hosts_that_share_a_bucket_alone(text, cache, bucket, tmp_path):
  """Two in folders and caches of their own; then a run that starts from it."""
  data, one = put(text, bucket / 'data'), run(text, tmp_path / 'one')

  def start(folder, **changes):
    command = tiny.lm_command(data, folder, **changes)
    command.append(f'--results={bucket}/rows.jsonl')
    command[0] = f'--config={tiny.ROOT}/configs/lm.py:sample'
    hosts = []
    for i, environ in enumerate(environments(2)):
      here = tmp_path / f'host{i}'
      here.mkdir(exist_ok=True)
      environ['XDG_CACHE_HOME'] = str(here)
      hosts.append(tiny.start(command, cache, cwd=here, **environ))
    return [tiny.finish(host) for host in hosts]

  ends = start(bucket / 'run')
  assert [code for code, *_ in ends] == [0, 0], ends
  got, expected = tiny.rows(bucket / 'run'), tiny.rows(one)
  for row, other in zip(got, expected, strict=True):
    check_close(row, other)
  ends = start(bucket / 'next', init_from=str(bucket / 'run'), fsdp=2)
  assert [code for code, *_ in ends] == [0, 0], ends
  first = tiny.rows(bucket / 'next')[0]
  assert first['train/loss'] < expected[0]['train/loss'] - 0.1
  assert (bucket / 'rows.jsonl').read_text().count('\n') == 2
  for i in range(2):  # nothing but the caches
    assert [p.name for p in (tmp_path / f'host{i}').iterdir()] == ['collab']
