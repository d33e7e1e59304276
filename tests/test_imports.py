# SPDX-License-Identifier: Apache-2.0
"""Attentions, tasks, models and configs of a package of somebody else's."""

import runpy
import sys

import jax
import jax.numpy as jnp
import pytest

from collab import attention, models, tasks
from collab.runtime import workdir
from tests.test_experiments import shrink
import train

ATTENTION = '''
"""Every head looks at the same keys, scaled by a number of its own."""

from flax import linen as nn
import jax.numpy as jnp

from collab.attention import Attention, Heads


class Mine(Attention, kw_only=True):
  start: float = 1.0

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    scale = self.vector('scale', nn.initializers.constant(self.start), (H,), x)
    k = self.project('key', y, (K,))[:, :, None]
    v = self.project('value', z, (K,))[:, :, None]
    q = self.project('query', x, (H, K)) * scale[None, None, :, None]
    return Heads(q=q, k=k, v=v)


class NoAttention:
  pass
'''
MODEL = """
from flax import linen as nn
from collab.models.transformer import BlockConfig

class Mine(nn.Module):
  BLOCK = dict(activation='gelu')
  block: BlockConfig
  width: int

  def __call__(self, x):
    return self.width * x
"""
TASK = """
from collab import tasks

class Mine(tasks.Task):
  def __init__(self, *, words, data, workdir, seed, shard):
    self.said = words, seed
"""
CONFIG = """
from configs import lm

def get_config(argument=''):
  c = lm.get_config(argument)
  c.model.attention = dict(
    name='their_lab.attention:Mine', num_heads=2, start=0.5
  )
  return c
"""
# Importing it leaves a trace.
LOUD = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """A folder on sys.path with a package their_lab."""
  folder = tmp_path / 'their_lab'
  folder.mkdir()
  texts = dict(attention=ATTENTION, model=MODEL, task=TASK, config=CONFIG)
  for name, text in texts.items():
    (folder / f'{name}.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  yield folder
  for name in [x for x in sys.modules if x.split('.')[0] == 'their_lab']:
    del sys.modules[name]


@pytest.mark.usefixtures('lab')
def test_an_attention():
  layer = attention.build('their_lab.attention:Mine', num_heads=3)
  x = jax.random.normal(jax.random.key(0), (2, 5, 6))
  params = layer.init(jax.random.key(1), x)['params']
  D, H, K = 6, 3, 2
  kernels = D * H * K + 2 * D * K + H + H * K * D
  assert layer.count(D) == kernels + H * K + 2 * K + D
  assert layer.cache_size(D) == 2 * K
  assert layer.apply({'params': params}, x).shape == x.shape
  with pytest.raises(TypeError, match=r'Mine has no field stride; it has .*st'):
    attention.build('their_lab.attention:Mine', num_heads=3, stride=7)
  with pytest.raises(TypeError, match='Mine needs num_heads'):
    attention.build('their_lab.attention:Mine')


@pytest.mark.usefixtures('lab')
def test_a_model_and_a_task():
  own = dict(name='mha', num_heads=1)
  model = models.build('their_lab.model:Mine', width=3, attention=own)
  assert model.apply({}, jnp.float32(2)) == 6
  assert model.block.activation == 'gelu'
  fields = dict(words='a', data={}, workdir='', shard=(0, 1))
  task = tasks.build('their_lab.task:Mine', seed=5, **fields)
  assert task.said == ('a', 5)
  with pytest.raises(ValueError, match='seed=-1'):
    tasks.build('their_lab.task:Mine', seed=-1, **fields)


# test_outside.py runs another's attention too.
@pytest.mark.slow
def test_a_config_runs_and_goes_on(lab, tmp_path):
  made = runpy.run_path(str(lab / 'config.py'))['get_config']('sample')
  run = str(tmp_path / 'run')
  scores = train.run(workdir.claim(shrink(made), run), run)
  again = workdir.claim(None, run)
  assert train.run(again, run, eval_only=True) == scores


@pytest.mark.parametrize(
  'name, words',
  [
    (
      'their_lap.attention:Mine',
      "Mine cannot be imported: No module named '",
    ),
    (
      'their_lab.attention:Yours',
      "cannot be imported: module 'their_lab.att",
    ),
    ('their_lab.attention:', 'cannot be imported: module'),
    ('.attention:Mine', 'cannot be imported: '),
    (':Mine', 'cannot be imported: Empty module name'),
    (
      'their_lab.attention:NoAttention',
      r'Attention.*; expected a subclass of',
    ),
  ],
)
@pytest.mark.usefixtures('lab')
def test_bad_paths(name, words):
  with pytest.raises(ValueError, match=words):
    attention.build(name, num_heads=2)


@pytest.mark.parametrize('build', [attention.build, models.build, tasks.build])
def test_what_is_none_is_not_called(build, tmp_path):
  """As model.json of a stranger may name any function, with its arguments."""
  code = f'open({str(tmp_path / "ran")!r}, "w")'
  with pytest.raises(ValueError, match=r'builtins:exec is .*; expected a su'):
    build('builtins:exec', source=code, seed=0)
  assert not (tmp_path / 'ran').exists()


def test_a_workdir_brings_no_code(tmp_path):
  (tmp_path / 'loud.py').write_text(LOUD)
  for name in ('loud:Mine', f'{tmp_path}/loud:Mine', '..loud:Mine'):
    with pytest.raises(ValueError, match='cannot be imported'):
      models.build(name)
  assert not (tmp_path / 'loud.ran').exists()
