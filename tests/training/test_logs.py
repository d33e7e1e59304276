# SPDX-License-Identifier: Apache-2.0
"""Metrics, progress and files, whatever happens to the run."""

import io
import json
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from collab.io import atomic, json_text
from collab.runtime import devices, provenance
from collab.training import logs
from tests import tiny
from tests.runtime.test_checkpoint import files_of_at_most


def write(workdir, first, last, resume_step=None):
  """The rows of a run from first to last; its metrics are pure in the step."""
  resume_step = first - 1 if resume_step is None else resume_step
  writer = logs.Writer(workdir, resume_step)
  for step in range(first, last + 1):
    writer.write(step, {'train/loss': jnp.float32(1 / step), 'n': step})
    if step % 3 == 0:
      writer.write(step, {'eval/f1': np.float64(1) / step})
  writer.close()


def text(workdir):
  return (workdir / 'metrics.jsonl').read_text()


def test_rows(tmp_path):
  values = {
    'a': 0.1,
    'b': np.float32(0.1),
    'c': jnp.float32(1e-30),
    'd': np.int64(3),
    'e': float('nan'),
    'f': -jnp.inf,
    'text': 'x\ny',
  }
  writer = logs.Writer(tmp_path / 'new' / 'run')
  writer.write(jnp.int32(7), values)
  [line] = text(tmp_path / 'new' / 'run').splitlines()  # before it is closed
  writer.close()

  def refuse(constant):
    raise AssertionError(constant)

  row = json.loads(line, parse_constant=refuse)
  assert row == {
    'step': 7,
    'a': 0.1,
    'b': float(np.float32(0.1)),
    'c': float(np.float32(1e-30)),
    'd': 3,
    'e': 'nan',
    'f': '-inf',
    'text': 'x\ny',
  }


@pytest.mark.parametrize('tail', ['', '{"step": 6, "train/lo', '{"step'])
def test_resumed_equals_uninterrupted(tmp_path, tail):
  write(tmp_path / 'whole', 1, 9)
  write(tmp_path / 'killed', 1, 5)
  with (tmp_path / 'killed' / 'metrics.jsonl').open('a') as file:
    file.write(tail)
  write(tmp_path / 'killed', 4, 9)
  assert text(tmp_path / 'killed') == text(tmp_path / 'whole')
  write(tmp_path / 'killed', 1, 9)  # a new run begins a new file
  assert text(tmp_path / 'killed') == text(tmp_path / 'whole')


def test_a_broken_line_is_named(tmp_path):
  write(tmp_path, 1, 2)
  for line in ('{"step": 1,', '[1]', '{"loss": 1}', '3'):
    (tmp_path / 'metrics.jsonl').write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r'metrics.jsonl, line 2: no row'):
      logs.Writer(tmp_path, 9)


def events(workdir):
  """Events of all files, in the order of their making."""
  found = []
  paths = (workdir / 'tensorboard').glob('events.out.tfevents.*')
  for path in sorted(paths, key=lambda p: p.stat().st_mtime_ns):
    data = io.BytesIO(path.read_bytes())
    while header := data.read(12):
      size = int.from_bytes(header[:8], 'little')
      found.append(Event.FromString(data.read(size)))
      data.read(4)
  return found


def test_tensorboard(tmp_path):
  writer = logs.Writer(tmp_path, 4)
  values = {'loss': jnp.float32(0.25), 'x': float('inf'), 'text': 'a'}
  writer.write(5, values)
  version, start, row = events(tmp_path)  # flushed
  writer.close()
  assert version.file_version == 'brain.Event:2'
  # TensorBoard forgets the steps from this on: those before the restart.
  assert (start.step, start.session_log.status) == (5, start.session_log.START)
  assert row.step == 5
  assert {v.tag: v.simple_value for v in row.summary.value} == {
    'loss': 0.25,
    'x': float('inf'),
  }


def test_disk_full_leaves_whole_rows(tmp_path):
  writer = logs.Writer(tmp_path)

  def fill():
    for step in range(1, 99):
      writer.write(step, {'text': 'longer than an event'})

  with (
    files_of_at_most(1000),
    pytest.raises(OSError, match=r'metrics\.jsonl') as error,
  ):
    fill()
  writer.close()
  assert '\n' not in str(error.value)
  rows = [json.loads(line) for line in text(tmp_path).splitlines()]
  assert [row['step'] for row in rows] == list(range(1, len(rows) + 1))
  assert len(rows) > 5
  assert text(tmp_path).endswith('\n')


