# SPDX-License-Identifier: Apache-2.0
"""The parameters of an earlier run, and what is said of them."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from collab import attention, model_json, models
from collab.attention import variants
from collab.data import tokenizer
from collab.model_json import Meaning
from collab.models.transformer import BlockConfig
from collab.runtime import checkpoint, tree_table, workdir
from collab.training import init_from


def make_config(**changes):
  c = ConfigDict()
  c.optim = dict(ema=0.0)
  c.checkpoint = dict(keep=3, best='val/score', average=1, final='last')
  c.data = dict(vocabulary='')
  c.init_from = ''
  c.update(task={}, model={}, total_steps=3, seed=0)
  c.update_from_flattened_dict(changes)
  return c


def make_params(key, width=7, head=3):
  keys = jax.random.split(jax.random.key(key), 3)
  normal = jax.random.normal
  return dict(
    embed=dict(embedding=normal(keys[0], (11, width))),
    encoder=dict(layer_0=dict(kernel=normal(keys[1], (width, width)))),
    head=dict(kernel=normal(keys[2], (width, head))),
  )


@pytest.fixture
def earlier(tmp_path):
  """A run of three checkpoints, of which the second is the best."""

  def make(**changes):
    folder = tmp_path / 'earlier'
    workdir.claim(make_config(**changes), folder)
    checkpoints = checkpoint.Checkpoints(folder, 3, 'val/score')
    for step, score in enumerate((0.1, 0.5, 0.3), 1):
      state = dict(params=make_params(step), ema=make_params(10 * step))
      checkpoints.save(step, state, {'val/score': score})
    checkpoints.close()
    return folder

  return make


@pytest.mark.parametrize(
  'changes, keys',
  [
    ({}, [3]),
    ({'checkpoint.average': 2}, [2, 3]),
    ({'checkpoint.final': 'best'}, [2]),
    ({'optim.ema': 0.9}, [30]),
    ({'optim.ema': 0.9, 'checkpoint.final': 'best'}, [20]),
  ],
)
def test_is_what_the_run_was_judged_by(changes, keys, earlier):
  got = init_from.load(earlier(**changes), make_params(0), Meaning())
  trees = [make_params(key) for key in keys]
  want = jax.tree.map(lambda *x: sum(x) / len(x), *trees)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), got, want)


def test_another_head_is_fresh(earlier, capsys):
  params = make_params(0, head=5) | dict(pooler=dict(bias=jnp.ones(7)))
  got = tree_table.named(init_from.load(earlier(), params, Meaning()))
  old, new = tree_table.named(make_params(3)), tree_table.named(params)
  assert set(got) == set(new)
  for name, x in got.items():
    fresh = name in ('head/kernel', 'pooler/bias')
    np.testing.assert_array_equal(x, (new if fresh else old)[name])
  said = capsys.readouterr().out
  for words in ('embed (1), encoder (1)', 'head (1), pooler (1)'):
    assert words in said
  assert said.index(' loaded') < said.index(' fresh') < said.index(' not used')


def test_another_width_is_refused(earlier):
  folder = earlier()
  words = r'embed/embedding: expected float32\[11, 13\], found .*\[11, 7\]'
  with pytest.raises(ValueError, match=words) as info:
    init_from.load(folder, make_params(0, width=13), Meaning())
  assert f'init_from={folder}' in str(info.value)
  assert 'head' not in str(info.value)


def test_nothing_in_common_is_refused(earlier):
  with pytest.raises(ValueError, match='other/x: expected'):
    init_from.load(earlier(), dict(other=dict(x=jnp.ones(3))), Meaning())


NLI = ('entailment', 'neutral', 'contradiction')


def test_outputs_are_put_in_the_order_of_the_tasks_classes(earlier, capsys):
  folder = earlier()
  theirs = ('CONTRADICTION', 'NEUTRAL', 'ENTAILMENT')
  model_json.write(folder, dict(outputs=3), Meaning(classes=theirs))
  got = tree_table.named(
    init_from.load(folder, make_params(0), Meaning('', NLI))
  )
  for name, x in tree_table.named(make_params(3)).items():
    want = x[:, ::-1] if name == 'head/kernel' else x
    np.testing.assert_array_equal(got[name], want)
  assert 'were CONTRADICTION, NEUTRAL, ENTAILMENT' in capsys.readouterr().out


def save(folder, **params):
  """A run of one checkpoint, of these parameters."""
  workdir.claim(make_config(), folder)
  checkpoints = checkpoint.Checkpoints(folder, 3, 'val/score')
  checkpoints.save(3, dict(params=params))
  checkpoints.close()
  return folder


def test_a_hidden_layer_of_a_head_has_no_classes(tmp_path):
  """Though it may be as wide as there are classes."""
  dense = dict(
    kernel=jnp.arange(9.0).reshape(3, 3), bias=jnp.array([1.0, 2.0, 3.0])
  )
  head = dict(Dense_0=dense, Dense_1=dense)
  folder = save(tmp_path / 'run', head=head)
  model_json.write(folder, dict(outputs=3), Meaning(classes=NLI))
  wanted = Meaning(classes=('neutral', 'contradiction', 'entailment'))
  fresh = jax.tree.map(jnp.zeros_like, dict(head=head))
  got = init_from.load(folder, fresh, wanted)['head']
  jax.tree.map(np.testing.assert_array_equal, got['Dense_0'], dense)
  np.testing.assert_array_equal(got['Dense_1']['bias'], [2, 3, 1])
  np.testing.assert_array_equal(
    got['Dense_1']['kernel'], dense['kernel'][:, [1, 2, 0]]
  )


def test_both_heads_of_a_distilled_model_are_the_tasks(tmp_path):
  head = dict(kernel=jnp.arange(6.0).reshape(2, 3))
  params = dict(head=head, distilled_head=head, encoder=dict(x=jnp.ones(2)))
  folder = save(tmp_path / 'run', **params)
  model_json.write(folder, dict(outputs=3), Meaning(classes=('a', 'b', 'c')))
  fresh = jax.tree.map(jnp.zeros_like, params)
  got = init_from.load(folder, fresh, Meaning(classes=('c', 'b', 'a')))
  for name in ('head', 'distilled_head'):
    np.testing.assert_array_equal(got[name]['kernel'], head['kernel'][:, ::-1])
  other = dict(kernel=jnp.zeros((2, 5)))
  fresh |= dict(head=other, distilled_head=other)
  got = init_from.load(folder, fresh, Meaning(classes=tuple('abcde')))
  jax.tree.map(np.testing.assert_array_equal, got['distilled_head'], other)
  jax.tree.map(np.testing.assert_array_equal, got['encoder'], params['encoder'])


def test_as_many_other_classes_are_refused_with_both_lists(earlier):
  folder = earlier()
  model_json.write(folder, dict(outputs=3), Meaning(classes=('a', 'b', 'c')))
  words = f'init_from={folder}: .* a, b, c; expected entailment, neutral, con'
  with pytest.raises(ValueError, match=words):
    init_from.load(folder, make_params(0), Meaning(classes=NLI))
  # Of another number of them the head is fresh, as ever.
  init_from.load(folder, make_params(0, head=2), Meaning(classes=NLI[:2]))


@pytest.mark.parametrize('classes', [(), ('LABEL_0', 'LABEL_1', 'LABEL_2')])
def test_classes_without_names_are_taken_as_they_stand(
  classes, earlier, capsys
):
  folder = earlier()
  model_json.write(folder, dict(outputs=3), Meaning(classes=classes))
  got = init_from.load(folder, make_params(0), Meaning(classes=NLI))
  jax.tree.map(np.testing.assert_array_equal, got, make_params(3))
  said = capsys.readouterr().out
  assert said.count('not named there, so not compared') == 1


def test_another_tokenizer_is_refused(earlier):
  folder = earlier()
  model_json.write(folder, {}, Meaning('theirs'))
  with pytest.raises(ValueError, match=r'tokenizer theirs, .*; got mine\.'):
    init_from.load(folder, make_params(0), Meaning('mine'))
  init_from.load(folder, make_params(0), Meaning('theirs'))
  init_from.load(folder, make_params(0), Meaning())  # a task without any text


def test_a_tokenizer_that_is_not_recorded_is_told_once(earlier, capsys):
  init_from.load(earlier(), make_params(0), Meaning('mine'))
  assert capsys.readouterr().out.count('not recorded there, so not comp') == 1


WORDS = '{"model": {}}'


@pytest.mark.parametrize('recorded', [True, False])
def test_rows_of_padding_are_left_out(recorded, tmp_path, capsys):
  """Of whatever has a row for each id, where it reads the same tokens."""
  table = dict(embedding=jnp.arange(26.0).reshape(13, 2), bias=jnp.arange(13.0))
  params = dict(embed=table, head=dict(bias=jnp.arange(13.0)))
  folder = save(tmp_path / 'run', **params)
  (folder / 'tokenizer.json').write_text(WORDS)
  mine = Meaning(tokenizer.fingerprint(WORDS))
  if recorded:
    model_json.write(folder, {}, mine)
  fresh = jax.tree.map(lambda x: jnp.zeros((11, *x.shape[1:])), params)
  got = init_from.load(folder, fresh, mine)
  want = jax.tree.map(lambda x: x[:11], params)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert '2 of 13 rows of the table left out' in capsys.readouterr().out


def test_rows_of_another_vocabulary_are_no_padding(tmp_path):
  params = dict(embed=dict(embedding=jnp.ones((13, 2))))
  folder = save(tmp_path / 'run', **params)
  fresh = dict(embed=dict(embedding=jnp.ones((11, 2))))
  with pytest.raises(ValueError, match=r'expected float32\[11, 2\], found'):
    init_from.load(folder, fresh, Meaning('mine'))
  # Nor may a vocabulary be larger than the table.
  (folder / 'tokenizer.json').write_text(WORDS)
  fresh = dict(embed=dict(embedding=jnp.ones((17, 2))))
  mine = Meaning(tokenizer.fingerprint(WORDS))
  with pytest.raises(ValueError, match=r'expected float32\[17, 2\], found'):
    init_from.load(folder, fresh, mine)


DECODER = dict(
  name='decoder',
  vocab_size=11,
  dim=8,
  num_layers=2,
  positions='none',
  attention=dict(name='gqa', num_heads=2, kv_heads=1, rope=dict(base=5e5)),
)
NO_TRACE = {
  'dropout': 0.3,
  'dtype': 'bfloat16',
  'remat': 'full',
  'scan': True,
  'max_length': 7,
  'attention.implementation': 'xla',
  'attention.dropout_rate': 0.3,
}


def changed(changes, fields=DECODER):
  fields = copy.deepcopy(fields)
  for name, value in changes.items():
    *part, name = name.split('.')
    (fields[part[0]] if part else fields)[name] = value
  return fields


def test_what_no_parameter_tells_is_compared(tmp_path):
  model_json.write(tmp_path, DECODER, Meaning())
  check = lambda changes, fields=DECODER: init_from.check(
    tmp_path, models.build(**changed(changes, fields))
  )
  check(NO_TRACE)
  check({'head': 'classify', 'outputs': 3, 'vocab_size': 12, 'num_layers': 1})
  mqa = dict(name='mqa', num_heads=2, rope=dict(base=5e5))
  check(dict(attention=mqa))  # that is gqa with kv_heads=1
  for changes, words in (
    ({'epsilon': 1e-3}, r'model\.epsilon was 1e-05, is 0\.001,'),
    ({'positions': 'sinusoidal'}, "model.positions was 'none', is 'sinu"),
    ({'activation': 'relu', 'norm_kind': 'rms'}, "'relu'; model.norm_kind was"),
    ({'attention.rope': dict(base=1e4)}, r'rope was .*=500000.0.*=10000.0'),
    ({'attention.rope': None}, r'rope was .*is None'),
    ({'attention.soft_cap': 9.0}, r'attention\.soft_cap was None, is 9\.0'),
    ({'attention.window': (None, 3)}, r'window was None, is \(None, 3\)'),
    ({'attention': dict(mqa, name='mha')}, "name was 'GQA', is 'MHA'"),
  ):
    with pytest.raises(ValueError, match=words) as info:
      check(changes)
    assert f'init_from={tmp_path}: ' in str(info.value)
  scaled = dict(base=5e5, scaling=dict(rope_type='linear', factor=2.0))
  with pytest.raises(ValueError, match=r'decoder attention\.rope was .*linear'):
    check({'attention.rope': scaled})
  encoder = DECODER | dict(name='encoder', attention=mqa)
  check({}, encoder)  # workdir.claim refuses it, but for a model of one's own


def test_what_is_left_out_of_the_comparison_exists():
  every = [BlockConfig, *models.MODELS.values()]
  every += map(variants.variant, attention.names())
  names = {field.name for cls in every for field in dataclasses.fields(cls)}
  assert names >= models.NOT_COMPARED


def test_no_run(tmp_path):
  with pytest.raises(ValueError, match=r'run\.json is missing'):
    init_from.load(tmp_path, make_params(0), Meaning())
  workdir.claim(make_config(), tmp_path)
  with pytest.raises(ValueError, match='has no checkpoint'):
    init_from.load(tmp_path, make_params(0), Meaning())


def test_tokenizer_comes_along(earlier, tmp_path):
  folder = earlier()
  (folder / 'tokenizer.json').write_text('{}')
  config = make_config(init_from=str(folder))
  workdir.claim(config, tmp_path / 'new')
  assert (tmp_path / 'new' / 'tokenizer.json').read_text() == '{}'
  config.data.vocabulary = 'other.json'
  with pytest.raises(ValueError, match=r'data\.vocabulary=other\.json, but'):
    workdir.claim(config, tmp_path / 'newer')
  config.init_from = str(tmp_path)
  with pytest.raises(ValueError, match='is no workdir'):
    workdir.claim(config, tmp_path / 'newest')
  assert not (tmp_path / 'newest' / 'run.json').exists()


@pytest.mark.parametrize('ours', ['encoder_decoder', 'vit'])
def test_another_kind_of_model_is_one_line(ours, earlier, tmp_path):
  folder = earlier(model=dict(name='decoder'))
  (folder / 'tokenizer.json').write_text('{}')
  config = make_config(init_from=str(folder), model=dict(name=ours))
  if ours == 'vit':  # its data has no tokenizer
    del config.data.vocabulary
  words = f'^init_from={folder} has a model decoder; expected {ours}\\.$'
  with pytest.raises(ValueError, match=words):
    workdir.claim(config, tmp_path / 'new')
  assert not (tmp_path / 'new' / 'run.json').exists()


def test_a_model_of_ones_own_may_begin_as_another(earlier, tmp_path):
  folder = earlier(model=dict(name='decoder'))
  (folder / 'tokenizer.json').write_text('{}')
  config = make_config(init_from=str(folder), model=dict(name='lab:Mine'))
  del config.data.vocabulary
  workdir.claim(config, tmp_path / 'new')
  assert (tmp_path / 'new' / 'tokenizer.json').read_text() == '{}'
