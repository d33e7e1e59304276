# SPDX-License-Identifier: Apache-2.0
"""Metrics of generated texts, by sacreBLEU."""

import re


def bleu_metric(language='', **options):
  """sacreBLEU's BLEU, with the tokenizer that it has for a language.

  That is zh, ja-mecab and ko-mecab for Chinese, Japanese and Korean, in which
  13a would find sentences of one word; 13a for all others.

  Args:
    language: of the texts, e.g. 'de', 'zh-CN', 'jpn_Jpan'; '' for 13a.
    **options: fields of sacrebleu.metrics.BLEU.

  Raises:
    ValueError: the tokenizer needs a package that is not installed.
  """
  from babel.core import get_global
  from sacrebleu.metrics import BLEU  # only who scores text waits for it

  code = re.split('[-_]', language.lower())[0]
  code = get_global('language_aliases').get(code, code)
  try:
    return BLEU(trg_lang=code, **options)
  except RuntimeError as e:
    raise ValueError(
      f'BLEU of the language {language!r}: {" ".join(str(e).split())}'
    ) from e


def bleu(hypotheses, references, language='', *, effective_order=False):
  """BLEU = 100 BP exp(mean_n log p_n), n = 1..4, of a corpus, by sacreBLEU.

  Post, 2018. Tokenised by sacreBLEU, so the texts must be detokenised.

  Args:
    hypotheses: list of str.
    references: list of str, as many.
    language: of the texts, see `bleu_metric`.
    effective_order: leave out the n for which no hypothesis is long enough.
      Otherwise texts of at most three words score 0 even when all are right.

  Returns:
    dict: score, signature (belongs into every result), precisions (a list, in
    percent), brevity_penalty, length_ratio, sentences.

  Raises:
    ValueError: no texts, or not as many references; or as `bleu_metric`.
  """
  _check_texts(hypotheses, references)
  metric = bleu_metric(language, effective_order=effective_order)
  result = metric.corpus_score(hypotheses, [references])
  return dict(
    score=result.score,
    signature=str(metric.get_signature()),
    precisions=result.precisions,
    brevity_penalty=result.bp,
    length_ratio=result.ratio,
    sentences=len(hypotheses),
  )


def bleu_counts(hypotheses, references, language=''):
  """What each sentence adds to `bleu`, so that any of them can be scored again.

  Arguments and errors as `bleu`.

  Returns:
    A list of [our length, the reference's, matching 1- to 4-grams, our 1- to
    4-grams], ten ints, for each sentence: no text comes back from them.
  """
  _check_texts(hypotheses, references)
  score = bleu_metric(language, effective_order=True).sentence_score
  found = map(score, hypotheses, ([x] for x in references))
  return [[x.sys_len, x.ref_len, *x.counts, *x.totals] for x in found]


def bleu_of_counts(counts):
  """`bleu`'s score of the sum of rows of `bleu_counts`: ten numbers."""
  from sacrebleu.metrics import BLEU

  ours, reference, *grams = map(int, counts)
  return BLEU.compute_bleu(
    grams[:4], grams[4:], ours, reference, smooth_method='exp'
  ).score


def chrf(hypotheses, references):
  """chrF2 = 5 P R / (4 P + R) of character 1- to 6-grams, by sacreBLEU.

  Popović, 2015. Arguments and errors as `bleu`.

  Returns:
    dict: score (0 to 100), signature, sentences.
  """
  from sacrebleu.metrics import CHRF

  _check_texts(hypotheses, references)
  metric = CHRF()
  score = metric.corpus_score(hypotheses, [references]).score
  signature = str(metric.get_signature())
  return dict(score=score, signature=signature, sentences=len(hypotheses))


def bleu_by(categories, hypotheses, references, language=''):
  """`bleu` of each category alone, with effective_order (see the signature).

  Args:
    categories: list of str, as many as hypotheses.
    hypotheses: list of str.
    references: list of str.
    language: see `bleu_metric`.

  Returns:
    dict from category, sorted, to the result of `bleu`.
  """
  _check_texts(hypotheses, references)
  if isinstance(categories, str) or len(categories) != len(hypotheses):
    raise ValueError(
      f'categories must be a list of {len(hypotheses)}, one a hypothesis, got '
      f'{type(categories).__name__} of {len(categories)}.'
    )
  groups = {category: ([], []) for category in sorted(set(categories))}
  for category, *pair in zip(categories, hypotheses, references, strict=True):
    for texts, text in zip(groups[category], pair, strict=True):
      texts.append(text)
  return {
    c: bleu(*pair, language, effective_order=True) for c, pair in groups.items()
  }


def _check_texts(hypotheses, references):
  for name, texts in dict(hypotheses=hypotheses, references=references).items():
    items = [texts] if isinstance(texts, str) else texts
    wrong = [x for x in items if x is texts or not isinstance(x, str)]
    if wrong:
      kind = type(wrong[0]).__name__
      raise ValueError(f'{name} must be a list of str, got {kind}.')
  if not hypotheses or len(hypotheses) != len(references):
    raise ValueError(
      f'There must be as many hypotheses as references, and some; got '
      f'{len(hypotheses)} and {len(references)}.'
    )
