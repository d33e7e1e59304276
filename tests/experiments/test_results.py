# SPDX-License-Identifier: Apache-2.0
"""Which run a row or a workdir is of, and what is kept of it."""

import gzip
import json
import pathlib

import pytest

from experiments import results, study
from tests.experiments import fake


@pytest.fixture
def runs(tmp_path, monkeypatch):
  """{name: run} of the fake study, in a folder of its own."""
  monkeypatch.chdir(fake.write(tmp_path))
  return {run.name: run for run in study.plan('quick.py')}


def workdir(run, config, command='', **result):
  """A workdir that has ended."""
  folder = pathlib.Path(run.workdir)
  folder.mkdir(parents=True)
  kept = dict(command=command, versions={}, config=config.to_dict())
  (folder / 'run.json').write_text(json.dumps(kept))
  (folder / 'result.json').write_text(json.dumps(result))


def test_rows_of_train_are_found_and_replaced(runs, tmp_path):
  """Also when they lie in another file; their place is then not touched."""
  run, other = runs['a-s0'], runs['a-s1']
  row = dict(config_hash=study.config_hash(run), seed=0, metrics={})
  lines = [row, dict(row, seed=1), dict(command='of something else')]
  text = ''.join(json.dumps(x) + '\n' for x in lines)
  for name in ('quick', 'old'):
    (tmp_path / f'{name}.jsonl').write_text(text)
  assert results.find(run, run, 'quick', tmp_path) == row
  assert results.find(other, other, 'quick', tmp_path) is None
  results.record(run, run, row, 'quick', tmp_path)
  *loose, own = results.rows(tmp_path / 'quick.jsonl')
  assert loose == lines[1:]
  assert own == row | dict(
    study='quick', arm='a', examples='', command=study.text(run)
  )
  assert results.examples(own, tmp_path) is None
  assert results.find(run, run, 'quick', tmp_path) == own
  assert (tmp_path / 'old.jsonl').read_text() == text
  # Another budget is another run.
  more = run._replace(arm=run.arm._replace(overrides=dict(total_steps=9)))
  assert results.find(more, more, 'quick', tmp_path) is None


