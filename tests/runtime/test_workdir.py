# SPDX-License-Identifier: Apache-2.0
"""Who uses a workdir."""

import subprocess
import sys

import pytest

from collab.runtime import lease, workdir
from tests import tiny


def test_locked_while_a_process_lives(tmp_path):
  code = 'import sys; from collab.runtime import lease; '
  code += 'lease.lock(sys.argv[1]); print("got", flush=True); input()'
  with subprocess.Popen(
    [sys.executable, '-c', code, tmp_path],
    cwd=tiny.ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'got\n'
    words = f'{tmp_path} is in use by process {process.pid} on .*; expected one'
    with pytest.raises(ValueError, match=words):
      lease.lock(tmp_path)
    process.kill()
    process.wait()
    lease.lock(tmp_path)


NAMES = (
  'lock',
  'run.json',
  'metrics.jsonl',
  'result.json',
  'tensorboard',
  'checkpoints',
  'checkpoints/7',
  'data',
  'wandb',
)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('target', ['file', 'folder', 'nothing'])
def test_nothing_is_written_through_a_link(name, target, tmp_path):
  """Out of the workdir; within it a link is one of the user's own."""
  folder, outside = tmp_path / 'run', tmp_path / 'outside'
  outside.mkdir()
  (outside / 'file').write_text('precious')
  (outside / 'folder').mkdir()
  (folder / name).parent.mkdir(parents=True)
  (folder / name).symlink_to(outside / target)
  with pytest.raises(ValueError, match=f'{name} is a link to {outside}'):
    workdir.claim(tiny.config('corpus'), folder)
  assert (outside / 'file').read_text() == 'precious'
  assert [p.name for p in folder.rglob('*') if not p.is_dir()] in (
    [],
    [(folder / name).name],
  )
  (folder / name).unlink()
  (folder / 'within').symlink_to('elsewhere')
  (tmp_path / 'link').symlink_to(folder)  # the workdir may be one
  workdir.claim(tiny.config('corpus'), tmp_path / 'link')
  lease.lock(tmp_path / 'link')


def test_lock_made_a_link_after_the_look_at_links(tmp_path):
  (tmp_path / 'precious').write_text('x')
  (tmp_path / 'lock').symlink_to('precious')
  with pytest.raises(OSError, match='lock'):
    lease.lock(tmp_path)
  assert (tmp_path / 'precious').read_text() == 'x'


def test_only_its_own_start_forgets_a_run(tmp_path, monkeypatch):
  config = tiny.config('corpus')
  workdir.claim(config, tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  workdir.begin(tmp_path)
  rows = tmp_path / 'metrics.jsonl'
  rows.write_text('{"step": 1}\n')
  workdir.abandon(tmp_path)
  assert (tmp_path / 'run.json').exists()
  rows.unlink()
  with monkeypatch.context() as other:  # process
    other.setattr(workdir, '_written', set())
    workdir.claim(config, tmp_path)
    workdir.abandon(tmp_path)
  assert (tmp_path / 'run.json').exists()
  workdir.abandon(tmp_path)
  assert not [p for p in tmp_path.rglob('*') if p.is_file()]


def test_rows_of_no_run(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  with pytest.raises(ValueError, match=r'rows of metrics, but no run\.json'):
    workdir.claim(tiny.config('corpus'), tmp_path)


def test_converted_from_a_checkpoint(tmp_path):
  config = tiny.config('corpus', total_steps=0)
  with config.unlocked():
    config.data = {}
  workdir.claim(config, tmp_path)
  for other in (config, tiny.config('corpus', total_steps=5)):
    with pytest.raises(ValueError, match=r'has no task: start .*init_from='):
      workdir.claim(other, tmp_path)
