# SPDX-License-Identifier: Apache-2.0
"""What may change when a run goes on, and what is kept of it."""

import json
import types

import jax
import numpy as np
import pytest

from collab import model_json
from collab.runtime import changes, workdir
from collab.training import optim
from tests import tiny

FREELY = dict(
  every__log=7,
  every__eval=6,
  every__checkpoint=6,
  checkpoint__keep=5,
  checkpoint__best='-val/perplexity',
  checkpoint__average=1,
  checkpoint__final='best',
  wandb='project',
  skip_nonfinite=3,
)
RECORDED = dict(
  fsdp=8, tensor=2, rules='vocabulary=', accumulate=2, total_steps=20
)


def go_on(config, folder, step, eval_only=False):
  rates = lambda n: optim.build(total_steps=n, **config.optim)[1]
  workdir.go_on(config, folder, step, rates, eval_only)


def names(fields):
  return {name.replace('__', '.') for name in fields}


def test_what_may_change_is_kept_from_its_step_on(tmp_path):
  began = tiny.config('corpus')
  workdir.claim(began, tmp_path)
  kept = (tmp_path / 'run.json').read_bytes()
  now = tiny.config('corpus', **FREELY, **RECORDED)
  assert workdir.claim(now, tmp_path) == now
  assert workdir.claim(None, tmp_path) == began  # not before it goes on
  go_on(now, tmp_path, 9)
  assert workdir.claim(None, tmp_path) == now
  go_on(now, tmp_path, 10)
  last = tiny.config('corpus', **FREELY, **RECORDED | dict(fsdp=4))
  go_on(last, tmp_path, 11)
  assert workdir.claim(None, tmp_path) == last
  found = workdir.read(tmp_path)
  assert {x['field'] for x in found['changes']} == names(FREELY | RECORDED)
  assert [x['step'] for x in found['changes']] == 14 * [9] + [11]
  assert found['changes'][-1] == dict(step=11, field='fsdp', was=8, now=4)
  assert found['first_steps'] == 12
  off = {x['field'] for x in changes.off_tables(found['changes'])}
  assert off == RECORDED.keys()
  assert (tmp_path / 'run.json').read_bytes() == kept


@pytest.mark.parametrize(
  'field, value',
  [
    ('model.dim', 32),
    ('data.batch_size', 4),
    ('optim.lr', 1.0),
    ('task.beam', 3),
    ('seed', 1),
    ('init_from', 'elsewhere'),
    ('total_steps', 11),
  ],
)
def test_nothing_else_may_change(field, value, tmp_path):
  workdir.claim(tiny.config('corpus'), tmp_path)
  with pytest.raises(ValueError, match='another config') as info:
    workdir.claim(tiny.config('corpus', **{field: value}), tmp_path)
  for words in (f'{field} was ', f', is {value!r}.', changes.WORDS):
    assert words in str(info.value)
  assert not (tmp_path / 'changes.json').exists()


@pytest.mark.parametrize(
  'fields, step, allowed',
  [
    (dict(schedule='constant', warmup_steps=4), 12, True),
    (dict(schedule='inverse_sqrt', warmup_steps=4), 12, True),
    (dict(schedule='cosine', warmup_steps=4), 4, True),  # no more than warm
    (dict(schedule='cosine', warmup_steps=4), 6, False),
    (dict(schedule='linear', warmup_steps=0), 3, False),
    (dict(schedule='linear', warmup_steps=0, end_lr=3e-3), 12, True),
    (dict(schedule='linear', warmup_steps=0), 0, True),
  ],
)
def test_steps_grow_where_the_rates_so_far_are_the_same(
  fields, step, allowed, tmp_path
):
  fields = {f'optim.{name}': value for name, value in fields.items()}
  workdir.claim(tiny.config('corpus', **fields), tmp_path)
  longer = tiny.config('corpus', total_steps=17, **fields)
  workdir.claim(longer, tmp_path)
  if allowed:
    go_on(longer, tmp_path, step)
    assert workdir.claim(None, tmp_path).total_steps == 17
    return
  words = r'with total_steps=17 the learning rate of step \d+ would have been'
  with pytest.raises(ValueError, match=words):
    go_on(longer, tmp_path, step)
  assert workdir.claim(None, tmp_path).total_steps == 12


def test_evaluation_changes_nothing(tmp_path):
  workdir.claim(tiny.config('corpus'), tmp_path)
  go_on(tiny.config('corpus', fsdp=2), tmp_path, 6, eval_only=True)
  assert not (tmp_path / 'changes.json').exists()
  longer = tiny.config('corpus', total_steps=20)
  with pytest.raises(
    ValueError, match=r'takes .* is: total_steps was 12, is 20'
  ):
    go_on(longer, tmp_path, 6, eval_only=True)
  for name, value in dict(best='val/x', final='best', average=1).items():
    other = tiny.config('corpus', **{f'checkpoint__{name}': value})
    with pytest.raises(ValueError, match=rf'checkpoint\.{name} was '):
      go_on(other, tmp_path, 6, eval_only=True)


