# SPDX-License-Identifier: Apache-2.0
"""BLEU and chrF are those of sacreBLEU; wrong texts are refused."""

import numpy as np
import pytest
import sacrebleu

from collab.metrics import bleu

REFERENCES = [
  'The quick brown fox jumps over the lazy dog.',
  'Am 3. Mai 2021 kostete es 12,50 €.',
  'Deutschland',
]
HYPOTHESES = [
  'The quick brown fox jumped over the lazy dog.',
  'Am 3. Mai 2021 kostet es 12,50 €.',
  'Deutschland',
]


def test_bleu_is_that_of_sacrebleu_with_its_signature():
  got = bleu.scores(HYPOTHESES, REFERENCES)
  want = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
  assert got['score'] == want.score
  assert 0 < got['score'] < 100
  assert got['signature'] == (
    'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|'
    f'version:{sacrebleu.__version__}'
  )
  assert got['precisions'] == want.precisions
  assert got['brevity_penalty'] == want.bp
  assert bleu.scores(REFERENCES, REFERENCES)['score'] == pytest.approx(100)
  assert bleu.scores(['', '', ''], REFERENCES)['score'] == 0


def test_bleu_of_counts_is_that_of_the_texts():
  counts = np.array(bleu.counts(HYPOTHESES, REFERENCES))
  for rows in ([0, 1, 2], [1], [2, 0, 0, 1]):
    texts = ([x[i] for i in rows] for x in (HYPOTHESES, REFERENCES))
    want = bleu.scores(*texts)['score']
    assert bleu.of_counts(counts[rows].sum(0)) == want
  assert bleu.of_counts(np.zeros(10)) == 0


CHINESE = [
  '今天天气很好,我们去公园散步。',
  '他昨天买了三本新书。',
  '这家饭馆的菜非常好吃。',
  '火车八点半从上海出发。',
  '她正在学习弹钢琴。',
]
TRANSLATED = [
  '今天天气很好,我们去公园玩。',
  '他昨天买了三本书。',
  '这家饭馆的菜很好吃。',
  '火车八点半离开上海。',
  '她在学习弹钢琴。',
]


@pytest.mark.parametrize('language', ['zh', 'ZH', 'zh-CN', 'zho_Hans', 'cmn'])
def test_bleu_takes_the_tokenizer_of_the_language(language):
  want = sacrebleu.corpus_bleu(TRANSLATED, [CHINESE], tokenize='zh').score
  assert bleu.scores(TRANSLATED, CHINESE)['score'] < 1 < 50 < want
  got = bleu.scores(TRANSLATED, CHINESE, language)
  assert got['score'] == want
  assert '|tok:zh|' in got['signature']
  counts = np.array(bleu.counts(TRANSLATED, CHINESE, language))
  assert bleu.of_counts(counts.sum(0)) == want
  by = bleu.by_category(list('aabbb'), TRANSLATED, CHINESE, language)
  assert [x['score'] > 30 for x in by.values()] == [True, True]
  assert all('|tok:zh|' in x['signature'] for x in by.values())


@pytest.mark.parametrize('language', ['', 'de', 'target', 'pt_BR'])
def test_bleu_of_other_languages_is_13a(language):
  got = bleu.scores(HYPOTHESES, REFERENCES, language)
  assert got == bleu.scores(HYPOTHESES, REFERENCES)


@pytest.mark.parametrize('language', ['ja', 'ko', 'jpn_Jpan', 'ko-KR'])
def test_bleu_without_the_package_of_a_language(language, monkeypatch):
  """One line that says what to install, and no other tokenizer instead."""
  code = {'j': 'ja', 'k': 'ko'}[language[0]]
  module = f'sacrebleu.tokenizers.tokenizer_{code}_mecab'
  monkeypatch.setattr(f'{module}.MeCab', None)
  for score in bleu.scores, bleu.counts:
    with pytest.raises(ValueError, match=rf'{language}.*sacrebleu\[') as info:
      score(['a'], ['a'], language)
    assert '\n' not in str(info.value)


def test_chrf_is_that_of_sacrebleu():
  want = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
  assert bleu.chrf(HYPOTHESES, REFERENCES) == want
  assert bleu.chrf(REFERENCES, REFERENCES) == pytest.approx(100)


def test_bleu_by_category_scores_short_texts_too():
  got = bleu.by_category(['text', 'text', 'name'], HYPOTHESES, REFERENCES)
  assert list(got) == ['name', 'text']
  assert got['name']['score'] == pytest.approx(100)
  assert bleu.scores(HYPOTHESES[2:], REFERENCES[2:])['score'] == 0
  assert '|eff:yes|' in got['name']['signature']
  want = bleu.scores(HYPOTHESES[:2], REFERENCES[:2])['score']
  assert got['text']['score'] == pytest.approx(want)


@pytest.mark.parametrize(
  'hypotheses, references, message',
  [
    ([], [], 'and some; got 0 and 0'),
    (['a'], ['a', 'b'], 'got 1 and 2'),
  ],
)
def test_wrong_texts(hypotheses, references, message):
  for score in bleu.scores, bleu.chrf:
    with pytest.raises(ValueError, match=message):
      score(hypotheses, references)
  with pytest.raises(ValueError, match=message):
    bleu.by_category(['x'], hypotheses, references)


def test_a_category_for_each():
  with pytest.raises(ValueError, match='zip'):
    bleu.by_category(['x', 'y'], ['a'], ['a'])
