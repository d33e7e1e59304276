# SPDX-License-Identifier: Apache-2.0
"""Maps of every kind of model: what a softmax and a mask promise."""

import jax
import numpy as np
import pytest

from collab import model_json, models, tasks
from collab.convert import source
from collab.inference import run
from configs import glue, lm, vit
from experiments.report import maps
from tests.convert import checkpoints
from tests.convert.test_main import longer_marian
from tests.data import test_sentencepieces

TEXT = dict(
  tokens=np.int32([[3, 5, 7, 4, 9]]),
  types=np.int32([[0, 0, 0, 1, 1]]),
  lengths=np.int32([5]),
)
SPELT = list('abcde')
PAIR = {
  f'{side}{field}': x[:, :n]
  for side, n in (('source', 5), ('target', 3))
  for field, x in (
    ('_inputs' if side == 'target' else '', TEXT['tokens']),
    ('_segments', np.ones((1, 5), np.int32)),
    ('_positions', np.arange(5, dtype=np.int32)[None]),
  )
}


def of_golden(case, batch, **tokens):
  found = source.read(checkpoints.GOLDEN / case)
  return maps.attend(found, maps.Example('', batch, tokens))


def of_data(config, folder):
  """What `maps.example` takes of the training data of a new run."""
  task = tasks.build(
    **config.task, data=config.data, workdir=folder, seed=0, shard=(0, 1)
  )
  model = config.model.to_dict() | task.model_kwargs
  path, text = folder / 'tokenizer.json', ''
  if path.exists():
    text = path.read_text('utf-8')
  return maps.example(
    source.Source(str(folder), config, model, {}, task.meaning, text, None)
  )


def are_of_a_softmax(layers):
  for layer in layers:
    _, T, S = layer.weights.shape
    assert (len(layer.queries), len(layer.keys)) == (T, S)
    assert (layer.weights >= 0).all()
    np.testing.assert_allclose(layer.weights.sum(-1), 1, atol=1e-6)


def is_causal(weights):
  T = weights.shape[-1]
  future = np.triu(np.ones((T, T), bool), 1)
  assert not weights[:, future].any()
  assert weights[:, ~future].all()


# Models -----------------------------------------------------------------------


def test_encoder():
  layers = of_golden('bert_Model', TEXT, encoder=SPELT)
  assert [layer.name for layer in layers] == ['encoder 0', 'encoder 1']
  assert {layer.place for layer in layers} == {'encoder'}
  are_of_a_softmax(layers)


def test_layers_that_share_parameters_have_maps_of_their_own():
  layers = of_golden('albert_Model', TEXT, encoder=SPELT)
  assert [layer.name for layer in layers] == ['encoder 0', 'encoder 1']
  are_of_a_softmax(layers)
  assert (layers[0].weights != layers[1].weights).any()


def test_decoder_looks_back_only():
  layers = of_golden('gpt2_LMHeadModel', TEXT, decoder=SPELT)
  are_of_a_softmax(layers)
  for layer in layers:
    assert layer.place == 'decoder'
    is_causal(layer.weights)


def test_encoder_and_decoder_have_their_own_tokens():
  sides = dict(encoder=SPELT, decoder=['x', 'y', 'z'])
  layers = of_golden('marian_MTModel', PAIR, **sides)
  are_of_a_softmax(layers)
  by_place = {layer.place: layer for layer in layers}
  assert [*by_place] == ['encoder', 'decoder', 'decoder cross']
  is_causal(by_place['decoder'].weights)
  cross = by_place['decoder cross']
  assert (cross.queries, cross.keys) == (['x', 'y', 'z'], SPELT)


@pytest.mark.parametrize('name', ['collab', 'mhe_add', 'mqa'])
def test_variants_also_in_scanned_models_of_half_precision(name):
  fields = dict(name=name, num_heads=2)
  if name == 'collab':
    fields['shared_dim'] = 6
  fields = dict(
    name='decoder',
    vocab_size=11,
    dim=8,
    num_layers=2,
    mlp_dim=8,
    scan=True,
    dtype='bfloat16',
    attention=fields,
  )
  init = models.build(**fields).init
  shapes = jax.eval_shape(init, jax.random.key(0), TEXT)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape), shapes)
  found = source.Source(
    '', None, fields, params, model_json.Meaning(), '', None
  )
  layers = maps.attend(found, maps.Example('', TEXT, dict(decoder=SPELT)))
  assert [layer.weights.shape for layer in layers] == [(2, 5, 5)] * 2
  are_of_a_softmax(layers)
  for layer in layers:
    is_causal(layer.weights)


