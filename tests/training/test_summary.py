# SPDX-License-Identifier: Apache-2.0
"""What the end of a run leaves for tables."""

import json

import pytest

from collab.runtime import workdir
from collab.training import summary
from tests import tiny


@pytest.mark.parametrize('name', ['run/run.json', 'run/rows.jsonl', 'rows.txt'])
def test_results_are_a_file_of_rows_of_their_own(name, tmp_path):
  with pytest.raises(
    ValueError, match=f'{name}: expected a .jsonl file outsid'
  ):
    summary.check_results(str(tmp_path / name), str(tmp_path / 'run'))
  assert not list(tmp_path.iterdir())


def test_only_finished_runs_are_appended(tmp_path):
  """--eval_only writes the result of any step; tables hold finished runs."""
  folder, path = tmp_path / 'run', tmp_path / 'rows.jsonl'
  workdir.claim(tiny.config('corpus', total_steps=12), folder)
  result = dict(steps=3, metrics=dict(bleu=1.5))
  (folder / 'result.json').write_text(json.dumps(result))
  with pytest.raises(ValueError, match='is at step 3 of 12, expected a finish'):
    summary.append(folder, path)
  assert not path.exists()
  result['steps'] = 12
  (folder / 'result.json').write_text(json.dumps(result))
  summary.append(folder, path)
  assert path.read_text() == json.dumps(result) + '\n'
