# SPDX-License-Identifier: Apache-2.0
"""launch.sh in a tiny project, with Pythons that only pretend to install."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ('python3', 'python3.13', 'python3.12', 'python3.11')

# Answers the three things that launch.sh asks of a Python: its version and
# place, an environment, an install. What else it is given, Python proper runs.
PYTHON = """#!/usr/bin/env bash
case "$1 ${{2-}}" in
  -ISc*) echo "{version} $(cd "$(dirname "$0")" && pwd)/${{0##*/}}" ;;
  '-m venv') mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  '-m pip')
    echo "$@" >>installs
    if [[ -e broken ]]; then
      echo 'ERROR: No matching distribution found for jax' && echo 'a note'
      exit 1
    fi ;;
  *) exec '{real}' "$@" ;;
esac
"""


def write_python(path, version):
  path.write_text(PYTHON.format(version=version, real=sys.executable))
  path.chmod(0o755)


@pytest.fixture
def tree(tmp_path):
  """A project in a directory with a quote, and a bin/ that goes on PATH."""
  tree = tmp_path / "a user's project"
  tree.mkdir()
  shutil.copy(ROOT / 'launch.sh', tree)
  (tree / 'pyproject.toml').write_text('[project]\n')
  for name in ('constraints-3.11.txt', 'constraints-3.12.txt'):
    (tree / name).write_text('')
  (tmp_path / 'bin').mkdir()
  for name in NAMES:
    write_python(tmp_path / 'bin' / name, '3.12.1')
  return tree


def environment(tree):
  """The stand-ins first on PATH, and nothing that the user has set."""
  ours = 'COLLAB_', 'JAX_', 'XLA_FLAGS', 'LIBTPU_INIT_ARGS'
  environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
  path = f'{tree.parent / "bin"}:{os.environ["PATH"]}'
  return environ | dict(PATH=path, HOME=str(tree.parent))


def with_old_pythons(tree):
  """Its PATH: Pythons of 3.10, and of other programs what launch.sh uses."""
  bin = tree.parent / 'bin'
  for name in NAMES:
    write_python(bin / name, '3.10.13')
  tools = 'bash sh env dirname mkdir cp mv rm cat sed grep tail cksum true'
  for name in [*tools.split(), *filter(shutil.which, ['flock'])]:
    (bin / name).symlink_to(shutil.which(name))
  return str(bin)


def launch(tree, *command, cwd=None, **variables):
  environ = environment(tree)
  return subprocess.run(
    [tree / 'launch.sh', *command],
    cwd=cwd or tree.parent,
    env=environ | variables,
    capture_output=True,
    text=True,
    timeout=60,
    input='from stdin',
    check=False,
  )


def installs(tree):
  return (tree / 'installs').read_text().splitlines()


def test_sets_up_once_and_is_silent_afterwards(tree):
  first = launch(tree, 'python', '-c', 'print(1)')
  assert (first.returncode, first.stdout) == (0, '1\n')
  assert 'Python 3.12.1' in first.stderr
  second = launch(tree, 'python', '-c', 'print(2)')
  assert (second.stdout, second.stderr) == ('2\n', '')
  [install] = installs(tree)
  assert install.endswith('-c constraints-3.12.txt -e .[test]')


def test_command_keeps_directory_stdin_and_exit_code(tree):
  program = 'import os, sys; print(os.getcwd(), input()); sys.exit(7)'
  done = launch(tree, 'python', '-c', program)
  assert done.returncode == 7
  assert done.stdout == f'{tree.parent} from stdin\n'


def test_script_is_found_beside_launch_then_here(tree):
  script = 'import sys; print({!r}, *sys.argv[1:])'
  (tree.parent / 'train.py').write_text(script.format('here'))
  assert launch(tree, 'train.py').stdout == 'here\n'
  (tree / 'train.py').write_text(script.format('beside'))
  assert launch(tree, 'train.py', '--x', 'a b').stdout == 'beside --x a b\n'
  own = str(tree.parent / 'train.py')
  assert launch(tree, own).stdout == 'here\n'
  missing = launch(tree, 'other.py')
  assert missing.returncode == 1
  assert missing.stderr == (
    f'launch.sh: no other.py in {tree} or {tree.parent}\n'
  )


def test_no_code_of_the_working_directory_runs(tree):
  """Not for a script or a module, nor while the environment is made."""
  folder = tree.parent / 'of a stranger'
  folder.mkdir()
  names = ('os', 'venv', 'pip', 'runpy', 'site', 'sitecustomize', 'jax', 'tool')
  for name in names:
    (folder / f'{name}.py').write_text('raise SystemExit("it ran")')
  (tree / 'tool').mkdir()
  (tree / 'tool' / '__init__.py').write_text('from tool import other')
  (tree / 'tool' / 'other.py').write_text('print("of the project")')
  (tree / 'script.py').write_text('import tool')
  for command in (
    ['script.py'],
    ['python', '-c', 'import tool'],
    ['python', '-m', 'tool.other'],
    ['--local=1', 'python', '-m', 'tool.other'],
  ):
    done = launch(tree, *command, cwd=folder, PYTHONPATH=str(folder))
    assert done.stdout.startswith('of the project\n'), done.stderr
    assert 'it ran' not in done.stderr


@pytest.mark.parametrize('change', ['pyproject', 'constraints', 'place'])
def test_stale_environment_is_made_anew(tree, change):
  launch(tree, 'true')
  (tree / '.venv' / 'left over').touch()
  if change == 'pyproject':
    (tree / 'pyproject.toml').write_text('[project]\nname = "x"\n')
  elif change == 'constraints':
    (tree / 'constraints-3.12.txt').write_text('jax==1\n')
  else:
    tree = tree.rename(tree.parent / 'moved')
  assert launch(tree, 'true').returncode == 0
  assert len(installs(tree)) == 2
  assert not (tree / '.venv' / 'left over').exists()


def test_environment_keeps_its_python_until_told(tree):
  launch(tree, 'true')
  other = tree.parent / 'bin' / 'other'
  write_python(other, '3.11.7')
  launch(tree, 'true', COLLAB_PYTHON=str(other))
  assert installs(tree)[1].endswith('-c constraints-3.11.txt -e .[test]')
  assert launch(tree, 'true').stderr == ''  # python3 is 3.12.1 still


def test_extras_are_kept_until_told(tree):
  launch(tree, 'true', COLLAB_EXTRAS='cuda')
  assert installs(tree)[0].endswith('-e .[test,cuda]')
  assert launch(tree, 'true').stderr == ''
  launch(tree, 'true', COLLAB_EXTRAS='')
  assert installs(tree)[1].endswith('-e .[test]')


def test_failed_install_is_told_in_a_line_and_tried_again(tree):
  (tree / 'broken').touch()
  for _ in range(2):
    failed = launch(tree, 'echo', 'ran')
    assert (failed.returncode, failed.stdout) == (1, '')
    log = tree / '.venv' / 'install.log'
    assert failed.stderr.splitlines()[1:] == [
      'launch.sh: no environment: ERROR: No matching distribution found for '
      f'jax (the whole log: {log})'
    ]
    assert 'a note' in log.read_text()
  (tree / 'broken').unlink()
  assert launch(tree, 'echo', 'ran').stdout == 'ran\n'
  assert len(installs(tree)) == 3


def test_python_too_old_is_told_in_a_line(tree):
  bin = with_old_pythons(tree)
  done = launch(tree, 'true', PATH=bin)
  assert done.returncode == 1
  assert done.stderr == (
    f'launch.sh: collab needs Python >= 3.11; found 3.10.13 at {bin}/python3 '
    f'(tried {" ".join(NAMES)}; uv would fetch one: python3 -m pip install '
    '--user uv)\n'
  )


@pytest.mark.parametrize('place', ['bin', '.local/bin'])
def test_uv_fetches_a_python_where_all_are_too_old(tree, place):
  """Once; on PATH or where pip puts it for a user. Which one it is, is said."""
  path, folder = with_old_pythons(tree), tree.parent / place
  fetched = tree.parent / 'fetched' / 'python3.12'
  fetched.parent.mkdir()
  write_python(fetched, '3.12.7')
  folder.mkdir(parents=True, exist_ok=True)
  uv = folder / 'uv'
  uv.write_text(
    '#!/bin/sh\necho "$1 $2 $3 $4 $5" >>"$HOME/asked"\nshift 5\n'
    'exec "$HOME/fetched/python3.12" "$@"\n'
  )
  uv.chmod(0o755)
  first = launch(tree, 'true', PATH=path)
  assert (first.returncode, len(first.stderr.splitlines())) == (0, 2)
  assert f'making .venv with Python 3.12.7 ({fetched}): ' in first.stderr
  asked = (tree.parent / 'asked').read_text()
  words = 'run --quiet --no-project --python=3.12 python'
  assert set(asked.splitlines()) == {words}
  assert launch(tree, 'true', PATH=path).stderr == ''
  assert (tree.parent / 'asked').read_text() == asked
  # A Python that somebody asks for is the one or none.
  done = launch(tree, 'true', PATH=path, COLLAB_PYTHON='python3.11')
  assert done.returncode == 1
  assert done.stderr.endswith('(tried python3.11)\n')


def test_why_uv_fetches_none_is_said(tree):
  path = with_old_pythons(tree)
  uv = tree.parent / 'bin' / 'uv'
  uv.write_text('#!/bin/sh\necho "error: no network" >&2\nexit 2\n')
  uv.chmod(0o755)
  done = launch(tree, 'true', PATH=path)
  assert done.returncode == 1
  *said, last = done.stderr.splitlines()
  assert set(said) == {'error: no network'}
  assert last.endswith(f'(tried {" ".join(NAMES)} uv)')


def test_python_that_does_not_run_is_passed_over(tree):
  bin = tree.parent / 'bin'
  (bin / 'python3.13').write_text('#!/bin/sh\nexit 127\n')
  write_python(bin / 'python3', '3.9.2')
  assert 'Python 3.12.1' in launch(tree, 'true').stderr
  done = launch(tree, 'true', COLLAB_PYTHON='python3.13')
  assert (done.returncode, done.stdout) == (1, '')
  assert 'found none that runs (tried python3.13)' in done.stderr


def test_options(tree):
  unknown = launch(tree, '--fast', 'true')
  assert (unknown.returncode, len(unknown.stderr.splitlines())) == (1, 1)
  assert 'unknown option --fast' in unknown.stderr
  nothing = launch(tree)
  assert nothing.returncode == 1
  assert nothing.stderr.startswith('Usage:')
  helped = launch(tree, '--help')
  assert (helped.returncode, helped.stderr) == (0, '')
  assert helped.stdout == nothing.stderr
  assert not (tree / '.venv').exists()


# Many processes ---------------------------------------------------------------

SAY = """
import os, sys
names = 'NUM_PROCESSES', 'PROCESS_ID', 'LOCAL_DEVICE_IDS', 'COORDINATOR_ADDRESS'
line = [*(os.environ['JAX_' + name] for name in names), *sys.argv[1:]]
os.write(1, (' '.join(line) + '\\n').encode())  # in one piece
"""


def test_local(tree):
  """N processes with what JAX joins them by; silent when all end well."""
  launch(tree, 'true')
  done = launch(tree, '--local=3', 'python', '-c', SAY, 'a b')
  assert (done.returncode, done.stderr) == (0, '')
  lines = sorted(done.stdout.splitlines())
  address = lines[0].split()[3]
  assert address.startswith('localhost:')
  assert lines == [f'3 {i} {i} {address} a b' for i in range(3)]


@pytest.mark.parametrize(
  'end, code, words',
  [
    ('sys.exit(7)', 7, 'ended with 7'),
    ('os.kill(os.getpid(), 9)', 137, 'was killed by SIGKILL'),
  ],
)
def test_local_ends_with_the_first_that_fails(tree, end, code, words):
  """The others too, even one that does not heed SIGTERM."""
  launch(tree, 'true')
  program = f"""