# Examples ---------------------------------------------------------------------


def test_given_text(tmp_path):
  found = source.read(checkpoints.with_words(tmp_path / 'bert'))
  seen = maps.example(found, 'three five two')
  want = ['[CLS]', 'three', 'five', 'two', '[SEP]']
  assert seen.tokens == dict(encoder=want)
  assert seen.about == 'The given text, 5 tokens'
  are_of_a_softmax(maps.attend(found, seen))


def test_text_of_a_translator_with_sentencepieces(tmp_path, monkeypatch):
  pytest.importorskip('sentencepiece', reason='needs the [convert] extra')
  folder = longer_marian(tmp_path / 'marian')
  found = source.read(test_sentencepieces.write(folder, most=33))
  monkeypatch.setattr(run.Run, 'translate', lambda *args, **more: ['zwei'])
  tokens = maps.example(found, '>>de<< one ☃').tokens
  assert tokens['encoder'][0] == '>>de<<'
  assert tokens['encoder'][-2:] == ['<unk>', '</s>']
  assert 'one' in ''.join(tokens['encoder']).replace('␣', '')
  assert tokens['decoder'][0] == '<pad>'


def test_row_of_the_training_data(tmp_path):
  seen = of_data(glue.get_config('mrpc,sample'), tmp_path)
  words = seen.tokens['encoder']
  assert words[0] == '<bos>'
  assert words.count('<eos>') == 2  # two sentences, and no padding
  assert seen.batch['tokens'].shape == seen.batch['types'].shape
  assert seen.batch['tokens'].shape == (1, len(words))
  assert seen.batch['lengths'].tolist() == [len(words)]


def test_long_text_is_cut(tmp_path):
  seen = of_data(lm.get_config('sample'), tmp_path)
  assert len(seen.tokens['decoder']) == maps.MOST
  assert f'the first {maps.MOST} of 64 tokens' in seen.about


def test_image_of_the_training_data(tmp_path):
  config = vit.get_config('sample')
  seen = of_data(config, tmp_path)
  assert seen.tokens['encoder'] == ['class', *map(str, range(16))]
  assert seen.picture.shape == (8, 8, 1)
  image = np.float32(seen.picture) / 255
  image = (image - config.data.mean) / config.data.std
  np.testing.assert_allclose(seen.batch['images'][0], image, atol=0.01)


@pytest.mark.parametrize(
  'model, message',
  [
    ('vit', 'model of images'),
    ('decoder', 'no tokenizer.json'),
    ('other', "No model 'other'; there are encoder, "),
  ],
)
def test_refuses_text_that_nobody_reads(model, message):
  found = source.Source(
    'FOLDER', None, dict(name=model), {}, model_json.Meaning(), '', None
  )
  with pytest.raises(ValueError, match=message):
    maps.example(found, 'one')


# Numbers ----------------------------------------------------------------------


def test_width_counts_keys():
  weights = np.zeros((3, 2, 5))
  weights[0, :, 2] = 1  # one key
  weights[1] = 1 / 5  # all
  weights[2, 0, 0], weights[2, 1, :3] = 1, 1 / 3
  np.testing.assert_allclose(maps.width(weights), [1, 5, 2])


def test_likeness_of_the_same_of_others_and_of_the_rest():
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.ones(7), 5)  # [T, S]
  left, right = np.eye(7)[[0, 1, 0, 1, 0]], np.eye(7)[[2, 3, 4, 5, 6]]
  found = maps.likeness(np.stack([p, p, left, right]))
  np.testing.assert_allclose(found, found.T)
  np.testing.assert_allclose(np.diag(found), 1)
  np.testing.assert_allclose([found[0, 1], found[2, 3]], [1, 0], atol=1e-12)
  assert 0 < found[0, 2] < 1


def test_likeness_leaves_out_who_sees_one_key():
  """The first query of a causal layer is alike whatever the heads do."""
  weights = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 1]]], float)
  np.testing.assert_allclose(maps.likeness(weights), np.eye(2), atol=1e-12)
  alone = np.ones((2, 1, 1))
  np.testing.assert_allclose(maps.likeness(alone), 1)
