# SPDX-License-Identifier: Apache-2.0
"""Text comes back whole; files are reproducible and never half there."""

import json
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from collab.data import tokenizer, tokenizer_training

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
  return tokenizer_training.train(iter(LINES), 300, path)


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
  again = tokenizer_training.train(iter(LINES), 300, tmp_path / 'again.json')
  assert (tmp_path / 'again.json').read_bytes() == path.read_bytes()
  loaded = tokenizer.load(path)
  assert loaded.fingerprint == tok.fingerprint == again.fingerprint
  assert loaded.encode_batch(LINES) == tok.encode_batch(LINES)
  assert loaded.decode(loaded.encode(' <bos> ')) == ' <bos> '
  assert [p.name for p in path.parent.iterdir()] == ['tokenizer.json']
  other = tokenizer_training.train(iter(LINES), 270, tmp_path / 'other.json')
  assert other.fingerprint != tok.fingerprint
  assert other.vocab_size == 270


SPECIAL_TEXTS = [
  ['the <unk> cat sat', 'the <unk> dog sat on a mat'] * 3,  # as PTB
  ['the <eos> cat', '<pad> <bos> the cat <mask> <unk><unk>', '<unk>'],
  ['the cat sat', 'the dog sat on a mat'],
]


@pytest.mark.parametrize('lines', SPECIAL_TEXTS)
def test_words_that_look_like_special_tokens_are_unknown(lines, tmp_path):
  tok = tokenizer_training.train(iter(lines), 300, tmp_path / 'w.json', 'words')
  plain = {word for line in lines for word in line.split()}
  plain -= set(tokenizer.SPECIAL)
  assert tok.vocab_size == len(tokenizer.SPECIAL) + len(plain)
  ids = [i for word in plain for i in tok.encode(word)]
  assert sorted(ids) == list(range(5, tok.vocab_size))
  the = tok.encode('the')
  assert tok.encode('the <unk> the') == [*the, tokenizer.UNK, *the]
  assert tok.encode(' '.join(tokenizer.SPECIAL)) == [tokenizer.UNK] * 5
  ((ids, places),) = tok.encode_with_offsets(['<eos> the'])
  assert ids == [tokenizer.UNK, *the]
  assert places.tolist() == [[0, 5], [6, 9]]
  again = tokenizer.load(tmp_path / 'w.json')
  assert again.encode_batch(lines) == tok.encode_batch(lines)


@settings(max_examples=50, deadline=None)
@given(
  st.lists(
    st.lists(
      st.sampled_from([*tokenizer.SPECIAL, 'the', '<', 'a<eos>', 'é'])
    ).map(' '.join),
    min_size=1,
  ),
  st.sampled_from(list(tokenizer_training.KINDS)),
)
def test_no_text_has_ids_of_special_tokens(tmp_path_factory, lines, kind):
  path = tmp_path_factory.mktemp('special') / 'tokenizer.json'
  tok = tokenizer_training.train(iter(lines), 300, path, kind)
  assert tokenizer.load(path).vocab_size == tok.vocab_size <= 300
  never = {tok.pad_id, tok.bos_id, tok.eos_id, tok.mask_id}
  for line, ids in zip(lines, tok.encode_batch(lines), strict=True):
    assert never.isdisjoint(ids)
    assert max(ids, default=0) < tok.vocab_size
    if kind == 'bpe':
      assert tokenizer.UNK not in ids
      assert tok.decode(ids) == line


def test_unbroken_text_is_learnt_in_pieces(tmp_path):
  """Not in time that grows with the square of its length."""
  rng = np.random.default_rng(0)
  letters = np.frombuffer(b'abcdefghijklmnopqrstuvwxyz', np.uint8)
  lines = [rng.choice(letters, 30_000).tobytes().decode() for _ in range(2)]
  begin = time.process_time()
  tok = tokenizer_training.train(
    [*lines, ' ' * 100_000], 4000, tmp_path / 'x.json'
  )
  assert time.process_time() - begin < 20  # a minute and more of whole lines
  assert tok.vocab_size == 4000
  assert tok.decode(tok.encode(lines[0])) == lines[0]


@given(st.text(st.sampled_from('ab \u3000é'), max_size=2000), st.integers(1, 9))
def test_pieces_of_a_line_are_the_line(text, times):
  pieces = tokenizer_training._broken(text * times)
  assert ''.join(pieces) == ' ' + text * times
  for piece in pieces:
    assert max(map(len, piece.split()), default=0) <= tokenizer_training.LONGEST
  if all(len(word) < 100 for word in text.split()) and '   ' not in text:
    assert times > 1 or len(pieces) == 1