import os, signal, sys, time
if os.environ['JAX_PROCESS_ID'] == '1': {end}
if os.environ['JAX_PROCESS_ID'] == '2':
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(50)
"""
  done = launch(
    tree, '--local=3', 'python', '-c', program, COLLAB_LOST_AFTER='-9'
  )
  assert done.returncode == code
  assert done.stderr == f'launch.sh: process 1 of 3 {words}; the others end\n'


def test_local_passes_signals_on(tree):
  launch(tree, 'true')
  program = """
import os, signal, sys, time
def stop(*_):
  os.write(1, b"stopped\\n")
  os._exit(0)
signal.signal(signal.SIGTERM, stop)
os.write(1, b'ready\\n')
time.sleep(50)
"""
  process = subprocess.Popen(
    [tree / 'launch.sh', '--local=2', 'python', '-c', program],
    env=environment(tree),
    stdout=subprocess.PIPE,
    text=True,
  )
  assert [process.stdout.readline() for _ in 'ab'] == ['ready\n'] * 2
  process.send_signal(signal.SIGINT)
  out, _ = process.communicate(timeout=60)
  assert (process.returncode, out) == (0, 'stopped\n' * 2)


def test_dry_run_prints_and_runs_nothing(tree):
  (tree / 'train.py').touch()

  def printed(*arguments, **variables):
    done = launch(tree, *arguments, **variables)
    assert (done.returncode, done.stderr) == (0, '')
    return [shlex.split(line) for line in done.stdout.splitlines()]

  command, script = ['train.py', '--x=a b'], str(tree / 'train.py')
  assert printed('--dry-run', *command) == [['python', script, '--x=a b']]
  locals_ = printed('--local=2', '--dry-run', *command)
  port = locals_[0][1].removeprefix('JAX_COORDINATOR_ADDRESS=localhost:')
  assert 49152 <= int(port) < 65536
  assert locals_ == [
    [
      'env',
      f'JAX_COORDINATOR_ADDRESS=localhost:{port}',
      'JAX_NUM_PROCESSES=2',
      f'JAX_PROCESS_ID={i}',
      f'JAX_LOCAL_DEVICE_IDS={i}',
      *['python', script, '--x=a b'],
    ]
    for i in range(2)
  ]
  step = ['srun', '--kill-on-bad-exit=1']
  again = [str(tree / 'launch.sh'), 'python', script, '--x=a b']
  ((*sbatch, wrapped),) = printed(
    '--dry-run', '--slurm', '--nodes=2', '--exclusive', *command
  )
  assert sbatch == [
    *('sbatch', '--requeue', '--open-mode=append', '--signal=B:USR1@120'),
    *('--nodes=2', '--exclusive'),  # what a user says comes last, and counts
  ]
  trap, _, name, *rest = shlex.split(wrapped.removeprefix('--wrap='))
  assert (trap, name) == ('trap', 'USR1;')
  assert rest == [*step, *again, '&', 'wait', '$!']
  (srun,) = printed(
    '--slurm', '--ntasks=4', '--dry-run', *command, SLURM_JOB_ID='1'
  )
  assert srun == [*step, '--ntasks=4', *again]
  ((*gcloud, remote),) = printed(
    *('--tpu=pod', '--zone=z', '--dry-run', *command),
    COLLAB_RUNS='gs://runs',
    JAX_COORDINATOR_PORT='99',
    XLA_FLAGS='--a --b',
  )
  ssh = 'gcloud compute tpus tpu-vm ssh pod --worker=all --zone=z'
  assert gcloud == ssh.split()
  assert shlex.split(remote.removeprefix('--command=')) == [
    *['cd', f'./{tree.name}', '&&', 'env', 'COLLAB_EXTRAS=tpu'],
    *['COLLAB_RUNS=gs://runs', 'JAX_COORDINATOR_PORT=99'],
    *['XLA_FLAGS=--a --b', './launch.sh', *command],
  ]
  ((*_, remote),) = printed('--tpu=pod', '--dry-run', 'pytest')
  assert shlex.split(remote.removeprefix('--command='))[3:] == [
    *['env', 'COLLAB_EXTRAS=tpu', 'JAX_COORDINATOR_PORT=8476'],
    *['./launch.sh', 'pytest'],
  ]
  assert not (tree / '.venv').exists()


def test_commands_of_a_cluster_are_run(tree):
  """Stand-ins of sbatch and gcloud say what they got; tpu needs no .venv."""
  for name in ('sbatch', 'gcloud'):
    program = tree.parent / 'bin' / name
    program.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@"\n')
    program.chmod(0o755)
  done = launch(tree, '--tpu=pod', 'pytest')
  assert done.stdout.startswith(f'{tree.parent}/bin/gcloud|compute|tpus|')
  assert not (tree / '.venv').exists()
  done = launch(tree, '--slurm', '--nodes=2', 'pytest')
  assert done.stdout.startswith(f'{tree.parent}/bin/sbatch|--requeue|')
  assert '|--nodes=2|--wrap=' in done.stdout
  assert (tree / '.venv').exists()


# What words may do to a shell, among them all that bash would write as $'...'.
NASTY = [
  'a\tb', 'a\nb', "a'b", "'", '"', '', ' ', '\\', "\\'", 'é ü', '\x1b[0m',
  '$(echo bad)', '`echo bad`', '$HOME', '${X}', '; echo bad', '& echo bad', '&',
  '\\&', '# x', '!x', '*', '~', '~/x', '{a,b}', '[a]', '|', '>x', '$', "$'a'",
  '\r', '\x7f', '-n', '--', '=', 'a=b', '日本', '%s', '\\n',
]  # fmt: skip
# sbatch makes a script of --wrap, which sh runs; gcloud hands --command to the
# login shell of a host, which has none of our environment; srun runs the words
# that it is given.
CLUSTER = {
  'sbatch': """#!/bin/sh
