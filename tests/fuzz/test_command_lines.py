# SPDX-License-Identifier: Apache-2.0
"""Any command line starts a run, or ends in one line and leaves nothing.

The whole of train.py runs, up to where the run itself begins.
"""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tests import served
from tests.fuzz.damage import ROOT, fuzz

BEFORE = """
import sys
import train
from collab import models
models.check = lambda data, **fields: sys.exit(0)  # where the run begins
"""


@pytest.fixture(scope='module')
def server():
  with served.server(BEFORE) as run:
    yield lambda folder, argv: run(folder, 'train', argv)


def check(code, out, err, folder):
  """It reached the run, or said why not in one line; returns whether."""
  if code == 0 and not err:
    assert len(list(folder.rglob('run.json'))) == 1
    return True
  assert code == 1, (code, err)
  assert out == ''
  lines = err.splitlines()
  assert len(lines) == 1, err
  assert lines[0].startswith('train.py: ')
  assert len(lines[0]) > len('train.py: x')
  assert 'Traceback' not in lines[0]
  assert not list(folder.rglob('run.json')), err
  return False


CONFIGS = sorted(path.name for path in (ROOT / 'configs').glob('[!_]*.py'))
WORDS = st.sampled_from(
  [
    '', 'sample', 'small', 'mnli', 'rte', 'ptb', 'v2', 'text', 'cifar10', 'x',
    'mha', 'gqa', 'collab', 'mhe_mul', 'albert',
    'kv_heads=2', 'shared_dim=8/9', 'shared_dim=x', 'num_heads=0', 'name=mha',
    '=', 'a=b=c', 'bias=none', 'é', ':', '../x',
  ]
)  # fmt: skip
ARGUMENTS = st.lists(WORDS, max_size=3).map(','.join)
KEYS = st.sampled_from(
  [
    'model.dim', 'model.attention.name', 'model.attention.num_heads', 'seed',
    'data.path', 'optim.lr', 'optim', 'total_steps', 'every.log', 'checkpoint',
    'checkpoint.final', 'checkpoint.average', 'task.name', 'model.scan', 'x',
    'model.dimm', 'model.attention.x', 'data.files', '', '.', 'a..b', 'get',
    'lock', '__class__', 'skip_nonfinite', 'init_from', 'seed[0]',
  ]
)  # fmt: skip
VALUES = st.sampled_from(
  [
    '', '0', '-1', '1', '7', '1.5', 'x', 'None', 'True', 'nan', '1e400', '1,2',
    '(1,2)', "('a',)", '[]', '{}', '__import__("os").abort()', 'a=b', '\n',
    '9' * 30,
  ]
)  # fmt: skip
OVERRIDES = st.builds('--config.{}={}'.format, KEYS, VALUES)
OTHERS = st.sampled_from(
  [
    '--workdir=W', '--workdir=', '--workdir', '--eval_only', '--noeval_only',
    '--eval_only=x', '--results=r.jsonl', '--x', '--config', 'x', '-', '--',
    '--config=missing.py', '--config=W', '--noconfig.seed', '--config.seed',
    '--flagfile=missing', '-config=x', '--workdir=a\nb', '--wandb=1',
    '--profile=1:2', '--profile=2:1', '--profile=x', '--profile',
  ]
)  # fmt: skip


@fuzz(60)
@given(st.data())
def test_command_line(server, tmp_path_factory, data):
  folder = tmp_path_factory.mktemp('start')
  argv = data.draw(st.lists(OVERRIDES | OTHERS, max_size=3))
  if data.draw(st.integers(0, 9)):
    name = data.draw(st.sampled_from(CONFIGS))
    argument = data.draw(ARGUMENTS)
    argument = f':{argument}' if argument else ''
    argv.insert(0, f'--config={ROOT}/configs/{name}{argument}')
  check(*server(folder, argv), folder)


def test_it_does_start(server, tmp_path):
  config = f'--config={ROOT}/configs/lm.py:sample'
  assert check(*server(tmp_path, [config, '--config.seed=3']), tmp_path)
  assert (tmp_path / 'runs' / 'lm-sample-s3' / 'run.json').exists()
