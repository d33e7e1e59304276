# SPDX-License-Identifier: Apache-2.0
"""A sweep makes each run once, whatever happens to it; by a fake train.py."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from collab.metrics import bleu
from experiments import results, study, sweep
from tests import tiny
from tests.experiments import fake

FAILED = [
  'b-s0 failed: train.py: it is broken. (exit code 1)',
  'of_b-s0 failed: needs b-s0',
]


def finish(process):
  try:
    out, err = process.communicate(timeout=300)
  finally:
    process.kill()
    process.wait()
  return process.returncode, out, err


def starts(folder):
  """{run: what it began with each time it was started}."""
  paths = pathlib.Path(folder).glob('runs/quick/*/starts')
  return {x.parent.name: x.read_text().splitlines() for x in paths}


def wait_for(happened):
  deadline = time.monotonic() + 120
  while not happened():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def steps(folder):
  return [int(x.read_text() or 0) for x in folder.glob('runs/quick/a-*/step')]


def running(folder):
  """Processes that work in a folder."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      found += [int(path.name)] * (os.readlink(path / 'cwd') == str(folder))
    except OSError:
      continue
  return found


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  folder = fake.write(tmp_path_factory.mktemp('swept'))
  return folder, *finish(fake.start(folder))


def test_all_that_can_be_made_is(swept):
  folder, code, out, err = swept
  assert code == 1
  failures = [x for x in err.splitlines() if x.startswith('sweep: ')]
  assert [x[7:].split(', which')[0] for x in failures] == FAILED
  assert out == '3 of 5 runs are finished.\n'
  rows = results.rows(folder / 'results' / 'quick.jsonl')
  assert [(x['arm'], x['seed']) for x in rows] == [('a', 0), ('a', 1), ('c', 0)]
  for row in rows:
    assert row['study'] == 'quick'
    assert row['command'].startswith('python train.py --config=config.py ')
    assert str(folder) not in json.dumps(row)
    assert results.examples(row, folder / 'results') == dict(right=[0, 1, 1])


def test_collect_trains_nothing(swept, tmp_path):
  folder, *_ = swept
  fake.write(tmp_path)
  (tmp_path / 'runs').mkdir()
  for name in ('a-s0', 'b'):  # finished; of no config of the study
    shutil.copytree(
      folder / 'runs' / 'quick' / 'a-s0', tmp_path / 'runs' / name
    )
  code, out, _ = finish(fake.start(tmp_path, '--collect'))
  assert (code, out) == (0, '1 of 5 runs are finished.\n')
  (row,) = results.rows(tmp_path / 'results' / 'quick.jsonl')
  assert (row['arm'], row['seed']) == ('a', 0)


def test_each_job_has_its_own_cores(swept):
  folder, *_ = swept
  if len(os.sched_getaffinity(0)) < 2:
    pytest.skip('one core')
  used = {line.split(' ', 1)[1] for x in starts(folder).values() for line in x}
  used = [set(json.loads(x)) for x in used]
  assert set.union(*used) <= os.sched_getaffinity(0)
  assert sum(map(len, used)) == len(set.union(*used))


def test_what_is_finished_is_not_run_again(swept):
  """Found by the row, or without one by the workdir, or one of another name."""
  folder, *_ = swept
  before = starts(folder)
  path = folder / 'results' / 'quick.jsonl'
  rows = path.read_text()
  path.write_text(''.join(rows.splitlines(keepends=True)[:-1]))
  (folder / 'runs' / 'quick' / 'a-s1').rename(folder / 'runs' / 'by_hand')
  for name in ('a-s0', 'c-s0'):
    (folder / 'runs' / 'quick' / name / 'examples.json').unlink()
  code, _, _ = finish(fake.start(folder))
  assert code == 1
  assert path.read_text() == rows
  after = starts(folder)
  assert after['a-s0'] == before['a-s0']
  # It has been evaluated once more, for its examples.
  assert after['c-s0'] == before['c-s0'] + [after['c-s0'][-1]]
  assert after['c-s0'][-1].startswith('2 ')
  assert not (folder / 'runs' / 'quick' / 'a-s1').exists()