for word; do :; done
printf '#!/bin/sh\\n%s\\n' "${word#--wrap=}" >job
exec env SLURM_JOB_ID=7 dash job
""",
  'srun': '#!/bin/sh\nshift && exec "$@"\n',
  'gcloud': """#!/bin/sh
for word; do :; done
exec env -i "PATH=$PATH" dash -c "${word#--command=}"
""",
  'scancel': '#!/bin/sh\necho "$0 $*" && kill "$(cat pid)"\n',
  'scontrol': '#!/bin/sh\necho "$0 $*"\n',
}


def write_cluster(tree):
  for name, text in CLUSTER.items():
    program = tree.parent / 'bin' / name
    program.write_text(text)
    program.chmod(0o755)


@pytest.mark.skipif(not shutil.which('dash'), reason='needs dash')
@pytest.mark.parametrize('locale', ['C', 'C.UTF-8'])
@pytest.mark.parametrize('option', ['--slurm', '--tpu=pod', '--dry-run'])
def test_generated_shell_text_is_read_by_dash(tree, option, locale):
  """Each word of a command arrives as it was given."""
  write_cluster(tree)
  launch(tree, 'true', COLLAB_EXTRAS='tpu')
  say = 'import json, sys; print(json.dumps(sys.argv[1:]))'
  command = [tree / 'launch.sh', option, 'python', '-X', 'utf8', '-c', say]
  if option == '--dry-run':
    command = ['dash', '-c', 'eval "$("$0" "$@")"', *command]
  out = subprocess.check_output(
    [*command, *NASTY],
    cwd=tree.parent,
    env=environment(tree) | dict(LC_ALL=locale),
    timeout=60,
  )
  assert json.loads(out) == NASTY


@pytest.mark.skipif(not shutil.which('dash'), reason='needs dash')
def test_hosts_of_a_pod_get_the_variables_of_a_run(tree):
  """As they are, and no others."""
  write_cluster(tree)
  launch(tree, 'true', COLLAB_EXTRAS='tpu')
  given = {
    f'{name}{i}': word
    for i, word in enumerate(NASTY)
    for name in ('COLLAB_', 'JAX_')
  }
  given |= dict(XLA_FLAGS="--a='b c'\n --d", LIBTPU_INIT_ARGS='$(x) --e=`f`')
  say = 'import json, os; print(json.dumps(dict(os.environ)))'
  command = ['--tpu=pod', 'python', '-X', 'utf8', '-c', say]
  done = launch(tree, *command, **given, OTHER='secret')
  got = json.loads(done.stdout)
  port = dict(COLLAB_EXTRAS='tpu', JAX_COORDINATOR_PORT='8476')
  assert given | port == {
    name: got[name]
    for name in got
    if name.startswith(('COLLAB_', 'JAX_', 'XLA_FLAGS', 'LIBTPU'))
  }
  assert 'OTHER' not in got


@pytest.mark.parametrize(
  'arguments, runs, workdir',
  [
    ([], '', 'runs/...'),
    ([], 'runs', 'runs'),
    (['--workdir=runs/x'], '/shared', 'runs/x'),
    (['--workdir', 'runs/x'], '/shared', 'runs/x'),
    (['--workdir=/x'], '', None),
    (['--workdir', 'gs://b/x'], 'runs', None),
    (['--eval_only'], 'gs://b', None),
  ],
)
def test_hosts_of_a_pod_need_one_workdir(tree, arguments, runs, workdir):
  command = ['--dry-run', '--tpu=pod', 'train.py', '--config=x', *arguments]
  done = launch(tree, *command, COLLAB_RUNS=runs)
  if workdir is None:
    assert (done.returncode, done.stderr) == (0, '')
    return
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr == (
    f'launch.sh: --tpu: the workdir would be {workdir} on each host; expected '
    'COLLAB_RUNS or --workdir, a path from / or a URL that all see\n'
  )


@pytest.mark.skipif(not shutil.which('dash'), reason='needs dash')
@pytest.mark.parametrize(
  'code, ended, again', [(0, 0, ['scontrol requeue 7']), (3, 138, [])]
)
def test_slurm_job_saves_before_the_limit(tree, code, ended, again):
  """And is queued again, but not when it fails."""
  write_cluster(tree)
  launch(tree, 'true')
  program = f"""
