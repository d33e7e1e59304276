# SPDX-License-Identifier: Apache-2.0
"""Values that a config may be given build a step, or are refused in one line.

Everything of train.run is built and the step is traced; nothing is compiled,
and no step is made.
"""

import shutil

from hypothesis import given
from hypothesis import strategies as st
import jax
import pytest

from collab.runtime import workdir
from collab.training import state, step
from configs import glue, lm, vit
from tests import tiny
from tests.few import few
from tests.fuzz.damage import Refused, fuzz, outcome
import train


class Traced(Exception):
  """The step was."""


class Tracing:
  """jax, but for a jit that only traces."""

  def __getattr__(self, name):
    return getattr(jax, name)

  def jit(self, f, **options):
    def call(*args):
      found = jax.eval_shape(f, *args)
      if isinstance(found, tuple):  # state, scalars, health
        raise Traced
      if places := options.get('out_shardings'):
        found = jax.tree.map(lambda x, s: x.update(sharding=s), found, places)
      return found

    call.lower = call  # the step is lowered before its loop
    return call


def text_model():
  c = lm.get_config('sample,gqa')
  c.data.update(vocab_size=270, row_length=8, batch_size=4, eval_stride=4)
  c.model.update(dim=8, mlp_dim=8, num_layers=1, max_length=16)
  c.model.attention.update(num_heads=2, kv_heads=1)
  return c


def classifier():
  c = glue.get_config('rte,sample,collab')
  c.data.update(vocab_size=270, row_length=8, batch_size=4, corpus='glue')
  c.model.update(dim=8, mlp_dim=8, num_layers=1, max_length=16)
  c.model.attention.update(num_heads=2, shared_dim=4)
  return c


def pictures():
  c = vit.get_config('sample,mhe_mul')
  c.data.update(batch_size=4)
  c.model.update(dim=8, mlp_dim=8, num_layers=1)
  c.model.attention.num_heads = 2
  return c


FAMILIES = dict(lm=text_model, glue=classifier, vit=pictures)
VALUES = {
  bool: [True, False],
  int: [-1, 0, 1, 2, 3, 5, 7, 100],
  float: [-1.0, 0.0, 0.5, 1.0, 1.5, 1e30, float('nan'), float('inf')],
  str: ['', 'x', '../x', 'sample', 'post', 'float16', 'words', 'é'],
  tuple: [(), ('x',), (0.5,), (0.5, 0.5, 0.5), (-1.0,)],
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  for split in ('train', 'val', 'test'):
    (folder / f'{split}.txt').write_text('eins zwei drei vier\n' * 9)
  (folder / 'RTE').mkdir()
  for part in ('train', 'dev'):
    rows = 'a\tb b\tentailment\nc\td\tnot_entailment\n' * 9
    path = folder / 'RTE' / f'{part}.tsv'
    path.write_text('sentence1\tsentence2\tlabel\n' + rows)
  return folder


def flat(config, prefix=''):
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from flat(value, f'{prefix}{key}.')
    elif not key.startswith(('wandb', 'init_from')):
      yield prefix + key, value


@few(FAMILIES, ['lm'], 'family')
@fuzz(20)
@given(draw=st.data())
def test_values(family, data, tmp_path_factory, monkeypatch, draw):
  config = FAMILIES[family]()
  if family != 'vit':
    config.data.path = str(data)
  keys = [name for name, _ in sorted(flat(config))]
  for key in draw.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2)):
    kind = type(dict(flat(config))[key])
    value = draw.draw(st.sampled_from(VALUES[kind]))
    config.update_from_flattened_dict({key: value})
  folder = tmp_path_factory.getbasetemp() / 'values'
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  monkeypatch.chdir(folder)
  for module in (state, step):
    monkeypatch.setattr(module, 'jax', Tracing())
  found = outcome(run, config.lock(), folder, kinds=KINDS)
  assert found is True or isinstance(found, Refused)
  if isinstance(found, Refused):
    assert not (folder / 'run.json').exists()


KINDS = (ValueError, OSError, TypeError)


def run(config, folder):
  config = workdir.claim(config, folder)
  try:
    train.run(config, str(folder))
  except Traced:
    return True
  except Exception:
    workdir.abandon(folder)
    raise
  finally:
    assert tiny.rows(folder) == []
