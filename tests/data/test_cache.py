# SPDX-License-Identifier: Apache-2.0
"""A cache is made once, and is whole or not used."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest

from collab.data import cache, pipeline, tokenizer_training
from collab.data.readers import sources
from tests import tiny


@pytest.fixture(scope='module')
def tok(tmp_path_factory):
  lines = [line for pair in sources.sample().pairs('val') for line in pair]
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  return tokenizer_training.train(lines, 400, path)


def unused(corpus):
  def rows():
    raise AssertionError('the corpus is read, not the cache')

  return corpus._replace(readers={'val': rows})


def same(a, b):
  return all(
    (x.tokens == y.tokens).all() and (x.offsets == y.offsets).all()
    for x, y in zip(a[:2], b[:2], strict=True)
  )


def test_cache_is_made_once(tok, tmp_path):
  corpus = sources.sample()
  made = cache.tokenized(corpus, 'val', tok, tmp_path / 'new' / 'folder')
  read = cache.tokenized(
    unused(corpus), 'val', tok, tmp_path / 'new' / 'folder'
  )
  assert len(made) == 500
  assert same(made, read)
  for side, texts in zip(
    made, zip(*corpus.pairs('val'), strict=True), strict=False
  ):
    ids = tok.encode_batch(texts)
    np.testing.assert_array_equal(side.tokens, np.concatenate(ids))
    np.testing.assert_array_equal(side.lengths, [len(x) for x in ids])
  assert made.info == read.info == json.loads(json.dumps(corpus.describe()))
  source, target = next(corpus.pairs('val'))
  assert tok.decode(made.source.tokens[: made.source.offsets[1]]) == source
  assert tok.decode(made.target.tokens[: made.target.offsets[1]]) == target


def test_cache_belongs_to_text_and_tokenizer(tok, tmp_path):
  corpus = sources.sample()
  cache.tokenized(corpus, 'val', tok, tmp_path)
  other = corpus._replace(
    fingerprint='other', readers={'val': lambda: iter([('a', 'b', '')])}
  )
  assert len(cache.tokenized(other, 'val', tok, tmp_path)) == 1
  smaller = tokenizer_training.train(['some text'], 265, tmp_path / 't.json')
  cache.tokenized(corpus, 'val', smaller, tmp_path)
  assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 3


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def cut(file):
  file.write_bytes(file.read_bytes()[:-2])


@pytest.mark.parametrize('damage', [flip, cut, lambda file: file.unlink()])
@pytest.mark.parametrize(
  'name',
  ['source.tokens', 'target.tokens', 'source.offsets', 'content.json'],
)
def test_damaged_cache_is_made_anew(tok, tmp_path, name, damage, capsys):
  corpus = sources.sample()
  good = cache.tokenized(corpus, 'val', tok, tmp_path / 'good')
  cache.tokenized(corpus, 'val', tok, tmp_path / 'bad')
  (place,) = (tmp_path / 'bad').iterdir()
  damage(place / name)
  again = cache.tokenized(corpus, 'val', tok, tmp_path / 'bad')
  assert same(again, good)
  (line,) = capsys.readouterr().out.splitlines()
  assert str(place) in line
  assert 'making it anew' in line
  assert list((tmp_path / 'bad').iterdir()) == [place]
  cache.tokenized(unused(corpus), 'val', tok, tmp_path / 'bad')
  assert not capsys.readouterr().out


def test_full_disk_leaves_no_cache(tok, tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    with pytest.raises(ValueError, match='Cannot write the cache'):
      cache.tokenized(sources.sample(), 'val', tok, tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from collab.data import cache, tokenizer
from collab.data.readers import sources
def rows():
  yield 'a', 'b', ''
  os.kill(os.getpid(), signal.SIGKILL)
corpus = sources.sample()._replace(readers=dict(val=rows))
tok = tokenizer.load(sys.argv[1] + '/tokenizer.json')
cache.tokenized(corpus, 'val', tok, sys.argv[1])
"""


def test_a_killed_process_leaves_nothing_for_long(tmp_path):
  tok = tokenizer_training.train(
    ['some text'], 265, tmp_path / 'tokenizer.json'
  )
  command = [sys.executable, '-c', KILLED, str(tmp_path)]
  assert subprocess.run(command, cwd=tiny.ROOT).returncode == -9
  (left,) = {*tmp_path.iterdir()} - {tmp_path / 'tokenizer.json'}
  cache.tokenized(sources.sample(), 'val', tok, tmp_path)
  assert not left.exists()
  assert len(list(tmp_path.iterdir())) == 2


def test_bad_text_leaves_no_cache(tok, tmp_path):
  data = tmp_path / 'data'
  data.mkdir()
  (data / 'train.tsv').write_bytes(b'a\tb\n' * 10_000 + b'a\n')
  (data / 'dev.tsv').write_bytes(b'\n\n')
  corpus = sources.parallel(data, 'en', 'de')
  with pytest.raises(ValueError, match=r'train\.tsv, line 10001'):
    cache.tokenized(corpus, 'train', tok, tmp_path / 'cache')
  with pytest.raises(ValueError, match='the split val has no pairs'):
    cache.tokenized(corpus, 'val', tok, tmp_path / 'cache')
  with pytest.raises(ValueError, match="no split 'test'"):
    cache.tokenized(corpus, 'test', tok, tmp_path / 'cache')
  assert list((tmp_path / 'cache').iterdir()) == []
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='Cannot write the cache'):
    cache.tokenized(sources.sample(), 'val', tok, tmp_path / 'file')


def test_no_text_is_the_space_before_it(tok, tmp_path):
  """A corpus has no empty sentences, but one who translates may ask."""
  rows = [('', '', ''), ('a', '', '')]
  corpus = sources.sample()._replace(readers=dict(val=lambda: iter(rows)))
  tokenized = cache.tokenized(corpus, 'val', tok, tmp_path)
  batch = pipeline.eval_batch(tokenized, 7, np.arange(2))
  assert [tok.decode(row) for row in batch['source']] == ['', 'a']