@pytest.mark.parametrize(
  'name, words',
  [
    ('../x.json.gz', 'are not in'),
    ('x.json.gz', 'is missing, .* a with seed 0'),
  ],
)
def test_examples_that_are_not_there(name, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    results.examples(dict(arm='a', seed=0, examples=name), tmp_path)


def test_rows_of_converted_runs_are_of_their_source(runs, tmp_path):
  run = runs['of_b-s0']
  row = dict(config_hash='of the conversion', seed=0)
  results.record(run, run, row, 'quick', tmp_path)
  (own,) = results.rows(tmp_path / 'quick.jsonl')
  assert own['source'] == study.config_hash(runs['b-s0'])
  assert own['config_hash'] == 'of the conversion'
  assert study.text(runs['b-s0']) in own['command']
  assert results.find(run, run, 'quick', tmp_path) == own
  arm = runs['b-s0'].arm._replace(overrides=dict(total_steps=9))
  source = runs['b-s0']._replace(arm=arm)
  other = run._replace(source=source)
  assert results.find(other, other, 'quick', tmp_path) is None


def test_rows_are_of_a_run_wherever_its_data_are(runs, tmp_path):
  planned = runs['a-s0']
  here, there = (
    planned._replace(arm=planned.arm._replace(overrides={'task.name': folder}))
    for folder in ('here', 'there')
  )
  trained = dict(config_hash=study.config_hash(here), seed=0)
  (tmp_path / 'quick.jsonl').write_text(json.dumps(trained) + '\n')
  assert results.find(here, planned, 'quick', tmp_path) == trained
  assert results.find(there, planned, 'quick', tmp_path) is None
  results.record(here, planned, trained, 'quick', tmp_path)
  (own,) = results.rows(tmp_path / 'quick.jsonl')
  assert own['config_hash'] == study.config_hash(planned)
  assert results.find(there, planned, 'quick', tmp_path) == own


def test_workdirs_of_converted_runs(runs):
  """The recipe is the source's, the model its own; made by the same words."""
  run, config = runs['of_b-s0'], study.config(runs['b-s0'])
  assert study.finished(run) is None
  with config.unlocked():
    config.model.attention = dict(name='gqa', kv_heads=1)
  made = f'python {" ".join(study.commands(run)[0])}'
  workdir(run, config, made, steps=3, config_hash='of the conversion')
  assert study.finished(run)['steps'] == 3
  convert = run._replace(arm=run.arm._replace(convert=('--attention=mla',)))
  with pytest.raises(ValueError, match=r'was made by .*mqa, not .*mla'):
    study.finished(convert)
  arm = runs['b-s0'].arm._replace(overrides={'total_steps': 9})
  with pytest.raises(ValueError, match='of another config than of_b-s0'):
    study.finished(run._replace(source=runs['b-s0']._replace(arm=arm)))


@pytest.mark.parametrize(
  'line, words',
  [
    (b'{"b"', 'is no JSON'),
    (b'', 'is no JSON'),
    (b'\xff', "is no JSON: 'utf-8' codec"),
    (b'[]', r'holds a list, expected \{\.\.\.\}'),
    (b'3', 'holds a int'),
    (b'{}', "is damaged: expected 'steps', got"),
    (b'{"steps": []}', r'is damaged: steps is \[\], expected int'),
    (b'{"steps": 1, "arm": []}', 'is damaged: arm is'),
    (
      b'{"steps": 1, "arm": "a", "seed": 0, "examples": 3}',
      'is damaged: examples is 3',
    ),
  ],
)
def test_damaged_row_is_named_by_file_and_line(line, words, tmp_path):
  (tmp_path / 'x.jsonl').write_bytes(b'{"steps": 1}\n' + line + b'\n')
  with pytest.raises(ValueError, match=rf'x\.jsonl, line 2 {words}'):
    results.rows(tmp_path / 'x.jsonl', steps=int)


@pytest.mark.parametrize(
  'spoil, words',
  [
    (lambda x: x[:-9], 'is damaged: Compressed file ended'),
    (lambda x: x[:12] + b'\xff\xff' + x[14:], 'is damaged: '),
    (lambda x: b'no gzip', 'is damaged: Not a gzipped file'),
    (lambda x: gzip.compress(b'[1'), 'is no JSON'),
    (lambda x: gzip.compress(b'[]'), 'holds a list'),
  ],
)
def test_damaged_examples_are_named_by_their_file(spoil, words, tmp_path):
  text = gzip.compress(b'{"right": [0, 1, 1]}', mtime=0)
  (tmp_path / 'x.json.gz').write_bytes(spoil(text))
  with pytest.raises(ValueError, match=rf'x\.json\.gz {words}'):
    results.examples(dict(examples='x.json.gz'), tmp_path)


@pytest.mark.parametrize(
  'text, words',
  [
    ('{}', "is damaged: expected 'steps', got"),
    ('{"steps": "3"}', "is damaged: steps is '3', expected int"),
    ('[]', 'holds a list'),
    ('{"steps": 3}', "is damaged: expected 'config_hash', got"),
  ],
)
def test_damaged_result_of_a_run_is_named_by_its_file(text, words, runs):
  run = runs['a-s0']
  workdir(run, study.config(run))
  (pathlib.Path(run.workdir) / 'result.json').write_text(text)
  with pytest.raises(ValueError, match=rf'a-s0/result\.json {words}'):
    study.finished(run)
  assert study.elsewhere('runs') == {}


def test_runs_that_changed_on_their_way_enter_no_table(runs, tmp_path):
  run = runs['a-s0']
  changes = [dict(step=2, field='total_steps', was=2, now=3)]
  row = dict(config_hash=study.config_hash(run), seed=0, changes=changes)
  (tmp_path / 'quick.jsonl').write_text(json.dumps(row) + '\n')
  assert results.find(run, run, 'quick', tmp_path) is None
  workdir(run, study.config(run), steps=3, config_hash='', changes=changes)
  with pytest.raises(ValueError, match='enters no table'):
    study.finished(run)


def test_conversions_by_training_data_say_where_they_are(runs):
  run = runs['of_b-s0']
  arm = run.arm._replace(convert=('--attention=mqa', '--calibration=train'))
  source = run.source.arm._replace(overrides={'data.path': 'here/glue'})
  run = run._replace(arm=arm, source=run.source._replace(arm=source))
  assert '--data=here/glue' in study.commands(run)[0]
