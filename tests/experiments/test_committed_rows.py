# SPDX-License-Identifier: Apache-2.0
"""The rows in experiments/results are found by the configs of today."""

import re

import pytest

from experiments import results, study, sweep

ROWS = [
  (path.stem, row)
  for path in sorted(study.RESULTS.glob('*.jsonl'))
  for row in results.rows(path)
]
STUDIES = sorted({name for name, row in ROWS if 'arm' in row})
# Rows that train.py wrote by itself. glue_minilm's have DIR in their command,
# but the folder that was there in their hash.
TRAINED = [
  row
  for name, row in ROWS
  if 'config_hash' in row and 'arm' not in row and name != 'glue_minilm'
]


def run_of(row):
  """The Run of a row's command, in today's words.

  A variant was a file: configs/lm_sha.py:ptb is now configs/lm.py:ptb,sha.
  """
  config, *given = re.findall(r'--config\.?(\S*)', row['command'])
  family, variant, words = re.match('=(.*?)_(.*).py:(.*)', config).groups()
  overrides = dict(x.split('=') for x in given)
  arm = study.Arm('', f'{family}.py:{words},{variant}', overrides)
  return study.Run('', arm, row['seed'], '', None)


def test_there_are_rows():
  assert len(TRAINED) == 11
  assert {'translation', 'glue', 'vision', 'starts'} < set(STUDIES)


@pytest.mark.parametrize(
  'row', TRAINED, ids=lambda row: row['command'].split()[2]
)
def test_commands_make_the_config_of_their_row(row):
  assert row['config_hash'] in study.hashes(run_of(row))


@pytest.mark.parametrize('name', STUDIES)
def test_rows_of_studies_are_found(name):
  rows = [row for of, row in ROWS if of == name and 'arm' in row]
  runs = study.plan(name)
  found = [results.find(run, run, name, study.RESULTS) for run in runs]
  assert sorted(rows, key=str) == sorted(filter(None, found), key=str)


@pytest.mark.parametrize('name', STUDIES)
def test_a_sweep_makes_the_runs_that_have_no_row(name, tmp_path, capsys):
  rows = [row for of, row in ROWS if of == name and 'arm' in row]
  have = {(row['arm'], row['seed']) for row in rows}
  runs = study.plan(name)
  left = [run.name for run in runs if (run.arm.name, run.seed) not in have]
  assert len(left) < len(runs)
  sweep.main([name, '--print', f'--runs={tmp_path}'])
  printed = capsys.readouterr().out.splitlines()
  assert [line.rpartition('/')[2] for line in printed] == left
