# SPDX-License-Identifier: Apache-2.0
"""What the commands share: home folders, standard input, one line a line."""

import io

from ml_collections import ConfigDict
import pytest

from collab import command
from configs import wmt14
from tests import tiny


@pytest.fixture(autouse=True)
def home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')


@pytest.mark.parametrize(
  'given, wanted',
  [
    ('~', '/home/me'),
    ('~/data', '/home/me/data'),
    ('train=~/a.en,~/a.de', 'train=/home/me/a.en,/home/me/a.de'),
    ('data~', 'data~'),
    ('a/~/b', 'a/~/b'),
    ('~nobody-of-this-name/x', '~nobody-of-this-name/x'),
    ('', ''),
  ],
)
def test_home(given, wanted):
  assert command.path(given) == wanted


def test_home_in_every_path_of_a_config():
  c = wmt14.get_config('sample')
  places = ('path', 'folder', 'vocabulary')
  c.data.update(dict.fromkeys(places, '~/x'), files=('val=~/a,~/b', 'c'))
  c.init_from = '~/run'
  command.with_paths(c.lock())
  assert [c.data[name] for name in places] == ['/home/me/x'] * 3
  assert c.data.files == ('val=/home/me/a,/home/me/b', 'c')
  assert c.init_from == '/home/me/run'
  same = wmt14.get_config('sample')
  assert command.with_paths(ConfigDict(same)) == same


def test_home_in_arguments_of_commands():
  parser = command.Parser()
  parser.add_argument('folder')
  parser.add_argument('--out', default='~/out')
  parser.add_argument('--text', type=str)
  args = parser.parse_args(['~/in', '--text=~/t'])
  assert vars(args) == dict(
    folder='/home/me/in', out='/home/me/out', text='~/t'
  )


def test_home_in_training(tmp_path):
  """The config's file too, and what it says."""
  source = (tiny.ROOT / tiny.CONFIG.split(':')[0]).read_text()
  source += '\n\ndef get_config(x, get=get_config):\n  c = get(x)\n'
  source += "  c.data.path = '~/nowhere'\n  return c\n"
  (tmp_path / 'mine.py').write_text(source)
  code, _, err = tiny.train(
    ['--config=~/mine.py:sample', '--workdir=~/run'],
    tmp_path / 'cache',
    HOME=str(tmp_path),
    cwd=tmp_path,
  )
  assert code == 1
  assert err.startswith(f'train.py: {tmp_path}/nowhere is not a folder.')
  assert (tmp_path / 'run').is_dir()
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