@pytest.mark.parametrize('way', [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_lost(way, tmp_path):
  """Children save and end; the next sweep goes on, one process a run."""
  fake.write(tmp_path, steps=60, seconds=0.05)
  process = fake.start(tmp_path)
  wait_for(
    lambda: min(steps(tmp_path), default=0) > 2 < len(steps(tmp_path)) + 1
  )
  process.send_signal(way)
  code, _, err = finish(process)
  assert code == (1 if way == signal.SIGINT else -signal.SIGKILL)
  if way == signal.SIGINT:
    assert not running(tmp_path)
    assert 'stopped; the same command goes on' in err
  code, *_ = finish(fake.start(tmp_path))
  assert code == 1  # b, as ever
  began = {}
  for name in ('a-s0', 'a-s1'):
    began[name] = [int(x.split()[0]) for x in starts(tmp_path)[name]]
    assert began[name][0] == 0
    log = (tmp_path / 'runs' / 'quick' / f'{name}.log').read_text()
    said = [x for x in log.splitlines() if x.startswith('step')]
    assert said == [f'step {i}/60, loss 1' for i in range(1, 61)]
  assert 2 < max(map(max, began.values())) < 60
  assert len(results.rows(tmp_path / 'results' / 'quick.jsonl')) == 3


def test_children_that_are_left_are_waited_for(tmp_path):
  """Where they do not end with the sweep: without setpriv."""
  fake.write(tmp_path, steps=60, seconds=0.05)
  process = fake.start(tmp_path, path='')
  wait_for(lambda: max(steps(tmp_path), default=0) > 2)
  process.kill()
  finish(process)
  assert running(tmp_path)
  finish(fake.start(tmp_path))
  assert all(x == [x[0]] for x in starts(tmp_path).values())
  assert len(results.rows(tmp_path / 'results' / 'quick.jsonl')) == 3


@pytest.fixture
def project(tmp_path, monkeypatch):
  """The fake project as that of this process."""
  monkeypatch.chdir(fake.write(tmp_path))
  monkeypatch.setattr(study, 'ROOT', tmp_path / 'experiments')
  return tmp_path


def test_commands_and_array(project, capsys):
  (project / 'A B').mkdir()
  options = ['quick.py', '--results=results', '--data=A B']
  sweep.main([*options, '--print'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5
  assert lines[1] == (
    './launch.sh python train.py --config=config.py --config.seed=1 '
    '--config.total_steps=3 --config.data.seconds=0.0 '
    '--workdir=runs/quick/a-s1'
  )
  assert lines[3] == (
    './launch.sh python -m collab.convert runs/quick/b-s0 runs/quick/of_b-s0 '
    '--attention=mqa && ./launch.sh python train.py '
    '--workdir=runs/quick/of_b-s0'
  )
  sweep.main([*options, '--slurm'])
  script = capsys.readouterr().out
  assert '#SBATCH --array=0,1,2,3\n' in script  # of_b is made after b, by it
  assert "sweep quick.py --results=results '--data=A B'" in script
  assert not (project / 'runs').exists()


def test_printed_commands_are_read_by_a_posix_shell(project, capsys):
  value, words = "a b'$(echo bad)\té\n;", []
  arms = f"Arm('a', 'config.py', {{'task.name': {value!r}}})"
  text = f'from experiments.study import Arm\nARMS = [{arms}]\n'
  (project / 'quick.py').write_text(text)
  say = project / 'launch.sh'
  say.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
  say.chmod(0o755)
  sweep.main(['quick.py', '--results=a b;$(x)', '--print'])
  printed = capsys.readouterr().out
  sweep.main(['quick.py', '--results=a b;$(x)', '--slurm'])
  array = capsys.readouterr().out
  for script in (printed, array):
    command = ['sh', '-c', script]
    out = subprocess.check_output(command, text=True, env=dict(LC_ALL='C'))
    words += out.split('\0')
  assert f'--config.task.name={value}' in words
  assert '--results=a b;$(x)' in words
  (run,) = study.plan('quick.py')
  assert f'--config.task.name={value}' in shlex.split(study.text(run))


def test_nothing_is_left_is_said_and_prints_no_array(
  swept, monkeypatch, capsys
):
  folder, *_ = swept
  monkeypatch.chdir(folder)
  monkeypatch.setattr(study, 'ROOT', folder / 'experiments')
  options = [str(folder / 'quick.py'), '--results=results', '--part=0']
  for option in ('--slurm', '--print'):
    sweep.main([*options, option])
    said = capsys.readouterr()
    assert said.out == ''
    assert said.err == 'sweep: all runs of quick are finished.\n'


@pytest.mark.slow
def test_with_the_real_train(tmp_path):
  """A run and its conversion; BLEU comes back from the counts that are kept."""
  tiny.write_corpus(tmp_path / 'corpus')
  overrides = tiny.SMALL | {'data.path': '{data}/corpus'}
  arms = [
    f"Arm('mha', 'configs/wmt14_mha.py:sample', {overrides})",
    "Arm('mqa', source='mha', convert=('--attention=mqa',))",
  ]
  words = f'from experiments.study import Arm\nARMS = [{", ".join(arms)}]\n'
  (tmp_path / 'quick.py').write_text(words)
  options = [f'--{x}={tmp_path / x}' for x in ('runs', 'results')]
  options += [f'--data={tmp_path}', '--jobs=1']
  for _ in range(2):  # the second time there is nothing to do
    study_file, cache = tmp_path / 'quick.py', str(tmp_path / 'cache')
    process = fake.start(tiny.ROOT, *options, study=study_file, cache=cache)
    code, out, err = finish(process)
    assert (code, out) == (0, '2 of 2 runs are finished.\n'), err
  mha, mqa = results.rows(tmp_path / 'results' / 'quick.jsonl')
  assert (mha['variant'], mqa['variant']) == ('mha', 'gqa')
  assert mqa['source'] == mha['config_hash'] != mqa['config_hash']
  assert mha['command'] in mqa['command']
  for row in (mha, mqa):
    assert str(tmp_path) not in json.dumps(row)
    counts = results.examples(row, tmp_path / 'results')['bleu']
    score = bleu.of_counts(np.sum(counts, 0))
    assert score == row['metrics']['bleu']


# What is refused --------------------------------------------------------------


@pytest.mark.parametrize(
  'option, words',
  [
    ('--data=/nope', '--data=/nope: there is no such folder'),
    ('--part=9', '--part=9; expected 0 to 3'),
    ('--part=-1', '--part=-1; expected 0 to 3'),
    ('--results=bad', r'bad/other\.jsonl, line 1 holds a list'),
  ],
)
def test_options_that_lead_nowhere(option, words, project):
  (project / 'bad').mkdir()
  (project / 'bad' / 'other.jsonl').write_text('[]\n')
  with pytest.raises(ValueError, match=words):
    sweep.main(['quick.py', option])
  assert not (project / 'runs').exists()


def test_nothing_is_started_in_a_folder_of_data(tmp_path, monkeypatch):
  """Whose train.py and configs would be the ones that run."""
  monkeypatch.chdir(fake.write(tmp_path))
  with pytest.raises(ValueError, match=f'Start it in {study.ROOT.parent}, not'):
    sweep.main(['lm'])


@pytest.mark.parametrize('name', ['../x', 'a b', 'a\nb', '', '/a'])
def test_names_that_are_no_folder(name, tmp_path):
  path = tmp_path / 'bad.py'
  arms = f'Arm({name!r}, "config.py")'
  path.write_text(f'from experiments.study import Arm\nARMS = [{arms}]\n')
  with pytest.raises(ValueError, match=r'arm .*: expected a name of letters'):
    study.plan(str(path))


def test_study_that_would_write_into_the_array(tmp_path):
  path = tmp_path / 'a\ntouch x.py'
  path.write_text('')
  with pytest.raises(ValueError, match='expected a name of letters'):
    study.plan(str(path))


def test_a_workdir_of_another_config(tmp_path, monkeypatch):
  monkeypatch.chdir(fake.write(tmp_path))
  run = study.plan('quick.py')[0]
  folder = pathlib.Path(run.workdir)
  folder.mkdir(parents=True)
  other = study.config(run).to_dict() | dict(total_steps=4)
  text = json.dumps(dict(command='', versions={}, config=other))
  (folder / 'run.json').write_text(text)
  with pytest.raises(ValueError, match='of another config than a-s0'):
    study.finished(run)


@pytest.mark.parametrize(
  'arms, words',
  [
    ('', 'has no ARMS'),
    ("Arm('a')", 'a needs a config or a source'),
    ("Arm('a', source='x')", 'a needs x with seed 0'),
    ("Arm('a', 'x.py'), Arm('a', 'y.py')", 'a with seed 0 is there twice'),
    ("Arm('a', 'configs/lm.py:x')", 'a-s0 has no config: .* has .x.'),
    ("Arm('a', 'configs/lm.py', {'optim.x': 1})", 'no config: .*"x" does'),
  ],
)
def test_bad_studies(arms, words, tmp_path):
  path = tmp_path / 'bad.py'
  path.write_text(f'from experiments.study import Arm\nARMS = [{arms}]\n')
  with pytest.raises(ValueError, match=words):
    list(map(study.config, study.plan(str(path))))


def test_unknown_study():
  with pytest.raises(ValueError, match=r'there are .*, translation, vision\.'):
    study.plan('nothing')


@pytest.mark.parametrize('path', sorted(study.STUDIES.glob('[!_]*.py')))
def test_studies_have_configs(path):
  """All arms of a study have configs, and one budget of steps a task."""
  runs = study.plan(str(path))
  assert len({study.config_hash(x) for x in runs if not x.source}) == sum(
    not x.source for x in runs
  )
  steps = {}
  for run in runs:
    c = study.config(run)
    steps.setdefault(str(c.task), set()).add(c.total_steps)
  assert all(len(x) == 1 for x in steps.values())