import os, pathlib, signal, time
def stop(*_):
  os.write(1, b'saved\\n')
  os._exit({code})
signal.signal(signal.SIGTERM, stop)
pathlib.Path('pid').write_text(str(os.getpid()))
os.write(1, b'ready\\n')
time.sleep(50)
"""
  process = subprocess.Popen(
    [tree / 'launch.sh', '--slurm', 'python', '-c', program],
    cwd=tree.parent,
    env=environment(tree),
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGUSR1)
  out, _ = process.communicate(timeout=60)
  signalled, *rest = [x.split('/')[-1] for x in out.splitlines()]
  assert signalled == 'scancel --signal=TERM 7'
  assert (process.returncode, rest) == (ended, ['saved', *again])


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--local=0', 'true'], '--local=0: expected a number of processes'),
    (['--local=2', '--nodes=2', 'true'], 'unknown option --nodes=2'),
    (['--tpu=', 'true'], 'unknown option --tpu='),
    (
      ['--slurm', '-N', '2', 'true'],
      '-N: options for slurm are --name=value here',
    ),
  ],
)
def test_impossible_options(tree, arguments, words):
  done = launch(tree, *arguments)
  assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
  assert words in done.stderr
  assert not (tree / '.venv').exists()


def test_two_launches_at_once_make_one_environment(tree):
  if not shutil.which('flock'):
    pytest.skip('needs flock')
  environ = environment(tree)
  launches = [
    subprocess.Popen([tree / 'launch.sh', 'true'], env=environ)
    for _ in range(4)
  ]
  assert [launch.wait(60) for launch in launches] == [0] * 4
  assert len(installs(tree)) == 1
