# SPDX-License-Identifier: Apache-2.0
"""What README and the pages tell one to type: Python runs, commands parse.

A Python block with a title is a file, and is written. A command is followed as
far as its arguments go: train.py's config is made with its overrides, and the
parser of a module gets its words. Notebooks run, on small models where they
can. Nothing trains, but for the slow tests.
"""

import argparse
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile

from absl import flags
from matplotlib import pyplot
import pytest

from collab import attention, command
from collab.__main__ import COMMANDS
from collab.runtime import plan
from experiments.tables import __main__ as tables
from tests import tiny
from tests.convert.checkpoints import with_words
from tests.convert.test_main import marian
from tests.test_generate import write_run

GLOBS = '*.md', 'docs/**/*.md', 'benchmarks/*.md', 'experiments/**/*.md'
PAGES = sorted(
  str(path.relative_to(tiny.ROOT))
  for pattern in GLOBS
  for path in tiny.ROOT.glob(pattern)
)
PYTHON = re.compile(r'```python(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)
INDENTED = re.compile(r'(?<=\n\n)(?: {4}.*\n)+')
SPAN = re.compile(r'`((?:\./launch\.sh|python) [^`]+)`')
LINK = re.compile(r'(?<=\]\()[^)#:\s]+(?=[)#])')
STAND_INS = dict(VARIANT='mha', RUN='glue.py:small')  # words of the reader's
NO_PARSER = {'experiments.tables': tables.NAMES, 'experiments.results_page': []}


def commands(text):
  """Yields ({variable: value}, words) of a page, without redirections."""
  text = PYTHON.sub('', text)
  blocks = ''.join(INDENTED.findall(text)).replace('\\\n', '')
  for line in blocks.splitlines() + SPAN.findall(text):
    for name, value in STAND_INS.items():
      line = line.replace(name, value)
    words, environ = shlex.split(re.split(' [<>] ', line)[0], True), {}
    while words and (match := re.fullmatch('([A-Z_]+)=(.*)', words[0])):
      environ[match[1]] = match[2]
      del words[0]
    if words and words[0] in ('./launch.sh', 'python'):
      yield environ, words


def test_commands_are_found():
  text = (
    'as `./launch.sh pytest\n-m slow`\n\n    A=1 python \\\n        b < c\n'
  )
  assert list(commands(text)) == [
    (dict(A='1'), ['python', 'b']),
    ({}, ['./launch.sh', 'pytest', '-m', 'slow']),
  ]


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A folder like the project's, with room for a page's files."""
  for name in ('configs', 'train.py'):
    (tmp_path / name).symlink_to(tiny.ROOT / name)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  for name in [x for x in sys.modules if x.split('.')[0] == 'my_lab']:
    del sys.modules[name]


@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
@pytest.mark.parametrize('page', PAGES)
def test_page(page, place, monkeypatch):
  text = (tiny.ROOT / page).read_text('utf-8')
  for link in LINK.findall(text):
    assert ((tiny.ROOT / page).parent / link).exists(), link
  if page == 'docs/how-to/use.md':
    write_models(place)
  names = {}
  for title, code in PYTHON.findall(text):
    if title:
      (place / title).parent.mkdir(exist_ok=True)
      (place / title).write_text(code)
    else:
      exec(compile(code, page, 'exec'), names)
  for environ, words in commands(text):
    check(environ, words, monkeypatch)


def write_models(place):
  """Small models in the place of those that the reader has."""
  write_run(place / 'runs' / 'lm-sample-s0')
  with_words(place / 'all-MiniLM-L6-v2')
  marian(place / 'opus-mt-en-de')
  case = 'bert_ForSequenceClassification'
  with_words(place / 'runs' / 'classify-reviews', case)


def check(environ, words, monkeypatch):
  if words[0] == './launch.sh':
    if words[1].startswith('--'):
      launch = tiny.ROOT / 'launch.sh', '--dry-run', *words[1:]
      subprocess.run(launch, check=True, env=os.environ | environ)
    words = [x for i, x in enumerate(words) if i and not is_option(words, i)]
  if words[:1] == ['python']:
    words = [x for x in words[1:] if x != '-P']
  match words:
    case ['train.py', *arguments]:
      check_training(arguments, monkeypatch)
    case ['collab', 'train', *arguments]:
      check_training(arguments, monkeypatch)
    case ['collab', 'list' | 'describe', *_]:
      pass  # test_catalog.py runs them
    case ['collab', command, *arguments]:
      check_module(COMMANDS[command], arguments, monkeypatch)
    case ['-m', 'pip', *_] | ['pytest' | 'ruff' | 'mkdocs', *_] | []:
      pass
    case ['-m', module, *arguments]:
      check_module(module, arguments, monkeypatch)
    case _:
      pytest.fail(f'What is {shlex.join(words)}?')


def is_option(words, i):
  """Whether a word is an option of launch.sh: there is only such before it."""
  return all(x.startswith('--') for x in words[1 : i + 1])


def check_training(arguments, monkeypatch):
  values = flags.FlagValues()
  monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
  command.define_flags(values)
  assert values(sys.argv) == ['train.py']
  if values.config:
    plan.check(values.config)
    attention.build(**values.config.model.attention.to_dict())


class Parsed(Exception):
  """The arguments of a module were right; those that it knows not are here."""


def check_module(module, arguments, monkeypatch):
  if not arguments or arguments == ['--help']:
    assert importlib.util.find_spec(module)
    return
  if module in NO_PARSER:
    assert set(arguments) <= set(NO_PARSER[module])
    return
  parse = argparse.ArgumentParser.parse_known_args

  def stop(self, args=None, namespace=None):
    raise Parsed(parse(self, args, namespace)[1])

  with monkeypatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, 'parse_known_args', stop)
    patch.setattr(sys, 'argv', [module, *arguments])
    with pytest.raises(Parsed) as info:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
  (rest,) = info.value.args
  fields = [x for x in rest if x.startswith('--')]  # of collab.convert
  assert rest == (fields if module == 'collab.convert' else [])


def test_readme_is_short():
  assert len((tiny.ROOT / 'README.md').read_text('utf-8').split()) <= 900


@pytest.fixture
def notebook(place, monkeypatch):
  """A function that runs a notebook and returns its variables."""

  def run(name):
    with pyplot.rc_context({'backend': 'agg'}):
      names = runpy.run_path(str(tiny.ROOT / 'docs' / 'notebooks' / name))
    pyplot.close('all')
    return names

  monkeypatch.setattr(tempfile, 'tempdir', str(place))
  return run


def test_notebook_of_the_layer(notebook):
  costs = notebook('layer.py')['costs']
  assert all(x.parameters <= costs['mha'].parameters for x in costs.values())


def test_notebook_of_compression(notebook, place, monkeypatch):
  common = ['the', 'of', 'a', 'is', 'to', 'in', 'and', 'it', 'that', 'be']
  monkeypatch.setenv('MODEL', str(with_words(place / 'encoder', more=common)))
  more, less = (x.mean() for x in notebook('compress.py')['cosines'])
  assert less < more < 1


@pytest.mark.slow
def test_notebook_of_training(notebook, cache, monkeypatch):
  for name, value in tiny.environ(cache, PYTHONPATH=str(tiny.ROOT)).items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('XLA_FLAGS', '')  # those of the tests make training slow
  names = notebook('inside.py')
  assert len(names['weights']) == 4
  assert 'the weights on inputs of the text' in names['report'].read_text()


@pytest.mark.slow
def test_first_run(place, cache):
  """The commands of the page Start are run as they stand."""
  text = (tiny.ROOT / 'docs' / 'index.md').read_text('utf-8')
  _, _, section = text.partition('## A first run')
  environ = os.environ | tiny.environ(cache, PYTHONPATH=str(tiny.ROOT))
  environ['XLA_FLAGS'] = ''  # those of the tests make training slow
  for _, (_, *words) in commands(section.partition('\n## ')[0]):
    words = [x for x in words if x != 'python']
    subprocess.run(
      [sys.executable, *words],
      check=True,
      cwd=place,
      env=environ,
      input='the first of May\n',
      text=True,
    )
  assert (place / 'runs/wmt14_mhe_mul-sample-s0/report.html').exists()