def test_impossible_training(tmp_path):
  with pytest.raises(ValueError, match=r'data\.vocab_size=260.*at least 261'):
    tokenizer_training.train(iter(LINES), 260, tmp_path / 't.json')
  with pytest.raises(ValueError, match='no lines'):
    tokenizer_training.train(iter([]), 300, tmp_path / 't.json')
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'Cannot write.*file'):
    tokenizer_training.train(iter(LINES), 300, tmp_path / 'file' / 't.json')
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


def word_pieces(unknown, path):
  """A tokenizer of whole words whose special tokens are words as well."""
  special = ['[PAD]', '[CLS]', '[SEP]', '[MASK]', unknown]
  words = [*special, 'Paris']
  rules = tokenizers.Tokenizer(
    models.WordLevel({w: i for i, w in enumerate(words)}, unknown)
  )
  rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  rules.add_special_tokens(special)
  path.write_text(rules.to_str(), 'utf-8')
  return tokenizer.load(path)


def test_special_tokens_of_elsewhere_in_text(tmp_path):
  tok = word_pieces('[UNK]', tmp_path / 't.json')
  assert tok.encode('[CLS] Paris [SEP] [UNK]') == [4, 5, 4, 4]


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
    llama3=['<|begin_of_text|>', '<|end_of_text|>'],
    mistral=['<s>', '<unk>', '</s>'],
    nemo=['<s>', '<unk>', '</s>', '[INST]', '<pad>'],
    marian=['<pad>', '<unk>', '</s>'],
    gemma=['<bos>', '<pad>', '<eos>', '<unk>', '<mask>', '<start_of_turn>']
    + ['<s>', '</s>'],  # tags of HTML
  )[kind]
  words = ['Paris', 'is', 'far', '##a', 'Ġ']
  vocabulary = {word: i for i, word in enumerate([*special, *words])}
  rules = tokenizers.Tokenizer(
    models.WordPiece(vocabulary, unk_token=special[min(1, len(special) - 1)])
  )
  rules.pre_tokenizer = pre_tokenizers.Whitespace()
  rules.add_special_tokens(special)
  bos, eos = special[2 if kind == 'bert' else 0], special[-1]
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
    (
      'llama3',
      ('<|end_of_text|>', '<|begin_of_text|>', '<|end_of_text|>', None),
      1,
    ),
    ('mistral', ('</s>', '<s>', '</s>', None), 2),
    ('nemo', ('<pad>', '<s>', '</s>', None), 2),
    ('marian', ('<pad>', '<pad>', '</s>', None), 1),
    ('gemma', ('<pad>', '<bos>', '<eos>', None), 1),
  ],
)
def test_tokenizers_of_elsewhere(kind, names, separators, tmp_path):
  vocabulary = elsewhere(kind, tmp_path / 'tokenizer.json')
  tok = tokenizer.load(tmp_path / 'tokenizer.json')
  got = (tok.pad_id, tok.bos_id, tok.eos_id, tok.mask_id)
  assert got == tuple(vocabulary.get(name) for name in names)
  assert tok.between == (tok.eos_id,) * separators
  assert not tok.ours
  assert tok.start_id == tok.bos_id
  # Neither cut nor padded, and nothing special goes around.
  ids = tok.encode('Paris is far')
  assert ids == [vocabulary[word] for word in ('Paris', 'is', 'far')]
  ((two, places),) = tok.encode_with_offsets(['Paris is'])
  assert two == ids[:2]
  assert places.tolist() == [[0, 5], [6, 8]]
  assert tok.decode([tok.bos_id, ids[0], tok.eos_id]) == 'Paris'
  assert tok.vocab_size == len(vocabulary)


def test_a_vocabulary_without_its_unknown_token(tmp_path):
  """The library finds out at the first unknown word, with a bare Exception."""
  vocab = {'[PAD]': 0, '[CLS]': 1, '[SEP]': 2, '[MASK]': 3, 'one': 4}
  rules = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(vocab, unk_token='[UNK]')
  )
  rules.add_special_tokens(['[UNK]'])
  path = tmp_path / 'tokenizer.json'
  rules.save(str(path))
  with pytest.raises(ValueError, match=r"lacks its unknown token '\[UNK\]'"):
    tokenizer.load(path)
