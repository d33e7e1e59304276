# SPDX-License-Identifier: Apache-2.0
"""What is listed is all there is, and each field of a config has a meaning."""

import re
import subprocess
import sys

import pytest

from collab import __main__ as program
from collab import attention, catalog, models, tasks
import configs
from tests.test_configs import FAMILIES, NAMES, THIN, VARIANTS, get


def known(name):
  return catalog.comments(catalog.KINDS['configs'] / f'{name}.py')


@pytest.mark.parametrize('name', NAMES)
def test_every_field_has_a_comment(name):
  of = known(name)
  variants = VARIANTS if name not in THIN else ['']
  for variant in variants:
    for field, _ in catalog.flat(get(name, variant)):
      assert catalog.meaning(field, of), field


def test_the_meaning_is_that_of_the_nearest_source(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text("""
from configs import lm

def get_config(x):
  c = lm.get_config(x)  # not of a field
  c.mine = dict(
    name='',  # one line
    # and one more
    other=dict(lr=1),  # the outer one
  )
  # of nothing
  c.optim.update(
    name='x',  # mine
  )
  return c
""")
  of = catalog.comments(path)
  assert catalog.meaning('mine.name', of) == 'one line and one more'
  assert catalog.meaning('mine.other', of) == 'the outer one'
  assert catalog.meaning('optim.name', of) == 'mine'
  assert catalog.meaning('optim.lr', of) == 'peak learning rate'
  assert catalog.meaning('data.kind', of) == "or 'words', a closed vocabulary"
  assert catalog.meaning('nothing', of) == ''


def said(words, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['collab', *words])
  monkeypatch.setattr(sys, 'path', [*sys.path])
  program.main()
  return capsys.readouterr().out


def test_lists(monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)  # whatever lies there
  there = dict(
    variants=attention.names(),
    tasks=tasks.names(),
    models=sorted(models.MODELS),
    configs=NAMES,
  )
  for kind, names in there.items():
    head, *lines = said(['list', kind], monkeypatch, capsys).splitlines()
    assert head == kind
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split()) > 2 for line in lines)
  whole = said(['list'], monkeypatch, capsys)
  assert all(f'{kind}\n' in whole for kind in catalog.KINDS)
  help_ = said([], monkeypatch, capsys)
  assert all(f'  {name} ' in help_ for name in program.COMMANDS)


def test_description(monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)
  words = ['describe', 'configs/wmt14_mhe_mul.py:small,num_heads=3']
  said_ = said(words, monkeypatch, capsys)
  assert said_.startswith('WMT-14 with MHE-MUL')
  lines = said_.splitlines()
  fields = dict(line.split(' = ') for line in lines if ' = ' in line)
  given = fields['  model.attention.num_heads'].split(maxsplit=1)
  assert given == ['3', 'number of heads']
  assert len(fields) == len(list(catalog.flat(get('wmt14', 'mhe_mul'))))


def test_completion_in_bash(monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(tmp_path)
  line = said(['completion'], monkeypatch, capsys)
  names = re.search("-W ('.*')", line)[1]
  for start, want in (
    ('tra', ['train', 'translate', 'translation']),
    ('mhe', ['mhe_add', 'mhe_mul', 'mhe']),
    ('configs/lm', ['configs/lm.py']),
  ):
    # Bash breaks words at = and :, so also in --config=configs/lm.py:mhe_add.
    command = f'{line}complete -p collab; compgen -W {names} {start}'
    done = subprocess.run(
      ['bash', '-c', command], capture_output=True, text=True, check=True
    )
    first, *found = done.stdout.splitlines()
    assert first == line.strip()
    assert found == want


@pytest.mark.parametrize(
  'words',
  [
    ['collab', 'describe', 'configs/lm.py'],
    ['experiments.sweep', 'vision', '--print', '--results=/nope'],
  ],
)
def test_nobody_reads_on(words):
  """As with `| head`: no traceback, and no line either."""
  command = f'{sys.executable} -m {" ".join(words)} | true; exit $PIPESTATUS'
  done = subprocess.run(['bash', '-c', command], capture_output=True)
  assert (done.returncode, done.stderr) == (1, b'')


@pytest.mark.parametrize(
  'words, error',
  [
    (['trian'], "COMMAND='trian'; there are train, convert, "),
    (['list', 'model'], "KIND='model'; there are variants, models, tasks, "),
    (['describe', 'lm.py'], 'lm.py: no such config; configs/ has classify, '),
    (['describe', 'configs/lm.py:x'], "fails: The argument has 'x'; there are"),
    (['describe'], 'describe CONFIG'),
  ],
)
def test_errors_are_one_line(words, error, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['collab', *words])
  with pytest.raises(SystemExit) as info:
    program.main()
  assert info.value.code.startswith('collab: ')
  assert error in info.value.code
  assert '\n' not in info.value.code


def test_families_are_what_help_of_training_lists():
  text = configs.overview()
  for name in (*FAMILIES, *VARIANTS, *configs.SIZES):
    assert f'\n  {name} ' in text
