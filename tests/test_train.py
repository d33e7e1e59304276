# SPDX-License-Identifier: Apache-2.0
"""train.py from start to end: results, and runs that were interrupted."""

import json
import os
import signal
import time

import numpy as np
import pytest

from collab.tasks import wmt14
from collab.training import logs, workdir
from tests import tiny
import train

STEPS = 12
FIELDS = (
  'command date config_hash task variant seed steps seconds parameters '
  'attention_parameters versions metrics'
)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  return tiny.write_corpus(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """Where the runs of this file keep compiled programs."""
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def whole(corpus, cache, tmp_path_factory):
  """A run that nothing interrupts: its workdir and what it printed."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  code, out, err = tiny.train(tiny.command(corpus, folder), cache)
  assert code == 0, err
  return folder, out, err


def result(folder):
  return json.loads((folder / 'result.json').read_text())


def steps(folder):
  """The steps of the checkpoints that are whole."""
  names = os.listdir(folder / 'checkpoints')
  return {int(name) for name in names if name.isdigit()}


# A run ------------------------------------------------------------------------


def test_result(whole, corpus):
  folder, out, _ = whole
  got = result(folder)
  assert set(got) == set(FIELDS.split())
  config = tiny.config(corpus)
  assert got['config_hash'] == workdir.config_hash(config)
  assert got['command'].startswith('python ')
  assert f'train.py --config={tiny.CONFIG} --workdir={folder}' in got['command']
  assert (got['task'], got['variant']) == ('wmt14', 'mhe_mul')
  assert (got['seed'], got['steps']) == (0, STEPS)
  assert 0 < got['seconds'] < 300
  D, d, M = 16, 8, 32
  attention = 3 * (D * D + 3 * D * d + 3 * D + 3 * d + D)  # with biases
  norms, mlps = 5 * 2 * D, 2 * (2 * D * M + M + D)
  assert got['attention_parameters'] == attention
  assert got['parameters'] == attention + norms + mlps + 300 * D
  assert {'jax', 'flax', 'python', 'devices', 'cpu'} <= set(got['versions'])
  scores = got['metrics']
  assert {'nll', 'perplexity', 'accuracy', 'exact', 'chrf'} <= set(scores)
  assert 0 <= scores['bleu'] <= 100
  assert 'version:' in scores['bleu_signature']
  assert 'bleu_of_copying' in scores
  assert str(folder) in out.splitlines()[-1]


def test_it_learns_and_says_so(whole):
  folder, out, err = whole
  got = tiny.rows(folder)
  rows = [row for row in got if 'train/loss' in row]
  val = [row for row in got if 'val/nll' in row]
  assert [row['step'] for row in rows] == list(range(1, STEPS + 1))
  assert [row['step'] for row in val] == [4, 8, 12]
  assert rows[-1]['train/loss'] < rows[0]['train/loss'] - 0.3
  assert val[-1]['val/nll'] < val[0]['val/nll'] - 0.1
  rates = [row['train/lr'] for row in rows]
  np.testing.assert_allclose(rates[:4], np.arange(1, 5) / 4 * 3e-3, rtol=1e-5)
  clocked = logs.read_rows(folder / 'metrics.jsonl')[0]
  assert clocked['tokens_per_second'] > 0 < clocked['time/seconds']
  progress = [line for line in err.splitlines() if line.startswith('step ')]
  assert len(progress) == STEPS
  for word in ('step 12/12', 'loss', 'lr', 'tokens_per_second', 'left'):
    assert word in progress[-1]
  for word in ('devices', 'parameters', 'of mha', 'one token more', 'pairs'):
    assert word in out.split('The first')[0]


def test_what_it_leaves(whole):
  folder, *_ = whole
  assert {10 - 1, STEPS} <= steps(folder) <= {3, 6, 9, STEPS}
  assert os.listdir(folder / 'tensorboard')
  for name in ('run.json', 'tokenizer.json', 'parameters.txt'):
    assert (folder / name).stat().st_size > 0
  hidden = [p for p in folder.rglob('*') if 'tmp' in p.name]
  assert not hidden


def test_eval_only(whole, cache):
  """Of the workdir alone: the same scores, and nothing else is written."""
  folder, *_ = whole
  before = result(folder)
  rows = (folder / 'metrics.jsonl').read_bytes()
  files = {p for p in folder.rglob('*') if p.is_file()}
  (folder / 'result.json').unlink()
  code, out, err = tiny.train([f'--workdir={folder}', '--eval_only'], cache)
  assert (code, err) == (0, '')
  assert '12 of 12 done' in out
  got = result(folder)
  assert got['metrics'] == before['metrics']
  assert got['config_hash'] == before['config_hash']
  assert got['command'] == before['command']
  assert (folder / 'metrics.jsonl').read_bytes() == rows
  assert {p for p in folder.rglob('*') if p.is_file()} == files


# Interruptions ----------------------------------------------------------------


def wait_for(process, happened):
  deadline = time.monotonic() + 120
  while not happened():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.0005)


def start(corpus, folder, cache, **changes):
  return tiny.start(tiny.command(corpus, folder, **changes), cache)


def rows_written(folder):
  path = folder / 'metrics.jsonl'
  return path.read_bytes().count(b'\n') if path.exists() else 0


def check_equal(folder, whole):
  assert tiny.rows(folder) == tiny.rows(whole[0])
  assert result(folder)['metrics'] == result(whole[0])['metrics']
  assert steps(folder) == steps(whole[0])


def kill(process, folder):
  """SIGKILL; it must have been in time."""
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not (folder / 'result.json').exists()


def go_on(folder, cache):
  code, out, err = tiny.train([f'--workdir={folder}'], cache)
  assert code == 0, err
  return out, err


def check_killed_at(row, corpus, cache, whole, tmp_path):
  folder = tmp_path / 'run'
  process = start(corpus, folder, cache)
  wait_for(process, lambda: rows_written(folder) >= row)
  kill(process, folder)
  go_on(folder, cache)
  check_equal(folder, whole)


def test_killed_between_checkpoints(corpus, cache, whole, tmp_path):
  check_killed_at(9, corpus, cache, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('row', [1, 2, 4, 6, 7, 11, 13])
def test_killed_anywhere(row, corpus, cache, whole, tmp_path):
  check_killed_at(row, corpus, cache, whole, tmp_path)


def check_killed_while_saving(step, corpus, cache, whole, tmp_path):
  folder = tmp_path / 'run'
  process = start(corpus, folder, cache)
  parts = f'{step}.orbax-checkpoint-tmp*'
  wait_for(process, lambda: any((folder / 'checkpoints').glob(parts)))
  kill(process, folder)
  # Whether the process was quick enough is seen here, and not left to chance:
  # what remains is either the part or, just renamed, the whole.
  torn = any((folder / 'checkpoints').glob(parts))
  assert torn or step in steps(folder)
  out, _ = go_on(folder, cache)
  if torn:
    assert f'{step - 3} of {STEPS} done' in out
  check_equal(folder, whole)
  return torn


def test_killed_while_saving(corpus, cache, whole, tmp_path):
  """In the middle of the second checkpoint: the first one is taken."""
  assert check_killed_while_saving(6, corpus, cache, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('step', [3, 9, 12])
def test_killed_while_saving_others(step, corpus, cache, whole, tmp_path):
  check_killed_while_saving(step, corpus, cache, whole, tmp_path)


def check_terminated_at(row, corpus, cache, whole, tmp_path):
  folder = tmp_path / 'run'
  process = start(corpus, folder, cache)
  wait_for(process, lambda: rows_written(folder) >= row)
  process.send_signal(signal.SIGTERM)
  code, out, err = tiny.finish(process)
  assert code == 0, err
  (line,) = [x for x in out.splitlines() if x.startswith('Stopped and saved')]
  step = int(line.split('at step ')[1].split(';')[0])
  assert max(steps(folder)) == step == tiny.rows(folder)[-1]['step'] < STEPS
  assert f'--workdir={folder} goes on' in line
  assert not (folder / 'result.json').exists()
  out, _ = go_on(folder, cache)
  assert f'{step} of {STEPS} done' in out
  check_equal(folder, whole)


# Row 12: what SIGTERM saves is one of the last two, and not in their mean.
@pytest.mark.parametrize('row', [5, 12])
def test_terminated(row, corpus, cache, whole, tmp_path):
  """SIGTERM saves what is there and exits with 0; nothing is done twice."""
  check_terminated_at(row, corpus, cache, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('row', [1, 3, 8, 10])
def test_terminated_anywhere(row, corpus, cache, whole, tmp_path):
  check_terminated_at(row, corpus, cache, whole, tmp_path)


# Devices ----------------------------------------------------------------------


def check_close(folder, expected):
  got = tiny.rows(folder)
  assert len(got) >= 4
  for row, other in zip(got, expected, strict=False):
    assert row.keys() == other.keys()
    for name, value in row.items():
      assert value == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


def check_devices(fsdp, corpus, cache, whole, tmp_path):
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  command = tiny.command(corpus, tmp_path, total_steps=4, fsdp=fsdp)
  code, out, err = tiny.train(command, cache, XLA_FLAGS=flags)
  assert code == 0, err
  assert f"8 x cpu, {{'data': {8 // fsdp}, 'fsdp': {fsdp}}}" in out
  check_close(tmp_path, tiny.rows(whole[0]))


def test_eight_devices(corpus, cache, whole, tmp_path):
  """The batch over all of them, the state split over pairs: same numbers."""
  check_devices(2, corpus, cache, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('fsdp', [1, 8])
def test_eight_devices_otherwise(fsdp, corpus, cache, whole, tmp_path):
  check_devices(fsdp, corpus, cache, whole, tmp_path)


def test_eight_devices_then_one(corpus, cache, whole, tmp_path):
  """A run split over eight goes on without them, and the workdir stays its."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  command = tiny.command(corpus, tmp_path, fsdp=8)
  process = tiny.start(command, cache, XLA_FLAGS=flags)
  wait_for(process, lambda: rows_written(tmp_path) >= 4)
  process.send_signal(signal.SIGTERM)
  code, _, err = tiny.finish(process)
  assert code == 0, err
  kept = (tmp_path / 'run.json').read_bytes()
  code, _, err = tiny.train([f'--workdir={tmp_path}'], cache)
  assert code == 1
  assert 'fsdp=8 does not divide the 1 devices; legal are 1.' in err
  command = tiny.command(corpus, tmp_path, fsdp=1, model__dim=32)
  code, _, err = tiny.train(command, cache)
  assert code == 1
  assert 'of another config: model.dim is 16, got 32.' in err
  code, out, err = tiny.train(tiny.command(corpus, tmp_path, fsdp=1), cache)
  assert code == 0, err
  assert "1 x cpu, {'data': 1, 'fsdp': 1}" in out
  check_close(tmp_path, tiny.rows(whole[0]))
  assert len(tiny.rows(tmp_path)) == len(tiny.rows(whole[0]))
  assert (tmp_path / 'run.json').read_bytes() == kept


def test_micro_batches(corpus, tmp_path, monkeypatch):
  """An update of two micro-batches is one of all rows (dropout aside)."""
  monkeypatch.setattr(wmt14.Translation, 'evaluate', lambda *args: {})
  for n in (1, 2):
    config = tiny.config(
      corpus, accumulate=n, model__dropout=0.0, total_steps=4
    )
    workdir.claim(config, tmp_path / f'{n}')
    train.run(config, str(tmp_path / f'{n}'))
  check_close(tmp_path / '2', tiny.rows(tmp_path / '1'))
