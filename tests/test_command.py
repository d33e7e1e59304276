# SPDX-License-Identifier: Apache-2.0
"""What the commands share: home folders, standard input, one line a line."""

import io

import pytest

from collab import command
from collab.runtime import workdir
from tests import tiny


@pytest.fixture(autouse=True)
def home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')


def test_home_in_arguments_of_commands():
  parser = command.Parser(command.__spec__, '')
  parser.add_argument('folder')
  parser.add_argument('--out', default='~/out')
  parser.add_argument('--text', type=str)
  args = parser.parse_args(['~/in', '--text=~/t'])
  assert vars(args) == dict(
    folder='/home/me/in', out='/home/me/out', text='~/t'
  )


@pytest.mark.parametrize(
  'arguments, variables, workdir',
  [
    pytest.param(['--workdir=~/run'], {}, 'run', marks=pytest.mark.slow),
    ([], dict(COLLAB_RUNS='~/all'), 'all/mine-sample-s0'),
    pytest.param(
      [],
      dict(COLLAB_RUNS=''),
      'runs/mine-sample-s0',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_home_in_training(tmp_path, arguments, variables, workdir):
  """The config's file too, and what it says; and where runs are by default."""
  source = (tiny.ROOT / tiny.CONFIG.split(':')[0]).read_text()
  source += '\n\ndef get_config(x, get=get_config):\n  c = get(x)\n'
  source += "  c.data.path = '~/nowhere'\n  return c\n"
  (tmp_path / 'mine.py').write_text(source)
  code, _, err = tiny.train(
    ['--config=~/mine.py:sample', *arguments],
    tmp_path / 'cache',
    HOME=str(tmp_path),
    cwd=tmp_path,
    **variables,
  )
  assert code == 1
  assert err.startswith(f'train.py: data.path: {tmp_path}/nowhere does ')
  assert (tmp_path / workdir).is_dir()
  assert not (tmp_path / '~').exists()


@pytest.fixture
def stdin(monkeypatch):
  def give(data):
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(data)))

  return give


def test_standard_input(stdin):
  stdin('\ufeff eins\u2028zwei \r\n\x0c\n\x85drei\x1cvier'.encode())
  assert list(command.stdin_lines()) == ['eins\u2028zwei', '', 'drei\x1cvier']
  stdin(b'fine\nf\xfcr\n')
  with pytest.raises(ValueError, match='Standard input, line 2: invalid UTF-8'):
    list(command.stdin_lines())


def test_on_the_command_line(tmp_path):
  """Without --config, by the folder alone; types are those of the config."""
  workdir.claim(tiny.config('corpus'), tmp_path)
  words = ['train.py', '--config.total_steps=20', '--config.every.log', '5']
  config = command.override(tmp_path, words)
  assert config == tiny.config('corpus', total_steps=20, every__log=5)
  wider = command.override(tmp_path, ['train.py', '--config.model.dim=8'])
  with pytest.raises(ValueError, match=r'another config: model\.dim was 16'):
    workdir.claim(wider, tmp_path)