def test_no_place(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file'):
    logs.Writer(tmp_path / 'file')


def test_save_json(tmp_path):
  path = tmp_path / 'result.json'
  atomic.save_json(path, {'b': (1, np.float32(0.5)), 'a': float('nan')})
  assert json.loads(path.read_text()) == {'b': [1, 0.5], 'a': 'nan'}
  before = path.read_text()
  with (
    files_of_at_most(100),
    pytest.raises(OSError, match=r'result\.json') as error,
  ):
    atomic.save_json(path, {'long': 'x' * 1000})
  assert '\n' not in str(error.value)
  with pytest.raises(TypeError):
    atomic.save_json(path, {'a': object()})
  assert path.read_text() == before
  assert list(tmp_path.iterdir()) == [path]  # and nothing else


def test_wandb(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ValueError, match="wandb='p', but wandb is not installed"):
    logs.Writer(tmp_path, wandb='p')
  calls = []
  run = types.SimpleNamespace(
    log=lambda values, step: calls.append((values, step)),
    finish=lambda: calls.append('finish'),
  )
  fake = types.SimpleNamespace(
    init=lambda **fields: calls.append(fields['project']) or run
  )
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  writer = logs.Writer(tmp_path, wandb='p')
  writer.write(3, {'loss': np.float32(0.5)})
  writer.close()
  assert calls == ['p', ({'loss': 0.5}, 3), 'finish']


def test_only_process_0_writes(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr('jax.process_index', lambda: 1)
  writer = logs.Writer(tmp_path, wandb='p')
  writer.write(1, {'loss': 1.0})
  writer.close()
  progress = logs.Progress(0, 9)
  progress.step()
  progress.show(1, dict(loss=1.0))
  progress.close()
  logs.summary('Run', dict(a=1))
  assert list(tmp_path.iterdir()) == []
  assert capfd.readouterr() == ('', '')


def test_names_of_what_depends_on_the_machine():
  names = ['time/step', 'tokens_per_second', 'train/tokens_per_second', 'mfu']
  names += ['input_wait', *devices.BYTES]
  assert all(map(logs.is_of_machine, names))
  assert not any(map(logs.is_of_machine, ['train/loss', 'eval/time', 'lr']))


class Terminal(io.StringIO):
  def isatty(self):
    return True


def run_progress():
  progress = logs.Progress(2, 9)
  for step in range(3, 10):
    progress.step()
    if step % 3 == 0:
      progress.show(step, dict(loss=1 / step, tokens_per_second=12345.6))
  progress.close()


def test_progress_in_lines(capfd):
  run_progress()
  lines = capfd.readouterr().err.splitlines()
  assert len(lines) == 3
  assert lines[0] == 'step 3/9, loss 0.3333, tokens_per_second 1.235e+04'
  assert lines[1].startswith('step 6/9, loss 0.1667, ')
  assert lines[1].endswith(' 00:00 left')


def test_progress_as_a_bar(monkeypatch):
  monkeypatch.setattr(sys, 'stderr', Terminal())
  run_progress()
  last = sys.stderr.getvalue().split('\r')[-1]
  assert '9/9' in last
  assert 'loss 0.1111' in last


def test_commit_of_a_checkout(tmp_path):
  """With + if a file differs; none of a folder that is not its root."""
  assert provenance.commit(tmp_path) == ''
  (tmp_path / 'inner').mkdir()
  file = tmp_path / 'file'
  file.write_text('1')
  author = ['-c', 'user.name=a', '-c', 'user.email=b']
  for words in (['init'], ['add', 'file'], [*author, 'commit', '-m', 'c']):
    subprocess.run(['git', *words], cwd=tmp_path, check=True)
  head = ['git', 'rev-parse', '--short', 'HEAD']
  want = subprocess.check_output(head, cwd=tmp_path, text=True).strip()
  assert provenance.commit(tmp_path) == want
  file.write_text('2')
  assert provenance.commit(tmp_path) == f'{want}+'
  assert provenance.commit(tmp_path / 'inner') == ''


def test_versions_and_summary(capsys):
  versions = provenance.versions()
  assert versions['python'] == sys.version.split()[0]
  assert versions['jax'] == __import__('jax').__version__
  assert versions.pop('commit') == provenance.commit(tiny.ROOT)
  assert all(versions.values())
  json_text.to_json(versions)
  logs.summary('Run', dict(a=1, longer='x'))
  assert capsys.readouterr().out == 'Run\n  a       1\n  longer  x\n'
