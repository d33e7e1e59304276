# SPDX-License-Identifier: Apache-2.0
"""The accelerator's benchmark on a CPU, where nothing but its times differs."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import accelerator
from tests import tiny

BLOCK = """
import sys
class Blocked:
  def find_spec(self, name, path=None, target=None):
    blocked = 'tqdm', 'clu', 'grain', 'ml_collections', 'tensorflow_datasets'
    if name.partition('.')[0] in (*blocked, 'matplotlib'):
      raise ModuleNotFoundError(f'{name} is blocked')
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Runs the command with its fewest packages: (output, rows of the file)."""
  folder = tmp_path_factory.mktemp('accelerator')
  (folder / 'sitecustomize.py').write_text(BLOCK)
  path = os.pathsep.join([str(folder), str(tiny.ROOT)])

  def command(*words, file=folder / 'rows.jsonl', code=0):
    done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.accelerator', '--quick']
      + [f'--out={file}', *words],
      env=os.environ | dict(JAX_PLATFORMS='cpu', PYTHONPATH=path),
      cwd=folder,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == code, done.stderr
    output = done.stderr if code else done.stdout
    return output, [json.loads(x) for x in file.read_text().splitlines()]

  return command


@pytest.fixture(scope='module')
def first(run):
  return run()


def key(row):
  return row['section'], row['group'], row['case']


def test_every_section_has_figures(first):
  output, (environment, *rows) = first
  assert environment['environment']['card'] == 'cpu'
  good = [row for row in rows if 'error' not in row]
  assert {row['section'] for row in good} == set(accelerator.SECTIONS)
  for row in rows:
    assert f'{row["section"]}: {row["group"]}\n' in output
  assert 'Not run' not in output


def test_a_failure_is_a_row_and_not_an_end(first):
  """A CPU has no cuDNN, which is asked for in the second group of all."""
  output, (_, *rows) = first
  errors = [row for row in rows if 'error' in row]
  assert ('layers', 'mha, cudnn') in {(x['section'], x['case']) for x in errors}
  assert rows.index(errors[0]) < len(rows) - 10
  assert all('\n' not in row['error'] for row in errors)
  assert all(row['error'] in output for row in errors)


def test_values_are_right(first):
  _, (_, *rows) = first
  for row in rows:
    if row['section'] == 'values' and 'error' not in row:
      single = row['group'].startswith('float32')
      for name in ('value_error', 'gradient_error'):
        assert 0 < row[name] < (1e-5 if single else 0.05), row


def test_goes_on_with_what_has_no_figures(run, first):
  """What another run of the same file left is kept; what failed is repeated."""
  _, rows = first
  _, both = run()
  before, added = both[: len(rows)], both[len(rows) :]
  assert before == rows
  assert list(added[0]) == ['environment']
  failed = {key(row) for row in rows[1:] if 'error' in row}
  assert failed
  assert {key(row) for row in added[1:]} == failed


def test_no_time(run, tmp_path):
  output, rows = run('--limit=0', file=tmp_path / 'rows.jsonl')
  assert len(rows) == 1
  _, _, left = output.partition('Not run')
  for section in accelerator.SECTIONS:
    assert f'  {section}: ' in left


def test_another_card_needs_another_file(run, first, tmp_path):
  _, (before, *_) = first
  before['environment'] |= dict(card='abacus')
  path = tmp_path / 'rows.jsonl'
  path.write_text(json.dumps(before) + '\n')
  output, rows = run(file=path, code=1)
  (line,) = output.splitlines()
  assert "card='abacus'" in line
  assert rows == [before]
