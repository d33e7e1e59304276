# SPDX-License-Identifier: Apache-2.0
"""Marian's tokenizer of its own files, beside the package and Transformers."""

import importlib.util
import json
import warnings

import pytest

from collab.data import sentencepieces
from collab.data.sentencepieces import SentencePieces
from tests import tiny

spm = pytest.importorskip('sentencepiece', reason='needs the [convert] extra')
TEXTS = 'one two', '', 'seven  eightt ☃', 'x</s> <unk>y', 'Ⅷ ﬁve'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return write(tmp_path_factory.mktemp('marian'))


def write(folder, most=None):
  """Small models of both languages, and one vocabulary that lacks a piece."""
  pieces = {}
  for name, words in zip(
    ('source', 'target'), tiny.WORDS.values(), strict=True
  ):
    trainer = dict(vocab_size=40, hard_vocab_limit=False, minloglevel=2)
    text = iter([words, *words.split()] * 5)
    with open(folder / f'{name}.spm', 'wb') as file:
      spm.SentencePieceTrainer.Train(
        sentence_iterator=text, model_writer=file, **trainer
      )
    rules = spm.SentencePieceProcessor(str(folder / f'{name}.spm'))
    every = [rules.IdToPiece(i) for i in range(3, len(rules))]
    pieces |= dict.fromkeys(every[:-1])
  names = ['</s>', '<unk>', *list(pieces)[:most], '>>de<<', '<pad>']
  vocabulary = {piece: i for i, piece in enumerate(names)}
  (folder / 'vocab.json').write_text(json.dumps(vocabulary))
  return folder


def read(folder):
  return {x: (folder / x).read_bytes() for x in sentencepieces.FILES}


def test_ids_are_those_of_the_pieces(folder):
  words = SentencePieces(read(folder), folder)
  known = json.loads((folder / 'vocab.json').read_text())
  for name, encode in (
    ('source', words.encode_batch),
    ('target', words.encode_targets),
  ):
    rules = spm.SentencePieceProcessor(str(folder / f'{name}.spm'))
    for text, ids in zip(TEXTS, encode(TEXTS), strict=True):
      pieces = rules.EncodeAsPieces(text)
      assert ids == [known.get(x, known['<unk>']) for x in pieces]
      assert words.special.isdisjoint(ids) or ids.count(known['<unk>'])
  assert words.bos_id == words.pad_id == words.vocab_size - 1


def test_translations_come_back(folder):
  words = SentencePieces(read(folder), folder)
  (ids,) = words.encode_targets(['drei vier fünf'])
  assert words.decode([words.pad_id, *ids, words.eos_id]) == 'drei vier fünf'
  assert words.decode([]) == ''


def test_the_language_to_translate_to(folder):
  words = SentencePieces(read(folder), folder)
  first, *rest = words.encode_batch(['>>de<< one'])[0]
  assert words.pieces([first]) == ['>>de<<']
  assert rest == words.encode_batch(['one'])[0]


def damage(name, content):
  return lambda files: files | {name: content}


@pytest.mark.parametrize(
  'change, words',
  [
    (damage('source.spm', b'no'), r'source\.spm is damaged: '),
    (
      damage('vocab.json', b'{"</s>": 0}'),
      r'vocab\.json is damaged: .*<pad>',
    ),
    (
      damage('vocab.json', b'{"</s>": 0, "<pad>": 1, "<unk>": 7}'),
      r'vocab\.json is damaged: its ids are not 0, 1, 2',
    ),
  ],
)
def test_damaged_files(change, words, folder):
  with pytest.raises(ValueError, match=words) as info:
    SentencePieces(change(read(folder)), folder)
  assert '\n' not in str(info.value)


@pytest.mark.skipif(
  not importlib.util.find_spec('transformers'), reason='needs [parity]'
)
def test_transformers_makes_the_same_of_it(folder):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from transformers import MarianTokenizer

    theirs = MarianTokenizer.from_pretrained(folder)
    words = SentencePieces(read(folder), folder)
    texts = [x for x in TEXTS if '</s>' not in x]  # which Transformers obeys
    want = [x[:-1] for x in theirs(texts)['input_ids']]
    assert words.encode_batch(texts) == want
    want = [x[:-1] for x in theirs(text_target=texts)['input_ids']]
    assert words.encode_targets(texts) == want
    for ids in want:
      assert words.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
