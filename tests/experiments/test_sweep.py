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
import yaml

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


def gpus(folder, study='quick'):
  """{run: what it had as CUDA_VISIBLE_DEVICES}."""
  paths = (folder / 'runs' / study).glob('*/gpu')
  return {x.parent.name: json.loads(x.read_text()) for x in paths}


NVIDIA_SMI = """#!/bin/sh
echo 'GPU 0: A (UUID: GPU-0)'
echo '  MIG 1g.5gb Device 0: (UUID: MIG-0)'
echo 'GPU 1: A (UUID: GPU-1)'
"""


@pytest.mark.parametrize(
  'options, visible, names',
  [
    ([], None, {'0', '1'}),
    ([], '7,GPU-1f', {'7', 'GPU-1f'}),
    (['--gpus=1'], '7,GPU-1f', {'7'}),
    (['--gpus=0'], '7,GPU-1f', {'7,GPU-1f'}),
    (['--gpus=0'], None, {None}),
    ([], '', {''}),
  ],
)
def test_each_job_has_one_gpu(options, visible, names, tmp_path, monkeypatch):
  """Two at a time have two."""
  if len(os.sched_getaffinity(0)) < 2:
    pytest.skip('one core')
  (tmp_path / 'bin').mkdir()
  listing = tmp_path / 'bin' / 'nvidia-smi'
  listing.write_text(NVIDIA_SMI)
  listing.chmod(0o755)
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  if visible is not None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
  fake.write(tmp_path, steps=10, seconds=0.05)
  path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
  finish(fake.start(tmp_path, *options, path=path))
  had = gpus(tmp_path)
  assert set(had.values()) == names
  assert {had['a-s0'], had['a-s1']} == names


