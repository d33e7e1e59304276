# SPDX-License-Identifier: Apache-2.0
"""Text comes back whole; files are reproducible and never half there."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from collab.data import tokenizer

LINES = [
  'Thursday, July 4, 2024',
  'Donnerstag, 4. Juli 2024',
  '1,234.50 US dollars',
  '1.234,50 US-Dollar',
] * 5


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return tmp_path_factory.mktemp('tokenizer') / 'deeper' / 'tokenizer.json'


@pytest.fixture(scope='module')
def tok(path):
  return tokenizer.train(iter(LINES), 300, path)


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(tok, text):
  ids = tok.encode(text)
  assert tok.decode(ids) == text
  assert all(4 <= i < tok.vocab_size for i in ids)


@pytest.mark.parametrize(
  'text',
  ['', ' ', '  a', 'a ', '<eos><pad>', '\x00\t\n', 'ß½€', '\u2028', '👩‍🚀'],
)
def test_awkward_text_comes_back(tok, text):
  assert tok.decode(tok.encode(text)) == text


def test_digits_are_single(tok):
  digits = tok.encode('2024')[1:]  # the first is the space
  assert len(digits) == 4
  assert digits[0] == digits[2] != digits[1]
  assert tok.encode('x2024')[-4:] == digits


def test_a_word_is_the_same_everywhere(tok):
  ids = tok.encode('dollars')
  assert tok.encode('US dollars')[-len(ids) :] == ids


def test_decode_leaves_out_special_ids_and_never_fails(tok):
  ids = tok.encode('July')
  assert tok.decode([tok.bos_id, *ids, tok.eos_id, tok.pad_id]) == 'July'
  assert isinstance(tok.decode(range(tok.vocab_size)), str)
  assert (tok.pad_id, tok.bos_id, tok.eos_id) == (0, 1, 2)


def test_batches_are_the_single_ones(tok):
  assert tok.encode_batch(LINES) == [tok.encode(line) for line in LINES]
  assert tok.encode_batch([]) == []


def test_training_is_reproducible_and_loads(tok, path, tmp_path):
  again = tokenizer.train(iter(LINES), 300, tmp_path / 'again.json')
  assert (tmp_path / 'again.json').read_bytes() == path.read_bytes()
  loaded = tokenizer.load(path)
  assert loaded.fingerprint == tok.fingerprint == again.fingerprint
  assert loaded.encode_batch(LINES) == tok.encode_batch(LINES)
  assert loaded.decode(loaded.encode(' <bos> ')) == ' <bos> '
  assert [p.name for p in path.parent.iterdir()] == ['tokenizer.json']
  other = tokenizer.train(iter(LINES), 270, tmp_path / 'other.json')
  assert other.fingerprint != tok.fingerprint
  assert other.vocab_size == 270


def test_impossible_training(tmp_path):
  with pytest.raises(ValueError, match=r'vocab_size is 260.*at least 261'):
    tokenizer.train(iter(LINES), 260, tmp_path / 't.json')
  with pytest.raises(ValueError, match='no lines'):
    tokenizer.train(iter([]), 300, tmp_path / 't.json')
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'Cannot write.*file'):
    tokenizer.train(iter(LINES), 300, tmp_path / 'file' / 't.json')
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def damage_cut(text):
  return text[: len(text) // 2]


def damage_special(text):
  return text.replace('<eos>', '<end>')


def damage_hole(text):
  rules = json.loads(text)
  rules['model']['vocab']['e!'] = 1000
  return json.dumps(rules)


@pytest.mark.parametrize(
  'damage', [damage_cut, damage_special, damage_hole, lambda text: '{}']
)
def test_damaged_file(tok, path, tmp_path, damage):
  file = tmp_path / 'damaged.json'
  file.write_text(damage(path.read_text('utf-8')), 'utf-8')
  with pytest.raises(ValueError, match=r'damaged\.json') as error:
    tokenizer.load(file)
  assert '\n' not in str(error.value)


def test_missing_file(tmp_path):
  with pytest.raises(ValueError, match='no tokenizer file'):
    tokenizer.load(tmp_path / 'none.json')
  (tmp_path / 'binary').write_bytes(b'\xff\xfe')
  with pytest.raises(ValueError, match='damaged'):
    tokenizer.load(tmp_path / 'binary')


@given(text=st.text(max_size=30))
def test_offsets(text, tok):
  """They cover the text in order; each token is a part of what it points to."""
  ((ids, places),) = tok.encode_with_offsets([text])
  assert ids == tok.encode(text)
  reached = 0
  for start, end in places:
    assert 0 <= start <= end <= len(text)
    assert start <= reached
    reached = max(reached, end)
  assert reached == len(text)


def elsewhere(kind, path):
  """A tokenizer file as BERT's, RoBERTa's or GPT-2's checkpoints have it."""
  special = dict(
    bert=['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'],
    roberta=['<s>', '<pad>', '</s>', '<unk>', '<mask>'],
    gpt2=['<|endoftext|>'],
  )[kind]
  words = ['Paris', 'is', 'far', '##a', 'Ġ']
  vocabulary = {word: i for i, word in enumerate([*special, *words])}
  rules = tokenizers.Tokenizer(
    models.WordPiece(vocabulary, unk_token=special[min(1, len(special) - 1)])
  )
  rules.pre_tokenizer = pre_tokenizers.Whitespace()
  rules.add_special_tokens(special)
  bos, eos = special[0 if kind == 'roberta' else 2 % len(special)], special[-1]
  rules.post_processor = processors.TemplateProcessing(
    f'{bos} $A {eos}', special_tokens=[(x, vocabulary[x]) for x in (bos, eos)]
  )
  rules.enable_padding(length=7)
  rules.enable_truncation(2)
  path.write_text(rules.to_str(), 'utf-8')
  return vocabulary


@pytest.mark.parametrize(
  'kind, names, separators',
  [
    ('bert', ('[PAD]', '[CLS]', '[SEP]', '[MASK]'), 1),
    ('roberta', ('<pad>', '<s>', '</s>', '<mask>'), 2),
    ('gpt2', ('<|endoftext|>',) * 3 + (None,), 1),
  ],
)
def test_tokenizers_of_elsewhere(kind, names, separators, tmp_path):
  vocabulary = elsewhere(kind, tmp_path / 'tokenizer.json')
  tok = tokenizer.load(tmp_path / 'tokenizer.json')
  got = (tok.pad_id, tok.bos_id, tok.eos_id, tok.mask_id)
  assert got == tuple(vocabulary.get(name) for name in names)
  assert tok.between == (tok.eos_id,) * separators
  assert not tok.ours
  # Neither cut nor padded, and nothing special goes around.
  ids = tok.encode('Paris is far')
  assert ids == [vocabulary[word] for word in ('Paris', 'is', 'far')]
  assert tok.encode_with_offsets(['Paris is']) == [(ids[:2], [(0, 5), (6, 8)])]
  assert tok.decode([tok.bos_id, ids[0], tok.eos_id]) == 'Paris'
  assert tok.vocab_size == len(vocabulary)
