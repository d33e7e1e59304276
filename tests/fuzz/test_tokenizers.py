# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files from elsewhere work, or are refused in one line."""

import json

from hypothesis import given
from hypothesis import strategies as st
import pytest
import tokenizers

from collab.data import tokenizer, tokenizer_training
from tests.convert.checkpoints import WORDS
from tests.fuzz.damage import Refused, fuzz, json_files, outcome


def of_bert():
  """Words, with BERT's special tokens and rules of several kinds."""
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
  model = tokenizers.models.WordPiece(
    {word: i for i, word in enumerate(words)}, unk_token='[UNK]'
  )
  rules = tokenizers.Tokenizer(model)
  rules.normalizer = tokenizers.normalizers.BertNormalizer()
  rules.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  rules.decoder = tokenizers.decoders.WordPiece()
  rules.add_special_tokens(['[CLS]', '[SEP]', '[PAD]', '[MASK]'])
  rules.post_processor = tokenizers.processors.BertProcessing(
    ('[SEP]', 3), ('[CLS]', 2)
  )
  return json.loads(rules.to_str())


def of_ours(folder, kind):
  path = folder / f'{kind}.json'
  tokenizer_training.train(
    ['eins zwei <eos>', 'two 2 <unk> 3'], 270, path, kind
  )
  return json.loads(path.read_text())


TEXTS = ['one two', '', 'schön <eos> 12', '[SEP] \0 \U0001f600']


@pytest.mark.parametrize('kind', ['bert', *tokenizer_training.KINDS])
@fuzz(120)
@given(st.data())
def test_tokenizer(kind, tmp_path_factory, data):
  folder = tmp_path_factory.getbasetemp()
  if kind not in MADE:
    MADE[kind] = of_bert() if kind == 'bert' else of_ours(folder, kind)
  path = folder / 'other.json'
  path.write_bytes(data.draw(json_files(MADE[kind])))
  found = outcome(tokenizer.load, path)
  if isinstance(found, Refused):
    assert str(path) in found
    return
  encoded = outcome(found.encode_batch, TEXTS)
  if isinstance(encoded, Refused):
    return
  for ids in encoded:
    assert all(0 <= i < found.vocab_size for i in ids)
    assert isinstance(found.decode(ids), str)
  found.encode_with_offsets(TEXTS)


MADE = {}