def test_gpus_that_nobody_lists(tmp_path, monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  fake.write(tmp_path)
  finish(fake.start(tmp_path, '--gpus=1', path=''))
  assert set(gpus(tmp_path).values()) == {'0'}


def test_grid(tmp_path):
  """A study at each point, beside which the study itself stays as it was."""
  fake.write(tmp_path)
  options = ['--grid=total_steps=1,2', '--grid', 'seed=3']
  code, out, err = finish(fake.start(tmp_path, *options, results=''))
  assert (code, out) == (1, '4 of 8 runs are finished.\n'), err
  rows = results.rows(tmp_path / 'runs' / 'quick-grid.jsonl')
  assert [(x['arm'], x['seed'], x['steps']) for x in rows] == [
    (f'{arm}-total_steps{steps}', 3, steps) for arm in 'ac' for steps in (1, 2)
  ]
  for row in rows:
    assert row['study'] == 'quick-grid'
    assert f' --config.total_steps={row["steps"]} ' in row['command']
    assert results.examples(row, tmp_path / 'runs') == dict(right=[0, 1, 1])
  assert not (tmp_path / 'runs' / 'quick').exists()
  lines = finish(fake.start(tmp_path, *options, '--print', results=''))[1]
  assert [x.split('--workdir=')[1] for x in lines.splitlines()] == [
    f'runs/quick-grid/{arm}-total_steps{steps}-s3'
    for steps in (1, 2)
    for arm in ('b', 'of_b')
  ]


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


@pytest.mark.parametrize(
  'way',
  [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
)
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


@pytest.mark.slow
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


@pytest.mark.skipif(not shutil.which('dash'), reason='needs dash')
@pytest.mark.parametrize('number, code', [('USR1', 0), ('TERM', 143)])
def test_part_of_an_array_ends_well(project, capsys, number, code):
  """It saves; only the time limit, of which USR1 tells, puts it back."""
  sweep.main(['quick.py', '--slurm'])
  script = capsys.readouterr().out
  text = """#!/bin/sh
trap 'sleep 0.2; echo saved; exit 1' TERM
echo "$*"
while :; do sleep 0.05; done
"""
  (project / 'bin').mkdir()
  for path, words in (
    (project / 'launch.sh', text),
    (project / 'bin' / 'scontrol', '#!/bin/sh\necho "$*"\n'),
  ):
    path.write_text(words)
    path.chmod(0o755)
  path = f'{project / "bin"}:{os.environ["PATH"]}'
  job = dict(PATH=path, SLURM_JOB_ID='70', SLURM_ARRAY_TASK_ID='2')
  process = subprocess.Popen(
    ['dash', '-c', script], env=job, stdout=subprocess.PIPE, text=True
  )
  begun = process.stdout.readline()
  assert begun == ('python -m experiments.sweep quick.py --jobs=1 --part=2\n')
  process.send_signal(getattr(signal, f'SIG{number}'))
  ended = finish(process)[:2]
  assert ended == (code, 'saved\n' + 'requeue 70\n' * (number == 'USR1'))


@pytest.mark.parametrize('bucket', ['--sky=gs://mine', '--sky gs://mine'])
def test_job_of_skypilot(project, capsys, bucket):
  """Its commands, read by a POSIX shell, are those of the parts."""
  data = "A B'$(echo bad)\té\n;"
  (project / data).mkdir()
  sweep.main(['quick.py', f'--data={data}', '--grid=seed=5', *bucket.split()])
  text = capsys.readouterr().out
  job = yaml.safe_load(text)
  assert job['name'] == 'quick-grid'
  assert job['envs']['PART'] is None  # SkyPilot refuses to start without it
  assert job['workdir'] == '.'
  assert job['file_mounts'] == {
    '~/sky_workdir/runs': dict(source='gs://mine', mode='MOUNT_CACHED'),
    f'~/sky_workdir/{data}': data,
  }
  say = project / 'launch.sh'
  say.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
  say.chmod(0o755)
  out = subprocess.check_output(
    ['sh', '-c', f'{job["setup"]} && {job["run"]}'],
    text=True,
    env=dict(LC_ALL='C', PART='2'),
  )
  assert out.split('\0')[:-1] == [
    *('true', 'python', '-m', 'experiments.sweep', 'quick.py'),
    *(f'--data={data}', '--grid=seed=5', '--jobs=1', '--runs=runs'),
    *('--results=experiments/results', '--part=2'),
  ]
  comment = ''.join(
    line[1:] + '\n' for line in text.splitlines() if line.startswith('#   ')
  )
  loop = comment.replace('sky jobs', 'echo sky jobs')
  lines = subprocess.check_output(['sh', '-c', loop], text=True).splitlines()
  assert [x.split('--env ')[1] for x in lines] == [
    f'PART={part} FILE' for part in range(3)
  ]


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
    ('--gpus=-1', '--gpus=-1; expected 0 to '),
    ('--jobs=0', '--jobs=0; expected 1 to '),
    ('--sky=mine', '--sky=mine; expected a bucket, like gs://NAME'),
    ('--sky=gs://a\nb', 'expected a bucket'),
    ('--grid=total_steps', '--grid=total_steps; expected FIELD=VALUE,VALUE'),
    ('--grid==1', '--grid==1; expected FIELD=VALUE,VALUE'),
    ('--grid=total_steps=1,1', 'a-total_steps1 with seed 0 is there twice'),
    ('--grid=steps=1', r'--grid: a-steps1-s0 has .*: steps=1: .*"steps" does'),
    (
      '--grid=total_steps=1,x',
      '--grid: .* has no config: total_steps=1: .*str',
    ),
    ('--grid=total_steps=x', '--grid: .* has no config: total_steps=x: .*str'),
    ('--grid=total_steps=0', '--grid: .*: total_steps=0; expected at least 1'),
    ('--grid=seed=x', '--grid: .* has no config: seed=x: .*str'),
    ('--grid=optim=1', '--grid: .* has no config: optim=1: '),
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
    ('3', r'bad\.py: 3 in ARMS, expected an Arm'),
    ('nope', r'bad\.py does not run: NameError'),
    ("Arm('a', 'x.py', seeds=0)", "'a': seeds is 0, expected a tuple of int"),
    ("Arm('a', 'x.py', seeds=(True,))", 'expected a tuple of int'),
    ("Arm('a', source='b', convert='--x')", 'expected a tuple of str'),
    ("Arm('a', 'x.py', {'seed': 1})", "'a': overrides has seed"),
    (
      "Arm('a', 'x.py', {'path': '{x}'})",
      "'a': overrides has more than {data} and {runs}: 'x'",
    ),
    (
      "Arm('a', 'configs/lm.py', {'total_steps': -5})",
      'a-s0 has no config: total_steps=-5; expected at least 1',
    ),
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
  try:
    runs = study.plan(str(path))
  except ValueError as e:
    if 'in its study of rates' not in str(e):
      raise
    pytest.skip('its learning rates have not run')
  assert len({study.config_hash(x) for x in runs if not x.source}) == sum(
    not x.source for x in runs
  )
  steps = {}
  for run in runs:
    c = study.config(run)
    if not run.arm.name.endswith('-long'):  # what more steps are worth
      steps.setdefault(str(c.task), set()).add(c.total_steps)
  assert all(len(x) == 1 for x in steps.values())