def test_impossible_steps_in_a_file(tmp_path):
  workdir.claim(tiny.config('corpus'), tmp_path)
  change = dict(step=1, field='total_steps', was=12, now=-5)
  (tmp_path / 'changes.json').write_text(json.dumps(dict(changes=[change])))
  with pytest.raises(ValueError, match='is damaged: total_steps is -5'):
    workdir.read(tmp_path)


@pytest.mark.parametrize(
  'other',
  [
    lambda: jax.enable_x64(True),
    lambda: jax.default_matmul_precision('bfloat16'),
    lambda: jax.default_prng_impl('rbg'),
    lambda: jax.threefry_partitionable(False),
  ],
  ids=['enable_x64', 'matmul_precision', 'prng_impl', 'threefry_partitionable'],
)
def test_other_numerics(other, request, tmp_path):
  config = workdir.claim(tiny.config('corpus'), tmp_path)
  name = request.node.callspec.id
  with (
    other(),
    pytest.raises(
      ValueError, match=f'other settings of JAX.* jax_.*{name} was'
    ),
  ):
    workdir.claim(config, tmp_path)
  workdir.claim(config, tmp_path)
  # A run that began before they were recorded goes on.
  path = tmp_path / 'run.json'
  kept = json.loads(path.read_text())
  del kept['numerics']
  path.write_text(json.dumps(kept))
  with other():
    workdir.claim(config, tmp_path)


def test_another_jax_is_told_and_kept(tmp_path, caplog):
  config = workdir.claim(tiny.config('corpus'), tmp_path)
  path = tmp_path / 'run.json'
  kept = json.loads(path.read_text())
  kept['versions']['jax'] = '0.4.1'
  path.write_text(json.dumps(kept))
  for step in (5, 6):
    go_on(config, tmp_path, step)
  (told,) = caplog.messages
  assert f'goes on with jax {jax.__version__}, not 0.4.1' in told
  (change,) = changes.off_tables(workdir.read(tmp_path)['changes'])
  assert (change['field'], change['step']) == ('versions.jax', 5)


@pytest.mark.parametrize(
  'text',
  [
    '{}',
    '[]',
    '{"changes": 7}',
    '{"changes": [7]}',
    '{"changes": [{"step": 1, "field": "data.path", "now": "/"}]}',
    '{"changes": [{"step": 1, "field": "every.log", "now": "x"}]}',
    '{"changes": [{"step": 1, "field": "every.no", "now": 1}]}',
    '{"changes": [{"step": 1, "field": "versions"}]}',
    '{"changes": [{"field": "fsdp", "now": 1}]}',
  ],
)
def test_damaged(text, tmp_path):
  workdir.claim(tiny.config('corpus'), tmp_path)
  (tmp_path / 'changes.json').write_text(text)
  with pytest.raises(ValueError, match=r'changes\.json (is damaged|holds a)'):
    workdir.read(tmp_path)


def task(checksum='a', **batches):
  """A task whose batches are all 1 but for those given."""
  return types.SimpleNamespace(
    describe=lambda: dict(rows=7, checksum=checksum, kinds=('a', 'b')),
    batch=lambda step: dict(x=np.full(3, batches.get(f'step_{step}', 1))),
    meaning=model_json.Meaning(),
  )


def test_the_same_data(tmp_path):
  for _ in range(2):
    changes.check_data(tmp_path, task(), 9)
  assert json.loads((tmp_path / 'data.json').read_text())['checksum'] == 'a'
  # On two processes a batch is another one.
  path, text = tmp_path / 'data.json', (tmp_path / 'data.json').read_text()
  path.write_text(text.replace('1 processes', '2 processes'))
  changes.check_data(tmp_path, task(step_4=2), 9)


@pytest.mark.parametrize(
  'other, words',
  [
    (dict(checksum='b'), r"with: checksum was 'a', is 'b'\."),
    (dict(step_4=2), 'with: checksum of batches, 1 processes was '),
    (dict(checksum='b', step_8=2), "with: .*'a', is 'b'; checksum of batches"),
  ],
)
def test_other_data(other, words, tmp_path):
  changes.check_data(tmp_path, task(), 9)
  kept = (tmp_path / 'data.json').read_bytes()
  with pytest.raises(ValueError, match=f'not what the run began {words}'):
    changes.check_data(tmp_path, task(**other), 9)
  assert (tmp_path / 'data.json').read_bytes() == kept
